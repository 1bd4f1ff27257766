//! Copies from the host to a device.

use tch::{Device, Kind, Tensor};

use crate::error::ModelError;

/// Numbers on a device. The copy to a GPU is asynchronous, from memory that stays until it is done.
pub(crate) fn upload(numbers: &[i64], device: Device) -> Result<Tensor, ModelError> {
    let numbers = Tensor::f_from_slice(numbers)?;
    if device == Device::Cpu {
        return Ok(numbers);
    }
    Ok(numbers
        .f_pin_memory(device)?
        .f_to_device_(device, Kind::Int64, true, false)?)
}

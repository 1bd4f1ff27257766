//! Safe functions that tch lacks: tensors as slices, which kernels written in Rust read and write in place; libtorch's
//! matrix product on slices ([`gemm`]); operations that a step on a GPU needs ([`torch`], [`graph`]); loading of
//! libtorch's CUDA library ([`cuda`]); and ranks, the processes that train together ([`ranks`]).
//!
//! A [`Tensor`] is a counted reference, so the borrow checker sees the handle and not the memory. The rule for
//! callers is libtorch's own: while a slice of a tensor is alive, no operation may write that memory through another
//! handle. Both functions borrow the handle for the lifetime of the slice, and our callers hold one slice of a buffer
//! at a time.

pub mod cuda;
#[cfg(target_os = "linux")]
mod embedded;
pub mod gemm;
pub mod graph;
pub mod ranks;
pub mod torch;

use tch::{Device, Kind, TchError, Tensor};

/// Reason why a tensor has no slice.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SliceError {
    /// The tensor is not contiguous f32 on the CPU.
    #[error(
        "a tensor of {kind:?} on {device:?}, contiguous: {contiguous}, has no slice: only contiguous f32 on the CPU has"
    )]
    Layout {
        /// Its type.
        kind: Kind,
        /// Its device.
        device: Device,
        /// Whether it is contiguous.
        contiguous: bool,
    },
    /// Error of libtorch when asked for the tensor's properties.
    #[error("libtorch")]
    Torch(#[from] TchError),
}

/// Returns the values of a contiguous f32 tensor on the CPU, all dimensions flattened.
///
/// # Errors
/// If the tensor has another layout.
pub fn slice(tensor: &Tensor) -> Result<&[f32], SliceError> {
    let (pointer, len) = memory(tensor)?;
    if len == 0 {
        return Ok(&[]);
    }
    // SAFETY: the tensor is f32, contiguous and on the CPU, so `len` values lie at `pointer`, aligned and
    // initialised; the borrow of the handle keeps them alive.
    Ok(unsafe { std::slice::from_raw_parts(pointer, len) })
}

/// Returns the values of a contiguous f32 tensor on the CPU for writing, all dimensions flattened.
///
/// # Errors
/// If the tensor has another layout.
pub fn slice_mut(tensor: &mut Tensor) -> Result<&mut [f32], SliceError> {
    let (pointer, len) = memory(tensor)?;
    if len == 0 {
        return Ok(&mut []);
    }
    // SAFETY: as in `slice`; the mutable borrow of the handle excludes other slices of it.
    Ok(unsafe { std::slice::from_raw_parts_mut(pointer, len) })
}

fn memory(tensor: &Tensor) -> Result<(*mut f32, usize), SliceError> {
    let (kind, device, contiguous) = (tensor.f_kind()?, tensor.device(), tensor.is_contiguous());
    if kind != Kind::Float || device != Device::Cpu || !contiguous {
        return Err(SliceError::Layout {
            kind,
            device,
            contiguous,
        });
    }
    Ok((tensor.data_ptr().cast(), tensor.numel()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_is_the_tensors_memory() {
        let mut tensor = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0]).view([2, 2]);
        slice_mut(&mut tensor).unwrap()[2] = 7.0;
        assert_eq!(slice(&tensor).unwrap(), [1.0, 2.0, 7.0, 4.0]);
        assert_eq!(tensor.double_value(&[1, 0]), 7.0);
        assert_eq!(slice(&tensor.narrow(0, 1, 1)).unwrap(), [7.0, 4.0]);
    }

    #[test]
    fn other_layouts_have_none() {
        let tensor = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0]).view([2, 2]);
        let error = slice(&tensor.transpose(0, 1)).unwrap_err().to_string();
        assert!(error.contains("contiguous: false"), "{error}");
        assert!(
            slice(&Tensor::from_slice(&[1i64]))
                .unwrap_err()
                .to_string()
                .contains("Int64")
        );
        assert!(slice(&Tensor::from_slice(&[0.0f32; 0])).unwrap().is_empty());
    }
}

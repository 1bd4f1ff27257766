//! A GPU beside its work: settings, memory, and the speed that it could reach.

use std::time::Instant;

use model::Precision;
use shim::torch::{Memory, allow_tf32, memory as memory_of, set_deterministic};
use tch::{Cuda, Device, Kind, Tensor, no_grad_guard};

use crate::error::TrainError;

/// Sets libtorch's switches for the whole process.
///
/// # Errors
/// libtorch's.
pub(crate) fn configure(tf32: bool, full_determinism: bool) -> Result<(), TrainError> {
    allow_tf32(tf32)?;
    set_deterministic(full_determinism)?;
    Ok(())
}

/// The device's memory that libtorch's allocator holds; `None` on the CPU.
pub(crate) fn memory(device: Device) -> Result<Option<Memory>, TrainError> {
    Ok(match device {
        Device::Cuda(index) => Some(memory_of(index)?),
        _ => None,
    })
}

/// Multiplications and additions a second in products of large square matrices, the best of a few; `None` on the
/// CPU, where it would take too long.
pub(crate) fn matrix_rate(device: Device, precision: Precision) -> Result<Option<f64>, TrainError> {
    let Device::Cuda(index) = device else {
        return Ok(None);
    };
    const SIZE: i64 = 4096;
    let kind = match precision {
        Precision::Fp32 => Kind::Float,
        Precision::Bf16 => Kind::BFloat16,
        Precision::Fp16 => Kind::Half,
    };
    let _guard = no_grad_guard();
    // Random numbers: a chip that computes with zeros draws less power and so runs faster.
    let factor = || Tensor::f_randn([SIZE, SIZE], (Kind::Float, device))?.f_to_kind(kind);
    let (a, b) = (factor()?, factor()?);
    let mut product = a.f_matmul(&b)?;
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        const PRODUCTS: u32 = 4;
        Cuda::synchronize(index as i64);
        let started = Instant::now();
        for _ in 0..PRODUCTS {
            product = a.f_matmul(&b)?;
        }
        Cuda::synchronize(index as i64);
        best = best.min(started.elapsed().as_secs_f64() / f64::from(PRODUCTS));
    }
    drop(product);
    Ok(Some(2.0 * (SIZE as f64).powi(3) / best))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_not_measured() {
        assert_eq!(matrix_rate(Device::Cpu, Precision::Fp32).unwrap(), None);
        assert_eq!(memory(Device::Cpu).unwrap(), None);
    }
}

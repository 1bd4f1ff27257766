//! Functions of libtorch that a training step on a device needs and tch 0.24 lacks. The C++ is `cpp/torch.cpp`.

use std::ffi::{CStr, c_char, c_void};

use tch::{Kind, TchError, Tensor};

unsafe extern "C" {
    pub(crate) fn sentune_free(memory: *mut c_char);
    fn sentune_fused_adamw(
        parameters: *const c_void,
        gradient: *const c_void,
        exp_avg: *const c_void,
        exp_avg_sq: *const c_void,
        step: *const c_void,
        learning_rate: *const c_void,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        eps: f64,
        grad_scale: *const c_void,
        found_inf: *const c_void,
    ) -> *mut c_char;
    fn sentune_amp_update_scale(
        scale: *const c_void,
        growth_tracker: *const c_void,
        found_inf: *const c_void,
        growth_factor: f64,
        backoff_factor: f64,
        growth_interval: i64,
    ) -> *mut c_char;
    fn sentune_allow_tf32(allowed: bool) -> *mut c_char;
    fn sentune_deterministic(deterministic: bool) -> *mut c_char;
    fn sentune_memory(
        device: i8,
        allocated: *mut i64,
        peak: *mut i64,
        reserved: *mut i64,
    ) -> *mut c_char;
    fn sentune_empty_cache() -> *mut c_char;
}

/// Constants of AdamW.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWOptions {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Added to the denominator.
    pub eps: f64,
}

/// Tensors of an update by AdamW, all on one device, in f32. The first four have the same shape, the others hold one
/// number each.
#[derive(Debug, Clone, Copy)]
pub struct AdamWTensors<'a> {
    /// Weights, changed in place.
    pub parameters: &'a Tensor,
    /// Their gradient, divided by `grad_scale` in place.
    pub gradient: &'a Tensor,
    /// First moment, changed in place.
    pub exp_avg: &'a Tensor,
    /// Second moment, changed in place.
    pub exp_avg_sq: &'a Tensor,
    /// Number of this update, counted from one.
    pub step: &'a Tensor,
    /// Learning rate.
    pub learning_rate: &'a Tensor,
    /// Divisor of the gradient.
    pub grad_scale: &'a Tensor,
    /// One if the update is to change nothing, else zero.
    pub found_inf: &'a Tensor,
}

/// Calls `torch._fused_adamw_`: one pass over memory, without synchronisation with the host.
///
/// # Errors
/// Those of libtorch, and if a tensor is not f32, not contiguous or of the wrong size, which libtorch itself does not
/// check.
pub fn fused_adamw(tensors: AdamWTensors<'_>, options: AdamWOptions) -> Result<(), TchError> {
    let (n, device) = (tensors.parameters.numel(), tensors.parameters.device());
    for (name, tensor, numel) in [
        ("parameters", tensors.parameters, n),
        ("gradient", tensors.gradient, n),
        ("exp_avg", tensors.exp_avg, n),
        ("exp_avg_sq", tensors.exp_avg_sq, n),
        ("step", tensors.step, 1),
        ("learning_rate", tensors.learning_rate, 1),
        ("grad_scale", tensors.grad_scale, 1),
        ("found_inf", tensors.found_inf, 1),
    ] {
        let fits = tensor.f_kind()? == Kind::Float
            && tensor.is_contiguous()
            && (tensor.numel(), tensor.device()) == (numel, device);
        if !fits {
            return Err(TchError::Torch(format!(
                "AdamW: {name} is {tensor:?}, and must be {numel} contiguous f32 on {device:?}"
            )));
        }
    }
    let pointer = |tensor: &Tensor| tensor.as_ptr().cast::<c_void>();
    // SAFETY: the pointers are those of tensors that live until the call returns, and point to the at::Tensor behind
    // tch's handles. The function changes tensors in place, as tch's own `f_*_` methods do.
    check(unsafe {
        sentune_fused_adamw(
            pointer(tensors.parameters),
            pointer(tensors.gradient),
            pointer(tensors.exp_avg),
            pointer(tensors.exp_avg_sq),
            pointer(tensors.step),
            pointer(tensors.learning_rate),
            options.beta1,
            options.beta2,
            options.weight_decay,
            options.eps,
            pointer(tensors.grad_scale),
            pointer(tensors.found_inf),
        )
    })
}

/// Calls `torch._amp_update_scale_` with the constants of `torch.amp.GradScaler`: halves `scale` after a step with a
/// gradient that is not finite, and doubles it after 2,000 finite steps in a row. `growth_tracker` counts the latter, in
/// i32.
///
/// # Errors
/// Those of libtorch.
pub fn amp_update_scale(
    scale: &Tensor,
    growth_tracker: &Tensor,
    found_inf: &Tensor,
) -> Result<(), TchError> {
    const GROWTH_FACTOR: f64 = 2.0;
    const BACKOFF_FACTOR: f64 = 0.5;
    const GROWTH_INTERVAL: i64 = 2000;
    // SAFETY: as in `fused_adamw`.
    check(unsafe {
        sentune_amp_update_scale(
            scale.as_ptr().cast(),
            growth_tracker.as_ptr().cast(),
            found_inf.as_ptr().cast(),
            GROWTH_FACTOR,
            BACKOFF_FACTOR,
            GROWTH_INTERVAL,
        )
    })
}

/// Allows or forbids (the default) that products of f32 matrices on a GPU round their operands to 10 bits of mantissa
/// (TF32).
///
/// # Errors
/// Those of libtorch.
pub fn allow_tf32(allowed: bool) -> Result<(), TchError> {
    // SAFETY: it takes no pointer.
    check(unsafe { sentune_allow_tf32(allowed) })
}

/// Makes libtorch choose deterministic algorithms, and refuse operations that have none.
///
/// Call it before anything runs on a GPU: this sets cuBLAS's configuration in the environment unless it is set already,
/// and cuBLAS reads it at first use.
///
/// # Errors
/// Those of libtorch.
pub fn set_deterministic(deterministic: bool) -> Result<(), TchError> {
    // SAFETY: it takes no pointer.
    check(unsafe { sentune_deterministic(deterministic) })
}

/// Memory of a GPU that libtorch uses, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// In tensors now.
    pub allocated: u64,
    /// Peak in tensors.
    pub peak: u64,
    /// Reserved from the driver: in tensors, or cached for later ones.
    pub reserved: u64,
}

/// Returns the memory of a GPU that libtorch's allocator holds.
///
/// # Errors
/// If libtorch has no CUDA.
pub fn memory(device: usize) -> Result<Memory, TchError> {
    let (mut allocated, mut peak, mut reserved) = (0, 0, 0);
    let index = i8::try_from(device)
        .map_err(|_| TchError::Torch(format!("there is no device {device}")))?;
    // SAFETY: the three pointers are valid until the call returns.
    check(unsafe { sentune_memory(index, &mut allocated, &mut peak, &mut reserved) })?;
    let bytes = |n: i64| u64::try_from(n).unwrap_or(0);
    Ok(Memory {
        allocated: bytes(allocated),
        peak: bytes(peak),
        reserved: bytes(reserved),
    })
}

/// Returns memory that libtorch's allocator caches to the driver.
///
/// # Errors
/// If libtorch has no CUDA.
pub fn empty_cache() -> Result<(), TchError> {
    // SAFETY: it takes no pointer.
    check(unsafe { sentune_empty_cache() })
}

/// Converts the return value of one of our C++ functions to a result.
pub(crate) fn check(text: *mut c_char) -> Result<(), TchError> {
    if text.is_null() {
        return Ok(());
    }
    // SAFETY: a text that is not null ends in a zero and is ours to free.
    let message = unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned();
    // SAFETY: the text was made by `strdup`, and is not used any more.
    unsafe { sentune_free(text) };
    Err(TchError::Torch(message))
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    fn number(value: f64) -> Tensor {
        Tensor::from_slice(&[value as f32]).view([])
    }

    /// One update of AdamW by its paper (Loshchilov and Hutter, arXiv 1711.05101, algorithm 2).
    fn expected(
        w: f64,
        g: f64,
        (m, v): (f64, f64),
        step: i32,
        lr: f64,
        o: AdamWOptions,
    ) -> [f64; 3] {
        let m = o.beta1 * m + (1.0 - o.beta1) * g;
        let v = o.beta2 * v + (1.0 - o.beta2) * g * g;
        let m_hat = m / (1.0 - o.beta1.powi(step));
        let v_hat = v / (1.0 - o.beta2.powi(step));
        [
            w - lr * o.weight_decay * w - lr * m_hat / (v_hat.sqrt() + o.eps),
            m,
            v,
        ]
    }

    #[test]
    fn adamw_divides_by_the_scale_and_leaves_all_alone_where_told_to() {
        let options = AdamWOptions {
            beta1: 0.9,
            beta2: 0.999,
            weight_decay: 0.1,
            eps: 1e-8,
        };
        let parameters = Tensor::from_slice(&[1.0f32, -2.0]);
        let exp_avg = Tensor::from_slice(&[0.1f32, 0.2]);
        let exp_avg_sq = Tensor::from_slice(&[0.01f32, 0.02]);
        let update = |found_inf: f64| {
            let gradient = Tensor::from_slice(&[0.6f32, -1.2]);
            let tensors = AdamWTensors {
                parameters: &parameters,
                gradient: &gradient,
                exp_avg: &exp_avg,
                exp_avg_sq: &exp_avg_sq,
                step: &number(3.0),
                learning_rate: &number(0.01),
                grad_scale: &number(2.0),
                found_inf: &number(found_inf),
            };
            fused_adamw(tensors, options).unwrap();
            [&parameters, &exp_avg, &exp_avg_sq].map(|t| Vec::<f32>::try_from(t).unwrap())
        };
        assert_eq!(
            update(1.0),
            [vec![1.0, -2.0], vec![0.1, 0.2], vec![0.01, 0.02]]
        );
        let version = parameters.internal_version();
        let found = update(0.0);
        for (i, (w, g, moments)) in [(1.0, 0.3, (0.1, 0.01)), (-2.0, -0.6, (0.2, 0.02))]
            .into_iter()
            .enumerate()
        {
            let expected = expected(w, g, moments, 3, 0.01, options);
            for (found, expected) in found.iter().zip(expected) {
                assert!(
                    (f64::from(found[i]) - expected).abs() < 1e-6,
                    "{found:?} {expected}"
                );
            }
        }
        // The version tells owners of a rounded copy of the weights that it is outdated.
        assert!(parameters.internal_version() > version);
    }

    #[test]
    fn the_scale_halves_at_once_and_doubles_after_two_thousand() {
        let scale = number(8.0);
        let tracker = Tensor::zeros([], (Kind::Int, Device::Cpu));
        amp_update_scale(&scale, &tracker, &number(1.0)).unwrap();
        assert_eq!(scale.double_value(&[]), 4.0);
        for _ in 0..1999 {
            amp_update_scale(&scale, &tracker, &number(0.0)).unwrap();
        }
        assert_eq!(scale.double_value(&[]), 4.0);
        amp_update_scale(&scale, &tracker, &number(0.0)).unwrap();
        assert_eq!(scale.double_value(&[]), 8.0);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let ok = number(1.0);
        let two = Tensor::from_slice(&[1.0f32, 2.0]);
        let whole = Tensor::from_slice(&[1i64]).view([]);
        let options = AdamWOptions {
            beta1: 0.9,
            beta2: 0.999,
            weight_decay: 0.0,
            eps: 1e-8,
        };
        let tensors = AdamWTensors {
            parameters: &ok,
            gradient: &ok,
            exp_avg: &ok,
            exp_avg_sq: &ok,
            step: &ok,
            learning_rate: &ok,
            grad_scale: &ok,
            found_inf: &ok,
        };
        for (wrong, name) in [
            (
                AdamWTensors {
                    gradient: &two,
                    ..tensors
                },
                "gradient",
            ),
            (
                AdamWTensors {
                    step: &whole,
                    ..tensors
                },
                "step",
            ),
        ] {
            let error = fused_adamw(wrong, options).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
        // Errors of libtorch itself keep their message.
        let error = amp_update_scale(&ok, &ok, &ok).unwrap_err().to_string();
        assert!(error.contains("growth_tracker"), "{error}");
        if !tch::Cuda::is_available() {
            assert!(memory(0).is_err());
        }
    }

    #[test]
    fn determinism_can_be_asked_for() {
        set_deterministic(true).unwrap();
        // An operation without a deterministic form is refused from here on.
        let x = Tensor::from_slice(&[1.0f32, 2.0]);
        assert_eq!(Vec::<f32>::try_from(&x + &x).unwrap(), [2.0, 4.0]);
        set_deterministic(false).unwrap();
        allow_tf32(true).unwrap();
        allow_tf32(false).unwrap();
    }
}

//! Optimizers over one flat parameter tensor.
//!
//! All parameters of a model lie in one f32 tensor, the decayed ones first
//! ([`model::Parameters`]), and so do gradients and moments. An update is a handful of operations over the
//! whole buffer, and a checkpoint of the optimizer is a handful of tensors.
//!
//! Each formula is that of the class of the same name in `torch.optim` (2.11), with its defaults.

use kernels::optimizer::{AdamW, squared_norm};
use serde::{Deserialize, Serialize};
use shim::{
    slice, slice_mut,
    torch::{AdamWOptions, AdamWTensors, fused_adamw},
};
use tch::{Device, Tensor, no_grad};

use crate::error::TrainError;

/// The optimizer (`--optim`), under the names of transformers' `OptimizerNames`, and Adam, which it lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OptimizerName {
    /// AdamW: weight decay decoupled from the gradient (Loshchilov and Hutter, arXiv 1711.05101).
    #[serde(rename = "adamw_torch", alias = "adamw_torch_fused", alias = "adamw")]
    AdamW,
    /// Adam: weight decay added to the gradient (Kingma and Ba, arXiv 1412.6980).
    #[serde(rename = "adam")]
    Adam,
    /// Stochastic gradient descent, with momentum where asked.
    #[serde(rename = "sgd")]
    Sgd,
    /// RMSprop with torch's smoothing 0.99 (Hinton's lecture 6e), with momentum where asked.
    #[serde(rename = "rmsprop")]
    RmsProp,
}

/// The settings of an optimizer, beside the learning rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OptimizerOptions {
    /// The update rule.
    pub name: OptimizerName,
    /// Weight decay, applied to everything but biases and norms.
    pub weight_decay: f64,
    /// Adam's decay of the first moment.
    pub adam_beta1: f64,
    /// Adam's decay of the second moment.
    pub adam_beta2: f64,
    /// Added to denominators, by Adam and RMSprop.
    pub epsilon: f64,
    /// Momentum of SGD and RMSprop.
    pub momentum: f64,
}

/// RMSprop's smoothing constant, torch's default `alpha`.
const RMSPROP_ALPHA: f64 = 0.99;

/// The inputs of an update that is decided on the device: tensors of one number each, in f32.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OnDevice<'a> {
    /// The number of the update, counted from one.
    pub(crate) step: &'a Tensor,
    /// Learning rate.
    pub(crate) learning_rate: &'a Tensor,
    /// The divisor of the gradient.
    pub(crate) grad_scale: &'a Tensor,
    /// One where nothing is to change, else zero.
    pub(crate) found_inf: &'a Tensor,
}

/// An optimizer with its moments.
#[derive(Debug)]
pub struct Optimizer {
    options: OptimizerOptions,
    n_decayed: i64,
    n_updates: u64,
    moments: Vec<(&'static str, Tensor)>,
}

impl Optimizer {
    /// An optimizer for `parameters` (`[n]` f32), of which the first `n_decayed` elements are subject to
    /// weight decay.
    ///
    /// # Errors
    /// libtorch's, when the moments don't fit in memory.
    pub fn new(
        options: OptimizerOptions,
        parameters: &Tensor,
        n_decayed: i64,
    ) -> Result<Self, TrainError> {
        let names: &[&'static str] = match options.name {
            OptimizerName::AdamW | OptimizerName::Adam => &["exp_avg", "exp_avg_sq"],
            OptimizerName::Sgd if options.momentum == 0.0 => &[],
            OptimizerName::Sgd => &["momentum_buffer"],
            OptimizerName::RmsProp if options.momentum == 0.0 => &["square_avg"],
            OptimizerName::RmsProp => &["square_avg", "momentum_buffer"],
        };
        let moments = names
            .iter()
            .map(|&name| Ok((name, parameters.f_zeros_like()?)))
            .collect::<Result<_, TrainError>>()?;
        Ok(Self {
            options,
            n_decayed,
            n_updates: 0,
            moments,
        })
    }

    /// Number of updates made so far.
    pub fn n_updates(&self) -> u64 {
        self.n_updates
    }

    /// The moments by their names in torch's state dictionaries, each `[n]` f32.
    pub fn moments(&self) -> &[(&'static str, Tensor)] {
        &self.moments
    }

    /// Forgets the moments, after the last update.
    pub(crate) fn release(&mut self) {
        self.moments.clear();
    }

    /// Puts back saved moments and the number of updates.
    ///
    /// # Errors
    /// When a moment is missing or has another length.
    pub fn restore(
        &mut self,
        n_updates: u64,
        moment: impl Fn(&str) -> Option<Tensor>,
    ) -> Result<(), TrainError> {
        for (name, tensor) in &mut self.moments {
            let saved = moment(name)
                .ok_or_else(|| TrainError::OptimizerState(format!("`{name}` is missing")))?;
            if saved.size() != tensor.size() {
                return Err(TrainError::OptimizerState(format!(
                    "`{name}` holds {:?} values, the model has {:?}",
                    saved.size(),
                    tensor.size()
                )));
            }
            tensor.f_copy_(&saved)?;
        }
        self.n_updates = n_updates;
        Ok(())
    }

    /// One update of `parameters` from `gradient` times `scale` (both `[n]` f32) at `learning_rate`, in place.
    /// Leaves the gradient zeroed for the next step.
    ///
    /// # Errors
    /// libtorch's.
    pub fn step(
        &mut self,
        parameters: &Tensor,
        gradient: &Tensor,
        scale: f64,
        learning_rate: f64,
    ) -> Result<(), TrainError> {
        self.n_updates += 1;
        if self.options.name == OptimizerName::AdamW && parameters.device() == Device::Cpu {
            return self.adamw_by_kernels(parameters, gradient, scale, learning_rate);
        }
        no_grad(|| {
            if scale != 1.0 {
                let _ = gradient.shallow_clone().f_mul_scalar_(scale)?;
            }
            match self.options.name {
                OptimizerName::AdamW => self.adam(parameters, gradient, learning_rate, true),
                OptimizerName::Adam => self.adam(parameters, gradient, learning_rate, false),
                OptimizerName::Sgd => self.sgd(parameters, gradient, learning_rate),
                OptimizerName::RmsProp => self.rmsprop(parameters, gradient, learning_rate),
            }?;
            let _ = gradient.shallow_clone().f_zero_()?;
            Ok(())
        })
    }

    /// One update by AdamW as [`Self::step`], for which the host waits for no number; whether it is made, the device
    /// decides. [`Self::count_updates`] has to be told later.
    ///
    /// # Errors
    /// libtorch's.
    pub(crate) fn step_on_device(
        &self,
        parameters: &Tensor,
        gradient: &Tensor,
        on_device: OnDevice<'_>,
    ) -> Result<(), TrainError> {
        let [(_, first), (_, second)] = &self.moments[..] else {
            return Err(TrainError::OptimizerState(
                "AdamW has two moments".to_owned(),
            ));
        };
        let update = |start: i64, n: i64, weight_decay: f64| -> Result<(), TrainError> {
            if n == 0 {
                return Ok(());
            }
            let part = |tensor: &Tensor| tensor.f_narrow(0, start, n);
            let tensors = AdamWTensors {
                parameters: &part(parameters)?,
                gradient: &part(gradient)?,
                exp_avg: &part(first)?,
                exp_avg_sq: &part(second)?,
                step: on_device.step,
                learning_rate: on_device.learning_rate,
                grad_scale: on_device.grad_scale,
                found_inf: on_device.found_inf,
            };
            let options = AdamWOptions {
                beta1: self.options.adam_beta1,
                beta2: self.options.adam_beta2,
                weight_decay,
                eps: self.options.epsilon,
            };
            Ok(fused_adamw(tensors, options)?)
        };
        let n = parameters.numel() as i64;
        no_grad(|| {
            if self.options.weight_decay == 0.0 {
                update(0, n, 0.0)?;
            } else {
                update(0, self.n_decayed, self.options.weight_decay)?;
                update(self.n_decayed, n - self.n_decayed, 0.0)?;
            }
            let _ = gradient.shallow_clone().f_zero_()?;
            Ok(())
        })
    }

    /// Takes note of updates that the device has made.
    pub(crate) fn count_updates(&mut self, n: u64) {
        self.n_updates += n;
    }

    /// AdamW in one pass over memory, on all cores; the article's optimizer, and the default.
    fn adamw_by_kernels(
        &mut self,
        parameters: &Tensor,
        gradient: &Tensor,
        scale: f64,
        learning_rate: f64,
    ) -> Result<(), TrainError> {
        let OptimizerOptions {
            weight_decay,
            adam_beta1,
            adam_beta2,
            epsilon,
            ..
        } = self.options;
        let (mut parameters, mut gradient) = (parameters.shallow_clone(), gradient.shallow_clone());
        let n_decayed = self.n_decayed as usize;
        let [(_, first), (_, second)] = &mut self.moments[..] else {
            return Err(TrainError::OptimizerState(
                "AdamW has two moments".to_owned(),
            ));
        };
        let (parameters, parameters_plain) = slice_mut(&mut parameters)?.split_at_mut(n_decayed);
        let (gradient, gradient_plain) = slice_mut(&mut gradient)?.split_at_mut(n_decayed);
        let (first, first_plain) = slice_mut(first)?.split_at_mut(n_decayed);
        let (second, second_plain) = slice_mut(second)?.split_at_mut(n_decayed);
        let adamw = AdamW {
            lr: learning_rate,
            beta1: adam_beta1,
            beta2: adam_beta2,
            eps: epsilon,
            weight_decay,
            step: self.n_updates,
            grad_scale: scale,
        };
        adamw.update(parameters, gradient, first, second, true);
        let plain = AdamW {
            weight_decay: 0.0,
            ..adamw
        };
        plain.update(
            parameters_plain,
            gradient_plain,
            first_plain,
            second_plain,
            true,
        );
        Ok(())
    }

    /// The gradient with weight decay added to the decayed range, as Adam, SGD and RMSprop want it.
    fn with_decay(&self, parameters: &Tensor, gradient: &Tensor) -> Result<Tensor, TrainError> {
        if self.options.weight_decay == 0.0 {
            return Ok(gradient.shallow_clone());
        }
        let mut decayed = gradient.f_empty_like()?;
        decayed.f_copy_(gradient)?;
        let decay = parameters
            .f_narrow(0, 0, self.n_decayed)?
            .f_mul_scalar(self.options.weight_decay)?;
        let _ = decayed.f_narrow(0, 0, self.n_decayed)?.f_add_(&decay)?;
        Ok(decayed)
    }

    fn adam(
        &mut self,
        parameters: &Tensor,
        gradient: &Tensor,
        learning_rate: f64,
        decoupled: bool,
    ) -> Result<(), TrainError> {
        let OptimizerOptions {
            weight_decay,
            adam_beta1,
            adam_beta2,
            epsilon,
            ..
        } = self.options;
        let gradient = if decoupled {
            if weight_decay != 0.0 {
                let _ = parameters
                    .f_narrow(0, 0, self.n_decayed)?
                    .f_mul_scalar_(1.0 - learning_rate * weight_decay)?;
            }
            gradient.shallow_clone()
        } else {
            self.with_decay(parameters, gradient)?
        };
        let n_updates = self.n_updates as f64;
        let correction1 = 1.0 - adam_beta1.powf(n_updates);
        let correction2 = 1.0 - adam_beta2.powf(n_updates);
        let exp_avg = &mut self.moments[0].1;
        let _ = exp_avg.f_lerp_(&gradient, 1.0 - adam_beta1)?;
        let step = exp_avg.f_mul_scalar(-learning_rate / correction1)?;
        let exp_avg_sq = &mut self.moments[1].1;
        let _ = exp_avg_sq
            .f_mul_scalar_(adam_beta2)?
            .f_add_(&gradient.f_square()?.f_mul_scalar_(1.0 - adam_beta2)?)?;
        let denominator = exp_avg_sq
            .f_sqrt()?
            .f_div_scalar_(correction2.sqrt())?
            .f_add_scalar_(epsilon)?;
        let _ = parameters.shallow_clone().f_addcdiv_(&step, &denominator)?;
        Ok(())
    }

    fn sgd(
        &mut self,
        parameters: &Tensor,
        gradient: &Tensor,
        learning_rate: f64,
    ) -> Result<(), TrainError> {
        let gradient = self.with_decay(parameters, gradient)?;
        let momentum = self.options.momentum;
        let step = match self.moments.first_mut() {
            // torch starts the buffer with the first gradient, which is what a zero buffer gives.
            Some((_, buffer)) => buffer.f_mul_scalar_(momentum)?.f_add_(&gradient)?,
            None => gradient,
        };
        let _ = parameters
            .shallow_clone()
            .f_sub_(&step.f_mul_scalar(learning_rate)?)?;
        Ok(())
    }

    fn rmsprop(
        &mut self,
        parameters: &Tensor,
        gradient: &Tensor,
        learning_rate: f64,
    ) -> Result<(), TrainError> {
        let gradient = self.with_decay(parameters, gradient)?;
        let OptimizerOptions {
            epsilon, momentum, ..
        } = self.options;
        let square_avg = &mut self.moments[0].1;
        let _ = square_avg
            .f_mul_scalar_(RMSPROP_ALPHA)?
            .f_add_(&gradient.f_square()?.f_mul_scalar_(1.0 - RMSPROP_ALPHA)?)?;
        let denominator = square_avg.f_sqrt()?.f_add_scalar_(epsilon)?;
        let mut step = gradient.f_div(&denominator)?;
        if let Some((_, buffer)) = self.moments.get_mut(1) {
            step = buffer.f_mul_scalar_(momentum)?.f_add_(&step)?;
        }
        let _ = parameters
            .shallow_clone()
            .f_sub_(&step.f_mul_scalar(learning_rate)?)?;
        Ok(())
    }
}

/// The L2 norm of a flat gradient, `[n]` f32; not finite if and only if one of its elements is not, or all
/// together are beyond f64.
///
/// # Errors
/// libtorch's.
pub fn gradient_norm(gradient: &Tensor) -> Result<f64, TrainError> {
    if gradient.device() == Device::Cpu {
        return Ok(squared_norm(slice(gradient)?).sqrt());
    }
    Ok(f64::try_from(no_grad(|| gradient.f_norm())?)?)
}

/// The factor by which a gradient of this norm is scaled so that it does not exceed `max_norm`, as
/// `torch.nn.utils.clip_grad_norm_` does; one where `max_norm` is zero.
pub fn clip_scale(norm: f64, max_norm: f64) -> f64 {
    if max_norm > 0.0 {
        kernels::optimizer::clip_scale(norm, max_norm)
    } else {
        1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three updates of four numbers, of which the first two are decayed, against torch 2.11:
    ///
    /// ```python
    /// import torch
    /// def run(make):
    ///     a = torch.nn.Parameter(torch.tensor([1.0, -2.0])); b = torch.nn.Parameter(torch.tensor([0.5, 3.0]))
    ///     optimizer = make([{"params": [a], "weight_decay": 0.1}, {"params": [b], "weight_decay": 0.0}])
    ///     for step in range(3):
    ///         a.grad = torch.tensor([0.1, -0.2]) * (step + 1); b.grad = torch.tensor([0.3, 4.0]) / (step + 1)
    ///         optimizer.step()
    ///     print([f"{x:.7f}" for x in torch.cat([a, b]).tolist()])
    /// run(lambda groups: torch.optim.AdamW(groups, lr=0.01))
    /// run(lambda groups: torch.optim.Adam(groups, lr=0.01))
    /// run(lambda groups: torch.optim.SGD(groups, lr=0.01))
    /// run(lambda groups: torch.optim.SGD(groups, lr=0.01, momentum=0.9))
    /// run(lambda groups: torch.optim.RMSprop(groups, lr=0.01))
    /// run(lambda groups: torch.optim.RMSprop(groups, lr=0.01, momentum=0.9))
    /// ```
    fn check(name: OptimizerName, momentum: f64, expected: [f64; 4]) {
        let options = OptimizerOptions {
            name,
            weight_decay: 0.1,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            epsilon: 1e-8,
            momentum,
        };
        let parameters = Tensor::from_slice(&[1.0f32, -2.0, 0.5, 3.0]);
        let mut optimizer = Optimizer::new(options, &parameters, 2).unwrap();
        for step in 1..=3 {
            let (up, down) = (step as f32, 1.0 / step as f32);
            let gradient = Tensor::from_slice(&[0.1 * up, -0.2 * up, 0.3 * down, 4.0 * down]);
            optimizer.step(&parameters, &gradient, 1.0, 0.01).unwrap();
        }
        let parameters = Vec::<f32>::try_from(&parameters).unwrap();
        for (found, expected) in parameters.iter().zip(expected) {
            assert!(
                (f64::from(*found) - expected).abs() < 5e-7,
                "{name:?} momentum {momentum}: {parameters:?} != {expected:?}"
            );
        }
    }

    #[test]
    fn adamw_is_torchs() {
        check(
            OptimizerName::AdamW,
            0.0,
            [0.9678009, -1.9648039, 0.4719466, 2.9719467],
        );
    }

    #[test]
    fn adam_is_torchs() {
        check(
            OptimizerName::Adam,
            0.0,
            [0.9702142, -1.9702169, 0.4719466, 2.9719467],
        );
    }

    #[test]
    fn sgd_is_torchs() {
        check(
            OptimizerName::Sgd,
            0.0,
            [0.9910070, -1.9820141, 0.4945000, 2.9266667],
        );
    }

    #[test]
    fn sgd_with_momentum_is_torchs() {
        check(
            OptimizerName::Sgd,
            0.9,
            [0.9848906, -1.9697813, 0.4880200, 2.8402667],
        );
    }

    #[test]
    fn rmsprop_is_torchs() {
        check(
            OptimizerName::RmsProp,
            0.0,
            [0.7438309, -1.7429855, 0.3262893, 2.8262892],
        );
    }

    #[test]
    fn rmsprop_with_momentum_is_torchs() {
        check(
            OptimizerName::RmsProp,
            0.9,
            [0.4994312, -1.4977626, 0.1148781, 2.6148782],
        );
    }

    #[test]
    fn clipping_scales_only_what_is_too_long() {
        let gradient = Tensor::from_slice(&[3.0f32, 4.0]);
        assert_eq!(gradient_norm(&gradient).unwrap(), 5.0);
        assert_eq!(clip_scale(5.0, 0.0), 1.0);
        assert_eq!(clip_scale(5.0, 6.0), 1.0);
        assert!((clip_scale(5.0, 1.0) - 0.2).abs() < 1e-6);
        let infinite = Tensor::from_slice(&[3.0f32, f32::INFINITY]);
        assert!(!gradient_norm(&infinite).unwrap().is_finite());
        assert!(
            gradient_norm(&Tensor::from_slice(&[f32::NAN, 1.0]))
                .unwrap()
                .is_nan()
        );
    }

    #[test]
    fn restored_optimizer_goes_on_bit_for_bit() {
        let options = OptimizerOptions {
            name: OptimizerName::AdamW,
            weight_decay: 0.01,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            epsilon: 1e-8,
            momentum: 0.0,
        };
        let gradient = Tensor::from_slice(&[0.1f32, -0.7, 0.3]);
        let parameters = Tensor::from_slice(&[1.0f32, 2.0, 3.0]);
        let mut optimizer = Optimizer::new(options, &parameters, 3).unwrap();
        optimizer.step(&parameters, &gradient, 1.0, 0.1).unwrap();
        assert_eq!(
            f64::try_from(gradient.abs().sum(tch::Kind::Float)).unwrap(),
            0.0
        );
        let gradient = Tensor::from_slice(&[0.2f32, 0.5, -0.3]);
        let second_gradient = gradient.copy();
        let (saved_parameters, saved_updates) = (parameters.copy(), optimizer.n_updates());
        let saved: Vec<_> = optimizer
            .moments()
            .iter()
            .map(|(n, t)| (*n, t.copy()))
            .collect();
        optimizer.step(&parameters, &gradient, 1.0, 0.1).unwrap();

        let mut restored = Optimizer::new(options, &saved_parameters, 3).unwrap();
        let find = |name: &str| {
            saved
                .iter()
                .find(|(saved_name, _)| *saved_name == name)
                .map(|(_, t)| t.copy())
        };
        restored.restore(saved_updates, find).unwrap();
        restored
            .step(&saved_parameters, &second_gradient, 1.0, 0.1)
            .unwrap();
        assert_eq!(
            Vec::<f32>::try_from(&parameters).unwrap(),
            Vec::<f32>::try_from(&saved_parameters).unwrap()
        );
        assert!(restored.restore(1, |_| None).is_err());
        assert!(
            restored
                .restore(1, |_| Some(Tensor::from_slice(&[1.0f32])))
                .is_err()
        );
    }
}

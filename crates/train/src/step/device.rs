//! Updates that the device decides on, and whose numbers are read later.
//!
//! A GPU works through what it is handed while the host hands out more. Reading a loss makes the host wait until
//! all of it is done, and the device wait for the host after that. So here clipping, the test for numbers that are
//! not finite and AdamW's step are operations on the device, and the numbers of a step stay there until a log, an
//! evaluation or a checkpoint wants them.

use std::time::{Duration, Instant};

use tch::{Device, Kind, Tensor, no_grad};

use crate::{
    error::TrainError,
    loss_weights::LossWeights,
    optimizer::{OnDevice, Optimizer},
    run::state::LossScale,
};

/// The longest that numbers stay unread: progress is shown about so often, and a loss that is not a number found.
const PATIENCE: Duration = Duration::from_millis(250);

/// The most steps whose numbers stay unread.
const MAX_IN_FLIGHT: usize = 256;

/// `torch.amp.GradScaler`'s first scale.
const INITIAL_LOSS_SCALE: f64 = 65536.0;

/// What is on the device beside weights, gradient and moments, and the steps whose numbers are not read yet.
#[derive(Debug)]
pub(crate) struct Deferred {
    device: Device,
    /// Updates made, in f32.
    n_updates: Tensor,
    learning_rate: Tensor,
    loss_scale: Option<OnDeviceScale>,
    in_flight: Vec<InFlight>,
    last_read: Instant,
}

#[derive(Debug)]
struct OnDeviceScale {
    /// f32
    scale: Tensor,
    /// i32
    growth_tracker: Tensor,
}

/// A step whose numbers are on their way.
#[derive(Debug)]
struct InFlight {
    facts: Facts,
    /// Loss, norm of the gradient, and scale of the loss, [3].
    numbers: Tensor,
}

/// What the host knows of a step when it hands it out.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Facts {
    /// Steps made, this one included.
    pub(crate) step: u64,
    pub(crate) epoch: f64,
    pub(crate) learning_rate: f64,
    pub(crate) n_tokens: usize,
    /// The rows of each batch, with the name of its data set where there are several.
    pub(crate) rows: Vec<(Option<String>, Vec<u32>)>,
}

/// What the device tells of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Numbers {
    pub(crate) loss: f64,
    /// Before clipping.
    pub(crate) grad_norm: f64,
    /// What the loss was multiplied by.
    pub(crate) loss_scale: f64,
}

impl Numbers {
    /// Whether the update was made.
    pub(crate) fn is_finite(self) -> bool {
        self.loss.is_finite() && self.grad_norm.is_finite()
    }

    /// Whether the update was left out because the scale was too large, which halves it and is nothing to stop for.
    pub(crate) fn is_overflow(self) -> bool {
        self.loss.is_finite() && !self.grad_norm.is_finite() && self.loss_scale > 1.0
    }
}

impl Deferred {
    /// Before the first update; `has_loss_scale` where gradients are in fp16.
    pub(crate) fn new(device: Device, has_loss_scale: bool) -> Result<Self, TrainError> {
        let number = |value: f64| Tensor::f_full([], value, (Kind::Float, device));
        let loss_scale = if has_loss_scale {
            Some(OnDeviceScale {
                scale: number(INITIAL_LOSS_SCALE)?,
                growth_tracker: Tensor::f_zeros([], (Kind::Int, device))?,
            })
        } else {
            None
        };
        Ok(Self {
            device,
            n_updates: number(0.0)?,
            learning_rate: number(0.0)?,
            loss_scale,
            in_flight: Vec::new(),
            last_read: Instant::now(),
        })
    }

    /// Goes on after `n_updates`, with the scale that a checkpoint holds.
    pub(crate) fn restore(
        &mut self,
        n_updates: u64,
        saved: Option<LossScale>,
    ) -> Result<(), TrainError> {
        let _ = self.n_updates.f_fill_(n_updates as f64)?;
        if let (Some(scale), Some(saved)) = (&mut self.loss_scale, saved) {
            let _ = scale.scale.f_fill_(saved.scale)?;
            let _ = scale.growth_tracker.f_fill_(saved.growth_tracker)?;
        }
        Ok(())
    }

    /// What a checkpoint holds of the scale.
    pub(crate) fn loss_scale_to_save(&self) -> Result<Option<LossScale>, TrainError> {
        let Some(scale) = &self.loss_scale else {
            return Ok(None);
        };
        Ok(Some(LossScale {
            scale: f64::try_from(&scale.scale)?,
            growth_tracker: i64::try_from(&scale.growth_tracker)?,
        }))
    }

    /// What losses, and so gradients, are to be multiplied by, where they are.
    pub(crate) fn loss_scale(&self) -> Option<&Tensor> {
        self.loss_scale.as_ref().map(|scale| &scale.scale)
    }

    /// Sets the learning rate of the next [`Self::update`].
    pub(crate) fn set_learning_rate(&mut self, learning_rate: f64) -> Result<(), TrainError> {
        let _ = self.learning_rate.f_fill_(learning_rate)?;
        Ok(())
    }

    /// Clips and makes an update, if loss and gradient are finite, and zeroes the gradient. Returns loss, norm and
    /// scale, `[3]`. The host reads nothing and takes no turn by any of it, so that a graph can record all of it.
    pub(crate) fn update(
        &self,
        optimizer: &Optimizer,
        loss_weights: &LossWeights,
        (parameters, gradient): (&Tensor, &Tensor),
        loss: &Tensor,
        max_grad_norm: f64,
    ) -> Result<Tensor, TrainError> {
        let _guard = tch::no_grad_guard();
        let loss = loss.f_to_kind(Kind::Float)?;
        let scaled_norm = loss_weights.norm_on_device(gradient.f_norm()?)?;
        let scale = match self.loss_scale() {
            Some(scale) => scale.shallow_clone(),
            None => loss.f_ones_like()?,
        };
        let norm = scaled_norm.f_div(&scale)?;
        let is_finite = norm.f_isfinite()?.f_logical_and(&loss.f_isfinite()?)?;
        let is_finite = is_finite.f_to_kind(Kind::Float)?;
        let found_inf = is_finite.f_rsub_scalar(1.0)?;
        // torch.nn.utils.clip_grad_norm_: the gradient times max / (norm + 1e-6), where that is less than one.
        let grad_scale = if max_grad_norm > 0.0 {
            let over = norm.f_add_scalar(1e-6)?.f_div_scalar(max_grad_norm)?;
            scale.f_mul(&over.f_clamp_min(1.0)?)?
        } else {
            scale.shallow_clone()
        };
        let numbers = Tensor::f_stack(&[loss, norm, scale], 0)?;
        let _ = self.n_updates.shallow_clone().f_add_(&is_finite)?;
        let on_device = OnDevice {
            step: &self.n_updates,
            learning_rate: &self.learning_rate,
            grad_scale: &grad_scale,
            found_inf: &found_inf,
        };
        optimizer.step_on_device(parameters, gradient, on_device)?;
        loss_weights.step_on_device(on_device)?;
        if let Some(scale) = &self.loss_scale {
            shim::torch::amp_update_scale(&scale.scale, &scale.growth_tracker, &found_inf)?;
        }
        Ok(numbers)
    }

    /// Keeps what [`Self::update`] gave until [`Self::read`].
    pub(crate) fn push(&mut self, facts: Facts, numbers: Tensor) {
        self.in_flight.push(InFlight { facts, numbers });
    }

    /// Whether it is time to read, whoever asks.
    pub(crate) fn is_due(&self) -> bool {
        self.in_flight.len() >= MAX_IN_FLIGHT || self.last_read.elapsed() >= PATIENCE
    }

    /// Waits for the device, and gives the numbers of all steps that are on their way, the oldest first.
    pub(crate) fn read(&mut self) -> Result<Vec<(Facts, Numbers)>, TrainError> {
        self.last_read = Instant::now();
        if self.in_flight.is_empty() {
            return Ok(Vec::new());
        }
        let in_flight = std::mem::take(&mut self.in_flight);
        let numbers: Vec<&Tensor> = in_flight.iter().map(|step| &step.numbers).collect();
        let numbers = no_grad(|| Tensor::f_cat(&numbers, 0)?.f_to_device(Device::Cpu))?;
        let numbers = Vec::<f32>::try_from(numbers)?;
        let steps = in_flight.into_iter().zip(numbers.chunks_exact(3));
        Ok(steps
            .map(|(step, numbers)| {
                let [loss, grad_norm, loss_scale] = [0, 1, 2].map(|i| f64::from(numbers[i]));
                let numbers = Numbers {
                    loss,
                    grad_norm,
                    loss_scale,
                };
                (step.facts, numbers)
            })
            .collect())
    }

    /// The device.
    pub(crate) fn device(&self) -> Device {
        self.device
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimizer::{OptimizerName, OptimizerOptions, clip_scale, gradient_norm};

    const OPTIONS: OptimizerOptions = OptimizerOptions {
        name: OptimizerName::AdamW,
        weight_decay: 0.1,
        adam_beta1: 0.9,
        adam_beta2: 0.999,
        epsilon: 1e-8,
        momentum: 0.0,
    };

    fn start() -> Tensor {
        Tensor::from_slice(&[1.0f32, -2.0, 0.5, 3.0])
    }

    fn none() -> LossWeights {
        LossWeights::new(std::iter::empty(), OPTIONS).unwrap()
    }

    fn gradient(step: i32, scale: f32) -> Tensor {
        let values = [0.1, -0.2, 0.3, 4.0].map(|g: f32| g * step as f32 * scale);
        Tensor::from_slice(&values)
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        Vec::try_from(tensor).unwrap()
    }

    /// Losses of 1, 2, ... with `spoil` in the gradient of that step.
    fn run(max_grad_norm: f64, has_scale: bool, spoil: Option<(i32, f32)>) -> (Vec<f32>, Deferred) {
        let parameters = start();
        let optimizer = Optimizer::new(OPTIONS, &parameters, 2).unwrap();
        let mut deferred = Deferred::new(Device::Cpu, has_scale).unwrap();
        for step in 1..=4 {
            let scale = deferred.loss_scale().map_or(1.0, |s| s.double_value(&[]));
            let mut gradient = gradient(step, scale as f32);
            if let Some((at, value)) = spoil
                && at == step
            {
                let _ = gradient.narrow(0, 1, 1).fill_(f64::from(value));
            }
            deferred.set_learning_rate(0.01).unwrap();
            let loss = Tensor::from_slice(&[step as f32]).view([]);
            let numbers = deferred
                .update(
                    &optimizer,
                    &none(),
                    (&parameters, &gradient),
                    &loss,
                    max_grad_norm,
                )
                .unwrap();
            gradient = gradient.abs().max();
            assert_eq!(gradient.double_value(&[]), 0.0);
            let facts = Facts {
                step: step as u64,
                epoch: 0.0,
                learning_rate: 0.01,
                n_tokens: 1,
                rows: Vec::new(),
            };
            deferred.push(facts, numbers);
        }
        (values(&parameters), deferred)
    }

    /// The same by the host, which leaves out step `left_out`.
    fn by_host(max_grad_norm: f64, left_out: Option<i32>) -> Vec<f32> {
        let parameters = start();
        let mut optimizer = Optimizer::new(OPTIONS, &parameters, 2).unwrap();
        for step in (1..=4).filter(|step| Some(*step) != left_out) {
            let gradient = gradient(step, 1.0);
            let scale = clip_scale(gradient_norm(&gradient).unwrap(), max_grad_norm);
            optimizer.step(&parameters, &gradient, scale, 0.01).unwrap();
        }
        values(&parameters)
    }

    fn assert_close(found: &[f32], expected: &[f32]) {
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
    }

    #[test]
    fn the_device_decides_as_the_host_does() {
        for max_grad_norm in [0.0, 1.0, 100.0] {
            for has_scale in [false, true] {
                let (found, mut deferred) = run(max_grad_norm, has_scale, None);
                assert_close(&found, &by_host(max_grad_norm, None));
                let steps = deferred.read().unwrap();
                assert_eq!(steps.len(), 4);
                let norm = gradient_norm(&gradient(3, 1.0)).unwrap();
                let (facts, numbers) = &steps[2];
                assert_eq!((facts.step, numbers.loss), (3, 3.0));
                assert!((numbers.grad_norm - norm).abs() < 1e-5 * norm);
                assert!(deferred.read().unwrap().is_empty());
            }
        }
    }

    #[test]
    fn a_gradient_that_is_not_finite_changes_nothing_and_is_told() {
        for spoiled in [f32::NAN, f32::INFINITY] {
            let (found, mut deferred) = run(1.0, false, Some((2, spoiled)));
            assert_close(&found, &by_host(1.0, Some(2)));
            let steps = deferred.read().unwrap();
            let is_finite: Vec<bool> = steps.iter().map(|(_, n)| n.is_finite()).collect();
            assert_eq!(is_finite, [true, false, true, true]);
            assert!(steps.iter().all(|(_, n)| !n.is_overflow()));
        }
    }

    #[test]
    fn an_overflow_halves_the_scale_and_is_no_failure() {
        let (found, mut deferred) = run(1.0, true, Some((2, f32::INFINITY)));
        assert_close(&found, &by_host(1.0, Some(2)));
        let saved = deferred.loss_scale_to_save().unwrap().unwrap();
        assert_eq!((saved.scale, saved.growth_tracker), (32768.0, 2));
        let steps = deferred.read().unwrap();
        assert!(steps[1].1.is_overflow() && !steps[1].1.is_finite());
        let mut other = Deferred::new(Device::Cpu, true).unwrap();
        other.restore(3, Some(saved)).unwrap();
        assert_eq!(other.loss_scale_to_save().unwrap(), Some(saved));
    }

    #[test]
    fn many_steps_are_read_whoever_asks() {
        let mut deferred = Deferred::new(Device::Cpu, false).unwrap();
        assert!(!deferred.is_due());
        let facts = Facts {
            step: 1,
            epoch: 0.0,
            learning_rate: 0.0,
            n_tokens: 0,
            rows: Vec::new(),
        };
        for _ in 0..MAX_IN_FLIGHT {
            deferred.push(facts.clone(), Tensor::from_slice(&[1.0f32, 2.0, 1.0]));
        }
        assert!(deferred.is_due());
        assert_eq!(deferred.read().unwrap().len(), MAX_IN_FLIGHT);
    }
}

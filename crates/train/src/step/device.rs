//! Updates that the device decides on, and whose numbers are read later.
//!
//! A GPU works through what it is handed while the host hands out more. Reading a loss makes the host wait until
//! all of it is done, and the device wait for the host after that. So here clipping, the test for numbers that are
//! not finite and AdamW's step are operations on the device, and the numbers of a step stay there until a log, an
//! evaluation or a checkpoint wants them.

use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

use losses::{StepInputs, gradients::gradients};
use model::{Engine, Precision, SentenceTransformer, StaticBatch};
use tch::{Device, Kind, Tensor, no_grad};

use crate::{
    arguments::TrainingArguments,
    device::memory,
    error::TrainError,
    events::Event,
    loss_weights::LossWeights,
    optimizer::{OnDevice, Optimizer, OptimizerName},
    run::state::LossScale,
    step::{
        Numbers, SettledStep, StepFacts, StepWork, Update,
        gradients::{accumulate, dropout_seed},
        recorded::{CudaRecorder, Echo, Recorder, StepGraphs},
    },
    trained::Trained,
};

/// The longest that numbers stay unread: progress is shown about so often, and a loss that is not a number found.
const PATIENCE: Duration = Duration::from_millis(250);

/// The most steps whose numbers stay unread.
const MAX_IN_FLIGHT: usize = 256;

/// `torch.amp.GradScaler`'s first scale.
const INITIAL_LOSS_SCALE: f64 = 65536.0;

/// Has the device decide on updates, and reads the numbers of steps later.
#[derive(Debug)]
pub(crate) struct DeviceUpdate {
    device: Device,
    scalars: Scalars,
    /// Steps as CUDA graphs, where asked for.
    graphs: Option<StepGraphs>,
    in_flight: Vec<InFlight>,
    last_read: Instant,
}

/// A step whose numbers are on their way.
#[derive(Debug)]
struct InFlight {
    facts: StepFacts,
    n_tokens: usize,
    /// Loss, norm of the gradient, and loss scale, `[3]`.
    numbers: Tensor,
}

impl DeviceUpdate {
    /// Updates by the device, where libtorch computes and the optimizer can be decided on there.
    ///
    /// # Errors
    /// [`TrainError::Arguments`] for fp16 with another optimizer than AdamW, and libtorch's.
    pub(crate) fn for_run(
        model: &SentenceTransformer,
        arguments: &TrainingArguments,
    ) -> Result<Option<Self>, TrainError> {
        if model.engine() != Engine::Libtorch {
            return Ok(None);
        }
        let has_loss_scale = arguments.precision == Precision::Fp16;
        if arguments.optim == OptimizerName::AdamW {
            let device = model.parameters().device();
            return Self::new(device, has_loss_scale, arguments.cuda_graphs).map(Some);
        }
        if has_loss_scale {
            return Err(TrainError::Arguments(format!(
                "--precision fp16 scales the loss on a GPU, which --optim adamw_torch alone can take back, and not {:?}: give --precision bf16, or that optimizer",
                arguments.optim
            )));
        }
        Ok(None)
    }

    fn new(device: Device, has_loss_scale: bool, has_graphs: bool) -> Result<Self, TrainError> {
        let recorder = || -> Box<dyn Recorder> {
            match device {
                // There is no CUDA to record, but everything around a recording can be tested.
                Device::Cpu => Box::new(Echo::default()),
                _ => Box::new(CudaRecorder),
            }
        };
        Ok(Self {
            device,
            scalars: Scalars::new(device, has_loss_scale)?,
            graphs: has_graphs.then(|| StepGraphs::new(recorder(), device)),
            in_flight: Vec::new(),
            last_read: Instant::now(),
        })
    }

    /// A step, computed kernel by kernel: its numbers, and its tokens. `None` when a signal came.
    fn step_by_kernels(
        &self,
        trained: &Trained<'_>,
        work: &mut StepWork<'_, '_>,
    ) -> Result<Option<(Tensor, usize)>, TrainError> {
        let Some(accumulated) = accumulate(trained, work, self.scalars.loss_scale())? else {
            return Ok(None);
        };
        let loss = Tensor::f_stack(&accumulated.losses, 0)?.f_sum(Kind::Float)?;
        let max_grad_norm = work.arguments.max_grad_norm;
        let numbers = self.scalars.update_trained(trained, &loss, max_grad_norm)?;
        Ok(Some((numbers, accumulated.n_tokens)))
    }

    /// A step by its graph: its numbers, and its tokens. `None` where it has to be computed kernel by kernel.
    fn step_by_graph(
        &mut self,
        trained: &Trained<'_>,
        work: &mut StepWork<'_, '_>,
    ) -> Result<Option<(Tensor, usize)>, TrainError> {
        let (Some(graphs), [batch], None) = (&mut self.graphs, work.batches, &work.together) else {
            return Ok(None);
        };
        let task = &work.tasks[batch.dataset];
        let loss = task.objective.loss;
        let has_inputs_alone = task.objective.guide.is_none() && task.data.tokens.labels.is_none();
        if !loss.is_recordable() || !has_inputs_alone || (work.is_interrupted)() {
            return Ok(None);
        }
        let chunked = task.chunks(&batch.rows, work.chunking.limit(loss), self.device)?;
        let Some(shape) = trained.model.static_shape(&chunked)? else {
            return Ok(None);
        };
        let n_rows = batch.rows.len() as i64;
        let max_grad_norm = work.arguments.max_grad_norm;
        let scalars = &self.scalars;
        let mut recorded = |batch: &StaticBatch| -> Result<Tensor, TrainError> {
            let (model, gradient) = (&trained.model, &trained.gradient);
            let value = model.forward_backward_static(batch, gradient, |embeddings| {
                let columns = embeddings.f_split(n_rows, 0)?;
                let step = StepInputs {
                    embeddings: &columns,
                    prior: &[],
                    labels: None,
                    own: None,
                    seed: 0,
                };
                let mut found = gradients(loss, &step, 1.0)?;
                if let Some(scale) = scalars.loss_scale() {
                    found.scale(scale)?;
                }
                Ok::<_, TrainError>((found.value, Tensor::f_cat(&found.embeddings, 0)?))
            })?;
            scalars.update_trained(trained, &value, max_grad_norm)
        };
        // Outside of the graph: it takes the seed as it finds it.
        tch::manual_seed(dropout_seed(work, 0) as i64);
        let numbers = graphs.step(batch.dataset, shape, &chunked, &mut recorded)?;
        if numbers.is_some() {
            trained.model.parameters().were_changed_by_a_graph();
        }
        if let Some(problem) = graphs.take_problem() {
            (work.tell)(&Event::NoGraphs(&problem))?;
        }
        Ok(numbers.map(|numbers| (numbers, chunked.tokens())))
    }

    /// Whether numbers have been unread for long enough.
    fn is_due(&self) -> bool {
        self.in_flight.len() >= MAX_IN_FLIGHT || self.last_read.elapsed() >= PATIENCE
    }

    /// Waits for the device, and gives the numbers of all steps that are on their way, the oldest first.
    fn read(&mut self) -> Result<Vec<SettledStep>, TrainError> {
        self.last_read = Instant::now();
        if self.in_flight.is_empty() {
            return Ok(Vec::new());
        }
        let in_flight = std::mem::take(&mut self.in_flight);
        let numbers: Vec<&Tensor> = in_flight.iter().map(|step| &step.numbers).collect();
        let numbers = no_grad(|| Tensor::f_cat(&numbers, 0)?.f_to_device(Device::Cpu))?;
        let numbers = Vec::<f32>::try_from(numbers)?;
        let device_memory = memory(self.device)?;
        let steps = in_flight.into_iter().zip(numbers.chunks_exact(3));
        Ok(steps
            .map(|(step, numbers)| {
                let [loss, grad_norm, loss_scale] = [0, 1, 2].map(|i| f64::from(numbers[i]));
                SettledStep {
                    facts: step.facts,
                    n_tokens: step.n_tokens,
                    numbers: Numbers {
                        loss,
                        grad_norm,
                        loss_scale,
                    },
                    device_memory,
                }
            })
            .collect())
    }
}

impl Update for DeviceUpdate {
    fn step(
        &mut self,
        trained: &mut Trained<'_>,
        mut work: StepWork<'_, '_>,
    ) -> Result<ControlFlow<()>, TrainError> {
        self.scalars.set_learning_rate(work.facts.learning_rate)?;
        let done = match self.step_by_graph(trained, &mut work)? {
            None => self.step_by_kernels(trained, &mut work)?,
            done => done,
        };
        let Some((numbers, n_tokens)) = done else {
            return Ok(ControlFlow::Break(()));
        };
        self.in_flight.push(InFlight {
            facts: work.facts,
            n_tokens,
            numbers,
        });
        Ok(ControlFlow::Continue(()))
    }

    fn settled(
        &mut self,
        trained: &mut Trained<'_>,
        all: bool,
    ) -> Result<Vec<SettledStep>, TrainError> {
        if !all && !self.is_due() {
            return Ok(Vec::new());
        }
        let steps = self.read()?;
        for _ in steps.iter().filter(|step| step.numbers.is_finite()) {
            trained.count_updates(1);
        }
        Ok(steps)
    }

    fn loss_scale(&self) -> Result<Option<LossScale>, TrainError> {
        self.scalars.loss_scale_to_save()
    }

    fn restore(&mut self, n_updates: u64, saved: Option<LossScale>) -> Result<(), TrainError> {
        self.scalars.restore(n_updates, saved)
    }
}

/// The numbers that an update on the device is computed from, beside weights, gradients and moments.
#[derive(Debug)]
struct Scalars {
    /// Updates made, in f32.
    n_updates: Tensor,
    learning_rate: Tensor,
    loss_scale: Option<ScaleOnDevice>,
}

#[derive(Debug)]
struct ScaleOnDevice {
    /// f32
    scale: Tensor,
    /// i32
    growth_tracker: Tensor,
}

impl Scalars {
    /// Before the first update; `has_loss_scale` where gradients are in fp16.
    fn new(device: Device, has_loss_scale: bool) -> Result<Self, TrainError> {
        let number = |value: f64| Tensor::f_full([], value, (Kind::Float, device));
        let loss_scale = if has_loss_scale {
            Some(ScaleOnDevice {
                scale: number(INITIAL_LOSS_SCALE)?,
                growth_tracker: Tensor::f_zeros([], (Kind::Int, device))?,
            })
        } else {
            None
        };
        Ok(Self {
            n_updates: number(0.0)?,
            learning_rate: number(0.0)?,
            loss_scale,
        })
    }

    fn restore(&mut self, n_updates: u64, saved: Option<LossScale>) -> Result<(), TrainError> {
        let _ = self.n_updates.f_fill_(n_updates as f64)?;
        if let (Some(scale), Some(saved)) = (&mut self.loss_scale, saved) {
            let _ = scale.scale.f_fill_(saved.scale)?;
            let _ = scale.growth_tracker.f_fill_(saved.growth_tracker)?;
        }
        Ok(())
    }

    fn loss_scale_to_save(&self) -> Result<Option<LossScale>, TrainError> {
        let Some(scale) = &self.loss_scale else {
            return Ok(None);
        };
        Ok(Some(LossScale {
            scale: f64::try_from(&scale.scale)?,
            growth_tracker: i64::try_from(&scale.growth_tracker)?,
        }))
    }

    /// The factor of losses, and so of gradients, where there is one.
    fn loss_scale(&self) -> Option<&Tensor> {
        self.loss_scale.as_ref().map(|scale| &scale.scale)
    }

    /// Sets the learning rate of the next [`Self::update`].
    fn set_learning_rate(&mut self, learning_rate: f64) -> Result<(), TrainError> {
        let _ = self.learning_rate.f_fill_(learning_rate)?;
        Ok(())
    }

    /// The update from the gradients as they are: loss, norm and scale, `[3]`.
    fn update_trained(
        &self,
        trained: &Trained<'_>,
        loss: &Tensor,
        max_grad_norm: f64,
    ) -> Result<Tensor, TrainError> {
        self.update(
            &trained.optimizer,
            &trained.loss_weights,
            (&trained.model.parameters().trained()?, &trained.gradient),
            loss,
            max_grad_norm,
        )
    }

    /// Clips and makes an update, if loss and gradient are finite, and zeroes the gradient. Returns loss, norm and
    /// scale, `[3]`. The host reads nothing and takes no turn by any of it, so that a graph can record all of it.
    fn update(
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimizer::{OptimizerOptions, clip_scale, gradient_norm};

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

    fn in_flight(step: u64, numbers: Tensor) -> InFlight {
        let facts = StepFacts {
            step,
            epoch: 0.0,
            learning_rate: 0.01,
            rows: Vec::new(),
        };
        InFlight {
            facts,
            n_tokens: 1,
            numbers,
        }
    }

    /// Losses of 1, 2, ... with `spoil` in the gradient of that step.
    fn run(
        max_grad_norm: f64,
        has_scale: bool,
        spoil: Option<(i32, f32)>,
    ) -> (Vec<f32>, DeviceUpdate) {
        let parameters = start();
        let optimizer = Optimizer::new(OPTIONS, &parameters, 2).unwrap();
        let mut update = DeviceUpdate::new(Device::Cpu, has_scale, false).unwrap();
        for step in 1..=4 {
            let scale = update.scalars.loss_scale();
            let scale = scale.map_or(1.0, |scale| scale.double_value(&[]));
            let mut gradient = gradient(step, scale as f32);
            if let Some((at, value)) = spoil
                && at == step
            {
                let _ = gradient.narrow(0, 1, 1).fill_(f64::from(value));
            }
            update.scalars.set_learning_rate(0.01).unwrap();
            let loss = Tensor::from_slice(&[step as f32]).view([]);
            let numbers = update
                .scalars
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
            update.in_flight.push(in_flight(step as u64, numbers));
        }
        (values(&parameters), update)
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
                let (found, mut update) = run(max_grad_norm, has_scale, None);
                assert_close(&found, &by_host(max_grad_norm, None));
                let steps = update.read().unwrap();
                assert_eq!(steps.len(), 4);
                let norm = gradient_norm(&gradient(3, 1.0)).unwrap();
                let numbers = steps[2].numbers;
                assert_eq!((steps[2].facts.step, numbers.loss), (3, 3.0));
                assert!((numbers.grad_norm - norm).abs() < 1e-5 * norm);
                assert!(update.read().unwrap().is_empty());
            }
        }
    }

    #[test]
    fn a_gradient_that_is_not_finite_changes_nothing_and_is_told() {
        for spoiled in [f32::NAN, f32::INFINITY] {
            let (found, mut update) = run(1.0, false, Some((2, spoiled)));
            assert_close(&found, &by_host(1.0, Some(2)));
            let steps = update.read().unwrap();
            let is_finite: Vec<bool> = steps.iter().map(|s| s.numbers.is_finite()).collect();
            assert_eq!(is_finite, [true, false, true, true]);
            assert!(steps.iter().all(|step| !step.numbers.is_overflow()));
        }
    }

    #[test]
    fn an_overflow_halves_the_scale_and_is_no_failure() {
        let (found, mut update) = run(1.0, true, Some((2, f32::INFINITY)));
        assert_close(&found, &by_host(1.0, Some(2)));
        let saved = update.loss_scale().unwrap().unwrap();
        assert_eq!((saved.scale, saved.growth_tracker), (32768.0, 2));
        let steps = update.read().unwrap();
        let numbers = steps[1].numbers;
        assert!(numbers.is_overflow() && !numbers.is_finite());
        let mut other = DeviceUpdate::new(Device::Cpu, true, false).unwrap();
        other.restore(3, Some(saved)).unwrap();
        assert_eq!(other.loss_scale().unwrap(), Some(saved));
    }

    #[test]
    fn many_unread_steps_are_due() {
        let mut update = DeviceUpdate::new(Device::Cpu, false, false).unwrap();
        assert!(!update.is_due());
        for step in 0..MAX_IN_FLIGHT {
            let numbers = Tensor::from_slice(&[1.0f32, 2.0, 1.0]);
            update.in_flight.push(in_flight(step as u64, numbers));
        }
        assert!(update.is_due());
        assert_eq!(update.read().unwrap().len(), MAX_IN_FLIGHT);
    }
}

//! Steps whose update the device decides on, and which the host takes note of later.

use data::sampler::Batch;
use losses::{StepInputs, cached::gradients};
use model::{Engine, Precision, SentenceTransformer, StaticBatch};
use tch::{Device, Kind, Tensor};

use super::{Stepped, Trainer, gradients::dropout_seed, made_step};
use crate::{
    arguments::TrainingArguments,
    device,
    error::TrainError,
    events::{Event, Step},
    failpoint,
    optimizer::OptimizerName,
    step::{
        device::{Deferred, Numbers},
        recorded::{CudaRecorder, Echo, Recorder, StepGraphs},
    },
    tasks::Objective,
};

impl Trainer<'_> {
    /// As [`Trainer::step`], of which the host reads no number.
    pub(super) fn step_on_device(
        &mut self,
        micro_batches: &[Batch],
        n_steps_of_epoch: usize,
        learning_rate: f64,
    ) -> Result<Stepped, TrainError> {
        if let Some(deferred) = &mut self.deferred {
            deferred.set_learning_rate(learning_rate)?;
        }
        let (numbers, n_tokens) = match self.step_by_graph(micro_batches)? {
            Some(done) => done,
            None => match self.accumulate_all(micro_batches)? {
                Some((losses, n_tokens)) => (self.update_on_device(&losses)?, n_tokens),
                None => return Ok(Stepped::Interrupted),
            },
        };
        let facts = self.count(micro_batches, n_steps_of_epoch, learning_rate, n_tokens);
        if let Some(deferred) = &mut self.deferred {
            deferred.push(facts, numbers);
        }
        Ok(Stepped::InFlight)
    }

    /// The update from the gradient as it is: loss, norm and scale, `[3]`.
    fn update_on_device(&mut self, losses: &[Tensor]) -> Result<Tensor, TrainError> {
        let deferred = self.deferred.as_ref().ok_or_else(|| {
            TrainError::Arguments("the host decides on the updates of this run".to_owned())
        })?;
        let mut loss = Tensor::f_stack(losses, 0)?.f_sum(Kind::Float)?;
        if let Some(injected) = failpoint::number("loss") {
            loss = loss.f_full_like(injected)?;
        }
        deferred.update(
            &self.optimizer,
            &self.loss_weights,
            (self.model.parameters().flat(), &self.gradient),
            &loss,
            self.arguments.max_grad_norm,
        )
    }

    /// A whole step by its graph: its numbers, and its tokens. `None` where it is computed as ever.
    fn step_by_graph(
        &mut self,
        micro_batches: &[Batch],
    ) -> Result<Option<(Tensor, usize)>, TrainError> {
        let [batch] = micro_batches else {
            return Ok(None);
        };
        let task = &self.training[batch.dataset];
        let Objective { loss, guide, .. } = &self.objectives[task.objective];
        let is_plain = loss.is_recordable() && guide.is_none();
        if self.graphs.is_none() || !is_plain || task.labels(&batch.rows)?.is_some() {
            return Ok(None);
        }
        if (self.is_interrupted)() {
            return Ok(None);
        }
        let chunked = self.chunks(task, &task.sentences(&batch.rows))?;
        let (Some(graphs), Some(deferred)) = (&mut self.graphs, &self.deferred) else {
            return Ok(None);
        };
        let Some(shape) = self.model.static_shape(&chunked)? else {
            return Ok(None);
        };
        let n_rows = batch.rows.len() as i64;
        let (model, gradient) = (&*self.model, &self.gradient);
        let (optimizer, loss_weights) = (&self.optimizer, &self.loss_weights);
        let max_grad_norm = self.arguments.max_grad_norm;
        let mut work = |batch: &StaticBatch| -> Result<Tensor, TrainError> {
            let value = model.forward_backward_static(batch, gradient, |embeddings| {
                let columns = embeddings.f_split(n_rows, 0)?;
                let step = StepInputs {
                    embeddings: &columns,
                    prior: &[],
                    labels: None,
                    seed: 0,
                };
                let mut found = gradients(*loss, &step, 1.0)?;
                if let Some(scale) = deferred.loss_scale() {
                    found.scale(scale)?;
                }
                Ok::<_, TrainError>((found.value, Tensor::f_cat(&found.embeddings, 0)?))
            })?;
            deferred.update(
                optimizer,
                loss_weights,
                (model.parameters().flat(), gradient),
                &value,
                max_grad_norm,
            )
        };
        // Outside of the graph: it takes the seed as it finds it.
        tch::manual_seed(dropout_seed(self.arguments.seed, self.state.global_step, 0) as i64);
        let numbers = graphs.step(batch.dataset, shape, &chunked, &mut work)?;
        if numbers.is_some() {
            self.model.parameters().were_changed_by_a_graph();
        }
        let problem = graphs.take_problem();
        if let Some(problem) = problem {
            self.tell(&Event::NoGraphs(&problem))?;
        }
        Ok(numbers.map(|numbers| (numbers, chunked.tokens())))
    }

    /// Reads the numbers of steps that are on their way where a log, an evaluation or a save wants them after this
    /// step, or where it has been a while.
    pub(super) fn settle_if_due(&mut self) -> Result<(), TrainError> {
        let arguments = &self.arguments;
        let is_wanted = self.is_log_due(self.state.global_step)
            || self.is_due(arguments.eval_strategy, arguments.eval_steps)
            || self.is_due(arguments.save_strategy, arguments.save_steps)
            || self.is_over();
        if is_wanted || self.deferred.as_ref().is_some_and(Deferred::is_due) {
            self.settle()?;
        }
        Ok(())
    }

    /// Waits for all steps that are on their way and takes note of each.
    pub(super) fn settle(&mut self) -> Result<(), TrainError> {
        let Some(deferred) = &mut self.deferred else {
            return Ok(());
        };
        let steps = deferred.read()?;
        let memory = device::memory(deferred.device())?;
        for (facts, numbers) in steps {
            let Numbers {
                loss, grad_norm, ..
            } = numbers;
            if numbers.is_finite() {
                self.optimizer.count_updates(1);
                self.loss_weights.count_updates(1);
                self.state.note_loss(Some(loss));
                let step = made_step(facts, loss, grad_norm);
                self.note_step(&Step {
                    device_memory: memory,
                    ..step
                })?;
            } else if numbers.is_overflow() {
                self.state.note_overflow();
                self.tell(&Event::Overflow {
                    step: facts.step,
                    loss_scale: numbers.loss_scale,
                })?;
            } else {
                let problem = self.skip(facts, loss, loss.is_finite().then_some(grad_norm))?;
                self.log_skipped(&problem)?;
            }
        }
        Ok(())
    }
}

/// What is needed to read numbers later, where libtorch computes and the optimizer can be told on the device.
pub(super) fn deferred(
    model: &SentenceTransformer,
    arguments: &TrainingArguments,
) -> Result<Option<Deferred>, TrainError> {
    if model.engine() != Engine::Libtorch {
        return Ok(None);
    }
    let has_loss_scale = arguments.precision == Precision::Fp16;
    if arguments.optim == OptimizerName::AdamW {
        let device = model.parameters().device();
        return Deferred::new(device, has_loss_scale).map(Some);
    }
    if has_loss_scale {
        return Err(TrainError::Arguments(format!(
            "--precision fp16 scales the loss on a GPU, which --optim adamw_torch alone can take back, and not {:?}: give --precision bf16, or that optimizer",
            arguments.optim
        )));
    }
    Ok(None)
}

/// The graphs of a run that asks for them and reads its numbers later.
pub(super) fn graphs(
    deferred: &Option<Deferred>,
    arguments: &TrainingArguments,
) -> Option<StepGraphs> {
    let device = deferred
        .as_ref()
        .filter(|_| arguments.cuda_graphs)?
        .device();
    let recorder: Box<dyn Recorder> = match device {
        // There is no CUDA to record, and all else can be looked at.
        Device::Cpu => Box::new(Echo::default()),
        _ => Box::new(CudaRecorder),
    };
    Some(StepGraphs::new(recorder, device))
}

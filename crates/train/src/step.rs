//! How a step is made: forward and backward of its batches, and the update.
//!
//! [`host::HostUpdate`] decides on an update by numbers that it reads at once. Where libtorch computes,
//! [`device::DeviceUpdate`] leaves the decision to the device and reads the numbers later, and [`recorded`] launches
//! the whole step as one CUDA graph.

pub(crate) mod device;
mod gradients;
pub(crate) mod host;
pub(crate) mod recorded;
mod together;

use std::ops::ControlFlow;

use data::sampler::Batch;

use crate::{
    arguments::TrainingArguments,
    chunking::Chunking,
    error::TrainError,
    events::{Event, Memory},
    group::Group,
    run::state::LossScale,
    tasks::Task,
    trained::Trained,
};

/// A way of making steps.
pub(crate) trait Update {
    /// Makes a step, or hands all of it to the device. `Break` when a signal came first, in which case nothing has
    /// changed but the gradients.
    ///
    /// # Errors
    /// The model's, the loss's and libtorch's.
    fn step(
        &mut self,
        trained: &mut Trained<'_>,
        work: StepWork<'_, '_>,
    ) -> Result<ControlFlow<()>, TrainError>;

    /// The steps whose numbers are known by now and were not given before, oldest first. With `all`, waits for those
    /// that the device has not made yet.
    ///
    /// # Errors
    /// libtorch's.
    fn settled(
        &mut self,
        trained: &mut Trained<'_>,
        all: bool,
    ) -> Result<Vec<SettledStep>, TrainError>;

    /// The loss scale for a checkpoint, where gradients are in fp16.
    ///
    /// # Errors
    /// libtorch's.
    fn loss_scale(&self) -> Result<Option<LossScale>, TrainError> {
        Ok(None)
    }

    /// Goes on after `n_updates`, with the loss scale of a checkpoint.
    ///
    /// # Errors
    /// libtorch's.
    fn restore(&mut self, _n_updates: u64, _saved: Option<LossScale>) -> Result<(), TrainError> {
        Ok(())
    }
}

/// The work of one step, and everything that it reads.
pub(crate) struct StepWork<'s, 'a> {
    pub(crate) facts: StepFacts,
    /// The micro-batches, whose gradients add up.
    pub(crate) batches: &'s [Batch],
    pub(crate) tasks: &'s [Task<'a>],
    pub(crate) arguments: &'s TrainingArguments,
    pub(crate) chunking: &'s mut Chunking,
    pub(crate) is_interrupted: &'s dyn Fn() -> bool,
    /// The other ranks, where there are any.
    pub(crate) together: Option<Together<'s>>,
    pub(crate) tell: &'s mut dyn FnMut(&Event<'_>) -> Result<(), TrainError>,
}

/// The other ranks, within a step.
#[derive(Clone, Copy)]
pub(crate) struct Together<'s> {
    pub(crate) group: &'s Group,
    /// Whether a signal has come to this rank.
    pub(crate) is_interrupted: &'s dyn Fn() -> bool,
}

/// The facts of a step that are known before it is made.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StepFacts {
    /// Steps made, this one included.
    pub(crate) step: u64,
    pub(crate) epoch: f64,
    pub(crate) learning_rate: f64,
    /// The rows of each batch, of all ranks, with the name of its data set where there are several.
    pub(crate) rows: Vec<(Option<String>, Vec<u32>)>,
}

/// A step whose numbers are known.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SettledStep {
    pub(crate) facts: StepFacts,
    pub(crate) n_tokens: usize,
    pub(crate) numbers: Numbers,
    pub(crate) device_memory: Option<Memory>,
}

/// The numbers that decide on an update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Numbers {
    pub(crate) loss: f64,
    /// Before clipping; not computed on the CPU where the loss is not finite.
    pub(crate) grad_norm: f64,
    /// The factor of the loss.
    pub(crate) loss_scale: f64,
}

impl Numbers {
    /// Whether the update was made.
    pub(crate) fn is_finite(self) -> bool {
        self.loss.is_finite() && self.grad_norm.is_finite()
    }

    /// Whether the update was left out because the loss scale was too large, which halves it and is nothing to stop
    /// for.
    pub(crate) fn is_overflow(self) -> bool {
        self.loss.is_finite() && !self.grad_norm.is_finite() && self.loss_scale > 1.0
    }
}

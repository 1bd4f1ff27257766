//! The events of a run, and the trait of its observers.
//!
//! The trainer knows none of its observers: it gives each [`Event`] to all [`Observer`]s in turn.

use std::path::Path;

use eval::Metrics;
use serde_json::{Map, Value};
pub use shim::torch::Memory;

use crate::{
    error::{NonFinite, TrainError},
    plan::Plan,
};

/// One entry of the log: `step`, `epoch` and the measured numbers, in the order it was put in.
pub type LogEntry = Map<String, Value>;

/// Something that happened in a run.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The run is about to begin.
    Begin(&'a Plan),
    /// An update was made.
    Step(&'a Step),
    /// No update was made, because a number was not finite; the run goes on.
    Skipped(&'a NonFinite),
    /// No update was made, because gradients times the loss's scale were beyond fp16; the scale is halved.
    Overflow {
        /// The step.
        step: u64,
        /// The scale that was too large.
        loss_scale: f64,
    },
    /// Loss and gradient of a step whose batches have one row each are exactly zero, so that nothing was learnt. Told of
    /// the first such step.
    NothingLearnt {
        /// The step.
        step: u64,
    },
    /// A batch did not fit in the GPU's memory; from here on it is embedded in smaller parts.
    CutSmaller {
        /// The step, which begins again.
        step: u64,
        /// Tokens that were embedded at a time.
        n_tokens: usize,
        /// Tokens embedded at a time from now on.
        fitting: usize,
    },
    /// No CUDA graphs are recorded from here on, for this reason; steps are launched kernel by kernel.
    NoGraphs(&'a str),
    /// A log entry is due: training, evaluation, or the summary at the end.
    Log(&'a LogEntry),
    /// Training pauses to encode `n_sentences` for an evaluation.
    EvaluationBegin {
        /// Name of the data set.
        name: &'a str,
        /// Sentences to encode.
        n_sentences: usize,
    },
    /// Sentences of the evaluation that are encoded so far.
    EvaluationProgress(usize),
    /// An evaluation is done.
    EvaluationEnd(&'a Metrics),
    /// A checkpoint was written.
    Saved(&'a Path),
}

/// The numbers of one update.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Updates made, this one included.
    pub step: u64,
    /// Passes over the data so far.
    pub epoch: f64,
    /// Mean loss of the step's batches.
    pub loss: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Learning rate of this update.
    pub learning_rate: f64,
    /// Rows of training data in this step.
    pub n_rows: usize,
    /// Tokens in this step, all columns, no padding.
    pub n_tokens: usize,
    /// The GPU's memory that is taken when this is told, and the most that tensors took, in bytes; `None` on the CPU.
    pub device_memory: Option<Memory>,
}

/// Takes note of the events of a run.
pub trait Observer {
    /// Takes note of one event.
    ///
    /// # Errors
    /// When a file can't be written; it ends the run.
    fn on(&mut self, event: &Event<'_>) -> Result<(), TrainError>;
}

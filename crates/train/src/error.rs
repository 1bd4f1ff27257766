//! What can end a run, as values.

use std::{fmt, io};

use tch::TchError;

/// What can end a run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// Arguments that contradict each other or lie outside of what is allowed.
    #[error("{0}")]
    Arguments(String),
    /// A data set that does not fit what it is to be used for.
    #[error("data set `{dataset}`: {problem}")]
    Dataset {
        /// Name of the data set.
        dataset: String,
        /// What is wrong, what is allowed and what to do.
        problem: String,
    },
    /// The loss or the gradient is infinite or not a number. The update was not made.
    #[error(transparent)]
    NonFinite(Box<NonFinite>),
    /// An optimizer's saved state does not fit the model.
    #[error("optimizer state: {0}")]
    OptimizerState(String),
    /// The model could not be loaded, run or saved.
    #[error(transparent)]
    Model(#[from] model::ModelError),
    /// Data could not be read or ordered.
    #[error(transparent)]
    Data(#[from] data::DataError),
    /// A loss could not be computed.
    #[error(transparent)]
    Loss(#[from] losses::LossError),
    /// An evaluator could not be computed.
    #[error(transparent)]
    Eval(#[from] eval::EvalError),
    /// A file of the run could not be written or read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A tensor does not lie in memory as the kernels need it.
    #[error(transparent)]
    Slice(#[from] shim::SliceError),
    /// libtorch refused an operation.
    #[error("libtorch")]
    Torch(#[from] TchError),
}

/// Where and with what values a run met a number that is not finite.
#[derive(Debug)]
pub struct NonFinite {
    /// The update that was about to be made, counted from one.
    pub step: u64,
    /// Rows of the training data in this step, counted from zero.
    pub rows: Vec<u32>,
    /// The step's loss.
    pub loss: f64,
    /// The gradient's norm before clipping, where it was reached.
    pub grad_norm: Option<f64>,
    /// The learning rate of the step.
    pub learning_rate: f64,
}

impl std::error::Error for NonFinite {}

impl fmt::Display for NonFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            step,
            rows,
            loss,
            grad_norm,
            learning_rate,
        } = self;
        write!(f, "non-finite ")?;
        match grad_norm {
            Some(norm) => write!(f, "gradient norm {norm} at step {step} (loss {loss})")?,
            None => write!(f, "loss {loss} at step {step}")?,
        }
        write!(
            f,
            ", learning rate {learning_rate:e}, training rows {rows:?} counted from 0; the weights are those before this step: look at these rows, lower --learning-rate, or start from the last checkpoint"
        )
    }
}

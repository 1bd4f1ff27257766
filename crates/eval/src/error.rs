//! The error of an evaluation.

use tch::TchError;

/// Why an evaluation could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// Tensors or labels don't fit together.
    #[error("{evaluator}: {problem}")]
    Inputs {
        /// Name of the evaluator's class.
        evaluator: &'static str,
        /// The mismatch, and what is needed.
        problem: String,
    },
    /// An option that can't be followed: wrong use.
    #[error("{0}")]
    Option(String),
    /// A CSV file could not be written; the message names it.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// An operation of libtorch failed.
    #[error("libtorch")]
    Torch(#[from] TchError),
}

impl EvalError {
    /// An [`EvalError::Inputs`], from its parts.
    pub(crate) fn inputs(evaluator: &'static str, problem: impl Into<String>) -> Self {
        Self::Inputs {
            evaluator,
            problem: problem.into(),
        }
    }
}

//! The error of a loss.

use tch::TchError;

/// Why a loss could not be made or computed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LossError {
    /// No loss has this name.
    #[error("unknown loss `{name}`: known are {known}")]
    Unknown {
        /// The name as given.
        name: String,
        /// All names, separated by commas.
        known: String,
    },
    /// A parameter is unknown, of the wrong type, or out of range.
    #[error("{loss}: {problem}")]
    Parameter {
        /// Name of the loss, as the user gave it or as the class is called.
        loss: String,
        /// The mistake, and what is allowed.
        problem: String,
    },
    /// The data set's columns or labels don't fit the loss.
    #[error("{loss} needs {needs}, but the data set has {has}")]
    Inputs {
        /// Name of the loss.
        loss: &'static str,
        /// The columns and labels that the loss accepts.
        needs: String,
        /// The columns and labels that it was given.
        has: String,
    },
    /// A batch's tensors don't have the shapes that the loss needs.
    #[error("{loss}: {what} has shape {shape:?}, but {expected} is needed")]
    Shape {
        /// Name of the loss.
        loss: &'static str,
        /// Which tensor.
        what: String,
        /// Its shape.
        shape: Vec<i64>,
        /// The shape it should have.
        expected: String,
    },
    /// An operation of libtorch failed.
    #[error("libtorch")]
    Torch(#[from] TchError),
}

impl LossError {
    /// A [`LossError::Parameter`], from its parts.
    pub(crate) fn parameter(loss: &str, problem: impl Into<String>) -> Self {
        Self::Parameter {
            loss: loss.to_owned(),
            problem: problem.into(),
        }
    }
}

/// Refuses a parameter that is not a finite number above zero.
pub(crate) fn positive(loss: &str, name: &str, value: f64) -> Result<(), LossError> {
    if value.is_finite() && value > 0.0 {
        return Ok(());
    }
    Err(LossError::parameter(
        loss,
        format!("{name} is {value}, but must be greater than 0"),
    ))
}

/// Refuses a parameter that is not a finite number of at least zero.
pub(crate) fn non_negative(loss: &str, name: &str, value: f64) -> Result<(), LossError> {
    if value.is_finite() && value >= 0.0 {
        return Ok(());
    }
    Err(LossError::parameter(
        loss,
        format!("{name} is {value}, but must be at least 0"),
    ))
}

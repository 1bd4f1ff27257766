//! Errors that end a run.

use std::{
    error::Error,
    fmt, io,
    path::{Path, PathBuf},
};

use shim::ranks::RanksError;
use tch::TchError;

use crate::group::error::GroupError;

/// An error that ends a run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// Arguments that contradict each other or are out of range.
    #[error("{0}")]
    Arguments(String),
    /// A data set that does not fit its loss, evaluator or sampler.
    #[error("data set `{dataset}`: {problem}")]
    Dataset {
        /// Name of the data set.
        dataset: String,
        /// The fault, and the remedy.
        problem: String,
    },
    /// The loss or the gradient is infinite or not a number. The update was not made.
    #[error(transparent)]
    NonFinite(Box<NonFinite>),
    /// A GPU's memory is full.
    #[error(
        "step {step}: the GPU's memory is full with {n_tokens} tokens at a time: {}",
        if *can_cut {
            "add --auto-micro-batch, or --mini-batch-tokens with fewer, or lower --per-device-train-batch-size"
        } else {
            "that is a single sentence: lower --max-seq-length, or free memory on the GPU"
        }
    )]
    OutOfMemory {
        /// The step.
        step: u64,
        /// Tokens that were embedded at a time.
        n_tokens: usize,
        /// Whether they can be made fewer without cutting sentences.
        can_cut: bool,
        /// libtorch's words.
        source: Box<TrainError>,
    },
    /// Another rank's memory is full; all ranks begin the step again.
    #[error("rank {rank}: the GPU's memory is full")]
    OutOfMemoryElsewhere {
        /// The rank.
        rank: usize,
    },
    /// The ranks of a run can't go on together.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// Another process trains in the folder.
    #[error(
        "{} is in use by {}: give another --output-dir, or wait until that run has ended",
        folder.display(),
        pid.map_or("another process".to_owned(), |pid| format!("process {pid}"))
    )]
    Locked {
        /// The folder of the run.
        folder: PathBuf,
        /// The number of the process, where it could be read.
        pid: Option<u32>,
    },
    /// A file or folder of the run could not be written. What was there before is as it was.
    #[error("{} could not be written: {advice}", path.display())]
    Unsaved {
        /// The file or folder.
        path: PathBuf,
        /// The remedy.
        advice: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// There is no whole checkpoint to resume from.
    #[error("{0}")]
    NoCheckpoint(String),
    /// The files of a checkpoint don't agree with its manifest.
    #[error("checkpoint {}: {problem}", path.display())]
    Checkpoint {
        /// Its folder.
        path: PathBuf,
        /// The fault.
        problem: String,
    },
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

impl From<RanksError> for TrainError {
    fn from(error: RanksError) -> Self {
        Self::Group(GroupError::Ranks(error))
    }
}

impl TrainError {
    /// Whether a GPU's memory was full. libtorch says so in words alone.
    pub(crate) fn is_out_of_memory(&self) -> bool {
        let mut cause: Option<&(dyn Error + 'static)> = Some(self);
        while let Some(error) = cause {
            if let Some(TchError::Torch(words)) = error.downcast_ref()
                && words.contains("out of memory")
            {
                return true;
            }
            cause = match error.downcast_ref::<Self>() {
                // A transparent error hides the one that it is.
                Some(Self::Torch(inner)) => Some(inner),
                Some(Self::Model(inner)) => Some(inner),
                Some(Self::Loss(inner)) => Some(inner),
                _ => error.source(),
            };
        }
        false
    }
}

/// An error with its causes, as one text.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

/// The error of writing `path`, with the remedy.
pub(crate) fn unsaved(path: &Path, source: io::Error) -> TrainError {
    TrainError::Unsaved {
        path: path.to_owned(),
        advice: advice(&source),
        source,
    }
}

fn advice(error: &io::Error) -> &'static str {
    /// EMFILE and ENFILE, which have no kind of their own.
    const TOO_MANY_FILES: [i32; 2] = [24, 23];
    match error.kind() {
        io::ErrorKind::StorageFull => {
            "the disk is full; free some space, then go on with --resume-from-checkpoint"
        }
        io::ErrorKind::QuotaExceeded => {
            "the disk quota is used up; free some space, then go on with --resume-from-checkpoint"
        }
        io::ErrorKind::PermissionDenied => {
            "there is no permission to; grant it, then go on with --resume-from-checkpoint, or give another --output-dir"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "the file system is read-only; mount it to be written, then go on with --resume-from-checkpoint, or give another --output-dir"
        }
        _ if os_error(error).is_some_and(|code| TOO_MANY_FILES.contains(&code)) => {
            "too many files are open; raise the limit (ulimit -n), then go on with --resume-from-checkpoint"
        }
        _ => "look after the disk, then go on with --resume-from-checkpoint",
    }
}

/// The system's number of an error, which fs-err and tempfile wrap in errors of their own.
fn os_error(error: &io::Error) -> Option<i32> {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let io_error = error.downcast_ref::<io::Error>();
        if let Some(code) = io_error.and_then(io::Error::raw_os_error) {
            return Some(code);
        }
        cause = match io_error.and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// A step whose loss or gradient is not finite.
#[derive(Debug)]
pub struct NonFinite {
    /// The update that was about to be made, counted from one.
    pub step: u64,
    /// Rows of the training data in this step, counted from zero, with the data set's name where there are
    /// several.
    pub rows: Vec<(Option<String>, Vec<u32>)>,
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
        write!(f, ", learning rate {learning_rate:e}, training rows ")?;
        for (i, (dataset, rows)) in rows.iter().enumerate() {
            let separator = if i == 0 { "" } else { ", " };
            let dataset = dataset.as_ref().map(|name| format!(" of {name}"));
            write!(f, "{separator}{rows:?}{}", dataset.unwrap_or_default())?;
        }
        write!(
            f,
            " counted from 0; the weights are those before this step: look at these rows, lower --learning-rate, or start from the last checkpoint"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_gpu_is_told_by_libtorchs_words() {
        let full = || TchError::Torch("CUDA out of memory. Tried to allocate 2.00 GiB".to_owned());
        assert!(TrainError::from(full()).is_out_of_memory());
        assert!(TrainError::from(losses::LossError::from(full())).is_out_of_memory());
        assert!(TrainError::from(model::ModelError::from(full())).is_out_of_memory());
        let other = TchError::Torch("size mismatch".to_owned());
        assert!(!TrainError::from(other).is_out_of_memory());
        let io = io::Error::other("out of memory");
        assert!(!TrainError::from(io).is_out_of_memory());
    }

    #[test]
    fn advice_goes_by_what_the_system_said() {
        for (code, word) in [
            (28, "disk is full"),
            (122, "quota"),
            (13, "no permission"),
            (30, "read-only"),
            (24, "ulimit -n"),
            (5, "look after the disk"),
        ] {
            let error = io::Error::from_raw_os_error(code);
            // As fs-err and tempfile have it: of the same kind, with the system's own within.
            let wrapped = io::Error::new(error.kind(), Wrapped(error));
            let message = unsaved(Path::new("run/final"), wrapped).to_string();
            assert!(message.starts_with("run/final could not be written: "));
            assert!(message.contains(word), "{code}: {message}");
        }
    }

    #[derive(Debug, thiserror::Error)]
    #[error("wrapped")]
    struct Wrapped(#[source] io::Error);
}

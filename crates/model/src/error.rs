//! Errors of a model, its files and its input.

use std::path::PathBuf;

/// An error of a model folder, a batch, or libtorch.
///
/// The messages name the file or thing, the value found, what is allowed, and what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file could not be read or written; the message of the source names the path.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A file is not JSON, or not the object or list it has to be.
    #[error("{path}: {}", short(cause))]
    Json {
        /// The file.
        path: PathBuf,
        /// The parser's message with line and column, shown inline and not as a source.
        cause: serde_json::Error,
    },
    /// A key of a configuration file has a value that is not allowed.
    #[error(
        "{path}: `{}`: found {}, allowed: {}",
        short(key),
        short(value),
        short(allowed)
    )]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The value found, as JSON; `nothing` for a missing key.
        value: String,
        /// The values allowed, in words.
        allowed: String,
    },
    /// A folder lacks a file that it has to have.
    #[error("{folder}: no {file}: {hint}")]
    MissingFile {
        /// The folder.
        folder: PathBuf,
        /// The file, or the choice of files.
        file: String,
        /// The next action.
        hint: String,
    },
    /// A path inside a configuration file points out of the model's folder.
    #[error("{path}: the path {:?} leaves the model's folder", short(value))]
    UnsafePath {
        /// The file that holds the path.
        path: PathBuf,
        /// The path as written there.
        value: String,
    },
    /// modules.json names a chain of modules that cannot be run.
    #[error("{path}: {}", short(message))]
    Modules {
        /// The file.
        path: PathBuf,
        /// The problem.
        message: String,
    },
    /// A weights file is truncated or not in the safetensors format.
    #[error(
        "{path}: not a whole safetensors file: {}; fetch or copy it again",
        short(cause)
    )]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// The reader's message, shown inline and not as a source.
        cause: safetensors::SafeTensorError,
    },
    /// Something else stands where weights should, by its content.
    #[error("{path}: {found}, not safetensors: {advice}")]
    NotWeights {
        /// The file.
        path: PathBuf,
        /// The format that its first bytes suggest.
        found: &'static str,
        /// The next action.
        advice: String,
    },
    /// The configuration describes a model far larger than the weights.
    #[error(
        "{path}: it describes {numel} parameters, but the weights are {n_bytes} bytes in all: the two are of different models"
    )]
    TooLarge {
        /// The configuration.
        path: PathBuf,
        /// Parameters of the model.
        numel: i64,
        /// Bytes of all weights' files.
        n_bytes: u64,
    },
    /// Tensors of the model that the weights do not hold.
    #[error("{path}: missing tensor {}", list(names))]
    MissingTensors {
        /// The file, or the index of the shards.
        path: PathBuf,
        /// Name and expected shape of each.
        names: Vec<String>,
    },
    /// Tensors in the weights that the model does not have.
    #[error(
        "{path}: unexpected tensor {}: the config describes no such parameter",
        list(names)
    )]
    UnexpectedTensors {
        /// The file.
        path: PathBuf,
        /// Name and shape of each.
        names: Vec<String>,
    },
    /// A tensor has another shape than the configuration says.
    #[error("{path}: tensor `{}` has shape {}, expected {expected:?}", short(name), short(format_args!("{found:?}")))]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape in the file.
        found: Vec<i64>,
        /// The shape that the configuration asks for.
        expected: Vec<i64>,
    },
    /// A tensor has a number format that is not read.
    #[error("{path}: tensor `{}` is {found}, allowed: F32, F16, BF16", short(name))]
    Dtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its format in the file.
        found: String,
    },
    /// A tensor is there twice.
    #[error("{path}: tensor `{}` appears twice (also in {first})", short(name))]
    DuplicateTensor {
        /// The file with the second one.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The file with the first one.
        first: PathBuf,
    },
    /// A tensor holds NaN or infinity.
    #[error("{path}: tensor `{}` holds {value} at element {index}", short(name))]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// NaN, inf or -inf.
        value: f32,
        /// Its place in the tensor, row by row.
        index: usize,
    },
    /// The index of the shards and the shards disagree.
    #[error("{path}: {}", short(message))]
    ShardIndex {
        /// The index.
        path: PathBuf,
        /// The disagreement.
        message: String,
    },
    /// The tokenizer cannot be built or fails on a text.
    #[error("{path}: {}", short(message))]
    Tokenizer {
        /// The tokenizer's file.
        path: PathBuf,
        /// The problem.
        message: String,
    },
    /// An argument does not fit the model.
    #[error("{0}")]
    Input(String),
    /// The progress callback asked to stop.
    #[error("stopped")]
    Stopped,
    /// libtorch refused a call.
    #[error("libtorch")]
    Torch(#[from] tch::TchError),
    /// A tensor does not lie in memory as the kernels need it.
    #[error(transparent)]
    Slice(#[from] shim::SliceError),
}

/// Text from a file, shortened in its middle and without line ends, for messages.
fn short(text: impl std::fmt::Display) -> String {
    const HEAD: usize = 160;
    const TAIL: usize = 80;
    let text = text.to_string().replace(['\n', '\r'], " ");
    let ends = (
        text.char_indices().nth(HEAD),
        text.char_indices().rev().nth(TAIL),
    );
    match ends {
        (Some((head, _)), Some((tail, _))) if head < tail => {
            format!("{}...{}", &text[..head], &text[tail..])
        }
        _ => text,
    }
}

/// At most four names, then how many more there are: a wrong checkpoint lacks hundreds.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 4;
    let mut text = names
        .iter()
        .take(SHOWN)
        .map(short)
        .collect::<Vec<_>>()
        .join(", ");
    if names.len() > SHOWN {
        text += &format!(" and {} more", names.len() - SHOWN);
    }
    text
}

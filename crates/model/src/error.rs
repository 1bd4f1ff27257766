//! What can be wrong with a model, its files or its input.

use std::path::PathBuf;

/// What can go wrong with a model folder, a batch, or libtorch.
///
/// The messages name the file or thing, the value found, what is allowed, and what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file could not be read or written; the message of the source names the path.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A file is not JSON, or not the object or list it has to be.
    #[error("{path}: {source}")]
    Json {
        /// The file.
        path: PathBuf,
        /// What the parser says, with line and column.
        source: serde_json::Error,
    },
    /// A key of a configuration file has a value that is not allowed.
    #[error("{path}: `{key}`: found {value}, allowed: {allowed}")]
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
        /// What to do.
        hint: String,
    },
    /// A path inside a configuration file points out of the model's folder.
    #[error("{path}: the path {value:?} leaves the model's folder")]
    UnsafePath {
        /// The file that holds the path.
        path: PathBuf,
        /// The path as written there.
        value: String,
    },
    /// modules.json names a chain of modules that cannot be run.
    #[error("{path}: {message}")]
    Modules {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A weights file is truncated or not in the safetensors format.
    #[error("{path}: not a whole safetensors file: {source}; fetch or copy it again")]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What the reader says.
        source: safetensors::SafeTensorError,
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
    #[error("{path}: tensor `{name}` has shape {found:?}, expected {expected:?}")]
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
    #[error("{path}: tensor `{name}` is {found}, allowed: F32, F16, BF16")]
    Dtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its format in the file.
        found: String,
    },
    /// A tensor is there twice.
    #[error("{path}: tensor `{name}` appears twice (also in {first})")]
    DuplicateTensor {
        /// The file with the second one.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The file with the first one.
        first: PathBuf,
    },
    /// A tensor holds NaN or infinity.
    #[error("{path}: tensor `{name}` holds {value} at element {index}")]
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
    #[error("{path}: {message}")]
    ShardIndex {
        /// The index.
        path: PathBuf,
        /// What disagrees.
        message: String,
    },
    /// The tokenizer cannot be built or fails on a text.
    #[error("{path}: {message}")]
    Tokenizer {
        /// The tokenizer's file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// An argument does not fit the model.
    #[error("{0}")]
    Input(String),
    /// The progress callback asked to stop.
    #[error("stopped")]
    Stopped,
    /// libtorch refused a call.
    #[error("libtorch: {0}")]
    Torch(#[from] tch::TchError),
    /// A tensor does not lie in memory as the kernels need it.
    #[error(transparent)]
    Slice(#[from] shim::SliceError),
}

/// At most four names, then how many more there are: a wrong checkpoint lacks hundreds.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 4;
    let mut text = names
        .iter()
        .take(SHOWN)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    if names.len() > SHOWN {
        text += &format!(" and {} more", names.len() - SHOWN);
    }
    text
}

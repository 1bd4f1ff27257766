//! The error of a search, of mining and of quantisation.

/// Why nothing was searched, mined or quantised.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SearchError {
    /// Embeddings whose shape can't be, or that don't fit together.
    #[error("{0}")]
    Shape(String),
    /// A value that is not a finite number, which no order and no range could hold.
    #[error("row {row} of the embeddings holds {value}: all values must be finite")]
    NotFinite {
        /// The row, from 0.
        row: usize,
        /// The value.
        value: f32,
    },
    /// No similarity has this name.
    #[error("unknown similarity `{name}`: known are {known}")]
    UnknownSimilarity {
        /// The name as given.
        name: String,
        /// All names, separated by commas.
        known: String,
    },
    /// An option that can't be followed.
    #[error("{option}: {problem}")]
    Option {
        /// The option's name.
        option: &'static str,
        /// The value, the allowed ones, and what to do.
        problem: String,
    },
    /// The caller asked to stop.
    #[error("stopped")]
    Stopped,
}

impl SearchError {
    pub(crate) fn option(option: &'static str, problem: String) -> Self {
        Self::Option { option, problem }
    }
}

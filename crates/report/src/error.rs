//! Errors of a report.

/// Error of a report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// A run's file does not have the expected content.
    #[error("{file} of {run}: {problem}")]
    File {
        /// Name of the run.
        run: String,
        /// Name of the file.
        file: &'static str,
        /// The parser's message.
        problem: String,
    },
    /// Embeddings do not have the shape of the sample.
    #[error(transparent)]
    Search(#[from] search::SearchError),
    /// The template cannot be rendered.
    #[error("page template")]
    Template(#[from] minijinja::Error),
}

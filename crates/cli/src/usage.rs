//! Wrong use of the program.

/// Flags or a configuration file that no run could follow: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UsageError(pub(crate) String);

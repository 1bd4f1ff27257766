//! How a source is loaded.

use serde::{Deserialize, Serialize};

/// What to load of a source. The default is all of it, and an error at the first bad row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// The columns to use, in this order; a label column only if it is named. Without it: all
    /// columns in the file's order, and then each must hold text or be the label.
    pub columns: Option<Vec<String>>,
    /// Only the first rows, counted over all files in order and before bad ones are skipped.
    pub max_rows: Option<usize>,
    /// The data set's name; without it the file's, folder's or pattern's own.
    pub name: Option<String>,
    /// What a bad row leads to.
    pub on_bad_row: OnBadRow,
}

/// What a row with a missing, empty or misshapen value leads to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnBadRow {
    /// Nothing is loaded; the error names the first bad rows and counts them.
    #[default]
    Error,
    /// The row is dropped; one warning counts them.
    Skip,
}

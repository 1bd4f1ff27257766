//! Options of loading a source.

use serde::{Deserialize, Serialize};

/// Options of loading a source. By default all of it is loaded, and a bad row is an error.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// The columns to use, in this order; a label column only if it is among them. By default all columns are used, in
    /// the file's order, and each must hold text or be the label.
    pub columns: Option<Vec<String>>,
    /// Only the first rows, counted over all files in order and before bad ones are skipped.
    pub max_rows: Option<usize>,
    /// The data set's name; by default that of the file, folder or pattern.
    pub name: Option<String>,
    /// The treatment of bad rows.
    pub on_bad_row: OnBadRow,
}

/// The treatment of rows with a missing, empty or misshapen value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnBadRow {
    /// Nothing is loaded; the error names the first bad rows and counts them.
    #[default]
    Error,
    /// The row is dropped; one warning counts them.
    Skip,
}

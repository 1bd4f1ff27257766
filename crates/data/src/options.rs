//! Options of loading a source.

use serde::{Deserialize, Serialize};

use crate::formats::splits::Split;

/// Options of loading a source. By default all of it is loaded, and a bad row is an error.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// The columns to use, in this order; a label column only if it is among them. By default all columns are used, in
    /// the file's order, and each must hold text or be the label.
    pub columns: Option<Vec<String>>,
    /// The column of labels; by default the one that is named as in [`crate::LABEL_COLUMNS`].
    pub label_column: Option<String>,
    /// Whether lists of scores beside lists of positives and negatives (`pos_scores`, `neg_scores`) become the labels, a
    /// teacher's: of each row the score of its positive, then those of its negatives. [`Self::label_column`] with the name
    /// of one of them asks for the same.
    pub teacher_scores: bool,
    /// Only the first rows, counted over all files in order and before bad ones are skipped.
    pub max_rows: Option<usize>,
    /// The data set's name; by default that of the file, folder or pattern.
    pub name: Option<String>,
    /// The treatment of bad rows.
    pub on_bad_row: OnBadRow,
    /// The split to take of a folder that has several.
    pub split: Split,
    /// How CSV and TSV are written.
    pub dialect: Dialect,
    /// Negatives a row, where a column holds lists of them. Rows with fewer have them again in turn, and of others the
    /// rest is left aside. By default as many as there are, by the rule in [`crate::load()`].
    pub num_negatives: Option<usize>,
    /// Classes that labels in words are known to have, in the order of their numbers: those of the training data, when
    /// other data is loaded. Further ones are numbered in order of appearance.
    pub classes: Vec<String>,
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
    /// Texts that are empty, blank or missing are kept, the missing ones as the empty text, so that rows stay in step
    /// with something else. Other defects are errors.
    #[serde(skip)]
    Keep,
}

/// The form of CSV and TSV.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dialect {
    /// The byte between fields; by default the one of the file's name, unless the header shows another.
    pub separator: Option<u8>,
    /// Whether quotation marks are part of the text.
    pub no_quotes: bool,
}

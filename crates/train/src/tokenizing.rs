//! Texts with their token ids.

use data::{Dataset, TokenizedDataset};

/// A data set with its token ids.
#[derive(Debug)]
pub struct TrainingData {
    /// The texts, which decide what a duplicate is.
    pub dataset: Dataset,
    /// The same rows as token ids.
    pub tokens: TokenizedDataset,
}

//! A data set as a run trains on it, in memory or on disk.

use std::sync::Arc;

use data::{Dataset, TokenStore, TokenizedDataset, sampler::Rows};

/// A data set with its token ids.
#[derive(Debug)]
pub struct TrainingData {
    /// The texts, which decide what a duplicate is. Where there is a store, those of the first rows alone.
    pub dataset: Dataset,
    /// The same rows as token ids.
    pub tokens: TokenizedDataset,
    /// The ids and labels of all rows, where they are on disk.
    pub store: Option<Arc<TokenStore>>,
}

impl TrainingData {
    pub(crate) fn in_memory(dataset: Dataset, tokens: TokenizedDataset) -> Self {
        Self {
            dataset,
            tokens,
            store: None,
        }
    }

    /// Number of rows.
    pub fn n_rows(&self) -> usize {
        self.rows().n_rows()
    }

    /// Number of tokens of all rows.
    pub fn n_tokens(&self) -> usize {
        match &self.store {
            None => self.tokens.n_tokens().iter().sum(),
            Some(store) => store.n_tokens().iter().sum(),
        }
    }

    /// The rows as samplers draw them; texts on disk are not numbered.
    pub(crate) fn rows(&self) -> Rows<'_> {
        match &self.store {
            None => Rows::Whole(&self.dataset),
            Some(store) => Rows::Numbered {
                n_rows: store.n_rows(),
                texts: None,
            },
        }
    }

    /// The digest of all texts and labels.
    pub(crate) fn sha256(&self) -> String {
        match &self.store {
            None => self.dataset.sha256(),
            Some(store) => store.sha256().to_owned(),
        }
    }
}

//! Tokenised columns: what the training loop reads.

use crate::dataset::{Dataset, Labels, TextColumn};

/// Token ids of a column's rows, end to end in one buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenColumn {
    /// All rows' ids.
    pub ids: Vec<u32>,
    /// `offsets[i]..offsets[i + 1]` are row `i`'s ids; starts with 0.
    pub offsets: Vec<usize>,
}

impl TokenColumn {
    /// Row `i`'s ids.
    ///
    /// # Panics
    /// If `i` is not below [`TokenColumn::len`].
    pub fn get(&self, i: usize) -> &[u32] {
        &self.ids[self.offsets[i]..self.offsets[i + 1]]
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of tokens of all rows together.
    pub fn n_tokens(&self) -> usize {
        self.ids.len()
    }
}

/// A [`Dataset`] whose texts have become token ids; made by [`Dataset::tokenize`].
#[derive(Debug, Clone, PartialEq)]
pub struct TokenizedDataset {
    /// In the data set's order.
    pub columns: Vec<TokenColumn>,
    /// The data set's labels.
    pub labels: Option<Labels>,
}

impl TokenizedDataset {
    /// Number of rows.
    pub fn n_rows(&self) -> usize {
        self.columns.first().map_or(0, TokenColumn::len)
    }

    /// Number of tokens of each column.
    pub fn n_tokens(&self) -> Vec<usize> {
        self.columns.iter().map(TokenColumn::n_tokens).collect()
    }
}

/// Texts handed to the tokenizer at once: enough to keep all cores busy, few enough that a
/// progress bar moves and an interrupt is seen within a fraction of a second.
const N_TEXTS_PER_CHUNK: usize = 4096;

impl Dataset {
    /// Tokenises every text once, column by column, by calling `tokenize` on chunks of texts.
    /// `tokenize` returns one list of ids a text, in the texts' order; between two calls it may
    /// advance a progress bar or look for an interrupt and end the work with an error of its own.
    ///
    /// # Errors
    /// The first error of `tokenize`.
    ///
    /// # Panics
    /// If `tokenize` returns another number of lists than it was given texts.
    pub fn tokenize<E>(
        &self,
        mut tokenize: impl FnMut(&[&str]) -> Result<Vec<Vec<u32>>, E>,
    ) -> Result<TokenizedDataset, E> {
        let columns = self
            .columns
            .iter()
            .map(|column| tokenize_column(column, &mut tokenize))
            .collect::<Result<_, E>>()?;
        Ok(TokenizedDataset {
            columns,
            labels: self.labels.clone(),
        })
    }
}

fn tokenize_column<E>(
    column: &TextColumn,
    tokenize: &mut impl FnMut(&[&str]) -> Result<Vec<Vec<u32>>, E>,
) -> Result<TokenColumn, E> {
    let n_rows = column.texts.len();
    let mut ids = Vec::new();
    let mut offsets = Vec::with_capacity(n_rows + 1);
    offsets.push(0);
    let mut texts = Vec::with_capacity(N_TEXTS_PER_CHUNK.min(n_rows));
    for start in (0..n_rows).step_by(N_TEXTS_PER_CHUNK) {
        texts.clear();
        texts.extend(
            column
                .texts
                .slice(start..n_rows.min(start + N_TEXTS_PER_CHUNK)),
        );
        let rows = tokenize(&texts)?;
        assert_eq!(rows.len(), texts.len(), "one list of ids for each text");
        for row in rows {
            ids.extend_from_slice(&row);
            offsets.push(ids.len());
        }
    }
    Ok(TokenColumn { ids, offsets })
}

//! Batches without padding: all tokens of a batch in one row, grouped by sentence length.

use tch::{Device, Tensor};

use crate::{error::ModelError, mpnet};

/// Sentences of different lengths as one row of tokens, without padding.
///
/// The sentences are sorted by length, shortest first and otherwise in the caller's order, so that
/// those of one length form a [`Group`]: contiguous tokens that view as `[sentences, length]`.
#[derive(Debug)]
pub struct PackedBatch {
    ids: Tensor,
    positions: Tensor,
    restore: Tensor,
    host_ids: Vec<u32>,
    host_positions: Vec<u32>,
    offsets: Vec<usize>,
    lengths: Vec<usize>,
    groups: Vec<Group>,
    max_id: u32,
    prompt_length: usize,
}

/// The sentences of one length in a [`PackedBatch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    /// Tokens per sentence.
    pub length: usize,
    /// The number of sentences.
    pub sentences: usize,
}

impl Group {
    /// The number of tokens.
    pub fn tokens(&self) -> usize {
        self.length * self.sentences
    }
}

impl PackedBatch {
    /// Packs token ids, special tokens included.
    ///
    /// # Errors
    ///
    /// When there is no sentence, or one without a token.
    pub fn new(sentences: &[&[u32]], device: Device) -> Result<Self, ModelError> {
        if sentences.is_empty() {
            return Err(ModelError::Input(
                "a batch needs at least one sentence".to_owned(),
            ));
        }
        if let Some(i) = sentences.iter().position(|sentence| sentence.is_empty()) {
            return Err(ModelError::Input(format!(
                "sentence {i} of the batch has no tokens: even an empty text has its special tokens"
            )));
        }
        let mut order: Vec<usize> = (0..sentences.len()).collect();
        order.sort_by_key(|&i| sentences[i].len());

        let n_tokens = sentences.iter().map(|sentence| sentence.len()).sum();
        let mut ids = Vec::with_capacity(n_tokens);
        let mut positions = Vec::with_capacity(n_tokens);
        let mut offsets = vec![0];
        let mut restore = vec![0; sentences.len()];
        let mut groups: Vec<Group> = Vec::new();
        for (row, &i) in order.iter().enumerate() {
            restore[i] = row as i64;
            ids.extend_from_slice(sentences[i]);
            positions.extend(mpnet::position_ids(sentences[i]));
            offsets.push(ids.len());
            let length = sentences[i].len();
            match groups.last_mut() {
                Some(group) if group.length == length => group.sentences += 1,
                _ => groups.push(Group {
                    length,
                    sentences: 1,
                }),
            }
        }
        let wide = |values: &[u32]| -> Result<Tensor, ModelError> {
            let values: Vec<i64> = values.iter().copied().map(i64::from).collect();
            Ok(Tensor::f_from_slice(&values)?.f_to_device(device)?)
        };
        Ok(Self {
            ids: wide(&ids)?,
            positions: wide(&positions)?,
            restore: Tensor::f_from_slice(&restore)?.f_to_device(device)?,
            lengths: sentences.iter().map(|sentence| sentence.len()).collect(),
            groups,
            max_id: ids.iter().copied().max().unwrap_or(0),
            host_ids: ids,
            host_positions: positions,
            offsets,
            prompt_length: 0,
        })
    }

    /// Says how many tokens at the start of every sentence belong to a prompt.
    ///
    /// A [`crate::Pooling`] whose `include_prompt` is false leaves them out.
    pub fn with_prompt_length(self, prompt_length: usize) -> Self {
        Self {
            prompt_length,
            ..self
        }
    }

    /// Token ids in packed order, in the host's memory.
    pub(crate) fn host_ids(&self) -> &[u32] {
        &self.host_ids
    }

    /// MPNet's position ids in packed order, in the host's memory.
    pub(crate) fn host_positions(&self) -> &[u32] {
        &self.host_positions
    }

    /// Where each sentence begins in packed order, and the number of tokens.
    pub(crate) fn offsets(&self) -> &[usize] {
        &self.offsets
    }

    /// Token ids, `[tokens]`, 64-bit, in packed order.
    pub fn ids(&self) -> &Tensor {
        &self.ids
    }

    /// MPNet's position ids, `[tokens]`, 64-bit, in packed order.
    pub fn positions(&self) -> &Tensor {
        &self.positions
    }

    /// The packed row of each of the caller's sentences, `[sentences]`, 64-bit.
    pub fn restore(&self) -> &Tensor {
        &self.restore
    }

    /// The length of each of the caller's sentences, in the caller's order.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// The groups of equal length, in packed order.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The number of sentences.
    pub fn sentences(&self) -> usize {
        self.lengths.len()
    }

    /// The number of tokens.
    pub fn tokens(&self) -> usize {
        self.groups.iter().map(Group::tokens).sum()
    }

    /// The length of the longest sentence.
    pub fn max_length(&self) -> usize {
        self.groups.last().map_or(0, |group| group.length)
    }

    /// The largest token id.
    pub fn max_id(&self) -> u32 {
        self.max_id
    }

    /// The number of prompt tokens at the start of every sentence.
    pub fn prompt_length(&self) -> usize {
        self.prompt_length
    }

    /// Splits `[tokens, ...]` into one tensor per group, `[group's tokens, ...]`.
    ///
    /// One split, not a slice per group: its gradient is one concatenation.
    pub(crate) fn split(&self, rows: &Tensor) -> Result<Vec<Tensor>, ModelError> {
        let sizes: Vec<i64> = self
            .groups
            .iter()
            .map(|group| group.tokens() as i64)
            .collect();
        Ok(rows.f_split_with_sizes(sizes.as_slice(), 0)?)
    }
}

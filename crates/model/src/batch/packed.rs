//! Batches without padding: all tokens of a batch in one row, ordered by sentence length.

use std::fmt;

use tch::{Device, Tensor};

use crate::{batch::upload::upload, error::ModelError};

/// Sentences of different lengths as one row of tokens, without padding.
///
/// The sentences are sorted by length, shortest first and otherwise in the caller's order, so that
/// those of one length lie side by side: contiguous tokens that view as `[sentences, length]`.
#[derive(Debug)]
pub struct PackedBatch {
    device: Device,
    host_ids: Vec<u32>,
    host_restore: Vec<usize>,
    offsets: Vec<usize>,
    lengths: Vec<usize>,
    max_id: u32,
    /// In packed order; empty where there are no prompts.
    prompt_lengths: Vec<usize>,
    first_token: usize,
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
        let order = by_length(sentences);
        let n_tokens = sentences.iter().map(|sentence| sentence.len()).sum();
        let mut ids = Vec::with_capacity(n_tokens);
        let mut offsets = vec![0];
        let mut restore = vec![0; sentences.len()];
        for (row, &i) in order.iter().enumerate() {
            restore[i] = row;
            ids.extend_from_slice(sentences[i]);
            offsets.push(ids.len());
        }
        Ok(Self {
            device,
            host_restore: restore,
            lengths: sentences.iter().map(|sentence| sentence.len()).collect(),
            max_id: ids.iter().copied().max().unwrap_or(0),
            host_ids: ids,
            offsets,
            prompt_lengths: Vec::new(),
            first_token: 0,
        })
    }

    /// Sets the number of tokens at the start of every sentence that belong to a prompt.
    ///
    /// A [`crate::Pooling`] whose `include_prompt` is false leaves them out.
    pub fn with_prompt_length(mut self, prompt_length: usize) -> Self {
        self.prompt_lengths = match prompt_length {
            0 => Vec::new(),
            length => vec![length; self.sentences()],
        };
        self
    }

    /// Sets for each of the caller's sentences the number of tokens at its start that belong to a prompt.
    ///
    /// # Errors
    ///
    /// When there is not one number a sentence.
    pub fn with_prompt_lengths(mut self, prompt_lengths: &[usize]) -> Result<Self, ModelError> {
        if prompt_lengths.len() != self.sentences() {
            return Err(ModelError::Input(format!(
                "{} lengths of prompts for {} sentences: there must be one for each",
                prompt_lengths.len(),
                self.sentences()
            )));
        }
        self.prompt_lengths.clear();
        if prompt_lengths.iter().any(|&length| length > 0) {
            self.prompt_lengths.resize(prompt_lengths.len(), 0);
            for (&row, &length) in self.host_restore.iter().zip(prompt_lengths) {
                self.prompt_lengths[row] = length;
            }
        }
        Ok(self)
    }

    /// The place of the first token in the whole batch that this is a chunk of.
    pub(crate) fn first_token(&self) -> usize {
        self.first_token
    }

    /// Token ids in packed order, in the host's memory.
    pub(crate) fn host_ids(&self) -> &[u32] {
        &self.host_ids
    }

    /// The packed row of each of the caller's sentences, in the host's memory.
    pub(crate) fn host_restore(&self) -> &[usize] {
        &self.host_restore
    }

    /// The first token of each sentence in packed order, and the number of tokens.
    pub(crate) fn offsets(&self) -> &[usize] {
        &self.offsets
    }

    /// The device that the batch is computed on.
    pub(crate) fn device(&self) -> Device {
        self.device
    }

    /// The length of each of the caller's sentences, in the caller's order.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// The number of sentences.
    pub fn sentences(&self) -> usize {
        self.lengths.len()
    }

    /// The number of tokens.
    pub fn tokens(&self) -> usize {
        self.host_ids.len()
    }

    /// The length of the longest sentence.
    pub fn max_length(&self) -> usize {
        self.lengths.iter().copied().max().unwrap_or(0)
    }

    /// The largest token id.
    pub fn max_id(&self) -> u32 {
        self.max_id
    }

    /// One token of each sentence, in packed order. Prompts must leave one.
    pub(crate) fn places_of(&self, token: OneToken) -> Vec<usize> {
        let ends = self.offsets.windows(2).enumerate();
        ends.map(|(i, ends)| match token {
            OneToken::First { prompts: true } => ends[0],
            OneToken::First { prompts: false } => {
                ends[0] + self.prompt_lengths.get(i).copied().unwrap_or(0)
            }
            OneToken::Last => ends[1] - 1,
        })
        .collect()
    }

    /// The number of prompt tokens at the start of each sentence, in packed order; empty where there are none.
    pub(crate) fn prompt_lengths(&self) -> &[usize] {
        &self.prompt_lengths
    }
}

/// The token of a sentence that alone is pooled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OneToken {
    /// The first, or the first after the prompt.
    First {
        /// Whether the prompt's tokens count.
        prompts: bool,
    },
    /// The last.
    Last,
}

/// The largest part of a batch that is embedded at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkLimit {
    /// The largest number of tokens; a longer sentence is a chunk of its own.
    pub tokens: usize,
    /// The largest number of sentences.
    pub sentences: usize,
}

impl ChunkLimit {
    /// The whole batch at once.
    pub const NONE: Self = Self {
        tokens: usize::MAX,
        sentences: usize::MAX,
    };
}

/// A batch that is embedded in chunks, so that a chunk and not the batch has to fit in memory.
///
/// The chunks cut the rows of tokens that [`PackedBatch`] makes of the whole batch: each holds sentences of
/// similar length, whatever column they come from. A token keeps its place in the whole batch, on which its dropout
/// mask depends.
pub struct ChunkedBatch<'s> {
    chunks: Vec<PackedBatch>,
    /// The places of each chunk's sentences in the caller's order, 64-bit.
    rows: Vec<Tensor>,
    host_rows: Vec<Vec<usize>>,
    is_stopped: Option<&'s dyn Fn() -> bool>,
}

impl<'s> ChunkedBatch<'s> {
    /// Packs token ids, special tokens included, in as few chunks as `limit` allows.
    ///
    /// # Errors
    ///
    /// As [`PackedBatch::new`].
    pub fn new(
        sentences: &[&[u32]],
        limit: ChunkLimit,
        device: Device,
    ) -> Result<Self, ModelError> {
        Self::with_prompts(sentences, &[], limit, device)
    }

    /// As [`Self::new`], for sentences that begin with prompts: `prompt_lengths` has the number of each one's
    /// prompt tokens, or is empty where there are none. A [`crate::Pooling`] whose `include_prompt` is false
    /// leaves them out.
    ///
    /// # Errors
    ///
    /// As [`PackedBatch::new`], and when there is not one number a sentence.
    pub fn with_prompts(
        sentences: &[&[u32]],
        prompt_lengths: &[usize],
        limit: ChunkLimit,
        device: Device,
    ) -> Result<Self, ModelError> {
        if !prompt_lengths.is_empty() && prompt_lengths.len() != sentences.len() {
            return Err(ModelError::Input(format!(
                "{} lengths of prompts for {} sentences: there must be one for each",
                prompt_lengths.len(),
                sentences.len()
            )));
        }
        let order = by_length(sentences);
        let (mut chunks, mut rows, mut host_rows) = (Vec::new(), Vec::new(), Vec::new());
        let (mut begin, mut first_token) = (0, 0);
        while begin < order.len() || chunks.is_empty() {
            let mut n_tokens = 0;
            let n_fitting = order[begin..]
                .iter()
                .take(limit.sentences)
                .take_while(|&&i| {
                    n_tokens += sentences[i].len();
                    n_tokens <= limit.tokens
                })
                .count();
            let end = (begin + n_fitting.max(1)).min(order.len());
            let chunk: Vec<&[u32]> = order[begin..end].iter().map(|&i| sentences[i]).collect();
            let mut chunk = PackedBatch::new(&chunk, device)?;
            if !prompt_lengths.is_empty() {
                let lengths: Vec<usize> = order[begin..end]
                    .iter()
                    .map(|&i| prompt_lengths[i])
                    .collect();
                chunk = chunk.with_prompt_lengths(&lengths)?;
            }
            chunk.first_token = first_token;
            first_token += chunk.tokens();
            chunks.push(chunk);
            rows.push(places(&order[begin..end], device)?);
            host_rows.push(order[begin..end].to_vec());
            begin = end;
        }
        Ok(Self {
            chunks,
            rows,
            host_rows,
            is_stopped: None,
        })
    }

    /// Lets [`crate::SentenceTransformer::forward_backward`] ask before each chunk whether to go on: where not, it
    /// fails with [`ModelError::Stopped`], and part of the gradient may have been added.
    pub fn stopped_by(self, is_stopped: &'s dyn Fn() -> bool) -> Self {
        Self {
            is_stopped: Some(is_stopped),
            ..self
        }
    }

    /// Fails where the caller asks to stop.
    pub(crate) fn check_stopped(&self) -> Result<(), ModelError> {
        match self.is_stopped {
            Some(is_stopped) if is_stopped() => Err(ModelError::Stopped),
            _ => Ok(()),
        }
    }

    /// The chunks, shortest sentences first.
    pub fn chunks(&self) -> &[PackedBatch] {
        &self.chunks
    }

    /// The number of sentences.
    pub fn sentences(&self) -> usize {
        self.chunks.iter().map(PackedBatch::sentences).sum()
    }

    /// The number of tokens.
    pub fn tokens(&self) -> usize {
        self.chunks.iter().map(PackedBatch::tokens).sum()
    }

    /// The places of a chunk's sentences in the caller's order, `[sentences]`, 64-bit.
    pub(crate) fn rows(&self, chunk: usize) -> &Tensor {
        &self.rows[chunk]
    }

    /// As [`Self::rows`], in the host's memory.
    pub(crate) fn host_rows(&self, chunk: usize) -> &[usize] {
        &self.host_rows[chunk]
    }
}

// A closure can't be printed.
impl fmt::Debug for ChunkedBatch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChunkedBatch")
            .field("chunks", &self.chunks)
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}

/// Rows as libtorch's indices, 64-bit.
fn places(rows: &[usize], device: Device) -> Result<Tensor, ModelError> {
    let rows: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
    upload(&rows, device)
}

/// The sentences' places, shortest first and otherwise in the caller's order.
fn by_length(sentences: &[&[u32]]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..sentences.len()).collect();
    order.sort_by_key(|&i| sentences[i].len());
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(
        lengths: &[usize],
        tokens: usize,
        sentences: usize,
    ) -> Vec<(usize, Vec<usize>, Vec<i64>)> {
        let ids: Vec<Vec<u32>> = lengths.iter().map(|&length| vec![7; length]).collect();
        let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
        let batch = ChunkedBatch::new(&ids, ChunkLimit { tokens, sentences }, Device::Cpu).unwrap();
        assert_eq!(batch.sentences(), lengths.len());
        assert_eq!(batch.tokens(), lengths.iter().sum::<usize>());
        let chunks = batch.chunks.iter().zip(&batch.rows);
        chunks
            .map(|(chunk, rows)| {
                let rows = Vec::<i64>::try_from(rows).unwrap();
                (chunk.first_token(), chunk.lengths().to_vec(), rows)
            })
            .collect()
    }

    #[test]
    fn chunks_hold_neighbours_in_length_up_to_the_limit() {
        let (all, none) = (usize::MAX, usize::MAX);
        assert_eq!(
            chunks(&[5, 2, 9, 2], all, none),
            [(0, vec![2, 2, 5, 9], vec![1, 3, 0, 2])]
        );
        assert_eq!(
            chunks(&[5, 2, 9, 2], 9, none),
            [(0, vec![2, 2, 5], vec![1, 3, 0]), (9, vec![9], vec![2])]
        );
        assert_eq!(
            chunks(&[5, 2, 9, 2], all, 1),
            [
                (0, vec![2], vec![1]),
                (2, vec![2], vec![3]),
                (4, vec![5], vec![0]),
                (9, vec![9], vec![2])
            ]
        );
        // Longer than the limit: alone.
        assert_eq!(
            chunks(&[8, 6], 3, none),
            [(0, vec![6], vec![1]), (6, vec![8], vec![0])]
        );
    }

    #[test]
    fn prompts_go_with_their_sentences() {
        let lengths = [5, 2, 9, 2];
        let ids: Vec<Vec<u32>> = lengths.iter().map(|&length| vec![7; length]).collect();
        let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
        let limit = ChunkLimit {
            tokens: 9,
            sentences: usize::MAX,
        };
        let batch =
            |prompts: &[usize]| ChunkedBatch::with_prompts(&ids, prompts, limit, Device::Cpu);
        let found = batch(&[3, 0, 4, 1]).unwrap();
        let found: Vec<&[usize]> = found
            .chunks
            .iter()
            .map(PackedBatch::prompt_lengths)
            .collect();
        assert_eq!(found, [&[0, 1, 3][..], &[4]]);
        let none = batch(&[0; 4]).unwrap();
        assert!(
            none.chunks
                .iter()
                .all(|chunk| chunk.prompt_lengths().is_empty())
        );
        let error = batch(&[1, 2]).unwrap_err().to_string();
        assert_eq!(
            error,
            "2 lengths of prompts for 4 sentences: there must be one for each"
        );
    }

    #[test]
    fn no_sentences_are_refused_as_by_a_packed_batch() {
        let error = ChunkedBatch::new(&[], ChunkLimit::NONE, Device::Cpu).unwrap_err();
        assert!(
            error.to_string().contains("at least one sentence"),
            "{error}"
        );
    }
}

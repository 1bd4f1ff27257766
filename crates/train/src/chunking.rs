//! Gradient caching: the parts that a batch is embedded in.

use losses::Loss;
use model::ChunkLimit;

use crate::arguments::TrainingArguments;

/// Tokens of a chunk where the loss asks for chunks and the arguments don't say how large: about 2.4 GB of
/// activations with MPNet-base, and more than enough to keep the cores busy.
const MINI_BATCH_TOKENS: usize = 4096;

/// The size of the parts that batches are embedded in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chunking {
    /// `--mini-batch-tokens`.
    asked: Option<usize>,
    /// `--auto-micro-batch`: parts may become smaller where a batch does not fit in memory.
    pub(crate) may_shrink: bool,
    /// Tokens that fit in memory, as far as is known.
    fitting: usize,
}

impl Chunking {
    pub(crate) fn new(arguments: &TrainingArguments) -> Self {
        Self {
            asked: arguments.mini_batch_tokens,
            may_shrink: arguments.auto_micro_batch,
            fitting: usize::MAX,
        }
    }

    /// The largest part, as the loss or the arguments have it and memory allows.
    pub(crate) fn limit(&self, loss: &dyn Loss) -> ChunkLimit {
        let limit = match (loss.mini_batch_size(), self.asked) {
            (None, None) => ChunkLimit::NONE,
            (sentences, tokens) => ChunkLimit {
                tokens: tokens.unwrap_or(MINI_BATCH_TOKENS),
                sentences: sentences.unwrap_or(usize::MAX),
            },
        };
        ChunkLimit {
            tokens: limit.tokens.min(self.fitting),
            ..limit
        }
    }

    /// From here on, no part has more than `fitting` tokens.
    pub(crate) fn shrink_to(&mut self, fitting: usize) {
        self.fitting = fitting;
    }
}

//! Forward and backward: what the batches of a step add to the gradient.

use data::sampler::Batch;
use kernels::profile::{Part, time};
use losses::{StepInputs, cached::gradients};
use model::{ChunkLimit, ChunkedBatch, ModelError};
use tch::{Device, TchError, Tensor};

use super::Trainer;
use crate::{
    error::TrainError,
    events::Event,
    failpoint,
    step::device::Deferred,
    tasks::{Sentences, Task},
};

impl<'a> Trainer<'a> {
    /// Forward and backward of all micro-batches: their shares of the step's loss, and their tokens. `None` when a
    /// signal came, in which case the gradient is of no use.
    ///
    /// A batch that does not fit in a GPU's memory is cut in parts of half as many tokens, and the step begins
    /// again, where the arguments allow it: gradient caching gives the same gradient. The parts stay that small.
    pub(super) fn accumulate_all(
        &mut self,
        micro_batches: &[Batch],
    ) -> Result<Option<(Vec<Tensor>, usize)>, TrainError> {
        let accumulated = loop {
            match self.try_accumulate_all(micro_batches) {
                Err(error) if error.is_out_of_memory() => self.cut_smaller(micro_batches, error)?,
                done => break done?,
            }
        };
        if let Some(injected) = failpoint::number("gradient") {
            let _ = self.gradient.f_narrow(0, 0, 1)?.f_fill_(injected)?;
        }
        Ok(accumulated)
    }

    fn try_accumulate_all(
        &self,
        micro_batches: &[Batch],
    ) -> Result<Option<(Vec<Tensor>, usize)>, TrainError> {
        let (mut losses, mut n_tokens) = (Vec::with_capacity(micro_batches.len()), 0);
        for (micro_step, batch) in micro_batches.iter().enumerate() {
            if (self.is_interrupted)() {
                return Ok(None);
            }
            let (share, n) = match self.accumulate(batch, micro_step, micro_batches.len()) {
                Err(TrainError::Model(ModelError::Stopped)) => return Ok(None),
                accumulated => accumulated?,
            };
            losses.push(share);
            n_tokens += n;
        }
        Ok(Some((losses, n_tokens)))
    }

    /// After `error`, halves what is embedded at a time, and forgets what there is of the step's gradient.
    fn cut_smaller(
        &mut self,
        micro_batches: &[Batch],
        error: TrainError,
    ) -> Result<(), TrainError> {
        let (mut n_tokens, mut longest) = (0, 0);
        for batch in micro_batches {
            let task = &self.training[batch.dataset];
            for chunk in self.chunks(task, &task.sentences(&batch.rows))?.chunks() {
                n_tokens = n_tokens.max(chunk.tokens());
                longest = longest.max(chunk.max_length());
            }
        }
        let step = self.state.global_step + 1;
        if !self.arguments.auto_micro_batch || n_tokens <= longest {
            return Err(TrainError::OutOfMemory {
                step,
                n_tokens,
                can_cut: n_tokens > longest,
                source: Box::new(error),
            });
        }
        let fitting = (n_tokens / 2).max(longest);
        self.fitting_tokens = Some(fitting);
        let _ = self.gradient.f_zero_()?;
        self.loss_weights.clear()?;
        if self.gradient.device() != Device::Cpu {
            shim::torch::empty_cache()?;
        }
        self.tell(&Event::CutSmaller {
            step,
            n_tokens,
            fitting,
        })
    }

    /// Forward and backward of one micro-batch. Adds its share of the gradient to the buffers and returns its
    /// share of the step's loss, and its number of tokens.
    fn accumulate(
        &self,
        batch: &Batch,
        micro_step: usize,
        n_micro_batches: usize,
    ) -> Result<(Tensor, usize), TrainError> {
        if failpoint::number("memory").is_some() {
            let words = "CUDA out of memory (a failpoint says so)".to_owned();
            return Err(TchError::Torch(words).into());
        }
        let task = &self.training[batch.dataset];
        let loss = self.objectives[task.objective].loss;
        let seed = self.dropout_seed(micro_step);
        let share = 1.0 / n_micro_batches as f64;
        let chunks = self.chunks(task, &task.sentences(&batch.rows))?;
        let chunks = chunks.stopped_by(self.is_interrupted);
        let layers = loss.prior_layers(self.model.n_layers(), seed);
        let mut of_weights = Vec::new();
        let value = self.model.forward_backward_layers(
            &chunks,
            &layers,
            seed,
            &self.gradient,
            |embeddings| {
                let _timer = time(Part::Loss);
                let inputs = self.loss_inputs(task, &batch.rows, &layers, embeddings)?;
                let mut found = gradients(loss, &inputs.step(seed), share)?;
                if let Some(scale) = self.deferred.as_ref().and_then(Deferred::loss_scale) {
                    found.scale(scale)?;
                }
                of_weights = found.parameters;
                let own = &found.embeddings[..inputs.n_columns];
                let mut by_layer = vec![Tensor::f_cat(own, 0)?];
                for columns in &found.prior {
                    by_layer.push(Tensor::f_cat(columns, 0)?);
                }
                Ok::<_, TrainError>((found.value, by_layer))
            },
        )?;
        self.loss_weights.add(task.objective, &of_weights)?;
        Ok((value, chunks.tokens()))
    }

    /// A batch, cut as gradient caching asks for: by the loss or by `mini_batch_tokens`, and to what fits.
    pub(super) fn chunks(
        &self,
        task: &Task<'_>,
        batch: &Sentences<'_>,
    ) -> Result<ChunkedBatch<'a>, TrainError> {
        let limit = chunk_limit(
            self.objectives[task.objective].loss.mini_batch_size(),
            self.arguments.mini_batch_tokens,
        );
        let limit = ChunkLimit {
            tokens: limit.tokens.min(self.fitting_tokens.unwrap_or(usize::MAX)),
            ..limit
        };
        let device = self.model.parameters().device();
        let chunks = ChunkedBatch::with_prompts(&batch.ids, &batch.prompt_lengths, limit, device);
        Ok(chunks?)
    }

    /// What the loss takes, from the embeddings of the last layer and of `layers`, each `[n_columns * n_rows,
    /// dimension]`, column after column.
    pub(super) fn loss_inputs(
        &self,
        task: &Task<'_>,
        rows: &[u32],
        layers: &[usize],
        embeddings: &[Tensor],
    ) -> Result<LossInputs, TrainError> {
        let n_rows = rows.len() as i64;
        let mut columns = embeddings[0].f_split(n_rows, 0)?;
        let n_columns = columns.len();
        let guide = self.objectives[task.objective].guide;
        if let (Some(guide), Some(sentences)) = (guide, task.guide_sentences(rows)) {
            let guided = guide.embed_chunks(&self.chunks(task, &sentences)?)?;
            columns.extend(guided.f_split(n_rows, 0)?);
        }
        let mut prior = Vec::with_capacity(layers.len());
        for (&layer, embeddings) in layers.iter().zip(&embeddings[1..]) {
            prior.push((layer, embeddings.f_split(n_rows, 0)?));
        }
        let device = embeddings[0].device();
        let labels = task.labels(rows)?;
        let labels = labels
            .map(|labels| labels.f_to_device(device))
            .transpose()?;
        Ok(LossInputs {
            columns,
            n_columns,
            prior,
            labels,
        })
    }

    /// Dropout depends on seed, step and micro-batch alone, so that evaluations in between and a resume
    /// change nothing.
    fn dropout_seed(&self, micro_step: usize) -> u64 {
        dropout_seed(self.arguments.seed, self.state.global_step, micro_step)
    }
}

/// The tensors of a [`StepInputs`].
pub(super) struct LossInputs {
    /// The model's columns, then the guide's.
    columns: Vec<Tensor>,
    /// How many of them are the model's.
    n_columns: usize,
    prior: Vec<(usize, Vec<Tensor>)>,
    labels: Option<Tensor>,
}

impl LossInputs {
    pub(super) fn step(&self, seed: u64) -> StepInputs<'_> {
        StepInputs {
            embeddings: &self.columns,
            prior: &self.prior,
            labels: self.labels.as_ref(),
            seed,
        }
    }
}

/// Tokens of a chunk where the loss asks for chunks and the arguments don't say how large: about 2.4 GB of
/// activations with MPNet-base, and more than enough to keep the cores busy.
const MINI_BATCH_TOKENS: usize = 4096;

/// What gradient caching embeds at a time, where the loss or the arguments ask for it.
fn chunk_limit(mini_batch_size: Option<usize>, mini_batch_tokens: Option<usize>) -> ChunkLimit {
    match (mini_batch_size, mini_batch_tokens) {
        (None, None) => ChunkLimit::NONE,
        (sentences, tokens) => ChunkLimit {
            tokens: tokens.unwrap_or(MINI_BATCH_TOKENS),
            sentences: sentences.unwrap_or(usize::MAX),
        },
    }
}

pub(super) fn dropout_seed(seed: u64, step: u64, micro_step: usize) -> u64 {
    mix(mix(mix(seed) ^ step) ^ micro_step as u64)
}

/// SplitMix64's finaliser: neighbouring steps get unrelated seeds.
pub(super) fn mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

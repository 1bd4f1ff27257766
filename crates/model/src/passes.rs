//! Forward and backward passes over batches of token ids.

use std::sync::{MutexGuard, PoisonError};

use shim::{slice, slice_mut};
use tch::{Kind, Tensor};

use crate::{
    batch::{
        buckets::DeviceBatch,
        packed::{ChunkedBatch, PackedBatch},
        recorded::{StaticBatch, StaticShape},
    },
    compute::Engine,
    error::ModelError,
    modules::{Module, normalize},
    mpnet::{
        Dropout,
        fused::{Keep, PassOptions, Workspace},
    },
    random::mix,
    sentence_transformer::SentenceTransformer,
};

/// Whether a forward pass drops units out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// With dropout, drawn from libtorch's generators, which are seeded first.
    Train {
        /// The same seed drops the same units.
        seed: u64,
    },
    /// Without dropout.
    Eval,
}

impl SentenceTransformer {
    pub(crate) fn pass_options(&self, dropout: Dropout, seed: u64) -> PassOptions<'_> {
        PassOptions {
            parameters: &self.parameters,
            gemm: self.gemm.as_ref(),
            dropout,
            seed,
        }
    }

    /// Sentence embeddings, `[sentences, dimension]`, in the caller's order, with autograd.
    ///
    /// The way for devices without kernels of our own, and the measure of those: [`Self::embed`] and
    /// [`Self::forward_backward`] give the same numbers, on the CPU faster.
    ///
    /// # Errors
    ///
    /// When a token id or a sentence is beyond the model's tables, or libtorch refuses a call.
    pub fn forward(&self, batch: &PackedBatch, mode: Mode) -> Result<Tensor, ModelError> {
        let dropout = match mode {
            Mode::Train { seed } => {
                tch::manual_seed(seed as i64);
                self.dropout
            }
            Mode::Eval => Dropout::NONE,
        };
        self.parameters.refresh()?;
        self.encoder.check_fits(batch)?;
        self.pooling.check(batch)?;
        let batch = DeviceBatch::new(batch)?;
        let tokens = self
            .encoder
            .forward_on_device(&self.parameters, &batch, dropout)?;
        self.after_pooling(self.pooling.pool(&tokens, &batch)?)
    }

    /// Sentence embeddings, `[sentences, dimension]`, in the caller's order, without dropout or autograd.
    ///
    /// # Errors
    ///
    /// As [`Self::forward`].
    pub fn embed(&self, batch: &PackedBatch) -> Result<Tensor, ModelError> {
        let _guard = tch::no_grad_guard();
        if self.engine == Engine::Libtorch {
            return self.forward(batch, Mode::Eval);
        }
        let mut work = self.workspace();
        let tokens = self.encoder.fused_forward(
            &self.pass_options(Dropout::NONE, 0),
            batch,
            Keep::Nothing,
            &mut work,
        )?;
        self.after_pooling(self.pooling.fused_forward(tokens, batch)?)
    }

    /// As [`Self::embed`], chunk by chunk.
    ///
    /// # Errors
    ///
    /// As [`Self::forward`].
    pub fn embed_chunks(&self, batch: &ChunkedBatch) -> Result<Tensor, ModelError> {
        let mut embeddings = self.room_for(batch)?;
        for (i, chunk) in batch.chunks().iter().enumerate() {
            let _ = embeddings.f_index_copy_(0, batch.rows(i), &self.embed(chunk)?)?;
        }
        Ok(embeddings)
    }

    /// As [`Self::embed_chunks`], followed by the embeddings of earlier layers, each pooled as the
    /// last: those of the tokens that go into layer 0 for 0, and so on.
    ///
    /// # Errors
    ///
    /// As [`Self::forward`], and when a layer is not below [`Self::n_layers`].
    pub fn embed_layers(
        &self,
        batch: &ChunkedBatch,
        layers: &[usize],
    ) -> Result<Vec<Tensor>, ModelError> {
        self.check_layers(layers)?;
        let _guard = tch::no_grad_guard();
        let mut work = self.workspace();
        let mut embeddings = self.room_for_layers(batch, layers)?;
        for (i, chunk) in batch.chunks().iter().enumerate() {
            let keep = if layers.is_empty() {
                Keep::Nothing
            } else {
                Keep::Everything
            };
            let parts = self.layers_forward(chunk, layers, Dropout::NONE, 0, keep, &mut work)?;
            for (to, part) in embeddings.iter_mut().zip(&parts) {
                let _ = to.f_index_copy_(0, batch.rows(i), &part.embeddings)?;
            }
        }
        Ok(embeddings)
    }

    fn check_layers(&self, layers: &[usize]) -> Result<(), ModelError> {
        match layers.iter().find(|&&layer| layer >= self.n_layers()) {
            None => Ok(()),
            Some(layer) => Err(ModelError::Input(format!(
                "layer {layer}: the model has {} layers, counted from 0",
                self.n_layers()
            ))),
        }
    }

    /// A training step's forward and backward pass: the embeddings of `batch` under dropout, `loss` of
    /// them, and its gradient by the weights, which is added to `gradient`, `[n]` in the layout of
    /// [`Parameters::flat`]. Returns the loss.
    ///
    /// `loss` gets `[sentences, dimension]` in the caller's order, and returns a scalar and its gradient by
    /// the embeddings, of the same shape.
    ///
    /// A batch of several chunks takes the memory of its largest. All are embedded, but what their backward
    /// pass needs is thrown away, except for the last; once the gradient by the embeddings is there, each is
    /// embedded again with what that takes (gradient caching, Gao et al. 2021, [arXiv
    /// 2101.06983](https://arxiv.org/abs/2101.06983)).
    ///
    /// `seed` and the position of an element in the batch decide what is dropped out: the same seed drops the
    /// same, both times and however the batch is cut into chunks. On devices without kernels of our own it
    /// also depends on the cut.
    ///
    /// # Errors
    ///
    /// As [`Self::forward`], what `loss` fails with, and when the gradient has another shape than the
    /// parameters or the embeddings.
    pub fn forward_backward<E: From<ModelError>>(
        &self,
        batch: &ChunkedBatch,
        seed: u64,
        gradient: &Tensor,
        loss: impl FnOnce(&Tensor) -> Result<(Tensor, Tensor), E>,
    ) -> Result<Tensor, E> {
        self.forward_backward_layers(batch, &[], seed, gradient, |embeddings| {
            let (value, d_embeddings) = loss(&embeddings[0])?;
            Ok((value, vec![d_embeddings]))
        })
    }

    /// As [`Self::forward_backward`], for a loss that looks at earlier layers too: it gets what
    /// [`Self::embed_layers`] gives, under dropout, and returns the gradient by each.
    ///
    /// # Errors
    ///
    /// As [`Self::forward_backward`], and when a layer is not below [`Self::n_layers`].
    pub fn forward_backward_layers<E: From<ModelError>>(
        &self,
        batch: &ChunkedBatch,
        layers: &[usize],
        seed: u64,
        gradient: &Tensor,
        loss: impl FnOnce(&[Tensor]) -> Result<(Tensor, Vec<Tensor>), E>,
    ) -> Result<Tensor, E> {
        self.check_layers(layers)?;
        let mut work = self.workspace();
        let chunks = batch.chunks();
        let mut embeddings = self.room_for_layers(batch, layers)?;
        let mut kept = None;
        for (i, chunk) in chunks.iter().enumerate() {
            // Earlier layers are there to be pooled where all is kept.
            let keep = if i + 1 == chunks.len() || !layers.is_empty() {
                Keep::Everything
            } else {
                Keep::Nothing
            };
            batch.check_stopped()?;
            let parts = self.training_forward(chunk, layers, seed, keep, &mut work)?;
            let _guard = tch::no_grad_guard();
            for (to, part) in embeddings.iter_mut().zip(&parts) {
                let _ = to
                    .f_index_copy_(0, batch.rows(i), &part.embeddings)
                    .map_err(ModelError::from)?;
            }
            kept = Some(parts);
        }
        let (value, d_embeddings) = loss(&embeddings)?;
        let shapes = |tensors: &[Tensor]| tensors.iter().map(Tensor::size).collect::<Vec<_>>();
        if shapes(&d_embeddings) != shapes(&embeddings) {
            let (found, expected) = (shapes(&d_embeddings), shapes(&embeddings));
            return Err(ModelError::Input(format!(
                "the gradients by the embeddings have shapes {found:?}, expected {expected:?}"
            ))
            .into());
        }
        for (i, chunk) in chunks.iter().enumerate().rev() {
            batch.check_stopped()?;
            let parts = match kept.take() {
                Some(parts) => parts,
                None => self.training_forward(chunk, layers, seed, Keep::Everything, &mut work)?,
            };
            let d_parts = d_embeddings
                .iter()
                .map(|d| d.f_index_select(0, batch.rows(i)))
                .collect::<Result<Vec<_>, _>>()
                .map_err(ModelError::from)?;
            self.training_backward(chunk, layers, seed, &parts, &d_parts, gradient, &mut work)?;
        }
        Ok(value)
    }

    /// Whether batches of this model can be put in the place of each other: libtorch computes, and no part of a
    /// batch but its numbers decides what is computed.
    ///
    /// # Errors
    ///
    /// When the batch is beyond the model's tables.
    pub fn static_shape(&self, batch: &ChunkedBatch) -> Result<Option<StaticShape>, ModelError> {
        if self.engine != Engine::Libtorch || !self.pooling.include_prompt {
            return Ok(None);
        }
        for chunk in batch.chunks() {
            self.encoder.check_fits(chunk)?;
        }
        Ok(StaticShape::of(batch))
    }

    /// [`Self::forward_backward`] of what `batch` holds, by operations that a graph can record: the same for all
    /// batches of the shape. Dropout is drawn by libtorch's generator as it is seeded.
    ///
    /// # Errors
    ///
    /// As [`Self::forward_backward`].
    pub fn forward_backward_static<E: From<ModelError>>(
        &self,
        batch: &StaticBatch,
        gradient: &Tensor,
        loss: impl FnOnce(&Tensor) -> Result<(Tensor, Tensor), E>,
    ) -> Result<Tensor, E> {
        let parameters = &self.parameters;
        let embed = || -> Result<Tensor, ModelError> {
            parameters.round_again()?;
            let batch = batch.on_device();
            let tokens = self
                .encoder
                .forward_on_device(parameters, batch, self.dropout)?;
            self.after_pooling(self.pooling.pool(&tokens, batch)?)
        };
        let embeddings = embed()?;
        let detached = embeddings.f_detach().map_err(ModelError::from)?;
        let (value, d_embeddings) = loss(&detached)?;
        let go_back = || -> Result<(), ModelError> {
            // The gradient of this sum by the embeddings is theirs.
            let total = embeddings.f_mul(&d_embeddings)?.f_sum(Kind::Float)?;
            parameters.backward(&total, gradient)
        };
        go_back()?;
        Ok(value)
    }

    /// The embeddings of a chunk under dropout: the last layer's, then those of `layers`.
    fn training_forward(
        &self,
        chunk: &PackedBatch,
        layers: &[usize],
        seed: u64,
        keep: Keep,
        work: &mut Workspace,
    ) -> Result<Vec<Part>, ModelError> {
        if self.engine == Engine::Libtorch {
            // libtorch's generator knows nothing of a chunk's place.
            tch::manual_seed(mix(seed ^ chunk.first_token() as u64) as i64);
        }
        self.layers_forward(chunk, layers, self.dropout, seed, keep, work)
    }

    fn layers_forward(
        &self,
        chunk: &PackedBatch,
        layers: &[usize],
        dropout: Dropout,
        seed: u64,
        keep: Keep,
        work: &mut Workspace,
    ) -> Result<Vec<Part>, ModelError> {
        let follow = |pooled: Tensor| -> Result<Part, ModelError> {
            let embeddings = self.after_pooling(pooled.shallow_clone())?;
            Ok(Part { pooled, embeddings })
        };
        let _guard = (keep == Keep::Nothing).then(tch::no_grad_guard);
        let mut parts = Vec::with_capacity(1 + layers.len());
        if self.engine == Engine::Libtorch {
            self.parameters.refresh()?;
            self.encoder.check_fits(chunk)?;
            self.pooling.check(chunk)?;
            let batch = DeviceBatch::new(chunk)?;
            let states = if layers.is_empty() {
                vec![
                    self.encoder
                        .forward_on_device(&self.parameters, &batch, dropout)?,
                ]
            } else {
                self.encoder
                    .hidden_states(&self.parameters, &batch, dropout)?
            };
            for &layer in [states.len() - 1].iter().chain(layers) {
                parts.push(follow(self.pooling.pool(&states[layer], &batch)?)?);
            }
            return Ok(parts);
        }
        let requires_grad = keep == Keep::Everything;
        let options = self.pass_options(dropout, seed);
        let tokens = self.encoder.fused_forward(&options, chunk, keep, work)?;
        let n_values = tokens.len();
        let pooled = self.pooling.fused_forward(tokens, chunk)?;
        parts.push(follow(pooled.f_set_requires_grad(requires_grad)?)?);
        for &layer in layers {
            let tokens = work.input_of(layer, n_values);
            let pooled = self.pooling.fused_forward(tokens, chunk)?;
            parts.push(follow(pooled.f_set_requires_grad(requires_grad)?)?);
        }
        Ok(parts)
    }

    /// Adds to `gradient` what the gradients `d_parts` of a chunk's embeddings come to, after
    /// [`Self::training_forward`] of that chunk with [`Keep::Everything`].
    #[expect(
        clippy::too_many_arguments,
        reason = "what the forward pass took and gave, and the two gradients"
    )]
    fn training_backward(
        &self,
        chunk: &PackedBatch,
        layers: &[usize],
        seed: u64,
        parts: &[Part],
        d_parts: &[Tensor],
        gradient: &Tensor,
        work: &mut Workspace,
    ) -> Result<(), ModelError> {
        self.parameters.check_gradient(gradient)?;
        let is_fused = self.engine != Engine::Libtorch;
        let d_pooled = if is_fused && self.modules.is_empty() {
            let contiguous = d_parts.iter().map(Tensor::f_contiguous);
            contiguous.collect::<Result<Vec<_>, _>>()?
        } else {
            // The gradient of this sum by the embeddings is theirs.
            let mut total: Option<Tensor> = None;
            for (part, d_part) in parts.iter().zip(d_parts) {
                let product = part.embeddings.f_mul(d_part)?.f_sum(Kind::Float)?;
                total = Some(match total {
                    None => product,
                    Some(total) => total.f_add(&product)?,
                });
            }
            let Some(total) = total else {
                return Ok(());
            };
            let inputs: Vec<&Tensor> = if is_fused {
                parts.iter().map(|part| &part.pooled).collect()
            } else {
                Vec::new()
            };
            let d_inputs = self.parameters.backward_to(&total, gradient, &inputs)?;
            if !is_fused {
                return Ok(());
            }
            let contiguous = d_inputs.iter().map(Tensor::f_contiguous);
            contiguous.collect::<Result<Vec<_>, _>>()?
        };
        let d_pooled = d_pooled.iter().map(slice).collect::<Result<Vec<_>, _>>()?;
        let mut gradient = gradient.shallow_clone();
        self.encoder.fused_backward(
            &self.pass_options(self.dropout, seed),
            chunk,
            layers,
            |layer, tokens, d_tokens| {
                // The output has no number among the layers and comes first.
                let place = layers.iter().position(|&prior| prior == layer);
                let d_pooled = d_pooled[place.map_or(0, |place| 1 + place)];
                self.pooling
                    .fused_backward(tokens, d_pooled, chunk, d_tokens);
            },
            slice_mut(&mut gradient)?,
            work,
        )
    }

    /// What follows the pooling: sentence embeddings from pooled token embeddings.
    fn after_pooling(&self, pooled: Tensor) -> Result<Tensor, ModelError> {
        let mut embeddings = pooled;
        for module in &self.modules {
            embeddings = match module {
                Module::Dense(dense) => dense.forward(&self.parameters, &embeddings)?,
                Module::Normalize => normalize(&embeddings)?,
            };
        }
        Ok(embeddings)
    }

    /// Where those of the last layer and of earlier ones go.
    fn room_for_layers(
        &self,
        batch: &ChunkedBatch,
        layers: &[usize],
    ) -> Result<Vec<Tensor>, ModelError> {
        (0..=layers.len()).map(|_| self.room_for(batch)).collect()
    }

    /// Where the embeddings of a batch go, `[sentences, dimension]`.
    fn room_for(&self, batch: &ChunkedBatch) -> Result<Tensor, ModelError> {
        let shape = [batch.sentences() as i64, self.dimension()];
        Ok(Tensor::f_zeros(
            shape,
            (Kind::Float, self.parameters.device()),
        )?)
    }

    pub(crate) fn workspace(&self) -> MutexGuard<'_, Workspace> {
        // A pass that panicked left numbers behind that the next pass overwrites.
        self.workspace
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A chunk's embeddings, and what they were made from, both in the chunk's order.
struct Part {
    /// `[sentences, modes * H]`
    pooled: Tensor,
    /// `[sentences, dimension]`
    embeddings: Tensor,
}

//! Forward and backward passes over batches of token ids.

use tch::{Kind, Tensor};

use crate::{
    backend::{Embedded, LibtorchPass, Mode, Pass},
    batch::{
        packed::{ChunkedBatch, PackedBatch},
        recorded::{StaticBatch, StaticShape},
    },
    compute::Engine,
    encoder::block::by_hand::Keep,
    error::ModelError,
    sentence_transformer::SentenceTransformer,
};

impl SentenceTransformer {
    /// Sentence embeddings, `[sentences, dimension]`, in the caller's order, with autograd.
    ///
    /// libtorch computes them whatever the engine. [`Self::embed`] and [`Self::forward_backward`] give the same
    /// numbers, on the CPU faster.
    ///
    /// # Errors
    ///
    /// When a token id or a sentence is beyond the model's tables, or libtorch refuses a call.
    pub fn forward(&self, batch: &PackedBatch, mode: Mode) -> Result<Tensor, ModelError> {
        let network = &self.network;
        let mut pass = LibtorchPass { network };
        let mut pooled = pass.pooled(batch, &[], mode, Keep::Everything)?;
        network.after_pooling(pooled.swap_remove(0))
    }

    /// Sentence embeddings, `[sentences, dimension]`, in the caller's order, without dropout or autograd.
    ///
    /// # Errors
    ///
    /// As [`Self::forward`].
    pub fn embed(&self, batch: &PackedBatch) -> Result<Tensor, ModelError> {
        let mut pass = self.backend.begin(&self.network);
        let mut parts = self.embedded(&mut *pass, batch, &[], Mode::Eval, Keep::Nothing)?;
        Ok(parts.swap_remove(0).embeddings)
    }

    /// As [`Self::embed`], chunk by chunk.
    ///
    /// # Errors
    ///
    /// As [`Self::forward`].
    pub fn embed_chunks(&self, batch: &ChunkedBatch) -> Result<Tensor, ModelError> {
        Ok(self.embed_layers(batch, &[])?.swap_remove(0))
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
        let mut pass = self.backend.begin(&self.network);
        let mut embeddings = self.room_for(batch, layers)?;
        // Earlier layers are there to be pooled where all is kept.
        let keep = match layers.is_empty() {
            true => Keep::Nothing,
            false => Keep::Everything,
        };
        for (i, chunk) in batch.chunks().iter().enumerate() {
            let parts = self.embedded(&mut *pass, chunk, layers, Mode::Eval, keep)?;
            put(&mut embeddings, batch.rows(i), &parts)?;
        }
        Ok(embeddings)
    }

    /// A training step's forward and backward pass: the embeddings of `batch` under dropout, `loss` of
    /// them, and its gradient by the weights, which is added to `gradient`, `[n]` in the layout of
    /// [`Parameters::flat`]. Returns the loss.
    ///
    /// `loss` gets `[sentences, dimension]` in the caller's order, and returns a scalar and its gradient by
    /// the embeddings, of the same shape.
    ///
    /// A batch of several chunks takes the memory of its largest. All are embedded, but the activations for their
    /// backward pass are thrown away, except for the last; once the gradient by the embeddings is there, each is
    /// embedded again and keeps them (gradient caching, Gao et al. 2021, [arXiv
    /// 2101.06983](https://arxiv.org/abs/2101.06983)).
    ///
    /// `seed` and the position of an element in the batch decide on the dropout masks: the same seed drops the
    /// same, both times and however the batch is cut into chunks. Where libtorch computes it
    /// also depends on the cut.
    ///
    /// # Errors
    ///
    /// As [`Self::forward`], an error of `loss`, and when the gradient has another shape than the
    /// parameters or the embeddings.
    ///
    /// [`Parameters::flat`]: crate::Parameters::flat
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

    /// As [`Self::forward_backward`], for a loss of earlier layers too: it gets the embeddings that
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
        let mode = Mode::Train { seed };
        let mut pass = self.backend.begin(&self.network);
        let chunks = batch.chunks();
        let mut embeddings = self.room_for(batch, layers)?;
        let mut kept = None;
        for (i, chunk) in chunks.iter().enumerate() {
            let keep = if i + 1 == chunks.len() || !layers.is_empty() {
                Keep::Everything
            } else {
                Keep::Nothing
            };
            batch.check_stopped()?;
            let parts = self.embedded(&mut *pass, chunk, layers, mode, keep)?;
            put(&mut embeddings, batch.rows(i), &parts)?;
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
        self.network.parameters.check_gradient(gradient)?;
        for (i, chunk) in chunks.iter().enumerate().rev() {
            batch.check_stopped()?;
            let parts = match kept.take() {
                Some(parts) => parts,
                None => self.embedded(&mut *pass, chunk, layers, mode, Keep::Everything)?,
            };
            let d_parts = d_embeddings
                .iter()
                .map(|d| d.f_index_select(0, batch.rows(i)))
                .collect::<Result<Vec<_>, _>>()
                .map_err(ModelError::from)?;
            pass.backward(chunk, layers, mode, &parts, &d_parts, gradient)?;
        }
        Ok(value)
    }

    /// The shape under which a batch can be recorded and replayed: where libtorch computes, and nothing of a batch but
    /// its numbers decides on the operations.
    ///
    /// # Errors
    ///
    /// When the batch is beyond the model's tables.
    pub fn static_shape(&self, batch: &ChunkedBatch) -> Result<Option<StaticShape>, ModelError> {
        if self.engine() != Engine::Libtorch || !self.network.pooling.include_prompt {
            return Ok(None);
        }
        let encoder = &self.network.encoder;
        for chunk in batch.chunks() {
            encoder.check_fits(chunk)?;
        }
        Ok(StaticShape::of(batch, encoder.spec().numbering))
    }

    /// [`Self::forward_backward`] of the batch's present content, by operations that a graph can record: the same for
    /// all batches of the shape. Dropout is drawn by libtorch's generator as it is seeded.
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
        let network = &self.network;
        let embed = || -> Result<Tensor, ModelError> {
            let (parameters, batch) = (&network.parameters, batch.on_device());
            parameters.round_again()?;
            let transformer = network.encoder.transformer();
            let (dropout, only) = (network.dropout, network.pooling.one_token());
            let output = transformer.forward(parameters, batch, dropout, only)?;
            network.after_pooling(network.pooling.pool_output(&output, batch)?)
        };
        let embeddings = embed()?;
        let detached = embeddings.f_detach().map_err(ModelError::from)?;
        let (value, d_embeddings) = loss(&detached)?;
        let go_back = || -> Result<(), ModelError> {
            // The gradient of this sum by the embeddings is theirs.
            let total = embeddings.f_mul(&d_embeddings)?.f_sum(Kind::Float)?;
            network.parameters.backward(&total, gradient)
        };
        go_back()?;
        Ok(value)
    }

    /// The embeddings of a chunk: of the last layer's output, then of the inputs of `layers`.
    fn embedded(
        &self,
        pass: &mut dyn Pass,
        chunk: &PackedBatch,
        layers: &[usize],
        mode: Mode,
        keep: Keep,
    ) -> Result<Vec<Embedded>, ModelError> {
        let _guard = (keep == Keep::Nothing).then(tch::no_grad_guard);
        let pooled = pass.pooled(chunk, layers, mode, keep)?;
        let parts = pooled.into_iter().map(|pooled| {
            let embeddings = self.network.after_pooling(pooled.shallow_clone())?;
            Ok(Embedded { pooled, embeddings })
        });
        parts.collect()
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

    /// Room for the embeddings of a batch, `[sentences, dimension]`: of the last layer, then of `layers`.
    fn room_for(&self, batch: &ChunkedBatch, layers: &[usize]) -> Result<Vec<Tensor>, ModelError> {
        let shape = [batch.sentences() as i64, self.dimension()];
        let options = (Kind::Float, self.network.parameters.device());
        let rooms = (0..=layers.len()).map(|_| Ok(Tensor::f_zeros(shape, options)?));
        rooms.collect()
    }
}

/// Puts the embeddings of a chunk into their rows of the batch's.
fn put(embeddings: &mut [Tensor], rows: &Tensor, parts: &[Embedded]) -> Result<(), ModelError> {
    let _guard = tch::no_grad_guard();
    for (to, part) in embeddings.iter_mut().zip(parts) {
        let _ = to.f_index_copy_(0, rows, &part.embeddings)?;
    }
    Ok(())
}

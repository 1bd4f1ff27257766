//! Batches whose tensors keep their shapes and memory, as a recorded graph needs them.

use tch::{Device, Kind, Tensor};

use crate::{
    batch::{
        buckets::{BucketShape, DeviceBatch, numbers, shapes},
        packed::ChunkedBatch,
        upload::upload,
    },
    encoder::numbering::Numbering,
    error::ModelError,
};

/// The number of tokens is padded to a multiple of it, so that many batches share a shape.
const TOKEN_STEP: usize = 128;

/// The sizes that decide on the shapes of a batch's tensors. Batches of one shape can take each other's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StaticShape {
    sentences: usize,
    length: usize,
    tokens: usize,
    numbering: Numbering,
}

impl StaticShape {
    /// The shape that a batch is padded to; `None` for one that is embedded in chunks or large enough to be in
    /// several buckets, whose kernels take longer than to launch them.
    pub fn of(batch: &ChunkedBatch, numbering: Numbering) -> Option<Self> {
        let [whole] = batch.chunks() else {
            return None;
        };
        let buckets = shapes(whole.offsets());
        let [bucket] = buckets.as_slice() else {
            return None;
        };
        Some(Self {
            sentences: bucket.sentences,
            length: bucket.length,
            tokens: bucket.tokens.next_multiple_of(TOKEN_STEP),
            numbering,
        })
    }

    fn bucket(self, tokens: usize) -> BucketShape {
        BucketShape {
            sentences: self.sentences,
            length: self.length,
            tokens: self.tokens,
            filler: self.tokens - tokens,
        }
    }
}

/// A batch whose content changes and whose tensors stay.
#[derive(Debug)]
pub struct StaticBatch {
    shape: StaticShape,
    numbers: Tensor,
    batch: DeviceBatch,
}

impl StaticBatch {
    /// Room for batches of this shape, which holds nothing yet.
    ///
    /// # Errors
    ///
    /// libtorch's.
    pub fn new(shape: StaticShape, device: Device) -> Result<Self, ModelError> {
        // Ids, positions and slots of tokens; rows, lengths and starts of sentences.
        let n = 3 * shape.tokens + 3 * shape.sentences;
        let numbers = Tensor::f_zeros([n as i64], (Kind::Int64, device))?;
        // The amount of padding differs from batch to batch: there is room for the most there can be.
        let bucket = shape.bucket(shape.tokens.saturating_sub(TOKEN_STEP));
        Ok(Self {
            batch: DeviceBatch::of(&numbers, &[bucket])?,
            shape,
            numbers,
        })
    }

    /// Puts another batch of the shape in place, by one copy that the host does not wait for.
    ///
    /// # Errors
    ///
    /// When the batch has another shape.
    pub fn load(&mut self, batch: &ChunkedBatch) -> Result<(), ModelError> {
        let found = StaticShape::of(batch, self.shape.numbering);
        let [whole] = batch.chunks() else {
            return Err(self.other_shape(found));
        };
        if found != Some(self.shape) {
            return Err(self.other_shape(found));
        }
        // The chunk has its sentences in an order of its own.
        let mut restore = vec![0; whole.sentences()];
        for (&row, &packed) in batch.host_rows(0).iter().zip(whole.host_restore()) {
            restore[row] = packed;
        }
        let shape = self.shape.bucket(whole.tokens());
        let numbers = numbers(whole, self.shape.numbering, &[shape], &restore);
        let numbers = upload(&numbers, self.numbers.device())?;
        let _guard = tch::no_grad_guard();
        self.numbers.f_copy_(&numbers)?;
        Ok(())
    }

    fn other_shape(&self, found: Option<StaticShape>) -> ModelError {
        ModelError::Input(format!(
            "a batch of shape {found:?} was put in the place of one of {:?}",
            self.shape
        ))
    }

    pub(crate) fn on_device(&self) -> &DeviceBatch {
        &self.batch
    }

    /// The shape.
    pub fn shape(&self) -> StaticShape {
        self.shape
    }
}

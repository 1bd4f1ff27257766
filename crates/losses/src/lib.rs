//! Losses for sentence embeddings: pure functions of embeddings and labels.
//!
//! A loss takes one tensor `[batch, dimension]` per text column and, where it needs them, labels,
//! and gives a scalar that `backward` can be called on. It knows nothing of models, data or
//! optimizers. Values and gradients agree with the class of the same name in sentence-transformers
//! 6.0.1; `tests/fixtures/make_fixtures.py` makes the figures that the tests compare with.
//!
//! A loss is made from its name and parameters:
//!
//! ```
//! use losses::{BuildContext, LabelKind, LossConfig};
//! use tch::{Device, Kind, Tensor};
//!
//! let config: LossConfig = "mnrl:scale=30".parse()?;
//! let loss = config.build(&BuildContext { dimension: Some(4), device: Device::Cpu, seed: 42 })?;
//! loss.check(2, LabelKind::None)?;
//! let anchors = Tensor::f_eye(4, (Kind::Float, Device::Cpu))?;
//! let value = loss.compute(&[anchors.shallow_clone(), anchors], None)?;
//! assert!(f64::try_from(value)? < 1e-6);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod adaptive_layer;
pub mod angle;
pub mod batch_all_triplet;
pub mod batch_hard_soft_margin_triplet;
pub mod batch_hard_triplet;
pub mod batch_semi_hard_triplet;
pub mod batch_triplet;
pub mod cached;
pub mod contrastive;
pub mod cosent;
pub mod cosine_similarity;
pub mod distill_kl_div;
pub mod embed_distill;
pub mod gist_embed;
pub mod global_orthogonal_regularization;
pub mod margin_mse;
pub mod matryoshka;
pub mod mega_batch_margin;
pub mod multiple_negatives_ranking;
pub mod online_contrastive;
pub mod similarity;
pub mod softmax;
pub mod triplet;

mod config;
mod draw;
mod error;
mod inputs;
mod linear;

pub use config::{BuildContext, LossConfig, names};
pub use error::LossError;
pub use inputs::{Accepts, LabelKind, Requirements};

use tch::Tensor;

/// A training objective: a differentiable function of a batch's embeddings.
pub trait Loss: std::fmt::Debug + Send {
    /// The name of the class in sentence-transformers, such as `MultipleNegativesRankingLoss`.
    fn name(&self) -> &'static str;

    /// Which columns and labels a data set must have for this loss.
    fn requirements(&self) -> Requirements;

    /// The loss of one batch, a scalar in f32 (or f64 where the embeddings are).
    ///
    /// `embeddings` holds one tensor `[batch, dimension]` per column, in the order of the data
    /// set; half-precision embeddings are raised to f32 first. `labels` has one entry per row. It
    /// never waits for the device.
    ///
    /// # Errors
    /// Where the columns or labels don't fit, and where libtorch fails.
    fn compute(&self, embeddings: &[Tensor], labels: Option<&Tensor>) -> Result<Tensor, LossError>;

    /// Whether a data set with `columns` text columns and labels of this kind fits, to be asked
    /// before the first step.
    ///
    /// # Errors
    /// Says what the loss needs and what the data set has.
    fn check(&self, columns: usize, labels: LabelKind) -> Result<(), LossError> {
        self.requirements().check(self.name(), columns, labels)
    }

    /// Whether the parameters have values that make sense; [`LossConfig::build`] asks.
    ///
    /// # Errors
    /// Names the parameter, its value and what is allowed.
    fn validate(&self) -> Result<(), LossError> {
        Ok(())
    }

    /// Trainable tensors that the loss itself owns, by name; empty for most.
    ///
    /// The tensors share storage with the loss's own, so that an optimizer may step them, clipping
    /// may count them and a checkpoint may save and restore them in place.
    fn parameters(&self) -> Vec<(String, Tensor)> {
        Vec::new()
    }

    /// How many rows are to be embedded at a time, where the batch is too large for one go; see
    /// [`cached`].
    fn mini_batch_size(&self) -> Option<usize> {
        None
    }

    /// Whether [`Self::compute_step`] does the same operations for all batches of one size, whatever the seed, so
    /// that they can be recorded once and repeated.
    fn is_recordable(&self) -> bool {
        false
    }

    /// The model whose embeddings [`Requirements::guide`] asks for: a folder, or a name on the hub.
    fn guide(&self) -> Option<&str> {
        None
    }

    /// Which of the `n_prior` layers before the last the loss is to be computed on as well in the
    /// step of this seed, in order; 0 is the embedding of the words. Most losses look at none.
    fn prior_layers(&self, n_prior: usize, seed: u64) -> Vec<usize> {
        let _ = (n_prior, seed);
        Vec::new()
    }

    /// The loss of one batch in a step of training: [`Self::compute`], unless the loss looks at
    /// earlier layers too or draws something at random.
    ///
    /// # Errors
    /// As [`Self::compute`].
    fn compute_step(&self, step: &StepInputs<'_>) -> Result<Tensor, LossError> {
        self.compute(step.embeddings, step.labels)
    }
}

/// What [`Loss::compute_step`] computes a loss from.
#[derive(Debug, Clone, Copy)]
pub struct StepInputs<'a> {
    /// The columns, as in [`Loss::compute`].
    pub embeddings: &'a [Tensor],
    /// For each of [`Loss::prior_layers`], its index and its columns, pooled like the last layer's. A
    /// guide's columns are in `embeddings` only.
    pub prior: &'a [(usize, Vec<Tensor>)],
    /// One entry per row, as in [`Loss::compute`].
    pub labels: Option<&'a Tensor>,
    /// Decides what is drawn at random: the same seed draws the same.
    pub seed: u64,
}

//! Losses for sentence embeddings: pure functions of embeddings and labels.
//!
//! A loss takes one tensor `[batch, dimension]` per text column and, where it needs them, labels,
//! and gives a scalar that `backward` can be called on. It knows nothing of models, data or
//! optimizers. Values and gradients agree with the class of the same name in sentence-transformers
//! 6.2.0; `tests/fixtures/make_fixtures.py` makes the figures that the tests compare with.
//!
//! A loss is made from its name and parameters:
//!
//! ```
//! use losses::{BuildContext, LabelKind, LossConfig, StepInputs};
//! use tch::{Device, Kind, Tensor};
//!
//! let config: LossConfig = "mnrl:scale=30".parse()?;
//! let loss = config.build(&BuildContext { dimension: Some(4), device: Device::Cpu, seed: 42 })?;
//! loss.check(2, LabelKind::None)?;
//! let anchors = Tensor::f_eye(4, (Kind::Float, Device::Cpu))?;
//! let columns = [anchors.shallow_clone(), anchors];
//! let value = loss.value(&StepInputs::new(&columns, None))?;
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
pub mod gradients;
pub mod margin_mse;
pub mod matryoshka;
pub mod mega_batch_margin;
pub mod multiple_negatives_ranking;
pub mod online_contrastive;
pub mod paper;
pub mod similarity;
pub mod softmax;
pub mod triplet;

mod context;
mod draw;
mod error;
mod inputs;
mod linear;
mod loss;
mod one_or_many;
mod registry;

pub use context::BuildContext;
pub use error::LossError;
pub use inputs::{Accepts, LabelKind, Requirements};
pub use loss::{Loss, OwnRows, StepInputs};
pub use registry::{LossConfig, is_wrapper, names, paper};
pub use search::Similarity;

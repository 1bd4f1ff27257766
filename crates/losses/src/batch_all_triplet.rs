//! Batch all triplet loss: every triplet that a batch holds.

use serde::{Deserialize, Serialize};
use tch::{Kind, TchError, Tensor};

use crate::{
    batch_triplet::{Batch, BatchDistance, REQUIREMENTS},
    error::{LossError, non_negative},
    inputs::Requirements,
    loss::Loss,
};

/// Mean hinge of the triplets of a batch that are not met.
///
/// # Formula
///
/// ```text
/// loss = 1/N Σ max(0, dist(a, p) - dist(a, n) + margin)
/// ```
///
/// over all a, p of one class and n of another, with N the number of summands above zero.
///
/// # Inputs
///
/// One column `[batch, dimension]` and a class per text, each class twice or more in a batch. Memory
/// grows with the cube of the batch.
///
/// # Defaults
///
/// `distance_metric` euclidean, `margin` 5.
///
/// # When to use
///
/// As [`BatchHardTriplet`](crate::batch_hard_triplet::BatchHardTriplet), where the hardest triplets
/// are too noisy to learn from.
///
/// # Relations
///
/// Those of [`BatchHardTriplet`](crate::batch_hard_triplet::BatchHardTriplet).
///
/// # Paper
///
/// Hermans, Beyer and Leibe 2017, <https://arxiv.org/abs/1703.07737>. Upstream file:
/// `sentence_transformer/losses/batch_all_triplet.py`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BatchAllTriplet {
    /// The distance of two embeddings.
    #[serde(alias = "distance")]
    pub distance_metric: BatchDistance,
    /// By how much the negative has to be farther away than the positive.
    #[serde(alias = "triplet_margin")]
    pub margin: f64,
}

const NAME: &str = "BatchAllTripletLoss";

impl Default for BatchAllTriplet {
    fn default() -> Self {
        Self {
            distance_metric: BatchDistance::Euclidean,
            margin: 5.0,
        }
    }
}

impl Loss for BatchAllTriplet {
    fn name(&self) -> &'static str {
        NAME
    }

    fn requirements(&self) -> Requirements {
        REQUIREMENTS
    }

    fn validate(&self) -> Result<(), LossError> {
        non_negative(NAME, "margin", self.margin)
    }

    fn compute(&self, columns: &[Tensor], labels: Option<&Tensor>) -> Result<Tensor, LossError> {
        let batch = Batch::new(NAME, self.distance_metric, columns, labels)?;
        Ok(self.of_batch(&batch)?)
    }
}

impl BatchAllTriplet {
    fn of_batch(&self, batch: &Batch) -> Result<Tensor, TchError> {
        // Indexes of `[batch, batch, batch]` are anchor, positive, negative. That a negative is of
        // another class makes it another text than anchor and positive.
        let positive = batch.positive()?.f_unsqueeze(2)?;
        let negative = batch.same.f_logical_not()?.f_unsqueeze(1)?;
        let triplets = positive
            .f_logical_and(&negative)?
            .f_to_kind(batch.distances.kind())?;
        let gap = batch
            .distances
            .f_unsqueeze(2)?
            .f_sub(&batch.distances.f_unsqueeze(1)?)?;
        let hinge = gap
            .f_add_scalar(self.margin)?
            .f_mul(&triplets)?
            .f_clamp_min(0)?;
        let unmet = hinge.f_detach()?.f_gt(1e-16)?.f_sum(hinge.kind())?;
        hinge
            .f_sum(None::<Kind>)?
            .f_div(&unmet.f_add_scalar(1e-16)?)
    }
}

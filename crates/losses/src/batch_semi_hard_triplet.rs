//! Batch semi-hard triplet loss: the nearest negative that is still farther away than the positive.

use serde::{Deserialize, Serialize};
use tch::{Kind, TchError, Tensor};

use crate::{
    batch_triplet::{Batch, BatchDistance, REQUIREMENTS},
    error::{LossError, non_negative},
    inputs::Requirements,
    loss::Loss,
};

/// Mean hinge of each pair of one class with its semi-hard negative.
///
/// # Formula
///
/// ```text
/// loss = 1/N Σ max(0, dist(a, p) - dist(a, n*) + margin)
/// ```
///
/// over the N ordered pairs (a, p) of one class, where n* is the nearest to a of the texts of other
/// classes that are farther away than p; or the farthest of all, where none is.
///
/// # Inputs
///
/// One column `[batch, dimension]` and a class per text, each class twice or more in a batch.
///
/// # Defaults
///
/// `distance_metric` euclidean, `margin` 5.
///
/// # When to use
///
/// As [`BatchHardTriplet`](crate::batch_hard_triplet::BatchHardTriplet), where the hardest negatives
/// make all embeddings collapse into one.
///
/// # Relations
///
/// The same as of [`BatchHardTriplet`](crate::batch_hard_triplet::BatchHardTriplet).
///
/// # Paper
///
/// Schroff, Kalenichenko and Philbin 2015, <https://arxiv.org/abs/1503.03832>. Upstream file:
/// `sentence_transformer/losses/batch_semi_hard_triplet.py`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BatchSemiHardTriplet {
    /// The distance of two embeddings.
    #[serde(alias = "distance")]
    pub distance_metric: BatchDistance,
    /// Least distance by which the negative is farther away than the positive.
    #[serde(alias = "triplet_margin")]
    pub margin: f64,
}

const NAME: &str = "BatchSemiHardTripletLoss";

impl Default for BatchSemiHardTriplet {
    fn default() -> Self {
        Self {
            distance_metric: BatchDistance::Euclidean,
            margin: 5.0,
        }
    }
}

impl Loss for BatchSemiHardTriplet {
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

impl BatchSemiHardTriplet {
    /// The negatives of an anchor are sorted, so that a search finds the nearest one beyond each
    /// positive: memory grows with the square of the batch.
    fn of_batch(&self, batch: &Batch) -> Result<Tensor, TchError> {
        let distances = &batch.distances;
        let (sorted, last) = (batch.sorted_negatives()?, distances.size()[1] - 1);
        let places = distances.f_detach()?.f_searchsorted::<Tensor>(
            &sorted.f_detach()?,
            false,
            true,
            "right",
            None,
        )?;
        let outside = sorted.f_gather(1, &places.f_clamp_max(last)?, false)?;
        let inside = masked_max(distances, &batch.same.f_logical_not()?, 1)?.f_unsqueeze(1)?;
        let chosen = outside.f_where_self(&outside.f_isfinite()?, &inside)?;
        let positive = batch.positive()?.f_to_kind(distances.kind())?;
        let hinge = distances
            .f_sub(&chosen)?
            .f_add_scalar(self.margin)?
            .f_mul(&positive)?
            .f_relu()?;
        let pairs = positive.f_sum(None::<Kind>)?.f_clamp_min(1e-16)?;
        hinge.f_sum(None::<Kind>)?.f_div(&pairs)
    }
}

/// The greatest of `data` where `mask` holds, along `dim`; the smallest of all where it never does.
fn masked_max(data: &Tensor, mask: &Tensor, dim: i64) -> Result<Tensor, TchError> {
    let (smallest, _) = data.f_min_dim(dim, true)?;
    let above = data
        .f_sub(&smallest)?
        .f_mul(&mask.f_to_kind(data.kind())?)?;
    let (greatest, _) = above.f_max_dim(dim, true)?;
    greatest.f_add(&smallest)?.f_squeeze_dim(dim)
}

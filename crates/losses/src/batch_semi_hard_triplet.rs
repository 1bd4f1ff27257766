//! Batch semi-hard triplet loss: the nearest negative that is still farther away than the positive.

use tch::{Kind, TchError, Tensor};

use crate::batch_triplet::{Batch, Mined, WithMargin};

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
pub type BatchSemiHardTriplet = WithMargin<SemiHard>;

/// Each pair of one class with its semi-hard negative.
#[derive(Debug, Clone, PartialEq)]
pub struct SemiHard;

impl Mined for SemiHard {
    const NAME: &'static str = "BatchSemiHardTripletLoss";

    /// The negatives of an anchor are sorted, so that a search finds the nearest one beyond each
    /// positive: memory grows with the square of the batch.
    fn of_batch(batch: &Batch, margin: f64) -> Result<Tensor, TchError> {
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
            .f_add_scalar(margin)?
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

//! Batch all triplet loss: every triplet that a batch holds.

use tch::{Kind, TchError, Tensor};

use crate::batch_triplet::{Batch, Mined, WithMargin};

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
/// One column `[batch, dimension]` and a class per text, each class twice or more in a batch.
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
/// The same as of [`BatchHardTriplet`](crate::batch_hard_triplet::BatchHardTriplet).
///
/// # Paper
///
/// Hermans, Beyer and Leibe 2017, <https://arxiv.org/abs/1703.07737>. Upstream file:
/// `sentence_transformer/losses/batch_all_triplet.py`.
pub type BatchAllTriplet = WithMargin<All>;

/// All triplets of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct All;

impl Mined for All {
    const NAME: &'static str = "BatchAllTripletLoss";

    /// For an anchor with its negatives in order, the hinges of a positive are those of the nearest
    /// negatives up to a place, and their sum a difference of cumulative sums: memory grows with the
    /// square of the batch.
    fn of_batch(batch: &Batch, margin: f64) -> Result<Tensor, TchError> {
        // A negative is of another class, and so another text than anchor and positive.
        let (sorted, last) = (batch.sorted_negatives()?, batch.distances.size()[1] - 1);
        let limits = batch.distances.f_add_scalar(margin)?;
        let n_unmet = limits.f_detach()?.f_searchsorted::<Tensor>(
            &sorted.f_detach()?,
            false,
            false,
            "left",
            None,
        )?;
        // In f64, since the sums are large beside the hinges. What is not a negative is infinite, comes
        // last, and is never below a limit.
        let finite = sorted.f_masked_fill(&sorted.f_isinf()?, 0)?;
        let sums = finite.f_cumsum(1, Kind::Double)?;
        let nearest = sums
            .f_gather(1, &n_unmet.f_sub_scalar(1)?.f_clamp(0, last)?, false)?
            .f_masked_fill(&n_unmet.f_eq(0)?, 0)?;
        let n_unmet = n_unmet.f_to_kind(Kind::Double)?;
        let hinges = limits.f_mul(&n_unmet)?.f_sub(&nearest)?;
        let positive = batch.positive()?.f_to_kind(Kind::Double)?;
        let total = hinges.f_mul(&positive)?.f_sum(None::<Kind>)?;
        let n_unmet = n_unmet.f_mul(&positive)?.f_sum(None::<Kind>)?;
        let mean = total.f_div(&n_unmet.f_add_scalar(1e-16)?)?;
        mean.f_to_kind(batch.distances.kind())
    }
}

//! Batch hard triplet loss: each text's farthest positive and nearest negative.

use tch::{Kind, TchError, Tensor};

use crate::batch_triplet::{Batch, Mined, WithMargin};

/// Hinge on the hardest triplet of each text.
///
/// # Formula
///
/// ```text
/// loss = 1/B Σₐ max(0, max_p dist(a, p) - min_n dist(a, n) + margin)
/// ```
///
/// with p over the other texts of a's class, and n over those of other classes.
///
/// # Inputs
///
/// One column `[batch, dimension]` and a class per text. Each class should come twice or more in a
/// batch, which the sampler `group_by_label` sees to.
///
/// # Defaults
///
/// `distance_metric` euclidean, `margin` 5.
///
/// # When to use
///
/// With texts sorted into many classes, such as topics or intents, and no pairs.
///
/// # Relations
///
/// [`BatchHardSoftMarginTriplet`](crate::batch_hard_soft_margin_triplet::BatchHardSoftMarginTriplet)
/// needs no margin, [`BatchAllTriplet`](crate::batch_all_triplet::BatchAllTriplet) takes all
/// triplets, [`BatchSemiHardTriplet`](crate::batch_semi_hard_triplet::BatchSemiHardTriplet) avoids
/// the very hardest, which may be mislabelled.
///
/// # Paper
///
/// Hermans, Beyer and Leibe 2017, <https://arxiv.org/abs/1703.07737>. Upstream file:
/// `sentence_transformer/losses/batch_hard_triplet.py`.
pub type BatchHardTriplet = WithMargin<Hard>;

/// The hardest triplet of each text.
#[derive(Debug, Clone, PartialEq)]
pub struct Hard;

impl Mined for Hard {
    const NAME: &'static str = "BatchHardTripletLoss";

    fn of_batch(batch: &Batch, margin: f64) -> Result<Tensor, TchError> {
        let hinge = batch.hardest()?.f_add_scalar(margin)?.f_clamp_min(0)?;
        hinge.f_mean(None::<Kind>)
    }
}

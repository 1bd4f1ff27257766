//! Online contrastive loss: the contrastive loss of a batch's hard pairs.

use serde::{Deserialize, Serialize};
use tch::{Kind, TchError, Tensor};

use crate::{
    contrastive::siamese_distance,
    error::{LossError, non_negative},
    inputs::{self, Accepts, LabelKind, Requirements},
    loss::Loss,
    similarity::Distance,
};

/// Squared distance of alike pairs that are far, squared hinge of others that are near.
///
/// # Formula
///
/// With P the distances of alike pairs and N those of others:
///
/// ```text
/// loss = Σ d²  over d in P with d > min N  +  Σ max(0, margin - d)²  over d in N with d < max P
/// ```
///
/// Where N is empty, the mean of P takes the place of min N; where P is, the mean of N that of max P. It is a sum, so that it grows with the batch.
///
/// # Inputs
///
/// Two columns, each `[batch, dimension]`, and a label 0 or 1 per pair; pairs with any other label
/// don't count.
///
/// # Defaults
///
/// `distance_metric` cosine, `margin` 0.5.
///
/// # When to use
///
/// With pairs that are known to be alike or not, and batches of some size, so that hard ones are
/// among them.
///
/// # Relations
///
/// [`Contrastive`](crate::contrastive::Contrastive) counts every pair.
///
/// # Paper
///
/// As [`Contrastive`](crate::contrastive::Contrastive). Upstream file:
/// `sentence_transformer/losses/online_contrastive.py`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OnlineContrastive {
    /// The distance of two embeddings.
    #[serde(alias = "distance")]
    pub distance_metric: Distance,
    /// How far apart pairs that are not alike have to be.
    pub margin: f64,
}

const NAME: &str = "OnlineContrastiveLoss";

impl Default for OnlineContrastive {
    fn default() -> Self {
        Self {
            distance_metric: Distance::Cosine,
            margin: 0.5,
        }
    }
}

impl Loss for OnlineContrastive {
    fn name(&self) -> &'static str {
        NAME
    }

    fn requirements(&self) -> Requirements {
        Requirements::new(const { &[Accepts::exactly(2, LabelKind::Integer)] })
    }

    fn validate(&self) -> Result<(), LossError> {
        non_negative(NAME, "margin", self.margin)
    }

    fn compute(&self, columns: &[Tensor], labels: Option<&Tensor>) -> Result<Tensor, LossError> {
        let labels = inputs::required(NAME, labels)?;
        let distances = siamese_distance(self.distance_metric, &columns[0], &columns[1])?;
        Ok(self.of_distances(&distances, &labels.f_eq(0)?, &labels.f_eq(1)?)?)
    }
}

impl OnlineContrastive {
    /// The pairs are chosen by masks and not by indexing, so that the device is never waited for.
    fn of_distances(
        &self,
        distances: &Tensor,
        negative: &Tensor,
        positive: &Tensor,
    ) -> Result<Tensor, TchError> {
        let chosen_by = distances.f_detach()?;
        let farthest = chosen_by.f_masked_fill(&positive.f_logical_not()?, f64::NEG_INFINITY)?;
        let nearest = chosen_by.f_masked_fill(&negative.f_logical_not()?, f64::INFINITY)?;
        let upper = bound(
            &farthest.f_amax([0i64].as_slice(), false)?,
            positive,
            negative,
            &chosen_by,
        )?;
        let lower = bound(
            &nearest.f_amin([0i64].as_slice(), false)?,
            negative,
            positive,
            &chosen_by,
        )?;
        let near = chosen_by.f_lt_tensor(&upper)?.f_logical_and(negative)?;
        let far = chosen_by.f_gt_tensor(&lower)?.f_logical_and(positive)?;
        let hinge = distances.f_rsub_scalar(self.margin)?.f_relu()?.f_square()?;
        let near = hinge
            .f_mul(&near.f_to_kind(distances.kind())?)?
            .f_sum(None::<Kind>)?;
        let far = distances
            .f_square()?
            .f_mul(&far.f_to_kind(distances.kind())?)?;
        near.f_add(&far.f_sum(None::<Kind>)?)
    }
}

/// `extreme`, that of the distances in `of`; or the mean of those in `else_of` where `of` is empty. A
/// mean of nothing is not a number and compares as false, so that nothing is chosen by it.
fn bound(
    extreme: &Tensor,
    of: &Tensor,
    else_of: &Tensor,
    distances: &Tensor,
) -> Result<Tensor, TchError> {
    let weights = else_of.f_to_kind(distances.kind())?;
    let sum = distances.f_mul(&weights)?.f_sum(None::<Kind>)?;
    let mean = sum.f_div(&weights.f_sum(None::<Kind>)?)?;
    extreme.f_where_self(&of.f_any()?, &mean)
}

//! Triplet loss: the positive has to be nearer to the anchor than the negative, by a margin.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::{
    error::{LossError, non_negative},
    inputs::{Accepts, LabelKind, Requirements},
    loss::Loss,
    paper::{Paper, Place},
    similarity::Distance,
};

/// Hinge on the difference of two distances.
///
/// # Formula
///
/// ```text
/// loss = 1/B Σᵢ max(0, dist(aᵢ, pᵢ) - dist(aᵢ, nᵢ) + margin)
/// ```
///
/// # Inputs
///
/// Three columns, each `[batch, dimension]`: anchor, positive, negative. No labels.
///
/// # Defaults
///
/// `distance_metric` euclidean, `triplet_margin` 5.
///
/// # When to use
///
/// With triplets whose negatives are hard and trusted, and when the other texts of a batch must not
/// count as negatives. The margin has to suit the distance: cosine distances lie in [0, 2], so that
/// a margin of 5 would never be met there.
///
/// # Relations
///
/// [`MultipleNegativesRanking`](crate::multiple_negatives_ranking::MultipleNegativesRanking) takes
/// the same triplets, uses all texts of the batch as negatives, and mostly gives better embeddings.
///
/// # Paper
///
/// Hermans, Beyer and Leibe 2017, <https://arxiv.org/abs/1703.07737>. Upstream file:
/// `sentence_transformer/losses/triplet.py`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Triplet {
    /// The distance of two embeddings.
    #[serde(alias = "distance")]
    pub distance_metric: Distance,
    /// Least distance by which the negative is farther away than the positive.
    #[serde(alias = "margin")]
    pub triplet_margin: f64,
}

const NAME: &str = "TripletLoss";

/// The paper of the triplet losses.
pub(crate) const PAPER: Paper = Paper {
    key: "hermans2017defense",
    title: "In Defense of the Triplet Loss for Person Re-Identification",
    authors: "Alexander Hermans and Lucas Beyer and Bastian Leibe",
    year: 2017,
    place: Place::Arxiv("1703.07737"),
};

impl Default for Triplet {
    fn default() -> Self {
        Self {
            distance_metric: Distance::Euclidean,
            triplet_margin: 5.0,
        }
    }
}

impl Loss for Triplet {
    fn name(&self) -> &'static str {
        NAME
    }

    fn requirements(&self) -> Requirements {
        Requirements::new(const { &[Accepts::exactly(3, LabelKind::None)] })
    }

    fn validate(&self) -> Result<(), LossError> {
        non_negative(NAME, "triplet_margin", self.triplet_margin)
    }

    fn is_recordable(&self) -> bool {
        true
    }

    fn compute(&self, columns: &[Tensor], _: Option<&Tensor>) -> Result<Tensor, LossError> {
        let positive = self.distance_metric.pairwise(&columns[0], &columns[1])?;
        let negative = self.distance_metric.pairwise(&columns[0], &columns[2])?;
        let hinge = positive
            .f_sub(&negative)?
            .f_add_scalar(self.triplet_margin)?
            .f_relu()?;
        Ok(hinge.f_mean(None::<Kind>)?)
    }
}

//! Batch hard triplet loss: each text's farthest positive and nearest negative.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::{
    batch_triplet::{Batch, BatchDistance, REQUIREMENTS},
    error::{LossError, non_negative},
    inputs::Requirements,
    loss::Loss,
};

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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BatchHardTriplet {
    /// The distance of two embeddings.
    #[serde(alias = "distance")]
    pub distance_metric: BatchDistance,
    /// Least distance by which the negative is farther away than the positive.
    #[serde(alias = "triplet_margin")]
    pub margin: f64,
}

const NAME: &str = "BatchHardTripletLoss";

impl Default for BatchHardTriplet {
    fn default() -> Self {
        Self {
            distance_metric: BatchDistance::Euclidean,
            margin: 5.0,
        }
    }
}

impl Loss for BatchHardTriplet {
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
        let hinge = batch.hardest()?.f_add_scalar(self.margin)?.f_clamp_min(0)?;
        Ok(hinge.f_mean(None::<Kind>)?)
    }
}

//! Batch hard triplet loss with a soft margin.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::{
    batch_triplet::{Batch, BatchDistance, REQUIREMENTS},
    error::LossError,
    inputs::Requirements,
    loss::Loss,
};

/// A smooth hinge, without a margin, on the hardest triplet of each text.
///
/// # Formula
///
/// ```text
/// loss = 1/B Σₐ log(1 + exp(max_p dist(a, p) - min_n dist(a, n)))
/// ```
///
/// with p over the other texts of a's class, and n over those of other classes.
///
/// # Inputs
///
/// One column `[batch, dimension]` and a class per text, each class twice or more in a batch.
///
/// # Defaults
///
/// `distance_metric` euclidean.
///
/// # When to use
///
/// As [`BatchHardTriplet`](crate::batch_hard_triplet::BatchHardTriplet), when no margin is known.
///
/// # Relations
///
/// The same as of [`BatchHardTriplet`](crate::batch_hard_triplet::BatchHardTriplet).
///
/// # Paper
///
/// Hermans, Beyer and Leibe 2017, <https://arxiv.org/abs/1703.07737>. Upstream file:
/// `sentence_transformer/losses/batch_hard_soft_margin_triplet.py`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BatchHardSoftMarginTriplet {
    /// The distance of two embeddings.
    #[serde(alias = "distance")]
    pub distance_metric: BatchDistance,
}

const NAME: &str = "BatchHardSoftMarginTripletLoss";

impl Loss for BatchHardSoftMarginTriplet {
    fn name(&self) -> &'static str {
        NAME
    }

    fn requirements(&self) -> Requirements {
        REQUIREMENTS
    }

    fn compute(&self, columns: &[Tensor], labels: Option<&Tensor>) -> Result<Tensor, LossError> {
        let batch = Batch::new(NAME, self.distance_metric, columns, labels)?;
        // Unlike the logarithm of one plus the exponential, this does not overflow for distances
        // above 88.
        Ok(batch.hardest()?.f_softplus()?.f_mean(None::<Kind>)?)
    }
}

//! Cosine similarity loss: the cosine of a pair has to equal its score.

use serde::{Deserialize, Serialize};
use tch::{Reduction, Tensor};

use crate::{
    error::LossError,
    inputs::{self, Accepts, LabelKind, Requirements},
    loss::Loss,
};

/// Mean squared difference of cosine and score.
///
/// # Formula
///
/// ```text
/// loss = 1/B Σᵢ (cos(uᵢ, vᵢ) - yᵢ)²
/// ```
///
/// # Inputs
///
/// Two columns, each `[batch, dimension]`, and one score per pair, in the range of the cosine.
///
/// # Defaults
///
/// There is nothing to set.
///
/// # When to use
///
/// When the cosine itself is to mean something, such as a probability or a grade scaled to [0, 1].
///
/// # Relations
///
/// [`CoSent`](crate::cosent::CoSent) and [`Angle`](crate::angle::Angle) take the same data, ask only
/// for the order of the scores, and mostly give a better one.
///
/// # Paper
///
/// Reimers and Gurevych 2019, <https://arxiv.org/abs/1908.10084>. Upstream file:
/// `sentence_transformer/losses/cosine_similarity.py`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CosineSimilarity {}

const NAME: &str = "CosineSimilarityLoss";

/// The smallest product of squared norms, as in `torch.nn.functional.cosine_similarity`.
pub(crate) const COSINE_EPS: f64 = 1e-8;

impl Loss for CosineSimilarity {
    fn name(&self) -> &'static str {
        NAME
    }

    fn requirements(&self) -> Requirements {
        Requirements::new(const { &[Accepts::exactly(2, LabelKind::Float)] })
    }

    fn compute(&self, columns: &[Tensor], labels: Option<&Tensor>) -> Result<Tensor, LossError> {
        let labels = inputs::required(NAME, labels)?;
        let cosine = Tensor::f_cosine_similarity(&columns[0], &columns[1], 1, COSINE_EPS)?;
        Ok(cosine.f_mse_loss(&labels.f_to_kind(cosine.kind())?, Reduction::Mean)?)
    }
}

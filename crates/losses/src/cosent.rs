//! CoSENT: pairs with a higher score have to be more similar than pairs with a lower one.

use search::Similarity;
use serde::{Deserialize, Serialize};
use tch::{TchError, Tensor};

use crate::{
    error::{LossError, positive},
    inputs::{self, Accepts, LabelKind, Requirements},
    loss::Loss,
    similarity::TensorSimilarity,
};

/// A smooth count of the pairs of pairs that are in the wrong order.
///
/// # Formula
///
/// With s = `scale` and simᵢ the similarity of pair i:
///
/// ```text
/// loss = log(1 + Σ exp(s·simᵢ - s·simⱼ))   over all i, j with yᵢ < yⱼ
/// ```
///
/// # Inputs
///
/// Two columns, each `[batch, dimension]`, and one score per pair; only the order of the scores
/// counts.
///
/// # Defaults
///
/// `scale` 20, `similarity_fct` cosine.
///
/// # When to use
///
/// With graded similarity, as in STS. The trainer of sentence-transformers takes it where no loss is
/// named.
///
/// # Relations
///
/// [`Angle`](crate::angle::Angle) is the same with another similarity;
/// [`CosineSimilarity`](crate::cosine_similarity::CosineSimilarity) fits the scores themselves.
///
/// # Paper
///
/// Huang et al. 2024, "CoSENT: Consistent Sentence Embedding via Similarity Ranking", IEEE/ACM
/// TASLP. Upstream file: `sentence_transformer/losses/cosent.py`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CoSent {
    /// Factor on the similarities; the inverse of a temperature.
    pub scale: f64,
    /// The similarity of a pair.
    #[serde(alias = "similarity")]
    pub similarity_fct: Similarity,
}

const NAME: &str = "CoSENTLoss";

/// Subtracted from the difference of two pairs in the right order, so that its exponential vanishes.
const MASK: f64 = 1e12;

impl Default for CoSent {
    fn default() -> Self {
        Self {
            scale: 20.0,
            similarity_fct: Similarity::Cosine,
        }
    }
}

impl Loss for CoSent {
    fn name(&self) -> &'static str {
        NAME
    }

    fn requirements(&self) -> Requirements {
        Requirements::new(const { &[Accepts::exactly(2, LabelKind::Float)] })
    }

    fn validate(&self) -> Result<(), LossError> {
        positive(NAME, "scale", self.scale)
    }

    fn compute(&self, columns: &[Tensor], labels: Option<&Tensor>) -> Result<Tensor, LossError> {
        let labels = inputs::required(NAME, labels)?;
        let similarities = self.similarity_fct.pairwise(&columns[0], &columns[1])?;
        Ok(ordered(&similarities.f_mul_scalar(self.scale)?, &labels)?)
    }
}

/// The loss of scaled similarities `[n]` with labels `[n]`.
pub(crate) fn ordered(scaled: &Tensor, labels: &Tensor) -> Result<Tensor, TchError> {
    let differences = scaled.f_unsqueeze(1)?.f_sub(&scaled.f_unsqueeze(0)?)?;
    let right = labels
        .f_unsqueeze(1)?
        .f_ge_tensor(&labels.f_unsqueeze(0)?)?;
    let masked = differences.f_sub(&right.f_to_kind(scaled.kind())?.f_mul_scalar(MASK)?)?;
    let zero = Tensor::f_zeros([1], (scaled.kind(), scaled.device()))?;
    Tensor::f_cat(&[zero, masked.f_view([-1])?], 0)?.f_logsumexp([0i64].as_slice(), false)
}

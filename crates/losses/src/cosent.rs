//! CoSENT: pairs with a higher score have to be more similar than pairs with a lower one.

use search::Similarity;
use serde::{Deserialize, Serialize};
use tch::{TchError, Tensor};

use crate::{
    error::{LossError, positive},
    inputs::{self, Accepts, LabelKind, Requirements},
    loss::Loss,
    paper::{Paper, Place},
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

/// The paper that the loss is from.
pub(crate) const PAPER: Paper = Paper {
    key: "huang2024cosent",
    title: "CoSENT: Consistent Sentence Embedding via Similarity Ranking",
    authors: "Xiang Huang and Hao Peng and Dongcheng Zou and Zhiwei Liu and Jianxin Li and Kay Liu and Jia Wu and Jianlin Su and Philip S. Yu",
    year: 2024,
    place: Place::Doi("10.1109/TASLP.2024.3402087"),
};

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
///
/// Sorted by label, a pair's wrong order with all that follow it is a cumulative sum, so that time
/// grows with n log n and memory with n. Pairs of one label end at the same place.
pub(crate) fn ordered(scaled: &Tensor, labels: &Tensor) -> Result<Tensor, TchError> {
    let (labels, order) = labels.f_sort(0, false)?;
    let scaled = scaled.f_index_select(0, &order)?;
    let first_higher = labels.f_searchsorted::<Tensor>(&labels, false, true, "right", None)?;
    // log Σ exp(-s) of each pair and all after it, and of none.
    let from_here = scaled
        .f_neg()?
        .f_flip([0])?
        .f_logcumsumexp(0)?
        .f_flip([0])?;
    let nothing = scaled
        .f_detach()?
        .f_narrow(0, 0, 1)?
        .f_full_like(f64::NEG_INFINITY)?;
    let of_higher = Tensor::f_cat(&[from_here, nothing], 0)?.f_index_select(0, &first_higher)?;
    let zero = scaled.f_detach()?.f_narrow(0, 0, 1)?.f_zeros_like()?;
    let terms = Tensor::f_cat(&[zero, scaled.f_add(&of_higher)?], 0)?;
    terms.f_logsumexp([0i64].as_slice(), false)
}

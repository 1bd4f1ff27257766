//! MarginMSE: the gap between positive and negative has to equal a teacher's.

use search::Similarity;
use serde::{Deserialize, Serialize};
use tch::{Reduction, Tensor};

use crate::{
    error::LossError,
    inputs::{self, Accepts, LabelKind, Requirements},
    loss::Loss,
    paper::{Paper, Place},
    similarity::TensorSimilarity,
};

/// Mean squared difference of the student's and the teacher's margins.
///
/// # Formula
///
/// With n negatives and the teacher's margin m:
///
/// ```text
/// loss = 1/(B·n) Σᵢⱼ ( sim(qᵢ, pᵢ) - sim(qᵢ, nᵢⱼ) - mᵢⱼ )²
/// ```
///
/// # Inputs
///
/// Three or more columns, each `[batch, dimension]`: query, positive, negatives. The labels are the
/// teacher's margins, `[batch, negatives]` (or `[batch]` for one negative), or its scores of the
/// positive and the negatives, `[batch, 1 + negatives]`.
///
/// # Defaults
///
/// `similarity_fct` dot.
///
/// # When to use
///
/// To learn a search model from a cross-encoder's scores; positive and negatives need not be judged.
///
/// # Relations
///
/// [`DistillKlDiv`](crate::distill_kl_div::DistillKlDiv) compares the softmax of the scores.
///
/// # Paper
///
/// Hofstätter et al. 2020, <https://arxiv.org/abs/2010.02666>. Upstream file:
/// `sentence_transformer/losses/margin_mse.py`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MarginMse {
    /// The similarity of query and document.
    #[serde(alias = "similarity")]
    pub similarity_fct: Similarity,
}

const NAME: &str = "MarginMSELoss";

/// The paper that the loss is from.
pub(crate) const PAPER: Paper = Paper {
    key: "hofstatter2021improving",
    title: "Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge Distillation",
    authors: "Sebastian Hofstätter and Sophia Althammer and Michael Schröder and Mete Sertkan and Allan Hanbury",
    year: 2020,
    place: Place::Arxiv("2010.02666"),
};

impl Default for MarginMse {
    fn default() -> Self {
        Self {
            similarity_fct: Similarity::Dot,
        }
    }
}

impl Loss for MarginMse {
    fn name(&self) -> &'static str {
        NAME
    }

    fn requirements(&self) -> Requirements {
        Requirements::new(
            const {
                &[
                    Accepts::exactly(3, LabelKind::Float),
                    Accepts::at_least(3, LabelKind::FloatVector),
                ]
            },
        )
    }

    fn compute(&self, columns: &[Tensor], labels: Option<&Tensor>) -> Result<Tensor, LossError> {
        let (batch, negatives) = (columns[0].size()[0], columns.len() as i64 - 2);
        let labels = inputs::required(NAME, labels)?.f_to_kind(columns[0].kind())?;
        let shape = labels.size();
        let margins = if shape == [batch, negatives + 1] {
            labels
                .f_narrow(1, 0, 1)?
                .f_sub(&labels.f_narrow(1, 1, negatives)?)?
        } else if shape == [batch, negatives] || (shape == [batch] && negatives == 1) {
            labels.f_view([batch, negatives])?
        } else {
            let expected = format!("[{batch}, {negatives}] or [{batch}, {}]", negatives + 1);
            let what = "labels".to_owned();
            return Err(LossError::Shape {
                loss: NAME,
                what,
                shape,
                expected,
            });
        };
        let mut scores = Vec::with_capacity(columns.len() - 1);
        for document in &columns[1..] {
            scores.push(self.similarity_fct.pairwise(&columns[0], document)?);
        }
        let scores = Tensor::f_stack(&scores, 1)?;
        let predicted = scores
            .f_narrow(1, 0, 1)?
            .f_sub(&scores.f_narrow(1, 1, negatives)?)?;
        Ok(predicted.f_mse_loss(&margins, Reduction::Mean)?)
    }
}

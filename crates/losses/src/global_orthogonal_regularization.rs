//! Global orthogonal regularisation: the texts of a batch have to spread over the sphere.

use search::Similarity;
use serde::{Deserialize, Serialize};
use tch::{Kind, TchError, Tensor};

use crate::{
    error::{LossError, non_negative},
    inputs::{Accepts, LabelKind, Requirements},
    loss::Loss,
    paper::{Paper, Place},
    similarity::TensorSimilarity,
};

/// Penalty on the mean and the second moment of the similarities within a column.
///
/// # Formula
///
/// With m₁ and m₂ the mean of the similarities of different rows of a column and of their squares,
/// and d the dimension:
///
/// ```text
/// loss = mean_weight · m₁² + second_moment_weight · max(0, m₂ - 1/d)
/// ```
///
/// averaged, or summed, over the columns.
///
/// # Inputs
///
/// One or more columns, each `[batch, dimension]`. No labels.
///
/// # Defaults
///
/// `similarity_fct` cosine, `mean_weight` 1, `second_moment_weight` 1, `aggregation` mean.
///
/// # When to use
///
/// Beside another loss, to use the whole of the embedding space; alone it teaches nothing.
///
/// # Relations
///
/// [`MultipleNegativesRanking`](crate::multiple_negatives_ranking::MultipleNegativesRanking) with
/// query_to_query and doc_to_doc drives texts apart as well.
///
/// # Paper
///
/// Zhang et al. 2017, <https://arxiv.org/abs/1708.06320>. Upstream file:
/// `sentence_transformer/losses/global_orthogonal_regularization.py`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GlobalOrthogonalRegularization {
    /// The similarity of two texts.
    #[serde(alias = "similarity")]
    pub similarity_fct: Similarity,
    /// Factor on the squared mean.
    pub mean_weight: f64,
    /// Factor on the second moment.
    pub second_moment_weight: f64,
    /// How columns are brought together.
    pub aggregation: Aggregation,
}

/// How several columns are brought together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregation {
    /// Their mean.
    #[default]
    Mean,
    /// Their sum.
    Sum,
}

const NAME: &str = "GlobalOrthogonalRegularizationLoss";

/// The paper that the loss is from.
pub(crate) const PAPER: Paper = Paper {
    key: "zhang2017spreadout",
    title: "Learning Spread-out Local Feature Descriptors",
    authors: "Xu Zhang and Felix X. Yu and Sanjiv Kumar and Shih-Fu Chang",
    year: 2017,
    place: Place::Arxiv("1708.06320"),
};

impl Default for GlobalOrthogonalRegularization {
    fn default() -> Self {
        Self {
            similarity_fct: Similarity::Cosine,
            mean_weight: 1.0,
            second_moment_weight: 1.0,
            aggregation: Aggregation::Mean,
        }
    }
}

impl Loss for GlobalOrthogonalRegularization {
    fn name(&self) -> &'static str {
        NAME
    }

    fn requirements(&self) -> Requirements {
        Requirements::new(const { &[Accepts::at_least(1, LabelKind::None)] })
    }

    fn validate(&self) -> Result<(), LossError> {
        non_negative(NAME, "mean_weight", self.mean_weight)?;
        non_negative(NAME, "second_moment_weight", self.second_moment_weight)?;
        if self.mean_weight == 0.0 && self.second_moment_weight == 0.0 {
            let problem = "mean_weight and second_moment_weight are both 0: nothing is left";
            return Err(LossError::parameter(NAME, problem));
        }
        Ok(())
    }

    fn compute(&self, columns: &[Tensor], _: Option<&Tensor>) -> Result<Tensor, LossError> {
        let mut terms = Vec::with_capacity(columns.len());
        for column in columns {
            terms.push(self.of_column(column)?);
        }
        let terms = Tensor::f_stack(&terms, 0)?;
        Ok(match self.aggregation {
            Aggregation::Mean => terms.f_mean(None::<Kind>)?,
            Aggregation::Sum => terms.f_sum(None::<Kind>)?,
        })
    }
}

impl GlobalOrthogonalRegularization {
    fn of_column(&self, column: &Tensor) -> Result<Tensor, TchError> {
        let (batch, dimension) = (column.size()[0] as f64, column.size()[1] as f64);
        let own = Tensor::f_eye(column.size()[0], (Kind::Bool, column.device()))?;
        let similarities = self
            .similarity_fct
            .matrix(column, column)?
            .f_masked_fill(&own, 0)?;
        // A single row has no pair, and the loss zero.
        let pairs = (batch * (batch - 1.0)).max(1.0);
        let mean = similarities.f_sum(None::<Kind>)?.f_div_scalar(pairs)?;
        let second_moment = similarities
            .f_square()?
            .f_sum(None::<Kind>)?
            .f_div_scalar(pairs)?;
        let excess = second_moment.f_sub_scalar(1.0 / dimension)?.f_relu()?;
        let mean = mean.f_square()?.f_mul_scalar(self.mean_weight)?;
        mean.f_add(&excess.f_mul_scalar(self.second_moment_weight)?)
    }
}

//! Contrastive loss: alike pairs have to be near, others at least a margin apart.

use serde::{Deserialize, Serialize};
use tch::{Kind, TchError, Tensor};

use crate::{
    cosine_similarity::COSINE_EPS,
    error::{LossError, non_negative},
    inputs::{self, Accepts, LabelKind, Requirements},
    loss::Loss,
    paper::{Paper, Place},
    similarity::Distance,
};

/// Squared distance of alike pairs, squared hinge of others.
///
/// # Formula
///
/// With dᵢ the distance of pair i and yᵢ 1 where it is alike, else 0:
///
/// ```text
/// loss = 1/B Σᵢ ½ ( yᵢ dᵢ² + (1 - yᵢ) max(0, margin - dᵢ)² )
/// ```
///
/// # Inputs
///
/// Two columns, each `[batch, dimension]`, and a label 0 or 1 per pair.
///
/// # Defaults
///
/// `distance_metric` cosine, `margin` 0.5, `size_average` true: the mean and not the sum.
///
/// # When to use
///
/// With pairs that are known to be alike or not, such as duplicate questions.
///
/// # Relations
///
/// [`OnlineContrastive`](crate::online_contrastive::OnlineContrastive) counts the hard pairs of a
/// batch only and mostly does better.
///
/// # Paper
///
/// Hadsell, Chopra and LeCun 2006, "Dimensionality Reduction by Learning an Invariant Mapping",
/// CVPR. Upstream file: `sentence_transformer/losses/contrastive.py`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Contrastive {
    /// The distance of two embeddings.
    #[serde(alias = "distance")]
    pub distance_metric: Distance,
    /// How far apart pairs that are not alike have to be.
    pub margin: f64,
    /// The mean over the batch; the sum where false.
    pub size_average: bool,
}

const NAME: &str = "ContrastiveLoss";

/// The paper that the loss is from.
pub(crate) const PAPER: Paper = Paper {
    key: "hadsell2006dimensionality",
    title: "Dimensionality Reduction by Learning an Invariant Mapping",
    authors: "Raia Hadsell and Sumit Chopra and Yann LeCun",
    year: 2006,
    place: Place::Doi("10.1109/CVPR.2006.100"),
};

impl Default for Contrastive {
    fn default() -> Self {
        Self {
            distance_metric: Distance::Cosine,
            margin: 0.5,
            size_average: true,
        }
    }
}

impl Loss for Contrastive {
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
        let labels = labels.f_to_kind(columns[0].kind())?;
        let distances = siamese_distance(self.distance_metric, &columns[0], &columns[1])?;
        let alike = distances.f_square()?.f_mul(&labels)?;
        let hinge = distances.f_rsub_scalar(self.margin)?.f_relu()?.f_square()?;
        let losses = alike
            .f_add(&hinge.f_mul(&labels.f_rsub_scalar(1)?)?)?
            .f_mul_scalar(0.5)?;
        Ok(match self.size_average {
            true => losses.f_mean(None::<Kind>)?,
            false => losses.f_sum(None::<Kind>)?,
        })
    }
}

/// The distance of each row of `a` `[n, d]` to the same row of `b`: `[n]`.
///
/// Unlike [`Distance::pairwise`] it has the epsilons of `torch.nn.functional`: 1e-6 is added to
/// every component of the difference, which keeps the gradient of the Euclidean distance finite.
pub(crate) fn siamese_distance(
    distance: Distance,
    a: &Tensor,
    b: &Tensor,
) -> Result<Tensor, TchError> {
    let norm = |p| Tensor::f_pairwise_distance(a, b, p, 1e-6, false);
    match distance {
        Distance::Cosine => Tensor::f_cosine_similarity(a, b, 1, COSINE_EPS)?.f_rsub_scalar(1),
        Distance::Euclidean => norm(2.0),
        Distance::Manhattan => norm(1.0),
    }
}

//! AnglE: CoSENT with the angle of complex embeddings as similarity.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::{
    cosent::ordered,
    error::{LossError, positive},
    inputs::{self, Accepts, LabelKind, Requirements},
    loss::Loss,
    paper::{Paper, Place},
    similarity::pairwise_angle,
};

/// A smooth count of the pairs of pairs that are in the wrong order by their angles.
///
/// # Formula
///
/// [`CoSent`](crate::cosent::CoSent)'s with
/// [`pairwise_angle`]: the first half of an embedding is its real and the second its imaginary part,
/// and the similarity is |Σ (Re + Im)| of the normalised quotient.
///
/// # Inputs
///
/// Two columns `[batch, dimension]` and one score per pair; or three and more columns, anchor,
/// positive and negatives, without scores: positives then count as 1 and negatives as 0. In code, a
/// score y may come with these too; a negative then counts as 1 - y.
///
/// # Defaults
///
/// `scale` 20.
///
/// # When to use
///
/// With graded similarity, where the cosine's gradient vanishes because pairs are almost alike or
/// almost opposite. The paper adds a contrastive loss to it.
///
/// # Relations
///
/// [`CoSent`](crate::cosent::CoSent) is the same by cosine.
///
/// # Paper
///
/// Li and Li 2024, <https://arxiv.org/abs/2309.12871>. Upstream file:
/// `sentence_transformer/losses/angle.py`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Angle {
    /// Factor on the similarities; the inverse of a temperature.
    pub scale: f64,
}

const NAME: &str = "AnglELoss";

/// The paper that the loss is from.
pub(crate) const PAPER: Paper = Paper {
    key: "li-li-2024-aoe",
    title: "{A}o{E}: Angle-optimized Embeddings for Semantic Textual Similarity",
    authors: "Xianming Li and Jing Li",
    year: 2024,
    place: Place::Doi("10.18653/v1/2024.acl-long.101"),
};

impl Default for Angle {
    fn default() -> Self {
        Self { scale: 20.0 }
    }
}

impl Loss for Angle {
    fn name(&self) -> &'static str {
        NAME
    }

    fn requirements(&self) -> Requirements {
        Requirements::new(
            const {
                &[
                    Accepts::exactly(2, LabelKind::Float),
                    Accepts::at_least(3, LabelKind::None),
                ]
            },
        )
    }

    fn validate(&self) -> Result<(), LossError> {
        positive(NAME, "scale", self.scale)
    }

    fn compute(&self, columns: &[Tensor], labels: Option<&Tensor>) -> Result<Tensor, LossError> {
        let (batch, device) = (columns[0].size()[0], columns[0].device());
        let negatives = columns.len() as i64 - 2;
        let labels = match labels {
            None if negatives > 0 => Tensor::f_ones([batch], (Kind::Float, device))?,
            labels => inputs::required(NAME, labels)?,
        };
        let of_negatives = labels.f_rsub_scalar(1)?.f_repeat([negatives])?;
        let labels = Tensor::f_cat(&[labels, of_negatives], 0)?;
        let anchors = columns[0].f_repeat([negatives + 1, 1])?;
        let others = Tensor::f_cat(&columns[1..], 0)?;
        let similarities = pairwise_angle(&anchors, &others)?;
        Ok(ordered(&similarities.f_mul_scalar(self.scale)?, &labels)?)
    }
}

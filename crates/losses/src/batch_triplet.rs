//! The triplet losses that mine a batch: its distances and masks, and what those with a margin share.

use std::{fmt, marker::PhantomData};

use search::Similarity;
use serde::{Deserialize, Serialize};
use tch::{Kind, TchError, Tensor};

use crate::{
    error::{LossError, non_negative},
    inputs::{self, Accepts, LabelKind, Requirements},
    loss::Loss,
    similarity::TensorSimilarity,
};

/// The distance by which a batch is mined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchDistance {
    /// One minus the cosine.
    #[serde(alias = "cosine_distance", alias = "cosine-distance")]
    Cosine,
    /// Length of the difference.
    #[default]
    #[serde(alias = "euclidean_distance", alias = "euclidean-distance")]
    Euclidean,
}

/// A triplet loss with a margin, over the triplets `M` of a batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, bound = "")]
pub struct WithMargin<M> {
    /// The distance of two embeddings.
    #[serde(alias = "distance")]
    pub distance_metric: BatchDistance,
    /// Least distance by which the negative is farther away than the positive.
    #[serde(alias = "triplet_margin")]
    pub margin: f64,
    #[serde(skip)]
    mined: PhantomData<M>,
}

/// A choice of triplets of a batch, with the loss over them.
pub(crate) trait Mined: fmt::Debug + Send {
    /// The name of the loss's class in sentence-transformers.
    const NAME: &'static str;

    fn of_batch(batch: &Batch, margin: f64) -> Result<Tensor, TchError>;
}

impl<M> Default for WithMargin<M> {
    fn default() -> Self {
        Self {
            distance_metric: BatchDistance::Euclidean,
            margin: 5.0,
            mined: PhantomData,
        }
    }
}

impl<M: Mined> Loss for WithMargin<M> {
    fn name(&self) -> &'static str {
        M::NAME
    }

    fn requirements(&self) -> Requirements {
        REQUIREMENTS
    }

    fn validate(&self) -> Result<(), LossError> {
        non_negative(M::NAME, "margin", self.margin)
    }

    fn compute(&self, columns: &[Tensor], labels: Option<&Tensor>) -> Result<Tensor, LossError> {
        let batch = Batch::new(M::NAME, self.distance_metric, columns, labels)?;
        Ok(M::of_batch(&batch, self.margin)?)
    }
}

/// One column of texts with a class each.
pub(crate) const REQUIREMENTS: Requirements =
    Requirements::new(&[Accepts::exactly(1, LabelKind::Integer)]);

/// All distances of a batch and which of its pairs share a class.
pub(crate) struct Batch {
    /// `[batch, batch]`.
    pub(crate) distances: Tensor,
    /// `[batch, batch]`, true where two rows have the same label; a row with itself too.
    pub(crate) same: Tensor,
    /// `[batch, batch]`, true on the diagonal.
    pub(crate) own: Tensor,
}

impl Batch {
    /// The batch of the one column.
    pub(crate) fn new(
        loss: &'static str,
        distance: BatchDistance,
        columns: &[Tensor],
        labels: Option<&Tensor>,
    ) -> Result<Self, LossError> {
        let batch = columns[0].size()[0];
        let labels = inputs::required(loss, labels)?;
        Ok(Self {
            distances: distance.matrix(&columns[0])?,
            same: labels
                .f_unsqueeze(0)?
                .f_eq_tensor(&labels.f_unsqueeze(1)?)?,
            own: Tensor::f_eye(batch, (Kind::Bool, columns[0].device()))?,
        })
    }

    /// `[batch, batch]`, true where a row and another one share a class.
    pub(crate) fn positive(&self) -> Result<Tensor, TchError> {
        self.same.f_logical_and(&self.own.f_logical_not()?)
    }

    /// The distances of each row to its negatives in rising order, then infinities: `[batch, batch]`.
    pub(crate) fn sorted_negatives(&self) -> Result<Tensor, TchError> {
        let negatives = self.distances.f_masked_fill(&self.same, f64::INFINITY)?;
        Ok(negatives.f_sort_stable(true, 1, false)?.0)
    }

    /// For each row the distance to its farthest positive minus that to its nearest negative:
    /// `[batch, 1]`.
    ///
    /// A row without positives takes zero for the first; one without negatives takes twice its
    /// greatest distance, or less, for the second.
    pub(crate) fn hardest(&self) -> Result<Tensor, TchError> {
        let kind = self.distances.kind();
        let positive = self.positive()?.f_to_kind(kind)?.f_mul(&self.distances)?;
        let (farthest, _) = positive.f_max_dim(1, true)?;
        let (greatest, _) = self.distances.f_max_dim(1, true)?;
        let negative = self
            .distances
            .f_add(&greatest.f_mul(&self.same.f_to_kind(kind)?)?)?;
        let (nearest, _) = negative.f_min_dim(1, true)?;
        farthest.f_sub(&nearest)
    }
}

impl BatchDistance {
    /// Distances of all rows of `[n, d]`: `[n, n]`. A Euclidean distance of zero has the gradient
    /// zero.
    fn matrix(self, x: &Tensor) -> Result<Tensor, TchError> {
        if self == Self::Cosine {
            return Similarity::Cosine.matrix(x, x)?.f_rsub_scalar(1);
        }
        let dot = x.f_matmul(&x.f_transpose(0, 1)?)?;
        let square = dot.f_diagonal(0, 0, 1)?;
        let squared = square
            .f_unsqueeze(0)?
            .f_sub(&dot.f_mul_scalar(2)?)?
            .f_add(&square.f_unsqueeze(1)?)?;
        let squared = squared.f_masked_fill(&squared.f_detach()?.f_lt(0)?, 0)?;
        let zero = squared.f_detach()?.f_eq(0)?.f_to_kind(squared.kind())?;
        let root = squared.f_add(&zero.f_mul_scalar(1e-16)?)?.f_sqrt()?;
        root.f_mul(&zero.f_rsub_scalar(1)?)
    }
}

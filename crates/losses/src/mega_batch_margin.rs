//! Mega-batch margin loss: the hardest negative of a large batch.

use search::Similarity;
use serde::{Deserialize, Serialize};
use tch::{Kind, TchError, Tensor};

use crate::{
    error::LossError,
    inputs::{Accepts, LabelKind, Requirements},
    loss::Loss,
    paper::{Paper, Place},
    similarity::TensorSimilarity,
};

/// Two hinges: the positive has to be near enough, and the hardest negative far enough.
///
/// # Formula
///
/// ```text
/// loss = 1/B Σᵢ max(0, positive_margin - cos(aᵢ, pᵢ))
///              + max(0, max_{j≠i} cos(aᵢ, pⱼ) - negative_margin)
/// ```
///
/// # Inputs
///
/// Two columns, each `[batch, dimension]`: anchor, positive. No labels.
///
/// # Defaults
///
/// `positive_margin` 0.8, `negative_margin` 0.3, `use_mini_batched_version` true with
/// `mini_batch_size` 50: the batch is embedded in parts, see [`cached`](crate::cached).
///
/// # When to use
///
/// With pairs and large batches, 500 and more, in which a hard negative is likely to be found.
///
/// # Relations
///
/// [`MultipleNegativesRanking`](crate::multiple_negatives_ranking::MultipleNegativesRanking) weighs
/// all negatives of the batch.
///
/// # Paper
///
/// Wieting and Gimpel 2018, <https://arxiv.org/abs/1711.05732>. Upstream file:
/// `sentence_transformer/losses/mega_batch_margin.py`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MegaBatchMargin {
    /// The least cosine of anchor and positive.
    pub positive_margin: f64,
    /// The greatest cosine of anchor and hardest negative.
    pub negative_margin: f64,
    /// Whether the batch is embedded in parts.
    pub use_mini_batched_version: bool,
    /// Rows per part.
    pub mini_batch_size: usize,
}

const NAME: &str = "MegaBatchMarginLoss";

/// The paper that the loss is from.
pub(crate) const PAPER: Paper = Paper {
    key: "wieting-gimpel-2018-paranmt",
    title: "{P}ara{NMT}-50{M}: Pushing the Limits of Paraphrastic Sentence Embeddings with Millions of Machine Translations",
    authors: "John Wieting and Kevin Gimpel",
    year: 2018,
    place: Place::Doi("10.18653/v1/P18-1042"),
};

impl Default for MegaBatchMargin {
    fn default() -> Self {
        Self {
            positive_margin: 0.8,
            negative_margin: 0.3,
            use_mini_batched_version: true,
            mini_batch_size: 50,
        }
    }
}

impl Loss for MegaBatchMargin {
    fn name(&self) -> &'static str {
        NAME
    }

    fn requirements(&self) -> Requirements {
        Requirements::new(const { &[Accepts::exactly(2, LabelKind::None)] })
    }

    fn validate(&self) -> Result<(), LossError> {
        if self.mini_batch_size == 0 {
            let problem = "mini_batch_size is 0, but must be at least 1";
            return Err(LossError::parameter(NAME, problem));
        }
        Ok(())
    }

    fn mini_batch_size(&self) -> Option<usize> {
        self.use_mini_batched_version
            .then_some(self.mini_batch_size)
    }

    fn compute(&self, columns: &[Tensor], _: Option<&Tensor>) -> Result<Tensor, LossError> {
        Ok(self.of_columns(&columns[0], &columns[1])?)
    }
}

impl MegaBatchMargin {
    fn of_columns(&self, anchors: &Tensor, positives: &Tensor) -> Result<Tensor, TchError> {
        let cosines = Similarity::Cosine.matrix(anchors, positives)?;
        let own = Tensor::f_eye(cosines.size()[0], (Kind::Bool, cosines.device()))?;
        let positive = cosines
            .f_diagonal(0, 0, 1)?
            .f_rsub_scalar(self.positive_margin)?;
        let (hardest, _) = cosines
            .f_masked_fill(&own, f64::NEG_INFINITY)?
            .f_max_dim(1, false)?;
        let negative = hardest.f_sub_scalar(self.negative_margin)?;
        positive
            .f_relu()?
            .f_add(&negative.f_relu()?)?
            .f_mean(None::<Kind>)
    }
}

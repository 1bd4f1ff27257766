//! GISTEmbed: in-batch negatives, but for those that a guide model takes for positives.

use search::Similarity;
use serde::{Deserialize, Serialize};
use tch::{Reduction, TchError, Tensor};

use crate::{
    error::{LossError, positive},
    inputs::{Accepts, LabelKind, Requirements},
    loss::{Loss, OwnRows, StepInputs},
    paper::{Paper, Place},
    similarity::TensorSimilarity,
};

/// Cross-entropy over a batch's similarities, with false negatives left out.
///
/// # Formula
///
/// With τ = `temperature`, g the guide's cosine and m the margin:
///
/// ```text
/// loss = -1/B Σᵢ log ( exp(cos(aᵢ, pᵢ)/τ) / Σ exp(cos(x, y)/τ) )
/// ```
///
/// where the sum is over the pairs (aᵢ, pⱼ), (aᵢ, aⱼ), (pᵢ, pⱼ) and (aᵢ, nⱼ) with
/// g(x, y) ≤ g(aᵢ, pᵢ) - m (`absolute`) or ≤ g(aᵢ, pᵢ) - m·|g(aᵢ, pᵢ)| (`relative`), and over
/// (aᵢ, pᵢ) itself.
///
/// # Inputs
///
/// Two or more columns, each `[batch, dimension]`: anchor, positive, negatives; then as many columns
/// with the guide's embeddings of the same texts, whose dimension may be another. No labels.
///
/// # Defaults
///
/// `guide` has to be given for training. `temperature` 0.01, `margin_strategy` absolute, `margin` 0, `contrast_anchors` and
/// `contrast_positives` true, `gather_across_devices` false.
///
/// # Several ranks
///
/// With `gather_across_devices` the positives and negatives of all ranks are candidates, and of the anchors those of
/// the rank alone, as upstream. The pair itself is never left out; upstream's loss without a cache protects another
/// row's on all ranks but the first.
///
/// # When to use
///
/// As [`MultipleNegativesRanking`](crate::multiple_negatives_ranking::MultipleNegativesRanking),
/// where texts of a batch often mean the same and a good model is at hand.
///
/// # Relations
///
/// Without a guide and without the two contrasts it is that loss.
///
/// # Paper
///
/// Solatorio 2024, <https://arxiv.org/abs/2402.16829>; margins: de Souza P. Moreira et al. 2024,
/// <https://arxiv.org/abs/2407.15831>. Upstream files: `sentence_transformer/losses/gist_embed.py`
/// and, for more than one negative, `cached_gist_embed.py`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GistEmbed {
    /// The guide: a folder, or a name on the hub.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guide: Option<String>,
    /// Divides the similarities.
    pub temperature: f64,
    /// The unit of the margin.
    pub margin_strategy: MarginStrategy,
    /// How much less similar than the positive a negative has to be, by the guide.
    pub margin: f64,
    /// Whether the other anchors of the batch are negatives too.
    pub contrast_anchors: bool,
    /// Whether the positives of a batch are negatives of each other.
    pub contrast_positives: bool,
    /// Whether the positives and negatives of all ranks are candidates.
    pub gather_across_devices: bool,
}

/// The unit of a margin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MarginStrategy {
    /// The cosine.
    #[default]
    Absolute,
    /// The positive's cosine.
    Relative,
}

const NAME: &str = "GISTEmbedLoss";

/// The paper that the loss is from.
pub(crate) const PAPER: Paper = Paper {
    key: "solatorio2024gistembed",
    title: "GISTEmbed: Guided In-sample Selection of Training Negatives for Text Embedding Fine-tuning",
    authors: "Aivin V. Solatorio",
    year: 2024,
    place: Place::Arxiv("2402.16829"),
};

impl Default for GistEmbed {
    fn default() -> Self {
        Self {
            guide: None,
            temperature: 0.01,
            margin_strategy: MarginStrategy::Absolute,
            margin: 0.0,
            contrast_anchors: true,
            contrast_positives: true,
            gather_across_devices: false,
        }
    }
}

impl Loss for GistEmbed {
    fn name(&self) -> &'static str {
        NAME
    }

    fn requirements(&self) -> Requirements {
        Requirements {
            accepts: const { &[Accepts::at_least(2, LabelKind::None)] },
            guide: true,
        }
    }

    fn guide(&self) -> Option<&str> {
        self.guide.as_deref()
    }

    fn validate(&self) -> Result<(), LossError> {
        positive(NAME, "temperature", self.temperature)?;
        if !self.margin.is_finite() {
            let problem = format!("margin is {}, but must be a finite number", self.margin);
            return Err(LossError::parameter(NAME, problem));
        }
        Ok(())
    }

    fn gathers_across_devices(&self) -> bool {
        self.gather_across_devices
    }

    fn compute(&self, columns: &[Tensor], labels: Option<&Tensor>) -> Result<Tensor, LossError> {
        self.compute_step(&StepInputs::new(columns, labels))
    }

    fn compute_step(&self, step: &StepInputs<'_>) -> Result<Tensor, LossError> {
        let (texts, guide) = step.embeddings.split_at(step.embeddings.len() / 2);
        let own = OwnRows::or_all(step.own, texts[0].size()[0]);
        Ok(self.of_columns(texts, guide, own)?)
    }
}

impl GistEmbed {
    fn of_columns(
        &self,
        texts: &[Tensor],
        guide: &[Tensor],
        own: OwnRows,
    ) -> Result<Tensor, TchError> {
        let (n_all, device) = (texts[0].size()[0], texts[0].device());
        // Blocks of similarities as indexes of columns; the first holds the positives.
        let mut blocks = vec![(0, 1)];
        if self.contrast_anchors {
            blocks.push((0, 0));
        }
        if self.contrast_positives {
            blocks.push((1, 1));
        }
        blocks.extend((2..texts.len()).map(|negative| (0, negative)));

        // Anchors are compared with those of the same rank, documents with those of all.
        let similarities = |columns: &[Tensor], a: usize, b: usize| -> Result<Tensor, TchError> {
            let candidates = match b {
                0 => own.of(&columns[0])?,
                b => columns[b].shallow_clone(),
            };
            Similarity::Cosine.matrix(&own.of(&columns[a])?, &candidates)
        };
        let guided = |a: usize, b: usize| similarities(guide, a, b)?.f_detach();
        let positives = guided(0, 1)?
            .f_diagonal(own.first, 0, 1)?
            .f_reshape([own.n, 1])?;
        let limit = match self.margin_strategy {
            MarginStrategy::Absolute => positives.f_sub_scalar(self.margin)?,
            MarginStrategy::Relative => {
                positives.f_sub(&positives.f_abs()?.f_mul_scalar(self.margin)?)?
            }
        };
        let not_own = own.is_own(n_all, 1, device)?.f_logical_not()?;
        let mut scores = Vec::with_capacity(blocks.len());
        for (a, b) in blocks {
            let mut false_negative = guided(a, b)?.f_gt_tensor(&limit)?;
            if (a, b) == (0, 1) {
                false_negative = false_negative.f_logical_and(&not_own)?;
            }
            let block = similarities(texts, a, b)?;
            scores.push(block.f_masked_fill(&false_negative, f64::NEG_INFINITY)?);
        }
        let logits = Tensor::f_cat(&scores, 1)?.f_div_scalar(self.temperature)?;
        let target = own.places(device)?;
        logits.f_cross_entropy_loss::<Tensor>(&target, None, Reduction::Mean, -100, 0.0)
    }
}

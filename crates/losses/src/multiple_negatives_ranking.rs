//! Multiple Negatives Ranking: each anchor has to find its positive among all texts of the batch.

use search::Similarity;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Reduction, TchError, Tensor};

use crate::{
    error::{LossError, non_negative, positive},
    inputs::{Accepts, LabelKind, Requirements},
    loss::{Loss, OwnRows, StepInputs},
    paper::{Paper, Place},
    similarity::TensorSimilarity,
};

/// Cross-entropy over the similarities of each anchor with all candidates of the batch.
///
/// # Formula
///
/// With anchors aᵢ, documents d (the B positives d₁..d_B first, then the B first negatives, and so
/// on) and s = `scale`:
///
/// ```text
/// loss = -1/B Σᵢ ( s·sim(aᵢ, dᵢ) - log Σⱼ exp(s·sim(aᵢ, dⱼ)) )
/// ```
///
/// Further `directions` add terms to the sum in the logarithm (`joint`) or average several
/// logarithms (`per_direction`); the positive's score is always that of anchor and positive.
/// Hardness weighting adds `hardness_strength · sim`, unscaled and without gradient, to the logits
/// of the negatives that `hardness_mode` names.
///
/// # Inputs
///
/// Two or more columns, each `[batch, dimension]`: anchor, positive, negative 1 to n. No labels.
///
/// # Defaults
///
/// `scale` 20, `similarity_fct` cosine, `gather_across_devices` false, `directions` query_to_doc,
/// `partition_mode` joint, no hardness weighting.
///
/// # Several ranks
///
/// With `gather_across_devices` the anchors of a rank compete for their positives with the texts of all
/// ranks, as if those were one batch.
///
/// # When to use
///
/// The first choice for pairs that belong together, such as question and answer or premise and
/// entailed hypothesis. More rows in a batch mean more negatives, and so a harder task. No text
/// should come twice in a batch, as the copy would count as a negative.
///
/// # Relations
///
/// With two columns it is the in-batch softmax of SimCSE and InfoNCE. `directions` query_to_doc and
/// doc_to_query with `partition_mode` per_direction is the symmetric form; all four directions,
/// joint, are the improved contrastive loss of GTE.
///
/// # Papers
///
/// van den Oord, Li and Vinyals 2018, <https://arxiv.org/abs/1807.03748>; Henderson et al. 2017,
/// <https://arxiv.org/abs/1705.00652>; GTE: Li et al. 2023, <https://arxiv.org/abs/2308.03281>;
/// hardness: Lan et al. 2025, equation 5, <https://arxiv.org/abs/2503.04812>. Upstream file:
/// `sentence_transformer/losses/multiple_negatives_ranking.py`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MultipleNegativesRanking {
    /// Factor on the similarities; the inverse of a temperature.
    pub scale: f64,
    /// The similarity of anchor and document.
    #[serde(alias = "similarity")]
    pub similarity_fct: Similarity,
    /// Whether the texts of all ranks are candidates.
    pub gather_across_devices: bool,
    /// Which similarities compete with the positive's; has to contain query_to_doc.
    #[serde(deserialize_with = "crate::one_or_many::one_or_many")]
    pub directions: Vec<Direction>,
    /// One softmax over all directions, or one for each.
    #[serde(alias = "partition")]
    pub partition_mode: PartitionMode,
    /// Which negatives get a heavier weight the more similar they are.
    #[serde(alias = "hardness", skip_serializing_if = "Option::is_none")]
    pub hardness_mode: Option<HardnessMode>,
    /// Factor on the extra weight; 9 and 5 are found in the literature for in-batch and for given
    /// negatives.
    pub hardness_strength: f64,
}

/// A block of similarities; an anchor is a query, positives and negatives are documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Each anchor with all documents.
    #[serde(alias = "query-to-doc")]
    QueryToDoc,
    /// Each anchor with all other anchors.
    #[serde(alias = "query-to-query")]
    QueryToQuery,
    /// Each positive with all anchors.
    #[serde(alias = "doc-to-query")]
    DocToQuery,
    /// Each positive with the documents of all other anchors.
    #[serde(alias = "doc-to-doc")]
    DocToDoc,
}

/// How several directions are brought together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartitionMode {
    /// One softmax over all.
    #[default]
    Joint,
    /// A softmax for each, averaged.
    #[serde(alias = "per-direction")]
    PerDirection,
}

/// Which negatives hardness weighting is applied to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HardnessMode {
    /// The documents of other anchors.
    #[serde(alias = "in-batch-negatives")]
    InBatchNegatives,
    /// The anchor's own negatives.
    #[serde(alias = "hard-negatives")]
    HardNegatives,
    /// All documents but the anchor's positive.
    #[serde(alias = "all-negatives")]
    AllNegatives,
}

const NAME: &str = "MultipleNegativesRankingLoss";

/// The paper that the loss is from.
pub(crate) const PAPER: Paper = Paper {
    key: "li2023general",
    title: "Towards General Text Embeddings with Multi-stage Contrastive Learning",
    authors: "Zehan Li and Xin Zhang and Yanzhao Zhang and Dingkun Long and Pengjun Xie and Meishan Zhang",
    year: 2023,
    place: Place::Arxiv("2308.03281"),
};

impl Default for MultipleNegativesRanking {
    fn default() -> Self {
        Self {
            scale: 20.0,
            similarity_fct: Similarity::Cosine,
            gather_across_devices: false,
            directions: vec![Direction::QueryToDoc],
            partition_mode: PartitionMode::Joint,
            hardness_mode: None,
            hardness_strength: 0.0,
        }
    }
}

impl Loss for MultipleNegativesRanking {
    fn name(&self) -> &'static str {
        NAME
    }

    fn requirements(&self) -> Requirements {
        Requirements::new(const { &[Accepts::at_least(2, LabelKind::None)] })
    }

    fn validate(&self) -> Result<(), LossError> {
        positive(NAME, "scale", self.scale)?;
        non_negative(NAME, "hardness_strength", self.hardness_strength)?;
        if !self.directions.contains(&Direction::QueryToDoc) {
            let problem = "directions lack query_to_doc, which holds the positive's score";
            return Err(LossError::parameter(NAME, problem));
        }
        let same_kind = [Direction::QueryToQuery, Direction::DocToDoc];
        if self.partition_mode == PartitionMode::PerDirection
            && self
                .directions
                .iter()
                .any(|direction| same_kind.contains(direction))
        {
            let problem = "partition_mode per_direction does not go with the directions \
                query_to_query and doc_to_doc, which never hold the positive: use joint";
            return Err(LossError::parameter(NAME, problem));
        }
        if self.hardness_mode.is_some() && self.hardness_strength == 0.0 {
            let problem = "hardness_mode has no effect with hardness_strength 0: give a strength";
            return Err(LossError::parameter(NAME, problem));
        }
        Ok(())
    }

    fn is_recordable(&self) -> bool {
        true
    }

    fn gathers_across_devices(&self) -> bool {
        self.gather_across_devices
    }

    fn compute(&self, columns: &[Tensor], labels: Option<&Tensor>) -> Result<Tensor, LossError> {
        self.compute_step(&StepInputs::new(columns, labels))
    }

    fn compute_step(&self, step: &StepInputs<'_>) -> Result<Tensor, LossError> {
        let (queries, documents) = (&step.embeddings[0], &step.embeddings[1..]);
        let own = OwnRows::or_all(step.own, queries.size()[0]);
        Ok(self.of_columns(queries, documents, own)?)
    }
}

impl MultipleNegativesRanking {
    fn of_columns(
        &self,
        queries: &Tensor,
        documents: &[Tensor],
        own: OwnRows,
    ) -> Result<Tensor, TchError> {
        let (n_all, device) = (queries.size()[0], queries.device());
        let all = Tensor::f_cat(documents, 0)?;
        let similarities = self.similarity_fct.matrix(&own.of(queries)?, &all)?;
        let mut logits = similarities.f_mul_scalar(self.scale)?;
        if let Some(mode) = self.hardness_mode {
            let penalty = similarities
                .f_detach()?
                .f_mul_scalar(self.hardness_strength)?;
            let excluded = mode.excluded(own, n_all, documents.len() as i64, device)?;
            logits = logits.f_add(&penalty.f_masked_fill(&excluded, 0.0)?)?;
        }
        let mut blocks = vec![logits];
        for direction in [
            Direction::QueryToQuery,
            Direction::DocToQuery,
            Direction::DocToDoc,
        ]
        .iter()
        {
            if self.directions.contains(direction) {
                let block = self.block(*direction, queries, &documents[0], &all, own)?;
                blocks.push(block.f_mul_scalar(self.scale)?);
            }
        }

        if self.partition_mode == PartitionMode::Joint {
            let logits = if blocks.len() == 1 {
                blocks.remove(0)
            } else {
                Tensor::f_cat(&blocks, 1)?
            };
            let target = own.places(device)?;
            return logits.f_cross_entropy_loss::<Tensor>(
                &target,
                None,
                Reduction::Mean,
                -100,
                0.0,
            );
        }
        let scores = blocks[0].f_diagonal(own.first, 0, 1)?;
        let mut partition = blocks[0].f_logsumexp([1i64].as_slice(), false)?;
        for block in &blocks[1..] {
            partition = partition.f_add(&block.f_logsumexp([1i64].as_slice(), false)?)?;
        }
        let partition = partition.f_div_scalar(blocks.len() as f64)?;
        partition.f_sub(&scores)?.f_mean(None::<Kind>)
    }

    /// The similarities of a further direction, one row per own anchor; an entry that would compare
    /// a text with itself or with a text of the same anchor is minus infinity.
    fn block(
        &self,
        direction: Direction,
        queries: &Tensor,
        positives: &Tensor,
        all: &Tensor,
        own: OwnRows,
    ) -> Result<Tensor, TchError> {
        let (n_all, device) = (queries.size()[0], queries.device());
        let similarity = self.similarity_fct;
        match direction {
            Direction::QueryToDoc => similarity.matrix(&own.of(queries)?, all),
            Direction::QueryToQuery => similarity
                .matrix(&own.of(queries)?, queries)?
                .f_masked_fill(&own.is_own(n_all, 1, device)?, f64::NEG_INFINITY),
            Direction::DocToQuery => similarity
                .matrix(queries, &own.of(positives)?)?
                .f_transpose(0, 1),
            Direction::DocToDoc => similarity
                .matrix(all, &own.of(positives)?)?
                .f_transpose(0, 1)?
                .f_masked_fill(
                    &own.is_own(n_all, all.size()[0] / n_all, device)?,
                    f64::NEG_INFINITY,
                ),
        }
    }
}

impl HardnessMode {
    /// Where `[own rows, all rows · documents]` gets no penalty.
    fn excluded(
        self,
        own: OwnRows,
        n_all: i64,
        documents: i64,
        device: Device,
    ) -> Result<Tensor, TchError> {
        let own = own.is_own(n_all, documents, device)?;
        let positives = own.f_narrow(1, 0, n_all)?;
        let negatives = own.f_narrow(1, n_all, n_all * (documents - 1))?;
        match self {
            Self::InBatchNegatives => Ok(own),
            Self::HardNegatives => {
                Tensor::f_cat(&[positives.f_ones_like()?, negatives.f_logical_not()?], 1)
            }
            Self::AllNegatives => Tensor::f_cat(&[positives, negatives.f_zeros_like()?], 1),
        }
    }
}

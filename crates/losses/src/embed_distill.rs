//! Embedding distillation: a student's embeddings have to equal its teacher's.

use serde::{Deserialize, Serialize};
use tch::{Kind, Reduction, TchError, Tensor};

use crate::{
    context::BuildContext,
    cosine_similarity::COSINE_EPS,
    error::LossError,
    inputs::{self, Accepts, LabelKind, Requirements},
    linear::Linear,
    loss::Loss,
    paper::{Paper, Place},
    similarity::row_norm,
};

/// Distance of the student's embeddings to those that a teacher gave beforehand.
///
/// # Formula
///
/// The mean over rows and columns of 1 - cos(s, t) (`cosine`), of |s - t| (`l2`), or of the squared
/// difference of each component (`mse`).
///
/// # Inputs
///
/// One or more columns, each `[batch, dimension]`. The labels are the teacher's embeddings:
/// `[batch, dimension]`, the same for all columns, or `[batch, columns, dimension]`.
///
/// # Defaults
///
/// `distance_metric` cosine, and no projection. With `projection_dim` the student's embeddings go
/// through a linear layer first, whose weights, `projection.weight` and `projection.bias`, are
/// trained too and handed out by [`Loss::parameters`].
///
/// # When to use
///
/// To make a small model of a large one, or a multilingual model of a monolingual one: the same
/// teacher's embedding for a sentence and for its translations.
///
/// # Relations
///
/// [`Mse`] is this with `distance_metric` mse. [`MarginMse`](crate::margin_mse::MarginMse) and
/// [`DistillKlDiv`](crate::distill_kl_div::DistillKlDiv) learn a teacher's scores, for which the
/// dimensions may differ.
///
/// # Papers
///
/// Kim et al. 2023, equations 7 and 8, <https://arxiv.org/abs/2301.12005>; Reimers and Gurevych 2020,
/// <https://arxiv.org/abs/2004.09813>. Upstream files: `sentence_transformer/losses/embed_distill.py`
/// and `mse.py`.
#[derive(Debug)]
pub struct EmbedDistill {
    metric: Metric,
    projection: Option<Linear>,
}

/// The parameters of [`EmbedDistill`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EmbedDistillOptions {
    /// How student and teacher are compared.
    #[serde(alias = "distance")]
    pub distance_metric: Metric,
    /// The teacher's dimension, where it isn't the student's: a trained linear layer leads there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub projection_dim: Option<i64>,
}

/// The mean squared error of [`EmbedDistill`], under the name that it had first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mse {}

/// How two embeddings are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// One minus the cosine.
    Cosine,
    /// Length of the difference.
    L2,
    /// Mean squared difference of the components.
    Mse,
}

const NAME: &str = "EmbedDistillLoss";
const MSE_NAME: &str = "MSELoss";

/// The paper that the loss is from.
pub(crate) const PAPER: Paper = Paper {
    key: "kim2023embeddistill",
    title: "EmbedDistill: A Geometric Knowledge Distillation for Information Retrieval",
    authors: "Seungyeon Kim and Ankit Singh Rawat and Manzil Zaheer and Sadeep Jayasumana and Veeranjaneyulu Sadhanala and Wittawat Jitkrittum and Aditya Krishna Menon and Rob Fergus and Sanjiv Kumar",
    year: 2023,
    place: Place::Arxiv("2301.12005"),
};

/// The paper of [`Mse`].
pub(crate) const MSE_PAPER: Paper = Paper {
    key: "reimers-2020-multilingual-sentence-bert",
    title: "Making Monolingual Sentence Embeddings Multilingual using Knowledge Distillation",
    authors: "Nils Reimers and Iryna Gurevych",
    year: 2020,
    place: Place::Arxiv("2004.09813"),
};

const REQUIREMENTS: Requirements =
    Requirements::new(&[Accepts::at_least(1, LabelKind::FloatVector)]);

impl Default for EmbedDistillOptions {
    fn default() -> Self {
        Self {
            distance_metric: Metric::Cosine,
            projection_dim: None,
        }
    }
}

impl EmbedDistill {
    /// With a projection where the options have one, whose weights are random as
    /// `torch.nn.Linear`'s after `torch.manual_seed(context.seed)`.
    ///
    /// # Errors
    /// Where `projection_dim` is below 1.
    pub fn new(options: EmbedDistillOptions, context: &BuildContext) -> Result<Self, LossError> {
        let projection = match options.projection_dim {
            None => None,
            Some(dimension) if dimension >= 1 => {
                let own = context.dimension.unwrap_or(1);
                Some(Linear::new(own, dimension, context)?)
            }
            Some(dimension) => {
                let problem = format!("projection_dim is {dimension}, but must be at least 1");
                return Err(LossError::parameter(NAME, problem));
            }
        };
        Ok(Self {
            metric: options.distance_metric,
            projection,
        })
    }
}

impl Loss for EmbedDistill {
    fn name(&self) -> &'static str {
        NAME
    }

    fn requirements(&self) -> Requirements {
        REQUIREMENTS
    }

    fn compute(&self, columns: &[Tensor], labels: Option<&Tensor>) -> Result<Tensor, LossError> {
        let Some(projection) = &self.projection else {
            return distill(NAME, self.metric, columns, labels);
        };
        let projected = columns.iter().map(|column| projection.forward(column));
        let projected = projected.collect::<Result<Vec<_>, _>>()?;
        distill(NAME, self.metric, &projected, labels)
    }

    fn parameters(&self) -> Vec<(String, Tensor)> {
        let projection = self.projection.as_ref();
        projection.map_or_else(Vec::new, |projection| projection.parameters("projection"))
    }
}

impl Loss for Mse {
    fn name(&self) -> &'static str {
        MSE_NAME
    }

    fn requirements(&self) -> Requirements {
        REQUIREMENTS
    }

    fn compute(&self, columns: &[Tensor], labels: Option<&Tensor>) -> Result<Tensor, LossError> {
        distill(MSE_NAME, Metric::Mse, columns, labels)
    }
}

fn distill(
    loss: &'static str,
    metric: Metric,
    columns: &[Tensor],
    labels: Option<&Tensor>,
) -> Result<Tensor, LossError> {
    let teacher = inputs::required(loss, labels)?.f_to_kind(columns[0].kind())?;
    let (own, count) = (columns[0].size(), columns.len() as i64);
    let shape = teacher.size();
    let per_column = shape == [own[0], count, own[1]];
    if shape != own && !per_column {
        let (batch, dimension) = (own[0], own[1]);
        let expected = format!("[{batch}, {dimension}] or [{batch}, {count}, {dimension}]");
        return Err(LossError::Shape {
            loss,
            what: "labels".to_owned(),
            shape,
            expected,
        });
    }
    let mut losses = Vec::with_capacity(columns.len());
    for (index, column) in columns.iter().enumerate() {
        let teacher = match per_column {
            true => teacher.f_select(1, index as i64)?,
            false => teacher.shallow_clone(),
        };
        losses.push(metric.mean(column, &teacher)?);
    }
    Ok(Tensor::f_stack(&losses, 0)?.f_mean(None::<Kind>)?)
}

impl Metric {
    fn mean(self, student: &Tensor, teacher: &Tensor) -> Result<Tensor, TchError> {
        match self {
            Self::Cosine => Tensor::f_cosine_similarity(student, teacher, -1, COSINE_EPS)?
                .f_rsub_scalar(1)?
                .f_mean(None::<Kind>),
            Self::L2 => row_norm(&student.f_sub(teacher)?, false)?.f_mean(None::<Kind>),
            Self::Mse => student.f_mse_loss(teacher, Reduction::Mean),
        }
    }
}

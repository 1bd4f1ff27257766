//! KL distillation: the softmax over a query's documents has to equal a teacher's.

use search::Similarity;
use serde::{Deserialize, Serialize};
use tch::{Kind, Reduction, Tensor};

use crate::{
    error::{LossError, positive},
    inputs::{self, Accepts, LabelKind, Requirements},
    loss::Loss,
    paper::{Paper, Place},
    similarity::TensorSimilarity,
};

/// Kullback-Leibler divergence of the teacher's distribution over documents from the student's.
///
/// # Formula
///
/// With the teacher's scores t, the student's s, and their temperatures T:
///
/// ```text
/// loss = T_s² / B Σᵢ KL( softmax(tᵢ / T_t) ‖ softmax(sᵢ / T_s) )
/// ```
///
/// # Inputs
///
/// Three or more columns, each `[batch, dimension]`: query, positive, negatives. The labels are the
/// teacher's scores, `[batch, 1 + negatives]`.
///
/// # Defaults
///
/// `similarity_fct` dot, `temperature` 1 for both; `student_temperature` and `teacher_temperature`
/// win over it.
///
/// # When to use
///
/// To learn a search model from a cross-encoder's scores, when the scale of its scores is not to
/// count.
///
/// # Relations
///
/// [`MarginMse`](crate::margin_mse::MarginMse) fits the differences of the scores.
///
/// # Paper
///
/// Lin, Yang and Lin 2020, <https://arxiv.org/abs/2010.11386>; Hinton, Vinyals and Dean 2015,
/// <https://arxiv.org/abs/1503.02531>. Upstream file:
/// `sentence_transformer/losses/distill_kl_div.py`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DistillKlDiv {
    /// The similarity of query and document.
    #[serde(alias = "similarity")]
    pub similarity_fct: Similarity,
    /// Divides the scores of both.
    pub temperature: f64,
    /// Divides the student's scores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub student_temperature: Option<f64>,
    /// Divides the teacher's scores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher_temperature: Option<f64>,
}

const NAME: &str = "DistillKLDivLoss";

/// The paper that the loss is from.
pub(crate) const PAPER: Paper = Paper {
    key: "lin2020distilling",
    title: "Distilling Dense Representations for Ranking using Tightly-Coupled Teachers",
    authors: "Sheng-Chieh Lin and Jheng-Hong Yang and Jimmy Lin",
    year: 2020,
    place: Place::Arxiv("2010.11386"),
};

impl Default for DistillKlDiv {
    fn default() -> Self {
        Self {
            similarity_fct: Similarity::Dot,
            temperature: 1.0,
            student_temperature: None,
            teacher_temperature: None,
        }
    }
}

impl Loss for DistillKlDiv {
    fn name(&self) -> &'static str {
        NAME
    }

    fn requirements(&self) -> Requirements {
        Requirements::new(const { &[Accepts::at_least(3, LabelKind::FloatVector)] })
    }

    fn validate(&self) -> Result<(), LossError> {
        let (student, teacher) = self.temperatures();
        positive(NAME, "temperature", self.temperature)?;
        positive(NAME, "student_temperature", student)?;
        positive(NAME, "teacher_temperature", teacher)
    }

    fn compute(&self, columns: &[Tensor], labels: Option<&Tensor>) -> Result<Tensor, LossError> {
        let (batch, documents) = (columns[0].size()[0], columns.len() as i64 - 1);
        let labels = inputs::required(NAME, labels)?.f_to_kind(columns[0].kind())?;
        let shape = labels.size();
        if shape != [batch, documents] {
            let expected = format!("[{batch}, {documents}], a score for each document,");
            let what = "labels".to_owned();
            return Err(LossError::Shape {
                loss: NAME,
                what,
                shape,
                expected,
            });
        }
        let mut scores = Vec::with_capacity(columns.len() - 1);
        for document in &columns[1..] {
            scores.push(self.similarity_fct.pairwise(&columns[0], document)?);
        }
        let (student, teacher) = self.temperatures();
        let scores = Tensor::f_stack(&scores, 1)?.f_div_scalar(student)?;
        let log_probabilities = scores.f_log_softmax(1, None::<Kind>)?;
        let probabilities = labels.f_div_scalar(teacher)?.f_softmax(1, None::<Kind>)?;
        let divergence = log_probabilities.f_kl_div(&probabilities, Reduction::Sum, false)?;
        Ok(divergence.f_mul_scalar(student * student / batch as f64)?)
    }
}

impl DistillKlDiv {
    /// The student's and the teacher's.
    fn temperatures(&self) -> (f64, f64) {
        let student = self.student_temperature.unwrap_or(self.temperature);
        (
            student,
            self.teacher_temperature.unwrap_or(self.temperature),
        )
    }
}

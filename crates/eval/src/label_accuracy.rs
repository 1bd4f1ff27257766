//! Label accuracy: how often a classifier's greatest logit is that of the label.

use crate::similarity::to_vec;
use crate::{EvalError, Metrics, csv};
use tch::Tensor;

/// Share of rows whose greatest logit is the label's, for the classifier of the softmax loss.
///
/// Its one key and primary metric is `{name}_accuracy`. CSV:
/// `accuracy_evaluation_{name}_results.csv`. Upstream file:
/// `sentence_transformer/evaluation/label_accuracy.py`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelAccuracyEvaluator {
    /// Prefix of the key and part of the CSV's name; may be empty.
    pub name: String,
}

const NAME: &str = "LabelAccuracyEvaluator";

impl LabelAccuracyEvaluator {
    /// An evaluator.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
        }
    }

    /// The accuracy of logits `[n, classes]`; equal logits count as the first class.
    ///
    /// # Errors
    /// Where there are no rows, or not one label for each.
    pub fn evaluate(&self, logits: &Tensor, labels: &[i64]) -> Result<Metrics, EvalError> {
        let shape = logits.size();
        if shape.len() != 2 || shape[0] != labels.len() as i64 || labels.is_empty() {
            let rows = labels.len();
            let problem =
                format!("logits have shape {shape:?}, but [{rows}, classes] with rows is needed");
            return Err(EvalError::inputs(NAME, problem));
        }
        let predicted = to_vec(&logits.f_detach()?.f_argmax(1, false)?)?;
        let hits = predicted
            .iter()
            .zip(labels)
            .filter(|(a, b)| **a as i64 == **b)
            .count();
        let accuracy = hits as f64 / labels.len() as f64;
        Ok(Metrics::new(
            &self.name,
            "accuracy",
            vec![("accuracy".to_owned(), accuracy)],
        ))
    }

    /// The name of the CSV file.
    pub fn csv_file(&self) -> String {
        csv::file_name("accuracy_evaluation", &self.name)
    }

    /// The CSV's columns: `epoch`, `steps`, `accuracy`.
    pub fn csv_header(&self) -> Vec<String> {
        csv::header(std::iter::once("accuracy".to_owned()))
    }

    /// A row of the CSV.
    pub fn csv_row(&self, at: csv::At, metrics: &Metrics) -> Vec<String> {
        csv::row(
            at,
            &self.name,
            metrics,
            std::iter::once("accuracy".to_owned()),
        )
    }
}

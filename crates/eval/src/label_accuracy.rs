//! Label accuracy: how often a classifier's greatest logit is that of the label.

use crate::similarity::to_vec;
use crate::{EvalError, Metrics, RowFigures, csv};
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
        let hits = hits(logits, labels)?;
        let n_hits = hits.iter().filter(|hit| **hit).count();
        let accuracy = n_hits as f64 / labels.len() as f64;
        Ok(Metrics::new(
            &self.name,
            "accuracy",
            vec![("accuracy".to_owned(), accuracy)],
        ))
    }

    /// The accuracy as a function of the rows, for its interval.
    ///
    /// # Errors
    /// As [`Self::evaluate`].
    pub fn rows(&self, logits: &Tensor, labels: &[i64]) -> Result<RowFigures, EvalError> {
        let hits = hits(logits, labels)?;
        let hits: Vec<f64> = hits
            .into_iter()
            .map(|hit| f64::from(u8::from(hit)))
            .collect();
        let columns = vec![("accuracy".to_owned(), hits)];
        Ok(RowFigures::means(&self.name, labels.len(), columns))
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

/// Whether each row's greatest logit is its label's.
fn hits(logits: &Tensor, labels: &[i64]) -> Result<Vec<bool>, EvalError> {
    let shape = logits.size();
    if shape.len() != 2 || shape[0] != labels.len() as i64 || labels.is_empty() {
        let rows = labels.len();
        let problem =
            format!("logits have shape {shape:?}, but [{rows}, classes] with rows is needed");
        return Err(EvalError::inputs(NAME, problem));
    }
    let predicted = to_vec(&logits.f_detach()?.f_argmax(1, false)?)?;
    let pairs = predicted.iter().zip(labels);
    Ok(pairs.map(|(a, b)| *a as i64 == *b).collect())
}

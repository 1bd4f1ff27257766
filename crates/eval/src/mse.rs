//! Mean squared error: how near a student's embeddings are to its teacher's.

use crate::similarity::{raise, same_shape, to_vec};
use crate::{EvalError, Metrics, RowFigures, csv};
use tch::{Kind, Tensor};

/// Mean squared difference of two sets of embeddings, times 100, negated so that greater is better.
///
/// Its one key and primary metric is `{name}_negative_mse`. CSV:
/// `mse_evaluation_{name}_results.csv`, where the figure is not negated. Upstream file:
/// `sentence_transformer/evaluation/mse.py`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MseEvaluator {
    /// Prefix of the key and part of the CSV's name; may be empty.
    pub name: String,
}

const NAME: &str = "MSEEvaluator";

impl MseEvaluator {
    /// An evaluator.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
        }
    }

    /// The error of the student's embeddings `[n, dimension]` against the teacher's.
    ///
    /// # Errors
    /// Where the shapes differ or there are no rows.
    pub fn evaluate(&self, teacher: &Tensor, student: &Tensor) -> Result<Metrics, EvalError> {
        let mse = to_vec(&squares(teacher, student)?.f_mean(Kind::Double)?)?;
        let negative = -100.0 * mse.first().copied().unwrap_or(f64::NAN);
        Ok(Metrics::new(
            &self.name,
            "negative_mse",
            vec![("negative_mse".to_owned(), negative)],
        ))
    }

    /// The error as a function of the rows, for its interval.
    ///
    /// # Errors
    /// As [`Self::evaluate`].
    pub fn rows(&self, teacher: &Tensor, student: &Tensor) -> Result<RowFigures, EvalError> {
        let squares = squares(teacher, student)?;
        let means = squares.f_mean_dim([1i64].as_slice(), false, Kind::Double)?;
        let negative: Vec<f64> = to_vec(&means)?.iter().map(|mse| -100.0 * mse).collect();
        let n_rows = negative.len();
        let columns = vec![("negative_mse".to_owned(), negative)];
        Ok(RowFigures::means(&self.name, n_rows, columns))
    }

    /// The name of the CSV file; the underscore before the name is there without a name too.
    pub fn csv_file(&self) -> String {
        format!("mse_evaluation_{}_results.csv", self.name)
    }

    /// The CSV's columns: `epoch`, `steps`, `MSE`.
    pub fn csv_header(&self) -> Vec<String> {
        csv::header(std::iter::once("MSE".to_owned()))
    }

    /// A row of the CSV.
    pub fn csv_row(&self, at: csv::At, metrics: &Metrics) -> Vec<String> {
        let positive = Metrics::new("", "mse", vec![("mse".to_owned(), -metrics.primary())]);
        csv::row(at, "", &positive, std::iter::once("mse".to_owned()))
    }
}

/// The squared differences, `[n, dimension]`.
fn squares(teacher: &Tensor, student: &Tensor) -> Result<Tensor, EvalError> {
    let columns = same_shape(
        NAME,
        &[("teacher's embeddings", teacher), ("student's", student)],
    )?;
    let difference = raise(&columns[0])?.f_sub(&raise(&columns[1])?)?;
    Ok(difference.f_square()?)
}

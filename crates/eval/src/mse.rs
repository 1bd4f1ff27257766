//! Mean squared error: how near a student's embeddings are to its teacher's.

use tch::{Kind, Tensor};

use crate::{
    csv::CsvTable,
    entry::{ColumnNeeds, Entry, Needs, Source},
    error::EvalError,
    evaluator::{Evaluator, Inputs, LabelKind},
    metrics::Metrics,
    options::Flag,
    rows::RowFigures,
    similarity::{raise, same_shape, to_vec},
};

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
const METRIC: &str = "negative_mse";

static TEACHER: Flag = Flag::new(
    "teacher",
    "MODEL",
    "Model whose embeddings the model's own should equal, for mse",
)
.below("Distillation and classification");

pub(crate) static ENTRY: Entry = Entry {
    name: "mse",
    unit: "rows",
    sides: &[],
    flags: &[&TEACHER],
    needs: Needs::Columns(ColumnNeeds {
        words: "1 text column, or 2 (the teacher's text, the model's text)",
        n_columns: &[1, 2],
        labels: &LabelKind::ALL,
        is_default: false,
        compares_texts: false,
        source: Source::Teacher,
        build: |name, _| Ok(Box::new(MseEvaluator::new(name))),
    }),
};

impl MseEvaluator {
    /// An evaluator.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
        }
    }
}

impl Evaluator for MseEvaluator {
    /// Takes the teacher's embeddings and the student's, each `[n, dimension]`.
    fn evaluate(&self, inputs: &Inputs<'_>) -> Result<Metrics, EvalError> {
        let mse = to_vec(&squares(inputs)?.f_mean(Kind::Double)?)?;
        let negative = -100.0 * mse.first().copied().unwrap_or(f64::NAN);
        let entries = vec![(METRIC.to_owned(), negative)];
        Ok(Metrics::new(&self.name, METRIC, entries))
    }

    fn rows(&self, inputs: &Inputs<'_>) -> Result<Option<RowFigures>, EvalError> {
        let means = squares(inputs)?.f_mean_dim([1i64].as_slice(), false, Kind::Double)?;
        let negative: Vec<f64> = to_vec(&means)?.iter().map(|mse| -100.0 * mse).collect();
        let n_rows = negative.len();
        let columns = vec![(METRIC.to_owned(), negative)];
        Ok(Some(RowFigures::means(&self.name, n_rows, columns)))
    }

    fn csv(&self) -> CsvTable {
        // The underscore before the name is there without a name too.
        let file = format!("mse_evaluation_{}_results.csv", self.name);
        let column = ("MSE".to_owned(), METRIC.to_owned());
        CsvTable::new(file, &self.name, [column]).negated()
    }
}

/// The squared differences, `[n, dimension]`.
fn squares(inputs: &Inputs<'_>) -> Result<Tensor, EvalError> {
    let [teacher, student] = inputs.columns(NAME)?;
    let columns = same_shape(
        NAME,
        &[("teacher's embeddings", teacher), ("student's", student)],
    )?;
    let difference = raise(&columns[0])?.f_sub(&raise(&columns[1])?)?;
    Ok(difference.f_square()?)
}

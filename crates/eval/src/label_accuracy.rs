//! Label accuracy: how often a classifier's greatest logit is that of the label.

use crate::{
    csv::{self, CsvTable},
    entry::{ColumnNeeds, Entry, Needs, Source},
    error::EvalError,
    evaluator::{Evaluator, Inputs, LabelKind},
    metrics::Metrics,
    options::Flag,
    rows::{RowFigures, shares},
    similarity::to_vec,
};

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
const METRIC: &str = "accuracy";
const HEADING: &str = "Distillation and classification";

static LOSS: Flag = Flag::new(
    "loss",
    "LOSS",
    "The loss that trained the classifier, for label-accuracy, where its features were not the \
     default ones: softmax:concatenation_sent_multiplication=true",
)
.below(HEADING);

static CLASSIFIER: Flag = Flag::new(
    "classifier",
    "NAME",
    "Data set in training whose classifier it is, where several had one",
)
.below(HEADING);

pub(crate) static ENTRY: Entry = Entry {
    name: "label-accuracy",
    unit: "labelled pairs",
    sides: &[],
    flags: &[&LOSS, &CLASSIFIER],
    needs: Needs::Columns(ColumnNeeds {
        words: "2 text columns with a label column of whole numbers (classes)",
        n_columns: &[2],
        labels: &[LabelKind::Binary, LabelKind::Classes],
        is_default: false,
        compares_texts: false,
        source: Source::Classifier,
        build: |name, _| Ok(Box::new(LabelAccuracyEvaluator::new(name))),
    }),
};

impl LabelAccuracyEvaluator {
    /// An evaluator.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
        }
    }
}

impl Evaluator for LabelAccuracyEvaluator {
    /// Takes logits `[n, classes]` and a class per row; equal logits count as the first class.
    fn evaluate(&self, inputs: &Inputs<'_>) -> Result<Metrics, EvalError> {
        let hits = hits(inputs)?;
        let n_hits = hits.iter().filter(|hit| **hit).count();
        let accuracy = n_hits as f64 / hits.len() as f64;
        let entries = vec![(METRIC.to_owned(), accuracy)];
        Ok(Metrics::new(&self.name, METRIC, entries))
    }

    fn rows(&self, inputs: &Inputs<'_>) -> Result<Option<RowFigures>, EvalError> {
        let hits = hits(inputs)?;
        let columns = vec![(METRIC.to_owned(), shares(&hits))];
        Ok(Some(RowFigures::means(&self.name, hits.len(), columns)))
    }

    fn csv(&self) -> CsvTable {
        let file = csv::file_name("accuracy_evaluation", &self.name);
        CsvTable::new(file, &self.name, [(METRIC.to_owned(), METRIC.to_owned())])
    }
}

/// Whether each row's greatest logit is its label's.
fn hits(inputs: &Inputs<'_>) -> Result<Vec<bool>, EvalError> {
    let [logits] = inputs.columns(NAME)?;
    let labels = inputs.classes(NAME)?;
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

//! Binary classification: how well a threshold on the similarity tells alike pairs from others.

use search::Similarity;

use crate::{
    csv::{self, CsvTable},
    entry::{ColumnNeeds, Entry, Needs, Source},
    error::EvalError,
    evaluator::{Evaluator, Inputs, LabelKind},
    metrics::Metrics,
    rows::RowFigures,
    similarity::{self, TensorSimilarity, same_shape, to_vec},
};

/// The best accuracy and the best F1 over all thresholds, and the average precision.
///
/// # Keys
///
/// `{name}_{similarity}_{metric}` for each similarity in order, with the metrics `accuracy`,
/// `accuracy_threshold`, `f1`, `f1_threshold`, `precision`, `recall`, `ap` and `mcc`; where there
/// are several similarities, `{name}_max_{metric}` as well. Precision, recall and the Matthews
/// correlation are those at the threshold of the best F1. The primary one is `ap`, of the maximum or
/// of the only similarity. CSV: `binary_classification_evaluation_{name}_results.csv`.
///
/// Rows of equal score are on one side of a threshold, which is half way between two scores that
/// follow each other, the last score, or, for the accuracy, the number above the first. For Euclidean and Manhattan the scores are distances, so that less
/// is more alike; `max_` is the greatest figure all the same, for thresholds too.
///
/// Upstream file: `sentence_transformer/evaluation/binary_classification.py`.
#[derive(Debug, Clone, PartialEq)]
pub struct BinaryClassificationEvaluator {
    /// Prefix of the keys and part of the CSV's name; may be empty.
    pub name: String,
    /// The similarities to classify by.
    pub similarity_fn_names: Vec<Similarity>,
}

const NAME: &str = "BinaryClassificationEvaluator";

pub(crate) static ENTRY: Entry = Entry {
    name: "binary-classification",
    unit: "labelled pairs",
    sides: &[],
    flags: &[],
    needs: Needs::Columns(ColumnNeeds {
        words: "2 text columns with a label column of 0 and 1",
        n_columns: &[2],
        labels: &[LabelKind::Binary],
        is_default: false,
        compares_texts: false,
        source: Source::Model,
        build: |name, options| {
            let similarities = options.similarities_or(&Similarity::ALL);
            Ok(Box::new(BinaryClassificationEvaluator::new(
                name,
                &similarities,
            )))
        },
    }),
};

const METRICS: [&str; 8] = [
    "accuracy",
    "accuracy_threshold",
    "f1",
    "f1_threshold",
    "precision",
    "recall",
    "ap",
    "mcc",
];
const CSV_METRICS: [&str; 8] = [
    "accuracy",
    "accuracy_threshold",
    "f1",
    "precision",
    "recall",
    "f1_threshold",
    "ap",
    "mcc",
];

impl BinaryClassificationEvaluator {
    /// An evaluator; without similarities it takes cosine.
    pub fn new(name: &str, similarity_fn_names: &[Similarity]) -> Self {
        Self {
            name: name.to_owned(),
            similarity_fn_names: similarity::or_cosine(similarity_fn_names),
        }
    }

    /// The similarity of each pair, by each function; in f32, since thresholds are halves of sums in f32.
    fn scores(
        &self,
        inputs: &Inputs<'_>,
        labels: &[bool],
    ) -> Result<Vec<(Similarity, Vec<f32>)>, EvalError> {
        let [embeddings1, embeddings2] = inputs.columns(NAME)?;
        let named = [
            ("embeddings of column 1", embeddings1),
            ("embeddings of column 2", embeddings2),
        ];
        let columns = same_shape(NAME, &named)?;
        let rows = columns[0].size()[0];
        if rows != labels.len() as i64 {
            let problem = format!("{rows} pairs, but {} labels", labels.len());
            return Err(EvalError::inputs(NAME, problem));
        }
        let mut all = Vec::new();
        for function in &self.similarity_fn_names {
            let scores = to_vec(&function.pairwise(&columns[0], &columns[1])?)?;
            let scores = scores.into_iter().map(|score| score as f32).collect();
            all.push((*function, scores));
        }
        Ok(all)
    }
}

impl Evaluator for BinaryClassificationEvaluator {
    /// Takes two columns `[n, dimension]`, and labels that are 1 for alike pairs.
    fn evaluate(&self, inputs: &Inputs<'_>) -> Result<Metrics, EvalError> {
        let labels = truths(inputs)?;
        let mut entries = Vec::new();
        let mut greatest = [f64::NEG_INFINITY; METRICS.len()];
        for (function, scores) in self.scores(inputs, &labels)? {
            let figures = figures(&scores, &labels, sign(function));
            for ((metric, figure), greatest) in METRICS.iter().zip(figures).zip(&mut greatest) {
                entries.push((format!("{function}_{metric}"), figure));
                *greatest = greatest.max(figure);
            }
        }
        let only = self.similarity_fn_names.first().copied();
        let mut primary = format!("{}_ap", only.unwrap_or_default());
        if self.similarity_fn_names.len() > 1 {
            let greatest = METRICS.iter().zip(greatest);
            entries.extend(greatest.map(|(metric, value)| (format!("max_{metric}"), value)));
            primary = "max_ap".to_owned();
        }
        Ok(Metrics::new(&self.name, &primary, entries))
    }

    fn rows(&self, inputs: &Inputs<'_>) -> Result<Option<RowFigures>, EvalError> {
        let all = truths(inputs)?;
        let scores = self.scores(inputs, &all)?;
        let of = |(function, _): &(Similarity, Vec<f32>)| {
            METRICS.map(|metric| format!("{function}_{metric}"))
        };
        let (n_rows, keys) = (all.len(), scores.iter().flat_map(of).collect());
        let figures = move |rows: &[usize]| {
            let labels: Vec<bool> = rows.iter().map(|row| all[*row]).collect();
            let of = |(function, scores): &(Similarity, Vec<f32>)| {
                let scores: Vec<f32> = rows.iter().map(|row| scores[*row]).collect();
                figures(&scores, &labels, sign(*function))
            };
            scores.iter().flat_map(of).collect()
        };
        Ok(Some(RowFigures::new(&self.name, n_rows, keys, figures)))
    }

    fn csv(&self) -> CsvTable {
        let functions = self.similarity_fn_names.iter();
        let keys =
            functions.flat_map(|function| CSV_METRICS.map(|metric| format!("{function}_{metric}")));
        let file = csv::file_name("binary_classification_evaluation", &self.name);
        CsvTable::new(file, &self.name, keys.map(|key| (key.clone(), key)))
    }
}

/// Whether each pair is alike.
fn truths(inputs: &Inputs<'_>) -> Result<Vec<bool>, EvalError> {
    Ok(inputs
        .classes(NAME)?
        .iter()
        .map(|class| *class == 1)
        .collect())
}

/// The factor between a similarity and what thresholds are on: distances are positive.
fn sign(function: Similarity) -> f32 {
    match function {
        Similarity::Euclidean | Similarity::Manhattan => -1.0,
        Similarity::Cosine | Similarity::Dot => 1.0,
    }
}

/// The figures of one similarity in the order of [`METRICS`]; `scores` are similarities, and `sign`
/// makes of them what the thresholds are on.
fn figures(scores: &[f32], labels: &[bool], sign: f32) -> [f64; 8] {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    let rows: Vec<(f32, bool)> = order
        .iter()
        .map(|row| (scores[*row], labels[*row]))
        .collect();
    let positives = labels.iter().filter(|label| **label).count();
    let negatives = labels.len() - positives;

    // All pairs dissimilar: a threshold above the first score.
    let (mut accuracy, mut accuracy_threshold) = match rows.first() {
        Some((first, _)) => (negatives as f64 / rows.len() as f64, sign * first.next_up()),
        None => (0.0, -1.0),
    };
    let (mut f1, mut f1_threshold, mut precision, mut recall) = (0.0, 0.0f32, 0.0, 0.0);
    let (mut extracted, mut correct) = (0, 0);
    let mut groups = rows.chunk_by(|a, b| a.0 == b.0).peekable();
    while let Some(group) = groups.next() {
        extracted += group.len();
        correct += group.iter().filter(|(_, label)| *label).count();
        let score = group[0].0;
        let threshold = match groups.peek() {
            None => score,
            Some(next) => match (score + next[0].0) / 2.0 {
                // A rounded midpoint may not be the next group's score.
                middle if middle == next[0].0 => score,
                middle => middle,
            },
        };
        let rejected = negatives - (extracted - correct);
        let accuracy_here = (correct + rejected) as f64 / rows.len() as f64;
        if accuracy_here > accuracy {
            (accuracy, accuracy_threshold) = (accuracy_here, sign * threshold);
        }
        if correct > 0 {
            let precision_here = correct as f64 / extracted as f64;
            let recall_here = correct as f64 / positives as f64;
            let f1_here = 2.0 * precision_here * recall_here / (precision_here + recall_here);
            if f1_here > f1 {
                (f1, f1_threshold) = (f1_here, sign * threshold);
                (precision, recall) = (precision_here, recall_here);
            }
        }
    }
    let predicted = scores.iter().map(|score| *score >= sign * f1_threshold);
    let mcc = matthews(predicted, labels);
    let ap = average_precision(&rows);
    let thresholds = (f64::from(accuracy_threshold), f64::from(f1_threshold));
    [
        accuracy,
        thresholds.0,
        f1,
        thresholds.1,
        precision,
        recall,
        ap,
        mcc,
    ]
}

/// Precision at each distinct score, weighted by the recall gained there; zero without positives.
/// `rows` are by falling score. As in `sklearn.metrics.average_precision_score`.
pub(crate) fn average_precision(rows: &[(f32, bool)]) -> f64 {
    let positives = rows.iter().filter(|(_, label)| *label).count();
    let (mut extracted, mut correct, mut sum) = (0, 0, 0.0);
    for group in rows.chunk_by(|a, b| a.0 == b.0) {
        let gained = group.iter().filter(|(_, label)| *label).count();
        extracted += group.len();
        correct += gained;
        sum += gained as f64 * correct as f64 / extracted as f64;
    }
    if positives == 0 {
        0.0
    } else {
        sum / positives as f64
    }
}

/// Matthews' correlation; zero where a class or a prediction does not occur.
fn matthews(predicted: impl Iterator<Item = bool>, labels: &[bool]) -> f64 {
    let mut counts = [[0.0f64; 2]; 2];
    for (predicted, label) in predicted.zip(labels) {
        counts[usize::from(*label)][usize::from(predicted)] += 1.0;
    }
    let [[tn, fp], [fn_, tp]] = counts;
    let denominator = ((tp + fp) * (tp + fn_) * (tn + fp) * (tn + fn_)).sqrt();
    if denominator == 0.0 {
        0.0
    } else {
        (tp * tn - fp * fn_) / denominator
    }
}

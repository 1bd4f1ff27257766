//! Binary classification: how well a threshold on the similarity tells alike pairs from others.

use crate::similarity::{same_shape, to_vec};
use crate::{EvalError, Metrics, RowFigures, SimilarityFunction, csv};
use tch::Tensor;

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
/// A threshold is half way between two scores that follow each other, so that as many rows lie
/// above it as were counted, unless scores are equal. As in sentence-transformers, the threshold
/// below all rows is not tried. For Euclidean and Manhattan the scores are distances, so that less
/// is more alike; `max_` is the greatest figure all the same, for thresholds too.
///
/// Upstream file: `sentence_transformer/evaluation/binary_classification.py`.
#[derive(Debug, Clone, PartialEq)]
pub struct BinaryClassificationEvaluator {
    /// Prefix of the keys and part of the CSV's name; may be empty.
    pub name: String,
    /// The similarities to classify by.
    pub similarity_fn_names: Vec<SimilarityFunction>,
}

const NAME: &str = "BinaryClassificationEvaluator";
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
    pub fn new(name: &str, similarity_fn_names: &[SimilarityFunction]) -> Self {
        Self {
            name: name.to_owned(),
            similarity_fn_names: SimilarityFunction::or_cosine(similarity_fn_names),
        }
    }

    /// The figures for pairs given as two tensors `[n, dimension]`, and whether each is alike.
    ///
    /// # Errors
    /// Where the shapes differ or there are no rows.
    pub fn evaluate(
        &self,
        embeddings1: &Tensor,
        embeddings2: &Tensor,
        labels: &[bool],
    ) -> Result<Metrics, EvalError> {
        let mut entries = Vec::new();
        let mut greatest = [f64::NEG_INFINITY; METRICS.len()];
        for (function, scores) in self.scores(embeddings1, embeddings2, labels)? {
            let figures = figures(&scores, labels, sign(function));
            for ((metric, figure), greatest) in METRICS.iter().zip(figures).zip(&mut greatest) {
                entries.push((format!("{function}_{metric}"), figure));
                *greatest = greatest.max(figure);
            }
        }
        let only = self
            .similarity_fn_names
            .first()
            .copied()
            .unwrap_or_default();
        let mut primary = format!("{only}_ap");
        if self.similarity_fn_names.len() > 1 {
            let greatest = METRICS.iter().zip(greatest);
            entries.extend(greatest.map(|(metric, value)| (format!("max_{metric}"), value)));
            primary = "max_ap".to_owned();
        }
        Ok(Metrics::new(&self.name, &primary, entries))
    }

    /// The figures as functions of the pairs, for intervals.
    ///
    /// # Errors
    /// As [`Self::evaluate`].
    pub fn rows(
        &self,
        embeddings1: &Tensor,
        embeddings2: &Tensor,
        labels: &[bool],
    ) -> Result<RowFigures, EvalError> {
        let scores = self.scores(embeddings1, embeddings2, labels)?;
        let of = |(function, _): &(SimilarityFunction, Vec<f32>)| {
            METRICS.map(|metric| format!("{function}_{metric}"))
        };
        let keys = scores.iter().flat_map(of).collect();
        let all = labels.to_vec();
        Ok(RowFigures::new(&self.name, all.len(), keys, move |rows| {
            let labels: Vec<bool> = rows.iter().map(|row| all[*row]).collect();
            let of = |(function, scores): &(SimilarityFunction, Vec<f32>)| {
                let scores: Vec<f32> = rows.iter().map(|row| scores[*row]).collect();
                figures(&scores, &labels, sign(*function))
            };
            scores.iter().flat_map(of).collect()
        }))
    }

    /// The similarity of each pair, by each function; in f32, since thresholds are halves of sums in f32.
    fn scores(
        &self,
        embeddings1: &Tensor,
        embeddings2: &Tensor,
        labels: &[bool],
    ) -> Result<Vec<(SimilarityFunction, Vec<f32>)>, EvalError> {
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

    /// The name of the CSV file.
    pub fn csv_file(&self) -> String {
        csv::file_name("binary_classification_evaluation", &self.name)
    }

    /// The CSV's columns: `epoch`, `steps` and `{similarity}_{metric}` for each.
    pub fn csv_header(&self) -> Vec<String> {
        csv::header(self.csv_keys())
    }

    /// A row of the CSV.
    pub fn csv_row(&self, at: csv::At, metrics: &Metrics) -> Vec<String> {
        csv::row(at, &self.name, metrics, self.csv_keys())
    }

    fn csv_keys(&self) -> impl Iterator<Item = String> {
        let functions = self.similarity_fn_names.iter();
        functions.flat_map(|function| CSV_METRICS.map(|metric| format!("{function}_{metric}")))
    }
}

/// What makes of a similarity what thresholds are on: distances are positive.
fn sign(function: SimilarityFunction) -> f32 {
    match function {
        SimilarityFunction::Euclidean | SimilarityFunction::Manhattan => -1.0,
        SimilarityFunction::Cosine | SimilarityFunction::Dot => 1.0,
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

    let (mut accuracy, mut accuracy_threshold) = (0.0, -1.0);
    let (mut f1, mut f1_threshold, mut precision, mut recall) = (0.0, 0.0f32, 0.0, 0.0);
    let mut correct = 0;
    for (index, pair) in rows.windows(2).enumerate() {
        let extracted = index + 1;
        correct += usize::from(pair[0].1);
        let threshold = sign * (pair[0].0 + pair[1].0) / 2.0;
        let rejected = negatives - (extracted - correct);
        let accuracy_here = (correct + rejected) as f64 / rows.len() as f64;
        if accuracy_here > accuracy {
            (accuracy, accuracy_threshold) = (accuracy_here, threshold);
        }
        if correct > 0 {
            let precision_here = correct as f64 / extracted as f64;
            let recall_here = correct as f64 / positives as f64;
            let f1_here = 2.0 * precision_here * recall_here / (precision_here + recall_here);
            if f1_here > f1 {
                (f1, f1_threshold) = (f1_here, threshold);
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

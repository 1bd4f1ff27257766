//! Translation: whether a sentence's translation is the nearest of all.

use crate::similarity::{same_shape, to_vec};
use crate::{EvalError, Metrics, SimilarityFunction, csv};
use tch::Tensor;

/// Share of sentences whose translation is nearest by cosine, in both directions.
///
/// # Keys
///
/// `{name}_src2trg_accuracy`, `{name}_trg2src_accuracy` and the primary one,
/// `{name}_mean_accuracy`. CSV: `translation_evaluation_{name}_results.csv`. Of equal similarities
/// the first counts. Upstream file: `sentence_transformer/evaluation/translation.py`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TranslationEvaluator {
    /// Prefix of the keys and part of the CSV's name; may be empty.
    pub name: String,
}

const NAME: &str = "TranslationEvaluator";

/// Rows compared with all others at once.
const CHUNK: i64 = 4096;

impl TranslationEvaluator {
    /// An evaluator.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
        }
    }

    /// The accuracies for sentences and their translations, each `[n, dimension]`.
    ///
    /// # Errors
    /// Where the shapes differ or there are no rows.
    pub fn evaluate(&self, source: &Tensor, target: &Tensor) -> Result<Metrics, EvalError> {
        let columns = same_shape(
            NAME,
            &[("source embeddings", source), ("target embeddings", target)],
        )?;
        let there = nearest_is_own(&columns[0], &columns[1])?;
        let back = nearest_is_own(&columns[1], &columns[0])?;
        let entries = vec![
            ("src2trg_accuracy".to_owned(), there),
            ("trg2src_accuracy".to_owned(), back),
            ("mean_accuracy".to_owned(), (there + back) / 2.0),
        ];
        Ok(Metrics::new(&self.name, "mean_accuracy", entries))
    }

    /// The name of the CSV file.
    pub fn csv_file(&self) -> String {
        csv::file_name("translation_evaluation", &self.name)
    }

    /// The CSV's columns: `epoch`, `steps`, `src2trg`, `trg2src`.
    pub fn csv_header(&self) -> Vec<String> {
        csv::header(["src2trg", "trg2src"].map(str::to_owned).into_iter())
    }

    /// A row of the CSV.
    pub fn csv_row(&self, at: csv::At, metrics: &Metrics) -> Vec<String> {
        let keys = ["src2trg_accuracy", "trg2src_accuracy"].map(str::to_owned);
        csv::row(at, &self.name, metrics, keys.into_iter())
    }
}

/// How often the nearest row of `b` to a row of `a` has the same index.
fn nearest_is_own(a: &Tensor, b: &Tensor) -> Result<f64, EvalError> {
    let rows = a.size()[0];
    let mut hits = 0;
    for first in (0..rows).step_by(CHUNK as usize) {
        let part = a.f_narrow(0, first, CHUNK.min(rows - first))?;
        let nearest = SimilarityFunction::Cosine
            .matrix(&part, b)?
            .f_argmax(1, false)?;
        let nearest = to_vec(&nearest)?.into_iter().zip(first..);
        hits += nearest
            .filter(|(nearest, own)| *nearest as i64 == *own)
            .count();
    }
    Ok(hits as f64 / rows as f64)
}

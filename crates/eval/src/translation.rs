//! Translation: whether a sentence's translation is the nearest of all.

use crate::similarity::{same_shape, to_vec};
use crate::{EvalError, Metrics, RowFigures, SimilarityFunction, csv};
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
        let [there, back] = hits(source, target)?.map(|hits| share(&hits));
        let entries = vec![
            ("src2trg_accuracy".to_owned(), there),
            ("trg2src_accuracy".to_owned(), back),
            ("mean_accuracy".to_owned(), (there + back) / 2.0),
        ];
        Ok(Metrics::new(&self.name, "mean_accuracy", entries))
    }

    /// The accuracies as functions of the pairs, for intervals; each sentence still looks among all.
    ///
    /// # Errors
    /// As [`Self::evaluate`].
    pub fn rows(&self, source: &Tensor, target: &Tensor) -> Result<RowFigures, EvalError> {
        let [there, back] = hits(source, target)?;
        let of = |hit: bool| f64::from(u8::from(hit));
        let mean = there
            .iter()
            .zip(&back)
            .map(|(a, b)| (of(*a) + of(*b)) / 2.0);
        let columns = vec![
            (
                "src2trg_accuracy".to_owned(),
                there.iter().map(|hit| of(*hit)).collect(),
            ),
            (
                "trg2src_accuracy".to_owned(),
                back.iter().map(|hit| of(*hit)).collect(),
            ),
            ("mean_accuracy".to_owned(), mean.collect()),
        ];
        Ok(RowFigures::means(&self.name, there.len(), columns))
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

/// Whether each sentence's translation is the nearest of all, from the sources and from the targets.
fn hits(source: &Tensor, target: &Tensor) -> Result<[Vec<bool>; 2], EvalError> {
    let columns = same_shape(
        NAME,
        &[("source embeddings", source), ("target embeddings", target)],
    )?;
    Ok([
        nearest_is_own(&columns[0], &columns[1])?,
        nearest_is_own(&columns[1], &columns[0])?,
    ])
}

fn share(hits: &[bool]) -> f64 {
    hits.iter().filter(|hit| **hit).count() as f64 / hits.len() as f64
}

/// Whether the nearest row of `b` to each row of `a` has the same index.
fn nearest_is_own(a: &Tensor, b: &Tensor) -> Result<Vec<bool>, EvalError> {
    let rows = a.size()[0];
    let mut hits = Vec::with_capacity(rows as usize);
    for first in (0..rows).step_by(CHUNK as usize) {
        let part = a.f_narrow(0, first, CHUNK.min(rows - first))?;
        let nearest = SimilarityFunction::Cosine
            .matrix(&part, b)?
            .f_argmax(1, false)?;
        let nearest = to_vec(&nearest)?.into_iter().zip(first..);
        hits.extend(nearest.map(|(nearest, own)| nearest as i64 == own));
    }
    Ok(hits)
}

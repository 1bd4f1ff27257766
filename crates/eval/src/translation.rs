//! Translation: whether a sentence's translation is the nearest of all.

use search::Similarity;
use tch::Tensor;

use crate::{
    csv::{self, CsvTable},
    entry::{ColumnNeeds, Entry, Needs, Source},
    error::EvalError,
    evaluator::{Evaluator, Inputs, LabelKind},
    metrics::Metrics,
    rows::{RowFigures, shares},
    similarity::{TensorSimilarity, same_shape, to_vec},
};

/// Share of sentences whose translation, or an equal text, is nearest by cosine, in both directions.
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
const METRICS: [&str; 3] = ["src2trg_accuracy", "trg2src_accuracy", "mean_accuracy"];

pub(crate) static ENTRY: Entry = Entry {
    name: "translation",
    unit: "translations",
    sides: &[],
    flags: &[],
    needs: Needs::Columns(ColumnNeeds {
        words: "2 text columns (sentence, translation)",
        n_columns: &[2],
        labels: &LabelKind::ALL,
        is_default: false,
        compares_texts: true,
        source: Source::Model,
        build: |name, _| Ok(Box::new(TranslationEvaluator::new(name))),
    }),
};

/// Rows compared with all others at once.
const CHUNK: i64 = 4096;

impl TranslationEvaluator {
    /// An evaluator.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
        }
    }
}

impl Evaluator for TranslationEvaluator {
    /// Takes sentences and their translations, each `[n, dimension]`.
    fn evaluate(&self, inputs: &Inputs<'_>) -> Result<Metrics, EvalError> {
        let [there, back] = hits(inputs)?.map(|hits| share(&hits));
        let figures = [there, back, (there + back) / 2.0];
        let entries = METRICS.map(str::to_owned).into_iter().zip(figures);
        Ok(Metrics::new(&self.name, METRICS[2], entries.collect()))
    }

    /// Each sentence still looks among all.
    fn rows(&self, inputs: &Inputs<'_>) -> Result<Option<RowFigures>, EvalError> {
        let [there, back] = hits(inputs)?.map(|hits| shares(&hits));
        let mean = there
            .iter()
            .zip(&back)
            .map(|(a, b)| (a + b) / 2.0)
            .collect();
        let n_rows = there.len();
        let columns = METRICS
            .map(str::to_owned)
            .into_iter()
            .zip([there, back, mean]);
        Ok(Some(RowFigures::means(
            &self.name,
            n_rows,
            columns.collect(),
        )))
    }

    fn csv(&self) -> CsvTable {
        let columns =
            ["src2trg", "trg2src"].map(|title| (title.to_owned(), format!("{title}_accuracy")));
        let file = csv::file_name("translation_evaluation", &self.name);
        CsvTable::new(file, &self.name, columns)
    }
}

/// Whether each sentence's translation is the nearest of all, from the sources and from the targets.
fn hits(inputs: &Inputs<'_>) -> Result<[Vec<bool>; 2], EvalError> {
    let [source, target] = inputs.columns(NAME)?;
    let columns = same_shape(
        NAME,
        &[("source embeddings", source), ("target embeddings", target)],
    )?;
    let [sources, targets] = inputs.text_ids::<2>(NAME)?;
    Ok([
        nearest_is_right(&columns[0], &columns[1], targets)?,
        nearest_is_right(&columns[1], &columns[0], sources)?,
    ])
}

fn share(hits: &[bool]) -> f64 {
    hits.iter().filter(|hit| **hit).count() as f64 / hits.len() as f64
}

/// Whether the nearest row of `b` to each row of `a` has the text of the row with the same index.
fn nearest_is_right(a: &Tensor, b: &Tensor, texts: &[u32]) -> Result<Vec<bool>, EvalError> {
    let rows = a.size()[0];
    let mut hits = Vec::with_capacity(rows as usize);
    for first in (0..rows).step_by(CHUNK as usize) {
        let part = a.f_narrow(0, first, CHUNK.min(rows - first))?;
        let nearest = Similarity::Cosine.matrix(&part, b)?.f_argmax(1, false)?;
        let nearest = to_vec(&nearest)?.into_iter().zip(first as usize..);
        hits.extend(nearest.map(|(nearest, own)| texts[nearest as usize] == texts[own]));
    }
    Ok(hits)
}

//! Triplet accuracy: how often the positive is more similar to the anchor than the negative.

use crate::similarity::{same_shape, to_vec};
use crate::{EvalError, Metrics, RowFigures, SimilarityFunction, csv};
use std::collections::HashMap;
use tch::Tensor;

/// Share of triplets with `sim(anchor, positive) > sim(anchor, negative) + margin`, strictly.
///
/// # Keys
///
/// `{name}_{similarity}_accuracy` for each similarity in order, and `{name}_max_accuracy` where
/// there are several. The primary one is that of `main_similarity`, else the maximum, else the
/// only one. CSV: `triplet_evaluation_{name}_results.csv`.
///
/// The accuracy is counted the same way for the dot product as for the others.
/// sentence-transformers 3.0 counted the dot product the wrong way round, so that figures from that
/// time are one minus what they should be, but for ties.
///
/// Upstream file: `sentence_transformer/evaluation/triplet.py`.
#[derive(Debug, Clone, PartialEq)]
pub struct TripletEvaluator {
    /// Prefix of the keys and part of the CSV's name; may be empty.
    pub name: String,
    /// The similarities to give an accuracy for.
    pub similarity_fn_names: Vec<SimilarityFunction>,
    /// The similarity whose accuracy is the primary metric.
    pub main_similarity: Option<SimilarityFunction>,
    /// By how much the positive has to be more similar.
    pub margin: Margin,
}

/// A margin for all similarities or for each.
#[derive(Debug, Clone, PartialEq)]
pub enum Margin {
    /// The same for all.
    Same(f64),
    /// By similarity; zero for those not named.
    Each(HashMap<SimilarityFunction, f64>),
}

const NAME: &str = "TripletEvaluator";

impl TripletEvaluator {
    /// An evaluator with margin zero; without similarities it takes cosine.
    pub fn new(name: &str, similarity_fn_names: &[SimilarityFunction]) -> Self {
        Self {
            name: name.to_owned(),
            similarity_fn_names: SimilarityFunction::or_cosine(similarity_fn_names),
            main_similarity: None,
            margin: Margin::Same(0.0),
        }
    }

    /// The accuracies on triplets given as three tensors `[n, dimension]`.
    ///
    /// # Errors
    /// Where the shapes differ or there are no rows.
    pub fn evaluate(
        &self,
        anchors: &Tensor,
        positives: &Tensor,
        negatives: &Tensor,
    ) -> Result<Metrics, EvalError> {
        let mut entries = Vec::new();
        for function in &self.similarity_fn_names {
            let correct = self.correct(*function, anchors, positives, negatives)?;
            let hits = correct.iter().filter(|correct| **correct).count();
            let accuracy = hits as f64 / correct.len() as f64;
            entries.push((format!("{function}_accuracy"), accuracy));
        }
        let only = self
            .similarity_fn_names
            .first()
            .copied()
            .unwrap_or_default();
        let mut primary = format!("{only}_accuracy");
        if entries.len() > 1 {
            let max = entries
                .iter()
                .map(|(_, accuracy)| *accuracy)
                .fold(0.0, f64::max);
            entries.push(("max_accuracy".to_owned(), max));
            primary = "max_accuracy".to_owned();
        }
        if let Some(main) = self.main_similarity {
            primary = format!("{main}_accuracy");
        }
        Ok(Metrics::new(&self.name, &primary, entries))
    }

    /// Whether each triplet is right by one similarity; the rows that
    /// [`bootstrap::difference_of_means`](crate::bootstrap::difference_of_means) compares.
    ///
    /// # Errors
    /// Where the shapes differ or there are no rows.
    pub fn correct(
        &self,
        function: SimilarityFunction,
        anchors: &Tensor,
        positives: &Tensor,
        negatives: &Tensor,
    ) -> Result<Vec<bool>, EvalError> {
        let columns = same_shape(
            NAME,
            &[
                ("anchors", anchors),
                ("positives", positives),
                ("negatives", negatives),
            ],
        )?;
        let positive = function.pairwise(&columns[0], &columns[1])?;
        let negative = function.pairwise(&columns[0], &columns[2])?;
        let threshold = negative.f_add_scalar(self.margin.of(function))?;
        let correct = to_vec(&positive.f_gt_tensor(&threshold)?)?;
        Ok(correct.into_iter().map(|correct| correct != 0.0).collect())
    }

    /// The accuracies as functions of the triplets, for intervals.
    ///
    /// # Errors
    /// As [`Self::evaluate`].
    pub fn rows(
        &self,
        anchors: &Tensor,
        positives: &Tensor,
        negatives: &Tensor,
    ) -> Result<RowFigures, EvalError> {
        let (mut n_rows, mut columns) = (0, Vec::new());
        for function in &self.similarity_fn_names {
            let correct = self.correct(*function, anchors, positives, negatives)?;
            n_rows = correct.len();
            let hits = correct.into_iter().map(|hit| f64::from(u8::from(hit)));
            columns.push((format!("{function}_accuracy"), hits.collect()));
        }
        Ok(RowFigures::means(&self.name, n_rows, columns))
    }

    /// The name of the CSV file.
    pub fn csv_file(&self) -> String {
        csv::file_name("triplet_evaluation", &self.name)
    }

    /// The CSV's columns: `epoch`, `steps` and `accuracy_{similarity}` for each.
    pub fn csv_header(&self) -> Vec<String> {
        let accuracies = self.similarity_fn_names.iter();
        csv::header(accuracies.map(|function| format!("accuracy_{function}")))
    }

    /// A row of the CSV.
    pub fn csv_row(&self, at: csv::At, metrics: &Metrics) -> Vec<String> {
        let keys = self
            .similarity_fn_names
            .iter()
            .map(|name| format!("{name}_accuracy"));
        csv::row(at, &self.name, metrics, keys)
    }
}

impl Margin {
    /// The margin of one similarity.
    pub fn of(&self, function: SimilarityFunction) -> f64 {
        match self {
            Self::Same(margin) => *margin,
            Self::Each(margins) => margins.get(&function).copied().unwrap_or(0.0),
        }
    }
}

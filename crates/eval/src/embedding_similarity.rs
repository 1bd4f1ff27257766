//! Semantic textual similarity: how well the similarities of pairs follow their gold scores.

use crate::rank::{pearson, spearman};
use crate::similarity::{same_shape, to_vec};
use crate::{EvalError, Metrics, SimilarityFunction, csv};
use tch::Tensor;

/// Pearson's and Spearman's correlation of similarities with gold scores.
///
/// # Keys
///
/// `{name}_pearson_{similarity}` and `{name}_spearman_{similarity}` for each similarity in order,
/// and `{name}_pearson_max`, `{name}_spearman_max` where there are several. The primary one is
/// Spearman's of `main_similarity`, else the maximum, else the only one. CSV:
/// `similarity_evaluation_{name}_results.csv`.
///
/// Upstream file: `sentence_transformer/evaluation/embedding_similarity.py`.
#[derive(Debug, Clone, PartialEq)]
pub struct EmbeddingSimilarityEvaluator {
    /// Prefix of the keys and part of the CSV's name; may be empty.
    pub name: String,
    /// The similarities to correlate with the gold scores.
    pub similarity_fn_names: Vec<SimilarityFunction>,
    /// The similarity whose Spearman correlation is the primary metric.
    pub main_similarity: Option<SimilarityFunction>,
}

const NAME: &str = "EmbeddingSimilarityEvaluator";

impl EmbeddingSimilarityEvaluator {
    /// An evaluator; without similarities it takes cosine.
    pub fn new(name: &str, similarity_fn_names: &[SimilarityFunction]) -> Self {
        Self {
            name: name.to_owned(),
            similarity_fn_names: SimilarityFunction::or_cosine(similarity_fn_names),
            main_similarity: None,
        }
    }

    /// The correlations for pairs given as two tensors `[n, dimension]` and `n` gold scores.
    ///
    /// A correlation is not a number where all gold scores or all similarities are equal.
    ///
    /// # Errors
    /// Where the shapes differ or there are fewer than two rows.
    pub fn evaluate(
        &self,
        embeddings1: &Tensor,
        embeddings2: &Tensor,
        scores: &[f64],
    ) -> Result<Metrics, EvalError> {
        if scores.len() < 2 {
            let problem = format!(
                "a correlation needs 2 rows or more, but there are {}",
                scores.len()
            );
            return Err(EvalError::inputs(NAME, problem));
        }
        let mut entries = Vec::new();
        for function in &self.similarity_fn_names {
            let similarities = self.similarities(*function, embeddings1, embeddings2)?;
            if similarities.len() != scores.len() {
                let problem = format!(
                    "{} pairs, but {} gold scores",
                    similarities.len(),
                    scores.len()
                );
                return Err(EvalError::inputs(NAME, problem));
            }
            entries.push((
                format!("pearson_{function}"),
                pearson(scores, &similarities),
            ));
            entries.push((
                format!("spearman_{function}"),
                spearman(scores, &similarities),
            ));
        }
        let only = self
            .similarity_fn_names
            .first()
            .copied()
            .unwrap_or_default();
        let mut primary = format!("spearman_{only}");
        if self.similarity_fn_names.len() > 1 {
            for metric in ["pearson", "spearman"] {
                let of_metric = entries.iter().filter(|(key, _)| key.starts_with(metric));
                let max = of_metric.map(|(_, value)| *value).fold(f64::NAN, f64::max);
                entries.push((format!("{metric}_max"), max));
            }
            primary = "spearman_max".to_owned();
        }
        if let Some(main) = self.main_similarity {
            primary = format!("spearman_{main}");
        }
        Ok(Metrics::new(&self.name, &primary, entries))
    }

    /// The similarity of each pair; the rows that
    /// [`bootstrap::difference_of_spearman`](crate::bootstrap::difference_of_spearman) compares.
    ///
    /// # Errors
    /// Where the shapes differ or there are no rows.
    pub fn similarities(
        &self,
        function: SimilarityFunction,
        embeddings1: &Tensor,
        embeddings2: &Tensor,
    ) -> Result<Vec<f64>, EvalError> {
        let named = [
            ("embeddings of column 1", embeddings1),
            ("embeddings of column 2", embeddings2),
        ];
        let columns = same_shape(NAME, &named)?;
        Ok(to_vec(&function.pairwise(&columns[0], &columns[1])?)?)
    }

    /// The name of the CSV file.
    pub fn csv_file(&self) -> String {
        csv::file_name("similarity_evaluation", &self.name)
    }

    /// The CSV's columns: `epoch`, `steps`, and `{similarity}_pearson`, `{similarity}_spearman`
    /// for each.
    pub fn csv_header(&self) -> Vec<String> {
        csv::header(
            self.pairs()
                .map(|(function, metric)| format!("{function}_{metric}")),
        )
    }

    /// A row of the CSV.
    pub fn csv_row(&self, at: csv::At, metrics: &Metrics) -> Vec<String> {
        let keys = self
            .pairs()
            .map(|(function, metric)| format!("{metric}_{function}"));
        csv::row(at, &self.name, metrics, keys)
    }

    fn pairs(&self) -> impl Iterator<Item = (SimilarityFunction, &'static str)> {
        let functions = self.similarity_fn_names.iter();
        functions.flat_map(|function| [(*function, "pearson"), (*function, "spearman")])
    }
}

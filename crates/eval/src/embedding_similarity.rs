//! Semantic textual similarity: how well the similarities of pairs follow their gold scores.

use crate::rank::{pearson, spearman};
use crate::similarity::{normalize, raise, same_shape, to_vec};
use crate::{EvalError, Metrics, RowFigures, SimilarityFunction, csv};
use search::quantization::quantized_as_f32;
use search::{Embeddings, Precision};
use tch::{Device, Kind, Tensor};

/// Pearson's and Spearman's correlation of similarities with gold scores.
///
/// # Keys
///
/// `{name}_pearson_{similarity}` and `{name}_spearman_{similarity}` for each similarity in order,
/// and `{name}_pearson_max`, `{name}_spearman_max` where there are several. The primary one is
/// Spearman's of `main_similarity`, else the maximum, else the only one. CSV:
/// `similarity_evaluation_{name}_results.csv`, or `similarity_evaluation_{name}_{precision}_results.csv`.
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
    /// Compare what is left of the embeddings in this precision: each column is scaled to length one and
    /// quantised by its own ranges, as upstream's evaluator has it, and integers and bits are compared as
    /// numbers (upstream 6.0.1 hands them to torch as they are, which refuses or overflows).
    pub precision: Option<Precision>,
}

const NAME: &str = "EmbeddingSimilarityEvaluator";

impl EmbeddingSimilarityEvaluator {
    /// An evaluator; without similarities it takes cosine.
    pub fn new(name: &str, similarity_fn_names: &[SimilarityFunction]) -> Self {
        Self {
            name: name.to_owned(),
            similarity_fn_names: SimilarityFunction::or_cosine(similarity_fn_names),
            main_similarity: None,
            precision: None,
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
        let mut columns = same_shape(NAME, &named)?;
        if let Some(precision) = self.precision {
            for column in &mut columns {
                *column = quantized(column, precision)?;
            }
        }
        Ok(to_vec(&function.pairwise(&columns[0], &columns[1])?)?)
    }

    /// The correlations as functions of the pairs, for intervals.
    ///
    /// # Errors
    /// As [`Self::evaluate`].
    pub fn rows(
        &self,
        embeddings1: &Tensor,
        embeddings2: &Tensor,
        scores: &[f64],
    ) -> Result<RowFigures, EvalError> {
        self.evaluate(embeddings1, embeddings2, scores)?;
        let (mut keys, mut series) = (Vec::new(), Vec::new());
        for function in &self.similarity_fn_names {
            keys.extend([
                format!("pearson_{function}"),
                format!("spearman_{function}"),
            ]);
            series.push(self.similarities(*function, embeddings1, embeddings2)?);
        }
        let gold = scores.to_vec();
        Ok(RowFigures::new(&self.name, gold.len(), keys, move |rows| {
            let pick = |values: &[f64]| rows.iter().map(|row| values[*row]).collect::<Vec<_>>();
            let gold = pick(&gold);
            let of = |similarities: &Vec<f64>| {
                let similarities = pick(similarities);
                [
                    pearson(&gold, &similarities),
                    spearman(&gold, &similarities),
                ]
            };
            series.iter().flat_map(of).collect()
        }))
    }

    /// The name of the CSV file.
    pub fn csv_file(&self) -> String {
        match self.precision {
            None => csv::file_name("similarity_evaluation", &self.name),
            Some(precision) if self.name.is_empty() => {
                csv::file_name("similarity_evaluation", precision.name())
            }
            Some(precision) => csv::file_name(
                "similarity_evaluation",
                &format!("{}_{precision}", self.name),
            ),
        }
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

/// What is left of embeddings `[n, dimension]` in a precision, as numbers in f32.
fn quantized(embeddings: &Tensor, precision: Precision) -> Result<Tensor, EvalError> {
    // With torch's own operation, so that no value falls to the other side of a step.
    let scaled = normalize(
        &raise(embeddings)?
            .f_to_device(Device::Cpu)?
            .f_to_kind(Kind::Float)?,
    )?;
    let (_, dimension) = scaled.size2()?;
    let values = Vec::<f32>::try_from(scaled.f_reshape([-1])?)?;
    let refused = |error: search::SearchError| EvalError::inputs(NAME, error.to_string());
    let embeddings = Embeddings::new(&values, dimension as usize).map_err(refused)?;
    let (values, width) = quantized_as_f32(embeddings, precision).map_err(refused)?;
    Ok(Tensor::f_from_slice(&values)?.f_reshape([-1, width as i64])?)
}

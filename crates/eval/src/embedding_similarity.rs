//! Semantic textual similarity: how well the similarities of pairs follow their gold scores.

use search::{Embeddings, Precision, Similarity, quantization::quantized_as_f32};
use tch::{Device, Kind, Tensor};

use crate::{
    csv::{self, CsvTable},
    entry::{ColumnNeeds, Entry, Needs, Source},
    error::EvalError,
    evaluator::{Evaluator, Inputs, LabelKind},
    metrics::Metrics,
    options::{Flag, MAIN_SIMILARITY, parses},
    rank::{pearson, spearman},
    rows::RowFigures,
    similarity::{self, TensorSimilarity, normalize, raise, same_shape, to_vec},
};

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
    pub similarity_fn_names: Vec<Similarity>,
    /// The similarity whose Spearman correlation is the primary metric.
    pub main_similarity: Option<Similarity>,
    /// The precision to compare embeddings in: they are scaled to length one and quantised, both
    /// columns by the ranges that they have together, and integers and bits are compared as numbers.
    pub precision: Option<Precision>,
}

const NAME: &str = "EmbeddingSimilarityEvaluator";
const METRICS: [&str; 2] = ["pearson", "spearman"];

static QUANTIZE: Flag = Flag::new(
    "quantize",
    "NAME",
    "Compare embeddings in this precision, for embedding-similarity: float32, int8, uint8, binary, \
     ubinary",
)
.checked(parses::<Precision>);

pub(crate) static ENTRY: Entry = Entry {
    name: "embedding-similarity",
    unit: "scored pairs",
    sides: &[],
    flags: &[&MAIN_SIMILARITY, &QUANTIZE],
    needs: Needs::Columns(ColumnNeeds {
        words: "2 text columns with a label or score column",
        n_columns: &[2],
        labels: &[LabelKind::Binary, LabelKind::Classes, LabelKind::Scores],
        is_default: true,
        compares_texts: false,
        source: Source::Model,
        build: |name, options| {
            let (main_similarity, similarities) = options.main_among(&Similarity::ALL)?;
            Ok(Box::new(EmbeddingSimilarityEvaluator {
                main_similarity,
                precision: options.one(QUANTIZE.name)?,
                ..EmbeddingSimilarityEvaluator::new(name, &similarities)
            }))
        },
    }),
};

impl EmbeddingSimilarityEvaluator {
    /// An evaluator; without similarities it takes cosine.
    pub fn new(name: &str, similarity_fn_names: &[Similarity]) -> Self {
        Self {
            name: name.to_owned(),
            similarity_fn_names: similarity::or_cosine(similarity_fn_names),
            main_similarity: None,
            precision: None,
        }
    }

    /// The similarity of each pair.
    fn similarities(
        &self,
        function: Similarity,
        inputs: &Inputs<'_>,
    ) -> Result<Vec<f64>, EvalError> {
        let [embeddings1, embeddings2] = inputs.columns(NAME)?;
        let named = [
            ("embeddings of column 1", embeddings1),
            ("embeddings of column 2", embeddings2),
        ];
        let mut columns = same_shape(NAME, &named)?;
        if let Some(precision) = self.precision {
            let (both, n_rows) = (Tensor::f_cat(&columns, 0)?, columns[0].size()[0]);
            let both = quantized(&both, precision)?;
            for (first, column) in (0..).step_by(n_rows as usize).zip(&mut columns) {
                *column = both.f_narrow(0, first, n_rows)?;
            }
        }
        Ok(to_vec(&function.pairwise(&columns[0], &columns[1])?)?)
    }

    /// The gold scores, of which there have to be two or more.
    fn gold(&self, inputs: &Inputs<'_>) -> Result<Vec<f64>, EvalError> {
        let scores = inputs.scores(NAME)?;
        if scores.len() < 2 {
            let n = scores.len();
            let problem = format!("a correlation needs 2 rows or more, but there are {n}");
            return Err(EvalError::inputs(NAME, problem));
        }
        Ok(scores)
    }

    /// The similarities of all pairs by each function, as many as there are gold scores.
    fn series(&self, inputs: &Inputs<'_>, n_scores: usize) -> Result<Vec<Vec<f64>>, EvalError> {
        let mut series = Vec::with_capacity(self.similarity_fn_names.len());
        for function in &self.similarity_fn_names {
            let similarities = self.similarities(*function, inputs)?;
            if similarities.len() != n_scores {
                let n = similarities.len();
                let problem = format!("{n} pairs, but {n_scores} gold scores");
                return Err(EvalError::inputs(NAME, problem));
            }
            series.push(similarities);
        }
        Ok(series)
    }

    /// The keys of the correlations, in order.
    fn keys(&self) -> Vec<String> {
        let functions = self.similarity_fn_names.iter();
        let keys = |function| METRICS.map(|metric| format!("{metric}_{function}"));
        functions.flat_map(keys).collect()
    }
}

impl Evaluator for EmbeddingSimilarityEvaluator {
    /// Takes two columns `[n, dimension]` and gold scores.
    ///
    /// A correlation is not a number where all gold scores or all similarities are equal.
    fn evaluate(&self, inputs: &Inputs<'_>) -> Result<Metrics, EvalError> {
        let scores = self.gold(inputs)?;
        let series = self.series(inputs, scores.len())?;
        let correlations = series
            .iter()
            .flat_map(|similarities| correlations(&scores, similarities));
        let mut entries: Vec<(String, f64)> = self.keys().into_iter().zip(correlations).collect();
        let only = self.similarity_fn_names.first().copied();
        let mut primary = format!("spearman_{}", only.unwrap_or_default());
        if self.similarity_fn_names.len() > 1 {
            for metric in METRICS {
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

    fn rows(&self, inputs: &Inputs<'_>) -> Result<Option<RowFigures>, EvalError> {
        let gold = self.gold(inputs)?;
        let series = self.series(inputs, gold.len())?;
        let figures = move |rows: &[usize]| {
            let pick = |values: &[f64]| rows.iter().map(|row| values[*row]).collect::<Vec<_>>();
            let scores = pick(&gold);
            let of = |similarities: &Vec<f64>| correlations(&scores, &pick(similarities));
            series.iter().flat_map(of).collect()
        };
        let n_rows = inputs.scores(NAME)?.len();
        Ok(Some(RowFigures::new(
            &self.name,
            n_rows,
            self.keys(),
            figures,
        )))
    }

    fn csv(&self) -> CsvTable {
        let precision = self.precision.map(Precision::name);
        let name = match (self.name.as_str(), precision) {
            (name, None) => name.to_owned(),
            ("", Some(precision)) => precision.to_owned(),
            (name, Some(precision)) => format!("{name}_{precision}"),
        };
        let functions = self.similarity_fn_names.iter();
        let column = |function: &Similarity| {
            METRICS.map(|metric| {
                (
                    format!("{function}_{metric}"),
                    format!("{metric}_{function}"),
                )
            })
        };
        let file = csv::file_name("similarity_evaluation", &name);
        CsvTable::new(file, &self.name, functions.flat_map(column))
    }
}

/// The correlations in the order of [`METRICS`].
fn correlations(scores: &[f64], similarities: &[f64]) -> [f64; 2] {
    [
        pearson(scores, similarities),
        spearman(scores, similarities),
    ]
}

/// Embeddings `[n, dimension]` in a precision, as numbers in f32.
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

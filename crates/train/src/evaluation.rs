//! A data set put through a model and the evaluator that fits its columns.

use std::{ops::ControlFlow, path::Path};

use data::{Dataset, Labels};
use eval::{EmbeddingSimilarityEvaluator, Metrics, SimilarityFunction, TripletEvaluator, csv};
use model::{EncodeOptions, SentenceTransformer};
use tch::Tensor;

use crate::{TrainError, trainer::TrainingData};

/// A data set with its evaluator: triplets get a [`TripletEvaluator`], pairs with a score an
/// [`EmbeddingSimilarityEvaluator`].
#[derive(Debug)]
pub struct Evaluation {
    data: TrainingData,
    evaluator: Evaluator,
    options: EncodeOptions,
}

/// The evaluators that a data set's columns can ask for.
#[derive(Debug)]
pub enum Evaluator {
    /// Anchor, positive, negative.
    Triplet(TripletEvaluator),
    /// Two sentences and a score.
    EmbeddingSimilarity(EmbeddingSimilarityEvaluator),
    /// None: the data is for the loss alone.
    LossOnly,
}

impl Evaluator {
    fn of(dataset: &Dataset, similarities: &[SimilarityFunction]) -> Result<Self, TrainError> {
        Ok(match (dataset.columns.len(), &dataset.labels) {
            (3, None) => Self::Triplet(TripletEvaluator::new(&dataset.name, similarities)),
            (2, Some(Labels::Integer(_) | Labels::Float(_))) => Self::EmbeddingSimilarity(
                EmbeddingSimilarityEvaluator::new(&dataset.name, similarities),
            ),
            (n_columns, labels) => {
                return Err(TrainError::Dataset {
                    dataset: dataset.name.clone(),
                    problem: format!(
                        "no evaluator fits {n_columns} text columns ({}) {} labels: triplets are 3 text columns without labels (anchor, positive, negative), scored pairs are 2 text columns with a label or score column",
                        dataset.column_names().join(", "),
                        if labels.is_some() { "with" } else { "without" },
                    ),
                });
            }
        })
    }
}

/// Embeddings of a data set's columns, each [n_rows, dimension], in f32 on the CPU.
pub type ColumnEmbeddings = Vec<Tensor>;

impl Evaluation {
    /// Chooses the evaluator by the columns of `data`.
    ///
    /// # Errors
    /// When no evaluator fits; the message says which columns would.
    pub fn new(
        data: TrainingData,
        similarities: &[SimilarityFunction],
        options: EncodeOptions,
    ) -> Result<Self, TrainError> {
        let evaluator = Evaluator::of(&data.dataset, similarities)?;
        Ok(Self {
            data,
            evaluator,
            options,
        })
    }

    /// As [`Self::new`], but data that no evaluator fits is taken for the loss alone.
    pub fn during_training(
        data: TrainingData,
        similarities: &[SimilarityFunction],
        options: EncodeOptions,
    ) -> Self {
        let evaluator = Evaluator::of(&data.dataset, similarities).unwrap_or(Evaluator::LossOnly);
        Self {
            data,
            evaluator,
            options,
        }
    }

    /// Whether there is more to evaluate than the loss.
    pub fn has_evaluator(&self) -> bool {
        !matches!(self.evaluator, Evaluator::LossOnly)
    }

    /// Name of the data set, which the metrics' keys begin with.
    pub fn name(&self) -> &str {
        &self.data.dataset.name
    }

    /// The data set.
    pub fn data(&self) -> &TrainingData {
        &self.data
    }

    /// The evaluator.
    pub fn evaluator(&self) -> &Evaluator {
        &self.evaluator
    }

    /// Sentences that an evaluation encodes.
    pub fn n_sentences(&self) -> usize {
        self.data.dataset.n_rows() * self.data.dataset.columns.len()
    }

    /// Encodes all columns; `None` when `progress`, told the number of sentences done, breaks off.
    ///
    /// # Errors
    /// The model's.
    pub fn encode(
        &self,
        model: &SentenceTransformer,
        progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Option<ColumnEmbeddings>, TrainError> {
        let mut is_broken_off = false;
        let mut embeddings = Vec::new();
        let n_rows = self.data.dataset.n_rows();
        for (i, tokens) in self.data.tokens.columns.iter().enumerate() {
            let mut on_progress = |n_encoded| {
                let flow = progress(i * n_rows + n_encoded);
                is_broken_off = flow.is_break();
                flow
            };
            let options = self.options_of_column(i, model);
            // Prompts of training are not the evaluator's.
            let is_prompted = !tokens.prompt.text.is_empty();
            let column = if is_prompted || needs_prompt(&options, model) {
                let texts: Vec<&str> = self.data.dataset.columns[i].texts.iter().collect();
                model.encode(&texts, &options, &mut on_progress)
            } else {
                let sentences: Vec<&[u32]> = (0..n_rows).map(|row| tokens.get(row)).collect();
                model.encode_ids(&sentences, &options, &mut on_progress)
            };
            if is_broken_off {
                return Ok(None);
            }
            embeddings.push(column?);
        }
        Ok(Some(embeddings))
    }

    /// The options with the model's own prompt for the column: upstream's evaluator encodes the anchors of
    /// triplets with `encode_query` and the others with `encode_document`.
    fn options_of_column(&self, column: usize, model: &SentenceTransformer) -> EncodeOptions {
        let mut options = self.options.clone();
        let is_triplet = matches!(self.evaluator, Evaluator::Triplet(_));
        if is_triplet && options.prompt.is_none() && options.prompt_name.is_none() {
            let names: &[&str] = if column == 0 {
                &["query"]
            } else {
                &["document", "passage", "corpus"]
            };
            let name = names
                .iter()
                .find(|&&name| model.prompts().contains_key(name));
            options.prompt_name = name.map(|&name| name.to_owned());
        }
        options
    }

    /// Encodes all columns and computes the metrics; `None` when `progress` breaks off.
    ///
    /// # Errors
    /// The model's and the evaluator's.
    pub fn evaluate(
        &self,
        model: &SentenceTransformer,
        progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Option<Metrics>, TrainError> {
        let Some(embeddings) = self.encode(model, progress)? else {
            return Ok(None);
        };
        self.metrics(&embeddings).map(Some)
    }

    /// The metrics of embeddings that [`Self::encode`] gave.
    ///
    /// # Errors
    /// The evaluator's.
    pub fn metrics(&self, embeddings: &ColumnEmbeddings) -> Result<Metrics, TrainError> {
        match (&self.evaluator, embeddings.as_slice()) {
            (Evaluator::Triplet(evaluator), [anchors, positives, negatives]) => {
                Ok(evaluator.evaluate(anchors, positives, negatives)?)
            }
            (Evaluator::EmbeddingSimilarity(evaluator), [first, second]) => {
                Ok(evaluator.evaluate(first, second, &self.scores())?)
            }
            (_, columns) => Err(TrainError::Dataset {
                dataset: self.name().to_owned(),
                problem: format!(
                    "{} columns of embeddings don't fit its evaluator",
                    columns.len()
                ),
            }),
        }
    }

    /// The labels as scores; empty where the data set has none.
    pub fn scores(&self) -> Vec<f64> {
        let labels = self.data.dataset.labels.as_ref();
        labels.map_or_else(Vec::new, |labels| {
            labels
                .clone()
                .into_f32()
                .into_iter()
                .map(f64::from)
                .collect()
        })
    }

    /// Appends the metrics to the evaluator's CSV file in `folder`.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn append_csv(
        &self,
        folder: &Path,
        metrics: &Metrics,
        at: csv::At,
    ) -> Result<(), TrainError> {
        let (file, header, row) = match &self.evaluator {
            Evaluator::Triplet(evaluator) => (
                evaluator.csv_file(),
                evaluator.csv_header(),
                evaluator.csv_row(at, metrics),
            ),
            Evaluator::EmbeddingSimilarity(evaluator) => (
                evaluator.csv_file(),
                evaluator.csv_header(),
                evaluator.csv_row(at, metrics),
            ),
            Evaluator::LossOnly => return Ok(()),
        };
        Ok(csv::append(&folder.join(file), &header, &row)?)
    }
}

/// Whether texts get something put before them, so that their ids alone won't do.
fn needs_prompt(options: &EncodeOptions, model: &SentenceTransformer) -> bool {
    let prompt = match (
        &options.prompt,
        options
            .prompt_name
            .as_deref()
            .or(model.default_prompt_name()),
    ) {
        (Some(prompt), _) => Some(prompt.as_str()),
        // An unknown name is for the model to refuse.
        (None, Some(name)) => Some(model.prompts().get(name).map_or(name, String::as_str)),
        (None, None) => None,
    };
    prompt.is_some_and(|prompt| !prompt.is_empty())
}

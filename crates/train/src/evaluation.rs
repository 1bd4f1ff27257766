//! A data set put through a model and the evaluator that fits its columns.

use std::{fmt, ops::ControlFlow, path::Path, str::FromStr};

use data::{Dataset, Labels};
use eval::{
    BinaryClassificationEvaluator, EmbeddingSimilarityEvaluator, Metrics, RowFigures,
    SimilarityFunction, TranslationEvaluator, TripletEvaluator, csv,
};
use model::{EncodeOptions, SentenceTransformer};
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::{error::TrainError, tokenizing::TrainingData};

/// A data set with its evaluator: the one that is asked for, or else for triplets a [`TripletEvaluator`] and for
/// pairs with a label or score an [`EmbeddingSimilarityEvaluator`].
#[derive(Debug)]
pub struct Evaluation {
    data: TrainingData,
    evaluator: Evaluator,
    options: EncodeOptions,
}

/// The evaluators that need nothing but a data set's columns and labels.
#[derive(Debug)]
pub enum Evaluator {
    /// Anchor, positive, negative.
    Triplet(TripletEvaluator),
    /// Two sentences and a score.
    EmbeddingSimilarity(EmbeddingSimilarityEvaluator),
    /// Two sentences, and 1 if they are alike, else 0.
    BinaryClassification(BinaryClassificationEvaluator),
    /// A sentence and its translation.
    Translation(TranslationEvaluator),
    /// None: the data is for the loss alone.
    LossOnly,
}

/// The name of an [`Evaluator`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EvaluatorKind {
    /// [`Evaluator::Triplet`].
    Triplet,
    /// [`Evaluator::EmbeddingSimilarity`].
    EmbeddingSimilarity,
    /// [`Evaluator::BinaryClassification`].
    BinaryClassification,
    /// [`Evaluator::Translation`].
    Translation,
}

impl EvaluatorKind {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Triplet,
        Self::EmbeddingSimilarity,
        Self::BinaryClassification,
        Self::Translation,
    ];

    /// The name in kebab case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Triplet => "triplet",
            Self::EmbeddingSimilarity => "embedding-similarity",
            Self::BinaryClassification => "binary-classification",
            Self::Translation => "translation",
        }
    }

    /// The kind that a data set's columns ask for, if any.
    pub fn of(dataset: &Dataset) -> Option<Self> {
        match (dataset.columns.len(), &dataset.labels) {
            (3, None) => Some(Self::Triplet),
            (2, Some(Labels::Integer(_) | Labels::Float(_))) => Some(Self::EmbeddingSimilarity),
            _ => None,
        }
    }

    /// What a data set has to be.
    fn needs(self) -> &'static str {
        match self {
            Self::Triplet => "3 text columns without labels (anchor, positive, negative)",
            Self::EmbeddingSimilarity => "2 text columns with a label or score column",
            Self::BinaryClassification => "2 text columns with a label column of 0 and 1",
            Self::Translation => "2 text columns (sentence, translation)",
        }
    }

    fn fits(self, dataset: &Dataset) -> bool {
        match (self, dataset.columns.len(), &dataset.labels) {
            (Self::Triplet, 3, None) => true,
            (Self::EmbeddingSimilarity, 2, Some(Labels::Integer(_) | Labels::Float(_))) => true,
            (Self::BinaryClassification, 2, labels) => binary(labels.as_ref()).is_some(),
            (Self::Translation, 2, _) => true,
            _ => false,
        }
    }
}

impl fmt::Display for EvaluatorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for EvaluatorKind {
    type Err = TrainError;

    /// By the name, or by that of the class in sentence-transformers.
    fn from_str(text: &str) -> Result<Self, TrainError> {
        let folded = |text: &str| text.to_lowercase().replace(['-', '_'], "");
        let name = folded(text);
        let name = name.strip_suffix("evaluator").unwrap_or(&name);
        let named = |kind: &Self| folded(kind.name()) == name;
        Self::ALL.into_iter().find(named).ok_or_else(|| {
            TrainError::Arguments(format!(
                "no evaluator `{text}` for data sets of texts and labels: there are {}",
                Self::ALL.map(Self::name).join(", ")
            ))
        })
    }
}

/// Whole labels that are all 0 or 1, as truth values.
fn binary(labels: Option<&Labels>) -> Option<Vec<bool>> {
    match labels {
        Some(Labels::Integer(labels)) if labels.iter().all(|label| matches!(label, 0 | 1)) => {
            Some(labels.iter().map(|label| *label == 1).collect())
        }
        _ => None,
    }
}

impl Evaluator {
    fn of(
        dataset: &Dataset,
        kind: Option<EvaluatorKind>,
        similarities: &[SimilarityFunction],
    ) -> Result<Self, TrainError> {
        let name = &dataset.name;
        let found = || {
            let labels = match &dataset.labels {
                None => "without labels",
                Some(Labels::Integer(labels)) if labels.iter().all(|l| matches!(l, 0 | 1)) => {
                    "with labels of 0 and 1"
                }
                Some(Labels::Integer(_)) => "with whole numbers as labels",
                Some(Labels::Float(_)) => "with scores",
                Some(Labels::Vector { .. }) => "with lists as labels",
            };
            format!(
                "{} text column{} ({}) {labels}",
                dataset.columns.len(),
                if dataset.columns.len() == 1 { "" } else { "s" },
                dataset.column_names().join(", "),
            )
        };
        let refused = |problem| TrainError::Dataset {
            dataset: name.clone(),
            problem,
        };
        let kind = match kind {
            Some(kind) if !kind.fits(dataset) => {
                return Err(refused(format!(
                    "evaluator {kind} needs {}, but there are {}",
                    kind.needs(),
                    found()
                )));
            }
            Some(kind) => kind,
            None => EvaluatorKind::of(dataset).ok_or_else(|| {
                refused(format!(
                    "no evaluator fits {}: triplets are {}, scored pairs are {}",
                    found(),
                    EvaluatorKind::Triplet.needs(),
                    EvaluatorKind::EmbeddingSimilarity.needs(),
                ))
            })?,
        };
        Ok(match kind {
            EvaluatorKind::Triplet => Self::Triplet(TripletEvaluator::new(name, similarities)),
            EvaluatorKind::EmbeddingSimilarity => {
                Self::EmbeddingSimilarity(EmbeddingSimilarityEvaluator::new(name, similarities))
            }
            EvaluatorKind::BinaryClassification => {
                Self::BinaryClassification(BinaryClassificationEvaluator::new(name, similarities))
            }
            EvaluatorKind::Translation => Self::Translation(TranslationEvaluator::new(name)),
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
        Self::with_kind(data, None, similarities, options)
    }

    /// With the evaluator `kind`, or chosen by the columns of `data`.
    ///
    /// # Errors
    /// When the evaluator doesn't fit, or none does; the message says which columns would.
    pub fn with_kind(
        data: TrainingData,
        kind: Option<EvaluatorKind>,
        similarities: &[SimilarityFunction],
        options: EncodeOptions,
    ) -> Result<Self, TrainError> {
        let evaluator = Evaluator::of(&data.dataset, kind, similarities)?;
        Ok(Self {
            data,
            evaluator,
            options,
        })
    }

    /// Whether the evaluator `kind`, or any, fits a data set.
    ///
    /// # Errors
    /// When it doesn't; the message says which columns would.
    pub fn check(dataset: &Dataset, kind: Option<EvaluatorKind>) -> Result<(), TrainError> {
        Evaluator::of(dataset, kind, &[]).map(drop)
    }

    /// As [`Self::new`], but data that no evaluator fits is taken for the loss alone.
    pub fn during_training(
        data: TrainingData,
        similarities: &[SimilarityFunction],
        options: EncodeOptions,
    ) -> Self {
        let evaluator =
            Evaluator::of(&data.dataset, None, similarities).unwrap_or(Evaluator::LossOnly);
        Self {
            data,
            evaluator,
            options,
        }
    }

    /// Lets the caller set the evaluator's own options.
    pub fn evaluator_mut(&mut self) -> &mut Evaluator {
        &mut self.evaluator
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
            (Evaluator::BinaryClassification(evaluator), [first, second]) => {
                Ok(evaluator.evaluate(first, second, &self.truths())?)
            }
            (Evaluator::Translation(evaluator), [source, target]) => {
                Ok(evaluator.evaluate(source, target)?)
            }
            (_, columns) => Err(self.misfit(columns)),
        }
    }

    /// The figures of [`Self::metrics`] as functions of the rows, for intervals.
    ///
    /// # Errors
    /// The evaluator's.
    pub fn row_figures(&self, embeddings: &ColumnEmbeddings) -> Result<RowFigures, TrainError> {
        match (&self.evaluator, embeddings.as_slice()) {
            (Evaluator::Triplet(evaluator), [anchors, positives, negatives]) => {
                Ok(evaluator.rows(anchors, positives, negatives)?)
            }
            (Evaluator::EmbeddingSimilarity(evaluator), [first, second]) => {
                Ok(evaluator.rows(first, second, &self.scores())?)
            }
            (Evaluator::BinaryClassification(evaluator), [first, second]) => {
                Ok(evaluator.rows(first, second, &self.truths())?)
            }
            (Evaluator::Translation(evaluator), [source, target]) => {
                Ok(evaluator.rows(source, target)?)
            }
            (_, columns) => Err(self.misfit(columns)),
        }
    }

    fn misfit(&self, columns: &[Tensor]) -> TrainError {
        TrainError::Dataset {
            dataset: self.name().to_owned(),
            problem: format!(
                "{} columns of embeddings don't fit its evaluator",
                columns.len()
            ),
        }
    }

    /// The labels as truth values; empty where they are others.
    fn truths(&self) -> Vec<bool> {
        binary(self.data.dataset.labels.as_ref()).unwrap_or_default()
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

    /// The evaluator's CSV file, its header, and the metrics as a row of it; `None` without an evaluator.
    pub fn csv(
        &self,
        metrics: &Metrics,
        at: csv::At,
    ) -> Option<(String, Vec<String>, Vec<String>)> {
        macro_rules! csv_of {
            ($($kind:ident),*) => {
                match &self.evaluator {
                    $(Evaluator::$kind(evaluator) => Some((
                        evaluator.csv_file(),
                        evaluator.csv_header(),
                        evaluator.csv_row(at, metrics),
                    )),)*
                    Evaluator::LossOnly => None,
                }
            };
        }
        csv_of!(
            Triplet,
            EmbeddingSimilarity,
            BinaryClassification,
            Translation
        )
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
        match self.csv(metrics, at) {
            Some((file, header, row)) => Ok(csv::append(&folder.join(file), &header, &row)?),
            None => Ok(()),
        }
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

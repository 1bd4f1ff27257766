//! A data set put through a model and the evaluator that fits its columns.

use std::{ops::ControlFlow, path::Path};

use data::Dataset;
use eval::{
    Evaluator, EvaluatorKind, Inputs, LabelKind, Labels, Metrics, Options, RowFigures, Similarity,
    csv::{At, CsvTable},
    entry::{ColumnNeeds, Entry, Side},
    text_ids,
};
use model::{EncodeOptions, SentenceTransformer};
use tch::Tensor;

use crate::{error::TrainError, tokenizing::TrainingData};

/// A data set with its evaluator: the one that is asked for, or the one that its columns ask for.
#[derive(Debug)]
pub struct Evaluation {
    data: TrainingData,
    labels: Option<Labels>,
    text_ids: Vec<Vec<u32>>,
    /// Without one, the data is for the loss alone.
    evaluator: Option<(&'static Entry, Box<dyn Evaluator>)>,
    encoding: EncodeOptions,
}

/// Embeddings of a data set's columns, each [n_rows, dimension], in f32 on the CPU.
pub type ColumnEmbeddings = Vec<Tensor>;

impl Evaluation {
    /// With the evaluator that the columns of `data` ask for.
    ///
    /// # Errors
    /// When no evaluator fits; the message says which columns would.
    pub fn new(
        data: TrainingData,
        similarities: &[Similarity],
        encoding: EncodeOptions,
    ) -> Result<Self, TrainError> {
        Self::with_kind(data, None, &Options::of(similarities), encoding)
    }

    /// With the evaluator `kind`, or the one that the columns of `data` ask for.
    ///
    /// # Errors
    /// When the evaluator doesn't fit, or none does; the message says which columns would.
    pub fn with_kind(
        data: TrainingData,
        kind: Option<EvaluatorKind>,
        options: &Options,
        encoding: EncodeOptions,
    ) -> Result<Self, TrainError> {
        let kind = choose(&data.dataset, kind)?;
        Self::with_entry(data, kind.entry(), kind.needs(), options, encoding)
    }

    /// As [`Self::new`], but data that no evaluator fits is taken for the loss alone.
    ///
    /// # Errors
    /// The evaluator's, where its options can't be followed.
    pub fn during_training(
        data: TrainingData,
        similarities: &[Similarity],
        encoding: EncodeOptions,
    ) -> Result<Self, TrainError> {
        match choose(&data.dataset, None) {
            Ok(_) => Self::new(data, similarities, encoding),
            Err(_) => Ok(Self {
                labels: None,
                text_ids: Vec::new(),
                data,
                evaluator: None,
                encoding,
            }),
        }
    }

    fn with_entry(
        data: TrainingData,
        entry: &'static Entry,
        needs: &ColumnNeeds,
        options: &Options,
        encoding: EncodeOptions,
    ) -> Result<Self, TrainError> {
        let evaluator = (needs.build)(&data.dataset.name, options)?;
        let columns = data.dataset.columns.iter();
        let columns = columns.filter(|_| needs.compares_texts);
        Ok(Self {
            labels: evaluator_labels(&data.dataset),
            text_ids: columns
                .map(|column| text_ids(column.texts.iter()))
                .collect(),
            data,
            evaluator: Some((entry, evaluator)),
            encoding,
        })
    }

    /// Checks that the evaluator `kind`, or any, fits a data set.
    ///
    /// # Errors
    /// When it doesn't; the message says which columns would.
    pub fn check(dataset: &Dataset, kind: Option<EvaluatorKind>) -> Result<(), TrainError> {
        choose(dataset, kind).map(drop)
    }

    /// Whether there is more to evaluate than the loss.
    pub fn has_evaluator(&self) -> bool {
        self.evaluator.is_some()
    }

    /// The unit of the rows in the plural, such as `triplets`.
    pub fn unit(&self) -> &'static str {
        self.evaluator
            .as_ref()
            .map_or("rows", |(entry, _)| entry.unit)
    }

    /// Name of the data set, which the metrics' keys begin with.
    pub fn name(&self) -> &str {
        &self.data.dataset.name
    }

    /// The data set.
    pub fn data(&self) -> &TrainingData {
        &self.data
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

    /// The options with the model's own prompt for the column's side: upstream's evaluator encodes the anchors of
    /// triplets with `encode_query` and the others with `encode_document`.
    fn options_of_column(&self, column: usize, model: &SentenceTransformer) -> EncodeOptions {
        let mut options = self.encoding.clone();
        if options.prompt.is_some() || options.prompt_name.is_some() {
            return options;
        }
        let evaluator = self.evaluator.as_ref();
        let names: &[&str] = match evaluator.map_or(Side::Text, |(entry, _)| entry.side(column)) {
            Side::Text => &[],
            Side::Query => &["query"],
            Side::Document => &["document", "passage", "corpus"],
        };
        let name = names
            .iter()
            .find(|&&name| model.prompts().contains_key(name));
        options.prompt_name = name.map(|&name| name.to_owned());
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
    /// The evaluator's, or where there is none.
    pub fn metrics(&self, embeddings: &ColumnEmbeddings) -> Result<Metrics, TrainError> {
        Ok(self.evaluator()?.evaluate(&self.inputs(embeddings))?)
    }

    /// The figures of [`Self::metrics`] as functions of the rows, for intervals.
    ///
    /// # Errors
    /// As [`Self::metrics`].
    pub fn row_figures(
        &self,
        embeddings: &ColumnEmbeddings,
    ) -> Result<Option<RowFigures>, TrainError> {
        Ok(self.evaluator()?.rows(&self.inputs(embeddings))?)
    }

    fn evaluator(&self) -> Result<&dyn Evaluator, TrainError> {
        match &self.evaluator {
            Some((_, evaluator)) => Ok(evaluator.as_ref()),
            None => Err(refused(
                &self.data.dataset,
                "it has no evaluator".to_owned(),
            )),
        }
    }

    fn inputs<'a>(&'a self, embeddings: &'a ColumnEmbeddings) -> Inputs<'a> {
        Inputs {
            embeddings,
            labels: self.labels.as_ref(),
            text_ids: &self.text_ids,
        }
    }

    /// The evaluator's CSV file; `None` without an evaluator.
    pub fn csv(&self) -> Option<CsvTable> {
        let evaluator = self.evaluator.as_ref();
        evaluator.map(|(_, evaluator)| evaluator.csv())
    }

    /// Appends the metrics to the evaluator's CSV file in `folder`.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn append_csv(&self, folder: &Path, metrics: &Metrics, at: At) -> Result<(), TrainError> {
        match self.csv() {
            Some(table) => Ok(table.append(folder, at, metrics)?),
            None => Ok(()),
        }
    }
}

/// The evaluator for a data set: `kind`, if it fits, or the one that its columns ask for.
fn choose(dataset: &Dataset, kind: Option<EvaluatorKind>) -> Result<EvaluatorKind, TrainError> {
    let (n_columns, labels) = (dataset.columns.len(), evaluator_labels(dataset));
    let found = || {
        format!(
            "{n_columns} text column{} ({}) {}",
            if n_columns == 1 { "" } else { "s" },
            dataset.column_names().join(", "),
            LabelKind::of(labels.as_ref()).describe(),
        )
    };
    match kind {
        Some(kind) if kind.needs().fits(n_columns, labels.as_ref()) => Ok(kind),
        Some(kind) => {
            let needs = kind.needs().words;
            let problem = format!("evaluator {kind} needs {needs}, but there are {}", found());
            Err(refused(dataset, problem))
        }
        None => EvaluatorKind::of(n_columns, labels.as_ref()).ok_or_else(|| {
            let of =
                |kind: EvaluatorKind| format!("{} are {}", kind.entry().unit, kind.needs().words);
            let known: Vec<String> = EvaluatorKind::defaults().map(of).collect();
            let problem = format!("no evaluator fits {}: {}", found(), known.join(", "));
            refused(dataset, problem)
        }),
    }
}

fn refused(dataset: &Dataset, problem: String) -> TrainError {
    TrainError::Dataset {
        dataset: dataset.name.clone(),
        problem,
    }
}

/// The labels of a data set as evaluators take them.
pub fn evaluator_labels(dataset: &Dataset) -> Option<Labels> {
    Some(match dataset.labels.as_ref()? {
        data::Labels::Integer(classes) => Labels::Classes(classes.clone()),
        data::Labels::Float(scores) => {
            Labels::Scores(scores.iter().map(|score| f64::from(*score)).collect())
        }
        data::Labels::Vector { .. } => Labels::Lists,
    })
}

/// Whether texts get a prompt, so that their ids alone won't do.
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

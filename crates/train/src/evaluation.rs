//! A data set or tables put through a model and an evaluator.

use std::{ops::ControlFlow, path::Path};

use data::Dataset;
use eval::{
    Evaluator, EvaluatorKind, Inputs, LabelKind, Labels, Metrics, Options, RowFigures, Similarity,
    csv::{At, CsvTable},
    entry::{ColumnNeeds, Entry, Prepared, Side},
    text_ids,
};
use model::{EncodeOptions, ModelError, SentenceTransformer};
use tch::Tensor;

use crate::{error::TrainError, tokenizing::TrainingData};

/// A data set with its evaluator, the one that is asked for or the one that its columns ask for; or tables with ids and
/// theirs.
#[derive(Debug)]
pub struct Evaluation {
    material: Material,
    labels: Option<Labels>,
    text_ids: Vec<Vec<u32>>,
    /// Without one, the data is for the loss alone.
    evaluator: Option<(&'static Entry, Box<dyn Evaluator>)>,
    encoding: EncodeOptions,
}

/// The texts of an evaluation.
#[derive(Debug)]
pub(crate) enum Material {
    Data(TrainingData),
    Tables {
        name: String,
        columns: Vec<TextsOfTables>,
        counts: Vec<(usize, &'static str)>,
        /// Digest of all cells.
        sha256: String,
    },
}

/// A column of texts from tables, such as the queries of a retrieval task.
#[derive(Debug)]
pub(crate) struct TextsOfTables {
    texts: Vec<String>,
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
                material: Material::Data(data),
                evaluator: None,
                encoding,
            }),
        }
    }

    /// An evaluation of tables with ids, as an evaluator was made from them. `encoding` is for each column of texts,
    /// `sha256` of all that the tables hold.
    pub fn of_tables(
        name: String,
        entry: &'static Entry,
        prepared: Prepared,
        encoding: impl Fn(usize) -> EncodeOptions,
        sha256: String,
    ) -> Self {
        let columns = prepared.texts.into_iter().enumerate();
        let columns = columns.map(|(i, texts)| TextsOfTables {
            texts,
            encoding: encoding(i),
        });
        Self {
            material: Material::Tables {
                name,
                columns: columns.collect(),
                counts: prepared.counts,
                sha256,
            },
            labels: None,
            text_ids: Vec::new(),
            evaluator: Some((entry, prepared.evaluator)),
            encoding: EncodeOptions::default(),
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
            material: Material::Data(data),
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

    /// Name of the evaluator, such as `triplet`.
    pub fn evaluator_name(&self) -> Option<&'static str> {
        self.evaluator.as_ref().map(|(entry, _)| entry.name)
    }

    /// Name of the data set or tables, which the metrics' keys begin with.
    pub fn name(&self) -> &str {
        match &self.material {
            Material::Data(data) => &data.dataset.name,
            Material::Tables { name, .. } => name,
        }
    }

    /// The data set; `None` for tables.
    pub fn data(&self) -> Option<&TrainingData> {
        match &self.material {
            Material::Data(data) => Some(data),
            Material::Tables { .. } => None,
        }
    }

    pub(crate) fn material(&self) -> &Material {
        &self.material
    }

    /// The number of rows with their unit in the plural, such as 60 `triplets`; for tables also that of the texts which
    /// they are looked for in.
    pub fn counts(&self) -> Vec<(usize, &'static str)> {
        match &self.material {
            Material::Data(data) => vec![(data.dataset.n_rows(), self.unit())],
            Material::Tables { counts, .. } => counts.clone(),
        }
    }

    /// Sentences that an evaluation encodes.
    pub fn n_sentences(&self) -> usize {
        match &self.material {
            Material::Data(data) => data.dataset.n_rows() * data.dataset.columns.len(),
            Material::Tables { columns, .. } => columns.iter().map(|one| one.texts.len()).sum(),
        }
    }

    /// The number of texts of each column.
    pub(crate) fn column_lengths(&self) -> Vec<usize> {
        match &self.material {
            Material::Data(data) => vec![data.dataset.n_rows(); data.dataset.columns.len()],
            Material::Tables { columns, .. } => columns.iter().map(|one| one.texts.len()).collect(),
        }
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
        let (mut is_broken_off, mut n_before) = (false, 0);
        let mut embeddings = Vec::new();
        for i in 0..self.n_columns() {
            let column = self.encode_column(i, model, &mut |n_encoded| {
                let flow = progress(n_before + n_encoded);
                is_broken_off = flow.is_break();
                flow
            });
            if is_broken_off {
                return Ok(None);
            }
            let column = column?;
            n_before += column.size()[0] as usize;
            embeddings.push(column);
        }
        Ok(Some(embeddings))
    }

    fn n_columns(&self) -> usize {
        match &self.material {
            Material::Data(data) => data.tokens.columns.len(),
            Material::Tables { columns, .. } => columns.len(),
        }
    }

    fn encode_column(
        &self,
        i: usize,
        model: &SentenceTransformer,
        on_progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Tensor, ModelError> {
        let data = match &self.material {
            Material::Data(data) => data,
            Material::Tables { columns, .. } => {
                let TextsOfTables { texts, encoding } = &columns[i];
                let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                return model.encode(&texts, encoding, on_progress);
            }
        };
        let tokens = &data.tokens.columns[i];
        let options = self.options_of_column(i, model);
        // Prompts of training are not the evaluator's.
        let is_prompted = !tokens.prompt.text.is_empty();
        if is_prompted || needs_prompt(&options, model) {
            let texts: Vec<&str> = data.dataset.columns[i].texts.iter().collect();
            model.encode(&texts, &options, on_progress)
        } else {
            let n_rows = data.dataset.n_rows();
            let sentences: Vec<&[u32]> = (0..n_rows).map(|row| tokens.get(row)).collect();
            model.encode_ids(&sentences, &options, on_progress)
        }
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
            None => Err(TrainError::Dataset {
                dataset: self.name().to_owned(),
                problem: "it has no evaluator".to_owned(),
            }),
        }
    }

    fn inputs<'a>(&'a self, embeddings: &'a ColumnEmbeddings) -> Inputs<'a> {
        Inputs {
            embeddings,
            labels: self.labels.as_ref(),
            text_ids: &self.text_ids,
        }
    }

    /// The evaluator's CSV files; none without an evaluator.
    pub fn csv(&self) -> Vec<CsvTable> {
        let evaluator = self.evaluator.as_ref();
        evaluator.map_or(Vec::new(), |(_, evaluator)| evaluator.all_csv())
    }

    /// Appends the metrics to the evaluator's CSV files in `folder`.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn append_csv(&self, folder: &Path, metrics: &Metrics, at: At) -> Result<(), TrainError> {
        for table in self.csv() {
            table.append(folder, at, metrics)?;
        }
        Ok(())
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

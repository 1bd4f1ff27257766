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

use crate::{error::TrainError, training_data::TrainingData};

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

/// Sentences to be encoded, as token ids where they are known.
enum Sentences<'a> {
    Ids(Vec<&'a [u32]>),
    Texts(Vec<&'a str>),
}

impl<'a> Sentences<'a> {
    fn len(&self) -> usize {
        match self {
            Self::Ids(ids) => ids.len(),
            Self::Texts(texts) => texts.len(),
        }
    }

    /// Whether both are ids, or both texts.
    fn are_like(&self, other: &Self) -> bool {
        matches!(self, Self::Ids(_)) == matches!(other, Self::Ids(_))
    }

    /// Appends sentences that are like these.
    fn append(&mut self, other: Self) {
        match (self, other) {
            (Self::Ids(ids), Self::Ids(more)) => ids.extend(more),
            (Self::Texts(texts), Self::Texts(more)) => texts.extend(more),
            _ => unreachable!("sentences that are not alike"),
        }
    }
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

    /// Encodes all columns; `None` when `progress`, told the number of sentences done, breaks off. Columns that are encoded
    /// alike are one set of sentences, so that a text which is in several of them is computed once.
    ///
    /// # Errors
    /// The model's.
    pub fn encode(
        &self,
        model: &SentenceTransformer,
        progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Option<ColumnEmbeddings>, TrainError> {
        let mut sets: Vec<(Sentences, EncodeOptions, Vec<i64>)> = Vec::new();
        let mut places = Vec::new();
        for i in 0..self.n_columns() {
            let (sentences, options) = self.sentences(i, model)?;
            let n = sentences.len() as i64;
            let set = sets
                .iter()
                .position(|(of_set, with, _)| of_set.are_like(&sentences) && *with == options);
            match set {
                Some(set) => {
                    let (of_set, _, lengths) = &mut sets[set];
                    of_set.append(sentences);
                    places.push((set, lengths.len()));
                    lengths.push(n);
                }
                None => {
                    places.push((sets.len(), 0));
                    sets.push((sentences, options, vec![n]));
                }
            }
        }
        let (mut is_broken_off, mut n_before) = (false, 0);
        let mut columns = Vec::with_capacity(sets.len());
        for (sentences, options, lengths) in sets {
            let mut on_progress = |n_encoded| {
                let flow = progress(n_before + n_encoded);
                is_broken_off = flow.is_break();
                flow
            };
            let embeddings = match &sentences {
                Sentences::Ids(ids) => model.encode_ids(ids, &options, &mut on_progress),
                Sentences::Texts(texts) => model.encode(texts, &options, &mut on_progress),
            };
            if is_broken_off {
                return Ok(None);
            }
            n_before += sentences.len();
            columns.push(embeddings?.f_split_with_sizes(&lengths, 0)?);
        }
        let embeddings = places
            .iter()
            .map(|&(set, place)| columns[set][place].shallow_clone());
        Ok(Some(embeddings.collect()))
    }

    fn n_columns(&self) -> usize {
        match &self.material {
            Material::Data(data) => data.tokens.columns.len(),
            Material::Tables { columns, .. } => columns.len(),
        }
    }

    /// The sentences of a column, and the options that they are encoded with, in which the prompt is spelt out.
    fn sentences(
        &self,
        i: usize,
        model: &SentenceTransformer,
    ) -> Result<(Sentences<'_>, EncodeOptions), ModelError> {
        let spelt_out = |options: &EncodeOptions| {
            Ok::<_, ModelError>(EncodeOptions {
                prompt: Some(model.prompt(options)?.to_owned()),
                prompt_name: None,
                role: None,
                ..options.clone()
            })
        };
        let data = match &self.material {
            Material::Data(data) => data,
            Material::Tables { columns, .. } => {
                let TextsOfTables { texts, encoding } = &columns[i];
                let texts = texts.iter().map(String::as_str).collect();
                return Ok((Sentences::Texts(texts), spelt_out(encoding)?));
            }
        };
        let tokens = &data.tokens.columns[i];
        let options = spelt_out(&self.options_of_column(i, model))?;
        // Prompts of training are not the evaluator's.
        let is_prompted = !tokens.prompt.text.is_empty();
        let needs_prompt = options.prompt.as_ref().is_some_and(|it| !it.is_empty());
        let sentences = if is_prompted || needs_prompt {
            Sentences::Texts(data.dataset.columns[i].texts.iter().collect())
        } else {
            let rows = 0..data.dataset.n_rows();
            Sentences::Ids(rows.map(|row| tokens.get(row)).collect())
        };
        Ok((sentences, options))
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

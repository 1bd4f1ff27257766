//! The data sets of a run and their losses.

use data::{Dataset, Labels, Prompt, TokenizedDataset, sampler::Rows};
use losses::{LabelKind, Loss, OwnRows, StepInputs};
use model::{ChunkLimit, ChunkedBatch, SentenceTransformer};
use tch::{Device, Tensor};

use crate::{
    error::TrainError, evaluation::Evaluation, sampling::Sampler, training_data::TrainingData,
};

/// A loss, with its guide.
#[derive(Debug, Clone, Copy)]
pub struct Objective<'a> {
    /// The prefix of the names of the loss's own weights, where a run has several losses.
    pub name: Option<&'a str>,
    /// The loss.
    pub loss: &'a dyn Loss,
    /// The model that [`losses::Requirements::guide`] asks for. It is not trained.
    pub guide: Option<&'a SentenceTransformer>,
}

/// The data sets of a run. Each has the place of its loss among the objectives; two with the same loss share
/// the weights that it may own.
#[derive(Debug)]
pub struct Tasks<'a> {
    /// The losses.
    pub objectives: Vec<Objective<'a>>,
    /// The data sets to train on; with more than one set, batches are mixed as
    /// [`crate::TrainingArguments::multi_dataset_batch_sampler`] says.
    pub training: Vec<(&'a TrainingData, usize)>,
    /// The data sets to evaluate on during training, in this order.
    pub evaluations: Vec<(&'a Evaluation, usize)>,
}

impl<'a> Tasks<'a> {
    /// The data sets to train on, each with its loss.
    ///
    /// # Errors
    /// When a loss lacks its guide, or loss or sampler don't fit the data.
    pub(crate) fn training(&self, sampler: &Sampler) -> Result<Vec<Task<'a>>, TrainError> {
        let tasks = self.training.iter().map(|&(data, place)| {
            let task = Task::new(data, place, &self.objectives)?;
            task.check()?;
            sampler.check(data)?;
            Ok(task)
        });
        tasks.collect()
    }

    /// The data sets to evaluate on, each with its loss where that can be computed on it.
    ///
    /// # Errors
    /// When there is neither a loss nor an evaluator for a data set.
    pub(crate) fn evaluations(
        &self,
        sampler: &Sampler,
    ) -> Result<Vec<EvaluationTask<'a>>, TrainError> {
        let tasks = self.evaluations.iter().map(|&(evaluation, place)| {
            let Some(data) = evaluation.data() else {
                return Ok(EvaluationTask {
                    evaluation,
                    of_loss: None,
                });
            };
            let task = Task::new(data, place, &self.objectives)?;
            let has_loss = task.fits() && sampler.check(task.data).is_ok();
            if !has_loss && !evaluation.has_evaluator() {
                task.check()?;
            }
            Ok(EvaluationTask {
                evaluation,
                of_loss: has_loss.then_some(task),
            })
        });
        tasks.collect()
    }
}

/// Evaluation data.
#[derive(Debug)]
pub(crate) struct EvaluationTask<'a> {
    pub(crate) evaluation: &'a Evaluation,
    /// Its data with the loss, where the loss can be computed on it.
    pub(crate) of_loss: Option<Task<'a>>,
}

impl EvaluationTask<'_> {
    /// The prefix of the evaluation's own numbers in the log, of `n` evaluations.
    pub(crate) fn prefix(&self, n: usize) -> String {
        if n == 1 {
            "eval".to_owned()
        } else {
            format!("eval_{}", self.evaluation.name())
        }
    }
}

/// A data set with its loss and everything that the loss takes beside the model's embeddings.
#[derive(Debug)]
pub(crate) struct Task<'a> {
    pub(crate) data: &'a TrainingData,
    pub(crate) objective: Objective<'a>,
    /// The place of the objective in [`Tasks::objectives`].
    pub(crate) place: usize,
    /// The texts as the guide's tokenizer has them.
    guide_tokens: Option<TokenizedDataset>,
}

impl<'a> Task<'a> {
    /// Tokenises for the guide.
    fn new(
        data: &'a TrainingData,
        place: usize,
        objectives: &[Objective<'a>],
    ) -> Result<Self, TrainError> {
        let Some(&objective) = objectives.get(place) else {
            return Err(TrainError::Arguments(format!(
                "there is no loss {place}: the run has {}",
                objectives.len()
            )));
        };
        if objective.loss.requirements().guide && objective.guide.is_none() {
            return Err(TrainError::Arguments(format!(
                "{} needs a guide model: add guide=MODEL to the parameters of --loss",
                objective.loss.name()
            )));
        }
        if objective.guide.is_some() && data.store.is_some() {
            return Err(TrainError::Arguments(format!(
                "{} needs all texts in memory for its guide model: give --data-in-memory always",
                objective.loss.name()
            )));
        }
        let guide_tokens = objective
            .guide
            .map(|guide| {
                let tokenizer = guide.tokenizer();
                // The guide gets the same texts. Upstream makes them of the model's ids where the tokenizers
                // differ, and the guide is not told then which of its tokens are the prompt's.
                let columns = data.tokens.columns.iter();
                let prompts: Vec<Prompt> = columns.map(|column| column.prompt.clone()).collect();
                let of = |dataset: &Dataset| {
                    let texts = dataset.prompted_texts(&prompts);
                    texts.tokenize(|texts| tokenizer.encode_batch(texts))
                };
                match data.tokens.rows_with_ids() {
                    None => of(&data.dataset),
                    Some(rows) => {
                        let (n_rows, labels) = (data.dataset.n_rows(), data.tokens.labels.clone());
                        Ok(of(&data.dataset.select(&rows))?.spread(&rows, n_rows, labels))
                    }
                }
            })
            .transpose()?;
        Ok(Self {
            data,
            objective,
            place,
            guide_tokens,
        })
    }

    /// The sentences of these rows, column after column, in parts of at most `limit`.
    pub(crate) fn chunks<'s>(
        &self,
        rows: &[u32],
        limit: ChunkLimit,
        device: Device,
    ) -> Result<ChunkedBatch<'s>, TrainError> {
        match &self.data.store {
            None => chunks(&self.data.tokens, rows, limit, device),
            Some(store) => {
                let all: Vec<u32> = (0..rows.len() as u32).collect();
                chunks(&store.read(rows)?, &all, limit, device)
            }
        }
    }

    /// The inputs of the loss, from the embeddings of the last layer and of `layers`, each `[n_columns * n_rows,
    /// dimension]`, column after column. A guide embeds its own in parts of at most `limit`.
    pub(crate) fn loss_inputs(
        &self,
        rows: &[u32],
        layers: &[usize],
        embeddings: &[Tensor],
        limit: ChunkLimit,
    ) -> Result<LossInputs, TrainError> {
        let n_rows = rows.len() as i64;
        let device = embeddings[0].device();
        let mut columns = embeddings[0].f_split(n_rows, 0)?;
        let n_columns = columns.len();
        if let (Some(guide), Some(tokens)) = (self.objective.guide, &self.guide_tokens) {
            let guided = guide.embed_chunks(&chunks(tokens, rows, limit, device)?)?;
            columns.extend(guided.f_split(n_rows, 0)?);
        }
        let mut prior = Vec::with_capacity(layers.len());
        for (&layer, embeddings) in layers.iter().zip(&embeddings[1..]) {
            prior.push((layer, embeddings.f_split(n_rows, 0)?));
        }
        let labels = self.labels(rows)?;
        let labels = labels.map(|labels| labels.f_to_device(device));
        Ok(LossInputs {
            columns,
            n_columns,
            prior,
            labels: labels.transpose()?,
            own: None,
        })
    }

    /// The labels of these rows, [n_rows] or [n_rows, numbers...], in their own kind.
    fn labels(&self, rows: &[u32]) -> Result<Option<Tensor>, TrainError> {
        let labels = match (&self.data.tokens.labels, &self.data.store) {
            (None, _) => None,
            (Some(labels), None) => Some(labels.select(rows)),
            (Some(_), Some(store)) => store.read(rows)?.labels,
        };
        Ok(match labels {
            None => None,
            Some(Labels::Integer(values)) => Some(Tensor::f_from_slice(&values)?),
            Some(Labels::Float(values)) => Some(Tensor::f_from_slice(&values)?),
            Some(Labels::Vector { values, shape }) => {
                let mut of_batch = vec![rows.len() as i64];
                of_batch.extend(shape.iter().map(|&length| length as i64));
                Some(Tensor::f_from_slice(&values)?.f_view(of_batch.as_slice())?)
            }
        })
    }

    /// Looks whether the loss can be computed on this data set.
    fn check(&self) -> Result<(), TrainError> {
        let n_columns = self.data.dataset.columns.len();
        let labels = label_kind(self.data.tokens.labels.as_ref());
        Ok(self.objective.loss.check(n_columns, labels)?)
    }

    /// Like [`Self::check`], but there may be labels that the loss doesn't look at.
    fn fits(&self) -> bool {
        let (loss, n_columns) = (self.objective.loss, self.data.dataset.columns.len());
        self.check().is_ok() || loss.check(n_columns, LabelKind::None).is_ok()
    }
}

/// Looks whether several ranks can train on these data sets. Each may be at another one in a step, and where a loss
/// gathers the texts of all ranks, they have to be of one kind.
///
/// # Errors
/// When a loss gathers and not all data sets have a loss that does, and as many columns.
pub(crate) fn check_ranks(tasks: &[Task<'_>]) -> Result<(), TrainError> {
    let kind = |task: &Task<'_>| {
        let loss = task.objective.loss;
        let n_columns = task.data.dataset.columns.len();
        let has_layers = !loss.prior_layers(1, 0).is_empty();
        (
            loss.gathers_across_devices(),
            n_columns,
            loss.requirements().guide,
            has_layers,
        )
    };
    let is_mixed = tasks.iter().any(|task| kind(task) != kind(&tasks[0]));
    if is_mixed && tasks.iter().any(|task| kind(task).0) {
        return Err(TrainError::Dataset {
            dataset: names(tasks),
            problem: "gather_across_devices takes data sets with as many columns each, and losses that all gather: ranks may be at different data sets in a step".to_owned(),
        });
    }
    Ok(())
}

/// The rows of the data sets of tasks.
pub(crate) fn rows<'t>(tasks: &'t [Task<'_>]) -> Vec<Rows<'t>> {
    tasks.iter().map(|task| task.data.rows()).collect()
}

/// The names of the data sets of tasks.
pub(crate) fn names(tasks: &[Task<'_>]) -> String {
    let names = tasks.iter().map(|task| task.data.dataset.name.as_str());
    names.collect::<Vec<_>>().join(", ")
}

/// The sentences of these rows, column after column, in parts of at most `limit`.
fn chunks<'s>(
    tokens: &TokenizedDataset,
    rows: &[u32],
    limit: ChunkLimit,
    device: Device,
) -> Result<ChunkedBatch<'s>, TrainError> {
    let columns = || tokens.columns.iter();
    let ids: Vec<&[u32]> = columns()
        .flat_map(|column| rows.iter().map(|&row| column.get(row as usize)))
        .collect();
    if let Some(place) = ids.iter().position(|ids| ids.is_empty()) {
        return Err(TrainError::Arguments(format!(
            "row {} was not tokenised, since --max-steps was to end before it",
            rows[place % rows.len()] + 1
        )));
    }
    // Empty where there are no prompts.
    let mut prompt_lengths: Vec<usize> = Vec::new();
    if columns().any(|column| column.prompt.n_tokens > 0) {
        let lengths = columns().map(|column| column.prompt.n_tokens);
        prompt_lengths.extend(lengths.flat_map(|length| rows.iter().map(move |_| length)));
    }
    let chunks = ChunkedBatch::with_prompts(&ids, &prompt_lengths, limit, device);
    Ok(chunks?)
}

/// The tensors of [`StepInputs`].
#[derive(Debug)]
pub(crate) struct LossInputs {
    /// The model's columns, then the guide's.
    pub(crate) columns: Vec<Tensor>,
    /// The number of the model's columns.
    pub(crate) n_columns: usize,
    pub(crate) prior: Vec<(usize, Vec<Tensor>)>,
    pub(crate) labels: Option<Tensor>,
    /// The rows of this rank, where the columns hold those of all.
    pub(crate) own: Option<OwnRows>,
}

impl LossInputs {
    pub(crate) fn step(&self, seed: u64) -> StepInputs<'_> {
        StepInputs {
            embeddings: &self.columns,
            prior: &self.prior,
            labels: self.labels.as_ref(),
            own: self.own,
            seed,
        }
    }
}

fn label_kind(labels: Option<&Labels>) -> LabelKind {
    match labels {
        None => LabelKind::None,
        Some(Labels::Integer(_)) => LabelKind::Integer,
        Some(Labels::Float(_)) => LabelKind::Float,
        Some(Labels::Vector { .. }) => LabelKind::FloatVector,
    }
}

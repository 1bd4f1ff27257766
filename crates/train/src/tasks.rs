//! The data sets of a run and their losses.

use data::{Labels, Prompt, TokenizedDataset};
use losses::{LabelKind, Loss};
use model::SentenceTransformer;
use tch::Tensor;

use crate::{error::TrainError, evaluation::Evaluation, tokenizing::TrainingData};

/// A loss, with what it needs besides embeddings and labels.
#[derive(Debug, Clone, Copy)]
pub struct Objective<'a> {
    /// What the names of the loss's own weights begin with, where a run has several losses.
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
    /// What is trained on; with more than one set, batches are mixed as
    /// [`crate::TrainingArguments::multi_dataset_batch_sampler`] says.
    pub training: Vec<(&'a TrainingData, usize)>,
    /// What is evaluated during training, in this order.
    pub evaluations: Vec<(&'a Evaluation, usize)>,
}

/// One of the data sets, with what its loss takes beside the model's embeddings.
#[derive(Debug)]
pub(crate) struct Task<'a> {
    pub(crate) data: &'a TrainingData,
    pub(crate) objective: usize,
    /// The texts as the guide's tokenizer has them.
    guide_tokens: Option<TokenizedDataset>,
}

impl<'a> Task<'a> {
    /// Tokenises for the guide.
    pub(crate) fn new(
        data: &'a TrainingData,
        objective: usize,
        guide: Option<&SentenceTransformer>,
    ) -> Result<Self, TrainError> {
        let guide_tokens = guide
            .map(|guide| {
                let tokenizer = guide.tokenizer();
                // The guide gets the same texts. Upstream makes them of the model's ids where the tokenizers
                // differ, and the guide is not told then which of its tokens are the prompt's.
                let columns = data.tokens.columns.iter();
                let prompts: Vec<Prompt> = columns.map(|column| column.prompt.clone()).collect();
                let texts = data.dataset.prompted_texts(&prompts);
                texts.tokenize(|texts| tokenizer.encode_batch(texts))
            })
            .transpose()?;
        Ok(Self {
            data,
            objective,
            guide_tokens,
        })
    }

    /// The sentences of these rows, column after column.
    pub(crate) fn sentences(&self, rows: &[u32]) -> Sentences<'_> {
        Sentences::new(&self.data.tokens, rows)
    }

    /// The sentences of these rows as the guide takes them, where there is one.
    pub(crate) fn guide_sentences(&self, rows: &[u32]) -> Option<Sentences<'_>> {
        let tokens = self.guide_tokens.as_ref();
        tokens.map(|tokens| Sentences::new(tokens, rows))
    }

    /// The labels of these rows, [n_rows] or [n_rows, numbers...], in their own kind.
    pub(crate) fn labels(&self, rows: &[u32]) -> Result<Option<Tensor>, TrainError> {
        let labels = self.data.tokens.labels.as_ref();
        Ok(match labels.map(|labels| labels.select(rows)) {
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

    /// Whether the loss can be computed on this data set.
    pub(crate) fn check(&self, loss: &dyn Loss) -> Result<(), TrainError> {
        let dataset = &self.data.dataset;
        Ok(loss.check(
            dataset.columns.len(),
            label_kind(self.data.tokens.labels.as_ref()),
        )?)
    }

    /// As [`Self::check`], but labels that the loss doesn't look at may be there.
    pub(crate) fn fits(&self, loss: &dyn Loss) -> bool {
        let n_columns = self.data.dataset.columns.len();
        self.check(loss).is_ok() || loss.check(n_columns, LabelKind::None).is_ok()
    }
}

/// The sentences of a batch, column after column.
#[derive(Debug)]
pub(crate) struct Sentences<'d> {
    /// Each one's token ids, its prompt's included.
    pub(crate) ids: Vec<&'d [u32]>,
    /// How many at the start of each are the prompt's; empty where there are no prompts.
    pub(crate) prompt_lengths: Vec<usize>,
}

impl<'d> Sentences<'d> {
    fn new(tokens: &'d TokenizedDataset, rows: &[u32]) -> Self {
        let columns = || tokens.columns.iter();
        let ids = columns()
            .flat_map(|column| rows.iter().map(|&row| column.get(row as usize)))
            .collect();
        let prompt_lengths = if columns().any(|column| column.prompt.n_tokens > 0) {
            let lengths = columns().map(|column| column.prompt.n_tokens);
            lengths
                .flat_map(|length| rows.iter().map(move |_| length))
                .collect()
        } else {
            Vec::new()
        };
        Self {
            ids,
            prompt_lengths,
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

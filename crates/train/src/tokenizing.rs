//! Texts to token ids.

use std::ops::ControlFlow;

use data::{
    DataError, Dataset, Prompt, TokenCache, TokenKey, TokenLimits, TokenizedDataset, Written,
};
use model::{ModelError, Tokenizer};

use crate::{arguments::TrainingArguments, error::TrainError, sampling::Sampler};

/// A data set with its token ids.
#[derive(Debug)]
pub struct TrainingData {
    /// The texts, which decide what a duplicate is.
    pub dataset: Dataset,
    /// The same rows as token ids.
    pub tokens: TokenizedDataset,
}

/// The progress of tokenising.
#[derive(Debug)]
#[non_exhaustive]
pub enum Tokenizing<'e> {
    /// The work goes on.
    Texts {
        /// Different texts that are tokenised.
        n_done: usize,
        /// All different texts.
        n_texts: usize,
    },
    /// The ids could not be written to the cache, so that the next run tokenises again.
    NotCached(&'e DataError),
    /// The ids are in the cache, or too many for it.
    Written(Written),
}

/// Turns all texts of a data set into ids. `progress` may break the work off.
///
/// # Errors
/// The tokenizer's, and [`ModelError::Stopped`] when `progress` breaks off.
pub fn tokenize(
    dataset: Dataset,
    tokenizer: &Tokenizer,
    progress: &mut dyn FnMut(Tokenizing<'_>) -> ControlFlow<()>,
) -> Result<TrainingData, TrainError> {
    tokenize_prompted(dataset, Vec::new(), None, tokenizer, None, progress)
}

/// The rows of each data set that the steps of a run of `n_ranks` need, ascending, where [`TrainingArguments::max_steps`] ends it within
/// the first epoch. `None` where it goes further: nearly all rows are needed then.
pub fn rows_of_steps(
    arguments: &TrainingArguments,
    datasets: &[&Dataset],
    n_ranks: usize,
) -> Option<Vec<Vec<u32>>> {
    let n_steps = usize::try_from(arguments.max_steps)
        .ok()
        .filter(|n| *n > 0)?;
    let n_batches = n_steps
        .checked_mul(arguments.gradient_accumulation_steps)?
        .checked_mul(n_ranks)?;
    let sampler = Sampler::training(arguments, n_ranks);
    if n_batches >= sampler.n_batches(datasets) {
        return None;
    }
    let mut rows = vec![Vec::new(); datasets.len()];
    for batch in sampler.batches(datasets, 0).into_iter().take(n_batches) {
        rows[batch.dataset].extend(batch.rows);
    }
    for rows in &mut rows {
        rows.sort_unstable();
        rows.dedup();
    }
    Some(rows)
}

/// Turns the texts of a data set into ids, each after its column's prompt: one a column, or none at all. Where the
/// cache holds the ids they are taken from there, else they are put there. Where it does not and `rows` are given, which
/// ascend, only their texts become ids, and nothing is put there: see [`TokenizedDataset::spread`].
///
/// # Errors
/// The tokenizer's, and [`ModelError::Stopped`] when `progress` breaks off.
///
/// # Panics
/// If there are prompts and not as many as columns.
pub fn tokenize_prompted(
    dataset: Dataset,
    prompts: Vec<String>,
    rows: Option<&[u32]>,
    tokenizer: &Tokenizer,
    cache: Option<&TokenCache>,
    progress: &mut dyn FnMut(Tokenizing<'_>) -> ControlFlow<()>,
) -> Result<TrainingData, TrainError> {
    let prompts = prompts.into_iter().map(|text| {
        let n_tokens = tokenizer.prompt_length(&text)?;
        Ok(Prompt { text, n_tokens })
    });
    let prompts = prompts.collect::<Result<Vec<_>, TrainError>>()?;
    let cache = match cache {
        Some(cache) => {
            let key = TokenKey::new(&dataset, tokenizer.identity()?.as_bytes());
            Some((cache, key.with_prompts(&prompts)))
        }
        None => None,
    };
    let limits = TokenLimits {
        vocab_size: tokenizer.id_limit(),
        max_length: tokenizer.max_length(),
    };
    let known = cache.and_then(|(cache, key)| cache.read(&key, &dataset, limits));
    if let Some(tokens) = known {
        let tokens = tokens.with_prompts(&prompts);
        return Ok(TrainingData { dataset, tokens });
    }
    if let Some(rows) = rows {
        let needed = dataset.select(rows);
        let tokens = token_ids(&needed, &prompts, tokenizer, progress)?;
        let tokens = tokens.spread(rows, dataset.n_rows(), dataset.labels.clone());
        return Ok(TrainingData { dataset, tokens });
    }
    let tokens = token_ids(&dataset, &prompts, tokenizer, progress)?;
    if let Some((cache, key)) = cache {
        let told = match &cache.write(&key, &tokens) {
            Ok(written) => progress(Tokenizing::Written(*written)),
            Err(error) => progress(Tokenizing::NotCached(error)),
        };
        if told.is_break() {
            return Err(ModelError::Stopped.into());
        }
    }
    Ok(TrainingData { dataset, tokens })
}

/// The ids of all texts of a data set, each after its column's prompt: one a column, or none at all.
///
/// # Errors
/// The tokenizer's, and [`ModelError::Stopped`] when `progress` breaks off.
///
/// # Panics
/// If there are prompts and not as many as columns.
pub fn token_ids(
    dataset: &Dataset,
    prompts: &[Prompt],
    tokenizer: &Tokenizer,
    progress: &mut dyn FnMut(Tokenizing<'_>) -> ControlFlow<()>,
) -> Result<TokenizedDataset, TrainError> {
    let texts = dataset.prompted_texts(prompts);
    let (mut n_done, n_texts) = (0, texts.len());
    texts.tokenize(|texts| {
        if progress(Tokenizing::Texts { n_done, n_texts }).is_break() {
            return Err(ModelError::Stopped.into());
        }
        n_done += texts.len();
        Ok(tokenizer.encode_batch(texts)?)
    })
}

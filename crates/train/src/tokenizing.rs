//! Texts to token ids.

use std::{ops::ControlFlow, path::PathBuf, sync::Arc};

use data::{
    DataError, Dataset, LoadOptions, Prompt, StoreWriter, TokenCache, TokenKey, TokenLimits,
    TokenStore, TokenizedDataset, Written,
};
use model::{ModelError, Tokenizer};

use crate::{
    arguments::TrainingArguments, error::TrainError, sampling::Sampler, training_data::TrainingData,
};

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
    /// The work on a store goes on.
    Rows {
        /// Rows that are in it.
        n_done: usize,
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
    for batch in sampler.batches(datasets, 0).take(n_batches) {
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
    let prompts = with_lengths(prompts, tokenizer)?;
    let cache = match cache {
        Some(cache) => {
            let key = TokenKey::new(&dataset, tokenizer.identity()?.as_bytes());
            Some((cache, key.with_prompts(&prompts)))
        }
        None => None,
    };
    let limits = limits(tokenizer);
    let known = cache.and_then(|(cache, key)| cache.read(&key, &dataset, limits));
    if let Some(tokens) = known {
        let tokens = tokens.with_prompts(&prompts);
        return Ok(TrainingData::in_memory(dataset, tokens));
    }
    if let Some(rows) = rows {
        let needed = dataset.select(rows);
        let tokens = token_ids(&needed, &prompts, tokenizer, progress)?;
        let tokens = tokens.spread(rows, dataset.n_rows(), dataset.labels.clone());
        return Ok(TrainingData::in_memory(dataset, tokens));
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
    Ok(TrainingData::in_memory(dataset, tokens))
}

/// Turns the rows of files into ids as [`tokenize_prompted`] does, in a store of the cache, of which neither texts nor ids
/// are in memory. Where the store of an earlier run holds them, the files are not read. `head` has the first rows, and
/// `has_hashes` lets batches without duplicates be drawn.
///
/// # Errors
/// Those of reading the files and of the tokenizer, [`ModelError::Stopped`] when `progress` breaks off, and where the store
/// can't be written or takes more than the cache may.
///
/// # Panics
/// If there are prompts and not as many as columns.
pub fn tokenize_to_store(
    (paths, options): (&[PathBuf], &LoadOptions),
    head: Dataset,
    prompts: Vec<String>,
    has_hashes: bool,
    tokenizer: &Tokenizer,
    cache: &TokenCache,
    progress: &mut dyn FnMut(Tokenizing<'_>) -> ControlFlow<()>,
) -> Result<TrainingData, TrainError> {
    let prompts = with_lengths(prompts, tokenizer)?;
    let limits = limits(tokenizer);
    let identity = tokenizer.identity()?;
    let key = TokenKey::of_files(paths, options, identity.as_bytes(), cache)?;
    let key = key.with_prompts(&prompts);
    let store = match TokenStore::open(cache, &key, has_hashes, limits, &prompts) {
        Some(store) => store,
        None => {
            let mut writer = StoreWriter::new(cache, key, has_hashes, limits, &prompts)?;
            let mut failed = None;
            let mut take = |chunk: Dataset| {
                let n_done = writer.n_rows();
                let mut told = |_: Tokenizing<'_>| progress(Tokenizing::Rows { n_done });
                let written = check_columns(&head, &chunk)
                    .and_then(|()| token_ids(&chunk, &prompts, tokenizer, &mut told))
                    .and_then(|tokens| Ok(writer.append(&chunk, &tokens)?));
                match written {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(error) => {
                        failed = Some(error);
                        ControlFlow::Break(())
                    }
                }
            };
            let streamed = data::stream(paths, options, &mut take);
            let n_skipped = match (streamed, failed) {
                (_, Some(failed)) => return Err(failed),
                (streamed, None) => streamed?,
            };
            let (store, n_removed) = writer.finish(n_skipped)?;
            if progress(Tokenizing::Written(Written::Kept { n_removed })).is_break() {
                return Err(ModelError::Stopped.into());
            }
            store
        }
    };
    let first: Vec<u32> = (0..head.n_rows().min(store.n_rows()) as u32).collect();
    let tokens = store.read(&first)?;
    let dataset = Dataset {
        labels: tokens.labels.clone(),
        n_skipped: store.n_skipped(),
        ..head
    };
    Ok(TrainingData {
        dataset,
        tokens,
        store: Some(Arc::new(store)),
    })
}

/// Refuses columns that the first rows don't have.
fn check_columns(head: &Dataset, rows: &Dataset) -> Result<(), TrainError> {
    let (first, columns) = (head.column_names(), rows.column_names());
    if first == columns {
        return Ok(());
    }
    Err(TrainError::Dataset {
        dataset: head.name.clone(),
        problem: format!(
            "its columns are {}, but those of the first rows {}: name the columns to use with --columns",
            columns.join(", "),
            first.join(", ")
        ),
    })
}

fn limits(tokenizer: &Tokenizer) -> TokenLimits {
    TokenLimits {
        vocab_size: tokenizer.id_limit(),
        max_length: tokenizer.max_length(),
    }
}

fn with_lengths(prompts: Vec<String>, tokenizer: &Tokenizer) -> Result<Vec<Prompt>, TrainError> {
    let prompts = prompts.into_iter().map(|text| {
        let n_tokens = tokenizer.prompt_length(&text)?;
        Ok(Prompt { text, n_tokens })
    });
    prompts.collect()
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

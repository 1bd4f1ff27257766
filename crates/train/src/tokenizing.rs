//! Texts to token ids.

use std::ops::ControlFlow;

use data::{DataError, Dataset, Prompt, TokenCache, TokenKey, TokenLimits, TokenizedDataset};
use model::{ModelError, Tokenizer};

use crate::error::TrainError;

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
    tokenize_prompted(dataset, Vec::new(), tokenizer, None, progress)
}

/// Turns all texts of a data set into ids, each after its column's prompt: one a column, or none at all. Where the
/// cache holds the ids they are taken from there, else they are put there.
///
/// # Errors
/// The tokenizer's, and [`ModelError::Stopped`] when `progress` breaks off.
///
/// # Panics
/// If there are prompts and not as many as columns.
pub fn tokenize_prompted(
    dataset: Dataset,
    prompts: Vec<String>,
    tokenizer: &Tokenizer,
    cache: Option<&TokenCache>,
    progress: &mut dyn FnMut(Tokenizing<'_>) -> ControlFlow<()>,
) -> Result<TrainingData, TrainError> {
    let prompts = prompts.into_iter().map(|text| {
        let n_tokens = tokenizer.prompt_length(&text)?;
        Ok(Prompt { text, n_tokens })
    });
    let prompts = prompts.collect::<Result<Vec<_>, TrainError>>()?;
    let Some(cache) = cache else {
        let tokens = token_ids(&dataset, &prompts, tokenizer, progress)?;
        return Ok(TrainingData { dataset, tokens });
    };
    let key = TokenKey::new(&dataset, tokenizer.identity()?.as_bytes()).with_prompts(&prompts);
    let limits = TokenLimits {
        vocab_size: tokenizer.id_limit(),
        max_length: tokenizer.max_length(),
    };
    let tokens = match cache.read(&key, &dataset, limits) {
        Some(tokens) => tokens.with_prompts(&prompts),
        None => {
            let tokens = token_ids(&dataset, &prompts, tokenizer, progress)?;
            if let Err(error) = cache.write(&key, &tokens)
                && progress(Tokenizing::NotCached(&error)).is_break()
            {
                return Err(ModelError::Stopped.into());
            }
            tokens
        }
    };
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

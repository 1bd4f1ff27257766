//! Data sets turned into token ids.

use data::{Dataset, Prompt, TokenCache, TokenKey, TokenLimits, TokenizedDataset};
use model::Tokenizer;
use train::TrainingData;

use crate::{session::Session, table::counted};

/// Turns all texts of a data set into ids.
pub(crate) fn tokenize(
    dataset: Dataset,
    tokenizer: &Tokenizer,
    session: &Session,
) -> anyhow::Result<TrainingData> {
    let tokens = token_ids(&dataset, &[], tokenizer, session)?;
    Ok(tokenized(dataset, tokens))
}

/// Turns all texts of a data set into ids, each after its column's prompt; with a cache it takes them from there,
/// or keeps them there.
pub(crate) fn tokenize_prompted(
    dataset: Dataset,
    prompts: Vec<String>,
    tokenizer: &Tokenizer,
    cache: Option<&TokenCache>,
    session: &Session,
) -> anyhow::Result<TrainingData> {
    let prompts = prompts
        .into_iter()
        .map(|text| {
            let n_tokens = tokenizer.prompt_length(&text)?;
            Ok(Prompt { text, n_tokens })
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let Some(cache) = cache else {
        let tokens = token_ids(&dataset, &prompts, tokenizer, session)?;
        return Ok(tokenized(dataset, tokens));
    };
    let key = TokenKey::new(&dataset, tokenizer.identity()?.as_bytes()).with_prompts(&prompts);
    let limits = TokenLimits {
        vocab_size: tokenizer.id_limit(),
        max_length: tokenizer.max_length(),
    };
    if let Some(tokens) = cache.read(&key, &dataset, limits) {
        return Ok(tokenized(dataset, tokens.with_prompts(&prompts)));
    }
    let tokens = token_ids(&dataset, &prompts, tokenizer, session)?;
    if let Err(error) = cache.write(&key, &tokens) {
        tracing::warn!(
            "the token ids could not be kept for the next run: {error}; SENTUNE_CACHE names another folder, --token-cache=false keeps none"
        );
    }
    Ok(tokenized(dataset, tokens))
}

fn token_ids(
    dataset: &Dataset,
    prompts: &[Prompt],
    tokenizer: &Tokenizer,
    session: &Session,
) -> anyhow::Result<TokenizedDataset> {
    let texts = dataset.prompted_texts(prompts);
    let bar = session.bar("tokenizing", texts.len());
    let tokens = texts.tokenize(|texts| {
        session.check()?;
        let ids = tokenizer.encode_batch(texts)?;
        bar.inc(texts.len() as u64);
        anyhow::Ok(ids)
    })?;
    bar.finish_and_clear();
    Ok(tokens)
}

fn tokenized(dataset: Dataset, tokens: TokenizedDataset) -> TrainingData {
    tracing::info!(
        "data {}: {} of {}, {}",
        dataset.name,
        counted(dataset.n_rows(), "rows"),
        counted(dataset.columns.len(), "texts"),
        counted(tokens.n_tokens().iter().sum(), "tokens"),
    );
    TrainingData { dataset, tokens }
}

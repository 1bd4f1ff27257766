//! Data sets turned into token ids, under a bar.

use std::ops::ControlFlow;

use data::{Dataset, TokenCache};
use model::{ModelError, Tokenizer};
use train::{Tokenizing, TrainError, TrainingData};
use wording::counted;

use crate::session::Session;

/// Turns all texts of a data set into ids.
pub(crate) fn tokenize(
    dataset: Dataset,
    tokenizer: &Tokenizer,
    session: &Session,
) -> anyhow::Result<TrainingData> {
    tokenize_prompted(dataset, Vec::new(), tokenizer, None, session)
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
    let mut bar = None;
    let mut progress = |progress: Tokenizing<'_>| {
        match progress {
            Tokenizing::Texts { n_done, n_texts } => bar
                .get_or_insert_with(|| session.bar("tokenizing", n_texts))
                .set_position(n_done as u64),
            Tokenizing::NotCached(error) => tracing::warn!(
                "the token ids could not be kept for the next run: {error}; SENTUNE_CACHE names another folder, --token-cache=false keeps none"
            ),
            _ => {}
        }
        if session.interrupt.is_set() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    let data = train::tokenize_prompted(dataset, prompts, tokenizer, cache, &mut progress);
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    let data = match data {
        Err(TrainError::Model(ModelError::Stopped)) => return Err(session.interrupt.error()),
        data => data?,
    };
    tracing::info!(
        "data {}: {} of {}, {}",
        data.dataset.name,
        counted(data.dataset.n_rows(), "rows"),
        counted(data.dataset.columns.len(), "texts"),
        counted(data.tokens.n_tokens().iter().sum(), "tokens"),
    );
    Ok(data)
}

//! Data sets turned into token ids, under a bar.

use std::ops::ControlFlow;

use data::{Dataset, TextColumn, TokenCache, Written};
use model::{ModelError, SentenceTransformer, Tokenizer};
use train::{Tokenizing, TrainError, TrainingData};
use wording::counted;

use crate::session::Session;

/// Turns all texts of a data set into ids.
pub(crate) fn tokenize(
    dataset: Dataset,
    tokenizer: &Tokenizer,
    session: &Session,
) -> anyhow::Result<TrainingData> {
    tokenize_prompted(dataset, Vec::new(), None, tokenizer, None, session)
}

/// Turns all texts of a data set into ids without a word: for a part of one that was told of.
pub(crate) fn tokenize_quietly(
    dataset: Dataset,
    tokenizer: &Tokenizer,
    session: &Session,
) -> anyhow::Result<TrainingData> {
    let mut go_on = |_: Tokenizing<'_>| match session.interrupt.is_set() {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    };
    match train::tokenize(dataset, tokenizer, &mut go_on) {
        Err(TrainError::Model(ModelError::Stopped)) => Err(session.interrupt.error()),
        data => Ok(data?),
    }
}

/// The tokens of all texts, column by column, without truncation.
pub(crate) fn token_counts(
    dataset: &Dataset,
    model: &SentenceTransformer,
    session: &Session,
) -> anyhow::Result<Vec<Vec<usize>>> {
    /// Texts handed to the tokenizer at once.
    const N_TEXTS_PER_CHUNK: usize = 4096;
    let tokenizer = model.tokenizer().without_truncation()?;
    let bar = session.bar("tokenizing", dataset.n_rows() * dataset.columns.len());
    let of_column = |column: &TextColumn| {
        let texts: Vec<&str> = column.texts.iter().collect();
        let mut counts = Vec::with_capacity(texts.len());
        for chunk in texts.chunks(N_TEXTS_PER_CHUNK) {
            session.check()?;
            counts.extend(tokenizer.encode_batch(chunk)?.iter().map(Vec::len));
            bar.inc(chunk.len() as u64);
        }
        anyhow::Ok(counts)
    };
    let counts = dataset.columns.iter().map(of_column).collect();
    bar.finish_and_clear();
    counts
}

/// Turns the texts of a data set, or of the rows of it that are needed, into ids, each after its column's prompt; with a
/// cache it takes them from there, or keeps them there.
pub(crate) fn tokenize_prompted(
    dataset: Dataset,
    prompts: Vec<String>,
    rows: Option<&[u32]>,
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
            Tokenizing::Written(Written::TooLarge { n_bytes, max_bytes }) => tracing::info!(
                "the token ids are not kept for the next run: they take {}, and --token-cache-limit is {}",
                gigabytes(n_bytes),
                gigabytes(max_bytes)
            ),
            Tokenizing::Written(Written::Kept { n_removed: 1.. }) => tracing::info!(
                "token ids of earlier runs were removed to keep those of this one within --token-cache-limit"
            ),
            _ => {}
        }
        if session.interrupt.is_set() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    let data = train::tokenize_prompted(dataset, prompts, rows, tokenizer, cache, &mut progress);
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    let data = match data {
        Err(TrainError::Model(ModelError::Stopped)) => return Err(session.interrupt.error()),
        data => data?,
    };
    let of_needed = match data.tokens.rows_with_ids() {
        None => String::new(),
        Some(rows) => format!(
            " of the {} that --max-steps needs, which are not kept for the next run",
            counted(rows.len(), "rows")
        ),
    };
    tracing::info!(
        "data {}: {} of {}, {}{of_needed}",
        data.dataset.name,
        counted(data.dataset.n_rows(), "rows"),
        counted(data.dataset.columns.len(), "texts"),
        counted(data.tokens.n_tokens().iter().sum(), "tokens"),
    );
    Ok(data)
}

fn gigabytes(n_bytes: u64) -> String {
    format!("{:.3} GB", n_bytes as f64 / 1e9)
}

//! Data sets turned into token ids, under a bar.

use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

use data::{Dataset, TextColumn, TokenCache, Written};
use model::{ModelError, SentenceTransformer, Tokenizer};
use train::{Tokenizing, TrainError, TrainingData};
use wording::counted;

use crate::{memory::gigabytes, session::Session, source::Located};

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
    let data = told(session, |progress| {
        train::tokenize_prompted(dataset, prompts, rows, tokenizer, cache, progress)
    })?;
    let of_needed = match data.tokens.rows_with_ids() {
        None => String::new(),
        Some(rows) => format!(
            " of the {} that --max-steps needs, which are not kept for the next run",
            counted(rows.len(), "rows")
        ),
    };
    tell_size(&data, &of_needed);
    Ok(data)
}

/// Turns the rows of files, which begin with those of `head`, into ids on disk.
pub(crate) fn tokenize_to_store(
    files: &Located,
    head: Dataset,
    prompts: Vec<String>,
    has_hashes: bool,
    tokenizer: &Tokenizer,
    cache: &TokenCache,
    session: &Session,
) -> anyhow::Result<TrainingData> {
    let source = (files.files.as_slice(), &files.options);
    let data = told(session, |progress| {
        train::tokenize_to_store(
            source, head, prompts, has_hashes, tokenizer, cache, progress,
        )
    })?;
    tell_size(&data, ", on disk");
    Ok(data)
}

/// Time between two lines about a store that is being written.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// Has `work` tell its progress, by a bar and lines.
fn told(
    session: &Session,
    work: impl FnOnce(
        &mut dyn FnMut(Tokenizing<'_>) -> ControlFlow<()>,
    ) -> Result<TrainingData, TrainError>,
) -> anyhow::Result<TrainingData> {
    let mut bar = None;
    let mut last_line = Instant::now();
    let mut progress = |progress: Tokenizing<'_>| {
        match progress {
            Tokenizing::Texts { n_done, n_texts } => bar
                .get_or_insert_with(|| session.bar("tokenizing", n_texts))
                .set_position(n_done as u64),
            Tokenizing::Rows { n_done } if last_line.elapsed() > HEARTBEAT => {
                last_line = Instant::now();
                tracing::info!("tokenized {} to disk", counted(n_done, "rows"));
            }
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
    let data = work(&mut progress);
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    match data {
        Err(TrainError::Model(ModelError::Stopped)) => Err(session.interrupt.error()),
        data => Ok(data?),
    }
}

/// Tells how many rows and tokens there are.
fn tell_size(data: &TrainingData, more: &str) {
    tracing::info!(
        "data {}: {} of {}, {}{more}",
        data.dataset.name,
        counted(data.n_rows(), "rows"),
        counted(data.dataset.columns.len(), "texts"),
        counted(data.n_tokens(), "tokens"),
    );
}

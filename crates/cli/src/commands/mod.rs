//! What each subcommand does, one file a subcommand.

pub(crate) mod compare;
pub(crate) mod data;
pub(crate) mod encode;
pub(crate) mod eval;
pub(crate) mod init;
pub(crate) mod mine;
pub(crate) mod search;
pub(crate) mod sweep;
mod teacher;
pub(crate) mod train;

use std::path::Path;

use ::data::{Dataset, Prompt, TableFormat, TokenCache, TokenKey, TokenLimits, TokenizedDataset};
use ::search::Similarity;
use model::{Compute, EncodeOptions, ModelError, SentenceTransformer, Task, Tokenizer};
use train_crate::{Evaluation, TrainingData};

use crate::{
    device,
    flags::{
        encode::{EncodingFlags, TwoSidedEncodingFlags},
        eval::EvalDataOptions,
    },
    session::Session,
    source::{self, DataOptions},
    table::{counted, thousands},
    usage::UsageError,
};

use ::train as train_crate;

/// Loads the model that a folder or a name on the hub stands for, to the device that was chosen.
fn load_model(name: &str, session: &Session) -> anyhow::Result<SentenceTransformer> {
    let folder = source::model(name, session)?;
    let model = SentenceTransformer::load(&folder, device::chosen())?;
    tracing::info!(
        "model {name}: {} parameters, {} dimensions, up to {} tokens",
        thousands(model.parameters().numel() as usize),
        model.dimension(),
        model.max_seq_length()
    );
    Ok(model)
}

/// Turns all texts of a data set into ids.
fn tokenize(
    dataset: Dataset,
    tokenizer: &Tokenizer,
    session: &Session,
) -> anyhow::Result<TrainingData> {
    let tokens = token_ids(&dataset, &[], tokenizer, session)?;
    Ok(tokenized(dataset, tokens))
}

/// Turns all texts of a data set into ids, each after its column's prompt; with a cache it takes them from there,
/// or keeps them there.
fn tokenize_prompted(
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

/// The data set that evaluation flags name.
fn load_eval_data(
    source: &str,
    flags: &EvalDataOptions,
    session: &Session,
) -> anyhow::Result<Dataset> {
    let options = DataOptions {
        name: flags.name.clone(),
        columns: flags.columns.clone(),
        max_rows: flags.max_samples,
        on_bad_row: Some(flags.on_bad_row),
    };
    source::dataset(source, flags.split, &options, session)
}

/// Sets the longest input, where a flag asks for one that the model can take.
fn set_max_seq_length(
    model: &mut SentenceTransformer,
    max_seq_length: Option<usize>,
) -> Result<(), UsageError> {
    match max_seq_length {
        None => Ok(()),
        Some(length) => model
            .set_max_seq_length(length)
            .map_err(|error| UsageError(format!("--max-seq-length: {error}"))),
    }
}

/// Sets how matrix products are computed, where the processor can.
fn set_compute(model: &mut SentenceTransformer, compute: Compute) -> Result<(), UsageError> {
    model
        .set_compute(compute)
        .map_err(|error| UsageError(format!("--{error}")))
}

/// What the model is asked for by these flags.
fn encode_options(
    flags: &EncodingFlags,
    model: &mut SentenceTransformer,
) -> Result<EncodeOptions, UsageError> {
    set_max_seq_length(model, flags.max_seq_length)?;
    let compute = Compute {
        gemm: flags.gemm,
        precision: flags.precision,
        ..Compute::default()
    };
    set_compute(model, compute)?;
    Ok(EncodeOptions {
        batch_size: flags.batch_size as usize,
        prompt: flags.prompt.clone(),
        prompt_name: flags.prompt_name.clone(),
        normalize_embeddings: flags.normalize,
        truncate_dim: flags.truncate_dim,
        ..EncodeOptions::default()
    })
}

/// What the model is asked for by the flags of a search, for one side of it.
fn two_sided_options(flags: &TwoSidedEncodingFlags, task: Task) -> EncodeOptions {
    let (prompt, prompt_name) = match task {
        Task::Query => (&flags.query_prompt, &flags.query_prompt_name),
        Task::Document => (&flags.corpus_prompt, &flags.corpus_prompt_name),
    };
    EncodeOptions {
        batch_size: flags.batch_size as usize,
        prompt: prompt.clone(),
        prompt_name: prompt_name.clone(),
        task: Some(task),
        truncate_dim: flags.truncate_dim,
        ..EncodeOptions::default()
    }
}

/// The similarity that a flag asks for, or the model's.
fn similarity_of(
    asked: Option<Similarity>,
    model: &SentenceTransformer,
) -> anyhow::Result<Similarity> {
    match asked {
        Some(similarity) => Ok(similarity),
        None => Ok(model.similarity_fn_name().parse()?),
    }
}

/// Encodes texts under a bar: [texts, dimension], row after row.
fn encode_texts(
    model: &SentenceTransformer,
    texts: &[&str],
    options: &EncodeOptions,
    what: &str,
    session: &Session,
) -> anyhow::Result<Vec<f32>> {
    let bar = session.bar(what, texts.len());
    let embeddings = model.encode(texts, options, &mut session.following(&bar));
    bar.finish_and_clear();
    match embeddings {
        Err(ModelError::Stopped) => Err(session.interrupt.error()),
        embeddings => Ok(Vec::try_from(embeddings?.f_view([-1])?)?),
    }
}

/// The format of a table to write, by its name.
fn table_format(flag: &str, path: &Path) -> Result<TableFormat, UsageError> {
    TableFormat::of(path).ok_or_else(|| {
        UsageError(format!(
            "{flag} {}: the name must end in .parquet, .csv, .tsv or .jsonl",
            path.display()
        ))
    })
}

/// Encodes the data of an evaluation under a bar.
fn encode_evaluation(
    evaluation: &Evaluation,
    model: &SentenceTransformer,
    session: &Session,
) -> anyhow::Result<train_crate::ColumnEmbeddings> {
    let bar = session.bar(evaluation.name(), evaluation.n_sentences());
    let embeddings = evaluation.encode(model, &mut session.following(&bar))?;
    bar.finish_and_clear();
    embeddings.ok_or_else(|| session.interrupt.error())
}

/// A model's name as tables show it: the last part of its path.
fn short_name(model: &str) -> String {
    let name = Path::new(model.trim_end_matches('/')).file_name();
    name.map_or_else(
        || model.to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

//! Models as commands use them: loaded to the chosen device, set up by flags, encoding under a bar.

use std::path::{Path, PathBuf};

use anyhow::Context;
use eval::{Options, entry::Side};
use model::{
    BaseModel, Compute, EncodeOptions, LoadOptions, ModelError, Role, SentenceTransformer,
};
use tch::Device;
use train::{ColumnEmbeddings, Evaluation};
use wording::thousands;

use crate::{
    device,
    flags::encode::{EncodingFlags, TwoSidedEncodingFlags},
    gemm,
    session::Session,
    source,
    usage::UsageError,
};

/// Loads the model that a folder or a name on the hub stands for, to the device that was chosen.
pub(crate) fn load_model(name: &str, session: &Session) -> anyhow::Result<SentenceTransformer> {
    load_model_with(name, LoadOptions::default(), device::chosen(), session)
}

/// As [`load_model`], to a device, and with a choice of what is trained.
pub(crate) fn load_model_with(
    name: &str,
    mut options: LoadOptions,
    device: Device,
    session: &Session,
) -> anyhow::Result<SentenceTransformer> {
    let folder = source::model(name, session)?;
    if let Some(base) = BaseModel::of_folder(&folder)? {
        options.base = Some(base_folder(&base, session).with_context(|| {
            format!("model {name} is an adapter, and its base is not to be had")
        })?);
    }
    if let (Some(lora), true) = (&mut options.lora, folder.join("config.json").is_file()) {
        lora.base =
            source::model_revision(name).map(|(name, revision)| BaseModel { name, revision });
    }
    let model = SentenceTransformer::load_with(&folder, &options, device)?;
    tracing::info!(
        "model {name}: {} parameters, {} dimensions, up to {} tokens",
        thousands(model.parameters().numel() as usize),
        model.dimension(),
        model.max_seq_length()
    );
    if let Some(adapter) = model.adapter() {
        tracing::info!("adapter: {adapter}");
    }
    Ok(model)
}

/// The folder of an adapter's base, from the hub where it is none here.
fn base_folder(base: &BaseModel, session: &Session) -> anyhow::Result<PathBuf> {
    if Path::new(&base.name).is_dir() {
        return Ok(base.name.clone().into());
    }
    let name = match &base.revision {
        Some(revision) => format!("{}@{revision}", base.name),
        None => base.name.clone(),
    };
    source::model(&name, session)
}

/// Sets the longest input, where a flag asks for one that the model can take.
pub(crate) fn set_max_seq_length(
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

/// Sets how matrix products are computed, where the processor can. A backend that is left open becomes the faster one.
pub(crate) fn set_compute(
    model: &mut SentenceTransformer,
    compute: Compute,
) -> Result<(), UsageError> {
    set_named_compute(model, compute)?;
    match gemm::is_open(model) {
        true => {
            let gemm = gemm::fastest(model);
            set_named_compute(model, Compute { gemm, ..compute })
        }
        false => Ok(()),
    }
}

/// As [`set_compute`], without choosing a backend.
pub(crate) fn set_named_compute(
    model: &mut SentenceTransformer,
    compute: Compute,
) -> Result<(), UsageError> {
    model
        .set_compute(compute)
        .map_err(|error| UsageError(format!("--{error}")))
}

/// Sets the model up by these flags, and gives the options to encode with.
pub(crate) fn encode_options(
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

/// The options to encode one side of a search with.
pub(crate) fn two_sided_options(flags: &TwoSidedEncodingFlags, role: Role) -> EncodeOptions {
    let (prompt, prompt_name) = match role {
        Role::Query => (&flags.query_prompt, &flags.query_prompt_name),
        Role::Document => (&flags.corpus_prompt, &flags.corpus_prompt_name),
    };
    EncodeOptions {
        batch_size: flags.batch_size as usize,
        prompt: prompt.clone(),
        prompt_name: prompt_name.clone(),
        role: Some(role),
        truncate_dim: flags.truncate_dim,
        ..EncodeOptions::default()
    }
}

/// The options for one side of a search by an evaluator: the side's own prompt wins over that for all texts, and that
/// over the model's for the role.
pub(crate) fn side_encoding(
    options: &Options,
    encoding: &EncodeOptions,
    side: Side,
) -> EncodeOptions {
    let (role, prompt, prompt_name) = match side {
        Side::Text => return encoding.clone(),
        Side::Query => (Role::Query, "query-prompt", "query-prompt-name"),
        Side::Document => (Role::Document, "corpus-prompt", "corpus-prompt-name"),
    };
    let mut encoding = EncodeOptions {
        role: Some(role),
        ..encoding.clone()
    };
    let given = |flag| options.text(flag).map(str::to_owned);
    if options.has(prompt) || options.has(prompt_name) {
        encoding.prompt = given(prompt);
        encoding.prompt_name = given(prompt_name);
    }
    encoding
}

/// Encodes texts under a bar: [texts, dimension], row after row.
pub(crate) fn encode_texts(
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

/// Encodes the data of an evaluation under a bar.
pub(crate) fn encode_evaluation(
    evaluation: &Evaluation,
    model: &SentenceTransformer,
    session: &Session,
) -> anyhow::Result<ColumnEmbeddings> {
    let bar = session.bar(evaluation.name(), evaluation.n_sentences());
    let embeddings = evaluation.encode(model, &mut session.following(&bar))?;
    bar.finish_and_clear();
    embeddings.ok_or_else(|| session.interrupt.error())
}

/// A model's name as tables show it: the last part of its path.
pub(crate) fn short_name(model: &str) -> String {
    let name = Path::new(model.trim_end_matches('/')).file_name();
    name.map_or_else(
        || model.to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

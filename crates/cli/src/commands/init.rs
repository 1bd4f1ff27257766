//! `sentune init`: a model with random weights.

use std::path::Path;

use anyhow::Context;
use model::{Pooling, PoolingMode, SentenceTransformer, Sizes, new_config, new_tokenizer_config};
use tch::Device;
use train::write_folder;

use crate::{flags::init::InitFlags, table::thousands, usage::UsageError};

/// Makes the model in a folder that does not exist yet.
pub(crate) fn run(flags: &InitFlags) -> anyhow::Result<()> {
    let output = &flags.output;
    if output.exists() {
        return Err(UsageError(format!(
            "--output {} is there already: give another folder, or remove it",
            output.display()
        ))
        .into());
    }
    let vocabulary = fs_err::read_to_string(&flags.vocab_file).context("--vocab-file")?;
    let sizes = Sizes {
        vocab_size: vocabulary.lines().count() as i64,
        hidden_size: flags.hidden_size,
        n_layers: flags.num_hidden_layers,
        heads: flags.num_attention_heads,
        intermediate_size: flags.intermediate_size,
        position_rows: flags.max_position_embeddings,
        dropout: flags.dropout,
    };
    let config = new_config(&flags.model_type, &sizes)?;
    let tokenizer = tokenizer_folder(flags, &vocabulary)?;
    let model = SentenceTransformer::random(
        &config,
        tokenizer.path(),
        Pooling::new(PoolingMode::Mean),
        false,
        flags.seed,
        Device::Cpu,
    )?;
    if let Some(parent) = output.parent().filter(|parent| *parent != Path::new("")) {
        fs_err::create_dir_all(parent)?;
    }
    write_folder(output, &model.files()?)?;
    tracing::info!(
        "made {}: {} parameters with random weights",
        output.display(),
        thousands(model.parameters().numel() as usize)
    );
    Ok(())
}

/// The tokenizer's files as published models have them: a vocabulary and how to use it.
fn tokenizer_folder(flags: &InitFlags, vocabulary: &str) -> anyhow::Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    fs_err::write(folder.path().join("vocab.txt"), vocabulary)?;
    let max_length = flags.max_position_embeddings - 2;
    let config = new_tokenizer_config(&flags.model_type, max_length)?;
    fs_err::write(
        folder.path().join("tokenizer_config.json"),
        serde_json::to_vec_pretty(&config)?,
    )?;
    Ok(folder)
}

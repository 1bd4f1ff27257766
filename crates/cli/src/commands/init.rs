//! `sentune init`: a model with random weights.

use std::path::Path;

use anyhow::Context;
use model::{Pooling, PoolingMode, SentenceTransformer, mpnet::Config};
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
    let config = Config {
        model_type: "mpnet".to_owned(),
        vocab_size: vocabulary.lines().count() as i64,
        hidden_size: flags.hidden_size,
        num_hidden_layers: flags.num_hidden_layers,
        num_attention_heads: flags.num_attention_heads,
        intermediate_size: flags.intermediate_size,
        hidden_act: "gelu".to_owned(),
        hidden_dropout_prob: flags.dropout,
        attention_probs_dropout_prob: flags.dropout,
        max_position_embeddings: flags.max_position_embeddings,
        initializer_range: 0.02,
        layer_norm_eps: 1e-5,
        relative_attention_num_buckets: 32,
        pad_token_id: 1,
    };
    let tokenizer = tokenizer_folder(&vocabulary, flags.max_position_embeddings - 2)?;
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

/// The tokenizer's files as microsoft/mpnet-base has them: a vocabulary and how to use it.
fn tokenizer_folder(vocabulary: &str, max_length: i64) -> anyhow::Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    fs_err::write(folder.path().join("vocab.txt"), vocabulary)?;
    let config = serde_json::json!({
        "tokenizer_class": "MPNetTokenizer",
        "do_lower_case": true,
        "strip_accents": null,
        "tokenize_chinese_chars": true,
        "model_max_length": max_length,
        "bos_token": "<s>",
        "cls_token": "<s>",
        "eos_token": "</s>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "[UNK]",
        "mask_token": "<mask>",
    });
    fs_err::write(
        folder.path().join("tokenizer_config.json"),
        serde_json::to_vec_pretty(&config)?,
    )?;
    Ok(folder)
}

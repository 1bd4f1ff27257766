//! `sentune init`: a model with random weights.

use std::path::Path;

use anyhow::Context;
use model::{NewTokenizer, SentenceTransformer, Sizes};
use tch::Device;
use train::write_folder;
use wording::thousands;

use crate::{flags::init::InitFlags, output::check_new, usage::UsageError};

/// Makes the model in a folder that does not exist yet.
pub(crate) fn run(flags: &InitFlags) -> anyhow::Result<()> {
    let output = &flags.output;
    check_new(output)?;
    let sizes = Sizes {
        hidden_size: flags.hidden_size,
        n_layers: flags.num_hidden_layers,
        heads: flags.num_attention_heads,
        intermediate_size: flags.intermediate_size,
        position_rows: flags.max_position_embeddings,
        dropout: flags.dropout,
    };
    let vocabulary;
    let tokenizer = match (&flags.tokenizer, &flags.vocab_file) {
        (Some(folder), _) => NewTokenizer::Folder(folder),
        (None, Some(file)) => {
            vocabulary = fs_err::read_to_string(file).context("--vocab-file")?;
            NewTokenizer::WordPieces(&vocabulary)
        }
        (None, None) => {
            return Err(UsageError("give --vocab-file or --tokenizer".to_owned()).into());
        }
    };
    let (model_type, seed) = (&flags.model_type, flags.seed);
    let model = SentenceTransformer::init(model_type, &sizes, tokenizer, seed, Device::Cpu)?;
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

//! Flags of `sentune init`.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct InitFlags {
    /// Word pieces, one a line, the special tokens of the model type among them.
    #[arg(long, value_name = "FILE", required_unless_present = "tokenizer")]
    pub(crate) vocab_file: Option<PathBuf>,
    /// Folder with a tokenizer.json, instead of word pieces.
    #[arg(long, value_name = "FOLDER", conflicts_with = "vocab_file")]
    pub(crate) tokenizer: Option<PathBuf>,
    /// Type of the encoder.
    #[arg(long, value_name = "NAME", default_value = model::MODEL_TYPES[0], value_parser = model::MODEL_TYPES)]
    pub(crate) model_type: String,
    /// Folder of the new model.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) output: PathBuf,
    /// Width of embeddings and hidden states.
    #[arg(long, value_name = "N", default_value_t = 768)]
    pub(crate) hidden_size: i64,
    /// Number of layers.
    #[arg(long, value_name = "N", default_value_t = 12)]
    pub(crate) num_hidden_layers: i64,
    /// Attention heads per layer.
    #[arg(long, value_name = "N", default_value_t = 12)]
    pub(crate) num_attention_heads: i64,
    /// Width of the feed-forward layers.
    #[arg(long, value_name = "N", default_value_t = 3072)]
    pub(crate) intermediate_size: i64,
    /// Positions: the longest input, or two more where a type counts them from after its padding token.
    #[arg(long, value_name = "N", default_value_t = 514)]
    pub(crate) max_position_embeddings: i64,
    /// Dropout probability everywhere.
    #[arg(long, value_name = "P", default_value_t = 0.1)]
    pub(crate) dropout: f64,
    /// Seed of the weights.
    #[arg(long, value_name = "N", default_value_t = 42)]
    pub(crate) seed: u64,
}

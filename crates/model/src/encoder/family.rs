//! A family of encoders: its names in checkpoints and tokenizers, and the switches in its config.json.

use serde_json::{Value, json};

use crate::{
    encoder::{facts::Facts, spec::Spec},
    error::ModelError,
};

/// The facts of a family of encoders.
#[derive(Debug)]
pub(crate) struct Family {
    /// The class in `architectures` of a saved config.json.
    pub(crate) architecture: &'static str,
    /// The checkpoint's names.
    pub(crate) names: Names,
    /// The tensors of a checkpoint that are not the encoder's, and what its names may begin with.
    pub(crate) keys: KeyRules,
    /// The tokenizer that a vocab.txt makes.
    pub(crate) word_pieces: WordPieces,
    /// config.json's switches.
    pub(crate) read: fn(&Facts<'_>) -> Result<Spec, ModelError>,
    /// The config.json of a new encoder.
    pub(crate) new_config: fn(&Sizes) -> Value,
}

/// The names of an encoder's modules in its checkpoint, without `.weight` and `.bias`. Those of a layer follow on its
/// number.
#[derive(Debug)]
pub(crate) struct Names {
    pub(crate) word: &'static str,
    pub(crate) position: &'static str,
    pub(crate) embedding_norm: &'static str,
    /// The prefix of the layers' numbers.
    pub(crate) layers: &'static str,
    /// The projections to query, key and value.
    pub(crate) qkv: &'static [&'static str],
    pub(crate) attention_output: &'static str,
    pub(crate) attention_norm: &'static str,
    pub(crate) up: &'static str,
    pub(crate) down: &'static str,
    pub(crate) output_norm: &'static str,
    pub(crate) relative_bias: &'static str,
}

/// Rules for the names of tensors in a checkpoint.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeyRules {
    /// Prefixes that models around the encoder put before its names.
    pub(crate) prefixes: &'static [&'static str],
    /// Beginnings of the names of heads, which the encoder does without.
    pub(crate) heads: &'static [&'static str],
    /// Names of buffers, which are no weights.
    pub(crate) buffers: &'static [&'static str],
}

impl KeyRules {
    /// The names as they are, and none to be ignored.
    pub(crate) const NONE: Self = Self {
        prefixes: &[],
        heads: &[],
        buffers: &[],
    };

    /// A tensor's name without what a model around the encoder put before it.
    pub(crate) fn strip<'n>(&self, name: &'n str) -> &'n str {
        let mut prefixes = self.prefixes.iter();
        prefixes
            .find_map(|prefix| name.strip_prefix(prefix))
            .unwrap_or(name)
    }
}

/// The tokenizer that transformers builds from a family's vocab.txt, unless tokenizer_config.json says otherwise.
#[derive(Debug)]
pub(crate) struct WordPieces {
    /// The class in tokenizer_config.json.
    pub(crate) class: &'static str,
    pub(crate) cls: &'static str,
    pub(crate) sep: &'static str,
    pub(crate) unk: &'static str,
    pub(crate) pad: &'static str,
    pub(crate) mask: &'static str,
}

impl WordPieces {
    /// The tokenizer_config.json of a new tokenizer.
    pub(crate) fn to_json(&self, max_length: i64) -> Value {
        json!({
            "tokenizer_class": self.class,
            "do_lower_case": true,
            "strip_accents": null,
            "tokenize_chinese_chars": true,
            "model_max_length": max_length,
            "bos_token": self.cls,
            "cls_token": self.cls,
            "eos_token": self.sep,
            "sep_token": self.sep,
            "pad_token": self.pad,
            "unk_token": self.unk,
            "mask_token": self.mask,
        })
    }
}

/// The sizes of a new encoder.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sizes {
    /// Rows of the word embedding table.
    pub vocab_size: i64,
    /// The width of a token embedding.
    pub hidden_size: i64,
    /// The number of layers.
    pub n_layers: i64,
    /// The number of attention heads; divides `hidden_size`.
    pub heads: i64,
    /// The width of the feed-forward part.
    pub intermediate_size: i64,
    /// Rows of the position embedding table.
    pub position_rows: i64,
    /// The probability of dropout at all its sites.
    pub dropout: f64,
}

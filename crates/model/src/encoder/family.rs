//! A family of encoders: its names in checkpoints and tokenizers, and the switches in its config.json.

use serde_json::{Value, json};
use tokenizers::processors::{
    PostProcessorWrapper, bert::BertProcessing, roberta::RobertaProcessing,
};

use crate::{
    encoder::{facts::Facts, spec::Spec},
    error::ModelError,
};

/// The tokenizer classes whose normalizer transformers 5 makes from tokenizer_config.json.
pub(crate) const NORMALIZED_BY_SETTINGS: [&str; 3] =
    ["BertTokenizer", "DistilBertTokenizer", "MPNetTokenizer"];

/// The tokenizer class that takes any tokenizer.json as it stands.
pub(crate) const ANY_TOKENIZER: &str = "PreTrainedTokenizerFast";

/// The root of the names of adapters, as peft writes them.
pub(crate) const ADAPTER_ROOT: &str = "base_model.model.";

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

/// The names of an encoder's modules in its checkpoint, without `.weight` and `.bias`; empty for those that it has not.
/// Those of a layer follow on its number.
#[derive(Debug)]
pub(crate) struct Names {
    pub(crate) word: &'static str,
    pub(crate) position: &'static str,
    pub(crate) token_type: &'static str,
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
    pub(crate) final_norm: &'static str,
}

/// Rules for the names of tensors in a checkpoint.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeyRules {
    /// Prefixes that models around the encoder put before its names.
    pub(crate) prefixes: &'static [&'static str],
    /// Beginnings of the names of heads, which the encoder does without.
    pub(crate) heads: &'static [&'static str],
    /// Beginning of the names of a head that is saved as it came: transformers makes a random one where it is missing.
    pub(crate) kept: Option<&'static str>,
    /// Ends of the names of buffers, which are no weights.
    pub(crate) buffers: &'static [&'static str],
    /// Whether they are an adapter's, whose names peft puts in front and within.
    pub(crate) is_adapter: bool,
}

impl KeyRules {
    /// The names as they are, and none to be ignored.
    pub(crate) const NONE: Self = Self {
        prefixes: &[],
        heads: &[],
        kept: None,
        buffers: &[],
        is_adapter: false,
    };

    /// The rules for the names of the encoder's adapters.
    pub(crate) fn of_adapters(self) -> Self {
        Self {
            is_adapter: true,
            kept: None,
            ..self
        }
    }

    /// A tensor's name as the encoder has it: without a prefix of a model around it, and with the present names of a
    /// norm's scale and shift.
    pub(crate) fn present_name(&self, name: &str) -> String {
        if self.is_adapter {
            let name = name.strip_prefix(ADAPTER_ROOT).unwrap_or(name);
            let encoder = Self {
                is_adapter: false,
                ..*self
            };
            // Some versions leave the name that the adapter had in memory.
            let name = name.replace(".default.weight", ".weight");
            return encoder.present_name(&name);
        }
        let mut prefixes = self.prefixes.iter();
        let name = prefixes
            .find_map(|prefix| name.strip_prefix(prefix))
            .unwrap_or(name);
        for (old, new) in [
            ("LayerNorm.gamma", "LayerNorm.weight"),
            ("LayerNorm.beta", "LayerNorm.bias"),
        ] {
            if let Some(module) = name.strip_suffix(old) {
                return format!("{module}{new}");
            }
        }
        name.to_owned()
    }

    /// Whether a tensor is a head of the model around the encoder.
    pub(crate) fn is_head(&self, name: &str) -> bool {
        self.heads.iter().any(|head| name.starts_with(head))
    }

    /// Whether a tensor is of the head that is kept.
    pub(crate) fn is_kept(&self, name: &str) -> bool {
        self.kept.is_some_and(|kept| name.starts_with(kept))
    }

    /// Whether a tensor is a buffer.
    pub(crate) fn is_buffer(&self, name: &str) -> bool {
        self.buffers.iter().any(|buffer| name.ends_with(buffer))
    }
}

/// The tokenizer that a family's vocab.txt makes, unless tokenizer_config.json says otherwise.
#[derive(Debug)]
pub(crate) struct WordPieces {
    /// The class in tokenizer_config.json: transformers' own where it takes a vocab.txt, otherwise the one that takes
    /// any tokenizer.json as it stands.
    pub(crate) class: &'static str,
    pub(crate) cls: &'static str,
    pub(crate) sep: &'static str,
    pub(crate) unk: &'static str,
    pub(crate) pad: &'static str,
    pub(crate) mask: &'static str,
    /// Whether the mask token takes the space before it with it.
    pub(crate) mask_lstrip: bool,
    /// Whether the special tokens are put around a text as RoBERTa's are; otherwise as BERT's.
    pub(crate) like_roberta: bool,
}

impl WordPieces {
    /// The post-processor that puts the special tokens, each with its id, around a text.
    pub(crate) fn processor(&self, cls: (String, u32), sep: (String, u32)) -> PostProcessorWrapper {
        if self.like_roberta {
            let processor = RobertaProcessing::new(sep, cls);
            processor.add_prefix_space(false).into()
        } else {
            BertProcessing::new(sep, cls).into()
        }
    }

    /// The tokenizer_config.json of a new tokenizer.
    pub(crate) fn to_json(&self, max_length: usize) -> Value {
        let mut json = json!({
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
        });
        if self.class == ANY_TOKENIZER {
            // It gives token types otherwise, which these encoders do not take.
            json["model_input_names"] = json!(["input_ids", "attention_mask"]);
        }
        json
    }
}

/// The sizes of a new encoder.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sizes {
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

//! BERT.
//!
//! - Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding",
//!   [arXiv 1810.04805](https://arxiv.org/abs/1810.04805)
//! - names and numbers as in `transformers/models/bert/modeling_bert.py` of transformers 5.23.0
//!
//! The pooler of that implementation is not computed, as sentence embeddings do not use it, and is saved as it came.

use serde_json::{Value, json};

use crate::{
    encoder::{
        facts::{Facts, INTERMEDIATE, LAYERS, POSITIONS, TYPES, VOCABULARY, WIDTH},
        family::{Family, KeyRules, Names, Sizes, WordPieces},
        numbering::{Numbering, Positions},
        spec::{Dropout, Init, LayerSpec, Placement, Spec},
    },
    error::ModelError,
};

pub(super) const FAMILY: Family = Family {
    architecture: "BertModel",
    names: NAMES,
    keys: KeyRules {
        prefixes: &["bert."],
        heads: &["cls.", "pooler.", "classifier.", "qa_outputs."],
        kept: Some("pooler."),
        buffers: BUFFERS,
        is_adapter: false,
    },
    word_pieces: WordPieces {
        class: "BertTokenizer",
        ..WORD_PIECES
    },
    read: |facts| read(facts, 0, Positions::FromZero),
    new_config: |sizes| new_config("bert", sizes, 0),
};

/// The names of BERT's modules, which RoBERTa took over.
pub(super) const NAMES: Names = Names {
    word: "embeddings.word_embeddings",
    position: "embeddings.position_embeddings",
    token_type: "embeddings.token_type_embeddings",
    embedding_norm: "embeddings.LayerNorm",
    layers: "encoder.layer",
    qkv: &[
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
    ],
    attention_output: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    up: "intermediate.dense",
    down: "output.dense",
    output_norm: "output.LayerNorm",
    relative_bias: "",
    final_norm: "",
};

/// The buffers of checkpoints that older versions of transformers wrote.
pub(super) const BUFFERS: &[&str] = &["embeddings.position_ids", "embeddings.token_type_ids"];

/// BERT's special tokens.
pub(super) const WORD_PIECES: WordPieces = WordPieces {
    class: "BertTokenizer",
    cls: "[CLS]",
    sep: "[SEP]",
    unk: "[UNK]",
    pad: "[PAD]",
    mask: "[MASK]",
    mask_lstrip: false,
    like_roberta: false,
};

/// The switches of BERT and RoBERTa; absent keys have the defaults of transformers' `BertConfig`, and its
/// `pad_token_id` is `padding_id`.
pub(super) fn read(
    facts: &Facts<'_>,
    padding_id: i64,
    positions: Positions,
) -> Result<Spec, ModelError> {
    facts.only_or_absent("hidden_act", "gelu")?;
    facts.only_or_absent("position_embedding_type", "absolute")?;
    facts.off("is_decoder")?;
    facts.off("add_cross_attention")?;
    let vocab_size = facts.count("vocab_size", VOCABULARY)?;
    let numbering = Numbering {
        padding_id: facts.count_or("pad_token_id", padding_id, 0..=vocab_size - 1)? as u32,
        positions,
    };
    let hidden_size = facts.count("hidden_size", WIDTH)?;
    let n_layers = facts.count("num_hidden_layers", LAYERS)? as usize;
    let position_rows = facts.count_or("max_position_embeddings", 512, POSITIONS)?;
    if numbering.longest(position_rows) == 0 {
        let allowed = format!("more than pad_token_id + 1, {}", numbering.padding_id + 1);
        return Err(facts.error("max_position_embeddings", &allowed));
    }
    let hidden = Some(facts.dropout_or("hidden_dropout_prob", 0.1)?);
    Ok(Spec {
        vocab_size,
        hidden_size,
        heads: facts.heads("num_attention_heads", "hidden_size", hidden_size)?,
        intermediate_size: facts.count("intermediate_size", INTERMEDIATE)?,
        max_length: numbering.longest(position_rows),
        numbering,
        position_rows: Some(position_rows),
        token_types: Some(facts.count_or("type_vocab_size", 2, TYPES)?),
        eps: facts.eps_or("layer_norm_eps", 1e-12)?,
        biases: true,
        placement: Placement::Post,
        gated: false,
        relative_bias: false,
        layers: vec![LayerSpec::FULL; n_layers],
        dropout: Dropout {
            embeddings: hidden,
            probabilities: Some(facts.dropout_or("attention_probs_dropout_prob", 0.1)?),
            attention: hidden,
            intermediate: None,
            output: hidden,
            adapters: None,
        },
        init: Init::normal(facts.deviation_or("initializer_range", 0.02)?),
    })
}

/// A config.json of BERT's keys; RoBERTa's types have ids of further special tokens.
pub(super) fn new_config(model_type: &str, sizes: &Sizes, padding_id: u32) -> Value {
    let is_bert = model_type == "bert";
    let mut config = json!({
        "model_type": model_type,
        "hidden_size": sizes.hidden_size,
        "num_hidden_layers": sizes.n_layers,
        "num_attention_heads": sizes.heads,
        "intermediate_size": sizes.intermediate_size,
        "hidden_act": "gelu",
        "hidden_dropout_prob": sizes.dropout,
        "attention_probs_dropout_prob": sizes.dropout,
        "max_position_embeddings": sizes.position_rows,
        "type_vocab_size": if is_bert { 2 } else { 1 },
        "initializer_range": 0.02,
        "layer_norm_eps": if is_bert { 1e-12 } else { 1e-5 },
        "pad_token_id": padding_id,
        "is_decoder": false,
    });
    if !is_bert {
        config["bos_token_id"] = json!(0);
        config["eos_token_id"] = json!(2);
    }
    config
}

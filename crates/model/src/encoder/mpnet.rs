//! MPNet.
//!
//! - Song et al. 2020, "MPNet: Masked and Permuted Pre-training for Language Understanding",
//!   [arXiv 2004.09297](https://arxiv.org/abs/2004.09297)
//! - names and shapes as in the published checkpoint, microsoft/mpnet-base; numbers as in
//!   `transformers/models/mpnet/modeling_mpnet.py` of transformers 5.24.0
//!
//! The pooler of that implementation is not computed, as sentence embeddings do not use it, and is saved as it came.

use serde_json::{Value, json};

use crate::{
    encoder::{
        facts::{Facts, INTERMEDIATE, LAYERS, POSITIONS, VOCABULARY, WIDTH},
        family::{Family, KeyRules, Names, Sizes, WordPieces},
        numbering::{Numbering, Positions},
        relative::BUCKETS,
        spec::{Dropout, Init, LayerSpec, Placement, Spec},
    },
    error::ModelError,
};

/// The padding token's id, fixed upstream whatever `pad_token_id` says.
const PADDING_ID: u32 = 1;

pub(super) const FAMILY: Family = Family {
    architecture: "MPNetModel",
    names: Names {
        word: "embeddings.word_embeddings",
        position: "embeddings.position_embeddings",
        token_type: "",
        embedding_norm: "embeddings.LayerNorm",
        layers: "encoder.layer",
        qkv: &["attention.attn.q", "attention.attn.k", "attention.attn.v"],
        attention_output: "attention.attn.o",
        attention_norm: "attention.LayerNorm",
        up: "intermediate.dense",
        down: "output.dense",
        output_norm: "output.LayerNorm",
        relative_bias: "encoder.relative_attention_bias",
        final_norm: "",
    },
    keys: KeyRules {
        prefixes: &["mpnet."],
        heads: &["lm_head.", "pooler."],
        kept: Some("pooler."),
        buffers: &["embeddings.position_ids"],
        is_adapter: false,
    },
    word_pieces: WordPieces {
        class: "MPNetTokenizer",
        cls: "<s>",
        sep: "</s>",
        unk: "[UNK]",
        pad: "<pad>",
        mask: "<mask>",
        mask_lstrip: true,
        like_roberta: true,
    },
    read,
    new_config,
};

/// The switches; absent keys have the defaults of transformers' `MPNetConfig`.
fn read(facts: &Facts<'_>) -> Result<Spec, ModelError> {
    let padding = i64::from(PADDING_ID);
    let numbering = Numbering {
        padding_id: PADDING_ID,
        positions: Positions::AfterPadding,
    };
    facts.only("hidden_act", "gelu")?;
    facts.count_or("relative_attention_num_buckets", BUCKETS, BUCKETS..=BUCKETS)?;
    facts.count_or("pad_token_id", padding, padding..=padding)?;
    let hidden_size = facts.count("hidden_size", WIDTH)?;
    let n_layers = facts.count("num_hidden_layers", LAYERS)? as usize;
    let position_rows = facts.count("max_position_embeddings", POSITIONS)?;
    let hidden = Some(facts.dropout_or("hidden_dropout_prob", 0.1)?);
    Ok(Spec {
        vocab_size: facts.count("vocab_size", VOCABULARY)?,
        hidden_size,
        heads: facts.heads("num_attention_heads", "hidden_size", hidden_size)?,
        intermediate_size: facts.count("intermediate_size", INTERMEDIATE)?,
        max_length: numbering.longest(position_rows),
        numbering,
        position_rows: Some(position_rows),
        token_types: None,
        eps: facts.eps_or("layer_norm_eps", 1e-12)?,
        biases: true,
        placement: Placement::Post,
        gated: false,
        relative_bias: true,
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

fn new_config(sizes: &Sizes) -> Value {
    json!({
        "model_type": "mpnet",
        "hidden_size": sizes.hidden_size,
        "num_hidden_layers": sizes.n_layers,
        "num_attention_heads": sizes.heads,
        "intermediate_size": sizes.intermediate_size,
        "hidden_act": "gelu",
        "hidden_dropout_prob": sizes.dropout,
        "attention_probs_dropout_prob": sizes.dropout,
        "max_position_embeddings": sizes.position_rows,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-5,
        "relative_attention_num_buckets": BUCKETS,
        "pad_token_id": PADDING_ID,
        "bos_token_id": 0,
        "eos_token_id": 2,
    })
}

//! ModernBERT.
//!
//! - Warner et al. 2024, "Smarter, Better, Faster, Longer: A Modern Bidirectional Encoder for Fast, Memory Efficient,
//!   and Long Context Finetuning and Inference", [arXiv 2412.13663](https://arxiv.org/abs/2412.13663)
//! - names and numbers as in `transformers/models/modernbert/modeling_modernbert.py` of transformers 5.23.0

use serde_json::{Value, json};

use crate::{
    encoder::{
        bert::WORD_PIECES,
        facts::{Facts, INTERMEDIATE, LAYERS, POSITIONS, VOCABULARY, WIDTH},
        family::{ANY_TOKENIZER, Family, KeyRules, Names, Sizes, WordPieces},
        numbering::{Numbering, Positions},
        spec::{Dropout, Init, LayerSpec, Placement, Spec},
    },
    error::ModelError,
};

pub(super) const FAMILY: Family = Family {
    architecture: "ModernBertModel",
    names: Names {
        word: "embeddings.tok_embeddings",
        position: "",
        token_type: "",
        embedding_norm: "embeddings.norm",
        layers: "layers",
        qkv: &["attn.Wqkv"],
        attention_output: "attn.Wo",
        attention_norm: "attn_norm",
        up: "mlp.Wi",
        down: "mlp.Wo",
        output_norm: "mlp_norm",
        relative_bias: "",
        final_norm: "final_norm",
    },
    keys: KeyRules {
        prefixes: &["model."],
        heads: &["head.", "decoder.", "classifier."],
        kept: None,
        buffers: &["inv_freq", "position_ids"],
        is_adapter: false,
    },
    word_pieces: WordPieces {
        class: ANY_TOKENIZER,
        ..WORD_PIECES
    },
    read,
    new_config,
};

/// The switches; absent keys have the defaults of transformers' `ModernBertConfig`.
fn read(facts: &Facts<'_>) -> Result<Spec, ModelError> {
    facts.only_or_absent("hidden_activation", "gelu")?;
    facts.off("norm_bias")?;
    facts.off("attention_bias")?;
    facts.off("mlp_bias")?;
    let vocab_size = facts.count("vocab_size", VOCABULARY)?;
    let hidden_size = facts.count("hidden_size", WIDTH)?;
    let heads = facts.heads("num_attention_heads", "hidden_size", hidden_size)?;
    if hidden_size / heads % 2 != 0 {
        let allowed = "hidden_size divided by an even number, the width of a head";
        return Err(facts.error("num_attention_heads", allowed));
    }
    let n_layers = facts.count("num_hidden_layers", LAYERS)? as usize;
    let attention = Some(facts.dropout_or("attention_dropout", 0.0)?);
    let range = facts.deviation_or("initializer_range", 0.02)?;
    Ok(Spec {
        vocab_size,
        hidden_size,
        heads,
        intermediate_size: facts.count("intermediate_size", INTERMEDIATE)?,
        max_length: facts.count_or("max_position_embeddings", 8192, POSITIONS)? as usize,
        numbering: Numbering {
            padding_id: facts.count_or("pad_token_id", 50_283, 0..=vocab_size - 1)? as u32,
            positions: Positions::FromZero,
        },
        position_rows: None,
        token_types: None,
        eps: facts.eps_or("norm_eps", 1e-5)?,
        biases: false,
        placement: Placement::Pre,
        gated: true,
        relative_bias: false,
        layers: layers(facts, n_layers)?,
        dropout: Dropout {
            embeddings: Some(facts.dropout_or("embedding_dropout", 0.0)?),
            probabilities: attention,
            attention,
            intermediate: Some(facts.dropout_or("mlp_dropout", 0.0)?),
            output: None,
            adapters: None,
        },
        init: Init {
            range,
            output_range: range / (2.0 * n_layers as f64).sqrt(),
            cutoff: Some(facts.positive_or("initializer_cutoff_factor", 2.0)?),
            zero_padding: false,
        },
    })
}

/// Layers with full attention and with a window, by `layer_types` or, in older files, every so many of the former.
fn layers(facts: &Facts<'_>, n_layers: usize) -> Result<Vec<LayerSpec>, ModelError> {
    const FULL: &str = "full_attention";
    const SLIDING: &str = "sliding_attention";
    let is_full: Vec<bool> = match facts.value("layer_types") {
        Some(Value::Array(types)) if types.len() == n_layers => types
            .iter()
            .map(|of_layer| match of_layer.as_str() {
                Some(FULL) => Ok(true),
                Some(SLIDING) => Ok(false),
                _ => Err(facts.error(
                    "layer_types",
                    &format!("{FULL:?} or {SLIDING:?} for each layer"),
                )),
            })
            .collect::<Result<_, _>>()?,
        Some(_) => return Err(facts.error("layer_types", &format!("a list of {n_layers}"))),
        None => {
            let every = facts.count_or("global_attn_every_n_layers", 3, 1..=512)? as usize;
            (0..n_layers).map(|i| i % every == 0).collect()
        }
    };
    let full = theta(facts, FULL, "global_rope_theta", 160_000.0)?;
    let sliding = theta(facts, SLIDING, "local_rope_theta", 10_000.0)?;
    let window = facts.count_or("local_attention", 128, 1..=1 << 20)? as usize / 2;
    let layers = is_full
        .into_iter()
        .enumerate()
        .map(|(i, is_full)| LayerSpec {
            rotary: Some(if is_full { full } else { sliding }),
            window: (!is_full).then_some(window),
            attention_norm: i > 0,
        });
    Ok(layers.collect())
}

/// The base of the rotary positions of a type of layer, by `rope_parameters` or, in older files, a key of its own.
fn theta(facts: &Facts<'_>, of: &str, key: &str, default: f64) -> Result<f64, ModelError> {
    let Some(parameters) = facts.value("rope_parameters") else {
        return match facts.value(key) {
            // transformers takes null for the other kind's.
            None if key == "local_rope_theta" && facts.is_null(key) => {
                facts.positive_or("global_rope_theta", 160_000.0)
            }
            None => Ok(default),
            Some(_) => facts.positive_or(key, default),
        };
    };
    let of_type = &parameters[of];
    let allowed = "for each type of layer a rope_theta and the rope_type \"default\"";
    let is_default = matches!(of_type["rope_type"].as_str(), None | Some("default"));
    let theta = of_type["rope_theta"].as_f64();
    match theta.filter(|&theta| is_default && theta.is_finite() && theta > 0.0) {
        Some(theta) => Ok(theta),
        None => Err(facts.error("rope_parameters", allowed)),
    }
}

fn new_config(sizes: &Sizes) -> Value {
    json!({
        "model_type": "modernbert",
        "hidden_size": sizes.hidden_size,
        "num_hidden_layers": sizes.n_layers,
        "num_attention_heads": sizes.heads,
        "intermediate_size": sizes.intermediate_size,
        "hidden_activation": "gelu",
        "attention_dropout": sizes.dropout,
        "embedding_dropout": sizes.dropout,
        "mlp_dropout": sizes.dropout,
        "max_position_embeddings": sizes.position_rows,
        "global_attn_every_n_layers": 3,
        "local_attention": 128,
        "global_rope_theta": 160_000.0,
        "local_rope_theta": 10_000.0,
        "initializer_range": 0.02,
        "norm_eps": 1e-5,
        "pad_token_id": 0,
        "bos_token_id": null,
        "cls_token_id": null,
        "eos_token_id": null,
        "sep_token_id": null,
    })
}

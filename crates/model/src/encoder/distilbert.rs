//! DistilBERT.
//!
//! - Sanh et al. 2019, "DistilBERT, a distilled version of BERT: smaller, faster, cheaper and lighter",
//!   [arXiv 1910.01108](https://arxiv.org/abs/1910.01108)
//! - names and numbers as in `transformers/models/distilbert/modeling_distilbert.py` of transformers 5.23.0

use serde_json::{Value, json};

use crate::{
    encoder::{
        bert::{BUFFERS, WORD_PIECES},
        facts::{Facts, INTERMEDIATE, LAYERS, POSITIONS, VOCABULARY, WIDTH},
        family::{Family, KeyRules, Names, Sizes, WordPieces},
        numbering::{Numbering, Positions},
        spec::{Dropout, Init, LayerSpec, Placement, Spec},
    },
    error::ModelError,
};

pub(super) const FAMILY: Family = Family {
    architecture: "DistilBertModel",
    names: Names {
        word: "embeddings.word_embeddings",
        position: "embeddings.position_embeddings",
        token_type: "",
        embedding_norm: "embeddings.LayerNorm",
        layers: "transformer.layer",
        qkv: &["attention.q_lin", "attention.k_lin", "attention.v_lin"],
        attention_output: "attention.out_lin",
        attention_norm: "sa_layer_norm",
        up: "ffn.lin1",
        down: "ffn.lin2",
        output_norm: "output_layer_norm",
        relative_bias: "",
        final_norm: "",
    },
    keys: KeyRules {
        prefixes: &["distilbert."],
        heads: &[
            "vocab_transform.",
            "vocab_layer_norm.",
            "vocab_projector.",
            "pre_classifier.",
            "classifier.",
            "qa_outputs.",
        ],
        kept: None,
        buffers: BUFFERS,
        is_adapter: false,
    },
    word_pieces: WordPieces {
        class: "DistilBertTokenizer",
        ..WORD_PIECES
    },
    read,
    new_config,
};

/// The switches; absent keys have the defaults of transformers' `DistilBertConfig`.
fn read(facts: &Facts<'_>) -> Result<Spec, ModelError> {
    facts.only_or_absent("activation", "gelu")?;
    let vocab_size = facts.count("vocab_size", VOCABULARY)?;
    let numbering = Numbering {
        padding_id: facts.count_or("pad_token_id", 0, 0..=vocab_size - 1)? as u32,
        positions: Positions::FromZero,
    };
    let hidden_size = facts.count("dim", WIDTH)?;
    let n_layers = facts.count("n_layers", LAYERS)? as usize;
    let position_rows = facts.count_or("max_position_embeddings", 512, POSITIONS)?;
    let hidden = Some(facts.dropout_or("dropout", 0.1)?);
    Ok(Spec {
        vocab_size,
        hidden_size,
        heads: facts.heads("n_heads", "dim", hidden_size)?,
        intermediate_size: facts.count("hidden_dim", INTERMEDIATE)?,
        max_length: numbering.longest(position_rows),
        numbering,
        position_rows: Some(position_rows),
        token_types: None,
        // Fixed upstream.
        eps: 1e-12,
        biases: true,
        placement: Placement::Post,
        gated: false,
        relative_bias: false,
        layers: vec![LayerSpec::FULL; n_layers],
        dropout: Dropout {
            embeddings: hidden,
            probabilities: Some(facts.dropout_or("attention_dropout", 0.1)?),
            attention: None,
            intermediate: None,
            output: hidden,
            adapters: None,
        },
        init: Init::normal(facts.deviation_or("initializer_range", 0.02)?),
    })
}

fn new_config(sizes: &Sizes) -> Value {
    json!({
        "model_type": "distilbert",
        "dim": sizes.hidden_size,
        "n_layers": sizes.n_layers,
        "n_heads": sizes.heads,
        "hidden_dim": sizes.intermediate_size,
        "activation": "gelu",
        "dropout": sizes.dropout,
        "attention_dropout": sizes.dropout,
        "max_position_embeddings": sizes.position_rows,
        "sinusoidal_pos_embds": false,
        "initializer_range": 0.02,
        "pad_token_id": 0,
    })
}

//! RoBERTa and XLM-RoBERTa.
//!
//! - Liu et al. 2019, "RoBERTa: A Robustly Optimized BERT Pretraining Approach",
//!   [arXiv 1907.11692](https://arxiv.org/abs/1907.11692)
//! - Conneau et al. 2020, "Unsupervised Cross-lingual Representation Learning at Scale",
//!   [arXiv 1911.02116](https://arxiv.org/abs/1911.02116)
//! - names and numbers as in `transformers/models/roberta/modeling_roberta.py` of transformers 5.23.0
//!
//! Apart from BERT, positions are counted from after the padding id.

use crate::encoder::{
    bert::{BUFFERS, NAMES, new_config, read},
    family::{ANY_TOKENIZER, Family, KeyRules, WordPieces},
    numbering::Positions,
};

const KEYS: KeyRules = KeyRules {
    prefixes: &["roberta."],
    heads: &["lm_head.", "pooler.", "classifier.", "qa_outputs."],
    kept: Some("pooler."),
    buffers: BUFFERS,
    is_adapter: false,
};

/// The special tokens of both.
const WORD_PIECES: WordPieces = WordPieces {
    class: ANY_TOKENIZER,
    cls: "<s>",
    sep: "</s>",
    unk: "<unk>",
    pad: "<pad>",
    mask: "<mask>",
    mask_lstrip: true,
    like_roberta: true,
};

pub(super) const ROBERTA: Family = Family {
    architecture: "RobertaModel",
    names: NAMES,
    keys: KEYS,
    word_pieces: WORD_PIECES,
    read: |facts| read(facts, 1, Positions::AfterPadding),
    new_config: |sizes| new_config("roberta", sizes, 1),
};

pub(super) const XLM_ROBERTA: Family = Family {
    architecture: "XLMRobertaModel",
    names: NAMES,
    keys: KEYS,
    word_pieces: WORD_PIECES,
    read: |facts| read(facts, 1, Positions::AfterPadding),
    new_config: |sizes| new_config("xlm-roberta", sizes, 1),
};

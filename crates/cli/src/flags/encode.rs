//! Flags of `sentune encode`, and those by which all commands encode.

// The doc comments of flags are also their help texts, where `<s>` is a token and not a tag.
#![allow(rustdoc::invalid_html_tags, rustdoc::broken_intra_doc_links)]

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use train::by_name;

/// Options of encoding.
#[derive(Debug, Args)]
pub(crate) struct EncodingFlags {
    /// Most sentences per batch; sentences are sorted by length and never padded, and a batch holds no more
    /// than 2048 tokens.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) batch_size: u32,
    /// Scale embeddings to length one.
    #[arg(long)]
    pub(crate) normalize: bool,
    /// Keep only the first N dimensions.
    #[arg(long, value_name = "N")]
    pub(crate) truncate_dim: Option<usize>,
    /// Text put in front of every sentence.
    #[arg(long, value_name = "TEXT", conflicts_with = "prompt_name")]
    pub(crate) prompt: Option<String>,
    /// Name of one of the model's own prompts, such as `query` or `document`.
    #[arg(long, value_name = "NAME")]
    pub(crate) prompt_name: Option<String>,
    /// Longest input in tokens [default: the model's].
    #[arg(long, value_name = "N")]
    pub(crate) max_seq_length: Option<usize>,
    /// Precision of matrix products: fp32, bf16, fp16; embeddings are in fp32.
    #[arg(long, value_name = "NAME", default_value = "fp32", value_parser = by_name::<model::Precision>)]
    pub(crate) precision: model::Precision,
    /// Backend of matrix products in fp32: auto, rust, libtorch.
    #[arg(long, value_name = "NAME", default_value = "auto", value_parser = by_name::<model::GemmName>)]
    pub(crate) gemm: model::GemmName,
}

#[derive(Debug, Args)]
pub(crate) struct EncodeFlags {
    /// Model: a folder, or a name on the hub with an optional @revision.
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: String,
    /// Sentences: a text file (one a line), CSV, TSV, JSON Lines or parquet; `-` reads lines from stdin.
    #[arg(long, value_name = "FILE")]
    pub(crate) input: String,
    /// Embeddings: .npy ([n, dimension]), .parquet or .jsonl (text and embedding); `-` writes JSON Lines to
    /// stdout.
    #[arg(long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Column of the input that holds the sentences [default: its only text column].
    #[arg(long, value_name = "NAME")]
    pub(crate) column: Option<String>,
    /// Side of a search that the sentences are on. The model's prompt for it is used where it has one and no other is
    /// given.
    #[arg(long = "as", value_enum, value_name = "WHAT")]
    pub(crate) task: Option<EncodeTask>,
    /// Embeddings to write: one a sentence, or one a token.
    #[arg(long, value_name = "WHAT", default_value = "sentence_embedding", value_parser = ["sentence_embedding", "token_embeddings"])]
    pub(crate) output_value: String,
    /// Quantise embeddings: int8, uint8, binary, ubinary (`precision` of sentence-transformers' `encode`). To .npy
    /// or JSON Lines.
    #[arg(long, value_name = "NAME")]
    pub(crate) quantize: Option<search::Precision>,
    /// Embeddings (.npy), or sentences as for --input, whose ranges of dimensions int8 and uint8 use
    /// [default: the embeddings themselves].
    #[arg(
        long,
        value_name = "FILE",
        requires = "quantize",
        conflicts_with = "ranges"
    )]
    pub(crate) calibration: Option<String>,
    /// Column of the calibration sentences.
    #[arg(long, value_name = "NAME", requires = "calibration")]
    pub(crate) calibration_column: Option<String>,
    /// The ranges of dimensions themselves: .npy with the least values and the greatest, [2, dimension].
    #[arg(long, value_name = "FILE", requires = "quantize")]
    pub(crate) ranges: Option<PathBuf>,
    /// Write the ranges that were used, for --ranges of another run.
    #[arg(long, value_name = "FILE", requires = "quantize")]
    pub(crate) save_ranges: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) encoding: EncodingFlags,
}

/// A side of a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EncodeTask {
    /// Prompt `query`.
    Query,
    /// Prompt `document`, `passage` or `corpus`.
    Document,
}

/// Options of encoding both sides of a search.
#[derive(Debug, Args)]
pub(crate) struct TwoSidedEncodingFlags {
    /// Text put in front of every query [default: the model's prompt `query`, if it has one].
    #[arg(long, value_name = "TEXT", conflicts_with = "query_prompt_name")]
    pub(crate) query_prompt: Option<String>,
    /// Name of the model's prompt for queries.
    #[arg(long, value_name = "NAME")]
    pub(crate) query_prompt_name: Option<String>,
    /// Text put in front of every document [default: the model's prompt `document`, `passage` or `corpus`, if it
    /// has one].
    #[arg(long, value_name = "TEXT", conflicts_with = "corpus_prompt_name")]
    pub(crate) corpus_prompt: Option<String>,
    /// Name of the model's prompt for documents.
    #[arg(long, value_name = "NAME")]
    pub(crate) corpus_prompt_name: Option<String>,
    /// Similarity of two embeddings: cosine, dot, euclidean, manhattan [default: the model's].
    #[arg(long, value_name = "NAME")]
    pub(crate) similarity: Option<search::Similarity>,
    /// Most texts per batch.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) batch_size: u32,
    /// Longest input in tokens [default: the model's].
    #[arg(long, value_name = "N")]
    pub(crate) max_seq_length: Option<usize>,
    /// Keep only the first N dimensions.
    #[arg(long, value_name = "N")]
    pub(crate) truncate_dim: Option<usize>,
}

//! Flags of `sentune encode`, and those by which all commands encode.

// The doc comments of flags are also their help texts, where `<s>` is a token and not a tag.
#![allow(rustdoc::invalid_html_tags, rustdoc::broken_intra_doc_links)]

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use train::by_name;

/// How sentences are encoded.
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
    /// What matrix products are computed in: fp32, bf16, fp16; embeddings are in fp32.
    #[arg(long, value_name = "NAME", default_value = "fp32", value_parser = by_name::<model::Precision>)]
    pub(crate) precision: model::Precision,
    /// Who multiplies matrices in fp32: auto, rust, libtorch.
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
    /// What the sentences are in a search: the model's prompt for that is taken, where it has one and no other is
    /// asked for.
    #[arg(long = "as", value_enum, value_name = "WHAT")]
    pub(crate) task: Option<EncodeTask>,
    /// What to write: one embedding a sentence, or one a token.
    #[arg(long, value_name = "WHAT", default_value = "sentence_embedding", value_parser = ["sentence_embedding", "token_embeddings"])]
    pub(crate) output_value: String,
    /// Quantise embeddings: int8, uint8, binary, ubinary (`precision` of sentence-transformers' `encode`). To .npy
    /// or JSON Lines.
    #[arg(long, value_name = "NAME")]
    pub(crate) quantize: Option<search::Precision>,
    /// What int8 and uint8 take the ranges of dimensions from: embeddings (.npy), or sentences as for --input
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

/// What sentences are in a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EncodeTask {
    /// Prompt `query`.
    Query,
    /// Prompt `document`, `passage` or `corpus`.
    Document,
}

/// How texts of both sides of a search are encoded.
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
    /// How similar two embeddings are: cosine, dot, euclidean, manhattan [default: as the model says].
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

//! Flags of `sentune mine`, `search` and `data`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::{flags::OnBadRow, source::Split};

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

#[derive(Debug, Args)]
pub(crate) struct MineFlags {
    /// Model that says what is near: a folder, or a name on the hub with an optional @revision.
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: String,
    /// Pairs of anchor and positive: a file, glob or folder (parquet, CSV, TSV, JSON Lines), or a name on the hub
    /// with an optional :subset.
    #[arg(long, value_name = "DATA")]
    pub(crate) data: String,
    /// Split of a data set on the hub: train, dev, test.
    #[arg(long, value_name = "SPLIT", default_value = "train", value_parser = Split::parse)]
    pub(crate) split: Split,
    /// Column of the anchors [default: the first].
    #[arg(long, value_name = "NAME")]
    pub(crate) anchor_column_name: Option<String>,
    /// Column of the positives [default: the second].
    #[arg(long, value_name = "NAME")]
    pub(crate) positive_column_name: Option<String>,
    /// Use only the first N rows.
    #[arg(long, value_name = "N")]
    pub(crate) max_samples: Option<usize>,
    /// What to do with rows that hold an empty text or no value.
    #[arg(long, value_enum, value_name = "WHAT", default_value = "error")]
    pub(crate) on_bad_row: OnBadRow,
    /// Texts to mine in beside the positives: a text file (one a line), CSV, TSV, JSON Lines or parquet.
    #[arg(long, value_name = "FILE")]
    pub(crate) corpus: Option<String>,
    /// Column of the corpus that holds the texts [default: its only text column].
    #[arg(long, value_name = "NAME", requires = "corpus")]
    pub(crate) corpus_column: Option<String>,
    /// Table to write: .parquet, .csv, .tsv or .jsonl.
    #[arg(long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Write over the table if it is there.
    #[arg(long)]
    pub(crate) overwrite: bool,

    /// Negatives for each anchor.
    #[arg(long, value_name = "N", default_value_t = 3, help_heading = "Mining")]
    pub(crate) num_negatives: usize,
    /// Pass over the N nearest candidates.
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Mining")]
    pub(crate) range_min: usize,
    /// Consider no candidate past this rank [default: range-min and num-negatives and the most positives of an
    /// anchor; ten times num-negatives with a margin or --max-score].
    #[arg(long, value_name = "N", help_heading = "Mining")]
    pub(crate) range_max: Option<usize>,
    /// Leave out candidates more similar than this.
    #[arg(
        long,
        value_name = "X",
        allow_negative_numbers = true,
        help_heading = "Mining"
    )]
    pub(crate) max_score: Option<f32>,
    /// Leave out candidates less similar than this.
    #[arg(
        long,
        value_name = "X",
        allow_negative_numbers = true,
        help_heading = "Mining"
    )]
    pub(crate) min_score: Option<f32>,
    /// Leave out candidates that are not less similar than the positive by this much.
    #[arg(
        long,
        value_name = "X",
        allow_negative_numbers = true,
        help_heading = "Mining"
    )]
    pub(crate) absolute_margin: Option<f32>,
    /// Leave out candidates that are not less similar than the positive by this share of its similarity.
    #[arg(
        long,
        value_name = "X",
        allow_negative_numbers = true,
        help_heading = "Mining"
    )]
    pub(crate) relative_margin: Option<f32>,
    /// Which candidates to take: the nearest, or any.
    #[arg(
        long,
        value_enum,
        value_name = "HOW",
        default_value = "top",
        help_heading = "Mining"
    )]
    pub(crate) sampling_strategy: Sampling,
    /// Seed of the random choice.
    #[arg(long, value_name = "N", default_value_t = 42, help_heading = "Mining")]
    pub(crate) seed: u64,
    /// Leave an anchor's positives among its candidates; the output is then n-tuples.
    #[arg(long, help_heading = "Mining")]
    pub(crate) include_positives: bool,
    /// What a row of the table is.
    #[arg(
        long,
        value_enum,
        value_name = "FORMAT",
        default_value = "triplet",
        help_heading = "Mining"
    )]
    pub(crate) output_format: MinedFormat,
    /// Write similarities: in a column `scores` beside triplets and n-tuples, in place of the labels of pairs and
    /// lists.
    #[arg(long, help_heading = "Mining")]
    pub(crate) output_scores: bool,
    /// Keep embeddings in this folder and use those that are there from the same model, prompt and texts.
    #[arg(long, value_name = "FOLDER", help_heading = "Mining")]
    pub(crate) cache_folder: Option<PathBuf>,
    /// Not supported: cross-encoders can't be run here.
    #[arg(long, value_name = "MODEL", hide = true)]
    pub(crate) cross_encoder: Option<String>,
    #[command(flatten)]
    pub(crate) encoding: TwoSidedEncodingFlags,
}

/// Which candidates become negatives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sampling {
    /// The nearest.
    Top,
    /// Any, by --seed.
    Random,
}

/// What a row of a mined table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum MinedFormat {
    /// Anchor, positive, negative.
    Triplet,
    /// Anchor, positive, all negatives; anchors with too few are left out.
    NTuple,
    /// Anchor, text, label (1 positive, 0 negative).
    LabeledPair,
    /// Anchor, list of texts, list of labels; in .parquet or .jsonl.
    LabeledList,
}

#[derive(Debug, Args)]
pub(crate) struct SearchFlags {
    /// Model: a folder, or a name on the hub with an optional @revision.
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: String,
    /// Texts to search in: a text file (one a line), CSV, TSV, JSON Lines or parquet.
    #[arg(long, value_name = "FILE")]
    pub(crate) corpus: String,
    /// Column of the corpus that holds the texts [default: its only text column].
    #[arg(long, value_name = "NAME")]
    pub(crate) corpus_column: Option<String>,
    /// Embeddings of the corpus (.npy, row by row), as `sentune encode --as document` writes them, in place of
    /// encoding it.
    #[arg(long, value_name = "FILE")]
    pub(crate) corpus_embeddings: Option<PathBuf>,
    /// Query; may be given several times.
    #[arg(long, value_name = "TEXT", required_unless_present = "queries")]
    pub(crate) query: Vec<String>,
    /// Queries: a file as for the corpus, or `-` for lines from stdin.
    #[arg(long, value_name = "FILE", conflicts_with = "query")]
    pub(crate) queries: Option<String>,
    /// Column of --queries that holds the texts [default: its only text column].
    #[arg(long, value_name = "NAME", requires = "queries")]
    pub(crate) query_column: Option<String>,
    /// Hits for each query.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) top_k: u32,
    /// Print JSON Lines, one object a query, instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) encoding: TwoSidedEncodingFlags,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DataCommand {
    /// Rows, columns, lengths, repetitions, labels.
    #[command(visible_alias = "look")]
    Stat(StatFlags),
    /// Write a data set in another format, or parts of it.
    Convert(ConvertFlags),
    /// Split a data set into train, dev and test.
    Split(SplitFlags),
    /// Turn premises and hypotheses with labels (NLI) into triplets.
    Triplets(TripletsFlags),
}

/// A data set that is looked at or turned into another.
#[derive(Debug, Args)]
pub(crate) struct DataFlags {
    /// Data: a file, glob or folder (parquet, CSV, TSV, JSON Lines), or a name on the hub with an optional :subset.
    #[arg(long, value_name = "DATA")]
    pub(crate) data: String,
    /// Split of a data set on the hub: train, dev, test.
    #[arg(long, value_name = "SPLIT", default_value = "train", value_parser = Split::parse)]
    pub(crate) split: Split,
    /// Columns to use, in order, separated by commas; labels by their name [default: all].
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) columns: Option<Vec<String>>,
    /// Use only the first N rows.
    #[arg(long, value_name = "N")]
    pub(crate) max_samples: Option<usize>,
}

#[derive(Debug, Args)]
pub(crate) struct StatFlags {
    #[command(flatten)]
    pub(crate) data: DataFlags,
    /// What to do with rows that hold an empty text or no value.
    #[arg(long, value_enum, value_name = "WHAT", default_value = "skip")]
    pub(crate) on_bad_row: OnBadRow,
    /// Model whose tokenizer says how long texts are and which are cut off: a folder, or a name on the hub.
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: Option<String>,
    /// Longest input in tokens [default: the model's].
    #[arg(long, value_name = "N", requires = "model")]
    pub(crate) max_seq_length: Option<usize>,
    /// Show the first N rows, as JSON Lines before the tables.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) head: usize,
    /// Print one JSON object instead of tables.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ConvertFlags {
    #[command(flatten)]
    pub(crate) data: DataFlags,
    /// What to do with rows that hold an empty text or no value.
    #[arg(long, value_enum, value_name = "WHAT", default_value = "error")]
    pub(crate) on_bad_row: OnBadRow,
    /// Table to write: .parquet, .csv, .tsv or .jsonl.
    #[arg(long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Write over the table if it is there.
    #[arg(long)]
    pub(crate) overwrite: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SplitFlags {
    #[command(flatten)]
    pub(crate) data: DataFlags,
    /// What to do with rows that hold an empty text or no value.
    #[arg(long, value_enum, value_name = "WHAT", default_value = "error")]
    pub(crate) on_bad_row: OnBadRow,
    /// Folder for train, dev and test.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) output_dir: PathBuf,
    /// Format of the tables: parquet, csv, tsv, jsonl.
    #[arg(long, value_name = "FORMAT", default_value = "parquet", value_parser = ["parquet", "csv", "tsv", "jsonl"])]
    pub(crate) format: String,
    /// Rows for dev: a share below 1, or a number.
    #[arg(long, value_name = "X", default_value_t = 0.1)]
    pub(crate) dev: f64,
    /// Rows for test: a share below 1, or a number.
    #[arg(long, value_name = "X", default_value_t = 0.1)]
    pub(crate) test: f64,
    /// Seed of the shuffle.
    #[arg(long, value_name = "N", default_value_t = 42)]
    pub(crate) seed: u64,
    /// Put all rows with the same text in the first column into the same part.
    #[arg(long)]
    pub(crate) no_shared_anchors: bool,
    /// Write over tables that are there.
    #[arg(long)]
    pub(crate) overwrite: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TripletsFlags {
    #[command(flatten)]
    pub(crate) data: DataFlags,
    /// What to do with rows that hold an empty text or no value.
    #[arg(long, value_enum, value_name = "WHAT", default_value = "error")]
    pub(crate) on_bad_row: OnBadRow,
    /// Table of triplets to write: .parquet, .csv, .tsv or .jsonl.
    #[arg(long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Write over the table if it is there.
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Label of hypotheses that follow from the premise.
    #[arg(long, value_name = "LABEL", default_value_t = 0)]
    pub(crate) entailment: i64,
    /// Label of hypotheses that contradict the premise.
    #[arg(long, value_name = "LABEL", default_value_t = 2)]
    pub(crate) contradiction: i64,
    /// Pair an entailed hypothesis with only the first N contradicted ones of its premise [default: all].
    #[arg(long, value_name = "N")]
    pub(crate) max_per_positive: Option<usize>,
}

//! Flags of `sentune data`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use data::{OnBadRow, Split};
use train::by_name;

use crate::flags::{output::OutputTable, reading::ReadingFlags};

#[derive(Debug, Subcommand)]
pub(crate) enum DataCommand {
    /// Count rows, columns, lengths, repetitions, labels.
    #[command(
        visible_alias = "look",
        before_help = "Example:
  sentune data stat --data own.csv --model microsoft/mpnet-base --head 3"
    )]
    Stat(StatFlags),
    /// Write a data set in another format, or parts of it.
    #[command(before_help = "Example:
  sentune data convert --data own.csv --columns anchor,positive --output own.parquet")]
    Convert(ConvertFlags),
    /// Split a data set into train, dev and test.
    #[command(before_help = "Example:
  sentune data split --data own.csv --output-dir parts --dev 0.1 --test 1000")]
    Split(SplitFlags),
    /// Turn premises and hypotheses with labels (NLI) into triplets.
    #[command(before_help = "Example:
  sentune data triplets --data nli.csv --output triplets.parquet")]
    Triplets(TripletsFlags),
    /// Look for rows to ask about: repeated, leaked from other data, positives that are negatives, odd texts.
    #[command(before_help = "Example:
  sentune data audit --data train.csv --against test.csv --findings doubts.csv --output clean.csv --drop leaked,repeated")]
    Audit(AuditFlags),
}

/// The data set of a subcommand.
#[derive(Debug, Args)]
pub(crate) struct DataFlags {
    /// Data: a file, glob or folder (parquet, CSV, TSV, JSON Lines), or a name on the hub with an optional :subset.
    #[arg(long, value_name = "DATA")]
    pub(crate) data: String,
    /// Split of a folder or of a data set on the hub: train, dev, test.
    #[arg(long, value_name = "SPLIT", default_value = "train")]
    pub(crate) split: Split,
    /// Columns to use, in order, separated by commas; labels by their name [default: all].
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) columns: Option<Vec<String>>,
    /// Use only the first N rows.
    #[arg(long, value_name = "N")]
    pub(crate) max_samples: Option<usize>,
    /// Rows that hold an empty text or no value: error (stop and name them), skip (leave them out and count them)
    /// [default: error; skip in stat].
    #[arg(long, value_name = "ROWS", value_parser = by_name::<OnBadRow>)]
    pub(crate) on_bad_row: Option<OnBadRow>,
    #[command(flatten)]
    pub(crate) reading: ReadingFlags,
}

#[derive(Debug, Args)]
pub(crate) struct StatFlags {
    #[command(flatten)]
    pub(crate) data: DataFlags,
    /// Model whose tokenizer counts tokens and texts that are cut off: a folder, or a name on the hub.
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
    #[command(flatten)]
    pub(crate) output: OutputTable,
}

#[derive(Debug, Args)]
pub(crate) struct SplitFlags {
    #[command(flatten)]
    pub(crate) data: DataFlags,
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
    #[command(flatten)]
    pub(crate) output: OutputTable,
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

#[derive(Debug, Args)]
pub(crate) struct AuditFlags {
    #[command(flatten)]
    pub(crate) data: DataFlags,
    /// Other data whose rows must not be in this one, such as the test data; several, each with the flag.
    #[arg(long, value_name = "DATA")]
    pub(crate) against: Vec<String>,
    /// Split of the other data: train, dev, test.
    #[arg(long, value_name = "SPLIT", default_value = "test")]
    pub(crate) against_split: Split,
    /// Table of findings to write, with the rows' texts: .parquet, .csv, .tsv or .jsonl.
    #[arg(long, value_name = "FILE")]
    pub(crate) findings: Option<PathBuf>,
    /// Copy of the data set to write, without the rows of --drop: .parquet, .csv, .tsv or .jsonl.
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Doubts whose rows the copy is without, separated by commas: repeated, nearly-repeated, leaked,
    /// anchor-is-positive, negative-is-positive, false-negative, contradicted, odd-length, odd-script.
    #[arg(
        long,
        value_name = "DOUBTS",
        value_delimiter = ',',
        requires = "output"
    )]
    pub(crate) drop: Vec<String>,
    /// Write over tables that are there.
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

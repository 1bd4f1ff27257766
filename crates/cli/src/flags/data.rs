//! Flags of `sentune data`.

use std::{path::PathBuf, str::FromStr};

use clap::{Args, Subcommand};
use data::{OnBadRow, Split, audit::Doubt, split::PartSize};
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
    /// Look for rows to ask about: repeated, leaked from other data, positives that are negatives, odd texts; with a model
    /// also false negatives, and rows that are probably wrong.
    #[command(before_help = "Example:
  sentune data audit --data train.csv --model your-model --folds 5 --scores rows.csv --output clean.csv --swap below:0.3 --drop below:0.4")]
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
    /// Model that finds texts which are cut off, and positives and negatives that are nearer to another row's anchor than
    /// that row's positive: a folder, or a name on the hub.
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: Option<String>,
    /// Longest input in tokens [default: the model's].
    #[arg(long, value_name = "N", requires = "model")]
    pub(crate) max_seq_length: Option<usize>,
    /// Score each row by a model that did not train on it: N short runs, each on all rows but one Nth
    /// [default where given: 5].
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "5", requires = "model", value_parser = clap::value_parser!(u64).range(2..))]
    pub(crate) folds: Option<u64>,
    /// Table of findings to write, with the rows' texts: .parquet, .csv, .tsv or .jsonl.
    #[arg(long, value_name = "FILE")]
    pub(crate) findings: Option<PathBuf>,
    /// Table of all rows with their scores to write, worst first: .parquet, .csv, .tsv or .jsonl.
    #[arg(long, value_name = "FILE", requires = "folds")]
    pub(crate) scores: Option<PathBuf>,
    /// Copy of the data set to write, without the rows of --drop and with those of --swap mended: .parquet, .csv, .tsv or
    /// .jsonl.
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Rows that the copy is without, separated by commas: doubts (repeated, nearly-repeated, leaked, leaked-text,
    /// anchor-is-positive, negative-is-positive, false-negative, contradicted, odd-length, odd-script, odd-language,
    /// cut-off, nearer-elsewhere), worst:2% or worst:100 (rows of the lowest scores), below:0.4 (rows of lower scores).
    #[arg(long, value_name = "ROWS", value_delimiter = ',', requires = "output")]
    pub(crate) drop: Vec<Dropped>,
    /// Triplets whose positive and negative change places in the copy: worst:2%, worst:100 or below:0.3. Rows that --drop has
    /// too, for their scores, are swapped; those that it has for a doubt are dropped.
    #[arg(long, value_name = "ROWS", requires = "output")]
    pub(crate) swap: Option<Scored>,
    /// Write over tables that are there.
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Rows of the lowest scores to show.
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub(crate) show: usize,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    pub(crate) json: bool,

    /// Loss of the runs, with its parameters [default: by the columns and labels].
    #[arg(long, value_name = "LOSS", requires = "folds", help_heading = RUNS)]
    pub(crate) loss: Option<String>,
    /// Passes of a run over its rows.
    #[arg(long, value_name = "X", alias = "epochs", default_value_t = 1.0, requires = "folds", help_heading = RUNS)]
    pub(crate) num_train_epochs: f64,
    /// Rows per batch of a run.
    #[arg(long, value_name = "N", alias = "batch-size", default_value_t = 16, requires = "folds", help_heading = RUNS)]
    pub(crate) per_device_train_batch_size: usize,
    /// Peak learning rate of a run.
    #[arg(long, value_name = "X", alias = "lr", default_value_t = 1e-4, requires = "folds", help_heading = RUNS)]
    pub(crate) learning_rate: f64,
    /// Repetitions with other folds, whose mean is the score.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "folds", help_heading = RUNS, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) repeats: u64,
    /// Seed of folds and runs.
    #[arg(long, value_name = "N", default_value_t = 42, requires = "folds", help_heading = RUNS)]
    pub(crate) seed: u64,
}

const RUNS: &str = "Runs of --folds";

/// Rows that a cleaned copy is without.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Dropped {
    /// Rows with a doubt.
    Doubt(Doubt),
    /// Rows with low scores.
    Scored(Scored),
}

impl FromStr for Dropped {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains(':') {
            return text.parse().map(Self::Scored);
        }
        let known = Doubt::ALL.into_iter().find(|doubt| doubt.name() == text);
        known.map(Self::Doubt).ok_or_else(|| {
            let names = Doubt::ALL.map(Doubt::name).join(", ");
            format!("there is no doubt `{text}`; there are {names}, and worst:2% and below:0.4")
        })
    }
}

/// Rows with low scores.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Scored {
    /// A number of rows, those with the lowest scores.
    Worst(PartSize),
    /// All with lower scores than this.
    Below(f32),
}

impl Scored {
    /// The word before the colon.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Worst(_) => "worst",
            Self::Below(_) => "below",
        }
    }
}

impl FromStr for Scored {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || {
            format!(
                "found {text}, allowed: a share such as worst:2%, a number of rows such as worst:100, or a score such as below:0.4"
            )
        };
        let (name, amount) = text.split_once(':').ok_or_else(refused)?;
        let share = amount.strip_suffix('%').map(str::parse);
        match (name, share, amount.parse(), amount.parse()) {
            ("worst", Some(Ok(share)), ..) if (0.0..100.0).contains(&share) => {
                Ok(Self::Worst(PartSize::Share(share / 100.0)))
            }
            ("worst", None, Ok(rows), _) => Ok(Self::Worst(PartSize::Rows(rows))),
            ("below", None, _, Ok(score)) if f32::is_finite(score) => Ok(Self::Below(score)),
            _ => Err(refused()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_to_drop_are_doubts_or_the_worst() {
        let parsed = |text: &str| text.parse::<Dropped>();
        assert_eq!(parsed("cut-off"), Ok(Dropped::Doubt(Doubt::CutOff)));
        assert_eq!(
            parsed("worst:2%"),
            Ok(Dropped::Scored(Scored::Worst(PartSize::Share(0.02))))
        );
        assert_eq!(
            parsed("worst:0.5%"),
            Ok(Dropped::Scored(Scored::Worst(PartSize::Share(0.005))))
        );
        assert_eq!("worst:100".parse(), Ok(Scored::Worst(PartSize::Rows(100))));
        assert_eq!("below:0.4".parse(), Ok(Scored::Below(0.4)));
        assert_eq!("below:-1".parse(), Ok(Scored::Below(-1.0)));
        for wrong in [
            "worst:",
            "worst:x",
            "worst:100%",
            "worst:-1%",
            "worst:1.5",
            "below:",
            "below:4%",
            "below:nan",
            "beneath:1",
            "worst",
        ] {
            let message = parsed(wrong).unwrap_err();
            assert!(message.contains("worst:2%"), "{wrong}: {message}");
        }
        assert!(parsed("odd").unwrap_err().contains("odd-length"));
    }
}

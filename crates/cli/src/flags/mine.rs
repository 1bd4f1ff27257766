//! Flags of `sentune mine`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use data::{OnBadRow, Split};
use train::by_name;

use crate::flags::{encode::TwoSidedEncodingFlags, output::OutputTable};

#[derive(Debug, Args)]
pub(crate) struct MineFlags {
    /// Model whose embeddings are searched: a folder, or a name on the hub with an optional @revision.
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: String,
    /// Pairs of anchor and positive: a file, glob or folder (parquet, CSV, TSV, JSON Lines), or a name on the hub
    /// with an optional :subset.
    #[arg(long, value_name = "DATA")]
    pub(crate) data: String,
    /// Split of a folder or of a data set on the hub: train, dev, test.
    #[arg(long, value_name = "SPLIT", default_value = "train")]
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
    /// Rows that hold an empty text or no value: error (stop and name them), skip (leave them out and count them).
    #[arg(long, value_name = "ROWS", default_value = "error", value_parser = by_name::<OnBadRow>)]
    pub(crate) on_bad_row: OnBadRow,
    /// Texts to mine in beside the positives: a text file (one a line), CSV, TSV, JSON Lines or parquet.
    #[arg(long, value_name = "FILE")]
    pub(crate) corpus: Option<String>,
    /// Column of the corpus that holds the texts [default: its only text column].
    #[arg(long, value_name = "NAME", requires = "corpus")]
    pub(crate) corpus_column: Option<String>,
    #[command(flatten)]
    pub(crate) output: OutputTable,

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
    /// Candidates to take: the nearest, or any.
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
    /// Form of the table's rows.
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

/// The choice of negatives among the candidates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sampling {
    /// The nearest.
    Top,
    /// Any, by --seed.
    Random,
}

/// The form of a mined table's rows.
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

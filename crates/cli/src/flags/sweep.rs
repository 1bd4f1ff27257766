//! Flags of `sentune sweep`.

// The doc comments of flags are also their help texts, where `<s>` is a token and not a tag.
#![allow(rustdoc::invalid_html_tags, rustdoc::broken_intra_doc_links)]

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct SweepFlags {
    /// Configuration file (TOML): the keys of one for `sentune train`, and a table [grid] with a list of values for
    /// each key that is to vary. Several grids, as [[grid]], are run one after the other.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Folder of the sweep, with a folder for each run [default: `output-dir` of the file, else runs/<its name>].
    #[arg(long, value_name = "FOLDER")]
    pub(crate) output_dir: Option<PathBuf>,
    /// The metric to sort and plot by, with or without the data's name before it, such as `cosine_accuracy`
    /// [default: the evaluator's primary one].
    #[arg(long, value_name = "KEY")]
    pub(crate) metric: Option<String>,
    /// Only list the runs, and how far each is.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print one JSON object instead of the table.
    #[arg(long)]
    pub(crate) json: bool,
}

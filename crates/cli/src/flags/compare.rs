//! Flags of `sentune compare`.

use clap::Args;

use crate::flags::eval::EvalDataOptions;

#[derive(Debug, Args)]
pub(crate) struct CompareFlags {
    /// The two models: folders, or names on the hub with an optional @revision.
    #[arg(value_name = "MODEL", num_args = 2, required = true)]
    pub(crate) models: Vec<String>,
    /// Data: a file, glob or folder (parquet, CSV, TSV, JSON Lines), or a name on the hub with an optional
    /// :subset. Three text columns are triplets, two with a score are scored pairs.
    #[arg(long, value_name = "DATA")]
    pub(crate) data: String,
    #[command(flatten)]
    pub(crate) options: EvalDataOptions,
    /// Resamplings of the rows behind the interval of the difference.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) bootstrap: u32,
    /// Seed of the resampling.
    #[arg(long, value_name = "N", default_value_t = 42)]
    pub(crate) seed: u64,
    /// Print JSON Lines, one object a metric, instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

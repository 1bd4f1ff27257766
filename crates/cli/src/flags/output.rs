//! The table that a command writes.

use std::path::PathBuf;

use clap::Args;
use data::TableFormat;

use crate::{
    output::{check_free, table_format},
    usage::UsageError,
};

/// A table by its name, which is not written over unless asked to.
#[derive(Debug, Args)]
pub(crate) struct OutputTable {
    /// Table to write: .parquet, .csv, .tsv or .jsonl.
    #[arg(long = "output", value_name = "FILE")]
    pub(crate) path: PathBuf,
    /// Write over the table if it is there.
    #[arg(long)]
    overwrite: bool,
}

impl OutputTable {
    /// The format by the name's end. Called before the work that the table is to hold.
    ///
    /// # Errors
    /// Where the name has another end, or the table is there already.
    pub(crate) fn check(&self) -> Result<TableFormat, UsageError> {
        let format = table_format("--output", &self.path)?;
        check_free("--output", &self.path, self.overwrite)?;
        Ok(format)
    }
}

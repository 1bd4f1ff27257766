//! Flags of `sentune man`.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct ManFlags {
    /// Folder for the pages of all commands, in place of the program's page on stdout.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) output_dir: Option<PathBuf>,
}

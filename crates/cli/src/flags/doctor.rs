//! Flags of `sentune doctor`.

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct DoctorFlags {
    /// Print one JSON object instead of lines.
    #[arg(long)]
    pub(crate) json: bool,
}

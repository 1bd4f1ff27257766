//! Flags of `sentune push`.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct PushFlags {
    /// Folder of a run, whose trained model is pushed, or of a model.
    #[arg(value_name = "FOLDER")]
    pub(crate) folder: PathBuf,
    /// Repository on the hub, as org/name, or name for one of the token's own account, with an optional @revision
    /// [default: the name of the folder].
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Make the repository private where it is made; --private=false for a public one [default: as the account has it].
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    pub(crate) private: Option<bool>,
    /// First line of the commit's message.
    #[arg(long, value_name = "TEXT", default_value = "Add model")]
    pub(crate) commit_message: String,
    /// Print the repository, its page and the commit as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

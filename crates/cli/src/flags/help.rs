//! Flags of `sentune help`.

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct HelpFlags {
    /// A command, such as `train` or `data stat`, or one of losses, evaluators, datasets.
    #[arg(value_name = "TOPIC")]
    pub(crate) topic: Vec<String>,
}

//! Flags of `sentune train` that share the trained model on the hub.

// The doc comments of flags are also their help texts, where `<s>` is a token and not a tag.
#![allow(rustdoc::invalid_html_tags, rustdoc::broken_intra_doc_links)]

use clap::Args;
use serde::{Deserialize, Serialize};
use train::{by_name, flag_defaults};

/// The repository to push to, when to push, and facts for the model card that no run can know.
#[derive(Debug, Clone, PartialEq, Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct HubFlags {
    /// Push the trained model to the hub; takes HF_TOKEN.
    #[arg(long, help_heading = HUB)]
    pub(crate) push_to_hub: bool,
    /// Repository to push to, as org/name, or name for one of the token's own account [default: the name of the run's
    /// folder].
    #[arg(long, value_name = "NAME", help_heading = HUB)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hub_model_id: Option<String>,
    /// Make the repository private where it is made [default: as the account has it].
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL", help_heading = HUB)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hub_private_repo: Option<bool>,
    /// When to push: end (the trained model), every_save (also the model of each checkpoint), checkpoint (and the
    /// newest checkpoint, to last-checkpoint), all_checkpoints (and each checkpoint, by its name).
    #[arg(long, value_name = "STRATEGY", default_value = "every_save", value_parser = by_name::<HubStrategy>, help_heading = HUB)]
    pub(crate) hub_strategy: HubStrategy,
    /// Title of the model card [default: SentenceTransformer based on <model>].
    #[arg(long, value_name = "TEXT", help_heading = HUB)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) model_card_name: Option<String>,
    /// Languages of the data for the model card, as codes with commas between, such as en,de.
    #[arg(long, value_name = "CODES", value_delimiter = ',', help_heading = HUB)]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) model_card_language: Vec<String>,
    /// License of the model for the model card, by the hub's name for it, such as apache-2.0.
    #[arg(long, value_name = "LICENSE", help_heading = HUB)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) model_card_license: Option<String>,
    /// More tags of the model card, with commas between.
    #[arg(long, value_name = "TAGS", value_delimiter = ',', help_heading = HUB)]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) model_card_tags: Vec<String>,
}

impl Default for HubFlags {
    fn default() -> Self {
        flag_defaults()
    }
}

const HUB: &str = "Sharing on the hub";

/// The times at which something is pushed, as transformers has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum HubStrategy {
    End,
    EverySave,
    Checkpoint,
    AllCheckpoints,
}

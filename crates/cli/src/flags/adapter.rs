//! Flags of `sentune train` that choose what is trained.

// The doc comments of flags are also their help texts, where `[default: ...]` is no link.
#![allow(rustdoc::broken_intra_doc_links)]

use clap::Args;
use model::{BaseModel, Lora, LoraTargets};
use serde::{Deserialize, Serialize};
use train::flag_defaults;

use crate::usage::UsageError;

/// An adapter that is trained in place of the encoder's weights, and parts that are not trained.
#[derive(Debug, Clone, PartialEq, Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct AdapterFlags {
    /// Train a low-rank adapter (LoRA) of this rank in place of the encoder's weights; 8 to 64 are usual.
    #[arg(long, alias = "lora-rank", value_name = "N", help_heading = ADAPTERS)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lora_r: Option<i64>,
    /// Numerator of the adapter's factor, alpha / r [default: that of --lora-r].
    #[arg(long, value_name = "X", help_heading = ADAPTERS)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lora_alpha: Option<f64>,
    /// Dropout probability of the adapter's input.
    #[arg(long, value_name = "P", default_value = "0", help_heading = ADAPTERS)]
    pub(crate) lora_dropout: f64,
    /// Linear layers that get an adapter: names with commas between, such as query,key,value, or all-linear [default: the
    /// projections to query and value].
    #[arg(long, value_name = "NAMES", value_delimiter = ',', help_heading = ADAPTERS)]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) lora_target_modules: Vec<String>,
    /// Divide alpha by the square root of the rank instead of the rank (rsLoRA).
    #[arg(long, alias = "use-rslora", help_heading = ADAPTERS)]
    pub(crate) lora_rslora: bool,
    /// Merge the trained adapter into the weights: `final` holds a whole model, and checkpoints the adapter.
    #[arg(long, help_heading = ADAPTERS)]
    pub(crate) lora_merge: bool,
    /// Parts that are not trained, with commas between, such as embeddings,layers:0-5; a wrong name is answered with the
    /// parts that the model has. With --lora-r, layers that get no adapter.
    #[arg(long, value_name = "PARTS", value_delimiter = ',', help_heading = ADAPTERS)]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) freeze: Vec<String>,
}

impl Default for AdapterFlags {
    fn default() -> Self {
        flag_defaults()
    }
}

const ADAPTERS: &str = "Adapters and freezing";

impl AdapterFlags {
    /// The adapter to add, with its base as adapter_config.json is to name it.
    ///
    /// # Errors
    ///
    /// When there are settings of an adapter, but no rank.
    pub(crate) fn lora(
        &self,
        base: Option<BaseModel>,
        seed: u64,
    ) -> Result<Option<Lora>, UsageError> {
        let Some(rank) = self.lora_r else {
            for (flag, is_given) in [
                ("lora-alpha", self.lora_alpha.is_some()),
                ("lora-dropout", self.lora_dropout != 0.0),
                ("lora-target-modules", !self.lora_target_modules.is_empty()),
                ("lora-rslora", self.lora_rslora),
            ] {
                if is_given {
                    return Err(UsageError(format!(
                        "--{flag} is a setting of a new adapter: give its rank too, such as --lora-r 16"
                    )));
                }
            }
            return Ok(None);
        };
        let targets = match self.lora_target_modules.as_slice() {
            [] => LoraTargets::QueryAndValue,
            [all] if all == "all-linear" => LoraTargets::AllLinear,
            names => LoraTargets::Names(names.to_vec()),
        };
        Ok(Some(Lora {
            rank,
            alpha: self.lora_alpha.unwrap_or(rank as f64),
            dropout: self.lora_dropout,
            targets,
            rslora: self.lora_rslora,
            base,
            seed,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_alone_makes_an_adapter_of_factor_one() {
        let flags = AdapterFlags::default();
        assert_eq!(flags.lora(None, 1).unwrap(), None);
        let flags = AdapterFlags {
            lora_r: Some(16),
            ..flags
        };
        let expected = Lora {
            seed: 1,
            ..Lora::new(16)
        };
        assert_eq!(flags.lora(None, 1).unwrap(), Some(expected));
    }

    #[test]
    fn settings_without_a_rank_are_refused() {
        let flags = AdapterFlags {
            lora_alpha: Some(32.0),
            ..AdapterFlags::default()
        };
        let message = flags.lora(None, 1).unwrap_err().to_string();
        assert!(
            message.contains("--lora-alpha") && message.contains("--lora-r 16"),
            "{message}"
        );
    }
}

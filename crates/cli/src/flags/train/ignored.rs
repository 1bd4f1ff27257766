//! Flags of transformers' `TrainingArguments` that change nothing here, so that a script's command line can be kept.

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, parser::ValueSource};

/// The names of the flags, each with the reason.
const FLAGS: [(&str, &str); 22] = [
    ("dataloader-num-workers", IN_MEMORY),
    ("dataloader-persistent-workers", IN_MEMORY),
    ("dataloader-pin-memory", IN_MEMORY),
    ("dataloader-prefetch-factor", IN_MEMORY),
    ("ddp-backend", "the device decides on it"),
    ("ddp-find-unused-parameters", "all gradients are one tensor"),
    ("disable-tqdm", "--quiet hides the bar"),
    ("do-eval", "evaluations go by --eval-strategy"),
    ("do-train", "sentune train trains"),
    (
        "gradient-checkpointing",
        "--mini-batch-tokens bounds the memory of a step",
    ),
    ("local-rank", "LOCAL_RANK says it"),
    ("log-level", "-v, -q and RUST_LOG choose the log lines"),
    ("log-on-each-node", "rank 0 logs"),
    ("logging-dir", LOG),
    ("overwrite-cache", "token ids are kept by their texts"),
    (
        "remove-unused-columns",
        "columns that are not used are not kept",
    ),
    ("report-to", LOG),
    ("run-name", "the folder names the run"),
    ("save-safetensors", "all weights are saved as safetensors"),
    ("skip-memory-metrics", "no memory is measured"),
    ("torch-compile", "there is nothing to compile"),
    (
        "torch-empty-cache-steps",
        "memory is kept for the next step",
    ),
];

const IN_MEMORY: &str = "token ids are in memory";
const LOG: &str = "the log goes to metrics.jsonl and TensorBoard's files in the folder of the run";

/// The given flags that change nothing.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct IgnoredFlags {
    /// Places in [`FLAGS`].
    given: Vec<usize>,
    /// The value of `--report-to`.
    report_to: Option<String>,
}

impl IgnoredFlags {
    /// Each given flag with the reason why it changes nothing.
    pub(crate) fn reasons(&self) -> Vec<String> {
        let given = self.given.iter().map(|&place| FLAGS[place]);
        given
            .map(|(name, reason)| format!("--{name} ({reason})"))
            .collect()
    }

    /// A receiver of the log that there is not, if one is asked for.
    pub(crate) fn unknown_receiver(&self) -> Option<&str> {
        let known = ["none", "all", "tensorboard"];
        let asked = self.report_to.as_deref()?;
        asked
            .split([',', ' '])
            .find(|receiver| !receiver.is_empty() && !known.contains(receiver))
    }
}

impl Args for IgnoredFlags {
    fn augment_args(command: Command) -> Command {
        let argument = |name: &'static str| {
            Arg::new(name)
                .long(name)
                .num_args(0..=1)
                .default_missing_value("true")
                .hide(true)
        };
        command.args(FLAGS.map(|(name, _)| argument(name)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for IgnoredFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let is_given =
            |&place: &usize| matches.value_source(FLAGS[place].0) == Some(ValueSource::CommandLine);
        Ok(Self {
            given: (0..FLAGS.len()).filter(is_given).collect(),
            report_to: matches.get_one("report-to").cloned(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str]) -> IgnoredFlags {
        let command = IgnoredFlags::augment_args(Command::new("train").no_binary_name(true));
        let matches = command.try_get_matches_from(arguments).unwrap();
        IgnoredFlags::from_arg_matches(&matches).unwrap()
    }

    #[test]
    fn values_may_stand_apart_or_lack() {
        let flags = read(&["--disable-tqdm", "true", "--do-train", "--run-name=first"]);
        assert_eq!(
            flags.reasons(),
            [
                "--disable-tqdm (--quiet hides the bar)",
                "--do-train (sentune train trains)",
                "--run-name (the folder names the run)",
            ]
        );
        assert!(read(&[]).reasons().is_empty());
    }

    #[test]
    fn a_receiver_of_the_log_that_there_is_not_is_named() {
        let unknown = |receivers| {
            let flags = read(&["--report-to", receivers]);
            flags.unknown_receiver().map(str::to_owned)
        };
        for known in ["none", "tensorboard", "all", "none,tensorboard"] {
            assert_eq!(unknown(known), None, "{known}");
        }
        assert_eq!(unknown("tensorboard,wandb").as_deref(), Some("wandb"));
    }
}

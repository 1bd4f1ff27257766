//! Flags of `sentune train`.

// The doc comments of flags are also their help texts, where `<s>` is a token and not a tag.
#![allow(rustdoc::invalid_html_tags, rustdoc::broken_intra_doc_links)]

mod ignored;

use std::{fmt, path::PathBuf, str::FromStr};

use clap::{Arg, ArgAction, Args};
use data::OnBadRow;
use eval::{
    EvaluatorKind,
    entry::{Entry, Needs, TableNeeds},
    registry::EVALUATORS,
};
use model::{Engine, GemmName};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use train::{TrainingArguments, by_name, flag_defaults};

use crate::{
    flags::{
        adapter::AdapterFlags, eval::EvaluatorName, hub::HubFlags, prompts, reading::ReadingFlags,
        tables::TableFlags,
    },
    named::Named,
};

/// The flags of `sentune train`. Those that shape the run are also the keys of its configuration file.
#[derive(Debug, Clone, PartialEq, Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[command(mut_args = with_optional_value)]
pub(crate) struct TrainFlags {
    /// Model to start from: a folder, or a name on the hub with an optional @revision.
    #[arg(long, value_name = "MODEL", default_value = "microsoft/mpnet-base", help_heading = DATA)]
    pub(crate) model: String,
    /// Training data: a file, glob or folder (parquet, CSV, TSV, JSON Lines), or a name on the hub with an
    /// optional :subset; several as NAME=DATA, each with the flag.
    #[arg(long, value_name = "DATA", default_value = ARTICLE_DATA, help_heading = DATA)]
    #[serde(with = "crate::named")]
    pub(crate) train_data: Vec<Named<String>>,
    /// Data for evaluations during training; several as NAME=DATA.
    #[arg(long, value_name = "DATA", help_heading = DATA)]
    #[serde(with = "crate::named", default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) eval_data: Vec<Named<String>>,
    /// Data for the evaluation before and after [default with the default training data: its test split].
    #[arg(long, value_name = "DATA", help_heading = DATA)]
    pub(crate) test_data: Option<String>,
    /// Evaluator for the evaluation and test data: triplet, embedding-similarity, binary-classification,
    /// translation, reranking, paraphrase-mining; or information-retrieval, of --queries, --corpus and --qrels, or
    /// nano-beir, also as nano-beir:msmarco,nq [default: triplet or embedding-similarity, by the columns].
    #[arg(long, value_name = "EVALUATOR", help_heading = DATA)]
    pub(crate) evaluator: Option<RunEvaluator>,
    /// Columns to use, in order, separated by commas; labels by their name [default: all].
    #[arg(long, value_name = "NAMES", value_delimiter = ',', help_heading = DATA)]
    pub(crate) columns: Option<Vec<String>>,
    /// Text put before the texts of a column, in training and in the evaluation loss: TEXT for all columns,
    /// COLUMN=TEXT, SET=TEXT or SET.COLUMN=TEXT, several each with the flag, or JSON.
    #[arg(long, value_name = "PROMPT", value_parser = prompts::parse, help_heading = DATA)]
    #[serde(with = "prompts", default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) prompts: Vec<train::Prompts>,
    /// Use only the first N rows of the training data [default with the default training data: 100000].
    #[arg(long, value_name = "N", help_heading = DATA)]
    pub(crate) max_train_samples: Option<usize>,
    /// Use only the first N rows of the evaluation data.
    #[arg(long, value_name = "N", help_heading = DATA)]
    pub(crate) max_eval_samples: Option<usize>,
    /// Rows that hold an empty text or no value: error (stop and name them), skip (leave them out and count them).
    #[arg(long, value_name = "ROWS", default_value = "error", value_parser = by_name::<OnBadRow>, help_heading = DATA)]
    pub(crate) on_bad_row: OnBadRow,
    /// Where texts and token ids of the training data are: always in memory; never, the token ids on disk in the cache
    /// folder; or auto, by their size and the memory that is free.
    #[arg(long, value_name = "WHEN", default_value = "auto", value_parser = by_name::<DataInMemory>, help_heading = DATA)]
    pub(crate) data_in_memory: DataInMemory,
    #[command(flatten, next_help_heading = DATA)]
    #[serde(flatten)]
    pub(crate) reading: ReadingFlags,
    /// Folder of the run; the trained model goes to its `final` [default: runs/<model>-<data>].
    #[arg(long, value_name = "FOLDER", help_heading = DATA)]
    pub(crate) output_dir: Option<PathBuf>,
    /// Longest input in tokens; longer texts are cut off [default: the model's].
    #[arg(long, value_name = "N", help_heading = DATA)]
    pub(crate) max_seq_length: Option<usize>,
    /// Dropout probability everywhere [default: the model's].
    #[arg(long, value_name = "P", help_heading = DATA)]
    pub(crate) dropout: Option<f64>,

    /// Loss and its parameters, such as `multiple-negatives-ranking:scale=20`, `triplet:margin=5`; class names
    /// are accepted. With several data sets, one for all or NAME=LOSS for each.
    #[arg(long, value_name = "LOSS", default_value = "multiple-negatives-ranking", help_heading = TRAINING)]
    #[serde(with = "crate::named")]
    pub(crate) loss: Vec<Named<losses::LossConfig>>,
    /// Model whose embeddings, or similarities of query and document, become the labels: for mse, embed-distill,
    /// margin-mse and distill-kl-div.
    #[arg(long, value_name = "MODEL", help_heading = TRAINING)]
    pub(crate) teacher: Option<String>,
    /// Engine that runs the encoder: auto, kernels (ours, on the CPU), libtorch (on any device).
    #[arg(long, value_name = "NAME", default_value = "auto", value_parser = by_name::<Engine>, help_heading = TRAINING)]
    pub(crate) engine: Engine,
    /// Backend of matrix products in fp32: auto, rust, libtorch.
    #[arg(long, value_name = "NAME", default_value = "auto", value_parser = by_name::<GemmName>, help_heading = TRAINING)]
    pub(crate) gemm: GemmName,
    /// The trainer's own.
    #[command(flatten)]
    #[serde(flatten, skip_deserializing)]
    pub(crate) arguments: TrainingArguments,

    #[command(flatten)]
    #[serde(flatten, skip_deserializing)]
    pub(crate) adapter: AdapterFlags,

    #[command(flatten)]
    #[serde(flatten, skip_deserializing)]
    pub(crate) tables: TableFlags,

    #[command(flatten)]
    #[serde(flatten, skip_deserializing)]
    pub(crate) hub: HubFlags,

    #[command(flatten)]
    #[serde(skip)]
    pub(crate) call: TrainCall,
}

impl Default for TrainFlags {
    fn default() -> Self {
        flag_defaults()
    }
}

/// Whether texts and token ids of the training data are in memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DataInMemory {
    /// Decided by their size and the memory that is free.
    #[default]
    Auto,
    /// All of them.
    Always,
    /// None: token ids are on disk.
    Never,
}

/// An evaluator that a run may have.
#[derive(Debug, Clone)]
pub(crate) enum RunEvaluator {
    /// An evaluator of a data set.
    Columns(EvaluatorKind),
    /// An evaluator of tables with ids.
    Tables(&'static Entry, &'static TableNeeds),
    /// An evaluator of tasks from the hub, all or those of these names.
    Tasks(&'static Entry, Option<String>),
}

impl RunEvaluator {
    fn of(entry: &'static Entry, tasks: Option<String>) -> Option<Self> {
        match &entry.needs {
            Needs::Tables(needs) => Some(Self::Tables(entry, needs)),
            Needs::Tasks { .. } => Some(Self::Tasks(entry, tasks)),
            Needs::Columns(_) => EvaluatorKind::new(entry).map(Self::Columns),
        }
    }
}

impl fmt::Display for RunEvaluator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Columns(kind) => f.write_str(kind.entry().name),
            Self::Tables(entry, _) | Self::Tasks(entry, None) => f.write_str(entry.name),
            Self::Tasks(entry, Some(tasks)) => write!(f, "{}:{tasks}", entry.name),
        }
    }
}

impl FromStr for RunEvaluator {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // The names are those of `sentune eval`, with what may follow a colon.
        let entry = match text.parse() {
            Ok(EvaluatorName::Registered { entry, tasks }) => Self::of(entry, tasks),
            Ok(EvaluatorName::Sequential) => None,
            Err(problem) if text.contains(':') => return Err(problem),
            Err(_) => None,
        };
        entry.ok_or_else(|| {
            let known = EVALUATORS
                .into_iter()
                .filter_map(|entry| Self::of(entry, None));
            format!(
                "a run has no evaluator `{text}`: there are {}",
                known
                    .map(|known| known.to_string())
                    .collect::<Vec<_>>()
                    .join(", ")
            )
        })
    }
}

impl PartialEq for RunEvaluator {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl Serialize for RunEvaluator {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RunEvaluator {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        name.parse().map_err(D::Error::custom)
    }
}

/// A number of bytes with a unit of thousands.
fn bytes(text: &str) -> Result<u64, String> {
    let units = [("TB", 1e12), ("GB", 1e9), ("MB", 1e6)];
    let parsed = units.into_iter().find_map(|(unit, factor)| {
        let number: f64 = text.strip_suffix(unit)?.trim().parse().ok()?;
        (number >= 0.0 && number.is_finite()).then_some((number * factor) as u64)
    });
    parsed.ok_or_else(|| "allowed: a number with MB, GB or TB, such as 2GB".to_owned())
}

/// The flags of one call of `sentune train`, which a repetition of the run need not have. No configuration file holds
/// them.
#[derive(Debug, Clone, PartialEq, Args)]
pub(crate) struct TrainCall {
    /// Configuration file (TOML) whose keys are the names of these flags; flags win over it.
    #[arg(long, value_name = "FILE", help_heading = None::<&'static str>)]
    pub(crate) config: Option<PathBuf>,
    /// Start over in a folder that already holds a run, and remove that run's files.
    #[arg(long, help_heading = DATA)]
    pub(crate) overwrite_output_dir: bool,
    /// Go on from a checkpoint of the same run: a folder, or the newest one that is whole. With auto, go on where there is
    /// one and start where there is none: one command line for the first start and for every restart.
    #[arg(long, alias = "resume", num_args = 0..=1, default_missing_value = "last", value_name = "CHECKPOINT", help_heading = DATA)]
    pub(crate) resume_from_checkpoint: Option<String>,
    /// Go on from the checkpoint even if data, loss, model or arguments are not those of its run.
    #[arg(long, requires = "resume_from_checkpoint", help_heading = DATA)]
    pub(crate) resume_anyway: bool,
    /// Train with N ranks on this machine, a process each, which divide its cores. torchrun, mpiexec and Slurm start ranks
    /// themselves.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..), help_heading = TRAINING)]
    pub(crate) processes: Option<u16>,
    /// Longest time in seconds that a rank waits for another, which may be evaluating.
    #[arg(long, value_name = "SECONDS", default_value = "1800", value_parser = clap::value_parser!(u64).range(1..), help_heading = TRAINING)]
    pub(crate) ddp_timeout: u64,
    /// Keep token ids in the cache folder, and take them from there.
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, default_value = "true", default_missing_value = "true", require_equals = true, value_name = "BOOL", help_heading = DATA)]
    pub(crate) token_cache: bool,
    /// Disk that token ids of all runs together may take in the cache folder: 2GB, 500MB, 1.5TB.
    #[arg(long, value_name = "BYTES", default_value = "2GB", value_parser = bytes, help_heading = DATA)]
    pub(crate) token_cache_limit: u64,
    /// The same as --precision bf16.
    #[arg(long, conflicts_with = "precision", help_heading = TRAINING)]
    pub(crate) bf16: bool,
    /// The same as --precision fp16.
    #[arg(long, conflicts_with_all = ["precision", "bf16"], help_heading = TRAINING)]
    pub(crate) fp16: bool,
    /// Log at the end where the time of a step went: matrix products, attention and so on.
    #[arg(long, help_heading = "Logging, evaluating, saving")]
    pub(crate) profile: bool,
    /// Write no report.html at the end.
    #[arg(long, help_heading = "Logging, evaluating, saving")]
    pub(crate) no_report: bool,
    /// Print every log entry and the results as JSON Lines to stdout.
    #[arg(long, help_heading = "Logging, evaluating, saving")]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) ignored: ignored::IgnoredFlags,
}

impl Default for TrainCall {
    fn default() -> Self {
        flag_defaults()
    }
}

/// The article's data.
pub(crate) const ARTICLE_DATA: &str = "sentence-transformers/all-nli:triplet";

const DATA: &str = "Model and data";
const TRAINING: &str = "Training";

/// A switch with `=true` or `=false` after it, as configuration files have it.
fn with_optional_value(arg: Arg) -> Arg {
    if !matches!(arg.get_action(), ArgAction::SetTrue) {
        return arg;
    }
    arg.action(ArgAction::Set)
        .value_parser(clap::value_parser!(bool))
        .hide_possible_values(true)
        .num_args(0..=1)
        .default_value("false")
        .default_missing_value("true")
        .require_equals(true)
        .value_name("BOOL")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::{Command, parse_from};

    /// The training flags that a command line gives, or the message that refuses it.
    fn train_flags(arguments: &[&str]) -> Result<TrainFlags, String> {
        let all = ["sentune", "train"].iter().chain(arguments);
        let line = parse_from(all.map(Into::into)).map_err(|error| error.to_string())?;
        match line.flags.command {
            Command::Train(flags) => Ok(*flags),
            command => panic!("{command:?} is not train"),
        }
    }

    #[test]
    fn names_of_transformers_are_known() {
        let arguments = train_flags(&[
            "--per_device_train_batch_size=16",
            "--optim",
            "adamw_torch_fused",
            "--lr-scheduler-type",
            "constant_with_warmup",
            "--load-best-model-at-end",
            "--greater-is-better=false",
            "--max-steps",
            "-1",
        ]);
        let expected = TrainingArguments {
            per_device_train_batch_size: 16,
            optim: train::OptimizerName::AdamW,
            lr_scheduler_type: train::SchedulerType::ConstantWithWarmup,
            load_best_model_at_end: true,
            greater_is_better: Some(false),
            max_steps: -1,
            ..TrainingArguments::default()
        };
        assert_eq!(arguments.unwrap().arguments, expected);
    }

    #[test]
    fn switches_take_a_value_after_the_sign_alone() {
        for (argument, expected) in [
            ("--tf32", true),
            ("--tf32=true", true),
            ("--tf32=false", false),
        ] {
            assert_eq!(train_flags(&[argument]).unwrap().arguments.tf32, expected);
        }
        assert!(train_flags(&["--tf32", "false"]).is_err());
        assert!(train_flags(&[]).unwrap().call.token_cache);
    }

    #[test]
    fn the_limit_of_the_token_cache_has_a_unit() {
        let limit = |text: &str| {
            let flags = train_flags(&[&format!("--token-cache-limit={text}")]);
            flags.map(|flags| flags.call.token_cache_limit)
        };
        let default = train_flags(&[]).unwrap().call.token_cache_limit;
        assert_eq!(default, 2_000_000_000);
        assert_eq!(limit("1.5TB").unwrap(), 1_500_000_000_000);
        assert_eq!(limit("0MB").unwrap(), 0);
        for wrong in ["2", "GB", "-1GB", "2gb", "nanGB", "infGB"] {
            let message = limit(wrong).unwrap_err().to_string();
            assert!(message.contains("such as 2GB"), "{wrong}: {message}");
        }
    }

    #[test]
    fn data_is_in_memory_by_its_size_where_nothing_else_is_said() {
        let choice = |arguments: &[&str]| train_flags(arguments).map(|f| f.data_in_memory);
        assert_eq!(choice(&[]), Ok(DataInMemory::Auto));
        let never = choice(&["--data-in-memory", "never"]);
        assert_eq!(never, Ok(DataInMemory::Never));
        let message = choice(&["--data-in-memory=false"]).unwrap_err();
        assert!(message.contains("`always`"), "{message}");
    }

    #[test]
    fn precision_is_said_once() {
        for two in [["--bf16", "--fp16"], ["--bf16", "--precision=fp16"]] {
            let message = train_flags(&two).unwrap_err();
            assert!(message.contains("cannot be used with"), "{message}");
        }
        let message = train_flags(&["--precision=fp8"]).unwrap_err();
        assert!(message.contains("`bf16`"), "{message}");
    }

    #[test]
    fn the_last_of_two_flags_wins() {
        let flags = train_flags(&["--seed", "1", "--seed", "2"]).unwrap();
        assert_eq!(flags.arguments.seed, 2);
    }
}

//! Flags of `sentune eval`.

use std::{fmt, path::PathBuf, str::FromStr};

use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches, ValueEnum};
use data::{OnBadRow, Split};
use eval::{
    Options, Similarity,
    entry::{Entry, Needs},
    options::Flag,
    registry::{self, EVALUATORS},
};
use train::by_name;

use crate::{
    flags::{encode::EncodingFlags, reading::ReadingFlags},
    named::Named,
};

#[derive(Debug, Args)]
pub(crate) struct EvalFlags {
    /// Model: a folder, or a name on the hub with an optional @revision.
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: String,
    /// Evaluators: triplet, embedding-similarity, binary-classification, translation, reranking, mse,
    /// label-accuracy, paraphrase-mining, information-retrieval, nano-beir (or nano-beir:msmarco,nq); class names
    /// are accepted. Several, each with the flag, are put through one after the other (sequential): for several
    /// data sets as NAME=EVALUATOR [default: triplet or embedding-similarity, by the columns].
    #[arg(long, value_name = "EVALUATOR")]
    pub(crate) evaluator: Vec<Named<EvaluatorName>>,
    /// Data: a file, glob or folder (parquet, CSV, TSV, JSON Lines), or a name on the hub with an optional
    /// :subset; several as NAME=DATA, each with the flag.
    #[arg(long, value_name = "DATA")]
    pub(crate) data: Vec<Named<String>>,
    #[command(flatten)]
    pub(crate) options: EvalDataOptions,

    /// Print one JSON object with the evaluators' keys instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
    /// Append the metrics to each evaluator's CSV file in this folder.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) csv_dir: Option<PathBuf>,
    /// Give intervals that hold this share of resamplings of the rows, or of the queries.
    #[arg(long, value_name = "SHARE", num_args = 0..=1, default_missing_value = "0.95", require_equals = true, value_parser = share)]
    pub(crate) confidence: Option<f64>,
    /// Resamplings behind an interval.
    #[arg(long, value_name = "N", default_value_t = 1000, requires = "confidence", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) bootstrap: u32,
    /// Seed of the resampling.
    #[arg(long, value_name = "N", default_value_t = 42, requires = "confidence")]
    pub(crate) seed: u64,
    /// How sequential_score combines the evaluators' primary metrics.
    #[arg(long, value_enum, value_name = "WHAT", default_value = "last")]
    pub(crate) main_score: MainScore,

    #[command(flatten)]
    pub(crate) of_evaluators: EvaluatorFlags,
}

/// How data sets are read and similarities are taken.
#[derive(Debug, Args)]
pub(crate) struct EvalDataOptions {
    /// Split of a folder or of a data set on the hub: train, dev, test.
    #[arg(long, value_name = "SPLIT", default_value = "test")]
    pub(crate) split: Split,
    /// Name that the metrics' keys begin with [default: from the data's name].
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Columns to use, in order, separated by commas [default: all].
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) columns: Option<Vec<String>>,
    /// Use only the first N rows.
    #[arg(long, value_name = "N")]
    pub(crate) max_samples: Option<usize>,
    /// Rows that hold an empty text or no value: error (stop and name them), skip (leave them out and count them).
    #[arg(long, value_name = "ROWS", default_value = "error", value_parser = by_name::<OnBadRow>)]
    pub(crate) on_bad_row: OnBadRow,
    #[command(flatten)]
    pub(crate) reading: ReadingFlags,
    /// Similarities to evaluate by, separated by commas: cosine, dot, euclidean, manhattan [default: all four; the
    /// model's own for information-retrieval and nano-beir, cosine for reranking].
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    similarity: Vec<Similarity>,
    #[command(flatten)]
    pub(crate) encoding: EncodingFlags,
}

impl EvalDataOptions {
    /// The similarities that are asked for, or all.
    pub(crate) fn similarities(&self) -> Vec<Similarity> {
        match self.similarity.as_slice() {
            [] => Similarity::ALL.to_vec(),
            given => given.to_vec(),
        }
    }
}

/// The flags that evaluators declare in the registry, as far as they are given.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct EvaluatorFlags {
    given: Vec<(&'static str, Vec<String>)>,
}

impl EvaluatorFlags {
    /// Whether a flag is given.
    pub(crate) fn has(&self, flag: &str) -> bool {
        self.given.iter().any(|(name, _)| *name == flag)
    }

    /// The values of a flag.
    pub(crate) fn texts(&self, flag: &str) -> Option<&[String]> {
        let given = self.given.iter().find(|(name, _)| *name == flag);
        given.map(|(_, values)| values.as_slice())
    }

    /// The value of a flag.
    pub(crate) fn text(&self, flag: &str) -> Option<&str> {
        self.texts(flag)?.first().map(String::as_str)
    }

    /// The flags of these that a command line gives.
    pub(crate) fn given(matches: &ArgMatches, flags: &[&'static Flag]) -> Self {
        let values = |flag: &&'static Flag| match flag.value {
            None => matches.get_flag(flag.name).then(Vec::new),
            Some(_) => {
                let values = matches.get_many::<String>(flag.name)?;
                Some(values.cloned().collect())
            }
        };
        let given = flags.iter().map(|flag| (flag.name, values(flag)));
        Self {
            given: given
                .filter_map(|(name, values)| Some((name, values?)))
                .collect(),
        }
    }

    /// Sets the flags among an evaluator's options.
    pub(crate) fn set_options(&self, options: &mut Options) {
        for (flag, values) in &self.given {
            options.set(flag, values.clone());
        }
    }

    /// Names of flags with their values, of which a switch has none.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, &[String])> {
        let given = self.given.iter();
        given.map(|(name, values)| (*name, values.as_slice()))
    }

    /// Adds a flag.
    pub(crate) fn set(&mut self, name: &'static str, values: Vec<String>) {
        self.given.push((name, values));
    }

    /// The options of evaluators of a model that is meant for `own_similarity`.
    pub(crate) fn options(&self, data: &EvalDataOptions, own_similarity: Similarity) -> Options {
        let mut options = Options::of(&data.similarity);
        options.own_similarity = own_similarity;
        options.truncate_dim = data.encoding.truncate_dim;
        self.set_options(&mut options);
        options
    }
}

impl Args for EvaluatorFlags {
    fn augment_args(command: clap::Command) -> clap::Command {
        command.args(registry::flags().into_iter().map(argument))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for EvaluatorFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::given(matches, &registry::flags());
        Ok(())
    }
}

/// A flag of the registry as the command line has it.
pub(crate) fn argument(flag: &'static Flag) -> Arg {
    let mut argument = Arg::new(flag.name)
        .long(flag.name)
        .help(flag.help)
        .help_heading(flag.heading)
        .allow_hyphen_values(flag.is_signed);
    if let Some(other) = flag.requires {
        argument = argument.requires(other);
    }
    if let Some(other) = flag.conflicts_with {
        argument = argument.conflicts_with(other);
    }
    let Some(value) = flag.value else {
        return argument.action(ArgAction::SetTrue);
    };
    if flag.is_list {
        argument = argument.value_delimiter(',').num_args(1);
    }
    let check = flag.check;
    argument
        .value_name(value)
        .value_parser(move |text: &str| check(text).map(|()| text.to_owned()))
}

/// The way in which several primary metrics become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum MainScore {
    Last,
    Mean,
    Max,
    Min,
}

/// An evaluator by its name.
#[derive(Debug, Clone)]
pub(crate) enum EvaluatorName {
    /// One of the registry, with what follows a colon.
    Registered {
        entry: &'static Entry,
        tasks: Option<String>,
    },
    /// All others that are asked for, one after the other.
    Sequential,
}

const SEQUENTIAL: &str = "sequential";

impl fmt::Display for EvaluatorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Registered { entry, .. } => entry.name,
            Self::Sequential => SEQUENTIAL,
        })
    }
}

impl FromStr for EvaluatorName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, tasks) = match text.split_once(':') {
            Some((name, tasks)) => (name, Some(tasks)),
            None => (text, None),
        };
        let entry = registry::find(name);
        if let Some(tasks) = tasks {
            match entry.map(|entry| &entry.needs) {
                Some(Needs::Tasks { check }) => check(tasks).map_err(|error| error.to_string())?,
                _ => {
                    return Err(format!(
                        "only nano-beir has something after a colon: `{text}`"
                    ));
                }
            }
        }
        if let Some(entry) = entry {
            let tasks = tasks.map(str::to_owned);
            return Ok(Self::Registered { entry, tasks });
        }
        if registry::fold(name) == SEQUENTIAL {
            return Ok(Self::Sequential);
        }
        let names = EVALUATORS.iter().map(|entry| entry.name);
        let names: Vec<&str> = names.chain([SEQUENTIAL]).collect();
        Err(format!(
            "there is no evaluator `{text}`: there are {}",
            names.join(", ")
        ))
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if share > 0.0 && share < 1.0 => Ok(share),
        _ => Err("it must be between 0 and 1, such as 0.95".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evaluators_are_known_by_name_and_class() {
        let parsed = |text: &str| text.parse::<EvaluatorName>();
        let shown = |text: &str| parsed(text).map(|name| name.to_string());
        for entry in EVALUATORS {
            assert_eq!(shown(entry.name).as_deref(), Ok(entry.name));
        }
        assert_eq!(shown("label_accuracy").as_deref(), Ok("label-accuracy"));
        assert_eq!(shown("SequentialEvaluator").as_deref(), Ok("sequential"));
        for name in ["NanoBEIREvaluator:msmarco,NQ", "nano-beir:msmarco+nq"] {
            assert_eq!(shown(name).as_deref(), Ok("nano-beir"));
        }
        let message = parsed("accuracy").unwrap_err();
        assert!(
            message.contains("`accuracy`") && message.contains("reranking, mse"),
            "{message}"
        );
        assert!(
            parsed("nano-beir:all")
                .unwrap_err()
                .contains("quoraretrieval")
        );
        assert!(parsed("triplet:x").unwrap_err().contains("only nano-beir"));
    }
}

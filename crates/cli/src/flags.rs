//! The command line: all commands and the flags that they share.

use std::{collections::BTreeSet, ffi::OsString};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, parser::ValueSource};

use crate::{
    device::DeviceName,
    flags::{
        compare::CompareFlags,
        completions::CompletionsFlags,
        data::DataCommand,
        doctor::DoctorFlags,
        encode::EncodeFlags,
        eval::EvalFlags,
        help::HelpFlags,
        init::InitFlags,
        man::ManFlags,
        merge::MergeFlags,
        mine::MineFlags,
        push::PushFlags,
        report::{ReportFlags, WatchFlags},
        search::SearchFlags,
        sweep::SweepFlags,
        train::TrainFlags,
    },
};

pub(crate) mod adapter;
pub(crate) mod compare;
pub(crate) mod completions;
pub(crate) mod data;
pub(crate) mod doctor;
pub(crate) mod encode;
pub(crate) mod eval;
#[cfg(test)]
mod guide;
pub(crate) mod help;
pub(crate) mod hub;
pub(crate) mod init;
pub(crate) mod man;
pub(crate) mod merge;
pub(crate) mod mine;
pub(crate) mod output;
pub(crate) mod prompts;
pub(crate) mod push;
pub(crate) mod reading;
pub(crate) mod report;
pub(crate) mod search;
pub(crate) mod sweep;
pub(crate) mod tables;
pub(crate) mod train;

/// Fine-tune sentence transformers.
#[derive(Debug, Parser)]
#[command(
    name = "sentune",
    version,
    max_term_width = 100,
    args_override_self = true,
    disable_help_subcommand = true,
    before_help = "Example:
  sentune train --model microsoft/mpnet-base --train-data own.csv --test-data own-test.csv"
)]
pub(crate) struct Flags {
    #[command(subcommand)]
    pub(crate) command: Command,

    /// Show more log lines (-v: debug, -vv: trace); RUST_LOG wins over it.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,

    /// Show warnings and errors alone, and no progress.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,

    /// Threads of all work [default: all cores].
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) num_threads: Option<u16>,

    /// Device to compute on: auto, cpu, cuda, cuda:N; auto is the first CUDA device where libtorch has CUDA and
    /// there is one, else the CPU [default: auto].
    #[arg(long, global = true, value_name = "DEVICE")]
    pub(crate) device: Option<DeviceName>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Fine-tune a model, with an evaluation before and after. Without flags it is the run of the article:
    /// microsoft/mpnet-base on the first 100,000 NLI triplets.
    #[command(before_help = "Example:
  sentune train --model microsoft/mpnet-base --train-data own.csv --test-data own-test.csv")]
    Train(Box<TrainFlags>),
    /// Train with every combination of a grid of values, and compare the results.
    #[command(before_help = "Example:
  sentune sweep --config sweep.toml --dry-run")]
    Sweep(SweepFlags),
    /// Evaluate a model: on triplets, pairs, retrieval, reranking, NanoBEIR and more.
    #[command(before_help = "Example:
  sentune eval --model runs/mpnet-base-own/final --data own-test.csv")]
    Eval(Box<EvalFlags>),
    /// Turn sentences into embeddings.
    #[command(before_help = "Example:
  sentune encode --model runs/mpnet-base-own/final --input sentences.txt --output sentences.npy")]
    Encode(EncodeFlags),
    /// Mine hard negatives: texts that are near an anchor and not its positives.
    #[command(before_help = "Example:
  sentune mine --model runs/mpnet-base-own/final --data pairs.csv --output triplets.parquet --relative-margin 0.05")]
    Mine(Box<MineFlags>),
    /// Find the texts of a corpus that are nearest to queries.
    #[command(before_help = "Example:
  sentune search --model runs/mpnet-base-own/final --corpus sentences.txt --query tea --top-k 3")]
    Search(SearchFlags),
    /// Inspect data sets, convert them, split them, or make triplets of NLI pairs.
    #[command(
        subcommand,
        before_help = "Example:
  sentune data stat --data own.csv"
    )]
    Data(DataCommand),
    /// Evaluate two models on one data set, with an interval of the difference.
    #[command(before_help = "Example:
  sentune compare microsoft/mpnet-base runs/mpnet-base-own/final --data own-test.csv")]
    Compare(CompareFlags),
    /// Write one HTML page about a run, or about several: curves, figures before and after, rows that turned,
    /// neighbours, similarities, data, speed, configuration.
    #[command(before_help = "Example:
  sentune report runs/mpnet-base-own")]
    Report(ReportFlags),
    /// Follow a run of another process or machine from its folder.
    #[command(before_help = "Example:
  sentune watch runs/mpnet-base-own")]
    Watch(WatchFlags),
    /// Make a model with random weights, to be trained from nothing.
    #[command(before_help = "Example:
  sentune init --vocab-file vocab.txt --output small --hidden-size 64 --num-attention-heads 4")]
    Init(InitFlags),
    /// Merge models of one architecture into one: a soup, a point between two, or their agreeing differences.
    #[command(before_help = "Example:
  sentune merge --model runs/one/final --model runs/two/final --output soup")]
    Merge(MergeFlags),
    /// Show the installation, as a bug report needs it, and what is wrong with it.
    #[command(before_help = "Example:
  sentune doctor")]
    Doctor(DoctorFlags),
    /// Print the script by which a shell completes command lines.
    #[command(before_help = "Example:
  sentune completions bash")]
    Completions(CompletionsFlags),
    /// Print the manual page, or write those of all commands.
    #[command(before_help = "Example:
  sentune man --output-dir man1")]
    Man(ManFlags),
    /// Show the help of a command, or list losses, evaluators or datasets.
    #[command(before_help = "Example:
  sentune help losses")]
    Help(HelpFlags),
    /// Push the trained model of a run to the hub, in one commit that is there whole or not at all. Takes HF_TOKEN.
    #[command(before_help = "Example:
  sentune push runs/mpnet-base-own org/mpnet-base-own")]
    Push(PushFlags),
}

impl Command {
    /// Whether the command computes on a device.
    pub(crate) fn computes(&self) -> bool {
        match self {
            Self::Train(_)
            | Self::Sweep(_)
            | Self::Eval(_)
            | Self::Encode(_)
            | Self::Mine(_)
            | Self::Search(_)
            | Self::Compare(_)
            | Self::Report(_) => true,
            Self::Data(_)
            | Self::Init(_)
            | Self::Merge(_)
            | Self::Push(_)
            | Self::Watch(_)
            | Self::Doctor(_)
            | Self::Completions(_)
            | Self::Man(_)
            | Self::Help(_) => false,
        }
    }
}

/// A command line that was understood.
pub(crate) struct CommandLine {
    pub(crate) flags: Flags,
    /// The names of the command's flags that it gives.
    pub(crate) given: BTreeSet<String>,
    /// The names of all flags that messages to its user may name.
    pub(crate) known: BTreeSet<String>,
}

/// Reads a command line.
///
/// # Errors
/// clap's, which is also the way in which `--help` is answered.
pub(crate) fn parse_from(
    arguments: impl Iterator<Item = OsString>,
) -> Result<CommandLine, clap::Error> {
    let root = Flags::command();
    let matches = root.clone().try_get_matches_from(with_dashes(arguments))?;
    let flags = Flags::from_arg_matches(&matches)?;
    let (mut command, mut matches) = (&root, &matches);
    while let Some((name, below)) = matches.subcommand() {
        let Some(found) = command.find_subcommand(name) else {
            break;
        };
        (command, matches) = (found, below);
    }
    let is_given =
        |id: &&clap::Id| matches.value_source(id.as_str()) == Some(ValueSource::CommandLine);
    let given = matches.ids().filter(is_given);
    let mut known: Vec<&clap::Command> = vec![&root, command];
    if let Command::Sweep(_) = &flags.command {
        // The keys of its file are the flags of train.
        known.extend(root.find_subcommand("train"));
    }
    let known = known.into_iter().flat_map(clap::Command::get_arguments);
    let known = known.filter_map(clap::Arg::get_long);
    Ok(CommandLine {
        given: given.map(|id| id.as_str().replace('_', "-")).collect(),
        known: known.map(str::to_owned).collect(),
        flags,
    })
}

/// The command line with `--flag_name` read as `--flag-name`: transformers' users know both.
fn with_dashes(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    arguments
        .map(|argument| {
            let Some(text) = argument.to_str().filter(|text| text.starts_with("--")) else {
                return argument;
            };
            match text.split_once('=') {
                Some((flag, value)) => format!("{}={value}", flag.replace('_', "-")).into(),
                None => text.replace('_', "-").into(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_consistent() {
        Flags::command().debug_assert();
    }

    /// The commands that have no subcommands, by their names.
    fn leaves(command: &clap::Command, name: &str) -> Vec<(String, String)> {
        let below: Vec<_> = command
            .get_subcommands()
            .flat_map(|below| leaves(below, &format!("{name} {}", below.get_name())))
            .collect();
        if !below.is_empty() {
            return below;
        }
        let example = command.get_before_help().map(ToString::to_string);
        vec![(name.to_owned(), example.unwrap_or_default())]
    }

    #[test]
    fn every_help_begins_with_an_example_that_is_understood() {
        let mut command = Flags::command();
        command.build();
        for (name, text) in leaves(&command, "sentune") {
            let example = text.strip_prefix("Example:\n  ").expect(&name);
            assert!(
                format!("{example} ").starts_with(&format!("{name} ")),
                "{name}: {example}"
            );
            let words = example.split_whitespace().map(OsString::from);
            parse_from(words).unwrap_or_else(|error| panic!("{example}: {error}"));
        }
    }

    #[test]
    fn underscores_are_dashes_in_names_only() {
        let arguments = [
            "--learning_rate",
            "1e-4",
            "--model=a_b",
            "a_b",
            "--",
            "-x_y",
        ];
        let dashed = with_dashes(arguments.iter().map(OsString::from));
        assert_eq!(
            dashed,
            [
                "--learning-rate",
                "1e-4",
                "--model=a_b",
                "a_b",
                "--",
                "-x_y"
            ]
        );
    }
}

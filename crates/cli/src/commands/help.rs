//! `sentune help`: the help of a command, or a list of the losses, evaluators or forms of data.

use clap::{Command, CommandFactory};
use eval::{entry::Needs, registry::EVALUATORS};
use losses::{BuildContext, LossConfig};
use tch::Device;

use crate::{
    flags::{Flags, help::HelpFlags},
    output::print,
    usage::UsageError,
};

/// Prints the help of a topic.
pub(crate) fn run(flags: &HelpFlags) -> anyhow::Result<()> {
    let topic: Vec<&str> = flags.topic.iter().map(String::as_str).collect();
    let text = match topic.as_slice() {
        ["losses"] => list_losses()?,
        ["evaluators"] => list_evaluators(),
        ["datasets"] => DATASETS.to_owned(),
        path => of_command(path)?,
    };
    Ok(print(&text)?)
}

/// The help of the command at the end of a path of subcommands, as its `--help` prints it.
fn of_command(path: &[&str]) -> Result<String, UsageError> {
    let root = Flags::command();
    let mut command: &Command = &root;
    for name in path {
        command = command.find_subcommand(name).ok_or_else(|| {
            let commands: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
            UsageError(format!(
                "there is no help on `{name}`: there is help on {}, and on losses, evaluators, datasets",
                commands.join(", ")
            ))
        })?;
    }
    let line = ["sentune"].iter().chain(path).chain(&["--help"]);
    match root.clone().try_get_matches_from(line) {
        Err(help) => Ok(help.render().to_string()),
        Ok(_) => Err(UsageError(format!("{} has no help", path.join(" ")))),
    }
}

/// The losses of the registry, each with the data that it needs.
fn list_losses() -> anyhow::Result<String> {
    let context = BuildContext {
        dimension: Some(1),
        device: Device::Cpu,
        seed: 0,
    };
    let mut text = "\
Example:
  sentune train --train-data scored.csv --loss cosent:scale=10

Losses for `sentune train --loss NAME` or NAME:parameter=value, each with the data that it needs:
"
    .to_owned();
    for name in losses::names() {
        if losses::is_wrapper(name) {
            text += &format!("\n  {name}/LOSS\n      the data of LOSS, such as triplet:margin=5\n");
            continue;
        }
        let needs = LossConfig::new(name)?.build(&context)?.requirements();
        let guide = if needs.guide { ", and guide=MODEL" } else { "" };
        text += &format!("\n  {name}\n      {}{guide}\n", needs.describe());
    }
    Ok(text)
}

/// The evaluators of the registry, each with the data that it needs.
fn list_evaluators() -> String {
    let mut text = "\
Example:
  sentune eval --model runs/mpnet-base-own/final --data pairs.csv --evaluator binary-classification

Evaluators for `sentune eval --evaluator NAME`, each with the data that it needs:
"
    .to_owned();
    for entry in EVALUATORS {
        let needs = match &entry.needs {
            Needs::Columns(needs) => format!("--data: {}", needs.words),
            Needs::Tables(needs) => {
                let tables = needs.tables.iter().map(|table| {
                    let flag = table.flag.map_or("data", |flag| flag.name);
                    format!("--{flag}: {}", table.words)
                });
                tables.collect::<Vec<_>>().join("\n      ")
            }
            Needs::Tasks { .. } => "no data: its tasks are on the hub".to_owned(),
        };
        text += &format!("\n  {}\n      {needs}\n", entry.name);
    }
    text
}

/// The forms of data sets.
const DATASETS: &str = "\
Example:
  sentune train --train-data sentence-transformers/all-nli:triplet --test-data own-test.csv

A data set is one of

  a file           .parquet, .csv, .tsv, .jsonl, .ndjson, .json, .arrow, .feather; .gz or .zst after it
  a glob           'data/train-*.parquet'
  a folder         the files of one split in it (--split), or what save_to_disk wrote
  a name           sentence-transformers/all-nli:triplet, on the hub or in its cache, with an optional subset

Columns of text are taken in order, whatever their names are:

  2                anchor, positive
  3                anchor, positive, negative
  4 and more       anchor, positive, negatives
  2 and a score    two sentences and how similar they are
  1 or 2, a class  sentences and a whole number

A column called label, labels, score or scores holds the labels, or the one of --label-column. --columns
chooses columns and their order; `sentune data stat --data DATA` shows what a data set holds.
";

//! The configuration of a training run: the defaults, the file and the flags as tables, laid over each other.
//!
//! The keys are the names of the flags. A flag's name, type, default and help stand with its field, in [`TrainFlags`] or
//! in [`TrainingArguments`].

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    path::{Path, PathBuf},
};

use clap::{Args, Command};
use model::Precision;
use serde::Deserialize;
use toml::{Table, Value, de::DeTable};
use train::TrainingArguments;

use crate::{
    flags::{
        adapter::AdapterFlags,
        hub::HubFlags,
        prompts,
        tables::TableFlags,
        train::{ARTICLE_DATA, TrainCall, TrainFlags},
    },
    named::{self, Named},
    usage::UsageError,
};

/// The article's number of training rows.
const ARTICLE_ROWS: i64 = 100_000;

/// Lays the flags that were `given` over the file they name, and that over the defaults.
///
/// The result names every value that shapes the run, so that saved as TOML it repeats it.
pub(crate) fn resolve(flags: TrainFlags, given: &BTreeSet<String>) -> anyhow::Result<TrainFlags> {
    if let Some(receiver) = flags.call.ignored.unknown_receiver() {
        return Err(UsageError(format!(
            "--report-to {receiver}: there is no such receiver; the log goes to metrics.jsonl and TensorBoard's files in the folder of the run, and none and tensorboard are taken"
        ))
        .into());
    }
    let ignored = flags.call.ignored.reasons();
    if !ignored.is_empty() {
        tracing::info!("taken, and without effect here: {}", ignored.join(", "));
    }
    let mut table = match &flags.call.config {
        Some(path) => read(path)?,
        None => Table::new(),
    };
    let typed = Table::try_from(&flags).map_err(|error| UsageError(error.to_string()))?;
    table.extend(typed.into_iter().filter(|(key, _)| given.contains(key)));
    for (is_asked, precision) in [
        (flags.call.bf16, Precision::Bf16),
        (flags.call.fp16, Precision::Fp16),
    ] {
        if is_asked {
            table.insert("precision".to_owned(), Value::try_from(precision)?);
        }
    }
    Ok(TrainFlags {
        call: flags.call,
        ..resolve_table(table)?
    })
}

/// Lays the keys of a configuration file over the defaults.
pub(crate) fn resolve_table(mut table: Table) -> anyhow::Result<TrainFlags> {
    let keys = keys();
    if let Some(key) = table.keys().find(|key| !keys.contains(*key)) {
        return Err(UsageError(unknown_key(key, &keys)).into());
    }
    if !table.contains_key("train-data") {
        for (key, value) in [
            ("test-data", Value::from(ARTICLE_DATA)),
            ("max-train-samples", Value::from(ARTICLE_ROWS)),
        ] {
            table.entry(key).or_insert(value);
        }
    }
    if let Some(steps) = table.get("logging-steps").cloned() {
        table.entry("eval-steps").or_insert(steps);
    }
    let mut all = Table::try_from(TrainFlags::default())?;
    all.extend(table);
    let mut flags = deserialize(all)?;
    named::check("--loss", &flags.loss)?;
    for (flag, sets) in [
        ("--train-data", &flags.train_data),
        ("--eval-data", &flags.eval_data),
    ] {
        named::check(flag, sets)?;
        check_losses(flag, sets, &flags)?;
    }
    if flags.output_dir.is_none() {
        flags.output_dir = Some(default_output_dir(&flags));
    }
    flags.prompts = prompts::merge(flags.prompts)?.into_iter().collect();
    Ok(flags)
}

/// The configuration as TOML, keys named as the flags.
pub(crate) fn to_toml(flags: &TrainFlags) -> anyhow::Result<String> {
    Ok(format!(
        "# The resolved configuration of a run; `sentune train --config THIS_FILE --output-dir ANOTHER` repeats it.\n{}",
        toml::to_string(flags)?
    ))
}

/// Reads a configuration file. An error names the line of the wrong key or value.
fn read(path: &Path) -> Result<Table, UsageError> {
    let text =
        fs_err::read_to_string(path).map_err(|error| UsageError(format!("--config: {error}")))?;
    let of_file = |problem: String| UsageError(format!("{}: {problem}", path.display()));
    // The parser ends what it points at with a line end.
    let table: Table = text
        .parse()
        .map_err(|error: toml::de::Error| of_file(error.to_string().trim_end().to_owned()))?;
    let keys = keys();
    let defaults =
        Table::try_from(TrainFlags::default()).map_err(|error| of_file(error.to_string()))?;
    for (key, value) in &table {
        let problem = if keys.contains(key) {
            let mut one = defaults.clone();
            one.insert(key.clone(), value.clone());
            match deserialize(one) {
                Ok(_) => continue,
                Err(error) => error.to_string(),
            }
        } else {
            unknown_key(key, &keys)
        };
        return Err(of_file(format!("line {}: {problem}", line_of(&text, key))));
    }
    Ok(table)
}

fn deserialize(table: Table) -> Result<TrainFlags, UsageError> {
    let refused =
        |error: toml::de::Error| UsageError(error.to_string().trim_end().replace('\n', " "));
    Ok(TrainFlags {
        tables: TableFlags::from_table(&table)?,
        adapter: AdapterFlags::deserialize(table.clone()).map_err(refused)?,
        hub: HubFlags::deserialize(table.clone()).map_err(refused)?,
        arguments: TrainingArguments::deserialize(table.clone()).map_err(refused)?,
        ..TrainFlags::deserialize(table).map_err(refused)?
    })
}

/// The keys of a configuration file: the names of all flags but those of one call.
fn keys() -> BTreeSet<String> {
    let names = |command: Command| -> BTreeSet<String> {
        let names = command.get_arguments().filter_map(|arg| arg.get_long());
        names.map(str::to_owned).collect()
    };
    let all = names(TrainFlags::augment_args(Command::new("keys")));
    let of_call = names(TrainCall::augment_args(Command::new("keys")));
    all.difference(&of_call).cloned().collect()
}

fn unknown_key(key: &str, keys: &BTreeSet<String>) -> String {
    let similarity = |known: &&String| strsim::jaro_winkler(known, key);
    let nearest = keys
        .iter()
        .max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
    match nearest.filter(|nearest| similarity(nearest) > 0.8) {
        Some(nearest) => format!("there is no key `{key}`: is `{nearest}` meant?"),
        None => format!(
            "there is no key `{key}`: the keys are the names of the flags that `sentune train --help` lists"
        ),
    }
}

/// The line of a key, counted from one.
fn line_of(text: &str, key: &str) -> usize {
    let start = DeTable::parse(text).ok().and_then(|table| {
        let (found, _) = table.get_ref().get_key_value(key)?;
        Some(found.span().start)
    });
    text[..start.unwrap_or(0)].matches('\n').count() + 1
}

/// Refuses a data set without a loss of its own name where losses have names.
fn check_losses(flag: &str, sets: &[Named<String>], flags: &TrainFlags) -> Result<(), UsageError> {
    let names: Vec<&str> = flags
        .loss
        .iter()
        .filter_map(|loss| loss.name.as_deref())
        .collect();
    let known = |set: &&Named<String>| {
        set.name
            .as_deref()
            .is_some_and(|name| names.contains(&name))
    };
    match sets.iter().find(|set| !known(set)) {
        Some(set) if !names.is_empty() => Err(UsageError(format!(
            "{flag} {set} has no --loss of its name: there are losses for {}",
            names.join(", ")
        ))),
        _ => Ok(()),
    }
}

/// `runs/<model>-<data>`, each by the last part of its name.
fn default_output_dir(flags: &TrainFlags) -> PathBuf {
    let sets: Vec<&str> = flags
        .train_data
        .iter()
        .map(|set| set.name.as_deref().unwrap_or(&set.value))
        .collect();
    let stem = |name: &str| {
        let name = name
            .trim_end_matches('/')
            .rsplit('/')
            .next()
            .unwrap_or(name);
        let name = data::file_stem(Path::new(name))
            .and_then(OsStr::to_str)
            .unwrap_or(name);
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        name.replace(|c| !is_plain(c), "-")
    };
    let model = flags.model.split('@').next().unwrap_or(&flags.model);
    Path::new("runs").join(format!("{}-{}", stem(model), stem(&sets.join("+"))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::{Command as Subcommand, parse_from};

    /// The configuration of a command line.
    fn resolved(arguments: &[&str]) -> anyhow::Result<TrainFlags> {
        let all = ["sentune", "train"].iter().chain(arguments);
        let line = parse_from(all.map(Into::into))?;
        match line.flags.command {
            Subcommand::Train(flags) => resolve(*flags, &line.given),
            command => panic!("{command:?} is not train"),
        }
    }

    /// The configuration of a file's text, with more flags.
    fn of_file(text: &str, more: &[&str]) -> anyhow::Result<TrainFlags> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.toml");
        fs_err::write(&path, text).unwrap();
        resolved(&[&["--config", path.to_str().unwrap()], more].concat())
    }

    fn again(flags: &TrainFlags) -> TrainFlags {
        TrainFlags {
            call: flags.call.clone(),
            ..of_file(&to_toml(flags).unwrap(), &[]).unwrap()
        }
    }

    #[test]
    fn no_flags_are_the_articles_run() {
        let flags = resolved(&[]).unwrap();
        let data = "sentence-transformers/all-nli:triplet";
        assert_eq!(flags.model, "microsoft/mpnet-base");
        assert_eq!(flags.train_data, [Named::plain(data.to_owned())]);
        assert_eq!(flags.test_data.as_deref(), Some(data));
        assert_eq!(flags.max_train_samples, Some(100_000));
        assert_eq!(
            flags.output_dir.as_deref(),
            Some(Path::new("runs/mpnet-base-all-nli-triplet"))
        );
        assert_eq!(flags.arguments, TrainingArguments::default());
    }

    #[test]
    fn own_data_is_used_whole_and_tested_only_where_asked() {
        let flags = resolved(&["--train-data", "data/own.csv"]).unwrap();
        assert_eq!((flags.max_train_samples, flags.test_data), (None, None));
        assert_eq!(
            flags.output_dir.as_deref(),
            Some(Path::new("runs/mpnet-base-own"))
        );
        let flags = resolved(&["--train-data", "a.csv.gz"]).unwrap();
        assert_eq!(
            flags.output_dir.as_deref(),
            Some(Path::new("runs/mpnet-base-a"))
        );
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let text = "learning-rate = 1e-4\nseed = 7\nloss = \"triplet\"\noptim = \"sgd\"\ntrain-data = \"a.csv\"\n";
        // 42 is the default of --seed too.
        let flags = of_file(text, &["--seed", "42", "--train-data", "b.csv"]).unwrap();
        assert_eq!(flags.arguments.learning_rate, 1e-4);
        assert_eq!(flags.arguments.seed, 42);
        assert_eq!(flags.arguments.optim, train::OptimizerName::Sgd);
        assert_eq!(flags.arguments.num_train_epochs, 3.0);
        assert_eq!(flags.train_data, [Named::plain("b.csv".to_owned())]);
    }

    #[test]
    fn bf16_is_a_precision() {
        let flags = of_file("precision = \"fp16\"\n", &["--bf16"]).unwrap();
        assert_eq!(flags.arguments.precision, Precision::Bf16);
        let text = to_toml(&flags).unwrap();
        assert!(text.contains("precision = \"bf16\"\n"), "{text}");
        assert!(text.contains("gemm = \"auto\"\n"), "{text}");
    }

    #[test]
    fn evaluations_are_as_far_apart_as_log_entries() {
        let steps = |more: &[&str]| resolved(more).unwrap().arguments.eval_steps;
        assert_eq!(steps(&[]), 500);
        assert_eq!(steps(&["--logging-steps", "20"]), 20);
        assert_eq!(steps(&["--logging-steps", "20", "--eval-steps", "7"]), 7);
    }

    #[test]
    fn the_saved_configuration_resolves_to_itself() {
        let all = [
            "--model=org/name@v1",
            "--train-data",
            "z=data/z.csv",
            "--train-data",
            "a=data/a.csv",
            "--eval-data",
            "z=data/dev.csv",
            "--loss",
            "z=triplet:margin=1",
            "--loss",
            "a=gist-embed:guide=org/name",
            "--save-total-limit=2",
            "--columns=a,b",
            "--on-bad-row=skip",
            "--tf32",
            "--learning-rate=3e-5",
            "--queries=q.jsonl",
            "--corpus=c.jsonl",
            "--qrels=r.tsv",
            "--qrels-columns=q,d",
            "--ndcg-at-k=5,10",
            "--lora-r=16",
            "--lora-alpha=32",
            "--lora-target-modules=q,k,v",
            "--lora-merge",
            "--freeze=layers:0-2,embeddings",
        ];
        for more in [&[][..], &all] {
            let flags = resolved(more).unwrap();
            assert_eq!(flags, again(&flags), "{more:?}");
        }
        for text in [
            "q: ",
            "anchor=q: ",
            "z.anchor=q: ",
            r#"{"z": {"anchor": "q"}, "a": "b = c"}"#,
        ] {
            let flags = resolved(&["--prompts", text]).unwrap();
            assert_eq!(flags, again(&flags), "{text}");
        }
    }

    /// A flag that is not saved would be lost when a run is repeated.
    #[test]
    fn every_key_is_saved() {
        let mut table = Table::try_from(TrainFlags::default()).unwrap();
        for (key, value) in [
            ("eval-data", "x.csv"),
            ("test-data", "x.csv"),
            ("evaluator", "triplet"),
            ("output-dir", "x"),
            ("teacher", "x"),
            ("metric-for-best-model", "x"),
            ("prompts", "x"),
            ("main-similarity", "cosine"),
            ("label-column", "x"),
            ("separator", ";"),
            ("hub-model-id", "x"),
            ("model-card-name", "x"),
            ("model-card-license", "x"),
        ] {
            table.insert(key.to_owned(), Value::from(value));
        }
        for list in [
            "columns",
            "freeze",
            "lora-target-modules",
            "model-card-language",
            "model-card-tags",
        ] {
            table.insert(list.to_owned(), Value::from(vec!["a"]));
        }
        for switch in [
            "greater-is-better",
            "add-transitive-closure",
            "hub-private-repo",
        ] {
            table.insert(switch.to_owned(), Value::from(true));
        }
        for key in keys() {
            table.entry(key).or_insert(Value::from(1));
        }
        let saved = Table::try_from(deserialize(table).unwrap()).unwrap();
        let saved: BTreeSet<String> = saved.keys().cloned().collect();
        assert_eq!(saved, keys());
    }

    #[test]
    fn a_wrong_key_or_value_is_named_with_its_line() {
        for (text, parts) in [
            (
                "seed = 7\nlearning-rte = 1e-4\n",
                ["line 2", "`learning-rte`", "`learning-rate`"],
            ),
            ("seed = 7\njson = true\n", ["line 2", "`json`", "--help"]),
            ("\n\nseed = \"x\"\n", ["line 3", "\"x\"", "seed"]),
            ("optim = \"lion\"\n", ["line 1", "lion", "adamw_torch"]),
        ] {
            let error = of_file(text, &[]).unwrap_err();
            let message = format!("{error:#}");
            assert!(message.contains("run.toml: "), "{message}");
            for part in parts {
                assert!(message.contains(part), "{part} is not in {message}");
            }
            assert!(error.is::<UsageError>());
        }
    }
}

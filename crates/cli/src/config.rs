//! The configuration of a training run: defaults, then the file, then flags.

use std::path::{Path, PathBuf};

use data::OnBadRow;
use model::{Engine, GemmName, Precision};
use serde::Deserialize;
use train::TrainingArguments;

use crate::{
    flags::{prompts, train::TrainFlags},
    named::{self, Named},
    usage::UsageError,
};

/// The article's base model.
const DEFAULT_MODEL: &str = "microsoft/mpnet-base";
/// The article's data.
const DEFAULT_DATA: &str = "sentence-transformers/all-nli:triplet";
/// The article's number of training rows.
const DEFAULT_MAX_TRAIN_SAMPLES: usize = 100_000;
const DEFAULT_LOSS: &str = "multiple-negatives-ranking";

/// Lays `flags` over the file they name and fills in the defaults.
///
/// What comes out names every value that shapes the run, so that saved as TOML it re-runs it.
pub(crate) fn resolve(mut flags: TrainFlags) -> anyhow::Result<TrainFlags> {
    for (alias, precision) in [
        (flags.bf16.take(), Precision::Bf16),
        (flags.fp16.take(), Precision::Fp16),
    ] {
        if alias == Some(true) {
            flags.precision = Some(precision);
        }
    }
    let file = match &flags.config {
        Some(path) => read(path)?,
        None => TrainFlags::default(),
    };
    with_defaults(overlay(flags, file))
}

/// The configuration that a table of a configuration file's keys says, with the defaults.
pub(crate) fn resolve_table(table: toml::Table) -> anyhow::Result<TrainFlags> {
    let flags = TrainFlags::deserialize(table).map_err(|error| UsageError(error.to_string()))?;
    with_defaults(flags)
}

/// The configuration as TOML, keys named as the flags.
pub(crate) fn to_toml(flags: &TrainFlags) -> anyhow::Result<String> {
    Ok(format!(
        "# The resolved configuration of a run; `sentune train --config THIS_FILE --output-dir ANOTHER` repeats it.\n{}",
        toml::to_string(flags)?
    ))
}

/// The arguments of the trainer.
pub(crate) fn training_arguments(flags: &TrainFlags) -> TrainingArguments {
    let default = TrainingArguments::default();
    macro_rules! arguments {
        ($($field:ident),*; $($optional:ident),*) => {
            TrainingArguments {
                $($field: flags.$field.unwrap_or(default.$field),)*
                $($optional: flags.$optional.clone(),)*
            }
        };
    }
    arguments!(
        num_train_epochs, max_steps, per_device_train_batch_size, per_device_eval_batch_size,
        gradient_accumulation_steps, precision, tf32, full_determinism, auto_micro_batch, cuda_graphs, learning_rate, lr_scheduler_type, warmup_steps, optim,
        weight_decay, adam_beta1, adam_beta2, adam_epsilon, momentum, max_grad_norm, skip_nonfinite, seed,
        batch_sampler, multi_dataset_batch_sampler, dataloader_drop_last, logging_steps, logging_first_step, eval_strategy,
        eval_steps, save_strategy, save_steps, load_best_model_at_end, early_stopping_threshold;
        mini_batch_tokens, data_seed, save_total_limit, metric_for_best_model, greater_is_better,
        early_stopping_patience
    )
}

fn read(path: &Path) -> Result<TrainFlags, UsageError> {
    let text =
        fs_err::read_to_string(path).map_err(|error| UsageError(format!("--config: {error}")))?;
    // The parser ends what it points at with a line end.
    parse(&text).map_err(|error| {
        UsageError(format!(
            "{}: {}",
            path.display(),
            error.to_string().trim_end()
        ))
    })
}

fn parse(text: &str) -> Result<TrainFlags, toml::de::Error> {
    toml::from_str(text)
}

/// Every value that `flags` leaves open is taken from `file`.
fn overlay(flags: TrainFlags, file: TrainFlags) -> TrainFlags {
    macro_rules! overlay {
        ($($field:ident),* $(,)?) => {
            TrainFlags {
                config: flags.config,
                overwrite_output_dir: flags.overwrite_output_dir,
                resume_from_checkpoint: flags.resume_from_checkpoint,
                resume_anyway: flags.resume_anyway,
                token_cache: flags.token_cache,
                profile: flags.profile,
                json: flags.json,
                bf16: None,
                fp16: None,
                $($field: flags.$field.or(file.$field),)*
            }
        };
    }
    overlay!(
        model,
        train_data,
        eval_data,
        test_data,
        evaluator,
        columns,
        prompts,
        max_train_samples,
        max_eval_samples,
        on_bad_row,
        output_dir,
        max_seq_length,
        dropout,
        loss,
        teacher,
        num_train_epochs,
        max_steps,
        per_device_train_batch_size,
        per_device_eval_batch_size,
        gradient_accumulation_steps,
        mini_batch_tokens,
        precision,
        tf32,
        full_determinism,
        auto_micro_batch,
        cuda_graphs,
        engine,
        gemm,
        learning_rate,
        lr_scheduler_type,
        warmup_steps,
        optim,
        weight_decay,
        adam_beta1,
        adam_beta2,
        adam_epsilon,
        momentum,
        max_grad_norm,
        skip_nonfinite,
        seed,
        data_seed,
        batch_sampler,
        multi_dataset_batch_sampler,
        dataloader_drop_last,
        logging_steps,
        logging_first_step,
        eval_strategy,
        eval_steps,
        save_strategy,
        save_steps,
        save_total_limit,
        load_best_model_at_end,
        metric_for_best_model,
        greater_is_better,
        early_stopping_patience,
        early_stopping_threshold,
    )
}

fn with_defaults(mut flags: TrainFlags) -> anyhow::Result<TrainFlags> {
    if flags.train_data.is_none() {
        flags.train_data = Some(vec![Named::plain(DEFAULT_DATA.to_owned())]);
        flags
            .test_data
            .get_or_insert_with(|| DEFAULT_DATA.to_owned());
        flags
            .max_train_samples
            .get_or_insert(DEFAULT_MAX_TRAIN_SAMPLES);
    }
    let model = flags.model.get_or_insert_with(|| DEFAULT_MODEL.to_owned());
    if flags.output_dir.is_none() {
        let sets = flags.train_data.iter().flatten();
        let names: Vec<&str> = sets
            .map(|set| set.name.as_deref().unwrap_or(&set.value))
            .collect();
        flags.output_dir = Some(default_output_dir(model, &names.join("+")));
    }
    if flags.loss.is_none() {
        flags.loss = Some(vec![DEFAULT_LOSS.parse()?]);
    }
    check_names(&flags)?;
    let prompts = prompts::merge(flags.prompts.take().unwrap_or_default())?;
    flags.prompts = prompts.map(|prompts| vec![prompts]);
    flags.on_bad_row.get_or_insert(OnBadRow::Error);
    flags.gemm.get_or_insert(GemmName::Auto);
    flags.engine.get_or_insert(Engine::Auto);
    flags.eval_steps = flags.eval_steps.or(flags.logging_steps);
    let arguments = training_arguments(&flags);
    macro_rules! resolved {
        ($($field:ident),* $(,)?) => { $(flags.$field = Some(arguments.$field);)* };
    }
    resolved!(
        num_train_epochs,
        max_steps,
        per_device_train_batch_size,
        per_device_eval_batch_size,
        gradient_accumulation_steps,
        precision,
        tf32,
        full_determinism,
        auto_micro_batch,
        cuda_graphs,
        learning_rate,
        lr_scheduler_type,
        warmup_steps,
        optim,
        weight_decay,
        adam_beta1,
        adam_beta2,
        adam_epsilon,
        momentum,
        max_grad_norm,
        skip_nonfinite,
        seed,
        batch_sampler,
        multi_dataset_batch_sampler,
        dataloader_drop_last,
        logging_steps,
        logging_first_step,
        eval_strategy,
        eval_steps,
        save_strategy,
        save_steps,
        load_best_model_at_end,
        early_stopping_threshold,
    );
    Ok(flags)
}

/// Several data sets need names, and where there are several losses, each data set one of its name.
fn check_names(flags: &TrainFlags) -> Result<(), UsageError> {
    let (train, eval) = (flags.train_data.as_deref(), flags.eval_data.as_deref());
    let losses = flags.loss.as_deref().unwrap_or_default();
    named::check("--loss", losses)?;
    let has_names = losses.iter().any(|loss| loss.name.is_some());
    for (flag, sets) in [("--train-data", train), ("--eval-data", eval)] {
        let sets = sets.unwrap_or_default();
        named::check(flag, sets)?;
        let known = |set: &Named<String>| losses.iter().any(|loss| loss.name == set.name);
        if let Some(set) = sets.iter().find(|set| has_names && !known(set)) {
            let names: Vec<&str> = losses
                .iter()
                .filter_map(|loss| loss.name.as_deref())
                .collect();
            return Err(UsageError(format!(
                "{flag} {set} has no --loss of its name: there are losses for {}",
                names.join(", ")
            )));
        }
    }
    Ok(())
}

/// `runs/<model>-<data>`, each by the last part of its name.
fn default_output_dir(model: &str, data: &str) -> PathBuf {
    let model = model.split('@').next().unwrap_or(model);
    let stem = |name: &str| {
        let name = name
            .trim_end_matches('/')
            .rsplit('/')
            .next()
            .unwrap_or(name);
        let known = [".parquet", ".csv", ".tsv", ".jsonl", ".ndjson", ".json"];
        let name = known
            .iter()
            .find_map(|ending| name.strip_suffix(ending))
            .unwrap_or(name);
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        name.replace(|c| !is_plain(c), "-")
    };
    Path::new("runs").join(format!("{}-{}", stem(model), stem(data)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_flags_are_the_articles_run() {
        let flags = resolve(TrainFlags::default()).unwrap();
        assert_eq!(flags.model.as_deref(), Some("microsoft/mpnet-base"));
        assert_eq!(
            flags.train_data,
            Some(vec![Named::plain(
                "sentence-transformers/all-nli:triplet".to_owned()
            )])
        );
        assert_eq!(
            flags.test_data.as_deref(),
            Some("sentence-transformers/all-nli:triplet")
        );
        assert_eq!(flags.max_train_samples, Some(100_000));
        assert_eq!(
            flags.output_dir.as_deref(),
            Some(Path::new("runs/mpnet-base-all-nli-triplet"))
        );
        assert_eq!(training_arguments(&flags), TrainingArguments::default());
    }

    #[test]
    fn own_data_is_used_whole_and_tested_only_where_asked() {
        let train_data = Some(vec![Named::plain("data/own.csv".to_owned())]);
        let flags = resolve(TrainFlags {
            train_data,
            ..TrainFlags::default()
        })
        .unwrap();
        assert_eq!((flags.max_train_samples, flags.test_data), (None, None));
        assert_eq!(
            flags.output_dir.as_deref(),
            Some(Path::new("runs/mpnet-base-own"))
        );
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.toml");
        fs_err::write(
            &path,
            "learning-rate = 1e-4\nseed = 7\nloss = \"triplet\"\noptim = \"sgd\"\n",
        )
        .unwrap();
        let flags = TrainFlags {
            config: Some(path),
            seed: Some(9),
            ..TrainFlags::default()
        };
        let flags = resolve(flags).unwrap();
        assert_eq!(flags.learning_rate, Some(1e-4));
        assert_eq!(flags.seed, Some(9));
        assert_eq!(flags.optim, Some(train::OptimizerName::Sgd));
        assert_eq!(flags.num_train_epochs, Some(3.0));
    }

    #[test]
    fn bf16_is_a_precision() {
        let flags = TrainFlags {
            bf16: Some(true),
            fp16: Some(false),
            ..TrainFlags::default()
        };
        let flags = resolve(flags).unwrap();
        assert_eq!(training_arguments(&flags).precision, Precision::Bf16);
        let text = to_toml(&flags).unwrap();
        assert!(text.contains("precision = \"bf16\"\n"), "{text}");
        assert!(text.contains("gemm = \"auto\"\n"), "{text}");
    }

    #[test]
    fn the_resolved_configuration_resolves_to_itself() {
        let mut flags = resolve(TrainFlags::default()).unwrap();
        flags.save_total_limit = Some(2);
        flags.columns = Some(vec!["a".to_owned(), "b".to_owned()]);
        let again = resolve(parse(&to_toml(&flags).unwrap()).unwrap()).unwrap();
        assert_eq!(flags, again);
        let named = |texts: [&str; 2]| texts.map(|text| text.parse().unwrap()).to_vec();
        flags.train_data = Some(named(["z=data/z.csv", "a=data/a.csv"]));
        flags.loss = Some(vec![
            "z=triplet:margin=1".parse().unwrap(),
            "a=gist-embed:guide=org/name".parse().unwrap(),
        ]);
        let again = resolve(parse(&to_toml(&flags).unwrap()).unwrap()).unwrap();
        assert_eq!(flags, again);
        for text in [
            "q: ",
            "anchor=q: ",
            "z.anchor=q: ",
            r#"{"z": {"anchor": "q"}, "a": "b = c"}"#,
        ] {
            flags.prompts = Some(vec![prompts::parse(text).unwrap()]);
            let text = to_toml(&flags).unwrap();
            let again = resolve(parse(&text).unwrap()).unwrap();
            assert_eq!(flags, again, "{text}");
        }
    }

    #[test]
    fn an_unknown_key_is_named_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.toml");
        fs_err::write(&path, "seed = 7\nlearning-rte = 1e-4\n").unwrap();
        let flags = TrainFlags {
            config: Some(path),
            ..TrainFlags::default()
        };
        let error = resolve(flags).unwrap_err();
        let text = format!("{error:#}");
        assert!(
            text.contains("run.toml") && text.contains("line 2"),
            "{text}"
        );
        assert!(
            text.contains("learning-rte") && text.contains("learning-rate"),
            "{text}"
        );
        assert!(error.is::<UsageError>());
    }
}

//! Runs as people start them: command lines kept from scripts of transformers, names that are misspelt, data that
//! teaches nothing, and commands that a scheduler repeats.

use std::path::PathBuf;

use crate::sandbox::{Ended, Sandbox, data, words};

/// Twelve rows of three texts.
fn triplets(sandbox: &Sandbox, name: &str) -> PathBuf {
    let rows = (0..12).map(|i| format!("question {i},answer {i},another answer {i}\n"));
    let text: String = std::iter::once("anchor,positive,negative\n".to_owned())
        .chain(rows)
        .collect();
    sandbox.write(name, text)
}

/// Pairs with a score.
fn scores(sandbox: &Sandbox, name: &str, n: usize) -> PathBuf {
    let rows = (0..n).map(|i| format!("text {i},words {i},0.{i}\n"));
    let text: String = std::iter::once("sentence1,sentence2,score\n".to_owned())
        .chain(rows)
        .collect();
    sandbox.write(name, text)
}

/// `sentune train` of the tiny model into the folder `run`, with these flags.
fn train(sandbox: &Sandbox, flags: &[&str]) -> Ended {
    sandbox.sentune_with("train --model MODEL --output-dir run", flags)
}

const EVALUATED: &str =
    "--num-train-epochs 1 --eval-strategy epoch --save-strategy epoch --load-best-model-at-end";

/// Nothing was begun.
fn assert_no_run(sandbox: &Sandbox) {
    assert!(!sandbox.path("run").exists());
}

#[test]
fn a_metric_may_lack_the_name_of_its_data_set() {
    let sandbox = Sandbox::new();
    triplets(&sandbox, "triplets.csv");
    triplets(&sandbox, "dev.csv");
    let mut flags = vec!["--train-data", "triplets.csv", "--eval-data", "dev.csv"];
    flags.extend(words(EVALUATED));
    flags.extend(["--metric-for-best-model", "cosine_accuracy"]);
    train(&sandbox, &flags).ok();
}

#[test]
fn a_misspelt_metric_is_refused_before_the_first_step() {
    let sandbox = Sandbox::new();
    triplets(&sandbox, "triplets.csv");
    triplets(&sandbox, "dev.csv");
    let mut flags = vec!["--train-data", "triplets.csv", "--eval-data", "dev.csv"];
    flags.extend(words(EVALUATED));
    flags.extend(["--metric-for-best-model", "cosine_acuracy"]);
    let parts = [
        "--metric-for-best-model `cosine_acuracy`",
        "give one of eval_loss, eval_dev_cosine_accuracy",
    ];
    train(&sandbox, &flags).failed(2, &parts);
    assert_no_run(&sandbox);
}

#[test]
fn the_default_metric_of_two_evaluation_sets_is_refused_before_the_first_step() {
    let sandbox = Sandbox::new();
    triplets(&sandbox, "triplets.csv");
    triplets(&sandbox, "dev.csv");
    scores(&sandbox, "scores.csv", 8);
    let mut flags = vec![
        "--train-data",
        "nli=triplets.csv",
        "--train-data",
        "sts=scores.csv",
        "--loss",
        "nli=mnrl",
        "--loss",
        "sts=cosent",
        "--eval-data",
        "nli=dev.csv",
        "--eval-data",
        "sts=scores.csv",
    ];
    flags.extend(words(EVALUATED));
    let parts = [
        "--metric-for-best-model is not given",
        "eval_nli_loss",
        "eval_sts_loss",
        "eval_nli_cosine_accuracy",
        "eval_sts_spearman_cosine",
    ];
    train(&sandbox, &flags).failed(2, &parts);
    assert_no_run(&sandbox);
}

#[test]
fn one_row_of_evaluation_data_is_refused_before_the_first_step() {
    let sandbox = Sandbox::new();
    scores(&sandbox, "scores.csv", 8);
    scores(&sandbox, "one-score.csv", 1);
    let mut flags = vec!["--train-data", "scores.csv", "--loss", "cosent"];
    flags.extend(["--eval-data", "one-score.csv"]);
    flags.extend(words(EVALUATED));
    let parts = [
        "--eval-data one-score, 1 row",
        "a correlation needs 2 rows or more",
    ];
    train(&sandbox, &flags).failed(2, &parts);
    assert_no_run(&sandbox);
}

#[test]
fn save_strategy_best_saves_the_best_evaluations() {
    let sandbox = Sandbox::new();
    triplets(&sandbox, "train.csv");
    triplets(&sandbox, "dev.csv");
    let flags = words(
        "--train-data train.csv --eval-data dev.csv --num-train-epochs 2 \
            --eval-strategy epoch --save-strategy best --metric-for-best-model loss",
    );
    train(&sandbox, &flags).ok();
    // The first evaluation is the best so far, whatever it gives.
    assert!(sandbox.path("run/checkpoint-2").exists());
    let refused = train(
        &sandbox,
        &["--save-strategy", "best", "--train-data", "train.csv"],
    );
    refused.failed(2, &["--save-strategy best needs evaluations"]);
}

#[test]
fn schedules_of_transformers_are_known() {
    let sandbox = Sandbox::new();
    triplets(&sandbox, "train.csv");
    let schedule = |kind: &str, kwargs: &str| {
        let flags = [
            "--train-data",
            "train.csv",
            "--max-steps",
            "1",
            "--save-strategy",
            "no",
            "--overwrite-output-dir",
            "--lr-scheduler-type",
            kind,
            "--lr-scheduler-kwargs",
            kwargs,
        ];
        train(&sandbox, &flags)
    };
    for (kind, kwargs) in [
        ("cosine_with_restarts", r#"{"num_cycles": 2}"#),
        ("polynomial", "power=2"),
        ("inverse_sqrt", "{}"),
        ("cosine_with_min_lr", r#"{"min_lr": 1e-6}"#),
        ("cosine_warmup_with_min_lr", "min_lr_rate=0.1"),
        ("warmup_stable_decay", "num_decay_steps=1,decay_type=1-sqrt"),
    ] {
        schedule(kind, kwargs).ok();
    }
    let config = fs_err::read_to_string(sandbox.path("run/config.toml")).unwrap();
    assert!(config.contains("decay_type = \"1-sqrt\""), "{config}");
    schedule("cosine_with_min_lr", "{}").failed(2, &["give min_lr"]);
    schedule("warmup_stable_decay", "{}").failed(2, &["missing field `num_decay_steps`"]);
    schedule("cosine_wave", "{}").failed(2, &["cosine_with_restarts", "warmup_stable_decay"]);
}

#[test]
fn flags_without_effect_are_taken_and_told_once() {
    let sandbox = Sandbox::new();
    triplets(&sandbox, "train.csv");
    let start = words("--train-data train.csv --max-steps 1 --overwrite-output-dir");
    let ended = |more: &[&str]| train(&sandbox, &[&start[..], more].concat());
    let found = ended(&words(
        "--report-to none --disable_tqdm true --dataloader-num-workers 4 \
            --dataloader-pin-memory true --logging-dir logs --run-name first --do-train \
            --gradient-checkpointing true",
    ));
    let stderr = found.stderr.clone();
    found.ok();
    let lines: Vec<&str> = stderr
        .lines()
        .filter(|line| line.contains("without effect here"))
        .collect();
    assert_eq!(lines.len(), 1, "{stderr}");
    for name in ["--report-to", "--disable-tqdm", "--do-train", "--run-name"] {
        assert!(lines[0].contains(name), "{stderr}");
    }
    assert!(!ended(&[]).stderr.contains("without effect"));
    ended(&["--report-to", "wandb"]).failed(2, &["--report-to wandb", "TensorBoard"]);
    ended(&["--report-too", "none"]).failed(2, &["--report-too"]);
}

#[test]
fn batches_of_one_row_are_warned_of_once() {
    let sandbox = Sandbox::new();
    let pairs = |name: &str, rows: &[(&str, &str)]| {
        let rows = rows.iter().map(|(a, b)| format!("{a},{b}\n"));
        let text: String = std::iter::once("anchor,positive\n".to_owned())
            .chain(rows)
            .collect();
        sandbox.write(name, text)
    };
    pairs("three.csv", &[("a", "b"), ("c", "d"), ("e", "f")]);
    pairs("one.csv", &[("a", "b")]);
    pairs("one-anchor.csv", &[("a", "b"), ("a", "d"), ("a", "f")]);
    for (data, more) in [
        ("three.csv", &["--per-device-train-batch-size", "1"][..]),
        ("one.csv", &[]),
        ("one-anchor.csv", &["--batch-sampler", "no_duplicates"]),
    ] {
        let flags = ["--train-data", data, "--overwrite-output-dir"];
        let ended = train(&sandbox, &[&flags[..], more].concat());
        let n = ended.stderr.matches("taught nothing").count();
        assert_eq!(n, 1, "{data}: {ended:?}");
        assert!(ended.stderr.contains("step 1 taught nothing"), "{data}");
        ended.ok();
    }
    let ended = train(
        &sandbox,
        &["--train-data", "three.csv", "--overwrite-output-dir"],
    );
    assert!(!ended.stderr.contains("taught nothing"), "{ended:?}");
}

/// One command line for the first start and every restart.
#[test]
fn auto_starts_and_goes_on() {
    let sandbox = Sandbox::new();
    let train_data = data("triplets.jsonl");
    let auto = |more: &[&str]| {
        let mut flags = vec!["--train-data", train_data.to_str().unwrap()];
        flags.extend(["--max-steps", "4", "--save-steps", "2"]);
        flags.extend(["--resume-from-checkpoint", "auto"]);
        flags.extend(more);
        train(&sandbox, &flags)
    };
    let read = |name: &str| fs_err::read(sandbox.path("run").join(name)).unwrap();
    let first = auto(&[]);
    assert!(!first.stderr.contains("going on from"), "{first:?}");
    first.ok();
    let weights = read("final/model.safetensors");

    // Complete: nothing is done again.
    let log = read("metrics.jsonl");
    let again = auto(&[]);
    assert!(again.stderr.contains("the run is complete"), "{again:?}");
    again.ok();
    assert!(read("metrics.jsonl") == log);

    // Killed after its first checkpoint.
    for gone in ["final", "checkpoint-4"] {
        fs_err::remove_dir_all(sandbox.path("run").join(gone)).unwrap();
    }
    fs_err::remove_file(sandbox.path("run/results.json")).unwrap();
    let resumed = auto(&[]);
    assert!(resumed.stderr.contains("going on from"), "{resumed:?}");
    resumed.ok();
    assert!(read("final/model.safetensors") == weights);

    // Killed before its first checkpoint, and before it wrote anything.
    for left in [&["config.toml", "metrics.jsonl"][..], &[]] {
        let kept: Vec<Vec<u8>> = left.iter().map(|name| read(name)).collect();
        fs_err::remove_dir_all(sandbox.path("run")).unwrap();
        fs_err::create_dir(sandbox.path("run")).unwrap();
        for (name, bytes) in left.iter().zip(kept) {
            fs_err::write(sandbox.path("run").join(name), bytes).unwrap();
        }
        auto(&[]).ok();
        assert!(read("final/model.safetensors") == weights, "{left:?}");
    }

    // Another run is never taken for this one, nor overwritten.
    auto(&["--seed", "7"]).failed(2, &["is of another run", "--seed was 42 and is 7"]);
    for step in ["checkpoint-2", "checkpoint-4"] {
        fs_err::remove_dir_all(sandbox.path("run").join(step)).unwrap();
    }
    auto(&["--seed", "7"]).failed(2, &["already holds a run"]);
    assert!(read("final/model.safetensors") == weights);
}

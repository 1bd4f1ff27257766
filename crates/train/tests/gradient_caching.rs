//! Gradient caching against the same run without it.
//!
//! The facts are those of `test_cmnrl.py` and `test_gradcache.py` of sentence-transformers: cached is plain, in value and
//! gradient, for every loss, with dropout drawn again as it was, and under accumulation.

mod support;

use std::{cell::Cell, path::Path};

use data::Labels;
use serde_json::{Value, json};
use support::{arguments, loss, read, read_evaluation, tiny};
use tch::Tensor;
use train::{Checkpoint, RunFolder, RunOutcome, Trainer, TrainingData, events::LogEntry};

/// The log of a run of six steps under dropout, and its last weights.
fn run(loss_name: &str, mini_batch_tokens: Option<usize>) -> (Vec<LogEntry>, Tensor) {
    run_on("triplets.jsonl", &|_| {}, loss_name, mini_batch_tokens, 1)
}

/// The log and last weights of such a run on other data, changed by `prepare`, with gradients of several batches added up.
fn run_on(
    file: &str,
    prepare: &dyn Fn(&mut TrainingData),
    loss_name: &str,
    mini_batch_tokens: Option<usize>,
    accumulated: usize,
) -> (Vec<LogEntry>, Tensor) {
    let mut model = tiny(0.1);
    let mut data = read(file, &model);
    prepare(&mut data);
    let evaluation = read_evaluation("triplets.jsonl", &model);
    let loss = loss(loss_name);
    let root = tempfile::tempdir().unwrap();
    let arguments = arguments(&json!({
        "max-steps": 6, "eval-strategy": "steps", "eval-steps": 3,
        "logging-steps": 1, "save-strategy": "no", "gradient-accumulation-steps": accumulated,
        "per-device-train-batch-size": 16, "mini-batch-tokens": mini_batch_tokens, "optim": "sgd", "learning-rate": 0.05,
    }));
    let folder = RunFolder::create(Path::new(root.path())).unwrap();
    let mut trainer = Trainer::new(
        &mut model,
        loss.as_ref(),
        &data,
        Some(&evaluation),
        arguments,
        folder,
        &|| false,
    )
    .unwrap();
    trainer.train().unwrap();
    let log = trainer.state().log_history.clone();
    drop(trainer);
    (log, model.parameters().flat().copy())
}

/// Whether two runs agree in every loss, gradient norm and weight.
fn check(name: &str, mini_batch_tokens: Option<usize>, plain: &(Vec<LogEntry>, Tensor)) {
    check_same(name, run(name, mini_batch_tokens), plain);
}

fn check_same(
    name: &str,
    (log, weights): (Vec<LogEntry>, Tensor),
    plain: &(Vec<LogEntry>, Tensor),
) {
    assert_eq!(log.len(), plain.0.len());
    for (found, expected) in log.iter().zip(&plain.0) {
        for key in ["loss", "grad_norm", "eval_loss"] {
            // An entry is of training, of an evaluation, or the summary at the end.
            let Some(expected) = expected.get(key).and_then(Value::as_f64) else {
                continue;
            };
            let found = found[key].as_f64().unwrap();
            let off = (found - expected).abs() / expected;
            assert!(off < 1e-5, "{name}: {key} is {found}, not {expected}");
        }
    }
    let off = (weights - &plain.1).abs().max().double_value(&[]);
    assert!(off < 1e-5, "{name}: a weight is off by {off}");
}

#[test]
fn cached_losses_train_as_the_plain_ones() {
    let plain = run("multiple-negatives-ranking", None);
    assert!(plain.0.len() > 6);
    check("cached-multiple-negatives-ranking", None, &plain);
    check(
        "cached-multiple-negatives-ranking:mini_batch_size=5",
        None,
        &plain,
    );
    check(
        "cached-multiple-negatives-ranking:mini_batch_size=5",
        Some(40),
        &plain,
    );
    let plain = run("multiple-negatives-symmetric-ranking", None);
    check(
        "cached-multiple-negatives-symmetric-ranking:mini_batch_size=7",
        None,
        &plain,
    );
}

/// With one column and these labels.
fn labelled(data: &mut TrainingData, n_columns: usize, label: impl Fn(i64) -> i64) {
    data.dataset.columns.truncate(n_columns);
    data.tokens.columns.truncate(n_columns);
    let labels = (0..data.dataset.n_rows() as i64).map(label).collect();
    data.dataset.labels = Some(Labels::Integer(labels));
    data.tokens.labels.clone_from(&data.dataset.labels);
}

/// test_gradcache_matches_the_wrapped_loss and test_gradcache_matryoshka; also for losses with weights of their own and
/// several results, which upstream's wrapper refuses or treats apart.
#[test]
fn a_budget_of_tokens_caches_any_loss() {
    let as_it_is: &dyn Fn(&mut TrainingData) = &|_| {};
    let alike: &dyn Fn(&mut TrainingData) = &|data| labelled(data, 2, |row| row % 2);
    let groups: &dyn Fn(&mut TrainingData) = &|data| labelled(data, 1, |row| row % 5);
    for (file, prepare, name) in [
        (
            "triplets.jsonl",
            as_it_is,
            "triplet:distance=cosine,margin=0.5",
        ),
        ("scored.csv", as_it_is, "cosine-similarity"),
        ("scored.csv", as_it_is, "cosent"),
        ("triplets.jsonl", alike, "contrastive"),
        ("triplets.jsonl", groups, "batch-all-triplet"),
        ("classes.csv", as_it_is, "softmax"),
        ("pairs.csv", as_it_is, "global-orthogonal-regularization"),
        ("triplets.jsonl", as_it_is, "matryoshka:dims=32+16+8/mnrl"),
    ] {
        let plain = run_on(file, prepare, name, None, 1);
        for tokens in [40, 100, 100_000] {
            let cached = run_on(file, prepare, name, Some(tokens), 1);
            check_same(&format!("{name} in {tokens} tokens"), cached, &plain);
        }
    }
}

/// test_gradcache_scales_with_the_outer_backward.
#[test]
fn cached_gradients_are_accumulated_as_plain_ones() {
    for accumulated in [2, 4] {
        let run = |name| run_on("triplets.jsonl", &|_| {}, name, None, accumulated);
        let plain = run("mnrl");
        let cached = run("cached-mnrl:mini_batch_size=5");
        check_same(&format!("{accumulated} batches"), cached, &plain);
    }
}

/// A signal is seen within a batch, between two of its parts, and nothing comes of the part that was done.
#[test]
fn an_interrupt_between_parts_loses_nothing() {
    let root = tempfile::tempdir().unwrap();
    let folder = RunFolder::create(root.path()).unwrap();
    let loss = loss("cached-mnrl:mini_batch_size=4");
    // 16 rows of 3 columns are 12 parts, each embedded twice but the last.
    let arguments = arguments(&json!({"max-steps": 3, "per-device-train-batch-size": 16}));
    let (n_asked, n_allowed) = (Cell::new(0), Cell::new(usize::MAX));
    let is_interrupted = || {
        n_asked.set(n_asked.get() + 1);
        n_asked.get() > n_allowed.get()
    };
    let train = |resume: bool| {
        let mut model = tiny(0.1);
        let data = read("triplets.jsonl", &model);
        let (arguments, folder) = (arguments.clone(), folder.clone());
        let mut trainer = Trainer::new(
            &mut model,
            loss.as_ref(),
            &data,
            None,
            arguments,
            folder.clone(),
            &is_interrupted,
        )
        .unwrap();
        if resume {
            let step = folder.checkpoints().unwrap().pop().unwrap();
            let checkpoint = Checkpoint::open(&folder.checkpoint(step)).unwrap();
            trainer.resume(&checkpoint, false).unwrap();
        }
        let outcome = trainer.train().unwrap();
        drop(trainer);
        (outcome, model.parameters().flat().copy())
    };
    let (outcome, expected) = train(false);
    assert!(matches!(outcome, RunOutcome::Finished(_)));
    let n_asked_in_step = n_asked.get() / 3;
    assert!(
        n_asked_in_step > 20,
        "asked {n_asked_in_step} times in a step"
    );
    // In the forward and in the backward pass of the second step.
    for n in [5, 18] {
        fs_err::remove_dir_all(folder.checkpoint(3)).unwrap();
        n_asked.set(0);
        n_allowed.set(n_asked_in_step + n);
        let (outcome, _) = train(false);
        assert_eq!(outcome, RunOutcome::Interrupted { step: 1 });
        n_allowed.set(usize::MAX);
        let (outcome, weights) = train(true);
        assert!(matches!(outcome, RunOutcome::Finished(_)));
        assert_eq!(weights, expected);
        fs_err::remove_dir_all(folder.checkpoint(1)).unwrap();
    }
}

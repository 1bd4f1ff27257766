//! Gradient caching against the same run without it.

mod support;

use std::path::Path;

use serde_json::{Value, json};
use support::{arguments, loss, read, read_evaluation, tiny};
use tch::Tensor;
use train::{RunFolder, Trainer, report::LogEntry};

/// The log of a run of six steps under dropout, and its last weights.
fn run(loss_name: &str, mini_batch_tokens: Option<usize>) -> (Vec<LogEntry>, Tensor) {
    let mut model = tiny(0.1);
    let data = read("triplets.jsonl", &model);
    let evaluation = read_evaluation("triplets.jsonl", &model);
    let loss = loss(loss_name);
    let root = tempfile::tempdir().unwrap();
    let arguments = arguments(&json!({
        "max-steps": 6, "eval-strategy": "steps", "eval-steps": 3,
        "logging-steps": 1, "save-strategy": "no",
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
    let (log, weights) = run(name, mini_batch_tokens);
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

#[test]
fn a_budget_of_tokens_caches_any_loss() {
    let plain = run("triplet:distance=cosine,margin=0.5", None);
    check("triplet:distance=cosine,margin=0.5", Some(100), &plain);
}

//! Training by what runs on a GPU, here on the CPU: a memory that is full, numbers that are not finite, and flags.

use std::path::Path;

use serde_json::Value;

use crate::sandbox::{Ended, Sandbox, json_lines};

/// A run of 12 steps of 16 triplets under dropout 0, in `folder`, with a failpoint.
fn train(sandbox: &Sandbox, folder: &str, failpoint: &str, more: &[&str]) -> Ended {
    let mut command = sandbox.line(&format!(
        "train --model MODEL --train-data DATA/triplets.jsonl --output-dir {folder} \
            --engine libtorch --batch-size 16 --max-steps 12 --logging-steps 4 --dropout 0 \
            --save-steps 4"
    ));
    command.args(more);
    if !failpoint.is_empty() {
        command.env("SENTUNE_FAILPOINT", failpoint);
    }
    Ended::from(command.output().unwrap())
}

fn log(sandbox: &Sandbox, folder: &str) -> Vec<Value> {
    let path = sandbox.path(folder).join("metrics.jsonl");
    json_lines(&fs_err::read_to_string(path).unwrap())
}

fn losses(sandbox: &Sandbox, folder: &str) -> Vec<f64> {
    let log = log(sandbox, folder);
    let losses = log.iter().filter_map(|entry| entry.get("loss")?.as_f64());
    losses.collect()
}

#[test]
fn a_full_memory_halves_what_is_embedded_at_a_time() {
    let sandbox = Sandbox::new();
    train(&sandbox, "plain", "", &[]).ok();
    // Twice in the second step, so that it ends up in quarters.
    let ended = train(
        &sandbox,
        "cut",
        "memory@2=1;memory@3=1",
        &["--auto-micro-batch"],
    );
    let told = ended
        .stderr
        .matches("the GPU's memory is full with")
        .count();
    assert_eq!(told, 2, "{ended:?}");
    assert!(ended.stderr.contains("WARN step 2: "), "{ended:?}");
    ended.ok();
    let (plain, cut) = (losses(&sandbox, "plain"), losses(&sandbox, "cut"));
    assert_eq!(plain.len(), 3);
    for (plain, cut) in plain.iter().zip(&cut) {
        assert!((plain - cut).abs() < 1e-5 * plain, "{plain} {cut}");
    }

    let ended = train(&sandbox, "full", "memory@6=1", &[]);
    ended.failed(
        1,
        &[
            "step 6: the GPU's memory is full with",
            "--auto-micro-batch",
            "out of memory",
        ],
    );
    assert!(Path::new(&sandbox.path("full/checkpoint-4")).exists());
}

#[test]
fn a_sentence_that_does_not_fit_ends_the_run() {
    let sandbox = Sandbox::new();
    let always: Vec<String> = (1..40).map(|n| format!("memory@{n}=1")).collect();
    let ended = train(&sandbox, "run", &always.join(";"), &["--auto-micro-batch"]);
    ended.failed(1, &["that is a single sentence", "--max-seq-length"]);
}

#[test]
fn numbers_that_are_not_finite_change_nothing_on_the_device_and_end_the_run() {
    let sandbox = Sandbox::new();
    for (what, words) in [
        ("loss@7=nan", "non-finite loss NaN at step 7"),
        ("gradient@7=inf", "non-finite gradient norm inf at step 7"),
    ] {
        let ended = train(&sandbox, "run", what, &["--overwrite-output-dir"]);
        ended.failed(1, &[words, "training rows ["]);
        // The steps after step 7 were on their way and are not kept.
        assert!(sandbox.path("run/checkpoint-4").exists());
        assert!(!sandbox.path("run/checkpoint-8").exists());
        let steps = log(&sandbox, "run");
        assert!(steps.iter().all(|entry| entry["step"].as_u64() < Some(7)));
    }
    let more = ["--skip-nonfinite", "1", "--overwrite-output-dir"];
    let ended = train(&sandbox, "run", "loss@3=nan;gradient@6=nan", &more);
    assert!(
        ended
            .stderr
            .contains("WARN skipped: non-finite loss NaN at step 3")
    );
    assert!(ended.stderr.contains("at step 6"), "{ended:?}");
    ended.ok();
    let log = log(&sandbox, "run");
    let skipped: Vec<u64> = log
        .iter()
        .filter(|entry| entry.get("skipped_loss").is_some())
        .map(|entry| entry["step"].as_u64().unwrap())
        .collect();
    assert_eq!(skipped, [3, 6]);
    assert!(losses(&sandbox, "run").iter().all(|loss| loss.is_finite()));
}

#[test]
fn graphs_and_determinism_are_flags() {
    let sandbox = Sandbox::new();
    train(&sandbox, "plain", "", &["--full-determinism"]).ok();
    train(&sandbox, "graphs", "", &["--cuda-graphs", "--tf32"]).ok();
    let (plain, graphs) = (losses(&sandbox, "plain"), losses(&sandbox, "graphs"));
    for (plain, graphs) in plain.iter().zip(&graphs) {
        assert!((plain - graphs).abs() < 1e-5 * plain, "{plain} {graphs}");
    }
    train(&sandbox, "both", "", &["--bf16", "--tf32"]).failed(2, &["--tf32", "bf16"]);
    train(&sandbox, "both", "", &["--gemm", "rust"]).failed(2, &["--gemm", "auto"]);
}

//! SIGINT and SIGTERM: the step is finished, a checkpoint written, and the run can go on.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use crate::sandbox::{Ended, Sandbox, data, signal, words};

/// Trains with `flags` and sends a signal as soon as the first step is logged.
fn train_and_signal(sandbox: &Sandbox, name: &str, flags: &[&str]) -> Ended {
    let mut child = sandbox
        .line("train --model MODEL --train-data DATA/triplets.jsonl")
        .args(["--output-dir", "run", "--json"])
        .args(flags)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert!(line.contains("\"begin\""), "{line}");
    line.clear();
    stdout.read_line(&mut line).unwrap();
    assert!(line.contains("\"loss\""), "{line}");
    signal(child.id(), name);
    for rest in stdout.lines() {
        rest.unwrap();
    }
    Ended::from(child.wait_with_output().unwrap())
}

fn checkpoints(sandbox: &Sandbox) -> Vec<String> {
    let mut files = sandbox.files("run");
    files.retain(|name| name.starts_with("checkpoint-"));
    files
}

#[test]
fn sigint_ends_with_130_and_the_run_goes_on_bit_for_bit() {
    let flags = words("--max-steps 300 --per-device-train-batch-size 4 --logging-steps 1");
    let sandbox = Sandbox::new();
    let ended = train_and_signal(&sandbox, "INT", &flags);
    assert_eq!(ended.code, Some(130), "{ended:?}");
    assert!(
        ended.stderr.contains("--resume-from-checkpoint goes on"),
        "{ended:?}"
    );
    assert!(
        ended.stderr.ends_with("error: ended by SIGINT\n"),
        "{ended:?}"
    );
    assert_eq!(checkpoints(&sandbox).len(), 1);
    assert!(!sandbox.path("run/final").exists());

    let resumed = sandbox.train(
        &data("triplets.jsonl"),
        &[&flags[..], &["--resume-from-checkpoint"]].concat(),
    );
    assert!(
        resumed.stderr.contains("going on from run/checkpoint-"),
        "{resumed:?}"
    );
    resumed.ok();
    let whole = Sandbox::new();
    whole.train(&data("triplets.jsonl"), &flags).ok();
    let weights =
        |sandbox: &Sandbox| fs_err::read(sandbox.path("run/final/model.safetensors")).unwrap();
    assert!(weights(&sandbox) == weights(&whole));
}

#[test]
fn sigterm_ends_with_143() {
    let sandbox = Sandbox::new();
    let flags = ["--num-train-epochs", "1000", "--logging-steps", "1"];
    let ended = train_and_signal(&sandbox, "TERM", &flags);
    assert_eq!(ended.code, Some(143), "{ended:?}");
    assert_eq!(checkpoints(&sandbox).len(), 1);
}

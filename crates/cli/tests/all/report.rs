//! `sentune report` and `sentune watch` on runs of the tiny model.

use crate::sandbox::{Ended, Sandbox, data};

/// Six steps with an entry each, tested before and after.
fn train(sandbox: &Sandbox, folder: &str, more: &[&str]) -> Ended {
    let test = data("triplets-dev.jsonl");
    let fixed = [
        "--max-steps",
        "6",
        "--logging-steps",
        "1",
        "--save-strategy",
        "no",
        "--output-dir",
        folder,
    ];
    let mut all = vec!["--test-data", test.to_str().unwrap()];
    all.extend(fixed);
    all.extend(more);
    sandbox.train(&data("triplets.jsonl"), &all)
}

fn page(sandbox: &Sandbox, name: &str) -> String {
    fs_err::read_to_string(sandbox.path(name)).unwrap()
}

#[test]
fn a_run_ends_with_a_page_that_has_every_part() {
    let sandbox = Sandbox::new();
    let ended = train(&sandbox, "run", &[]);
    assert!(
        ended.stderr.contains("the report is run/report.html"),
        "{}",
        ended.stderr
    );
    let html = page(&sandbox, "run/report.html");
    for part in [
        "metrics",
        "curves",
        "rows",
        "neighbours",
        "projection",
        "similarities",
        "data",
        "speed",
        "environment",
        "configuration",
    ] {
        assert!(html.contains(&format!("<section id=\"{part}\">")), "{part}");
    }
    for text in [
        "95 % interval",
        "Environment of the training",
        "matrix products",
        "share of that rate",
    ] {
        assert!(html.contains(text), "{text}");
    }
    assert!(!html.contains("Not computed"));
    // Without it, and over a run that has one.
    train(&sandbox, "run", &["--overwrite-output-dir", "--no-report"]).ok();
    assert!(!sandbox.path("run/report.html").exists());
}

#[test]
fn several_runs_are_on_one_page() {
    let sandbox = Sandbox::new();
    train(
        &sandbox,
        "slow",
        &["--learning-rate", "1e-6", "--no-report"],
    )
    .ok();
    train(
        &sandbox,
        "fast",
        &["--learning-rate", "1e-3", "--no-report"],
    )
    .ok();
    sandbox.sentune("report slow fast --output both.html").ok();
    let html = page(&sandbox, "both.html");
    assert!(html.contains("<section id=\"runs\">") && html.contains("learning-rate"));
    assert!(html.contains("1e-6") && html.contains("0.001"));
    sandbox.sentune("report slow --no-embeddings").ok();
    assert!(page(&sandbox, "slow/report.html").contains("Left out by --no-embeddings."));
    sandbox
        .sentune("report absent")
        .failed(2, &["absent", "config.toml"]);
}

#[test]
fn a_run_whose_models_are_gone_still_has_a_page() {
    let sandbox = Sandbox::new();
    train(&sandbox, "run", &["--no-report"]).ok();
    fs_err::remove_dir_all(sandbox.path("run/final")).unwrap();
    sandbox.sentune("report run").ok();
    let html = page(&sandbox, "run/report.html");
    assert!(html.contains("Not computed: the run has no final model yet."));
    assert!(html.contains("<section id=\"curves\">"));
}

#[test]
fn a_finished_run_is_watched_to_its_end() {
    let sandbox = Sandbox::new();
    train(&sandbox, "run", &["--no-report"]).ok();
    let lines = sandbox.sentune("watch run").ok();
    assert!(lines.starts_with("step 1: loss "), "{lines}");
    assert_eq!(
        lines.lines().filter(|line| line.contains("loss ")).count(),
        7,
        "{lines}"
    );
    let screen = sandbox.sentune("watch run --once").ok();
    assert!(
        screen.contains("loss by step") && screen.contains("finished: "),
        "{screen}"
    );
    sandbox.sentune("watch absent").failed(2, &["config.toml"]);
}

//! `sentune sweep` on the tiny model.

use std::{path::Path, time::SystemTime};

use serde_json::Value;

use crate::sandbox::{Ended, Sandbox, data, model};

/// Six steps a run, with a checkpoint every second.
fn file(more: &str, grid: &str) -> String {
    format!(
        "model = {:?}\ntrain-data = {:?}\ntest-data = {:?}\nmax-steps = 6\nsave-steps = 2\nlogging-steps = 2\n{more}\n[grid]\n{grid}\n",
        model(),
        data("triplets.jsonl"),
        data("triplets-dev.jsonl")
    )
}

const FOUR: &str = "learning-rate = [1e-3, 1e-5]\noptim = ['adamw_torch', 'sgd']";
const NAMES: [&str; 4] = [
    "learning-rate-1e-3_optimizer-adamw_torch",
    "learning-rate-1e-3_optimizer-sgd",
    "learning-rate-1e-5_optimizer-adamw_torch",
    "learning-rate-1e-5_optimizer-sgd",
];

fn sweep(sandbox: &Sandbox, text: &str, more: &[&str]) -> Ended {
    sandbox.write("sweep.toml", text);
    sandbox.sentune_with(
        "sweep --config sweep.toml --output-dir out --num-threads 1",
        more,
    )
}

fn states(sandbox: &Sandbox, text: &str) -> Vec<String> {
    let listed = sweep(sandbox, text, &["--dry-run"]).ok();
    let rows = listed.lines().skip(2);
    rows.map(|row| row.split_once("  ").unwrap().1.trim().to_owned())
        .collect()
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs_err::read_to_string(path).unwrap()).unwrap()
}

fn weights(sandbox: &Sandbox) -> Vec<Vec<u8>> {
    let path = |name: &&str| sandbox.path(&format!("out/{name}/final/model.safetensors"));
    NAMES
        .iter()
        .map(|name| fs_err::read(path(name)).unwrap())
        .collect()
}

#[test]
fn a_grid_is_run_and_set_side_by_side() {
    let sandbox = Sandbox::new();
    let text = file("", FOUR);
    let listed = sweep(&sandbox, &text, &["--dry-run"]).ok();
    for name in NAMES {
        assert!(
            listed
                .lines()
                .any(|line| line.starts_with(name) && line.ends_with(" new")),
            "{listed}"
        );
    }
    assert!(!sandbox.path("out").exists(), "a dry run writes nothing");

    let table = sweep(&sandbox, &text, &[]).ok();
    let mut lines = table.lines();
    let header = lines.next().unwrap();
    assert!(header.starts_with("learning rate  "), "{table}");
    for part in [
        "optimizer",
        "triplets-dev_max_accuracy before",
        "after",
        "change",
        "train loss",
        "seconds",
    ] {
        assert!(header.contains(part), "{table}");
    }
    let after: Vec<f64> = lines
        .skip(1)
        .map(|line| line.split_whitespace().nth(3).unwrap().parse().unwrap())
        .collect();
    assert_eq!(after.len(), 4, "{table}");
    assert!(after.is_sorted_by(|a, b| a >= b), "{table}");

    let mut expected: Vec<&str> = NAMES.to_vec();
    expected.extend([
        "report.html",
        "sweep.csv",
        "sweep.json",
        "sweep.svg",
        "sweep.toml",
    ]);
    assert_eq!(sandbox.files("out"), expected);
    let summary = json(&sandbox.path("out/sweep.json"));
    assert_eq!(summary["metric"], "triplets-dev_max_accuracy");
    let runs = summary["runs"].as_array().unwrap();
    for run in runs {
        let folder = run["folder"].as_str().unwrap();
        let results = json(&sandbox.path(&format!("out/{folder}/results.json")));
        for part in ["before", "after", "train"] {
            assert_eq!(run[part], results[part], "{folder}");
        }
        let own =
            [&run["values"]["learning-rate"], &run["values"]["optim"]].map(|v| v.as_str().unwrap());
        assert_eq!(
            folder,
            format!("learning-rate-{}_optimizer-{}", own[0], own[1])
        );
    }
    let csv = fs_err::read_to_string(sandbox.path("out/sweep.csv")).unwrap();
    assert_eq!(csv.lines().count(), 5, "{csv}");
    assert!(
        csv.starts_with("learning-rate,optim,status,before_triplets-dev_cosine_accuracy,"),
        "{csv}"
    );
    let svg = fs_err::read_to_string(sandbox.path("out/sweep.svg")).unwrap();
    assert_eq!(
        svg.matches("<circle").count(),
        8,
        "a dot a run in each of two panels"
    );

    // Done runs are kept; only what is new is run.
    let trained = |name: &str| -> SystemTime {
        let path = sandbox.path(&format!("out/{name}/final/model.safetensors"));
        fs_err::metadata(path).unwrap().modified().unwrap()
    };
    let before = NAMES.map(trained);
    let more = file("", &FOUR.replace("1e-5]", "1e-5, 1e-4]"));
    let ended = sweep(&sandbox, &more, &["--metric", "cosine_accuracy", "--json"]);
    assert!(
        ended.stderr.contains("6 runs in out, 4 of them done"),
        "{ended:?}"
    );
    let printed: Value = serde_json::from_str(&ended.ok()).unwrap();
    assert_eq!(printed, json(&sandbox.path("out/sweep.json")));
    assert_eq!(printed["metric"], "triplets-dev_cosine_accuracy");
    assert_eq!(printed["runs"].as_array().unwrap().len(), 6);
    assert_eq!(NAMES.map(trained), before);

    // The same folder for another configuration would mix two sweeps.
    let other = file("weight-decay = 0.1", FOUR);
    let part = "holds a run of another configuration: weight-decay was 0.0 and is 0.1";
    sweep(&sandbox, &other, &[]).failed(2, &[NAMES[0], part]);
    let error = sweep(&sandbox, &text, &["--metric", "pearson"]);
    error.failed(2, &["--metric pearson", "triplets-dev_dot_accuracy"]);
}

#[test]
fn a_killed_sweep_goes_on_to_the_same_bits() {
    let text = file("", FOUR);
    let whole = Sandbox::new();
    sweep(&whole, &text, &[]).ok();

    let killed = Sandbox::new();
    killed.write("sweep.toml", &text);
    // Three checkpoints a run: the fifth is the second run's, after four steps.
    let mut command = killed.line("sweep --config sweep.toml --output-dir out");
    command
        .args(["--num-threads", "1"])
        .env("SENTUNE_FAILPOINT", "sync manifest.json@5=kill");
    let ended = Ended::from(command.output().unwrap());
    assert_eq!(ended.code, None, "{ended:?}");
    assert_eq!(states(&killed, &text), ["done", "at step 2", "new", "new"]);
    let ended = sweep(&killed, &text, &[]);
    assert!(
        ended
            .stderr
            .contains("going on from out/learning-rate-1e-3_optimizer-sgd/checkpoint-2"),
        "{ended:?}"
    );
    ended.ok();
    assert_eq!(states(&killed, &text), ["done"; 4]);
    assert!(weights(&killed) == weights(&whole));
    let results = |sandbox: &Sandbox| {
        let summary = json(&sandbox.path("out/sweep.json"));
        let runs = summary["runs"].as_array().unwrap().clone();
        runs.iter()
            .map(|run| {
                (
                    run["folder"].clone(),
                    run["after"].clone(),
                    run["train"]["train_loss"].clone(),
                )
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(results(&killed), results(&whole));
}

#[test]
fn a_run_that_fails_does_not_end_the_sweep() {
    let sandbox = Sandbox::new();
    let text = file("", "loss = ['cosent', 'triplet', 'mnrl']");
    let ended = sweep(&sandbox, &text, &[]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended.stderr.contains("error: 1 of 3 runs failed"),
        "{ended:?}"
    );
    let last = ended.stdout.lines().last().unwrap();
    assert!(
        last.starts_with("cosent") && last.contains("failed"),
        "{ended:?}"
    );
    let summary = json(&sandbox.path("out/sweep.json"));
    let run = &summary["runs"][2];
    assert_eq!(run["status"], "failed");
    assert!(
        run["error"]
            .as_str()
            .unwrap()
            .contains("CoSENTLoss needs 2 text columns"),
        "{run}"
    );
    let mut states = states(&sandbox, &text);
    states.sort_unstable();
    assert_eq!(states, ["done", "done", "new"]);
}

#[cfg(unix)]
#[test]
fn a_signal_ends_it_with_a_checkpoint() {
    use std::{
        io::{BufRead, BufReader},
        process::Stdio,
    };

    use crate::sandbox::signal;

    let sandbox = Sandbox::new();
    let text = file("", "seed = [1, 2]").replace("max-steps = 6", "max-steps = 400");
    sandbox.write("sweep.toml", &text);
    let mut child = sandbox
        .line("sweep --config sweep.toml --output-dir out")
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap())
        .lines()
        .map(Result::unwrap);
    lines.find(|line| line.contains("checkpoint-2")).unwrap();
    signal(child.id(), "TERM");
    let rest: Vec<String> = lines.collect();
    assert_eq!(child.wait().unwrap().code(), Some(143), "{rest:?}");
    assert!(
        rest.iter()
            .any(|line| line.contains("stopped in run 1 of 2")),
        "{rest:?}"
    );
    let states = states(&sandbox, &text);
    assert!(
        states[0].starts_with("at step ") && states[1] == "new",
        "{states:?}"
    );
}

#[test]
fn files_that_are_no_sweep_are_refused() {
    let sandbox = Sandbox::new();
    sweep(&sandbox, &file("", ""), &[]).failed(2, &["sweep.toml", "[grid] is empty"]);
    sweep(&sandbox, &file("", "sead = [1]"), &[]).failed(
        2,
        &["sweep.toml", "sead = 1", "there is no key `sead`", "`seed`"],
    );
    sweep(&sandbox, &file("", "seed = ['x']"), &[]).failed(2, &["seed = \"x\"", "invalid type"]);
    sandbox
        .sentune("sweep --config none.toml")
        .failed(2, &["--config", "none.toml"]);
    assert!(!sandbox.path("out").exists());
}

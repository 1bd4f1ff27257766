//! The counted tests of docs/reliability.md: the real binary, killed, starved and lied to.
//!
//! Each has a quick form, which `cargo xtask test` runs, and a full one, with RELIABILITY=full in the
//! environment, which `cargo xtask reliability --full` runs. Each prints what it counted.

mod disk;
mod endurance;
mod kills;
mod numbers;
#[cfg(target_os = "linux")]
mod ranks;
mod repeat;
mod resume;
mod signals;

use std::{
    collections::BTreeSet,
    io::Write,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use kernels::random::SplitMix64;

use crate::sandbox::{Ended, Sandbox, copy_folder, data, json_lines, model, signal, words};

/// The number of cases.
fn count(quick: usize, full: usize) -> usize {
    match std::env::var("RELIABILITY") {
        Ok(how) if how == "full" => full,
        _ => quick,
    }
}

/// Prints how many cases there were; one that had failed would have ended the test.
fn report(what: &str, passed: usize, of: usize) {
    say(&format!("{what}: {passed} of {of}"));
    assert_eq!(passed, of, "{what}");
}

/// Prints a line that `cargo xtask reliability` collects, past the harness, which captures what the macros print.
fn say(line: &str) {
    let mut stderr = std::io::stderr();
    writeln!(stderr, "reliability: {line}").unwrap();
}

/// Numbers that look random, the same on every run.
struct Random(SplitMix64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(SplitMix64::new(seed))
    }

    fn below(&mut self, n: u64) -> u64 {
        self.0.draw() % n
    }
}

/// Sixty steps over three epochs of twenty, with two batches a step, an incomplete last batch and an incomplete
/// last step in each epoch, dropout, warm-up, evaluations, and a checkpoint every third step.
const SIXTY_STEPS: &str = "--num-train-epochs 3 --per-device-train-batch-size 7 \
    --gradient-accumulation-steps 2 --learning-rate 1e-3 --warmup-steps 0.1 --weight-decay 0.01 \
    --logging-steps 7 --eval-strategy steps --eval-steps 10 --save-steps 3 --num-threads 1";

/// A command that trains the tiny model into the folder `run`.
struct Training<'s> {
    sandbox: &'s Sandbox,
    run: String,
    flags: Vec<String>,
}

impl<'s> Training<'s> {
    /// The run of sixty steps.
    fn sixty(sandbox: &'s Sandbox, run: &str) -> Self {
        Self::new(sandbox, run, &words(SIXTY_STEPS))
            .and(&["--eval-data", data("triplets-dev.jsonl").to_str().unwrap()])
    }

    fn new(sandbox: &'s Sandbox, run: &str, flags: &[&str]) -> Self {
        Self {
            sandbox,
            run: run.to_owned(),
            flags: Vec::new(),
        }
        .and(&["--model", model().to_str().unwrap()])
        .and(&["--train-data", data("triplets.jsonl").to_str().unwrap()])
        .and(flags)
    }

    /// With more flags; the last of two wins.
    fn and(mut self, flags: &[&str]) -> Self {
        self.flags
            .extend(flags.iter().map(|flag| (*flag).to_owned()));
        self
    }

    fn folder(&self) -> PathBuf {
        self.sandbox.path(&self.run)
    }

    fn command(&self, more: &[&str]) -> Command {
        let mut command = self
            .sandbox
            // The report comes after the run, and a failure of it is only warned of.
            .line(&format!("train --no-report --output-dir {}", self.run));
        let more = more.iter().map(|flag| (*flag).to_owned());
        let mut flags: Vec<String> = self.flags.iter().cloned().chain(more).collect();
        // Training data given twice would be two data sets.
        let places: Vec<usize> = (0..flags.len())
            .filter(|&place| flags[place] == "--train-data")
            .collect();
        for &place in places.iter().rev().skip(1) {
            flags.drain(place..place + 2);
        }
        command.args(&flags);
        command
    }

    /// Runs to the end, whatever that is.
    fn run(&self, more: &[&str]) -> Ended {
        Ended::from(self.command(more).output().unwrap())
    }

    /// Runs to the end with a failpoint armed.
    fn run_with(&self, failpoint: &str, more: &[&str]) -> Failed {
        let output = self
            .command(more)
            .env("SENTUNE_FAILPOINT", failpoint)
            .output()
            .unwrap();
        Failed {
            status: output.status,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    fn start(&self, more: &[&str]) -> Child {
        start(&mut self.command(more))
    }

    /// Takes the run up again as its user would, with what is on the disk, until it is done.
    fn go_on(&self) -> Ended {
        let ended = if self.folder().join("config.toml").exists() {
            self.run(&["--resume-from-checkpoint"])
        } else {
            self.run(&[])
        };
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended
    }

    fn result(&self) -> RunResult {
        RunResult::of(&self.folder())
    }
}

/// The end of a process that was to fail.
#[derive(Debug)]
struct Failed {
    status: ExitStatus,
    stderr: String,
}

/// A process whose output nobody reads.
fn start(command: &mut Command) -> Child {
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Everything of a run that has to be the same bit for bit.
#[derive(PartialEq)]
struct RunResult {
    last_step: u64,
    /// The trained model, and the last checkpoint's weights and moments.
    files: Vec<Vec<u8>>,
    /// Without measurements of time.
    metrics: Vec<serde_json::Value>,
}

impl RunResult {
    fn of(run: &Path) -> Self {
        let last_step = *checkpoints(run).last().unwrap();
        let checkpoint = run.join(format!("checkpoint-{last_step}"));
        let files = [
            run.join("final/model.safetensors"),
            checkpoint.join("model.safetensors"),
            checkpoint.join("optimizer.safetensors"),
        ];
        let metrics = fs_err::read_to_string(run.join("metrics.jsonl")).unwrap();
        let mut metrics = json_lines(&metrics);
        for entry in &mut metrics {
            let entry = entry.as_object_mut().unwrap();
            entry.retain(|key, _| !key.ends_with("_runtime") && !key.ends_with("_per_second"));
        }
        Self {
            last_step,
            files: files.map(|file| fs_err::read(file).unwrap()).into(),
            metrics,
        }
    }

    /// Fails unless the other is the same to the last bit.
    #[track_caller]
    fn assert_same(&self, other: &Self, what: &str) {
        assert_eq!(self.last_step, other.last_step, "{what}");
        assert!(
            self.files == other.files,
            "{what}: other weights or moments"
        );
        assert_eq!(self.metrics, other.metrics, "{what}");
    }
}

/// The steps with a checkpoint in a folder.
fn checkpoints(run: &Path) -> Vec<u64> {
    let mut steps: Vec<u64> = names(run)
        .iter()
        .filter_map(|name| name.strip_prefix("checkpoint-")?.parse().ok())
        .collect();
    steps.sort_unstable();
    steps
}

fn names(folder: &Path) -> BTreeSet<String> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return BTreeSet::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect()
}

/// Waits until a save is going on in a folder, or the process ends.
fn wait_for_save(child: &mut Child, run: &Path) {
    while child.try_wait().unwrap().is_none()
        && !names(run).iter().any(|name| {
            name.starts_with(".writing-") && !name.contains("metrics") && !name.contains("config")
        })
    {
        std::thread::sleep(Duration::from_micros(200));
    }
}

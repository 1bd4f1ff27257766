//! The processes of a case, and the figures in their lines.

use std::{
    env, iter,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{
    case::{Case, Device, Model, Precision, Side, Task},
    inputs::Inputs,
    memory::Watch,
    others::Account,
};
use crate::{
    peer::Peer,
    process::{Ended, run_until},
};

/// Seconds before a window, in which buffers grow and libraries choose their kernels.
const WARMUP: f64 = 1.5;

/// Seconds that a process on a GPU takes beside its window at most: it hangs otherwise.
const PATIENCE: f64 = 100.0;

/// Seconds by which the whole may overrun its time: a process that is running then is ended.
const OVERRUN: f64 = 20.0;

/// A process that takes longer hangs, where the time is not limited.
const LIMIT: Duration = Duration::from_secs(1800);

/// More steps than any window has.
const MANY_STEPS: &str = "1000000";

/// One process in figures.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Measurement {
    /// In the case's unit.
    pub(super) value: f64,
    /// Real tokens of a row, where they were counted.
    pub(super) tokens_per_row: Option<f64>,
    /// The largest resident set, or on a GPU the most memory in use by the driver's word.
    pub(super) peak_bytes: Option<u64>,
    /// The most memory of a GPU that the side's allocator handed out.
    allocated_bytes: Option<u64>,
    /// The share of the machine's cores that other programs had meanwhile, where the system tells it.
    others: Option<f64>,
}

impl Measurement {
    /// The rate of a row count and the seconds it took.
    fn rate(n_rows: f64, seconds: f64, n_tokens: Option<f64>) -> Result<Self> {
        let value = n_rows / seconds;
        ensure!(
            value.is_finite() && value > 0.0,
            "{n_rows} rows in {seconds} s are no measurement"
        );
        Ok(Self {
            value,
            tokens_per_row: n_tokens.map(|n_tokens| n_tokens / n_rows),
            peak_bytes: None,
            allocated_bytes: None,
            others: None,
        })
    }

    /// A time in seconds, from the command on.
    fn seconds(seconds: f64) -> Self {
        Self {
            value: seconds,
            tokens_per_row: None,
            peak_bytes: None,
            allocated_bytes: None,
            others: None,
        }
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "value": self.value,
            "tokens_per_row": self.tokens_per_row,
            "peak_bytes": self.peak_bytes,
            "allocated_bytes": self.allocated_bytes,
            "others": self.others,
        })
    }
}

/// A `sentune` to be measured.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) path: PathBuf,
    /// The libtorch to run with, where it is not the one that it was built with.
    pub(super) libtorch: Option<PathBuf>,
}

impl Program {
    /// A call of it, far from the hub.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.env("HF_HUB_OFFLINE", "1").env_remove("RUST_LOG");
        if let Some(libtorch) = &self.libtorch {
            command.env("SENTUNE_LIBTORCH", libtorch);
        }
        command
    }
}

/// Everything that measurements need.
pub(super) struct Bench {
    pub(super) device: Device,
    pub(super) inputs: Inputs,
    pub(super) sentune: Program,
    /// Another `sentune` in the peer's place.
    pub(super) against: Option<Program>,
    pub(super) peer: Peer,
    pub(super) n_threads: usize,
    /// The user's own flags for `sentune train`.
    pub(super) more: Vec<String>,
    /// Seconds of a window.
    pub(super) window: f64,
    /// The end of the time for the whole, where it is limited.
    pub(super) end: Option<Instant>,
    /// The GPU's memory, on one.
    pub(super) memory: Option<Watch>,
}

impl Bench {
    /// The name of the side that sentune is compared with.
    pub(super) fn peer_name(&self) -> String {
        match &self.against {
            Some(program) => program.path.display().to_string(),
            None => self.peer.name(),
        }
    }

    /// Runs one process of a side; for encoding by sentune one for each file of sentences.
    pub(super) fn measure(&self, case: Case, side: Side) -> Result<Measurement> {
        let before = self.memory.as_ref().map(Watch::begin);
        let account = Account::now();
        let program = match side {
            Side::Ours => Some(&self.sentune),
            Side::Peer => self.against.as_ref(),
        };
        let mut measurement = match program {
            Some(program) if case.task == Task::Encode => self.encode(program, case),
            Some(program) => self.train(program, case),
            None => self.run_peer(case),
        }?;
        let now = Account::now();
        measurement.others = now
            .zip(account)
            .map(|(now, before)| now.share_of_others(before));
        if let (Some(memory), Some(before)) = (&self.memory, before) {
            measurement.peak_bytes = memory.peak_bytes(before);
        }
        Ok(measurement)
    }

    fn run_peer(&self, case: Case) -> Result<Measurement> {
        let script = match case.task {
            Task::Encode => "encode.py",
            Task::Tokenize => "tokenize_all.py",
            Task::Start | Task::Train(_) => "train.py",
        };
        let (model, data) = (self.inputs.model(case), self.inputs.data(case));
        let mut command = self.peer.command(script, model, data, self.n_threads);
        command.args(["--device", self.device.name()]);
        if case.task != Task::Tokenize {
            command.args(["--precision", case.precision.name()]);
            command.args(["--batch-size", &self.batch_size(case).to_string()]);
            command.args(["--seconds", &self.window.to_string()]);
        }
        if let Task::Train(_) = case.task {
            command.args(["--warmup-seconds", &WARMUP.to_string()]);
        }
        let is_start = case.task == Task::Start;
        let is_enough = |lines: &[(f64, Value)]| is_start && !lines.is_empty();
        let ended = self.run(command, is_enough)?;
        let mut measurement = match case.task {
            Task::Start => Measurement::seconds(ended.line("begin")?.0),
            Task::Tokenize => told(ended.line("tokenized")?.1)?,
            Task::Encode => told(ended.line("encoded")?.1)?,
            Task::Train(_) => told(ended.line("window")?.1)?,
        };
        measurement.peak_bytes = ended.peak_bytes;
        Ok(measurement)
    }

    fn train(&self, program: &Program, case: Case) -> Result<Measurement> {
        let command = self.training(program, case);
        let is_enough = |lines: &[(f64, Value)]| match case.task {
            Task::Train(_) => window(lines, WARMUP, self.window).is_some(),
            _ => !lines.is_empty(),
        };
        let ended = self.run(command, is_enough)?;
        let mut measurement = match case.task {
            Task::Start => Measurement::seconds(ended.line("begin")?.0),
            Task::Tokenize => {
                let line = ended.line("begin")?.1;
                told(&json!({"n_rows": line["n_rows"], "seconds": line["seconds"]["tokens"]}))?
            }
            _ => {
                let window = window(&ended.lines, WARMUP, self.window);
                window.with_context(|| match ended.code {
                    Some(_) => "it ended before it had trained for long enough".to_owned(),
                    None => ended.problem(),
                })??
            }
        };
        measurement.peak_bytes = ended.peak_bytes;
        Ok(measurement)
    }

    /// A call of `sentune train` that does not end by itself.
    fn training(&self, program: &Program, case: Case) -> Command {
        let batch_size = self.batch_size(case);
        let mut command = self.call(program);
        command.args(["--quiet", "train", "--json", "--overwrite-output-dir"]);
        command.arg("--model").arg(self.inputs.model(case));
        command.arg("--train-data").arg(self.inputs.data(case));
        command
            .arg("--output-dir")
            .arg(self.inputs.folder.join("run"));
        command.args(["--batch-size", &batch_size.to_string()]);
        command.args(["--max-steps", MANY_STEPS, "--dataloader-drop-last"]);
        command.args(["--logging-steps", self.steps_per_line(batch_size)]);
        command.args(["--save-strategy", "no"]);
        command.args(precision_flags(case.precision));
        if case.task == Task::Tokenize {
            command.arg("--token-cache=false");
        }
        if self.device == Device::Cuda && batch_size >= 1024 {
            command.arg("--auto-micro-batch");
        }
        command.args(&self.more);
        command
    }

    /// The speed of the last file of sentences, less what the first takes where there are two.
    fn encode(&self, program: &Program, case: Case) -> Result<Measurement> {
        let (mut n_before, mut before, mut peak) = (0, 0.0, None);
        let mut measurement = None;
        for (n, sentences) in self.inputs.to_encode(case) {
            let mut command = self.call(program);
            command.arg("encode");
            command.arg("--model").arg(self.inputs.model(case));
            command.arg("--input").arg(sentences);
            command.arg("--output");
            command.arg(self.inputs.folder.join("embeddings.npy"));
            command.args(["--batch-size", &self.batch_size(case).to_string()]);
            command.args(precision_flags(case.precision));
            let ended = self.run(command, |_| false)?;
            let seconds = encoding_seconds(&ended.stderr);
            let seconds = seconds.context("it did not say how long it encoded")?;
            measurement = Some(Measurement::rate(
                (n - n_before) as f64,
                seconds - before,
                None,
            )?);
            (n_before, before, peak) = (*n, seconds, ended.peak_bytes.max(peak));
        }
        let mut measurement = measurement.context("no sentences to encode")?;
        measurement.peak_bytes = peak;
        Ok(measurement)
    }

    /// A call of a program on the device.
    fn call(&self, program: &Program) -> Command {
        let mut command = program.command();
        command
            .args(["--num-threads", &self.n_threads.to_string()])
            .args(["--device", self.device.name()])
            .env("SENTUNE_CACHE", self.inputs.folder.join("cache"));
        command
    }

    /// Texts a batch, for both sides. In encoding the peer's own 32 would leave a GPU waiting for the processor.
    fn batch_size(&self, case: Case) -> usize {
        match (case.task, self.device) {
            (Task::Train(batch_size), _) => batch_size,
            (Task::Encode, Device::Cpu) => 32,
            (Task::Encode, Device::Cuda) => 256,
            (Task::Start | Task::Tokenize, _) => 16,
        }
    }

    /// Steps between two lines of sentune's. On a GPU each waits for the device.
    fn steps_per_line(&self, batch_size: usize) -> &'static str {
        match (self.device, batch_size) {
            (Device::Cpu, _) => "1",
            (Device::Cuda, ..=31) => "50",
            (Device::Cuda, 32..=255) => "10",
            (Device::Cuda, _) => "2",
        }
    }

    fn run(
        &self,
        mut command: Command,
        is_enough: impl FnMut(&[(f64, Value)]) -> bool,
    ) -> Result<Ended> {
        if self.device == Device::Cuda {
            // Numbers as the driver's tool has them, and one GPU alone.
            command.env("CUDA_DEVICE_ORDER", "PCI_BUS_ID");
            command.env("CUDA_VISIBLE_DEVICES", visible_gpu());
        }
        let limit = match self.end {
            Some(end) => limit(PATIENCE + WARMUP + self.window, end),
            None => LIMIT,
        };
        let ended = run_until(command, limit, is_enough)?;
        // It was killed where it had said enough.
        if ended.code.is_some_and(|code| code != 0) {
            bail!("{}", ended.problem());
        }
        Ok(ended)
    }

    /// The rate of matrix products in every precision: on a processor by the libraries of both sides, with the
    /// program `matrix_rate`; on a GPU by torch.
    pub(super) fn matrix_rates(&self, matrix_rate: &Path) -> Result<Value> {
        let command = match self.device {
            Device::Cpu => {
                let mut command = Command::new(matrix_rate);
                command.arg(self.n_threads.to_string());
                command
            }
            Device::Cuda => {
                let data = self.inputs.folder.as_path();
                let mut command = self.peer.command("gemm.py", data, data, self.n_threads);
                command.args(["--device", "cuda", "--seconds", "6"]);
                command
            }
        };
        let ended = self.run(command, |_| false)?;
        let of_type = |kind: &str| -> Vec<&Value> {
            let lines = ended.lines.iter().map(|(_, line)| line);
            lines.filter(|line| line["type"] == kind).collect()
        };
        Ok(json!({"gpu": of_type("gpu").first(), "products": of_type("product")}))
    }

    /// The parts of sentune's steps on both models, in every precision that it and the chip have.
    pub(super) fn profiles(&self) -> Result<Value> {
        let mut profiles = Vec::new();
        let models = [Model::Base, Model::Mini].into_iter();
        for model in models.chain(self.inputs.others()) {
            for precision in [Precision::Fp32, Precision::Bf16, Precision::Fp16] {
                let task = Task::Train(16);
                let case = Case {
                    task,
                    model,
                    precision,
                };
                let mut command = self.training(&self.sentune, case);
                // The last of two wins.
                command.args(["--max-steps", "12", "--profile"]);
                match self
                    .run(command, |_| false)
                    .and_then(|ended| Ok(ended.line("profile")?.1.clone()))
                {
                    Ok(mut profile) => {
                        profile["model"] = json!(self.inputs.names(case)[0]);
                        profile["precision"] = json!(precision.name());
                        profiles.push(profile);
                    }
                    Err(error) => eprintln!("bench: profile of {case}: {error:#}"),
                }
            }
        }
        ensure!(!profiles.is_empty(), "no profile could be taken");
        Ok(json!({ "profiles": profiles }))
    }
}

/// The time that a process may take, so that it does not hold up the whole.
fn limit(seconds: f64, end: Instant) -> Duration {
    let until = end + Duration::from_secs_f64(OVERRUN);
    Duration::from_secs_f64(seconds).min(until.saturating_duration_since(Instant::now()))
}

/// The first GPU that the user lets programs see.
pub(super) fn visible_gpu() -> String {
    let chosen = env::var("CUDA_VISIBLE_DEVICES").unwrap_or_default();
    let first = chosen.split(',').next().unwrap_or_default().trim();
    if first.is_empty() { "0" } else { first }.to_owned()
}

fn precision_flags(precision: Precision) -> impl Iterator<Item = &'static str> {
    let (name, more) = match precision {
        Precision::Tf32 => ("fp32", Some("--tf32")),
        other => (other.name(), None),
    };
    ["--precision", name]
        .into_iter()
        .chain(iter::empty().chain(more))
}

/// The window in sentune's lines, which tell of the steps since the line before: from the first line after the warm-up
/// to the first that comes so many seconds later.
fn window(lines: &[(f64, Value)], warmup: f64, seconds: f64) -> Option<Result<Measurement>> {
    let steps: Vec<(f64, f64, f64)> = lines
        .iter()
        .filter_map(|(time, line)| {
            let number = |key: &str| line[key].as_f64();
            (line["type"] == "log").then_some((*time, number("n_rows")?, number("n_tokens")?))
        })
        .collect();
    let first = steps.first()?.0;
    let begin = steps.iter().position(|(time, ..)| time - first >= warmup)?;
    let after = &steps[begin + 1..];
    let time = steps[begin].0;
    let end = after.iter().position(|(end, ..)| end - time >= seconds)?;
    let inside = &after[..=end];
    let [n_rows, n_tokens] = inside.iter().fold([0.0; 2], |[rows, tokens], step| {
        [rows + step.1, tokens + step.2]
    });
    let peaks = lines
        .iter()
        .filter_map(|(_, line)| line["device_memory_peak"].as_u64());
    let allocated_bytes = peaks.max();
    let measurement = Measurement::rate(n_rows, inside[end].0 - time, Some(n_tokens));
    Some(measurement.map(|measurement| Measurement {
        allocated_bytes,
        ..measurement
    }))
}

/// The window that a side tells of itself.
fn told(line: &Value) -> Result<Measurement> {
    let number = |key: &str| {
        line[key]
            .as_f64()
            .with_context(|| format!("it told no {key}"))
    };
    let n_tokens = line["n_tokens"].as_f64();
    let measurement = Measurement::rate(number("n_rows")?, number("seconds")?, n_tokens)?;
    let allocated_bytes = line["device_peak_bytes"].as_u64();
    Ok(Measurement {
        allocated_bytes,
        ..measurement
    })
}

/// The time in `encoded 1,500 sentences in 3.214 s: ...`.
fn encoding_seconds(stderr: &str) -> Option<f64> {
    let line = stderr.lines().find(|line| line.contains("encoded "))?;
    let (_, rest) = line.split_once(" in ")?;
    rest.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(time: f64, n_steps: u64) -> (f64, Value) {
        let line = json!({
            "type": "log", "loss": 1.0, "n_rows": 16 * n_steps, "n_tokens": 600 * n_steps,
            "device_memory_peak": 1_000_000 * n_steps,
        });
        (time, line)
    }

    #[test]
    fn the_window_of_sentune_begins_after_the_warm_up() {
        let mut lines = vec![
            (3.0, json!({"type": "begin", "n_rows": 131_072})),
            log(4.0, 1),
            log(5.0, 2),
            log(5.5, 3),
            log(6.5, 4),
            log(7.25, 5),
        ];
        assert!(window(&lines, 1.5, 2.0).is_none());
        lines.push(log(7.5, 6));
        lines.push(log(9.0, 7));
        let found = window(&lines, 1.5, 2.0).unwrap().unwrap();
        // 15 steps in 2 s.
        assert_eq!((found.value, found.tokens_per_row), (120.0, Some(37.5)));
        assert_eq!(found.allocated_bytes, Some(7_000_000));
        assert!(window(&lines[..1], 0.0, 0.0).is_none());
    }

    #[test]
    fn the_peer_tells_of_its_own_window() -> Result<()> {
        let line = json!({"seconds": 2.0, "n_rows": 64, "n_tokens": 2400, "device_peak_bytes": 5});
        let found = told(&line)?;
        assert_eq!(
            (found.value, found.tokens_per_row, found.allocated_bytes),
            (32.0, Some(37.5), Some(5))
        );
        assert!(told(&json!({"seconds": 2.0})).is_err());
        let error = told(&json!({"seconds": 0.0, "n_rows": 1}))
            .unwrap_err()
            .to_string();
        assert_eq!(error, "1 rows in 0 s are no measurement");
        Ok(())
    }

    #[test]
    fn the_time_of_encoding_is_read() {
        let stderr = " INFO model x: 1 parameters\n INFO encoded 1,500 sentences in 3.250 s: 461.5 sentences/s\n";
        assert_eq!(encoding_seconds(stderr), Some(3.25));
        assert_eq!(encoding_seconds("error: x"), None);
    }

    #[test]
    fn a_process_that_hangs_does_not_hold_up_the_whole() {
        let now = Instant::now();
        let later = limit(100.0, now + Duration::from_secs(300));
        assert_eq!(later, Duration::from_secs(100));
        let soon = limit(100.0, now + Duration::from_secs(30)).as_secs_f64();
        assert!((49.0..=50.0).contains(&soon), "{soon}");
    }

    #[test]
    fn tf32_is_a_flag_of_its_own() {
        let flags = |precision| precision_flags(precision).collect::<Vec<_>>().join(" ");
        assert_eq!(flags(Precision::Tf32), "--precision fp32 --tf32");
        assert_eq!(flags(Precision::Bf16), "--precision bf16");
        assert!(!visible_gpu().contains(','));
    }
}

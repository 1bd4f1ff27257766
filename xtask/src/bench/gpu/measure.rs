//! One cell of the table: the processes of both sides, and what their lines come to.

use std::{
    env,
    io::Write,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use fs_err as fs;
use serde_json::{Value, json};

use super::{
    memory::Watch,
    plan::{Budget, Cell, Precision, Task, WARMUP},
};
use crate::{
    bench::{
        Program,
        case::{Side, encoding_seconds, find, shown},
        inputs::{base_model, shape, triplets_of},
        peer::Peer,
        process::{Ended, run, run_until},
    },
    checkout::Checkout,
};

/// Rows of the files that are made.
const N_ROWS: usize = 131_072;

/// Sentences of the shorter of our two runs.
const N_FEW: usize = 4096;

/// Sentences per batch of both sides. The peer's own 32 leave a GPU waiting for the processor.
const ENCODE_BATCH: &str = "256";

/// Steps that no run gets to.
const MANY_STEPS: &str = "1000000";

/// Seconds that a process takes beside its window at most: it hangs otherwise.
const PATIENCE: f64 = 100.0;

/// Seconds by which the whole may overrun its time: a process that is running then is ended.
const OVERRUN: f64 = 20.0;

/// Everything that measurements need.
pub(super) struct Gpu {
    pub(super) inputs: Inputs,
    pub(super) sentune: Program,
    pub(super) peer: Peer,
    pub(super) memory: Watch,
    pub(super) n_threads: usize,
    /// The user's own flags for `sentune train`.
    pub(super) more: Vec<String>,
    /// Whether `sentune` can take a batch apart where memory does not hold it.
    pub(super) has_micro_batches: bool,
    /// When the time for the whole is over.
    pub(super) end: Instant,
}

/// Model and data.
#[derive(Debug)]
pub(super) struct Inputs {
    /// Where everything made is, and what runs leave.
    folder: PathBuf,
    model: PathBuf,
    /// What the others are made of.
    data: PathBuf,
    triplets: PathBuf,
    sentences: PathBuf,
}

impl Inputs {
    /// Makes what is missing.
    pub(super) fn prepare(
        checkout: &Checkout,
        sentune: &Program,
        peer: &Peer,
        args: &crate::bench::Args,
    ) -> Result<Self> {
        let root = &checkout.root;
        let folder = root.join("runs/bench");
        fs::create_dir_all(&folder)?;
        let inputs = Self {
            model: base_model(root, &folder, sentune, args.mini.as_deref())?,
            data: triplets_of(root, &folder, args.data.as_deref())?,
            triplets: folder.join("gpu-triplets.csv"),
            sentences: folder.join("gpu-sentences.txt"),
            folder,
        };
        let mut command = peer.command("gpu_inputs.py", &inputs.model, &inputs.data, 1);
        command.args(["--n-triplets", &N_ROWS.to_string(), "--triplets"]);
        command.arg(&inputs.triplets);
        command.args(["--n-sentences", &N_ROWS.to_string(), "--sentences"]);
        command.arg(&inputs.sentences);
        let ended = run(command)?;
        ensure!(ended.code == Some(0), "{}", ended.problem());
        Ok(inputs)
    }

    pub(super) fn model_name(&self) -> String {
        shown(&self.model)
    }

    pub(super) fn data_name(&self) -> String {
        let folder = self.data.parent().map(shown).unwrap_or_default();
        format!("{folder}/{}", shown(&self.data))
    }

    /// Multiplications and additions of the linear layers a token, as for the CPU.
    pub(super) fn flops_per_token(&self, task: Task) -> Result<f64> {
        let forward = 2.0 * shape(&self.model)?.n_linear_weights();
        Ok(match task {
            Task::Train(_) => 3.0 * forward,
            Task::Encode => forward,
        })
    }

    /// The first sentences, in a file of their own.
    fn first_sentences(&self, n: usize) -> Result<PathBuf> {
        let path = self.folder.join("gpu-sentences-some.txt");
        let text = fs::read_to_string(&self.sentences)?;
        let mut file = std::io::BufWriter::new(fs::File::create(&path)?);
        for line in text.lines().take(n) {
            writeln!(file, "{line}")?;
        }
        file.flush()?;
        Ok(path)
    }
}

/// What one side did in its window.
#[derive(Debug, Clone, PartialEq)]
struct Window {
    seconds: f64,
    n_rows: f64,
    /// Where they were counted.
    n_tokens: Option<f64>,
    /// The most memory that the side itself says it had.
    own_peak: Option<u64>,
}

impl Gpu {
    /// The GPU itself and the best of its matrix products.
    pub(super) fn measure_gemm(&self, seconds: f64) -> Result<Value> {
        let (model, data) = (&self.inputs.model, &self.inputs.data);
        let mut command = self.peer.command("gemm.py", model, data, self.n_threads);
        command.args(["--device", "cuda", "--seconds", &seconds.to_string()]);
        let limit = limit(PATIENCE + seconds, self.end);
        let ended = run_until(on_gpu(command), limit, |_| false)?;
        ensure!(ended.code == Some(0), "{}", ended.problem());
        let of_type = |kind: &str| -> Vec<Value> {
            let lines = ended.lines.iter().map(|(_, line)| line);
            lines.filter(|line| line["type"] == kind).cloned().collect()
        };
        let gpu = of_type("gpu").into_iter().next();
        let gpu = gpu.context("the peer's torch named no GPU")?;
        eprintln!("bench: {}", gpu["name"].as_str().unwrap_or_default());
        Ok(json!({"gpu": gpu, "products": of_type("product")}))
    }

    /// Both sides in turn. What goes wrong is kept as what was found.
    pub(super) fn measure(&self, cell: Cell, seconds: f64, budget: &mut Budget) -> Value {
        let mut sides = serde_json::Map::new();
        let mut tokens_per_row = None;
        let mut speed = None;
        for side in [Side::Peer, Side::Ours] {
            let before = self.memory.begin();
            let outcome = match (cell.task, side) {
                (Task::Train(size), Side::Peer) => {
                    self.peer_trains(size, cell.precision, seconds, budget)
                }
                (Task::Train(size), Side::Ours) => {
                    self.we_train(size, cell.precision, seconds, budget)
                }
                (Task::Encode, Side::Peer) => self.peer_encodes(cell.precision, seconds, budget),
                (Task::Encode, Side::Ours) => {
                    self.we_encode(cell.precision, seconds, speed, budget)
                }
            };
            let peak = self.memory.peak_bytes(before);
            let result = match outcome {
                Ok(window) => {
                    let value = window.n_rows / window.seconds;
                    speed = speed.or(Some(value));
                    let per_row = window.n_tokens.map(|n| n / window.n_rows);
                    warn_of_other_work(cell, tokens_per_row, per_row);
                    tokens_per_row = tokens_per_row.or(per_row);
                    let memory = peak.map_or_else(String::new, |bytes| {
                        format!(", {:.1} GB", bytes as f64 / 1e9)
                    });
                    let (name, unit) = (cell.name(), cell.task.unit());
                    eprintln!("bench: {name}, {}: {value:.0} {unit}{memory}", side.name());
                    json!({
                        "value": value,
                        "seconds": window.seconds,
                        "tokens_per_second": tokens_per_row.map(|n| n * value),
                        "device_peak_bytes": peak,
                        "allocated_peak_bytes": window.own_peak,
                    })
                }
                Err(error) => {
                    eprintln!("bench: {}, {}: {error:#}", cell.name(), side.name());
                    json!({"problem": problem(&error), "device_peak_bytes": peak})
                }
            };
            sides.insert(side.name().to_owned(), result);
        }
        json!({"sides": sides, "window_seconds": seconds})
    }

    fn peer_trains(
        &self,
        batch_size: usize,
        precision: Precision,
        seconds: f64,
        budget: &mut Budget,
    ) -> Result<Window> {
        let (model, data) = (&self.inputs.model, &self.inputs.triplets);
        let mut command = self.peer.command("train.py", model, data, self.n_threads);
        command.args(["--device", "cuda", "--precision", precision.name()]);
        command.args(["--batch-size", &batch_size.to_string()]);
        command.args(["--max-steps", MANY_STEPS]);
        command.args(["--warmup-seconds", &WARMUP.to_string()]);
        command.args(["--seconds", &seconds.to_string()]);
        let ended = self.timed(command, Side::Peer, WARMUP, seconds, budget, |_| false)?;
        told_window(find(&ended, "window")?.1, "n_rows")
    }

    fn we_train(
        &self,
        batch_size: usize,
        precision: Precision,
        seconds: f64,
        budget: &mut Budget,
    ) -> Result<Window> {
        let mut command = self.ours();
        command.args(["--quiet", "train", "--json", "--overwrite-output-dir"]);
        command.arg("--model").arg(&self.inputs.model);
        command.arg("--train-data").arg(&self.inputs.triplets);
        command
            .arg("--output-dir")
            .arg(self.inputs.folder.join("run"));
        command.args(["--batch-size", &batch_size.to_string()]);
        command.args(["--max-steps", MANY_STEPS, "--dataloader-drop-last"]);
        command.args(["--logging-steps", steps_per_line(batch_size)]);
        command.args(["--save-strategy", "no"]);
        command.args(precision_flags(precision));
        if self.has_micro_batches && batch_size >= 1024 {
            command.arg("--auto-micro-batch");
        }
        command.args(&self.more);
        let is_enough = |lines: &[(f64, Value)]| window_of(lines, WARMUP, seconds).is_some();
        let ended = self.timed(command, Side::Ours, WARMUP, seconds, budget, is_enough)?;
        window_of(&ended.lines, WARMUP, seconds).with_context(|| match ended.code {
            Some(_) => "it ended before it had trained for long enough".to_owned(),
            None => ended.problem(),
        })
    }

    fn peer_encodes(
        &self,
        precision: Precision,
        seconds: f64,
        budget: &mut Budget,
    ) -> Result<Window> {
        let (model, data) = (&self.inputs.model, &self.inputs.sentences);
        let mut command = self.peer.command("encode.py", model, data, self.n_threads);
        command.args(["--device", "cuda", "--precision", precision.name()]);
        command.args(["--batch-size", ENCODE_BATCH]);
        command.args(["--seconds", &seconds.to_string()]);
        let ended = self.timed(command, Side::Peer, WARMUP, seconds, budget, |_| false)?;
        told_window(find(&ended, "encoded")?.1, "n_sentences")
    }

    /// Few sentences and many: the time of the difference has no first use of the GPU in it.
    fn we_encode(
        &self,
        precision: Precision,
        seconds: f64,
        peers_speed: Option<f64>,
        budget: &mut Budget,
    ) -> Result<Window> {
        // We may be several times as fast as the peer, and the file holds no more.
        let n_more = peers_speed.map_or(N_ROWS / 4, |speed| (2.0 * speed * seconds) as usize);
        let n_many = N_FEW + n_more.clamp(N_FEW, N_ROWS - N_FEW);
        let mut took = [0.0; 2];
        for (took, n) in took.iter_mut().zip([N_FEW, n_many]) {
            let mut command = self.ours();
            command.arg("encode").arg("--model").arg(&self.inputs.model);
            command.arg("--input").arg(self.inputs.first_sentences(n)?);
            command.arg("--output");
            command.arg(self.inputs.folder.join("embeddings.npy"));
            command.args(["--batch-size", ENCODE_BATCH]);
            command.args(precision_flags(precision));
            let ended = self.timed(command, Side::Ours, 0.0, seconds, budget, |_| false)?;
            let seconds = encoding_seconds(&ended.stderr);
            *took = seconds.context("it did not say how long it encoded")?;
        }
        difference([N_FEW, n_many], took)
    }

    /// A call of `sentune` on the GPU.
    fn ours(&self) -> Command {
        let mut command = self.sentune.command();
        command
            .args(["--num-threads", &self.n_threads.to_string()])
            .args(["--device", "cuda"])
            .env("SENTUNE_CACHE", self.inputs.folder.join("cache"));
        command
    }

    /// Runs a process and takes note of its time.
    fn timed(
        &self,
        command: Command,
        side: Side,
        warmup: f64,
        seconds: f64,
        budget: &mut Budget,
        is_enough: impl FnMut(&[(f64, Value)]) -> bool,
    ) -> Result<Ended> {
        let begin = Instant::now();
        let limit = limit(PATIENCE + warmup + seconds, self.end);
        let ended = run_until(on_gpu(command), limit, is_enough);
        budget.note(side, begin.elapsed().as_secs_f64(), warmup + seconds);
        let ended = ended?;
        // It was killed where it had said enough.
        if ended.code.is_some_and(|code| code != 0) {
            bail!("{}", ended.problem_on_gpu());
        }
        Ok(ended)
    }
}

/// What a process may take, so that it does not hold up the whole.
fn limit(seconds: f64, end: Instant) -> Duration {
    let until = end + Duration::from_secs_f64(OVERRUN);
    Duration::from_secs_f64(seconds).min(until.saturating_duration_since(Instant::now()))
}

impl Ended {
    /// As [`Self::problem`]; Python's last line says more than those above it.
    fn problem_on_gpu(&self) -> String {
        let mut lines = self.stderr.trim_end().lines().rev();
        match lines.find(|line| is_out_of_memory(line)) {
            Some(line) => line.to_owned(),
            None => self.problem(),
        }
    }
}

fn is_out_of_memory(text: &str) -> bool {
    text.to_lowercase().contains("out of memory")
}

/// Why a side was not measured, in the words of the table where they are known.
fn problem(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    if is_out_of_memory(&text) {
        "out of memory".to_owned()
    } else {
        text
    }
}

/// Numbers as the driver's tool has them, and one GPU alone unless the user has chosen.
fn on_gpu(mut command: Command) -> Command {
    command.env("CUDA_DEVICE_ORDER", "PCI_BUS_ID");
    command.env("CUDA_VISIBLE_DEVICES", visible_gpu());
    command
}

/// The first GPU that the user lets programs see.
pub(super) fn visible_gpu() -> String {
    let chosen = env::var("CUDA_VISIBLE_DEVICES").unwrap_or_default();
    let first = chosen.split(',').next().unwrap_or_default().trim();
    if first.is_empty() { "0" } else { first }.to_owned()
}

/// Whether `sentune train` has this flag.
pub(super) fn knows(sentune: &Program, flag: &str) -> Result<bool> {
    let mut command = sentune.command();
    command.args(["train", "--help"]);
    let output = command
        .output()
        .with_context(|| format!("running {}", sentune.path.display()))?;
    ensure!(
        output.status.success(),
        "{} does not run: {}",
        sentune.path.display(),
        String::from_utf8_lossy(&output.stderr).trim_end()
    );
    let help = String::from_utf8_lossy(&output.stdout).into_owned();
    // As in `--flag[=<BOOL>]`.
    let mut words = help.split(|c: char| c.is_whitespace() || ",[=".contains(c));
    Ok(words.any(|word| word == flag))
}

fn precision_flags(precision: Precision) -> &'static [&'static str] {
    match precision {
        Precision::Fp32 => &["--precision", "fp32"],
        Precision::Tf32 => &["--precision", "fp32", "--tf32"],
        Precision::Bf16 => &["--precision", "bf16"],
    }
}

/// Steps between two lines of ours: at each the loss is read, and so the GPU waited for.
fn steps_per_line(batch_size: usize) -> &'static str {
    match batch_size {
        0..=31 => "50",
        32..=255 => "10",
        _ => "2",
    }
}

/// The window in our lines, which tell of the steps since the line before, when the GPU has done them: from the
/// first that comes when the warm-up is over to the first that comes so many seconds later.
fn window_of(lines: &[(f64, Value)], warmup: f64, seconds: f64) -> Option<Window> {
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
    let peaks = lines
        .iter()
        .filter_map(|(_, line)| line["device_memory_peak"].as_u64());
    Some(Window {
        seconds: inside[end].0 - time,
        n_rows: inside.iter().map(|step| step.1).sum(),
        n_tokens: Some(inside.iter().map(|step| step.2).sum()),
        own_peak: peaks.max(),
    })
}

/// The window that the peer tells of itself.
fn told_window(line: &Value, rows: &str) -> Result<Window> {
    let number = |key: &str| {
        line[key]
            .as_f64()
            .with_context(|| format!("it told no {key}"))
    };
    let window = Window {
        seconds: number("seconds")?,
        n_rows: number(rows)?,
        n_tokens: Some(number("n_tokens")?),
        own_peak: line["device_peak_bytes"].as_u64(),
    };
    ensure!(
        window.seconds > 0.0 && window.n_rows > 0.0,
        "{} rows in {} s are no measurement",
        window.n_rows,
        window.seconds
    );
    Ok(window)
}

/// What the longer of two runs did beyond the shorter.
fn difference(n: [usize; 2], seconds: [f64; 2]) -> Result<Window> {
    let more = seconds[1] - seconds[0];
    ensure!(
        more > 0.1,
        "{} sentences took {:.2} s and {} took {:.2} s: too little between them to tell a speed",
        n[0],
        seconds[0],
        n[1],
        seconds[1]
    );
    Ok(Window {
        seconds: more,
        n_rows: (n[1] - n[0]) as f64,
        n_tokens: None,
        own_peak: None,
    })
}

/// Both sides read the same rows in the same order, if not the same number: a row has as many tokens.
fn warn_of_other_work(cell: Cell, peers: Option<f64>, ours: Option<f64>) {
    if let (Some(peers), Some(ours)) = (peers, ours)
        && (ours / peers - 1.0).abs() > 0.05
    {
        eprintln!(
            "bench: {}: a row had {peers:.1} tokens for the peer and {ours:.1} for sentune: the work differs",
            cell.name()
        );
    }
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
    fn our_window_begins_after_the_warm_up() {
        let mut lines = vec![
            (3.0, json!({"type": "begin", "n_rows": 131_072})),
            log(4.0, 1),
            log(5.0, 2),
            log(5.6, 3),
            log(6.6, 4),
            log(7.5, 5),
        ];
        assert_eq!(window_of(&lines, 1.5, 2.0), None);
        lines.push(log(7.6, 6));
        lines.push(log(9.0, 7));
        let window = window_of(&lines, 1.5, 2.0).unwrap();
        assert!((window.seconds - 2.0).abs() < 1e-9);
        assert_eq!((window.n_rows, window.n_tokens), (240.0, Some(9000.0)));
        assert_eq!(window.own_peak, Some(7_000_000));
        assert_eq!(window_of(&lines[..1], 0.0, 0.0), None);
    }

    #[test]
    fn the_peer_tells_its_own() {
        let line = json!({"seconds": 2.0, "n_rows": 64, "n_tokens": 2400, "device_peak_bytes": 5});
        let window = told_window(&line, "n_rows").unwrap();
        assert_eq!(
            (window.n_rows / window.seconds, window.own_peak),
            (32.0, Some(5))
        );
        assert!(told_window(&line, "n_sentences").is_err());
        assert!(
            told_window(
                &json!({"seconds": 0.0, "n_rows": 1, "n_tokens": 1}),
                "n_rows"
            )
            .is_err()
        );
    }

    #[test]
    fn two_runs_leave_out_what_both_begin_with() {
        let window = difference([4096, 20_480], [2.5, 4.5]).unwrap();
        assert_eq!(window.n_rows / window.seconds, 8192.0);
        let error = difference([10, 20], [2.0, 2.05]).unwrap_err().to_string();
        assert!(error.contains("too little between them"), "{error}");
    }

    #[test]
    fn memory_that_runs_out_is_named() {
        let ended = |stderr: &str| Ended {
            code: Some(1),
            lines: Vec::new(),
            stderr: stderr.to_owned(),
            peaks: Vec::new(),
        };
        let words =
            "Traceback\n  a line\ntorch.OutOfMemoryError: CUDA out of memory. Tried 2 GiB\n\n";
        let error = anyhow::anyhow!(ended(words).problem_on_gpu());
        assert_eq!(problem(&error), "out of memory");
        let error = anyhow::anyhow!(ended("error: why\n").problem_on_gpu());
        assert_eq!(problem(&error), "exit code 1: error: why");
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
    fn both_sides_see_one_gpu() {
        let command = on_gpu(Command::new("x"));
        let variables: Vec<_> = command.get_envs().collect();
        assert_eq!(variables.len(), 2);
        assert!(!visible_gpu().contains(','));
    }
}

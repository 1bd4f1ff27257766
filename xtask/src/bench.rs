//! `cargo xtask bench`: how fast sentune is beside Python's sentence-transformers, measured in turn.
//!
//! Every measurement is a process of its own, peer and sentune one after the other, round after round, with the
//! same threads, model, data and batches. What is measured is kept case by case in runs/bench, so that a case can
//! be measured again or an interrupted run be gone on with; the tables are made of all that is kept.

mod case;
mod gpu;
mod inputs;
pub(crate) mod peer;
mod process;
mod report;

use std::{collections::BTreeMap, path::PathBuf, process::Command};

use anyhow::{Context, Result, bail, ensure};
use fs_err as fs;
use serde_json::{Value, json};

use self::{
    case::{Case, Sample, Setting},
    inputs::Inputs,
    peer::Peer,
    process::Ended,
    report::Report,
};
use crate::{checkout::Checkout, setup};

/// What is kept of each case, in the checkout.
const RESULTS: &str = "runs/bench/results.json";

/// Where the tables go, between its markers.
const DOCUMENT: &str = "docs/benchmarks.md";

/// Measure the speed of training, encoding and starting beside Python's sentence-transformers.
///
/// Takes about half an hour on two cores, and 20 GB of memory for the peer's batches of 128; with --device cuda
/// less than nine minutes. The peer is installed into your cache folder first; leave the machine alone meanwhile.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What both sides compute on
    #[arg(long, value_name = "DEVICE", value_enum, default_value = "cpu")]
    device: Device,
    /// Measure only these cases, separated by commas; the others keep what was measured before
    #[arg(long, value_name = "CASES", value_delimiter = ',', value_enum)]
    only: Option<Vec<Case>>,
    /// Skip the cases that are measured already
    #[arg(long)]
    resume: bool,
    /// Processes of each kind per case
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// One round without batches of 128, to see that everything works; the document stays as it is
    #[arg(long)]
    quick: bool,
    /// Threads of both sides [default: all cores]
    #[arg(long, value_name = "N")]
    num_threads: Option<usize>,
    /// A Python that has the peer installed, instead of one in your cache folder
    #[arg(long, value_name = "PYTHON")]
    python: Option<PathBuf>,
    /// The folder of packages of a Python that has torch and the peer, for `python3` or --python
    #[arg(long, value_name = "FOLDER")]
    python_packages: Option<PathBuf>,
    /// The small model [default: ../shared/models/mini-mpnet, or one with random weights]
    #[arg(long, value_name = "FOLDER")]
    mini: Option<PathBuf>,
    /// Triplets, .parquet or .csv [default: ../shared/data/snli-triplets/train.parquet, or generated ones]
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Write what was measured to this file too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure nothing: print the tables of what is kept, and write them down
    #[arg(long, conflicts_with_all = ["only", "resume", "quick"])]
    report: bool,
    #[command(flatten)]
    gpu: gpu::Args,
}

/// What both sides compute on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Device {
    /// The processor
    Cpu,
    /// The first NVIDIA GPU
    Cuda,
}

/// A `sentune` to be measured.
#[derive(Debug)]
struct Program {
    path: PathBuf,
    /// The libtorch that it is to run with, where it is not the one that it was built with.
    libtorch: Option<PathBuf>,
}

impl Program {
    /// A call of it, far from the hub.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.env("HF_HUB_OFFLINE", "1").env_remove("RUST_LOG");
        if let Some(libtorch) = &self.libtorch {
            command.env("SENTUNE_LIBTORCH", libtorch);
        }
        command
    }
}

/// Measures, prints the tables and writes them down.
pub(crate) fn run(checkout: &Checkout, args: &Args) -> Result<()> {
    if args.device == Device::Cuda {
        return gpu::run(checkout, args);
    }
    args.gpu.refuse()?;
    let path = checkout.root.join(RESULTS);
    let mut results = if args.quick {
        Results::new()
    } else {
        kept(&path)?
    };
    if !args.report {
        measure_all(checkout, args, &mut results, |results| {
            if args.quick {
                return Ok(());
            }
            fs::write(&path, format!("{:#}\n", json!(results)))?;
            Ok(())
        })?;
    }
    ensure!(
        !results.is_empty(),
        "nothing is measured yet: leave out --report"
    );
    let report = Report::new(&results)?;
    println!("{}", report.markdown());
    if let Some(path) = &args.json {
        fs::write(path, format!("{:#}\n", report.json()))?;
    }
    if !args.quick {
        let document = checkout.root.join(DOCUMENT);
        let text = report::replace(
            &fs::read_to_string(&document)?,
            report::MARKERS,
            &report.markdown(),
        )
        .with_context(|| format!("the tables could not be put into {DOCUMENT}"))?;
        fs::write(&document, text)?;
        eprintln!("bench: the tables are in {DOCUMENT}, what was measured in {RESULTS}");
    }
    Ok(())
}

/// What was measured, by the name of the case.
type Results = BTreeMap<String, Value>;

fn kept(path: &std::path::Path) -> Result<Results> {
    if !path.exists() {
        return Ok(Results::new());
    }
    serde_json::from_str(&fs::read_to_string(path)?)
        .with_context(|| format!("{} is damaged: remove it", path.display()))
}

fn measure_all(
    checkout: &Checkout,
    args: &Args,
    results: &mut Results,
    keep: impl Fn(&Results) -> Result<()>,
) -> Result<()> {
    setup::run(checkout, &setup::Args::default())?;
    let build = ["build", "--package", "cli", "--package", "bench"];
    checkout.cargo().args(build).run()?;
    let peer = Peer::find(
        checkout,
        args.python.as_deref(),
        args.python_packages.as_deref(),
    )?;
    let n_threads = n_threads(args)?;
    let programs = checkout.root.join("target/debug");
    let sentune = Program {
        path: programs.join("sentune"),
        libtorch: None,
    };
    let (mini, data) = (args.mini.as_deref(), args.data.as_deref());
    let bench = Bench {
        inputs: Inputs::prepare(checkout, &sentune, &peer, mini, data)?,
        peer,
        sentune,
        gemm: programs.join("bench"),
        n_threads,
        rounds: if args.quick { 1 } else { args.rounds },
        quick: args.quick,
    };
    let commit = commit(checkout);
    for case in Case::ALL {
        let wanted = match &args.only {
            Some(only) => only.contains(&case),
            None => !(args.quick && case == Case::TrainBase128),
        };
        if !wanted || (args.resume && results.contains_key(case.name())) {
            continue;
        }
        let mut result = bench.measure(case)?;
        result["commit"] = json!(commit);
        result["machine"] = json!(machine());
        result["n_threads"] = json!(n_threads);
        results.insert(case.name().to_owned(), result);
        keep(results)?;
    }
    Ok(())
}

fn n_threads(args: &Args) -> Result<usize> {
    match args.num_threads {
        Some(n_threads) => Ok(n_threads),
        None => Ok(std::thread::available_parallelism()?.get()),
    }
}

/// What was measured, as git names it.
fn commit(checkout: &Checkout) -> String {
    xshell::cmd!(checkout.shell, "git describe --always --dirty")
        .quiet()
        .ignore_stderr()
        .read()
        .unwrap_or_else(|_| "unknown".to_owned())
}

/// Everything that measurements need.
struct Bench {
    inputs: Inputs,
    peer: Peer,
    sentune: Program,
    /// The program that measures the chip's rate.
    gemm: PathBuf,
    n_threads: usize,
    rounds: u32,
    quick: bool,
}

impl Bench {
    /// Measures all settings of a case in turn, round after round.
    fn measure(&self, case: Case) -> Result<Value> {
        match case {
            Case::Gemm => return self.measure_gemm(),
            Case::Profile => return self.measure_profiles(),
            _ => {}
        }
        let mut settings = case.settings();
        if self.quick {
            for setting in &mut settings {
                setting.n_measured = setting.n_measured.min(2);
            }
        }
        let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); settings.len()];
        let mut problems: Vec<Option<String>> = vec![None; settings.len()];
        // What a start reads from the disk, and our cache of tokens, are to be there.
        if case == Case::Start {
            for setting in &settings {
                self.sample(case, setting)?;
            }
        }
        for round in 1..=self.rounds {
            for (i, setting) in settings.iter().enumerate() {
                if problems[i].is_some() {
                    continue;
                }
                match self.sample(case, setting) {
                    Ok(sample) => {
                        eprintln!(
                            "bench: {} round {round}/{}, {setting}: {sample}",
                            case.name(),
                            self.rounds
                        );
                        samples[i].push(sample);
                    }
                    Err(error) => {
                        eprintln!("bench: {} {setting}: {error:#}", case.name());
                        problems[i] = Some(format!("{error:#}"));
                    }
                }
            }
        }
        self.check_same_work(case, &settings, &samples);
        let settings = settings.iter().zip(samples).zip(problems);
        let settings: Vec<Value> = settings
            .map(|((setting, samples), problem)| {
                json!({
                    "side": setting.side.name(),
                    "precision": setting.precision,
                    "n_warmup_steps": setting.n_warmup,
                    "n_measured_steps": setting.n_measured,
                    "samples": samples.iter().map(Sample::json).collect::<Vec<_>>(),
                    "problem": problem,
                })
            })
            .collect();
        Ok(json!({
            "unit": case.unit(),
            "model": self.inputs.model_of(case),
            "data": self.inputs.data_of(case),
            "flops_per_token": case.flops_per_token(self.inputs.shape_of(case)),
            "settings": settings,
        }))
    }

    /// Both sides read the same text, so they count the same tokens; where they don't, ratios mean little.
    fn check_same_work(&self, case: Case, settings: &[Setting], samples: &[Vec<Sample>]) {
        let mut seen: BTreeMap<usize, u64> = BTreeMap::new();
        for (setting, samples) in settings.iter().zip(samples) {
            for tokens in samples.iter().map(|sample| &sample.n_tokens_by_step) {
                for (step, &n_tokens) in tokens.iter().enumerate() {
                    if *seen.entry(step).or_insert(n_tokens) != n_tokens {
                        eprintln!(
                            "bench: {} {setting}: step {} has {n_tokens} tokens, others' {}: the batches differ",
                            case.name(),
                            step + 1,
                            seen[&step]
                        );
                        return;
                    }
                }
            }
        }
    }

    /// One process, and what came of it.
    fn sample(&self, case: Case, setting: &Setting) -> Result<Sample> {
        let command = self.command(case, setting)?;
        let ended = process::run(command)?;
        if ended.code != Some(0) {
            bail!("{}", ended.problem());
        }
        Sample::of(case, setting, &ended)
    }

    /// The parts of sentune's steps on both models, in every precision that it and the chip have.
    fn measure_profiles(&self) -> Result<Value> {
        let mut profiles = Vec::new();
        for case in [Case::TrainBase16, Case::TrainMini16] {
            for precision in ["fp32", "bf16", "fp16"] {
                let setting = Setting {
                    side: case::Side::Ours,
                    precision,
                    n_warmup: 2,
                    n_measured: if self.quick { 2 } else { 10 },
                };
                let mut command = self.command(case, &setting)?;
                command.arg("--profile");
                let ended = process::run(command)?;
                if ended.code != Some(0) {
                    eprintln!("bench: profile, {setting}: {}", ended.problem());
                    continue;
                }
                let mut profile = case::find(&ended, "profile")?.1.clone();
                profile["model"] = json!(self.inputs.model_of(case));
                profile["precision"] = json!(precision);
                eprintln!(
                    "bench: profile of {} in {precision}: {:.0} ms a step",
                    self.inputs.model_of(case),
                    profile["milliseconds_per_step"]
                        .as_f64()
                        .unwrap_or(f64::NAN)
                );
                profiles.push(profile);
            }
        }
        ensure!(!profiles.is_empty(), "no profile could be taken");
        Ok(json!({ "profiles": profiles }))
    }

    /// The best rate of each precision, of all libraries and shapes.
    fn measure_gemm(&self) -> Result<Value> {
        let mut command = Command::new(&self.gemm);
        command.args(["--num-threads", &self.n_threads.to_string()]);
        let ended = process::run(command)?;
        ensure!(ended.code == Some(0), "{}", ended.problem());
        let products: Vec<&Value> = ended.lines.iter().map(|(_, line)| line).collect();
        for precision in ["fp32", "bf16", "fp16"] {
            if let Some(rate) = report::best_rate(&json!({"products": products}), precision) {
                eprintln!("bench: matrix products in {precision}: {rate:.0} GFLOP/s");
            }
        }
        Ok(json!({ "products": products }))
    }
}

/// The processor and how many threads it runs.
fn machine() -> String {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim_start_matches([' ', '\t', ':']).trim().to_owned())
    };
    let info = read("/proc/cpuinfo");
    let model = field(&info, "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let mut extensions = Vec::new();
    let flags = field(&info, "flags").unwrap_or_default();
    for (flag, name) in [
        ("avx512f", "AVX-512"),
        ("avx512_bf16", "AVX512_BF16"),
        ("avx512_fp16", "AVX512-FP16"),
        ("amx_bf16", "AMX-BF16"),
    ] {
        if flags.split(' ').any(|known| known == flag) {
            extensions.push(name);
        }
    }
    let kilobytes = field(&read("/proc/meminfo"), "MemTotal")
        .and_then(|text| text.trim_end_matches(" kB").parse::<f64>().ok());
    let memory = kilobytes.map_or_else(String::new, |n| format!(", {:.0} GiB", n / 1048576.0));
    format!(
        "{threads} threads of {model} ({}){memory}",
        extensions.join(", ")
    )
}

impl Ended {
    /// Why a process failed: its code with its error line, or the last of what it said.
    fn problem(&self) -> String {
        let lines: Vec<&str> = self.stderr.trim_end().lines().collect();
        let error = lines.iter().find(|line| line.starts_with("error: "));
        let words = match error {
            Some(error) => (*error).to_owned(),
            None => lines[lines.len().saturating_sub(3)..].join(" / "),
        };
        match self.code {
            Some(code) => format!("exit code {code}: {words}"),
            None => format!("ended by a signal (out of memory?): {words}"),
        }
    }
}

//! `cargo xtask bench`: the speed of sentune beside Python's sentence-transformers, measured in turn.
//!
//! Every measurement is a process of its own, peer and sentune one after the other, round after round, with the same
//! threads, model, data and batches, on a processor or a GPU. Results are kept case by case in runs/bench, so that a
//! case can be measured again and an interrupted run resumed; the tables are made of everything kept. Where programs
//! are given by flags nothing is built, so that this program can be carried to a machine without Rust.

mod case;
mod inputs;
mod measure;
mod memory;
mod others;
mod report;

use std::{
    collections::BTreeSet,
    env,
    path::{self, Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use fs_err as fs;
use serde_json::{Value, json};

use self::{
    case::{Case, Device, Model, Precision, Side},
    inputs::Inputs,
    measure::{Bench, Measurement, Program},
    memory::Watch,
    report::{GEMM, PROFILE, Report, Results},
};
use crate::{checkout::Checkout, document, nvidia, peer::Peer, process, setup};

/// The document that the tables go into, between its markers.
const DOCUMENT: &str = "docs/benchmarks.md";

/// Speed: measure training, encoding and starting beside Python's sentence-transformers.
///
/// Takes about half an hour on two cores, and 20 GB of memory for the peer's batches of 128; with --device cuda
/// less than nine minutes. The peer is installed into your cache folder first; leave the machine alone meanwhile.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Device that both sides compute on
    #[arg(long, value_name = "DEVICE", value_enum, default_value = "cpu")]
    device: Device,
    /// Measure only these cases, separated by commas, such as train-base-16, gemm or profile
    #[arg(long, value_name = "CASES", value_delimiter = ',')]
    only: Option<Vec<String>>,
    /// Measure only these precisions
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_enum)]
    precisions: Option<Vec<Precision>>,
    /// Skip the cases that are measured already
    #[arg(long)]
    resume: bool,
    /// Processes of each side per case [default: 3, on a GPU 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Length of a measurement in seconds [default: 10, on a GPU 5]
    #[arg(long, value_name = "X", value_parser = positive)]
    seconds: Option<f64>,
    /// Time for everything but the build, in minutes; later cases are left out [default: no limit, on a GPU 8.5]
    #[arg(long, value_name = "X", value_parser = positive)]
    minutes: Option<f64>,
    /// Measure a few cases briefly, to see that everything works; the document stays as it is
    #[arg(long)]
    quick: bool,
    /// Threads of both sides [default: all cores]
    #[arg(long, value_name = "N")]
    num_threads: Option<usize>,
    /// Built `sentune` to measure, instead of one that is built here first; on a GPU it runs with the libtorch of the
    /// peer's torch, unless SENTUNE_LIBTORCH names another
    #[arg(long, value_name = "PROGRAM")]
    sentune: Option<PathBuf>,
    /// More flags for `sentune train`, such as "--cuda-graphs"
    #[arg(long, value_name = "FLAGS")]
    sentune_args: Option<String>,
    /// Another `sentune` to compare with, instead of the peer
    #[arg(long, value_name = "PROGRAM")]
    against: Option<PathBuf>,
    /// Python that has the peer installed, instead of one in your cache folder
    #[arg(long, value_name = "PYTHON")]
    python: Option<PathBuf>,
    /// Folder of packages of a Python that has torch and the peer, for `python3` or --python
    #[arg(long, value_name = "FOLDER")]
    python_packages: Option<PathBuf>,
    /// Small model [default: ../shared/models/mini-mpnet, or one with random weights]
    #[arg(long, value_name = "FOLDER")]
    mini: Option<PathBuf>,
    /// Triplets, .parquet or .csv [default: ../shared/data/snli-triplets/train.parquet, or generated ones]
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Write everything measured to this file too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure nothing: print the tables of everything kept, and write them down
    #[arg(long, conflicts_with_all = ["only", "resume", "quick"])]
    report: bool,
}

fn positive(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if number > 0.0 && number.is_finite() {
        Ok(number)
    } else {
        Err("it must be more than 0".to_owned())
    }
}

impl Args {
    fn rounds(&self) -> u32 {
        let default = if self.quick || self.device == Device::Cuda {
            1
        } else {
            3
        };
        self.rounds.unwrap_or(default)
    }

    fn window(&self) -> f64 {
        self.seconds.unwrap_or(match self.device {
            _ if self.quick => 2.0,
            Device::Cpu => 10.0,
            Device::Cuda => 5.0,
        })
    }

    fn limit(&self) -> Option<Duration> {
        let on_gpu = Some(8.5).filter(|_| self.device == Device::Cuda);
        let minutes = self.minutes.or(on_gpu)?;
        Some(Duration::from_secs_f64(60.0 * minutes))
    }

    /// Whether the flags ask for this: one of the cases, or one of the measurements without two sides.
    fn asks_for(&self, name: &str, case: Option<Case>) -> bool {
        if let (Some(precisions), Some(case)) = (&self.precisions, case)
            && !precisions.contains(&case.precision)
        {
            return false;
        }
        match &self.only {
            Some(only) => only.iter().any(|wanted| wanted == name),
            None => !self.quick || case.is_some_and(Case::is_quick) || name == GEMM,
        }
    }

    /// Fails where --only names no case.
    fn check(&self) -> Result<()> {
        let mut known: Vec<String> = Case::all(self.device).into_iter().map(Case::work).collect();
        known.extend([GEMM, PROFILE].map(str::to_owned));
        known.sort();
        known.dedup();
        for name in self.only.iter().flatten() {
            ensure!(
                known.contains(name),
                "--only {name}: the cases are {}",
                known.join(", ")
            );
        }
        Ok(())
    }
}

/// Measures, prints the tables and writes them down.
pub(crate) fn run(checkout: &Checkout, args: &Args) -> Result<()> {
    args.check()?;
    let quick = if args.quick { "-quick" } else { "" };
    let kept = format!("runs/bench/{}{quick}.json", args.device.name());
    let path = checkout.root.join(&kept);
    let mut results = read(&path)?;
    if !args.report {
        measure_all(checkout, args, &mut results, |results| {
            Ok(fs::write(&path, format!("{:#}\n", json!(results)))?)
        })?;
    }
    let report = Report::new(args.device, &results)?;
    println!("{}", report.markdown());
    if let Some(path) = &args.json {
        fs::write(path, format!("{:#}\n", report.json()))?;
    }
    eprintln!("bench: everything measured is in {}", path.display());
    if args.quick || args.against.is_some() {
        return Ok(());
    }
    if !checkout.root.join(DOCUMENT).exists() {
        eprintln!(
            "bench: with that file as {kept} in a checkout, `cargo xtask bench --device {} --report` writes it into {DOCUMENT}",
            args.device.name()
        );
        return Ok(());
    }
    ensure_quiet(args.device, &results)?;
    let markers = report::markers(args.device);
    document::write(checkout, DOCUMENT, markers, &report.markdown())
}

/// The largest share of a processor's cores that other programs may have had during a measurement.
const QUIET: f64 = 0.05;

/// Refuses figures for the document from a machine that had other work.
fn ensure_quiet(device: Device, results: &Results) -> Result<()> {
    if device == Device::Cuda {
        return Ok(());
    }
    let mut busy = Vec::new();
    for case in Case::all(device) {
        let Some(result) = results.get(&case.to_string()) else {
            continue;
        };
        let sides = case
            .sides()
            .iter()
            .map(|side| &result["sides"][side.name()]);
        let measured = sides
            .filter_map(|side| side["measurements"].as_array())
            .flatten();
        let others = measured.filter_map(|measurement| measurement["others"].as_f64());
        let most = others.fold(0.0, f64::max);
        if most > QUIET {
            busy.push(format!("{case} ({:.0} %)", 100.0 * most));
        }
    }
    ensure!(
        busy.is_empty(),
        "other programs had more than {:.0} % of the cores during {}, so {DOCUMENT} stays as it is: measure these again on an idle machine (--only, --precisions)",
        100.0 * QUIET,
        busy.join(", ")
    );
    Ok(())
}

fn read(path: &Path) -> Result<Results> {
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
    let (bench, matrix_rate) = prepare(checkout, args)?;
    let describe = |result: &mut Value| {
        result["commit"] = json!(document::commit(checkout));
        result["machine"] = json!(document::machine());
        result["n_threads"] = json!(bench.n_threads);
        result["peer"] = json!(bench.peer_name());
        result["sentune_args"] = json!(args.sentune_args);
    };
    if args.asks_for(GEMM, None) && !(args.resume && results.contains_key(GEMM)) {
        results.insert(GEMM.to_owned(), bench.matrix_rates(&matrix_rate)?);
        keep(results)?;
    }
    for case in Case::all(args.device) {
        let name = case.to_string();
        let is_done = || {
            results
                .get(&name)
                .is_some_and(|result| is_whole(case, result))
        };
        if !args.asks_for(&case.work(), Some(case)) || (args.resume && is_done()) {
            continue;
        }
        let is_late = bench.end.is_some_and(|end| Instant::now() > end);
        let mut result = if is_late {
            eprintln!("bench: {case}: no time is left for it");
            json!({"problem": "no time was left"})
        } else {
            measure_in_turn(&bench, case, args.rounds())
        };
        let [model, data] = bench.inputs.names(case);
        result["model"] = json!(model);
        result["data"] = json!(data);
        result["flops_per_token"] = json!(bench.inputs.flops_per_token(case)?);
        describe(&mut result);
        results.insert(name, result);
        keep(results)?;
    }
    let has_profile = args.device == Device::Cpu && args.asks_for(PROFILE, None);
    if has_profile && !(args.resume && results.contains_key(PROFILE)) {
        results.insert(PROFILE.to_owned(), bench.profiles()?);
        keep(results)?;
    }
    Ok(())
}

/// Builds and makes everything that measurements need; with it comes the program for a processor's rate.
fn prepare(checkout: &Checkout, args: &Args) -> Result<(Bench, PathBuf)> {
    if args.device == Device::Cuda {
        nvidia::need_driver(&checkout.shell, "`cargo xtask bench --device cuda`")?;
    }
    let built = checkout.root.join("target/debug");
    build(checkout, args)?;
    let mut sentune = match &args.sentune {
        Some(path) => program("--sentune", path)?,
        None => program("the built", &built.join("sentune"))?,
    };
    let against = args.against.as_deref();
    let against = against.map(|path| program("--against", path)).transpose()?;
    let (python, packages) = (args.python.as_deref(), args.python_packages.as_deref());
    let peer = Peer::find(checkout, python, packages)?;
    let is_carried = args.sentune.is_some() && args.device == Device::Cuda;
    if is_carried && env::var_os("SENTUNE_LIBTORCH").is_none() {
        sentune.libtorch = Some(peer.torch()?);
    }
    // From here on the time counts.
    let end = args.limit().map(|limit| Instant::now() + limit);
    let files = [args.mini.as_deref(), args.data.as_deref()];
    let init = || sentune.command();
    let wanted = Case::all(args.device).into_iter();
    let wanted = wanted.filter(|case| args.asks_for(&case.work(), Some(*case)));
    let wanted: BTreeSet<Model> = wanted.map(|case| case.model).collect();
    let inputs = Inputs::prepare(&checkout.root, args.device, &init, &peer, files, &wanted)?;
    let more = args.sentune_args.as_deref().unwrap_or_default();
    let bench = Bench {
        device: args.device,
        inputs,
        sentune,
        against,
        peer,
        n_threads: match args.num_threads {
            Some(n_threads) => n_threads,
            None => std::thread::available_parallelism()?.get(),
        },
        more: more.split_whitespace().map(str::to_owned).collect(),
        window: args.window(),
        end,
        memory: (args.device == Device::Cuda).then(|| Watch::start(&measure::visible_gpu())),
    };
    Ok((bench, built.join("examples/matrix_rate")))
}

/// Builds the programs that are not given: `sentune`, and on a processor the one that measures its rate.
fn build(checkout: &Checkout, args: &Args) -> Result<()> {
    let mut build = vec!["build"];
    if args.sentune.is_none() {
        build.extend(["--bin", "sentune"]);
    }
    if args.device == Device::Cpu && args.asks_for(GEMM, None) {
        build.extend(["--example", "matrix_rate"]);
    }
    if build.len() == 1 {
        return Ok(());
    }
    let mut features: &[&str] = &[];
    if args.device == Device::Cuda {
        setup::run(checkout, &setup::Args::with_cuda())?;
        features = setup::features(checkout);
    } else {
        setup::run(checkout, &setup::Args::default())?;
    }
    Ok(checkout.cargo().args(build).args(features).run()?)
}

fn program(flag: &str, path: &Path) -> Result<Program> {
    let path = path::absolute(path)?;
    ensure!(path.is_file(), "{flag} {} is no file", path.display());
    Ok(Program {
        path,
        libtorch: None,
    })
}

/// The processes of a case, peer and sentune in turn, round after round. A problem is kept as a result.
fn measure_in_turn(bench: &Bench, case: Case, rounds: u32) -> Value {
    let mut sides = Side::BOTH.map(|side| (side, Vec::<Measurement>::new(), None::<String>));
    for round in 1..=rounds {
        for (side, measured, problem) in &mut sides {
            if !case.sides().contains(side) || problem.is_some() {
                continue;
            }
            let place = format!("bench: {case}, round {round}/{rounds}, {}", side.name());
            match bench.measure(case, *side) {
                Ok(measurement) => {
                    let bytes = measurement.peak_bytes.unwrap_or_default() as f64;
                    let figure = document::figure(measurement.value);
                    eprintln!("{place}: {figure} {}, {:.2} GB", case.unit(), bytes / 1e9);
                    measured.push(measurement);
                }
                Err(error) => {
                    eprintln!("{place}: {error:#}");
                    *problem = Some(in_short(&error));
                }
            }
        }
    }
    warn_of_other_work(
        case,
        sides.each_ref().map(|(_, measured, _)| measured.first()),
    );
    let sides = sides.map(|(side, measured, problem)| {
        let measurements: Vec<Value> = measured.iter().map(Measurement::json).collect();
        let result = json!({"measurements": measurements, "problem": problem});
        (side.name().to_owned(), result)
    });
    json!({"sides": sides.into_iter().collect::<serde_json::Map<_, _>>(), "window_seconds": bench.window})
}

/// Why a side was not measured, in the words of the table where they are known.
fn in_short(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    if process::is_out_of_memory(&text) {
        "out of memory".to_owned()
    } else {
        text
    }
}

/// Both sides read the same rows in the same order, if not as many: a row has as many tokens on both.
fn warn_of_other_work(case: Case, first: [Option<&Measurement>; 2]) {
    let [peers, ours] = first.map(|measured| measured.and_then(|measured| measured.tokens_per_row));
    if let (Some(peers), Some(ours)) = (peers, ours)
        && (ours / peers - 1.0).abs() > 0.05
    {
        eprintln!(
            "bench: {case}: a row had {peers:.1} tokens for the peer and {ours:.1} for sentune: the work differs"
        );
    }
}

/// Whether all sides that have the precision were measured.
fn is_whole(case: Case, result: &Value) -> bool {
    case.sides().iter().all(|side| {
        let measurements = result["sides"][side.name()]["measurements"].as_array();
        measurements.is_some_and(|measured| !measured.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn args(flags: &str) -> Args {
        Cli::parse_from(format!("bench {flags}").split_whitespace()).args
    }

    #[test]
    fn cases_are_chosen_by_name_and_precision() {
        let chosen = |flags: &str| {
            let args = args(flags);
            let cases = Case::all(args.device).into_iter();
            let chosen = cases.filter(|case| args.asks_for(&case.work(), Some(*case)));
            chosen.map(|case| case.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(chosen("").len(), 33);
        assert_eq!(
            chosen("--only start,train-base-16 --precisions fp32"),
            ["start, fp32", "train-base-16, fp32"]
        );
        assert_eq!(
            chosen("--device cuda --quick"),
            [
                "train-base-16, bf16",
                "encode-base, bf16",
                "train-base-16, fp32",
                "encode-base, fp32"
            ]
        );
        assert!(args("--quick").asks_for(GEMM, None) && !args("--quick").asks_for(PROFILE, None));
        let error = args("--only train").check().unwrap_err().to_string();
        assert!(
            error.starts_with("--only train: the cases are encode-base, "),
            "{error}"
        );
        assert!(args("--only gemm,profile").check().is_ok());
    }

    #[test]
    fn a_gpu_has_a_limit_and_shorter_windows() {
        let gpu = args("--device cuda");
        assert_eq!(
            (gpu.rounds(), gpu.window(), gpu.limit()),
            (1, 5.0, Some(Duration::from_secs(510)))
        );
        let cpu = args("");
        assert_eq!((cpu.rounds(), cpu.window(), cpu.limit()), (3, 10.0, None));
        assert_eq!(args("--minutes 2").limit(), Some(Duration::from_secs(120)));
        assert!(Cli::try_parse_from(["bench", "--seconds", "0"]).is_err());
    }

    #[test]
    fn figures_of_a_busy_machine_are_refused() {
        let case = Case::all(Device::Cpu)[0];
        let results = |others: Value| {
            let side = json!({"measurements": [{"value": 1.0}, {"value": 2.0, "others": others}]});
            let sides = Side::BOTH.map(|side_of| (side_of.name().to_owned(), side.clone()));
            let sides: serde_json::Map<_, _> = sides.into_iter().collect();
            Results::from([(case.to_string(), json!({ "sides": sides }))])
        };
        for quiet in [json!(0.04), Value::Null] {
            assert!(ensure_quiet(Device::Cpu, &results(quiet)).is_ok());
        }
        let busy = results(json!(0.31));
        let error = ensure_quiet(Device::Cpu, &busy).unwrap_err().to_string();
        assert!(error.contains(&format!("during {case} (31 %)")), "{error}");
        // A GPU's figures hardly depend on the cores.
        assert!(ensure_quiet(Device::Cuda, &busy).is_ok());
    }

    #[test]
    fn a_case_is_whole_with_all_its_sides() {
        let side = json!({"measurements": [{"value": 1.0}]});
        let [both, fp16] = [Precision::Bf16, Precision::Fp16].map(|precision| Case {
            precision,
            ..Case::all(Device::Cpu)[0]
        });
        let half = json!({"sides": {"sentune": side, "peer": {"measurements": []}}});
        assert!(!is_whole(both, &half) && is_whole(fp16, &half));
        assert!(is_whole(
            both,
            &json!({"sides": {"sentune": side, "peer": side}})
        ));
    }
}

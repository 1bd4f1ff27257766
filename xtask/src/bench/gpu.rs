//! `cargo xtask bench --device cuda`: both sides in turn on the same GPU, in a time that is fixed beforehand.
//!
//! A measurement is a process of its own, as on the CPU, but is as long as the time allows and not as many steps:
//! see [`plan`]. Where programs are given by flags nothing is built, so that this can be carried to a machine
//! without Rust.

mod measure;
mod memory;
mod plan;
mod report;

use std::{
    env,
    path::{self, Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use fs_err as fs;
use serde_json::{Value, json};

use self::{
    measure::{Gpu, Inputs},
    memory::Watch,
    plan::{Budget, Cell, Precision},
    report::Report,
};
use super::{Program, Results, kept, n_threads, peer::Peer};
use crate::{checkout::Checkout, nvidia, setup};

/// What is kept of each cell, in the checkout.
const RESULTS: &str = "runs/bench/gpu.json";

/// The same of a quick look, which is not to take its place.
const QUICK_RESULTS: &str = "runs/bench/gpu-quick.json";

/// Under which name the matrix products are kept.
const GEMM: &str = "gemm";

/// Seconds for the matrix products.
const GEMM_SECONDS: f64 = 6.0;

/// What is measured on a GPU, and with what.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// With --device cuda: a built `sentune` to measure, instead of one that is built here first; it runs with the
    /// libtorch of the peer's torch, unless SENTUNE_LIBTORCH names another
    #[arg(long, value_name = "PROGRAM", help_heading = "On a GPU")]
    sentune: Option<PathBuf>,
    /// With --device cuda: more flags for `sentune train`, such as "--cuda-graphs"
    #[arg(long, value_name = "FLAGS", help_heading = "On a GPU")]
    sentune_args: Option<String>,
    /// With --device cuda: the time for everything but the build; what does not fit in is left out and said so
    /// [default: 8.5]
    #[arg(long, value_name = "X", help_heading = "On a GPU")]
    minutes: Option<f64>,
    /// With --device cuda: train only in batches of these sizes [default: 8,16,128,1024]
    #[arg(
        long,
        value_name = "NS",
        value_delimiter = ',',
        help_heading = "On a GPU"
    )]
    batch_sizes: Option<Vec<usize>>,
    /// With --device cuda: measure only these precisions [default: fp32,tf32,bf16]
    #[arg(
        long,
        value_name = "NAMES",
        value_delimiter = ',',
        value_enum,
        help_heading = "On a GPU"
    )]
    precisions: Option<Vec<Precision>>,
}

impl Args {
    /// Fails where any is given and the CPU is to be measured.
    pub(super) fn refuse(&self) -> Result<()> {
        let given = [
            ("--sentune", self.sentune.is_some()),
            ("--sentune-args", self.sentune_args.is_some()),
            ("--minutes", self.minutes.is_some()),
            ("--batch-sizes", self.batch_sizes.is_some()),
            ("--precisions", self.precisions.is_some()),
        ];
        if let Some((flag, _)) = given.into_iter().find(|(_, is_given)| *is_given) {
            anyhow::bail!("{flag} is for --device cuda alone");
        }
        Ok(())
    }

    fn minutes(&self) -> f64 {
        self.minutes.unwrap_or(8.5)
    }
}

/// Measures, prints the tables and writes them down.
pub(super) fn run(checkout: &Checkout, args: &super::Args) -> Result<()> {
    ensure!(
        args.only.is_none(),
        "--only is for the CPU: choose with --batch-sizes and --precisions"
    );
    ensure!(
        args.gpu.minutes() > 0.0,
        "--minutes {}: it must be more than 0",
        args.gpu.minutes()
    );
    let name = if args.quick { QUICK_RESULTS } else { RESULTS };
    let path = checkout.root.join(name);
    let mut results = if args.report || args.resume {
        kept(&path)?
    } else {
        Results::new()
    };
    if !args.report {
        measure_all(checkout, args, &path, &mut results)?;
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
    let document = checkout.root.join(super::DOCUMENT);
    eprintln!("bench: what was measured is in {}", path.display());
    if args.quick {
        return Ok(());
    }
    if !document.exists() {
        eprintln!(
            "bench: with that file as {RESULTS} in a checkout, `cargo xtask bench --device cuda --report` writes it into {}",
            super::DOCUMENT
        );
        return Ok(());
    }
    let text = super::report::replace(
        &fs::read_to_string(&document)?,
        report::MARKERS,
        &report.markdown(),
    )
    .with_context(|| format!("the tables could not be put into {}", super::DOCUMENT))?;
    fs::write(&document, text)?;
    eprintln!("bench: the tables are in {}", super::DOCUMENT);
    Ok(())
}

fn measure_all(
    checkout: &Checkout,
    args: &super::Args,
    path: &Path,
    results: &mut Results,
) -> Result<()> {
    nvidia::need_driver(&checkout.shell, "`cargo xtask bench --device cuda`")?;
    let mut sentune = sentune(checkout, args.gpu.sentune.as_deref())?;
    let peer = Peer::find(
        checkout,
        args.python.as_deref(),
        args.python_packages.as_deref(),
    )?;
    if args.gpu.sentune.is_some() && env::var_os(SENTUNE_LIBTORCH).is_none() {
        sentune.libtorch = Some(peer.torch()?);
    }
    // From here on the time counts.
    let begin = Instant::now();
    let precisions = args.gpu.precisions.clone();
    let batch_sizes = args.gpu.batch_sizes.clone();
    let cells: Vec<Cell> = Cell::all()
        .into_iter()
        .filter(|cell| cell.is_in(precisions.as_deref(), batch_sizes.as_deref()))
        .filter(|cell| !args.quick || batch_sizes.is_some() || cell.is_quick())
        .filter(|cell| !results.get(&cell.name()).is_some_and(is_whole))
        .collect();
    ensure!(
        !cells.is_empty(),
        "nothing is left to measure: see --batch-sizes, --precisions and --resume"
    );
    let gpu = Gpu {
        inputs: Inputs::prepare(checkout, &sentune, &peer, args)?,
        more: words(args.gpu.sentune_args.as_deref()),
        has_micro_batches: measure::knows(&sentune, "--auto-micro-batch")?,
        n_threads: n_threads(args)?,
        memory: Watch::start(&measure::visible_gpu()),
        end: begin + Duration::from_secs_f64(60.0 * args.gpu.minutes()),
        sentune,
        peer,
    };
    if !results.contains_key(GEMM) {
        let mut products = gpu.measure_gemm(GEMM_SECONDS)?;
        describe(checkout, args, &gpu, &mut products);
        results.insert(GEMM.to_owned(), products);
        keep(path, results)?;
    }
    let mut budget = Budget::new(60.0 * args.gpu.minutes(), args.quick);
    for (i, cell) in cells.iter().enumerate() {
        let left = &cells[i..];
        let spent = begin.elapsed().as_secs_f64();
        let mut result = match budget.window(spent, left) {
            Some(seconds) => gpu.measure(*cell, seconds, &mut budget),
            None => {
                eprintln!("bench: {}: no time is left for it", cell.name());
                json!({"problem": "no time was left"})
            }
        };
        result["batch_size"] = json!(cell.batch_size());
        result["precision"] = json!(cell.precision.name());
        result["unit"] = json!(cell.task.unit());
        result["flops_per_token"] = json!(gpu.inputs.flops_per_token(cell.task)?);
        describe(checkout, args, &gpu, &mut result);
        results.insert(cell.name(), result);
        keep(path, results)?;
    }
    eprintln!("bench: {:.0} s in all", begin.elapsed().as_secs_f64());
    Ok(())
}

/// The variable that leads a program to a libtorch.
const SENTUNE_LIBTORCH: &str = "SENTUNE_LIBTORCH";

/// The program that is given, or one that is built here.
fn sentune(checkout: &Checkout, given: Option<&Path>) -> Result<Program> {
    let path = match given {
        Some(path) => {
            let path = path::absolute(path)?;
            ensure!(path.is_file(), "--sentune {} is no file", path.display());
            path
        }
        None => {
            setup::run(checkout, &setup::Args::with_cuda())?;
            let build = checkout.cargo().args(["build", "--package", "cli"]);
            build.args(setup::features(checkout)).run()?;
            checkout.root.join("target/debug/sentune")
        }
    };
    Ok(Program {
        path,
        libtorch: None,
    })
}

fn words(text: Option<&str>) -> Vec<String> {
    text.unwrap_or_default()
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}

/// What holds for all that is measured here.
fn describe(checkout: &Checkout, args: &super::Args, gpu: &Gpu, result: &mut Value) {
    result["commit"] = json!(super::commit(checkout));
    result["machine"] = json!(super::machine());
    result["n_threads"] = json!(gpu.n_threads);
    result["model"] = json!(gpu.inputs.model_name());
    result["data"] = json!(gpu.inputs.data_name());
    result["sentune_args"] = json!(args.gpu.sentune_args);
}

/// Whether both sides were measured.
fn is_whole(result: &Value) -> bool {
    let sides = ["sentence-transformers", "sentune"];
    sides
        .iter()
        .all(|side| result["sides"][side]["value"].is_number())
}

fn keep(path: &Path, results: &Results) -> Result<()> {
    Ok(fs::write(path, format!("{:#}\n", json!(results)))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_for_a_gpu_are_refused_on_the_cpu() {
        let mut args = Args {
            sentune: None,
            sentune_args: None,
            minutes: None,
            batch_sizes: None,
            precisions: None,
        };
        assert!(args.refuse().is_ok());
        args.minutes = Some(3.0);
        let error = args.refuse().unwrap_err().to_string();
        assert_eq!(error, "--minutes is for --device cuda alone");
    }

    #[test]
    fn a_cell_is_whole_with_both_sides() {
        let side = json!({"value": 1.0});
        let whole = json!({"sides": {"sentune": side, "sentence-transformers": side}});
        assert!(is_whole(&whole));
        let half = json!({"sides": {"sentune": side, "sentence-transformers": {"problem": "p"}}});
        assert!(!is_whole(&half) && !is_whole(&json!({"problem": "p"})));
    }
}

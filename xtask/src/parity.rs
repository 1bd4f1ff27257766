//! `cargo xtask parity`: the figures of every evaluator beside Python's, on the same real embeddings.
//!
//! The peer embeds the texts of ../shared/data once and puts the embeddings through its evaluators; ours get the
//! same embeddings (crates/eval/examples/parity.rs), and then `sentune eval` the texts themselves. The largest
//! difference of each evaluator goes into docs/results.md.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use fs_err as fs;
use serde_json::Value;

use crate::{checkout::Checkout, document, peer::Peer, setup};

/// The document that the table goes into, between its markers.
const DOCUMENT: &str = "docs/results.md";
const MARKERS: [&str; 2] = ["<!-- parity: begin -->", "<!-- parity: end -->"];

/// The largest difference allowed between figures on the same embeddings.
const TOLERANCE: f64 = 1e-6;

/// Numbers: compare every evaluator with that of Python's sentence-transformers on real embeddings.
///
/// Takes some minutes. The peer is installed into your cache folder first, as for `bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Python that has the peer installed, instead of one in your cache folder
    #[arg(long, value_name = "PYTHON")]
    python: Option<PathBuf>,
    /// Model [default: ../shared/models/mini-mpnet]
    #[arg(long, value_name = "FOLDER")]
    model: Option<PathBuf>,
    /// Folder with stsb/dev.parquet and snli-triplets/dev.parquet [default: ../shared/data]
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// Leave docs/results.md as it is
    #[arg(long)]
    dry_run: bool,
}

/// Runs both sides, prints the table and writes it down; fails where figures on the same embeddings differ by
/// more than 1e-6.
pub(crate) fn run(checkout: &Checkout, args: &Args) -> Result<()> {
    let folder_of = |given: &Option<PathBuf>, default: &str, flag: &str| {
        let folder = given.clone().unwrap_or_else(|| checkout.root.join(default));
        fs::canonicalize(&folder).with_context(|| format!("name another folder with {flag}"))
    };
    let model = folder_of(&args.model, "../shared/models/mini-mpnet", "--model")?;
    let data = folder_of(&args.data, "../shared/data", "--data")?;
    setup::run(checkout, &setup::Args::default())?;
    let peer = Peer::find(checkout, args.python.as_deref(), None)?;
    let folder = checkout.root.join("runs/parity");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let status = peer
        .command("parity.py", &model, &data, 1)
        .arg("--output")
        .arg(&folder)
        .status()?;
    ensure!(status.success(), "the peer's evaluators failed: {status}");
    let example = ["run", "--quiet", "--example", "parity", "--"];
    checkout.cargo().args(example).arg(&folder).run()?;
    checkout.cargo().args(["build", "--bin", "sentune"]).run()?;

    let cases: Vec<Value> = serde_json::from_slice(&fs::read(folder.join("cases.json"))?)?;
    let ours = fs::read_to_string(folder.join("ours.jsonl"))?;
    let ours: Vec<Value> = ours
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    ensure!(
        ours.len() == cases.len(),
        "{} of {} cases were computed",
        ours.len(),
        cases.len()
    );
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    for (case, ours) in cases.iter().zip(&ours) {
        let evaluator = case["evaluator"]
            .as_str()
            .context("a case without evaluator")?;
        let title = format!(
            "{evaluator}, {}",
            case["title"].as_str().unwrap_or_default()
        );
        let theirs = &case["metrics"];
        let row = rows.entry(evaluator.to_owned()).or_default();
        row.n_cases += 1;
        row.n_figures += theirs.as_object().map_or(0, serde_json::Map::len);
        ensure!(
            case["primary"] == ours["primary"],
            "{title}: the primary metric is {} and not {}",
            ours["primary"],
            case["primary"]
        );
        let same = difference(theirs, &ours["metrics"]).with_context(|| title.clone())?;
        eprintln!("{title}: {same}");
        row.same.take(&same);
        if let Some(flags) = case["flags"].as_array() {
            let found = eval(checkout, &folder, &model, flags).with_context(|| title.clone())?;
            let whole = difference(theirs, &found).with_context(|| title.clone())?;
            eprintln!("{title}, with our own embeddings: {whole}");
            row.whole.get_or_insert_default().take(&whole);
        }
    }
    let table = format!("Beside {}:\n\n{}", peer.name(), table(&rows));
    println!("{table}");
    if !args.dry_run {
        document::write(checkout, DOCUMENT, MARKERS, &table)?;
    }
    let worst = rows.iter().find(|(_, row)| row.same.value > TOLERANCE);
    match worst {
        None => Ok(()),
        Some((evaluator, row)) => bail!("{evaluator}: {} is more than {TOLERANCE:e}", row.same),
    }
}

/// `sentune eval` on the files that the peer wrote.
fn eval(checkout: &Checkout, folder: &Path, model: &Path, flags: &[Value]) -> Result<Value> {
    let flags: Vec<&str> = flags.iter().filter_map(Value::as_str).collect();
    let mut command = std::process::Command::new(checkout.root.join("target/debug/sentune"));
    command
        .current_dir(folder)
        .args(["eval", "--json", "--quiet"]);
    if !flags.contains(&"--model") {
        command.arg("--model").arg(model);
    }
    let output = command.args(&flags).output()?;
    ensure!(
        output.status.success(),
        "sentune eval {}: {}",
        flags.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The cases of one evaluator.
#[derive(Debug, Default)]
struct Row {
    n_cases: usize,
    n_figures: usize,
    same: Largest,
    /// The difference of the command with its own embeddings, where it was run.
    whole: Option<Largest>,
}

/// The largest difference, and where it was.
#[derive(Debug, Default)]
struct Largest {
    value: f64,
    key: String,
}

impl Largest {
    fn take(&mut self, other: &Self) {
        if other.value > self.value {
            self.value = other.value;
            self.key.clone_from(&other.key);
        }
    }
}

impl std::fmt::Display for Largest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.value {
            0.0 => f.write_str("0"),
            value => write!(f, "{value:.1e} ({})", self.key),
        }
    }
}

/// The largest difference of two dictionaries, which have to have the same keys in the same order.
fn difference(theirs: &Value, ours: &Value) -> Result<Largest> {
    let (Some(theirs), Some(ours)) = (theirs.as_object(), ours.as_object()) else {
        bail!("no dictionaries: {theirs} and {ours}");
    };
    let keys = |metrics: &serde_json::Map<String, Value>| -> Vec<String> {
        metrics.keys().cloned().collect()
    };
    ensure!(
        keys(theirs) == keys(ours),
        "the keys are {} and not {}",
        keys(ours).join(", "),
        keys(theirs).join(", ")
    );
    let mut largest = Largest::default();
    for (key, theirs) in theirs {
        let value = match (theirs.as_f64(), ours[key].as_f64()) {
            (Some(theirs), Some(ours)) => (theirs - ours).abs(),
            (None, None) => 0.0,
            _ => bail!("{key} is {} and not {theirs}", ours[key]),
        };
        largest.take(&Largest {
            value,
            key: key.clone(),
        });
    }
    Ok(largest)
}

fn table(rows: &BTreeMap<String, Row>) -> String {
    let mut table = "| evaluator | cases | figures | same embeddings | `sentune eval` on the texts |\n|---|--:|--:|--:|--:|\n".to_owned();
    let shown = |largest: &Largest| match largest.value {
        0.0 => "0".to_owned(),
        value => format!("{value:.1e}"),
    };
    for (evaluator, row) in rows {
        let whole = row.whole.as_ref().map_or("not run".to_owned(), shown);
        table += &format!(
            "| {evaluator} | {} | {} | {} | {whole} |\n",
            row.n_cases,
            row.n_figures,
            shown(&row.same)
        );
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn differences_are_found_and_keys_have_to_agree() {
        let theirs = json!({"a": 0.5, "b": null, "c": 2.0});
        let largest = difference(&theirs, &json!({"a": 0.5, "b": null, "c": 2.25})).unwrap();
        assert_eq!((largest.value, largest.key.as_str()), (0.25, "c"));
        for other in [
            json!({"a": 0.5, "b": 1.0, "c": 2.0}),
            json!({"a": 0.5, "c": 2.0, "b": null}),
            json!({"a": 0.5, "b": null}),
        ] {
            difference(&theirs, &other).unwrap_err();
        }
    }
}

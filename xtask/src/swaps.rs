//! `cargo xtask swaps`: how well an audit finds rows that are wrong, and what is won by leaving them out.
//!
//! In a tenth of the triplets positive and negative change places. The audit scores the rows, which it does not know from
//! each other, and training is measured on the data as it was, with the swaps, and on the copy that the audit cleans.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use fs_err as fs;
use grammar::Random;
use serde_json::{Map, Value};

use crate::{checkout::Checkout, document, setup};

/// Quality: swap positive and negative in a part of the triplets, audit, train on them and on the cleaned copy.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Model to audit with and to train: a folder
    #[arg(long, value_name = "MODEL")]
    model: String,
    /// Triplets to train on: a file
    #[arg(long, value_name = "DATA")]
    data: String,
    /// Triplets to measure on: a file
    #[arg(long, value_name = "DATA")]
    test: String,
    /// Share of the rows that are swapped
    #[arg(long, value_name = "X", default_value_t = 0.1)]
    share: f64,
    /// Seed of their choice
    #[arg(long, value_name = "N", default_value_t = 42)]
    seed: u64,
    /// Rows that are swapped back, as `data audit --swap` has them
    #[arg(long, value_name = "ROWS", default_value = "below:0.3")]
    swap: String,
    /// Rows that are left out, as `data audit --drop` has them
    #[arg(long, value_name = "ROWS", default_value = "below:0.4")]
    drop: String,
    /// Repetitions of the audit
    #[arg(long, value_name = "N", default_value_t = 1)]
    repeats: u64,
    /// Seeds of the training runs
    #[arg(
        long,
        value_name = "N",
        value_delimiter = ',',
        default_value = "42,1,2"
    )]
    train_seeds: Vec<u64>,
    /// Folder for data and runs, which is written over
    #[arg(long, value_name = "FOLDER", default_value = "runs/swaps")]
    folder: PathBuf,
    /// Threads of an audit or a run [default: all]
    #[arg(long, value_name = "N")]
    num_threads: Option<usize>,
}

/// Swaps, audits, trains, and prints the figures.
pub(crate) fn run(checkout: &Checkout, args: &Args) -> Result<()> {
    setup::run(checkout, &setup::Args::default())?;
    let folder = checkout.root.join(&args.folder);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let path = |name: &str| folder.join(name).display().to_string();
    // A copy, so that all of it is of one build, whatever is built meanwhile.
    let program = folder.join("sentune");
    fs::copy(built(checkout)?, &program)?;
    let threads = args.num_threads.map(|n| n.to_string());
    let sentune = |arguments: &[&str]| -> Result<()> {
        let mut command = checkout.shell.cmd(&program).args(arguments);
        if let Some(threads) = &threads {
            command = command.args(["--num-threads", threads]);
        }
        Ok(command.ignore_stdout().run()?)
    };

    let (clean, swapped, cleaned) = (
        path("clean.jsonl"),
        path("swapped.jsonl"),
        path("cleaned.jsonl"),
    );
    sentune(&["data", "convert", "--data", &args.data, "--output", &clean])?;
    let rows = read(Path::new(&clean))?;
    let chosen = chosen(rows.len(), args.share, args.seed);
    let lines = rows.iter().enumerate().map(|(i, row)| {
        let row = if chosen.contains(&i) {
            swap(row)
        } else {
            row.clone()
        };
        format!("{}\n", Value::Object(row))
    });
    fs::write(&swapped, lines.collect::<String>())?;
    eprintln!(
        "swapped positive and negative in {} of {} rows",
        chosen.len(),
        rows.len()
    );

    let scores = path("scores.jsonl");
    sentune(&[
        "data",
        "audit",
        "--data",
        &swapped,
        "--model",
        &args.model,
        "--folds",
        "--repeats",
        &args.repeats.to_string(),
        "--scores",
        &scores,
        "--output",
        &cleaned,
        "--swap",
        &args.swap,
        "--drop",
        &args.drop,
    ])?;
    let scores = read(Path::new(&scores))?;
    let scores: Vec<(bool, f64)> = scores
        .iter()
        .map(|row| {
            let number = row["row"].as_u64().context("a row has a number")?;
            let score = row["row_score"].as_f64().context("a row has a score")?;
            Ok((chosen.contains(&(number as usize - 1)), score))
        })
        .collect::<Result<_>>()?;
    let cleaned_rows = read(Path::new(&cleaned))?;
    let wrong = wrong(&cleaned_rows, &rows);

    println!("On {}:\n", document::machine());
    println!(
        "area under the curve of swapped against unswapped: {:.4}",
        area(&scores)
    );
    println!(
        "of {} rows {} were swapped; the cleaned copy has {} rows, of which {wrong} are swapped\n",
        rows.len(),
        chosen.len(),
        cleaned_rows.len(),
    );
    // Seed by seed, so that what a run that was ended has measured can be compared.
    let data = [
        ("as they were", &clean, rows.len()),
        ("swapped", &swapped, rows.len()),
        ("cleaned", &cleaned, cleaned_rows.len()),
    ];
    let mut figures = [const { Vec::new() }; 3];
    for seed in &args.train_seeds {
        for ((name, data, _), figures) in data.iter().zip(&mut figures) {
            let run = path(&format!("{}-{seed}", name.replace(' ', "-")));
            sentune(&[
                "train",
                "--model",
                &args.model,
                "--train-data",
                data,
                "--test-data",
                &args.test,
                "--seed",
                &seed.to_string(),
                "--save-strategy",
                "no",
                "--no-report",
                "--output-dir",
                &run,
            ])?;
            let figure = accuracy(&Path::new(&run).join("results.json"))?;
            eprintln!("rows {name}, seed {seed}: {figure:.4}");
            figures.push(figure);
        }
    }
    println!("| rows | number | {} | mean |", seeds(&args.train_seeds));
    println!("|---|--:|{}--:|", "--:|".repeat(args.train_seeds.len()));
    for ((name, _, n_rows), figures) in data.iter().zip(&figures) {
        let each: Vec<String> = figures
            .iter()
            .map(|figure| format!("{figure:.4}"))
            .collect();
        println!(
            "| {name} | {n_rows} | {} | {:.4} |",
            each.join(" | "),
            mean(figures)
        );
    }
    let [clean, swapped, cleaned] = figures.each_ref().map(|figures| mean(figures));
    println!(
        "\nthe swaps cost {:.4}, of which the cleaned copy wins back {:.0} %",
        clean - swapped,
        100.0 * (cleaned - swapped) / (clean - swapped)
    );
    Ok(())
}

/// Builds the program, and returns its path.
fn built(checkout: &Checkout) -> Result<PathBuf> {
    let arguments = ["build", "--bin", "sentune", "--message-format", "json"];
    let messages = checkout.cargo().args(arguments).read()?;
    let messages = messages.lines().map(serde_json::from_str::<Value>);
    for message in messages {
        let message = message?;
        if message["target"]["name"] == "sentune"
            && let Some(path) = message["executable"].as_str()
        {
            return Ok(PathBuf::from(path));
        }
    }
    bail!("cargo names no program that it built")
}

fn mean(figures: &[f64]) -> f64 {
    figures.iter().sum::<f64>() / figures.len() as f64
}

/// Rows that are not among those as they were, some of which may be equal.
fn wrong(cleaned: &[Map<String, Value>], rows: &[Map<String, Value>]) -> usize {
    let text = |row: &Map<String, Value>| Value::Object(row.clone()).to_string();
    let right: HashSet<String> = rows.iter().map(text).collect();
    let cleaned = cleaned.iter().map(text);
    cleaned.filter(|row| !right.contains(row)).count()
}

fn seeds(seeds: &[u64]) -> String {
    let seeds = seeds.iter().map(|seed| format!("seed {seed}"));
    seeds.collect::<Vec<_>>().join(" | ")
}

fn read(path: &Path) -> Result<Vec<Map<String, Value>>> {
    let text = fs::read_to_string(path)?;
    let rows = text.lines().map(serde_json::from_str);
    rows.collect::<Result<_, _>>()
        .with_context(|| path.display().to_string())
}

/// The rows to swap.
fn chosen(n_rows: usize, share: f64, seed: u64) -> HashSet<usize> {
    let mut random = Random::new(seed, 0);
    let n_chosen = (share * n_rows as f64).round() as usize;
    let mut rows: Vec<usize> = (0..n_rows).collect();
    for i in 0..n_chosen.min(n_rows) {
        rows.swap(i, i + random.below(n_rows - i));
    }
    rows.into_iter().take(n_chosen).collect()
}

/// A triplet whose second and third texts have changed places.
fn swap(row: &Map<String, Value>) -> Map<String, Value> {
    let mut values: Vec<Value> = row.values().cloned().collect();
    if values.len() > 2 {
        values.swap(1, 2);
    }
    row.keys().cloned().zip(values).collect()
}

/// The share of pairs of a wrong row and a right one in which the wrong one has the lower score; half of equals count.
fn area(scores: &[(bool, f64)]) -> f64 {
    let mut sorted: Vec<(bool, f64)> = scores.to_vec();
    sorted.sort_by(|a, b| a.1.total_cmp(&b.1));
    let n_wrong = sorted.iter().filter(|(is_wrong, _)| *is_wrong).count() as f64;
    let n_right = sorted.len() as f64 - n_wrong;
    let (mut n_before, mut area) = (0.0, 0.0);
    for equal in sorted.chunk_by(|a, b| a.1 == b.1) {
        let wrong = equal.iter().filter(|(is_wrong, _)| *is_wrong).count() as f64;
        let right = equal.len() as f64 - wrong;
        area += right * (n_before + wrong / 2.0);
        n_before += wrong;
    }
    area / (n_wrong * n_right)
}

/// The cosine accuracy after a run.
fn accuracy(results: &Path) -> Result<f64> {
    let results: Value = serde_json::from_str(&fs::read_to_string(results)?)?;
    let after = results["after"]
        .as_object()
        .context("a run with test data has figures")?;
    let key = after
        .iter()
        .find(|(key, _)| key.ends_with("_cosine_accuracy"));
    let value = key.and_then(|(_, value)| value.as_f64());
    let value = value.context("results.json has no cosine accuracy")?;
    ensure!(value.is_finite(), "the cosine accuracy is {value}");
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_area_is_the_share_of_pairs_in_order() {
        assert_eq!(area(&[(true, 0.0), (true, 1.0), (false, 2.0)]), 1.0);
        assert_eq!(area(&[(true, 3.0), (false, 2.0)]), 0.0);
        assert_eq!(area(&[(true, 1.0), (false, 1.0)]), 0.5);
        let some = [(true, 0.0), (false, 0.5), (true, 1.0), (false, 2.0)];
        assert_eq!(area(&some), 0.75);
    }

    #[test]
    fn a_share_of_the_rows_is_chosen_by_the_seed() {
        let rows = chosen(3256, 0.1, 42);
        assert_eq!(rows.len(), 326);
        assert!(rows.iter().all(|row| *row < 3256));
        assert_eq!(rows, chosen(3256, 0.1, 42));
        assert_ne!(rows, chosen(3256, 0.1, 43));
    }

    #[test]
    fn wrong_rows_are_those_that_were_not_there() {
        let row = |texts: [&str; 3]| {
            let row =
                serde_json::json!({"anchor": texts[0], "positive": texts[1], "negative": texts[2]});
            row.as_object().unwrap().clone()
        };
        let rows = [row(["a", "p", "n"]), row(["b", "q", "m"])];
        let cleaned = [row(["b", "q", "m"]), row(["a", "n", "p"])];
        assert_eq!(wrong(&cleaned, &rows), 1);
        assert_eq!(wrong(&rows, &rows), 0);
    }

    #[test]
    fn the_second_and_third_texts_change_places() {
        let row = serde_json::json!({"anchor": "a", "positive": "p", "negative": "n"});
        let swapped = swap(row.as_object().unwrap());
        let expected = serde_json::json!({"anchor": "a", "positive": "n", "negative": "p"});
        assert_eq!(Value::Object(swapped), expected);
    }
}

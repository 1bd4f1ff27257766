//! `cargo xtask swaps`: how well an audit finds rows that are wrong, and what is won by leaving them out.
//!
//! In a tenth of the triplets positive and negative change places. The audit scores the rows, which it does not know from
//! each other, and training is measured on the data as it was, with the swaps, and without the rows of lowest scores.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use fs_err as fs;
use grammar::Random;
use serde_json::{Map, Value};

use crate::{checkout::Checkout, document, setup};

/// Quality: swap positive and negative in a part of the triplets, audit, train with and without the rows found.
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
    /// Rows that are left out, as `data audit --drop` has them
    #[arg(long, value_name = "ROWS", default_value = "worst:10%")]
    drop: String,
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
}

/// Swaps, audits, trains, and prints the figures.
pub(crate) fn run(checkout: &Checkout, args: &Args) -> Result<()> {
    setup::run(checkout, &setup::Args::default())?;
    checkout.cargo().args(["build", "--bin", "sentune"]).run()?;
    let folder = checkout.root.join(&args.folder);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let path = |name: &str| folder.join(name).display().to_string();
    let sentune = |arguments: &[&str]| -> Result<String> {
        let command = checkout
            .cargo()
            .args(["run", "--quiet", "--bin", "sentune", "--"])
            .args(arguments);
        eprintln!("$ sentune {}", arguments.join(" "));
        Ok(command.quiet().read()?)
    };

    let (clean, swapped, left) = (
        path("clean.jsonl"),
        path("swapped.jsonl"),
        path("left.jsonl"),
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
        "--scores",
        &scores,
        "--output",
        &left,
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
    let left_lines = read(Path::new(&left))?.len();
    let n_dropped = rows.len() - left_lines;
    let n_found = scores[..n_dropped]
        .iter()
        .filter(|(is_swapped, _)| *is_swapped)
        .count();

    println!("On {}:\n", document::machine());
    println!(
        "area under the curve of swapped against unswapped: {:.4}",
        area(&scores)
    );
    println!(
        "{n_found} of the {n_dropped} rows left out are swapped, of {} swapped\n",
        chosen.len()
    );
    println!("| data | rows | {} | mean |", seeds(&args.train_seeds));
    println!("|---|--:|{}--:|", "--:|".repeat(args.train_seeds.len()));
    for (name, data, n_rows) in [
        ("as it was", &clean, rows.len()),
        ("swapped", &swapped, rows.len()),
        ("without the rows found", &left, left_lines),
    ] {
        let mut figures = Vec::new();
        for seed in &args.train_seeds {
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
            figures.push(accuracy(&Path::new(&run).join("results.json"))?);
        }
        let mean = figures.iter().sum::<f64>() / figures.len() as f64;
        let figures: Vec<String> = figures
            .iter()
            .map(|figure| format!("{figure:.4}"))
            .collect();
        println!(
            "| {name} | {n_rows} | {} | {mean:.4} |",
            figures.join(" | ")
        );
    }
    Ok(())
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
    fn the_second_and_third_texts_change_places() {
        let row = serde_json::json!({"anchor": "a", "positive": "p", "negative": "n"});
        let swapped = swap(row.as_object().unwrap());
        let expected = serde_json::json!({"anchor": "a", "positive": "n", "negative": "p"});
        assert_eq!(Value::Object(swapped), expected);
    }
}

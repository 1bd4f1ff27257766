//! `cargo xtask quickstart`: from a fresh clone to a trained model in one command, without a hub.
//!
//! It writes the embedded data, makes a small model with random weights and trains it, by commands
//! that it shows and that can be repeated by hand.

use std::path::Path;

use anyhow::Result;
use fs_err as fs;
use grammar::{Split, Triplet};

use crate::{checkout::Checkout, setup};

/// The folder of everything that quickstart makes, in the checkout.
const FOLDER: &str = "runs/quickstart";

/// The splits, their names and numbers of triplets.
const SPLITS: [(Split, &str, usize); 3] = [
    (Split::Train, "train", 12_000),
    (Split::Dev, "dev", 500),
    (Split::Test, "test", 1_000),
];

const SEED: u64 = 42;

/// The shape of the model: 2 layers, 128 wide, small enough to train in a minute on two cores.
const MODEL: [&str; 12] = [
    "--hidden-size",
    "128",
    "--num-hidden-layers",
    "2",
    "--num-attention-heads",
    "4",
    "--intermediate-size",
    "512",
    "--max-position-embeddings",
    "130",
    "--seed",
    "42",
];

/// Random weights need larger steps and batches than pre-trained ones.
const TRAINING: [&str; 8] = [
    "--num-train-epochs",
    "3",
    "--per-device-train-batch-size",
    "64",
    "--learning-rate",
    "5e-4",
    "--warmup-steps",
    "0.1",
];

/// Train a small model from nothing on embedded data: no downloads but libtorch.
///
/// Takes minutes on a fresh clone, most of them for the build. It starts over each time.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Sets up, builds, writes the data, trains, and prints the model's folder.
pub(crate) fn run(checkout: &Checkout) -> Result<()> {
    setup::run(checkout, &setup::Args::default())?;
    checkout.cargo().args(["build", "--bin", "sentune"]).run()?;

    let folder = checkout.root.join(FOLDER);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    for (split, name, n_triplets) in SPLITS {
        let triplets = grammar::triplets(split, n_triplets, SEED);
        let file = format!("{FOLDER}/{name}.csv");
        fs::write(checkout.root.join(&file), csv(&triplets))?;
        eprintln!("wrote {n_triplets} triplets to {file}");
    }
    let vocabulary = format!("{FOLDER}/vocab.txt");
    write_vocabulary(&checkout.root.join(&vocabulary))?;
    eprintln!("wrote the word pieces to {vocabulary}");

    let (random, run) = (format!("{FOLDER}/random"), format!("{FOLDER}/run"));
    let data = |name: &str| format!("{FOLDER}/{name}.csv");
    let sentune = || {
        checkout
            .cargo()
            .args(["run", "--quiet", "--bin", "sentune", "--"])
    };
    sentune()
        .args(["init", "--vocab-file", &vocabulary, "--output", &random])
        .args(MODEL)
        .run()?;
    sentune()
        .args(["train", "--model", &random, "--output-dir", &run])
        .args(["--train-data", &data("train"), "--eval-data", &data("dev")])
        .args(["--test-data", &data("test")])
        .args(TRAINING)
        .run()?;
    println!(
        "\nThe trained model is in {run}/final. To evaluate it again, or on triplets of your own:\n"
    );
    println!(
        "    cargo run -p cli -- eval --model {run}/final --data {}\n",
        data("test")
    );
    println!("docs/guide/start.md goes on from here, with a pre-trained model and your own data.");
    Ok(())
}

/// The triplets as CSV, with the columns in the order that training reads them.
pub(crate) fn csv(triplets: &[Triplet]) -> String {
    let mut text = "anchor,positive,negative\n".to_owned();
    for Triplet {
        anchor,
        positive,
        negative,
    } in triplets
    {
        let fields = [anchor, positive, negative].map(|field| quoted(field));
        text += &fields.join(",");
        text.push('\n');
    }
    text
}

/// One CSV field (RFC 4180).
fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

fn write_vocabulary(file: &Path) -> Result<()> {
    Ok(fs::write(file, grammar::vocabulary().join("\n") + "\n")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_and_quotes_are_kept() {
        let triplet = Triplet {
            anchor: "Two dogs, one ball.".to_owned(),
            positive: "He says \"go\".".to_owned(),
            negative: "Nobody runs.".to_owned(),
        };
        assert_eq!(
            csv(&[triplet]),
            "anchor,positive,negative\n\"Two dogs, one ball.\",\"He says \"\"go\"\".\",Nobody runs.\n"
        );
    }
}

//! What both sides are measured on: two models and three files, made where they are not there.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use fs_err as fs;
use grammar::Split;
use serde_json::Value;

use super::{
    Program,
    case::{Case, shown},
    peer::Peer,
};
use crate::{checkout::Checkout, quickstart};

/// Sentences that are encoded.
pub(super) const N_SENTENCES: usize = 1500;

/// Triplets that are tokenised.
const N_MANY: usize = 100_000;

/// Triplets to train on, where there are none of the user's.
const N_TRIPLETS: usize = 3_000;

const SEED: u64 = 42;

/// Beside the checkout, where a team shares models and data.
const MINI: &str = "../shared/models/mini-mpnet";
const TRIPLETS: &str = "../shared/data/snli-triplets/train.parquet";

/// The small model's shape, where there is no trained one: six layers, half as wide as MPNet-base.
const MINI_SHAPE: [&str; 8] = [
    "--hidden-size",
    "384",
    "--num-hidden-layers",
    "6",
    "--num-attention-heads",
    "12",
    "--intermediate-size",
    "1536",
];

/// Models and data.
#[derive(Debug)]
pub(super) struct Inputs {
    /// Where everything made is, and what runs leave.
    pub(super) folder: PathBuf,
    base: PathBuf,
    mini: PathBuf,
    /// To train on.
    pub(super) triplets: PathBuf,
    /// To tokenise.
    pub(super) many: PathBuf,
    /// To encode, one a line.
    pub(super) sentences: PathBuf,
}

/// A model's sizes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Shape {
    pub(super) width: f64,
    pub(super) inner: f64,
    pub(super) n_layers: f64,
}

impl Shape {
    /// Weights of all linear layers of the encoder.
    pub(super) fn n_linear_weights(self) -> f64 {
        self.n_layers * (4.0 * self.width * self.width + 2.0 * self.width * self.inner)
    }
}

impl Inputs {
    /// Makes what is missing, models with `sentune`.
    pub(super) fn prepare(
        checkout: &Checkout,
        sentune: &Program,
        peer: &Peer,
        mini: Option<&Path>,
        triplets: Option<&Path>,
    ) -> Result<Self> {
        let root = &checkout.root;
        let folder = root.join("runs/bench");
        fs::create_dir_all(&folder)?;
        let mini = given(root, mini, MINI)?;
        let vocabulary = vocabulary(&folder, mini.as_deref())?;
        let inputs = Self {
            base: init(sentune, &folder.join("mpnet-base-random"), &vocabulary, &[])?,
            mini: match mini {
                Some(mini) => mini,
                None => init(
                    sentune,
                    &folder.join("mini-random"),
                    &vocabulary,
                    &MINI_SHAPE,
                )?,
            },
            triplets: triplets_of(root, &folder, triplets)?,
            many: generate(&folder, N_MANY)?,
            sentences: folder.join("sentences.txt"),
            folder,
        };
        let mut command = peer.command("sentences.py", &inputs.base, &inputs.triplets, 1);
        command.args(["--count", &N_SENTENCES.to_string(), "--output"]);
        let ended = super::process::run({
            command.arg(&inputs.sentences);
            command
        })?;
        ensure!(ended.code == Some(0), "{}", ended.problem());
        let n_sentences = fs::read_to_string(&inputs.sentences)?.lines().count();
        ensure!(
            n_sentences == N_SENTENCES,
            "{} holds only {n_sentences} different sentences, and {N_SENTENCES} are to be encoded",
            inputs.triplets.display()
        );
        Ok(inputs)
    }

    pub(super) fn model(&self, case: Case) -> &Path {
        if case.is_base() {
            &self.base
        } else {
            &self.mini
        }
    }

    /// The model's name, as documents show it.
    pub(super) fn model_of(&self, case: Case) -> String {
        shown(self.model(case))
    }

    /// The data's name, as documents show it.
    pub(super) fn data_of(&self, case: Case) -> String {
        match case {
            Case::Tokenize => format!("{N_MANY} generated triplets"),
            _ => {
                let folder = self.triplets.parent().map(shown).unwrap_or_default();
                format!("{folder}/{}", shown(&self.triplets))
            }
        }
    }

    pub(super) fn shape_of(&self, case: Case) -> Shape {
        // A model without these sizes was refused long before.
        shape(self.model(case)).unwrap_or(Shape {
            width: f64::NAN,
            inner: f64::NAN,
            n_layers: f64::NAN,
        })
    }
}

/// The path that a flag gives, or the default where that is there; from the root.
fn given(root: &Path, path: Option<&Path>, default: &str) -> Result<Option<PathBuf>> {
    let path = path.map(|path| root.join(path));
    let path = path.or_else(|| Some(root.join(default)).filter(|path| path.exists()));
    Ok(path.map(fs::canonicalize).transpose()?)
}

/// The small model's word pieces where it has such a file, else the grammar's.
fn vocabulary(folder: &Path, mini: Option<&Path>) -> Result<PathBuf> {
    let own = mini.map(|mini| mini.join("vocab.txt"));
    if let Some(own) = own.filter(|path| path.exists()) {
        return Ok(own);
    }
    let generated = folder.join("vocab.txt");
    fs::write(&generated, grammar::vocabulary().join("\n") + "\n")?;
    Ok(generated)
}

/// The triplets that a flag gives, those beside the checkout, or generated ones.
pub(super) fn triplets_of(root: &Path, folder: &Path, triplets: Option<&Path>) -> Result<PathBuf> {
    match given(root, triplets, TRIPLETS)? {
        Some(triplets) => Ok(triplets),
        None => generate(folder, N_TRIPLETS),
    }
}

/// MPNet-base's shape with random weights, and the word pieces of the small model where that is there.
pub(super) fn base_model(
    root: &Path,
    folder: &Path,
    sentune: &Program,
    mini: Option<&Path>,
) -> Result<PathBuf> {
    let mini = given(root, mini, MINI)?;
    let vocabulary = vocabulary(folder, mini.as_deref())?;
    init(sentune, &folder.join("mpnet-base-random"), &vocabulary, &[])
}

/// A model with random weights, by `sentune init`.
fn init(sentune: &Program, folder: &Path, vocabulary: &Path, shape: &[&str]) -> Result<PathBuf> {
    let config = folder.join("config.json");
    let n_words = fs::read_to_string(vocabulary)?.lines().count() as u64;
    let made = config.exists() && read_config(folder)?["vocab_size"].as_u64() == Some(n_words);
    if !made {
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        let mut command = sentune.command();
        command.arg("init").arg("--vocab-file").arg(vocabulary);
        command.arg("--output").arg(folder).args(shape);
        let ended = super::process::run(command)?;
        ensure!(ended.code == Some(0), "{}", ended.problem());
    }
    Ok(folder.to_owned())
}

fn read_config(model: &Path) -> Result<Value> {
    let path = model.join("config.json");
    serde_json::from_str(&fs::read_to_string(&path)?)
        .with_context(|| format!("{} is no JSON", path.display()))
}

/// A model's sizes, by its configuration.
pub(super) fn shape(model: &Path) -> Result<Shape> {
    let config = read_config(model)?;
    let size = |key: &str| {
        config[key]
            .as_f64()
            .with_context(|| format!("{key} in {}", model.join("config.json").display()))
    };
    Ok(Shape {
        width: size("hidden_size")?,
        inner: size("intermediate_size")?,
        n_layers: size("num_hidden_layers")?,
    })
}

/// A file of so many triplets of the grammar.
fn generate(folder: &Path, n_triplets: usize) -> Result<PathBuf> {
    let path = folder.join(format!("triplets-{n_triplets}.csv"));
    if !path.exists() {
        let triplets = grammar::triplets(Split::Train, n_triplets, SEED);
        let partial = path.with_extension("partial");
        fs::write(&partial, quickstart::csv(&triplets))?;
        fs::rename(&partial, &path)?;
    }
    Ok(path)
}

/// A count with commas between thousands.
pub(super) fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        let _ = text.write_char(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mpnet_base_has_85_million_linear_weights() {
        let shape = Shape {
            width: 768.0,
            inner: 3072.0,
            n_layers: 12.0,
        };
        assert_eq!(shape.n_linear_weights(), 84_934_656.0);
        let step = 606.0 * Case::TrainBase16.flops_per_token(shape).unwrap();
        assert_eq!((step / 1e9).round(), 309.0);
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_500), "1,500");
        assert_eq!(thousands(1_234_567), "1,234,567");
    }
}

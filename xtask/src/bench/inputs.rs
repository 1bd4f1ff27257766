//! The models and files that both sides are measured on, made where they are missing.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use fs_err as fs;
use grammar::Split;
use serde_json::Value;

use super::case::{Case, Device, Model, Task};
use crate::{peer::Peer, process, quickstart};

/// Triplets that are tokenised.
const N_MANY: usize = 100_000;

/// Generated triplets to train on, where the user has none.
const N_TRIPLETS: usize = 3_000;

/// Rows of the files for a GPU, so that no epoch ends within a window.
const N_ON_GPU: usize = 131_072;

const SEED: u64 = 42;

/// Models and data of a team beside the checkout.
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

/// The flags of `sentune init` for the other types of encoders: the published models' shapes.
fn shape(model: Model) -> Vec<&'static str> {
    let bert = ["--model-type", "bert", "--max-position-embeddings", "512"];
    let modernbert = "--model-type modernbert --num-hidden-layers 22 --intermediate-size 1152 --dropout 0 \
                      --max-position-embeddings";
    let modernbert = modernbert.split_whitespace();
    match model {
        Model::Base => Vec::new(),
        Model::Mini => MINI_SHAPE.to_vec(),
        Model::Bert => bert.to_vec(),
        Model::MiniLm => [&bert[..], &MINI_SHAPE].concat(),
        Model::ModernBert => modernbert.chain(["8192"]).collect(),
        // A longer text is cut there, by both sides.
        Model::ModernBertLong => modernbert.chain(["2048"]).collect(),
    }
}

/// Models and data.
#[derive(Debug)]
pub(super) struct Inputs {
    /// The folder of everything made, and of what runs leave behind.
    pub(super) folder: PathBuf,
    base: PathBuf,
    mini: PathBuf,
    /// Triplets to train on.
    triplets: PathBuf,
    /// The file that the others are made of.
    source: PathBuf,
    /// Sentences to encode, one a line, in files of these lengths.
    pub(super) sentences: Vec<(usize, PathBuf)>,
    /// Triplets to tokenise.
    many: PathBuf,
    /// The models of other types that are asked for.
    others: BTreeMap<Model, PathBuf>,
    /// Triplets of long texts, and such texts one a line with their number.
    long: Option<(PathBuf, (usize, PathBuf))>,
}

impl Inputs {
    /// Makes the missing ones, models with `sentune` and files with Python.
    pub(super) fn prepare(
        root: &Path,
        device: Device,
        sentune: &dyn Fn() -> Command,
        peer: &Peer,
        [mini, triplets]: [Option<&Path>; 2],
        wanted: &BTreeSet<Model>,
    ) -> Result<Self> {
        let folder = root.join("runs/bench");
        fs::create_dir_all(&folder)?;
        let mini = given(root, mini, MINI)?;
        let vocabulary = vocabulary(&folder, mini.as_deref())?;
        let make = |name: &str, vocabulary: &Path, shape: &[&str]| {
            init(sentune(), &folder.join(name), vocabulary, shape)
        };
        let init = |name: &str, shape: &[&str]| make(name, &vocabulary, shape);
        let source = match given(root, triplets, TRIPLETS)? {
            Some(triplets) => triplets,
            None => generate(&folder, N_TRIPLETS)?,
        };
        let base = init("mpnet-base-random", &shape(Model::Base))?;
        let others = Model::OTHERS
            .into_iter()
            .filter(|model| wanted.contains(model));
        let others = others.map(|model| {
            let name = match model {
                Model::Bert => "bert-base-random",
                Model::MiniLm => "minilm-random",
                Model::ModernBert => "modernbert-base-random",
                _ => "modernbert-base-2048-random",
            };
            let vocabulary = with_berts_tokens(&folder, &vocabulary)?;
            Ok((model, make(name, &vocabulary, &shape(model))?))
        });
        let others = others.collect::<Result<_>>()?;
        // Of two lengths on a GPU: the difference of two runs has no first use of the device in it.
        let lengths = match device {
            Device::Cpu => vec![1500],
            Device::Cuda => vec![4096, 4096 + 32_768],
        };
        let longest = folder.join(format!("sentences-{}.txt", device.name()));
        let mut command = peer.command("inputs.py", &base, &source, 1);
        let mut repeated = source.clone();
        if device == Device::Cuda {
            repeated = folder.join("triplets-cuda.csv");
            command.args(["--n-triplets", &N_ON_GPU.to_string(), "--triplets"]);
            command.arg(&repeated);
        }
        let n_sentences = match device {
            Device::Cpu => lengths[0],
            Device::Cuda => N_ON_GPU,
        };
        command.args(["--n-sentences", &n_sentences.to_string(), "--sentences"]);
        process::run({
            command.arg(&longest);
            command
        })?;
        let is_long = wanted.contains(&Model::ModernBertLong);
        Ok(Self {
            mini: match (mini, device) {
                (Some(mini), _) => mini,
                (None, Device::Cpu) => init("mini-random", &shape(Model::Mini))?,
                (None, Device::Cuda) => base.clone(),
            },
            many: match device {
                Device::Cpu => generate(&folder, N_MANY)?,
                Device::Cuda => source.clone(),
            },
            sentences: lengths
                .into_iter()
                .map(|n| Ok((n, first_lines(&longest, n)?)))
                .collect::<Result<_>>()?,
            triplets: repeated,
            others,
            long: is_long.then(|| long_texts(&folder)).transpose()?,
            base,
            source,
            folder,
        })
    }

    pub(super) fn model(&self, case: Case) -> &Path {
        match case.model {
            Model::Base => &self.base,
            Model::Mini => &self.mini,
            other => self.others.get(&other).unwrap_or(&self.base),
        }
    }

    /// The file that a case reads: for encoding the longest.
    pub(super) fn data(&self, case: Case) -> &Path {
        let long = self.long.as_ref();
        if let Some((triplets, (_, texts))) = long.filter(|_| case.model == Model::ModernBertLong) {
            return match case.task {
                Task::Encode => texts,
                _ => triplets,
            };
        }
        match case.task {
            Task::Encode => self
                .sentences
                .last()
                .map_or(&self.triplets, |(_, path)| path),
            Task::Tokenize => &self.many,
            Task::Start | Task::Train(_) => &self.triplets,
        }
    }

    /// The models of other types that are asked for.
    pub(super) fn others(&self) -> impl Iterator<Item = Model> + '_ {
        self.others.keys().copied()
    }

    /// The files that a case encodes, shortest first, with their lines.
    pub(super) fn to_encode(&self, case: Case) -> &[(usize, PathBuf)] {
        match (&self.long, case.model) {
            (Some((_, texts)), Model::ModernBertLong) => std::slice::from_ref(texts),
            _ => &self.sentences,
        }
    }

    /// The names of model and data, as documents show them.
    pub(super) fn names(&self, case: Case) -> [String; 2] {
        let data = match case.task {
            _ if case.model == Model::ModernBertLong => {
                "generated texts of 2,048 tokens".to_owned()
            }
            Task::Tokenize => format!("{N_MANY} generated triplets"),
            _ => {
                let folder = self.source.parent().map(shown).unwrap_or_default();
                format!("{folder}/{}", shown(&self.source))
            }
        };
        [shown(self.model(case)), data]
    }

    /// Multiplications and additions in matrix products a token: forward, and in training twice that for the
    /// gradients of inputs and weights. Attention's own products come on top and are left out, for both sides.
    pub(super) fn flops_per_token(&self, case: Case) -> Result<Option<f64>> {
        let forward = 2.0 * n_linear_weights(&read_config(self.model(case))?)?;
        Ok(match case.task {
            Task::Train(_) => Some(3.0 * forward),
            Task::Encode => Some(forward),
            Task::Start | Task::Tokenize => None,
        })
    }
}

/// The number of weights in all linear layers of the encoder.
fn n_linear_weights(config: &Value) -> Result<f64> {
    let size = |key: &str| {
        config[key]
            .as_f64()
            .with_context(|| format!("the model's config.json has no {key}"))
    };
    let (width, inner) = (size("hidden_size")?, size("intermediate_size")?);
    // A gated feed-forward part has three products.
    let products = if config["model_type"] == "modernbert" {
        3.0
    } else {
        2.0
    };
    Ok(size("num_hidden_layers")? * (4.0 * width * width + products * width * inner))
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

/// A vocabulary that has BERT's special tokens, which the grammar's lacks.
fn with_berts_tokens(folder: &Path, vocabulary: &Path) -> Result<PathBuf> {
    let text = fs::read_to_string(vocabulary)?;
    let lacks = |token: &&str| !text.lines().any(|line| line == *token);
    let more: Vec<&str> = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        .into_iter()
        .filter(lacks)
        .collect();
    if more.is_empty() {
        return Ok(vocabulary.to_owned());
    }
    let path = folder.join("vocab-bert.txt");
    fs::write(&path, format!("{}\n{}\n", text.trim_end(), more.join("\n")))?;
    Ok(path)
}

/// Triplets and lines of texts with more tokens than the model for long texts takes.
fn long_texts(folder: &Path) -> Result<(PathBuf, (usize, PathBuf))> {
    const N_TEXTS: usize = 24;
    let parts = grammar::triplets(Split::Train, 40 * N_TEXTS * 8, SEED);
    let texts: Vec<String> = parts
        .chunks(320)
        .map(|triplets| {
            let sentences = triplets.iter().map(|triplet| triplet.anchor.as_str());
            sentences.collect::<Vec<_>>().join(" ")
        })
        .collect();
    if let Some(short) = texts.iter().find(|text| text.split(' ').count() < 2048) {
        bail!(
            "a text of {} words is no long one",
            short.split(' ').count()
        );
    }
    let text = |i: usize| texts[i % texts.len()].clone();
    let triplets: Vec<grammar::Triplet> = (0..600)
        .map(|i| grammar::Triplet {
            anchor: text(i),
            positive: text(i + 7),
            negative: text(i + 13),
        })
        .collect();
    let of_triplets = folder.join("triplets-long.csv");
    fs::write(&of_triplets, quickstart::csv(&triplets))?;
    let of_texts = folder.join("texts-long.txt");
    fs::write(&of_texts, texts.join("\n") + "\n")?;
    Ok((of_triplets, (texts.len(), of_texts)))
}

/// A model with random weights, by `sentune init`.
fn init(mut sentune: Command, folder: &Path, vocabulary: &Path, shape: &[&str]) -> Result<PathBuf> {
    let n_words = fs::read_to_string(vocabulary)?.lines().count() as u64;
    let config = read_config(folder);
    let is_made = config.is_ok_and(|config| config["vocab_size"].as_u64() == Some(n_words));
    if !is_made {
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        sentune.arg("init").arg("--vocab-file").arg(vocabulary);
        sentune.arg("--output").arg(folder).args(shape);
        process::run(sentune)?;
    }
    Ok(folder.to_owned())
}

fn read_config(model: &Path) -> Result<Value> {
    let path = model.join("config.json");
    serde_json::from_str(&fs::read_to_string(&path)?)
        .with_context(|| format!("{} is no JSON", path.display()))
}

/// The first lines of a file, in a file of their own.
fn first_lines(path: &Path, n: usize) -> Result<PathBuf> {
    let text = fs::read_to_string(path)?;
    let n_lines = text.lines().count();
    ensure!(
        n_lines >= n,
        "{} holds only {n_lines} sentences, and {n} are to be encoded",
        path.display()
    );
    let first = path.with_extension(format!("{n}.txt"));
    let mut file = BufWriter::new(fs::File::create(&first)?);
    for line in text.lines().take(n) {
        writeln!(file, "{line}")?;
    }
    file.flush()?;
    Ok(first)
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

/// The name of a folder or file, as documents show it.
fn shown(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mpnet_base_has_85_million_linear_weights() -> Result<()> {
        let config = serde_json::json!({
            "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
        });
        assert_eq!(n_linear_weights(&config)?, 84_934_656.0);
        assert!(n_linear_weights(&serde_json::json!({"hidden_size": 768})).is_err());
        let config = serde_json::json!({
            "model_type": "modernbert", "hidden_size": 768, "intermediate_size": 1152,
            "num_hidden_layers": 22,
        });
        assert_eq!(n_linear_weights(&config)?, 110_297_088.0);
        Ok(())
    }
}

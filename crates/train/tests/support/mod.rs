//! Helpers of the tests of runs: the tiny model, its data, and losses.

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use data::LoadOptions;
use eval::Similarity;
use losses::{BuildContext, Loss, LossConfig};
use model::{EncodeOptions, SentenceTransformer};
use tch::Device;
use train::{Evaluation, TrainingArguments, TrainingData};

/// A file beside `make_fixtures.py`.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

/// Two layers, 32 wide, from crates/model's fixtures.
pub(crate) fn tiny(dropout: f64) -> SentenceTransformer {
    load("tiny-mpnet", dropout)
}

/// A model of crates/model's fixtures.
pub(crate) fn load(name: &str, dropout: f64) -> SentenceTransformer {
    tch::set_num_threads(1);
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/fixtures");
    let mut model = SentenceTransformer::load(&fixtures.join(name), Device::Cpu).unwrap();
    model.set_dropout(dropout).unwrap();
    model
}

/// A data set of the fixtures, named for its file, as the tiny model tokenises it.
pub(crate) fn read(name: &str, model: &SentenceTransformer) -> TrainingData {
    let stem = name.split('.').next().unwrap().to_owned();
    let options = LoadOptions {
        name: Some(stem),
        ..LoadOptions::default()
    };
    let dataset = data::load(fixture(name).to_str().unwrap(), &options).unwrap();
    let progress = &mut |_: train::Tokenizing<'_>| ControlFlow::Continue(());
    train::tokenize(dataset, model.tokenizer(), progress).unwrap()
}

/// A data set of the fixtures with its evaluator, by cosine.
pub(crate) fn read_evaluation(name: &str, model: &SentenceTransformer) -> Evaluation {
    let data = read(name, model);
    Evaluation::new(data, &[Similarity::Cosine], EncodeOptions::default()).unwrap()
}

/// A loss for the tiny model, by its name.
pub(crate) fn loss(name: &str) -> Box<dyn Loss> {
    let config: LossConfig = name.parse().unwrap();
    let context = BuildContext {
        dimension: Some(32),
        device: Device::Cpu,
        seed: 42,
    };
    config.build(&context).unwrap()
}

/// The defaults with `changes`, an object whose keys are the flags' names.
pub(crate) fn arguments(changes: &serde_json::Value) -> TrainingArguments {
    let mut arguments = serde_json::to_value(TrainingArguments::default()).unwrap();
    for (key, value) in changes.as_object().unwrap() {
        let known = arguments
            .get_mut(key)
            .unwrap_or_else(|| panic!("no argument `{key}`"));
        *known = value.clone();
    }
    serde_json::from_value(arguments).unwrap()
}

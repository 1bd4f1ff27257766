//! Loads a tiny model with one of its files replaced: the first byte chooses model and file.
#![cfg_attr(fuzzing, no_main)]

use std::{fs, path::Path};

use libfuzzer_sys::fuzz_target;
use model::{LoadOptions, SentenceTransformer};

const FILES: [&str; 10] = [
    "model.safetensors",
    "config.json",
    "tokenizer.json",
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "tokenizer_config.json",
    "adapter_config.json",
    "adapter_model.safetensors",
];

const MODELS: [&str; 7] = [
    "fixtures/tiny-mpnet",
    "fixtures/encoders/bert",
    "fixtures/encoders/roberta",
    "fixtures/encoders/xlm-roberta",
    "fixtures/encoders/distilbert",
    "fixtures/encoders/modernbert",
    "fixtures/adapters/mpnet",
];

fuzz_target!(
    init: sentune_fuzz::let_readers_catch_panics(),
    |bytes: &[u8]| {
        let Some((choice, content)) = bytes.split_first() else {
            return;
        };
        let choice = usize::from(*choice);
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/model/tests");
        let good = tests.join(MODELS[choice / FILES.len() % MODELS.len()]);
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(folder.path().join("1_Pooling")).expect("made");
        for file in FILES.into_iter().chain(["vocab.txt"]) {
            if good.join(file).is_file() {
                fs::copy(good.join(file), folder.path().join(file)).expect("copied");
            }
        }
        let replaced = FILES[choice % FILES.len()];
        fs::write(folder.path().join(replaced), content).expect("written");
        let options = LoadOptions {
            base: Some(tests.join("fixtures/tiny-mpnet")),
            ..LoadOptions::default()
        };
        if let Ok(model) = SentenceTransformer::load_with(folder.path(), &options, tch::Device::Cpu) {
            let vocab_size = model.encoder().spec().vocab_size;
            for ids in model
                .tokenizer()
                .encode_batch(&["", "a text"])
                .unwrap_or_default()
            {
                assert!(ids.iter().all(|id| i64::from(*id) < vocab_size));
            }
        }
    }
);

#[cfg(not(fuzzing))]
fn main() {}

//! Training with prompts against sentence-transformers 6.2.0 (`fixtures/make_prompt_fixtures.py`), and what prompts
//! mean to a resume.

#[expect(dead_code, reason = "evaluations here have prompts")]
mod support;

use std::path::Path;

use data::Prompt;
use eval::Similarity;
use losses::Loss;
use model::{EncodeOptions, SentenceTransformer};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use support::{arguments, fixture, loss, read, tiny};
use tch::Device;
use train::{
    Checkpoint, Evaluation, Objective, Prompts, RunFolder, RunOutcome, Tasks, Trainer, TrainingData,
};

/// Relative, of each loss and accuracy, and ten times it of each norm of a gradient. Reached: 4e-6, and 1.5e-4 for a norm
/// of `one_of_the_sets`.
const TOLERANCE: f64 = 1e-4;

/// A run of upstream's trainer. Without a name for the only data set or loss the key is empty.
#[derive(Deserialize)]
struct Run {
    name: String,
    pooling: Value,
    train_data: Map<String, Value>,
    eval_data: Map<String, Value>,
    losses: Map<String, Value>,
    prompts: Prompts,
    of_columns: Map<String, Value>,
    arguments: Value,
    log: Vec<Map<String, Value>>,
}

/// The tiny model with another pooling.
fn pooled(pooling: &Value) -> SentenceTransformer {
    let folder = tempfile::tempdir().unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/fixtures/tiny-mpnet");
    for entry in fs_err::read_dir(&from).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_file() {
            fs_err::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
    }
    let mut config = pooling.clone();
    config["embedding_dimension"] = json!(32);
    fs_err::create_dir(folder.path().join("1_Pooling")).unwrap();
    let path = folder.path().join("1_Pooling/config.json");
    fs_err::write(path, config.to_string()).unwrap();
    tch::set_num_threads(1);
    let mut model = SentenceTransformer::load(folder.path(), Device::Cpu).unwrap();
    model.set_dropout(0.0).unwrap();
    model
}

/// A data set of the fixtures, tokenised after these prompts.
fn prompted(name: &str, model: &SentenceTransformer, prompts: Vec<String>) -> TrainingData {
    let mut data = read(name, model);
    let tokenizer = model.tokenizer();
    let prompts = prompts.into_iter().map(|text| Prompt {
        n_tokens: tokenizer.prompt_length(&text).unwrap(),
        text,
    });
    let prompts: Vec<Prompt> = prompts.collect();
    let texts = data.dataset.prompted_texts(&prompts);
    data.tokens = texts
        .tokenize(|texts| tokenizer.encode_batch(texts))
        .unwrap();
    data
}

fn named(name: &str) -> Option<&str> {
    (!name.is_empty()).then_some(name)
}

/// Repeats the run called `name` and compares all that it logs.
fn check(name: &str) {
    let runs = fs_err::read_to_string(fixture("prompt_runs.json")).unwrap();
    let runs: Vec<Run> = serde_json::from_str(&runs).unwrap();
    let run = runs.into_iter().find(|run| run.name == name).unwrap();
    let mut model = pooled(&run.pooling);
    let guide = pooled(&json!({"pooling_mode": "mean", "include_prompt": false}));
    let losses: Vec<(String, Box<dyn Loss>)> = run
        .losses
        .iter()
        .map(|(key, text)| (key.clone(), loss(text.as_str().unwrap())))
        .collect();
    let place = |key: &str| losses.iter().position(|(name, _)| name == key).unwrap_or(0);
    let load = |sets: &Map<String, Value>| -> Vec<(String, TrainingData)> {
        let load = |(key, file): (&String, &Value)| {
            let file = file.as_str().unwrap();
            let dataset = read(file, &model).dataset;
            let prompts = run.prompts.of(named(key), &dataset.column_names()).unwrap();
            if let Some(expected) = run.of_columns.get(key) {
                assert_eq!(&json!(prompts), expected, "{name}: prompts of {file}");
            }
            let mut data = prompted(file, &model, prompts);
            if !key.is_empty() {
                data.dataset.name.clone_from(key);
            }
            (key.clone(), data)
        };
        sets.iter().map(load).collect()
    };
    let training = load(&run.train_data);
    let evaluations: Vec<(String, Evaluation)> = load(&run.eval_data)
        .into_iter()
        .map(|(key, data)| {
            let by = [Similarity::Cosine];
            let evaluation =
                Evaluation::during_training(data, &by, EncodeOptions::default()).unwrap();
            (key, evaluation)
        })
        .collect();
    let root = tempfile::tempdir().unwrap();
    let tasks = Tasks {
        objectives: losses
            .iter()
            .map(|(key, loss)| Objective {
                name: named(key),
                loss: loss.as_ref(),
                guide: loss.requirements().guide.then_some(&guide),
            })
            .collect(),
        training: training
            .iter()
            .map(|(key, data)| (data, place(key)))
            .collect(),
        evaluations: evaluations
            .iter()
            .map(|(key, data)| (data, place(key)))
            .collect(),
    };
    let folder = RunFolder::create(root.path()).unwrap();
    let changes = arguments(&run.arguments);
    let mut trainer = Trainer::with_tasks(&mut model, tasks, changes, folder, &|| false).unwrap();
    assert!(matches!(trainer.train().unwrap(), RunOutcome::Finished(_)));
    let log = &trainer.state().log_history;
    let mut n_compared = 0;
    let mut largest: f64 = 0.0;
    for entry in &run.log {
        let step = &entry["step"];
        for (key, expected) in entry {
            let tolerance = match key.as_str() {
                "grad_norm" => 10.0 * TOLERANCE,
                key if key.ends_with("loss") || key.ends_with("accuracy") => TOLERANCE,
                _ => continue,
            };
            let found = log
                .iter()
                .find(|entry| &entry["step"] == step && entry.contains_key(key))
                .unwrap_or_else(|| panic!("{name}, step {step}: no {key}"));
            let (found, expected) = (found[key].as_f64().unwrap(), expected.as_f64().unwrap());
            let deviation = (found - expected).abs() / expected.abs().max(1e-3);
            largest = largest.max(deviation);
            assert!(
                deviation <= tolerance,
                "{name}, step {step}: {key} is {found}, not {expected}; largest until here {largest:e}"
            );
            n_compared += 1;
        }
    }
    assert!(n_compared >= 33, "{name}: {n_compared} values compared");
}

#[test]
fn one_prompt_for_all_columns() {
    check("text");
}

#[test]
fn prompts_by_column() {
    check("columns");
}

#[test]
fn prompts_are_left_out_of_the_pooling() {
    check("columns_left_out");
    check("every_pooling");
    check("no_duplicates");
}

#[test]
fn gradient_caching_leaves_prompts_out_both_times() {
    check("cached");
}

#[test]
fn a_guide_reads_prompts_too() {
    check("guide");
}

#[test]
fn prompts_by_data_set() {
    check("sets");
    check("sets_and_columns");
    check("one_of_the_sets");
    check("columns_of_all_sets");
}

fn start<'a>(
    model: &'a mut SentenceTransformer,
    loss: &'a dyn Loss,
    data: &'a TrainingData,
    folder: &RunFolder,
) -> Trainer<'a> {
    let arguments = arguments(&json!({"max-steps": 4, "save-steps": 2}));
    Trainer::new(model, loss, data, None, arguments, folder.clone(), &|| {
        false
    })
    .unwrap()
}

/// A checkpoint is of the prompts that it was made with, and the saved model has none of them.
#[test]
fn a_resume_compares_prompts() {
    let root = tempfile::tempdir().unwrap();
    let folder = RunFolder::create(root.path()).unwrap();
    let loss = loss("multiple-negatives-ranking");
    let mut model = tiny(0.1);
    let before = model.prompts().clone();
    let first = prompted("pairs.csv", &model, vec!["a: ".to_owned(), String::new()]);
    let second = prompted("pairs.csv", &model, vec![String::new(), "a: ".to_owned()]);
    let none = read("pairs.csv", &model);
    start(&mut model, loss.as_ref(), &first, &folder)
        .train()
        .unwrap();
    let saved = SentenceTransformer::load(&folder.final_model(), Device::Cpu).unwrap();
    assert_eq!(saved.prompts(), &before);

    let checkpoint = Checkpoint::open(&folder.checkpoint(2)).unwrap();
    let mut model = tiny(0.1);
    let same = start(&mut model, loss.as_ref(), &first, &folder);
    same.check_same_run(&checkpoint).unwrap();
    drop(same);
    for (data, is) in [(&second, r#"["", "a: "]"#), (&none, "none")] {
        let other = start(&mut model, loss.as_ref(), data, &folder);
        let error = other.check_same_run(&checkpoint);
        let error = error.unwrap_err().to_string();
        let part = format!(r#"prompts of training data was ["a: ", ""] and is {is}"#);
        assert!(error.contains(&part), "{error}");
    }
}

//! Runs against those of sentence-transformers 6.2.0: `fixtures/make_fixtures.py` says how they were made.
//!
//! The promise is 1e-4 relative for each of the first 100 losses. What is reached stands beside each constant: the
//! rounding of single operations, grown over the run by a learning rate twenty times the default.

mod support;

use std::{collections::BTreeMap, path::Path};

use losses::{StepInputs, gradients::gradients};
use model::{ChunkLimit, ChunkedBatch, Compute, Engine, SentenceTransformer};
use serde::Deserialize;
use serde_json::{Map, Value};
use support::{arguments, fixture, load, loss, read, read_evaluation, tiny};
use tch::{Device, Tensor};
use train::{RunFolder, RunOutcome, SaveStrategy, TrainError, Trainer};

/// Relative; reached: 3e-5 in `mnr_pairs`, 5e-6 or less in all other runs.
const LOSS: f64 = 1e-4;
/// Relative; reached: 4e-5.
const GRADIENT_NORM: f64 = 1e-3;
/// Absolute.
const LEARNING_RATE: f64 = 1e-12;
/// Absolute, of each element of a gradient.
const GRADIENT: f64 = 1e-5;

/// One run of upstream's trainer.
#[derive(Deserialize)]
struct Run {
    name: String,
    train_data: String,
    eval_data: Option<String>,
    loss: String,
    arguments: Value,
    log: Vec<Map<String, Value>>,
    checkpoints: Vec<u64>,
    best_global_step: Option<u64>,
    best_metric: Option<f64>,
    best_checkpoint: Option<u64>,
    max_steps: u64,
}

/// The tolerance of an entry's value, and its deviation from upstream's.
fn deviation(key: &str, found: f64, expected: f64) -> (f64, f64) {
    let absolute = (found - expected).abs();
    let relative = absolute / expected.abs();
    match key {
        "loss" | "train_loss" | "eval_loss" => (LOSS, relative),
        "grad_norm" => (GRADIENT_NORM, relative),
        "learning_rate" => (LEARNING_RATE, absolute),
        "epoch" => (1e-12, absolute),
        // Upstream gives accuracies as f32; one triplet of 60 more would be 0.017.
        key if key.ends_with("accuracy") => (6e-8, absolute),
        key if key.contains("pearson") => (1e-5, absolute),
        key if key.contains("spearman") => (1e-9, absolute),
        _ => (0.0, absolute),
    }
}

/// Repeats the run called `name` and compares all that it logs, saves and finds best: by our kernels, and by what
/// runs on a GPU, here on the CPU.
fn check(name: &str) {
    for engine in [Engine::Kernels, Engine::Libtorch] {
        check_by(engine, read_run("runs.json", name), tiny(0.0));
    }
}

/// As [`check`], from the tiny model of another type.
fn check_type(model_type: &str) {
    for engine in [Engine::Kernels, Engine::Libtorch] {
        let run = read_run("encoder_runs.json", model_type);
        check_by(engine, run, load(&format!("encoders/{model_type}"), 0.0));
    }
}

fn read_run(file: &str, name: &str) -> Run {
    let runs: Vec<Run> =
        serde_json::from_str(&fs_err::read_to_string(fixture(file)).unwrap()).unwrap();
    runs.into_iter().find(|run| run.name == name).unwrap()
}

fn check_by(engine: Engine, run: Run, mut model: SentenceTransformer) {
    let name = &format!("{} by {engine:?}", run.name);
    model
        .set_compute(Compute {
            engine,
            ..Compute::default()
        })
        .unwrap();
    let data = read(&run.train_data, &model);
    let evaluation = run.eval_data.map(|name| read_evaluation(&name, &model));
    let loss = loss(&run.loss);
    let root = tempfile::tempdir().unwrap();
    let folder = RunFolder::create(root.path()).unwrap();
    let arguments = arguments(&run.arguments);
    // Upstream notes the best step only where it saves.
    let keeps_checkpoints = arguments.save_strategy != SaveStrategy::No;
    let mut trainer = Trainer::new(
        &mut model,
        loss.as_ref(),
        &data,
        evaluation.as_ref(),
        arguments,
        folder.clone(),
        &|| false,
    )
    .unwrap();
    assert_eq!(trainer.plan().n_steps, run.max_steps, "{name}: steps");
    let RunOutcome::Finished(_) = trainer.train().unwrap() else {
        panic!("{name} was not finished");
    };

    let state = trainer.state();
    let mut deviations: BTreeMap<&str, f64> = BTreeMap::new();
    let mut problems = Vec::new();
    assert_eq!(
        steps_and_keys(&state.log_history),
        steps_and_keys(&run.log),
        "{name}: entries of the log"
    );
    for (found, expected) in state.log_history.iter().zip(&run.log) {
        for (key, expected) in expected {
            let number = |value: &Value| value.as_f64().unwrap();
            let step = &found["step"];
            let (found, expected) = (number(&found[key]), number(expected));
            let (tolerance, deviation) = deviation(key, found, expected);
            let largest = deviations.entry(key).or_default();
            *largest = largest.max(deviation);
            // A NaN is a problem too.
            if deviation.is_nan() || deviation > tolerance {
                problems.push(format!("step {step}: {key} is {found}, not {expected}"));
            }
        }
    }
    assert!(
        problems.is_empty(),
        "{name}:\n{}\nlargest deviations: {deviations:?}",
        problems.join("\n")
    );
    assert_eq!(folder.checkpoints().unwrap(), run.checkpoints, "{name}");
    if keeps_checkpoints {
        assert_eq!(state.best_global_step, run.best_global_step, "{name}");
        let best = state.best_model_checkpoint.as_deref().map(Path::new);
        let expected = run.best_checkpoint.map(|step| folder.checkpoint(step));
        assert_eq!(best, expected.as_deref(), "{name}");
    }
    if let Some(expected) = run.best_metric {
        let found = state.best_metric.unwrap();
        assert!(
            (found - expected).abs() <= LOSS * expected,
            "{name}: {found} is not {expected}"
        );
    }
}

/// The step of each entry and what it holds, without measurements of speed.
fn steps_and_keys(log: &[Map<String, Value>]) -> Vec<(u64, Vec<&str>)> {
    let is_speed = |key: &str| key.ends_with("runtime") || key.ends_with("per_second");
    log.iter()
        .map(|entry| {
            let keys = entry
                .keys()
                .map(String::as_str)
                .filter(|key| !is_speed(key));
            (entry["step"].as_u64().unwrap(), keys.collect())
        })
        .collect()
}

#[test]
fn mnr_triplets() {
    check("mnr_triplets");
}

#[test]
fn mnr_pairs() {
    check("mnr_pairs");
}

#[test]
fn mnr_triplets_article() {
    check("mnr_triplets_article");
}

#[test]
fn warmup_cosine() {
    check("warmup_cosine");
}

#[test]
fn warmup_constant() {
    check("warmup_constant");
}

#[test]
fn accumulation() {
    check("accumulation");
}

#[test]
fn weight_decay() {
    check("weight_decay");
}

#[test]
fn no_duplicates() {
    check("no_duplicates");
}

#[test]
fn no_duplicates_accumulation() {
    check("no_duplicates_accumulation");
}

#[test]
fn drop_last_data_seed_no_clip() {
    check("drop_last_data_seed_no_clip");
}

#[test]
fn sgd() {
    check("sgd");
}

#[test]
fn sgd_momentum() {
    check("sgd_momentum");
}

#[test]
fn rmsprop() {
    check("rmsprop");
}

#[test]
fn rmsprop_momentum() {
    check("rmsprop_momentum");
}

#[test]
fn triplet_loss() {
    check("triplet_loss");
}

#[test]
fn cosent_scored() {
    check("cosent_scored");
}

#[test]
fn cosine_scored() {
    check("cosine_scored");
}

#[test]
fn eval_steps() {
    check("eval_steps");
}

#[test]
fn eval_epoch_within() {
    check("eval_epoch_within");
}

#[test]
fn eval_no_duplicates() {
    check("eval_no_duplicates");
}

#[test]
fn best_loss() {
    check("best_loss");
}

#[test]
fn early_stopping() {
    check("early_stopping");
}

#[test]
fn sixty_steps_of_bert() {
    check_type("bert");
}

#[test]
fn sixty_steps_of_roberta() {
    check_type("roberta");
}

#[test]
fn sixty_steps_of_xlm_roberta() {
    check_type("xlm-roberta");
}

#[test]
fn sixty_steps_of_distilbert() {
    check_type("distilbert");
}

#[test]
fn sixty_steps_of_modernbert() {
    check_type("modernbert");
}

/// The gradient of one batch, parameter by parameter.
fn check_gradient(name: &str, file: &str) {
    let expected: BTreeMap<String, Tensor> =
        Tensor::read_safetensors(fixture("gradients.safetensors"))
            .unwrap()
            .into_iter()
            .collect();
    let model = tiny(0.0);
    let data = read(file, &model);
    let columns = &data.tokens.columns;
    let sentences: Vec<&[u32]> = columns
        .iter()
        .flat_map(|column| (0..8).map(|row| column.get(row)))
        .collect();
    let batch = ChunkedBatch::new(&sentences, ChunkLimit::NONE, Device::Cpu).unwrap();
    let parameters = model.parameters();
    let gradient = parameters.zero_gradient().unwrap();
    let loss = loss("multiple-negatives-ranking");
    let value = model
        .forward_backward(&batch, 0, &gradient, |embeddings| {
            let columns = embeddings.split(8, 0);
            let step = StepInputs {
                embeddings: &columns,
                prior: &[],
                labels: None,
                own: None,
                seed: 0,
            };
            let found = gradients(loss.as_ref(), &step, 1.0)?;
            Ok::<_, TrainError>((found.value, Tensor::cat(&found.embeddings, 0)))
        })
        .unwrap();
    let expected_value = expected[&format!("{name}/loss")].double_value(&[]);
    assert!((value.double_value(&[]) - expected_value).abs() < 1e-5 * expected_value);

    let mut n_compared = 0;
    for span in parameters.spans() {
        let found = gradient
            .narrow(0, span.offset, span.numel())
            .view(span.shape.as_slice());
        let expected = &expected[&format!("{name}/{}", span.name)];
        let deviation = (&found - expected).abs().max().double_value(&[]);
        assert!(
            deviation <= GRADIENT,
            "{name}, {}: {deviation:e}",
            span.name
        );
        n_compared += 1;
    }
    let n_expected = expected.keys().filter(|key| key.starts_with(name)).count() - 1;
    assert_eq!(n_compared, n_expected, "{name}: parameters with a gradient");
}

#[test]
fn gradients_of_triplets() {
    check_gradient("triplets", "triplets.jsonl");
}

#[test]
fn gradients_of_pairs() {
    check_gradient("pairs", "pairs.csv");
}

//! Training of adapters against peft under sentence-transformers 6.2.0 (`fixtures/make_adapter_fixtures.py`), and runs of
//! adapters and with frozen parts: what they change, what their checkpoints hold, and that they go on bit for bit.

#[expect(dead_code, reason = "other tests need more of it")]
mod support;

use std::{
    cell::Cell,
    path::{Path, PathBuf},
    sync::Mutex,
};

use model::{Compute, Engine, LoadOptions, Lora, LoraTargets, SentenceTransformer};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use support::{arguments, fixture, loss, read};
use tch::{Device, Tensor};
use train::{Checkpoint, RunFolder, RunOutcome, TrainError, Trainer, TrainerState};

/// Relative, of each loss.
const OF_LOSSES: f64 = 1e-4;

/// Relative, of each norm of a gradient.
const OF_NORMS: f64 = 1e-3;

/// Dropout of libtorch draws from one generator, which every run seeds.
static GENERATOR: Mutex<()> = Mutex::new(());

#[derive(Deserialize)]
struct Expected {
    name: String,
    arguments: Value,
    log: Vec<Map<String, Value>>,
}

/// A run in `folder`, from `checkpoint` where there is one: its end and its state.
fn run(
    model: &mut SentenceTransformer,
    folder: &Path,
    changes: &Value,
    checkpoint: Option<u64>,
    merges: bool,
    is_interrupted: &dyn Fn() -> bool,
) -> Result<(RunOutcome, TrainerState), TrainError> {
    let data = read("triplets.jsonl", model);
    let loss = loss("mnrl");
    let folder = RunFolder::create(folder)?;
    let mut trainer = Trainer::new(
        model,
        loss.as_ref(),
        &data,
        None,
        arguments(changes),
        folder.clone(),
        is_interrupted,
    )?;
    if merges {
        trainer.merge_adapter();
    }
    if let Some(step) = checkpoint {
        trainer.resume(&Checkpoint::open(&folder.checkpoint(step))?, false)?;
    }
    let outcome = trainer.train()?;
    Ok((outcome, trainer.state().clone()))
}

/// Ten steps in `folder`, to their end.
fn run_ten(model: &mut SentenceTransformer, folder: &Path) {
    run(model, folder, &ten_steps(), None, false, &|| false).unwrap();
}

fn set_engine(model: &mut SentenceTransformer, engine: Engine) {
    tch::set_num_threads(1);
    let compute = Compute {
        engine,
        ..Compute::default()
    };
    model.set_compute(compute).unwrap();
}

#[test]
fn sixty_steps_are_pefts() {
    let _alone = GENERATOR.lock();
    let runs = fs_err::read_to_string(fixture("adapter_runs.json")).unwrap();
    let runs: Vec<Expected> = serde_json::from_str(&runs).unwrap();
    assert_eq!(runs.len(), 6);
    for expected in runs {
        for engine in [Engine::Kernels, Engine::Libtorch] {
            let start = fixture("adapters").join(&expected.name);
            let mut model = SentenceTransformer::load(&start, Device::Cpu).unwrap();
            set_engine(&mut model, engine);
            model.set_dropout(0.0).unwrap();
            let folder = tempfile::tempdir().unwrap();
            let (_, state) = run(
                &mut model,
                folder.path(),
                &expected.arguments,
                None,
                false,
                &|| false,
            )
            .unwrap();
            let name = format!("{} on {engine:?}", expected.name);
            assert_eq!(state.log_history.len(), expected.log.len(), "{name}");
            let mut n_compared = 0;
            for (found, expected) in state.log_history.iter().zip(&expected.log) {
                for (key, tolerance) in [
                    ("loss", OF_LOSSES),
                    ("train_loss", OF_LOSSES),
                    ("grad_norm", OF_NORMS),
                    ("learning_rate", 1e-9),
                ] {
                    let Some(expected) = expected.get(key) else {
                        continue;
                    };
                    n_compared += 1;
                    let (found, expected) =
                        (found[key].as_f64().unwrap(), expected.as_f64().unwrap());
                    assert!(
                        (found - expected).abs() <= tolerance * expected.abs(),
                        "{name}: {key} is {found}, and peft's {expected}, in {:?}",
                        state.log_history
                    );
                }
            }
            assert_eq!(n_compared, 3 * 60 + 1, "{name}");
            let mean = |entries: &[Map<String, Value>]| {
                let losses = entries.iter().map(|entry| entry["loss"].as_f64().unwrap());
                losses.sum::<f64>() / entries.len() as f64
            };
            let (first, last) = (&state.log_history[..10], &state.log_history[50..60]);
            assert!(
                mean(last) < mean(first) - 0.02,
                "{name}: nothing was learnt"
            );
        }
    }
}

fn tiny_mpnet() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/fixtures/tiny-mpnet")
}

/// The tiny model with dropout everywhere.
fn tiny(options: &LoadOptions, engine: Engine) -> SentenceTransformer {
    let mut model = SentenceTransformer::load_with(&tiny_mpnet(), options, Device::Cpu).unwrap();
    set_engine(&mut model, engine);
    model.set_dropout(0.1).unwrap();
    model
}

fn with_lora() -> LoadOptions {
    LoadOptions {
        lora: Some(Lora {
            dropout: 0.1,
            targets: LoraTargets::AllLinear,
            seed: 5,
            ..Lora::new(4)
        }),
        ..LoadOptions::default()
    }
}

fn ten_steps() -> Value {
    json!({
        "learning-rate": 1e-3, "max-steps": 10, "per-device-train-batch-size": 32,
        "gradient-accumulation-steps": 2, "logging-steps": 3, "save-steps": 5, "warmup-steps": 2,
        "weight-decay": 0.1,
    })
}

fn values(tensor: &Tensor) -> Vec<f32> {
    Vec::try_from(tensor).unwrap()
}

/// An `is_interrupted` that is true the `n`th time it is asked, counted from one.
fn at_question(n: usize) -> impl Fn() -> bool {
    let asked = Cell::new(0);
    move || {
        asked.set(asked.get() + 1);
        asked.get() == n
    }
}

#[test]
fn what_is_frozen_stays_and_a_run_goes_on_bit_for_bit() {
    let _alone = GENERATOR.lock();
    let frozen = LoadOptions {
        freeze: vec!["embeddings".to_owned(), "layers:0".to_owned()],
        ..LoadOptions::default()
    };
    for (what, options) in [("an adapter", with_lora()), ("frozen parts", frozen)] {
        for engine in [Engine::Kernels, Engine::Libtorch] {
            let what = format!("{what} on {engine:?}");
            let whole_folder = tempfile::tempdir().unwrap();
            let mut whole = tiny(&options, engine);
            let start = whole.parameters().flat().copy();
            let n = whole.parameters().n_trained();
            assert!(n < whole.parameters().numel());
            let ran = run(
                &mut whole,
                whole_folder.path(),
                &ten_steps(),
                None,
                false,
                &|| false,
            );
            assert!(matches!(ran.unwrap().0, RunOutcome::Finished(_)));
            let end = whole.parameters().flat();
            let rest = end.size1().unwrap() - n;
            let part = |tensor: &Tensor, from, n| values(&tensor.narrow(0, from, n));
            assert!(part(end, n, rest) == part(&start, n, rest), "{what}");
            assert!(part(end, 0, n) != part(&start, 0, n), "{what}");

            for question in [3, 13, 28] {
                let folder = tempfile::tempdir().unwrap();
                let mut broken = tiny(&options, engine);
                let stop = at_question(question);
                let ran = run(&mut broken, folder.path(), &ten_steps(), None, false, &stop);
                let step = match ran.unwrap().0 {
                    RunOutcome::Interrupted { step } => step,
                    RunOutcome::Finished(_) => panic!("{what}: not broken off"),
                };
                let mut resumed = tiny(&options, engine);
                let ran = run(
                    &mut resumed,
                    folder.path(),
                    &ten_steps(),
                    Some(step),
                    false,
                    &|| false,
                );
                assert!(matches!(ran.unwrap().0, RunOutcome::Finished(_)));
                let resumed = values(resumed.parameters().flat());
                assert!(resumed == values(end), "{what}, after step {step}");
            }
        }
    }
}

#[test]
fn checkpoints_hold_the_adapter_alone_and_the_end_is_merged_where_asked() {
    let _alone = GENERATOR.lock();
    for merges in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let mut model = tiny(&with_lora(), Engine::Kernels);
        run(
            &mut model,
            folder.path(),
            &ten_steps(),
            None,
            merges,
            &|| false,
        )
        .unwrap();
        let has = |place: &str, file: &str| folder.path().join(place).join(file).is_file();
        for step in [5, 10] {
            let place = format!("checkpoint-{step}");
            assert!(has(&place, "adapter_model.safetensors") && has(&place, "adapter_config.json"));
            assert!(!has(&place, "model.safetensors") && !has(&place, "config.json"));
            let moments = folder.path().join(&place).join("optimizer.safetensors");
            for (name, moment) in Tensor::read_safetensors(moments).unwrap() {
                assert_eq!(moment.size(), [model.parameters().n_trained()], "{name}");
            }
        }
        assert_eq!(has("final", "model.safetensors"), merges);
        assert_eq!(has("final", "config.json"), merges);
        assert_eq!(has("final", "adapter_model.safetensors"), !merges);
        assert_eq!(has("final", "adapter_config.json"), !merges);
        let trained = SentenceTransformer::load(&folder.path().join("final"), Device::Cpu).unwrap();
        assert_eq!(trained.adapter().is_some(), !merges);
        let encode = |model: &SentenceTransformer| {
            let on = &mut |_| std::ops::ControlFlow::Continue(());
            model
                .encode(&["A dog sleeps.", "Tea"], &Default::default(), on)
                .unwrap()
        };
        let difference = (encode(&trained) - encode(&model)).abs().max();
        assert!(difference.double_value(&[]) <= 1e-6);
    }
}

/// An adapter goes on from its folder: as where it left off, but with new moments.
#[test]
fn a_trained_adapter_is_trained_on() {
    let _alone = GENERATOR.lock();
    let folder = tempfile::tempdir().unwrap();
    let mut model = tiny(&with_lora(), Engine::Kernels);
    run_ten(&mut model, folder.path());
    let trained = folder.path().join("final");
    let mut again = SentenceTransformer::load(&trained, Device::Cpu).unwrap();
    let start = again.parameters().flat().copy();
    assert!(values(&start) == values(model.parameters().flat()));
    assert_eq!(again.dropout().adapters, Some(0.1));
    let other = tempfile::tempdir().unwrap();
    run_ten(&mut again, other.path());
    let n = again.parameters().n_trained();
    let frozen = again.parameters().frozen().unwrap();
    assert!(values(&frozen) == values(&start.narrow(0, n, frozen.numel() as i64)));
    assert!(values(&again.parameters().trained().unwrap()) != values(&start.narrow(0, 0, n)));
    assert_eq!(again.adapter(), model.adapter());
}

#[test]
fn a_checkpoint_of_another_adapter_is_of_another_run() {
    let _alone = GENERATOR.lock();
    let folder = tempfile::tempdir().unwrap();
    let mut model = tiny(&with_lora(), Engine::Kernels);
    run_ten(&mut model, folder.path());
    let refused = |options: &LoadOptions, parts: &[&str]| {
        let mut model = tiny(options, Engine::Kernels);
        let error = run(
            &mut model,
            folder.path(),
            &ten_steps(),
            Some(5),
            false,
            &|| false,
        );
        let message = error.unwrap_err().to_string();
        for part in parts {
            assert!(message.contains(part), "{part:?} is not in {message}");
        }
    };
    let mut options = with_lora();
    options.lora.as_mut().unwrap().alpha = 16.0;
    refused(
        &options,
        &["adapter was rank 4, scale 1", "and is rank 4, scale 4"],
    );
    refused(
        &LoadOptions::default(),
        &["adapter was rank 4", "and is none"],
    );
    let frozen = LoadOptions {
        freeze: vec!["embeddings".to_owned()],
        ..LoadOptions::default()
    };
    refused(&frozen, &["frozen parts was none and is embeddings"]);
}

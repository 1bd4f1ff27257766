//! Runs by what computes on a GPU, here on the CPU: numbers that are read later, 16 bits, graphs, and going on from a
//! checkpoint. That they agree with upstream's is in `parity.rs`.

mod support;

use std::{cell::RefCell, path::Path, rc::Rc, sync::Mutex};

use model::{Compute, Engine};
use serde_json::{Value, json};
use support::{arguments, loss, read, read_evaluation, tiny};
use train::{
    Checkpoint, RunFolder, RunOutcome, TrainError, Trainer, TrainerState,
    events::{Event, Observer},
};

/// Dropout draws from libtorch's one generator.
static GENERATOR: Mutex<()> = Mutex::new(());

struct Ran {
    state: TrainerState,
    weights: Vec<f32>,
    /// Steps in the order in which they were told.
    steps: Vec<u64>,
}

struct Steps(Rc<RefCell<Vec<u64>>>);

impl Observer for Steps {
    fn on(&mut self, event: &Event<'_>) -> Result<(), TrainError> {
        match event {
            Event::Step(step) => self.0.borrow_mut().push(step.step),
            Event::NoGraphs(problem) => panic!("{problem}"),
            _ => {}
        }
        Ok(())
    }
}

fn run(
    folder: &Path,
    engine: Engine,
    dropout: f64,
    changes: &Value,
    checkpoint: Option<u64>,
) -> Result<Ran, TrainError> {
    let _alone = GENERATOR.lock();
    let mut model = tiny(dropout);
    model.set_compute(Compute {
        engine,
        ..Compute::default()
    })?;
    let data = read("triplets.jsonl", &model);
    let evaluation = read_evaluation("triplets-dev.jsonl", &model);
    let loss = loss("mnrl");
    let folder = RunFolder::create(folder)?;
    let steps = Rc::new(RefCell::new(Vec::new()));
    let mut trainer = Trainer::new(
        &mut model,
        loss.as_ref(),
        &data,
        Some(&evaluation),
        arguments(changes),
        folder.clone(),
        &|| false,
    )?;
    trainer.observe(Steps(Rc::clone(&steps)));
    if let Some(step) = checkpoint {
        trainer.resume(&Checkpoint::open(&folder.checkpoint(step))?, false)?;
    }
    assert!(matches!(trainer.train()?, RunOutcome::Finished(_)));
    let state = trainer.state().clone();
    let weights = Vec::try_from(trainer.model().parameters().flat())?;
    drop(trainer);
    Ok(Ran {
        state,
        weights,
        steps: steps.take(),
    })
}

fn in_new_folder(engine: Engine, dropout: f64, changes: &Value) -> Ran {
    let root = tempfile::tempdir().unwrap();
    run(root.path(), engine, dropout, changes, None).unwrap()
}

fn plain() -> Value {
    json!({
        "max-steps": 12, "learning-rate": 1e-3, "logging-steps": 5, "save-strategy": "no", "weight-decay": 0.1,
        "max-grad-norm": 0.5,
    })
}

fn with(mut all: Value, changes: Value) -> Value {
    let object = all.as_object_mut().unwrap();
    object.extend(changes.as_object().unwrap().clone());
    all
}

fn train_loss(ran: &Ran) -> f64 {
    ran.state.log_history.last().unwrap()["train_loss"]
        .as_f64()
        .unwrap()
}

/// Adam makes steps of one size of gradients that are zero but for rounding, so that losses and not weights are
/// compared.
fn assert_same_losses(a: &Ran, b: &Ran, tolerance: f64) {
    let (a, b) = (train_loss(a), train_loss(b));
    assert!((a - b).abs() < tolerance * a, "{a} {b}");
}

#[test]
fn every_step_is_told_in_order_though_its_numbers_are_read_later() {
    let changes = with(plain(), json!({"eval-strategy": "steps", "eval-steps": 4}));
    let kernels = in_new_folder(Engine::Kernels, 0.0, &changes);
    let libtorch = in_new_folder(Engine::Libtorch, 0.0, &changes);
    assert_eq!(libtorch.steps, (1..=12).collect::<Vec<u64>>());
    assert_eq!(kernels.steps, libtorch.steps);
    assert_same_losses(&kernels, &libtorch, 1e-5);
    let keys = |ran: &Ran| -> Vec<Vec<String>> {
        let entries = ran.state.log_history.iter();
        entries
            .map(|entry| entry.keys().cloned().collect())
            .collect()
    };
    assert_eq!(keys(&kernels), keys(&libtorch));
}

#[test]
fn graphs_train_as_steps_without_do() {
    let without = in_new_folder(Engine::Libtorch, 0.0, &plain());
    let graphs = with(plain(), json!({"cuda-graphs": true}));
    let by_graph = in_new_folder(Engine::Libtorch, 0.0, &graphs);
    assert_eq!(by_graph.steps, without.steps);
    assert_same_losses(&by_graph, &without, 1e-5);
    for precision in ["bf16", "fp16"] {
        let changes = json!({"precision": precision});
        let without = in_new_folder(Engine::Libtorch, 0.0, &with(plain(), changes.clone()));
        let by_graph = in_new_folder(Engine::Libtorch, 0.0, &with(graphs.clone(), changes));
        assert_same_losses(&without, &by_graph, 2e-3);
    }
}

#[test]
fn sixteen_bits_train_close_to_fp32() {
    let exact = train_loss(&in_new_folder(Engine::Libtorch, 0.0, &plain()));
    // fp16 leaves out the first steps of these twelve, until its scale fits.
    for (precision, tolerance) in [("bf16", 0.02), ("fp16", 0.05)] {
        let changes = with(plain(), json!({"precision": precision}));
        let ran = in_new_folder(Engine::Libtorch, 0.0, &changes);
        let found = train_loss(&ran);
        let off = (found - exact).abs() / exact;
        assert!(off < tolerance, "{precision}: {found} {exact}");
        assert!(found != exact);
    }
}

#[test]
fn a_checkpoint_goes_on_to_the_same_bits() {
    for precision in ["fp32", "bf16", "fp16"] {
        let changes = with(
            plain(),
            json!({"precision": precision, "save-strategy": "steps", "save-steps": 4}),
        );
        let root = tempfile::tempdir().unwrap();
        let whole = run(root.path(), Engine::Libtorch, 0.1, &changes, None).unwrap();
        let again = run(root.path(), Engine::Libtorch, 0.1, &changes, Some(8)).unwrap();
        assert_eq!(again.steps, [9, 10, 11, 12]);
        assert!(again.weights == whole.weights, "{precision}");
        assert_eq!(again.state.loss_scale, whole.state.loss_scale);
        assert_eq!(again.state.loss_scale.is_some(), precision == "fp16");
    }
}

#[test]
fn a_scale_that_is_too_large_is_halved_and_the_run_goes_on() {
    // 65,536 times these gradients is beyond fp16: the first step halves the scale, and what it left out is counted.
    let changes = with(
        plain(),
        json!({"precision": "fp16", "per-device-train-batch-size": 2, "skip-nonfinite": 0}),
    );
    let ran = in_new_folder(Engine::Libtorch, 0.0, &changes);
    let scale = ran.state.loss_scale;
    let n_skipped = ran.state.n_skipped_steps;
    assert_eq!(ran.state.n_skipped_steps_in_row, 0);
    assert_eq!(ran.steps.len() as u64, 12 - n_skipped);
    // Nothing was saved, so that the scale was not asked for.
    assert_eq!(scale, None);
    assert!(train_loss(&ran).is_finite());
}

#[test]
fn other_optimizers_are_told_by_the_host() {
    let changes = with(plain(), json!({"optim": "sgd", "weight-decay": 0.0}));
    let kernels = in_new_folder(Engine::Kernels, 0.0, &changes);
    let libtorch = in_new_folder(Engine::Libtorch, 0.0, &changes);
    assert_same_losses(&kernels, &libtorch, 1e-5);
    let changes = with(changes, json!({"precision": "fp16"}));
    let root = tempfile::tempdir().unwrap();
    let error = run(root.path(), Engine::Libtorch, 0.0, &changes, None)
        .err()
        .unwrap();
    assert!(error.to_string().contains("--optim adamw_torch"), "{error}");
}

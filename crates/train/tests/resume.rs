//! Runs that are broken off and go on, evaluations in between, what is kept, and what ends a run.

mod support;

use std::{
    cell::{Cell, RefCell},
    path::Path,
    rc::Rc,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde_json::{Value, json};
use support::{arguments, loss, read, read_evaluation, tiny};
use tch::Tensor;
use train::{
    Checkpoint, RunFolder, RunOutcome, TrainError, Trainer, TrainerState,
    events::{Event, Observer},
};

/// Dropout draws from libtorch's one generator, so that runs with dropout can't share a process at the same time.
static GENERATOR: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    GENERATOR.lock().unwrap_or_else(PoisonError::into_inner)
}

const TRIPLETS: &str = "triplets.jsonl";
const DEV: &str = "triplets-dev.jsonl";

/// Ten steps over two epochs and a bit, with everything that a checkpoint must keep: moments, dropout, an epoch's
/// place in its permutation, and an incomplete group of batches at its end.
fn ten_steps() -> Value {
    json!({
        "learning-rate": 1e-3, "max-steps": 10, "per-device-train-batch-size": 32,
        "gradient-accumulation-steps": 2, "logging-steps": 3, "save-steps": 1000, "warmup-steps": 2,
        "weight-decay": 0.1,
    })
}

fn with(mut arguments: Value, changes: Value) -> Value {
    let all = arguments.as_object_mut().unwrap();
    all.extend(changes.as_object().unwrap().clone());
    arguments
}

/// The end of a run, its state and its weights.
struct Ran {
    outcome: RunOutcome,
    state: TrainerState,
    weights: Vec<f32>,
}

/// A run of the tiny model with dropout 0.1 in `folder`, from `checkpoint` where there is one.
fn run(
    folder: &Path,
    changes: &Value,
    eval_data: Option<&str>,
    checkpoint: Option<u64>,
    is_interrupted: &dyn Fn() -> bool,
) -> Result<Ran, TrainError> {
    let mut model = tiny(0.1);
    let data = read(TRIPLETS, &model);
    let evaluation = eval_data.map(|name| read_evaluation(name, &model));
    let loss = loss("mnrl");
    let folder = RunFolder::create(folder)?;
    let mut trainer = Trainer::new(
        &mut model,
        loss.as_ref(),
        &data,
        evaluation.as_ref(),
        arguments(changes),
        folder.clone(),
        is_interrupted,
    )?;
    if let Some(step) = checkpoint {
        trainer.resume(&Checkpoint::open(&folder.checkpoint(step))?, false)?;
    }
    let outcome = trainer.train()?;
    let state = trainer.state().clone();
    let weights = Vec::try_from(trainer.model().parameters().flat())?;
    Ok(Ran {
        outcome,
        state,
        weights,
    })
}

fn run_through(folder: &Path, changes: &Value, eval_data: Option<&str>) -> Ran {
    run(folder, changes, eval_data, None, &|| false).unwrap()
}

/// An `is_interrupted` that is true the `n`th time it is asked, counted from one.
fn at_question(n: usize) -> impl Fn() -> bool {
    let asked = Cell::new(0);
    move || {
        asked.set(asked.get() + 1);
        asked.get() == n
    }
}

fn interrupted_at(ran: &Ran) -> u64 {
    match ran.outcome {
        RunOutcome::Interrupted { step } => step,
        RunOutcome::Finished(_) => panic!("the run was not interrupted"),
    }
}

/// The tensors of a file in a checkpoint, by name.
fn tensors(folder: &Path, step: u64, file: &str) -> Vec<(String, Vec<f32>)> {
    let path = folder.join(format!("checkpoint-{step}")).join(file);
    let mut tensors: Vec<(String, Vec<f32>)> = Tensor::read_safetensors(path)
        .unwrap()
        .into_iter()
        .map(|(name, tensor)| (name, Vec::try_from(tensor.flatten(0, -1)).unwrap()))
        .collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    tensors
}

/// The log without measurements of time.
///
/// Numbers are rounded to 15 digits: a checkpoint holds them as JSON, and reading it may change the last bit.
fn log(state: &TrainerState) -> Vec<Vec<(&str, String)>> {
    let is_speed = |key: &str| key.ends_with("runtime") || key.ends_with("per_second");
    let entries = state.log_history.iter();
    entries
        .map(|entry| {
            let timeless = entry.iter().filter(|(key, _)| !is_speed(key));
            timeless
                .map(|(key, value)| (key.as_str(), format!("{:.14e}", value.as_f64().unwrap())))
                .collect()
        })
        .collect()
}

fn assert_same(resumed: &Ran, folder: &Path, whole: &Ran, whole_folder: &Path, what: &str) {
    assert!(resumed.weights == whole.weights, "{what}: weights");
    assert_eq!(log(&resumed.state), log(&whole.state), "{what}: log");
    let last = whole.state.global_step;
    for file in ["model.safetensors", "optimizer.safetensors"] {
        assert!(
            tensors(folder, last, file) == tensors(whole_folder, last, file),
            "{what}: {file}"
        );
    }
}

#[test]
fn a_run_broken_off_anywhere_goes_on_bit_for_bit() {
    let _alone = alone();
    let whole_folder = tempfile::tempdir().unwrap();
    let whole = run_through(whole_folder.path(), &ten_steps(), None);
    // Nine batches an epoch, asked about before each and before both its passes: at the first, within a batch and
    // within a group, at the end of an epoch, in the second epoch, at the last.
    for question in [1, 2, 3, 5, 13, 25, 26, 27, 28, 33, 52, 54] {
        let folder = tempfile::tempdir().unwrap();
        let stop = at_question(question);
        let broken = run(folder.path(), &ten_steps(), None, None, &stop).unwrap();
        let step = interrupted_at(&broken);
        let resumed = run(folder.path(), &ten_steps(), None, Some(step), &|| false).unwrap();
        let what = format!("broken off at question {question}, after step {step}");
        assert_same(&resumed, folder.path(), &whole, whole_folder.path(), &what);
    }
}

#[test]
fn a_run_broken_off_again_and_again_goes_on_bit_for_bit() {
    let _alone = alone();
    for optim in ["rmsprop", "sgd"] {
        let changes = with(
            ten_steps(),
            json!({"optim": optim, "momentum": 0.9, "learning-rate": 1e-4, "gradient-accumulation-steps": 1}),
        );
        let whole_folder = tempfile::tempdir().unwrap();
        let whole = run_through(whole_folder.path(), &changes, None);
        let folder = tempfile::tempdir().unwrap();
        let mut checkpoint = None;
        let resumed = loop {
            let stop = at_question(4);
            let ran = run(folder.path(), &changes, None, checkpoint, &stop).unwrap();
            match ran.outcome {
                RunOutcome::Interrupted { step } => checkpoint = Some(step),
                RunOutcome::Finished(_) => break ran,
            }
        };
        assert_same(&resumed, folder.path(), &whole, whole_folder.path(), optim);
    }
}

#[test]
fn dropout_follows_the_seed() {
    let _alone = alone();
    let short = |seed: u64| {
        let folder = tempfile::tempdir().unwrap();
        let changes = json!({"max-steps": 2, "seed": seed, "data-seed": 1, "save-strategy": "no"});
        run_through(folder.path(), &changes, None).weights
    };
    assert!(short(1) == short(1));
    assert!(short(1) != short(2));
}

#[test]
fn evaluations_and_saves_change_nothing() {
    let _alone = alone();
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let plain = run_through(folders[0].path(), &ten_steps(), None);
    let often =
        json!({"eval-strategy": "steps", "eval-steps": 1, "save-steps": 1, "save-total-limit": 2});
    let evaluated = run_through(folders[1].path(), &with(ten_steps(), often), Some(DEV));
    assert!(plain.weights == evaluated.weights);
    let n_evaluations = log(&evaluated.state)
        .iter()
        .filter(|entry| entry.iter().any(|(key, _)| *key == "eval_loss"))
        .count();
    assert_eq!(n_evaluations, 10);
    let csv = folders[1]
        .path()
        .join("eval/triplet_evaluation_triplets-dev_results.csv");
    assert_eq!(fs_err::read_to_string(csv).unwrap().lines().count(), 11);
}

#[test]
fn an_evaluation_broken_off_is_made_up_for() {
    let _alone = alone();
    let changes = with(
        ten_steps(),
        json!({"eval-strategy": "steps", "eval-steps": 4, "save-steps": 4, "load-best-model-at-end": true}),
    );
    let whole_folder = tempfile::tempdir().unwrap();
    let whole = run_through(whole_folder.path(), &changes, Some(DEV));
    // Four steps of two batches ask 24 times, before each batch and both its passes; then come the evaluation's
    // batches and its encoding.
    for question in [25, 28, 33] {
        let folder = tempfile::tempdir().unwrap();
        let stop = at_question(question);
        let broken = run(folder.path(), &changes, Some(DEV), None, &stop).unwrap();
        assert_eq!(interrupted_at(&broken), 4, "question {question}");
        assert!(broken.state.is_evaluation_due);
        let resumed = run(folder.path(), &changes, Some(DEV), Some(4), &|| false).unwrap();
        let what = format!("broken off at question {question}");
        assert_same(&resumed, folder.path(), &whole, whole_folder.path(), &what);
        assert_eq!(resumed.state.best_global_step, whole.state.best_global_step);
    }
}

#[test]
fn how_often_a_run_logs_and_saves_may_change() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let stop = at_question(3);
    let broken = run(folder.path(), &ten_steps(), None, None, &stop).unwrap();
    let step = interrupted_at(&broken);
    let other = with(ten_steps(), json!({"logging-steps": 7, "save-steps": 9}));
    let resumed = run(folder.path(), &other, None, Some(step), &|| false).unwrap();
    assert_eq!(resumed.state.global_step, 10);
}

#[test]
fn a_checkpoint_of_another_run_is_refused() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let stop = at_question(3);
    let broken = run(folder.path(), &ten_steps(), None, None, &stop).unwrap();
    let step = interrupted_at(&broken);
    let other = with(ten_steps(), json!({"learning-rate": 2e-3, "seed": 7}));
    let error = run(folder.path(), &other, None, Some(step), &|| false)
        .err()
        .unwrap();
    let message = error.to_string();
    assert!(
        message.contains("--learning-rate was 0.001 and is 0.002"),
        "{message}"
    );
    assert!(message.contains("--seed was 42 and is 7"), "{message}");

    let checkpoint = folder.path().join(format!("checkpoint-{step}"));
    let refused = |wanted: &str| {
        let error = Checkpoint::open(&checkpoint).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    };
    let state = checkpoint.join("trainer_state.json");
    let text = fs_err::read_to_string(&state).unwrap();
    fs_err::write(&state, text.replacen("42", "43", 1)).unwrap();
    refused("trainer_state.json is damaged");
    fs_err::write(&state, "{\"global_step\": 1").unwrap();
    refused("trainer_state.json has 17 bytes instead of");
    fs_err::remove_file(checkpoint.join("optimizer.safetensors")).unwrap();
    refused("optimizer.safetensors is missing");
    fs_err::write(checkpoint.join("manifest.json"), "{\"format_version\": 2}").unwrap();
    refused("format version 2, and this program reads 1");
    fs_err::remove_file(checkpoint.join("manifest.json")).unwrap();
    refused("manifest.json is missing");
}

/// A learning rate that is too high, so that the best evaluation is not the last.
fn best_in_the_middle() -> Value {
    json!({
        "learning-rate": 1e-1, "lr-scheduler-type": "constant", "max-steps": 24,
        "eval-strategy": "steps", "eval-steps": 3, "save-steps": 6, "logging-steps": 100,
        "load-best-model-at-end": true,
    })
}

/// The evaluation losses by step.
fn eval_losses(state: &TrainerState) -> Vec<(u64, f64)> {
    let entries = state.log_history.iter();
    entries
        .filter_map(|entry| Some((entry["step"].as_u64()?, entry.get("eval_loss")?.as_f64()?)))
        .collect()
}

#[test]
fn the_best_weights_come_back_and_their_checkpoint_is_kept() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let changes = with(best_in_the_middle(), json!({"save-total-limit": 2}));
    let ran = run_through(folder.path(), &changes, Some(DEV));
    let losses = eval_losses(&ran.state);
    let (best, least) = losses
        .iter()
        .copied()
        .min_by(|a, b| a.1.total_cmp(&b.1))
        .unwrap();
    assert_ne!(best, 24, "the run has to get worse at its end: {losses:?}");
    assert_eq!(ran.state.best_global_step, Some(best));
    assert_eq!(ran.state.best_metric, Some(least));
    let kept = RunFolder::create(folder.path())
        .unwrap()
        .checkpoints()
        .unwrap();
    assert_eq!(kept, [best, 24]);

    let weights: Vec<(String, Vec<f32>)> = tensors(folder.path(), best, "model.safetensors");
    let last = tensors(folder.path(), 24, "model.safetensors");
    let of_final = Tensor::read_safetensors(folder.path().join("final/model.safetensors")).unwrap();
    assert!(weights != last);
    for (name, tensor) in of_final {
        let (_, expected) = weights.iter().find(|(saved, _)| *saved == name).unwrap();
        assert!(
            Vec::<f32>::try_from(tensor.flatten(0, -1)).unwrap() == *expected,
            "{name}"
        );
    }
}

#[test]
fn a_limit_of_one_ends_with_the_best_checkpoint_alone() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let changes = with(best_in_the_middle(), json!({"save-total-limit": 1}));
    let ran = run_through(folder.path(), &changes, Some(DEV));
    let kept = RunFolder::create(folder.path())
        .unwrap()
        .checkpoints()
        .unwrap();
    assert_eq!(kept, [ran.state.best_global_step.unwrap()]);
}

#[test]
fn early_stopping_counts_evaluations_without_gain() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let changes = with(
        best_in_the_middle(),
        json!({"max-steps": 90, "save-steps": 3, "early-stopping-patience": 2}),
    );
    let ran = run_through(folder.path(), &changes, Some(DEV));
    let losses = eval_losses(&ran.state);
    let (n, best) = (losses.len(), ran.state.best_global_step.unwrap());
    assert!(ran.state.global_step < 90, "{losses:?}");
    assert_eq!(losses[n - 3].0, best, "{losses:?}");
    assert_eq!(ran.state.global_step, losses[n - 1].0);
    // Of a run that goes on from there, nothing is left to do.
    let step = ran.state.global_step;
    let again = run(folder.path(), &changes, Some(DEV), Some(step), &|| false).unwrap();
    assert_eq!(again.state.global_step, step);
    assert!(again.weights == ran.weights);
}

#[test]
fn the_metric_that_decides_must_be_there() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let changes = with(
        best_in_the_middle(),
        json!({"metric-for-best-model": "eval_acuracy"}),
    );
    let stop = || panic!("a step was begun");
    let error = run(folder.path(), &changes, Some(DEV), None, &stop)
        .err()
        .unwrap();
    let message = error.to_string();
    assert!(message.contains("`eval_acuracy`"), "{message}");
    assert!(
        message.contains("eval_triplets-dev_cosine_accuracy"),
        "{message}"
    );
}

#[test]
fn save_strategy_best_saves_each_evaluation_that_is_the_best_so_far() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let changes = with(best_in_the_middle(), json!({"save-strategy": "best"}));
    let ran = run_through(folder.path(), &changes, Some(DEV));
    let mut best = f64::INFINITY;
    let mut expected = Vec::new();
    for (step, loss) in eval_losses(&ran.state) {
        if loss < best {
            best = loss;
            expected.push(step);
        }
    }
    let saved = RunFolder::create(folder.path())
        .unwrap()
        .checkpoints()
        .unwrap();
    assert_eq!(saved, expected);
    // Neither every evaluation nor the last step.
    assert!(saved.len() < eval_losses(&ran.state).len() && !saved.contains(&24));
    assert_eq!(ran.state.best_global_step, saved.last().copied());
}

/// Notes the log entries that the trainer tells.
struct Notes(Rc<RefCell<Vec<u64>>>);

impl Observer for Notes {
    fn on(&mut self, event: &Event<'_>) -> Result<(), TrainError> {
        if let Event::Step(step) = event {
            self.0.borrow_mut().push(step.step);
        }
        Ok(())
    }
}

#[test]
fn weights_that_are_no_numbers_stop_the_run_before_the_update() {
    let _alone = alone();
    let mut model = tiny(0.0);
    let data = read(TRIPLETS, &model);
    let loss = loss("mnrl");
    let root = tempfile::tempdir().unwrap();
    let folder = RunFolder::create(root.path()).unwrap();
    tch::no_grad(|| {
        let mut first = model.parameters().flat().narrow(0, 20_000, 1);
        let _ = first.fill_(f64::NAN);
    });
    let before = model.parameters().flat().copy();
    let changes = json!({"logging-steps": 1, "per-device-train-batch-size": 4});
    let arguments = arguments(&changes);
    let steps = Rc::default();
    let mut trainer = Trainer::new(
        &mut model,
        loss.as_ref(),
        &data,
        None,
        arguments,
        folder.clone(),
        &|| false,
    )
    .unwrap();
    trainer.observe(Notes(Rc::clone(&steps)));
    let TrainError::NonFinite(problem) = trainer.train().unwrap_err() else {
        panic!("another error");
    };
    drop(trainer);
    assert_eq!((problem.step, problem.learning_rate), (1, 5e-5));
    let rows = data::sampler::permutation(270, 42);
    assert_eq!(problem.rows, [(None, rows[..4].to_vec())]);
    assert!(problem.loss.is_nan() && problem.grad_norm.is_none());
    let message = problem.to_string();
    let expected = format!(
        "non-finite loss NaN at step 1, learning rate 5e-5, training rows {:?}",
        &rows[..4]
    );
    assert!(message.starts_with(&expected), "{message}");
    assert!(steps.borrow().is_empty());
    assert!(folder.checkpoints().unwrap().is_empty());
    let bits = |tensor: &Tensor| -> Vec<u32> {
        let values = Vec::<f32>::try_from(tensor).unwrap();
        values.into_iter().map(f32::to_bits).collect()
    };
    assert!(bits(model.parameters().flat()) == bits(&before));
}

#[test]
fn a_learning_rate_far_too_high_stops_the_run_where_it_breaks() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let changes = json!({"learning-rate": 1e30, "max-steps": 10, "logging-steps": 1});
    let error = run(folder.path(), &changes, None, None, &|| false)
        .err()
        .unwrap();
    let TrainError::NonFinite(problem) = error else {
        panic!("{error}");
    };
    assert!(problem.step > 1 && problem.step <= 10);
    assert_eq!(problem.rows[0].1.len(), 8);
    let expected = 1e30 * (11 - problem.step) as f64 / 10.0;
    assert!(
        (problem.learning_rate / expected - 1.0).abs() < 1e-12,
        "{problem}"
    );
    assert!(problem.to_string().contains("lower --learning-rate"));
}

#[test]
fn batches_that_no_epoch_has_are_an_error_not_an_endless_run() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let changes = json!({
        "per-device-train-batch-size": 200, "batch-sampler": "no_duplicates", "dataloader-drop-last": true,
    });
    let error = run(folder.path(), &changes, None, None, &|| false)
        .err()
        .unwrap();
    let message = error.to_string();
    assert!(
        message.starts_with("data set `triplets`: epoch 1 has no batch of 200 rows"),
        "{message}"
    );
}

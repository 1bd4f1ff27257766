//! Faults of a run that are known before its first step, and batches that teach nothing.

#[expect(dead_code, reason = "evaluations here are made during training")]
mod support;

use std::{cell::RefCell, rc::Rc};

use data::{Dataset, Labels, TextColumn, Texts};
use model::{EncodeOptions, SentenceTransformer};
use serde_json::{Value, json};
use support::{arguments, loss, read, tiny};
use train::{
    Evaluation, Objective, RunFolder, Tasks, TrainError, Trainer, TrainingData,
    events::{Event, Observer},
};

fn tokenized(model: &SentenceTransformer, dataset: Dataset) -> TrainingData {
    let go_on = &mut |_: train::Tokenizing<'_>| std::ops::ControlFlow::Continue(());
    train::tokenize(dataset, model.tokenizer(), go_on).unwrap()
}

fn dataset(name: &str, columns: &[&[&str]], labels: Option<Labels>) -> Dataset {
    let columns = columns.iter().enumerate().map(|(i, texts)| TextColumn {
        name: format!("text{i}"),
        texts: texts.iter().copied().collect::<Texts>(),
    });
    Dataset {
        name: name.to_owned(),
        columns: columns.collect(),
        labels,
        classes: Vec::new(),
        n_skipped: 0,
    }
}

fn evaluation(model: &SentenceTransformer, data: TrainingData) -> Evaluation {
    let similarity = model.similarity_fn_name();
    Evaluation::during_training(data, &[similarity], EncodeOptions::default()).unwrap()
}

/// The error of making a trainer with these evaluation sets, each with a loss of its own.
fn refused(sets: &[(&str, &str)], changes: &Value) -> String {
    let mut model = tiny(0.0);
    let losses: Vec<_> = sets.iter().map(|(_, name)| loss(name)).collect();
    let data: Vec<_> = sets.iter().map(|(file, _)| read(file, &model)).collect();
    let evaluations: Vec<_> = sets
        .iter()
        .map(|(file, _)| evaluation(&model, read(file, &model)))
        .collect();
    let objectives = losses.iter().map(|loss| Objective {
        name: None,
        loss: loss.as_ref(),
        guide: None,
    });
    let tasks = Tasks {
        objectives: objectives.collect(),
        training: data.iter().enumerate().map(|(i, data)| (data, i)).collect(),
        evaluations: evaluations
            .iter()
            .enumerate()
            .map(|(i, e)| (e, i))
            .collect(),
    };
    let root = tempfile::tempdir().unwrap();
    let folder = RunFolder::create(root.path()).unwrap();
    let mut all =
        json!({"eval-strategy": "epoch", "load-best-model-at-end": true, "save-strategy": "epoch"});
    let object = all.as_object_mut().unwrap();
    object.extend(changes.as_object().unwrap().clone());
    let made = Trainer::with_tasks(&mut model, tasks, arguments(&all), folder, &|| false);
    match made.map(drop).unwrap_err() {
        TrainError::Arguments(problem) => problem,
        other => panic!("{other}"),
    }
}

const TRIPLETS: (&str, &str) = ("triplets.jsonl", "mnrl");
const SCORED: (&str, &str) = ("scored.csv", "cosent");

#[test]
fn the_default_metric_of_two_evaluation_sets_is_refused_with_the_names() {
    assert_eq!(
        refused(&[TRIPLETS, SCORED], &json!({})),
        "--metric-for-best-model is not given, and its default `loss` may be several of the metrics of the evaluations: give one of eval_triplets_loss, eval_triplets_cosine_accuracy, eval_scored_loss, eval_scored_pearson_cosine, eval_scored_spearman_cosine"
    );
}

#[test]
fn a_misspelt_metric_is_refused_with_the_names() {
    assert_eq!(
        refused(
            &[TRIPLETS],
            &json!({"metric-for-best-model": "cosine_acuracy"})
        ),
        "--metric-for-best-model `cosine_acuracy` is not among the metrics of the evaluations: give one of eval_loss, eval_triplets_cosine_accuracy"
    );
}

#[test]
fn data_that_an_evaluator_refuses_is_named() {
    let mut model = tiny(0.0);
    let loss = loss("cosent");
    let data = read("scored.csv", &model);
    let one = dataset(
        "one-score",
        &[&["a ferry"], &["a boat"]],
        Some(Labels::Float(vec![0.7])),
    );
    let one = evaluation(&model, tokenized(&model, one));
    let root = tempfile::tempdir().unwrap();
    let error = Trainer::new(
        &mut model,
        loss.as_ref(),
        &data,
        Some(&one),
        arguments(&json!({"eval-strategy": "epoch"})),
        RunFolder::create(root.path()).unwrap(),
        &|| false,
    )
    .map(drop)
    .unwrap_err();
    let TrainError::Arguments(problem) = error else {
        panic!("{error}");
    };
    assert!(
        problem.starts_with("--eval-data one-score, 1 row: ")
            && problem.contains("a correlation needs 2 rows or more"),
        "{problem}"
    );
}

/// Notes the steps that taught nothing.
struct Notes(Rc<RefCell<Vec<u64>>>);

impl Observer for Notes {
    fn on(&mut self, event: &Event<'_>) -> Result<(), TrainError> {
        if let Event::NothingLearnt { step } = event {
            self.0.borrow_mut().push(*step);
        }
        Ok(())
    }
}

/// The steps of a run on these pairs that were told to have taught nothing.
fn nothing_learnt(
    anchors: &[&str],
    positives: &[&str],
    loss_name: &str,
    changes: &Value,
) -> Vec<u64> {
    let mut model = tiny(0.0);
    let data = tokenized(&model, dataset("pairs", &[anchors, positives], None));
    let loss = loss(loss_name);
    let root = tempfile::tempdir().unwrap();
    let steps = Rc::default();
    let mut trainer = Trainer::new(
        &mut model,
        loss.as_ref(),
        &data,
        None,
        arguments(changes),
        RunFolder::create(root.path()).unwrap(),
        &|| false,
    )
    .unwrap();
    trainer.observe(Notes(Rc::clone(&steps)));
    trainer.train().unwrap();
    drop(trainer);
    steps.take()
}

#[test]
fn a_batch_with_nothing_to_compare_is_told_once() {
    let anchors = ["a ferry", "a ladder", "a goat"];
    let positives = ["a boat", "steps", "an animal"];
    let one_epoch = json!({"num-train-epochs": 2, "per-device-train-batch-size": 1});
    assert_eq!(
        nothing_learnt(&anchors, &positives, "mnrl", &one_epoch),
        [1]
    );
    // The third row is alone in the last batch of an epoch.
    let of_two = json!({"num-train-epochs": 2, "per-device-train-batch-size": 2});
    assert_eq!(nothing_learnt(&anchors, &positives, "mnrl", &of_two), [2]);
    let of_three = json!({"num-train-epochs": 2, "per-device-train-batch-size": 3});
    assert!(nothing_learnt(&anchors, &positives, "mnrl", &of_three).is_empty());
    // Rows with the same anchor never share a batch.
    let no_duplicates = json!({"num-train-epochs": 1, "batch-sampler": "no_duplicates"});
    let same = ["a ferry"; 3];
    assert_eq!(
        nothing_learnt(&same, &positives, "mnrl", &no_duplicates),
        [1]
    );
}

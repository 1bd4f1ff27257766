//! Losses that need more than embeddings and labels, and several data sets: against the runs of
//! sentence-transformers 6.2.0 (`fixtures/make_loss_fixtures.py`), and that every loss can be trained at all.

mod support;

use std::path::Path;

use data::Labels;
use losses::Loss;
use model::{Compute, Engine, SentenceTransformer};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use support::{arguments, fixture, load, loss, read, read_evaluation, tiny};
use tch::Tensor;
use train::{
    Checkpoint, Evaluation, LOSS_WEIGHTS, Objective, RunFolder, RunOutcome, Tasks, Trainer,
    TrainingData,
};

/// Relative, of each loss and each norm of a gradient.
const TOLERANCE: f64 = 1e-3;

/// The same of the losses alone, in the runs of sixty steps that are about the order of batches.
const OF_SIXTY: f64 = 1e-4;

/// A run of upstream's trainer. Without a name for the only data set or loss the key is empty.
#[derive(Deserialize)]
struct Run {
    name: String,
    train_data: Map<String, Value>,
    losses: Map<String, Value>,
    arguments: Value,
    log: Vec<Map<String, Value>>,
    /// The types of the model and of the guide, where they are not the tiny MPNet.
    model: Option<String>,
    guide: Option<String>,
}

/// Trains in `folder` and returns the log, without what is measured by the clock.
fn train(
    model: &mut SentenceTransformer,
    data: &[(String, TrainingData)],
    evaluations: &[(String, Evaluation)],
    losses: &[(String, Box<dyn Loss>)],
    changes: &Value,
    folder: &Path,
    resume: Option<u64>,
) -> Vec<Map<String, Value>> {
    train_with(
        &tiny(0.0),
        model,
        data,
        evaluations,
        losses,
        changes,
        folder,
        resume,
    )
}

/// As [`train`], with another guide.
#[expect(clippy::too_many_arguments, reason = "each is another part of a run")]
fn train_with(
    guide: &SentenceTransformer,
    model: &mut SentenceTransformer,
    data: &[(String, TrainingData)],
    evaluations: &[(String, Evaluation)],
    losses: &[(String, Box<dyn Loss>)],
    changes: &Value,
    folder: &Path,
    resume: Option<u64>,
) -> Vec<Map<String, Value>> {
    let objectives = losses.iter().map(|(name, loss)| Objective {
        name: (!name.is_empty()).then_some(name.as_str()),
        loss: loss.as_ref(),
        guide: loss.requirements().guide.then_some(guide),
    });
    let objectives = objectives.collect();
    let place = |key: &str| losses.iter().position(|(name, _)| name == key).unwrap_or(0);
    let tasks = Tasks {
        objectives,
        training: data.iter().map(|(key, data)| (data, place(key))).collect(),
        evaluations: evaluations
            .iter()
            .map(|(key, data)| (data, place(key)))
            .collect(),
    };
    let folder = RunFolder::create(folder).unwrap();
    let mut trainer =
        Trainer::with_tasks(model, tasks, arguments(changes), folder.clone(), &|| false).unwrap();
    if let Some(step) = resume {
        let checkpoint = Checkpoint::open(&folder.checkpoint(step)).unwrap();
        assert!(trainer.resume(&checkpoint, false).unwrap().is_empty());
    }
    assert!(matches!(trainer.train().unwrap(), RunOutcome::Finished(_)));
    let is_speed = |key: &str| key.ends_with("runtime") || key.ends_with("per_second");
    let log = trainer.state().log_history.iter();
    log.map(|entry| {
        let kept = entry.iter().filter(|(key, _)| !is_speed(key));
        kept.map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    })
    .collect()
}

/// Repeats the run called `name` and compares all that it logs.
fn check(name: &str) {
    let runs = fs_err::read_to_string(fixture("loss_runs.json")).unwrap();
    let runs: Vec<Run> = serde_json::from_str(&runs).unwrap();
    let run = runs.into_iter().find(|run| run.name == name).unwrap();
    check_run(&run, tiny(0.0));
}

/// Repeats a run and compares all that it logs.
fn check_run(run: &Run, mut model: SentenceTransformer) {
    let name = &run.name;
    let guide = match &run.guide {
        Some(model_type) => load(&format!("encoders/{model_type}"), 0.0),
        None => tiny(0.0),
    };
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let data: Vec<_> = run
        .train_data
        .iter()
        .map(|(key, file)| (key.clone(), read(&text(file), &model)))
        .collect();
    let mut losses = Vec::new();
    for (key, loss_text) in &run.losses {
        // The fixtures' guides have a temperature that their text leaves out.
        let with_temperature = text(loss_text).replace("guide=TINY", "guide=TINY,temperature=0.05");
        losses.push((key.clone(), loss(&with_temperature)));
    }
    let mut i = 0;
    for (_, parameter) in losses.iter().flat_map(|(_, loss)| loss.parameters()) {
        let n = parameter.numel();
        let values: Vec<f32> = (i + 1..=i + n)
            .map(|i| ((i as f64).sin() * 0.1) as f32)
            .collect();
        let values = Tensor::from_slice(&values).view_as(&parameter);
        tch::no_grad(|| parameter.shallow_clone().copy_(&values));
        i += n;
    }
    let root = tempfile::tempdir().unwrap();
    let log = train_with(
        &guide,
        &mut model,
        &data,
        &[],
        &losses,
        &run.arguments,
        root.path(),
        None,
    );
    assert_eq!(log.len(), run.log.len(), "{name}: entries of the log");
    let mut largest: f64 = 0.0;
    for (found, expected) in log.iter().zip(&run.log) {
        assert_eq!(found["step"], expected["step"], "{name}");
        for key in ["loss", "grad_norm", "learning_rate", "train_loss"] {
            let Some(expected) = expected.get(key).and_then(Value::as_f64) else {
                continue;
            };
            let value = found[key].as_f64().unwrap();
            let deviation = (value - expected).abs() / expected.abs().max(1e-3);
            largest = largest.max(deviation);
            let is_loss = key.ends_with("loss") && name.starts_with("sixty");
            assert!(
                deviation <= if is_loss { OF_SIXTY } else { TOLERANCE },
                "{name}, step {}: {key} is {value}, not {expected}; largest until here {largest:e}",
                found["step"]
            );
        }
    }
}

#[test]
fn softmax() {
    check("softmax");
    check("softmax_clipped");
}

#[test]
fn gist() {
    check("gist");
    check("cached_gist");
}

#[test]
fn adaptive_layer() {
    check("adaptive_layer");
}

#[test]
fn matryoshka() {
    check("matryoshka");
    check("matryoshka_2d");
}

#[test]
fn margin_mse() {
    check("margin_mse");
}

#[test]
fn cached_mnr() {
    check("cached_mnr");
}

#[test]
fn several_data_sets() {
    check("proportional");
    check("round_robin");
    check("one_loss_for_both");
}

/// Sixty steps of each sampler, with and without a seed of its own for the data.
#[test]
fn sixty_steps_of_each_sampler() {
    check("sixty_default");
    check("sixty_no_duplicates");
    check("sixty_no_duplicates_drop_last");
    check("sixty_group_by_label");
}

#[test]
fn sixty_steps_of_two_data_sets() {
    check("sixty_proportional");
    check("sixty_round_robin");
    check("sixty_proportional_no_duplicates");
    check("sixty_round_robin_no_duplicates");
}

/// Every type with losses that read earlier layers, with a guide, and with gradient caching, on both engines.
#[test]
fn every_type_of_encoder() {
    let runs = fs_err::read_to_string(fixture("encoder_loss_runs.json")).unwrap();
    let runs: Vec<Run> = serde_json::from_str(&runs).unwrap();
    assert_eq!(runs.len(), 15);
    for run in &runs {
        for engine in [Engine::Kernels, Engine::Libtorch] {
            let model_type = run.model.as_deref().unwrap();
            let mut model = load(&format!("encoders/{model_type}"), 0.0);
            let compute = Compute {
                engine,
                ..Compute::default()
            };
            model.set_compute(compute).unwrap();
            check_run(run, model);
        }
    }
}

/// A guide whose tokenizer is of another kind reads the same texts: each engine has the losses of the other.
#[test]
fn guides_of_other_types() {
    for (model_type, guide) in [
        ("bert", "modernbert"),
        ("modernbert", "xlm-roberta"),
        ("xlm-roberta", "distilbert"),
    ] {
        let guide = load(&format!("encoders/{guide}"), 0.0);
        let losses_of = |engine| -> Vec<f64> {
            let mut model = load(&format!("encoders/{model_type}"), 0.0);
            let compute = Compute {
                engine,
                ..Compute::default()
            };
            model.set_compute(compute).unwrap();
            let data = [(String::new(), read("triplets.jsonl", &model))];
            let losses = [(String::new(), loss("gist-embed:guide=OTHER"))];
            let changes = json!({
                "learning-rate": 1e-3, "max-steps": 30, "logging-steps": 10, "save-strategy": "no",
            });
            let root = tempfile::tempdir().unwrap();
            let (model, folder) = (&mut model, root.path());
            let log = train_with(&guide, model, &data, &[], &losses, &changes, folder, None);
            let losses = log.iter().filter_map(|entry| entry.get("loss")?.as_f64());
            losses.collect()
        };
        let [found, expected] = [Engine::Kernels, Engine::Libtorch].map(losses_of);
        assert_eq!(found.len(), 3, "{model_type}");
        assert!(found[2] < found[0], "{model_type}: {found:?}");
        for (found, expected) in found.iter().zip(&expected) {
            let off = (found / expected - 1.0).abs();
            assert!(off < TOLERANCE, "{model_type}: {found} and {expected}");
        }
    }
}

fn unlabelled(mut data: TrainingData, n_columns: usize) -> TrainingData {
    data.dataset.labels = None;
    data.tokens.labels = None;
    data.dataset.columns.truncate(n_columns);
    data.tokens.columns.truncate(n_columns);
    data
}

fn labelled(data: TrainingData, n_columns: usize, labels: Labels) -> TrainingData {
    let mut data = unlabelled(data, n_columns);
    data.dataset.labels = Some(labels.clone());
    data.tokens.labels = Some(labels);
    data
}

/// Over 60 steps the loss of each falls: the mean of the last 15 is below that of the first 15.
#[test]
fn every_loss_can_be_trained() {
    let model = tiny(0.0);
    let triplets = || read("triplets.jsonl", &model);
    let n_rows = triplets().dataset.n_rows();
    let vectors = |width: usize| Labels::Vector {
        values: (0..n_rows * width)
            .map(|i| ((i % (5 * width)) as f32 * 0.7).sin())
            .collect(),
        shape: vec![width],
    };
    for name in losses::names() {
        let (text, data, kind) = match name {
            "triplet" => (name.to_owned(), unlabelled(triplets(), 3), "no_duplicates"),
            "cosine-similarity" | "cosent" | "angle" => {
                (name.to_owned(), read("scored.csv", &model), "batch_sampler")
            }
            "contrastive" | "online-contrastive" => {
                let data = read("scored.csv", &model);
                let scores = data.dataset.labels.clone().unwrap().into_f32();
                let labels = scores.iter().map(|&score| i64::from(score > 0.5)).collect();
                (
                    name.to_owned(),
                    labelled(data, 2, Labels::Integer(labels)),
                    "batch_sampler",
                )
            }
            "softmax" => (
                name.to_owned(),
                read("classes.csv", &model),
                "batch_sampler",
            ),
            "mse" => (
                name.to_owned(),
                labelled(triplets(), 1, vectors(32)),
                "batch_sampler",
            ),
            "embed-distill" => (
                format!("{name}:projection_dim=6"),
                labelled(triplets(), 2, vectors(6)),
                "batch_sampler",
            ),
            "margin-mse" | "distill-kl-div" => (
                name.to_owned(),
                read("margins.jsonl", &model),
                "batch_sampler",
            ),
            "gist-embed" | "cached-gist-embed" => {
                (format!("{name}:guide=TINY"), triplets(), "batch_sampler")
            }
            name if name.starts_with("batch-") => {
                let labels = (0..n_rows as i64).map(|row| row % 5).collect();
                let data = labelled(triplets(), 1, Labels::Integer(labels));
                (name.to_owned(), data, "group_by_label")
            }
            "mega-batch-margin" | "global-orthogonal-regularization" => {
                (name.to_owned(), unlabelled(triplets(), 2), "no_duplicates")
            }
            "matryoshka" => (
                "matryoshka:dims=32+8,n_dims_per_step=1/mnrl".to_owned(),
                triplets(),
                "batch_sampler",
            ),
            "matryoshka-2d" => (
                "matryoshka-2d:dims=32+8/cosent".to_owned(),
                read("scored.csv", &model),
                "batch_sampler",
            ),
            "adaptive-layer" => (
                "adaptive-layer/gist:guide=TINY".to_owned(),
                triplets(),
                "batch_sampler",
            ),
            name => (name.to_owned(), triplets(), "batch_sampler"),
        };
        let root = tempfile::tempdir().unwrap();
        let changes = json!({
            "learning-rate": 2e-3, "max-steps": 60, "logging-steps": 15, "save-strategy": "no",
            "batch-sampler": kind,
        });
        let (data, losses) = ([(String::new(), data)], [(String::new(), loss(&text))]);
        let log = train(
            &mut tiny(0.0),
            &data,
            &[],
            &losses,
            &changes,
            root.path(),
            None,
        );
        let values: Vec<f64> = log
            .iter()
            .filter_map(|entry| entry.get("loss")?.as_f64())
            .collect();
        assert_eq!(values.len(), 4, "{text}");
        assert!(values[3] < values[0], "{text}: {values:?}");
    }
}

/// A run with two sets, dropout, layers and dimensions drawn, and a classifier: resumed, it ends with the same
/// bits, in the model's weights and the loss's.
#[test]
fn several_losses_resume_exactly() {
    let losses = || {
        vec![
            ("a".to_owned(), loss("softmax:num_labels=3")),
            ("b".to_owned(), loss("matryoshka-2d:dims=32+16+8/mnrl")),
        ]
    };
    let model = tiny(0.0);
    let data = vec![
        ("a".to_owned(), read("classes.csv", &model)),
        ("b".to_owned(), read("pairs.csv", &model)),
    ];
    let dev = vec![
        (
            "b".to_owned(),
            read_evaluation("triplets-dev.jsonl", &model),
        ),
        ("a".to_owned(), read_evaluation("scored.csv", &model)),
    ];
    let changes = json!({
        "learning-rate": 1e-3, "max-steps": 24, "logging-steps": 4, "save-steps": 10,
        "eval-strategy": "steps", "eval-steps": 8,
        "gradient-accumulation-steps": 2, "weight-decay": 0.1,
    });
    let root = tempfile::tempdir().unwrap();
    let whole = losses();
    let log = train(
        &mut tiny(0.1),
        &data,
        &dev,
        &whole,
        &changes,
        root.path(),
        None,
    );
    let file = |name: &str| fs_err::read(root.path().join("final").join(name)).unwrap();
    let expected = ["model.safetensors", LOSS_WEIGHTS].map(file);
    let names: Vec<String> = Tensor::read_safetensors(root.path().join("final").join(LOSS_WEIGHTS))
        .unwrap()
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert!(
        names.contains(&"a.classifier.weight".to_owned()),
        "{names:?}"
    );

    let again = losses();
    let resumed = train(
        &mut tiny(0.1),
        &data,
        &dev,
        &again,
        &changes,
        root.path(),
        Some(10),
    );
    assert_eq!(resumed, log);
    let keys: Vec<&str> = log
        .iter()
        .flat_map(|entry| entry.keys())
        .map(String::as_str)
        .collect();
    assert!(
        keys.contains(&"eval_triplets-dev_loss")
            && keys.contains(&"eval_triplets-dev_cosine_accuracy")
    );
    // Scores are no classes, so there is an evaluator and no loss.
    assert!(keys.contains(&"eval_scored_spearman_cosine") && !keys.contains(&"eval_scored_loss"));
    assert!(["model.safetensors", LOSS_WEIGHTS].map(file) == expected);
    let other = losses();
    let start = &other[0].1.parameters()[0].1;
    assert_ne!(
        start,
        &again[0].1.parameters()[0].1,
        "the classifier was trained"
    );
    assert_eq!(whole[0].1.parameters()[0].1, again[0].1.parameters()[0].1);
}

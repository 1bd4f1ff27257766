//! Several ranks, which are threads here, against one process that makes the same batches.

mod support;

use std::{
    collections::BTreeMap,
    net::TcpListener,
    os::fd::IntoRawFd,
    path::Path,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use serde::Deserialize;
use serde_json::{Value, json};
use shim::ranks::Server;
use support::{arguments, fixture, loss, read, read_evaluation, tiny};
use train::{
    Checkpoint, Facts, Group, Meeting, Objective, RunFolder, RunOutcome, Tasks, TrainError,
    Trainer,
    events::{Event, Observer, Step},
};

const TIMEOUT: Duration = Duration::from_secs(30);

/// A place for `size` ranks to meet.
fn meetings(size: usize) -> Vec<Meeting> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let first = Server::Inherited(listener.into_raw_fd());
    let meeting = |rank| Meeting {
        rank,
        size,
        host: "127.0.0.1".to_owned(),
        port,
        server: if rank == 0 { first } else { Server::Other },
        attempt: "0".to_owned(),
        interface: None,
        timeout: TIMEOUT,
    };
    (0..size).map(meeting).collect()
}

/// Results of `work` on each rank, in a group of `size`, or alone.
fn on_ranks<T: Send>(size: usize, work: impl Fn(usize, Option<&Group>) -> T + Sync) -> Vec<T> {
    if size == 1 {
        return vec![work(0, None)];
    }
    let work = &work;
    thread::scope(|scope| {
        let threads: Vec<_> = meetings(size)
            .into_iter()
            .map(|meeting| {
                scope.spawn(move || {
                    let group = Group::join(&meeting, &Facts::new()).unwrap();
                    let result = work(meeting.rank, Some(&group));
                    // The store goes with rank 0. After an error the others do not come.
                    let _ = group.barrier();
                    group.leave(None);
                    result
                })
            })
            .collect();
        let results = threads.into_iter().map(|thread| thread.join().unwrap());
        results.collect()
    })
}

/// A run to be made by any number of ranks.
struct Run<'r> {
    loss: &'r str,
    data: &'r [&'r str],
    dropout: f64,
    changes: Value,
    folder: &'r Path,
    resume: Option<u64>,
}

/// A rank's view of a run.
#[derive(Debug)]
struct Made {
    /// Loss, norm and rows of each step.
    steps: Vec<(f64, f64, usize)>,
    weights: Vec<f32>,
    last_step: u64,
    n_steps: u64,
}

struct Steps<'s>(&'s Mutex<Vec<(f64, f64, usize)>>);

impl Observer for Steps<'_> {
    fn on(&mut self, event: &Event<'_>) -> Result<(), TrainError> {
        if let Event::Step(Step {
            loss,
            grad_norm,
            n_rows,
            ..
        }) = event
        {
            self.0.lock().unwrap().push((*loss, *grad_norm, *n_rows));
        }
        Ok(())
    }
}

/// The weights of losses are drawn by libtorch's one generator.
static DRAWING: Mutex<()> = Mutex::new(());

impl Run<'_> {
    fn new<'r>(loss: &'r str, data: &'r [&'r str], changes: Value, folder: &'r Path) -> Run<'r> {
        Run {
            loss,
            data,
            dropout: 0.0,
            changes,
            folder,
            resume: None,
        }
    }

    fn on(&self, size: usize) -> Vec<Made> {
        on_ranks(size, |_, group| self.make(group).unwrap())
    }

    fn make(&self, group: Option<&Group>) -> Result<Made, TrainError> {
        let mut model = tiny(self.dropout);
        let guide = tiny(0.0);
        let data: Vec<_> = self.data.iter().map(|name| read(name, &model)).collect();
        let loss = {
            let _one_at_a_time = DRAWING.lock().unwrap();
            loss(self.loss)
        };
        let is_evaluated = self.changes.get("eval-strategy").is_some();
        let evaluation = is_evaluated.then(|| read_evaluation("triplets-dev.jsonl", &model));
        let objective = Objective {
            name: None,
            loss: loss.as_ref(),
            guide: loss.requirements().guide.then_some(&guide),
        };
        let tasks = Tasks {
            objectives: vec![objective],
            training: data.iter().map(|data| (data, 0)).collect(),
            evaluations: evaluation.iter().map(|data| (data, 0)).collect(),
        };
        let folder = match group.is_none_or(Group::is_first) {
            true => RunFolder::create(self.folder)?,
            false => RunFolder::of_first_rank(self.folder),
        };
        let steps = Mutex::new(Vec::new());
        let mut trainer = Trainer::in_group(
            &mut model,
            tasks,
            arguments(&self.changes),
            folder.clone(),
            &|| false,
            group,
        )?;
        if let Some(step) = self.resume.filter(|_| group.is_none_or(Group::is_first)) {
            let checkpoint = Checkpoint::open(&folder.checkpoint(step))?;
            trainer.resume(&checkpoint, true)?;
        }
        trainer.observe(Steps(&steps));
        assert!(matches!(trainer.train()?, RunOutcome::Finished(_)));
        let last_step = trainer.state().global_step;
        let n_steps = trainer.plan().n_steps;
        drop(trainer);
        let mut weights = Vec::<f32>::try_from(model.parameters().flat()).unwrap();
        for (_, weight) in loss.parameters() {
            weights.extend(Vec::<f32>::try_from(weight.reshape([-1])).unwrap());
        }
        Ok(Made {
            steps: steps.into_inner().unwrap(),
            weights,
            last_step,
            n_steps,
        })
    }
}

fn relative(found: &[f32], expected: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let difference: f64 = found.iter().zip(expected).map(|(f, e)| square(f - e)).sum();
    let norm: f64 = expected.iter().map(|&e| square(e)).sum();
    (difference / norm).sqrt()
}

/// Fails unless all ranks have the same bits, and returns the first.
#[track_caller]
fn same_on_all(mut ranks: Vec<Made>) -> Made {
    let first = ranks.remove(0);
    for other in ranks {
        assert!(first.weights == other.weights, "ranks have drifted apart");
        assert_eq!(first.steps, other.steps);
        assert_eq!(first.last_step, other.last_step);
    }
    first
}

#[track_caller]
fn assert_close(found: &Made, expected: &Made, tolerance: f64, what: &str) {
    assert_eq!(found.steps.len(), expected.steps.len(), "{what}");
    for (step, (found, expected)) in found.steps.iter().zip(&expected.steps).enumerate() {
        assert_eq!(found.2, expected.2, "{what}: rows of step {step}");
        for (f, e) in [(found.0, expected.0), (found.1, expected.1)] {
            let is_close = (f - e).abs() <= tolerance * e.abs().max(1e-3);
            assert!(is_close, "{what}: {f} and not {e} in step {step}");
        }
    }
}

/// Two ranks make the batches that one process makes two of in a step.
#[test]
fn ranks_are_batches_whose_gradients_add_up() {
    let root = tempfile::tempdir().unwrap();
    for (loss, data, sampler) in [
        ("mnrl", &["triplets.jsonl"][..], "batch_sampler"),
        ("mnrl", &["triplets.jsonl"], "no_duplicates"),
        // A loss with weights of its own.
        ("softmax:num_labels=3", &["classes.csv"], "batch_sampler"),
        (
            "matryoshka:dims=32+8,n_dims_per_step=1/mnrl",
            &["triplets.jsonl"],
            "batch_sampler",
        ),
    ] {
        let changes = |n: usize| {
            json!({
                "per-device-train-batch-size": 4, "max-steps": 8, "learning-rate": 1e-3,
                "save-strategy": "no", "batch-sampler": sampler, "gradient-accumulation-steps": n,
                "dataloader-drop-last": true,
            })
        };
        let run = |n: usize| Run {
            dropout: 0.3,
            ..Run::new(loss, data, changes(n), root.path())
        };
        let alone = run(2).on(1).remove(0);
        let together = same_on_all(run(1).on(2));
        assert_close(&together, &alone, 2e-5, loss);
        let difference = relative(&together.weights, &alone.weights);
        assert!(
            difference < 1e-4,
            "{loss}: weights differ by {difference:e}"
        );
        assert_eq!(together.n_steps, 8);
    }
}

/// Batches of several data sets are dealt out too.
#[test]
fn ranks_share_several_data_sets() {
    let root = tempfile::tempdir().unwrap();
    // Of 33 and 7 batches: all of them, or seven of each.
    for (sampler, n_steps) in [("proportional", 20), ("round_robin", 7)] {
        let changes = |n: usize| {
            json!({
                "per-device-train-batch-size": 8, "num-train-epochs": 1.0, "learning-rate": 1e-3,
                "save-strategy": "no", "multi-dataset-batch-sampler": sampler,
                "gradient-accumulation-steps": n, "dataloader-drop-last": true,
            })
        };
        let data = ["triplets.jsonl", "triplets-dev.jsonl"];
        let run = |n: usize| Run::new("mnrl", &data, changes(n), root.path());
        let alone = run(2).on(1).remove(0);
        let together = same_on_all(run(1).on(2));
        // One process makes what is left over as well.
        let alone = Made {
            steps: alone.steps[..n_steps].to_vec(),
            ..alone
        };
        assert_close(&together, &alone, 1e-4, sampler);
    }
}

/// With gathering, two ranks have the gradient of one process with the rows of both in a batch.
#[test]
fn gathered_ranks_are_one_batch() {
    let root = tempfile::tempdir().unwrap();
    let gathers = "gather_across_devices=true";
    let every = "directions=query_to_doc+query_to_query+doc_to_query+doc_to_doc";
    let gist = "guide=TINY,temperature=0.05,contrast_anchors=false";
    for loss in [
        format!("mnrl:{gathers}"),
        format!("mnrl:{gathers},{every},hardness_mode=in_batch_negatives,hardness_strength=5"),
        format!("multiple-negatives-symmetric-ranking:{gathers}"),
        format!("cached-multiple-negatives-ranking:{gathers},mini_batch_size=1"),
        format!("cached-multiple-negatives-symmetric-ranking:{gathers},mini_batch_size=3"),
        format!("gist-embed:{gathers},{gist}"),
        format!("cached-gist-embed:{gathers},{gist},margin=0.1,mini_batch_size=2"),
        format!("matryoshka:dims=32+16+8,n_dims_per_step=2/mnrl:{gathers}"),
        format!("adaptive-layer:n_layers_per_step=1/mnrl:{gathers}"),
    ] {
        for (size, n_micro) in [(2, 1), (3, 2)] {
            // One step of plain descent, so that the change of the weights is the gradient.
            let changes = |rows: usize| {
                json!({
                    "per-device-train-batch-size": rows, "max-steps": 1, "learning-rate": 1.0,
                    "lr-scheduler-type": "constant", "optim": "sgd", "max-grad-norm": 0.0,
                    "save-strategy": "no", "gradient-accumulation-steps": n_micro,
                })
            };
            let data = ["triplets.jsonl"];
            let run = |rows: usize| Run::new(&loss, &data, changes(rows), root.path());
            let start = Vec::<f32>::try_from(tiny(0.0).parameters().flat()).unwrap();
            let gradient = |made: &Made| -> Vec<f32> {
                let pairs = made.weights.iter().zip(&start);
                pairs.map(|(now, before)| before - now).collect()
            };
            let alone = run(4 * size).on(1).remove(0);
            let together = same_on_all(run(4).on(size));
            let difference = relative(&gradient(&together), &gradient(&alone));
            assert!(difference < 1e-5, "{loss}, {size} ranks: {difference:e}");
            assert_close(&together, &alone, 1e-5, &loss);
        }
    }
}

/// The difference that gathering makes, without which the test above would show nothing.
#[test]
fn without_gathering_it_is_another_loss() {
    let root = tempfile::tempdir().unwrap();
    let changes = |rows: usize| {
        json!({
            "per-device-train-batch-size": rows, "max-steps": 1, "save-strategy": "no",
        })
    };
    let data = ["triplets.jsonl"];
    let alone = Run::new("mnrl", &data, changes(8), root.path())
        .on(1)
        .remove(0);
    let together = same_on_all(Run::new("mnrl", &data, changes(4), root.path()).on(2));
    let (found, expected) = (together.steps[0].0, alone.steps[0].0);
    assert!(
        (found - expected).abs() > 0.05 * expected,
        "{found} and {expected}"
    );
}

/// Rank 0 evaluates, and all stop where it decides so; the best weights are its final model's.
#[test]
fn early_stopping_stops_all() {
    let root = tempfile::tempdir().unwrap();
    let changes = json!({
        "per-device-train-batch-size": 4, "max-steps": 60, "learning-rate": 0.5,
        "eval-strategy": "steps", "eval-steps": 2, "save-steps": 2, "save-total-limit": 1,
        "early-stopping-patience": 2, "load-best-model-at-end": true,
    });
    let run = Run::new("mnrl", &["triplets.jsonl"], changes, root.path());
    let made = run.on(3);
    assert!(made[0].last_step < 60, "{}", made[0].last_step);
    assert!(made.iter().all(|rank| rank.last_step == made[0].last_step));
    assert!(root.path().join("final/model.safetensors").exists());
}

/// A run that other ranks go on with takes up the data where it was, and makes as many steps as are left.
#[test]
fn another_number_of_ranks_goes_on_with_the_same_data() {
    let root = tempfile::tempdir().unwrap();
    let changes = json!({
        "per-device-train-batch-size": 10, "num-train-epochs": 2.0, "learning-rate": 1e-3,
        "save-steps": 6, "seed": 7,
    });
    let data = ["triplets.jsonl"];
    let run = |resume: Option<u64>| Run {
        resume,
        ..Run::new("mnrl", &data, changes.clone(), root.path())
    };
    // 270 rows: 13 steps of two batches in an epoch.
    let before = same_on_all(run(None).on(2));
    assert_eq!((before.last_step, before.n_steps), (26, 26));
    // Twelve of the 27 batches of an epoch are made, so 15 and 27 are left.
    let after = run(Some(6)).on(1).remove(0);
    assert_eq!((after.last_step, after.n_steps), (48, 48));
    assert_eq!(after.steps.len(), 42);
    // Four of nine steps are made, so five and nine are left.
    let after = same_on_all(run(Some(6)).on(3));
    assert_eq!((after.last_step, after.n_steps), (20, 20));
}

/// A resume of the same ranks has the same bits.
#[test]
fn ranks_go_on_bit_for_bit() {
    let root = tempfile::tempdir().unwrap();
    let changes = json!({
        "per-device-train-batch-size": 4, "max-steps": 10, "learning-rate": 1e-3, "save-steps": 4,
        "gradient-accumulation-steps": 2,
    });
    let data = ["classes.csv"];
    let run = |resume: Option<u64>| Run {
        dropout: 0.1,
        resume,
        ..Run::new("softmax:num_labels=3", &data, changes.clone(), root.path())
    };
    let whole = same_on_all(run(None).on(2));
    let resumed = same_on_all(run(Some(4)).on(2));
    assert_eq!(resumed.steps, whole.steps[4..]);
    assert!(resumed.weights == whole.weights);
}

/// A run of two ranks of upstream's trainer (`fixtures/make_rank_fixtures.py`).
#[derive(Deserialize)]
struct Upstream {
    name: String,
    loss: String,
    rows: usize,
    two_sets: bool,
    arguments: Value,
    /// Loss and norm of each step.
    log: Vec<(f64, f64)>,
}

/// Relative, of each loss and each norm.
const UPSTREAM: f64 = 1e-4;

/// The runs of upstream's two ranks, whose batches a test beside the sampler compares.
#[test]
fn two_ranks_log_what_upstreams_do() {
    let runs = fs_err::read_to_string(fixture("rank_runs.json")).unwrap();
    let runs: Vec<Upstream> = serde_json::from_str(&runs).unwrap();
    let triplets = fs_err::read_to_string(fixture("triplets.jsonl")).unwrap();
    let lines: Vec<&str> = triplets.lines().collect();
    let root = tempfile::tempdir().unwrap();
    for upstream in runs {
        let mut data = Vec::new();
        let n_sets = if upstream.two_sets { 2 } else { 1 };
        let parts = [
            &lines[..upstream.rows],
            &lines[upstream.rows..upstream.rows + 9],
        ];
        for (i, lines) in parts.iter().take(n_sets).enumerate() {
            let path = root.path().join(format!("rows-{i}.jsonl"));
            fs_err::write(&path, lines.join("\n")).unwrap();
            data.push(path.to_str().unwrap().to_owned());
        }
        let data: Vec<&str> = data.iter().map(String::as_str).collect();
        let mut changes = upstream.arguments.clone();
        changes["save-strategy"] = json!("no");
        let run = root.path().join("run");
        let made = same_on_all(Run::new(&upstream.loss, &data, changes, &run).on(2));
        let name = &upstream.name;
        assert_eq!(made.steps.len(), upstream.log.len(), "{name}");
        let mut worst = 0f64;
        for (found, expected) in made.steps.iter().zip(&upstream.log) {
            for (found, expected) in [(found.0, expected.0), (found.1, expected.1)] {
                worst = worst.max((found - expected).abs() / expected.abs());
            }
        }
        assert!(worst < UPSTREAM, "{name}: {worst:e}");
    }
}

/// The message of each rank of two, which join with these facts.
fn joining(facts: [&[(&str, &str)]; 2]) -> Vec<String> {
    thread::scope(|scope| {
        let threads: Vec<_> = meetings(2)
            .into_iter()
            .zip(facts)
            .map(|(meeting, facts)| {
                scope.spawn(move || {
                    let facts: BTreeMap<_, _> = facts
                        .iter()
                        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                        .collect();
                    match Group::join(&meeting, &facts) {
                        Ok(_) => String::new(),
                        Err(error) => error.to_string(),
                    }
                })
            })
            .collect();
        let messages = threads.into_iter().map(|thread| thread.join().unwrap());
        messages.collect()
    })
}

#[test]
fn a_rank_that_was_started_differently_is_named() {
    let same = [("version of sentune", "0.1.0"), ("--seed", "1")];
    for (other, words) in [
        ([same[0], ("--seed", "2")], "--seed is 2 and not 1"),
        (
            [("version of sentune", "0.2.0"), same[1]],
            "version of sentune is 0.2.0 and not 0.1.0",
        ),
        (
            [same[0], ("--lr", "2")],
            "--lr is 2 and not not set, --seed is not set and not 1",
        ),
    ] {
        for message in joining([&same, &other]) {
            assert!(
                message.starts_with("rank 1 differs from rank 0: ") && message.contains(words),
                "{message}"
            );
        }
    }
}

#[test]
fn a_rank_with_other_data_is_named() {
    let root = tempfile::tempdir().unwrap();
    let messages = on_ranks(2, |rank, group| {
        let data = [["triplets.jsonl"], ["triplets-dev.jsonl"]];
        let run = Run::new("mnrl", &data[rank], json!({}), root.path());
        run.make(group).unwrap_err().to_string()
    });
    for message in messages {
        assert!(
            message.starts_with("rank 1 differs from rank 0: training data is "),
            "{message}"
        );
    }
}

#[test]
fn what_ranks_can_not_do_is_said_before_the_first_step() {
    let root = tempfile::tempdir().unwrap();
    for (data, changes, words) in [
        (
            &["triplets.jsonl"][..],
            json!({"cuda-graphs": true}),
            "--cuda-graphs records steps",
        ),
        (
            &["triplets.jsonl", "pairs.csv"],
            json!({}),
            "gather_across_devices takes data sets with as many columns each",
        ),
        (
            &["triplets.jsonl"],
            json!({"per-device-train-batch-size": 200}),
            "make no batch of 200 for each of 2 ranks",
        ),
    ] {
        let loss = "mnrl:gather_across_devices=true";
        let run = Run::new(loss, data, changes, root.path());
        for message in on_ranks(2, |_, group| run.make(group).unwrap_err().to_string()) {
            assert!(message.contains(words), "{message}");
        }
    }
}

#[test]
fn a_rank_that_comes_twice_or_not_at_all_is_named() {
    let mut meetings = meetings(3);
    let short = Duration::from_secs(2);
    for meeting in &mut meetings {
        meeting.timeout = short;
    }
    let twice = Meeting {
        server: Server::Other,
        ..meetings[1].clone()
    };
    meetings[2] = twice;
    let mut messages: Vec<String> = thread::scope(|scope| {
        let join = |meeting: Meeting| {
            scope.spawn(move || {
                Group::join(&meeting, &Facts::new())
                    .unwrap_err()
                    .to_string()
            })
        };
        let threads: Vec<_> = meetings.into_iter().map(join).collect();
        let messages = threads.into_iter().map(|thread| thread.join().unwrap());
        messages.collect()
    });
    let first = messages.remove(0);
    assert!(
        first.starts_with("rank 2 of 3 did not come to 127.0.0.1:"),
        "{first}"
    );
    assert!(first.contains("within 2 s (--ddp-timeout)"), "{first}");
    let n_twice = messages
        .iter()
        .filter(|words| words.starts_with("rank 1 has come to 127"));
    assert_eq!(n_twice.count(), 1, "{messages:?}");
}

/// libtorch alone would try for up to twice as long.
#[test]
fn rank_0_that_does_not_come_is_an_error_at_the_time_out() {
    // An address at which no other test listens.
    let host = "127.0.0.2";
    let meeting = Meeting {
        host: host.to_owned(),
        port: TcpListener::bind((host, 0))
            .and_then(|listener| listener.local_addr())
            .unwrap()
            .port(),
        timeout: Duration::from_secs(3),
        ..meetings(2).remove(1)
    };
    let since = Instant::now();
    let error = Group::join(&meeting, &Facts::new()).unwrap_err();
    let waited = since.elapsed();
    let words = format!(
        "nobody answers at {host}:{} within 3 s (--ddp-timeout)",
        meeting.port
    );
    assert!(error.to_string().starts_with(&words), "{error}");
    assert!(waited >= meeting.timeout, "{waited:?}");
    assert!(waited < 3 * meeting.timeout / 2, "{waited:?}");
}

#[test]
fn a_taken_port_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let meeting = Meeting {
        port,
        server: Server::Own,
        ..meetings(2).remove(0)
    };
    let error = Group::join(&meeting, &Facts::new())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&format!("can't listen on port {port}")),
        "{error}"
    );
}

/// News of a rank that ends, as the others get them.
#[test]
fn a_rank_that_ends_is_named_to_all() {
    for (failure, words) in [
        (None, "rank 2 is gone: its process has ended without a word"),
        (Some("the disk\nis full"), "rank 2 failed: the disk is full"),
    ] {
        let messages: Vec<_> = thread::scope(|scope| {
            let join = |meeting: Meeting| {
                scope.spawn(move || {
                    let group = Group::join(&meeting, &Facts::new()).unwrap();
                    // One that hears of it earlier has not joined yet.
                    group.barrier().unwrap();
                    if meeting.rank == 2 {
                        if failure.is_some() {
                            group.leave(failure);
                        }
                        return None;
                    }
                    Some(group.barrier().unwrap_err().to_string())
                })
            };
            let threads: Vec<_> = meetings(3).into_iter().map(join).collect();
            let messages = threads.into_iter().map(|thread| thread.join().unwrap());
            messages.collect()
        });
        for message in messages.into_iter().flatten() {
            assert!(message.starts_with(words), "{message}");
        }
    }
}

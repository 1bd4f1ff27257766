//! Learning rates against those of transformers 5.24.

use serde::Deserialize;
use serde_json::Value;
use train::{Schedule, SchedulerKwargs, SchedulerType};

#[derive(Deserialize)]
struct Case {
    kind: SchedulerType,
    kwargs: SchedulerKwargs,
    n_warmup_steps: u64,
    n_steps: u64,
    rates: Vec<f64>,
}

/// `fixtures/make_schedule_fixtures.py` says how the rates were made.
#[test]
fn rates_are_those_of_transformers() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/schedules.json");
    let cases: Vec<Case> = serde_json::from_str(&fs_err::read_to_string(path).unwrap()).unwrap();
    assert_eq!(cases.len(), 38);
    for Case {
        kind,
        kwargs,
        n_warmup_steps,
        n_steps,
        rates,
    } in cases
    {
        let schedule = Schedule::new(kind, &kwargs, 5e-5, n_warmup_steps, n_steps).unwrap();
        assert_eq!(rates.len() as u64, n_steps);
        for (step, expected) in rates.into_iter().enumerate() {
            let rate = schedule.learning_rate(step as u64);
            assert!(
                (rate - expected).abs() < 1e-18,
                "{kind:?} {kwargs:?} step {step}: {rate} != {expected}"
            );
        }
    }
}

#[test]
fn bad_parameters_are_named() {
    let problem = |kind: SchedulerType, kwargs: Value| {
        let kwargs = kwargs.as_object().unwrap();
        let error = Schedule::new(kind, kwargs, 5e-5, 0, 10).unwrap_err();
        error.to_string()
    };
    let check = |kind, kwargs, part: &str| {
        let problem = problem(kind, kwargs);
        assert!(problem.contains(part), "{problem}");
    };
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    check(
        SchedulerType::Linear,
        json(r#"{"num_cycles": 2}"#),
        "--lr-scheduler-kwargs of --lr-scheduler-type linear: unknown field `num_cycles`",
    );
    check(
        SchedulerType::Cosine,
        json(r#"{"cycles": 2}"#),
        "unknown field `cycles`, expected `num_cycles`",
    );
    check(
        SchedulerType::Polynomial,
        json(r#"{"lr_end": 1e-4}"#),
        "lr_end is 0.0001: it must be below --learning-rate",
    );
    check(
        SchedulerType::CosineWithMinLr,
        json("{}"),
        "give min_lr, the lowest learning rate, or min_lr_rate",
    );
    check(
        SchedulerType::CosineWarmupWithMinLr,
        json(r#"{"min_lr": 1e-6, "min_lr_rate": 0.1}"#),
        "not both",
    );
    check(
        SchedulerType::WarmupStableDecay,
        json("{}"),
        "missing field `num_decay_steps`",
    );
    check(
        SchedulerType::WarmupStableDecay,
        json(r#"{"num_decay_steps": 2, "decay_type": "steep"}"#),
        "unknown variant `steep`, expected one of `linear`, `cosine`, `1-sqrt`",
    );
}

//! Merged weights against mergekit 0.1.5, tensor by tensor and through sentence-transformers' `merge`;
//! `fixtures/make_merge_fixtures.py` wrote the figures.

use std::collections::BTreeMap;

use model::{MergeMethod, SentenceTransformer};
use serde::Deserialize;
use tch::{Device, Kind, Tensor};

use crate::{fixture, tiny};

#[derive(Deserialize)]
struct Fixtures {
    tensors: OfTensors,
    models: Vec<OfModels>,
}

#[derive(Deserialize)]
struct OfTensors {
    states: Vec<BTreeMap<String, serde_json::Value>>,
    cases: Vec<OfTensor>,
}

#[derive(Deserialize)]
struct OfTensor {
    method: String,
    inputs: Vec<usize>,
    weights: Option<Vec<f64>>,
    t: Option<f64>,
    density: Option<f64>,
    lambda: Option<f64>,
    merged: BTreeMap<String, serde_json::Value>,
}

#[derive(Deserialize)]
struct OfModels {
    method: String,
    models: Vec<usize>,
    base: Option<usize>,
    density: Option<f64>,
    weights: Option<Vec<f64>>,
    tensors: BTreeMap<String, Summary>,
}

#[derive(Deserialize)]
struct Summary {
    first: Vec<f64>,
    norm: f64,
}

fn fixtures() -> Fixtures {
    let text = fs_err::read_to_string(fixture("merge.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn method(name: &str, weights: Vec<f64>, t: f64, density: f64, lambda: f64) -> MergeMethod {
    match name {
        "linear" => MergeMethod::Linear { weights },
        "slerp" => MergeMethod::Slerp { t },
        "ties" => MergeMethod::Ties {
            weights,
            density,
            lambda,
        },
        other => panic!("{other}"),
    }
}

/// The numbers of a list, or of a list of lists, one after the other.
fn numbers(value: &serde_json::Value) -> Vec<f32> {
    match value.as_array() {
        Some(list) => list.iter().flat_map(numbers).collect(),
        None => vec![value.as_f64().unwrap() as f32],
    }
}

#[test]
fn tensors_are_merged_as_by_mergekit() {
    let tensors = fixtures().tensors;
    assert!(tensors.cases.len() >= 10);
    for case in tensors.cases {
        let title = format!("{} {:?}", case.method, case.inputs);
        for (name, expected) in &case.merged {
            let tensor = |i: &usize| Tensor::from_slice(&numbers(&tensors.states[*i][name]));
            let mut inputs: Vec<Tensor> = case.inputs.iter().map(tensor).collect();
            let base = (case.method == "ties").then(|| inputs.remove(0));
            let method = method(
                &case.method,
                case.weights.clone().unwrap_or_default(),
                case.t.unwrap_or(0.5),
                case.density.unwrap_or(1.0),
                case.lambda.unwrap_or(1.0),
            );
            let merged = method.merge(&inputs, base.as_ref()).unwrap();
            let merged = Vec::<f32>::try_from(merged).unwrap();
            for (found, expected) in merged.iter().zip(numbers(expected)) {
                assert!(
                    (found - expected).abs() < 2e-6,
                    "{title}, {name}: {found} and not {expected}"
                );
            }
        }
    }
}

/// The model that `model` in make_merge_fixtures.py makes.
fn model(k: usize) -> SentenceTransformer {
    let model = tiny();
    let _guard = tch::no_grad_guard();
    for span in model.parameters().spans() {
        let places = Tensor::arange_start(1, span.numel() + 1, (Kind::Double, Device::Cpu));
        let sine = (places * (k as f64 + 1.0)).sin() * (0.05 * k as f64);
        let mut view = model.parameters().view(&span.name).unwrap();
        let sine = sine.to_kind(Kind::Float).view_as(&view);
        let _ = view.f_add_(&sine).unwrap();
    }
    model
}

#[test]
fn models_are_merged_as_by_sentence_transformers() {
    for case in fixtures().models {
        let mut merged = model(case.models[0]);
        let others: Vec<_> = case.models[1..].iter().map(|k| model(*k)).collect();
        let n_models = case.models.len();
        let method = method(
            &case.method,
            case.weights.unwrap_or_else(|| vec![1.0; n_models]),
            0.5,
            case.density.unwrap_or(1.0),
            1.0,
        );
        let base = case.base.map(model);
        merged.merge(&others, &method, base.as_ref()).unwrap();
        let mut n_compared = 0;
        for span in merged.parameters().spans() {
            let Some(expected) = case.tensors.get(&span.name) else {
                continue;
            };
            n_compared += 1;
            let view = merged.parameters().view(&span.name).unwrap().reshape([-1]);
            let norm = view.to_kind(Kind::Double).norm().double_value(&[]);
            let title = format!("{} {}", case.method, span.name);
            assert!(
                (norm - expected.norm).abs() < 1e-5 * expected.norm.max(1e-3),
                "{title}: the norm is {norm} and not {}",
                expected.norm
            );
            let first = Vec::<f32>::try_from(view.narrow(0, 0, expected.first.len() as i64));
            for (found, expected) in first.unwrap().iter().zip(&expected.first) {
                let difference = (f64::from(*found) - expected).abs();
                assert!(difference < 2e-6, "{title}: {found} and not {expected}");
            }
        }
        assert_eq!(n_compared, merged.parameters().spans().len());
    }
}

#[test]
fn models_that_differ_are_not_merged() {
    let linear = MergeMethod::Linear {
        weights: vec![1.0, 1.0],
    };
    let refused = |others: &[SentenceTransformer], method: &MergeMethod, part: &str| {
        let error = model(0)
            .merge(others, method, None)
            .unwrap_err()
            .to_string();
        assert!(error.contains(part), "{error}");
    };
    let mut shorter = model(1);
    shorter.set_max_seq_length(16).unwrap();
    refused(
        &[shorter],
        &linear,
        "model 2 differs from model 1 in sentence_bert_config.json",
    );
    refused(&[model(1), model(2)], &linear, "2 weights for 3 models");
    refused(
        &[model(1), model(2)],
        &MergeMethod::Slerp { t: 0.5 },
        "two models",
    );
    let ties = MergeMethod::Ties {
        weights: vec![1.0, 1.0],
        density: 1.0,
        lambda: 1.0,
    };
    refused(&[model(1)], &ties, "needs a base model");
}

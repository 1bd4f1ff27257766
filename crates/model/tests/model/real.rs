//! Real weights beside sentence-transformers, where there are such: see ../fixtures/make_real.py.

use std::{fs, ops::ControlFlow, path::Path};

use model::{Compute, EncodeOptions, Engine, Role, SentenceTransformer};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

/// The ranks of values, equal ones sharing the mean of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    while first < order.len() {
        let value = values[order[first]];
        let n = order[first..]
            .iter()
            .take_while(|&&i| values[i] == value)
            .count();
        for &i in &order[first..first + n] {
            ranks[i] = first as f64 + (n as f64 - 1.0) / 2.0;
        }
        first += n;
    }
    ranks
}

/// Spearman's correlation.
fn spearman(x: &[f64], y: &[f64]) -> f64 {
    let [x, y] = [x, y].map(|values| Tensor::from_slice(&ranks(values)));
    let [x, y] = [&x, &y].map(|ranks| ranks - ranks.mean(Kind::Double));
    let norm = |x: &Tensor| x.norm().double_value(&[]);
    x.dot(&y).double_value(&[]) / norm(&x) / norm(&y)
}

/// The embeddings of the 1,500 pairs of STSb's development set within 1e-5, and the correlation within 1e-4.
#[test]
#[ignore = "needs models that are not in the tree"]
#[expect(clippy::print_stdout, reason = "the figures are for docs/encoders.md")]
fn real_weights_give_upstreams_embeddings() {
    let models = std::env::var("SENTUNE_REAL_MODELS").expect("SENTUNE_REAL_MODELS is a folder");
    let stsb = Path::new(&models).join("stsb");
    let json: Value = serde_json::from_slice(&fs::read(stsb.join("texts.json")).unwrap()).unwrap();
    let scores: Vec<f64> = serde_json::from_value(json["scores"].clone()).unwrap();
    let mut n_models = 0;
    for entry in fs::read_dir(&stsb).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|kind| kind != "safetensors") {
            continue;
        }
        n_models += 1;
        let name = path.file_stem().unwrap().to_str().unwrap();
        let expected = Tensor::read_safetensors(&path).unwrap();
        for engine in [Engine::Kernels, Engine::Libtorch] {
            let folder = Path::new(&models).join(name);
            let mut model = SentenceTransformer::load(&folder, Device::Cpu).unwrap();
            let compute = Compute {
                engine,
                ..Compute::default()
            };
            model.set_compute(compute).unwrap();
            let encode = |key: &str| {
                let texts: Vec<String> = serde_json::from_value(json[key].clone()).unwrap();
                let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                let mut on = |_| ControlFlow::Continue(());
                let options = EncodeOptions {
                    role: Some(Role::Query),
                    ..EncodeOptions::default()
                };
                model.encode(&texts, &options, &mut on).unwrap()
            };
            let found = ["a", "b"].map(encode);
            let expected = ["a", "b"].map(|key| {
                let (_, tensor) = expected.iter().find(|(name, _)| name == key).unwrap();
                tensor.shallow_clone()
            });
            let correlation = |[a, b]: &[Tensor; 2]| {
                let cosine = Tensor::cosine_similarity(a, b, 1, 1e-8).to_kind(Kind::Double);
                spearman(&Vec::try_from(cosine).unwrap(), &scores)
            };
            let off = (0..2).map(|i| crate::max_difference(&found[i], &expected[i]));
            let off = off.fold(0.0, f64::max);
            let (ours, theirs) = (correlation(&found), correlation(&expected));
            println!("{name} on {engine:?}: off by {off:.1e}, Spearman {ours:.6} and {theirs:.6}");
            assert!(off <= 1e-5, "{name} on {engine:?}: off by {off:e}");
            assert!((ours - theirs).abs() <= 1e-4, "{name} on {engine:?}");
        }
    }
    assert!(n_models > 0, "no embeddings in {}", stsb.display());
}

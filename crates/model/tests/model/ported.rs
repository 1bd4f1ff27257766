//! More facts of sentence-transformers' `test_pooling.py` and `test_dense.py`, as of 6.0.1; the table of pooled
//! values is in `pooling.rs`.

use std::{fs, path::Path};

use model::{Mode, Pooling, PoolingMode, SentenceTransformer};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use crate::{assert_close, assert_equal, copy, fixture, ids, pack};

fn embed(folder: &Path) -> Tensor {
    let model = SentenceTransformer::load(folder, Device::Cpu).unwrap();
    model.forward(&pack(&ids()), Mode::Eval).unwrap().detach()
}

/// The tiny model's embeddings under a pooling configuration.
fn pooled(config: &Value) -> Tensor {
    let folder = tempfile::tempdir().unwrap();
    copy(&fixture("tiny-mpnet"), folder.path());
    fs::write(
        folder.path().join("1_Pooling/config.json"),
        config.to_string(),
    )
    .unwrap();
    embed(folder.path())
}

#[test]
fn several_modes_are_concatenated_in_their_order() {
    let batch = pack(&[vec![5; 4], vec![5; 3]]);
    let tokens: [f32; 14] = [
        1., 2., 3., 4., 5., 6., 10., 20., 30., 40., 50., 60., 70., 80.,
    ];
    let tokens = Tensor::from_slice(&tokens).view([7, 2]);
    let pool = |modes: &[PoolingMode]| {
        let pooling = Pooling {
            modes: modes.to_vec(),
            include_prompt: true,
        };
        pooling.forward(&tokens, &batch).unwrap()
    };
    use PoolingMode::{Cls, LastToken, Max, Mean, MeanSqrtLen, WeightedMean};
    for modes in [
        vec![Cls, Mean],
        vec![Mean, MeanSqrtLen],
        vec![Cls, Max, Mean, MeanSqrtLen, WeightedMean, LastToken],
    ] {
        let each: Vec<Tensor> = modes.iter().map(|mode| pool(&[*mode])).collect();
        assert_equal(&format!("{modes:?}"), &pool(&modes), &Tensor::cat(&each, 1));
    }
}

#[test]
fn the_flags_of_older_configurations_are_modes() {
    let flags = |on: &[&str]| {
        let mut config = json!({"word_embedding_dimension": 32, "include_prompt": true});
        for mode in [
            "cls_token",
            "max_tokens",
            "mean_tokens",
            "mean_sqrt_len_tokens",
            "weightedmean_tokens",
            "lasttoken",
        ] {
            config[format!("pooling_mode_{mode}")] = json!(on.contains(&mode));
        }
        pooled(&config)
    };
    let mode = |mode: Value| pooled(&json!({"embedding_dimension": 32, "pooling_mode": mode}));
    assert_equal("mean", &flags(&["mean_tokens"]), &mode(json!("mean")));
    assert_equal("cls", &flags(&["cls_token"]), &mode(json!("cls")));
    assert_equal(
        "two",
        &flags(&["mean_tokens", "cls_token"]),
        &mode(json!(["cls", "mean"])),
    );
    // As upstream, nothing is the mean.
    assert_equal("none", &flags(&[]), &mode(json!("mean")));
}

/// The tiny model with a dense module of 32 to 8 in some kind of number.
fn with_dense(kind: Kind, more: &Value) -> Tensor {
    let folder = tempfile::tempdir().unwrap();
    copy(&fixture("tiny-mpnet"), folder.path());
    let path = folder.path().join("modules.json");
    let mut modules: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let module = json!({
        "idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.base.modules.dense.Dense",
    });
    modules.as_array_mut().unwrap().push(module);
    fs::write(path, modules.to_string()).unwrap();
    fs::create_dir(folder.path().join("2_Dense")).unwrap();
    let mut config = json!({"in_features": 32, "out_features": 8, "bias": true});
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    fs::write(
        folder.path().join("2_Dense/config.json"),
        config.to_string(),
    )
    .unwrap();
    let [weight, bias] = [vec![8, 32], vec![8]].map(|shape: Vec<i64>| {
        let places = Tensor::arange(shape.iter().product::<i64>(), (Kind::Float, Device::Cpu));
        ((places * 0.7).sin() / 4)
            .view(shape.as_slice())
            .to_kind(kind)
    });
    Tensor::write_safetensors(
        &[("linear.weight", &weight), ("linear.bias", &bias)],
        folder.path().join("2_Dense/model.safetensors"),
    )
    .unwrap();
    embed(folder.path())
}

#[test]
fn dense_weights_in_half_precision_give_nearly_the_same() {
    let tanh = json!({"activation_function": "torch.nn.modules.activation.Tanh"});
    let whole = with_dense(Kind::Float, &tanh);
    assert_eq!(whole.size()[1], 8);
    assert_close("float16", &with_dense(Kind::Half, &tanh), &whole, 1e-3);
    assert_close("bfloat16", &with_dense(Kind::BFloat16, &tanh), &whole, 1e-2);
}

#[test]
fn a_dense_module_passes_over_keys_that_it_does_not_know() {
    let known = json!({"activation_function": "torch.nn.modules.linear.Identity"});
    let mut more = known.clone();
    more["future_param"] = json!(42);
    assert_equal(
        "same",
        &with_dense(Kind::Float, &more),
        &with_dense(Kind::Float, &known),
    );
}

#[test]
fn a_dense_module_is_tanh_where_nothing_is_said() {
    let tanh = json!({"activation_function": "torch.nn.modules.activation.Tanh"});
    let (silent, said) = (
        with_dense(Kind::Float, &json!({})),
        with_dense(Kind::Float, &tanh),
    );
    assert_equal("tanh", &silent, &said);
}

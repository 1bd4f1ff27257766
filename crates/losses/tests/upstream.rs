//! Values and gradients against sentence-transformers 6.2.0; `fixtures/make_fixtures.py` made the
//! figures.

use losses::{BuildContext, LossConfig, StepInputs, gradients::gradients};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

/// Greatest difference of a value or of an entry of a gradient; relative where figures exceed one.
const TOLERANCE: f64 = 1e-5;

/// A test for each file of fixtures, by its name.
macro_rules! agree {
    ($($name:ident),* $(,)?) => {
        $(#[test]
        fn $name() {
            agree(include_str!(concat!("fixtures/", stringify!($name), ".json")));
        })*
    };
}

agree!(
    adaptive_layer,
    angle,
    batch_all_triplet,
    batch_hard_soft_margin_triplet,
    batch_hard_triplet,
    batch_semi_hard_triplet,
    cached_gist_embed,
    cached_multiple_negatives_ranking,
    cached_multiple_negatives_symmetric_ranking,
    contrastive,
    cosent,
    cosine_similarity,
    distill_kl_div,
    embed_distill,
    gist_embed,
    global_orthogonal_regularization,
    margin_mse,
    matryoshka,
    matryoshka_2d,
    mega_batch_margin,
    mse,
    multiple_negatives_ranking,
    multiple_negatives_symmetric_ranking,
    online_contrastive,
    softmax,
    triplet,
);

/// Every case of a file: the loss is built from its configuration, computed and differentiated.
fn agree(cases: &str) {
    let cases: Vec<Value> = serde_json::from_str(cases).unwrap();
    assert!(cases.len() >= 3);
    for case in &cases {
        let title = format!("{} {}", case["loss"], case["title"]);
        let columns = leaves(&case["columns"]);
        let config: LossConfig = serde_json::from_value(case["loss"].clone()).unwrap();
        let context = BuildContext {
            dimension: Some(columns[0].size()[1]),
            device: Device::Cpu,
            seed: 0,
        };
        let loss = config.build(&context).unwrap();
        for (name, parameter) in loss.parameters() {
            let stored = tensor(&case["owned"][&name]);
            tch::no_grad(|| parameter.shallow_clone().copy_(&stored));
        }
        let labels = case.get("labels").map(tensor);
        let mut embeddings: Vec<Tensor> = columns.iter().map(Tensor::shallow_clone).collect();
        if let Some(guide) = case.get("guide") {
            embeddings.extend(guide.as_array().unwrap().iter().map(tensor));
        }
        let layers: Vec<Vec<Tensor>> = match case.get("layers") {
            Some(layers) => layers.as_array().unwrap().iter().map(leaves).collect(),
            None => Vec::new(),
        };
        // Upstream draws with Python's generator, so cases take all layers.
        assert_eq!(
            loss.prior_layers(layers.len(), 0).len(),
            layers.len(),
            "{title}"
        );
        let copies = |layer: &Vec<Tensor>| layer.iter().map(Tensor::shallow_clone).collect();
        let prior: Vec<_> = layers.iter().map(copies).enumerate().collect();
        let step = StepInputs {
            embeddings: &embeddings,
            prior: &prior,
            labels: labels.as_ref(),
            own: None,
            seed: 0,
        };
        let value = loss.value(&step).expect(&title);
        assert_eq!(value.size(), [0i64; 0], "{title}: a loss is a scalar");
        value.backward();
        close(&value.detach(), &case["value"], &title);
        for (column, gradient) in columns.iter().zip(case["gradients"].as_array().unwrap()) {
            close(&column.grad(), gradient, &title);
        }
        for (layer, columns) in layers.iter().enumerate() {
            for (index, column) in columns.iter().enumerate() {
                close(
                    &column.grad(),
                    &case["layer_gradients"][layer][index],
                    &title,
                );
            }
        }
        let all = gradients(loss.as_ref(), &step, 1.0).unwrap();
        close(&all.value, &case["value"], &title);
        let expected = case["gradients"].as_array().unwrap();
        for (gradient, expected) in all.embeddings.iter().zip(expected) {
            close(gradient, expected, &title);
        }
        for (layer, gradients) in all.prior.iter().enumerate() {
            for (index, gradient) in gradients.iter().enumerate() {
                close(gradient, &case["layer_gradients"][layer][index], &title);
            }
        }
        for ((name, parameter), gradient) in loss.parameters().iter().zip(&all.parameters) {
            let expected = &case["owned_gradients"][name];
            close(&parameter.grad(), expected, &format!("{title} {name}"));
            close(gradient, expected, &format!("{title} {name}"));
        }
    }
}

/// The embeddings of each column, as tensors that gather a gradient.
fn leaves(columns: &Value) -> Vec<Tensor> {
    let columns = columns.as_array().unwrap().iter();
    columns
        .map(|column| tensor(column).set_requires_grad(true))
        .collect()
}

/// Nested lists of numbers to a tensor, integers to i64 and all else to f32; `null` is not a number.
fn tensor(value: &Value) -> Tensor {
    let mut shape = Vec::new();
    let mut level = value;
    while let Some(list) = level.as_array() {
        shape.push(list.len() as i64);
        level = &list[0];
    }
    let integer = level.is_i64();
    let mut flat = Vec::new();
    flatten(value, &mut flat);
    let kind = if integer { Kind::Int64 } else { Kind::Float };
    Tensor::from_slice(&flat).to_kind(kind).reshape(shape)
}

fn flatten(value: &Value, flat: &mut Vec<f64>) {
    match value {
        Value::Array(list) => list.iter().for_each(|item| flatten(item, flat)),
        item => flat.push(item.as_f64().unwrap_or(f64::NAN)),
    }
}

fn close(actual: &Tensor, expected: &Value, title: &str) {
    let mut flat = Vec::new();
    flatten(expected, &mut flat);
    if !actual.defined() {
        assert!(
            flat.iter().all(|value| *value == 0.0),
            "{title}: there is no gradient"
        );
        return;
    }
    let actual = Vec::<f64>::try_from(actual.to_kind(Kind::Double).reshape([-1])).unwrap();
    assert_eq!(actual.len(), flat.len(), "{title}");
    for (actual, expected) in actual.iter().zip(&flat) {
        let both_undefined = actual.is_nan() && expected.is_nan();
        let difference = (actual - expected).abs();
        assert!(
            both_undefined || difference <= TOLERANCE * expected.abs().max(1.0),
            "{title}: {actual} instead of {expected}"
        );
    }
}

//! The hand-written pass against autograd.

use std::path::Path;

use model::{Mode, ModelError, PackedBatch, SentenceTransformer};
use tch::{Device, Tensor};

/// Sentences of these lengths, from ids that begin after the special tokens.
fn sentences(lengths: &[usize], seed: u32) -> Vec<Vec<u32>> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        5 + (state >> 8) % 200
    };
    lengths
        .iter()
        .map(|&length| (0..length).map(|_| next()).collect())
        .collect()
}

fn tiny() -> SentenceTransformer {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-mpnet");
    let mut model = SentenceTransformer::load(&folder, Device::Cpu).unwrap();
    model.set_dropout(0.0).unwrap();
    model
}

/// Largest difference relative to the largest value, or to one where all are smaller: a gradient that is zero
/// but for rounding, such as that of the queries of one-token sentences, has no digits to agree in.
fn distance(a: &Tensor, b: &Tensor) -> f64 {
    let scale = b.abs().max().double_value(&[]).max(1.0);
    (a - b).abs().max().double_value(&[]) / scale
}

/// A scalar that every embedding has its own part in.
fn weighted_sum(embeddings: &Tensor) -> Tensor {
    let n = embeddings.numel() as i64;
    let weights = (Tensor::arange(n, (tch::Kind::Float, Device::Cpu)) * 0.37).sin();
    (embeddings.flatten(0, -1) * weights).sum(tch::Kind::Float)
}

#[test]
fn values_and_gradients_are_autograds() {
    let model = tiny();
    let all: [&[usize]; 6] = [
        &[1],
        &[2, 2, 2],
        &[7, 3, 19, 3, 7, 1],
        &[128, 5],
        &[31, 32, 33],
        &[12; 24],
    ];
    for (i, lengths) in all.into_iter().enumerate() {
        let ids = sentences(lengths, i as u32);
        let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
        let batch = PackedBatch::new(&ids, Device::Cpu).unwrap();

        let expected = model.forward(&batch, Mode::Eval).unwrap();
        assert!(
            distance(&model.embed(&batch).unwrap(), &expected) < 1e-5,
            "{lengths:?}"
        );

        let expected_gradient = model.parameters().zero_gradient().unwrap();
        let loss = weighted_sum(&expected);
        model
            .parameters()
            .backward(&loss, &expected_gradient)
            .unwrap();
        let gradient = model.parameters().zero_gradient().unwrap();
        let fused = |embeddings: &Tensor| Ok::<_, ModelError>(weighted_sum(embeddings));
        let fused_loss = model.forward_backward(&batch, 0, &gradient, fused).unwrap();
        assert!(distance(&fused_loss, &loss.detach()) < 1e-5, "{lengths:?}");
        for span in model.parameters().spans() {
            let of = |gradient: &Tensor| gradient.narrow(0, span.offset, span.numel());
            let off = distance(&of(&gradient), &of(&expected_gradient));
            assert!(off < 1e-5, "{lengths:?}: {} is off by {off}", span.name);
        }
    }
}

#[test]
fn a_second_pass_adds_its_gradient() {
    let model = tiny();
    let ids = sentences(&[5, 9], 3);
    let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
    let batch = PackedBatch::new(&ids, Device::Cpu).unwrap();
    let gradient = model.parameters().zero_gradient().unwrap();
    let fused = |embeddings: &Tensor| Ok::<_, ModelError>(weighted_sum(embeddings));
    let _ = model.forward_backward(&batch, 0, &gradient, fused).unwrap();
    let once = gradient.copy();
    let _ = model.forward_backward(&batch, 0, &gradient, fused).unwrap();
    assert!(distance(&gradient, &(once * 2.0)) < 1e-6);
}

#[test]
fn dropout_is_the_seeds() {
    let mut model = tiny();
    model.set_dropout(0.1).unwrap();
    let ids = sentences(&[5, 9, 17, 17, 40], 4);
    let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
    let batch = PackedBatch::new(&ids, Device::Cpu).unwrap();
    let gradient_of = |seed: u64| {
        let gradient = model.parameters().zero_gradient().unwrap();
        let fused = |embeddings: &Tensor| Ok::<_, ModelError>(weighted_sum(embeddings));
        let _ = model
            .forward_backward(&batch, seed, &gradient, fused)
            .unwrap();
        Vec::<f32>::try_from(&gradient).unwrap()
    };
    assert!(gradient_of(1) == gradient_of(1));
    assert!(gradient_of(1) != gradient_of(2));
}

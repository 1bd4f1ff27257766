//! The hand-written pass against autograd.

use std::path::Path;

use model::{
    ChunkLimit, ChunkedBatch, Compute, Engine, GemmName, Mode, ModelError, PackedBatch, Precision,
    SentenceTransformer, StaticBatch,
};
use serde_json::json;
use tch::{Device, Tensor};

use crate::{copy, fixture};

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

/// The weighted sum, and its gradient by the embeddings.
fn weighted_sum_and_gradient(embeddings: &Tensor) -> Result<(Tensor, Tensor), ModelError> {
    let leaf = embeddings.detach().set_requires_grad(true);
    let sum = weighted_sum(&leaf);
    sum.backward();
    Ok((sum.detach(), leaf.grad()))
}

/// The loss and the gradient of a step.
fn step(
    model: &SentenceTransformer,
    ids: &[&[u32]],
    limit: ChunkLimit,
    seed: u64,
) -> (Tensor, Tensor) {
    let batch = ChunkedBatch::new(ids, limit, Device::Cpu).unwrap();
    let gradient = model.parameters().zero_gradient().unwrap();
    let loss = model
        .forward_backward(&batch, seed, &gradient, weighted_sum_and_gradient)
        .unwrap();
    (loss, gradient)
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
        let (fused_loss, gradient) = step(&model, &ids, ChunkLimit::NONE, 0);
        assert!(distance(&fused_loss, &loss.detach()) < 1e-5, "{lengths:?}");
        for span in model.parameters().spans() {
            let of = |gradient: &Tensor| gradient.narrow(0, span.offset, span.numel());
            let off = distance(&of(&gradient), &of(&expected_gradient));
            assert!(off < 1e-5, "{lengths:?}: {} is off by {off}", span.name);
        }
    }
}

#[test]
fn prompts_that_are_not_pooled_are_autograds() {
    let all: [&[&str]; 3] = [
        &["mean"],
        &["cls", "max"],
        &["mean_sqrt_len_tokens", "weightedmean", "lasttoken"],
    ];
    let ids = sentences(&[7, 3, 19, 7, 7, 5], 9);
    let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
    let prompts = [2, 0, 5, 2, 3, 4];
    for modes in all {
        let folder = tempfile::tempdir().unwrap();
        copy(&fixture("tiny-mpnet"), folder.path());
        let json =
            json!({"embedding_dimension": 32, "pooling_mode": modes, "include_prompt": false});
        let path = folder.path().join("1_Pooling/config.json");
        std::fs::write(path, json.to_string()).unwrap();
        let mut model = SentenceTransformer::load(folder.path(), Device::Cpu).unwrap();
        model.set_dropout(0.0).unwrap();

        let batch = PackedBatch::new(&ids, Device::Cpu).unwrap();
        let whole = model.forward(&batch, Mode::Eval).unwrap();
        let batch = batch.with_prompt_lengths(&prompts).unwrap();
        let expected = model.forward(&batch, Mode::Eval).unwrap();
        assert!(
            distance(&expected, &whole) > 1e-2,
            "{modes:?}: prompts are pooled"
        );
        let embedded = model.embed(&batch).unwrap();
        assert!(distance(&embedded, &expected) < 1e-5, "{modes:?}");

        let expected_gradient = model.parameters().zero_gradient().unwrap();
        let loss = weighted_sum(&expected);
        let parameters = model.parameters();
        parameters.backward(&loss, &expected_gradient).unwrap();
        for tokens in [usize::MAX, 20] {
            let limit = ChunkLimit {
                tokens,
                sentences: usize::MAX,
            };
            let batch = ChunkedBatch::with_prompts(&ids, &prompts, limit, Device::Cpu).unwrap();
            let gradient = parameters.zero_gradient().unwrap();
            let found = model.forward_backward(&batch, 0, &gradient, weighted_sum_and_gradient);
            assert!(
                distance(&found.unwrap(), &loss.detach()) < 1e-5,
                "{modes:?}"
            );
            let off = distance(&gradient, &expected_gradient);
            assert!(off < 1e-5, "{modes:?} in chunks of {tokens}: off by {off}");
        }
    }
}

#[test]
fn a_second_pass_adds_its_gradient() {
    let model = tiny();
    let ids = sentences(&[5, 9], 3);
    let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
    let batch = ChunkedBatch::new(&ids, ChunkLimit::NONE, Device::Cpu).unwrap();
    let gradient = model.parameters().zero_gradient().unwrap();
    let add = || {
        let loss = model.forward_backward(&batch, 0, &gradient, weighted_sum_and_gradient);
        drop(loss.unwrap());
    };
    add();
    let once = gradient.copy();
    add();
    assert!(distance(&gradient, &(once * 2.0)) < 1e-6);
}

#[test]
fn dropout_is_the_seeds() {
    let mut model = tiny();
    model.set_dropout(0.1).unwrap();
    let ids = sentences(&[5, 9, 17, 17, 40], 4);
    let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
    let gradient_of = |seed: u64| {
        let (_, gradient) = step(&model, &ids, ChunkLimit::NONE, seed);
        Vec::<f32>::try_from(&gradient).unwrap()
    };
    assert!(gradient_of(1) == gradient_of(1));
    assert!(gradient_of(1) != gradient_of(2));
}

#[test]
fn chunks_give_the_gradient_of_the_whole_batch_under_the_same_dropout() {
    let mut model = tiny();
    let lengths = [5, 9, 17, 17, 40, 3, 3, 9, 1, 64, 12];
    let ids = sentences(&lengths, 5);
    let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
    for dropout in [0.0, 0.1] {
        model.set_dropout(dropout).unwrap();
        let (loss, gradient) = step(&model, &ids, ChunkLimit::NONE, 3);
        for (tokens, sentences) in [(1, 1), (usize::MAX, 2), (50, usize::MAX), (70, 3)] {
            let limit = ChunkLimit { tokens, sentences };
            let (chunked_loss, chunked) = step(&model, &ids, limit, 3);
            assert!(distance(&chunked_loss, &loss) < 1e-5, "{limit:?}");
            for span in model.parameters().spans() {
                let of = |gradient: &Tensor| gradient.narrow(0, span.offset, span.numel());
                let off = distance(&of(&chunked), &of(&gradient));
                assert!(off < 1e-5, "{limit:?}: {} is off by {off}", span.name);
            }
        }
    }
}

#[test]
fn embeddings_of_chunks_are_those_of_the_whole_batch() {
    let model = tiny();
    let ids = sentences(&[5, 9, 17, 17, 40, 3], 6);
    let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
    let whole = PackedBatch::new(&ids, Device::Cpu).unwrap();
    let limit = ChunkLimit {
        tokens: 30,
        sentences: 2,
    };
    let chunked = ChunkedBatch::new(&ids, limit, Device::Cpu).unwrap();
    assert_eq!(chunked.chunks().len(), 4);
    let expected = model.embed(&whole).unwrap();
    assert!(distance(&model.embed_chunks(&chunked).unwrap(), &expected) < 1e-6);
}

#[test]
fn a_gradient_of_another_shape_is_refused() {
    let model = tiny();
    let ids = sentences(&[5, 9], 7);
    let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
    let batch = ChunkedBatch::new(&ids, ChunkLimit::NONE, Device::Cpu).unwrap();
    let gradient = model.parameters().zero_gradient().unwrap();
    let error = model
        .forward_backward(&batch, 0, &gradient, |embeddings| {
            Ok::<_, ModelError>((embeddings.sum(tch::Kind::Float), embeddings.narrow(0, 0, 1)))
        })
        .unwrap_err();
    assert!(error.to_string().contains("expected [[2, 32]]"), "{error}");
    let error = model
        .forward_backward(
            &batch,
            0,
            &gradient.narrow(0, 0, 9),
            weighted_sum_and_gradient,
        )
        .unwrap_err();
    assert!(error.to_string().contains("has shape [9]"), "{error}");
}

#[test]
fn other_products_and_precisions_are_close() {
    tch::set_num_threads(1);
    let mut model = tiny();
    let ids = sentences(&[5, 9, 17, 17, 40, 3, 64], 8);
    let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
    let batch = PackedBatch::new(&ids, Device::Cpu).unwrap();
    let embeddings = model.embed(&batch).unwrap();
    let (_, gradient) = step(&model, &ids, ChunkLimit::NONE, 0);
    let norm = |x: &Tensor| x.norm().double_value(&[]);
    for (gemm, precision, tolerance) in [
        (GemmName::Libtorch, Precision::Fp32, 1e-5),
        (GemmName::Auto, Precision::Fp16, 5e-3),
        (GemmName::Auto, Precision::Bf16, 2e-2),
    ] {
        let compute = Compute {
            gemm,
            precision,
            ..Compute::default()
        };
        if let Err(error) = model.set_compute(compute) {
            // Then the message is all there is to test.
            let message = error.to_string();
            assert!(message.contains("this processor lacks AVX512"), "{message}");
            assert_ne!(precision, Precision::Fp32);
            continue;
        }
        assert_eq!(model.compute(), compute);
        let found = model.embed(&batch).unwrap();
        let off = norm(&(&found - &embeddings)) / norm(&embeddings);
        assert!(off < tolerance, "{compute:?}: embeddings are off by {off}");
        let (_, found) = step(&model, &ids, ChunkLimit::NONE, 0);
        let off = norm(&(&found - &gradient)) / norm(&gradient);
        assert!(off < tolerance, "{compute:?}: the gradient is off by {off}");
        assert!(
            precision == Precision::Fp32 || off > 1e-6,
            "{compute:?}: nothing was rounded"
        );
    }
}

#[test]
fn libtorchs_product_has_no_half_precision() {
    let mut model = tiny();
    let compute = Compute {
        gemm: GemmName::Libtorch,
        precision: Precision::Bf16,
        ..Compute::default()
    };
    let message = model.set_compute(compute).unwrap_err().to_string();
    assert!(
        message.contains("gemm libtorch multiplies in fp32 only"),
        "{message}"
    );
    assert_eq!(model.compute(), Compute::default());
}

fn by_libtorch(precision: Precision) -> SentenceTransformer {
    let mut model = tiny();
    model
        .set_compute(Compute {
            engine: Engine::Libtorch,
            precision,
            ..Compute::default()
        })
        .unwrap();
    model
}

#[test]
fn libtorch_computes_what_the_kernels_do_also_in_chunks() {
    tch::set_num_threads(1);
    let (kernels, libtorch) = (tiny(), by_libtorch(Precision::Fp32));
    assert_eq!(kernels.engine(), Engine::Kernels);
    assert_eq!(libtorch.engine(), Engine::Libtorch);
    let ids = sentences(&[5, 9, 17, 17, 40, 3, 3, 9, 1, 64, 12], 9);
    let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
    let (expected_loss, expected) = step(&kernels, &ids, ChunkLimit::NONE, 0);
    let (tokens, sentences) = (50, usize::MAX);
    for limit in [ChunkLimit::NONE, ChunkLimit { tokens, sentences }] {
        let (loss, gradient) = step(&libtorch, &ids, limit, 0);
        assert!(distance(&loss, &expected_loss) < 1e-5);
        for span in kernels.parameters().spans() {
            let of = |gradient: &Tensor| gradient.narrow(0, span.offset, span.numel());
            let off = distance(&of(&gradient), &of(&expected));
            assert!(off < 1e-5, "{limit:?}: {} is off by {off}", span.name);
        }
    }
}

#[test]
fn libtorch_computes_in_16_bits_with_the_weights_as_they_are_now() {
    tch::set_num_threads(1);
    let ids = sentences(&[5, 9, 17, 17, 40, 3, 64], 8);
    let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
    let batch = PackedBatch::new(&ids, Device::Cpu).unwrap();
    let norm = |x: &Tensor| x.norm().double_value(&[]);
    for (precision, tolerance) in [(Precision::Fp16, 1e-2), (Precision::Bf16, 5e-2)] {
        let (exact, rounded) = (by_libtorch(Precision::Fp32), by_libtorch(precision));
        for round in 0..2 {
            let expected = exact.embed(&batch).unwrap();
            let found = rounded.embed(&batch).unwrap();
            assert_eq!(found.kind(), tch::Kind::Float);
            let off = norm(&(&found - &expected)) / norm(&expected);
            assert!(
                off < tolerance && off > 1e-6,
                "{precision}: embeddings are off by {off}"
            );
            let (_, expected) = step(&exact, &ids, ChunkLimit::NONE, 0);
            let (_, found) = step(&rounded, &ids, ChunkLimit::NONE, 0);
            assert_eq!(found.kind(), tch::Kind::Float);
            let off = norm(&(&found - &expected)) / norm(&expected);
            assert!(
                off < tolerance,
                "{precision}, round {round}: the gradient is off by {off}"
            );
            // A step, which the rounded copy has to follow.
            for (model, gradient) in [(&exact, &expected), (&rounded, &expected)] {
                tch::no_grad(|| {
                    let _ = model
                        .parameters()
                        .flat()
                        .shallow_clone()
                        .subtract_(&(gradient * 0.05));
                });
            }
        }
    }
}

#[test]
fn batches_take_each_others_place() {
    tch::set_num_threads(1);
    let model = by_libtorch(Precision::Fp32);
    let batches = [
        sentences(&[5, 9, 17, 30, 3], 10),
        sentences(&[30, 3, 3, 17, 12], 11),
        sentences(&[18, 18, 18, 18, 31], 12),
    ];
    let mut place: Option<StaticBatch> = None;
    for ids in &batches {
        let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
        let batch = ChunkedBatch::new(&ids, ChunkLimit::NONE, Device::Cpu).unwrap();
        let (expected_loss, expected) = step(&model, &ids, ChunkLimit::NONE, 0);
        let shape = model.static_shape(&batch).unwrap().unwrap();
        let place = place.get_or_insert_with(|| StaticBatch::new(shape, Device::Cpu).unwrap());
        place.load(&batch).unwrap();
        let gradient = model.parameters().zero_gradient().unwrap();
        let loss = model
            .forward_backward_static(place, &gradient, weighted_sum_and_gradient)
            .unwrap();
        assert!(distance(&loss, &expected_loss) < 1e-5);
        assert!(distance(&gradient, &expected) < 1e-5);
    }
    let other = sentences(&[5, 9], 13);
    let other: Vec<&[u32]> = other.iter().map(Vec::as_slice).collect();
    let other = ChunkedBatch::new(&other, ChunkLimit::NONE, Device::Cpu).unwrap();
    let error = place.unwrap().load(&other).unwrap_err().to_string();
    assert!(error.contains("in the place of"), "{error}");
    assert!(tiny().static_shape(&other).unwrap().is_none());
}

#[test]
fn engines_are_refused_where_they_dont_fit() {
    let mut model = tiny();
    let compute = Compute {
        gemm: GemmName::Rust,
        engine: Engine::Libtorch,
        ..Compute::default()
    };
    let message = model.set_compute(compute).unwrap_err().to_string();
    assert!(message.contains("leave it at `auto`"), "{message}");
    assert_eq!(model.engine(), Engine::Kernels);
}

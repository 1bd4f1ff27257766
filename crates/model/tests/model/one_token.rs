//! Pooling of a single token, for which the last layer is computed for that token alone, against the same pooling among
//! others, for which it is computed for all.

use std::{fs, path::Path};

use model::{
    ChunkLimit, ChunkedBatch, Compute, Engine, MODEL_TYPES, ModelError, SentenceTransformer,
};
use serde_json::json;
use tch::{Device, Kind, Tensor};

use crate::{assert_close, copy, fixture};

/// A model of the type whose pooling has these modes.
fn load(model_type: &str, engine: Engine, modes: &[&str], prompts: bool) -> SentenceTransformer {
    let folder = match model_type {
        "mpnet" => fixture("tiny-mpnet"),
        other => fixture("encoders").join(other),
    };
    let temporary = tempfile::tempdir().unwrap();
    copy(&folder, temporary.path());
    set_pooling(temporary.path(), modes, prompts);
    let mut model = SentenceTransformer::load(temporary.path(), Device::Cpu).unwrap();
    let compute = Compute {
        engine,
        ..Compute::default()
    };
    model.set_compute(compute).unwrap();
    model
}

fn set_pooling(folder: &Path, modes: &[&str], prompts: bool) {
    let config = fs::read(folder.join("config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    let width = config.get("hidden_size").unwrap_or(&config["dim"]);
    let pooling = json!({
        "embedding_dimension": width,
        "pooling_mode": modes,
        "include_prompt": prompts,
    });
    fs::write(folder.join("1_Pooling/config.json"), pooling.to_string()).unwrap();
}

/// Ids of sentences, within and beyond the window of ModernBERT's layers.
fn sentences() -> Vec<Vec<u32>> {
    let lengths = [3, 4, 30, 17, 9, 30, 3, 21];
    let mut state = 5u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        6 + (state >> 8) % 60
    };
    lengths
        .iter()
        .map(|&length| (0..length).map(|_| next()).collect())
        .collect()
}

/// Embeddings of the last layer and of two others, and the gradient of their weighted sums.
fn step(
    model: &SentenceTransformer,
    batch: &ChunkedBatch<'_>,
    layers: &[usize],
    of_embeddings: &dyn Fn(&Tensor) -> Tensor,
) -> (Vec<Tensor>, Tensor) {
    let gradient = model.parameters().zero_gradient().unwrap();
    let mut found = Vec::new();
    let loss = model.forward_backward_layers(batch, layers, 7, &gradient, |parts| {
        found = parts.iter().map(Tensor::copy).collect();
        let weights: Vec<Tensor> = parts.iter().map(of_embeddings).collect();
        Ok::<_, ModelError>((Tensor::from(0f32), weights))
    });
    drop(loss.unwrap());
    (found, gradient)
}

#[test]
fn the_last_layer_of_one_token_gives_the_same_numbers() {
    tch::set_num_threads(1);
    let ids = sentences();
    let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
    let prompt_lengths = [1, 0, 2, 5, 8, 0, 2, 1];
    let chunks = [
        ChunkLimit::NONE,
        ChunkLimit {
            tokens: 40,
            sentences: 3,
        },
    ];
    for model_type in MODEL_TYPES {
        for engine in [Engine::Kernels, Engine::Libtorch] {
            for (mode, prompts) in [("cls", true), ("cls", false), ("lasttoken", false)] {
                let mut one = load(model_type, engine, &[mode], prompts);
                let mut all = load(model_type, engine, &["max", mode], prompts);
                let width = one.dimension();
                // libtorch draws other masks for other shapes.
                let dropouts: &[f64] = match engine {
                    Engine::Kernels => &[0.0, 0.2],
                    _ => &[0.0],
                };
                for (&dropout, limit) in dropouts.iter().zip(chunks).chain([(&0.0, chunks[1])]) {
                    one.set_dropout(dropout).unwrap();
                    all.set_dropout(dropout).unwrap();
                    let batch =
                        ChunkedBatch::with_prompts(&ids, &prompt_lengths, limit, Device::Cpu);
                    let batch = batch.unwrap();
                    let name = format!("{model_type} on {engine:?}, {mode}, dropout {dropout}");
                    for layers in [&[][..], &[1]] {
                        let weights = |parts: &Tensor| {
                            let numbers =
                                Tensor::arange(parts.size()[0] * width, (Kind::Float, Device::Cpu));
                            (numbers * 0.7).sin().view([-1, width])
                        };
                        let (found, gradient) = step(&one, &batch, layers, &weights);
                        let (expected, expected_gradient) = step(&all, &batch, layers, &|parts| {
                            let weights = weights(parts);
                            Tensor::cat(&[&weights.zeros_like(), &weights], 1)
                        });
                        for (found, expected) in found.iter().zip(&expected) {
                            let expected = expected.narrow(1, width, width);
                            assert_close(&name, found, &expected, 1e-5);
                        }
                        let scale = expected_gradient.abs().max().double_value(&[]);
                        assert!(scale > 1e-2, "{name}: no gradient");
                        assert_close(&name, &gradient, &expected_gradient, 1e-5 * scale);
                    }
                    let alone = one.embed_chunks(&batch).unwrap();
                    let among = all.embed_chunks(&batch).unwrap();
                    assert_close(&name, &alone, &among.narrow(1, width, width), 1e-5);
                }
            }
        }
    }
}

/// Token embeddings are asked for of all tokens.
#[test]
fn token_embeddings_are_there_for_all_tokens() {
    for model_type in MODEL_TYPES {
        let model = load(model_type, Engine::Kernels, &["cls"], true);
        let mut on = |_| std::ops::ControlFlow::Continue(());
        let texts = ["The dog runs.", "A woman is reading a book"];
        let tokens = model.encode_tokens(&texts, &Default::default(), &mut on);
        let embeddings = model.encode(&texts, &Default::default(), &mut on).unwrap();
        let width = model.dimension() as usize;
        for (i, tokens) in tokens.unwrap().iter().enumerate() {
            let ids = model.tokenizer().encode_batch(&texts[i..=i]).unwrap();
            assert_eq!(tokens.len(), ids[0].len() * width, "{model_type}");
            let first = Tensor::from_slice(&tokens[..width]);
            assert_close(model_type, &embeddings.get(i as i64), &first, 1e-5);
        }
    }
}

//! Every type of encoder against transformers' numbers, on both engines.
//!
//! The numbers come from ../fixtures/make_encoders.py.

use std::{collections::HashMap, fs, path::PathBuf};

use model::{
    ChunkLimit, ChunkedBatch, Compute, Engine, MODEL_TYPES, ModelError, NewTokenizer, Precision,
    SentenceTransformer, Sizes,
};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use crate::{
    assert_close, copy, fixture,
    folders::{read_weights, write_weights},
};

/// The types that have fixtures; MPNet has its own.
fn types() -> impl Iterator<Item = &'static str> {
    MODEL_TYPES.into_iter().filter(|&name| name != "mpnet")
}

fn folder(model_type: &str) -> PathBuf {
    fixture("encoders").join(model_type)
}

fn expected(model_type: &str) -> (Value, HashMap<String, Tensor>) {
    let folder = folder(model_type);
    let json = fs::read(folder.join("expected.json")).unwrap();
    let tensors = Tensor::read_safetensors(folder.join("expected.safetensors")).unwrap();
    (
        serde_json::from_slice(&json).unwrap(),
        tensors.into_iter().collect(),
    )
}

fn load(model_type: &str, engine: Engine) -> SentenceTransformer {
    let mut model = SentenceTransformer::load(&folder(model_type), Device::Cpu).unwrap();
    model.set_dropout(0.0).unwrap();
    let compute = Compute {
        engine,
        ..Compute::default()
    };
    model.set_compute(compute).unwrap();
    model
}

/// Calls `check` for every type on every engine.
fn for_each(check: impl Fn(&str, &SentenceTransformer)) {
    for model_type in types() {
        for engine in [Engine::Kernels, Engine::Libtorch] {
            let model = load(model_type, engine);
            assert_eq!(model.engine(), engine);
            check(&format!("{model_type} on {engine:?}"), &model);
        }
    }
}

fn type_of(name: &str) -> &str {
    name.split(' ').next().unwrap()
}

#[test]
fn texts_get_the_same_ids() {
    for model_type in types() {
        let (json, _) = expected(model_type);
        let texts: Vec<String> = serde_json::from_value(json["texts"].clone()).unwrap();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let ids: Vec<Vec<u32>> = serde_json::from_value(json["ids"].clone()).unwrap();
        let model = load(model_type, Engine::Kernels);
        let found = model.tokenizer().encode_batch(&texts).unwrap();
        for (text, (found, expected)) in texts.iter().zip(found.iter().zip(&ids)) {
            assert_eq!(found, expected, "{model_type}: {text:?}");
        }
    }
}

/// The mean of each layer's states, and their other poolings, of sentences beyond the window.
#[test]
fn every_layer_and_every_gradient_is_upstreams() {
    for_each(|name, model| {
        let (json, tensors) = expected(type_of(name));
        let ids: Vec<Vec<u32>> = serde_json::from_value(json["sentences"].clone()).unwrap();
        let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
        let limits = [
            ChunkLimit::NONE,
            ChunkLimit {
                tokens: 30,
                sentences: 2,
            },
        ];
        for limit in limits {
            let batch = ChunkedBatch::new(&ids, limit, Device::Cpu).unwrap();
            let layers: Vec<usize> = (0..model.n_layers()).collect();
            let found = model.embed_layers(&batch, &layers).unwrap();
            let output = (&found[0], layers.len());
            for (found, layer) in found[1..].iter().zip(layers.clone()).chain([output]) {
                let expected = &tensors[&format!("pooled.{layer}")];
                let expected = expected.view(found.size().as_slice());
                assert_close(&format!("{name}, layer {layer}"), found, &expected, 1e-5);
            }
            let alone = model.embed_chunks(&batch).unwrap();
            assert_close(name, &alone, &found[0], 1e-6);

            let gradient = model.parameters().zero_gradient().unwrap();
            let loss = model.forward_backward(&batch, 0, &gradient, |embeddings| {
                let matrix = &tensors["gradient_matrix"];
                let loss = (embeddings * matrix).sum(Kind::Float);
                Ok::<_, ModelError>((loss, matrix.shallow_clone()))
            });
            drop(loss.unwrap());
            let largest = gradient.abs().max().double_value(&[]);
            let mut n_seen = 0;
            for span in model.parameters().spans() {
                let found = gradient.narrow(0, span.offset, span.numel());
                let found = found.view(span.shape.as_slice());
                let expected = &tensors[&format!("gradient.{}", span.name)];
                n_seen += 1;
                // Zero but for rounding: the softmax takes no notice of a key's bias.
                let scale = expected.abs().max().double_value(&[]).max(0.01 * largest);
                assert_close(
                    &format!("{name}: {}", span.name),
                    &found,
                    expected,
                    1e-5 * scale,
                );
                let zeros = expected.eq(0.0);
                let not_zero = found.ne(0.0).logical_and(&zeros).sum(Kind::Int64);
                assert_eq!(not_zero.int64_value(&[]), 0, "{name}: {}", span.name);
            }
            let n_expected = tensors.keys().filter(|key| key.starts_with("gradient."));
            assert_eq!(n_seen, n_expected.count());
        }
    });
}

#[test]
fn the_same_parameters_are_decayed() {
    for model_type in types() {
        let (json, _) = expected(model_type);
        let model = load(model_type, Engine::Kernels);
        for (key, decay) in [("decayed", true), ("not_decayed", false)] {
            let mut found: Vec<&str> = model
                .parameters()
                .spans()
                .iter()
                .filter(|span| span.decay == decay)
                .map(|span| span.name.as_str())
                .collect();
            found.sort_unstable();
            assert_eq!(json!(found), json[key], "{model_type}");
        }
    }
}

#[test]
fn texts_get_the_same_embeddings_also_from_a_saved_folder() {
    for_each(|name, model| {
        let (json, tensors) = expected(type_of(name));
        let texts: Vec<String> = serde_json::from_value(json["texts"].clone()).unwrap();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let encode = |model: &SentenceTransformer| {
            let mut on = |_| std::ops::ControlFlow::Continue(());
            model.encode(&texts, &Default::default(), &mut on).unwrap()
        };
        assert_close(name, &encode(model), &tensors["embeddings"], 1e-5);

        let saved = tempfile::tempdir().unwrap();
        model.save(saved.path()).unwrap();
        let mut again = SentenceTransformer::load(saved.path(), Device::Cpu).unwrap();
        again.set_compute(model.compute()).unwrap();
        crate::assert_equal(name, &encode(&again), &encode(model));
        let source = folder(type_of(name));
        for file in ["tokenizer.json", "tokenizer_config.json"] {
            let read = |folder: &std::path::Path| fs::read(folder.join(file)).unwrap();
            assert_eq!(read(saved.path()), read(&source), "{name}: {file}");
        }
        let config = |folder: &std::path::Path| -> Value {
            serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap()
        };
        assert_eq!(config(saved.path()), config(&source), "{name}");
        // The pooler too, which nothing computes with.
        let weights = |folder: &std::path::Path| read_weights(&folder.join("model.safetensors"));
        assert!(weights(saved.path()) == weights(&source), "{name}");
    });
}

/// Names as other models around an encoder and older versions wrote them.
#[test]
fn prefixes_old_names_heads_and_buffers_are_read() {
    let cases = [
        (
            "bert",
            "bert.",
            vec!["cls.predictions.bias", "bert.pooler.dense.bias"],
        ),
        ("roberta", "roberta.", vec!["lm_head.dense.bias"]),
        ("xlm-roberta", "roberta.", vec!["lm_head.dense.bias"]),
        (
            "distilbert",
            "distilbert.",
            vec!["vocab_transform.bias", "vocab_layer_norm.weight"],
        ),
        (
            "modernbert",
            "model.",
            vec!["head.dense.weight", "decoder.bias"],
        ),
    ];
    for (model_type, prefix, heads) in cases {
        let temporary = tempfile::tempdir().unwrap();
        copy(&folder(model_type), temporary.path());
        let path = temporary.path().join("model.safetensors");
        let mut tensors: std::collections::BTreeMap<_, _> = read_weights(&path)
            .into_iter()
            .map(|(name, tensor)| {
                let old = name
                    .replace("LayerNorm.weight", "LayerNorm.gamma")
                    .replace("LayerNorm.bias", "LayerNorm.beta");
                (format!("{prefix}{old}"), tensor)
            })
            .collect();
        for head in heads {
            let zeros = (safetensors::Dtype::F32, vec![3], vec![0; 12]);
            tensors.insert(head.to_owned(), zeros);
        }
        let buffer = (safetensors::Dtype::I64, vec![1, 2], vec![0; 16]);
        tensors.insert(format!("{prefix}embeddings.position_ids"), buffer);
        write_weights(&path, &tensors);
        let found = SentenceTransformer::load(temporary.path(), Device::Cpu).unwrap();
        let expected = load(model_type, Engine::Kernels);
        crate::assert_equal(
            model_type,
            found.parameters().flat(),
            expected.parameters().flat(),
        );
    }
}

#[test]
fn configurations_that_are_not_computed_are_refused_by_name() {
    let set = |key: &'static str, value: Value| {
        move |config: &mut Value| {
            config[key] = value.clone();
        }
    };
    type Edit = Box<dyn Fn(&mut Value)>;
    let cases: [(&str, Edit, &[&str]); 12] = [
        (
            "bert",
            Box::new(set("model_type", json!("gpt2"))),
            &[
                "`model_type`: found \"gpt2\"",
                "\"xlm-roberta\"",
                "\"modernbert\"",
            ],
        ),
        (
            "bert",
            Box::new(set("is_decoder", json!(true))),
            &["`is_decoder`: found true, allowed: false"],
        ),
        (
            "bert",
            Box::new(set("position_embedding_type", json!("relative_key"))),
            &[
                "`position_embedding_type`: found \"relative_key\"",
                "absolute",
            ],
        ),
        (
            "bert",
            Box::new(set("auto_map", json!({"AutoModel": "x--y.Z"}))),
            &["`auto_map`", "code of its own"],
        ),
        (
            "bert",
            Box::new(set("hidden_act", json!("relu"))),
            &["`hidden_act`: found \"relu\", allowed: \"gelu\""],
        ),
        (
            "bert",
            Box::new(set("pad_token_id", json!(100_000))),
            &["`pad_token_id`: found 100000"],
        ),
        (
            "roberta",
            Box::new(set("pad_token_id", json!(70))),
            &["`max_position_embeddings`: found 68"],
        ),
        (
            "distilbert",
            Box::new(set("n_heads", json!(3))),
            &["`n_heads`: found 3, allowed: a divisor of dim, 16"],
        ),
        (
            "modernbert",
            Box::new(set("norm_bias", json!(true))),
            &["`norm_bias`: found true, allowed: false"],
        ),
        (
            "modernbert",
            Box::new(set("num_attention_heads", json!(16))),
            &["`num_attention_heads`: found 16", "even"],
        ),
        (
            "modernbert",
            Box::new(set("layer_types", json!(["full_attention"]))),
            &["`layer_types`", "a list of 4"],
        ),
        (
            "modernbert",
            Box::new(set(
                "rope_parameters",
                json!({"full_attention": {"rope_theta": 1.0, "rope_type": "yarn"}}),
            )),
            &["`rope_parameters`", "default"],
        ),
    ];
    for (model_type, edit, parts) in cases {
        let temporary = tempfile::tempdir().unwrap();
        copy(&folder(model_type), temporary.path());
        let path = temporary.path().join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        edit(&mut config);
        fs::write(&path, config.to_string()).unwrap();
        let error = SentenceTransformer::load(temporary.path(), Device::Cpu).unwrap_err();
        for part in parts {
            assert!(
                error.to_string().contains(part),
                "{part:?} is not in {error}"
            );
        }
    }
}

/// Older files of ModernBERT have keys of their own for the kinds of layers and the bases of their positions.
#[test]
fn older_keys_of_modernbert_are_read() {
    let temporary = tempfile::tempdir().unwrap();
    copy(&folder("modernbert"), temporary.path());
    let path = temporary.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let keys = config.as_object_mut().unwrap();
    keys.remove("layer_types").unwrap();
    keys.remove("rope_parameters").unwrap();
    keys.insert("global_rope_theta".to_owned(), json!(160_000.0));
    keys.insert("local_rope_theta".to_owned(), json!(10_000.0));
    fs::write(&path, config.to_string()).unwrap();
    let found = SentenceTransformer::load(temporary.path(), Device::Cpu).unwrap();
    let expected = load("modernbert", Engine::Kernels);
    assert_eq!(found.encoder().spec(), expected.encoder().spec());
}

/// A dropout mask is the seed's and the place's, however a batch is cut into chunks.
#[test]
fn dropout_is_the_same_in_chunks() {
    for model_type in types() {
        let mut model = load(model_type, Engine::Kernels);
        model.set_dropout(0.2).unwrap();
        let (json, tensors) = expected(model_type);
        let ids: Vec<Vec<u32>> = serde_json::from_value(json["sentences"].clone()).unwrap();
        let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
        let gradient = |limit, seed| {
            let batch = ChunkedBatch::new(&ids, limit, Device::Cpu).unwrap();
            let gradient = model.parameters().zero_gradient().unwrap();
            let loss = model.forward_backward(&batch, seed, &gradient, |embeddings| {
                let matrix = &tensors["gradient_matrix"];
                let loss = (embeddings * matrix).sum(Kind::Float);
                Ok::<_, ModelError>((loss, matrix.shallow_clone()))
            });
            drop(loss.unwrap());
            gradient
        };
        let (tokens, sentences) = (30, 2);
        let whole = gradient(ChunkLimit::NONE, 3);
        let scale = whole.abs().max().double_value(&[]);
        let chunked = gradient(ChunkLimit { tokens, sentences }, 3);
        assert_close(model_type, &chunked, &whole, 1e-5 * scale);
        let other = gradient(ChunkLimit::NONE, 4);
        assert!(
            crate::max_difference(&other, &whole) > 1e-3 * scale,
            "{model_type}"
        );
    }
}

/// Embeddings and gradients in 16 bits, near those in 32 and not the same.
#[test]
fn sixteen_bits_are_close_for_every_type() {
    tch::set_num_threads(1);
    let norm = |x: &Tensor| x.norm().double_value(&[]);
    for model_type in types() {
        let (json, tensors) = expected(model_type);
        let ids: Vec<Vec<u32>> = serde_json::from_value(json["sentences"].clone()).unwrap();
        let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
        let batch = ChunkedBatch::new(&ids, ChunkLimit::NONE, Device::Cpu).unwrap();
        for engine in [Engine::Kernels, Engine::Libtorch] {
            let mut model = load(model_type, engine);
            let step = |model: &SentenceTransformer| {
                let gradient = model.parameters().zero_gradient().unwrap();
                let mut found = Tensor::new();
                let loss = model.forward_backward(&batch, 0, &gradient, |embeddings| {
                    found = embeddings.copy();
                    let matrix = &tensors["gradient_matrix"];
                    let loss = (embeddings * matrix).sum(Kind::Float);
                    Ok::<_, ModelError>((loss, matrix.shallow_clone()))
                });
                drop(loss.unwrap());
                (found, gradient)
            };
            let (embeddings, gradient) = step(&model);
            for (precision, tolerance) in [(Precision::Fp16, 0.03), (Precision::Bf16, 0.2)] {
                let compute = Compute {
                    engine,
                    precision,
                    ..Compute::default()
                };
                let name = format!("{model_type} on {engine:?} in {precision}");
                if let Err(error) = model.set_compute(compute) {
                    // Then the message is all there is to test.
                    let message = error.to_string();
                    assert!(message.contains("this processor lacks AVX512"), "{message}");
                    continue;
                }
                let (found, found_gradient) = step(&model);
                for (what, found, expected) in [
                    ("embeddings", found, &embeddings),
                    ("gradient", found_gradient, &gradient),
                ] {
                    assert_eq!(found.kind(), Kind::Float, "{name}");
                    let off = norm(&(found - expected)) / norm(expected);
                    assert!(off < tolerance && off > 1e-6, "{name}: {what} off by {off}");
                }
            }
        }
    }
}

/// Layers of a sentence beyond a length that depends on the sizes are computed a second time instead of being kept: the
/// gradient is that of autograd, and under dropout that of shorter parts, which are kept.
#[test]
fn a_long_sentence_is_computed_again_layer_by_layer() {
    tch::set_num_threads(1);
    let sizes = Sizes {
        hidden_size: 16,
        n_layers: 3,
        heads: 2,
        intermediate_size: 24,
        position_rows: 700,
        dropout: 0.2,
    };
    let ids: Vec<Vec<u32>> = [9, 640, 20, 9]
        .iter()
        .map(|&length| (0..length).map(|i| 5 + (i * i + length) % 40).collect())
        .collect();
    let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
    for model_type in types() {
        let folder = folder(model_type);
        let tokenizer = NewTokenizer::Folder(&folder);
        let mut model =
            SentenceTransformer::init(model_type, &sizes, tokenizer, 1, Device::Cpu).unwrap();
        let gradient = |model: &SentenceTransformer, limit| {
            let batch = ChunkedBatch::new(&ids, limit, Device::Cpu).unwrap();
            let gradient = model.parameters().zero_gradient().unwrap();
            let loss = model.forward_backward(&batch, 3, &gradient, |embeddings| {
                let n = embeddings.numel() as i64;
                let weights = (Tensor::arange(n, (Kind::Float, Device::Cpu)) * 0.37).sin();
                let weights = weights.view(embeddings.size().as_slice());
                Ok::<_, ModelError>(((embeddings * &weights).sum(Kind::Float), weights))
            });
            drop(loss.unwrap());
            gradient
        };
        let parts = ChunkLimit {
            tokens: 100,
            sentences: 9,
        };
        let whole = gradient(&model, ChunkLimit::NONE);
        let scale = whole.abs().max().double_value(&[]);
        assert_close(model_type, &gradient(&model, parts), &whole, 1e-5 * scale);

        model.set_dropout(0.0).unwrap();
        let found = gradient(&model, ChunkLimit::NONE);
        let compute = Compute {
            engine: Engine::Libtorch,
            ..Compute::default()
        };
        model.set_compute(compute).unwrap();
        let expected = gradient(&model, ChunkLimit::NONE);
        let scale = expected.abs().max().double_value(&[]);
        assert_close(model_type, &found, &expected, 1e-5 * scale);
    }
}

/// Models with random weights, from each kind of tokenizer.
#[test]
fn every_type_is_made_with_random_weights() {
    let sizes = Sizes {
        hidden_size: 16,
        n_layers: 3,
        heads: 2,
        intermediate_size: 24,
        position_rows: 66,
        dropout: 0.1,
    };
    for model_type in types() {
        let folder = folder(model_type);
        let tokenizer = NewTokenizer::Folder(&folder);
        let make = |seed| {
            SentenceTransformer::init(model_type, &sizes, tokenizer, seed, Device::Cpu).unwrap()
        };
        let (model, published) = (make(1), load(model_type, Engine::Kernels));
        let spec = model.encoder().spec();
        assert_eq!(spec.vocab_size, published.encoder().spec().vocab_size);
        assert_eq!(spec.numbering, published.encoder().spec().numbering);
        let names = |model: &SentenceTransformer| -> Vec<String> {
            let spans = model.parameters().spans().iter();
            let names = spans.map(|span| span.name.clone());
            names.filter(|name| !name.contains("layer")).collect()
        };
        assert_eq!(names(&model), names(&published), "{model_type}");
        let flat = model.parameters().flat();
        crate::assert_equal(model_type, make(1).parameters().flat(), flat);
        assert!(crate::max_difference(make(2).parameters().flat(), flat) > 0.02);
        // Of a normal distribution, or one that is cut at two deviations.
        let words = model.parameters().spans()[0].clone();
        let words = model.parameters().view(&words.name).unwrap();
        let deviation = words.std(false).double_value(&[]);
        let expected = match spec.init.cutoff {
            Some(_) => 0.0176,
            None => 0.02,
        };
        assert!(
            (deviation - expected).abs() < 0.001,
            "{model_type}: {deviation}"
        );
        let saved = tempfile::tempdir().unwrap();
        model.save(saved.path()).unwrap();
        let again = SentenceTransformer::load(saved.path(), Device::Cpu).unwrap();
        crate::assert_equal(model_type, again.parameters().flat(), flat);
        // The ids that transformers' configurations have, of the tokens around a text.
        let config: Value =
            serde_json::from_slice(&fs::read(saved.path().join("config.json")).unwrap()).unwrap();
        let ids = model.tokenizer().encode_batch(&["a"]).unwrap().remove(0);
        let (cls, sep) = (ids[0], *ids.last().unwrap());
        let mut n_keys = 0;
        for (key, id) in [
            ("bos_token_id", cls),
            ("cls_token_id", cls),
            ("eos_token_id", sep),
            ("sep_token_id", sep),
        ] {
            if let Some(found) = config.get(key) {
                assert_eq!(found, id, "{model_type}: {key}");
                n_keys += 1;
            }
        }
        let expected = match model_type {
            "modernbert" => 4,
            "roberta" | "xlm-roberta" => 2,
            _ => 0,
        };
        assert_eq!(n_keys, expected, "{model_type}");
    }
    let pieces = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\ndog\n";
    let tokenizer = NewTokenizer::WordPieces(pieces);
    let model = SentenceTransformer::init("bert", &sizes, tokenizer, 1, Device::Cpu).unwrap();
    assert_eq!(model.max_seq_length(), 66);
    let ids = model.tokenizer().encode_batch(&["A dog"]).unwrap();
    assert_eq!(ids, [[2, 5, 6, 3]]);
}

//! Adapters and frozen parts, on both engines, against peft's numbers.
//!
//! The numbers come from ../fixtures/make_adapters.py.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use model::{
    ChunkLimit, ChunkedBatch, Compute, Engine, LoadOptions, Lora, LoraTargets, MODEL_TYPES,
    ModelError, Precision, SentenceTransformer,
};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use crate::{assert_close, assert_equal, copy, fixture, folders::read_weights, max_difference};

const ENGINES: [Engine; 2] = [Engine::Kernels, Engine::Libtorch];

/// The root of the factors' names.
const ROOT: &str = "base_model.model.";

fn base(model_type: &str) -> PathBuf {
    match model_type {
        "mpnet" => fixture("tiny-mpnet"),
        other => fixture("encoders").join(other),
    }
}

fn adapter(model_type: &str) -> PathBuf {
    fixture("adapters").join(model_type)
}

fn expected(model_type: &str) -> HashMap<String, Tensor> {
    let tensors = Tensor::read_safetensors(adapter(model_type).join("expected.safetensors"));
    tensors.unwrap().into_iter().collect()
}

/// Texts, and the ids of other sentences, of the base's fixture.
fn inputs(model_type: &str) -> (Vec<String>, Vec<Vec<u32>>) {
    let (path, keys) = match model_type {
        "mpnet" => (fixture("expected.json"), ["sentences", "ids"]),
        other => (base(other).join("expected.json"), ["texts", "sentences"]),
    };
    let json: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    (
        serde_json::from_value(json[keys[0]].clone()).unwrap(),
        serde_json::from_value(json[keys[1]].clone()).unwrap(),
    )
}

fn set(model: &mut SentenceTransformer, engine: Engine) {
    let compute = Compute {
        engine,
        ..Compute::default()
    };
    model.set_compute(compute).unwrap();
    model.set_dropout(0.0).unwrap();
    model.set_adapter_dropout(0.0).unwrap();
}

fn open(folder: &Path, options: &LoadOptions, engine: Engine) -> SentenceTransformer {
    let mut model = SentenceTransformer::load_with(folder, options, Device::Cpu).unwrap();
    set(&mut model, engine);
    model
}

fn load(folder: &Path, engine: Engine) -> SentenceTransformer {
    open(folder, &LoadOptions::default(), engine)
}

fn encode(model: &SentenceTransformer, model_type: &str) -> Tensor {
    let (texts, _) = inputs(model_type);
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let on = &mut |_| ControlFlow::Continue(());
    model.encode(&texts, &Default::default(), on).unwrap()
}

/// The gradient of the fixed scalar of `matrix` by what is trained.
fn gradient(
    model: &SentenceTransformer,
    model_type: &str,
    matrix: &Tensor,
    limit: ChunkLimit,
    seed: u64,
) -> Tensor {
    let (_, ids) = inputs(model_type);
    let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
    let batch = ChunkedBatch::new(&ids, limit, Device::Cpu).unwrap();
    let gradient = model.parameters().zero_gradient().unwrap();
    let loss = model.forward_backward(&batch, seed, &gradient, |embeddings| {
        let loss = (embeddings * matrix).sum(Kind::Float);
        Ok::<_, ModelError>((loss, matrix.shallow_clone()))
    });
    drop(loss.unwrap());
    gradient
}

/// A matrix for [`gradient`] of a model without a fixture of adapters.
fn any_matrix(model: &SentenceTransformer, model_type: &str) -> Tensor {
    let n = inputs(model_type).1.len() as i64;
    let places = Tensor::arange(n * model.dimension(), (Kind::Float, Device::Cpu));
    (places * 0.7).sin().view([n, model.dimension()])
}

const CHUNKS: ChunkLimit = ChunkLimit {
    tokens: 30,
    sentences: 2,
};

#[test]
fn embeddings_and_gradients_are_pefts() {
    for model_type in MODEL_TYPES {
        let tensors = expected(model_type);
        for engine in ENGINES {
            let name = format!("{model_type} on {engine:?}");
            let model = load(&adapter(model_type), engine);
            let found = encode(&model, model_type);
            let expected = &tensors["embeddings"];
            // Both are in fp32, so by its largest element.
            let scale = expected.abs().max().double_value(&[]);
            assert_close(&name, &found, expected, 1e-6 * scale);
            let parameters = model.parameters();
            let factors: Vec<_> = parameters.spans().iter().filter(|s| s.trained).collect();
            let n_trained: i64 = factors.iter().map(|span| span.numel()).sum();
            assert_eq!(parameters.n_trained(), n_trained, "{name}");
            assert_eq!(parameters.decayed(), n_trained, "{name}");
            let names: BTreeSet<&str> = factors.iter().map(|span| span.name.as_str()).collect();
            let of_file = tensors
                .keys()
                .filter_map(|key| key.strip_prefix("gradient."));
            assert_eq!(names, of_file.collect(), "{name}");
            for limit in [ChunkLimit::NONE, CHUNKS] {
                let found = gradient(&model, model_type, &tensors["gradient_matrix"], limit, 0);
                assert_eq!(found.size(), [n_trained]);
                let largest = found.abs().max().double_value(&[]);
                for span in &factors {
                    let found = found.narrow(0, span.offset, span.numel());
                    let expected = &tensors[&format!("gradient.{}", span.name)];
                    let scale = expected.abs().max().double_value(&[]).max(0.01 * largest);
                    assert_close(
                        &format!("{name}: {}", span.name),
                        &found.view_as(expected),
                        expected,
                        1e-5 * scale,
                    );
                }
            }
        }
    }
}

#[test]
fn a_saved_adapter_has_upstreams_files_names_and_settings() {
    for model_type in MODEL_TYPES {
        let source = adapter(model_type);
        let model = load(&source, Engine::Kernels);
        let saved = tempfile::tempdir().unwrap();
        model.save(saved.path()).unwrap();
        for absent in ["config.json", "model.safetensors"] {
            assert!(
                !saved.path().join(absent).exists(),
                "{model_type}: {absent}"
            );
        }
        let json = |folder: &Path, name: &str| -> Value {
            serde_json::from_slice(&fs::read(folder.join(name)).unwrap()).unwrap()
        };
        let config = "adapter_config.json";
        assert_eq!(json(saved.path(), config), json(&source, config));
        let weights = "adapter_model.safetensors";
        let mut upstreams = read_weights(&source.join(weights));
        upstreams.retain(|name, _| !name.contains("pooler"));
        assert_eq!(read_weights(&saved.path().join(weights)), upstreams);
        let again = load(saved.path(), Engine::Kernels);
        assert_equal(
            model_type,
            again.parameters().flat(),
            model.parameters().flat(),
        );
        assert_equal(
            model_type,
            &encode(&again, model_type),
            &encode(&model, model_type),
        );
    }
}

#[test]
fn a_merged_adapter_computes_the_same() {
    for model_type in MODEL_TYPES {
        for engine in ENGINES {
            let name = format!("{model_type} on {engine:?}");
            let mut model = load(&adapter(model_type), engine);
            let unmerged = encode(&model, model_type);
            let scale = unmerged.abs().max().double_value(&[]).max(1.0);
            let folder = tempfile::tempdir().unwrap();
            for (path, bytes) in model.merged_files().unwrap().files() {
                let path = folder.path().join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, bytes).unwrap();
            }
            let saved = load(folder.path(), engine);
            assert!(saved.adapter().is_none());
            // A pooler that came with the base is the merged model's too.
            let keys = |folder: &Path| -> BTreeSet<String> {
                let weights = read_weights(&folder.join("model.safetensors"));
                weights.into_keys().collect()
            };
            assert_eq!(keys(folder.path()), keys(&base(model_type)), "{name}");
            assert_close(&name, &encode(&saved, model_type), &unmerged, 1e-6 * scale);
            model.merge_adapter().unwrap();
            assert!(model.adapter().is_none(), "{name}");
            let parameters = model.parameters();
            assert_eq!(parameters.n_trained(), parameters.numel(), "{name}");
            assert_equal(&name, parameters.flat(), saved.parameters().flat());
            assert_equal(
                &name,
                &encode(&model, model_type),
                &encode(&saved, model_type),
            );
        }
    }
}

/// A new adapter of a rank, of other linear layers than query and value where some are named.
fn with_lora(model_type: &str, targets: LoraTargets, engine: Engine) -> SentenceTransformer {
    let options = LoadOptions {
        lora: Some(Lora {
            targets,
            alpha: 8.0,
            seed: 3,
            ..Lora::new(4)
        }),
        ..LoadOptions::default()
    };
    open(&base(model_type), &options, engine)
}

#[test]
fn a_new_adapter_starts_as_its_base() {
    let modules = |model_type: &str| match model_type {
        "mpnet" => ["q", "v"].as_slice(),
        "distilbert" => &["q_lin", "v_lin"],
        "modernbert" => &["Wqkv"],
        _ => &["query", "value"],
    };
    for model_type in MODEL_TYPES {
        let whole = load(&base(model_type), Engine::Kernels);
        for targets in [LoraTargets::QueryAndValue, LoraTargets::AllLinear] {
            let model = with_lora(model_type, targets.clone(), Engine::Kernels);
            let adapter = model.adapter().unwrap();
            assert_eq!((adapter.rank(), adapter.scale()), (4, 2.0));
            if targets == LoraTargets::QueryAndValue {
                assert_eq!(adapter.modules(), modules(model_type));
            }
            let (found, expected) = (encode(&model, model_type), encode(&whole, model_type));
            assert_close(model_type, &found, &expected, 1e-6);
            let mut n_linear = BTreeSet::new();
            for span in model.parameters().spans() {
                let Some(path) = span.name.strip_prefix(ROOT) else {
                    assert!(!span.trained && !span.decay, "{}", span.name);
                    let own = model.parameters().view(&span.name).unwrap();
                    let bases = whole.parameters().view(&span.name).unwrap();
                    assert_equal(&span.name, &own, &bases);
                    continue;
                };
                let values = model.parameters().view(&span.name).unwrap();
                let largest = values.abs().max().double_value(&[]);
                if path.ends_with("lora_B.weight") {
                    assert_eq!(largest, 0.0, "{path}");
                    continue;
                }
                n_linear.insert(path.split_once(".lora_").unwrap().0.to_owned());
                let bound = 1.0 / (span.shape[1] as f64).sqrt();
                assert!(
                    0.8 * bound < largest && largest <= bound,
                    "{path}: {largest}"
                );
                assert!(values.mean(Kind::Float).double_value(&[]).abs() < 0.3 * bound);
            }
            let per_layer = match (model_type, &targets) {
                ("modernbert", LoraTargets::QueryAndValue) => 1,
                ("modernbert", _) => 4,
                (_, LoraTargets::QueryAndValue) => 2,
                _ => 6,
            };
            assert_eq!(n_linear.len(), per_layer * model.n_layers(), "{model_type}");
        }
    }
}

/// With factors that are not zero, both engines have the gradient of the other, and the numerical one along it.
#[test]
fn all_linear_layers_have_the_gradients_of_autograd() {
    for model_type in MODEL_TYPES {
        let [by_hand, by_autograd] = ENGINES.map(|engine| {
            let model = with_lora(model_type, LoraTargets::AllLinear, engine);
            let mut factors = model.parameters().trained().unwrap();
            let n = factors.numel() as i64;
            let values = (Tensor::arange(n, (Kind::Float, Device::Cpu)) * 0.37).sin() * 0.1;
            tch::no_grad(|| factors.copy_(&values));
            let matrix = any_matrix(&model, model_type);
            [
                gradient(&model, model_type, &matrix, ChunkLimit::NONE, 0),
                gradient(&model, model_type, &matrix, CHUNKS, 0),
            ]
        });
        let scale = by_autograd[0].abs().max().double_value(&[]);
        for found in &by_hand {
            assert_close(model_type, found, &by_autograd[0], 1e-5 * scale);
        }
        assert_close(model_type, &by_autograd[1], &by_autograd[0], 1e-5 * scale);
    }
}

/// A mask is the seed's and the place's, however a batch is cut into chunks; and both engines drop out as many.
#[test]
fn dropout_before_the_adapter_is_the_seeds_and_the_places() {
    for model_type in MODEL_TYPES {
        let tensors = expected(model_type);
        let matrix = &tensors["gradient_matrix"];
        let mut model = load(&adapter(model_type), Engine::Kernels);
        let without = gradient(&model, model_type, matrix, ChunkLimit::NONE, 3);
        let scale = without.abs().max().double_value(&[]);
        model.set_adapter_dropout(0.3).unwrap();
        let of_seed = |seed, limit| gradient(&model, model_type, matrix, limit, seed);
        let whole = of_seed(3, ChunkLimit::NONE);
        assert_equal(model_type, &of_seed(3, ChunkLimit::NONE), &whole);
        assert_close(model_type, &of_seed(3, CHUNKS), &whole, 1e-5 * scale);
        for other in [&without, &of_seed(4, ChunkLimit::NONE)] {
            assert!(max_difference(other, &whole) > 1e-2 * scale, "{model_type}");
        }
        // Embeddings outside of training have none.
        assert_close(
            model_type,
            &encode(&model, model_type),
            &tensors["embeddings"],
            1e-5,
        );
        // The mean over masks comes near the gradient without them, as it would not if a kept value were not scaled.
        for engine in ENGINES.into_iter().filter(|_| model_type == "mpnet") {
            set(&mut model, engine);
            model.set_adapter_dropout(0.05).unwrap();
            let n = 60;
            let mut mean = without.zeros_like();
            for seed in 0..n {
                mean += gradient(&model, model_type, matrix, ChunkLimit::NONE, seed) / n as f64;
            }
            let distance = (&mean - &without).norm().double_value(&[]);
            let length = without.norm().double_value(&[]);
            assert!(
                distance < 0.2 * length,
                "{model_type} on {engine:?}: {distance} of {length}"
            );
        }
    }
}

#[test]
fn adapters_are_computed_in_16_bits() {
    for model_type in MODEL_TYPES {
        let tensors = expected(model_type);
        let matrix = &tensors["gradient_matrix"];
        let mut model = load(&adapter(model_type), Engine::Kernels);
        let exact = gradient(&model, model_type, matrix, ChunkLimit::NONE, 0);
        for engine in ENGINES {
            for precision in [Precision::Bf16, Precision::Fp16] {
                let compute = Compute {
                    engine,
                    precision,
                    ..Compute::default()
                };
                // The processor may lack the instructions.
                if model.set_compute(compute).is_err() {
                    continue;
                }
                let found = gradient(&model, model_type, matrix, ChunkLimit::NONE, 0);
                let distance = (&found - &exact).norm().double_value(&[]);
                let length = exact.norm().double_value(&[]);
                assert!(
                    0.0 < distance && distance < 0.1 * length,
                    "{model_type} on {engine:?} in {precision}: {distance} of {length}"
                );
            }
        }
    }
}

/// Rounded copies of weights follow those that are trained, and the others too where they are read anew.
#[test]
fn rounded_weights_follow() {
    let mut model = load(&adapter("mpnet"), Engine::Libtorch);
    let compute = Compute {
        engine: Engine::Libtorch,
        precision: Precision::Bf16,
        ..Compute::default()
    };
    model.set_compute(compute).unwrap();
    let before = encode(&model, "mpnet");
    let factors = model.parameters().trained().unwrap();
    let kept = factors.copy();
    let _ = tch::no_grad(|| factors.shallow_clone().fill_(0.0));
    let mut whole = load(&base("mpnet"), Engine::Libtorch);
    whole.set_compute(compute).unwrap();
    assert_equal(
        "no adapter",
        &encode(&model, "mpnet"),
        &encode(&whole, "mpnet"),
    );
    tch::no_grad(|| factors.shallow_clone().copy_(&kept));
    assert_equal("again", &encode(&model, "mpnet"), &before);
    let _ = tch::no_grad(|| factors.shallow_clone().fill_(0.5));
    model.read_weights(&adapter("mpnet")).unwrap();
    assert_equal("from the folder", &encode(&model, "mpnet"), &before);
}

/// The gradient of what is trained is the one that it has when all is, and there is none of the rest.
#[test]
fn frozen_parts_get_no_gradient_and_change_no_others() {
    for model_type in MODEL_TYPES {
        let last = load(&base(model_type), Engine::Kernels).n_layers() - 1;
        let mut lists = vec![
            vec!["embeddings".to_owned()],
            vec!["embeddings".to_owned(), "layers:0".to_owned()],
            vec![format!("layers:0-{}", last - 1)],
            vec!["embeddings".to_owned(), format!("layers:{last}")],
            vec!["layers".to_owned()],
        ];
        if model_type == "mpnet" {
            let relative = "relative-bias".to_owned();
            lists.push(vec![relative.clone(), "embeddings".to_owned()]);
            lists.push(vec![
                relative,
                "embeddings".to_owned(),
                "layers:0".to_owned(),
            ]);
        }
        if model_type == "modernbert" {
            let norm = "final-norm".to_owned();
            lists.push(vec![
                norm.clone(),
                "embeddings".to_owned(),
                "layers:0-1".to_owned(),
            ]);
            lists.push(vec!["embeddings".to_owned(), "layers".to_owned()]);
            lists.push(vec![norm, "layers".to_owned()]);
        }
        for engine in ENGINES {
            let whole = load(&base(model_type), engine);
            let matrix = any_matrix(&whole, model_type);
            for limit in [ChunkLimit::NONE, CHUNKS] {
                let expected = gradient(&whole, model_type, &matrix, limit, 0);
                let scale = expected.abs().max().double_value(&[]);
                for freeze in &lists {
                    let name = format!("{model_type} on {engine:?} without {freeze:?}");
                    let options = LoadOptions {
                        freeze: freeze.clone(),
                        ..LoadOptions::default()
                    };
                    let model = open(&base(model_type), &options, engine);
                    let found = gradient(&model, model_type, &matrix, limit, 0);
                    let parameters = model.parameters();
                    assert_eq!(found.size(), [parameters.n_trained()], "{name}");
                    let mut n_decayed = 0;
                    for span in parameters.spans() {
                        let is_frozen = freeze.iter().any(|part| is_of(&span.name, part, last));
                        assert_eq!(span.trained, !is_frozen, "{name}: {}", span.name);
                        if is_frozen {
                            assert!(span.offset >= parameters.n_trained() && !span.decay);
                            continue;
                        }
                        n_decayed += if span.decay { span.numel() } else { 0 };
                        let other = whole.parameters().spans().iter();
                        let other = other.clone().find(|other| other.name == span.name).unwrap();
                        assert_eq!(span.decay, other.decay);
                        let found = found.narrow(0, span.offset, span.numel());
                        let expected = expected.narrow(0, other.offset, other.numel());
                        let name = format!("{name}: {}", span.name);
                        match engine {
                            Engine::Kernels => assert_equal(&name, &found, &expected),
                            // Autograd may add up in another order.
                            _ => assert_close(&name, &found, &expected, 1e-6 * scale),
                        }
                    }
                    assert_eq!(n_decayed, parameters.decayed(), "{name}");
                    assert_equal(
                        &name,
                        &encode(&model, model_type),
                        &encode(&whole, model_type),
                    );
                }
            }
        }
    }
}

/// Whether a parameter is of a part.
fn is_of(name: &str, part: &str, last: usize) -> bool {
    let layer = name.split('.').find_map(|step| step.parse::<usize>().ok());
    match part {
        "embeddings" => name.starts_with("embeddings."),
        "relative-bias" => name.contains("relative_attention_bias"),
        "final-norm" => name.starts_with("final_norm"),
        "layers" => layer.is_some(),
        other => {
            let range = other.strip_prefix("layers:").unwrap();
            let (from, to) = range.split_once('-').unwrap_or((range, range));
            let (from, to): (usize, usize) = (from.parse().unwrap(), to.parse().unwrap());
            assert!(to <= last);
            layer.is_some_and(|layer| (from..=to).contains(&layer))
        }
    }
}

/// Layers that are frozen get no adapter, and are named by their paths, as peft finds them in every type.
#[test]
fn frozen_layers_get_no_adapter() {
    for model_type in MODEL_TYPES {
        let options = LoadOptions {
            lora: Some(Lora::new(2)),
            freeze: vec!["embeddings".to_owned(), "layers:0".to_owned()],
            ..LoadOptions::default()
        };
        for engine in ENGINES {
            let model = open(&base(model_type), &options, engine);
            let paths = model.adapter().unwrap().modules();
            assert!(
                paths
                    .iter()
                    .all(|path| !path.contains(".0.") && !path.starts_with("layers.0"))
            );
            let factors = model
                .parameters()
                .spans()
                .iter()
                .filter(|span| span.trained);
            assert_eq!(factors.count(), 2 * paths.len(), "{model_type}");
            // The gradients are those that the factors have where all layers have an adapter, which are zero at first.
            let matrix = any_matrix(&model, model_type);
            let found = gradient(&model, model_type, &matrix, ChunkLimit::NONE, 0);
            let all = LoadOptions {
                freeze: Vec::new(),
                ..options.clone()
            };
            let all = open(&base(model_type), &all, engine);
            let expected = gradient(&all, model_type, &matrix, ChunkLimit::NONE, 0);
            let scale = expected.abs().max().double_value(&[]);
            for span in model
                .parameters()
                .spans()
                .iter()
                .filter(|span| span.trained)
            {
                let of_all = all.parameters().spans().iter();
                let of_all = of_all
                    .clone()
                    .find(|other| other.name == span.name)
                    .unwrap();
                let expected = expected.narrow(0, of_all.offset, of_all.numel());
                let found = found.narrow(0, span.offset, span.numel());
                assert_close(&span.name, &found, &expected, 1e-6 * scale);
            }
        }
    }
}

#[test]
fn wrong_settings_are_refused_with_what_there_is() {
    let lora = |change: &dyn Fn(&mut Lora)| {
        let mut lora = Lora::new(4);
        change(&mut lora);
        (Some(lora), Vec::new())
    };
    let freeze = |parts: &[&str]| (None, parts.iter().map(|&part| part.to_owned()).collect());
    let names = |names: &[&str]| {
        let names = names.iter().map(|&name| name.to_owned()).collect();
        lora(&|lora| lora.targets = LoraTargets::Names(Clone::clone(&names)))
    };
    type Options = (Option<Lora>, Vec<String>);
    let cases: [(&str, Options, &[&str]); 9] = [
        (
            "mpnet",
            lora(&|lora| lora.rank = 0),
            &["lora-r: found 0, allowed: 1 to 4096"],
        ),
        (
            "mpnet",
            lora(&|lora| lora.alpha = f64::NAN),
            &["lora-alpha: found NaN"],
        ),
        (
            "mpnet",
            lora(&|lora| lora.dropout = 1.0),
            &["lora-dropout: found 1", "less than 1"],
        ),
        (
            "bert",
            names(&["query", "q_proj"]),
            &["found \"q_proj\"", "all-linear", "attention.self.value"],
        ),
        (
            "mpnet",
            freeze(&["embedding"]),
            &[
                "found \"embedding\"",
                "layers:0-1",
                "embeddings; relative-bias",
            ],
        ),
        (
            "modernbert",
            freeze(&["layers:4"]),
            &["layers:0-3", "final-norm"],
        ),
        (
            "bert",
            freeze(&["relative-bias"]),
            &["layers:0-1 or some of them, as layers:3", "embeddings"],
        ),
        (
            "bert",
            freeze(&["embeddings", "layers"]),
            &["nothing is left"],
        ),
        (
            "bert",
            (Some(Lora::new(4)), vec!["layers".to_owned()]),
            &["lora-r: all layers are frozen"],
        ),
    ];
    let refused = |folder: &Path, (lora, freeze): Options, parts: &[&str]| {
        let options = LoadOptions {
            base: None,
            lora,
            freeze,
        };
        let error = SentenceTransformer::load_with(folder, &options, Device::Cpu).unwrap_err();
        for part in parts {
            let message = error.to_string();
            assert!(message.contains(part), "{part:?} is not in {message}");
        }
    };
    for (model_type, options, parts) in cases {
        refused(&base(model_type), options, parts);
    }
    let adapted = adapter("mpnet");
    let has_one: &[&str] = &[
        "has an adapter already (rank 4, scale 2, of q, v)",
        "merge it first",
    ];
    refused(&adapted, lora(&|_| ()), has_one);
    refused(
        &adapted,
        freeze(&["layers:0"]),
        &["layers:0", "leave it out"],
    );
}

/// Modules after the encoder stay trained beside an adapter, unless they are frozen, and are saved with it.
#[test]
fn dense_modules_are_trained_beside_an_adapter() {
    let folder = tempfile::tempdir().unwrap();
    copy(&base("bert"), folder.path());
    crate::mutations::with_dense_of(folder.path(), 64);
    for engine in ENGINES {
        let lora = LoadOptions {
            lora: Some(Lora::new(2)),
            ..LoadOptions::default()
        };
        let model = open(folder.path(), &lora, engine);
        let is_dense = |name: &str| name.starts_with("2_Dense.");
        let trained: Vec<&str> = model
            .parameters()
            .spans()
            .iter()
            .filter(|span| span.trained)
            .map(|span| span.name.as_str())
            .collect();
        assert!(
            trained
                .iter()
                .all(|name| is_dense(name) || name.starts_with(ROOT))
        );
        assert_eq!(trained.iter().filter(|name| is_dense(name)).count(), 2);
        let weights = model.parameters().view("2_Dense.linear.weight").unwrap();
        let _ = tch::no_grad(|| weights.shallow_clone().fill_(0.25));
        let matrix = any_matrix(&model, "bert");
        let found = gradient(&model, "bert", &matrix, ChunkLimit::NONE, 0);
        assert_eq!(found.size(), [model.parameters().n_trained()]);
        let dense = model
            .parameters()
            .spans()
            .iter()
            .find(|span| is_dense(&span.name))
            .unwrap();
        let of_dense = found.narrow(0, dense.offset, dense.numel());
        assert!(of_dense.abs().max().double_value(&[]) > 0.0);

        let saved = tempfile::tempdir().unwrap();
        model.save(saved.path()).unwrap();
        let again = load(saved.path(), engine);
        assert_equal(
            "dense",
            again.parameters().flat(),
            model.parameters().flat(),
        );
        let _ = tch::no_grad(|| weights.shallow_clone().fill_(0.75));
        model.read_weights(saved.path()).unwrap();
        assert_equal("read", model.parameters().flat(), again.parameters().flat());

        let frozen = LoadOptions {
            freeze: vec!["2_Dense".to_owned()],
            ..lora
        };
        let model = open(folder.path(), &frozen, engine);
        let dense = model
            .parameters()
            .spans()
            .iter()
            .filter(|span| is_dense(&span.name));
        assert!(dense.clone().all(|span| !span.trained));
        let found = gradient(&model, "bert", &matrix, ChunkLimit::NONE, 0);
        assert_eq!(found.size(), [model.parameters().n_trained()]);
    }
}

/// The folder of the base may be given, where the one that the adapter names is elsewhere.
#[test]
fn another_folder_of_the_base_may_be_given() {
    let folder = tempfile::tempdir().unwrap();
    copy(&adapter("bert"), folder.path());
    let path = folder.path().join("adapter_config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["base_model_name_or_path"] = json!("org/name");
    config["revision"] = json!("v1");
    fs::write(&path, config.to_string()).unwrap();
    let named = model::BaseModel::of_folder(folder.path()).unwrap().unwrap();
    assert_eq!(
        (named.name.as_str(), named.revision.as_deref()),
        ("org/name", Some("v1"))
    );
    assert_eq!(model::BaseModel::of_folder(&base("bert")).unwrap(), None);
    let error = SentenceTransformer::load(folder.path(), Device::Cpu).unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("found \"org/name\", which is no folder here") && message.contains("hub"),
        "{message}"
    );
    let options = LoadOptions {
        base: Some(base("bert")),
        ..LoadOptions::default()
    };
    let found = open(folder.path(), &options, Engine::Kernels);
    let expected = load(&adapter("bert"), Engine::Kernels);
    assert_equal(
        "bert",
        found.parameters().flat(),
        expected.parameters().flat(),
    );
    // Also where only the folder of a run's checkpoint is read again.
    found.read_weights(folder.path()).unwrap();
}

/// Where one token of each sentence is pooled, the last layer is computed for it alone, with its adapters too.
#[test]
fn the_last_layer_of_one_token_has_the_same_gradients() {
    for model_type in MODEL_TYPES.into_iter().filter(|&name| name != "mpnet") {
        let folder = tempfile::tempdir().unwrap();
        copy(&base(model_type), folder.path());
        let pooling = json!({"embedding_dimension": 16, "pooling_mode": ["cls"]});
        let path = folder.path().join("1_Pooling/config.json");
        fs::write(path, pooling.to_string()).unwrap();
        let last = format!(
            "layers:0-{}",
            load(folder.path(), Engine::Kernels).n_layers() - 2
        );
        let lora = |targets| LoadOptions {
            lora: Some(Lora {
                targets,
                ..Lora::new(2)
            }),
            ..LoadOptions::default()
        };
        let frozen = |parts: &[&str]| LoadOptions {
            freeze: parts.iter().map(|&part| part.to_owned()).collect(),
            ..LoadOptions::default()
        };
        for options in [
            lora(LoraTargets::QueryAndValue),
            lora(LoraTargets::AllLinear),
            frozen(&["embeddings"]),
            frozen(&["embeddings", &last]),
        ] {
            for engine in ENGINES {
                let name = format!("{model_type} on {engine:?} with {options:?}");
                // The first of the fixture's poolings is that of the first token.
                let [one, all] = [folder.path(), &base(model_type)].map(|folder| {
                    let model = open(folder, &options, engine);
                    if options.lora.is_some() {
                        let mut factors = model.parameters().trained().unwrap();
                        let n = factors.numel() as i64;
                        let places = Tensor::arange(n, (Kind::Float, Device::Cpu));
                        tch::no_grad(|| factors.copy_(&((places * 0.37).sin() * 0.1)));
                    }
                    model
                });
                let of_one = any_matrix(&one, model_type);
                let of_all = any_matrix(&all, model_type).zeros_like();
                of_all.narrow(1, 0, 16).copy_(&of_one);
                let found = gradient(&one, model_type, &of_one, CHUNKS, 0);
                let expected = gradient(&all, model_type, &of_all, ChunkLimit::NONE, 0);
                let scale = expected.abs().max().double_value(&[]);
                assert_close(&name, &found, &expected, 1e-5 * scale);
                let (found, expected) = (encode(&one, model_type), encode(&all, model_type));
                assert_close(&name, &found, &expected.narrow(1, 0, 16), 1e-5);
            }
        }
    }
}

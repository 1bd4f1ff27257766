//! Damaged model folders by the thousand: 60 of each kind here, 10,000 with `SENTUNE_MUTATIONS=10000`.
//!
//! In each case one file of a good folder is damaged. A folder that loads must be what its files say, which
//! a second reader in these tests checks: the weights to the bit, each value of a configuration,
//! each token's id. With `MUTATE_CASES=17..18 MUTATE_LOG=log` a test runs one file.

use std::{collections::HashMap, fs, path::Path};

use half::{bf16, f16};
use model::{SentenceTransformer, Spec};
use mutate::{Gauntlet, Mutator, Outcome, count};
use serde_json::{Map, Value, json};
use tch::{Device, Tensor};

use crate::{
    copy, fixture,
    folders::{read_weights, write_weights},
};

const WORDS: &[&str] = &[
    "\"..\"",
    "\"../../etc\"",
    "\"/etc/passwd\"",
    "\"C:\\\\x\"",
    "\"1_Pooling\"",
    "\"2_Dense\"",
    "\"\"",
    "{}",
    "[]",
    "null",
    "true",
    "\"sentence_transformers.models.Dense\"",
    "\"sentence_transformers.models.Normalize\"",
    "\"os.system\"",
    "\"F16\"",
    "\"BF16\"",
    "\"F64\"",
    "\"F4\"",
    "\"I8\"",
    "[0,4]",
    "[18446744073709551615,1]",
    "\"__metadata__\"",
    "\"embeddings.word_embeddings.weight\"",
    "\"torch.nn.modules.activation.ReLU\"",
    "\"cls\"",
    "\"Unigram\"",
    "\"BPE\"",
    "\"WordLevel\"",
    "\"Split\"",
    "{\"type\":\"Sequence\",\"normalizers\":[]}",
    "{\"type\":\"FixedLength\",\"length\":0}",
    "{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"(a+)+$\"},\"content\":\"aa\"}",
    "<s>",
    "[UNK]",
];

const TEXTS: [&str; 4] = [
    "",
    "a dog sleeps",
    "caf\u{e9} \u{5e9}\u{5dc} \u{1f468}\u{200d}\u{1f469} 12345 !?",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\
     aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab",
];

/// Runs one kind: `file` in a folder that `prepare` has made of a copy of the tiny model.
fn gauntlet(
    test: &str,
    file: &str,
    prepare: impl Fn(&Path),
    check: impl Fn(&[u8], &SentenceTransformer),
) {
    gauntlet_of("tiny-mpnet", test, file, prepare, check);
}

/// As [`gauntlet`], of another fixture.
fn gauntlet_of(
    model: &str,
    test: &str,
    file: &str,
    prepare: impl Fn(&Path),
    check: impl Fn(&[u8], &SentenceTransformer),
) {
    let folder = tempfile::tempdir().unwrap();
    copy(&fixture(model), folder.path());
    prepare(folder.path());
    SentenceTransformer::load(folder.path(), Device::Cpu).expect("the folder is good at first");
    let path = folder.path().join(file);
    let whole = fs::read(&path).unwrap();
    // Most of a safetensors file is numbers; every other time the damage is to the header.
    let header = match file.ends_with(".safetensors") {
        true => 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize,
        false => whole.len(),
    };
    let run = Gauntlet {
        test: &format!("mutations::{test}"),
        kind: file,
        n_files: count(60),
        address_space: 16 << 10,
        memory: 512,
    };
    run.run(|i| {
        let mut mutator = Mutator::new(i, WORDS);
        let bytes = if i.is_multiple_of(2) {
            mutator.mutate(&whole, &whole)
        } else {
            let head = mutator.mutate(&whole[..header], &whole);
            [&head, &whole[header..]].concat()
        };
        fs::write(&path, &bytes).unwrap();
        match SentenceTransformer::load(folder.path(), Device::Cpu) {
            Ok(model) => {
                for ids in model.tokenizer().encode_batch(&TEXTS).unwrap_or_default() {
                    assert!(ids.len() <= model.max_seq_length(), "{} ids", ids.len());
                    let vocab_size = model.encoder().spec().vocab_size;
                    assert!(ids.iter().all(|id| i64::from(*id) < vocab_size), "{ids:?}");
                }
                check(&bytes, &model);
                Outcome::Loaded
            }
            Err(error) => {
                let message = error.to_string();
                assert!(message.len() < 4000, "{} bytes of message", message.len());
                let names_it = message.contains(folder.path().to_str().unwrap());
                assert!(names_it, "names no file: {message}");
                match message.contains("panics") {
                    true => Outcome::PanicCaught,
                    false => Outcome::Refused,
                }
            }
        }
    });
}

fn object(bytes: &[u8]) -> Map<String, Value> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    serde_json::from_slice(bytes).expect("what loads is JSON")
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    Vec::try_from(tensor.detach().flatten(0, -1)).unwrap()
}

/// The weights to the bit, from the header's offsets.
fn check_weights(bytes: &[u8], model: &SentenceTransformer) {
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Map<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let header: HashMap<String, &Value> = header
        .iter()
        .map(|(name, entry)| {
            let prefixes = ["mpnet.", "bert.", "roberta.", "distilbert.", "model."];
            let mut prefixes = prefixes.into_iter();
            let name = prefixes
                .find_map(|prefix| name.strip_prefix(prefix))
                .unwrap_or(name);
            let name = name.replace("LayerNorm.gamma", "LayerNorm.weight");
            (name.replace("LayerNorm.beta", "LayerNorm.bias"), entry)
        })
        .collect();
    for span in model.parameters().spans() {
        let Some(entry) = header.get(&span.name) else {
            panic!("{} is not in the file", span.name)
        };
        assert_eq!(entry["shape"], json!(span.shape), "{}", span.name);
        let place = |i: usize| 8 + length + entry["data_offsets"][i].as_u64().unwrap() as usize;
        let data = &bytes[place(0)..place(1)];
        let pairs = || data.chunks_exact(2).map(|b| [b[0], b[1]]);
        let said: Vec<f32> = match entry["dtype"].as_str().unwrap() {
            "F32" => data
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
                .collect(),
            "F16" => pairs().map(|b| f16::from_le_bytes(b).to_f32()).collect(),
            "BF16" => pairs().map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
            other => panic!("{other} is read"),
        };
        let found = floats(&model.parameters().view(&span.name).unwrap());
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&found), bits(&said), "{}", span.name);
        assert!(found.iter().all(|value| value.is_finite()), "{}", span.name);
    }
}

#[test]
fn safetensors() {
    gauntlet("safetensors", "model.safetensors", |_| (), check_weights);
}

#[test]
fn safetensors_half() {
    let prepare = |folder: &Path| {
        let path = folder.join("model.safetensors");
        let mut tensors = read_weights(&path);
        for (i, (dtype, _, bytes)) in tensors.values_mut().enumerate() {
            let floats = bytes
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes(b.try_into().unwrap()));
            (*dtype, *bytes) = match i % 2 {
                0 => (
                    safetensors::Dtype::F16,
                    floats
                        .flat_map(|x| f16::from_f32(x).to_le_bytes())
                        .collect(),
                ),
                _ => (
                    safetensors::Dtype::BF16,
                    floats
                        .flat_map(|x| bf16::from_f32(x).to_le_bytes())
                        .collect(),
                ),
            };
        }
        write_weights(&path, &tensors);
    };
    gauntlet(
        "safetensors_half",
        "model.safetensors",
        prepare,
        check_weights,
    );
}

#[test]
fn index_of_shards() {
    let good = fs::read(fixture("tiny-mpnet").join("model.safetensors")).unwrap();
    let prepare = |folder: &Path| {
        let path = folder.join("model.safetensors");
        let mut first = read_weights(&path);
        let middle = first.keys().nth(first.len() / 2).unwrap().clone();
        let second = first.split_off(&middle);
        let mut map = Map::new();
        for (file, part) in [("a.safetensors", &first), ("b.safetensors", &second)] {
            write_weights(&folder.join(file), part);
            map.extend(part.keys().map(|name| (name.clone(), json!(file))));
        }
        let index = json!({"metadata": {"total_size": 1}, "weight_map": map});
        fs::write(
            folder.join("model.safetensors.index.json"),
            index.to_string(),
        )
        .unwrap();
        fs::remove_file(path).unwrap();
    };
    let file = "model.safetensors.index.json";
    gauntlet("index_of_shards", file, prepare, |bytes, model| {
        assert!(object(bytes)["weight_map"].is_object());
        check_weights(&good, model);
    });
}

#[test]
fn config() {
    gauntlet(
        "config",
        "config.json",
        |_| (),
        |bytes, model| {
            let json = object(bytes);
            assert_eq!(json["model_type"], "mpnet");
            assert_eq!(json["hidden_act"], "gelu");
            let spec = model.encoder().spec();
            for (key, found) in [
                ("vocab_size", spec.vocab_size as f64),
                ("hidden_size", spec.hidden_size as f64),
                ("num_hidden_layers", spec.layers.len() as f64),
                ("num_attention_heads", spec.heads as f64),
                ("intermediate_size", spec.intermediate_size as f64),
                (
                    "max_position_embeddings",
                    spec.position_rows.unwrap() as f64,
                ),
                ("hidden_dropout_prob", spec.dropout.output.unwrap()),
                ("hidden_dropout_prob", spec.dropout.attention.unwrap()),
                ("hidden_dropout_prob", spec.dropout.embeddings.unwrap()),
                (
                    "attention_probs_dropout_prob",
                    spec.dropout.probabilities.unwrap(),
                ),
                ("initializer_range", spec.init.range),
                ("layer_norm_eps", spec.eps),
                ("relative_attention_num_buckets", 32.0),
                ("pad_token_id", f64::from(spec.numbering.padding_id)),
            ] {
                if let Some(said) = json.get(key) {
                    assert_eq!(Some(found), said.as_f64(), "{key}");
                }
            }
            let limit = json["max_position_embeddings"].as_u64().unwrap() as usize;
            assert!(model.max_seq_length() < limit);
        },
    );
}

/// A key of config.json and the value that was read from it.
type Key = (&'static str, fn(&Spec) -> f64);

/// config.json of another type: each key that is there has the value that was read.
fn config_of(model_type: &str, test: &str, keys: &[Key]) {
    let model = format!("encoders/{model_type}");
    gauntlet_of(
        &model,
        test,
        "config.json",
        |_| (),
        |bytes, model| {
            let json = object(bytes);
            assert_eq!(json["model_type"], model_type);
            for (key, read) in keys {
                if let Some(said) = json.get(*key) {
                    let found = read(model.encoder().spec());
                    assert_eq!(Some(found), said.as_f64(), "{key}");
                }
            }
        },
    );
}

#[test]
fn config_of_bert() {
    config_of(
        "bert",
        "config_of_bert",
        &[
            ("vocab_size", |spec| spec.vocab_size as f64),
            ("hidden_size", |spec| spec.hidden_size as f64),
            ("num_hidden_layers", |spec| spec.layers.len() as f64),
            ("num_attention_heads", |spec| spec.heads as f64),
            ("intermediate_size", |spec| spec.intermediate_size as f64),
            ("max_position_embeddings", |spec| spec.max_length as f64),
            ("type_vocab_size", |spec| spec.token_types.unwrap() as f64),
            ("layer_norm_eps", |spec| spec.eps),
            ("pad_token_id", |spec| spec.numbering.padding_id.into()),
            ("hidden_dropout_prob", |spec| spec.dropout.output.unwrap()),
        ],
    );
}

#[test]
fn config_of_roberta() {
    config_of(
        "roberta",
        "config_of_roberta",
        &[
            ("max_position_embeddings", |spec| {
                spec.max_length as f64 + f64::from(spec.numbering.padding_id) + 1.0
            }),
            ("type_vocab_size", |spec| spec.token_types.unwrap() as f64),
            ("pad_token_id", |spec| spec.numbering.padding_id.into()),
        ],
    );
}

#[test]
fn config_of_distilbert() {
    config_of(
        "distilbert",
        "config_of_distilbert",
        &[
            ("dim", |spec| spec.hidden_size as f64),
            ("n_layers", |spec| spec.layers.len() as f64),
            ("n_heads", |spec| spec.heads as f64),
            ("hidden_dim", |spec| spec.intermediate_size as f64),
            ("attention_dropout", |spec| {
                spec.dropout.probabilities.unwrap()
            }),
        ],
    );
}

#[test]
fn config_of_modernbert() {
    config_of(
        "modernbert",
        "config_of_modernbert",
        &[
            ("hidden_size", |spec| spec.hidden_size as f64),
            ("num_hidden_layers", |spec| spec.layers.len() as f64),
            ("intermediate_size", |spec| spec.intermediate_size as f64),
            ("max_position_embeddings", |spec| spec.max_length as f64),
            ("norm_eps", |spec| spec.eps),
            ("mlp_dropout", |spec| spec.dropout.intermediate.unwrap()),
            ("initializer_range", |spec| spec.init.range),
        ],
    );
}

#[test]
fn config_of_xlm_roberta() {
    config_of(
        "xlm-roberta",
        "config_of_xlm_roberta",
        &[
            ("vocab_size", |spec| spec.vocab_size as f64),
            ("intermediate_size", |spec| spec.intermediate_size as f64),
            ("layer_norm_eps", |spec| spec.eps),
            ("pad_token_id", |spec| spec.numbering.padding_id.into()),
            ("attention_probs_dropout_prob", |spec| {
                spec.dropout.probabilities.unwrap()
            }),
        ],
    );
}

/// The weights of another type under a prefix and older names, in F32.
fn safetensors_of(model_type: &str, test: &str, prefix: &str) {
    let prepare = |folder: &Path| {
        let path = folder.join("model.safetensors");
        let tensors = read_weights(&path).into_iter().map(|(name, tensor)| {
            let name = name.replace("LayerNorm.weight", "LayerNorm.gamma");
            (format!("{prefix}{name}"), tensor)
        });
        write_weights(&path, &tensors.collect());
    };
    let file = "model.safetensors";
    let model = format!("encoders/{model_type}");
    gauntlet_of(&model, test, file, prepare, check_weights);
}

#[test]
fn safetensors_of_bert() {
    safetensors_of("bert", "safetensors_of_bert", "bert.");
}

#[test]
fn safetensors_of_roberta() {
    safetensors_of("roberta", "safetensors_of_roberta", "roberta.");
}

#[test]
fn safetensors_of_xlm_roberta() {
    safetensors_of("xlm-roberta", "safetensors_of_xlm_roberta", "");
}

#[test]
fn safetensors_of_distilbert() {
    safetensors_of("distilbert", "safetensors_of_distilbert", "distilbert.");
}

#[test]
fn safetensors_of_modernbert() {
    safetensors_of("modernbert", "safetensors_of_modernbert", "model.");
}

/// The weights of an adapter, whose base is another folder.
#[test]
fn adapter_weights() {
    let check = |bytes: &[u8], model: &SentenceTransformer| {
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: Map<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        let factors = model
            .parameters()
            .spans()
            .iter()
            .filter(|span| span.trained);
        assert_eq!(factors.clone().count(), 8);
        for span in factors {
            let entry = &header[&span.name];
            assert_eq!(entry["shape"], json!(span.shape), "{}", span.name);
            let values = floats(&model.parameters().view(&span.name).unwrap());
            assert!(values.iter().all(|value| value.is_finite()));
            if entry["dtype"] == "F32" {
                let from = 8 + length + entry["data_offsets"][0].as_u64().unwrap() as usize;
                let said = bytes[from..].chunks_exact(4);
                let said = said.map(|b| u32::from_le_bytes(b.try_into().unwrap()));
                assert!(
                    values
                        .iter()
                        .map(|v| v.to_bits())
                        .eq(said.take(values.len()))
                );
            }
        }
    };
    let file = "adapter_model.safetensors";
    gauntlet_of("adapters/mpnet", "adapter_weights", file, |_| (), check);
}

#[test]
fn adapter_config() {
    let file = "adapter_config.json";
    gauntlet_of(
        "adapters/mpnet",
        "adapter_config",
        file,
        |_| (),
        |bytes, model| {
            let json = object(bytes);
            assert_eq!(json["peft_type"], "LORA");
            let adapter = model.adapter().unwrap();
            assert_eq!(json["r"].as_i64(), Some(adapter.rank()));
            let alpha = json
                .get("lora_alpha")
                .map_or(Some(8.0), Value::as_f64)
                .unwrap();
            let rslora = json
                .get("use_rslora")
                .is_some_and(|said| *said == json!(true));
            let rank = adapter.rank() as f64;
            let divisor = if rslora { rank.sqrt() } else { rank };
            assert_eq!(adapter.scale(), alpha / divisor);
            let dropout = json.get("lora_dropout").map_or(Some(0.0), Value::as_f64);
            assert_eq!(dropout, Some(adapter.dropout()));
            for key in [
                "use_dora",
                "modules_to_save",
                "rank_pattern",
                "alpha_pattern",
            ] {
                let is_empty = json.get(key).is_none_or(|value| {
                    [json!(null), json!(false), json!({}), json!([])].contains(value)
                });
                assert!(is_empty, "{key}");
            }
            let factors = model
                .parameters()
                .spans()
                .iter()
                .filter(|span| span.trained);
            assert_eq!(factors.count(), 8, "the file has so many");
        },
    );
}

#[test]
fn sentence_bert_config() {
    let file = "sentence_bert_config.json";
    gauntlet(
        "sentence_bert_config",
        file,
        |_| (),
        |bytes, model| {
            let said = object(bytes).get("max_seq_length").and_then(Value::as_u64);
            if let Some(said) = said {
                let limit = model.encoder().spec().max_length;
                assert_eq!(model.max_seq_length(), limit.min(said as usize));
            }
        },
    );
}

#[test]
fn sentence_transformers_config() {
    let file = "config_sentence_transformers.json";
    gauntlet(
        "sentence_transformers_config",
        file,
        |_| (),
        |bytes, model| {
            let json = object(bytes);
            let text = |key: &str| json.get(key).and_then(Value::as_str);
            assert_eq!(model.default_prompt_name(), text("default_prompt_name"));
            assert_eq!(
                model.similarity_fn_name().name(),
                text("similarity_fn_name").unwrap_or("cosine")
            );
            match json.get("prompts").filter(|prompts| !prompts.is_null()) {
                Some(said) => assert_eq!(&json!(model.prompts()), said),
                None => assert!(model.prompts().is_empty()),
            }
        },
    );
}

#[test]
fn modules() {
    gauntlet("modules", "modules.json", with_dense, |bytes, model| {
        let modules: Vec<Map<String, Value>> =
            serde_json::from_slice(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)).unwrap();
        let class = |module: &Map<String, Value>| {
            let name = module["type"].as_str().unwrap();
            assert!(name.starts_with("sentence_transformers."), "{name}");
            name.rsplit('.').next().unwrap().to_owned()
        };
        let classes: Vec<String> = modules.iter().map(class).collect();
        assert_eq!(classes[..2], ["Transformer", "Pooling"]);
        for module in &modules {
            let path = module["path"].as_str().unwrap();
            assert!(
                !path.starts_with('/') && !path.split('/').any(|part| part == ".."),
                "{path}"
            );
        }
        let dense = classes.iter().any(|class| class == "Dense");
        assert_eq!(model.dimension(), if dense { 8 } else { 32 });
    });
}

/// Adds a Dense module from 32 to 8 dimensions and a Normalize.
fn with_dense(folder: &Path) {
    with_dense_of(folder, 32);
}

/// Adds a Dense module to 8 dimensions and a Normalize.
pub(crate) fn with_dense_of(folder: &Path, inputs: usize) {
    let path = folder.join("modules.json");
    let mut modules: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let list = modules.as_array_mut().unwrap();
    for (i, class) in [(2, "Dense"), (3, "Normalize")] {
        let name = format!("sentence_transformers.models.{class}");
        list.push(
            json!({"idx": i, "name": i.to_string(), "path": format!("{i}_{class}"), "type": name}),
        );
        fs::create_dir(folder.join(format!("{i}_{class}"))).unwrap();
    }
    fs::write(&path, modules.to_string()).unwrap();
    let config = json!({
        "in_features": inputs,
        "out_features": 8,
        "bias": true,
        "activation_function": "torch.nn.modules.activation.Tanh",
    });
    fs::write(folder.join("2_Dense/config.json"), config.to_string()).unwrap();
    let weights =
        [("linear.weight", vec![8, inputs]), ("linear.bias", vec![8])].map(|(name, shape)| {
            let bytes = vec![0; 4 * shape.iter().product::<usize>()];
            (name.to_owned(), (safetensors::Dtype::F32, shape, bytes))
        });
    write_weights(&folder.join("2_Dense/model.safetensors"), &weights.into());
}

#[test]
fn pooling_config() {
    gauntlet(
        "pooling_config",
        "1_Pooling/config.json",
        |_| (),
        |bytes, model| {
            let json = object(bytes);
            let n_modes = match json.get("pooling_mode") {
                Some(Value::Array(modes)) => modes.len(),
                Some(_) => 1,
                None => {
                    let is_flag =
                        |key: &str| key.starts_with("pooling_mode_") && json[key] == json!(true);
                    let known = [
                        "cls_token",
                        "max_tokens",
                        "mean_tokens",
                        "mean_sqrt_len_tokens",
                        "weightedmean_tokens",
                        "lasttoken",
                    ]
                    .map(|mode| format!("pooling_mode_{mode}"));
                    let n = json
                        .keys()
                        .filter(|key| known.contains(key) && is_flag(key))
                        .count();
                    n.max(1)
                }
            };
            assert_eq!(model.dimension(), 32 * n_modes as i64);
        },
    );
}

#[test]
fn dense_config() {
    gauntlet(
        "dense_config",
        "2_Dense/config.json",
        with_dense,
        |bytes, model| {
            let json = object(bytes);
            assert_eq!(
                (&json["in_features"], &json["out_features"]),
                (&json!(32), &json!(8))
            );
            assert_eq!(model.dimension(), 8);
        },
    );
}

/// tokenizer.json of a fixture: each token has one of the ids that the file gives it.
fn tokenizer_of(model: &str, test: &str) {
    let file = "tokenizer.json";
    gauntlet_of(
        model,
        test,
        file,
        |_| (),
        |bytes, model| {
            let json = object(bytes);
            let mut ids: HashMap<&str, Vec<u64>> = HashMap::new();
            match &json["model"]["vocab"] {
                Value::Object(vocab) => {
                    for (token, id) in vocab {
                        ids.entry(token).or_default().extend(id.as_u64());
                    }
                }
                // Of Unigram: pieces with their scores, in the order of their ids.
                vocab => {
                    for (id, piece) in vocab.as_array().into_iter().flatten().enumerate() {
                        let token = piece[0].as_str().unwrap();
                        ids.entry(token).or_default().push(id as u64);
                    }
                }
            }
            for token in json
                .get("added_tokens")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
            {
                let (content, id) = (token["content"].as_str().unwrap(), token["id"].as_u64());
                ids.entry(content).or_default().extend(id);
            }
            for (token, said) in ids {
                // An empty added token is one that the tokenizers crate leaves out.
                let found = model.tokenizer().token_to_id(token).map(u64::from);
                let fits = found.map_or(token.is_empty(), |found| said.contains(&found));
                assert!(fits, "{token:?}: {found:?}, said {said:?}");
            }
        },
    );
}

#[test]
fn tokenizer_json() {
    tokenizer_of("tiny-mpnet", "tokenizer_json");
}

#[test]
fn tokenizer_json_of_bpe() {
    tokenizer_of("encoders/roberta", "tokenizer_json_of_bpe");
}

#[test]
fn tokenizer_json_of_unigram() {
    tokenizer_of("encoders/xlm-roberta", "tokenizer_json_of_unigram");
}

/// Without a tokenizer.json, the tokenizer is made of vocab.txt and tokenizer_config.json.
fn without_tokenizer_json(folder: &Path) {
    fs::remove_file(folder.join("tokenizer.json")).unwrap();
}

#[test]
fn vocab_txt() {
    gauntlet(
        "vocab_txt",
        "vocab.txt",
        without_tokenizer_json,
        |bytes, model| {
            let text = std::str::from_utf8(bytes).expect("what loads is text");
            let mut ids: HashMap<&str, Vec<usize>> = HashMap::new();
            for (i, line) in text.lines().enumerate() {
                ids.entry(line.trim_end()).or_default().push(i);
            }
            for (token, said) in ids {
                let found = model.tokenizer().token_to_id(token).map(|id| id as usize);
                let fits = found.is_some_and(|found| said.contains(&found));
                assert!(fits, "{token:?}: {found:?}, said {said:?}");
            }
        },
    );
}

/// As above, and only tokenizer_config.json gives a length.
fn without_other_settings(folder: &Path) {
    without_tokenizer_json(folder);
    fs::remove_file(folder.join("sentence_bert_config.json")).unwrap();
}

#[test]
fn tokenizer_config() {
    let file = "tokenizer_config.json";
    gauntlet(
        "tokenizer_config",
        file,
        without_other_settings,
        |bytes, model| {
            let said = object(bytes)
                .get("model_max_length")
                .and_then(Value::as_f64);
            assert!(said.is_none_or(|said| model.max_seq_length() as f64 <= said));
        },
    );
}

//! Folders that are broken, by accident or on purpose: each is refused by a message that names
//! the file and the problem.

use std::{fs, path::Path};

use model::SentenceTransformer;
use safetensors::Dtype;
use serde_json::{Value, json};
use tch::Device;

use crate::{
    copy, fixture,
    folders::{read_weights, write_weights},
};

/// Breaks a copy of the tiny model, loads it, and looks for every part in the message.
#[track_caller]
fn check(break_it: impl FnOnce(&Path), parts: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    copy(&fixture("tiny-mpnet"), folder.path());
    break_it(folder.path());
    let Err(error) = SentenceTransformer::load(folder.path(), Device::Cpu) else {
        panic!("this folder is broken, but loads");
    };
    let message = error.to_string();
    // A printed chain of errors says nothing twice.
    let source = std::error::Error::source(&error).map(ToString::to_string);
    assert!(
        source.is_none_or(|source| !message.contains(&source)),
        "{message:?}"
    );
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
    assert!(!message.contains('\n'), "{message:?}");
}

#[track_caller]
fn check_json(file: &str, edit: impl FnOnce(&mut Value), parts: &[&str]) {
    let edit = |folder: &Path| {
        let path = folder.join(file);
        let mut json =
            fs::read(&path).map_or(json!({}), |bytes| serde_json::from_slice(&bytes).unwrap());
        edit(&mut json);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, json.to_string()).unwrap();
    };
    check(edit, &[&[file], parts].concat());
}

#[track_caller]
fn check_weights(
    edit: impl FnOnce(&mut std::collections::BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>),
    parts: &[&str],
) {
    let edit = |folder: &Path| {
        let path = folder.join("model.safetensors");
        let mut tensors = read_weights(&path);
        edit(&mut tensors);
        write_weights(&path, &tensors);
    };
    check(edit, &[&["model.safetensors"], parts].concat());
}

/// Breaks a copy of an adapter, whose base is whole, and looks for every part in the message.
#[track_caller]
fn check_adapter(break_it: impl FnOnce(&Path), parts: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    copy(&fixture("adapters/mpnet"), folder.path());
    SentenceTransformer::load(folder.path(), Device::Cpu).expect("the adapter is good at first");
    break_it(folder.path());
    let Err(error) = SentenceTransformer::load(folder.path(), Device::Cpu) else {
        panic!("this adapter is broken, but loads");
    };
    let message = error.to_string();
    let names_it = message.contains(folder.path().to_str().unwrap());
    assert!(names_it && !message.contains('\n'), "{message:?}");
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

#[test]
fn settings_of_adapters() {
    let set = |key: &'static str, value: Value| {
        move |folder: &Path| {
            let path = folder.join("adapter_config.json");
            let mut json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            json[key] = value;
            fs::write(path, json.to_string()).unwrap();
        }
    };
    let other_kind = "adapters with this are not computed";
    for (key, value, part) in [
        (
            "peft_type",
            json!("IA3"),
            "found \"IA3\", allowed: \"LORA\"",
        ),
        ("peft_type", json!(null), "a string"),
        ("bias", json!("all"), "found \"all\", allowed: \"none\""),
        ("r", json!(0), "found 0, allowed: 1 to 4096"),
        ("r", json!(1u64 << 40), "allowed: 1 to 4096"),
        ("r", json!("4"), "an integer"),
        ("lora_alpha", json!(-1), "more than 0"),
        ("lora_alpha", json!("8"), "a number"),
        ("lora_dropout", json!(1.0), "0 or more and less than 1"),
        ("use_rslora", json!("yes"), "true or false"),
        ("use_dora", json!(true), other_kind),
        ("lora_bias", json!(true), other_kind),
        ("fan_in_fan_out", json!(true), other_kind),
        ("modules_to_save", json!(["pooler"]), other_kind),
        ("rank_pattern", json!({"q": 8}), other_kind),
        ("alpha_pattern", json!({"q": 8}), other_kind),
        ("layer_replication", json!([[0, 1]]), other_kind),
        (
            "target_modules",
            json!(["q", "q_proj"]),
            "\"q_proj\" is none",
        ),
        ("target_modules", json!([]), "some of attention.attn.q"),
        ("target_modules", json!([7]), "a list of names"),
        ("target_modules", json!(7), "a list of names, or a pattern"),
        (
            "layers_to_transform",
            json!([2]),
            "numbers of layers, 0 to 1",
        ),
        (
            "layers_to_transform",
            json!("all"),
            "numbers of layers, 0 to 1",
        ),
        ("base_model_name_or_path", json!(null), "name on the hub"),
        ("base_model_name_or_path", json!(7), "name on the hub"),
        (
            "base_model_name_or_path",
            json!("no/such"),
            "found \"no/such\", which is no folder here",
        ),
    ] {
        check_adapter(set(key, value), &["adapter_config.json", key, part]);
    }
    check_adapter(
        set(
            "base_model_name_or_path",
            json!("tests/fixtures/adapters/bert"),
        ),
        &[
            "no base for the adapter",
            "adapters/bert",
            "is an adapter itself",
        ],
    );
    check_adapter(
        set("base_model_name_or_path", json!("tests/fixtures")),
        &[
            "no base for the adapter",
            "tests/fixtures holds no config.json",
        ],
    );
    // Another type's: the names are none of its linear layers.
    check_adapter(
        set(
            "base_model_name_or_path",
            json!("tests/fixtures/encoders/bert"),
        ),
        &["target_modules", "attention.self.query"],
    );
    check_adapter(
        |folder: &Path| fs::write(folder.join("adapter_config.json"), "{\"r\": 4,").unwrap(),
        &["adapter_config.json", "line 1"],
    );
}

#[test]
fn weights_of_adapters() {
    type Tensors = std::collections::BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;
    const Q: &str = "base_model.model.encoder.layer.1.attention.attn.q";
    let edited = |edit: &dyn Fn(&mut Tensors), parts: &[&str]| {
        let break_it = |folder: &Path| {
            let path = folder.join("adapter_model.safetensors");
            let mut tensors = read_weights(&path);
            edit(&mut tensors);
            write_weights(&path, &tensors);
        };
        check_adapter(break_it, &[&["adapter_model.safetensors"], parts].concat());
    };
    let down = format!("{Q}.lora_A.weight");
    let up = format!("{Q}.lora_B.weight");
    edited(
        &|tensors| drop(tensors.remove(&up)),
        &["missing tensor `encoder.layer.1.attention.attn.q.lora_B.weight` [32, 4]"],
    );
    // The rank of the file is another than that of the settings.
    edited(
        &|tensors| {
            let (_, shape, bytes) = tensors.get_mut(&down).unwrap();
            (*shape, *bytes) = (vec![2, 32], vec![0; 256]);
        },
        &["lora_A.weight", "has shape [2, 32], expected [4, 32]"],
    );
    edited(
        &|tensors| {
            let k = tensors[&down].clone();
            tensors.insert(down.replace("attn.q", "attn.k"), k);
        },
        &["unexpected tensor", "attn.k.lora_A.weight"],
    );
    edited(
        &|tensors| {
            let magnitude = (Dtype::F32, vec![32], vec![0; 128]);
            tensors.insert(format!("{Q}.lora_magnitude_vector.weight"), magnitude);
        },
        &["unexpected tensor", "lora_magnitude_vector"],
    );
    edited(
        &|tensors| {
            let (_, _, bytes) = tensors.get_mut(&up).unwrap();
            bytes[4..8].copy_from_slice(&f32::NAN.to_le_bytes());
        },
        &["lora_B.weight", "holds NaN at element 1"],
    );
    edited(
        &|tensors| {
            let (dtype, _, bytes) = tensors.get_mut(&up).unwrap();
            (*dtype, *bytes) = (Dtype::F64, vec![0; 8 * 128]);
        },
        &["lora_B.weight", "is F64, allowed: F32, F16, BF16"],
    );
    edited(
        &|tensors| {
            let twice = tensors[&up].clone();
            tensors.insert(format!("{Q}.lora_B.default.weight"), twice);
        },
        &["lora_B.weight", "appears twice"],
    );
    let file = "adapter_model.safetensors";
    check_adapter(
        remove(file),
        &["no adapter_model.safetensors", "fetch the adapter again"],
    );
    check_adapter(
        |folder: &Path| {
            remove(file)(folder);
            fs::write(folder.join("adapter_model.bin"), b"\x80\x02}q\0.").unwrap();
        },
        &["adapter_model.bin is a pickle"],
    );
    check_adapter(replace(file, b"\x80\x02}q\0."), &[file, "Python pickle"]);
    check_adapter(replace(file, b""), &[file, "not a whole safetensors file"]);
}

fn remove(name: &'static str) -> impl FnOnce(&Path) {
    move |folder| fs::remove_file(folder.join(name)).unwrap()
}

fn replace(name: &'static str, content: &'static [u8]) -> impl FnOnce(&Path) {
    move |folder| fs::write(folder.join(name), content).unwrap()
}

#[test]
fn missing_files() {
    check(
        |folder| fs::remove_dir_all(folder).unwrap(),
        &["no such folder", "config.json and model.safetensors"],
    );
    check(
        remove("config.json"),
        &["no config.json", "fetched in part"],
    );
    check(
        remove("model.safetensors"),
        &[
            "no model.safetensors or model.safetensors.index.json",
            "fetch",
        ],
    );
    check(remove("1_Pooling/config.json"), &["1_Pooling/config.json"]);
    let no_tokenizer = |folder: &Path| {
        remove("tokenizer.json")(folder);
        remove("vocab.txt")(folder);
    };
    check(no_tokenizer, &["no tokenizer.json or vocab.txt"]);
}

/// Refused by their content and under every name, with advice to use safetensors.
#[test]
fn pickles_are_refused_by_content() {
    let mut tar = vec![0; 300];
    tar[257..262].copy_from_slice(b"ustar");
    let zip_of_pickle = b"PK\x03\x04\0\0\x08\x08\0\0archive/data.pkl\x80\x02}q\0.".to_vec();
    let kinds: [(&str, Vec<u8>, &str); 7] = [
        ("torch.save", zip_of_pickle, "zip archive"),
        ("protocol 2", b"\x80\x02}q\0.".to_vec(), "Python pickle"),
        (
            "protocol 4",
            b"\x80\x04\x95\x10\0\0\0".to_vec(),
            "Python pickle",
        ),
        (
            "protocol 5",
            b"\x80\x05\x95\x10\0\0\0".to_vec(),
            "Python pickle",
        ),
        (
            "protocol 0",
            b"cos\nsystem\n(S'ls'\ntR.".to_vec(),
            "Python pickle",
        ),
        (
            "protocol 0, a dictionary",
            b"(dp0\nS'a'\n.".to_vec(),
            "Python pickle",
        ),
        ("old torch.save", tar, "tar archive"),
    ];
    let names = [
        "pytorch_model.bin",
        "model.pt",
        "model.pth",
        "model.ckpt",
        "weights",
    ];
    let advice = &["pickle", "model.safetensors", "safe_serialization=True"];
    for (kind, bytes, found) in &kinds {
        // Under the name of the weights themselves, and of a shard.
        let renamed = |folder: &Path| fs::write(folder.join("model.safetensors"), bytes).unwrap();
        check(
            renamed,
            &[advice.as_slice(), &["model.safetensors", found]].concat(),
        );
        for shard in ["a.safetensors", "pytorch_model-00001-of-00002.bin"] {
            let sharded = |folder: &Path| {
                remove("model.safetensors")(folder);
                fs::write(folder.join(shard), bytes).unwrap();
                let index = json!({"weight_map": {"x": shard}}).to_string();
                fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
            };
            check(sharded, &[advice.as_slice(), &[shard, found]].concat());
        }
        for name in names {
            let alone = |folder: &Path| {
                remove("model.safetensors")(folder);
                fs::write(folder.join(name), bytes).unwrap();
            };
            check(
                alone,
                &[advice.as_slice(), &["no model.safetensors", name]].concat(),
            );
            // The file named in the place of the folder.
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(name);
            fs::write(&path, bytes).unwrap();
            let error = SentenceTransformer::load(&path, Device::Cpu).unwrap_err();
            let message = error.to_string();
            for part in advice {
                assert!(message.contains(part), "{kind}, {name}: {message}");
            }
        }
    }
    // A name alone is enough where the rest of the file is missing, and an index of pickles is one.
    for name in ["pytorch_model.bin", "pytorch_model.bin.index.json"] {
        let empty = |folder: &Path| {
            remove("model.safetensors")(folder);
            fs::write(folder.join(name), "").unwrap();
        };
        check(empty, &[advice.as_slice(), &[name]].concat());
    }
}

#[test]
fn a_config_of_a_giant_gets_no_memory() {
    let giant = |json: &mut Value| {
        json["vocab_size"] = json!(1 << 24);
        json["hidden_size"] = json!(1 << 15);
        json["num_attention_heads"] = json!(1);
        json["num_hidden_layers"] = json!(512);
    };
    check_json(
        "config.json",
        giant,
        &["it describes", "parameters", "of different models"],
    );
}

#[test]
fn a_key_that_comes_twice_is_refused() {
    for (file, first) in [
        ("config.json", "{\"hidden_size\": 32,"),
        ("modules.json", "[{\"path\": \"..\","),
        ("sentence_bert_config.json", "{\"max_seq_length\": 7,"),
        ("config_sentence_transformers.json", "{\"prompts\": {},"),
        (
            "1_Pooling/config.json",
            "{\"pooling_mode_mean_tokens\": true,",
        ),
        ("tokenizer.json", "{\"version\": \"1.0\","),
    ] {
        let twice = |folder: &Path| {
            let path = folder.join(file);
            let whole = fs::read_to_string(&path).unwrap();
            let at = whole.find('{').unwrap() + 1;
            fs::write(path, format!("{first}{}", &whole[at..])).unwrap();
        };
        check(twice, &[file, "comes twice"]);
    }
}

#[test]
fn broken_json() {
    check(
        replace("config.json", b"{\"model_type\": "),
        &["config.json", "line 1"],
    );
    check(
        replace("config.json", b"[1, 2]"),
        &["config.json", "expected a map"],
    );
    check(
        replace("config.json", b"\xff\xfe{}"),
        &["config.json", "line 1"],
    );
    check(
        replace("modules.json", b"{}"),
        &["modules.json", "expected a sequence"],
    );
    check(
        replace("sentence_bert_config.json", b""),
        &["sentence_bert_config.json", "EOF"],
    );
    check(
        replace("tokenizer_config.json", b"nothing"),
        &["tokenizer_config.json", "line 1"],
    );
}

#[test]
fn config_values() {
    let set = |key: &'static str, value: Value| move |json: &mut Value| json[key] = value;
    let f = "config.json";
    check_json(
        f,
        set("model_type", json!("gpt2")),
        &["`model_type`: found \"gpt2\", allowed: \"mpnet\", \"bert\""],
    );
    check_json(
        f,
        |json| drop(json.as_object_mut().unwrap().remove("model_type")),
        &["`model_type`: found nothing"],
    );
    check_json(
        f,
        |json| drop(json.as_object_mut().unwrap().remove("hidden_size")),
        &["`hidden_size`: found nothing"],
    );
    check_json(
        f,
        set("hidden_act", json!("relu")),
        &["`hidden_act`: found \"relu\", allowed: \"gelu\""],
    );
    check_json(
        f,
        set("num_attention_heads", json!(5)),
        &["`num_attention_heads`: found 5, allowed: a divisor of hidden_size, 32"],
    );
    check_json(
        f,
        set("num_attention_heads", json!(0)),
        &["`num_attention_heads`: found 0, allowed: 1 to 1024"],
    );
    check_json(
        f,
        set("hidden_size", json!("32")),
        &["`hidden_size`: found \"32\", allowed: an integer"],
    );
    check_json(
        f,
        set("hidden_size", json!(1u64 << 62)),
        &["`hidden_size`: found 4611686018427387904, allowed: 1 to 32768"],
    );
    check_json(
        f,
        set("num_hidden_layers", json!(-1)),
        &["`num_hidden_layers`: found -1, allowed: 1 to 512"],
    );
    check_json(
        f,
        set("vocab_size", json!(u64::MAX)),
        &["`vocab_size`: found 18446744073709551615, allowed: an integer"],
    );
    check_json(
        f,
        set("layer_norm_eps", json!(0)),
        &["`layer_norm_eps`: found 0"],
    );
    check_json(
        f,
        set("hidden_dropout_prob", json!(1)),
        &["`hidden_dropout_prob`: found 1, allowed: 0 or more and less than 1"],
    );
    check_json(
        f,
        set("relative_attention_num_buckets", json!(64)),
        &["found 64, allowed: 32"],
    );
    check_json(
        f,
        set("pad_token_id", json!(0)),
        &["`pad_token_id`: found 0, allowed: 1"],
    );
    let f = "sentence_bert_config.json";
    check_json(
        f,
        set("max_seq_length", json!(2)),
        &["`max_seq_length`: found 2, allowed: an integer, 3 or more"],
    );
    check_json(
        f,
        set("do_lower_case", json!("no")),
        &["`do_lower_case`: found \"no\", allowed: true or false"],
    );
    let f = "tokenizer_config.json";
    check_json(
        f,
        set("model_max_length", json!(-7)),
        &["`model_max_length`: found -7, allowed: 3 or more"],
    );
    let f = "config_sentence_transformers.json";
    check_json(
        f,
        set("prompts", json!({"a": 1})),
        &["`prompts`: found {\"a\":1}"],
    );
    check_json(
        f,
        set("default_prompt_name", json!("b")),
        &["`default_prompt_name`: found \"b\"", "[\"query\"]"],
    );
    check_json(
        f,
        set("similarity_fn_name", json!("angle")),
        &["found \"angle\", allowed: cosine, dot"],
    );
    check_json(
        f,
        set("model_type", json!("SparseEncoder")),
        &["`model_type`: found \"SparseEncoder\""],
    );
    check_json(
        f,
        set("truncate_dim", json!(0)),
        &["`truncate_dim`: found 0"],
    );
}

#[test]
fn modules() {
    let f = "modules.json";
    check_json(
        f,
        |json| json[1]["type"] = json!("os.system"),
        &["`[1].type`: found \"os.system\", allowed: sentence-transformers'"],
    );
    check_json(
        f,
        |json| json[1]["type"] = json!("sentence_transformers.models.CLIPModel"),
        &["CLIPModel"],
    );
    for path in ["../elsewhere", "/etc", "a/../../b", "C:\\models"] {
        check_json(
            f,
            |json| json[1]["path"] = json!(path),
            &["the path", "leaves the model's folder"],
        );
    }
    check_json(
        f,
        |json| json[1]["path"] = json!(7),
        &["`[1].path`: found 7, allowed: a string"],
    );
    check_json(
        f,
        |json| json.as_array_mut().unwrap().reverse(),
        &["module 0 is a Pooling"],
    );
    check_json(
        f,
        |json| drop(json.as_array_mut().unwrap().pop()),
        &["1 modules, allowed: a Transformer and a Pooling"],
    );
    check_json(f, |json| *json = json!([]), &["0 modules"]);
    let f = "1_Pooling/config.json";
    check_json(
        f,
        |json| json["pooling_mode"] = json!("median"),
        &["`pooling_mode`: found \"median\", allowed: cls, max, mean"],
    );
    check_json(
        f,
        |json| json["pooling_mode"] = json!([]),
        &["`pooling_mode`: found []"],
    );
    check_json(
        f,
        |json| json["pooling_mode_mean_tokens"] = json!("yes"),
        &["found \"yes\", allowed: true or false"],
    );
}

#[test]
fn dense_modules() {
    let with_dense = |config: Value| {
        move |folder: &Path| {
            let path = folder.join("modules.json");
            let mut modules: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            let dense = json!({"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"});
            modules.as_array_mut().unwrap().push(dense);
            fs::write(path, modules.to_string()).unwrap();
            fs::create_dir(folder.join("2_Dense")).unwrap();
            fs::write(folder.join("2_Dense/config.json"), config.to_string()).unwrap();
        }
    };
    check(
        with_dense(json!({"in_features": 32, "out_features": 8})),
        &["2_Dense", "no model.safetensors"],
    );
    check(
        with_dense(json!({"in_features": 31, "out_features": 8})),
        &["2_Dense takes 31 features", "gives 32"],
    );
    check(
        with_dense(json!({"in_features": 32, "out_features": 0})),
        &["`out_features`: found 0"],
    );
    let evil = json!({"in_features": 32, "out_features": 8, "activation_function": "os.system"});
    check(
        with_dense(evil),
        &["`activation_function`: found \"os.system\", allowed: torch.nn"],
    );
    let tokens =
        json!({"in_features": 32, "out_features": 8, "module_input_name": "token_embeddings"});
    check(
        with_dense(tokens),
        &["`module_input_name`: found \"token_embeddings\""],
    );
}

#[test]
fn weights() {
    const NAME: &str = "encoder.layer.1.output.dense.weight";
    check_weights(
        |t| drop(t.remove(NAME)),
        &["missing tensor `encoder.layer.1.output.dense.weight` [32, 64]"],
    );
    check_weights(
        |t| t.retain(|name, _| name.starts_with("embeddings")),
        &["missing tensor `encoder.", "more"],
    );
    check_weights(
        |t| {
            t.insert(
                "classifier.weight".to_owned(),
                (Dtype::F32, vec![1], vec![0; 4]),
            );
        },
        &["unexpected tensor `classifier.weight` [1]"],
    );
    check_weights(
        |t| t.get_mut(NAME).unwrap().1 = vec![64, 32],
        &["`encoder.layer.1.output.dense.weight` has shape [64, 32], expected [32, 64]"],
    );
    check_weights(
        |t| t.get_mut(NAME).unwrap().0 = Dtype::I32,
        &["`encoder.layer.1.output.dense.weight` is I32, allowed: F32, F16, BF16"],
    );
    for (value, text) in [
        (f32::NAN, "NaN"),
        (f32::INFINITY, "inf"),
        (f32::NEG_INFINITY, "-inf"),
    ] {
        check_weights(
            |t| t.get_mut(NAME).unwrap().2[40..44].copy_from_slice(&value.to_le_bytes()),
            &[
                "`encoder.layer.1.output.dense.weight` holds",
                text,
                "at element 10",
            ],
        );
    }
    check_weights(
        |t| {
            let copy = t[NAME].clone();
            t.insert(format!("mpnet.{NAME}"), copy);
        },
        &["tensor `encoder.layer.1.output.dense.weight` appears twice"],
    );
    // The config, not the weights, is wrong.
    let vocab_size = |folder: &Path| {
        let path = folder.join("config.json");
        let config = fs::read_to_string(&path)
            .unwrap()
            .replace("\"vocab_size\": 336", "\"vocab_size\": 340");
        fs::write(path, config).unwrap();
    };
    check(
        vocab_size,
        &["`embeddings.word_embeddings.weight` has shape [336, 32], expected [340, 32]"],
    );
}

#[test]
fn weights_files() {
    let f = "model.safetensors";
    let whole = fs::read(fixture("tiny-mpnet").join(f)).unwrap();
    for length in [0, 7, 8, 100, whole.len() - 1] {
        let part = whole[..length].to_vec();
        check(
            move |folder| fs::write(folder.join(f), part).unwrap(),
            &[f, "not a whole safetensors file"],
        );
    }
    check(
        replace(f, b"version https://git-lfs.github.com/spec/v1\n"),
        &[f, "a Git LFS pointer", "git lfs pull"],
    );
    check(
        replace(f, &[0xff; 4096]),
        &[f, "not a whole safetensors file"],
    );
    let twice = br#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let mut bytes = (twice.len() as u64).to_le_bytes().to_vec();
    bytes.extend(twice);
    bytes.extend([0; 4]);
    check(
        move |folder| fs::write(folder.join(f), bytes).unwrap(),
        &[f, "tensor `a` appears twice"],
    );
}

#[test]
fn shards() {
    let f = "model.safetensors.index.json";
    let sharded = |weight_map: Value| {
        move |folder: &Path| {
            fs::rename(
                folder.join("model.safetensors"),
                folder.join("a.safetensors"),
            )
            .unwrap();
            fs::write(
                folder.join(f),
                json!({"weight_map": weight_map}).to_string(),
            )
            .unwrap();
        }
    };
    check(
        sharded(json!({"x": "../a.safetensors"})),
        &[f, "\"../a.safetensors\" leaves the model's folder"],
    );
    check(
        sharded(json!({"x": "/a.safetensors"})),
        &[f, "leaves the model's folder"],
    );
    check(
        sharded(json!({"x": "b.safetensors"})),
        &[f, "the shard", "b.safetensors is not there"],
    );
    check(
        sharded(json!({"x": "a.safetensors"})),
        &[f, "tensor `x` is not in the shard"],
    );
    check(sharded(json!({"x": 1})), &[f, "`weight_map.x`: found 1"]);
    check(sharded(json!([])), &[f, "`weight_map`: found []"]);
    let both = |folder: &Path| {
        sharded(json!({
            "encoder.relative_attention_bias.weight": "a.safetensors",
            "embeddings.LayerNorm.bias": "b.safetensors",
        }))(folder);
        fs::copy(folder.join("a.safetensors"), folder.join("b.safetensors")).unwrap();
    };
    check(
        both,
        &["b.safetensors", "appears twice (also in", "a.safetensors"],
    );
}

#[test]
fn tokenizers() {
    let f = "tokenizer.json";
    check(replace(f, b"{}"), &[f]);
    check(replace(f, b""), &[f]);
    check_json(f, |json| json["model"]["type"] = json!("Nothing"), &[]);
    // A token that the model has no row for is refused where a text holds it.
    for id in [336, u32::MAX] {
        let folder = tempfile::tempdir().unwrap();
        copy(&fixture("tiny-mpnet"), folder.path());
        let path = folder.path().join(f);
        let mut json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        json["model"]["vocab"]["extra"] = json!(id);
        fs::write(&path, json.to_string()).unwrap();
        let model = SentenceTransformer::load(folder.path(), Device::Cpu).unwrap();
        model.tokenizer().encode_batch(&["a text"]).unwrap();
        let error = model.tokenizer().encode_batch(&["an extra text"]);
        let message = error.unwrap_err().to_string();
        for part in [f, &format!("\"extra\" has id {id}"), "vocab_size 336"] {
            assert!(message.contains(part), "{part:?} is not in {message:?}");
        }
    }
    check_json(
        f,
        |json| json["post_processor"]["cls"] = json!(["<s>", 5000]),
        &["a special token has id 5000"],
    );
    check_json(
        f,
        |json| json["post_processor"] = Value::Null,
        &["no special tokens"],
    );
    // The last special token, which no vocabulary has.
    check_json(
        f,
        |json| {
            json["model"]["vocab"]
                .as_object_mut()
                .unwrap()
                .remove("<mask>");
            let added = json["added_tokens"].as_array_mut().unwrap();
            let mask = added.iter_mut().find(|token| token["content"] == "<mask>");
            mask.unwrap()["id"] = json!(900);
        },
        &[f, "the added token \"<mask>\" has id 900, but gets "],
    );
    // A piece this long would overflow the stack.
    check_json(
        f,
        |json| {
            json["model"] = json!({
                "type": "Unigram",
                "unk_id": 0,
                "vocab": [["<unk>", 0.0], ["a".repeat(200_000), -1.0]],
            });
        },
        &[f, "a piece of its vocabulary has 200000 bytes"],
    );
    // This one makes the tokenizers crate panic, on the first text that is not empty.
    check_json(
        f,
        |json| json["pre_tokenizer"] = json!({"type": "FixedLength", "length": 0}),
        &["the tokenizer panics", "chunk size"],
    );
    let words = |content: &'static [u8]| {
        move |folder: &Path| {
            remove(f)(folder);
            replace("vocab.txt", content)(folder);
        }
    };
    check(
        words(b"<s>\n<pad>\n</s>\nword\n"),
        &["vocab.txt", "no line holds the unk_token \"[UNK]\""],
    );
    check(words(b"\xff\xff"), &["vocab.txt"]);
    let small = |folder: &Path| {
        let path = folder.join("config.json");
        let config = fs::read_to_string(&path)
            .unwrap()
            .replace("\"vocab_size\": 336", "\"vocab_size\": 200");
        fs::write(path, config).unwrap();
    };
    check(
        small,
        &[
            "model.safetensors",
            "`embeddings.word_embeddings.weight` has shape [336, 32]",
        ],
    );
}

/// In modules.json and in the index of shards: a refusal names the file, and a path that is taken
/// stays inside.
#[test]
fn hostile_paths_stay_inside() {
    let long = "x/".repeat(600);
    let part = "x".repeat(300);
    let paths = [
        "..",
        "../x",
        "../../../../etc/passwd",
        "a/../../x",
        "1_Pooling/..",
        "1_Pooling/../1_Pooling",
        "./../x",
        "..//x",
        "/",
        "/etc/passwd",
        "//server/share",
        "///x",
        "/proc/self/environ",
        "..\\x",
        "\\\\server\\share",
        "\\\\?\\C:\\x",
        "a\\..\\..\\x",
        "\\x",
        "C:\\x",
        "C:/x",
        "c:x",
        "Z:",
        "a\0b",
        "\0",
        "1_Pooling\0",
        "a\nb",
        "a\rb",
        "a\u{1b}[2Jb",
        "a\u{202e}b",
        "a\u{200b}b",
        "~/x",
        "~root",
        "$HOME",
        "file:///etc/passwd",
        "http://127.0.0.1/x",
        "%2e%2e/x",
        "..%2f..%2fx",
        "x/..;/y",
        "....//....//x",
        "aux",
        "nul",
        "con",
        "a b",
        " ",
        "$(touch x)",
        "`x`",
        "x|y",
        "missing",
        &long,
        &part,
    ];
    for path in paths {
        let as_module = |folder: &Path| {
            let path_of = folder.join("modules.json");
            let mut modules: Value = serde_json::from_slice(&fs::read(&path_of).unwrap()).unwrap();
            modules[1]["path"] = json!(path);
            fs::write(path_of, modules.to_string()).unwrap();
        };
        check(as_module, &[]);
        let as_shard = |folder: &Path| {
            remove("model.safetensors")(folder);
            let index = json!({"weight_map": {"x": path}}).to_string();
            fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
        };
        check(as_shard, &["model.safetensors.index.json"]);
    }
    assert_eq!(paths.len(), 50);
}

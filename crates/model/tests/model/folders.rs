//! Every layout that is read, and the one that is written.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

use half::{bf16, f16};
use model::{Mode, Pooling, PoolingMode, SentenceTransformer};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};
use tch::{Device, Tensor};

use crate::{
    assert_close, assert_equal, copy, expected_tensors, fixture, ids, pack, sentences, tiny,
};

fn load(folder: &Path) -> SentenceTransformer {
    SentenceTransformer::load(folder, Device::Cpu).unwrap()
}

fn embed(model: &SentenceTransformer) -> Tensor {
    model.forward(&pack(&ids()), Mode::Eval).unwrap().detach()
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn write_json(path: &Path, json: &Value) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, json.to_string()).unwrap();
}

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

pub(crate) fn read_weights(path: &Path) -> Tensors {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |(name, t): (&str, TensorView<'_>)| {
        (
            name.to_owned(),
            (t.dtype(), t.shape().to_vec(), t.data().to_vec()),
        )
    };
    file.iter().map(tensor).collect()
}

pub(crate) fn write_weights(path: &Path, tensors: &Tensors) {
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        (
            name.as_str(),
            TensorView::new(*dtype, shape.clone(), bytes).unwrap(),
        )
    });
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> + '_ {
    bytes
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
}

#[test]
fn a_saved_model_loads_bit_equal_and_keeps_its_files() {
    let model = tiny();
    let saved = tempfile::tempdir().unwrap();
    let folder = saved.path().join("new/folder");
    model.save(&folder).unwrap();
    let again = load(&folder);
    assert_equal(
        "weights",
        again.parameters().flat(),
        model.parameters().flat(),
    );
    assert_equal("embeddings", &embed(&again), &embed(&model));
    assert_eq!(again.prompts(), model.prompts());
    assert_eq!(again.max_seq_length(), 96);
    assert_eq!(again.similarity_fn_name().name(), "cosine");

    let source = fixture("tiny-mpnet");
    for name in [
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
        "special_tokens_map.json",
    ] {
        assert_eq!(
            fs::read(folder.join(name)).unwrap(),
            fs::read(source.join(name)).unwrap(),
            "{name}"
        );
    }
    // Every key stays, at its place.
    let (source, target) = (
        read_json(&source.join("config.json")),
        read_json(&folder.join("config.json")),
    );
    assert_eq!(source, target);
    let keys = |json: &Value| {
        json.as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(keys(&source), keys(&target));
    assert_eq!(
        read_weights(&folder.join("model.safetensors")),
        read_weights(&fixture("tiny-mpnet/model.safetensors"))
    );
    let header = fs::read(folder.join("model.safetensors")).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&header).unwrap();
    assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
    // No temporary file is left.
    let mut names: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "1_Pooling",
            "config.json",
            "config_sentence_transformers.json",
            "model.safetensors",
            "modules.json",
            "sentence_bert_config.json",
            "special_tokens_map.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "vocab.txt",
        ]
    );
}

#[test]
fn the_classic_keys_are_written() {
    let saved = tempfile::tempdir().unwrap();
    tiny().save(saved.path()).unwrap();
    let json = |name: &str| read_json(&saved.path().join(name));
    assert_eq!(
        json("modules.json")[1]["type"],
        "sentence_transformers.models.Pooling"
    );
    assert_eq!(
        json("sentence_bert_config.json"),
        json!({"max_seq_length": 96, "do_lower_case": false})
    );
    assert_eq!(
        json("1_Pooling/config.json"),
        json!({
            "word_embedding_dimension": 32,
            "pooling_mode_cls_token": false,
            "pooling_mode_mean_tokens": true,
            "pooling_mode_max_tokens": false,
            "pooling_mode_mean_sqrt_len_tokens": false,
            "pooling_mode_weightedmean_tokens": false,
            "pooling_mode_lasttoken": false,
            "include_prompt": true,
        })
    );
    let config = json("config_sentence_transformers.json");
    assert_eq!(config["prompts"], json!({"query": "the dog: "}));
    assert_eq!(config["similarity_fn_name"], "cosine");
}

#[test]
fn unknown_config_keys_are_kept_and_the_dtype_is_said() {
    let folder = tempfile::tempdir().unwrap();
    copy(&fixture("tiny-mpnet"), folder.path());
    let path = folder.path().join("config.json");
    let mut config = read_json(&path);
    config["dtype"] = json!("float16");
    config["torch_dtype"] = json!("float16");
    config["a_key_of_its_own"] = json!({"b": [1, 2]});
    write_json(&path, &config);
    let saved = tempfile::tempdir().unwrap();
    load(folder.path()).save(saved.path()).unwrap();
    config["dtype"] = json!("float32");
    config["torch_dtype"] = json!("float32");
    assert_eq!(read_json(&saved.path().join("config.json")), config);
}

#[test]
fn the_layout_of_version_6_is_read_and_saved_as_the_classic_one() {
    let folder = tempfile::tempdir().unwrap();
    copy(&fixture("tiny-mpnet-v6"), folder.path());
    for name in ["model.safetensors", "tokenizer.json"] {
        fs::copy(fixture("tiny-mpnet").join(name), folder.path().join(name)).unwrap();
    }
    let model = load(folder.path());
    // From the tokenizer's model_max_length.
    assert_eq!(model.max_seq_length(), 96);
    assert_eq!(model.prompts()["document"], "");
    let expected = &expected_tensors()["sentence_embedding.mean"];
    let expected = expected
        / expected
            .square()
            .sum_dim_intlist([1].as_slice(), true, tch::Kind::Float)
            .sqrt();
    assert_close("normalized", &embed(&model), &expected, 2e-6);

    let saved = tempfile::tempdir().unwrap();
    model.save(saved.path()).unwrap();
    assert_eq!(
        read_json(&saved.path().join("modules.json"))[2]["type"],
        "sentence_transformers.models.Normalize"
    );
    assert!(saved.path().join("2_Normalize").is_dir());
    assert_equal("saved", &embed(&load(saved.path())), &embed(&model));
}

#[test]
fn a_plain_folder_gets_mean_pooling_and_all_positions() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors", "vocab.txt"] {
        fs::copy(fixture("tiny-mpnet").join(name), folder.path().join(name)).unwrap();
    }
    let mut model = load(folder.path());
    assert_eq!(model.max_seq_length(), 128);
    assert_equal("embeddings", &embed(&model), &embed(&tiny()));

    // The tokenizer built from the words alone is the same one, and is saved as tokenizer.json.
    model.set_max_seq_length(96).unwrap();
    let sentences = sentences();
    let texts: Vec<&str> = sentences.iter().map(String::as_str).collect();
    assert_eq!(model.tokenizer().encode_batch(&texts).unwrap(), ids());
    let saved = tempfile::tempdir().unwrap();
    model.save(saved.path()).unwrap();
    fs::remove_file(saved.path().join("vocab.txt")).unwrap();
    assert_eq!(
        load(saved.path()).tokenizer().encode_batch(&texts).unwrap(),
        ids()
    );
}

#[test]
fn tokenizer_settings_are_honoured() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors", "vocab.txt"] {
        fs::copy(fixture("tiny-mpnet").join(name), folder.path().join(name)).unwrap();
    }
    let settings = json!({
        "do_lower_case": false,
        "model_max_length": 1e30,
        "cls_token": {"content": "[CLS]", "lstrip": false},
    });
    write_json(&folder.path().join("tokenizer_config.json"), &settings);
    let model = load(folder.path());
    let encode = |model: &SentenceTransformer, text: &str| {
        model.tokenizer().encode_batch(&[text]).unwrap().remove(0)
    };
    let id = |token: &str| model.tokenizer().token_to_id(token).unwrap();
    assert_eq!(model.max_seq_length(), 128);
    assert_eq!(
        encode(&model, "the The"),
        [id("[CLS]"), id("the"), id("[UNK]"), id("</s>")]
    );

    // do_lower_case of the Transformer module comes before the tokenizer's own steps.
    let bert = json!({"max_seq_length": null, "do_lower_case": true});
    write_json(&folder.path().join("sentence_bert_config.json"), &bert);
    let model = load(folder.path());
    assert_eq!(
        encode(&model, "the The"),
        [id("[CLS]"), id("the"), id("the"), id("</s>")]
    );
    assert_eq!(model.max_seq_length(), 128);

    // More than the model has positions for is cut.
    write_json(
        &folder.path().join("sentence_bert_config.json"),
        &json!({"max_seq_length": 4096}),
    );
    assert_eq!(load(folder.path()).max_seq_length(), 128);
}

#[test]
fn a_transformer_in_a_folder_of_its_own_is_found() {
    let folder = tempfile::tempdir().unwrap();
    copy(&fixture("tiny-mpnet"), &folder.path().join("0_Transformer"));
    copy(
        &fixture("tiny-mpnet/1_Pooling"),
        &folder.path().join("1_Pooling"),
    );
    let mut modules = read_json(&fixture("tiny-mpnet/modules.json"));
    modules[0]["path"] = json!("0_Transformer");
    write_json(&folder.path().join("modules.json"), &modules);
    let model = load(folder.path());
    assert_eq!(model.max_seq_length(), 96);
    assert_equal("embeddings", &embed(&model), &embed(&tiny()));
}

#[test]
fn a_dense_module_is_run_trained_and_saved() {
    let expected = expected_tensors();
    let folder = tempfile::tempdir().unwrap();
    copy(&fixture("tiny-mpnet"), folder.path());
    let mut modules = read_json(&folder.path().join("modules.json"));
    for (path, class) in [("2_Dense", "Dense"), ("3_Normalize", "Normalize")] {
        let class = format!("sentence_transformers.models.{class}");
        modules
            .as_array_mut()
            .unwrap()
            .push(json!({"idx": 2, "name": "2", "path": path, "type": class}));
    }
    let config = json!({
        "in_features": 32, "out_features": 16, "bias": true,
        "activation_function": "torch.nn.modules.activation.Tanh",
    });
    write_json(&folder.path().join("2_Dense/config.json"), &config);
    let tensors: Vec<_> = ["linear.weight", "linear.bias"]
        .map(|name| (name, &expected[&format!("dense.{name}")]))
        .into();
    Tensor::write_safetensors(&tensors, folder.path().join("2_Dense/model.safetensors")).unwrap();

    write_json(&folder.path().join("modules.json"), &modules);
    let model = load(folder.path());
    assert_eq!(model.dimension(), 16);
    assert_close(
        "normalized",
        &embed(&model),
        &expected["sentence_embedding.dense+normalize"],
        4e-6,
    );
    let decays: HashMap<_, _> = model
        .parameters()
        .spans()
        .iter()
        .map(|s| (s.name.as_str(), s.decay))
        .collect();
    assert_eq!(
        (
            decays["2_Dense.linear.weight"],
            decays["2_Dense.linear.bias"]
        ),
        (true, false)
    );
    let loss = model.forward(&pack(&ids()), Mode::Eval).unwrap().sum(None);
    let gradient = model.parameters().zero_gradient().unwrap();
    model.parameters().backward(&loss, &gradient).unwrap();
    let span = model
        .parameters()
        .spans()
        .iter()
        .find(|s| s.name == "2_Dense.linear.weight")
        .unwrap();
    assert!(
        gradient
            .narrow(0, span.offset, span.numel())
            .abs()
            .max()
            .double_value(&[])
            > 1e-3
    );

    let saved = tempfile::tempdir().unwrap();
    model.save(saved.path()).unwrap();
    assert_equal("saved", &embed(&load(saved.path())), &embed(&model));

    modules.as_array_mut().unwrap().pop();
    write_json(&folder.path().join("modules.json"), &modules);
    assert_close(
        "dense",
        &embed(&load(folder.path())),
        &expected["sentence_embedding.dense"],
        4e-6,
    );
}

#[test]
fn sixteen_bit_weights_are_read_as_their_values() {
    for dtype in [Dtype::F16, Dtype::BF16] {
        let folder = tempfile::tempdir().unwrap();
        copy(&fixture("tiny-mpnet"), folder.path());
        let path = folder.path().join("model.safetensors");
        let mut tensors = read_weights(&path);
        let mut rounded = tensors.clone();
        for (name, (kind, _, bytes)) in &mut tensors {
            *kind = dtype;
            let (mut short, mut long) = (Vec::new(), Vec::new());
            for value in floats(bytes) {
                let (bits, value) = match dtype {
                    Dtype::F16 => (
                        f16::from_f32(value).to_bits(),
                        f16::from_f32(value).to_f32(),
                    ),
                    _ => (
                        bf16::from_f32(value).to_bits(),
                        bf16::from_f32(value).to_f32(),
                    ),
                };
                short.extend(bits.to_le_bytes());
                long.extend(value.to_le_bytes());
            }
            *bytes = short;
            rounded.get_mut(name).unwrap().2 = long;
        }
        write_weights(&path, &tensors);
        let model = load(folder.path());
        assert_close(
            "close to the original",
            &embed(&model),
            &embed(&tiny()),
            0.1,
        );
        let saved = tempfile::tempdir().unwrap();
        model.save(saved.path()).unwrap();
        assert_eq!(
            read_weights(&saved.path().join("model.safetensors")),
            rounded
        );
    }
}

#[test]
fn shards_prefixes_and_unused_heads_are_read() {
    let folder = tempfile::tempdir().unwrap();
    copy(&fixture("tiny-mpnet"), folder.path());
    let path = folder.path().join("model.safetensors");
    let mut tensors: Tensors = read_weights(&path)
        .into_iter()
        .map(|(name, t)| (format!("mpnet.{name}"), t))
        .collect();
    let zeros = |n: usize| (Dtype::F32, vec![n], vec![0; 4 * n]);
    tensors.insert("lm_head.bias".to_owned(), zeros(336));
    tensors.insert("mpnet.pooler.dense.bias".to_owned(), zeros(32));
    tensors.insert(
        "mpnet.embeddings.position_ids".to_owned(),
        (Dtype::I64, vec![1, 2], vec![0; 16]),
    );
    write_weights(&path, &tensors);
    assert_equal("prefix", &embed(&load(folder.path())), &embed(&tiny()));

    fs::remove_file(&path).unwrap();
    let mut weight_map = serde_json::Map::new();
    let mut shards = [Tensors::new(), Tensors::new(), Tensors::new()];
    for (i, (name, tensor)) in tensors.into_iter().enumerate() {
        weight_map.insert(
            name.clone(),
            json!(format!("model-{}-of-3.safetensors", i % 3 + 1)),
        );
        shards[i % 3].insert(name, tensor);
    }
    for (i, shard) in shards.iter().enumerate() {
        write_weights(
            &folder
                .path()
                .join(format!("model-{}-of-3.safetensors", i + 1)),
            shard,
        );
    }
    let index = json!({"metadata": {"total_size": 1}, "weight_map": weight_map});
    write_json(&folder.path().join("model.safetensors.index.json"), &index);
    assert_equal("shards", &embed(&load(folder.path())), &embed(&tiny()));
}

#[test]
fn random_weights_follow_the_seed_and_the_rules() {
    let config = read_json(&fixture("tiny-mpnet/config.json"));
    let config = config.as_object().unwrap();
    let random = |seed| {
        let pooling = Pooling::new(PoolingMode::Mean);
        SentenceTransformer::random(
            config,
            &fixture("tiny-mpnet"),
            pooling,
            true,
            seed,
            Device::Cpu,
        )
        .unwrap()
    };
    let model = random(1);
    assert_equal(
        "the same seed",
        random(1).parameters().flat(),
        model.parameters().flat(),
    );
    assert!(crate::max_difference(random(2).parameters().flat(), model.parameters().flat()) > 0.02);
    let view = |name: &str| model.parameters().view(name).unwrap();
    let words = view("embeddings.word_embeddings.weight");
    assert_eq!(words.get(1).abs().max().double_value(&[]), 0.0);
    assert!((words.std(false).double_value(&[]) - 0.02).abs() < 0.001);
    assert!(words.mean(tch::Kind::Float).double_value(&[]).abs() < 0.001);
    let largest = words.abs().max().double_value(&[]);
    assert!((0.06..0.12).contains(&largest), "{largest}");
    assert_eq!(
        view("encoder.layer.1.output.LayerNorm.weight")
            .min()
            .double_value(&[]),
        1.0
    );
    assert_eq!(
        view("encoder.layer.1.attention.attn.k.bias")
            .abs()
            .max()
            .double_value(&[]),
        0.0
    );
    assert!(
        view("encoder.relative_attention_bias.weight")
            .abs()
            .max()
            .double_value(&[])
            > 0.02
    );

    assert_eq!(model.max_seq_length(), 128);
    let saved = tempfile::tempdir().unwrap();
    model.save(saved.path()).unwrap();
    assert_equal("saved", &embed(&load(saved.path())), &embed(&model));
}

/// Tokens that a slow tokenizer got after its vocabulary.
#[test]
fn added_tokens_beside_a_vocabulary_are_read() {
    let with = |added: Value| {
        let folder = tempfile::tempdir().unwrap();
        copy(&fixture("tiny-mpnet"), folder.path());
        fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
        write_json(&folder.path().join("added_tokens.json"), &added);
        SentenceTransformer::load(folder.path(), Device::Cpu)
    };
    let ids = |model: &SentenceTransformer| {
        let ids = model.tokenizer().encode_batch(&["a [unused0] dog"]);
        ids.unwrap().concat()
    };
    // A word of the vocabulary that the pre-tokenizer takes apart unless it is added.
    let apart = ids(&with(json!({})).unwrap());
    let whole = ids(&with(json!({"[unused0]": 5})).unwrap());
    assert!(!apart.contains(&5), "{apart:?}");
    assert_eq!(whole.len(), 5, "{whole:?}");
    assert_eq!(whole[2], 5);
    // One that the table has no row for is refused where it occurs.
    let model = with(json!({"[HARBOUR]": 336})).unwrap();
    let error = model.tokenizer().encode_batch(&["at [HARBOUR] now"]);
    let message = error.unwrap_err().to_string();
    assert!(message.contains("\"[harbour]\" has id 336"), "{message}");
    for (added, part) in [
        (json!({"[HARBOUR]": 400}), "has id 400, but gets 336"),
        (json!({"[HARBOUR]": "x"}), "has no id"),
    ] {
        let message = with(added).unwrap_err().to_string();
        assert!(message.contains("added_tokens.json"), "{message}");
        assert!(message.contains(part), "{message}");
    }
}

//! Encoding texts: order, batches, prompts, truncation, stopping.

use std::ops::ControlFlow;

use model::{EncodeOptions, ModelError, Role, SentenceTransformer, Tokenizer};
use tch::{Device, Kind, Tensor};

use crate::{assert_close, assert_equal, expected_tensors, ids, sentences, tiny};

fn encode(model: &SentenceTransformer, texts: &[&str], options: &EncodeOptions) -> Tensor {
    model
        .encode(texts, options, &mut |_| ControlFlow::Continue(()))
        .unwrap()
}

fn texts(sentences: &[String]) -> Vec<&str> {
    sentences.iter().map(String::as_str).collect()
}

#[test]
fn any_batch_size_gives_the_expected_embeddings_in_order() {
    let (model, sentences) = (tiny(), sentences());
    let expected = &expected_tensors()["sentence_embedding.mean"];
    for batch_tokens in [0, 1, 30, 100, 100_000] {
        let options = EncodeOptions {
            batch_tokens,
            ..EncodeOptions::default()
        };
        let found = encode(&model, &texts(&sentences), &options);
        assert_eq!(
            (found.kind(), found.device(), found.requires_grad()),
            (Kind::Float, Device::Cpu, false)
        );
        assert_close(&format!("{batch_tokens} tokens"), &found, expected, 4e-6);
    }
    let ids = ids();
    let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
    let mut go = |_| ControlFlow::Continue(());
    let found = model
        .encode_ids(&ids, &EncodeOptions::default(), &mut go)
        .unwrap();
    assert_close("ids", &found, expected, 4e-6);
    assert_eq!(
        encode(&model, &[], &EncodeOptions::default()).size(),
        [0, 32]
    );
}

#[test]
fn truncation_comes_before_normalizing() {
    let (model, sentences) = (tiny(), sentences());
    let expected = expected_tensors()["sentence_embedding.mean"].narrow(1, 0, 8);
    let options = EncodeOptions {
        truncate_dim: Some(8),
        normalize_embeddings: true,
        ..EncodeOptions::default()
    };
    let expected = &expected
        / expected
            .square()
            .sum_dim_intlist([1].as_slice(), true, Kind::Float)
            .sqrt();
    assert_close(
        "truncated",
        &encode(&model, &texts(&sentences), &options),
        &expected,
        4e-6,
    );
    let wide = EncodeOptions {
        truncate_dim: Some(100),
        ..EncodeOptions::default()
    };
    assert_eq!(encode(&model, &["a"], &wide).size(), [1, 32]);
    let none = EncodeOptions {
        truncate_dim: Some(0),
        ..EncodeOptions::default()
    };
    let error = model
        .encode(&["a"], &none, &mut |_| ControlFlow::Continue(()))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "truncate_dim: found 0, allowed: 1 or more"
    );
}

#[test]
fn prompts_go_before_the_text() {
    let model = tiny();
    assert_eq!(model.prompts()["query"], "the dog: ");
    assert_eq!(model.default_prompt_name(), None);
    let plain = encode(
        &model,
        &["the dog: sleeps", "the dog: "],
        &EncodeOptions::default(),
    );
    let by_name = EncodeOptions {
        prompt_name: Some("query".to_owned()),
        ..EncodeOptions::default()
    };
    let by_text = EncodeOptions {
        prompt: Some("the dog: ".to_owned()),
        ..EncodeOptions::default()
    };
    assert_equal(
        "by name",
        &encode(&model, &["sleeps", ""], &by_name),
        &plain,
    );
    assert_equal(
        "by text",
        &encode(&model, &["sleeps", ""], &by_text),
        &plain,
    );
    let unknown = EncodeOptions {
        prompt_name: Some("document".to_owned()),
        ..EncodeOptions::default()
    };
    let error = model
        .encode(&["a"], &unknown, &mut |_| ControlFlow::Continue(()))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "prompt_name: found \"document\", allowed: [\"query\"]"
    );
}

#[test]
fn a_task_takes_its_prompt_where_none_is_asked_for() {
    let model = tiny();
    let options = |role, prompt_name: Option<&str>, prompt: Option<&str>| EncodeOptions {
        role: Some(role),
        prompt_name: prompt_name.map(str::to_owned),
        prompt: prompt.map(str::to_owned),
        ..EncodeOptions::default()
    };
    let plain = EncodeOptions::default();
    let prompted = encode(&model, &["the dog: sleeps"], &plain);
    let query = encode(&model, &["sleeps"], &options(Role::Query, None, None));
    assert_equal("query", &query, &prompted);
    // The model has a prompt for queries and none for documents.
    let document = encode(&model, &["sleeps"], &options(Role::Document, None, None));
    assert_equal("document", &document, &encode(&model, &["sleeps"], &plain));
    let named = encode(
        &model,
        &["sleeps"],
        &options(Role::Document, Some("query"), None),
    );
    assert_equal("named", &named, &prompted);
    let given = encode(
        &model,
        &["the dog: sleeps"],
        &options(Role::Query, None, Some("")),
    );
    assert_equal("given", &given, &prompted);
}

#[test]
fn token_embeddings_are_the_encoders_in_order() {
    let (model, sentences) = (tiny(), sentences());
    let expected = expected_tensors();
    for batch_tokens in [1, 40, 100_000] {
        let options = EncodeOptions {
            batch_tokens,
            truncate_dim: Some(4),
            normalize_embeddings: true,
            ..EncodeOptions::default()
        };
        let mut go = |_| ControlFlow::Continue(());
        let found = model
            .encode_tokens(&texts(&sentences), &options, &mut go)
            .unwrap();
        assert_eq!(found.len(), sentences.len());
        for (i, found) in found.iter().enumerate() {
            let name = format!("token_embeddings.{i}");
            let found = Tensor::from_slice(found).view([-1, 32]);
            assert_close(&name, &found, &expected[name.as_str()], 4e-6);
        }
    }
}

#[test]
fn lengths_can_be_seen_beyond_the_limit() {
    let mut model = tiny();
    model.set_max_seq_length(5).unwrap();
    let text = ["the dog sleeps in the house"];
    let length = |tokenizer: &Tokenizer| tokenizer.encode_batch(&text).unwrap()[0].len();
    assert_eq!(length(model.tokenizer()), 5);
    let whole = model.tokenizer().without_truncation().unwrap();
    assert_eq!((length(&whole), length(model.tokenizer())), (8, 5));
}

#[test]
fn progress_counts_texts_and_can_stop() {
    let (model, sentences) = (tiny(), sentences());
    let options = EncodeOptions {
        batch_tokens: 60,
        ..EncodeOptions::default()
    };
    let mut seen = Vec::new();
    let _ = model
        .encode(&texts(&sentences), &options, &mut |done| {
            seen.push(done);
            ControlFlow::Continue(())
        })
        .unwrap();
    assert!(seen.len() > 3 && seen.is_sorted(), "{seen:?}");
    assert_eq!(seen.last(), Some(&sentences.len()));
    let mut calls = 0;
    let stopped = model.encode(&texts(&sentences), &options, &mut |_| {
        calls += 1;
        ControlFlow::Break(())
    });
    assert!(matches!(stopped, Err(ModelError::Stopped)));
    assert_eq!(calls, 1);
}

#[test]
fn max_seq_length_cuts_texts() {
    let mut model = tiny();
    assert_eq!(model.max_seq_length(), 96);
    model.set_max_seq_length(5).unwrap();
    let long = model
        .tokenizer()
        .encode_batch(&["the dog sleeps in the house"])
        .unwrap();
    let short = model.tokenizer().encode_batch(&["the dog sleeps"]).unwrap();
    assert_eq!(long, short);
    assert_eq!(long[0].len(), 5);
    for length in [2, 129] {
        let error = model.set_max_seq_length(length).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("max_seq_length: found {length}, allowed: 3 to 128")
        );
    }
}

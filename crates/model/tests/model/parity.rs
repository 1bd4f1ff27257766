//! The same numbers as sentence-transformers 6.2.0 and transformers 5.24.0.

use std::collections::BTreeSet;

use model::{Dropout, Mode, Numbering, PackedBatch, Positions, relative_position_bucket};
use tch::{Device, Tensor};

use crate::{
    assert_close, assert_equal, expected_json, expected_tensors, ids, pack, sentences, tiny,
};

#[test]
fn token_ids_are_identical() {
    let sentences = sentences();
    let texts: Vec<&str> = sentences.iter().map(String::as_str).collect();
    let found = tiny().tokenizer().encode_batch(&texts).unwrap();
    assert_eq!(found, ids());
    // One of them is cut at max_seq_length.
    assert_eq!(found.iter().map(Vec::len).max(), Some(96));
}

#[test]
fn relative_position_buckets_are_identical() {
    let expected = expected_json();
    let first = expected["first_relative_position"].as_i64().unwrap();
    let buckets: Vec<i64> = serde_json::from_value(expected["buckets"].clone()).unwrap();
    assert_eq!(buckets.len(), 1201);
    for (i, bucket) in buckets.into_iter().enumerate() {
        let position = first + i as i64;
        assert_eq!(relative_position_bucket(position), bucket, "at {position}");
    }
}

#[test]
fn position_ids_skip_padding_tokens() {
    let numbering = tiny().encoder().spec().numbering;
    let positions: Vec<u32> = numbering.of_sentence(&[0, 7, 1, 9, 1, 2]).collect();
    assert_eq!(positions, [2, 3, 1, 4, 1, 5]);
    let from_zero = Numbering {
        positions: Positions::FromZero,
        ..numbering
    };
    let positions: Vec<u32> = from_zero.of_sentence(&[0, 7, 1, 9]).collect();
    assert_eq!(positions, [0, 1, 2, 3]);
}

#[test]
fn token_embeddings_agree() {
    let (model, expected) = (tiny(), expected_tensors());
    let ids = ids();
    let batch = pack(&ids);
    let tokens = model
        .encoder()
        .forward(model.parameters(), &batch, Dropout::NONE)
        .unwrap()
        .detach();
    assert_eq!(tokens.size(), [batch.tokens() as i64, 32]);
    let mut order: Vec<usize> = (0..ids.len()).collect();
    order.sort_by_key(|&i| ids[i].len());
    let mut start = 0;
    for i in order {
        let length = ids[i].len() as i64;
        let name = format!("token_embeddings.{i}");
        assert_close(
            &name,
            &tokens.narrow(0, start, length),
            &expected[&name],
            4e-6,
        );
        start += length;
    }
}

#[test]
fn sentence_embeddings_agree() {
    let embeddings = tiny().forward(&pack(&ids()), Mode::Eval).unwrap().detach();
    assert_close(
        "mean",
        &embeddings,
        &expected_tensors()["sentence_embedding.mean"],
        2e-6,
    );
}

#[test]
fn gradients_agree_for_every_parameter() {
    let (model, expected) = (tiny(), expected_tensors());
    let loss = (model.forward(&pack(&ids()), Mode::Eval).unwrap() * &expected["gradient_matrix"])
        .sum(None);
    let gradient = model.parameters().zero_gradient().unwrap();
    model.parameters().backward(&loss, &gradient).unwrap();
    for span in model.parameters().spans() {
        let found = gradient
            .narrow(0, span.offset, span.numel())
            .view(span.shape.as_slice());
        let expected = &expected[&format!("gradient.{}", span.name)];
        let size = expected.abs().max().double_value(&[]);
        // A softmax does not change when all keys move by the same vector: that gradient is zero.
        let is_zero = span.name.ends_with("attn.k.bias");
        assert_eq!(size < 1e-3, is_zero, "{}: {size:e}", span.name);
        assert_close(&span.name, &found, expected, 1e-5 * size.max(1.0));
    }
}

#[test]
fn parameters_are_the_checkpoint_s_and_decay_as_in_transformers() {
    let (model, expected) = (tiny(), expected_json());
    let names =
        |key: &str| -> BTreeSet<String> { serde_json::from_value(expected[key].clone()).unwrap() };
    let spans = model.parameters().spans();
    let found = |decay: bool| -> BTreeSet<String> {
        spans
            .iter()
            .filter(|span| span.decay == decay)
            .map(|span| span.name.clone())
            .collect()
    };
    assert_eq!(found(true), names("decayed"));
    assert_eq!(found(false), names("not_decayed"));
    assert!(!names("decayed").is_empty() && !names("not_decayed").is_empty());

    // Side by side without gaps, the decayed ones first.
    let mut offset = 0;
    for span in spans {
        assert_eq!(span.offset, offset, "{}", span.name);
        assert_eq!(
            span.decay,
            offset < model.parameters().decayed(),
            "{}",
            span.name
        );
        offset += span.numel();
    }
    assert_eq!(model.parameters().flat().size(), [offset]);
    assert_eq!(model.parameters().numel(), offset);
}

#[test]
fn an_update_in_place_is_seen_by_the_next_pass() {
    let model = tiny();
    let batch = pack(&ids());
    let before = model.forward(&batch, Mode::Eval).unwrap().detach();
    for span in model.parameters().spans() {
        let mut target = model
            .parameters()
            .flat()
            .narrow(0, span.offset, span.numel());
        let saved = target.copy();
        tch::no_grad(|| {
            let _ = target.g_mul_scalar_(1.5);
            let _ = target.g_add_scalar_(0.25);
        });
        let after = model.forward(&batch, Mode::Eval).unwrap().detach();
        // The softmax takes no notice of a key's bias or of a shift of all position biases, but
        // the scaling of the latter counts.
        let unseen = span.name.ends_with("attn.k.bias");
        assert_eq!(
            crate::max_difference(&before, &after) > 1e-5,
            !unseen,
            "{}",
            span.name
        );
        tch::no_grad(|| target.copy_(&saved));
    }
    let after = model.forward(&batch, Mode::Eval).unwrap().detach();
    assert_equal("restored", &after, &before);
}

#[test]
fn gradients_accumulate_and_parameters_without_one_add_nothing() {
    let model = tiny();
    let parameters = model.parameters();
    let batch = pack(&ids());
    let loss = || {
        model
            .forward(&batch, Mode::Eval)
            .unwrap()
            .square()
            .sum(None)
    };
    let once = parameters.zero_gradient().unwrap();
    parameters.backward(&loss(), &once).unwrap();
    let twice = parameters.zero_gradient().unwrap();
    parameters.backward(&loss(), &twice).unwrap();
    parameters.backward(&loss(), &twice).unwrap();
    let size = once.abs().max().double_value(&[]);
    assert_close("twice", &twice, &(&once * 2.0), 1e-6 * size);
    let again = parameters.zero_gradient().unwrap();
    parameters.backward(&loss(), &again).unwrap();
    assert_equal("again", &again, &once);

    let span = parameters
        .spans()
        .iter()
        .find(|span| span.name == "embeddings.LayerNorm.weight")
        .unwrap();
    let weight = model
        .parameters()
        .flat()
        .narrow(0, span.offset, span.numel());
    assert!(!weight.requires_grad());
    let error = parameters.backward(&weight.sum(None), &twice).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("does not depend on the parameters"),
        "{error}"
    );
    let error = parameters
        .backward(&loss(), &Tensor::zeros([3], tch::kind::FLOAT_CPU))
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("the gradient has shape [3], expected"),
        "{error}"
    );
}

/// Packed sentences do not see each other: values and gradients are those of one at a time.
#[test]
fn one_sentence_batches_equal_many_sentence_batches() {
    let model = tiny();
    let mut state = 1_u64;
    let mut random = move |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for round in 0..30 {
        let n = 1 + random(12);
        let mut sentences: Vec<Vec<u32>> = (0..n)
            .map(|_| {
                let length = if random(10) == 0 {
                    1 + random(128)
                } else {
                    1 + random(20)
                };
                (0..length).map(|_| random(336) as u32).collect()
            })
            .collect();
        // Duplicates as well.
        sentences.push(sentences[0].clone());
        let weights = Tensor::arange(32, tch::kind::FLOAT_CPU).cos();

        let packed = model.forward(&pack(&sentences), Mode::Eval).unwrap();
        let packed_gradient = model.parameters().zero_gradient().unwrap();
        model
            .parameters()
            .backward(&(&packed * &weights).sum(None), &packed_gradient)
            .unwrap();

        let gradient = model.parameters().zero_gradient().unwrap();
        for (i, sentence) in sentences.iter().enumerate() {
            let batch = PackedBatch::new(&[sentence], Device::Cpu).unwrap();
            let single = model.forward(&batch, Mode::Eval).unwrap();
            assert_close(
                "embedding",
                &packed.get(i as i64).unsqueeze(0).detach(),
                &single.detach(),
                4e-6,
            );
            model
                .parameters()
                .backward(&(single * &weights).sum(None), &gradient)
                .unwrap();
        }
        let size = gradient.abs().max().double_value(&[]);
        assert_close(
            &format!("gradient of round {round}"),
            &packed_gradient,
            &gradient,
            1e-5 * size,
        );
    }
}

/// One test for everything that draws from libtorch's generator, which all threads share.
#[test]
fn dropout_follows_the_seed_and_is_off_in_evaluation() {
    let mut model = tiny();
    let batch = pack(&ids());
    let train = |model: &model::SentenceTransformer, seed: u64| {
        model
            .forward(&batch, Mode::Train { seed })
            .unwrap()
            .detach()
    };
    let eval = model.forward(&batch, Mode::Eval).unwrap().detach();
    let first = train(&model, 1);
    assert_equal("the same seed", &train(&model, 1), &first);
    assert!(crate::max_difference(&train(&model, 2), &first) > 1e-3);
    assert!(crate::max_difference(&eval, &first) > 1e-3);
    let some = Some(0.1);
    for dropout in [
        Dropout {
            embeddings: some,
            ..Dropout::NONE
        },
        Dropout {
            probabilities: some,
            ..Dropout::NONE
        },
        Dropout {
            attention: some,
            ..Dropout::NONE
        },
        Dropout {
            output: some,
            ..Dropout::NONE
        },
    ] {
        let forward = |dropout| {
            model
                .encoder()
                .forward(model.parameters(), &batch, dropout)
                .unwrap()
                .detach()
        };
        assert!(
            crate::max_difference(&forward(dropout), &forward(Dropout::NONE)) > 1e-3,
            "{dropout:?}"
        );
    }
    model.set_dropout(0.0).unwrap();
    assert_equal("no dropout", &train(&model, 3), &eval);
    for probability in [1.0, -0.1, f64::NAN] {
        let error = model.set_dropout(probability).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("allowed: 0 or more and less than 1"),
            "{error}"
        );
    }
}

#[test]
fn batches_that_do_not_fit_are_refused() {
    let model = tiny();
    let forward = |ids: &[Vec<u32>]| {
        model
            .forward(&pack(ids), Mode::Eval)
            .unwrap_err()
            .to_string()
    };
    assert!(
        forward(&[vec![0, 336, 2]])
            .contains("token id 336 is beyond the model's vocabulary of 336")
    );
    assert!(forward(&[vec![5; 129]]).contains("129 tokens is longer than the model's 128"));
    assert!(model.forward(&pack(&[vec![5; 128]]), Mode::Eval).is_ok());
    let error = PackedBatch::new(&[], Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("at least one sentence"));
    let error = PackedBatch::new(&[&[0, 2], &[]], Device::Cpu).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("sentence 1 of the batch has no tokens")
    );
}

//! The table of `tests/sentence_transformer/modules/test_pooling.py` of sentence-transformers, and
//! every mode on the tiny model.

use model::{Mode, Pooling, PoolingMode, SentenceTransformer};
use serde_json::json;
use tch::{Device, Tensor};

use crate::{assert_close, copy, expected_tensors, fixture, ids, pack};

fn pool(mode: PoolingMode, include_prompt: bool) -> Tensor {
    // The caller's order is the longer sentence first; packed, the shorter one comes first.
    let batch = pack(&[vec![5; 4], vec![5; 3]]).with_prompt_length(1);
    let tokens: [f32; 14] = [
        1., 2., 3., 4., 5., 6., 10., 20., 30., 40., 50., 60., 70., 80.,
    ];
    let tokens = Tensor::from_slice(&tokens).view([7, 2]);
    Pooling {
        modes: vec![mode],
        include_prompt,
    }
    .forward(&tokens, &batch)
    .unwrap()
}

#[test]
fn the_table_of_test_pooling() {
    let (r2, r3, r4) = (2f32.sqrt(), 3f32.sqrt(), 2f32);
    for (mode, include_prompt, short, long) in [
        (PoolingMode::Cls, true, [1., 2.], [10., 20.]),
        (PoolingMode::Max, true, [5., 6.], [70., 80.]),
        (PoolingMode::Mean, true, [3., 4.], [40., 50.]),
        (
            PoolingMode::MeanSqrtLen,
            true,
            [9. / r3, 12. / r3],
            [160. / r4, 200. / r4],
        ),
        (
            PoolingMode::WeightedMean,
            true,
            [22. / 6., 28. / 6.],
            [50., 60.],
        ),
        (PoolingMode::LastToken, true, [5., 6.], [70., 80.]),
        (PoolingMode::Cls, false, [3., 4.], [30., 40.]),
        (PoolingMode::Mean, false, [4., 5.], [50., 60.]),
        (
            PoolingMode::MeanSqrtLen,
            false,
            [8. / r2, 10. / r2],
            [150. / r3, 180. / r3],
        ),
        (
            PoolingMode::WeightedMean,
            false,
            [21. / 5., 26. / 5.],
            [490. / 9., 580. / 9.],
        ),
    ] {
        let expected = Tensor::from_slice(&[long, short].concat()).view([2, 2]);
        let name = format!("{mode:?}, prompt {include_prompt}");
        assert_close(&name, &pool(mode, include_prompt), &expected, 1e-5);
    }
}

#[test]
fn a_prompt_that_leaves_nothing_is_an_error() {
    let batch = pack(&[vec![5; 3]]).with_prompt_length(3);
    let tokens = Tensor::zeros([3, 2], tch::kind::FLOAT_CPU);
    let pooling = Pooling {
        modes: vec![PoolingMode::Max],
        include_prompt: false,
    };
    let error = pooling.forward(&tokens, &batch).unwrap_err().to_string();
    assert!(
        error.contains("a prompt of 3 tokens leaves nothing to pool"),
        "{error}"
    );
}

#[test]
fn every_mode_agrees_on_the_tiny_model_and_survives_saving() {
    let expected = expected_tensors();
    for mode in [
        "cls",
        "max",
        "mean",
        "mean_sqrt_len_tokens",
        "weightedmean",
        "lasttoken",
        "cls+mean+max",
    ] {
        let folder = tempfile::tempdir().unwrap();
        copy(&fixture("tiny-mpnet"), folder.path());
        let modes: Vec<&str> = mode.split('+').collect();
        let json = json!({"embedding_dimension": 32, "pooling_mode": modes});
        std::fs::write(
            folder.path().join("1_Pooling/config.json"),
            json.to_string(),
        )
        .unwrap();
        let model = SentenceTransformer::load(folder.path(), Device::Cpu).unwrap();
        assert_eq!(model.dimension(), 32 * modes.len() as i64);
        let embeddings = model.forward(&pack(&ids()), Mode::Eval).unwrap().detach();
        // Values of these modes are up to 30 times as large.
        let tolerance = if mode == "mean_sqrt_len_tokens" {
            2e-5
        } else {
            4e-6
        };
        assert_close(
            mode,
            &embeddings,
            &expected[&format!("sentence_embedding.{mode}")],
            tolerance,
        );

        let saved = tempfile::tempdir().unwrap();
        model.save(saved.path()).unwrap();
        let again = SentenceTransformer::load(saved.path(), Device::Cpu).unwrap();
        let again = again.forward(&pack(&ids()), Mode::Eval).unwrap().detach();
        crate::assert_equal(mode, &again, &embeddings);
    }
}

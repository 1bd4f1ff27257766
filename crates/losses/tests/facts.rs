//! The facts of upstream's own tests of losses that need no download: `tests/sentence_transformer/losses/` of
//! sentence-transformers. What concerns several processes, and warnings, has no counterpart here.

use losses::{
    BuildContext, Loss, LossConfig, LossError, StepInputs, distill_kl_div::DistillKlDiv,
    gradients::gradients, names,
};
use tch::{Device, Kind, Tensor};

fn build(text: &str, dimension: i64) -> Result<Box<dyn Loss>, LossError> {
    text.parse::<LossConfig>()?.build(&BuildContext {
        dimension: Some(dimension),
        device: Device::Cpu,
        seed: 42,
    })
}

fn value(text: &str, columns: &[Tensor], labels: Option<&Tensor>) -> f64 {
    let loss = build(text, columns[0].size()[1]).unwrap();
    f64::try_from(loss.value(&StepInputs::new(columns, labels)).unwrap()).unwrap()
}

fn random(seed: i64, shape: [i64; 2]) -> Tensor {
    tch::manual_seed(seed);
    Tensor::randn(shape, (Kind::Float, Device::Cpu))
}

/// Every name that `--loss` takes has three random cases and more of upstream's values and gradients in `upstream.rs`.
#[test]
fn every_loss_has_fixtures() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    for name in names() {
        let path = folder.join(format!("{}.json", name.replace('-', "_")));
        let cases: Vec<serde_json::Value> =
            serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let mut different: Vec<String> = cases
            .iter()
            .map(|case| case["columns"].to_string())
            .collect();
        different.sort_unstable();
        different.dedup();
        assert!(different.len() >= 3, "{name}");
        assert!(
            cases.iter().all(|case| case["loss"]["name"] == name),
            "{name}"
        );
        let has_gradients = |case: &&serde_json::Value| case["gradients"].is_array();
        assert_eq!(
            cases.iter().filter(has_gradients).count(),
            cases.len(),
            "{name}"
        );
    }
}

/// test_triplet_loss_correct_direction.
#[test]
fn a_triplet_loss_wants_the_positive_near() {
    let row = |values: [f32; 3]| Tensor::from_slice(&values).view([1, 3]);
    let (anchor, near, far) = (
        row([1.0, 0.0, 0.0]),
        row([0.9, 0.1, 0.0]),
        row([0.0, 1.0, 0.0]),
    );
    for metric in ["cosine", "euclidean", "manhattan"] {
        let loss = format!("triplet:distance={metric},margin=1");
        let of = |a: &Tensor, b: &Tensor| {
            value(
                &loss,
                &[anchor.shallow_clone(), a.shallow_clone(), b.shallow_clone()],
                None,
            )
        };
        assert!(of(&near, &far) < of(&far, &near), "{metric}");
    }
}

/// test_batch_hard_soft_margin_finite_loss_and_gradients.
#[test]
fn a_soft_margin_stays_finite() {
    for separation in [10.0f32, 1000.0] {
        let rows = [0.0, separation, 2.0, separation + 4.0];
        let embeddings = Tensor::from_slice(&rows).view([4, 1]);
        let labels = Tensor::from_slice(&[0i64, 0, 1, 1]);
        let loss = build("batch-hard-soft-margin-triplet", 1).unwrap();
        let step = StepInputs {
            embeddings: &[embeddings],
            prior: &[],
            labels: Some(&labels),
            own: None,
            seed: 0,
        };
        let found = gradients(loss.as_ref(), &step, 1.0).unwrap();
        // Each row's distance to the other of its label, less that to the nearer of the others.
        let s = f64::from(separation);
        let margins = [s - 2.0, s - 4.0, s + 2.0 - 2.0, s + 2.0 - 4.0];
        let expected = margins.map(|m| m + (-m).exp().ln_1p()).iter().sum::<f64>() / 4.0;
        let value = found.value.double_value(&[]);
        assert!(
            (value - expected).abs() < 1e-5 * expected,
            "{value} is not {expected}"
        );
        assert!(bool::try_from(found.embeddings[0].isfinite().all()).unwrap());
    }
}

/// test_distill_kl_div_rejects_unusable_temperatures.
#[test]
fn temperatures_have_to_be_usable() {
    for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let default = DistillKlDiv::default;
        for loss in [
            DistillKlDiv {
                temperature: bad,
                ..default()
            },
            DistillKlDiv {
                student_temperature: Some(bad),
                ..default()
            },
            DistillKlDiv {
                teacher_temperature: Some(bad),
                ..default()
            },
        ] {
            let error = loss.validate().unwrap_err().to_string();
            assert!(error.contains("temperature is"), "{error}");
        }
    }
}

/// test_distill_kl_div_rejects_mismatched_label_width and ..._a_single_candidate.
#[test]
fn a_teachers_scores_are_one_a_document() {
    let columns = [5, 6, 7].map(|seed| random(seed, [2, 8]));
    let loss = build("distill-kl-div", 8).unwrap();
    let narrow = Tensor::from_slice(&[1.0f32, 1.0]).view([2, 1]);
    let error = loss
        .value(&StepInputs::new(&columns, Some(&narrow)))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("[2, 2], a score for each document"),
        "{error}"
    );
    let error = loss
        .value(&StepInputs::new(&columns[..2], Some(&narrow)))
        .unwrap_err()
        .to_string();
    assert!(error.contains("3 or more text columns"), "{error}");
}

/// test_distill_kl_div_separate_temperatures.
#[test]
fn two_temperatures_are_one_where_they_are_equal() {
    let columns = [11, 12, 13].map(|seed| random(seed, [4, 8]));
    let labels = Tensor::from_slice(&[4.0f32, 1.0, 3.5, 0.5, 2.0, 1.5, 5.0, 0.0]).view([4, 2]);
    let of = |text: &str| value(&format!("distill-kl-div:{text}"), &columns, Some(&labels));
    let shared = of("temperature=0.5");
    let aliased = of("student_temperature=0.5,teacher_temperature=0.5");
    assert!(
        (shared - aliased).abs() < 1e-6 * shared.abs(),
        "{shared}, {aliased}"
    );
    let split = of("student_temperature=0.5,teacher_temperature=2");
    assert!(
        (shared - split).abs() > 1e-3 * shared.abs(),
        "{shared}, {split}"
    );
}

/// test_matryoshka: test_dimensions_sorted_descending, test_default_weights_when_none, test_mse_loss_matryoshka.
#[test]
fn matryoshka_dimensions_go_with_their_weights() {
    let columns = [1, 2].map(|seed| random(seed, [3, 16]));
    let of = |text: &str| value(&format!("matryoshka:{text}/mnrl"), &columns, None);
    let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-6 * a.abs(), "{a}, {b}");
    close(
        of("dims=4+12+8+16,weights=0.6+1+0.8+0.4"),
        of("dims=16+12+8+4,weights=0.4+1+0.8+0.6"),
    );
    close(of("dims=16+8+4"), of("dims=16+8+4,weights=1+1+1"));
    assert!((of("dims=16+8,weights=1+0.5") - of("dims=16+8,weights=0.5+1")).abs() > 1e-3);
    let teacher = random(3, [3, 16]);
    let mse = value("matryoshka:dims=4+8+16/mse", &columns[..1], Some(&teacher));
    assert!(mse.is_finite() && mse > 0.0);
}

/// test_matryoshka: its refusals. A dimension above the model's is only found where the model's is known
/// (test_model_dimension_none_no_validation).
#[test]
fn matryoshka_dimensions_are_checked() {
    for (text, part) in [
        ("dims=8+0+4", "has 0, but must be from 1"),
        ("dims=8+-4", "has -4, but must be from 1"),
        ("dims=8+4+2,weights=1+0.5", "2 entries for 3 dimensions"),
        (
            "dims=8+16+4",
            "has 16, but must be from 1 to the model's dimension, 8",
        ),
    ] {
        let error = build(&format!("matryoshka:{text}/mnrl"), 8)
            .unwrap_err()
            .to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
    let large: LossConfig = "matryoshka:dims=2048+1024+512/mnrl".parse().unwrap();
    large.check().unwrap();
    build("matryoshka:dims=8+4+2/mnrl", 8).unwrap();
}

/// test_contrastive: labels other than 0 and 1 are taken, and give a finite loss.
#[test]
fn contrastive_stays_finite_with_other_labels() {
    let column = |values: [f32; 4]| Tensor::from_slice(&values).view([2, 2]);
    let columns = [column([1.0, 0.0, 0.0, 1.0]), column([0.9, 0.1, 1.0, 0.0])];
    for labels in [[1.0f32, 0.25], [1.0, 0.0]] {
        let labels = Tensor::from_slice(&labels);
        assert!(value("contrastive", &columns, Some(&labels)).is_finite());
    }
}

/// Batches that would not fit if memory grew with their cube (275 GB for 4,096 rows), or for CoSENT and AnglE with
/// their square (40 GB for 100,000).
#[test]
fn large_batches_fit() {
    let check = |name: &str, columns: &[Tensor], labels: &Tensor| {
        let loss = build(name, columns[0].size()[1]).unwrap();
        let found = gradients(loss.as_ref(), &StepInputs::new(columns, Some(labels)), 1.0).unwrap();
        assert!(found.value.double_value(&[]) > 0.0, "{name}");
        let is_finite = found.embeddings[0].isfinite().all();
        assert!(bool::try_from(is_finite).unwrap(), "{name}");
    };
    let column = [random(1, [4096, 16])];
    // Two classes have the most triplets.
    let labels = Tensor::arange(4096, (Kind::Int64, Device::Cpu)).remainder(2);
    for name in [
        "batch-all-triplet",
        "batch-semi-hard-triplet",
        "batch-hard-triplet",
        "batch-hard-soft-margin-triplet",
    ] {
        check(name, &column, &labels);
    }
    let columns = [2, 3].map(|seed| random(seed, [100_000, 8]));
    let labels = Tensor::rand([100_000], (Kind::Float, Device::Cpu));
    for name in ["cosent", "angle"] {
        check(name, &columns, &labels);
    }
}

/// The sums over all triplets, one by one.
#[test]
fn sorted_sums_are_those_of_the_cube() {
    let value = |tensor: Tensor| f64::try_from(tensor).unwrap();
    for seed in 0..5 {
        let rows = random(seed, [24, 3]);
        let classes: Vec<i64> = (0..24).map(|row| row * row % 5).collect();
        let labels = Tensor::from_slice(&classes);
        let at = |i: i64, j: i64| value((rows.get(i) - rows.get(j)).norm());
        let distances: Vec<Vec<f64>> = (0..24)
            .map(|i| (0..24).map(|j| at(i, j)).collect())
            .collect();
        for margin in [0.0, 0.5, 5.0] {
            let (mut all, mut n_unmet) = (0.0, 0);
            let (mut semi, mut n_pairs) = (0.0, 0);
            for a in 0..24 {
                let others = || (0..24).filter(move |&other| other != a);
                let negatives = others().filter(|&n| classes[n] != classes[a]);
                let negatives: Vec<f64> = negatives.map(|n| distances[a][n]).collect();
                for p in others().filter(|&p| classes[p] == classes[a]) {
                    let positive = distances[a][p];
                    let unmet = negatives.iter().map(|d| positive - d + margin);
                    let unmet: Vec<f64> = unmet.filter(|hinge| *hinge > 0.0).collect();
                    all += unmet.iter().sum::<f64>();
                    n_unmet += unmet.len();
                    let farther = negatives.iter().copied().filter(|d| *d > positive);
                    let nearest = farther.fold(f64::INFINITY, f64::min);
                    let chosen = match nearest.is_finite() {
                        true => nearest,
                        false => negatives.iter().copied().fold(0.0, f64::max),
                    };
                    semi += (positive - chosen + margin).max(0.0);
                    n_pairs += 1;
                }
            }
            for (name, expected) in [
                ("batch-all-triplet", all / n_unmet as f64),
                ("batch-semi-hard-triplet", semi / f64::from(n_pairs)),
            ] {
                let loss = build(&format!("{name}:margin={margin}"), 3).unwrap();
                let columns = [rows.shallow_clone()];
                let found = value(
                    loss.value(&StepInputs::new(&columns, Some(&labels)))
                        .unwrap(),
                );
                assert!(
                    (found - expected).abs() < 1e-5 * expected.max(1.0),
                    "{name}, margin {margin}: {found} and not {expected}"
                );
            }
        }
    }
}

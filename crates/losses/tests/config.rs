//! Losses by name and parameters, and what is refused.

use losses::{BuildContext, LabelKind, Loss, LossConfig, LossError, StepInputs, names};
use serde_json::json;
use tch::{Device, Kind, Tensor};

const CONTEXT: BuildContext = BuildContext {
    dimension: Some(8),
    device: Device::Cpu,
    seed: 42,
};

fn build(text: &str) -> Result<Box<dyn Loss>, LossError> {
    text.parse::<LossConfig>()?.build(&CONTEXT)
}

fn value(text: &str, columns: &[Tensor], labels: Option<&Tensor>) -> Result<Tensor, LossError> {
    build(text)?.value(&StepInputs::new(columns, labels))
}

fn problem<T: std::fmt::Debug>(result: Result<T, LossError>) -> String {
    result.unwrap_err().to_string()
}

fn rows(seed: i64, batch: i64) -> Tensor {
    tch::manual_seed(seed);
    Tensor::randn([batch, 8], (Kind::Float, Device::Cpu))
}

#[test]
fn every_name_builds_and_goes_by_its_class_too() {
    for name in names() {
        let text = match name {
            "matryoshka" => "matryoshka:dims=8+4/mnrl".to_owned(),
            "matryoshka-2d" => "matryoshka-2d:dims=8+4/mnrl".to_owned(),
            "adaptive-layer" => "adaptive-layer/mnrl".to_owned(),
            name => name.to_owned(),
        };
        let loss = build(&text).unwrap();
        assert!(loss.name().ends_with("Loss"));
        let class = LossConfig::new(loss.name()).unwrap();
        // The symmetric form is the ranking loss with other defaults.
        if name != "multiple-negatives-symmetric-ranking" {
            assert_eq!(class.name(), name);
        }
    }
}

#[test]
fn names_come_in_many_forms() {
    for name in [
        "mnrl",
        "MNRL",
        "multiple-negatives-ranking",
        "multiple-negatives-ranking-loss",
        "multiple_negatives_ranking",
        "MultipleNegativesRankingLoss",
    ] {
        assert_eq!(build(name).unwrap().name(), "MultipleNegativesRankingLoss");
    }
}

#[test]
fn an_unknown_name_lists_the_known() {
    let message = problem(build("mrnl"));
    assert!(message.starts_with("unknown loss `mrnl`: known are multiple-negatives-ranking, "));
    assert!(names().all(|name| message.contains(name)));
}

#[test]
fn parameters_count() {
    let columns = [rows(1, 4), rows(2, 4)];
    let value = |text| f64::try_from(value(text, &columns, None).unwrap()).unwrap();
    assert_ne!(value("mnrl"), value("mnrl:scale=5"));
    assert_ne!(value("mnrl:scale=1"), value("mnrl:scale=1,similarity=dot"));
    let symmetric = "mnrl:directions=query-to-doc+doc-to-query,partition-mode=per-direction";
    assert_eq!(
        value(symmetric),
        value("multiple-negatives-symmetric-ranking")
    );
    assert_eq!(value("mnrl:directions=query_to_doc"), value("mnrl"));
    assert_eq!(
        value("cached-mnrl:mini-batch-size=2,scale=5"),
        value("mnrl:scale=5")
    );
    assert_eq!(
        build("cached-mnrl:mini-batch-size=2")
            .unwrap()
            .mini_batch_size(),
        Some(2)
    );
    assert_eq!(build("mnrl").unwrap().mini_batch_size(), None);
    let layers = |text: &str, seed| build(text).unwrap().prior_layers(5, seed);
    assert_eq!(
        layers("adaptive-layer:n_layers_per_step=-1/mnrl", 0),
        [0, 1, 2, 3, 4]
    );
    assert_eq!(
        layers("adaptive-layer:n_layers_per_step=9/mnrl", 0).len(),
        5
    );
    assert_eq!(layers("mnrl", 0), [0; 0]);
    let drawn: Vec<usize> = (0..40)
        .flat_map(|seed| layers("adaptive-layer/mnrl", seed))
        .collect();
    assert_eq!(drawn.len(), 40);
    assert!((0..5).all(|layer| drawn.contains(&layer)), "{drawn:?}");
    assert_eq!(
        build("mega-batch-margin").unwrap().mini_batch_size(),
        Some(50)
    );
    let whole = build("mega-batch-margin:use-mini-batched-version=false").unwrap();
    assert_eq!(whole.mini_batch_size(), None);
}

/// As many dimensions are drawn as asked for: the loss of a step is one of those that its
/// dimensions have alone.
#[test]
fn dimensions_are_drawn() {
    let columns = [rows(1, 4), rows(2, 4)];
    let step = |text: &str, seed| {
        let step = StepInputs {
            embeddings: &columns,
            prior: &[],
            labels: None,
            own: None,
            seed,
        };
        f64::try_from(build(text).unwrap().value(&step).unwrap()).unwrap()
    };
    let single = [8, 6, 2].map(|dim| step(&format!("matryoshka:dims={dim}/mnrl"), 0));
    let mut drawn = [0; 3];
    for seed in 0..60 {
        let value = step("matryoshka:dims=8+6+2,n_dims_per_step=1/mnrl", seed);
        let place = single.iter().position(|alone| *alone == value).unwrap();
        drawn[place] += 1;
    }
    assert!(drawn.iter().all(|&count| count > 5), "{drawn:?}");
    let all = step("matryoshka:dims=8+6+2/mnrl", 0);
    assert_eq!(all, step("matryoshka:dims=8+6+2,n_dims_per_step=3/mnrl", 5));
    assert!((all - single.iter().sum::<f64>()).abs() < 1e-5);
    let both = build("matryoshka-2d:dims=8+6+2,n_layers_per_step=-1/mnrl").unwrap();
    assert_eq!(both.name(), "Matryoshka2dLoss");
    assert_eq!(both.prior_layers(3, 0), [0, 1, 2]);
    let value = step("matryoshka-2d:dims=8+6+2/mnrl", 1);
    assert!(single.contains(&value));
}

#[test]
fn a_guide_is_a_path() {
    for (text, guide) in [
        ("gist-embed:guide=/models/a+b/c,margin=0.1", "/models/a+b/c"),
        ("gist:guide=org/name@v1", "org/name@v1"),
        ("adaptive-layer/gist:guide=./a/b", "./a/b"),
        (
            "cached-gist-embed:guide=org/name,mini_batch_size=4",
            "org/name",
        ),
        ("matryoshka:dims=4/gist:guide=org/name", "org/name"),
    ] {
        assert_eq!(build(text).unwrap().guide(), Some(guide), "{text}");
        let config: LossConfig = text.parse().unwrap();
        let again: LossConfig = config.to_string().parse().unwrap();
        assert_eq!(again, config);
    }
}

/// Without a model all is found but what depends on its dimension.
#[test]
fn parameters_are_checked_without_a_model() {
    let check = |text: &str| text.parse::<LossConfig>().unwrap().check();
    for text in [
        "softmax",
        "embed-distill:projection_dim=768",
        "matryoshka:dims=768+64/mnrl",
        "matryoshka-2d:dims=768+64/mnrl",
    ] {
        check(text).unwrap();
    }
    for (text, part) in [
        ("mnrl:scale=0", "scale is 0"),
        ("matryoshka:dims=0/mnrl", "from 1 to the model's dimension"),
        (
            "matryoshka:dims=8,n_dims_per_step=0/mnrl",
            "n_dims_per_step is 0",
        ),
        ("softmax:num_labels=1", "num_labels is 1"),
        ("gist-embed", "the guide is missing"),
        ("adaptive-layer/cached-gist-embed", "embeds in mini-batches"),
        ("embed-distill:projection_dim=0", "projection_dim is 0"),
        (
            "matryoshka-2d:dims=8,kl_temperature=-1/mnrl",
            "kl_temperature is -1",
        ),
        ("matryoshka-2d:dims=8,scale=2/mnrl", "unknown field `scale`"),
    ] {
        let message = problem(check(text));
        assert!(message.contains(part), "{text}: {message}");
    }
}

#[test]
fn bad_parameters_are_named() {
    for (text, part) in [
        ("mnrl:scal=3", "unknown field `scal`, expected one of"),
        ("mnrl:scale=high", "expected f64"),
        ("mnrl:scale=0", "scale is 0, but must be greater than 0"),
        ("mnrl:scale", "`scale` is not of the form key=value"),
        (
            "mnrl:directions=doc-to-query",
            "directions lack query_to_doc",
        ),
        (
            "mnrl:directions=query-to-doc+query-to-query,partition=per-direction",
            "use joint",
        ),
        ("mnrl:hardness=hard-negatives", "hardness_strength"),
        ("mnrl:similarity=angle", "unknown variant `angle`"),
        (
            "triplet:margin=-1",
            "triplet_margin is -1, but must be at least 0",
        ),
        (
            "softmax:num_labels=1",
            "num_labels is 1, but must be at least 2",
        ),
        (
            "softmax:concatenation_sent_rep=false,concatenation_sent_difference=false",
            "one has to be true",
        ),
        ("distill-kl-div:temperature=0", "temperature is 0"),
        (
            "gor:mean_weight=0,second_moment_weight=0",
            "nothing is left",
        ),
        ("matryoshka:dims=8", "missing field `loss`"),
        (
            "matryoshka:dims=16+8/mnrl",
            "has 16, but must be from 1 to the model's dimension, 8",
        ),
        ("matryoshka:dims=0/mnrl", "has 0"),
        (
            "matryoshka:dims=8+4,weights=1/mnrl",
            "1 entries for 2 dimensions",
        ),
        (
            "matryoshka:dims=8/softmax",
            "SoftmaxLoss has weights of one size",
        ),
        ("matryoshka:dims=8/mrnl", "unknown loss `mrnl`"),
        ("adaptive-layer/cached-mnrl", "embeds in mini-batches"),
        ("adaptive-layer/mega-batch-margin", "embeds in mini-batches"),
        (
            "adaptive-layer/adaptive-layer/mnrl",
            "looks at layers itself",
        ),
        (
            "matryoshka:dims=8/adaptive-layer/mnrl",
            "goes around this loss",
        ),
        (
            "mega-batch-margin:mini_batch_size=0",
            "mini_batch_size is 0",
        ),
        (
            "adaptive-layer:n_layers_per_step=0/mnrl",
            "n_layers_per_step is 0",
        ),
        ("cached-mnrl:mini_batch_size=0", "mini_batch_size is 0"),
        ("cached-mnrl:mini_batch_size=-1", "mini_batch_size: "),
        ("cached-mnrl:scale=-1", "scale is -1"),
    ] {
        let message = problem(build(text));
        assert!(message.contains(part), "{text}: {message}");
    }
}

#[test]
fn text_and_tables_go_round() {
    for text in [
        "triplet",
        "triplet:distance=cosine,margin=0.5",
        "multiple-negatives-ranking:directions=query-to-doc+doc-to-query",
        "adaptive-layer:kl_temperature=0.5/matryoshka:dims=8+4/multiple-negatives-ranking:scale=30",
    ] {
        let config: LossConfig = text.parse().unwrap();
        assert_eq!(config.to_string(), text);
        let table = serde_json::to_value(&config).unwrap();
        assert_eq!(table["name"], config.name());
        let back: LossConfig = serde_json::from_value(table).unwrap();
        assert_eq!(back, config);
        let from_text: LossConfig = serde_json::from_value(json!(text)).unwrap();
        assert_eq!(from_text, config);
    }
    let table = json!({"name": "TripletLoss", "triplet-margin": 1, "distance_metric": "manhattan"});
    let config: LossConfig = serde_json::from_value(table).unwrap();
    assert_eq!(
        config.to_string(),
        "triplet:triplet_margin=1,distance_metric=manhattan"
    );
    let inner = json!({"name": "mrl", "dims": [8, 4], "loss": {"name": "mnrl", "scale": 30}});
    let config: LossConfig = serde_json::from_value(inner).unwrap();
    assert_eq!(config.build(&CONTEXT).unwrap().name(), "MatryoshkaLoss");
    assert_eq!(
        config.to_string(),
        "matryoshka:dims=8+4/multiple-negatives-ranking:scale=30"
    );
}

#[test]
fn data_that_does_not_fit_is_refused_with_what_is_needed() {
    let check = |text, columns, labels| build(text).unwrap().check(columns, labels);
    for (text, columns, labels) in [
        ("mnrl", 2, LabelKind::None),
        ("mnrl", 7, LabelKind::None),
        ("triplet", 3, LabelKind::None),
        ("cosent", 2, LabelKind::Float),
        ("cosent", 2, LabelKind::Integer),
        ("angle", 2, LabelKind::Float),
        ("angle", 4, LabelKind::None),
        ("softmax", 2, LabelKind::Integer),
        ("mse", 1, LabelKind::FloatVector),
        ("margin-mse", 3, LabelKind::Float),
        ("matryoshka:dims=4/cosent", 2, LabelKind::Float),
    ] {
        check(text, columns, labels).unwrap();
    }
    for (text, columns, labels, message) in [
        (
            "mnrl",
            2,
            LabelKind::Integer,
            "MultipleNegativesRankingLoss needs 2 or more text columns without a label column, but \
             the data set has 2 text columns and a column of integer labels",
        ),
        (
            "triplet",
            2,
            LabelKind::None,
            "TripletLoss needs 3 text columns without a label column, but the data set has 2 text \
             columns without a label column",
        ),
        (
            "angle",
            2,
            LabelKind::None,
            "AnglELoss needs 2 text columns and a column of float labels, or 3 or more text columns \
             without a label column, but the data set has 2 text columns without a label column",
        ),
        (
            "batch-hard-triplet",
            2,
            LabelKind::Float,
            "BatchHardTripletLoss needs 1 text column and a column of integer labels, but the data \
             set has 2 text columns and a column of float labels",
        ),
    ] {
        assert_eq!(problem(check(text, columns, labels)), message);
    }
    assert!(build("gist-embed").unwrap().requirements().guide);
    assert!(!build("mnrl").unwrap().requirements().guide);
}

#[test]
fn batches_that_do_not_fit_are_refused() {
    let compute =
        |text, columns: &[Tensor], labels: Option<&Tensor>| problem(value(text, columns, labels));
    let (four, three) = (rows(1, 4), rows(2, 3));
    let pair = [four.shallow_clone(), three.shallow_clone()];
    assert_eq!(
        compute("mnrl", &pair, None),
        "MultipleNegativesRankingLoss: embeddings of column 1 has shape [3, 8], but the shape of \
         column 0, [4, 8], is needed"
    );
    let empty = Tensor::zeros([0, 8], (Kind::Float, Device::Cpu));
    assert!(compute("mnrl", &[empty.shallow_clone(), empty], None).contains("at least one row"));
    assert!(compute("triplet", &[four.shallow_clone()], None).contains("needs 3 text columns"));
    let pair = [four.shallow_clone(), four.shallow_clone()];
    assert!(compute("cosent", &pair, None).contains("needs labels"));
    let labels = Tensor::from_slice(&[1.0f32, 0.0]);
    assert!(compute("cosent", &pair, Some(&labels)).contains("labels has shape [2], but [4]"));
    assert!(compute("mse", &pair, Some(&labels)).contains("[4, 8] or [4, 2, 8]"));
    assert!(compute("gist-embed", &[four.shallow_clone()], None).contains("guide's column"));
    let triple = [four.shallow_clone(), four.shallow_clone(), four];
    assert!(compute("margin-mse", &triple, Some(&labels)).contains("[4, 1] or [4, 2]"));
    assert!(compute("distill-kl-div", &triple, Some(&labels)).contains("[4, 2]"));
}

#[test]
fn half_precision_is_raised() {
    let half = [rows(1, 4), rows(2, 4)].map(|column| column.to_kind(Kind::BFloat16));
    let single = [&half[0], &half[1]].map(|column| column.to_kind(Kind::Float));
    for text in ["mnrl", "matryoshka:dims=8+4/mnrl"] {
        let of_half = value(text, &half, None).unwrap();
        assert_eq!(of_half.kind(), Kind::Float);
        assert_eq!(of_half, value(text, &single, None).unwrap());
    }
}

#[test]
fn a_softmax_classifier_learns_by_its_own_parameters() {
    let loss = build("softmax:num_labels=2").unwrap();
    let columns = [rows(1, 16), rows(2, 16)];
    let labels = Tensor::arange(16, (Kind::Int64, Device::Cpu)).remainder(2);
    let step = StepInputs::new(&columns, Some(&labels));
    let value = || loss.value(&step).unwrap();
    let before = f64::try_from(value()).unwrap();
    let parameters = loss.parameters();
    let named: Vec<&str> = parameters.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(named, ["classifier.weight", "classifier.bias"]);
    for _ in 0..20 {
        value().backward();
        for (_, parameter) in &parameters {
            let mut gradient = parameter.grad();
            let _ = tch::no_grad(|| parameter.shallow_clone().subtract_(&(&gradient * 0.5)));
            let _ = gradient.zero_();
        }
    }
    assert!(f64::try_from(value()).unwrap() < before / 2.0);
}

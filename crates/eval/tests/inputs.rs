//! What the evaluators refuse, and what they make of edge cases.

use eval::{
    BinaryClassificationEvaluator, EmbeddingSimilarityEvaluator, EvalError,
    InformationRetrievalEvaluator, LabelAccuracyEvaluator, Metrics, SimilarityFunction,
    TripletEvaluator,
};
use std::collections::{HashMap, HashSet};
use tch::{Device, Kind, Tensor};

fn zeros(rows: i64, dimension: i64) -> Tensor {
    Tensor::zeros([rows, dimension], (Kind::Float, Device::Cpu))
}

fn message<T: std::fmt::Debug>(result: Result<T, EvalError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn shapes_that_differ_are_named() {
    let evaluator = TripletEvaluator::new("dev", &[]);
    assert_eq!(
        message(evaluator.evaluate(&zeros(3, 4), &zeros(3, 4), &zeros(2, 4))),
        "TripletEvaluator: negatives have shape [2, 4], but anchors have [3, 4]"
    );
    assert_eq!(
        message(evaluator.evaluate(&zeros(0, 4), &zeros(0, 4), &zeros(0, 4))),
        "TripletEvaluator: anchors have shape [0, 4], but [n, dimension] with n > 0 is needed"
    );
    let evaluator = EmbeddingSimilarityEvaluator::new("dev", &[]);
    assert_eq!(
        message(evaluator.evaluate(&zeros(3, 4), &zeros(3, 4), &[1.0, 0.0])),
        "EmbeddingSimilarityEvaluator: 3 pairs, but 2 gold scores"
    );
    assert_eq!(
        message(evaluator.evaluate(&zeros(1, 4), &zeros(1, 4), &[1.0])),
        "EmbeddingSimilarityEvaluator: a correlation needs 2 rows or more, but there are 1"
    );
    let evaluator = BinaryClassificationEvaluator::new("dev", &[]);
    assert_eq!(
        message(evaluator.evaluate(&zeros(3, 4), &zeros(3, 4), &[true])),
        "BinaryClassificationEvaluator: 3 pairs, but 1 labels"
    );
}

#[test]
fn an_unknown_similarity_lists_the_known() {
    assert_eq!(
        message("cos".parse::<SimilarityFunction>()),
        "unknown similarity `cos`: known are cosine, dot, euclidean, manhattan"
    );
}

#[test]
fn equal_texts_are_no_hit() {
    let rows = Tensor::randn([16, 6], (Kind::Float, Device::Cpu));
    let evaluator = TripletEvaluator::new("", &SimilarityFunction::ALL);
    let metrics = evaluator
        .evaluate(&rows, &rows.flip([0]), &rows.flip([0]))
        .unwrap();
    assert!(
        metrics.iter().all(|(_, accuracy)| accuracy == 0.0),
        "{metrics:?}"
    );
}

#[test]
fn zero_vectors_stay_finite() {
    let evaluator = TripletEvaluator::new("", &[SimilarityFunction::Cosine]);
    let ones = Tensor::ones([2, 4], (Kind::Float, Device::Cpu));
    let metrics = evaluator.evaluate(&ones, &ones, &zeros(2, 4)).unwrap();
    assert_eq!(metrics.get("cosine_accuracy"), Some(1.0));
}

#[test]
fn half_precision_and_gradients_are_accepted() {
    let rows = Tensor::randn([8, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    let half = rows.detach().to_kind(Kind::Half);
    let evaluator = TripletEvaluator::new("", &[]);
    let accuracy = |a: &Tensor| evaluator.evaluate(a, a, &a.flip([0])).unwrap().primary();
    assert_eq!((accuracy(&rows), accuracy(&half)), (1.0, 1.0));
}

#[test]
fn label_accuracy_counts_the_greatest_logit() {
    let logits = Tensor::from_slice2(&[[0.1f32, 0.9], [2.0, 1.0], [0.5, 0.5]]);
    let evaluator = LabelAccuracyEvaluator::new("nli");
    let metrics = evaluator.evaluate(&logits, &[1, 1, 0]).unwrap();
    assert_eq!(metrics.get("nli_accuracy"), Some(2.0 / 3.0));
    assert_eq!(evaluator.csv_file(), "accuracy_evaluation_nli_results.csv");
    assert_eq!(evaluator.csv_header(), ["epoch", "steps", "accuracy"]);
    assert!(message(evaluator.evaluate(&logits, &[1])).contains("[1, classes]"));
}

#[test]
fn retrieval_refuses_what_cannot_be_ranked() {
    let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
    let relevant = HashMap::from([("q".to_owned(), HashSet::from(["d".to_owned()]))]);
    let evaluator = |queries: &[&str], corpus: &[&str]| {
        InformationRetrievalEvaluator::new("", &[], &ids(queries), &ids(corpus), &relevant)
    };
    assert!(message(evaluator(&["q"], &["d", "d"])).contains("`d` comes twice"));
    assert!(message(evaluator(&["p"], &["d"])).contains("none of the 1 queries"));
    let fits = evaluator(&["q"], &["d", "e"]).unwrap();
    assert!(message(fits.evaluate(&zeros(1, 4), &zeros(1, 4))).contains("[2, dimension]"));
}

#[test]
fn equal_scores_rank_by_id() {
    let ids = ["b", "a"].map(str::to_owned);
    let query = ["q".to_owned()];
    let relevant = HashMap::from([("q".to_owned(), HashSet::from(["a".to_owned()]))]);
    let ones = |rows| Tensor::ones([rows, 4], (Kind::Float, Device::Cpu));
    let evaluator = InformationRetrievalEvaluator::new("", &[], &query, &ids, &relevant).unwrap();
    let metrics = evaluator.evaluate(&ones(1), &ones(2)).unwrap();
    assert_eq!(metrics.get("cosine_accuracy@1"), Some(1.0));
}

#[test]
fn chunks_do_not_change_the_ranking() {
    // Small whole numbers, so that dot products are exact and many are equal.
    let whole = |rows| Tensor::randint_low(-2, 3, [rows, 3], (Kind::Float, Device::Cpu));
    let (queries, corpus) = (whole(20), whole(101));
    let ids: Vec<String> = (0..101).map(|row| format!("d{}", row * 37 % 101)).collect();
    let query_ids: Vec<String> = (0..20).map(|row| format!("q{row}")).collect();
    let of_query = |row: usize| HashSet::from([ids[row * 5].clone(), ids[row * 3 + 1].clone()]);
    let relevant: HashMap<_, _> = query_ids
        .iter()
        .enumerate()
        .map(|(row, id)| (id.clone(), of_query(row)))
        .collect();
    let dot = [SimilarityFunction::Dot];
    let mut evaluator =
        InformationRetrievalEvaluator::new("", &dot, &query_ids, &ids, &relevant).unwrap();
    evaluator.map_at_k = vec![10];
    let whole = evaluator.evaluate(&queries, &corpus).unwrap();
    assert!(whole.primary() > 0.0 && whole.primary() < 1.0);
    for chunk in [1, 7, 50] {
        evaluator.corpus_chunk_size = chunk;
        assert_eq!(
            evaluator.evaluate(&queries, &corpus).unwrap(),
            whole,
            "chunks of {chunk}"
        );
    }
}

#[test]
fn sequential_merges_and_scores() {
    let metrics = |name: &str, value: f64| Metrics::new(name, "x", vec![("x".to_owned(), value)]);
    let last = |scores: &[f64]| scores[scores.len() - 1];
    let merged = Metrics::sequential(&[metrics("a", 0.5), metrics("b", 0.25)], last);
    let json = serde_json::to_string(&merged).unwrap();
    assert_eq!(json, r#"{"a_x":0.5,"b_x":0.25,"sequential_score":0.25}"#);
    assert_eq!(merged.primary(), 0.25);
    assert_eq!(Metrics::sequential(&[], last).primary(), 0.0);
}

#[test]
fn metrics_take_the_trainers_prefix() {
    let metrics = Metrics::new("dev", "x", vec![("x".to_owned(), f64::NAN)]).prefixed("eval");
    assert_eq!(metrics.primary_key(), "eval_dev_x");
    assert_eq!(
        serde_json::to_string(&metrics).unwrap(),
        r#"{"eval_dev_x":null}"#
    );
}

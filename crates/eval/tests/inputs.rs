//! The evaluators' refusals and edge cases.

use std::collections::{HashMap, HashSet};

use eval::{
    BinaryClassificationEvaluator, EmbeddingSimilarityEvaluator, EvalError, Evaluator,
    InformationRetrievalEvaluator, Inputs, LabelAccuracyEvaluator, Labels, Metrics, Similarity,
    TripletEvaluator,
};
use tch::{Device, Kind, Tensor};

fn zeros(rows: i64, dimension: i64) -> Tensor {
    Tensor::zeros([rows, dimension], (Kind::Float, Device::Cpu))
}

fn evaluate<const N: usize>(
    evaluator: &dyn Evaluator,
    columns: [&Tensor; N],
    labels: Option<Labels>,
) -> Result<Metrics, EvalError> {
    evaluator.evaluate(&Inputs {
        embeddings: &columns.map(Tensor::shallow_clone),
        labels: labels.as_ref(),
        text_ids: &[],
    })
}

fn message<T: std::fmt::Debug>(result: Result<T, EvalError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn shapes_that_differ_are_named() {
    let evaluator = TripletEvaluator::new("dev", &[]);
    assert_eq!(
        message(evaluate(
            &evaluator,
            [&zeros(3, 4), &zeros(3, 4), &zeros(2, 4)],
            None
        )),
        "TripletEvaluator: negatives have shape [2, 4], but anchors have [3, 4]"
    );
    assert_eq!(
        message(evaluate(&evaluator, [&zeros(0, 4); 3], None)),
        "TripletEvaluator: anchors have shape [0, 4], but [n, dimension] with n > 0 is needed"
    );
    assert_eq!(
        message(evaluate(&evaluator, [&zeros(3, 4); 2], None)),
        "TripletEvaluator: 2 columns of embeddings, but 3 are needed"
    );
    let evaluator = EmbeddingSimilarityEvaluator::new("dev", &[]);
    let scores = |scores: &[f64]| Some(Labels::Scores(scores.to_vec()));
    assert_eq!(
        message(evaluate(&evaluator, [&zeros(3, 4); 2], scores(&[1.0, 0.0]))),
        "EmbeddingSimilarityEvaluator: 3 pairs, but 2 gold scores"
    );
    assert_eq!(
        message(evaluate(&evaluator, [&zeros(1, 4); 2], scores(&[1.0]))),
        "EmbeddingSimilarityEvaluator: a correlation needs 2 rows or more, but there are 1"
    );
    let evaluator = BinaryClassificationEvaluator::new("dev", &[]);
    assert_eq!(
        message(evaluate(
            &evaluator,
            [&zeros(3, 4); 2],
            Some(Labels::Classes(vec![1]))
        )),
        "BinaryClassificationEvaluator: 3 pairs, but 1 labels"
    );
}

#[test]
fn equal_texts_are_no_hit() {
    let rows = Tensor::randn([16, 6], (Kind::Float, Device::Cpu));
    let evaluator = TripletEvaluator::new("", &Similarity::ALL);
    let metrics = evaluate(&evaluator, [&rows, &rows.flip([0]), &rows.flip([0])], None).unwrap();
    assert!(
        metrics.iter().all(|(_, accuracy)| accuracy == 0.0),
        "{metrics:?}"
    );
}

#[test]
fn zero_vectors_stay_finite() {
    let evaluator = TripletEvaluator::new("", &[Similarity::Cosine]);
    let ones = Tensor::ones([2, 4], (Kind::Float, Device::Cpu));
    let metrics = evaluate(&evaluator, [&ones, &ones, &zeros(2, 4)], None).unwrap();
    assert_eq!(metrics.get("cosine_accuracy"), Some(1.0));
}

#[test]
fn half_precision_and_gradients_are_accepted() {
    let rows = Tensor::randn([8, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    let half = rows.detach().to_kind(Kind::Half);
    let evaluator = TripletEvaluator::new("", &[]);
    let accuracy = |a: &Tensor| {
        let metrics = evaluate(&evaluator, [a, a, &a.flip([0])], None);
        metrics.unwrap().primary()
    };
    assert_eq!((accuracy(&rows), accuracy(&half)), (1.0, 1.0));
}

#[test]
fn label_accuracy_counts_the_greatest_logit() {
    let logits = Tensor::from_slice2(&[[0.1f32, 0.9], [2.0, 1.0], [0.5, 0.5]]);
    let evaluator = LabelAccuracyEvaluator::new("nli");
    let accuracy = |classes: &[i64]| {
        let classes = Labels::Classes(classes.to_vec());
        evaluate(&evaluator, [&logits], Some(classes))
    };
    assert_eq!(
        accuracy(&[1, 1, 0]).unwrap().get("nli_accuracy"),
        Some(2.0 / 3.0)
    );
    let table = evaluator.csv();
    assert_eq!(table.file, "accuracy_evaluation_nli_results.csv");
    assert_eq!(table.header(), ["epoch", "steps", "accuracy"]);
    assert!(message(accuracy(&[1])).contains("[1, classes]"));
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
    assert!(message(evaluate(&fits, [&zeros(1, 4); 2], None)).contains("[2, dimension]"));
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
    let dot = [Similarity::Dot];
    let mut evaluator =
        InformationRetrievalEvaluator::new("", &dot, &query_ids, &ids, &relevant).unwrap();
    evaluator.map_at_k = vec![10];
    let whole = evaluate(&evaluator, [&queries, &corpus], None).unwrap();
    assert!(whole.primary() > 0.0 && whole.primary() < 1.0);
    for chunk in [1, 7, 50] {
        evaluator.corpus_chunk_size = chunk;
        assert_eq!(
            evaluate(&evaluator, [&queries, &corpus], None).unwrap(),
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

//! The facts of sentence-transformers' own tests that need no model: `tests/sentence_transformer/evaluation` and
//! `tests/util/test_similarity.py`, as of 6.2.0. What an evaluator gives for given figures is in `upstream.rs`.

use std::collections::{HashMap, HashSet};

use eval::{
    BinaryClassificationEvaluator, Evaluator, InformationRetrievalEvaluator, Inputs, Labels,
    Margin, Metrics, ParaphraseMiningEvaluator, Similarity, TripletEvaluator, csv,
    paraphrase_mining::{Mining, Pair, mine},
    similarity::TensorSimilarity,
};
use tch::{Device, Kind, Tensor};

fn rows<const N: usize>(rows: &[[f32; N]]) -> Tensor {
    Tensor::from_slice2(rows)
}

fn values(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.to_kind(Kind::Double).reshape([-1])).unwrap()
}

fn close(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            (found - expected).abs() < 1e-6,
            "{found} and not {expected}"
        );
    }
}

fn own(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn evaluate<const N: usize>(
    evaluator: &dyn Evaluator,
    columns: [&Tensor; N],
    labels: Option<&[bool]>,
) -> Metrics {
    let classes = |labels: &[bool]| {
        let classes = labels.iter().map(|label| i64::from(*label));
        Labels::Classes(classes.collect())
    };
    let labels = labels.map(classes);
    let inputs = Inputs {
        embeddings: &columns.map(Tensor::shallow_clone),
        labels: labels.as_ref(),
        text_ids: &[],
    };
    evaluator.evaluate(&inputs).unwrap()
}

/// 1,000 pairs whose dot product is a random number, and random labels.
fn noise() -> (Tensor, Tensor, Vec<bool>) {
    tch::manual_seed(5);
    let scores = Tensor::randn([1000, 1], (Kind::Float, Device::Cpu));
    let labels = Tensor::randint(2, [1000], (Kind::Int64, Device::Cpu));
    let labels = Vec::<i64>::try_from(labels).unwrap();
    let ones = scores.ones_like();
    (
        scores,
        ones,
        labels.iter().map(|label| *label == 1).collect(),
    )
}

#[test]
fn the_best_f1_and_accuracy_are_those_at_their_thresholds() {
    let (scores, ones, labels) = noise();
    let evaluator = BinaryClassificationEvaluator::new("", &[Similarity::Dot]);
    let metrics = evaluate(&evaluator, [&scores, &ones], Some(&labels));
    let figure = |key: &str| metrics.get(key).unwrap();
    let counted = |threshold: f64| {
        let mut counts = [[0.0; 2]; 2];
        for (score, label) in values(&scores).iter().zip(&labels) {
            counts[usize::from(*label)][usize::from(*score >= threshold)] += 1.0;
        }
        let [[rejected, false_alarms], [missed, found]] = counts;
        let f1: f64 = 2.0 * found / (2.0 * found + false_alarms + missed);
        (f1, (found + rejected) / labels.len() as f64)
    };
    close(
        &[counted(figure("dot_f1_threshold")).0],
        &[figure("dot_f1")],
    );
    close(
        &[counted(figure("dot_accuracy_threshold")).1],
        &[figure("dot_accuracy")],
    );
}

#[test]
fn distances_are_positive_and_less_is_more_alike() {
    // Alike pairs are 0 to 2 apart, others 3 to 5.
    let a = rows(&[[0.0], [0.0], [0.0], [0.0], [0.0], [0.0]]);
    let b = rows(&[[0.0], [4.0], [1.0], [3.0], [2.0], [5.0]]);
    let labels = [true, false, true, false, true, false];
    let functions = [Similarity::Euclidean, Similarity::Manhattan];
    let evaluator = BinaryClassificationEvaluator::new("", &functions);
    let metrics = evaluate(&evaluator, [&a, &b], Some(&labels));
    for function in functions {
        for metric in ["accuracy", "f1", "precision", "recall", "ap", "mcc"] {
            let key = format!("{function}_{metric}");
            assert_eq!(metrics.get(&key), Some(1.0), "{key}");
        }
        for threshold in ["accuracy_threshold", "f1_threshold"] {
            let key = format!("{function}_{threshold}");
            assert_eq!(metrics.get(&key), Some(2.5), "{key}");
        }
    }
}

#[test]
fn maxima_need_no_cosine_and_the_csv_is_as_wide_as_its_header() {
    let (scores, ones, labels) = noise();
    let functions = [Similarity::Dot, Similarity::Euclidean];
    let evaluator = BinaryClassificationEvaluator::new("", &functions);
    let metrics = evaluate(&evaluator, [&scores, &ones], Some(&labels));
    assert_eq!(metrics.primary_key(), "max_ap");
    assert_eq!(metrics.get("cosine_ap"), None);
    for metric in ["ap", "accuracy"] {
        let of = |name: &str| metrics.get(&format!("{name}_{metric}")).unwrap();
        assert_eq!(of("max"), of("dot").max(of("euclidean")));
    }
    let row = evaluator.csv().row(csv::At::Outside, &metrics);
    assert_eq!(row.len(), evaluator.csv().header().len());
    assert_eq!(row.len(), 2 + 2 * 8);
}

/// A text's embedding: 1 for each word of a list that it contains.
fn embed(texts: &[&str]) -> Tensor {
    let words = ["pokemon", "car", "vehicle", "fruit", "vegetable"];
    let embedding = |text: &&str| words.map(|word| f32::from(u8::from(text.contains(word))));
    let rows: Vec<[f32; 5]> = texts.iter().map(embedding).collect();
    Tensor::from_slice2(&rows)
}

#[test]
fn retrieval_of_words_has_the_figures_that_can_be_counted() {
    let ids = own(&["0", "1", "2", "3", "4"]);
    let queries = embed(&["pokemon", "vegetable", "fruit", "vehicle", "car"]);
    let corpus = embed(&[
        "A pokemon is made up",
        "A vegetable grows",
        "A fruit grows",
        "A vehicle moves",
        "A car is a vehicle",
    ]);
    let of = |query: &str, documents: &[&str]| {
        (
            query.to_owned(),
            own(documents).into_iter().collect::<HashSet<_>>(),
        )
    };
    let relevant: HashMap<_, _> = [
        of("0", &["0"]),
        of("1", &["1"]),
        of("2", &["2"]),
        of("3", &["3", "4"]),
        of("4", &["4"]),
    ]
    .into();
    let mut evaluator =
        InformationRetrievalEvaluator::new("test", &[], &ids, &ids, &relevant).unwrap();
    evaluator.accuracy_at_k = vec![1, 3];
    evaluator.precision_recall_at_k = vec![1, 3];
    evaluator.mrr_at_k = vec![3];
    evaluator.ndcg_at_k = vec![3];
    evaluator.map_at_k = vec![5];
    let metrics = evaluate(&evaluator, [&queries, &corpus], None);
    let expected = [
        ("accuracy@1", 1.0),
        ("accuracy@3", 1.0),
        ("precision@1", 1.0),
        // 6 of the 15 documents in front are relevant.
        ("precision@3", 0.4),
        // One of the queries has two.
        ("recall@1", 0.9),
        ("recall@3", 1.0),
        ("ndcg@3", 1.0),
        ("mrr@3", 1.0),
        ("map@5", 1.0),
    ];
    let found: Vec<(&str, f64)> = metrics.iter().collect();
    assert_eq!(found.len(), expected.len());
    for ((key, figure), (metric, expected)) in found.into_iter().zip(expected) {
        assert_eq!(key, format!("test_cosine_{metric}"));
        close(&[figure], &[expected]);
    }
}

#[test]
fn a_tie_goes_to_the_smaller_id_whatever_the_chunks() {
    // One document in two copies: each query has another copy for its relevant one.
    let corpus_ids = own(&["b", "filler", "a"]);
    let corpus = rows(&[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]);
    let queries = rows(&[[1.0, 0.0], [1.0, 0.0]]);
    let query_ids = own(&["q1", "q2"]);
    let relevant: HashMap<_, _> = [("q1", "a"), ("q2", "b")]
        .map(|(query, id)| (query.to_owned(), HashSet::from([id.to_owned()])))
        .into();
    let mut evaluator =
        InformationRetrievalEvaluator::new("", &[], &query_ids, &corpus_ids, &relevant).unwrap();
    for chunk in [1, 2, 3, 50_000] {
        evaluator.corpus_chunk_size = chunk;
        let metrics = evaluate(&evaluator, [&queries, &corpus], None);
        assert_eq!(
            metrics.get("cosine_accuracy@1"),
            Some(0.5),
            "chunks of {chunk}"
        );
        assert_eq!(
            metrics.get("cosine_accuracy@3"),
            Some(1.0),
            "chunks of {chunk}"
        );
    }
}

#[test]
fn a_margin_turns_hits_into_misses() {
    let anchors = rows(&[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]);
    let positives = rows(&[[1.0, 0.1], [0.1, 1.0], [1.0, 0.9]]);
    let negatives = rows(&[[0.6, 1.0], [1.0, 0.6], [1.0, 0.1]]);
    let mut evaluator = TripletEvaluator::new("all_nli_dev", &[]);
    let accuracy = |evaluator: &TripletEvaluator| -> Metrics {
        evaluate(evaluator, [&anchors, &positives, &negatives], None)
    };
    let metrics = accuracy(&evaluator);
    assert_eq!(metrics.primary_key(), "all_nli_dev_cosine_accuracy");
    assert_eq!(metrics.primary(), 1.0);
    evaluator.margin = Margin::Same(0.7);
    assert_eq!(accuracy(&evaluator).primary(), 0.0);
}

#[test]
fn the_closure_makes_duplicates_of_duplicates() {
    // 0 and 2 are nearest to each other, and duplicates by way of 1.
    let embeddings = rows(&[[1.0, 0.0], [0.0, 1.0], [1.0, 0.1]]);
    let ids = own(&["0", "1", "2"]);
    let pairs = [("0", "1"), ("1", "2")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    let precision = |closure: bool| {
        let evaluator = ParaphraseMiningEvaluator::new("", &ids, &pairs, closure);
        evaluate(&evaluator, [&embeddings], None).primary()
    };
    close(&[precision(false)], &[(1.0 / 2.0 + 2.0 / 3.0) / 2.0]);
    close(&[precision(true)], &[1.0]);
}

/// Neither pairs nor neighbours depend on the chunks, each pair counts once, and repeated texts don't push each other
/// out of their neighbours.
#[test]
fn mining_does_not_depend_on_chunks() {
    tch::manual_seed(11);
    let embeddings = Tensor::randn([40, 8], (Kind::Float, Device::Cpu));
    let of = |mining: Mining| mine(&embeddings, &mining).unwrap();
    let of_chunks = |chunk: usize| {
        of(Mining {
            top_k: 3,
            query_chunk_size: chunk,
            corpus_chunk_size: chunk,
            ..Mining::default()
        })
    };
    let whole = of_chunks(1000);
    // Each of the 40 rows has three neighbours, and a pair may be of both.
    assert!((60..=120).contains(&whole.len()), "{}", whole.len());
    for chunk in [7, 11] {
        let found = of_chunks(chunk);
        let rows = |pairs: &[Pair]| {
            let mut rows: Vec<_> = pairs.iter().map(|pair| (pair.first, pair.second)).collect();
            rows.sort_unstable();
            rows
        };
        assert_eq!(rows(&found), rows(&whole), "chunks of {chunk}");
    }
    let few = of(Mining {
        max_pairs: 20,
        ..Mining::default()
    });
    assert_eq!(few.len(), 20);
    assert!(few.windows(2).all(|two| two[0].score >= two[1].score));
    let all = of(Mining::default());
    assert_eq!(all.len(), 40 * 39 / 2);
    assert_eq!(few, all[..20]);
}

#[test]
fn similarities_of_rows() {
    let [a, zero] = [
        rows(&[[1.0, 0.0], [1.0, 1.0]]),
        rows(&[[0.0, 0.0], [0.0, 0.0]]),
    ];
    let pairwise =
        |function: Similarity, a: &Tensor, b: &Tensor| values(&function.pairwise(a, b).unwrap());
    close(
        &pairwise(Similarity::Euclidean, &a, &zero),
        &[-1.0, -2f64.sqrt()],
    );
    close(&pairwise(Similarity::Manhattan, &a, &zero), &[-1.0, -2.0]);
    let [a, b] = [
        rows(&[[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]),
        rows(&[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]),
    ];
    for function in [Similarity::Cosine, Similarity::Dot] {
        close(&pairwise(function, &a, &b), &[1.0, 0.0, -1.0]);
    }
    // Whole numbers are taken as numbers.
    let [a, b] = [[[1i64, 2], [4, 6]], [[1, 2], [1, 2]]].map(|rows| Tensor::from_slice2(&rows));
    close(&pairwise(Similarity::Euclidean, &a, &b), &[0.0, -5.0]);
}

#[test]
fn similarities_of_all_rows_with_all() {
    let matrix =
        |function: Similarity, a: &Tensor, b: &Tensor| values(&function.matrix(a, b).unwrap());
    let [a, b] = [
        rows(&[[1.0, 0.0], [0.0, 1.0]]),
        rows(&[[0.0, 0.0], [0.0, 1.0]]),
    ];
    close(
        &matrix(Similarity::Euclidean, &a, &b),
        &[-1.0, -2f64.sqrt(), -1.0, 0.0],
    );
    close(
        &matrix(Similarity::Manhattan, &a, &b),
        &[-1.0, -2.0, -1.0, 0.0],
    );
    let [a, b] = [
        rows(&[[1.0, 0.0]]),
        rows(&[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]),
    ];
    for function in [Similarity::Cosine, Similarity::Dot] {
        close(&matrix(function, &a, &b), &[1.0, 0.0, -1.0]);
    }
}

#[test]
fn cosines_are_those_in_double_precision() {
    tch::manual_seed(7);
    let [a, b] = [0, 1].map(|_| Tensor::randn([50, 100], (Kind::Double, Device::Cpu)));
    let exact = Similarity::Cosine.matrix(&a, &b).unwrap();
    let [a32, b32] = [&a, &b].map(|x| x.to_kind(Kind::Float));
    let single = Similarity::Cosine.matrix(&a32, &b32).unwrap();
    close(&values(&single), &values(&exact));
    let pairs = Similarity::Cosine.pairwise(&a32, &b32).unwrap();
    close(&values(&pairs), &values(&exact.diagonal(0, 0, 1)));
}

//! Metrics and CSV files against sentence-transformers 6.2.0; `fixtures/make_fixtures.py` made the
//! figures.

use std::collections::HashMap;

use eval::{
    BinaryClassificationEvaluator, EmbeddingSimilarityEvaluator, Evaluator,
    InformationRetrievalEvaluator, Inputs, LabelAccuracyEvaluator, Labels, Margin, Metrics,
    MseEvaluator, NanoBeirEvaluator, ParaphraseMiningEvaluator, RerankingEvaluator, RowFigures,
    Similarity, TranslationEvaluator, TripletEvaluator,
    csv::{At, CsvTable},
    text_ids,
};
use serde_json::Value;
use tch::{Kind, Tensor};

/// Greatest difference of a figure; relative where figures exceed one.
const TOLERANCE: f64 = 1e-6;

#[test]
fn triplet() {
    for case in cases(include_str!("fixtures/triplet.json")) {
        let mut evaluator = TripletEvaluator::new(text(&case["name"]), &functions(&case));
        evaluator.main_similarity = case["main"].as_str().map(|name| name.parse().unwrap());
        evaluator.margin = match &case["margin"] {
            Value::Object(margins) => Margin::Each(
                margins
                    .iter()
                    .map(|(key, m)| (key.parse().unwrap(), m.as_f64().unwrap()))
                    .collect(),
            ),
            margin => Margin::Same(margin.as_f64().unwrap_or(0.0)),
        };
        let columns = ["anchors", "positives", "negatives"].map(|key| tensor(&case[key]));
        check(&evaluator, &case, &Inputs::new(&columns));
    }
}

#[test]
fn embedding_similarity() {
    for case in cases(include_str!("fixtures/embedding_similarity.json")) {
        let name = text(&case["name"]);
        let mut evaluator = EmbeddingSimilarityEvaluator::new(name, &functions(&case));
        evaluator.main_similarity = case["main"].as_str().map(|name| name.parse().unwrap());
        let columns = ["embeddings1", "embeddings2"].map(|key| tensor(&case[key]));
        let scores = Labels::Scores(numbers(&case["scores"]));
        check(&evaluator, &case, &labelled(&columns, &scores));
    }
}

#[test]
fn embedding_similarity_in_fewer_bits() {
    for case in cases(include_str!("fixtures/embedding_similarity_precision.json")) {
        let name = text(&case["name"]);
        let mut evaluator = EmbeddingSimilarityEvaluator::new(name, &functions(&case));
        evaluator.precision = Some(text(&case["precision"]).parse().unwrap());
        let columns = ["embeddings1", "embeddings2"].map(|key| tensor(&case[key]));
        let scores = Labels::Scores(numbers(&case["scores"]));
        let inputs = labelled(&columns, &scores);
        check(&evaluator, &case, &inputs);
    }
}

#[test]
fn binary_classification() {
    for case in cases(include_str!("fixtures/binary_classification.json")) {
        let name = text(&case["name"]);
        let evaluator = BinaryClassificationEvaluator::new(name, &functions(&case));
        let columns = ["embeddings1", "embeddings2"].map(|key| tensor(&case[key]));
        check(&evaluator, &case, &labelled(&columns, &classes(&case)));
    }
}

#[test]
fn information_retrieval() {
    for case in cases(include_str!("fixtures/information_retrieval.json")) {
        let relevant = case["relevant"].as_object().unwrap().iter();
        let relevant: HashMap<_, _> = relevant
            .map(|(id, ids)| (id.clone(), texts(ids).into_iter().collect()))
            .collect();
        let mut evaluator = InformationRetrievalEvaluator::new(
            text(&case["name"]),
            &functions(&case),
            &texts(&case["query_ids"]),
            &texts(&case["corpus_ids"]),
            &relevant,
        )
        .unwrap();
        evaluator.main_similarity = case["main"].as_str().map(|name| name.parse().unwrap());
        for (key, ks) in [
            ("accuracy_at_k", &mut evaluator.accuracy_at_k),
            (
                "precision_recall_at_k",
                &mut evaluator.precision_recall_at_k,
            ),
            ("mrr_at_k", &mut evaluator.mrr_at_k),
            ("ndcg_at_k", &mut evaluator.ndcg_at_k),
            ("map_at_k", &mut evaluator.map_at_k),
        ] {
            if let Some(given) = case["ks"].get(key) {
                *ks = numbers(given).into_iter().map(|k| k as usize).collect();
            }
        }
        let kept: Vec<i64> = evaluator
            .queries()
            .iter()
            .map(|query| *query as i64)
            .collect();
        assert!(
            kept.len() < texts(&case["query_ids"]).len(),
            "one query has no document"
        );
        let queries = tensor(&case["queries"]).index_select(0, &Tensor::from_slice(&kept));
        evaluator.corpus_chunk_size = case["chunk"].as_u64().unwrap() as usize;
        check(
            &evaluator,
            &case,
            &Inputs::new(&[queries, tensor(&case["corpus"])]),
        );
    }
}

#[test]
fn reranking() {
    for case in cases(include_str!("fixtures/reranking.json")) {
        let sizes = case["sizes"].as_array().unwrap().iter().map(numbers);
        let sizes: Vec<_> = sizes
            .map(|size| (size[0] as usize, size[1] as usize))
            .collect();
        let mut evaluator = RerankingEvaluator::new(text(&case["name"]), &sizes);
        evaluator.at_k = case["at_k"].as_u64().unwrap() as usize;
        evaluator.similarity_fn_name = text(&case["function"]).parse().unwrap();
        let columns = ["queries", "documents"].map(|key| tensor(&case[key]));
        check(&evaluator, &case, &Inputs::new(&columns));
    }
}

#[test]
fn paraphrase_mining() {
    for case in cases(include_str!("fixtures/paraphrase_mining.json")) {
        let pairs = case["duplicates"].as_array().unwrap().iter().map(texts);
        let pairs: Vec<_> = pairs
            .map(|pair| (pair[0].clone(), pair[1].clone()))
            .collect();
        let closure = case["closure"].as_bool().unwrap();
        let name = text(&case["name"]);
        let mut evaluator =
            ParaphraseMiningEvaluator::new(name, &texts(&case["ids"]), &pairs, closure);
        let mining = &mut evaluator.mining;
        for (key, value) in [
            ("top_k", &mut mining.top_k),
            ("max_pairs", &mut mining.max_pairs),
            ("query_chunk_size", &mut mining.query_chunk_size),
            ("corpus_chunk_size", &mut mining.corpus_chunk_size),
        ] {
            if let Some(given) = case["options"].get(key) {
                *value = given.as_u64().unwrap() as usize;
            }
        }
        check(
            &evaluator,
            &case,
            &Inputs::new(&[tensor(&case["embeddings"])]),
        );
    }
}

#[test]
fn mse() {
    for case in cases(include_str!("fixtures/mse.json")) {
        let evaluator = MseEvaluator::new(text(&case["name"]));
        let columns = ["source", "target"].map(|key| tensor(&case[key]));
        check(&evaluator, &case, &Inputs::new(&columns));
    }
}

#[test]
fn translation() {
    for case in cases(include_str!("fixtures/translation.json")) {
        let evaluator = TranslationEvaluator::new(text(&case["name"]));
        let columns = ["source", "target"].map(|key| tensor(&case[key]));
        let text_ids = ["source_texts", "target_texts"].map(|key| {
            let texts = texts(&case[key]);
            text_ids(texts.iter().map(String::as_str))
        });
        let inputs = Inputs {
            text_ids: &text_ids,
            ..Inputs::new(&columns)
        };
        check(&evaluator, &case, &inputs);
    }
}

#[test]
fn label_accuracy() {
    for case in cases(include_str!("fixtures/label_accuracy.json")) {
        let evaluator = LabelAccuracyEvaluator::new(text(&case["name"]));
        let logits = [tensor(&case["logits"])];
        check(&evaluator, &case, &labelled(&logits, &classes(&case)));
    }
}

#[test]
fn sequential() {
    for case in cases(include_str!("fixtures/sequential.json")) {
        let parts = case["parts"].as_array().unwrap().iter().map(|part| {
            let figures = part["metrics"].as_object().unwrap().iter();
            let figures = figures.map(|(key, value)| (key.clone(), value.as_f64().unwrap()));
            Metrics::new("", text(&part["primary"]), figures.collect())
        });
        let score: fn(&[f64]) -> f64 = match text(&case["score"]) {
            "last" => |scores| scores[scores.len() - 1],
            "mean" => |scores| scores.iter().sum::<f64>() / scores.len() as f64,
            "max" => |scores| scores.iter().copied().fold(f64::MIN, f64::max),
            "min" => |scores| scores.iter().copied().fold(f64::MAX, f64::min),
            other => panic!("{other}"),
        };
        let merged = Metrics::sequential(&parts.collect::<Vec<_>>(), score);
        same_figures(&case, &merged);
    }
}

#[test]
fn nano_beir() {
    for case in cases(include_str!("fixtures/nano_beir.json")) {
        let mut evaluator = NanoBeirEvaluator::new(&functions(&case));
        evaluator.truncate_dim = case["truncate_dim"]
            .as_u64()
            .map(|dimension| dimension as usize);
        let (mut tasks, mut rows) = (Vec::new(), Vec::new());
        for dataset in case["datasets"].as_array().unwrap() {
            let relevant = dataset["relevant"].as_object().unwrap().iter();
            let relevant = relevant
                .map(|(id, ids)| (id.clone(), texts(ids).into_iter().collect()))
                .collect();
            let query_ids: Vec<String> = (0..6).map(|query| format!("q{query}")).collect();
            let task = InformationRetrievalEvaluator::new(
                &evaluator.name_of(text(&dataset["dataset"]).parse().unwrap()),
                &functions(&case),
                &query_ids,
                &texts(&dataset["corpus_ids"]),
                &relevant,
            )
            .unwrap();
            // The sixth query has no document.
            let cut = |rows: Tensor| match case["truncate_dim"].as_i64() {
                Some(dimension) => rows.narrow(1, 0, dimension),
                None => rows,
            };
            let queries = cut(tensor(&dataset["queries"]).narrow(0, 0, 5));
            let corpus = cut(tensor(&dataset["corpus"]));
            let columns = [queries, corpus];
            let inputs = Inputs::new(&columns);
            let metrics = task.evaluate(&inputs).unwrap();
            rows.extend(task.rows(&inputs).unwrap());
            tasks.push((task, metrics));
        }
        let tasks: Vec<_> = tasks
            .iter()
            .map(|(task, metrics)| (task, metrics))
            .collect();
        let metrics = evaluator.aggregate(&tasks).unwrap();
        agree(&case, &metrics, &evaluator.csv(tasks[0].0));
        let how = eval::bootstrap::Bootstrap {
            resamples: 50,
            ..Default::default()
        };
        for (key, interval) in evaluator
            .intervals(&tasks, &rows.iter().collect::<Vec<_>>(), &how)
            .unwrap()
        {
            close(interval.value, metrics.get(&key).unwrap(), &key);
            assert!(interval.low <= interval.high, "{key}: {interval:?}");
        }
    }
}

/// The metrics of a case, which are upstream's, as are its rows' and its file's.
fn check(evaluator: &dyn Evaluator, case: &Value, inputs: &Inputs<'_>) -> Metrics {
    let metrics = evaluator.evaluate(inputs).unwrap();
    if let Some(rows) = evaluator.rows(inputs).unwrap() {
        rows_agree(&rows, &metrics);
    }
    agree(case, &metrics, &evaluator.csv());
    metrics
}

fn labelled<'a>(embeddings: &'a [Tensor], labels: &'a Labels) -> Inputs<'a> {
    Inputs {
        labels: Some(labels),
        ..Inputs::new(embeddings)
    }
}

fn classes(case: &Value) -> Labels {
    let labels = numbers(&case["labels"]).into_iter();
    Labels::Classes(labels.map(|label| label as i64).collect())
}

/// The figures by rows are those of the evaluation, and each has an interval around it.
fn rows_agree(rows: &RowFigures, metrics: &Metrics) {
    assert_eq!(rows.keys().len(), rows.all().len());
    for (key, figure) in rows.keys().iter().zip(rows.all()) {
        let whole = metrics
            .get(key)
            .unwrap_or_else(|| panic!("no {key} in {metrics:?}"));
        close(figure, whole, key);
    }
    let how = eval::bootstrap::Bootstrap {
        resamples: 20,
        ..Default::default()
    };
    let intervals = rows.intervals(&how);
    let keys: Vec<&String> = intervals.iter().map(|(key, _)| key).collect();
    assert_eq!(keys, rows.keys().iter().collect::<Vec<_>>());
    for (key, interval) in intervals {
        assert!(
            interval.value.is_nan() || interval.low <= interval.high,
            "{key}: {interval:?}"
        );
    }
}

fn cases(file: &str) -> Vec<Value> {
    // As the script, and as `sentune`: what lies at the edge of a thread's part of a product may be rounded
    // otherwise, and equal texts then have unequal scores.
    tch::set_num_threads(1);
    let cases: Vec<Value> = serde_json::from_str(file).unwrap();
    assert!(cases.len() >= 3);
    cases
}

/// Keys in order, figures, primary key, and the CSV file with a row outside and one in training.
fn agree(case: &Value, metrics: &Metrics, table: &CsvTable) {
    let title = &case["title"];
    same_figures(case, metrics);
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("eval");
    for at in [
        At::Outside,
        At::Step {
            epoch: 0.5,
            steps: 20,
        },
    ] {
        table.append(&folder, at, metrics).unwrap();
    }
    let expected = &case["csv"][0];
    assert_eq!(table.file, expected["file"], "{title}");
    let text = std::fs::read_to_string(folder.join(&table.file)).unwrap();
    let expected: Vec<&str> = expected["text"].as_str().unwrap().lines().collect();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{title}");
    assert_eq!(lines[0], expected[0], "{title}");
    for (line, expected) in lines.iter().zip(expected).skip(1) {
        let (fields, expected) = (line.split(','), expected.split(','));
        assert_eq!(fields.clone().count(), expected.clone().count(), "{title}");
        for (field, expected) in fields.zip(expected) {
            close(
                field.parse().unwrap(),
                expected.parse().unwrap(),
                &format!("{title}: {line}"),
            );
        }
    }
}

/// Keys in order, figures, and the primary key.
fn same_figures(case: &Value, metrics: &Metrics) {
    let title = &case["title"];
    let expected = case["metrics"].as_object().unwrap();
    let keys: Vec<&str> = metrics.iter().map(|(key, _)| key).collect();
    assert_eq!(keys, expected.keys().collect::<Vec<_>>(), "{title}");
    for (key, actual) in metrics.iter() {
        close(
            actual,
            expected[key].as_f64().unwrap_or(f64::NAN),
            &format!("{title}: {key}"),
        );
    }
    assert_eq!(metrics.primary_key(), case["primary"], "{title}");
}

fn close(actual: f64, expected: f64, title: &str) {
    let both_undefined = actual.is_nan() && expected.is_nan();
    let difference = (actual - expected).abs();
    assert!(
        both_undefined || difference <= TOLERANCE * expected.abs().max(1.0),
        "{title}: {actual} instead of {expected}"
    );
}

fn functions(case: &Value) -> Vec<Similarity> {
    texts(&case["functions"])
        .iter()
        .map(|name| name.parse().unwrap())
        .collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn texts(value: &Value) -> Vec<String> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|item| text(item).to_owned())
        .collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item.as_f64().unwrap())
        .collect()
}

/// Rows of numbers to `[rows, dimension]` in f32.
fn tensor(value: &Value) -> Tensor {
    let rows: Vec<Vec<f64>> = value.as_array().unwrap().iter().map(numbers).collect();
    Tensor::from_slice2(&rows).to_kind(Kind::Float)
}

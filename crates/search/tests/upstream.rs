//! Hits, mined rows and quantised values against sentence-transformers 6.2.0;
//! `fixtures/make_fixtures.py` made the expected ones.

use std::{collections::HashMap, ops::ControlFlow};

use search::{
    Embeddings, HardNegatives, MiningOptions, MiningPairs, OutputFormat, Precision, Quantized,
    Ranges, SamplingStrategy, SearchOptions, Similarity, mine_hard_negatives, quantize_embeddings,
    semantic_search,
};
use serde_json::{Value, json};

/// Greatest difference of a score; relative where scores exceed one.
const TOLERANCE: f64 = 1e-6;

/// The same for Euclidean distances, which torch takes from a matrix product where there are more than
/// 25 rows: the distance of a text from itself is then 3.5e-4 there. Here it is 0.
const CDIST_TOLERANCE: f64 = 5e-4;

fn fixture(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn items(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// A matrix as its values and its width.
fn matrix(value: &Value) -> (Vec<f32>, usize) {
    let rows = items(value);
    let values = rows.iter().flat_map(items);
    let values = values.map(|value| value.as_f64().unwrap() as f32).collect();
    (values, items(&rows[0]).len())
}

fn go(_: usize) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn semantic_search_finds_what_upstream_finds() {
    let fixture = fixture(include_str!("fixtures/search.json"));
    let (queries, width) = matrix(&fixture["queries"]);
    let (corpus, _) = matrix(&fixture["corpus"]);
    let queries = Embeddings::new(&queries, width).unwrap();
    let corpus = Embeddings::new(&corpus, width).unwrap();
    for case in items(&fixture["cases"]) {
        for (query_chunk_size, corpus_chunk_size) in [(512, 8192), (3, 7), (1, 1)] {
            let options = SearchOptions {
                top_k: case["top_k"].as_u64().unwrap() as usize,
                similarity: text(&case["similarity"]).parse().unwrap(),
                query_chunk_size,
                corpus_chunk_size,
            };
            let found = semantic_search(queries, corpus, &options, &mut go).unwrap();
            let expected = items(&case["hits"]);
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(expected) {
                let found: Vec<_> = found
                    .iter()
                    .map(|hit| json!([hit.corpus_id, hit.score]))
                    .collect();
                same(&format!("{options:?}"), &json!(found), expected);
            }
        }
    }
}

#[test]
fn mining_gives_the_rows_and_prints_the_table_of_upstream() {
    let fixture = fixture(include_str!("fixtures/mining.json"));
    let cases = items(&fixture["cases"]);
    assert!(cases.len() > 90, "{}", cases.len());
    for case in cases {
        let context = format!(
            "{} {} {} {}",
            case["data"], case["with_corpus"], case["similarity"], case["options"]
        );
        let pairs = pairs(&fixture, case);
        let mut options = options(&case["options"]);
        let num_negatives = options.num_negatives;
        let is_random = case["options"]["sampling_strategy"] == "random";
        if is_random {
            // The fixture took the last of the candidates; here are all of them.
            let range_max = options.range_max(pairs.max_positives()).unwrap();
            options.range_max = Some(range_max);
            options.num_negatives = range_max - options.range_min;
        }
        let mined = mine(&fixture, case, &pairs, &options);
        let rows: Vec<Value> = if is_random {
            last_negatives(&mined, &pairs, num_negatives)
        } else {
            let rows = mined.rows();
            rows.iter()
                .map(|row| row_as_upstream(row, &pairs, &options, case))
                .collect()
        };
        same(&context, &json!(rows), &case["rows"]);
        if !is_random && options.min_score.is_none() {
            let words = |text: &str| -> Vec<Value> {
                let words = text.split_whitespace();
                let number = |word: &str| word.parse::<f64>().ok();
                words
                    .map(|word| number(word).map_or(json!(word), |number| json!(number)))
                    .collect()
            };
            // The sign of a rounding error.
            let found = mined.report().to_string().replace("-0.0000", " 0.0000");
            let expected = table(case).replace("-0.0000", " 0.0000");
            if case["similarity"] == "euclidean" {
                same(&context, &json!(words(&found)), &json!(words(&expected)));
            } else {
                assert_eq!(found, expected, "{context}");
            }
        }
    }
}

#[test]
fn each_candidate_that_min_score_leaves_out_counts_once() {
    let fixture = fixture(include_str!("fixtures/mining.json"));
    let case = items(&fixture["cases"])
        .iter()
        .find(|case| {
            case["options"]["min_score"].is_number() && case["options"].get("max_score").is_none()
        })
        .unwrap();
    let pairs = pairs(&fixture, case);
    let options = options(&case["options"]);
    let skipped = mine(&fixture, case, &pairs, &options).report().skipped;
    let all = MiningOptions {
        min_score: None,
        num_negatives: 20,
        ..options
    };
    let all = mine(&fixture, case, &pairs, &all);
    let n_beyond = all
        .negatives()
        .concat()
        .iter()
        .filter(|hit| hit.score < options.min_score.unwrap())
        .count();
    assert_eq!(skipped.len(), 1);
    assert_eq!(
        (skipped[0].option, skipped[0].n >= n_beyond),
        ("min_score", true)
    );
    // Upstream's figure has the places in it that were taken out before.
    let upstream = table(case);
    let upstream = upstream
        .lines()
        .find(|line| line.starts_with("Skipped"))
        .unwrap();
    let upstream: usize = upstream
        .split(' ')
        .nth(1)
        .unwrap()
        .replace(',', "")
        .parse()
        .unwrap();
    assert!(skipped[0].n < upstream, "{} {upstream}", skipped[0].n);
}

#[test]
fn random_negatives_are_candidates_drawn_by_the_seed() {
    let fixture = fixture(include_str!("fixtures/mining.json"));
    let case = json!({"data": "several", "with_corpus": true, "similarity": "cosine"});
    let pairs = pairs(&fixture, &case);
    let mut options = MiningOptions {
        range_min: 1,
        range_max: Some(12),
        relative_margin: Some(0.05),
        num_negatives: 11,
        ..MiningOptions::default()
    };
    let candidates = mine(&fixture, &case, &pairs, &options);
    options.num_negatives = 4;
    let draw = |seed| {
        let options = MiningOptions {
            sampling_strategy: SamplingStrategy::Random { seed },
            ..options
        };
        mine(&fixture, &case, &pairs, &options)
    };
    let mut seen = vec![Vec::new(); pairs.queries().len()];
    for seed in 0..50 {
        let drawn = draw(seed);
        for ((drawn, candidates), seen) in drawn
            .negatives()
            .iter()
            .zip(candidates.negatives())
            .zip(&mut seen)
        {
            assert_eq!(drawn.len(), candidates.len().min(4));
            assert!(drawn.iter().all(|hit| candidates.contains(hit)));
            assert!(drawn.is_sorted_by(|a, b| a.score >= b.score && a.corpus_id != b.corpus_id));
            seen.extend(drawn.iter().map(|hit| hit.corpus_id));
        }
    }
    // Every candidate had its turn.
    for (candidates, seen) in candidates.negatives().iter().zip(&seen) {
        assert!(candidates.iter().all(|hit| seen.contains(&hit.corpus_id)));
    }
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1).negatives(), draw(2).negatives());
}

#[test]
fn quantized_values_are_upstreams() {
    let fixture = fixture(include_str!("fixtures/quantization.json"));
    let [embeddings, calibration, ranges] =
        ["embeddings", "calibration", "ranges"].map(|key| matrix(&fixture[key]));
    let view = |(values, width): &(Vec<f32>, usize)| -> Result<_, search::SearchError> {
        // The slice outlives the test's loop.
        Embeddings::new(Vec::leak(values.clone()), *width)
    };
    let embeddings = view(&embeddings).unwrap();
    for case in items(&fixture["cases"]) {
        let precision: Precision = text(&case["precision"]).parse().unwrap();
        let ranges = match text(&case["by"]) {
            "calibration" => Some(Ranges::of(view(&calibration).unwrap()).unwrap()),
            "ranges" => Some(Ranges::new(view(&ranges).unwrap()).unwrap()),
            _ => None,
        };
        let quantized = quantize_embeddings(embeddings, precision, ranges.as_ref()).unwrap();
        let (dtype, found) = match quantized {
            Quantized::Float32(values) => ("float32", json!(values)),
            Quantized::Int8(values) => ("int8", json!(values)),
            Quantized::Uint8(values) => ("uint8", json!(values)),
        };
        assert_eq!(dtype, case["dtype"]);
        let expected: Vec<&Value> = items(&case["values"]).iter().flat_map(items).collect();
        same(
            &format!("{precision} {}", case["by"]),
            &found,
            &json!(expected),
        );
    }
}

#[test]
fn equal_scores_come_in_the_corpuss_order() {
    let corpus: Vec<f32> = (0..40).flat_map(|i| [1.0, (i % 2) as f32]).collect();
    let corpus = Embeddings::new(&corpus, 2).unwrap();
    let query = Embeddings::new(&[1.0, 1.0], 2).unwrap();
    for similarity in Similarity::ALL {
        let options = SearchOptions {
            top_k: 3,
            similarity,
            ..SearchOptions::default()
        };
        let hits = semantic_search(query, corpus, &options, &mut go).unwrap();
        let ids: Vec<u32> = hits[0].iter().map(|hit| hit.corpus_id).collect();
        assert_eq!(ids, [1, 3, 5], "{similarity}");
    }
}

#[test]
fn wrong_use_is_named() {
    let two = Embeddings::new(&[1.0, 0.0], 2).unwrap();
    let one = Embeddings::new(&[1.0], 1).unwrap();
    let error = semantic_search(one, two, &SearchOptions::default(), &mut go).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("queries have 1 dimensions and the corpus has 2"),
        "{error}"
    );
    let none = SearchOptions {
        top_k: 0,
        ..SearchOptions::default()
    };
    let error = semantic_search(two, two, &none, &mut go).unwrap_err();
    assert_eq!(error.to_string(), "top_k: found 0, allowed: 1 or more");
    let stopped = semantic_search(two, two, &SearchOptions::default(), &mut |_| {
        ControlFlow::Break(())
    });
    assert!(matches!(stopped, Err(search::SearchError::Stopped)));

    let default = MiningOptions::default();
    for (options, part) in [
        (
            MiningOptions {
                num_negatives: 0,
                ..default
            },
            "num_negatives: found 0",
        ),
        (
            MiningOptions {
                range_min: 4,
                range_max: Some(4),
                ..default
            },
            "range_min: found 4, but it must be less than range_max, which is 4",
        ),
        (
            MiningOptions {
                range_min: 4,
                range_max: Some(6),
                ..default
            },
            "num_negatives: found 3, but from range_min 4 to range_max 6 there are 2",
        ),
        (
            MiningOptions {
                max_score: Some(f32::NAN),
                ..default
            },
            "max_score: it must be a finite number",
        ),
    ] {
        let error = options.range_max(1).unwrap_err().to_string();
        assert!(error.starts_with(part), "{error}");
    }
    assert!(MiningPairs::new([], [], []).is_err());
    assert!(MiningPairs::new(["a"], [], []).is_err());
    assert!(MiningPairs::new(["a"], ["b", "c"], []).is_err());
    let pairs = MiningPairs::new(["a"], ["b"], []).unwrap();
    let error = mine_hard_negatives(
        &pairs,
        two,
        Embeddings::new(&[], 2).unwrap(),
        Similarity::Cosine,
        &default,
        &mut go,
    )
    .unwrap_err();
    assert_eq!(error.to_string(), "0 embeddings for 1 documents");
}

fn pairs<'f>(fixture: &'f Value, case: &Value) -> MiningPairs<'f> {
    let rows = items(&fixture["data"][text(&case["data"])]);
    let column = |i: usize| rows.iter().map(move |row| text(&row[i]));
    let corpus = items(&fixture["corpus"]).iter().map(text);
    let n_corpus = if case["with_corpus"] == true {
        corpus.len()
    } else {
        0
    };
    MiningPairs::new(column(0), column(1), corpus.take(n_corpus)).unwrap()
}

fn mine(
    fixture: &Value,
    case: &Value,
    pairs: &MiningPairs<'_>,
    options: &MiningOptions,
) -> HardNegatives {
    let table: HashMap<&str, Vec<f32>> = fixture["table"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(text, row)| (text.as_str(), matrix(&json!([row])).0))
        .collect();
    let embed = |texts: &[&str]| -> Vec<f32> {
        let rows: Vec<f32> = texts.iter().flat_map(|text| table[text].clone()).collect();
        let width = rows.len() / texts.len();
        Embeddings::new(&rows, width).unwrap().normalized()
    };
    let (queries, corpus) = (embed(pairs.queries()), embed(pairs.corpus()));
    let width = queries.len() / pairs.queries().len();
    mine_hard_negatives(
        pairs,
        Embeddings::new(&queries, width).unwrap(),
        Embeddings::new(&corpus, width).unwrap(),
        text(&case["similarity"]).parse().unwrap(),
        options,
        &mut go,
    )
    .unwrap()
}

fn options(options: &Value) -> MiningOptions {
    let number = |key: &str| options[key].as_f64().map(|value| value as f32);
    let count = |key: &str| options[key].as_u64().map(|value| value as usize);
    MiningOptions {
        range_min: count("range_min").unwrap_or(0),
        range_max: count("range_max"),
        max_score: number("max_score"),
        min_score: number("min_score"),
        absolute_margin: number("absolute_margin"),
        relative_margin: number("relative_margin"),
        num_negatives: count("num_negatives").unwrap_or(3),
        sampling_strategy: SamplingStrategy::Top,
        include_positives: options["include_positives"] == true,
        output_format: match options["output_format"].as_str() {
            None | Some("triplet") => OutputFormat::Triplet,
            Some("n-tuple") => OutputFormat::NTuple,
            Some("labeled-pair") => OutputFormat::LabeledPair,
            Some("labeled-list") => OutputFormat::LabeledList,
            Some(other) => panic!("{other}"),
        },
    }
}

/// A row with upstream's columns.
fn row_as_upstream(
    row: &search::MinedRow,
    pairs: &MiningPairs<'_>,
    options: &MiningOptions,
    case: &Value,
) -> Value {
    let query = pairs.queries()[row.query as usize];
    let documents: Vec<&str> = row
        .documents
        .iter()
        .map(|&id| pairs.corpus()[id as usize])
        .collect();
    let labels: Vec<u8> = (0..documents.len())
        .map(|i| u8::from(i == 0 && row.starts_with_positive))
        .collect();
    let has_scores = case["options"]["output_scores"] == true;
    let mut cells = vec![json!(query)];
    match options.output_format {
        OutputFormat::LabeledPair => {
            cells.push(json!(documents[0]));
            cells.push(if has_scores {
                json!(row.scores[0])
            } else {
                json!(labels[0])
            });
        }
        OutputFormat::LabeledList => {
            cells.push(json!(documents));
            cells.push(if has_scores {
                json!(row.scores)
            } else {
                json!(labels)
            });
        }
        OutputFormat::Triplet | OutputFormat::NTuple => {
            cells.extend(documents.iter().map(|text| json!(text)));
            if has_scores {
                cells.push(json!(row.scores));
            }
        }
    }
    json!(cells)
}

/// Triplets with scores of the last `n` candidates of each anchor.
fn last_negatives(mined: &HardNegatives, pairs: &MiningPairs<'_>, n: usize) -> Vec<Value> {
    let rows = mined.rows();
    let mut last: Vec<Value> = Vec::new();
    for same_pair in rows.chunk_by(|a, b| (a.query, a.documents[0]) == (b.query, b.documents[0])) {
        for row in &same_pair[same_pair.len().saturating_sub(n)..] {
            let documents = row.documents.iter().map(|&id| pairs.corpus()[id as usize]);
            let texts: Vec<&str> = [pairs.queries()[row.query as usize]]
                .into_iter()
                .chain(documents)
                .collect();
            last.push(json!([texts[0], texts[1], texts[2], row.scores]));
        }
    }
    last
}

/// Upstream's table and what follows it, out of all that it printed.
fn table(case: &Value) -> String {
    let printed = text(&case["printed"]);
    printed[printed.find("Metric").unwrap()..].to_owned()
}

/// Compares numbers by the tolerance and everything else exactly.
fn same(context: &str, found: &Value, expected: &Value) {
    match (found, expected) {
        (Value::Array(found), Value::Array(expected)) => {
            assert_eq!(found.len(), expected.len(), "{context}");
            for (found, expected) in found.iter().zip(expected) {
                same(context, found, expected);
            }
        }
        (Value::Number(found), Value::Number(expected)) => {
            let difference = found.as_f64().unwrap() - expected.as_f64().unwrap();
            let tolerance = if context.contains("uclidean") {
                CDIST_TOLERANCE
            } else {
                TOLERANCE
            };
            assert!(
                difference.abs() < tolerance * expected.as_f64().unwrap().abs().max(1.0),
                "{context}: {found} is not {expected}"
            );
        }
        (found, expected) => assert_eq!(found, expected, "{context}"),
    }
}

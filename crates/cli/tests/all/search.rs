//! `sentune mine`, `search` and `data`, and what `encode` does for searches.

use std::collections::HashSet;

use serde_json::Value;

use crate::sandbox::{Ended, Sandbox, json_lines, words};

const CORPUS: [&str; 8] = [
    "The dog runs.",
    "a young woman",
    "Nobody sleeps!",
    "The dog is running.",
    "a man eats",
    "the girl sings",
    "two women walk",
    "the man is eating",
];

/// `sentune mine` of pairs.csv with the tiny model.
fn mine(sandbox: &Sandbox, more: &[&str]) -> Ended {
    sandbox.sentune_with("mine --model MODEL --data pairs.csv", more)
}

/// A sandbox with pairs.csv, 12 rows of 11 anchors, and corpus.txt.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    let mut rows = "id,question,answer,label\n".to_owned();
    for (i, who) in ["man", "woman", "boy", "girl", "dog", "cat"]
        .iter()
        .enumerate()
    {
        rows += &format!("x{i},a {who} sleeps,the {who} is sleeping,{i}\n");
        rows += &format!("y{i},a {who} sings,the {who} is singing,{i}\n");
    }
    rows = rows.replace("a cat sings", "a cat sleeps");
    sandbox.write("pairs.csv", rows);
    sandbox.write("corpus.txt", CORPUS.join("\n"));
    sandbox
}

fn rows(sandbox: &Sandbox, file: &str) -> Vec<Value> {
    json_lines(&fs_err::read_to_string(sandbox.path(file)).unwrap())
}

const COLUMNS: &str = "--anchor-column-name question --positive-column-name answer";

#[test]
fn mine_writes_triplets_and_prints_upstreams_table() {
    let sandbox = sandbox();
    let flags = [
        &words(COLUMNS)[..],
        &["--num-negatives", "2", "--corpus", "corpus.txt", "--output"],
    ]
    .concat();
    let printed = mine(&sandbox, &[&flags[..], &["mined.jsonl"]].concat()).ok();
    assert!(printed.starts_with("Metric       Positive       Negative     Difference\nCount              12             24 "), "{printed}");
    let mined = rows(&sandbox, "mined.jsonl");
    assert_eq!(mined.len(), 24);
    for row in &mined {
        let keys: Vec<&String> = row.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["question", "answer", "negative"]);
        assert_ne!(row["answer"], row["negative"]);
    }
    // Both positives of the anchor that comes twice are no negatives of it.
    let cat: HashSet<&str> = mined
        .iter()
        .filter(|row| row["question"] == "a cat sleeps")
        .map(|row| row["negative"].as_str().unwrap())
        .collect();
    assert!(
        !cat.contains("the cat is sleeping") && !cat.contains("the cat is singing"),
        "{cat:?}"
    );

    mine(&sandbox, &[&flags[..], &["mined.jsonl"]].concat())
        .failed(2, &["--output mined.jsonl is there already", "--overwrite"]);
    mine(
        &sandbox,
        &[&flags[..], &["mined.jsonl", "--overwrite"]].concat(),
    )
    .ok();
    // Every format holds the same rows, and training takes them.
    for name in ["mined.csv", "mined.parquet"] {
        mine(&sandbox, &[&flags[..], &[name]].concat()).ok();
        let again = format!("{name}.jsonl");
        let line = format!("data convert --data {name} --output {again}");
        sandbox.sentune(&line).ok();
        assert_eq!(rows(&sandbox, &again), mined, "{name}");
    }
    let ended = sandbox.train(
        &sandbox.path("mined.parquet"),
        &["--max-steps", "1", "--save-strategy", "no"],
    );
    ended.ok();
}

#[test]
fn mine_writes_every_format_of_upstream() {
    let sandbox = sandbox();
    let keys = |file: &str| -> Vec<String> {
        let first = rows(&sandbox, file).swap_remove(0);
        first.as_object().unwrap().keys().cloned().collect()
    };
    for (flags, expected) in [
        (
            &["--output-format", "n-tuple"][..],
            &[
                "question",
                "answer",
                "negative_1",
                "negative_2",
                "negative_3",
            ][..],
        ),
        (
            &["--output-format", "n-tuple", "--output-scores"],
            &[
                "question",
                "answer",
                "negative_1",
                "negative_2",
                "negative_3",
                "scores",
            ],
        ),
        (
            &["--output-format", "labeled-pair"],
            &["question", "answer", "label"],
        ),
        (
            &["--output-format", "labeled-pair", "--output-scores"],
            &["question", "answer", "score"],
        ),
        (
            &["--output-format", "labeled-list"],
            &["question", "answer", "labels"],
        ),
        (
            &["--output-format", "labeled-list", "--output-scores"],
            &["question", "answer", "scores"],
        ),
        (
            &["--include-positives"],
            &[
                "question",
                "answer",
                "negative_1",
                "negative_2",
                "negative_3",
            ],
        ),
        (
            &words("--sampling-strategy random --range-max 9 --seed 7")[..],
            &["question", "answer", "negative"],
        ),
    ] {
        let more = [
            &words(COLUMNS)[..],
            flags,
            &["--output", "out.jsonl", "--overwrite", "-q"],
        ]
        .concat();
        mine(&sandbox, &more).ok();
        assert_eq!(keys("out.jsonl"), expected, "{flags:?}");
    }
    // Scores of a triplet are those of its positive and its negative.
    mine(
        &sandbox,
        &[
            &words(COLUMNS)[..],
            &["--output-scores", "--output", "scores.jsonl"],
        ]
        .concat(),
    )
    .ok();
    let scored = rows(&sandbox, "scores.jsonl");
    assert!(
        scored
            .iter()
            .all(|row| row["scores"].as_array().unwrap().len() == 2)
    );
}

#[test]
fn mine_refuses_what_it_cannot_do() {
    let sandbox = sandbox();
    let with = |more: &[&str]| mine(&sandbox, &[&words(COLUMNS)[..], more].concat());
    with(&["--output", "a.jsonl", "--cross-encoder", "x/y"])
        .failed(2, &["--cross-encoder x/y", "can't be run here"]);
    with(&["--output", "a.txt"]).failed(2, &["--output a.txt", ".parquet"]);
    with(&["--output", "a.csv", "--output-format", "labeled-list"])
        .failed(2, &["CSV and TSV have no lists"]);
    with(&["--output", "a.csv", "--num-negatives", "0"]).failed(2, &["--num-negatives: found 0"]);
    with(&["--output", "a.csv", "--range-min", "5", "--range-max", "5"])
        .failed(2, &["--range-min: found 5"]);
    with(&["--output", "a.csv", "--max-score", "-1"])
        .failed(1, &["no negatives were found", "a.csv is not written"]);
    mine(
        &sandbox,
        &["--output", "a.csv", "--anchor-column-name", "nothing"],
    )
    .failed(2, &["no text column nothing", "question, answer"]);
    assert_eq!(sandbox.files("."), ["corpus.txt", "pairs.csv"]);
}

#[test]
fn mine_keeps_embeddings_by_what_they_depend_on() {
    let sandbox = sandbox();
    let flags = [
        &words(COLUMNS)[..],
        &["--cache-folder", "cache", "--overwrite", "--output"],
    ]
    .concat();
    mine(&sandbox, &[&flags[..], &["first.jsonl"]].concat()).ok();
    assert_eq!(sandbox.files("cache").len(), 2);
    mine(&sandbox, &[&flags[..], &["second.jsonl"]].concat()).ok();
    assert_eq!(sandbox.files("cache").len(), 2);
    assert_eq!(
        rows(&sandbox, "first.jsonl"),
        rows(&sandbox, "second.jsonl")
    );
    // Another prompt, other embeddings.
    mine(
        &sandbox,
        &[&flags[..], &["third.jsonl", "--corpus-prompt", "text: "]].concat(),
    )
    .ok();
    assert_eq!(sandbox.files("cache").len(), 3);
}

fn search(sandbox: &Sandbox, more: &[&str]) -> Ended {
    sandbox.sentune_with("search --model MODEL --corpus corpus.txt", more)
}

#[test]
fn search_prints_the_nearest_texts() {
    let sandbox = sandbox();
    // Without the model's prompt for queries a text is nearest to itself.
    let flags = ["--query-prompt", "", "--top-k", "3", "--json"];
    let more = [&flags[..], &["--query", CORPUS[3], "--query", CORPUS[6]]].concat();
    let found = json_lines(&search(&sandbox, &more).ok());
    assert_eq!(found.len(), 2);
    for (found, id) in found.iter().zip([3, 6]) {
        assert_eq!(found["query"], CORPUS[id]);
        let hits = found["hits"].as_array().unwrap();
        assert_eq!(hits.len(), 3);
        assert_eq!(
            (&hits[0]["corpus_id"], &hits[0]["text"]),
            (&Value::from(id), &Value::from(CORPUS[id]))
        );
        assert!(
            (hits[0]["score"].as_f64().unwrap() - 1.0).abs() < 1e-5,
            "{found}"
        );
    }
    let table = search(
        &sandbox,
        &["--query-prompt", "", "--top-k", "1", "--query", CORPUS[4]],
    )
    .ok();
    assert_eq!(table, "a man eats\n    1.0000  4  a man eats\n");
    // Queries of a file, and embeddings of the corpus that were made before.
    sandbox.write("queries.txt", "a man\na dog\n");
    let whole = search(&sandbox, &["--queries", "queries.txt", "--json"]).ok();
    let encode = "encode --model MODEL --as document --output corpus.npy --input";
    sandbox.sentune_with(encode, &["corpus.txt"]).ok();
    let reused = search(
        &sandbox,
        &words("--queries queries.txt --json --corpus-embeddings corpus.npy"),
    )
    .ok();
    assert_eq!(reused, whole);
    sandbox.sentune_with(encode, &["queries.txt"]).ok();
    search(
        &sandbox,
        &["--query", "a", "--corpus-embeddings", "corpus.npy"],
    )
    .failed(2, &["corpus.npy has 2 rows, but the corpus has 8 texts"]);
    sandbox.write("corpus.npy", "not an array");
    search(
        &sandbox,
        &["--query", "a", "--corpus-embeddings", "corpus.npy"],
    )
    .failed(1, &["corpus.npy", "can't be read as .npy"]);
}

fn encode(sandbox: &Sandbox, more: &[&str]) -> Ended {
    sandbox.sentune_with("encode --model MODEL --input corpus.txt --output", more)
}

#[test]
fn encode_takes_the_prompt_of_the_task() {
    let sandbox = sandbox();
    let plain = encode(&sandbox, &["-"]).ok();
    let query = encode(&sandbox, &["-", "--as", "query"]).ok();
    let prompted = encode(&sandbox, &["-", "--prompt-name", "query"]).ok();
    assert_eq!(query, prompted);
    assert_ne!(query, plain);
    // The model has no prompt for documents.
    assert_eq!(encode(&sandbox, &["-", "--as", "document"]).ok(), plain);
}

fn array<T: npyz::Deserialize>(sandbox: &Sandbox, name: &str) -> (Vec<u64>, Vec<T>) {
    let file = fs_err::File::open(sandbox.path(name)).unwrap();
    let array = npyz::NpyFile::new(std::io::BufReader::new(file)).unwrap();
    (array.shape().to_vec(), array.into_vec().unwrap())
}

#[test]
fn encode_quantises_with_ranges_from_where_it_is_told() {
    let sandbox = sandbox();
    encode(&sandbox, &["plain.npy"]).ok();
    let (_, plain) = array::<f32>(&sandbox, "plain.npy");
    let ended = encode(
        &sandbox,
        &words("int8.npy --quantize int8 --save-ranges ranges.npy"),
    );
    assert!(ended.stderr.contains("8 embeddings alone"), "{ended:?}");
    ended.ok();
    let (shape, int8) = array::<i8>(&sandbox, "int8.npy");
    assert_eq!(shape, [8, 32]);
    let (shape, ranges) = array::<f32>(&sandbox, "ranges.npy");
    assert_eq!(shape, [2, 32]);
    for (i, (value, plain)) in int8.iter().zip(&plain).enumerate() {
        let (start, end) = (ranges[i % 32], ranges[32 + i % 32]);
        let step = ((plain - start) / ((end - start) / 255.0))
            .floor()
            .clamp(0.0, 255.0);
        assert_eq!(f32::from(*value), step - 128.0);
    }
    for (flag, file) in [
        ("--ranges", "ranges.npy"),
        ("--calibration", "plain.npy"),
        ("--calibration", "corpus.txt"),
    ] {
        encode(&sandbox, &["again.npy", "--quantize", "int8", flag, file]).ok();
        assert_eq!(array::<i8>(&sandbox, "again.npy").1, int8, "{file}");
    }
    encode(&sandbox, &["bits.npy", "--quantize", "ubinary"]).ok();
    let (shape, bits) = array::<u8>(&sandbox, "bits.npy");
    assert_eq!(shape, [8, 4]);
    for (i, value) in plain.iter().enumerate() {
        assert_eq!(bits[i / 8] >> (7 - i % 8) & 1 == 1, *value > 0.0);
    }
    let lines = json_lines(&encode(&sandbox, &["-", "--quantize", "binary"]).ok());
    let first: Vec<i64> = serde_json::from_value(lines[0]["embedding"].clone()).unwrap();
    let expected: Vec<i64> = bits[..4]
        .iter()
        .map(|byte| i64::from(*byte) - 128)
        .collect();
    assert_eq!(first, expected);

    encode(&sandbox, &["a.parquet", "--quantize", "int8"])
        .failed(2, &["a.parquet", ".npy or .jsonl"]);
    let ended = encode(&sandbox, &["a.npy", "--quantize", "int4"]);
    ended.failed(2, &["int4"]);
    assert!(ended.stderr.contains("ubinary"), "{ended:?}");
    encode(
        &sandbox,
        &["a.npy", "--quantize", "binary", "--save-ranges", "r.npy"],
    )
    .failed(2, &["binary goes by signs"]);
    encode(
        &sandbox,
        &["a.npy", "--quantize", "int8", "--ranges", "plain.npy"],
    )
    .failed(1, &["--ranges plain.npy", "two rows"]);
    sandbox.write("one.txt", "The dog runs.\n");
    let one = ["a.npy", "--input", "one.txt", "--quantize", "int8"];
    encode(&sandbox, &one).failed(2, &["int8 of one text", "--calibration"]);
    encode(&sandbox, &[&one[..], &["--ranges", "ranges.npy"]].concat()).ok();
}

#[test]
fn encode_gives_an_embedding_for_every_token() {
    let sandbox = sandbox();
    let lines = json_lines(&encode(&sandbox, &["-", "--output-value", "token_embeddings"]).ok());
    let tokens: Vec<Vec<Vec<f32>>> = lines
        .iter()
        .map(|line| serde_json::from_value(line["token_embeddings"].clone()).unwrap())
        .collect();
    encode(
        &sandbox,
        &["tokens.npy", "--output-value", "token_embeddings"],
    )
    .ok();
    let (shape, values) = array::<f32>(&sandbox, "tokens.npy");
    let (_, lengths) = array::<i64>(&sandbox, "tokens.lengths.npy");
    let expected: Vec<i64> = tokens.iter().map(|rows| rows.len() as i64).collect();
    assert_eq!(lengths, expected);
    assert_eq!(shape, [lengths.iter().sum::<i64>() as u64, 32]);
    assert_eq!(values, tokens.concat().concat());
    // The model's pooling is the mean.
    let (_, sentence) = {
        encode(&sandbox, &["sentences.npy"]).ok();
        array::<f32>(&sandbox, "sentences.npy")
    };
    for (rows, sentence) in tokens.iter().zip(sentence.chunks(32)) {
        for (i, value) in sentence.iter().enumerate() {
            let mean = rows.iter().map(|row| row[i]).sum::<f32>() / rows.len() as f32;
            assert!((mean - value).abs() < 1e-5);
        }
    }
}

#[test]
fn data_stat_counts() {
    let sandbox = Sandbox::new();
    sandbox.write(
        "data.csv",
        "anchor,positive,label\na,b,1\na,b,1\nc,c,0\nd,,2\na longer text of more words,b,0\n",
    );
    let stat = sandbox.sentune("data stat --data data.csv --model MODEL --max-seq-length 5 --json");
    let stat: Value = serde_json::from_str(&stat.ok()).unwrap();
    assert_eq!(
        (
            &stat["rows"],
            &stat["skipped"],
            &stat["repeated_rows"],
            &stat["rows_of_one_text"]
        ),
        (&4.into(), &1.into(), &1.into(), &1.into())
    );
    assert_eq!(
        stat["labels"]["classes"],
        serde_json::json!({"0": 2, "1": 2})
    );
    let anchor = &stat["columns"][0];
    assert_eq!(
        (
            &anchor["name"],
            &anchor["distinct"],
            &anchor["repeated"],
            &anchor["max_characters"]
        ),
        (&"anchor".into(), &3.into(), &1.into(), &27.into())
    );
    assert_eq!(anchor["tokens"]["truncated"], 0.25);
    assert_eq!(anchor["tokens"]["percentiles"]["50"], 3);
    let table = sandbox.sentune("data look --data data.csv --head 1").ok();
    assert!(
        table.starts_with("{\"anchor\":\"a\",\"positive\":\"b\",\"label\":1}\ndata "),
        "{table}"
    );
    assert!(
        table.contains("left out as empty or broken        1"),
        "{table}"
    );
}

#[test]
fn data_split_keeps_anchors_together() {
    let sandbox = sandbox();
    let split = |more: &[&str]| {
        sandbox.sentune_with(
            "data split --data pairs.csv --columns question,answer,label --output-dir parts \
                --format jsonl",
            more,
        )
    };
    let more = ["--dev", "3", "--test", "0.25", "--no-shared-anchors"];
    split(&more).ok();
    let parts = ["train", "dev", "test"].map(|part| rows(&sandbox, &format!("parts/{part}.jsonl")));
    assert_eq!(parts.iter().map(Vec::len).sum::<usize>(), 12);
    let anchors = parts.each_ref().map(|rows| {
        rows.iter()
            .map(|row| row["question"].to_string())
            .collect::<HashSet<_>>()
    });
    assert!(
        anchors[0].is_disjoint(&anchors[1])
            && anchors[0].is_disjoint(&anchors[2])
            && anchors[1].is_disjoint(&anchors[2])
    );
    split(&more).failed(2, &["train.jsonl is there already"]);
    split(&["--overwrite", "--dev", "0", "--test", "0"]).ok();
    assert_eq!(sandbox.files("parts"), ["train.jsonl"]);
    split(&["--overwrite", "--dev=-1"]).failed(2, &["--dev: found -1"]);
    split(&["--overwrite", "--dev", "12"]).failed(2, &["leave nothing of 12 rows"]);
}

#[test]
fn data_triplets_are_made_of_labels_or_words() {
    let sandbox = Sandbox::new();
    let pairs = [
        ("p", "yes", 0),
        ("p", "no", 2),
        ("p", "maybe", 1),
        ("p", "never", 2),
        ("q", "yes", 0),
    ];
    let labels: String = pairs
        .iter()
        .map(|(p, h, l)| format!("{p},{h},{l}\n"))
        .collect();
    sandbox.write("labels.csv", format!("premise,hypothesis,label\n{labels}"));
    let words = labels
        .replace(",0", ",entailment")
        .replace(",1", ",neutral")
        .replace(",2", ",contradiction");
    sandbox.write("words.csv", format!("premise,hypothesis,gold\n{words}"));
    let expected = json_lines(
        "{\"anchor\":\"p\",\"positive\":\"yes\",\"negative\":\"no\"}\n{\"anchor\":\"p\",\"positive\":\"yes\",\"negative\":\"never\"}",
    );
    for data in ["labels.csv", "words.csv"] {
        let line = format!("data triplets --overwrite --output t.jsonl --data {data}");
        sandbox.sentune(&line).ok();
        assert_eq!(rows(&sandbox, "t.jsonl"), expected);
        sandbox
            .sentune_with(&line, &["--max-per-positive", "1"])
            .ok();
        assert_eq!(rows(&sandbox, "t.jsonl"), expected[..1]);
    }
    let line = "data triplets --output u.jsonl --data labels.csv";
    sandbox.sentune_with(line, &["--entailment", "7"]).failed(
        1,
        &["no premise has both a hypothesis labelled 7 and one labelled 2"],
    );
    sandbox
        .sentune_with(line, &["--columns", "premise,hypothesis"])
        .failed(2, &["premise, hypothesis and no labels"]);
}

//! `sentune eval`, `encode`, `compare` and `init`.

use std::{io::Write, process::Stdio};

use serde_json::Value;

use crate::sandbox::{Ended, Sandbox, data, json_lines, model, words};

const KEYS: [&str; 5] = [
    "dev_cosine_accuracy",
    "dev_dot_accuracy",
    "dev_euclidean_accuracy",
    "dev_manhattan_accuracy",
    "dev_max_accuracy",
];

#[test]
fn eval_prints_the_evaluators_keys() {
    let sandbox = Sandbox::new();
    let ended = sandbox.sentune(
        "eval --model MODEL --data DATA/triplets-dev.jsonl --name dev --json --csv-dir csv",
    );
    let lines = json_lines(&ended.ok());
    let [metrics] = lines.as_slice() else {
        panic!("one object: {lines:?}");
    };
    let keys: Vec<&String> = metrics.as_object().unwrap().keys().collect();
    assert_eq!(keys, KEYS);
    let csv =
        fs_err::read_to_string(sandbox.path("csv/triplet_evaluation_dev_results.csv")).unwrap();
    assert!(csv.starts_with("epoch,steps,accuracy_cosine,"), "{csv}");
    assert!(csv.contains("\n-1,-1,"), "{csv}");
}

#[test]
fn eval_of_scored_pairs_prints_correlations() {
    let sandbox = Sandbox::new();
    let ended =
        sandbox.sentune("eval --model MODEL --data DATA/scored.csv --json --similarity cosine");
    let metrics: Value = serde_json::from_str(&ended.ok()).unwrap();
    let keys: Vec<&String> = metrics.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["scored_pearson_cosine", "scored_spearman_cosine"]);
}

#[test]
fn eval_prints_a_table_for_people() {
    let sandbox = Sandbox::new();
    let ended = sandbox.sentune("eval --model MODEL --data DATA/triplets-dev.jsonl");
    let table = ended.ok();
    assert!(table.starts_with("60 triplets"), "{table}");
    assert_eq!(table.lines().count(), 7, "{table}");
}

const TEXTS: [&str; 3] = ["The dog runs.", "a young woman", "Nobody sleeps!"];

fn encode(sandbox: &Sandbox, input: &str, output: &str, more: &[&str]) -> Ended {
    sandbox.sentune_with(
        &format!("encode --model MODEL --input {input} --output {output}"),
        more,
    )
}

/// The embeddings of a JSON Lines file or of stdout, row by row, with their texts.
fn embeddings(text: &str) -> Vec<(String, Vec<f32>)> {
    json_lines(text)
        .into_iter()
        .map(|line| {
            let text = line["text"].as_str().unwrap().to_owned();
            (
                text,
                serde_json::from_value(line["embedding"].clone()).unwrap(),
            )
        })
        .collect()
}

#[test]
fn encode_reads_and_writes_every_format_alike() {
    let sandbox = Sandbox::new();
    sandbox.write("texts.txt", TEXTS.join("\n") + "\n");
    let expected = embeddings(&encode(&sandbox, "texts.txt", "-", &[]).ok());
    let texts: Vec<&str> = expected.iter().map(|(text, _)| text.as_str()).collect();
    assert_eq!(texts, TEXTS);
    assert!(expected.iter().all(|(_, embedding)| embedding.len() == 32));

    sandbox.write(
        "texts.csv",
        format!("id,text\n{}\n", TEXTS.map(|t| format!("x,{t}")).join("\n")),
    );
    encode(
        &sandbox,
        "texts.csv",
        "out/texts.jsonl",
        &["--column", "text"],
    )
    .ok();
    let written = fs_err::read_to_string(sandbox.path("out/texts.jsonl")).unwrap();
    assert_eq!(embeddings(&written), expected);

    encode(
        &sandbox,
        "out/texts.jsonl",
        "texts.parquet",
        &["--column", "text"],
    )
    .ok();
    encode(
        &sandbox,
        "texts.parquet",
        "texts.npy",
        &["--column", "text"],
    )
    .ok();
    let saved = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../data/tests/fixtures/saved/data-00000-of-00001.arrow"
    );
    let of_arrow = encode(&sandbox, saved, "-", &["--column", "a"]).ok();
    let stated = sandbox.sentune(&format!("data stat --json --columns a --data {saved}"));
    let stated: Value = serde_json::from_str(&stated.ok()).unwrap();
    assert_eq!(
        embeddings(&of_arrow).len() as u64,
        stated["rows"].as_u64().unwrap()
    );
    let file = fs_err::File::open(sandbox.path("texts.npy")).unwrap();
    let array = npyz::NpyFile::new(std::io::BufReader::new(file)).unwrap();
    assert_eq!(array.shape(), [3, 32]);
    let values: Vec<f32> = array.into_vec().unwrap();
    let flat: Vec<f32> = expected
        .iter()
        .flat_map(|(_, embedding)| embedding.clone())
        .collect();
    assert_eq!(values, flat);
}

#[test]
fn encode_reads_stdin() {
    let sandbox = Sandbox::new();
    let mut child = sandbox
        .line("encode --model MODEL --input - --output -")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(TEXTS.join("\n").as_bytes()).unwrap();
    drop(stdin);
    let printed = Ended::from(child.wait_with_output().unwrap()).ok();
    assert_eq!(embeddings(&printed).len(), 3);
}

#[test]
fn encode_normalizes_truncates_and_prompts() {
    let sandbox = Sandbox::new();
    sandbox.write("texts.txt", TEXTS.join("\n"));
    let plain = embeddings(&encode(&sandbox, "texts.txt", "-", &[]).ok());
    let short = embeddings(
        &encode(
            &sandbox,
            "texts.txt",
            "-",
            &["--truncate-dim", "5", "--normalize"],
        )
        .ok(),
    );
    for ((_, plain), (_, short)) in plain.iter().zip(&short) {
        let norm = plain[..5].iter().map(|x| x * x).sum::<f32>().sqrt();
        assert_eq!(short.len(), 5);
        for (x, y) in plain.iter().zip(short) {
            assert!((x / norm - y).abs() < 1e-5);
        }
    }
    // The model's own prompt called query is "the dog: ".
    let named = encode(&sandbox, "texts.txt", "-", &["--prompt-name", "query"]).ok();
    let given = encode(&sandbox, "texts.txt", "-", &["--prompt", "the dog: "]).ok();
    assert_eq!(named, given);
    assert_ne!(embeddings(&named), plain);
}

#[test]
fn compare_gives_both_models_and_an_interval() {
    let sandbox = Sandbox::new();
    sandbox
        .train(
            &data("triplets.jsonl"),
            &words("--max-steps 20 --learning-rate 1e-3 --save-strategy no"),
        )
        .ok();
    let lines = json_lines(
        &sandbox
            .sentune("compare MODEL run/final --data DATA/triplets-dev.jsonl --json --name dev")
            .ok(),
    );
    let keys: Vec<&str> = lines
        .iter()
        .map(|line| line["metric"].as_str().unwrap())
        .collect();
    assert_eq!(keys, KEYS);
    let cosine = &lines[0];
    let number = |key: &str| cosine[key].as_f64().unwrap();
    assert!(number("second") > number("first"), "{cosine}");
    assert!((number("second") - number("first") - number("difference")).abs() < 1e-12);
    let interval: [f64; 2] = serde_json::from_value(cosine["interval_95"].clone()).unwrap();
    assert!(
        interval[0] <= number("difference") && number("difference") <= interval[1],
        "{cosine}"
    );
    let table = sandbox
        .sentune("compare MODEL run/final --data DATA/triplets-dev.jsonl --bootstrap 100")
        .ok();
    assert!(
        table
            .lines()
            .next()
            .unwrap()
            .contains(" tiny-mpnet   final  difference"),
        "{table}"
    );
}

#[test]
fn init_makes_a_model_that_can_be_used_and_trained() {
    let sandbox = Sandbox::new();
    let vocabulary = model().join("vocab.txt").display().to_string();
    let init = |output: &str, seed: &str| {
        sandbox.sentune(&format!(
            "init --vocab-file {vocabulary} --output {output} \
                --hidden-size 16 --num-hidden-layers 1 --num-attention-heads 2 \
                --intermediate-size 32 --max-position-embeddings 66 \
                --seed {seed}"
        ))
    };
    for (output, seed) in [("new", "1"), ("same", "1"), ("other", "2")] {
        init(output, seed).ok();
    }
    let weights = |name: &str| fs_err::read(sandbox.path(name).join("model.safetensors")).unwrap();
    assert!(weights("new") == weights("same") && weights("new") != weights("other"));
    init("new", "1").failed(2, &["--output new is there already"]);
    sandbox
        .sentune(
            "train --model new --train-data DATA/pairs.csv --max-steps 2 \
                --output-dir run",
        )
        .ok();
    assert!(weights("run/final") != weights("new"));
}

/// Models of each type from word pieces have the ids of their special tokens, and can be trained.
#[test]
fn init_makes_each_type_of_encoder() {
    let sandbox = Sandbox::new();
    let special = "<s> <pad> </s> <unk> [UNK] <mask> [PAD] [CLS] [SEP] [MASK]";
    let words = "a the dog man woman is ##s ##ing play run";
    let pieces: Vec<&str> = special.split(' ').chain(words.split(' ')).collect();
    sandbox.write("vocab.txt", pieces.join("\n"));
    for model_type in model::MODEL_TYPES {
        let output = format!("new-{model_type}");
        let line = format!(
            "init --vocab-file vocab.txt --model-type {model_type} --output {output} --hidden-size 16 \
             --num-hidden-layers 2 --num-attention-heads 2 --intermediate-size 32 --max-position-embeddings 66"
        );
        sandbox.sentune(&line).ok();
        let config = fs_err::read(sandbox.path(&output).join("config.json")).unwrap();
        let config: Value = serde_json::from_slice(&config).unwrap();
        let like_roberta = matches!(model_type, "mpnet" | "roberta" | "xlm-roberta");
        let (pad, cls, sep) = if like_roberta { (1, 0, 2) } else { (6, 7, 8) };
        for (key, id) in [
            ("pad_token_id", pad),
            ("bos_token_id", cls),
            ("cls_token_id", cls),
            ("eos_token_id", sep),
            ("sep_token_id", sep),
        ] {
            match config.get(key) {
                Some(found) => assert_eq!(found, id, "{model_type}: {key}"),
                None => assert_ne!(key, "pad_token_id", "{model_type}"),
            }
        }
        assert_eq!(
            config.get("cls_token_id").is_some(),
            model_type == "modernbert"
        );
        assert_eq!(
            config.get("bos_token_id").is_some(),
            like_roberta || model_type == "modernbert"
        );
        // Only BERT takes token types; MPNet's and DistilBERT's own classes of tokenizers know that they do not.
        let path = sandbox.path(&output).join("tokenizer_config.json");
        let config: Value = serde_json::from_slice(&fs_err::read(path).unwrap()).unwrap();
        let has_class = matches!(model_type, "bert" | "mpnet" | "distilbert");
        let inputs = config.get("model_input_names");
        assert_eq!(inputs.is_none(), has_class, "{model_type}");
        let run = format!("run-{model_type}");
        let line = format!(
            "train --model {output} --train-data DATA/pairs.csv --max-steps 2 --no-report --output-dir {run}"
        );
        sandbox.sentune(&line).ok();
        sandbox.write("text.txt", "The dog is playing.\n");
        let trained = format!("{run}/final");
        let line = format!("encode --model {trained} --input text.txt --output -");
        let text = sandbox.sentune(&line).ok();
        let object: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(object["embedding"].as_array().unwrap().len(), 16);
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let sandbox = Sandbox::new();
    let rows: String = (0..5000).map(|i| format!("The dog {i} runs.\n")).collect();
    sandbox.write("texts.txt", rows);
    let mut child = sandbox
        .line("encode --model MODEL --input texts.txt --output - -q")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ended = Ended::from(child.wait_with_output().unwrap());
    assert_eq!((ended.code, &*ended.stderr), (Some(0), ""));
}

/// TestColumnOrderWarning and TestIdColumnWarning of upstream's `tests/base/test_data_collator.py`: of each column in
/// an odd place a line, where upstream stops at the first.
#[test]
fn columns_that_look_wrong_are_warned_of() {
    let sandbox = Sandbox::new();
    for (header, expected) in [
        ("anchor,positive,negative", &[][..]),
        ("question,answer", &[]),
        ("hypothesis,entailment,contradiction", &[]),
        ("sentence1,sentence2", &[]),
        (
            "answer,question",
            &[
                "`answer` of d is number 1, where number 2",
                "`question` of d is number 2, where number 1",
            ],
        ),
        (
            "anchor,other,positive",
            &["`positive` of d is number 3, where number 2"],
        ),
        (
            "entailment,contradiction",
            &[
                "`entailment` of d is number 1",
                "`contradiction` of d is number 2",
            ],
        ),
        ("query_id,sentence", &["`query_id` of d looks like an id"]),
        (
            "id,doc_ids,row_idx",
            &["`id` of", "`doc_ids` of", "`row_idx` of"],
        ),
    ] {
        let row = vec!["a text"; header.split(',').count()].join(",");
        let path = sandbox.write("d.csv", format!("{header}\n{row}\n"));
        let ended = sandbox.sentune(&format!("data stat --data {}", path.display()));
        let warnings: Vec<&str> = ended
            .stderr
            .lines()
            .filter(|line| line.contains("WARN"))
            .collect();
        assert_eq!(warnings.len(), expected.len(), "{header}: {ended:?}");
        for (warning, part) in warnings.iter().zip(expected) {
            assert!(warning.contains(part), "{header}: {warning}");
        }
        ended.ok();
    }
}

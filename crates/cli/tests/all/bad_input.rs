//! Bad input: an exit code, and a message that names what and where, before the first step.

use std::path::Path;

use crate::sandbox::{Ended, Sandbox, data};

/// Trains on `content` under the name `file`, which must fail before the first step.
fn refused(file: &str, content: impl AsRef<[u8]>, more: &[&str], code: i32, parts: &[&str]) {
    let sandbox = Sandbox::new();
    sandbox.write(file, content);
    let ended = sandbox.train(
        Path::new(file),
        &[&["--max-steps", "2", "-q"], more].concat(),
    );
    ended.failed(code, parts);
    assert!(
        !sandbox.path("run").exists(),
        "a run that made no step leaves no folder"
    );
}

#[test]
fn empty_files_are_refused() {
    for file in ["empty.csv", "empty.tsv", "empty.jsonl", "empty.parquet"] {
        refused(
            file,
            "",
            &[],
            1,
            &["--train-data", file, "the file is empty"],
        );
    }
    refused(
        "header.csv",
        "anchor,positive\n",
        &[],
        1,
        &["--train-data: header.csv: no rows"],
    );
}

#[test]
fn missing_files_and_columns_are_named() {
    let sandbox = Sandbox::new();
    let ended = sandbox.train(Path::new("nosuch.csv"), &[]);
    ended.failed(1, &["--train-data", "no data at `nosuch.csv`", ".parquet"]);
    refused(
        "pairs.csv",
        "anchor,positive\na,b\n",
        &["--columns", "anchor,negative"],
        1,
        &["pairs.csv: no column `negative`; the columns are `anchor`, `positive`"],
    );
}

#[test]
fn empty_and_null_texts_are_named_by_row_and_column() {
    let csv = "anchor,positive\na dog,a cat\n,a cat\n";
    let parts = [
        "bad.csv: row 2 (line 3), column `anchor`: the text is empty",
        "skip",
    ];
    refused("bad.csv", csv, &[], 1, &parts);
    let jsonl =
        "{\"anchor\": \"x\", \"positive\": \"y\"}\n{\"anchor\": \"x\", \"positive\": null}\n";
    let parts = ["bad.jsonl: row 2 (line 2), column `positive`: the value is null"];
    refused("bad.jsonl", jsonl, &[], 1, &parts);

    let sandbox = Sandbox::new();
    sandbox.write("bad.csv", csv);
    let ended = sandbox.train(
        Path::new("bad.csv"),
        &["--on-bad-row", "skip", "--max-steps", "1"],
    );
    assert!(ended.stderr.contains("skipped 1 of 2 rows"), "{ended:?}");
    ended.ok();
}

#[test]
fn bytes_that_are_no_text_are_named_by_row() {
    let parts = ["latin.csv: row 1 (line 2)", "not UTF-8"];
    refused(
        "latin.csv",
        b"anchor,positive\na dog,a c\xe4t\n",
        &[],
        1,
        &parts,
    );

    let sandbox = Sandbox::new();
    sandbox.write("latin.txt", b"caf\xe9\n");
    let encoded = sandbox.sentune("encode --model MODEL --input latin.txt --output x.npy");
    encoded.failed(1, &["--input latin.txt", "UTF-8"]);
}

#[test]
fn labels_of_the_wrong_type_are_named() {
    let parts = ["row 1 (line 2), column `label`: the label is `often`, not a number"];
    refused(
        "label.csv",
        "a,b,label\nx,y,often\nv,w,1\n",
        &["--loss", "cosent"],
        1,
        &parts,
    );
    let parts = ["--loss CoSENTLoss: the labels of words are words (often)"];
    refused(
        "words.csv",
        "a,b,label\nx,y,often\n",
        &["--loss", "cosent"],
        2,
        &parts,
    );
}

#[test]
fn data_that_does_not_fit_its_use_is_refused() {
    let one = [
        "MultipleNegativesRankingLoss needs 2 or more text columns",
        "has 1 text column",
    ];
    refused("one.csv", "text\nx\n", &[], 2, &one);
    let scores = [
        "CosineSimilarityLoss needs 2 text columns",
        "without a label column",
    ];
    refused(
        "pairs.csv",
        "a,b\nx,y\n",
        &["--loss", "cosine-similarity"],
        2,
        &scores,
    );
    let pairs = data("pairs.csv");
    let flags = ["--test-data", pairs.to_str().unwrap()];
    let evaluator =
        ["data set `pairs`: no evaluator fits 2 text columns (anchor, positive) without labels"];
    refused("train.csv", "a,b\nx,y\n", &flags, 1, &evaluator);
}

/// Trains from a copy of the tiny model that `spoil` has done something to.
fn spoiled(spoil: impl FnOnce(&Path), parts: &[&str]) {
    let sandbox = Sandbox::new();
    let copy = sandbox.copy_of_model();
    spoil(&copy);
    let ended = sandbox.sentune(
        "train --model model --train-data DATA/pairs.csv --max-steps 2 -q \
            --output-dir run",
    );
    ended.failed(1, parts);
    assert!(!sandbox.path("run/metrics.jsonl").exists());
}

fn replace(path: &Path, from: &str, to: &str) {
    let text = fs_err::read_to_string(path).unwrap();
    assert!(text.contains(from));
    fs_err::write(path, text.replace(from, to)).unwrap();
}

fn cut(path: &Path, length: u64) {
    let file = fs_err::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(length).unwrap();
}

#[test]
fn broken_models_are_named_by_file_and_tensor() {
    let remove =
        |name: &'static str| move |folder: &Path| fs_err::remove_file(folder.join(name)).unwrap();
    spoiled(
        remove("model.safetensors"),
        &["model/: no model.safetensors"],
    );
    spoiled(remove("config.json"), &["model/: no config.json"]);
    for length in [0, 7, 1000, 100_000] {
        spoiled(
            |folder| cut(&folder.join("model.safetensors"), length),
            &["model/model.safetensors: not a whole safetensors file"],
        );
    }
    spoiled(
        |folder| replace(&folder.join("config.json"), "\"mpnet\"", "\"gpt2\""),
        &["model/config.json: `model_type`: found \"gpt2\", allowed: \"mpnet\", \"bert\""],
    );
    spoiled(
        |folder| {
            replace(
                &folder.join("config.json"),
                "\"hidden_size\": 32",
                "\"hidden_size\": 48",
            )
        },
        &[
            "model/model.safetensors: tensor `",
            "has shape [",
            "expected [",
        ],
    );
    spoiled(
        |folder| fs_err::write(folder.join("config.json"), "{\"model_type\": ").unwrap(),
        &["model/config.json"],
    );
    spoiled(
        |folder| {
            fs_err::remove_file(folder.join("tokenizer.json")).unwrap();
            fs_err::remove_file(folder.join("vocab.txt")).unwrap();
        },
        &["model/: no tokenizer.json or vocab.txt"],
    );
}

#[test]
fn models_and_data_that_are_nowhere_name_both_ways_to_get_them() {
    let sandbox = Sandbox::new();
    let with_model = |name: &str| {
        sandbox.sentune(&format!(
            "train --model {name} --train-data DATA/pairs.csv --output-dir run"
        ))
    };
    with_model("nosuch").failed(
        1,
        &[
            "model `nosuch` is neither a folder",
            "sentence-transformers/nosuch",
        ],
    );
    with_model("./nosuch").failed(
        1,
        &["model `./nosuch` is not a folder", "microsoft/mpnet-base"],
    );
    with_model("org/nosuch").failed(
        1,
        &[
            "model `org/nosuch`",
            "give a folder with config.json",
            "cargo xtask fetch-data --model org/nosuch",
        ],
    );
    let ended = sandbox.sentune("train --model MODEL");
    ended.failed(
        1,
        &[
            "`sentence-transformers/all-nli:triplet`",
            "give a parquet",
            "cargo xtask fetch-data --dataset",
        ],
    );
}

#[test]
fn places_that_can_not_be_written_are_named() {
    let sandbox = Sandbox::new();
    sandbox.write("file", "not a folder");
    for folder in ["file", "file/below"] {
        let ended = sandbox.sentune(&format!(
            "train --model MODEL --train-data DATA/pairs.csv --output-dir {folder}"
        ));
        ended.failed(1, &["--output-dir", &format!("`{folder}`")]);
    }
    let encoded = sandbox
        .sentune("encode --model MODEL --input DATA/pairs.csv --column anchor --output file/x.npy");
    encoded.failed(1, &["--output file/x.npy"]);
}

#[test]
fn flags_that_contradict_each_other_or_can_not_be_are_wrong_use() {
    let sandbox = Sandbox::new();
    let pairs = data("pairs.csv");
    for (flags, parts) in [
        (
            &["--load-best-model-at-end"][..],
            &["--load-best-model-at-end needs evaluations"][..],
        ),
        (
            &["--eval-strategy", "steps"],
            &["--eval-strategy", "no --eval-data"],
        ),
        (
            &["--momentum", "0.9"],
            &["--momentum is 0.9", "--optim sgd"],
        ),
        (&["--learning-rate=-1"], &["--learning-rate is -1"]),
        (&["--num-train-epochs", "0"], &["--num-train-epochs is 0"]),
        (
            &["--warmup-steps", "1.5"],
            &["--warmup-steps is 1.5", "below 1"],
        ),
        (&["--dropout", "1.5"], &["--dropout", "1.5"]),
        (
            &["--max-seq-length", "1000"],
            &["--max-seq-length", "1000", "3 to 128"],
        ),
        (
            &["--lr-scheduler-type", "liner"],
            &["'liner'", "--lr-scheduler-type", "`linear`"],
        ),
        (&["--optim", "lion"], &["'lion'", "`adamw_torch`"]),
        (
            &["--loss", "mrnl"],
            &["unknown loss `mrnl`", "multiple-negatives-ranking"],
        ),
        (
            &["--loss", "mnrl:scael=3"],
            &["--loss", "`scael`", "`scale`"],
        ),
        (&["--lerning-rate", "1"], &["'--lerning-rate'"]),
        (&["--seed", "x"], &["'x'", "--seed"]),
        (&["--config", "nosuch.toml"], &["--config", "`nosuch.toml`"]),
        (&["-q", "-v"], &["--quiet", "--verbose"]),
    ] {
        let ended = sandbox.train(&pairs, flags);
        ended.failed(2, parts);
    }
    assert!(!sandbox.path("run/config.toml").exists());
}

#[test]
fn a_configuration_file_with_an_unknown_key_is_wrong_use() {
    let sandbox = Sandbox::new();
    sandbox.write("run.toml", "seed = 7\nlearning-rte = 1e-4\n");
    let ended = sandbox.sentune("train --config run.toml");
    ended.failed(2, &["run.toml", "line 2"]);
    assert!(ended.stderr.contains("learning-rte"), "{ended:?}");
}

#[test]
fn other_commands_refuse_what_can_not_be() {
    let sandbox = Sandbox::new();
    let eval = |flags: &[&str]| -> Ended {
        sandbox.sentune_with("eval --model MODEL --data DATA/triplets-dev.jsonl", flags)
    };
    eval(&["--similarity", "cosin"]).failed(2, &["unknown similarity `cosin`", "manhattan"]);
    eval(&["--split", "tset"]).failed(2, &["'tset'", "train, dev or test"]);
    eval(&["--prompt", "a", "--prompt-name", "query"]).failed(2, &["--prompt-name"]);
    eval(&["--prompt-name", "nosuch"]).failed(1, &["nosuch", "query"]);
    let encode = |output: &str, flags: &[&str]| {
        sandbox.sentune_with(
            &format!("encode --model MODEL --input DATA/pairs.csv --output {output}"),
            flags,
        )
    };
    encode("x.npy", &[]).failed(2, &["the text columns anchor, positive", "--column"]);
    encode("x.npy", &["--column", "text"]).failed(1, &["--input", "no column `text`"]);
    encode("x.bin", &["--column", "anchor"]).failed(2, &["--output x.bin", ".npy"]);
    sandbox
        .sentune("compare MODEL --data DATA/triplets-dev.jsonl")
        .failed(2, &["<MODEL>"]);
    sandbox.sentune("trian").failed(2, &["'trian'"]);
}

/// An empty cell is an empty text where rows have to stay in step with the embeddings, as an empty line is.
#[test]
fn empty_cells_stay_rows_where_texts_are_encoded() {
    let sandbox = Sandbox::new();
    let texts = [
        "where does the ferry leave from",
        "",
        "how long is it",
        " ",
        "is it heated",
    ];
    sandbox.write("corpus.txt", texts.join("\n") + "\n");
    let rows = texts.iter().enumerate();
    let csv: String = rows.map(|(i, text)| format!("{i},{text}\n")).collect();
    sandbox.write("corpus.csv", format!("id,text\n{csv}"));
    let objects = texts.map(|text| format!("{{\"_id\": \"d\", \"text\": \"{text}\"}}\n"));
    sandbox.write("corpus.jsonl", objects.concat());
    let null = objects.concat().replace("\"text\": \"\"", "\"text\": null");
    sandbox.write("null.jsonl", null);
    let encode = |input: &str, more: &[&str]| {
        let line = format!("encode --model MODEL --input {input} --output e.npy");
        sandbox.sentune_with(&line, more).ok();
        fs_err::read(sandbox.path("e.npy")).unwrap()
    };
    let expected = encode("corpus.txt", &[]);
    for input in ["corpus.csv", "corpus.jsonl", "null.jsonl"] {
        assert!(encode(input, &["--column", "text"]) == expected, "{input}");
    }
    let ended = sandbox.sentune_with(
        "search --model MODEL --corpus corpus.csv --corpus-column text --json --query",
        &["how long is it"],
    );
    let answer: serde_json::Value = serde_json::from_str(&ended.ok()).unwrap();
    assert_eq!(answer["hits"].as_array().unwrap().len(), 5);
    assert_eq!(answer["hits"][0]["corpus_id"], 2);
    // A value that is no text is still refused, without advice that the command has no flag for.
    sandbox.write("bad.jsonl", "{\"text\": \"x\"}\n{\"text\": [1]}\n");
    let ended = sandbox.sentune("search --model MODEL --corpus bad.jsonl --query x");
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("bad.jsonl: row 2"), "{ended:?}");
    for flag in ["--on-bad-row", "--columns"] {
        assert!(!ended.stderr.contains(flag), "{ended:?}");
    }
}

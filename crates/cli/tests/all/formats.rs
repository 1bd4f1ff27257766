//! Data as people have it, through the commands: splits, separators, labels and lists.

use std::path::Path;

use serde_json::{Value, json};

use crate::sandbox::{Ended, Sandbox, words};

/// `sentune data stat --json` of `data`.
fn stat(sandbox: &Sandbox, data: &str, more: &[&str]) -> (Value, Ended) {
    let ended = sandbox.sentune_with(&format!("data stat --json --data {data}"), more);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    (serde_json::from_str(&ended.stdout).unwrap(), ended)
}

fn rows(n: usize) -> String {
    let rows = (0..n).map(|i| format!("a question {i},an answer {i}\n"));
    format!("anchor,positive\n{}", rows.collect::<String>())
}

#[test]
fn the_split_of_a_folder_is_taken_and_said() {
    let sandbox = Sandbox::new();
    fs_err::create_dir_all(sandbox.path("named")).unwrap();
    sandbox.write("named/train.csv", rows(6));
    sandbox.write("named/dev.csv", rows(2));
    sandbox.write("named/test.csv", rows(4));
    let (found, ended) = stat(&sandbox, "named", &[]);
    assert_eq!(found["rows"], json!(6));
    assert!(
        ended.stderr.contains("the train split, 1 of 3 files"),
        "{ended:?}"
    );
    assert_eq!(
        stat(&sandbox, "named", &["--split", "test"]).0["rows"],
        json!(4)
    );
    fs_err::remove_file(sandbox.path("named/dev.csv")).unwrap();
    let refused = sandbox.sentune("data stat --data named --split dev");
    refused.failed(1, &["no file of the dev split", "train, test", "--split"]);
}

#[test]
fn training_rows_among_the_test_rows_are_counted() {
    let sandbox = Sandbox::new();
    let train = sandbox.write("train.csv", rows(8));
    let scored: String = (6..10)
        .map(|i| format!("a question {i},an answer {i},0.{i}\n"))
        .collect();
    sandbox.write("test.csv", format!("anchor,positive,score\n{scored}"));
    let flags = words("--test-data test.csv --max-steps 1 --save-strategy no");
    let ended = sandbox.train(&train, &flags);
    let expected = "--test-data test: 2 of 4 rows and 4 of 8 texts are in the training data too";
    assert!(ended.stderr.contains(expected), "{ended:?}");
    ended.ok();
}

#[test]
fn files_are_read_as_flags_say() {
    let sandbox = Sandbox::new();
    sandbox.write("a.csv", "q#p#same\n\"x\"#y#1\nv#w#0\n");
    let flags = ["--separator", "#", "--no-quotes", "--label-column", "same"];
    let (found, _) = stat(&sandbox, "a.csv", &flags);
    assert_eq!(found["rows"], json!(2));
    sandbox
        .sentune_with("data convert --data a.csv --output b.jsonl", &flags)
        .ok();
    let lines = fs_err::read_to_string(sandbox.path("b.jsonl")).unwrap();
    assert_eq!(
        lines,
        "{\"q\":\"\\\"x\\\"\",\"p\":\"y\",\"label\":1}\n{\"q\":\"v\",\"p\":\"w\",\"label\":0}\n"
    );
    let lists = "{\"query\":\"q\",\"pos\":[\"p\"],\"neg\":[\"m\",\"n\"]}\n";
    sandbox.write("lists.jsonl", lists);
    let convert = |more: &[&str]| {
        sandbox
            .sentune_with(
                "data convert --data lists.jsonl --overwrite --output c.csv",
                more,
            )
            .ok();
        fs_err::read_to_string(sandbox.path("c.csv")).unwrap()
    };
    assert_eq!(
        convert(&[]),
        "query,positive,negative_1,negative_2\nq,p,m,n\n"
    );
    assert_eq!(
        convert(&["--num-negatives", "1"]),
        "query,positive,negative\nq,p,m\n"
    );
    let refused = sandbox.sentune("data stat --data a.csv --separator ;;");
    refused.failed(2, &["--separator", "one character"]);
}

#[test]
fn words_as_labels_are_numbered_and_the_table_is_kept() {
    let sandbox = Sandbox::new();
    let topics: String = (0..12)
        .map(|i| format!("a text {i},{}\n", ["water", "town", "garden"][i / 2 % 3]))
        .collect();
    sandbox.write("topics.csv", format!("text,label\n{topics}"));
    let flags = words(
        "--loss batch-all-triplet --batch-sampler group_by_label --max-steps 1 \
            --per-device-train-batch-size 12 --save-strategy no",
    );
    sandbox.train(Path::new("topics.csv"), &flags).ok();
    let classes = fs_err::read_to_string(sandbox.path("run/classes.json")).unwrap();
    let classes: Value = serde_json::from_str(&classes).unwrap();
    assert_eq!(classes, json!({"topics": ["water", "town", "garden"]}));
    // A run that takes the place of this one has none of its classes.
    let pairs = sandbox.write("pairs.csv", rows(8));
    let flags = words("--max-steps 1 --save-strategy no --overwrite-output-dir");
    sandbox.train(&pairs, &flags).ok();
    assert!(!sandbox.path("run/classes.json").exists());
}

#[test]
fn whole_numbers_with_a_point_are_classes_where_classes_are_asked_for() {
    let sandbox = Sandbox::new();
    let lines = |write: &dyn Fn(usize) -> String| (0..12).map(write).collect::<String>();
    let csv = |point: &str| {
        let row = |i: usize| format!("a dog {i},a hound {},{}{point}\n", i / 2, i % 2);
        format!("a,b,label\n{}", lines(&row))
    };
    let jsonl = |point: &str| {
        lines(&|i| {
            format!(
                "{{\"a\":\"a dog {i}\",\"b\":\"a hound {}\",\"label\":{}{point}}}\n",
                i / 2,
                i % 2
            )
        })
    };
    let topics = |point: &str| {
        let row = |i: usize| format!("a text {i},{}{point}\n", i % 3);
        format!("text,label\n{}", lines(&row))
    };
    let weights = |file: &str, content: String, flags: &[&str]| {
        let path = sandbox.write(file, content);
        let more = [
            "--max-steps",
            "1",
            "--save-strategy",
            "no",
            "--no-report",
            "--overwrite-output-dir",
        ];
        sandbox.train(&path, &[flags, &more].concat()).ok();
        fs_err::read(sandbox.path("run/final/model.safetensors")).unwrap()
    };
    let same = |file: &str, content: &dyn Fn(&str) -> String, flags: &[&str]| {
        let (whole, point) = (content(""), content(".0"));
        assert!(
            weights(file, whole, flags) == weights(file, point, flags),
            "{file} {flags:?}"
        );
    };
    for loss in ["contrastive", "online-contrastive", "softmax"] {
        same("pairs.csv", &csv, &["--loss", loss]);
    }
    same("pairs.jsonl", &jsonl, &["--loss", "contrastive"]);
    let groups = [
        "--loss",
        "batch-all-triplet",
        "--batch-sampler",
        "group_by_label",
    ];
    same("topics.csv", &topics, &groups);

    let evaluated = |point: &str| {
        sandbox.write("pairs.csv", csv(point));
        let line = "eval --model MODEL --data pairs.csv --evaluator binary-classification";
        sandbox.sentune(line).ok()
    };
    let whole = evaluated("");
    assert!(whole.contains("12 labelled pairs"), "{whole}");
    assert_eq!(evaluated(".0"), whole);
    let (found, _) = stat(&sandbox, "pairs.csv", &[]);
    assert_eq!(found["labels"], json!({"classes": {"0": 6, "1": 6}}));

    // A real fraction makes scores of them.
    sandbox.write(
        "scores.csv",
        "a,b,label\na dog,a hound,1.0\na cat,a cow,0.5\n",
    );
    let flags = ["--loss", "contrastive", "--overwrite-output-dir"];
    let refused = sandbox.train(Path::new("scores.csv"), &flags);
    refused.failed(
        2,
        &["ContrastiveLoss needs", "integer labels", "float labels"],
    );
}

#[test]
fn a_label_of_another_name_is_named_with_its_flag() {
    let sandbox = Sandbox::new();
    let pairs: String = (0..8)
        .map(|i| format!("a dog {i},a hound {i},{}\n", i % 2))
        .collect();
    for (name, loss) in [("is_duplicate", "contrastive"), ("similarity", "cosent")] {
        let path = sandbox.write("pairs.csv", format!("question1,question2,{name}\n{pairs}"));
        let flag = format!("--label-column {name}");
        let flags = [
            "--loss",
            loss,
            "--max-steps",
            "1",
            "--save-strategy",
            "no",
            "--overwrite-output-dir",
        ];
        let refused = sandbox.train(&path, &flags);
        let column = format!("column `{name}` holds only numbers");
        refused.failed(1, &[&column, &flag]);
        let trained = sandbox.train(&path, &[&flags[..], &["--label-column", name]].concat());
        assert!(trained.stderr.contains("8 rows of 2 texts"), "{trained:?}");
        trained.ok();
    }
    let capital = sandbox.write("pairs.csv", format!("question1,question2,Label\n{pairs}"));
    let flags = [
        "--loss",
        "contrastive",
        "--max-steps",
        "1",
        "--save-strategy",
        "no",
    ];
    let trained = sandbox.train(
        &capital,
        &[&flags[..], &["--overwrite-output-dir"]].concat(),
    );
    assert!(trained.stderr.contains("8 rows of 2 texts"), "{trained:?}");
    trained.ok();
}

#[test]
fn rows_with_several_negatives_are_evaluated_as_triplets() {
    let sandbox = Sandbox::new();
    let tuples = "anchor,positive,negative_1,negative_2\na dog,a hound,a cat,a cow\nthe sea,the ocean,a hill,a road\n";
    sandbox.write("tuples.csv", tuples);
    let evaluated = sandbox.sentune("eval --model MODEL --data tuples.csv");
    assert!(evaluated.ok().contains("4 triplets"));
}

#[test]
fn titles_go_before_texts_and_unknown_judgements_are_counted() {
    let sandbox = Sandbox::new();
    sandbox.write(
        "queries.jsonl",
        "{\"_id\":\"q0\",\"text\":\"where is the ferry\"}\n",
    );
    let corpus = "{\"_id\":\"d0\",\"title\":\"Harbour\",\"text\":\"the ferry departs from the pier\",\"metadata\":{}}\n{\"_id\":\"d1\",\"title\":\"\",\"text\":\"a cow\",\"metadata\":{}}\n";
    sandbox.write("corpus.jsonl", corpus);
    let joined = corpus.replace("\"title\":\"Harbour\",\"text\":\"", "\"text\":\"Harbour ");
    sandbox.write("joined.jsonl", joined);
    let qrels = "query-id\tcorpus-id\tscore\nq0\td0\t1\n";
    sandbox.write("test.tsv", qrels);
    sandbox.write("unknown.tsv", format!("{qrels}q77\td1\t1\nq0\td88\t1\n"));
    let eval = |corpus: &str, qrels: &str, more: &[&str]| {
        sandbox.sentune_with(
            &format!(
                "eval --model MODEL --evaluator information-retrieval \
                    --queries queries.jsonl --corpus {corpus} \
                    --qrels {qrels} --json --name x"
            ),
            more,
        )
    };
    let titled = eval("corpus.jsonl", "test.tsv", &[]);
    assert!(
        titled
            .stderr
            .contains("texts with their titles before them: 1 title"),
        "{titled:?}"
    );
    let joined = eval(
        "joined.jsonl",
        "test.tsv",
        &["--corpus-columns", "_id,text"],
    );
    assert!(!joined.stderr.contains("title"), "{joined:?}");
    assert_eq!(titled.ok(), joined.ok());
    let unknown = eval("corpus.jsonl", "unknown.tsv", &[]);
    let expected = "--qrels: 1 query and 1 document of the judgements are not there";
    assert!(unknown.stderr.contains(expected), "{unknown:?}");
    unknown.ok();
}

#[test]
fn an_audit_counts_doubts_and_writes_a_clean_copy() {
    let sandbox = Sandbox::new();
    let train = "anchor,positive,negative\na dog,a hound,a cat\na dog,a hound,a cat\nA sea,a sea.,a hill\none,two,three\n";
    sandbox.write("train.csv", train);
    sandbox.write("test.csv", "anchor,positive,negative\nOne,two,three\n");
    let audited = sandbox.sentune(
        "data audit --data train.csv --against test.csv --json \
            --findings doubts.csv --output clean.csv --drop repeated,leaked",
    );
    let found: Value = serde_json::from_str(&audited.ok()).unwrap();
    assert_eq!((&found["rows"], &found["doubted"]), (&json!(4), &json!(3)));
    let doubts = &found["doubts"];
    assert_eq!(doubts["repeated"], json!(1));
    assert_eq!(doubts["leaked"], json!(1));
    assert_eq!(doubts["anchor-is-positive"], json!(1));
    assert_eq!(doubts["false-negative"], json!(0));
    let clean = fs_err::read_to_string(sandbox.path("clean.csv")).unwrap();
    assert_eq!(
        clean,
        "anchor,positive,negative\na dog,a hound,a cat\nA sea,a sea.,a hill\n"
    );
    let written = fs_err::read_to_string(sandbox.path("doubts.csv")).unwrap();
    let lines: Vec<&str> = written.lines().collect();
    assert_eq!(
        lines[0],
        "row,doubt,column,other_row,other_data,strength,anchor,positive,negative"
    );
    assert_eq!(lines[1], "2,repeated,\"\",1,\"\",0.0,a dog,a hound,a cat");
    assert_eq!(lines[3], "4,leaked,\"\",1,test,0.0,one,two,three");
    let refused = sandbox.sentune("data audit --data train.csv --output x.csv --drop odd");
    refused.failed(2, &["there is no doubt `odd`", "odd-length"]);
}

/// Triplets whose positives repeat the anchor's words, of which the last has its positive and negative swapped.
fn swapped_triplets() -> String {
    let subjects = [
        "a man", "a woman", "the dog", "the cat", "a boy", "the girl",
    ];
    let verbs = ["eats", "runs", "sleeps", "sings"];
    let mut rows = Vec::new();
    for (i, subject) in subjects.iter().enumerate() {
        for (j, verb) in verbs.iter().enumerate() {
            let (own, other) = (
                format!("{subject} {verb}"),
                format!("{} {}", subjects[(i + 3) % 6], verbs[(j + 2) % 4]),
            );
            let (positive, negative) = match rows.len() {
                23 => (&other, &own),
                _ => (&own, &other),
            };
            rows.push(format!("{own} now,{positive},{negative}\n"));
        }
    }
    format!("anchor,positive,negative\n{}", rows.concat())
}

#[test]
fn an_audit_by_a_model_scores_rows_that_it_did_not_train_on() {
    let sandbox = Sandbox::new();
    sandbox.write("train.csv", swapped_triplets());
    let audit = |more: &[&str]| {
        sandbox.sentune_with("data audit --data train.csv --model MODEL --json", more)
    };
    let flags = words(
        "--folds 4 --num-train-epochs 2 --learning-rate 1e-3 --scores scores.jsonl \
            --output clean.csv --drop worst:1 --show 2",
    );
    let audited = audit(&flags);
    for fold in 1..=4 {
        assert!(
            audited.stderr.contains(&format!("fold {fold} of 4: ")),
            "{audited:?}"
        );
    }
    let found: Value = serde_json::from_str(&audited.ok()).unwrap();
    assert_eq!(found["worst"].as_array().unwrap().len(), 2);
    assert_eq!(found["worst"][0]["row"], json!(24), "{found}");
    assert_eq!(
        found["worst"][0]["values"]["positive"],
        json!("the dog runs")
    );
    let scores = fs_err::read_to_string(sandbox.path("scores.jsonl")).unwrap();
    let scores: Vec<Value> = scores
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let mut rows: Vec<u64> = scores
        .iter()
        .map(|row| row["row"].as_u64().unwrap())
        .collect();
    let values: Vec<f64> = scores
        .iter()
        .map(|row| row["row_score"].as_f64().unwrap())
        .collect();
    assert!(values.is_sorted());
    assert!(values[0] < 0.5 && values[23] > 0.5, "{values:?}");
    assert!(
        values.iter().all(|value| (0.0..=1.0).contains(value)),
        "{values:?}"
    );
    rows.sort_unstable();
    assert_eq!(rows, (1..=24).collect::<Vec<u64>>());
    let clean = fs_err::read_to_string(sandbox.path("clean.csv")).unwrap();
    assert_eq!(clean.lines().count(), 24);
    assert!(!clean.contains("the girl sings now"), "{clean}");
    // The same seed gives the same scores.
    let again = ["--scores", "again.jsonl"];
    audit(&[&flags[..6], &again].concat()).ok();
    let read = |name: &str| fs_err::read(sandbox.path(name)).unwrap();
    assert!(read("scores.jsonl") == read("again.jsonl"));
    // The worst row is mended, the next two are left out, and one that has both is mended.
    let more = [
        "--output",
        "mended.csv",
        "--swap",
        "worst:1",
        "--drop",
        "worst:3",
    ];
    let audited = audit(&[&flags[..6], &more].concat());
    assert!(
        audited
            .stderr
            .contains("leaves out 2 of 24 rows, and exchanges positive and negative of 1"),
        "{audited:?}"
    );
    let found: Value = serde_json::from_str(&audited.ok()).unwrap();
    assert_eq!(found["copy"], json!({"rows": 22, "swapped": 1}));
    let mended = fs_err::read_to_string(sandbox.path("mended.csv")).unwrap();
    assert_eq!(mended.lines().count(), 23);
    assert!(
        mended.contains("the girl sings now,the girl sings,the dog runs\n"),
        "{mended}"
    );
    let below = format!("below:{}", (values[1] + values[2]) / 2.0);
    let more = ["--output", "below.csv", "--drop", &below];
    let audited = audit(&[&flags[..6], &more].concat());
    let found: Value = serde_json::from_str(&audited.ok()).unwrap();
    assert_eq!(found["copy"], json!({"rows": 22, "swapped": 0}));

    audit(&["--output", "x.csv", "--drop", "worst:2%"]).failed(2, &["--drop worst needs --folds"]);
    audit(&["--output", "x.csv", "--drop", "below:0"]).failed(2, &["--drop below needs --folds"]);
    audit(&["--output", "x.csv", "--swap", "worst:1"]).failed(2, &["--swap worst needs --folds"]);
    let pairs = ["--columns", "anchor,positive", "--folds", "2"];
    audit(&[&pairs[..], &["--output", "x.csv", "--swap", "worst:1"]].concat())
        .failed(2, &["--swap", "triplets", "2 text columns"]);
    audit(&["--folds", "20"]).failed(2, &["--folds 20: 24 rows", "a lower number"]);
    audit(&["--output", "x.csv", "--drop", "worst:x"]).failed(2, &["worst:2%"]);
    let refused = sandbox.sentune("data audit --data train.csv --output x.csv --drop cut-off");
    refused.failed(2, &["--drop cut-off needs --model"]);
}

#[test]
fn an_audit_by_a_model_finds_false_negatives_and_texts_that_are_cut_off() {
    let sandbox = Sandbox::new();
    // The second row's negative is the first's anchor in other words, and nearer to it than the first's positive.
    let long = "the dog runs and ".repeat(40);
    let rows = [
        "the dog runs,a young woman sings,the cat sleeps",
        "a boy eats,some apple soup,the dog runs.",
        "a horse walks,the red car is fast,a tree",
        "the girl reads,a cold lake,a song",
        &format!("{long},a young man,a cat"),
    ];
    sandbox.write(
        "train.csv",
        format!("anchor,positive,negative\n{}\n", rows.join("\n")),
    );
    let audited = sandbox.sentune(
        "data audit --data train.csv --model MODEL --findings found.jsonl \
            --output clean.csv --drop cut-off",
    );
    let table = audited.ok();
    assert!(table.contains("\ncut-off "), "{table}");
    let found = fs_err::read_to_string(sandbox.path("found.jsonl")).unwrap();
    let found: Vec<Value> = found
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of = |doubt: &str| -> Vec<&Value> {
        found
            .iter()
            .filter(|finding| finding["doubt"] == json!(doubt))
            .collect()
    };
    let cut_off = of("cut-off");
    assert_eq!(cut_off.len(), 1);
    assert_eq!(
        (&cut_off[0]["row"], &cut_off[0]["column"]),
        (&json!(5), &json!("anchor"))
    );
    assert!(cut_off[0]["strength"].as_f64().unwrap() > 50.0);
    let nearer = of("nearer-elsewhere");
    let nearer: Vec<&&Value> = nearer
        .iter()
        .filter(|finding| finding["row"] == json!(2))
        .collect();
    assert_eq!(nearer.len(), 1, "{found:?}");
    assert_eq!(
        (&nearer[0]["column"], &nearer[0]["other_row"]),
        (&json!("negative"), &json!(1))
    );
    assert!(nearer[0]["strength"].as_f64().unwrap() > 0.01);
    let clean = fs_err::read_to_string(sandbox.path("clean.csv")).unwrap();
    assert_eq!(clean.lines().count(), 5, "{clean}");
    assert!(!clean.contains("a young man"), "{clean}");
}

#[test]
fn scores_of_lists_teach_the_losses_that_learn_from_a_teacher() {
    let sandbox = Sandbox::new();
    let lines: String = (0..8)
        .map(|i| {
            format!("{{\"query\":\"question {i}\",\"pos\":[\"answer {i}\"],\"neg\":[\"no {i}\",\"none {i}\"],\"pos_scores\":[9],\"neg_scores\":[1,0.5]}}\n")
        })
        .collect();
    let path = sandbox.write("scored.jsonl", lines);
    let train = |loss: &str, more: &[&str]| {
        let flags = [
            "--loss",
            loss,
            "--max-steps",
            "1",
            "--save-strategy",
            "no",
            "--overwrite-output-dir",
        ];
        sandbox.train(&path, &[&flags[..], more].concat())
    };
    for loss in ["margin-mse", "distill-kl-div"] {
        let ended = train(loss, &[]);
        assert!(!ended.stderr.contains("left aside"), "{ended:?}");
        ended.ok();
    }
    let aside = train("mnrl", &[]);
    let advice = "left aside: columns `pos_scores`, `neg_scores`; scores of lists become a teacher's labels with --label-column pos_scores";
    assert!(aside.stderr.contains(advice), "{aside:?}");
    aside.ok();
    let converted = sandbox.sentune(
        "data convert --data scored.jsonl --label-column pos_scores \
            --output out.jsonl",
    );
    converted.ok();
    let out = fs_err::read_to_string(sandbox.path("out.jsonl")).unwrap();
    let first: Value = serde_json::from_str(out.lines().next().unwrap()).unwrap();
    assert_eq!(first["label"], json!([9.0, 1.0, 0.5]));
}

#[test]
fn suspicious_files_are_warned_of() {
    let sandbox = Sandbox::new();
    for (name, content, rows, parts) in [
        (
            "header.csv",
            "where does the ferry leave from,from the north pier\nhow deep is it,three feet\n",
            1,
            ["looks like data", "`where does the ferry leave from`"],
        ),
        (
            "nan.csv",
            "anchor,positive\nx,nan\ny,nan\nz,w\n",
            3,
            ["2 rows of column `positive`", "the text `nan`"],
        ),
        (
            "spanning.tsv",
            "a\tb\n\"x\ty\nz\"\tw\nv\tu\n",
            2,
            ["quoted texts of several lines in 1 row:", "--no-quotes"],
        ),
        (
            "semicolons.csv",
            "a;b\nx, y;z\n",
            1,
            ["the fields are separated by `;`", "by the header"],
        ),
        (
            "index.csv",
            ",a,b\n0,x,y\n",
            1,
            ["left aside: columns `(no name)`", "index.csv"],
        ),
        (
            "lists.jsonl",
            "{\"query\":\"q\",\"pos\":[\"p\"],\"neg\":[\"n\"],\"prompt\":\"P\"}\n",
            1,
            [
                "left aside: columns `prompt`",
                "lists expanded to a row for each positive",
            ],
        ),
    ] {
        sandbox.write(name, content);
        let (found, ended) = stat(&sandbox, name, &[]);
        assert_eq!(found["rows"], json!(rows), "{name}");
        for part in parts {
            assert!(ended.stderr.contains(part), "`{part}`: {ended:?}");
        }
    }
}

//! `sentune eval --evaluator`: every evaluator by its name, on the data it needs.

use data::{Cells, OutputColumn, TableFormat, write_table};
use hub::standin::StandIn;
use serde_json::Value;

use crate::sandbox::{Ended, Sandbox, data, json_lines, model, words};

const PAIRS: &str = "a,b,label\nThe dog runs.,A dog is running.,1\nThe dog runs.,Nobody sleeps!,0\n\
    a young woman,a woman,1\na young woman,The horse sleeps.,0\nThe cat eats.,The cat eats an apple.,1\n";

fn eval(sandbox: &Sandbox, flags: &[&str]) -> Ended {
    sandbox.sentune_with("eval --model MODEL", flags)
}

/// The single JSON object that a command prints.
fn metrics(sandbox: &Sandbox, flags: &[&str]) -> Value {
    let all: Vec<&str> = flags.iter().copied().chain(["--json"]).collect();
    serde_json::from_str(&eval(sandbox, &all).ok()).unwrap()
}

fn keys(metrics: &Value) -> Vec<&str> {
    let keys = metrics.as_object().unwrap().keys();
    keys.map(String::as_str).collect()
}

fn share(metrics: &Value, key: &str) -> f64 {
    let value = metrics[key]
        .as_f64()
        .unwrap_or_else(|| panic!("no {key}: {metrics}"));
    assert!((-1.0..=1.0).contains(&value), "{key}: {value}");
    value
}

/// The lines of a CSV file of --csv-dir.
fn csv(sandbox: &Sandbox, name: &str) -> Vec<String> {
    let text = fs_err::read_to_string(sandbox.path("csv").join(name)).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn binary_classification() {
    let sandbox = Sandbox::new();
    sandbox.write("pairs.csv", PAIRS);
    let flags = ["--data", "pairs.csv", "--similarity", "cosine,manhattan"];
    // By its columns it would be another evaluator.
    assert_eq!(
        keys(&metrics(&sandbox, &flags))[..2],
        ["pairs_pearson_cosine", "pairs_spearman_cosine"]
    );
    let flags = [
        flags.as_slice(),
        &words("--evaluator BinaryClassificationEvaluator --csv-dir csv")[..],
    ]
    .concat();
    let metrics = metrics(&sandbox, &flags);
    let names = [
        "accuracy",
        "accuracy_threshold",
        "f1",
        "f1_threshold",
        "precision",
        "recall",
        "ap",
        "mcc",
    ];
    let expected: Vec<String> = ["cosine", "manhattan", "max"]
        .iter()
        .flat_map(|function| names.map(|name| format!("pairs_{function}_{name}")))
        .collect();
    assert_eq!(keys(&metrics), expected);
    assert!(share(&metrics, "pairs_cosine_accuracy") >= 0.6);
    let lines = csv(
        &sandbox,
        "binary_classification_evaluation_pairs_results.csv",
    );
    assert_eq!(lines[0].split(',').count(), lines[1].split(',').count());
    let table = eval(
        &sandbox,
        &words("--data pairs.csv --evaluator binary-classification"),
    )
    .ok();
    assert!(table.starts_with("5 labelled pairs"), "{table}");

    sandbox.write("classes.csv", "a,b,label\nx,y,2\nz,w,0\n");
    eval(
        &sandbox,
        &words("--data classes.csv --evaluator binary-classification"),
    )
    .failed(
        1,
        &[
            "data set `classes`",
            "a label column of 0 and 1",
            "with whole numbers as labels",
        ],
    );
}

#[test]
fn translation_and_its_interval() {
    let sandbox = Sandbox::new();
    sandbox.write(
        "words.csv",
        "de,en\nder Hund,the dog\ndie Frau,a woman\nder Apfel,an apple\n",
    );
    let flags = words("--data words.csv --evaluator translation --confidence=0.9 --bootstrap 50");
    let metrics = metrics(&sandbox, &flags);
    let names = [
        "words_src2trg_accuracy",
        "words_trg2src_accuracy",
        "words_mean_accuracy",
    ];
    assert_eq!(
        keys(&metrics),
        [names.as_slice(), &["interval_90"]].concat()
    );
    for name in names {
        let [low, high]: [f64; 2] =
            serde_json::from_value(metrics["interval_90"][name].clone()).unwrap();
        let value = share(&metrics, name);
        assert!(
            low <= value && value <= high,
            "{name}: {low} to {high} around {value}"
        );
    }
    let table = eval(&sandbox, &flags).ok();
    let mut lines = table.lines();
    assert!(lines.next().unwrap().ends_with("90 % interval"), "{table}");
    assert!(lines.nth(1).unwrap().contains(" to "), "{table}");
}

#[test]
fn triplets_have_margins_and_a_main_similarity() {
    let sandbox = Sandbox::new();
    let triplets = data("triplets-dev.jsonl").display().to_string();
    let accuracy = |more: &[&str]| {
        let flags = [
            &[
                "--data",
                &triplets,
                "--name",
                "dev",
                "--similarity",
                "cosine,dot",
            ],
            more,
        ]
        .concat();
        let metrics = metrics(&sandbox, &flags);
        (
            share(&metrics, "dev_cosine_accuracy"),
            share(&metrics, "dev_dot_accuracy"),
        )
    };
    let (cosine, dot) = accuracy(&[]);
    assert!(cosine > 0.0 && dot > 0.0);
    assert_eq!(accuracy(&["--margin", "2.1"]).0, 0.0);
    assert_eq!(accuracy(&["--margin", "-2.1"]).0, 1.0);
    assert_eq!(accuracy(&["--margin", "cosine=2.1"]), (0.0, dot));
    let flags = [
        "--data",
        &triplets,
        "--evaluator",
        "sequential",
        "--main-similarity",
        "dot",
    ];
    let merged = metrics(&sandbox, &flags);
    assert_eq!(
        merged["sequential_score"],
        merged["triplets-dev_dot_accuracy"]
    );
}

#[test]
fn flags_that_nobody_looks_at_are_refused() {
    let sandbox = Sandbox::new();
    let triplets = data("triplets-dev.jsonl").display().to_string();
    for (flags, parts) in [
        (
            ["--similarity", "cosine", "--main-similarity", "dot"].as_slice(),
            "--main-similarity dot is not among --similarity cosine",
        ),
        (
            &["--at-k", "3"],
            "--at-k is for reranking, and none such is asked for",
        ),
        (&["--teacher", "x"], "--teacher is for mse"),
    ] {
        let flags = [&["--data", triplets.as_str()], flags].concat();
        eval(&sandbox, &flags).failed(2, &[parts]);
    }
    let nano = ["--evaluator", "nano-beir:nq", "--columns", "a,b"];
    eval(&sandbox, &nano).failed(2, &["--columns is for data sets of --data"]);
}

#[test]
fn scored_pairs_in_fewer_bits() {
    let sandbox = Sandbox::new();
    let scored = data("scored.csv").display().to_string();
    let flags = [
        "--data",
        &scored,
        "--quantize",
        "ubinary",
        "--csv-dir",
        "csv",
    ];
    let bits = metrics(&sandbox, &flags);
    let whole = metrics(&sandbox, &flags[..2]);
    assert_eq!(keys(&bits), keys(&whole));
    assert_ne!(bits, whole);
    assert_eq!(
        csv(&sandbox, "similarity_evaluation_scored_ubinary_results.csv").len(),
        2
    );
}

#[test]
fn information_retrieval_of_beirs_tables() {
    let sandbox = Sandbox::new();
    fs_err::create_dir(sandbox.path("animals")).unwrap();
    sandbox.write(
        "animals/corpus.jsonl",
        "{\"_id\":\"d1\",\"title\":\"\",\"text\":\"The dog runs.\"}\n{\"_id\":\"d2\",\"title\":\"\",\"text\":\"a young woman\"}\n\
         {\"_id\":\"d3\",\"title\":\"\",\"text\":\"Nobody sleeps!\"}\n",
    );
    sandbox.write(
        "queries.csv",
        "id,text\n1,The dog runs.\n2,a young woman\n3,never asked\n",
    );
    sandbox.write(
        "qrels.tsv",
        "query-id\tcorpus-id\tscore\n1\td1\t1\n1\td3\t0\n2\td2\t2\n4\td1\t1\n",
    );
    let flags = [
        "--queries",
        "queries.csv",
        "--corpus",
        "animals/corpus.jsonl",
        "--qrels",
        "qrels.tsv",
        // The tiny model has a prompt for queries.
        "--query-prompt",
        "",
        "--accuracy-at-k",
        "1,2",
        "--precision-recall-at-k",
        "1",
        "--mrr-at-k",
        "3",
        "--ndcg-at-k",
        "2",
        "--map-at-k",
        "3",
        "--csv-dir",
        "csv",
    ];
    let found = metrics(&sandbox, &flags);
    // Each query is its document, so that it comes first; what has the score 0 is not relevant.
    let names = [
        "accuracy@1",
        "accuracy@2",
        "precision@1",
        "recall@1",
        "ndcg@2",
        "mrr@3",
        "map@3",
    ];
    assert_eq!(
        keys(&found),
        names.map(|name| format!("animals_cosine_{name}"))
    );
    for name in names {
        assert_eq!(
            share(&found, &format!("animals_cosine_{name}")),
            1.0,
            "{name}"
        );
    }
    let lines = csv(
        &sandbox,
        "Information-Retrieval_evaluation_animals_results.csv",
    );
    assert!(
        lines[0].starts_with("epoch,steps,cosine-Accuracy@1,"),
        "{lines:?}"
    );
    let table = eval(
        &sandbox,
        &[
            &flags[..6],
            &words("--evaluator information-retrieval --name x --similarity dot")[..],
        ]
        .concat(),
    )
    .ok();
    assert!(table.starts_with("2 queries in 3 documents"), "{table}");
    assert!(table.contains("\nx_dot_map@100 "), "{table}");

    eval(
        &sandbox,
        &words("--queries queries.csv --corpus animals/corpus.jsonl"),
    )
    .failed(2, &["needs --queries", "--qrels"]);
    let columns = [&flags[..6], &["--queries-columns", "id,words"]].concat();
    eval(&sandbox, &columns).failed(1, &["queries.csv", "no column `words`", "`id`, `text`"]);
}

#[test]
fn reranking_of_lists() {
    let sandbox = Sandbox::new();
    let rows = "{\"query\":\"The dog runs.\",\"positive\":[\"The dog runs.\"],\"negative\":[\"a woman\",\"Nobody sleeps!\"]}\n\
        {\"query\":\"a woman\",\"positive\":[],\"negative\":[\"a dog\"]}\n";
    sandbox.write("rank.jsonl", rows);
    let flags = [
        "--evaluator",
        "reranking",
        "--data",
        "rank.jsonl",
        "--query-prompt",
        "",
        "--at-k",
        "2",
        "--csv-dir",
        "csv",
    ];
    let found = metrics(&sandbox, &flags);
    assert_eq!(keys(&found), ["rank_map", "rank_mrr@2", "rank_ndcg@2"]);
    assert!(
        keys(&found).iter().all(|key| share(&found, key) == 1.0),
        "{found}"
    );
    assert_eq!(
        csv(&sandbox, "RerankingEvaluator_rank_results_@2.csv")[0],
        "epoch,steps,MAP,MRR@2,NDCG@2"
    );
    assert!(eval(&sandbox, &flags).ok().starts_with("1 query "));

    sandbox.write("rank.csv", "query,positive,negative\na,b,c\n");
    eval(
        &sandbox,
        &["--evaluator", "reranking", "--data", "rank.csv"],
    )
    .failed(
        1,
        &[
            "column `positive` has to hold lists of texts",
            "JSON Lines or parquet",
        ],
    );
    eval(
        &sandbox,
        &words("--evaluator reranking --data rank.jsonl --similarity dot,cosine"),
    )
    .failed(2, &["ranks by one --similarity"]);
    eval(
        &sandbox,
        &["--evaluator", "reranking", "--data", "org/rank"],
    )
    .failed(2, &["--data org/rank", "files only"]);
}

#[test]
fn paraphrase_mining_in_sentences() {
    let sandbox = Sandbox::new();
    sandbox.write(
        "sentences.csv",
        "qid,question\n1,The dog runs.\n2,The dog runs.\n3,a young woman\n4,Nobody sleeps!\n",
    );
    sandbox.write("same.csv", "qid1,qid2\n1,2\n2,9\n");
    let flags = words(
        "--evaluator paraphrase-mining --data sentences.csv --duplicates same.csv \
            --csv-dir csv",
    );
    let found = metrics(&sandbox, &flags);
    let names = [
        "average_precision",
        "f1",
        "precision",
        "recall",
        "threshold",
    ];
    assert_eq!(keys(&found), names.map(|name| format!("sentences_{name}")));
    // Two texts are equal, so that their pair comes first.
    assert_eq!(share(&found, "sentences_average_precision"), 1.0);
    assert_eq!(
        csv(
            &sandbox,
            "paraphrase_mining_evaluation_sentences_results.csv"
        )
        .len(),
        2
    );
    eval(&sandbox, &flags[..4]).failed(2, &["paraphrase-mining needs --duplicates"]);
    eval(&sandbox, &["--data", "sentences.csv", "--top-k", "3"])
        .failed(2, &["--top-k is for paraphrase-mining"]);
}

#[test]
fn mse_against_a_teacher() {
    let sandbox = Sandbox::new();
    sandbox.write(
        "texts.jsonl",
        "{\"text\":\"The dog runs.\"}\n{\"text\":\"a young woman\"}\n",
    );
    let teacher = model().display().to_string();
    let flags = [
        "--evaluator",
        "mse",
        "--data",
        "texts.jsonl",
        "--teacher",
        &teacher,
    ];
    // The teacher is the model itself.
    assert_eq!(metrics(&sandbox, &flags)["texts_negative_mse"], -0.0);
    sandbox.write(
        "two.jsonl",
        "{\"en\":\"The dog runs.\",\"de\":\"Der Hund rennt.\"}\n",
    );
    let flags = [
        "--evaluator",
        "mse",
        "--data",
        "two.jsonl",
        "--teacher",
        &teacher,
        "--csv-dir",
        "csv",
    ];
    let error = metrics(&sandbox, &flags)["two_negative_mse"]
        .as_f64()
        .unwrap();
    assert!(error < 0.0, "{error}");
    let line = csv(&sandbox, "mse_evaluation_two_results.csv")
        .pop()
        .unwrap();
    let written: f64 = line.rsplit(',').next().unwrap().parse().unwrap();
    assert_eq!(written, -error);
    // A teacher that was asked before: its embeddings are labels.
    let zeros = format!("[{}]", ["0"; 32].join(","));
    sandbox.write(
        "labels.jsonl",
        format!("{{\"text\":\"The dog runs.\",\"label\":{zeros}}}\n"),
    );
    let found = metrics(&sandbox, &["--evaluator", "mse", "--data", "labels.jsonl"]);
    assert!(found["labels_negative_mse"].as_f64().unwrap() < 0.0);
    eval(&sandbox, &["--evaluator", "mse", "--data", "texts.jsonl"])
        .failed(2, &["needs a --teacher"]);
}

#[test]
fn label_accuracy_of_a_classifier_that_was_trained() {
    let sandbox = Sandbox::new();
    let classes = data("classes.csv");
    sandbox
        .train(
            &classes,
            &words("--loss softmax --max-steps 4 --save-strategy no"),
        )
        .ok();
    let run = |flags: &[&str]| {
        sandbox.sentune_with(
            "eval --model run/final --evaluator label-accuracy \
                --data DATA/classes.csv",
            flags,
        )
    };
    let found: Value = serde_json::from_str(&run(&["--json", "--csv-dir", "csv"]).ok()).unwrap();
    assert_eq!(keys(&found), ["classes_accuracy"]);
    assert!(share(&found, "classes_accuracy") >= 0.0);
    assert_eq!(
        csv(&sandbox, "accuracy_evaluation_classes_results.csv")[0],
        "epoch,steps,accuracy"
    );
    run(&["--loss", "softmax:concatenation_sent_rep=false"])
        .failed(2, &["96 features and 3 classes", "say with --loss"]);
    run(&["--loss", "triplet"]).failed(2, &["--loss triplet", "softmax"]);
    let flags = [
        "--evaluator",
        "label-accuracy",
        "--data",
        &classes.display().to_string(),
    ];
    eval(&sandbox, &flags).failed(2, &["loss.safetensors is not there", "--loss softmax"]);
}

#[test]
fn several_evaluators_are_a_sequence() {
    let sandbox = Sandbox::new();
    sandbox.write("pairs.csv", PAIRS);
    let triplets = format!("nli={}", data("triplets-dev.jsonl").display());
    let flags = [
        "--data",
        &triplets,
        "--data",
        "dup=pairs.csv",
        "--evaluator",
        "dup=binary-classification",
        "--similarity",
        "cosine",
        "--csv-dir",
        "csv",
    ];
    let found = metrics(&sandbox, &flags);
    assert_eq!(keys(&found).first(), Some(&"nli_cosine_accuracy"));
    assert_eq!(keys(&found).last(), Some(&"sequential_score"));
    assert_eq!(found["sequential_score"], found["dup_cosine_ap"]);
    let mean = metrics(&sandbox, &[&flags[..], &["--main-score", "mean"]].concat());
    let expected = (share(&found, "nli_cosine_accuracy") + share(&found, "dup_cosine_ap")) / 2.0;
    assert!((share(&mean, "sequential_score") - expected).abs() < 1e-12);
    assert_eq!(csv(&sandbox, "triplet_evaluation_nli_results.csv").len(), 3);
    let table = eval(&sandbox, &flags).ok();
    assert!(
        table.starts_with("60 triplets + 5 labelled pairs"),
        "{table}"
    );

    eval(&sandbox, &["--data", "pairs.csv", "--evaluator", "x=mse"])
        .failed(2, &["x=mse has no --data of its name"]);
    eval(
        &sandbox,
        &["--data", "pairs.csv", "--evaluator", "accuracy"],
    )
    .failed(2, &["no evaluator `accuracy`", "nano-beir"]);
    eval(&sandbox, &[]).failed(2, &["nothing to evaluate on"]);
    eval(
        &sandbox,
        &words("--data pairs.csv --margin 1 --evaluator translation"),
    )
    .failed(2, &["--margin is for triplet,"]);
}

#[test]
fn one_triplet_is_no_plural() {
    let sandbox = Sandbox::new();
    sandbox.write(
        "one.csv",
        "anchor,positive,negative\nThe dog runs.,a dog,a woman\n",
    );
    let ended = eval(&sandbox, &["--data", "one.csv"]);
    assert!(
        ended.stderr.contains("data one: 1 row of 3 texts"),
        "{ended:?}"
    );
    assert!(ended.ok().starts_with("1 triplet  "));
}

/// A table as the hub has it.
fn parquet(columns: &[(&str, &[&str])]) -> Vec<u8> {
    let columns: Vec<OutputColumn<'_>> = columns
        .iter()
        .map(|(name, cells)| OutputColumn::new(name, Cells::Texts(cells.to_vec())))
        .collect();
    let mut bytes = Vec::new();
    write_table(&mut bytes, TableFormat::Parquet, &columns).unwrap();
    bytes
}

/// Puts two tasks of NanoBEIR in, whose queries are their documents.
pub(crate) fn serve_nano_beir(standin: &StandIn) {
    let mut repo = standin.dataset("sentence-transformers/NanoBEIR-en");
    for (split, first) in [
        ("NanoMSMARCO", "The dog runs."),
        ("NanoNQ", "The cat eats."),
    ] {
        let corpus = parquet(&[
            ("_id", &["d1", "d2", "d3"]),
            ("text", &[first, "a young woman", ""]),
        ]);
        let queries = parquet(&[("_id", &["q1", "q2"]), ("text", &[first, "a young woman"])]);
        let qrels = parquet(&[("query-id", &["q1", "q2"]), ("corpus-id", &["d1", "d2"])]);
        for (subset, bytes) in [("corpus", corpus), ("queries", queries), ("qrels", qrels)] {
            repo = repo.large(&format!("{subset}/{split}-00000-of-00001.parquet"), bytes);
        }
    }
}

#[test]
fn nano_beir_by_name_through_the_hub() {
    let sandbox = Sandbox::new();
    let standin = StandIn::start().unwrap();
    serve_nano_beir(&standin);
    let run = |flags: &[&str], is_offline: bool| {
        let mut command = sandbox.line("eval --model MODEL");
        command.args(flags);
        if !is_offline {
            command
                .env("HF_ENDPOINT", standin.endpoint())
                .env_remove("HF_HUB_OFFLINE");
        }
        Ended::from(command.output().unwrap())
    };
    let flags = [
        "--evaluator",
        "nano-beir:msmarco,nq",
        "--query-prompt",
        "",
        "--json",
        "--csv-dir",
        "csv",
        "--confidence",
    ];
    let found: Value = serde_json::from_str(&run(&flags, false).ok()).unwrap();
    let keys = keys(&found);
    assert_eq!(keys.len(), 3 * 15 + 1);
    assert_eq!(keys[0], "NanoMSMARCO_cosine_accuracy@1");
    assert_eq!(keys[30], "NanoBEIR_mean_cosine_accuracy@1");
    // Queries are their documents.
    for key in [
        "NanoMSMARCO_cosine_ndcg@10",
        "NanoNQ_cosine_mrr@10",
        "NanoBEIR_mean_cosine_ndcg@10",
    ] {
        assert_eq!(share(&found, key), 1.0, "{key}");
        assert_eq!(
            found["interval_95"][key],
            serde_json::json!([1.0, 1.0]),
            "{key}"
        );
    }
    assert_eq!(share(&found, "NanoBEIR_mean_cosine_precision@10"), 0.1);
    for name in [
        "NanoBEIR_evaluation_mean_results.csv",
        "Information-Retrieval_evaluation_NanoNQ_results.csv",
    ] {
        assert!(csv(&sandbox, name)[0].starts_with("epoch,steps,cosine-Accuracy@1,"));
    }

    // From the cache, cut off: the names say so.
    let flags = ["--evaluator", "nano-beir:NQ", "--truncate-dim", "16"];
    let table = run(&flags, true).ok();
    assert!(table.starts_with("2 queries of 1 task"), "{table}");
    assert!(
        table.contains("\nNanoBEIR_mean_16_cosine_ndcg@10 "),
        "{table}"
    );

    run(&["--evaluator", "nano-beir"], false).failed(
        1,
        &[
            "no split NanoClimateFEVER",
            "its splits are NanoMSMARCO, NanoNQ",
        ],
    );
    run(&["--evaluator", "nano-beir:msmarko"], false)
        .failed(2, &["no data set `msmarko`", "quoraretrieval"]);
    run(
        &words("--evaluator nano-beir:nq --nano-beir-data org/none"),
        false,
    )
    .failed(1, &["`org/none` could not be had", "repository not found"]);
}

#[test]
fn training_is_evaluated_as_asked() {
    let sandbox = Sandbox::new();
    sandbox.write("pairs.csv", PAIRS);
    let flags = words(
        "--evaluator binary-classification --eval-data pairs.csv \
            --test-data pairs.csv --eval-strategy steps --eval-steps 2 --max-steps 2 \
            --save-strategy no --loss contrastive",
    );
    let table = sandbox.train(&sandbox.path("pairs.csv"), &flags).ok();
    assert!(
        table.contains("\npairs_cosine_ap ") && table.contains("\npairs_max_mcc "),
        "{table}"
    );
    let log = fs_err::read_to_string(sandbox.path("run/metrics.jsonl")).unwrap();
    assert!(log.contains("\"eval_pairs_cosine_ap\":"), "{log}");
    let config = fs_err::read_to_string(sandbox.path("run/config.toml")).unwrap();
    assert!(
        config.contains("evaluator = \"binary-classification\""),
        "{config}"
    );
    sandbox
        .train(
            &data("pairs.csv"),
            &words("--evaluator triplet --eval-data pairs.csv --output-dir other"),
        )
        .failed(
            1,
            &[
                "--eval-data",
                "evaluator triplet needs 3 text columns",
                "2 text columns (a, b)",
            ],
        );
}

/// Retrieval is evaluated before, during and after a run, and may decide which of its models is the best.
#[test]
fn retrieval_decides_which_model_is_best() {
    let sandbox = Sandbox::new();
    let topics = [
        "ferry",
        "ladder",
        "swimming hall",
        "goat",
        "old paint",
        "lighthouse",
    ];
    let (mut queries, mut corpus, mut train) = (String::new(), String::new(), String::new());
    let mut qrels = "query-id\tcorpus-id\tscore\n".to_owned();
    for (i, topic) in topics.iter().enumerate() {
        let (query, document) = (
            format!("where is the {topic}"),
            format!("the {topic} is here"),
        );
        queries += &format!("{{\"_id\": \"q{i}\", \"text\": \"{query}\"}}\n");
        corpus += &format!("{{\"_id\": \"d{i}\", \"text\": \"{document}\"}}\n");
        qrels += &format!("q{i}\td{i}\t1\n");
        train += &format!("{query},{document}\n");
    }
    sandbox.write("queries.jsonl", queries);
    sandbox.write("corpus.jsonl", corpus);
    sandbox.write("qrels.tsv", qrels);
    let train = sandbox.write("train.csv", format!("anchor,positive\n{train}"));
    let tables = words(
        "--queries queries.jsonl --corpus corpus.jsonl --qrels qrels.tsv \
            --ndcg-at-k 3 --num-train-epochs 3 --learning-rate 1e-3 \
            --eval-strategy epoch --save-strategy epoch --load-best-model-at-end \
            --metric-for-best-model corpus_cosine_ndcg@3",
    );
    let asked = ["--evaluator", "information-retrieval"];
    let table = sandbox.train(&train, &[&asked[..], &tables].concat()).ok();
    assert!(table.starts_with("6 queries in 6 documents "), "{table}");
    assert!(table.contains("\ncorpus_cosine_ndcg@3 "), "{table}");
    let log = fs_err::read_to_string(sandbox.path("run/metrics.jsonl")).unwrap();
    let key = "eval_corpus_cosine_ndcg@3";
    let measured: Vec<f64> = json_lines(&log)
        .iter()
        .filter_map(|entry| entry.get(key)?.as_f64())
        .collect();
    assert_eq!(measured.len(), 3, "{log}");
    let state = fs_err::read_to_string(sandbox.path("run/checkpoint-3/trainer_state.json"));
    let state: Value = serde_json::from_str(&state.unwrap()).unwrap();
    let best = measured.iter().copied().fold(f64::MIN, f64::max);
    assert_eq!(state["best_metric"].as_f64(), Some(best), "{measured:?}");
    let results = fs_err::read_to_string(sandbox.path("run/results.json")).unwrap();
    let results: Value = serde_json::from_str(&results).unwrap();
    assert_eq!(
        results["after"]["corpus_cosine_ndcg@3"].as_f64(),
        Some(best)
    );
    let csv = "Information-Retrieval_evaluation_corpus_results.csv";
    for (folder, n_rows) in [("eval", 3), ("test", 2)] {
        let rows = fs_err::read_to_string(sandbox.path(&format!("run/{folder}/{csv}"))).unwrap();
        assert_eq!(rows.lines().count(), n_rows + 1, "{rows}");
    }

    // The configuration repeats it; without --evaluator the tables ask for theirs, beside that of the data sets.
    let config = fs_err::read_to_string(sandbox.path("run/config.toml")).unwrap();
    assert!(config.contains("qrels = \"qrels.tsv\"\n"), "{config}");
    let again = sandbox.sentune("train --config run/config.toml --output-dir again");
    assert_eq!(again.ok(), table);
    let dev = data("triplets-dev.jsonl").display().to_string();
    let more = ["--test-data", &dev, "--output-dir", "both"];
    let both = sandbox.train(&train, &[&tables[..], &more].concat()).ok();
    assert!(
        both.starts_with("60 rows + 6 queries in 6 documents "),
        "{both}"
    );
    for key in [
        "triplets-dev_cosine_accuracy",
        "corpus_cosine_ndcg@3",
        "sequential_score",
    ] {
        assert!(both.contains(&format!("\n{key} ")), "{both}");
    }

    // Other judgements are another run, where they decide.
    sandbox.write("qrels.tsv", "query-id\tcorpus-id\tscore\nq0\td1\t1\n");
    sandbox
        .train(&train, &[&asked[..], &tables, &["--resume"]].concat())
        .failed(2, &["is of another run: evaluation data was"]);
    let missing = words("--evaluator information-retrieval --queries queries.jsonl");
    let missing = [&missing[..], &["--output-dir", "none"]].concat();
    sandbox.train(&train, &missing).failed(
        2,
        &[
            "--evaluator information-retrieval needs --queries",
            "--qrels",
        ],
    );
}

#[test]
fn nano_beir_decides_which_model_of_a_run_is_best() {
    let sandbox = Sandbox::new();
    let standin = StandIn::start().unwrap();
    serve_nano_beir(&standin);
    let train = |more: &[&str]| {
        let mut command = sandbox.line(
            "train --model MODEL --train-data DATA/triplets.jsonl --max-steps 4 --output-dir run \
                --overwrite-output-dir",
        );
        command.args(more);
        command
            .env("HF_ENDPOINT", standin.endpoint())
            .env_remove("HF_HUB_OFFLINE");
        Ended::from(command.output().unwrap())
    };
    let best = "NanoBEIR_mean_cosine_ndcg@10";
    let evaluated = [
        "--evaluator",
        "nano-beir:msmarco,nq",
        "--eval-strategy",
        "steps",
        "--eval-steps",
        "2",
        "--save-steps",
        "2",
        "--load-best-model-at-end",
        "--metric-for-best-model",
        best,
        "--query-prompt",
        "",
    ];
    let table = train(&evaluated).ok();
    assert!(table.starts_with("4 queries in 4 documents"), "{table}");
    assert!(table.contains("\nNanoBEIR_mean_cosine_ndcg@10 "), "{table}");
    assert!(table.contains("\nNanoNQ_cosine_mrr@10 "), "{table}");
    // Each evaluation during the run has all keys; the best one was chosen by the mean.
    let log = fs_err::read_to_string(sandbox.path("run/metrics.jsonl")).unwrap();
    let means: Vec<f64> = json_lines(&log)
        .iter()
        .filter_map(|entry| entry[format!("eval_{best}")].as_f64())
        .collect();
    assert_eq!(means, [1.0, 1.0]);
    let state =
        fs_err::read_to_string(sandbox.path("run/checkpoint-4/trainer_state.json")).unwrap();
    let state: Value = serde_json::from_str(&state).unwrap();
    assert_eq!(state["best_metric"], serde_json::json!(1.0));
    assert_eq!(state["best_global_step"], serde_json::json!(2));
    for name in [
        "NanoBEIR_evaluation_mean_results.csv",
        "Information-Retrieval_evaluation_NanoMSMARCO_results.csv",
        "Information-Retrieval_evaluation_NanoNQ_results.csv",
    ] {
        for (folder, n_lines) in [("eval", 3), ("test", 3)] {
            let csv = fs_err::read_to_string(sandbox.path("run").join(folder).join(name)).unwrap();
            assert_eq!(csv.lines().count(), n_lines, "{folder}/{name}: {csv}");
        }
    }
    // The run's configuration repeats it.
    let config = fs_err::read_to_string(sandbox.path("run/config.toml")).unwrap();
    assert!(
        config.contains("evaluator = \"nano-beir:msmarco,nq\""),
        "{config}"
    );
    // A name that several tasks' metrics end with is none.
    let mut several = evaluated;
    several[10] = "cosine_ndcg@10";
    let parts = ["may be several", "eval_NanoBEIR_mean_cosine_ndcg@10"];
    train(&several).failed(2, &parts);
    let parts = ["--nano-beir-data is for --evaluator nano-beir"];
    train(&["--nano-beir-data", "org/own"]).failed(2, &parts);
    train(&["--evaluator", "nano-beir:msmarko"]).failed(2, &["no data set `msmarko`"]);
    train(&["--evaluator", "sequential"]).failed(2, &["a run has no evaluator", "nano-beir"]);
}

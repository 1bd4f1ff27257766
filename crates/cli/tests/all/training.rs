//! `sentune train` from flags to the final folder.

mod first_steps;

use serde_json::Value;

use crate::sandbox::{Sandbox, data, json_lines, words};

const DEV: &str = "--eval-data";

/// Flags of a short run with evaluations, on triplets.
fn short(sandbox: &Sandbox, more: &[&str]) -> crate::sandbox::Ended {
    let dev = data("triplets-dev.jsonl");
    let dev = dev.to_str().unwrap();
    let mut flags = vec![DEV, dev, "--test-data", dev, "--eval-strategy", "steps"];
    flags.extend([
        "--eval-steps",
        "4",
        "--max-steps",
        "6",
        "--logging-steps",
        "2",
    ]);
    flags.extend(["--learning-rate", "1e-3", "--save-steps", "4"]);
    flags.extend(more);
    sandbox.train(&data("triplets.jsonl"), &flags)
}

#[test]
fn a_run_leaves_a_whole_folder_whose_configuration_repeats_it() {
    let sandbox = Sandbox::new();
    let table = short(&sandbox, &[]).ok();
    let header = table.lines().next().unwrap();
    assert!(header.starts_with("60 rows"), "{table}");
    assert!(header.ends_with(" before   after   change"), "{table}");
    for function in ["cosine", "dot", "euclidean", "manhattan", "max"] {
        assert!(
            table.contains(&format!("\ntriplets-dev_{function}_accuracy ")),
            "{table}"
        );
    }
    assert_eq!(
        sandbox.files("run"),
        [
            "checkpoint-4",
            "checkpoint-6",
            "config.toml",
            "environment.json",
            "eval",
            "final",
            "metrics.jsonl",
            "profile.json",
            "report.html",
            "results.json",
            "runs",
            "test"
        ]
    );
    assert_eq!(
        sandbox.files("run/final"),
        [
            "1_Pooling",
            "README.md",
            "config.json",
            "config_sentence_transformers.json",
            "model.safetensors",
            "modules.json",
            "sentence_bert_config.json",
            "special_tokens_map.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "vocab.txt"
        ]
    );
    let mut of_checkpoint = sandbox.files("run/final");
    of_checkpoint.retain(|name| name != "README.md");
    of_checkpoint.extend(
        [
            "manifest.json",
            "optimizer.safetensors",
            "trainer_state.json",
        ]
        .map(str::to_owned),
    );
    of_checkpoint.sort_unstable();
    assert_eq!(sandbox.files("run/checkpoint-6"), of_checkpoint);
    let read = |name: &str| fs_err::read_to_string(sandbox.path(name)).unwrap();
    let card = read("run/final/README.md");
    assert!(
        card.starts_with("---\ntags:\n- sentence-transformers\n"),
        "{card}"
    );
    for part in [
        "\nlibrary_name: sentence-transformers\n",
        "\n- loss:MultipleNegativesRankingLoss\n",
        "\nmetrics:\n- cosine_accuracy\n",
        "      type: triplets-dev\n",
        "\n| cosine_accuracy | ",
    ] {
        assert!(card.contains(part), "no {part:?} in {card}");
    }

    // Three entries of training, two evaluations (the last step's too), one summary.
    let log = json_lines(&read("run/metrics.jsonl"));
    let with = |key: &str| log.iter().filter(|entry| entry.get(key).is_some()).count();
    assert_eq!(
        (with("loss"), with("eval_loss"), with("train_loss")),
        (3, 2, 1)
    );
    let results: Value = serde_json::from_str(&read("run/results.json")).unwrap();
    assert_eq!(results["train"]["step"], 6);
    // In training by the model's own similarity, before and after by all four.
    let csv = "triplet_evaluation_triplets-dev_results.csv";
    for (folder, steps, n_columns) in [("eval", ["4", "6"], 3), ("test", ["-1", "-1"], 6)] {
        let table = read(&format!("run/{folder}/{csv}"));
        let rows: Vec<Vec<&str>> = table
            .lines()
            .map(|line| line.split(',').collect())
            .collect();
        assert!(rows.iter().all(|row| row.len() == n_columns), "{table}");
        let found: Vec<&str> = rows.iter().map(|row| row[1]).collect();
        assert_eq!(found, [&["steps"][..], &steps].concat());
    }
    assert_eq!(sandbox.files("run/runs").len(), 1);

    let again = sandbox.sentune("train --config run/config.toml --output-dir again");
    assert_eq!(again.ok(), table);
    let weights =
        |run: &str| fs_err::read(sandbox.path(&format!("{run}/final/model.safetensors"))).unwrap();
    assert!(weights("run") == weights("again"));
    // Another seed makes another model: the comparison would notice.
    let other = sandbox.sentune("train --config run/config.toml --output-dir other --seed 7");
    other.ok();
    assert!(weights("run") != weights("other"));
}

#[test]
fn json_prints_the_log_and_the_results_line_by_line() {
    let sandbox = Sandbox::new();
    let lines = json_lines(&short(&sandbox, &["--json"]).ok());
    let types: Vec<&str> = lines
        .iter()
        .map(|line| line["type"].as_str().unwrap())
        .collect();
    assert_eq!(
        types,
        ["begin", "log", "log", "log", "log", "log", "log", "results"]
    );
    assert_eq!(lines[0]["n_steps"], 6);
    for part in ["data", "model", "tokens"] {
        assert!(lines[0]["seconds"][part].as_f64() > Some(0.0), "{part}");
    }
    // Of the two steps since the line before, or since the begin.
    let training = lines.iter().filter(|line| line.get("loss").is_some());
    for line in training {
        assert_eq!(line["n_rows"], 16, "{line}");
        assert!(line["n_tokens"].as_u64() > Some(16 * 3 * 2), "{line}");
    }
    assert_eq!(lines[1]["step"], 2);
    assert!(lines[1]["loss"].as_f64().unwrap() > 0.0);
    let results = lines.last().unwrap();
    for when in ["before", "after"] {
        let accuracy = results[when]["triplets-dev_cosine_accuracy"]
            .as_f64()
            .unwrap();
        assert!((0.5..=1.0).contains(&accuracy), "{results}");
    }
    assert_eq!(results["train"]["step"], 6);
}

#[test]
fn quiet_says_nothing_and_a_plain_run_says_where_the_model_is() {
    let sandbox = Sandbox::new();
    let pairs = data("pairs.csv");
    let ended = sandbox.train(&pairs, &["--max-steps", "2", "--quiet"]);
    assert_eq!(
        (ended.code, &*ended.stdout, &*ended.stderr),
        (Some(0), "", "")
    );
    let ended = sandbox.train(&pairs, &["--max-steps", "2", "--overwrite-output-dir"]);
    assert!(
        ended.stderr.contains("the trained model is run/final"),
        "{ended:?}"
    );
    assert!(
        ended.stderr.contains("training on 259 rows for 2 steps"),
        "{ended:?}"
    );
}

#[test]
fn a_folder_that_holds_a_run_is_not_overwritten_unasked() {
    let sandbox = Sandbox::new();
    let pairs = data("pairs.csv");
    sandbox.train(&pairs, &["--max-steps", "3"]).ok();
    let before = fs_err::read(sandbox.path("run/final/model.safetensors")).unwrap();
    sandbox.train(&pairs, &["--max-steps", "2"]).failed(
        2,
        &[
            "--output-dir run already holds a run",
            "--resume-from-checkpoint",
            "--overwrite-output-dir",
        ],
    );
    let after = fs_err::read(sandbox.path("run/final/model.safetensors")).unwrap();
    assert!(before == after);
    sandbox
        .train(&pairs, &["--max-steps", "2", "--overwrite-output-dir"])
        .ok();
    assert!(sandbox.path("run/checkpoint-2").exists());
    assert!(!sandbox.path("run/checkpoint-3").exists());
}

#[test]
fn a_checkpoint_of_other_flags_is_refused() {
    let sandbox = Sandbox::new();
    let pairs = data("pairs.csv");
    sandbox.train(&pairs, &["--max-steps", "3"]).ok();
    let other = words("--max-steps 3 --seed 1 --resume-from-checkpoint");
    sandbox.train(&pairs, &other).failed(
        2,
        &["run/checkpoint-3 is of another run: --seed was 42 and is 1"],
    );
}

#[test]
fn rows_columns_and_lengths_can_be_chosen() {
    let sandbox = Sandbox::new();
    let flags = words(
        "--columns positive,anchor --max-train-samples 20 --max-seq-length 8 \
            --num-train-epochs 1 --loss mnrl:scale=10 --optim sgd --dropout 0 \
            --num-threads 1 --save-strategy no",
    );
    let ended = sandbox.train(&data("triplets.jsonl"), &flags);
    assert!(ended.stderr.contains("20 rows of 2 texts"), "{ended:?}");
    assert!(ended.stderr.contains("for 3 steps"), "{ended:?}");
    ended.ok();
    let settings =
        fs_err::read_to_string(sandbox.path("run/final/sentence_bert_config.json")).unwrap();
    let settings: Value = serde_json::from_str(&settings).unwrap();
    assert_eq!(settings["max_seq_length"], 8);
    assert!(!sandbox.path("run/checkpoint-3").exists());
}

#[test]
fn token_ids_are_kept_and_a_spoiled_cache_changes_nothing() {
    let sandbox = Sandbox::new();
    let train = |more: &[&str]| {
        let flags = [&["--epochs", "0.05", "--overwrite-output-dir", "-v"], more].concat();
        let ended = sandbox.train(&data("triplets.jsonl"), &flags);
        let stderr = ended.stderr.clone();
        ended.ok();
        let weights = fs_err::read(sandbox.path("run/final/model.safetensors")).unwrap();
        (weights, stderr)
    };
    let (weights, _) = train(&["--token-cache=false"]);
    assert!(!sandbox.path("cache").exists());
    assert!(train(&[]).0 == weights);
    let [entry] = &sandbox.files("cache/tokens")[..] else {
        panic!("one entry for one data set");
    };
    let entry = sandbox.path(&format!("cache/tokens/{entry}"));
    let whole = fs_err::read(&entry).unwrap();
    assert!(train(&[]).0 == weights);
    fs_err::write(&entry, &whole[..whole.len() - 1]).unwrap();
    let (same, stderr) = train(&[]);
    assert!(same == weights);
    assert!(stderr.contains("damaged or not ours"), "{stderr}");
    assert!(fs_err::read(&entry).unwrap() == whole);

    // Another longest input is another entry, and a folder that is none is no reason to stop.
    train(&["--max-seq-length", "8"]);
    assert_eq!(sandbox.files("cache/tokens").len(), 2);
    fs_err::remove_dir_all(sandbox.path("cache")).unwrap();
    sandbox.write("cache", "a file");
    let (same, stderr) = train(&[]);
    assert!(same == weights);
    assert!(stderr.contains("--token-cache=false"), "{stderr}");
}

#[test]
fn a_run_of_few_steps_tokenises_their_rows_alone() {
    let sandbox = Sandbox::new();
    let rows: String = (0..400)
        .map(|i| format!("the dog {i} eats,dog number {i} has a meal,the cat {i} sleeps\n"))
        .collect();
    let rows = sandbox.write("long.csv", format!("anchor,positive,negative\n{rows}"));
    let train = |more: &[&str]| {
        let flags = [
            "--gradient-accumulation-steps",
            "2",
            "--save-strategy",
            "no",
            "--overwrite-output-dir",
        ];
        let ended = sandbox.train(&rows, &[&flags, more].concat());
        let stderr = ended.stderr.clone();
        ended.ok();
        let weights = fs_err::read(sandbox.path("run/final/model.safetensors")).unwrap();
        (weights, stderr)
    };
    let cache = sandbox.path("cache/tokens");
    for sampler in ["batch_sampler", "no_duplicates"] {
        let of_sampler = ["--batch-sampler", sampler];
        let few = [&of_sampler[..], &["--max-steps", "3"]].concat();
        let (weights, stderr) = train(&few);
        // 3 steps of 2 batches of 8 rows, of which some are among the first 100, which the model card describes.
        let (_, told) = stderr.split_once("tokens of the ").expect(&stderr);
        let (n_rows, _) = told
            .split_once(" rows that --max-steps needs")
            .expect(&stderr);
        let n_rows: usize = n_rows.parse().unwrap();
        assert!((101..=148).contains(&n_rows), "{stderr}");
        assert!(stderr.contains("long: 400 rows of 3 texts"), "{stderr}");
        assert!(!cache.exists());
        // All rows are taken from the cache, which a longer run fills, where it has room.
        let all = [&of_sampler[..], &["--num-train-epochs", "0.1"]].concat();
        let (_, stderr) = train(&[&all[..], &["--token-cache-limit", "0.001MB"]].concat());
        assert!(
            stderr.contains("not kept for the next run: they take 0.")
                && stderr.contains("--token-cache-limit is 0.000 GB"),
            "{stderr}"
        );
        assert!(!cache.exists());
        train(&all);
        assert_eq!(sandbox.files("cache/tokens").len(), 1);
        let (same, stderr) = train(&few);
        assert!(!stderr.contains("tokens of the"), "{stderr}");
        assert!(same == weights);
        fs_err::remove_dir_all(&cache).unwrap();
    }
}

#[test]
fn a_profile_accounts_for_the_whole_step() {
    let sandbox = Sandbox::new();
    let flags = ["--max-steps", "8", "--profile", "--json", "--quiet"];
    let lines = json_lines(&sandbox.train(&data("triplets.jsonl"), &flags).ok());
    let profile = lines.iter().find(|line| line["type"] == "profile").unwrap();
    assert_eq!(profile["n_steps"], 6);
    let parts = profile["parts"].as_object().unwrap();
    let time = |part: &str| parts[part].as_f64().unwrap();
    let total: f64 = parts.keys().map(|part| time(part)).sum();
    let told = profile["milliseconds_per_step"].as_f64().unwrap();
    assert!((total - told).abs() < 1e-6 * told, "{profile}");
    for part in parts.keys() {
        assert!(time(part) > 0.0, "{part}: {profile}");
    }

    let plain = sandbox.train(
        &data("triplets.jsonl"),
        &["--max-steps", "4", "--profile", "--overwrite-output-dir"],
    );
    assert!(plain.stderr.contains("matrix products"), "{plain:?}");
}

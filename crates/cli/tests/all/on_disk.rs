//! `sentune train --data-in-memory never`: the bits of a run whose data is in memory.

use crate::sandbox::{Ended, Sandbox, data, words};

const FLAGS: &str = "--logging-steps 2 --learning-rate 1e-3 --save-steps 3 --no-report";

/// A run of the tiny model into a folder.
fn run(sandbox: &Sandbox, folder: &str, choice: &str, more: &str) -> Ended {
    let line = format!(
        "train --model MODEL --output-dir {folder} --data-in-memory {choice} {FLAGS} {more}"
    );
    sandbox.sentune(&line)
}

/// Weights and log of a run.
fn result(sandbox: &Sandbox, folder: &str) -> (Vec<u8>, String) {
    let log = fs_err::read_to_string(sandbox.path(folder).join("metrics.jsonl")).unwrap();
    // The last line has times.
    let log = log.lines().filter(|line| !line.contains("train_runtime"));
    let weights = sandbox.path(folder).join("final/model.safetensors");
    (fs_err::read(weights).unwrap(), log.collect())
}

/// Checks that a run on disk has the bits of one in memory.
fn assert_same(more: &str) {
    let sandbox = Sandbox::new();
    run(&sandbox, "memory", "always", more).ok();
    let ended = run(&sandbox, "disk", "never", more);
    assert!(ended.stderr.contains("tokens, on disk"), "{ended:?}");
    ended.ok();
    let whole = result(&sandbox, "memory");
    assert_eq!(result(&sandbox, "disk"), whole, "{more}");
    // The second run finds the store of the first.
    run(&sandbox, "again", "never", more).ok();
    assert_eq!(result(&sandbox, "again"), whole, "{more}");
    let cards = ["memory", "disk"].map(|folder| {
        let card = sandbox.path(folder).join("final/README.md");
        let card = fs_err::read_to_string(card).unwrap();
        card.replace(&format!("\"{folder}\""), "")
            .replace("data-in-memory = \"always\"", "data-in-memory = \"never\"")
            .lines()
            .filter(|line| !line.contains("runtime") && !line.contains("output-dir"))
            .collect::<Vec<_>>()
            .join("\n")
    });
    assert_eq!(cards[0], cards[1], "{more}");
}

#[test]
fn triplets() {
    assert_same("--train-data DATA/triplets.jsonl --max-steps 8");
}

#[test]
fn epochs_without_duplicates() {
    assert_same(
        "--train-data DATA/triplets.jsonl --num-train-epochs 1.5 --batch-sampler no_duplicates --max-train-samples 90",
    );
}

#[test]
fn scores_and_lists_of_scores() {
    assert_same("--train-data DATA/scored.csv --loss cosent --max-steps 5");
    assert_same("--train-data DATA/margins.jsonl --loss margin-mse --max-steps 5");
}

/// `DATA/` stands at the beginning of a word.
fn two_sets(sandbox: &Sandbox) -> String {
    for name in ["triplets.jsonl", "pairs.csv"] {
        sandbox.write(name, fs_err::read(data(name)).unwrap());
    }
    "--train-data a=triplets.jsonl --train-data b=pairs.csv --max-steps 9".to_owned()
}

#[test]
fn several_sets_and_prompts() {
    for mix in ["proportional", "round_robin"] {
        let sandbox = Sandbox::new();
        let sets = two_sets(&sandbox);
        let more = format!(
            "{sets} --multi-dataset-batch-sampler {mix} --batch-sampler no_duplicates --prompts query:"
        );
        run(&sandbox, "memory", "always", &more).ok();
        run(&sandbox, "disk", "never", &more).ok();
        assert_eq!(
            result(&sandbox, "disk"),
            result(&sandbox, "memory"),
            "{mix}"
        );
    }
}

#[test]
fn a_run_goes_on_in_the_middle_and_with_the_other_choice() {
    let sandbox = Sandbox::new();
    let more = "--train-data DATA/triplets.jsonl --max-steps 10";
    run(&sandbox, "whole", "never", more).ok();
    let whole = result(&sandbox, "whole");
    for (i, choice) in ["never", "always"].into_iter().enumerate() {
        for step in [3, 9] {
            let folder = format!("run-{i}-{step}");
            let from = format!("{more} --resume-from-checkpoint whole/checkpoint-{step}");
            run(&sandbox, &folder, choice, &from).ok();
            let (weights, _) = result(&sandbox, &folder);
            assert_eq!(weights, whole.0, "{choice} from {step}");
        }
    }
}

#[test]
fn a_damaged_store_is_made_again() {
    let sandbox = Sandbox::new();
    let more = "--train-data DATA/triplets.jsonl --max-steps 2";
    run(&sandbox, "first", "never", more).ok();
    let names = sandbox.files("cache/tokens");
    let [name] = names.as_slice() else {
        panic!("{names:?}");
    };
    let path = sandbox.path("cache/tokens").join(name);
    let whole = fs_err::read(&path).unwrap();
    for damaged in [
        &whole[..whole.len() / 2],
        &[&whole[..200], &[0; 64], &whole[264..]].concat(),
    ] {
        fs_err::write(&path, damaged).unwrap();
        let ended = run(
            &sandbox,
            "again",
            "never",
            &format!("{more} --overwrite-output-dir"),
        );
        ended.ok();
        assert_eq!(result(&sandbox, "again"), result(&sandbox, "first"));
        assert_eq!(fs_err::read(&path).unwrap(), whole);
    }
}

#[test]
fn what_can_not_be_is_refused_with_what_to_do() {
    let sandbox = Sandbox::new();
    let more = "--train-data DATA/triplets.jsonl --max-steps 2";
    let refused = |flags: &str, code: i32, parts: &[&str]| {
        let ended = run(&sandbox, "run", "never", &format!("{more} {flags}"));
        ended.failed(code, parts);
        assert!(!sandbox.path("run").exists(), "{flags}");
    };
    refused(
        "--token-cache=false",
        2,
        &["--data-in-memory never: ", "leave out --token-cache=false"],
    );
    refused("--batch-sampler group_by_label", 2, &["group_by_label"]);
    refused(
        "--token-cache-limit 0.01MB",
        1,
        &["more than 10000 bytes", "--token-cache-limit", "raise it"],
    );
    assert_eq!(sandbox.files("cache/tokens"), [""; 0]);
    sandbox.write("classes.csv", "a,b,label\nx,y,yes\nz,w,no\n");
    let ended = run(&sandbox, "run", "never", "--train-data classes.csv");
    ended.failed(
        1,
        &[
            "classes.csv",
            "its labels are words",
            "--data-in-memory never",
        ],
    );
}

#[test]
fn a_cache_that_can_not_be_made_is_named() {
    let sandbox = Sandbox::new();
    // No folder can be made below a file.
    sandbox.write("cache", "no folder");
    let more = "--train-data DATA/triplets.jsonl --max-steps 2";
    let ended = run(&sandbox, "run", "never", more);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("cache/tokens"), "{ended:?}");
}

#[test]
fn the_choice_is_in_the_saved_configuration() {
    let sandbox = Sandbox::new();
    let more = "--train-data DATA/triplets.jsonl --max-steps 1";
    run(&sandbox, "run", "never", more).ok();
    let config = fs_err::read_to_string(sandbox.path("run/config.toml")).unwrap();
    assert!(
        config.contains("\ndata-in-memory = \"never\"\n"),
        "{config}"
    );
    let line = words("train --config run/config.toml --output-dir again").join(" ");
    let ended = sandbox.sentune(&line);
    assert!(ended.stderr.contains("tokens, on disk"), "{ended:?}");
}

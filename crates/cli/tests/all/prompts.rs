//! `sentune train --prompts`.

use crate::sandbox::{Ended, Sandbox, data};

const SHORT: &str =
    "--max-steps 4 --logging-steps 2 --save-steps 2 --learning-rate 1e-3 --num-threads 1";

fn train(sandbox: &Sandbox, folder: &str, more: &[&str]) -> Ended {
    let line = format!("train --model MODEL --output-dir {folder} {SHORT}");
    sandbox.sentune_with(&line, more)
}

#[test]
fn prompts_are_trained_with_kept_in_the_configuration_and_compared_by_a_resume() {
    let sandbox = Sandbox::new();
    let train_data = data("triplets.jsonl").display().to_string();
    let dev = data("triplets-dev.jsonl").display().to_string();
    let flags = [
        "--train-data",
        &train_data,
        "--eval-data",
        &dev,
        "--eval-strategy",
        "steps",
        "--eval-steps",
        "2",
    ];
    let with = |more: &[&'static str]| [&flags[..], more].concat();
    let weights = |folder: &str| {
        fs_err::read(sandbox.path(&format!("{folder}/final/model.safetensors"))).unwrap()
    };

    train(&sandbox, "none", &flags).ok();
    let prompted = with(&["--prompts", "anchor=the cat: ", "--prompts", "negative=no "]);
    train(&sandbox, "run", &prompted).ok();
    assert!(weights("run") != weights("none"));
    // From the cache of token ids, whose keys tell prompts apart.
    train(&sandbox, "again", &prompted).ok();
    assert!(weights("run") == weights("again"));
    train(&sandbox, "none-again", &flags).ok();
    assert!(weights("none-again") == weights("none"));

    let config = fs_err::read_to_string(sandbox.path("run/config.toml")).unwrap();
    assert!(
        config.contains("[prompts]\nanchor = \"the cat: \"\nnegative = \"no \"\n"),
        "{config}"
    );
    train(&sandbox, "from-file", &["--config", "run/config.toml"]).ok();
    assert!(weights("from-file") == weights("run"));
    let json = with(&["--prompts", r#"{"anchor": "the cat: ", "negative": "no "}"#]);
    train(&sandbox, "from-json", &json).ok();
    assert!(weights("from-json") == weights("run"));

    let other = with(&["--prompts", "the cat: ", "--resume"]);
    train(&sandbox, "run", &other).failed(
        2,
        &[r#"prompts of training data was ["the cat: ", "", "no "] and is"#],
    );
    let same = [&prompted[..], &["--resume"]].concat();
    train(&sandbox, "run", &same).ok();
    assert!(weights("run") == weights("again"));
}

#[test]
fn prompts_for_nothing_are_refused_before_the_model_is_opened() {
    let sandbox = Sandbox::new();
    let triplets = data("triplets.jsonl").display().to_string();
    let named = format!("nli={triplets}");
    for (set, prompts, parts) in [
        (
            &triplets,
            &["anchr=x"][..],
            &["--prompts anchr", "`anchor`, `positive`, `negative`"][..],
        ),
        (
            &triplets,
            &["nli.anchor=x"],
            &["--prompts nli", "NAME=DATA"],
        ),
        (
            &named,
            &["nil.anchor=x"],
            &["--prompts nil", "there are `nli`"],
        ),
        (
            &named,
            &["nli.anchr=x"],
            &["--prompts nli.anchr", "no column `anchr`"],
        ),
        (&triplets, &["x: ", "y: "], &["stands alone"]),
        (
            &triplets,
            &["anchor=x", "anchor=y"],
            &["twice for `anchor`"],
        ),
    ] {
        let mut flags = vec!["--model", "no-model", "--train-data", set];
        for prompt in prompts {
            flags.extend(["--prompts", prompt]);
        }
        train(&sandbox, "run", &flags).failed(2, parts);
        assert!(!sandbox.path("run").exists());
    }
}

#[test]
fn data_sets_have_their_own_prompts() {
    let sandbox = Sandbox::new();
    let set = |name: &str, file: &str| format!("{name}={}", data(file).display());
    let (nli, pairs) = (set("nli", "triplets.jsonl"), set("pairs", "pairs.csv"));
    let flags = ["--train-data", &nli, "--train-data", &pairs];
    let weights = |folder: &str| {
        fs_err::read(sandbox.path(&format!("{folder}/final/model.safetensors"))).unwrap()
    };
    let run = |folder: &str, prompts: &[&str]| {
        let mut all = flags.to_vec();
        all.extend(prompts.iter().flat_map(|prompt| ["--prompts", prompt]));
        train(&sandbox, folder, &all).ok();
        weights(folder)
    };
    let by_column = run("a", &["nli.anchor=q: ", "pairs.anchor=q: "]);
    assert!(by_column == run("b", &["anchor=q: "]));
    assert!(by_column != run("c", &["nli.anchor=q: "]));
    assert!(
        run("d", &["nli=q: "])
            == run(
                "e",
                &["nli.anchor=q: ", "nli.positive=q: ", "nli.negative=q: "]
            )
    );
}

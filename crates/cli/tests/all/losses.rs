//! Losses with a guide, a teacher or weights of their own, and several data sets, by their flags.

use crate::sandbox::{Sandbox, data, model};

/// The arguments of a short run into `run`.
const SHORT: &str = "--max-steps 6 --logging-steps 2 --save-steps 3 --num-threads 1";

fn train(sandbox: &Sandbox, more: &[&str]) -> crate::sandbox::Ended {
    let line = format!("train --model MODEL --output-dir run {SHORT}");
    sandbox.sentune_with(&line, more)
}

#[test]
fn several_sets_have_a_loss_each_and_go_on_from_a_checkpoint() {
    let sandbox = Sandbox::new();
    let path = |name: &str| data(name).display().to_string();
    let nli = format!("nli={}", path("triplets.jsonl"));
    let classes = format!("classes={}", path("classes.csv"));
    let dev = format!("nli={}", path("triplets-dev.jsonl"));
    let flags = [
        "--train-data",
        &nli,
        "--train-data",
        &classes,
        "--loss",
        "nli=matryoshka-2d:dims=32+8/mnrl",
        "--loss",
        "classes=softmax",
        "--multi-dataset-batch-sampler",
        "round_robin",
        "--eval-data",
        &dev,
        "--eval-data",
        &classes,
        "--eval-strategy",
        "steps",
        "--eval-steps",
        "3",
    ];
    train(&sandbox, &flags).ok();
    let metrics = fs_err::read_to_string(sandbox.path("run/metrics.jsonl")).unwrap();
    for key in [
        "eval_nli_loss",
        "eval_nli_cosine_accuracy",
        "eval_classes_loss",
    ] {
        assert!(metrics.contains(key), "{key}: {metrics}");
    }
    let weights = |folder: &str| {
        ["model.safetensors", "loss.safetensors"]
            .map(|file| fs_err::read(sandbox.path(&format!("run/{folder}/{file}"))).unwrap())
    };
    let expected = weights("final");
    assert!(expected != weights("checkpoint-3"));
    let mut resumed = flags.to_vec();
    resumed.extend(["--resume-from-checkpoint", "run/checkpoint-3"]);
    train(&sandbox, &resumed).ok();
    assert!(weights("final") == expected);
    // The resolved configuration repeats the run.
    let config = fs_err::read_to_string(sandbox.path("run/config.toml")).unwrap();
    assert!(config.contains("\"nli=matryoshka-2d:"), "{config}");
    sandbox
        .sentune("train --config run/config.toml --output-dir again")
        .ok();
    let again = fs_err::read(sandbox.path("again/final/model.safetensors")).unwrap();
    assert!(again == expected[0]);
}

#[test]
fn a_guide_and_a_teacher_are_models() {
    let sandbox = Sandbox::new();
    let triplets = data("triplets.jsonl").display().to_string();
    let model = model().display().to_string();
    let gist = format!("cached-gist-embed:guide={model},mini_batch_size=4");
    train(&sandbox, &["--train-data", &triplets, "--loss", &gist]).ok();
    for (loss, shape) in [("mse", "[3, 32]"), ("distill-kl-div", "[2]")] {
        let flags = [
            "--train-data",
            &triplets,
            "--loss",
            loss,
            "--teacher",
            &model,
            "--overwrite-output-dir",
        ];
        train(&sandbox, &flags).ok();
        let kept = sandbox.path("run/teacher-triplets.safetensors");
        let bytes = fs_err::read(&kept).unwrap();
        let header = String::from_utf8_lossy(&bytes[8..300.min(bytes.len())]).into_owned();
        let wanted = format!("[270,{}", shape.trim_start_matches('[').replace(' ', ""));
        assert!(header.contains(&wanted), "{loss}: {header}");
    }
}

#[test]
fn what_does_not_fit_is_said_before_the_model_is_loaded() {
    let sandbox = Sandbox::new();
    let triplets = data("triplets.jsonl").display().to_string();
    let named = format!("a={triplets}");
    let refused = |flags: &[&str], parts: &[&str]| {
        let ended = train(&sandbox, flags);
        assert!(!ended.stderr.contains("INFO model"), "{ended:?}");
        ended.failed(2, parts);
    };
    let data = ["--train-data", triplets.as_str()];
    let with = |more: &[&'static str]| -> Vec<&str> {
        data.iter().copied().chain(more.iter().copied()).collect()
    };
    refused(&with(&["--loss", "gist-embed"]), &["guide=MODEL"]);
    refused(
        &with(&["--loss", "mnrl:scale=0"]),
        &["--loss", "scale is 0"],
    );
    refused(
        &with(&["--loss", "mnrl", "--loss", "triplet"]),
        &["--loss is given 2 times", "NAME=LOSS"],
    );
    refused(
        &["--train-data", &named, "--loss", "b=mnrl"],
        &["--train-data a=", "no --loss of its name", "for b"],
    );
}

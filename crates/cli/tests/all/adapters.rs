//! Adapters and frozen parts: flags of `train`, and commands that are given an adapter for a model.

use hub::standin::StandIn;
use serde_json::Value;

use crate::sandbox::{Ended, Sandbox, data, model, words};

const STEPS: &str = "--max-steps 3 --learning-rate 1e-2 --no-report -q";

/// A run of three steps into the folder `run`.
fn train(sandbox: &Sandbox, more: &[&str]) -> Ended {
    sandbox.train(&data("triplets.jsonl"), &[&words(STEPS)[..], more].concat())
}

#[track_caller]
fn assert_close(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < 2e-6, "{found} {expected}");
    }
}

#[test]
fn an_adapter_is_trained_used_trained_on_and_merged() {
    let sandbox = Sandbox::new();
    train(&sandbox, &["--lora-r", "4", "--lora-alpha", "8"]).ok();
    let own = sandbox.embedding("MODEL", &[]);
    let adapted = sandbox.embedding("run/final", &[]);
    assert!(own.iter().zip(&adapted).any(|(a, b)| (a - b).abs() > 1e-4));
    for folder in ["run/final", "run/checkpoint-3"] {
        let files = sandbox.files(folder);
        let has = |name: &str| files.iter().any(|file| file == name);
        assert!(has("adapter_config.json") && has("adapter_model.safetensors"));
        assert!(
            !has("config.json") && !has("model.safetensors"),
            "{files:?}"
        );
    }
    let card = fs_err::read_to_string(sandbox.path("run/final/README.md")).unwrap();
    let base = "- **Base model:** tiny-mpnet\n";
    let settings = "- **Adapter:** LoRA, rank 4, alpha 8, dropout 0, of `q` and `v`.";
    assert!(card.contains(base) && card.contains(settings), "{card}");
    let config = fs_err::read_to_string(sandbox.path("run/config.toml")).unwrap();
    assert!(config.contains("lora-r = 4\n") && config.contains("lora-alpha = 8.0\n"));

    // The saved configuration repeats the run.
    sandbox
        .sentune("train --config run/config.toml --output-dir again --no-report")
        .ok();
    let weights = |run: &str| {
        fs_err::read(sandbox.path(run).join("final/adapter_model.safetensors")).unwrap()
    };
    assert_eq!(weights("run"), weights("again"));

    sandbox
        .sentune("merge --model run/final --output whole")
        .ok();
    assert!(
        sandbox
            .files("whole")
            .contains(&"model.safetensors".to_owned())
    );
    assert_close(&sandbox.embedding("whole", &[]), &adapted);

    let ended = sandbox.sentune(
        "train --model run/final --train-data DATA/triplets.jsonl --output-dir on --max-steps=2 \
            --no-report",
    );
    assert!(ended.stderr.contains("adapter: rank 4, scale 2, of q, v"));
    ended.ok();
    let card = fs_err::read_to_string(sandbox.path("on/final/README.md")).unwrap();
    assert!(card.contains("- **Base model:** tiny-mpnet\n"), "{card}");
    assert!(weights("on") != weights("run"));
}

#[test]
fn the_end_of_a_run_is_merged_where_asked() {
    let sandbox = Sandbox::new();
    let flags = words("--lora-r 2 --lora-target-modules all-linear --lora-merge");
    train(&sandbox, &flags).ok();
    let files = sandbox.files("run/final");
    assert!(files.contains(&"model.safetensors".to_owned()), "{files:?}");
    assert!(
        !files.contains(&"adapter_config.json".to_owned()),
        "{files:?}"
    );
    let files = sandbox.files("run/checkpoint-3");
    assert!(files.contains(&"adapter_model.safetensors".to_owned()));
    let of_checkpoint = sandbox.embedding("run/checkpoint-3", &[]);
    assert_close(&sandbox.embedding("run/final", &[]), &of_checkpoint);
}

#[test]
fn wrong_settings_are_refused_by_their_flags() {
    let sandbox = Sandbox::new();
    for (flags, parts) in [
        (
            ["--lora-alpha=16"].as_slice(),
            ["--lora-alpha", "--lora-r 16"].as_slice(),
        ),
        (&["--lora-target-modules=q"], &["--lora-target-modules"]),
        (&["--lora-merge"], &["--lora-merge", "give --lora-r"]),
        (&["--lora-r=0"], &["--lora-r: found 0, allowed: 1 to 4096"]),
        (
            &["--lora-r=2", "--lora-target-modules=query"],
            &["--lora-target-modules: found \"query\"", "attention.attn.q"],
        ),
        (
            &["--freeze=embeddings,layer:0"],
            &["--freeze: found \"layer:0\"", "layers:0-1", "relative-bias"],
        ),
        (
            &["--lora-r=2", "--lora-merge", "--push-to-hub"],
            &["--lora-merge", "--hub-strategy end"],
        ),
    ] {
        train(&sandbox, flags).failed(2, parts);
    }
    train(&sandbox, &["--freeze=embeddings,layers:0"]).ok();
}

/// The base of an adapter on the hub is fetched by its name.
#[test]
fn an_adapter_and_its_base_come_from_the_hub() {
    let sandbox = Sandbox::new();
    train(&sandbox, &["--lora-r", "4"]).ok();
    let expected = sandbox.embedding("run/final", &[]);
    let standin = StandIn::start().unwrap();
    let fill = |id: &str, folder: &std::path::Path| {
        let mut repo = standin.model(id);
        for name in ["", "1_Pooling"] {
            for entry in fs_err::read_dir(folder.join(name)).unwrap() {
                let path = entry.unwrap().path();
                if path.is_file() {
                    let file = path.file_name().unwrap().to_str().unwrap();
                    let separator = if name.is_empty() { "" } else { "/" };
                    let content = fs_err::read(&path).unwrap();
                    repo = repo.small(&format!("{name}{separator}{file}"), content);
                }
            }
        }
    };
    let path = sandbox.path("run/final/adapter_config.json");
    let mut config: Value = serde_json::from_slice(&fs_err::read(&path).unwrap()).unwrap();
    config["base_model_name_or_path"] = "acme/tiny".into();
    fs_err::write(&path, config.to_string()).unwrap();
    fill("acme/adapter", &sandbox.path("run/final"));
    let variables = [
        ("HF_ENDPOINT", standin.endpoint()),
        ("HF_HUB_OFFLINE", "0".to_owned()),
    ];
    let variables = variables
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));
    let mut command = sandbox.line("encode --model acme/adapter --input text.txt --output -");
    command.envs(variables);
    let ended = Ended::from(command.output().unwrap());
    ended.failed(
        1,
        &["acme/adapter is an adapter, and its base", "acme/tiny"],
    );
    fill("acme/tiny", &model());
    let found = sandbox.embedding("acme/adapter", &variables);
    assert_close(&found, &expected);
}

//! Models from the hub (a cache that Python filled, certificates of a network's own, short names) and to it.

use std::{path::Path, process::Command};

use hub::standin::{Server, StandIn, StandInRepo};
use serde_json::Value;

use crate::sandbox::{Ended, Sandbox, data, model};

/// Embeddings of two texts by a model that is given by folder or name.
fn encode(sandbox: &Sandbox, model: &str, variables: &[(&str, &str)]) -> Ended {
    sandbox.write("texts.txt", "A harbour at night.\nTwo dogs.\n");
    let mut command = sandbox.line(&format!(
        "encode --model {model} --input texts.txt --output embeddings.npy"
    ));
    command.env_remove("HF_HUB_OFFLINE");
    for proxy in ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"] {
        command.env_remove(proxy).env_remove(proxy.to_lowercase());
    }
    command.envs(variables.iter().copied());
    Ended::from(command.output().unwrap())
}

/// Checks that the last embeddings are those of the tiny model's own folder.
#[track_caller]
fn assert_encoded(sandbox: &Sandbox) {
    let found = fs_err::read(sandbox.path("embeddings.npy")).unwrap();
    encode(sandbox, "MODEL", &[]).ok();
    let expected = fs_err::read(sandbox.path("embeddings.npy")).unwrap();
    assert_eq!(expected.len(), 128 + 2 * 32 * 4);
    assert_eq!(found, expected);
}

/// Each file below a folder, by its path with slashes.
fn files(folder: &Path, prefix: &str) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs_err::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let name = format!("{prefix}{name}");
        if path.is_dir() {
            found.extend(files(&path, &format!("{name}/")));
        } else {
            found.push((name, fs_err::read(&path).unwrap()));
        }
    }
    found
}

/// Puts the tiny model's files in, all of them served by the hub itself.
fn fill(mut repo: StandInRepo<'_>) {
    for (name, content) in files(&model(), "") {
        repo = repo.small(&name, content);
    }
}

/// A cache as Python leaves it: blobs, links to them in a snapshot, and the commit of main.
#[cfg(unix)]
fn python_cache(sandbox: &Sandbox) {
    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
    let repo = sandbox.path("hub/hub/models--acme--tiny");
    for folder in ["blobs", "refs"] {
        fs_err::create_dir_all(repo.join(folder)).unwrap();
    }
    fs_err::write(repo.join("refs/main"), COMMIT).unwrap();
    for (i, (name, content)) in files(&model(), "").into_iter().enumerate() {
        let blob = repo.join(format!("blobs/{i:040x}"));
        fs_err::write(&blob, content).unwrap();
        let link = repo.join("snapshots").join(COMMIT).join(name);
        fs_err::create_dir_all(link.parent().unwrap()).unwrap();
        fs_err::os::unix::fs::symlink(blob, link).unwrap();
    }
}

#[cfg(unix)]
#[test]
fn a_cache_that_python_filled_serves_with_one_warning_where_the_hub_is_out_of_reach() {
    for endpoint in ["http://127.0.0.1:9", "http://no-such-host.invalid"] {
        let sandbox = Sandbox::new();
        python_cache(&sandbox);
        let ended = encode(&sandbox, "acme/tiny", &[("HF_ENDPOINT", endpoint)]);
        let warnings: Vec<&str> = ended
            .stderr
            .lines()
            .filter(|line| line.to_lowercase().contains("warn"))
            .collect();
        assert!(
            matches!(warnings.as_slice(), [one] if one.contains("acme/tiny: using the cached commit 0123456789")),
            "{ended:?}"
        );
        ended.ok();
        assert_encoded(&sandbox);
    }
}

/// A data set as Python's `datasets` leaves it in its own cache.
#[test]
fn a_data_set_that_python_prepared_serves_where_the_hub_is_out_of_reach() {
    let sandbox = Sandbox::new();
    let folder = sandbox.path("hub/datasets/acme___tiny/default/0.0.0/0123");
    fs_err::create_dir_all(&folder).unwrap();
    let saved = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/tests/fixtures/saved");
    for name in ["tiny-train.arrow", "tiny-test.arrow"] {
        fs_err::copy(saved.join("data-00000-of-00001.arrow"), folder.join(name)).unwrap();
    }
    let info = r#"{"splits": {"train": {"name": "train", "num_examples": 4}, "test": {"shard_lengths": [4]}}}"#;
    fs_err::write(folder.join("dataset_info.json"), info).unwrap();
    let stat = |more: &[&str]| sandbox.sentune_with("data stat --json --columns a,b,label", more);
    for split in ["train", "test"] {
        let found = stat(&["--data", "acme/tiny", "--split", split]);
        let warning = "acme/tiny: using what Python's datasets prepared in";
        assert!(found.stderr.contains(warning), "{found:?}");
        assert!(found.ok().contains("\"rows\":4"));
    }
    stat(&["--data", "acme/tiny", "--split", "dev"]).failed(1, &["has no dev split"]);
    let parts = ["no subset other", "default"];
    stat(&["--data", "acme/tiny:other"]).failed(1, &parts);
    stat(&["--data", "acme/none"]).failed(1, &["HF_HUB_OFFLINE"]);
}

#[test]
fn an_authority_of_the_network_is_heeded_and_an_unknown_one_named() {
    let standin = StandIn::start_with_tls().unwrap();
    fill(standin.model("acme/tiny"));
    let sandbox = Sandbox::new();
    let authority = sandbox.write("authority.pem", standin.authority().unwrap());
    let endpoint = standin.endpoint();
    let endpoint = ("HF_ENDPOINT", endpoint.as_str());
    let ended = encode(&sandbox, "acme/tiny", &[endpoint]);
    ended.failed(1, &["acme/tiny", "UnknownIssuer", "set SSL_CERT_FILE"]);
    assert!(standin.requests().is_empty());
    let authority = ("SSL_CERT_FILE", authority.to_str().unwrap());
    encode(&sandbox, "acme/tiny", &[endpoint, authority]).ok();
    assert_encoded(&sandbox);
}

#[test]
fn a_short_name_is_one_of_sentence_transformers() {
    let standin = StandIn::start().unwrap();
    fill(standin.model("sentence-transformers/tiny"));
    let sandbox = Sandbox::new();
    let endpoint = standin.endpoint();
    let ended = encode(&sandbox, "tiny", &[("HF_ENDPOINT", endpoint.as_str())]);
    assert!(
        ended
            .stderr
            .contains("model `tiny` is sentence-transformers/tiny on the hub"),
        "{ended:?}"
    );
    ended.ok();
    assert_encoded(&sandbox);
}

/// A token that must be seen nowhere but in the endpoint's own requests.
const CANARY: &str = "hf_CANARY";

/// Runs a command that pushes, and checks that the token goes to the hub and into no output.
fn push(sandbox: &Sandbox, standin: &StandIn, line: &str) -> Ended {
    standin.require_token(CANARY);
    let mut command = sandbox.line(line);
    command
        .env_remove("HF_HUB_OFFLINE")
        .env("HF_ENDPOINT", standin.endpoint())
        .env("HF_TOKEN", CANARY);
    let ended = Ended::from(command.output().unwrap());
    assert!(!format!("{ended:?}").contains(CANARY), "{ended:?}");
    for request in standin.requests() {
        let expected = match request.server {
            Server::Hub => Some("Bearer hf_CANARY"),
            Server::Storage => None,
        };
        assert_eq!(
            request.header("authorization"),
            expected,
            "{}",
            request.path
        );
        assert!(!String::from_utf8_lossy(&request.body).contains(CANARY));
    }
    ended
}

/// The files that the hub has of a model, without a folder of checkpoints.
fn pushed(standin: &StandIn, id: &str, without: &str) -> Vec<(String, Vec<u8>)> {
    let files = standin.pushed(id).unwrap();
    let files = files
        .into_iter()
        .map(|(name, (content, _))| (name, content));
    files
        .filter(|(name, _)| without.is_empty() || !name.starts_with(without))
        .collect()
}

/// Each file below a folder of the sandbox, in order of their names.
fn sorted_files(sandbox: &Sandbox, folder: &str) -> Vec<(String, Vec<u8>)> {
    let mut files = files(&sandbox.path(folder), "");
    files.sort();
    files
}

#[test]
fn a_model_is_pushed_byte_for_byte_and_once() {
    let standin = StandIn::start().unwrap();
    let sandbox = Sandbox::new();
    sandbox.copy_of_model();
    let page = format!("{}/me/tiny\n", standin.endpoint());
    let pushing = "push model me/tiny --private";
    assert_eq!(push(&sandbox, &standin, pushing).ok(), page);
    assert_eq!(
        pushed(&standin, "me/tiny", ""),
        sorted_files(&sandbox, "model")
    );
    assert_eq!(standin.history("me/tiny"), Some((1, true)));
    // A name alone is of the token's account; nothing has changed.
    assert_eq!(push(&sandbox, &standin, "push model tiny").ok(), page);
    assert_eq!(standin.history("me/tiny"), Some((1, true)));

    push(&sandbox, &standin, "push nowhere me/tiny").failed(1, &["nowhere holds no model"]);
    sandbox
        .sentune("push model me/tiny")
        .failed(1, &["HF_HUB_OFFLINE: set, so nothing can be pushed"]);
}

#[test]
fn a_run_is_pushed_with_its_checkpoints_as_the_strategy_has_it() {
    for (strategy, folder) in [
        ("end", ""),
        ("every_save", ""),
        ("checkpoint", "last-checkpoint/"),
        ("all_checkpoints", "checkpoint-"),
    ] {
        let standin = StandIn::start().unwrap();
        let sandbox = Sandbox::new();
        let training = format!(
            "train --model MODEL --train-data DATA/pairs.csv --output-dir tiny-run --max-steps=2 \
                --save-steps=1 --save-strategy=steps --push-to-hub --hub-private-repo \
                --hub-strategy={strategy} --model-card-license=mit --model-card-language=en"
        );
        push(&sandbox, &standin, &training).ok();
        assert_eq!(
            pushed(&standin, "me/tiny-run", folder),
            sorted_files(&sandbox, "tiny-run/final"),
            "{strategy}"
        );
        let (n_commits, is_private) = standin.history("me/tiny-run").unwrap();
        assert!(is_private);
        assert_eq!(n_commits == 1, strategy == "end", "{strategy}: {n_commits}");
        let files = standin.pushed("me/tiny-run").unwrap();
        let states: Vec<&String> = files
            .keys()
            .filter(|name| name.ends_with("trainer_state.json"))
            .collect();
        assert_eq!(
            states.is_empty(),
            folder.is_empty(),
            "{strategy}: {states:?}"
        );
        for state in states {
            // Whole checkpoints, and under all_checkpoints by their own names.
            let there = state.strip_suffix("trainer_state.json").unwrap();
            let step: Value = serde_json::from_slice(&files[state].0).unwrap();
            let name = format!("checkpoint-{}/", step["global_step"]);
            if strategy == "all_checkpoints" {
                assert_eq!(there, name);
            }
            let found: Vec<(String, Vec<u8>)> = files
                .iter()
                .filter_map(|(name, (content, _))| {
                    Some((name.strip_prefix(there)?.to_owned(), content.clone()))
                })
                .collect();
            assert_eq!(found, sorted_files(&sandbox, &format!("tiny-run/{name}")));
        }
        // Nothing of the token, and nothing of what was on its way.
        for (name, content) in sorted_files(&sandbox, "tiny-run") {
            assert!(
                !String::from_utf8_lossy(&content).contains(CANARY),
                "{name}"
            );
            assert!(!name.starts_with(".push-"), "{name}");
        }
    }
}

#[test]
fn a_run_goes_on_from_the_checkpoint_that_the_hub_has() {
    let standin = StandIn::start().unwrap();
    let sandbox = Sandbox::new();
    let train = |folder: &str, more: &str| {
        let training = format!(
            "train --model MODEL --train-data DATA/pairs.csv --max-steps=6 --save-steps=3 \
                --no-report --output-dir {folder} {more}"
        );
        push(&sandbox, &standin, &training).ok();
    };
    train("there", "--push-to-hub --hub-strategy=checkpoint");
    // Another machine has the files of the repository alone.
    for (name, (content, _)) in standin.pushed("me/there").unwrap() {
        let path = sandbox.path("downloaded").join(name);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, content).unwrap();
    }
    train(
        "here",
        "--resume-from-checkpoint downloaded/last-checkpoint",
    );
    let weights = |run: &str| fs_err::read(sandbox.path(run).join("final/model.safetensors"));
    assert!(weights("here").unwrap() == weights("there").unwrap());
}

/// The names of the processes whose command line or variables hold a text.
#[cfg(target_os = "linux")]
fn processes_with(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs_err::read_dir("/proc").unwrap().flatten() {
        for list in ["cmdline", "environ"] {
            // Processes end meanwhile.
            let content = fs_err::read(entry.path().join(list)).unwrap_or_default();
            if String::from_utf8_lossy(&content).contains(text) {
                found.push(format!("{}/{list}", entry.path().display()));
            }
        }
    }
    found
}

#[cfg(target_os = "linux")]
#[test]
fn the_token_is_in_no_log_no_file_and_no_list_of_processes() {
    const SECRET: &str = "hf_SECRET_OF_A_FILE";
    let standin = StandIn::start().unwrap();
    standin.require_token(SECRET);
    let elsewhere = tempfile::tempdir().unwrap();
    let token = elsewhere.path().join("token");
    fs_err::write(&token, SECRET).unwrap();
    let sandbox = Sandbox::new();
    let mut command = sandbox.line(
        "train --model MODEL --train-data DATA/pairs.csv --output-dir=run \
            --max-steps=40 --save-steps=10 --push-to-hub --hub-model-id=me/run \
            --hub-strategy=all_checkpoints",
    );
    let [stdout, stderr] = ["stdout", "stderr"].map(|name| sandbox.path(name));
    command
        .env_remove("HF_HUB_OFFLINE")
        .env_remove("HF_TOKEN")
        .env("HF_TOKEN_PATH", &token)
        .env("HF_ENDPOINT", standin.endpoint())
        .env("RUST_LOG", "trace")
        .stdout(std::fs::File::create(&stdout).unwrap())
        .stderr(std::fs::File::create(&stderr).unwrap());
    let mut running = command.spawn().unwrap();
    let mut n_looks = 0;
    let status = loop {
        assert_eq!(processes_with(SECRET), Vec::<String>::new());
        n_looks += 1;
        if let Some(status) = running.try_wait().unwrap() {
            break status;
        }
    };
    assert!(status.success() && n_looks > 3, "{status}, {n_looks}");
    // The looks could have found it.
    let mut sleeping = Command::new("sleep")
        .arg("5")
        .env("X", CANARY)
        .spawn()
        .unwrap();
    let found = processes_with(CANARY);
    sleeping.kill().unwrap();
    sleeping.wait().unwrap();
    assert!(
        found.contains(&format!("/proc/{}/environ", sleeping.id())),
        "{found:?}"
    );
    let log = fs_err::read_to_string(&stderr).unwrap();
    assert!(log.contains("TRACE"), "{log}");
    assert!(
        standin
            .pushed("me/run")
            .unwrap()
            .contains_key("model.safetensors")
    );
    // Log, run, caches.
    for (name, content) in files(&sandbox.path("."), "") {
        assert!(
            !String::from_utf8_lossy(&content).contains(SECRET),
            "{name}"
        );
    }
}

#[test]
fn a_run_that_can_not_be_pushed_ends_before_its_first_step() {
    let sandbox = Sandbox::new();
    let pairs = data("pairs.csv");
    let ended = sandbox.train(&pairs, &["--push-to-hub", "--max-steps=1"]);
    ended.failed(1, &["--push-to-hub", "HF_HUB_OFFLINE"]);
    assert!(!sandbox.path("run").exists());
}

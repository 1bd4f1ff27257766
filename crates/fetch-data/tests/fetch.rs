//! The program itself against the hub's stand-in: its requests, files and messages.

// data/ holds links, which the program makes on Unix only.
#![cfg(unix)]

use std::{
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use fs_err as fs;
use hub::standin::{Fault, Server, StandIn};
use tempfile::TempDir;

/// A token that must be seen nowhere but in the endpoint's own requests.
const CANARY: &str = "hf_CANARY";

/// Length of the made-up weights in bytes, and how many of them come before a connection breaks off.
const WEIGHTS: usize = 300_000;
const BROKEN_OFF: usize = 120_000;

/// A hub with the article's model and data set and one more of each, an empty cache, and an empty
/// checkout that the program runs in.
struct World {
    standin: StandIn,
    home: TempDir,
    checkout: TempDir,
}

impl World {
    fn new() -> io::Result<Self> {
        let standin = StandIn::start()?;
        for model in ["microsoft/mpnet-base", "org/base"] {
            standin
                .model(model)
                .small("config.json", format!("{{\"name\":\"{model}\"}}"))
                .small("vocab.txt", "a\nb\n")
                .large("model.safetensors", weights())
                .large("pytorch_model.bin", b"pickle");
        }
        standin
            .dataset("sentence-transformers/all-nli")
            .large("pair/train-00000-of-00001.parquet", b"pair")
            .large("triplet/train-00000-of-00001.parquet", b"train")
            .large("triplet/dev-00000-of-00001.parquet", b"dev")
            .large("triplet/test-00000-of-00001.parquet", b"test");
        standin
            .dataset("org/pairs")
            .large("a/train-00000-of-00002.parquet", b"a 0")
            .large("a/train-00001-of-00002.parquet", b"a 1")
            .large("a/extra-00000-of-00001.parquet", b"extra")
            .large("b/train-00000-of-00001.parquet", b"b");
        Ok(Self {
            standin,
            home: TempDir::new()?,
            checkout: TempDir::new()?,
        })
    }

    /// The program with nothing of this process's environment, which may hold a proxy or a token.
    fn program(&self, args: &[&str]) -> Command {
        let mut program = Command::new(env!("CARGO_BIN_EXE_fetch-data"));
        program
            .args(args)
            .env_clear()
            .env("HF_ENDPOINT", self.standin.endpoint())
            .env("HF_HOME", self.home.path())
            .current_dir(self.checkout.path())
            .stdin(Stdio::null());
        program
    }

    /// Runs the program, which is to succeed, and returns what it said.
    #[track_caller]
    fn fetch(&self, args: &[&str]) -> io::Result<String> {
        Ok(success(&self.program(args).output()?))
    }

    fn data(&self, name: &str) -> PathBuf {
        self.checkout.path().join("data").join(name)
    }
}

fn weights() -> Vec<u8> {
    (0..WEIGHTS).map(|i| (i % 251) as u8).collect()
}

fn printed(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[track_caller]
fn success(output: &Output) -> String {
    let printed = printed(output);
    assert!(output.status.success(), "{}: {printed}", output.status);
    printed
}

/// Checks that a run failed with this code and a message that holds all these parts.
#[track_caller]
fn assert_fails(output: &Output, code: i32, parts: &[&str]) {
    let printed = printed(output);
    assert_eq!(output.status.code(), Some(code), "{printed}");
    for part in parts {
        assert!(printed.contains(part), "no {part:?} in: {printed}");
    }
}

/// An entry below a folder.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Found {
    path: PathBuf,
    inode: u64,
    changed: (i64, i64),
    /// Content; of a link, its target.
    content: Vec<u8>,
}

/// Everything below a folder, links not followed.
fn tree(folder: &Path) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let facts = fs::symlink_metadata(&path)?;
            let content = if facts.is_dir() {
                folders.push(path.clone());
                Vec::new()
            } else if facts.is_symlink() {
                fs::read_link(&path)?.into_os_string().into_encoded_bytes()
            } else {
                fs::read(&path)?
            };
            found.push(Found {
                path,
                inode: facts.ino(),
                changed: (facts.mtime(), facts.mtime_nsec()),
                content,
            });
        }
    }
    found.sort();
    Ok(found)
}

#[test]
fn the_default_is_the_articles_and_a_second_run_changes_nothing() -> io::Result<()> {
    let world = World::new()?;
    let printed = world.fetch(&[])?;
    for split in ["train", "dev", "test"] {
        let place = format!("all-nli/triplet/{split}.parquet");
        assert!(world.data(&place).is_symlink());
        assert_eq!(fs::read_to_string(world.data(&place))?, split);
        assert!(printed.contains(&format!("data/{place} -> ")), "{printed}");
    }
    assert!(!world.data("all-nli/pair").exists());
    let model = world.data("models/microsoft/mpnet-base");
    assert!(model.is_symlink());
    assert_eq!(fs::read(model.join("model.safetensors"))?, weights());
    assert_eq!(fs::read_to_string(model.join("vocab.txt"))?, "a\nb\n");
    assert!(!model.join("pytorch_model.bin").exists());

    let before = (tree(world.checkout.path())?, tree(world.home.path())?);
    world.standin.clear_requests();
    world.fetch(&[])?;
    let requests = world.standin.requests();
    let methods: Vec<&str> = requests
        .iter()
        .map(|request| request.method.as_str())
        .collect();
    assert_eq!(methods, ["HEAD", "HEAD"]);
    let after = (tree(world.checkout.path())?, tree(world.home.path())?);
    assert_eq!(before, after);
    Ok(())
}

#[test]
fn a_revision_that_moved_on_is_fetched_and_linked_anew() -> io::Result<()> {
    let world = World::new()?;
    world.fetch(&["--dataset", "org/pairs:b"])?;
    world
        .standin
        .dataset("org/pairs")
        .large("b/train-00000-of-00001.parquet", b"b, corrected")
        .commit("2222222222222222222222222222222222222222");
    world.fetch(&["--dataset", "org/pairs:b"])?;
    let train = fs::read_to_string(world.data("org/pairs/b/train.parquet"))?;
    assert_eq!(train, "b, corrected");
    Ok(())
}

#[test]
fn other_names_subsets_revisions_and_folders() -> io::Result<()> {
    let world = World::new()?;
    let printed = world.fetch(&[
        "--dataset=org/pairs:a",
        "--dataset=org/pairs@refs/pr/1:b",
        "--model=org/base@refs/pr/1",
        "--model=org/base",
    ])?;
    let config = "{\"name\":\"org/base\"}";
    for (place, content) in [
        ("org/pairs/a/train-00000-of-00002.parquet", "a 0"),
        ("org/pairs/a/train-00001-of-00002.parquet", "a 1"),
        ("org/pairs@refs-pr-1/b/train.parquet", "b"),
        ("models/org/base@refs-pr-1/config.json", config),
        ("models/org/base/config.json", config),
    ] {
        assert_eq!(fs::read_to_string(world.data(place))?, content, "{place}");
    }
    let left_out = "extra is none of train, dev and test, left out";
    assert!(printed.contains(left_out), "{printed}");
    assert!(!world.data("all-nli").exists());
    assert!(!world.data("models/microsoft").exists());

    world.fetch(&["--model=org/base", "--output-dir=elsewhere"])?;
    let elsewhere = world.checkout.path().join("elsewhere/models/org/base");
    assert_eq!(fs::read(elsewhere.join("model.safetensors"))?, weights());
    Ok(())
}

#[test]
fn the_token_goes_to_the_endpoint_and_nowhere_else() -> io::Result<()> {
    let world = World::new()?;
    world.standin.require_token(CANARY);
    // A broken connection, so that a warning is printed too.
    let fault = Fault::BreakAfter(BROKEN_OFF);
    let file = "model.safetensors";
    world.standin.fail(Server::Storage, file, 1, fault);
    let output = world.program(&[]).env("HF_TOKEN", CANARY).output()?;
    let said = success(&output);
    assert!(said.contains("trying again in 0.5 s"), "{said}");
    assert!(!said.contains(CANARY), "{said}");
    for request in world.standin.requests() {
        let expected = match request.server {
            Server::Hub => Some(format!("Bearer {CANARY}")),
            Server::Storage => None,
        };
        let sent = request.header("authorization");
        assert_eq!(sent, expected.as_deref(), "{request:?}");
    }
    for folder in [world.home.path(), world.checkout.path()] {
        for Found { path, content, .. } in tree(folder)? {
            let has_it = String::from_utf8_lossy(&content).contains(CANARY);
            assert!(!has_it, "{} holds the token", path.display());
        }
    }

    let wrong = "hf_ANOTHER_CANARY";
    let mut program = world.program(&["--model", "org/base"]);
    let output = program.env("HF_TOKEN", wrong).output()?;
    assert_fails(&output, 1, &["401", "the token in HF_TOKEN is valid"]);
    assert!(!printed(&output).contains(wrong));
    Ok(())
}

#[test]
fn a_refusal_names_the_next_action() -> io::Result<()> {
    let world = World::new()?;
    for (arg, code, parts) in [
        (
            "--model=org/none",
            1,
            ["org/none: repository not found", "check the spelling"],
        ),
        (
            "--dataset=org/none:a",
            1,
            ["org/none: repository not found", "check the spelling"],
        ),
        (
            "--model=org/base@gone",
            1,
            ["revision gone not found", "check the part after the `@`"],
        ),
        (
            "--dataset=org/pairs",
            1,
            ["as in `org/pairs:a`", "there are a, b"],
        ),
        (
            "--dataset=org/pairs:c",
            1,
            ["no subset c", "there are a, b"],
        ),
        (
            "--model=base",
            1,
            [
                "sentence-transformers/base: repository not found",
                "check the spelling",
            ],
        ),
        ("--model=a b", 2, ["--model <NAME>", "a b"]),
        ("--dataset=../x", 2, ["--dataset <NAME>", "\"../x\""]),
    ] {
        assert_fails(&world.program(&[arg]).output()?, code, &parts);
    }
    assert!(!world.data("").exists(), "a failure left something in data");

    let offline = world.program(&[]).env("HF_HUB_OFFLINE", "1").output()?;
    let parts = ["error: sentence-transformers/all-nli", "HF_HUB_OFFLINE"];
    assert_fails(&offline, 1, &parts);

    world.standin.require_token(CANARY);
    let parts = ["401", "set HF_TOKEN to a token that may read it"];
    let output = world.program(&["--model", "org/base"]).output()?;
    assert_fails(&output, 1, &parts);
    Ok(())
}

#[test]
fn what_is_no_link_is_never_replaced() -> io::Result<()> {
    let world = World::new()?;
    let place = world.data("models/org/base");
    fs::create_dir_all(&place)?;
    fs::write(place.join("mine"), "mine")?;
    let parts = ["data/models/org/base is in the way", "move it"];
    let output = world.program(&["--model", "org/base"]).output()?;
    assert_fails(&output, 1, &parts);
    assert_eq!(fs::read_to_string(place.join("mine"))?, "mine");
    Ok(())
}

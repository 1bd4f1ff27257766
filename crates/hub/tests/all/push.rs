//! Models on their way to the hub: whole or not there, whatever goes wrong.

// docs/reliability.md quotes the counts that are printed here.
#![allow(clippy::print_stdout)]

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use hub::{
    config::{HubConfig, Token},
    error::HubError,
    fetch::fetch_model,
    push::{PushFile, PushOptions, Pushed, destination, push_model},
    standin::{Fault, Server, StandIn},
    watcher::Watcher,
};
use tempfile::TempDir;

use crate::support::{CANARY, repo, status, weights};

/// A hub, and a folder with a model.
struct World {
    standin: StandIn,
    config: HubConfig,
    folder: TempDir,
    /// Holds the cache, which a push does not touch.
    _cache: TempDir,
}

/// The files of the model by name.
fn model(version: &str) -> BTreeMap<String, Vec<u8>> {
    let mut weights = weights();
    weights[0] = version.len() as u8;
    [
        ("README.md", format!("# Card {version}\n").into_bytes()),
        (
            "config.json",
            format!("{{\"version\":\"{version}\"}}").into_bytes(),
        ),
        ("1_Pooling/config.json", b"{}".to_vec()),
        (
            "2_Dense/model.safetensors",
            [&b"dense "[..], version.as_bytes()].concat(),
        ),
        ("empty.safetensors", Vec::new()),
        ("model.safetensors", weights),
        ("tokenizer.json", vec![b'x'; 3000]),
    ]
    .map(|(name, content)| (name.to_owned(), content))
    .into()
}

impl World {
    fn new() -> Self {
        let standin = StandIn::start().expect("a port on loopback");
        standin.require_token(CANARY);
        let cache = TempDir::new().expect("a folder");
        let config = HubConfig {
            token: Token::parse("test", CANARY).expect("a valid token"),
            retries: 3,
            first_pause: Duration::from_millis(1),
            longest_pause: Duration::from_secs(2),
            silence: Duration::from_millis(600),
            ..HubConfig::new(standin.endpoint(), cache.path())
        };
        let world = Self {
            standin,
            config,
            folder: TempDir::new().expect("a folder"),
            _cache: cache,
        };
        world.write(&model("one"));
        world
    }

    fn write(&self, files: &BTreeMap<String, Vec<u8>>) {
        for (name, content) in files {
            let path = self.folder.path().join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, content).expect("written");
        }
    }

    fn push_watched(&self, name: &str, watcher: &mut dyn Watcher) -> Result<Pushed, HubError> {
        let files = PushFile::below(self.folder.path())?;
        let options = PushOptions {
            is_private: Some(true),
            summary: "End of training".into(),
        };
        let id = destination(&self.config, name, watcher)?;
        push_model(&self.config, &id, &files, &options, watcher)
    }

    fn push(&self, name: &str) -> Result<Pushed, HubError> {
        self.push_watched(name, &mut ())
    }

    /// The files that the hub has of the model, byte for byte.
    fn pushed(&self) -> BTreeMap<String, Vec<u8>> {
        let files = self.standin.pushed("me/model").unwrap_or_default();
        files
            .into_iter()
            .map(|(name, (content, _))| (name, content))
            .collect()
    }

    /// Checks that the token was sent to the hub alone, and only as its header, and that commits name their parent, without
    /// which a commit of somebody else would be built over.
    #[track_caller]
    fn assert_clean(&self) {
        for request in self.standin.requests() {
            let token = request.header("authorization");
            match request.server {
                Server::Hub => assert_eq!(token, Some("Bearer hf_CANARY"), "{}", request.path),
                Server::Storage => assert_eq!(token, None, "{}", request.path),
            }
            let body = String::from_utf8_lossy(&request.body);
            assert!(!body.contains(CANARY) && !request.path.contains(CANARY));
            // The body that a fault has cut may lack it.
            if request.path.contains("/commit/") && body.ends_with('\n') {
                assert!(body.contains("\"parentCommit\":\""), "{}", request.path);
            }
        }
    }

    fn requests(&self, part: &str) -> usize {
        let requests = self.standin.requests();
        let line = |method: &str, path: &str| format!("{method} {path}").contains(part);
        requests
            .iter()
            .filter(|request| line(&request.method, &request.path))
            .count()
    }
}

/// The error's text, checked for secrets.
#[track_caller]
fn message(pushed: Result<Pushed, HubError>) -> String {
    let error = pushed.expect_err("this must fail");
    let text = format!("{error} {error:?}");
    assert!(
        !text.contains(CANARY) && !text.contains("signature=secret"),
        "{text}"
    );
    error.to_string()
}

#[test]
fn a_model_arrives_byte_for_byte_in_one_commit() {
    let world = World::new();
    fs::write(world.folder.path().join("notes.ignored"), "x").expect("written");
    fs::write(world.folder.path().join(".hidden"), "x").expect("written");
    let pushed = world.push("me/model").expect("pushed");
    assert_eq!(pushed.n_files, 7);
    assert_eq!(pushed.url, format!("{}/me/model", world.standin.endpoint()));
    assert_eq!(world.pushed(), model("one"));
    assert_eq!(world.standin.history("me/model"), Some((1, true)));
    let files = world.standin.pushed("me/model").expect("there");
    let is_large = |name: &str| files[name].1;
    assert!(is_large("model.safetensors") && is_large("2_Dense/model.safetensors"));
    assert!(!is_large("empty.safetensors") && !is_large("config.json"));
    // 300,000 bytes in parts of 100,000, and one file whole.
    assert_eq!(world.requests("PUT "), 4);
    world.assert_clean();

    // It can be had again.
    let fetched = fetch_model(&world.config, &repo("me/model"), &mut ()).expect("fetched");
    let found = fs::read(fetched.join("model.safetensors")).expect("there");
    assert!(found == model("one")["model.safetensors"]);
}

#[test]
fn a_second_push_sends_only_what_has_changed() {
    let world = World::new();
    let first = world.push("me/model").expect("pushed");
    world.standin.clear_requests();
    let again = world.push("me/model").expect("nothing to do");
    assert_eq!((again.n_files, &again.commit), (0, &first.commit));
    assert_eq!(world.requests("PUT ") + world.requests("/commit/"), 0);

    fs::write(world.folder.path().join("README.md"), "# New card\n").expect("written");
    let third = world.push("me/model").expect("pushed");
    assert_eq!(third.n_files, 1);
    assert_eq!(world.requests("PUT "), 0);
    assert_eq!(world.pushed()["README.md"], b"# New card\n");
    assert_eq!(
        world.pushed()["model.safetensors"],
        model("one")["model.safetensors"]
    );
    // The same weights under another name are in the storage already.
    let path = world.folder.path();
    fs::copy(
        path.join("model.safetensors"),
        path.join("copy.safetensors"),
    )
    .expect("copied");
    assert_eq!(world.push("me/model").expect("pushed").n_files, 1);
    assert_eq!(world.requests("PUT "), 0);
    assert_eq!(world.standin.history("me/model"), Some((3, true)));
}

#[test]
fn a_name_alone_belongs_to_the_tokens_account() {
    let world = World::new();
    let pushed = world.push("model").expect("pushed");
    assert_eq!(pushed.repo.id(), "me/model");
    assert_eq!(world.pushed(), model("one"));
}

#[test]
fn nothing_is_asked_without_a_token_or_offline_or_with_a_bad_name() {
    let mut world = World::new();
    for (name, words) in [
        ("a/b/c", "more than one slash"),
        ("..", "`..`"),
        ("a b", "ASCII"),
    ] {
        assert!(message(world.push(name)).contains(words), "{name}");
    }
    world.config.offline = true;
    assert!(message(world.push("me/model")).starts_with("HF_HUB_OFFLINE: "));
    world.config.offline = false;
    world.config.token = None;
    assert!(message(world.push("me/model")).starts_with("HF_TOKEN: not set"));
    assert!(world.standin.requests().is_empty());
}

#[test]
fn a_token_that_is_not_valid_is_found_out_before_there_is_anything_to_push() {
    let mut world = World::new();
    world.config.token = Token::parse("test", "hf_other").expect("a valid token");
    let error = message(world.push("me/model"));
    assert!(error.contains("token in HF_TOKEN is valid"), "{error}");
    assert_eq!(world.standin.requests().len(), 1);
}

#[test]
fn a_token_that_may_not_write_is_said_so() {
    for (code, words) in [(401, "may write to it"), (403, "may write this repository")] {
        let world = World::new();
        let fault = Fault::Status(code, Vec::new());
        world.standin.fail(Server::Hub, "/preupload/", 9, fault);
        let error = message(world.push("me/model"));
        assert!(error.contains(words), "{error}");
        assert_eq!(world.requests("/preupload/"), 1);
    }
}

#[test]
fn an_interrupted_push_goes_on_with_the_file_at_which_it_stopped() {
    /// Stops in the middle of the weights.
    struct Stop(bool);
    impl Watcher for Stop {
        fn progress(&mut self, file: &str, done_bytes: u64, total_bytes: u64) {
            self.0 |= file == "model.safetensors" && done_bytes > total_bytes / 2;
        }
        fn interrupted(&mut self) -> bool {
            self.0
        }
    }
    let world = World::new();
    let result = world.push_watched("me/model", &mut Stop(false));
    assert!(matches!(result, Err(HubError::Interrupted)), "{result:?}");
    assert_eq!(world.pushed(), BTreeMap::new());
    // The file before it is in the storage.
    let requests = world.standin.requests();
    let first = requests.iter().find(|request| request.method == "PUT");
    let first = first.expect("a file before it").path.clone();
    world.standin.clear_requests();
    world.push("me/model").expect("pushed");
    assert_eq!(world.requests(&first), 0);
    assert!(world.requests("PUT ") >= 3);
    assert_eq!(world.pushed(), model("one"));
}

/// A conflict that passes.
fn conflict() -> Fault {
    let words = "Cannot create repo: another conflicting operation is in progress";
    status(409, &[("x-error-message", words)])
}

#[test]
fn a_fault_that_passes_is_overcome() {
    use Server::{Hub, Storage};
    for (server, part, times, fault) in [
        (Hub, "/api/repos/create", 2, conflict()),
        (Hub, "/api/repos/create", 2, Fault::LoseAnswer),
        (Hub, "/preupload/", 2, status(503, &[])),
        (Hub, "/objects/batch", 2, Fault::HangUp),
        (Storage, "/2?", 2, status(500, &[])),
        (Storage, "/2?", 2, Fault::CutRequest(50_000)),
        (Storage, "/2?", 2, Fault::LoseAnswer),
        (Storage, "/2?", 1, Fault::Without("etag")),
        // A link that grew old.
        (Storage, "/3?", 1, status(403, &[])),
        (Hub, "/api/complete/", 1, status(500, &[])),
        (Hub, "/api/complete/", 1, Fault::LoseAnswer),
        (Hub, "/objects/verify", 1, status(502, &[])),
        (Hub, "/commit/", 2, status(409, &[])),
        (Hub, "/commit/", 2, status(503, &[])),
        (Hub, "/commit/", 2, Fault::MoveHead),
        (Hub, "/commit/", 1, Fault::LoseAnswer),
        (Hub, "/commit/", 1, Fault::Body(b"<html>".to_vec())),
        (Hub, "/commit/", 1, Fault::BreakAfter(3)),
    ] {
        let world = World::new();
        let name = format!("{part} {fault:?}");
        world.standin.fail(server, part, times, fault);
        let pushed = world.push("me/model");
        assert!(pushed.is_ok(), "{name}: {pushed:?}");
        assert_eq!(world.pushed(), model("one"), "{name}");
        let (n_commits, _) = world.standin.history("me/model").expect("there");
        assert_eq!(n_commits, 1, "{name}: committed twice");
        world.assert_clean();
    }
}

/// A number below `n` (SplitMix64).
fn draw(state: &mut u64, n: usize) -> usize {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) % n as u64) as usize
}

#[test]
fn two_hundred_faults_leave_a_model_whole_or_not_there() {
    const N_FAULTS: usize = 200;
    let faults = [
        conflict(),
        status(409, &[]),
        status(412, &[]),
        status(403, &[]),
        status(429, &[("retry-after", "0")]),
        status(500, &[]),
        status(503, &[]),
        Fault::HangUp,
        Fault::LoseAnswer,
        Fault::CutRequest(1),
        Fault::CutRequest(60_000),
        Fault::MoveHead,
        Fault::Without("etag"),
        Fault::BreakAfter(5),
        Fault::StallAfter(5),
        Fault::WrongLength(3),
        Fault::Body(b"<html>".to_vec()),
        Fault::Body(b"{}".to_vec()),
    ];
    let places = [
        (Server::Hub, "/api/repos/create"),
        (Server::Hub, "/revision/main"),
        (Server::Hub, "/preupload/"),
        (Server::Hub, "/objects/batch"),
        (Server::Hub, "/objects/verify"),
        (Server::Hub, "/api/complete/"),
        (Server::Hub, "/commit/"),
        (Server::Storage, "/upload/"),
        (Server::Storage, "/2?"),
    ];
    let start = Instant::now();
    let mut state = 17;
    let (mut n_pushed, mut n_refused) = (0, 0);
    for i in 0..N_FAULTS {
        let world = World::new();
        // Half of them over a model that is there.
        let before = if i % 2 == 0 {
            BTreeMap::new()
        } else {
            world.push("me/model").expect("pushed");
            world.write(&model("second"));
            model("one")
        };
        let after = model(if i % 2 == 0 { "one" } else { "second" });
        world.standin.clear_requests();
        let (server, part) = places[draw(&mut state, places.len())];
        let fault = faults[draw(&mut state, faults.len())].clone();
        let times = [1, 1, 2, 99][draw(&mut state, 4)];
        let name = format!("{i}: {times} times {fault:?} at {part}");
        world.standin.fail(server, part, times, fault);
        match world.push("me/model") {
            Ok(_) => {
                assert_eq!(world.pushed(), after, "{name}");
                n_pushed += 1;
            }
            Err(error) => {
                message(Err(error));
                let found = world.pushed();
                assert!(
                    found == before || found == after,
                    "{name}: half of it is there"
                );
                n_refused += 1;
            }
        }
        world.assert_clean();
        world.standin.heal();
        world.push("me/model").expect("goes on");
        assert_eq!(world.pushed(), after, "{name}");
        world.assert_clean();
    }
    println!(
        "{N_FAULTS} faults of a push: {n_pushed} overcome, {n_refused} refused with nothing or all of it there, {:.0} s",
        start.elapsed().as_secs_f64()
    );
    assert!(n_pushed > 100 && n_refused > 20, "{n_pushed}, {n_refused}");
}

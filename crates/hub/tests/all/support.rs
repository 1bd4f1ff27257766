//! The stand-in with its files, and checks that several tests make.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use hub::{
    config::{HubConfig, Token},
    dataset_files::DatasetFiles,
    error::HubError,
    fetch::{fetch_dataset, fetch_model},
    name::{DatasetId, RepoId},
    standin::{Fault, Recorded, Server, StandIn},
    watcher::Watcher,
};
use serde_json::json;
use tempfile::TempDir;

/// A token that must never be seen anywhere but in the endpoint's own requests.
pub(crate) const CANARY: &str = "hf_CANARY";

/// The commit that tests move `main` on to.
pub(crate) const SECOND_COMMIT: &str = "2222222222222222222222222222222222222222";

/// Part of every request for the weights.
pub(crate) const WEIGHTS: &str = "/model.safetensors";

/// A stand-in with one model and one data set, and an empty cache.
pub(crate) struct World {
    pub(crate) standin: StandIn,
    pub(crate) config: HubConfig,
    /// Holds the cache's folder and nothing else.
    outer: TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        let standin = StandIn::start().expect("a port on loopback");
        standin
            .model("org/base")
            .small("config.json", "{}")
            .small("tokenizer.json", "{\"tokens\":1}")
            .small("vocab.txt", "a\nb\n")
            .small(".gitattributes", "*.safetensors lfs")
            .large("pytorch_model.bin", b"pickle")
            .large("model.safetensors", weights());
        standin
            .dataset("org/nli")
            .small("README.md", "# nli")
            .large("pair/train-00000-of-00001.parquet", b"pair")
            .large("triplet/train-00000-of-00002.parquet", b"train 0")
            .large("triplet/train-00001-of-00002.parquet", b"train 1")
            .large("triplet/dev-00000-of-00001.parquet", b"dev")
            .large("triplet/test-00000-of-00001.parquet", b"test");
        let outer = TempDir::new().expect("a temporary folder");
        let config = HubConfig {
            token: Token::parse("test", CANARY).expect("a valid token"),
            retries: 3,
            first_pause: Duration::from_millis(1),
            longest_pause: Duration::from_secs(2),
            silence: Duration::from_millis(600),
            ..HubConfig::new(standin.endpoint(), outer.path().join("cache"))
        };
        Self {
            standin,
            config,
            outer,
        }
    }

    pub(crate) fn model(&self) -> Result<PathBuf, HubError> {
        fetch_model(&self.config, &repo("org/base"), &mut ())
    }

    pub(crate) fn model_watched(&self, watcher: &mut dyn Watcher) -> Result<PathBuf, HubError> {
        fetch_model(&self.config, &repo("org/base"), watcher)
    }

    pub(crate) fn dataset(&self, name: &str) -> Result<DatasetFiles, HubError> {
        let name = DatasetId::parse(name).expect("a valid name");
        fetch_dataset(&self.config, &name, &mut ())
    }

    /// The requests whose path holds `part`.
    pub(crate) fn requests_for(&self, part: &str) -> Vec<Recorded> {
        self.standin
            .requests()
            .into_iter()
            .filter(|request| request.path.contains(part))
            .collect()
    }

    pub(crate) fn cache(&self) -> &Path {
        &self.config.cache_dir
    }

    /// The partial file of a download that was given up, if there is one.
    pub(crate) fn partial_file(&self) -> Option<PathBuf> {
        let is_partial = |file: &String| file.ends_with(".incomplete");
        let found = self.cached_files().into_iter().find(is_partial);
        found.map(|file| self.cache().join(file))
    }

    /// Checks that the folder has the weights, and that nothing else is left of them.
    #[track_caller]
    pub(crate) fn assert_weights(&self, folder: &Path) {
        let found = std::fs::read(folder.join("model.safetensors")).expect("the weights");
        assert!(found == weights(), "other weights than the hub's");
        assert_eq!(self.partial_file(), None);
        self.assert_clean();
    }

    /// The entries beside the cache's folder.
    pub(crate) fn outside_the_cache(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.outer.path()).expect("a folder");
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        let names = names.map(|name| name.to_string_lossy().into_owned());
        names.filter(|name| name != "cache").collect()
    }

    /// Every file below the cache, as paths relative to it, without the lock files.
    pub(crate) fn cached_files(&self) -> Vec<String> {
        let mut files = Vec::new();
        if !self.cache().exists() {
            return files;
        }
        walk(self.cache(), self.cache(), &mut files);
        files.retain(|file| !file.starts_with(".locks/"));
        files.sort();
        files
    }

    /// Checks that the token was sent to the hub alone, and is in no file of the cache.
    #[track_caller]
    pub(crate) fn assert_clean(&self) {
        for request in self.standin.requests() {
            let token = request.header("authorization");
            match request.server {
                Server::Hub => assert_eq!(token, Some("Bearer hf_CANARY"), "{request:?}"),
                Server::Storage => assert_eq!(token, None, "{request:?}"),
            }
            if request.server == Server::Storage {
                assert!(!format!("{request:?}").contains(CANARY));
            }
        }
        for file in self.cached_files() {
            let bytes = std::fs::read(self.cache().join(&file)).expect("a readable file");
            assert!(
                !bytes
                    .windows(CANARY.len())
                    .any(|window| window == CANARY.as_bytes())
            );
        }
    }
}

/// 300,000 bytes in which no two places look the same.
pub(crate) fn weights() -> Vec<u8> {
    (0..75_000_u32)
        .flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect()
}

/// An answer that lists files of these names, of two bytes each, in [`SECOND_COMMIT`].
pub(crate) fn listing(names: &[&str]) -> Fault {
    let sibling = |name: &&str| json!({"rfilename": name, "size": 2});
    let siblings: Vec<_> = names.iter().map(sibling).collect();
    let listing = json!({"sha": SECOND_COMMIT, "siblings": siblings});
    Fault::Body(listing.to_string().into_bytes())
}

fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    pairs.iter().map(owned).collect()
}

/// The fault of these headers.
pub(crate) fn headers(pairs: &[(&str, &str)]) -> Fault {
    Fault::Headers(owned(pairs))
}

/// The fault of a status with these headers.
pub(crate) fn status(status: u16, pairs: &[(&str, &str)]) -> Fault {
    Fault::Status(status, owned(pairs))
}

pub(crate) fn repo(name: &str) -> RepoId {
    RepoId::parse(name).expect("a valid name")
}

/// The error's text, checked for the token.
#[track_caller]
pub(crate) fn message<T: std::fmt::Debug>(result: Result<T, HubError>) -> String {
    let error = result.expect_err("this must fail");
    let text = format!("{error} {error:?}");
    assert!(!text.contains(CANARY), "{text}");
    assert!(!text.contains("signature=secret"), "{text}");
    assert!(!text.contains("user:pw"), "{text}");
    error.to_string()
}

fn walk(root: &Path, folder: &Path, files: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if entry.file_type().expect("a type").is_dir() {
            walk(root, &path, files);
        } else {
            let relative = path.strip_prefix(root).expect("below the root");
            files.push(relative.to_string_lossy().replace('\\', "/"));
        }
    }
}

//! Parses the input as names of the hub: a name that parses stays within one folder, and prints as it was read.
#![cfg_attr(fuzzing, no_main)]

use hub::name::{DatasetId, RepoId};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(repo) = RepoId::parse(text) {
        let parts: Vec<&str> = repo.id().split('/').collect();
        assert_eq!(parts.len(), 2);
        assert!(!parts.contains(&"..") && !repo.revision().split('/').any(|part| part == ".."));
        assert_eq!(RepoId::parse(&repo.to_string()).ok(), Some(repo));
    }
    if let Ok(dataset) = DatasetId::parse(text) {
        assert_eq!(DatasetId::parse(&dataset.to_string()).ok(), Some(dataset));
    }
});

#[cfg(not(fuzzing))]
fn main() {}

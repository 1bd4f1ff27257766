//! Data sets as Python's `datasets` keeps them, by name: a folder of Arrow files for each that was once loaded.
//!
//! ```text
//! <namespace>___<name>/<config>/<version>/<hash>/
//!   dataset_info.json                   the splits, with the lengths of their files
//!   <name>-train.arrow                  or <name>-train-00000-of-00002.arrow and so on
//! ```
//!
//! Source: `builder.py`, `naming.py` and `packaged_modules/cache/cache.py` of datasets 5.2.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::Deserialize;

use crate::{
    config::HubConfig,
    dataset_files::{DatasetFiles, Split, split_of},
    error::HubError,
    name::{DEFAULT_REVISION, RepoId, check_subset, is_commit},
};

/// The part of dataset_info.json that is needed.
#[derive(Deserialize)]
struct DatasetInfo {
    splits: BTreeMap<String, SplitInfo>,
}

#[derive(Deserialize)]
struct SplitInfo {
    /// Rows of each file; none where there is one file.
    shard_lengths: Option<Vec<u64>>,
}

/// A subset as Python's `datasets` prepared it.
pub(crate) struct Prepared {
    pub(crate) folder: PathBuf,
    /// The files of each split, in the order of the shards.
    splits: BTreeMap<String, Vec<PathBuf>>,
}

impl Prepared {
    /// The files of train, dev and test.
    pub(crate) fn files(self) -> DatasetFiles {
        let mut files = DatasetFiles::default();
        for (name, paths) in self.splits {
            match split_of(&name) {
                Some(Split::Train) => files.train.extend(paths),
                Some(Split::Dev) => files.dev.extend(paths),
                Some(Split::Test) => files.test.extend(paths),
                None => {}
            }
        }
        files
    }
}

/// The files of splits, each given as subset and split, in that order; none where the cache lacks one of them.
pub(crate) fn find_splits(
    config: &HubConfig,
    dataset: &RepoId,
    splits: &[(&str, &str)],
) -> Option<Vec<Vec<PathBuf>>> {
    let of_split = |(subset, split): &(&str, &str)| {
        let prepared = find(config, dataset, Some(subset)).ok().flatten();
        prepared.and_then(|mut prepared| prepared.splits.remove(*split))
    };
    splits.iter().map(of_split).collect()
}

/// The subset of a data set that Python's `datasets` prepared last; none where there is no such, or where it can't be told
/// whether it is of the revision that is asked for.
///
/// # Errors
/// [`HubError::Subset`] where there are several subsets and none is named, or not the one that is named.
pub(crate) fn find(
    config: &HubConfig,
    dataset: &RepoId,
    subset: Option<&str>,
) -> Result<Option<Prepared>, HubError> {
    let Some(cache) = &config.datasets_cache else {
        return Ok(None);
    };
    let revision = dataset.revision();
    // The hash of a data set from the hub is its commit.
    let is_of_revision = |hash: &str| match is_commit(revision) {
        true => hash == revision,
        false => revision == DEFAULT_REVISION,
    };
    let mut subsets: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for folder in folders_of(dataset.id()).map(|name| cache.join(name)) {
        for (subset, versions) in inner(&folder) {
            let hashes = inner(&versions)
                .into_iter()
                .flat_map(|(_, path)| inner(&path));
            let prepared = hashes
                .filter(|(hash, path)| is_of_revision(hash) && path.join(INFO).is_file())
                .map(|(_, path)| path);
            let prepared: Vec<PathBuf> = prepared.collect();
            if !prepared.is_empty() {
                subsets.entry(subset).or_default().extend(prepared);
            }
        }
    }
    if subsets.is_empty() {
        return Ok(None);
    }
    let refused = |problem: String| HubError::Subset {
        repo: format!("{dataset} in {}", cache.display()),
        problem,
        subsets: subsets.keys().cloned().collect(),
    };
    let folders = match subset {
        Some(subset) => subsets
            .get(subset)
            .ok_or_else(|| refused(format!("no subset {subset}")))?,
        None => match subsets.get(DEFAULT_SUBSET).or(subsets.values().next()) {
            Some(folders) if subsets.len() == 1 || subsets.contains_key(DEFAULT_SUBSET) => folders,
            _ => return Err(refused("several subsets".to_owned())),
        },
    };
    let modified = |path: &Path| {
        let metadata = std::fs::metadata(path);
        metadata
            .and_then(|metadata| metadata.modified())
            .unwrap_or(SystemTime::UNIX_EPOCH)
    };
    let mut folders: Vec<&PathBuf> = folders.iter().collect();
    folders.sort_by_key(|path| Reverse(modified(path)));
    let newest = folders.into_iter().find_map(|folder| {
        Some(Prepared {
            folder: folder.clone(),
            splits: splits_of(folder)?,
        })
    });
    Ok(newest)
}

const INFO: &str = "dataset_info.json";

/// The subset of a data set that has no other.
const DEFAULT_SUBSET: &str = "default";

/// The names that a data set's folder may have: versions of `datasets` differ in the case of letters.
fn folders_of(id: &str) -> impl Iterator<Item = String> {
    let (namespace, name) = id.split_once('/').unwrap_or(("", id));
    let of = |name: &str| match namespace {
        "" => name.to_owned(),
        namespace => format!("{namespace}___{name}"),
    };
    let names: BTreeSet<String> = [of(&snake_case(name)), of(name)].into();
    names.into_iter()
}

/// A name in small letters, with an underscore where a capital began a word.
fn snake_case(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    let mut snake = String::new();
    for (i, letter) in letters.iter().enumerate() {
        let before = i.checked_sub(1).map(|i| letters[i]);
        let after = letters.get(i + 1);
        let begins_word = letter.is_ascii_uppercase()
            && before.is_some_and(|before| {
                before.is_ascii_lowercase()
                    || before.is_ascii_digit()
                    || (before.is_ascii_uppercase() && after.is_some_and(char::is_ascii_lowercase))
            });
        if begins_word {
            snake.push('_');
        }
        snake.extend(letter.to_lowercase());
    }
    snake
}

/// The folders in a folder, with their names.
fn inner(folder: &Path) -> Vec<(String, PathBuf)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.path().is_dir());
    let names =
        folders.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())));
    // One that is being written has another ending.
    let is_whole = |name: &str| check_subset(name).is_ok() && !name.ends_with(".incomplete");
    names.filter(|(name, _)| is_whole(name)).collect()
}

/// The files of each split of a prepared data set, where all are there.
fn splits_of(folder: &Path) -> Option<BTreeMap<String, Vec<PathBuf>>> {
    let info: DatasetInfo = serde_json::from_slice(&std::fs::read(folder.join(INFO)).ok()?).ok()?;
    let entries = std::fs::read_dir(folder).ok()?.flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let names: Vec<String> = names.collect();
    let mut splits = BTreeMap::new();
    for (name, info) in info.splits {
        let n_files = info.shard_lengths.map_or(1, |lengths| lengths.len());
        let endings: Vec<String> = match n_files {
            1 => vec![
                format!("-{name}.arrow"),
                format!("-{name}-00000-of-00001.arrow"),
            ],
            n => (0..n)
                .map(|i| format!("-{name}-{i:05}-of-{n:05}.arrow"))
                .collect(),
        };
        let mut found: Vec<&String> = names
            .iter()
            .filter(|name| endings.iter().any(|ending| name.ends_with(ending)))
            .collect();
        found.sort();
        if found.len() != n_files {
            return None;
        }
        let paths = found.into_iter().map(|name| folder.join(name));
        splits.insert(name, paths.collect());
    }
    Some(splits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_written_as_datasets_writes_them() {
        for (name, snake) in [
            ("all-nli", "all-nli"),
            ("NanoBEIR-en", "nano_beir-en"),
            ("QuoraRetrieval", "quora_retrieval"),
            ("SNLI", "snli"),
            ("my_Data2Set", "my_data2_set"),
        ] {
            assert_eq!(snake_case(name), snake);
        }
        let folders: Vec<String> = folders_of("acme/SNLI").collect();
        assert_eq!(folders, ["acme___SNLI", "acme___snli"]);
    }
}

//! Whole models and data sets, from the cache where they are there, else from the hub.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use hf_hub::RepoType;
use serde::Deserialize;

use crate::{
    cache::RepoFolder,
    config::HubConfig,
    error::HubError,
    listing::Listing,
    name::{DatasetId, RepoId, check_portable},
    transfer::Hub,
};

/// Sees how a fetch gets on, and can stop it.
///
/// `()` watches in silence.
pub trait Watcher {
    /// `file` of the repository stands at `done_bytes` of `total_bytes`. Called at the start of a file,
    /// after every chunk, and once with equal numbers when it was there already; a number may go back
    /// when a download starts again.
    fn progress(&mut self, file: &str, done_bytes: u64, total_bytes: u64) {
        let _ = (file, done_bytes, total_bytes);
    }

    /// Whether to stop, asked at least every 50 ms, also while a connection hangs. What was fetched is
    /// kept, and [`HubError::Interrupted`] is returned.
    fn interrupted(&mut self) -> bool {
        false
    }
}

impl Watcher for () {}

/// The parquet files of one subset, by split; each list is in the order of the shards and may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DatasetFiles {
    /// Splits named train or training, and files that name no split at all.
    pub train: Vec<PathBuf>,
    /// Splits named dev, validation, valid or val.
    pub dev: Vec<PathBuf>,
    /// Splits named test or testing.
    pub test: Vec<PathBuf>,
}

/// Brings what a sentence-transformers or transformers model folder needs and returns that folder,
/// a snapshot in the cache: configuration, tokenizer, modules and their folders, and the weights as
/// safetensors, single or sharded.
///
/// A snapshot that is whole costs one HEAD, to ask whether the revision has moved; none when the
/// revision is a commit or the configuration is offline. Where that HEAD gets no answer, the snapshot
/// is used and a warning logged.
///
/// # Errors
///
/// Every [`HubError`] but those of data sets. [`HubError::PickleOnly`] where weights are there only as
/// pickles, which are never fetched.
pub fn fetch_model(
    config: &HubConfig,
    model: &RepoId,
    watcher: &mut dyn Watcher,
) -> Result<PathBuf, HubError> {
    let repo = RepoFolder::new(config, RepoType::Model, model);
    fetch(config, &repo, watcher, gather_model)
}

/// Brings the parquet files of a subset and says where they are, by split. Network as
/// [`fetch_model`].
///
/// The subset is the folder that the files lie in (`triplet/train-00000-of-00001.parquet`), or
/// `default` for files in `data/` or at the root; both `<subset>/<split>-00000-of-00001.parquet` and
/// `<subset>/<split>/0000.parquet` (the layout of the hub's `refs/convert/parquet`) are known. Splits
/// that are none of train, dev and test are left where they are, and named in the log.
///
/// # Errors
///
/// Every [`HubError`]; [`HubError::Subset`] lists the subsets when there are several and none was
/// named, or when the one that was named is not there.
pub fn fetch_dataset(
    config: &HubConfig,
    dataset: &DatasetId,
    watcher: &mut dyn Watcher,
) -> Result<DatasetFiles, HubError> {
    let repo = RepoFolder::new(config, RepoType::Dataset, &dataset.repo);
    fetch(config, &repo, watcher, |snapshot, watcher| {
        gather_dataset(snapshot, dataset.subset.as_deref(), watcher)
    })
}

/// Brings the parquet files of splits by their own names, each given as subset and split, and says where they
/// are, in that order; each list is in the order of the shards. For data sets whose splits are not train, dev and
/// test, such as NanoBEIR's. Network as [`fetch_model`], for all of them together.
///
/// # Errors
///
/// Every [`HubError`]; [`HubError::Subset`] lists the subsets where one is not there, and
/// [`HubError::Incomplete`] the splits of the subset where that is.
pub fn fetch_splits(
    config: &HubConfig,
    dataset: &RepoId,
    splits: &[(&str, &str)],
    watcher: &mut dyn Watcher,
) -> Result<Vec<Vec<PathBuf>>, HubError> {
    let repo = RepoFolder::new(config, RepoType::Dataset, dataset);
    fetch(config, &repo, watcher, |snapshot, watcher| {
        gather_splits(snapshot, splits, watcher)
    })
}

// The way through cache and hub that models and data sets share. `gather` asks a snapshot for one
// file after the other; a snapshot from the cache fails where one is missing, one from the hub
// downloads it.
fn fetch<T>(
    config: &HubConfig,
    repo: &RepoFolder,
    watcher: &mut dyn Watcher,
    gather: impl Fn(&Snapshot<'_>, &mut dyn Watcher) -> Result<T, HubError>,
) -> Result<T, HubError> {
    let not_cached = |missing: String| HubError::NotCached {
        repo: repo.to_string(),
        missing,
        cache: repo.cache_dir().display().to_string(),
    };
    let commit = repo.commit();
    if config.offline {
        let commit = commit
            .filter(|commit| repo.snapshot(commit).is_dir())
            .ok_or_else(|| not_cached(format!("revision {}", repo.revision())))?;
        let (listing, is_ours) = match repo.listing(&commit) {
            Some(listing) => (listing, true),
            None => (repo.walk(&commit), false),
        };
        if !is_ours {
            tracing::info!(
                "{repo}: not fetched by sentune, so what the cache lacks of it can't be told"
            );
        }
        return gather(
            &Snapshot {
                repo,
                listing,
                hub: None,
            },
            watcher,
        )
        .map_err(|error| match error {
            // What a listing of the cache's own files lacks may well be on the hub.
            HubError::Incomplete { missing, .. } if !is_ours => not_cached(missing),
            error => error,
        });
    }

    let hub = Hub::new(config)?;
    if let Some(listing) = commit.and_then(|commit| repo.listing(&commit)) {
        let snapshot = Snapshot {
            repo,
            listing,
            hub: None,
        };
        if let Ok(found) = gather(&snapshot, &mut ()) {
            let commit = &snapshot.listing.commit;
            let Some(file) = snapshot.listing.files.first() else {
                return Ok(found);
            };
            if commit == repo.revision() {
                return Ok(found);
            }
            match hub.current_commit(repo, &file.name, watcher) {
                Ok(Some(current)) if current == *commit => return Ok(found),
                Ok(_) => {}
                Err(HubError::Interrupted) => return Err(HubError::Interrupted),
                Err(error) => {
                    tracing::warn!(
                        "{repo}: using the cached commit {commit}, for the hub gave no answer: {error}"
                    );
                    return Ok(found);
                }
            }
        }
    }
    let listing = hub.listing(repo, watcher)?;
    repo.write_listing(&listing)?;
    let snapshot = Snapshot {
        repo,
        listing,
        hub: Some(&hub),
    };
    let found = gather(&snapshot, watcher)?;
    // Last, so that until then the revision stands for the older snapshot, which is whole.
    repo.write_commit(&snapshot.listing.commit)?;
    Ok(found)
}

/// The files of one commit, in the cache or on the way into it.
struct Snapshot<'a> {
    repo: &'a RepoFolder,
    listing: Listing,
    /// None: the cache alone.
    hub: Option<&'a Hub<'a>>,
}

impl Snapshot<'_> {
    // Makes a listed file be there.
    fn bring(&self, name: &str, watcher: &mut dyn Watcher) -> Result<PathBuf, HubError> {
        check_portable(name)?;
        let entry = self.listing.get(name).ok_or_else(|| HubError::Incomplete {
            repo: self.repo.to_string(),
            missing: format!("{name} is missing"),
            next: "the repository names it but does not have it".into(),
        })?;
        let folded = name.to_lowercase();
        if let Some(twin) = self
            .listing
            .files
            .iter()
            .find(|other| other.name != name && other.name.to_lowercase() == folded)
        {
            return Err(HubError::Name {
                what: "file in the repository",
                name: name.to_owned(),
                rule: format!(
                    "differs from {:?} only in case, so not every system can store both",
                    twin.name
                ),
            });
        }
        let pointer = self.repo.snapshot(&self.listing.commit).join(name);
        let is_there = std::fs::metadata(&pointer).is_ok_and(|found| {
            found.is_file() && entry.size.is_none_or(|size| size == found.len())
        });
        if let Some(hub) = self.hub
            && !(is_there && entry.size.is_some())
        {
            let blob = hub.download(self.repo, &self.listing.commit, entry, watcher)?;
            return self.repo.point(&self.listing.commit, name, &blob);
        }
        if !is_there {
            return Err(HubError::NotCached {
                repo: self.repo.to_string(),
                missing: name.to_owned(),
                cache: self.repo.cache_dir().display().to_string(),
            });
        }
        if let Some(size) = entry.size {
            watcher.progress(name, size, size);
        }
        Ok(pointer)
    }

    fn bring_json<T: for<'de> Deserialize<'de>>(
        &self,
        name: &str,
        watcher: &mut dyn Watcher,
    ) -> Result<T, HubError> {
        // These files list a handful of names; the longest index of a model is below a mebibyte.
        const LONGEST: u64 = 64 << 20;
        let incomplete = |missing: String| HubError::Incomplete {
            repo: self.repo.to_string(),
            missing,
            next: "the file is damaged in the repository".into(),
        };
        let path = self.bring(name, watcher)?;
        if fs_err::metadata(&path)?.len() > LONGEST {
            return Err(incomplete(format!("{name} is longer than 64 MiB")));
        }
        serde_json::from_slice(&fs_err::read(&path)?)
            .map_err(|error| incomplete(format!("{name} can't be read: {error}")))
    }
}

/// What the loader may open of a transformer's folder, beside the weights.
const TRANSFORMER_FILES: &[&str] = &[
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
];

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// One module in modules.json.
#[derive(Deserialize)]
struct Module {
    path: String,
}

/// model.safetensors.index.json, as far as it names files.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

// Weights come last, so that a snapshot that has them has everything.
fn gather_model(snapshot: &Snapshot<'_>, watcher: &mut dyn Watcher) -> Result<PathBuf, HubError> {
    let listing = &snapshot.listing;
    let incomplete = |missing: String, next: &str| HubError::Incomplete {
        repo: snapshot.repo.to_string(),
        missing,
        next: next.to_owned(),
    };

    let mut folders: Vec<String> = Vec::new();
    if listing.has("modules.json") {
        for module in snapshot.bring_json::<Vec<Module>>("modules.json", watcher)? {
            let path = module.path.trim_end_matches('/').to_owned();
            if !path.is_empty() {
                check_portable(&path)?;
            }
            if !folders.contains(&path) {
                folders.push(path);
            }
        }
    }
    // The first module is the transformer; without modules.json, the root is.
    let transformer = folders.first().cloned().unwrap_or_default();

    for &name in TRANSFORMER_FILES {
        for folder in BTreeSet::from(["", transformer.as_str()]) {
            let path = join(folder, name);
            if listing.has(&path) {
                snapshot.bring(&path, watcher)?;
            }
        }
    }
    if !listing.has(&join(&transformer, "config.json")) {
        let missing = format!("there is no {}", join(&transformer, "config.json"));
        return Err(incomplete(
            missing,
            "it is no transformers model, check the name",
        ));
    }
    let has_tokenizer = ["tokenizer.json", "vocab.txt", "vocab.json"]
        .iter()
        .any(|name| listing.has(name) || listing.has(&join(&transformer, name)));
    if !has_tokenizer {
        let missing = "there is neither tokenizer.json nor a vocabulary".to_owned();
        return Err(incomplete(
            missing,
            "without its tokenizer the model can't read text",
        ));
    }
    let others: Vec<&String> = folders
        .iter()
        .filter(|folder| **folder != transformer && !folder.is_empty())
        .collect();
    for folder in &others {
        refuse_pickles(snapshot, folder)?;
        for name in listing.names_in(folder) {
            if name.ends_with(".json") || name.ends_with(".txt") || name.ends_with(".safetensors") {
                snapshot.bring(&join(folder, name), watcher)?;
            }
        }
    }

    refuse_pickles(snapshot, &transformer)?;
    let weights = join(&transformer, WEIGHTS);
    let index = join(&transformer, INDEX);
    if listing.has(&weights) {
        snapshot.bring(&weights, watcher)?;
    } else if listing.has(&index) {
        let index: Index = snapshot.bring_json(&index, watcher)?;
        let shards: BTreeSet<String> = index.weight_map.into_values().collect();
        if shards.is_empty() {
            return Err(incomplete(
                format!("{INDEX} names no file"),
                "the file is damaged in the repository",
            ));
        }
        for shard in shards {
            check_portable(&shard)?;
            if !shard.ends_with(".safetensors") {
                return Err(incomplete(
                    format!("{INDEX} names {shard:?}"),
                    "only safetensors are fetched",
                ));
            }
            snapshot.bring(&join(&transformer, &shard), watcher)?;
        }
    } else {
        let next = "only weights as safetensors are fetched, take a revision that has them";
        return Err(incomplete(format!("there is no {weights}"), next));
    }
    Ok(snapshot.repo.snapshot(&listing.commit))
}

// Pickles run code when they are opened.
fn refuse_pickles(snapshot: &Snapshot<'_>, folder: &str) -> Result<(), HubError> {
    let names = || snapshot.listing.names_in(folder);
    if names().any(|name| name == WEIGHTS || name == INDEX) {
        return Ok(());
    }
    let is_pickle = |name: &&str| {
        [".bin", ".pt", ".pth", ".ckpt", ".pkl"]
            .iter()
            .any(|end| name.ends_with(end))
            && *name != "training_args.bin"
    };
    match names().find(is_pickle) {
        None => Ok(()),
        Some(found) => Err(HubError::PickleOnly {
            repo: snapshot.repo.to_string(),
            found: join(folder, found),
            needed: join(folder, WEIGHTS),
        }),
    }
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() {
        name.to_owned()
    } else {
        format!("{folder}/{name}")
    }
}

fn gather_dataset(
    snapshot: &Snapshot<'_>,
    subset: Option<&str>,
    watcher: &mut dyn Watcher,
) -> Result<DatasetFiles, HubError> {
    let repo = snapshot.repo.to_string();
    let subsets = subsets(snapshot);
    let all = || {
        subsets
            .keys()
            .map(|&subset| subset.to_owned())
            .collect::<Vec<_>>()
    };
    let shards = match subset {
        _ if subsets.is_empty() => {
            return Err(HubError::Incomplete {
                missing: "there is no parquet file".into(),
                next: format!(
                    "the hub makes them for most data sets under another revision, try `{}@refs/convert/parquet`",
                    repo.split('@').next().unwrap_or(&repo)
                ),
                repo,
            });
        }
        Some(subset) => subsets.get(subset).ok_or_else(|| HubError::Subset {
            repo: repo.clone(),
            problem: format!("no subset {subset}"),
            subsets: all(),
        })?,
        None => match subsets.values().next() {
            Some(shards) if subsets.len() == 1 => shards,
            _ => {
                return Err(HubError::Subset {
                    repo,
                    problem: "several subsets".into(),
                    subsets: all(),
                });
            }
        },
    };

    let has_splits = shards.iter().any(|shard| shard.split().is_some());
    let mut files = DatasetFiles::default();
    let mut left_out = BTreeSet::new();
    let mut counts: BTreeMap<(&str, usize), usize> = BTreeMap::new();
    for shard in shards {
        let split = match shard.split() {
            None if has_splits => {
                left_out.insert(shard.label);
                continue;
            }
            None => Split::Train,
            Some(split) => split,
        };
        if let Some(count) = shard.count {
            *counts.entry((shard.label, count)).or_default() += 1;
        }
        let path = snapshot.bring(shard.name, watcher)?;
        match split {
            Split::Train => files.train.push(path),
            Split::Dev => files.dev.push(path),
            Split::Test => files.test.push(path),
        }
    }
    if let Some(((label, count), found)) = counts.iter().find(|((_, count), found)| count != *found)
    {
        return Err(HubError::Incomplete {
            repo,
            missing: format!("{found} of the {count} files of {label} are there"),
            next: "fetch again, or check the revision".into(),
        });
    }
    for left_out in left_out {
        tracing::info!("{repo}: {left_out} is none of train, dev and test, left out");
    }
    for split in [&mut files.train, &mut files.dev, &mut files.test] {
        split.sort();
    }
    Ok(files)
}

/// The parquet files of a data set by subset.
fn subsets<'a>(snapshot: &'a Snapshot<'_>) -> BTreeMap<&'a str, Vec<Shard<'a>>> {
    let mut subsets: BTreeMap<&str, Vec<Shard<'_>>> = BTreeMap::new();
    for entry in &snapshot.listing.files {
        if let Some((subset, shard)) = Shard::parse(&entry.name) {
            subsets.entry(subset).or_default().push(shard);
        }
    }
    subsets
}

fn gather_splits(
    snapshot: &Snapshot<'_>,
    splits: &[(&str, &str)],
    watcher: &mut dyn Watcher,
) -> Result<Vec<Vec<PathBuf>>, HubError> {
    let repo = snapshot.repo.to_string();
    let subsets = subsets(snapshot);
    let mut found = Vec::with_capacity(splits.len());
    for &(subset, split) in splits {
        let shards = subsets.get(subset).ok_or_else(|| HubError::Subset {
            repo: repo.clone(),
            problem: format!("no subset {subset}"),
            subsets: subsets.keys().map(|&subset| subset.to_owned()).collect(),
        })?;
        let own: Vec<&Shard<'_>> = shards.iter().filter(|shard| shard.label == split).collect();
        let incomplete = |missing: String, next: String| HubError::Incomplete {
            repo: repo.clone(),
            missing,
            next,
        };
        let Some(first) = own.first() else {
            let labels: BTreeSet<&str> = shards.iter().map(|shard| shard.label).collect();
            let labels: Vec<&str> = labels.into_iter().collect();
            return Err(incomplete(
                format!("subset {subset} has no split {split}"),
                format!("its splits are {}", labels.join(", ")),
            ));
        };
        if let Some(count) = first.count.filter(|count| *count != own.len()) {
            return Err(incomplete(
                format!(
                    "{} of the {count} files of {subset}, {split} are there",
                    own.len()
                ),
                "fetch again, or check the revision".into(),
            ));
        }
        let files = own.iter().map(|shard| snapshot.bring(shard.name, watcher));
        let mut files = files.collect::<Result<Vec<_>, _>>()?;
        files.sort();
        found.push(files);
    }
    Ok(found)
}

#[derive(Clone, Copy)]
enum Split {
    Train,
    Dev,
    Test,
}

/// A parquet file in a data set.
struct Shard<'a> {
    name: &'a str,
    /// What stands where the split's name stands.
    label: &'a str,
    /// How many files the split has, where the name says so.
    count: Option<usize>,
}

impl<'a> Shard<'a> {
    // Reads subset, split and count from a path; none for what is no parquet file.
    fn parse(name: &'a str) -> Option<(&'a str, Self)> {
        let stem = name.strip_suffix(".parquet")?;
        let mut parts: Vec<&str> = stem.split('/').collect();
        let stem = parts.pop()?;
        // `train-00000-of-00004`, or the same with a hash behind it as older data sets have it.
        let (label, count) = match stem.split_once("-of-") {
            Some((front, count)) => match front.rsplit_once('-') {
                Some((label, _)) => (
                    label,
                    count.split('-').next().and_then(|count| count.parse().ok()),
                ),
                None => (stem, None),
            },
            None => (stem, None),
        };
        let is_number = label.bytes().all(|byte| byte.is_ascii_digit());
        // `<split>/0000.parquet`: the folder names the split.
        let label = match parts.last().copied() {
            Some(folder) if (is_number || split_of(folder).is_some()) && folder != "data" => {
                parts.pop();
                folder
            }
            _ => label,
        };
        let subset = match parts.as_slice() {
            [] | ["data"] => "default",
            ["data", subset, ..] | [subset, ..] => subset,
        };
        Some((subset, Self { name, label, count }))
    }

    fn split(&self) -> Option<Split> {
        split_of(self.label)
    }
}

fn split_of(label: &str) -> Option<Split> {
    match label.to_ascii_lowercase().as_str() {
        "train" | "training" => Some(Split::Train),
        "dev" | "validation" | "valid" | "val" => Some(Split::Dev),
        "test" | "testing" => Some(Split::Test),
        _ => None,
    }
}

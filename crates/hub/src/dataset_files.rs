//! The parquet files of a data set by subset and split.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use crate::{error::HubError, snapshot::Snapshot, watcher::Watcher};

/// The revision under which the hub keeps its conversion of a data set to parquet.
pub(crate) const CONVERSION: &str = "refs/convert/parquet";

/// The files of one subset, by split: parquet from the hub, or Arrow from the cache of Python's `datasets`. Each list is in
/// the order of the shards and may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DatasetFiles {
    /// Splits named train or training, and files that name no split at all.
    pub train: Vec<PathBuf>,
    /// Splits named dev, validation, valid or val.
    pub dev: Vec<PathBuf>,
    /// Splits named test or testing.
    pub test: Vec<PathBuf>,
}

/// Brings the files of train, dev and test of a subset.
pub(crate) fn gather_dataset(
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
            return Err(HubError::NoParquet {
                repo,
                conversion: CONVERSION,
                next: "download its files and give them as files",
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
    let mut partial = BTreeSet::new();
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
        if shard.is_partial {
            partial.insert(shard.label);
        }
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
    for split in partial {
        tracing::warn!("{repo}: {split} is incomplete, since the hub converts only the first 5 GB");
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

/// Brings the files of splits, each given as subset and split, in that order.
pub(crate) fn gather_splits(
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

/// A split that training knows.
#[derive(Clone, Copy)]
pub(crate) enum Split {
    Train,
    Dev,
    Test,
}

/// A parquet file in a data set.
struct Shard<'a> {
    name: &'a str,
    /// The part of the path that names the split, where the path has one.
    label: &'a str,
    /// How many files the split has, where the name says so.
    count: Option<usize>,
    /// Whether it belongs to the first part of a split that the hub converted no further.
    is_partial: bool,
}

impl<'a> Shard<'a> {
    // Reads subset, split and count from a path; none for other files than parquet.
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
        let whole = label.strip_prefix("partial-");
        let shard = Self {
            name,
            label: whole.unwrap_or(label),
            count,
            is_partial: whole.is_some(),
        };
        Some((subset, shard))
    }

    fn split(&self) -> Option<Split> {
        split_of(self.label)
    }
}

/// The split of this name.
pub(crate) fn split_of(label: &str) -> Option<Split> {
    match label.to_ascii_lowercase().as_str() {
        "train" | "training" => Some(Split::Train),
        "dev" | "validation" | "valid" | "val" => Some(Split::Dev),
        "test" | "testing" => Some(Split::Test),
        _ => None,
    }
}

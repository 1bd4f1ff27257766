//! Whole models and data sets, from the cache where they are there, else from the hub.

use std::path::PathBuf;

use hf_hub::RepoType;

use crate::{
    cache::{Cached, RepoFolder},
    client::Client,
    config::HubConfig,
    dataset_files::{CONVERSION, DatasetFiles, gather_dataset, gather_splits},
    datasets_cache,
    error::HubError,
    model_files::gather_model,
    name::{DEFAULT_REVISION, DatasetId, RepoId},
    retry::Retries,
    snapshot::Snapshot,
    watcher::Watcher,
};

/// Brings the files of a sentence-transformers or transformers model into the cache and returns their
/// folder, a snapshot: configuration, tokenizer, modules and their folders, and the weights as
/// safetensors, single or sharded.
///
/// A snapshot that is whole costs one HEAD, to ask whether the revision has moved; none when the
/// revision is a commit or the configuration is offline. Where the hub can't be reached, the snapshot
/// in the cache is used and a warning logged, also one that Python fetched.
///
/// # Errors
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

/// Brings the parquet files of a subset and returns their paths by split. Network as
/// [`fetch_model`].
///
/// The subset is the folder that the files lie in (`triplet/train-00000-of-00001.parquet`), or
/// `default` for files in `data/` or at the root; both `<subset>/<split>-00000-of-00001.parquet` and
/// `<subset>/<split>/0000.parquet` (the layout of the hub's `refs/convert/parquet`) are known. Splits
/// that are none of train, dev and test are left where they are, and named in the log. A repository
/// without parquet files, such as one with a script or with CSV, is taken from that conversion, where
/// no revision is asked for. Where the hub can't be reached and its cache lacks the data set, the Arrow files are used that
/// Python's `datasets` prepared of it, with a warning.
///
/// # Errors
/// Every [`HubError`]; [`HubError::Subset`] lists the subsets when there are several and none was
/// named, or when the one that was named is not there.
pub fn fetch_dataset(
    config: &HubConfig,
    dataset: &DatasetId,
    watcher: &mut dyn Watcher,
) -> Result<DatasetFiles, HubError> {
    let prepared = datasets_cache::find(config, &dataset.repo, dataset.subset.as_deref());
    let config = match &prepared {
        Ok(Some(_)) => &once(config),
        _ => config,
    };
    let error = match fetch_parquet(config, dataset, watcher) {
        Err(error) if error.is_unreachable() || error.is_of_cache() => error,
        fetched => return fetched,
    };
    let Some(prepared) = prepared? else {
        return Err(error);
    };
    tracing::warn!(
        "{dataset}: using what Python's datasets prepared in {}: {error}",
        prepared.folder.display()
    );
    Ok(prepared.files())
}

/// The same without a second try: there is something to use where the first gets no answer.
fn once(config: &HubConfig) -> HubConfig {
    HubConfig {
        retries: 0,
        ..config.clone()
    }
}

/// The parquet files of a data set, its own or the hub's conversion.
fn fetch_parquet(
    config: &HubConfig,
    dataset: &DatasetId,
    watcher: &mut dyn Watcher,
) -> Result<DatasetFiles, HubError> {
    let fetch_from = |config: &HubConfig, id: &RepoId, watcher: &mut dyn Watcher| {
        let repo = RepoFolder::new(config, RepoType::Dataset, id);
        fetch(config, &repo, watcher, |snapshot, watcher| {
            gather_dataset(snapshot, dataset.subset.as_deref(), watcher)
        })
    };
    let error = match fetch_from(config, &dataset.repo, watcher) {
        Err(error) if dataset.repo.revision() == DEFAULT_REVISION => error,
        fetched => return fetched,
    };
    let converted = dataset.repo.at(CONVERSION);
    let fetched = match &error {
        HubError::NoParquet { .. } | HubError::NotCached { .. } => {
            fetch_from(config, &converted, watcher)
        }
        unreachable if unreachable.is_unreachable() => {
            let mut offline = config.clone();
            offline.offline = true;
            fetch_from(&offline, &converted, watcher)
        }
        _ => return Err(error),
    };
    match fetched {
        Ok(files) => {
            tracing::info!(
                "{dataset}: no parquet files, using the hub's conversion ({CONVERSION})"
            );
            Ok(files)
        }
        Err(
            HubError::NotFound { .. } | HubError::NotCached { .. } | HubError::NoParquet { .. },
        ) => Err(error),
        Err(error) => Err(error),
    }
}

/// Brings the parquet files of splits by their own names, each given as subset and split, and returns their
/// paths in that order; each list is in the order of the shards. For data sets whose splits are not train, dev and
/// test, such as NanoBEIR's. Network as [`fetch_model`], for all of them together, and Python's cache as [`fetch_dataset`].
///
/// # Errors
/// Every [`HubError`]; [`HubError::Subset`] lists the subsets where one is not there, and
/// [`HubError::Incomplete`] the splits of the subset where that is.
pub fn fetch_splits(
    config: &HubConfig,
    dataset: &RepoId,
    splits: &[(&str, &str)],
    watcher: &mut dyn Watcher,
) -> Result<Vec<Vec<PathBuf>>, HubError> {
    let prepared = datasets_cache::find_splits(config, dataset, splits);
    let config = match &prepared {
        Some(_) => &once(config),
        None => config,
    };
    let repo = RepoFolder::new(config, RepoType::Dataset, dataset);
    let fetched = fetch(config, &repo, watcher, |snapshot, watcher| {
        gather_splits(snapshot, splits, watcher)
    });
    let error = match fetched {
        Err(error) if error.is_unreachable() || error.is_of_cache() => error,
        fetched => return fetched,
    };
    let Some(files) = prepared else {
        return Err(error);
    };
    tracing::warn!("{dataset}: using what Python's datasets prepared: {error}");
    Ok(files)
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
    let cached = repo.cached();
    if config.offline {
        let not_cached = |missing: String| HubError::NotCached {
            repo: repo.to_string(),
            missing,
            cache: repo.cache_dir().display().to_string(),
        };
        let Some(Cached { listing, is_whole }) = cached else {
            return Err(not_cached(format!("revision {}", repo.revision())));
        };
        if !is_whole {
            tracing::info!(
                "{repo}: not fetched by sentune, so what the cache lacks of it can't be told"
            );
        }
        let found = gather(&Snapshot::cached(repo, listing), watcher);
        return found.map_err(|error| match error {
            // A file that the cache lacks may well be on the hub.
            HubError::Incomplete { missing, .. } if !is_whole => not_cached(missing),
            error => error,
        });
    }

    let client = Client::new(config)?;
    // The files as the cache has them, with the commit; of use where the hub confirms the commit, or can't be
    // reached.
    let mut in_cache = None;
    if let Some(Cached { listing, is_whole }) = cached {
        let commit = listing.commit.clone();
        let first = listing.files.first().map(|file| file.name.clone());
        let found = gather(&Snapshot::cached(repo, listing), &mut ());
        match (found, first) {
            (Ok(found), None) => return Ok(found),
            (Ok(found), Some(_)) if is_whole && commit == repo.revision() => return Ok(found),
            (Ok(found), Some(first)) if is_whole => {
                match client.current_commit(repo, &first, watcher) {
                    Ok(Some(current)) if current == commit => return Ok(found),
                    Ok(_) => in_cache = Some((commit, Ok(found))),
                    Err(HubError::Interrupted) => return Err(HubError::Interrupted),
                    Err(error) => return Ok(out_of_reach(repo, &commit, found, &error)),
                }
            }
            (found, _) => in_cache = Some((commit, found)),
        }
    }
    let retries = match in_cache {
        Some((_, Ok(_))) => Retries::none(config),
        _ => Retries::new(config),
    };
    let listing = match (client.listing(repo, retries, watcher), in_cache) {
        (Ok(listing), _) => listing,
        (Err(error), Some((commit, Ok(found)))) if error.is_unreachable() => {
            return Ok(out_of_reach(repo, &commit, found, &error));
        }
        (Err(error), Some((_, Err(in_cache)))) if error.is_unreachable() => {
            return Err(match in_cache {
                HubError::NotCached { missing, .. } | HubError::Incomplete { missing, .. } => {
                    HubError::Lacking {
                        repo: repo.to_string(),
                        missing,
                        cache: repo.cache_dir().display().to_string(),
                        error: Box::new(error),
                    }
                }
                other => other,
            });
        }
        (Err(error), _) => return Err(error),
    };
    repo.write_listing(&listing)?;
    let snapshot = Snapshot {
        repo,
        listing,
        client: Some(&client),
    };
    let found = gather(&snapshot, watcher)?;
    // Last, so that until then the revision stands for the older snapshot, which is whole.
    repo.write_commit(&snapshot.listing.commit)?;
    Ok(found)
}

// Warns that the cache is used without the hub's word.
fn out_of_reach<T>(repo: &RepoFolder, commit: &str, found: T, error: &HubError) -> T {
    tracing::warn!("{repo}: using the cached commit {commit}, for the hub gave no answer: {error}");
    found
}

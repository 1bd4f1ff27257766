//! Whole models and data sets, from the cache where they are there, else from the hub.

use std::path::PathBuf;

use hf_hub::RepoType;

use crate::{
    cache::RepoFolder,
    client::Client,
    config::HubConfig,
    dataset_files::{DatasetFiles, gather_dataset, gather_splits},
    error::HubError,
    model_files::gather_model,
    name::{DatasetId, RepoId},
    snapshot::Snapshot,
    watcher::Watcher,
};

/// Brings the files of a sentence-transformers or transformers model into the cache and returns their
/// folder, a snapshot: configuration, tokenizer, modules and their folders, and the weights as
/// safetensors, single or sharded.
///
/// A snapshot that is whole costs one HEAD, to ask whether the revision has moved; none when the
/// revision is a commit or the configuration is offline. Where that HEAD gets no answer, the snapshot
/// is used and a warning logged.
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
/// that are none of train, dev and test are left where they are, and named in the log.
///
/// # Errors
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

/// Brings the parquet files of splits by their own names, each given as subset and split, and returns their
/// paths in that order; each list is in the order of the shards. For data sets whose splits are not train, dev and
/// test, such as NanoBEIR's. Network as [`fetch_model`], for all of them together.
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
                client: None,
            },
            watcher,
        )
        .map_err(|error| match error {
            // What a listing of the cache's own files lacks may well be on the hub.
            HubError::Incomplete { missing, .. } if !is_ours => not_cached(missing),
            error => error,
        });
    }

    let client = Client::new(config)?;
    if let Some(listing) = commit.and_then(|commit| repo.listing(&commit)) {
        let snapshot = Snapshot {
            repo,
            listing,
            client: None,
        };
        if let Ok(found) = gather(&snapshot, &mut ()) {
            let commit = &snapshot.listing.commit;
            let Some(file) = snapshot.listing.files.first() else {
                return Ok(found);
            };
            if commit == repo.revision() {
                return Ok(found);
            }
            match client.current_commit(repo, &file.name, watcher) {
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
    let listing = client.listing(repo, watcher)?;
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

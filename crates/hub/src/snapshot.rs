//! The files of one commit, each brought into the cache when it is asked for.

use std::path::PathBuf;

use serde::Deserialize;

use crate::{
    cache::RepoFolder, client::Client, error::HubError, listing::Listing, name::check_portable,
    watcher::Watcher,
};

/// The files of one commit, in the cache or on the way into it.
pub(crate) struct Snapshot<'a> {
    pub(crate) repo: &'a RepoFolder,
    pub(crate) listing: Listing,
    /// None: the cache alone.
    pub(crate) client: Option<&'a Client<'a>>,
}

impl<'a> Snapshot<'a> {
    /// The snapshot as the cache has it.
    pub(crate) fn cached(repo: &'a RepoFolder, listing: Listing) -> Self {
        Self {
            repo,
            listing,
            client: None,
        }
    }

    /// The path of a listed file, which is downloaded where the cache lacks it.
    pub(crate) fn bring(&self, name: &str, watcher: &mut dyn Watcher) -> Result<PathBuf, HubError> {
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
        if let Some(client) = self.client
            && !(is_there && entry.size.is_some())
        {
            let blob = client.download(self.repo, &self.listing.commit, entry, watcher)?;
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

    /// [`Self::bring`], for a JSON file that is to be read.
    pub(crate) fn bring_json<T: for<'de> Deserialize<'de>>(
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

//! The files of one commit, as the hub lists them.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::{
    error::HubError,
    name::{check_listed, is_commit, is_hex},
};

/// The files of one commit.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Listing {
    pub(crate) commit: String,
    pub(crate) files: Vec<Entry>,
}

/// One file; what the hub doesn't say is none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// The path in the repository, with slashes.
    pub(crate) name: String,
    /// Bytes.
    pub(crate) size: Option<u64>,
    /// Hash of a file in large-file storage.
    pub(crate) sha256: Option<String>,
    /// Git's blob hash of any other file.
    pub(crate) git_sha1: Option<String>,
}

impl Listing {
    /// Reads the answer to `/api/{models|datasets}/{id}/revision/{revision}?blobs=true`.
    pub(crate) fn from_answer(url: &str, body: &[u8]) -> Result<Self, HubError> {
        let protocol = |reason: String| HubError::Protocol {
            url: url.to_owned(),
            reason,
        };
        let answer: Answer = serde_json::from_slice(body)
            .map_err(|error| protocol(format!("the listing can't be read: {error}")))?;
        let hash =
            |digits, text: Option<String>| text.filter(|text| text.len() == digits && is_hex(text));
        let files = answer.siblings.into_iter().map(|sibling| {
            let (sha256, git_sha1, size) = match sibling.lfs {
                Some(lfs) => (hash(64, lfs.sha256), None, lfs.size.or(sibling.size)),
                None => (None, hash(40, sibling.blob_id), sibling.size),
            };
            Entry {
                name: sibling.rfilename,
                size,
                sha256,
                git_sha1,
            }
        });
        let listing = Self {
            commit: answer.sha,
            files: files.collect(),
        };
        listing.check().map_err(|error| match error {
            Ok(error) => error,
            Err(reason) => protocol(reason),
        })?;
        Ok(listing)
    }

    /// Reads what [`Listing::to_json`] wrote; none when it is damaged.
    pub(crate) fn from_json(json: &[u8]) -> Option<Self> {
        let listing: Self = serde_json::from_slice(json).ok()?;
        listing.check().is_ok().then_some(listing)
    }

    pub(crate) fn to_json(&self) -> Result<Vec<u8>, HubError> {
        serde_json::to_vec(self).map_err(|error| HubError::Io(error.into()))
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Entry> {
        self.files.iter().find(|entry| entry.name == name)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// The names of the files directly in a folder (`""` is the root), without the folder.
    pub(crate) fn names_in<'a>(&'a self, folder: &str) -> impl Iterator<Item = &'a str> {
        let prefix = if folder.is_empty() {
            String::new()
        } else {
            format!("{folder}/")
        };
        self.files
            .iter()
            .filter_map(move |entry| entry.name.strip_prefix(&prefix))
            .filter(|name| !name.contains('/'))
    }

    fn check(&self) -> Result<(), Result<HubError, String>> {
        if !is_commit(&self.commit) {
            return Err(Err("the listing names no commit hash".into()));
        }
        let mut names = HashSet::new();
        for entry in &self.files {
            check_listed(&entry.name).map_err(Ok)?;
            if !names.insert(&entry.name) {
                return Err(Err(format!("the listing names {:?} twice", entry.name)));
            }
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Answer {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
    size: Option<u64>,
}

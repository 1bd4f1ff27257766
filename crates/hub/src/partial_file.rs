//! The file that a download grows in, and what it has to be at the end.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
};

use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::{
    error::HubError,
    listing::Entry,
    name::is_hex,
    request::{CHUNK, Facts},
    watcher::Watcher,
};

/// Length and checksums that a file must have, from the listing and the answer to HEAD together.
pub(crate) struct Target {
    /// The blob's name: the sha256, or git's sha1, or the ETag.
    pub(crate) blob: String,
    /// The ETag that a GET must have too.
    pub(crate) etag: Option<String>,
    pub(crate) size: u64,
    sha256: Option<String>,
    git_sha1: Option<String>,
}

impl Target {
    /// # Errors
    /// Where the hub's statements about the file contradict each other, or leave its size or name open.
    pub(crate) fn new(
        url: &str,
        commit: &str,
        entry: &Entry,
        facts: &Facts,
    ) -> Result<Self, HubError> {
        let protocol = |reason: String| HubError::Protocol {
            url: url.to_owned(),
            reason,
        };
        if let Some(found) = &facts.commit
            && found != commit
        {
            return Err(protocol(format!(
                "asked for commit {commit}, X-Repo-Commit is {found}"
            )));
        }
        let size = match (entry.size, facts.size) {
            (Some(listed), Some(found)) if listed != found => {
                return Err(HubError::Length {
                    file: entry.name.clone(),
                    expected: listed,
                    found,
                });
            }
            (Some(size), _) | (None, Some(size)) => size,
            (None, None) => {
                return Err(protocol("the hub does not say how long the file is".into()));
            }
        };
        let from_etag = |digits| {
            facts
                .etag
                .as_deref()
                .filter(|etag| etag.len() == digits && is_hex(etag))
                .map(str::to_owned)
        };
        let agree = |kind, listed: &Option<String>, found: Option<String>| match (listed, found) {
            (Some(listed), Some(found)) if *listed != found => Err(HubError::Checksum {
                file: entry.name.clone(),
                kind,
                expected: listed.clone(),
                found,
            }),
            (Some(hash), _) => Ok(Some(hash.clone())),
            (None, found) => Ok(found),
        };
        let sha256 = agree("sha256", &entry.sha256, from_etag(64))?;
        let git_sha1 = match &sha256 {
            Some(_) => None,
            None => agree("git sha1", &entry.git_sha1, from_etag(40))?,
        };
        let blob = [&sha256, &git_sha1, &facts.etag]
            .into_iter()
            .find_map(Clone::clone)
            .ok_or_else(|| {
                protocol("the hub gives neither a checksum nor an ETag for the file".into())
            })?;
        Ok(Self {
            blob,
            etag: facts.etag.clone(),
            size,
            sha256,
            git_sha1,
        })
    }
}

/// `<blob>.incomplete` (Python's name for it too), hashed as it grows.
pub(crate) struct PartialFile {
    file: fs_err::File,
    pub(crate) len: u64,
    /// Whether it was emptied since it was opened.
    pub(crate) was_reset: bool,
    sha256: Option<Sha256>,
    git_sha1: Option<Sha1>,
    git_header: String,
}

impl PartialFile {
    /// Opens the file, and hashes what an earlier attempt left in it.
    pub(crate) fn open(
        blob: &Path,
        target: &Target,
        watcher: &mut dyn Watcher,
    ) -> Result<Self, HubError> {
        let mut name = blob.as_os_str().to_owned();
        name.push(".incomplete");
        let file = fs_err::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(name)?;
        let mut partial = Self {
            file,
            len: 0,
            was_reset: false,
            sha256: target.sha256.as_ref().map(|_| Sha256::new()),
            git_sha1: target.git_sha1.as_ref().map(|_| Sha1::new()),
            git_header: format!("blob {}\0", target.size),
        };
        if let Some(sha1) = &mut partial.git_sha1 {
            sha1.update(partial.git_header.as_bytes());
        }
        if partial.file.metadata()?.len() > target.size {
            partial.reset()?;
        }
        let mut chunk = vec![0; CHUNK];
        loop {
            if watcher.interrupted() {
                return Err(HubError::Interrupted);
            }
            let n = partial.file.read(&mut chunk)?;
            if n == 0 {
                return Ok(partial);
            }
            partial.hash(&chunk[..n]);
        }
    }

    fn hash(&mut self, bytes: &[u8]) {
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(bytes);
        }
        if let Some(sha1) = &mut self.git_sha1 {
            sha1.update(bytes);
        }
        self.len += bytes.len() as u64;
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.hash(bytes);
        Ok(())
    }

    /// Empties the file.
    pub(crate) fn reset(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.len = 0;
        self.was_reset = true;
        if let Some(sha256) = &mut self.sha256 {
            *sha256 = Sha256::new();
        }
        if let Some(sha1) = &mut self.git_sha1 {
            *sha1 = Sha1::new();
            sha1.update(self.git_header.as_bytes());
        }
        Ok(())
    }

    /// Compares the checksums; `file` names the file in the error.
    pub(crate) fn check(&mut self, file: &str, target: &Target) -> Result<(), HubError> {
        let wrong = |kind, expected: &str, found| HubError::Checksum {
            file: file.to_owned(),
            kind,
            expected: expected.to_owned(),
            found,
        };
        if let (Some(hasher), Some(expected)) = (&self.sha256, &target.sha256) {
            let found = hex::encode(hasher.clone().finalize());
            if found != *expected {
                return Err(wrong("sha256", expected, found));
            }
        }
        if let (Some(hasher), Some(expected)) = (&self.git_sha1, &target.git_sha1) {
            let found = hex::encode(hasher.clone().finalize());
            if found != *expected {
                return Err(wrong("git sha1", expected, found));
            }
        }
        Ok(())
    }

    /// Gives the blob its name, once its bytes are on the disk.
    pub(crate) fn finish(self, blob: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        fs_err::rename(self.file.path(), blob)?;
        sync_folder(blob)
    }

    /// Leaves the bytes for the next run; removes a file that has none.
    pub(crate) fn keep(self) -> io::Result<()> {
        if self.len == 0 {
            self.remove()
        } else {
            self.file.sync_all()
        }
    }

    pub(crate) fn remove(self) -> io::Result<()> {
        fs_err::remove_file(self.file.path())
    }
}

/// Syncs the folder of `path`, so that the entry of a file just renamed is on the disk.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    // Windows can't open a folder, and has no need to.
    match path.parent() {
        Some(folder) if cfg!(unix) => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

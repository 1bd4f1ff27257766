//! One repository in the cache folder, in the layout that hf-hub and Python share:
//!
//! ```text
//! models--org--name/
//!   blobs/<sha256 or ETag>            the contents, and <same>.incomplete while one is on its way
//!   snapshots/<commit>/<path>         relative links into blobs
//!   refs/<revision>                   the commit that a branch or tag stood for
//!   .listings/<commit>.json           ours alone: which files the commit has
//! .locks/models--org--name/<blob>.lock
//! ```
//!
//! By the listing, a later run knows that a snapshot is whole without asking the hub.

use std::{
    fmt,
    fs::{File, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use hf_hub::{Cache, Repo, RepoType};

use crate::{
    config::HubConfig,
    error::HubError,
    listing::{Entry, Listing},
    name::{RepoId, check_listed, is_commit},
    partial_file::sync_folder,
    watcher::{Watcher, sleep},
};

/// The files of a revision in the cache.
pub(crate) struct Cached {
    pub(crate) listing: Listing,
    /// Whether the listing is the hub's, so that a missing file is known; of a snapshot that Python fetched, only
    /// the files that are there are listed.
    pub(crate) is_whole: bool,
}

/// One repository, at one revision, in the cache.
pub(crate) struct RepoFolder {
    id: RepoId,
    repo: Repo,
    cache_dir: PathBuf,
    folder: PathBuf,
}

impl RepoFolder {
    pub(crate) fn new(config: &HubConfig, kind: RepoType, id: &RepoId) -> Self {
        let repo = Repo::with_revision(id.id().to_owned(), kind, id.revision().to_owned());
        let folder = config.cache_dir.join(repo.folder_name());
        Self {
            id: id.clone(),
            repo,
            cache_dir: config.cache_dir.clone(),
            folder,
        }
    }

    pub(crate) fn revision(&self) -> &str {
        self.id.revision()
    }

    /// `models/org/name/revision/main`.
    pub(crate) fn api_path(&self) -> String {
        self.repo.api_url()
    }

    /// `org/name` or `datasets/org/name`.
    pub(crate) fn url_path(&self) -> String {
        self.repo.url()
    }

    pub(crate) fn cache_dir(&self) -> &Path {
        &self.cache_dir
    }

    /// The path of the blob of this name, whether it is there or not.
    pub(crate) fn blob(&self, name: &str) -> PathBuf {
        Cache::new(self.cache_dir.clone())
            .repo(self.repo.clone())
            .blob_path(name)
    }

    /// The folder of a commit, whether it is there or not.
    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        Cache::new(self.cache_dir.clone())
            .repo(self.repo.clone())
            .pointer_path(commit)
    }

    /// The files of the revision in the cache; none where it has no snapshot of it.
    pub(crate) fn cached(&self) -> Option<Cached> {
        let commit = self.commit()?;
        if let Some(listing) = self.listing(&commit) {
            return Some(Cached {
                listing,
                is_whole: true,
            });
        }
        let listing = self
            .snapshot(&commit)
            .is_dir()
            .then(|| self.walk(&commit))?;
        Some(Cached {
            listing,
            is_whole: false,
        })
    }

    /// The commit that the revision stood for when it was last fetched.
    fn commit(&self) -> Option<String> {
        if is_commit(self.revision()) {
            return Some(self.revision().to_owned());
        }
        let commit = fs_err::read_to_string(self.ref_path()).ok()?;
        let commit = commit.trim();
        is_commit(commit).then(|| commit.to_owned())
    }

    /// Records what the revision stands for; a revision that is a commit needs no record.
    pub(crate) fn write_commit(&self, commit: &str) -> Result<(), HubError> {
        if is_commit(self.revision()) || self.commit().as_deref() == Some(commit) {
            return Ok(());
        }
        write_whole(&self.ref_path(), commit.as_bytes())
    }

    // The listing of a commit that sentune fetched before.
    fn listing(&self, commit: &str) -> Option<Listing> {
        let json = fs_err::read(self.listing_path(commit)).ok()?;
        Listing::from_json(&json).filter(|listing| listing.commit == commit)
    }

    pub(crate) fn write_listing(&self, listing: &Listing) -> Result<(), HubError> {
        write_whole(&self.listing_path(&listing.commit), &listing.to_json()?)
    }

    // A listing of the snapshot's files, for one that Python has fetched.
    fn walk(&self, commit: &str) -> Listing {
        let mut files = Vec::new();
        walk_into(&self.snapshot(commit), "", 0, &mut files);
        files.sort_by(|a: &Entry, b: &Entry| a.name.cmp(&b.name));
        Listing {
            commit: commit.to_owned(),
            files,
        }
    }

    /// Waits until no other process, ours or Python's, fetches the blob; the lock ends with the value.
    pub(crate) fn lock(&self, blob: &str, watcher: &mut dyn Watcher) -> Result<File, HubError> {
        fs_err::create_dir_all(self.folder.join("blobs"))?;
        let folder = self.cache_dir.join(".locks").join(self.repo.folder_name());
        fs_err::create_dir_all(&folder)?;
        let path = folder.join(format!("{blob}.lock"));
        let file = fs_err::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)?
            .into_file();
        let mut has_said = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => {
                    let error =
                        io::Error::new(error.kind(), format!("{}: {error}", path.display()));
                    return Err(error.into());
                }
            }
            if !has_said {
                tracing::info!(
                    "another process is fetching the same file, waiting for it ({})",
                    path.display()
                );
                has_said = true;
            }
            sleep(Duration::from_millis(100), watcher)?;
        }
    }

    /// Makes `snapshots/<commit>/<name>` lead to the blob, and returns its path.
    pub(crate) fn point(&self, commit: &str, name: &str, blob: &str) -> Result<PathBuf, HubError> {
        let pointer = self.snapshot(commit).join(name);
        let Some(folder) = pointer.parent() else {
            return Ok(pointer);
        };
        fs_err::create_dir_all(folder)?;
        let temporary = folder.join(format!(".{}.{}", std::process::id(), blob));
        match fs_err::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        #[cfg(unix)]
        {
            let target: PathBuf = name
                .split('/')
                .map(|_| "..")
                .chain(["..", "blobs", blob])
                .collect();
            if std::fs::read_link(&pointer).is_ok_and(|found| found == target) {
                return Ok(pointer);
            }
            fs_err::os::unix::fs::symlink(target, &temporary)?;
        }
        // Links need a privilege on Windows.
        #[cfg(not(unix))]
        fs_err::copy(self.blob(blob), &temporary)?;
        fs_err::rename(&temporary, &pointer)?;
        sync_folder(&pointer)?;
        Ok(pointer)
    }

    fn ref_path(&self) -> PathBuf {
        self.folder.join("refs").join(self.revision())
    }

    fn listing_path(&self, commit: &str) -> PathBuf {
        self.folder.join(".listings").join(format!("{commit}.json"))
    }
}

impl fmt::Display for RepoFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)
    }
}

// Deeper than any module folder or data set layout.
const DEEPEST: usize = 6;

fn walk_into(folder: &Path, prefix: &str, depth: usize, files: &mut Vec<Entry>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let Some(name) = entry
            .file_name()
            .to_str()
            .map(|name| format!("{prefix}{name}"))
        else {
            continue;
        };
        // Follows a file's link into blobs, but no link to a folder.
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let is_file = std::fs::metadata(entry.path()).is_ok_and(|target| target.is_file());
        if is_folder && depth < DEEPEST {
            walk_into(&entry.path(), &format!("{name}/"), depth + 1, files);
        } else if is_file && check_listed(&name).is_ok() {
            files.push(Entry {
                name,
                ..Entry::default()
            });
        }
    }
}

// A small file, which takes its name only when whole.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), HubError> {
    let Some(folder) = path.parent() else {
        return Ok(());
    };
    fs_err::create_dir_all(folder)?;
    let mut builder = tempfile::Builder::new();
    // A shared cache is for others to read too, as far as the umask lets them.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let in_folder = |error: io::Error| {
        io::Error::new(
            error.kind(),
            format!("failed to write {}: {error}", path.display()),
        )
    };
    let mut file = builder.tempfile_in(folder).map_err(in_folder)?;
    file.write_all(bytes).map_err(in_folder)?;
    file.as_file().sync_all().map_err(in_folder)?;
    file.persist(path).map_err(|error| in_folder(error.error))?;
    sync_folder(path).map_err(in_folder)?;
    Ok(())
}

//! The lock of a run's folder: one trainer at a time.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use crate::error::TrainError;

/// Name of the file that is locked and holds the number of the process.
const LOCK: &str = ".lock";

/// The right to write to a folder, until dropped or until the process ends, however it ends: it is the
/// system's advisory lock (`flock`) on a file, and not the file.
#[derive(Debug)]
pub(crate) struct FolderLock {
    path: PathBuf,
    /// `None` where the file system has no locks.
    file: Option<File>,
}

impl FolderLock {
    /// Takes the lock of `folder`, which has to be there.
    ///
    /// # Errors
    /// [`TrainError::Locked`] when another process has it, and when the file can't be written.
    pub(crate) fn take(folder: &Path) -> Result<Self, TrainError> {
        let path = folder.join(LOCK);
        loop {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .map_err(|error| at(&path, error))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let mut holder = String::new();
                    // The holder may be about to write it; then it is unknown.
                    let _ = file.read_to_string(&mut holder);
                    return Err(TrainError::Locked {
                        folder: folder.to_owned(),
                        pid: holder.trim().parse().ok(),
                    });
                }
                Err(TryLockError::Error(error)) if has_no_locks(&error) => {
                    return Ok(Self { path, file: None });
                }
                Err(TryLockError::Error(error)) => return Err(at(&path, error).into()),
            }
            // Its last holder may have removed the file between our opening and our locking it.
            if !is_still_there(&file, &path) {
                continue;
            }
            file.set_len(0).map_err(|error| at(&path, error))?;
            file.write_all(format!("{}\n", std::process::id()).as_bytes())
                .map_err(|error| at(&path, error))?;
            return Ok(Self {
                path,
                file: Some(file),
            });
        }
    }

    /// Whether the file system has locks at all.
    pub(crate) fn is_held(&self) -> bool {
        self.file.is_some()
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        if self.file.is_some() {
            // While it is still locked, so that nobody else's is removed. One that stays does no harm.
            let _ = fs_err::remove_file(&self.path);
        }
    }
}

fn at(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// ENOSYS, EOPNOTSUPP and ENOLCK: file systems on the network may have no locks.
fn has_no_locks(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Unsupported || error.raw_os_error() == Some(37)
}

#[cfg(unix)]
fn is_still_there(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), path.metadata()) {
        (Ok(ours), Ok(theirs)) => (ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino()),
        _ => false,
    }
}

/// An open file can't be removed here.
#[cfg(not(unix))]
fn is_still_there(_file: &File, _path: &Path) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_locked_once_until_the_lock_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        // A file that a killed process left behind locks nothing.
        fs_err::write(folder.path().join(LOCK), "1\n").unwrap();
        let lock = FolderLock::take(folder.path()).unwrap();
        assert!(lock.is_held());
        let error = FolderLock::take(folder.path()).unwrap_err().to_string();
        assert!(
            error.contains(&format!("process {}", std::process::id())),
            "{error}"
        );
        drop(lock);
        assert_eq!(fs_err::read_dir(folder.path()).unwrap().count(), 0);
        FolderLock::take(folder.path()).unwrap();
    }
}

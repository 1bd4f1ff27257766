//! The user's cache: the finished libtorch, the wheels of an unfinished run, and the lock.

use std::{
    env,
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context, Result};
use fs_err as fs;

/// The place of one variant of libtorch in the user's cache.
#[derive(Debug)]
pub(super) struct Cache {
    /// The finished libtorch; its siblings' names start with its own.
    folder: PathBuf,
    /// Verified wheels, kept until the folder is finished.
    wheels: PathBuf,
}

impl Cache {
    /// Finds the cache folder and makes it; `name` names the variant.
    pub(super) fn find(root: &Path, name: String) -> Result<Self> {
        let parent = cache_folder(root)?;
        Ok(Self {
            wheels: parent.join(format!("{name}.wheels")),
            folder: parent.join(name),
        })
    }

    /// The finished libtorch.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder of verified wheels, which is there after [`Cache::begin`].
    pub(super) fn wheels(&self) -> &Path {
        &self.wheels
    }

    /// Whether the folder is complete and of this version.
    pub(super) fn is_complete(&self, version: &str) -> bool {
        std::fs::read_to_string(self.folder.join("build-version"))
            .is_ok_and(|text| text.trim() == version)
    }

    /// Waits until no other process sets up this variant; the lock ends with the returned file, and
    /// with the process, however that ends.
    pub(super) fn lock(&self) -> Result<fs::File> {
        let path = self.sibling("lock");
        let file = fs::File::create(&path)?;
        if file.file().try_lock().is_err() {
            eprintln!("setup: waiting for another setup to finish");
            file.file()
                .lock()
                .with_context(|| format!("locking {}", path.display()))?;
        }
        Ok(file)
    }

    /// Clears away what interrupted runs left, and makes an empty folder to work in.
    ///
    /// To be called under the lock.
    pub(super) fn begin(&self) -> Result<PathBuf> {
        self.clear_leftovers()?;
        fs::create_dir_all(&self.wheels)?;
        let work = self.sibling(&format!("partial-{}", process::id()));
        fs::create_dir(&work)?;
        Ok(work)
    }

    /// Gives the finished folder its name, and clears away everything else.
    pub(super) fn finish(&self, finished: &Path) -> Result<()> {
        if self.folder.exists() {
            fs::rename(
                &self.folder,
                self.sibling(&format!("partial-{}-old", process::id())),
            )?;
        }
        fs::rename(finished, &self.folder)?;
        self.clear_leftovers()?;
        fs::remove_dir_all(&self.wheels)?;
        Ok(())
    }

    fn clear_leftovers(&self) -> Result<()> {
        let prefix = self.sibling("partial-");
        let parent = self.folder.parent().context("the cache has no parent")?;
        for entry in fs::read_dir(parent)? {
            let path = entry?.path();
            if path
                .to_string_lossy()
                .starts_with(&*prefix.to_string_lossy())
            {
                fs::remove_dir_all(path)?;
            }
        }
        Ok(())
    }

    fn sibling(&self, suffix: &str) -> PathBuf {
        let mut name = self.folder.clone().into_os_string();
        name.push(".");
        name.push(suffix);
        name.into()
    }
}

/// The folder of this project in the user's cache, made where it is missing; its real place.
pub(crate) fn cache_folder(root: &Path) -> Result<PathBuf> {
    let variable = |name| env::var_os(name).map(PathBuf::from);
    let parent = match parent(variable("XDG_CACHE_HOME"), variable("HOME")) {
        // A service's home is often a folder that does not exist, or is not its own.
        Some(parent) if fs::create_dir_all(&parent).is_ok() && is_writable(&parent) => parent,
        _ => {
            let parent = root.join("target/cache/sentune");
            eprintln!(
                "setup: neither XDG_CACHE_HOME nor HOME leads to a folder that can be written to: using {}",
                parent.display()
            );
            fs::create_dir_all(&parent)?;
            parent
        }
    };
    // The link and the run path want the real place.
    Ok(fs::canonicalize(parent)?)
}

/// The path of that folder by the XDG base directory specification, which ignores relative paths and defaults to
/// ~/.cache.
fn parent(xdg_cache_home: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
    let cache = xdg_cache_home
        .filter(|path| path.is_absolute())
        .or_else(|| {
            home.filter(|path| path.is_absolute())
                .map(|home| home.join(".cache"))
        })?;
    Some(cache.join("sentune"))
}

/// Whether files can be made in the folder, by trying: permissions do not show a read-only file system.
fn is_writable(folder: &Path) -> bool {
    let probe = folder.join(format!("probe-{}", process::id()));
    let made = std::fs::create_dir(&probe).is_ok();
    made && std::fs::remove_dir(&probe).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Option<PathBuf> {
        Some(text.into())
    }

    fn cache(folder: &Path) -> Cache {
        Cache {
            folder: folder.join("libtorch"),
            wheels: folder.join("libtorch.wheels"),
        }
    }

    #[test]
    fn odd_homes_are_passed_over() {
        assert_eq!(parent(path("/x"), path("/h")), path("/x/sentune"));
        assert_eq!(parent(path("x"), path("/h")), path("/h/.cache/sentune"));
        assert_eq!(parent(path(""), path("/h")), path("/h/.cache/sentune"));
        assert_eq!(parent(None, path("h")), None);
        assert_eq!(parent(None, path("")), None);
        assert_eq!(parent(None, None), None);
    }

    #[test]
    fn an_interrupted_run_leaves_its_wheels_and_nothing_else() -> Result<()> {
        let parent = tempfile::tempdir()?;
        let cache = cache(parent.path());
        let work = cache.begin()?;
        fs::create_dir(work.join("libtorch"))?;
        fs::write(cache.wheels().join("a.whl"), "whole")?;
        let left = parent.path().join("libtorch.partial-1");
        fs::create_dir(&left)?;
        assert!(!cache.is_complete("2"));

        let work = cache.begin()?;
        assert!(!left.exists());
        assert_eq!(fs::read_dir(&work)?.count(), 0);
        assert!(cache.wheels().join("a.whl").exists());
        Ok(())
    }

    #[test]
    fn a_finished_run_replaces_the_folder_and_leaves_no_wheels() -> Result<()> {
        let parent = tempfile::tempdir()?;
        let cache = cache(parent.path());
        for version in ["1", "2"] {
            let folder = cache.begin()?.join("libtorch");
            fs::create_dir(&folder)?;
            fs::write(folder.join("build-version"), version)?;
            cache.finish(&folder)?;
            assert!(cache.is_complete(version));
        }
        assert_eq!(fs::read_dir(parent.path())?.count(), 1);
        Ok(())
    }

    #[test]
    fn the_lock_keeps_others_out_until_it_is_dropped() -> Result<()> {
        let parent = tempfile::tempdir()?;
        let cache = cache(parent.path());
        let lock = cache.lock()?;
        let other = fs::File::create(parent.path().join("libtorch.lock"))?;
        assert!(other.file().try_lock().is_err());
        drop(lock);
        assert!(other.file().try_lock().is_ok());
        Ok(())
    }
}

//! The folder of a libtorch: its libraries and its version.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
};

use crate::{
    error::LaunchError,
    version::{VERSION, Version},
};

/// The library by which a libtorch is recognised; the others are beside it.
const LIBRARY: &str = "libtorch_cpu.so";

/// The library of a libtorch with CUDA.
const CUDA_LIBRARY: &str = "libtorch_cuda.so";

/// The name of the folder in `sentune`'s cache that `cargo xtask setup` puts a libtorch into; `variant` is `cpu` or
/// `cu130`.
pub fn cached_name(variant: &str) -> String {
    format!("libtorch-{VERSION}-{variant}")
}

/// A libtorch on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Libtorch {
    lib: PathBuf,
    version: Option<Version>,
}

impl Libtorch {
    /// The libtorch of a folder: its own, that of its `lib`, or that of a `torch` in it, as where Python keeps its
    /// packages.
    pub fn at(folder: &Path) -> Option<Self> {
        let places = [
            folder.join("lib"),
            folder.to_owned(),
            folder.join("torch/lib"),
        ];
        let lib = places
            .into_iter()
            .find(|place| place.join(LIBRARY).exists())?;
        Some(Self {
            version: lib.parent().and_then(Version::of_folder),
            lib,
        })
    }

    /// [`Self::at`] with an error; `what` is the variable that names the folder.
    ///
    /// # Errors
    /// Where there is none.
    pub fn named(what: &'static str, folder: &Path) -> Result<Self, LaunchError> {
        Self::at(folder).ok_or_else(|| LaunchError::NotThere {
            what,
            folder: folder.to_owned(),
        })
    }

    /// The folder with the libraries.
    pub fn lib(&self) -> &Path {
        &self.lib
    }

    /// Whether the library in this folder is the same file, whatever links lead to it.
    pub fn is_in(&self, folder: &Path) -> bool {
        let real = |folder: &Path| fs::canonicalize(folder.join(LIBRARY)).ok();
        real(folder).is_some_and(|file| real(&self.lib) == Some(file))
    }

    /// The version, where the folder tells it.
    pub fn version(&self) -> Option<&Version> {
        self.version.as_ref()
    }

    /// Whether it has CUDA.
    pub fn has_cuda(&self) -> bool {
        self.lib.join(CUDA_LIBRARY).exists()
    }

    /// Checks that programs run with it, where the folder tells its version.
    ///
    /// # Errors
    /// Where it is of another release.
    pub fn check(&self) -> Result<(), LaunchError> {
        match &self.version {
            Some(version) if !version.runs() => Err(LaunchError::Version {
                folder: self.lib.clone(),
                version: version.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// The value for LD_LIBRARY_PATH, which was `before`: the libraries, those of NVIDIA's packages beside Python's
    /// `torch`, and the folders of `before`.
    pub fn library_path(&self, before: Option<&OsStr>) -> OsString {
        let mut folders = vec![self.lib.clone()];
        let packages = self.lib.parent().and_then(Path::parent);
        if let Some(packages) = packages.map(|packages| packages.join("nvidia")) {
            let mut beside: Vec<PathBuf> = fs::read_dir(packages)
                .into_iter()
                .flatten()
                .filter_map(|entry| Some(entry.ok()?.path().join("lib")))
                .filter(|lib| lib.is_dir())
                .collect();
            beside.sort();
            folders.append(&mut beside);
        }
        let before = before.unwrap_or_default();
        folders.extend(env::split_paths(before).filter(|path| !path.as_os_str().is_empty()));
        let usable = folders
            .iter()
            .filter(|path| !path.as_os_str().as_encoded_bytes().contains(&b':'));
        env::join_paths(usable).unwrap_or_else(|_| self.lib.clone().into_os_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn pythons_package_brings_the_libraries_beside_it() {
        let root = tempfile::tempdir().unwrap();
        let packages = root.path().join("site-packages");
        write(&packages.join("torch/lib").join(LIBRARY), "");
        write(
            &packages.join("torch/version.py"),
            "from typing import Optional\n\n__version__ = '2.11.0+cu130'\ndebug = False\n",
        );
        for name in ["cudnn", "cu13"] {
            write(&packages.join("nvidia").join(name).join("lib/lib.so"), "");
        }
        write(&packages.join("nvidia/headers/include/a.h"), "");
        for folder in ["", "torch", "torch/lib"] {
            let libtorch = Libtorch::at(&packages.join(folder)).unwrap();
            assert!(
                libtorch.is_in(&packages.join("torch/../torch/lib")),
                "{folder}"
            );
            let version = Some(Version::parse("2.11.0+cu130"));
            assert_eq!(libtorch.version, version);
            assert!(libtorch.check().is_ok());
            let path = libtorch.library_path(Some(OsStr::new("/a::/b")));
            let expected = ["torch/lib", "nvidia/cu13/lib", "nvidia/cudnn/lib"];
            let expected: Vec<PathBuf> = expected
                .iter()
                .map(|name| packages.join(name))
                .chain(["/a".into(), "/b".into()])
                .collect();
            assert_eq!(env::split_paths(&path).collect::<Vec<_>>(), expected);
        }
        assert_eq!(Libtorch::at(root.path()), None);
    }
}

//! The folder of a libtorch: where its libraries are, and which release it is.

use std::{
    env,
    ffi::{OsStr, OsString},
    fmt, fs,
    path::{Path, PathBuf},
};

use crate::LaunchError;

/// The version of libtorch that tch 0.24 is made for, which `cargo xtask setup` fetches.
pub const VERSION: &str = "2.11.0";

/// [`VERSION`] without its last number, which may be another one when a program runs.
pub const RELEASE: &str = "2.11";

/// The library by which a libtorch is recognised; the others are beside it.
const LIBRARY: &str = "libtorch_cpu.so";

/// The library of a libtorch with CUDA.
const CUDA_LIBRARY: &str = "libtorch_cuda.so";

/// The name of the folder in `sentune`'s cache that `cargo xtask setup` puts a libtorch into; `variant` is `cpu` or
/// `cu130`.
pub fn cached_name(variant: &str) -> String {
    format!("libtorch-{VERSION}-{variant}")
}

/// A version such as `2.11.0` or `2.11.0+cu130`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(String);

impl Version {
    /// Takes the version without white space around it.
    pub fn parse(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    /// The version of the folder above the libraries: from the file that libtorch's archives and set-up have, else
    /// from that of Python's package, else from the headers.
    pub fn of_folder(folder: &Path) -> Option<Self> {
        let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
        if let Some(text) = read("build-version") {
            return Some(Self::parse(&text));
        }
        if let Some(text) = read("version.py") {
            let mut lines = text.lines();
            let version = lines.find_map(|line| line.strip_prefix("__version__ = "))?;
            return Some(Self::parse(version.trim_matches(['\'', '"', ' '])));
        }
        let header = read("include/torch/headeronly/version.h")?;
        Some(Self::parse(&header_version(&header)?))
    }

    /// Whether tch builds with this version, which must be [`VERSION`]; what follows a `+` does not matter.
    /// LIBTORCH_BYPASS_VERSION_CHECK allows any, as torch-sys does.
    pub fn builds(&self) -> bool {
        self.0.split('+').next() == Some(VERSION) || is_bypassed()
    }

    /// Whether a program built for [`VERSION`] runs with this version, which must be of [`RELEASE`].
    /// LIBTORCH_BYPASS_VERSION_CHECK allows any.
    pub fn runs(&self) -> bool {
        let rest = self.0.strip_prefix(RELEASE);
        rest.is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_digit()))
            || is_bypassed()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_bypassed() -> bool {
    env::var_os("LIBTORCH_BYPASS_VERSION_CHECK").is_some()
}

/// The version that `torch/headeronly/version.h` defines.
fn header_version(header: &str) -> Option<String> {
    let number = |name: &str| {
        let define = format!("#define TORCH_VERSION_{name} ");
        header.lines().find_map(|line| line.strip_prefix(&define))
    };
    let (major, minor, patch) = (number("MAJOR")?, number("MINOR")?, number("PATCH")?);
    Some(format!(
        "{}.{}.{}",
        major.trim(),
        minor.trim(),
        patch.trim()
    ))
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

    #[test]
    fn a_build_needs_the_version_and_a_run_the_release() {
        for (text, builds, runs) in [
            ("2.11.0", true, true),
            ("2.11.0+cpu\n", true, true),
            ("2.11.0+cu130", true, true),
            ("2.11", false, true),
            ("2.11.1+cpu", false, true),
            ("2.11.0a0+git", false, true),
            ("2.10.0", false, false),
            ("2.1", false, false),
            ("2.110.0", false, false),
            ("12.11.0", false, false),
            ("", false, false),
        ] {
            let version = Version::parse(text);
            assert_eq!((version.builds(), version.runs()), (builds, runs), "{text}");
        }
        assert!(VERSION.starts_with(&format!("{RELEASE}.")));
    }

    #[test]
    fn headers_tell_the_version() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(Version::of_folder(root.path()), None);
        let header = root.path().join("include/torch/headeronly/version.h");
        write(&header, "#pragma once\n");
        assert_eq!(Version::of_folder(root.path()), None);
        write(
            &header,
            "#pragma once\n#define TORCH_VERSION_MAJOR 2\n#define TORCH_VERSION_MINOR 11\n\
             #define TORCH_VERSION_PATCH 0\n#define TORCH_VERSION_ABI_TAG 0\n",
        );
        let version = Version::of_folder(root.path());
        assert_eq!(version, Some(Version::parse("2.11.0")));
    }
}

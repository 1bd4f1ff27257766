//! The release of a libtorch.

use std::{env, fmt, fs, path::Path};

/// The version of libtorch that tch 0.24 is made for, which `cargo xtask setup` fetches.
pub const VERSION: &str = "2.11.0";

/// [`VERSION`] without its last number, which may be another one when a program runs.
pub const RELEASE: &str = "2.11";

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

#[cfg(test)]
mod tests {
    use super::*;

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
        fs::create_dir_all(header.parent().unwrap()).unwrap();
        fs::write(&header, "#pragma once\n").unwrap();
        assert_eq!(Version::of_folder(root.path()), None);
        fs::write(
            &header,
            "#pragma once\n#define TORCH_VERSION_MAJOR 2\n#define TORCH_VERSION_MINOR 11\n\
             #define TORCH_VERSION_PATCH 0\n#define TORCH_VERSION_ABI_TAG 0\n",
        )
        .unwrap();
        let version = Version::of_folder(root.path());
        assert_eq!(version, Some(Version::parse("2.11.0")));
    }
}

//! The version of a libtorch, and whether it is the one that tch was made for.

use std::{env, fmt, path::Path};

use anyhow::{Result, ensure};

/// The libtorch that tch 0.24 was made for.
pub(super) const VERSION: &str = "2.11.0";

/// A version such as `2.11.0` or `2.11.0+cu130`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Version(String);

impl Version {
    pub(super) fn parse(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    /// Reads the version of an unpacked libtorch: from the file that its archives and our set-up
    /// carry, or else from its headers.
    pub(super) fn of_folder(folder: &Path) -> Option<Self> {
        let read = |file: &str| std::fs::read_to_string(folder.join(file)).ok();
        if let Some(text) = read("build-version") {
            return Some(Self::parse(&text));
        }
        let header = read("include/torch/headeronly/version.h")?;
        Some(Self::parse(&header_version(&header)?))
    }

    /// Checks that this is the version that tch expects; `what` names the thing in the error.
    ///
    /// torch-sys checks the same, and the same variable switches the check off, for both.
    pub(super) fn check(&self, what: &str) -> Result<()> {
        let release = self.0.split('+').next().unwrap_or_default();
        ensure!(
            release == VERSION || env::var_os("LIBTORCH_BYPASS_VERSION_CHECK").is_some(),
            "{what} is version {self}, and tch needs {VERSION}: use that one, or unset LIBTORCH and LIBTORCH_USE_PYTORCH to have it fetched"
        );
        Ok(())
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
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
    fn the_local_part_does_not_matter() {
        for text in ["2.11.0", "2.11.0+cpu\n", "2.11.0+cu130"] {
            assert!(Version::parse(text).check("it").is_ok(), "{text}");
        }
        for text in ["2.10.0", "2.11.1+cpu", "2.1", "12.11.0", ""] {
            assert!(Version::parse(text).check("it").is_err(), "{text}");
        }
    }

    #[test]
    fn the_message_names_what_is_and_what_should_be() {
        let error = Version::parse("2.9.1+cpu").check("the libtorch in /opt/torch");
        assert_eq!(
            error.map_err(|error| error.to_string()),
            Err(
                "the libtorch in /opt/torch is version 2.9.1+cpu, and tch needs 2.11.0: use that \
                 one, or unset LIBTORCH and LIBTORCH_USE_PYTORCH to have it fetched"
                    .to_owned()
            )
        );
    }

    #[test]
    fn headers_tell_the_version() {
        let header = "#pragma once\n#define TORCH_VERSION_MAJOR 2\n#define TORCH_VERSION_MINOR 11\n\
                      #define TORCH_VERSION_PATCH 0\n#define TORCH_VERSION_ABI_TAG 0\n";
        assert_eq!(header_version(header).as_deref(), Some("2.11.0"));
        assert_eq!(header_version("#pragma once\n"), None);
    }
}

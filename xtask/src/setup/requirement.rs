//! The pinned wheels, in the format of pip's requirements files.

use std::fmt;

use anyhow::{Context, Result, ensure};

/// One wheel, by name, version and sha256.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Requirement {
    name: String,
    version: String,
    sha256: String,
}

impl Requirement {
    /// The line that pip reads.
    pub(super) fn line(&self) -> String {
        let Self {
            name,
            version,
            sha256,
        } = self;
        format!("{name}=={version} --hash=sha256:{sha256}\n")
    }

    /// The name under which the verified wheel is kept: another pin is another file.
    pub(super) fn file_name(&self) -> String {
        format!("{}-{}-{}.whl", self.name, self.version, &self.sha256[..12])
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

/// Reads a requirements file in which every line pins one wheel with its hash.
pub(super) fn parse(text: &str) -> Result<Vec<Requirement>> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            parse_line(line)
                .with_context(|| format!("`{line}` is not `name==version --hash=sha256:…`"))
        })
        .collect()
}

fn parse_line(line: &str) -> Result<Requirement> {
    let (pin, hash) = line.split_once(" --hash=sha256:").context("no sha256")?;
    let (name, version) = pin.split_once("==").context("no version")?;
    ensure!(
        hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "a sha256 has 64 hexadecimal digits"
    );
    Ok(Requirement {
        name: name.to_owned(),
        version: version.to_owned(),
        sha256: hash.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_read_and_written_as_pip_has_it() -> Result<()> {
        let hash = "0123456789abcdef".repeat(4);
        let line = format!("torch==2.11.0 --hash=sha256:{hash}\n");
        let requirements = parse(&format!("# why\n\n{line}"))?;
        let [torch] = &requirements[..] else {
            panic!("one line, {} pins", requirements.len());
        };
        assert_eq!(torch.line(), line);
        assert_eq!(torch.to_string(), "torch 2.11.0");
        assert_eq!(torch.file_name(), "torch-2.11.0-0123456789ab.whl");
        Ok(())
    }

    #[test]
    fn a_line_without_a_whole_pin_is_refused() {
        for line in [
            "torch",
            "torch==2.11.0",
            "torch --hash=sha256:00",
            "torch==2.11.0 --hash=sha256:00",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}

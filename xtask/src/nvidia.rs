//! NVIDIA's driver and GPUs on this machine, found without loading a library of theirs.

use std::path::Path;

use anyhow::{Result, ensure};
use xshell::{Shell, cmd};

/// A file that the driver's kernel module makes.
const VERSION: &str = "/proc/driver/nvidia/version";

/// Whether there is a driver: the kernel module, or where the kernel is another system's, the driver's own tool.
pub(crate) fn has_driver(shell: &Shell) -> bool {
    Path::new(VERSION).exists() || gpus(shell).is_some_and(|gpus| !gpus.is_empty())
}

/// Fails if there is no driver; `what` needs one, and the message says so.
pub(crate) fn need_driver(shell: &Shell, what: &str) -> Result<()> {
    ensure!(
        has_driver(shell),
        "this machine has no NVIDIA driver ({VERSION} is not there and `nvidia-smi` lists no GPU), and {what} needs one: nothing was downloaded"
    );
    Ok(())
}

/// A GPU in the list of `nvidia-smi`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Gpu {
    pub(crate) name: String,
    /// Memory in MiB.
    pub(crate) memory: f64,
    pub(crate) driver: String,
    /// Compute capability, such as 8.9.
    pub(crate) capability: Option<f64>,
}

impl Gpu {
    /// Whether it multiplies bf16 in hardware.
    pub(crate) fn has_bf16(&self) -> bool {
        self.capability.is_none_or(|capability| capability >= 8.0)
    }
}

/// The GPUs of this machine; `None` if the tool is missing or fails.
pub(crate) fn gpus(shell: &Shell) -> Option<Vec<Gpu>> {
    let answer = cmd!(
        shell,
        "nvidia-smi --query-gpu=name,memory.total,driver_version,compute_cap --format=csv,noheader,nounits"
    );
    let text = answer.quiet().ignore_stderr().read().ok()?;
    Some(text.lines().filter_map(parse).collect())
}

fn parse(line: &str) -> Option<Gpu> {
    let mut fields = line.split(", ");
    let mut next = || fields.next().map(str::trim);
    Some(Gpu {
        name: next()?.to_owned(),
        memory: next()?.parse().ok()?,
        driver: next()?.to_owned(),
        capability: next().and_then(|text| text.parse().ok()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tools_lines_are_read() {
        let gpu = parse("NVIDIA H200, 143771, 570.86.15, 9.0").unwrap();
        assert_eq!((gpu.name.as_str(), gpu.memory), ("NVIDIA H200", 143_771.0));
        assert_eq!(gpu.driver, "570.86.15");
        assert!(gpu.has_bf16());
        assert!(!parse("Tesla T4, 15360, 550.54, 7.5").unwrap().has_bf16());
        assert!(parse("Tesla T4, 15360, 550.54, [N/A]").unwrap().has_bf16());
        assert_eq!(parse("No devices were found"), None);
    }
}

//! `cargo xtask package`: programs to carry to a machine without Rust.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use fs_err as fs;
use serde_json::Value;

use crate::{checkout::Checkout, setup};

/// The largest size of the stripped program, in bytes.
const MAX_BYTES: u64 = 50_000_000;

/// Build `sentune` and `xtask` in release, to be carried to a machine that has libtorch but no Rust.
///
/// They go to target/package. `sentune` finds the libtorch of that machine by SENTUNE_LIBTORCH, which names a
/// libtorch 2.11 or the torch package of a Python, or by LD_LIBRARY_PATH; one is enough for CPU and GPU. For
/// `--cuda-graphs` run `cargo xtask setup --cuda` before.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Builds, packs, and checks the size.
pub(crate) fn run(checkout: &Checkout) -> Result<()> {
    setup::run(checkout, &setup::Args::default())?;
    checkout
        .cargo()
        .args(["build", "--release"])
        .args(["--bin", "sentune", "--bin", "launcher", "--bin", "xtask"])
        .args(setup::features(checkout))
        .run()?;
    let target = target_folder(checkout)?;
    let (built, folder) = (target.join("release"), target.join("package"));
    fs::create_dir_all(&folder)?;
    let (launcher, program) = (built.join("launcher"), built.join("sentune"));
    let packed = folder.join("sentune");
    xshell::cmd!(checkout.shell, "{launcher} {program} {packed}").run()?;
    fs::copy(built.join("xtask"), folder.join("xtask"))?;
    let bytes = fs::metadata(&packed)?.len();
    println!(
        "{} ({:.1} MB) runs on Linux on x86-64 with libtorch 2.11:\n\n    SENTUNE_LIBTORCH=$(python3 -c 'import torch; print(torch.__path__[0])') ./sentune --help\n",
        packed.display(),
        bytes as f64 / 1e6
    );
    check_size(&packed, bytes)
}

/// Cargo's target folder.
pub(crate) fn target_folder(checkout: &Checkout) -> Result<PathBuf> {
    let metadata = checkout
        .cargo()
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .quiet()
        .read()?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let folder = metadata["target_directory"].as_str();
    Ok(folder
        .context("cargo metadata names no target folder")?
        .into())
}

/// Problems of the release builds in this target folder, if there are any.
pub(crate) fn size_problems(target: &Path) -> Vec<String> {
    let built = ["release/sentune", "package/sentune"].map(|name| target.join(name));
    let mut problems = Vec::new();
    for path in built {
        if let Ok(metadata) = std::fs::metadata(&path)
            && let Err(error) = check_size(&path, metadata.len())
        {
            problems.push(error.to_string());
        }
    }
    problems
}

fn check_size(path: &Path, bytes: u64) -> Result<()> {
    ensure!(
        bytes < MAX_BYTES,
        "{} takes {:.1} MB, and is to be carried in less than {:.0} MB: look at what a new dependency brings, and whether it is stripped",
        path.display(),
        bytes as f64 / 1e6,
        MAX_BYTES as f64 / 1e6
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_build_that_is_too_large_is_named() -> Result<()> {
        let target = tempfile::tempdir()?;
        assert_eq!(size_problems(target.path()), Vec::<String>::new());
        fs::create_dir(target.path().join("release"))?;
        let program = fs::File::create(target.path().join("release/sentune"))?;
        program.set_len(MAX_BYTES - 1)?;
        assert_eq!(size_problems(target.path()), Vec::<String>::new());
        program.set_len(MAX_BYTES)?;
        let problems = size_problems(target.path());
        assert!(
            problems[0].contains("release/sentune takes 50.0 MB"),
            "{problems:?}"
        );
        Ok(())
    }
}

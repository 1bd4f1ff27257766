//! Python's sentence-transformers, in an environment of its own.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use fs_err as fs;
use xshell::cmd;

use crate::{checkout::Checkout, setup};

/// The versions that figures are for.
const VERSIONS: [(&str, &str); 2] = [("sentence_transformers", "6.0.1"), ("torch", "2.11.0")];

/// A Python with the peer, and the programs that run it.
#[derive(Debug)]
pub(super) struct Peer {
    python: PathBuf,
    scripts: PathBuf,
}

impl Peer {
    /// Takes the Python that is given, or makes an environment in the cache folder, once.
    pub(super) fn find(checkout: &Checkout, python: Option<&Path>) -> Result<Self> {
        let scripts = checkout.root.join("xtask/peer");
        let python = match python {
            Some(python) => python.to_owned(),
            None => environment(checkout, &scripts)?,
        };
        for (package, version) in VERSIONS {
            let script = format!("import {package}; print({package}.__version__)");
            let found = cmd!(checkout.shell, "{python} -c {script}")
                .quiet()
                .ignore_stderr()
                .read()
                .with_context(|| format!("{} can't import {package}", python.display()))?;
            ensure!(
                found.split('+').next() == Some(version),
                "{} has {package} {found}, and the benchmark is against {version}",
                python.display()
            );
        }
        Ok(Self { python, scripts })
    }

    /// A program of xtask/peer on this model and data.
    pub(super) fn command(
        &self,
        script: &str,
        model: &Path,
        data: &Path,
        n_threads: usize,
    ) -> Command {
        let mut command = Command::new(&self.python);
        command.arg("-B").arg(self.scripts.join(script));
        command.arg("--model").arg(model).arg("--data").arg(data);
        command.args(["--num-threads", &n_threads.to_string()]);
        command.env("OMP_NUM_THREADS", n_threads.to_string());
        command.env("RAYON_NUM_THREADS", n_threads.to_string());
        command.env("TOKENIZERS_PARALLELISM", "true");
        command
    }
}

/// The environment in the user's cache folder; it takes its name when pip is done.
fn environment(checkout: &Checkout, scripts: &Path) -> Result<PathBuf> {
    let folder = setup::cache_folder(&checkout.root)?.join("peer-6.0.1");
    let python = folder.join("bin/python");
    let complete = folder.join("complete");
    if complete.exists() {
        return Ok(python);
    }
    eprintln!(
        "bench: installing the peer in {}: it takes minutes and some 5 GB, less where PIP_INDEX_URL leads to wheels for the CPU alone; --python takes one that is there",
        folder.display()
    );
    // What an interrupted installation left.
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let base = if env::var_os("VIRTUAL_ENV").is_some() {
        "python"
    } else {
        "python3"
    };
    let requirements = scripts.join("requirements.txt");
    cmd!(checkout.shell, "{base} -m venv {folder}").run()?;
    cmd!(
        checkout.shell,
        "{python} -m pip install --disable-pip-version-check --requirement {requirements}"
    )
    .run()
    .context("the peer could not be installed: see pip's words above, or name a Python that has it with --python")?;
    fs::write(complete, "")?;
    Ok(python)
}

//! Python's sentence-transformers, in an environment of its own.

use std::{
    env,
    path::{self, Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use fs_err as fs;
use xshell::cmd;

use crate::{checkout::Checkout, setup};

/// The torch that `pip install sentence-transformers` gives.
const TORCH: &str = "2.15.0";

/// The torch of packages that are given: on a GPU sentune takes its libtorch from there.
const SHARED_TORCH: &str = "2.11.0";

/// The programs that run the peer, kept inside this one: it may be carried to a machine without a checkout.
const SCRIPTS: [(&str, &str); 7] = [
    ("common.py", include_str!("../peer/common.py")),
    ("encode.py", include_str!("../peer/encode.py")),
    ("gemm.py", include_str!("../peer/gemm.py")),
    ("inputs.py", include_str!("../peer/inputs.py")),
    ("parity.py", include_str!("../peer/parity.py")),
    ("tokenize_all.py", include_str!("../peer/tokenize_all.py")),
    ("train.py", include_str!("../peer/train.py")),
];

/// A Python with the peer, and the programs that run it.
#[derive(Debug)]
pub(crate) struct Peer {
    python: PathBuf,
    /// A folder of packages that is not the Python's own.
    packages: Option<PathBuf>,
    scripts: PathBuf,
    /// The version of sentence-transformers.
    version: String,
}

impl Peer {
    /// Takes the Python that is given, or `python3` with the packages that are given, or makes an environment in
    /// the cache folder, once.
    pub(crate) fn find(
        checkout: &Checkout,
        python: Option<&Path>,
        packages: Option<&Path>,
    ) -> Result<Self> {
        let scripts = checkout.root.join("runs/bench/peer");
        fs::create_dir_all(&scripts)?;
        for (name, script) in SCRIPTS {
            fs::write(scripts.join(name), script)?;
        }
        let python = match (python, packages) {
            (Some(python), _) => python.to_owned(),
            (None, Some(_)) => "python3".into(),
            (None, None) => environment(checkout)?,
        };
        let packages = packages.map(path::absolute).transpose()?;
        if let Some(packages) = &packages {
            ensure!(
                packages.join("torch").is_dir(),
                "--python-packages {} holds no folder torch: it must be the folder that Python's packages are in",
                packages.display()
            );
        }
        let mut peer = Self {
            python,
            packages,
            scripts,
            version: String::new(),
        };
        let version = |package: &str| {
            peer.ask(&format!("import {package}; print({package}.__version__)"))
                .with_context(|| format!("{} can't import {package}", peer.python.display()))
        };
        let torch = version("torch")?;
        let wanted = match &peer.packages {
            Some(_) => SHARED_TORCH,
            None => TORCH,
        };
        ensure!(
            torch.split('+').next() == Some(wanted),
            "{} has torch {torch}, and the comparison is with {wanted}",
            peer.python.display()
        );
        peer.version = version("sentence_transformers")?;
        Ok(peer)
    }

    /// Its name with its version.
    pub(crate) fn name(&self) -> String {
        format!("sentence-transformers {}", self.version)
    }

    /// The folder of its torch.
    pub(crate) fn torch(&self) -> Result<PathBuf> {
        let script =
            "import importlib.util as u; print(*u.find_spec('torch').submodule_search_locations)";
        Ok(self.ask(script)?.into())
    }

    /// The output of a short program.
    fn ask(&self, script: &str) -> Result<String> {
        let output = self.python().args(["-c", script]).output()?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn python(&self) -> Command {
        let mut command = Command::new(&self.python);
        if let Some(packages) = &self.packages {
            command.env("PYTHONPATH", packages);
        }
        command
    }

    /// A program of the peer's on this model and data.
    pub(crate) fn command(
        &self,
        script: &str,
        model: &Path,
        data: &Path,
        n_threads: usize,
    ) -> Command {
        let mut command = self.python();
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
fn environment(checkout: &Checkout) -> Result<PathBuf> {
    let folder = setup::cache_folder(&checkout.root)?.join("peer-6.2.0");
    let python = folder.join("bin/python");
    let complete = folder.join("complete");
    if complete.exists() {
        return Ok(python);
    }
    eprintln!(
        "installing the peer in {}: it takes minutes and some 5 GB, less where PIP_INDEX_URL leads to wheels for the CPU alone; --python takes one that is there",
        folder.display()
    );
    // An interrupted installation leaves a folder behind.
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let base = if env::var_os("VIRTUAL_ENV").is_some() {
        "python"
    } else {
        "python3"
    };
    let requirements = checkout.root.join("xtask/peer/requirements.txt");
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

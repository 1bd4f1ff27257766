//! A wheel that installs the program beside the torch of a Python environment.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use fs_err as fs;
use grammar::Split;
use xshell::cmd;

use super::symbols::{self, PLATFORM};
use crate::{checkout::Checkout, quickstart, setup};

/// Writes the wheel, and returns its path.
pub(super) fn write(
    checkout: &Checkout,
    program: &Path,
    version: &str,
    folder: &Path,
) -> Result<PathBuf> {
    let python = setup::python_name();
    let script = checkout.root.join("xtask/package/wheel.py");
    let wheel = folder.join(format!("sentune-{version}-py3-none-{PLATFORM}.whl"));
    let root = &checkout.root;
    cmd!(checkout.shell, "{python} {script} {program} {root} {wheel}").run()?;
    println!(
        "{}: install it with pip, pipx or uv; it runs with the torch 2.11 of its environment",
        wheel.display()
    );
    Ok(wheel)
}

/// A release of torch that the program does not run with.
const OTHER_TORCH: &str = "2.12.0";

/// Installs the wheel into a fresh environment. There it has to fail in words without torch and with another release,
/// and to train and encode with the right one, which pip brings where `with_pip` asks for it.
pub(super) fn check(
    checkout: &Checkout,
    wheel: &Path,
    folder: &Path,
    with_pip: bool,
) -> Result<()> {
    let shell = &checkout.shell;
    let folder = folder.join("environment");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let python = setup::python_name();
    cmd!(shell, "{python} -m venv {folder}").run()?;
    let environment = Environment { folder };
    let pip = environment.folder.join("bin/pip");
    let install = || -> Result<()> {
        Ok(cmd!(
            shell,
            "{pip} install --quiet --no-index --no-deps --disable-pip-version-check {wheel}"
        )
        .run()?)
    };
    install()?;
    symbols::check_carried(shell, &environment.program())?;
    environment.fails("pip install")?;
    let packages = cmd!(shell, "{pip} show sentune").quiet().read()?;
    let packages = packages
        .lines()
        .find_map(|line| line.strip_prefix("Location: "));
    let torch = Path::new(packages.context("pip names no place of the wheel")?).join("torch");
    if with_pip {
        cmd!(
            shell,
            "{pip} install --quiet --no-deps torch=={OTHER_TORCH}"
        )
        .run()?;
        environment.fails(&format!("is version {OTHER_TORCH}"))?;
        // pip sees by the wheel's metadata that this torch does not do.
        cmd!(shell, "{pip} install --quiet {wheel}").run()?;
        let python = environment.folder.join("bin/python");
        let script = "import torch; print(torch.__version__)";
        let version = cmd!(shell, "{python} -c {script}").read()?;
        println!("pip brought torch {version}");
    } else {
        fs::create_dir_all(torch.join("lib"))?;
        fs::write(torch.join("lib/libtorch_cpu.so"), "")?;
        let version = format!("__version__ = '{OTHER_TORCH}'\n");
        fs::write(torch.join("version.py"), version)?;
        environment.fails(&format!("is version {OTHER_TORCH}"))?;
        fs::remove_dir_all(&torch)?;
        let libtorch = checkout
            .own_libtorch()
            .unwrap_or_else(|| checkout.libtorch());
        crate::checkout::link(&fs::canonicalize(libtorch)?, &torch)?;
    }

    let triplets = grammar::triplets(Split::Train, 200, 42);
    fs::write(
        environment.folder.join("triplets.csv"),
        quickstart::csv(&triplets),
    )?;
    fs::write(
        environment.folder.join("vocab.txt"),
        grammar::vocabulary().join("\n") + "\n",
    )?;
    fs::write(
        environment.folder.join("texts.txt"),
        "a dog runs\na man sleeps\n",
    )?;
    environment.works("init --vocab-file vocab.txt --output model --hidden-size 64 --num-hidden-layers 2 --num-attention-heads 4 --intermediate-size 128 --max-position-embeddings 130")?;
    // As somebody who has torch: the wheel, and the first step.
    cmd!(shell, "{pip} uninstall --quiet --yes sentune").run()?;
    let started = Instant::now();
    install()?;
    let installed = started.elapsed().as_secs_f64();
    let log = environment.works("train --model model --train-data triplets.csv --output-dir first --max-steps 1 --save-strategy no --no-report --json")?;
    ensure!(
        log.contains("\"train_loss\""),
        "a step of training logged no loss: {log}"
    );
    println!(
        "from `pip install` of the wheel to the end of a run of one step: {:.1} s, pip's {installed:.1} s among them",
        started.elapsed().as_secs_f64()
    );
    for line in [
        "--version",
        "train --model model --train-data triplets.csv --output-dir run --max-steps 5",
        "encode --model run/final --input texts.txt --output texts.npy",
    ] {
        environment.works(line)?;
    }
    let facts = environment.works("doctor")?;
    let program = environment.program().display().to_string();
    ensure!(
        facts.contains(&program),
        "the doctor names another program than {program}: {facts}"
    );
    println!("the wheel trained and encoded in a fresh environment");
    Ok(())
}

/// A virtual environment with the wheel.
struct Environment {
    folder: PathBuf,
}

impl Environment {
    fn program(&self) -> PathBuf {
        self.folder.join("bin/sentune")
    }

    /// Runs the program with words that hold no spaces.
    fn call(&self, line: &str) -> Result<Output> {
        let mut command = Command::new(self.program());
        command
            .args(line.split_whitespace())
            .current_dir(&self.folder);
        // Neither another libtorch nor the cache's.
        command
            .env_remove("SENTUNE_LIBTORCH")
            .env_remove("LD_LIBRARY_PATH");
        command.env("XDG_CACHE_HOME", self.folder.join("cache"));
        command.env("HF_HUB_OFFLINE", "1");
        Ok(command.output()?)
    }

    /// Runs the program, which has to succeed, and returns its stdout.
    fn works(&self, line: &str) -> Result<String> {
        let output = self.call(line)?;
        ensure!(
            output.status.success(),
            "sentune {line}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Runs the program, which has to fail with an error that holds these words.
    fn fails(&self, words: &str) -> Result<()> {
        let output = self.call("--version")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            !output.status.success() && said.contains(words),
            "the wheel was to fail with `{words}`, and {}: {said}",
            output.status
        );
        print!("{said}");
        Ok(())
    }
}

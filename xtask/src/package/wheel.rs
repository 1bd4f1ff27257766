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

use super::symbols::PLATFORM;
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

/// Installs the wheel into a fresh environment. There it has to fail in words without torch and with another release,
/// and to train and encode with the right one.
pub(super) fn check(checkout: &Checkout, wheel: &Path, folder: &Path) -> Result<()> {
    let shell = &checkout.shell;
    let environment = folder.join("environment");
    if environment.exists() {
        fs::remove_dir_all(&environment)?;
    }
    let python = setup::python_name();
    cmd!(shell, "{python} -m venv {environment}").run()?;
    let started = Instant::now();
    let pip = environment.join("bin/pip");
    cmd!(
        shell,
        "{pip} install --quiet --no-index --no-deps --disable-pip-version-check {wheel}"
    )
    .run()?;
    let sentune = environment.join("bin/sentune");
    let call = |arguments: &[&str]| -> Result<Output> {
        let mut command = Command::new(&sentune);
        command.args(arguments).current_dir(&environment);
        // Neither another libtorch nor the cache's.
        command
            .env_remove("SENTUNE_LIBTORCH")
            .env_remove("LD_LIBRARY_PATH");
        command.env("XDG_CACHE_HOME", environment.join("cache"));
        command.env("HF_HUB_OFFLINE", "1");
        Ok(command.output()?)
    };
    let fails = |words: &str| -> Result<()> {
        let output = call(&["--version"])?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            !output.status.success() && said.contains(words),
            "the wheel was to fail with `{words}`, and {}: {said}",
            output.status
        );
        Ok(())
    };
    fails("pip install")?;
    let packages = cmd!(shell, "{pip} show sentune").quiet().read()?;
    let packages = packages
        .lines()
        .find_map(|line| line.strip_prefix("Location: "));
    let torch = Path::new(packages.context("pip names no place of the wheel")?).join("torch");
    fs::create_dir_all(torch.join("lib"))?;
    fs::write(torch.join("lib/libtorch_cpu.so"), "")?;
    fs::write(torch.join("version.py"), "__version__ = '2.9.0'\n")?;
    fails("is version 2.9.0")?;
    fs::remove_dir_all(&torch)?;
    let libtorch = checkout
        .own_libtorch()
        .unwrap_or_else(|| checkout.libtorch());
    crate::checkout::link(&fs::canonicalize(libtorch)?, &torch)?;

    let triplets = grammar::triplets(Split::Train, 200, 42);
    fs::write(environment.join("triplets.csv"), quickstart::csv(&triplets))?;
    fs::write(
        environment.join("vocab.txt"),
        grammar::vocabulary().join("\n") + "\n",
    )?;
    fs::write(environment.join("texts.txt"), "a dog runs\na man sleeps\n")?;
    let init = "init --vocab-file vocab.txt --output model --hidden-size 64 --num-hidden-layers 2 --num-attention-heads 4 --intermediate-size 128 --max-position-embeddings 130";
    let train = "train --model model --train-data triplets.csv --output-dir run --max-steps 5";
    let encode = "encode --model run/final --input texts.txt --output texts.npy";
    for line in ["--version", init, train, encode] {
        let arguments: Vec<&str> = line.split_whitespace().collect();
        let output = call(&arguments)?;
        ensure!(
            output.status.success(),
            "sentune {line}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    println!(
        "the wheel was installed into a fresh environment, where it trained and encoded, {:.1} s after the start of pip",
        started.elapsed().as_secs_f64()
    );
    Ok(())
}

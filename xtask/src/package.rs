//! `cargo xtask package`: programs to carry to a machine without Rust.

mod symbols;
mod wheel;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use fs_err as fs;
use serde_json::Value;
use xshell::cmd;

use crate::{checkout::Checkout, setup};

/// The largest size of the stripped program, in bytes.
const MAX_BYTES: u64 = 50_000_000;

/// Build `sentune` and `xtask` in release, to be carried to a machine that has libtorch but no Rust.
///
/// They go to target/package. `sentune` finds the libtorch of that machine by SENTUNE_LIBTORCH, which names a
/// libtorch 2.11 or the torch package of a Python, in the Python environment that its wheel is installed in, or by
/// LD_LIBRARY_PATH; one is enough for CPU and GPU. For `--cuda-graphs` run `cargo xtask setup --cuda` before.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("packed").multiple(true)))]
pub(crate) struct Args {
    /// Make a wheel too, which pip, pipx and uv install beside torch 2.11
    #[arg(long, group = "packed")]
    wheel: bool,
    /// Make an archive too, with completions for shells and manual pages
    #[arg(long, group = "packed")]
    tarball: bool,
    /// Install the wheel into a fresh virtual environment, and train and encode with it; unpack the archive, and look
    /// at each part
    #[arg(long, requires = "packed")]
    check: bool,
    /// In that environment, have pip bring torch with all that it needs (5 GB), in place of set-up's libtorch
    #[arg(long, requires = "check", requires = "wheel")]
    pip: bool,
    /// Package the development build, which is made faster and is larger
    #[arg(long)]
    dev: bool,
}

/// Builds, packs, and checks the size and the symbols.
pub(crate) fn run(checkout: &Checkout, args: &Args) -> Result<()> {
    setup::run(checkout, &setup::Args::default())?;
    let profile = if args.dev { "dev" } else { "release" };
    checkout
        .cargo()
        .args(["build", "--profile", profile])
        .args(["--bin", "sentune", "--bin", "launcher", "--bin", "xtask"])
        .args(setup::features(checkout))
        .run()?;
    let metadata = metadata(checkout)?;
    let target: PathBuf = metadata["target_directory"]
        .as_str()
        .context("cargo metadata names no target folder")?
        .into();
    let [built, folder] = if args.dev {
        ["debug", "package-dev"]
    } else {
        ["release", "package"]
    }
    .map(|name| target.join(name));
    fs::create_dir_all(&folder)?;
    let (launcher, program) = (built.join("launcher"), built.join("sentune"));
    for program in [&launcher, &program] {
        symbols::check(&checkout.shell, program)?;
    }
    let packed = folder.join("sentune");
    cmd!(checkout.shell, "{launcher} {program} {packed}").run()?;
    fs::copy(built.join("xtask"), folder.join("xtask"))?;
    let bytes = fs::metadata(&packed)?.len();
    println!(
        "{} ({:.1} MB) runs on Linux on x86-64 with libtorch 2.11:\n\n    SENTUNE_LIBTORCH=$(python3 -c 'import torch; print(torch.__path__[0])') ./sentune --help\n",
        packed.display(),
        bytes as f64 / 1e6
    );
    if !args.dev {
        check_size(&packed, bytes)?;
    }
    let version = version(&metadata)?;
    if args.wheel {
        let wheel = wheel::write(checkout, &packed, &version, &folder)?;
        if args.check {
            wheel::check(checkout, &wheel, &folder, args.pip)?;
        }
    }
    if args.tarball {
        let archive = tarball(checkout, &program, &packed, &version, &folder)?;
        if args.check {
            check_tarball(checkout, &archive, &version, &folder)?;
        }
    }
    Ok(())
}

/// An archive of the program, completions, manual pages and licences, laid out as /usr/local is.
fn tarball(
    checkout: &Checkout,
    program: &Path,
    packed: &Path,
    version: &str,
    folder: &Path,
) -> Result<PathBuf> {
    let shell = &checkout.shell;
    let name = format!("sentune-{version}-x86_64-linux");
    let root = folder.join(&name);
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    let (bin, share) = (root.join("bin"), root.join("share"));
    fs::create_dir_all(&bin)?;
    fs::copy(packed, bin.join("sentune"))?;
    for (kind, place) in [
        ("bash", "bash-completion/completions/sentune"),
        ("zsh", "zsh/site-functions/_sentune"),
        ("fish", "fish/vendor_completions.d/sentune.fish"),
    ] {
        let script = cmd!(shell, "{program} completions {kind}").quiet().read()?;
        let place = share.join(place);
        fs::create_dir_all(place.parent().context("a place has a folder")?)?;
        fs::write(place, script + "\n")?;
    }
    let pages = share.join("man/man1");
    fs::create_dir_all(&pages)?;
    cmd!(shell, "{program} man --output-dir {pages}").run()?;
    let documents = share.join("doc/sentune");
    fs::create_dir_all(&documents)?;
    for document in ["README.md", "LICENSE-MIT", "LICENSE-APACHE"] {
        fs::copy(checkout.root.join(document), documents.join(document))?;
    }
    let archive = folder.join(format!("{name}.tar.gz"));
    let partial = folder.join(format!("{name}.partial"));
    // The same files give the same archive.
    cmd!(
        shell,
        "tar --create --gzip --file {partial} --directory {folder} --sort=name --owner=0 --group=0 --numeric-owner {name}"
    )
    .run()?;
    fs::rename(partial, &archive)?;
    println!(
        "{}: unpack it into /usr/local or ~/.local with `tar --strip-components=1`",
        archive.display()
    );
    Ok(archive)
}

/// Unpacks the archive as its user does. The program has to run, with completions that bash takes and a page for each
/// command.
fn check_tarball(checkout: &Checkout, archive: &Path, version: &str, folder: &Path) -> Result<()> {
    let shell = &checkout.shell;
    let prefix = folder.join("prefix");
    if prefix.exists() {
        fs::remove_dir_all(&prefix)?;
    }
    fs::create_dir(&prefix)?;
    cmd!(
        shell,
        "tar --extract --gzip --file {archive} --directory {prefix} --strip-components=1"
    )
    .run()?;
    let program = prefix.join("bin/sentune");
    symbols::check_carried(shell, &program)?;
    let libtorch = checkout
        .own_libtorch()
        .unwrap_or_else(|| checkout.libtorch());
    let sentune = || cmd!(shell, "{program}").env("SENTUNE_LIBTORCH", &libtorch);
    let said = sentune().arg("--version").read()?;
    ensure!(
        said == format!("sentune {version}"),
        "the archive's program is {said}"
    );
    let completions = prefix.join("share/bash-completion/completions/sentune");
    // As bash asks: the word, its place, and the answers.
    let script = format!(
        "source {}; COMP_WORDS=(sentune tr); COMP_CWORD=1; _sentune sentune tr sentune; echo \"${{COMPREPLY[*]}}\"",
        completions.display()
    );
    let completed = cmd!(shell, "bash -c {script}").read()?;
    ensure!(
        completed == "train",
        "bash completes `sentune tr` to `{completed}`"
    );
    let help = sentune().arg("--help").read()?;
    let (_, commands) = help
        .split_once("Commands:\n")
        .context("the help lists no commands")?;
    let commands = commands.lines().take_while(|line| !line.is_empty());
    let names = commands.filter_map(|line| line.strip_prefix("  ")?.split_once(' '));
    let mut n_pages = 0;
    for (name, _) in names.filter(|(name, _)| !name.is_empty()) {
        let page = prefix.join(format!("share/man/man1/sentune-{name}.1"));
        let text = fs::read_to_string(page)?;
        ensure!(
            text.contains(".SH SYNOPSIS"),
            "the page of {name} has no synopsis"
        );
        n_pages += 1;
    }
    ensure!(n_pages > 10, "{n_pages} commands have a page");
    println!(
        "the archive's program runs, bash completes its commands, and {n_pages} of them have a page"
    );
    Ok(())
}

fn metadata(checkout: &Checkout) -> Result<Value> {
    let metadata = checkout
        .cargo()
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .quiet()
        .read()?;
    Ok(serde_json::from_str(&metadata)?)
}

/// The version of the program.
fn version(metadata: &Value) -> Result<String> {
    let mut packages = metadata["packages"].as_array().into_iter().flatten();
    let cli = packages.find(|package| package["name"] == "cli");
    let version = cli.and_then(|package| package["version"].as_str());
    Ok(version
        .context("cargo metadata names no version of cli")?
        .to_owned())
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

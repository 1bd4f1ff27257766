//! The checkout that the chores work on, and cargo run inside it.

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use xshell::{Cmd, Shell, cmd};

/// The root of the working tree, with a shell that stands in it.
pub(crate) struct Checkout {
    /// The folder that holds the workspace's Cargo.toml.
    pub(crate) root: PathBuf,
    /// Runs commands in `root` and shows each before it runs.
    pub(crate) shell: Shell,
}

impl Checkout {
    /// Finds the checkout that cargo ran this program from, or else takes the current folder, as on a machine without
    /// a checkout.
    pub(crate) fn open() -> Result<Self> {
        // Cargo's variable comes first: with a target folder shared between checkouts, the path of compile time
        // may be another checkout's.
        let root = match env::var_os("CARGO_MANIFEST_DIR") {
            Some(manifest_dir) => Path::new(&manifest_dir)
                .parent()
                .context("the folder of xtask's manifest has no parent")?
                .to_owned(),
            None => {
                let here = env::current_dir()?;
                let built_in = Path::new(env!("CARGO_MANIFEST_DIR"));
                match built_in.parent() {
                    Some(root) if built_in.is_dir() && !here.join("xtask/Cargo.toml").exists() => {
                        root.to_owned()
                    }
                    _ => here,
                }
            }
        };
        let shell = Shell::new()?;
        shell.change_dir(&root);
        Ok(Self { root, shell })
    }

    /// The link through which cargo finds libtorch, as .cargo/config.toml has it.
    pub(crate) fn libtorch(&self) -> PathBuf {
        self.root.join("libtorch")
    }

    /// The user's own LIBTORCH, if set; not the one of .cargo/config.toml.
    pub(crate) fn own_libtorch(&self) -> Option<PathBuf> {
        env::var_os("LIBTORCH")
            .map(PathBuf::from)
            .filter(|libtorch| *libtorch != self.libtorch())
    }

    /// Cargo in this checkout, with the environment of a call by hand.
    ///
    /// `cargo run` sets variables for the program it starts. Build scripts that look at them (ring's
    /// does, torch-sys's at LIBTORCH) would run again each time a build by hand and a build from here
    /// take turns, and their crates would be compiled again.
    pub(crate) fn cargo(&self) -> Cmd<'_> {
        let mut cargo = cmd!(self.shell, "cargo");
        for (name, _) in env::vars_os() {
            if set_by_cargo_run(&name) {
                cargo = cargo.env_remove(name);
            }
        }
        if self.own_libtorch().is_none() {
            cargo = cargo.env_remove("LIBTORCH");
        }
        cargo
    }
}

/// Points the link `place` to `target` in one step, replacing an earlier link.
#[cfg(unix)]
pub(crate) fn link(target: &Path, place: &Path) -> Result<()> {
    let mut new = place.as_os_str().to_owned();
    new.push(format!(".{}.new", std::process::id()));
    fs_err::os::unix::fs::symlink(target, &new)?;
    Ok(fs_err::rename(&new, place)?)
}

/// Fails, since links need a privilege that not every user has.
#[cfg(not(unix))]
pub(crate) fn link(target: &Path, place: &Path) -> Result<()> {
    anyhow::bail!(
        "{} cannot be linked to {}: links are made on Unix only",
        place.display(),
        target.display()
    )
}

/// Whether `cargo run` sets the variable for the program it runs.
fn set_by_cargo_run(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| {
        name == "CARGO" || name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_cargo_run_sets_is_taken_away() {
        for name in ["CARGO", "CARGO_PKG_NAME", "CARGO_MANIFEST_DIR"] {
            assert!(set_by_cargo_run(OsStr::new(name)), "{name}");
        }
        for name in [
            "CARGO_HOME",
            "CARGO_TARGET_DIR",
            "CARGO_NET_OFFLINE",
            "PATH",
        ] {
            assert!(!set_by_cargo_run(OsStr::new(name)), "{name}");
        }
    }
}

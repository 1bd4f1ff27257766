//! Runs `cargo xtask setup` on a bare checkout, with stand-ins for Python, pip and the compiler.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::{
    error::Error,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use fs_err as fs;

type Result = std::result::Result<(), Box<dyn Error>>;

/// Python as set-up calls it. pip notes each call in pip.log and fails from the call that the file
/// pip-fails-at names; unpacking makes the one library that is looked for.
const PYTHON: &str = r#"#!/bin/sh
here=${0%/*}
case "$*" in
  --version | "-m pip --version") ;;
  *"pip download"*)
    echo pip >> "$here/pip.log"
    calls=0
    while read -r _; do calls=$((calls + 1)); done < "$here/pip.log"
    if [ -f "$here/pip-fails-at" ]; then
      read -r limit < "$here/pip-fails-at"
      [ "$calls" -lt "$limit" ] || exit 1
    fi
    while [ "$1" != --dest ]; do shift; done
    : > "$2/wheel.whl" ;;
  *disk_usage*) echo 999000000000 ;;
  *zipfile*) /bin/mkdir -p "$4/lib" && : > "$4/lib/libtorch_cpu.so" ;;
  *) exit 1 ;;
esac
"#;

/// A compiler whose output is a program that does nothing.
const COMPILER: &str = r#"#!/bin/sh
while [ $# -gt 0 ]; do
  if [ "$1" = -o ]; then
    printf '#!/bin/sh\n' > "$2" && /bin/chmod +x "$2"
  fi
  shift
done
"#;

/// A machine with one user's cache, the tools of the test's choice and any number of checkouts.
struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    fn new(tools: &[(&str, &str)]) -> std::result::Result<Self, Box<dyn Error>> {
        let machine = Self {
            folder: tempfile::tempdir()?,
        };
        fs::create_dir(machine.path("bin"))?;
        for (name, script) in tools {
            let path = machine.path("bin").join(name);
            fs::write(&path, script)?;
            fs::set_permissions(path, PermissionsExt::from_mode(0o755))?;
        }
        Ok(machine)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, checkout: &str) -> std::result::Result<Command, Box<dyn Error>> {
        let root = self.path(checkout);
        fs::create_dir_all(root.join("xtask"))?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command
            .arg("setup")
            .env_clear()
            .env("PATH", self.path("bin"))
            .env("HOME", self.path("home"))
            .env("CARGO_MANIFEST_DIR", root.join("xtask"))
            .env("LIBTORCH", root.join("libtorch"));
        Ok(command)
    }

    fn setup(&self, checkout: &str) -> std::result::Result<Output, Box<dyn Error>> {
        Ok(self.command(checkout)?.output()?)
    }

    fn pip_calls(&self) -> usize {
        let log = std::fs::read_to_string(self.path("bin/pip.log"));
        log.map_or(0, |log| log.lines().count())
    }

    fn cache(&self) -> PathBuf {
        self.path("home/.cache/sentune")
    }
}

#[track_caller]
fn assert_fails_with(output: &Output, words: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    for word in words {
        assert!(stderr.contains(word), "`{word}` is not in: {stderr}");
    }
}

#[track_caller]
fn assert_succeeds(output: &Output) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
}

fn entries(folder: &Path) -> std::result::Result<Vec<String>, Box<dyn Error>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

#[test]
fn a_second_run_and_a_second_checkout_fetch_nothing() -> Result {
    let machine = Machine::new(&[("python3", PYTHON), ("c++", COMPILER)])?;
    for checkout in ["one", "one", "two"] {
        assert_succeeds(&machine.setup(checkout)?);
        let link = machine.path(checkout).join("libtorch");
        assert_eq!(
            fs::read_to_string(link.join("build-version"))?,
            "2.11.0+cpu\n"
        );
    }
    assert_eq!(machine.pip_calls(), 3);
    assert_eq!(
        entries(&machine.cache())?,
        ["libtorch-2.11.0-cpu", "libtorch-2.11.0-cpu.lock"]
    );

    assert_succeeds(&machine.command("one")?.arg("--force").output()?);
    assert_eq!(machine.pip_calls(), 6);
    Ok(())
}

#[test]
fn an_interrupted_run_is_taken_up_where_it_stopped() -> Result {
    let machine = Machine::new(&[("python3", PYTHON), ("c++", COMPILER)])?;
    fs::write(machine.path("bin/pip-fails-at"), "2\n")?;
    let output = machine.setup("one")?;
    assert_fails_with(&output, &["could not fetch nvidia-cuda-runtime", "again"]);
    assert!(!machine.path("one/libtorch").exists());

    fs::remove_file(machine.path("bin/pip-fails-at"))?;
    assert_succeeds(&machine.setup("one")?);
    // One wheel, the failure, and the two that were missing.
    assert_eq!(machine.pip_calls(), 4);
    assert_eq!(entries(&machine.cache())?.len(), 2);
    Ok(())
}

#[test]
fn what_is_missing_is_named_with_what_to_do() -> Result {
    let machine = Machine::new(&[])?;
    assert_fails_with(
        &machine.setup("one")?,
        &["C++ compiler", "apt install g++", "CXX"],
    );

    let machine = Machine::new(&[("c++", COMPILER)])?;
    assert_fails_with(
        &machine.setup("one")?,
        &["`python3` does not run", "LIBTORCH"],
    );

    let no_pip = "#!/bin/sh\n[ \"$1\" = --version ]\n";
    let machine = Machine::new(&[("c++", COMPILER), ("python3", no_pip)])?;
    assert_fails_with(
        &machine.setup("one")?,
        &["no pip", "ensurepip", "python3-pip"],
    );

    let full = PYTHON.replace("999000000000", "1200000000");
    let machine = Machine::new(&[("c++", COMPILER), ("python3", &full)])?;
    assert_fails_with(&machine.setup("one")?, &["1.2 GB free", "XDG_CACHE_HOME"]);
    assert_eq!(machine.pip_calls(), 0);
    Ok(())
}

#[test]
fn an_own_libtorch_is_checked_and_left_alone() -> Result {
    let machine = Machine::new(&[])?;
    let own = machine.path("own");
    let setup = |machine: &Machine| -> std::result::Result<Output, Box<dyn Error>> {
        Ok(machine.command("one")?.env("LIBTORCH", &own).output()?)
    };
    assert_fails_with(&setup(&machine)?, &["there is no folder", "own/lib"]);
    fs::create_dir_all(own.join("lib"))?;
    fs::write(own.join("build-version"), "2.9.0+cpu")?;
    assert_fails_with(&setup(&machine)?, &["version 2.9.0+cpu", "needs 2.11.0"]);
    fs::write(own.join("build-version"), "2.11.0+cu130")?;
    assert_succeeds(&setup(&machine)?);
    assert!(!machine.path("one/libtorch").exists());
    Ok(())
}

#[test]
fn pytorch_is_asked_for_its_version() -> Result {
    for (python, words) in [
        ("#!/bin/sh\nexit 1\n", &["cannot import torch"][..]),
        (
            "#!/bin/sh\necho 2.12.1+cpu None\n",
            &["version 2.12.1+cpu", "needs 2.11.0"],
        ),
    ] {
        let machine = Machine::new(&[("python3", python)])?;
        let mut command = machine.command("one")?;
        let output = command.env("LIBTORCH_USE_PYTORCH", "1").output()?;
        assert_fails_with(&output, words);
    }
    let machine = Machine::new(&[("python3", "#!/bin/sh\necho 2.11.0+cu130 13.0\n")])?;
    let mut command = machine.command("one")?;
    command.arg("--cuda").env("LIBTORCH_USE_PYTORCH", "1");
    assert_succeeds(&command.output()?);
    Ok(())
}

#[test]
fn a_home_that_is_not_there_is_no_obstacle() -> Result {
    let machine = Machine::new(&[("python3", PYTHON), ("c++", COMPILER)])?;
    for home in ["", "relative", "/proc/nowhere"] {
        let root = machine.path("one");
        assert_succeeds(&machine.command("one")?.env("HOME", home).output()?);
        let target = fs::canonicalize(root.join("libtorch"))?;
        let cache = fs::canonicalize(root.join("target/cache"))?;
        assert!(target.starts_with(cache), "{}", target.display());
        fs::remove_file(root.join("libtorch"))?;
    }
    assert_eq!(machine.pip_calls(), 3);
    Ok(())
}

//! A launcher that carries a shell, as a user would call it.
#![cfg(target_os = "linux")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// A folder with a `sentune` that is a shell, and libtorches that are empty files.
struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let machine = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        let status = Command::new(env!("CARGO_BIN_EXE_launcher"))
            .arg("/bin/sh")
            .arg(machine.path("sentune"))
            .status();
        assert!(status.unwrap().success());
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn libtorch(&self, name: &str, version: &str) -> PathBuf {
        let folder = self.path(name);
        fs::create_dir_all(folder.join("lib")).unwrap();
        fs::write(folder.join("lib/libtorch_cpu.so"), "").unwrap();
        fs::write(folder.join("build-version"), version).unwrap();
        folder
    }

    /// The output of a script of the carried shell, with nothing but these variables.
    fn run(&self, variables: &[(&str, &Path)]) -> Output {
        Command::new(self.path("sentune"))
            .args([
                "-c",
                "echo \"$LD_LIBRARY_PATH|$0|$1\"; exit 7",
                "zero",
                "one",
            ])
            .env_clear()
            .envs(variables.iter().copied())
            .output()
            .unwrap()
    }
}

#[test]
fn the_program_runs_with_the_libtorch_that_is_named() {
    let machine = Machine::new();
    let libtorch = machine.libtorch("torch", "2.11.0+cu130");
    let before = machine.path("before");
    let output = machine.run(&[
        ("SENTUNE_LIBTORCH", &libtorch),
        ("LD_LIBRARY_PATH", &before),
    ]);
    let expected = format!(
        "{}:{}|zero|one\n",
        libtorch.join("lib").display(),
        before.display()
    );
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    assert_eq!(output.status.code(), Some(7));
}

#[test]
fn a_libtorch_beside_it_needs_no_words() {
    let machine = Machine::new();
    let libtorch = machine.libtorch("libtorch", "2.11.0");
    let output = machine.run(&[]);
    let expected = format!("{}|zero|one\n", libtorch.join("lib").display());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
}

#[test]
fn what_is_missing_is_said_in_one_line() {
    let machine = Machine::new();
    let old = machine.libtorch("old", "2.9.1");
    let nowhere = machine.path("nowhere");
    let old_lib = old.join("lib");
    for (variables, words) in [
        (("SENTUNE_LIBTORCH", &nowhere), "SENTUNE_LIBTORCH leads to"),
        (("SENTUNE_LIBTORCH", &old), "is version 2.9.1"),
        (("LD_LIBRARY_PATH", &old_lib), "is version 2.9.1"),
    ] {
        let output = machine.run(&[(variables.0, variables.1)]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(
            stderr.starts_with("error: ") && stderr.contains(words),
            "{stderr}"
        );
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    }
    if !Path::new("/usr/lib/libtorch_cpu.so").exists() {
        let output = machine.run(&[]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains("there is no libtorch here"), "{stderr}");
    }
}

#[test]
fn a_launcher_by_itself_says_what_makes_one_that_carries() {
    let output = Command::new(env!("CARGO_BIN_EXE_launcher"))
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("cargo xtask package"), "{stderr}");
    assert_eq!(output.status.code(), Some(1));
}

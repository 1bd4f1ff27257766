//! `cargo xtask train-gpu` and `bench --device cuda` on machines without a GPU, and with a stand-in for one.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::{
    error::Error,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use fs_err as fs;

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// Notes each call beside itself.
const LOGGER: &str = "#!/bin/sh\necho \"$*\" >> \"$0.log\"\n";

/// An old GPU, in the words of the driver's tool.
const T4: &str = "#!/bin/sh\necho 'Tesla T4, 15360, 550.54.15, 7.5'\n";

/// A bare checkout and the tools of the test's choice.
struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    fn new(tools: &[(&str, &str)]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        fs::create_dir_all(folder.path().join("checkout/xtask"))?;
        fs::create_dir(folder.path().join("bin"))?;
        for (name, script) in tools {
            let path = folder.path().join("bin").join(name);
            fs::write(&path, script)?;
            fs::set_permissions(path, PermissionsExt::from_mode(0o755))?;
        }
        Ok(Self { folder })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `xtask`, with a libtorch of the user's own that has CUDA.
    fn run(&self, arguments: &[&str]) -> Result<Output> {
        let own = self.path("own");
        fs::create_dir_all(own.join("lib"))?;
        fs::write(own.join("lib/libtorch_cuda.so"), "")?;
        fs::write(own.join("build-version"), "2.11.0+cu130")?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command
            .args(arguments)
            .env_clear()
            .env("PATH", self.path("bin"))
            .env("HOME", self.path("home"))
            .env("CARGO_MANIFEST_DIR", self.path("checkout/xtask"))
            .env("LIBTORCH", own);
        Ok(command.output()?)
    }

    /// The calls of a tool that notes them.
    fn calls(&self, tool: &str) -> Vec<String> {
        let log = std::fs::read_to_string(self.path("bin").join(format!("{tool}.log")));
        log.map_or_else(
            |_| Vec::new(),
            |log| log.lines().map(str::to_owned).collect(),
        )
    }
}

fn has_driver() -> bool {
    Path::new("/proc/driver/nvidia/version").exists()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn without_a_driver_nothing_is_fetched_and_nothing_built() -> Result {
    if has_driver() {
        return Ok(());
    }
    let tools = [("cargo", LOGGER), ("python3", LOGGER), ("c++", LOGGER)];
    let carried = ["bench", "--device", "cuda", "--sentune", "carried"];
    for arguments in [
        &["train-gpu"][..],
        &["train-gpu", "--", "--max-steps", "10"],
        &["bench", "--device", "cuda"],
        &carried,
    ] {
        let machine = Machine::new(&tools)?;
        let output = machine.run(arguments)?;
        let words = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{words}");
        assert!(
            words.contains("no NVIDIA driver") && words.contains("nothing was downloaded"),
            "{words}"
        );
        for (tool, _) in tools {
            assert_eq!(machine.calls(tool), Vec::<String>::new(), "{arguments:?}");
        }
        assert!(!machine.path("home").exists());
    }
    Ok(())
}

#[test]
fn the_articles_run_is_made_as_suits_the_gpu() -> Result {
    let machine = Machine::new(&[("cargo", LOGGER), ("nvidia-smi", T4)])?;
    let output = machine.run(&["train-gpu"])?;
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("train-gpu: Tesla T4, 15 GiB, driver 550.54.15"));
    assert_eq!(
        machine.calls("cargo"),
        [
            "build --package cli",
            // The chip has no bf16.
            "run --quiet --package cli -- train --device cuda --precision fp16",
        ]
    );
    Ok(())
}

#[test]
fn what_follows_the_dashes_goes_to_the_training() -> Result {
    let h200 = "#!/bin/sh\necho 'NVIDIA H200, 143771, 570.86, 9.0'\n";
    let machine = Machine::new(&[("cargo", LOGGER), ("nvidia-smi", h200)])?;
    let own = [
        "train-gpu",
        "--",
        "--train-data",
        "own.csv",
        "--device=cuda:1",
    ];
    let output = machine.run(&own)?;
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(
        machine.calls("cargo")[1],
        "run --quiet --package cli -- train --precision bf16 --train-data own.csv --device=cuda:1"
    );
    Ok(())
}

#[test]
fn a_gpu_without_a_libtorch_for_it_is_said_before_the_build() -> Result {
    let machine = Machine::new(&[("cargo", LOGGER), ("nvidia-smi", T4)])?;
    fs::create_dir_all(machine.path("own/lib"))?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command
        .arg("train-gpu")
        .env_clear()
        .env("PATH", machine.path("bin"))
        .env("HOME", machine.path("home"))
        .env("CARGO_MANIFEST_DIR", machine.path("checkout/xtask"))
        .env("LIBTORCH", machine.path("own"));
    let output = command.output()?;
    let words = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{words}");
    assert!(words.contains("has no libtorch_cuda.so"), "{words}");
    assert!(machine.calls("cargo").is_empty());
    Ok(())
}

#[test]
fn a_carried_program_that_is_not_there_is_named() -> Result {
    let machine = Machine::new(&[("nvidia-smi", T4), ("cargo", LOGGER)])?;
    let output = machine.run(&["bench", "--device", "cuda", "--sentune", "carried"])?;
    assert!(
        stderr(&output).contains("carried is no file"),
        "{}",
        stderr(&output)
    );
    assert!(machine.calls("cargo").is_empty());
    Ok(())
}

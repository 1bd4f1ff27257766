//! A folder to run `sentune` in, and its results.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;
use tempfile::TempDir;

/// Two layers, 32 wide.
pub(crate) fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/fixtures/tiny-mpnet")
}

/// One of the data sets that the trainer's tests use.
pub(crate) fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../train/tests/fixtures")
        .join(name)
}

/// An empty folder that commands are run in.
pub(crate) struct Sandbox {
    folder: TempDir,
}

/// The exit code and the output of a command.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs_err::write(&path, content).unwrap();
        path
    }

    /// A copy of the tiny model, to be spoiled.
    pub(crate) fn copy_of_model(&self) -> PathBuf {
        let copy = self.path("model");
        copy_folder(&model(), &copy);
        copy
    }

    /// `sentune`, far from the hub and from the caller's settings, with the words of a line, of which `MODEL` is the tiny
    /// model and `DATA/x` a data set of [`data`].
    pub(crate) fn line(&self, line: &str) -> Command {
        let mut command = self.within(assert_cmd::cargo::cargo_bin!("sentune"));
        for word in words(line) {
            match word.strip_prefix("DATA/") {
                Some(name) => command.arg(data(name)),
                None if word == "MODEL" => command.arg(model()),
                None => command.arg(word),
            };
        }
        command
    }

    /// A shell's line, whose `sentune` is the program of [`Self::line`].
    pub(crate) fn shell(&self, line: &str) -> Command {
        let folder = assert_cmd::cargo::cargo_bin!("sentune").parent().unwrap();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(folder.to_owned()).chain(std::env::split_paths(&path));
        let mut command = self.within("sh");
        command
            .args(["-euc", line])
            .env("PATH", std::env::join_paths(folders).unwrap());
        command
    }

    fn within(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.folder.path())
            .env("HF_HUB_OFFLINE", "1")
            .env("HF_HOME", self.path("hub"))
            .env("SENTUNE_CACHE", self.path("cache"))
            // The numbers that tests know are the CPU's.
            .env("CUDA_VISIBLE_DEVICES", "")
            .env_remove("HF_HUB_CACHE")
            .env_remove("RUST_LOG");
        command
    }

    /// Runs [`Self::line`].
    pub(crate) fn sentune(&self, line: &str) -> Ended {
        self.sentune_with(line, &[])
    }

    /// Runs [`Self::line`] with more arguments, which may hold spaces.
    pub(crate) fn sentune_with(&self, line: &str, more: &[&str]) -> Ended {
        Ended::from(self.line(line).args(more).output().unwrap())
    }

    /// A run of the tiny model on `train_data` into the folder `run`.
    pub(crate) fn train(&self, train_data: &Path, more: &[&str]) -> Ended {
        let mut command = self.line("train --model MODEL --output-dir run --train-data");
        Ended::from(command.arg(train_data).args(more).output().unwrap())
    }

    /// The embedding of a text by a model, with variables in the environment.
    pub(crate) fn embedding(&self, model: &str, variables: &[(&str, &str)]) -> Vec<f64> {
        self.write("text.txt", "The dog runs.\n");
        let line = format!("encode --model {model} --input text.txt --output -");
        let output = self.line(&line).envs(variables.iter().copied()).output();
        let object: Value = serde_json::from_str(&Ended::from(output.unwrap()).ok()).unwrap();
        serde_json::from_value(object["embedding"].clone()).unwrap()
    }

    pub(crate) fn files(&self, folder: &str) -> Vec<String> {
        let entries = fs_err::read_dir(self.path(folder)).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort_unstable();
        names
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

impl Ended {
    /// stdout of a command that succeeded.
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }

    /// Checks that a command failed with `code`, one error line that holds all of `parts`, and no data.
    pub(crate) fn failed(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        let message = self.stderr.lines().find(|line| line.starts_with("error: "));
        let message = message.unwrap_or_else(|| panic!("no error line: {self:?}"));
        for part in parts {
            assert!(message.contains(part), "`{part}` is not in: {message}");
        }
    }
}

/// The words of a line.
pub(crate) fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// JSON Lines.
pub(crate) fn json_lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Sends a signal by its name to the process of that number.
#[track_caller]
pub(crate) fn signal(process: u32, name: &str) {
    // A shell's own kill is there even where no program of that name is.
    let kill = format!("kill -{name} {process}");
    let status = Command::new("sh").args(["-c", &kill]).status().unwrap();
    assert!(status.success(), "{kill}");
}

pub(crate) fn copy_folder(from: &Path, to: &Path) {
    fs_err::create_dir(to).unwrap();
    for entry in fs_err::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs_err::copy(entry.path(), target).unwrap();
        }
    }
}

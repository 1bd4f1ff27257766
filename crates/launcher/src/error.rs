//! Errors, each with the way out.

use std::{io, path::PathBuf};

use crate::version::{RELEASE, Version};

/// The variable that names the libtorch to run with: its folder, or that of Python's `torch` package.
pub const VARIABLE: &str = "SENTUNE_LIBTORCH";

/// The command by which Python tells where its libtorch is.
const ASK_PYTHON: &str = "python3 -c 'import torch; print(torch.__path__[0])'";

/// A failure to find a libtorch to run with, or to start with it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// A folder holds none.
    #[error(
        "{what} leads to {}, and there is no libtorch_cpu.so in it or in its lib: it must be the folder of a libtorch {RELEASE}, or of Python's torch package (`{ASK_PYTHON}`)",
        .folder.display()
    )]
    NotThere {
        /// The variable that named the folder.
        what: &'static str,
        /// The folder.
        folder: PathBuf,
    },
    /// A folder holds another release than the one that the program was built for.
    #[error(
        "the libtorch in {} is version {version}, and this program needs {RELEASE}: install that one in its place (`pip install 'torch=={RELEASE}.*'`), or set {VARIABLE} to the folder of a libtorch {RELEASE}, or of the torch package of a Python that has it (`{ASK_PYTHON}`)",
        .folder.display()
    )]
    Version {
        /// The folder.
        folder: PathBuf,
        /// The version that the folder tells.
        version: Version,
    },
    /// No place that is looked at holds one.
    #[error(
        "there is no libtorch here (looked in {}): install torch {RELEASE} where the wheel is installed (`pip install 'torch=={RELEASE}.*'`), or set {VARIABLE} to the folder of a libtorch {RELEASE}, or of the torch package of a Python that has it (`{ASK_PYTHON}`)",
        list(.looked)
    )]
    Nowhere {
        /// The places.
        looked: Vec<PathBuf>,
    },
    /// The program was started anew, and the loader took another libtorch all the same.
    #[error(
        "{VARIABLE} leads to {}, but the libtorch of this process is in {}: is LD_PRELOAD set, or has the program an older run path (`readelf -d` shows it)?",
        .wanted.display(),
        .loaded.display()
    )]
    NotTaken {
        /// The folder that the variable leads to.
        wanted: PathBuf,
        /// The folder of the libtorch in this process.
        loaded: PathBuf,
    },
    /// The program could not be started.
    #[error("starting {} with the libtorch in {}", .program.display(), .libtorch.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// The folder of the libtorch.
        libtorch: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The program inside the launcher could not be read.
    #[error("reading the program that this one carries")]
    Carried(#[source] io::Error),
    /// There is no program inside the launcher.
    #[error(
        "this launcher carries no program: `cargo xtask package` makes one that does, by `launcher PROGRAM OUTPUT`"
    )]
    Empty,
}

fn list(paths: &[PathBuf]) -> String {
    let names: Vec<String> = paths
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    names.join(", ")
}

//! The place where torch-sys will look for libtorch, and its defects.
//!
//! Included by this crate's build script too, hence free of everything but std. The rules mirror
//! the build script of torch-sys 0.24.

use std::path::{Path, PathBuf};

/// The environment variables that decide where torch-sys looks.
pub(crate) const VARIABLES: [&str; 3] = ["LIBTORCH_USE_PYTORCH", "LIBTORCH", "LIBTORCH_LIB"];

/// The place where torch-sys looks for a system-wide libtorch when LIBTORCH is not set.
const SYSTEM: &str = "/usr";

/// The place where torch-sys will look.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the PyTorch that Python imports: only Python can say whether it is there.
    Python,
    /// In `<folder>/lib`, where `variable` names what set the folder.
    Folder {
        variable: &'static str,
        folder: PathBuf,
    },
    /// System-wide, in `/usr/lib`: no variable is set.
    System,
}

impl Place {
    /// Reads the place from the environment, through `variable`.
    pub(crate) fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let [use_pytorch, libtorch, libtorch_lib] = VARIABLES;
        // As in torch-sys, the variable counts when it is set at all, whatever it says.
        if variable(use_pytorch).is_some() {
            return Self::Python;
        }
        // Without LIBTORCH, torch-sys asks for a system-wide one even where LIBTORCH_LIB is set.
        let Some(folder) = variable(libtorch) else {
            return Self::System;
        };
        match variable(libtorch_lib) {
            Some(folder) => Self::Folder {
                variable: libtorch_lib,
                folder: folder.into(),
            },
            None => Self::Folder {
                variable: libtorch,
                folder: folder.into(),
            },
        }
    }

    /// The folder that holds the shared libraries, where it can be known without asking Python.
    pub(crate) fn lib(&self) -> Option<PathBuf> {
        match self {
            Self::Python => None,
            Self::Folder { folder, .. } => Some(folder.join("lib")),
            Self::System => Some(Path::new(SYSTEM).join("lib")),
        }
    }

    /// The defect of the place with the next action, or `None` where libtorch may be there.
    pub(crate) fn problem(&self, is_dir: impl Fn(&Path) -> bool) -> Option<String> {
        let lib = self.lib()?;
        let found = match self {
            // The link that .cargo/config.toml names, or a folder of the user's own.
            Self::Folder { .. } => is_dir(&lib),
            Self::System => lib.join("libtorch.so").exists(),
            Self::Python => true,
        };
        let tried = match self {
            Self::Folder { variable, .. } => {
                format!("{variable} leads to {}, which is not there", lib.display())
            }
            _ => format!(
                "LIBTORCH is not set and {} holds no libtorch.so",
                lib.display()
            ),
        };
        (!found).then(|| format!("libtorch is not set up ({tried}): run `cargo xtask setup`"))
    }
}

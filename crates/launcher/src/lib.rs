//! The choice of the libtorch that a `sentune` runs with on a machine that it was not built on.
//!
//! The program needs libtorch before its `main`: the dynamic loader looks where the build found it, or where
//! `LD_LIBRARY_PATH` says. `SENTUNE_LIBTORCH` names a libtorch, or the `torch` package of a Python, and this crate
//! puts its folders in front of `LD_LIBRARY_PATH` and starts the program anew. The program calls [`enter`] first
//! thing in `main`; where the loader finds no libtorch at all there is no `main`, and the crate's own program,
//! which needs none and carries the other inside it ([`carried`]), does the same from outside.
//!
//! No dependencies on libtorch, so that it can speak where there is none.

mod environment;
mod error;
pub mod libtorch;
pub mod version;

#[cfg(target_os = "linux")]
pub mod carried;

use std::{
    env,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    process::Command,
};

pub use error::{LaunchError, VARIABLE};
use libtorch::{Libtorch, cached_name};

/// The dynamic loader's variable.
const LOADER_VARIABLE: &str = "LD_LIBRARY_PATH";

/// Set for a program that was started anew, so that it is not started so for ever.
const STARTED_ANEW: &str = "SENTUNE_LIBTORCH_LED_TO";

/// Set to the launcher's path for a program that it carries, which is in memory and has none of its own.
const FILE: &str = "SENTUNE_FILE";

/// Starts the program anew where [`VARIABLE`] names another libtorch than the one that this process has `loaded`,
/// and does not return then. Otherwise checks the version of the one that is loaded, as far as its folder tells it.
/// It must be called at the very start of `main`; `loaded` is the folder of that libtorch, where it is known.
///
/// # Errors
/// Where the variable leads to no libtorch, the loader does not follow it, or the version is another one.
pub fn enter(loaded: Option<&Path>) -> Result<(), LaunchError> {
    let Some(folder) = variable(VARIABLE) else {
        return match loaded {
            // Nothing to be found beside it says nothing about it.
            Some(loaded) => Libtorch::at(loaded).map_or(Ok(()), |libtorch| libtorch.check()),
            None => Ok(()),
        };
    };
    let libtorch = Libtorch::named(VARIABLE, Path::new(&folder))?;
    libtorch.check()?;
    match loaded {
        Some(loaded) if !libtorch.is_in(loaded) => {
            if variable(STARTED_ANEW).is_some() {
                return Err(LaunchError::NotTaken {
                    wanted: libtorch.lib().to_owned(),
                    loaded: loaded.to_owned(),
                });
            }
            let program = env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into());
            Err(start(&program, &libtorch))
        }
        _ => Ok(()),
    }
}

/// The libtorch that a carried program is to run with: that of [`VARIABLE`]; or that of the Python environment whose
/// wheel `program` comes from; or one that LD_LIBRARY_PATH leads to; or one beside `program`, in the user's cache as
/// `cargo xtask setup` puts it there, or of the system.
///
/// # Errors
/// Where there is none, or the first of another release.
pub fn find(program: &Path) -> Result<Libtorch, LaunchError> {
    find_with(program, variable)
}

fn find_with(
    program: &Path,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Libtorch, LaunchError> {
    if let Some(folder) = variable(VARIABLE) {
        let libtorch = Libtorch::named(VARIABLE, Path::new(&folder))?;
        libtorch.check()?;
        return Ok(libtorch);
    }
    let mut places = environment::packages(program);
    let led_to = variable(LOADER_VARIABLE).unwrap_or_default();
    places.extend(env::split_paths(&led_to).filter(|path| !path.as_os_str().is_empty()));
    if let Some(folder) = program.parent() {
        places.push(folder.join("libtorch"));
    }
    let home = || Some(Path::new(&variable("HOME")?).join(".cache"));
    let cache = variable("XDG_CACHE_HOME").map(PathBuf::from);
    if let Some(cache) = cache.filter(|path| path.is_absolute()).or_else(home) {
        // One with CUDA serves machines without a GPU too.
        for variant in ["cu130", "cpu"] {
            places.push(cache.join(Path::new("sentune").join(cached_name(variant))));
        }
    }
    places.push("/usr".into());
    match places.iter().find_map(|place| Libtorch::at(place)) {
        Some(libtorch) => libtorch.check().map(|()| libtorch),
        None => Err(LaunchError::Nowhere { looked: places }),
    }
}

/// Starts `program` with this libtorch and this process's arguments, in this process's place; returns only
/// where that fails.
pub fn start(program: &Path, libtorch: &Libtorch) -> LaunchError {
    let mut arguments = env::args_os();
    let mut command = Command::new(program);
    let name = arguments.next();
    command.args(arguments);
    command.env(
        LOADER_VARIABLE,
        libtorch.library_path(variable(LOADER_VARIABLE).as_deref()),
    );
    command.env(STARTED_ANEW, libtorch.lib());
    if let Ok(file) = file() {
        command.env(FILE, file);
    }
    LaunchError::Start {
        program: program.to_owned(),
        libtorch: libtorch.lib().to_owned(),
        source: replace(&mut command, name),
    }
}

/// The file that this program was started from: of a carried one the launcher.
///
/// # Errors
/// Where the system does not tell.
pub fn file() -> io::Result<PathBuf> {
    let own = env::current_exe()?;
    let is_in_memory = own.as_os_str().as_encoded_bytes().starts_with(b"/memfd:");
    let file = variable(FILE).filter(|_| is_in_memory);
    Ok(file.map_or(own, PathBuf::from))
}

#[cfg(unix)]
fn replace(command: &mut Command, name: Option<OsString>) -> io::Error {
    use std::os::unix::process::CommandExt;
    if let Some(name) = name {
        command.arg0(name);
    }
    command.exec()
}

#[cfg(not(unix))]
fn replace(_: &mut Command, _: Option<OsString>) -> io::Error {
    io::ErrorKind::Unsupported.into()
}

/// The variable, where it is set to something.
fn variable(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn libtorch(folder: &Path, version: &str) {
        fs::create_dir_all(folder.join("lib")).unwrap();
        fs::write(folder.join("lib/libtorch_cpu.so"), "").unwrap();
        fs::write(folder.join("build-version"), version).unwrap();
    }

    /// The place in which a program in `bin` finds its libtorch with these variables.
    fn found(root: &Path, variables: &[(&str, &str)]) -> Result<PathBuf, String> {
        let variable = |name: &str| {
            let (_, value) = variables.iter().find(|(other, _)| *other == name)?;
            Some(root.join(value).into_os_string())
        };
        find_with(&root.join("bin/sentune"), variable)
            .map(|libtorch| {
                let lib = libtorch.lib().strip_prefix(root);
                lib.unwrap_or(libtorch.lib()).to_owned()
            })
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_variable_comes_first_and_then_the_nearest() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let variables = [("LD_LIBRARY_PATH", "own/lib"), ("HOME", "home")];
        if !Path::new("/usr/lib/libtorch_cpu.so").exists() {
            let error = found(root, &variables).unwrap_err();
            for place in [
                "own/lib",
                "bin/libtorch",
                "home/.cache/sentune/libtorch-2.11.0-cpu",
            ] {
                assert!(error.contains(place), "{error}");
            }
            assert!(error.contains("set SENTUNE_LIBTORCH"), "{error}");
        }
        for (place, lib) in [
            (
                "home/.cache/sentune/libtorch-2.11.0-cpu",
                "home/.cache/sentune/libtorch-2.11.0-cpu/lib",
            ),
            ("bin/libtorch", "bin/libtorch/lib"),
            ("own", "own/lib"),
        ] {
            libtorch(&root.join(place), "2.11.0+cpu\n");
            assert_eq!(found(root, &variables), Ok(lib.into()), "{place}");
        }
        libtorch(&root.join("named"), "2.11.1");
        let named = [variables[0], variables[1], ("SENTUNE_LIBTORCH", "named")];
        assert_eq!(found(root, &named), Ok("named/lib".into()));
    }

    #[test]
    fn what_is_named_must_be_there_and_of_the_release() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let error = found(root, &[("SENTUNE_LIBTORCH", "nowhere")]).unwrap_err();
        assert!(
            error.starts_with("SENTUNE_LIBTORCH leads to ") && error.contains("no libtorch_cpu.so"),
            "{error}"
        );
        libtorch(&root.join("old"), "2.10.0+cu128");
        for variables in [("SENTUNE_LIBTORCH", "old"), ("LD_LIBRARY_PATH", "old/lib")] {
            let error = found(root, &[variables]).unwrap_err();
            assert!(
                error.contains("version 2.10.0+cu128, and this program needs 2.11"),
                "{error}"
            );
        }
    }
}

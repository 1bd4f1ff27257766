//! Stops the build early, with one line that says what to do, where libtorch is not set up.
//!
//! torch-sys's own build script fails later, after its dependencies have been compiled, with a
//! page of compiler output. This one looks at the same variables, and has nothing to wait for.

#[path = "src/place.rs"]
mod place;

use std::{env, path::Path};

fn main() {
    for name in place::VARIABLES {
        println!("cargo::rerun-if-env-changed={name}");
    }
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/place.rs");
    let place = place::Place::from_variables(|name| env::var(name).ok());
    if let Some(lib) = place.lib() {
        // A folder that is not there counts as changed, so that the build recovers after set-up and
        // speaks again when the folder goes away.
        println!("cargo::rerun-if-changed={}", lib.display());
    }
    if let Some(problem) = place.problem(Path::is_dir) {
        println!("cargo::error={problem}");
    }
}

//! Build support for the crates that link to libtorch. It knows nothing of tensors.
//!
//! Its own build script fails with "run `cargo xtask setup`" where libtorch is missing; its one
//! function lets a crate's tests and binaries find libtorch when they run.
#![expect(
    clippy::print_stdout,
    reason = "a build script speaks to cargo on stdout"
)]

#[cfg(test)]
mod place;

use std::{env, path::Path};

/// Lets the tests and binaries of the calling build script's crate find libtorch at run time.
///
/// Cargo links to libtorch but adds no run path, so a binary would start only with
/// LD_LIBRARY_PATH. The run path is the folder that the checkout's link leads to, not the link, so
/// that a binary copied elsewhere runs without the checkout. It is one that LD_LIBRARY_PATH wins over
/// (DT_RUNPATH), whatever the linker's own default, so that a binary can be led to another libtorch.
///
/// The calling crate must depend on torch-sys directly: Cargo hands `DEP_TCH_LIBTORCH_LIB` to
/// such crates only. Without it, or where it names no folder, the build fails and says so.
pub fn link_run_path() {
    println!("cargo::rerun-if-changed=build.rs");
    let Some(lib) = env::var_os("DEP_TCH_LIBTORCH_LIB") else {
        println!(
            "cargo::error=DEP_TCH_LIBTORCH_LIB is not set: the crate must depend on torch-sys directly"
        );
        return;
    };
    let lib = Path::new(&lib);
    match lib.canonicalize() {
        Ok(folder) => println!(
            "cargo::rustc-link-arg=-Wl,--enable-new-dtags,-rpath,{}",
            folder.display()
        ),
        Err(error) => println!(
            "cargo::error=no libtorch at {}: {error}: run `cargo xtask setup`",
            lib.display()
        ),
    }
    // `cargo xtask setup` touches this file when it leads the link to another libtorch, whose path
    // is then the one to link in.
    let version = lib.with_file_name("build-version");
    if version.exists() {
        println!("cargo::rerun-if-changed={}", version.display());
    }
}

#[cfg(test)]
mod tests {
    use super::place::Place;

    fn place(variables: &[(&str, &str)]) -> Place {
        Place::from_variables(|name| {
            let (_, value) = variables.iter().find(|(other, _)| *other == name)?;
            Some((*value).to_owned())
        })
    }

    #[test]
    fn a_missing_folder_leads_to_setup() {
        let problem = place(&[("LIBTORCH", "/checkout/libtorch")]).problem(|_| false);
        assert_eq!(
            problem.as_deref(),
            Some(
                "libtorch is not set up (LIBTORCH leads to /checkout/libtorch/lib, which is not \
                 there): run `cargo xtask setup`"
            )
        );
    }

    #[test]
    fn a_folder_that_is_there_is_fine() {
        let place = place(&[("LIBTORCH", "/checkout/libtorch")]);
        assert_eq!(place.problem(|lib| lib.ends_with("libtorch/lib")), None);
    }

    #[test]
    fn python_is_asked_by_torch_sys_alone() {
        let place = place(&[("LIBTORCH_USE_PYTORCH", "0"), ("LIBTORCH", "/nowhere")]);
        assert_eq!(place, Place::Python);
        assert_eq!(place.problem(|_| false), None);
    }

    #[test]
    fn libtorch_lib_wins_over_libtorch_but_does_not_stand_in_for_it() {
        let both = place(&[("LIBTORCH", "/a"), ("LIBTORCH_LIB", "/b")]);
        assert_eq!(both.lib().as_deref(), Some("/b/lib".as_ref()));
        assert_eq!(place(&[("LIBTORCH_LIB", "/b")]), Place::System);
    }
}

//! Starts the program that it carries with a libtorch of the machine that it is on.
//!
//! Built by itself it carries none, and `launcher PROGRAM OUTPUT` writes one that carries PROGRAM: that is the
//! `sentune` of `cargo xtask package`.
#![expect(clippy::print_stderr, reason = "a program talks to whoever runs it")]

use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    let Err(error) = run();
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words += &format!(": {error}");
        cause = error.source();
    }
    eprintln!("error: {words}");
    ExitCode::FAILURE
}

/// Becomes the program, or packs one and ends.
#[cfg(target_os = "linux")]
fn run() -> Result<std::convert::Infallible, Box<dyn std::error::Error>> {
    use std::{env, path::Path, process};

    use launcher::{
        LaunchError,
        carried::{Program, pack},
    };

    let own = env::current_exe()?;
    match Program::of(Path::new("/proc/self/exe")) {
        Ok(program) => {
            let libtorch = launcher::find(&own)?;
            Err(launcher::start(&program.path(), &libtorch).into())
        }
        Err(LaunchError::Empty) => {
            let arguments: Vec<_> = env::args_os().skip(1).collect();
            let [program, output] = arguments.as_slice() else {
                return Err(LaunchError::Empty.into());
            };
            pack(&own, Path::new(program), Path::new(output))?;
            process::exit(0);
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    eprintln!("error: programs are carried on Linux only");
    ExitCode::FAILURE
}

//! `sentune completions`: the script that completes command lines in a shell.

use clap::CommandFactory;

use crate::{
    flags::{Flags, completions::CompletionsFlags},
    output::print,
};

/// Prints the script.
pub(crate) fn run(flags: &CompletionsFlags) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(flags.shell, &mut Flags::command(), "sentune", &mut script);
    Ok(print(&String::from_utf8(script)?)?)
}

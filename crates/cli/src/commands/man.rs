//! `sentune man`: manual pages, made from the help.

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use crate::{
    flags::{Flags, man::ManFlags},
    output::{print, replace},
};

/// Prints the page of the program, or writes the pages of all commands into a folder.
pub(crate) fn run(flags: &ManFlags) -> anyhow::Result<()> {
    let mut command = Flags::command();
    command.build();
    let Some(folder) = &flags.output_dir else {
        return Ok(print(&String::from_utf8(page(&command)?)?)?);
    };
    for command in with_subcommands(&command) {
        let name = command.get_display_name().unwrap_or(command.get_name());
        let page = page(command)?;
        replace(&folder.join(format!("{name}.1")), |file| {
            Ok(file.write_all(&page)?)
        })?;
    }
    Ok(())
}

fn page(command: &Command) -> anyhow::Result<Vec<u8>> {
    let mut page = Vec::new();
    Man::new(command.clone()).render(&mut page)?;
    Ok(page)
}

/// A command and all below it.
fn with_subcommands(command: &Command) -> Vec<&Command> {
    let below = command.get_subcommands().flat_map(with_subcommands);
    [command].into_iter().chain(below).collect()
}

//! The project's chores, as `cargo xtask <command>`. One file per command; this is their table of contents.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program talks to whoever runs it"
)]

mod checkout;
mod setup;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::Parser;

use crate::checkout::Checkout;

/// The project's chores.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Setup(setup::Args),
    Test(test::Args),
}

fn main() -> ExitCode {
    match run(&Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> anyhow::Result<()> {
    let checkout = Checkout::open()?;
    match command {
        Command::Setup(args) => setup::run(&checkout, args),
        Command::Test(args) => test::run(&checkout, args),
    }
}

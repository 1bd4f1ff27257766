//! The project's chores, as `cargo xtask <command>`: one file per command.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program prints to its user"
)]

mod before_after;
mod bench;
mod checkout;
mod dependencies;
mod document;
mod fetch_data;
mod nvidia;
mod package;
mod parity;
mod peer;
mod process;
mod quickstart;
mod reliability;
mod setup;
mod test;
mod tidy;
mod train_gpu;

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
    FetchData(fetch_data::Args),
    Quickstart(quickstart::Args),
    TrainGpu(train_gpu::Args),
    Test(test::Args),
    Bench(Box<bench::Args>),
    BeforeAfter(before_after::Args),
    Parity(parity::Args),
    Reliability(reliability::Args),
    Package(package::Args),
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
        Command::FetchData(args) => fetch_data::run(&checkout, args),
        Command::Quickstart(quickstart::Args {}) => quickstart::run(&checkout),
        Command::TrainGpu(args) => train_gpu::run(&checkout, args),
        Command::Test(args) => test::run(&checkout, args),
        Command::Bench(args) => bench::run(&checkout, args),
        Command::BeforeAfter(args) => before_after::run(&checkout, args),
        Command::Parity(args) => parity::run(&checkout, args),
        Command::Reliability(args) => reliability::run(&checkout, args),
        Command::Package(args) => package::run(&checkout, args),
    }
}

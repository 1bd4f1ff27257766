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
mod only;
mod package;
mod parity;
mod peer;
mod process;
mod quickstart;
mod reliability;
mod setup;
mod swaps;
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
    #[command(before_help = "Example:\n  cargo xtask setup --cuda")]
    Setup(setup::Args),
    #[command(before_help = "Example:\n  cargo xtask fetch-data --model microsoft/mpnet-base")]
    FetchData(fetch_data::Args),
    #[command(before_help = "Example:\n  cargo xtask quickstart")]
    Quickstart(quickstart::Args),
    #[command(
        before_help = "Example:\n  cargo xtask train-gpu -- --model microsoft/mpnet-base --train-data own.csv"
    )]
    TrainGpu(train_gpu::Args),
    #[command(before_help = "Example:\n  cargo xtask test --only tidy")]
    Test(test::Args),
    #[command(before_help = "Example:\n  cargo xtask bench --quick")]
    Bench(Box<bench::Args>),
    #[command(
        before_help = "Example:\n  cargo xtask before-after --base microsoft/mpnet-base --tuned runs/own/final --data own-test.csv"
    )]
    BeforeAfter(before_after::Args),
    #[command(before_help = "Example:\n  cargo xtask parity")]
    Parity(parity::Args),
    #[command(before_help = "Example:\n  cargo xtask reliability --full")]
    Reliability(reliability::Args),
    #[command(
        before_help = "Example:\n  cargo xtask swaps --model mini-mpnet --data train.parquet --test dev.parquet"
    )]
    Swaps(swaps::Args),
    #[command(before_help = "Example:\n  cargo xtask package --wheel --tarball")]
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
        Command::Swaps(args) => swaps::run(&checkout, args),
        Command::Reliability(args) => reliability::run(&checkout, args),
        Command::Package(args) => package::run(&checkout, args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_help_begins_with_an_example_that_is_understood() {
        use clap::CommandFactory;

        let root = Cli::command();
        for command in root.get_subcommands() {
            let text = command.get_before_help().map(ToString::to_string);
            let text = text.unwrap_or_default();
            let example = text.strip_prefix("Example:\n  cargo ").unwrap_or_default();
            let words: Vec<&str> = example.split_whitespace().collect();
            assert_eq!(words.get(1), Some(&command.get_name()), "{text}");
            assert!(Cli::try_parse_from(&words).is_ok(), "{example}");
        }
    }
}

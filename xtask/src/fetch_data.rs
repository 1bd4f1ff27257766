//! `cargo xtask fetch-data`: models and data sets from the Hugging Face hub, linked into data/.
//!
//! The work is done by the crate of that name, which is built only when it is wanted.

use std::ffi::OsString;

use anyhow::Result;

use crate::checkout::Checkout;

/// Fetch models and data sets from the Hugging Face hub into data/.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    /// Arguments of the program, which `cargo xtask fetch-data --help` lists
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "ARGS"
    )]
    args: Vec<OsString>,
}

/// Builds and runs the program that fetches.
pub(crate) fn run(checkout: &Checkout, args: &Args) -> Result<()> {
    let cargo = checkout.cargo().args(["run", "--bin", "fetch-data", "--"]);
    Ok(cargo.args(&args.args).run()?)
}

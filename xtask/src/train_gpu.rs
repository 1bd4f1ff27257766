//! `cargo xtask train-gpu`: from a clone to a model trained on an NVIDIA GPU, in one command.

use std::ffi::{OsStr, OsString};

use anyhow::Result;

use crate::{checkout::Checkout, nvidia, setup};

/// Train on an NVIDIA GPU: set up with CUDA, build, and make the article's run, or one of your own.
///
/// Without arguments it trains microsoft/mpnet-base on the first 100,000 triplets of all-nli, which come from the
/// hub, and ends with the accuracies before and after. Arguments after `--` go to `sentune train` and override the
/// settings made for the GPU.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Arguments of `sentune train`, which `cargo run -p cli -- train --help` lists
    #[arg(last = true, value_name = "ARGS")]
    args: Vec<OsString>,
}

/// A setting for a GPU, and the flags that override it.
struct Setting {
    words: &'static [&'static str],
    own: &'static [&'static str],
}

/// Looks for a driver first, before anything is downloaded; then sets up, builds and trains.
pub(crate) fn run(checkout: &Checkout, args: &Args) -> Result<()> {
    nvidia::need_driver(&checkout.shell, "`cargo xtask train-gpu`")?;
    setup::run(checkout, &setup::Args::with_cuda())?;
    let features = setup::features(checkout);
    checkout
        .cargo()
        .args(["build", "--bin", "sentune"])
        .args(features)
        .run()?;
    let gpus = nvidia::gpus(&checkout.shell).unwrap_or_default();
    for gpu in &gpus {
        eprintln!(
            "train-gpu: {}, {:.0} GiB, driver {}",
            gpu.name,
            gpu.memory / 1024.0,
            gpu.driver
        );
    }
    let has_bf16 = gpus.first().is_none_or(nvidia::Gpu::has_bf16);
    checkout
        .cargo()
        .args(["run", "--quiet", "--bin", "sentune"])
        .args(features)
        .args(["--", "train"])
        .args(settings(has_bf16, &args.args))
        .args(&args.args)
        .run()?;
    Ok(())
}

/// Settings for the GPU, without those that the user's arguments make.
fn settings(has_bf16: bool, own: &[OsString]) -> Vec<&'static str> {
    let settings = [
        Setting {
            words: &["--device", "cuda"],
            own: &["--device"],
        },
        Setting {
            // Chips before Ampere have no bf16.
            words: if has_bf16 {
                &["--precision", "bf16"]
            } else {
                &["--precision", "fp16"]
            },
            own: &["--precision", "--bf16", "--fp16"],
        },
        Setting {
            words: &["--auto-micro-batch"],
            own: &["--auto-micro-batch"],
        },
    ];
    settings
        .iter()
        .filter(|setting| !own.iter().any(|argument| decides(argument, setting.own)))
        .flat_map(|setting| setting.words.iter().copied())
        .collect()
}

/// Whether the argument is one of these flags, with or without its value.
fn decides(argument: &OsStr, flags: &[&str]) -> bool {
    let argument = argument.to_string_lossy();
    let flag = argument.split('=').next().unwrap_or_default();
    flags.contains(&flag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_own_settings_win() {
        let with = |own: &[&str]| {
            let own: Vec<OsString> = own.iter().map(OsString::from).collect();
            settings(true, &own).join(" ")
        };
        let all = "--device cuda --precision bf16 --auto-micro-batch";
        assert_eq!(with(&[]), all);
        assert_eq!(with(&["--seed", "1"]), all);
        assert_eq!(with(&["--fp16"]), "--device cuda --auto-micro-batch");
        assert_eq!(
            with(&["--precision=fp32"]),
            "--device cuda --auto-micro-batch"
        );
        assert_eq!(
            with(&["--device", "cuda:1"]),
            "--precision bf16 --auto-micro-batch"
        );
        assert_eq!(
            with(&["--bf16=false", "--device=cpu", "--auto-micro-batch=false"]),
            ""
        );
        assert_eq!(settings(false, &[])[3], "fp16");
    }
}

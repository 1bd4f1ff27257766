//! `cargo xtask test`: every check that a change has to pass. CI runs nothing else.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::{checkout::Checkout, dependencies, only::chosen, setup, tidy};

/// Check everything: tidiness, formatting, lints, tests, docs.
///
/// The cheap checks come first; the first failure ends the run.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run only the stages whose name contains this word
    #[arg(long, value_name = "WORD")]
    only: Option<String>,
}

/// Runs the stages in turn, and says how long each took.
pub(crate) fn run(checkout: &Checkout, args: &Args) -> Result<()> {
    let stages = chosen(&STAGES, args.only.as_deref(), |stage| stage.name, "stage")?;
    let mut report = Vec::new();
    for stage in &stages {
        eprintln!("\n==> {}", stage.name);
        let start = Instant::now();
        let outcome = (stage.run)(checkout);
        let word = if outcome.is_ok() { "ok" } else { "FAILED" };
        report.push(report_line(stage.name, word, start.elapsed()));
        if let Err(error) = outcome {
            eprintln!("\n{}", report.join("\n"));
            return Err(error.context(format!("{} failed", stage.name)));
        }
    }
    eprintln!("\n{}", report.join("\n"));
    Ok(())
}

/// A check by its name.
struct Stage {
    name: &'static str,
    run: fn(&Checkout) -> Result<()>,
}

/// The stages, from cheap to expensive.
const STAGES: [Stage; 8] = [
    Stage {
        name: "tidy",
        run: tidy::run,
    },
    Stage {
        name: "format",
        run: |checkout| cargo(checkout, &["fmt", "--all", "--check"]),
    },
    Stage {
        name: "dependencies",
        run: dependencies::run,
    },
    Stage {
        name: "libtorch",
        run: |checkout| setup::run(checkout, &setup::Args::default()),
    },
    Stage {
        name: "lints, fuzz targets built",
        run: |checkout| {
            cargo(
                checkout,
                &[
                    "clippy",
                    "--workspace",
                    "--all-targets",
                    "--locked",
                    "--",
                    "-D",
                    "warnings",
                ],
            )
        },
    },
    Stage {
        name: "unit and integration tests",
        run: |checkout| {
            cargo(
                checkout,
                &[
                    "test",
                    "--workspace",
                    "--exclude=sentune-fuzz",
                    "--locked",
                    "--lib",
                    "--bins",
                    "--tests",
                    "--examples",
                ],
            )
        },
    },
    Stage {
        name: "doc tests",
        run: |checkout| cargo(checkout, &["test", "--workspace", "--locked", "--doc"]),
    },
    Stage {
        name: "docs",
        run: docs,
    },
];

fn cargo(checkout: &Checkout, args: &[&str]) -> Result<()> {
    Ok(checkout.cargo().args(args).run()?)
}

fn docs(checkout: &Checkout) -> Result<()> {
    Ok(checkout
        .cargo()
        .args(["doc", "--workspace", "--no-deps", "--locked"])
        .env("RUSTDOCFLAGS", "-D warnings")
        .run()?)
}

fn report_line(name: &str, word: &str, elapsed: Duration) -> String {
    format!("{name:<28}{word:<8}{:>8.1} s", elapsed.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_lines_up() {
        let line = report_line("tidy", "ok", Duration::from_millis(1250));
        assert_eq!(line, "tidy                        ok           1.2 s");
        for stage in &STAGES {
            assert!(stage.name.len() < 28, "{}", stage.name);
        }
    }
}

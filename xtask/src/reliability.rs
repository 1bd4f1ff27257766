//! `cargo xtask reliability`: the counted tests of docs/reliability.md.
//!
//! `cargo xtask test` runs them too, in their quick form. This runs them one by one, on request with the full counts,
//! and ends with a table of the counts.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};

use crate::{checkout::Checkout, only::chosen};

/// Kill, starve and damage runs, and count the outcomes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run only the tests whose name contains this word
    #[arg(long, value_name = "WORD")]
    only: Option<String>,
    /// All cases instead of a few of each: more than half an hour on two cores
    #[arg(long)]
    full: bool,
}

/// One counted test.
struct Test {
    name: &'static str,
    /// The test binary that it is in.
    binary: &'static str,
    /// Its path in the binary.
    path: &'static str,
}

const fn test(name: &'static str, path: &'static str) -> Test {
    Test {
        name,
        binary: "all",
        path,
    }
}

const TESTS: [Test; 23] = [
    test("kill", "reliability::kills::killed_at_random_moments"),
    test(
        "failpoints",
        "reliability::kills::killed_at_every_failpoint",
    ),
    test(
        "slow-disk",
        "reliability::kills::a_slow_disk_does_not_stall_training",
    ),
    test("lock", "reliability::kills::a_second_trainer_is_refused"),
    test("resume", "reliability::resume::resumed_from_every_step"),
    test(
        "another-run",
        "reliability::resume::another_run_is_named_and_refused",
    ),
    test("no-checkpoint", "reliability::resume::without_a_checkpoint"),
    test(
        "corruption",
        "reliability::resume::damaged_checkpoints_are_passed_over",
    ),
    test("disk-errors", "reliability::disk::errors_at_every_place"),
    test(
        "disk-full",
        "reliability::disk::a_disk_that_is_full_at_every_megabyte",
    ),
    test("disk-files", "reliability::disk::limits_of_open_files"),
    test("signals", "reliability::signals::signals_at_random_moments"),
    test(
        "signals-stdin",
        "reliability::signals::a_signal_ends_what_waits_for_input",
    ),
    test(
        "signals-twice",
        "reliability::signals::a_second_signal_ends_at_once",
    ),
    test(
        "nonfinite",
        "reliability::numbers::injected_numbers_are_caught_at_their_step",
    ),
    test(
        "skip-nonfinite",
        "reliability::numbers::as_many_as_allowed_are_skipped",
    ),
    test(
        "repeat",
        "reliability::repeat::the_same_command_gives_the_same_weights",
    ),
    test(
        "kill-of-2",
        "reliability::ranks::one_of_two_ranks_is_killed",
    ),
    test(
        "kill-of-3",
        "reliability::ranks::one_of_three_ranks_is_killed",
    ),
    test(
        "rank-0-saving",
        "reliability::ranks::rank_0_is_killed_while_it_saves",
    ),
    test(
        "torchrun",
        "reliability::ranks::torchrun_starts_killed_ranks_again",
    ),
    test(
        "two-machines",
        "reliability::ranks::two_machines_across_a_network",
    ),
    test(
        "endurance",
        "reliability::endurance::a_long_run_takes_no_more_than_a_short_one",
    ),
];

/// The start of a line on which a test prints a count.
const MARK: &str = "reliability: ";

/// Runs the tests in turn, and prints the counts and time of each.
pub(crate) fn run(checkout: &Checkout, args: &Args) -> Result<()> {
    let tests = chosen(&TESTS, args.only.as_deref(), |test| test.name, "test")?;
    let mut failed = Vec::new();
    let mut report = Vec::new();
    for test in tests {
        let start = Instant::now();
        let outcome = run_one(checkout, test, args.full);
        let seconds = start.elapsed().as_secs_f64();
        match outcome? {
            Ok(counts) => {
                report.push(format!("{:<16}ok      {seconds:>8.1} s", test.name));
                report.extend(counts.into_iter().map(|count| format!("    {count}")));
            }
            Err(output) => {
                eprintln!("{output}");
                report.push(format!("{:<16}FAILED  {seconds:>8.1} s", test.name));
                failed.push(test.name);
            }
        }
    }
    println!("{}", report.join("\n"));
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

/// The counts of one test, or its whole output if it failed.
fn run_one(checkout: &Checkout, test: &Test, full: bool) -> Result<Result<Vec<String>, String>> {
    eprintln!("==> {}", test.name);
    let mut cargo =
        checkout
            .cargo()
            .args(["test", "--workspace", "--locked", "--test", test.binary]);
    cargo = cargo.args(["--", "--exact", test.path, "--nocapture"]);
    cargo = cargo.env("RELIABILITY", if full { "full" } else { "quick" });
    let mut command = Command::from(cargo);
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cargo can't be run")?;
    let stderr = child
        .stderr
        .take()
        .context("the pipe to cargo is not there")?;
    let (mut output, mut counts) = (String::new(), Vec::new());
    for line in BufReader::new(stderr).lines() {
        let line = line?;
        if let Some(count) = line.strip_prefix(MARK) {
            eprintln!("{count}");
            counts.push(count.to_owned());
        }
        output += &line;
        output.push('\n');
    }
    Ok(if child.wait()?.success() {
        Ok(counts)
    } else {
        Err(output)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_test_of_the_table_is_there() -> Result<()> {
        let checkout = Checkout::open()?;
        for test in &TESTS {
            let (module, name) = test.path.rsplit_once("::").context("a path of a test")?;
            let file = format!("crates/cli/tests/all/{}.rs", module.replace("::", "/"));
            let text = fs_err::read_to_string(checkout.root.join(&file))?;
            assert!(
                text.contains(&format!("fn {name}()")),
                "{name} is not in {file}"
            );
            assert!(test.name.len() < 16, "{}", test.name);
        }
        Ok(())
    }
}

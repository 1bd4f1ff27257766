//! A process under watch: its lines with the time they came, and the most memory it took.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Between two looks at the process.
const POLL: Duration = Duration::from_millis(20);

/// A process that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(1800);

/// How a process ended and what it said.
#[derive(Debug)]
pub(super) struct Ended {
    /// `None` where a signal ended it.
    pub(super) code: Option<i32>,
    /// The JSON objects on its stdout, with the seconds from its start to their arrival.
    pub(super) lines: Vec<(f64, Value)>,
    pub(super) stderr: String,
    /// The largest resident set so far, in bytes, with the seconds from the start, each time that it was found
    /// to have grown; Linux only.
    pub(super) peaks: Vec<(f64, u64)>,
}

impl Ended {
    /// The largest resident set until so many seconds from the start, in bytes.
    pub(super) fn peak_bytes(&self, until: f64) -> Option<u64> {
        let mut before = self.peaks.iter().rev();
        before
            .find(|(seconds, _)| *seconds <= until)
            .map(|(_, bytes)| *bytes)
    }
}

/// Runs a command to its end.
pub(super) fn run(command: Command) -> Result<Ended> {
    run_until(command, LIMIT, |_| false)
}

/// Runs a command to its end, or until it has printed what `is_enough`, which sees all lines so far: then it is
/// killed, and its code is `None`.
///
/// # Errors
/// Where it can't be run, or takes longer than `limit`.
pub(super) fn run_until(
    mut command: Command,
    limit: Duration,
    mut is_enough: impl FnMut(&[(f64, Value)]) -> bool,
) -> Result<Ended> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let started = Instant::now();
    let mut child = command
        .spawn()
        .with_context(|| format!("running {}", command.get_program().display()))?;
    let stdout = child.stdout.take().context("stdout is a pipe")?;
    let mut stderr = child.stderr.take().context("stderr is a pipe")?;
    let (sender, receiver) = mpsc::channel();
    // Each ends when the process closes its side.
    let reader = thread::spawn(move || {
        for line in BufReader::new(stdout).lines() {
            let Ok(line) = line else { break };
            let seconds = started.elapsed().as_secs_f64();
            // Python's libraries print other things too.
            if let Ok(value @ Value::Object(_)) = serde_json::from_str(&line) {
                let _ = sender.send((seconds, value));
            }
        }
    });
    let talk = thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stderr.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    });
    let mut peaks: Vec<(f64, u64)> = Vec::new();
    let mut lines = Vec::new();
    let status = loop {
        if let Some(bytes) = high_water_mark(child.id())
            && peaks.last().is_none_or(|(_, last)| bytes > *last)
        {
            peaks.push((started.elapsed().as_secs_f64(), bytes));
        }
        if let Some(status) = child.try_wait()? {
            break status;
        }
        let n_before = lines.len();
        lines.extend(receiver.try_iter());
        if lines.len() > n_before && is_enough(&lines) {
            child.kill()?;
            break child.wait()?;
        }
        if started.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            bail!("it did not end within {} s", limit.as_secs());
        }
        thread::sleep(POLL);
    };
    let _ = reader.join();
    lines.extend(receiver.try_iter());
    Ok(Ended {
        code: status.code(),
        lines,
        stderr: talk.join().unwrap_or_default(),
        peaks,
    })
}

/// The largest resident set that the process has had so far, in bytes: the kernel keeps count, so looking now and
/// then is enough.
fn high_water_mark(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Ended {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        run(command).unwrap()
    }

    #[test]
    fn objects_come_with_their_time_and_the_rest_is_passed_over() {
        let ended =
            shell("echo talk; echo '{\"a\":1}'; sleep 0.2; echo '{\"a\":2}'; echo 7; echo no >&2");
        assert_eq!(ended.code, Some(0));
        let numbers: Vec<i64> = ended
            .lines
            .iter()
            .filter_map(|(_, line)| line["a"].as_i64())
            .collect();
        assert_eq!(numbers, [1, 2]);
        let [first, second] = [0, 1].map(|i| ended.lines[i].0);
        assert!(first >= 0.0 && second - first > 0.15, "{first} {second}");
        assert_eq!(ended.stderr, "no\n");
    }

    #[test]
    fn failures_say_what_was_said_last() {
        let ended = shell("echo first >&2; echo why >&2; exit 3");
        assert_eq!(ended.problem(), "exit code 3: first / why");
        let ended = shell("echo 'error: why' >&2; echo usage >&2; exit 2");
        assert_eq!(ended.problem(), "exit code 2: error: why");
        assert!(
            shell("kill -9 $$")
                .problem()
                .starts_with("ended by a signal")
        );
    }

    #[test]
    fn a_process_ends_when_it_has_said_enough_or_takes_too_long() {
        let command = || {
            let mut command = Command::new("sh");
            command.args(["-c", "for i in 1 2 3; do echo '{}'; done; exec sleep 60"]);
            command
        };
        let ended = run_until(command(), LIMIT, |lines| lines.len() == 3).unwrap();
        assert_eq!((ended.code, ended.lines.len()), (None, 3));
        let error = run_until(command(), POLL, |_| false).unwrap_err();
        assert!(error.to_string().contains("did not end within"), "{error}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_peak_is_seen() {
        let ended = shell("x=$(head -c 30000000 /dev/zero | tr '\\0' a); sleep 0.1");
        let peak = ended.peak_bytes(f64::INFINITY);
        assert!(peak > Some(30_000_000), "{:?}", ended.peaks);
        assert!(ended.peak_bytes(0.0) < peak, "{:?}", ended.peaks);
    }
}

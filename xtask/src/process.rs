//! A process under watch: its lines with the time of their arrival, and its peak memory.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// Time between two looks at the process.
const POLL: Duration = Duration::from_millis(20);

/// A process that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(1800);

/// How a process ended and what it said.
#[derive(Debug)]
pub(crate) struct Ended {
    /// `None` where a signal ended it.
    pub(crate) code: Option<i32>,
    /// The JSON objects on its stdout, with the seconds from its start to their arrival.
    pub(crate) lines: Vec<(f64, Value)>,
    pub(crate) stderr: String,
    /// The largest resident set, in bytes; Linux only.
    pub(crate) peak_bytes: Option<u64>,
}

impl Ended {
    /// The first line of this type, with the seconds from the start to its arrival.
    pub(crate) fn line(&self, kind: &str) -> Result<(f64, &Value)> {
        let mut lines = self.lines.iter();
        let found = lines.find(|(_, line)| line["type"] == kind);
        let (seconds, line) = found.with_context(|| format!("it printed no `{kind}` line"))?;
        Ok((*seconds, line))
    }

    /// Why a process failed: its code with its error line, or the last of its words.
    pub(crate) fn problem(&self) -> String {
        let lines: Vec<&str> = self.stderr.trim_end().lines().collect();
        let is_error = |line: &&&str| line.starts_with("error: ");
        // Python's last line says more than those above it.
        let memory = lines.iter().rev().find(|line| is_out_of_memory(line));
        let words = match memory.or_else(|| lines.iter().find(is_error)) {
            Some(error) => (*error).to_owned(),
            None => lines[lines.len().saturating_sub(3)..].join(" / "),
        };
        match self.code {
            Some(code) => format!("exit code {code}: {words}"),
            None => format!("ended by a signal (out of memory?): {words}"),
        }
    }
}

/// Whether a process says that it found no room on a GPU.
pub(crate) fn is_out_of_memory(text: &str) -> bool {
    text.to_lowercase().contains("out of memory") && !text.contains("(out of memory?)")
}

/// Runs a command to its end, which has to be success.
pub(crate) fn run(command: Command) -> Result<Ended> {
    let ended = run_until(command, LIMIT, |_| false)?;
    ensure!(ended.code == Some(0), "{}", ended.problem());
    Ok(ended)
}

/// Runs a command to its end, or until `is_enough`, which sees all lines so far, holds: then it is killed, and its
/// code is `None`.
///
/// # Errors
/// Where it can't be run, fails, or takes longer than `limit`.
pub(crate) fn run_until(
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
    let mut peak_bytes = None;
    let mut lines = Vec::new();
    let status = loop {
        peak_bytes = high_water_mark(child.id()).max(peak_bytes);
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
        peak_bytes,
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
        run_until(command, LIMIT, |_| false).unwrap()
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
        let ended =
            shell("echo Traceback >&2; echo 'X: CUDA out of memory. Tried' >&2; echo >&2; exit 1");
        assert_eq!(ended.problem(), "exit code 1: X: CUDA out of memory. Tried");
        assert!(is_out_of_memory(&ended.problem()));
        let killed = shell("kill -9 $$").problem();
        assert!(killed.starts_with("ended by a signal") && !is_out_of_memory(&killed));
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
        assert!(
            ended.peak_bytes > Some(30_000_000),
            "{:?}",
            ended.peak_bytes
        );
    }
}

//! Readers run in child processes, where a crash is a result and not the end of the test.

use std::{
    env,
    fs::{self, File},
    io::{self, Write},
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

/// The longest that a reader may take over one file.
const SLOWEST: Duration = Duration::from_secs(2);
/// After this long without a finished file the child counts as hung.
const HUNG: Duration = Duration::from_secs(60);
/// Crashes after which the rest is not tried any more.
const MOST_CRASHES: usize = 20;

/// How many logs this process has begun, so that tests side by side have their own.
static LOGS: AtomicU64 = AtomicU64::new(0);

const CASES: &str = "MUTATE_CASES";
const LOG: &str = "MUTATE_LOG";

/// How many files of a kind to try: `SENTUNE_MUTATIONS`, or `quick` without it.
pub fn count(quick: u64) -> u64 {
    let set = env::var("SENTUNE_MUTATIONS").ok();
    set.and_then(|count| count.parse().ok()).unwrap_or(quick)
}

/// The end of reading a damaged file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Loaded, with the contents of the file.
    Loaded,
    /// Refused with an error.
    Refused,
    /// A library below the reader panicked, and the reader made that an error.
    PanicCaught,
}

/// A run over many damaged files.
#[derive(Debug, Clone, Copy)]
pub struct Gauntlet<'a> {
    /// The full name of the test that calls, as `cargo test` prints it: children run it again.
    pub test: &'a str,
    /// The kind of file, for the report.
    pub kind: &'a str,
    /// How many files.
    pub n_files: u64,
    /// Address space of a child in MiB (`ulimit -v`): beyond it, allocations fail.
    pub address_space: u64,
    /// How much a child's resident memory may grow over one file, in MiB.
    pub memory: u64,
}

impl Gauntlet<'_> {
    /// Runs `case` with the numbers 0 to `n_files` in child processes, and prints one line of
    /// counts.
    ///
    /// # Panics
    /// If a case panics, ends the process, takes over 2 s or too much memory; the message names
    /// each by its number.
    #[allow(clippy::print_stdout)]
    pub fn run(&self, mut case: impl FnMut(u64) -> Outcome) {
        if let (Ok(cases), Some(log)) = (env::var(CASES), env::var_os(LOG)) {
            work(parse_range(&cases), Path::new(&log), &mut case);
            return;
        }
        let start = Instant::now();
        let mut report = Report::default();
        let mut crashes = Vec::new();
        let mut next = 0;
        while next < self.n_files && crashes.len() < MOST_CRASHES {
            let n_logs = LOGS.fetch_add(1, Ordering::Relaxed);
            let log = env::temp_dir().join(format!("mutate-{}-{n_logs}", std::process::id()));
            let end = self.child(next..self.n_files, &log);
            let begun = report.read(&log, self);
            let _ = fs::remove_file(&log);
            match (begun, end) {
                (None, Ok(())) => break,
                (None, Err(end)) => {
                    crashes.push(format!("before any file: {end}"));
                    break;
                }
                (Some(i), end) => {
                    crashes.push(format!("file {i}: {}", end.err().unwrap_or_default()));
                    next = i + 1;
                }
            }
        }
        println!(
            "{} {}: {} loaded as the file says, {} refused, {} with a panic below caught; {} crashes, {} \
             wrong; slowest {:.3} s, most memory {} MiB; {:.0} s in all",
            report.n_done,
            self.kind,
            report.n_loaded,
            report.n_refused,
            report.n_caught,
            crashes.len(),
            report.wrong.len(),
            report.slowest.as_secs_f64(),
            report.most_kib / 1024,
            start.elapsed().as_secs_f64(),
        );
        crashes.extend(report.wrong);
        assert!(crashes.is_empty(), "{}: {}", self.kind, crashes.join("\n"));
    }

    /// Runs this test again in a process of its own, as a worker.
    fn child(&self, cases: Range<u64>, log: &Path) -> Result<(), String> {
        let test = [self.test, "--exact", "--nocapture", "--include-ignored"];
        let exe = env::current_exe().map_err(|error| error.to_string())?;
        let kib = (self.address_space << 10).to_string();
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -v \"$0\"; exec \"$@\"", &kib]);
        command.arg(exe).args(test);
        command.env(CASES, format!("{}..{}", cases.start, cases.end));
        command.env(LOG, log);
        let stderr = log.with_extension("stderr");
        let output = File::create(&stderr).map_err(|error| error.to_string())?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output);
        let mut child = command.spawn().map_err(|error| error.to_string())?;
        let mut seen = (0, Instant::now());
        let end = loop {
            match child.try_wait() {
                Ok(Some(status)) if status.success() => break Ok(()),
                Ok(Some(status)) => break Err(format!("the process ended with {status}")),
                Ok(None) => {}
                Err(error) => break Err(error.to_string()),
            }
            let written = fs::metadata(log).map_or(0, |metadata| metadata.len());
            if written != seen.0 {
                seen = (written, Instant::now());
            } else if seen.1.elapsed() > HUNG {
                let _ = child.kill();
                let _ = child.wait();
                break Err(format!("hung for {} s", HUNG.as_secs()));
            }
            thread::sleep(Duration::from_millis(5));
        };
        let said = fs::read(&stderr).unwrap_or_default();
        let _ = fs::remove_file(&stderr);
        end.map_err(|end| {
            let said = String::from_utf8_lossy(&said);
            let tail: Vec<&str> = said.lines().rev().take(3).collect();
            format!("{end}; last lines: {tail:?}")
        })
    }
}

/// The child's part: one line before each file and one after it.
fn work(cases: Range<u64>, log: &Path, case: &mut dyn FnMut(u64) -> Outcome) {
    let mut log = File::options()
        .create(true)
        .append(true)
        .open(log)
        .expect("the log of a worker can be written");
    let mut say = |line: String| {
        log.write_all(line.as_bytes())
            .expect("the log can be written")
    };
    for i in cases {
        say(format!("begin {i}\n"));
        let before = reset_peak();
        let mut elapsed = Duration::MAX;
        let mut result = Ok(Outcome::Refused);
        // A machine that is busy with something else gets a second chance, and a third.
        for _ in 0..3 {
            let start = Instant::now();
            result = catch_unwind(AssertUnwindSafe(|| case(i)));
            elapsed = elapsed.min(start.elapsed());
            if elapsed <= SLOWEST {
                break;
            }
        }
        let kib = peak().unwrap_or(0).saturating_sub(before);
        let word = match &result {
            Ok(Outcome::Loaded) => "loaded",
            Ok(Outcome::Refused) => "refused",
            Ok(Outcome::PanicCaught) => "caught",
            Err(_) => "panicked",
        };
        let message = result.err().map_or(String::new(), |payload| {
            let text = payload.downcast_ref::<String>().cloned();
            text.or_else(|| {
                payload
                    .downcast_ref::<&str>()
                    .map(|text| (*text).to_owned())
            })
            .unwrap_or_default()
            .replace('\n', " ")
        });
        say(format!(
            "end {i} {word} {} {kib} {message}\n",
            elapsed.as_micros()
        ));
    }
}

#[derive(Default)]
struct Report {
    n_done: u64,
    n_loaded: u64,
    n_refused: u64,
    n_caught: u64,
    slowest: Duration,
    most_kib: u64,
    wrong: Vec<String>,
}

impl Report {
    /// Adds up a worker's log; returns the case that it began and never ended.
    fn read(&mut self, log: &PathBuf, limits: &Gauntlet<'_>) -> Option<u64> {
        let text = fs::read(log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let mut begun = None;
        for line in text.lines() {
            let mut words = line.splitn(6, ' ');
            let (kind, i) = (words.next(), words.next());
            let Some(i) = i.and_then(|i| i.parse::<u64>().ok()) else {
                continue;
            };
            if kind == Some("begin") {
                begun = Some(i);
                continue;
            }
            begun = None;
            self.n_done += 1;
            let word = words.next().unwrap_or_default();
            let mut number = || words.next().and_then(|n| n.parse().ok()).unwrap_or(0);
            let (micros, kib) = (number(), number());
            let elapsed = Duration::from_micros(micros);
            self.slowest = self.slowest.max(elapsed);
            self.most_kib = self.most_kib.max(kib);
            match word {
                "loaded" => self.n_loaded += 1,
                "refused" => self.n_refused += 1,
                "caught" => self.n_caught += 1,
                _ => {
                    let message = words.next().unwrap_or_default();
                    self.wrong.push(format!("file {i}: {message}"));
                }
            }
            if elapsed > SLOWEST {
                self.wrong
                    .push(format!("file {i}: took {:.1} s", elapsed.as_secs_f64()));
            }
            if kib > limits.memory << 10 {
                self.wrong.push(format!("file {i}: took {} MiB", kib >> 10));
            }
        }
        begun
    }
}

fn parse_range(text: &str) -> Range<u64> {
    let (start, end) = text.split_once("..").unwrap_or(("0", text));
    start.parse().unwrap_or(0)..end.parse().unwrap_or(0)
}

/// Resident memory now, in KiB, after making the peak start from there. Linux alone counts it.
fn reset_peak() -> u64 {
    let reset: io::Result<()> = fs::write("/proc/self/clear_refs", "5");
    match reset {
        Ok(()) => peak().unwrap_or(0),
        Err(_) => u64::MAX,
    }
}

/// The largest resident memory since [`reset_peak`], in KiB.
fn peak() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches("kB").trim().parse().ok()
}

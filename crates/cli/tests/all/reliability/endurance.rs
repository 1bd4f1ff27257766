//! Test 11: what a long run takes of the machine does not grow.

use std::thread;

use super::*;

/// The resources of a process at one moment.
#[derive(Debug, Clone, Copy)]
struct Sample {
    step: u64,
    rss_kb: u64,
    n_threads: u64,
    n_files: usize,
}

/// The resources of a running process; `None` when it has ended.
fn sample(child: &mut Child, run: &Path) -> Option<Sample> {
    if child.try_wait().unwrap().is_some() {
        return None;
    }
    let process = Path::new("/proc").join(child.id().to_string());
    let status = std::fs::read_to_string(process.join("status")).ok()?;
    let number = |key: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let metrics = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
    let last = metrics
        .lines()
        .last()
        .and_then(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    Some(Sample {
        step: last.and_then(|entry| entry["step"].as_u64()).unwrap_or(0),
        rss_kb: number("VmRSS:")?,
        n_threads: number("Threads:")?,
        n_files: std::fs::read_dir(process.join("fd")).ok()?.count(),
    })
}

#[test]
#[cfg(target_os = "linux")]
fn a_long_run_takes_no_more_than_a_short_one() {
    let sandbox = Sandbox::new();
    let n_steps = count(2_000, 100_000) as u64;
    let (n, every) = (n_steps.to_string(), (n_steps / 100).to_string());
    let run = Training::new(
        &sandbox,
        "run",
        &[
            "--max-steps",
            &n,
            "--logging-steps",
            &every,
            "--save-steps",
            &every,
        ],
    )
    .and(&words(
        "--per-device-train-batch-size 2 --save-total-limit 2 --num-threads 1",
    ));
    let mut child = run.start(&[]);
    let mut samples = Vec::new();
    while let Some(sample) = sample(&mut child, &run.folder()) {
        samples.push(sample);
        thread::sleep(Duration::from_millis(count(10, 500) as u64));
    }
    assert!(child.wait().unwrap().success());
    // The first fifth is for buffers to grow in; what comes after is looked at in two halves.
    let (early, late): (Vec<Sample>, Vec<Sample>) = samples
        .into_iter()
        .filter(|sample| sample.step >= n_steps / 5 && sample.step < n_steps)
        .partition(|sample| sample.step < n_steps * 3 / 5);
    assert!(early.len() >= 3 && late.len() >= 3, "{early:?} {late:?}");
    let most = |samples: &[Sample], of: fn(&Sample) -> u64| samples.iter().map(of).max().unwrap();
    let rss = [&early, &late].map(|half| most(half, |sample| sample.rss_kb));
    let threads = [&early, &late].map(|half| most(half, |sample| sample.n_threads));
    let files = [&early, &late].map(|half| most(half, |sample| sample.n_files as u64));
    say(&format!(
        "{n_steps} steps, most in the second and in the last two fifths: RSS {} and {} kB, threads {} and {}, files {} and {}",
        rss[0], rss[1], threads[0], threads[1], files[0], files[1]
    ));
    // One MB in 10,000 steps, and what an allocator may do in between.
    assert!(rss[1] <= rss[0] + 4 * 1024, "{rss:?} kB");
    // One more of each while a checkpoint is being written, which may be seen in one half only.
    assert!(
        threads[1] <= threads[0] + 1 && threads[1] <= 8,
        "{threads:?}"
    );
    assert!(files[1] <= files[0] + 2, "{files:?}");
}

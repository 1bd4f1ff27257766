//! The memory of a GPU in use, by the driver's word: the same measure for both sides, whatever they allocate with.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

/// Time between two looks.
const MILLISECONDS: &str = "100";

/// A thread that reads the memory in use for as long as this lives; without the driver's tool it finds nothing.
#[derive(Debug)]
pub(super) struct Watch {
    tool: Option<Child>,
    /// The latest value, in MiB.
    now: Arc<AtomicU64>,
    /// The most since [`Self::begin`], in MiB.
    most: Arc<AtomicU64>,
}

impl Watch {
    /// Starts the driver's tool on the GPU of this number or name.
    pub(super) fn start(gpu: &str) -> Self {
        let mut command = Command::new("nvidia-smi");
        command.args(["--query-gpu=memory.used", "--format=csv,noheader,nounits"]);
        command.args(["--id", gpu, "--loop-ms", MILLISECONDS]);
        Self::of(command)
    }

    fn of(mut command: Command) -> Self {
        let (now, most) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut tool = command.spawn().ok();
        if let Some(lines) = tool.as_mut().and_then(|tool| tool.stdout.take()) {
            let (now, most) = (Arc::clone(&now), Arc::clone(&most));
            thread::spawn(move || {
                for line in BufReader::new(lines).lines().map_while(Result::ok) {
                    if let Ok(used) = line.trim().parse() {
                        now.store(used, Ordering::Relaxed);
                        most.fetch_max(used, Ordering::Relaxed);
                    }
                }
            });
        }
        Self { tool, now, most }
    }

    /// Forgets what was seen, and returns what is in use before a process starts, in MiB.
    pub(super) fn begin(&self) -> u64 {
        // The driver takes a moment to get the last process's memory back.
        thread::sleep(Duration::from_millis(300));
        let now = self.now.load(Ordering::Relaxed);
        self.most.store(now, Ordering::Relaxed);
        now
    }

    /// The most that was in use since then, less what was before, in bytes.
    pub(super) fn peak_bytes(&self, before: u64) -> Option<u64> {
        let most = self.most.load(Ordering::Relaxed);
        (most > before).then(|| (most - before) * 1024 * 1024)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(tool) = &mut self.tool {
            // It may have ended by itself.
            let _ = tool.kill();
            let _ = tool.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_since_the_beginning_counts() {
        let mut command = Command::new("sh");
        let script = "echo 900; echo 500; sleep 1; echo 1500; echo 700; exec sleep 60";
        command.args(["-c", script]);
        let watch = Watch::of(command);
        let before = watch.begin();
        assert_eq!((before, watch.peak_bytes(before)), (500, None));
        for _ in 0..500 {
            if watch.peak_bytes(before).is_some() {
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(watch.peak_bytes(before), Some(1000 * 1024 * 1024));
    }

    #[test]
    fn without_the_tool_nothing_is_found() {
        let watch = Watch::of(Command::new("no-such-tool"));
        assert_eq!(watch.begin(), 0);
        assert_eq!(watch.peak_bytes(0), None);
    }
}

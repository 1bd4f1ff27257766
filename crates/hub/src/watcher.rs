//! The caller's side of a fetch: progress, and the wish to stop.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::error::HubError;

/// The longest that the caller's thread waits before it asks [`Watcher::interrupted`] again.
pub(crate) const POLL: Duration = Duration::from_millis(50);

/// Progress of a fetch, and a way to stop it.
///
/// `()` ignores the progress and never stops.
pub trait Watcher {
    /// `file` of the repository stands at `done_bytes` of `total_bytes`. Called at the start of a file,
    /// after every chunk, and once with equal numbers when it was there already; a number may go back
    /// when a download starts again.
    fn progress(&mut self, file: &str, done_bytes: u64, total_bytes: u64) {
        let _ = (file, done_bytes, total_bytes);
    }

    /// Whether to stop, asked at least every 50 ms, also while a connection hangs. The bytes fetched so far
    /// are kept, and [`HubError::Interrupted`] is returned.
    fn interrupted(&mut self) -> bool {
        false
    }
}

impl Watcher for () {}

/// Sleeps for `pause`, or until the watcher asks to stop.
pub(crate) fn sleep(pause: Duration, watcher: &mut dyn Watcher) -> Result<(), HubError> {
    let end = Instant::now() + pause;
    loop {
        if watcher.interrupted() {
            return Err(HubError::Interrupted);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(POLL));
    }
}

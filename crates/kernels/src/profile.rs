//! Profiler: the time of a step, by part.
//!
//! Every kernel records its own time under its [`Part`]; work of another library, such as its matrix products, is
//! recorded by a call of [`time`]. While the profiler is off, such a call only reads a flag. There is one profiler for
//! the whole process, so its figures are meaningful only if one step runs at a time.

use std::{
    cell::Cell,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// A kind of work within a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Matrix products of linear layers.
    MatrixProducts,
    /// Attention, forward and backward.
    Attention,
    /// Dropout, residual and layer norm, forward and backward.
    Norm,
    /// Bias and GELU, forward and backward.
    Gelu,
    /// Lookup, norm and dropout of the embeddings, and their gradients.
    Embedding,
    /// Pooling, forward and backward.
    Pooling,
    /// The loss and its gradient by the embeddings.
    Loss,
    /// The gradient's norm and the update.
    Optimizer,
}

impl Part {
    /// All parts, in the order of a step.
    pub const ALL: [Self; 8] = [
        Self::MatrixProducts,
        Self::Attention,
        Self::Norm,
        Self::Gelu,
        Self::Embedding,
        Self::Pooling,
        Self::Loss,
        Self::Optimizer,
    ];

    /// Name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::MatrixProducts => "matrix products",
            Self::Attention => "attention",
            Self::Norm => "dropout, residual, layer norm",
            Self::Gelu => "bias, GELU",
            Self::Embedding => "embeddings",
            Self::Pooling => "pooling",
            Self::Loss => "loss",
            Self::Optimizer => "clipping, optimizer",
        }
    }
}

static IS_ON: AtomicBool = AtomicBool::new(false);
static NANOSECONDS: [AtomicU64; Part::ALL.len()] = [const { AtomicU64::new(0) }; Part::ALL.len()];

thread_local! {
    /// Whether this thread is within a part; nested calls count for the outer one.
    static IS_WITHIN: Cell<bool> = const { Cell::new(false) };
}

/// Starts the profiler from zero.
pub fn start() {
    NANOSECONDS
        .iter()
        .for_each(|count| count.store(0, Ordering::Relaxed));
    IS_ON.store(true, Ordering::Relaxed);
}

/// Stops the profiler and returns the time of each part since it was started.
pub fn stop() -> Vec<(Part, Duration)> {
    IS_ON.store(false, Ordering::Relaxed);
    Part::ALL
        .into_iter()
        .map(|part| {
            let nanoseconds = NANOSECONDS[part as usize].load(Ordering::Relaxed);
            (part, Duration::from_nanos(nanoseconds))
        })
        .collect()
}

/// Returns a timer that records the time until it is dropped; `None` while the profiler is off, and within another
/// part of the same thread.
#[must_use = "the time is counted until this is dropped"]
pub fn time(part: Part) -> Option<Timer> {
    if !IS_ON.load(Ordering::Relaxed) || IS_WITHIN.replace(true) {
        return None;
    }
    Some(Timer {
        part,
        started: Instant::now(),
    })
}

/// Timer that records until it is dropped; made by [`time`].
#[derive(Debug)]
pub struct Timer {
    part: Part,
    started: Instant,
}

impl Drop for Timer {
    fn drop(&mut self) {
        let nanoseconds = self.started.elapsed().as_nanos() as u64;
        NANOSECONDS[self.part as usize].fetch_add(nanoseconds, Ordering::Relaxed);
        IS_WITHIN.set(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::sleep;

    /// A single test, because the process has one profiler; kernels of other tests may record too, under other
    /// parts.
    #[test]
    fn each_moment_counts_once_and_only_while_the_stopwatch_runs() {
        let wait = Duration::from_millis(20);
        assert!(time(Part::Loss).is_none());
        start();
        {
            let _loss = time(Part::Loss).unwrap();
            assert!(time(Part::Loss).is_none(), "within the loss");
            sleep(wait);
        }
        drop(time(Part::Loss).unwrap());
        let counted = stop();
        assert_eq!(counted.len(), Part::ALL.len());
        let (part, loss) = counted[Part::Loss as usize];
        assert_eq!(part, Part::Loss);
        assert!(loss >= wait, "{loss:?}");
        assert!(time(Part::Loss).is_none());
        start();
        assert!(stop()[Part::Loss as usize].1 < wait);
    }
}

//! What is measured in which order, and how long each measurement may take.
//!
//! The whole is to end in a time that is fixed beforehand, and most of it goes to starts: Python's imports, the
//! model, the first use of the GPU. So the time that is left, less the starts that are still to come, is shared out
//! among the measurements that are, anew before each; what matters most comes first, and what finds too little
//! left is left out.

use clap::ValueEnum;

use crate::bench::case::Side;

/// What both sides multiply matrices in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::bench) enum Precision {
    /// Single precision
    Fp32,
    /// Single precision, products in TF32
    Tf32,
    /// bf16, with weights in single precision
    Bf16,
}

impl Precision {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Tf32 => "tf32",
            Self::Bf16 => "bf16",
        }
    }
}

/// What both sides do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    /// Train in batches of this size.
    Train(usize),
    Encode,
}

impl Task {
    pub(super) fn unit(self) -> &'static str {
        match self {
            Self::Train(_) => "triplets/s",
            Self::Encode => "sentences/s",
        }
    }
}

/// One row of the table: a task in a precision, on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) task: Task,
    pub(super) precision: Precision,
}

impl Cell {
    /// All, those first that say most.
    pub(super) fn all() -> Vec<Self> {
        use Precision::{Bf16, Fp32, Tf32};
        let mut cells = Vec::new();
        for precision in [Bf16, Fp32, Tf32] {
            for batch_size in [16, 128, 1024, 8] {
                let task = Task::Train(batch_size);
                cells.push(Self { task, precision });
            }
            // `sentune encode` has no TF32.
            if precision != Tf32 {
                let task = Task::Encode;
                cells.push(Self { task, precision });
            }
        }
        cells
    }

    pub(super) fn name(self) -> String {
        let precision = self.precision.name();
        match self.task {
            Task::Train(batch_size) => format!("train-{batch_size}-{precision}"),
            Task::Encode => format!("encode-{precision}"),
        }
    }

    pub(super) fn batch_size(self) -> Option<usize> {
        match self.task {
            Task::Train(batch_size) => Some(batch_size),
            Task::Encode => None,
        }
    }

    /// Whether the flags ask for it.
    pub(super) fn is_in(
        self,
        precisions: Option<&[Precision]>,
        batch_sizes: Option<&[usize]>,
    ) -> bool {
        let of_precision = precisions.is_none_or(|wanted| wanted.contains(&self.precision));
        let of_size = match (self.batch_size(), batch_sizes) {
            (Some(size), Some(wanted)) => wanted.contains(&size),
            (None, Some(_)) | (_, None) => true,
        };
        of_precision && of_size
    }

    /// Whether it belongs to the look at whether everything works.
    pub(super) fn is_quick(self) -> bool {
        self.precision == Precision::Bf16 && self.batch_size().is_none_or(|size| size == 16)
    }
}

/// Seconds before a window, in which buffers grow and libraries choose their kernels.
pub(super) const WARMUP: f64 = 1.5;

/// Seconds that a window has at least, and at most.
const WINDOW: [f64; 2] = [2.0, 10.0];

/// How the time is shared out.
#[derive(Debug)]
pub(super) struct Budget {
    /// In all, in seconds.
    limit: f64,
    longest: f64,
    /// Of the sides: what a process takes beside warm-up and window, in seconds. The first is a guess, which
    /// what was seen replaces.
    overheads: [Overhead; 2],
}

#[derive(Debug)]
struct Overhead {
    guess: f64,
    sum: f64,
    n: f64,
}

impl Overhead {
    fn new(guess: f64) -> Self {
        Self {
            guess,
            sum: 0.0,
            n: 0.0,
        }
    }

    fn expected(&self) -> f64 {
        if self.n == 0.0 {
            self.guess
        } else {
            self.sum / self.n
        }
    }
}

fn place(side: Side) -> usize {
    match side {
        Side::Peer => 0,
        Side::Ours => 1,
    }
}

impl Budget {
    /// So many seconds in all; `quick` windows are of the least length.
    pub(super) fn new(limit: f64, quick: bool) -> Self {
        Self {
            limit,
            longest: if quick { WINDOW[0] } else { WINDOW[1] },
            overheads: [Overhead::new(20.0), Overhead::new(8.0)],
        }
    }

    /// What the processes of a cell take beside their windows.
    fn fixed(&self, task: Task) -> f64 {
        let [peer, ours] = [0, 1].map(|side| self.overheads[side].expected());
        match task {
            Task::Train(_) => peer + ours + 2.0 * WARMUP,
            // Ours runs twice, on few sentences and on many.
            Task::Encode => peer + 2.0 * ours + WARMUP,
        }
    }

    /// The seconds of each window of the first of the cells that are left, where so many were spent; `None` where
    /// there is no time for it.
    pub(super) fn window(&self, spent: f64, left: &[Cell]) -> Option<f64> {
        let [least, _] = WINDOW;
        let time = self.limit - spent;
        let first = self.fixed(left.first()?.task);
        if first + 2.0 * least > time {
            return None;
        }
        let fixed: f64 = left.iter().map(|cell| self.fixed(cell.task)).sum();
        let share = (time - fixed) / (2 * left.len()) as f64;
        Some(share.clamp(least, self.longest))
    }

    /// Takes note of a process that took so many seconds, of which so many were warm-up and window.
    pub(super) fn note(&mut self, side: Side, seconds: f64, measured: f64) {
        let overhead = &mut self.overheads[place(side)];
        overhead.sum += (seconds - measured).max(0.0);
        overhead.n += 1.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goes through all cells on a machine whose processes take so long to start; what was measured, with the
    /// windows, and the time it took.
    fn simulated(limit: f64, peer: f64, ours: f64) -> (Vec<(String, f64)>, f64) {
        let (mut budget, cells) = (Budget::new(limit, false), Cell::all());
        let (mut spent, mut done) = (40.0, Vec::new());
        for (i, cell) in cells.iter().enumerate() {
            let Some(window) = budget.window(spent, &cells[i..]) else {
                continue;
            };
            for (side, overhead) in [(Side::Peer, peer), (Side::Ours, ours)] {
                let n_starts = if side == Side::Ours && cell.task == Task::Encode {
                    2
                } else {
                    1
                };
                for _ in 0..n_starts {
                    spent += overhead + WARMUP + window;
                    budget.note(side, overhead + WARMUP + window, WARMUP + window);
                }
            }
            done.push((cell.name(), window));
        }
        (done, spent)
    }

    #[test]
    fn everything_fits_into_nine_minutes_on_a_machine_as_expected() {
        let (done, spent) = simulated(510.0, 14.0, 4.0);
        assert_eq!(done.len(), 14);
        assert!(spent <= 530.0, "{spent}");
        assert!(
            done.iter().all(|(_, window)| (2.0..=10.0).contains(window)),
            "{done:?}"
        );
        assert!(done.iter().any(|(_, window)| *window > 3.0), "{done:?}");
    }

    #[test]
    fn on_a_slow_machine_the_last_are_left_out_and_not_the_time() {
        let (done, spent) = simulated(510.0, 45.0, 15.0);
        let names: Vec<&str> = done.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names[..3],
            ["train-16-bf16", "train-128-bf16", "train-1024-bf16"]
        );
        assert!((5..14).contains(&done.len()), "{names:?}");
        assert!(spent <= 540.0, "{spent}");
    }

    #[test]
    fn windows_grow_with_the_time_but_not_for_ever() {
        let cells = Cell::all();
        let window = |limit| Budget::new(limit, false).window(0.0, &cells);
        assert_eq!(window(30.0), None);
        assert_eq!(window(60.0), Some(2.0));
        let [some, more, most] = [600.0, 660.0, 9000.0].map(|limit| window(limit).unwrap());
        assert!(some < more && most == 10.0, "{some} {more} {most}");
        assert_eq!(Budget::new(9000.0, true).window(0.0, &cells), Some(2.0));
    }

    #[test]
    fn cells_are_chosen_by_size_and_precision() {
        let names = |precisions: Option<&[Precision]>, sizes: Option<&[usize]>| {
            let cells = Cell::all().into_iter();
            let wanted = cells.filter(|cell| cell.is_in(precisions, sizes));
            wanted.map(Cell::name).collect::<Vec<_>>()
        };
        assert_eq!(names(None, None).len(), 14);
        assert_eq!(
            names(Some(&[Precision::Tf32]), Some(&[8])),
            ["train-8-tf32"]
        );
        assert_eq!(
            names(Some(&[Precision::Bf16]), Some(&[16])),
            ["train-16-bf16", "encode-bf16"]
        );
        let quick: Vec<Cell> = Cell::all()
            .into_iter()
            .filter(|cell| cell.is_quick())
            .collect();
        assert_eq!(quick.len(), 2);
    }
}

//! Signals: the first asks the work to stop where nothing is lost, the second ends it at once.
//!
//! Training stops at the next micro-batch, or part of one, and writes a checkpoint. Whatever else is going on is asked often and
//! has nothing to lose: where it does not stop within seconds, because it reads a large file or waits for the
//! network or for stdin, the process ends without it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use signal_hook::{
    consts::{SIGINT, SIGTERM, SIGUSR1},
    flag,
    iterator::Signals,
    low_level,
};

/// Signals that ask a run to stop. Schedulers such as Slurm are told to send SIGUSR1 before time is up.
const SIGNALS: [(i32, &str); 3] = [
    (SIGINT, "SIGINT"),
    (SIGTERM, "SIGTERM"),
    (SIGUSR1, "SIGUSR1"),
];

/// Time in which work with nothing to lose has to stop by itself.
const GRACE: Duration = Duration::from_secs(3);

/// The signals of the process, and whether one asked it to stop.
#[derive(Debug, Clone)]
pub(crate) struct Interrupt {
    signal: Arc<AtomicUsize>,
    n_holds: Arc<AtomicUsize>,
}

/// While it lives, the process waits for the work to stop by itself, however long that takes.
#[derive(Debug)]
pub(crate) struct Hold {
    n_holds: Arc<AtomicUsize>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.n_holds.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The error of work that a signal ended.
#[derive(Debug)]
pub(crate) struct Interrupted {
    pub(crate) signal: u8,
}

impl Interrupted {
    /// The exit code of shells: 128 and the signal's number.
    pub(crate) fn exit_code(&self) -> u8 {
        128 + self.signal
    }
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = SIGNALS
            .iter()
            .find(|(number, _)| *number == i32::from(self.signal));
        write!(f, "ended by {}", known.map_or("a signal", |(_, name)| name))
    }
}

impl std::error::Error for Interrupted {}

impl Interrupt {
    /// Listens to signals from now on.
    pub(crate) fn listen() -> anyhow::Result<Self> {
        let signal = Arc::new(AtomicUsize::new(0));
        let is_second = Arc::new(AtomicBool::new(false));
        for (number, _) in SIGNALS {
            // In this order: the shutdown looks at the flag before this same signal raises it.
            flag::register_conditional_shutdown(number, 128 + number, Arc::clone(&is_second))?;
            flag::register(number, Arc::clone(&is_second))?;
            flag::register_usize(number, Arc::clone(&signal), number as usize)?;
        }
        let n_holds = Arc::new(AtomicUsize::new(0));
        let mut signals = Signals::new(SIGNALS.map(|(number, _)| number))?;
        let held = Arc::clone(&n_holds);
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                let Some(number) = signals.forever().next() else {
                    return;
                };
                loop {
                    thread::sleep(GRACE);
                    if held.load(Ordering::Relaxed) == 0 {
                        // Without the destructors of what is still running.
                        low_level::exit(128 + number);
                    }
                }
            })?;
        Ok(Self { signal, n_holds })
    }

    /// Lets work that has something to lose run on, until the returned guard is dropped.
    pub(crate) fn hold(&self) -> Hold {
        self.n_holds.fetch_add(1, Ordering::Relaxed);
        Hold {
            n_holds: Arc::clone(&self.n_holds),
        }
    }

    /// Asks the work to stop as that signal does.
    pub(crate) fn raise(&self, signal: u8) {
        self.signal.store(usize::from(signal), Ordering::Relaxed);
    }

    /// The signal that has come.
    pub(crate) fn signal(&self) -> Option<u8> {
        match self.signal.load(Ordering::Relaxed) {
            0 => None,
            signal => Some(signal as u8),
        }
    }

    /// Whether a signal has come.
    pub(crate) fn is_set(&self) -> bool {
        self.signal().is_some()
    }

    /// The error to end with, when a signal has come, to this process or to another rank.
    pub(crate) fn error(&self) -> anyhow::Error {
        Interrupted {
            signal: self.signal().unwrap_or(SIGTERM as u8),
        }
        .into()
    }
}

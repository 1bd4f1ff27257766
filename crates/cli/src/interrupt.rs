//! Signals: the first asks the work to stop where nothing is lost, the second ends it at once.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
};

/// Knows whether a signal asked to stop.
#[derive(Debug, Clone)]
pub(crate) struct Interrupt {
    signal: Arc<AtomicUsize>,
}

/// The error of work that a signal ended.
#[derive(Debug)]
pub(crate) struct Interrupted {
    pub(crate) signal: u8,
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if i32::from(self.signal) == SIGINT {
            "SIGINT"
        } else {
            "SIGTERM"
        };
        write!(f, "ended by {name}")
    }
}

impl std::error::Error for Interrupted {}

impl Interrupt {
    /// Listens to SIGINT and SIGTERM from now on.
    pub(crate) fn listen() -> anyhow::Result<Self> {
        let signal = Arc::new(AtomicUsize::new(0));
        let is_second = Arc::new(AtomicBool::new(false));
        for (number, exit_code) in [(SIGINT, 130), (SIGTERM, 143)] {
            // In this order: the shutdown looks at the flag before this same signal raises it.
            flag::register_conditional_shutdown(number, exit_code, Arc::clone(&is_second))?;
            flag::register(number, Arc::clone(&is_second))?;
            flag::register_usize(number, Arc::clone(&signal), number as usize)?;
        }
        Ok(Self { signal })
    }

    /// Whether a signal has come.
    pub(crate) fn is_set(&self) -> bool {
        self.signal.load(Ordering::Relaxed) != 0
    }

    /// The error to end with, when a signal has come.
    pub(crate) fn error(&self) -> anyhow::Error {
        Interrupted {
            signal: self.signal.load(Ordering::Relaxed) as u8,
        }
        .into()
    }

    /// Ends the work when a signal has come.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        if self.is_set() {
            Err(self.error())
        } else {
            Ok(())
        }
    }
}

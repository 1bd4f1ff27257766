//! The user of a command: log lines and progress bars, and the signals that ask it to stop.

use std::ops::ControlFlow;

use indicatif::ProgressBar;

use crate::{interrupt::Interrupt, talk::Talk};

/// Handed to all that may take long.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) talk: Talk,
    pub(crate) interrupt: Interrupt,
}

impl Session {
    /// A bar over `n` things; hidden where there is no terminal.
    pub(crate) fn bar(&self, title: &str, n: usize) -> ProgressBar {
        self.talk.bar(title, n)
    }

    /// Moves a bar as work goes on, and breaks the work off when a signal has come.
    pub(crate) fn following(&self, bar: &ProgressBar) -> impl FnMut(usize) -> ControlFlow<()> {
        move |n_done| {
            bar.set_position(n_done as u64);
            if self.interrupt.is_set() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        }
    }

    /// Ends the work when a signal has come.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        if self.interrupt.is_set() {
            Err(self.interrupt.error())
        } else {
            Ok(())
        }
    }
}

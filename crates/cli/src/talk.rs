//! stderr: log lines, and progress bars where it is a terminal.

use std::{
    collections::BTreeSet,
    io::{self, IsTerminal, Write},
    sync::Arc,
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use crate::usage::without_foreign_flags;

/// tqdm's layout: done, of total, time gone and left.
const BAR: &str =
    "{prefix}: {percent:>3}%|{bar:24}| {pos}/{len} [{elapsed_precise}<{eta_precise}{msg}]";

/// Everything said to the user.
#[derive(Debug, Clone)]
pub(crate) struct Talk {
    bars: MultiProgress,
    has_bars: bool,
    /// The flags of the command.
    known: Arc<BTreeSet<String>>,
    /// The number of this process, where it is one of several ranks.
    rank: Option<usize>,
}

impl Talk {
    /// Sets up log lines and bars. RUST_LOG wins over `verbose` and `quiet`. Of several ranks, the first speaks for all.
    ///
    /// Advice that names flags other than the `known` ones is left out of all lines.
    pub(crate) fn start(
        verbose: u8,
        quiet: bool,
        rank: Option<usize>,
        known: BTreeSet<String>,
    ) -> Self {
        let is_other = rank.is_some_and(|rank| rank > 0);
        let has_bars = io::stderr().is_terminal() && !quiet && !is_other;
        let talk = Self {
            bars: MultiProgress::new(),
            has_bars,
            known: Arc::new(known),
            rank,
        };
        let level = match (quiet, verbose) {
            (_, 0) if is_other => "error",
            (true, _) => "warn",
            (false, 0) => "info",
            (false, 1) => "debug",
            (false, _) => "trace",
        };
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(talk.clone())
            .with_ansi(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
            .without_time()
            .with_target(false)
            .init();
        talk
    }

    /// Log lines and bars that are shown nowhere.
    #[cfg(test)]
    pub(crate) fn without_bars() -> Self {
        Self {
            bars: MultiProgress::new(),
            has_bars: false,
            known: Arc::default(),
            rank: None,
        }
    }

    /// Prints the error of a run that failed: the whole chain on one line.
    pub(crate) fn error(&self, error: &anyhow::Error) {
        let who = self.rank.map(|rank| format!("rank {rank}: "));
        self.print(&format!("error: {}{error:#}\n", who.unwrap_or_default()));
    }

    /// Prints a line below the error.
    pub(crate) fn hint(&self, text: &str) {
        self.print(&format!("hint: {text}\n"));
    }

    fn print(&self, text: &str) {
        // Nobody is left to tell when stderr itself can't be written.
        let _ = self.clone().write_all(text.as_bytes());
    }

    /// Shows a drawing, where there is a terminal.
    pub(crate) fn plot(&self, text: &str) -> io::Result<()> {
        if self.has_bars {
            self.clone().write_all(text.as_bytes())?;
        }
        Ok(())
    }

    /// A bar over `n` things; hidden where there is no terminal.
    pub(crate) fn bar(&self, what: &str, n: usize) -> ProgressBar {
        if !self.has_bars {
            return ProgressBar::hidden();
        }
        let bar = self.bars.add(ProgressBar::new(n as u64));
        let style =
            ProgressStyle::with_template(BAR).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style);
        bar.set_prefix(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(250));
        bar
    }
}

impl Write for Talk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let text = without_foreign_flags(&text, &self.known);
        self.bars
            .suspend(|| io::stderr().lock().write_all(text.as_bytes()))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl MakeWriter<'_> for Talk {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_is_well_formed() {
        ProgressStyle::with_template(BAR).unwrap();
    }
}

//! stdout, which is for data alone.

use std::io::{self, Write};

/// Writes text to stdout as it is.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Writes one JSON object as a line to stdout.
pub(crate) fn print_json(value: &impl serde::Serialize) -> io::Result<()> {
    let mut line = serde_json::to_string(value)?;
    line.push('\n');
    print(&line)
}

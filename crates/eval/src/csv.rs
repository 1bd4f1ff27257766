//! The CSV files that evaluators append to, one row per evaluation.

use crate::Metrics;
use std::io::Write;
use std::path::Path;

/// When in a run an evaluation was made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum At {
    /// Outside training: both columns are -1.
    Outside,
    /// After so many epochs and optimizer steps.
    Step {
        /// Epochs done, with a fraction.
        epoch: f64,
        /// Optimizer steps done.
        steps: u64,
    },
}

/// Appends a row to a file, after the header where the file is new; folders are made.
///
/// Lines end with `\r\n`, as Python's `csv` module has it.
///
/// # Errors
/// Where the file or its folder cannot be written; the message names it.
pub fn append(path: &Path, header: &[String], row: &[String]) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs_err::create_dir_all(folder)?;
    }
    let new = !path.exists();
    let mut file = fs_err::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)?;
    let mut text = String::new();
    if new {
        text += &line(header);
    }
    text += &line(row);
    file.write_all(text.as_bytes())
}

/// `{kind}_{name}_results.csv`, or `{kind}_results.csv` where the name is empty.
pub(crate) fn file_name(kind: &str, name: &str) -> String {
    match name {
        "" => format!("{kind}_results.csv"),
        name => format!("{kind}_{name}_results.csv"),
    }
}

/// `epoch` and `steps` before the evaluator's own columns.
pub(crate) fn header(columns: impl Iterator<Item = String>) -> Vec<String> {
    ["epoch", "steps"]
        .map(str::to_owned)
        .into_iter()
        .chain(columns)
        .collect()
}

/// The figures under `keys`, which are without the evaluator's name.
pub(crate) fn row(
    at: At,
    name: &str,
    metrics: &Metrics,
    keys: impl Iterator<Item = String>,
) -> Vec<String> {
    let (epoch, steps) = match at {
        At::Outside => ("-1".to_owned(), "-1".to_owned()),
        At::Step { epoch, steps } => (number(epoch), steps.to_string()),
    };
    let figure = |key: String| {
        let key = if name.is_empty() {
            key
        } else {
            format!("{name}_{key}")
        };
        number(metrics.get(&key).unwrap_or(f64::NAN))
    };
    [epoch, steps].into_iter().chain(keys.map(figure)).collect()
}

/// A float as Python prints it: with a decimal point, and `nan` in lower case.
fn number(value: f64) -> String {
    if value.is_nan() {
        "nan".to_owned()
    } else {
        format!("{value:?}")
    }
}

fn line(fields: &[String]) -> String {
    let quoted = |field: &String| match field.contains([',', '"', '\r', '\n']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field.clone(),
    };
    fields.iter().map(quoted).collect::<Vec<_>>().join(",") + "\r\n"
}

//! The CSV files that evaluators append to, one row per evaluation.

use std::{io::Write, path::Path};

use crate::metrics::Metrics;

/// The moment of an evaluation in a run.
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

/// An evaluator's file: `epoch`, `steps`, and a column for each of some metrics.
#[derive(Debug, Clone, PartialEq)]
pub struct CsvTable {
    /// The name of the file.
    pub file: String,
    columns: Vec<CsvColumn>,
}

#[derive(Debug, Clone, PartialEq)]
struct CsvColumn {
    title: String,
    /// With the evaluator's name.
    key: String,
    is_negated: bool,
}

impl CsvTable {
    /// A file with these columns, each as title and key; the keys are without the evaluator's name.
    pub(crate) fn new(
        file: String,
        name: &str,
        columns: impl IntoIterator<Item = (String, String)>,
    ) -> Self {
        let column = |(title, key): (String, String)| CsvColumn {
            title,
            key: Metrics::key(name, &key),
            is_negated: false,
        };
        Self {
            file,
            columns: columns.into_iter().map(column).collect(),
        }
    }

    /// The same with every metric negated.
    pub(crate) fn negated(mut self) -> Self {
        for column in &mut self.columns {
            column.is_negated = true;
        }
        self
    }

    /// The names of the columns.
    pub fn header(&self) -> Vec<String> {
        let titles = self.columns.iter().map(|column| column.title.clone());
        ["epoch", "steps"]
            .map(str::to_owned)
            .into_iter()
            .chain(titles)
            .collect()
    }

    /// The row of an evaluation.
    pub fn row(&self, at: At, metrics: &Metrics) -> Vec<String> {
        let (epoch, steps) = match at {
            At::Outside => ("-1".to_owned(), "-1".to_owned()),
            At::Step { epoch, steps } => (number(epoch), steps.to_string()),
        };
        let figures = self.columns.iter().map(|column| {
            let value = metrics.get(&column.key).unwrap_or(f64::NAN);
            number(if column.is_negated { -value } else { value })
        });
        [epoch, steps].into_iter().chain(figures).collect()
    }

    /// Appends the row of an evaluation to the file in `folder`, after the header where the file is
    /// new; folders are made.
    ///
    /// Lines end with `\r\n`, as Python's `csv` module has it.
    ///
    /// # Errors
    /// Where the file or its folder cannot be written; the message names it.
    pub fn append(&self, folder: &Path, at: At, metrics: &Metrics) -> std::io::Result<()> {
        let path = folder.join(&self.file);
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
            text += &line(&self.header());
        }
        text += &line(&self.row(at, metrics));
        file.write_all(text.as_bytes())
    }
}

/// `{kind}_{name}_results.csv`, or `{kind}_results.csv` where the name is empty.
pub(crate) fn file_name(kind: &str, name: &str) -> String {
    match name {
        "" => format!("{kind}_results.csv"),
        name => format!("{kind}_{name}_results.csv"),
    }
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

//! Checks of every row that all formats share: texts and labels.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use polars::prelude::{
    ChunkFullNull, Column, DataType, IntoColumn, PolarsError, PolarsResult, StringChunked,
};
use rayon::prelude::*;

use crate::{
    dataset::{Labels, TextColumn, Texts},
    error::{BadRow, BadRows, DataError, Defect, shortened},
    options::LoadOptions,
};

/// One file's chosen columns as polars has them; nulls and empty texts not yet looked for.
pub(crate) struct Table {
    /// Columns of strings, in the chosen order.
    pub(crate) texts: Vec<Column>,
    /// Numbers or truth values, or strings that are to be read as numbers.
    pub(crate) label: Option<Column>,
    /// Where each row was in the file.
    pub(crate) rows: RowNumbers,
    /// Values that the reader itself found bad, and left null, in rows that are still there; only
    /// where row numbers are sequential.
    pub(crate) defects: Vec<BadRow>,
    /// Whether the format tells numbers from texts.
    pub(crate) is_typed: bool,
    /// Rows of the file that were looked at, the bad ones too.
    pub(crate) n_read: usize,
    /// Rows already dropped because of their shape.
    pub(crate) skipped: BadRows,
}

/// A file's rows as the data set takes them in.
pub(crate) struct Content {
    pub(crate) columns: Vec<TextColumn>,
    pub(crate) labels: Option<Labels>,
    pub(crate) label_name: Option<String>,
    pub(crate) n_read: usize,
    pub(crate) n_skipped: usize,
    pub(crate) first_skipped: Option<BadRow>,
}

/// Where the rows of a [`Table`] were in their file.
pub(crate) enum RowNumbers {
    /// Row `i` is row `i + 1`, and the file has no lines.
    Sequential,
    /// For each row its number and its line, both from 1.
    Lines(Vec<(u32, u32)>),
}

impl RowNumbers {
    fn bad_row(&self, i: usize, column: &str, defect: Defect) -> BadRow {
        let (row, line) = match self {
            Self::Sequential => (i + 1, None),
            Self::Lines(lines) => (lines[i].0 as usize, Some(lines[i].1 as usize)),
        };
        BadRow {
            row,
            line,
            column: Some(column.to_owned()),
            defect,
        }
    }
}

/// Runs polars on a file from outside. Its readers are made for files that are what they say they
/// are, and on damaged ones some of their `unwrap`s and `assert`s panic: parquet with flipped bits
/// does it about three times in a thousand files (`mutated_parquet_never_crashes` in
/// `tests/hostile.rs`). Such a panic is the file's fault and becomes an error; nothing of the reader
/// outlives it.
pub(crate) fn guarded<T>(
    path: &Path,
    format: &'static str,
    read: impl FnOnce() -> PolarsResult<T>,
) -> Result<T, DataError> {
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(DataError::Read {
            path: path.to_path_buf(),
            format,
            source,
        }),
        Err(payload) => {
            let message = payload
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| payload.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            Err(DataError::Damaged {
                path: path.to_path_buf(),
                format,
                message: message.to_owned(),
            })
        }
    }
}

impl Table {
    /// Copies texts and labels out of polars and looks at each of them.
    pub(crate) fn into_content(
        self,
        path: &Path,
        options: &LoadOptions,
    ) -> Result<Content, DataError> {
        let unreadable = |source| DataError::Read {
            path: path.to_path_buf(),
            format: "text",
            source,
        };
        let texts: Vec<(Texts, Defects)> = self
            .texts
            .par_iter()
            .map(check_texts)
            .collect::<Result<_, _>>()
            .map_err(unreadable)?;
        let labels = self.label.as_ref().map(check_labels).transpose();
        let labels = labels.map_err(unreadable)?;

        let mut defects: Vec<(usize, &str, &Defect)> = Vec::new();
        // First, so that they win over the null that stands in their place.
        for bad in &self.defects {
            let column = bad.column.as_deref().unwrap_or_default();
            defects.push((bad.row - 1, column, &bad.defect));
        }
        for (column, (_, found)) in self.texts.iter().zip(&texts) {
            defects.extend(
                found
                    .iter()
                    .map(|(i, what)| (*i, column.name().as_str(), what)),
            );
        }
        if let (Some(column), Some((_, found))) = (&self.label, &labels) {
            defects.extend(
                found
                    .iter()
                    .map(|(i, what)| (*i, column.name().as_str(), what)),
            );
        }
        // Stable: a row with several defects is known by its first column's.
        defects.sort_by_key(|(i, ..)| *i);
        defects.dedup_by_key(|(i, ..)| *i);
        let mut bad_rows = BadRows::default();
        for (i, column, defect) in &defects {
            bad_rows.push(self.rows.bad_row(*i, column, (*defect).clone()));
        }
        let bad_rows = bad_rows.check(path, self.n_read, options)?;
        let bad: Vec<usize> = defects.iter().map(|(i, ..)| *i).collect();

        let n_skipped = self.skipped.n_bad + bad_rows.n_bad;
        let first_skipped = [self.skipped.first.first(), bad_rows.first.first()]
            .into_iter()
            .flatten()
            .min_by_key(|bad| bad.row)
            .cloned();
        let label_name = self.label.as_ref().map(|column| column.name().to_string());
        let mut columns: Vec<TextColumn> = self
            .texts
            .iter()
            .zip(texts)
            .map(|(column, (texts, _))| TextColumn {
                name: column.name().to_string(),
                texts,
            })
            .collect();
        let mut labels = labels.map(|(labels, _)| labels);
        if !bad.is_empty() {
            let n_rows = columns.first().map_or(0, |column| column.texts.len());
            let good = all_but(n_rows, &bad);
            for column in &mut columns {
                column.texts = column.texts.select(&good);
            }
            labels = labels.map(|labels| labels.select(&good));
        }
        if !self.is_typed && options.columns.is_none() {
            check_not_numbers(path, &columns)?;
        }
        Ok(Content {
            columns,
            labels,
            label_name,
            n_read: self.n_read,
            n_skipped,
            first_skipped,
        })
    }
}

/// Indices of rows with what is wrong there, in order.
type Defects = Vec<(usize, Defect)>;

fn check_texts(column: &Column) -> PolarsResult<(Texts, Defects)> {
    let column = column.str()?;
    let n_bytes = column
        .downcast_iter()
        .map(|chunk| chunk.total_bytes_len())
        .sum();
    let mut texts = Texts::with_capacity(column.len(), n_bytes);
    let mut defects = Vec::new();
    for (i, text) in column.iter().enumerate() {
        let defect = match text {
            None => Some(Defect::Null),
            Some("") => Some(Defect::Empty),
            Some(text) if text.trim_start().is_empty() => Some(Defect::Blank),
            Some(_) => None,
        };
        defects.extend(defect.map(|defect| (i, defect)));
        texts.push(text.unwrap_or_default());
    }
    Ok((texts, defects))
}

fn check_labels(column: &Column) -> PolarsResult<(Labels, Defects)> {
    let mut defects = Vec::new();
    let labels = match column.dtype() {
        DataType::String => return Ok(parse_labels(column.str()?.iter())),
        DataType::Float32 | DataType::Float64 => {
            let column = column.cast(&DataType::Float64)?;
            let labels = column.f64()?.iter().enumerate().map(|(i, label)| {
                let defect = match label {
                    None => Some(Defect::Null),
                    Some(label) => out_of_range(label),
                };
                defects.extend(defect.map(|defect| (i, defect)));
                label.unwrap_or_default() as f32
            });
            Labels::Float(labels.collect())
        }
        DataType::List(_) => return check_lists(column),
        _ => {
            // A strict cast would stop at a u64 past i64::MAX without saying where; this one
            // leaves a null there.
            let integers = column.cast(&DataType::Int64)?;
            let nulls = column.is_null();
            let labels = integers.i64()?.iter().enumerate().map(|(i, label)| {
                if label.is_none() {
                    let defect = match nulls.get(i) {
                        Some(false) => Defect::OutOfRange("past 64 bits".to_owned()),
                        _ => Defect::Null,
                    };
                    defects.push((i, defect));
                }
                label.unwrap_or_default()
            });
            Labels::Integer(labels.collect())
        }
    };
    Ok((labels, defects))
}

/// Labels that are lists: all have to be as long as the first.
fn check_lists(column: &Column) -> PolarsResult<(Labels, Defects)> {
    let column = column.cast(&DataType::List(Box::new(DataType::Float32)))?;
    let mut rows: Vec<Option<Vec<Option<f32>>>> = Vec::with_capacity(column.len());
    for list in column.list()?.amortized_iter() {
        rows.push(match list {
            None => None,
            Some(list) => Some(list.as_ref().f32()?.iter().collect()),
        });
    }
    let width = rows
        .iter()
        .flatten()
        .map(Vec::len)
        .find(|&width| width > 0)
        .unwrap_or(1);
    let mut defects = Vec::new();
    let mut values = Vec::with_capacity(rows.len() * width);
    for (i, row) in rows.into_iter().enumerate() {
        let defect = match &row {
            None => Some(Defect::Null),
            Some(row) if row.len() != width => Some(Defect::ListLength {
                found: row.len(),
                expected: width,
            }),
            Some(row) => row.iter().find_map(|value| match value {
                None => Some(Defect::Null),
                Some(value) => out_of_range(f64::from(*value)),
            }),
        };
        let is_good = defect.is_none();
        defects.extend(defect.map(|defect| (i, defect)));
        match row.filter(|_| is_good) {
            Some(row) => values.extend(row.into_iter().map(Option::unwrap_or_default)),
            None => values.extend(std::iter::repeat_n(0.0, width)),
        }
    }
    let shape = vec![width];
    Ok((Labels::Vector { values, shape }, defects))
}

/// Reads labels written as text, as CSV has them.
fn parse_labels<'a>(texts: impl Iterator<Item = Option<&'a str>>) -> (Labels, Defects) {
    let mut defects = Vec::new();
    let mut integers = Vec::new();
    let mut floats = Vec::new();
    let mut all_integers = true;
    for (i, text) in texts.enumerate() {
        let text = text.unwrap_or_default().trim();
        let (integer, float) = match (text.parse::<i64>(), text.parse::<f64>()) {
            (Ok(integer), _) => (integer, integer as f32),
            // A whole number past 64 bits would make scores of all labels.
            (Err(_), Ok(_))
                if text
                    .bytes()
                    .all(|byte| byte.is_ascii_digit() || byte == b'-') =>
            {
                let found = format!("{} (past 64 bits)", shortened(text));
                defects.push((i, Defect::OutOfRange(found)));
                (0, 0.0)
            }
            (Err(_), Ok(float)) => {
                defects.extend(out_of_range(float).map(|defect| (i, defect)));
                all_integers = false;
                (0, float as f32)
            }
            (Err(_), Err(_)) => {
                let found = match text {
                    "" => "empty".to_owned(),
                    text => format!("`{}`", shortened(text)),
                };
                defects.push((i, Defect::NotNumber(found)));
                (0, 0.0)
            }
        };
        integers.push(integer);
        floats.push(float);
    }
    let labels = if all_integers {
        Labels::Integer(integers)
    } else {
        Labels::Float(floats)
    };
    (labels, defects)
}

/// Looks at the label as the `f32` it becomes: 1e300 is a finite number, but no finite label.
fn out_of_range(label: f64) -> Option<Defect> {
    (!(label as f32).is_finite()).then(|| Defect::OutOfRange(format!("{label:e}")))
}

/// CSV does not tell an index from a text; a column of nothing but numbers is no text.
fn check_not_numbers(path: &Path, columns: &[TextColumn]) -> Result<(), DataError> {
    let numbers = columns.iter().find(|column| {
        !column.texts.is_empty()
            && column
                .texts
                .iter()
                .all(|text| text.trim().parse::<f64>().is_ok())
    });
    match numbers {
        None => Ok(()),
        Some(column) => Err(DataError::NotText {
            path: path.to_path_buf(),
            column: column.name.clone(),
            found: "only numbers".to_owned(),
            available: columns.iter().map(|column| column.name.clone()).collect(),
        }),
    }
}

/// Columns of texts from parts that follow each other; `parts[i][j]` is of column `names[j]`.
pub(crate) fn text_columns(
    names: &[String],
    parts: Vec<Vec<StringChunked>>,
) -> PolarsResult<Vec<Column>> {
    let mut columns: Vec<StringChunked> = names
        .iter()
        .map(|name| StringChunked::full_null(name.as_str().into(), 0))
        .collect();
    for part in parts {
        for (column, more) in columns.iter_mut().zip(part) {
            column.append_owned(more)?;
        }
    }
    Ok(columns
        .into_iter()
        .map(|column| column.into_column())
        .collect())
}

/// An error of polars' for a file whose rows don't add up.
pub(crate) fn check_height(
    path: &Path,
    format: &'static str,
    found: usize,
    expected: usize,
) -> Result<(), DataError> {
    if found == expected {
        return Ok(());
    }
    Err(DataError::Read {
        path: path.to_path_buf(),
        format,
        source: PolarsError::ComputeError(
            format!("{found} rows were read where the file has {expected}").into(),
        ),
    })
}

/// The numbers below `n` that are not in `bad`, which is sorted.
fn all_but(n: usize, bad: &[usize]) -> Vec<u32> {
    let mut bad = bad.iter().copied().peekable();
    (0..n)
        .filter(|i| bad.next_if_eq(i).is_none())
        .map(|i| i as u32)
        .collect()
}

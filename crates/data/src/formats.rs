//! Readers, one file a format, which all give the same: a [`Schema`](rows::Schema), then
//! [`RawTable`](rows::RawTable)s of the chosen columns.

mod arrays;
mod arrow;
pub(crate) mod csv;
mod documents;
pub(crate) mod files;
mod jsonl;
pub(crate) mod packed;
mod parquet;
pub(crate) mod rows;
pub(crate) mod splits;
pub(crate) mod write;

use std::{collections::BTreeMap, path::Path};

use rayon::prelude::*;

use self::arrays::{Arrays, guarded};
use crate::{
    error::DataError,
    formats::{
        files::Kind,
        rows::{Consumer, File, ROWS_PER_TABLE, RawTable},
    },
    options::Dialect,
};

/// Reads a file, of which only the chosen columns are decoded.
///
/// The file is read into memory and not mapped: a mapped file that another program cuts short kills the process.
pub(crate) fn read(
    path: &Path,
    kind: Kind,
    max_rows: usize,
    dialect: Dialect,
    consumer: &mut dyn Consumer,
) -> Result<(), DataError> {
    let bytes = packed::unpacked(path, fs_err::read(path)?)?;
    files::check_content(path, kind, &bytes)?;
    let file = File {
        path,
        bytes: &bytes,
        max_rows,
    };
    match kind {
        Kind::Parquet => parquet::read(file, consumer),
        Kind::Arrow => arrow::read(file, consumer),
        Kind::Csv { separator } => csv::read(file, separator, dialect, consumer),
        Kind::JsonLines => jsonl::read(file, consumer),
    }
}

/// Gives the consumer the first `n_rows` rows of decoded columns, of a file of which `n_before` rows came before, in
/// tables.
fn take_decoded(
    path: &Path,
    format: &'static str,
    columns: &[Arrays],
    n_rows: usize,
    n_before: usize,
    consumer: &mut dyn Consumer,
) -> Result<(), DataError> {
    for start in (0..n_rows).step_by(ROWS_PER_TABLE) {
        let rows = start..n_rows.min(start + ROWS_PER_TABLE);
        let columns = columns
            .par_iter()
            .map(|arrays| guarded(path, format, || Ok(arrays.cells(rows.clone()))));
        consumer.take(RawTable {
            columns: columns.collect::<Result<_, _>>()?,
            n_rows: rows.len(),
            n_before: n_before + start,
            lines: None,
            defects: BTreeMap::new(),
        })?;
    }
    Ok(())
}

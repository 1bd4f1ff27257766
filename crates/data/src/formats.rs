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

use std::path::Path;

use crate::{
    error::DataError,
    formats::{
        files::Kind,
        rows::{Consumer, File},
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

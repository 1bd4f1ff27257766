//! Readers, one file a format, which all give the same: a [`Schema`](rows::Schema), then
//! [`RawTable`](rows::RawTable)s of the chosen columns.

mod arrays;
mod arrow;
mod blocks;
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

use fs_err::os::unix::fs::FileExt;

use crate::{
    error::DataError,
    formats::{
        blocks::Blocks,
        files::Kind,
        parquet::Source,
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
        Kind::Parquet => parquet::read(path, Source::Memory(&bytes), max_rows, consumer),
        Kind::Arrow => arrow::read(file, consumer),
        Kind::Csv { separator } => {
            let blocks = Blocks::whole(path, bytes);
            csv::read(blocks, separator, max_rows, dialect, consumer)
        }
        Kind::JsonLines => jsonl::read(file, consumer),
    }
}

/// Reads a file as [`read`] does, of which no more than a part is in memory at a time.
///
/// # Errors
/// As [`read`], and [`DataError::ReadWhole`] where the format has to be in memory as a whole.
pub(crate) fn stream(
    path: &Path,
    kind: Kind,
    max_rows: usize,
    dialect: Dialect,
    consumer: &mut dyn Consumer,
) -> Result<(), DataError> {
    let whole = |what| {
        Err(DataError::ReadWhole {
            path: path.to_path_buf(),
            what,
        })
    };
    match kind {
        Kind::Parquet => {
            let file = fs_err::File::open(path)?;
            let n_bytes = file.metadata()?.len();
            let mut start = vec![0; n_bytes.min(32) as usize];
            file.read_exact_at(&mut start, 0)?;
            if matches!(start[..], [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..]) {
                return whole("it is compressed as a whole");
            }
            files::check_content(path, kind, &start)?;
            parquet::read(path, Source::Disk(&file, n_bytes), max_rows, consumer)
        }
        Kind::Arrow => whole("it is Arrow"),
        Kind::Csv { separator } => {
            let blocks = Blocks::open(path)?;
            files::check_content(path, kind, blocks.bytes())?;
            csv::read(blocks, separator, max_rows, dialect, consumer)
        }
        Kind::JsonLines => {
            let blocks = Blocks::open(path)?;
            files::check_content(path, kind, blocks.bytes())?;
            jsonl::stream(blocks, max_rows, consumer)
        }
    }
}

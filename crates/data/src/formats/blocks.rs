//! The bytes of a file, block by block, so that a file of any length is read in bounded memory.

use std::{
    io::{BufReader, Read},
    path::Path,
};

use flate2::read::MultiGzDecoder;
use fs_err::File;

use crate::error::DataError;

/// Bytes that are read at once.
const BLOCK: u64 = 8 << 20;

/// Bytes that one row may take of a file that is read in blocks.
const MOST_OF_ROW: usize = 256 << 20;

/// A file of which a part is in memory: all of it, or from some row on about a block.
pub(super) struct Blocks<'a> {
    pub(super) path: &'a Path,
    bytes: Vec<u8>,
    /// The rest of the file; none where there is no more.
    rest: Option<Box<dyn Read>>,
    /// The format that an error of reading names.
    format: &'static str,
}

impl<'a> Blocks<'a> {
    /// A file that is in memory.
    pub(super) fn whole(path: &'a Path, bytes: Vec<u8>) -> Self {
        Self {
            path,
            bytes,
            rest: None,
            format: "text",
        }
    }

    /// The first block of a file, unpacked where its first bytes say that it is compressed.
    pub(super) fn open(path: &'a Path) -> Result<Self, DataError> {
        let mut start = Vec::new();
        File::open(path)?.take(4).read_to_end(&mut start)?;
        let file = BufReader::new(File::open(path)?);
        let (rest, format): (Box<dyn Read>, _) = match start.as_slice() {
            [0x1f, 0x8b, ..] => (Box::new(MultiGzDecoder::new(file)), "gzip"),
            [0x28, 0xb5, 0x2f, 0xfd] => (Box::new(zstd::Decoder::with_buffer(file)?), "zstd"),
            _ => (Box::new(file), "text"),
        };
        let mut blocks = Self {
            path,
            bytes: Vec::new(),
            rest: Some(rest),
            format,
        };
        blocks.advance(0)?;
        Ok(blocks)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether the file ends with these bytes.
    pub(super) fn is_last(&self) -> bool {
        self.rest.is_none()
    }

    /// Drops the first `n_used` bytes, and reads a block more.
    pub(super) fn advance(&mut self, n_used: usize) -> Result<(), DataError> {
        self.bytes.drain(..n_used);
        let Some(rest) = &mut self.rest else {
            return Ok(());
        };
        if self.bytes.len() > MOST_OF_ROW {
            return Err(DataError::Header {
                path: self.path.to_path_buf(),
                message: format!(
                    "a row takes more than {MOST_OF_ROW} bytes: look for a quotation mark that is never closed, or write line ends"
                ),
            });
        }
        let n_read = rest.take(BLOCK).read_to_end(&mut self.bytes);
        let n_read = n_read.map_err(|error| DataError::Read {
            path: self.path.to_path_buf(),
            format: self.format,
            message: format!("{error}: write or download it again"),
        })?;
        if (n_read as u64) < BLOCK {
            self.rest = None;
        }
        Ok(())
    }
}

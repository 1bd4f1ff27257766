//! Files compressed with gzip or zstd.

use std::{
    io::{self, Read},
    path::Path,
};

use flate2::read::MultiGzDecoder;

use crate::error::DataError;

/// The endings of compressed files' names.
const ENDINGS: [&str; 3] = ["gz", "zst", "zstd"];

/// The name of a file without the ending that says it is compressed.
pub(crate) fn inner_name(path: &Path) -> &Path {
    let ending = path.extension().and_then(|ending| ending.to_str());
    match (ending, path.file_stem()) {
        (Some(ending), Some(inner))
            if ENDINGS
                .iter()
                .any(|known| ending.eq_ignore_ascii_case(known)) =>
        {
            Path::new(inner)
        }
        _ => path,
    }
}

/// The most bytes that so many compressed ones may become: texts become a tenth, repeated ones a hundredth.
pub(super) fn most_unpacked(n_bytes: usize) -> u64 {
    (64 << 20) + 128 * n_bytes as u64
}

/// The content of a file, unpacked where its first bytes say that it is compressed, up to a bound that texts stay below.
pub(super) fn unpacked(path: &Path, bytes: Vec<u8>) -> Result<Vec<u8>, DataError> {
    let format = match bytes.as_slice() {
        [0x1f, 0x8b, ..] => "gzip",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        _ => return Ok(bytes),
    };
    let most = most_unpacked(bytes.len());
    let unpack = || -> io::Result<Vec<u8>> {
        let mut unpacked = Vec::new();
        if format == "gzip" {
            let decoder = MultiGzDecoder::new(bytes.as_slice());
            decoder.take(most + 1).read_to_end(&mut unpacked)?;
        } else {
            let decoder = zstd::Decoder::new(bytes.as_slice())?;
            decoder.take(most + 1).read_to_end(&mut unpacked)?;
        }
        Ok(unpacked)
    };
    let message = match unpack() {
        Ok(unpacked) if unpacked.len() as u64 <= most => return Ok(unpacked),
        Ok(_) => format!(
            "its {} bytes unpack to more than {most}: unpack it and load parts of it",
            bytes.len()
        ),
        Err(error) => format!("{error}: write or download it again"),
    };
    Err(DataError::Read {
        path: path.to_path_buf(),
        format,
        message,
    })
}

//! The files of a source (file, folder or pattern), and their format.

use std::path::{Path, PathBuf};

use crate::error::DataError;

/// A format that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Parquet,
    Csv { separator: u8 },
    JsonLines,
}

impl Kind {
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        match extension.as_str() {
            "parquet" => Some(Self::Parquet),
            "csv" => Some(Self::Csv { separator: b',' }),
            "tsv" => Some(Self::Csv { separator: b'\t' }),
            "jsonl" | "ndjson" | "json" => Some(Self::JsonLines),
            _ => None,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Csv { separator: b'\t' } => "TSV",
            Self::Csv { .. } => "CSV",
            Self::JsonLines => "JSON Lines",
        }
    }
}

/// The files of a source, sorted, all of one kind.
pub(crate) fn find(source: &str) -> Result<(Vec<PathBuf>, Kind), DataError> {
    let path = Path::new(source);
    if path.is_file() {
        let kind = Kind::of(path).ok_or_else(|| DataError::UnknownKind {
            path: path.to_path_buf(),
        })?;
        return Ok((vec![path.to_path_buf()], kind));
    }
    let candidates = if path.is_dir() {
        fs_err::read_dir(path)?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<Vec<_>, std::io::Error>>()?
    } else {
        glob::glob(source)
            .map_err(|error| DataError::Pattern {
                pattern: source.to_owned(),
                message: error.to_string(),
            })?
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| DataError::Io(error.into()))?
    };
    let mut files: Vec<(PathBuf, Kind)> = candidates
        .into_iter()
        .filter(|path| path.is_file() && !is_hidden(path))
        .filter_map(|path| Kind::of(&path).map(|kind| (path, kind)))
        .collect();
    files.sort_by(|(a, _), (b, _)| a.cmp(b));
    let files: Vec<PathBuf> = files.into_iter().map(|(path, _)| path).collect();
    let kind = common_kind(source, &files)?;
    Ok((files, kind))
}

/// The kind of all these files; `source` is what messages call them together.
pub(crate) fn common_kind(source: &str, paths: &[PathBuf]) -> Result<Kind, DataError> {
    let kind_of = |path: &PathBuf| {
        Kind::of(path).ok_or_else(|| DataError::UnknownKind { path: path.clone() })
    };
    let Some(first) = paths.first() else {
        return Err(DataError::NoFiles {
            pattern: source.to_owned(),
        });
    };
    let kind = kind_of(first)?;
    for second in paths {
        if kind_of(second)? != kind {
            return Err(DataError::MixedKinds {
                pattern: source.to_owned(),
                first: first.clone(),
                second: second.clone(),
            });
        }
    }
    Ok(kind)
}

/// Refuses content that is plainly of another kind than the file's name says, by its first bytes.
pub(crate) fn check_content(path: &Path, kind: Kind, bytes: &[u8]) -> Result<(), DataError> {
    let wrong = |found, advice| {
        Err(DataError::WrongContent {
            path: path.to_path_buf(),
            expected: kind.name(),
            found,
            advice,
        })
    };
    if bytes.is_empty() {
        return Err(DataError::EmptyFile {
            path: path.to_path_buf(),
        });
    }
    const TEXT_OR_PARQUET: &str = "write the data as parquet, CSV or JSON Lines";
    match bytes {
        [b'P', b'A', b'R', b'1', ..] if kind == Kind::Parquet => Ok(()),
        [b'P', b'A', b'R', b'1', ..] => wrong("parquet", "name the file .parquet"),
        [b'P', b'A', b'R', b'E', ..] => wrong("encrypted parquet", "write it without encryption"),
        [0x1f, 0x8b, ..] => wrong("gzip", "unpack the file first"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => wrong("zstd", "unpack the file first"),
        [b'P', b'K', 3, 4, ..] => wrong("a zip archive (or .xlsx, .npz, .pt)", TEXT_OR_PARQUET),
        [0x80, 2..=5, ..] => wrong("a Python pickle", TEXT_OR_PARQUET),
        [0x93, b'N', b'U', b'M', b'P', b'Y', ..] => wrong("a NumPy array", TEXT_OR_PARQUET),
        [b'A', b'R', b'R', b'O', b'W', b'1', ..] | [0xff, 0xff, 0xff, 0xff, ..] => {
            wrong("Arrow IPC", TEXT_OR_PARQUET)
        }
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] if kind != Kind::Parquet => {
            wrong("UTF-16 text", "save the file as UTF-8")
        }
        [
            b'v',
            b'e',
            b'r',
            b's',
            b'i',
            b'o',
            b'n',
            b' ',
            b'h',
            b't',
            ..,
        ] if bytes.starts_with(b"version https://git-lfs") => {
            wrong("a Git LFS pointer", "fetch the file itself (git lfs pull)")
        }
        _ if kind == Kind::Parquet => wrong(
            "something else (parquet starts with PAR1)",
            "name the file by what it holds, or download it again",
        ),
        _ => Ok(()),
    }
}

fn is_hidden(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

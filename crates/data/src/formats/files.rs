//! The files of a source (file, folder or pattern), and their format.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{
    error::DataError,
    formats::{
        packed::inner_name,
        splits::{Split, splits},
    },
};

/// A format that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Parquet,
    Arrow,
    Csv { separator: u8 },
    JsonLines,
}

impl Kind {
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let extension = inner_name(path).extension()?.to_str()?.to_ascii_lowercase();
        match extension.as_str() {
            "parquet" => Some(Self::Parquet),
            "arrow" | "feather" => Some(Self::Arrow),
            "csv" => Some(Self::Csv { separator: b',' }),
            "tsv" => Some(Self::Csv { separator: b'\t' }),
            "jsonl" | "ndjson" | "json" => Some(Self::JsonLines),
            _ => None,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Arrow => "Arrow",
            Self::Csv { separator: b'\t' } => "TSV",
            Self::Csv { .. } => "CSV",
            Self::JsonLines => "JSON Lines",
        }
    }
}

/// The name of a data file without the endings that say its format; none where they say none that can be read.
pub fn file_stem(path: &Path) -> Option<&OsStr> {
    Kind::of(path)?;
    inner_name(path).file_stem()
}

/// Files that only describe a data set.
///
/// Source: `FILES_TO_IGNORE` of datasets 4.4, `data_files.py`, and `arrow_dataset.py`.
const DESCRIPTIONS: [&str; 6] = [
    "config.json",
    "dataset_dict.json",
    "dataset_info.json",
    "dataset_infos.json",
    "metadata.json",
    "state.json",
];

/// Files found below a folder at most, and folders below each other: a data set has fewer.
const MAX_FILES: usize = 100_000;
const MAX_DEPTH: usize = 8;

/// The files of a source, sorted, all of one kind: of the split, where one is given and the source is a folder that has
/// several.
pub(crate) fn find(source: &str, split: Option<Split>) -> Result<(Vec<PathBuf>, Kind), DataError> {
    let path = Path::new(source);
    if path.is_file() {
        let kind = Kind::of(path).ok_or_else(|| DataError::UnknownKind {
            path: path.to_path_buf(),
        })?;
        return Ok((vec![path.to_path_buf()], kind));
    }
    let files = if path.is_dir() {
        let files = match saved_splits(path)? {
            Some(files) => files,
            None => data_files(path)?,
        };
        match split {
            Some(split) => of_split(source, files, split)?,
            None => files,
        }
    } else {
        let files = glob::glob(source)
            .map_err(|error| DataError::Pattern {
                pattern: source.to_owned(),
                message: error.to_string(),
            })?
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| DataError::Io(error.into()))?;
        let mut files: Vec<PathBuf> = files.into_iter().filter(|path| is_data(path)).collect();
        files.sort();
        warn_of_splits(source, &files);
        files
    };
    let kind = common_kind(source, &files)?;
    Ok((files, kind))
}

/// The folders of the splits that `DatasetDict.save_to_disk` wrote, each with its files.
fn saved_splits(folder: &Path) -> Result<Option<Vec<PathBuf>>, DataError> {
    #[derive(Deserialize)]
    struct DatasetDict {
        splits: Vec<String>,
    }
    let Ok(dict) = std::fs::read(folder.join("dataset_dict.json")) else {
        return Ok(None);
    };
    let Ok(dict) = serde_json::from_slice::<DatasetDict>(&dict) else {
        return Ok(None);
    };
    let mut files = Vec::new();
    for split in dict.splits {
        // A name is one of a folder inside of this one.
        if Path::new(&split).components().count() == 1 && !split.starts_with('.') {
            files.extend(data_files(&folder.join(split))?);
        }
    }
    Ok(Some(files))
}

/// The data files of a folder, sorted: its own, or where it has none those of the folders below.
fn data_files(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let mut files = Vec::new();
    let mut folders = vec![(folder.to_path_buf(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        let mut inner = Vec::new();
        for entry in fs_err::read_dir(&folder)? {
            let entry = entry?;
            let path = entry.path();
            if is_data(&path) {
                files.push(path);
            } else if entry.file_type()?.is_dir() && !is_hidden(&path) && depth < MAX_DEPTH {
                inner.push((path, depth + 1));
            }
        }
        if depth > 0 || files.is_empty() {
            folders.extend(inner);
        }
        if files.len() > MAX_FILES {
            break;
        }
    }
    files.sort();
    Ok(files)
}

fn is_data(path: &Path) -> bool {
    let is_description = path
        .file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| DESCRIPTIONS.contains(&name));
    Kind::of(path).is_some() && !is_description && !is_hidden(path) && path.is_file()
}

/// The files of one split, or all where no name says of which split a file is.
fn of_split(source: &str, files: Vec<PathBuf>, split: Split) -> Result<Vec<PathBuf>, DataError> {
    let of = splits(Path::new(source), &files);
    if of.iter().all(Option::is_none) {
        return Ok(files);
    }
    let found: Vec<Split> = Split::ALL
        .into_iter()
        .filter(|split| of.contains(&Some(*split)))
        .collect();
    let n_all = files.len();
    let chosen: Vec<PathBuf> = files
        .into_iter()
        .zip(&of)
        .filter_map(|(file, of)| (*of == Some(split)).then_some(file))
        .collect();
    let list = |splits: &[Split]| {
        let names: Vec<String> = splits.iter().map(Split::to_string).collect();
        names.join(", ")
    };
    if chosen.is_empty() {
        return Err(DataError::NoSplit {
            source_path: source.to_owned(),
            split,
            found: list(&found),
        });
    }
    if chosen.len() < n_all {
        tracing::info!(
            "{source}: the {split} split, {} of {n_all} files (the folder has {})",
            chosen.len(),
            list(&found)
        );
    }
    Ok(chosen)
}

/// Warns of a pattern that takes files of several splits.
fn warn_of_splits(source: &str, files: &[PathBuf]) {
    let of: Vec<Option<Split>> = files
        .iter()
        .map(|file| Split::of_name(&file.file_name()?.to_string_lossy()))
        .collect();
    let found: Vec<String> = Split::ALL
        .into_iter()
        .filter(|split| of.contains(&Some(*split)))
        .map(|split| split.to_string())
        .collect();
    if found.len() > 1 {
        tracing::warn!(
            "{source} takes files of several splits: {}",
            found.join(", ")
        );
    }
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
        // Unpacked once already.
        [0x1f, 0x8b, ..] => wrong("gzip", "it is packed twice: unpack it first"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => wrong("zstd", "it is packed twice: unpack it first"),
        [b'P', b'K', 3, 4, ..] => wrong("a zip archive (or .xlsx, .npz, .pt)", TEXT_OR_PARQUET),
        [0x80, 2..=5, ..] => wrong("a Python pickle", TEXT_OR_PARQUET),
        [0x93, b'N', b'U', b'M', b'P', b'Y', ..] => wrong("a NumPy array", TEXT_OR_PARQUET),
        [b'A', b'R', b'R', b'O', b'W', b'1', ..] | [0xff, 0xff, 0xff, 0xff, ..]
            if kind == Kind::Arrow =>
        {
            Ok(())
        }
        [b'A', b'R', b'R', b'O', b'W', b'1', ..] | [0xff, 0xff, 0xff, 0xff, ..] => {
            wrong("Arrow", "name the file .arrow")
        }
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] if kind != Kind::Parquet => wrong(
            "UTF-16 text",
            "save the file as UTF-8, for example with `iconv -f UTF-16 -t UTF-8 OLD > NEW`",
        ),
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
        _ if kind == Kind::Arrow => wrong(
            "something else",
            "name the file by what it holds, or download it again",
        ),
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

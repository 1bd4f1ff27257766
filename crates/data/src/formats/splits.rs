//! Splits of a data set, recognised by the names of files and folders as the hub's loader does.
//!
//! Source: `data_files.py` of datasets 4.4: a split's keyword stands between the ends of a name and characters that are
//! no letters, in a folder's name or else in a file's.

use std::{fmt, path::Path, str::FromStr};

/// A part of a data set with a purpose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Split {
    /// To train on.
    #[default]
    Train,
    /// For evaluation during development; the hub calls it `validation`.
    Dev,
    /// For the last measurement.
    Test,
}

impl Split {
    pub(crate) const ALL: [Self; 3] = [Self::Train, Self::Dev, Self::Test];

    /// The words that stand for the split in names.
    fn keywords(self) -> &'static [&'static str] {
        match self {
            Self::Train => &["train", "training"],
            Self::Dev => &["validation", "valid", "dev", "val"],
            Self::Test => &["test", "testing", "eval", "evaluation"],
        }
    }

    /// The split that a file's or folder's name stands for: of the first keyword in it.
    pub(crate) fn of_name(name: &str) -> Option<Self> {
        let name = name.to_lowercase();
        let words = name.split(|c: char| !c.is_alphabetic());
        words.filter_map(|word| word.parse().ok()).next()
    }
}

impl FromStr for Split {
    type Err = &'static str;

    /// Reads a split's name, or another word that stands for it.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|split| split.keywords().contains(&text))
            .ok_or("it must be train, dev or test")
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Train => "train",
            Self::Dev => "dev",
            Self::Test => "test",
        })
    }
}

/// The split of each file below `folder`: by the names of folders where any of these is a split's, else by those of
/// the files.
pub(crate) fn splits(folder: &Path, files: &[impl AsRef<Path>]) -> Vec<Option<Split>> {
    let names = |file: &Path| -> Vec<String> {
        let inner = file.strip_prefix(folder).unwrap_or(file);
        let names = inner.iter().map(|name| name.to_string_lossy().into_owned());
        names.collect()
    };
    let by_folder = files.iter().map(|file| {
        let names = names(file.as_ref());
        let (_, folders) = names.split_last()?;
        folders.iter().rev().find_map(|name| Split::of_name(name))
    });
    let by_folder: Vec<Option<Split>> = by_folder.collect();
    if by_folder.iter().any(Option::is_some) {
        return by_folder;
    }
    let by_file = files.iter().map(|file| {
        let names = names(file.as_ref());
        Split::of_name(names.last()?)
    });
    by_file.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keywords_stand_alone() {
        for (name, split) in [
            ("train.csv", Some(Split::Train)),
            ("train-00000-of-00002.parquet", Some(Split::Train)),
            ("Training_1.jsonl", Some(Split::Train)),
            ("my-val.csv", Some(Split::Dev)),
            ("validation.csv", Some(Split::Dev)),
            ("snli_1.0_dev.jsonl", Some(Split::Dev)),
            ("test2.csv", Some(Split::Test)),
            ("evaluation data.csv", Some(Split::Test)),
            ("trained.csv", None),
            ("latest.csv", None),
            ("contest.csv", None),
            ("value.csv", None),
            ("pairs.csv", None),
        ] {
            assert_eq!(Split::of_name(name), split, "{name}");
        }
    }

    #[test]
    fn folders_go_before_files() {
        let folder = Path::new("data");
        let of = |files: &[&str]| splits(folder, files);
        assert_eq!(
            of(&["data/train/a-test.csv", "data/test/b.csv", "data/c.csv"]),
            [Some(Split::Train), Some(Split::Test), None]
        );
        assert_eq!(
            of(&["data/train.csv", "data/dev.csv", "data/more.csv"]),
            [Some(Split::Train), Some(Split::Dev), None]
        );
    }
}

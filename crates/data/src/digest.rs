//! Digests of data sets and of files.

use std::{io, io::Read, path::Path, time::SystemTime};

use sha2::{Digest, Sha256};

use crate::dataset::{Dataset, Labels};

/// SHA-256 of everything in a data set that training sees: texts and labels, and not the names of columns. It is the same
/// whether the rows come at once or in parts.
#[derive(Debug, Default)]
pub struct DataDigest {
    columns: Vec<Sha256>,
    n_rows: usize,
    /// Digest of the labels as whole numbers, as long as all are such.
    integers: Sha256,
    /// Digest of the labels as `f32`.
    floats: Sha256,
    kind: Option<Kind>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Integer,
    Float,
    Vector(Vec<usize>),
}

impl DataDigest {
    /// Adds rows.
    pub fn update(&mut self, rows: &Dataset) {
        self.columns.resize_with(rows.columns.len(), Sha256::new);
        for (digest, column) in self.columns.iter_mut().zip(&rows.columns) {
            for text in column.texts.iter() {
                digest.update((text.len() as u64).to_le_bytes());
                digest.update(text);
            }
        }
        self.n_rows += rows.n_rows();
        let float = |label: f32| label.to_le_bytes();
        match &rows.labels {
            None => {}
            Some(Labels::Integer(labels)) => {
                self.kind.get_or_insert(Kind::Integer);
                for label in labels {
                    self.integers.update(label.to_le_bytes());
                    self.floats.update(float(*label as f32));
                }
            }
            Some(Labels::Float(labels)) => {
                self.kind = Some(Kind::Float);
                labels.iter().for_each(|l| self.floats.update(float(*l)));
            }
            Some(Labels::Vector { values, shape }) => {
                self.kind = Some(Kind::Vector(shape.clone()));
                values.iter().for_each(|l| self.floats.update(float(*l)));
            }
        }
    }

    /// The digest in hexadecimal.
    pub fn finish(self) -> String {
        let mut all = Sha256::new();
        let count = |all: &mut Sha256, n: usize| all.update((n as u64).to_le_bytes());
        count(&mut all, self.columns.len());
        count(&mut all, self.n_rows);
        for column in self.columns {
            all.update(column.finalize());
        }
        match self.kind {
            None => all.update(b"none"),
            Some(Kind::Integer) => {
                all.update(b"integer");
                all.update(self.integers.finalize());
            }
            Some(Kind::Float) => {
                all.update(b"float");
                all.update(self.floats.finalize());
            }
            Some(Kind::Vector(shape)) => {
                all.update(b"vector");
                count(&mut all, shape.len());
                shape.iter().for_each(|&length| count(&mut all, length));
                all.update(self.floats.finalize());
            }
        }
        hex::encode(all.finalize())
    }
}

impl Dataset {
    /// The [`DataDigest`] of all rows.
    pub fn sha256(&self) -> String {
        let mut digest = DataDigest::default();
        digest.update(self);
        digest.finish()
    }
}

/// SHA-256 of a file without its last `n_left_out` bytes.
pub(crate) fn of_file(path: &Path, n_left_out: u64) -> io::Result<[u8; 32]> {
    let file = fs_err::File::open(path)?;
    let n_bytes = file.metadata()?.len().saturating_sub(n_left_out);
    let mut digest = Sha256::new();
    let mut rest = file.take(n_bytes);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match rest.read(&mut buffer)? {
            0 => return Ok(digest.finalize().into()),
            n => digest.update(&buffer[..n]),
        }
    }
}

/// Digests of large files that are known from an earlier run, in a folder. A file counts as the same where its device, number,
/// length and times are.
#[derive(Debug, Clone)]
pub(crate) struct KnownDigests<'a>(pub(crate) &'a Path);

/// Files below this length are read anew each time, which is soon done.
const LARGE: u64 = 64 << 20;

/// The time for which a file that was just written may change without a change of its times.
const JUST_WRITTEN: u64 = 2;

impl KnownDigests<'_> {
    /// The extension of the files that hold a digest each.
    pub(crate) const EXTENSION: &'static str = "known";

    /// As [`of_file`], or as was found or noted before.
    pub(crate) fn of_file(&self, path: &Path, n_left_out: u64) -> io::Result<[u8; 32]> {
        let place = self.place(path)?;
        let known = place.as_ref().and_then(|place| std::fs::read(place).ok());
        if let Some(known) = known.and_then(|known| known.try_into().ok()) {
            return Ok(known);
        }
        let digest = of_file(path, n_left_out)?;
        // Written to meanwhile, it is another file now.
        if place.is_some() && self.place(path)? == place {
            self.note(path, &digest);
        }
        Ok(digest)
    }

    /// Notes the digest of a file, to be found by [`Self::of_file`]. A note that can't be written is none.
    pub(crate) fn note(&self, path: &Path, digest: &[u8; 32]) {
        if let Ok(Some(place)) = self.place(path) {
            let _ = std::fs::write(place, digest);
        }
    }

    /// Forgets what is known of a file.
    pub(crate) fn forget(&self, path: &Path) {
        if let Ok(Some(place)) = self.place(path) {
            let _ = std::fs::remove_file(place);
        }
    }

    /// The note of a file's digest; none for small files, and new ones of others.
    fn place(&self, path: &Path) -> io::Result<Option<std::path::PathBuf>> {
        use std::os::unix::fs::MetadataExt;
        let metadata = fs_err::metadata(path)?;
        let age = SystemTime::now().duration_since(metadata.modified()?);
        let is_new = age.map_or(0, |age| age.as_secs()) < JUST_WRITTEN;
        let is_own = path.parent() == Some(self.0);
        if metadata.len() < LARGE || (is_new && !is_own) {
            return Ok(None);
        }
        let mut digest = Sha256::new();
        let times = [metadata.mtime(), metadata.mtime_nsec()]
            .into_iter()
            .chain([metadata.ctime(), metadata.ctime_nsec()]);
        for number in [metadata.dev(), metadata.ino(), metadata.len()] {
            digest.update(number.to_le_bytes());
        }
        times.for_each(|time| digest.update(time.to_le_bytes()));
        let name = hex::encode(digest.finalize());
        Ok(Some(self.0.join(name).with_extension(Self::EXTENSION)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::{TextColumn, Texts};

    fn data(columns: &[(&str, &[&str])], labels: Option<Labels>) -> Dataset {
        let columns = columns.iter().map(|(name, texts)| TextColumn {
            name: (*name).to_owned(),
            texts: texts.iter().copied().collect::<Texts>(),
        });
        Dataset {
            name: "data".to_owned(),
            columns: columns.collect(),
            labels,
            classes: Vec::new(),
            n_skipped: 0,
        }
    }

    #[test]
    fn the_digest_is_of_texts_and_labels() {
        let plain = data(&[("a", &["x", "yz"])], None).sha256();
        assert_eq!(plain, data(&[("b", &["x", "yz"])], None).sha256());
        for other in [
            data(&[("a", &["xy", "z"])], None),
            data(&[("a", &["yz", "x"])], None),
            data(&[("a", &["x"]), ("b", &["yz"])], None),
            data(&[("a", &["x", "yz"])], Some(Labels::Integer(vec![0, 1]))),
        ] {
            assert_ne!(plain, other.sha256(), "{other:?}");
        }
    }

    #[test]
    fn rows_in_parts_have_the_digest_of_the_whole() {
        let columns = [("a", ["x", "yz", "w"].as_slice()), ("b", &["1", "", "3"])];
        for (labels, parts) in [
            (None, [None, None]),
            (
                Some(Labels::Integer(vec![3, -4, 5])),
                [vec![3], vec![-4, 5]].map(|labels| Some(Labels::Integer(labels))),
            ),
            // Fractions come late.
            (
                Some(Labels::Float(vec![3.0, 0.5, 2.0])),
                [
                    Some(Labels::Integer(vec![3])),
                    Some(Labels::Float(vec![0.5, 2.0])),
                ],
            ),
        ] {
            let whole = data(&columns, labels);
            let mut digest = DataDigest::default();
            for (rows, labels) in [vec![0], vec![1, 2]].iter().zip(parts) {
                let part = Dataset {
                    labels: None,
                    ..whole.clone()
                };
                let part = part.select(rows);
                digest.update(&Dataset { labels, ..part });
            }
            assert_eq!(digest.finish(), whole.sha256(), "{whole:?}");
        }
    }

    #[test]
    fn digests_of_large_files_are_known_until_they_change() {
        let folder = tempfile::tempdir().unwrap();
        let known = KnownDigests(folder.path());
        let path = folder.path().join("large");
        let file = fs_err::File::create(&path).unwrap();
        file.set_len(LARGE + 5).unwrap();
        let digest = known.of_file(&path, 5).unwrap();
        assert_eq!(digest, of_file(&path, 5).unwrap());
        assert_ne!(digest, of_file(&path, 4).unwrap());
        known.note(&path, &[7; 32]);
        assert_eq!(known.of_file(&path, 5).unwrap(), [7; 32]);
        file.set_len(LARGE + 6).unwrap();
        assert_eq!(known.of_file(&path, 6).unwrap(), digest);
        known.note(&path, &[7; 32]);
        known.forget(&path);
        assert_eq!(known.of_file(&path, 6).unwrap(), digest);
        // Another's file that was just written may still change.
        let other = tempfile::tempdir().unwrap();
        let known = KnownDigests(other.path());
        known.note(&path, &[7; 32]);
        assert_eq!(known.of_file(&path, 6).unwrap(), digest);
        // So is a small one.
        file.set_len(5).unwrap();
        known.note(&path, &[7; 32]);
        assert_ne!(known.of_file(&path, 5).unwrap(), [7; 32]);
    }
}

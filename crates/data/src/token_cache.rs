//! Token ids kept on disk, so that a second run over the same texts starts at once.
//!
//! One file a data set, named by a digest of everything that the ids depend on: the texts, the tokenizer and the
//! format of these files. Nothing in the folder is trusted: an entry that does not fit this data set exactly counts as
//! absent and is written anew.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use fs_err as fs;
use sha2::{Digest, Sha256};

use crate::{
    dataset::Dataset,
    digest::KnownDigests,
    error::DataError,
    options::LoadOptions,
    tokens::{Prompt, TokenColumn, TokenizedDataset},
};

/// First bytes of an entry. A new layout takes a new number.
const MAGIC: &[u8] = b"sentune tokens 1\n";

/// Bytes of a SHA-256 digest.
pub(crate) const DIGEST: usize = 32;

/// The extension of entries.
const EXTENSION: &str = "tokens";

/// The prefix of unfinished entries' names.
const PARTIAL: &str = ".partial-";

/// The age at which an unfinished entry counts as abandoned, and that at which the digest of a file does.
const ABANDONED: Duration = Duration::from_secs(3600);
const FORGOTTEN: Duration = Duration::from_secs(90 * 24 * 3600);

/// A folder of tokenised data sets.
#[derive(Debug, Clone)]
pub struct TokenCache {
    folder: PathBuf,
    max_bytes: u64,
}

/// The name of an entry: SHA-256 of all that the token ids depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenKey([u8; DIGEST]);

/// The outcome of [`TokenCache::write`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// The tokens are there.
    Kept {
        /// Entries that were removed to make room.
        n_removed: usize,
    },
    /// The tokens are not kept, since they take more than all entries may.
    TooLarge {
        /// Bytes that they take.
        n_bytes: u64,
        /// Bytes that all entries may take.
        max_bytes: u64,
    },
}

/// Bounds of the ids that the model takes. An entry with others, which sentune did not write, would reach past the
/// model's tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenLimits {
    /// Bound of the ids, exclusive.
    pub vocab_size: usize,
    /// Greatest length of a row in tokens.
    pub max_length: usize,
}

impl TokenKey {
    /// The key of `dataset`'s texts under a tokenizer that `tokenizer` describes completely, its longest
    /// input included.
    pub fn new(dataset: &Dataset, tokenizer: &[u8]) -> Self {
        let mut digest = Sha256::new();
        digest.update(MAGIC);
        // Every part goes after its length, so that no two inputs give the same bytes.
        let mut part = |length: usize, bytes: &[u8]| {
            digest.update((length as u64).to_le_bytes());
            digest.update(bytes);
        };
        part(tokenizer.len(), tokenizer);
        part(dataset.columns.len(), &[]);
        for column in &dataset.columns {
            let (buffer, offsets) = column.texts.parts();
            part(buffer.len(), buffer.as_bytes());
            let offsets: Vec<u8> = offsets
                .iter()
                .flat_map(|&offset| (offset as u64).to_le_bytes())
                .collect();
            part(offsets.len(), &offsets);
        }
        Self(digest.finalize().into())
    }

    /// The key of the same texts after these prompts, one a column.
    pub fn with_prompts(self, prompts: &[Prompt]) -> Self {
        if prompts.iter().all(|prompt| prompt.text.is_empty()) {
            return self;
        }
        let mut digest = Sha256::new_with_prefix(self.0);
        for prompt in prompts {
            digest.update((prompt.text.len() as u64).to_le_bytes());
            digest.update(&prompt.text);
        }
        Self(digest.finalize().into())
    }

    /// The key of the rows of files, of which the digests are kept in `cache` for the next run: by the files' contents, all
    /// in `options` that decides about rows, and what `more` describes completely.
    ///
    /// # Errors
    /// When a file can't be read.
    pub fn of_files(
        paths: &[PathBuf],
        options: &LoadOptions,
        more: &[u8],
        cache: &TokenCache,
    ) -> Result<Self, DataError> {
        fs::create_dir_all(&cache.folder)?;
        let known = KnownDigests(&cache.folder);
        let mut digest = Sha256::new_with_prefix(b"rows of files");
        let mut part = |bytes: &[u8]| {
            digest.update((bytes.len() as u64).to_le_bytes());
            digest.update(bytes);
        };
        part(more);
        let unnamed = LoadOptions {
            name: None,
            ..options.clone()
        };
        part(format!("{unnamed:?}").as_bytes());
        for path in paths {
            // The ending says how the file is read.
            let name = path.file_name().unwrap_or_default();
            part(name.as_encoded_bytes());
            part(&known.of_file(path, 0)?);
        }
        Ok(Self(digest.finalize().into()))
    }

    fn file_name(&self) -> String {
        format!("{}.{EXTENSION}", hex::encode(self.0))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TokenCache {
    /// The cache in `folder`, which [`TokenCache::write`] makes where it is missing. Its entries take at most
    /// `max_bytes` together.
    pub fn new(folder: impl Into<PathBuf>, max_bytes: u64) -> Self {
        Self {
            folder: folder.into(),
            max_bytes,
        }
    }

    /// The folder of the entries.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Bytes that all entries may take together.
    pub(crate) fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    /// The place of the entry of a key.
    pub(crate) fn place(&self, key: &TokenKey) -> PathBuf {
        self.folder.join(key.file_name())
    }

    /// A new entry, to be written.
    pub(crate) fn partial(&self) -> io::Result<tempfile::NamedTempFile> {
        fs::create_dir_all(&self.folder)?;
        let mut builder = tempfile::Builder::new();
        builder.prefix(PARTIAL).tempfile_in(&self.folder)
    }

    /// The tokens of `dataset`, where a whole and sound entry holds them.
    pub fn read(
        &self,
        key: &TokenKey,
        dataset: &Dataset,
        limits: TokenLimits,
    ) -> Option<TokenizedDataset> {
        let path = self.place(key);
        let metadata = std::fs::metadata(&path).ok()?;
        // Opening a pipe would wait for somebody to write to it.
        if !metadata.is_file() || metadata.len() > self.max_bytes {
            tracing::debug!("{} is no entry of the token cache", path.display());
            return None;
        }
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::debug!("token cache: {error}");
                return None;
            }
        };
        let Some(columns) = decode(&bytes, key, dataset, limits) else {
            tracing::debug!("{} is damaged or not ours: tokenizing anew", path.display());
            return None;
        };
        // Entries go by their age when there are too many. If the folder can't be written to, none go.
        if let Ok(file) = std::fs::File::open(&path) {
            let _ = file.set_modified(SystemTime::now());
        }
        Some(TokenizedDataset {
            columns,
            labels: dataset.labels.clone(),
        })
    }

    /// Keeps the tokens, and removes the least recently used entries where all together take too much. Tokens that would
    /// not fit alone are not kept.
    ///
    /// # Errors
    /// When the folder can't be made or written to.
    pub fn write(&self, key: &TokenKey, tokens: &TokenizedDataset) -> Result<Written, DataError> {
        let n_bytes = n_bytes(tokens);
        if n_bytes > self.max_bytes {
            return Ok(Written::TooLarge {
                n_bytes,
                max_bytes: self.max_bytes,
            });
        }
        let bytes = encode(key, tokens);
        let mut file = self.partial()?;
        // Not synced: what a power cut leaves half written fails its checksum.
        file.write_all(&bytes)?;
        let path = self.place(key);
        file.persist(path).map_err(|error| error.error)?;
        let n_removed = self.remove_oldest()?;
        Ok(Written::Kept { n_removed })
    }

    /// Returns the number of entries that went.
    pub(crate) fn remove_oldest(&self) -> io::Result<usize> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            // Another process may have removed it meanwhile.
            let Ok(metadata) = std::fs::metadata(&path) else {
                continue;
            };
            let modified = metadata.modified()?;
            if is_abandoned(&path, modified) {
                let _ = std::fs::remove_file(&path);
            } else if path.extension().is_some_and(|end| end == EXTENSION) && metadata.is_file() {
                entries.push((modified, metadata.len(), path));
            }
        }
        entries.sort();
        let mut n_bytes: u64 = entries.iter().map(|(_, length, _)| length).sum();
        let mut n_removed = 0;
        for (_, length, path) in entries {
            if n_bytes <= self.max_bytes {
                break;
            }
            n_bytes -= length;
            n_removed += usize::from(std::fs::remove_file(&path).is_ok());
        }
        Ok(n_removed)
    }
}

fn is_abandoned(path: &Path, modified: SystemTime) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let age = modified.elapsed().unwrap_or_default();
    let is_digest = path
        .extension()
        .is_some_and(|end| end == KnownDigests::EXTENSION);
    name.is_some_and(|name| name.starts_with(PARTIAL)) && age > ABANDONED
        || is_digest && age > FORGOTTEN
}

/// The length of an entry.
fn n_bytes(tokens: &TokenizedDataset) -> u64 {
    let columns = tokens.columns.iter();
    let n_numbers: usize = columns.map(|column| column.len() + column.n_tokens()).sum();
    (MAGIC.len() + 2 * DIGEST + 4 * (2 + n_numbers)) as u64
}

/// Magic, key, number of columns and of rows; for each column its rows' lengths, then their ids; the digest of
/// all before. Numbers are little-endian, of 4 bytes.
fn encode(key: &TokenKey, tokens: &TokenizedDataset) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(n_bytes(tokens) as usize);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&key.0);
    let mut number = |n: u32| bytes.extend_from_slice(&n.to_le_bytes());
    number(tokens.columns.len() as u32);
    number(tokens.n_rows() as u32);
    for column in &tokens.columns {
        for ends in column.offsets.windows(2) {
            number((ends[1] - ends[0]) as u32);
        }
        column.ids.iter().for_each(|&id| number(id));
    }
    let digest = Sha256::digest(&bytes);
    bytes.extend_from_slice(&digest);
    bytes
}

/// The columns, or `None` where the bytes are not an entry of this key that fits data set and limits.
fn decode(
    bytes: &[u8],
    key: &TokenKey,
    dataset: &Dataset,
    limits: TokenLimits,
) -> Option<Vec<TokenColumn>> {
    let (bytes, digest) = bytes.split_last_chunk::<DIGEST>()?;
    let bytes_before = bytes.strip_prefix(MAGIC)?.strip_prefix(&key.0)?;
    if Sha256::digest(bytes)[..] != digest[..] {
        return None;
    }
    let (numbers, rest) = bytes_before.as_chunks::<4>();
    let mut numbers = Numbers(numbers);
    let (n_columns, n_rows) = (dataset.columns.len(), dataset.n_rows());
    if !rest.is_empty() || numbers.next()? != n_columns || numbers.next()? != n_rows {
        return None;
    }
    let mut columns = Vec::with_capacity(n_columns);
    for _ in 0..n_columns {
        let mut offsets = Vec::with_capacity(n_rows + 1);
        offsets.push(0);
        let mut end = 0;
        for length in numbers.take(n_rows)? {
            let length = u32::from_le_bytes(*length) as usize;
            if length == 0 || length > limits.max_length {
                return None;
            }
            end += length;
            offsets.push(end);
        }
        let ids = numbers.take(end)?;
        let ids: Vec<u32> = ids.iter().map(|id| u32::from_le_bytes(*id)).collect();
        if ids.iter().any(|&id| id as usize >= limits.vocab_size) {
            return None;
        }
        let prompt = Prompt::default();
        columns.push(TokenColumn {
            ids,
            offsets,
            prompt,
        });
    }
    numbers.0.is_empty().then_some(columns)
}

/// The numbers that are left to read.
struct Numbers<'a>(&'a [[u8; 4]]);

impl<'a> Numbers<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [[u8; 4]]> {
        let (first, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(first)
    }

    fn next(&mut self) -> Option<usize> {
        Some(u32::from_le_bytes(self.take(1)?[0]) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::{Labels, TextColumn};
    use crate::tokens::tokens_of_bytes;

    const LIMITS: TokenLimits = TokenLimits {
        vocab_size: 256,
        max_length: 5,
    };

    fn dataset(columns: &[&[&str]]) -> Dataset {
        let columns = columns.iter().map(|texts| TextColumn {
            name: String::new(),
            texts: texts.iter().copied().collect(),
        });
        Dataset {
            name: "d".to_owned(),
            columns: columns.collect(),
            labels: Some(Labels::Integer(vec![3, 4])),
            classes: Vec::new(),
            n_skipped: 0,
        }
    }

    fn pairs() -> Dataset {
        dataset(&[&["tea", "run"], &["a", "tea"]])
    }

    /// A cache in a folder of its own with one entry, and the entry's place.
    fn filled() -> (tempfile::TempDir, TokenCache, TokenKey, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let cache = TokenCache::new(folder.path().join("tokens"), 1000);
        let key = TokenKey::new(&pairs(), b"bytes");
        cache.write(&key, &tokens_of_bytes(&pairs())).unwrap();
        let path = cache.folder.join(key.file_name());
        (folder, cache, key, path)
    }

    #[test]
    fn what_is_kept_is_read_with_the_labels_of_now() {
        let (_folder, cache, key, _) = filled();
        let mut now = pairs();
        now.labels = None;
        let read = cache.read(&key, &now, LIMITS).unwrap();
        assert_eq!(read.columns, tokens_of_bytes(&pairs()).columns);
        assert_eq!(read.labels, None);
    }

    #[test]
    fn all_that_ids_depend_on_is_in_the_key() {
        let datasets = [
            pairs(),
            dataset(&[&["tea", "run"], &["at", "ea"]]),
            dataset(&[&["tea", "run"]]),
            dataset(&[&["tea", "run", "a", "tea"]]),
            dataset(&[&["a", "tea"], &["tea", "run"]]),
        ];
        let mut keys: Vec<TokenKey> = datasets.iter().map(|d| TokenKey::new(d, b"a")).collect();
        keys.push(TokenKey::new(&pairs(), b"b"));
        let prompt = |text: &str| Prompt {
            text: text.to_owned(),
            n_tokens: 1,
        };
        for prompts in [["q", ""], ["", "q"], ["q", "q"], ["qq", ""]] {
            keys.push(keys[0].with_prompts(&prompts.map(prompt)));
        }
        for (i, key) in keys.iter().enumerate() {
            assert!(!keys[i + 1..].contains(key), "{i}");
        }
        let mut renamed = pairs();
        renamed.name = "other".to_owned();
        renamed.labels = None;
        assert_eq!(TokenKey::new(&renamed, b"a"), keys[0]);
        assert_eq!(keys[0].with_prompts(&["", ""].map(prompt)), keys[0]);
    }

    #[test]
    fn damage_anywhere_makes_an_entry_absent() {
        let (_folder, cache, key, path) = filled();
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&path, &damaged).unwrap();
            assert!(cache.read(&key, &pairs(), LIMITS).is_none(), "byte {at}");
            fs::write(&path, &whole[..at]).unwrap();
            assert!(cache.read(&key, &pairs(), LIMITS).is_none(), "cut at {at}");
        }
        fs::write(&path, [&whole[..], b"0"].concat()).unwrap();
        assert!(cache.read(&key, &pairs(), LIMITS).is_none());
        fs::remove_file(&path).unwrap();
        assert!(cache.read(&key, &pairs(), LIMITS).is_none());
        fs::create_dir(&path).unwrap();
        assert!(cache.read(&key, &pairs(), LIMITS).is_none());
        assert!(cache.write(&key, &tokens_of_bytes(&pairs())).is_err());
        fs::remove_dir(&path).unwrap();
        fs::write(&path, &whole).unwrap();
        assert!(cache.read(&key, &pairs(), LIMITS).is_some());
    }

    /// An entry with a right checksum whose numbers, after the key, are these.
    fn forged(key: &TokenKey, numbers: &[u32]) -> Vec<u8> {
        let mut bytes = [MAGIC, &key.0].concat();
        bytes.extend(numbers.iter().flat_map(|n| n.to_le_bytes()));
        let digest = Sha256::digest(&bytes);
        [&bytes[..], &digest].concat()
    }

    #[test]
    fn an_entry_with_a_right_checksum_is_still_not_trusted() {
        let (_folder, cache, key, path) = filled();
        let sound = [2, 2, 1, 2, 7, 7, 7, 1, 1, 8, 8];
        for (numbers, is_sound) in [
            (&sound[..], true),
            (&sound[..sound.len() - 1], false),
            (&[2, 2, 1, 2, 7, 7, 7, 1, 1, 8, 8, 9], false),
            (&[1, 2, 1, 2, 7, 7, 7], false),
            (&[2, 3, 1, 2, 7, 7, 7, 1, 1, 8, 8], false),
            (&[2, 2, 0, 3, 7, 7, 7, 1, 1, 8, 8], false),
            (&[2, 2, 1, 6, 7, 7, 7, 7, 7, 7, 7, 1, 1, 8, 8], false),
            (&[2, 2, 1, 2, 7, 256, 7, 1, 1, 8, 8], false),
            (&[2, 2, u32::MAX, u32::MAX], false),
            (&[], false),
        ] {
            fs::write(&path, forged(&key, numbers)).unwrap();
            let read = cache.read(&key, &pairs(), LIMITS);
            assert_eq!(read.is_some(), is_sound, "{numbers:?}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_in_the_place_of_an_entry_is_not_waited_for() {
        let (_folder, cache, key, path) = filled();
        fs::remove_file(&path).unwrap();
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        assert!(cache.read(&key, &pairs(), LIMITS).is_none());
    }

    #[test]
    fn the_entries_used_longest_ago_go() {
        let (_folder, cache, first, path) = filled();
        let size = std::fs::metadata(&path).unwrap().len();
        let cache = TokenCache::new(cache.folder.clone(), 2 * size);
        let age = |path: &Path, seconds| {
            let file = std::fs::File::options().write(true).open(path).unwrap();
            let then = SystemTime::now() - Duration::from_secs(seconds);
            file.set_modified(then).unwrap();
        };
        age(&path, 300);
        let partial = cache.folder.join(format!("{PARTIAL}1"));
        let foreign = cache.folder.join("notes.txt");
        for path in [&partial, &foreign] {
            fs::write(path, [0; 500]).unwrap();
            age(path, 4000);
        }
        let second = TokenKey::new(&pairs(), b"second");
        cache.write(&second, &tokens_of_bytes(&pairs())).unwrap();
        assert!(!partial.exists() && foreign.exists());
        age(&cache.folder.join(second.file_name()), 200);
        // Used, so younger than the second.
        assert!(cache.read(&first, &pairs(), LIMITS).is_some());
        let third = TokenKey::new(&pairs(), b"third");
        let written = cache.write(&third, &tokens_of_bytes(&pairs())).unwrap();
        assert_eq!(written, Written::Kept { n_removed: 1 });
        let is_there = |key| cache.read(key, &pairs(), LIMITS).is_some();
        assert!(is_there(&first) && !is_there(&second) && is_there(&third));

        let small = TokenCache::new(cache.folder.clone(), size - 1);
        let written = small.write(&second, &tokens_of_bytes(&pairs())).unwrap();
        let too_large = Written::TooLarge {
            n_bytes: size,
            max_bytes: size - 1,
        };
        assert_eq!(written, too_large);
        assert!(!is_there(&second) && is_there(&first));
    }
}

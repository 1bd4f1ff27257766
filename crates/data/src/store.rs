//! Token ids in a file on disk that is read by position while a run trains, so that a run takes no more memory for many
//! rows than for few.
//!
//! A store is an entry of the token cache, under a key of the files that its rows come from. It is written in one pass
//! over chunks of rows, and takes its name when it is whole. Rows are checked as they are read.

use std::{
    io::{self, BufWriter, Write},
    path::PathBuf,
};

use fs_err::{File, os::unix::fs::FileExt};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use crate::{
    dataset::{Dataset, Labels},
    digest::{DataDigest, KnownDigests},
    error::DataError,
    sampler::TextIds,
    token_cache::{DIGEST, TokenCache, TokenKey, TokenLimits},
    tokens::{Prompt, TokenColumn, TokenizedDataset},
};

/// First bytes of a store. A new layout takes a new number.
const MAGIC: &[u8] = b"sentune token store 1\n";

/// Rows that have an index of their own, with places relative to the first of them.
const ROWS_PER_GROUP: usize = 1 << 12;

/// Bytes of the hash of a text: enough that two texts with one are not to be found, even on purpose.
const HASH: usize = 16;

/// Bytes after the facts: the places of table and facts, and the digest.
const TAIL: usize = 16 + DIGEST;

/// Facts of all rows, the last part of a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Facts {
    n_rows: usize,
    /// Tokens of each column.
    n_tokens: Vec<usize>,
    /// Bytes of a token id, and of the number of ids of a text.
    id_width: usize,
    length_width: usize,
    label: LabelFacts,
    has_hashes: bool,
    /// [`DataDigest`] of texts and labels.
    data: String,
    n_skipped: usize,
}

/// The labels of all rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum LabelFacts {
    None,
    Integer,
    /// Fractions, from this row on as such; labels before it are whole numbers in the file.
    Float(usize),
    Vector(Vec<usize>),
}

impl LabelFacts {
    /// Bytes of a label.
    fn width(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Integer | Self::Float(_) => 8,
            Self::Vector(shape) => 4 * shape.iter().product::<usize>(),
        }
    }
}

/// Token ids on disk.
#[derive(Debug)]
pub struct TokenStore {
    file: File,
    path: PathBuf,
    facts: Facts,
    limits: TokenLimits,
    prompts: Vec<Prompt>,
    /// Places of the first row and of the index of each group of rows.
    groups: Vec<[u64; 2]>,
}

impl TokenStore {
    /// Opens the store of this key, where a whole and sound one is in the cache. `has_hashes` asks for one from which
    /// [`Self::text_ids`] can be made.
    pub fn open(
        cache: &TokenCache,
        key: &TokenKey,
        has_hashes: bool,
        limits: TokenLimits,
        prompts: &[Prompt],
    ) -> Option<Self> {
        let path = cache.place(key);
        let store = Self::read_facts(path.clone(), key, limits, prompts);
        let is_sound = |store: &Self| {
            let known = KnownDigests(cache.folder());
            let mut digest = [0; DIGEST];
            let n_bytes = store.file.metadata()?.len();
            store
                .file
                .read_exact_at(&mut digest, n_bytes - DIGEST as u64)?;
            let found = known.of_file(&path, DIGEST as u64)?;
            if found == digest {
                known.forget(&path);
                // Entries go by their age when there are too many.
                let _ = store.file.set_modified(std::time::SystemTime::now());
                known.note(&path, &digest);
            }
            io::Result::Ok(found == digest)
        };
        let store = store.filter(|store| is_sound(store).unwrap_or(false));
        if store.is_none() && path.exists() {
            tracing::debug!("{} is damaged or not ours: tokenizing anew", path.display());
        }
        store.filter(|store| store.facts.has_hashes || !has_hashes)
    }

    fn read_facts(
        path: PathBuf,
        key: &TokenKey,
        limits: TokenLimits,
        prompts: &[Prompt],
    ) -> Option<Self> {
        // Opening a pipe would wait for somebody to write to it.
        if !std::fs::metadata(&path).ok()?.is_file() {
            return None;
        }
        let file = File::open(&path).ok()?;
        let n_bytes = file.metadata().ok()?.len();
        let read = |start: u64, end: u64| {
            let length = usize::try_from(end.checked_sub(start)?).ok()?;
            let mut bytes = (end <= n_bytes).then(|| vec![0; length])?;
            file.read_exact_at(&mut bytes, start).ok()?;
            Some(bytes)
        };
        let start = [MAGIC, key.bytes()].concat();
        if read(0, start.len() as u64)? != start {
            return None;
        }
        let tail = n_bytes.checked_sub(TAIL as u64)?;
        let places = read(tail, tail + 16)?;
        let (table, facts) = (number(&places, 0), number(&places, 8));
        let table = read(table, facts)?;
        let (numbers, rest) = table.as_chunks::<16>();
        let groups = numbers.iter().map(|n| [number(n, 0), number(n, 8)]);
        let store = Self {
            groups: groups.collect(),
            facts: serde_json::from_slice(&read(facts, tail)?).ok()?,
            limits,
            prompts: prompts.to_vec(),
            file,
            path,
        };
        let n_groups = store.facts.n_rows.div_ceil(ROWS_PER_GROUP);
        (rest.is_empty() && store.groups.len() == n_groups).then_some(store)
    }

    /// Number of rows.
    pub fn n_rows(&self) -> usize {
        self.facts.n_rows
    }

    /// Number of tokens of each column.
    pub fn n_tokens(&self) -> &[usize] {
        &self.facts.n_tokens
    }

    /// Rows that reading the files has left out.
    pub fn n_skipped(&self) -> usize {
        self.facts.n_skipped
    }

    /// The [`DataDigest`] of the rows.
    pub fn sha256(&self) -> &str {
        &self.facts.data
    }

    /// The folder that the store is in.
    pub fn folder(&self) -> &std::path::Path {
        self.path.parent().unwrap_or(&self.path)
    }

    /// The ids and labels of some rows, in this order.
    ///
    /// # Errors
    /// When the file can't be read or a row is damaged.
    ///
    /// # Panics
    /// If a row is not below [`Self::n_rows`].
    pub fn read(&self, rows: &[u32]) -> Result<TokenizedDataset, DataError> {
        let n_columns = self.facts.n_tokens.len();
        let (id_width, length_width) = (self.facts.id_width, self.facts.length_width);
        let mut columns = vec![TokenColumn::default(); n_columns];
        let (mut ids, mut bytes) = (Vec::new(), Vec::new());
        let mut labels = self.no_labels();
        for &row in rows {
            let damaged = || {
                // The next run looks at the whole file.
                KnownDigests(self.folder()).forget(&self.path);
                DataError::StoreDamaged {
                    path: self.path.clone(),
                    row: row as usize + 1,
                }
            };
            self.row_bytes(row as usize, &mut bytes)?;
            let (lengths, mut rest) = bytes
                .split_last_chunk::<4>()
                .filter(|(row, sum)| crc32c::crc32c(row).to_le_bytes() == **sum)
                .and_then(|(row, _)| row.split_at_checked(length_width * n_columns))
                .ok_or_else(damaged)?;
            for (column, length) in columns.iter_mut().zip(lengths.chunks_exact(length_width)) {
                let length = widened(length) as usize;
                let of_column = rest.split_at_checked(length * id_width);
                let (of_column, after) = of_column.ok_or_else(damaged)?;
                ids.clear();
                ids.extend(of_column.chunks_exact(id_width).map(widened));
                let is_known = |id: &u32| (*id as usize) < self.limits.vocab_size;
                if length == 0 || length > self.limits.max_length || !ids.iter().all(is_known) {
                    return Err(damaged());
                }
                column.push(&ids);
                rest = after;
            }
            if rest.len() != self.facts.label.width() {
                return Err(damaged());
            }
            self.add_label(row as usize, rest, &mut labels);
        }
        let tokens = TokenizedDataset { columns, labels };
        Ok(tokens.with_prompts(&self.prompts))
    }

    /// Reads rows to no end but that the system has them in memory then.
    pub fn warm(&self, rows: &[u32]) {
        let mut bytes = Vec::new();
        for &row in rows {
            // Whatever is wrong is told by the read that follows.
            let _ = self.row_bytes(row as usize, &mut bytes);
        }
    }

    fn row_bytes(&self, row: usize, bytes: &mut Vec<u8>) -> Result<(), DataError> {
        let [start, index] = self.groups[row / ROWS_PER_GROUP];
        let mut ends = [0; 8];
        let place = index + 4 * (row % ROWS_PER_GROUP) as u64;
        self.file.read_exact_at(&mut ends, place)?;
        let [begin, end] = [0, 4].map(|at| u64::from(short_number(&ends, at)));
        if begin > end || start + end > index {
            // Too short for any row.
            bytes.clear();
            return Ok(());
        }
        bytes.resize((end - begin) as usize, 0);
        Ok(self.file.read_exact_at(bytes, start + begin)?)
    }

    /// Labels of this store's kind, of no row yet.
    fn no_labels(&self) -> Option<Labels> {
        match &self.facts.label {
            LabelFacts::None => None,
            LabelFacts::Integer => Some(Labels::Integer(Vec::new())),
            LabelFacts::Float(_) => Some(Labels::Float(Vec::new())),
            LabelFacts::Vector(shape) => Some(Labels::Vector {
                values: Vec::new(),
                shape: shape.clone(),
            }),
        }
    }

    fn add_label(&self, row: usize, bytes: &[u8], labels: &mut Option<Labels>) {
        let float = |at: usize| f32::from_bits(short_number(bytes, at));
        match (labels, &self.facts.label) {
            (Some(Labels::Integer(labels)), _) => labels.push(number(bytes, 0) as i64),
            (Some(Labels::Float(labels)), LabelFacts::Float(first)) if row < *first => {
                labels.push(number(bytes, 0) as i64 as f32);
            }
            (Some(Labels::Float(labels)), _) => labels.push(float(0)),
            (Some(Labels::Vector { values, .. }), _) => {
                values.extend((0..bytes.len()).step_by(4).map(float));
            }
            (None, _) => {}
        }
    }

    /// The texts as numbers, equal for equal texts, by their hashes. Texts are taken in as many turns as keep what is
    /// sorted at a time below some hundred megabytes.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn text_ids(&self) -> Result<TextIds, DataError> {
        const TEXTS_PER_TURN: usize = 1 << 21;
        const MOST_TURNS: usize = 32;
        let n_columns = self.facts.n_tokens.len();
        let n_texts = self.facts.n_rows * n_columns;
        let n_turns = n_texts.div_ceil(TEXTS_PER_TURN).clamp(1, MOST_TURNS);
        let mut ids = TextIds::alone(n_texts, n_columns);
        let mut next = 0;
        for turn in 0..n_turns {
            let n_expected = n_texts / n_turns + n_texts / n_turns / 16 + 1024;
            let mut texts: Vec<(u128, u64)> = Vec::with_capacity(n_expected);
            for (group, &[_, index]) in self.groups.iter().enumerate() {
                let first = group * ROWS_PER_GROUP;
                let n_rows = ROWS_PER_GROUP.min(self.facts.n_rows - first);
                let mut hashes = vec![0; n_rows * n_columns * HASH];
                let place = index + 4 * (n_rows as u64 + 1);
                self.file.read_exact_at(&mut hashes, place)?;
                let hashes = hashes.as_chunks::<HASH>().0.iter();
                let hashes = hashes.map(|hash| u128::from_le_bytes(*hash));
                texts.extend(
                    hashes
                        .zip((first * n_columns) as u64..)
                        .filter(|(hash, _)| (*hash as u64 % n_turns as u64) as usize == turn),
                );
            }
            texts.sort_unstable();
            for same in texts.chunk_by(|one, other| one.0 == other.0) {
                if same.len() > 1 {
                    same.iter()
                        .for_each(|(_, place)| ids.set(*place as usize, next));
                    next += 1;
                }
            }
        }
        Ok(ids)
    }
}

/// The little-endian number at a place.
fn number(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

/// A little-endian number of up to four bytes.
fn widened(bytes: &[u8]) -> u32 {
    let mut number = [0; 4];
    number[..bytes.len()].copy_from_slice(bytes);
    u32::from_le_bytes(number)
}

fn short_number(bytes: &[u8], at: usize) -> u32 {
    widened(&bytes[at..at + 4])
}

/// A store in the making. Dropped before [`Self::finish`], it leaves nothing.
#[derive(Debug)]
pub struct StoreWriter<'c> {
    cache: &'c TokenCache,
    key: TokenKey,
    limits: TokenLimits,
    prompts: Vec<Prompt>,
    file: BufWriter<NamedTempFile>,
    digest: Sha256,
    n_bytes: u64,
    facts: Facts,
    data: DataDigest,
    groups: Vec<[u64; 2]>,
    group: Group,
}

/// Rows that are not yet written.
#[derive(Debug, Default)]
struct Group {
    rows: Vec<u8>,
    ends: Vec<u32>,
    hashes: Vec<u8>,
}

impl<'c> StoreWriter<'c> {
    /// Begins a store. `has_hashes` has [`TokenStore::text_ids`] work.
    ///
    /// # Errors
    /// [`DataError::StoreWrite`].
    pub fn new(
        cache: &'c TokenCache,
        key: TokenKey,
        has_hashes: bool,
        limits: TokenLimits,
        prompts: &[Prompt],
    ) -> Result<Self, DataError> {
        let file = cache.partial().map_err(DataError::StoreWrite)?;
        let width = |most: usize| match most {
            0..=0xffff => 2,
            0x1_0000..=0xff_ffff => 3,
            _ => 4,
        };
        let mut writer = Self {
            cache,
            key,
            limits,
            prompts: prompts.to_vec(),
            file: BufWriter::with_capacity(1 << 20, file),
            digest: Sha256::new(),
            n_bytes: 0,
            facts: Facts {
                n_rows: 0,
                n_tokens: Vec::new(),
                id_width: width(limits.vocab_size),
                length_width: width(limits.max_length),
                label: LabelFacts::None,
                has_hashes,
                data: String::new(),
                n_skipped: 0,
            },
            data: DataDigest::default(),
            groups: Vec::new(),
            group: Group::default(),
        };
        writer.put(&[MAGIC, key.bytes()].concat())?;
        Ok(writer)
    }

    /// Number of rows so far.
    pub fn n_rows(&self) -> usize {
        self.facts.n_rows
    }

    /// Appends rows with their ids.
    ///
    /// # Errors
    /// [`DataError::StoreWrite`], and [`DataError::StoreTooLarge`] past the limit of the cache.
    ///
    /// # Panics
    /// If there are not as many rows of ids as of texts, or columns as in the rows before.
    pub fn append(&mut self, rows: &Dataset, tokens: &TokenizedDataset) -> Result<(), DataError> {
        assert_eq!(rows.n_rows(), tokens.n_rows(), "ids for each row");
        let facts = &mut self.facts;
        if facts.n_rows == 0 {
            facts.n_tokens = vec![0; rows.columns.len()];
        }
        assert_eq!(facts.n_tokens.len(), tokens.columns.len(), "columns");
        for (n, column) in facts.n_tokens.iter_mut().zip(&tokens.columns) {
            *n += column.n_tokens();
        }
        facts.label = match (&rows.labels, &facts.label) {
            (None, _) => LabelFacts::None,
            (Some(Labels::Vector { shape, .. }), _) => LabelFacts::Vector(shape.clone()),
            (Some(_), LabelFacts::Float(first)) => LabelFacts::Float(*first),
            (Some(Labels::Float(_)), _) => LabelFacts::Float(facts.n_rows),
            (Some(Labels::Integer(_)), _) => LabelFacts::Integer,
        };
        self.data.update(rows);
        for row in 0..rows.n_rows() {
            self.append_row(rows, tokens, row)?;
            if self.group.ends.len() == ROWS_PER_GROUP {
                self.write_group()?;
            }
        }
        Ok(())
    }

    fn append_row(
        &mut self,
        rows: &Dataset,
        tokens: &TokenizedDataset,
        row: usize,
    ) -> Result<(), DataError> {
        let Group {
            rows: bytes,
            ends,
            hashes,
        } = &mut self.group;
        let start = bytes.len();
        for column in &tokens.columns {
            let length = column.get(row).len() as u32;
            bytes.extend_from_slice(&length.to_le_bytes()[..self.facts.length_width]);
        }
        for column in &tokens.columns {
            for id in column.get(row) {
                bytes.extend_from_slice(&id.to_le_bytes()[..self.facts.id_width]);
            }
        }
        let slot = |number: u64| number.to_le_bytes();
        match (&rows.labels, &self.facts.label) {
            (Some(Labels::Integer(labels)), LabelFacts::Integer) => {
                bytes.extend_from_slice(&slot(labels[row] as u64));
            }
            (Some(Labels::Integer(labels)), _) => {
                bytes.extend_from_slice(&slot((labels[row] as f32).to_bits().into()));
            }
            (Some(Labels::Float(labels)), _) => {
                bytes.extend_from_slice(&slot(labels[row].to_bits().into()));
            }
            (Some(Labels::Vector { values, shape }), _) => {
                let width: usize = shape.iter().product();
                for value in &values[row * width..][..width] {
                    bytes.extend_from_slice(&value.to_le_bytes());
                }
            }
            (None, _) => {}
        }
        let sum = crc32c::crc32c(&bytes[start..]);
        bytes.extend_from_slice(&sum.to_le_bytes());
        ends.push(u32::try_from(bytes.len()).map_err(|_| {
            DataError::Write(format!(
                "{ROWS_PER_GROUP} rows take more than 4 GB of token ids: lower --max-seq-length"
            ))
        })?);
        if self.facts.has_hashes {
            for column in &rows.columns {
                let text = column.texts.get(row).unwrap_or_default();
                hashes.extend_from_slice(&Sha256::digest(text)[..HASH]);
            }
        }
        self.facts.n_rows += 1;
        Ok(())
    }

    /// Writes the rows since the last group, their places, of which the first is 0, and the hashes of their texts.
    fn write_group(&mut self) -> Result<(), DataError> {
        let group = std::mem::take(&mut self.group);
        if group.ends.is_empty() {
            return Ok(());
        }
        let start = self.n_bytes;
        self.put(&group.rows)?;
        self.groups.push([start, self.n_bytes]);
        let ends = [0].into_iter().chain(group.ends);
        let ends: Vec<u8> = ends.flat_map(u32::to_le_bytes).collect();
        self.put(&ends)?;
        self.put(&group.hashes)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), DataError> {
        self.n_bytes += bytes.len() as u64;
        let max_bytes = self.cache.max_bytes();
        if self.n_bytes > max_bytes {
            return Err(DataError::StoreTooLarge {
                n_rows: self.facts.n_rows,
                max_bytes,
            });
        }
        self.digest.update(bytes);
        self.file.write_all(bytes).map_err(DataError::StoreWrite)
    }

    /// Ends the store, which takes its name, and removes the least recently used entries of the cache where all together take
    /// too much. Returns the store and the number of those that went.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn finish(mut self, n_skipped: usize) -> Result<(TokenStore, usize), DataError> {
        self.write_group()?;
        let table = self.n_bytes;
        let groups = std::mem::take(&mut self.groups);
        let numbers: Vec<u8> = groups
            .iter()
            .flatten()
            .flat_map(|n| n.to_le_bytes())
            .collect();
        self.put(&numbers)?;
        self.facts.data = std::mem::take(&mut self.data).finish();
        self.facts.n_skipped = n_skipped;
        let facts = self.n_bytes;
        self.put(&serde_json::to_vec(&self.facts).map_err(io::Error::from)?)?;
        self.put(&[table, facts].map(u64::to_le_bytes).concat())?;
        let digest: [u8; DIGEST] = self.digest.clone().finalize().into();
        self.put(&digest)?;
        let path = self.cache.place(&self.key);
        let persist = || {
            let file = self
                .file
                .into_inner()
                .map_err(io::IntoInnerError::into_error)?;
            // What a power cut left half written would pass for whole.
            file.as_file().sync_all()?;
            file.persist(&path).map_err(|error| error.error)
        };
        persist().map_err(DataError::StoreWrite)?;
        KnownDigests(self.cache.folder()).note(&path, &digest);
        let n_removed = self.cache.remove_oldest()?;
        let store = TokenStore {
            file: File::open(&path)?,
            path,
            facts: self.facts,
            limits: self.limits,
            prompts: self.prompts,
            groups,
        };
        Ok((store, n_removed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::tokens_of_bytes;
    use crate::{dataset::TextColumn, sampler};

    const LIMITS: TokenLimits = TokenLimits {
        vocab_size: 300,
        max_length: 9,
    };

    /// Rows of two columns with repeated texts, more than two groups of them.
    fn rows(labels: Option<Labels>) -> Dataset {
        let n = 2 * ROWS_PER_GROUP + 100;
        let texts = |step: usize| (0..n).map(move |i| format!("{}", i * step % 5000));
        let column = |name: &str, step: usize| {
            let texts: Vec<String> = texts(step).collect();
            TextColumn {
                name: name.to_owned(),
                texts: texts.iter().map(String::as_str).collect(),
            }
        };
        Dataset {
            name: "d".to_owned(),
            columns: vec![column("a", 1), column("b", 7)],
            labels,
            classes: Vec::new(),
            n_skipped: 0,
        }
    }

    struct Cached {
        _folder: tempfile::TempDir,
        cache: TokenCache,
        key: TokenKey,
    }

    impl Cached {
        fn new(max_bytes: u64) -> Self {
            let folder = tempfile::tempdir().unwrap();
            Self {
                cache: TokenCache::new(folder.path().join("tokens"), max_bytes),
                key: TokenKey::new(&rows(None).head(1), b"key"),
                _folder: folder,
            }
        }

        /// A store of these rows, written in parts of 1,000.
        fn write(&self, rows: &Dataset, has_hashes: bool) -> Result<TokenStore, DataError> {
            let (cache, key) = (&self.cache, self.key);
            let mut writer = StoreWriter::new(cache, key, has_hashes, LIMITS, &[])?;
            let all: Vec<u32> = (0..rows.n_rows() as u32).collect();
            for part in all.chunks(1000) {
                let mut part = rows.select(part);
                let is_whole = |labels: &[f32]| labels.iter().all(|label| label.fract() == 0.0);
                if let Some(Labels::Float(labels)) = &part.labels
                    && writer.n_rows() < 5000
                    && is_whole(labels)
                {
                    // As readers have them before the first fraction.
                    let whole = labels.iter().map(|label| *label as i64);
                    part.labels = Some(Labels::Integer(whole.collect()));
                }
                writer.append(&part, &tokens_of_bytes(&part))?;
            }
            Ok(writer.finish(3)?.0)
        }

        fn open(&self, has_hashes: bool) -> Option<TokenStore> {
            TokenStore::open(&self.cache, &self.key, has_hashes, LIMITS, &[])
        }
    }

    fn labels() -> Vec<Option<Labels>> {
        let n = rows(None).n_rows();
        let late = |i: usize| if i == 6000 { 0.5 } else { (i % 3) as f32 };
        vec![
            None,
            Some(Labels::Integer((0..n as i64).map(|i| i - 100).collect())),
            Some(Labels::Float((0..n).map(late).collect())),
            Some(Labels::Vector {
                values: (0..2 * n).map(|i| i as f32 / 8.0).collect(),
                shape: vec![2],
            }),
        ]
    }

    #[test]
    fn rows_are_read_as_they_were_written() {
        for labels in labels() {
            let rows = rows(labels);
            let cached = Cached::new(10_000_000);
            let whole = tokens_of_bytes(&rows);
            let places = [8291, 0, 4095, 4096, 5, 5, 6000, 8192];
            let written = cached.write(&rows, false).unwrap();
            for store in [written, cached.open(false).unwrap()] {
                let read = store.read(&places).unwrap();
                assert_eq!(read.labels, rows.labels.as_ref().map(|l| l.select(&places)));
                for (column, read) in whole.columns.iter().zip(&read.columns) {
                    for (i, place) in places.iter().enumerate() {
                        assert_eq!(read.get(i), column.get(*place as usize));
                    }
                }
                assert_eq!((store.n_rows(), store.n_skipped()), (rows.n_rows(), 3));
                assert_eq!(store.n_tokens(), whole.n_tokens());
                assert_eq!(store.sha256(), rows.sha256());
            }
        }
    }

    #[test]
    fn hashes_tell_texts_apart_as_the_texts_do() {
        let rows = rows(None);
        let cached = Cached::new(10_000_000);
        cached.write(&rows, false).unwrap();
        assert!(cached.open(true).is_none());
        cached.write(&rows, true).unwrap();
        assert!(cached.open(false).is_some());
        let texts = cached.open(true).unwrap().text_ids().unwrap();
        let numbered = sampler::Rows::Numbered {
            n_rows: rows.n_rows(),
            texts: Some(&texts),
        };
        let kind = sampler::BatchSampler::NoDuplicates;
        for (batch_size, drop_last) in [(16, false), (500, true)] {
            let of = |rows: sampler::Rows<'_>| {
                sampler::epoch_batches(kind, rows, batch_size, drop_last, 1.into(), 0)
            };
            assert_eq!(of(numbered), of((&rows).into()));
        }
    }

    #[test]
    fn damage_anywhere_makes_a_store_absent() {
        let cached = Cached::new(10_000_000);
        let rows = rows(None).head(40);
        cached.write(&rows, true).unwrap();
        let path = cached.cache.place(&cached.key);
        let whole = fs_err::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs_err::write(&path, &damaged).unwrap();
            assert!(cached.open(true).is_none(), "byte {at}");
            fs_err::write(&path, &whole[..at]).unwrap();
            assert!(cached.open(true).is_none(), "cut at {at}");
        }
        fs_err::write(&path, &whole).unwrap();
        assert!(cached.open(true).is_some());
        let other = TokenKey::new(&rows, b"other");
        fs_err::copy(&path, cached.cache.place(&other)).unwrap();
        assert!(TokenStore::open(&cached.cache, &other, true, LIMITS, &[]).is_none());
        fs_err::remove_file(&path).unwrap();
        fs_err::create_dir(&path).unwrap();
        assert!(cached.open(true).is_none());
    }

    #[test]
    fn a_row_that_is_damaged_while_a_run_trains_is_named() {
        let cached = Cached::new(10_000_000);
        let store = cached.write(&rows(None), false).unwrap();
        let path = cached.cache.place(&cached.key);
        let mut bytes = fs_err::read(&path).unwrap();
        let first = MAGIC.len() + DIGEST;
        bytes[first + 5] ^= 1;
        fs_err::write(&path, &bytes).unwrap();
        let message = store.read(&[7, 0]).unwrap_err().to_string();
        assert!(message.contains("row 1 is damaged"), "{message}");
        assert!(store.read(&[7]).is_ok());
        fs_err::write(&path, b"").unwrap();
        assert!(store.read(&[7]).is_err());
    }

    #[test]
    fn a_store_past_the_limit_leaves_nothing() {
        let cached = Cached::new(50_000);
        let error = cached.write(&rows(None), false).unwrap_err();
        assert!(
            matches!(error, DataError::StoreTooLarge { .. }),
            "{error:?}"
        );
        let message = error.to_string();
        assert!(
            message.contains("raise it, for example to 1GB"),
            "{message}"
        );
        assert_eq!(fs_err::read_dir(cached.cache.folder()).unwrap().count(), 0);
        assert!(cached.open(false).is_none());
    }
}

//! JSON Lines: one object a line.
//!
//! Read here, on all cores, since common readers turn numbers and lists in a column of texts into texts, a missing key
//! into a null, 1e-4294967296 into 1, and say no line when they give up.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    fmt,
};

use rayon::prelude::*;
use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use crate::{
    error::{BadRow, DataError, Defect, shortened},
    formats::{Cell, ColumnInfo, Consumer, File, Holds, ROWS_PER_TABLE, RawTable, Schema},
};

/// Different keys that a file may have; a file with more has texts for keys.
const MAX_KEYS: usize = 1000;

/// Reads the columns that the consumer chooses, out of the keys of all rows.
pub(crate) fn read(file: File<'_>, consumer: &mut dyn Consumer) -> Result<(), DataError> {
    let text = file.bytes;
    let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
    let lines: Vec<Line<'_>> = text
        .split(|&byte| byte == b'\n')
        .zip(1..)
        .filter(|(text, _)| !text.trim_ascii().is_empty())
        .take(file.max_rows)
        .map(|(text, number)| Line { number, text })
        .collect();
    let Some(first) = lines.first() else {
        return Err(DataError::EmptyFile {
            path: file.path.to_path_buf(),
        });
    };
    if first.text.trim_ascii_start().starts_with(b"[") {
        return Err(DataError::Header {
            path: file.path.to_path_buf(),
            message: "the file is one JSON array: write one object a line (for example with `jq \
                      -c '.[]'`)"
                .to_owned(),
        });
    }
    let schema = schema(file, &lines)?;
    let chosen = consumer.choose(&schema)?;
    let places: HashMap<&str, usize> = chosen
        .iter()
        .enumerate()
        .map(|(place, &column)| (schema.columns[column].name.as_str(), place))
        .collect();
    let n_rows = ROWS_PER_TABLE * rayon::current_num_threads();
    for (i, batch) in lines.chunks(n_rows).enumerate() {
        let tables: Vec<RawTable<'_>> = batch
            .par_chunks(ROWS_PER_TABLE)
            .enumerate()
            .map(|(j, lines)| table(i * n_rows + j * ROWS_PER_TABLE, lines, &places))
            .collect();
        for table in tables {
            consumer.take(table)?;
        }
    }
    Ok(())
}

/// A line that is not blank.
#[derive(Debug, Clone, Copy)]
struct Line<'a> {
    /// From 1.
    number: usize,
    text: &'a [u8],
}

/// The columns: the keys of all lines that are objects, in order of appearance.
fn schema(file: File<'_>, lines: &[Line<'_>]) -> Result<Schema, DataError> {
    let parts: Vec<(Keys, bool)> = lines
        .par_chunks(ROWS_PER_TABLE)
        .map(|lines| {
            let (mut keys, mut has_object) = (Keys::default(), false);
            for line in lines {
                has_object |= keys.add_line(line.text);
            }
            (keys, has_object)
        })
        .collect();
    if parts.iter().all(|(_, has_object)| !has_object) {
        return Err(no_object(file, lines));
    }
    let mut keys = Keys::default();
    for (part, _) in parts {
        for (name, kinds) in part.list {
            keys.add(name, kinds);
        }
    }
    if keys.list.len() > MAX_KEYS {
        return Err(DataError::Header {
            path: file.path.to_path_buf(),
            message: format!(
                "the rows have more than {MAX_KEYS} different keys: write the same keys in every row"
            ),
        });
    }
    let columns = keys.list.into_iter().map(|(name, kinds)| ColumnInfo {
        name,
        holds: kinds.holds(),
    });
    Ok(Schema {
        columns: columns.collect(),
        is_typed: true,
    })
}

fn no_object(file: File<'_>, lines: &[Line<'_>]) -> DataError {
    let rows = lines.iter().take(1).map(|line| BadRow {
        row: 1,
        line: Some(line.number),
        column: None,
        defect: not_object(line.text),
    });
    DataError::BadRows {
        path: file.path.to_path_buf(),
        rows: rows.collect(),
        n_rows: lines.len(),
        n_bad: lines.len(),
    }
}

/// The defect of a line that is no object.
fn not_object(line: &[u8]) -> Defect {
    match serde_json::from_slice::<Cell<'_>>(line) {
        Ok(Cell::Null) => Defect::NotObject("null"),
        Ok(value) => Defect::NotObject(value.name()),
        Err(error) => not_json(line, &error),
    }
}

fn not_json(line: &[u8], error: &serde_json::Error) -> Defect {
    if std::str::from_utf8(line).is_err() {
        return Defect::NotUtf8;
    }
    // serde_json counts lines within the one line it is given.
    let message = error.to_string();
    let message = message
        .split_once(" at line ")
        .map_or(message.as_str(), |(message, _)| message);
    Defect::NotJson(format!(
        "{} at column {}",
        shortened(message),
        error.column()
    ))
}

/// Reads a line as one object and nothing after it.
fn object<'a, V: Visitor<'a>>(line: &'a [u8], visitor: V) -> Result<V::Value, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(line);
    let value = deserializer.deserialize_map(visitor)?;
    deserializer.end()?;
    Ok(value)
}

/// Keys in order of appearance, and the kinds of value of each.
#[derive(Default)]
struct Keys {
    list: Vec<(String, Kinds)>,
    places: HashMap<String, usize>,
}

impl Keys {
    fn add(&mut self, key: String, kinds: Kinds) {
        if let Some(&place) = self.places.get(&key) {
            self.list[place].1 |= kinds;
        } else if self.list.len() <= MAX_KEYS {
            self.places.insert(key.clone(), self.list.len());
            self.list.push((key, kinds));
        }
    }

    /// Adds the keys of a line, unless it is no object. Says whether it is.
    fn add_line(&mut self, line: &[u8]) -> bool {
        match object(line, LineKeysVisitor(self)) {
            Ok(LineKeys { known, new }) => {
                for (place, kinds) in known {
                    self.list[place].1 |= kinds;
                }
                for (key, kinds) in new {
                    self.add(key, kinds);
                }
                true
            }
            Err(_) => false,
        }
    }
}

/// The keys of one line: the places of those that are known, and the others.
#[derive(Default)]
struct LineKeys {
    known: Vec<(usize, Kinds)>,
    new: Vec<(String, Kinds)>,
}

/// The kinds of value that a key has in some rows, as a set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Kinds(u8);

impl Kinds {
    const NULL: Self = Self(0);
    const TEXT: Self = Self(1);
    const TRUTH: Self = Self(2);
    const NUMBER: Self = Self(4);
    /// Of numbers alone.
    const NUMBER_LIST: Self = Self(8);
    const LIST: Self = Self(16);
    const OBJECT: Self = Self(32);

    fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The content of the column. Where kinds are mixed, rows of the wrong one are bad rows.
    fn holds(self) -> Holds {
        if self == Self::TEXT {
            Holds::Text
        } else if self == Self::NULL || self.has(Self::TEXT) {
            Holds::Either
        } else if self.has(Self::NUMBER) {
            Holds::Numbers("JSON numbers".to_owned())
        } else if self.has(Self::TRUTH) {
            Holds::Numbers("truth values".to_owned())
        } else if self.has(Self::LIST) {
            Holds::Other("lists".to_owned())
        } else if self.has(Self::NUMBER_LIST) {
            Holds::Lists("lists".to_owned())
        } else {
            Holds::Other("objects".to_owned())
        }
    }
}

impl std::ops::BitOrAssign for Kinds {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// Reads the keys of an object and the kinds of their values.
struct LineKeysVisitor<'k>(&'k Keys);

impl<'de> Visitor<'de> for LineKeysVisitor<'_> {
    type Value = LineKeys;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<LineKeys, A::Error> {
        let mut keys = LineKeys::default();
        let find = |key: &str| match self.0.places.get(key) {
            Some(&place) => Ok(place),
            None => Err(key.to_owned()),
        };
        while let Some(key) = map.next_key_seed(Key(find))? {
            let kinds = map.next_value()?;
            match key {
                Ok(place) => keys.known.push((place, kinds)),
                Err(key) => keys.new.push((key, kinds)),
            }
        }
        Ok(keys)
    }
}

/// Reads a key by looking it up, so that it need not be kept.
struct Key<F>(F);

impl<'de, T, F: FnOnce(&str) -> T> DeserializeSeed<'de> for Key<F> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<T, F: FnOnce(&str) -> T> Visitor<'_> for Key<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<T, E> {
        Ok(self.0(key))
    }
}

impl<'de> Deserialize<'de> for Kinds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KindsVisitor;
        impl<'de> Visitor<'de> for KindsVisitor {
            type Value = Kinds;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON value")
            }

            fn visit_unit<E>(self) -> Result<Kinds, E> {
                Ok(Kinds::NULL)
            }

            fn visit_bool<E>(self, _: bool) -> Result<Kinds, E> {
                Ok(Kinds::TRUTH)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Kinds, E> {
                Ok(Kinds::NUMBER)
            }

            fn visit_u64<E>(self, _: u64) -> Result<Kinds, E> {
                Ok(Kinds::NUMBER)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Kinds, E> {
                Ok(Kinds::NUMBER)
            }

            fn visit_str<E>(self, _: &str) -> Result<Kinds, E> {
                Ok(Kinds::TEXT)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Kinds, A::Error> {
                let mut kinds = Kinds::NULL;
                while let Some(inner) = list.next_element::<Kinds>()? {
                    kinds |= if inner == Kinds::NUMBER {
                        Kinds::NUMBER_LIST
                    } else {
                        Kinds::LIST
                    };
                }
                Ok(if kinds == Kinds::NUMBER_LIST {
                    kinds
                } else {
                    Kinds::LIST
                })
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Kinds, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Kinds::OBJECT)
            }
        }
        deserializer.deserialize_any(KindsVisitor)
    }
}

/// The chosen cells of lines, of which the first is row `n_before + 1`.
fn table<'a>(n_before: usize, lines: &[Line<'a>], places: &HashMap<&str, usize>) -> RawTable<'a> {
    let mut columns: Vec<Vec<Cell<'a>>> = vec![Vec::new(); places.len()];
    let mut defects = BTreeMap::new();
    for (i, line) in lines.iter().enumerate() {
        let mut row = vec![Cell::Missing; places.len()];
        let visitor = RowVisitor {
            places,
            row: &mut row,
        };
        let defect = match object(line.text, visitor) {
            Ok(None) => None,
            Ok(Some(place)) => {
                let key = places.iter().find(|(_, other)| **other == place);
                Some((key.map(|(key, _)| (*key).to_owned()), Defect::DuplicateKey))
            }
            Err(error) => Some((
                None,
                match not_object(line.text) {
                    Defect::NotObject("an object") => not_json(line.text, &error),
                    defect => defect,
                },
            )),
        };
        if let Some(defect) = defect {
            defects.insert(i, defect);
        }
        for (column, cell) in columns.iter_mut().zip(row) {
            column.push(cell);
        }
    }
    RawTable {
        columns,
        n_rows: lines.len(),
        n_before,
        lines: Some(lines.iter().map(|line| line.number).collect()),
        defects,
    }
}

/// Reads the chosen keys of an object into `row`; the value is the place of a key that comes twice, if there is one.
struct RowVisitor<'r, 'de> {
    places: &'r HashMap<&'r str, usize>,
    row: &'r mut [Cell<'de>],
}

impl<'de> Visitor<'de> for RowVisitor<'_, 'de> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Option<usize>, A::Error> {
        let mut twice = None;
        let find = |key: &str| self.places.get(key).copied();
        while let Some(place) = map.next_key_seed(Key(find))? {
            let Some(place) = place else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let cell = map.next_value()?;
            if self.row[place] != Cell::Missing {
                twice = Some(place);
            }
            self.row[place] = cell;
        }
        Ok(twice)
    }
}

impl<'de> Deserialize<'de> for Cell<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CellVisitor)
    }
}

struct CellVisitor;

impl<'de> Visitor<'de> for CellVisitor {
    type Value = Cell<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Cell<'de>, E> {
        Ok(Cell::Null)
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Cell<'de>, E> {
        Ok(Cell::Truth(truth))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Cell<'de>, E> {
        Ok(Cell::Integer(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Cell<'de>, E> {
        Ok(match i64::try_from(number) {
            Ok(number) => Cell::Integer(number),
            Err(_) => Cell::Large(number),
        })
    }

    fn visit_f64<E>(self, number: f64) -> Result<Cell<'de>, E> {
        Ok(Cell::Float(number))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Cell<'de>, E> {
        Ok(Cell::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Cell<'de>, E> {
        Ok(Cell::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Cell<'de>, A::Error> {
        let mut cells = Vec::new();
        while let Some(cell) = list.next_element()? {
            cells.push(cell);
        }
        Ok(Cell::list(cells))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Cell<'de>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Cell::Other("an object"))
    }
}

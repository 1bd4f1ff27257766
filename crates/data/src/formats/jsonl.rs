//! JSON Lines: an object or an array a line; and JSON documents that hold such rows.
//!
//! Read here, on all cores, since common readers turn numbers and lists in a column of texts into texts, a missing key
//! into a null, 1e-4294967296 into 1, and say no line when they give up.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    fmt,
    path::Path,
};

use rayon::prelude::*;
use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use crate::{
    error::{BadRow, DataError, Defect, shortened},
    formats::{
        blocks::Blocks,
        documents::{Line, Rows, are_lines, lines, rows},
        rows::{
            Cell, ColumnInfo, Consumer, File, Holds, PASSAGE_TEXT, ROWS_PER_TABLE, RawTable, Schema,
        },
    },
};

/// Different keys that a file may have; a file with more has texts for keys.
const MAX_KEYS: usize = 1000;

/// The only key of rows in the collection embedding-training-data, which stands for its value.
const SET: &str = "set";

/// Reads the columns that the consumer chooses, out of the keys of all rows.
pub(crate) fn read(file: File<'_>, consumer: &mut dyn Consumer) -> Result<(), DataError> {
    let text = without_mark(file.bytes);
    let name = file.path.file_name().map(|name| name.to_string_lossy());
    let name = name.unwrap_or_default().to_lowercase();
    let is_document = name.contains(".json") && !name.contains(".jsonl");
    let mut lines = match rows(text, is_document) {
        Rows::Values(lines) => lines,
        Rows::Columns(columns) => return read_columns(file, &columns, consumer),
    };
    lines.truncate(file.max_rows);
    if lines.is_empty() {
        return Err(DataError::EmptyFile {
            path: file.path.to_path_buf(),
        });
    }
    let mut columns = Columns::default();
    columns.add(&lines);
    let (shape, schema) = columns.schema(file.path)?;
    let chosen = consumer.choose(&schema)?;
    let places = Places::new(&schema, &chosen);
    take(0, &lines, shape, &places, consumer)
}

/// Reads a file of one row a line block by block, twice: first for the keys of all rows.
pub(super) fn stream(
    mut blocks: Blocks<'_>,
    max_rows: usize,
    consumer: &mut dyn Consumer,
) -> Result<(), DataError> {
    let path = blocks.path;
    if blocks.is_last() {
        let bytes = blocks.bytes();
        return read(
            File {
                path,
                bytes,
                max_rows,
            },
            consumer,
        );
    }
    if !are_lines(without_mark(blocks.bytes())) {
        return Err(DataError::ReadWhole {
            path: path.to_path_buf(),
            what: "it is a JSON document, and no JSON Lines",
        });
    }
    let mut columns = Columns::default();
    each_part(&mut blocks, max_rows, |_, lines| {
        columns.add(lines);
        Ok(())
    })?;
    let (shape, schema) = columns.schema(path)?;
    let chosen = consumer.choose(&schema)?;
    let places = Places::new(&schema, &chosen);
    each_part(&mut Blocks::open(path)?, max_rows, |n_before, lines| {
        take(n_before, lines, shape, &places, consumer)
    })
}

/// Calls `on` with the lines of each block, and the number of rows before them.
fn each_part(
    blocks: &mut Blocks<'_>,
    max_rows: usize,
    mut on: impl FnMut(usize, &[Line<'_>]) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let (mut n_before, mut n_lines, mut is_first) = (0, 0, true);
    loop {
        let bytes = blocks.bytes();
        let is_line_end = |byte: &u8| *byte == b'\n';
        let end = match blocks.is_last() {
            true => bytes.len(),
            false => bytes.iter().rposition(is_line_end).map_or(0, |at| at + 1),
        };
        let text = match is_first {
            true => without_mark(&bytes[..end]),
            false => &bytes[..end],
        };
        let mut part = lines(text);
        part.truncate(max_rows - n_before);
        for line in &mut part {
            line.number += n_lines;
        }
        on(n_before, &part)?;
        n_before += part.len();
        n_lines += text.iter().filter(|byte| is_line_end(byte)).count();
        is_first &= end == 0;
        if blocks.is_last() || n_before == max_rows {
            return Ok(());
        }
        blocks.advance(end)?;
    }
}

/// A text without the byte order mark that it may begin with.
fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text)
}

/// Hands over the chosen columns of rows that follow `n_before` others.
fn take(
    n_before: usize,
    lines: &[Line<'_>],
    shape: Shape,
    places: &Places<'_>,
    consumer: &mut dyn Consumer,
) -> Result<(), DataError> {
    let n_rows = ROWS_PER_TABLE * rayon::current_num_threads();
    for (i, batch) in lines.chunks(n_rows).enumerate() {
        let tables: Vec<RawTable<'_>> = batch
            .par_chunks(ROWS_PER_TABLE)
            .enumerate()
            .map(|(j, lines)| {
                let n_before = n_before + i * n_rows + j * ROWS_PER_TABLE;
                table(n_before, lines, shape, places)
            })
            .collect();
        for table in tables {
            consumer.take(table)?;
        }
    }
    Ok(())
}

/// Reads columns that each have all their values in one list or object.
fn read_columns(
    file: File<'_>,
    columns: &[(&[u8], &[u8])],
    consumer: &mut dyn Consumer,
) -> Result<(), DataError> {
    let refuse = |message: String| DataError::Header {
        path: file.path.to_path_buf(),
        message,
    };
    let mut infos = Vec::with_capacity(columns.len());
    let mut values: Vec<Vec<Cell<'_>>> = Vec::with_capacity(columns.len());
    for (name, cells) in columns {
        let name: String = serde_json::from_slice(name)
            .map_err(|error| refuse(format!("a key that is not valid JSON: {error}")))?;
        let malformed = |error| refuse(format!("column `{}`: {error}", shortened(&name)));
        let ListKinds(kinds) = serde_json::from_slice(cells).map_err(malformed)?;
        let Column(cells) = serde_json::from_slice(cells).map_err(malformed)?;
        if let Some(first) = values.first()
            && first.len() != cells.len()
        {
            return Err(refuse(format!(
                "column `{}` has {} values where the first column has {}",
                shortened(&name),
                cells.len(),
                first.len()
            )));
        }
        infos.push(ColumnInfo {
            name,
            holds: kinds.holds(),
        });
        values.push(cells);
    }
    let chosen = consumer.choose(&Schema {
        columns: infos,
        is_typed: true,
    })?;
    let n_rows = values.first().map_or(0, Vec::len).min(file.max_rows);
    for start in (0..n_rows).step_by(ROWS_PER_TABLE) {
        let rows = start..n_rows.min(start + ROWS_PER_TABLE);
        let columns = chosen
            .iter()
            .map(|&column| values[column][rows.clone()].to_vec());
        consumer.take(RawTable {
            columns: columns.collect(),
            n_rows: rows.len(),
            n_before: start,
            lines: None,
            defects: BTreeMap::new(),
        })?;
    }
    Ok(())
}

/// The form of the rows, which is that of the first that is valid JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Object,
    /// Columns in order.
    Array,
    /// An object whose only key is [`SET`], with an object of these columns as value.
    Set,
}

impl Shape {
    fn of(line: &[u8]) -> Option<Self> {
        match serde_json::from_slice::<Cell<'_>>(line).ok()? {
            Cell::Object(entries) => Some(match entries.as_slice() {
                [(key, Cell::Object(_))] if key == SET => Self::Set,
                _ => Self::Object,
            }),
            Cell::List(_) | Cell::Integers(_) | Cell::Floats(_) => Some(Self::Array),
            _ => None,
        }
    }

    /// Reads a line of this form, and nothing after it.
    fn read<'a, V: Visitor<'a>>(
        self,
        line: &'a [u8],
        visitor: V,
    ) -> Result<V::Value, serde_json::Error> {
        let mut deserializer = serde_json::Deserializer::from_slice(line);
        let value = match self {
            Self::Object => deserializer.deserialize_map(visitor)?,
            Self::Array => deserializer.deserialize_seq(visitor)?,
            Self::Set => deserializer.deserialize_map(SetVisitor(visitor))?,
        };
        deserializer.end()?;
        Ok(value)
    }
}

/// Reads an object whose only key is [`SET`].
struct SetVisitor<V>(V);

impl<'de, V: Visitor<'de>> Visitor<'de> for SetVisitor<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with the key `set`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<V::Value, A::Error> {
        let find = |key: &str| key == SET;
        if map.next_key_seed(Key(find))? != Some(true) {
            return Err(A::Error::custom("the key is not `set`"));
        }
        let value = map.next_value_seed(Inner(self.0))?;
        if map.next_key::<IgnoredAny>()?.is_some() {
            return Err(A::Error::custom("a key beside `set`"));
        }
        Ok(value)
    }
}

/// Reads an object by a visitor.
struct Inner<V>(V);

impl<'de, V: Visitor<'de>> DeserializeSeed<'de> for Inner<V> {
    type Value = V::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        deserializer.deserialize_map(self.0)
    }
}

/// The columns, as the rows so far show them: the keys of all that are objects, in order of appearance; or as many as
/// the first array has values.
#[derive(Default)]
struct Columns {
    /// None before the first row that is valid JSON.
    shape: Option<Shape>,
    keys: Keys,
    /// Values of the first array. One of another length is a bad row.
    n_values: usize,
    n_rows: usize,
    /// The defect of the first row, where it has no shape.
    first: Option<BadRow>,
}

impl Columns {
    fn add(&mut self, lines: &[Line<'_>]) {
        if self.shape.is_none() {
            let shaped = lines
                .iter()
                .find_map(|line| Some((line, Shape::of(line.text)?)));
            if let Some((line, shape)) = shaped {
                self.shape = Some(shape);
                let values = serde_json::from_slice::<Vec<IgnoredAny>>(line.text);
                self.n_values = values.map_or(0, |values| values.len());
            }
        }
        if let (0, Some(line)) = (self.n_rows, lines.first()) {
            self.first = Some(BadRow {
                row: 1,
                line: Some(line.number),
                column: None,
                defect: not_object(line.text),
            });
        }
        self.n_rows += lines.len();
        let Some(shape) = self.shape else { return };
        let parts: Vec<Keys> = lines
            .par_chunks(ROWS_PER_TABLE)
            .map(|lines| {
                let mut keys = Keys::default();
                for line in lines {
                    keys.add_line(line.text, shape);
                }
                keys
            })
            .collect();
        for part in parts {
            for (name, kinds) in part.list {
                self.keys.add(name, kinds);
            }
        }
    }

    fn schema(self, path: &Path) -> Result<(Shape, Schema), DataError> {
        let Some(shape) = self.shape else {
            return Err(DataError::BadRows {
                path: path.to_path_buf(),
                rows: self.first.into_iter().collect(),
                n_rows: self.n_rows,
                n_bad: self.n_rows,
            });
        };
        if self.keys.list.len() > MAX_KEYS {
            return Err(DataError::Header {
                path: path.to_path_buf(),
                message: format!(
                    "the rows have more than {MAX_KEYS} different keys: write the same keys in every row"
                ),
            });
        }
        let keys = self.keys.list.into_iter();
        let mut infos: Vec<ColumnInfo> = keys
            .map(|(name, kinds)| ColumnInfo {
                name,
                holds: kinds.holds(),
            })
            .collect();
        if shape == Shape::Array {
            infos.truncate(self.n_values);
            name_in_order(&mut infos);
        }
        let schema = Schema {
            columns: infos,
            is_typed: true,
        };
        Ok((shape, schema))
    }
}

/// Names columns that have none: texts are the anchor, the positive and negatives, numbers the label.
fn name_in_order(columns: &mut [ColumnInfo]) {
    let is_text =
        |column: &ColumnInfo| !matches!(column.holds, Holds::Numbers(_) | Holds::Lists(_));
    let n_texts = columns.iter().filter(|column| is_text(column)).count();
    let mut texts = 0;
    for column in columns {
        column.name = if is_text(column) {
            texts += 1;
            match texts {
                1 => "anchor".to_owned(),
                2 => "positive".to_owned(),
                3 if n_texts == 3 => "negative".to_owned(),
                n => format!("negative_{}", n - 2),
            }
        } else {
            "label".to_owned()
        };
    }
}

/// The defect of a line that is not of the form of the others.
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

    /// Adds the keys of a line, if it is of this form.
    fn add_line(&mut self, line: &[u8], shape: Shape) {
        if let Ok(LineKeys { known, new }) = shape.read(line, LineKeysVisitor(self)) {
            for (place, kinds) in known {
                self.list[place].1 |= kinds;
            }
            for (key, kinds) in new {
                self.add(key, kinds);
            }
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
struct Kinds(u16);

impl Kinds {
    const NULL: Self = Self(0);
    const TEXT: Self = Self(1);
    const TRUTH: Self = Self(2);
    const NUMBER: Self = Self(4);
    /// A list of numbers alone.
    const NUMBER_LIST: Self = Self(8);
    /// A list of texts, or of objects with a text, alone.
    const TEXT_LIST: Self = Self(16);
    /// Any other list.
    const LIST: Self = Self(32);
    const EMPTY_LIST: Self = Self(64);
    /// An object with a text.
    const PASSAGE: Self = Self(128);
    const OBJECT: Self = Self(256);

    fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The content of the column. Where kinds are mixed, rows of the wrong one are bad rows.
    fn holds(self) -> Holds {
        // Says nothing of what is in other rows' lists.
        let kinds = Self(self.0 & !Self::EMPTY_LIST.0);
        if kinds == Self::TEXT && self == kinds {
            Holds::Text
        } else if self == Self::NULL || kinds.has(Self::TEXT) {
            Holds::Either
        } else if kinds.has(Self::NUMBER) {
            Holds::Numbers("JSON numbers".to_owned())
        } else if kinds.has(Self::TRUTH) {
            Holds::Numbers("truth values".to_owned())
        } else if kinds == Self::NUMBER_LIST {
            Holds::Lists("lists".to_owned())
        } else if kinds == Self::TEXT_LIST {
            Holds::Texts("lists of texts".to_owned())
        } else if kinds.has(Self::OBJECT) || kinds.has(Self::PASSAGE) {
            Holds::Other("objects".to_owned())
        } else {
            Holds::Other("lists".to_owned())
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

    /// The keys of an array are its values' numbers.
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<LineKeys, A::Error> {
        let mut keys = LineKeys::default();
        let mut n_values = 0;
        while let Some(kinds) = list.next_element()? {
            if n_values < self.0.list.len() {
                keys.known.push((n_values, kinds));
            } else if n_values <= MAX_KEYS {
                keys.new.push((n_values.to_string(), kinds));
            }
            n_values += 1;
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
                let mut kinds = Kinds::EMPTY_LIST;
                while let Some(inner) = list.next_element::<Kinds>()? {
                    let of = match inner {
                        Kinds::NUMBER => Kinds::NUMBER_LIST,
                        Kinds::TEXT | Kinds::PASSAGE => Kinds::TEXT_LIST,
                        _ => Kinds::LIST,
                    };
                    kinds = match kinds {
                        Kinds::EMPTY_LIST => of,
                        same if same == of => of,
                        _ => Kinds::LIST,
                    };
                }
                Ok(kinds)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Kinds, A::Error> {
                let mut kinds = Kinds::OBJECT;
                let is_text = |key: &str| key == PASSAGE_TEXT;
                while let Some(is_text) = map.next_key_seed(Key(is_text))? {
                    if is_text {
                        kinds = match map.next_value()? {
                            Kinds::TEXT => Kinds::PASSAGE,
                            _ => Kinds::OBJECT,
                        };
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(kinds)
            }
        }
        deserializer.deserialize_any(KindsVisitor)
    }
}

/// The places of chosen columns.
struct Places<'s> {
    of_key: HashMap<&'s str, usize>,
    /// Places by the number of a value in an array.
    of_value: Vec<Option<usize>>,
    n_chosen: usize,
}

impl<'s> Places<'s> {
    fn new(schema: &'s Schema, chosen: &[usize]) -> Self {
        let names = chosen.iter().enumerate();
        Self {
            of_key: names
                .map(|(place, &column)| (schema.columns[column].name.as_str(), place))
                .collect(),
            of_value: (0..schema.columns.len())
                .map(|column| chosen.iter().position(|&chosen| chosen == column))
                .collect(),
            n_chosen: chosen.len(),
        }
    }
}

/// The chosen cells of lines, of which the first is row `n_before + 1`.
fn table<'a>(
    n_before: usize,
    lines: &[Line<'a>],
    shape: Shape,
    places: &Places<'_>,
) -> RawTable<'a> {
    let mut columns: Vec<Vec<Cell<'a>>> = vec![Vec::new(); places.n_chosen];
    let mut defects = BTreeMap::new();
    for (i, line) in lines.iter().enumerate() {
        let mut row = vec![Cell::Missing; places.n_chosen];
        let visitor = RowVisitor {
            places,
            row: &mut row,
        };
        let defect = match shape.read(line.text, visitor) {
            Ok(defect) => defect,
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

/// Reads the chosen values of a row into `row`, and says what is wrong with the row, if something is.
struct RowVisitor<'r, 'de> {
    places: &'r Places<'r>,
    row: &'r mut [Cell<'de>],
}

impl<'de> Visitor<'de> for RowVisitor<'_, 'de> {
    type Value = Option<(Option<String>, Defect)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a row")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut defect = None;
        let find = |key: &str| self.places.of_key.get_key_value(key);
        while let Some(key) = map.next_key_seed(Key(find))? {
            let Some((key, &place)) = key else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let cell = map.next_value()?;
            if self.row[place] != Cell::Missing {
                defect = Some((Some((*key).to_owned()), Defect::DuplicateKey));
            }
            self.row[place] = cell;
        }
        Ok(defect)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let expected = self.places.of_value.len();
        let mut found = 0;
        for place in &self.places.of_value {
            let is_there = match place {
                Some(place) => match list.next_element()? {
                    Some(cell) => {
                        self.row[*place] = cell;
                        true
                    }
                    None => false,
                },
                None => list.next_element::<IgnoredAny>()?.is_some(),
            };
            if !is_there {
                break;
            }
            found += 1;
        }
        while list.next_element::<IgnoredAny>()?.is_some() {
            found += 1;
        }
        let defect = Defect::LineLength { found, expected };
        Ok((found != expected).then_some((None, defect)))
    }
}

/// The values of a column that is written as one list, or as an object by row numbers.
struct Column<'de>(Vec<Cell<'de>>);

impl<'de> Deserialize<'de> for Column<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ColumnVisitor;
        impl<'de> Visitor<'de> for ColumnVisitor {
            type Value = Column<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list or an object")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Column<'de>, A::Error> {
                let mut cells = Vec::new();
                while let Some(cell) = list.next_element()? {
                    cells.push(cell);
                }
                Ok(Column(cells))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Column<'de>, A::Error> {
                let mut cells = Vec::new();
                while let Some((_, cell)) = map.next_entry::<IgnoredAny, _>()? {
                    cells.push(cell);
                }
                Ok(Column(cells))
            }
        }
        deserializer.deserialize_any(ColumnVisitor)
    }
}

/// The kinds of value in such a column.
struct ListKinds(Kinds);

impl<'de> Deserialize<'de> for ListKinds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListVisitor;
        impl<'de> Visitor<'de> for ListVisitor {
            type Value = ListKinds;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list or an object")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<ListKinds, A::Error> {
                let mut kinds = Kinds::NULL;
                while let Some(inner) = list.next_element()? {
                    kinds |= inner;
                }
                Ok(ListKinds(kinds))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ListKinds, A::Error> {
                let mut kinds = Kinds::NULL;
                while let Some((_, inner)) = map.next_entry::<IgnoredAny, _>()? {
                    kinds |= inner;
                }
                Ok(ListKinds(kinds))
            }
        }
        deserializer.deserialize_any(ListVisitor)
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
        let mut entries = Vec::new();
        while let Some((key, value)) = map.next_entry::<Cow<'_, str>, _>()? {
            entries.push((Cow::Owned(key.into_owned()), value));
        }
        Ok(Cell::Object(entries))
    }
}

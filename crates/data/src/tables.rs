//! Tables that are no training data: queries, corpora and judgements with ids, and lists of texts.

use std::{
    collections::HashSet,
    fmt,
    path::{Path, PathBuf},
};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::Value;

use crate::{
    error::{BadRow, BadRows, DataError, Defect, shortened},
    formats::{
        csv,
        files::{self, Kind},
        jsonl, parquet,
    },
    options::{LoadOptions, OnBadRow},
};

/// A column that is wanted of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// Its name, or several of which the first that is there is taken.
    pub names: &'a [&'a str],
    /// What its cells have to be.
    pub holds: FieldKind,
    /// Whether the table may lack it.
    pub optional: bool,
}

/// What the cells of a column have to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldKind {
    /// A text, which may be empty.
    Text,
    /// An id: a text with something in it, or a whole number, which is then its digits.
    Id,
    /// A list of texts. Not in CSV and TSV, which have no lists.
    Texts,
    /// An id or a list of ids.
    Ids,
    /// A number.
    Number,
}

/// The cells of a column.
#[derive(Debug, Clone, PartialEq)]
pub enum Field {
    /// Of [`FieldKind::Text`] and [`FieldKind::Id`].
    Texts(Vec<String>),
    /// Of [`FieldKind::Texts`] and [`FieldKind::Ids`].
    Lists(Vec<Vec<String>>),
    /// Of [`FieldKind::Number`].
    Numbers(Vec<f64>),
}

/// Loads columns of a file, folder or pattern as [`crate::load()`] finds them: in the order of `wanted`, `None`
/// for an optional column that is not there. Nulls are bad rows, and what they lead to `on_bad_row` says.
///
/// # Errors
/// See [`DataError`]; a message names the file, and for a bad row its number and column.
pub fn load_fields(
    source: &str,
    wanted: &[Wanted<'_>],
    on_bad_row: OnBadRow,
) -> Result<Vec<Option<Field>>, DataError> {
    let (paths, kind) = files::find(source)?;
    load_all(source, &paths, kind, wanted, on_bad_row)
}

/// As [`load_fields`], of these files one after the other.
///
/// # Errors
/// As [`load_fields`].
pub fn load_fields_of(
    paths: &[PathBuf],
    wanted: &[Wanted<'_>],
    on_bad_row: OnBadRow,
) -> Result<Vec<Option<Field>>, DataError> {
    let names: Vec<String> = paths
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let source = names.join(", ");
    let kind = files::common_kind(&source, paths)?;
    load_all(&source, paths, kind, wanted, on_bad_row)
}

fn load_all(
    source: &str,
    paths: &[PathBuf],
    kind: Kind,
    wanted: &[Wanted<'_>],
    on_bad_row: OnBadRow,
) -> Result<Vec<Option<Field>>, DataError> {
    let mut all: Vec<Option<Field>> = wanted.iter().map(|_| None).collect();
    let (mut n_rows, mut n_skipped) = (0, 0);
    for path in paths {
        let table = read(path, kind, wanted)?;
        let read = table.fields(path, wanted, on_bad_row)?;
        n_rows += read.n_rows;
        n_skipped += read.n_skipped;
        for (i, (all, field)) in all.iter_mut().zip(read.fields).enumerate() {
            match (all.as_mut(), field) {
                (None, field) if n_rows == read.n_rows => *all = field,
                (Some(all), Some(more)) => all.append(more),
                (None, None) => {}
                _ => {
                    return Err(DataError::Header {
                        path: path.clone(),
                        message: format!(
                            "the files of {source} don't all have the column `{}`",
                            wanted[i].names.join("` or `")
                        ),
                    });
                }
            }
        }
    }
    if n_rows == 0 {
        return Err(DataError::NoRows {
            pattern: source.to_owned(),
            n_skipped,
        });
    }
    if n_skipped > 0 {
        tracing::warn!("skipped {n_skipped} rows of {source}");
    }
    Ok(all)
}

impl Field {
    fn append(&mut self, more: Self) {
        match (self, more) {
            (Self::Texts(all), Self::Texts(more)) => all.extend(more),
            (Self::Lists(all), Self::Lists(more)) => all.extend(more),
            (Self::Numbers(all), Self::Numbers(more)) => all.extend(more),
            // One kind was wanted of all files.
            _ => {}
        }
    }
}

/// A value as the file has it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Cell {
    Null,
    Text(String),
    Integer(i64),
    Float(f64),
    List(Vec<Cell>),
    Other(&'static str),
}

/// The wanted columns of a file, row after row.
pub(crate) struct Cells {
    /// For each wanted column its name in the file, where it is there.
    pub(crate) names: Vec<Option<String>>,
    /// For each row its line, where the file has lines, and its cells or what is wrong with it.
    pub(crate) rows: Vec<Row>,
    /// Whether the format tells numbers from texts, and has lists.
    pub(crate) is_typed: bool,
}

/// Number and line of a row, and for each wanted column that is there its cell.
pub(crate) type Row = (
    usize,
    Option<usize>,
    Result<Vec<Cell>, (Option<String>, Defect)>,
);

struct Read {
    fields: Vec<Option<Field>>,
    n_rows: usize,
    n_skipped: usize,
}

impl Cells {
    fn fields(
        self,
        path: &Path,
        wanted: &[Wanted<'_>],
        on_bad_row: OnBadRow,
    ) -> Result<Read, DataError> {
        let present: Vec<(&String, FieldKind)> = self
            .names
            .iter()
            .zip(wanted)
            .filter_map(|(name, wanted)| Some((name.as_ref()?, wanted.holds)))
            .collect();
        if let Some((name, _)) = present
            .iter()
            .find(|(_, holds)| !self.is_typed && *holds == FieldKind::Texts)
        {
            return Err(DataError::Header {
                path: path.to_path_buf(),
                message: format!(
                    "column `{name}` has to hold lists of texts, which CSV and TSV have not: write \
                     JSON Lines or parquet"
                ),
            });
        }
        let mut columns: Vec<Field> = present
            .iter()
            .map(|(_, holds)| match holds {
                FieldKind::Text | FieldKind::Id => Field::Texts(Vec::new()),
                FieldKind::Texts | FieldKind::Ids => Field::Lists(Vec::new()),
                FieldKind::Number => Field::Numbers(Vec::new()),
            })
            .collect();
        let n_all = self.rows.len();
        let mut bad_rows = BadRows::default();
        let (mut n_rows, mut n_skipped) = (0, 0);
        for (row, line, cells) in self.rows {
            let values = cells.and_then(|cells| {
                let values = cells
                    .into_iter()
                    .zip(&present)
                    .map(|(cell, (name, holds))| {
                        cell.into_kind(*holds, self.is_typed)
                            .map_err(|defect| (Some((*name).clone()), defect))
                    });
                values.collect::<Result<Vec<One>, _>>()
            });
            match values {
                Err((column, defect)) => {
                    n_skipped += 1;
                    bad_rows.push(BadRow {
                        row,
                        line,
                        column,
                        defect,
                    });
                }
                Ok(values) => {
                    n_rows += 1;
                    for (column, value) in columns.iter_mut().zip(values) {
                        match (column, value) {
                            (Field::Texts(column), One::Text(text)) => column.push(text),
                            (Field::Lists(column), One::List(texts)) => column.push(texts),
                            (Field::Numbers(column), One::Number(number)) => column.push(number),
                            _ => {}
                        }
                    }
                }
            }
        }
        let options = LoadOptions {
            on_bad_row,
            ..LoadOptions::default()
        };
        bad_rows.check(path, n_all, &options)?;
        let mut columns = columns.into_iter();
        let fields = self.names.iter().map(|name| {
            name.as_ref()?;
            columns.next()
        });
        Ok(Read {
            fields: fields.collect(),
            n_rows,
            n_skipped,
        })
    }
}

/// The value of a good cell.
enum One {
    Text(String),
    List(Vec<String>),
    Number(f64),
}

impl Cell {
    fn into_kind(self, holds: FieldKind, is_typed: bool) -> Result<One, Defect> {
        Ok(match (holds, self) {
            (_, Self::Null) => return Err(Defect::Null),
            (FieldKind::Text, Self::Text(text)) => One::Text(text),
            (FieldKind::Text, other) => return Err(Defect::NotText(other.name())),
            (FieldKind::Id, cell) => One::Text(cell.id()?),
            (FieldKind::Ids, Self::List(cells)) => {
                let ids = cells.into_iter().map(Self::id);
                One::List(ids.collect::<Result<_, _>>()?)
            }
            (FieldKind::Ids, cell) => One::List(vec![cell.id()?]),
            (FieldKind::Texts, Self::List(cells)) => {
                let texts = cells.into_iter().map(|cell| match cell {
                    Self::Text(text) => Ok(text),
                    Self::Null => Err(Defect::Null),
                    _ => Err(Defect::NotTexts(
                        "a list with something else than texts in it",
                    )),
                });
                One::List(texts.collect::<Result<_, _>>()?)
            }
            (FieldKind::Texts, other) => return Err(Defect::NotTexts(other.name())),
            (FieldKind::Number, Self::Integer(number)) => One::Number(number as f64),
            (FieldKind::Number, Self::Float(number)) => One::Number(number),
            (FieldKind::Number, Self::Text(text)) if !is_typed => match text.trim().parse() {
                Ok(number) => One::Number(number),
                Err(_) => return Err(Defect::NotNumber(format!("`{}`", shortened(&text)))),
            },
            (FieldKind::Number, other) => return Err(Defect::NotNumber(other.name().to_owned())),
        })
    }

    fn id(self) -> Result<String, Defect> {
        match self {
            Self::Text(text) if text.is_empty() => Err(Defect::Empty),
            Self::Text(text) => Ok(text),
            Self::Integer(number) => Ok(number.to_string()),
            Self::Null => Err(Defect::Null),
            other => Err(Defect::NotText(other.name())),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Text(_) => "a text",
            Self::Integer(_) | Self::Float(_) => "a number",
            Self::List(_) => "a list",
            Self::Other(name) => name,
        }
    }
}

/// Which of a file's columns are the wanted ones.
fn find(
    path: &Path,
    wanted: &[Wanted<'_>],
    available: &[String],
) -> Result<Vec<Option<String>>, DataError> {
    let one = |wanted: &Wanted<'_>| {
        let is_there = |name: &&&str| available.iter().any(|column| column == **name);
        match wanted.names.iter().find(is_there) {
            Some(name) => Ok(Some((*name).to_owned())),
            None if wanted.optional => Ok(None),
            None => Err(DataError::MissingColumn {
                path: path.to_path_buf(),
                column: wanted.names.join("` or `"),
                available: available.to_vec(),
            }),
        }
    };
    wanted.iter().map(one).collect()
}

fn read(path: &Path, kind: Kind, wanted: &[Wanted<'_>]) -> Result<Cells, DataError> {
    let bytes = fs_err::read(path)?;
    files::check_content(path, kind, &bytes)?;
    match kind {
        Kind::Parquet => {
            parquet::read_cells(path, &bytes, |available| find(path, wanted, available))
        }
        Kind::Csv { separator } => {
            let records = csv::records(path, &bytes, separator)?;
            let names = find(path, wanted, &records.names)?;
            let places: Vec<usize> = names
                .iter()
                .flatten()
                .filter_map(|name| records.names.iter().position(|column| column == name))
                .collect();
            let rows = records
                .rows
                .into_iter()
                .enumerate()
                .map(|(i, (line, row))| {
                    let cells = row.map_err(|defect| (None, defect)).map(|mut fields| {
                        let take = |place: &usize| Cell::Text(std::mem::take(&mut fields[*place]));
                        places.iter().map(take).collect()
                    });
                    (i + 1, Some(line), cells)
                });
            Ok(Cells {
                names,
                rows: rows.collect(),
                is_typed: false,
            })
        }
        Kind::JsonLines => read_json_lines(path, &bytes, wanted),
    }
}

/// The first line that is an object says which columns there are.
fn read_json_lines(path: &Path, bytes: &[u8], wanted: &[Wanted<'_>]) -> Result<Cells, DataError> {
    let text = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    let lines: Vec<(usize, &[u8])> = text
        .split(|&byte| byte == b'\n')
        .zip(1..)
        .filter(|(line, _)| !line.trim_ascii().is_empty())
        .map(|(line, number)| (number, line))
        .collect();
    if lines.is_empty() {
        return Err(DataError::EmptyFile {
            path: path.to_path_buf(),
        });
    }
    let objects: Vec<Result<Object, Defect>> = lines
        .iter()
        .map(|(_, line)| {
            serde_json::from_slice(line).map_err(|error| jsonl::not_json(line, &error))
        })
        .collect();
    let available: Vec<String> = objects
        .iter()
        .flatten()
        .next()
        .map(|object| object.0.iter().map(|(key, _)| key.clone()).collect())
        .unwrap_or_default();
    let names = find(path, wanted, &available)?;
    let rows = objects.into_iter().zip(&lines).enumerate();
    let rows = rows.map(|(i, (object, (line, _)))| {
        let cells = object.map_err(|defect| (None, defect)).and_then(|object| {
            let mut seen = HashSet::new();
            if let Some((key, _)) = object.0.iter().find(|(key, _)| !seen.insert(key.as_str())) {
                return Err((Some(key.clone()), Defect::DuplicateKey));
            }
            let mut object: std::collections::HashMap<String, Value> =
                object.0.into_iter().collect();
            let cells = names.iter().flatten().map(|name| {
                let value = object.remove(name);
                value
                    .map(Cell::from)
                    .ok_or((Some(name.clone()), Defect::MissingKey))
            });
            cells.collect()
        });
        (i + 1, Some(*line), cells)
    });
    Ok(Cells {
        rows: rows.collect(),
        names,
        is_typed: true,
    })
}

/// A line's keys and values in order, repeated keys among them.
struct Object(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Object(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

impl From<Value> for Cell {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::String(text) => Self::Text(text),
            Value::Bool(_) => Self::Other("true or false"),
            Value::Object(_) => Self::Other("an object"),
            Value::Array(values) => Self::List(values.into_iter().map(Self::from).collect()),
            Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(integer), _) => Self::Integer(integer),
                (None, Some(float)) => Self::Float(float),
                (None, None) => Self::Other("a number past 64 bits"),
            },
        }
    }
}

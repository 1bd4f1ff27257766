//! JSON Lines: one object a line.
//!
//! polars decodes the columns; every line is checked here first, on all cores. polars' own reader
//! turns numbers and lists in a column of texts into texts, a missing key into a null, and says no
//! line when it gives up, so what it gets to see is only lines of the right shape.

use std::{collections::HashMap, fmt, io::Cursor, path::Path, sync::Arc};

use polars::prelude::{
    Column, DataFrame, DataType, Field, JsonFormat, JsonReader, PolarsResult, Schema, SerReader,
};
use rayon::prelude::*;
use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor},
};

use crate::{
    error::{BadRow, DataError, Defect},
    load::LoadOptions,
    table::{BadRows, Chosen, Holds, RowNumbers, Table, check_height, choose, guarded, shortened},
};

const FORMAT: &str = "JSON Lines";

/// Reads the chosen columns. The first line that is an object says which columns there are, and
/// which of them hold text.
pub(crate) fn read(
    path: &Path,
    bytes: Vec<u8>,
    max_rows: usize,
    options: &LoadOptions,
) -> Result<Table, DataError> {
    let text = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&bytes);
    let lines: Vec<(u32, &[u8])> = text
        .split(|&byte| byte == b'\n')
        .zip(1..)
        .filter(|(line, _)| !line.trim_ascii().is_empty())
        .take(max_rows)
        .map(|(line, number)| (number, line))
        .collect();
    let Some((_, first)) = lines.first() else {
        return Err(DataError::EmptyFile {
            path: path.to_path_buf(),
        });
    };
    if first.trim_ascii_start().starts_with(b"[") {
        return Err(DataError::Header {
            path: path.to_path_buf(),
            message: "the file is one JSON array: write one object a line (for example with `jq \
                      -c '.[]'`)"
                .to_owned(),
        });
    }
    let Some(columns) = lines.iter().find_map(|(_, line)| columns(line)) else {
        return Err(no_object(path, &lines));
    };
    let chosen = choose(path, &columns, options)?;
    let shape = Shape::new(&columns, &chosen, options.columns.is_some());

    let checked: Vec<Result<LabelKind, BadLine>> = lines
        .par_iter()
        .map(|(_, line)| shape.check(line))
        .collect();
    let mut bad_rows = BadRows::default();
    let mut rows = Vec::with_capacity(lines.len());
    let mut label_kind = LabelKind::Absent;
    for (i, (checked, (line, _))) in checked.into_iter().zip(&lines).enumerate() {
        match checked {
            Ok(kind) => {
                label_kind = label_kind.max(kind);
                rows.push((i as u32 + 1, *line));
            }
            Err(bad) => {
                let (column, defect) = *bad;
                bad_rows.push(BadRow {
                    row: i + 1,
                    line: Some(*line as usize),
                    column,
                    defect,
                });
            }
        }
    }
    let skipped = bad_rows.check(path, lines.len(), options)?;

    let kept;
    let text = if skipped.is_empty() && lines.len() < max_rows {
        text
    } else {
        kept = rows
            .iter()
            .flat_map(|(row, _)| [lines[*row as usize - 1].1, b"\n"])
            .flatten()
            .copied()
            .collect::<Vec<u8>>();
        &kept
    };
    let (texts, label) = guarded(path, FORMAT, || {
        decode(text, &chosen, label_kind, rows.is_empty())
    })?;
    for column in texts.iter().chain(&label) {
        check_height(path, FORMAT, column.len(), rows.len())?;
    }
    Ok(Table {
        texts,
        label,
        n_read: lines.len(),
        rows: RowNumbers::Lines(rows),
        is_typed: true,
        skipped,
    })
}

fn decode(
    text: &[u8],
    chosen: &Chosen,
    label_kind: LabelKind,
    is_empty: bool,
) -> PolarsResult<(Vec<Column>, Option<Column>)> {
    let label_type = match label_kind {
        LabelKind::Absent | LabelKind::Integer => DataType::Int64,
        LabelKind::Truth => DataType::Boolean,
        LabelKind::Float => DataType::Float64,
    };
    let fields = chosen
        .texts
        .iter()
        .map(|name| (name, DataType::String))
        .chain(chosen.label.iter().map(|name| (name, label_type.clone())))
        .map(|(name, dtype)| Field::new(name.as_str().into(), dtype));
    let schema = Arc::new(Schema::from_iter(fields));
    let frame = if is_empty {
        DataFrame::empty_with_schema(&schema)
    } else {
        JsonReader::new(Cursor::new(text))
            .with_json_format(JsonFormat::JsonLines)
            .with_schema(schema)
            .finish()?
    };
    let texts = chosen
        .texts
        .iter()
        .map(|name| frame.column(name).cloned())
        .collect::<PolarsResult<_>>()?;
    let label = match &chosen.label {
        Some(name) => Some(frame.column(name)?.clone()),
        None => None,
    };
    Ok((texts, label))
}

/// The columns that a line gives, if it is an object.
fn columns(line: &[u8]) -> Option<Vec<(String, Holds)>> {
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(line).ok()?;
    let holds = |value: &serde_json::Value| match value {
        serde_json::Value::String(_) => Holds::Text,
        // The value may be missing in this row alone.
        serde_json::Value::Null => Holds::Either,
        serde_json::Value::Bool(_) => Holds::Numbers("truth values".to_owned()),
        serde_json::Value::Number(_) => Holds::Numbers("JSON numbers".to_owned()),
        serde_json::Value::Array(_) => Holds::Other("lists".to_owned()),
        serde_json::Value::Object(_) => Holds::Other("objects".to_owned()),
    };
    Some(
        object
            .iter()
            .map(|(name, value)| (name.clone(), holds(value)))
            .collect(),
    )
}

fn no_object(path: &Path, lines: &[(u32, &[u8])]) -> DataError {
    let rows: Vec<BadRow> = lines
        .iter()
        .enumerate()
        .take(1)
        .map(|(i, (line, text))| BadRow {
            row: i + 1,
            line: Some(*line as usize),
            column: None,
            defect: match serde_json::from_slice::<Value>(text) {
                Ok(value) => Defect::NotObject(value.name()),
                Err(error) => not_json(text, &error),
            },
        })
        .collect();
    DataError::BadRows {
        path: path.to_path_buf(),
        rows,
        n_rows: lines.len(),
        n_bad: lines.len(),
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

/// The column, where it is in one, and what is wrong.
type BadLine = Box<(Option<String>, Defect)>;

/// What the labels of some lines are; the larger includes the smaller, except that truth values
/// and numbers don't mix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum LabelKind {
    Absent,
    Truth,
    Integer,
    Float,
}

/// What every line must look like.
struct Shape {
    /// The keys that matter, or all of them if no others are allowed.
    keys: Vec<(String, Role)>,
    indices: HashMap<String, usize>,
    allows_others: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Text,
    /// Whether labels are truth values, where the first row tells.
    Label(Option<bool>),
}

impl Shape {
    fn new(columns: &[(String, Holds)], chosen: &Chosen, allows_others: bool) -> Self {
        let keys: Vec<(String, Role)> = chosen
            .names()
            .map(|name| {
                let role = if chosen.label.as_ref() == Some(name) {
                    let holds = columns.iter().find(|(column, _)| column == name);
                    Role::Label(match holds {
                        Some((_, Holds::Numbers(kind))) => Some(kind == "truth values"),
                        _ => None,
                    })
                } else {
                    Role::Text
                };
                (name.clone(), role)
            })
            .collect();
        Self {
            indices: keys
                .iter()
                .enumerate()
                .map(|(i, (name, _))| (name.clone(), i))
                .collect(),
            keys,
            allows_others,
        }
    }

    fn check(&self, line: &[u8]) -> Result<LabelKind, BadLine> {
        let mut deserializer = serde_json::Deserializer::from_slice(line);
        let checked = ShapeVisitor(self)
            .deserialize(&mut deserializer)
            .and_then(|checked| deserializer.end().map(|()| checked));
        match checked {
            Ok(Ok(kind)) => Ok(kind),
            Ok(Err((column, defect))) => Err(Box::new((column, defect))),
            Err(error) => Err(Box::new((
                None,
                match serde_json::from_slice::<Value>(line) {
                    Ok(value) => Defect::NotObject(value.name()),
                    Err(_) => not_json(line, &error),
                },
            ))),
        }
    }
}

/// Reads one line; the inner result is about the row's shape, the outer about JSON.
struct ShapeVisitor<'a>(&'a Shape);

type Checked = Result<LabelKind, (Option<String>, Defect)>;

impl<'de> DeserializeSeed<'de> for ShapeVisitor<'_> {
    type Value = Checked;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Checked, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ShapeVisitor<'_> {
    type Value = Checked;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Checked, A::Error> {
        let shape = self.0;
        let mut kind = LabelKind::Absent;
        let mut seen = vec![false; shape.keys.len()];
        let mut bad: Option<(Option<String>, Defect)> = None;
        while let Some(key) = map.next_key::<std::borrow::Cow<'_, str>>()? {
            let value: Value = map.next_value()?;
            let defect = match shape.indices.get(key.as_ref()) {
                None if shape.allows_others => None,
                None => Some(Defect::UnknownKey),
                Some(&i) if seen[i] => Some(Defect::DuplicateKey),
                Some(&i) => {
                    seen[i] = true;
                    match shape.keys[i].1 {
                        Role::Text => value.text_defect(),
                        Role::Label(truth) => {
                            kind = value.label_kind();
                            value.label_defect(truth)
                        }
                    }
                }
            };
            if let Some(defect) = defect {
                bad.get_or_insert((Some(key.into_owned()), defect));
            }
        }
        if let (None, Some(i)) = (&bad, seen.iter().position(|seen| !seen)) {
            bad = Some((Some(shape.keys[i].0.clone()), Defect::MissingKey));
        }
        Ok(match bad {
            Some(bad) => Err(bad),
            None => Ok(kind),
        })
    }
}

/// A JSON value's kind. It is read to the end, with all its escapes, and nothing of it is kept.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Value {
    Null,
    Truth,
    Integer,
    /// A whole number past `i64`.
    Large(u64),
    Float,
    Text,
    List,
    Object,
}

impl Value {
    fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Truth => "true or false",
            Self::Integer | Self::Large(_) | Self::Float => "a number",
            Self::Text => "a text",
            Self::List => "a list",
            Self::Object => "an object",
        }
    }

    /// Null is left to the check that all formats share.
    fn text_defect(self) -> Option<Defect> {
        match self {
            Self::Text | Self::Null => None,
            other => Some(Defect::NotText(other.name())),
        }
    }

    fn label_defect(self, truth: Option<bool>) -> Option<Defect> {
        match (self, truth) {
            (Self::Null, _) => None,
            (Self::Truth, Some(true) | None) => None,
            (Self::Integer | Self::Float, Some(false) | None) => None,
            (Self::Large(label), _) => Some(Defect::OutOfRange(label.to_string())),
            (Self::Integer | Self::Float, Some(true)) => Some(Defect::NotNumber(
                "a number where the first row has true or false".to_owned(),
            )),
            (other, _) => Some(Defect::NotNumber(other.name().to_owned())),
        }
    }

    fn label_kind(self) -> LabelKind {
        match self {
            Self::Truth => LabelKind::Truth,
            Self::Integer => LabelKind::Integer,
            Self::Float => LabelKind::Float,
            _ => LabelKind::Absent,
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Value, E> {
        Ok(Value::Truth)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Value, E> {
        Ok(Value::Integer)
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(match i64::try_from(number) {
            Ok(_) => Value::Integer,
            Err(_) => Value::Large(number),
        })
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Float)
    }

    fn visit_str<E>(self, _: &str) -> Result<Value, E> {
        Ok(Value::Text)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        while list.next_element::<Value>()?.is_some() {}
        Ok(Value::List)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        while map.next_entry::<String, Value>()?.is_some() {}
        Ok(Value::Object)
    }
}

//! JSON Lines: one object a line.
//!
//! Read here, on all cores, and not by polars, whose reader turns numbers and lists in a column of
//! texts into texts, a missing key into a null, 1e-4294967296 into 1, and says no line when it gives
//! up.

use std::{borrow::Cow, collections::HashMap, fmt, path::Path};

use polars::prelude::{
    Column, DataType, Float32Type, IntoColumn, ListBuilderTrait, ListPrimitiveChunkedBuilder,
    StringChunked, StringChunkedBuilder,
};
use rayon::prelude::*;
use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor},
};

use crate::{
    check::{RowNumbers, Table, check_height, guarded, text_columns},
    choose::{Chosen, Holds, choose},
    error::{BadRow, BadRows, DataError, Defect, shortened},
    options::LoadOptions,
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

    let parts: Vec<Part> = lines
        .par_chunks(PART)
        .enumerate()
        .map(|(i, lines)| Part::read(&shape, &chosen, i * PART, lines))
        .collect();
    let mut bad_rows = BadRows::default();
    let mut rows = Vec::with_capacity(lines.len());
    let mut labels = Vec::new();
    let mut columns = Vec::with_capacity(parts.len());
    for part in parts {
        part.bad.into_iter().for_each(|bad| bad_rows.push(bad));
        rows.extend(part.rows);
        labels.extend(part.labels);
        columns.push(part.texts);
    }
    let skipped = bad_rows.check(path, lines.len(), options)?;
    let texts = guarded(path, FORMAT, || text_columns(&chosen.texts, columns))?;
    let label = chosen
        .label
        .as_ref()
        .map(|name| label_column(name, &labels));
    for column in texts.iter().chain(&label) {
        check_height(path, FORMAT, column.len(), rows.len())?;
    }
    Ok(Table {
        texts,
        label,
        n_read: lines.len(),
        rows: RowNumbers::Lines(rows),
        defects: Vec::new(),
        is_typed: true,
        skipped,
    })
}

/// Enough lines that a thread's part is worth its start.
const PART: usize = 1 << 12;

/// The columns of some lines, without the bad ones among them.
struct Part {
    texts: Vec<StringChunked>,
    labels: Vec<Label>,
    /// Number and line of each row.
    rows: Vec<(u32, u32)>,
    bad: Vec<BadRow>,
}

impl Part {
    /// Reads lines of which the first is row `before + 1`.
    fn read(shape: &Shape, chosen: &Chosen, before: usize, lines: &[(u32, &[u8])]) -> Self {
        let mut builders: Vec<StringChunkedBuilder> = chosen
            .texts
            .iter()
            .map(|name| StringChunkedBuilder::new(name.as_str().into(), lines.len()))
            .collect();
        let (mut labels, mut rows, mut bad) = (Vec::new(), Vec::new(), Vec::new());
        for (i, (line, text)) in lines.iter().enumerate() {
            let row = before + i + 1;
            match shape.read(text) {
                Ok(read) => {
                    for (builder, text) in builders.iter_mut().zip(&read.texts) {
                        builder.append_option(text.as_deref());
                    }
                    labels.extend(read.label);
                    rows.push((row as u32, *line));
                }
                Err(found) => {
                    let (column, defect) = *found;
                    bad.push(BadRow {
                        row,
                        line: Some(*line as usize),
                        column,
                        defect,
                    });
                }
            }
        }
        Self {
            texts: builders
                .into_iter()
                .map(StringChunkedBuilder::finish)
                .collect(),
            labels,
            rows,
            bad,
        }
    }
}

/// Fractions anywhere make all labels fractions; truth values stay what they are among themselves.
fn label_column(name: &str, labels: &[Label]) -> Column {
    let is_float = labels.iter().any(|label| matches!(label, Label::Float(_)));
    let n_numbers = labels.iter().map(|label| match label {
        Label::List(numbers) => numbers.len(),
        _ => 0,
    });
    let n_numbers: usize = n_numbers.sum();
    if n_numbers > 0 {
        let mut builder = ListPrimitiveChunkedBuilder::<Float32Type>::new(
            name.into(),
            labels.len(),
            n_numbers,
            DataType::Float32,
        );
        for label in labels {
            match label {
                Label::List(numbers) => builder.append_slice(numbers),
                _ => builder.append_null(),
            }
        }
        builder.finish().into_column()
    } else if is_float {
        let floats = labels.iter().map(|label| match label {
            Label::Null | Label::List(_) => None,
            Label::Truth(label) => Some(f64::from(*label)),
            Label::Integer(label) => Some(*label as f64),
            Label::Float(label) => Some(*label),
        });
        Column::new(name.into(), floats.collect::<Vec<_>>())
    } else {
        let integers = labels.iter().map(|label| match label {
            Label::Null | Label::Float(_) | Label::List(_) => None,
            Label::Truth(label) => Some(i64::from(*label)),
            Label::Integer(label) => Some(*label),
        });
        Column::new(name.into(), integers.collect::<Vec<_>>())
    }
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
        serde_json::Value::Array(values)
            if !values.is_empty() && values.iter().all(serde_json::Value::is_number) =>
        {
            Holds::Lists("lists".to_owned())
        }
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

pub(crate) fn not_json(line: &[u8], error: &serde_json::Error) -> Defect {
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

/// A label as the line has it.
#[derive(Debug, Clone, PartialEq)]
enum Label {
    List(Vec<f32>),
    Null,
    Truth(bool),
    Integer(i64),
    Float(f64),
}

/// What a line of the right shape holds: the texts in the order of the chosen columns, `None` for
/// null, and the label where one is chosen.
struct Line<'a> {
    texts: Vec<Option<Cow<'a, str>>>,
    label: Option<Label>,
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
    /// What labels are, where the first row tells.
    Label(Option<LabelRole>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LabelRole {
    Truth,
    Number,
    List,
}

impl Shape {
    fn new(columns: &[(String, Holds)], chosen: &Chosen, allows_others: bool) -> Self {
        let keys: Vec<(String, Role)> = chosen
            .names()
            .map(|name| {
                let role = if chosen.label.as_ref() == Some(name) {
                    let holds = columns.iter().find(|(column, _)| column == name);
                    Role::Label(match holds {
                        Some((_, Holds::Numbers(kind))) if kind == "truth values" => {
                            Some(LabelRole::Truth)
                        }
                        Some((_, Holds::Numbers(_))) => Some(LabelRole::Number),
                        Some((_, Holds::Lists(_))) => Some(LabelRole::List),
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

    fn read<'a>(&self, line: &'a [u8]) -> Result<Line<'a>, BadLine> {
        let mut deserializer = serde_json::Deserializer::from_slice(line);
        let checked = ShapeVisitor(self)
            .deserialize(&mut deserializer)
            .and_then(|checked| deserializer.end().map(|()| checked));
        match checked {
            Ok(Ok(line)) => Ok(line),
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
struct ShapeVisitor<'s>(&'s Shape);

type Checked<'a> = Result<Line<'a>, (Option<String>, Defect)>;

impl<'de> DeserializeSeed<'de> for ShapeVisitor<'_> {
    type Value = Checked<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Checked<'de>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ShapeVisitor<'_> {
    type Value = Checked<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Checked<'de>, A::Error> {
        let shape = self.0;
        let n_texts = shape.keys.iter().filter(|(_, role)| *role == Role::Text);
        let mut read = Line {
            texts: vec![None; n_texts.count()],
            label: None,
        };
        let mut seen = vec![false; shape.keys.len()];
        let mut bad: Option<(Option<String>, Defect)> = None;
        while let Some(key) = map.next_key::<std::borrow::Cow<'_, str>>()? {
            let value: Value<'de> = map.next_value()?;
            let defect = match shape.indices.get(key.as_ref()) {
                None if shape.allows_others => None,
                None => Some(Defect::UnknownKey),
                Some(&i) if seen[i] => Some(Defect::DuplicateKey),
                Some(&i) => {
                    seen[i] = true;
                    match shape.keys[i].1 {
                        Role::Text => {
                            let defect = value.text_defect();
                            if let Value::Text(text) = value {
                                read.texts[i] = Some(text);
                            }
                            defect
                        }
                        Role::Label(role) => {
                            let defect = value.label_defect(role);
                            read.label = value.label();
                            defect
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
            None => Ok(read),
        })
    }
}

/// A JSON value, of which lists are kept where they are of numbers alone, and objects are read to
/// the end and not kept.
#[derive(Debug, Clone, PartialEq)]
enum Value<'a> {
    Null,
    Truth(bool),
    Integer(i64),
    /// A whole number past `i64`.
    Large(u64),
    Float(f64),
    Text(Cow<'a, str>),
    List(Option<Vec<f32>>),
    Object,
}

impl Value<'_> {
    fn name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Truth(_) => "true or false",
            Self::Integer(_) | Self::Large(_) | Self::Float(_) => "a number",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Object => "an object",
        }
    }

    /// Null is left to the check that all formats share.
    fn text_defect(&self) -> Option<Defect> {
        match self {
            Self::Text(_) | Self::Null => None,
            other => Some(Defect::NotText(other.name())),
        }
    }

    fn label_defect(&self, role: Option<LabelRole>) -> Option<Defect> {
        match (self, role) {
            (Self::Null, _) => None,
            (Self::Truth(_), Some(LabelRole::Truth) | None) => None,
            (Self::Integer(_) | Self::Float(_), Some(LabelRole::Number) | None) => None,
            (Self::List(Some(_)), Some(LabelRole::List)) => None,
            (Self::Large(label), _) => Some(Defect::OutOfRange(label.to_string())),
            (Self::Integer(_) | Self::Float(_), Some(LabelRole::Truth)) => Some(Defect::NotNumber(
                "a number where the first row has true or false".to_owned(),
            )),
            (other, _) => Some(Defect::NotNumber(other.name().to_owned())),
        }
    }

    fn label(self) -> Option<Label> {
        match self {
            Self::Null => Some(Label::Null),
            Self::Truth(label) => Some(Label::Truth(label)),
            Self::Integer(label) => Some(Label::Integer(label)),
            Self::Float(label) => Some(Label::Float(label)),
            Self::List(Some(label)) => Some(Label::List(label)),
            _ => None,
        }
    }
}

impl<'de> Deserialize<'de> for Value<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value<'de>, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Value<'de>, E> {
        Ok(Value::Truth(truth))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value<'de>, E> {
        Ok(Value::Integer(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value<'de>, E> {
        Ok(match i64::try_from(number) {
            Ok(number) => Value::Integer(number),
            Err(_) => Value::Large(number),
        })
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value<'de>, E> {
        Ok(Value::Float(number))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Value<'de>, E> {
        Ok(Value::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value<'de>, E> {
        Ok(Value::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value<'de>, A::Error> {
        let mut numbers = Some(Vec::new());
        while let Some(value) = list.next_element::<Value<'de>>()? {
            let number = match value {
                Value::Integer(number) => Some(number as f32),
                Value::Large(number) => Some(number as f32),
                Value::Float(number) => Some(number as f32),
                _ => None,
            };
            match (&mut numbers, number) {
                (Some(numbers), Some(number)) => numbers.push(number),
                _ => numbers = None,
            }
        }
        Ok(Value::List(numbers))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value<'de>, A::Error> {
        while map.next_entry::<String, Value<'de>>()?.is_some() {}
        Ok(Value::Object)
    }
}

//! Tables that are no training data: queries, corpora and judgements with ids, and lists of texts.

use std::path::{Path, PathBuf};

use wording::counted;

use crate::{
    error::{BadRows, DataError, Defect, shortened},
    formats::{
        self,
        files::{self, Kind},
        rows::{Cell, Consumer, RawTable, Schema},
    },
    options::{Dialect, OnBadRow},
};

/// A column to load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// Its name, or several of which the first that is there is taken.
    pub names: &'a [&'a str],
    /// The kind that its cells have to be.
    pub holds: FieldKind,
    /// Whether the table may lack it.
    pub optional: bool,
}

/// The kind that the cells of a column have to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldKind {
    /// A text, which may be empty.
    Text,
    /// A text, or nothing, which is read as an empty one.
    TextOrNone,
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
    /// Cells of [`FieldKind::Text`], [`FieldKind::TextOrNone`] and [`FieldKind::Id`].
    Texts(Vec<String>),
    /// Cells of [`FieldKind::Texts`] and [`FieldKind::Ids`].
    Lists(Vec<Vec<String>>),
    /// Cells of [`FieldKind::Number`].
    Numbers(Vec<f64>),
}

/// Loads columns of a file, folder or pattern as [`crate::load()`] finds them: in the order of `wanted`, `None`
/// for an optional column that is not there. Nulls are bad rows, which `on_bad_row` refuses or drops.
///
/// # Errors
/// See [`DataError`]; a message names the file, and for a bad row its number and column.
pub fn load_fields(
    source: &str,
    wanted: &[Wanted<'_>],
    on_bad_row: OnBadRow,
) -> Result<Vec<Option<Field>>, DataError> {
    let (paths, kind) = files::find(source, None)?;
    load_all(source, &paths, kind, wanted, on_bad_row)
}

/// Loads columns of these files, one after the other, as [`load_fields`] does.
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
        let mut rows = TableRows::new(path, wanted);
        formats::read(path, kind, usize::MAX, Dialect::default(), &mut rows)?;
        n_rows += rows.n_rows;
        n_skipped += rows.bad_rows.n_bad;
        let is_first = n_rows == rows.n_rows;
        for (i, (all, field)) in all.iter_mut().zip(rows.finish(on_bad_row)?).enumerate() {
            match (all.as_mut(), field) {
                (None, field) if is_first => *all = field,
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
        tracing::warn!("skipped {} of {source}", counted(n_skipped, "rows"));
    }
    Ok(all)
}

impl Field {
    fn empty(holds: FieldKind) -> Self {
        match holds {
            FieldKind::Text | FieldKind::TextOrNone | FieldKind::Id => Self::Texts(Vec::new()),
            FieldKind::Texts | FieldKind::Ids => Self::Lists(Vec::new()),
            FieldKind::Number => Self::Numbers(Vec::new()),
        }
    }

    fn append(&mut self, more: Self) {
        match (self, more) {
            (Self::Texts(all), Self::Texts(more)) => all.extend(more),
            (Self::Lists(all), Self::Lists(more)) => all.extend(more),
            (Self::Numbers(all), Self::Numbers(more)) => all.extend(more),
            // One kind was wanted of all files.
            _ => {}
        }
    }

    fn push(&mut self, value: Value) {
        match (self, value) {
            (Self::Texts(column), Value::Text(text)) => column.push(text),
            (Self::Lists(column), Value::List(texts)) => column.push(texts),
            (Self::Numbers(column), Value::Number(number)) => column.push(number),
            // `value` gives what the kind of column takes.
            _ => {}
        }
    }
}

/// Takes the wanted columns of a file.
struct TableRows<'w> {
    path: &'w Path,
    wanted: &'w [Wanted<'w>],
    is_typed: bool,
    /// For each wanted column that is there its name, its place among the columns read, and its cells.
    columns: Vec<Option<(String, usize, Field)>>,
    /// Good rows.
    n_rows: usize,
    n_read: usize,
    bad_rows: BadRows,
}

impl<'w> TableRows<'w> {
    fn new(path: &'w Path, wanted: &'w [Wanted<'w>]) -> Self {
        Self {
            path,
            wanted,
            is_typed: true,
            columns: Vec::new(),
            n_rows: 0,
            n_read: 0,
            bad_rows: BadRows::default(),
        }
    }

    /// Appends row `i`, or says what is wrong with it and in which column.
    fn take_row(&mut self, rows: &RawTable<'_>, i: usize) -> Result<(), (Option<String>, Defect)> {
        if let Some((column, defect)) = rows.defects.get(&i) {
            return Err((column.clone(), defect.clone()));
        }
        let mut values = Vec::with_capacity(self.columns.len());
        for (column, wanted) in self.columns.iter().zip(self.wanted) {
            let Some((name, place, _)) = column else {
                values.push(None);
                continue;
            };
            let value = value(&rows.columns[*place][i], wanted.holds, self.is_typed);
            values.push(Some(value.map_err(|defect| (Some(name.clone()), defect))?));
        }
        for (column, value) in self.columns.iter_mut().zip(values) {
            if let (Some((.., field)), Some(value)) = (column, value) {
                field.push(value);
            }
        }
        self.n_rows += 1;
        Ok(())
    }

    fn finish(self, on_bad_row: OnBadRow) -> Result<Vec<Option<Field>>, DataError> {
        self.bad_rows.check(self.path, self.n_read, on_bad_row)?;
        let fields = self.columns.into_iter();
        Ok(fields.map(|column| Some(column?.2)).collect())
    }
}

impl Consumer for TableRows<'_> {
    fn choose(&mut self, schema: &Schema) -> Result<Vec<usize>, DataError> {
        self.is_typed = schema.is_typed;
        let names = schema.names();
        let mut places = Vec::new();
        for wanted in self.wanted {
            let is_there = |name: &&&str| names.iter().any(|column| column == **name);
            let Some(name) = wanted.names.iter().find(is_there) else {
                if wanted.optional {
                    self.columns.push(None);
                    continue;
                }
                return Err(DataError::MissingColumn {
                    path: self.path.to_path_buf(),
                    column: wanted.names.join("` or `"),
                    available: names,
                });
            };
            if !schema.is_typed && wanted.holds == FieldKind::Texts {
                return Err(DataError::Header {
                    path: self.path.to_path_buf(),
                    message: format!(
                        "column `{name}` has to hold lists of texts, which CSV and TSV have not: write JSON Lines or parquet"
                    ),
                });
            }
            let column = names.iter().position(|column| column == name);
            let column = column.unwrap_or_default();
            // Two wanted columns may be one column of the file.
            let place = places.iter().position(|&other| other == column);
            let place = place.unwrap_or_else(|| {
                places.push(column);
                places.len() - 1
            });
            let field = Field::empty(wanted.holds);
            self.columns.push(Some(((*name).to_owned(), place, field)));
        }
        Ok(places)
    }

    fn take(&mut self, rows: RawTable<'_>) -> Result<(), DataError> {
        self.n_read += rows.n_rows;
        for i in 0..rows.n_rows {
            if let Err((column, defect)) = self.take_row(&rows, i) {
                self.bad_rows.push(rows.bad_row(i, column, defect));
            }
        }
        Ok(())
    }
}

/// The value of a good cell.
enum Value {
    Text(String),
    List(Vec<String>),
    Number(f64),
}

/// The value of a cell in a column of this kind.
fn value(cell: &Cell<'_>, holds: FieldKind, is_typed: bool) -> Result<Value, Defect> {
    if let (FieldKind::TextOrNone, Cell::Null | Cell::Missing) = (holds, cell) {
        return Ok(Value::Text(String::new()));
    }
    if let Some(defect) = cell.defect() {
        return Err(defect);
    }
    Ok(match (holds, cell) {
        (FieldKind::Text | FieldKind::TextOrNone, Cell::Text(text)) => {
            Value::Text(text.clone().into_owned())
        }
        (FieldKind::Text | FieldKind::TextOrNone, other) => {
            return Err(Defect::NotText(other.name()));
        }
        (FieldKind::Id, cell) => Value::Text(id(cell)?),
        (FieldKind::Ids, Cell::Integers(ids)) => {
            Value::List(ids.iter().map(i64::to_string).collect())
        }
        (FieldKind::Ids, Cell::List(cells)) => {
            Value::List(cells.iter().map(id).collect::<Result<_, _>>()?)
        }
        (FieldKind::Ids, cell) => Value::List(vec![id(cell)?]),
        (FieldKind::Texts, Cell::List(cells)) => {
            let texts = cells.iter().map(|cell| match cell {
                Cell::Text(text) => Ok(text.clone().into_owned()),
                cell => Err(cell.defect().unwrap_or(Defect::NotTexts(NOT_ONLY_TEXTS))),
            });
            Value::List(texts.collect::<Result<_, _>>()?)
        }
        (FieldKind::Texts, Cell::Integers(_) | Cell::Floats(_)) => {
            return Err(Defect::NotTexts(NOT_ONLY_TEXTS));
        }
        (FieldKind::Texts, other) => return Err(Defect::NotTexts(other.name())),
        (FieldKind::Number, Cell::Integer(number)) => Value::Number(*number as f64),
        (FieldKind::Number, Cell::Large(number)) => Value::Number(*number as f64),
        (FieldKind::Number, Cell::Float(number)) => Value::Number(*number),
        (FieldKind::Number, Cell::Text(text)) if !is_typed => match text.trim().parse() {
            Ok(number) => Value::Number(number),
            Err(_) => return Err(Defect::NotNumber(format!("`{}`", shortened(text)))),
        },
        (FieldKind::Number, other) => return Err(Defect::NotNumber(other.name().to_owned())),
    })
}

const NOT_ONLY_TEXTS: &str = "a list with something else than texts in it";

fn id(cell: &Cell<'_>) -> Result<String, Defect> {
    match cell {
        Cell::Text(text) if text.is_empty() => Err(Defect::Empty),
        Cell::Text(text) => Ok(text.clone().into_owned()),
        Cell::Integer(number) => Ok(number.to_string()),
        Cell::Large(number) => Ok(number.to_string()),
        cell => Err(cell
            .defect()
            .unwrap_or_else(|| Defect::NotText(cell.name()))),
    }
}

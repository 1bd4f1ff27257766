//! The columns and rows that every reader gives, and the side that takes them.

use std::{borrow::Cow, collections::BTreeMap, fmt, path::Path};

use crate::error::{BadRow, DataError, Defect};

/// Rows that a reader hands over at once: enough that a thread's part is worth its start, few enough that cells as
/// they stand in the file don't add to the memory that the texts take.
pub(crate) const ROWS_PER_TABLE: usize = 1 << 13;

/// The columns of a file, before any row is looked at.
#[derive(Debug)]
pub(crate) struct Schema {
    /// In the file's order.
    pub(crate) columns: Vec<ColumnInfo>,
    /// Whether the format tells numbers from texts, and has lists.
    pub(crate) is_typed: bool,
}

impl Schema {
    /// The columns' names.
    pub(crate) fn names(&self) -> Vec<String> {
        self.columns
            .iter()
            .map(|column| column.name.clone())
            .collect()
    }
}

/// Name and content of a column.
#[derive(Debug)]
pub(crate) struct ColumnInfo {
    pub(crate) name: String,
    pub(crate) holds: Holds,
}

/// The content of a column, as far as the format tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Holds {
    Text,
    /// Numbers or truth values, of this type.
    Numbers(String),
    /// Lists of numbers.
    Lists(String),
    /// Lists of texts, or of passages: objects with a text and perhaps a title.
    Texts(String),
    /// Text, or numbers written as text.
    Either,
    /// Row numbers, or nothing, in a column without a name.
    Index,
    /// Neither; a column of this type may be in a file, as long as nobody chooses it.
    Other(String),
}

impl fmt::Display for Holds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text | Self::Either => f.write_str("text"),
            Self::Index => f.write_str("row numbers"),
            Self::Numbers(kind) => write!(f, "numbers ({kind})"),
            Self::Lists(kind) | Self::Texts(kind) | Self::Other(kind) => f.write_str(kind),
        }
    }
}

/// Some rows of a file that follow each other, the broken ones among them.
#[derive(Debug)]
pub(crate) struct RawTable<'a> {
    /// The chosen columns' cells, in the order of choice: as many as rows.
    pub(crate) columns: Vec<Vec<Cell<'a>>>,
    pub(crate) n_rows: usize,
    /// Rows of the file before the first of these.
    pub(crate) n_before: usize,
    /// The line on which each row starts, in formats that have lines.
    pub(crate) lines: Option<Vec<usize>>,
    /// Broken rows by their place among these, with the column where the defect is in one. Their cells are null.
    pub(crate) defects: BTreeMap<usize, (Option<String>, Defect)>,
}

impl RawTable<'_> {
    /// The number of row `i` in its file, from 1, and its line.
    pub(crate) fn place(&self, i: usize) -> (usize, Option<usize>) {
        let line = self.lines.as_ref().map(|lines| lines[i]);
        (self.n_before + i + 1, line)
    }

    /// Row `i` as a bad one.
    pub(crate) fn bad_row(&self, i: usize, column: Option<String>, defect: Defect) -> BadRow {
        let (row, line) = self.place(i);
        BadRow {
            row,
            line,
            column,
            defect,
        }
    }
}

/// A value as the file has it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Cell<'a> {
    Null,
    /// The row has no such key.
    Missing,
    /// Bytes in the place of a text.
    NotUtf8,
    Truth(bool),
    Integer(i64),
    /// A whole number past [`i64::MAX`].
    Large(u64),
    Float(f64),
    Text(Cow<'a, str>),
    Integers(Vec<i64>),
    /// A list of numbers with a fraction among them.
    Floats(Vec<f32>),
    /// A list of anything else, or of nothing.
    List(Vec<Cell<'a>>),
    Object(Vec<(Cow<'a, str>, Cell<'a>)>),
    /// A value that no reader keeps, by its name.
    Other(&'static str),
}

impl<'a> Cell<'a> {
    /// A list in its shortest form.
    pub(crate) fn list(cells: Vec<Cell<'a>>) -> Self {
        let is_integer = |cell: &Cell<'_>| matches!(cell, Cell::Integer(_));
        let is_number =
            |cell: &Cell<'_>| matches!(cell, Cell::Integer(_) | Cell::Large(_) | Cell::Float(_));
        if cells.is_empty() || !cells.iter().all(is_number) {
            return Self::List(cells);
        }
        if cells.iter().all(is_integer) {
            let integers = cells.iter().filter_map(|cell| match cell {
                Self::Integer(number) => Some(*number),
                _ => None,
            });
            return Self::Integers(integers.collect());
        }
        let floats = cells.iter().filter_map(|cell| match cell {
            Self::Integer(number) => Some(*number as f32),
            Self::Large(number) => Some(*number as f32),
            Self::Float(number) => Some(*number as f32),
            _ => None,
        });
        Self::Floats(floats.collect())
    }

    /// The kind of value, for messages.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Null | Self::Missing => "null",
            Self::NotUtf8 => "bytes that are not UTF-8",
            Self::Truth(_) => "true or false",
            Self::Integer(_) | Self::Large(_) | Self::Float(_) => "a number",
            Self::Text(_) => "a text",
            Self::Integers(_) | Self::Floats(_) | Self::List(_) => "a list",
            Self::Object(_) => "an object",
            Self::Other(name) => name,
        }
    }

    /// The defect of a cell without a value, whatever the column is to hold.
    pub(crate) fn defect(&self) -> Option<Defect> {
        match self {
            Self::Null => Some(Defect::Null),
            Self::Missing => Some(Defect::MissingKey),
            Self::NotUtf8 => Some(Defect::NotUtf8),
            _ => None,
        }
    }
}

/// The key of a passage's text.
pub(crate) const PASSAGE_TEXT: &str = "text";

/// The key of a passage's title.
const PASSAGE_TITLE: &str = "title";

impl Cell<'_> {
    /// The text of a text or passage: a title, where there is one, goes before it.
    pub(crate) fn passage(&self) -> Option<Cow<'_, str>> {
        let entries = match self {
            Self::Text(text) => return Some(Cow::Borrowed(text)),
            Self::Object(entries) => entries,
            _ => return None,
        };
        let text_of = |key: &str| match entries.iter().find(|(name, _)| name == key) {
            Some((_, Self::Text(text))) => Some(text.as_ref()),
            _ => None,
        };
        let text = text_of(PASSAGE_TEXT)?;
        Some(match text_of(PASSAGE_TITLE) {
            Some(title) if !title.trim().is_empty() => Cow::Owned(format!("{title} {text}")),
            _ => Cow::Borrowed(text),
        })
    }
}

/// A file as a reader takes it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct File<'a> {
    pub(crate) path: &'a Path,
    pub(crate) bytes: &'a [u8],
    /// Rows after these are not looked at.
    pub(crate) max_rows: usize,
}

/// The taker of a file's rows.
pub(crate) trait Consumer {
    /// Chooses among the columns: the places of those to read, in the order in which [`Consumer::take`] is to get them.
    fn choose(&mut self, schema: &Schema) -> Result<Vec<usize>, DataError>;

    /// Takes the next rows.
    fn take(&mut self, rows: RawTable<'_>) -> Result<(), DataError>;
}

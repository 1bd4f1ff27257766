//! CSV and TSV with a header line.
//!
//! Accepted as in RFC 4180 and Python's csv: LF and CRLF, quoted fields with separators, line ends and doubled quotes
//! in them, quotes inside an unquoted field, a byte order mark, blank lines.
//!
//! Read here since common readers split lines at a guess where quotes don't match, fill up short rows with nulls, drop
//! a byte order mark or a carriage return that is part of a text, and say neither row nor line when they give up.

use std::{borrow::Cow, collections::BTreeMap, ops::Range, path::Path};

use rayon::prelude::*;
use wording::counted;

use crate::{
    error::{DataError, Defect, FROM_WINDOWS},
    formats::{
        blocks::Blocks,
        rows::{Cell, ColumnInfo, Consumer, Holds, ROWS_PER_TABLE, RawTable, Schema},
    },
    options::Dialect,
};

/// Separators that a header may show, where it has none of those that the file's name promises.
const SEPARATORS: [u8; 4] = [b',', b';', b'\t', b'|'];

/// The bytes between fields and around them.
#[derive(Debug, Clone, Copy)]
struct Marks {
    separator: u8,
    /// None where quotation marks are part of the text.
    quote: Option<u8>,
}

/// Reads the columns that the consumer chooses, of at most `max_rows` rows.
pub(super) fn read(
    mut blocks: Blocks<'_>,
    separator: u8,
    max_rows: usize,
    dialect: Dialect,
    consumer: &mut dyn Consumer,
) -> Result<(), DataError> {
    let (path, bytes) = (blocks.path, blocks.bytes());
    let mut marks = Marks {
        separator: dialect.separator.unwrap_or(separator),
        quote: (!dialect.no_quotes).then_some(b'"'),
    };
    if dialect.separator.is_none() {
        marks.separator = shown_separator(path, bytes, marks);
    }
    let mut scanner = Scanner::new(bytes, marks);
    let Some(header) = scanner.next() else {
        return Err(DataError::EmptyFile {
            path: path.to_path_buf(),
        });
    };
    let names = header_names(path, bytes, &header, marks)?;
    if names.iter().any(|name| name.split_whitespace().count() > 3) {
        tracing::warn!(
            "{}: the first line was taken for the columns' names (`{}`), but it looks like data: write a line of names \
             such as anchor,positive before it",
            path.display(),
            names.join("`, `")
        );
    }
    let n_fields = names.len();
    let unnamed: Vec<usize> = (0..n_fields).filter(|&i| names[i].is_empty()).collect();
    let is_index = are_numbers(bytes, scanner.clone(), marks, &unnamed);
    let columns = names.into_iter().map(|name| ColumnInfo {
        holds: match name.as_str() {
            "" if is_index => Holds::Index,
            _ => Holds::Either,
        },
        name,
    });
    let schema = Schema {
        columns: columns.collect(),
        is_typed: false,
    };
    let chosen = consumer.choose(&schema)?;
    // For each field of a row its place among the chosen columns.
    let mut places = vec![None; n_fields];
    for (place, &column) in chosen.iter().enumerate() {
        places[column] = Some(place);
    }
    let (mut at, mut line) = (scanner.at, scanner.line);
    let (mut n_before, mut n_spanning) = (0, 0);
    loop {
        let bytes = blocks.bytes();
        let decoder = Decoder {
            bytes,
            marks,
            is_utf8: std::str::from_utf8(bytes).is_ok(),
            n_chosen: chosen.len(),
            places: &places,
        };
        let mut records = Scanner {
            bytes,
            marks,
            at,
            line,
        };
        loop {
            let n_rows = ROWS_PER_TABLE * rayon::current_num_threads();
            let n_rows = n_rows.min(max_rows - n_before);
            let whole = || records.next_whole(blocks.is_last());
            let batch: Vec<Record> = std::iter::from_fn(whole).take(n_rows).collect();
            if batch.is_empty() {
                break;
            }
            let is_spanning = |record: &&Record| record.n_lines > 1 && record.defect.is_none();
            n_spanning += batch.iter().filter(is_spanning).count();
            let tables: Vec<RawTable<'_>> = batch
                .par_chunks(ROWS_PER_TABLE)
                .enumerate()
                .map(|(i, records)| decoder.table(n_before + i * ROWS_PER_TABLE, records))
                .collect();
            n_before += batch.len();
            for table in tables {
                consumer.take(table)?;
            }
        }
        if blocks.is_last() || n_before == max_rows {
            break;
        }
        (at, line) = (0, records.line);
        let n_used = records.at;
        blocks.advance(n_used)?;
    }
    // A text of a CSV may well have several lines; one of a TSV that comes from a database has none.
    if n_spanning > 0 && marks.separator == b'\t' {
        tracing::warn!(
            "{}: quoted texts of several lines in {}: if the quotation marks are part of the texts, say so with --no-quotes",
            path.display(),
            counted(n_spanning, "rows")
        );
    }
    Ok(())
}

/// The separator of the file: the expected one, unless the header has but one field by it and more by another, as
/// spreadsheets write where the comma is the decimal sign.
fn shown_separator(path: &Path, bytes: &[u8], expected: Marks) -> u8 {
    let n_fields = |separator: u8| {
        let marks = Marks {
            separator,
            ..expected
        };
        let header = Scanner::new(bytes, marks).next();
        header.map_or(0, |header| header.n_fields)
    };
    if n_fields(expected.separator) > 1 {
        return expected.separator;
    }
    let shown = SEPARATORS
        .into_iter()
        .map(|separator| (n_fields(separator), separator))
        .rev()
        .max_by_key(|(n_fields, _)| *n_fields);
    match shown {
        Some((2.., separator)) => {
            tracing::info!(
                "{}: the fields are separated by {}, by the header",
                path.display(),
                match separator {
                    b'\t' => "tabs".to_owned(),
                    byte => format!("`{}`", char::from(byte)),
                }
            );
            separator
        }
        _ => expected.separator,
    }
}

/// Whether columns hold nothing but whole numbers, or nothing, as far as the first rows show.
fn are_numbers(bytes: &[u8], records: Scanner<'_>, marks: Marks, columns: &[usize]) -> bool {
    if columns.is_empty() {
        return false;
    }
    records.take(ROWS_PER_TABLE).all(|record| {
        let fields: Vec<&[u8]> = fields(&bytes[record.bytes], marks).collect();
        columns.iter().all(|&column| {
            let field = fields.get(column).map(|field| unquoted(field, marks));
            let is_digit = |byte: &u8| byte.is_ascii_digit();
            field.is_none_or(|field| field.trim_ascii().iter().all(is_digit))
        })
    })
}

fn header_names(
    path: &Path,
    bytes: &[u8],
    header: &Record,
    marks: Marks,
) -> Result<Vec<String>, DataError> {
    let refuse = |message: String| DataError::Header {
        path: path.to_path_buf(),
        message,
    };
    if let Some(defect) = &header.defect {
        return Err(refuse(format!(
            "the header (line {}): {defect}",
            header.line
        )));
    }
    let line = std::str::from_utf8(&bytes[header.bytes.clone()]).map_err(|_| {
        refuse(format!(
            "the header is not UTF-8 text: save the file as UTF-8; {FROM_WINDOWS}"
        ))
    })?;
    if line.contains('\r') {
        return Err(refuse(
            "the lines end in CR alone: save the file with LF or CRLF line ends".to_owned(),
        ));
    }
    Ok(fields(line.as_bytes(), marks)
        .map(|field| text(field, marks).trim().to_owned())
        .collect())
}

/// Makes cells of records.
struct Decoder<'a> {
    bytes: &'a [u8],
    marks: Marks,
    /// Whether the whole file is UTF-8, so that no record has to be looked at.
    is_utf8: bool,
    n_chosen: usize,
    /// For each field of a row its place among the chosen columns.
    places: &'a [Option<usize>],
}

impl<'a> Decoder<'a> {
    fn table(&self, n_before: usize, records: &[Record]) -> RawTable<'a> {
        let mut columns: Vec<Vec<Cell<'_>>> = vec![Vec::new(); self.n_chosen];
        let mut defects = BTreeMap::new();
        for (i, record) in records.iter().enumerate() {
            let row = &self.bytes[record.bytes.clone()];
            match self.defect(record, row) {
                Some(defect) => {
                    defects.insert(i, (None, defect));
                    columns.iter_mut().for_each(|cells| cells.push(Cell::Null));
                }
                None => {
                    for (field, place) in fields(row, self.marks).zip(self.places) {
                        if let Some(place) = place {
                            columns[*place].push(Cell::Text(text(field, self.marks)));
                        }
                    }
                }
            }
        }
        RawTable {
            columns,
            n_rows: records.len(),
            n_before,
            lines: Some(records.iter().map(|record| record.line).collect()),
            defects,
        }
    }

    fn defect(&self, record: &Record, row: &[u8]) -> Option<Defect> {
        if record.defect.is_some() {
            return record.defect.clone();
        }
        if record.n_fields != self.places.len() {
            return Some(Defect::Ragged {
                found: record.n_fields,
                expected: self.places.len(),
            });
        }
        (!self.is_utf8 && std::str::from_utf8(row).is_err()).then_some(Defect::NotUtf8)
    }
}

/// The value of a field that is UTF-8.
fn text(field: &[u8], marks: Marks) -> Cow<'_, str> {
    match unquoted(field, marks) {
        Cow::Borrowed(bytes) => String::from_utf8_lossy(bytes),
        Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
    }
}

/// A row as it stands in the file, without its line end.
struct Record {
    bytes: Range<usize>,
    /// The line it starts on, from 1.
    line: usize,
    n_lines: usize,
    n_fields: usize,
    defect: Option<Defect>,
}

/// Finds the rows of a file.
#[derive(Clone)]
struct Scanner<'a> {
    bytes: &'a [u8],
    marks: Marks,
    at: usize,
    line: usize,
}

impl<'a> Scanner<'a> {
    fn new(bytes: &'a [u8], marks: Marks) -> Self {
        const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();
        Self {
            bytes,
            marks,
            at: if bytes.starts_with(BYTE_ORDER_MARK) {
                BYTE_ORDER_MARK.len()
            } else {
                0
            },
            line: 1,
        }
    }

    /// Length of the line end at `at`: 0 where there is none.
    fn line_end(&self, at: usize) -> usize {
        match self.bytes.get(at..) {
            Some([b'\n', ..]) => 1,
            Some([b'\r', b'\n', ..]) => 2,
            _ => 0,
        }
    }

    /// The next record, unless it may go on after these bytes, which are not the file's last.
    fn next_whole(&mut self, is_last: bool) -> Option<Record> {
        let (at, line) = (self.at, self.line);
        let record = self.next();
        let is_cut = |record: &Record| !is_last && record.bytes.end == self.bytes.len();
        if record.as_ref().is_some_and(is_cut) {
            (self.at, self.line) = (at, line);
            return None;
        }
        record
    }

    fn skip_blank_lines(&mut self) {
        loop {
            match self.line_end(self.at) {
                0 => return,
                n => {
                    self.at += n;
                    self.line += 1;
                }
            }
        }
    }

    /// Passes over one field that starts with a quote, up to the end of the field.
    fn quoted_field(&mut self, record: &mut Record) {
        self.at += 1;
        loop {
            match self.bytes.get(self.at) {
                None => {
                    record.defect.get_or_insert(Defect::OpenQuote);
                    return;
                }
                Some(b'"') if self.bytes.get(self.at + 1) == Some(&b'"') => self.at += 2,
                Some(b'"') => break,
                Some(b'\n') => {
                    self.line += 1;
                    self.at += 1;
                }
                Some(_) => self.at += 1,
            }
        }
        self.at += 1;
        let is_end = match self.bytes.get(self.at) {
            None => true,
            Some(&byte) => byte == self.marks.separator || self.line_end(self.at) > 0,
        };
        if !is_end {
            record.defect.get_or_insert(Defect::TextAfterQuote);
            self.unquoted_field();
        }
    }

    fn unquoted_field(&mut self) {
        while let Some(&byte) = self.bytes.get(self.at) {
            if byte == self.marks.separator || byte == b'\n' {
                break;
            }
            if byte == b'\r' && self.line_end(self.at) > 0 {
                break;
            }
            self.at += 1;
        }
    }
}

impl Iterator for Scanner<'_> {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        self.skip_blank_lines();
        if self.at >= self.bytes.len() {
            return None;
        }
        let mut record = Record {
            bytes: self.at..self.at,
            line: self.line,
            n_lines: 1,
            n_fields: 0,
            defect: None,
        };
        loop {
            record.n_fields += 1;
            if self.marks.quote.is_some() && self.bytes.get(self.at) == self.marks.quote.as_ref() {
                self.quoted_field(&mut record);
            } else {
                self.unquoted_field();
            }
            if self.bytes.get(self.at) != Some(&self.marks.separator) {
                break;
            }
            self.at += 1;
        }
        record.bytes.end = self.at;
        record.n_lines += self.line - record.line;
        self.at += self.line_end(self.at);
        self.line += 1;
        Some(record)
    }
}

/// The fields of a row of the right shape, with their quotes.
fn fields(row: &[u8], marks: Marks) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(row);
    std::iter::from_fn(move || {
        let row = rest?;
        let mut is_quoted = false;
        let starts_quoted = marks.quote.is_some() && row.first() == marks.quote.as_ref();
        let end = row.iter().position(|&byte| {
            is_quoted ^= starts_quoted && byte == b'"';
            byte == marks.separator && !is_quoted
        });
        rest = end.map(|end| &row[end + 1..]);
        Some(&row[..end.unwrap_or(row.len())])
    })
}

/// A field's value.
fn unquoted(field: &[u8], marks: Marks) -> Cow<'_, [u8]> {
    match field {
        field if marks.quote.is_none() => Cow::Borrowed(field),
        [b'"', inner @ .., b'"'] if inner.contains(&b'"') => {
            let mut value = Vec::with_capacity(inner.len());
            let mut bytes = inner.iter().copied();
            while let Some(byte) = bytes.next() {
                value.push(byte);
                if byte == b'"' {
                    bytes.next();
                }
            }
            Cow::Owned(value)
        }
        [b'"', inner @ .., b'"'] => Cow::Borrowed(inner),
        field => Cow::Borrowed(field),
    }
}

//! CSV and TSV with a header line.
//!
//! Accepted as in RFC 4180 and Python's csv: LF and CRLF, quoted fields with separators, line ends and doubled quotes
//! in them, quotes inside an unquoted field, a byte order mark, blank lines.
//!
//! Read here since common readers split lines at a guess where quotes don't match, fill up short rows with nulls, drop
//! a byte order mark or a carriage return that is part of a text, and say neither row nor line when they give up.

use std::{borrow::Cow, collections::BTreeMap, ops::Range, path::Path};

use rayon::prelude::*;

use crate::{
    error::{DataError, Defect},
    formats::{Cell, ColumnInfo, Consumer, File, Holds, ROWS_PER_TABLE, RawTable, Schema},
};

/// Reads the columns that the consumer chooses.
pub(crate) fn read(
    file: File<'_>,
    separator: u8,
    consumer: &mut dyn Consumer,
) -> Result<(), DataError> {
    let File { path, bytes, .. } = file;
    let mut scanner = Scanner::new(bytes, separator);
    let Some(header) = scanner.next() else {
        return Err(DataError::EmptyFile {
            path: path.to_path_buf(),
        });
    };
    let names = header_names(path, bytes, &header, separator)?;
    let n_fields = names.len();
    let columns = names.into_iter().map(|name| ColumnInfo {
        name,
        holds: Holds::Either,
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
    let decoder = Decoder {
        bytes,
        separator,
        is_utf8: std::str::from_utf8(bytes).is_ok(),
        n_chosen: chosen.len(),
        places,
    };
    let mut records = scanner.take(file.max_rows);
    let mut n_before = 0;
    loop {
        let n_rows = ROWS_PER_TABLE * rayon::current_num_threads();
        let batch: Vec<Record> = records.by_ref().take(n_rows).collect();
        if batch.is_empty() {
            return Ok(());
        }
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
}

fn header_names(
    path: &Path,
    bytes: &[u8],
    header: &Record,
    separator: u8,
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
    let line = std::str::from_utf8(&bytes[header.bytes.clone()])
        .map_err(|_| refuse("the header is not UTF-8 text: save the file as UTF-8".to_owned()))?;
    if line.contains('\r') {
        return Err(refuse(
            "the lines end in CR alone: save the file with LF or CRLF line ends".to_owned(),
        ));
    }
    let names: Vec<String> = fields(line.as_bytes(), separator)
        .map(|field| text(field).trim().to_owned())
        .collect();
    if let Some(i) = names.iter().position(String::is_empty) {
        return Err(refuse(format!(
            "column {} of {} has no name: the first line must name every column",
            i + 1,
            names.len()
        )));
    }
    Ok(names)
}

/// Makes cells of records.
struct Decoder<'a> {
    bytes: &'a [u8],
    separator: u8,
    /// Whether the whole file is UTF-8, so that no record has to be looked at.
    is_utf8: bool,
    n_chosen: usize,
    /// For each field of a row its place among the chosen columns.
    places: Vec<Option<usize>>,
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
                    for (field, place) in fields(row, self.separator).zip(&self.places) {
                        if let Some(place) = place {
                            columns[*place].push(Cell::Text(text(field)));
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
fn text(field: &[u8]) -> Cow<'_, str> {
    match unquoted(field) {
        Cow::Borrowed(bytes) => String::from_utf8_lossy(bytes),
        Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
    }
}

/// A row as it stands in the file, without its line end.
struct Record {
    bytes: Range<usize>,
    /// The line it starts on, from 1.
    line: usize,
    n_fields: usize,
    defect: Option<Defect>,
}

/// Finds the rows of a file.
struct Scanner<'a> {
    bytes: &'a [u8],
    separator: u8,
    at: usize,
    line: usize,
}

impl<'a> Scanner<'a> {
    fn new(bytes: &'a [u8], separator: u8) -> Self {
        const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();
        Self {
            bytes,
            separator,
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
            Some(&byte) => byte == self.separator || self.line_end(self.at) > 0,
        };
        if !is_end {
            record.defect.get_or_insert(Defect::TextAfterQuote);
            self.unquoted_field();
        }
    }

    fn unquoted_field(&mut self) {
        while let Some(&byte) = self.bytes.get(self.at) {
            if byte == self.separator || byte == b'\n' {
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
            n_fields: 0,
            defect: None,
        };
        loop {
            record.n_fields += 1;
            if self.bytes.get(self.at) == Some(&b'"') {
                self.quoted_field(&mut record);
            } else {
                self.unquoted_field();
            }
            if self.bytes.get(self.at) != Some(&self.separator) {
                break;
            }
            self.at += 1;
        }
        record.bytes.end = self.at;
        self.at += self.line_end(self.at);
        self.line += 1;
        Some(record)
    }
}

/// The fields of a row of the right shape, with their quotes.
fn fields(row: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(row);
    std::iter::from_fn(move || {
        let row = rest?;
        let mut is_quoted = false;
        let starts_quoted = row.first() == Some(&b'"');
        let end = row.iter().position(|&byte| {
            is_quoted ^= starts_quoted && byte == b'"';
            byte == separator && !is_quoted
        });
        rest = end.map(|end| &row[end + 1..]);
        Some(&row[..end.unwrap_or(row.len())])
    })
}

/// A field's value.
fn unquoted(field: &[u8]) -> Cow<'_, [u8]> {
    match field {
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

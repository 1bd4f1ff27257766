//! CSV and TSV with a header line.
//!
//! Read here and not by polars, whose reader splits lines at a guess where quotes don't match, fills
//! up short rows with nulls, drops a byte order mark or a carriage return that is part of a text, and
//! says neither row nor line when it gives up.

use std::{borrow::Cow, ops::Range, path::Path};

use polars::prelude::{Column, PolarsResult, StringChunkedBuilder};
use rayon::prelude::*;

use crate::{
    check::{RowNumbers, Table, check_height, guarded, text_columns},
    choose::{Chosen, Holds, choose},
    error::{BadRow, BadRows, DataError, Defect},
    options::LoadOptions,
};

/// Reads the chosen columns.
///
/// Accepted as in RFC 4180 and Python's csv: LF and CRLF, quoted fields with separators, line ends
/// and doubled quotes in them, quotes inside an unquoted field, a byte order mark, blank lines.
pub(crate) fn read(
    path: &Path,
    bytes: Vec<u8>,
    separator: u8,
    max_rows: usize,
    options: &LoadOptions,
) -> Result<Table, DataError> {
    let format = if separator == b'\t' { "TSV" } else { "CSV" };
    let mut scanner = Scanner::new(&bytes, separator);
    let Some(header) = scanner.next() else {
        return Err(DataError::EmptyFile {
            path: path.to_path_buf(),
        });
    };
    let names = header_names(path, &bytes, &header, separator)?;
    let columns: Vec<(String, Holds)> = names
        .iter()
        .map(|name| (name.clone(), Holds::Either))
        .collect();
    let chosen = choose(path, &columns, options)?;

    let is_utf8 = std::str::from_utf8(&bytes).is_ok();
    let mut bad_rows = BadRows::default();
    let mut lines = Vec::new();
    let mut rows: Vec<Range<usize>> = Vec::new();
    let mut n_read = 0;
    for record in scanner.by_ref().take(max_rows) {
        n_read += 1;
        let defect = record.defect.or_else(|| {
            if record.n_fields != names.len() {
                return Some(Defect::Ragged {
                    found: record.n_fields,
                    expected: names.len(),
                });
            }
            let text = &bytes[record.bytes.clone()];
            (!is_utf8 && std::str::from_utf8(text).is_err()).then_some(Defect::NotUtf8)
        });
        if let Some(defect) = defect {
            bad_rows.push(BadRow {
                row: n_read,
                line: Some(record.line),
                column: None,
                defect,
            });
            continue;
        }
        lines.push((n_read as u32, record.line as u32));
        rows.push(record.bytes);
    }
    let skipped = bad_rows.check(path, n_read, options)?;
    let (texts, label) = guarded(path, format, || {
        decode(&bytes, &rows, &names, &chosen, separator)
    })?;
    for column in texts.iter().chain(&label) {
        check_height(path, format, column.len(), rows.len())?;
    }
    Ok(Table {
        texts,
        label,
        rows: RowNumbers::Lines(lines),
        defects: Vec::new(),
        is_typed: false,
        n_read,
        skipped,
    })
}

/// A whole table as texts.
pub(crate) struct Records {
    pub(crate) names: Vec<String>,
    /// Each row's line, and its fields or what is wrong with it.
    pub(crate) rows: Vec<(usize, Result<Vec<String>, Defect>)>,
}

/// Reads all columns as they stand.
pub(crate) fn records(path: &Path, bytes: &[u8], separator: u8) -> Result<Records, DataError> {
    let mut scanner = Scanner::new(bytes, separator);
    let Some(header) = scanner.next() else {
        return Err(DataError::EmptyFile {
            path: path.to_path_buf(),
        });
    };
    let names = header_names(path, bytes, &header, separator)?;
    let rows = scanner.map(|record| {
        let row = match (
            record.defect,
            std::str::from_utf8(&bytes[record.bytes.clone()]),
        ) {
            (Some(defect), _) => Err(defect),
            (None, _) if record.n_fields != names.len() => Err(Defect::Ragged {
                found: record.n_fields,
                expected: names.len(),
            }),
            (None, Err(_)) => Err(Defect::NotUtf8),
            (None, Ok(text)) => Ok(fields(text.as_bytes(), separator)
                .map(|field| String::from_utf8_lossy(&unquoted(field)).into_owned())
                .collect()),
        };
        (record.line, row)
    });
    let rows = rows.collect();
    Ok(Records { names, rows })
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
    let text = std::str::from_utf8(&bytes[header.bytes.clone()])
        .map_err(|_| refuse("the header is not UTF-8 text: save the file as UTF-8".to_owned()))?;
    if text.contains('\r') {
        return Err(refuse(
            "the lines end in CR alone: save the file with LF or CRLF line ends".to_owned(),
        ));
    }
    let names: Vec<String> = fields(text.as_bytes(), separator)
        .map(|field| String::from_utf8_lossy(&unquoted(field)).trim().to_owned())
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

/// The chosen columns of rows that all have the header's number of fields.
fn decode(
    bytes: &[u8],
    rows: &[Range<usize>],
    names: &[String],
    chosen: &Chosen,
    separator: u8,
) -> PolarsResult<(Vec<Column>, Option<Column>)> {
    // Enough rows that a thread's part is worth its start.
    const PART: usize = 1 << 13;
    let chosen_names: Vec<String> = chosen.names().cloned().collect();
    let places: Vec<Option<usize>> = names
        .iter()
        .map(|name| chosen_names.iter().position(|chosen| chosen == name))
        .collect();
    let parts = rows.par_chunks(PART).map(|rows| {
        let mut builders: Vec<StringChunkedBuilder> = chosen_names
            .iter()
            .map(|name| StringChunkedBuilder::new(name.as_str().into(), rows.len()))
            .collect();
        for row in rows {
            for (field, place) in fields(&bytes[row.clone()], separator).zip(&places) {
                if let Some(place) = place {
                    builders[*place].append_value(String::from_utf8_lossy(&unquoted(field)));
                }
            }
        }
        builders
            .into_iter()
            .map(StringChunkedBuilder::finish)
            .collect()
    });
    let mut texts = text_columns(&chosen_names, parts.collect())?;
    let label = match chosen.label {
        Some(_) => texts.pop(),
        None => None,
    };
    Ok((texts, label))
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

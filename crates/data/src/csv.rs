//! CSV and TSV with a header line.
//!
//! polars decodes the fields; the rows are found and checked here first. polars' own reader splits
//! lines at a guess where quotes don't match, fills up short rows with nulls, and says neither row
//! nor line when it gives up, so what it gets to see is only rows of the right shape.

use std::{io::Cursor, ops::Range, path::Path, sync::Arc};

use polars::prelude::{
    Column, CsvParseOptions, CsvReadOptions, DataType, Field, PolarsResult, Schema, SerReader,
};

use crate::{
    error::{BadRow, DataError, Defect},
    load::LoadOptions,
    table::{BadRows, Chosen, Holds, RowNumbers, Table, check_height, choose, guarded},
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
    // polars may take the file as it is only if it would see the same rows in it.
    let mut is_plain = true;
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
            is_plain = false;
            continue;
        }
        is_plain &= !record.has_stray_quote;
        lines.push((n_read as u32, record.line as u32));
        rows.push(record.bytes);
    }
    let skipped = bad_rows.check(path, n_read, options)?;
    is_plain &= !scanner.saw_blank_line;

    let end = rows.last().map_or(0, |row| row.end);
    let start = rows.first().map_or(0, |row| row.start);
    let rewritten;
    let text = if is_plain {
        &bytes[start..end]
    } else {
        rewritten = rewrite(&bytes, &rows, separator);
        &rewritten
    };
    let (texts, label) = guarded(path, format, || {
        decode(text, &names, &chosen, separator, rows.is_empty())
    })?;
    for column in texts.iter().chain(&label) {
        check_height(path, format, column.len(), rows.len())?;
    }
    Ok(Table {
        texts,
        label,
        rows: RowNumbers::Lines(lines),
        is_typed: false,
        n_read,
        skipped,
    })
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

fn decode(
    text: &[u8],
    names: &[String],
    chosen: &Chosen,
    separator: u8,
    is_empty: bool,
) -> PolarsResult<(Vec<Column>, Option<Column>)> {
    let field = |name: &String| Field::new(name.as_str().into(), DataType::String);
    let schema = Arc::new(Schema::from_iter(names.iter().map(field)));
    let frame = if is_empty {
        polars::prelude::DataFrame::empty_with_schema(&schema)
    } else {
        let projection = names
            .iter()
            .enumerate()
            .filter(|(_, name)| chosen.names().any(|chosen| chosen == *name))
            .map(|(i, _)| i)
            .collect();
        CsvReadOptions::default()
            .with_has_header(false)
            .with_schema(Some(schema))
            .with_projection(Some(Arc::new(projection)))
            .with_parse_options(
                CsvParseOptions::default()
                    .with_separator(separator)
                    .with_missing_is_null(false),
            )
            .into_reader_with_file_handle(Cursor::new(text))
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

/// The rows again, without blank lines and with every field in quotes where a quote is in it.
fn rewrite(bytes: &[u8], rows: &[Range<usize>], separator: u8) -> Vec<u8> {
    let mut rewritten = Vec::with_capacity(rows.iter().map(|row| row.len() + 1).sum());
    for row in rows {
        for (i, field) in fields(&bytes[row.clone()], separator).enumerate() {
            if i > 0 {
                rewritten.push(separator);
            }
            if field.first() == Some(&b'"') || !field.contains(&b'"') {
                rewritten.extend_from_slice(field);
            } else {
                rewritten.push(b'"');
                for &byte in field {
                    rewritten.push(byte);
                    if byte == b'"' {
                        rewritten.push(b'"');
                    }
                }
                rewritten.push(b'"');
            }
        }
        rewritten.push(b'\n');
    }
    rewritten
}

/// A row as it stands in the file, without its line end.
struct Record {
    bytes: Range<usize>,
    /// The line it starts on, from 1.
    line: usize,
    n_fields: usize,
    /// Whether an unquoted field has a quote in it.
    has_stray_quote: bool,
    defect: Option<Defect>,
}

/// Finds the rows of a file.
struct Scanner<'a> {
    bytes: &'a [u8],
    separator: u8,
    at: usize,
    line: usize,
    saw_blank_line: bool,
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
            saw_blank_line: false,
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
                    self.saw_blank_line = true;
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
            self.unquoted_field(record);
        }
    }

    fn unquoted_field(&mut self, record: &mut Record) {
        while let Some(&byte) = self.bytes.get(self.at) {
            if byte == self.separator || byte == b'\n' {
                break;
            }
            if byte == b'\r' && self.line_end(self.at) > 0 {
                break;
            }
            record.has_stray_quote |= byte == b'"';
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
            has_stray_quote: false,
            defect: None,
        };
        loop {
            record.n_fields += 1;
            if self.bytes.get(self.at) == Some(&b'"') {
                self.quoted_field(&mut record);
            } else {
                self.unquoted_field(&mut record);
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
fn unquoted(field: &[u8]) -> Vec<u8> {
    match field {
        [b'"', inner @ .., b'"'] => {
            let mut value = Vec::with_capacity(inner.len());
            let mut bytes = inner.iter().copied();
            while let Some(byte) = bytes.next() {
                value.push(byte);
                if byte == b'"' {
                    bytes.next();
                }
            }
            value
        }
        field => field.to_vec(),
    }
}

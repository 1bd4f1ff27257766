//! Parquet: the schema and all page headers are checked first, then only the chosen columns and rows
//! are decoded.

use std::{io::Cursor, path::Path, sync::Arc};

use polars::prelude::{
    Column, DataType, ParquetReader, PolarsError, PolarsResult, SerReader, StringChunkedBuilder,
};
use polars_parquet::parquet::schema::types::{
    IntegerType, PrimitiveConvertedType, PrimitiveLogicalType,
};
use polars_parquet::read::{
    _read_metadata, FileMetadata, ParquetType, PhysicalType, infer_schema, schema::SchemaDescriptor,
};
use polars_parquet_format::{PageHeader, thrift::protocol::TCompactInputProtocol};

use crate::{
    check::{RowNumbers, Table, check_height, guarded},
    choose::{Chosen, Holds, choose},
    error::{BadRow, BadRows, DataError, Defect},
    options::LoadOptions,
    sampler::MAX_ROWS,
    tables::{Cell, Cells},
};

const FORMAT: &str = "parquet";

/// Reads the chosen columns. The file has been read into memory and is not mapped: a mapped file
/// that another program cuts short kills the process.
pub(crate) fn read(
    path: &Path,
    bytes: Vec<u8>,
    max_rows: usize,
    options: &LoadOptions,
) -> Result<Table, DataError> {
    let (metadata, columns) = guarded(path, FORMAT, || schema(&bytes))?;
    let n_rows = metadata.num_rows.min(max_rows);
    if n_rows > MAX_ROWS {
        return Err(DataError::TooManyRows {
            path: path.to_path_buf(),
            max: MAX_ROWS,
        });
    }
    let chosen = choose(path, &columns, options)?;
    guarded(path, FORMAT, || check_pages(&bytes, &metadata, &chosen))?;
    let decoded = guarded(path, FORMAT, || {
        decode(&bytes, Arc::clone(&metadata), &chosen, n_rows)
    });
    let (texts, label, defects) = match decoded {
        Ok((texts, label)) => (texts, label, Vec::new()),
        // Polars says that something is no UTF-8, but not where.
        Err(error) => match guarded(path, FORMAT, || {
            decode_bytes(&bytes, &metadata, &chosen, n_rows)
        }) {
            Ok((texts, label, defects)) if !defects.is_empty() => (texts, label, defects),
            _ => return Err(error),
        },
    };
    for column in texts.iter().chain(&label) {
        check_height(path, FORMAT, column.len(), n_rows)?;
    }
    guarded(path, FORMAT, || check_size(&texts, bytes.len()))?;
    Ok(Table {
        texts,
        label,
        rows: RowNumbers::Sequential,
        defects,
        is_typed: true,
        n_read: n_rows,
        skipped: BadRows::default(),
    })
}

/// A file's footer, and its columns.
type Footer = (Arc<FileMetadata>, Vec<(String, Holds)>);

fn schema(bytes: &[u8]) -> PolarsResult<Footer> {
    let metadata = widened(_read_metadata(&mut Cursor::new(bytes))?);
    let columns = infer_schema(&metadata)?
        .iter_values()
        .map(|field| {
            let holds = holds(&DataType::from_arrow_field(field));
            (field.name.to_string(), holds)
        })
        .collect();
    Ok((Arc::new(metadata), columns))
}

/// The same file with its numbers of 8 and 16 bits called what they are stored as, numbers of 32: polars is
/// built without the small ones, which would double what it compiles for numbers.
fn widened(mut metadata: FileMetadata) -> FileMetadata {
    fn widen(field: &mut ParquetType) -> bool {
        match field {
            ParquetType::GroupType { fields, .. } => {
                // Not `any`, which would stop at the first.
                fields
                    .iter_mut()
                    .filter_map(|field| widen(field).then_some(()))
                    .count()
                    > 0
            }
            ParquetType::PrimitiveType(kind) if kind.physical_type == PhysicalType::Int32 => {
                let is_small = matches!(
                    kind.logical_type,
                    Some(PrimitiveLogicalType::Integer(
                        IntegerType::Int8
                            | IntegerType::Int16
                            | IntegerType::UInt8
                            | IntegerType::UInt16
                    ))
                ) || matches!(
                    kind.converted_type,
                    Some(
                        PrimitiveConvertedType::Int8
                            | PrimitiveConvertedType::Int16
                            | PrimitiveConvertedType::Uint8
                            | PrimitiveConvertedType::Uint16
                    )
                );
                if is_small {
                    kind.logical_type = None;
                    kind.converted_type = None;
                }
                is_small
            }
            ParquetType::PrimitiveType(_) => false,
        }
    }
    let schema = &metadata.schema_descr;
    let (name, mut fields) = (schema.name().into(), schema.fields().to_vec());
    if fields
        .iter_mut()
        .filter_map(|field| widen(field).then_some(()))
        .count()
        > 0
    {
        metadata.schema_descr = SchemaDescriptor::new(name, fields);
        // Arrow's own schema, which would win.
        metadata.key_value_metadata = None;
    }
    metadata
}

fn holds(dtype: &DataType) -> Holds {
    match dtype {
        DataType::String | DataType::Categorical(..) | DataType::Enum(..) => Holds::Text,
        DataType::Boolean => Holds::Numbers(dtype.to_string()),
        dtype if dtype.is_primitive_numeric() => Holds::Numbers(dtype.to_string()),
        DataType::Null => Holds::Other("only nulls".to_owned()),
        DataType::Binary => Holds::Other("bytes not marked as text (binary)".to_owned()),
        DataType::List(inner) if inner.is_primitive_numeric() => {
            Holds::Lists(format!("lists ({dtype})"))
        }
        DataType::List(_) => Holds::Other(format!("lists ({dtype})")),
        dtype => Holds::Other(dtype.to_string()),
    }
}

/// What a file may unpack to: far more than compressed texts do, and less than a bomb.
fn most_bytes(file: usize) -> u64 {
    (512 << 20) + 256 * file as u64
}

fn damaged(what: String) -> PolarsError {
    PolarsError::ComputeError(what.into())
}

/// Walks over the headers of all pages that will be decoded. Polars takes memory by the numbers in
/// them and believes negative ones, and memory that can't be had ends the process.
fn check_pages(bytes: &[u8], metadata: &FileMetadata, chosen: &Chosen) -> PolarsResult<()> {
    let (mut n_rows, mut n_unpacked) = (0_usize, 0_u64);
    for group in &metadata.row_groups {
        n_rows = n_rows.saturating_add(group.num_rows());
        for name in chosen.names() {
            let is_list = metadata.schema_descr.fields().iter().any(|field| {
                matches!(field, ParquetType::GroupType { field_info, .. } if *field_info.name == **name)
            });
            for column in group.columns_under_root_iter(name).into_iter().flatten() {
                let n_values = column.num_values();
                let is_right = match usize::try_from(n_values) {
                    // A list has any number of values; of an empty one there is a null.
                    Ok(n_values) if is_list => {
                        n_values >= group.num_rows()
                            && n_values as u64 <= most_bytes(bytes.len()) / 4
                    }
                    n_values => n_values == Ok(group.num_rows()),
                };
                if !is_right {
                    return Err(damaged(format!(
                        "{n_values} values in a group of {} rows",
                        group.num_rows()
                    )));
                }
                let range = column.byte_range();
                let chunk = usize::try_from(range.start)
                    .ok()
                    .zip(usize::try_from(range.end).ok())
                    .and_then(|(start, end)| bytes.get(start..end))
                    .ok_or_else(|| damaged("a column lies outside of the file".to_owned()))?;
                n_unpacked = n_unpacked.saturating_add(check_chunk(chunk, n_values)?);
            }
        }
    }
    if n_rows != metadata.num_rows {
        return Err(damaged(format!(
            "{} rows in all and {n_rows} in the row groups",
            metadata.num_rows
        )));
    }
    if n_unpacked > most_bytes(bytes.len()) {
        return Err(damaged(format!(
            "its {} bytes unpack to {n_unpacked}: write the file again with less compression",
            bytes.len()
        )));
    }
    Ok(())
}

/// Checks one column of one row group, and returns the number of bytes that it unpacks to.
fn check_chunk(chunk: &[u8], n_values: i64) -> PolarsResult<u64> {
    let unreadable = |error| damaged(format!("a page header can't be read: {error}"));
    let size = |what: &str, value: i32| {
        u64::try_from(value).map_err(|_| damaged(format!("a page has {value} {what}")))
    };
    let (mut n_seen, mut n_unpacked) = (0, 0);
    let mut cursor = Cursor::new(chunk);
    while n_seen < n_values {
        let mut protocol = TCompactInputProtocol::new(&mut cursor, chunk.len());
        let header = PageHeader::read_from_in_protocol(&mut protocol).map_err(unreadable)?;
        let packed = size("bytes", header.compressed_page_size)?;
        let unpacked = size("unpacked bytes", header.uncompressed_page_size)?;
        let end = cursor.position().saturating_add(packed);
        if end > chunk.len() as u64 {
            return Err(damaged("a page goes on after its column's end".to_owned()));
        }
        cursor.set_position(end);
        n_unpacked += unpacked;
        let n_page = match (
            &header.data_page_header,
            &header.data_page_header_v2,
            &header.dictionary_page_header,
        ) {
            (Some(page), None, None) => page.num_values,
            (None, Some(page), None) => page.num_values,
            (None, None, Some(page)) => {
                if size("dictionary values", page.num_values)? > unpacked {
                    return Err(damaged("more dictionary values than bytes".to_owned()));
                }
                continue;
            }
            _ => return Err(damaged("a page of no kind".to_owned())),
        };
        // Values may be run-length encoded, so that their number is bound by the rows alone.
        n_seen += i64::try_from(size("values", n_page)?).unwrap_or(i64::MAX);
    }
    if n_seen != n_values {
        return Err(damaged(format!(
            "{n_values} values in a column whose pages have {n_seen}"
        )));
    }
    Ok(n_unpacked)
}

/// Refuses texts that are short in the file only because one stands for a million of its like.
fn check_size(texts: &[Column], file: usize) -> PolarsResult<()> {
    let mut n_bytes = 0_u64;
    for column in texts {
        for chunk in column.str()?.downcast_iter() {
            n_bytes = n_bytes.saturating_add(chunk.total_bytes_len() as u64);
        }
    }
    if n_bytes > most_bytes(file) {
        return Err(damaged(format!(
            "its {file} bytes hold {n_bytes} bytes of text: load fewer rows of it"
        )));
    }
    Ok(())
}

fn decode(
    bytes: &[u8],
    metadata: Arc<FileMetadata>,
    chosen: &Chosen,
    n_rows: usize,
) -> PolarsResult<(Vec<Column>, Option<Column>)> {
    let mut reader = ParquetReader::new(Cursor::new(bytes));
    reader.set_metadata(metadata);
    let frame = reader
        .with_columns(Some(chosen.names().cloned().collect()))
        .with_slice(Some((0, n_rows)))
        .finish()?;
    let texts = chosen
        .texts
        .iter()
        .map(|name| match frame.column(name)? {
            column if *column.dtype() == DataType::Binary => Ok(column.clone()),
            column => column.cast(&DataType::String),
        })
        .collect::<PolarsResult<_>>()?;
    let label = match &chosen.label {
        Some(name) => Some(frame.column(name)?.clone()),
        None => None,
    };
    Ok((texts, label))
}

/// As [`decode`], from a schema that calls texts bytes; with the rows that are no UTF-8, which are
/// null in the columns.
fn decode_bytes(
    bytes: &[u8],
    metadata: &FileMetadata,
    chosen: &Chosen,
    n_rows: usize,
) -> PolarsResult<(Vec<Column>, Option<Column>, Vec<BadRow>)> {
    let mut metadata = metadata.clone();
    let schema = &metadata.schema_descr;
    let fields = schema.fields().iter().cloned().map(|mut field| {
        if let ParquetType::PrimitiveType(kind) = &mut field
            && chosen
                .texts
                .iter()
                .any(|name| *name == kind.field_info.name)
            && kind.physical_type == PhysicalType::ByteArray
        {
            kind.logical_type = None;
            kind.converted_type = None;
        }
        field
    });
    metadata.schema_descr = SchemaDescriptor::new(schema.name().into(), fields.collect());
    // Arrow's own schema, which would win.
    metadata.key_value_metadata = None;
    let (columns, label) = decode(bytes, Arc::new(metadata), chosen, n_rows)?;
    let mut defects = Vec::new();
    let mut texts = Vec::new();
    for column in columns {
        let name = column.name().clone();
        let mut builder = StringChunkedBuilder::new(name.clone(), column.len());
        for (i, value) in column.binary()?.iter().enumerate() {
            let text = value.map(std::str::from_utf8);
            if let Some(Err(_)) = text {
                defects.push(BadRow {
                    row: i + 1,
                    line: None,
                    column: Some(name.to_string()),
                    defect: Defect::NotUtf8,
                });
            }
            builder.append_option(text.and_then(Result::ok));
        }
        texts.push(Column::from(polars::prelude::IntoSeries::into_series(
            builder.finish(),
        )));
    }
    Ok((texts, label, defects))
}

/// Reads columns cell by cell; `choose` says which, of the names that there are.
pub(crate) fn read_cells(
    path: &Path,
    bytes: &[u8],
    choose: impl FnOnce(&[String]) -> Result<Vec<Option<String>>, DataError>,
) -> Result<Cells, DataError> {
    let (metadata, columns) = guarded(path, FORMAT, || schema(bytes))?;
    let available: Vec<String> = columns.into_iter().map(|(name, _)| name).collect();
    let names = choose(&available)?;
    let n_rows = metadata.num_rows;
    if n_rows > MAX_ROWS {
        return Err(DataError::TooManyRows {
            path: path.to_path_buf(),
            max: MAX_ROWS,
        });
    }
    let mut chosen = Chosen {
        texts: names.iter().flatten().cloned().collect(),
        label: None,
    };
    // Two wanted columns may be one column of the file.
    let wanted = chosen.texts.clone();
    chosen.texts.sort();
    chosen.texts.dedup();
    guarded(path, FORMAT, || check_pages(bytes, &metadata, &chosen))?;
    let columns = guarded(path, FORMAT, || {
        let mut reader = ParquetReader::new(Cursor::new(bytes));
        reader.set_metadata(metadata);
        let frame = reader.with_columns(Some(chosen.texts.clone())).finish()?;
        let mut room = most_bytes(bytes.len());
        wanted
            .iter()
            .map(|name| cells(frame.column(name)?, &mut room))
            .collect::<PolarsResult<Vec<Vec<Cell>>>>()
    })?;
    for column in &columns {
        check_height(path, FORMAT, column.len(), n_rows)?;
    }
    let mut columns: Vec<_> = columns.into_iter().map(Vec::into_iter).collect();
    let rows = (1..=n_rows).map(|row| {
        let cells = columns.iter_mut().filter_map(Iterator::next).collect();
        (row, None, Ok(cells))
    });
    Ok(Cells {
        rows: rows.collect(),
        names,
        is_typed: true,
    })
}

/// A column's cells; `room` is how many bytes of text there may still be.
fn cells(column: &Column, room: &mut u64) -> PolarsResult<Vec<Cell>> {
    let or_null = |cell: Option<Cell>| cell.unwrap_or(Cell::Null);
    Ok(match column.dtype() {
        DataType::String | DataType::Categorical(..) | DataType::Enum(..) => {
            let column = column.cast(&DataType::String)?;
            let mut cells = Vec::with_capacity(column.len());
            for text in column.str()?.iter() {
                let n_bytes = text.map_or(0, str::len) as u64;
                *room = room
                    .checked_sub(n_bytes)
                    .ok_or_else(|| damaged("its texts are far longer than the file".to_owned()))?;
                cells.push(or_null(text.map(|text| Cell::Text(text.to_owned()))));
            }
            cells
        }
        DataType::Float32 | DataType::Float64 => {
            let column = column.cast(&DataType::Float64)?;
            let cells = column
                .f64()?
                .iter()
                .map(|number| or_null(number.map(Cell::Float)));
            cells.collect()
        }
        dtype if dtype.is_primitive_numeric() => {
            let column = column.cast(&DataType::Int64)?;
            let cells = column
                .i64()?
                .iter()
                .map(|number| or_null(number.map(Cell::Integer)));
            cells.collect()
        }
        DataType::List(_) => {
            let mut rows = Vec::with_capacity(column.len());
            for list in column.list()?.amortized_iter() {
                rows.push(match list {
                    None => Cell::Null,
                    Some(list) => Cell::List(cells(&Column::from(list.as_ref().clone()), room)?),
                });
            }
            rows
        }
        dtype => {
            let what = match dtype {
                DataType::Boolean => "true or false",
                DataType::Binary => "bytes not marked as text",
                _ => "neither text nor number",
            };
            let nulls = column.is_null();
            let cells = nulls.iter().map(|is_null| match is_null {
                Some(true) => Cell::Null,
                _ => Cell::Other(what),
            });
            cells.collect()
        }
    })
}

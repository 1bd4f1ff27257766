//! Parquet: the schema is checked first, then only the chosen columns and rows are decoded.

use std::{io::Cursor, path::Path};

use polars::prelude::{Column, DataType, ParquetReader, PolarsResult, SerReader};

use crate::{
    error::DataError,
    load::LoadOptions,
    sampler::MAX_ROWS,
    table::{BadRows, Chosen, Holds, RowNumbers, Table, check_height, choose, guarded},
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
    let (columns, n_rows) = guarded(path, FORMAT, || schema(&bytes))?;
    let n_rows = n_rows.min(max_rows);
    if n_rows > MAX_ROWS {
        return Err(DataError::TooManyRows {
            path: path.to_path_buf(),
            max: MAX_ROWS,
        });
    }
    let chosen = choose(path, &columns, options)?;
    let (texts, label) = guarded(path, FORMAT, || decode(&bytes, &chosen, n_rows))?;
    for column in texts.iter().chain(&label) {
        check_height(path, FORMAT, column.len(), n_rows)?;
    }
    Ok(Table {
        texts,
        label,
        rows: RowNumbers::Sequential,
        is_typed: true,
        n_read: n_rows,
        skipped: BadRows::default(),
    })
}

fn schema(bytes: &[u8]) -> PolarsResult<(Vec<(String, Holds)>, usize)> {
    let mut reader = ParquetReader::new(Cursor::new(bytes));
    let n_rows = reader.num_rows()?;
    let columns = reader
        .schema()?
        .iter_values()
        .map(|field| {
            let holds = holds(&DataType::from_arrow_field(field));
            (field.name.to_string(), holds)
        })
        .collect();
    Ok((columns, n_rows))
}

fn holds(dtype: &DataType) -> Holds {
    match dtype {
        DataType::String | DataType::Categorical(..) | DataType::Enum(..) => Holds::Text,
        DataType::Boolean => Holds::Numbers(dtype.to_string()),
        dtype if dtype.is_primitive_numeric() => Holds::Numbers(dtype.to_string()),
        DataType::Null => Holds::Other("only nulls".to_owned()),
        DataType::Binary => Holds::Other("bytes not marked as text (binary)".to_owned()),
        DataType::List(_) => Holds::Other(format!("lists ({dtype})")),
        dtype => Holds::Other(dtype.to_string()),
    }
}

fn decode(
    bytes: &[u8],
    chosen: &Chosen,
    n_rows: usize,
) -> PolarsResult<(Vec<Column>, Option<Column>)> {
    let frame = ParquetReader::new(Cursor::new(bytes))
        .with_columns(Some(chosen.names().cloned().collect()))
        .with_slice(Some((0, n_rows)))
        .finish()?;
    let texts = chosen
        .texts
        .iter()
        .map(|name| frame.column(name)?.cast(&DataType::String))
        .collect::<PolarsResult<_>>()?;
    let label = match &chosen.label {
        Some(name) => Some(frame.column(name)?.clone()),
        None => None,
    };
    Ok((texts, label))
}

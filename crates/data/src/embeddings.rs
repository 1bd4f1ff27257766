//! Embeddings as a parquet file.

use std::io::Write;

use polars::prelude::{
    DataFrame, DataType, Float32Type, IntoColumn, IntoSeries, ListBuilderTrait,
    ListPrimitiveChunkedBuilder, NamedFrom, ParquetWriter, Series,
};

use crate::error::DataError;

/// Writes texts and their embeddings as parquet, columns `text` and `embedding` (a list of f32).
///
/// `values` holds one row of `dimension` numbers per text.
///
/// # Errors
/// When the sizes don't fit or `out` can't be written.
pub fn write_embeddings(
    out: impl Write,
    texts: &[&str],
    values: &[f32],
    dimension: usize,
) -> Result<(), DataError> {
    let mut embeddings = ListPrimitiveChunkedBuilder::<Float32Type>::new(
        "embedding".into(),
        texts.len(),
        values.len(),
        DataType::Float32,
    );
    for row in values.chunks(dimension.max(1)) {
        embeddings.append_slice(row);
    }
    let columns = vec![
        Series::new("text".into(), texts).into_column(),
        embeddings.finish().into_series().into_column(),
    ];
    let mut frame = DataFrame::new(texts.len(), columns)
        .map_err(|error| DataError::Write(format!("parquet: {error}")))?;
    ParquetWriter::new(out)
        .finish(&mut frame)
        .map_err(|error| DataError::Write(format!("parquet: {error}")))?;
    Ok(())
}

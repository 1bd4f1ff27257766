//! Parquet files of any types, nulls and compression, which the crate's own writer does not make.

// Not every test needs all of it.
#![allow(dead_code)]

use std::sync::Arc;

use polars_arrow::{
    array::{Array, BinaryViewArray, BooleanArray, ListArray, PrimitiveArray, Utf8ViewArray},
    datatypes::{ArrowDataType, ArrowSchema, Field},
    offset::Offsets,
    record_batch::RecordBatchT,
    types::NativeType,
};
pub(crate) use polars_parquet::write::CompressionOptions;
use polars_parquet::write::{
    FileWriter, StatisticsOptions, Version, WriteOptions, get_dtype_encoding, row_group_iter,
};

pub(crate) type Column<'a> = (&'a str, Box<dyn Array>);

pub(crate) fn texts<T: AsRef<str>>(texts: &[T]) -> Box<dyn Array> {
    Utf8ViewArray::from_slice_values(texts).boxed()
}

pub(crate) fn optional_texts(texts: &[Option<&str>]) -> Box<dyn Array> {
    Utf8ViewArray::from_slice(texts).boxed()
}

pub(crate) fn bytes(values: &[&[u8]]) -> Box<dyn Array> {
    BinaryViewArray::from_slice_values(values).boxed()
}

pub(crate) fn truths(values: &[bool]) -> Box<dyn Array> {
    BooleanArray::from_slice(values).boxed()
}

pub(crate) fn numbers<T: NativeType>(values: &[T]) -> Box<dyn Array> {
    PrimitiveArray::from_slice(values).boxed()
}

pub(crate) fn optional_numbers<T: NativeType>(values: &[Option<T>]) -> Box<dyn Array> {
    PrimitiveArray::from(values).boxed()
}

/// A list a row, of the values in order.
pub(crate) fn lists(lengths: &[usize], values: Box<dyn Array>) -> Box<dyn Array> {
    let item = Field::new("item".into(), values.dtype().clone(), true);
    let mut offsets = Offsets::<i64>::new();
    for length in lengths {
        offsets.try_push(*length).unwrap();
    }
    let dtype = ArrowDataType::LargeList(Box::new(item));
    ListArray::new(dtype, offsets.into(), values, None).boxed()
}

pub(crate) fn parquet(columns: &[Column<'_>]) -> Vec<u8> {
    parquet_with(columns, CompressionOptions::Zstd(None), usize::MAX)
}

/// A file with row groups of so many rows.
pub(crate) fn parquet_with(
    columns: &[Column<'_>],
    compression: CompressionOptions,
    group: usize,
) -> Vec<u8> {
    let fields = columns
        .iter()
        .map(|(name, array)| Field::new((*name).into(), array.dtype().clone(), true));
    let schema: ArrowSchema = fields.collect();
    let encodings = schema.iter_values();
    let encodings: Vec<_> = encodings
        .map(|field| get_dtype_encoding(&field.dtype))
        .collect();
    let options = WriteOptions {
        statistics: StatisticsOptions::default(),
        version: Version::V1,
        compression,
        data_page_size: None,
    };
    let mut out = Vec::new();
    let mut writer = FileWriter::try_new(&mut out, schema.clone(), options).unwrap();
    let schema = Arc::new(schema);
    let n_rows = columns.first().map_or(0, |(_, array)| array.len());
    let mut start = 0;
    while start < n_rows {
        let length = group.min(n_rows - start);
        let arrays = columns.iter().map(|(_, array)| array.sliced(start, length));
        let batch = RecordBatchT::new(length, Arc::clone(&schema), arrays.collect());
        let types = writer.parquet_schema().fields().to_vec();
        let rows = row_group_iter(batch, encodings.clone().into(), types, options);
        writer.write(length as u64, rows).unwrap();
        start += length;
    }
    writer.end(None).unwrap();
    out
}

//! Parquet and Arrow files of any types, nulls and compression, which the crate's own writer does not make.

// Not every test needs all of it.
#![allow(dead_code)]

use std::{io::Write, sync::Arc};

use polars_arrow::{
    array::{
        Array, BinaryViewArray, BooleanArray, ListArray, PrimitiveArray, Utf8Array, Utf8ViewArray,
    },
    datatypes::{ArrowDataType, ArrowSchema, Field},
    io::ipc::write::{StreamWriter, WriteOptions as IpcOptions},
    offset::Offsets,
    record_batch::RecordBatchT,
    types::NativeType,
};
use polars_arrow_format::ipc::{
    BodyCompression, BodyCompressionMethod, CompressionType, Message, MessageHeader, MessageRef,
    planus::{Builder, ReadAsRoot},
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

/// Texts as pyarrow writes them.
pub(crate) fn plain_texts<T: AsRef<str>>(texts: &[T]) -> Box<dyn Array> {
    Utf8Array::<i32>::from_slice(texts).boxed()
}

/// An Arrow stream of batches of these columns.
pub(crate) fn arrow(batches: &[&[Column<'_>]]) -> Vec<u8> {
    let fields = batches[0]
        .iter()
        .map(|(name, array)| Field::new((*name).into(), array.dtype().clone(), true));
    let schema: ArrowSchema = fields.collect();
    let mut writer = StreamWriter::new(Vec::new(), IpcOptions { compression: None });
    writer.start(&schema, None).unwrap();
    let schema = Arc::new(schema);
    for columns in batches {
        let arrays: Vec<_> = columns.iter().map(|(_, array)| array.clone()).collect();
        let batch = RecordBatchT::new(arrays[0].len(), Arc::clone(&schema), arrays);
        writer.write(&batch, None).unwrap();
    }
    writer.finish().unwrap();
    writer.into_inner()
}

/// The same stream with its columns compressed, as pyarrow does with `IpcWriteOptions(compression=...)`: each after its
/// length, or after -1 as it is where `keeps` says so of its place.
pub(crate) fn packed_arrow(
    stream: &[u8],
    codec: CompressionType,
    keeps: impl Fn(usize) -> bool,
) -> Vec<u8> {
    let mut packed = Vec::new();
    let mut rest = stream;
    loop {
        let length = u32::from_le_bytes(rest[4..8].try_into().unwrap()) as usize;
        if length == 0 {
            packed.extend(&rest[..8]);
            return packed;
        }
        let metadata = &rest[8..8 + length];
        let message = MessageRef::read_as_root(metadata).unwrap();
        let n_body = message.body_length().unwrap() as usize;
        let body = &rest[8 + length..][..n_body];
        rest = &rest[8 + length + n_body..];
        let mut message = Message::try_from(message).unwrap();
        let columns = match message.header.as_mut().unwrap() {
            MessageHeader::RecordBatch(batch) => Some(batch),
            MessageHeader::DictionaryBatch(dictionary) => dictionary.data.as_mut(),
            _ => None,
        };
        let mut packed_body = Vec::new();
        if let Some(columns) = columns {
            columns.compression = Some(Box::new(BodyCompression {
                codec,
                method: BodyCompressionMethod::Buffer,
            }));
            for (place, buffer) in columns.buffers.iter_mut().flatten().enumerate() {
                let bytes = &body[buffer.offset as usize..][..buffer.length as usize];
                let start = packed_body.len();
                if keeps(place) {
                    packed_body.extend((-1_i64).to_le_bytes());
                    packed_body.extend(bytes);
                } else if !bytes.is_empty() {
                    packed_body.extend((bytes.len() as i64).to_le_bytes());
                    packed_body.extend(compressed(bytes, codec));
                }
                buffer.offset = start as i64;
                buffer.length = (packed_body.len() - start) as i64;
                packed_body.resize(packed_body.len().next_multiple_of(8), 0);
            }
        }
        message.body_length = packed_body.len() as i64;
        let mut builder = Builder::new();
        let mut metadata = builder.finish(&message, None).to_vec();
        metadata.resize(metadata.len().next_multiple_of(8), 0);
        packed.extend([0xff; 4]);
        packed.extend((metadata.len() as u32).to_le_bytes());
        packed.extend(metadata);
        packed.extend(packed_body);
    }
}

fn compressed(bytes: &[u8], codec: CompressionType) -> Vec<u8> {
    match codec {
        CompressionType::Zstd => zstd::encode_all(bytes, 3).unwrap(),
        CompressionType::Lz4Frame => {
            let mut encoder = lz4::EncoderBuilder::new().build(Vec::new()).unwrap();
            encoder.write_all(bytes).unwrap();
            let (packed, result) = encoder.finish();
            result.unwrap();
            packed
        }
    }
}

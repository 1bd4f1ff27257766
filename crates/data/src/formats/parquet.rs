//! Parquet: only the chosen columns and rows are read, row group by row group: of each, all page headers are checked, then
//! its columns are decoded.

use std::{io::Cursor, path::Path};

use fs_err::{File, os::unix::fs::FileExt};
use polars_arrow::datatypes::{ArrowDataType, Field};
use polars_buffer::Buffer;
use polars_parquet::{
    parquet::schema::types::PrimitiveType,
    read::{
        _read_metadata, BasicDecompressor, ColumnChunkMetadata, FileMetadata, Filter, PageReader,
        ParquetType, PhysicalType, PrimitiveLogicalType, RowGroupMetadata, column_iter_to_arrays,
        schema::parquet_to_arrow_schema_with_options,
    },
};
use polars_parquet_format::{PageHeader, thrift::protocol::TCompactInputProtocol};
use rayon::prelude::*;

use crate::{
    error::DataError,
    formats::{
        arrays::{Arrays, Kind, guarded, most_bytes, take_decoded},
        rows::{ColumnInfo, Consumer, Schema},
    },
    sampler::MAX_ROWS,
};

const FORMAT: &str = "parquet";

/// A file, in memory or on disk.
pub(super) enum Source<'a> {
    Memory(&'a [u8]),
    /// With its length.
    Disk(&'a File, u64),
}

impl Source<'_> {
    fn metadata(&self) -> Result<FileMetadata, String> {
        let metadata = match self {
            Self::Memory(bytes) => _read_metadata(&mut Cursor::new(bytes)),
            Self::Disk(file, _) => _read_metadata(&mut &**file),
        };
        metadata.map_err(|error| error.to_string())
    }

    fn len(&self) -> usize {
        match self {
            Self::Memory(bytes) => bytes.len(),
            Self::Disk(_, n_bytes) => *n_bytes as usize,
        }
    }

    /// The bytes of a column in one row group.
    fn chunk(&self, chunk: &ColumnChunkMetadata) -> Result<Vec<u8>, String> {
        let range = chunk.byte_range();
        if range.start > range.end || range.end > self.len() as u64 {
            return Err("a column lies outside of the file".to_owned());
        }
        match self {
            Self::Memory(bytes) => Ok(bytes[range.start as usize..range.end as usize].to_vec()),
            Self::Disk(file, _) => {
                let mut bytes = vec![0; (range.end - range.start) as usize];
                file.read_exact_at(&mut bytes, range.start)
                    .map_err(|error| error.to_string())?;
                Ok(bytes)
            }
        }
    }
}

/// Reads the columns that the consumer chooses, of at most `max_rows` rows, row group by row group.
pub(super) fn read(
    path: &Path,
    source: Source<'_>,
    max_rows: usize,
    consumer: &mut dyn Consumer,
) -> Result<(), DataError> {
    let metadata = guarded(path, FORMAT, || source.metadata())?;
    let fields = metadata.schema_descr.fields();
    let columns: Vec<Column> = fields
        .iter()
        .map(|field| Column::new(path, field))
        .collect();
    let schema = Schema {
        columns: columns.iter().map(Column::info).collect(),
        is_typed: true,
    };
    let chosen = consumer.choose(&schema)?;
    let chosen: Vec<&Column> = chosen.iter().map(|&place| &columns[place]).collect();
    let n_rows = metadata.num_rows.min(max_rows);
    if n_rows > MAX_ROWS {
        return Err(DataError::TooManyRows {
            path: path.to_path_buf(),
            max: MAX_ROWS,
        });
    }
    guarded(path, FORMAT, || check_counts(&metadata))?;
    let (mut n_before, mut n_unpacked, mut n_text_bytes) = (0, 0_u64, 0);
    for group in &metadata.row_groups {
        let n_group = group.num_rows().min(n_rows - n_before);
        if n_group == 0 {
            continue;
        }
        let chunks: Vec<Chunks<'_>> = chosen
            .iter()
            .map(|column| guarded(path, FORMAT, || column.chunks(&source, group)))
            .collect::<Result<_, _>>()?;
        for chunks in &chunks {
            n_unpacked = chunks.n_unpacked.saturating_add(n_unpacked);
        }
        let refuse = |message: String| DataError::Read {
            path: path.to_path_buf(),
            format: FORMAT,
            message,
        };
        if n_unpacked > most_bytes(source.len()) {
            return Err(refuse(format!(
                "its {} bytes unpack to {n_unpacked}: write the file again with less compression",
                source.len()
            )));
        }
        let decoded: Vec<Arrays> = chosen
            .par_iter()
            .zip(chunks)
            .map(|(column, chunks)| {
                let limit = (n_group < group.num_rows()).then_some(n_group);
                guarded(path, FORMAT, || column.decode(chunks, n_group, limit))
            })
            .collect::<Result<_, _>>()?;
        for arrays in &decoded {
            n_text_bytes += arrays.n_text_bytes();
        }
        if n_text_bytes > most_bytes(source.len()) {
            return Err(refuse(format!(
                "its {} bytes hold {n_text_bytes} bytes of text: load fewer rows of it",
                source.len()
            )));
        }
        take_decoded(path, FORMAT, &decoded, n_group, n_before, consumer)?;
        n_before += n_group;
    }
    Ok(())
}

/// The bytes of a column in one row group, with what describes them.
#[derive(Default)]
struct Chunks<'m> {
    chunks: Vec<(&'m ColumnChunkMetadata, Vec<u8>)>,
    /// Bytes that they unpack to.
    n_unpacked: u64,
}

/// A top-level column of the schema.
struct Column {
    name: String,
    /// The type to decode into; none for what is not read.
    field: Option<Field>,
    kind: Kind,
}

impl Column {
    fn new(path: &Path, parquet: &ParquetType) -> Self {
        let name = parquet.name().to_owned();
        // The schema that Arrow's writers add to the file is not asked: it says nothing more of what is read here.
        let arrow = guarded(path, FORMAT, || {
            let fields = std::slice::from_ref(parquet);
            let schema = parquet_to_arrow_schema_with_options(fields, &None);
            Ok(schema.iter_values().next().cloned())
        });
        let (field, kind) = match arrow {
            Ok(Some(arrow)) => match decoded(&arrow, parquet) {
                (field, kind) if kind.is_readable() => (Some(field), kind),
                (_, kind) => (None, kind),
            },
            _ => (
                None,
                Kind::Unreadable("values of an unknown type".to_owned()),
            ),
        };
        Self { name, field, kind }
    }

    fn info(&self) -> ColumnInfo {
        ColumnInfo {
            name: self.name.clone(),
            holds: self.kind.holds(),
        }
    }

    /// Reads the column's chunks in a row group, and walks over the headers of all their pages. The decoder takes memory
    /// by the numbers in them and believes negative ones, and memory that can't be had ends the process.
    fn chunks<'m>(
        &self,
        source: &Source<'_>,
        group: &'m RowGroupMetadata,
    ) -> Result<Chunks<'m>, String> {
        let mut read = Chunks::default();
        if self.field.is_none() {
            return Ok(read);
        }
        let chunks = group.columns_under_root_iter(&self.name);
        for chunk in chunks.into_iter().flatten() {
            let (n_values, n_rows) = (chunk.num_values(), group.num_rows());
            let is_right = match usize::try_from(n_values) {
                // A list has any number of values; of an empty one there is a null.
                Ok(n_values) if self.kind.has_lists() => {
                    n_values >= n_rows && n_values as u64 <= most_bytes(source.len()) / 4
                }
                n_values => n_values == Ok(n_rows),
            };
            if !is_right {
                return Err(format!("{n_values} values in a group of {n_rows} rows"));
            }
            let bytes = source.chunk(chunk)?;
            let n_unpacked = check_chunk(&bytes, n_values)?;
            read.n_unpacked = read.n_unpacked.saturating_add(n_unpacked);
            read.chunks.push((chunk, bytes));
        }
        Ok(read)
    }

    /// Decodes the column's chunks in one row group of `n_rows` rows, or the first `limit` of them.
    fn decode(
        &self,
        chunks: Chunks<'_>,
        n_rows: usize,
        limit: Option<usize>,
    ) -> Result<Arrays, String> {
        let Some(field) = &self.field else {
            return Ok(Arrays(Vec::new()));
        };
        let (mut pages, mut types) = (Vec::new(), Vec::new());
        for (chunk, bytes) in chunks.chunks {
            let buffer = Buffer::from_vec(bytes);
            let reader = PageReader::new(Cursor::new(buffer), chunk, Vec::new(), usize::MAX);
            pages.push(BasicDecompressor::new(reader, Vec::new()));
            types.push(&chunk.descriptor().descriptor.primitive_type);
        }
        let filter = limit.map(Filter::new_limited);
        let (arrays, _) = column_iter_to_arrays(pages, types, field.clone(), filter)
            .map_err(|error| error.to_string())?;
        let n_found: usize = arrays.iter().map(|array| array.len()).sum();
        if n_found != n_rows {
            return Err(format!(
                "{n_found} rows were read where the file has {n_rows}"
            ));
        }
        Ok(Arrays(arrays))
    }
}

/// The field that a column is decoded as, from the one that Arrow makes of it, and the kind of its values.
fn decoded(arrow: &Field, parquet: &ParquetType) -> (Field, Kind) {
    let (dtype, kind) = match (&arrow.dtype, parquet) {
        (ArrowDataType::LargeList(inner), _) => {
            let (inner, kind) = decoded(inner, element(parquet));
            let kind = match kind {
                Kind::Unreadable(kind) => Kind::Unreadable(format!("lists (of {kind})")),
                kind => Kind::List(Box::new(kind)),
            };
            (ArrowDataType::LargeList(Box::new(inner)), kind)
        }
        (ArrowDataType::Struct(inner), ParquetType::GroupType { fields, .. })
            if inner.len() == fields.len() =>
        {
            let fields = inner.iter().zip(fields);
            let fields: Vec<_> = fields
                .map(|(arrow, parquet)| decoded(arrow, parquet))
                .collect();
            let kinds = fields
                .iter()
                .map(|(field, kind)| (field.name.to_string(), kind.clone()));
            let kind = Kind::Object(kinds.collect());
            let fields = fields.into_iter().map(|(field, _)| field);
            (ArrowDataType::Struct(fields.collect()), kind)
        }
        (dtype, ParquetType::PrimitiveType(primitive)) => decoded_primitive(dtype, primitive),
        (dtype, _) => (dtype.clone(), Kind::of(dtype)),
    };
    (
        Field::new(arrow.name.clone(), dtype, arrow.is_nullable),
        kind,
    )
}

/// The type of a list's elements.
fn element(list: &ParquetType) -> &ParquetType {
    match list {
        ParquetType::PrimitiveType(_) => list,
        ParquetType::GroupType { fields, .. } => match fields.as_slice() {
            // A group of one repeated group of one field, where writers follow the specification.
            [ParquetType::GroupType { fields, .. }] if fields.len() == 1 => &fields[0],
            [inner] => inner,
            _ => list,
        },
    }
}

fn decoded_primitive(dtype: &ArrowDataType, primitive: &PrimitiveType) -> (ArrowDataType, Kind) {
    use PrimitiveLogicalType as Logical;
    let kind = match (dtype, primitive.logical_type) {
        (_, Some(Logical::Unknown)) => Kind::Unreadable("only nulls".to_owned()),
        // As bytes, so that a value that is not UTF-8 is a defect of its row and not of the file.
        (ArrowDataType::Utf8View, _)
        | (ArrowDataType::BinaryView, Some(Logical::Enum | Logical::Json)) => {
            return (ArrowDataType::BinaryView, Kind::Text);
        }
        (ArrowDataType::FixedSizeBinary(2), Some(Logical::Float16)) => Kind::Number("f16"),
        (ArrowDataType::Decimal(..), _)
            if matches!(
                primitive.physical_type,
                PhysicalType::FixedLenByteArray(17..)
            ) =>
        {
            Kind::Unreadable("decimals of more than 38 digits".to_owned())
        }
        (dtype, _) => Kind::of(dtype),
    };
    (dtype.clone(), kind)
}

/// Checks that the row groups have as many rows as the file.
fn check_counts(metadata: &FileMetadata) -> Result<(), String> {
    let groups = metadata.row_groups.iter();
    let n_rows = groups.fold(0_usize, |n, group| n.saturating_add(group.num_rows()));
    if n_rows != metadata.num_rows {
        return Err(format!(
            "{} rows in all and {n_rows} in the row groups",
            metadata.num_rows
        ));
    }
    Ok(())
}

/// Checks one column of one row group, and returns the number of bytes that it unpacks to.
fn check_chunk(chunk: &[u8], n_values: i64) -> Result<u64, String> {
    let size = |name: &str, value: i32| {
        u64::try_from(value).map_err(|_| format!("a page has {value} {name}"))
    };
    let (mut n_seen, mut n_unpacked) = (0, 0);
    let mut cursor = Cursor::new(chunk);
    while n_seen < n_values {
        let mut protocol = TCompactInputProtocol::new(&mut cursor, chunk.len());
        let header = PageHeader::read_from_in_protocol(&mut protocol)
            .map_err(|error| format!("a page header can't be read: {error}"))?;
        let packed = size("bytes", header.compressed_page_size)?;
        let unpacked = size("unpacked bytes", header.uncompressed_page_size)?;
        let end = cursor.position().saturating_add(packed);
        if end > chunk.len() as u64 {
            return Err("a page goes on after its column's end".to_owned());
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
                    return Err("more dictionary values than bytes".to_owned());
                }
                continue;
            }
            _ => return Err("a page of no kind".to_owned()),
        };
        // Values may be run-length encoded, so that their number is bound by the rows alone.
        n_seen += i64::try_from(size("values", n_page)?).unwrap_or(i64::MAX);
    }
    if n_seen != n_values {
        return Err(format!(
            "{n_values} values in a column whose pages have {n_seen}"
        ));
    }
    Ok(n_unpacked)
}

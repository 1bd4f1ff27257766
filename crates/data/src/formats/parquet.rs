//! Parquet: the schema and all page headers are checked first, then only the chosen columns and rows are decoded,
//! row group by row group.

use std::{
    borrow::Cow,
    cell::Cell as Flag,
    collections::BTreeMap,
    io::Cursor,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook},
    path::Path,
    sync::Once,
};

use half::f16;
use polars_arrow::{
    array::{
        Array, BinaryViewArray, BooleanArray, FixedSizeBinaryArray, ListArray, PrimitiveArray,
    },
    datatypes::{ArrowDataType, Field},
    types::NativeType,
};
use polars_buffer::Buffer;
use polars_parquet::{
    parquet::schema::types::PrimitiveType,
    read::{
        _read_metadata, BasicDecompressor, ColumnChunkMetadata, FileMetadata, Filter, PageReader,
        ParquetType, PhysicalType, PrimitiveLogicalType, column_iter_to_arrays,
        schema::parquet_to_arrow_schema_with_options,
    },
};
use polars_parquet_format::{PageHeader, thrift::protocol::TCompactInputProtocol};
use rayon::prelude::*;

use crate::{
    error::DataError,
    formats::{Cell, ColumnInfo, Consumer, File, Holds, ROWS_PER_TABLE, RawTable, Schema},
    sampler::MAX_ROWS,
};

const FORMAT: &str = "parquet";

/// Reads the columns that the consumer chooses.
pub(crate) fn read(file: File<'_>, consumer: &mut dyn Consumer) -> Result<(), DataError> {
    let File { path, bytes, .. } = file;
    let metadata = guarded(path, || {
        _read_metadata(&mut Cursor::new(bytes)).map_err(|error| error.to_string())
    })?;
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
    let n_rows = metadata.num_rows.min(file.max_rows);
    if n_rows > MAX_ROWS {
        return Err(DataError::TooManyRows {
            path: path.to_path_buf(),
            max: MAX_ROWS,
        });
    }
    guarded(path, || check_pages(bytes, &metadata, &chosen))?;
    let (mut n_before, mut n_text_bytes) = (0, 0);
    for group in &metadata.row_groups {
        let n_group = group.num_rows().min(n_rows - n_before);
        if n_group == 0 {
            continue;
        }
        let decoded: Vec<Arrays> = chosen
            .par_iter()
            .map(|column| {
                let chunks = group.columns_under_root_iter(&column.name);
                let chunks: Vec<_> = chunks.into_iter().flatten().collect();
                let limit = (n_group < group.num_rows()).then_some(n_group);
                guarded(path, || column.decode(bytes, &chunks, n_group, limit))
            })
            .collect::<Result<_, _>>()?;
        for arrays in &decoded {
            n_text_bytes += arrays.n_text_bytes();
        }
        if n_text_bytes > most_bytes(bytes.len()) {
            return Err(unreadable(
                path,
                format!(
                    "its {} bytes hold {n_text_bytes} bytes of text: load fewer rows of it",
                    bytes.len()
                ),
            ));
        }
        for start in (0..n_group).step_by(ROWS_PER_TABLE) {
            let rows = start..n_group.min(start + ROWS_PER_TABLE);
            let columns = chosen.par_iter().zip(&decoded).map(|(column, arrays)| {
                guarded(path, || Ok(arrays.cells(&column.kind, rows.clone())))
            });
            consumer.take(RawTable {
                columns: columns.collect::<Result<_, _>>()?,
                n_rows: rows.len(),
                n_before: n_before + start,
                lines: None,
                defects: BTreeMap::new(),
            })?;
        }
        n_before += n_group;
    }
    Ok(())
}

fn unreadable(path: &Path, message: String) -> DataError {
    DataError::Read {
        path: path.to_path_buf(),
        format: FORMAT,
        message,
    }
}

/// Runs the decoder on a file from outside. It is made for files that are what they say they are, and on damaged ones
/// some of its `unwrap`s and `assert`s panic: parquet with flipped bits does it about three times in a thousand files
/// (`tests/mutations.rs`). Such a panic is the file's fault and becomes an error, without the panic's own text on
/// stderr; nothing of the decoder outlives it.
fn guarded<T>(path: &Path, read: impl FnOnce() -> Result<T, String>) -> Result<T, DataError> {
    thread_local! {
        static IS_QUIET: Flag<bool> = const { Flag::new(false) };
    }
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let others = take_hook();
        set_hook(Box::new(move |info| {
            if !IS_QUIET.get() {
                others(info);
            }
        }));
    });
    IS_QUIET.set(true);
    let result = catch_unwind(AssertUnwindSafe(read));
    IS_QUIET.set(false);
    match result {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(message)) => Err(unreadable(path, message)),
        Err(_) => Err(DataError::Damaged {
            path: path.to_path_buf(),
            format: FORMAT,
        }),
    }
}

/// A top-level column of the schema.
struct Column {
    name: String,
    /// The type to decode into; none for what is not read.
    field: Option<Field>,
    kind: Kind,
}

/// The kind of a column's values.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    /// Decoded as bytes, so that a value that is not UTF-8 is a defect of its row and not of the file.
    Text,
    Truth,
    Integer(&'static str),
    Float(&'static str),
    /// A whole number over ten to this power.
    Decimal(usize),
    List(Box<Kind>),
    /// A type that is neither text nor number, named for messages.
    Unreadable(String),
}

impl Column {
    fn new(path: &Path, field: &ParquetType) -> Self {
        let name = field.name().to_owned();
        // The schema that Arrow's writers add to the file is not asked: it says nothing more of what is read here.
        let arrow = guarded(path, || {
            let schema = parquet_to_arrow_schema_with_options(std::slice::from_ref(field), &None);
            Ok(schema.iter_values().next().cloned())
        });
        let (field, kind) = match arrow {
            Ok(Some(arrow)) => match Kind::of(&arrow.dtype, leaf(field)) {
                Kind::Unreadable(kind) => (None, Kind::Unreadable(kind)),
                kind => (Some(decoded_field(&arrow, &kind)), kind),
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

    /// Decodes the column's chunks in one row group of `n_rows` rows, or the first `limit` of them.
    fn decode(
        &self,
        bytes: &[u8],
        chunks: &[&ColumnChunkMetadata],
        n_rows: usize,
        limit: Option<usize>,
    ) -> Result<Arrays, String> {
        let Some(field) = &self.field else {
            return Ok(Arrays(Vec::new()));
        };
        let (mut pages, mut types) = (Vec::new(), Vec::new());
        for &chunk in chunks {
            let buffer = Buffer::from_vec(chunk_bytes(bytes, chunk)?.to_vec());
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

/// The primitive type under a column, through lists; none for an object of several.
fn leaf(field: &ParquetType) -> Option<&PrimitiveType> {
    match field {
        ParquetType::PrimitiveType(kind) => Some(kind),
        ParquetType::GroupType { fields, .. } => match fields.as_slice() {
            [inner] => leaf(inner),
            _ => None,
        },
    }
}

impl Kind {
    fn of(dtype: &ArrowDataType, leaf: Option<&PrimitiveType>) -> Self {
        use ArrowDataType as Arrow;
        let logical = leaf.and_then(|leaf| leaf.logical_type);
        if logical == Some(PrimitiveLogicalType::Unknown) {
            return Self::Unreadable("only nulls".to_owned());
        }
        match dtype {
            Arrow::Utf8View => Self::Text,
            Arrow::BinaryView => match logical {
                Some(PrimitiveLogicalType::Enum | PrimitiveLogicalType::Json) => Self::Text,
                _ => Self::Unreadable("bytes not marked as text (binary)".to_owned()),
            },
            Arrow::Boolean => Self::Truth,
            Arrow::Int8 => Self::Integer("i8"),
            Arrow::Int16 => Self::Integer("i16"),
            Arrow::Int32 => Self::Integer("i32"),
            Arrow::Int64 => Self::Integer("i64"),
            Arrow::UInt8 => Self::Integer("u8"),
            Arrow::UInt16 => Self::Integer("u16"),
            Arrow::UInt32 => Self::Integer("u32"),
            Arrow::UInt64 => Self::Integer("u64"),
            Arrow::Float32 => Self::Float("f32"),
            Arrow::Float64 => Self::Float("f64"),
            Arrow::FixedSizeBinary(2) if logical == Some(PrimitiveLogicalType::Float16) => {
                Self::Float("f16")
            }
            Arrow::Decimal(_, scale) => match leaf.map(|leaf| leaf.physical_type) {
                Some(PhysicalType::FixedLenByteArray(17..)) => {
                    Self::Unreadable("decimals of more than 38 digits".to_owned())
                }
                _ => Self::Decimal(*scale),
            },
            Arrow::LargeList(inner) => match Self::of(&inner.dtype, leaf) {
                Self::Unreadable(inner) => Self::Unreadable(format!("lists (of {inner})")),
                inner => Self::List(Box::new(inner)),
            },
            Arrow::Struct(_) => Self::Unreadable("objects".to_owned()),
            Arrow::Map(..) => Self::Unreadable("maps".to_owned()),
            Arrow::Date32 | Arrow::Date64 => Self::Unreadable("dates".to_owned()),
            Arrow::Timestamp(..) => Self::Unreadable("times (timestamp)".to_owned()),
            other => Self::Unreadable(format!("values of type {other:?}")),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Text => "text".to_owned(),
            Self::Truth => "bool".to_owned(),
            Self::Integer(name) | Self::Float(name) => (*name).to_owned(),
            Self::Decimal(_) => "decimal".to_owned(),
            Self::List(inner) => format!("lists of {}", inner.name()),
            Self::Unreadable(name) => name.clone(),
        }
    }

    fn holds(&self) -> Holds {
        match self {
            Self::Text => Holds::Text,
            Self::Truth | Self::Integer(_) | Self::Float(_) | Self::Decimal(_) => {
                Holds::Numbers(self.name())
            }
            Self::List(inner) => {
                let name = format!("lists (of {})", inner.name());
                match **inner {
                    Self::Integer(_) | Self::Float(_) | Self::Decimal(_) => Holds::Lists(name),
                    _ => Holds::Other(name),
                }
            }
            Self::Unreadable(name) => Holds::Other(name.clone()),
        }
    }
}

/// The field that a column is decoded as, from the one that Arrow would make of it.
fn decoded_field(arrow: &Field, kind: &Kind) -> Field {
    let dtype = match (kind, &arrow.dtype) {
        (Kind::Text, _) => ArrowDataType::BinaryView,
        (Kind::List(kind), ArrowDataType::LargeList(inner)) => {
            ArrowDataType::LargeList(Box::new(decoded_field(inner, kind)))
        }
        (_, dtype) => dtype.clone(),
    };
    Field::new(arrow.name.clone(), dtype, arrow.is_nullable)
}

/// A column of a row group, decoded; nothing of a column that is not read.
struct Arrays(Vec<Box<dyn Array>>);

impl Arrays {
    /// Bytes of all texts, where each counts that stands for a million rows.
    fn n_text_bytes(&self) -> u64 {
        fn of(array: &dyn Array) -> u64 {
            if let Some(texts) = array.as_any().downcast_ref::<BinaryViewArray>() {
                texts.total_bytes_len() as u64
            } else if let Some(lists) = array.as_any().downcast_ref::<ListArray<i64>>() {
                of(lists.values().as_ref())
            } else {
                0
            }
        }
        self.0.iter().map(|array| of(array.as_ref())).sum()
    }

    /// The cells of these rows.
    fn cells(&self, kind: &Kind, rows: Range<usize>) -> Vec<Cell<'_>> {
        let mut all = Vec::with_capacity(rows.len());
        let mut n_before = 0;
        for array in &self.0 {
            let inner = n_before..n_before + array.len();
            n_before = inner.end;
            let (start, end) = (rows.start.max(inner.start), rows.end.min(inner.end));
            if start < end {
                let range = start - inner.start..end - inner.start;
                cells(array.as_ref(), kind, range, &mut all);
            }
        }
        // A column that is not read.
        all.resize(rows.len(), Cell::Other("neither text nor number"));
        all
    }
}

/// Appends the cells of a part of an array.
fn cells<'a>(array: &'a dyn Array, kind: &Kind, rows: Range<usize>, all: &mut Vec<Cell<'a>>) {
    fn push<'a, A: Array + 'static>(
        array: &'a dyn Array,
        rows: Range<usize>,
        all: &mut Vec<Cell<'a>>,
        cell: impl Fn(&'a A, usize) -> Cell<'a>,
    ) {
        let array = array.as_any().downcast_ref::<A>();
        all.extend(rows.map(|i| match array {
            Some(array) if !array.is_null(i) => cell(array, i),
            Some(_) => Cell::Null,
            // The decoder makes what the field says.
            None => Cell::Other("neither text nor number"),
        }));
    }
    fn number<'a, T: NativeType>(
        array: &'a dyn Array,
        rows: Range<usize>,
        all: &mut Vec<Cell<'a>>,
        cell: impl Fn(T) -> Cell<'a>,
    ) {
        push::<PrimitiveArray<T>>(array, rows, all, |array, i| cell(array.value(i)));
    }
    match kind {
        Kind::Text => {
            push::<BinaryViewArray>(array, rows, all, |array, i| {
                match std::str::from_utf8(array.value(i)) {
                    Ok(text) => Cell::Text(Cow::Borrowed(text)),
                    Err(_) => Cell::NotUtf8,
                }
            })
        }
        Kind::Truth => {
            push::<BooleanArray>(array, rows, all, |array, i| Cell::Truth(array.value(i)))
        }
        Kind::Integer("i8") => number(array, rows, all, |n: i8| Cell::Integer(n.into())),
        Kind::Integer("i16") => number(array, rows, all, |n: i16| Cell::Integer(n.into())),
        Kind::Integer("i32") => number(array, rows, all, |n: i32| Cell::Integer(n.into())),
        Kind::Integer("u8") => number(array, rows, all, |n: u8| Cell::Integer(n.into())),
        Kind::Integer("u16") => number(array, rows, all, |n: u16| Cell::Integer(n.into())),
        Kind::Integer("u32") => number(array, rows, all, |n: u32| Cell::Integer(n.into())),
        Kind::Integer("u64") => number(array, rows, all, |n: u64| match i64::try_from(n) {
            Ok(n) => Cell::Integer(n),
            Err(_) => Cell::Large(n),
        }),
        Kind::Integer(_) => number(array, rows, all, Cell::Integer),
        Kind::Float("f16") => {
            push::<FixedSizeBinaryArray>(array, rows, all, |array, i| {
                match array.value(i).try_into() {
                    Ok(bytes) => Cell::Float(f16::from_le_bytes(bytes).into()),
                    Err(_) => Cell::Null,
                }
            })
        }
        Kind::Float("f32") => number(array, rows, all, |n: f32| Cell::Float(n.into())),
        Kind::Float(_) => number(array, rows, all, Cell::Float),
        Kind::Decimal(0) => number(array, rows, all, |n: i128| match i64::try_from(n) {
            Ok(n) => Cell::Integer(n),
            Err(_) => Cell::Float(n as f64),
        }),
        Kind::Decimal(scale) => {
            let unit = 10_f64.powi((*scale).try_into().unwrap_or(i32::MAX));
            number(array, rows, all, |n: i128| Cell::Float(n as f64 / unit));
        }
        Kind::List(inner) => push::<ListArray<i64>>(array, rows, all, |array, i| {
            let (start, end) = array.offsets().start_end(i);
            let values = array.values().as_any();
            // Embeddings, which are long.
            if let Some(values) = values.downcast_ref::<PrimitiveArray<f32>>()
                && values.validity().is_none()
                && start < end
            {
                return Cell::Floats(values.values()[start..end].to_vec());
            }
            let mut list = Vec::with_capacity(end - start);
            cells(array.values().as_ref(), inner, start..end, &mut list);
            Cell::list(list)
        }),
        Kind::Unreadable(_) => all.extend(rows.map(|_| Cell::Other("neither text nor number"))),
    }
}

/// The most that a file may unpack to: far more than compressed texts do, and less than a decompression bomb.
fn most_bytes(file: usize) -> u64 {
    (512 << 20) + 256 * file as u64
}

/// The bytes of a column in one row group.
fn chunk_bytes<'a>(bytes: &'a [u8], chunk: &ColumnChunkMetadata) -> Result<&'a [u8], String> {
    let range = chunk.byte_range();
    usize::try_from(range.start)
        .ok()
        .zip(usize::try_from(range.end).ok())
        .and_then(|(start, end)| bytes.get(start..end))
        .ok_or_else(|| "a column lies outside of the file".to_owned())
}

/// Walks over the headers of all pages that will be decoded. The decoder takes memory by the numbers in them and
/// believes negative ones, and memory that can't be had ends the process.
fn check_pages(bytes: &[u8], metadata: &FileMetadata, chosen: &[&Column]) -> Result<(), String> {
    let (mut n_rows, mut n_unpacked) = (0_usize, 0_u64);
    for group in &metadata.row_groups {
        n_rows = n_rows.saturating_add(group.num_rows());
        for column in chosen.iter().filter(|column| column.field.is_some()) {
            let is_list = matches!(column.kind, Kind::List(_));
            let chunks = group.columns_under_root_iter(&column.name);
            for chunk in chunks.into_iter().flatten() {
                let n_values = chunk.num_values();
                let is_right = match usize::try_from(n_values) {
                    // A list has any number of values; of an empty one there is a null.
                    Ok(n_values) if is_list => {
                        n_values >= group.num_rows()
                            && n_values as u64 <= most_bytes(bytes.len()) / 4
                    }
                    n_values => n_values == Ok(group.num_rows()),
                };
                if !is_right {
                    return Err(format!(
                        "{n_values} values in a group of {} rows",
                        group.num_rows()
                    ));
                }
                let chunk = chunk_bytes(bytes, chunk)?;
                n_unpacked = n_unpacked.saturating_add(check_chunk(chunk, n_values)?);
            }
        }
    }
    if n_rows != metadata.num_rows {
        return Err(format!(
            "{} rows in all and {n_rows} in the row groups",
            metadata.num_rows
        ));
    }
    if n_unpacked > most_bytes(bytes.len()) {
        return Err(format!(
            "its {} bytes unpack to {n_unpacked}: write the file again with less compression",
            bytes.len()
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

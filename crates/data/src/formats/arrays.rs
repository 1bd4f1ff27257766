//! Arrow's arrays as cells, for the formats that are decoded by polars' crates.

use std::{
    borrow::Cow,
    cell::Cell as Flag,
    collections::BTreeMap,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook},
    path::Path,
    sync::Once,
};

use half::f16;
use polars_arrow::{
    array::{
        Array, BinaryViewArray, BooleanArray, DictionaryArray, DictionaryKey, FixedSizeBinaryArray,
        FixedSizeListArray, ListArray, PrimitiveArray, StructArray, Utf8Array, Utf8ViewArray,
    },
    datatypes::{ArrowDataType, IntegerType},
    offset::Offset,
    types::NativeType,
};
use rayon::prelude::*;

use crate::{
    error::DataError,
    formats::rows::{Cell, Consumer, Holds, PASSAGE_TEXT, ROWS_PER_TABLE, RawTable},
};

/// The kind of a column's values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Truth,
    /// Numbers of this type.
    Number(&'static str),
    List(Box<Kind>),
    /// Objects with these keys.
    Object(Vec<(String, Kind)>),
    /// A type that is neither text nor number, named for messages.
    Unreadable(String),
}

impl Kind {
    pub(super) fn of(dtype: &ArrowDataType) -> Self {
        use ArrowDataType as Arrow;
        let list = |inner: &ArrowDataType| match Self::of(inner) {
            Self::Unreadable(inner) => Self::Unreadable(format!("lists (of {inner})")),
            inner => Self::List(Box::new(inner)),
        };
        match dtype {
            Arrow::Null => Self::Unreadable("only nulls".to_owned()),
            Arrow::Utf8 | Arrow::LargeUtf8 | Arrow::Utf8View => Self::Text,
            Arrow::Dictionary(_, values, _) => Self::of(values),
            Arrow::Boolean => Self::Truth,
            Arrow::Int8 => Self::Number("i8"),
            Arrow::Int16 => Self::Number("i16"),
            Arrow::Int32 => Self::Number("i32"),
            Arrow::Int64 => Self::Number("i64"),
            Arrow::UInt8 => Self::Number("u8"),
            Arrow::UInt16 => Self::Number("u16"),
            Arrow::UInt32 => Self::Number("u32"),
            Arrow::UInt64 => Self::Number("u64"),
            Arrow::Float32 => Self::Number("f32"),
            Arrow::Float64 => Self::Number("f64"),
            Arrow::Decimal(..) => Self::Number("decimal"),
            Arrow::List(inner) | Arrow::LargeList(inner) | Arrow::FixedSizeList(inner, _) => {
                list(&inner.dtype)
            }
            Arrow::Struct(fields) => {
                let fields = fields.iter();
                let fields = fields.map(|field| (field.name.to_string(), Self::of(&field.dtype)));
                Self::Object(fields.collect())
            }
            Arrow::Map(..) => Self::Unreadable("maps".to_owned()),
            Arrow::Binary | Arrow::LargeBinary | Arrow::BinaryView => {
                Self::Unreadable("bytes not marked as text (binary)".to_owned())
            }
            Arrow::Date32 | Arrow::Date64 => Self::Unreadable("dates".to_owned()),
            Arrow::Timestamp(..) => Self::Unreadable("times (timestamp)".to_owned()),
            other => Self::Unreadable(format!("values of type {other:?}")),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Text => "text".to_owned(),
            Self::Truth => "bool".to_owned(),
            Self::Number(name) => (*name).to_owned(),
            Self::List(inner) => format!("lists of {}", inner.name()),
            Self::Object(_) => "objects".to_owned(),
            Self::Unreadable(name) => name.clone(),
        }
    }

    /// Whether a value is read at all.
    pub(super) fn is_readable(&self) -> bool {
        match self {
            Self::Unreadable(_) => false,
            Self::List(inner) => inner.is_readable(),
            Self::Object(fields) => fields.iter().all(|(_, kind)| kind.is_readable()),
            _ => true,
        }
    }

    /// Whether a row may have any number of values.
    pub(super) fn has_lists(&self) -> bool {
        match self {
            Self::List(_) => true,
            Self::Object(fields) => fields.iter().any(|(_, kind)| kind.has_lists()),
            _ => false,
        }
    }

    pub(super) fn holds(&self) -> Holds {
        match self {
            Self::Text => Holds::Text,
            Self::Truth | Self::Number(_) => Holds::Numbers(self.name()),
            Self::List(inner) => {
                let name = format!("lists (of {})", inner.name());
                match &**inner {
                    Self::Number(_) => Holds::Lists(name),
                    Self::Text => Holds::Texts(name),
                    Self::Object(fields) if fields.iter().any(|(key, _)| key == PASSAGE_TEXT) => {
                        Holds::Texts(name)
                    }
                    _ => Holds::Other(name),
                }
            }
            Self::Object(_) | Self::Unreadable(_) => Holds::Other(self.name()),
        }
    }
}

/// Runs a decoder of polars' on a file from outside. It is made for files that are what they say they are, and on
/// damaged ones some of its `unwrap`s and `assert`s panic: parquet with flipped bits does it about three times in a
/// thousand files (`tests/mutations.rs`). Such a panic is the file's fault and becomes an error, without the panic's own
/// text on stderr; nothing of the decoder outlives it.
pub(super) fn guarded<T>(
    path: &Path,
    format: &'static str,
    read: impl FnOnce() -> Result<T, String>,
) -> Result<T, DataError> {
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
        Ok(Err(message)) => Err(DataError::Read {
            path: path.to_path_buf(),
            format,
            message,
        }),
        Err(_) => Err(DataError::Damaged {
            path: path.to_path_buf(),
            format,
        }),
    }
}

/// The most that a file may unpack to: far more than compressed texts do, and less than a decompression bomb.
pub(super) fn most_bytes(file: usize) -> u64 {
    (512 << 20) + 256 * file as u64
}

/// A column of some rows, decoded; no arrays of a column that is not read.
pub(super) struct Arrays(pub(super) Vec<Box<dyn Array>>);

impl Arrays {
    /// Bytes of all texts, where each counts that stands for a million rows.
    pub(super) fn n_text_bytes(&self) -> u64 {
        fn of(array: &dyn Array) -> u64 {
            let any = array.as_any();
            if let Some(texts) = any.downcast_ref::<BinaryViewArray>() {
                texts.total_bytes_len() as u64
            } else if let Some(texts) = any.downcast_ref::<Utf8ViewArray>() {
                texts.total_bytes_len() as u64
            } else if let Some(lists) = any.downcast_ref::<ListArray<i64>>() {
                of(lists.values().as_ref())
            } else if let Some(objects) = any.downcast_ref::<StructArray>() {
                objects
                    .values()
                    .iter()
                    .map(|values| of(values.as_ref()))
                    .sum()
            } else {
                0
            }
        }
        self.0.iter().map(|array| of(array.as_ref())).sum()
    }

    /// The cells of these rows.
    pub(super) fn cells(&self, rows: Range<usize>) -> Vec<Cell<'_>> {
        let mut all = Vec::with_capacity(rows.len());
        let mut n_before = 0;
        for array in &self.0 {
            let inner = n_before..n_before + array.len();
            n_before = inner.end;
            let (start, end) = (rows.start.max(inner.start), rows.end.min(inner.end));
            if start < end {
                let range = start - inner.start..end - inner.start;
                cells(array.as_ref(), range, &mut all);
            }
        }
        // A column that is not read.
        all.resize(rows.len(), UNREADABLE);
        all
    }
}

const UNREADABLE: Cell<'static> = Cell::Other("neither text nor number");

/// Appends the cells of a part of an array.
fn cells<'a>(array: &'a dyn Array, rows: Range<usize>, all: &mut Vec<Cell<'a>>) {
    use ArrowDataType as Arrow;
    match array.dtype() {
        // Texts of parquet are decoded as bytes, so that a value that is not UTF-8 is a defect of its row and not of
        // the file. Bytes that are no texts are not decoded at all.
        Arrow::BinaryView => push::<BinaryViewArray>(array, rows, all, |array, i| {
            match std::str::from_utf8(array.value(i)) {
                Ok(text) => Cell::Text(Cow::Borrowed(text)),
                Err(_) => Cell::NotUtf8,
            }
        }),
        Arrow::Utf8View => push::<Utf8ViewArray>(array, rows, all, |array, i| {
            Cell::Text(Cow::Borrowed(array.value(i)))
        }),
        Arrow::Utf8 => texts::<i32>(array, rows, all),
        Arrow::LargeUtf8 => texts::<i64>(array, rows, all),
        Arrow::Dictionary(key, ..) => match key {
            IntegerType::Int8 => dictionary::<i8>(array, rows, all),
            IntegerType::Int16 => dictionary::<i16>(array, rows, all),
            IntegerType::Int32 => dictionary::<i32>(array, rows, all),
            IntegerType::Int64 => dictionary::<i64>(array, rows, all),
            IntegerType::UInt8 => dictionary::<u8>(array, rows, all),
            IntegerType::UInt16 => dictionary::<u16>(array, rows, all),
            IntegerType::UInt32 => dictionary::<u32>(array, rows, all),
            IntegerType::UInt64 => dictionary::<u64>(array, rows, all),
            _ => all.extend(rows.map(|_| UNREADABLE)),
        },
        Arrow::Boolean => {
            push::<BooleanArray>(array, rows, all, |array, i| Cell::Truth(array.value(i)));
        }
        Arrow::Int8 => numbers(array, rows, all, |n: i8| Cell::Integer(n.into())),
        Arrow::Int16 => numbers(array, rows, all, |n: i16| Cell::Integer(n.into())),
        Arrow::Int32 => numbers(array, rows, all, |n: i32| Cell::Integer(n.into())),
        Arrow::Int64 => numbers(array, rows, all, Cell::Integer),
        Arrow::UInt8 => numbers(array, rows, all, |n: u8| Cell::Integer(n.into())),
        Arrow::UInt16 => numbers(array, rows, all, |n: u16| Cell::Integer(n.into())),
        Arrow::UInt32 => numbers(array, rows, all, |n: u32| Cell::Integer(n.into())),
        Arrow::UInt64 => numbers(array, rows, all, |n: u64| match i64::try_from(n) {
            Ok(n) => Cell::Integer(n),
            Err(_) => Cell::Large(n),
        }),
        // Halves are decoded as their bytes.
        Arrow::FixedSizeBinary(2) => push::<FixedSizeBinaryArray>(array, rows, all, |array, i| {
            match array.value(i).try_into() {
                Ok(bytes) => Cell::Float(f16::from_le_bytes(bytes).into()),
                Err(_) => Cell::Null,
            }
        }),
        Arrow::Float32 => numbers(array, rows, all, |n: f32| Cell::Float(n.into())),
        Arrow::Float64 => numbers(array, rows, all, Cell::Float),
        Arrow::Decimal(_, 0) => numbers(array, rows, all, |n: i128| match i64::try_from(n) {
            Ok(n) => Cell::Integer(n),
            Err(_) => Cell::Float(n as f64),
        }),
        Arrow::Decimal(_, scale) => {
            let unit = 10_f64.powi((*scale).try_into().unwrap_or(i32::MAX));
            numbers(array, rows, all, |n: i128| Cell::Float(n as f64 / unit));
        }
        Arrow::List(_) => push::<ListArray<i32>>(array, rows, all, |array, i| {
            let (start, end) = array.offsets().start_end(i);
            list(array.values().as_ref(), start..end)
        }),
        Arrow::LargeList(_) => push::<ListArray<i64>>(array, rows, all, |array, i| {
            let (start, end) = array.offsets().start_end(i);
            list(array.values().as_ref(), start..end)
        }),
        Arrow::FixedSizeList(_, width) => {
            push::<FixedSizeListArray>(array, rows, all, |array, i| {
                list(array.values().as_ref(), i * width..(i + 1) * width)
            });
        }
        Arrow::Struct(fields) => push::<StructArray>(array, rows, all, |array, i| {
            let values = fields.iter().zip(array.values());
            let entries = values.map(|(field, values)| {
                let mut cell = Vec::with_capacity(1);
                cells(values.as_ref(), i..i + 1, &mut cell);
                let name = Cow::Borrowed(field.name.as_str());
                (name, cell.pop().unwrap_or(Cell::Null))
            });
            Cell::Object(entries.collect())
        }),
        _ => all.extend(rows.map(|_| UNREADABLE)),
    }
}

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
        // An array is what its type says.
        None => UNREADABLE,
    }));
}

fn numbers<'a, T: NativeType>(
    array: &'a dyn Array,
    rows: Range<usize>,
    all: &mut Vec<Cell<'a>>,
    cell: impl Fn(T) -> Cell<'a>,
) {
    push::<PrimitiveArray<T>>(array, rows, all, |array, i| cell(array.value(i)));
}

fn texts<'a, O: Offset>(array: &'a dyn Array, rows: Range<usize>, all: &mut Vec<Cell<'a>>) {
    push::<Utf8Array<O>>(array, rows, all, |array, i| {
        Cell::Text(Cow::Borrowed(array.value(i)))
    });
}

fn dictionary<'a, K: DictionaryKey>(
    array: &'a dyn Array,
    rows: Range<usize>,
    all: &mut Vec<Cell<'a>>,
) {
    push::<DictionaryArray<K>>(array, rows, all, |array, i| {
        let key = array.key_value(i);
        let mut cell = Vec::with_capacity(1);
        cells(array.values().as_ref(), key..key + 1, &mut cell);
        cell.pop().unwrap_or(Cell::Null)
    });
}

/// A list of some values of an array.
fn list(values: &dyn Array, range: Range<usize>) -> Cell<'_> {
    // Embeddings, which are long.
    if let Some(values) = values.as_any().downcast_ref::<PrimitiveArray<f32>>()
        && values.validity().is_none()
        && !range.is_empty()
    {
        return Cell::Floats(values.values()[range].to_vec());
    }
    let mut list = Vec::with_capacity(range.len());
    cells(values, range, &mut list);
    Cell::list(list)
}

/// Gives the consumer the first `n_rows` rows of decoded columns, of a file of which `n_before` rows came before, in
/// tables.
pub(super) fn take_decoded(
    path: &Path,
    format: &'static str,
    columns: &[Arrays],
    n_rows: usize,
    n_before: usize,
    consumer: &mut dyn Consumer,
) -> Result<(), DataError> {
    for start in (0..n_rows).step_by(ROWS_PER_TABLE) {
        let rows = start..n_rows.min(start + ROWS_PER_TABLE);
        let columns = columns
            .par_iter()
            .map(|arrays| guarded(path, format, || Ok(arrays.cells(rows.clone()))));
        consumer.take(RawTable {
            columns: columns.collect::<Result<_, _>>()?,
            n_rows: rows.len(),
            n_before: n_before + start,
            lines: None,
            defects: BTreeMap::new(),
        })?;
    }
    Ok(())
}

//! Tables as files: parquet, CSV, TSV, JSON Lines.

use std::{
    borrow::Cow,
    io::{self, BufWriter, Write},
    ops::Range,
    path::Path,
    sync::Arc,
};

use polars_arrow::{
    array::{Array, ListArray, PrimitiveArray, Utf8ViewArray},
    datatypes::{ArrowDataType, ArrowSchema, Field},
    offset::Offsets,
    record_batch::RecordBatchT,
};
use polars_buffer::Buffer;
use polars_error::PolarsError;
use polars_parquet::write::{
    CompressionOptions, Encoding, FileWriter, StatisticsOptions, Version, WriteOptions,
    get_dtype_encoding, row_group_iter,
};

use crate::{
    dataset::{Dataset, Labels},
    error::DataError,
    formats::{files::Kind, packed::inner_name},
};

/// A format that tables are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableFormat {
    /// `.parquet`.
    Parquet,
    /// `.csv`, with a header.
    Csv,
    /// `.tsv`, with a header.
    Tsv,
    /// `.jsonl`, `.ndjson` or `.json`: an object a line.
    JsonLines,
}

impl TableFormat {
    /// The format that a file's extension stands for, if any.
    pub fn of(path: &Path) -> Option<Self> {
        if inner_name(path) != path {
            return None;
        }
        Some(match Kind::of(path)? {
            Kind::Arrow => return None,
            Kind::Parquet => Self::Parquet,
            Kind::Csv { separator: b'\t' } => Self::Tsv,
            Kind::Csv { .. } => Self::Csv,
            Kind::JsonLines => Self::JsonLines,
        })
    }

    /// Whether a cell may be a list.
    pub fn has_lists(self) -> bool {
        matches!(self, Self::Parquet | Self::JsonLines)
    }
}

/// A column to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputColumn<'a> {
    /// Its name.
    pub name: String,
    /// Its values, one a row.
    pub cells: Cells<'a>,
}

impl<'a> OutputColumn<'a> {
    /// A column.
    pub fn new(name: &str, cells: Cells<'a>) -> Self {
        Self {
            name: name.to_owned(),
            cells,
        }
    }
}

/// The values of a column.
#[derive(Debug, Clone, PartialEq)]
pub enum Cells<'a> {
    /// Texts.
    Texts(Vec<&'a str>),
    /// Whole numbers.
    Integers(Vec<i64>),
    /// Numbers.
    Floats(Vec<f32>),
    /// A list of texts a row.
    TextLists(Vec<Vec<&'a str>>),
    /// A list of whole numbers a row.
    IntegerLists(Vec<Vec<i64>>),
    /// A list of numbers a row.
    FloatLists(Vec<Vec<f32>>),
    /// A list of so many numbers a row.
    Vectors {
        /// The numbers of all rows, row after row.
        values: Cow<'a, [f32]>,
        /// Numbers in a row.
        width: usize,
    },
}

impl Cells<'_> {
    fn is_list(&self) -> bool {
        matches!(
            self,
            Self::TextLists(_) | Self::IntegerLists(_) | Self::FloatLists(_) | Self::Vectors { .. }
        )
    }

    /// Number of rows.
    fn len(&self) -> usize {
        match self {
            Self::Texts(cells) => cells.len(),
            Self::Integers(cells) => cells.len(),
            Self::Floats(cells) => cells.len(),
            Self::TextLists(rows) => rows.len(),
            Self::IntegerLists(rows) => rows.len(),
            Self::FloatLists(rows) => rows.len(),
            Self::Vectors { values, width } => values.len() / (*width).max(1),
        }
    }

    /// The list of numbers in a row of vectors.
    fn vector(&self, row: usize) -> &[f32] {
        match self {
            Self::FloatLists(rows) => &rows[row],
            Self::Vectors { values, width } => &values[row * width..][..*width],
            _ => &[],
        }
    }

    /// The type of the column in parquet, as Arrow calls it.
    fn dtype(&self) -> ArrowDataType {
        let list = |dtype| {
            let item = Field::new("item".into(), dtype, true);
            ArrowDataType::LargeList(Box::new(item))
        };
        match self {
            Self::Texts(_) => ArrowDataType::Utf8View,
            Self::Integers(_) => ArrowDataType::Int64,
            Self::Floats(_) => ArrowDataType::Float32,
            Self::TextLists(_) => list(ArrowDataType::Utf8View),
            Self::IntegerLists(_) => list(ArrowDataType::Int64),
            Self::FloatLists(_) | Self::Vectors { .. } => list(ArrowDataType::Float32),
        }
    }

    /// Some rows for parquet.
    fn array(&self, rows: Range<usize>) -> Result<Box<dyn Array>, PolarsError> {
        let list = |values: Box<dyn Array>, lengths: &mut dyn Iterator<Item = usize>| {
            let mut offsets = Offsets::<i64>::new();
            for length in lengths {
                offsets.try_push(length)?;
            }
            let list = ListArray::try_new(self.dtype(), offsets.into(), values, None)?;
            Ok(list.boxed())
        };
        Ok(match self {
            Self::Texts(cells) => Utf8ViewArray::from_slice_values(&cells[rows]).boxed(),
            Self::Integers(cells) => PrimitiveArray::from_slice(&cells[rows]).boxed(),
            Self::Floats(cells) => PrimitiveArray::from_slice(&cells[rows]).boxed(),
            Self::TextLists(lists) => {
                let lists = &lists[rows];
                let values = Utf8ViewArray::from_slice_values(lists.concat());
                return list(values.boxed(), &mut lists.iter().map(Vec::len));
            }
            Self::IntegerLists(lists) => {
                let lists = &lists[rows];
                let values = PrimitiveArray::from_vec(lists.concat());
                return list(values.boxed(), &mut lists.iter().map(Vec::len));
            }
            Self::FloatLists(_) | Self::Vectors { .. } => {
                let lists = rows.map(|row| self.vector(row));
                let values: Vec<f32> = lists.clone().flatten().copied().collect();
                let values = PrimitiveArray::from_vec(values);
                return list(values.boxed(), &mut lists.map(<[f32]>::len));
            }
        })
    }

    /// Appends a cell of CSV or TSV.
    fn write_field(&self, row: usize, separator: u8, line: &mut Vec<u8>) {
        match self {
            Self::Texts(cells) => write_quoted(cells[row], separator, line),
            Self::Integers(cells) => line.extend(cells[row].to_string().bytes()),
            Self::Floats(cells) => line.extend(format!("{:?}", cells[row]).bytes()),
            // Refused before.
            Self::TextLists(_)
            | Self::IntegerLists(_)
            | Self::FloatLists(_)
            | Self::Vectors { .. } => {}
        }
    }

    /// Appends a cell of JSON Lines.
    fn write_json(&self, row: usize, line: &mut Vec<u8>) -> serde_json::Result<()> {
        match self {
            Self::Texts(cells) => serde_json::to_writer(line, cells[row]),
            Self::Integers(cells) => serde_json::to_writer(line, &cells[row]),
            Self::Floats(cells) => serde_json::to_writer(line, &cells[row]),
            Self::TextLists(rows) => serde_json::to_writer(line, &rows[row]),
            Self::IntegerLists(rows) => serde_json::to_writer(line, &rows[row]),
            Self::FloatLists(_) | Self::Vectors { .. } => {
                serde_json::to_writer(line, self.vector(row))
            }
        }
    }
}

/// Appends a text, in quotes where it needs them.
fn write_quoted(text: &str, separator: u8, line: &mut Vec<u8>) {
    let is_special = |byte: u8| byte == separator || [b'\n', b'\r', b'"'].contains(&byte);
    if !text.is_empty() && !text.bytes().any(is_special) {
        line.extend(text.bytes());
        return;
    }
    line.push(b'"');
    for byte in text.bytes() {
        if byte == b'"' {
            line.push(b'"');
        }
        line.push(byte);
    }
    line.push(b'"');
}

/// Writes a table, which [`crate::load()`] reads again where there are no lists.
///
/// # Errors
/// When the columns differ in length, a format without lists is to hold some, or `out` can't be
/// written.
pub fn write_table(
    out: impl Write,
    format: TableFormat,
    columns: &[OutputColumn<'_>],
) -> Result<(), DataError> {
    if let Some(lists) = columns.iter().find(|column| column.cells.is_list())
        && !format.has_lists()
    {
        return Err(DataError::Write(format!(
            "column `{}` holds lists, which CSV and TSV have not: write .parquet or .jsonl",
            lists.name
        )));
    }
    let n_rows = columns.first().map_or(0, |column| column.cells.len());
    if let Some(other) = columns.iter().find(|column| column.cells.len() != n_rows) {
        return Err(DataError::Write(format!(
            "column `{}` has {} rows where the first has {n_rows}",
            other.name,
            other.cells.len()
        )));
    }
    match format {
        TableFormat::Parquet => {
            write_parquet(out, columns, n_rows).map_err(|error| error.to_string())
        }
        TableFormat::Csv => {
            write_csv(out, b',', columns, n_rows).map_err(|error| error.to_string())
        }
        TableFormat::Tsv => {
            write_csv(out, b'\t', columns, n_rows).map_err(|error| error.to_string())
        }
        TableFormat::JsonLines => {
            write_json_lines(out, columns, n_rows).map_err(|error| error.to_string())
        }
    }
    .map_err(DataError::Write)
}

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
    let values = Cow::Borrowed(values);
    let width = dimension;
    let columns = [
        OutputColumn::new("text", Cells::Texts(texts.to_vec())),
        OutputColumn::new("embedding", Cells::Vectors { values, width }),
    ];
    write_table(out, TableFormat::Parquet, &columns)
}

fn write_parquet(
    out: impl Write,
    columns: &[OutputColumn<'_>],
    n_rows: usize,
) -> Result<(), PolarsError> {
    const ROWS_PER_GROUP: usize = 1 << 18;
    let fields = columns
        .iter()
        .map(|column| Field::new(column.name.as_str().into(), column.cells.dtype(), true));
    let schema: ArrowSchema = fields.collect();
    let encodings: Buffer<Vec<Encoding>> = schema
        .iter_values()
        .map(|field| get_dtype_encoding(&field.dtype))
        .collect();
    let options = WriteOptions {
        statistics: StatisticsOptions::default(),
        version: Version::V1,
        compression: CompressionOptions::Zstd(None),
        data_page_size: None,
    };
    let mut writer = FileWriter::try_new(out, schema.clone(), options)?;
    let schema = Arc::new(schema);
    for start in (0..n_rows).step_by(ROWS_PER_GROUP) {
        let rows = start..n_rows.min(start + ROWS_PER_GROUP);
        let arrays = columns
            .iter()
            .map(|column| column.cells.array(rows.clone()))
            .collect::<Result<_, _>>()?;
        let batch = RecordBatchT::try_new(rows.len(), Arc::clone(&schema), arrays)?;
        let types = writer.parquet_schema().fields().to_vec();
        let group = row_group_iter(batch, encodings.clone(), types, options);
        writer.write(rows.len() as u64, group)?;
    }
    writer.end(None)?;
    Ok(())
}

fn write_csv(
    out: impl Write,
    separator: u8,
    columns: &[OutputColumn<'_>],
    n_rows: usize,
) -> io::Result<()> {
    let mut out = BufWriter::new(out);
    let mut line = Vec::new();
    for (i, column) in columns.iter().enumerate() {
        line.extend((i > 0).then_some(separator));
        write_quoted(&column.name, separator, &mut line);
    }
    for row in 0..n_rows {
        line.push(b'\n');
        out.write_all(&line)?;
        line.clear();
        for (i, column) in columns.iter().enumerate() {
            line.extend((i > 0).then_some(separator));
            column.cells.write_field(row, separator, &mut line);
        }
    }
    line.push(b'\n');
    out.write_all(&line)?;
    out.flush()
}

fn write_json_lines(
    out: impl Write,
    columns: &[OutputColumn<'_>],
    n_rows: usize,
) -> io::Result<()> {
    let mut out = BufWriter::new(out);
    let mut line = Vec::new();
    for row in 0..n_rows {
        line.clear();
        for (i, column) in columns.iter().enumerate() {
            line.push(if i == 0 { b'{' } else { b',' });
            serde_json::to_writer(&mut line, &column.name)?;
            line.push(b':');
            column.cells.write_json(row, &mut line)?;
        }
        line.extend(b"}\n");
        out.write_all(&line)?;
    }
    out.flush()
}

impl Dataset {
    /// The data set as columns to be written: the texts in order, then the labels, as `label` where
    /// they are whole numbers, words or lists, and as `score` where they are fractions.
    pub fn output_columns(&self) -> Vec<OutputColumn<'_>> {
        let mut columns: Vec<OutputColumn<'_>> = self
            .columns
            .iter()
            .map(|column| {
                OutputColumn::new(&column.name, Cells::Texts(column.texts.iter().collect()))
            })
            .collect();
        columns.extend(self.labels.as_ref().map(|labels| match labels {
            Labels::Integer(labels) if !self.classes.is_empty() => {
                let word = |&label: &i64| self.classes.get(label as usize).map_or("", |word| word);
                OutputColumn::new("label", Cells::Texts(labels.iter().map(word).collect()))
            }
            Labels::Integer(labels) => OutputColumn::new("label", Cells::Integers(labels.clone())),
            Labels::Float(labels) => OutputColumn::new("score", Cells::Floats(labels.clone())),
            Labels::Vector { values, shape } => {
                let width = shape.iter().product::<usize>().max(1);
                let values = Cow::Borrowed(values.as_slice());
                OutputColumn::new("label", Cells::Vectors { values, width })
            }
        }));
        columns
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{load::load, options::LoadOptions};

    const TEXTS: [&str; 5] = [
        "plain",
        "a comma, a \"quote\" and\ta tab",
        "two\nlines\r\nof text",
        " spaces around ",
        "Füße 🐕 \u{202e}שלום",
    ];

    fn written(format: TableFormat, columns: &[OutputColumn<'_>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        write_table(&mut bytes, format, columns).unwrap();
        bytes
    }

    #[test]
    fn every_format_is_read_back_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let labels = [
            Cells::Integers(vec![0, 1, -7, 1 << 40, 2]),
            Cells::Floats(vec![0.5, -1e-7, 3.25, 1.0, 0.1]),
        ];
        for (cells, name) in labels.into_iter().zip(["label", "score"]) {
            let columns = [
                OutputColumn::new("anchor", Cells::Texts(TEXTS.to_vec())),
                OutputColumn::new(
                    "positive",
                    Cells::Texts(TEXTS.iter().rev().copied().collect()),
                ),
                OutputColumn::new(name, cells),
            ];
            for name in ["a.parquet", "a.csv", "a.tsv", "a.jsonl"] {
                let path = folder.path().join(name);
                let format = TableFormat::of(&path).unwrap();
                fs_err::write(&path, written(format, &columns)).unwrap();
                let dataset = load(&path.display().to_string(), &LoadOptions::default()).unwrap();
                assert_eq!(dataset.output_columns(), columns, "{name}");
            }
        }
    }

    #[test]
    fn lists_go_where_lists_can_be() {
        let columns = [
            OutputColumn::new("query", Cells::Texts(vec!["a", "b"])),
            OutputColumn::new("texts", Cells::TextLists(vec![vec!["x", "y"], vec!["z"]])),
            OutputColumn::new("labels", Cells::IntegerLists(vec![vec![1, 0], vec![1]])),
            OutputColumn::new("scores", Cells::FloatLists(vec![vec![0.5, 0.25], vec![]])),
        ];
        let lines = String::from_utf8(written(TableFormat::JsonLines, &columns)).unwrap();
        assert_eq!(
            lines,
            "{\"query\":\"a\",\"texts\":[\"x\",\"y\"],\"labels\":[1,0],\"scores\":[0.5,0.25]}\n\
             {\"query\":\"b\",\"texts\":[\"z\"],\"labels\":[1],\"scores\":[]}\n"
        );
        assert!(written(TableFormat::Parquet, &columns).starts_with(b"PAR1"));
        let error = write_table(Vec::new(), TableFormat::Csv, &columns).unwrap_err();
        assert!(error.to_string().contains("`texts` holds lists"), "{error}");
    }

    #[test]
    fn columns_of_different_lengths_are_refused() {
        let columns = [
            OutputColumn::new("a", Cells::Texts(vec!["x"])),
            OutputColumn::new("b", Cells::Texts(vec!["x", "y"])),
        ];
        assert!(write_table(Vec::new(), TableFormat::Csv, &columns).is_err());
    }
}

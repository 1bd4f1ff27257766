//! Tables as files: parquet, CSV, TSV, JSON Lines.

use std::{io::Write, path::Path};

use polars::prelude::{
    Column, CsvWriter, DataFrame, IntoColumn, JsonFormat, JsonWriter, NamedFrom, ParquetWriter,
    PlSmallStr, PolarsError, SerWriter, Series,
};

use crate::{
    dataset::{Dataset, Labels},
    error::DataError,
    formats::files::Kind,
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
        Some(match Kind::of(path)? {
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
}

impl Cells<'_> {
    fn is_list(&self) -> bool {
        matches!(
            self,
            Self::TextLists(_) | Self::IntegerLists(_) | Self::FloatLists(_)
        )
    }

    fn series(&self, name: &str) -> Series {
        let lists = |rows: Vec<Series>| Series::new(name.into(), rows);
        let unnamed = PlSmallStr::EMPTY;
        match self {
            Self::Texts(cells) => Series::new(name.into(), cells),
            Self::Integers(cells) => Series::new(name.into(), cells),
            Self::Floats(cells) => Series::new(name.into(), cells),
            Self::TextLists(rows) => lists(
                rows.iter()
                    .map(|row| Series::new(unnamed.clone(), row))
                    .collect(),
            ),
            Self::IntegerLists(rows) => lists(
                rows.iter()
                    .map(|row| Series::new(unnamed.clone(), row))
                    .collect(),
            ),
            Self::FloatLists(rows) => lists(
                rows.iter()
                    .map(|row| Series::new(unnamed.clone(), row))
                    .collect(),
            ),
        }
    }
}

/// Writes a table; what [`crate::load()`] reads again, where there are no lists.
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
    let write = || -> Result<(), PolarsError> {
        let columns: Vec<Column> = columns
            .iter()
            .map(|column| column.cells.series(&column.name).into_column())
            .collect();
        let height = columns.first().map_or(0, Column::len);
        let mut frame = DataFrame::new(height, columns)?;
        match format {
            TableFormat::Parquet => ParquetWriter::new(out).finish(&mut frame).map(|_| ()),
            TableFormat::Csv => CsvWriter::new(out).finish(&mut frame),
            TableFormat::Tsv => CsvWriter::new(out).with_separator(b'\t').finish(&mut frame),
            TableFormat::JsonLines => JsonWriter::new(out)
                .with_json_format(JsonFormat::JsonLines)
                .finish(&mut frame),
        }
    };
    write().map_err(|error| DataError::Write(error.to_string()))
}

impl Dataset {
    /// The data set as columns to be written: the texts in order, then the labels, as `label` where
    /// they are whole numbers or lists, and as `score` where they are fractions.
    pub fn output_columns(&self) -> Vec<OutputColumn<'_>> {
        let mut columns: Vec<OutputColumn<'_>> = self
            .columns
            .iter()
            .map(|column| {
                OutputColumn::new(&column.name, Cells::Texts(column.texts.iter().collect()))
            })
            .collect();
        columns.extend(self.labels.as_ref().map(|labels| match labels {
            Labels::Integer(labels) => OutputColumn::new("label", Cells::Integers(labels.clone())),
            Labels::Float(labels) => OutputColumn::new("score", Cells::Floats(labels.clone())),
            Labels::Vector { values, shape } => {
                let width = shape.iter().product::<usize>().max(1);
                let lists = values.chunks(width).map(<[f32]>::to_vec).collect();
                OutputColumn::new("label", Cells::FloatLists(lists))
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

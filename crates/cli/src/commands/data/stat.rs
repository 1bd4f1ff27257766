//! `sentune data stat`: statistics of a data set.

use std::collections::HashSet;

use data::{Dataset, Labels, TextColumn};
use model::SentenceTransformer;
use serde_json::{Map, Value, json};
use wording::thousands;

use crate::{
    flags::data::StatFlags,
    models::{load_model, set_max_seq_length},
    output::{print, print_json},
    session::Session,
    table,
    tokenizing::token_counts,
};

/// Classes that the table of labels shows.
const N_CLASSES: usize = 20;

/// Prints the statistics of a data set, after its first rows where they are asked for.
pub(super) fn run(flags: &StatFlags, dataset: &Dataset, session: &Session) -> anyhow::Result<()> {
    let model = match &flags.model {
        None => None,
        Some(name) => {
            let mut model = load_model(name, session)?;
            set_max_seq_length(&mut model, flags.max_seq_length)?;
            Some(model)
        }
    };
    let statistics = Statistics::new(dataset, model.as_ref(), session)?;
    if flags.json {
        return Ok(print_json(&statistics.to_json())?);
    }
    for row in 0..dataset.n_rows().min(flags.head) {
        print_json(&row_json(dataset, row))?;
    }
    let tables = statistics
        .tables()
        .into_iter()
        .map(|StatTable { header, rows }| {
            let header: Vec<&str> = header.iter().map(String::as_str).collect();
            table::table(&header, &rows)
        });
    Ok(print(&tables.collect::<Vec<_>>().join("\n"))?)
}

/// A table of statistics.
pub(crate) struct StatTable {
    pub(crate) header: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
}

fn table(header: &[&str], rows: &[Vec<String>]) -> StatTable {
    StatTable {
        header: header.iter().map(|&name| name.to_owned()).collect(),
        rows: rows.to_vec(),
    }
}

/// The statistics of a data set.
pub(crate) struct Statistics<'a> {
    dataset: &'a Dataset,
    columns: Vec<ColumnStat>,
    lengths: Option<Lengths>,
}

/// The lengths of each column's texts, with the longest input.
struct Lengths {
    limit: usize,
    columns: Vec<TokenLengths>,
}

/// Counts the tokens of all texts, without truncation.
fn lengths(
    dataset: &Dataset,
    model: &SentenceTransformer,
    session: &Session,
) -> anyhow::Result<Lengths> {
    let limit = model.max_seq_length();
    let columns = token_counts(dataset, model, session)?
        .into_iter()
        .map(|counts| TokenLengths::new(counts, limit))
        .collect();
    Ok(Lengths { limit, columns })
}

impl<'a> Statistics<'a> {
    /// Counts a data set's texts, with a model also their tokens.
    pub(crate) fn new(
        dataset: &'a Dataset,
        model: Option<&SentenceTransformer>,
        session: &Session,
    ) -> anyhow::Result<Self> {
        let lengths = model.map(|model| lengths(dataset, model, session));
        Ok(Self {
            columns: dataset.columns.iter().map(ColumnStat::new).collect(),
            lengths: lengths.transpose()?,
            dataset,
        })
    }

    /// The tables of rows, columns, tokens and labels, as far as there are such.
    pub(crate) fn tables(&self) -> Vec<StatTable> {
        let tokens = self
            .lengths
            .as_ref()
            .map(|lengths| self.tokens_table(lengths));
        let labels = self.dataset.labels.as_ref();
        let labels = labels.map(|labels| labels_table(labels, &self.dataset.classes));
        let tables = [
            Some(self.rows_table()),
            Some(self.columns_table()),
            tokens,
            labels,
        ];
        tables.into_iter().flatten().collect()
    }

    /// The mean tokens of a row, where they were counted.
    pub(crate) fn tokens_per_row(&self) -> Option<f64> {
        let lengths = self.lengths.as_ref()?;
        Some(lengths.columns.iter().map(|lengths| lengths.mean).sum())
    }

    fn rows_table(&self) -> StatTable {
        let dataset = self.dataset;
        let rows = [
            ("rows", dataset.n_rows()),
            ("left out as empty or broken", dataset.n_skipped),
            ("that repeat an earlier row", n_repeated_rows(dataset)),
            ("with one text in two columns", n_rows_of_one_text(dataset)),
        ];
        let rows = rows.map(|(name, n)| vec![name.to_owned(), thousands(n)]);
        table(&[&dataset.name, "number"], &rows)
    }

    fn columns_table(&self) -> StatTable {
        let rows: Vec<Vec<String>> = self
            .columns
            .iter()
            .map(|column| {
                vec![
                    column.name.clone(),
                    thousands(column.n_distinct),
                    thousands(column.n_repeated),
                    format!("{:.1}", column.mean_chars),
                    thousands(column.max_chars),
                ]
            })
            .collect();
        let header = [
            "column",
            "distinct texts",
            "repeated",
            "mean characters",
            "longest",
        ];
        table(&header, &rows)
    }

    fn tokens_table(&self, lengths: &Lengths) -> StatTable {
        let columns = self.columns.iter().zip(&lengths.columns);
        let rows: Vec<Vec<String>> = columns
            .map(|(column, lengths)| {
                let mut cells = vec![column.name.clone(), format!("{:.1}", lengths.mean)];
                let percentiles = lengths.percentiles.iter();
                cells.extend(percentiles.map(|(_, length)| thousands(*length)));
                cells.push(format!("{:.2} %", 100.0 * lengths.truncated));
                cells
            })
            .collect();
        let truncated = format!("over {}", lengths.limit);
        table(
            &[
                "tokens", "mean", "50 %", "90 %", "95 %", "99 %", "longest", &truncated,
            ],
            &rows,
        )
    }

    fn to_json(&self) -> Value {
        let dataset = self.dataset;
        let columns: Vec<Value> = self
            .columns
            .iter()
            .enumerate()
            .map(|(i, column)| {
                let mut object = json!({
                    "name": column.name,
                    "distinct": column.n_distinct,
                    "repeated": column.n_repeated,
                    "mean_characters": column.mean_chars,
                    "max_characters": column.max_chars,
                });
                if let Some(lengths) = &self.lengths {
                    let TokenLengths {
                        mean,
                        percentiles,
                        truncated,
                    } = &lengths.columns[i];
                    let percentiles: Map<String, Value> = percentiles
                        .iter()
                        .map(|(p, length)| (p.to_string(), json!(length)))
                        .collect();
                    object["tokens"] = json!({
                        "mean": mean,
                        "percentiles": percentiles,
                        "max_seq_length": lengths.limit,
                        "truncated": truncated,
                    });
                }
                object
            })
            .collect();
        let labels = match &dataset.labels {
            None => Value::Null,
            Some(Labels::Integer(labels)) => {
                let classes = classes(labels).into_iter();
                let classes: Map<String, Value> = classes
                    .map(|(class, n)| (class.to_string(), json!(n)))
                    .collect();
                json!({"classes": classes})
            }
            Some(Labels::Float(labels)) => {
                let [min, mean, max] = score_range(labels);
                json!({"min": min, "mean": mean, "max": max})
            }
            Some(Labels::Vector { values, shape }) => {
                let [min, mean, max] = score_range(values);
                json!({"shape": shape, "min": min, "mean": mean, "max": max})
            }
        };
        json!({
            "name": dataset.name,
            "rows": dataset.n_rows(),
            "skipped": dataset.n_skipped,
            "repeated_rows": n_repeated_rows(dataset),
            "rows_of_one_text": n_rows_of_one_text(dataset),
            "columns": columns,
            "labels": labels,
            "label_words": dataset.classes,
        })
    }
}

/// A column's texts in numbers.
struct ColumnStat {
    name: String,
    n_distinct: usize,
    n_repeated: usize,
    mean_chars: f64,
    max_chars: usize,
}

impl ColumnStat {
    fn new(column: &TextColumn) -> Self {
        let n_distinct = column.texts.iter().collect::<HashSet<_>>().len();
        let n_chars = || column.texts.iter().map(|text| text.chars().count());
        Self {
            name: column.name.clone(),
            n_distinct,
            n_repeated: column.texts.len() - n_distinct,
            mean_chars: n_chars().sum::<usize>() as f64 / column.texts.len().max(1) as f64,
            max_chars: n_chars().max().unwrap_or(0),
        }
    }
}

/// Statistics of the lengths of a column's texts in tokens.
struct TokenLengths {
    mean: f64,
    /// Nearest-rank percentiles; 100 is the longest.
    percentiles: [(usize, usize); 5],
    /// The share of texts that are cut off.
    truncated: f64,
}

impl TokenLengths {
    fn new(mut lengths: Vec<usize>, limit: usize) -> Self {
        lengths.sort_unstable();
        let n = lengths.len().max(1);
        let percentile = |p: usize| {
            let rank = (p * lengths.len()).div_ceil(100).max(1);
            lengths.get(rank - 1).copied().unwrap_or(0)
        };
        Self {
            mean: lengths.iter().sum::<usize>() as f64 / n as f64,
            percentiles: [50, 90, 95, 99, 100].map(|p| (p, percentile(p))),
            truncated: lengths.iter().filter(|length| **length > limit).count() as f64 / n as f64,
        }
    }
}

/// A row as a tuple of its texts and the bits of its label.
fn row_of(dataset: &Dataset, row: usize) -> (Vec<&str>, Option<Vec<u64>>) {
    let texts = dataset
        .columns
        .iter()
        .filter_map(|column| column.texts.get(row));
    let label = dataset.labels.as_ref().map(|labels| match labels {
        Labels::Integer(labels) => vec![labels[row] as u64],
        Labels::Float(labels) => vec![u64::from(labels[row].to_bits())],
        Labels::Vector { values, shape } => list_of(values, shape, row)
            .iter()
            .map(|value| u64::from(value.to_bits()))
            .collect(),
    });
    (texts.collect(), label)
}

/// The numbers of a row's label.
fn list_of<'a>(values: &'a [f32], shape: &[usize], row: usize) -> &'a [f32] {
    let n = shape.iter().product::<usize>();
    &values[row * n..(row + 1) * n]
}

fn n_repeated_rows(dataset: &Dataset) -> usize {
    let rows = (0..dataset.n_rows()).map(|row| row_of(dataset, row));
    dataset.n_rows() - rows.collect::<HashSet<_>>().len()
}

fn n_rows_of_one_text(dataset: &Dataset) -> usize {
    let has_two = |row: &usize| {
        let texts = row_of(dataset, *row).0;
        texts.iter().collect::<HashSet<_>>().len() < texts.len()
    };
    (0..dataset.n_rows()).filter(has_two).count()
}

/// The texts and the label of a row, by the names of columns.
pub(super) fn row_json(dataset: &Dataset, row: usize) -> Map<String, Value> {
    let texts = dataset.columns.iter();
    let mut object: Map<String, Value> = texts
        .map(|column| (column.name.clone(), json!(column.texts.get(row))))
        .collect();
    match &dataset.labels {
        None => None,
        Some(Labels::Integer(labels)) => object.insert("label".to_owned(), json!(labels[row])),
        Some(Labels::Float(labels)) => object.insert("score".to_owned(), json!(labels[row])),
        Some(Labels::Vector { values, shape }) => {
            object.insert("label".to_owned(), json!(list_of(values, shape, row)))
        }
    };
    object
}

/// Classes and how many rows each has, in order.
fn classes(labels: &[i64]) -> Vec<(i64, usize)> {
    let mut sorted = labels.to_vec();
    sorted.sort_unstable();
    let classes = sorted.chunk_by(|a, b| a == b);
    classes.map(|class| (class[0], class.len())).collect()
}

/// The least, the mean and the greatest score.
fn score_range(labels: &[f32]) -> [f64; 3] {
    let scores = || labels.iter().copied().map(f64::from);
    let mean = scores().sum::<f64>() / labels.len().max(1) as f64;
    [
        scores().fold(f64::INFINITY, f64::min),
        mean,
        scores().fold(f64::NEG_INFINITY, f64::max),
    ]
}

fn labels_table(labels: &Labels, words: &[String]) -> StatTable {
    match labels {
        Labels::Integer(labels) => {
            let classes = classes(labels);
            let mut rows: Vec<Vec<String>> = classes
                .iter()
                .take(N_CLASSES)
                .map(|(class, n)| {
                    let share = 100.0 * *n as f64 / labels.len() as f64;
                    let word = usize::try_from(*class).ok().and_then(|i| words.get(i));
                    let name = match word {
                        Some(word) => format!("{class} ({word})"),
                        None => class.to_string(),
                    };
                    vec![name, thousands(*n), format!("{share:.1} %")]
                })
                .collect();
            if classes.len() > N_CLASSES {
                let more = format!("{} more", thousands(classes.len() - N_CLASSES));
                rows.push(vec![more, String::new(), String::new()]);
            }
            table(&["label", "rows", "share"], &rows)
        }
        Labels::Float(labels) => {
            let row = score_range(labels).map(|score| format!("{score:.4}"));
            let row = [vec!["score".to_owned()], row.to_vec()].concat();
            table(&["labels", "least", "mean", "greatest"], &[row])
        }
        Labels::Vector { values, shape } => {
            let row = score_range(values).map(|score| format!("{score:.4}"));
            let row = [vec![format!("lists of {shape:?}")], row.to_vec()].concat();
            table(&["labels", "least", "mean", "greatest"], &[row])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_lengths_that_occur() {
        let lengths = TokenLengths::new((1..=200).rev().collect(), 190);
        assert_eq!(
            lengths.percentiles,
            [(50, 100), (90, 180), (95, 190), (99, 198), (100, 200)]
        );
        assert_eq!((lengths.mean, lengths.truncated), (100.5, 0.05));
        let one = TokenLengths::new(vec![7], 7);
        assert_eq!(one.percentiles.map(|(_, length)| length), [7; 5]);
        assert_eq!(one.truncated, 0.0);
    }

    #[test]
    fn labels_are_counted() {
        assert_eq!(classes(&[2, 0, 2, 1, 2]), [(0, 1), (1, 1), (2, 3)]);
        assert_eq!(score_range(&[0.5, 1.0, 0.0, 0.5]), [0.0, 0.5, 1.0]);
    }
}

//! `sentune data`: statistics of data sets, and conversions into others.

use std::{collections::HashSet, path::Path};

use anyhow::Context;
use data::{
    Cells, Dataset, Labels, OnBadRow, OutputColumn, TableFormat, TextColumn,
    nli::{self, Relation},
    split::{PartSize, split},
    write_table,
};
use serde_json::{Map, Value, json};

use crate::{
    flags::data::{ConvertFlags, DataCommand, DataFlags, SplitFlags, StatFlags, TripletsFlags},
    models::{load_model, set_max_seq_length},
    output::{check_free, print, print_json, replace, table_format},
    session::Session,
    source::{self, DataOptions},
    table::{table, thousands},
    usage::UsageError,
};

/// Classes that the table of labels shows.
const N_CLASSES: usize = 20;

/// Texts handed to the tokenizer at once.
const N_TEXTS_PER_CHUNK: usize = 4096;

/// Runs the subcommand.
pub(crate) fn run(command: &DataCommand, session: &Session) -> anyhow::Result<()> {
    match command {
        DataCommand::Stat(flags) => stat(flags, session),
        DataCommand::Convert(flags) => convert(flags, session),
        DataCommand::Split(flags) => split_into_parts(flags, session),
        DataCommand::Triplets(flags) => triplets(flags, session),
    }
}

fn load(flags: &DataFlags, bad_rows: OnBadRow, session: &Session) -> anyhow::Result<Dataset> {
    let options = DataOptions {
        columns: flags.columns.clone(),
        max_rows: flags.max_samples,
        on_bad_row: flags.on_bad_row.or(Some(bad_rows)),
        reading: flags.reading.clone(),
        ..DataOptions::default()
    };
    source::dataset(&flags.data, flags.split, &options, session)
}

fn convert(flags: &ConvertFlags, session: &Session) -> anyhow::Result<()> {
    let format = table_format("--output", &flags.output)?;
    check_free("--output", &flags.output, flags.overwrite)?;
    let dataset = load(&flags.data, OnBadRow::Error, session)?;
    write(&flags.output, format, &dataset.output_columns())
}

fn write(path: &Path, format: TableFormat, columns: &[OutputColumn<'_>]) -> anyhow::Result<()> {
    replace(path, |file| Ok(write_table(file, format, columns)?))
        .with_context(|| format!("writing {}", path.display()))?;
    let n_rows = match columns.first().map(|column| &column.cells) {
        Some(Cells::Texts(texts)) => texts.len(),
        _ => 0,
    };
    tracing::info!("wrote {} rows to {}", thousands(n_rows), path.display());
    Ok(())
}

fn split_into_parts(flags: &SplitFlags, session: &Session) -> anyhow::Result<()> {
    let size = |flag: &str, size: f64| match size {
        0.0..1.0 => Ok(PartSize::Share(size)),
        size if size >= 1.0 && size.fract() == 0.0 => Ok(PartSize::Rows(size as usize)),
        _ => Err(UsageError(format!(
            "{flag}: found {size}, allowed: a share from 0 to below 1, or a number of rows"
        ))),
    };
    let (dev, test) = (size("--dev", flags.dev)?, size("--test", flags.test)?);
    let path = |part: &str| flags.output_dir.join(format!("{part}.{}", flags.format));
    for part in ["train", "dev", "test"] {
        check_free("--output-dir:", &path(part), flags.overwrite)?;
    }
    let dataset = load(&flags.data, OnBadRow::Error, session)?;
    let parts =
        split(&dataset, dev, test, flags.seed, flags.no_shared_anchors).ok_or_else(|| {
            UsageError(format!(
                "--dev {} and --test {} leave nothing of {} rows to train on: lower them",
                flags.dev,
                flags.test,
                dataset.n_rows()
            ))
        })?;
    for (part, rows) in [
        ("train", parts.train),
        ("dev", parts.dev),
        ("test", parts.test),
    ] {
        let path = path(part);
        // A part that was not asked for has no file; one that lies there from before is not this split's.
        if rows.is_empty() {
            if path.exists() {
                fs_err::remove_file(&path)?;
            }
            continue;
        }
        let format = table_format("--format", &path)?;
        write(&path, format, &dataset.select(&rows).output_columns())?;
    }
    Ok(())
}

fn triplets(flags: &TripletsFlags, session: &Session) -> anyhow::Result<()> {
    let format = table_format("--output", &flags.output)?;
    check_free("--output", &flags.output, flags.overwrite)?;
    if flags.entailment == flags.contradiction {
        return Err(UsageError(format!(
            "--entailment and --contradiction are both {}: they must differ",
            flags.entailment
        ))
        .into());
    }
    let dataset = load(&flags.data, OnBadRow::Error, session)?;
    let relations = relations(&dataset, flags)?;
    let [premises, hypotheses] = [0, 1].map(|i| &dataset.columns[i].texts);
    let rows = premises.iter().zip(hypotheses.iter()).zip(relations);
    let rows = rows.map(|((premise, hypothesis), relation)| (premise, hypothesis, relation));
    let triplets = nli::triplets(rows, flags.max_per_positive.unwrap_or(usize::MAX));
    if triplets.is_empty() {
        anyhow::bail!(
            "{}: no premise has both a hypothesis labelled {} and one labelled {}: say what the labels are with --entailment and --contradiction",
            dataset.name,
            flags.entailment,
            flags.contradiction
        );
    }
    let (positives, negatives): (Vec<u32>, Vec<u32>) = triplets.into_iter().unzip();
    let anchors = premises.select(&positives);
    let (positives, negatives) = (hypotheses.select(&positives), hypotheses.select(&negatives));
    let columns = [
        ("anchor", &anchors),
        ("positive", &positives),
        ("negative", &negatives),
    ]
    .map(|(name, texts)| OutputColumn::new(name, Cells::Texts(texts.iter().collect())));
    write(&flags.output, format, &columns)
}

/// The relation of each hypothesis to its premise, from labels or from a third column of words.
fn relations(dataset: &Dataset, flags: &TripletsFlags) -> Result<Vec<Relation>, UsageError> {
    let of = |is_entailment, is_contradiction| match (is_entailment, is_contradiction) {
        (true, _) => Relation::Entailment,
        (_, true) => Relation::Contradiction,
        _ => Relation::Other,
    };
    match (dataset.columns.as_slice(), &dataset.labels) {
        ([_, _], Some(Labels::Integer(labels))) => Ok(labels
            .iter()
            .map(|label| of(*label == flags.entailment, *label == flags.contradiction))
            .collect()),
        ([_, _, words], None) => Ok(words
            .texts
            .iter()
            .map(|word| of(word == "entailment", word == "contradiction"))
            .collect()),
        _ => Err(UsageError(format!(
            "--data {} has the text columns {} and {}, but premise, hypothesis and a whole number as label, or a third text column with `entailment` and `contradiction`, are needed: choose them with --columns",
            flags.data.data,
            dataset.column_names().join(", "),
            match &dataset.labels {
                None => "no labels",
                Some(Labels::Integer(_)) => "labels",
                Some(Labels::Float(_)) => "scores",
                Some(Labels::Vector { .. }) => "lists as labels",
            }
        ))),
    }
}

fn stat(flags: &StatFlags, session: &Session) -> anyhow::Result<()> {
    let dataset = load(&flags.data, OnBadRow::Skip, session)?;
    let lengths = match &flags.model {
        None => None,
        Some(name) => {
            let mut model = load_model(name, session)?;
            set_max_seq_length(&mut model, flags.max_seq_length)?;
            let limit = model.max_seq_length();
            let tokenizer = model.tokenizer().without_truncation()?;
            let bar = session.bar("tokenizing", dataset.n_rows() * dataset.columns.len());
            let lengths = dataset
                .columns
                .iter()
                .map(|column| {
                    let texts: Vec<&str> = column.texts.iter().collect();
                    let mut lengths = Vec::with_capacity(texts.len());
                    for chunk in texts.chunks(N_TEXTS_PER_CHUNK) {
                        session.check()?;
                        lengths.extend(tokenizer.encode_batch(chunk)?.iter().map(Vec::len));
                        bar.inc(chunk.len() as u64);
                    }
                    Ok(TokenLengths::new(lengths, limit))
                })
                .collect::<anyhow::Result<Vec<_>>>()?;
            bar.finish_and_clear();
            Some((limit, lengths))
        }
    };
    let columns: Vec<ColumnStat> = dataset.columns.iter().map(ColumnStat::new).collect();
    if flags.json {
        return Ok(print_json(&stat_json(
            &dataset,
            &columns,
            lengths.as_ref(),
        ))?);
    }
    for row in 0..dataset.n_rows().min(flags.head) {
        print_json(&row_json(&dataset, row))?;
    }
    let mut text = String::new();
    let mut rows: Vec<Vec<String>> = vec![
        vec!["rows".to_owned(), thousands(dataset.n_rows())],
        vec![
            "left out as empty or broken".to_owned(),
            thousands(dataset.n_skipped),
        ],
        vec![
            "that repeat an earlier row".to_owned(),
            thousands(n_repeated_rows(&dataset)),
        ],
        vec![
            "with one text in two columns".to_owned(),
            thousands(n_rows_of_one_text(&dataset)),
        ],
    ];
    text += &table(&[&dataset.name, "number"], &rows);
    rows = columns
        .iter()
        .map(|column| {
            let ColumnStat {
                name,
                n_distinct,
                n_repeated,
                mean_chars,
                max_chars,
            } = column;
            vec![
                name.clone(),
                thousands(*n_distinct),
                thousands(*n_repeated),
                format!("{mean_chars:.1}"),
                thousands(*max_chars),
            ]
        })
        .collect();
    text.push('\n');
    text += &table(
        &[
            "column",
            "distinct texts",
            "repeated",
            "mean characters",
            "longest",
        ],
        &rows,
    );
    if let Some((limit, lengths)) = &lengths {
        rows = columns
            .iter()
            .zip(lengths)
            .map(|(column, lengths)| {
                let mut cells = vec![column.name.clone(), format!("{:.1}", lengths.mean)];
                cells.extend(
                    lengths
                        .percentiles
                        .iter()
                        .map(|(_, length)| thousands(*length)),
                );
                cells.push(format!("{:.2} %", 100.0 * lengths.truncated));
                cells
            })
            .collect();
        let truncated = format!("over {limit}");
        text.push('\n');
        text += &table(
            &[
                "tokens", "mean", "50 %", "90 %", "95 %", "99 %", "longest", &truncated,
            ],
            &rows,
        );
    }
    if let Some(labels) = &dataset.labels {
        text.push('\n');
        text += &labels_table(labels, &dataset.classes);
    }
    Ok(print(&text)?)
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

fn row_json(dataset: &Dataset, row: usize) -> Map<String, Value> {
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

fn labels_table(labels: &Labels, words: &[String]) -> String {
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

fn stat_json(
    dataset: &Dataset,
    columns: &[ColumnStat],
    lengths: Option<&(usize, Vec<TokenLengths>)>,
) -> Value {
    let columns: Vec<Value> = columns
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
            if let Some((limit, lengths)) = lengths {
                let TokenLengths {
                    mean,
                    percentiles,
                    truncated,
                } = &lengths[i];
                let percentiles: Map<String, Value> = percentiles
                    .iter()
                    .map(|(p, length)| (p.to_string(), json!(length)))
                    .collect();
                object["tokens"] = json!({
                    "mean": mean,
                    "percentiles": percentiles,
                    "max_seq_length": limit,
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

//! Evaluators of tables with ids and lists: retrieval, reranking, paraphrase mining.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use data::{Field, FieldKind, OnBadRow, Wanted, load_fields, load_fields_of};
use eval::{
    Inputs,
    entry::{self, Cells, Entry, Holds, Table, TableNeeds},
};

use super::{
    part::Part,
    subject::{Evaluated, Subject},
};
use crate::{flags::eval::EvalFlags, source::local_name, table::counted, usage::UsageError};

/// The tables of an evaluator, read.
pub(super) struct Tables {
    entry: &'static Entry,
    needs: &'static TableNeeds,
    name: String,
    tables: Vec<entry::Columns>,
}

impl Tables {
    pub(super) fn load(
        part: &Part,
        entry: &'static Entry,
        needs: &'static TableNeeds,
        flags: &EvalFlags,
    ) -> anyhow::Result<Self> {
        let mut sources = Vec::with_capacity(needs.tables.len());
        for table in needs.tables {
            sources.push(match table.flag {
                None => local_file(part, entry)?,
                Some(flag) => flags
                    .of_evaluators
                    .text(flag.name)
                    .ok_or_else(|| missing(entry, needs))?,
            });
        }
        let mut tables = Vec::with_capacity(needs.tables.len());
        for (i, (table, source)) in needs.tables.iter().zip(&sources).enumerate() {
            let mut columns = read(table, source, flags)?;
            // The first table is the one whose rows are evaluated.
            if let (0, Some(max)) = (i, flags.options.max_samples) {
                columns
                    .iter_mut()
                    .flatten()
                    .for_each(|cells| truncate(cells, max));
            }
            refuse_repeated(table, &columns)?;
            tables.push(columns);
        }
        let own = || match needs.tables[needs.named_by].flag {
            None => local_name(Path::new(sources[needs.named_by])),
            Some(_) => name_of(sources[needs.named_by]),
        };
        Ok(Self {
            entry,
            needs,
            name: part.name.clone().unwrap_or_else(own),
            tables,
        })
    }

    pub(super) fn evaluate(self, subject: &Subject<'_>) -> anyhow::Result<Evaluated> {
        let prepared = (self.needs.build)(&self.name, &subject.options, self.tables)?;
        let embeddings = subject.embed_sides(self.entry, &prepared.texts, &self.name)?;
        let counts = prepared.counts.iter().map(|(n, unit)| counted(*n, unit));
        let what = counts.collect::<Vec<_>>().join(" in ");
        subject.evaluate(prepared.evaluator.as_ref(), &Inputs::new(&embeddings), what)
    }
}

/// The error where an evaluator's tables are not all there.
fn missing(entry: &Entry, needs: &TableNeeds) -> UsageError {
    let tables = needs
        .tables
        .iter()
        .filter_map(|table| Some((table.flag?, table.words)));
    let mut tables: Vec<String> = tables
        .map(|(flag, words)| format!("--{} ({words})", flag.name))
        .collect();
    let last = tables.pop().unwrap_or_default();
    let tables = match tables.is_empty() {
        true => last,
        false => format!("{} and {last}", tables.join(", ")),
    };
    UsageError(format!("--evaluator {} needs {tables}", entry.name))
}

/// Reads a table with its usual columns, or those that a flag names.
fn read(table: &Table, source: &str, flags: &EvalFlags) -> anyhow::Result<entry::Columns> {
    let (flag, given) = match table.columns_flag {
        None => ("columns", flags.options.columns.as_deref()),
        Some(flag) => (flag.name, flags.of_evaluators.texts(flag.name)),
    };
    let n_columns = table.columns.len();
    let n_needed = table
        .columns
        .iter()
        .filter(|column| !column.is_optional)
        .count();
    if let Some(given) = given.filter(|given| !(n_needed..=n_columns).contains(&given.len())) {
        let counts: Vec<String> = (n_needed..=n_columns).map(|n| n.to_string()).collect();
        return Err(UsageError(format!(
            "--{flag} {}: {} columns are needed",
            given.join(","),
            counts.join(" or ")
        ))
        .into());
    }
    let chosen: Vec<Vec<&str>> = (0..n_columns)
        .map(|i| match given {
            None => table.columns[i].names.to_vec(),
            Some(given) => given.get(i).map(String::as_str).into_iter().collect(),
        })
        .collect();
    let names: Vec<&[&str]> = chosen.iter().map(Vec::as_slice).collect();
    let mut wanted = wanted(table, &names);
    if given.is_some() {
        // A column that is named has to be there.
        for (wanted, names) in wanted.iter_mut().zip(&names) {
            wanted.optional &= names.is_empty();
        }
    }
    Ok(cells(load_fields(
        source,
        &wanted,
        flags.options.on_bad_row,
    )?))
}

/// Reads files of a table with its usual columns, without those that it may lack.
pub(super) fn read_files(table: &Table, files: &[PathBuf]) -> anyhow::Result<entry::Columns> {
    let needed = table.columns.iter().map(|column| match column.is_optional {
        true => [].as_slice(),
        false => column.names,
    });
    let names: Vec<&[&str]> = needed.collect();
    let fields = load_fields_of(files, &wanted(table, &names), OnBadRow::Error)?;
    Ok(cells(fields))
}

fn wanted<'a>(table: &Table, names: &[&'a [&'a str]]) -> Vec<Wanted<'a>> {
    let columns = table.columns.iter().zip(names);
    let wanted = columns.map(|(column, names)| Wanted {
        names,
        holds: match column.holds {
            Holds::Id => FieldKind::Id,
            Holds::Ids => FieldKind::Ids,
            Holds::Text => FieldKind::Text,
            Holds::Texts => FieldKind::Texts,
            Holds::Number => FieldKind::Number,
        },
        optional: column.is_optional,
    });
    wanted.collect()
}

fn cells(fields: Vec<Option<Field>>) -> entry::Columns {
    let cells = |field| match field {
        Field::Texts(texts) => Cells::Texts(texts),
        Field::Lists(lists) => Cells::Lists(lists),
        Field::Numbers(numbers) => Cells::Numbers(numbers),
    };
    fields.into_iter().map(|field| field.map(cells)).collect()
}

fn truncate(cells: &mut Cells, max: usize) {
    match cells {
        Cells::Texts(texts) => texts.truncate(max),
        Cells::Lists(lists) => lists.truncate(max),
        Cells::Numbers(numbers) => numbers.truncate(max),
    }
}

fn refuse_repeated(table: &Table, columns: &entry::Columns) -> Result<(), UsageError> {
    for (column, cells) in table.columns.iter().zip(columns) {
        let Some(Cells::Texts(ids)) = cells.as_ref().filter(|_| column.is_unique) else {
            continue;
        };
        let mut seen = HashSet::new();
        if let Some(id) = ids.iter().find(|id| !seen.insert(id.as_str())) {
            let flag = table.flag.map_or("data", |flag| flag.name);
            return Err(UsageError(format!("--{flag}: the id `{id}` comes twice")));
        }
    }
    Ok(())
}

/// The folder's name for a file that is only called corpus, else the file's.
fn name_of(corpus: &str) -> String {
    let path = Path::new(corpus);
    let name = local_name(path);
    let folder = path.parent().and_then(Path::file_name);
    match folder {
        Some(folder) if name == "corpus" => folder.to_string_lossy().into_owned(),
        _ => name,
    }
}

/// The file of a part whose data is no data set of the usual form.
fn local_file<'a>(part: &'a Part, entry: &Entry) -> Result<&'a str, UsageError> {
    let source = part.data.as_ref().map_or("", |data| data.value.as_str());
    let is_pattern = source.contains(['*', '?', '[']);
    if is_pattern || Path::new(source).exists() {
        return Ok(source);
    }
    Err(UsageError(format!(
        "--data {source}: there is no such file, and --evaluator {} takes files only, not names on the hub",
        entry.name
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_corpus_is_named_after_its_folder() {
        assert_eq!(name_of("beir/scifact/corpus.jsonl"), "scifact");
        assert_eq!(name_of("beir/scifact/documents.jsonl"), "documents");
        assert_eq!(name_of("corpus.jsonl"), "corpus");
    }
}

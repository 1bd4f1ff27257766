//! Evaluators of tables with ids and lists: retrieval, reranking, paraphrase mining.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use data::{Field, FieldKind, OnBadRow, Wanted, load_fields, load_fields_of};
use eval::{
    EvalError, Options,
    entry::{self, Cells, Entry, Holds, Prepared, Table, TableNeeds},
};
use sha2::{Digest, Sha256};
use wording::counted;

use crate::{flags::eval::EvaluatorFlags, source::local_name, usage::UsageError};

/// The tables of an evaluator, read.
#[derive(Debug, Clone)]
pub(crate) struct Tables {
    pub(crate) entry: &'static Entry,
    pub(crate) name: String,
    needs: &'static TableNeeds,
    tables: Vec<entry::Columns>,
}

/// The files of tables, and how they are read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sources<'a> {
    /// The flags of evaluators, which name files and columns.
    pub(crate) flags: &'a EvaluatorFlags,
    /// The file of a table that no flag of its own names, and the flag that does.
    pub(crate) data: Option<&'a str>,
    pub(crate) data_flag: &'static str,
    /// The columns of that table.
    pub(crate) columns: Option<&'a [String]>,
    pub(crate) max_rows: Option<usize>,
    pub(crate) on_bad_row: OnBadRow,
}

impl Tables {
    /// Reads the tables. `name` is what the metrics begin with, by default the name of a file.
    pub(crate) fn load(
        entry: &'static Entry,
        needs: &'static TableNeeds,
        name: Option<String>,
        sources: &Sources<'_>,
    ) -> anyhow::Result<Self> {
        let mut files = Vec::with_capacity(needs.tables.len());
        for table in needs.tables {
            files.push(match table.flag {
                None => local_file(sources, entry)?,
                Some(flag) => sources
                    .flags
                    .text(flag.name)
                    .ok_or_else(|| missing(entry, needs))?,
            });
        }
        let mut tables = Vec::with_capacity(needs.tables.len());
        for (i, (table, file)) in needs.tables.iter().zip(&files).enumerate() {
            let mut columns = read(table, file, sources)?;
            // The first table is the one whose rows are evaluated.
            if let (0, Some(max)) = (i, sources.max_rows) {
                columns
                    .iter_mut()
                    .flatten()
                    .for_each(|cells| truncate(cells, max));
            }
            refuse_repeated(table, &columns, sources.data_flag)?;
            tables.push(columns);
        }
        if let ([queries, corpus, qrels], None) = (tables.as_slice(), sources.max_rows) {
            warn_of_unknown_ids(queries, corpus, qrels);
        }
        let own = || match needs.tables[needs.named_by].flag {
            None => local_name(Path::new(files[needs.named_by])),
            Some(_) => name_of(files[needs.named_by]),
        };
        Ok(Self {
            entry,
            needs,
            name: name.unwrap_or_else(own),
            tables,
        })
    }

    /// Makes the evaluator.
    pub(crate) fn prepare(self, options: &Options) -> Result<Prepared, EvalError> {
        (self.needs.build)(&self.name, options, self.tables)
    }

    /// A digest of all cells.
    pub(crate) fn sha256(&self) -> String {
        sha256(&self.tables)
    }
}

/// A digest of all cells of tables.
pub(crate) fn sha256<'t>(tables: impl IntoIterator<Item = &'t entry::Columns>) -> String {
    let mut hash = Sha256::new();
    for cells in tables.into_iter().flatten() {
        let text = match cells {
            None => String::new(),
            Some(Cells::Texts(texts)) => format!("{texts:?}"),
            Some(Cells::Lists(lists)) => format!("{lists:?}"),
            Some(Cells::Numbers(numbers)) => format!("{numbers:?}"),
        };
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    hex::encode(hash.finalize())
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
fn read(table: &Table, source: &str, sources: &Sources<'_>) -> anyhow::Result<entry::Columns> {
    let (flag, given) = match table.columns_flag {
        None => ("columns", sources.columns),
        Some(flag) => (flag.name, sources.flags.texts(flag.name)),
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
    let has_titles = given.is_none() && table.flag.is_some_and(|flag| flag.name == "corpus");
    if has_titles {
        wanted.push(Wanted {
            names: &["title"],
            holds: FieldKind::TextOrNone,
            optional: true,
        });
    }
    let mut columns = cells(load_fields(source, &wanted, sources.on_bad_row)?);
    if has_titles && let Some(Cells::Texts(titles)) = columns.pop().flatten() {
        put_titles(&mut columns, &titles);
    }
    Ok(columns)
}

/// Puts the titles of a corpus, which are those of its rows, before the texts.
fn put_titles(corpus: &mut entry::Columns, titles: &[String]) {
    let mut n_titles = 0;
    let Some(Some(Cells::Texts(texts))) = corpus.get_mut(1) else {
        return;
    };
    for (text, title) in texts.iter_mut().zip(titles) {
        if !title.trim().is_empty() {
            n_titles += 1;
            *text = format!("{title} {text}");
        }
    }
    if n_titles > 0 {
        tracing::info!(
            "--corpus: texts with their titles before them: {} (--corpus-columns with the id and the text alone leaves them out)",
            counted(n_titles, "titles")
        );
    }
}

/// Warns of judgements of queries and documents that are not there.
fn warn_of_unknown_ids(queries: &entry::Columns, corpus: &entry::Columns, qrels: &entry::Columns) {
    let texts = |columns: &entry::Columns| match columns.first() {
        Some(Some(Cells::Texts(ids))) => ids.iter().cloned().collect(),
        _ => HashSet::new(),
    };
    let (query_ids, document_ids) = (texts(queries), texts(corpus));
    let judged: HashSet<&String> = match qrels.get(1) {
        Some(Some(Cells::Lists(lists))) => lists.iter().flatten().collect(),
        _ => HashSet::new(),
    };
    let judged_queries = texts(qrels);
    let n_queries = judged_queries.difference(&query_ids).count();
    let n_documents = judged
        .iter()
        .filter(|id| !document_ids.contains(**id))
        .count();
    if n_queries > 0 || n_documents > 0 {
        tracing::warn!(
            "--qrels: {} and {} of the judgements are not there",
            counted(n_queries, "queries"),
            counted(n_documents, "documents")
        );
    }
}

/// Reads files of a table with its usual columns, without those that it may lack.
pub(crate) fn read_files(table: &Table, files: &[PathBuf]) -> anyhow::Result<entry::Columns> {
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

fn refuse_repeated(
    table: &Table,
    columns: &entry::Columns,
    data_flag: &str,
) -> Result<(), UsageError> {
    for (column, cells) in table.columns.iter().zip(columns) {
        let Some(Cells::Texts(ids)) = cells.as_ref().filter(|_| column.is_unique) else {
            continue;
        };
        let mut seen = HashSet::new();
        if let Some(id) = ids.iter().find(|id| !seen.insert(id.as_str())) {
            let flag = table.flag.map_or(data_flag, |flag| flag.name);
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

/// The file of a table that no flag of the evaluator names.
fn local_file<'a>(sources: &Sources<'a>, entry: &Entry) -> Result<&'a str, UsageError> {
    let (source, flag) = (sources.data.unwrap_or_default(), sources.data_flag);
    let is_pattern = source.contains(['*', '?', '[']);
    if is_pattern || Path::new(source).exists() {
        return Ok(source);
    }
    Err(UsageError(format!(
        "--{flag} {source}: there is no such file, and --evaluator {} takes files only, not names on the hub",
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

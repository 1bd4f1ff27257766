//! Loading of a source as a [`Dataset`], with every row checked.

use std::path::{Path, PathBuf};

use crate::{
    check::{self, LabelBuilder, check_not_numbers},
    choose::choose,
    dataset::{Dataset, Labels, TextColumn, Texts},
    error::{BadRow, BadRows, DataError, Defect},
    formats::{
        self, Consumer, RawTable, Schema,
        files::{self, Kind},
    },
    options::LoadOptions,
    sampler::MAX_ROWS,
};

/// Loads a file, a folder (its data files, sorted by name; hidden files, other files and
/// subfolders are left aside) or a pattern such as `data/train-*.parquet`. The extension says the
/// format: `.parquet`, `.csv`, `.tsv`, and JSON Lines as `.jsonl`, `.ndjson` or `.json`.
///
/// A column named as in [`crate::LABEL_COLUMNS`] becomes the labels; the others must hold text.
/// Every row that is read is checked before this returns.
///
/// # Errors
/// See [`DataError`]; a message names the file, and for a bad row its number and column.
pub fn load(source: &str, options: &LoadOptions) -> Result<Dataset, DataError> {
    let (paths, kind) = files::find(source)?;
    load_all(source, paths, kind, options)
}

/// Loads these files, one after the other, as one data set, as [`load`] does.
///
/// # Errors
/// As [`load`].
pub fn load_files(paths: &[PathBuf], options: &LoadOptions) -> Result<Dataset, DataError> {
    let source = paths
        .iter()
        .map(|path| path.display().to_string())
        .collect::<Vec<_>>()
        .join(", ");
    let kind = files::common_kind(&source, paths)?;
    load_all(&source, paths.to_vec(), kind, options)
}

fn load_all(
    source: &str,
    paths: Vec<PathBuf>,
    kind: Kind,
    options: &LoadOptions,
) -> Result<Dataset, DataError> {
    let mut all: Option<(PathBuf, Content)> = None;
    let mut n_read = 0;
    let mut first_skipped: Option<(PathBuf, BadRow)> = None;
    let mut n_skipped = 0;
    for path in paths {
        let max_rows = options.max_rows.map_or(usize::MAX, |max| max - n_read);
        if max_rows == 0 {
            break;
        }
        let mut rows = DatasetRows::new(&path, options, n_read);
        formats::read(&path, kind, max_rows, &mut rows)?;
        n_read = rows.n_read;
        let (content, skipped) = rows.finish()?;
        n_skipped += skipped.n_bad;
        if let (None, Some(bad)) = (&first_skipped, skipped.first.into_iter().next()) {
            first_skipped = Some((path.clone(), bad));
        }
        match &mut all {
            None => all = Some((path, content)),
            Some((first, whole)) => append(whole, content, first, path)?,
        }
    }
    if let Some((path, bad)) = first_skipped {
        tracing::warn!(
            "skipped {n_skipped} of {n_read} rows; the first is {}: {bad}",
            path.display()
        );
    }
    let dataset = all.map(|(_, content)| Dataset {
        name: options.name.clone().unwrap_or_else(|| name_of(source)),
        columns: content.columns,
        labels: content.label.map(|(_, labels)| labels),
        n_skipped,
    });
    match dataset {
        Some(dataset) if dataset.n_rows() > 0 => {
            warn_of_odd_columns(&dataset);
            Ok(dataset)
        }
        _ => Err(DataError::NoRows {
            pattern: source.to_owned(),
            n_skipped,
        }),
    }
}

/// A file's columns as the data set takes them in.
struct Content {
    columns: Vec<TextColumn>,
    label: Option<(String, Labels)>,
}

/// Takes the rows of a file and checks each.
struct DatasetRows<'o> {
    path: &'o Path,
    options: &'o LoadOptions,
    is_typed: bool,
    columns: Vec<TextColumn>,
    label: Option<(String, LabelBuilder)>,
    /// Rows looked at, those of files before this one among them.
    n_read: usize,
    n_before: usize,
    bad_rows: BadRows,
}

impl<'o> DatasetRows<'o> {
    fn new(path: &'o Path, options: &'o LoadOptions, n_before: usize) -> Self {
        Self {
            path,
            options,
            is_typed: true,
            columns: Vec::new(),
            label: None,
            n_read: n_before,
            n_before,
            bad_rows: BadRows::default(),
        }
    }

    /// Appends row `i`, or says what is wrong with it and in which column.
    fn take_row(&mut self, rows: &RawTable<'_>, i: usize) -> Result<(), (Option<String>, Defect)> {
        if let Some((column, defect)) = rows.defects.get(&i) {
            return Err((column.clone(), defect.clone()));
        }
        let mut texts = Vec::with_capacity(self.columns.len());
        for (column, cells) in self.columns.iter().zip(&rows.columns) {
            let text = check::text(&cells[i]);
            texts.push(text.map_err(|defect| (Some(column.name.clone()), defect))?);
        }
        if let (Some((name, labels)), Some(cells)) = (&mut self.label, rows.columns.last()) {
            let label = labels.check(&cells[i], self.is_typed);
            labels.push(label.map_err(|defect| (Some(name.clone()), defect))?);
        }
        for (column, text) in self.columns.iter_mut().zip(texts) {
            column.texts.push(text);
        }
        Ok(())
    }

    fn finish(self) -> Result<(Content, BadRows), DataError> {
        let n_read = self.n_read - self.n_before;
        let bad_rows = self.bad_rows;
        let skipped = bad_rows.check(self.path, n_read, self.options.on_bad_row)?;
        if !self.is_typed && self.options.columns.is_none() {
            check_not_numbers(self.path, &self.columns)?;
        }
        let content = Content {
            columns: self.columns,
            label: self.label.map(|(name, labels)| (name, labels.finish())),
        };
        Ok((content, skipped))
    }
}

impl Consumer for DatasetRows<'_> {
    fn choose(&mut self, schema: &Schema) -> Result<Vec<usize>, DataError> {
        self.is_typed = schema.is_typed;
        let chosen = choose(self.path, schema, self.options)?;
        let name = |&place: &usize| schema.columns[place].name.clone();
        let columns = chosen.texts.iter().map(|place| TextColumn {
            name: name(place),
            texts: Texts::default(),
        });
        self.columns = columns.collect();
        let label = chosen.label.as_ref();
        self.label = label.map(|place| (name(place), LabelBuilder::default()));
        Ok(chosen.texts.into_iter().chain(chosen.label).collect())
    }

    fn take(&mut self, rows: RawTable<'_>) -> Result<(), DataError> {
        self.n_read += rows.n_rows;
        if self.n_read > MAX_ROWS {
            return Err(DataError::TooManyRows {
                path: self.path.to_path_buf(),
                max: MAX_ROWS,
            });
        }
        for i in 0..rows.n_rows {
            if let Err((column, defect)) = self.take_row(&rows, i) {
                self.bad_rows.push(rows.bad_row(i, column, defect));
            }
        }
        Ok(())
    }
}

fn append(
    whole: &mut Content,
    part: Content,
    first: &Path,
    path: PathBuf,
) -> Result<(), DataError> {
    if whole.column_names() != part.column_names() {
        return Err(DataError::ColumnsDiffer {
            path,
            columns: part.column_names(),
            first: first.to_path_buf(),
            first_columns: whole.column_names(),
        });
    }
    let width = |label: &Option<(String, Labels)>| match label {
        Some((_, Labels::Vector { shape, .. })) => Some(shape.clone()),
        _ => None,
    };
    let (width, first_width) = (width(&part.label), width(&whole.label));
    if width != first_width {
        let says = |width: Option<Vec<usize>>| match width {
            Some(shape) => format!("lists of {shape:?} numbers"),
            None => "single numbers".to_owned(),
        };
        return Err(DataError::Header {
            path,
            message: format!(
                "its labels are {}, those of {} are {}",
                says(width),
                first.display(),
                says(first_width)
            ),
        });
    }
    for (column, more) in whole.columns.iter_mut().zip(part.columns) {
        column.texts.append(&more.texts);
    }
    whole.label = match (whole.label.take(), part.label) {
        (Some((name, labels)), Some((_, more))) => Some((name, joined(labels, more))),
        (label, _) => label,
    };
    Ok(())
}

/// One file may have `0` and `1` where the next has `0.5`; fractions anywhere make all of them so.
fn joined(labels: Labels, more: Labels) -> Labels {
    match (labels, more) {
        (Labels::Integer(mut labels), Labels::Integer(more)) => {
            labels.extend(more);
            Labels::Integer(labels)
        }
        (Labels::Vector { mut values, shape }, more) => {
            values.extend(more.into_f32());
            Labels::Vector { values, shape }
        }
        (labels, more) => {
            let mut labels = labels.into_f32();
            labels.extend(more.into_f32());
            Labels::Float(labels)
        }
    }
}

fn name_of(source: &str) -> String {
    let path = Path::new(source);
    let name = if path.is_dir() {
        path.file_name()
    } else {
        path.file_stem()
    };
    name.map_or(source.to_owned(), |name| {
        name.to_string_lossy().into_owned()
    })
}

/// Warns of the commonest mistakes that are no errors: an id column taken for text, and familiar names in an
/// unfamiliar order. Upstream warns of both.
///
/// Source: `maybe_warn_about_column_order` in sentence-transformers 6.0.1, `base/data_collator.py`.
fn warn_of_odd_columns(dataset: &Dataset) {
    let names = dataset.column_names();
    for name in &names {
        if *name == "id"
            || ["_id", "_ids", "_idx"]
                .iter()
                .any(|end| name.ends_with(end))
        {
            tracing::warn!(
                "column `{name}` of {} looks like an id, but will be trained on as text; choose \
                 the columns to leave it out",
                dataset.name
            );
        }
    }
    for (i, name) in names.iter().enumerate() {
        let usual = match *name {
            "anchor" | "question" | "query" | "hypothesis" => 0,
            "positive" | "answer" | "response" | "entailment" => 1,
            "negative" | "contradiction" => 2,
            _ => continue,
        };
        if i != usual {
            tracing::warn!(
                "column `{name}` of {} is number {}, where number {} is usual; the order of \
                 columns has a meaning and their names have none",
                dataset.name,
                i + 1,
                usual + 1
            );
        }
    }
}

impl Content {
    fn column_names(&self) -> Vec<String> {
        let texts = self.columns.iter().map(|column| column.name.clone());
        texts
            .chain(self.label.as_ref().map(|(name, _)| name.clone()))
            .collect()
    }
}

impl Texts {
    fn append(&mut self, more: &Texts) {
        self.reserve(more.len(), more.n_bytes());
        more.iter().for_each(|text| self.push(text));
    }
}

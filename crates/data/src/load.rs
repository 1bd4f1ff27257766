//! From a source to a [`Dataset`], with everything checked on the way.

use std::path::{Path, PathBuf};

use crate::{
    check::{Content, Table},
    dataset::{Dataset, Labels, TextColumn, Texts},
    error::{BadRow, DataError},
    formats::{
        csv,
        files::{self, Kind},
        jsonl, parquet,
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

/// Loads these files, one after the other, as one data set; otherwise as [`load`].
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
        let mut content = read(&path, kind, max_rows, options)?.into_content(&path, options)?;
        n_read += content.n_read;
        if n_read > MAX_ROWS {
            return Err(DataError::TooManyRows {
                path,
                max: MAX_ROWS,
            });
        }
        n_skipped += content.n_skipped;
        if let (None, Some(bad)) = (&first_skipped, content.first_skipped.take()) {
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
        labels: content.labels,
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

fn read(
    path: &Path,
    kind: Kind,
    max_rows: usize,
    options: &LoadOptions,
) -> Result<Table, DataError> {
    let bytes = fs_err::read(path)?;
    files::check_content(path, kind, &bytes)?;
    match kind {
        Kind::Parquet => parquet::read(path, bytes, max_rows, options),
        Kind::Csv { separator } => csv::read(path, bytes, separator, max_rows, options),
        Kind::JsonLines => jsonl::read(path, bytes, max_rows, options),
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
    let width = |labels: &Option<Labels>| match labels {
        Some(Labels::Vector { shape, .. }) => Some(shape.clone()),
        _ => None,
    };
    let (width, first_width) = (width(&part.labels), width(&whole.labels));
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
    whole.labels = match (whole.labels.take(), part.labels) {
        (Some(labels), Some(more)) => Some(joined(labels, more)),
        (labels, _) => labels,
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

/// What people most often get wrong without an error: an id column taken for text, and familiar
/// names in an unfamiliar order. Upstream warns of both.
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
        self.columns
            .iter()
            .map(|column: &TextColumn| column.name.clone())
            .chain(self.label_name.clone())
            .collect()
    }
}

impl Texts {
    fn append(&mut self, more: &Texts) {
        self.reserve(more.len(), more.n_bytes());
        more.iter().for_each(|text| self.push(text));
    }
}

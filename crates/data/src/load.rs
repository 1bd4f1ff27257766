//! Loading of a source as a [`Dataset`], with every row checked.

pub(crate) mod streaming;

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use wording::counted;

use crate::{
    check::{self, LabelBuilder, are_numbers, check_not_numbers},
    choose::{Role, choose},
    dataset::{Dataset, Labels, TextColumn},
    error::{BadRow, BadRows, DataError, Defect},
    expand::{ListColumn, Scores, expand},
    formats::{
        self,
        files::{self, Kind},
        packed::inner_name,
        rows::{Consumer, RawTable, Schema},
    },
    options::LoadOptions,
    sampler::MAX_ROWS,
};

/// Loads a file, a folder or a pattern such as `data/train-*.parquet`. The extension says the format: `.parquet`,
/// `.csv`, `.tsv`, `.arrow`, `.feather`, and JSON Lines or documents as `.jsonl`, `.ndjson` or `.json`; `.gz` or `.zst` may follow.
///
/// Of a folder the data files are taken, sorted by name, or where it has none those of the folders below: of
/// [`LoadOptions::split`] alone, where names of files or folders say of which split they are. Hidden files and files
/// that only describe a data set are left aside.
///
/// A column named as in [`crate::LABEL_COLUMNS`] becomes the labels; the others must hold text. A column of lists of
/// texts is expanded: `positives` (or another name with this beginning, such as `pos`) to a row for each positive, and
/// `negatives` to as many columns of negatives as every row has. Where rows have different numbers of negatives, there
/// is a row for each negative; or, where a row has several positives, as many columns as the greatest number, and the
/// negatives of a row with fewer come again in turn. `set`, texts of one meaning, becomes pairs of the first text with
/// each other one.
///
/// Every row that is read is checked before this returns.
///
/// # Errors
/// See [`DataError`]; a message names the file, and for a bad row its number and column.
pub fn load(source: &str, options: &LoadOptions) -> Result<Dataset, DataError> {
    let (paths, kind) = files::find(source, Some(options.split))?;
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
    let mut classes = options.classes.clone();
    for path in paths {
        let max_rows = options.max_rows.map_or(usize::MAX, |max| max - n_read);
        if max_rows == 0 {
            break;
        }
        let mut rows = DatasetRows::new(&path, options, n_read, None);
        formats::read(&path, kind, max_rows, options.dialect, &mut rows)?;
        n_read = rows.n_read;
        let (content, skipped) = rows.finish(&mut classes)?;
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
        warn_of_skipped(n_skipped, n_read, &path, &bad);
    }
    let no_rows = |n_skipped| DataError::NoRows {
        pattern: source.to_owned(),
        n_skipped,
    };
    let Some((path, content)) = all else {
        return Err(no_rows(n_skipped));
    };
    let are_classes = content.are_classes();
    let labels = content.label.map(|label| label.labels);
    let scores = content.scores.as_ref();
    let expanded = expand(&path, content.columns, labels, scores, options)?;
    let dataset = Dataset {
        name: options.name.clone().unwrap_or_else(|| name_of(source)),
        columns: expanded.columns,
        labels: expanded.labels,
        classes: if are_classes { classes } else { Vec::new() },
        n_skipped: n_skipped + expanded.n_skipped,
    };
    if dataset.n_rows() == 0 {
        return Err(no_rows(dataset.n_skipped));
    }
    warn_of_odd_columns(&dataset);
    warn_of_missing_values(&dataset);
    Ok(dataset)
}

fn warn_of_skipped(n_skipped: usize, n_read: usize, path: &Path, first: &BadRow) {
    tracing::warn!(
        "skipped {n_skipped} of {}; the first is {}: {first}",
        counted(n_read, "rows"),
        path.display()
    );
}

/// A file's columns as the data set takes them in.
struct Content {
    columns: Vec<ListColumn>,
    label: Option<LabelColumn>,
    scores: Option<Scores>,
}

struct LabelColumn {
    name: String,
    labels: Labels,
    are_classes: bool,
}

/// Takes chunks of rows, which are gone from memory then. `Break` wants no more of them.
type Sink<'s> = dyn FnMut(Dataset) -> ControlFlow<()> + 's;

/// Rows that a [`Sink`] gets at once, or a few more: enough that repeated texts are often among them.
const ROWS_PER_CHUNK: usize = 1 << 16;

/// Takes the rows of a file and checks each.
struct DatasetRows<'o> {
    path: &'o Path,
    options: &'o LoadOptions,
    is_typed: bool,
    columns: Vec<ListColumn>,
    label: Option<(String, LabelBuilder)>,
    /// A teacher's scores of the lists, with the names of their columns.
    scores: Option<(Vec<String>, Scores)>,
    /// Rows looked at, those of files before this one among them.
    n_read: usize,
    n_before: usize,
    bad_rows: BadRows,
    /// Whether the texts of each column so far are numbers.
    are_numbers: Vec<Option<bool>>,
    /// The taker of chunks, where not all rows are to be in memory.
    sink: Option<&'o mut Sink<'o>>,
}

impl<'o> DatasetRows<'o> {
    fn new(
        path: &'o Path,
        options: &'o LoadOptions,
        n_before: usize,
        sink: Option<&'o mut Sink<'o>>,
    ) -> Self {
        Self {
            are_numbers: Vec::new(),
            sink,
            path,
            options,
            is_typed: true,
            columns: Vec::new(),
            label: None,
            scores: None,
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
        let n_done = self.columns.iter().map(ListColumn::n_texts);
        let n_done: Vec<usize> = n_done.collect();
        let taken = self.take_texts(rows, i).and_then(|()| {
            self.take_scores(rows, i, &n_done)?;
            let (Some((name, labels)), Some(cells)) = (&mut self.label, rows.columns.last()) else {
                return Ok(());
            };
            let label = labels.check(&cells[i]);
            let label = label.map_err(|defect| (Some(name.clone()), defect))?;
            let (row, line) = rows.place(i);
            labels.push(label, row, line);
            Ok(())
        });
        for (column, n_done) in self.columns.iter_mut().zip(n_done) {
            match taken {
                Ok(()) => column.end_row(n_done),
                Err(_) => column.truncate(n_done),
            }
        }
        taken
    }

    fn take_texts(
        &mut self,
        rows: &RawTable<'_>,
        i: usize,
    ) -> Result<(), (Option<String>, Defect)> {
        for (column, cells) in self.columns.iter_mut().zip(&rows.columns) {
            let taken = match column.role {
                Role::Text => check::text(&cells[i], self.options.on_bad_row)
                    .map(|text| column.texts.push(text)),
                role => {
                    let needed = match role {
                        Role::Set => 2,
                        Role::Negatives => 0,
                        _ => 1,
                    };
                    check::texts(&cells[i], needed)
                        .map(|texts| texts.iter().for_each(|text| column.texts.push(text)))
                }
            };
            taken.map_err(|defect| (Some(column.name.clone()), defect))?;
        }
        Ok(())
    }

    /// Appends the scores of row `i`, one for each text of its lists, of which those before had `n_done`.
    fn take_scores(
        &mut self,
        rows: &RawTable<'_>,
        i: usize,
        n_done: &[usize],
    ) -> Result<(), (Option<String>, Defect)> {
        let Some((names, scores)) = &mut self.scores else {
            return Ok(());
        };
        let n_texts = |role: Role| {
            let lists = self.columns.iter().zip(n_done);
            let lists = lists.filter(|(column, _)| column.role == role);
            lists
                .map(|(column, n_done)| column.n_texts() - n_done)
                .sum()
        };
        let roles = [Role::Positives, Role::Negatives];
        let cells = &rows.columns[self.columns.len()..];
        let mut found = [Vec::new(), Vec::new()];
        for (((found, role), cells), name) in found.iter_mut().zip(roles).zip(cells).zip(names) {
            *found = check::scores(&cells[i], n_texts(role))
                .map_err(|defect| (Some(name.clone()), defect))?;
        }
        let [positives, negatives] = found;
        scores.positives.extend(positives);
        scores.negatives.extend(negatives);
        Ok(())
    }

    /// Notes which columns hold numbers alone, where that is not to be.
    fn note_numbers(&mut self) {
        if !self.is_typed && self.options.columns.is_none() {
            self.are_numbers.resize(self.columns.len(), None);
            for (noted, column) in self.are_numbers.iter_mut().zip(&self.columns) {
                *noted = are_numbers(*noted, column);
            }
        }
    }

    fn finish(mut self, classes: &mut Vec<String>) -> Result<(Content, BadRows), DataError> {
        let label = match self.label.take() {
            None => None,
            Some((name, labels)) => {
                const MAX_CLASSES: usize = 1000;
                if labels.n_words() > MAX_CLASSES {
                    return Err(DataError::NotLabels {
                        path: self.path.to_path_buf(),
                        column: name,
                        found: format!("more than {MAX_CLASSES} different words"),
                    });
                }
                let found = labels.finish(&name, classes);
                let mut labels = found.labels;
                if !found.bad.is_empty() {
                    let (places, bad): (Vec<usize>, Vec<BadRow>) = found.bad.into_iter().unzip();
                    let good = all_but(labels.len(), &places);
                    labels = labels.select(&good);
                    for column in &mut self.columns {
                        *column = column.select(&good);
                    }
                    self.bad_rows.merge(bad);
                }
                Some(LabelColumn {
                    name,
                    labels,
                    are_classes: found.are_classes,
                })
            }
        };
        let n_read = self.n_read - self.n_before;
        self.note_numbers();
        let skipped = self
            .bad_rows
            .check(self.path, n_read, self.options.on_bad_row)?;
        check_not_numbers(self.path, &self.columns, &self.are_numbers)?;
        let content = Content {
            columns: self.columns,
            label,
            scores: self.scores.map(|(_, scores)| scores),
        };
        Ok((content, skipped))
    }
}

impl Consumer for DatasetRows<'_> {
    fn choose(&mut self, schema: &Schema) -> Result<Vec<usize>, DataError> {
        self.is_typed = schema.is_typed;
        let chosen = choose(self.path, schema, self.options)?;
        let name = |place: usize| schema.columns[place].name.clone();
        let columns = chosen.texts.iter();
        self.columns = columns
            .map(|&(place, role)| ListColumn::new(name(place), role))
            .collect();
        self.label = chosen
            .label
            .map(|place| (name(place), LabelBuilder::default()));
        let names: Vec<String> = chosen.scores.iter().map(|&place| name(place)).collect();
        self.scores = (!names.is_empty()).then(|| (names, Scores::default()));
        if self.sink.is_some() {
            self.check_streamed()?;
        }
        let texts = chosen.texts.into_iter().map(|(place, _)| place);
        Ok(texts.chain(chosen.scores).chain(chosen.label).collect())
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
        let n_rows = self.columns.first().map_or(0, ListColumn::n_texts);
        if self.sink.is_some() && n_rows >= ROWS_PER_CHUNK {
            self.hand_over()?;
        }
        Ok(())
    }
}

/// The numbers below `n` that are not in `bad`, which is sorted.
fn all_but(n: usize, bad: &[usize]) -> Vec<u32> {
    let mut bad = bad.iter().copied().peekable();
    (0..n)
        .filter(|i| bad.next_if_eq(i).is_none())
        .map(|i| i as u32)
        .collect()
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
    let width = |content: &Content| match content.label.as_ref()?.labels {
        Labels::Vector { ref shape, .. } => Some(shape.clone()),
        _ => None,
    };
    let (width, first_width) = (width(&part), width(whole));
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
    if part.are_classes() != whole.are_classes() {
        return Err(DataError::Header {
            path,
            message: format!(
                "its labels are {}, unlike those of {}",
                if part.are_classes() {
                    "words"
                } else {
                    "numbers"
                },
                first.display(),
            ),
        });
    }
    for (column, more) in whole.columns.iter_mut().zip(part.columns) {
        column.append(&more);
    }
    match (&mut whole.scores, &part.scores) {
        (Some(scores), Some(more)) => scores.append(more),
        (None, None) => {}
        _ => {
            return Err(DataError::Header {
                path,
                message: format!(
                    "it has scores of lists where {} has none, or none where that has some",
                    first.display()
                ),
            });
        }
    }
    if let (Some(label), Some(more)) = (&mut whole.label, part.label) {
        let labels = std::mem::replace(&mut label.labels, Labels::Integer(Vec::new()));
        label.labels = joined(labels, more.labels);
    }
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
        inner_name(path).file_stem()
    };
    name.map_or(source.to_owned(), |name| {
        name.to_string_lossy().into_owned()
    })
}

/// Warns of the commonest mistakes that are no errors: an id column taken for text, and familiar names in an
/// unfamiliar order. Upstream warns of both.
///
/// Source: `maybe_warn_about_column_order` in sentence-transformers 6.2.0, `base/data_collator.py`.
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
            .chain(self.label.as_ref().map(|label| label.name.clone()))
            .collect()
    }

    fn are_classes(&self) -> bool {
        self.label.as_ref().is_some_and(|label| label.are_classes)
    }
}

/// Warns of texts that are what pandas writes for a missing value.
fn warn_of_missing_values(dataset: &Dataset) {
    const MISSING: [&str; 5] = ["nan", "NaN", "<NA>", "None", "NULL"];
    for column in &dataset.columns {
        let is_missing = |text: &&str| MISSING.contains(&text.trim());
        let mut missing = column.texts.iter().filter(is_missing);
        if let Some(first) = missing.next() {
            tracing::warn!(
                "{} of column `{}` of {} with the text `{first}`, as pandas writes a missing value, kept as texts",
                counted(1 + missing.count(), "rows"),
                column.name,
                dataset.name
            );
        }
    }
}

//! Reading of a source chunk by chunk, for data that is not to be in memory.

use super::*;
use crate::formats::splits::Split;

/// The files of a source, of the split where a folder has several.
///
/// # Errors
/// As [`load`], where there are none, or of several kinds.
pub fn find_files(source: &str, split: Split) -> Result<Vec<PathBuf>, DataError> {
    Ok(files::find(source, Some(split))?.0)
}

/// Hands over the rows of files as [`load_files`] loads them, some ten thousands at a time, the name of the data set
/// being [`LoadOptions::name`]. Labels that are whole numbers in one chunk may have fractions in the next: then all of the
/// data set have. Returns the number of rows that were skipped.
///
/// # Errors
/// As [`load_files`], after chunks of good rows; [`DataError::ReadWhole`] where the rows can't be made one by one; and
/// [`DataError::Stopped`] when `sink` breaks off.
pub fn stream(
    paths: &[PathBuf],
    options: &LoadOptions,
    sink: &mut dyn FnMut(Dataset) -> ControlFlow<()>,
) -> Result<usize, DataError> {
    let source = paths[0].display().to_string();
    let kind = files::common_kind(&source, paths)?;
    let (mut n_read, mut n_skipped) = (0, 0);
    let mut first_skipped: Option<(&PathBuf, BadRow)> = None;
    let mut first: Option<(&PathBuf, Vec<String>, Option<Labels>)> = None;
    for path in paths {
        let max_rows = options.max_rows.map_or(usize::MAX, |max| max - n_read);
        if max_rows == 0 {
            break;
        }
        let mut differs = None;
        let mut checked = |chunk: Dataset| {
            let names = chunk.column_names().into_iter().map(str::to_owned);
            let names: Vec<String> = names.collect();
            let labels = chunk.labels.as_ref().map(|labels| labels.select(&[]));
            match &first {
                None => first = Some((path, names, labels)),
                Some((first, first_names, first_labels)) => {
                    let is_same = *first_names == names && have_one_shape(first_labels, &labels);
                    if !is_same {
                        differs = Some(DataError::ColumnsDiffer {
                            path: path.clone(),
                            columns: with_label(names, &labels),
                            first: first.to_path_buf(),
                            first_columns: with_label(first_names.clone(), first_labels),
                        });
                        return ControlFlow::Break(());
                    }
                }
            }
            sink(chunk)
        };
        let mut rows = DatasetRows::new(path, options, n_read, Some(&mut checked));
        let read = formats::stream(path, kind, max_rows, options.dialect, &mut rows);
        let read = read.and_then(|()| {
            n_read = rows.n_read;
            rows.end()
        });
        let skipped = match (read, differs) {
            (Err(DataError::Stopped), Some(differs)) => return Err(differs),
            (read, _) => read?,
        };
        n_skipped += skipped.n_bad;
        if let (None, Some(bad)) = (&first_skipped, skipped.first.into_iter().next()) {
            first_skipped = Some((path, bad));
        }
    }
    if let Some((path, bad)) = first_skipped {
        warn_of_skipped(n_skipped, n_read, path, &bad);
    }
    match first {
        Some(_) => Ok(n_skipped),
        None => Err(DataError::NoRows {
            pattern: source,
            n_skipped,
        }),
    }
}

/// The first `n_rows` rows of files that [`stream`] can read, for the names of columns and the like. Bad rows are left out.
///
/// # Errors
/// As [`stream`], but for bad rows.
pub fn head(paths: &[PathBuf], options: &LoadOptions, n_rows: usize) -> Result<Dataset, DataError> {
    let mut head: Option<Dataset> = None;
    let mut take = |chunk: Dataset| {
        let whole = match head.take() {
            None => chunk,
            Some(head) => joined_sets(head, chunk),
        };
        let is_enough = whole.n_rows() >= n_rows;
        head = Some(whole);
        match is_enough {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    };
    let outcome = stream(paths, options, &mut take);
    let Some(head) = head else {
        return Err(outcome.err().unwrap_or(DataError::Stopped));
    };
    match outcome {
        Ok(_) | Err(DataError::Stopped | DataError::BadRows { .. }) => {}
        Err(error) => return Err(error),
    }
    let head = head.head(n_rows);
    warn_of_odd_columns(&head);
    warn_of_missing_values(&head);
    Ok(head)
}

fn joined_sets(mut whole: Dataset, part: Dataset) -> Dataset {
    for (column, more) in whole.columns.iter_mut().zip(&part.columns) {
        column.texts.append(&more.texts);
    }
    whole.labels = match (whole.labels, part.labels) {
        (Some(labels), Some(more)) => Some(joined(labels, more)),
        _ => None,
    };
    whole
}

/// Whether labels of two files go together: there are some in both or in none, and lists of one length.
fn have_one_shape(first: &Option<Labels>, labels: &Option<Labels>) -> bool {
    match (first, labels) {
        (Some(Labels::Vector { shape, .. }), Some(Labels::Vector { shape: other, .. })) => {
            shape == other
        }
        (Some(Labels::Vector { .. }), _) | (_, Some(Labels::Vector { .. })) => false,
        (first, labels) => first.is_some() == labels.is_some(),
    }
}

/// The names of columns, the labels among them, for a message.
fn with_label(mut names: Vec<String>, labels: &Option<Labels>) -> Vec<String> {
    names.extend(labels.as_ref().map(|labels| match labels {
        Labels::Vector { shape, .. } => format!("labels: lists of {shape:?} numbers"),
        _ => "labels".to_owned(),
    }));
    names
}

impl DatasetRows<'_> {
    /// Refuses columns whose rows can't be made one by one.
    pub(super) fn check_streamed(&self) -> Result<(), DataError> {
        let has_lists = self.columns.iter().any(|column| column.role != Role::Text);
        if has_lists || self.scores.is_some() {
            return Err(self.whole("it has lists of texts or of a teacher's scores"));
        }
        Ok(())
    }

    fn whole(&self, what: &'static str) -> DataError {
        DataError::ReadWhole {
            path: self.path.to_path_buf(),
            what,
        }
    }

    /// Hands over the rows that there are.
    pub(super) fn hand_over(&mut self) -> Result<(), DataError> {
        if self.columns.iter().all(|column| column.texts.is_empty()) {
            return Ok(());
        }
        self.note_numbers();
        let labels = match &mut self.label {
            None => None,
            Some((_, labels)) if labels.n_words() > 0 => {
                return Err(self.whole("its labels are words"));
            }
            Some((_, labels)) => Some(labels.take()),
        };
        let columns = self.columns.iter_mut().map(|column| TextColumn {
            name: column.name.clone(),
            texts: std::mem::take(&mut column.texts),
        });
        let chunk = Dataset {
            name: self.options.name.clone().unwrap_or_default(),
            columns: columns.collect(),
            labels,
            classes: Vec::new(),
            n_skipped: 0,
        };
        match self.sink.as_mut().map(|sink| sink(chunk)) {
            Some(ControlFlow::Break(())) => Err(DataError::Stopped),
            _ => Ok(()),
        }
    }

    /// Hands over the last rows of the file, and returns the bad ones, where those are skipped.
    fn end(mut self) -> Result<BadRows, DataError> {
        self.hand_over()?;
        check_not_numbers(self.path, &self.columns, &self.are_numbers)?;
        let n_read = self.n_read - self.n_before;
        self.bad_rows
            .check(self.path, n_read, self.options.on_bad_row)
    }
}

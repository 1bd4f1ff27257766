//! Columns of lists of texts, expanded to columns of one text a row.

use std::path::Path;

use wording::counted;

use crate::{
    choose::Role,
    dataset::{Labels, TextColumn, Texts},
    error::DataError,
    options::{LoadOptions, OnBadRow},
    sampler::MAX_ROWS,
};

/// A column with any number of texts a row.
#[derive(Debug)]
pub(crate) struct ListColumn {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) texts: Texts,
    /// The end of each row among the texts, where a row may have any number of them.
    ends: Vec<usize>,
}

impl ListColumn {
    pub(crate) fn new(name: String, role: Role) -> Self {
        Self {
            name,
            role,
            texts: Texts::default(),
            ends: Vec::new(),
        }
    }

    pub(crate) fn n_texts(&self) -> usize {
        self.texts.len()
    }

    /// Number of rows.
    fn len(&self) -> usize {
        match self.role {
            Role::Text => self.texts.len(),
            _ => self.ends.len(),
        }
    }

    /// Ends a row, of the texts appended since there were `n_texts`.
    pub(crate) fn end_row(&mut self, n_texts: usize) {
        debug_assert!(self.role != Role::Text || self.texts.len() == n_texts + 1);
        if self.role != Role::Text {
            self.ends.push(self.texts.len());
        }
    }

    /// Drops the texts after the first `n_texts`, which belong to a row that is not ended.
    pub(crate) fn truncate(&mut self, n_texts: usize) {
        self.texts.truncate(n_texts);
    }

    /// The places of a row's texts.
    fn row(&self, row: usize) -> std::ops::Range<usize> {
        match self.role {
            Role::Text => row..row + 1,
            _ => row.checked_sub(1).map_or(0, |before| self.ends[before])..self.ends[row],
        }
    }

    pub(crate) fn append(&mut self, more: &Self) {
        let n_texts = self.texts.len();
        self.texts.append(&more.texts);
        self.ends.extend(more.ends.iter().map(|end| n_texts + end));
    }

    /// The rows `indices`, in that order.
    pub(crate) fn select(&self, indices: &[u32]) -> Self {
        let rows = indices.iter().map(|&row| self.row(row as usize));
        let places: Vec<u32> = rows.clone().flatten().map(|place| place as u32).collect();
        let mut end = 0;
        let ends = rows.map(|row| {
            end += row.len();
            end
        });
        Self {
            name: self.name.clone(),
            role: self.role,
            ends: match self.role {
                Role::Text => Vec::new(),
                _ => ends.collect(),
            },
            texts: self.texts.select(&places),
        }
    }
}

/// A teacher's scores of lists of texts: one for each text of the lists of positives and of negatives.
#[derive(Debug, Default)]
pub(crate) struct Scores {
    pub(crate) positives: Vec<f32>,
    pub(crate) negatives: Vec<f32>,
}

impl Scores {
    pub(crate) fn append(&mut self, more: &Self) {
        self.positives.extend(&more.positives);
        self.negatives.extend(&more.negatives);
    }

    /// The labels of rows whose texts are at these places: of each the score of the positive, then those of the negatives.
    fn labels(&self, positives: &[u32], negatives: &[Vec<u32>]) -> Labels {
        let of_positives = positives
            .iter()
            .map(|&place| self.positives[place as usize]);
        if negatives.is_empty() {
            return Labels::Float(of_positives.collect());
        }
        let mut values = Vec::with_capacity(positives.len() * (1 + negatives.len()));
        for (row, score) in of_positives.enumerate() {
            values.push(score);
            values.extend(
                negatives
                    .iter()
                    .map(|places| self.negatives[places[row] as usize]),
            );
        }
        Labels::Vector {
            values,
            shape: vec![1 + negatives.len()],
        }
    }
}

/// Columns of one text a row.
pub(crate) struct Expanded {
    pub(crate) columns: Vec<TextColumn>,
    pub(crate) labels: Option<Labels>,
    /// Rows left out since they have no negatives.
    pub(crate) n_skipped: usize,
}

/// Expands columns of lists by the rule in [`crate::load()`]; `path` is what messages name. Scores of the lists become the
/// labels.
pub(crate) fn expand(
    path: &Path,
    columns: Vec<ListColumn>,
    labels: Option<Labels>,
    scores: Option<&Scores>,
    options: &LoadOptions,
) -> Result<Expanded, DataError> {
    let refuse = |message: String| DataError::Header {
        path: path.to_path_buf(),
        message,
    };
    let (texts, lists): (Vec<_>, Vec<_>) = columns
        .into_iter()
        .partition(|column| column.role == Role::Text);
    if lists.is_empty() {
        let columns = texts.into_iter().map(|column| TextColumn {
            name: column.name,
            texts: column.texts,
        });
        return Ok(Expanded {
            columns: columns.collect(),
            labels,
            n_skipped: 0,
        });
    }
    let n_source = lists.first().map_or(0, ListColumn::len);
    let (negatives, positives): (Vec<_>, Vec<_>) = lists
        .into_iter()
        .partition(|column| column.role == Role::Negatives);
    if positives.len() > 1 || negatives.len() > 1 {
        return Err(refuse(
            "several columns hold lists of positives or of negatives: choose one of each with --columns".to_owned(),
        ));
    }
    let (positives, negatives) = (positives.into_iter().next(), negatives.into_iter().next());
    let n_positives = |row: usize| match &positives {
        None => 1,
        Some(column) if column.role == Role::Set => column.row(row).len() - 1,
        Some(column) => column.row(row).len(),
    };
    let n_negatives = |row: usize| negatives.as_ref().map_or(0, |column| column.row(row).len());
    let counts = || (0..n_source).map(n_negatives);
    let (least, most) = (counts().min().unwrap_or(0), counts().max().unwrap_or(0));
    let has_several = (0..n_source).any(|row| n_positives(row) > 1);
    // Columns of negatives, and whether a row stands for one negative alone.
    let (width, is_each) = match options.num_negatives {
        Some(wanted) => (if most == 0 { 0 } else { wanted }, false),
        None if least == most => (most, false),
        None if has_several => (most, false),
        None => (1, true),
    };
    let is_used = |row: usize| width == 0 || n_negatives(row) > 0;
    let n_skipped = (0..n_source).filter(|&row| !is_used(row)).count();
    if n_skipped > 0 && options.on_bad_row == OnBadRow::Error {
        return Err(refuse(format!(
            "{n_skipped} of {} no negatives: give them some, leave them out with --on-bad-row skip, \
             or use no negatives with --num-negatives 0",
            match n_source {
                1 => "1 row has".to_owned(),
                n => format!("{n} rows have"),
            }
        )));
    }
    // For each new row the row that it comes from, and the places of its texts.
    let mut rows: Vec<u32> = Vec::new();
    let mut firsts: Vec<u32> = Vec::new();
    let mut seconds: Vec<u32> = Vec::new();
    let mut others: Vec<Vec<u32>> = vec![Vec::new(); width];
    let (mut n_aside, mut n_again) = (0, 0);
    for row in (0..n_source).filter(|&row| is_used(row)) {
        let negatives = negatives.as_ref().map_or(0..0, |column| column.row(row));
        let turns = if is_each { negatives.len() } else { 1 };
        let mut positives = positives.as_ref().map_or(0..0, |column| column.row(row));
        let first = match n_positives(row) < positives.len() {
            true => positives.next(),
            false => None,
        };
        for positive in 0..n_positives(row) {
            for turn in 0..turns {
                rows.push(row as u32);
                firsts.extend(first.map(|place| place as u32));
                seconds.extend(positives.clone().nth(positive).map(|place| place as u32));
                for (i, places) in others.iter_mut().enumerate() {
                    let place = (turn + i) % negatives.len();
                    places.push((negatives.start + place) as u32);
                }
            }
        }
        if !is_each {
            n_aside += negatives.len().saturating_sub(width);
            n_again += width.saturating_sub(negatives.len());
        }
        if rows.len() > MAX_ROWS {
            return Err(DataError::TooManyRows {
                path: path.to_path_buf(),
                max: MAX_ROWS,
            });
        }
    }
    let mut columns: Vec<TextColumn> = texts
        .iter()
        .map(|column| TextColumn {
            name: column.name.clone(),
            texts: column.texts.select(&rows),
        })
        .collect();
    let mut push = |name: String, from: &ListColumn, places: &[u32]| {
        columns.push(TextColumn {
            name,
            texts: from.texts.select(places),
        });
    };
    if let Some(from) = &positives {
        if from.role == Role::Set {
            push("anchor".to_owned(), from, &firsts);
        }
        push("positive".to_owned(), from, &seconds);
    }
    if let Some(from) = &negatives {
        for (i, places) in others.iter().enumerate() {
            let name = match width {
                1 => "negative".to_owned(),
                _ => format!("negative_{}", i + 1),
            };
            push(name, from, places);
        }
    }
    let rule = match (positives.is_some(), is_each) {
        (_, true) => "a row for each negative",
        (true, false) => "a row for each positive",
        (false, false) => "a column for each negative",
    };
    tracing::info!(
        "{}: lists expanded to {rule}: {} of {}",
        path.display(),
        counted(rows.len(), "rows"),
        counted(columns.len(), "texts")
    );
    if n_again > 0 {
        tracing::info!(
            "{}: rows have {least} to {most} negatives; those of rows with fewer than {width} come again in turn",
            path.display()
        );
    }
    if n_aside > 0 {
        tracing::warn!(
            "{}: {} left aside: rows have up to {most}, and --num-negatives takes {width}",
            path.display(),
            match n_aside {
                1 => "1 negative is".to_owned(),
                n => format!("{n} negatives are"),
            }
        );
    }
    if n_skipped > 0 {
        tracing::warn!(
            "{}: skipped {} without negatives",
            path.display(),
            counted(n_skipped, "rows")
        );
    }
    Ok(Expanded {
        columns,
        labels: match scores {
            Some(scores) => Some(scores.labels(&seconds, &others)),
            None => labels.map(|labels| labels.select(&rows)),
        },
        n_skipped,
    })
}

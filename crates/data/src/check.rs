//! Checks of cells that all formats share: texts and labels.

use std::{borrow::Cow, collections::HashMap, path::Path};

use crate::{
    dataset::Labels,
    error::{BadRow, DataError, Defect, shortened},
    expand::ListColumn,
    formats::rows::Cell,
    options::OnBadRow,
};

/// The text of a cell, unless it is no text or, where those are not kept, missing or blank.
pub(crate) fn text<'c>(cell: &'c Cell<'_>, on_bad_row: OnBadRow) -> Result<&'c str, Defect> {
    match cell {
        Cell::Text(text) if on_bad_row == OnBadRow::Keep => Ok(text),
        Cell::Null | Cell::Missing if on_bad_row == OnBadRow::Keep => Ok(""),
        Cell::Text(text) if text.is_empty() => Err(Defect::Empty),
        Cell::Text(text) if text.trim_start().is_empty() => Err(Defect::Blank),
        Cell::Text(text) => Ok(text),
        cell => Err(cell
            .defect()
            .unwrap_or_else(|| Defect::NotText(cell.name()))),
    }
}

/// The texts of a cell that holds a list of texts or passages, of which at least so many are needed.
pub(crate) fn texts<'c>(cell: &'c Cell<'_>, needed: usize) -> Result<Vec<Cow<'c, str>>, Defect> {
    let Cell::List(list) = cell else {
        return Err(cell
            .defect()
            .unwrap_or_else(|| Defect::NotTexts(cell.name())));
    };
    let found = list.len();
    if found < needed {
        return Err(Defect::TooFewTexts { found, needed });
    }
    let texts = list.iter().map(|cell| match cell.passage() {
        Some(text) if text.is_empty() => Err(Defect::Empty),
        Some(text) if text.trim_start().is_empty() => Err(Defect::Blank),
        Some(text) => Ok(text),
        None => Err(cell.defect().unwrap_or(Defect::NotTexts(
            "a list with something else than texts in it",
        ))),
    });
    texts.collect()
}

/// The numbers of a cell that holds a list of so many.
pub(crate) fn scores(cell: &Cell<'_>, n_texts: usize) -> Result<Vec<f32>, Defect> {
    let scores = match cell {
        Cell::Integers(list) => list.iter().map(|&number| number as f32).collect(),
        Cell::Floats(list) => list.clone(),
        Cell::List(list) if list.is_empty() => Vec::new(),
        cell => {
            return Err(cell
                .defect()
                .unwrap_or_else(|| Defect::NotScores(cell.name())));
        }
    };
    if let Some(number) = scores.iter().find(|number| !number.is_finite()) {
        return Err(Defect::OutOfRange(format!("{number:e}")));
    }
    match scores.len() == n_texts {
        true => Ok(scores),
        false => Err(Defect::ScoreCount {
            found: scores.len(),
            n_texts,
        }),
    }
}

/// A good label.
pub(crate) enum Label<'c> {
    Integer(i64),
    Float(f32),
    Word(&'c str),
    Integers(&'c [i64]),
    Floats(&'c [f32]),
}

/// Labels as they come, row by row. The first one says of which kind all have to be.
#[derive(Default)]
pub(crate) struct LabelBuilder {
    kind: Option<LabelKind>,
    /// Numbers, numbers of words, and 0 where a label has a fraction.
    integers: Vec<i64>,
    floats: Vec<f32>,
    /// Whether all floats are whole numbers.
    has_fractions: bool,
    words: Vec<String>,
    word_numbers: HashMap<String, i64>,
    /// Places of labels that are words, and the rows in the file.
    word_rows: Vec<(usize, usize, Option<usize>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LabelKind {
    Truth,
    Number,
    /// Texts, which are numbers or words.
    Written,
    /// Lists of so many numbers.
    List(usize),
}

/// All labels of a file.
pub(crate) struct FileLabels {
    pub(crate) labels: Labels,
    /// Whether the labels are numbers of classes.
    pub(crate) are_classes: bool,
    /// Words among numbers: the places of bad rows among the labels, and the rows.
    pub(crate) bad: Vec<(usize, BadRow)>,
}

impl LabelBuilder {
    /// The label of a cell.
    pub(crate) fn check<'c>(&mut self, cell: &'c Cell<'_>) -> Result<Label<'c>, Defect> {
        let (label, kind) = match cell {
            Cell::Truth(truth) => (Label::Integer(i64::from(*truth)), LabelKind::Truth),
            Cell::Integer(number) => (Label::Integer(*number), LabelKind::Number),
            Cell::Large(number) => {
                return Err(Defect::OutOfRange(format!("{number} (past 64 bits)")));
            }
            Cell::Float(number) => (float(*number)?, LabelKind::Number),
            Cell::Text(text) => (parsed(text)?, LabelKind::Written),
            Cell::Integers(list) => (Label::Integers(list), LabelKind::List(list.len())),
            Cell::Floats(list) => {
                if let Some(number) = list.iter().find(|number| !number.is_finite()) {
                    return Err(Defect::OutOfRange(format!("{number:e}")));
                }
                (Label::Floats(list), LabelKind::List(list.len()))
            }
            Cell::List(list) if list.is_empty() => {
                return Err(Defect::ListLength {
                    found: 0,
                    expected: match self.kind {
                        Some(LabelKind::List(width)) => width,
                        _ => 1,
                    },
                });
            }
            Cell::List(list) if list.contains(&Cell::Null) => return Err(Defect::Null),
            cell => {
                return Err(cell
                    .defect()
                    .unwrap_or_else(|| Defect::NotNumber(cell.name().to_owned())));
            }
        };
        match (kind, *self.kind.get_or_insert(kind)) {
            (kind, first) if kind == first => Ok(label),
            (LabelKind::List(found), LabelKind::List(expected)) => {
                Err(Defect::ListLength { found, expected })
            }
            (LabelKind::Written, _) => Err(Defect::NotNumber(cell.name().to_owned())),
            (_, first) => Err(Defect::NotNumber(format!(
                "{} where the first row has {}",
                cell.name(),
                match first {
                    LabelKind::Truth => "true or false",
                    LabelKind::Number => "a number",
                    LabelKind::Written => "a text",
                    LabelKind::List(_) => "a list",
                }
            ))),
        }
    }

    /// Appends a label that [`LabelBuilder::check`] gave, of this row and line of the file.
    pub(crate) fn push(&mut self, label: Label<'_>, row: usize, line: Option<usize>) {
        match label {
            Label::Integer(number) => {
                self.integers.push(number);
                self.floats.push(number as f32);
            }
            Label::Float(number) => {
                self.has_fractions |= number.fract() != 0.0 || number.abs() > 16_777_216.0;
                self.integers.push(number as i64);
                self.floats.push(number);
            }
            Label::Word(word) => {
                self.word_rows.push((self.integers.len(), row, line));
                let number = match self.word_numbers.get(word) {
                    Some(number) => *number,
                    None => {
                        let number = self.words.len() as i64;
                        self.word_numbers.insert(word.to_owned(), number);
                        self.words.push(word.to_owned());
                        number
                    }
                };
                self.integers.push(number);
                self.floats.push(0.0);
            }
            Label::Integers(list) => self.floats.extend(list.iter().map(|&number| number as f32)),
            Label::Floats(list) => self.floats.extend(list),
        }
    }

    /// All labels. Fractions anywhere make fractions of all; words are numbered as in `classes`, to which new ones are
    /// appended, unless they are True and False, or there are numbers among them.
    pub(crate) fn finish(self, column: &str, classes: &mut Vec<String>) -> FileLabels {
        let are_words = !self.words.is_empty() && self.word_rows.len() == self.integers.len();
        let mut bad = Vec::new();
        let mut are_classes = false;
        let labels = match self.kind {
            Some(LabelKind::List(width)) => Labels::Vector {
                values: self.floats,
                shape: vec![width],
            },
            _ if are_words => {
                let truths: Vec<Option<i64>> = self.words.iter().map(|word| truth(word)).collect();
                let numbers: Vec<i64> = if truths.iter().all(Option::is_some) {
                    truths.into_iter().flatten().collect()
                } else {
                    are_classes = true;
                    let number = |word: &String| {
                        let known = classes.iter().position(|class| class == word);
                        known.unwrap_or_else(|| {
                            classes.push(word.clone());
                            classes.len() - 1
                        }) as i64
                    };
                    self.words.iter().map(number).collect()
                };
                let labels = self.integers.iter();
                Labels::Integer(labels.map(|&word| numbers[word as usize]).collect())
            }
            _ => {
                for (place, row, line) in self.word_rows {
                    let word = &self.words[self.integers[place] as usize];
                    let bad_row = BadRow {
                        row,
                        line,
                        column: Some(column.to_owned()),
                        defect: Defect::NotNumber(format!("`{}`", shortened(word))),
                    };
                    bad.push((place, bad_row));
                }
                if self.has_fractions {
                    Labels::Float(self.floats)
                } else {
                    Labels::Integer(self.integers)
                }
            }
        };
        FileLabels {
            labels,
            are_classes,
            bad,
        }
    }

    /// Takes out the labels so far, which are numbers. Fractions in them or before make fractions of all.
    pub(crate) fn take(&mut self) -> Labels {
        let integers = std::mem::take(&mut self.integers);
        let values = std::mem::take(&mut self.floats);
        match self.kind {
            Some(LabelKind::List(width)) => Labels::Vector {
                values,
                shape: vec![width],
            },
            _ if self.has_fractions => Labels::Float(values),
            _ => Labels::Integer(integers),
        }
    }

    /// Different words that labels are.
    pub(crate) fn n_words(&self) -> usize {
        self.words.len()
    }
}

/// The number of a truth value that is written as text, as Python writes it.
fn truth(word: &str) -> Option<i64> {
    match word {
        "true" | "True" | "TRUE" => Some(1),
        "false" | "False" | "FALSE" => Some(0),
        _ => None,
    }
}

/// A fraction as the `f32` that it becomes: 1e300 is a finite number, but no finite label.
fn float<'c>(number: f64) -> Result<Label<'c>, Defect> {
    let label = number as f32;
    if label.is_finite() {
        Ok(Label::Float(label))
    } else {
        Err(Defect::OutOfRange(format!("{number:e}")))
    }
}

/// A label that is written as text, as CSV has it.
fn parsed(text: &str) -> Result<Label<'_>, Defect> {
    let text = text.trim();
    let is_whole = || {
        text.bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'-')
    };
    match (text.parse(), text.parse()) {
        (Ok(integer), _) => Ok(Label::Integer(integer)),
        // A whole number past 64 bits would make scores of all labels.
        (Err(_), Ok::<f64, _>(_)) if is_whole() => Err(Defect::OutOfRange(format!(
            "{} (past 64 bits)",
            shortened(text)
        ))),
        (Err(_), Ok(number)) => float(number),
        (Err(_), Err(_)) if text.is_empty() => Err(Defect::NotNumber("empty".to_owned())),
        (Err(_), Err(_)) => Ok(Label::Word(text)),
    }
}

/// Whether all texts of a column are numbers, of which those before were by `before`; none where there is no text.
pub(crate) fn are_numbers(before: Option<bool>, column: &ListColumn) -> Option<bool> {
    let is_number = |text: &str| text.trim().parse::<f64>().is_ok();
    match (before, column.texts.is_empty()) {
        (Some(false), _) | (_, true) => before,
        _ => Some(column.texts.iter().all(is_number)),
    }
}

/// Refuses a column of nothing but numbers, in a format that does not tell an index from a text.
pub(crate) fn check_not_numbers(
    path: &Path,
    columns: &[ListColumn],
    are_numbers: &[Option<bool>],
) -> Result<(), DataError> {
    let mut columns_of_numbers = columns.iter().zip(are_numbers);
    match columns_of_numbers.find(|(_, are_numbers)| **are_numbers == Some(true)) {
        None => Ok(()),
        Some((column, _)) => Err(DataError::NotText {
            path: path.to_path_buf(),
            column: column.name.clone(),
            found: "only numbers".to_owned(),
            available: columns.iter().map(|column| column.name.clone()).collect(),
        }),
    }
}

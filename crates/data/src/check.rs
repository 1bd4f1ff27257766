//! Checks of cells that all formats share: texts and labels.

use std::path::Path;

use crate::{
    dataset::{Labels, TextColumn},
    error::{DataError, Defect, shortened},
    formats::Cell,
};

/// The text of a cell, unless it is missing, blank or no text.
pub(crate) fn text<'c>(cell: &'c Cell<'_>) -> Result<&'c str, Defect> {
    match cell {
        Cell::Text(text) if text.is_empty() => Err(Defect::Empty),
        Cell::Text(text) if text.trim_start().is_empty() => Err(Defect::Blank),
        Cell::Text(text) => Ok(text),
        cell => Err(cell
            .defect()
            .unwrap_or_else(|| Defect::NotText(cell.name()))),
    }
}

/// A good label.
pub(crate) enum Label<'c> {
    Integer(i64),
    Float(f32),
    Integers(&'c [i64]),
    Floats(&'c [f32]),
}

/// Labels as they come, row by row. The first one says of which kind all have to be.
#[derive(Default)]
pub(crate) struct LabelBuilder {
    kind: Option<LabelKind>,
    /// Without meaning where a label had a fraction.
    integers: Vec<i64>,
    floats: Vec<f32>,
    has_fractions: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LabelKind {
    Truth,
    Number,
    /// Lists of so many numbers.
    List(usize),
}

impl LabelBuilder {
    /// The label of a cell; `is_typed` says whether the format tells numbers from texts.
    pub(crate) fn check<'c>(
        &mut self,
        cell: &'c Cell<'_>,
        is_typed: bool,
    ) -> Result<Label<'c>, Defect> {
        let (label, kind) = match cell {
            Cell::Truth(truth) => (Label::Integer(i64::from(*truth)), LabelKind::Truth),
            Cell::Integer(number) => (Label::Integer(*number), LabelKind::Number),
            Cell::Large(number) => {
                return Err(Defect::OutOfRange(format!("{number} (past 64 bits)")));
            }
            Cell::Float(number) => (float(*number)?, LabelKind::Number),
            Cell::Text(text) if !is_typed => (parsed(text)?, LabelKind::Number),
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
            (_, first) => Err(Defect::NotNumber(format!(
                "{} where the first row has {}",
                cell.name(),
                match first {
                    LabelKind::Truth => "true or false",
                    LabelKind::Number => "a number",
                    LabelKind::List(_) => "a list",
                }
            ))),
        }
    }

    /// Appends a label that [`LabelBuilder::check`] gave.
    pub(crate) fn push(&mut self, label: Label<'_>) {
        match label {
            Label::Integer(number) => {
                self.integers.push(number);
                self.floats.push(number as f32);
            }
            Label::Float(number) => {
                self.has_fractions = true;
                self.integers.push(0);
                self.floats.push(number);
            }
            Label::Integers(list) => self.floats.extend(list.iter().map(|&number| number as f32)),
            Label::Floats(list) => self.floats.extend(list),
        }
    }

    /// All labels: fractions anywhere make fractions of all.
    pub(crate) fn finish(self) -> Labels {
        match self.kind {
            Some(LabelKind::List(width)) => Labels::Vector {
                values: self.floats,
                shape: vec![width],
            },
            _ if self.has_fractions => Labels::Float(self.floats),
            _ => Labels::Integer(self.integers),
        }
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
fn parsed<'c>(text: &str) -> Result<Label<'c>, Defect> {
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
        (Err(_), Err(_)) => Err(Defect::NotNumber(format!("`{}`", shortened(text)))),
    }
}

/// Refuses a column of nothing but numbers, in a format that does not tell an index from a text.
pub(crate) fn check_not_numbers(path: &Path, columns: &[TextColumn]) -> Result<(), DataError> {
    let is_number = |text: &str| text.trim().parse::<f64>().is_ok();
    let numbers = columns
        .iter()
        .find(|column| !column.texts.is_empty() && column.texts.iter().all(is_number));
    match numbers {
        None => Ok(()),
        Some(column) => Err(DataError::NotText {
            path: path.to_path_buf(),
            column: column.name.clone(),
            found: "only numbers".to_owned(),
            available: columns.iter().map(|column| column.name.clone()).collect(),
        }),
    }
}

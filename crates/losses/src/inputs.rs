//! Which columns and labels a loss takes, and the checks of a batch against that.

use crate::LossError;
use tch::{Kind, Tensor};

/// What the label column of a data set holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LabelKind {
    /// There is no label column.
    None,
    /// One class or 0/1 per row.
    Integer,
    /// One score per row.
    Float,
    /// Several numbers per row: a teacher's scores or its embedding.
    FloatVector,
}

/// One shape of data set that a loss accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepts {
    /// The fewest text columns.
    pub min_columns: usize,
    /// The most text columns; no bound where `None`.
    pub max_columns: Option<usize>,
    /// The label column. [`LabelKind::Float`] accepts integers as well.
    pub labels: LabelKind,
}

/// All that a loss asks of its inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Requirements {
    /// The alternatives; a data set has to fit one of them.
    pub accepts: &'static [Accepts],
    /// Whether a guide model's embeddings of the same columns, in the same order, have to follow
    /// the model's own in `embeddings`.
    pub guide: bool,
}

impl Requirements {
    /// Requirements without a guide model.
    pub const fn new(accepts: &'static [Accepts]) -> Self {
        Self {
            accepts,
            guide: false,
        }
    }

    /// Whether a data set with that many text columns and such labels fits.
    ///
    /// # Errors
    /// Says what `loss` needs and what the data set has.
    pub fn check(
        &self,
        loss: &'static str,
        columns: usize,
        labels: LabelKind,
    ) -> Result<(), LossError> {
        if self
            .accepts
            .iter()
            .any(|accepts| accepts.fits(columns, labels))
        {
            return Ok(());
        }
        let alternatives: Vec<String> = self.accepts.iter().map(Accepts::describe).collect();
        let needs = alternatives.join(", or ");
        Err(LossError::Inputs {
            loss,
            needs,
            has: describe(columns, labels),
        })
    }
}

impl Accepts {
    fn fits(&self, columns: usize, labels: LabelKind) -> bool {
        let enough = columns >= self.min_columns;
        let not_too_many = self.max_columns.is_none_or(|max| columns <= max);
        let same_labels = match self.labels {
            LabelKind::Float => matches!(labels, LabelKind::Float | LabelKind::Integer),
            kind => kind == labels,
        };
        enough && not_too_many && same_labels
    }

    fn describe(&self) -> String {
        let columns = match (self.min_columns, self.max_columns) {
            (min, Some(max)) if min == max => plural(min),
            (min, Some(max)) => format!("{min} to {max} text columns"),
            (min, None) => format!("{min} or more text columns"),
        };
        format!("{columns} {}", describe_labels(self.labels))
    }
}

/// The columns of a batch, checked and in a precision that a loss can be computed in.
///
/// There have to be `min` to `max` of them, each `[batch, dimension]` with one shape for all.
pub(crate) fn columns(
    loss: &'static str,
    embeddings: &[Tensor],
    min: usize,
    max: Option<usize>,
) -> Result<Vec<Tensor>, LossError> {
    if embeddings.len() < min || max.is_some_and(|max| embeddings.len() > max) {
        let needs = match max {
            Some(max) if max == min => plural(min),
            Some(max) => format!("{min} to {max} text columns"),
            None => format!("{min} or more text columns"),
        };
        return Err(LossError::Inputs {
            loss,
            needs,
            has: plural(embeddings.len()),
        });
    }
    let first = embeddings.first().map(Tensor::size).unwrap_or_default();
    for (index, column) in embeddings.iter().enumerate() {
        let shape = column.size();
        if shape.len() != 2 || shape[0] == 0 {
            let what = format!("embeddings of column {index}");
            let expected = "[batch, dimension] with at least one row".to_owned();
            return Err(LossError::Shape {
                loss,
                what,
                shape,
                expected,
            });
        }
        if shape != first {
            let what = format!("embeddings of column {index}");
            let expected = format!("the shape of column 0, {first:?},");
            return Err(LossError::Shape {
                loss,
                what,
                shape,
                expected,
            });
        }
    }
    embeddings.iter().map(raise).collect()
}

/// The labels of a batch of `batch` rows as a vector, in their own type.
pub(crate) fn labels(
    loss: &'static str,
    labels: Option<&Tensor>,
    batch: i64,
) -> Result<Tensor, LossError> {
    let Some(labels) = labels else {
        let needs = "labels".to_owned();
        return Err(LossError::Inputs {
            loss,
            needs,
            has: "none".to_owned(),
        });
    };
    let shape = labels.size();
    if shape.first() != Some(&batch) || shape.iter().product::<i64>() != batch {
        let expected = format!("[{batch}]");
        return Err(LossError::Shape {
            loss,
            what: "labels".to_owned(),
            shape,
            expected,
        });
    }
    Ok(labels.f_view([batch])?)
}

/// The labels of a batch with one number or more per row, whose shape the loss checks.
pub(crate) fn label_vectors(
    loss: &'static str,
    labels: Option<&Tensor>,
) -> Result<Tensor, LossError> {
    match labels {
        Some(labels) => Ok(labels.f_detach()?),
        None => {
            let needs = "a teacher's figures as labels".to_owned();
            Err(LossError::Inputs {
                loss,
                needs,
                has: "none".to_owned(),
            })
        }
    }
}

/// Half precision to f32: sums over a batch lose too much in 16 bits.
pub(crate) fn raise(tensor: &Tensor) -> Result<Tensor, LossError> {
    match tensor.kind() {
        Kind::Half | Kind::BFloat16 => Ok(tensor.f_to_kind(Kind::Float)?),
        _ => Ok(tensor.shallow_clone()),
    }
}

fn describe(columns: usize, labels: LabelKind) -> String {
    format!("{} {}", plural(columns), describe_labels(labels))
}

fn plural(columns: usize) -> String {
    match columns {
        1 => "1 text column".to_owned(),
        n => format!("{n} text columns"),
    }
}

fn describe_labels(labels: LabelKind) -> &'static str {
    match labels {
        LabelKind::None => "without a label column",
        LabelKind::Integer => "and a column of integer labels",
        LabelKind::Float => "and a column of float labels",
        LabelKind::FloatVector => "and a column of lists of floats as labels",
    }
}

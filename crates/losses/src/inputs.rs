//! The columns and labels that a loss takes, and the check of a data set and of a batch against them.

use tch::{Kind, Tensor};

use crate::error::LossError;

/// The contents of a data set's label column.
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
    /// Several numbers per row that are the probabilities of classes. A data set with these is of
    /// [`Self::FloatVector`].
    Probabilities,
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
    /// the model's own in a batch.
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

    /// Checks a data set with that many text columns and such labels.
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
        Err(LossError::Inputs {
            loss,
            needs: self.describe(),
            has: format!("{} {}", plural(columns), describe_labels(labels)),
        })
    }

    /// The columns and labels that are needed, in words.
    pub fn describe(&self) -> String {
        let alternatives: Vec<String> = self.accepts.iter().map(Accepts::describe).collect();
        alternatives.join(", or ")
    }

    /// Checks the columns of a batch, a guide's behind the model's own, and raises half precision to
    /// f32, since sums over a batch lose too much in 16 bits.
    ///
    /// # Errors
    /// Where there are too few or too many, or one is not `[batch, dimension]` as the first is.
    pub fn columns_of(
        &self,
        loss: &'static str,
        embeddings: &[Tensor],
    ) -> Result<Vec<Tensor>, LossError> {
        let own = self.n_own(embeddings.len());
        if self.guide && 2 * own != embeddings.len() {
            return Err(LossError::Inputs {
                loss,
                needs: "a guide's column for each text column".to_owned(),
                has: format!("{} columns in all", embeddings.len()),
            });
        }
        let counts = || self.accepts.iter();
        let min = counts().map(|accepts| accepts.min_columns).min();
        let min = min.unwrap_or(0);
        let max = counts().map(|accepts| accepts.max_columns.unwrap_or(usize::MAX));
        let max = max.max().filter(|max| *max < usize::MAX);
        if own < min || max.is_some_and(|max| own > max) {
            return Err(LossError::Inputs {
                loss,
                needs: describe_range(min, max),
                has: plural(own),
            });
        }
        let mismatch = |what: String, shape: Vec<i64>, expected: String| {
            Err(LossError::Shape {
                loss,
                what,
                shape,
                expected,
            })
        };
        for (index, column) in embeddings.iter().enumerate() {
            let shape = column.size();
            let what = match index.checked_sub(own) {
                None => format!("embeddings of column {index}"),
                Some(index) => format!("the guide's embeddings of column {index}"),
            };
            if shape.len() != 2 || shape[0] == 0 {
                let expected = "[batch, dimension] with at least one row".to_owned();
                return mismatch(what, shape, expected);
            }
            // A guide has a dimension of its own, and the batch's rows.
            let first = embeddings[if index < own { 0 } else { own }].size();
            if shape != first || shape[0] != embeddings[0].size()[0] {
                let expected = match index == own {
                    true => format!("[{}, dimension]", embeddings[0].size()[0]),
                    false => format!("the shape of column 0, {first:?},"),
                };
                return mismatch(what, shape, expected);
            }
        }
        embeddings.iter().map(raise).collect()
    }

    /// Checks the labels of a batch of `batch` rows. One label a row becomes a vector; the shape of
    /// several is the loss's to check.
    ///
    /// # Errors
    /// Where the loss can't do without labels, or there is not one for each row.
    pub fn labels_of(
        &self,
        loss: &'static str,
        labels: Option<&Tensor>,
        batch: i64,
    ) -> Result<Option<Tensor>, LossError> {
        let is_taken = |kind| self.accepts.iter().any(|accepts| accepts.labels == kind);
        let Some(labels) = labels else {
            return match is_taken(LabelKind::None) {
                true => Ok(None),
                false => required(loss, None).map(Some),
            };
        };
        if is_taken(LabelKind::FloatVector) || is_taken(LabelKind::Probabilities) {
            return Ok(Some(labels.f_detach()?));
        }
        if !is_taken(LabelKind::Float) && !is_taken(LabelKind::Integer) {
            return Ok(None);
        }
        let shape = labels.size();
        if shape.first() != Some(&batch) || shape.iter().product::<i64>() != batch {
            return Err(LossError::Shape {
                loss,
                what: "labels".to_owned(),
                shape,
                expected: format!("[{batch}]"),
            });
        }
        Ok(Some(labels.f_view([batch])?))
    }

    /// How many of a batch's columns are the model's own; a guide's follow.
    pub(crate) fn n_own(&self, n_columns: usize) -> usize {
        match self.guide {
            true => n_columns / 2,
            false => n_columns,
        }
    }
}

impl Accepts {
    /// Exactly `columns` text columns.
    pub const fn exactly(columns: usize, labels: LabelKind) -> Self {
        Self {
            min_columns: columns,
            max_columns: Some(columns),
            labels,
        }
    }

    /// `columns` text columns or more.
    pub const fn at_least(columns: usize, labels: LabelKind) -> Self {
        Self {
            min_columns: columns,
            max_columns: None,
            labels,
        }
    }

    fn fits(&self, columns: usize, labels: LabelKind) -> bool {
        let enough = columns >= self.min_columns;
        let not_too_many = self.max_columns.is_none_or(|max| columns <= max);
        let same_labels = match self.labels {
            LabelKind::Float => matches!(labels, LabelKind::Float | LabelKind::Integer),
            LabelKind::Probabilities => labels == LabelKind::FloatVector,
            kind => kind == labels,
        };
        enough && not_too_many && same_labels
    }

    fn describe(&self) -> String {
        let columns = describe_range(self.min_columns, self.max_columns);
        format!("{columns} {}", describe_labels(self.labels))
    }
}

/// Labels that have to be there, as [`Requirements::labels_of`] has checked.
pub(crate) fn required(loss: &'static str, labels: Option<&Tensor>) -> Result<Tensor, LossError> {
    labels
        .map(Tensor::shallow_clone)
        .ok_or_else(|| LossError::Inputs {
            loss,
            needs: "labels".to_owned(),
            has: "none".to_owned(),
        })
}

fn raise(tensor: &Tensor) -> Result<Tensor, LossError> {
    match tensor.kind() {
        Kind::Half | Kind::BFloat16 => Ok(tensor.f_to_kind(Kind::Float)?),
        _ => Ok(tensor.shallow_clone()),
    }
}

fn describe_range(min: usize, max: Option<usize>) -> String {
    match max {
        Some(max) if max == min => plural(min),
        Some(max) => format!("{min} to {max} text columns"),
        None => format!("{min} or more text columns"),
    }
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
        LabelKind::Probabilities => "and a column of lists of probabilities as labels",
    }
}

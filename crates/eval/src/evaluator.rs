//! The trait of all evaluators, and their inputs.

use std::{collections::HashMap, fmt};

use tch::Tensor;

use crate::{csv::CsvTable, error::EvalError, metrics::Metrics, rows::RowFigures};

/// A function from embeddings and labels to metrics, with all that it needs beside these.
pub trait Evaluator: fmt::Debug + Send {
    /// The metrics of embeddings on any device, without gradients.
    ///
    /// # Errors
    /// Where the number of columns, their shapes or the labels don't fit.
    fn evaluate(&self, inputs: &Inputs<'_>) -> Result<Metrics, EvalError>;

    /// The metrics as functions of the rows, for intervals; `None` where they have no rows that could
    /// be drawn anew.
    ///
    /// # Errors
    /// As [`Self::evaluate`].
    fn rows(&self, inputs: &Inputs<'_>) -> Result<Option<RowFigures>, EvalError>;

    /// The file that the metrics are appended to.
    fn csv(&self) -> CsvTable;

    /// All files that the metrics are appended to, where there are several.
    fn all_csv(&self) -> Vec<CsvTable> {
        vec![self.csv()]
    }
}

/// The inputs of an evaluation.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// One tensor `[n, dimension]` for each column of texts, in the evaluator's order.
    pub embeddings: &'a [Tensor],
    /// One entry per row, for the evaluators that take labels.
    pub labels: Option<&'a Labels>,
    /// For each column the numbers of its texts, see [`text_ids`], for the evaluators that compare
    /// texts.
    pub text_ids: &'a [Vec<u32>],
}

/// A number for each text of a column: equal numbers for equal texts.
pub fn text_ids<'t>(texts: impl IntoIterator<Item = &'t str>) -> Vec<u32> {
    let mut known: HashMap<&str, u32> = HashMap::new();
    let number = |text| {
        let next = known.len() as u32;
        *known.entry(text).or_insert(next)
    };
    texts.into_iter().map(number).collect()
}

/// The labels of a data set.
#[derive(Debug, Clone, PartialEq)]
pub enum Labels {
    /// A class per row, or 1 and 0 for alike and not.
    Classes(Vec<i64>),
    /// A gold score per row.
    Scores(Vec<f64>),
    /// Several numbers per row, which no evaluator takes from here.
    Lists,
}

/// The kind of a data set's labels, as far as evaluators tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelKind {
    /// There are none.
    None,
    /// Whole numbers that are all 0 or 1.
    Binary,
    /// Whole numbers.
    Classes,
    /// Scores.
    Scores,
    /// Several numbers per row.
    Lists,
}

impl<'a> Inputs<'a> {
    /// Inputs without labels.
    pub fn new(embeddings: &'a [Tensor]) -> Self {
        Self {
            embeddings,
            labels: None,
            text_ids: &[],
        }
    }

    /// The embeddings, of which there have to be `N`.
    pub(crate) fn columns<const N: usize>(
        &self,
        evaluator: &'static str,
    ) -> Result<[&'a Tensor; N], EvalError> {
        let columns: Vec<&Tensor> = self.embeddings.iter().collect();
        columns.try_into().map_err(|columns: Vec<&Tensor>| {
            let problem = format!(
                "{} columns of embeddings, but {N} are needed",
                columns.len()
            );
            EvalError::inputs(evaluator, problem)
        })
    }

    /// The numbers of the texts of `N` columns, one a row.
    pub(crate) fn text_ids<const N: usize>(
        &self,
        evaluator: &'static str,
    ) -> Result<[&'a [u32]; N], EvalError> {
        let columns: Vec<&[u32]> = self.text_ids.iter().map(Vec::as_slice).collect();
        let lengths = self
            .embeddings
            .iter()
            .map(|column| column.size()[0] as usize);
        let fits = columns.iter().map(|ids| ids.len()).eq(lengths);
        match columns.try_into() {
            Ok(columns) if fits => Ok(columns),
            _ => Err(EvalError::inputs(
                evaluator,
                "a number for each text is needed",
            )),
        }
    }

    /// The labels as scores.
    pub(crate) fn scores(&self, evaluator: &'static str) -> Result<Vec<f64>, EvalError> {
        match self.labels {
            Some(Labels::Scores(scores)) => Ok(scores.clone()),
            // Labels are f32 upstream.
            Some(Labels::Classes(classes)) => {
                let scores = classes.iter().map(|class| f64::from(*class as f32));
                Ok(scores.collect())
            }
            _ => Err(EvalError::inputs(evaluator, "there are no gold scores")),
        }
    }

    /// The labels as classes.
    pub(crate) fn classes(&self, evaluator: &'static str) -> Result<&'a [i64], EvalError> {
        match self.labels {
            Some(Labels::Classes(classes)) => Ok(classes),
            _ => Err(EvalError::inputs(evaluator, "there are no classes")),
        }
    }
}

impl LabelKind {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::None,
        Self::Binary,
        Self::Classes,
        Self::Scores,
        Self::Lists,
    ];

    /// The kind of a data set's labels.
    pub fn of(labels: Option<&Labels>) -> Self {
        match labels {
            None => Self::None,
            Some(Labels::Classes(classes))
                if classes.iter().all(|class| matches!(class, 0 | 1)) =>
            {
                Self::Binary
            }
            Some(Labels::Classes(_)) => Self::Classes,
            Some(Labels::Scores(_)) => Self::Scores,
            Some(Labels::Lists) => Self::Lists,
        }
    }

    /// The end of a sentence about a data set with such labels.
    pub fn describe(self) -> &'static str {
        match self {
            Self::None => "without labels",
            Self::Binary => "with labels of 0 and 1",
            Self::Classes => "with whole numbers as labels",
            Self::Scores => "with scores",
            Self::Lists => "with lists as labels",
        }
    }
}

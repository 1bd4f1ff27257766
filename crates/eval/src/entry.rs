//! The description of an evaluator in the registry.

use std::fmt;

use crate::{
    error::EvalError,
    evaluator::{Evaluator, LabelKind, Labels},
    options::{Flag, Options},
};

/// An evaluator by name: the data and the flags that it takes, and how it is made.
#[derive(Debug)]
pub struct Entry {
    /// The name in kebab case; that of the class in sentence-transformers, folded, ends with
    /// `evaluator`.
    pub name: &'static str,
    /// Its rows, in the plural, such as `triplets`.
    pub unit: &'static str,
    /// The part that each column of texts has in a search, for prompts; [`Side::Text`] for those
    /// beyond the list.
    pub sides: &'static [Side],
    /// The flags that it looks at, beside the similarities.
    pub flags: &'static [&'static Flag],
    /// The data that it takes.
    pub needs: Needs,
}

/// The data that an evaluator takes.
#[derive(Debug)]
pub enum Needs {
    /// A data set's columns of texts, and its labels.
    Columns(ColumnNeeds),
    /// Tables with ids and lists.
    Tables(TableNeeds),
    /// Several retrieval tasks of a data set on the hub, by names after a colon.
    Tasks {
        /// Checks the names.
        check: fn(&str) -> Result<(), EvalError>,
    },
}

/// A function that makes an evaluator for metrics that begin with a name.
type BuildEvaluator = fn(&str, &Options) -> Result<Box<dyn Evaluator>, EvalError>;

/// The columns and labels that an evaluator takes.
pub struct ColumnNeeds {
    /// The text columns and labels in words.
    pub words: &'static str,
    /// The numbers of text columns that fit.
    pub n_columns: &'static [usize],
    /// The labels that fit.
    pub labels: &'static [LabelKind],
    /// Whether data sets that fit are put to it where no evaluator is named.
    pub is_default: bool,
    /// Whether it takes the numbers of the texts.
    pub compares_texts: bool,
    /// The source of the tensors.
    pub source: Source,
    /// Makes the evaluator, for metrics that begin with a name.
    pub build: BuildEvaluator,
}

/// The source of the tensors of an evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The model's embeddings of each column.
    Model,
    /// A teacher's embeddings of the first column, then the model's of the last.
    Teacher,
    /// The logits that the classifier of softmax loss gives for the columns.
    Classifier,
}

/// The tables that an evaluator takes.
pub struct TableNeeds {
    /// The tables, in the order in which `build` takes them.
    pub tables: &'static [Table],
    /// The table that gives the evaluation its name, where no flag does.
    pub named_by: usize,
    /// Makes the evaluator from the tables' columns.
    pub build: fn(&str, &Options, Vec<Columns>) -> Result<Prepared, EvalError>,
}

/// A table that an evaluator takes.
#[derive(Debug)]
pub struct Table {
    /// The flag that names the file; `--data` where `None`.
    pub flag: Option<&'static Flag>,
    /// The flag that names its columns; `--columns` where `None`.
    pub columns_flag: Option<&'static Flag>,
    /// A row, in words.
    pub words: &'static str,
    /// Its columns.
    pub columns: &'static [TableColumn],
}

/// A column of a table.
#[derive(Debug)]
pub struct TableColumn {
    /// Its usual names, of which the first that is there is taken.
    pub names: &'static [&'static str],
    /// The kind of its cells.
    pub holds: Holds,
    /// Whether the table may lack it.
    pub is_optional: bool,
    /// Whether a value may not come twice.
    pub is_unique: bool,
}

/// The kind of a column's cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// An id.
    Id,
    /// An id or a list of ids.
    Ids,
    /// A text.
    Text,
    /// A list of texts.
    Texts,
    /// A number.
    Number,
}

/// The cells of a column.
#[derive(Debug, Clone, PartialEq)]
pub enum Cells {
    /// Cells of [`Holds::Id`] and [`Holds::Text`].
    Texts(Vec<String>),
    /// Cells of [`Holds::Ids`] and [`Holds::Texts`].
    Lists(Vec<Vec<String>>),
    /// Cells of [`Holds::Number`].
    Numbers(Vec<f64>),
}

/// The columns of a table, `None` for an optional one that is not there.
pub type Columns = Vec<Option<Cells>>;

/// An evaluator that was made from tables.
#[derive(Debug)]
pub struct Prepared {
    /// The evaluator.
    pub evaluator: Box<dyn Evaluator>,
    /// The texts whose embeddings it takes, column after column.
    pub texts: Vec<Vec<String>>,
    /// How many rows there are, and of what; the second is what the first is looked for in.
    pub counts: Vec<(usize, &'static str)>,
}

/// The part of a text in a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// None: it gets the prompt of all texts.
    Text,
    /// A query.
    Query,
    /// A document.
    Document,
}

impl Entry {
    /// The side of a column of texts.
    pub fn side(&self, column: usize) -> Side {
        self.sides.get(column).copied().unwrap_or(Side::Text)
    }

    /// Whether it evaluates a data set or a table that `--data` names.
    pub fn takes_data(&self) -> bool {
        match &self.needs {
            Needs::Columns(_) => true,
            Needs::Tables(needs) => needs.tables.iter().any(|table| table.flag.is_none()),
            Needs::Tasks { .. } => false,
        }
    }

    /// The needs of an evaluator of data sets.
    pub fn columns(&self) -> Option<&ColumnNeeds> {
        match &self.needs {
            Needs::Columns(needs) => Some(needs),
            _ => None,
        }
    }
}

impl ColumnNeeds {
    /// Whether a data set fits.
    pub fn fits(&self, n_columns: usize, labels: Option<&Labels>) -> bool {
        self.n_columns.contains(&n_columns) && self.labels.contains(&LabelKind::of(labels))
    }
}

impl TableColumn {
    /// A column that has to be there.
    pub(crate) const fn new(names: &'static [&'static str], holds: Holds) -> Self {
        Self {
            names,
            holds,
            is_optional: false,
            is_unique: false,
        }
    }

    /// A column of ids that may not come twice.
    pub(crate) const fn unique(names: &'static [&'static str]) -> Self {
        Self {
            is_unique: true,
            ..Self::new(names, Holds::Id)
        }
    }

    /// A column of numbers that the table may lack.
    pub(crate) const fn optional_number(names: &'static [&'static str]) -> Self {
        Self {
            is_optional: true,
            ..Self::new(names, Holds::Number)
        }
    }
}

impl fmt::Debug for ColumnNeeds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words)
    }
}

impl fmt::Debug for TableNeeds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.tables).finish()
    }
}

/// The columns of a table one after the other, as its declaration has them.
pub(crate) struct Reader {
    evaluator: &'static str,
    columns: std::vec::IntoIter<Option<Cells>>,
}

impl Reader {
    /// Readers of an evaluator's `N` tables.
    pub(crate) fn of<const N: usize>(
        evaluator: &'static str,
        tables: Vec<Columns>,
    ) -> Result<[Self; N], EvalError> {
        let reader = |columns: Columns| Self {
            evaluator,
            columns: columns.into_iter(),
        };
        let readers: Vec<Self> = tables.into_iter().map(reader).collect();
        readers
            .try_into()
            .map_err(|_| EvalError::inputs(evaluator, format!("{N} tables are needed")))
    }

    pub(crate) fn texts(&mut self) -> Result<Vec<String>, EvalError> {
        match self.columns.next().flatten() {
            Some(Cells::Texts(texts)) => Ok(texts),
            other => Err(self.misread("texts", other.as_ref())),
        }
    }

    pub(crate) fn lists(&mut self) -> Result<Vec<Vec<String>>, EvalError> {
        match self.columns.next().flatten() {
            Some(Cells::Lists(lists)) => Ok(lists),
            other => Err(self.misread("lists", other.as_ref())),
        }
    }

    pub(crate) fn numbers(&mut self) -> Result<Option<Vec<f64>>, EvalError> {
        match self.columns.next().flatten() {
            None => Ok(None),
            Some(Cells::Numbers(numbers)) => Ok(Some(numbers)),
            other => Err(self.misread("numbers", other.as_ref())),
        }
    }

    fn misread(&self, wanted: &str, found: Option<&Cells>) -> EvalError {
        let found = match found {
            None => "nothing",
            Some(Cells::Texts(_)) => "texts",
            Some(Cells::Lists(_)) => "lists",
            Some(Cells::Numbers(_)) => "numbers",
        };
        let problem = format!("a column of {wanted} is needed, but it holds {found}");
        EvalError::inputs(self.evaluator, problem)
    }
}

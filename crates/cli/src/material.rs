//! The material of evaluators that is no data set: tables with ids, or tasks from the hub.

use eval::{
    EvalError, Options,
    entry::{Entry, Prepared, Side},
    nano_beir::NanoBeirTasks,
};

use crate::{nano_beir::NanoBeir, tables::Tables};

/// The material of an evaluation that is no data set.
#[derive(Debug, Clone)]
pub(crate) enum Material {
    Tables(Tables),
    NanoBeir(NanoBeir),
}

impl Material {
    /// The evaluation's name.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Tables(tables) => &tables.name,
            Self::NanoBeir(_) => "NanoBEIR",
        }
    }

    pub(crate) fn entry(&self) -> &'static Entry {
        match self {
            Self::Tables(tables) => tables.entry,
            Self::NanoBeir(tasks) => tasks.entry,
        }
    }

    /// The side of a column of texts of [`Self::prepare`].
    pub(crate) fn side(&self) -> impl Fn(usize) -> Side + use<> {
        let (entry, are_tasks) = (self.entry(), matches!(self, Self::NanoBeir(_)));
        move |column| match are_tasks {
            true => NanoBeirTasks::side(column),
            false => entry.side(column),
        }
    }

    /// A digest of all cells.
    pub(crate) fn sha256(&self) -> String {
        match self {
            Self::Tables(tables) => tables.sha256(),
            Self::NanoBeir(tasks) => tasks.sha256(),
        }
    }

    /// Makes the evaluator.
    pub(crate) fn prepare(self, options: &Options) -> Result<Prepared, EvalError> {
        match self {
            Self::Tables(tables) => tables.prepare(options),
            Self::NanoBeir(tasks) => tasks.prepare(options),
        }
    }
}

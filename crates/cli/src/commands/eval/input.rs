//! The data of an evaluation, by the kind that its evaluator needs.

use data::Dataset;
use eval::{
    Inputs,
    entry::{Needs, Source},
};

use super::{
    classifier::Classified,
    columns::{Columns, Taught},
    part::Part,
    subject::{Evaluated, Subject},
    tasks,
};
use crate::{
    flags::eval::EvalFlags,
    nano_beir::NanoBeir,
    session::Session,
    source::{self, DataOptions},
    table::counted_all,
    tables::{Sources, Tables},
};

/// The data of an evaluation, read and checked.
pub(super) enum Input {
    Columns(Columns),
    Taught(Taught),
    Classified(Classified),
    Tables(Tables),
    NanoBeir(NanoBeir),
}

impl Input {
    /// Reads the data.
    pub(super) fn load(part: &Part, flags: &EvalFlags, session: &Session) -> anyhow::Result<Self> {
        let dataset = || load_dataset(part, flags, session);
        let Some(entry) = part.evaluator else {
            return Ok(Self::Columns(Columns::new(
                dataset()?.into_triplets(),
                None,
            )?));
        };
        Ok(match &entry.needs {
            Needs::Columns(needs) => match needs.source {
                Source::Model if entry.name == "triplet" => {
                    Self::Columns(Columns::new(dataset()?.into_triplets(), Some(entry))?)
                }
                Source::Model => Self::Columns(Columns::new(dataset()?, Some(entry))?),
                Source::Teacher => Self::Taught(Taught::new(dataset()?, entry, needs, flags)?),
                Source::Classifier => Self::Classified(Classified::new(dataset()?, entry, needs)?),
            },
            Needs::Tables(needs) => {
                let sources = Sources {
                    flags: &flags.of_evaluators,
                    data: part.data.as_ref().map(|data| data.value.as_str()),
                    data_flag: "data",
                    columns: flags.options.columns.as_deref(),
                    max_rows: flags.options.max_samples,
                    on_bad_row: flags.options.on_bad_row,
                };
                Self::Tables(Tables::load(entry, needs, part.name.clone(), &sources)?)
            }
            Needs::Tasks { .. } => Self::NanoBeir(NanoBeir::load(
                entry,
                part.tasks.as_deref(),
                &flags.of_evaluators,
                session,
            )?),
        })
    }

    /// Puts the model through the evaluator.
    pub(super) fn evaluate(self, subject: &Subject<'_>) -> anyhow::Result<Evaluated> {
        match self {
            Self::Columns(input) => input.evaluate(subject),
            Self::Taught(input) => input.evaluate(subject),
            Self::Classified(input) => input.evaluate(subject),
            Self::Tables(input) => evaluate_tables(input, subject),
            Self::NanoBeir(input) => tasks::evaluate(input, subject),
        }
    }
}

fn evaluate_tables(tables: Tables, subject: &Subject<'_>) -> anyhow::Result<Evaluated> {
    let (entry, name) = (tables.entry, tables.name.clone());
    let prepared = tables.prepare(&subject.options)?;
    let embeddings = subject.embed_sides(entry, &prepared.texts, &name)?;
    let what = counted_all(&prepared.counts);
    subject.evaluate(prepared.evaluator.as_ref(), &Inputs::new(&embeddings), what)
}

/// Reads the data set of a part.
fn load_dataset(part: &Part, flags: &EvalFlags, session: &Session) -> anyhow::Result<Dataset> {
    let source = part.data.as_ref().map_or("", |data| data.value.as_str());
    let options = DataOptions {
        name: part.name.clone(),
        columns: flags.options.columns.clone(),
        max_rows: flags.options.max_samples,
        on_bad_row: Some(flags.options.on_bad_row),
        reading: flags.options.reading.clone(),
        ..DataOptions::default()
    };
    source::dataset(source, flags.options.split, &options, session)
}

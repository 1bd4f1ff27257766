//! Flags of `sentune train` for evaluators of tables with ids, such as retrieval, as the registry declares them.

use clap::{ArgMatches, Args, Command, FromArgMatches};
use eval::{
    entry::{Entry, Needs},
    options::Flag,
    registry::EVALUATORS,
};
use serde::{Serialize, Serializer, ser::SerializeMap};
use toml::{Table, Value};

use crate::{
    flags::eval::{EvaluatorFlags, argument},
    usage::UsageError,
};

/// The flags that are given.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct TableFlags(pub(crate) EvaluatorFlags);

/// The evaluators of tables, NanoBEIR's among them.
fn entries() -> impl Iterator<Item = &'static Entry> {
    let is_of_columns = |entry: &&'static Entry| matches!(entry.needs, Needs::Columns(_));
    EVALUATORS
        .into_iter()
        .filter(move |entry| !is_of_columns(entry))
}

/// The flags of all of them, each once.
fn flags() -> Vec<&'static Flag> {
    let mut flags: Vec<&Flag> = Vec::new();
    for flag in entries().flat_map(|entry| entry.flags) {
        if !flags.iter().any(|known| known.name == flag.name) {
            flags.push(flag);
        }
    }
    flags
}

impl TableFlags {
    /// The evaluator whose tables are named, if any.
    pub(crate) fn entry(&self) -> Option<&'static Entry> {
        entries().find(|entry| {
            let Needs::Tables(needs) = &entry.needs else {
                return false;
            };
            let mut files = needs.tables.iter().filter_map(|table| table.flag);
            files.any(|flag| self.0.has(flag.name))
        })
    }

    /// The flags among the keys of a configuration.
    ///
    /// # Errors
    /// With the key and the value that it can't have.
    pub(crate) fn from_table(table: &Table) -> Result<Self, UsageError> {
        let mut given = EvaluatorFlags::default();
        for flag in flags() {
            let Some(value) = table.get(flag.name) else {
                continue;
            };
            let refused =
                |problem: &str| UsageError(format!("{} is {value}: {problem}", flag.name));
            let values = match (flag.value, value) {
                (None, Value::Boolean(true)) => Vec::new(),
                (None, Value::Boolean(false)) => continue,
                (None, _) => return Err(refused("it must be true or false")),
                (Some(_), Value::Array(values)) if flag.is_list => {
                    values.iter().map(text).collect()
                }
                (Some(_), value) => vec![text(value)],
            };
            for value in &values {
                (flag.check)(value).map_err(|problem| refused(&problem))?;
            }
            given.set(flag.name, values);
        }
        Ok(Self(given))
    }
}

/// A value as a command line has it.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

impl Serialize for TableFlags {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, values) in self.0.iter() {
            match values {
                [] => map.serialize_entry(name, &true)?,
                [value] => map.serialize_entry(name, value)?,
                values => map.serialize_entry(name, values)?,
            }
        }
        map.end()
    }
}

impl Args for TableFlags {
    fn augment_args(command: Command) -> Command {
        command.args(flags().into_iter().map(argument))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for TableFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self(EvaluatorFlags::given(matches, &flags())))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

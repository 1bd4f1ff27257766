//! Prompts by column: the `prompts` argument of sentence-transformers' trainer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::TrainError;

/// Texts that are put before the texts of columns, in training and in the evaluation loss. Evaluators use the
/// model's own prompts instead, and the saved model keeps those.
///
/// `prompts` of `base/training_args.py` and its reading in `base/data_collator.py` of sentence-transformers 6.2.0:
/// a text, or texts by column, by data set, or by data set and column. A name that is a data set's is not looked for
/// among the columns. One deliberate difference: a name that is neither is refused, where upstream passes over it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "a prompt has to be a text, or a table of texts by column, by data set, or by data set and column"
)]
pub enum Prompts {
    /// One for all columns of all data sets.
    All(String),
    /// Prompts by column or by data set.
    Named(BTreeMap<String, NamedPrompts>),
}

/// The value under a name in [`Prompts`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "under a name there has to be a text or, where it is a data set's, a table of texts by column"
)]
pub enum NamedPrompts {
    /// For the column of that name, or for all columns of the data set of that name.
    Text(String),
    /// For the columns of the data set of that name.
    Columns(BTreeMap<String, String>),
}

impl Prompts {
    /// The prompt of each of a data set's columns; empty for those without. `name` is the one that the data set is
    /// told from others by, where it has one.
    ///
    /// # Errors
    /// [`TrainError::Arguments`] where the prompts are by data set and column and this one has no name.
    pub fn of(&self, name: Option<&str>, columns: &[&str]) -> Result<Vec<String>, TrainError> {
        let by_name = match self {
            Self::All(text) => return Ok(vec![text.clone(); columns.len()]),
            Self::Named(by_name) => by_name,
        };
        let of_column = |found: &dyn Fn(&str) -> Option<String>| {
            let prompts = columns
                .iter()
                .map(|column| found(column).unwrap_or_default());
            Ok(prompts.collect())
        };
        match name.and_then(|name| by_name.get(name)) {
            Some(NamedPrompts::Text(text)) => Ok(vec![text.clone(); columns.len()]),
            Some(NamedPrompts::Columns(texts)) => of_column(&|column| texts.get(column).cloned()),
            None if self.is_nested() && name.is_none() => Err(TrainError::Arguments(format!(
                "--prompts is by data set and column, for {}, but there is data without a name: give it as NAME=DATA, or the prompts by column alone",
                list(by_name.keys())
            ))),
            None if self.is_nested() => of_column(&|_| None),
            None => of_column(&|column| match by_name.get(column) {
                Some(NamedPrompts::Text(text)) => Some(text.clone()),
                _ => None,
            }),
        }
    }

    /// Looks whether every name is that of a data set or column among `sets`, the names of data sets with their
    /// columns.
    ///
    /// # Errors
    /// [`TrainError::Arguments`] with the name that is not, and those that there are.
    pub fn check(&self, sets: &[(Option<&str>, Vec<&str>)]) -> Result<(), TrainError> {
        let Self::Named(by_name) = self else {
            return Ok(());
        };
        let names = || sets.iter().filter_map(|set| set.0);
        for (name, prompts) in by_name {
            let is_set = names().any(|set| set == name);
            match prompts {
                NamedPrompts::Columns(texts) if is_set => {
                    let columns = columns_of(sets, Some(name));
                    let is_unknown = |column: &&String| !columns.contains(&column.as_str());
                    if let Some(column) = texts.keys().find(is_unknown) {
                        return Err(TrainError::Arguments(format!(
                            "--prompts {name}.{column}: data set {name} has no column `{column}`, its text columns are {}",
                            list(columns.iter())
                        )));
                    }
                }
                NamedPrompts::Columns(_) => {
                    return Err(TrainError::Arguments(format!(
                        "--prompts {name}: there is no data set of this name; {}",
                        match names().next() {
                            Some(_) => format!("there are {}", list(names())),
                            None => "the data has no names: give it as NAME=DATA".to_owned(),
                        }
                    )));
                }
                NamedPrompts::Text(_) if is_set => {}
                NamedPrompts::Text(_) if self.is_nested() => {
                    return Err(TrainError::Arguments(format!(
                        "--prompts {name}: beside prompts by data set and column every name must be a data set's, and those are {}",
                        list(names())
                    )));
                }
                NamedPrompts::Text(_) => {
                    let columns = columns_of(sets, None);
                    if !columns.contains(&name.as_str()) {
                        return Err(TrainError::Arguments(format!(
                            "--prompts {name}: no data set and no text column has this name; there are {}",
                            list(names().chain(columns))
                        )));
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether some of it is by data set and column.
    fn is_nested(&self) -> bool {
        let is_nested = |prompts| matches!(prompts, &NamedPrompts::Columns(_));
        matches!(self, Self::Named(by_name) if by_name.values().any(is_nested))
    }
}

/// The columns of the data sets of a name, or of all.
fn columns_of<'s>(sets: &'s [(Option<&str>, Vec<&str>)], name: Option<&str>) -> Vec<&'s str> {
    let of_name = sets.iter().filter(|set| name.is_none() || set.0 == name);
    of_name.flat_map(|set| set.1.iter().copied()).collect()
}

/// Different names, in the order in which they first come.
fn list<T: AsRef<str>>(names: impl Iterator<Item = T>) -> String {
    let mut different: Vec<String> = Vec::new();
    for name in names {
        let name = format!("`{}`", name.as_ref());
        if !different.contains(&name) {
            different.push(name);
        }
    }
    different.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompts(json: &str) -> Prompts {
        serde_json::from_str(json).unwrap()
    }

    fn of(json: &str, name: Option<&str>, columns: [&str; 2]) -> Vec<String> {
        prompts(json).of(name, &columns).unwrap()
    }

    /// The cases of `TestDataCollatorPrompts` in `tests/base/test_data_collator.py`, and those beside them.
    #[test]
    fn the_rules_are_upstreams() {
        let columns = ["anchor", "positive"];
        assert_eq!(of(r#""query: ""#, None, columns), ["query: ", "query: "]);
        assert_eq!(of(r#"{"anchor": "q: "}"#, None, columns), ["q: ", ""]);
        assert_eq!(
            of(r#"{"anchor": "q: "}"#, Some("nli"), columns),
            ["q: ", ""]
        );
        let by_set = r#"{"nli": "n: ", "sts": {"positive": "p: "}}"#;
        assert_eq!(of(by_set, Some("nli"), columns), ["n: ", "n: "]);
        assert_eq!(of(by_set, Some("sts"), columns), ["", "p: "]);
        assert_eq!(of(by_set, Some("other"), columns), ["", ""]);
        assert_eq!(of(r#"{"nli": "n: "}"#, Some("sts"), columns), ["", ""]);
        // A data set's name goes before a column's.
        assert_eq!(
            of(r#"{"anchor": "a: "}"#, Some("anchor"), columns),
            ["a: ", "a: "]
        );
        assert_eq!(of("{}", None, columns), ["", ""]);
        let error = prompts(by_set).of(None, &columns).unwrap_err().to_string();
        assert!(
            error.contains("`nli`, `sts`") && error.contains("without a name"),
            "{error}"
        );
    }

    /// The forms and data sets of `test_trainer_prompts` in `tests/sentence_transformer/test_trainer.py`.
    #[test]
    fn every_form_means_what_it_does_upstream() {
        let forms = [
            r#""P""#,
            r#"{"stsb-1": "P1", "stsb-2": "P2"}"#,
            r#"{"sentence1": "P1", "sentence2": "P2"}"#,
            r#"{"stsb-1": {"sentence1": "P1", "sentence2": "P2"}, "stsb-2": {"sentence1": "P3", "sentence2": "P4"}}"#,
        ];
        let expected = [
            (None, [Some("P P"), Some(" "), Some("P1 P2"), None]),
            (
                Some("stsb-1"),
                [Some("P P"), Some("P1 P1"), Some("P1 P2"), Some("P1 P2")],
            ),
            (
                Some("stsb-2"),
                [Some("P P"), Some("P2 P2"), Some("P1 P2"), Some("P3 P4")],
            ),
        ];
        for (name, expected) in expected {
            for (form, expected) in forms.iter().zip(expected) {
                let found = prompts(form).of(name, &["sentence1", "sentence2"]);
                let found = found.ok().map(|found| found.join(" "));
                assert_eq!(found.as_deref(), expected, "{form}, {name:?}");
            }
        }
    }

    #[test]
    fn unknown_names_are_refused() {
        let sets = [
            (Some("nli"), vec!["anchor", "positive"]),
            (Some("sts"), vec!["a", "b"]),
        ];
        let check = |json: &str| {
            prompts(json)
                .check(&sets)
                .map_err(|error| error.to_string())
        };
        check(r#""all: ""#).unwrap();
        check(r#"{"anchor": "x", "b": "y"}"#).unwrap();
        check(r#"{"nli": "x", "sts": {"a": "y"}}"#).unwrap();
        let refused = |json: &str, part: &str| {
            let error = check(json).unwrap_err();
            assert!(error.contains(part), "{error}");
        };
        refused(
            r#"{"anchr": "x"}"#,
            "there are `nli`, `sts`, `anchor`, `positive`, `a`, `b`",
        );
        refused(
            r#"{"nli": {"a": "x"}}"#,
            "its text columns are `anchor`, `positive`",
        );
        refused(r#"{"nil": {"a": "x"}}"#, "there are `nli`, `sts`");
        refused(
            r#"{"nli": {"anchor": "x"}, "a": "y"}"#,
            "every name must be a data set's",
        );
        let unnamed = [(None, vec!["anchor"])];
        let error = prompts(r#"{"nli": {"anchor": "x"}}"#)
            .check(&unnamed)
            .unwrap_err();
        assert!(error.to_string().contains("NAME=DATA"), "{error}");
    }

    #[test]
    fn other_shapes_say_what_is_allowed() {
        let error = serde_json::from_str::<Prompts>("3")
            .unwrap_err()
            .to_string();
        assert!(error.contains("a text, or a table of texts"), "{error}");
    }
}

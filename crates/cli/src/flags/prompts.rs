//! `--prompts` of `sentune train`, which may be given several times, and its form in the configuration file.

use std::collections::{BTreeMap, btree_map::Entry};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use train::{NamedPrompts, Prompts};

use crate::usage::UsageError;

/// Reads one value of the flag: a text, `COLUMN=TEXT`, `SET=TEXT`, `SET.COLUMN=TEXT`, or JSON with all of them.
///
/// Upstream reads its argument as JSON where it is such. On the command line a name has no spaces, and its first dot
/// is the one between data set and column; JSON and the file have no such limits.
pub(crate) fn parse(text: &str) -> Result<Prompts, String> {
    match serde_json::from_str(text) {
        Ok(serde_json::Value::String(text)) => return Ok(Prompts::All(text)),
        Ok(object @ serde_json::Value::Object(_)) => {
            return serde_json::from_value(object).map_err(|error| error.to_string());
        }
        _ => {}
    }
    let is_name = |name: &str| {
        let is_plain = |c: char| c.is_alphanumeric() || "-_.".contains(c);
        !name.is_empty() && name.chars().all(is_plain)
    };
    let Some((name, prompt)) = text.split_once('=').filter(|(name, _)| is_name(name)) else {
        return Ok(Prompts::All(text.to_owned()));
    };
    let prompt = prompt.to_owned();
    let (name, prompts) = match name.split_once('.') {
        Some((set, column)) if !set.is_empty() && !column.is_empty() => {
            let columns = BTreeMap::from([(column.to_owned(), prompt)]);
            (set, NamedPrompts::Columns(columns))
        }
        _ => (name, NamedPrompts::Text(prompt)),
    };
    Ok(Prompts::Named(BTreeMap::from([(name.to_owned(), prompts)])))
}

/// All values of the flag as one.
pub(crate) fn merge(values: Vec<Prompts>) -> Result<Option<Prompts>, UsageError> {
    let mut values = values.into_iter();
    let Some(mut all) = values.next() else {
        return Ok(None);
    };
    for more in values {
        let (Prompts::Named(all), Prompts::Named(more)) = (&mut all, more) else {
            return Err(UsageError(
                "--prompts is given several times: each must be COLUMN=TEXT, SET=TEXT or SET.COLUMN=TEXT; a text alone is for all columns and stands alone".to_owned(),
            ));
        };
        for (name, prompts) in more {
            add(all, name, prompts)?;
        }
    }
    Ok(Some(all))
}

fn add(
    all: &mut BTreeMap<String, NamedPrompts>,
    name: String,
    prompts: NamedPrompts,
) -> Result<(), UsageError> {
    let twice = |name: &str| {
        UsageError(format!(
            "--prompts is given twice for `{name}`: give it once"
        ))
    };
    match (all.entry(name), prompts) {
        (Entry::Vacant(entry), prompts) => {
            entry.insert(prompts);
        }
        (Entry::Occupied(mut entry), NamedPrompts::Columns(more)) => {
            let name = entry.key().clone();
            let NamedPrompts::Columns(columns) = entry.get_mut() else {
                return Err(twice(&name));
            };
            for (column, text) in more {
                if columns.contains_key(&column) {
                    return Err(twice(&format!("{name}.{column}")));
                }
                columns.insert(column, text);
            }
        }
        (Entry::Occupied(entry), NamedPrompts::Text(_)) => return Err(twice(entry.key())),
    }
    Ok(())
}

/// Writes all values as one, in the form of the configuration file.
pub(crate) fn serialize<S: Serializer>(values: &[Prompts], to: S) -> Result<S::Ok, S::Error> {
    merge(values.to_vec())
        .map_err(serde::ser::Error::custom)?
        .serialize(to)
}

/// Reads the form that [`serialize`] writes.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Prompts>, D::Error> {
    Ok(vec![Prompts::deserialize(from)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(values: &[&str]) -> Result<Option<Prompts>, String> {
        let values: Result<Vec<_>, _> = values.iter().map(|text| parse(text)).collect();
        merge(values?).map_err(|error| error.to_string())
    }

    fn json(text: &str) -> Prompts {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn all_forms_are_read() {
        for (values, expected) in [
            (&["query: "][..], r#""query: ""#),
            (&[r#""a=b""#], r#""a=b""#),
            (&["is it so = "], r#""is it so = ""#),
            (
                &["anchor=q: ", "positive=d=e: "],
                r#"{"anchor": "q: ", "positive": "d=e: "}"#,
            ),
            (
                &["nli.anchor=q", "nli.positive=d", "sts=s"],
                r#"{"nli": {"anchor": "q", "positive": "d"}, "sts": "s"}"#,
            ),
            (
                &[r#"{"a.b": "x", "nli": {"a b": "y"}}"#],
                r#"{"a.b": "x", "nli": {"a b": "y"}}"#,
            ),
        ] {
            assert_eq!(merged(values).unwrap(), Some(json(expected)), "{values:?}");
        }
        assert_eq!(merged(&[]).unwrap(), None);
    }

    #[test]
    fn contradictions_are_named() {
        for (values, part) in [
            (&["q: ", "d: "][..], "a text alone is for all columns"),
            (&["anchor=q", "d: "], "a text alone is for all columns"),
            (&["anchor=q", "anchor=r"], "twice for `anchor`"),
            (&["nli.anchor=q", "nli.anchor=r"], "twice for `nli.anchor`"),
            (&["nli=q", "nli.anchor=r"], "twice for `nli`"),
            (&["nli.anchor=q", "nli=r"], "twice for `nli`"),
            (&[r#"{"anchor": 3}"#], "a prompt has to be a text"),
        ] {
            let error = merged(values).unwrap_err();
            assert!(error.contains(part), "{values:?}: {error}");
        }
    }
}

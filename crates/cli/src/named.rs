//! Values that a flag takes once, or several times as `name=value`: data sets and their losses.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned, de::Error};
use serde_json::Value;

use crate::usage::UsageError;

/// A value, and the name that it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named<T> {
    pub(crate) name: Option<String>,
    pub(crate) value: T,
}

impl<T> Named<T> {
    /// A value alone.
    pub(crate) fn plain(value: T) -> Self {
        Self { name: None, value }
    }
}

impl<T: FromStr> FromStr for Named<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, T::Err> {
        // A path or a parameter before the sign is no name: `./a=b.csv`, `mnrl:scale=20`.
        let is_name = |name: &str| {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !name.is_empty() && name.chars().all(is_plain)
        };
        Ok(match text.split_once('=') {
            Some((name, value)) if is_name(name) => Self {
                name: Some(name.to_owned()),
                value: value.parse()?,
            },
            _ => Self::plain(text.parse()?),
        })
    }
}

impl<T: fmt::Display> fmt::Display for Named<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name}={}", self.value),
            None => self.value.fmt(f),
        }
    }
}

/// Refuses several values that are not told apart by names.
pub(crate) fn check<T>(flag: &str, values: &[Named<T>]) -> Result<(), UsageError> {
    if values.len() < 2 {
        return Ok(());
    }
    for (i, value) in values.iter().enumerate() {
        let Some(name) = &value.name else {
            return Err(UsageError(format!(
                "{flag} is given {} times: write each as NAME={}",
                values.len(),
                flag.trim_start_matches("--").to_uppercase()
            )));
        };
        if values[..i]
            .iter()
            .any(|other| other.name.as_ref() == Some(name))
        {
            return Err(UsageError(format!(
                "{flag} has the name `{name}` twice: give each its own"
            )));
        }
    }
    Ok(())
}

/// One value as itself, several as a list of texts.
pub(crate) fn serialize<T, S>(values: &[Named<T>], to: S) -> Result<S::Ok, S::Error>
where
    T: fmt::Display + Serialize,
    S: Serializer,
{
    match values {
        [Named { name: None, value }] => value.serialize(to),
        values => to.collect_seq(values.iter().map(ToString::to_string)),
    }
}

/// Reads the form that [`serialize`] writes, or a single value in any of its own forms.
pub(crate) fn deserialize<'de, T, D>(from: D) -> Result<Vec<Named<T>>, D::Error>
where
    T: FromStr<Err: fmt::Display> + DeserializeOwned,
    D: Deserializer<'de>,
{
    let parse = |text: String| text.parse::<Named<T>>().map_err(D::Error::custom);
    Ok(match Value::deserialize(from)? {
        Value::String(text) => vec![parse(text)?],
        Value::Array(texts) => texts
            .into_iter()
            .map(|text| match text {
                Value::String(text) => parse(text),
                other => Err(D::Error::custom(format!(
                    "{other} is not a text of the form name=value"
                ))),
            })
            .collect::<Result<_, _>>()?,
        other => {
            let value = serde_json::from_value(other).map_err(D::Error::custom)?;
            vec![Named::plain(value)]
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_paths_and_parameters() {
        let name = |text: &str| text.parse::<Named<String>>().unwrap().name;
        assert_eq!(name("nli=data/nli.csv").as_deref(), Some("nli"));
        assert_eq!(name("a.b-c_1=x=y").as_deref(), Some("a.b-c_1"));
        for text in ["data/nli.csv", "./a=b.csv", "mnrl:scale=20", "=x", "a/b=c"] {
            assert_eq!(name(text), None, "{text}");
            assert_eq!(text.parse::<Named<String>>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn several_need_names_of_their_own() {
        let values = |texts: &[&str]| -> Vec<Named<String>> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        check("--loss", &values(&["x"])).unwrap();
        check("--loss", &values(&["a=x", "b=x"])).unwrap();
        let message = check("--train-data", &values(&["a=x", "y"]))
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("write each as NAME=TRAIN-DATA"),
            "{message}"
        );
        let message = check("--loss", &values(&["a=x", "a=y"]))
            .unwrap_err()
            .to_string();
        assert!(message.contains("`a` twice"), "{message}");
    }
}

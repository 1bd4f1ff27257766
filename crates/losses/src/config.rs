//! A loss by its name and parameters, as a command line or a configuration file gives it.

use crate::multiple_negatives_ranking::MultipleNegativesRanking;
use crate::triplet::Triplet;
use crate::{Loss, LossError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use std::fmt;
use std::str::FromStr;
use tch::Device;

/// The name of a loss and the parameters that differ from its defaults.
///
/// As text it is `name` or `name:key=value,key=value`, with `+` between the elements of a list:
/// `triplet:distance=cosine,margin=0.5` or `mnrl:directions=query-to-doc+doc-to-query`. Names may
/// be those of the classes in sentence-transformers, the same in kebab case with or without
/// `-loss`, or a common short form. In a configuration file it is such a text, or a table with the
/// key `name` beside the parameters.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LossConfig {
    name: &'static str,
    #[serde(flatten)]
    parameters: Map<String, Value>,
}

/// What a loss with trainable parameters of its own has to know when it is made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BuildContext {
    /// Dimension of the embeddings.
    pub dimension: i64,
    /// Where the embeddings will be.
    pub device: Device,
}

/// The names of all losses, in kebab case.
pub fn names() -> impl Iterator<Item = &'static str> {
    REGISTRY.iter().map(|entry| entry.name)
}

impl LossConfig {
    /// A loss by name, with the defaults of sentence-transformers.
    ///
    /// # Errors
    /// Where no loss has this name; the message lists all.
    pub fn new(name: &str) -> Result<Self, LossError> {
        Ok(Self {
            name: find(name)?.name,
            parameters: Map::new(),
        })
    }

    /// The name in kebab case, such as `multiple-negatives-ranking`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Sets a parameter from text: a number, `true`, `false`, `null`, a word, or a list of these
    /// with `+` between them. Whether the loss knows the parameter shows in [`Self::build`].
    pub fn set(&mut self, key: &str, value: &str) {
        let value = match value.split_once('+') {
            // `1e+3` is a number and not a list.
            Some(_) if value.parse::<f64>().is_err() => {
                Value::Array(value.split('+').map(scalar).collect())
            }
            _ => scalar(value),
        };
        self.parameters.insert(key.replace('-', "_"), value);
    }

    /// The loss itself, its parameters checked.
    ///
    /// # Errors
    /// Where a parameter is unknown, of the wrong type or out of range.
    pub fn build(&self, context: &BuildContext) -> Result<Box<dyn Loss>, LossError> {
        let loss = (find(self.name)?.build)(self, context)?;
        loss.validate()?;
        Ok(loss)
    }
}

impl FromStr for LossConfig {
    type Err = LossError;

    fn from_str(text: &str) -> Result<Self, LossError> {
        let (name, parameters) = text.split_once(':').unwrap_or((text, ""));
        let mut config = Self::new(name)?;
        for parameter in parameters
            .split(',')
            .filter(|parameter| !parameter.trim().is_empty())
        {
            let Some((key, value)) = parameter.split_once('=') else {
                let problem = format!("`{}` is not of the form key=value", parameter.trim());
                return Err(LossError::parameter(name, problem));
            };
            config.set(key.trim(), value.trim());
        }
        Ok(config)
    }
}

impl fmt::Display for LossConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        for (index, (key, value)) in self.parameters.iter().enumerate() {
            let separator = if index == 0 { ':' } else { ',' };
            write!(f, "{separator}{key}={}", text(value))?;
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for LossConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Text(String),
            Table {
                name: String,
                #[serde(flatten)]
                parameters: Map<String, Value>,
            },
        }
        let config = match Form::deserialize(deserializer)? {
            Form::Text(text) => text.parse(),
            Form::Table { name, parameters } => Self::new(&name).map(|config| {
                let parameters = parameters.into_iter();
                let parameters = parameters.map(|(key, value)| (key.replace('-', "_"), value));
                Self {
                    parameters: parameters.collect(),
                    ..config
                }
            }),
        };
        config.map_err(serde::de::Error::custom)
    }
}

/// A loss that can be had by name.
struct Entry {
    /// Kebab case, without `-loss`.
    name: &'static str,
    /// Short forms, folded.
    aliases: &'static [&'static str],
    build: fn(&LossConfig, &BuildContext) -> Result<Box<dyn Loss>, LossError>,
}

const REGISTRY: &[Entry] = &[
    Entry {
        name: "multiple-negatives-ranking",
        aliases: &["mnrl", "mnr", "infonce"],
        build: plain::<MultipleNegativesRanking>,
    },
    Entry {
        name: "triplet",
        aliases: &[],
        build: plain::<Triplet>,
    },
];

/// A loss that is nothing but its parameters.
fn plain<L: Loss + DeserializeOwned + 'static>(
    config: &LossConfig,
    _: &BuildContext,
) -> Result<Box<dyn Loss>, LossError> {
    Ok(Box::new(parameters::<L>(config)?))
}

/// The parameters as their type, with defaults for those not given.
fn parameters<P: DeserializeOwned>(config: &LossConfig) -> Result<P, LossError> {
    serde_json::from_value(Value::Object(config.parameters.clone()))
        .map_err(|error| LossError::parameter(config.name, error.to_string()))
}

fn find(name: &str) -> Result<&'static Entry, LossError> {
    let folded = fold(name);
    let matches =
        |entry: &&Entry| fold(entry.name) == folded || entry.aliases.contains(&folded.as_str());
    REGISTRY
        .iter()
        .find(matches)
        .ok_or_else(|| LossError::Unknown {
            name: name.to_owned(),
            known: names().collect::<Vec<_>>().join(", "),
        })
}

/// Class names, kebab case and snake case to one form: lower case letters, without `loss`.
fn fold(name: &str) -> String {
    let mut folded = name.trim().to_ascii_lowercase();
    folded.retain(|letter| letter != '-' && letter != '_');
    match folded.strip_suffix("loss") {
        Some(rest) => rest.to_owned(),
        None => folded,
    }
}

/// A number or literal where the text is one, else the text.
fn scalar(text: &str) -> Value {
    let parsed = serde_json::from_str(text).ok();
    parsed
        .filter(|value: &Value| !value.is_object())
        .unwrap_or_else(|| text.into())
}

/// The inverse of [`LossConfig::set`].
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(text).collect::<Vec<_>>().join("+"),
        other => other.to_string(),
    }
}

//! config.json, key by key: each is asked for with its kind and its range, and with a default where it may be absent.

use std::{fmt::Display, ops::RangeInclusive, path::Path};

use serde_json::{Map, Value};

use crate::error::ModelError;

// The upper ends are far beyond any published encoder; they keep a corrupt file from asking for terabytes.

/// Rows of the word embedding table.
pub(crate) const VOCABULARY: RangeInclusive<i64> = 4..=1 << 24;
/// Widths of hidden states.
pub(crate) const WIDTH: RangeInclusive<i64> = 1..=1 << 15;
/// Numbers of layers.
pub(crate) const LAYERS: RangeInclusive<i64> = 1..=512;
/// Numbers of heads.
pub(crate) const HEADS: RangeInclusive<i64> = 1..=1 << 10;
/// Widths of the feed-forward part.
pub(crate) const INTERMEDIATE: RangeInclusive<i64> = 1..=1 << 18;
/// Rows of the table of token types.
pub(crate) const TYPES: RangeInclusive<i64> = 1..=1 << 10;
/// Rows of the position embedding table.
pub(crate) const POSITIONS: RangeInclusive<i64> = 5..=1 << 20;

/// The keys of a config.json; the path is for the messages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts<'a> {
    path: &'a Path,
    json: &'a Map<String, Value>,
}

impl<'a> Facts<'a> {
    pub(crate) fn new(path: &'a Path, json: &'a Map<String, Value>) -> Self {
        Self { path, json }
    }

    /// The error for the value of a key, or for its absence.
    pub(crate) fn error(&self, key: &str, allowed: &str) -> ModelError {
        let value = self.json.get(key);
        ModelError::Value {
            path: self.path.to_owned(),
            key: key.to_owned(),
            value: value.map_or("nothing".to_owned(), Value::to_string),
            allowed: allowed.to_owned(),
        }
    }

    /// A string.
    pub(crate) fn text(&self, key: &str) -> Result<String, ModelError> {
        let text = self.json.get(key).and_then(Value::as_str);
        let text = text.ok_or_else(|| self.error(key, "a string"))?;
        Ok(text.to_owned())
    }

    /// Checks that a string is the only one that is computed.
    pub(crate) fn only(&self, key: &str, allowed: &str) -> Result<(), ModelError> {
        if self.text(key)? == allowed {
            return Ok(());
        }
        Err(self.error(key, &format!("{allowed:?}")))
    }

    /// As [`Self::only`], for a string that may be absent.
    pub(crate) fn only_or_absent(&self, key: &str, allowed: &str) -> Result<(), ModelError> {
        match self.json.get(key) {
            None | Some(Value::Null) => Ok(()),
            Some(_) => self.only(key, allowed),
        }
    }

    /// Checks that a switch which may be absent is off.
    pub(crate) fn off(&self, key: &str) -> Result<(), ModelError> {
        match self.json.get(key) {
            None | Some(Value::Null | Value::Bool(false)) => Ok(()),
            Some(_) => Err(self.error(key, "false")),
        }
    }

    /// The value of a key, as it stands there; none for null.
    pub(crate) fn value(&self, key: &str) -> Option<&'a Value> {
        self.json.get(key).filter(|value| !value.is_null())
    }

    /// Whether a key is there, and null.
    pub(crate) fn is_null(&self, key: &str) -> bool {
        self.json.get(key).is_some_and(Value::is_null)
    }

    /// A positive number that may be absent.
    pub(crate) fn positive_or(&self, key: &str, default: f64) -> Result<f64, ModelError> {
        self.number_or(key, default, "more than 0", |x| x.is_finite() && x > 0.0)
    }

    /// An integer.
    pub(crate) fn count(&self, key: &str, range: RangeInclusive<i64>) -> Result<i64, ModelError> {
        let count = self.json.get(key).and_then(Value::as_i64);
        let count = count.ok_or_else(|| self.error(key, "an integer"))?;
        if range.contains(&count) {
            return Ok(count);
        }
        let (low, high) = range.into_inner();
        let allowed = match low == high {
            true => low.to_string(),
            false => format!("{low} to {high}"),
        };
        Err(self.error(key, &allowed))
    }

    /// An integer that may be absent.
    pub(crate) fn count_or(
        &self,
        key: &str,
        default: i64,
        range: RangeInclusive<i64>,
    ) -> Result<i64, ModelError> {
        match self.json.contains_key(key) {
            true => self.count(key, range),
            false => Ok(default),
        }
    }

    /// The number of heads, which divides the hidden size that `width_key` names.
    pub(crate) fn heads(
        &self,
        key: &str,
        width_key: &str,
        hidden_size: i64,
    ) -> Result<i64, ModelError> {
        let heads = self.count(key, HEADS)?;
        if hidden_size % heads == 0 {
            return Ok(heads);
        }
        Err(self.error(key, &format!("a divisor of {width_key}, {hidden_size}")))
    }

    /// A probability of dropout that may be absent.
    pub(crate) fn dropout_or(&self, key: &str, default: f64) -> Result<f64, ModelError> {
        self.number_or(key, default, "0 or more and less than 1", |p| {
            (0.0..1.0).contains(&p)
        })
    }

    /// The `eps` of layer norms, which may be absent.
    pub(crate) fn eps_or(&self, key: &str, default: f64) -> Result<f64, ModelError> {
        self.number_or(key, default, "between 0 and 1", |eps| {
            0.0 < eps && eps < 1.0
        })
    }

    /// The standard deviation of random weights, which may be absent.
    pub(crate) fn deviation_or(&self, key: &str, default: f64) -> Result<f64, ModelError> {
        self.number_or(key, default, "0 to 1", |x| (0.0..=1.0).contains(&x))
    }

    fn number_or(
        &self,
        key: &str,
        default: f64,
        allowed: impl Display,
        fits: impl Fn(f64) -> bool,
    ) -> Result<f64, ModelError> {
        let Some(value) = self.json.get(key) else {
            return Ok(default);
        };
        let number = value.as_f64().ok_or_else(|| self.error(key, "a number"))?;
        match fits(number) {
            true => Ok(number),
            false => Err(self.error(key, &allowed.to_string())),
        }
    }
}

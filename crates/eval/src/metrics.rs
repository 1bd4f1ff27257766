//! The outcome of an evaluation: figures by name, in order.

use serde::{Serialize, Serializer, ser::SerializeMap};

/// Figures by key, in the order in which sentence-transformers gives them, and which of them is
/// the primary one, by which the best checkpoint is chosen.
///
/// It serialises to one JSON object; a figure that is not a number becomes `null`.
#[derive(Debug, Clone, PartialEq)]
pub struct Metrics {
    entries: Vec<(String, f64)>,
    primary: String,
}

impl Metrics {
    /// Metrics under their keys, each prefixed with `name_` unless `name` is empty; `primary` is a
    /// key as it is without the prefix.
    pub fn new(name: &str, primary: &str, entries: Vec<(String, f64)>) -> Self {
        let prefixed = |key: &str| Self::key(name, key);
        let entries = entries
            .iter()
            .map(|(key, value)| (prefixed(key), *value))
            .collect();
        Self {
            entries,
            primary: prefixed(primary),
        }
    }

    /// A key after `name_`, unless `name` is empty.
    pub(crate) fn key(name: &str, key: &str) -> String {
        match name {
            "" => key.to_owned(),
            name => format!("{name}_{key}"),
        }
    }

    /// The figure under a key.
    pub fn get(&self, key: &str) -> Option<f64> {
        self.entries
            .iter()
            .find(|(other, _)| other == key)
            .map(|(_, value)| *value)
    }

    /// All keys and figures in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.entries
            .iter()
            .map(|(key, value)| (key.as_str(), *value))
    }

    /// The key of the figure by which models are compared; greater is better.
    pub fn primary_key(&self) -> &str {
        &self.primary
    }

    /// The figure by which models are compared; not a number where there is none.
    pub fn primary(&self) -> f64 {
        self.get(&self.primary).unwrap_or(f64::NAN)
    }

    /// The same figures with `prefix_` before every key, as the trainer reports them with `eval`.
    pub fn prefixed(&self, prefix: &str) -> Self {
        Self::new(prefix, &self.primary, self.entries.clone())
    }

    /// The figures of other evaluations, and then these; the primary one stays.
    pub(crate) fn after(self, others: &[&Self]) -> Self {
        let mut entries: Vec<(String, f64)> = Vec::new();
        others
            .iter()
            .for_each(|other| entries.extend(other.entries.iter().cloned()));
        entries.extend(self.entries);
        Self {
            entries,
            primary: self.primary,
        }
    }

    /// Several evaluations as one, in order: all figures, of equal keys the last, and then the
    /// primary one, `sequential_score`, which `main` makes of the primary figures. Without an
    /// evaluation it is zero.
    ///
    /// Source: `SequentialEvaluator` in `base/evaluation/sequential.py`, where `main` takes the last.
    pub fn sequential(evaluations: &[Self], main: impl Fn(&[f64]) -> f64) -> Self {
        let mut entries: Vec<(String, f64)> = Vec::new();
        let scores: Vec<f64> = evaluations.iter().map(Self::primary).collect();
        let score = if scores.is_empty() {
            0.0
        } else {
            main(&scores)
        };
        let figures = evaluations.iter().flat_map(Self::iter);
        for (key, value) in figures.chain([("sequential_score", score)]) {
            match entries.iter_mut().find(|(own, _)| own == key) {
                Some((_, own)) => *own = value,
                None => entries.push((key.to_owned(), value)),
            }
        }
        Self {
            entries,
            primary: "sequential_score".to_owned(),
        }
    }
}

impl Serialize for Metrics {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.entries.len()))?;
        for (key, value) in &self.entries {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

//! The evaluators by name.
//!
//! To add one, write its file with an [`Entry`], name it here, and make fixtures.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    binary_classification, embedding_similarity,
    entry::{ColumnNeeds, Entry, Source},
    error::EvalError,
    evaluator::Labels,
    information_retrieval, label_accuracy, mse, nano_beir,
    options::Flag,
    paraphrase_mining, reranking, translation, triplet,
};

/// All evaluators.
pub static EVALUATORS: [&Entry; 10] = [
    &triplet::ENTRY,
    &embedding_similarity::ENTRY,
    &binary_classification::ENTRY,
    &translation::ENTRY,
    &reranking::ENTRY,
    &mse::ENTRY,
    &label_accuracy::ENTRY,
    &paraphrase_mining::ENTRY,
    &information_retrieval::ENTRY,
    &nano_beir::ENTRY,
];

/// The evaluator of this name, or of the name of the class in sentence-transformers.
pub fn find(name: &str) -> Option<&'static Entry> {
    let name = fold(name);
    EVALUATORS
        .into_iter()
        .find(|entry| fold(entry.name) == name)
}

/// A name in kebab or snake case or of a class to one form: lower case letters, without `evaluator`.
pub fn fold(name: &str) -> String {
    let folded = name.to_lowercase().replace(['-', '_'], "");
    folded
        .strip_suffix("evaluator")
        .unwrap_or(&folded)
        .to_owned()
}

/// All flags of evaluators, each once.
pub fn flags() -> Vec<&'static Flag> {
    let mut flags: Vec<&Flag> = Vec::new();
    for flag in EVALUATORS.into_iter().flat_map(|entry| entry.flags) {
        if !flags.iter().any(|known| known.name == flag.name) {
            flags.push(flag);
        }
    }
    flags
}

/// An evaluator of data sets that takes nothing but the model's embeddings and the labels.
#[derive(Debug, Clone, Copy)]
pub struct EvaluatorKind {
    entry: &'static Entry,
    needs: &'static ColumnNeeds,
}

impl EvaluatorKind {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        EVALUATORS.into_iter().filter_map(Self::new)
    }

    /// The kind of an entry, if it is of a data set.
    pub fn new(entry: &'static Entry) -> Option<Self> {
        let needs = entry.columns()?;
        (needs.source == Source::Model).then_some(Self { entry, needs })
    }

    /// The kind that a data set is put to where none is named, if any.
    pub fn of(n_columns: usize, labels: Option<&Labels>) -> Option<Self> {
        Self::defaults().find(|kind| kind.needs.fits(n_columns, labels))
    }

    /// The kinds that data sets are put to where none is named.
    pub fn defaults() -> impl Iterator<Item = Self> {
        Self::all().filter(|kind| kind.needs.is_default)
    }

    /// Its entry in the registry.
    pub fn entry(self) -> &'static Entry {
        self.entry
    }

    /// The columns and labels that it takes.
    pub fn needs(self) -> &'static ColumnNeeds {
        self.needs
    }
}

impl PartialEq for EvaluatorKind {
    fn eq(&self, other: &Self) -> bool {
        self.entry.name == other.entry.name
    }
}

impl Eq for EvaluatorKind {}

impl fmt::Display for EvaluatorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.entry.name)
    }
}

impl FromStr for EvaluatorKind {
    type Err = EvalError;

    fn from_str(text: &str) -> Result<Self, EvalError> {
        find(text).and_then(Self::new).ok_or_else(|| {
            let names: Vec<&str> = Self::all().map(|kind| kind.entry.name).collect();
            EvalError::Option(format!(
                "no evaluator `{text}` for data sets of texts and labels: there are {}",
                names.join(", ")
            ))
        })
    }
}

impl Serialize for EvaluatorKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.entry.name)
    }
}

impl<'de> Deserialize<'de> for EvaluatorKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_classes_too() {
        for name in [
            "binary-classification",
            "BinaryClassificationEvaluator",
            "binary_classification",
        ] {
            assert_eq!(find(name).unwrap().name, "binary-classification");
        }
        assert_eq!(find("MSEEvaluator").unwrap().name, "mse");
        assert_eq!(find("NanoBEIREvaluator").unwrap().name, "nano-beir");
        let kind: EvaluatorKind = "TripletEvaluator".parse().unwrap();
        assert_eq!(kind.to_string(), "triplet");
        let message = "mse".parse::<EvaluatorKind>().unwrap_err().to_string();
        assert!(
            message.ends_with(
                "there are triplet, embedding-similarity, binary-classification, translation"
            ),
            "{message}"
        );
    }
}

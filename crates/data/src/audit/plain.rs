//! Texts without case, punctuation and space, and data sets as numbers of such texts.

use std::collections::HashMap;

use crate::dataset::Dataset;

/// The texts of a data set as numbers, equal where texts are equal but for case, punctuation and space.
pub(super) struct Plain {
    /// For each column its rows' numbers.
    pub(super) columns: Vec<Vec<u32>>,
}

impl Plain {
    pub(super) fn new(dataset: &Dataset) -> Self {
        let mut numbers: HashMap<String, u32> = HashMap::new();
        let columns = dataset.columns.iter().map(|column| {
            let texts = column.texts.iter();
            let number = texts.map(|text| {
                let next = numbers.len() as u32;
                *numbers.entry(plain(text)).or_insert(next)
            });
            number.collect()
        });
        Self {
            columns: columns.collect(),
        }
    }

    pub(super) fn n_rows(&self) -> usize {
        self.columns.first().map_or(0, Vec::len)
    }

    pub(super) fn row(&self, row: usize) -> Vec<u32> {
        self.columns.iter().map(|column| column[row]).collect()
    }
}

/// A text without case, punctuation and space around and between words; a text of nothing else stays as it is.
pub(super) fn plain(text: &str) -> String {
    let words = text.split(|c: char| !c.is_alphanumeric());
    let words: Vec<String> = words
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect();
    match words.is_empty() {
        true => text.trim().to_owned(),
        false => words.join(" "),
    }
}

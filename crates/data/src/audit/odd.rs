//! Texts out of line with the others: by length, script, and the letters that follow each other.

use std::collections::HashMap;

use rayon::prelude::*;

use super::finding::{Doubt, Finding};
use crate::dataset::{Dataset, TextColumn};

/// A text is odd that is 20 times as long as the median of its column, or a 20th, in characters.
pub(super) fn lengths(dataset: &Dataset, findings: &mut Vec<Finding>) {
    const TIMES: usize = 20;
    for (i, column) in dataset.columns.iter().enumerate() {
        let lengths: Vec<usize> = column
            .texts
            .iter()
            .map(|text| text.chars().count())
            .collect();
        let mut sorted = lengths.clone();
        sorted.sort_unstable();
        let median = sorted.get(sorted.len() / 2).copied().unwrap_or(0).max(1);
        for (row, length) in lengths.into_iter().enumerate() {
            if length > TIMES * median || length * TIMES < median {
                findings.push(Finding::of_column(Doubt::OddLength, row, i));
            }
        }
    }
}

/// A text is odd whose script is that of less than a hundredth of the texts.
pub(super) fn scripts(dataset: &Dataset, findings: &mut Vec<Finding>) {
    let scripts: Vec<Vec<Option<Script>>> = dataset
        .columns
        .iter()
        .map(|column| column.texts.iter().map(script).collect())
        .collect();
    let mut counts: HashMap<Script, usize> = HashMap::new();
    for script in scripts.iter().flatten().flatten() {
        *counts.entry(*script).or_default() += 1;
    }
    let n_texts: usize = counts.values().sum();
    for (i, column) in scripts.iter().enumerate() {
        for (row, script) in column.iter().enumerate() {
            let is_odd = script.is_some_and(|script| counts[&script] * 100 < n_texts);
            if is_odd {
                findings.push(Finding::of_column(Doubt::OddScript, row, i));
            }
        }
    }
}

/// A text is odd in whose words letters follow each other as they do not in the other texts: one of another language, of
/// code, or of no language. The measure is the mean surprise at a letter after the two before it, in bits, under the counts
/// of all other texts; odd is [`DEVIATIONS`] deviations above the median and [`MORE_BITS`] bits. Texts of fewer than
/// [`N_LETTERS`] letters are not judged, nor data sets of fewer than [`N_TEXTS`] texts.
pub(super) fn languages(dataset: &Dataset, findings: &mut Vec<Finding>) {
    /// Median deviations from the median; a normal distribution has one value in a million farther up.
    const DEVIATIONS: f64 = 7.0;
    const MORE_BITS: f64 = 1.5;
    const N_TEXTS: usize = 100;
    let columns = &dataset.columns;
    let texts = || columns.iter().flat_map(|column| column.texts.iter());
    let mut counts = Counts::default();
    texts().for_each(|text| counts.add(text));
    let of_column = |column: &TextColumn| -> Vec<Option<f64>> {
        let texts: Vec<&str> = column.texts.iter().collect();
        let surprise = |text: &&str| counts.surprise(text);
        texts.par_iter().map(surprise).collect()
    };
    let surprises: Vec<Vec<Option<f64>>> = columns.iter().map(of_column).collect();
    let mut all: Vec<f64> = surprises.iter().flatten().flatten().copied().collect();
    if all.len() < N_TEXTS {
        return;
    }
    let middle = median(&mut all);
    let mut deviations: Vec<f64> = all.iter().map(|bits| (bits - middle).abs()).collect();
    let bound = middle + (DEVIATIONS * median(&mut deviations)).max(MORE_BITS);
    for (i, column) in surprises.iter().enumerate() {
        for (row, bits) in column.iter().enumerate() {
            if bits.is_some_and(|bits| bits > bound) {
                findings.push(Finding::of_column(Doubt::OddLanguage, row, i));
            }
        }
    }
}

/// Letters that a text needs to be judged by.
const N_LETTERS: usize = 20;

fn median(values: &mut [f64]) -> f64 {
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f64::total_cmp).1
}

/// How often three characters follow each other.
#[derive(Default)]
struct Counts {
    threes: HashMap<[char; 3], u32>,
    twos: HashMap<[char; 2], u32>,
}

impl Counts {
    fn add(&mut self, text: &str) {
        for three in threes(text) {
            *self.threes.entry(three).or_default() += 1;
            *self.twos.entry([three[0], three[1]]).or_default() += 1;
        }
    }

    /// The mean surprise at a character of the text under the counts of the other texts, in bits; none for a text of too
    /// few letters.
    fn surprise(&self, text: &str) -> Option<f64> {
        /// A character that was never seen after two others has this share of a count.
        const UNSEEN: f64 = 0.05;
        const N_CHARACTERS: f64 = 30.0;
        if text.chars().filter(|c| c.is_alphabetic()).count() < N_LETTERS {
            return None;
        }
        let mut own = Self::default();
        own.add(text);
        let mut bits = 0.0;
        let mut n = 0.0;
        for (three, n_own) in &own.threes {
            let two = [three[0], three[1]];
            let n_three = f64::from(self.threes.get(three).copied().unwrap_or(0) - n_own);
            let n_two = f64::from(self.twos.get(&two).copied().unwrap_or(0) - own.twos[&two]);
            let share = (n_three + UNSEEN) / (n_two + UNSEEN * N_CHARACTERS);
            bits -= f64::from(*n_own) * share.log2();
            n += f64::from(*n_own);
        }
        Some(bits / n)
    }
}

/// The characters of a text's words, three by three, with a space around each word.
fn threes(text: &str) -> Vec<[char; 3]> {
    let mut letters = vec![' ', ' '];
    for c in text.chars().flat_map(char::to_lowercase) {
        match c.is_alphabetic() {
            true => letters.push(c),
            false if letters.last() != Some(&' ') => letters.push(' '),
            false => {}
        }
    }
    letters.push(' ');
    letters.windows(3).map(|w| [w[0], w[1], w[2]]).collect()
}

/// The script of letters, by ranges of Unicode; what is in none of them is [`Script::Other`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Script {
    Latin,
    Greek,
    Cyrillic,
    Hebrew,
    Arabic,
    Indic,
    Thai,
    Korean,
    /// Chinese and Japanese, which mix theirs.
    Han,
    Other,
}

impl Script {
    const ALL: [Self; 10] = [
        Self::Latin,
        Self::Greek,
        Self::Cyrillic,
        Self::Hebrew,
        Self::Arabic,
        Self::Indic,
        Self::Thai,
        Self::Korean,
        Self::Han,
        Self::Other,
    ];

    fn of(letter: char) -> Self {
        match u32::from(letter) {
            0x41..=0x24f | 0x1e00..=0x1eff => Self::Latin,
            0x370..=0x3ff | 0x1f00..=0x1fff => Self::Greek,
            0x400..=0x52f => Self::Cyrillic,
            0x590..=0x5ff => Self::Hebrew,
            0x600..=0x77f | 0x8a0..=0x8ff => Self::Arabic,
            0x900..=0xdff => Self::Indic,
            0xe00..=0xe7f => Self::Thai,
            0x1100..=0x11ff | 0xac00..=0xd7af => Self::Korean,
            0x3040..=0x30ff | 0x3400..=0x9fff | 0xf900..=0xfaff | 0x20000..=0x323af => Self::Han,
            _ => Self::Other,
        }
    }
}

/// The script of most letters of a text; none where there is no letter.
fn script(text: &str) -> Option<Script> {
    let mut counts = [0_usize; Script::ALL.len()];
    for letter in text.chars().filter(|c| c.is_alphabetic()) {
        counts[Script::of(letter) as usize] += 1;
    }
    let most = Script::ALL
        .into_iter()
        .max_by_key(|script| counts[*script as usize])?;
    (counts[most as usize] > 0).then_some(most)
}

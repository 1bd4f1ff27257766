//! Rows of a data set that a careful reader would ask about, found by their texts alone.

use std::collections::HashMap;

use crate::dataset::Dataset;

/// A doubt about a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Doubt {
    /// The texts are those of an earlier row.
    Repeated,
    /// The texts are those of an earlier row but for case, punctuation and space.
    NearlyRepeated,
    /// The texts are those of a row of the data that it is held against, but for case, punctuation and space.
    Leaked,
    /// Anchor and positive are the same text but for case, punctuation and space.
    AnchorIsPositive,
    /// A negative is the anchor or the positive but for case, punctuation and space.
    NegativeIsPositive,
    /// A negative is the positive of another row with the same anchor.
    FalseNegative,
    /// The same texts have another label in an earlier row.
    Contradicted,
    /// A text is many times longer or shorter than is usual in its column.
    OddLength,
    /// Most letters of a text are of another script than those of most texts of the data set.
    OddScript,
}

impl Doubt {
    /// All doubts, in the order in which reports have them.
    pub const ALL: [Self; 9] = [
        Self::Repeated,
        Self::NearlyRepeated,
        Self::Leaked,
        Self::AnchorIsPositive,
        Self::NegativeIsPositive,
        Self::FalseNegative,
        Self::Contradicted,
        Self::OddLength,
        Self::OddScript,
    ];

    /// The doubt's name in flags and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Repeated => "repeated",
            Self::NearlyRepeated => "nearly-repeated",
            Self::Leaked => "leaked",
            Self::AnchorIsPositive => "anchor-is-positive",
            Self::NegativeIsPositive => "negative-is-positive",
            Self::FalseNegative => "false-negative",
            Self::Contradicted => "contradicted",
            Self::OddLength => "odd-length",
            Self::OddScript => "odd-script",
        }
    }

    /// The doubt in words, of a row.
    pub fn words(self) -> &'static str {
        match self {
            Self::Repeated => "the texts are those of an earlier row",
            Self::NearlyRepeated => {
                "the texts are those of an earlier row but for case, punctuation and space"
            }
            Self::Leaked => "the texts are in the data that it is held against",
            Self::AnchorIsPositive => "anchor and positive are the same text",
            Self::NegativeIsPositive => "a negative is the anchor or the positive",
            Self::FalseNegative => "a negative is another row's positive of the same anchor",
            Self::Contradicted => "the same texts have another label in an earlier row",
            Self::OddLength => "a text is far longer or shorter than its column's others",
            Self::OddScript => "a text is of another script than the others",
        }
    }
}

/// A row with a doubt about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finding {
    /// The doubt.
    pub doubt: Doubt,
    /// The row, from 0.
    pub row: u32,
    /// The column, where the doubt is about one.
    pub column: Option<usize>,
    /// The earlier row, or the one of the other data, where there is one.
    pub other: Option<u32>,
}

/// Looks at all rows, also beside the rows of `others`, such as the test data. Findings are in order of rows; of one
/// doubt there is at most one a row.
pub fn audit(dataset: &Dataset, others: &[&Dataset]) -> Vec<Finding> {
    let plain = Plain::new(dataset);
    let mut findings = Vec::new();
    repeated(dataset, &plain, &mut findings);
    leaked(&plain, others, &mut findings);
    if dataset.labels.is_none() {
        equal_within_rows(&plain, &mut findings);
        false_negatives(&plain, &mut findings);
    } else {
        contradicted(dataset, &plain, &mut findings);
    }
    odd_lengths(dataset, &mut findings);
    odd_scripts(dataset, &mut findings);
    findings.sort_by_key(|finding| (finding.row, finding.doubt));
    findings.dedup_by_key(|finding| (finding.row, finding.doubt));
    findings
}

/// The rows without any of these doubts, in order.
pub fn clean_rows(dataset: &Dataset, findings: &[Finding], drop: &[Doubt]) -> Vec<u32> {
    let mut doubted = vec![false; dataset.n_rows()];
    for finding in findings
        .iter()
        .filter(|finding| drop.contains(&finding.doubt))
    {
        doubted[finding.row as usize] = true;
    }
    (0..dataset.n_rows() as u32)
        .filter(|row| !doubted[*row as usize])
        .collect()
}

/// The texts of a data set as numbers, equal where texts are equal but for case, punctuation and space.
struct Plain {
    /// For each column its rows' numbers.
    columns: Vec<Vec<u32>>,
    numbers: HashMap<String, u32>,
}

impl Plain {
    fn new(dataset: &Dataset) -> Self {
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
            numbers,
        }
    }

    fn n_rows(&self) -> usize {
        self.columns.first().map_or(0, Vec::len)
    }

    fn row(&self, row: usize) -> Vec<u32> {
        self.columns.iter().map(|column| column[row]).collect()
    }
}

/// A text without case, punctuation and space around and between words; a text of nothing else stays as it is.
fn plain(text: &str) -> String {
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

fn repeated(dataset: &Dataset, plain: &Plain, findings: &mut Vec<Finding>) {
    let mut seen: HashMap<Vec<u32>, u32> = HashMap::new();
    for row in 0..plain.n_rows() {
        let first = *seen.entry(plain.row(row)).or_insert(row as u32);
        if first == row as u32 {
            continue;
        }
        let is_same = dataset
            .columns
            .iter()
            .all(|column| column.texts.get(row) == column.texts.get(first as usize));
        findings.push(Finding {
            doubt: if is_same {
                Doubt::Repeated
            } else {
                Doubt::NearlyRepeated
            },
            row: row as u32,
            column: None,
            other: Some(first),
        });
    }
}

fn leaked(plain_own: &Plain, others: &[&Dataset], findings: &mut Vec<Finding>) {
    let mut known: HashMap<Vec<u32>, u32> = HashMap::new();
    for other in others {
        for row in 0..other.n_rows() {
            let texts = other.columns.iter().map(|column| {
                let text = column.texts.get(row)?;
                plain_own.numbers.get(&plain(text)).copied()
            });
            if let Some(texts) = texts.collect::<Option<Vec<u32>>>() {
                known.entry(texts).or_insert(row as u32);
            }
        }
    }
    for row in 0..plain_own.n_rows() {
        if let Some(other) = known.get(&plain_own.row(row)) {
            findings.push(Finding {
                doubt: Doubt::Leaked,
                row: row as u32,
                column: None,
                other: Some(*other),
            });
        }
    }
}

fn equal_within_rows(plain: &Plain, findings: &mut Vec<Finding>) {
    for row in 0..plain.n_rows() {
        let texts = plain.row(row);
        let mut found = |doubt, column| {
            findings.push(Finding {
                doubt,
                row: row as u32,
                column: Some(column),
                other: None,
            });
        };
        let [anchor, rest @ ..] = texts.as_slice() else {
            continue;
        };
        let [positive, negatives @ ..] = rest else {
            continue;
        };
        if anchor == positive {
            found(Doubt::AnchorIsPositive, 1);
        }
        let equal = negatives
            .iter()
            .position(|negative| negative == anchor || negative == positive);
        if let Some(place) = equal {
            found(Doubt::NegativeIsPositive, 2 + place);
        }
    }
}

fn false_negatives(plain: &Plain, findings: &mut Vec<Finding>) {
    let [anchors, positives, negatives @ ..] = plain.columns.as_slice() else {
        return;
    };
    let mut positive_of: HashMap<(u32, u32), u32> = HashMap::new();
    for (row, pair) in anchors
        .iter()
        .copied()
        .zip(positives.iter().copied())
        .enumerate()
    {
        positive_of.entry(pair).or_insert(row as u32);
    }
    for (i, column) in negatives.iter().enumerate() {
        for (row, pair) in anchors
            .iter()
            .copied()
            .zip(column.iter().copied())
            .enumerate()
        {
            let other = positive_of.get(&pair).filter(|other| **other != row as u32);
            findings.extend(other.map(|other| Finding {
                doubt: Doubt::FalseNegative,
                row: row as u32,
                column: Some(2 + i),
                other: Some(*other),
            }));
        }
    }
}

fn contradicted(dataset: &Dataset, plain: &Plain, findings: &mut Vec<Finding>) {
    let Some(labels) = &dataset.labels else {
        return;
    };
    let mut seen: HashMap<Vec<u32>, u32> = HashMap::new();
    for row in 0..plain.n_rows() {
        let first = *seen.entry(plain.row(row)).or_insert(row as u32);
        if labels.select(&[first]) != labels.select(&[row as u32]) {
            findings.push(Finding {
                doubt: Doubt::Contradicted,
                row: row as u32,
                column: None,
                other: Some(first),
            });
        }
    }
}

/// A text is odd that is 20 times as long as the median of its column, or a 20th, in characters.
fn odd_lengths(dataset: &Dataset, findings: &mut Vec<Finding>) {
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
                findings.push(Finding {
                    doubt: Doubt::OddLength,
                    row: row as u32,
                    column: Some(i),
                    other: None,
                });
            }
        }
    }
}

/// A text is odd whose script is that of less than a hundredth of the texts.
fn odd_scripts(dataset: &Dataset, findings: &mut Vec<Finding>) {
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
                findings.push(Finding {
                    doubt: Doubt::OddScript,
                    row: row as u32,
                    column: Some(i),
                    other: None,
                });
            }
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::{Labels, TextColumn};

    fn dataset(rows: &[&[&str]], labels: Option<Labels>) -> Dataset {
        let n_columns = rows.first().map_or(0, |row| row.len());
        let columns = (0..n_columns).map(|i| TextColumn {
            name: format!("column {i}"),
            texts: rows.iter().map(|row| row[i]).collect(),
        });
        Dataset {
            name: "d".to_owned(),
            columns: columns.collect(),
            labels,
            classes: Vec::new(),
            n_skipped: 0,
        }
    }

    fn doubts(findings: &[Finding]) -> Vec<(u32, Doubt)> {
        findings
            .iter()
            .map(|finding| (finding.row, finding.doubt))
            .collect()
    }

    #[test]
    fn triplets_are_looked_at() {
        let rows = dataset(
            &[
                &["a dog", "a hound", "a cat"],
                &["a dog", "a hound", "a cat"],
                &["A dog!", "a  hound", "a cat."],
                &["the sea", "The sea.", "a hill"],
                &["the moon", "a moon", "The Moon"],
                &["a dog", "a puppy", "a hound"],
                &["one", "two", "three"],
            ],
            None,
        );
        let test = dataset(&[&["One", "two", "THREE"], &["x", "y", "z"]], None);
        let findings = audit(&rows, &[&test]);
        let expected = [
            (1, Doubt::Repeated),
            (2, Doubt::NearlyRepeated),
            (3, Doubt::AnchorIsPositive),
            (4, Doubt::NegativeIsPositive),
            (5, Doubt::FalseNegative),
            (6, Doubt::Leaked),
        ];
        assert_eq!(doubts(&findings), expected);
        let others: Vec<Option<u32>> = findings.iter().map(|finding| finding.other).collect();
        assert_eq!(others, [Some(0), Some(0), None, None, Some(0), Some(0)]);
        assert_eq!(findings[3].column, Some(2));
        let kept = clean_rows(&rows, &findings, &[Doubt::Repeated, Doubt::Leaked]);
        assert_eq!(kept, [0, 2, 3, 4, 5]);
    }

    #[test]
    fn labels_that_contradict_each_other_are_found() {
        let rows: [&[&str]; 3] = [&["a", "b"], &["a", "b"], &["A", "b"]];
        let rows = dataset(&rows, Some(Labels::Integer(vec![1, 0, 1])));
        let expected = [
            (1, Doubt::Repeated),
            (1, Doubt::Contradicted),
            (2, Doubt::NearlyRepeated),
        ];
        assert_eq!(doubts(&audit(&rows, &[])), expected);
    }

    #[test]
    fn odd_texts_are_found() {
        let texts: Vec<String> = (0..200)
            .map(|i| format!("an ordinary text, number {i}"))
            .collect();
        let mut rows: Vec<Vec<&str>> = texts.iter().map(|text| vec![text.as_str()]).collect();
        let long = "very long ".repeat(60);
        rows[7] = vec![&long];
        rows[9] = vec!["x"];
        rows[11] = vec!["это другой текст"];
        let rows: Vec<&[&str]> = rows.iter().map(Vec::as_slice).collect();
        let expected = [
            (7, Doubt::OddLength),
            (9, Doubt::OddLength),
            (11, Doubt::OddScript),
        ];
        assert_eq!(doubts(&audit(&dataset(&rows, None), &[])), expected);
    }
}

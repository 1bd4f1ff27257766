//! Rows of a data set that a careful reader would ask about, found by their texts alone.

mod finding;
mod folds;
mod near;
mod odd;
mod plain;

use std::collections::HashMap;

use self::{
    near::{Document, Near},
    plain::{Plain, plain},
};
use crate::dataset::Dataset;

pub use self::{
    finding::{Doubt, Finding},
    folds::folds,
};

/// Looks at all rows, also beside the rows of `others`, such as the test data. Findings are [`sorted`].
pub fn audit(dataset: &Dataset, others: &[&Dataset]) -> Vec<Finding> {
    let plain = Plain::new(dataset);
    let mut findings = Vec::new();
    repeated(dataset, &plain, &mut findings);
    leaked(dataset, &plain, others, &mut findings);
    if dataset.labels.is_none() {
        equal_within_rows(&plain, &mut findings);
        false_negatives(&plain, &mut findings);
    } else {
        contradicted(dataset, &plain, &mut findings);
    }
    odd::lengths(dataset, &mut findings);
    odd::scripts(dataset, &mut findings);
    odd::languages(dataset, &mut findings);
    sorted(findings)
}

/// Findings in order of rows; of one doubt at most one a row, the strongest.
pub fn sorted(mut findings: Vec<Finding>) -> Vec<Finding> {
    let strength = |finding: &Finding| finding.score.unwrap_or(0.0);
    findings.sort_by(|a, b| {
        let places = (a.row, a.doubt).cmp(&(b.row, b.doubt));
        places.then(strength(b).total_cmp(&strength(a)))
    });
    findings.dedup_by_key(|finding| (finding.row, finding.doubt));
    findings
}

/// The texts of each row's first `n_columns` columns.
fn rows_of(dataset: &Dataset, n_columns: usize) -> Vec<Document<'_>> {
    let columns = &dataset.columns[..n_columns.min(dataset.columns.len())];
    (0..dataset.n_rows())
        .map(|row| {
            let columns = columns.iter();
            columns.filter_map(|column| column.texts.get(row)).collect()
        })
        .collect()
}

fn plain_of(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| plain(text)).collect()
}

fn repeated(dataset: &Dataset, plain: &Plain, findings: &mut Vec<Finding>) {
    let rows = rows_of(dataset, usize::MAX);
    let near = Near::new(&rows).find(&rows, true);
    let mut seen: HashMap<Vec<u32>, u32> = HashMap::new();
    for (row, near) in near.into_iter().enumerate() {
        let first = *seen.entry(plain.row(row)).or_insert(row as u32);
        let is_same = rows[row] == rows[first as usize];
        findings.extend(match (first == row as u32, near) {
            (true, None) => None,
            (true, Some(near)) => Some(Finding::beside(Doubt::NearlyRepeated, row, near)),
            (false, _) if is_same => Some(Finding::beside(Doubt::Repeated, row, first)),
            (false, _) => Some(Finding::beside(Doubt::NearlyRepeated, row, first)),
        });
    }
}

/// Rows and texts of other data. Where that has another number of columns, the first ones of both are compared.
fn leaked(dataset: &Dataset, plain: &Plain, others: &[&Dataset], findings: &mut Vec<Finding>) {
    let mut is_leaked = vec![false; dataset.n_rows()];
    for (place, other) in others.iter().enumerate() {
        let n_columns = dataset.columns.len().min(other.columns.len());
        let (own, theirs) = (rows_of(dataset, n_columns), rows_of(other, n_columns));
        let mut known: HashMap<Vec<String>, u32> = HashMap::new();
        for (row, texts) in theirs.iter().enumerate() {
            known.entry(plain_of(texts)).or_insert(row as u32);
        }
        let near = Near::new(&theirs).find(&own, false);
        for (row, near) in near.into_iter().enumerate() {
            let Some(other) = known.get(&plain_of(&own[row])).copied().or(near) else {
                continue;
            };
            is_leaked[row] = true;
            findings.push(Finding {
                other_data: Some(place),
                ..Finding::beside(Doubt::Leaked, row, other)
            });
        }
    }
    leaked_texts(dataset, plain, others, &is_leaked, findings);
}

/// A text of some data set: the place of the set among others, and the row.
struct Placed<'t> {
    text: &'t str,
    data: usize,
    row: u32,
}

fn leaked_texts<'a>(
    dataset: &'a Dataset,
    plain_own: &Plain,
    others: &[&'a Dataset],
    is_leaked: &[bool],
    findings: &mut Vec<Finding>,
) {
    const N_LETTERS: usize = 10;
    let is_long = |text: &str| text.chars().filter(|c| c.is_alphanumeric()).count() >= N_LETTERS;
    let mut theirs: Vec<Placed<'_>> = Vec::new();
    let mut known: HashMap<String, u32> = HashMap::new();
    for (data, other) in others.iter().enumerate() {
        for column in &other.columns {
            for (row, text) in column.texts.iter().enumerate() {
                if is_long(text) && !known.contains_key(&plain(text)) {
                    known.insert(plain(text), theirs.len() as u32);
                    let row = row as u32;
                    theirs.push(Placed { text, data, row });
                }
            }
        }
    }
    if theirs.is_empty() {
        return;
    }
    // Each text once.
    let mut own: Vec<Placed<'_>> = Vec::new();
    let mut place_of: HashMap<u32, usize> = HashMap::new();
    for (column, numbers) in dataset.columns.iter().zip(&plain_own.columns) {
        for (text, number) in column.texts.iter().zip(numbers) {
            place_of.entry(*number).or_insert_with(|| {
                own.push(Placed {
                    text,
                    data: 0,
                    row: 0,
                });
                own.len() - 1
            });
        }
    }
    let documents = |placed: &[Placed<'a>]| -> Vec<Document<'a>> {
        placed.iter().map(|placed| vec![placed.text]).collect()
    };
    let documents_of_others = documents(&theirs);
    let near = Near::new(&documents_of_others).find(&documents(&own), false);
    let found: Vec<Option<u32>> = own
        .iter()
        .zip(near)
        .map(|(own, near)| match is_long(own.text) {
            true => known.get(&plain(own.text)).copied().or(near),
            false => None,
        })
        .collect();
    for (column, numbers) in plain_own.columns.iter().enumerate() {
        for (row, number) in numbers.iter().enumerate() {
            let Some(found) = found[place_of[number]].filter(|_| !is_leaked[row]) else {
                continue;
            };
            let Placed {
                data, row: other, ..
            } = theirs[found as usize];
            findings.push(Finding {
                column: Some(column),
                other_data: Some(data),
                ..Finding::beside(Doubt::LeakedText, row, other)
            });
        }
    }
}

fn equal_within_rows(plain: &Plain, findings: &mut Vec<Finding>) {
    for row in 0..plain.n_rows() {
        let texts = plain.row(row);
        let mut found = |doubt, column| findings.push(Finding::of_column(doubt, row, column));
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
                column: Some(2 + i),
                ..Finding::beside(Doubt::FalseNegative, row, *other)
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
            findings.push(Finding::beside(Doubt::Contradicted, row, first));
        }
    }
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
        assert_eq!(findings[5].other_data, Some(0));
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
        rows[13] = vec!["zwölf Boxkämpfer jagen Viktor quer über den Sylter Deich"];
        let rows: Vec<&[&str]> = rows.iter().map(Vec::as_slice).collect();
        let expected = [
            (7, Doubt::OddLength),
            (7, Doubt::OddLanguage),
            (9, Doubt::OddLength),
            (11, Doubt::OddScript),
            (13, Doubt::OddLanguage),
        ];
        assert_eq!(doubts(&audit(&dataset(&rows, None), &[])), expected);
    }

    #[test]
    fn nearly_the_same_rows_are_found_within_and_across_data() {
        let shirt = "A man in a blue shirt is standing on a ladder and cleaning a window.";
        let near = "a man in a blue shirt is standing on a ladder, cleaning a window";
        let rows = dataset(
            &[
                &[shirt, "a man cleans", "a man sleeps"],
                &[near, "a man cleans", "a man sleeps"],
                &[shirt, "somebody paints a house", "the house is empty"],
                &[
                    "a dog runs on the beach",
                    "a dog is outside",
                    "a dog sleeps",
                ],
            ],
            None,
        );
        assert_eq!(doubts(&audit(&rows, &[])), [(1, Doubt::NearlyRepeated)]);
        // Pairs are held against the first two columns.
        let pairs = dataset(
            &[
                &["the sea is calm today", "no wind"],
                &["A dog runs on the beach!", "a dog is outside"],
                &["a house", near],
            ],
            None,
        );
        let findings = audit(&rows, &[&pairs]);
        let expected = [
            (0, Doubt::LeakedText),
            (1, Doubt::NearlyRepeated),
            (1, Doubt::LeakedText),
            (2, Doubt::LeakedText),
            (3, Doubt::Leaked),
        ];
        assert_eq!(doubts(&findings), expected);
        let of = |i: usize| {
            (
                findings[i].column,
                findings[i].other,
                findings[i].other_data,
            )
        };
        assert_eq!(of(0), (Some(0), Some(2), Some(0)));
        assert_eq!(of(4), (None, Some(1), Some(0)));
    }

    #[test]
    fn the_strongest_of_equal_doubts_is_kept() {
        let finding = |row, column, score| Finding {
            score: Some(score),
            ..Finding::of_column(Doubt::NearerElsewhere, row, column)
        };
        let found = sorted(vec![
            finding(3, 1, 0.5),
            finding(1, 2, 0.1),
            finding(3, 2, 0.7),
        ]);
        assert_eq!(found, [finding(1, 2, 0.1), finding(3, 2, 0.7)]);
    }
}

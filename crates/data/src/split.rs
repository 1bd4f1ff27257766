//! A data set in parts.

use std::collections::HashMap;

use crate::{dataset::Dataset, sampler::permutation};

/// The size of a part beside the training part.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PartSize {
    /// A number of rows.
    Rows(usize),
    /// A share of the rows from 0 to 1, rounded to whole rows.
    Share(f64),
}

impl PartSize {
    /// The number of rows, of so many in all.
    pub fn rows(self, n_rows: usize) -> usize {
        match self {
            Self::Rows(rows) => rows,
            Self::Share(share) => (share * n_rows as f64).round() as usize,
        }
    }
}

/// The rows of each part, in the data set's order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Split {
    /// The rest.
    pub train: Vec<u32>,
    /// Rows for evaluation during development.
    pub dev: Vec<u32>,
    /// Rows for the last measurement.
    pub test: Vec<u32>,
}

/// Puts every row into one of three parts, by a shuffle of `seed` (see
/// [`permutation`]: torch's).
///
/// With `by_anchor` all rows with the same text in the first column are in the same part, so that evaluation sees new
/// anchors only. A part is as large as asked for, or larger by less than the rows
/// of one anchor.
///
/// Returns `None` where no row would be left to train on.
pub fn split(
    dataset: &Dataset,
    dev: PartSize,
    test: PartSize,
    seed: u64,
    by_anchor: bool,
) -> Option<Split> {
    let n_rows = dataset.n_rows();
    let groups = match dataset.columns.first() {
        Some(anchors) if by_anchor => {
            let mut groups: Vec<Vec<u32>> = Vec::new();
            let mut group_of = HashMap::new();
            for (row, anchor) in anchors.texts.iter().enumerate() {
                let group = *group_of.entry(anchor).or_insert_with(|| {
                    groups.push(Vec::new());
                    groups.len() - 1
                });
                groups[group].push(row as u32);
            }
            groups
        }
        _ => (0..n_rows as u32).map(|row| vec![row]).collect(),
    };
    let (n_dev, n_test) = (dev.rows(n_rows), test.rows(n_rows));
    let mut parts = Split::default();
    for group in permutation(groups.len(), seed) {
        let part = if parts.test.len() < n_test {
            &mut parts.test
        } else if parts.dev.len() < n_dev {
            &mut parts.dev
        } else {
            &mut parts.train
        };
        part.extend_from_slice(&groups[group as usize]);
    }
    for part in [&mut parts.train, &mut parts.dev, &mut parts.test] {
        part.sort_unstable();
    }
    (!parts.train.is_empty()).then_some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::{TextColumn, Texts};

    /// 60 rows; rows 3i to 3i + 2 share their anchor.
    fn dataset() -> Dataset {
        let column = |name: &str, texts: Vec<String>| TextColumn {
            name: name.to_owned(),
            texts: texts.iter().map(String::as_str).collect::<Texts>(),
        };
        Dataset {
            name: "data".to_owned(),
            columns: vec![
                column(
                    "anchor",
                    (0..60).map(|i| format!("anchor {}", i / 3)).collect(),
                ),
                column(
                    "positive",
                    (0..60).map(|i| format!("positive {i}")).collect(),
                ),
            ],
            labels: None,
            classes: Vec::new(),
            n_skipped: 0,
        }
    }

    fn all(parts: &Split) -> Vec<u32> {
        let mut all = [&*parts.train, &*parts.dev, &*parts.test].concat();
        all.sort_unstable();
        all
    }

    #[test]
    fn every_row_is_in_one_part() {
        let parts = split(
            &dataset(),
            PartSize::Share(0.1),
            PartSize::Rows(7),
            1,
            false,
        )
        .unwrap();
        assert_eq!((parts.dev.len(), parts.test.len()), (6, 7));
        assert_eq!(all(&parts), (0..60).collect::<Vec<u32>>());
        assert!(parts.train.is_sorted() && parts.dev.is_sorted() && parts.test.is_sorted());
        let again = split(
            &dataset(),
            PartSize::Share(0.1),
            PartSize::Rows(7),
            1,
            false,
        );
        assert_eq!(again.as_ref(), Some(&parts));
        let other = split(
            &dataset(),
            PartSize::Share(0.1),
            PartSize::Rows(7),
            2,
            false,
        );
        assert_ne!(other, Some(parts));
    }

    #[test]
    fn no_anchor_is_in_two_parts() {
        let dataset = dataset();
        let parts = split(&dataset, PartSize::Rows(10), PartSize::Rows(10), 1, true).unwrap();
        assert_eq!((parts.dev.len(), parts.test.len()), (12, 12));
        assert_eq!(all(&parts), (0..60).collect::<Vec<u32>>());
        let anchors = |rows: &[u32]| rows.iter().map(|row| row / 3).collect::<Vec<_>>();
        for dev in anchors(&parts.dev) {
            assert!(!anchors(&parts.train).contains(&dev) && !anchors(&parts.test).contains(&dev));
        }
        for test in anchors(&parts.test) {
            assert!(!anchors(&parts.train).contains(&test));
        }
    }

    #[test]
    fn something_must_be_left_to_train_on() {
        assert_eq!(
            split(
                &dataset(),
                PartSize::Rows(30),
                PartSize::Share(0.5),
                1,
                false
            ),
            None
        );
    }
}

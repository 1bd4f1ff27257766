//! Scores of rows by embeddings: the lower, the more probably a row is wrong.

use std::collections::BTreeMap;

use data::{Dataset, Labels, sampler::BatchSampler};
use search::{Embeddings, Similarity};

use crate::usage::UsageError;

/// The way in which rows are scored, by the columns and labels of their data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scoring {
    /// Anchor, positive, negatives: the positive's cosine with the anchor less the nearest negative's, from which
    /// [`right_way`](super::right_way) makes a probability.
    Margins,
    /// Anchor and positive: their cosine less the anchor's mean cosine with all positives.
    Pairs,
    /// Two sentences with a score: the distance between the places of cosine and score in their orders, negated.
    Orders,
    /// Two sentences with a class of 0 or 1: how far the cosine lies on the side of the row's class.
    Sides,
    /// One sentence with a class: the cosine with the middle of its own class less that with the nearest other one's.
    Classes,
}

impl Scoring {
    /// The way for a data set.
    ///
    /// # Errors
    /// Where there is none.
    pub(super) fn of(dataset: &Dataset) -> Result<Self, UsageError> {
        let n_columns = dataset.columns.len();
        let is_binary = |labels: &[i64]| labels.iter().all(|label| [0, 1].contains(label));
        match (n_columns, &dataset.labels) {
            (2, None) => Ok(Self::Pairs),
            (3.., None) => Ok(Self::Margins),
            (2, Some(Labels::Float(_))) => Ok(Self::Orders),
            (2, Some(Labels::Integer(labels))) if is_binary(labels) => Ok(Self::Sides),
            (1, Some(Labels::Integer(_))) => Ok(Self::Classes),
            _ => Err(UsageError(format!(
                "--folds: rows of {} ({n_columns} text columns{}) can't be scored: it takes pairs, triplets or n-tuples without labels, pairs with scores or with the classes 0 and 1, or single texts with classes",
                dataset.name,
                if dataset.labels.is_some() {
                    " with labels"
                } else {
                    ""
                },
            ))),
        }
    }

    /// The loss that the runs learn by where none is given.
    pub(super) fn default_loss(self) -> &'static str {
        match self {
            Self::Margins | Self::Pairs => "multiple-negatives-ranking",
            Self::Orders => "cosent",
            Self::Sides => "online-contrastive",
            Self::Classes => "batch-semi-hard-triplet",
        }
    }

    /// The order of rows that the runs need: losses of classes compare rows of one.
    pub(super) fn batch_sampler(self) -> BatchSampler {
        match self {
            Self::Classes => BatchSampler::GroupByLabel,
            _ => BatchSampler::BatchSampler,
        }
    }

    /// A score in words.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Margins => "probability that positive and negative are the right way round",
            Self::Pairs => "cosine of the positive less the mean of all positives",
            Self::Orders => "places between cosine and score in their orders, as a share, negated",
            Self::Sides => "cosine on the side of the row's class",
            Self::Classes => "cosine with the row's class less that with the nearest other",
        }
    }

    /// The scores of a data set's rows from the embeddings of its columns.
    pub(super) fn scores(
        self,
        dataset: &Dataset,
        columns: &[Embeddings<'_>],
    ) -> anyhow::Result<Vec<f32>> {
        let cosines = |i: usize| Similarity::Cosine.of_rows(columns[0], columns[i]);
        Ok(match (self, &dataset.labels) {
            (Self::Pairs, _) => {
                let middle = middle(columns[1].normalized().chunks_exact(columns[1].dimension()));
                let middles = middle.repeat(columns[0].len());
                let to_all = dots(&columns[0].normalized(), &middles, columns[0].dimension());
                let own = cosines(1)?.into_iter().zip(to_all);
                own.map(|(own, all)| own - all).collect()
            }
            (Self::Orders, Some(Labels::Float(scores))) => {
                let (cosines, scores) = (places(&cosines(1)?), places(scores));
                let apart = cosines.iter().zip(&scores);
                let apart = apart.map(|(cosine, score)| -(cosine - score).abs());
                apart.collect()
            }
            (Self::Sides, Some(Labels::Integer(classes))) => sides(&cosines(1)?, classes),
            (Self::Classes, Some(Labels::Integer(classes))) => of_classes(columns[0], classes),
            _ => {
                let mut margins = cosines(1)?;
                let mut nearest = vec![f32::NEG_INFINITY; margins.len()];
                for i in 2..columns.len() {
                    for (nearest, cosine) in nearest.iter_mut().zip(cosines(i)?) {
                        *nearest = nearest.max(cosine);
                    }
                }
                for (margin, nearest) in margins.iter_mut().zip(nearest) {
                    *margin -= nearest;
                }
                margins
            }
        })
    }
}

/// The dot product of each row of `a` with that of `b`.
fn dots(a: &[f32], b: &[f32], dimension: usize) -> Vec<f32> {
    let rows = a.chunks_exact(dimension).zip(b.chunks_exact(dimension));
    rows.map(|(a, b)| a.iter().zip(b).map(|(a, b)| a * b).sum())
        .collect()
}

/// The mean of rows.
fn middle<'r>(rows: impl ExactSizeIterator<Item = &'r [f32]>) -> Vec<f32> {
    let n = rows.len().max(1) as f32;
    let mut middle = Vec::new();
    for row in rows {
        middle.resize(row.len(), 0.0);
        middle
            .iter_mut()
            .zip(row)
            .for_each(|(sum, value)| *sum += value / n);
    }
    middle
}

/// The place of each value in their order, from 0 to 1; equal values share the middle of their places.
fn places(values: &[f32]) -> Vec<f32> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut places = vec![0.0; values.len()];
    let mut n_before = 0;
    for equal in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let middle = n_before as f32 + (equal.len() - 1) as f32 / 2.0;
        for &i in equal {
            places[i] = middle / values.len().saturating_sub(1).max(1) as f32;
        }
        n_before += equal.len();
    }
    places
}

/// Cosines from the middle between the two classes, towards the row's own.
fn sides(cosines: &[f32], classes: &[i64]) -> Vec<f32> {
    let mean = |class: i64| {
        let of_class = cosines.iter().zip(classes);
        let of_class = of_class.filter(|(_, other)| **other == class);
        let (sum, n) = of_class.fold((0.0, 0.0), |(sum, n), (cosine, _)| (sum + cosine, n + 1.0));
        if n > 0.0 { sum / n } else { 0.0 }
    };
    let threshold = (mean(0) + mean(1)) / 2.0;
    let rows = cosines.iter().zip(classes);
    rows.map(|(cosine, class)| match class {
        1 => cosine - threshold,
        _ => threshold - cosine,
    })
    .collect()
}

/// Each row against the middles of the classes, that of its own without it. A row that is alone in its class, or whose
/// class is alone, has score 0: nothing speaks against it.
fn of_classes(rows: Embeddings<'_>, classes: &[i64]) -> Vec<f32> {
    let (dimension, values) = (rows.dimension(), rows.normalized());
    let row = |i: usize| &values[i * dimension..][..dimension];
    let mut sums: BTreeMap<i64, (Vec<f32>, usize)> = BTreeMap::new();
    for (i, class) in classes.iter().enumerate() {
        let (sum, n) = sums
            .entry(*class)
            .or_insert_with(|| (vec![0.0; dimension], 0));
        sum.iter_mut()
            .zip(row(i))
            .for_each(|(sum, value)| *sum += value);
        *n += 1;
    }
    let cosine = |row: &[f32], sum: &[f32], less: f32| -> f32 {
        let sum = sum.iter().zip(row).map(|(sum, value)| sum - less * value);
        let (dot, square) = sum
            .zip(row)
            .fold((0.0, 0.0), |(dot, square), (sum, value)| {
                (dot + sum * value, square + sum * sum)
            });
        dot / f32::sqrt(square).max(1e-12)
    };
    let score = |(i, class): (usize, &i64)| {
        let own = sums.get(class).filter(|(_, n)| *n > 1);
        let others = sums.iter().filter(|(other, _)| *other != class);
        let others = others.map(|(_, (sum, _))| cosine(row(i), sum, 0.0));
        match (own, others.reduce(f32::max)) {
            (Some((sum, _)), Some(other)) => cosine(row(i), sum, 1.0) - other,
            _ => 0.0,
        }
    };
    classes.iter().enumerate().map(score).collect()
}

#[cfg(test)]
mod tests {
    use data::{TextColumn, Texts};

    use super::*;

    fn dataset(n_columns: usize, n_rows: usize, labels: Option<Labels>) -> Dataset {
        let column = |i: usize| TextColumn {
            name: format!("column {i}"),
            texts: Texts::from_iter(vec!["text"; n_rows]),
        };
        Dataset {
            name: "d".to_owned(),
            columns: (0..n_columns).map(column).collect(),
            labels,
            classes: Vec::new(),
            n_skipped: 0,
        }
    }

    /// Directions in the plane, in degrees.
    fn at(degrees: &[f32]) -> Vec<f32> {
        let values = degrees.iter().flat_map(|degrees| {
            let radians = degrees.to_radians();
            [3.0 * radians.cos(), 3.0 * radians.sin()]
        });
        values.collect()
    }

    fn scores(columns: &[&[f32]], labels: Option<Labels>) -> Vec<f32> {
        let dataset = dataset(columns.len(), columns[0].len(), labels);
        let values: Vec<Vec<f32>> = columns.iter().map(|column| at(column)).collect();
        let columns: Vec<Embeddings<'_>> = values
            .iter()
            .map(|values| Embeddings::new(values, 2).unwrap())
            .collect();
        let scoring = Scoring::of(&dataset).unwrap();
        scoring.scores(&dataset, &columns).unwrap()
    }

    fn assert_near(found: &[f32], expected: &[f32]) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-5, "{found} is not {expected}");
        }
    }

    #[test]
    fn the_nearest_negative_counts() {
        let found = scores(
            &[&[0.0, 0.0], &[60.0, 0.0], &[90.0, 90.0], &[0.0, 60.0]],
            None,
        );
        assert_near(&found, &[-0.5, 0.5]);
    }

    #[test]
    fn pairs_are_held_against_all_positives() {
        let found = scores(&[&[0.0, 90.0], &[0.0, 90.0]], None);
        assert_near(&found, &[0.5, 0.5]);
        let found = scores(&[&[0.0, 90.0], &[90.0, 0.0]], None);
        assert_near(&found, &[-0.5, -0.5]);
    }

    #[test]
    fn orders_of_cosines_and_scores_are_compared() {
        let labels = Labels::Float(vec![0.9, 0.1, 0.5]);
        let found = scores(&[&[0.0; 3], &[90.0, 45.0, 0.0]], Some(labels));
        assert_near(&found, &[-1.0, -0.5, -0.5]);
        assert_near(&places(&[2.0, 1.0, 2.0]), &[0.75, 0.0, 0.75]);
    }

    #[test]
    fn classes_of_pairs_have_sides() {
        let labels = Labels::Integer(vec![1, 0, 0, 1]);
        let found = scores(&[&[0.0; 4], &[0.0, 90.0, 0.0, 90.0]], Some(labels));
        assert_near(&found, &[0.5, 0.5, -0.5, -0.5]);
    }

    #[test]
    fn single_texts_are_held_against_the_middles_of_classes() {
        let labels = Labels::Integer(vec![7, 7, 8, 8, 8, 9]);
        let found = scores(&[&[0.0, 0.0, 90.0, 90.0, 0.0, 200.0]], Some(labels));
        let expected: Vec<bool> = vec![true, true, true, true, false];
        let signs: Vec<bool> = found[..5].iter().map(|score| *score > 0.0).collect();
        assert_eq!(signs, expected);
        assert_eq!(found[5], 0.0);
    }

    #[test]
    fn what_has_no_scores_is_refused() {
        let three = dataset(2, 3, Some(Labels::Integer(vec![0, 1, 2])));
        let message = Scoring::of(&three).unwrap_err().to_string();
        assert!(
            message.contains("--folds") && message.contains("pairs with scores"),
            "{message}"
        );
        assert!(Scoring::of(&dataset(1, 2, None)).is_err());
    }
}

//! An evaluator's figures as functions of its rows, for intervals.

use std::fmt;

use crate::{
    bootstrap::{Bootstrap, Interval, percentiles, resample},
    metrics::Metrics,
};

/// Figures that can be computed anew on any choice of an evaluation's rows: triplets, pairs, or queries with
/// all that belongs to them.
///
/// [`Evaluator::rows`](crate::Evaluator::rows) makes them. Maxima over similarities are not among them: the
/// greatest of several figures on a resample is greater than chance alone would have it.
pub struct RowFigures {
    n_rows: usize,
    keys: Vec<String>,
    figures: Box<Statistic>,
}

/// The figures, in the order of the keys, of a choice of rows.
type Statistic = dyn Fn(&[usize]) -> Vec<f64>;

impl RowFigures {
    /// Figures under their keys, each prefixed with `name_` unless `name` is empty.
    pub(crate) fn new(
        name: &str,
        n_rows: usize,
        keys: Vec<String>,
        figures: impl Fn(&[usize]) -> Vec<f64> + 'static,
    ) -> Self {
        let keys = keys.into_iter().map(|key| Metrics::key(name, &key));
        Self {
            n_rows,
            keys: keys.collect(),
            figures: Box::new(figures),
        }
    }

    /// The means of columns that have one value a row.
    pub(crate) fn means(name: &str, n_rows: usize, columns: Vec<(String, Vec<f64>)>) -> Self {
        let (keys, columns): (Vec<String>, Vec<Vec<f64>>) = columns.into_iter().unzip();
        Self::new(name, n_rows, keys, move |rows| {
            let mean = |column: &Vec<f64>| {
                rows.iter().map(|row| column[*row]).sum::<f64>() / rows.len() as f64
            };
            columns.iter().map(mean).collect()
        })
    }

    /// How many rows there are.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// The keys of the figures, in order.
    pub fn keys(&self) -> &[String] {
        &self.keys
    }

    /// The figures of a choice of rows, in the order of the keys. A row may come more than once.
    ///
    /// # Panics
    /// If a row is not below [`Self::n_rows`].
    pub fn of(&self, rows: &[usize]) -> Vec<f64> {
        (self.figures)(rows)
    }

    /// The figures of all rows: those that `evaluate` gives.
    pub fn all(&self) -> Vec<f64> {
        self.of(&(0..self.n_rows).collect::<Vec<_>>())
    }

    /// Each figure with its interval, by key.
    pub fn intervals(&self, how: &Bootstrap) -> Vec<(String, Interval)> {
        let resamples = resample(self.n_rows, how, |rows| self.of(rows));
        with_intervals(&self.keys, &self.all(), &resamples, how)
    }

    /// Gains of each figure of `after`, of the same rows, each with its interval: both are resampled by
    /// the same rows, so that what the rows have in common cancels out. `None` where they are not the same rows or
    /// figures.
    pub fn differences(&self, after: &Self, how: &Bootstrap) -> Option<Vec<(String, Interval)>> {
        if self.n_rows != after.n_rows || self.keys != after.keys || self.n_rows == 0 {
            return None;
        }
        let difference = |rows: &[usize]| {
            let pairs = after.of(rows).into_iter().zip(self.of(rows));
            pairs.map(|(after, before)| after - before).collect()
        };
        let value: Vec<f64> = difference(&(0..self.n_rows).collect::<Vec<_>>());
        let resamples = resample(self.n_rows, how, difference);
        Some(with_intervals(&self.keys, &value, &resamples, how))
    }

    /// The means over several evaluations of the same figures, under `keys`, with intervals: each is resampled
    /// by its own rows.
    pub(crate) fn intervals_of_means(
        all: &[&Self],
        keys: &[String],
        how: &Bootstrap,
    ) -> Vec<(String, Interval)> {
        let mean = |each: &mut dyn Iterator<Item = Vec<f64>>| {
            let mut sums = vec![0.0; keys.len()];
            for figures in each {
                for (sum, figure) in sums.iter_mut().zip(figures) {
                    *sum += figure / all.len() as f64;
                }
            }
            sums
        };
        let value = mean(&mut all.iter().map(|one| one.all()));
        let each: Vec<Vec<Vec<f64>>> = all
            .iter()
            .zip(how.seed..)
            .map(|(one, seed)| {
                let how = Bootstrap { seed, ..*how };
                resample(one.n_rows, &how, |rows| one.of(rows))
            })
            .collect();
        let resamples: Vec<Vec<f64>> = (0..how.resamples)
            .map(|i| mean(&mut each.iter().map(|one| one[i].clone())))
            .collect();
        with_intervals(keys, &value, &resamples, how)
    }
}

/// One for each that holds, and else zero.
pub(crate) fn shares(hits: &[bool]) -> Vec<f64> {
    hits.iter().map(|hit| f64::from(u8::from(*hit))).collect()
}

fn with_intervals(
    keys: &[String],
    value: &[f64],
    resamples: &[Vec<f64>],
    how: &Bootstrap,
) -> Vec<(String, Interval)> {
    let of = |(i, key): (usize, &String)| {
        let resampled = resamples.iter().map(|figures| figures[i]).collect();
        (
            key.clone(),
            percentiles(value[i], resampled, how.confidence),
        )
    };
    keys.iter().enumerate().map(of).collect()
}

impl fmt::Debug for RowFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RowFigures")
            .field("n_rows", &self.n_rows)
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rank::spearman;

    fn of(rows: &[f64]) -> RowFigures {
        RowFigures::means("", rows.len(), vec![("x".to_owned(), rows.to_vec())])
    }

    fn only(mut intervals: Vec<(String, Interval)>) -> Interval {
        assert_eq!(intervals.len(), 1);
        intervals.remove(0).1
    }

    #[test]
    fn the_interval_of_a_share_has_the_width_of_its_standard_error() {
        // 600 of 1,000: the standard error is 0.0155, so 95 % lie within about 0.0304.
        let rows: Vec<f64> = (0..1000).map(|row| f64::from(row % 5 < 3)).collect();
        let interval = only(of(&rows).intervals(&Bootstrap::default()));
        assert_eq!(interval.value, 0.6);
        assert!((interval.low - 0.5696).abs() < 0.004, "{interval:?}");
        assert!((interval.high - 0.6304).abs() < 0.004, "{interval:?}");
    }

    #[test]
    fn a_difference_is_paired_and_reproducible() {
        // So many rows that their means are exact.
        let before: Vec<f64> = (0..256).map(|row| f64::from(row % 2)).collect();
        let after: Vec<f64> = before.iter().map(|row| row + 0.25).collect();
        let how = Bootstrap::default();
        let interval = only(of(&before).differences(&of(&after), &how).unwrap());
        // Every row differs by the same, so every resample does.
        assert_eq!(
            interval,
            Interval {
                value: 0.25,
                low: 0.25,
                high: 0.25
            }
        );
        let again = || only(of(&before).intervals(&how));
        assert_eq!(again(), again());
        let other = Bootstrap {
            seed: 1,
            resamples: 50,
            ..how
        };
        assert_ne!(only(of(&before).intervals(&other)), again());
        assert!(of(&before).differences(&of(&after[1..]), &how).is_none());
        assert!(of(&[]).differences(&of(&[]), &how).is_none());
    }

    #[test]
    fn a_correlation_is_resampled_by_rows() {
        let scores: Vec<f64> = (0..100).map(f64::from).collect();
        let correlation = |series: Vec<f64>| {
            let scores = scores.clone();
            RowFigures::new("", 100, vec!["x".to_owned()], move |rows| {
                let pick = |values: &[f64]| rows.iter().map(|row| values[*row]).collect::<Vec<_>>();
                vec![spearman(&pick(&scores), &pick(&series))]
            })
        };
        let noisy = correlation((0..100).map(|row| f64::from(row * 37 % 100)).collect());
        let exact = correlation(scores.clone());
        let how = Bootstrap {
            resamples: 200,
            ..Bootstrap::default()
        };
        let interval = only(noisy.differences(&exact, &how).unwrap());
        assert!(interval.low < interval.value && interval.value < interval.high);
        assert!(interval.low > 0.5);
        assert!(only(exact.intervals(&how)).low > 1.0 - 1e-12);
    }
}

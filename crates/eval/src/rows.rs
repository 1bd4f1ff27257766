//! An evaluator's figures as functions of its rows, for intervals.

use crate::Metrics;
use crate::bootstrap::{Bootstrap, Interval, percentiles, resample};
use std::fmt;

/// Figures that can be computed anew on any choice of an evaluation's rows: triplets, pairs, or queries with
/// all that belongs to them.
///
/// Every evaluator but paraphrase mining, whose pairs are no rows of their own, has a method `rows` that gives
/// them for the inputs of its `evaluate`. Maxima over similarities are not among them: the greatest of several
/// figures on a resample is greater than chance alone would have it.
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

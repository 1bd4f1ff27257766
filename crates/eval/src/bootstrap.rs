//! Percentile bootstrap over rows: the interval of a figure, or of a difference of two models on the same rows.
//! [`RowFigures`](crate::RowFigures) are what an evaluator's figures are resampled from.
//!
//! Where two models are compared, both are measured on the same resampled rows, so that what rows
//! have in common cancels out. Efron 1979, <https://doi.org/10.1214/aos/1176344552>. The random
//! numbers are our own (SplitMix64), so that an interval depends on nothing but the rows and the seed.

use kernels::random::SplitMix64;
use serde::Serialize;

/// How an interval is found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bootstrap {
    /// How many times the rows are drawn anew, with replacement.
    pub resamples: usize,
    /// The share of resamples that lie within the interval, such as 0.95.
    pub confidence: f64,
    /// Seed of the draws.
    pub seed: u64,
}

/// A figure with its interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval {
    /// The figure on all rows.
    pub value: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

impl Default for Bootstrap {
    /// 2,000 resamples, 95 %, seed 42.
    fn default() -> Self {
        Self {
            resamples: 2000,
            confidence: 0.95,
            seed: 42,
        }
    }
}

/// The value of `statistic` on each of the resamples of `n` rows.
pub(crate) fn resample<T>(n: usize, how: &Bootstrap, statistic: impl Fn(&[usize]) -> T) -> Vec<T> {
    let mut random = SplitMix64::new(how.seed);
    let mut rows = vec![0; n];
    let mut resampled = Vec::with_capacity(how.resamples);
    for _ in 0..how.resamples {
        rows.iter_mut().for_each(|row| *row = random.below(n));
        resampled.push(statistic(&rows));
    }
    resampled
}

/// The interval around `value` that holds the share `confidence` of the resampled values.
pub(crate) fn percentiles(value: f64, mut resampled: Vec<f64>, confidence: f64) -> Interval {
    resampled.retain(|value| !value.is_nan());
    resampled.sort_by(f64::total_cmp);
    let tail = (1.0 - confidence) / 2.0;
    let low = quantile(&resampled, tail).unwrap_or(value);
    let high = quantile(&resampled, 1.0 - tail).unwrap_or(value);
    Interval { value, low, high }
}

/// A quantile of sorted values, with linear interpolation as NumPy's default.
fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let position = q.clamp(0.0, 1.0) * last as f64;
    let below = position.floor() as usize;
    let above = (below + 1).min(last);
    Some(sorted[below] + (sorted[above] - sorted[below]) * (position - below as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_interpolate_as_numpy() {
        let sorted = [1.0, 2.0, 4.0, 8.0];
        assert_eq!(quantile(&sorted, 0.5), Some(3.0));
        assert_eq!(quantile(&sorted, 0.25), Some(1.75));
        assert_eq!(quantile(&sorted, 1.0), Some(8.0));
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn an_interval_of_nothing_is_the_value() {
        let interval = percentiles(0.5, vec![f64::NAN], 0.95);
        assert_eq!((interval.low, interval.high), (0.5, 0.5));
    }
}

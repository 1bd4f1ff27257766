//! How sure a figure is, or a difference of two models on the same rows: percentile bootstrap over rows.
//! [`RowFigures`](crate::RowFigures) are what an evaluator's figures are resampled from.
//!
//! Where two models are compared, both are measured on the same resampled rows, so that what rows
//! have in common cancels out. Efron 1979, <https://doi.org/10.1214/aos/1176344552>. The random
//! numbers are our own (SplitMix64), so that an interval depends on nothing but the rows and the seed.

use crate::rank::spearman;
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

/// The mean of `after` minus that of `before`, row by row: the difference of two accuracies where
/// rows are 0 or 1. `None` where the two are empty or of different lengths.
pub fn difference_of_means(before: &[f64], after: &[f64], how: &Bootstrap) -> Option<Interval> {
    if before.len() != after.len() {
        return None;
    }
    let differences: Vec<f64> = after
        .iter()
        .zip(before)
        .map(|(after, before)| after - before)
        .collect();
    interval(differences.len(), how, |rows| {
        rows.iter().map(|row| differences[*row]).sum::<f64>() / rows.len() as f64
    })
}

/// The mean of some rows, such as an accuracy where rows are 0 or 1. `None` without rows.
pub fn mean(rows: &[f64], how: &Bootstrap) -> Option<Interval> {
    difference_of_means(&vec![0.0; rows.len()], rows, how)
}

/// Spearman's correlation of `after` with the gold scores minus that of `before`. `None` where the
/// lengths differ or there are no rows.
pub fn difference_of_spearman(
    scores: &[f64],
    before: &[f64],
    after: &[f64],
    how: &Bootstrap,
) -> Option<Interval> {
    if scores.len() != before.len() || scores.len() != after.len() {
        return None;
    }
    interval(scores.len(), how, |rows| {
        let pick = |values: &[f64]| rows.iter().map(|row| values[*row]).collect::<Vec<_>>();
        let scores = pick(scores);
        spearman(&scores, &pick(after)) - spearman(&scores, &pick(before))
    })
}

/// Spearman's correlation of similarities with gold scores. `None` where the lengths differ or
/// there are no rows.
pub fn spearman_interval(
    scores: &[f64],
    similarities: &[f64],
    how: &Bootstrap,
) -> Option<Interval> {
    if scores.len() != similarities.len() {
        return None;
    }
    interval(scores.len(), how, |rows| {
        let pick = |values: &[f64]| rows.iter().map(|row| values[*row]).collect::<Vec<_>>();
        spearman(&pick(scores), &pick(similarities))
    })
}

/// A statistic of `n` rows with its percentile interval. Resamples on which it is not a number (a
/// correlation of constants) are left out.
fn interval(n: usize, how: &Bootstrap, statistic: impl Fn(&[usize]) -> f64) -> Option<Interval> {
    if n == 0 {
        return None;
    }
    let rows: Vec<usize> = (0..n).collect();
    let value = statistic(&rows);
    let resampled = resample(n, how, statistic);
    Some(percentiles(value, resampled, how.confidence))
}

/// What `statistic` is on each of the resamples of `n` rows.
pub(crate) fn resample<T>(n: usize, how: &Bootstrap, statistic: impl Fn(&[usize]) -> T) -> Vec<T> {
    let mut random = SplitMix64(how.seed);
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

/// Steele, Lea and Flood 2014, <https://doi.org/10.1145/2660193.2660195>.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`; the bias of the multiplication is under 2⁻⁴⁰ for a million rows.
    fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitmix64_gives_the_published_series() {
        // The first values for seed 1234567, from the reference implementation in C.
        let mut random = SplitMix64(1_234_567);
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
        assert_eq!(random.next(), 9_817_491_932_198_370_423);
    }

    #[test]
    fn quantiles_interpolate_as_numpy() {
        let sorted = [1.0, 2.0, 4.0, 8.0];
        assert_eq!(quantile(&sorted, 0.5), Some(3.0));
        assert_eq!(quantile(&sorted, 0.25), Some(1.75));
        assert_eq!(quantile(&sorted, 1.0), Some(8.0));
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn the_interval_of_a_share_has_the_width_of_its_standard_error() {
        // 600 of 1,000: the standard error is 0.0155, so 95 % lie within about 0.0304.
        let rows: Vec<f64> = (0..1000).map(|row| f64::from(row % 5 < 3)).collect();
        let interval = mean(&rows, &Bootstrap::default()).unwrap();
        assert_eq!(interval.value, 0.6);
        assert!((interval.low - 0.5696).abs() < 0.004, "{interval:?}");
        assert!((interval.high - 0.6304).abs() < 0.004, "{interval:?}");
    }

    #[test]
    fn a_difference_is_paired_and_reproducible() {
        let before: Vec<f64> = (0..200).map(|row| f64::from(row % 2)).collect();
        let after: Vec<f64> = before.iter().map(|row| row + 0.25).collect();
        let how = Bootstrap::default();
        let interval = difference_of_means(&before, &after, &how).unwrap();
        // Every row differs by the same, so every resample does.
        assert_eq!(
            interval,
            Interval {
                value: 0.25,
                low: 0.25,
                high: 0.25
            }
        );
        let other = mean(&before, &how).unwrap();
        assert_eq!(mean(&before, &how).unwrap(), other);
        assert_ne!(
            mean(
                &before,
                &Bootstrap {
                    seed: 1,
                    resamples: 50,
                    ..how
                }
            ),
            Some(other)
        );
        assert_eq!(difference_of_means(&before, &after[1..], &how), None);
        assert_eq!(mean(&[], &how), None);
    }

    #[test]
    fn spearman_is_resampled_by_rows() {
        let scores: Vec<f64> = (0..100).map(f64::from).collect();
        let noisy: Vec<f64> = (0..100).map(|row| f64::from(row * 37 % 100)).collect();
        let how = Bootstrap {
            resamples: 200,
            ..Bootstrap::default()
        };
        let interval = difference_of_spearman(&scores, &noisy, &scores, &how).unwrap();
        assert!(interval.low < interval.value && interval.value < interval.high);
        assert!(interval.low > 0.5);
        assert!(spearman_interval(&scores, &scores, &how).unwrap().low > 1.0 - 1e-12);
    }
}

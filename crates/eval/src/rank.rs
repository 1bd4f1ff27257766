//! Correlations of two series.

/// Pearson's correlation, in f64; not a number where a series is constant or shorter than two.
///
/// As in `scipy.stats.pearsonr`: each series is centred and divided by its norm before the product,
/// and the result is clipped to [-1, 1].
pub(crate) fn pearson(a: &[f64], b: &[f64]) -> f64 {
    let constant = |x: &[f64]| x.iter().all(|value| *value == x[0]);
    if a.len() < 2 || constant(a) || constant(b) {
        return f64::NAN;
    }
    let (a, b) = (standardised(a), standardised(b));
    a.iter()
        .zip(&b)
        .map(|(a, b)| a * b)
        .sum::<f64>()
        .clamp(-1.0, 1.0)
}

/// Spearman's correlation: Pearson's, of the ranks, with the average rank for equal values.
pub(crate) fn spearman(a: &[f64], b: &[f64]) -> f64 {
    if a.iter().chain(b).any(|value| value.is_nan()) {
        return f64::NAN;
    }
    pearson(&ranks(a), &ranks(b))
}

/// Rank of each value, from 1; equal values share the average of their ranks.
pub(crate) fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    // `==` and not the order's equality, so that 0.0 and -0.0 are a tie.
    for group in order.chunk_by(|a, b| values[*a] == values[*b]) {
        let average = start as f64 + (group.len() + 1) as f64 / 2.0;
        group.iter().for_each(|index| ranks[*index] = average);
        start += group.len();
    }
    ranks
}

fn standardised(x: &[f64]) -> Vec<f64> {
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    let norm = x
        .iter()
        .map(|value| (value - mean).powi(2))
        .sum::<f64>()
        .sqrt();
    x.iter().map(|value| (value - mean) / norm).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_share_the_average_rank() {
        assert_eq!(
            ranks(&[0.5, -0.0, 0.0, 0.5, 0.5]),
            [4.0, 1.5, 1.5, 4.0, 4.0]
        );
        assert_eq!(ranks(&[]), [0.0; 0]);
    }

    #[test]
    fn a_constant_series_has_no_correlation() {
        assert!(pearson(&[1.0, 1.0], &[0.0, 1.0]).is_nan());
        assert!(spearman(&[0.0, 1.0], &[2.0, 2.0]).is_nan());
        assert!(pearson(&[1.0], &[1.0]).is_nan());
    }

    #[test]
    fn spearman_sees_order_only() {
        assert!((spearman(&[1.0, 2.0, 3.0], &[1.0, 10.0, 100.0]) - 1.0).abs() < 1e-12);
        assert!(pearson(&[1.0, 2.0, 3.0], &[1.0, 10.0, 100.0]) < 0.95);
    }
}

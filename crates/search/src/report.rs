//! Statistics of mining, and the text that upstream prints.

use std::fmt;

use wording::thousands;

use crate::mining_options::MiningOptions;

/// The distribution of similarities, as torch computes it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Distribution {
    /// How many there are.
    pub count: usize,
    /// The mean; not a number where there is none.
    pub mean: f64,
    /// The lower of the two in the middle.
    pub median: f64,
    /// The standard deviation with n - 1; not a number where there are fewer than two.
    pub std: f64,
    /// The least; infinite where there is none, as are the quartiles.
    pub min: f64,
    /// The lower quartile, interpolated.
    pub lower_quartile: f64,
    /// The middle, interpolated.
    pub middle: f64,
    /// The upper quartile, interpolated.
    pub upper_quartile: f64,
    /// The greatest; minus infinity where there is none.
    pub max: f64,
}

impl Distribution {
    fn of(mut scores: Vec<f32>) -> Self {
        scores.sort_unstable_by(f32::total_cmp);
        let scores: Vec<f64> = scores.into_iter().map(f64::from).collect();
        let count = scores.len();
        let n = count as f64;
        let mean = scores.iter().sum::<f64>() / n;
        let squares: f64 = scores.iter().map(|score| (score - mean).powi(2)).sum();
        let quantile = |q: f64| {
            let place = q * (n - 1.0);
            let below = place.floor();
            let score = |place: f64| scores.get(place as usize).copied();
            match (score(below), score(place.ceil())) {
                (Some(low), Some(high)) => low + (high - low) * (place - below),
                _ => f64::INFINITY,
            }
        };
        let median = count.checked_sub(1).and_then(|last| scores.get(last / 2));
        Self {
            count,
            mean,
            median: median.copied().unwrap_or(f64::NAN),
            std: if count > 1 {
                (squares / (n - 1.0)).sqrt()
            } else {
                f64::NAN
            },
            min: scores.first().copied().unwrap_or(f64::INFINITY),
            lower_quartile: quantile(0.25),
            middle: quantile(0.5),
            upper_quartile: quantile(0.75),
            max: scores.last().copied().unwrap_or(f64::NEG_INFINITY),
        }
    }

    /// The rows of the table after the count.
    fn rows(&self) -> [(&'static str, f64); 8] {
        [
            ("Mean", self.mean),
            ("Median", self.median),
            ("Std", self.std),
            ("Min", self.min),
            ("25%", self.lower_quartile),
            ("50%", self.middle),
            ("75%", self.upper_quartile),
            ("Max", self.max),
        ]
    }
}

/// Candidates that an option left out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Skipped {
    /// The option's name.
    pub option: &'static str,
    /// The option's value.
    pub value: f32,
    /// How many there were. Upstream counts what was left out before once more under `min_score`;
    /// here each candidate counts once.
    pub n: usize,
    /// Their share of the candidates.
    pub share: f64,
}

/// Statistics of mining. Its `Display` is upstream's text, lines and columns alike.
#[derive(Debug, Clone, PartialEq)]
pub struct MiningReport {
    /// Similarities of the pairs of anchor and positive, each once.
    pub positive: Distribution,
    /// Similarities of the negatives to their anchors, once for each positive.
    pub negative: Distribution,
    /// The first less the second.
    pub difference: Distribution,
    /// Candidates that were left out, by reason.
    pub skipped: Vec<Skipped>,
    /// Rows that there would have been with enough negatives for all.
    pub n_possible: usize,
    /// Rows that there are.
    pub n_rows: usize,
    considerations: Vec<&'static str>,
}

impl MiningReport {
    pub(crate) fn new(
        scores: [Vec<f32>; 3],
        skipped: Vec<Skipped>,
        n_possible: usize,
        n_rows: usize,
        options: &MiningOptions,
    ) -> Self {
        let [positive, negative, difference] = scores.map(Distribution::of);
        let considerations = [
            ("range_max", true),
            ("range_min", options.range_min > 0),
            ("absolute_margin", options.absolute_margin.is_some()),
            ("relative_margin", options.relative_margin.is_some()),
            ("max_score", options.max_score.is_some()),
        ];
        Self {
            positive,
            negative,
            difference,
            skipped,
            n_possible,
            n_rows,
            considerations: considerations
                .into_iter()
                .filter_map(|(option, matters)| matters.then_some(option))
                .collect(),
        }
    }

    /// Rows that are missing for want of negatives.
    pub fn n_missing(&self) -> usize {
        self.n_possible.saturating_sub(self.n_rows)
    }
}

impl fmt::Display for MiningReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |cells: [&str; 4]| {
            let [name, positive, negative, difference] = cells;
            writeln!(
                f,
                "{name:<6} {positive:>14} {negative:>14} {difference:>14}"
            )
        };
        line(["Metric", "Positive", "Negative", "Difference"])?;
        let [positive, negative] = [self.positive, self.negative].map(|of| thousands(of.count));
        line(["Count", &positive, &negative, ""])?;
        let columns = [&self.positive, &self.negative, &self.difference].map(Distribution::rows);
        for (i, (name, _)) in columns[0].iter().enumerate() {
            let [positive, negative, difference] = columns.map(|column| score(column[i].1));
            line([name, &positive, &negative, &difference])?;
        }
        for Skipped {
            option,
            value,
            n,
            share,
        } in &self.skipped
        {
            let (n, share) = (thousands(*n), 100.0 * share);
            writeln!(
                f,
                "Skipped {n} potential negatives ({share:.2}%) due to the {option} of {value:?}."
            )?;
        }
        let n_missing = self.n_missing();
        if n_missing == 0 {
            return Ok(());
        }
        let share = 100.0 * n_missing as f64 / self.n_possible as f64;
        let (options, parameters) = match self.considerations.as_slice() {
            [only] => ((*only).to_owned(), "parameter"),
            [first @ .., last] => (format!("{} and {last}", first.join(", ")), "parameters"),
            [] => return Ok(()),
        };
        writeln!(
            f,
            "Could not find enough negatives for {n_missing} samples ({share:.2}%). Consider adjusting \
             the {options} {parameters} if you'd like to find more valid negatives."
        )
    }
}

fn score(score: f64) -> String {
    if score.is_nan() {
        return "nan".to_owned();
    }
    format!("{score:.4}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_of_none_one_and_four() {
        let none = Distribution::of(Vec::new());
        assert!(none.mean.is_nan() && none.median.is_nan() && none.std.is_nan());
        let (low, high) = (f64::NEG_INFINITY, f64::INFINITY);
        assert_eq!((none.min, none.middle, none.max), (high, high, low));
        let one = Distribution::of(vec![0.5]);
        assert_eq!((one.mean, one.median, one.middle), (0.5, 0.5, 0.5));
        assert!(one.std.is_nan());
        // torch: median 2, std 1.2910, quantiles 1.75, 2.5, 3.25.
        let four = Distribution::of(vec![4.0, 1.0, 3.0, 2.0]);
        assert_eq!((four.median, four.middle), (2.0, 2.5));
        assert_eq!((four.lower_quartile, four.upper_quartile), (1.75, 3.25));
        assert!((four.std - 1.290_994_4).abs() < 1e-6);
    }
}

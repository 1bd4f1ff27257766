//! The options of mining hard negatives.

use crate::error::SearchError;

/// Options of mining; the names and defaults are those of `mine_hard_negatives`.
///
/// The rank of a candidate is counted without the anchor's own positives and without what the
/// margins and scores below leave out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MiningOptions {
    /// How many of the nearest candidates are skipped.
    pub range_min: usize,
    /// Candidates past this rank are not considered. Without it: `range_min + num_negatives` and the
    /// largest number of positives of an anchor, or `range_min + 10 * num_negatives` and that where
    /// `max_score` or a margin may leave some out.
    pub range_max: Option<usize>,
    /// Candidates more similar to the anchor than this are left out.
    pub max_score: Option<f32>,
    /// Candidates less similar to the anchor than this are left out.
    pub min_score: Option<f32>,
    /// Candidates are left out that are not less similar to the anchor by this much than its least
    /// similar positive.
    pub absolute_margin: Option<f32>,
    /// The same by this share of that positive's similarity: s > p - |p| * margin is left out.
    pub relative_margin: Option<f32>,
    /// How many negatives an anchor gets.
    pub num_negatives: usize,
    /// The choice among the candidates.
    pub sampling_strategy: SamplingStrategy,
    /// Whether an anchor's positives stay among the candidates. It makes sense with
    /// [`OutputFormat::NTuple`] alone.
    pub include_positives: bool,
    /// The form of [`HardNegatives::rows`](crate::hard_negatives::HardNegatives::rows).
    pub output_format: OutputFormat,
}

impl Default for MiningOptions {
    fn default() -> Self {
        Self {
            range_min: 0,
            range_max: None,
            max_score: None,
            min_score: None,
            absolute_margin: None,
            relative_margin: None,
            num_negatives: 3,
            sampling_strategy: SamplingStrategy::Top,
            include_positives: false,
            output_format: OutputFormat::Triplet,
        }
    }
}

impl MiningOptions {
    /// The number of ranks that are looked at, checked.
    ///
    /// * `max_positives`: the largest number of rows that share an anchor.
    ///
    /// # Errors
    /// Where no negative could be found with these options.
    pub fn range_max(&self, max_positives: usize) -> Result<usize, SearchError> {
        let n = self.num_negatives;
        if n == 0 {
            let problem = "found 0, allowed: 1 or more".to_owned();
            return Err(SearchError::option("num_negatives", problem));
        }
        for (option, value) in [
            ("max_score", self.max_score),
            ("min_score", self.min_score),
            ("absolute_margin", self.absolute_margin),
            ("relative_margin", self.relative_margin),
        ] {
            if value.is_some_and(|value| !value.is_finite()) {
                let problem = "it must be a finite number".to_owned();
                return Err(SearchError::option(option, problem));
            }
        }
        let may_skip = self.max_score.is_some()
            || self.absolute_margin.is_some()
            || self.relative_margin.is_some();
        let range_max = self.range_max.unwrap_or_else(|| {
            let n_wanted = if may_skip { n.saturating_mul(10) } else { n };
            self.range_min
                .saturating_add(n_wanted)
                .saturating_add(max_positives)
        });
        if self.range_min >= range_max {
            let problem = format!(
                "found {}, but it must be less than range_max, which is {range_max}",
                self.range_min
            );
            return Err(SearchError::option("range_min", problem));
        }
        let n_left = range_max - self.range_min;
        if n > n_left {
            let problem = format!(
                "found {n}, but from range_min {} to range_max {range_max} there are {n_left} candidates: \
                 lower num_negatives or range_min, or raise range_max",
                self.range_min
            );
            return Err(SearchError::option("num_negatives", problem));
        }
        Ok(range_max)
    }
}

/// Which candidates become negatives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SamplingStrategy {
    /// The nearest.
    Top,
    /// Any, drawn without replacement. The candidates are upstream's; the draw is a function of the
    /// seed and the anchor's place, where upstream's is Python's global generator's.
    Random {
        /// The same seed draws the same.
        seed: u64,
    },
}

/// The form of a row of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputFormat {
    /// Anchor, positive, one negative.
    Triplet,
    /// Anchor, positive, all negatives; anchors with too few are left out.
    NTuple,
    /// Anchor, one text, and whether it is a positive.
    LabeledPair,
    /// Anchor, a list of the positive and the negatives, and a list of labels.
    LabeledList,
}

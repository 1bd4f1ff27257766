//! Embeddings as rows of one slice.

use std::borrow::Cow;

use rayon::prelude::*;

use crate::error::SearchError;

/// Rows scaled at once by one thread.
const ROWS_PER_TASK: usize = 256;

/// Below this, a row is divided by this instead of by its length, as torch's `normalize` does.
const MIN_NORM: f64 = 1e-12;

/// A matrix [rows, dimension], row-major, all of whose values are finite.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Embeddings<'a> {
    values: &'a [f32],
    dimension: usize,
}

impl<'a> Embeddings<'a> {
    /// Takes a slice as rows of `dimension` values.
    ///
    /// # Errors
    /// Where the slice is no whole number of rows, there are more than 2^32 - 1 rows, or a value is
    /// not finite.
    pub fn new(values: &'a [f32], dimension: usize) -> Result<Self, SearchError> {
        if dimension == 0 || !values.len().is_multiple_of(dimension) {
            return Err(SearchError::Shape(format!(
                "{} values are no rows of {dimension} dimensions",
                values.len()
            )));
        }
        let embeddings = Self { values, dimension };
        if u32::try_from(embeddings.len()).is_err() {
            return Err(SearchError::Shape(format!(
                "{} embeddings are more than the {} that can be numbered",
                embeddings.len(),
                u32::MAX
            )));
        }
        let bad = values
            .par_iter()
            .with_min_len(1 << 16)
            .position_first(|value| !value.is_finite());
        match bad {
            None => Ok(embeddings),
            Some(i) => Err(SearchError::NotFinite {
                row: i / dimension,
                value: values[i],
            }),
        }
    }

    /// The number of rows.
    pub fn len(self) -> usize {
        self.values.len() / self.dimension
    }

    /// Whether there is no row.
    pub fn is_empty(self) -> bool {
        self.values.is_empty()
    }

    /// The number of values of a row.
    pub fn dimension(self) -> usize {
        self.dimension
    }

    /// All values, row after row.
    pub fn values(self) -> &'a [f32] {
        self.values
    }

    /// Row `i`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(self, i: usize) -> &'a [f32] {
        &self.values[i * self.dimension..][..self.dimension]
    }

    /// The rows in order.
    pub fn rows(self) -> impl ExactSizeIterator<Item = &'a [f32]> {
        self.values.chunks_exact(self.dimension)
    }

    /// The values with every row scaled to length 1; a row of zeros stays so.
    pub fn normalized(self) -> Vec<f32> {
        let mut values = self.values.to_vec();
        values
            .par_chunks_mut(self.dimension * ROWS_PER_TASK)
            .flat_map_iter(|rows| rows.chunks_exact_mut(self.dimension))
            .for_each(|row| {
                let norm = dot(row, row).sqrt().max(MIN_NORM) as f32;
                row.iter_mut().for_each(|value| *value /= norm);
            });
        values
    }
}

/// A matrix that is someone else's or our own copy.
#[derive(Debug)]
pub(crate) struct Matrix<'a> {
    values: Cow<'a, [f32]>,
    dimension: usize,
}

impl<'a> Matrix<'a> {
    pub(crate) fn borrowed(embeddings: Embeddings<'a>) -> Self {
        Self {
            values: Cow::Borrowed(embeddings.values),
            dimension: embeddings.dimension,
        }
    }

    pub(crate) fn normalized(embeddings: Embeddings<'_>) -> Self {
        Self {
            values: Cow::Owned(embeddings.normalized()),
            dimension: embeddings.dimension,
        }
    }

    pub(crate) fn view(&self) -> Embeddings<'_> {
        Embeddings {
            values: &self.values,
            dimension: self.dimension,
        }
    }
}

/// Partial sums that a compiler may keep in one register.
const LANES: usize = 8;

/// The sum of `term` over two rows, in f64: what is left to rounding is the last step to f32.
#[inline(always)]
fn sum(a: &[f32], b: &[f32], term: impl Fn(f64, f64) -> f64) -> f64 {
    let mut lanes = [0.0; LANES];
    let (a_blocks, b_blocks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let (a_rest, b_rest) = (a_blocks.remainder(), b_blocks.remainder());
    for (a, b) in a_blocks.zip(b_blocks) {
        for lane in 0..LANES {
            lanes[lane] += term(f64::from(a[lane]), f64::from(b[lane]));
        }
    }
    let rest = a_rest.iter().zip(b_rest);
    let rest: f64 = rest.map(|(a, b)| term(f64::from(*a), f64::from(*b))).sum();
    lanes.iter().sum::<f64>() + rest
}

/// The dot product of two rows.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f64 {
    sum(a, b, |a, b| a * b)
}

/// The squared Euclidean distance of two rows.
pub(crate) fn squared_distance(a: &[f32], b: &[f32]) -> f64 {
    sum(a, b, |a, b| (a - b) * (a - b))
}

/// The Manhattan distance of two rows.
pub(crate) fn absolute_distance(a: &[f32], b: &[f32]) -> f64 {
    sum(a, b, |a, b| (a - b).abs())
}

/// The Manhattan distance of two rows in f32, for a first look at many.
pub(crate) fn rough_absolute_distance(a: &[f32], b: &[f32]) -> f32 {
    const WIDE: usize = 16;
    let mut lanes = [0.0f32; WIDE];
    let (a_blocks, b_blocks) = (a.chunks_exact(WIDE), b.chunks_exact(WIDE));
    let (a_rest, b_rest) = (a_blocks.remainder(), b_blocks.remainder());
    for (a, b) in a_blocks.zip(b_blocks) {
        for lane in 0..WIDE {
            lanes[lane] += (a[lane] - b[lane]).abs();
        }
    }
    let rest = a_rest.iter().zip(b_rest).map(|(a, b)| (a - b).abs());
    lanes.iter().sum::<f32>() + rest.sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_and_values_are_checked() {
        let error = |values: &[f32], dimension| Embeddings::new(values, dimension).unwrap_err();
        assert_eq!(
            error(&[1.0, 2.0, 3.0], 2).to_string(),
            "3 values are no rows of 2 dimensions"
        );
        assert!(matches!(error(&[], 0), SearchError::Shape(_)));
        assert_eq!(
            error(&[1.0, 2.0, f32::NAN, 0.0], 2).to_string(),
            "row 1 of the embeddings holds NaN: all values must be finite"
        );
        assert_eq!(Embeddings::new(&[], 3).unwrap().len(), 0);
    }

    #[test]
    fn sums_cover_every_element() {
        for n in [1, 7, 8, 9, 16, 17, 35] {
            let a: Vec<f32> = (0..n).map(|i| i as f32).collect();
            let b: Vec<f32> = (0..n).map(|i| (i * i % 7) as f32).collect();
            let pairs = || {
                a.iter()
                    .zip(&b)
                    .map(|(a, b)| (f64::from(*a), f64::from(*b)))
            };
            assert_eq!(dot(&a, &b), pairs().map(|(a, b)| a * b).sum::<f64>());
            let squares = pairs().map(|(a, b)| (a - b).powi(2)).sum::<f64>();
            assert_eq!(squared_distance(&a, &b), squares);
            let absolute = pairs().map(|(a, b)| (a - b).abs()).sum::<f64>();
            assert_eq!(absolute_distance(&a, &b), absolute);
            assert_eq!(f64::from(rough_absolute_distance(&a, &b)), absolute);
        }
    }

    #[test]
    fn rows_are_scaled_and_zeros_stay() {
        let values = [3.0, 4.0, 0.0, 0.0, 1e30, 1e30];
        let scaled = Embeddings::new(&values, 2).unwrap().normalized();
        assert_eq!(scaled[..4], [0.6, 0.8, 0.0, 0.0]);
        assert!((scaled[4] - 0.5f32.sqrt()).abs() < 1e-6, "{scaled:?}");
    }
}

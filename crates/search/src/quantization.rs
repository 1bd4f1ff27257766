//! Embeddings in fewer bits.
//!
//! Upstream: `quantize_embeddings` in `util/quantization.py` of sentence-transformers.

use std::{fmt, str::FromStr};

use crate::{embeddings::Embeddings, error::SearchError};

/// With fewer embeddings than this, ranges taken from them are a matter of chance.
pub const FEW_EMBEDDINGS: usize = 100;

/// The number of steps of a dimension's range.
const N_STEPS: f32 = 255.0;

/// The precision of an embedding's stored values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Precision {
    /// As they are.
    #[default]
    Float32,
    /// One byte from -128 to 127: where in its dimension's range a value lies, in 255 steps.
    Int8,
    /// The same from 0 to 255.
    Uint8,
    /// One bit, set where a value is above 0; eight in a byte, the first the highest; the byte less
    /// 128.
    Binary,
    /// The same with the byte as it is.
    Ubinary,
}

impl Precision {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Float32,
        Self::Int8,
        Self::Uint8,
        Self::Binary,
        Self::Ubinary,
    ];

    /// The name: `float32`, `int8`, `uint8`, `binary` or `ubinary`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Int8 => "int8",
            Self::Uint8 => "uint8",
            Self::Binary => "binary",
            Self::Ubinary => "ubinary",
        }
    }

    /// Whether it depends on the ranges of dimensions.
    pub fn needs_ranges(self) -> bool {
        matches!(self, Self::Int8 | Self::Uint8)
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Precision {
    type Err = SearchError;

    fn from_str(name: &str) -> Result<Self, SearchError> {
        let mut all = Self::ALL.into_iter();
        all.find(|precision| precision.name() == name)
            .ok_or_else(|| {
                let names = Self::ALL.map(Self::name).join(", ");
                SearchError::option("precision", format!("found `{name}`, allowed: {names}"))
            })
    }
}

/// The smallest and the largest value of each dimension.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranges {
    starts: Vec<f32>,
    ends: Vec<f32>,
}

impl Ranges {
    /// Ranges from [2, dimension]: all smallest values, then all largest.
    ///
    /// # Errors
    /// Where there are not two rows.
    pub fn new(ranges: Embeddings<'_>) -> Result<Self, SearchError> {
        if ranges.len() != 2 {
            return Err(SearchError::Shape(format!(
                "ranges are two rows, the smallest and the largest values, but there are {}",
                ranges.len()
            )));
        }
        Ok(Self {
            starts: ranges.row(0).to_vec(),
            ends: ranges.row(1).to_vec(),
        })
    }

    /// The smallest values, one a dimension.
    pub fn starts(&self) -> &[f32] {
        &self.starts
    }

    /// The largest values, one a dimension.
    pub fn ends(&self) -> &[f32] {
        &self.ends
    }

    /// The ranges that these embeddings span: of calibration embeddings, or of those to quantise.
    ///
    /// # Errors
    /// Where there is no embedding.
    pub fn of(embeddings: Embeddings<'_>) -> Result<Self, SearchError> {
        if embeddings.is_empty() {
            return Err(SearchError::Shape(
                "no embeddings to take ranges from".to_owned(),
            ));
        }
        let mut starts = embeddings.row(0).to_vec();
        let mut ends = starts.clone();
        for row in embeddings.rows() {
            for ((start, end), value) in starts.iter_mut().zip(&mut ends).zip(row) {
                *start = start.min(*value);
                *end = end.max(*value);
            }
        }
        Ok(Self { starts, ends })
    }
}

/// Quantised values, row after row.
#[derive(Debug, Clone, PartialEq)]
pub enum Quantized {
    /// [rows, dimension].
    Float32(Vec<f32>),
    /// [rows, dimension], or [rows, dimension / 8 rounded up] of packed bits.
    Int8(Vec<i8>),
    /// The shapes of `Int8`.
    Uint8(Vec<u8>),
}

/// Quantises embeddings.
///
/// `ranges` are needed for `int8` and `uint8` alone; without them, those of `embeddings` are taken,
/// which is a matter of chance where there are fewer than [`FEW_EMBEDDINGS`]. Values beyond a range
/// get its end. A dimension whose range is a single value has steps of 1.
///
/// # Errors
/// Where the ranges have another dimension, or would have to be taken from a single embedding.
pub fn quantize_embeddings(
    embeddings: Embeddings<'_>,
    precision: Precision,
    ranges: Option<&Ranges>,
) -> Result<Quantized, SearchError> {
    Ok(match precision {
        Precision::Float32 => Quantized::Float32(embeddings.values().to_vec()),
        Precision::Uint8 => Quantized::Uint8(steps(embeddings, ranges)?),
        Precision::Int8 => Quantized::Int8(less_128(&steps(embeddings, ranges)?)),
        Precision::Ubinary => Quantized::Uint8(packed_signs(embeddings)),
        Precision::Binary => Quantized::Int8(less_128(&packed_signs(embeddings))),
    })
}

/// Embeddings as numbers again, to be compared: steps as they are, bits as 0 and 1. Returns the
/// values and the number of them in a row (for bits, a multiple of 8).
///
/// Upstream: `EmbeddingSimilarityEvaluator.__call__`, which unpacks bits before it compares.
///
/// # Errors
/// As [`quantize_embeddings`].
pub fn quantized_as_f32(
    embeddings: Embeddings<'_>,
    precision: Precision,
) -> Result<(Vec<f32>, usize), SearchError> {
    let dimension = embeddings.dimension();
    Ok(match precision {
        Precision::Binary | Precision::Ubinary => {
            let bits = packed_signs(embeddings)
                .into_iter()
                .flat_map(|byte| (0..8).rev().map(move |bit| f32::from(byte >> bit & 1)))
                .collect();
            (bits, dimension.next_multiple_of(8))
        }
        _ => match quantize_embeddings(embeddings, precision, None)? {
            Quantized::Float32(values) => (values, dimension),
            Quantized::Int8(values) => (values.into_iter().map(f32::from).collect(), dimension),
            Quantized::Uint8(values) => (values.into_iter().map(f32::from).collect(), dimension),
        },
    })
}

/// Where each value lies in its dimension's range, 0 to 255.
fn steps(embeddings: Embeddings<'_>, ranges: Option<&Ranges>) -> Result<Vec<u8>, SearchError> {
    if embeddings.is_empty() {
        return Ok(Vec::new());
    }
    let own;
    let Ranges { starts, ends } = match ranges {
        Some(ranges) => ranges,
        None if embeddings.len() == 1 => {
            return Err(SearchError::Shape(
                "ranges of a single embedding are points, which leaves nothing of it: give ranges, \
                 or embeddings to take them from"
                    .to_owned(),
            ));
        }
        None => {
            own = Ranges::of(embeddings)?;
            &own
        }
    };
    if starts.len() != embeddings.dimension() {
        return Err(SearchError::Shape(format!(
            "the ranges have {} dimensions, but the embeddings have {}",
            starts.len(),
            embeddings.dimension()
        )));
    }
    let widths: Vec<f32> = starts
        .iter()
        .zip(ends)
        .map(|(start, end)| {
            let width = (end - start) / N_STEPS;
            if width == 0.0 { 1.0 } else { width }
        })
        .collect();
    Ok(embeddings
        .rows()
        .flat_map(|row| row.iter().zip(starts).zip(&widths))
        .map(|((value, start), width)| ((value - start) / width).floor().clamp(0.0, N_STEPS) as u8)
        .collect())
}

/// A bit for each value, set where it is above 0, the first the highest of its byte.
fn packed_signs(embeddings: Embeddings<'_>) -> Vec<u8> {
    let byte = |values: &[f32]| {
        let bits = values.iter().enumerate();
        bits.fold(0, |byte, (i, value)| {
            byte | u8::from(*value > 0.0) << (7 - i)
        })
    };
    embeddings
        .rows()
        .flat_map(|row| row.chunks(8).map(byte))
        .collect()
}

fn less_128(bytes: &[u8]) -> Vec<i8> {
    bytes.iter().map(|byte| (byte ^ 0x80) as i8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dimension_of_one_value_and_values_beyond_the_range() {
        let embeddings = Embeddings::new(&[0.5, -9.0, 0.5, 9.0, 0.5, 0.0], 2).unwrap();
        let ranges = Ranges::new(Embeddings::new(&[0.5, -1.0, 0.5, 1.0], 2).unwrap()).unwrap();
        let uint8 = quantize_embeddings(embeddings, Precision::Uint8, Some(&ranges)).unwrap();
        assert_eq!(uint8, Quantized::Uint8(vec![0, 0, 0, 255, 0, 127]));
        let int8 = quantize_embeddings(embeddings, Precision::Int8, Some(&ranges)).unwrap();
        assert_eq!(int8, Quantized::Int8(vec![-128, -128, -128, 127, -128, -1]));
    }

    #[test]
    fn ranges_must_fit() {
        let embeddings = Embeddings::new(&[1.0, 2.0], 2).unwrap();
        let ranges = Ranges::new(Embeddings::new(&[0.0, 1.0], 1).unwrap()).unwrap();
        let error = quantize_embeddings(embeddings, Precision::Int8, Some(&ranges)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the ranges have 1 dimensions, but the embeddings have 2"
        );
        assert!(Ranges::new(embeddings).is_err());
        assert!(Ranges::of(Embeddings::new(&[], 2).unwrap()).is_err());
    }

    #[test]
    fn a_single_embedding_needs_ranges() {
        let one = Embeddings::new(&[1.0, 2.0], 2).unwrap();
        for precision in [Precision::Int8, Precision::Uint8] {
            let error = quantize_embeddings(one, precision, None).unwrap_err();
            assert!(error.to_string().contains("a single embedding"), "{error}");
            assert!(quantize_embeddings(one, precision, Some(&Ranges::of(one).unwrap())).is_ok());
        }
        assert!(quantize_embeddings(one, Precision::Binary, None).is_ok());
    }

    #[test]
    fn bits_come_back_as_zeros_and_ones() {
        let embeddings =
            Embeddings::new(&[1.0, -1.0, 0.0, 2.0, 1.0, 1.0, -1.0, 0.1, 3.0], 9).unwrap();
        for precision in [Precision::Binary, Precision::Ubinary] {
            let (bits, width) = quantized_as_f32(embeddings, precision).unwrap();
            assert_eq!(width, 16);
            let expected = [1, 0, 0, 1, 1, 1, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0].map(|bit| bit as f32);
            assert_eq!(bits, expected);
        }
    }
}

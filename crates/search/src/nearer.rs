//! Texts that are nearer to an anchor than the anchor's own positives are: probably false negatives.

use std::ops::ControlFlow;

use kernels::gemm::{Gemm, Kind, RustGemm, Shape};
use rayon::prelude::*;

use crate::{
    embeddings::{Embeddings, dot},
    error::SearchError,
};

/// Anchors compared at once, at most, and their products with texts.
const CHUNK: usize = 256;
const CHUNK_PRODUCTS: usize = 1 << 24;

/// An anchor that a text is nearer to than the anchor's positives are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NearerText {
    /// The anchor's place.
    pub anchor: u32,
    /// The text's cosine with the anchor less that of the anchor's positive, or less the median of all positives where that
    /// is greater; above 0.
    pub excess: f32,
}

/// An anchor's own texts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct OwnTexts {
    /// Its positives among the texts: the nearest one counts.
    pub positives: Vec<u32>,
    /// All that is not looked at for this anchor, such as its negatives, which are known to be near.
    pub known: Vec<u32>,
}

/// For each text the anchor to which it is nearer, by cosine, than that anchor's own nearest positive, by the most; none
/// where there is no such anchor. `own` has the texts of each anchor; an anchor without positives is passed over.
///
/// A positive that is far from its anchor would make all texts near: what is not as near as the median positive is near no
/// anchor.
///
/// All anchors are compared with all texts, some at a time; `on_progress` gets the number of anchors done.
///
/// # Errors
/// Where the dimensions differ, or [`SearchError::Stopped`] when `on_progress` breaks.
pub fn nearer_texts(
    anchors: Embeddings<'_>,
    texts: Embeddings<'_>,
    own: &[OwnTexts],
    on_progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
) -> Result<Vec<Option<NearerText>>, SearchError> {
    if anchors.dimension() != texts.dimension() || anchors.len() != own.len() {
        return Err(SearchError::Shape(format!(
            "{} anchors of {} dimensions with the texts of {} don't fit texts of {} dimensions",
            anchors.len(),
            anchors.dimension(),
            own.len(),
            texts.dimension()
        )));
    }
    let (dimension, n_texts) = (texts.dimension(), texts.len());
    let (anchor_values, text_values) = (anchors.normalized(), texts.normalized());
    let text_values = text_values.as_slice();
    let text = |i: u32| &text_values[i as usize * dimension..][..dimension];
    let anchor = |i: usize| &anchor_values[i * dimension..][..dimension];
    let floors: Vec<Option<f32>> = own
        .par_iter()
        .enumerate()
        .map(|(i, own)| {
            let positives = own.positives.iter();
            let cosines = positives.map(|&positive| dot(anchor(i), text(positive)) as f32);
            cosines.reduce(f32::max)
        })
        .collect();
    let usual = median(floors.iter().flatten().copied().collect());
    let mut nearest: Vec<Option<NearerText>> = vec![None; n_texts];
    let mut scores = Vec::new();
    let chunk = (CHUNK_PRODUCTS / n_texts.max(1)).clamp(1, CHUNK);
    for first in (0..anchors.len()).step_by(chunk) {
        let n_anchors = chunk.min(anchors.len() - first);
        let of_chunk = &anchor_values[first * dimension..(first + n_anchors) * dimension];
        scores.resize(n_anchors * n_texts, 0.0);
        let shape = Shape {
            m: n_anchors,
            n: n_texts,
            k: dimension,
        };
        RustGemm.product(
            Kind::NT,
            shape,
            1.0,
            of_chunk,
            text_values,
            0.0,
            &mut scores,
        );
        // What an anchor's row has left is the excess.
        scores
            .par_chunks_mut(n_texts.max(1))
            .zip(&floors[first..first + n_anchors])
            .zip(&own[first..first + n_anchors])
            .for_each(|((scores, floor), own)| {
                match floor.map(|floor| floor.max(usual)) {
                    Some(floor) => scores.iter_mut().for_each(|score| *score -= floor),
                    None => scores.fill(f32::NEG_INFINITY),
                }
                for known in own.positives.iter().chain(&own.known) {
                    scores[*known as usize] = f32::NEG_INFINITY;
                }
            });
        nearest
            .par_iter_mut()
            .with_min_len(1024)
            .enumerate()
            .for_each(|(text, nearest)| {
                for i in 0..n_anchors {
                    let excess = scores[i * n_texts + text];
                    if excess > nearest.map_or(ROUNDING, |nearest| nearest.excess) {
                        *nearest = Some(NearerText {
                            anchor: (first + i) as u32,
                            excess,
                        });
                    }
                }
            });
        if on_progress(first + n_anchors).is_break() {
            return Err(SearchError::Stopped);
        }
    }
    Ok(nearest)
}

/// The middle one of some values, the lower of two.
fn median(mut values: Vec<f32>) -> f32 {
    let middle = values.len().saturating_sub(1) / 2;
    match values.is_empty() {
        true => f32::NEG_INFINITY,
        false => *values.select_nth_unstable_by(middle, f32::total_cmp).1,
    }
}

/// An excess up to this is rounding: products of rows add in another order than [`dot`].
const ROUNDING: f32 = 1e-5;

#[cfg(test)]
mod tests {
    use super::*;

    fn own(positives: &[u32], known: &[u32]) -> OwnTexts {
        OwnTexts {
            positives: positives.to_vec(),
            known: known.to_vec(),
        }
    }

    /// A direction in the plane, in degrees.
    fn at(degrees: &[f32]) -> Vec<f32> {
        let values = degrees.iter().flat_map(|degrees| {
            let radians = degrees.to_radians();
            [2.0 * radians.cos(), 2.0 * radians.sin()]
        });
        values.collect()
    }

    #[test]
    fn texts_nearer_than_the_own_positive_are_found_with_the_anchor_that_they_are_nearest_to() {
        let (anchors, texts) = (at(&[0.0, 90.0, 180.0]), at(&[30.0, 80.0, 10.0, 95.0, 0.0]));
        let anchors = Embeddings::new(&anchors, 2).unwrap();
        let texts = Embeddings::new(&texts, 2).unwrap();
        let all = [own(&[0], &[4]), own(&[1], &[]), own(&[], &[])];
        let mut n_done = 0;
        let found = nearer_texts(anchors, texts, &all, &mut |n| {
            n_done = n;
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(n_done, 3);
        let cos = |degrees: f32| degrees.to_radians().cos();
        // The usual positive is at 30 degrees.
        let expected = [
            None,
            None,
            Some((0, cos(10.0) - cos(30.0))),
            Some((1, cos(5.0) - cos(10.0))),
            None,
        ];
        for (found, expected) in found.iter().zip(expected) {
            assert_eq!(
                found.map(|found| found.anchor),
                expected.map(|(anchor, _)| anchor)
            );
            let difference = found.map_or(0.0, |found| found.excess)
                - expected.map_or(0.0, |(_, excess)| excess);
            assert!(difference.abs() < 1e-6, "{found:?} {expected:?}");
        }
        // Of several own positives the nearest counts; a text equal to it is not nearer.
        let both = [own(&[0, 2], &[4]), own(&[], &[]), own(&[], &[])];
        let found = nearer_texts(anchors, texts, &both, &mut |_| ControlFlow::Continue(()));
        assert_eq!(found.unwrap(), [None; 5]);
        // A positive that is far makes no text near that is not as near as usual.
        let far = [own(&[1], &[4]), own(&[1], &[]), own(&[1], &[])];
        let found = nearer_texts(anchors, texts, &far, &mut |_| ControlFlow::Continue(()));
        let anchors_found: Vec<Option<u32>> = found
            .unwrap()
            .iter()
            .map(|found| found.map(|found| found.anchor))
            .collect();
        assert_eq!(anchors_found, [Some(0), None, Some(0), Some(1), None]);
        let stopped = nearer_texts(anchors, texts, &all, &mut |_| ControlFlow::Break(()));
        assert!(matches!(stopped, Err(SearchError::Stopped)));
        assert!(
            nearer_texts(
                anchors,
                texts,
                &all[..2],
                &mut |_| ControlFlow::Continue(())
            )
            .is_err()
        );
    }
}

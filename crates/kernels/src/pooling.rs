//! One vector for each sentence from the vectors of its tokens.

use rayon::prelude::*;

use crate::{
    profile::{Part, time},
    simd::{LANES, Simd, simd_fn},
};

/// The pooling modes of sentence-transformers, for a sentence of n tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The first token.
    Cls,
    /// The last token.
    LastToken,
    /// The largest value of each column.
    Max,
    /// Sum / n.
    Mean,
    /// Sum / sqrt(n).
    MeanSqrtLen,
    /// Weighted mean: token t, from 1, has weight t / (1 + 2 + .. + n). Skipped tokens do not change the t of others.
    WeightedMean,
}

/// Pools each sentence's rows: out\[sentence\] = pooled rows `offsets[sentence]..offsets[sentence + 1]` of `x`
/// [tokens, width], for `out` [sentences, width]. A sentence without tokens gives zeros.
///
/// `skipped` is the number of tokens to skip at the start of each sentence; empty for none.
///
/// # Panics
/// If the lengths do not fit together.
pub fn pool(
    mode: Pooling,
    offsets: &[usize],
    skipped: &[usize],
    width: usize,
    x: &[f32],
    out: &mut [f32],
) {
    let _timer = time(Part::Pooling);
    check(offsets, skipped, width, x.len(), out.len());
    out.par_chunks_mut(width)
        .enumerate()
        .with_min_len(8)
        .for_each(|(i, out)| {
            let (start, end) = (offsets[i], offsets[i + 1]);
            let before = n_skipped(skipped, i, end - start);
            let x = &x[(start + before) * width..end * width];
            match mode {
                Pooling::Max => largest(x, out),
                _ => weighted_sum(mode, before, x, out),
            }
        });
}

/// Backward pass of [`pool`]: writes `d_x` [tokens, width] from `d_out` [sentences, width], with zeros for skipped
/// tokens. With [`Pooling::Max`] the gradient goes to the first of equal tokens; other modes do not read `x`.
///
/// # Panics
/// If the lengths do not fit together.
pub fn pool_backward(
    mode: Pooling,
    offsets: &[usize],
    skipped: &[usize],
    width: usize,
    x: &[f32],
    d_out: &[f32],
    d_x: &mut [f32],
) {
    let _timer = time(Part::Pooling);
    check(offsets, skipped, width, d_x.len(), d_out.len());
    if mode == Pooling::Max {
        assert_eq!(x.len(), d_x.len(), "x");
    }
    let mut jobs = Vec::with_capacity(offsets.len() - 1);
    let mut rest = d_x;
    for (i, d_out) in d_out.chunks_exact(width).enumerate() {
        let (start, length) = (offsets[i], offsets[i + 1] - offsets[i]);
        let before = n_skipped(skipped, i, length);
        let (d_skipped, others) = rest.split_at_mut(before * width);
        let (d_x, tail) = others.split_at_mut((length - before) * width);
        d_skipped.fill(0.0);
        jobs.push((start + before, before, d_out, d_x));
        rest = tail;
    }
    jobs.into_par_iter()
        .with_min_len(8)
        .for_each(|(start, before, d_out, d_x)| match mode {
            Pooling::Max => {
                let x = &x[start * width..][..d_x.len()];
                d_x.fill(0.0);
                for (c, &d) in d_out.iter().enumerate() {
                    let mut best = c;
                    for i in (c..x.len()).step_by(width) {
                        if x[i] > x[best] {
                            best = i;
                        }
                    }
                    if let Some(target) = d_x.get_mut(best) {
                        *target = d;
                    }
                }
            }
            _ => {
                let n = d_x.len() / width;
                for (t, d_x) in d_x.chunks_exact_mut(width).enumerate() {
                    scaled(weight(mode, before, t, n), d_out, d_x);
                }
            }
        });
}

/// Number of tokens to skip at the start of sentence `i`.
fn n_skipped(skipped: &[usize], i: usize, length: usize) -> usize {
    skipped.get(i).map_or(0, |&n| n.min(length))
}

/// Weight of token `t` of `n`, after `before` skipped ones. [`Pooling::Max`] is not linear and has no weights.
fn weight(mode: Pooling, before: usize, t: usize, n: usize) -> f32 {
    match mode {
        Pooling::Cls => f32::from(u8::from(t == 0)),
        Pooling::LastToken => f32::from(u8::from(t + 1 == n)),
        Pooling::Mean | Pooling::Max => 1.0 / n as f32,
        Pooling::MeanSqrtLen => 1.0 / (n as f32).sqrt(),
        Pooling::WeightedMean => (before + t + 1) as f32 / (n * (2 * before + n + 1) / 2) as f32,
    }
}

fn check(offsets: &[usize], skipped: &[usize], width: usize, tokens: usize, sentences: usize) {
    assert!(width > 0, "rows have no width");
    assert!(
        skipped.is_empty() || skipped.len() + 1 == offsets.len(),
        "tokens to leave out"
    );
    assert!(
        offsets.first() == Some(&0) && offsets.is_sorted(),
        "offsets do not ascend from 0"
    );
    assert_eq!(
        offsets[offsets.len() - 1] * width,
        tokens,
        "values of the tokens"
    );
    assert_eq!(
        (offsets.len() - 1) * width,
        sentences,
        "values of the sentences"
    );
}

simd_fn!(fn weighted_sum(mode: Pooling, before: usize, x: &[f32], out: &mut [f32]) = weighted_sum_body);

#[inline(always)]
fn weighted_sum_body<S: Simd>(s: S, mode: Pooling, before: usize, x: &[f32], out: &mut [f32]) {
    let width = out.len();
    let n = x.len() / width;
    out.fill(0.0);
    for (t, row) in x.chunks_exact(width).enumerate() {
        let w = weight(mode, before, t, n);
        if w == 0.0 {
            continue;
        }
        let mut i = 0;
        while i < width {
            let v = s.fma(s.splat(w), s.ld(row, i), s.ld(out, i));
            s.st(out, i, v);
            i += LANES;
        }
    }
}

simd_fn!(fn largest(x: &[f32], out: &mut [f32]) = largest_body);

#[inline(always)]
fn largest_body<S: Simd>(s: S, x: &[f32], out: &mut [f32]) {
    let width = out.len();
    let Some(first) = x.get(..width) else {
        out.fill(0.0);
        return;
    };
    out.copy_from_slice(first);
    for row in x.chunks_exact(width).skip(1) {
        let mut i = 0;
        while i < width {
            let v = s.max(s.ld(row, i), s.ld(out, i));
            s.st(out, i, v);
            i += LANES;
        }
    }
}

simd_fn!(fn scaled(w: f32, from: &[f32], to: &mut [f32]) = scaled_body);

#[inline(always)]
fn scaled_body<S: Simd>(s: S, w: f32, from: &[f32], to: &mut [f32]) {
    let mut i = 0;
    while i < to.len() {
        let v = s.mul(s.splat(w), s.ld(from, i));
        s.st(to, i, v);
        i += LANES;
    }
}

//! The exact GELU, with a bias or as a gate.

use rayon::prelude::*;

use crate::{
    math::normal_cdf,
    profile::{Part, time},
    rows::{self, Scratch},
    simd::{LANES, Simd, simd_fn},
};

/// Computes act = GELU(x + bias), with GELU(z) = z Phi(z) (Hendrycks and Gimpel, 2016; exact, not the tanh
/// form). `x` and `act` are \[rows, width\], `bias` \[width\].
///
/// Replaces `x` by the derivative GELU'(x + bias) = Phi(z) + z phi(z): the forward pass computes both
/// terms anyway, nothing else reads the pre-activation, and the backward pass is then one
/// multiplication.
///
/// # Panics
/// If the lengths do not fit together.
pub fn gelu(x: &mut [f32], bias: &[f32], act: &mut [f32]) {
    let _timer = time(Part::Gelu);
    check(x.len(), bias.len());
    assert_eq!(act.len(), x.len(), "act");
    let len = block_len(x.len(), bias.len());
    x.par_chunks_mut(len)
        .zip(act.par_chunks_mut(len))
        .for_each(|(x, act)| forward_block(bias, x, act));
}

/// Computes x = GELU(x + bias) in place, for passes without gradients.
///
/// # Panics
/// If the lengths do not fit together.
pub fn gelu_in_place(x: &mut [f32], bias: &[f32]) {
    let _timer = time(Part::Gelu);
    check(x.len(), bias.len());
    let len = block_len(x.len(), bias.len());
    x.par_chunks_mut(len).for_each(|x| in_place_block(bias, x));
}

/// Backward pass of [`gelu`]: replaces `d`, the gradient of `act`, by the gradient of `x`, which is d
/// times the derivative, and adds its sum over rows to `d_bias` \[width\], where that is wanted.
///
/// # Panics
/// If the lengths do not fit together.
pub fn gelu_backward(
    derivative: &[f32],
    d: &mut [f32],
    d_bias: Option<&mut [f32]>,
    scratch: &mut Scratch,
) {
    let _timer = time(Part::Gelu);
    assert_eq!(derivative.len(), d.len(), "derivative");
    let Some(d_bias) = d_bias else {
        let len = block_len(d.len(), 1);
        d.par_chunks_mut(len)
            .zip(derivative.par_chunks(len))
            .for_each(|(d, derivative)| times_block(derivative, d));
        return;
    };
    let width = d_bias.len();
    check(d.len(), width);
    let len = block_len(d.len(), width);
    let partials = scratch.take(d.len().div_ceil(len) * width);
    d.par_chunks_mut(len)
        .zip(derivative.par_chunks(len))
        .zip(partials.par_chunks_mut(width))
        .for_each(|((d, derivative), partial)| backward_block(derivative, d, partial));
    rows::add_partials(partials, width, &mut [d_bias]);
}

/// Computes act = GELU(a) b, for rows of `x` [rows, 2 width] that are a and b side by side, and `act` [rows, width]
/// (Shazeer 2020, "GLU Variants Improve Transformer", GEGLU).
///
/// `x` leaves as the derivatives of `act` by a and b, GELU'(a) b and GELU(a).
///
/// # Panics
/// If the lengths do not fit together.
pub fn geglu(x: &mut [f32], width: usize, act: &mut [f32]) {
    let _timer = time(Part::Gelu);
    check(act.len(), width);
    assert_eq!(x.len(), 2 * act.len(), "x");
    let len = block_len(act.len(), width);
    x.par_chunks_mut(2 * len)
        .zip(act.par_chunks_mut(len))
        .for_each(|(x, act)| gated_block(width, x, act));
}

/// The backward pass of [`geglu`]: `derivatives` [rows, 2 width] come in as it left them and leave as the gradient of
/// `x`, given that of `act`, `d` [rows, width].
///
/// # Panics
/// If the lengths do not fit together.
pub fn geglu_backward(derivatives: &mut [f32], width: usize, d: &[f32]) {
    let _timer = time(Part::Gelu);
    check(d.len(), width);
    assert_eq!(derivatives.len(), 2 * d.len(), "derivatives");
    let len = block_len(d.len(), width);
    derivatives
        .par_chunks_mut(2 * len)
        .zip(d.par_chunks(len))
        .for_each(|(derivatives, d)| gated_backward_block(width, derivatives, d));
}

/// Computes `sums[c] += sum over rows of d[row][c]`, for `d` [rows, width]: the gradient of a bias that nothing
/// else reads.
///
/// # Panics
/// If the lengths do not fit together.
pub fn add_column_sums(d: &[f32], sums: &mut [f32], scratch: &mut Scratch) {
    let width = sums.len();
    check(d.len(), width);
    let len = block_len(d.len(), width);
    let partials = scratch.take(d.len().div_ceil(len) * width);
    d.par_chunks(len)
        .zip(partials.par_chunks_mut(width))
        .for_each(|(d, partial)| sums_block(d, partial));
    rows::add_partials(partials, width, &mut [sums]);
}

/// 1 / sqrt(2 pi), the density at 0.
const DENSITY: f32 = 0.398_942_3;

fn check(len: usize, width: usize) {
    assert!(
        width > 0 && len.is_multiple_of(width),
        "{len} values are no rows of {width}"
    );
}

/// Number of values in a block of rows.
fn block_len(len: usize, width: usize) -> usize {
    rows::block(len / width) * width
}

simd_fn!(fn forward_block(bias: &[f32], x: &mut [f32], act: &mut [f32]) = forward_body);

#[inline(always)]
fn forward_body<S: Simd>(s: S, bias: &[f32], x: &mut [f32], act: &mut [f32]) {
    let width = bias.len();
    for (x, act) in x.chunks_exact_mut(width).zip(act.chunks_exact_mut(width)) {
        let mut i = 0;
        while i < width {
            let z = s.add(s.ld(x, i), s.ld(bias, i));
            let (cdf, gauss) = normal_cdf(s, z);
            s.st(act, i, s.mul(z, cdf));
            s.st(x, i, s.fma(s.mul(z, s.splat(DENSITY)), gauss, cdf));
            i += LANES;
        }
    }
}

simd_fn!(fn gated_block(width: usize, x: &mut [f32], act: &mut [f32]) = gated_body);

#[inline(always)]
fn gated_body<S: Simd>(s: S, width: usize, x: &mut [f32], act: &mut [f32]) {
    for (x, act) in x
        .chunks_exact_mut(2 * width)
        .zip(act.chunks_exact_mut(width))
    {
        let (a, b) = x.split_at_mut(width);
        let mut i = 0;
        while i < width {
            let (z, factor) = (s.ld(a, i), s.ld(b, i));
            let (cdf, gauss) = normal_cdf(s, z);
            let gelu = s.mul(z, cdf);
            let derivative = s.fma(s.mul(z, s.splat(DENSITY)), gauss, cdf);
            s.st(act, i, s.mul(gelu, factor));
            s.st(a, i, s.mul(derivative, factor));
            s.st(b, i, gelu);
            i += LANES;
        }
    }
}

simd_fn!(fn gated_backward_block(width: usize, derivatives: &mut [f32], d: &[f32]) = gated_backward_body);

#[inline(always)]
fn gated_backward_body<S: Simd>(s: S, width: usize, derivatives: &mut [f32], d: &[f32]) {
    for (x, d) in derivatives
        .chunks_exact_mut(2 * width)
        .zip(d.chunks_exact(width))
    {
        let (a, b) = x.split_at_mut(width);
        let mut i = 0;
        while i < width {
            let v = s.ld(d, i);
            let by_a = s.mul(v, s.ld(a, i));
            s.st(a, i, by_a);
            let by_b = s.mul(v, s.ld(b, i));
            s.st(b, i, by_b);
            i += LANES;
        }
    }
}

simd_fn!(fn in_place_block(bias: &[f32], x: &mut [f32]) = in_place_body);

#[inline(always)]
fn in_place_body<S: Simd>(s: S, bias: &[f32], x: &mut [f32]) {
    let width = bias.len();
    for x in x.chunks_exact_mut(width) {
        let mut i = 0;
        while i < width {
            let z = s.add(s.ld(x, i), s.ld(bias, i));
            s.st(x, i, s.mul(z, normal_cdf(s, z).0));
            i += LANES;
        }
    }
}

simd_fn!(fn times_block(derivative: &[f32], d: &mut [f32]) = times_body);

#[inline(always)]
fn times_body<S: Simd>(s: S, derivative: &[f32], d: &mut [f32]) {
    let mut i = 0;
    while i < d.len() {
        let v = s.mul(s.ld(d, i), s.ld(derivative, i));
        s.st(d, i, v);
        i += LANES;
    }
}

simd_fn!(fn backward_block(derivative: &[f32], d: &mut [f32], partial: &mut [f32]) = backward_body);

#[inline(always)]
fn backward_body<S: Simd>(s: S, derivative: &[f32], d: &mut [f32], partial: &mut [f32]) {
    let width = partial.len();
    partial.fill(0.0);
    for (d, derivative) in d
        .chunks_exact_mut(width)
        .zip(derivative.chunks_exact(width))
    {
        let mut i = 0;
        while i < width {
            let v = s.mul(s.ld(d, i), s.ld(derivative, i));
            s.st(d, i, v);
            let sum = s.add(s.ld(partial, i), v);
            s.st(partial, i, sum);
            i += LANES;
        }
    }
}

simd_fn!(fn sums_block(d: &[f32], partial: &mut [f32]) = sums_body);

#[inline(always)]
fn sums_body<S: Simd>(s: S, d: &[f32], partial: &mut [f32]) {
    let width = partial.len();
    partial.fill(0.0);
    for d in d.chunks_exact(width) {
        let mut i = 0;
        while i < width {
            let sum = s.add(s.ld(partial, i), s.ld(d, i));
            s.st(partial, i, sum);
            i += LANES;
        }
    }
}

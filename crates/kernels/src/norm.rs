//! Layer norm, alone and in one pass with bias, dropout and residual.

use rayon::prelude::*;

use crate::{
    dropout::{Dropout, Mask},
    profile::{Part, time},
    rows::{self, Scratch},
    simd::{LANES, Simd, simd_fn},
};

/// Layer normalisation over the last dimension (Ba et al., 2016), like `torch.nn.LayerNorm`:
/// (x - mean) / sqrt(variance + eps) * gamma + beta, with the biased variance.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm<'a> {
    /// Scale, \[width\].
    pub gamma: &'a [f32],
    /// Shift, \[width\]; none in norms without bias.
    pub beta: Option<&'a [f32]>,
    /// Added to the variance.
    pub eps: f32,
}

/// Destinations to which the gradients of a layer norm's parameters are added.
#[derive(Debug)]
pub struct LayerNormGrad<'a> {
    /// Gradient of the scale, \[width\].
    pub gamma: &'a mut [f32],
    /// Gradient of the shift, \[width\].
    pub beta: Option<&'a mut [f32]>,
}

impl LayerNormGrad<'_> {
    /// Checks the lengths of what is wanted.
    pub(crate) fn check(wanted: Option<&Self>, width: usize) {
        let Some(grad) = wanted else { return };
        assert_eq!(grad.gamma.len(), width, "gradient of gamma");
        if let Some(beta) = &grad.beta {
            assert_eq!(beta.len(), width, "gradient of beta");
        }
    }

    /// Adds blocks' sums, which begin with those of gamma and beta, to the gradients; then the sums after them to
    /// `more`.
    pub(crate) fn add(self, partials: &[f32], stride: usize, more: Option<&mut [f32]>) {
        let mut unused = Vec::new();
        let beta = match self.beta {
            Some(beta) => beta,
            None => {
                unused.resize(self.gamma.len(), 0.0);
                &mut unused
            }
        };
        match more {
            Some(more) => rows::add_partials(partials, stride, &mut [self.gamma, beta, more]),
            None => rows::add_partials(partials, stride, &mut [self.gamma, beta]),
        }
    }
}

/// Computes out = LN(residual + dropout(y + bias)), all \[rows, width\].
///
/// Replaces `y`, the result of a matrix product, by the normalised rows before gamma and beta. These and
/// `rstd` \[rows\] (1 / standard deviation) are all that [`add_layer_norm_backward`] needs. Variances
/// are computed in a second pass over the row, as sums of squared differences.
///
/// # Panics
/// If the lengths do not fit together.
pub fn add_layer_norm(
    norm: &LayerNorm<'_>,
    y: &mut [f32],
    bias: Option<&[f32]>,
    dropout: &Dropout<'_>,
    residual: &[f32],
    rstd: &mut [f32],
    out: &mut [f32],
) {
    let _timer = time(Part::Norm);
    let width = check(norm, rstd.len(), y.len());
    assert_eq!(residual.len(), y.len(), "residual");
    assert_eq!(out.len(), y.len(), "out");
    if let Some(bias) = bias {
        assert_eq!(bias.len(), width, "bias");
    }
    let rows = rows::block(rstd.len());
    y.par_chunks_mut(rows * width)
        .zip(residual.par_chunks(rows * width))
        .zip(out.par_chunks_mut(rows * width))
        .zip(rstd.par_chunks_mut(rows))
        .enumerate()
        .for_each(|(block, (((y, residual), out), rstd))| {
            forward_block(norm, bias, dropout, block * rows, y, residual, rstd, out);
        });
}

/// Backward pass of [`add_layer_norm`].
///
/// Replaces `d`, the gradient of `out`, by the gradient of `residual`. `d_more`, the gradient that reaches
/// `out` by a second path, is added while `d` is read. With n = `normalised` and
/// g = (d + d_more) gamma:
///
/// d_residual = rstd (g - mean(g) - n mean(g n)), d_y = dropout(d_residual),
/// and the sums over rows d_bias += d_y, d_gamma += (d + d_more) n, d_beta += d + d_more, where they are wanted: all
/// of them, the norm's alone, or none.
///
/// # Panics
/// If the lengths do not fit together.
#[expect(clippy::too_many_arguments, reason = "each is a tensor of the formula")]
pub fn add_layer_norm_backward(
    gamma: &[f32],
    normalised: &[f32],
    rstd: &[f32],
    dropout: &Dropout<'_>,
    d: &mut [f32],
    d_more: Option<&[f32]>,
    d_y: &mut [f32],
    d_bias: Option<&mut [f32]>,
    grad: Option<LayerNormGrad<'_>>,
    scratch: &mut Scratch,
) {
    let _timer = time(Part::Norm);
    let width = check_rows(gamma, rstd.len(), d.len());
    assert_eq!(normalised.len(), d.len(), "normalised");
    assert_eq!(d_y.len(), d.len(), "d_y");
    LayerNormGrad::check(grad.as_ref(), width);
    if let Some(more) = d_more {
        assert_eq!(more.len(), d.len(), "d_more");
    }
    let rows = rows::block(rstd.len());
    let partials = scratch.take(rstd.len().div_ceil(rows) * 3 * width);
    d.par_chunks_mut(rows * width)
        .zip(d_y.par_chunks_mut(rows * width))
        .zip(normalised.par_chunks(rows * width))
        .zip(rstd.par_chunks(rows))
        .zip(partials.par_chunks_mut(3 * width))
        .enumerate()
        .for_each(|(block, ((((d, d_y), normalised), rstd), partial))| {
            let first = block * rows;
            let more = d_more.map(|more| &more[first * width..][..d.len()]);
            backward_block(
                gamma, normalised, rstd, dropout, first, d, more, d_y, partial,
            );
        });
    if let Some(d_bias) = &d_bias {
        assert_eq!(d_bias.len(), width, "d_bias");
        assert!(grad.is_some(), "a bias is trained with its norm");
    }
    if let Some(grad) = grad {
        grad.add(partials, 3 * width, d_bias);
    }
}

/// Computes out = LN(x), all \[rows, width\]. `normalised` and `rstd` \[rows\] receive what [`layer_norm_backward`] needs.
///
/// # Panics
/// If the lengths do not fit together.
pub fn layer_norm(
    norm: &LayerNorm<'_>,
    x: &[f32],
    normalised: &mut [f32],
    rstd: &mut [f32],
    out: &mut [f32],
) {
    let _timer = time(Part::Norm);
    let width = check(norm, rstd.len(), x.len());
    assert_eq!(normalised.len(), x.len(), "normalised");
    assert_eq!(out.len(), x.len(), "out");
    let rows = rows::block(rstd.len());
    normalised
        .par_chunks_mut(rows * width)
        .zip(x.par_chunks(rows * width))
        .zip(out.par_chunks_mut(rows * width))
        .zip(rstd.par_chunks_mut(rows))
        .for_each(|(((normalised, x), out), rstd)| alone_block(norm, x, normalised, rstd, out));
}

/// The backward pass of [`layer_norm`], given the gradient `d_out` of its output: adds that of `x` to `d_x`, and those of
/// the parameters to `grad` where they are wanted.
///
/// # Panics
/// If the lengths do not fit together.
pub fn layer_norm_backward(
    gamma: &[f32],
    normalised: &[f32],
    rstd: &[f32],
    d_out: &[f32],
    d_x: &mut [f32],
    grad: Option<LayerNormGrad<'_>>,
    scratch: &mut Scratch,
) {
    let _timer = time(Part::Norm);
    let width = check_rows(gamma, rstd.len(), d_x.len());
    assert_eq!(normalised.len(), d_x.len(), "normalised");
    assert_eq!(d_out.len(), d_x.len(), "d_out");
    LayerNormGrad::check(grad.as_ref(), width);
    let rows = rows::block(rstd.len());
    let partials = scratch.take(rstd.len().div_ceil(rows) * 2 * width);
    d_x.par_chunks_mut(rows * width)
        .zip(d_out.par_chunks(rows * width))
        .zip(normalised.par_chunks(rows * width))
        .zip(rstd.par_chunks(rows))
        .zip(partials.par_chunks_mut(2 * width))
        .for_each(|((((d_x, d_out), normalised), rstd), partial)| {
            alone_backward_block(gamma, normalised, rstd, d_out, d_x, partial);
        });
    if let Some(grad) = grad {
        grad.add(partials, 2 * width, None);
    }
}

/// Computes out = residual + dropout(y), all \[rows, width\].
///
/// # Panics
/// If the lengths do not fit together.
pub fn add_residual(
    y: &[f32],
    width: usize,
    dropout: &Dropout<'_>,
    residual: &[f32],
    out: &mut [f32],
) {
    let _timer = time(Part::Norm);
    assert!(width > 0 && y.len().is_multiple_of(width), "rows");
    assert_eq!(residual.len(), y.len(), "residual");
    assert_eq!(out.len(), y.len(), "out");
    let rows = rows::block(y.len() / width);
    out.par_chunks_mut(rows * width)
        .zip(y.par_chunks(rows * width))
        .zip(residual.par_chunks(rows * width))
        .enumerate()
        .for_each(|(block, ((out, y), residual))| {
            residual_block(width, dropout, block * rows, y, residual, out);
        });
}

/// Returns the width, after checking the lengths that all functions here have in common.
pub(crate) fn check(norm: &LayerNorm<'_>, rows: usize, len: usize) -> usize {
    if let Some(beta) = norm.beta {
        assert_eq!(beta.len(), norm.gamma.len(), "beta");
    }
    check_rows(norm.gamma, rows, len)
}

/// As [`check`], for the scale alone.
pub(crate) fn check_rows(gamma: &[f32], rows: usize, len: usize) -> usize {
    let width = gamma.len();
    assert!(width > 0, "a layer norm has no width");
    assert_eq!(rows * width, len, "values of {rows} rows of {width}");
    width
}

simd_fn!(fn forward_block(
    norm: &LayerNorm<'_>, bias: Option<&[f32]>, dropout: &Dropout<'_>, first: usize,
    y: &mut [f32], residual: &[f32], rstd: &mut [f32], out: &mut [f32],
) = forward_body);

#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "each is a tensor of the formula")]
fn forward_body<S: Simd>(
    s: S,
    norm: &LayerNorm<'_>,
    bias: Option<&[f32]>,
    dropout: &Dropout<'_>,
    first: usize,
    y: &mut [f32],
    residual: &[f32],
    rstd: &mut [f32],
    out: &mut [f32],
) {
    let width = norm.gamma.len();
    for (r, rstd) in rstd.iter_mut().enumerate() {
        let y = &mut y[r * width..][..width];
        let residual = &residual[r * width..][..width];
        let out = &mut out[r * width..][..width];
        let mut mask = Mask::new(s, dropout, first + r);
        let mut sum = s.zero();
        let mut i = 0;
        while i < width {
            let mut v = s.ld(y, i);
            if let Some(bias) = bias {
                v = s.add(v, s.ld(bias, i));
            }
            v = s.add(mask.apply(s, i, v), s.ld(residual, i));
            sum = s.add(sum, v);
            s.st(y, i, v);
            i += LANES;
        }
        *rstd = normalise_row(s, norm, sum, y, &mut Mask::new(s, &Dropout::NONE, 0), out);
    }
}

/// Normalises `x` in place and writes dropout(x gamma + beta); returns 1 / standard deviation.
/// `sum` holds partial sums of the row in its lanes.
#[inline(always)]
pub(crate) fn normalise_row<S: Simd>(
    s: S,
    norm: &LayerNorm<'_>,
    sum: S::F,
    x: &mut [f32],
    mask: &mut Mask<S>,
    out: &mut [f32],
) -> f32 {
    let width = x.len();
    let mean = s.splat(s.sum(sum) / width as f32);
    let mut squares = s.zero();
    let mut i = 0;
    while i < width {
        let v = s.sub(s.ld(x, i), mean);
        // Lanes beyond the row hold zero minus the mean.
        let v = if width - i < LANES {
            s.first(v, width - i, s.zero())
        } else {
            v
        };
        squares = s.fma(v, v, squares);
        i += LANES;
    }
    let rstd = 1.0 / (s.sum(squares) / width as f32 + norm.eps).sqrt();
    let scale = s.splat(rstd);
    let mut i = 0;
    while i < width {
        let v = s.mul(s.sub(s.ld(x, i), mean), scale);
        s.st(x, i, v);
        let shift = match norm.beta {
            Some(beta) => s.ld(beta, i),
            None => s.zero(),
        };
        let v = s.fma(v, s.ld(norm.gamma, i), shift);
        s.st(out, i, mask.apply(s, i, v));
        i += LANES;
    }
    rstd
}

simd_fn!(fn alone_block(
    norm: &LayerNorm<'_>, x: &[f32], normalised: &mut [f32], rstd: &mut [f32], out: &mut [f32],
) = alone_body);

#[inline(always)]
fn alone_body<S: Simd>(
    s: S,
    norm: &LayerNorm<'_>,
    x: &[f32],
    normalised: &mut [f32],
    rstd: &mut [f32],
    out: &mut [f32],
) {
    let width = norm.gamma.len();
    for (r, rstd) in rstd.iter_mut().enumerate() {
        let x = &x[r * width..][..width];
        let row = &mut normalised[r * width..][..width];
        let mut sum = s.zero();
        let mut i = 0;
        while i < width {
            let v = s.ld(x, i);
            sum = s.add(sum, v);
            s.st(row, i, v);
            i += LANES;
        }
        let mut mask = Mask::new(s, &Dropout::NONE, 0);
        let out = &mut out[r * width..][..width];
        *rstd = normalise_row(s, norm, sum, row, &mut mask, out);
    }
}

simd_fn!(fn alone_backward_block(
    gamma: &[f32], normalised: &[f32], rstd: &[f32], d_out: &[f32], d_x: &mut [f32],
    partial: &mut [f32],
) = alone_backward_body);

#[inline(always)]
fn alone_backward_body<S: Simd>(
    s: S,
    gamma: &[f32],
    normalised: &[f32],
    rstd: &[f32],
    d_out: &[f32],
    d_x: &mut [f32],
    partial: &mut [f32],
) {
    let width = gamma.len();
    partial.fill(0.0);
    for (r, &rstd) in rstd.iter().enumerate() {
        let row = r * width..(r + 1) * width;
        let (d, n) = (&d_out[row.clone()], &normalised[row.clone()]);
        let (mean, mean_n) = backward_sums(s, gamma, n, d, partial);
        let (d_x, scale) = (&mut d_x[row], s.splat(rstd));
        let mut i = 0;
        while i < width {
            let v = backward_value(s, gamma, n, d, i, mean, mean_n, scale);
            let v = s.add(s.ld(d_x, i), v);
            s.st(d_x, i, v);
            i += LANES;
        }
    }
}

simd_fn!(fn residual_block(
    width: usize, dropout: &Dropout<'_>, first: usize, y: &[f32], residual: &[f32], out: &mut [f32],
) = residual_body);

#[inline(always)]
fn residual_body<S: Simd>(
    s: S,
    width: usize,
    dropout: &Dropout<'_>,
    first: usize,
    y: &[f32],
    residual: &[f32],
    out: &mut [f32],
) {
    for (r, out) in out.chunks_exact_mut(width).enumerate() {
        let (y, residual) = (&y[r * width..][..width], &residual[r * width..][..width]);
        let mut mask = Mask::new(s, dropout, first + r);
        let mut i = 0;
        while i < width {
            let v = s.add(mask.apply(s, i, s.ld(y, i)), s.ld(residual, i));
            s.st(out, i, v);
            i += LANES;
        }
    }
}

simd_fn!(fn backward_block(
    gamma: &[f32], normalised: &[f32], rstd: &[f32], dropout: &Dropout<'_>, first: usize,
    d: &mut [f32], more: Option<&[f32]>, d_y: &mut [f32], partial: &mut [f32],
) = backward_body);

#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "each is a tensor of the formula")]
fn backward_body<S: Simd>(
    s: S,
    gamma: &[f32],
    normalised: &[f32],
    rstd: &[f32],
    dropout: &Dropout<'_>,
    first: usize,
    d: &mut [f32],
    more: Option<&[f32]>,
    d_y: &mut [f32],
    partial: &mut [f32],
) {
    let width = gamma.len();
    partial.fill(0.0);
    let (d_norm, d_bias) = partial.split_at_mut(2 * width);
    for (r, &rstd) in rstd.iter().enumerate() {
        let row = r * width..(r + 1) * width;
        let d = &mut d[row.clone()];
        let n = &normalised[row.clone()];
        if let Some(more) = more {
            let more = &more[row.clone()];
            let mut i = 0;
            while i < width {
                let v = s.add(s.ld(d, i), s.ld(more, i));
                s.st(d, i, v);
                i += LANES;
            }
        }
        let (mean, mean_n) = backward_sums(s, gamma, n, d, d_norm);
        let d_y = &mut d_y[row];
        let mut mask = Mask::new(s, dropout, first + r);
        let scale = s.splat(rstd);
        let mut i = 0;
        while i < width {
            let v = backward_value(s, gamma, n, d, i, mean, mean_n, scale);
            s.st(d, i, v);
            let v = mask.apply(s, i, v);
            s.st(d_y, i, v);
            let b = s.add(s.ld(d_bias, i), v);
            s.st(d_bias, i, b);
            i += LANES;
        }
    }
}

/// Returns the means of d gamma and d gamma n over a row, and adds d n and d to `d_norm`, both \[width\].
#[inline(always)]
pub(crate) fn backward_sums<S: Simd>(
    s: S,
    gamma: &[f32],
    n: &[f32],
    d: &[f32],
    d_norm: &mut [f32],
) -> (S::F, S::F) {
    let width = d.len();
    let (d_gamma, d_beta) = d_norm.split_at_mut(width);
    let (mut sum, mut sum_n) = (s.zero(), s.zero());
    let mut i = 0;
    while i < width {
        let (v, n) = (s.ld(d, i), s.ld(n, i));
        let g = s.fma(v, n, s.ld(d_gamma, i));
        s.st(d_gamma, i, g);
        let b = s.add(v, s.ld(d_beta, i));
        s.st(d_beta, i, b);
        let v = s.mul(v, s.ld(gamma, i));
        sum = s.add(sum, v);
        sum_n = s.fma(v, n, sum_n);
        i += LANES;
    }
    (
        s.splat(s.sum(sum) / width as f32),
        s.splat(s.sum(sum_n) / width as f32),
    )
}

/// Computes rstd (d gamma - mean - n mean_n) for lanes `i..i + 16`.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "each is a tensor of the formula")]
pub(crate) fn backward_value<S: Simd>(
    s: S,
    gamma: &[f32],
    n: &[f32],
    d: &[f32],
    i: usize,
    mean: S::F,
    mean_n: S::F,
    rstd: S::F,
) -> S::F {
    let v = s.sub(s.mul(s.ld(d, i), s.ld(gamma, i)), mean);
    s.mul(rstd, s.sub(v, s.mul(s.ld(n, i), mean_n)))
}

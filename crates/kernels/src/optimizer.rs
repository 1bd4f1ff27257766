//! Clipping and AdamW in one pass over flat buffers.

use rayon::prelude::*;

use crate::{
    profile::{Part, time},
    simd::{LANES, Simd, simd_fn},
};

/// One step of AdamW (Loshchilov and Hutter, 2019) with decoupled decay, in the order of
/// `torch.optim.AdamW`:
///
/// g = grad_scale grad; p = p (1 - lr weight_decay); m = m + (1 - beta1) (g - m);
/// v = beta2 v + (1 - beta2) g^2;
/// p = p - lr / (1 - beta1^step) m / (sqrt(v) / sqrt(1 - beta2^step) + eps).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the denominator.
    pub eps: f64,
    /// Weight decay, multiplied by the learning rate.
    pub weight_decay: f64,
    /// The number of this step, from 1.
    pub step: u64,
    /// Factor on the gradient: that of clipping ([`clip_scale`]), or 1.
    pub grad_scale: f64,
}

impl AdamW {
    /// Updates `params` and both moments in place, and leaves `grad` zeroed if `zero_grad`.
    ///
    /// Without decay, a weight with zero gradient and moments keeps its bits, such as the embedding of a word that
    /// no text has contained so far; runs of such weights are read but not written.
    ///
    /// # Panics
    /// If the lengths differ, or `step` is 0.
    pub fn update(
        &self,
        params: &mut [f32],
        grad: &mut [f32],
        m: &mut [f32],
        v: &mut [f32],
        zero_grad: bool,
    ) {
        let _timer = time(Part::Optimizer);
        assert!(self.step > 0, "steps count from 1");
        assert_eq!(grad.len(), params.len(), "grad");
        assert_eq!(m.len(), params.len(), "m");
        assert_eq!(v.len(), params.len(), "v");
        let step = self.step as f64;
        let bias1 = 1.0 - self.beta1.powf(step);
        let bias2 = 1.0 - self.beta2.powf(step);
        let factors = Factors {
            grad: self.grad_scale as f32,
            decay: (1.0 - self.lr * self.weight_decay) as f32,
            m: (1.0 - self.beta1) as f32,
            v_keep: self.beta2 as f32,
            v: (1.0 - self.beta2) as f32,
            root: bias2.sqrt() as f32,
            eps: self.eps as f32,
            rate: (self.lr / bias1) as f32,
        };
        params
            .par_chunks_mut(BLOCK)
            .zip(grad.par_chunks_mut(BLOCK))
            .zip(m.par_chunks_mut(BLOCK))
            .zip(v.par_chunks_mut(BLOCK))
            .for_each(|(((p, g), m), v)| {
                if !factors.keeps_untouched() {
                    return update_block(&factors, p, g, m, v, zero_grad);
                }
                let moments = m.chunks_mut(STRETCH).zip(v.chunks_mut(STRETCH));
                let weights = p.chunks_mut(STRETCH).zip(g.chunks_mut(STRETCH));
                for ((p, g), (m, v)) in weights.zip(moments) {
                    if !(is_positive_zero(m) && is_positive_zero(g) && is_positive_zero(v)) {
                        update_block(&factors, p, g, m, v, zero_grad);
                    }
                }
            });
    }
}

/// Sum of squares in f64, over fixed blocks added in order. It is finite exactly if every element is
/// finite: no sum of squares of finite f32 overflows an f64.
pub fn squared_norm(x: &[f32]) -> f64 {
    let _timer = time(Part::Optimizer);
    let partials: Vec<f64> = x.par_chunks(BLOCK).map(squares).collect();
    partials.iter().sum()
}

/// Factor that brings a gradient of norm `norm` to at most `max_norm`, as in
/// `torch.nn.utils.clip_grad_norm_`: min(1, max_norm / (norm + 1e-6)).
pub fn clip_scale(norm: f64, max_norm: f64) -> f64 {
    (max_norm / (norm + 1e-6)).min(1.0)
}

/// Number of values in a block: a quarter of a megabyte over the four buffers.
const BLOCK: usize = 16 * 1024;

/// Number of values that are checked together for whether they change: a row of a small model's word embeddings, or
/// part of a large model's row.
const STRETCH: usize = 256;

struct Factors {
    grad: f32,
    decay: f32,
    m: f32,
    v_keep: f32,
    v: f32,
    root: f32,
    eps: f32,
    rate: f32,
}

impl Factors {
    /// Whether a weight with zero gradient and moments keeps its bits: p 1 - rate 0 / (0 + eps).
    fn keeps_untouched(&self) -> bool {
        self.decay == 1.0 && self.eps > 0.0 && self.grad.is_finite() && self.rate.is_finite()
    }
}

/// Whether all bits are zero. A negative zero does not count, since the update would make it positive.
fn is_positive_zero(x: &[f32]) -> bool {
    x.iter().fold(0, |bits, x| bits | x.to_bits()) == 0
}

simd_fn!(fn update_block(
    f: &Factors, p: &mut [f32], g: &mut [f32], m: &mut [f32], v: &mut [f32], zero: bool,
) = update_body);

#[inline(always)]
fn update_body<S: Simd>(
    s: S,
    f: &Factors,
    p: &mut [f32],
    g: &mut [f32],
    m: &mut [f32],
    v: &mut [f32],
    zero: bool,
) {
    let root = s.splat(1.0 / f.root);
    let mut i = 0;
    while i < p.len() {
        let grad = s.mul(s.ld(g, i), s.splat(f.grad));
        let first = s.ld(m, i);
        let first = s.fma(s.splat(f.m), s.sub(grad, first), first);
        let second = s.mul(s.ld(v, i), s.splat(f.v_keep));
        let second = s.fma(s.mul(grad, grad), s.splat(f.v), second);
        let denominator = s.fma(s.sqrt(second), root, s.splat(f.eps));
        let decayed = s.mul(s.ld(p, i), s.splat(f.decay));
        let change = s.mul(s.div(first, denominator), s.splat(f.rate));
        s.st(p, i, s.sub(decayed, change));
        s.st(m, i, first);
        s.st(v, i, second);
        if zero {
            s.st(g, i, s.zero());
        }
        i += LANES;
    }
}

simd_fn!(fn squares(x: &[f32]) -> f64 = squares_body);

#[inline(always)]
fn squares_body<S: Simd>(_: S, x: &[f32]) -> f64 {
    // Plain arrays: LLVM widens to f64 and vectorises, and the order of the sum is fixed.
    let mut sums = [0.0f64; 32];
    let (chunks, rest) = x.as_chunks::<32>();
    for chunk in chunks {
        for (sum, &x) in sums.iter_mut().zip(chunk) {
            *sum += f64::from(x) * f64::from(x);
        }
    }
    for (sum, &x) in sums.iter_mut().zip(rest) {
        *sum += f64::from(x) * f64::from(x);
    }
    sums.iter().sum()
}

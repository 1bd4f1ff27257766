//! Matrix products in 16 bits, from f32 and to f32.
//!
//! Operands are rounded while they are packed for the inner loop, so that callers keep f32 everywhere and
//! a product makes no more passes over memory than one in fp32. Which of the two formats is faster depends
//! on the processor: AVX512_BF16's dot product does twice the work of an fp32 FMA on AMD's
//! Zen 4 and 5 and half of it on Intel's server cores; AVX512-FP16, which Intel has since Sapphire
//! Rapids and AMD has not, does twice the work of fp32.
//!
//! - [`Bf16Gemm`] rounds to bf16 (8 bits of precision, the range of f32) and adds up in f32.
//! - [`Fp16Gemm`] rounds to fp16 (11 bits) and adds up in fp16, [`RUN`] products at a time; those sums
//!   go to f32. Because of fp16's narrow range, every panel of both matrices is scaled by a power of two
//!   that brings its largest value to between 8 and 16: then no sum overflows, and values smaller than
//!   2^-28 of their panel's largest value count as zero. The error of a sum is four fifths of that in
//!   bf16 (1.7e-3 of the root of the sum of squared products, against 2.1e-3), whatever the scale of
//!   the matrices: no loss scaling is needed.
//!
//! Tiles of C are computed whole, in an order that depends on the shape alone: the same bits on any
//! number of threads. A value that is not finite makes the values of C that depend on it not finite, and
//! no others.

use super::{Gemm, Kind, Shape};

/// Number of products that are added up in fp16 before their sum goes to f32: 128 times 16 times 16 stays
/// below the largest fp16, 65504.
pub const RUN: usize = 128;

/// Products of bf16 with sums in f32.
#[derive(Debug)]
pub struct Bf16Gemm(Packed);

/// Products of scaled fp16 with short sums in fp16 and long ones in f32.
#[derive(Debug)]
pub struct Fp16Gemm(Packed);

impl Bf16Gemm {
    /// Returns `None` if the processor lacks AVX512_BF16.
    pub fn new() -> Option<Self> {
        packed::has_bf16().then(|| Self(Packed::default()))
    }
}

impl Fp16Gemm {
    /// Returns `None` if the processor lacks AVX512-FP16.
    pub fn new() -> Option<Self> {
        packed::has_fp16().then(|| Self(Packed::default()))
    }
}

impl Gemm for Bf16Gemm {
    fn product(
        &self,
        kind: Kind,
        shape: Shape,
        alpha: f32,
        a: &[f32],
        b: &[f32],
        beta: f32,
        c: &mut [f32],
    ) {
        // SAFETY: `new` has checked the features.
        unsafe { packed::bf16(&self.0, kind, shape, alpha, a, b, beta, c) }
    }
}

impl Gemm for Fp16Gemm {
    fn product(
        &self,
        kind: Kind,
        shape: Shape,
        alpha: f32,
        a: &[f32],
        b: &[f32],
        beta: f32,
        c: &mut [f32],
    ) {
        // SAFETY: `new` has checked the features.
        unsafe { packed::fp16(&self.0, kind, shape, alpha, a, b, beta, c) }
    }
}

use packed::Packed;

#[cfg(target_arch = "x86_64")]
#[path = "half/x86.rs"]
mod packed;

/// Stand-in for processors that have neither format.
#[cfg(not(target_arch = "x86_64"))]
mod packed {
    use super::{Kind, Shape};

    #[derive(Debug, Default)]
    pub(super) struct Packed;

    pub(super) fn has_bf16() -> bool {
        false
    }

    pub(super) fn has_fp16() -> bool {
        false
    }

    #[expect(clippy::too_many_arguments, reason = "the arguments of a GEMM")]
    pub(super) unsafe fn bf16(
        _: &Packed,
        _: Kind,
        _: Shape,
        _: f32,
        _: &[f32],
        _: &[f32],
        _: f32,
        _: &mut [f32],
    ) {
        unreachable!("`Bf16Gemm::new` gave none")
    }

    #[expect(clippy::too_many_arguments, reason = "the arguments of a GEMM")]
    pub(super) unsafe fn fp16(
        _: &Packed,
        _: Kind,
        _: Shape,
        _: f32,
        _: &[f32],
        _: &[f32],
        _: f32,
        _: &mut [f32],
    ) {
        unreachable!("`Fp16Gemm::new` gave none")
    }
}

//! Conversion of slices between f32 and bf16, the latter as bits.

use rayon::prelude::*;

use crate::simd::{Simd, simd_fn};

/// Rounds to the nearest bf16, ties to even; NaN stays NaN (quiet), overflow goes to infinity.
///
/// # Panics
/// If the lengths differ.
pub fn from_f32(x: &[f32], out: &mut [u16]) {
    assert_eq!(out.len(), x.len(), "out");
    out.par_chunks_mut(BLOCK)
        .zip(x.par_chunks(BLOCK))
        .for_each(|(out, x)| narrow(x, out));
}

/// Widens bf16 to f32, exactly.
///
/// # Panics
/// If the lengths differ.
pub fn to_f32(x: &[u16], out: &mut [f32]) {
    assert_eq!(out.len(), x.len(), "out");
    out.par_chunks_mut(BLOCK)
        .zip(x.par_chunks(BLOCK))
        .for_each(|(out, x)| widen(x, out));
}

/// Values of a block.
const BLOCK: usize = 64 * 1024;

simd_fn!(fn narrow(x: &[f32], out: &mut [u16]) = narrow_body);

#[inline(always)]
fn narrow_body<S: Simd>(_: S, x: &[f32], out: &mut [u16]) {
    for (out, &x) in out.iter_mut().zip(x) {
        let bits = x.to_bits();
        // Half of a unit in the last kept place, minus one if that place is even.
        let rounded = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1));
        // A NaN keeps its upper bits and becomes quiet; rounding could carry it into infinity.
        let nan = bits & 0x7FFF_FFFF > 0x7F80_0000;
        *out = ((if nan { bits | 0x0040_0000 } else { rounded }) >> 16) as u16;
    }
}

simd_fn!(fn widen(x: &[u16], out: &mut [f32]) = widen_body);

#[inline(always)]
fn widen_body<S: Simd>(_: S, x: &[u16], out: &mut [f32]) {
    for (out, &x) in out.iter_mut().zip(x) {
        *out = f32::from_bits(u32::from(x) << 16);
    }
}

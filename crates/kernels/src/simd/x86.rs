//! Vectors of sixteen lanes: one register with AVX-512, two with AVX2.

use std::arch::x86_64::*;

use super::{LANES, Simd};

/// Proof of AVX-512 F, BW, DQ and VL.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// # Safety
    /// The processor must have the features that [`super::level`] asks for.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Self {
        Self(())
    }
}

/// Proof of AVX2 and FMA.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// # Safety
    /// The processor must have the features that [`super::level`] asks for.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Self {
        Self(())
    }
}

/// Calls one instruction: `self` proves that the processor has it, and its pointers come from references
/// to whole arrays.
macro_rules! op {
    ($e:expr) => {
        // SAFETY: the token in scope proves the feature; loads and stores go through references
        // to arrays of exactly the width of the access, or through a mask of a slice's length.
        unsafe { $e }
    };
}

impl Simd for Avx512 {
    type F = __m512;
    type U = __m512i;

    const VECTORS: usize = 32;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        op!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> __m512 {
        op!(_mm512_loadu_ps(x.as_ptr()))
    }
    #[inline(always)]
    fn store(self, x: &mut [f32; LANES], v: __m512) {
        op!(_mm512_storeu_ps(x.as_mut_ptr(), v))
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn sqrt(self, a: __m512) -> __m512 {
        op!(_mm512_sqrt_ps(a))
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        op!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn round(self, a: __m512) -> __m512i {
        op!(_mm512_cvtps_epi32(a))
    }
    #[inline(always)]
    fn float(self, a: __m512i) -> __m512 {
        op!(_mm512_castsi512_ps(a))
    }
    #[inline(always)]
    fn by_sign(self, sign: __m512, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_mask_blend_ps(
            _mm512_movepi32_mask(_mm512_castps_si512(sign)),
            b,
            a
        ))
    }
    #[inline(always)]
    fn where_ge(self, a: __m512i, b: __m512i, v: __m512) -> __m512 {
        op!(_mm512_maskz_mov_ps(_mm512_cmpge_epu32_mask(a, b), v))
    }
    #[inline(always)]
    fn first(self, v: __m512, n: usize, fill: __m512) -> __m512 {
        op!(_mm512_mask_blend_ps(low_mask(n), fill, v))
    }
    #[inline(always)]
    fn usplat(self, x: u32) -> __m512i {
        op!(_mm512_set1_epi32(x.cast_signed()))
    }
    #[inline(always)]
    fn uload(self, x: &[u32; LANES]) -> __m512i {
        op!(_mm512_loadu_epi32(x.as_ptr().cast()))
    }
    #[inline(always)]
    fn uadd(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_add_epi32(a, b))
    }
    #[inline(always)]
    fn uxor(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_xor_si512(a, b))
    }
    #[inline(always)]
    fn shl23(self, a: __m512i) -> __m512i {
        op!(_mm512_slli_epi32::<23>(a))
    }
    #[inline(always)]
    fn mul_even(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_mul_epu32(a, b))
    }
    #[inline(always)]
    fn odd_to_even(self, a: __m512i) -> __m512i {
        op!(_mm512_shuffle_epi32::<0b11_11_01_01>(a))
    }
    #[inline(always)]
    fn zip_even(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_mask_shuffle_epi32::<0b10_10_00_00>(a, 0xAAAA, b))
    }
    #[inline(always)]
    fn sum(self, v: __m512) -> f32 {
        // The same order as the default: halves of 8, then of 4, then of 2.
        op!({
            let h = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
            let q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps::<1>(h));
            let p = _mm_add_ps(q, _mm_movehl_ps(q, q));
            _mm_cvtss_f32(_mm_add_ss(p, _mm_movehdup_ps(p)))
        })
    }
    #[inline(always)]
    fn largest(self, v: __m512) -> f32 {
        op!(_mm512_reduce_max_ps(v))
    }
    #[inline(always)]
    fn transpose(self, rows: [__m512; LANES]) -> [__m512; LANES] {
        let mut t = rows;
        for i in (0..LANES).step_by(2) {
            t[i] = op!(_mm512_unpacklo_ps(rows[i], rows[i + 1]));
            t[i + 1] = op!(_mm512_unpackhi_ps(rows[i], rows[i + 1]));
        }
        let mut r = t;
        for i in (0..LANES).step_by(4) {
            for half in 0..2 {
                op!({
                    let a = _mm512_castps_pd(t[i + half]);
                    let b = _mm512_castps_pd(t[i + half + 2]);
                    r[i + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
                    r[i + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
                });
            }
        }
        // Part l of vector 4 g + c now holds column 4 l + c of rows 4 g .. 4 g + 3.
        let mut out = r;
        for c in 0..4 {
            op!({
                let even = _mm512_shuffle_f32x4::<0x88>(r[c], r[4 + c]);
                let odd = _mm512_shuffle_f32x4::<0xDD>(r[c], r[4 + c]);
                let even_below = _mm512_shuffle_f32x4::<0x88>(r[8 + c], r[12 + c]);
                let odd_below = _mm512_shuffle_f32x4::<0xDD>(r[8 + c], r[12 + c]);
                out[c] = _mm512_shuffle_f32x4::<0x88>(even, even_below);
                out[4 + c] = _mm512_shuffle_f32x4::<0x88>(odd, odd_below);
                out[8 + c] = _mm512_shuffle_f32x4::<0xDD>(even, even_below);
                out[12 + c] = _mm512_shuffle_f32x4::<0xDD>(odd, odd_below);
            });
        }
        out
    }
    #[inline(always)]
    fn ld_part(self, x: &[f32]) -> __m512 {
        op!(_mm512_maskz_loadu_ps(low_mask(x.len()), x.as_ptr()))
    }
    #[inline(always)]
    fn st_part(self, x: &mut [f32], v: __m512) {
        op!(_mm512_mask_storeu_ps(x.as_mut_ptr(), low_mask(x.len()), v))
    }
}

/// Mask of the `n` lowest of 16 bits.
#[inline(always)]
fn low_mask(n: usize) -> u16 {
    if n >= LANES { u16::MAX } else { (1 << n) - 1 }
}

/// Vector of two registers of eight lanes.
macro_rules! two {
    ($f:ident, $a:ident) => {
        op!([$f($a[0]), $f($a[1])])
    };
    ($f:ident, $a:ident, $b:ident) => {
        op!([$f($a[0], $b[0]), $f($a[1], $b[1])])
    };
    ($f:ident, $a:ident, $b:ident, $c:ident) => {
        op!([$f($a[0], $b[0], $c[0]), $f($a[1], $b[1], $c[1])])
    };
}

impl Simd for Avx2 {
    type F = [__m256; 2];
    type U = [__m256i; 2];

    const VECTORS: usize = 8;

    #[inline(always)]
    fn splat(self, x: f32) -> [__m256; 2] {
        op!([_mm256_set1_ps(x); 2])
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> [__m256; 2] {
        op!([
            _mm256_loadu_ps(x.as_ptr()),
            _mm256_loadu_ps(x[8..].as_ptr())
        ])
    }
    #[inline(always)]
    fn store(self, x: &mut [f32; LANES], v: [__m256; 2]) {
        op!({
            _mm256_storeu_ps(x.as_mut_ptr(), v[0]);
            _mm256_storeu_ps(x[8..].as_mut_ptr(), v[1]);
        })
    }
    #[inline(always)]
    fn add(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        two!(_mm256_add_ps, a, b)
    }
    #[inline(always)]
    fn sub(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        two!(_mm256_sub_ps, a, b)
    }
    #[inline(always)]
    fn mul(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        two!(_mm256_mul_ps, a, b)
    }
    #[inline(always)]
    fn div(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        two!(_mm256_div_ps, a, b)
    }
    #[inline(always)]
    fn sqrt(self, a: [__m256; 2]) -> [__m256; 2] {
        two!(_mm256_sqrt_ps, a)
    }
    #[inline(always)]
    fn max(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        two!(_mm256_max_ps, a, b)
    }
    #[inline(always)]
    fn min(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        two!(_mm256_min_ps, a, b)
    }
    #[inline(always)]
    fn fma(self, a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
        two!(_mm256_fmadd_ps, a, b, c)
    }
    #[inline(always)]
    fn round(self, a: [__m256; 2]) -> [__m256i; 2] {
        two!(_mm256_cvtps_epi32, a)
    }
    #[inline(always)]
    fn float(self, a: [__m256i; 2]) -> [__m256; 2] {
        two!(_mm256_castsi256_ps, a)
    }
    #[inline(always)]
    fn by_sign(self, sign: [__m256; 2], a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        two!(_mm256_blendv_ps, b, a, sign)
    }
    #[inline(always)]
    fn where_ge(self, a: [__m256i; 2], b: [__m256i; 2], v: [__m256; 2]) -> [__m256; 2] {
        // Unsigned a >= b is max(a, b) == a.
        let mut out = v;
        for i in 0..2 {
            out[i] = op!(_mm256_and_ps(
                v[i],
                _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_max_epu32(a[i], b[i]), a[i])),
            ));
        }
        out
    }
    #[inline(always)]
    fn first(self, v: [__m256; 2], n: usize, fill: [__m256; 2]) -> [__m256; 2] {
        // Lane i is kept when i - n is negative.
        let mut sign = [0.0; LANES];
        for (i, s) in sign.iter_mut().enumerate() {
            *s = if i < n { -1.0 } else { 1.0 };
        }
        self.by_sign(self.load(&sign), v, fill)
    }
    #[inline(always)]
    fn usplat(self, x: u32) -> [__m256i; 2] {
        op!([_mm256_set1_epi32(x.cast_signed()); 2])
    }
    #[inline(always)]
    fn uload(self, x: &[u32; LANES]) -> [__m256i; 2] {
        op!([
            _mm256_loadu_si256(x.as_ptr().cast()),
            _mm256_loadu_si256(x[8..].as_ptr().cast())
        ])
    }
    #[inline(always)]
    fn uadd(self, a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
        two!(_mm256_add_epi32, a, b)
    }
    #[inline(always)]
    fn uxor(self, a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
        two!(_mm256_xor_si256, a, b)
    }
    #[inline(always)]
    fn shl23(self, a: [__m256i; 2]) -> [__m256i; 2] {
        op!([_mm256_slli_epi32::<23>(a[0]), _mm256_slli_epi32::<23>(a[1])])
    }
    #[inline(always)]
    fn mul_even(self, a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
        two!(_mm256_mul_epu32, a, b)
    }
    #[inline(always)]
    fn odd_to_even(self, a: [__m256i; 2]) -> [__m256i; 2] {
        op!([
            _mm256_shuffle_epi32::<0b11_11_01_01>(a[0]),
            _mm256_shuffle_epi32::<0b11_11_01_01>(a[1])
        ])
    }
    #[inline(always)]
    fn zip_even(self, a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
        let mut out = a;
        for i in 0..2 {
            out[i] = op!(_mm256_blend_epi32::<0b1010_1010>(
                a[i],
                _mm256_shuffle_epi32::<0b10_10_00_00>(b[i])
            ));
        }
        out
    }
}

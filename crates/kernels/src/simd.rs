//! Sixteen lanes of f32 or u32, on whatever the processor has.
//!
//! Every kernel is written once, as an `#[inline(always)]` function over a [`Simd`], and compiled
//! three times by [`simd_fn!`]: with AVX-512 (one register per vector), with AVX2 and FMA (two),
//! and for any processor (an array that LLVM vectorises as it can). The lanes mean the same in all
//! three, so AVX2 and AVX-512 give the same bits; the portable one rounds `a * b` before it adds.

use std::arch::x86_64::*;
use std::sync::OnceLock;

/// Lanes of a vector.
pub(crate) const LANES: usize = 16;

/// What the processor offers, found out once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Avx512,
    Avx2,
    Portable,
}

/// The best level this processor has.
pub(crate) fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(|| {
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
        {
            Level::Avx512
        } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            Level::Avx2
        } else {
            Level::Portable
        }
    })
}

/// Compiles `$body::<S>(s, args..)` for each level under the name `$name`, which picks at run time.
/// `[N]` after the name makes it generic over `const N: usize`.
macro_rules! simd_fn {
    ($vis:vis fn $name:ident $([$n:ident])? ($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $body:ident) => {
        #[allow(clippy::too_many_arguments, reason = "the body's arguments")]
        $vis fn $name $(<const $n: usize>)? ($($arg: $ty),*) $(-> $ret)? {
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            fn avx512 $(<const $n: usize>)? ($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: this function is only called on processors with the features above.
                let s = unsafe { $crate::simd::Avx512::new() };
                $body::<_ $(, $n)?>(s, $($arg),*)
            }
            #[target_feature(enable = "avx2,fma")]
            fn avx2 $(<const $n: usize>)? ($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: this function is only called on processors with the features above.
                let s = unsafe { $crate::simd::Avx2::new() };
                $body::<_ $(, $n)?>(s, $($arg),*)
            }
            match $crate::simd::level() {
                // SAFETY: `level` has seen every feature that `avx512` enables.
                $crate::simd::Level::Avx512 => unsafe { avx512 $(::<$n>)? ($($arg),*) },
                // SAFETY: `level` has seen every feature that `avx2` enables.
                $crate::simd::Level::Avx2 => unsafe { avx2 $(::<$n>)? ($($arg),*) },
                $crate::simd::Level::Portable => $body::<_ $(, $n)?>($crate::simd::Portable, $($arg),*),
            }
        }
    };
}
pub(crate) use simd_fn;

/// Sixteen lanes. `F` holds f32, `U` holds u32. The methods are the processor's instructions, and
/// the type is the proof that it has them.
pub(crate) trait Simd: Copy {
    type F: Copy;
    type U: Copy;

    fn splat(self, x: f32) -> Self::F;
    fn load(self, x: &[f32; LANES]) -> Self::F;
    fn store(self, x: &mut [f32; LANES], v: Self::F);
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    fn sqrt(self, a: Self::F) -> Self::F;
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// a * b + c.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The nearest integer, ties to even, as the bits of an i32.
    fn round(self, a: Self::F) -> Self::U;
    fn float(self, a: Self::U) -> Self::F;
    /// The lanes of `a` where the sign bit of `sign` is set, else those of `b`.
    fn by_sign(self, sign: Self::F, a: Self::F, b: Self::F) -> Self::F;
    /// `v` where `a >= b` as unsigned integers, else zero.
    fn where_ge(self, a: Self::U, b: Self::U, v: Self::F) -> Self::F;
    /// The first `n` lanes of `v`, the rest from `fill`.
    fn first(self, v: Self::F, n: usize, fill: Self::F) -> Self::F;

    fn usplat(self, x: u32) -> Self::U;
    fn uload(self, x: &[u32; LANES]) -> Self::U;
    fn uadd(self, a: Self::U, b: Self::U) -> Self::U;
    fn uxor(self, a: Self::U, b: Self::U) -> Self::U;
    fn shl23(self, a: Self::U) -> Self::U;
    /// The 64-bit products of the even lanes, low half in the even lane, high half in the odd one.
    fn mul_even(self, a: Self::U, b: Self::U) -> Self::U;
    /// Each odd lane, copied to the even lane before it.
    fn odd_to_even(self, a: Self::U) -> Self::U;
    /// Even lanes from the even lanes of `a`, odd lanes from the even lanes of `b`.
    fn zip_even(self, a: Self::U, b: Self::U) -> Self::U;

    #[inline(always)]
    fn zero(self) -> Self::F {
        self.splat(0.0)
    }

    #[inline(always)]
    fn to_array(self, v: Self::F) -> [f32; LANES] {
        let mut x = [0.0; LANES];
        self.store(&mut x, v);
        x
    }

    /// Sum of the lanes, by halves, so that every level adds in the same order.
    #[inline(always)]
    fn sum(self, v: Self::F) -> f32 {
        let x = self.to_array(v);
        let mut h = [0.0f32; 8];
        for i in 0..8 {
            h[i] = x[i] + x[i + 8];
        }
        ((h[0] + h[4]) + (h[2] + h[6])) + ((h[1] + h[5]) + (h[3] + h[7]))
    }

    #[inline(always)]
    fn largest(self, v: Self::F) -> f32 {
        let x = self.to_array(v);
        let mut h = [0.0f32; 8];
        for i in 0..8 {
            h[i] = if x[i] > x[i + 8] { x[i] } else { x[i + 8] };
        }
        let mut m = h[0];
        for x in h {
            m = if x > m { x } else { m };
        }
        m
    }

    /// The transpose of a square of sixteen vectors.
    #[inline(always)]
    fn transpose(self, rows: [Self::F; LANES]) -> [Self::F; LANES] {
        let mut columns = [[0.0; LANES]; LANES];
        for (r, &row) in rows.iter().enumerate() {
            let row = self.to_array(row);
            for c in 0..LANES {
                columns[c][r] = row[c];
            }
        }
        let mut out = rows;
        for (out, column) in out.iter_mut().zip(&columns) {
            *out = self.load(column);
        }
        out
    }

    /// Lanes `i..i + 16` of `x`; what lies beyond its end is zero.
    #[inline(always)]
    fn ld(self, x: &[f32], i: usize) -> Self::F {
        let x = &x[i..];
        match x.first_chunk::<LANES>() {
            Some(x) => self.load(x),
            None => self.ld_part(x),
        }
    }

    /// Writes lanes `i..i + 16` of `x`; what lies beyond its end is dropped.
    #[inline(always)]
    fn st(self, x: &mut [f32], i: usize, v: Self::F) {
        let x = &mut x[i..];
        match x.first_chunk_mut::<LANES>() {
            Some(x) => self.store(x, v),
            None => self.st_part(x, v),
        }
    }

    #[inline(always)]
    fn ld_part(self, x: &[f32]) -> Self::F {
        let mut full = [0.0; LANES];
        for (f, &x) in full.iter_mut().zip(x) {
            *f = x;
        }
        self.load(&full)
    }

    #[inline(always)]
    fn st_part(self, x: &mut [f32], v: Self::F) {
        let full = self.to_array(v);
        for (x, &f) in x.iter_mut().zip(&full) {
            *x = f;
        }
    }
}

/// Proof of AVX-512 F, BW, DQ and VL.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// # Safety
    /// The processor must have the features that [`level`] asks for.
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
    /// The processor must have the features that [`level`] asks for.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Self {
        Self(())
    }
}

/// No proof needed.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

/// One instruction: `self` proves that the processor has it, and the pointers it takes come from
/// references to whole arrays.
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

/// The `n` lowest of 16 bits.
#[inline(always)]
fn low_mask(n: usize) -> u16 {
    if n >= LANES { u16::MAX } else { (1 << n) - 1 }
}

/// Two registers of eight lanes.
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

/// Lane by lane over arrays.
macro_rules! lanes {
    ($i:ident => $e:expr) => {{
        let mut out = [Default::default(); LANES];
        for ($i, o) in out.iter_mut().enumerate() {
            *o = $e;
        }
        out
    }};
}

impl Simd for Portable {
    type F = [f32; LANES];
    type U = [u32; LANES];

    #[inline(always)]
    fn splat(self, x: f32) -> [f32; LANES] {
        [x; LANES]
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> [f32; LANES] {
        *x
    }
    #[inline(always)]
    fn store(self, x: &mut [f32; LANES], v: [f32; LANES]) {
        *x = v;
    }
    #[inline(always)]
    fn add(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        lanes!(i => a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        lanes!(i => a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        lanes!(i => a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        lanes!(i => a[i] / b[i])
    }
    #[inline(always)]
    fn sqrt(self, a: [f32; LANES]) -> [f32; LANES] {
        lanes!(i => a[i].sqrt())
    }
    #[inline(always)]
    fn max(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        lanes!(i => if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn min(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        lanes!(i => if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn fma(self, a: [f32; LANES], b: [f32; LANES], c: [f32; LANES]) -> [f32; LANES] {
        lanes!(i => a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn round(self, a: [f32; LANES]) -> [u32; LANES] {
        // Adding 1.5 * 2^23 leaves the rounded integer in the low bits of the mantissa.
        const MAGIC: f32 = 12_582_912.0;
        lanes!(i => (a[i] + MAGIC).to_bits().wrapping_sub(MAGIC.to_bits()))
    }
    #[inline(always)]
    fn float(self, a: [u32; LANES]) -> [f32; LANES] {
        lanes!(i => f32::from_bits(a[i]))
    }
    #[inline(always)]
    fn by_sign(self, sign: [f32; LANES], a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        lanes!(i => if sign[i].is_sign_negative() { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn where_ge(self, a: [u32; LANES], b: [u32; LANES], v: [f32; LANES]) -> [f32; LANES] {
        lanes!(i => if a[i] >= b[i] { v[i] } else { 0.0 })
    }
    #[inline(always)]
    fn first(self, v: [f32; LANES], n: usize, fill: [f32; LANES]) -> [f32; LANES] {
        lanes!(i => if i < n { v[i] } else { fill[i] })
    }
    #[inline(always)]
    fn usplat(self, x: u32) -> [u32; LANES] {
        [x; LANES]
    }
    #[inline(always)]
    fn uload(self, x: &[u32; LANES]) -> [u32; LANES] {
        *x
    }
    #[inline(always)]
    fn uadd(self, a: [u32; LANES], b: [u32; LANES]) -> [u32; LANES] {
        lanes!(i => a[i].wrapping_add(b[i]))
    }
    #[inline(always)]
    fn uxor(self, a: [u32; LANES], b: [u32; LANES]) -> [u32; LANES] {
        lanes!(i => a[i] ^ b[i])
    }
    #[inline(always)]
    fn shl23(self, a: [u32; LANES]) -> [u32; LANES] {
        lanes!(i => a[i] << 23)
    }
    #[inline(always)]
    fn mul_even(self, a: [u32; LANES], b: [u32; LANES]) -> [u32; LANES] {
        lanes!(i => {
            let product = u64::from(a[i & !1]) * u64::from(b[i & !1]);
            (product >> (32 * (i & 1))) as u32
        })
    }
    #[inline(always)]
    fn odd_to_even(self, a: [u32; LANES]) -> [u32; LANES] {
        lanes!(i => a[i | 1])
    }
    #[inline(always)]
    fn zip_even(self, a: [u32; LANES], b: [u32; LANES]) -> [u32; LANES] {
        lanes!(i => if i % 2 == 0 { a[i] } else { b[i - 1] })
    }
}

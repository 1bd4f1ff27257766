//! Vectors of sixteen f32 or u32, on any processor.
//!
//! Every kernel is written once, as an `#[inline(always)]` function over a [`Simd`], and compiled
//! three times by [`simd_fn!`]: with AVX-512 (one register per vector), with AVX2 and FMA (two),
//! and for any processor (an array that LLVM vectorises as it can). The lanes mean the same in all
//! three, so AVX2 and AVX-512 give the same bits; the portable one rounds `a * b` before it adds.

use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
pub(crate) mod x86;

/// Lanes of a vector.
pub(crate) const LANES: usize = 16;

/// Instruction set of the processor, detected once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// The level in use: the best one of this processor, or a lower one set by the environment variable
/// `KERNELS_LEVEL` (`avx2` or `portable`), by which tests reach all levels.
pub(crate) fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(|| {
        let wanted = std::env::var("KERNELS_LEVEL").unwrap_or_default();
        if wanted == "portable" {
            return Level::Portable;
        }
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            let wide = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            return if wide && wanted != "avx2" {
                Level::Avx512
            } else {
                Level::Avx2
            };
        }
        Level::Portable
    })
}

/// Compiles `$body::<S>(s, args..)` for each level. `$name` dispatches to the level in use.
/// `[N]` after the name makes it generic over `const N: usize`.
macro_rules! simd_fn {
    ($vis:vis fn $name:ident $([$n:ident])? ($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $body:ident) => {
        #[allow(clippy::too_many_arguments, reason = "the body's arguments")]
        $vis fn $name $(<const $n: usize>)? ($($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            fn avx512 $(<const $n: usize>)? ($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: this function is only called on processors with the features above.
                let s = unsafe { $crate::simd::x86::Avx512::new() };
                $body::<_ $(, $n)?>(s, $($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2 $(<const $n: usize>)? ($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: this function is only called on processors with the features above.
                let s = unsafe { $crate::simd::x86::Avx2::new() };
                $body::<_ $(, $n)?>(s, $($arg),*)
            }
            match $crate::simd::level() {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: `level` has found every feature that `avx512` enables.
                $crate::simd::Level::Avx512 => unsafe { avx512 $(::<$n>)? ($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: `level` has found every feature that `avx2` enables.
                $crate::simd::Level::Avx2 => unsafe { avx2 $(::<$n>)? ($($arg),*) },
                $crate::simd::Level::Portable => $body::<_ $(, $n)?>($crate::simd::Portable, $($arg),*),
            }
        }
    };
}
pub(crate) use simd_fn;

/// Instruction set for vectors of sixteen lanes: `F` holds f32, `U` holds u32. A value of the type is the
/// proof that the processor has the instructions.
pub(crate) trait Simd: Copy {
    type F: Copy;
    type U: Copy;

    /// Vectors that all registers hold together.
    const VECTORS: usize;

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

    /// Loads lanes `i..i + 16` of `x`, with zeros beyond its end.
    #[inline(always)]
    fn ld(self, x: &[f32], i: usize) -> Self::F {
        let x = &x[i..];
        match x.first_chunk::<LANES>() {
            Some(x) => self.load(x),
            None => self.ld_part(x),
        }
    }

    /// Stores lanes `i..i + 16` of `x`, without those beyond its end.
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

/// Portable implementation by arrays.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

/// Applies an operation lane by lane over arrays.
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

    const VECTORS: usize = 8;

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

//! exp and the normal distribution on vectors.

use crate::simd::Simd;

/// Computes e^x, within 2 ulp for x in [-87.3, 88]. Below that, the result is the smallest normal number,
/// never zero.
///
/// Cody and Waite's reduction x = n ln 2 + r with |r| <= ln 2 / 2, then the polynomial of Cephes'
/// `expf`, degree 7 in all.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    // The order of max's operands lets a NaN through on every level: the second one is returned.
    let x = s.min(s.splat(88.0), s.max(s.splat(-87.3), x));
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    let nf = int_to_float(s, n);
    let r = s.fma(nf, s.splat(-0.693_359_4), x);
    let r = s.fma(nf, s.splat(2.121_944_4e-4), r);
    let mut p = s.splat(1.987_569_1e-4);
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
        p = s.fma(p, r, s.splat(c));
    }
    let y = s.add(s.fma(p, s.mul(r, r), r), s.splat(1.0));
    // 2^n is the float whose exponent field is n + 127.
    s.mul(y, s.float(s.shl23(s.uadd(n, s.usplat(127)))))
}

/// Computes (Phi(x), exp(-x^2 / 2)), with Phi the distribution function of the standard normal.
///
/// erfc(|x| / sqrt 2) = exp(-x^2 / 2) Q(|x|), where Q = 1 + s P(s), s = c |x| / (1 + c |x|), and P
/// of degree 5 is the minimax fit weighted with exp(-x^2 / 2), for which `c = 0.35` is the best:
/// 1.1e-8 in exact arithmetic, 1.1e-7 rounded. The form is that of Abramowitz and Stegun 7.1.26,
/// in a variable that vanishes at 0, where rounding errors matter most.
#[inline(always)]
pub(crate) fn normal_cdf<S: Simd>(s: S, x: S::F) -> (S::F, S::F) {
    let one = s.splat(1.0);
    let half = s.splat(0.5);
    let magnitude = s.by_sign(x, s.sub(s.zero(), x), x);
    // Beyond 13 the exponential is below every f32, and infinity / infinity would be NaN.
    let u = s.mul(s.splat(0.35), s.min(s.splat(1e9), magnitude));
    let t = s.div(u, s.add(u, one));
    let mut p = s.splat(9.880_672e-2);
    for c in [
        2.556_559e-2,
        -0.318_094_37,
        -0.318_875_6,
        1.801_905_9,
        -2.279_668_8,
    ] {
        p = s.fma(p, t, s.splat(c));
    }
    let gauss = exp(s, s.mul(s.mul(x, x), s.splat(-0.5)));
    let tail = s.mul(half, s.mul(s.fma(p, t, one), gauss));
    (s.by_sign(x, tail, s.sub(one, tail)), gauss)
}

/// Converts a small signed integer, given by its bits, to a float.
#[inline(always)]
fn int_to_float<S: Simd>(s: S, n: S::U) -> S::F {
    // |n| < 2^22: the bits of 1.5 * 2^23 plus n are the float 1.5 * 2^23 + n.
    const MAGIC: f32 = 12_582_912.0;
    s.sub(
        s.float(s.uadd(n, s.usplat(MAGIC.to_bits()))),
        s.splat(MAGIC),
    )
}

#[cfg(test)]
mod tests {
    use crate::simd::{LANES, Simd, simd_fn};

    #[inline(always)]
    fn map_exp<S: Simd>(s: S, x: &mut [f32; LANES]) {
        let v = super::exp(s, s.load(x));
        s.store(x, v);
    }
    #[inline(always)]
    fn map_cdf<S: Simd>(s: S, x: &mut [f32; LANES]) {
        let v = super::normal_cdf(s, s.load(x)).0;
        s.store(x, v);
    }
    simd_fn!(fn exp16(x: &mut [f32; LANES]) = map_exp);
    simd_fn!(fn cdf16(x: &mut [f32; LANES]) = map_cdf);

    /// Computes erf by its Taylor series for small x, by the continued fraction of erfc for large x
    /// (Abramowitz and Stegun 7.1.6 and 7.1.14).
    fn erf(x: f64) -> f64 {
        if x < 0.0 {
            return -erf(-x);
        }
        if x < 3.0 {
            let (mut term, mut sum) = (x, x);
            for n in 1..200 {
                term *= 2.0 * x * x / f64::from(2 * n + 1);
                sum += term;
            }
            return 2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp() * sum;
        }
        let mut f = 0.0;
        for k in (1..=80).rev() {
            f = f64::from(k) / 2.0 / (x + f);
        }
        1.0 - (-x * x).exp() / (std::f64::consts::PI.sqrt() * (x + f))
    }

    fn worst(
        f: impl Fn(&mut [f32; LANES]),
        from: f32,
        to: f32,
        error: impl Fn(f32, f32) -> f64,
    ) -> f64 {
        let n = 400_000;
        let mut worst = 0.0f64;
        for block in 0..n / LANES {
            let mut x = [0.0; LANES];
            for (i, x) in x.iter_mut().enumerate() {
                *x = from + (to - from) * (block * LANES + i) as f32 / n as f32;
            }
            let arguments = x;
            f(&mut x);
            for (&a, &y) in arguments.iter().zip(&x) {
                worst = worst.max(error(a, y));
            }
        }
        worst
    }

    fn ulps(y: f32, exact: f64) -> f64 {
        let ulp = f64::from(f32::from_bits((exact as f32).to_bits() + 1)) - f64::from(exact as f32);
        (f64::from(y) - exact).abs() / ulp
    }

    #[test]
    fn exp_is_within_two_ulp() {
        let error = |a: f32, y: f32| ulps(y, f64::from(a).exp());
        assert!(worst(exp16, -87.0, 87.0, error) <= 2.0);
        assert!(worst(exp16, -1.0, 1.0, error) <= 2.0);
        let portable = |x: &mut [f32; LANES]| map_exp(crate::simd::Portable, x);
        assert!(worst(portable, -87.0, 87.0, error) <= 2.0);
    }

    #[test]
    fn erf_is_within_2e_7() {
        // erf(z) = 2 Phi(z sqrt 2) - 1: the error of erf is twice that of Phi.
        let error = |a: f32, y: f32| {
            2.0 * (f64::from(y) - 0.5 * (1.0 + erf(f64::from(a) / 2f64.sqrt()))).abs()
        };
        assert!(worst(cdf16, -14.0, 14.0, error) <= 2e-7);
        assert!(worst(cdf16, -1.0, 1.0, error) <= 2e-7);
        let portable = |x: &mut [f32; LANES]| map_cdf(crate::simd::Portable, x);
        assert!(worst(portable, -14.0, 14.0, error) <= 2e-7);
    }

    #[test]
    fn extremes_and_nan_pass_through() {
        let mut x = [f32::INFINITY; LANES];
        x[1] = f32::NEG_INFINITY;
        x[2] = f32::NAN;
        x[3] = 1e30;
        x[4] = -1e30;
        let mut y = x;
        cdf16(&mut y);
        assert_eq!((y[0], y[3]), (1.0, 1.0));
        assert!(y[1].abs() < 1e-37 && y[4].abs() < 1e-37 && y[2].is_nan());
        exp16(&mut x);
        assert!(x[0] > 1e38 && x[1] < 1.3e-38 && x[2].is_nan());
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn avx2_and_avx512_give_the_same_bits() {
        use crate::simd::{
            Level, level,
            x86::{Avx2, Avx512},
        };

        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
        fn wide(x: &mut [f32; LANES]) -> f32 {
            // SAFETY: the test calls this only if `level` has found the features.
            let s = unsafe { Avx512::new() };
            map_cdf(s, x);
            s.sum(s.load(x))
        }
        #[target_feature(enable = "avx2,fma")]
        fn narrow(x: &mut [f32; LANES]) -> f32 {
            // SAFETY: as above.
            let s = unsafe { Avx2::new() };
            map_cdf(s, x);
            s.sum(s.load(x))
        }
        if level() != Level::Avx512 {
            return;
        }
        for block in 0..1000 {
            let mut x = [0.0; LANES];
            for (i, x) in x.iter_mut().enumerate() {
                *x = (block * LANES + i) as f32 * 1e-3 - 8.0;
            }
            let mut y = x;
            // SAFETY: `level` has found AVX-512, which includes AVX2.
            let sums = unsafe { (wide(&mut x), narrow(&mut y)) };
            assert_eq!(sums.0.to_bits(), sums.1.to_bits());
            assert_eq!(x.map(f32::to_bits), y.map(f32::to_bits));
        }
    }
}

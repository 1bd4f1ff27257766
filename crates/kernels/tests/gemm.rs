//! GEMM backends against sums in f64. Formats for which the processor has no instructions are not tested; the
//! tests print which.

#![expect(clippy::print_stderr, reason = "a test says what it left out")]

mod common;

use common::Random;
use kernels::gemm::{
    Gemm, Kind, RustGemm, Shape,
    half::{Bf16Gemm, Fp16Gemm, RUN},
};

const KINDS: [Kind; 3] = [Kind::NT, Kind::NN, Kind::TN];

/// GEMM backends of this processor, with the permitted error of sums: the root mean square, as a share of the
/// root of the sum of squared products.
fn all() -> Vec<(&'static str, f64, Box<dyn Gemm>)> {
    let mut all: Vec<(&'static str, f64, Box<dyn Gemm>)> = vec![("fp32", 1e-6, Box::new(RustGemm))];
    match Bf16Gemm::new() {
        Some(gemm) => all.push(("bf16", 2.5e-3, Box::new(gemm))),
        None => eprintln!("skipped: this processor has no AVX512_BF16"),
    }
    match Fp16Gemm::new() {
        Some(gemm) => all.push(("fp16", 2e-3, Box::new(gemm))),
        None => eprintln!("skipped: this processor has no AVX512-FP16"),
    }
    all
}

/// Element (i, p) of op(A) and (p, j) of op(B).
fn at(kind: Kind, shape: Shape, a: &[f32], b: &[f32], i: usize, j: usize, p: usize) -> (f64, f64) {
    let a = if kind == Kind::TN {
        a[p * shape.m + i]
    } else {
        a[i * shape.k + p]
    };
    let b = if kind == Kind::NT {
        b[j * shape.k + p]
    } else {
        b[p * shape.n + j]
    };
    (f64::from(a), f64::from(b))
}

/// Small integers, whose products and short sums every format holds exactly.
fn integers(random: &mut Random, n: usize) -> Vec<f32> {
    (0..n).map(|_| random.below(7) as f32 - 3.0).collect()
}

#[test]
fn sums_of_integers_are_exact() {
    let mut random = Random(1);
    // Shapes around the edges of tiles (12 by 32 and by 64), groups (192 rows), runs and blocks.
    let mut shapes = vec![
        (1, 1, 1),
        (12, 64, 16),
        (13, 65, 17),
        (11, 31, 33),
        (200, 96, RUN),
        (25, 130, RUN + 1),
        (7, 40, 1025),
        (3, 70, 2050),
        (5, 70, 1536),
    ];
    for _ in 0..40 {
        shapes.push((
            1 + random.below(60),
            1 + random.below(150),
            1 + random.below(300),
        ));
    }
    for (name, _, gemm) in all() {
        for &(m, n, k) in &shapes {
            let shape = Shape { m, n, k };
            for kind in KINDS {
                let (a, b) = (integers(&mut random, m * k), integers(&mut random, k * n));
                let c = integers(&mut random, m * n);
                for (alpha, beta) in [(1.0, 0.0), (0.5, 1.0), (2.0, -3.0)] {
                    let mut out = c.clone();
                    if beta == 0.0 {
                        // With beta 0, C must not be read.
                        out.fill(f32::NAN);
                    }
                    gemm.product(kind, shape, alpha, &a, &b, beta, &mut out);
                    for i in 0..m {
                        for j in 0..n {
                            let sum: f64 = (0..k)
                                .map(|p| at(kind, shape, &a, &b, i, j, p))
                                .map(|(a, b)| a * b)
                                .sum();
                            let old = f64::from(c[i * n + j]);
                            let expected = f64::from(alpha) * sum + f64::from(beta) * old;
                            let found = f64::from(out[i * n + j]);
                            assert_eq!(found, expected, "{name} {kind:?} {shape:?} ({i}, {j})");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn errors_stay_within_the_format() {
    let mut random = Random(2);
    for (name, tolerance, gemm) in all() {
        for (m, n, k) in [(30, 70, 64), (30, 70, 768), (20, 65, 3072)] {
            let shape = Shape { m, n, k };
            for kind in KINDS {
                let (a, b) = (random.vec(m * k), random.vec(k * n));
                let mut c = vec![0.0; m * n];
                gemm.product(kind, shape, 1.0, &a, &b, 0.0, &mut c);
                let mut total = 0.0;
                for i in 0..m {
                    for j in 0..n {
                        let (mut sum, mut squares) = (0.0, 0.0);
                        for (a, b) in (0..k).map(|p| at(kind, shape, &a, &b, i, j, p)) {
                            sum += a * b;
                            squares += a * b * a * b;
                        }
                        let error = (f64::from(c[i * n + j]) - sum).abs() / squares.sqrt();
                        assert!(
                            error < 6.0 * tolerance,
                            "{name} {kind:?} {shape:?}: {error:e}"
                        );
                        total += error * error;
                    }
                }
                let error = (total / (m * n) as f64).sqrt();
                eprintln!("{name} {kind:?} {shape:?}: {error:.1e}");
                assert!(error < tolerance, "{name} {kind:?} {shape:?}: {error:e}");
            }
        }
    }
}

#[test]
fn powers_of_two_change_nothing_but_the_result() {
    let mut random = Random(3);
    let shape = Shape {
        m: 20,
        n: 70,
        k: 200,
    };
    let (a, b) = (random.vec(20 * 200), random.vec(200 * 70));
    for (name, _, gemm) in all() {
        let mut plain = vec![0.0; 20 * 70];
        gemm.product(Kind::NN, shape, 1.0, &a, &b, 0.0, &mut plain);
        // Gradients are small; fp16 by itself begins to lose bits below 6e-5.
        for (up, down) in [
            (2f32.powi(60), 2f32.powi(-80)),
            (2f32.powi(-70), 2f32.powi(30)),
        ] {
            let a: Vec<f32> = a.iter().map(|a| a * up).collect();
            let b: Vec<f32> = b.iter().map(|b| b * down).collect();
            let mut scaled = vec![0.0; 20 * 70];
            gemm.product(Kind::NN, shape, 1.0, &a, &b, 0.0, &mut scaled);
            for (scaled, plain) in scaled.iter().zip(&plain) {
                assert_eq!(*scaled, plain * (up * down), "{name}");
            }
        }
    }
}

#[test]
fn what_is_not_finite_stays_where_it_belongs() {
    let mut random = Random(4);
    let shape = Shape {
        m: 24,
        n: 80,
        k: 150,
    };
    for (name, _, gemm) in all() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let (mut a, b) = (random.vec(24 * 150), random.vec(150 * 80));
            let mut before = vec![0.0; 24 * 80];
            gemm.product(Kind::NN, shape, 1.0, &a, &b, 0.0, &mut before);
            a[5 * 150 + 77] = bad;
            let mut after = vec![0.0; 24 * 80];
            gemm.product(Kind::NN, shape, 1.0, &a, &b, 0.0, &mut after);
            for row in 0..24 {
                let columns = row * 80..(row + 1) * 80;
                let (before, after) = (&before[columns.clone()], &after[columns]);
                if row == 5 {
                    assert!(
                        after.iter().all(|c| !c.is_finite()),
                        "{name} {bad}: {after:?}"
                    );
                } else {
                    assert!(
                        after.iter().all(|c| c.is_finite()),
                        "{name} {bad}, row {row}"
                    );
                    // The panel may have another scale, but not one from the value that is not finite.
                    for (before, after) in before.iter().zip(after) {
                        assert!((before - after).abs() < 0.05, "{name} {bad}, row {row}");
                    }
                }
            }
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let mut random = Random(5);
    let shape = Shape {
        m: 230,
        n: 200,
        k: 300,
    };
    let (a, b) = (random.vec(230 * 300), random.vec(300 * 200));
    for (name, _, gemm) in all().into_iter().skip(1) {
        let run = |n_threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(n_threads)
                .build()
                .unwrap();
            let mut c = vec![0.0; 230 * 200];
            pool.install(|| gemm.product(Kind::NN, shape, 1.0, &a, &b, 0.0, &mut c));
            c
        };
        assert_eq!(run(1), run(3), "{name}");
    }
}

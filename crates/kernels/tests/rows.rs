//! The kernels on rows, against the formulas in f64 and their differences.

mod common;

use common::{Random, close, dot, gradient, same_on_any_threads, wide};
use kernels::{
    Scratch, bf16,
    dropout::{self, Dropout},
    embedding::{self, Embeddings, Order},
    gelu,
    gemm::{Gemm, Kind, RustGemm, Shape},
    norm::{self, LayerNorm, LayerNormGrad},
    optimizer::{self, AdamW},
    pooling::{self, Pooling},
};

/// (rows, width): odd ones, one row, one column, whole vectors, more than 64 blocks.
const SHAPES: [(usize, usize); 6] = [(1, 1), (7, 13), (33, 48), (3, 100), (20, 65), (1100, 5)];

fn layer_norm(x: &[f64], gamma: &[f64], beta: &[f64], eps: f64) -> Vec<f64> {
    let width = gamma.len();
    let mut out = Vec::new();
    for row in x.chunks_exact(width) {
        let mean = row.iter().sum::<f64>() / width as f64;
        let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
        for (c, x) in row.iter().enumerate() {
            out.push((x - mean) / (variance + eps).sqrt() * gamma[c] + beta[c]);
        }
    }
    out
}

/// Factors of a dropout: 0 or 1 / (1 - p).
fn factors(dropout: &Dropout<'_>, rows: usize, width: usize) -> Vec<f64> {
    let mut x = vec![1.0; rows * width];
    dropout::apply(dropout, width, &mut x);
    wide(&x)
}

#[test]
fn add_layer_norm_matches_its_formula() {
    for (rows, width) in SHAPES {
        for p in [0.0, 0.3] {
            let mut random = Random(rows as u64);
            let n = rows * width;
            let [y, residual, d, more] = [0; 4].map(|_| random.vec(n));
            let [gamma, beta, bias] = [0; 3].map(|_| random.vec(width));
            let norm = LayerNorm {
                gamma: &gamma,
                beta: Some(&beta),
                eps: 1e-2,
            };
            let dropout = Dropout::new(p, 1, 2, 3);
            let factors = factors(&dropout, rows, width);
            let results = same_on_any_threads(|| {
                let mut scratch = Scratch::default();
                let (mut normalised, mut rstd, mut out) =
                    (y.clone(), vec![0.0; rows], vec![0.0; n]);
                norm::add_layer_norm(
                    &norm,
                    &mut normalised,
                    Some(&bias),
                    &dropout,
                    &residual,
                    &mut rstd,
                    &mut out,
                );
                let (mut d_residual, mut d_y) = (d.clone(), vec![0.0; n]);
                let [mut d_bias, mut d_gamma, mut d_beta] = [0; 3].map(|_| vec![0.5; width]);
                let grad = Some(LayerNormGrad {
                    gamma: &mut d_gamma,
                    beta: Some(&mut d_beta),
                });
                norm::add_layer_norm_backward(
                    &gamma,
                    &normalised,
                    &rstd,
                    &dropout,
                    &mut d_residual,
                    Some(&more),
                    &mut d_y,
                    Some(&mut d_bias),
                    grad,
                    &mut scratch,
                );
                let (mut d_alone, mut d_y_alone) = (d.clone(), vec![0.0; n]);
                norm::add_layer_norm_backward(
                    &gamma,
                    &normalised,
                    &rstd,
                    &dropout,
                    &mut d_alone,
                    Some(&more),
                    &mut d_y_alone,
                    None,
                    None,
                    &mut scratch,
                );
                assert_eq!((&d_alone, &d_y_alone), (&d_residual, &d_y));
                vec![out, d_residual, d_y, d_bias, d_gamma, d_beta]
            });
            let [y64, residual64, gamma64, beta64, bias64] =
                [&y, &residual, &gamma, &beta, &bias].map(|x| wide(x));
            let forward =
                |y: &[f64], residual: &[f64], gamma: &[f64], beta: &[f64], bias: &[f64]| {
                    let sum: Vec<f64> = (0..n)
                        .map(|i| residual[i] + (y[i] + bias[i % width]) * factors[i])
                        .collect();
                    layer_norm(&sum, gamma, beta, f64::from(norm.eps))
                };
            close(
                "out",
                &results[0],
                &forward(&y64, &residual64, &gamma64, &beta64, &bias64),
                3e-6,
            );
            if n > 2000 {
                continue;
            }
            let d_out: Vec<f64> = d
                .iter()
                .zip(&more)
                .map(|(d, m)| f64::from(*d) + f64::from(*m))
                .collect();
            let loss = |out: Vec<f64>| dot(&out, &d_out);
            let added = |g: Vec<f64>| g.into_iter().map(|g| g + 0.5).collect::<Vec<_>>();
            let expected = [
                gradient(&residual, |x| {
                    loss(forward(&y64, x, &gamma64, &beta64, &bias64))
                }),
                gradient(&y, |x| {
                    loss(forward(x, &residual64, &gamma64, &beta64, &bias64))
                }),
                added(gradient(&bias, |x| {
                    loss(forward(&y64, &residual64, &gamma64, &beta64, x))
                })),
                added(gradient(&gamma, |x| {
                    loss(forward(&y64, &residual64, x, &beta64, &bias64))
                })),
                added(gradient(&beta, |x| {
                    loss(forward(&y64, &residual64, &gamma64, x, &bias64))
                })),
            ];
            for (name, (actual, expected)) in ["residual", "y", "bias", "gamma", "beta"]
                .iter()
                .zip(results[1..].iter().zip(&expected))
            {
                close(
                    &format!("d_{name} of {rows}x{width} p {p}"),
                    actual,
                    expected,
                    1e-5,
                );
            }
        }
    }
}

#[test]
fn embedding_matches_its_formula() {
    for (rows, width) in SHAPES {
        let mut random = Random(rows as u64 + 9);
        let n = rows * width;
        let (vocabulary, places) = (11, 9);
        let word = random.vec(vocabulary * width);
        let position = random.vec(places * width);
        let [gamma, beta, token_type] = [0; 3].map(|_| random.vec(width));
        let d = random.vec(n);
        let ids: Vec<u32> = (0..rows).map(|_| random.below(vocabulary) as u32).collect();
        let positions: Vec<u32> = (0..rows).map(|_| random.below(places) as u32).collect();
        let tables = Embeddings {
            word: &word,
            token_type: Some(&token_type),
            position: Some(&position),
            norm: LayerNorm {
                gamma: &gamma,
                beta: Some(&beta),
                eps: 1e-2,
            },
        };
        let dropout = Dropout::new(0.2, 4, 5, 6);
        let factors = factors(&dropout, rows, width);
        let results = same_on_any_threads(|| {
            let (mut normalised, mut rstd, mut out) = (vec![0.0; n], vec![0.0; rows], vec![0.0; n]);
            embedding::embed(
                &tables,
                &ids,
                &positions,
                &dropout,
                &mut normalised,
                &mut rstd,
                &mut out,
            );
            let mut d = d.clone();
            let [mut d_gamma, mut d_beta] = [0; 2].map(|_| vec![0.0; width]);
            let grad = Some(LayerNormGrad {
                gamma: &mut d_gamma,
                beta: Some(&mut d_beta),
            });
            embedding::embed_backward(
                &gamma,
                &normalised,
                &rstd,
                &dropout,
                &mut d,
                grad,
                &mut Scratch::default(),
            );
            let (mut d_word, mut d_position) = (vec![0.0; word.len()], vec![0.0; position.len()]);
            embedding::scatter(&Order::new(&ids), &d, width, Some(1), &mut d_word);
            embedding::scatter(&Order::new(&positions), &d, width, None, &mut d_position);
            let mut d_type = vec![0.0; width];
            gelu::add_column_sums(&d, &mut d_type, &mut Scratch::default());
            vec![out, d_word, d_position, d_gamma, d_beta, d_type]
        });
        let with_type =
            |word: &[f64], token_type: &[f64], position: &[f64], gamma: &[f64], beta: &[f64]| {
                let sum: Vec<f64> = (0..n)
                    .map(|i| {
                        let (t, c) = (i / width, i % width);
                        word[ids[t] as usize * width + c]
                            + token_type[c]
                            + position[positions[t] as usize * width + c]
                    })
                    .collect();
                let mut out = layer_norm(&sum, gamma, beta, f64::from(tables.norm.eps));
                out.iter_mut().zip(&factors).for_each(|(x, f)| *x *= f);
                out
            };
        let [word64, position64, gamma64, beta64, d64, type64] =
            [&word, &position, &gamma, &beta, &d, &token_type].map(|x| wide(x));
        let forward = |word: &[f64], position: &[f64], gamma: &[f64], beta: &[f64]| {
            with_type(word, &type64, position, gamma, beta)
        };
        close(
            "out",
            &results[0],
            &forward(&word64, &position64, &gamma64, &beta64),
            5e-6,
        );
        if n > 2000 {
            continue;
        }
        let mut d_word = gradient(&word, |x| {
            dot(&forward(x, &position64, &gamma64, &beta64), &d64)
        });
        d_word[width..2 * width].fill(0.0);
        close("d_word", &results[1], &d_word, 1e-5);
        let expected = gradient(&position, |x| {
            dot(&forward(&word64, x, &gamma64, &beta64), &d64)
        });
        close("d_position", &results[2], &expected, 1e-5);
        let expected = gradient(&gamma, |x| {
            dot(&forward(&word64, &position64, x, &beta64), &d64)
        });
        close("d_gamma", &results[3], &expected, 1e-5);
        let expected = gradient(&beta, |x| {
            dot(&forward(&word64, &position64, &gamma64, x), &d64)
        });
        close("d_beta", &results[4], &expected, 1e-5);
        let expected = gradient(&token_type, |x| {
            dot(&with_type(&word64, x, &position64, &gamma64, &beta64), &d64)
        });
        close("d_type", &results[5], &expected, 1e-5);
    }
}

#[test]
fn a_norm_alone_matches_its_formula_with_and_without_a_shift() {
    for (rows, width) in SHAPES {
        for has_beta in [true, false] {
            let mut random = Random(rows as u64 + 5);
            let n = rows * width;
            let [x, d, before] = [0; 3].map(|_| random.vec(n));
            let [gamma, beta] = [0; 2].map(|_| random.vec(width));
            let norm = LayerNorm {
                gamma: &gamma,
                beta: has_beta.then_some(&beta),
                eps: 1e-2,
            };
            let results = same_on_any_threads(|| {
                let [mut normalised, mut out] = [0; 2].map(|_| vec![0.0; n]);
                let mut rstd = vec![0.0; rows];
                norm::layer_norm(&norm, &x, &mut normalised, &mut rstd, &mut out);
                let mut d_x = before.clone();
                let [mut d_gamma, mut d_beta] = [0; 2].map(|_| vec![0.5; width]);
                let grad = Some(LayerNormGrad {
                    gamma: &mut d_gamma,
                    beta: has_beta.then_some(&mut d_beta),
                });
                let mut scratch = Scratch::default();
                let n = &normalised;
                norm::layer_norm_backward(&gamma, n, &rstd, &d, &mut d_x, grad, &mut scratch);
                let mut alone = before.clone();
                norm::layer_norm_backward(&gamma, n, &rstd, &d, &mut alone, None, &mut scratch);
                assert_eq!(alone, d_x);
                vec![out, d_x, d_gamma, d_beta]
            });
            let beta = if has_beta {
                beta.clone()
            } else {
                vec![0.0; width]
            };
            let [x64, gamma64, beta64, d64] = [&x, &gamma, &beta, &d].map(|x| wide(x));
            let forward = |x: &[f64], gamma: &[f64], beta: &[f64]| {
                layer_norm(x, gamma, beta, f64::from(norm.eps))
            };
            close("out", &results[0], &forward(&x64, &gamma64, &beta64), 5e-6);
            if n > 2000 {
                continue;
            }
            let mut expected = gradient(&x, |x| dot(&forward(x, &gamma64, &beta64), &d64));
            expected
                .iter_mut()
                .zip(&before)
                .for_each(|(e, &b)| *e += f64::from(b));
            close("d_x", &results[1], &expected, 1e-5);
            let added = |g: Vec<f64>| g.into_iter().map(|g| g + 0.5).collect::<Vec<_>>();
            let expected = gradient(&gamma, |x| dot(&forward(&x64, x, &beta64), &d64));
            close("d_gamma", &results[2], &added(expected), 1e-5);
            let expected = match has_beta {
                true => added(gradient(&beta, |x| dot(&forward(&x64, &gamma64, x), &d64))),
                false => vec![0.5; width],
            };
            close("d_beta", &results[3], &expected, 1e-5);
        }
    }
}

#[test]
fn a_residual_is_added_under_dropout() {
    for (rows, width) in SHAPES {
        let mut random = Random(rows as u64 + 6);
        let [y, residual] = [0; 2].map(|_| random.vec(rows * width));
        let dropout = Dropout::new(0.3, 7, 8, 9);
        let factors = factors(&dropout, rows, width);
        let results = same_on_any_threads(|| {
            let mut out = vec![0.0; rows * width];
            norm::add_residual(&y, width, &dropout, &residual, &mut out);
            vec![out]
        });
        let sums = wide(&y).into_iter().zip(factors).zip(wide(&residual));
        let expected: Vec<f64> = sums.map(|((y, f), r)| y * f + r).collect();
        close("out", &results[0], &expected, 1e-6);
    }
}

#[test]
fn chosen_rows_are_dropped_as_in_the_whole() {
    let (rows, width) = (60, 70);
    let whole = factors(&Dropout::new(0.4, 1, 2, 3), rows, width);
    let chosen = [3, 17, 18, 40];
    let dropout = Dropout::new(0.4, 1, 2, 3).starting_at(10).of_rows(&chosen);
    let found = factors(&dropout, chosen.len(), width);
    let expected: Vec<f64> = chosen
        .iter()
        .flat_map(|row| &whole[(10 + row) * width..][..width])
        .copied()
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn gated_gelu_matches_its_formula() {
    for (rows, width) in SHAPES {
        let mut random = Random(rows as u64 + 7);
        let n = rows * width;
        let x: Vec<f32> = random.vec(2 * n).iter().map(|x| 4.0 * x).collect();
        let d = random.vec(n);
        let results = same_on_any_threads(|| {
            let (mut kept, mut act) = (x.clone(), vec![0.0; n]);
            gelu::geglu(&mut kept, width, &mut act);
            gelu::geglu_backward(&mut kept, width, &d);
            vec![act, kept]
        });
        let forward = |x: &[f64]| -> Vec<f64> {
            let rows = x.chunks_exact(2 * width);
            rows.flat_map(|row| (0..width).map(|c| gelu64(row[c]) * row[width + c]))
                .collect()
        };
        close("act", &results[0], &forward(&wide(&x)), 2e-6);
        // Each value depends on two: the gradient by differences of its own row.
        let one = |i: usize, step: f64| {
            let (row, c) = (i / (2 * width), i % width);
            let at = |c: usize| f64::from(x[row * 2 * width + c]);
            let (mut a, mut b) = (at(c), at(width + c));
            *(if i % (2 * width) < width {
                &mut a
            } else {
                &mut b
            }) += step;
            gelu64(a) * b * f64::from(d[row * width + c])
        };
        let expected: Vec<f64> = (0..2 * n)
            .map(|i| (one(i, 1e-5) - one(i, -1e-5)) / 2e-5)
            .collect();
        close("d_x", &results[1], &expected, 1e-5);
    }
}

#[test]
#[should_panic(expected = "token id 11 is beyond a table of 11 rows")]
fn a_foreign_token_id_is_refused() {
    let tables = Embeddings {
        word: &[0.0; 22],
        token_type: None,
        position: Some(&[0.0; 2]),
        norm: LayerNorm {
            gamma: &[0.0; 2],
            beta: Some(&[0.0; 2]),
            eps: 1.0,
        },
    };
    embedding::embed(
        &tables,
        &[11],
        &[0],
        &Dropout::NONE,
        &mut [0.0; 2],
        &mut [0.0],
        &mut [0.0; 2],
    );
}

/// z Phi(z) by Simpson's rule over the density, good to 1e-12 for |z| < 9.
fn gelu64(z: f64) -> f64 {
    let n = 2000;
    let h = z / f64::from(n);
    let density = |x: f64| (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let mut sum = density(0.0) + density(z);
    for i in 1..n {
        sum += density(f64::from(i) * h) * if i % 2 == 1 { 4.0 } else { 2.0 };
    }
    z * (0.5 + sum * h / 3.0)
}

#[test]
fn gelu_matches_its_formula() {
    for (rows, width) in SHAPES {
        let mut random = Random(rows as u64 + 3);
        let n = rows * width;
        let x: Vec<f32> = random.vec(n).iter().map(|x| x * 6.0).collect();
        let (bias, d) = (random.vec(width), random.vec(n));
        let results = same_on_any_threads(|| {
            let (mut derivative, mut act) = (x.clone(), vec![0.0; n]);
            gelu::gelu(&mut derivative, &bias, &mut act);
            let mut in_place = x.clone();
            gelu::gelu_in_place(&mut in_place, &bias);
            assert_eq!(in_place, act);
            let (mut d_x, mut d_bias) = (d.clone(), vec![1.0; width]);
            let mut scratch = Scratch::default();
            gelu::gelu_backward(&derivative, &mut d_x, Some(&mut d_bias), &mut scratch);
            let mut sums = vec![1.0; width];
            gelu::add_column_sums(&d_x, &mut sums, &mut scratch);
            assert_eq!(sums, d_bias);
            let mut alone = d.clone();
            gelu::gelu_backward(&derivative, &mut alone, None, &mut scratch);
            assert_eq!(alone, d_x);
            vec![act, d_x, d_bias]
        });
        let z: Vec<f64> = (0..n).map(|i| f64::from(x[i] + bias[i % width])).collect();
        let expected: Vec<f64> = z.iter().map(|&z| gelu64(z)).collect();
        close("act", &results[0], &expected, 2e-7);
        let d_x: Vec<f64> = z
            .iter()
            .zip(&d)
            .map(|(z, d)| f64::from(*d) * (gelu64(z + 1e-4) - gelu64(z - 1e-4)) / 2e-4)
            .collect();
        close("d_x", &results[1], &d_x, 5e-7);
        let d_bias: Vec<f64> = (0..width)
            .map(|c| 1.0 + (0..rows).map(|r| d_x[r * width + c]).sum::<f64>())
            .collect();
        close("d_bias", &results[2], &d_bias, 3e-6);
    }
}

#[test]
fn pooling_matches_its_formula() {
    let modes = [
        Pooling::Cls,
        Pooling::LastToken,
        Pooling::Max,
        Pooling::Mean,
        Pooling::MeanSqrtLen,
        Pooling::WeightedMean,
    ];
    for (lengths, skipped, width) in [
        (vec![1], vec![], 1),
        (vec![3, 1, 17, 0, 2], vec![], 37),
        (vec![3, 1, 17, 0, 2], vec![1, 1, 9, 4, 0], 37),
        (vec![5; 40], vec![], 16),
        (vec![5; 40], [[0, 3].repeat(15), vec![5; 10]].concat(), 16),
    ] {
        let offsets = common::offsets(&lengths);
        let mut random = Random(width as u64);
        let tokens = offsets[lengths.len()];
        let x = random.vec(tokens * width);
        let d = random.vec(lengths.len() * width);
        for mode in modes {
            let results = same_on_any_threads(|| {
                let (mut out, mut d_x) = (vec![9.0; d.len()], vec![9.0; x.len()]);
                pooling::pool(mode, &offsets, &skipped, width, &x, &mut out);
                pooling::pool_backward(mode, &offsets, &skipped, width, &x, &d, &mut d_x);
                vec![out, d_x]
            });
            let forward = |x: &[f64]| -> Vec<f64> {
                let mut out = Vec::new();
                for (i, range) in offsets.windows(2).enumerate() {
                    let before = skipped.get(i).copied().unwrap_or(0);
                    let first = (range[0] + before).min(range[1]);
                    let n = range[1] - first;
                    for c in 0..width {
                        let column: Vec<f64> =
                            (first..range[1]).map(|t| x[t * width + c]).collect();
                        let sum: f64 = column.iter().sum();
                        out.push(match mode {
                            _ if n == 0 => 0.0,
                            Pooling::Cls => column[0],
                            Pooling::LastToken => column[n - 1],
                            Pooling::Max => column.iter().fold(f64::MIN, |a, &b| a.max(b)),
                            Pooling::Mean => sum / n as f64,
                            Pooling::MeanSqrtLen => sum / (n as f64).sqrt(),
                            Pooling::WeightedMean => {
                                let weight = |t: usize| (before + t + 1) as f64;
                                let weights: f64 = (0..n).map(weight).sum();
                                let weighted = column.iter().enumerate();
                                weighted.map(|(t, x)| weight(t) * x / weights).sum()
                            }
                        });
                    }
                }
                out
            };
            close(&format!("{mode:?}"), &results[0], &forward(&wide(&x)), 1e-6);
            if x.len() < 1000 {
                let expected = gradient(&x, |x| dot(&forward(x), &wide(&d)));
                close(&format!("{mode:?} backward"), &results[1], &expected, 1e-6);
            }
        }
    }
}

#[test]
fn adamw_follows_torch() {
    for n in [1, 17, 40_000] {
        let mut random = Random(n as u64);
        let start = random.vec(n);
        let grads: Vec<Vec<f32>> = (0..5).map(|_| random.vec(n)).collect();
        let (lr, beta1, beta2, eps, weight_decay, grad_scale) = (1e-2, 0.9, 0.999, 1e-8, 0.01, 0.7);
        let results = same_on_any_threads(|| {
            let (mut p, mut m, mut v) = (start.clone(), vec![0.0; n], vec![0.0; n]);
            for (t, grad) in grads.iter().enumerate() {
                let step = AdamW {
                    lr,
                    beta1,
                    beta2,
                    eps,
                    weight_decay,
                    step: t as u64 + 1,
                    grad_scale,
                };
                let mut grad = grad.clone();
                step.update(&mut p, &mut grad, &mut m, &mut v, t % 2 == 0);
                assert_eq!(grad.iter().all(|&g| g == 0.0), t % 2 == 0);
            }
            vec![p, m, v]
        });
        let (mut p, mut m, mut v) = (wide(&start), vec![0.0; n], vec![0.0; n]);
        for (t, grad) in grads.iter().enumerate() {
            let step = (t + 1) as i32;
            for i in 0..n {
                let g = f64::from(grad[i]) * grad_scale;
                p[i] *= 1.0 - lr * weight_decay;
                m[i] = beta1 * m[i] + (1.0 - beta1) * g;
                v[i] = beta2 * v[i] + (1.0 - beta2) * g * g;
                let denominator = (v[i] / (1.0 - beta2.powi(step))).sqrt() + eps;
                p[i] -= lr * m[i] / (1.0 - beta1.powi(step)) / denominator;
            }
        }
        for (actual, expected) in results.iter().zip([&p, &m, &v]) {
            close("AdamW", actual, expected, 5e-7);
        }
    }
}

#[test]
fn squared_norm_is_exact_and_sees_what_is_not_finite() {
    let x = Random(1).vec(100_001);
    let expected: f64 = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    let error = (optimizer::squared_norm(&x) / expected - 1.0).abs();
    // The sum in one chain is itself only good to about sqrt(100,001) roundings of an f64.
    assert!(error < 1e-12, "{error:.1e}");
    same_on_any_threads(|| vec![vec![optimizer::squared_norm(&x) as f32]]);
    assert!(optimizer::squared_norm(&[f32::MAX; 1000]).is_finite());
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for at in [0, 50_000, 100_000] {
            let mut x = x.clone();
            x[at] = bad;
            assert!(!optimizer::squared_norm(&x).is_finite());
        }
    }
    assert_eq!(optimizer::clip_scale(0.5, 1.0), 1.0);
    assert!((optimizer::clip_scale(4.0, 1.0) - 1.0 / (4.0 + 1e-6)).abs() < 1e-15);
}

#[test]
fn bf16_rounds_to_nearest_even() {
    let mut out = [0];
    // Every value halfway between two bf16 of one binade, and its neighbours.
    for high in [0x3F80u32, 0x3F81, 0x0001, 0x0000, 0x7F7F, 0xC123, 0x8000] {
        for (low, up) in [
            (0x0000, 0),
            (0x7FFF, 0),
            (0x8000, high & 1),
            (0x8001, 1),
            (0xFFFF, 1),
        ] {
            bf16::from_f32(&[f32::from_bits(high << 16 | low)], &mut out);
            assert_eq!(u32::from(out[0]), high + up, "{high:#x} {low:#x}");
        }
    }
    for nan in [0x7F80_0001, 0x7FFF_FFFF, 0xFFC0_0000] {
        bf16::from_f32(&[f32::from_bits(nan)], &mut out);
        assert!(f32::from_bits(u32::from(out[0]) << 16).is_nan());
    }
    let all: Vec<u16> = (0..=u16::MAX).collect();
    let (mut floats, mut back) = (vec![0.0; all.len()], vec![0; all.len()]);
    bf16::to_f32(&all, &mut floats);
    bf16::from_f32(&floats, &mut back);
    for (bits, back) in all.iter().zip(&back) {
        let nan = bits & 0x7FFF > 0x7F80;
        assert_eq!(*back, if nan { bits | 0x40 } else { *bits });
    }
}

#[test]
fn products_match_their_formula() {
    for (m, n, k) in [(1, 1, 1), (5, 7, 3), (33, 65, 129), (200, 96, 31)] {
        let mut random = Random((m * n) as u64);
        let (a, b, c) = (random.vec(m * k), random.vec(k * n), random.vec(m * n));
        for kind in [Kind::NT, Kind::NN, Kind::TN] {
            for beta in [0.0, 1.0] {
                let results = same_on_any_threads(|| {
                    // Earlier content of the output must not matter.
                    let mut c = if beta == 0.0 {
                        vec![f32::NAN; m * n]
                    } else {
                        c.clone()
                    };
                    RustGemm.product(kind, Shape { m, n, k }, 0.5, &a, &b, beta, &mut c);
                    vec![c]
                });
                let mut expected = Vec::new();
                for i in 0..m {
                    for j in 0..n {
                        let sum: f64 = (0..k)
                            .map(|t| {
                                let x = a[if kind == Kind::TN {
                                    t * m + i
                                } else {
                                    i * k + t
                                }];
                                let y = b[if kind == Kind::NT {
                                    j * k + t
                                } else {
                                    t * n + j
                                }];
                                f64::from(x) * f64::from(y)
                            })
                            .sum();
                        expected.push(0.5 * sum + f64::from(beta) * f64::from(c[i * n + j]));
                    }
                }
                close(&format!("{kind:?}"), &results[0], &expected, 1e-6);
            }
        }
    }
}

#[test]
fn every_instruction_set_passes() {
    common::on_lower_levels();
}

/// 256 adjacent weights with zero gradient and moments are skipped. With a second moment in one of each 256 they are
/// computed, which must give all others the same bits.
#[test]
fn adamw_passes_over_untouched_weights_without_a_trace() {
    let n = 5000;
    let start = Random(9).vec(n);
    let run = |is_computed: bool| {
        let (mut p, mut m, mut v) = (start.clone(), vec![0.0; n], vec![0.0; n]);
        if is_computed {
            v.iter_mut().step_by(256).for_each(|v| *v = 1.0);
        }
        let mut random = Random(10);
        for step in 1..5 {
            let mut grad = random.vec(n);
            // Whole runs of 256, and parts of one.
            grad[200..1800].fill(0.0);
            grad[2500..4000].fill(-0.0);
            let adamw = AdamW {
                lr: 1e-2,
                beta1: 0.9,
                beta2: 0.999,
                eps: 1e-8,
                weight_decay: 0.0,
                step,
                grad_scale: 0.7,
            };
            adamw.update(&mut p, &mut grad, &mut m, &mut v, true);
            assert!(grad.iter().all(|g| g.to_bits() == 0));
        }
        [p, m, v].map(|x| {
            let others = x.iter().enumerate().filter(|(i, _)| i % 256 != 0);
            others.map(|(_, x)| x.to_bits()).collect::<Vec<_>>()
        })
    };
    let passed_over = run(false);
    assert!(passed_over == run(true));
    assert_eq!(passed_over[1][300], 0);
    assert_ne!(passed_over[1][4500], 0);
}

//! Attention against its formula in f64 and its differences.

mod common;

use common::{Random, close, dot, gradient, same_on_any_threads, wide};
use kernels::{
    Scratch,
    attention::{
        self, Grads, Inputs, Rotary, Shape,
        one::{attend_one, attend_one_backward},
    },
    dropout::Dropout,
};

/// Factors of the dropout for each token, head and key, from a run where value row j is the unit vector
/// j: the context then holds the dropped probabilities.
fn factors(shape: &Shape<'_>, dropout: Dropout<'_>) -> Vec<Vec<Vec<f64>>> {
    let Shape {
        heads,
        head_dim: d,
        offsets,
    } = *shape;
    let tokens = offsets[offsets.len() - 1];
    let mut qkv = vec![0.0; tokens * 3 * heads * d];
    for range in offsets.windows(2) {
        assert!(range[1] - range[0] <= d);
        for (j, t) in (range[0]..range[1]).enumerate() {
            for h in 0..heads {
                qkv[(t * 3 + 2) * heads * d + h * d + j] = 1.0;
            }
        }
    }
    let (mut context, mut lse) = (vec![0.0; tokens * heads * d], vec![0.0; tokens * heads]);
    attention::attend(
        shape,
        &Inputs {
            bias: None,
            relative: None,
            rotary: None,
            window: None,
            dropout,
        },
        &qkv,
        &mut context,
        &mut lse,
    );
    let mut out = Vec::new();
    for range in offsets.windows(2) {
        let l = range[1] - range[0];
        for t in range[0]..range[1] {
            let row = |h: usize| {
                (0..l)
                    .map(|j| f64::from(context[(t * heads + h) * d + j]) * l as f64)
                    .collect()
            };
            out.push((0..heads).map(row).collect());
        }
    }
    out
}

/// Attention by its formula, in f64. `factors` is empty without dropout.
fn forward(
    shape: &Shape<'_>,
    qkv: &[f64],
    bias: &[f64],
    relative: &[f64],
    factors: &[Vec<Vec<f64>>],
) -> Vec<f64> {
    let Shape {
        heads,
        head_dim: d,
        offsets,
    } = *shape;
    let width = heads * d;
    let columns = relative.len() / heads;
    let at = |t: usize, which: usize, h: usize, c: usize| {
        let column = which * width + h * d + c;
        qkv[t * 3 * width + column] + bias[column]
    };
    let mut out = vec![0.0; offsets[offsets.len() - 1] * width];
    for range in offsets.windows(2) {
        let l = range[1] - range[0];
        for h in 0..heads {
            for i in 0..l {
                let t = range[0] + i;
                let scores: Vec<f64> = (0..l)
                    .map(|j| {
                        let product: f64 = (0..d)
                            .map(|c| at(t, 0, h, c) * at(range[0] + j, 1, h, c))
                            .sum();
                        product / (d as f64).sqrt() + relative[h * columns + columns / 2 + j - i]
                    })
                    .collect();
                let largest = scores.iter().fold(f64::MIN, |a, &b| a.max(b));
                let sum: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
                for (j, score) in scores.iter().enumerate() {
                    let mut p = (score - largest).exp() / sum;
                    if let Some(factors) = factors.get(t) {
                        p *= factors[h][j];
                    }
                    for c in 0..d {
                        out[t * width + h * d + c] += p * at(range[0] + j, 2, h, c);
                    }
                }
            }
        }
    }
    out
}

/// Runs the kernels: context, d_qkv, d_bias, d_relative.
fn run(shape: &Shape<'_>, inputs: &Inputs<'_>, qkv: &[f32], d: &[f32]) -> Vec<Vec<f32>> {
    let width = shape.heads * shape.head_dim;
    let (mut context, mut lse) = (vec![9.0; d.len()], vec![9.0; d.len() / shape.head_dim]);
    attention::attend(shape, inputs, qkv, &mut context, &mut lse);
    let mut d_qkv = qkv.to_vec();
    let mut d_bias = vec![0.25; 3 * width];
    let mut d_relative = vec![0.25; inputs.relative.map_or(0, <[f32]>::len)];
    let grads = Grads {
        bias: Some(&mut d_bias),
        relative: inputs.relative.map(|_| d_relative.as_mut_slice()),
    };
    attention::attend_backward(
        shape,
        inputs,
        &mut d_qkv,
        &lse,
        d,
        grads,
        &mut Scratch::default(),
    );
    vec![context, d_qkv, d_bias, d_relative]
}

#[test]
fn attention_matches_its_formula() {
    let cases: [(usize, usize, &[usize], usize); 6] = [
        (1, 1, &[1], 1),
        (2, 5, &[3, 1, 5, 2], 5),
        (3, 16, &[1, 16, 0, 7], 20),
        (2, 20, &[17, 4], 20),
        (1, 64, &[33, 18, 40], 64),
        (2, 128, &[9, 70], 70),
    ];
    for (heads, head_dim, lengths, longest) in cases {
        for p in [0.0, 0.3] {
            let offsets = common::offsets(lengths);
            let shape = Shape {
                heads,
                head_dim,
                offsets: &offsets,
            };
            let width = heads * head_dim;
            let tokens = offsets[lengths.len()];
            let mut random = Random(width as u64);
            let (qkv, d) = (random.vec(tokens * 3 * width), random.vec(tokens * width));
            let (bias, relative) = (random.vec(3 * width), random.vec(heads * (2 * longest - 1)));
            let dropout = Dropout::new(p, 1, 2, 3);
            let factors = if p > 0.0 {
                factors(&shape, dropout)
            } else {
                Vec::new()
            };
            let inputs = Inputs {
                bias: Some(&bias),
                relative: Some(&relative),
                rotary: None,
                window: None,
                dropout,
            };
            let results = same_on_any_threads(|| run(&shape, &inputs, &qkv, &d));
            let [qkv64, bias64, relative64, d64] = [&qkv, &bias, &relative, &d].map(|x| wide(x));
            let expected = forward(&shape, &qkv64, &bias64, &relative64, &factors);
            close("context", &results[0], &expected, 2e-6);
            let added = |g: Vec<f64>| g.into_iter().map(|g| g + 0.25).collect::<Vec<_>>();
            let loss = |out: Vec<f64>| dot(&out, &d64);
            let name = format!("{heads} heads of {head_dim}, {lengths:?}, p {p}");
            if qkv.len() < 5000 {
                let expected = gradient(&qkv, |x| {
                    loss(forward(&shape, x, &bias64, &relative64, &factors))
                });
                close(&format!("d_qkv of {name}"), &results[1], &expected, 1e-5);
                let expected = added(gradient(&bias, |x| {
                    loss(forward(&shape, &qkv64, x, &relative64, &factors))
                }));
                close(&format!("d_bias of {name}"), &results[2], &expected, 1e-5);
                let expected = added(gradient(&relative, |x| {
                    loss(forward(&shape, &qkv64, &bias64, x, &factors))
                }));
                close(
                    &format!("d_relative of {name}"),
                    &results[3],
                    &expected,
                    1e-5,
                );
            } else {
                along_directions(
                    &shape,
                    &qkv,
                    &bias,
                    &relative,
                    &factors,
                    &d,
                    &results,
                    &mut random,
                );
            }
        }
    }
}

/// The gradients' products with random directions are the derivatives along them.
#[expect(clippy::too_many_arguments, reason = "each is a tensor of the formula")]
fn along_directions(
    shape: &Shape<'_>,
    qkv: &[f32],
    bias: &[f32],
    relative: &[f32],
    factors: &[Vec<Vec<f64>>],
    d: &[f32],
    results: &[Vec<f32>],
    random: &mut Random,
) {
    let inputs = [wide(qkv), wide(bias), wide(relative)];
    for which in 0..3 {
        for _ in 0..4 {
            let direction = wide(&random.vec(inputs[which].len()));
            let along = |step: f64| {
                let mut inputs = inputs.clone();
                inputs[which]
                    .iter_mut()
                    .zip(&direction)
                    .for_each(|(x, u)| *x += step * u);
                dot(
                    &forward(shape, &inputs[0], &inputs[1], &inputs[2], factors),
                    &wide(d),
                )
            };
            let expected = (along(1e-4) - along(-1e-4)) / 2e-4;
            let offset = if which == 0 { 0.0 } else { 0.25 };
            let gradient: Vec<f64> = results[1 + which]
                .iter()
                .map(|&g| f64::from(g) - offset)
                .collect();
            let norm = dot(&gradient, &gradient).sqrt() * dot(&direction, &direction).sqrt();
            let error = (dot(&gradient, &direction) - expected).abs() / norm;
            assert!(error < 1e-6, "input {which}: {error:.1e}");
        }
    }
}

#[test]
fn long_sentences_match_too() {
    let offsets = [0, 512, 513, 800];
    let shape = Shape {
        heads: 2,
        head_dim: 32,
        offsets: &offsets,
    };
    let mut random = Random(5);
    let (qkv, d) = (random.vec(800 * 192), random.vec(800 * 64));
    let (bias, relative) = (random.vec(192), random.vec(2 * 1023));
    let inputs = Inputs {
        bias: Some(&bias),
        relative: Some(&relative),
        rotary: None,
        window: None,
        dropout: Dropout::NONE,
    };
    let results = same_on_any_threads(|| run(&shape, &inputs, &qkv, &d));
    let expected = forward(&shape, &wide(&qkv), &wide(&bias), &wide(&relative), &[]);
    close("context", &results[0], &expected, 2e-6);
    along_directions(
        &shape,
        &qkv,
        &bias,
        &relative,
        &[],
        &d,
        &results,
        &mut random,
    );
}

/// The formula with rotary positions and a window, in f64.
fn rotated(shape: &Shape<'_>, qkv: &[f64], bias: &[f64], theta: f64, window: usize) -> Vec<f64> {
    let Shape {
        heads,
        head_dim: d,
        offsets,
    } = *shape;
    let width = heads * d;
    let mut out = vec![0.0; offsets[offsets.len() - 1] * width];
    for range in offsets.windows(2) {
        let l = range[1] - range[0];
        for h in 0..heads {
            let row = |i: usize, which: usize| -> Vec<f64> {
                let columns = (0..d).map(|c| which * width + h * d + c);
                let x: Vec<f64> = columns
                    .map(|column| qkv[(range[0] + i) * 3 * width + column] + bias[column])
                    .collect();
                if which == 2 {
                    return x;
                }
                let turned = (0..d).map(|c| {
                    let pair = c % (d / 2);
                    let angle = i as f64 * theta.powf(-2.0 * pair as f64 / d as f64);
                    let other = if c < d / 2 {
                        -x[c + d / 2]
                    } else {
                        x[c - d / 2]
                    };
                    x[c] * angle.cos() + other * angle.sin()
                });
                turned.collect()
            };
            let rows = |which| (0..l).map(|i| row(i, which)).collect::<Vec<_>>();
            let [q, k, v] = [0, 1, 2].map(rows);
            for i in 0..l {
                let seen = i.saturating_sub(window)..l.min(i.saturating_add(window + 1));
                let scores: Vec<f64> = seen
                    .clone()
                    .map(|j| dot(&q[i], &k[j]) / (d as f64).sqrt())
                    .collect();
                let largest = scores.iter().fold(f64::MIN, |a, &b| a.max(b));
                let sum: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
                for (j, score) in seen.zip(&scores) {
                    for c in 0..d {
                        out[(range[0] + i) * width + h * d + c] +=
                            (score - largest).exp() / sum * v[j][c];
                    }
                }
            }
        }
    }
    out
}

#[test]
fn rotary_positions_and_windows_match_their_formula() {
    const ALL: usize = 100_000;
    let cases: [(usize, usize, &[usize], usize); 8] = [
        (2, 8, &[3, 1, 9, 30], 4),
        (2, 8, &[5, 12], ALL),
        (1, 32, &[33, 0, 20], 1),
        (1, 64, &[70, 129], 16),
        (2, 16, &[15, 16, 17, 40], 0),
        // Longer than a tile of queries, and than what is computed at once.
        (1, 16, &[700, 3], 64),
        (1, 16, &[600], ALL),
        (1, 6, &[513, 512], 130),
    ];
    for (heads, head_dim, lengths, window) in cases {
        let offsets = common::offsets(lengths);
        let shape = Shape {
            heads,
            head_dim,
            offsets: &offsets,
        };
        let (width, tokens) = (heads * head_dim, offsets[lengths.len()]);
        let mut random = Random(window as u64);
        let (qkv, d) = (random.vec(tokens * 3 * width), random.vec(tokens * width));
        let bias = random.vec(3 * width);
        let theta = 1000.0;
        let rotary = Rotary::new(theta, head_dim, *lengths.iter().max().unwrap());
        let inputs = Inputs {
            bias: Some(&bias),
            relative: None,
            rotary: Some(&rotary),
            window: (window < ALL).then_some(window),
            dropout: Dropout::NONE,
        };
        let results = same_on_any_threads(|| run(&shape, &inputs, &qkv, &d));
        let forward = |qkv: &[f64], bias: &[f64]| rotated(&shape, qkv, bias, theta, window);
        let (qkv64, bias64, d64) = (wide(&qkv), wide(&bias), wide(&d));
        close("context", &results[0], &forward(&qkv64, &bias64), 1e-5);
        let name = format!("{heads} heads of {head_dim}, {lengths:?}, window {window}");
        if qkv.len() < 3000 {
            let expected = gradient(&qkv, |x| dot(&forward(x, &bias64), &d64));
            close(&format!("d_qkv of {name}"), &results[1], &expected, 1e-5);
            let expected = gradient(&bias, |x| dot(&forward(&qkv64, x), &d64));
            let expected: Vec<f64> = expected.into_iter().map(|g| g + 0.25).collect();
            close(&format!("d_bias of {name}"), &results[2], &expected, 1e-5);
            continue;
        }
        for _ in 0..4 {
            let along = wide(&random.vec(qkv.len()));
            let moved = |step: f64| -> Vec<f64> {
                qkv64
                    .iter()
                    .zip(&along)
                    .map(|(x, u)| x + step * u)
                    .collect()
            };
            let value = |step: f64| dot(&forward(&moved(step), &bias64), &d64);
            let expected = (value(1e-4) - value(-1e-4)) / 2e-4;
            let gradient = wide(&results[1]);
            let norm = dot(&gradient, &gradient).sqrt() * dot(&along, &along).sqrt();
            let error = (dot(&gradient, &along) - expected).abs() / norm;
            assert!(error < 1e-6, "{name}: {error:.1e}");
        }
    }
}

#[test]
fn a_part_of_the_batch_gives_the_same() {
    let offsets = common::offsets(&[5, 9, 3, 14]);
    let shape = Shape {
        heads: 2,
        head_dim: 16,
        offsets: &offsets,
    };
    let mut random = Random(6);
    let (qkv, d) = (random.vec(31 * 96), random.vec(31 * 32));
    let dropout = Dropout::new(0.4, 1, 2, 3);
    let inputs = Inputs {
        bias: None,
        relative: None,
        rotary: None,
        window: None,
        dropout,
    };
    let whole = run(&shape, &inputs, &qkv, &d);
    let shape = Shape {
        heads: 2,
        head_dim: 16,
        offsets: &[0, 3, 17],
    };
    let inputs = Inputs {
        dropout: dropout.starting_at(14),
        ..inputs
    };
    let part = run(&shape, &inputs, &qkv[14 * 96..], &d[14 * 32..]);
    assert_eq!(part[0], whole[0][14 * 32..]);
    assert_eq!(part[1], whole[1][14 * 96..]);
}

#[test]
fn dropped_probabilities_have_the_right_share_and_are_independent_of_head() {
    let offsets = common::offsets(&[64; 30]);
    let shape = Shape {
        heads: 4,
        head_dim: 64,
        offsets: &offsets,
    };
    let p = 0.1;
    let factors = factors(&shape, Dropout::new(p, 9, 9, 9));
    let kept = |h: usize| -> Vec<bool> {
        factors
            .iter()
            .flat_map(|t| t[h].iter().map(|&f| f > 0.0))
            .collect()
    };
    let first = kept(0);
    let n = first.len() as f64;
    let within = |share: f64, expected: f64| {
        (share - expected).abs() < 5.0 * (expected * (1.0 - expected) / n).sqrt()
    };
    for h in 0..4 {
        let other = kept(h);
        let share = other.iter().filter(|&&k| k).count() as f64 / n;
        assert!(within(share, 1.0 - p), "{share}");
        if h > 0 {
            let both = first.iter().zip(&other).filter(|(a, b)| **a && **b).count() as f64 / n;
            assert!(within(both, (1.0 - p) * (1.0 - p)), "{both}");
        }
        for shift in [1, 16, 64, 128, 256] {
            let both = other
                .iter()
                .zip(&other[shift..])
                .filter(|(a, b)| **a && **b)
                .count() as f64
                / n;
            assert!(
                (both - (1.0 - p) * (1.0 - p)).abs() < 0.008,
                "{shift}: {both}"
            );
        }
    }
    for factor in factors.iter().flatten().flatten() {
        assert!(*factor == 0.0 || (factor - 1.0 / (1.0 - p)).abs() < 1e-6);
    }
}

#[test]
#[should_panic(expected = "a sentence of 3 tokens is beyond the relative bias")]
fn too_long_a_sentence_is_refused() {
    let shape = Shape {
        heads: 1,
        head_dim: 1,
        offsets: &[0, 3],
    };
    let inputs = Inputs {
        bias: None,
        relative: Some(&[0.0; 3]),
        rotary: None,
        window: None,
        dropout: Dropout::NONE,
    };
    attention::attend(&shape, &inputs, &[0.0; 9], &mut [0.0; 3], &mut [0.0; 3]);
}

#[test]
fn an_empty_batch_is_fine() {
    let shape = Shape {
        heads: 1,
        head_dim: 4,
        offsets: &[0],
    };
    let inputs = Inputs {
        bias: None,
        relative: None,
        rotary: None,
        window: None,
        dropout: Dropout::NONE,
    };
    attention::attend(&shape, &inputs, &[], &mut [], &mut []);
}

/// Runs the kernels for one query a sentence: context, d_q, d_kv, d_bias, d_relative.
fn run_one(
    shape: &Shape<'_>,
    inputs: &Inputs<'_>,
    queries: &[usize],
    q: &[f32],
    kv: &[f32],
    d: &[f32],
) -> Vec<Vec<f32>> {
    let width = shape.heads * shape.head_dim;
    let (mut context, mut lse) = (vec![9.0; q.len()], vec![9.0; q.len() / shape.head_dim]);
    attend_one(shape, inputs, queries, q, kv, &mut context, &mut lse);
    let (mut d_q, mut d_kv) = (q.to_vec(), kv.to_vec());
    let mut d_bias = vec![0.25; 3 * width];
    let mut d_relative = vec![0.25; inputs.relative.map_or(0, <[f32]>::len)];
    let grads = Grads {
        bias: Some(&mut d_bias),
        relative: inputs.relative.map(|_| d_relative.as_mut_slice()),
    };
    let mut scratch = Scratch::default();
    attend_one_backward(
        shape,
        inputs,
        queries,
        &mut d_q,
        &mut d_kv,
        &lse,
        d,
        grads,
        &mut scratch,
    );
    vec![context, d_q, d_kv, d_bias, d_relative]
}

/// The rows of all tokens whose other outputs get no gradient.
#[test]
fn one_query_a_sentence_is_attention_whose_other_outputs_are_not_read() {
    let (heads, head_dim) = (3, 20);
    let lengths = [1, 5, 40, 17, 90, 3];
    let (offsets, width) = (common::offsets(&lengths), heads * head_dim);
    let shape = Shape {
        heads,
        head_dim,
        offsets: &offsets,
    };
    let tokens = offsets[lengths.len()];
    let mut random = Random(23);
    let qkv = random.vec(tokens * 3 * width);
    let (bias, relative) = (random.vec(3 * width), random.vec(heads * (2 * 90 - 1)));
    let rotary = Rotary::new(100.0, head_dim, 90);
    let d = random.vec(lengths.len() * width);
    for place in [0, 7, 1000] {
        let queries: Vec<usize> = offsets
            .windows(2)
            .map(|ends| ends[0] + place.min(ends[1] - ends[0] - 1))
            .collect();
        let mut d_context = vec![0.0; tokens * width];
        let (mut q, mut kv) = (Vec::new(), Vec::new());
        for (d, query) in d.chunks(width).zip(&queries) {
            d_context[query * width..][..width].copy_from_slice(d);
            q.extend_from_slice(&qkv[query * 3 * width..][..width]);
        }
        for row in qkv.chunks(3 * width) {
            kv.extend_from_slice(&row[width..]);
        }
        for p in [0.0, 0.3] {
            for kind in 0..3 {
                let inputs = Inputs {
                    bias: Some(&bias).filter(|_| kind < 2).map(Vec::as_slice),
                    relative: Some(&relative).filter(|_| kind == 0).map(Vec::as_slice),
                    rotary: Some(&rotary).filter(|_| kind > 0),
                    window: Some(8).filter(|_| kind == 2),
                    dropout: Dropout::new(p, 1, 2, 3).starting_at(5),
                };
                let all = run(&shape, &inputs, &qkv, &d_context);
                let found = same_on_any_threads(|| run_one(&shape, &inputs, &queries, &q, &kv, &d));
                let of_queries = |rows: &[f32], row: usize| -> Vec<f64> {
                    let rows = queries.iter().map(|query| &rows[query * row..][..width]);
                    wide(&rows.flatten().copied().collect::<Vec<_>>())
                };
                let name = |what: &str| format!("{what} of kind {kind}, place {place}, p {p}");
                let context = of_queries(&all[0], width);
                close(&name("context"), &found[0], &context, 2e-6);
                let d_q = of_queries(&all[1], 3 * width);
                close(&name("d_q"), &found[1], &d_q, 2e-6);
                let d_kv = all[1].chunks(3 * width).flat_map(|row| &row[width..]);
                let d_kv = wide(&d_kv.copied().collect::<Vec<_>>());
                close(&name("d_kv"), &found[2], &d_kv, 2e-6);
                close(&name("d_bias"), &found[3], &wide(&all[2]), 2e-6);
                close(&name("d_relative"), &found[4], &wide(&all[3]), 2e-6);
            }
        }
    }
}

#[test]
#[should_panic(expected = "token 3 is not in 0..3")]
fn a_query_of_another_sentence_is_refused() {
    let shape = Shape {
        heads: 1,
        head_dim: 1,
        offsets: &[0, 3, 5],
    };
    let inputs = Inputs {
        bias: None,
        relative: None,
        rotary: None,
        window: None,
        dropout: Dropout::NONE,
    };
    let (mut context, mut lse) = ([0.0; 2], [0.0; 2]);
    let (q, kv) = ([0.0; 2], [0.0; 10]);
    attend_one(&shape, &inputs, &[3, 4], &q, &kv, &mut context, &mut lse);
}

#[test]
fn every_instruction_set_passes() {
    common::on_lower_levels();
}

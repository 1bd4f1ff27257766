//! Every kernel at the shapes of MPNet-base and of a model half as wide, for a step of 16 NLI
//! triplets. Buffers rotate, so that a kernel finds its inputs where a step of many layers leaves
//! them, not in the cache of the run before.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};

use kernels::{
    Scratch,
    attention::{self, Grads, Inputs},
    bf16,
    dropout::{self, Dropout},
    embedding::{self, Embeddings, Order},
    gelu,
    gemm::{
        Gemm, Kind, RustGemm, Shape,
        half::{Bf16Gemm, Fp16Gemm},
    },
    norm::{self, LayerNorm, LayerNormGrad},
    optimizer::{self, AdamW},
    pooling::{self, Pooling},
};

/// Sets of buffers that take turns.
const TURNS: usize = 8;

/// A model's sizes.
#[derive(Clone, Copy)]
struct Model {
    name: &'static str,
    width: usize,
    inner: usize,
    heads: usize,
    parameters: usize,
}

const MODELS: [Model; 2] = [
    Model {
        name: "base",
        width: 768,
        inner: 3072,
        heads: 12,
        parameters: 109_486_464,
    },
    Model {
        name: "mini",
        width: 384,
        inner: 1536,
        heads: 12,
        parameters: 22_713_216,
    },
];

/// Offsets of 16 anchors, positives and negatives of 606 tokens in all: means 17.5, 10 and 10.4.
fn offsets() -> Vec<usize> {
    let mut lengths = Vec::new();
    for i in 0..16 {
        lengths.push(9 + (i * 7) % 18);
    }
    for i in 0..32 {
        lengths.push(6 + (i * 5) % 10);
    }
    let short = 606 - lengths.iter().sum::<usize>();
    lengths[0] += short % 16;
    for length in &mut lengths[..16] {
        *length += short / 16;
    }
    let mut offsets = vec![0];
    for length in lengths {
        offsets.push(offsets[offsets.len() - 1] + length);
    }
    offsets
}

/// Values without a pattern, in [-1, 1).
fn values(n: usize) -> Vec<f32> {
    let mut state = 1u32;
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// Measures `f` alone, on a set of buffers whose part `spent` is restored before each call: buffers
/// that a kernel overwrites with its own result would otherwise decay into denormals.
fn restored<const N: usize>(
    c: &mut BenchmarkGroup<'_, WallTime>,
    label: &str,
    turns: &mut Turns<N>,
    spent: usize,
    mut f: impl FnMut(&mut [Vec<f32>; N]),
) {
    let fresh = turns.next()[spent].clone();
    c.bench_function(label, |b| {
        b.iter_custom(|iterations| {
            let mut elapsed = Duration::ZERO;
            for _ in 0..iterations {
                let set = turns.next();
                let start = Instant::now();
                f(set);
                elapsed += start.elapsed();
                // Restored now, cold again when its turn comes.
                set[spent].copy_from_slice(&fresh);
            }
            elapsed
        });
    });
}

/// Buffers that take turns.
struct Turns<const N: usize> {
    sets: Vec<[Vec<f32>; N]>,
    next: usize,
}

impl<const N: usize> Turns<N> {
    fn new(lengths: [usize; N]) -> Self {
        Self {
            sets: (0..TURNS).map(|_| lengths.map(values)).collect(),
            next: 0,
        }
    }

    fn next(&mut self) -> &mut [Vec<f32>; N] {
        self.next = (self.next + 1) % TURNS;
        &mut self.sets[self.next]
    }
}

fn rows(c: &mut Criterion) {
    for model in MODELS {
        let Model {
            name, width, inner, ..
        } = model;
        let offsets = offsets();
        let tokens = offsets[offsets.len() - 1];
        let (n, sentences) = (tokens * width, offsets.len() - 1);
        let [gamma, beta, bias] = [0; 3].map(|_| values(width));
        let norm = LayerNorm {
            gamma: &gamma,
            beta: Some(&beta),
            eps: 1e-12,
        };
        let dropout = Dropout::new(0.1, 1, 2, 3);
        let mut scratch = Scratch::default();
        let mut rstd = vec![1.0; tokens];
        let [mut d_gamma, mut d_beta, mut d_bias] = [0; 3].map(|_| vec![0.0; width]);
        let mut group = c.benchmark_group(name);
        let bytes = |floats: usize| Throughput::Bytes(4 * floats as u64);

        for (label, dropout) in [
            ("add_layer_norm", dropout),
            ("add_layer_norm p=0", Dropout::NONE),
        ] {
            let mut turns = Turns::new([n, n, n]);
            group.throughput(bytes(4 * n)).bench_function(label, |b| {
                b.iter(|| {
                    let [y, residual, out] = turns.next();
                    norm::add_layer_norm(&norm, y, Some(&bias), &dropout, residual, &mut rstd, out);
                });
            });
        }
        let mut turns = Turns::new([n, n, n]);
        group.throughput(bytes(4 * n));
        restored(
            &mut group,
            "add_layer_norm_backward",
            &mut turns,
            1,
            |[normalised, d, d_y]| {
                let grad = Some(LayerNormGrad {
                    gamma: &mut d_gamma,
                    beta: Some(&mut d_beta),
                });
                norm::add_layer_norm_backward(
                    &gamma,
                    normalised,
                    &rstd,
                    &dropout,
                    d,
                    None,
                    d_y,
                    Some(&mut d_bias),
                    grad,
                    &mut scratch,
                );
            },
        );

        let inner_bias = values(inner);
        let mut d_inner_bias = vec![0.0; inner];
        let m = tokens * inner;
        let mut turns = Turns::new([m, m]);
        group.throughput(bytes(3 * m)).bench_function("gelu", |b| {
            b.iter(|| {
                let [x, act] = turns.next();
                gelu::gelu(x, &inner_bias, act);
            });
        });
        group.throughput(bytes(3 * m));
        restored(
            &mut group,
            "gelu_backward",
            &mut turns,
            1,
            |[derivative, d]| {
                gelu::gelu_backward(derivative, d, Some(&mut d_inner_bias), &mut scratch);
            },
        );
        group.throughput(bytes(2 * m));
        restored(&mut group, "gelu_in_place", &mut turns, 0, |[x, _]| {
            gelu::gelu_in_place(x, &inner_bias);
        });
        drop(turns);

        let vocabulary = 30_527;
        let (word, position) = (values(vocabulary * width), values(514 * width));
        let ids: Vec<u32> = (0..tokens)
            .map(|t| (t * t * 37 % vocabulary) as u32)
            .collect();
        let positions: Vec<u32> = offsets
            .windows(2)
            .flat_map(|range| (0..range[1] - range[0]).map(|i| 2 + i as u32))
            .collect();
        let tables = Embeddings {
            word: &word,
            token_type: None,
            position: Some(&position),
            norm,
        };
        let mut turns = Turns::new([n, n]);
        group.throughput(bytes(3 * n)).bench_function("embed", |b| {
            b.iter(|| {
                let [normalised, out] = turns.next();
                embedding::embed(
                    &tables, &ids, &positions, &dropout, normalised, &mut rstd, out,
                );
            });
        });
        let mut d_word = vec![0.0; word.len()];
        let mut d_position = vec![0.0; position.len()];
        group.throughput(bytes(9 * n));
        restored(
            &mut group,
            "embed_backward and scatter",
            &mut turns,
            1,
            |[normalised, d]| {
                let grad = Some(LayerNormGrad {
                    gamma: &mut d_gamma,
                    beta: Some(&mut d_beta),
                });
                embedding::embed_backward(
                    &gamma,
                    normalised,
                    &rstd,
                    &dropout,
                    d,
                    grad,
                    &mut scratch,
                );
                embedding::scatter(&Order::new(&ids), d, width, Some(1), &mut d_word);
                embedding::scatter(&Order::new(&positions), d, width, Some(1), &mut d_position);
            },
        );

        let mut out = vec![0.0; sentences * width];
        let mut turns = Turns::new([n]);
        group
            .throughput(bytes(2 * n))
            .bench_function("pool and pool_backward", |b| {
                b.iter(|| {
                    let [x] = turns.next();
                    pooling::pool(Pooling::Mean, &offsets, &[], width, x, &mut out);
                    pooling::pool_backward(Pooling::Mean, &offsets, &[], width, &[], &out, x);
                });
            });
        group
            .throughput(Throughput::Elements(n as u64))
            .bench_function("dropout", |b| {
                b.iter(|| dropout::apply(&dropout, width, &mut turns.next()[0]));
            });
        let mut half = vec![0; n];
        group
            .throughput(Throughput::Bytes(6 * n as u64))
            .bench_function("bf16::from_f32", |b| {
                b.iter(|| bf16::from_f32(&turns.next()[0], &mut half));
            });
        group
            .throughput(Throughput::Bytes(6 * n as u64))
            .bench_function("bf16::to_f32", |b| {
                b.iter(|| bf16::to_f32(&half, &mut turns.next()[0]));
            });
    }
}

fn attention(c: &mut Criterion) {
    for model in MODELS {
        let Model {
            name, width, heads, ..
        } = model;
        for (label, offsets, longest) in [
            ("nli", offsets(), 512),
            ("512", vec![0, 512], 512),
            ("2048", vec![0, 2048], 2048),
        ] {
            let tokens = offsets[offsets.len() - 1];
            let relative_len = heads * (2 * longest - 1);
            let shape = attention::Shape {
                heads,
                head_dim: width / heads,
                offsets: &offsets,
            };
            let (bias, relative) = (values(3 * width), values(relative_len));
            let inputs = Inputs {
                bias: Some(&bias),
                relative: Some(&relative),
                rotary: None,
                window: None,
                dropout: Dropout::new(0.1, 1, 2, 3),
            };
            let mut lse = vec![0.0; tokens * heads];
            let mut turns = Turns::new([3 * tokens * width, tokens * width]);
            let pairs: usize = offsets
                .windows(2)
                .map(|range| (range[1] - range[0]).pow(2))
                .sum();
            let mut group = c.benchmark_group(name);
            // A multiplication and an addition for each pair and column, in two products.
            group.throughput(Throughput::Elements((4 * pairs * width) as u64));
            group.bench_function(format!("attend {label}"), |b| {
                b.iter(|| {
                    let [qkv, context] = turns.next();
                    attention::attend(&shape, &inputs, qkv, context, &mut lse);
                });
            });
            lse.fill(10.0);
            let (mut d_bias, mut d_relative) = (vec![0.0; 3 * width], vec![0.0; relative_len]);
            let mut scratch = Scratch::default();
            group.throughput(Throughput::Elements((10 * pairs * width) as u64));
            let label = format!("attend_backward {label}");
            restored(&mut group, &label, &mut turns, 0, |[qkv, d_context]| {
                let grads = Grads {
                    bias: Some(&mut d_bias),
                    relative: Some(&mut d_relative),
                };
                attention::attend_backward(
                    &shape,
                    &inputs,
                    qkv,
                    &lse,
                    d_context,
                    grads,
                    &mut scratch,
                );
            });
        }
    }
}

fn optimizer(c: &mut Criterion) {
    for Model {
        name,
        parameters: n,
        ..
    } in MODELS
    {
        let mut p = values(n);
        let mut g = values(n);
        let (mut m, mut v) = (vec![0.0; n], vec![0.0; n]);
        let mut group = c.benchmark_group(name);
        group.throughput(Throughput::Bytes(4 * n as u64));
        group.bench_function("squared_norm", |b| {
            b.iter(|| black_box(optimizer::squared_norm(&g)))
        });
        let step = AdamW {
            lr: 1e-5,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.01,
            step: 1,
            grad_scale: 0.5,
        };
        for (label, zero_grad, traffic) in [("adamw", false, 28), ("adamw, zeroing", true, 32)] {
            group.throughput(Throughput::Bytes(traffic * n as u64));
            group.bench_function(label, |b| {
                b.iter(|| step.update(&mut p, &mut g, &mut m, &mut v, zero_grad))
            });
        }
    }
}

fn products(c: &mut Criterion) {
    for Model {
        name, width, inner, ..
    } in MODELS
    {
        let mut group = c.benchmark_group(name);
        for (inputs, outputs) in [
            (width, 3 * width),
            (width, width),
            (width, inner),
            (inner, width),
        ] {
            let tokens = 606;
            let (x, w, y) = (
                values(tokens * inputs),
                values(outputs * inputs),
                values(tokens * outputs),
            );
            let (mut d_x, mut d_w, mut out) = (x.clone(), w.clone(), y.clone());
            group.throughput(Throughput::Elements((2 * tokens * inputs * outputs) as u64));
            let (m, n, k) = (tokens, outputs, inputs);
            for (format, gemm) in &gemms() {
                let name = format!("{format} {tokens},{inputs},{outputs}");
                group.bench_function(format!("gemm {name} forward"), |b| {
                    let shape = Shape { m, n, k };
                    b.iter(|| gemm.product(Kind::NT, shape, 1.0, &x, &w, 0.0, &mut out));
                });
                group.bench_function(format!("gemm {name} input"), |b| {
                    let shape = Shape { m, n: k, k: n };
                    b.iter(|| gemm.product(Kind::NN, shape, 1.0, &y, &w, 0.0, &mut d_x));
                });
                group.bench_function(format!("gemm {name} weight"), |b| {
                    let shape = Shape { m: n, n: k, k: m };
                    b.iter(|| gemm.product(Kind::TN, shape, 1.0, &y, &x, 1.0, &mut d_w));
                });
            }
        }
    }
}

/// The GEMM backends that this processor has instructions for.
fn gemms() -> Vec<(&'static str, Box<dyn Gemm>)> {
    let mut gemms: Vec<(&'static str, Box<dyn Gemm>)> = vec![("fp32", Box::new(RustGemm))];
    if let Some(gemm) = Bf16Gemm::new() {
        gemms.push(("bf16", Box::new(gemm)));
    }
    if let Some(gemm) = Fp16Gemm::new() {
        gemms.push(("fp16", Box::new(gemm)));
    }
    gemms
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(1500));
    targets = rows, attention, optimizer, products
}
criterion_main!(benches);

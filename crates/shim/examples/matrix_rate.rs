//! The processor's rate of matrix products by precision, which `cargo xtask bench` sets speeds beside.
//!
//! Each library that sentune or its peer computes with multiplies matrices of the shapes of MPNet-base and of a
//! model half as wide: one JSON line a measurement, the best of many repetitions.
//!
//! `cargo run --example matrix_rate -- THREADS`
#![expect(clippy::print_stdout, reason = "stdout is this program's result")]

use std::{
    error::Error,
    hint::black_box,
    time::{Duration, Instant},
};

use kernels::gemm::{
    Gemm, Kind, RustGemm, Shape,
    half::{Bf16Gemm, Fp16Gemm},
};
use serde_json::json;
use tch::{Device, Tensor};

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// Rows, columns and inner length: 606 tokens are a step of 16 NLI triplets.
const SHAPES: [(usize, usize, usize); 7] = [
    (606, 768, 768),
    (606, 2304, 768),
    (606, 3072, 768),
    (606, 768, 3072),
    (606, 1536, 384),
    (606, 384, 1536),
    (2048, 2048, 2048),
];

/// Time spent on each measurement.
const BUDGET: Duration = Duration::from_millis(200);

fn main() -> Result {
    let n_threads: usize = std::env::args()
        .nth(1)
        .ok_or("name the number of threads")?
        .parse()?;
    rayon::ThreadPoolBuilder::new()
        .num_threads(n_threads)
        .build_global()?;
    // First, since libtorch's threads spin for a while after their work.
    let (bf16, fp16) = (Bf16Gemm::new(), Fp16Gemm::new());
    let products: [(&str, &str, Option<&dyn Gemm>); 3] = [
        ("the gemm crate", "fp32", Some(&RustGemm)),
        (
            "our own",
            "bf16",
            bf16.as_ref().map(|gemm| gemm as &dyn Gemm),
        ),
        (
            "our own",
            "fp16",
            fp16.as_ref().map(|gemm| gemm as &dyn Gemm),
        ),
    ];
    for (library, precision, gemm) in products {
        // A format that the processor lacks is absent.
        let Some(gemm) = gemm else { continue };
        for shape in SHAPES {
            for kind in [Kind::NT, Kind::NN, Kind::TN] {
                let seconds = ours(gemm, shape, kind);
                tell(library, precision, &format!("{kind:?}"), shape, seconds);
            }
        }
    }
    tch::set_num_threads(i32::try_from(n_threads)?);
    for (precision, kind) in [
        ("fp32", tch::Kind::Float),
        ("bf16", tch::Kind::BFloat16),
        ("fp16", tch::Kind::Half),
    ] {
        for shape in SHAPES {
            libtorch(shape, precision, kind)?;
        }
    }
    Ok(())
}

/// The time of a product as our layers compute it, from f32 and to f32.
fn ours(gemm: &dyn Gemm, (m, n, k): (usize, usize, usize), kind: Kind) -> f64 {
    let (a, b) = (values(m * k), values(k * n));
    let mut c = vec![0.0; m * n];
    best(|| {
        gemm.product(kind, Shape { m, n, k }, 1.0, &a, &b, 0.0, &mut c);
        black_box(&c);
    })
}

/// A linear layer of libtorch, forward, as the peer computes it.
fn libtorch((m, n, k): (usize, usize, usize), precision: &str, kind: tch::Kind) -> Result {
    let matrix = |rows: usize, columns: usize| -> Result<Tensor> {
        let values = Tensor::f_from_slice(&values(rows * columns))?;
        let matrix = values.f_view([rows as i64, columns as i64])?;
        Ok(matrix.f_to_device(Device::Cpu)?.f_to_kind(kind)?)
    };
    let (a, b) = (matrix(m, k)?, matrix(n, k)?);
    let mut result = Ok(());
    let seconds = best(|| {
        match a.f_linear::<Tensor>(&b, None) {
            Ok(c) => drop(black_box(c)),
            Err(error) => result = Err(error),
        };
    });
    result?;
    tell("libtorch", precision, "NT", (m, n, k), seconds);
    Ok(())
}

/// The shortest time of one call, in seconds, after one that does not count.
fn best(mut call: impl FnMut()) -> f64 {
    call();
    let started = Instant::now();
    let mut best = Duration::MAX;
    for n_calls in 0.. {
        if n_calls >= 3 && started.elapsed() > BUDGET {
            break;
        }
        let begin = Instant::now();
        call();
        best = best.min(begin.elapsed());
    }
    best.as_secs_f64()
}

fn tell(
    library: &str,
    precision: &str,
    product: &str,
    (m, n, k): (usize, usize, usize),
    seconds: f64,
) {
    let gflops = 2e-9 * (m * n * k) as f64 / seconds;
    println!(
        "{}",
        json!({
            "type": "product", "library": library, "precision": precision, "product": product,
            "m": m, "n": n, "k": k, "gflops": gflops,
        })
    );
}

/// Values without a pattern, in [-1, 1).
fn values(n: usize) -> Vec<f32> {
    let mut state = 1u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(n).collect()
}

//! The chip's rate of matrix products, by precision: what `cargo xtask bench` sets speeds beside.
//!
//! Each library that sentune or its peer computes with multiplies matrices of the shapes of MPNet-base and of a
//! model half as wide; one JSON line a measurement, the best of many repetitions.
#![expect(clippy::print_stdout, reason = "stdout is this program's result")]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::Parser;
use kernels::gemm::{
    Gemm, Kind, RustGemm, Shape,
    half::{Bf16Gemm, Fp16Gemm},
};
use serde_json::json;
use tch::{Device, Tensor};

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

/// The rate of matrix products by every library at hand, as JSON lines.
#[derive(Debug, Parser)]
struct Args {
    /// Threads [default: all cores]
    #[arg(long)]
    num_threads: Option<usize>,
    /// Seconds spent on each measurement
    #[arg(long, default_value_t = 0.2)]
    seconds: f64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let n_threads = match args.num_threads {
        Some(n_threads) => n_threads,
        None => std::thread::available_parallelism()?.get(),
    };
    rayon::ThreadPoolBuilder::new()
        .num_threads(n_threads)
        .build_global()?;
    let budget = Duration::try_from_secs_f64(args.seconds)?;
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
        // What the processor lacks is absent.
        let Some(gemm) = gemm else { continue };
        for shape in SHAPES {
            for kind in [Kind::NT, Kind::NN, Kind::TN] {
                let seconds = ours(gemm, shape, kind, budget);
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
            libtorch(shape, precision, kind, budget)?;
        }
    }
    Ok(())
}

/// The time of a product as our layers compute it, from f32 and to f32.
fn ours(gemm: &dyn Gemm, (m, n, k): (usize, usize, usize), kind: Kind, budget: Duration) -> f64 {
    let (a, b) = (values(m * k), values(k * n));
    let mut c = vec![0.0; m * n];
    best(budget, || {
        gemm.product(kind, Shape { m, n, k }, 1.0, &a, &b, 0.0, &mut c);
        black_box(&c);
    })
}

/// A linear layer of libtorch, forward: the peer's.
fn libtorch(
    (m, n, k): (usize, usize, usize),
    precision: &str,
    kind: tch::Kind,
    budget: Duration,
) -> Result<()> {
    let matrix = |rows: usize, columns: usize| -> Result<Tensor> {
        let values = Tensor::f_from_slice(&values(rows * columns))?;
        let matrix = values.f_view([rows as i64, columns as i64])?;
        Ok(matrix.f_to_device(Device::Cpu)?.f_to_kind(kind)?)
    };
    let (a, b) = (matrix(m, k)?, matrix(n, k)?);
    let mut result = Ok(());
    let seconds = best(budget, || {
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
fn best(budget: Duration, mut call: impl FnMut()) -> f64 {
    call();
    let started = Instant::now();
    let mut best = Duration::MAX;
    for n_calls in 0.. {
        if n_calls >= 3 && started.elapsed() > budget {
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
            "library": library, "precision": precision, "product": product,
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

//! Rates of the GEMM backends, measured at a model's own shapes.

use std::time::{Duration, Instant};

use kernels::gemm::{Gemm, Kind, RustGemm, Shape};
use shim::gemm::LibtorchGemm;

use crate::sentence_transformer::SentenceTransformer;

/// Tokens of a batch, about as many as 16 triplets of short texts have.
const N_TOKENS: usize = 512;

/// Rounds, in each of which the backends take turns. The first is for warming up; of the others the fastest counts, since
/// whatever else the machine does only slows a round down.
const N_ROUNDS: usize = 4;

/// Rates of products in fp32, in Gflop/s.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GemmRates {
    /// Rate of [`GemmName::Rust`](crate::GemmName::Rust).
    pub rust: f64,
    /// Rate of [`GemmName::Libtorch`](crate::GemmName::Libtorch).
    pub libtorch: f64,
}

impl SentenceTransformer {
    /// The rate of each GEMM backend, on the threads of rayon's current pool: a feed-forward layer of this
    /// model forward, and both of its gradients. It takes a third of a second for MPNet-base on two cores.
    pub fn gemm_rates(&self) -> GemmRates {
        let spec = self.encoder().spec();
        let (hidden, wide) = (spec.hidden_size as usize, spec.intermediate_size as usize);
        let shapes = [
            (Kind::NT, N_TOKENS, wide, hidden),
            (Kind::NN, N_TOKENS, hidden, wide),
            (Kind::TN, wide, hidden, N_TOKENS),
        ];
        let backends: [&dyn Gemm; 2] = [&RustGemm, &LibtorchGemm];
        // Each of the three matrices of each product is at most so large.
        let [a, b, mut c] = [(); 3].map(|()| vec![0.5_f32; wide * hidden.max(N_TOKENS)]);
        let mut fastest = [Duration::MAX; 2];
        for round in 0..N_ROUNDS {
            for (gemm, fastest) in backends.iter().zip(&mut fastest) {
                let start = Instant::now();
                for (kind, m, n, k) in shapes {
                    let (a, b, c) = (&a[..m * k], &b[..k * n], &mut c[..m * n]);
                    gemm.product(kind, Shape { m, n, k }, 1.0, a, b, 0.0, c);
                }
                if round > 0 {
                    *fastest = start.elapsed().min(*fastest);
                }
            }
        }
        let flops: usize = shapes.iter().map(|(_, m, n, k)| 2 * m * n * k).sum();
        let rate = |time: Duration| flops as f64 / time.as_secs_f64() / 1e9;
        let [rust, libtorch] = fastest.map(rate);
        GemmRates { rust, libtorch }
    }
}

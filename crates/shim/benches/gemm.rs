//! libtorch's GEMM beside ours, at the shapes of MPNet-base for a step of 16 NLI triplets: the basis of
//! the choice of `--gemm auto`.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

use kernels::gemm::{Gemm, Kind, RustGemm, Shape};
use shim::gemm::LibtorchGemm;

const TOKENS: usize = 606;

fn products(criterion: &mut Criterion) {
    tch::set_num_threads(1);
    let gemms: [(&str, &dyn Gemm); 2] = [("rust", &RustGemm), ("libtorch", &LibtorchGemm)];
    for (n, k) in [(2304, 768), (768, 768), (3072, 768), (768, 3072)] {
        let mut group = criterion.benchmark_group(format!("{n} x {k}"));
        group.throughput(Throughput::Elements(2 * (TOKENS * n * k) as u64));
        for (kind, shape, beta) in [
            (Kind::NT, Shape { m: TOKENS, n, k }, 0.0),
            (
                Kind::NN,
                Shape {
                    m: TOKENS,
                    n: k,
                    k: n,
                },
                0.0,
            ),
            (
                Kind::TN,
                Shape {
                    m: n,
                    n: k,
                    k: TOKENS,
                },
                1.0,
            ),
        ] {
            for (name, gemm) in gemms {
                let a = vec![0.5; shape.m * shape.k];
                let b = vec![0.5; shape.k * shape.n];
                let mut c = vec![0.5; shape.m * shape.n];
                group.bench_function(format!("{kind:?} {name}"), |bencher| {
                    bencher.iter(|| gemm.product(kind, shape, 1.0, &a, &b, beta, &mut c));
                });
            }
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(std::time::Duration::from_secs(2));
    targets = products
}
criterion_main!(benches);

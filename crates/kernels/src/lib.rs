//! Fused CPU kernels on plain slices: the operations of a training step on a packed batch, forward and
//! backward, the matrix products, and the optimizer.
//!
//! Matrices are row-major f32. A batch is packed: the tokens of all sentences follow each other as
//! one [tokens, width] matrix without padding, and `offsets` [sentences + 1] holds the start of each
//! sentence.
//!
//! Every kernel reads and writes memory once, on the threads of rayon's current pool, and gives the
//! same bits for any number of threads: sums over rows are taken over blocks whose size depends on
//! the shape alone and added up in order. Gradients of parameters are added to their destination.
//!
//! Lengths that do not fit together are a bug of the caller and cause a panic.

pub mod attention;
pub mod bf16;
pub mod dropout;
pub mod embedding;
pub mod gelu;
pub mod gemm;
mod math;
pub mod norm;
pub mod optimizer;
pub mod pooling;
pub mod profile;
pub mod random;
mod rows;
mod simd;

pub use rows::Scratch;

/// The instructions that the kernels use on this processor: `avx512`, `avx2` or `portable`.
pub fn instructions() -> &'static str {
    match simd::level() {
        #[cfg(target_arch = "x86_64")]
        simd::Level::Avx512 => "avx512",
        #[cfg(target_arch = "x86_64")]
        simd::Level::Avx2 => "avx2",
        simd::Level::Portable => "portable",
    }
}

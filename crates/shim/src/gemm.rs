//! libtorch's matrix product as a GEMM backend.

use rayon::prelude::*;
use tch::{Device, TchError, Tensor};

use kernels::gemm::{Gemm, Kind, Shape};

/// libtorch's fp32 product, which is MKL's, on the threads of rayon's current pool.
///
/// libtorch's own threads are not used: they spin for a while after each product, on cores that other kernels
/// need. Each block of rows of C is one product on one of rayon's threads; `tch::set_num_threads(1)` must have
/// been called before. The blocks depend on the shape alone, so the bits do not depend on the number of threads.
#[derive(Clone, Copy, Debug, Default)]
pub struct LibtorchGemm;

/// Rows of a block: enough that packing B, which MKL does once per block, takes little time compared with the
/// product.
const ROWS: usize = 384;

impl Gemm for LibtorchGemm {
    /// # Panics
    /// If the lengths do not fit the shape, or libtorch has no memory left.
    fn product(
        &self,
        kind: Kind,
        shape: Shape,
        alpha: f32,
        a: &[f32],
        b: &[f32],
        beta: f32,
        c: &mut [f32],
    ) {
        let Shape { m, n, k } = shape;
        assert_eq!(a.len(), m * k, "A of {kind:?} {shape:?}");
        assert_eq!(b.len(), k * n, "B of {kind:?} {shape:?}");
        assert_eq!(c.len(), m * n, "C of {kind:?} {shape:?}");
        if c.is_empty() {
            return;
        }
        if k == 0 {
            // Matrices without elements do not go to libtorch; with beta 0, C is not read.
            let scaled = |old: f32| if beta == 0.0 { 0.0 } else { beta * old };
            return c.iter_mut().for_each(|c| *c = scaled(*c));
        }
        // An even number of blocks, since an odd one leaves the last of two threads idle.
        let n_blocks = m.div_ceil(ROWS).next_multiple_of(2);
        let rows = m.div_ceil(n_blocks);
        c.par_chunks_mut(rows * n).enumerate().for_each(|(i, c)| {
            let block = Block {
                first: i * rows,
                rows: c.len() / n,
            };
            if let Err(error) = block.product(kind, shape, alpha, a, b, beta, c) {
                panic!("libtorch's product {kind:?} {shape:?}: {error}");
            }
        });
    }
}

/// Block of rows of C.
struct Block {
    first: usize,
    rows: usize,
}

impl Block {
    #[expect(
        clippy::too_many_arguments,
        reason = "the arguments that every GEMM has"
    )]
    fn product(
        &self,
        kind: Kind,
        Shape { m, n, k }: Shape,
        alpha: f32,
        a: &[f32],
        b: &[f32],
        beta: f32,
        c: &mut [f32],
    ) -> Result<(), TchError> {
        let a = match kind {
            Kind::TN => matrix(&a[self.first..], [self.rows, k], [1, m]),
            Kind::NT | Kind::NN => matrix(&a[self.first * k..], [self.rows, k], [k, 1]),
        }?;
        let b = match kind {
            Kind::NT => matrix(b, [k, n], [1, k]),
            Kind::NN | Kind::TN => matrix(b, [k, n], [n, 1]),
        }?;
        let _guard = tch::no_grad_guard();
        let mut c = matrix_mut(c, [self.rows, n])?;
        if beta == 0.0 {
            let _ = a.f_mm_out(&c, &b)?;
            if alpha != 1.0 {
                let _ = c.f_mul_scalar_(f64::from(alpha))?;
            }
            return Ok(());
        }
        if beta != alpha {
            let _ = c.f_mul_scalar_(f64::from(beta / alpha))?;
        }
        let _ = c.f_addmm_(&a, &b)?;
        if alpha != 1.0 {
            let _ = c.f_mul_scalar_(f64::from(alpha))?;
        }
        Ok(())
    }
}

/// Wraps a matrix that libtorch reads; the caller drops it before the slice.
fn matrix(values: &[f32], shape: [usize; 2], strides: [usize; 2]) -> Result<Tensor, TchError> {
    let last = (shape[0].max(1) - 1) * strides[0] + (shape[1].max(1) - 1) * strides[1];
    assert!(
        shape.contains(&0) || last < values.len(),
        "{shape:?} by {strides:?} is beyond {} values",
        values.len()
    );
    // SAFETY: every element of the matrix lies in the slice, as was just checked. `Block::product` alone calls
    // this: it only reads the tensor, and drops it before it returns, while the slice is borrowed.
    unsafe {
        Tensor::f_from_blob(
            values.as_ptr().cast(),
            &shape.map(|n| n as i64),
            &strides.map(|n| n as i64),
            tch::Kind::Float,
            Device::Cpu,
        )
    }
}

/// Wraps a row-major matrix that libtorch writes; the caller drops it before the slice.
fn matrix_mut(values: &mut [f32], shape: [usize; 2]) -> Result<Tensor, TchError> {
    assert_eq!(values.len(), shape[0] * shape[1], "values of {shape:?}");
    // SAFETY: the matrix is exactly the slice, which is borrowed mutably for as long as `Block::product`, its
    // only caller, keeps the tensor.
    unsafe {
        Tensor::f_from_blob(
            values.as_mut_ptr().cast(),
            &shape.map(|n| n as i64),
            &[shape[1] as i64, 1],
            tch::Kind::Float,
            Device::Cpu,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    /// Computes C by the definition, in f64.
    fn expected(
        kind: Kind,
        Shape { m, n, k }: Shape,
        alpha: f32,
        a: &[f32],
        b: &[f32],
        beta: f32,
        c: &[f32],
    ) -> Vec<f64> {
        let at = |i: usize, l: usize| {
            a[if kind == Kind::TN {
                l * m + i
            } else {
                i * k + l
            }]
        };
        let bt = |l: usize, j: usize| {
            b[if kind == Kind::NT {
                j * k + l
            } else {
                l * n + j
            }]
        };
        let mut out = Vec::new();
        for i in 0..m {
            for j in 0..n {
                let sum: f64 = (0..k)
                    .map(|l| f64::from(at(i, l)) * f64::from(bt(l, j)))
                    .sum();
                let old = if beta == 0.0 {
                    0.0
                } else {
                    f64::from(beta) * f64::from(c[i * n + j])
                };
                out.push(f64::from(alpha) * sum + old);
            }
        }
        out
    }

    #[test]
    fn products_are_those_of_the_definition() {
        tch::set_num_threads(1);
        let shapes = [
            (1, 1, 1),
            (3, 5, 7),
            (2, 1, 4),
            (769, 33, 20),
            (40, 64, 130),
            (5, 4, 0),
        ];
        for (m, n, k) in shapes {
            let shape = Shape { m, n, k };
            for kind in [Kind::NT, Kind::NN, Kind::TN] {
                for (alpha, beta) in [(1.0, 0.0), (1.0, 1.0), (0.5, 0.0), (0.5, 2.0), (2.0, 2.0)] {
                    let (a, b) = (values(m * k, 1), values(k * n, 2));
                    let mut c = values(m * n, 3);
                    if beta == 0.0 {
                        c.fill(f32::NAN);
                    }
                    let expected = expected(kind, shape, alpha, &a, &b, beta, &c);
                    LibtorchGemm.product(kind, shape, alpha, &a, &b, beta, &mut c);
                    for (found, expected) in c.iter().zip(expected) {
                        let off = (f64::from(*found) - expected).abs();
                        assert!(
                            off < 1e-5 * (1 + k) as f64,
                            "{kind:?} {shape:?}: {found} {expected}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        tch::set_num_threads(1);
        let shape = Shape {
            m: 801,
            n: 96,
            k: 50,
        };
        let (a, b) = (values(801 * 50, 4), values(50 * 96, 5));
        let on = |n_threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(n_threads)
                .build()
                .unwrap();
            let mut c = vec![0.0; 801 * 96];
            pool.install(|| LibtorchGemm.product(Kind::NT, shape, 1.0, &a, &b, 0.0, &mut c));
            c
        };
        assert!(on(1) == on(3));
    }

    #[test]
    fn a_matrix_beyond_its_values_is_refused() {
        let result = std::panic::catch_unwind(|| matrix(&[1.0; 5], [2, 3], [3, 1]));
        assert!(result.is_err());
    }
}

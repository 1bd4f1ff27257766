//! GEMM backends for f32 matrices.

pub mod half;

use std::cell::Cell;

use gemm_common::Parallelism;
use rayon::prelude::*;

/// Kind of product. All matrices are row-major, and C is [m, n].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A B^T with A [m, k] and B [n, k]: a linear layer, forward.
    NT,
    /// A B with A [m, k] and B [k, n]: the gradient of a linear layer's input.
    NN,
    /// A^T B with A [k, m] and B [k, n]: the gradient of a linear layer's weight.
    TN,
}

/// Sizes of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Rows of C.
    pub m: usize,
    /// Columns of C.
    pub n: usize,
    /// Length of the inner dimension, over which products are added.
    pub k: usize,
}

/// A GEMM backend, so that the fastest one for a machine can be chosen at run time.
pub trait Gemm: Send + Sync {
    /// Computes C = alpha op(A) op(B) + beta C. With `beta` 0, C is written and never read.
    ///
    /// # Panics
    /// If the lengths do not fit the shape.
    #[expect(
        clippy::too_many_arguments,
        reason = "the arguments that every GEMM has"
    )]
    fn product(
        &self,
        kind: Kind,
        shape: Shape,
        alpha: f32,
        a: &[f32],
        b: &[f32],
        beta: f32,
        c: &mut [f32],
    );
}

/// The `gemm-f32` crate, on the threads of rayon's current pool. It uses AVX-512 on any vendor's processor
/// that has it.
#[derive(Clone, Copy, Debug, Default)]
pub struct RustGemm;

impl Gemm for RustGemm {
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
        if kind == Kind::NT && k > FAR {
            return in_slices(shape, alpha, a, b, beta, c);
        }
        let a_strides = if kind == Kind::TN { (1, m) } else { (k, 1) };
        let b_strides = if kind == Kind::NT { (1, k) } else { (n, 1) };
        product(shape, alpha, (a, a_strides), (b, b_strides), beta, c);
    }
}

/// Longest rows of B that are multiplied without a copy. Packing the columns of longer rows jumps by whole pages,
/// which map to the same few lines of the first-level cache: AMD's Zen 5 then multiplies at 281 Gflop/s instead of 470.
const FAR: usize = 1024;

/// Columns of a slice of long rows, which is multiplied from a copy with adjacent rows.
const SLICE: usize = 768;

/// Computes A B^T with long rows, slice by slice of the inner dimension.
fn in_slices(shape: Shape, alpha: f32, a: &[f32], b: &[f32], beta: f32, c: &mut [f32]) {
    thread_local! {
        /// Copy of a slice, reused because fresh memory costs more than the copy.
        static COPY: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    }
    let Shape { m, n, k } = shape;
    // Taken out of the cell: while this thread waits for others, rayon may run another product on it.
    let mut copy = COPY.take();
    let mut beta = beta;
    for begin in (0..k).step_by(SLICE) {
        let len = SLICE.min(k - begin);
        copy.resize(n * len, 0.0);
        copy.par_chunks_exact_mut(len)
            .zip(b.par_chunks_exact(k))
            .with_min_len(64)
            .for_each(|(to, from)| to.copy_from_slice(&from[begin..begin + len]));
        let slice = Shape { m, n, k: len };
        product(
            slice,
            alpha,
            (&a[begin..], (k, 1)),
            (&copy, (1, len)),
            beta,
            c,
        );
        // Slices after the first add to C.
        beta = 1.0;
    }
    COPY.set(copy);
}

/// Computes C = alpha A B + beta C for matrices given by their row and column strides.
fn product(
    Shape { m, n, k }: Shape,
    alpha: f32,
    (a, a_strides): (&[f32], (usize, usize)),
    (b, b_strides): (&[f32], (usize, usize)),
    beta: f32,
    c: &mut [f32],
) {
    let last = |rows: usize, columns: usize, (row, column): (usize, usize)| {
        (rows.max(1) - 1) * row + (columns.max(1) - 1) * column
    };
    let is_empty = m == 0 || n == 0 || k == 0;
    assert!(is_empty || last(m, k, a_strides) < a.len(), "A");
    assert!(is_empty || last(k, n, b_strides) < b.len(), "B");
    assert!(c.len() == m * n, "C");
    // The inner loops write columns, so C = A B is computed as C^T = B^T A^T.
    let transposed = |(row, column)| (column, row);
    let (m, n, c_strides, (a, a_strides), (b, b_strides)) = if n > 1 {
        let (a_strides, b_strides) = (transposed(a_strides), transposed(b_strides));
        (n, m, (1, n), (b, b_strides), (a, a_strides))
    } else {
        (m, n, (n, 1), (a, a_strides), (b, b_strides))
    };
    // SAFETY: with these strides the matrices lie within the slices, which was checked above (no slice is longer
    // than isize::MAX bytes, so no stride overflows); `c` is borrowed mutably, so it overlaps neither `a` nor `b`,
    // and it is only read if beta is not 0.
    unsafe {
        gemm_f32::gemm::f32::get_gemm_fn()(
            m,
            n,
            k,
            c.as_mut_ptr(),
            c_strides.1 as isize,
            c_strides.0 as isize,
            beta != 0.0,
            a.as_ptr(),
            a_strides.1 as isize,
            a_strides.0 as isize,
            b.as_ptr(),
            b_strides.1 as isize,
            b_strides.0 as isize,
            beta,
            alpha,
            false,
            false,
            false,
            Parallelism::Rayon(0),
        );
    }
}

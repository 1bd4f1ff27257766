//! Matrix products of f32 matrices.

pub mod half;

/// The product wanted; all matrices row-major, with C [m, n].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A B^T with A [m, k] and B [n, k]: a linear layer, forward.
    NT,
    /// A B with A [m, k] and B [k, n]: the gradient of a linear layer's input.
    NN,
    /// A^T B with A [k, m] and B [k, n]: the gradient of a linear layer's weight.
    TN,
}

/// The sizes of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Rows of C.
    pub m: usize,
    /// Columns of C.
    pub n: usize,
    /// Length of the sums.
    pub k: usize,
}

/// Something that multiplies matrices, so that the fastest for a machine can be chosen at run time.
pub trait Gemm: Send + Sync {
    /// C = alpha op(A) op(B) + beta C. With `beta` 0, C is written and never read.
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

/// The `gemm` crate, on the threads of rayon's current pool: AVX-512 where the processor has it,
/// whoever made it.
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
        let (a_rows, a_columns) = if kind == Kind::TN { (1, m) } else { (k, 1) };
        let (b_rows, b_columns) = if kind == Kind::NT { (1, k) } else { (n, 1) };
        // SAFETY: with these strides the matrices cover exactly the slices, whose lengths were
        // checked above (no slice is longer than isize::MAX bytes, so no stride overflows); `c` is
        // borrowed mutably, so it overlaps neither `a` nor `b`, and it is only read if beta is not 0.
        unsafe {
            gemm::gemm(
                m,
                n,
                k,
                c.as_mut_ptr(),
                1,
                n as isize,
                beta != 0.0,
                a.as_ptr(),
                a_columns as isize,
                a_rows as isize,
                b.as_ptr(),
                b_columns as isize,
                b_rows as isize,
                beta,
                alpha,
                false,
                false,
                false,
                gemm::Parallelism::Rayon(0),
            );
        }
    }
}

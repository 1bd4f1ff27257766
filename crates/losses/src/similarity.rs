//! Similarities of embeddings, differentiable: all against all, and row by row.
//!
//! Greater is more similar throughout, so distances come with a minus sign, as in
//! `sentence_transformers/util/similarity.py`.

use search::Similarity;
use serde::{Deserialize, Serialize};
use tch::{TchError, Tensor};

/// The smallest norm that [`normalize`] divides by, as in `torch.nn.functional.normalize`.
pub const NORM_EPS: f64 = 1e-12;

/// A [`Similarity`] of tensors, differentiable.
pub trait TensorSimilarity {
    /// Similarity of each row of `a` `[n, d]` with each row of `b` `[m, d]`: `[n, m]`.
    ///
    /// # Errors
    /// Where libtorch fails, so where the dimensions differ.
    fn matrix(self, a: &Tensor, b: &Tensor) -> Result<Tensor, TchError>;

    /// Similarity of each row of `a` `[n, d]` with the same row of `b` `[n, d]`: `[n]`.
    ///
    /// The gradient of the Euclidean distance is zero where two rows are equal.
    ///
    /// # Errors
    /// Where libtorch fails, so where the shapes differ.
    fn pairwise(self, a: &Tensor, b: &Tensor) -> Result<Tensor, TchError>;
}

impl TensorSimilarity for Similarity {
    fn matrix(self, a: &Tensor, b: &Tensor) -> Result<Tensor, TchError> {
        match self {
            Self::Cosine => normalize(a)?.f_matmul(&normalize(b)?.f_transpose(0, 1)?),
            Self::Dot => a.f_matmul(&b.f_transpose(0, 1)?),
            Self::Euclidean => Tensor::f_cdist(a, b, 2.0, None::<i64>)?.f_neg(),
            Self::Manhattan => Tensor::f_cdist(a, b, 1.0, None::<i64>)?.f_neg(),
        }
    }

    fn pairwise(self, a: &Tensor, b: &Tensor) -> Result<Tensor, TchError> {
        match self {
            Self::Cosine => row_sum(&normalize(a)?.f_mul(&normalize(b)?)?),
            Self::Dot => row_sum(&a.f_mul(b)?),
            Self::Euclidean => row_norm(&a.f_sub(b)?, false)?.f_neg(),
            Self::Manhattan => row_sum(&a.f_sub(b)?.f_abs()?)?.f_neg(),
        }
    }
}

/// A distance of two embeddings, row by row; what the triplet and contrastive losses are named by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Distance {
    /// One minus the cosine.
    Cosine,
    /// Length of the difference.
    Euclidean,
    /// Sum of the absolute differences.
    Manhattan,
}

impl Distance {
    /// Distance of each row of `a` `[n, d]` to the same row of `b` `[n, d]`: `[n]`.
    ///
    /// # Errors
    /// Where libtorch fails, so where the shapes differ.
    pub fn pairwise(self, a: &Tensor, b: &Tensor) -> Result<Tensor, TchError> {
        match self {
            Self::Cosine => Similarity::Cosine.pairwise(a, b)?.f_rsub_scalar(1.0),
            Self::Euclidean => Similarity::Euclidean.pairwise(a, b)?.f_neg(),
            Self::Manhattan => Similarity::Manhattan.pairwise(a, b)?.f_neg(),
        }
    }
}

/// Rows of `x` `[n, d]` scaled to length one; a zero row stays zero.
///
/// # Errors
/// Where libtorch fails.
pub fn normalize(x: &Tensor) -> Result<Tensor, TchError> {
    x.f_div(&row_norm(x, true)?.f_clamp_min(NORM_EPS)?)
}

/// Angle similarity of each row of `a` `[n, d]` with the same row of `b` `[n, d]`: `[n]`.
///
/// The halves of a row are the real and imaginary parts of a complex vector, with a zero added to
/// an odd dimension; the result is |Σ (Re + Im)| of the componentwise product a·b̄, divided by both
/// lengths: the absolute sum of the cosine and of the sine between the halves. It is zero where a row
/// is zero. Li and Li 2024, equation 6, <https://arxiv.org/abs/2309.12871>, as `pairwise_angle_sim`
/// has it.
///
/// # Errors
/// Where libtorch fails, so where the shapes differ.
pub fn pairwise_angle(a: &Tensor, b: &Tensor) -> Result<Tensor, TchError> {
    let odd = a.size().last().copied().unwrap_or(0) % 2;
    let (x, y) = (
        normalize(&a.f_constant_pad_nd([0, odd])?)?,
        normalize(&b.f_constant_pad_nd([0, odd])?)?,
    );
    let half = x.size().last().copied().unwrap_or(0) / 2;
    let halves =
        |x: &Tensor| Ok::<_, TchError>((x.f_narrow(1, 0, half)?, x.f_narrow(1, half, half)?));
    let ((a, b), (c, d)) = (halves(&x)?, halves(&y)?);
    let cosines = row_sum(&x.f_mul(&y)?)?;
    let sines = row_sum(&b.f_mul(&c)?.f_sub(&a.f_mul(&d)?)?)?;
    cosines.f_add(&sines)?.f_abs()
}

/// Length of each row.
pub(crate) fn row_norm(x: &Tensor, keep_dimension: bool) -> Result<Tensor, TchError> {
    x.f_norm_scalaropt_dim(2, [-1i64].as_slice(), keep_dimension)
}

/// Sum over the last dimension.
pub(crate) fn row_sum(x: &Tensor) -> Result<Tensor, TchError> {
    x.f_sum_dim_intlist([-1i64].as_slice(), false, None::<tch::Kind>)
}

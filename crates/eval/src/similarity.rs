//! Similarities of embeddings: row by row, and all against all.
//!
//! They are computed in f32 with the operations of sentence-transformers, so that equal texts give
//! equal scores and ties fall as they do there.

use search::Similarity;
use tch::{Kind, TchError, Tensor};

use crate::error::EvalError;

/// A [`Similarity`] of tensors.
pub trait TensorSimilarity {
    /// Similarity of each row of `a` `[n, d]` with each row of `b` `[m, d]`: `[n, m]`, in f32, or f64
    /// where `a` and `b` are.
    ///
    /// # Errors
    /// Where libtorch fails, so where the dimensions differ.
    fn matrix(self, a: &Tensor, b: &Tensor) -> Result<Tensor, TchError>;

    /// Similarity of each row of `a` `[n, d]` with the same row of `b` `[n, d]`: `[n]`, in f32, or
    /// f64 where `a` and `b` are.
    ///
    /// # Errors
    /// Where libtorch fails, so where the shapes differ.
    fn pairwise(self, a: &Tensor, b: &Tensor) -> Result<Tensor, TchError>;
}

impl TensorSimilarity for Similarity {
    fn matrix(self, a: &Tensor, b: &Tensor) -> Result<Tensor, TchError> {
        let (a, b) = (raise(a)?, raise(b)?);
        match self {
            Self::Cosine => normalize(&a)?.f_matmul(&normalize(&b)?.f_transpose(0, 1)?),
            Self::Dot => a.f_matmul(&b.f_transpose(0, 1)?),
            Self::Euclidean => Tensor::f_cdist(&a, &b, 2.0, None::<i64>)?.f_neg(),
            Self::Manhattan => Tensor::f_cdist(&a, &b, 1.0, None::<i64>)?.f_neg(),
        }
    }

    fn pairwise(self, a: &Tensor, b: &Tensor) -> Result<Tensor, TchError> {
        let (a, b) = (raise(a)?, raise(b)?);
        match self {
            Self::Cosine => row_sum(&normalize(&a)?.f_mul(&normalize(&b)?)?),
            Self::Dot => row_sum(&a.f_mul(&b)?),
            Self::Euclidean => row_norm(&a.f_sub(&b)?, false)?.f_neg(),
            Self::Manhattan => row_sum(&a.f_sub(&b)?.f_abs()?)?.f_neg(),
        }
    }
}

/// The given similarities, or cosine where there are none.
pub(crate) fn or_cosine(similarities: &[Similarity]) -> Vec<Similarity> {
    match similarities {
        [] => vec![Similarity::Cosine],
        given => given.to_vec(),
    }
}

/// The embeddings that one evaluation compares, detached; they have to share a shape `[n, d]`.
pub(crate) fn same_shape(
    evaluator: &'static str,
    columns: &[(&str, &Tensor)],
) -> Result<Vec<Tensor>, EvalError> {
    let first = columns
        .first()
        .map(|(_, column)| column.size())
        .unwrap_or_default();
    for (what, column) in columns {
        let shape = column.size();
        if shape.len() != 2 || shape[0] == 0 {
            let problem =
                format!("{what} have shape {shape:?}, but [n, dimension] with n > 0 is needed");
            return Err(EvalError::inputs(evaluator, problem));
        }
        if shape != first {
            let problem = format!(
                "{what} have shape {shape:?}, but {} have {first:?}",
                columns[0].0
            );
            return Err(EvalError::inputs(evaluator, problem));
        }
    }
    columns
        .iter()
        .map(|(_, column)| Ok(column.f_detach()?))
        .collect()
}

/// A tensor's values on the host.
pub(crate) fn to_vec(tensor: &Tensor) -> Result<Vec<f64>, TchError> {
    let tensor = tensor
        .f_to_device(tch::Device::Cpu)?
        .f_to_kind(Kind::Double)?;
    Vec::try_from(tensor.f_reshape([-1])?)
}

/// Rows scaled to length one; a zero row stays zero.
pub(crate) fn normalize(x: &Tensor) -> Result<Tensor, TchError> {
    x.f_div(&row_norm(x, true)?.f_clamp_min(1e-12)?)
}

/// Half precision to f32: in 16 bits, near scores would become ties.
pub(crate) fn raise(x: &Tensor) -> Result<Tensor, TchError> {
    match x.kind() {
        Kind::Float | Kind::Double => Ok(x.shallow_clone()),
        _ => x.f_to_kind(Kind::Float),
    }
}

/// The length of each row.
fn row_norm(x: &Tensor, keep_dimension: bool) -> Result<Tensor, TchError> {
    x.f_norm_scalaropt_dim(2, [-1i64].as_slice(), keep_dimension)
}

fn row_sum(x: &Tensor) -> Result<Tensor, TchError> {
    x.f_sum_dim_intlist([-1i64].as_slice(), false, None::<Kind>)
}

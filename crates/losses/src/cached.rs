//! Gradient caching: a batch larger than memory, for any loss.

use crate::inputs::{LabelKind, Requirements};
use crate::{Loss, LossError};
use tch::Tensor;

/// Another loss, whose batch is to be embedded in small parts.
///
/// # Formula
///
/// That of the inner loss, in value and gradient: with the gradient g of the loss by the embeddings
/// x, the gradient by the weights is that of Σ g·x, which can be taken part by part.
///
/// # Inputs
///
/// Those of the inner loss. The trainer embeds [`Loss::mini_batch_size`] texts at a time without
/// keeping what a backward pass needs, takes [`embedding_gradients`], embeds each part again with
/// the same dropout, and goes back from there.
///
/// # Defaults
///
/// `mini_batch_size` 32, and those of the inner loss.
///
/// # When to use
///
/// Where more in-batch negatives are wanted than fit in memory. Each text is embedded twice, which
/// costs about a third more time per step.
///
/// # Relations
///
/// `cached-multiple-negatives-ranking`, `cached-multiple-negatives-symmetric-ranking` and
/// `cached-gist-embed` are the losses without `cached-` in this form.
///
/// # Paper
///
/// Gao et al. 2021, <https://arxiv.org/abs/2101.06983>. Upstream file: `base/losses/gradcache.py`.
#[derive(Debug)]
pub struct Cached {
    name: &'static str,
    inner: Box<dyn Loss>,
    mini_batch_size: usize,
}

/// `weight` times the value of a loss, and the gradient of that by each column of `embeddings`; the
/// graph behind them is left alone. Tensors of [`Loss::parameters`] gather theirs as libtorch's
/// leaves do.
///
/// # Errors
/// Those of the loss, and where it depends on nothing that has a gradient.
pub fn embedding_gradients(
    loss: &dyn Loss,
    embeddings: &[Tensor],
    labels: Option<&Tensor>,
    weight: f64,
) -> Result<(Tensor, Vec<Tensor>), LossError> {
    let mut leaves = Vec::with_capacity(embeddings.len());
    for column in embeddings {
        leaves.push(column.f_detach()?.f_set_requires_grad(true)?);
    }
    let value = loss.compute(&leaves, labels)?.f_mul_scalar(weight)?;
    value.f_backward()?;
    let mut gradients = Vec::with_capacity(leaves.len());
    for leaf in &leaves {
        let gradient = leaf.f_grad()?;
        // A guide's column has no part in the gradient.
        gradients.push(if gradient.defined() {
            gradient
        } else {
            leaf.f_zeros_like()?
        });
    }
    Ok((value.f_detach()?, gradients))
}

impl Cached {
    /// A loss under the name of its cached class.
    ///
    /// # Errors
    /// Where `mini_batch_size` is zero.
    pub fn new(
        name: &'static str,
        inner: Box<dyn Loss>,
        mini_batch_size: usize,
    ) -> Result<Self, LossError> {
        if mini_batch_size == 0 {
            let problem = "mini_batch_size is 0, but must be at least 1";
            return Err(LossError::parameter(name, problem));
        }
        Ok(Self {
            name,
            inner,
            mini_batch_size,
        })
    }
}

impl Loss for Cached {
    fn name(&self) -> &'static str {
        self.name
    }

    fn requirements(&self) -> Requirements {
        self.inner.requirements()
    }

    fn check(&self, columns: usize, labels: LabelKind) -> Result<(), LossError> {
        self.requirements().check(self.name, columns, labels)
    }

    fn validate(&self) -> Result<(), LossError> {
        self.inner.validate()
    }

    fn compute(&self, embeddings: &[Tensor], labels: Option<&Tensor>) -> Result<Tensor, LossError> {
        self.inner.compute(embeddings, labels)
    }

    fn mini_batch_size(&self) -> Option<usize> {
        Some(self.mini_batch_size)
    }
}

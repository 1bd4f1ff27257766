//! Gradient caching: a batch larger than memory, for any loss.

use crate::inputs::{LabelKind, Requirements};
use crate::{Loss, LossError, StepInputs};
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
/// keeping what a backward pass needs, takes [`gradients`], embeds each part again with the same
/// dropout, and goes back from there.
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

/// A loss, weighed, and its gradient by all that it was computed from.
#[derive(Debug)]
pub struct Gradients {
    /// The loss, a scalar without a graph.
    pub value: Tensor,
    /// By each column of [`StepInputs::embeddings`]; zero for a guide's.
    pub embeddings: Vec<Tensor>,
    /// By each column of each of [`StepInputs::prior`].
    pub prior: Vec<Vec<Tensor>>,
    /// By each of [`Loss::parameters`].
    pub parameters: Vec<Tensor>,
}

impl Gradients {
    /// Multiplies the gradients, and not the value, by a scalar on their device.
    ///
    /// # Errors
    ///
    /// libtorch's.
    pub fn scale(&mut self, factor: &Tensor) -> Result<(), LossError> {
        let all = self.embeddings.iter_mut();
        let all = all.chain(self.prior.iter_mut().flatten());
        for gradient in all.chain(&mut self.parameters) {
            *gradient = gradient.f_mul(factor)?;
        }
        Ok(())
    }
}

/// `weight` times the value of a loss, and the gradients of that. The graph behind the embeddings is
/// left alone.
///
/// # Errors
/// Those of the loss.
pub fn gradients(
    loss: &dyn Loss,
    step: &StepInputs<'_>,
    weight: f64,
) -> Result<Gradients, LossError> {
    let leaf = |column: &Tensor| column.f_detach()?.f_set_requires_grad(true);
    let leaves = |columns: &[Tensor]| columns.iter().map(leaf).collect::<Result<Vec<_>, _>>();
    let embeddings = leaves(step.embeddings)?;
    let mut prior = Vec::with_capacity(step.prior.len());
    for (layer, columns) in step.prior {
        prior.push((*layer, leaves(columns)?));
    }
    let value = tch::with_grad(|| {
        loss.compute_step(&StepInputs {
            embeddings: &embeddings,
            prior: &prior,
            ..*step
        })?
        .f_mul_scalar(weight)
        .map_err(LossError::from)
    })?;
    let parameters = loss.parameters();
    let mut inputs: Vec<&Tensor> = embeddings.iter().collect();
    inputs.extend(prior.iter().flat_map(|(_, columns)| columns));
    inputs.extend(parameters.iter().map(|(_, parameter)| parameter));
    // A batch without a single triplet has a loss that depends on nothing.
    let found = match value.requires_grad() {
        true => Tensor::f_run_backward(&[&value], &inputs, false, false)?,
        false => inputs.iter().map(|_| Tensor::new()).collect(),
    };
    let mut gradients = Vec::with_capacity(inputs.len());
    for (input, gradient) in inputs.iter().zip(found) {
        // A guide's column has no part in the gradient.
        gradients.push(match gradient.defined() {
            true => gradient.f_detach()?,
            false => input.f_zeros_like()?.f_detach()?,
        });
    }
    let mut gradients = gradients.into_iter();
    let mut take = |n: usize| gradients.by_ref().take(n).collect::<Vec<_>>();
    Ok(Gradients {
        value: value.f_detach()?,
        embeddings: take(embeddings.len()),
        prior: prior
            .iter()
            .map(|(_, columns)| take(columns.len()))
            .collect(),
        parameters: take(parameters.len()),
    })
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

    fn guide(&self) -> Option<&str> {
        self.inner.guide()
    }

    fn compute_step(&self, step: &StepInputs<'_>) -> Result<Tensor, LossError> {
        self.inner.compute_step(step)
    }

    fn mini_batch_size(&self) -> Option<usize> {
        Some(self.mini_batch_size)
    }
}

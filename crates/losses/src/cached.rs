//! Gradient caching: a batch larger than memory, for any loss.

use tch::Tensor;

use crate::{
    error::LossError,
    inputs::{LabelKind, Requirements},
    loss::{Loss, StepInputs},
    paper::{Paper, Place},
};

/// Another loss, whose batch is to be embedded in small parts.
///
/// # Formula
///
/// The inner loss's, in value and gradient: with the gradient g of the loss by the embeddings
/// x, the gradient by the weights is that of Σ g·x, which can be taken part by part.
///
/// # Inputs
///
/// The inner loss's. The trainer embeds [`Loss::mini_batch_size`] texts at a time without
/// keeping what a backward pass needs, takes the [`gradients`](crate::gradients::gradients), embeds each part again with the same
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

/// The paper that the loss is from.
pub(crate) const PAPER: Paper = Paper {
    key: "gao2021scaling",
    title: "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup",
    authors: "Luyu Gao and Yunyi Zhang and Jiawei Han and Jamie Callan",
    year: 2021,
    place: Place::Arxiv("2101.06983"),
};

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

    fn compute(&self, columns: &[Tensor], labels: Option<&Tensor>) -> Result<Tensor, LossError> {
        self.inner.compute(columns, labels)
    }

    fn gathers_across_devices(&self) -> bool {
        self.inner.gathers_across_devices()
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

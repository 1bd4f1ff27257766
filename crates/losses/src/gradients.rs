//! The gradients of a loss by its inputs.

use tch::Tensor;

use crate::{
    error::LossError,
    loss::{Loss, StepInputs},
};

/// The weighted value of a loss, and its gradients by all inputs and weights.
#[derive(Debug)]
pub struct Gradients {
    /// The loss, a scalar without a graph.
    pub value: Tensor,
    /// Gradients by each column of [`StepInputs::embeddings`]; zero for a guide's.
    pub embeddings: Vec<Tensor>,
    /// Gradients by each column of each of [`StepInputs::prior`].
    pub prior: Vec<Vec<Tensor>>,
    /// Gradients by each of [`Loss::parameters`].
    pub parameters: Vec<Tensor>,
}

impl Gradients {
    /// Multiplies the gradients, and not the value, by a scalar on their device.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn scale(&mut self, factor: &Tensor) -> Result<(), LossError> {
        let all = self.embeddings.iter_mut();
        let all = all.chain(self.prior.iter_mut().flatten());
        for gradient in all.chain(&mut self.parameters) {
            *gradient = gradient.f_mul(factor)?;
        }
        Ok(())
    }
}

/// The value of a loss times `weight`, and the gradients of that. The graph behind the embeddings is
/// left alone.
///
/// # Errors
/// As [`Loss::value`].
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
        loss.value(&StepInputs {
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

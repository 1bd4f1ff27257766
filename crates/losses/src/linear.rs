//! The linear layer that some losses own and train.

use tch::{Kind, TchError, Tensor};

use crate::context::BuildContext;

/// `x W^T + b` with trainable W, `[out, in]`, and b, `[out]`.
#[derive(Debug)]
pub(crate) struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    /// The weights that `torch.nn.Linear` draws after `torch.manual_seed`.
    pub(crate) fn new(inputs: i64, outputs: i64, context: &BuildContext) -> Result<Self, TchError> {
        tch::manual_seed(context.seed as i64);
        let bound = 1.0 / (inputs as f64).sqrt();
        let uniform = |shape: &[i64]| -> Result<Tensor, TchError> {
            let mut values = Tensor::f_empty(shape, (Kind::Float, context.device))?;
            values.f_uniform_(-bound, bound)?.f_set_requires_grad(true)
        };
        Ok(Self {
            weight: uniform(&[outputs, inputs])?,
            bias: uniform(&[outputs])?,
        })
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        x.f_linear(&self.weight, Some(&self.bias))
    }

    /// Both, named below `name`.
    pub(crate) fn parameters(&self, name: &str) -> Vec<(String, Tensor)> {
        vec![
            (format!("{name}.weight"), self.weight.shallow_clone()),
            (format!("{name}.bias"), self.bias.shallow_clone()),
        ]
    }
}

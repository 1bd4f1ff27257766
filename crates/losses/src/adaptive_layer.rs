//! Adaptive layers: any loss, also on the embeddings of a model's earlier layers.

use kernels::random::mix_at;
use serde::{Deserialize, Serialize};
use tch::{Kind, Reduction, Tensor};

use crate::{
    context::BuildContext,
    draw::sample,
    error::{LossError, non_negative},
    inputs::{LabelKind, Requirements},
    loss::{Loss, StepInputs},
    paper::{Paper, Place},
    registry::LossConfig,
};

/// Another loss on the last layer and on earlier ones, which also learn from the last.
///
/// # Formula
///
/// With x the last layer's embeddings, xₗ those of the k earlier layers of a step, and T =
/// `kl_temperature`:
///
/// ```text
/// loss = last_layer_weight · inner(x)
///      + Σₗ prior_layers_weight · wₗ / k · inner(xₗ)
///      + Σₗ kl_div_weight · T · KL( softmax(x / T) ‖ softmax(xₗ / T) )
/// ```
///
/// where the divergence is the mean over all rows of all columns, its target without gradient, and
/// wₗ is 1 (`uniform`), 1 / (1 + log(1 + l)) (`log`) or 1 / (1 + l) (`linear`). Layer 0 is the
/// embedding of the words.
///
/// # Inputs
///
/// The inner loss's, for each layer.
///
/// # Defaults
///
/// `n_layers_per_step` 1 (-1 is all), `last_layer_weight`, `prior_layers_weight` and `kl_div_weight`
/// 1, `kl_temperature` 0.3, `layer_weighting` uniform. `loss` has to be given, as in
/// `adaptive-layer/mnrl`.
///
/// # When to use
///
/// To get one model whose last layers can be cut off for speed.
///
/// # Relations
///
/// Around [`Matryoshka`](crate::matryoshka::Matryoshka) it trains for fewer layers and dimensions at
/// once; `matryoshka-2d` is that with one of each drawn per step.
///
/// # Paper
///
/// Li et al. 2024, <https://arxiv.org/abs/2402.14776>. Upstream file:
/// `sentence_transformer/losses/adaptive_layer.py`.
#[derive(Debug)]
pub struct AdaptiveLayer {
    name: &'static str,
    inner: Box<dyn Loss>,
    options: AdaptiveLayerOptions,
}

/// The parameters of [`AdaptiveLayer`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdaptiveLayerOptions {
    /// The loss that is wrapped.
    pub loss: LossConfig,
    /// How many earlier layers are drawn per step; -1 is all.
    #[serde(default = "one_layer")]
    pub n_layers_per_step: i64,
    /// Factor on the loss of the last layer.
    #[serde(default = "one")]
    pub last_layer_weight: f64,
    /// Factor on the losses of the earlier layers.
    #[serde(default = "one")]
    pub prior_layers_weight: f64,
    /// Factor on the divergences.
    #[serde(default = "one")]
    pub kl_div_weight: f64,
    /// Divides the embeddings before the softmax; without divergences where 0.
    #[serde(default = "kl_temperature")]
    pub kl_temperature: f64,
    /// Whether earlier layers count for more.
    #[serde(default)]
    pub layer_weighting: LayerWeighting,
}

/// How the losses of earlier layers are weighed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerWeighting {
    /// All the same.
    #[default]
    Uniform,
    /// Falling with the logarithm of the layer.
    Log,
    /// Falling with the layer.
    Linear,
}

/// The paper that the loss is from.
pub(crate) const PAPER: Paper = Paper {
    key: "li20242d",
    title: "2D Matryoshka Sentence Embeddings",
    authors: "Xianming Li and Zongxi Li and Jing Li and Haoran Xie and Qing Li",
    year: 2024,
    place: Place::Arxiv("2402.14776"),
};

impl AdaptiveLayer {
    /// Wraps a loss, under the name of the class.
    ///
    /// # Errors
    /// Where the inner loss cannot be made, embeds in mini-batches, or looks at layers itself.
    pub fn new(
        name: &'static str,
        options: AdaptiveLayerOptions,
        context: &BuildContext,
    ) -> Result<Self, LossError> {
        let inner = options.loss.build(context)?;
        if inner.mini_batch_size().is_some() {
            let problem = format!(
                "{} embeds in mini-batches and cannot be wrapped",
                inner.name()
            );
            return Err(LossError::parameter(name, problem));
        }
        if !inner.prior_layers(1, 0).is_empty() {
            let problem = format!("{} looks at layers itself", inner.name());
            return Err(LossError::parameter(name, problem));
        }
        Ok(Self {
            name,
            inner,
            options,
        })
    }
}

impl Loss for AdaptiveLayer {
    fn name(&self) -> &'static str {
        self.name
    }

    fn requirements(&self) -> Requirements {
        self.inner.requirements()
    }

    fn check(&self, columns: usize, labels: LabelKind) -> Result<(), LossError> {
        self.inner.check(columns, labels)
    }

    fn validate(&self) -> Result<(), LossError> {
        non_negative(
            self.name,
            "last_layer_weight",
            self.options.last_layer_weight,
        )?;
        non_negative(
            self.name,
            "prior_layers_weight",
            self.options.prior_layers_weight,
        )?;
        non_negative(self.name, "kl_div_weight", self.options.kl_div_weight)?;
        non_negative(self.name, "kl_temperature", self.options.kl_temperature)?;
        let layers = self.options.n_layers_per_step;
        if layers < 1 && layers != -1 {
            let problem = format!("n_layers_per_step is {layers}, but must be at least 1, or -1");
            return Err(LossError::parameter(self.name, problem));
        }
        Ok(())
    }

    fn compute(&self, columns: &[Tensor], labels: Option<&Tensor>) -> Result<Tensor, LossError> {
        let last = self.inner.compute(columns, labels)?;
        Ok(last.f_mul_scalar(self.options.last_layer_weight)?)
    }

    fn parameters(&self) -> Vec<(String, Tensor)> {
        self.inner.parameters()
    }

    fn gathers_across_devices(&self) -> bool {
        self.inner.gathers_across_devices()
    }

    fn guide(&self) -> Option<&str> {
        self.inner.guide()
    }

    fn prior_layers(&self, n_prior: usize, seed: u64) -> Vec<usize> {
        // -1 is all.
        let n_drawn = usize::try_from(self.options.n_layers_per_step).unwrap_or(n_prior);
        sample(n_prior, n_drawn, seed)
    }

    fn compute_step(&self, step: &StepInputs<'_>) -> Result<Tensor, LossError> {
        let options = &self.options;
        let (last, prior) = (step.embeddings, step.prior);
        // The inner loss draws anew for each layer, as upstream's does.
        let inner = |embeddings: &[Tensor], place: usize| {
            self.inner.compute_step(&StepInputs {
                embeddings,
                prior: &[],
                labels: step.labels,
                own: step.own,
                seed: mix_at(step.seed, place as u64),
            })
        };
        let mut total = inner(last, 0)?.f_mul_scalar(options.last_layer_weight)?;
        // A guide's embeddings have no layers and no part in the divergence.
        let own = self.requirements().n_own(last.len());
        let temperature = options.kl_temperature;
        let scaled = |columns: &[Tensor]| -> Result<Tensor, LossError> {
            Ok(Tensor::f_cat(columns, 0)?.f_div_scalar(temperature)?)
        };
        let target = match temperature > 0.0 {
            true => Some(
                scaled(&last[..own])?
                    .f_softmax(-1, None::<Kind>)?
                    .f_detach()?,
            ),
            false => None,
        };
        for (layer, columns) in prior {
            let with_guide = columns
                .iter()
                .chain(&last[own..])
                .map(Tensor::shallow_clone);
            let part = inner(&with_guide.collect::<Vec<_>>(), 1 + layer)?;
            let weight = options.layer_weighting.of(*layer) / prior.len() as f64;
            total = total.f_add(&part.f_mul_scalar(weight * options.prior_layers_weight)?)?;
            if let Some(target) = &target {
                let student = scaled(columns)?.f_log_softmax(-1, None::<Kind>)?;
                let divergence = student.f_kl_div(target, Reduction::Sum, false)?;
                let weight = temperature * options.kl_div_weight / target.size()[0] as f64;
                total = total.f_add(&divergence.f_mul_scalar(weight)?)?;
            }
        }
        Ok(total)
    }
}

impl LayerWeighting {
    fn of(self, layer: usize) -> f64 {
        match self {
            Self::Uniform => 1.0,
            Self::Log => 1.0 / (1.0 + (layer as f64).ln_1p()),
            Self::Linear => 1.0 / (1 + layer) as f64,
        }
    }
}

fn one_layer() -> i64 {
    1
}

fn one() -> f64 {
    1.0
}

fn kl_temperature() -> f64 {
    0.3
}

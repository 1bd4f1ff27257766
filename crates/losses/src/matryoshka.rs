//! Matryoshka: any loss, also on the first dimensions of the embeddings.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::{
    context::BuildContext,
    draw::sample,
    error::LossError,
    inputs::{LabelKind, Requirements},
    loss::{Loss, StepInputs},
    paper::{Paper, Place},
    registry::LossConfig,
    similarity::normalize,
};

/// Weighted sum of another loss over truncated embeddings.
///
/// # Formula
///
/// ```text
/// loss = Σ_d weight_d · inner( normalise(x[..d]) )   over the dimensions d
/// ```
///
/// Embeddings are scaled to length one after being cut, at the full dimension too.
///
/// # Inputs
///
/// The inner loss's. Labels that are embeddings of the full dimension, `[batch, dimension]` or
/// `[batch, columns, dimension]`, are cut as well.
///
/// # Defaults
///
/// `matryoshka_weights` 1 each, `n_dims_per_step` -1, which is all; where it is more, so many
/// dimensions are drawn for each step. `matryoshka_dims` and `loss` have to be given, as in
/// `matryoshka:dims=768+256+64/mnrl:scale=30`.
///
/// # When to use
///
/// To get one model whose embeddings can be cut for a smaller index. The full dimension belongs
/// among `matryoshka_dims`, or it is not trained.
///
/// # Relations
///
/// It wraps any loss. Those with a guide model or weights of their own keep them; a softmax
/// classifier has one size and cannot be wrapped.
///
/// # Paper
///
/// Kusupati et al. 2022, <https://arxiv.org/abs/2205.13147>. Upstream file:
/// `sentence_transformer/losses/matryoshka.py`.
#[derive(Debug)]
pub struct Matryoshka {
    inner: Box<dyn Loss>,
    /// Dimensions with their weights, the greatest first.
    dims: Vec<(i64, f64)>,
    n_dims_per_step: i64,
    dimension: Option<i64>,
}

/// The parameters of [`Matryoshka`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MatryoshkaOptions {
    /// The loss that is wrapped.
    pub loss: LossConfig,
    /// To which dimensions embeddings are cut.
    #[serde(alias = "dims", deserialize_with = "crate::one_or_many::one_or_many")]
    pub matryoshka_dims: Vec<i64>,
    /// The weight of each, in the same order.
    #[serde(
        default,
        alias = "weights",
        deserialize_with = "crate::one_or_many::one_or_many",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub matryoshka_weights: Vec<f64>,
    /// How many dimensions are drawn per step; -1 is all.
    #[serde(default = "all")]
    pub n_dims_per_step: i64,
}

fn all() -> i64 {
    -1
}

const NAME: &str = "MatryoshkaLoss";
const NO_DIMS: &str = "matryoshka_dims is empty: name a dimension";

/// The paper that the loss is from.
pub(crate) const PAPER: Paper = Paper {
    key: "kusupati2024matryoshka",
    title: "Matryoshka Representation Learning",
    authors: "Aditya Kusupati and Gantavya Bhatt and Aniket Rege and Matthew Wallingford and Aditya Sinha and Vivek Ramanujan and William Howard-Snyder and Kaifeng Chen and Sham Kakade and Prateek Jain and Ali Farhadi",
    year: 2022,
    place: Place::Arxiv("2205.13147"),
};

/// The names of the parameters in [`MatryoshkaOptions`], for the loss that has another's beside
/// them.
pub(crate) const PARAMETERS: [&str; 6] = [
    "loss",
    "matryoshka_dims",
    "dims",
    "matryoshka_weights",
    "weights",
    "n_dims_per_step",
];

impl Matryoshka {
    /// Wraps a loss.
    ///
    /// # Errors
    /// Where a dimension is not within that of the embeddings, weights don't match, or the inner
    /// loss cannot be made or wrapped.
    pub fn new(options: MatryoshkaOptions, context: &BuildContext) -> Result<Self, LossError> {
        let MatryoshkaOptions {
            loss,
            matryoshka_dims: dims,
            matryoshka_weights: weights,
            n_dims_per_step,
        } = options;
        let inner = loss.build(context)?;
        if !inner.parameters().is_empty() {
            let problem = format!(
                "{} has weights of one size and cannot be wrapped",
                inner.name()
            );
            return Err(LossError::parameter(NAME, problem));
        }
        if dims.is_empty() {
            return Err(LossError::parameter(NAME, NO_DIMS));
        }
        if !inner.prior_layers(1, 0).is_empty() {
            let problem = format!(
                "{} goes around this loss: write it as adaptive-layer/matryoshka",
                inner.name()
            );
            return Err(LossError::parameter(NAME, problem));
        }
        let full = context.dimension.unwrap_or(i64::MAX);
        if let Some(dim) = dims.iter().find(|dim| !(1..=full).contains(*dim)) {
            let upper = context
                .dimension
                .map_or(String::new(), |full| format!(", {full}"));
            let problem = format!(
                "matryoshka_dims has {dim}, but must be from 1 to the model's dimension{upper}"
            );
            return Err(LossError::parameter(NAME, problem));
        }
        if n_dims_per_step < 1 && n_dims_per_step != -1 {
            let problem =
                format!("n_dims_per_step is {n_dims_per_step}, but must be at least 1, or -1");
            return Err(LossError::parameter(NAME, problem));
        }
        if !weights.is_empty() && weights.len() != dims.len() {
            let (dims, weights) = (dims.len(), weights.len());
            let problem = format!("matryoshka_weights has {weights} entries for {dims} dimensions");
            return Err(LossError::parameter(NAME, problem));
        }
        let weights = if weights.is_empty() {
            vec![1.0; dims.len()]
        } else {
            weights
        };
        let mut dims: Vec<(i64, f64)> = dims.into_iter().zip(weights).collect();
        dims.sort_by_key(|(dim, _)| std::cmp::Reverse(*dim));
        Ok(Self {
            inner,
            dims,
            n_dims_per_step,
            dimension: context.dimension,
        })
    }
}

impl Loss for Matryoshka {
    fn name(&self) -> &'static str {
        NAME
    }

    fn requirements(&self) -> Requirements {
        self.inner.requirements()
    }

    fn check(&self, columns: usize, labels: LabelKind) -> Result<(), LossError> {
        self.inner.check(columns, labels)
    }

    fn gathers_across_devices(&self) -> bool {
        self.inner.gathers_across_devices()
    }

    fn guide(&self) -> Option<&str> {
        self.inner.guide()
    }

    /// Over all dimensions, whatever `n_dims_per_step`.
    fn compute(&self, columns: &[Tensor], labels: Option<&Tensor>) -> Result<Tensor, LossError> {
        self.over(&self.dims, &StepInputs::new(columns, labels))
    }

    fn compute_step(&self, step: &StepInputs<'_>) -> Result<Tensor, LossError> {
        match usize::try_from(self.n_dims_per_step) {
            Ok(n_drawn) if n_drawn < self.dims.len() => {
                let drawn = sample(self.dims.len(), n_drawn, step.seed);
                let dims: Vec<_> = drawn.into_iter().map(|i| self.dims[i]).collect();
                self.over(&dims, step)
            }
            _ => self.over(&self.dims, step),
        }
    }

    fn mini_batch_size(&self) -> Option<usize> {
        self.inner.mini_batch_size()
    }
}

impl Matryoshka {
    fn over(&self, dims: &[(i64, f64)], step: &StepInputs<'_>) -> Result<Tensor, LossError> {
        let columns = step.embeddings;
        // A guide's embeddings follow the model's own and stay whole.
        let own = self.requirements().n_own(columns.len());
        let mut total: Option<Tensor> = None;
        for (dim, weight) in dims {
            let mut cut = Vec::with_capacity(columns.len());
            for column in &columns[..own] {
                cut.push(normalize(&column.f_narrow(1, 0, *dim)?)?);
            }
            cut.extend(columns[own..].iter().map(Tensor::shallow_clone));
            let labels = match step.labels {
                // A teacher's embeddings: one for all columns, or one for each.
                Some(labels)
                    if matches!(labels.dim(), 2 | 3)
                        && labels.size().last().copied() == self.dimension =>
                {
                    Some(labels.f_narrow(-1, 0, *dim)?)
                }
                labels => labels.map(Tensor::shallow_clone),
            };
            let part = self
                .inner
                .compute_step(&StepInputs {
                    embeddings: &cut,
                    labels: labels.as_ref(),
                    ..*step
                })?
                .f_mul_scalar(*weight)?;
            total = Some(match total {
                Some(total) => total.f_add(&part)?,
                None => part,
            });
        }
        total.ok_or_else(|| LossError::parameter(NAME, NO_DIMS))
    }
}

//! Merging the weights of several models of one architecture.
//!
//! Source: `base/merging.py` of sentence-transformers, whose arithmetic is mergekit's
//! (`merge_methods/linear.py`, `slerp.py`, `generalized_task_arithmetic.py`, mergekit 0.1.5).

use std::collections::BTreeMap;

use serde_json::Value;
use tch::{Kind, TchError, Tensor};

use crate::{
    error::ModelError,
    folder::{modules::add_modules, write::ModelFiles},
    sentence_transformer::SentenceTransformer,
};

/// Below this, a norm counts as zero in spherical interpolation.
const MIN_NORM: f64 = 1e-8;

/// Above this cosine, spherical interpolation is linear.
const COLLINEAR: f64 = 0.9995;

/// The keys of config.json in which models may differ that are merged; so may those with an
/// underscore in front.
const PROVENANCE: [&str; 4] = [
    "architectures",
    "transformers_version",
    "torch_dtype",
    "dtype",
];

/// The way of merging, tensor by tensor.
#[derive(Debug, Clone, PartialEq)]
pub enum MergeMethod {
    /// The weighted mean (a model soup). Wortsman et al. 2022, <https://arxiv.org/abs/2203.05482>.
    Linear {
        /// A weight for each model.
        weights: Vec<f64>,
    },
    /// Spherical interpolation between two models; linear where their tensors are collinear or
    /// opposite.
    Slerp {
        /// The way from the first model, 0, to the second, 1.
        t: f64,
    },
    /// The models' differences from a base: of each the largest entries, and of these those of the
    /// sign that prevails, averaged by weight. Yadav et al. 2023, <https://arxiv.org/abs/2306.01708>.
    Ties {
        /// A weight for each model, without the base.
        weights: Vec<f64>,
        /// The share of the entries of each difference that count.
        density: f64,
        /// Factor on the merged difference.
        lambda: f64,
    },
}

impl MergeMethod {
    /// Merges a tensor of each model, all of one shape and in f32; `base` is for
    /// [`MergeMethod::Ties`].
    ///
    /// # Errors
    ///
    /// When the number of tensors is not that of weights, two for [`MergeMethod::Slerp`], or the base
    /// is missing where it is needed.
    pub fn merge(&self, tensors: &[Tensor], base: Option<&Tensor>) -> Result<Tensor, ModelError> {
        let wrong = |problem: String| Err(ModelError::Input(format!("merge: {problem}")));
        match self {
            Self::Linear { weights } | Self::Ties { weights, .. }
                if weights.len() != tensors.len() =>
            {
                let (n_weights, n_models) = (weights.len(), tensors.len());
                wrong(format!("{n_weights} weights for {n_models} models"))
            }
            Self::Linear { weights } => Ok(linear(tensors, weights)?),
            Self::Slerp { t } => match tensors {
                [first, second] => Ok(slerp(first, second, *t)?),
                _ => wrong(format!("slerp takes two models, not {}", tensors.len())),
            },
            Self::Ties {
                weights,
                density,
                lambda,
            } => match base {
                Some(base) => Ok(ties(tensors, base, weights, *density, *lambda)?),
                None => wrong("ties needs a base model".to_owned()),
            },
        }
    }
}

impl SentenceTransformer {
    /// Merges this model with others into this one, in f32. Its own prompts and settings stay.
    ///
    /// # Errors
    ///
    /// When another model, counted from 2, or the base has other modules, settings, tokens or tensors,
    /// and as [`MergeMethod::merge`].
    pub fn merge(
        &mut self,
        others: &[Self],
        method: &MergeMethod,
        base: Option<&Self>,
    ) -> Result<(), ModelError> {
        let whole = [&*self].into_iter().chain(others).chain(base);
        if let Some((n, model)) = (1..).zip(whole).find(|(_, model)| model.adapter.is_some()) {
            return Err(ModelError::Input(format!(
                "merge: model {n} has an adapter ({}): merge it into its weights first",
                model
                    .adapter
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default()
            )));
        }
        let own = Comparable::new(self)?;
        for (n, other) in (2..).zip(others) {
            own.check(&format!("model {n}"), other)?;
        }
        if let Some(base) = base {
            own.check("the base model", base)?;
        }
        let _guard = tch::no_grad_guard();
        for span in self.parameters().spans() {
            let view = |model: &Self| -> Result<Tensor, ModelError> {
                let view = model.parameters().view(&span.name)?;
                Ok(view.f_detach()?.f_to_device(self.parameters().device())?)
            };
            let mut target = view(self)?;
            let mut tensors = vec![target.shallow_clone()];
            for other in others {
                tensors.push(view(other)?);
            }
            let merged = method.merge(&tensors, base.map(view).transpose()?.as_ref())?;
            target.f_copy_(&merged)?;
        }
        self.parameters().round_all()
    }

    /// The files of the folder but for the weights.
    fn files_without_weights(&self) -> Result<ModelFiles, ModelError> {
        let (mut files, encoder) = (ModelFiles::default(), &self.network.encoder);
        self.settings
            .add_transformer(&mut files, &self.tokenizer, encoder.family())?;
        let no_weights = |_: &std::path::Path| Ok(Vec::new());
        add_modules(
            &mut files,
            &self.descriptions,
            encoder.hidden_size(),
            no_weights,
        )?;
        Ok(files)
    }
}

/// The parts of a model that have to agree with another's.
struct Comparable {
    /// The JSON files by path: modules and their settings.
    settings: BTreeMap<String, Value>,
    tokenizer: String,
    tensors: Vec<(String, Vec<i64>)>,
}

impl Comparable {
    fn new(model: &SentenceTransformer) -> Result<Self, ModelError> {
        let mut settings = BTreeMap::new();
        for (path, bytes) in model.files_without_weights()?.files() {
            let name = path.display().to_string();
            // The tokenizer is compared by its content, whatever its files.
            let is_tokenizers = model.settings.tokenizer_files.contains_key(name.as_str())
                || name.starts_with("tokenizer");
            let Ok(mut json) = serde_json::from_slice::<Value>(bytes) else {
                continue;
            };
            if name == "config.json"
                && let Value::Object(keys) = &mut json
            {
                keys.retain(|key, _| !PROVENANCE.contains(&key.as_str()) && !key.starts_with('_'));
            }
            if !is_tokenizers {
                settings.insert(name, json);
            }
        }
        let spans = model.parameters().spans().iter();
        Ok(Self {
            settings,
            tokenizer: model.tokenizer().identity()?,
            tensors: spans
                .map(|span| (span.name.clone(), span.shape.clone()))
                .collect(),
        })
    }

    fn check(&self, name: &str, other: &SentenceTransformer) -> Result<(), ModelError> {
        let other = Self::new(other)?;
        let differs = |what: &str| {
            Err(ModelError::Input(format!(
                "merge: {name} differs from model 1 in {what}"
            )))
        };
        let paths = |one: &Self| one.settings.keys().cloned().collect::<Vec<_>>();
        if paths(self) != paths(&other) || self.settings.get(MODULES) != other.settings.get(MODULES)
        {
            return differs("its modules");
        }
        for (path, settings) in &self.settings {
            if other.settings.get(path) != Some(settings) {
                return differs(path);
            }
        }
        if self.tokenizer != other.tokenizer {
            return differs("its tokenizer");
        }
        if self.tensors != other.tensors {
            return differs("the names or shapes of its weights");
        }
        Ok(())
    }
}

const MODULES: &str = "modules.json";

/// Σ w x / Σ w.
fn linear(tensors: &[Tensor], weights: &[f64]) -> Result<Tensor, TchError> {
    let mut sum = tensors[0].f_zeros_like()?;
    for (tensor, weight) in tensors.iter().zip(weights) {
        sum = sum.f_add(&tensor.f_mul_scalar(f64::from(*weight as f32))?)?;
    }
    let total: f32 = weights.iter().map(|weight| *weight as f32).sum();
    sum.f_div_scalar(f64::from(total))
}

/// sin((1 - t) θ) / sin θ a + sin(t θ) / sin θ b, with θ the angle between the two as vectors.
fn slerp(a: &Tensor, b: &Tensor, t: f64) -> Result<Tensor, TchError> {
    let norm = |x: &Tensor| -> Result<f64, TchError> {
        let norm = f64::try_from(x.f_norm()?)?;
        Ok(if norm > MIN_NORM { norm } else { 1.0 })
    };
    let unit = |x: &Tensor| x.f_div_scalar(norm(x)?);
    let dot = unit(a)?.f_mul(&unit(b)?)?.f_sum(None::<Kind>)?;
    let dot = f64::try_from(dot)?.clamp(-1.0, 1.0);
    let (of_a, of_b) = if dot.abs() > COLLINEAR {
        (1.0 - t, t)
    } else {
        let angle = dot.acos();
        let sine = angle.sin();
        (((1.0 - t) * angle).sin() / sine, (t * angle).sin() / sine)
    };
    a.f_mul_scalar(of_a)?.f_add(&b.f_mul_scalar(of_b)?)
}

fn ties(
    tensors: &[Tensor],
    base: &Tensor,
    weights: &[f64],
    density: f64,
    lambda: f64,
) -> Result<Tensor, TchError> {
    let mut differences = Vec::with_capacity(tensors.len());
    for (tensor, weight) in tensors.iter().zip(weights) {
        let difference = largest(&tensor.f_sub(base)?, density)?;
        differences.push(difference.f_mul_scalar(*weight)?);
    }
    let differences = Tensor::f_stack(&differences, 0)?;
    // The sign that outweighs the other, positive where they are equal.
    let is_positive = differences
        .f_sum_dim_intlist([0i64].as_slice(), true, None::<Kind>)?
        .f_ge(0)?;
    let sign = is_positive
        .f_to_kind(Kind::Float)?
        .f_mul_scalar(2)?
        .f_sub_scalar(1)?;
    let agrees = differences
        .f_sign()?
        .f_eq_tensor(&sign)?
        .f_to_kind(Kind::Float)?;
    let mut shape = vec![1; differences.dim()];
    shape[0] = weights.len() as i64;
    let weights: Vec<f32> = weights.iter().map(|weight| *weight as f32).collect();
    let weights = Tensor::f_from_slice(&weights)?
        .f_to_device(base.device())?
        .f_view(shape.as_slice())?;
    let sum = |x: &Tensor| x.f_sum_dim_intlist([0i64].as_slice(), false, None::<Kind>);
    let divisor = sum(&agrees.f_mul(&weights)?)?;
    let divisor = divisor.f_masked_fill(&divisor.f_eq(0)?, 1)?;
    let merged = sum(&differences.f_mul(&agrees)?)?.f_div(&divisor)?;
    base.f_add(&merged.f_mul_scalar(lambda)?)
}

/// The entries of the greatest magnitude, so many as `density` says, and zeros.
fn largest(x: &Tensor, density: f64) -> Result<Tensor, TchError> {
    if density >= 1.0 {
        return Ok(x.shallow_clone());
    }
    let n_kept = ((density * x.numel() as f64) as i64).max(1);
    let flat = x.f_reshape([-1])?;
    let places = flat.f_abs()?.f_argsort(0, true)?.f_narrow(0, 0, n_kept)?;
    let kept = flat.f_index_select(0, &places)?;
    let zeros = flat.f_zeros_like()?;
    zeros.f_scatter(0, &places, &kept)?.f_view_as(x)
}

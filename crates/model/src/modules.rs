//! The modules after the encoder: pooling, dense layers, normalising.

use kernels::pooling::{self, pool, pool_backward};
use serde_json::{Map, Value, json};
use shim::slice_mut;
use tch::{Device, Kind, Tensor};

use crate::{
    batch::{
        buckets::{Bucket, DeviceBatch},
        packed::{OneToken, PackedBatch},
    },
    encoder::numbering::Numbering,
    error::ModelError,
    parameters::{LeafId, LeafKind, Parameters, Scope},
};

/// The pooling of a sentence's token embeddings to one vector.
///
/// `sentence_transformers/sentence_transformer/modules/pooling.py` of sentence-transformers 6.2.0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pooling {
    /// One or more modes; their results are concatenated in this order.
    pub modes: Vec<PoolingMode>,
    /// Whether the tokens of a prompt are pooled too.
    pub include_prompt: bool,
}

/// One way of pooling; the names are sentence-transformers'.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolingMode {
    /// `cls`: the first token.
    Cls,
    /// `max`: the maximum of each dimension.
    Max,
    /// `mean`.
    Mean,
    /// `mean_sqrt_len_tokens`: the sum over the square root of the length.
    MeanSqrtLen,
    /// `weightedmean`: the mean with weights 1, 2, 3 and so on.
    WeightedMean,
    /// `lasttoken`.
    LastToken,
}

impl PoolingMode {
    /// Every mode, in the order in which the flags of the classic layout concatenate them.
    pub const ALL: [Self; 6] = [
        Self::Cls,
        Self::Max,
        Self::Mean,
        Self::MeanSqrtLen,
        Self::WeightedMean,
        Self::LastToken,
    ];

    /// The mode's name since version 6, and in `pooling_mode`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cls => "cls",
            Self::Max => "max",
            Self::Mean => "mean",
            Self::MeanSqrtLen => "mean_sqrt_len_tokens",
            Self::WeightedMean => "weightedmean",
            Self::LastToken => "lasttoken",
        }
    }

    /// The mode of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }

    /// The mode's kernel.
    fn kernel(self) -> pooling::Pooling {
        match self {
            Self::Cls => pooling::Pooling::Cls,
            Self::Max => pooling::Pooling::Max,
            Self::Mean => pooling::Pooling::Mean,
            Self::MeanSqrtLen => pooling::Pooling::MeanSqrtLen,
            Self::WeightedMean => pooling::Pooling::WeightedMean,
            Self::LastToken => pooling::Pooling::LastToken,
        }
    }

    /// The mode's flag in the classic layout.
    pub(crate) fn flag(self) -> &'static str {
        match self {
            Self::Cls => "pooling_mode_cls_token",
            Self::Max => "pooling_mode_max_tokens",
            Self::Mean => "pooling_mode_mean_tokens",
            Self::MeanSqrtLen => "pooling_mode_mean_sqrt_len_tokens",
            Self::WeightedMean => "pooling_mode_weightedmean_tokens",
            Self::LastToken => "pooling_mode_lasttoken",
        }
    }
}

impl Pooling {
    /// A single mode, with prompts pooled.
    pub fn new(mode: PoolingMode) -> Self {
        Self {
            modes: vec![mode],
            include_prompt: true,
        }
    }

    /// Sentence embeddings, `[sentences, modes * H]`, in the caller's order, from token
    /// embeddings, `[T, H]`, in packed order.
    ///
    /// # Errors
    ///
    /// When prompts are left out and nothing else is left of a sentence.
    pub fn forward(&self, tokens: &Tensor, batch: &PackedBatch) -> Result<Tensor, ModelError> {
        self.check(batch)?;
        self.pool(tokens, &DeviceBatch::new(batch, Numbering::default())?)
    }

    /// The one token that is pooled of each sentence, where the only mode takes a single one.
    pub(crate) fn one_token(&self) -> Option<OneToken> {
        match self.modes[..] {
            [mode] => mode.one_token(self.include_prompt),
            _ => None,
        }
    }

    /// Fails where prompts are left out and nothing else is left of a sentence.
    pub(crate) fn check(&self, batch: &PackedBatch) -> Result<(), ModelError> {
        self.skipped(batch).map(drop)
    }

    /// [`Self::forward`] without its check, of the encoder's output: where [`Self::one_token`] is one, these are its rows
    /// alone, `[sentences, H]` in packed order.
    pub(crate) fn pool_output(
        &self,
        output: &Tensor,
        batch: &DeviceBatch,
    ) -> Result<Tensor, ModelError> {
        if self.one_token().is_none() {
            return self.pool(output, batch);
        }
        let pooled = output.f_to_kind(Kind::Float)?;
        Ok(pooled.f_index_select(0, &batch.restore)?)
    }

    /// [`Self::forward`] without its check. Halves are pooled as `f32`.
    pub(crate) fn pool(&self, tokens: &Tensor, batch: &DeviceBatch) -> Result<Tensor, ModelError> {
        let (_, hidden_size) = tokens.size2()?;
        let pooled = batch
            .buckets
            .iter()
            .zip(batch.split(tokens)?)
            .map(|(bucket, tokens)| {
                let filled = bucket.fill_up(&tokens)?.f_view([
                    bucket.sentences(),
                    bucket.length(),
                    hidden_size,
                ])?;
                let filled = match filled.kind() {
                    Kind::Half | Kind::BFloat16 => filled.f_to_kind(Kind::Float)?,
                    _ => filled,
                };
                let modes = self
                    .modes
                    .iter()
                    .map(|mode| mode.pool(&filled, bucket, self.include_prompt));
                Ok(Tensor::f_cat(&modes.collect::<Result<Vec<_>, _>>()?, 1)?)
            })
            .collect::<Result<Vec<_>, ModelError>>()?;
        Ok(Tensor::f_cat(&pooled, 0)?.f_index_select(0, &batch.restore)?)
    }

    /// The number of tokens at the start of each sentence that are not pooled, in packed order; empty for none.
    fn skipped<'b>(&self, batch: &'b PackedBatch) -> Result<&'b [usize], ModelError> {
        if self.include_prompt {
            return Ok(&[]);
        }
        let prompts = batch.prompt_lengths();
        for (&skip, ends) in prompts.iter().zip(batch.offsets().windows(2)) {
            let length = ends[1] - ends[0];
            if length <= skip {
                return Err(ModelError::Input(format!(
                    "a prompt of {skip} tokens leaves nothing to pool of a sentence of {length} tokens"
                )));
            }
        }
        Ok(prompts)
    }

    /// The places of the one token that is pooled of each sentence, in packed order; `None` where several are.
    ///
    /// # Errors
    ///
    /// As [`Self::forward`].
    pub(crate) fn only(&self, batch: &PackedBatch) -> Result<Option<Vec<usize>>, ModelError> {
        self.check(batch)?;
        Ok(self.one_token().map(|token| batch.places_of(token)))
    }

    /// Rows `[sentences, H]` in packed order as embeddings in the caller's, on our kernels.
    pub(crate) fn restored(rows: &[f32], batch: &PackedBatch) -> Result<Tensor, ModelError> {
        let width = rows.len() / batch.sentences();
        let shape = [batch.sentences() as i64, width as i64];
        let mut embeddings = Tensor::f_empty(shape, (Kind::Float, Device::Cpu))?;
        let values = slice_mut(&mut embeddings)?.chunks_exact_mut(width);
        for (to, &from) in values.zip(batch.host_restore()) {
            to.copy_from_slice(&rows[from * width..][..width]);
        }
        Ok(embeddings)
    }

    /// The backward pass of [`Self::restored`].
    pub(crate) fn restored_backward(d_embeddings: &[f32], batch: &PackedBatch, d_rows: &mut [f32]) {
        let width = d_rows.len() / batch.sentences();
        for (from, &to) in d_embeddings.chunks_exact(width).zip(batch.host_restore()) {
            d_rows[to * width..][..width].copy_from_slice(from);
        }
    }

    /// [`Self::forward`] on our kernels, for token embeddings `[T, H]` in the host's memory.
    ///
    /// # Errors
    ///
    /// As [`Self::forward`].
    pub(crate) fn forward_by_hand(
        &self,
        tokens: &[f32],
        batch: &PackedBatch,
    ) -> Result<Tensor, ModelError> {
        let width = tokens.len() / batch.tokens();
        let skipped = self.skipped(batch)?;
        let row = width * self.modes.len();
        let shape = [batch.sentences() as i64, row as i64];
        let mut embeddings = Tensor::f_empty(shape, (Kind::Float, Device::Cpu))?;
        let values = slice_mut(&mut embeddings)?;
        let mut packed = vec![0.0; batch.sentences() * width];
        for (i, mode) in self.modes.iter().enumerate() {
            let (mode, offsets) = (mode.kernel(), batch.offsets());
            pool(mode, offsets, skipped, width, tokens, &mut packed);
            for (to, &from) in values.chunks_exact_mut(row).zip(batch.host_restore()) {
                to[i * width..][..width].copy_from_slice(&packed[from * width..][..width]);
            }
        }
        Ok(embeddings)
    }

    /// The backward pass of [`Self::forward_by_hand`], which has checked the prompts: writes `d_tokens` `[T, H]`,
    /// given `d_embeddings` `[sentences, modes * H]`.
    pub(crate) fn backward_by_hand(
        &self,
        tokens: &[f32],
        d_embeddings: &[f32],
        batch: &PackedBatch,
        d_tokens: &mut [f32],
    ) {
        let width = tokens.len() / batch.tokens();
        let row = width * self.modes.len();
        let skipped = if self.include_prompt {
            &[]
        } else {
            batch.prompt_lengths()
        };
        let mut packed = vec![0.0; batch.sentences() * width];
        let mut more = Vec::new();
        for (i, mode) in self.modes.iter().enumerate() {
            for (from, &to) in d_embeddings.chunks_exact(row).zip(batch.host_restore()) {
                packed[to * width..][..width].copy_from_slice(&from[i * width..][..width]);
            }
            let (mode, offsets) = (mode.kernel(), batch.offsets());
            if i == 0 {
                pool_backward(mode, offsets, skipped, width, tokens, &packed, d_tokens);
            } else {
                more.resize(tokens.len(), 0.0);
                pool_backward(mode, offsets, skipped, width, tokens, &packed, &mut more);
                for (d, more) in d_tokens.iter_mut().zip(&more) {
                    *d += more;
                }
            }
        }
    }

    /// The object of 1_Pooling/config.json: the classic flags, or version 6's key where they
    /// cannot say the order of the modes.
    pub(crate) fn to_json(&self, hidden_size: i64) -> Value {
        let in_flag_order: Vec<_> = PoolingMode::ALL
            .into_iter()
            .filter(|m| self.modes.contains(m))
            .collect();
        if in_flag_order != self.modes {
            let modes: Vec<_> = self.modes.iter().map(|mode| mode.name()).collect();
            return json!({
                "embedding_dimension": hidden_size,
                "pooling_mode": modes,
                "include_prompt": self.include_prompt,
            });
        }
        let mut json = Map::new();
        json.insert("word_embedding_dimension".to_owned(), json!(hidden_size));
        // The order in which version 3 wrote the flags.
        for mode in [
            PoolingMode::Cls,
            PoolingMode::Mean,
            PoolingMode::Max,
            PoolingMode::MeanSqrtLen,
            PoolingMode::WeightedMean,
            PoolingMode::LastToken,
        ] {
            json.insert(mode.flag().to_owned(), json!(self.modes.contains(&mode)));
        }
        json.insert("include_prompt".to_owned(), json!(self.include_prompt));
        Value::Object(json)
    }
}

impl PoolingMode {
    /// The token that the mode takes of a sentence, where it takes a single one.
    fn one_token(self, prompts: bool) -> Option<OneToken> {
        match self {
            Self::Cls => Some(OneToken::First { prompts }),
            Self::LastToken => Some(OneToken::Last),
            _ => None,
        }
    }

    /// The tokens of a bucket, `[n, l, H]`, to `[n, H]`.
    fn pool(self, tokens: &Tensor, bucket: &Bucket, prompts: bool) -> Result<Tensor, ModelError> {
        let is_pooled = bucket.is_pooled(prompts)?;
        if self == Self::Max {
            let is_left_out = is_pooled.f_logical_not()?.f_unsqueeze(2)?;
            let rest = tokens.f_masked_fill(&is_left_out, f64::NEG_INFINITY)?;
            return Ok(rest.f_max_dim(1, false)?.0);
        }
        // All others are sums of tokens, each with a weight.
        let kind = tokens.kind();
        let ones = || is_pooled.f_to_kind(kind);
        let count = |weights: &Tensor| weights.f_sum_dim_intlist([1i64].as_slice(), true, kind);
        let weights = match self {
            Self::Mean => {
                let ones = ones()?;
                ones.f_div(&count(&ones)?)?
            }
            Self::MeanSqrtLen => {
                let ones = ones()?;
                ones.f_div(&count(&ones)?.f_sqrt()?)?
            }
            Self::WeightedMean => {
                let places = ones()?.f_mul(&bucket.places()?.f_add_scalar(1)?)?;
                places.f_div(&count(&places)?)?
            }
            Self::Cls | Self::LastToken | Self::Max => {
                let Some(token) = self.one_token(prompts) else {
                    unreachable!("the maximum has returned above")
                };
                let place = bucket.place_of(token)?;
                bucket.places()?.f_eq_tensor(&place)?.f_to_kind(kind)?
            }
        };
        Ok(weights.f_unsqueeze(1)?.f_bmm(tokens)?.f_squeeze_dim(1)?)
    }
}

/// The activations that a [`Dense`] module may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// None.
    Identity,
    /// The hyperbolic tangent.
    Tanh,
    /// Zero for negative values.
    Relu,
    /// The exact GELU.
    Gelu,
    /// The logistic function.
    Sigmoid,
}

impl Activation {
    /// Every activation.
    pub const ALL: [Self; 5] = [
        Self::Identity,
        Self::Tanh,
        Self::Relu,
        Self::Gelu,
        Self::Sigmoid,
    ];

    /// The name that sentence-transformers stores.
    pub fn name(self) -> &'static str {
        match self {
            Self::Identity => "torch.nn.modules.linear.Identity",
            Self::Tanh => "torch.nn.modules.activation.Tanh",
            Self::Relu => "torch.nn.modules.activation.ReLU",
            Self::Gelu => "torch.nn.modules.activation.GELU",
            Self::Sigmoid => "torch.nn.modules.activation.Sigmoid",
        }
    }

    fn forward(self, x: Tensor) -> Result<Tensor, ModelError> {
        Ok(match self {
            Self::Identity => x,
            Self::Tanh => x.f_tanh()?,
            Self::Relu => x.f_relu()?,
            Self::Gelu => x.f_gelu("none")?,
            Self::Sigmoid => x.f_sigmoid()?,
        })
    }
}

/// A linear layer with an activation, on sentence embeddings.
///
/// `sentence_transformers/base/modules/dense.py` of sentence-transformers 6.2.0.
#[derive(Debug, Clone, Copy)]
pub struct Dense {
    pub(crate) shape: DenseShape,
    weight: LeafId,
    bias: Option<LeafId>,
    residual: Option<LeafId>,
}

/// The settings of a Dense module, from its config.json.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DenseShape {
    pub(crate) in_features: i64,
    pub(crate) out_features: i64,
    pub(crate) bias: bool,
    pub(crate) activation: Activation,
    pub(crate) use_residual: bool,
}

impl DenseShape {
    /// The object of the module's config.json.
    pub(crate) fn to_json(self) -> Value {
        let mut json = json!({
            "in_features": self.in_features,
            "out_features": self.out_features,
            "bias": self.bias,
            "activation_function": self.activation.name(),
        });
        // Versions before 5.7 do not know this key.
        if self.use_residual {
            json["use_residual"] = json!(true);
        }
        json
    }
}

impl Dense {
    pub(crate) fn new(shape: DenseShape, scope: &mut Scope<'_>) -> Self {
        let weight_shape = [shape.out_features, shape.in_features];
        let weight = scope.leaf("linear.weight", &weight_shape, LeafKind::Matrix);
        let bias = shape
            .bias
            .then(|| scope.leaf("linear.bias", &[shape.out_features], LeafKind::Bias));
        let projects = shape.use_residual && shape.in_features != shape.out_features;
        let residual =
            projects.then(|| scope.leaf("residual.weight", &weight_shape, LeafKind::Matrix));
        Self {
            shape,
            weight,
            bias,
            residual,
        }
    }

    /// `[sentences, in_features]` to `[sentences, out_features]`.
    pub fn forward(
        &self,
        parameters: &Parameters,
        embeddings: &Tensor,
    ) -> Result<Tensor, ModelError> {
        let bias = self.bias.map(|bias| parameters.leaf(bias));
        let output = self
            .shape
            .activation
            .forward(embeddings.f_linear(parameters.leaf(self.weight), bias)?)?;
        if !self.shape.use_residual {
            return Ok(output);
        }
        match self.residual {
            Some(weight) => Ok(
                output.f_add(&embeddings.f_linear(parameters.leaf(weight), None::<&Tensor>)?)?
            ),
            None => Ok(output.f_add(embeddings)?),
        }
    }
}

/// A module after the pooling.
#[derive(Debug)]
pub(crate) enum Module {
    Dense(Dense),
    Normalize,
}

/// Rows scaled to length 1, as torch's `normalize`: a row shorter than 1e-12 is divided by that.
pub(crate) fn normalize(embeddings: &Tensor) -> Result<Tensor, ModelError> {
    let norm = embeddings.f_norm_scalaropt_dim(2, [-1i64].as_slice(), true)?;
    Ok(embeddings.f_div(&norm.f_clamp_min(1e-12)?)?)
}

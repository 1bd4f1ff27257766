//! MPNet, the encoder, on packed batches.
//!
//! - Song et al. 2020, "MPNet: Masked and Permuted Pre-training for Language Understanding",
//!   [arXiv 2004.09297](https://arxiv.org/abs/2004.09297)
//! - names and shapes as in the published checkpoint, microsoft/mpnet-base; numbers as in
//!   `transformers/models/mpnet/modeling_mpnet.py` of transformers 5.23.0
//!
//! The pooler of that implementation is left out: sentence embeddings do not use it.
//!
//! Dimensions in the comments: T packed tokens, H hidden size, I intermediate size, h heads,
//! d = H / h; of a bucket n sentences, t packed tokens, l the tokens that each sentence has room for.

pub(crate) mod fused;

use std::{
    collections::HashMap,
    path::Path,
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tch::Tensor;

use crate::{
    batch::{buckets::DeviceBatch, packed::PackedBatch},
    error::ModelError,
    parameters::{LeafId, Parameters, Scope},
};

/// The id of the padding token, and of the row of both embedding tables that gets no gradient.
///
/// The upstream implementation has it fixed too, whatever `pad_token_id` says.
pub const PADDING_ID: u32 = 1;

/// The number of buckets of the relative position bias, fixed upstream too.
pub const RELATIVE_BUCKETS: i64 = 32;

/// Distances from here on share the last bucket of their direction.
const MAX_DISTANCE: i64 = 128;

/// The architecture's part of config.json, key for key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// `mpnet`.
    pub model_type: String,
    /// Rows of the word embedding table.
    pub vocab_size: i64,
    /// The width of a token embedding, H.
    pub hidden_size: i64,
    /// The number of layers.
    pub num_hidden_layers: i64,
    /// The number of attention heads, h; divides `hidden_size`.
    pub num_attention_heads: i64,
    /// The width of the feed-forward part, I.
    pub intermediate_size: i64,
    /// The activation of the feed-forward part: `gelu`, the exact one.
    pub hidden_act: String,
    /// Dropout of embeddings and of both outputs of a layer.
    #[serde(default = "default_dropout")]
    pub hidden_dropout_prob: f64,
    /// Dropout of attention probabilities.
    #[serde(default = "default_dropout")]
    pub attention_probs_dropout_prob: f64,
    /// Rows of the position embedding table: two more than the longest sentence.
    pub max_position_embeddings: i64,
    /// The standard deviation of random weights.
    #[serde(default = "default_initializer_range")]
    pub initializer_range: f64,
    /// Added to the variance in layer norms.
    #[serde(default = "default_layer_norm_eps")]
    pub layer_norm_eps: f64,
    /// Buckets of the relative position bias: 32.
    #[serde(default = "default_buckets")]
    pub relative_attention_num_buckets: i64,
    /// The padding token's id: 1.
    #[serde(default = "default_pad_token_id")]
    pub pad_token_id: i64,
}

impl Config {
    /// Reads and checks the keys of a config.json; `path` is for the messages.
    ///
    /// # Errors
    ///
    /// [`ModelError::Value`] for a missing key, a value of another type or out of its range.
    pub fn from_json(path: &Path, json: &Map<String, Value>) -> Result<Self, ModelError> {
        // Serde's own message would not name the key, so that each one is looked at first.
        for (key, kind) in KEYS {
            let value = json.get(key);
            let (fits, allowed) = match kind {
                KeyKind::Text => (value.is_some_and(Value::is_string), "a string"),
                KeyKind::Count => (value.is_some_and(Value::is_i64), "an integer"),
                KeyKind::OptionalCount => (value.is_none_or(Value::is_i64), "an integer"),
                KeyKind::OptionalNumber => (value.is_none_or(Value::is_number), "a number"),
            };
            if !fits {
                let found = value.map_or("nothing".to_owned(), Value::to_string);
                return Err(value_error(path, key, &found, allowed));
            }
        }
        let config: Self =
            serde_json::from_value(Value::Object(json.clone())).map_err(|cause| {
                ModelError::Json {
                    path: path.to_owned(),
                    cause,
                }
            })?;
        config.validate(path)?;
        Ok(config)
    }

    /// Checks the values; `path` is for the messages.
    ///
    /// # Errors
    ///
    /// [`ModelError::Value`] that names the first key whose value is not supported.
    pub fn validate(&self, path: &Path) -> Result<(), ModelError> {
        let text = |key: &str, value: &str, allowed: &str| {
            if value == allowed {
                return Ok(());
            }
            Err(value_error(
                path,
                key,
                &format!("{value:?}"),
                &format!("{allowed:?}"),
            ))
        };
        text("model_type", &self.model_type, "mpnet")?;
        text("hidden_act", &self.hidden_act, "gelu")?;

        // The upper ends are far beyond any published encoder; they keep a corrupt file from
        // asking for terabytes.
        for (key, value, low, high) in [
            ("vocab_size", self.vocab_size, 4, 1 << 24),
            ("hidden_size", self.hidden_size, 1, 1 << 15),
            ("num_hidden_layers", self.num_hidden_layers, 1, 512),
            ("num_attention_heads", self.num_attention_heads, 1, 1 << 10),
            ("intermediate_size", self.intermediate_size, 1, 1 << 18),
            (
                "max_position_embeddings",
                self.max_position_embeddings,
                5,
                1 << 20,
            ),
            (
                "relative_attention_num_buckets",
                self.relative_attention_num_buckets,
                RELATIVE_BUCKETS,
                RELATIVE_BUCKETS,
            ),
            (
                "pad_token_id",
                self.pad_token_id,
                i64::from(PADDING_ID),
                i64::from(PADDING_ID),
            ),
        ] {
            if !(low <= value && value <= high) {
                let allowed = if low == high {
                    low.to_string()
                } else {
                    format!("{low} to {high}")
                };
                return Err(value_error(path, key, &value.to_string(), &allowed));
            }
        }
        if self.hidden_size % self.num_attention_heads != 0 {
            let allowed = format!("a divisor of hidden_size, {}", self.hidden_size);
            return Err(value_error(
                path,
                "num_attention_heads",
                &self.num_attention_heads.to_string(),
                &allowed,
            ));
        }
        for (key, value) in [
            ("hidden_dropout_prob", self.hidden_dropout_prob),
            (
                "attention_probs_dropout_prob",
                self.attention_probs_dropout_prob,
            ),
        ] {
            if !(0.0..1.0).contains(&value) {
                return Err(value_error(
                    path,
                    key,
                    &value.to_string(),
                    "0 or more and less than 1",
                ));
            }
        }
        if !(0.0..=1.0).contains(&self.initializer_range) {
            return Err(value_error(
                path,
                "initializer_range",
                &self.initializer_range.to_string(),
                "0 to 1",
            ));
        }
        if !(0.0 < self.layer_norm_eps && self.layer_norm_eps < 1.0) {
            return Err(value_error(
                path,
                "layer_norm_eps",
                &self.layer_norm_eps.to_string(),
                "between 0 and 1",
            ));
        }
        Ok(())
    }

    /// The longest sentence, in tokens: position ids begin after the padding id.
    pub fn max_sentence_length(&self) -> usize {
        (self.max_position_embeddings - i64::from(PADDING_ID) - 1).max(0) as usize
    }
}

/// The probabilities of the two kinds of dropout; zero is none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// Of embeddings and of both outputs of a layer.
    pub hidden: f64,
    /// Of attention probabilities.
    pub attention: f64,
}

impl Dropout {
    /// No dropout.
    pub const NONE: Self = Self {
        hidden: 0.0,
        attention: 0.0,
    };
}

/// MPNet's position ids: the padding id plus the number of non-padding tokens so far.
///
/// A padding token inside of a text, which only its literal `<pad>` makes, has the padding id.
pub fn position_ids(ids: &[u32]) -> impl Iterator<Item = u32> + '_ {
    let mut n_tokens = 0;
    ids.iter().map(move |&id| {
        if id == PADDING_ID {
            return PADDING_ID;
        }
        n_tokens += 1;
        PADDING_ID + n_tokens
    })
}

/// The bucket of a key's position relative to the query's, `key - query`.
///
/// Half of the buckets is for each direction; half of those holds one distance each, and the
/// others grow with the logarithm of the distance (Raffel et al. 2020, T5, section 2.1).
pub fn relative_position_bucket(relative_position: i64) -> i64 {
    const PER_DIRECTION: i64 = RELATIVE_BUCKETS / 2;
    const EXACT: i64 = PER_DIRECTION / 2;
    let direction = if relative_position > 0 {
        PER_DIRECTION
    } else {
        0
    };
    let distance = relative_position.abs();
    if distance < EXACT {
        return direction + distance;
    }
    // In f32 and in upstream's order of operations, as the edges of buckets depend on rounding.
    let range = (MAX_DISTANCE as f64 / EXACT as f64).ln() as f32;
    let scaled = (distance as f32 / EXACT as f32).ln() / range * (PER_DIRECTION - EXACT) as f32;
    direction + (EXACT + scaled as i64).min(PER_DIRECTION - 1)
}

/// The encoder: token embeddings for a packed batch.
#[derive(Debug)]
pub struct MpNet {
    embeddings: Embeddings,
    encoder: Encoder,
    config: Config,
}

impl MpNet {
    pub(crate) fn new(config: &Config, scope: &mut Scope<'_>) -> Self {
        Self {
            embeddings: Embeddings::new(config, &mut scope.sub("embeddings")),
            encoder: Encoder::new(config, &mut scope.sub("encoder")),
            config: config.clone(),
        }
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Token embeddings, `[T, H]`, in packed order.
    ///
    /// # Errors
    ///
    /// When a token id or a sentence is beyond the model's tables, or the device differs.
    pub fn forward(
        &self,
        parameters: &Parameters,
        batch: &PackedBatch,
        dropout: Dropout,
    ) -> Result<Tensor, ModelError> {
        self.check_fits(batch)?;
        self.forward_on_device(parameters, &DeviceBatch::new(batch)?, dropout)
    }

    /// [`Self::forward`] without its checks, for what is on the device already.
    pub(crate) fn forward_on_device(
        &self,
        parameters: &Parameters,
        batch: &DeviceBatch,
        dropout: Dropout,
    ) -> Result<Tensor, ModelError> {
        let hidden = self.embeddings.forward(parameters, batch, dropout)?;
        self.encoder
            .forward(parameters, hidden, batch, dropout, &mut |_| ())
    }

    /// The input of each layer and the output of the last, as [`Self::forward_on_device`] computes them.
    ///
    /// # Errors
    ///
    /// libtorch's.
    pub(crate) fn hidden_states(
        &self,
        parameters: &Parameters,
        batch: &DeviceBatch,
        dropout: Dropout,
    ) -> Result<Vec<Tensor>, ModelError> {
        let hidden = self.embeddings.forward(parameters, batch, dropout)?;
        let mut states = Vec::with_capacity(self.encoder.layers.len() + 1);
        let last = self
            .encoder
            .forward(parameters, hidden, batch, dropout, &mut |input| {
                states.push(input.shallow_clone());
            })?;
        states.push(last);
        Ok(states)
    }

    /// Whether the model has tables for the batch's ids and positions.
    pub(crate) fn check_fits(&self, batch: &PackedBatch) -> Result<(), ModelError> {
        if i64::from(batch.max_id()) >= self.config.vocab_size {
            return Err(ModelError::Input(format!(
                "token id {} is beyond the model's vocabulary of {}: the tokenizer is another model's",
                batch.max_id(),
                self.config.vocab_size
            )));
        }
        if batch.max_length() > self.config.max_sentence_length() {
            return Err(ModelError::Input(format!(
                "a sentence of {} tokens is longer than the model's {}: truncate it",
                batch.max_length(),
                self.config.max_sentence_length()
            )));
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Embeddings {
    word_embeddings: LeafId,
    position_embeddings: LeafId,
    layer_norm: LayerNorm,
}

impl Embeddings {
    fn new(config: &Config, scope: &mut Scope<'_>) -> Self {
        let hidden = config.hidden_size;
        Self {
            word_embeddings: scope.leaf("word_embeddings.weight", &[config.vocab_size, hidden]),
            position_embeddings: scope.leaf(
                "position_embeddings.weight",
                &[config.max_position_embeddings, hidden],
            ),
            layer_norm: LayerNorm::new(config, scope),
        }
    }

    fn forward(
        &self,
        p: &Parameters,
        batch: &DeviceBatch,
        dropout: Dropout,
    ) -> Result<Tensor, ModelError> {
        let look_up = |table: LeafId, rows: &Tensor| {
            Tensor::f_embedding(p.leaf(table), rows, i64::from(PADDING_ID), false, false)
        };
        let words = look_up(self.word_embeddings, &batch.ids)?;
        let positions = look_up(self.position_embeddings, &batch.positions)?;
        let hidden = self.layer_norm.forward(p, &words.f_add(&positions)?)?;
        drop_out(hidden, dropout.hidden)
    }
}

#[derive(Debug)]
struct Encoder {
    layers: Vec<Layer>,
    relative_attention_bias: LeafId,
    heads: i64,
    /// By length and kind.
    chosen_buckets: Mutex<HashMap<(i64, i32), Tensor>>,
}

impl Encoder {
    fn new(config: &Config, scope: &mut Scope<'_>) -> Self {
        let layers = (0..config.num_hidden_layers)
            .map(|i| Layer::new(config, &mut scope.sub("layer").sub(i)))
            .collect();
        let shape = [
            config.relative_attention_num_buckets,
            config.num_attention_heads,
        ];
        Self {
            layers,
            relative_attention_bias: scope.leaf("relative_attention_bias.weight", &shape),
            heads: config.num_attention_heads,
            chosen_buckets: Mutex::default(),
        }
    }

    fn forward(
        &self,
        p: &Parameters,
        mut hidden: Tensor,
        batch: &DeviceBatch,
        dropout: Dropout,
        on_input: &mut dyn FnMut(&Tensor),
    ) -> Result<Tensor, ModelError> {
        let bias = self.position_bias(p, batch)?;
        for layer in &self.layers {
            on_input(&hidden);
            hidden = layer.forward(p, &hidden, &bias, batch, dropout)?;
        }
        Ok(hidden)
    }

    /// What is added to the scores of every bucket, `[n, h, l, l]`, one for all layers: the relative position
    /// bias, and minus infinity for keys that are no token.
    fn position_bias(
        &self,
        p: &Parameters,
        batch: &DeviceBatch,
    ) -> Result<Vec<Tensor>, ModelError> {
        let table = p.leaf(self.relative_attention_bias);
        batch
            .buckets
            .iter()
            .map(|bucket| {
                let (n, l) = (bucket.sentences(), bucket.length());
                // [l * l, 32] x [32, h] -> [h, l, l]; the gradient by the table is a product too.
                let bias = self
                    .chosen_buckets(l, table)?
                    .f_matmul(table)?
                    .f_view([l, l, self.heads])?
                    .f_permute([2, 0, 1])?;
                let is_empty = bucket.is_empty()?.f_view([n, 1, 1, l])?;
                Ok(bias
                    .f_unsqueeze(0)?
                    .f_expand([n, self.heads, l, l], false)?
                    .f_masked_fill(&is_empty, f64::NEG_INFINITY)?)
            })
            .collect()
    }

    /// The bucket of each query and key of a sentence of `l` tokens as a row with a single one, `[l * l, 32]`, of the
    /// table's kind and on its device. It is made once for each length.
    fn chosen_buckets(&self, l: i64, table: &Tensor) -> Result<Tensor, ModelError> {
        let mut made = self
            .chosen_buckets
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let key = (l, table.kind() as i32);
        if let Some(chosen) = made.get(&key) {
            return Ok(chosen.shallow_clone());
        }
        let _guard = tch::no_grad_guard();
        let buckets: Vec<i64> = (0..l)
            .flat_map(|query| (0..l).map(move |key| relative_position_bucket(key - query)))
            .collect();
        let chosen = Tensor::f_from_slice(&buckets)?
            .f_one_hot(RELATIVE_BUCKETS)?
            .f_to_device(table.device())?
            .f_to_kind(table.kind())?;
        made.insert(key, chosen.shallow_clone());
        Ok(chosen)
    }
}

#[derive(Debug)]
struct Layer {
    attention: Attention,
    intermediate: Linear,
    output: Linear,
    layer_norm: LayerNorm,
}

impl Layer {
    fn new(config: &Config, scope: &mut Scope<'_>) -> Self {
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        Self {
            attention: Attention::new(config, &mut scope.sub("attention")),
            intermediate: Linear::new(
                &mut scope.sub("intermediate").sub("dense"),
                hidden,
                intermediate,
            ),
            output: Linear::new(&mut scope.sub("output").sub("dense"), intermediate, hidden),
            layer_norm: LayerNorm::new(config, &mut scope.sub("output")),
        }
    }

    fn forward(
        &self,
        p: &Parameters,
        hidden: &Tensor,
        bias: &[Tensor],
        batch: &DeviceBatch,
        dropout: Dropout,
    ) -> Result<Tensor, ModelError> {
        let attended = self.attention.forward(p, hidden, bias, batch, dropout)?;
        let output = self.intermediate.forward(p, &attended)?.f_gelu("none")?; // [T, I]
        let output = drop_out(self.output.forward(p, &output)?, dropout.hidden)?;
        self.layer_norm.forward(p, &output.f_add(&attended)?)
    }
}

#[derive(Debug)]
struct Attention {
    /// Query, key and value as one product.
    qkv: Linear,
    output: Linear,
    layer_norm: LayerNorm,
    heads: i64,
}

impl Attention {
    fn new(config: &Config, scope: &mut Scope<'_>) -> Self {
        let hidden = config.hidden_size;
        let mut attn = scope.sub("attn");
        let qkv = Linear {
            weight: attn.fused_leaf(&["q.weight", "k.weight", "v.weight"], &[hidden, hidden]),
            bias: attn.fused_leaf(&["q.bias", "k.bias", "v.bias"], &[hidden]),
        };
        let output = Linear::new(&mut attn.sub("o"), hidden, hidden);
        Self {
            qkv,
            output,
            layer_norm: LayerNorm::new(config, scope),
            heads: config.num_attention_heads,
        }
    }

    fn forward(
        &self,
        p: &Parameters,
        hidden: &Tensor,
        bias: &[Tensor],
        batch: &DeviceBatch,
        dropout: Dropout,
    ) -> Result<Tensor, ModelError> {
        let (_, hidden_size) = hidden.size2()?;
        let (h, d) = (self.heads, hidden_size / self.heads);
        let qkv = batch.split(&self.qkv.forward(p, hidden)?)?;
        let mut contexts = Vec::with_capacity(qkv.len());
        for ((bucket, qkv), bias) in batch.buckets.iter().zip(qkv).zip(bias) {
            let (n, l) = (bucket.sentences(), bucket.length());
            // [t, 3 * H] -> three of [n, h, l, d]; the gradient of the three is one copy.
            let qkv = bucket
                .fill_up(&qkv)?
                .f_view([n, l, 3, h, d])?
                .f_unbind(2)?
                .into_iter()
                .map(|x| x.f_transpose(1, 2))
                .collect::<Result<Vec<_>, _>>()?;
            let [q, k, v] = &qkv[..] else {
                unreachable!("the third dimension is 3")
            };
            // softmax(q k^T / sqrt(d) + bias) v, in one kernel where the device has one.
            let context = Tensor::f_scaled_dot_product_attention(
                q,
                k,
                v,
                Some(bias),
                dropout.attention,
                false,
                None,
                false,
            )?;
            let context = context.f_transpose(1, 2)?.f_reshape([n * l, hidden_size])?;
            contexts.push(bucket.pack(&context)?);
        }
        let context = match contexts.pop() {
            Some(only) if contexts.is_empty() => only,
            last => {
                contexts.extend(last);
                Tensor::f_cat(&contexts, 0)? // [T, H]
            }
        };
        let output = drop_out(self.output.forward(p, &context)?, dropout.hidden)?;
        self.layer_norm.forward(p, &output.f_add(hidden)?)
    }
}

/// `x W^T + b`, for rows.
#[derive(Debug)]
struct Linear {
    weight: LeafId,
    bias: LeafId,
}

impl Linear {
    fn new(scope: &mut Scope<'_>, inputs: i64, outputs: i64) -> Self {
        Self {
            weight: scope.leaf("weight", &[outputs, inputs]),
            bias: scope.leaf("bias", &[outputs]),
        }
    }

    fn forward(&self, p: &Parameters, rows: &Tensor) -> Result<Tensor, ModelError> {
        Ok(rows.f_linear(p.leaf(self.weight), Some(p.leaf(self.bias)))?)
    }
}

#[derive(Debug)]
struct LayerNorm {
    weight: LeafId,
    bias: LeafId,
    size: i64,
    eps: f64,
}

impl LayerNorm {
    fn new(config: &Config, scope: &mut Scope<'_>) -> Self {
        let mut scope = scope.sub("LayerNorm");
        let size = config.hidden_size;
        Self {
            weight: scope.leaf("weight", &[size]),
            bias: scope.leaf("bias", &[size]),
            size,
            eps: config.layer_norm_eps,
        }
    }

    fn forward(&self, p: &Parameters, rows: &Tensor) -> Result<Tensor, ModelError> {
        let (weight, bias) = (p.leaf(self.weight), p.leaf(self.bias));
        Ok(rows.f_layer_norm([self.size], Some(weight), Some(bias), self.eps, false)?)
    }
}

/// Dropout by libtorch's generator, which is drawn from only where the probability is not zero.
fn drop_out(x: Tensor, probability: f64) -> Result<Tensor, ModelError> {
    if probability == 0.0 {
        return Ok(x);
    }
    Ok(x.f_dropout(probability, true)?)
}

#[derive(Clone, Copy)]
enum KeyKind {
    Text,
    Count,
    OptionalCount,
    OptionalNumber,
}

const KEYS: [(&str, KeyKind); 14] = [
    ("model_type", KeyKind::Text),
    ("vocab_size", KeyKind::Count),
    ("hidden_size", KeyKind::Count),
    ("num_hidden_layers", KeyKind::Count),
    ("num_attention_heads", KeyKind::Count),
    ("intermediate_size", KeyKind::Count),
    ("hidden_act", KeyKind::Text),
    ("hidden_dropout_prob", KeyKind::OptionalNumber),
    ("attention_probs_dropout_prob", KeyKind::OptionalNumber),
    ("max_position_embeddings", KeyKind::Count),
    ("initializer_range", KeyKind::OptionalNumber),
    ("layer_norm_eps", KeyKind::OptionalNumber),
    ("relative_attention_num_buckets", KeyKind::OptionalCount),
    ("pad_token_id", KeyKind::OptionalCount),
];

fn value_error(path: &Path, key: &str, value: &str, allowed: &str) -> ModelError {
    ModelError::Value {
        path: path.to_owned(),
        key: key.to_owned(),
        value: value.to_owned(),
        allowed: allowed.to_owned(),
    }
}

// The defaults of transformers' MPNetConfig, for keys that a config.json may leave out.

fn default_dropout() -> f64 {
    0.1
}

fn default_initializer_range() -> f64 {
    0.02
}

fn default_layer_norm_eps() -> f64 {
    1e-12
}

fn default_buckets() -> i64 {
    RELATIVE_BUCKETS
}

fn default_pad_token_id() -> i64 {
    i64::from(PADDING_ID)
}

//! The transformer, with autograd, on packed batches; `block/by_hand.rs` computes the same on kernels.
//!
//! Dimensions in the comments: T packed tokens, H hidden size, I intermediate size, h heads,
//! d = H / h; of a bucket n sentences, t packed tokens, l the tokens that each sentence has room for.

pub(crate) mod by_hand;

use tch::Tensor;

use crate::{
    batch::buckets::DeviceBatch,
    encoder::{
        family::Names,
        numbering::Positions,
        relative::{BUCKETS, RelativeBias},
        spec::{Dropout, Spec},
    },
    error::ModelError,
    parameters::{LeafId, LeafKind, Parameters, Scope},
};

/// The modules of an encoder.
#[derive(Debug)]
pub(crate) struct Transformer {
    embeddings: Embeddings,
    layers: Vec<Layer>,
    relative: RelativeBias,
    intermediate_size: usize,
}

impl Transformer {
    pub(crate) fn new(spec: &Spec, names: &Names, scope: &mut Scope<'_>) -> Self {
        let embeddings = Embeddings::new(spec, names, scope);
        let layers = (0..spec.layers.len())
            .map(|i| Layer::new(spec, names, &mut scope.sub(names.layers).sub(i)))
            .collect();
        let table = scope.leaf(
            &format!("{}.weight", names.relative_bias),
            &[BUCKETS, spec.heads],
            LeafKind::RelativeBias,
        );
        Self {
            embeddings,
            layers,
            relative: RelativeBias::new(table, spec.heads),
            intermediate_size: spec.intermediate_size as usize,
        }
    }

    /// Token embeddings, `[T, H]`, in packed order.
    ///
    /// # Errors
    ///
    /// libtorch's.
    pub(crate) fn forward(
        &self,
        parameters: &Parameters,
        batch: &DeviceBatch,
        dropout: Dropout,
    ) -> Result<Tensor, ModelError> {
        self.run(parameters, batch, dropout, &mut |_| ())
    }

    /// The input of each layer and the output of the last, `[T, H]` each.
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
        let mut states = Vec::with_capacity(self.layers.len() + 1);
        let last = self.run(parameters, batch, dropout, &mut |input| {
            states.push(input.shallow_clone());
        })?;
        states.push(last);
        Ok(states)
    }

    fn run(
        &self,
        p: &Parameters,
        batch: &DeviceBatch,
        dropout: Dropout,
        on_input: &mut dyn FnMut(&Tensor),
    ) -> Result<Tensor, ModelError> {
        let mut hidden = self.embeddings.forward(p, batch, dropout)?;
        // Added to the scores of every layer, for each bucket.
        let bias = batch
            .buckets
            .iter()
            .map(|bucket| self.relative.of_bucket(p, bucket))
            .collect::<Result<Vec<_>, _>>()?;
        for layer in &self.layers {
            on_input(&hidden);
            hidden = layer.forward(p, &hidden, &bias, batch, dropout)?;
        }
        Ok(hidden)
    }
}

#[derive(Debug)]
struct Embeddings {
    word: Table,
    position: Table,
    norm: LayerNorm,
}

/// An embedding table, [rows, H].
#[derive(Debug)]
struct Table {
    rows: LeafId,
    /// The row that gets no gradient.
    padding: Option<u32>,
}

impl Table {
    fn new(scope: &mut Scope<'_>, name: &str, shape: &[i64], padding: Option<u32>) -> Self {
        Self {
            rows: scope.leaf(
                &format!("{name}.weight"),
                shape,
                LeafKind::Table { padding },
            ),
            padding,
        }
    }

    fn look_up(&self, p: &Parameters, rows: &Tensor) -> Result<Tensor, ModelError> {
        let padding = self.padding.map_or(-1, i64::from);
        let table = p.leaf(self.rows);
        Ok(Tensor::f_embedding(table, rows, padding, false, false)?)
    }
}

impl Embeddings {
    fn new(spec: &Spec, names: &Names, scope: &mut Scope<'_>) -> Self {
        let (hidden, numbering) = (spec.hidden_size, spec.numbering);
        let padding = Some(numbering.padding_id);
        let padding_position = match numbering.positions {
            Positions::FromZero => None,
            Positions::AfterPadding => padding,
        };
        Self {
            word: Table::new(scope, names.word, &[spec.vocab_size, hidden], padding),
            position: Table::new(
                scope,
                names.position,
                &[spec.position_rows, hidden],
                padding_position,
            ),
            norm: LayerNorm::new(spec, scope, names.embedding_norm),
        }
    }

    fn forward(
        &self,
        p: &Parameters,
        batch: &DeviceBatch,
        dropout: Dropout,
    ) -> Result<Tensor, ModelError> {
        let words = self.word.look_up(p, &batch.ids)?;
        let positions = self.position.look_up(p, &batch.positions)?;
        let hidden = self.norm.forward(p, &words.f_add(&positions)?)?;
        drop_out(hidden, dropout.embeddings)
    }
}

#[derive(Debug)]
struct Layer {
    /// Query, key and value as one product.
    qkv: Linear,
    attention_output: Linear,
    attention_norm: LayerNorm,
    up: Linear,
    down: Linear,
    output_norm: LayerNorm,
    heads: i64,
}

impl Layer {
    fn new(spec: &Spec, names: &Names, scope: &mut Scope<'_>) -> Self {
        let (hidden, intermediate) = (spec.hidden_size, spec.intermediate_size);
        Self {
            qkv: Linear::stacked(scope, names.qkv, hidden, 3 * hidden),
            attention_output: Linear::new(scope, names.attention_output, hidden, hidden),
            attention_norm: LayerNorm::new(spec, scope, names.attention_norm),
            up: Linear::new(scope, names.up, hidden, intermediate),
            down: Linear::new(scope, names.down, intermediate, hidden),
            output_norm: LayerNorm::new(spec, scope, names.output_norm),
            heads: spec.heads,
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
        let context = self.attend(p, hidden, bias, batch, dropout)?;
        let output = drop_out(
            self.attention_output.forward(p, &context)?,
            dropout.attention,
        )?;
        let attended = self.attention_norm.forward(p, &output.f_add(hidden)?)?;
        let output = self.up.forward(p, &attended)?.f_gelu("none")?; // [T, I]
        let output = drop_out(self.down.forward(p, &output)?, dropout.output)?;
        self.output_norm.forward(p, &output.f_add(&attended)?)
    }

    /// The heads' contexts side by side, [T, H].
    fn attend(
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
                dropout.probabilities.unwrap_or(0.0),
                false,
                None,
                false,
            )?;
            let context = context.f_transpose(1, 2)?.f_reshape([n * l, hidden_size])?;
            contexts.push(bucket.pack(&context)?);
        }
        match contexts.pop() {
            Some(only) if contexts.is_empty() => Ok(only),
            last => {
                contexts.extend(last);
                Ok(Tensor::f_cat(&contexts, 0)?) // [T, H]
            }
        }
    }
}

/// `x W^T + b`, for rows.
#[derive(Debug)]
struct Linear {
    weight: LeafId,
    bias: LeafId,
}

impl Linear {
    fn new(scope: &mut Scope<'_>, name: &str, inputs: i64, outputs: i64) -> Self {
        Self::stacked(scope, &[name], inputs, outputs)
    }

    /// One product whose outputs are those of several layers, in their order and equally many of each.
    fn stacked(scope: &mut Scope<'_>, names: &[&str], inputs: i64, outputs: i64) -> Self {
        let of_each = outputs / names.len() as i64;
        let all = |what: &str| -> Vec<String> {
            names.iter().map(|name| format!("{name}.{what}")).collect()
        };
        Self {
            weight: scope.fused_leaf(&all("weight"), &[of_each, inputs], LeafKind::Matrix),
            bias: scope.fused_leaf(&all("bias"), &[of_each], LeafKind::Bias),
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
    fn new(spec: &Spec, scope: &mut Scope<'_>, name: &str) -> Self {
        let (mut scope, size) = (scope.sub(name), spec.hidden_size);
        Self {
            weight: scope.leaf("weight", &[size], LeafKind::Scale),
            bias: scope.leaf("bias", &[size], LeafKind::Bias),
            size,
            eps: spec.eps,
        }
    }

    fn forward(&self, p: &Parameters, rows: &Tensor) -> Result<Tensor, ModelError> {
        let (weight, bias) = (p.leaf(self.weight), p.leaf(self.bias));
        Ok(rows.f_layer_norm([self.size], Some(weight), Some(bias), self.eps, false)?)
    }
}

/// Dropout by libtorch's generator, which is drawn from only where the probability is not zero.
fn drop_out(x: Tensor, probability: Option<f64>) -> Result<Tensor, ModelError> {
    match probability {
        None | Some(0.0) => Ok(x),
        Some(probability) => Ok(x.f_dropout(probability, true)?),
    }
}

//! The transformer, with autograd, on packed batches; `block/by_hand.rs` computes the same on kernels.
//!
//! Dimensions in the comments: T packed tokens, H hidden size, I intermediate size, h heads,
//! d = H / h; of a bucket n sentences, t packed tokens, l the tokens that each sentence has room for.

pub(crate) mod by_hand;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use kernels::attention::Rotary;
use tch::{Device, Kind, Tensor};

use crate::{
    batch::{
        buckets::{Bucket, DeviceBatch},
        packed::OneToken,
    },
    encoder::{
        adapter::{
            Adapter, EMBEDDINGS, FINAL_NORM, LayerAdapters, RELATIVE_BIAS, Selection, layer_part,
        },
        family::Names,
        numbering::Positions,
        relative::{BUCKETS, RelativeBias},
        spec::{Dropout, LayerSpec, Placement, Spec},
    },
    error::ModelError,
    parameters::{LeafId, LeafKind, Parameters, Scope},
};

/// The modules of an encoder.
#[derive(Debug)]
pub(crate) struct Transformer {
    embeddings: Embeddings,
    layers: Vec<Layer>,
    relative: Option<RelativeBias>,
    /// The norm after the last layer.
    final_norm: Option<LayerNorm>,
    intermediate_size: usize,
    reach: Reach,
    /// Cosines and sines of rotary positions on the device, by the bits of theta and the length.
    rotations: Mutex<HashMap<(u64, i64), (Tensor, Tensor)>>,
    /// Rotary positions for our kernels, by the bits of theta.
    rotaries: Mutex<HashMap<u64, Arc<Rotary>>>,
}

impl Transformer {
    pub(crate) fn new(
        spec: &Spec,
        names: &Names,
        selection: &Selection,
        scope: &mut Scope<'_>,
    ) -> Self {
        // Other combinations have no passes by hand, and no family has them.
        assert_eq!(
            (spec.placement == Placement::Pre, !spec.biases),
            (spec.gated, spec.gated),
            "norms before each half, no biases and a gate go together"
        );
        let trains = |part: &str| selection.trains(part);
        let embeddings = Embeddings::new(spec, names, &mut scope.trained(trains(EMBEDDINGS)));
        let layers: Vec<Layer> = (0..spec.layers.len())
            .map(|i| {
                let adapters = LayerAdapters {
                    adapters: selection.adapters.as_ref(),
                    layers: names.layers,
                    layer: i,
                };
                let mut scope = scope.trained(trains(&layer_part(i)));
                Layer::new(spec, names, &adapters, &mut scope.sub(names.layers).sub(i))
            })
            .collect();
        let relative = spec.relative_bias.then(|| {
            let name = format!("{}.weight", names.relative_bias);
            let mut scope = scope.trained(trains(RELATIVE_BIAS));
            let table = scope.leaf(&name, &[BUCKETS, spec.heads], LeafKind::RelativeBias);
            RelativeBias::new(table, spec.heads)
        });
        let final_norm = (spec.placement == Placement::Pre).then(|| {
            let mut scope = scope.trained(trains(FINAL_NORM));
            LayerNorm::new(spec, &mut scope, names.final_norm)
        });
        let of_layer = |i: usize, layer: &Layer| {
            let linear = [&layer.qkv, &layer.attention_output, &layer.up, &layer.down];
            trains(&layer_part(i)) || linear.iter().any(|linear| linear.adapter.is_some())
        };
        let reach = Reach {
            embeddings: trains(EMBEDDINGS),
            relative: relative.is_some() && trains(RELATIVE_BIAS),
            final_norm: final_norm.is_some() && trains(FINAL_NORM),
            lowest: layers
                .iter()
                .enumerate()
                .position(|(i, layer)| of_layer(i, layer))
                .unwrap_or(layers.len()),
        };
        Self {
            embeddings,
            layers,
            relative,
            final_norm,
            intermediate_size: spec.intermediate_size as usize,
            reach: reach.joined(),
            rotations: Mutex::default(),
            rotaries: Mutex::default(),
        }
    }

    /// Token embeddings, `[T, H]`, in packed order; where only one token of each sentence is wanted, its, `[S, H]`.
    ///
    /// # Errors
    ///
    /// libtorch's.
    pub(crate) fn forward(
        &self,
        parameters: &Parameters,
        batch: &DeviceBatch,
        dropout: Dropout,
        only: Option<OneToken>,
    ) -> Result<Tensor, ModelError> {
        self.run(parameters, batch, dropout, only, &mut |_| ())
    }

    /// The input of each layer, `[T, H]` each, and the output as of [`Self::forward`].
    ///
    /// # Errors
    ///
    /// libtorch's.
    pub(crate) fn hidden_states(
        &self,
        parameters: &Parameters,
        batch: &DeviceBatch,
        dropout: Dropout,
        only: Option<OneToken>,
    ) -> Result<Vec<Tensor>, ModelError> {
        let mut states = Vec::with_capacity(self.layers.len() + 1);
        let last = self.run(parameters, batch, dropout, only, &mut |input| {
            states.push(input.shallow_clone());
        })?;
        states.push(last);
        Ok(states)
    }

    /// The weights of the linear layers that have an adapter, with it added, each after the offset of the first in the
    /// flat tensor.
    ///
    /// # Errors
    ///
    /// libtorch's.
    pub(crate) fn merged_weights(
        &self,
        p: &Parameters,
    ) -> Result<Vec<(i64, Vec<f32>)>, ModelError> {
        let _guard = tch::no_grad_guard();
        let mut merged = Vec::new();
        for layer in &self.layers {
            for linear in [&layer.qkv, &layer.attention_output, &layer.up, &layer.down] {
                if let Some(adapter) = &linear.adapter {
                    let weight = adapter.merged_into(p.flat_leaf(linear.weight)?, p)?;
                    let weight = weight.f_to_device(Device::Cpu)?.f_view([-1])?;
                    merged.push((p.leaf_offset(linear.weight), Vec::try_from(weight)?));
                }
            }
        }
        Ok(merged)
    }

    /// As [`Encoder::flops_per_token`].
    ///
    /// [`Encoder::flops_per_token`]: crate::encoder::Encoder::flops_per_token
    pub(crate) fn flops_per_token(&self, p: &Parameters) -> f64 {
        let mut products = 0;
        for (i, layer) in self.layers.iter().enumerate() {
            let is_reached = i >= self.reach.lowest;
            for (linear, wants_input) in [
                (&layer.qkv, self.reach.wants_input(i)),
                (&layer.attention_output, true),
                (&layer.up, true),
                (&layer.down, true),
            ] {
                let n_backward =
                    i64::from(is_reached && wants_input) + i64::from(p.is_trained(linear.weight));
                products += (1 + n_backward) * p.leaf_numel(linear.weight);
                if let Some(adapter) = &linear.adapter {
                    products += 3 * (p.leaf_numel(adapter.down) + p.leaf_numel(adapter.up));
                }
            }
        }
        2.0 * products as f64
    }

    fn run(
        &self,
        p: &Parameters,
        batch: &DeviceBatch,
        dropout: Dropout,
        only: Option<OneToken>,
        on_input: &mut dyn FnMut(&Tensor),
    ) -> Result<Tensor, ModelError> {
        let mut hidden = self.embeddings.forward(p, batch, dropout)?;
        // Layers of one kind share what is added to their scores and how they turn queries and keys.
        let mut kinds: Vec<(LayerSpec, Vec<Scores>)> = Vec::new();
        for (i, layer) in self.layers.iter().enumerate() {
            let kind = match kinds.iter().position(|(spec, _)| spec.is_like(&layer.spec)) {
                Some(kind) => kind,
                None => {
                    let of_bucket = |bucket: &Bucket| self.scores(p, layer, bucket, hidden.kind());
                    let scores = batch.buckets.iter().map(of_bucket);
                    kinds.push((layer.spec, scores.collect::<Result<_, _>>()?));
                    kinds.len() - 1
                }
            };
            on_input(&hidden);
            let only = only.filter(|_| i + 1 == self.layers.len());
            hidden = layer.forward(p, &hidden, &kinds[kind].1, batch, dropout, only)?;
        }
        match &self.final_norm {
            Some(norm) => norm.forward(p, &hidden),
            None => Ok(hidden),
        }
    }

    /// The bias and the rotations of a layer's attention in a bucket.
    fn scores(
        &self,
        p: &Parameters,
        layer: &Layer,
        bucket: &Bucket,
        kind: Kind,
    ) -> Result<Scores, ModelError> {
        let bias = match &self.relative {
            Some(relative) => relative.of_bucket(p, bucket)?,
            None => mask(bucket, layer.heads, layer.spec.window, kind)?,
        };
        let rotation = match layer.spec.rotary {
            Some(theta) => {
                let device = bias.device();
                Some(self.rotation(theta, layer.head_dim, bucket.length(), device)?)
            }
            None => None,
        };
        Ok(Scores { bias, rotation })
    }

    /// Cosines and sines for every place and column of a head, `[l, d]` each, in f32. They are made once for each
    /// length.
    fn rotation(
        &self,
        theta: f64,
        head_dim: i64,
        l: i64,
        device: Device,
    ) -> Result<(Tensor, Tensor), ModelError> {
        let mut made = self
            .rotations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let key = (theta.to_bits(), l);
        if let Some((cos, sin)) = made.get(&key) {
            return Ok((cos.shallow_clone(), sin.shallow_clone()));
        }
        let _guard = tch::no_grad_guard();
        let rotary = Rotary::new(theta, head_dim as usize, l as usize);
        let table = Tensor::f_from_slice(rotary.table())?
            .f_view([l, 2, head_dim / 2])?
            .f_to_device(device)?;
        let twice = |half: Tensor| Tensor::f_cat(&[&half, &half], 1);
        let rotation = (twice(table.f_select(1, 0)?)?, twice(table.f_select(1, 1)?)?);
        made.insert(
            key,
            (rotation.0.shallow_clone(), rotation.1.shallow_clone()),
        );
        Ok(rotation)
    }
}

/// How far down a backward pass has to go, by what is trained.
#[derive(Debug, Clone, Copy)]
struct Reach {
    embeddings: bool,
    relative: bool,
    final_norm: bool,
    /// The lowest layer that gradients go through; the number of layers where they go through none.
    lowest: usize,
}

impl Reach {
    /// With the layers that the embeddings and the relative bias are reached through.
    fn joined(self) -> Self {
        let through_all = self.embeddings || self.relative;
        Self {
            lowest: if through_all { 0 } else { self.lowest },
            ..self
        }
    }

    /// Whether a layer's input needs its gradient.
    fn wants_input(self, layer: usize) -> bool {
        self.embeddings || layer > self.lowest
    }
}

/// The bias and the rotations of attention in a bucket.
struct Scores {
    /// Added to the scores, `[n, h, l, l]`.
    bias: Tensor,
    /// Cosines and sines that queries and keys are rotated by, `[l, d]` each.
    rotation: Option<(Tensor, Tensor)>,
}

/// Zero for the keys that a query sees and minus infinity for others, `[n, h, l, l]`.
fn mask(
    bucket: &Bucket,
    heads: i64,
    window: Option<usize>,
    kind: Kind,
) -> Result<Tensor, ModelError> {
    let (n, l) = (bucket.sentences(), bucket.length());
    let mut hidden = bucket.is_empty()?.f_view([n, 1, 1, l])?;
    if let Some(window) = window {
        let places = bucket.places()?;
        let distance = places.f_sub(&places.f_view([l, 1])?)?.f_abs()?;
        let beyond = distance.f_gt(window as i64)?;
        // A place beyond the sentence's end sees itself: it would see nothing, and give NaN.
        hidden = hidden
            .f_logical_and(&distance.f_ne(0)?)?
            .f_logical_or(&beyond)?;
    }
    let zeros = Tensor::f_zeros([1, 1, 1, 1], (kind, hidden.device()))?;
    let bias = zeros
        .f_expand_as(&hidden)?
        .f_masked_fill(&hidden, f64::NEG_INFINITY)?;
    Ok(bias.f_expand([n, heads, l, l], false)?)
}

#[derive(Debug)]
struct Embeddings {
    word: Table,
    token_type: Option<Table>,
    position: Option<Table>,
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
        let mut table = |name, rows, padding| Table::new(scope, name, &[rows, hidden], padding);
        Self {
            word: table(names.word, spec.vocab_size, padding),
            position: spec
                .position_rows
                .map(|rows| table(names.position, rows, padding_position)),
            token_type: spec
                .token_types
                .map(|rows| table(names.token_type, rows, None)),
            norm: LayerNorm::new(spec, scope, names.embedding_norm),
        }
    }

    fn forward(
        &self,
        p: &Parameters,
        batch: &DeviceBatch,
        dropout: Dropout,
    ) -> Result<Tensor, ModelError> {
        let mut sum = self.word.look_up(p, &batch.ids)?;
        if let Some(token_type) = &self.token_type {
            sum = sum.f_add(&p.leaf(token_type.rows).f_narrow(0, 0, 1)?)?;
        }
        if let Some(position) = &self.position {
            sum = sum.f_add(&position.look_up(p, &batch.positions)?)?;
        }
        drop_out(self.norm.forward(p, &sum)?, dropout.embeddings)
    }
}

#[derive(Debug)]
struct Layer {
    /// Query, key and value as one product.
    qkv: Linear,
    attention_output: Linear,
    up: Linear,
    down: Linear,
    norms: Norms,
    heads: i64,
    head_dim: i64,
    gated: bool,
    spec: LayerSpec,
}

/// The norms of a layer's two halves, attention and feed-forward.
#[derive(Debug)]
enum Norms {
    /// After each half and its residual.
    Post {
        attention: LayerNorm,
        output: LayerNorm,
    },
    /// Before each half.
    Pre {
        attention: Option<LayerNorm>,
        output: LayerNorm,
    },
}

impl Norms {
    /// The norm of the attention's input, where it has one.
    fn before_attention(&self) -> Option<&LayerNorm> {
        match self {
            Self::Post { .. } => None,
            Self::Pre { attention, .. } => attention.as_ref(),
        }
    }
}

impl Layer {
    fn new(
        spec: &Spec,
        names: &Names,
        adapters: &LayerAdapters<'_>,
        scope: &mut Scope<'_>,
    ) -> Self {
        let (hidden, intermediate) = (spec.hidden_size, spec.intermediate_size);
        let inner = if spec.gated { 2 } else { 1 } * intermediate;
        let (i, of_layer) = (adapters.layer, spec.layers[adapters.layer]);
        // After the sites of dropout in all layers, one for each linear layer of this one.
        let mut site = 4 * spec.layers.len() + 1 + i * (names.qkv.len() + 3);
        let mut linear = |scope: &mut Scope<'_>, names: &[&str], inputs, outputs, kind| {
            let first = site;
            site += names.len();
            let shape = [outputs / names.len() as i64, inputs];
            let mut linear = Linear::new(scope, names, shape, kind, spec.biases);
            linear.adapter = Adapter::declare(scope, names, shape, adapters, first);
            linear
        };
        let (matrix, output) = (LeafKind::Matrix, LeafKind::OutputMatrix);
        let qkv = linear(scope, names.qkv, hidden, 3 * hidden, matrix);
        let attention_output = linear(scope, &[names.attention_output], hidden, hidden, output);
        let has_norm = spec.placement == Placement::Post || of_layer.attention_norm;
        let attention_norm = has_norm.then(|| LayerNorm::new(spec, scope, names.attention_norm));
        let up = linear(scope, &[names.up], hidden, inner, matrix);
        let down = linear(scope, &[names.down], intermediate, hidden, output);
        let output_norm = LayerNorm::new(spec, scope, names.output_norm);
        let norms = match (spec.placement, attention_norm) {
            (Placement::Post, Some(attention)) => Norms::Post {
                attention,
                output: output_norm,
            },
            (_, attention) => Norms::Pre {
                attention,
                output: output_norm,
            },
        };
        Self {
            qkv,
            attention_output,
            up,
            down,
            norms,
            heads: spec.heads,
            head_dim: hidden / spec.heads,
            gated: spec.gated,
            spec: of_layer,
        }
    }

    /// The layer's output for all rows, or for one token of each sentence.
    fn forward(
        &self,
        p: &Parameters,
        hidden: &Tensor,
        scores: &[Scores],
        batch: &DeviceBatch,
        dropout: Dropout,
        only: Option<OneToken>,
    ) -> Result<Tensor, ModelError> {
        let residual = match only {
            Some(token) => &batch.choose(hidden, token)?,
            None => hidden,
        };
        let input = match self.norms.before_attention() {
            Some(norm) => &norm.forward(p, hidden)?,
            None => hidden,
        };
        let attended = self.attend(p, input, scores, batch, dropout, only)?;
        let attended = residual.f_add(&attended)?;
        match &self.norms {
            Norms::Post { attention, output } => {
                let attended = attention.forward(p, &attended)?;
                let fed = self.feed_forward(p, &attended, dropout)?;
                output.forward(p, &attended.f_add(&fed)?)
            }
            Norms::Pre { output, .. } => {
                let input = output.forward(p, &attended)?;
                Ok(attended.f_add(&self.feed_forward(p, &input, dropout)?)?)
            }
        }
    }

    /// The feed-forward part, up to its dropout.
    fn feed_forward(
        &self,
        p: &Parameters,
        input: &Tensor,
        dropout: Dropout,
    ) -> Result<Tensor, ModelError> {
        let inner = self.up.forward(p, input, dropout)?;
        let inner = if self.gated {
            let halves = inner.f_chunk(2, 1)?;
            halves[0].f_gelu("none")?.f_mul(&halves[1])?
        } else {
            inner.f_gelu("none")?
        }; // [T, I]
        let inner = drop_out(inner, dropout.intermediate)?;
        drop_out(self.down.forward(p, &inner, dropout)?, dropout.output)
    }

    /// The attention and its output projection, up to its dropout.
    fn attend(
        &self,
        p: &Parameters,
        hidden: &Tensor,
        scores: &[Scores],
        batch: &DeviceBatch,
        dropout: Dropout,
        only: Option<OneToken>,
    ) -> Result<Tensor, ModelError> {
        let contexts = match only {
            Some(token) => self.contexts_of(p, hidden, scores, batch, dropout, token)?,
            None => self.contexts(p, hidden, scores, batch, dropout)?,
        };
        let context = match &contexts[..] {
            [only] => only.shallow_clone(),
            several => Tensor::f_cat(several, 0)?, // [T, H]
        };
        drop_out(
            self.attention_output.forward(p, &context, dropout)?,
            dropout.attention,
        )
    }

    /// The heads' contexts of each bucket, `[t, H]`.
    fn contexts(
        &self,
        p: &Parameters,
        hidden: &Tensor,
        scores: &[Scores],
        batch: &DeviceBatch,
        dropout: Dropout,
    ) -> Result<Vec<Tensor>, ModelError> {
        let (h, d) = (self.heads, self.head_dim);
        let qkv = batch.split(&self.qkv.forward(p, hidden, dropout)?)?;
        let mut contexts = Vec::with_capacity(qkv.len());
        for ((bucket, qkv), scores) in batch.buckets.iter().zip(qkv).zip(scores) {
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
            let (q, k) = match &scores.rotation {
                Some(rotation) => (&rotate(q, rotation)?, &rotate(k, rotation)?),
                None => (q, k),
            };
            let context = attention([q, k, v], &scores.bias, dropout)?;
            let context = context.f_transpose(1, 2)?.f_reshape([n * l, h * d])?;
            contexts.push(bucket.pack(&context)?);
        }
        Ok(contexts)
    }

    /// The heads' contexts of one token of each of a bucket's sentences, `[n, H]`: keys and values are those of all
    /// tokens, queries those of the chosen ones.
    fn contexts_of(
        &self,
        p: &Parameters,
        hidden: &Tensor,
        scores: &[Scores],
        batch: &DeviceBatch,
        dropout: Dropout,
        token: OneToken,
    ) -> Result<Vec<Tensor>, ModelError> {
        let (h, d) = (self.heads, self.head_dim);
        let width = h * d;
        let part = |rows: &Tensor, from: i64, outputs: i64| -> Result<Tensor, ModelError> {
            if self.qkv.adapter.is_some() {
                let all = self.qkv.forward(p, rows, dropout)?;
                return Ok(all.f_narrow(1, from, outputs)?);
            }
            let weight = p.leaf(self.qkv.weight).f_narrow(0, from, outputs)?;
            let bias = self.qkv.bias.map(|bias| p.leaf(bias));
            let bias = bias
                .map(|bias| bias.f_narrow(0, from, outputs))
                .transpose()?;
            Ok(rows.f_linear(&weight, bias.as_ref())?)
        };
        let q = part(&batch.choose(hidden, token)?, 0, width)?;
        let kv = batch.split(&part(hidden, width, 2 * width)?)?;
        let q = batch.split_sentences(&q)?;
        let mut contexts = Vec::with_capacity(kv.len());
        for (((bucket, q), kv), scores) in batch.buckets.iter().zip(q).zip(kv).zip(scores) {
            let (n, l) = (bucket.sentences(), bucket.length());
            let place = bucket.place_of(token)?; // [n, 1]
            let q = q.f_view([n, h, 1, d])?;
            let kv = bucket.fill_up(&kv)?.f_view([n, l, 2, h, d])?;
            let kv = kv.f_transpose(1, 3)?; // [n, h, 2, l, d]
            let (k, v) = (kv.f_select(2, 0)?, kv.f_select(2, 1)?);
            let (q, k) = match &scores.rotation {
                Some(rotation) => {
                    let of_place = |table: &Tensor| -> Result<Tensor, ModelError> {
                        let rows = table.f_index_select(0, &place.f_view([-1])?)?;
                        Ok(rows.f_view([n, 1, 1, d])?)
                    };
                    let of_queries = (of_place(&rotation.0)?, of_place(&rotation.1)?);
                    (rotate(&q, &of_queries)?, rotate(&k, rotation)?)
                }
                None => (q, k),
            };
            let rows = place.f_view([n, 1, 1, 1])?.f_expand([n, h, 1, l], false)?;
            let bias = scores.bias.f_gather(2, &rows, false)?;
            let context = attention([&q, &k, &v], &bias, dropout)?; // [n, h, 1, d]
            contexts.push(context.f_reshape([n, width])?);
        }
        Ok(contexts)
    }
}

/// softmax(q k^T / sqrt(d) + bias) v, in one kernel where the device has one.
fn attention(
    [q, k, v]: [&Tensor; 3],
    bias: &Tensor,
    dropout: Dropout,
) -> Result<Tensor, ModelError> {
    let p = dropout.probabilities.unwrap_or(0.0);
    let context =
        Tensor::f_scaled_dot_product_attention(q, k, v, Some(bias), p, false, None, false)?;
    Ok(context)
}

/// Queries or keys `[n, h, l, d]` rotated by their places, in f32 and returned in their own kind.
fn rotate(x: &Tensor, (cos, sin): &(Tensor, Tensor)) -> Result<Tensor, ModelError> {
    let exact = x.f_to_kind(Kind::Float)?;
    let halves = exact.f_chunk(2, -1)?;
    let turned = Tensor::f_cat(&[&halves[1].f_neg()?, &halves[0]], -1)?;
    let rotated = exact.f_mul(cos)?.f_add(&turned.f_mul(sin)?)?;
    Ok(rotated.f_to_kind(x.kind())?)
}

impl LayerSpec {
    /// Whether attention of both kinds takes the same rotations and sees the same keys.
    fn is_like(&self, other: &Self) -> bool {
        self.rotary == other.rotary && self.window == other.window
    }
}

/// `x W^T + b`, for rows.
#[derive(Debug)]
struct Linear {
    weight: LeafId,
    bias: Option<LeafId>,
    adapter: Option<Adapter>,
}

impl Linear {
    /// One product; of several names its outputs are stacked in their order, equally many of each.
    fn new(
        scope: &mut Scope<'_>,
        names: &[&str],
        [of_each, inputs]: [i64; 2],
        kind: LeafKind,
        has_bias: bool,
    ) -> Self {
        let all = |what: &str| -> Vec<String> {
            names.iter().map(|name| format!("{name}.{what}")).collect()
        };
        let weight = scope.fused_leaf(&all("weight"), &[of_each, inputs], kind);
        let bias = has_bias.then(|| scope.fused_leaf(&all("bias"), &[of_each], LeafKind::Bias));
        Self {
            weight,
            bias,
            adapter: None,
        }
    }

    fn forward(
        &self,
        p: &Parameters,
        rows: &Tensor,
        dropout: Dropout,
    ) -> Result<Tensor, ModelError> {
        let bias = self.bias.map(|bias| p.leaf(bias));
        let output = rows.f_linear(p.leaf(self.weight), bias)?;
        match &self.adapter {
            Some(adapter) => adapter.add_to(&output, p, rows, dropout.adapters),
            None => Ok(output),
        }
    }

    /// Whether a backward pass needs its input.
    fn wants_input(&self, p: &Parameters) -> bool {
        p.is_trained(self.weight) || self.adapter.is_some()
    }
}

#[derive(Debug)]
struct LayerNorm {
    weight: LeafId,
    bias: Option<LeafId>,
    size: i64,
    eps: f64,
}

impl LayerNorm {
    fn new(spec: &Spec, scope: &mut Scope<'_>, name: &str) -> Self {
        let (mut scope, size) = (scope.sub(name), spec.hidden_size);
        Self {
            weight: scope.leaf("weight", &[size], LeafKind::Scale),
            bias: spec
                .biases
                .then(|| scope.leaf("bias", &[size], LeafKind::Bias)),
            size,
            eps: spec.eps,
        }
    }

    fn forward(&self, p: &Parameters, rows: &Tensor) -> Result<Tensor, ModelError> {
        let weight = Some(p.leaf(self.weight));
        let bias = self.bias.map(|bias| p.leaf(bias));
        Ok(rows.f_layer_norm([self.size], weight, bias, self.eps, false)?)
    }
}

/// Dropout by libtorch's generator, which is drawn from only where the probability is not zero.
fn drop_out(x: Tensor, probability: Option<f64>) -> Result<Tensor, ModelError> {
    match probability {
        None | Some(0.0) => Ok(x),
        Some(probability) => Ok(x.f_dropout(probability, true)?),
    }
}

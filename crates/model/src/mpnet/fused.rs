//! The encoder on the CPU by hand: packed forward and backward on fused kernels.
//!
//! The mathematics is that of [`MpNet::forward`], which autograd differentiates and which the tests here
//! compare with. What differs is the work: matrix products run on [`kernels::gemm`], everything between them
//! is one pass over memory each, activations live in buffers that are reused from step to step, and gradients
//! are added straight into the flat gradient.
//!
//! Dimensions: T = tokens, H = hidden, I = intermediate, h = heads.

use std::ops::Range;

use kernels::{
    Scratch,
    attention::{self, attend, attend_backward},
    dropout::Dropout as Mask,
    embedding::{self, embed, embed_backward, scatter},
    gelu::{gelu, gelu_backward, gelu_in_place},
    gemm::{Gemm, Kind, Shape},
    norm::{LayerNormGrad, add_layer_norm, add_layer_norm_backward},
    profile::{Part, time},
};
use shim::slice;

use super::{
    Dropout, LayerNorm, Linear, MpNet, PADDING_ID, RELATIVE_BUCKETS, relative_position_bucket,
};
use crate::{
    batch::packed::PackedBatch,
    error::ModelError,
    parameters::{LeafId, Parameters},
};

/// Buffers of a forward and a backward pass, which keep their memory from pass to pass.
#[derive(Debug, Default)]
pub(crate) struct Workspace {
    /// What the embeddings leave for the backward pass.
    embedded: Normalised,
    layers: Vec<LayerRecord>,
    /// Input of each layer and output of the last, [T, H] each.
    hidden: Vec<Vec<f32>>,
    d: Vec<f32>,
    d_more: Vec<f32>,
    d_y: Vec<f32>,
    d_wide: Vec<f32>,
    scratch: Scratch,
}

impl Workspace {
    /// The token embeddings [T, H] that go into a layer, after a forward pass with
    /// [`Keep::Everything`] of `n_values` values a layer.
    pub(crate) fn input_of(&self, layer: usize, n_values: usize) -> &[f32] {
        &self.hidden[layer][..n_values]
    }
}

/// What a layer norm leaves for its backward pass: rows before scale and shift, and 1 / deviation.
#[derive(Debug, Default)]
struct Normalised {
    rows: Vec<f32>,
    rstd: Vec<f32>,
}

/// What a layer leaves for its backward pass.
#[derive(Debug, Default)]
struct LayerRecord {
    /// Projections without their bias, [T, 3H].
    qkv: Vec<f32>,
    /// Logarithms of the softmax' sums, [h, T].
    lse: Vec<f32>,
    /// [T, H]
    context: Vec<f32>,
    attention_norm: Normalised,
    /// Output of the attention block, [T, H].
    attended: Vec<f32>,
    /// The derivative of GELU at its input, [T, I].
    derivative: Vec<f32>,
    /// [T, I]
    activated: Vec<f32>,
    output_norm: Normalised,
}

/// Whether a pass keeps what its backward pass needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// All layers' records.
    Everything,
    /// One layer's buffers, used again by the next.
    Nothing,
}

/// What a pass computes with, whatever the batch.
#[derive(Clone, Copy)]
pub(crate) struct PassOptions<'a> {
    pub(crate) parameters: &'a Parameters,
    pub(crate) gemm: &'a dyn Gemm,
    pub(crate) dropout: Dropout,
    /// With the position of an element it decides what is dropped out, whatever the number of threads.
    pub(crate) seed: u64,
}

/// A pass over one batch: where its sentences begin, the bias, and what is dropped out.
struct Pass<'a> {
    parameters: &'a Parameters,
    flat: &'a [f32],
    gemm: &'a dyn Gemm,
    batch: &'a PackedBatch,
    dropout: Dropout,
    seed: u64,
    /// [h, 2 L - 1] for the longest sentence L.
    relative: Vec<f32>,
}

impl MpNet {
    /// Token embeddings [T, H] in packed order, left in the workspace and returned.
    ///
    /// # Errors
    ///
    /// As [`MpNet::forward`], and when the parameters are not on the CPU.
    pub(crate) fn fused_forward<'w>(
        &self,
        options: &PassOptions<'_>,
        batch: &PackedBatch,
        keep: Keep,
        work: &'w mut Workspace,
    ) -> Result<&'w [f32], ModelError> {
        self.check_fits(batch)?;
        let pass = self.pass(options, batch)?;
        let (n_tokens, width) = (batch.tokens(), self.config.hidden_size as usize);
        let n_layers = self.encoder.layers.len();
        let n_records = if keep == Keep::Everything {
            n_layers
        } else {
            1
        };
        let n_hidden = if keep == Keep::Everything {
            n_layers + 1
        } else {
            2
        };
        work.layers
            .resize_with(work.layers.len().max(n_records), LayerRecord::default);
        work.hidden
            .resize_with(work.hidden.len().max(n_hidden), Vec::new);

        let tables = &self.embeddings;
        embed(
            &embedding::Embeddings {
                word: pass.values(tables.word_embeddings),
                position: pass.values(tables.position_embeddings),
                norm: pass.norm(&tables.layer_norm),
            },
            batch.host_ids(),
            batch.host_positions(),
            &pass.mask(pass.dropout.hidden, 0),
            room(&mut work.embedded.rows, n_tokens * width),
            room(&mut work.embedded.rstd, n_tokens),
            room(&mut work.hidden[0], n_tokens * width),
        );
        let mut last = 0;
        for (i, layer) in self.encoder.layers.iter().enumerate() {
            let (from, to) = (i % n_hidden, (i + 1) % n_hidden);
            let record = &mut work.layers[i % n_records];
            // Both are needed at once, and lie in one vector of buffers.
            let input = std::mem::take(&mut work.hidden[from]);
            layer.fused_forward(
                &pass,
                i,
                &input[..n_tokens * width],
                keep,
                record,
                &mut work.hidden[to],
            );
            work.hidden[from] = input;
            last = to;
        }
        Ok(&work.hidden[last][..n_tokens * width])
    }

    /// Adds the gradient of all parameters to `gradient`, laid out as [`Parameters::flat`], for the batch
    /// and options that [`MpNet::fused_forward`] had last, with [`Keep::Everything`].
    ///
    /// `output_gradient` is given a layer's number and the token embeddings that go into it [T, H], and
    /// writes what of their gradient comes from outside of the encoder: for the number of layers, which
    /// stands for the output, and for each of `prior`.
    ///
    /// # Errors
    ///
    /// When the parameters are not on the CPU.
    pub(crate) fn fused_backward(
        &self,
        options: &PassOptions<'_>,
        batch: &PackedBatch,
        prior: &[usize],
        mut output_gradient: impl FnMut(usize, &[f32], &mut [f32]),
        gradient: &mut [f32],
        work: &mut Workspace,
    ) -> Result<(), ModelError> {
        let pass = self.pass(options, batch)?;
        let (n_tokens, width) = (batch.tokens(), self.config.hidden_size as usize);
        let Workspace {
            embedded,
            layers,
            hidden,
            d,
            d_more,
            d_y,
            d_wide,
            scratch,
        } = work;
        let d = room(d, n_tokens * width);
        let d_more = room(d_more, n_tokens * width);
        let d_y = room(d_y, n_tokens * width);
        let wide = self.config.intermediate_size.max(self.config.hidden_size) as usize;
        let d_wide = room(d_wide, n_tokens * wide);
        let n_layers = self.encoder.layers.len();
        output_gradient(n_layers, &hidden[n_layers][..n_tokens * width], d);
        let mut from_outside = Vec::new();
        d_more.fill(0.0);
        let mut d_relative = vec![0.0; pass.relative.len()];
        for (i, layer) in self.encoder.layers.iter().enumerate().rev() {
            let input = &hidden[i][..n_tokens * width];
            let mut grads = LayerGrads {
                d,
                d_more,
                d_y,
                d_wide,
                d_relative: &mut d_relative,
                scratch,
            };
            layer.fused_backward(&pass, i, input, &mut layers[i], &mut grads, gradient);
            if prior.contains(&i) {
                let from_outside = room(&mut from_outside, n_tokens * width);
                output_gradient(i, input, from_outside);
                for (d, outside) in d.iter_mut().zip(&*from_outside) {
                    *d += outside;
                }
            }
        }
        for (d, more) in d.iter_mut().zip(&*d_more) {
            *d += more;
        }
        let tables = &self.embeddings;
        let norm = &tables.layer_norm;
        let [gamma, beta] = pass.disjoint(gradient, [norm.weight, norm.bias]);
        embed_backward(
            pass.values(norm.weight),
            &embedded.rows[..n_tokens * width],
            &embedded.rstd[..n_tokens],
            &pass.mask(pass.dropout.hidden, 0),
            d,
            LayerNormGrad { gamma, beta },
            scratch,
        );
        for (table, indices) in [
            (tables.word_embeddings, batch.host_ids()),
            (tables.position_embeddings, batch.host_positions()),
        ] {
            let order = embedding::Order::new(indices);
            let [table] = pass.disjoint(gradient, [table]);
            scatter(&order, d, width, Some(PADDING_ID), table);
        }
        let [table] = pass.disjoint(gradient, [self.encoder.relative_attention_bias]);
        fold_relative(&d_relative, batch.max_length(), table);
        Ok(())
    }

    fn pass<'a>(
        &self,
        options: &PassOptions<'a>,
        batch: &'a PackedBatch,
    ) -> Result<Pass<'a>, ModelError> {
        let PassOptions {
            parameters,
            gemm,
            dropout,
            seed,
        } = *options;
        let mut pass = Pass {
            parameters,
            flat: slice(parameters.flat())?,
            gemm,
            batch,
            dropout,
            seed,
            relative: Vec::new(),
        };
        let table = pass.values(self.encoder.relative_attention_bias);
        pass.relative = unfold_relative(table, batch.max_length());
        Ok(pass)
    }
}

/// The gradients on their way down, and the buffers they need.
struct LayerGrads<'a> {
    /// Gradient of a layer's output, then of its input without `d_more`, [T, H].
    d: &'a mut [f32],
    /// What reaches the same rows on a second path, [T, H].
    d_more: &'a mut [f32],
    /// [T, H]
    d_y: &'a mut [f32],
    /// [T, I]
    d_wide: &'a mut [f32],
    d_relative: &'a mut [f32],
    scratch: &'a mut Scratch,
}

impl super::Layer {
    fn fused_forward(
        &self,
        pass: &Pass<'_>,
        layer: usize,
        input: &[f32],
        keep: Keep,
        record: &mut LayerRecord,
        output: &mut Vec<f32>,
    ) {
        let attention = &self.attention;
        let n_tokens = pass.batch.tokens();
        let n = input.len();
        let qkv = room(&mut record.qkv, 3 * n);
        pass.project(input, attention.qkv.weight, qkv);
        let context = room(&mut record.context, n);
        let lse = room(&mut record.lse, n_tokens * attention.heads as usize);
        attend(
            &pass.shape(attention, n / n_tokens),
            &pass.inputs(attention, layer),
            qkv,
            context,
            lse,
        );
        let y = room(&mut record.attention_norm.rows, n);
        pass.project(context, attention.output.weight, y);
        let attended = room(&mut record.attended, n);
        add_layer_norm(
            &pass.norm(&attention.layer_norm),
            y,
            Some(pass.values(attention.output.bias)),
            &pass.mask(pass.dropout.hidden, 3 * layer + 2),
            input,
            room(&mut record.attention_norm.rstd, n_tokens),
            attended,
        );

        let bias = pass.values(self.intermediate.bias);
        let activated = room(&mut record.activated, n_tokens * bias.len());
        if keep == Keep::Everything {
            let x = room(&mut record.derivative, n_tokens * bias.len());
            pass.project(attended, self.intermediate.weight, x);
            gelu(x, bias, activated);
        } else {
            pass.project(attended, self.intermediate.weight, activated);
            gelu_in_place(activated, bias);
        }
        let y = room(&mut record.output_norm.rows, n);
        pass.project(activated, self.output.weight, y);
        add_layer_norm(
            &pass.norm(&self.layer_norm),
            y,
            Some(pass.values(self.output.bias)),
            &pass.mask(pass.dropout.hidden, 3 * layer + 3),
            attended,
            room(&mut record.output_norm.rstd, n_tokens),
            room(output, n),
        );
    }

    fn fused_backward(
        &self,
        pass: &Pass<'_>,
        layer: usize,
        input: &[f32],
        record: &mut LayerRecord,
        grads: &mut LayerGrads<'_>,
        gradient: &mut [f32],
    ) {
        let attention = &self.attention;
        let LayerGrads {
            d,
            d_more,
            d_y,
            d_wide,
            d_relative,
            scratch,
        } = grads;
        let n_tokens = pass.batch.tokens();
        let n = input.len();
        let n_wide = n_tokens * pass.values(self.intermediate.bias).len();
        let attended = &record.attended[..n];

        norm_backward(
            pass,
            &self.layer_norm,
            &self.output,
            &record.output_norm,
            3 * layer + 3,
            (d, d_more, d_y),
            gradient,
            scratch,
        );
        pass.weight_gradient(
            d_y,
            &record.activated[..n_wide],
            self.output.weight,
            gradient,
        );
        let d_wide = &mut d_wide[..n_wide];
        pass.input_gradient(d_y, self.output.weight, d_wide);
        let [d_bias] = pass.disjoint(gradient, [self.intermediate.bias]);
        gelu_backward(&record.derivative[..n_wide], d_wide, d_bias, scratch);
        pass.weight_gradient(d_wide, attended, self.intermediate.weight, gradient);
        pass.input_gradient(d_wide, self.intermediate.weight, d_more);

        norm_backward(
            pass,
            &attention.layer_norm,
            &attention.output,
            &record.attention_norm,
            3 * layer + 2,
            (d, d_more, d_y),
            gradient,
            scratch,
        );
        pass.weight_gradient(d_y, &record.context[..n], attention.output.weight, gradient);
        pass.input_gradient(d_y, attention.output.weight, d_more);
        let qkv = &mut record.qkv[..3 * n];
        let [d_bias] = pass.disjoint(gradient, [attention.qkv.bias]);
        attend_backward(
            &pass.shape(attention, n / n_tokens),
            &pass.inputs(attention, layer),
            qkv,
            &record.lse[..n_tokens * attention.heads as usize],
            d_more,
            attention::Grads {
                bias: Some(d_bias),
                relative: Some(d_relative),
            },
            scratch,
        );
        pass.weight_gradient(qkv, input, attention.qkv.weight, gradient);
        pass.input_gradient(qkv, attention.qkv.weight, d_more);
    }
}

/// Backward through `LayerNorm(residual + dropout(linear(x)))`: `d` becomes the residual's gradient and `d_y`
/// that of the linear layer's product; the linear layer's bias and the norm's parameters get theirs.
#[expect(clippy::too_many_arguments, reason = "each is a tensor of the formula")]
fn norm_backward(
    pass: &Pass<'_>,
    norm: &LayerNorm,
    linear: &Linear,
    normalised: &Normalised,
    site: usize,
    (d, d_more, d_y): (&mut [f32], &[f32], &mut [f32]),
    gradient: &mut [f32],
    scratch: &mut Scratch,
) {
    let [d_bias, gamma, beta] = pass.disjoint(gradient, [linear.bias, norm.weight, norm.bias]);
    add_layer_norm_backward(
        pass.values(norm.weight),
        &normalised.rows[..d.len()],
        &normalised.rstd[..pass.batch.tokens()],
        &pass.mask(pass.dropout.hidden, site),
        d,
        Some(d_more),
        d_y,
        Some(d_bias),
        LayerNormGrad { gamma, beta },
        scratch,
    );
}

impl<'a> Pass<'a> {
    fn range(&self, leaf: LeafId) -> Range<usize> {
        let begin = self.parameters.leaf_offset(leaf) as usize;
        begin..begin + self.parameters.leaf_numel(leaf) as usize
    }

    fn values(&self, leaf: LeafId) -> &'a [f32] {
        &self.flat[self.range(leaf)]
    }

    /// The gradients of several parameters at once.
    fn disjoint<'g, const N: usize>(
        &self,
        gradient: &'g mut [f32],
        leaves: [LeafId; N],
    ) -> [&'g mut [f32]; N] {
        match gradient.get_disjoint_mut(leaves.map(|leaf| self.range(leaf))) {
            Ok(slices) => slices,
            Err(error) => unreachable!("parameters lie apart within the flat tensor: {error}"),
        }
    }

    fn norm(&self, norm: &LayerNorm) -> kernels::norm::LayerNorm<'a> {
        kernels::norm::LayerNorm {
            gamma: self.values(norm.weight),
            beta: self.values(norm.bias),
            eps: norm.eps as f32,
        }
    }

    fn mask(&self, probability: f64, site: usize) -> Mask {
        if probability == 0.0 {
            Mask::NONE
        } else {
            Mask::new(probability, self.seed, 0, site as u32).starting_at(self.batch.first_token())
        }
    }

    fn shape(&self, attention: &super::Attention, width: usize) -> attention::Shape<'_> {
        let heads = attention.heads as usize;
        attention::Shape {
            heads,
            head_dim: width / heads,
            offsets: self.batch.offsets(),
        }
    }

    fn inputs(&self, attention: &super::Attention, layer: usize) -> attention::Inputs<'_> {
        attention::Inputs {
            bias: Some(self.values(attention.qkv.bias)),
            relative: Some(&self.relative),
            dropout: self.mask(self.dropout.attention, 3 * layer + 1),
        }
    }

    /// out = x W^T, for x [T, k], W [n, k] and out [T, n].
    fn project(&self, x: &[f32], weight: LeafId, out: &mut [f32]) {
        let _timer = time(Part::MatrixProducts);
        let m = self.batch.tokens();
        let shape = Shape {
            m,
            n: out.len() / m,
            k: x.len() / m,
        };
        self.gemm
            .product(Kind::NT, shape, 1.0, x, self.values(weight), 0.0, out);
    }

    /// d_x = d_out W, for d_out [T, n], W [n, k] and d_x [T, k].
    fn input_gradient(&self, d_out: &[f32], weight: LeafId, d_x: &mut [f32]) {
        let _timer = time(Part::MatrixProducts);
        let m = self.batch.tokens();
        let shape = Shape {
            m,
            n: d_x.len() / m,
            k: d_out.len() / m,
        };
        self.gemm
            .product(Kind::NN, shape, 1.0, d_out, self.values(weight), 0.0, d_x);
    }

    /// d_W += d_out^T x, for d_out [T, n] and x [T, k].
    fn weight_gradient(&self, d_out: &[f32], x: &[f32], weight: LeafId, gradient: &mut [f32]) {
        let _timer = time(Part::MatrixProducts);
        let n_tokens = self.batch.tokens();
        let shape = Shape {
            m: d_out.len() / n_tokens,
            n: x.len() / n_tokens,
            k: n_tokens,
        };
        let [d_weight] = self.disjoint(gradient, [weight]);
        self.gemm
            .product(Kind::TN, shape, 1.0, d_out, x, 1.0, d_weight);
    }
}

/// The bias table [buckets, h] by distance, [h, 2 L - 1]: column `key - query + L - 1`.
fn unfold_relative(table: &[f32], longest: usize) -> Vec<f32> {
    let heads = table.len() / RELATIVE_BUCKETS as usize;
    let n_distances = 2 * longest - 1;
    let mut relative = vec![0.0; heads * n_distances];
    for (column, bucket) in buckets(longest).enumerate() {
        for head in 0..heads {
            relative[head * n_distances + column] = table[bucket * heads + head];
        }
    }
    relative
}

/// The gradient's way back: adds [h, 2 L - 1] to the table's gradient [buckets, h].
fn fold_relative(d_relative: &[f32], longest: usize, d_table: &mut [f32]) {
    let heads = d_table.len() / RELATIVE_BUCKETS as usize;
    let n_distances = 2 * longest - 1;
    for (column, bucket) in buckets(longest).enumerate() {
        for head in 0..heads {
            d_table[bucket * heads + head] += d_relative[head * n_distances + column];
        }
    }
}

/// The bucket of every distance `key - query`, from 1 - L to L - 1.
fn buckets(longest: usize) -> impl Iterator<Item = usize> {
    let longest = longest as i64;
    (1 - longest..longest).map(|distance| relative_position_bucket(distance) as usize)
}

/// The first `len` values of a buffer that grows where it is too small.
fn room(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

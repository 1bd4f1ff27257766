//! The transformer on the CPU by hand: packed forward and backward passes on fused kernels.
//!
//! The mathematics is that of [`Transformer::forward`], which autograd differentiates and which the tests
//! compare with. Here matrix products run on [`kernels::gemm`], everything between them
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

use super::{Layer, LayerNorm, Linear, Transformer};
use crate::{
    batch::packed::PackedBatch,
    encoder::{numbering::Numbering, relative, spec::Dropout},
    error::ModelError,
    parameters::{LeafId, Parameters},
};

/// Buffers of a forward and a backward pass, which keep their memory from pass to pass.
#[derive(Debug, Default)]
pub(crate) struct Workspace {
    /// Kept of the embeddings for the backward pass.
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

/// Rows of a layer norm before scale and shift, and 1 / deviation, kept for its backward pass.
#[derive(Debug, Default)]
struct Normalised {
    rows: Vec<f32>,
    rstd: Vec<f32>,
}

/// Activations of a layer, kept for its backward pass.
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

/// The settings of a pass that do not depend on the batch.
#[derive(Clone, Copy)]
pub(crate) struct PassOptions<'a> {
    pub(crate) parameters: &'a Parameters,
    pub(crate) gemm: &'a dyn Gemm,
    pub(crate) numbering: Numbering,
    pub(crate) dropout: Dropout,
    /// With the position of an element it decides what is dropped out, whatever the number of threads.
    pub(crate) seed: u64,
}

/// A pass over one batch.
struct Pass<'a> {
    parameters: &'a Parameters,
    flat: &'a [f32],
    gemm: &'a dyn Gemm,
    batch: &'a PackedBatch,
    /// The position of each token in packed order.
    positions: Vec<u32>,
    dropout: Dropout,
    seed: u64,
    /// [h, 2 L - 1] for the longest sentence L.
    relative: Vec<f32>,
}

impl Transformer {
    /// Token embeddings [T, H] in packed order, left in the workspace and returned.
    ///
    /// # Errors
    ///
    /// When the parameters are not on the CPU.
    ///
    /// # Panics
    ///
    /// If the model has no row for a token or a position.
    pub(crate) fn forward_by_hand<'w>(
        &self,
        options: &PassOptions<'_>,
        batch: &PackedBatch,
        keep: Keep,
        work: &'w mut Workspace,
    ) -> Result<&'w [f32], ModelError> {
        let pass = self.pass(options, batch)?;
        let (n_tokens, width) = (batch.tokens(), self.embeddings.norm.size as usize);
        let n_layers = self.layers.len();
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
                word: pass.values(tables.word.rows),
                position: pass.values(tables.position.rows),
                norm: pass.norm(&tables.norm),
            },
            batch.host_ids(),
            &pass.positions,
            &pass.mask(pass.dropout.embeddings, 0),
            room(&mut work.embedded.rows, n_tokens * width),
            room(&mut work.embedded.rstd, n_tokens),
            room(&mut work.hidden[0], n_tokens * width),
        );
        let mut last = 0;
        for (i, layer) in self.layers.iter().enumerate() {
            let (from, to) = (i % n_hidden, (i + 1) % n_hidden);
            let record = &mut work.layers[i % n_records];
            // Both are needed at once, and lie in one vector of buffers.
            let input = std::mem::take(&mut work.hidden[from]);
            layer.forward_by_hand(
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
    /// and options that [`Self::forward_by_hand`] had last, with [`Keep::Everything`].
    ///
    /// `output_gradient` is given a layer's number and the token embeddings that go into it [T, H], and
    /// writes what of their gradient comes from outside of the encoder: for the number of layers, which
    /// stands for the output, and for each of `prior`.
    ///
    /// # Errors
    ///
    /// When the parameters are not on the CPU.
    pub(crate) fn backward_by_hand(
        &self,
        options: &PassOptions<'_>,
        batch: &PackedBatch,
        prior: &[usize],
        mut output_gradient: impl FnMut(usize, &[f32], &mut [f32]),
        gradient: &mut [f32],
        work: &mut Workspace,
    ) -> Result<(), ModelError> {
        let pass = self.pass(options, batch)?;
        let (n_tokens, width) = (batch.tokens(), self.embeddings.norm.size as usize);
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
        let d_wide = room(d_wide, n_tokens * self.intermediate_size.max(width));
        let n_layers = self.layers.len();
        output_gradient(n_layers, &hidden[n_layers][..n_tokens * width], d);
        let mut from_outside = Vec::new();
        d_more.fill(0.0);
        let mut d_relative = vec![0.0; pass.relative.len()];
        for (i, layer) in self.layers.iter().enumerate().rev() {
            let input = &hidden[i][..n_tokens * width];
            let mut grads = LayerGrads {
                d,
                d_more,
                d_y,
                d_wide,
                d_relative: &mut d_relative,
                scratch,
            };
            layer.backward_by_hand(&pass, i, input, &mut layers[i], &mut grads, gradient);
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
        let norm = &tables.norm;
        let [gamma, beta] = pass.disjoint(gradient, [norm.weight, norm.bias]);
        embed_backward(
            pass.values(norm.weight),
            &embedded.rows[..n_tokens * width],
            &embedded.rstd[..n_tokens],
            &pass.mask(pass.dropout.embeddings, 0),
            d,
            LayerNormGrad { gamma, beta },
            scratch,
        );
        for (table, indices) in [
            (&tables.word, batch.host_ids()),
            (&tables.position, pass.positions.as_slice()),
        ] {
            let order = embedding::Order::new(indices);
            let [rows] = pass.disjoint(gradient, [table.rows]);
            scatter(&order, d, width, table.padding, rows);
        }
        let [table] = pass.disjoint(gradient, [self.relative.table]);
        relative::fold(&d_relative, batch.max_length(), table);
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
            numbering,
            dropout,
            seed,
        } = *options;
        let mut pass = Pass {
            parameters,
            flat: slice(parameters.flat())?,
            gemm,
            batch,
            positions: numbering.of_packed(batch.host_ids(), batch.offsets()),
            dropout,
            seed,
            relative: Vec::new(),
        };
        let table = pass.values(self.relative.table);
        pass.relative = relative::unfold(table, batch.max_length());
        Ok(pass)
    }
}

/// The gradients on their way down, and the buffers they need.
struct LayerGrads<'a> {
    /// Gradient of a layer's output, then of its input without `d_more`, [T, H].
    d: &'a mut [f32],
    /// Gradient of the same rows on a second path, [T, H].
    d_more: &'a mut [f32],
    /// [T, H]
    d_y: &'a mut [f32],
    /// [T, I]
    d_wide: &'a mut [f32],
    d_relative: &'a mut [f32],
    scratch: &'a mut Scratch,
}

impl Layer {
    fn forward_by_hand(
        &self,
        pass: &Pass<'_>,
        layer: usize,
        input: &[f32],
        keep: Keep,
        record: &mut LayerRecord,
        output: &mut Vec<f32>,
    ) {
        let n_tokens = pass.batch.tokens();
        let n = input.len();
        let qkv = room(&mut record.qkv, 3 * n);
        pass.project(input, self.qkv.weight, qkv);
        let context = room(&mut record.context, n);
        let lse = room(&mut record.lse, n_tokens * self.heads as usize);
        attend(
            &pass.shape(self.heads, n / n_tokens),
            &pass.inputs(&self.qkv, layer),
            qkv,
            context,
            lse,
        );
        let y = room(&mut record.attention_norm.rows, n);
        pass.project(context, self.attention_output.weight, y);
        let attended = room(&mut record.attended, n);
        add_layer_norm(
            &pass.norm(&self.attention_norm),
            y,
            Some(pass.values(self.attention_output.bias)),
            &pass.mask(pass.dropout.attention, 3 * layer + 2),
            input,
            room(&mut record.attention_norm.rstd, n_tokens),
            attended,
        );

        let bias = pass.values(self.up.bias);
        let activated = room(&mut record.activated, n_tokens * bias.len());
        if keep == Keep::Everything {
            let x = room(&mut record.derivative, n_tokens * bias.len());
            pass.project(attended, self.up.weight, x);
            gelu(x, bias, activated);
        } else {
            pass.project(attended, self.up.weight, activated);
            gelu_in_place(activated, bias);
        }
        let y = room(&mut record.output_norm.rows, n);
        pass.project(activated, self.down.weight, y);
        add_layer_norm(
            &pass.norm(&self.output_norm),
            y,
            Some(pass.values(self.down.bias)),
            &pass.mask(pass.dropout.output, 3 * layer + 3),
            attended,
            room(&mut record.output_norm.rstd, n_tokens),
            room(output, n),
        );
    }

    fn backward_by_hand(
        &self,
        pass: &Pass<'_>,
        layer: usize,
        input: &[f32],
        record: &mut LayerRecord,
        grads: &mut LayerGrads<'_>,
        gradient: &mut [f32],
    ) {
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
        let n_wide = n_tokens * pass.values(self.up.bias).len();
        let attended = &record.attended[..n];

        norm_backward(
            pass,
            &self.output_norm,
            &self.down,
            &record.output_norm,
            pass.mask(pass.dropout.output, 3 * layer + 3),
            (d, d_more, d_y),
            gradient,
            scratch,
        );
        pass.weight_gradient(d_y, &record.activated[..n_wide], self.down.weight, gradient);
        let d_wide = &mut d_wide[..n_wide];
        pass.input_gradient(d_y, self.down.weight, d_wide);
        let [d_bias] = pass.disjoint(gradient, [self.up.bias]);
        gelu_backward(&record.derivative[..n_wide], d_wide, d_bias, scratch);
        pass.weight_gradient(d_wide, attended, self.up.weight, gradient);
        pass.input_gradient(d_wide, self.up.weight, d_more);

        norm_backward(
            pass,
            &self.attention_norm,
            &self.attention_output,
            &record.attention_norm,
            pass.mask(pass.dropout.attention, 3 * layer + 2),
            (d, d_more, d_y),
            gradient,
            scratch,
        );
        pass.weight_gradient(
            d_y,
            &record.context[..n],
            self.attention_output.weight,
            gradient,
        );
        pass.input_gradient(d_y, self.attention_output.weight, d_more);
        let qkv = &mut record.qkv[..3 * n];
        let [d_bias] = pass.disjoint(gradient, [self.qkv.bias]);
        attend_backward(
            &pass.shape(self.heads, n / n_tokens),
            &pass.inputs(&self.qkv, layer),
            qkv,
            &record.lse[..n_tokens * self.heads as usize],
            d_more,
            attention::Grads {
                bias: Some(d_bias),
                relative: Some(d_relative),
            },
            scratch,
        );
        pass.weight_gradient(qkv, input, self.qkv.weight, gradient);
        pass.input_gradient(qkv, self.qkv.weight, d_more);
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
    mask: Mask,
    (d, d_more, d_y): (&mut [f32], &[f32], &mut [f32]),
    gradient: &mut [f32],
    scratch: &mut Scratch,
) {
    let [d_bias, gamma, beta] = pass.disjoint(gradient, [linear.bias, norm.weight, norm.bias]);
    add_layer_norm_backward(
        pass.values(norm.weight),
        &normalised.rows[..d.len()],
        &normalised.rstd[..pass.batch.tokens()],
        &mask,
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

    fn mask(&self, probability: Option<f64>, site: usize) -> Mask {
        match probability {
            None | Some(0.0) => Mask::NONE,
            Some(probability) => Mask::new(probability, self.seed, 0, site as u32)
                .starting_at(self.batch.first_token()),
        }
    }

    fn shape(&self, heads: i64, width: usize) -> attention::Shape<'_> {
        let heads = heads as usize;
        attention::Shape {
            heads,
            head_dim: width / heads,
            offsets: self.batch.offsets(),
        }
    }

    fn inputs(&self, qkv: &Linear, layer: usize) -> attention::Inputs<'_> {
        attention::Inputs {
            bias: Some(self.values(qkv.bias)),
            relative: Some(&self.relative),
            dropout: self.mask(self.dropout.probabilities, 3 * layer + 1),
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

/// The first `len` values of a buffer that grows where it is too small.
fn room(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

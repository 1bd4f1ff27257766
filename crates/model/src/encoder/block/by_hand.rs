//! The transformer on the CPU by hand: packed forward and backward passes on fused kernels.
//!
//! The mathematics is that of [`Transformer::forward`], which autograd differentiates and which the tests
//! compare with. Here matrix products run on [`kernels::gemm`], everything between them
//! is one pass over memory each, activations live in buffers that are reused from step to step, and gradients
//! are added straight into the flat gradient.
//!
//! Dimensions: T = tokens, H = hidden, I = intermediate, h = heads.

mod last;
mod linear;

use std::{
    cell::RefCell,
    ops::Range,
    sync::{Arc, PoisonError},
};

use kernels::{
    Scratch,
    attention::{self, Rotary, attend, attend_backward},
    dropout::{self, Dropout as Mask},
    embedding::{self, embed, embed_backward, scatter},
    gelu::{add_column_sums, geglu, geglu_backward, gelu, gelu_backward, gelu_in_place},
    gemm::Gemm,
    norm::{
        LayerNormGrad, add_layer_norm, add_layer_norm_backward, add_residual, layer_norm,
        layer_norm_backward,
    },
};
use shim::slice;

use super::{Layer, LayerNorm, Linear, Norms, Transformer};
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
    /// Buffers of the layers that no gradient goes through, and of others what no gradient needs.
    unkept: LayerRecord,
    /// Input of each layer and output of the last, [T, H] each.
    hidden: Vec<Vec<f32>>,
    /// Kept of the norm after the last layer, and its output, [T, H].
    last_norm: Normalised,
    output: Vec<f32>,
    d: Vec<f32>,
    d_more: Vec<f32>,
    /// A product's result on its way into the residual, in both passes, [T, H].
    y: Vec<f32>,
    d_wide: Vec<f32>,
    linear: RefCell<LinearBuffers>,
    /// Kept of the last layer, where only some of its output is wanted.
    last: LastRecord,
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
    /// The attention's input, where a norm comes before it, [T, H].
    attention_input: Vec<f32>,
    /// Projections without their bias, [T, 3H].
    qkv: Vec<f32>,
    /// Logarithms of the softmax' sums, [h, T].
    lse: Vec<f32>,
    /// [T, H]
    context: Vec<f32>,
    attention_norm: Normalised,
    /// Output of the attention half, [T, H].
    attended: Vec<f32>,
    /// The feed-forward part's input, where a norm comes before it, [T, H].
    feed_input: Vec<f32>,
    /// The derivative of GELU at its input, [T, I]; of gated GELU, those by both factors, [T, 2I].
    derivative: Vec<f32>,
    /// [T, I]
    activated: Vec<f32>,
    output_norm: Normalised,
}

impl LayerRecord {
    /// Swaps the inputs of those linear layers of which nothing is trained with `other`'s, which the next layer
    /// overwrites.
    fn swap_unkept(&mut self, other: &mut Self, layer: &Layer, p: &Parameters) {
        for (linear, own, other) in [
            (
                &layer.qkv,
                &mut self.attention_input,
                &mut other.attention_input,
            ),
            (
                &layer.attention_output,
                &mut self.context,
                &mut other.context,
            ),
            (&layer.up, &mut self.attended, &mut other.attended),
            (&layer.up, &mut self.feed_input, &mut other.feed_input),
            (&layer.down, &mut self.activated, &mut other.activated),
        ] {
            if !linear.wants_input(p) {
                std::mem::swap(own, other);
            }
        }
    }
}

/// Activations that the last layer keeps beside its record where only some of its output is wanted. `qkv` of that record
/// then holds keys and values alone, [T, 2H].
#[derive(Debug, Default)]
struct LastRecord {
    /// Wanted rows of the layer's input, [S, H].
    residual: Vec<f32>,
    /// Wanted rows of the attention's input, where a norm comes before it, [S, H].
    chosen: Vec<f32>,
    /// The queries' projections without their bias, [S, H].
    q: Vec<f32>,
}

/// Buffers of adapters, which keep their memory from pass to pass; T tokens, k inputs and n outputs of a linear layer, p
/// adapted parts of rank r.
#[derive(Debug, Default)]
struct LinearBuffers {
    /// The input under dropout, [T, k].
    dropped: Vec<f32>,
    /// Products with the first factors, [T, p r].
    inner: Vec<f32>,
    d_inner: Vec<f32>,
    /// The columns of one part, [T, r].
    part: Vec<f32>,
    /// The second factors in one matrix, [n, p r].
    up: Vec<f32>,
    d_up: Vec<f32>,
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
    /// The tokens whose output is wanted, one of each sentence, in packed order; without them, that of all.
    pub(crate) only: Option<&'a [usize]>,
}

/// A pass over one batch.
struct Pass<'a> {
    parameters: &'a Parameters,
    flat: &'a [f32],
    gemm: &'a dyn Gemm,
    batch: &'a PackedBatch,
    /// The position of each token in packed order.
    positions: Vec<u32>,
    /// The tokens whose rows are computed, one of each sentence; without them, those of all.
    only: Option<&'a [usize]>,
    dropout: Dropout,
    seed: u64,
    /// [h, 2 L - 1] for the longest sentence L, where scores have such a bias.
    relative: Option<Vec<f32>>,
    /// Rotations of each layer, where it has rotary positions.
    rotaries: Vec<Option<Arc<Rotary>>>,
    buffers: &'a RefCell<LinearBuffers>,
}

impl Transformer {
    /// Token embeddings [T, H] in packed order, left in the workspace and returned; where only some are wanted, those,
    /// [S, H].
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
        let pass = self.pass(options, batch, &work.linear)?;
        let (n_tokens, width) = (batch.tokens(), self.embeddings.norm.size as usize);
        let n_layers = self.layers.len();
        let is_too_long = self.is_too_long(options.parameters, batch);
        let (n_records, n_hidden) = match keep {
            Keep::Everything if is_too_long => (1, n_layers + 1),
            Keep::Everything => (n_layers, n_layers + 1),
            Keep::Nothing => (1, 2),
        };
        work.layers
            .resize_with(work.layers.len().max(n_records), LayerRecord::default);
        work.hidden
            .resize_with(work.hidden.len().max(n_hidden), Vec::new);

        let tables = &self.embeddings;
        let token_types = tables.token_type.as_ref().map(|t| pass.values(t.rows));
        embed(
            &embedding::Embeddings {
                word: pass.values(tables.word.rows),
                token_type: token_types.map(|rows| &rows[..width]),
                position: tables.position.as_ref().map(|t| pass.values(t.rows)),
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
            let is_kept = keep == Keep::Everything && !is_too_long && i >= self.reach.lowest;
            let is_passed = keep == Keep::Everything && !is_too_long && !is_kept;
            if is_kept {
                let record = &mut work.layers[i];
                record.swap_unkept(&mut work.unkept, layer, pass.parameters);
            }
            let record = match is_passed {
                true => &mut work.unkept,
                false => &mut work.layers[i % n_records],
            };
            // What the next layer overwrites need not be kept.
            let keep = match n_records {
                _ if is_passed => Keep::Nothing,
                1 if i + 1 < n_layers => Keep::Nothing,
                _ => keep,
            };
            // Both are needed at once, and lie in one vector of buffers.
            let input = std::mem::take(&mut work.hidden[from]);
            let (values, output) = (&input[..n_tokens * width], &mut work.hidden[to]);
            match options.only.filter(|_| i + 1 == n_layers) {
                Some(only) => {
                    let (last, y) = (&mut work.last, &mut work.y);
                    layer.forward_last(&pass, only, i, values, keep, record, last, y, output);
                }
                None => layer.forward_whole(&pass, i, values, keep, record, &mut work.y, output),
            }
            if is_kept {
                let record = &mut work.layers[i];
                record.swap_unkept(&mut work.unkept, layer, pass.parameters);
            }
            work.hidden[from] = input;
            last = to;
        }
        let n_rows = options.only.map_or(n_tokens, <[usize]>::len);
        let output = &work.hidden[last][..n_rows * width];
        let Some(norm) = &self.final_norm else {
            return Ok(output);
        };
        layer_norm(
            &pass.norm(norm),
            output,
            room(&mut work.last_norm.rows, n_rows * width),
            room(&mut work.last_norm.rstd, n_rows),
            room(&mut work.output, n_rows * width),
        );
        Ok(&work.output[..n_rows * width])
    }

    /// Adds the gradient of what is trained to `gradient`, laid out as [`Parameters::trained`], for the batch
    /// and options that [`Self::forward_by_hand`] had last, with [`Keep::Everything`].
    ///
    /// `output_gradient` is given a layer's number and the token embeddings that go into it [T, H], and
    /// writes the part of their gradient that comes from outside of the encoder: for the number of layers, which
    /// stands for the output that the forward pass returned, and for each of `prior`.
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
        let (reach, n_layers) = (self.reach, self.layers.len());
        if reach.lowest == n_layers && !reach.final_norm {
            return Ok(());
        }
        let (n_tokens, width) = (batch.tokens(), self.embeddings.norm.size as usize);
        let Workspace {
            embedded,
            layers,
            unkept: _,
            hidden,
            last_norm,
            output,
            d,
            d_more,
            y,
            d_wide,
            linear,
            last,
            scratch,
        } = work;
        let pass = self.pass(options, batch, linear)?;
        let d = room(d, n_tokens * width);
        let d_more = room(d_more, n_tokens * width);
        let d_y = room(y, n_tokens * width);
        let d_wide = room(d_wide, n_tokens * self.intermediate_size.max(width));
        let is_too_long = self.is_too_long(options.parameters, batch);
        let (mut y_again, mut unused) = (Vec::new(), Vec::new());
        let n_rows = options.only.map_or(n_tokens, <[usize]>::len);
        match &self.final_norm {
            Some(norm) => {
                let (d, d_more) = (&mut d[..n_rows * width], &mut d_more[..n_rows * width]);
                output_gradient(n_layers, &output[..n_rows * width], d_more);
                d.fill(0.0);
                pass.norm_gradient(norm, last_norm, d_more, d, gradient, scratch);
            }
            None => {
                let d = &mut d[..n_rows * width];
                output_gradient(n_layers, &hidden[n_layers][..n_rows * width], d);
            }
        }
        let mut from_outside = Vec::new();
        d_more.fill(0.0);
        let relative = pass.relative.as_ref().filter(|_| reach.relative);
        let mut d_relative = vec![0.0; relative.map_or(0, Vec::len)];
        for (i, layer) in self.layers.iter().enumerate().skip(reach.lowest).rev() {
            let input = &hidden[i][..n_tokens * width];
            let mut grads = LayerGrads {
                d,
                d_more,
                d_y,
                d_wide,
                d_relative: &mut d_relative,
                wants_input: reach.wants_input(i),
                scratch,
            };
            let record = &mut layers[if is_too_long { 0 } else { i }];
            // The last layer's record is still there.
            if is_too_long && i + 1 < n_layers {
                let (keep, y) = (Keep::Everything, &mut y_again);
                layer.forward_whole(&pass, i, input, keep, record, y, &mut unused);
            }
            match options.only.filter(|_| i + 1 == n_layers) {
                Some(only) => {
                    let grads = &mut grads;
                    layer.backward_last(&pass, only, i, input, record, last, grads, gradient);
                }
                None => layer.backward_whole(&pass, i, input, record, &mut grads, gradient),
            }
            if prior.contains(&i) && reach.wants_input(i) {
                let from_outside = room(&mut from_outside, n_tokens * width);
                output_gradient(i, input, from_outside);
                add(d, from_outside);
            }
        }
        if let Some(relative) = self.relative.as_ref().filter(|_| reach.relative) {
            let [table] = pass.disjoint(gradient, [relative.table]);
            relative::fold(&d_relative, batch.max_length(), table);
        }
        if !reach.embeddings {
            return Ok(());
        }
        add(d, d_more);
        let tables = &self.embeddings;
        let norm = &tables.norm;
        let grad = pass.norm_grad(norm, gradient);
        embed_backward(
            pass.values(norm.weight),
            &embedded.rows[..n_tokens * width],
            &embedded.rstd[..n_tokens],
            &pass.mask(pass.dropout.embeddings, 0),
            d,
            grad,
            scratch,
        );
        for (table, indices) in [
            (Some(&tables.word), batch.host_ids()),
            (tables.position.as_ref(), pass.positions.as_slice()),
        ] {
            let Some(table) = table else { continue };
            let order = embedding::Order::new(indices);
            let [rows] = pass.disjoint(gradient, [table.rows]);
            scatter(&order, d, width, table.padding, rows);
        }
        if let Some(table) = &tables.token_type {
            let [rows] = pass.disjoint(gradient, [table.rows]);
            add_column_sums(d, &mut rows[..width], scratch);
        }
        Ok(())
    }

    /// Whether a sentence is so long that the activations kept of it would take more memory than the weights with their
    /// gradient and the optimizer's moments. Then only the layers' inputs are kept, and each layer is computed again
    /// before its backward pass (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"): such a sentence
    /// can't be cut into smaller batches, as shorter ones can.
    fn is_too_long(&self, parameters: &Parameters, batch: &PackedBatch) -> bool {
        let of_token: usize = self.layers.iter().map(|layer| self.kept_of(layer)).sum();
        let state = parameters.numel() + 3 * parameters.n_trained();
        batch.max_length() * of_token > state as usize
    }

    /// The values that a layer keeps of a token.
    fn kept_of(&self, layer: &Layer) -> usize {
        let (width, inner) = (self.embeddings.norm.size as usize, self.intermediate_size);
        match layer.norms {
            Norms::Post { .. } => 8 * width + 2 * inner,
            Norms::Pre { .. } => 10 * width + 3 * inner,
        }
    }

    fn pass<'a>(
        &self,
        options: &PassOptions<'a>,
        batch: &'a PackedBatch,
        buffers: &'a RefCell<LinearBuffers>,
    ) -> Result<Pass<'a>, ModelError> {
        let PassOptions {
            parameters,
            gemm,
            numbering,
            dropout,
            seed,
            only: _,
        } = *options;
        let mut pass = Pass {
            parameters,
            flat: slice(parameters.flat())?,
            gemm,
            batch,
            positions: numbering.of_packed(batch.host_ids(), batch.offsets()),
            only: None,
            dropout,
            seed,
            relative: None,
            rotaries: Vec::new(),
            buffers,
        };
        let longest = batch.max_length();
        if let Some(relative) = &self.relative {
            pass.relative = Some(relative::unfold(pass.values(relative.table), longest));
        }
        let rotary = |layer: &Layer| Some(self.rotary(layer.spec.rotary?, layer.head_dim, longest));
        pass.rotaries = self.layers.iter().map(rotary).collect();
        Ok(pass)
    }

    /// Rotary positions for sentences of `longest` tokens, kept for later ones.
    fn rotary(&self, theta: f64, head_dim: i64, longest: usize) -> Arc<Rotary> {
        let rotaries = self.rotaries.lock();
        let mut rotaries = rotaries.unwrap_or_else(PoisonError::into_inner);
        let kept = rotaries.get(&theta.to_bits());
        if let Some(kept) = kept.filter(|kept| kept.positions() >= longest) {
            return Arc::clone(kept);
        }
        let positions = longest.next_power_of_two();
        let made = Arc::new(Rotary::new(theta, head_dim as usize, positions));
        rotaries.insert(theta.to_bits(), Arc::clone(&made));
        made
    }
}

/// The gradients on their way down, and the buffers they need.
struct LayerGrads<'a> {
    /// Gradient of a layer's output, then of its input without `d_more`, [T, H].
    d: &'a mut [f32],
    /// Gradient of the same rows on a second path, [T, H]; zero between layers whose norms come before.
    d_more: &'a mut [f32],
    /// [T, H]
    d_y: &'a mut [f32],
    /// [T, I]
    d_wide: &'a mut [f32],
    /// Empty where it is not wanted.
    d_relative: &'a mut [f32],
    /// Whether anything below needs the gradient of the layer's input.
    wants_input: bool,
    scratch: &'a mut Scratch,
}

impl Layer {
    /// The layer's output for all tokens. `y` is a buffer.
    #[expect(clippy::too_many_arguments, reason = "each is a tensor of the formula")]
    fn forward_whole(
        &self,
        pass: &Pass<'_>,
        layer: usize,
        input: &[f32],
        keep: Keep,
        record: &mut LayerRecord,
        y: &mut Vec<f32>,
        output: &mut Vec<f32>,
    ) {
        let normed = match self.norms.before_attention() {
            Some(norm) => {
                let normalised = &mut record.attention_norm;
                pass.normalise(norm, input, normalised, &mut record.attention_input)
            }
            None => input,
        };
        let qkv = room(&mut record.qkv, 3 * input.len());
        pass.project(normed, &self.qkv, qkv);
        attend(
            &pass.shape(self),
            &pass.inputs(self, layer),
            qkv,
            room(&mut record.context, input.len()),
            room(&mut record.lse, pass.batch.tokens() * self.heads as usize),
        );
        self.after_attention(pass, layer, input, keep, record, y, output);
    }

    /// The backward pass of [`Self::forward_whole`], given the gradient of its output in `d` and `d_more`; that of its
    /// input is left there.
    fn backward_whole(
        &self,
        pass: &Pass<'_>,
        layer: usize,
        input: &[f32],
        record: &mut LayerRecord,
        grads: &mut LayerGrads<'_>,
        gradient: &mut [f32],
    ) {
        self.until_attention(pass, layer, record, grads, gradient);
        let qkv = &mut record.qkv[..3 * input.len()];
        attend_backward(
            &pass.shape(self),
            &pass.inputs(self, layer),
            qkv,
            &record.lse[..pass.batch.tokens() * self.heads as usize],
            grads.d_more,
            attention::Grads {
                bias: pass.bias_gradient(&self.qkv, gradient),
                relative: (!grads.d_relative.is_empty()).then_some(&mut *grads.d_relative),
            },
            grads.scratch,
        );
        grads.want_input_of(self.norms.before_attention(), pass);
        let normed = match self.norms.before_attention() {
            Some(_) => &record.attention_input[..],
            None => input,
        };
        let d_input = grads.wants_input.then_some(&mut *grads.d_more);
        pass.project_backward(&self.qkv, qkv, normed, d_input, gradient);
        self.before_attention_backward(pass, record, grads, gradient);
    }

    /// The part of a layer after the contexts, with its norms after each half or before it.
    #[expect(clippy::too_many_arguments, reason = "each is a tensor of the formula")]
    fn after_attention(
        &self,
        pass: &Pass<'_>,
        layer: usize,
        residual: &[f32],
        keep: Keep,
        record: &mut LayerRecord,
        y: &mut Vec<f32>,
        output: &mut Vec<f32>,
    ) {
        let n = residual.len();
        let context = &record.context[..n];
        let attended = room(&mut record.attended, n);
        let output = room(output, n);
        let of_attention = pass.mask(pass.dropout.attention, 3 * layer + 2);
        let of_output = pass.mask(pass.dropout.output, 3 * layer + 3);
        match &self.norms {
            Norms::Post {
                attention,
                output: norm,
            } => {
                let n_tokens = pass.rows();
                let y = room(&mut record.attention_norm.rows, n);
                pass.project(context, &self.attention_output, y);
                add_layer_norm(
                    &pass.norm(attention),
                    y,
                    Some(pass.bias(&self.attention_output)),
                    &of_attention,
                    residual,
                    room(&mut record.attention_norm.rstd, n_tokens),
                    attended,
                );

                let bias = pass.bias(&self.up);
                let activated = room(&mut record.activated, n_tokens * bias.len());
                if keep == Keep::Everything {
                    let x = room(&mut record.derivative, n_tokens * bias.len());
                    pass.project(attended, &self.up, x);
                    gelu(x, bias, activated);
                } else {
                    pass.project(attended, &self.up, activated);
                    gelu_in_place(activated, bias);
                }
                let y = room(&mut record.output_norm.rows, n);
                pass.project(activated, &self.down, y);
                add_layer_norm(
                    &pass.norm(norm),
                    y,
                    Some(pass.bias(&self.down)),
                    &of_output,
                    attended,
                    room(&mut record.output_norm.rstd, n_tokens),
                    output,
                );
            }
            Norms::Pre { output: norm, .. } => {
                let width = n / pass.rows();
                let y = room(y, n);
                pass.project(context, &self.attention_output, y);
                add_residual(y, width, &of_attention, residual, attended);

                let normalised = &mut record.output_norm;
                let normed = pass.normalise(norm, attended, normalised, &mut record.feed_input);
                let inner = pass.width_of(&self.down, width);
                let x = room(&mut record.derivative, n / width * 2 * inner);
                pass.project(normed, &self.up, x);
                let activated = room(&mut record.activated, n / width * inner);
                geglu(x, inner, activated);
                dropout::apply(&pass.inner_mask(layer), inner, activated);
                pass.project(activated, &self.down, y);
                add_residual(y, width, &of_output, attended, output);
            }
        }
    }

    /// The backward pass of [`Self::after_attention`]: leaves the gradient of its residual in `d` and that of the contexts
    /// in `d_more`.
    fn until_attention(
        &self,
        pass: &Pass<'_>,
        layer: usize,
        record: &mut LayerRecord,
        grads: &mut LayerGrads<'_>,
        gradient: &mut [f32],
    ) {
        let width = grads.d.len() / pass.rows();
        let inner = pass.width_of(&self.down, width);
        let n_wide = pass.rows() * inner;
        let of_attention = pass.mask(pass.dropout.attention, 3 * layer + 2);
        let of_output = pass.mask(pass.dropout.output, 3 * layer + 3);
        let (down, up, output) = (&self.down, &self.up, &self.attention_output);
        match &self.norms {
            Norms::Post { output: norm, .. } => {
                grads.through_norm(pass, norm, down, &record.output_norm, &of_output, gradient)
            }
            Norms::Pre { .. } => grads.through_dropout(width, &of_output),
        }
        let d_wide = &mut grads.d_wide[..n_wide];
        pass.project_backward(
            down,
            grads.d_y,
            &record.activated,
            Some(&mut *d_wide),
            gradient,
        );
        match &self.norms {
            Norms::Post { attention, .. } => {
                let d_bias = pass.bias_gradient(up, gradient);
                gelu_backward(&record.derivative[..n_wide], d_wide, d_bias, grads.scratch);
                let d_more = Some(&mut *grads.d_more);
                pass.project_backward(up, d_wide, &record.attended, d_more, gradient);
                let normalised = &record.attention_norm;
                grads.through_norm(pass, attention, output, normalised, &of_attention, gradient);
            }
            Norms::Pre { output: norm, .. } => {
                dropout::apply(&pass.inner_mask(layer), inner, d_wide);
                let d_x = &mut record.derivative[..2 * n_wide];
                geglu_backward(d_x, inner, d_wide);
                let d_more = Some(&mut *grads.d_more);
                pass.project_backward(up, d_x, &record.feed_input, d_more, gradient);
                let LayerGrads {
                    d, d_more, scratch, ..
                } = &mut *grads;
                pass.norm_gradient(norm, &record.output_norm, d_more, d, gradient, scratch);
                grads.through_dropout(width, &of_attention);
            }
        }
        let d_more = Some(&mut *grads.d_more);
        pass.project_backward(output, grads.d_y, &record.context, d_more, gradient);
    }

    /// Backward through the norm before the attention, where there is one, given the gradient of its output in `d_more`:
    /// adds that of the layer's input to `d`. Where norms come after each half, both parts are left as they are.
    fn before_attention_backward(
        &self,
        pass: &Pass<'_>,
        record: &LayerRecord,
        grads: &mut LayerGrads<'_>,
        gradient: &mut [f32],
    ) {
        let Norms::Pre { attention, .. } = &self.norms else {
            return;
        };
        if !grads.wants_input {
            return;
        }
        let LayerGrads {
            d, d_more, scratch, ..
        } = grads;
        match attention {
            Some(norm) => {
                let normalised = &record.attention_norm;
                pass.norm_gradient(norm, normalised, d_more, d, gradient, scratch);
            }
            None => add(d, d_more),
        }
        d_more.fill(0.0);
    }
}

impl LayerGrads<'_> {
    /// Backward through `LayerNorm(residual + dropout(linear(x)))`: `d` becomes the residual's gradient and `d_y`
    /// that of the linear layer's product; the linear layer's bias and the norm's parameters get theirs.
    fn through_norm(
        &mut self,
        pass: &Pass<'_>,
        norm: &LayerNorm,
        linear: &Linear,
        normalised: &Normalised,
        mask: &Mask<'_>,
        gradient: &mut [f32],
    ) {
        let n = self.d.len();
        let Some(((linear, weight), beta)) = linear.bias.zip(Some(norm.weight)).zip(norm.bias)
        else {
            unreachable!("layers with norms after each half have biases")
        };
        let (d_bias, grad) = match pass.parameters.is_trained(weight) {
            true => {
                let [d_bias, gamma, beta] = pass.disjoint(gradient, [linear, weight, beta]);
                let beta = Some(beta);
                (Some(d_bias), Some(LayerNormGrad { gamma, beta }))
            }
            false => (None, None),
        };
        add_layer_norm_backward(
            pass.values(norm.weight),
            &normalised.rows[..n],
            &normalised.rstd[..pass.rows()],
            mask,
            self.d,
            Some(&*self.d_more),
            self.d_y,
            d_bias,
            grad,
            self.scratch,
        );
    }

    /// Takes note that a norm before the attention needs the gradient of its output, if it is trained.
    fn want_input_of(&mut self, norm: Option<&LayerNorm>, pass: &Pass<'_>) {
        self.wants_input |= norm.is_some_and(|norm| pass.parameters.is_trained(norm.weight));
    }

    /// Backward through `residual + dropout(y)`: `d_y` becomes the gradient of y.
    fn through_dropout(&mut self, width: usize, mask: &Mask<'_>) {
        self.d_y.copy_from_slice(self.d);
        dropout::apply(mask, width, self.d_y);
    }
}

impl<'a> Pass<'a> {
    /// The number of rows that linear layers and norms are computed for.
    fn rows(&self) -> usize {
        self.only.map_or(self.batch.tokens(), <[usize]>::len)
    }

    fn range(&self, leaf: LeafId) -> Range<usize> {
        let begin = self.parameters.leaf_offset(leaf) as usize;
        begin..begin + self.parameters.leaf_numel(leaf) as usize
    }

    fn values(&self, leaf: LeafId) -> &'a [f32] {
        &self.flat[self.range(leaf)]
    }

    /// The bias of a linear layer; empty where it has none.
    fn bias(&self, linear: &Linear) -> &'a [f32] {
        match linear.bias {
            Some(bias) => self.values(bias),
            None => &[],
        }
    }

    /// The number of inputs of a linear layer with so many outputs.
    fn width_of(&self, linear: &Linear, outputs: usize) -> usize {
        self.values(linear.weight).len() / outputs
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

    /// The gradient of the bias of a linear layer, where it has one that is trained.
    fn bias_gradient<'g>(&self, linear: &Linear, gradient: &'g mut [f32]) -> Option<&'g mut [f32]> {
        let bias = linear.bias.filter(|&bias| self.parameters.is_trained(bias));
        bias.map(|bias| &mut gradient[self.range(bias)])
    }

    fn norm(&self, norm: &LayerNorm) -> kernels::norm::LayerNorm<'a> {
        kernels::norm::LayerNorm {
            gamma: self.values(norm.weight),
            beta: norm.bias.map(|bias| self.values(bias)),
            eps: norm.eps as f32,
        }
    }

    /// The gradients of a norm's parameters, where they are trained.
    fn norm_grad<'g>(
        &self,
        norm: &LayerNorm,
        gradient: &'g mut [f32],
    ) -> Option<LayerNormGrad<'g>> {
        if !self.parameters.is_trained(norm.weight) {
            return None;
        }
        Some(match norm.bias {
            Some(bias) => {
                let [gamma, beta] = self.disjoint(gradient, [norm.weight, bias]);
                LayerNormGrad {
                    gamma,
                    beta: Some(beta),
                }
            }
            None => LayerNormGrad {
                gamma: &mut gradient[self.range(norm.weight)],
                beta: None,
            },
        })
    }

    /// A norm alone, [T, H]: its output, left in `out`.
    fn normalise<'o>(
        &self,
        norm: &LayerNorm,
        input: &[f32],
        normalised: &mut Normalised,
        out: &'o mut Vec<f32>,
    ) -> &'o [f32] {
        let out = room(out, input.len());
        layer_norm(
            &self.norm(norm),
            input,
            room(&mut normalised.rows, input.len()),
            room(&mut normalised.rstd, self.rows()),
            out,
        );
        out
    }

    /// Backward through a norm alone: adds the gradient of its input to `d`, given that of its output.
    fn norm_gradient(
        &self,
        norm: &LayerNorm,
        normalised: &Normalised,
        d_out: &[f32],
        d: &mut [f32],
        gradient: &mut [f32],
        scratch: &mut Scratch,
    ) {
        layer_norm_backward(
            self.values(norm.weight),
            &normalised.rows[..d.len()],
            &normalised.rstd[..d.len() / norm.size as usize],
            d_out,
            d,
            self.norm_grad(norm, gradient),
            scratch,
        );
    }

    fn mask(&self, probability: Option<f64>, site: usize) -> Mask<'a> {
        let Some(probability) = probability.filter(|&probability| probability > 0.0) else {
            return Mask::NONE;
        };
        let mask =
            Mask::new(probability, self.seed, 0, site as u32).starting_at(self.batch.first_token());
        match self.only {
            Some(only) => mask.of_rows(only),
            None => mask,
        }
    }

    /// The mask within a layer's feed-forward part. Its site follows on those of all layers.
    fn inner_mask(&self, layer: usize) -> Mask<'a> {
        let site = 3 * self.rotaries.len() + 1 + layer;
        self.mask(self.dropout.intermediate, site)
    }

    fn shape(&self, layer: &Layer) -> attention::Shape<'_> {
        attention::Shape {
            heads: layer.heads as usize,
            head_dim: layer.head_dim as usize,
            offsets: self.batch.offsets(),
        }
    }

    fn inputs(&self, of: &Layer, layer: usize) -> attention::Inputs<'_> {
        attention::Inputs {
            bias: of.qkv.bias.map(|bias| self.values(bias)),
            relative: self.relative.as_deref(),
            rotary: self.rotaries[layer].as_deref(),
            window: of.spec.window,
            dropout: self.mask(self.dropout.probabilities, 3 * layer + 1),
        }
    }
}

/// to += from.
fn add(to: &mut [f32], from: &[f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += from;
    }
}

/// The first `len` values of a buffer that grows where it is too small.
fn room(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

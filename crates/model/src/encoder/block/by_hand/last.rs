//! The last layer where one token of each sentence is wanted: its attention has one query a sentence, and all that comes
//! after it is computed for those tokens alone.
//!
//! Dimensions: S = sentences, T = tokens, H = hidden.

use kernels::attention::{
    self,
    one::{attend_one, attend_one_backward},
};

use super::{Keep, LastRecord, Layer, LayerGrads, LayerRecord, Pass, room};

impl Layer {
    /// The layer's output for the tokens `only`, [S, H]. `y` is a buffer.
    #[expect(clippy::too_many_arguments, reason = "each is a tensor of the formula")]
    pub(super) fn forward_last(
        &self,
        pass: &Pass<'_>,
        only: &[usize],
        layer: usize,
        input: &[f32],
        keep: Keep,
        record: &mut LayerRecord,
        last: &mut LastRecord,
        y: &mut Vec<f32>,
        output: &mut Vec<f32>,
    ) {
        let n = input.len();
        let width = n / pass.batch.tokens();
        let n_only = only.len() * width;
        let LastRecord {
            residual,
            chosen,
            q,
        } = last;
        let residual = gather(input, only, width, residual);
        let (normed, chosen) = match self.norms.before_attention() {
            Some(norm) => {
                let normalised = &mut record.attention_norm;
                let normed = pass.normalise(norm, input, normalised, &mut record.attention_input);
                (normed, gather(normed, only, width, chosen))
            }
            None => (input, residual),
        };

        let q = room(q, n_only);
        let kv = room(&mut record.qkv, 2 * n);
        pass.of(only).project_part(chosen, &self.qkv, 0..width, q);
        pass.project_part(normed, &self.qkv, width..3 * width, kv);
        let context = room(&mut record.context, n_only);
        let lse = room(&mut record.lse, only.len() * self.heads as usize);
        let (shape, inputs) = (pass.shape(self), pass.inputs(self, layer));
        attend_one(&shape, &inputs, only, q, kv, context, lse);

        self.after_attention(&pass.of(only), layer, residual, keep, record, y, output);
    }

    /// The backward pass of [`Self::forward_last`], given the gradient of its output in the first rows of `d`; that of its
    /// input [T, H] is left as [`Self::backward_whole`] leaves it.
    #[expect(clippy::too_many_arguments, reason = "each is a tensor of the formula")]
    pub(super) fn backward_last(
        &self,
        pass: &Pass<'_>,
        only: &[usize],
        layer: usize,
        input: &[f32],
        record: &mut LayerRecord,
        last: &mut LastRecord,
        grads: &mut LayerGrads<'_>,
        gradient: &mut [f32],
    ) {
        let n = input.len();
        let width = n / pass.batch.tokens();
        let n_only = only.len() * width;
        let of_only = &mut grads.first(n_only);
        self.until_attention(&pass.of(only), layer, record, of_only, gradient);

        let q = &mut last.q[..n_only];
        let kv = &mut record.qkv[..2 * n];
        attend_one_backward(
            &pass.shape(self),
            &pass.inputs(self, layer),
            only,
            q,
            kv,
            &record.lse[..only.len() * self.heads as usize],
            &grads.d_more[..n_only],
            attention::Grads {
                bias: pass.bias_gradient(&self.qkv, gradient),
                relative: (!grads.d_relative.is_empty()).then_some(&mut *grads.d_relative),
            },
            grads.scratch,
        );

        let attention_norm = self.norms.before_attention();
        let (normed, chosen) = match attention_norm {
            Some(_) => (&record.attention_input[..], &last.chosen[..n_only]),
            None => (input, &last.residual[..n_only]),
        };
        grads.want_input_of(attention_norm, pass);
        let wants = grads.wants_input;
        let d_chosen = wants.then_some(&mut grads.d_y[..n_only]);
        let (of_q, of_kv) = (0..width, width..3 * width);
        pass.of(only)
            .project_part_backward(&self.qkv, of_q, q, chosen, d_chosen, gradient);
        let d_normed = wants.then_some(&mut *grads.d_more);
        pass.project_part_backward(&self.qkv, of_kv, kv, normed, d_normed, gradient);
        if !wants {
            return;
        }
        // The residual's gradient, row by row to its token.
        let residual = &mut last.residual[..n_only];
        residual.copy_from_slice(&grads.d[..n_only]);
        grads.d.fill(0.0);
        scatter(residual, only, width, grads.d);
        scatter(&grads.d_y[..n_only], only, width, grads.d_more);
        self.before_attention_backward(pass, record, grads, gradient);
    }
}

impl LayerGrads<'_> {
    /// The gradients of the first rows, `n` values.
    fn first(&mut self, n: usize) -> LayerGrads<'_> {
        LayerGrads {
            d: &mut self.d[..n],
            d_more: &mut self.d_more[..n],
            d_y: &mut self.d_y[..n],
            d_wide: &mut *self.d_wide,
            d_relative: &mut *self.d_relative,
            wants_input: self.wants_input,
            scratch: &mut *self.scratch,
        }
    }
}

impl Pass<'_> {
    /// The pass over the rows of some tokens, with all that linear layers and norms read.
    fn of<'p>(&'p self, only: &'p [usize]) -> Pass<'p> {
        Pass {
            parameters: self.parameters,
            flat: self.flat,
            gemm: self.gemm,
            batch: self.batch,
            positions: Vec::new(),
            only: Some(only),
            dropout: self.dropout,
            seed: self.seed,
            relative: None,
            rotaries: self.rotaries.clone(),
            buffers: self.buffers,
        }
    }
}

/// The rows of some tokens.
fn gather<'o>(rows: &[f32], only: &[usize], width: usize, out: &'o mut Vec<f32>) -> &'o [f32] {
    let out = room(out, only.len() * width);
    for (to, &token) in out.chunks_exact_mut(width).zip(only) {
        to.copy_from_slice(&rows[token * width..][..width]);
    }
    out
}

/// Adds rows to those of some tokens.
fn scatter(rows: &[f32], only: &[usize], width: usize, to: &mut [f32]) {
    for (row, &token) in rows.chunks_exact(width).zip(only) {
        super::add(&mut to[token * width..][..width], row);
    }
}

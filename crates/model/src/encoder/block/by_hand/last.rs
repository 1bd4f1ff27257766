//! The last layer where one token of each sentence is wanted: its attention has one query a sentence, and all that comes
//! after it is computed for those tokens alone.
//!
//! Dimensions: S = sentences, T = tokens, H = hidden.

use kernels::{
    attention::{
        self,
        one::{attend_one, attend_one_backward},
    },
    gemm::{Kind, Shape},
    profile::{Part, time},
};

use super::{Keep, LastRecord, Layer, LayerGrads, LayerRecord, Norms, Pass, room};

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
        let (normed, chosen) = match &self.norms {
            Norms::Pre {
                attention: Some(norm),
                ..
            } => {
                let normalised = &mut record.attention_norm;
                let normed = pass.normalise(norm, input, normalised, &mut record.attention_input);
                (normed, gather(normed, only, width, chosen))
            }
            _ => (input, residual),
        };

        let q = room(q, n_only);
        let kv = room(&mut record.qkv, 2 * n);
        {
            let _timer = time(Part::MatrixProducts);
            let weights = pass.values(self.qkv.weight);
            let (w_q, w_kv) = weights.split_at(width * width);
            for (x, w, out) in [(chosen, w_q, &mut *q), (normed, w_kv, &mut *kv)] {
                let shape = product(x.len() / width, w.len() / width, width);
                pass.gemm.product(Kind::NT, shape, 1.0, x, w, 0.0, out);
            }
        }
        let context = room(&mut record.context, n_only);
        let lse = room(&mut record.lse, only.len() * self.heads as usize);
        let (shape, inputs) = (pass.shape(self), pass.inputs(self, layer));
        attend_one(&shape, &inputs, only, q, kv, context, lse);

        let pass = &pass.of(only);
        match &self.norms {
            Norms::Post {
                attention,
                output: norm,
            } => {
                let norms = (attention, norm);
                self.after_attention_post(pass, layer, norms, residual, keep, record, output);
            }
            Norms::Pre { output: norm, .. } => {
                self.after_attention_pre(pass, layer, norm, residual, record, y, output);
            }
        }
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
        {
            let pass = &pass.of(only);
            let grads = &mut grads.first(n_only);
            match &self.norms {
                Norms::Post {
                    attention,
                    output: norm,
                } => {
                    let norms = (attention, norm);
                    self.until_attention_post(pass, layer, norms, record, grads, gradient);
                }
                Norms::Pre { output: norm, .. } => {
                    self.until_attention_pre(pass, layer, norm, record, grads, gradient);
                }
            }
            let (output, context) = (self.attention_output.weight, &record.context[..n_only]);
            pass.weight_gradient(grads.d_y, context, output, gradient);
            pass.input_gradient(grads.d_y, output, grads.d_more);
        }

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
                bias: match self.qkv.bias {
                    Some(_) => Some(pass.bias_gradient(&self.qkv, gradient)),
                    None => None,
                },
                relative: (!grads.d_relative.is_empty()).then_some(&mut *grads.d_relative),
            },
            grads.scratch,
        );

        let attention_norm = match &self.norms {
            Norms::Pre { attention, .. } => attention.as_ref(),
            Norms::Post { .. } => None,
        };
        let (normed, chosen) = match attention_norm {
            Some(_) => (&record.attention_input[..n], &last.chosen[..n_only]),
            None => (input, &last.residual[..n_only]),
        };
        {
            let _timer = time(Part::MatrixProducts);
            let weights = pass.values(self.qkv.weight);
            let (w_q, w_kv) = weights.split_at(width * width);
            let [d_weights] = pass.disjoint(gradient, [self.qkv.weight]);
            let (d_w_q, d_w_kv) = d_weights.split_at_mut(width * width);
            let of_q = (&*q, chosen, w_q, d_w_q, &mut grads.d_y[..n_only]);
            let of_kv = (&*kv, normed, w_kv, d_w_kv, &mut *grads.d_more);
            for (d_out, x, w, d_w, d_x) in [of_q, of_kv] {
                let (rows, outputs) = (x.len() / width, w.len() / width);
                let shape = product(outputs, width, rows);
                pass.gemm.product(Kind::TN, shape, 1.0, d_out, x, 1.0, d_w);
                let shape = product(rows, width, outputs);
                pass.gemm.product(Kind::NN, shape, 1.0, d_out, w, 0.0, d_x);
            }
        }
        // The residual's gradient, row by row to its token.
        let residual = &mut last.residual[..n_only];
        residual.copy_from_slice(&grads.d[..n_only]);
        grads.d.fill(0.0);
        scatter(residual, only, width, grads.d);
        scatter(&grads.d_y[..n_only], only, width, grads.d_more);
        if let Norms::Pre { attention, .. } = &self.norms {
            grads.before_attention(pass, attention.as_ref(), record, gradient);
        }
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
        }
    }
}

fn product(m: usize, n: usize, k: usize) -> Shape {
    Shape { m, n, k }
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

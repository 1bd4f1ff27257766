//! Linear layers by hand, with their adapters.
//!
//! Dimensions: T = tokens, k = inputs, n = outputs of a layer, r = rank, p = adapted parts of a layer that is several
//! stacked ones.

use std::ops::Range;

use kernels::{
    dropout,
    gemm::{Kind, Shape},
    profile::{Part, time},
};

use super::{LinearBuffers, Pass, add, room};
use crate::encoder::{adapter::Adapter, block::Linear};

impl Pass<'_> {
    /// out = x W^T and what an adapter adds, for x [T, k], W [n, k] and out [T, n].
    pub(super) fn project(&self, x: &[f32], linear: &Linear, out: &mut [f32]) {
        self.project_part(x, linear, 0..out.len() / self.rows(), out);
    }

    /// As [`Self::project`], of some of the outputs: all of one or several of the stacked layers.
    pub(super) fn project_part(
        &self,
        x: &[f32],
        linear: &Linear,
        outputs: Range<usize>,
        out: &mut [f32],
    ) {
        let m = self.rows();
        let (n, k) = (outputs.len(), x.len() / m);
        let weight = &self.values(linear.weight)[outputs.start * k..outputs.end * k];
        self.product(Kind::NT, [m, n, k], 1.0, x, weight, 0.0, out);
        if let Some(adapter) = &linear.adapter {
            let LinearBuffers {
                dropped,
                inner,
                part,
                up,
                ..
            } = &mut *self.buffers.borrow_mut();
            let inner = self.inner(adapter, x, inner, dropped, part);
            let columns = inner.len() / m;
            let up = self.up(adapter, up);
            let up = &up[outputs.start * columns..outputs.end * columns];
            let scale = adapter.scale as f32;
            self.product(Kind::NT, [m, n, columns], scale, inner, up, 1.0, out);
        }
    }

    /// The backward pass of [`Self::project`], given d_out [T, n]: adds the gradients of what is trained, d_W +=
    /// d_out^T x, and writes d_x = d_out W where that is wanted. `x` begins with the layer's input, if anything of the
    /// layer is trained.
    pub(super) fn project_backward(
        &self,
        linear: &Linear,
        d_out: &[f32],
        x: &[f32],
        d_x: Option<&mut [f32]>,
        gradient: &mut [f32],
    ) {
        let outputs = 0..d_out.len() / self.rows();
        self.project_part_backward(linear, outputs, d_out, x, d_x, gradient);
    }

    /// As [`Self::project_backward`], of some of the outputs.
    pub(super) fn project_part_backward(
        &self,
        linear: &Linear,
        outputs: Range<usize>,
        d_out: &[f32],
        x: &[f32],
        d_x: Option<&mut [f32]>,
        gradient: &mut [f32],
    ) {
        let (m, n) = (self.rows(), outputs.len());
        let weight = self.values(linear.weight);
        let k = weight.len() / self.parameters.leaf_rows(linear.weight) as usize;
        let of_outputs = outputs.start * k..outputs.end * k;
        let weight = &weight[of_outputs.clone()];
        let x = || &x[..m * k];
        if self.parameters.is_trained(linear.weight) {
            let [d_weight] = self.disjoint(gradient, [linear.weight]);
            let d_weight = &mut d_weight[of_outputs];
            self.product(Kind::TN, [n, k, m], 1.0, d_out, x(), 1.0, d_weight);
        }
        let Some(adapter) = &linear.adapter else {
            if let Some(d_x) = d_x {
                self.product(Kind::NN, [m, k, n], 1.0, d_out, weight, 0.0, d_x);
            }
            return;
        };
        let mut d_x = d_x;
        if let Some(d_x) = d_x.as_deref_mut() {
            self.product(Kind::NN, [m, k, n], 1.0, d_out, weight, 0.0, d_x);
        }
        self.adapter_backward(adapter, outputs, d_out, x(), d_x, gradient);
    }

    /// The backward pass of an adapter: adds to the gradients of its factors, and of its input where that is wanted.
    fn adapter_backward(
        &self,
        adapter: &Adapter,
        outputs: Range<usize>,
        d_out: &[f32],
        x: &[f32],
        mut d_x: Option<&mut [f32]>,
        gradient: &mut [f32],
    ) {
        let LinearBuffers {
            dropped,
            inner,
            d_inner,
            part,
            up,
            d_up,
        } = &mut *self.buffers.borrow_mut();
        let m = self.rows();
        let (n, k, rank) = (outputs.len(), x.len() / m, adapter.rank);
        let (n_parts, scale) = (adapter.parts.len(), adapter.scale as f32);
        let columns = n_parts * rank;
        let inner = self.inner(adapter, x, inner, dropped, part);
        let up = self.up(adapter, up);
        let all_outputs = up.len() / columns;
        let up = &up[outputs.start * columns..outputs.end * columns];
        let d_inner = room(d_inner, m * columns);
        self.product(Kind::NN, [m, columns, n], scale, d_out, up, 0.0, d_inner);

        let [to_down, to_up] = self.disjoint(gradient, [adapter.down, adapter.up]);
        let shape = [n, columns, m];
        if adapter.n_stacked == 1 {
            let to_up = &mut to_up[outputs.start * columns..outputs.end * columns];
            self.product(Kind::TN, shape, scale, d_out, inner, 1.0, to_up);
        } else {
            let d_up = room(d_up, n * columns);
            self.product(Kind::TN, shape, scale, d_out, inner, 0.0, d_up);
            let of_each = all_outputs / adapter.n_stacked;
            let of_parts = to_up.chunks_exact_mut(of_each * rank);
            for (i, (to, &place)) in of_parts.zip(&adapter.parts).enumerate() {
                if !outputs.contains(&(place * of_each)) {
                    continue;
                }
                let first = place * of_each - outputs.start;
                let from = d_up[first * columns..].chunks_exact(columns);
                for (to, from) in to.chunks_exact_mut(rank).zip(from) {
                    add(to, &from[i * rank..][..rank]);
                }
            }
        }

        let down = self.values(adapter.down);
        if self.is_dropped(adapter) {
            for i in 0..n_parts {
                let mask = self.adapter_mask(adapter, i);
                let part = room(part, m * rank);
                take_columns(d_inner, columns, i * rank, rank, part);
                let dropped = room(dropped, m * k);
                dropped.copy_from_slice(x);
                dropout::apply(&mask, k, dropped);
                let to_down = &mut to_down[i * rank * k..][..rank * k];
                self.product(Kind::TN, [rank, k, m], 1.0, part, dropped, 1.0, to_down);
                if let Some(d_x) = d_x.as_deref_mut() {
                    let down = &down[i * rank * k..][..rank * k];
                    self.product(Kind::NN, [m, k, rank], 1.0, part, down, 0.0, dropped);
                    dropout::apply(&mask, k, dropped);
                    add(d_x, dropped);
                }
            }
        } else {
            self.product(Kind::TN, [columns, k, m], 1.0, d_inner, x, 1.0, to_down);
            if let Some(d_x) = d_x {
                self.product(Kind::NN, [m, k, columns], 1.0, d_inner, down, 1.0, d_x);
            }
        }
    }

    /// Products of the input [T, k] under dropout with the first factors, [T, p r]. The last two are buffers.
    fn inner<'b>(
        &self,
        adapter: &Adapter,
        x: &[f32],
        inner: &'b mut Vec<f32>,
        dropped: &mut Vec<f32>,
        part: &mut Vec<f32>,
    ) -> &'b [f32] {
        let m = self.rows();
        let (k, rank, n_parts) = (x.len() / m, adapter.rank, adapter.parts.len());
        let columns = n_parts * rank;
        let down = self.values(adapter.down);
        let inner = room(inner, m * columns);
        if !self.is_dropped(adapter) {
            self.product(Kind::NT, [m, columns, k], 1.0, x, down, 0.0, inner);
            return inner;
        }
        for i in 0..n_parts {
            let dropped = room(dropped, m * k);
            dropped.copy_from_slice(x);
            dropout::apply(&self.adapter_mask(adapter, i), k, dropped);
            let down = &down[i * rank * k..][..rank * k];
            let part = room(part, m * rank);
            self.product(Kind::NT, [m, rank, k], 1.0, dropped, down, 0.0, part);
            let rows = inner.chunks_exact_mut(columns);
            for (to, from) in rows.zip(part.chunks_exact(rank)) {
                to[i * rank..][..rank].copy_from_slice(from);
            }
        }
        inner
    }

    /// The second factors as one matrix [n, p r], with zeros where a part has no outputs. The last is a buffer.
    fn up<'b>(&'b self, adapter: &Adapter, up: &'b mut Vec<f32>) -> &'b [f32] {
        let values = self.values(adapter.up);
        if adapter.n_stacked == 1 {
            return values;
        }
        let (rank, n_parts) = (adapter.rank, adapter.parts.len());
        let (columns, outputs) = (n_parts * rank, values.len() / (n_parts * rank));
        let up = room(up, adapter.n_stacked * outputs * columns);
        up.fill(0.0);
        let of_parts = values.chunks_exact(outputs * rank);
        for (i, (from, &place)) in of_parts.zip(&adapter.parts).enumerate() {
            let to = up[place * outputs * columns..].chunks_exact_mut(columns);
            for (to, from) in to.zip(from.chunks_exact(rank)) {
                to[i * rank..][..rank].copy_from_slice(from);
            }
        }
        up
    }

    fn is_dropped(&self, adapter: &Adapter) -> bool {
        !self.adapter_mask(adapter, 0).is_none()
    }

    /// The mask of a part's input.
    fn adapter_mask(&self, adapter: &Adapter, part: usize) -> dropout::Dropout<'_> {
        self.mask(self.dropout.adapters, adapter.site + part)
    }

    /// C = alpha op(A) op(B) + beta C, with the shape [m, n, k].
    #[expect(
        clippy::too_many_arguments,
        reason = "the arguments that every GEMM has"
    )]
    fn product(
        &self,
        kind: Kind,
        [m, n, k]: [usize; 3],
        alpha: f32,
        a: &[f32],
        b: &[f32],
        beta: f32,
        c: &mut [f32],
    ) {
        let _timer = time(Part::MatrixProducts);
        let shape = Shape { m, n, k };
        self.gemm.product(kind, shape, alpha, a, b, beta, c);
    }
}

/// Copies `n` columns from `first` on.
fn take_columns(from: &[f32], width: usize, first: usize, n: usize, to: &mut [f32]) {
    for (to, from) in to.chunks_exact_mut(n).zip(from.chunks_exact(width)) {
        to.copy_from_slice(&from[first..][..n]);
    }
}

//! Division of rows into blocks that do not depend on the number of threads, and addition of the
//! blocks' partial sums in order.

use rayon::prelude::*;

/// Working memory that kernels reuse from call to call.
#[derive(Debug, Default)]
pub struct Scratch(Vec<f32>);

impl Scratch {
    /// Returns `len` values with arbitrary content from earlier calls.
    pub(crate) fn take(&mut self, len: usize) -> &mut [f32] {
        if self.0.len() < len {
            self.0.resize(len, 0.0);
        }
        &mut self.0[..len]
    }
}

/// Rows of a block: at least 16, so that a block is worth a task, and enough that there are at most 64
/// blocks, so that adding up their sums stays cheap. A function of the shape alone.
pub(crate) fn block(rows: usize) -> usize {
    rows.div_ceil(64).max(16)
}

/// Computes out[c] += sum over blocks b, in order, of partial[b][c], for `partials` [blocks, stride] whose
/// rows begin with the values of all outputs, one output after the other.
pub(crate) fn add_partials(partials: &[f32], stride: usize, outs: &mut [&mut [f32]]) {
    const COLUMNS: usize = 256;
    let mut start = 0;
    for out in outs {
        let begin = start;
        start += out.len();
        out.par_chunks_mut(COLUMNS)
            .with_min_len(4)
            .enumerate()
            .for_each(|(chunk, out)| {
                let first = begin + chunk * COLUMNS;
                for partial in partials.chunks_exact(stride) {
                    for (o, &p) in out.iter_mut().zip(&partial[first..]) {
                        *o += p;
                    }
                }
            });
    }
}

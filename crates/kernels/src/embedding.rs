//! Word, token type and position embeddings with layer norm and dropout.

use rayon::prelude::*;

use crate::{
    dropout::{Dropout, Mask},
    norm::{self, LayerNorm, LayerNormGrad},
    profile::{Part, time},
    rows::{self, Scratch},
    simd::{LANES, Simd, simd_fn},
};

/// Tables of a model's first layer, with rows of the norm's width.
#[derive(Clone, Copy, Debug)]
pub struct Embeddings<'a> {
    /// One row for each token of the vocabulary, [vocabulary, width].
    pub word: &'a [f32],
    /// The row that is added to every token's for its type, \[width\].
    pub token_type: Option<&'a [f32]>,
    /// One row for each position, [positions, width].
    pub position: Option<&'a [f32]>,
    /// The norm over their sum.
    pub norm: LayerNorm<'a>,
}

/// Computes `out = dropout(LN(word[id] + token_type + position[position]))` for each token: `ids` and `positions`
/// \[tokens\], `normalised` and `out` [tokens, width], `rstd` \[tokens\].
///
/// `normalised` (rows before gamma and beta) and `rstd` are what [`embed_backward`] needs.
///
/// # Panics
/// If the lengths do not fit together, or an id or position is beyond its table.
pub fn embed(
    tables: &Embeddings<'_>,
    ids: &[u32],
    positions: &[u32],
    dropout: &Dropout<'_>,
    normalised: &mut [f32],
    rstd: &mut [f32],
    out: &mut [f32],
) {
    let _timer = time(Part::Embedding);
    let width = norm::check(&tables.norm, ids.len(), normalised.len());
    assert_eq!(positions.len(), ids.len(), "positions");
    assert_eq!(rstd.len(), ids.len(), "rstd");
    assert_eq!(out.len(), normalised.len(), "out");
    check_indices("token id", ids, tables.word.len(), width);
    if let Some(position) = tables.position {
        check_indices("position", positions, position.len(), width);
    }
    if let Some(token_type) = tables.token_type {
        assert_eq!(token_type.len(), width, "token type");
    }
    let rows = rows::block(ids.len());
    normalised
        .par_chunks_mut(rows * width)
        .zip(out.par_chunks_mut(rows * width))
        .zip(rstd.par_chunks_mut(rows))
        .zip(ids.par_chunks(rows))
        .zip(positions.par_chunks(rows))
        .enumerate()
        .for_each(|(block, ((((normalised, out), rstd), ids), positions))| {
            forward_block(
                tables,
                ids,
                positions,
                dropout,
                block * rows,
                normalised,
                rstd,
                out,
            );
        });
}

/// Backward pass of [`embed`] up to the tables: replaces `d`, the gradient of `out`, by the gradient of
/// the sum of the two rows, which [`scatter`] then adds to each table's gradient.
///
/// # Panics
/// If the lengths do not fit together.
pub fn embed_backward(
    gamma: &[f32],
    normalised: &[f32],
    rstd: &[f32],
    dropout: &Dropout<'_>,
    d: &mut [f32],
    grad: Option<LayerNormGrad<'_>>,
    scratch: &mut Scratch,
) {
    let _timer = time(Part::Embedding);
    let width = norm::check_rows(gamma, rstd.len(), d.len());
    assert_eq!(normalised.len(), d.len(), "normalised");
    LayerNormGrad::check(grad.as_ref(), width);
    let rows = rows::block(rstd.len());
    let partials = scratch.take(rstd.len().div_ceil(rows) * 2 * width);
    d.par_chunks_mut(rows * width)
        .zip(normalised.par_chunks(rows * width))
        .zip(rstd.par_chunks(rows))
        .zip(partials.par_chunks_mut(2 * width))
        .enumerate()
        .for_each(|(block, (((d, normalised), rstd), partial))| {
            backward_block(gamma, normalised, rstd, dropout, block * rows, d, partial);
        });
    if let Some(grad) = grad {
        grad.add(partials, 2 * width, None);
    }
}

/// Tokens of a batch, grouped by the table row that they read, in token order within each group.
#[derive(Clone, Debug, Default)]
pub struct Order {
    tokens: Vec<u32>,
    /// (row, end of its tokens in `tokens`), by ascending row.
    groups: Vec<(u32, usize)>,
}

impl Order {
    /// Groups the tokens by `indices`: ids or positions, \[tokens\].
    ///
    /// # Panics
    /// If there are 2^32 tokens or more.
    pub fn new(indices: &[u32]) -> Self {
        let count = u32::try_from(indices.len())
            .unwrap_or_else(|_| panic!("{} tokens are too many", indices.len()));
        let mut tokens: Vec<u32> = (0..count).collect();
        tokens.sort_by_key(|&t| indices[t as usize]);
        let mut groups: Vec<(u32, usize)> = Vec::new();
        for (i, &t) in tokens.iter().enumerate() {
            let row = indices[t as usize];
            match groups.last_mut() {
                Some(last) if last.0 == row => last.1 = i + 1,
                _ => groups.push((row, i + 1)),
            }
        }
        Self { tokens, groups }
    }
}

/// Computes table_grad\[index of t\] += d\[t\] over all tokens t, in token order, for `d` [tokens, width] and
/// `table_grad` [entries, width]. The row `padding` keeps its gradient, as with `padding_idx` of
/// `torch.nn.Embedding`.
///
/// # Panics
/// If the lengths do not fit together, or an index is beyond the table.
pub fn scatter(
    order: &Order,
    d: &[f32],
    width: usize,
    padding: Option<u32>,
    table_grad: &mut [f32],
) {
    let _timer = time(Part::Embedding);
    assert_eq!(d.len(), order.tokens.len() * width, "d");
    if let Some(&(last, _)) = order.groups.last() {
        check_indices("index", &[last], table_grad.len(), width);
    }
    // Each group owns one row, so the table can be split from front to back.
    let mut jobs = Vec::with_capacity(order.groups.len());
    let (mut rest, mut passed, mut start) = (table_grad, 0, 0);
    for &(row, end) in &order.groups {
        let skip = (row as usize - passed) * width;
        let (target, tail) = rest.split_at_mut(skip).1.split_at_mut(width);
        if padding != Some(row) {
            jobs.push((target, &order.tokens[start..end]));
        }
        (rest, passed, start) = (tail, row as usize + 1, end);
    }
    jobs.into_par_iter()
        .with_min_len(8)
        .for_each(|(target, tokens)| {
            for &t in tokens {
                add_row(&d[t as usize * width..][..width], target);
            }
        });
}

fn check_indices(what: &str, indices: &[u32], table: usize, width: usize) {
    assert!(
        table.is_multiple_of(width),
        "{table} values are no rows of {width}"
    );
    if let Some(&worst) = indices.iter().max() {
        assert!(
            (worst as usize) < table / width,
            "{what} {worst} is beyond a table of {} rows",
            table / width
        );
    }
}

simd_fn!(fn forward_block(
    tables: &Embeddings<'_>, ids: &[u32], positions: &[u32], dropout: &Dropout<'_>, first: usize,
    normalised: &mut [f32], rstd: &mut [f32], out: &mut [f32],
) = forward_body);

#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "each is a tensor of the formula")]
fn forward_body<S: Simd>(
    s: S,
    tables: &Embeddings<'_>,
    ids: &[u32],
    positions: &[u32],
    dropout: &Dropout<'_>,
    first: usize,
    normalised: &mut [f32],
    rstd: &mut [f32],
    out: &mut [f32],
) {
    let width = tables.norm.gamma.len();
    for (r, rstd) in rstd.iter_mut().enumerate() {
        let word = &tables.word[ids[r] as usize * width..][..width];
        let position = tables
            .position
            .map(|table| &table[positions[r] as usize * width..][..width]);
        let row = &mut normalised[r * width..][..width];
        let mut sum = s.zero();
        let mut i = 0;
        while i < width {
            let mut v = s.ld(word, i);
            if let Some(token_type) = tables.token_type {
                v = s.add(v, s.ld(token_type, i));
            }
            if let Some(position) = position {
                v = s.add(v, s.ld(position, i));
            }
            sum = s.add(sum, v);
            s.st(row, i, v);
            i += LANES;
        }
        let mut mask = Mask::new(s, dropout, first + r);
        *rstd = norm::normalise_row(
            s,
            &tables.norm,
            sum,
            row,
            &mut mask,
            &mut out[r * width..][..width],
        );
    }
}

simd_fn!(fn backward_block(
    gamma: &[f32], normalised: &[f32], rstd: &[f32], dropout: &Dropout<'_>, first: usize,
    d: &mut [f32], partial: &mut [f32],
) = backward_body);

#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "each is a tensor of the formula")]
fn backward_body<S: Simd>(
    s: S,
    gamma: &[f32],
    normalised: &[f32],
    rstd: &[f32],
    dropout: &Dropout<'_>,
    first: usize,
    d: &mut [f32],
    partial: &mut [f32],
) {
    let width = gamma.len();
    partial.fill(0.0);
    for (r, &rstd) in rstd.iter().enumerate() {
        let d = &mut d[r * width..][..width];
        let n = &normalised[r * width..][..width];
        let mut mask = Mask::new(s, dropout, first + r);
        let mut i = 0;
        while i < width {
            let v = mask.apply(s, i, s.ld(d, i));
            s.st(d, i, v);
            i += LANES;
        }
        let (mean, mean_n) = norm::backward_sums(s, gamma, n, d, partial);
        let mut i = 0;
        while i < width {
            let v = norm::backward_value(s, gamma, n, d, i, mean, mean_n, s.splat(rstd));
            s.st(d, i, v);
            i += LANES;
        }
    }
}

simd_fn!(fn add_row(from: &[f32], to: &mut [f32]) = add_row_body);

#[inline(always)]
fn add_row_body<S: Simd>(s: S, from: &[f32], to: &mut [f32]) {
    let mut i = 0;
    while i < to.len() {
        let v = s.add(s.ld(to, i), s.ld(from, i));
        s.st(to, i, v);
        i += LANES;
    }
}

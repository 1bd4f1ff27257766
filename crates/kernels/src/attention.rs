//! Attention within each sentence of a packed batch, with a learned relative bias.
//!
//! For every sentence and head, with q, k, v the head's columns of a fused projection plus bias:
//!
//! S = q k^T / sqrt(d) + relative bias, P = softmax(S), context = dropout(P) v
//!
//! (Vaswani et al., 2017; the bias is that of MPNet and T5, which depends on j - i alone). The
//! forward pass keeps only the logarithm of each row's sum of exponentials; the backward pass makes
//! P again from it (Dao et al., "FlashAttention", 2022). At the lengths of NLI that costs less than
//! reading P back would at long ones, memory stays linear in the number of tokens, and both passes
//! need no more than two [length, length] matrices of one head at a time.

use crate::{
    Scratch,
    dropout::{Dropout, Row},
    math::exp,
    rows,
    simd::{LANES, Simd, simd_fn},
};
use rayon::prelude::*;
use std::{cell::RefCell, marker::PhantomData, ops::Range};

/// The sizes of an attention layer and the sentences of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Shape<'a> {
    /// Heads, 1 to 256.
    pub heads: usize,
    /// Columns of a head, d: 1 to 128. A multiple of 16 is fastest.
    pub head_dim: usize,
    /// Where each sentence begins, from 0, and the number of tokens, [sentences + 1].
    pub offsets: &'a [usize],
}

/// What the projections gave and what is added to the scores.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// Bias of the projections, [3 heads d], added while reading.
    pub bias: Option<&'a [f32]>,
    /// Relative bias [heads, 2 n - 1] for sentences of up to n tokens: column j - i + n - 1 of a
    /// head's row is added to the score of query i and key j.
    pub relative: Option<&'a [f32]>,
    /// Dropout of the probabilities; its rows are the tokens.
    pub dropout: Dropout,
}

/// Where the gradients of the parameters are added; `None` for what is not wanted.
#[derive(Debug)]
pub struct Grads<'a> {
    /// Gradient of the projections' bias, [3 heads d].
    pub bias: Option<&'a mut [f32]>,
    /// Gradient of the relative bias, [heads, 2 n - 1].
    pub relative: Option<&'a mut [f32]>,
}

/// Calls `$f::<N>` with N = the number of vectors that hold a head's columns.
macro_rules! by_width {
    ($head_dim:expr, $f:ident($($arg:expr),* $(,)?)) => {
        match $head_dim.div_ceil(LANES) {
            1 => $f::<1>($($arg),*),
            2 => $f::<2>($($arg),*),
            3 | 4 => $f::<4>($($arg),*),
            _ => $f::<8>($($arg),*),
        }
    };
}

/// context = attention(qkv), for `qkv` [tokens, 3 heads d] whose rows hold all heads' q, then k,
/// then v, and `context` [tokens, heads d]. `lse` [heads, tokens] receives log sum_j exp(S_ij), which
/// [`attend_backward`] needs.
///
/// # Panics
/// If the lengths do not fit together, or a sentence is longer than `relative` allows.
pub fn attend(
    shape: &Shape<'_>,
    inputs: &Inputs<'_>,
    qkv: &[f32],
    context: &mut [f32],
    lse: &mut [f32],
) {
    let plan = Plan::new(shape, inputs);
    assert_eq!(qkv.len(), plan.tokens * 3 * plan.width, "qkv");
    assert_eq!(context.len(), plan.tokens * plan.width, "context");
    assert_eq!(lse.len(), plan.tokens * shape.heads, "lse");
    let context = Shared::new(context);
    let lse = Shared::new(lse);
    plan.units().for_each(|unit| {
        by_width!(
            plan.head_dim,
            forward_unit(&plan, inputs, unit, qkv, &context, &lse)
        );
    });
}

/// The backward pass of [`attend`]: replaces `qkv` by its gradient, given that of the context and
/// what the forward pass left in `lse`. `qkv` must be as the forward pass read it.
///
/// With dP = mask (d_context v^T) / (1 - p) and D_i = sum_j P_ij dP_ij:
/// dS = P (dP - D), dq = dS k / sqrt(d), dk = dS^T q / sqrt(d), dv = dropout(P)^T d_context;
/// the bias of the projections gets the sums of these over tokens, the relative bias the sums of dS
/// over all i, j of equal j - i.
///
/// # Panics
/// If the lengths do not fit together, or a sentence is longer than `relative` allows.
pub fn attend_backward(
    shape: &Shape<'_>,
    inputs: &Inputs<'_>,
    qkv: &mut [f32],
    lse: &[f32],
    d_context: &[f32],
    grads: Grads<'_>,
    scratch: &mut Scratch,
) {
    let plan = Plan::new(shape, inputs);
    assert_eq!(qkv.len(), plan.tokens * 3 * plan.width, "qkv");
    assert_eq!(d_context.len(), plan.tokens * plan.width, "d_context");
    assert_eq!(lse.len(), plan.tokens * shape.heads, "lse");
    let bias_len = 3 * plan.width;
    let relative_len: usize = plan
        .groups
        .iter()
        .map(|group| shape.heads * (2 * group.longest - 1))
        .sum();
    let partials = scratch.take(plan.groups.len() * bias_len + relative_len);
    let (bias, relative) = partials.split_at_mut(plan.groups.len() * bias_len);
    {
        let qkv = Shared::new(qkv);
        let bias = Shared::new(bias);
        let relative = Shared::new(relative);
        plan.units().for_each(|unit| {
            by_width!(
                plan.head_dim,
                backward_unit(&plan, inputs, unit, &qkv, lse, d_context, &bias, &relative)
            );
        });
    }
    if let Some(out) = grads.bias {
        assert_eq!(out.len(), bias_len, "gradient of the projections' bias");
        rows::add_partials(bias, bias_len, &mut [out]);
    }
    if let Some(out) = grads.relative {
        assert_eq!(
            out.len(),
            shape.heads * plan.relative_len,
            "gradient of the relative bias"
        );
        out.par_chunks_mut(plan.relative_len)
            .enumerate()
            .for_each(|(head, out)| {
                for group in &plan.groups {
                    let len = 2 * group.longest - 1;
                    let from = plan.relative_len / 2 + 1 - group.longest;
                    let partial = &relative[group.relative + head * len..][..len];
                    for (o, &p) in out[from..].iter_mut().zip(partial) {
                        *o += p;
                    }
                }
            });
    }
}

/// Tokens of a group of sentences: the least work that a thread takes.
const GROUP: usize = 64;

/// Query rows, or rows of any product here, that are worked on together.
const ROWS: usize = 4;

/// How a batch is cut. It depends on the offsets alone.
struct Plan<'a> {
    heads: usize,
    head_dim: usize,
    /// heads d.
    width: usize,
    tokens: usize,
    offsets: &'a [usize],
    /// Columns of the relative bias, 2 n - 1, or 0 without one.
    relative_len: usize,
    groups: Vec<Group>,
}

/// Sentences that follow each other.
struct Group {
    sentences: Range<usize>,
    /// Tokens of the longest.
    longest: usize,
    /// Where the partial sums of the relative bias begin, one row of 2 longest - 1 for each head.
    relative: usize,
}

/// One head of one group.
#[derive(Clone, Copy)]
struct Unit {
    group: usize,
    head: usize,
}

impl<'a> Plan<'a> {
    fn new(shape: &Shape<'a>, inputs: &Inputs<'_>) -> Self {
        let &Shape {
            heads,
            head_dim,
            offsets,
        } = shape;
        assert!(
            (1..=256).contains(&heads),
            "{heads} heads: 1 to 256 are supported"
        );
        assert!(
            (1..=128).contains(&head_dim),
            "heads of {head_dim} columns: 1 to 128 are supported"
        );
        assert!(
            offsets.first() == Some(&0) && offsets.is_sorted(),
            "offsets do not ascend from 0"
        );
        let width = heads * head_dim;
        if let Some(bias) = inputs.bias {
            assert_eq!(bias.len(), 3 * width, "bias of the projections");
        }
        let mut groups: Vec<Group> = Vec::new();
        let (mut first, mut longest, mut relative) = (0, 0, 0);
        for end in 1..offsets.len() {
            longest = longest.max(offsets[end] - offsets[end - 1]);
            let tokens = offsets[end] - offsets[first];
            if tokens >= GROUP || (end + 1 == offsets.len() && tokens > 0) {
                groups.push(Group {
                    sentences: first..end,
                    longest,
                    relative,
                });
                relative += heads * (2 * longest - 1);
                (first, longest) = (end, 0);
            }
        }
        let relative_len = inputs.relative.map_or(0, |relative| {
            let len = relative.len() / heads;
            assert!(
                len % 2 == 1 && len * heads == relative.len(),
                "relative bias is not [heads, 2 n - 1]"
            );
            let longest = groups.iter().map(|group| group.longest).max().unwrap_or(0);
            assert!(
                2 * longest <= len + 1,
                "a sentence of {longest} tokens is beyond the relative bias"
            );
            len
        });
        Self {
            heads,
            head_dim,
            width,
            tokens: offsets[offsets.len() - 1],
            offsets,
            relative_len,
            groups,
        }
    }

    fn units(&self) -> impl ParallelIterator<Item = Unit> {
        let heads = self.heads;
        (0..self.groups.len() * heads)
            .into_par_iter()
            .map(move |i| Unit {
                group: i / heads,
                head: i % heads,
            })
    }
}

/// A slice that units write to side by side: rows are cut by group and columns by head, which safe
/// splitting cannot express.
struct Shared<'a> {
    start: *mut f32,
    len: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: a `Shared` hands out parts of a mutably borrowed slice of f32, which may go to other
// threads; the caller of `part` answers for the parts being disjoint.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    fn new(slice: &'a mut [f32]) -> Self {
        Self {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            borrow: PhantomData,
        }
    }

    /// # Safety
    /// No part that is in use may overlap another.
    #[inline(always)]
    #[expect(
        clippy::mut_from_ref,
        reason = "the slice is borrowed mutably, and parts are disjoint"
    )]
    unsafe fn part(&self, from: usize, len: usize) -> &mut [f32] {
        assert!(
            from <= self.len && len <= self.len - from,
            "{len} values from {from} of {}",
            self.len
        );
        // SAFETY: in bounds by the assertion, alone by the caller's word.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(from), len) }
    }
}

thread_local! {
    /// Working memory of one head of one sentence, kept from call to call.
    static WORK: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Runs `f` on at least `len` values of this thread's working memory.
fn with_work(len: usize, f: impl FnOnce(&mut [f32])) {
    WORK.with_borrow_mut(|work| {
        if work.len() < len {
            work.resize(len, 0.0);
        }
        f(&mut work[..len]);
    });
}

/// Cuts the first `len` values off `rest`.
#[inline(always)]
fn cut<'a>(rest: &mut &'a mut [f32], len: usize) -> &'a mut [f32] {
    let (head, tail) = std::mem::take(rest).split_at_mut(len);
    *rest = tail;
    head
}

/// The working memory of a sentence of `l` tokens with heads of N vectors. Rows of queries are
/// filled up to a multiple of ROWS and keys to a multiple of LANES, with zeros.
#[derive(Clone, Copy)]
struct Sizes {
    l: usize,
    /// l rounded up to whole blocks of queries.
    lq: usize,
    /// l rounded up to whole vectors of keys.
    lk: usize,
    /// Columns of a head, rounded up to whole vectors.
    d: usize,
}

impl Sizes {
    #[inline(always)]
    fn new<const N: usize>(l: usize) -> Self {
        Self {
            l,
            lq: l.next_multiple_of(ROWS),
            lk: l.next_multiple_of(LANES),
            d: N * LANES,
        }
    }

    /// q, k^T, v, and one block of scores.
    fn forward(&self) -> usize {
        self.lq * self.d + 2 * self.lk * self.d + ROWS * self.lk
    }

    /// q, k, k^T, v^T, d_context, and two matrices of scores.
    fn backward(&self) -> usize {
        2 * self.lq * self.d + 3 * self.lk * self.d + 2 * self.lq * self.lk
    }
}

fn forward_unit<const N: usize>(
    plan: &Plan<'_>,
    inputs: &Inputs<'_>,
    unit: Unit,
    qkv: &[f32],
    context: &Shared<'_>,
    lse: &Shared<'_>,
) {
    let longest = plan.groups[unit.group].longest;
    with_work(Sizes::new::<N>(longest).forward(), |work| {
        forward_group::<N>(plan, inputs, unit, qkv, context, lse, work);
    });
}

#[expect(clippy::too_many_arguments, reason = "each is a tensor of the formula")]
fn backward_unit<const N: usize>(
    plan: &Plan<'_>,
    inputs: &Inputs<'_>,
    unit: Unit,
    qkv: &Shared<'_>,
    lse: &[f32],
    d_context: &[f32],
    bias: &Shared<'_>,
    relative: &Shared<'_>,
) {
    let longest = plan.groups[unit.group].longest;
    with_work(Sizes::new::<N>(longest).backward(), |work| {
        backward_group::<N>(
            plan, inputs, unit, qkv, lse, d_context, bias, relative, work,
        );
    });
}

simd_fn!(fn forward_group[N](
    plan: &Plan<'_>, inputs: &Inputs<'_>, unit: Unit, qkv: &[f32],
    context: &Shared<'_>, lse: &Shared<'_>, work: &mut [f32],
) = forward_body);

simd_fn!(fn backward_group[N](
    plan: &Plan<'_>, inputs: &Inputs<'_>, unit: Unit, qkv: &Shared<'_>, lse: &[f32],
    d_context: &[f32], bias: &Shared<'_>, relative: &Shared<'_>, work: &mut [f32],
) = backward_body);

#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "each is a tensor of the formula")]
fn forward_body<S: Simd, const N: usize>(
    s: S,
    plan: &Plan<'_>,
    inputs: &Inputs<'_>,
    unit: Unit,
    qkv: &[f32],
    context: &Shared<'_>,
    lse: &Shared<'_>,
    work: &mut [f32],
) {
    let head = Head::new(plan, inputs, unit.head);
    for sentence in plan.groups[unit.group].sentences.clone() {
        let tokens = plan.offsets[sentence]..plan.offsets[sentence + 1];
        let z = Sizes::new::<N>(tokens.len());
        let mut rest = &mut *work;
        let q = cut(&mut rest, z.lq * z.d);
        let kt = cut(&mut rest, z.lk * z.d);
        let v = cut(&mut rest, z.lk * z.d);
        let scores = cut(&mut rest, ROWS * z.lk);
        for (i, t) in tokens.clone().enumerate() {
            let row = &qkv[t * 3 * plan.width..][..3 * plan.width];
            head.read_row::<S, N>(s, row, 0, s.splat(head.scale), &mut q[i * z.d..][..z.d]);
            head.read_row::<S, N>(s, row, 2, s.splat(1.0), &mut v[i * z.d..][..z.d]);
        }
        q[z.l * z.d..].fill(0.0);
        transpose::<S, N>(s, z, kt, |s, i, out| {
            let row = &qkv[(tokens.start + i) * 3 * plan.width..][..3 * plan.width];
            head.read_row::<S, N>(s, row, 1, s.splat(1.0), out);
        });
        // SAFETY: only this unit writes this head's values for these tokens.
        let lse = unsafe { lse.part(unit.head * plan.tokens + tokens.start, z.l) };
        let mut i = 0;
        while i < z.l {
            outer::<S>(s, z, &q[i * z.d..][..ROWS * z.d], kt, scores);
            let count = ROWS.min(z.l - i);
            for r in 0..count {
                lse[i + r] = softmax(
                    s,
                    z.l,
                    head.relative_row(i + r),
                    &mut scores[r * z.lk..][..z.lk],
                );
            }
            head.drop(s, inputs, tokens.start + i, z, scores);
            let mut acc = [[s.zero(); N]; ROWS];
            weighted_rows(s, scores, z.lk, 1, z.l, v, &mut acc);
            for (r, acc) in acc.iter().take(count).enumerate() {
                let at = (tokens.start + i + r) * plan.width + head.column;
                // SAFETY: only this unit writes this head's columns of these rows.
                let out = unsafe { context.part(at, plan.head_dim) };
                write_row(s, acc, out);
            }
            i += ROWS;
        }
    }
}

#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "each is a tensor of the formula")]
fn backward_body<S: Simd, const N: usize>(
    s: S,
    plan: &Plan<'_>,
    inputs: &Inputs<'_>,
    unit: Unit,
    qkv: &Shared<'_>,
    lse: &[f32],
    d_context: &[f32],
    bias: &Shared<'_>,
    relative: &Shared<'_>,
    work: &mut [f32],
) {
    let head = Head::new(plan, inputs, unit.head);
    let group = &plan.groups[unit.group];
    let relative_len = 2 * group.longest - 1;
    // SAFETY: each unit has its own row of the partial sums.
    let d_relative =
        unsafe { relative.part(group.relative + unit.head * relative_len, relative_len) };
    d_relative.fill(0.0);
    let mut d_bias = [[s.zero(); N]; 3];
    for sentence in group.sentences.clone() {
        let tokens = plan.offsets[sentence]..plan.offsets[sentence + 1];
        let z = Sizes::new::<N>(tokens.len());
        let mut rest = &mut *work;
        let q = cut(&mut rest, z.lq * z.d);
        let d_out = cut(&mut rest, z.lq * z.d);
        let k = cut(&mut rest, z.lk * z.d);
        let kt = cut(&mut rest, z.lk * z.d);
        let vt = cut(&mut rest, z.lk * z.d);
        let p = cut(&mut rest, z.lq * z.lk);
        let ds = cut(&mut rest, z.lq * z.lk);
        // SAFETY: for this part, as for those below: only this unit reads or writes this head's
        // columns of these rows, and each part ends its life before the next is asked for.
        let part = |t: usize, which: usize| unsafe {
            qkv.part(
                t * 3 * plan.width + which * plan.width + head.column,
                plan.head_dim,
            )
        };
        for (i, t) in tokens.clone().enumerate() {
            head.read::<S, N>(
                s,
                part(t, 0),
                0,
                s.splat(head.scale),
                &mut q[i * z.d..][..z.d],
            );
            head.read::<S, N>(s, part(t, 1), 1, s.splat(1.0), &mut k[i * z.d..][..z.d]);
            let from = &d_context[t * plan.width + head.column..][..plan.head_dim];
            copy_row::<S, N>(s, from, &mut d_out[i * z.d..][..z.d]);
        }
        q[z.l * z.d..].fill(0.0);
        d_out[z.l * z.d..].fill(0.0);
        transpose::<S, N>(s, z, kt, |_, i, out| {
            out.copy_from_slice(&k[i * z.d..][..z.d])
        });
        transpose::<S, N>(s, z, vt, |s, i, out| {
            head.read::<S, N>(s, part(tokens.start + i, 2), 2, s.splat(1.0), out);
        });
        let mut i = 0;
        while i < z.l {
            let p = &mut p[i * z.lk..][..ROWS * z.lk];
            let ds = &mut ds[i * z.lk..][..ROWS * z.lk];
            outer::<S>(s, z, &q[i * z.d..][..ROWS * z.d], kt, p);
            outer::<S>(s, z, &d_out[i * z.d..][..ROWS * z.d], vt, ds);
            head.drop(s, inputs, tokens.start + i, z, ds);
            let count = ROWS.min(z.l - i);
            for r in 0..count {
                let row = r * z.lk..(r + 1) * z.lk;
                let lse = lse[unit.head * plan.tokens + tokens.start + i + r];
                softmax_backward(
                    s,
                    z.l,
                    head.relative_row(i + r),
                    lse,
                    &mut p[row.clone()],
                    &mut ds[row.clone()],
                );
                add_to(
                    s,
                    &ds[row][..z.l],
                    &mut d_relative[group.longest - 1 - i - r..][..z.l],
                );
            }
            head.drop(s, inputs, tokens.start + i, z, p);
            let mut acc = [[s.zero(); N]; ROWS];
            weighted_rows(s, ds, z.lk, 1, z.l, k, &mut acc);
            for (r, acc) in acc.iter_mut().take(count).enumerate() {
                for (v, sum) in acc.iter_mut().zip(&mut d_bias[0]) {
                    *v = s.mul(*v, s.splat(head.scale));
                    *sum = s.add(*sum, *v);
                }
                write_row(s, acc, part(tokens.start + i + r, 0));
            }
            i += ROWS;
        }
        let mut j = 0;
        while j < z.l {
            let count = ROWS.min(z.l - j);
            for (which, coefficients, rows) in [(1, &*ds, &*q), (2, &*p, &*d_out)] {
                let mut acc = [[s.zero(); N]; ROWS];
                weighted_rows(s, &coefficients[j..], 1, z.lk, z.l, rows, &mut acc);
                for (r, acc) in acc.iter().take(count).enumerate() {
                    for (v, sum) in acc.iter().zip(&mut d_bias[which]) {
                        *sum = s.add(*sum, *v);
                    }
                    write_row(s, acc, part(tokens.start + j + r, which));
                }
            }
            j += ROWS;
        }
    }
    for (which, sum) in d_bias.iter().enumerate() {
        let at = (unit.group * 3 + which) * plan.width + head.column;
        // SAFETY: each unit has its own columns of its group's partial sums.
        write_row(s, sum, unsafe { bias.part(at, plan.head_dim) });
    }
}

/// What a head reads besides the tokens.
struct Head<'a> {
    index: usize,
    /// Its first column among the heads'.
    column: usize,
    head_dim: usize,
    width: usize,
    scale: f32,
    bias: Option<&'a [f32]>,
    relative: Option<&'a [f32]>,
}

impl<'a> Head<'a> {
    #[inline(always)]
    fn new(plan: &Plan<'_>, inputs: &Inputs<'a>, index: usize) -> Self {
        Self {
            index,
            column: index * plan.head_dim,
            head_dim: plan.head_dim,
            width: plan.width,
            scale: 1.0 / (plan.head_dim as f32).sqrt(),
            bias: inputs.bias,
            relative: inputs
                .relative
                .map(|relative| &relative[index * plan.relative_len..][..plan.relative_len]),
        }
    }

    /// The relative bias of query `i` for the keys from 0 on.
    #[inline(always)]
    fn relative_row(&self, i: usize) -> Option<&'a [f32]> {
        self.relative
            .map(|relative| &relative[relative.len() / 2 - i..])
    }

    /// out = scale (x + bias), for q, k or v (`which` = 0, 1, 2) in a whole row of qkv.
    #[inline(always)]
    fn read_row<S: Simd, const N: usize>(
        &self,
        s: S,
        row: &[f32],
        which: usize,
        scale: S::F,
        out: &mut [f32],
    ) {
        let from = &row[which * self.width + self.column..][..self.head_dim];
        self.read::<S, N>(s, from, which, scale, out);
    }

    /// out = scale (x + bias), for this head's part of q, k or v; beyond its end, zeros.
    #[inline(always)]
    fn read<S: Simd, const N: usize>(
        &self,
        s: S,
        from: &[f32],
        which: usize,
        scale: S::F,
        out: &mut [f32],
    ) {
        let bias = self
            .bias
            .map(|bias| &bias[which * self.width + self.column..][..self.head_dim]);
        for n in 0..N {
            let i = n * LANES;
            let mut v = s.zero();
            if i < self.head_dim {
                v = s.ld(from, i);
                if let Some(bias) = bias {
                    v = s.add(v, s.ld(bias, i));
                }
            }
            s.st(out, i, s.mul(v, scale));
        }
    }

    /// Dropout of a block of ROWS rows of probabilities that begins at token `token`.
    ///
    /// Word w of a Philox block belongs to row w of the block: the counter's column is head and key,
    /// its row the block's first token.
    #[inline(always)]
    fn drop<S: Simd>(&self, s: S, inputs: &Inputs<'_>, token: usize, z: Sizes, block: &mut [f32]) {
        if inputs.dropout.is_none() {
            return;
        }
        let random = Row::new(s, &inputs.dropout, token);
        let mut j = 0;
        while j < z.lk {
            let words = random.numbers(s, ((self.index as u32) << 24) | j as u32);
            for (r, word) in words.into_iter().enumerate() {
                let v = random.keep(s, word, s.ld(block, r * z.lk + j));
                s.st(block, r * z.lk + j, v);
            }
            j += LANES;
        }
    }
}

/// to = the first N vectors of `from`, zeros beyond its end.
#[inline(always)]
fn copy_row<S: Simd, const N: usize>(s: S, from: &[f32], to: &mut [f32]) {
    for n in 0..N {
        let i = n * LANES;
        let v = if i < from.len() {
            s.ld(from, i)
        } else {
            s.zero()
        };
        s.st(to, i, v);
    }
}

/// Writes as many values of `row` as `to` holds.
#[inline(always)]
fn write_row<S: Simd, const N: usize>(s: S, row: &[S::F; N], to: &mut [f32]) {
    for (n, &v) in row.iter().enumerate() {
        if n * LANES < to.len() {
            s.st(to, n * LANES, v);
        }
    }
}

/// to += from.
#[inline(always)]
fn add_to<S: Simd>(s: S, from: &[f32], to: &mut [f32]) {
    let mut i = 0;
    while i < to.len() {
        let v = s.add(s.ld(to, i), s.ld(from, i));
        s.st(to, i, v);
        i += LANES;
    }
}

/// to [d, lk] = the transpose of the l rows that `read` writes, with zeros for the keys beyond l.
#[inline(always)]
fn transpose<S: Simd, const N: usize>(
    s: S,
    z: Sizes,
    to: &mut [f32],
    read: impl Fn(S, usize, &mut [f32]),
) {
    let mut j = 0;
    while j < z.lk {
        // Sixteen keys at a time, through a tile that stays in the first-level cache.
        let mut tile = [[[0.0f32; LANES]; N]; LANES];
        for (r, row) in tile.iter_mut().enumerate().take(z.l - j) {
            read(s, j + r, row.as_flattened_mut());
        }
        for n in 0..N {
            for c in 0..LANES {
                let mut column = [0.0; LANES];
                for r in 0..LANES {
                    column[r] = tile[r][n][c];
                }
                s.st(to, (n * LANES + c) * z.lk + j, s.load(&column));
            }
        }
        j += LANES;
    }
}

/// out [ROWS, lk] = a bt, for `a` [ROWS, d] and `bt` [d, lk].
#[inline(always)]
fn outer<S: Simd>(s: S, z: Sizes, a: &[f32], bt: &[f32], out: &mut [f32]) {
    let d = z.d;
    let a: [&[f32]; ROWS] = std::array::from_fn(|r| &a[r * d..][..d]);
    let mut j = 0;
    while j < z.lk {
        if z.lk - j >= 2 * LANES {
            let mut acc = [[s.zero(); 2]; ROWS];
            for c in 0..d {
                let b = &bt[c * z.lk + j..][..2 * LANES];
                let b = [s.ld(b, 0), s.ld(b, LANES)];
                for r in 0..ROWS {
                    let x = s.splat(a[r][c]);
                    acc[r][0] = s.fma(x, b[0], acc[r][0]);
                    acc[r][1] = s.fma(x, b[1], acc[r][1]);
                }
            }
            for r in 0..ROWS {
                s.st(out, r * z.lk + j, acc[r][0]);
                s.st(out, r * z.lk + j + LANES, acc[r][1]);
            }
            j += 2 * LANES;
        } else {
            let mut acc = [s.zero(); ROWS];
            for c in 0..d {
                let b = s.ld(bt, c * z.lk + j);
                for r in 0..ROWS {
                    acc[r] = s.fma(s.splat(a[r][c]), b, acc[r]);
                }
            }
            for r in 0..ROWS {
                s.st(out, r * z.lk + j, acc[r]);
            }
            j += LANES;
        }
    }
}

/// acc\[r\] += sum over t < n of c[r row + t term] x\[t\], for rows x\[t\] of N vectors.
#[inline(always)]
fn weighted_rows<S: Simd, const N: usize>(
    s: S,
    c: &[f32],
    row: usize,
    term: usize,
    n: usize,
    x: &[f32],
    acc: &mut [[S::F; N]; ROWS],
) {
    let mut sums = *acc;
    let (x, _) = x.as_chunks::<LANES>();
    let (x, _) = x.as_chunks::<N>();
    for (t, x) in x[..n].iter().enumerate() {
        let mut v = [s.zero(); N];
        for (v, x) in v.iter_mut().zip(x) {
            *v = s.load(x);
        }
        for r in 0..ROWS {
            let weight = s.splat(c[r * row + t * term]);
            for i in 0..N {
                sums[r][i] = s.fma(weight, v[i], sums[r][i]);
            }
        }
    }
    *acc = sums;
}

/// row = softmax(row + relative) over its first `l` values, zeros beyond; returns log sum exp.
#[inline(always)]
fn softmax<S: Simd>(s: S, l: usize, relative: Option<&[f32]>, row: &mut [f32]) -> f32 {
    let lowest = s.splat(f32::NEG_INFINITY);
    let mut largest = lowest;
    let mut j = 0;
    while j < l {
        let mut v = s.ld(row, j);
        if let Some(relative) = relative {
            v = s.add(v, s.ld(relative, j));
        }
        let v = s.first(v, l - j, lowest);
        s.st(row, j, v);
        largest = s.max(v, largest);
        j += LANES;
    }
    let largest = s.largest(largest);
    let mut sum = s.zero();
    let mut j = 0;
    while j < l {
        let v = exp(s, s.sub(s.ld(row, j), s.splat(largest)));
        let v = s.first(v, l - j, s.zero());
        s.st(row, j, v);
        sum = s.add(sum, v);
        j += LANES;
    }
    let sum = s.sum(sum);
    let scale = s.splat(1.0 / sum);
    let mut j = 0;
    while j < l {
        let v = s.mul(s.ld(row, j), scale);
        s.st(row, j, v);
        j += LANES;
    }
    largest + sum.ln()
}

/// From scores in `p` and gradients of the probabilities in `d`: p = exp(p + relative - lse), and
/// d = p (d - sum p d).
#[inline(always)]
fn softmax_backward<S: Simd>(
    s: S,
    l: usize,
    relative: Option<&[f32]>,
    lse: f32,
    p: &mut [f32],
    d: &mut [f32],
) {
    let mut sum = s.zero();
    let mut j = 0;
    while j < l {
        let mut v = s.sub(s.ld(p, j), s.splat(lse));
        if let Some(relative) = relative {
            v = s.add(v, s.ld(relative, j));
        }
        let v = s.first(exp(s, v), l - j, s.zero());
        s.st(p, j, v);
        sum = s.fma(v, s.ld(d, j), sum);
        j += LANES;
    }
    let mean = s.splat(s.sum(sum));
    let mut j = 0;
    while j < l {
        let v = s.mul(s.ld(p, j), s.sub(s.ld(d, j), mean));
        s.st(d, j, v);
        j += LANES;
    }
}

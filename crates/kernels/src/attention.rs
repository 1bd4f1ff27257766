//! Attention within each sentence of a packed batch.
//!
//! For every sentence and head, with q, k, v the head's columns of a fused projection plus bias, q and k rotated
//! by their positions where there is a [`Rotary`]:
//!
//! S = q k^T / sqrt(d) + relative bias, P = softmax(S), context = dropout(P) v
//!
//! (Vaswani et al., 2017; the relative bias is that of T5, which depends on j - i alone). With a window, query i
//! sees the keys j of |i - j| <= window, and no other score is computed. The
//! forward pass keeps only the logarithm of each row's sum of exponentials; the backward pass makes
//! P again from it (Dao et al., "FlashAttention", 2022), so the memory kept is linear in the number of
//! tokens. Of one head at a time, the passes have the scores of 32 queries.

pub mod one;

use std::{cell::RefCell, marker::PhantomData, ops::Range};

use rayon::prelude::*;

use crate::{
    dropout::{Dropout, Row},
    math::exp,
    profile::{Part, time},
    rows::{self, Scratch},
    simd::{LANES, Simd, simd_fn},
};

/// Sizes of an attention layer, and the sentences of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Shape<'a> {
    /// Heads, 1 to 256.
    pub heads: usize,
    /// Columns of a head, d: 1 to 128. A multiple of 16 is fastest.
    pub head_dim: usize,
    /// Start of each sentence, from 0, and last the number of tokens, [sentences + 1].
    pub offsets: &'a [usize],
}

/// Parameters and dropout of an attention layer.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// Bias of the projections, [3 heads d], added while `qkv` is read.
    pub bias: Option<&'a [f32]>,
    /// Relative bias [heads, 2 n - 1] for sentences of up to n tokens: column j - i + n - 1 of a
    /// head's row is added to the score of query i and key j.
    pub relative: Option<&'a [f32]>,
    /// Rotation of queries and keys.
    pub rotary: Option<&'a Rotary>,
    /// The largest distance of a key from its query, without end if none is given; not together with `relative`.
    pub window: Option<usize>,
    /// Dropout of the probabilities; its rows are the tokens.
    pub dropout: Dropout<'a>,
}

/// Rotary positions (Su et al. 2021, RoFormer): columns c and c + d / 2 of a query or key at position p are turned
/// by the angle p theta^(-2 c / d).
#[derive(Clone, Debug)]
pub struct Rotary {
    half: usize,
    /// For each position d / 2 cosines, then d / 2 sines.
    table: Vec<f32>,
}

impl Rotary {
    /// The angles of positions below `positions` for heads of `head_dim` columns, an even number.
    ///
    /// # Panics
    /// If `head_dim` is odd.
    pub fn new(theta: f64, head_dim: usize, positions: usize) -> Self {
        assert!(head_dim.is_multiple_of(2), "heads of {head_dim} columns");
        let half = head_dim / 2;
        // The rounding of each step to f32 is upstream's.
        let frequencies: Vec<f32> = (0..half)
            .map(|c| theta.powf(2.0 * c as f64 / head_dim as f64) as f32)
            .map(|power| 1.0 / power)
            .collect();
        let mut table = Vec::with_capacity(positions * head_dim);
        for position in 0..positions {
            let angles = frequencies.iter().map(|f| f64::from(position as f32 * f));
            table.extend(angles.clone().map(|angle| angle.cos() as f32));
            table.extend(angles.map(|angle| angle.sin() as f32));
        }
        Self { half, table }
    }

    /// For each position d / 2 cosines, then d / 2 sines.
    pub fn table(&self) -> &[f32] {
        &self.table
    }

    /// The number of positions.
    pub fn positions(&self) -> usize {
        self.table.len() / (2 * self.half)
    }

    /// Turns the columns of a query or key at `position`, or turns them back.
    #[inline(always)]
    fn turn(&self, position: usize, row: &mut [f32], back: bool) {
        let half = self.half;
        let (cos, sin) = self.table[position * 2 * half..][..2 * half].split_at(half);
        let (a, b) = row[..2 * half].split_at_mut(half);
        let sign = if back { -1.0 } else { 1.0 };
        for c in 0..half {
            let (x, y, sin) = (a[c], b[c], sign * sin[c]);
            a[c] = x * cos[c] - y * sin;
            b[c] = y * cos[c] + x * sin;
        }
    }
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

pub(crate) use by_width;

/// Computes context = attention(qkv), for `qkv` [tokens, 3 heads d] whose rows hold all heads' q, then k,
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
    let _timer = time(Part::Attention);
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

/// Backward pass of [`attend`]: replaces `qkv` by its gradient, given the gradient of the context and
/// the `lse` of the forward pass. `qkv` must be as the forward pass read it.
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
    let _timer = time(Part::Attention);
    let plan = Plan::new(shape, inputs);
    assert_eq!(qkv.len(), plan.tokens * 3 * plan.width, "qkv");
    assert_eq!(d_context.len(), plan.tokens * plan.width, "d_context");
    assert_eq!(lse.len(), plan.tokens * shape.heads, "lse");
    let qkv = Shared::new(qkv);
    plan.backward(grads, scratch, |unit, sums| {
        by_width!(
            plan.head_dim,
            backward_unit(&plan, inputs, unit, &qkv, lse, d_context, sums)
        );
    });
}

/// Minimum tokens of a group of sentences, which is the unit of work of a thread.
const GROUP: usize = 64;

/// Rows of a block: query rows, or rows of any product here, that are computed together.
const ROWS: usize = 4;

/// Queries whose scores are computed at once, so that keys and values pass by once for all of them.
const TILE: usize = 8 * ROWS;

/// Vectors of keys that stay in the cache while a tile passes by.
const CHUNK: usize = 4;

/// How a batch is cut. It depends on the offsets alone.
struct Plan<'a> {
    heads: usize,
    head_dim: usize,
    /// Columns of all heads together, heads d.
    width: usize,
    tokens: usize,
    offsets: &'a [usize],
    /// Columns of the relative bias, 2 n - 1, or 0 without one.
    relative_len: usize,
    groups: Vec<Group>,
}

/// Consecutive sentences.
struct Group {
    sentences: Range<usize>,
    /// Tokens of the longest sentence.
    longest: usize,
    /// Start of the partial sums of the relative bias, one row of 2 longest - 1 for each head.
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
        assert!(
            inputs.window.is_none() || inputs.relative.is_none(),
            "a window and a relative bias"
        );
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
        if let Some(rotary) = inputs.rotary {
            let longest = groups.iter().map(|group| group.longest).max().unwrap_or(0);
            assert!(
                2 * rotary.half == head_dim && longest * head_dim <= rotary.table.len(),
                "no rotations for {longest} positions of {head_dim} columns"
            );
        }
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

    /// Runs the backward pass of each unit, and adds the units' sums to the gradients of the parameters.
    fn backward(
        &self,
        grads: Grads<'_>,
        scratch: &mut Scratch,
        of_unit: impl Fn(Unit, &Sums<'_>) + Sync,
    ) {
        let bias_len = 3 * self.width;
        let of_group = |group: &Group| self.heads * (2 * group.longest - 1);
        let relative_len: usize = self.groups.iter().map(of_group).sum();
        let partials = scratch.take(self.groups.len() * bias_len + relative_len);
        let (bias, relative) = partials.split_at_mut(self.groups.len() * bias_len);
        {
            let sums = Sums {
                bias: Shared::new(bias),
                relative: Shared::new(relative),
            };
            self.units().for_each(|unit| of_unit(unit, &sums));
        }
        if let Some(out) = grads.bias {
            assert_eq!(out.len(), bias_len, "gradient of the projections' bias");
            rows::add_partials(bias, bias_len, &mut [out]);
        }
        if let Some(out) = grads.relative {
            self.add_relative(relative, out);
        }
    }

    /// Adds the groups' partial sums to the gradient of the relative bias.
    fn add_relative(&self, partials: &[f32], out: &mut [f32]) {
        assert_eq!(
            out.len(),
            self.heads * self.relative_len,
            "gradient of the relative bias"
        );
        out.par_chunks_mut(self.relative_len)
            .enumerate()
            .for_each(|(head, out)| {
                for group in &self.groups {
                    let len = 2 * group.longest - 1;
                    let from = self.relative_len / 2 + 1 - group.longest;
                    let partial = &partials[group.relative + head * len..][..len];
                    for (o, &p) in out[from..].iter_mut().zip(partial) {
                        *o += p;
                    }
                }
            });
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

/// Slice to which units write concurrently: rows are divided by group and columns by head, which safe
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
        // SAFETY: in bounds by the assertion; the caller promises that no other part overlaps.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(from), len) }
    }
}

/// Partial sums of the gradients of an attention layer's parameters.
struct Sums<'a> {
    /// A row for each group, [groups, 3 heads d].
    bias: Shared<'a>,
    /// A row for each head of each group.
    relative: Shared<'a>,
}

impl Sums<'_> {
    /// The unit's row of the relative bias' gradient, zeroed.
    ///
    /// # Safety
    /// Only one caller may have a unit's row at a time.
    #[inline(always)]
    #[expect(clippy::mut_from_ref, reason = "as for `Shared::part`")]
    unsafe fn relative(&self, group: &Group, unit: Unit) -> &mut [f32] {
        let len = 2 * group.longest - 1;
        // SAFETY: each unit has its own row.
        let row = unsafe { self.relative.part(group.relative + unit.head * len, len) };
        row.fill(0.0);
        row
    }

    /// Writes the sums of this unit's columns of q, k and v.
    #[inline(always)]
    fn write_bias<S: Simd, const N: usize>(
        &self,
        s: S,
        plan: &Plan<'_>,
        unit: Unit,
        sums: &[[S::F; N]; 3],
    ) {
        for (which, sum) in sums.iter().enumerate() {
            let at = (unit.group * 3 + which) * plan.width + unit.head * plan.head_dim;
            // SAFETY: each unit has its own columns of its group's partial sums.
            write_row(s, sum, unsafe { self.bias.part(at, plan.head_dim) });
        }
    }
}

/// Sixteen adjacent values.
type Lanes = [f32; LANES];

thread_local! {
    /// Working memory for one head of one sentence, reused from call to call.
    static WORK: RefCell<Vec<Lanes>> = const { RefCell::new(Vec::new()) };
}

/// Runs `f` on `len` vectors of this thread's working memory.
fn with_work(len: usize, f: impl FnOnce(&mut [Lanes])) {
    WORK.with_borrow_mut(|work| {
        if work.len() < len {
            work.resize(len, [0.0; LANES]);
        }
        f(&mut work[..len]);
    });
}

/// Cuts the first `len` vectors off `rest`.
#[inline(always)]
fn cut<'a>(rest: &mut &'a mut [Lanes], len: usize) -> &'a mut [Lanes] {
    let (head, tail) = std::mem::take(rest).split_at_mut(len);
    *rest = tail;
    head
}

/// Sizes of the working memory for a sentence of `l` tokens with heads of N vectors. Queries are padded
/// with zeros to a multiple of ROWS, and keys to a multiple of LANES.
#[derive(Clone, Copy)]
struct Sizes {
    l: usize,
    /// Queries, with padding.
    lq: usize,
    /// Keys, with padding.
    lk: usize,
    /// Vectors of all keys, lk / LANES.
    vk: usize,
    /// Vectors from one row of scores to the next, an odd number: rows a power of two apart would share a few places
    /// of the cache.
    stride: usize,
}

impl Sizes {
    #[inline(always)]
    fn new(l: usize) -> Self {
        Self {
            l,
            lq: l.next_multiple_of(ROWS),
            lk: l.next_multiple_of(LANES),
            vk: l.div_ceil(LANES),
            stride: l.div_ceil(LANES) | 1,
        }
    }

    /// Vectors for q, k, k^T, v, the scores of some queries, and their sums of values.
    fn forward<const N: usize>(&self) -> usize {
        (self.lq + 3 * self.lk) * N + TILE * (self.stride + N)
    }

    /// Vectors for q, k, v, k^T, v^T, d_context, dk, dv, two matrices of scores, and sums of keys.
    fn backward<const N: usize>(&self) -> usize {
        (2 * self.lq + 6 * self.lk) * N + TILE * (2 * self.stride + N)
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
    with_work(Sizes::new(longest).forward::<N>(), |work| {
        forward_group::<N>(plan, inputs, unit, qkv, context, lse, work);
    });
}

fn backward_unit<const N: usize>(
    plan: &Plan<'_>,
    inputs: &Inputs<'_>,
    unit: Unit,
    qkv: &Shared<'_>,
    lse: &[f32],
    d_context: &[f32],
    sums: &Sums<'_>,
) {
    let longest = plan.groups[unit.group].longest;
    with_work(Sizes::new(longest).backward::<N>(), |work| {
        backward_group::<N>(plan, inputs, unit, qkv, lse, d_context, sums, work);
    });
}

simd_fn!(fn forward_group[N](
    plan: &Plan<'_>, inputs: &Inputs<'_>, unit: Unit, qkv: &[f32],
    context: &Shared<'_>, lse: &Shared<'_>, work: &mut [Lanes],
) = forward_body);

simd_fn!(fn backward_group[N](
    plan: &Plan<'_>, inputs: &Inputs<'_>, unit: Unit, qkv: &Shared<'_>, lse: &[f32],
    d_context: &[f32], sums: &Sums<'_>, work: &mut [Lanes],
) = backward_body);

// The bodies and what they call do no vector work in closures: LLVM may leave those out of line,
// without the instruction set of the function around them.

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
    work: &mut [Lanes],
) {
    let head = Head::new(plan, inputs, unit.head);
    let (one, scale) = (s.splat(1.0), s.splat(head.scale));
    for sentence in plan.groups[unit.group].sentences.clone() {
        let tokens = plan.offsets[sentence]..plan.offsets[sentence + 1];
        let z = Sizes::new(tokens.len());
        let mut rest = &mut *work;
        let q = cut(&mut rest, z.lq * N);
        let k = cut(&mut rest, z.lk * N);
        let kt = cut(&mut rest, z.lk * N);
        let v = cut(&mut rest, z.lk * N);
        let scores = cut(&mut rest, TILE * z.stride);
        let sums = cut(&mut rest, TILE * N);
        for (i, t) in tokens.clone().enumerate() {
            let row = &qkv[t * 3 * plan.width..][..3 * plan.width];
            let row = &row[head.column..];
            for (which, scale, to) in [(0, scale, &mut *q), (1, one, &mut *k), (2, one, &mut *v)] {
                let row = &row[which * plan.width..][..plan.head_dim];
                head.read::<S, N>(s, row, which, i, scale, &mut to[i * N..][..N]);
            }
        }
        q[z.l * N..].fill([0.0; LANES]);
        k[z.l * N..].fill([0.0; LANES]);
        transpose::<S, N>(s, z, k, kt);
        // SAFETY: only this unit writes this head's values for these tokens.
        let lse = unsafe { lse.part(unit.head * plan.tokens + tokens.start, z.l) };
        for first in (0..z.l).step_by(TILE) {
            let end = z.l.min(first + TILE);
            head.products::<S, N>(s, z, first..end, q, kt, scores);
            let mut i = first;
            while i < end {
                let keys = head.keys(i, z);
                let scores = &mut scores[(i - first) * z.stride..][..ROWS * z.stride];
                for r in 0..ROWS.min(z.l - i) {
                    let row = &mut scores[r * z.stride..][keys.clone()];
                    let seen = head.seen(i + r, i + r, z.l);
                    lse[i + r] = softmax(s, seen, keys.start, head.relative_row(i + r), row);
                }
                head.drop(s, inputs, tokens.start + i, z, &keys, scores);
                i += ROWS;
            }
            head.sums::<S, N>(s, z, first..end, scores, v, sums);
            for i in first..end {
                let sum = load_row::<S, N>(s, &sums[(i - first) * N..][..N]);
                let at = (tokens.start + i) * plan.width + head.column;
                // SAFETY: only this unit writes this head's columns of these rows.
                write_row(s, &sum, unsafe { context.part(at, plan.head_dim) });
            }
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
    sums: &Sums<'_>,
    work: &mut [Lanes],
) {
    let head = Head::new(plan, inputs, unit.head);
    let (one, scale) = (s.splat(1.0), s.splat(head.scale));
    let group = &plan.groups[unit.group];
    // SAFETY: this is the unit's one call.
    let d_relative = unsafe { sums.relative(group, unit) };
    let mut d_bias = [[s.zero(); N]; 3];
    for sentence in group.sentences.clone() {
        let tokens = plan.offsets[sentence]..plan.offsets[sentence + 1];
        let z = Sizes::new(tokens.len());
        let lse = &lse[unit.head * plan.tokens + tokens.start..][..z.l];
        let mut rest = &mut *work;
        let q = cut(&mut rest, z.lq * N);
        let d_out = cut(&mut rest, z.lq * N);
        let k = cut(&mut rest, z.lk * N);
        let v = cut(&mut rest, z.lk * N);
        let kt = cut(&mut rest, z.lk * N);
        let vt = cut(&mut rest, z.lk * N);
        let dk = cut(&mut rest, z.lk * N);
        let dv = cut(&mut rest, z.lk * N);
        let p = cut(&mut rest, TILE * z.stride);
        let ds = cut(&mut rest, TILE * z.stride);
        let dq = cut(&mut rest, TILE * N);
        for (i, t) in tokens.clone().enumerate() {
            for (which, scale, to) in [(0, scale, &mut *q), (1, one, &mut *k), (2, one, &mut *v)] {
                // SAFETY: only this unit reads or writes this head's columns of these rows.
                let row = unsafe { head.part(qkv, t, which) };
                head.read::<S, N>(s, row, which, i, scale, &mut to[i * N..][..N]);
            }
            let from = &d_context[t * plan.width + head.column..][..plan.head_dim];
            copy_row::<S, N>(s, from, &mut d_out[i * N..][..N]);
        }
        for padded in [&mut *q, &mut *d_out, &mut *k, &mut *v] {
            padded[z.l * N..].fill([0.0; LANES]);
        }
        transpose::<S, N>(s, z, k, kt);
        transpose::<S, N>(s, z, v, vt);
        dk.fill([0.0; LANES]);
        dv.fill([0.0; LANES]);
        for tile in (0..z.l).step_by(TILE) {
            let end = z.l.min(tile + TILE);
            head.products::<S, N>(s, z, tile..end, q, kt, p);
            head.products::<S, N>(s, z, tile..end, d_out, vt, ds);
            let mut i = tile;
            while i < end {
                let p = &mut p[(i - tile) * z.stride..][..ROWS * z.stride];
                let ds = &mut ds[(i - tile) * z.stride..][..ROWS * z.stride];
                let keys = head.keys(i, z);
                head.drop(s, inputs, tokens.start + i, z, &keys, ds);
                for r in 0..ROWS.min(z.l - i) {
                    let p = &mut p[r * z.stride..][keys.clone()];
                    let ds = &mut ds[r * z.stride..][keys.clone()];
                    let seen = head.seen(i + r, i + r, z.l);
                    let relative = head.relative_row(i + r);
                    softmax_backward(s, seen, keys.start, relative, lse[i + r], p, ds);
                    if relative.is_some() {
                        add_to(s, ds, &mut d_relative[group.longest - 1 - i - r..][..z.l]);
                    }
                }
                head.drop(s, inputs, tokens.start + i, z, &keys, p);
                i += ROWS;
            }
            head.sums::<S, N>(s, z, tile..end, ds, k, dq);
            for i in tile..end {
                let mut row = load_row::<S, N>(s, &dq[(i - tile) * N..][..N]);
                for v in row.iter_mut() {
                    *v = s.mul(*v, scale);
                }
                head.turn_back(s, i, &mut row);
                add_row(s, &row, &mut d_bias[0]);
                // SAFETY: only this unit reads or writes this head's columns of these rows.
                write_row(s, &row, unsafe { head.part(qkv, tokens.start + i, 0) });
            }
            let keys = head.seen(tile, end - 1, z.l);
            for (coefficients, rows, to) in [(&*ds, &*q, &mut *dk), (&*p, &*d_out, &mut *dv)] {
                let coefficients = coefficients.as_flattened();
                let lines = z.stride * LANES;
                let mut j = keys.start / ROWS * ROWS;
                while j < keys.end {
                    let seen = head.seen(j, j + ROWS - 1, z.l);
                    let queries = seen.start.max(tile)..seen.end.min(end);
                    if !queries.is_empty() {
                        let n = queries.len();
                        let weights = &coefficients[(queries.start - tile) * lines + j..];
                        let rows = &rows[queries.start * N..];
                        let sums = &mut to[j * N..][..ROWS * N];
                        add_weighted::<S, N, true>(s, weights, lines, n, rows, sums);
                    }
                    j += ROWS;
                }
            }
        }
        for (which, from) in [(1, &*dk), (2, &*dv)] {
            for j in 0..z.l {
                let mut row = load_row::<S, N>(s, &from[j * N..][..N]);
                if which == 1 {
                    head.turn_back(s, j, &mut row);
                }
                add_row(s, &row, &mut d_bias[which]);
                // SAFETY: only this unit reads or writes this head's columns of these rows.
                write_row(s, &row, unsafe { head.part(qkv, tokens.start + j, which) });
            }
        }
    }
    sums.write_bias(s, plan, unit, &d_bias);
}

/// Place and parameters of one head.
struct Head<'a> {
    index: usize,
    /// First column of this head.
    column: usize,
    head_dim: usize,
    width: usize,
    scale: f32,
    bias: Option<&'a [f32]>,
    relative: Option<&'a [f32]>,
    rotary: Option<&'a Rotary>,
    window: Option<usize>,
}

impl<'a> Head<'a> {
    #[inline(always)]
    fn new(plan: &Plan<'_>, inputs: &Inputs<'a>, index: usize) -> Self {
        let len = plan.relative_len;
        Self {
            index,
            column: index * plan.head_dim,
            head_dim: plan.head_dim,
            width: plan.width,
            scale: 1.0 / (plan.head_dim as f32).sqrt(),
            bias: inputs.bias,
            relative: inputs
                .relative
                .map(|relative| &relative[index * len..][..len]),
            rotary: inputs.rotary,
            window: inputs.window,
        }
    }

    /// The keys that queries `first` to `last` see, or the other way round.
    #[inline(always)]
    fn seen(&self, first: usize, last: usize, l: usize) -> Range<usize> {
        match self.window {
            None => 0..l,
            Some(window) => first.saturating_sub(window)..l.min(last + window + 1),
        }
    }

    /// The vectors of keys that are computed for a block of ROWS queries from `i` on: those with a key that a query
    /// of the block sees, and as many more as the sums over queries of a block of ROWS keys read, as zeros.
    #[inline(always)]
    fn keys(&self, i: usize, z: Sizes) -> Range<usize> {
        match self.window {
            None => 0..z.vk,
            Some(window) => {
                let first = i.saturating_sub(window + ROWS - 1);
                let end = i + window + 2 * ROWS - 1;
                first / LANES..end.div_ceil(LANES).min(z.vk)
            }
        }
    }

    /// Computes out = a b^T for the rows `queries` of `a` [lq, d] and the keys that each block of ROWS sees, from `bt`
    /// [vk, d]; row 0 of `out` is the first query.
    #[inline(always)]
    fn products<S: Simd, const N: usize>(
        &self,
        s: S,
        z: Sizes,
        queries: Range<usize>,
        a: &[Lanes],
        bt: &[Lanes],
        out: &mut [Lanes],
    ) {
        let last = (queries.end - 1) / ROWS * ROWS;
        let (first, end) = (self.keys(queries.start, z).start, self.keys(last, z).end);
        for chunk in (first..end).step_by(CHUNK) {
            let mut i = queries.start;
            while i < queries.end {
                let keys = self.keys(i, z);
                let keys = keys.start.max(chunk)..keys.end.min(chunk + CHUNK);
                let out = &mut out[(i - queries.start) * z.stride..][..ROWS * z.stride];
                outer::<S, N>(s, z, keys, &a[i * N..][..ROWS * N], bt, out);
                i += ROWS;
            }
        }
    }

    /// Computes for each of `queries` the sum of `rows` [lk, d] over the keys that it sees, weighed by its row of
    /// `weights`; row 0 of `weights` and `sums` [queries, d] is the first query.
    #[inline(always)]
    fn sums<S: Simd, const N: usize>(
        &self,
        s: S,
        z: Sizes,
        queries: Range<usize>,
        weights: &[Lanes],
        rows: &[Lanes],
        sums: &mut [Lanes],
    ) {
        let weights = weights.as_flattened();
        let lines = z.stride * LANES;
        sums.fill([0.0; LANES]);
        let last = (queries.end - 1) / ROWS * ROWS;
        let all = self.seen(queries.start, last + ROWS - 1, z.l);
        for chunk in all.step_by(CHUNK * LANES) {
            let mut i = queries.start;
            while i < queries.end {
                let seen = self.seen(i, i + ROWS - 1, z.l);
                let seen = seen.start.max(chunk)..seen.end.min(chunk + CHUNK * LANES);
                if !seen.is_empty() {
                    let weights = &weights[(i - queries.start) * lines + seen.start..];
                    let sums = &mut sums[(i - queries.start) * N..][..ROWS * N];
                    let rows = &rows[seen.start * N..];
                    add_weighted::<S, N, false>(s, weights, lines, seen.len(), rows, sums);
                }
                i += ROWS;
            }
        }
    }

    /// Turns the gradient of a rotated query or key back.
    #[inline(always)]
    fn turn_back<S: Simd, const N: usize>(&self, s: S, position: usize, row: &mut [S::F; N]) {
        let Some(rotary) = self.rotary else {
            return;
        };
        let mut values = [[0.0; LANES]; N];
        for n in 0..N {
            s.store(&mut values[n], row[n]);
        }
        rotary.turn(position, values.as_flattened_mut(), true);
        for n in 0..N {
            row[n] = s.load(&values[n]);
        }
    }

    /// Returns this head's q, k or v (`which` = 0, 1, 2) of a token.
    ///
    /// # Safety
    /// No other part of `qkv` in use may overlap it.
    #[inline(always)]
    #[expect(clippy::mut_from_ref, reason = "as for `Shared::part`")]
    unsafe fn part<'q>(&self, qkv: &'q Shared<'_>, token: usize, which: usize) -> &'q mut [f32] {
        // SAFETY: the caller promises that no other part in use overlaps.
        unsafe {
            qkv.part(
                (token * 3 + which) * self.width + self.column,
                self.head_dim,
            )
        }
    }

    /// Relative bias of query `i` for the keys from 0 on.
    #[inline(always)]
    fn relative_row(&self, i: usize) -> Option<&'a [f32]> {
        self.relative
            .map(|relative| &relative[relative.len() / 2 - i..])
    }

    /// out = scale (x + bias), for this head's q, k or v, q and k rotated by their position; beyond its end, zeros.
    #[inline(always)]
    fn read<S: Simd, const N: usize>(
        &self,
        s: S,
        x: &[f32],
        which: usize,
        position: usize,
        scale: S::F,
        out: &mut [Lanes],
    ) {
        for n in 0..N {
            let i = n * LANES;
            let mut v = s.zero();
            if i < self.head_dim {
                v = s.ld(x, i);
                if let Some(bias) = self.bias {
                    let bias = &bias[which * self.width + self.column..][..self.head_dim];
                    v = s.add(v, s.ld(bias, i));
                }
            }
            s.store(&mut out[n], s.mul(v, scale));
        }
        if let Some(rotary) = self.rotary
            && which < 2
        {
            rotary.turn(position, out.as_flattened_mut(), false);
        }
    }

    /// Dropout of a block of ROWS rows of probabilities that begins at token `token`.
    ///
    /// Word w of a Philox block belongs to row w of the block: the counter's column is head and key,
    /// its row the block's first token.
    #[inline(always)]
    fn drop<S: Simd>(
        &self,
        s: S,
        inputs: &Inputs<'_>,
        token: usize,
        z: Sizes,
        keys: &Range<usize>,
        block: &mut [Lanes],
    ) {
        if inputs.dropout.is_none() {
            return;
        }
        let random = Row::new(s, &inputs.dropout, token);
        for j in keys.clone() {
            let words = random.numbers(s, ((self.index as u32) << 24) | (j * LANES) as u32);
            for r in 0..ROWS {
                let x = &mut block[r * z.stride + j];
                let v = random.keep(s, words[r], s.load(x));
                s.store(x, v);
            }
        }
    }
}

#[inline(always)]
fn load_row<S: Simd, const N: usize>(s: S, from: &[Lanes]) -> [S::F; N] {
    let mut row = [s.zero(); N];
    for n in 0..N {
        row[n] = s.load(&from[n]);
    }
    row
}

/// Copies `from` into N vectors, with zeros beyond its end.
#[inline(always)]
fn copy_row<S: Simd, const N: usize>(s: S, from: &[f32], to: &mut [Lanes]) {
    for n in 0..N {
        let v = if n * LANES < from.len() {
            s.ld(from, n * LANES)
        } else {
            s.zero()
        };
        s.store(&mut to[n], v);
    }
}

/// Writes as many values of `row` as `to` holds.
#[inline(always)]
fn write_row<S: Simd, const N: usize>(s: S, row: &[S::F; N], to: &mut [f32]) {
    for n in 0..N {
        if n * LANES < to.len() {
            s.st(to, n * LANES, row[n]);
        }
    }
}

/// Computes to += row.
#[inline(always)]
fn add_row<S: Simd, const N: usize>(s: S, row: &[S::F; N], to: &mut [S::F; N]) {
    for n in 0..N {
        to[n] = s.add(to[n], row[n]);
    }
}

/// Computes to += from, as far as `to` goes.
#[inline(always)]
fn add_to<S: Simd>(s: S, from: &[Lanes], to: &mut [f32]) {
    for (j, from) in from.iter().enumerate() {
        let v = s.add(s.ld(to, j * LANES), s.load(from));
        s.st(to, j * LANES, v);
    }
}

/// Transposes `rows` [lk, d] into `to` [vk, d], sixteen rows at a time.
#[inline(always)]
fn transpose<S: Simd, const N: usize>(s: S, z: Sizes, rows: &[Lanes], to: &mut [Lanes]) {
    for j in 0..z.vk {
        for n in 0..N {
            let mut tile = [s.zero(); LANES];
            for r in 0..LANES {
                tile[r] = s.load(&rows[(j * LANES + r) * N + n]);
            }
            let tile = s.transpose(tile);
            for c in 0..LANES {
                s.store(&mut to[(j * N + n) * LANES + c], tile[c]);
            }
        }
    }
}

/// Computes the vectors `keys` of each row of out [ROWS, lk] = a bt, for `a` [ROWS, d] and `bt` [vk, d].
#[inline(always)]
fn outer<S: Simd, const N: usize>(
    s: S,
    z: Sizes,
    keys: Range<usize>,
    a: &[Lanes],
    bt: &[Lanes],
    out: &mut [Lanes],
) {
    let d = N * LANES;
    let a = a.as_flattened();
    let (a0, a) = a.split_at(d);
    let (a1, a) = a.split_at(d);
    let (a2, a3) = a.split_at(d);
    let a = [a0, a1, a2, &a3[..d]];
    let mut j = keys.start;
    while j < keys.end {
        let b = &bt[j * d..];
        if S::VECTORS > 2 * ROWS && keys.end - j >= 2 {
            let (b0, b1) = b[..2 * d].split_at(d);
            let mut first = [s.zero(); ROWS];
            let mut second = [s.zero(); ROWS];
            for c in 0..d {
                let b = [s.load(&b0[c]), s.load(&b1[c])];
                for r in 0..ROWS {
                    let x = s.splat(a[r][c]);
                    first[r] = s.fma(x, b[0], first[r]);
                    second[r] = s.fma(x, b[1], second[r]);
                }
            }
            for r in 0..ROWS {
                s.store(&mut out[r * z.stride + j], first[r]);
                s.store(&mut out[r * z.stride + j + 1], second[r]);
            }
            j += 2;
        } else {
            let b = &b[..d];
            let mut sums = [s.zero(); ROWS];
            for c in 0..d {
                let b = s.load(&b[c]);
                for r in 0..ROWS {
                    sums[r] = s.fma(s.splat(a[r][c]), b, sums[r]);
                }
            }
            for r in 0..ROWS {
                s.store(&mut out[r * z.stride + j], sums[r]);
            }
            j += 1;
        }
    }
}

/// Adds weighted sums of rows: row r of `sums` [ROWS, d] receives the sum over t < n of w(r, t) x\[t\], for rows x\[t\]
/// of N vectors. The weight w(r, t) is c[r stride + t], or with `ACROSS` c[t stride + r]. As many columns are summed
/// together as the registers hold.
#[inline(always)]
fn add_weighted<S: Simd, const N: usize, const ACROSS: bool>(
    s: S,
    c: &[f32],
    stride: usize,
    n: usize,
    x: &[Lanes],
    sums: &mut [Lanes],
) {
    let x = &x.as_chunks::<N>().0[..n];
    let sums = &mut sums.as_chunks_mut::<N>().0[..ROWS];
    if S::VECTORS > ROWS * N {
        add_weighted_columns::<S, N, N, ACROSS>(s, c, stride, x, 0, sums);
    } else {
        for column in 0..N {
            add_weighted_columns::<S, N, 1, ACROSS>(s, c, stride, x, column, sums);
        }
    }
}

/// [`add_weighted`] for `M` vectors of each row from `first` on, whose sums the registers hold.
#[inline(always)]
fn add_weighted_columns<S: Simd, const N: usize, const M: usize, const ACROSS: bool>(
    s: S,
    c: &[f32],
    stride: usize,
    x: &[[Lanes; N]],
    first: usize,
    sums: &mut [[Lanes; N]],
) {
    let mut acc = [[s.zero(); M]; ROWS];
    for r in 0..ROWS {
        acc[r] = load_row::<S, M>(s, &sums[r][first..][..M]);
    }
    let n = x.len();
    if ACROSS {
        for (t, x) in x.iter().enumerate() {
            let weights = &c[t * stride..][..ROWS];
            let v = load_row::<S, M>(s, &x[first..][..M]);
            for r in 0..ROWS {
                for m in 0..M {
                    acc[r][m] = s.fma(s.splat(weights[r]), v[m], acc[r][m]);
                }
            }
        }
    } else {
        let weights = [
            &c[..n],
            &c[stride..][..n],
            &c[2 * stride..][..n],
            &c[3 * stride..][..n],
        ];
        for (t, x) in x.iter().enumerate() {
            let v = load_row::<S, M>(s, &x[first..][..M]);
            for r in 0..ROWS {
                for m in 0..M {
                    acc[r][m] = s.fma(s.splat(weights[r][t]), v[m], acc[r][m]);
                }
            }
        }
    }
    for r in 0..ROWS {
        for m in 0..M {
            s.store(&mut sums[r][first + m], acc[r][m]);
        }
    }
}

/// The lanes of `v` whose keys are seen, of the vector that begins at key `at`; `fill` in the others.
#[inline(always)]
fn only<S: Simd>(s: S, v: S::F, at: usize, seen: &Range<usize>, fill: S::F) -> S::F {
    let v = s.first(v, seen.end.saturating_sub(at), fill);
    if seen.start > at {
        return s.first(fill, seen.start - at, v);
    }
    v
}

/// Computes row = softmax(row + relative) over the keys that are seen, zeros elsewhere; returns log sum exp. The row begins
/// with vector `start`.
#[inline(always)]
fn softmax<S: Simd>(
    s: S,
    seen: Range<usize>,
    start: usize,
    relative: Option<&[f32]>,
    row: &mut [Lanes],
) -> f32 {
    let lowest = s.splat(f32::NEG_INFINITY);
    let mut largest = lowest;
    for (j, x) in row.iter_mut().enumerate() {
        let mut v = s.load(x);
        if let Some(relative) = relative {
            v = s.add(v, s.ld(relative, j * LANES));
        }
        let v = only(s, v, (start + j) * LANES, &seen, lowest);
        s.store(x, v);
        largest = s.max(v, largest);
    }
    let largest = s.largest(largest);
    let mut sum = s.zero();
    for (j, x) in row.iter_mut().enumerate() {
        let v = exp(s, s.sub(s.load(x), s.splat(largest)));
        let v = only(s, v, (start + j) * LANES, &seen, s.zero());
        s.store(x, v);
        sum = s.add(sum, v);
    }
    let sum = s.sum(sum);
    let scale = s.splat(1.0 / sum);
    for x in row {
        let v = s.mul(s.load(x), scale);
        s.store(x, v);
    }
    largest + sum.ln()
}

/// From scores in `p` and gradients of the probabilities in `d`: p = exp(p + relative - lse), and
/// d = p (d - sum p d). The rows begin with vector `start`.
#[inline(always)]
fn softmax_backward<S: Simd>(
    s: S,
    seen: Range<usize>,
    start: usize,
    relative: Option<&[f32]>,
    lse: f32,
    p: &mut [Lanes],
    d: &mut [Lanes],
) {
    let mut sum = s.zero();
    for (j, (p, d)) in p.iter_mut().zip(&*d).enumerate() {
        let mut v = s.sub(s.load(p), s.splat(lse));
        if let Some(relative) = relative {
            v = s.add(v, s.ld(relative, j * LANES));
        }
        let v = only(s, exp(s, v), (start + j) * LANES, &seen, s.zero());
        s.store(p, v);
        sum = s.fma(v, s.load(d), sum);
    }
    let mean = s.splat(s.sum(sum));
    for (p, d) in p.iter().zip(d) {
        let v = s.mul(s.load(p), s.sub(s.load(d), mean));
        s.store(d, v);
    }
}

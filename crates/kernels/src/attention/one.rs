//! Attention of one token of each sentence, where nothing reads the other outputs of a layer.
//!
//! The formula is that of [`attend`](super::attend) for one query a sentence; keys and values are those of all tokens.
//! Their rows are read where they are needed, so that working memory is two rows of scores.

use rayon::prelude::*;

use super::{
    Grads, Head, Inputs, Lanes, Plan, ROWS, Shape, Shared, Sizes, Sums, Unit, add_row, add_to,
    by_width, copy_row, cut, load_row, softmax, softmax_backward, with_work, write_row,
};
use crate::{
    dropout::Row,
    profile::{Part, time},
    rows::Scratch,
    simd::{LANES, Simd, simd_fn},
};

/// Computes context = attention(q, kv) of the tokens `queries` \[sentences\], one in each sentence: `q` and `context` are
/// [sentences, heads d], and the rows of `kv` [tokens, 2 heads d] hold all heads' k, then v. `lse` [heads, sentences]
/// receives log sum_j exp(S_ij), which [`attend_one_backward`] needs.
///
/// # Panics
/// If the lengths do not fit together, a query is not in its sentence, or a sentence is longer than `relative` allows.
pub fn attend_one(
    shape: &Shape<'_>,
    inputs: &Inputs<'_>,
    queries: &[usize],
    q: &[f32],
    kv: &[f32],
    context: &mut [f32],
    lse: &mut [f32],
) {
    let _timer = time(Part::Attention);
    let plan = Plan::new(shape, inputs);
    check(
        &plan,
        queries,
        [q.len(), context.len()],
        kv.len(),
        lse.len(),
    );
    let context = Shared::new(context);
    let lse = Shared::new(lse);
    plan.units().for_each(|unit| {
        by_width!(
            plan.head_dim,
            forward_unit(&plan, inputs, queries, unit, q, kv, &context, &lse)
        );
    });
}

/// Backward pass of [`attend_one`]: replaces `q` and `kv` by their gradients, given that of the context and the `lse` of
/// the forward pass. They must be as the forward pass read them.
///
/// # Panics
/// As [`attend_one`].
#[expect(clippy::too_many_arguments, reason = "each is a tensor of the formula")]
pub fn attend_one_backward(
    shape: &Shape<'_>,
    inputs: &Inputs<'_>,
    queries: &[usize],
    q: &mut [f32],
    kv: &mut [f32],
    lse: &[f32],
    d_context: &[f32],
    grads: Grads<'_>,
    scratch: &mut Scratch,
) {
    let _timer = time(Part::Attention);
    let plan = Plan::new(shape, inputs);
    check(
        &plan,
        queries,
        [q.len(), d_context.len()],
        kv.len(),
        lse.len(),
    );
    let (q, kv) = (Shared::new(q), Shared::new(kv));
    plan.backward(grads, scratch, |unit, sums| {
        by_width!(
            plan.head_dim,
            backward_unit(&plan, inputs, queries, unit, &q, &kv, lse, d_context, sums)
        );
    });
}

fn check(plan: &Plan<'_>, queries: &[usize], rows: [usize; 2], kv: usize, lse: usize) {
    let sentences = plan.offsets.len() - 1;
    assert_eq!(queries.len(), sentences, "queries");
    for (query, ends) in queries.iter().zip(plan.offsets.windows(2)) {
        let sentence = ends[0]..ends[1];
        assert!(
            sentence.contains(query),
            "token {query} is not in {sentence:?}"
        );
    }
    assert_eq!(rows, [sentences * plan.width; 2], "q and context");
    assert_eq!(kv, plan.tokens * 2 * plan.width, "kv");
    assert_eq!(lse, sentences * plan.heads, "lse");
}

#[expect(clippy::too_many_arguments, reason = "each is a tensor of the formula")]
fn forward_unit<const N: usize>(
    plan: &Plan<'_>,
    inputs: &Inputs<'_>,
    queries: &[usize],
    unit: Unit,
    q: &[f32],
    kv: &[f32],
    context: &Shared<'_>,
    lse: &Shared<'_>,
) {
    let longest = Sizes::new(plan.groups[unit.group].longest);
    with_work(2 * N + longest.vk, |work| {
        forward_group::<N>(plan, inputs, queries, unit, q, kv, context, lse, work);
    });
}

#[expect(clippy::too_many_arguments, reason = "each is a tensor of the formula")]
fn backward_unit<const N: usize>(
    plan: &Plan<'_>,
    inputs: &Inputs<'_>,
    queries: &[usize],
    unit: Unit,
    q: &Shared<'_>,
    kv: &Shared<'_>,
    lse: &[f32],
    d_context: &[f32],
    sums: &Sums<'_>,
) {
    let longest = Sizes::new(plan.groups[unit.group].longest);
    with_work(3 * N + 2 * longest.vk, |work| {
        backward_group::<N>(
            plan, inputs, queries, unit, q, kv, lse, d_context, sums, work,
        );
    });
}

simd_fn!(fn forward_group[N](
    plan: &Plan<'_>, inputs: &Inputs<'_>, queries: &[usize], unit: Unit, q: &[f32], kv: &[f32],
    context: &Shared<'_>, lse: &Shared<'_>, work: &mut [Lanes],
) = forward_body);

simd_fn!(fn backward_group[N](
    plan: &Plan<'_>, inputs: &Inputs<'_>, queries: &[usize], unit: Unit, q: &Shared<'_>,
    kv: &Shared<'_>, lse: &[f32], d_context: &[f32], sums: &Sums<'_>, work: &mut [Lanes],
) = backward_body);

#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "each is a tensor of the formula")]
fn forward_body<S: Simd, const N: usize>(
    s: S,
    plan: &Plan<'_>,
    inputs: &Inputs<'_>,
    queries: &[usize],
    unit: Unit,
    q: &[f32],
    kv: &[f32],
    context: &Shared<'_>,
    lse: &Shared<'_>,
    work: &mut [Lanes],
) {
    let head = Head::new(plan, inputs, unit.head);
    let (one, scale) = (s.splat(1.0), s.splat(head.scale));
    let n_sentences = queries.len();
    for sentence in plan.groups[unit.group].sentences.clone() {
        let tokens = plan.offsets[sentence]..plan.offsets[sentence + 1];
        let i = queries[sentence] - tokens.start;
        let z = Sizes::new(tokens.len());
        let mut rest = &mut *work;
        let query = cut(&mut rest, N);
        let row = cut(&mut rest, N);
        let scores = cut(&mut rest, z.vk);
        let at = sentence * plan.width + head.column;
        head.read::<S, N>(s, &q[at..][..plan.head_dim], 0, i, scale, query);
        let query = load_row::<S, N>(s, query);

        let seen = head.seen(i, i, z.l);
        let keys = seen.start / LANES..seen.end.div_ceil(LANES);
        scores[keys.clone()].fill([0.0; LANES]);
        for j in seen.clone() {
            let at = (tokens.start + j) * 2 * plan.width + head.column;
            head.read::<S, N>(s, &kv[at..][..plan.head_dim], 1, j, one, row);
            scores.as_flattened_mut()[j] = dot(s, &query, &load_row::<S, N>(s, row));
        }
        let relative = head.relative_row(i);
        let sum = softmax(
            s,
            seen.clone(),
            keys.start,
            relative,
            &mut scores[keys.clone()],
        );
        // SAFETY: only this unit writes this head's value for this sentence.
        let lse = unsafe { lse.part(unit.head * n_sentences + sentence, 1) };
        lse[0] = sum;
        drop_row(s, &head, inputs, tokens.start, i, keys, scores);
        let mut sum = [s.zero(); N];
        for j in seen {
            let at = ((tokens.start + j) * 2 + 1) * plan.width + head.column;
            head.read::<S, N>(s, &kv[at..][..plan.head_dim], 2, j, one, row);
            let value = load_row::<S, N>(s, row);
            add_scaled(s, scores.as_flattened()[j], &value, &mut sum);
        }
        // SAFETY: only this unit writes this head's columns of this row.
        write_row(s, &sum, unsafe { context.part(at, plan.head_dim) });
    }
}

#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "each is a tensor of the formula")]
fn backward_body<S: Simd, const N: usize>(
    s: S,
    plan: &Plan<'_>,
    inputs: &Inputs<'_>,
    queries: &[usize],
    unit: Unit,
    q: &Shared<'_>,
    kv: &Shared<'_>,
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
    let n_sentences = queries.len();
    let mut d_bias = [[s.zero(); N]; 3];
    for sentence in group.sentences.clone() {
        let tokens = plan.offsets[sentence]..plan.offsets[sentence + 1];
        let i = queries[sentence] - tokens.start;
        let z = Sizes::new(tokens.len());
        let mut rest = &mut *work;
        let query = cut(&mut rest, N);
        let d_out = cut(&mut rest, N);
        let row = cut(&mut rest, N);
        let p = cut(&mut rest, z.vk);
        let ds = cut(&mut rest, z.vk);
        let at = sentence * plan.width + head.column;
        // SAFETY: only this unit reads or writes this head's columns of this row.
        let q = unsafe { q.part(at, plan.head_dim) };
        head.read::<S, N>(s, q, 0, i, scale, query);
        copy_row::<S, N>(s, &d_context[at..][..plan.head_dim], d_out);
        let (query, d_out) = (load_row::<S, N>(s, query), load_row::<S, N>(s, d_out));

        let seen = head.seen(i, i, z.l);
        let keys = seen.start / LANES..seen.end.div_ceil(LANES);
        p[keys.clone()].fill([0.0; LANES]);
        ds[keys.clone()].fill([0.0; LANES]);
        for j in seen.clone() {
            for (which, of, to) in [(1, &query, &mut *p), (2, &d_out, &mut *ds)] {
                // SAFETY: only this unit reads or writes this head's columns of these rows.
                let x = unsafe { part(plan, &head, kv, tokens.start + j, which) };
                head.read::<S, N>(s, x, which, j, one, row);
                to.as_flattened_mut()[j] = dot(s, of, &load_row::<S, N>(s, row));
            }
        }
        drop_row(s, &head, inputs, tokens.start, i, keys.clone(), ds);
        let relative = head.relative_row(i);
        let lse = lse[unit.head * n_sentences + sentence];
        softmax_backward(
            s,
            seen.clone(),
            keys.start,
            relative,
            lse,
            &mut p[keys.clone()],
            &mut ds[keys.clone()],
        );
        if relative.is_some() {
            add_to(s, ds, &mut d_relative[group.longest - 1 - i..][..z.l]);
        }
        drop_row(s, &head, inputs, tokens.start, i, keys, p);

        let mut d_query = [s.zero(); N];
        for j in 0..z.l {
            let (mut dk, mut dv) = ([s.zero(); N], [s.zero(); N]);
            if seen.contains(&j) {
                let (p, ds) = (p.as_flattened()[j], ds.as_flattened()[j]);
                // SAFETY: only this unit reads or writes this head's columns of these rows.
                let x = unsafe { part(plan, &head, kv, tokens.start + j, 1) };
                head.read::<S, N>(s, x, 1, j, one, row);
                add_scaled(s, ds, &load_row::<S, N>(s, row), &mut d_query);
                add_scaled(s, ds, &query, &mut dk);
                add_scaled(s, p, &d_out, &mut dv);
                head.turn_back(s, j, &mut dk);
            }
            for (which, d) in [(1, &dk), (2, &dv)] {
                add_row(s, d, &mut d_bias[which]);
                // SAFETY: only this unit reads or writes this head's columns of these rows.
                write_row(s, d, unsafe {
                    part(plan, &head, kv, tokens.start + j, which)
                });
            }
        }
        for v in d_query.iter_mut() {
            *v = s.mul(*v, scale);
        }
        head.turn_back(s, i, &mut d_query);
        add_row(s, &d_query, &mut d_bias[0]);
        write_row(s, &d_query, q);
    }
    sums.write_bias(s, plan, unit, &d_bias);
}

/// Returns this head's k or v (`which` = 1, 2) of a token.
///
/// # Safety
/// No other part of `kv` in use may overlap it.
#[inline(always)]
#[expect(clippy::mut_from_ref, reason = "as for `Shared::part`")]
unsafe fn part<'k>(
    plan: &Plan<'_>,
    head: &Head<'_>,
    kv: &'k Shared<'_>,
    token: usize,
    which: usize,
) -> &'k mut [f32] {
    // SAFETY: the caller promises that no other part in use overlaps.
    unsafe {
        kv.part(
            (token * 2 + which - 1) * plan.width + head.column,
            plan.head_dim,
        )
    }
}

/// Dropout of the probabilities of query `i` of the sentence that begins at token `first`: the numbers that
/// [`Head::drop`] gives this row of its block.
#[inline(always)]
fn drop_row<S: Simd>(
    s: S,
    head: &Head<'_>,
    inputs: &Inputs<'_>,
    first: usize,
    i: usize,
    keys: std::ops::Range<usize>,
    row: &mut [Lanes],
) {
    if inputs.dropout.is_none() {
        return;
    }
    let random = Row::new(s, &inputs.dropout, first + i / ROWS * ROWS);
    for j in keys {
        let words = random.numbers(s, ((head.index as u32) << 24) | (j * LANES) as u32);
        let v = random.keep(s, words[i % ROWS], s.load(&row[j]));
        s.store(&mut row[j], v);
    }
}

#[inline(always)]
fn dot<S: Simd, const N: usize>(s: S, a: &[S::F; N], b: &[S::F; N]) -> f32 {
    let mut sum = s.zero();
    for n in 0..N {
        sum = s.fma(a[n], b[n], sum);
    }
    s.sum(sum)
}

/// Computes to += weight row.
#[inline(always)]
fn add_scaled<S: Simd, const N: usize>(s: S, weight: f32, row: &[S::F; N], to: &mut [S::F; N]) {
    let weight = s.splat(weight);
    for n in 0..N {
        to[n] = s.fma(weight, row[n], to[n]);
    }
}

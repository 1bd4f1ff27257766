//! Dropout whose masks are a function of seed, step, site and position.

use rayon::prelude::*;

use crate::simd::{LANES, Simd, simd_fn};

/// Inverted dropout: an element is zeroed with probability p, else scaled by 1 / (1 - p).
///
/// The random numbers are Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1,
/// 2, 3", SC 2011; it passes BigCrush), because it has no state: any number can be computed directly,
/// so threads and the backward pass recompute the mask instead of storing it. Its
/// only operations are 32 x 32 -> 64 bit products and xors, which vectorise: half a nanosecond a
/// number on one core with AVX-512.
///
/// The key is the seed and the counter (column, row, step, site), so a mask depends on nothing
/// else: not on the number of threads, and not on how a batch is divided, provided that `first_row` is
/// the first row of the part. An element is kept when its 32-bit number is at least p 2^32, rounded: p is
/// exact to 1.2e-10.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout<'a> {
    threshold: u32,
    scale: f32,
    seed: u64,
    step: u32,
    site: u32,
    first_row: u32,
    rows: Option<&'a [usize]>,
}

impl<'a> Dropout<'a> {
    /// The identity: kernels then draw no random numbers.
    pub const NONE: Self = Self {
        threshold: 0,
        scale: 1.0,
        seed: 0,
        step: 0,
        site: 0,
        first_row: 0,
        rows: None,
    };

    /// Dropout with probability `p`, for the run's `seed`, the optimizer's `step`, and `site`, a number
    /// that the caller chooses for each place of the network with dropout.
    ///
    /// # Panics
    /// If `p` is not in [0, 1).
    pub fn new(p: f64, seed: u64, step: u32, site: u32) -> Self {
        assert!(
            (0.0..1.0).contains(&p),
            "dropout probability {p} is not in [0, 1)"
        );
        // 1 - p may round to 1 - 2^-33; the threshold stays a u32.
        let threshold = (p * 4_294_967_296.0).round().min(f64::from(u32::MAX)) as u32;
        Self {
            threshold,
            scale: (1.0 / (1.0 - p)) as f32,
            seed,
            step,
            site,
            first_row: 0,
            rows: None,
        }
    }

    /// The same dropout for rows that begin at row `first_row` of the whole batch.
    pub fn starting_at(self, first_row: usize) -> Self {
        let first_row = u32::try_from(first_row)
            .unwrap_or_else(|_| panic!("row {first_row} is over {}", u32::MAX));
        Self { first_row, ..self }
    }

    /// The same dropout for some of the rows alone: row r of what it is applied to is row `rows[r]` of the part.
    pub fn of_rows(self, rows: &'a [usize]) -> Self {
        Self {
            rows: Some(rows),
            ..self
        }
    }

    /// Whether nothing is ever dropped.
    pub fn is_none(&self) -> bool {
        self.threshold == 0
    }

    /// The factor of kept elements, 1 / (1 - p).
    pub fn scale(&self) -> f32 {
        self.scale
    }
}

/// Computes x = dropout(x) in place, for `x` [rows, width]. The backward pass applies the same function
/// to the gradient.
///
/// # Panics
/// If `x` is not whole rows.
pub fn apply(dropout: &Dropout<'_>, width: usize, x: &mut [f32]) {
    assert!(
        width > 0 && x.len().is_multiple_of(width),
        "{} values are no rows of {width}",
        x.len()
    );
    if dropout.is_none() {
        return;
    }
    let rows = crate::rows::block(x.len() / width);
    x.par_chunks_mut(rows * width)
        .enumerate()
        .for_each(|(block, x)| {
            apply_block(dropout, width, block * rows, x);
        });
}

simd_fn!(fn apply_block(dropout: &Dropout<'_>, width: usize, first: usize, x: &mut [f32]) = apply_block_body);

#[inline(always)]
fn apply_block_body<S: Simd>(
    s: S,
    dropout: &Dropout<'_>,
    width: usize,
    first: usize,
    x: &mut [f32],
) {
    for (r, row) in x.chunks_exact_mut(width).enumerate() {
        let mut mask = Mask::new(s, dropout, first + r);
        let mut i = 0;
        while i < width {
            let v = mask.apply(s, i, s.ld(row, i));
            s.st(row, i, v);
            i += LANES;
        }
    }
}

/// The mask of one row of a hidden state, vector by vector from the left.
///
/// One Philox block of 16 counters gives 4 x 16 numbers; word w of the counters 16 c .. 16 c + 15
/// belongs to columns 64 c + 16 w .. 64 c + 16 w + 15.
#[derive(Clone, Copy)]
pub(crate) struct Mask<S: Simd> {
    row: Row<S>,
    words: [S::U; 4],
}

impl<S: Simd> Mask<S> {
    #[inline(always)]
    pub(crate) fn new(s: S, dropout: &Dropout<'_>, row: usize) -> Self {
        Self {
            row: Row::new(s, dropout, row),
            words: [s.usplat(0); 4],
        }
    }

    /// Dropout of the columns `column..column + 16`, a multiple of 16; ascending, from 0.
    #[inline(always)]
    pub(crate) fn apply(&mut self, s: S, column: usize, v: S::F) -> S::F {
        if self.row.threshold == 0 {
            return v;
        }
        let word = column / LANES % 4;
        if word == 0 {
            self.words = self.row.numbers(s, (column / 4) as u32);
        }
        self.row.keep(s, self.words[word], v)
    }
}

/// The random numbers of one row.
#[derive(Clone, Copy)]
pub(crate) struct Row<S: Simd> {
    threshold: u32,
    scale: S::F,
    key: [u32; 2],
    counter: [u32; 3],
}

impl<S: Simd> Row<S> {
    #[inline(always)]
    pub(crate) fn new(s: S, dropout: &Dropout<'_>, row: usize) -> Self {
        let row = match dropout.rows {
            Some(rows) if !dropout.is_none() => rows[row],
            _ => row,
        };
        Self {
            threshold: dropout.threshold,
            scale: s.splat(dropout.scale),
            key: [dropout.seed as u32, (dropout.seed >> 32) as u32],
            counter: [
                dropout.first_row.wrapping_add(row as u32),
                dropout.step,
                dropout.site,
            ],
        }
    }

    /// Returns the four words of the counters `column..column + 16`.
    #[inline(always)]
    pub(crate) fn numbers(&self, s: S, column: u32) -> [S::U; 4] {
        let [row, step, site] = self.counter;
        philox(s, [column, row, step, site], self.key)
    }

    /// `v` scaled where `numbers` are at least the threshold, zero elsewhere.
    #[inline(always)]
    pub(crate) fn keep(&self, s: S, numbers: S::U, v: S::F) -> S::F {
        s.where_ge(numbers, s.usplat(self.threshold), s.mul(v, self.scale))
    }
}

/// Philox 4x32-10 of sixteen counters that differ in their first word: lane i has `counter[0] + i`.
///
/// Counters are in the even lanes of two vectors, because the widening product reads even lanes: even
/// counters in one vector, odd counters in the other. The next product ignores the odd lanes, and zipping
/// the two vectors at the end discards them.
#[inline(always)]
fn philox<S: Simd>(s: S, counter: [u32; 4], key: [u32; 2]) -> [S::U; 4] {
    const IOTA: [u32; LANES] = [0, 0, 2, 0, 4, 0, 6, 0, 8, 0, 10, 0, 12, 0, 14, 0];
    let m0 = s.usplat(0xD251_1F53);
    let m1 = s.usplat(0xCD9E_8D57);
    let mut halves = [[s.usplat(0); 4]; 2];
    for (half, x) in halves.iter_mut().enumerate() {
        let first = counter[0].wrapping_add(half as u32);
        let mut c0 = s.uadd(s.uload(&IOTA), s.usplat(first));
        let mut c1 = s.usplat(counter[1]);
        let mut c2 = s.usplat(counter[2]);
        let mut c3 = s.usplat(counter[3]);
        let [mut k0, mut k1] = key;
        for _ in 0..10 {
            let p0 = s.mul_even(c0, m0);
            let p1 = s.mul_even(c2, m1);
            c0 = s.uxor(s.uxor(s.odd_to_even(p1), c1), s.usplat(k0));
            c2 = s.uxor(s.uxor(s.odd_to_even(p0), c3), s.usplat(k1));
            c1 = p1;
            c3 = p0;
            k0 = k0.wrapping_add(0x9E37_79B9);
            k1 = k1.wrapping_add(0xBB67_AE85);
        }
        *x = [c0, c1, c2, c3];
    }
    let mut words = [s.usplat(0); 4];
    for (w, word) in words.iter_mut().enumerate() {
        *word = s.zip_even(halves[0][w], halves[1][w]);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::Dropout;
    use crate::simd::{LANES, Portable, Simd, simd_fn};

    #[inline(always)]
    fn words_body<S: Simd>(s: S, counter: [u32; 4], key: [u32; 2], out: &mut [[u32; LANES]; 4]) {
        for (out, word) in out.iter_mut().zip(super::philox(s, counter, key)) {
            *out = s.to_array(s.float(word)).map(f32::to_bits);
        }
    }
    simd_fn!(fn words(counter: [u32; 4], key: [u32; 2], out: &mut [[u32; LANES]; 4]) = words_body);

    /// The known answers of Random123 1.14, file `kat_vectors`, philox4x32 with 10 rounds.
    #[test]
    fn philox_gives_the_known_answers() {
        let known: [([u32; 4], [u32; 2], [u32; 4]); 3] = [
            (
                [0; 4],
                [0; 2],
                [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8],
            ),
            (
                [u32::MAX; 4],
                [u32::MAX; 2],
                [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd],
            ),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, answer) in known {
            for lane in 0..LANES {
                // The counter sits in every lane in turn.
                let start = [
                    counter[0].wrapping_sub(lane as u32),
                    counter[1],
                    counter[2],
                    counter[3],
                ];
                let mut out = [[0; LANES]; 4];
                words(start, key, &mut out);
                assert_eq!(out.map(|word| word[lane]), answer);
                words_body(Portable, start, key, &mut out);
                assert_eq!(out.map(|word| word[lane]), answer);
            }
        }
    }

    fn mask(dropout: &Dropout<'_>, rows: usize, width: usize) -> Vec<f32> {
        let mut x = vec![1.0; rows * width];
        super::apply(dropout, width, &mut x);
        x
    }

    #[test]
    fn keeps_the_right_share_and_the_mean() {
        let (rows, width) = (1000, 1000);
        for p in [0.1, 0.5, 0.9] {
            let x = mask(&Dropout::new(p, 7, 3, 11), rows, width);
            let n = (rows * width) as f64;
            let kept = x.iter().filter(|&&v| v != 0.0).count() as f64;
            // Five standard deviations of a binomial.
            assert!((kept / n - (1.0 - p)).abs() < 5.0 * (p * (1.0 - p) / n).sqrt());
            let scale = (1.0 / (1.0 - p)) as f32;
            assert!(x.iter().all(|&v| v == 0.0 || v == scale));
        }
    }

    #[test]
    fn neighbours_rows_steps_sites_and_seeds_are_independent() {
        let (rows, width) = (500, 777);
        let p = 0.3;
        let base = mask(&Dropout::new(p, 7, 3, 11), rows, width);
        let n = (rows * width) as f64;
        // Of two independent masks, both keep (1 - p)^2 of the elements.
        let both = (1.0 - p) * (1.0 - p);
        let check = |name: &str, other: &[f32]| {
            let count = base
                .iter()
                .zip(other)
                .filter(|(a, b)| **a != 0.0 && **b != 0.0)
                .count();
            let share = count as f64 / other.len() as f64;
            assert!(
                (share - both).abs() < 5.0 * (both * (1.0 - both) / n).sqrt() * 1.05,
                "{name}: {share}"
            );
        };
        check("seed", &mask(&Dropout::new(p, 8, 3, 11), rows, width));
        check(
            "high half of the seed",
            &mask(&Dropout::new(p, 7 + (1 << 32), 3, 11), rows, width),
        );
        check("step", &mask(&Dropout::new(p, 7, 4, 11), rows, width));
        check("site", &mask(&Dropout::new(p, 7, 3, 12), rows, width));
        for shift in [1, 2, 16, 48, 64, width, 3 * width] {
            check("shift", &base[shift..]);
        }
    }

    #[test]
    fn column_counts_are_uniform() {
        let (rows, width) = (20_000, 100);
        let x = mask(&Dropout::new(0.1, 1, 1, 1), rows, width);
        // Chi-square over columns: mean width, standard deviation sqrt(2 width).
        let mut chi = 0.0;
        for c in 0..width {
            let dropped = (0..rows).filter(|r| x[r * width + c] == 0.0).count() as f64;
            let expected = 0.1 * rows as f64;
            chi += (dropped - expected).powi(2) / (expected * 0.9);
        }
        assert!(
            (chi - width as f64).abs() < 5.0 * (2.0 * width as f64).sqrt(),
            "{chi}"
        );
    }

    #[test]
    fn a_part_of_the_batch_has_the_same_mask() {
        let width = 33;
        let dropout = Dropout::new(0.2, 5, 6, 7);
        let whole = mask(&dropout, 50, width);
        assert_eq!(
            mask(&dropout.starting_at(20), 30, width),
            whole[20 * width..]
        );
    }

    #[test]
    fn zero_is_the_identity() {
        let dropout = Dropout::new(0.0, 5, 6, 7);
        assert!(dropout.is_none());
        assert_eq!(mask(&dropout, 3, 5), vec![1.0; 15]);
    }

    #[test]
    #[should_panic(expected = "not in [0, 1)")]
    fn one_is_refused() {
        Dropout::new(1.0, 0, 0, 0);
    }
}

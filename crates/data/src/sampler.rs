//! Which rows go into which batch: sentence-transformers' own order, for the same seed.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::dataset::Dataset;

/// How rows are drawn into batches; the names are sentence-transformers' `batch_sampler`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchSampler {
    /// A new permutation each epoch, cut into consecutive slices.
    BatchSampler,
    /// As above, but no text comes twice in a batch, in whatever column: with in-batch negatives
    /// a second copy of a row's positive would be a negative of itself.
    NoDuplicates,
}

/// The batches of epoch `epoch` (from 0): lists of row indices, in the order of training. Every
/// row comes once, except that with `drop_last` batches of fewer than `batch_size` rows are left
/// out.
///
/// The permutation is [`permutation`] seeded with `seed + epoch`. **For
/// [`BatchSampler::NoDuplicates`] `seed` is ignored and 0 takes its place**, as upstream does:
/// `get_batch_sampler` has a parameter `seed: int = 0`, and the trainer calls it without one
/// (sentence-transformers 6.0.1, `base/trainer.py:716-724, 878`).
///
/// Memory: 4 bytes a row, and for `NoDuplicates` some 30 a text while the call lasts.
///
/// # Panics
/// If `batch_size` is 0.
pub fn epoch_batches(
    kind: BatchSampler,
    dataset: &Dataset,
    batch_size: usize,
    drop_last: bool,
    seed: u64,
    epoch: u64,
) -> Vec<Vec<u32>> {
    assert!(batch_size > 0, "batch_size is at least 1");
    let n_rows = dataset.n_rows();
    let mut batches: Vec<Vec<u32>> = match kind {
        BatchSampler::BatchSampler => permutation(n_rows, seed.wrapping_add(epoch))
            .chunks(batch_size)
            .map(<[u32]>::to_vec)
            .collect(),
        BatchSampler::NoDuplicates => {
            first_fit(&permutation(n_rows, epoch), &text_ids(dataset), batch_size)
        }
    };
    if drop_last {
        batches.retain(|batch| batch.len() == batch_size);
    }
    batches
}

/// The number of batches of an epoch as schedules count it: upstream's `__len__`. Exact for
/// [`BatchSampler::BatchSampler`]. With [`BatchSampler::NoDuplicates`] an epoch may have more
/// batches (rows put off to a partial batch of their own) or, with `drop_last`, fewer; upstream
/// plans its learning rate by this number all the same.
///
/// # Panics
/// If `batch_size` is 0.
pub fn n_batches_upper_bound(n_rows: usize, batch_size: usize, drop_last: bool) -> usize {
    if drop_last {
        n_rows / batch_size
    } else {
        n_rows.div_ceil(batch_size)
    }
}

/// The most rows that a permutation can be made of. Past this number torch draws 64 bits for each
/// row instead of 32, which is not written here.
///
/// Source: `randperm_cpu` in `aten/src/ATen/native/TensorFactories.cpp` of torch 2.11.
pub const MAX_ROWS: usize = u32::MAX as usize / 20 - 1;

/// `torch.randperm(n, generator=torch.Generator().manual_seed(seed))` on the CPU, without
/// touching libtorch's global generator: a Fisher-Yates shuffle drawn from MT19937.
///
/// # Panics
/// If `n` is over [`MAX_ROWS`].
pub fn permutation(n: usize, seed: u64) -> Vec<u32> {
    assert!(n <= MAX_ROWS, "at most {MAX_ROWS} rows, not {n}");
    let mut permutation: Vec<u32> = (0..n as u32).collect();
    // Torch seeds its engine with the low 32 bits only.
    let mut engine = Mt19937::new(seed as u32);
    for i in 0..n.saturating_sub(1) {
        let z = engine.next_u32() as usize % (n - i);
        permutation.swap(i, i + z);
    }
    permutation
}

/// A number for each text, row by row: equal numbers for equal texts, whatever their columns.
struct TextIds {
    ids: Vec<u32>,
    n_columns: usize,
}

impl TextIds {
    fn row(&self, row: u32) -> &[u32] {
        let start = row as usize * self.n_columns;
        &self.ids[start..start + self.n_columns]
    }
}

fn text_ids(dataset: &Dataset) -> TextIds {
    let n_columns = dataset.columns.len();
    let mut ids = vec![0; dataset.n_rows() * n_columns];
    let mut known: HashMap<&str, u32> = HashMap::with_capacity(ids.len());
    for (i, column) in dataset.columns.iter().enumerate() {
        for (row, text) in column.texts.iter().enumerate() {
            let next = known.len() as u32;
            ids[row * n_columns + i] = *known.entry(text).or_insert(next);
        }
    }
    TextIds { ids, n_columns }
}

/// Upstream's walk (`NoDuplicatesBatchSampler.__iter__`, sentence-transformers 6.0.1,
/// `base/sampler.py`) fills one batch at a time: it goes through the rows left over, in the
/// permutation's order, takes each row that shares no text with the batch so far, and leaves the
/// others, in order, for the next batch. A row thus ends in the earliest batch that, when the row's
/// turn comes, is neither full nor shares a text with it. Seen that way one pass over the rows is
/// enough: first fit. The walk takes quadratic time where a text is in very many rows; this does
/// not, because the batches which hold a text, or are full, are stepped over in one go.
fn first_fit(permutation: &[u32], texts: &TextIds, batch_size: usize) -> Vec<Vec<u32>> {
    let n_texts = texts.ids.iter().max().map_or(0, |&id| id as usize + 1);
    let mut n_rows_with = vec![0u32; n_texts];
    for &text in &texts.ids {
        n_rows_with[text as usize] += 1;
    }
    let mut batches: Vec<Vec<u32>> = Vec::new();
    // Links from each closed batch towards the next open one: for fullness, and for each text.
    let mut full = Links::default();
    let mut holding = Links::default();
    let mut shared = Vec::with_capacity(texts.n_columns);
    for &row in permutation {
        shared.clear();
        // A text that comes nowhere else can't collide.
        shared.extend(
            texts
                .row(row)
                .iter()
                .copied()
                .filter(|&text| n_rows_with[text as usize] > 1),
        );
        let mut batch = full.next_open(FULLNESS, 0);
        loop {
            let mut candidate = batch;
            for &text in &shared {
                candidate = holding.next_open(text, candidate);
            }
            candidate = full.next_open(FULLNESS, candidate);
            if candidate == batch {
                break;
            }
            batch = candidate;
        }
        if batch as usize == batches.len() {
            batches.push(Vec::with_capacity(batch_size));
        }
        let rows = &mut batches[batch as usize];
        rows.push(row);
        if rows.len() == batch_size {
            full.close(FULLNESS, batch);
        }
        for &text in &shared {
            holding.close(text, batch);
        }
    }
    batches
}

/// The key under which [`Links`] keeps full batches.
const FULLNESS: u32 = 0;

/// For each key a set of closed batches, with the next open one found in about constant time: a
/// disjoint-set forest with path halving.
#[derive(Default)]
struct Links {
    next: HashMap<(u32, u32), u32>,
}

impl Links {
    fn close(&mut self, key: u32, batch: u32) {
        self.next.entry((key, batch)).or_insert(batch + 1);
    }

    fn next_open(&mut self, key: u32, mut batch: u32) -> u32 {
        while let Some(&after) = self.next.get(&(key, batch)) {
            if let Some(&later) = self.next.get(&(key, after)) {
                self.next.insert((key, batch), later);
            }
            batch = after;
        }
        batch
    }
}

/// The Mersenne Twister as torch's CPU generator has it.
///
/// Source: Matsumoto and Nishimura, "Mersenne Twister", ACM TOMACS 8(1), 1998, with the 2002
/// initialisation `init_genrand`.
struct Mt19937 {
    state: [u32; Self::N],
    index: usize,
}

impl Mt19937 {
    const N: usize = 624;
    const M: usize = 397;

    fn new(seed: u32) -> Self {
        let mut state = [seed; Self::N];
        for i in 1..Self::N {
            let previous = state[i - 1];
            state[i] = (previous ^ (previous >> 30))
                .wrapping_mul(1_812_433_253)
                .wrapping_add(i as u32);
        }
        Self {
            state,
            index: Self::N,
        }
    }

    fn next_u32(&mut self) -> u32 {
        if self.index == Self::N {
            self.twist();
        }
        let mut y = self.state[self.index];
        self.index += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn twist(&mut self) {
        for i in 0..Self::N {
            let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % Self::N] & 0x7fff_ffff);
            let mask = if y & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + Self::M) % Self::N] ^ (y >> 1) ^ mask;
        }
        self.index = 0;
    }
}

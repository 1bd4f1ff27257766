//! The rows of each batch: sentence-transformers' own order, for the same seed.

use std::{
    borrow::Cow,
    collections::{HashMap, VecDeque},
};

use serde::{Deserialize, Serialize};

use crate::{
    dataset::{Dataset, Labels},
    error::DataError,
};

/// The version of the order of batches, which a run's checkpoints name: batches of another one would
/// repeat some rows and leave out others. 1 was the order of sentence-transformers 6.0.1, 2 is that
/// of 6.2.0. They differ by sampler, see [`order_version`].
pub const ORDER_VERSION: u32 = 2;

/// How rows are drawn into batches; the names are sentence-transformers' `batch_sampler`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchSampler {
    /// A new permutation each epoch, cut into consecutive slices.
    BatchSampler,
    /// As above, but no text comes twice in a batch, in whatever column: with in-batch negatives
    /// a second copy of a row's positive would be a negative of itself.
    #[serde(alias = "no_duplicates_hashed")]
    NoDuplicates,
    /// Every batch holds two or more labels with two or more rows each, as losses that look for
    /// triplets within a batch need it. Labels take turns with two rows each; rows that would be
    /// left alone with their label are left out.
    GroupByLabel,
}

/// How the batches of several data sets are mixed; the names are sentence-transformers'
/// `multi_dataset_batch_sampler`. A batch has rows of one data set only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MultiDatasetBatchSampler {
    /// All batches of all data sets, in random order.
    Proportional,
    /// Rounds of a batch from each data set, until one has no more.
    RoundRobin,
}

/// Some rows of one of the data sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Which data set.
    pub dataset: usize,
    /// Rows of it.
    pub rows: Vec<u32>,
}

/// The seeds of a run that decide the order of batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seeds {
    /// The run's.
    pub seed: u64,
    /// The one for the permutations of [`BatchSampler::BatchSampler`] over a single data set, where
    /// it is another: as upstream, no other sampler goes by it.
    pub data_seed: Option<u64>,
}

impl From<u64> for Seeds {
    fn from(seed: u64) -> Self {
        Self {
            seed,
            data_seed: None,
        }
    }
}

/// The rows that batches are drawn of.
#[derive(Debug, Clone, Copy)]
pub enum Rows<'d> {
    /// All rows of a data set in memory.
    Whole(&'d Dataset),
    /// Rows without labels, of which [`BatchSampler::NoDuplicates`] needs the texts as numbers.
    Numbered {
        /// Number of rows.
        n_rows: usize,
        /// The texts.
        texts: Option<&'d TextIds>,
    },
}

impl<'d> From<&'d Dataset> for Rows<'d> {
    fn from(dataset: &'d Dataset) -> Self {
        Self::Whole(dataset)
    }
}

impl<'d> Rows<'d> {
    /// Number of rows.
    pub fn n_rows(self) -> usize {
        match self {
            Self::Whole(dataset) => dataset.n_rows(),
            Self::Numbered { n_rows, .. } => n_rows,
        }
    }

    fn text_ids(self) -> Cow<'d, TextIds> {
        match self {
            Self::Whole(dataset) => Cow::Owned(text_ids(dataset)),
            Self::Numbered { texts, .. } => match texts {
                Some(texts) => Cow::Borrowed(texts),
                None => panic!("no_duplicates needs the texts as numbers"),
            },
        }
    }

    /// The rows of each label that has two or more, labels in the order in which they first come.
    fn groups(self) -> Vec<Vec<u32>> {
        match self {
            Self::Whole(dataset) => groups_of(dataset),
            Self::Numbered { .. } => Vec::new(),
        }
    }
}

/// The version of the order of batches that runs of this kind have: 1 where that of
/// sentence-transformers 6.0.1 is the same as that of 6.2.0. `mix` is that of several data sets.
pub fn order_version(
    kind: BatchSampler,
    mix: Option<MultiDatasetBatchSampler>,
    seeds: Seeds,
) -> u32 {
    let had_other_seed = seeds.data_seed.is_some_and(|seed| seed != seeds.seed);
    let is_same = match mix {
        _ if kind != BatchSampler::BatchSampler => false,
        None => true,
        Some(MultiDatasetBatchSampler::Proportional) => !had_other_seed,
        // Rounds that only some of the data sets could take part in are no longer begun.
        Some(MultiDatasetBatchSampler::RoundRobin) => false,
    };
    if is_same { 1 } else { ORDER_VERSION }
}

/// The batches of epoch `epoch` (from 0): lists of row indices, in the order of training. Every
/// row comes once, except that with `drop_last` batches of fewer than `batch_size` rows are left
/// out, and [`BatchSampler::GroupByLabel`] leaves out the rows that have no partner. Where
/// duplicates leave [`BatchSampler::NoDuplicates`] fewer batches than [`n_batches`] promises, it
/// draws further ones, in which rows come again, from at most two more permutations.
///
/// The permutation is [`permutation`] seeded with the seed plus `epoch`.
///
/// Source: `base/sampler.py` of sentence-transformers.
///
/// Memory: 4 bytes a row, and for `NoDuplicates` some 30 a text while the call lasts.
///
/// # Panics
/// If `batch_size` is 0.
pub fn epoch_batches<'d>(
    kind: BatchSampler,
    rows: impl Into<Rows<'d>>,
    batch_size: usize,
    drop_last: bool,
    seeds: Seeds,
    epoch: u64,
) -> Vec<Vec<u32>> {
    let batches = iter_epoch(kind, rows.into(), batch_size, drop_last, seeds, epoch);
    batches.map(|batch| batch.rows).collect()
}

/// As [`epoch_batches`], one batch after the other.
///
/// # Panics
/// If `batch_size` is 0.
pub fn iter_epoch(
    kind: BatchSampler,
    rows: Rows<'_>,
    batch_size: usize,
    drop_last: bool,
    seeds: Seeds,
    epoch: u64,
) -> impl Iterator<Item = Batch> {
    let seed = match kind {
        // accelerate replaces the sampler of a single data set by its own, which goes by data_seed.
        BatchSampler::BatchSampler => seeds.data_seed.unwrap_or(seeds.seed),
        _ => seeds.seed,
    };
    let seed = seed.wrapping_add(epoch) as u32;
    let mut engine = Mt19937::new(seed);
    let mut walk = Walk::new(kind, rows, batch_size, drop_last, seed);
    std::iter::from_fn(move || {
        let rows = walk.next(&mut engine)?;
        Some(Batch { dataset: 0, rows })
    })
}

/// The batches of epoch `epoch` over several data sets, each drawn by `kind`, one batch after the other.
///
/// As upstream, all samplers draw from one generator, seeded with `seed + epoch`, in the order in
/// which their turn comes, and those of [`BatchSampler::NoDuplicates`] and
/// [`BatchSampler::GroupByLabel`] seed it anew with the same number when they begin.
///
/// Source: `RoundRobinBatchSampler` and `ProportionalBatchSampler` in `base/sampler.py` of
/// sentence-transformers.
///
/// # Panics
/// If `batch_size` is 0.
pub fn multi_dataset_batches<'d, R: Copy + Into<Rows<'d>>>(
    mix: MultiDatasetBatchSampler,
    kind: BatchSampler,
    datasets: &[R],
    batch_size: usize,
    drop_last: bool,
    seeds: Seeds,
    epoch: u64,
) -> Box<dyn Iterator<Item = Batch> + 'd> {
    let seed = seeds.seed.wrapping_add(epoch) as u32;
    let mut engine = Mt19937::new(seed);
    let mut walks: Vec<Walk<'d>> = datasets
        .iter()
        .map(|&rows| Walk::new(kind, rows.into(), batch_size, drop_last, seed))
        .collect();
    match mix {
        MultiDatasetBatchSampler::Proportional => {
            let turns: Vec<u32> = datasets
                .iter()
                .map(|&rows| n_batches(kind, rows, batch_size, drop_last))
                .zip(0..)
                .flat_map(|(n, dataset)| std::iter::repeat_n(dataset, n))
                .collect();
            let mut order = engine.permutation(turns.len()).into_iter();
            Box::new(std::iter::from_fn(move || {
                // A sampler may have fewer batches than it promised.
                order.find_map(|turn| {
                    let dataset = turns[turn as usize] as usize;
                    let rows = walks[dataset].next(&mut engine)?;
                    Some(Batch { dataset, rows })
                })
            }))
        }
        MultiDatasetBatchSampler::RoundRobin => {
            let mut round: VecDeque<Batch> = VecDeque::new();
            Box::new(std::iter::from_fn(move || {
                if round.is_empty() {
                    for (dataset, walk) in walks.iter_mut().enumerate() {
                        let rows = walk.next(&mut engine);
                        round.extend(rows.map(|rows| Batch { dataset, rows }));
                        if round.len() <= dataset {
                            break;
                        }
                    }
                    if round.len() < walks.len() {
                        // A round that not all data sets can take part in is the end.
                        walks.clear();
                        round.clear();
                    }
                }
                round.pop_front()
            }))
        }
    }
}

/// The number of batches of an epoch as schedules count it: upstream's `__len__`. Exact for
/// [`BatchSampler::BatchSampler`] and [`BatchSampler::GroupByLabel`]. With
/// [`BatchSampler::NoDuplicates`] an epoch may have more batches (rows put off to a partial batch
/// of their own), or, with `drop_last` and few distinct texts, fewer; upstream plans its learning
/// rate by this number all the same.
///
/// # Panics
/// If `batch_size` is 0.
pub fn n_batches<'d>(
    kind: BatchSampler,
    rows: impl Into<Rows<'d>>,
    batch_size: usize,
    drop_last: bool,
) -> usize {
    let rows = rows.into();
    let n_rows = rows.n_rows();
    match kind {
        BatchSampler::GroupByLabel => {
            let n_drawn = n_rows_in_turns(&rows.groups());
            let rest = usize::from(!drop_last && n_drawn % batch_size >= SMALLEST_GROUPED_BATCH);
            n_drawn / batch_size + rest
        }
        _ if drop_last => n_rows / batch_size,
        _ => n_rows.div_ceil(batch_size),
    }
}

/// The number of batches of an epoch over several data sets, as schedules count it.
///
/// # Panics
/// If `batch_size` is 0.
pub fn n_multi_dataset_batches<'d, R: Copy + Into<Rows<'d>>>(
    mix: MultiDatasetBatchSampler,
    kind: BatchSampler,
    datasets: &[R],
    batch_size: usize,
    drop_last: bool,
) -> usize {
    let lengths = datasets
        .iter()
        .map(|&rows| n_batches(kind, rows, batch_size, drop_last));
    match mix {
        MultiDatasetBatchSampler::Proportional => lengths.sum(),
        MultiDatasetBatchSampler::RoundRobin => lengths.min().unwrap_or(0) * datasets.len(),
    }
}

/// Checks that batches can be drawn so from this data set.
///
/// # Errors
/// [`DataError::Sampler`] where [`BatchSampler::GroupByLabel`] finds no labels, fewer than two
/// labels with two rows, or an odd batch size or one below 4.
pub fn check(kind: BatchSampler, dataset: &Dataset, batch_size: usize) -> Result<(), DataError> {
    if kind != BatchSampler::GroupByLabel {
        return Ok(());
    }
    let refused = |problem: String| DataError::Sampler {
        dataset: dataset.name.clone(),
        sampler: "group_by_label",
        problem,
    };
    match &dataset.labels {
        Some(Labels::Integer(_) | Labels::Float(_)) => {}
        Some(Labels::Vector { .. }) => {
            return Err(refused(
                "its labels are lists of numbers, which are no groups: choose another sampler"
                    .to_owned(),
            ));
        }
        None => {
            return Err(refused(
                "there is no label column to group by: name the column `label`, or choose another sampler".to_owned(),
            ));
        }
    }
    if batch_size < SMALLEST_GROUPED_BATCH || !batch_size.is_multiple_of(2) {
        return Err(refused(format!(
            "the batch size is {batch_size}, but must be an even number of at least {SMALLEST_GROUPED_BATCH}"
        )));
    }
    let n_labels = groups_of(dataset).len();
    if n_labels < 2 {
        return Err(refused(format!(
            "{n_labels} labels have two rows or more, but it takes at least 2 such labels"
        )));
    }
    Ok(())
}

/// Two rows each of two labels.
const SMALLEST_GROUPED_BATCH: usize = 4;

/// The rows of each label that has two or more, labels in the order in which they first come.
fn groups_of(dataset: &Dataset) -> Vec<Vec<u32>> {
    let keys: Vec<u64> = match &dataset.labels {
        Some(Labels::Integer(labels)) => labels.iter().map(|&label| label as u64).collect(),
        // As Python's dictionary has it, 0.0 and -0.0 are one key.
        Some(Labels::Float(labels)) => labels
            .iter()
            .map(|&label| u64::from((label + 0.0).to_bits()))
            .collect(),
        Some(Labels::Vector { .. }) | None => Vec::new(),
    };
    let mut places: HashMap<u64, usize> = HashMap::new();
    let mut groups: Vec<Vec<u32>> = Vec::new();
    for (row, key) in keys.into_iter().enumerate() {
        let place = *places.entry(key).or_insert(groups.len());
        if place == groups.len() {
            groups.push(Vec::new());
        }
        groups[place].push(row as u32);
    }
    groups.retain(|group| group.len() >= 2);
    groups
}

/// How many rows come before fewer than two labels are left to take turns.
fn n_rows_in_turns(groups: &[Vec<u32>]) -> usize {
    let mut n_pairs: Vec<usize> = groups.iter().map(|group| group.len() / 2).collect();
    n_pairs.sort_unstable_by(|a, b| b.cmp(a));
    let n_rounds = n_pairs.get(1).copied().unwrap_or(0);
    n_pairs.iter().map(|&n| 2 * n.min(n_rounds)).sum()
}

/// The most permutations that [`BatchSampler::NoDuplicates`] draws to give as many batches as it
/// promises.
const MAX_PASSES: usize = 3;

/// One sampler's progress through an epoch. Batches are drawn when they are asked for, since
/// samplers of several data sets share a generator.
struct Walk<'d> {
    rows: Rows<'d>,
    batch_size: usize,
    drop_last: bool,
    /// The seed for the epoch.
    seed: u32,
    state: State,
}

enum State {
    /// Nothing is drawn yet.
    New(BatchSampler),
    /// Rows in order, and how many of them are given out.
    Slices(Vec<u32>, usize),
    /// Batches of so many passes over the rows, and how many have been given out.
    Passes {
        batches: std::vec::IntoIter<Vec<u32>>,
        n_passes: usize,
        n_given: usize,
    },
    /// Rows of each label, the next at the end, those drawn for a batch, and their last label.
    Turns {
        groups: Vec<Group>,
        drawn: VecDeque<u32>,
        last_label: Option<usize>,
    },
}

/// The rows of a label that are still to come, the next at the end.
struct Group {
    label: usize,
    rows: Vec<u32>,
}

impl<'d> Walk<'d> {
    fn new(
        kind: BatchSampler,
        rows: Rows<'d>,
        batch_size: usize,
        drop_last: bool,
        seed: u32,
    ) -> Self {
        assert!(batch_size > 0, "batch_size is at least 1");
        Self {
            rows,
            batch_size,
            drop_last,
            seed,
            state: State::New(kind),
        }
    }

    /// Whether a pass has ended with fewer batches than are promised, and another one may add some.
    fn is_pass_short(&self) -> bool {
        let State::Passes {
            batches,
            n_passes,
            n_given,
        } = &self.state
        else {
            return false;
        };
        // Without `drop_last` a pass is never short.
        let n_promised = self.rows.n_rows() / self.batch_size;
        let is_short = (1..n_promised).contains(n_given);
        batches.len() == 0 && is_short && *n_passes < MAX_PASSES && self.drop_last
    }

    /// The batches of one pass over all rows.
    fn pass(&self, engine: &mut Mt19937) -> std::vec::IntoIter<Vec<u32>> {
        let order = engine.permutation(self.rows.n_rows());
        let mut batches = first_fit(&order, &self.rows.text_ids(), self.batch_size);
        if self.drop_last {
            batches.retain(|batch| batch.len() == self.batch_size);
        }
        batches.into_iter()
    }

    fn begin(&mut self, kind: BatchSampler, engine: &mut Mt19937) {
        if kind != BatchSampler::BatchSampler {
            *engine = Mt19937::new(self.seed);
        }
        self.state = match kind {
            BatchSampler::BatchSampler => State::Slices(engine.permutation(self.rows.n_rows()), 0),
            BatchSampler::NoDuplicates => State::Passes {
                batches: self.pass(engine),
                n_passes: 1,
                n_given: 0,
            },
            BatchSampler::GroupByLabel => {
                let groups = self.rows.groups().into_iter().enumerate();
                let shuffled = groups.map(|(label, group)| {
                    let mut order = engine.permutation(group.len());
                    order.truncate(group.len() / 2 * 2);
                    let rows = order.iter().rev().map(|&i| group[i as usize]).collect();
                    Group { label, rows }
                });
                State::Turns {
                    groups: shuffled.collect(),
                    drawn: VecDeque::new(),
                    last_label: None,
                }
            }
        };
    }

    fn next(&mut self, engine: &mut Mt19937) -> Option<Vec<u32>> {
        if let State::New(kind) = self.state {
            self.begin(kind, engine);
        }
        if self.is_pass_short() {
            let next = self.pass(engine);
            if let State::Passes {
                batches, n_passes, ..
            } = &mut self.state
            {
                *batches = next;
                *n_passes += 1;
            }
            return self.next(engine);
        }
        let n_rows = self.rows.n_rows();
        match &mut self.state {
            State::New(_) => None,
            State::Passes {
                batches,
                n_passes,
                n_given,
            } => {
                let n_promised = n_rows / self.batch_size;
                let batch = batches.next();
                let is_wanted = *n_passes == 1 || *n_given < n_promised;
                *n_given += usize::from(batch.is_some());
                batch.filter(|_| is_wanted)
            }
            State::Slices(order, n_given) => {
                let rows = &order[*n_given..n_rows.min(*n_given + self.batch_size)];
                *n_given += rows.len();
                let is_partial = rows.len() < self.batch_size;
                if is_partial {
                    // Looking for more rows, torch's RandomSampler draws a permutation that it doesn't use.
                    engine.skip_permutation(n_rows);
                }
                let is_left_out = rows.is_empty() || (is_partial && self.drop_last);
                (!is_left_out).then(|| rows.to_vec())
            }
            State::Turns {
                groups,
                drawn,
                last_label,
            } => {
                // Upstream draws the order of labels anew in every round, and gives a batch out as soon
                // as it is full, which may be within a round.
                while drawn.len() < self.batch_size && groups.len() >= 2 {
                    let order = engine.permutation(groups.len());
                    let mut rest: Vec<Option<Group>> =
                        std::mem::take(groups).into_iter().map(Some).collect();
                    groups.extend(order.iter().filter_map(|&i| rest[i as usize].take()));
                    // Pairs that follow each other in a batch have different labels.
                    if !drawn.is_empty() && Some(groups[0].label) == *last_label {
                        groups.swap(0, 1);
                    }
                    for group in groups.iter_mut() {
                        drawn.extend(group.rows.pop());
                        drawn.extend(group.rows.pop());
                    }
                    *last_label = groups.last().map(|group| group.label);
                    groups.retain(|group| !group.rows.is_empty());
                }
                let n = drawn.len().min(self.batch_size);
                let is_batch =
                    n == self.batch_size || (!self.drop_last && n >= SMALLEST_GROUPED_BATCH);
                let rows: Vec<u32> = drawn.drain(..n).collect();
                is_batch.then_some(rows)
            }
        }
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
    // Torch seeds its engine with the low 32 bits only.
    Mt19937::new(seed as u32).permutation(n)
}

/// A number for each text, row by row: equal numbers for equal texts, whatever their columns.
#[derive(Debug, Clone)]
pub struct TextIds {
    ids: Vec<u32>,
    n_columns: usize,
}

/// The number of a text that comes nowhere else, where such are not told apart.
const ALONE: u32 = u32::MAX;

impl TextIds {
    /// The numbers of so many texts, in rows of so many, each of which comes nowhere else.
    pub(crate) fn alone(n_texts: usize, n_columns: usize) -> Self {
        Self {
            ids: vec![ALONE; n_texts],
            n_columns,
        }
    }

    /// Gives the text at a place a number.
    pub(crate) fn set(&mut self, place: usize, id: u32) {
        self.ids[place] = id;
    }

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

/// Upstream's walk (`NoDuplicatesBatchSampler._iter_one_pass`, `base/sampler.py`) fills one batch at a time: it goes through the rows left over, in the
/// permutation's order, takes each row that shares no text with the batch so far, and leaves the
/// others, in order, for the next batch. A row thus ends in the earliest batch that, when the row's
/// turn comes, is neither full nor shares a text with it. Seen that way one pass over the rows is
/// enough: first fit. The walk takes quadratic time where a text is in very many rows; this does
/// not, because the batches which hold a text, or are full, are stepped over in one go.
fn first_fit(permutation: &[u32], texts: &TextIds, batch_size: usize) -> Vec<Vec<u32>> {
    let repeatable = || texts.ids.iter().filter(|&&id| id != ALONE);
    let n_texts = repeatable().max().map_or(0, |&id| id as usize + 1);
    let mut n_rows_with = vec![0u32; n_texts];
    for &text in repeatable() {
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
                .filter(|&text| text != ALONE && n_rows_with[text as usize] > 1),
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

    fn permutation(&mut self, n: usize) -> Vec<u32> {
        assert!(n <= MAX_ROWS, "at most {MAX_ROWS} rows, not {n}");
        let mut permutation: Vec<u32> = (0..n as u32).collect();
        for i in 0..n.saturating_sub(1) {
            let z = self.next_u32() as usize % (n - i);
            permutation.swap(i, i + z);
        }
        permutation
    }

    /// Draws what [`Self::permutation`] draws.
    fn skip_permutation(&mut self, n: usize) {
        for _ in 1..n {
            self.next_u32();
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

//! Texts that are near an anchor and are not its positives.

use std::{collections::HashMap, ops::ControlFlow};

use rayon::prelude::*;

use crate::{
    Embeddings, Hit, SearchError, SearchOptions, Similarity,
    report::{MiningReport, Skipped},
    semantic_search,
};

/// What to mine; the names and defaults are those of `mine_hard_negatives`.
///
/// The rank of a candidate is counted without the anchor's own positives and without what the
/// margins and scores below leave out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MiningOptions {
    /// So many of the nearest candidates are passed over.
    pub range_min: usize,
    /// Candidates past this rank are not considered. Without it: `range_min + num_negatives` and the
    /// largest number of positives of an anchor, or `range_min + 10 * num_negatives` and that where
    /// `max_score` or a margin may leave some out.
    pub range_max: Option<usize>,
    /// Candidates more similar to the anchor than this are left out.
    pub max_score: Option<f32>,
    /// Candidates less similar to the anchor than this are left out.
    pub min_score: Option<f32>,
    /// Candidates are left out that are not less similar to the anchor by this much than its least
    /// similar positive.
    pub absolute_margin: Option<f32>,
    /// The same by this share of that positive's similarity: s > p - |p| * margin is left out.
    pub relative_margin: Option<f32>,
    /// How many negatives an anchor gets.
    pub num_negatives: usize,
    /// Which of the candidates.
    pub sampling_strategy: SamplingStrategy,
    /// Whether an anchor's positives stay among the candidates. It makes sense with
    /// [`OutputFormat::NTuple`] alone.
    pub include_positives: bool,
    /// What [`HardNegatives::rows`] gives.
    pub output_format: OutputFormat,
}

impl Default for MiningOptions {
    fn default() -> Self {
        Self {
            range_min: 0,
            range_max: None,
            max_score: None,
            min_score: None,
            absolute_margin: None,
            relative_margin: None,
            num_negatives: 3,
            sampling_strategy: SamplingStrategy::Top,
            include_positives: false,
            output_format: OutputFormat::Triplet,
        }
    }
}

/// Which candidates become negatives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SamplingStrategy {
    /// The nearest.
    Top,
    /// Any, drawn without replacement. The candidates are upstream's; the draw is a function of the
    /// seed and the anchor's place, where upstream's is Python's global generator's.
    Random {
        /// The same seed draws the same.
        seed: u64,
    },
}

/// What a row of the result is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputFormat {
    /// Anchor, positive, one negative.
    Triplet,
    /// Anchor, positive, all negatives; anchors with too few are left out.
    NTuple,
    /// Anchor, one text, and whether it is a positive.
    LabeledPair,
    /// Anchor, a list of the positive and the negatives, and a list of labels.
    LabeledList,
}

impl MiningOptions {
    /// The number of ranks that are looked at, checked.
    ///
    /// * `max_positives`: the largest number of rows that share an anchor.
    ///
    /// # Errors
    /// Where no negative could be found with these options.
    pub fn range_max(&self, max_positives: usize) -> Result<usize, SearchError> {
        let n = self.num_negatives;
        if n == 0 {
            let problem = "found 0, allowed: 1 or more".to_owned();
            return Err(SearchError::option("num_negatives", problem));
        }
        for (option, value) in [
            ("max_score", self.max_score),
            ("min_score", self.min_score),
            ("absolute_margin", self.absolute_margin),
            ("relative_margin", self.relative_margin),
        ] {
            if value.is_some_and(|value| !value.is_finite()) {
                let problem = "it must be a finite number".to_owned();
                return Err(SearchError::option(option, problem));
            }
        }
        let may_skip = self.max_score.is_some()
            || self.absolute_margin.is_some()
            || self.relative_margin.is_some();
        let range_max = self.range_max.unwrap_or_else(|| {
            let n_wanted = if may_skip { n.saturating_mul(10) } else { n };
            self.range_min
                .saturating_add(n_wanted)
                .saturating_add(max_positives)
        });
        if self.range_min >= range_max {
            let problem = format!(
                "found {}, but it must be less than range_max, which is {range_max}",
                self.range_min
            );
            return Err(SearchError::option("range_min", problem));
        }
        let n_left = range_max - self.range_min;
        if n > n_left {
            let problem = format!(
                "found {n}, but from range_min {} to range_max {range_max} there are {n_left} candidates: \
                 lower num_negatives or range_min, or raise range_max",
                self.range_min
            );
            return Err(SearchError::option("num_negatives", problem));
        }
        Ok(range_max)
    }
}

/// Anchors and positives, each text once, and the corpus to mine in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MiningPairs<'t> {
    queries: Vec<&'t str>,
    corpus: Vec<&'t str>,
    /// For each query its positives in the corpus, each once.
    positives: Vec<Vec<u32>>,
    n_rows: usize,
    max_positives: usize,
}

impl<'t> MiningPairs<'t> {
    /// Puts the rows of a data set together: rows with the same anchor are one query with several
    /// positives. The texts of `corpus` come first among the candidates, then the positives that
    /// are not among them.
    ///
    /// # Errors
    /// Where there is no row, or not a positive for each anchor.
    pub fn new(
        anchors: impl IntoIterator<Item = &'t str>,
        positives: impl IntoIterator<Item = &'t str>,
        corpus: impl IntoIterator<Item = &'t str>,
    ) -> Result<Self, SearchError> {
        let mut documents = Unique::default();
        for text in corpus {
            documents.insert(text)?;
        }
        let (mut queries, mut positives_of) = (Unique::default(), Vec::<Vec<u32>>::new());
        let mut rows_of = Vec::<usize>::new();
        let mut positives = positives.into_iter();
        let mut n_rows = 0;
        for anchor in anchors {
            let Some(positive) = positives.next() else {
                let problem = format!("row {} has an anchor but no positive", n_rows + 1);
                return Err(SearchError::Shape(problem));
            };
            n_rows += 1;
            let query = queries.insert(anchor)? as usize;
            let positive = documents.insert(positive)?;
            if query == positives_of.len() {
                positives_of.push(Vec::new());
                rows_of.push(0);
            }
            rows_of[query] += 1;
            if !positives_of[query].contains(&positive) {
                positives_of[query].push(positive);
            }
        }
        if n_rows == 0 {
            return Err(SearchError::Shape("no rows to mine for".to_owned()));
        }
        if positives.next().is_some() {
            let problem = format!("row {} has a positive but no anchor", n_rows + 1);
            return Err(SearchError::Shape(problem));
        }
        Ok(Self {
            queries: queries.texts,
            corpus: documents.texts,
            positives: positives_of,
            n_rows,
            max_positives: rows_of.into_iter().max().unwrap_or(0),
        })
    }

    /// The anchors, each once, in order of their first rows: to be encoded as queries.
    pub fn queries(&self) -> &[&'t str] {
        &self.queries
    }

    /// The candidates, each once: to be encoded as documents.
    pub fn corpus(&self) -> &[&'t str] {
        &self.corpus
    }

    /// Rows that were put together.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// The largest number of rows that share an anchor.
    pub fn max_positives(&self) -> usize {
        self.max_positives
    }
}

/// Texts without repetition, in order.
#[derive(Debug, Default)]
struct Unique<'t> {
    texts: Vec<&'t str>,
    ids: HashMap<&'t str, u32>,
}

impl<'t> Unique<'t> {
    fn insert(&mut self, text: &'t str) -> Result<u32, SearchError> {
        let next = u32::try_from(self.texts.len())
            .map_err(|_| SearchError::Shape(format!("more than {} texts", u32::MAX)))?;
        let texts = &mut self.texts;
        Ok(*self.ids.entry(text).or_insert_with(|| {
            texts.push(text);
            next
        }))
    }
}

/// The negatives of each anchor.
#[derive(Debug, Clone, PartialEq)]
pub struct HardNegatives {
    options: MiningOptions,
    range_max: usize,
    n_rows: usize,
    /// For each query its positives with their similarities.
    positives: Vec<Vec<Hit>>,
    /// For each query at most `num_negatives`, the most similar first.
    negatives: Vec<Vec<Hit>>,
    skipped: Vec<Skipped>,
}

/// A row of the result, by places in [`MiningPairs::queries`] and [`MiningPairs::corpus`].
#[derive(Debug, Clone, PartialEq)]
pub struct MinedRow {
    /// The anchor.
    pub query: u32,
    /// Triplet, n-tuple and labeled list: the positive, then the negatives. Labeled pair: one of
    /// them.
    pub documents: Vec<u32>,
    /// The documents' similarities to the anchor.
    pub scores: Vec<f32>,
    /// Whether the first document is a positive; the others never are.
    pub starts_with_positive: bool,
}

/// Finds the hard negatives of every anchor.
///
/// * `queries`, [queries, dimension]: the embeddings of [`MiningPairs::queries`].
/// * `corpus`, [documents, dimension]: those of [`MiningPairs::corpus`].
///
/// Upstream scales both to length 1 before it compares, so that `dot` is the cosine and distances
/// are those on the sphere; whoever calls this does the same. Scores and margins are compared in
/// f32.
///
/// Upstream: `mine_hard_negatives` of `util/hard_negatives.py`.
///
/// # Errors
/// As [`MiningOptions::range_max`]; where the embeddings are not those of `pairs`; and
/// [`SearchError::Stopped`] when `on_progress`, which gets the number of queries done, breaks.
pub fn mine_hard_negatives(
    pairs: &MiningPairs<'_>,
    queries: Embeddings<'_>,
    corpus: Embeddings<'_>,
    similarity: Similarity,
    options: &MiningOptions,
    on_progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
) -> Result<HardNegatives, SearchError> {
    let range_max = options.range_max(pairs.max_positives)?;
    for (what, embeddings, texts) in [
        ("anchors", queries, &pairs.queries),
        ("documents", corpus, &pairs.corpus),
    ] {
        if embeddings.len() != texts.len() {
            return Err(SearchError::Shape(format!(
                "{} embeddings for {} {what}",
                embeddings.len(),
                texts.len()
            )));
        }
    }
    let n_looked_at = range_max.saturating_add(pairs.max_positives);
    let search = SearchOptions {
        top_k: n_looked_at,
        similarity,
        ..SearchOptions::default()
    };
    let nearest = semantic_search(queries, corpus, &search, on_progress)?;
    let positives = positives_with_scores(pairs, queries, corpus, similarity);

    let mined: Vec<(Vec<Hit>, Counts)> = nearest
        .into_par_iter()
        .enumerate()
        .map(|(query, nearest)| {
            let (candidates, counts) = filter(nearest, &positives[query], options);
            (choose(candidates, query, range_max, options), counts)
        })
        .collect();
    let mut counts = Counts::default();
    let mut negatives = Vec::with_capacity(mined.len());
    for (found, more) in mined {
        counts.add(more);
        negatives.push(found);
    }
    // Upstream's table of candidates is padded to this size where the corpus is smaller.
    let n_candidates = pairs.queries.len().saturating_mul(n_looked_at);
    Ok(HardNegatives {
        options: *options,
        range_max,
        n_rows: pairs.n_rows,
        positives,
        negatives,
        skipped: counts.into_skipped(n_candidates, options),
    })
}

fn positives_with_scores(
    pairs: &MiningPairs<'_>,
    queries: Embeddings<'_>,
    corpus: Embeddings<'_>,
    similarity: Similarity,
) -> Vec<Vec<Hit>> {
    let (queries, corpus) = (similarity.prepared(queries), similarity.prepared(corpus));
    let positives = pairs.positives.par_iter().enumerate();
    positives
        .map(|(query, positives)| {
            let query = queries.view().row(query);
            let hit = |&corpus_id: &u32| Hit {
                corpus_id,
                score: similarity.of_prepared(query, corpus.view().row(corpus_id as usize)),
            };
            positives.iter().map(hit).collect()
        })
        .collect()
}

/// Candidates left out, by reason.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    positives: usize,
    absolute_margin: usize,
    relative_margin: usize,
    max_score: usize,
    min_score: usize,
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.positives += other.positives;
        self.absolute_margin += other.absolute_margin;
        self.relative_margin += other.relative_margin;
        self.max_score += other.max_score;
        self.min_score += other.min_score;
    }

    /// The reasons that left something out, with upstream's shares: of all places looked at, less
    /// what the margins before it took.
    fn into_skipped(self, n_candidates: usize, options: &MiningOptions) -> Vec<Skipped> {
        let mut n_left = n_candidates;
        let mut skipped = Vec::new();
        for (option, value, n, lessens) in [
            (
                "absolute_margin",
                options.absolute_margin,
                self.absolute_margin,
                true,
            ),
            (
                "relative_margin",
                options.relative_margin,
                self.relative_margin,
                true,
            ),
            ("max_score", options.max_score, self.max_score, false),
            ("min_score", options.min_score, self.min_score, false),
        ] {
            if let (Some(value), 1..) = (value, n) {
                skipped.push(Skipped {
                    option,
                    value,
                    n,
                    share: n as f64 / n_left as f64,
                });
                if lessens {
                    n_left -= n;
                }
            }
        }
        skipped
    }
}

/// The candidates that the options leave, the most similar first.
fn filter(nearest: Vec<Hit>, positives: &[Hit], options: &MiningOptions) -> (Vec<Hit>, Counts) {
    // The least similar positive decides for all, to be on the safe side.
    let least = positives
        .iter()
        .map(|hit| hit.score)
        .fold(f32::INFINITY, f32::min);
    let is_positive =
        |id: u32| !options.include_positives && positives.iter().any(|hit| hit.corpus_id == id);
    let relative = options
        .relative_margin
        .map(|margin| least - least.abs() * margin);
    let mut counts = Counts::default();
    let kept = nearest
        .into_iter()
        .filter(|hit| {
            let count = if is_positive(hit.corpus_id) {
                &mut counts.positives
            } else if options
                .absolute_margin
                .is_some_and(|margin| hit.score + margin > least)
            {
                &mut counts.absolute_margin
            } else if relative.is_some_and(|threshold| hit.score > threshold) {
                &mut counts.relative_margin
            } else if options.max_score.is_some_and(|max| hit.score > max) {
                &mut counts.max_score
            } else if options.min_score.is_some_and(|min| hit.score < min) {
                &mut counts.min_score
            } else {
                return true;
            };
            *count += 1;
            false
        })
        .collect();
    (kept, counts)
}

/// The negatives of one anchor from its candidates.
fn choose(
    mut candidates: Vec<Hit>,
    query: usize,
    range_max: usize,
    options: &MiningOptions,
) -> Vec<Hit> {
    candidates.truncate(range_max);
    candidates.drain(..options.range_min.min(candidates.len()));
    if let SamplingStrategy::Random { seed } = options.sampling_strategy {
        let n = candidates.len();
        // The first places of a shuffle (Fisher and Yates), then the order by similarity again.
        let mut places: Vec<usize> = (0..n).collect();
        let mut state = mix(seed ^ mix(query as u64));
        for i in 0..options.num_negatives.min(n) {
            state = mix(state);
            let j = i + ((u128::from(state) * (n - i) as u128) >> 64) as usize;
            places.swap(i, j);
        }
        places.truncate(options.num_negatives);
        places.sort_unstable();
        return places.into_iter().map(|place| candidates[place]).collect();
    }
    candidates.truncate(options.num_negatives);
    candidates
}

/// One step of SplitMix64 (Steele, Lea and Flood 2014).
fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl HardNegatives {
    /// For each query its negatives, the most similar first; fewer than asked for where there are no
    /// more.
    pub fn negatives(&self) -> &[Vec<Hit>] {
        &self.negatives
    }

    /// The rows of the result in the order of the anchors, and for each of its positives.
    pub fn rows(&self) -> Vec<MinedRow> {
        let mut rows = Vec::new();
        for (query, (positives, negatives)) in
            self.positives.iter().zip(&self.negatives).enumerate()
        {
            let row = |starts_with_positive, hits: &[&[Hit]]| MinedRow {
                query: query as u32,
                documents: hits.concat().iter().map(|hit| hit.corpus_id).collect(),
                scores: hits.concat().iter().map(|hit| hit.score).collect(),
                starts_with_positive,
            };
            if self.options.output_format == OutputFormat::LabeledPair {
                rows.extend(positives.chunks(1).map(|positive| row(true, &[positive])));
                rows.extend(negatives.chunks(1).map(|negative| row(false, &[negative])));
                continue;
            }
            for positive in positives.chunks(1) {
                match self.options.output_format {
                    OutputFormat::NTuple if negatives.len() < self.options.num_negatives => {}
                    OutputFormat::LabeledList if negatives.is_empty() => {}
                    OutputFormat::NTuple | OutputFormat::LabeledList => {
                        rows.push(row(true, &[positive, negatives]));
                    }
                    OutputFormat::Triplet | OutputFormat::LabeledPair => {
                        let negatives = negatives.chunks(1);
                        rows.extend(negatives.map(|negative| row(true, &[positive, negative])));
                    }
                }
            }
        }
        rows
    }

    /// What was found, in numbers.
    pub fn report(&self) -> MiningReport {
        let n_negatives = self.options.num_negatives;
        let (mut positive, mut negative, mut difference) = (Vec::new(), Vec::new(), Vec::new());
        let mut n_tuples = 0;
        for (positives, negatives) in self.positives.iter().zip(&self.negatives) {
            positive.extend(positives.iter().map(|hit| hit.score));
            let is_whole = negatives.len() == n_negatives;
            if self.options.output_format == OutputFormat::NTuple && !is_whole {
                continue;
            }
            for one in positives {
                n_tuples += usize::from(!negatives.is_empty());
                negative.extend(negatives.iter().map(|hit| hit.score));
                difference.extend(negatives.iter().map(|hit| one.score - hit.score));
            }
        }
        let n_pairs = positive.len();
        let (n_possible, n_rows) = match self.options.output_format {
            OutputFormat::Triplet => (n_pairs * n_negatives, negative.len()),
            OutputFormat::NTuple | OutputFormat::LabeledList => (n_pairs, n_tuples),
            OutputFormat::LabeledPair => {
                let n_found: usize = self.negatives.iter().map(Vec::len).sum();
                let n_possible = self.negatives.len() * n_negatives + self.n_rows;
                (n_possible, n_pairs + n_found)
            }
        };
        MiningReport::new(
            [positive, negative, difference],
            self.skipped.clone(),
            n_possible,
            n_rows,
            &self.options,
        )
    }

    /// The number of ranks that were looked at.
    pub fn range_max(&self) -> usize {
        self.range_max
    }
}

//! Texts that are near an anchor and are not its positives.

use std::{collections::HashMap, ops::ControlFlow};

use kernels::random::mix;
use rayon::prelude::*;

use crate::{
    embeddings::Embeddings,
    error::SearchError,
    mining_options::{MiningOptions, OutputFormat, SamplingStrategy},
    report::{MiningReport, Skipped},
    semantic_search::{Hit, SearchOptions, semantic_search},
    similarity::Similarity,
};

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

    /// Statistics of the result.
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

//! The nearest embeddings of a corpus, all of it looked at.

use std::{cmp::Ordering, collections::BinaryHeap, ops::ControlFlow};

use kernels::gemm::{Gemm, Kind, RustGemm, Shape};
use rayon::prelude::*;

use crate::{
    embeddings::{Embeddings, dot, rough_absolute_distance},
    error::SearchError,
    similarity::Similarity,
};

/// Hits kept beyond those asked for until similarities are computed exactly: what stands at the
/// end of the list by less than a rounding error may change its place.
const SLACK: usize = 8;

/// Options of a search.
///
/// The two chunk sizes bound the memory, 4 bytes times their product, and change no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SearchOptions {
    /// How many hits a query gets, or all of the corpus where that has fewer.
    pub top_k: usize,
    /// The similarity to rank by.
    pub similarity: Similarity,
    /// Queries compared at once.
    pub query_chunk_size: usize,
    /// Documents compared at once.
    pub corpus_chunk_size: usize,
}

impl Default for SearchOptions {
    /// Ten hits by cosine, upstream's defaults; chunks of 512 and 8192.
    fn default() -> Self {
        Self {
            top_k: 10,
            similarity: Similarity::Cosine,
            query_chunk_size: 512,
            corpus_chunk_size: 8192,
        }
    }
}

/// A row of the corpus that a query found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    /// The row in the corpus.
    pub corpus_id: u32,
    /// Its similarity to the query.
    pub score: f32,
}

impl Hit {
    /// Better first: the greater score, and among equals the row that comes first.
    fn order(&self, other: &Self) -> Ordering {
        let by_score = other.score.total_cmp(&self.score);
        by_score.then(self.corpus_id.cmp(&other.corpus_id))
    }
}

/// The `top_k` rows of the corpus most similar to each query, best first.
///
/// A matrix product finds the candidates; their scores are then computed once more in f64 and
/// rounded, so that equal embeddings have equal scores and the threads and chunks don't matter.
/// Among equal scores the row that comes first in the corpus comes first (upstream leaves their
/// order to `torch.topk` and a heap).
///
/// `on_progress` gets the number of queries done, several times for each chunk of queries.
///
/// Upstream: `semantic_search` of `util/retrieval.py`.
///
/// # Errors
/// Where the dimensions differ, an option is 0, or [`SearchError::Stopped`] when `on_progress`
/// breaks.
pub fn semantic_search(
    queries: Embeddings<'_>,
    corpus: Embeddings<'_>,
    options: &SearchOptions,
    on_progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
) -> Result<Vec<Vec<Hit>>, SearchError> {
    if queries.dimension() != corpus.dimension() {
        return Err(SearchError::Shape(format!(
            "queries have {} dimensions and the corpus has {}: encode both with one model",
            queries.dimension(),
            corpus.dimension()
        )));
    }
    for (option, value) in [
        ("top_k", options.top_k),
        ("query_chunk_size", options.query_chunk_size),
        ("corpus_chunk_size", options.corpus_chunk_size),
    ] {
        if value == 0 {
            let problem = "found 0, allowed: 1 or more".to_owned();
            return Err(SearchError::option(option, problem));
        }
    }
    let similarity = options.similarity;
    let (queries, corpus) = (similarity.prepared(queries), similarity.prepared(corpus));
    let (queries, corpus) = (queries.view(), corpus.view());
    let corpus_norms = match similarity {
        Similarity::Euclidean => corpus.rows().map(|row| dot(row, row) as f32).collect(),
        _ => Vec::new(),
    };
    let top_k = options.top_k.min(corpus.len());
    let n_kept = top_k.saturating_add(SLACK).min(corpus.len());
    let mut scores = Vec::new();
    let mut hits: Vec<Vec<Hit>> = Vec::with_capacity(queries.len());
    for first_query in (0..queries.len()).step_by(options.query_chunk_size) {
        let n_queries = options.query_chunk_size.min(queries.len() - first_query);
        let mut best: Vec<Best> = (0..n_queries).map(|_| Best::new(n_kept)).collect();
        for first_document in (0..corpus.len()).step_by(options.corpus_chunk_size) {
            let n_documents = options.corpus_chunk_size.min(corpus.len() - first_document);
            scores.resize(n_queries * n_documents, 0.0);
            let part = |all: Embeddings<'_>, first, n| -> std::ops::Range<usize> {
                first * all.dimension()..(first + n) * all.dimension()
            };
            rough_scores(
                similarity,
                &queries.values()[part(queries, first_query, n_queries)],
                &corpus.values()[part(corpus, first_document, n_documents)],
                corpus_norms.get(first_document..first_document + n_documents),
                corpus.dimension(),
                &mut scores,
            );
            best.par_iter_mut()
                .zip(scores.par_chunks(n_documents))
                .for_each(|(best, scores)| best.offer(first_document as u32, scores));
            if on_progress(first_query).is_break() {
                return Err(SearchError::Stopped);
            }
        }
        hits.par_extend(best.into_par_iter().enumerate().map(|(i, best)| {
            let query = queries.row(first_query + i);
            let mut hits: Vec<Hit> = best
                .ids()
                .map(|corpus_id| Hit {
                    corpus_id,
                    score: similarity.of_prepared(query, corpus.row(corpus_id as usize)),
                })
                .collect();
            hits.sort_unstable_by(Hit::order);
            hits.truncate(top_k);
            hits
        }));
        if on_progress(hits.len()).is_break() {
            return Err(SearchError::Stopped);
        }
    }
    Ok(hits)
}

/// Scores that order the documents of each query, [queries, documents]: the similarity, but for the
/// Euclidean distance 2ab - b^2, which has the same order for one query and needs no root.
fn rough_scores(
    similarity: Similarity,
    queries: &[f32],
    corpus: &[f32],
    corpus_norms: Option<&[f32]>,
    dimension: usize,
    scores: &mut [f32],
) {
    let n_documents = corpus.len() / dimension;
    if similarity == Similarity::Manhattan {
        scores
            .par_chunks_mut(n_documents)
            .zip(queries.par_chunks(dimension))
            .for_each(|(scores, query)| {
                for (score, document) in scores.iter_mut().zip(corpus.chunks_exact(dimension)) {
                    *score = -rough_absolute_distance(query, document);
                }
            });
        return;
    }
    let (alpha, beta) = match (similarity, corpus_norms) {
        (Similarity::Euclidean, Some(norms)) => {
            scores
                .par_chunks_mut(n_documents)
                .for_each(|scores| scores.copy_from_slice(norms));
            (2.0, -1.0)
        }
        _ => (1.0, 0.0),
    };
    let shape = Shape {
        m: queries.len() / dimension,
        n: n_documents,
        k: dimension,
    };
    RustGemm.product(Kind::NT, shape, alpha, queries, corpus, beta, scores);
}

/// The best documents of one query so far.
#[derive(Debug)]
struct Best {
    n: usize,
    /// The worst on top.
    heap: BinaryHeap<Kept>,
}

#[derive(Debug)]
struct Kept {
    score: f32,
    corpus_id: u32,
}

impl Best {
    fn new(n: usize) -> Self {
        Self {
            n,
            heap: BinaryHeap::with_capacity(n),
        }
    }

    /// Takes in the scores of the documents `first..`. They come in the corpus's order, so that among
    /// equals the first is there already.
    fn offer(&mut self, first: u32, scores: &[f32]) {
        let mut ids = first..;
        let mut scores = scores.iter();
        while self.heap.len() < self.n {
            let (Some(&score), Some(corpus_id)) = (scores.next(), ids.next()) else {
                return;
            };
            self.heap.push(Kept { score, corpus_id });
        }
        let Some(mut worst) = self.heap.peek().map(|worst| worst.score) else {
            return;
        };
        for (&score, corpus_id) in scores.zip(ids) {
            if score > worst {
                let Some(mut top) = self.heap.peek_mut() else {
                    return;
                };
                *top = Kept { score, corpus_id };
                drop(top);
                worst = self.heap.peek().map_or(worst, |worst| worst.score);
            }
        }
    }

    fn ids(self) -> impl Iterator<Item = u32> {
        self.heap.into_iter().map(|kept| kept.corpus_id)
    }
}

impl Ord for Kept {
    /// The heap's top is the greatest: the lowest score, and among equals the last.
    fn cmp(&self, other: &Self) -> Ordering {
        let by_score = other.score.total_cmp(&self.score);
        by_score.then(self.corpus_id.cmp(&other.corpus_id))
    }
}

impl PartialOrd for Kept {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Kept {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Kept {}

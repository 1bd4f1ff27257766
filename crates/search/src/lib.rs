//! Operations on finished embeddings: exact search, mining of hard negatives, search for false ones, and
//! quantisation. Pure functions over `f32` slices; no tensors, models or files.
//!
//! Results are those of `util.semantic_search`, `util.mine_hard_negatives` and
//! `util.quantize_embeddings` of sentence-transformers 6.2.0 on the same embeddings;
//! `tests/fixtures/make_fixtures.py` makes the rows and numbers that the tests compare with.
//!
//! ```
//! use std::ops::ControlFlow;
//! use search::{Embeddings, SearchOptions, semantic_search};
//!
//! let corpus = Embeddings::new(&[1.0, 0.0, 0.0, 1.0, 0.6, 0.8], 2)?;
//! let queries = Embeddings::new(&[2.0, 0.1], 2)?;
//! let options = SearchOptions { top_k: 2, ..SearchOptions::default() };
//! let hits = semantic_search(queries, corpus, &options, &mut |_| ControlFlow::Continue(()))?;
//! let ids: Vec<u32> = hits[0].iter().map(|hit| hit.corpus_id).collect();
//! assert_eq!(ids, [0, 2]);
//! # Ok::<(), search::SearchError>(())
//! ```

pub mod quantization;

mod embeddings;
mod error;
mod hard_negatives;
mod mining_options;
mod nearer;
mod report;
mod semantic_search;
mod similarity;

pub use crate::{
    embeddings::Embeddings,
    error::SearchError,
    hard_negatives::{HardNegatives, MinedRow, MiningPairs, mine_hard_negatives},
    mining_options::{MiningOptions, OutputFormat, SamplingStrategy},
    nearer::{NearerText, OwnTexts, nearer_texts},
    quantization::{Precision, Quantized, Ranges, quantize_embeddings},
    report::{Distribution, MiningReport, Skipped},
    semantic_search::{Hit, SearchOptions, semantic_search},
    similarity::Similarity,
};

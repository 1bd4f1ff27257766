//! Evaluators for sentence embeddings: pure functions from embeddings and labels to metrics.
//!
//! Keys, primary metric and CSV files are those of the class of the same name in
//! sentence-transformers 6.2.0; `tests/fixtures/make_fixtures.py` makes the figures that the tests
//! compare with. Nothing here encodes a text: a caller with a model hands in tensors
//! `[n, dimension]`, on any device and without gradients.
//!
//! ```
//! use eval::{Evaluator, Inputs, Similarity, TripletEvaluator};
//! use tch::Tensor;
//!
//! let evaluator = TripletEvaluator::new("dev", &[Similarity::Cosine]);
//! let anchors = Tensor::from_slice2(&[[1.0f32, 0.0], [0.0, 1.0]]);
//! let positives = Tensor::from_slice2(&[[0.9f32, 0.1], [1.0, 0.1]]);
//! let negatives = Tensor::from_slice2(&[[0.1f32, 0.9], [0.1, 1.0]]);
//! let metrics = evaluator.evaluate(&Inputs::new(&[anchors, positives, negatives]))?;
//! assert_eq!(metrics.get("dev_cosine_accuracy"), Some(0.5));
//! # Ok::<(), eval::EvalError>(())
//! ```

pub mod bootstrap;
pub mod csv;
pub mod entry;
pub mod nano_beir;
pub mod options;
pub mod paraphrase_mining;
pub mod registry;

mod binary_classification;
mod embedding_similarity;
mod error;
mod evaluator;
mod information_retrieval;
mod label_accuracy;
mod metrics;
mod mse;
mod rank;
mod reranking;
mod rows;
pub mod similarity;
mod translation;
mod triplet;

pub use binary_classification::BinaryClassificationEvaluator;
pub use embedding_similarity::EmbeddingSimilarityEvaluator;
pub use error::EvalError;
pub use evaluator::{Evaluator, Inputs, LabelKind, Labels, text_ids};
pub use information_retrieval::{InformationRetrievalEvaluator, RetrievalTask};
pub use label_accuracy::LabelAccuracyEvaluator;
pub use metrics::Metrics;
pub use mse::MseEvaluator;
pub use nano_beir::NanoBeirEvaluator;
pub use options::Options;
pub use paraphrase_mining::ParaphraseMiningEvaluator;
pub use registry::EvaluatorKind;
pub use reranking::RerankingEvaluator;
pub use rows::RowFigures;
pub use search::{Precision, Similarity};
pub use translation::TranslationEvaluator;
pub use triplet::{Margin, TripletEvaluator};

//! MPNet sentence encoders on libtorch: load, run, differentiate and save.
//!
//! A [`SentenceTransformer`] is a folder in sentence-transformers' layout brought into memory: a
//! [`Tokenizer`], the MPNet encoder of [`mpnet`], a pooling over its tokens, and what follows it.
//! Sentences go through it as a [`PackedBatch`], which holds no padding; all weights lie in one
//! flat tensor, [`Parameters`].
//!
//! ```no_run
//! use std::{ops::ControlFlow, path::Path};
//!
//! use model::{EncodeOptions, SentenceTransformer};
//!
//! # fn main() -> Result<(), model::ModelError> {
//! let model = SentenceTransformer::load(Path::new("data/model"), tch::Device::Cpu)?;
//! let texts = ["A dog runs.", "A cat sleeps."];
//! let embeddings = model.encode(&texts, &EncodeOptions::default(), &mut |_done| ControlFlow::Continue(()))?;
//! assert_eq!(embeddings.size(), [2, model.dimension()]);
//! # Ok(())
//! # }
//! ```
//!
//! Every call into libtorch that can fail is made through its fallible form, so that a bad shape
//! is a [`ModelError`] and not an abort.

mod buckets;
mod compute;
mod error;
mod folder;
mod json;
mod modules;
pub mod mpnet;
mod packed;
mod parameters;
mod sentence_transformer;
mod static_batch;
mod tokenizer;
mod weights;

pub use crate::{
    compute::{Compute, Engine, GemmName, Precision},
    error::ModelError,
    folder::ModelFiles,
    modules::{Activation, Dense, Pooling, PoolingMode},
    packed::{ChunkLimit, ChunkedBatch, PackedBatch},
    parameters::{LeafId, Parameters, Span},
    sentence_transformer::{EncodeOptions, Mode, SentenceTransformer, Task},
    static_batch::{StaticBatch, StaticShape},
    tokenizer::Tokenizer,
};

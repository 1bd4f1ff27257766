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

mod batch;
mod compute;
mod encode;
mod error;
mod folder;
mod modules;
pub mod mpnet;
mod parameters;
mod passes;
mod random;
mod sentence_transformer;
mod tokenizer;

pub use crate::{
    batch::{
        packed::{ChunkLimit, ChunkedBatch, PackedBatch},
        recorded::{StaticBatch, StaticShape},
    },
    compute::{Compute, Engine, GemmName, Precision},
    encode::{EncodeOptions, Role},
    error::ModelError,
    folder::write::ModelFiles,
    modules::{Activation, Dense, Pooling, PoolingMode},
    parameters::{LeafId, Parameters, Span},
    passes::Mode,
    sentence_transformer::SentenceTransformer,
    tokenizer::Tokenizer,
};

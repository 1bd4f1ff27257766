//! Sentence encoders on kernels and libtorch: load, run, differentiate and save.
//!
//! A [`SentenceTransformer`] is a folder in sentence-transformers' layout brought into memory: a
//! [`Tokenizer`], an [`Encoder`] of its tokens, a pooling over them, and the modules after it.
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

mod adapter;
mod backend;
mod batch;
mod compute;
mod encode;
mod encoder;
mod error;
mod folder;
mod gemm_rates;
mod load;
mod merge;
mod modules;
mod network;
mod parameters;
mod passes;
mod random;
mod sentence_transformer;
mod tokenizer;

pub use crate::{
    adapter::{Lora, LoraTargets},
    backend::Mode,
    batch::{
        packed::{ChunkLimit, ChunkedBatch, PackedBatch},
        recorded::{StaticBatch, StaticShape},
    },
    compute::{Compute, Engine, GemmName, Precision},
    encode::{EncodeOptions, Role},
    encoder::{
        Encoder, MODEL_TYPES,
        family::Sizes,
        numbering::{Numbering, Positions},
        relative::relative_position_bucket,
        spec::{Dropout, Init, LayerSpec, Spec},
    },
    error::ModelError,
    folder::{
        adapter::{AdapterConfig, BaseModel},
        write::ModelFiles,
    },
    gemm_rates::GemmRates,
    load::LoadOptions,
    merge::MergeMethod,
    modules::{Activation, Dense, Pooling, PoolingMode},
    parameters::{LeafId, Parameters, Span},
    random::NewTokenizer,
    sentence_transformer::SentenceTransformer,
    tokenizer::Tokenizer,
};

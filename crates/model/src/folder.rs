//! A model's folder: its JSON files and weights, read and written.
//!
//! Read are the layouts of sentence-transformers 2 to 6 and a plain Hugging Face folder; written
//! is the classic one, which versions 2 to 6 and text-embeddings-inference read.

pub(crate) mod adapter;
pub(crate) mod json;
pub(crate) mod modules;
pub(crate) mod read;
pub(crate) mod settings;
pub(crate) mod weights;
pub(crate) mod write;

//! Training data: loading, validation, tokenised columns and the order of batches.
//! [`load_fields`] reads tables of other kinds: corpora with ids, judgements, lists of texts.
//!
//! [`load()`] reads parquet (through polars), CSV, TSV and JSON Lines into a [`Dataset`]: columns of
//! texts whose order has a meaning, and labels. Whatever is wrong with a file is found there,
//! before any training, and named by file, row and column; `README.md` beside this crate lists
//! every kind of bad input with its outcome. [`Dataset::tokenize`] turns the texts into ids once,
//! [`TokenCache`] keeps them for the next run, and [`sampler`] says which rows make up which batch. Nothing here knows of tensors or models.

mod csv;
mod dataset;
mod embeddings;
mod error;
mod fields;
mod files;
mod jsonl;
mod load;
pub mod nli;
mod parquet;
pub mod sampler;
pub mod split;
mod table;
mod token_cache;
mod tokens;
mod write;

pub use crate::{
    dataset::{Dataset, LABEL_COLUMNS, Labels, RESERVED_COLUMNS, TextColumn, Texts},
    embeddings::write_embeddings,
    error::{BadRow, DataError, Defect},
    fields::{Field, FieldKind, Wanted, load_fields, load_fields_of},
    load::{LoadOptions, OnBadRow, load, load_files},
    token_cache::{TokenCache, TokenKey, TokenLimits},
    tokens::{Prompt, TokenColumn, TokenizedDataset, UniqueTexts},
    write::{Cells, OutputColumn, TableFormat, write_table},
};

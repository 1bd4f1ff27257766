//! Training data: loading, validation, tokenised columns and the order of batches.
//! [`load_fields`] reads tables of other kinds: corpora with ids, judgements, lists of texts.
//!
//! [`load()`] reads parquet, CSV, TSV and JSON Lines into a [`Dataset`]: columns of
//! texts whose order has a meaning, and labels. Every defect of a file is found there, before any
//! training, and named by file, row and column; `README.md` beside this crate lists
//! every kind of bad input with its outcome. [`Dataset::tokenize`] turns the texts into ids once,
//! [`TokenCache`] keeps them for the next run, and [`sampler`] says which rows make up which batch. Nothing here knows of tensors or models.

pub mod audit;
mod check;
mod choose;
mod dataset;
mod digest;
mod error;
mod expand;
mod formats;
mod load;
pub mod nli;
mod options;
mod overlap;
pub mod sampler;
pub mod split;
mod store;
mod tables;
mod token_cache;
mod tokens;

pub use crate::{
    dataset::{Dataset, LABEL_COLUMNS, Labels, RESERVED_COLUMNS, TextColumn, Texts},
    digest::DataDigest,
    error::{BadRow, DataError, Defect},
    formats::{
        files::file_stem,
        splits::Split,
        write::{Cells, OutputColumn, TableFormat, write_embeddings, write_table},
    },
    load::{
        load, load_files,
        streaming::{find_files, head, stream},
    },
    options::{Dialect, LoadOptions, OnBadRow},
    overlap::{Overlap, overlap},
    store::{StoreWriter, TokenStore},
    tables::{Field, FieldKind, Wanted, load_fields, load_fields_of},
    token_cache::{TokenCache, TokenKey, TokenLimits, Written},
    tokens::{Prompt, TokenColumn, TokenizedDataset, UniqueTexts},
};

//! One file a format: readers, the writer, and which files of a source are read.

pub(crate) mod csv;
pub(crate) mod files;
pub(crate) mod jsonl;
pub(crate) mod parquet;
pub(crate) mod write;

//! Flags of `sentune search`.

use std::path::PathBuf;

use clap::Args;

use crate::flags::encode::TwoSidedEncodingFlags;

#[derive(Debug, Args)]
pub(crate) struct SearchFlags {
    /// Model: a folder, or a name on the hub with an optional @revision.
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: String,
    /// Texts to search in: a text file (one a line), CSV, TSV, JSON Lines or parquet.
    #[arg(long, value_name = "FILE")]
    pub(crate) corpus: String,
    /// Column of the corpus that holds the texts [default: its only text column].
    #[arg(long, value_name = "NAME")]
    pub(crate) corpus_column: Option<String>,
    /// Embeddings of the corpus (.npy, row by row), as `sentune encode --as document` writes them, in place of
    /// encoding it.
    #[arg(long, value_name = "FILE")]
    pub(crate) corpus_embeddings: Option<PathBuf>,
    /// Query; may be given several times.
    #[arg(long, value_name = "TEXT", required_unless_present = "queries")]
    pub(crate) query: Vec<String>,
    /// Queries: a file as for the corpus, or `-` for lines from stdin.
    #[arg(long, value_name = "FILE", conflicts_with = "query")]
    pub(crate) queries: Option<String>,
    /// Column of --queries that holds the texts [default: its only text column].
    #[arg(long, value_name = "NAME", requires = "queries")]
    pub(crate) query_column: Option<String>,
    /// Hits for each query.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) top_k: u32,
    /// Print JSON Lines, one object a query, instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) encoding: TwoSidedEncodingFlags,
}

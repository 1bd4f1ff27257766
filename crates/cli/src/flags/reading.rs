//! Flags of reading data files.

use clap::Args;
use data::Dialect;
use serde::{Deserialize, Serialize};

/// The form of data files, where it is not what their names and headers show.
#[derive(Debug, Clone, Default, PartialEq, Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct ReadingFlags {
    /// Column of labels [default: the one called label, labels, score or scores].
    #[arg(long, value_name = "NAME")]
    pub(crate) label_column: Option<String>,
    /// Negatives a row, of columns that hold lists of them [default: as many as there are].
    #[arg(long, value_name = "N")]
    pub(crate) num_negatives: Option<usize>,
    /// Character between the fields of CSV and TSV, or tab [default: by the file's name and header].
    #[arg(long, value_name = "CHARACTER", value_parser = parse_separator)]
    pub(crate) separator: Option<String>,
    /// Take quotation marks in CSV and TSV as part of the texts.
    #[arg(long)]
    pub(crate) no_quotes: bool,
}

impl ReadingFlags {
    /// The form of CSV and TSV.
    pub(crate) fn dialect(&self) -> Dialect {
        Dialect {
            separator: self.separator.as_deref().and_then(separator_byte),
            no_quotes: self.no_quotes,
        }
    }
}

/// Accepts a character of one byte that is neither a quotation mark nor a line end, or a name of the tab.
fn parse_separator(text: &str) -> Result<String, &'static str> {
    match separator_byte(text) {
        Some(_) => Ok(text.to_owned()),
        None => Err("it must be one character such as ; or |, or tab"),
    }
}

fn separator_byte(text: &str) -> Option<u8> {
    match (text, text.as_bytes()) {
        ("tab" | "\\t", _) => Some(b'\t'),
        (_, [b'"' | b'\r' | b'\n']) => None,
        (_, [byte]) => Some(*byte),
        _ => None,
    }
}

//! Texts from a file of lines, a column of a table, or stdin.

use std::{io::BufRead, path::Path};

use anyhow::{Context, bail};
use data::{LoadOptions, OnBadRow};

use crate::usage::UsageError;

/// The texts of `input` in order: a file with one a line, a table of which `column` is taken, or `-` for
/// lines from stdin. `flag` is what messages call it; the column's flag is `column_flag`.
pub(crate) fn read_texts(
    flag: &str,
    input: &str,
    column_flag: &str,
    column: Option<&str>,
    on_bad_row: OnBadRow,
) -> anyhow::Result<Vec<String>> {
    let lines = |reader: &mut dyn BufRead| -> anyhow::Result<Vec<String>> {
        let lines = reader.lines().collect::<Result<Vec<String>, _>>();
        let lines = lines.with_context(|| format!("{flag} {input}: not UTF-8 text"))?;
        if lines.is_empty() {
            bail!("{flag} {input}: there is no line in it");
        }
        Ok(lines)
    };
    match input {
        "-" => lines(&mut std::io::stdin().lock()),
        _ if data::file_stem(Path::new(input)).is_some() => {
            let options = LoadOptions {
                columns: column.map(|column| vec![column.to_owned()]),
                on_bad_row,
                ..LoadOptions::default()
            };
            let dataset = data::load(input, &options).with_context(|| flag.to_owned())?;
            let [column] = dataset.columns.as_slice() else {
                return Err(UsageError(format!(
                    "{flag} {input} has the text columns {}: say which one with {column_flag}",
                    dataset.column_names().join(", ")
                ))
                .into());
            };
            Ok(column.texts.iter().map(str::to_owned).collect())
        }
        _ => lines(&mut std::io::BufReader::new(
            fs_err::File::open(input).with_context(|| flag.to_owned())?,
        )),
    }
}

//! The data set that flags name, and tables written from it.

use std::path::Path;

use anyhow::Context;
use data::{Cells, Dataset, OnBadRow, OutputColumn, TableFormat, write_table};
use wording::counted;

use crate::{
    flags::data::DataFlags,
    output::replace,
    session::Session,
    source::{self, DataOptions},
};

/// Reads the data set; `bad_rows` is the treatment of bad rows where no flag says it.
pub(super) fn load(
    flags: &DataFlags,
    bad_rows: OnBadRow,
    session: &Session,
) -> anyhow::Result<Dataset> {
    let options = DataOptions {
        columns: flags.columns.clone(),
        max_rows: flags.max_samples,
        on_bad_row: flags.on_bad_row.or(Some(bad_rows)),
        reading: flags.reading.clone(),
        ..DataOptions::default()
    };
    source::dataset(&flags.data, flags.split, &options, session)
}

/// Writes a table, and says how many rows it has.
pub(super) fn write(
    path: &Path,
    format: TableFormat,
    columns: &[OutputColumn<'_>],
) -> anyhow::Result<()> {
    replace(path, |file| Ok(write_table(file, format, columns)?))
        .with_context(|| format!("writing {}", path.display()))?;
    let n_rows = match columns.first().map(|column| &column.cells) {
        Some(Cells::Texts(texts)) => texts.len(),
        Some(Cells::Integers(numbers)) => numbers.len(),
        _ => 0,
    };
    tracing::info!("wrote {} to {}", counted(n_rows, "rows"), path.display());
    Ok(())
}

//! stdout, which is for data alone, and files, which are whole or not there.

use std::{
    io::{self, Write},
    path::Path,
};

use data::TableFormat;

use crate::usage::UsageError;

/// Writes text to stdout as it is.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Writes one JSON object as a line to stdout.
pub(crate) fn print_json(value: &impl serde::Serialize) -> io::Result<()> {
    let mut line = serde_json::to_string(value)?;
    line.push('\n');
    print(&line)
}

/// Refuses to write over a file unless asked to. Called before the work that the file is to hold.
pub(crate) fn check_free(flag: &str, path: &Path, overwrite: bool) -> Result<(), UsageError> {
    if path.exists() && !overwrite {
        return Err(UsageError(format!(
            "{flag} {} is there already: give another name, or --overwrite",
            path.display()
        )));
    }
    Ok(())
}

/// Writes a file whole or not at all.
pub(crate) fn replace(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let parent = path
        .parent()
        .filter(|parent| *parent != Path::new(""))
        .unwrap_or(Path::new("."));
    fs_err::create_dir_all(parent)?;
    let mut file = tempfile::NamedTempFile::new_in(parent)?;
    let mut buffered = io::BufWriter::new(file.as_file_mut());
    fill(&mut buffered)?;
    buffered.flush()?;
    drop(buffered);
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// The format of a table to write, by its name.
pub(crate) fn table_format(flag: &str, path: &Path) -> Result<TableFormat, UsageError> {
    TableFormat::of(path).ok_or_else(|| {
        UsageError(format!(
            "{flag} {}: the name must end in .parquet, .csv, .tsv or .jsonl",
            path.display()
        ))
    })
}

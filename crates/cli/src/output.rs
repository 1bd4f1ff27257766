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

/// Refuses a folder that is there. Called before the work that the folder is to hold.
pub(crate) fn check_new(output: &Path) -> Result<(), UsageError> {
    if output.exists() {
        return Err(UsageError(format!(
            "--output {} is there already: give another folder, or remove it",
            output.display()
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
    let mut builder = tempfile::Builder::new();
    // The mode of any new file: the process's umask is taken off.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(parent)?;
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

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_as_open_as_any_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let [ours, other] = ["ours", "other"].map(|name| folder.path().join(name));
        replace(&ours, |file| Ok(file.write_all(b"text")?)).unwrap();
        fs_err::write(&other, "text").unwrap();
        let mode = |path| fs_err::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&other));
    }
}

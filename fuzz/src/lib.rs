//! Checks that the fuzz targets share.

use std::path::PathBuf;

use data::{Field, FieldKind, LoadOptions, OnBadRow, Wanted, load, load_fields};
use tempfile::TempDir;

/// Loads `bytes` as a data file of this name, whose ending chooses the format. Errors are fine; a data set that loads
/// has a text in every cell.
///
/// # Panics
/// Where a column is shorter than the data set or holds an empty text, or the temporary folder can't be written.
pub fn load_table(name: &str, bytes: &[u8]) {
    let (_folder, path) = written(name, bytes);
    for on_bad_row in [OnBadRow::Error, OnBadRow::Skip] {
        let options = LoadOptions {
            on_bad_row,
            ..LoadOptions::default()
        };
        if let Ok(dataset) = load(&path.to_string_lossy(), &options) {
            for column in &dataset.columns {
                assert_eq!(column.texts.len(), dataset.n_rows());
                assert!(column.texts.iter().all(|text| !text.trim().is_empty()));
            }
        }
    }
}

/// Loads `bytes` as a table with the columns `id`, `text`, `list` and `score`, each of which may be missing. Errors are
/// fine; what loads has columns of one length, and an id in every row.
///
/// # Panics
/// Where columns differ in length or an id is empty, or the temporary folder can't be written.
pub fn load_ids(name: &str, bytes: &[u8]) {
    let (_folder, path) = written(name, bytes);
    let wanted = [
        (&["id"], FieldKind::Id),
        (&["text"], FieldKind::TextOrNone),
        (&["list"], FieldKind::Ids),
        (&["score"], FieldKind::Number),
    ]
    .map(|(names, holds)| Wanted {
        names,
        holds,
        optional: true,
    });
    for on_bad_row in [OnBadRow::Error, OnBadRow::Skip] {
        let Ok(fields) = load_fields(&path.to_string_lossy(), &wanted, on_bad_row) else {
            continue;
        };
        let lengths = fields.iter().flatten().map(|field| match field {
            Field::Texts(cells) => cells.len(),
            Field::Lists(cells) => cells.len(),
            Field::Numbers(cells) => cells.len(),
        });
        let lengths: Vec<usize> = lengths.collect();
        assert!(lengths.windows(2).all(|pair| pair[0] == pair[1]));
        if let Some(Field::Texts(ids)) = &fields[0] {
            assert!(ids.iter().all(|id| !id.is_empty()));
        }
    }
}

/// Lets a panic unwind, so that one that a reader catches is an error like any other. The fuzzer's hook, which ends the
/// process before anyone can catch it, is taken away; its wrapper of a target still ends at a panic that nobody caught.
pub fn let_readers_catch_panics() {
    drop(std::panic::take_hook());
}

/// A file of this name and content, and the folder that it lies in.
fn written(name: &str, bytes: &[u8]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).expect("written");
    (folder, path)
}

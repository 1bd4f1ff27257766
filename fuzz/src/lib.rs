//! Checks that the fuzz targets share.

use data::{LoadOptions, OnBadRow, load};

/// Loads `bytes` as a data file of this name, whose ending chooses the format. Errors are fine; a data set that loads
/// has a text in every cell.
///
/// # Panics
/// Where a column is shorter than the data set or holds an empty text, or the temporary folder can't be written.
pub fn load_table(name: &str, bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).expect("written");
    let source = path.to_string_lossy();
    for on_bad_row in [OnBadRow::Error, OnBadRow::Skip] {
        let options = LoadOptions {
            on_bad_row,
            ..LoadOptions::default()
        };
        if let Ok(dataset) = load(&source, &options) {
            for column in &dataset.columns {
                assert_eq!(column.texts.len(), dataset.n_rows());
                assert!(column.texts.iter().all(|text| !text.trim().is_empty()));
            }
        }
    }
}

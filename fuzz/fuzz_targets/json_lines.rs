//! Loads the input as a JSON Lines file: errors are fine, and what loads has no hole.

#![no_main]

use data::{LoadOptions, OnBadRow, load};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("rows.jsonl");
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
});

//! Loads the input as a table of ids: the first byte chooses the format, the rest is the file.
#![cfg_attr(fuzzing, no_main)]

use libfuzzer_sys::fuzz_target;

const NAMES: [&str; 4] = ["rows.csv", "rows.jsonl", "rows.json", "rows.parquet"];

fuzz_target!(
    init: sentune_fuzz::let_readers_catch_panics(),
    |bytes: &[u8]| {
        if let Some((choice, content)) = bytes.split_first() {
            sentune_fuzz::load_ids(NAMES[usize::from(*choice) % NAMES.len()], content);
        }
    }
);

#[cfg(not(fuzzing))]
fn main() {}

//! Loads the input as a parquet file.
#![cfg_attr(fuzzing, no_main)]

use libfuzzer_sys::fuzz_target;

fuzz_target!(
    init: sentune_fuzz::let_readers_catch_panics(),
    |bytes: &[u8]| sentune_fuzz::load_table("rows.parquet", bytes)
);

#[cfg(not(fuzzing))]
fn main() {}

//! Loads the input as a JSON Lines file.
#![cfg_attr(fuzzing, no_main)]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| sentune_fuzz::load_table("rows.jsonl", bytes));

#[cfg(not(fuzzing))]
fn main() {}

//! Loads the input as a JSON file: a document, or values one after the other.
#![cfg_attr(fuzzing, no_main)]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| sentune_fuzz::load_table("rows.json", bytes));

#[cfg(not(fuzzing))]
fn main() {}

//! Loads the input as an Arrow file.
#![cfg_attr(fuzzing, no_main)]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| sentune_fuzz::load_table("rows.arrow", bytes));

#[cfg(not(fuzzing))]
fn main() {}

//! Loads the input as a compressed file: its first bytes say whether gzip or zstd is unpacked.
#![cfg_attr(fuzzing, no_main)]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| sentune_fuzz::load_table("rows.csv.gz", bytes));

#[cfg(not(fuzzing))]
fn main() {}

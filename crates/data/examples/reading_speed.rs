//! Writes a table of pairs in each format and measures how fast it is read.
//!
//!     cargo run -p data --example reading_speed -- [ROWS]
//!
//! Prints rows a minute, and the resident memory before and at its peak while the file is read, beside the bytes of the
//! texts.

#![allow(clippy::print_stdout)]

use std::{error::Error, time::Instant};

use data::{Cells, LoadOptions, OutputColumn, TableFormat, load, write_table};

fn main() -> Result<(), Box<dyn Error>> {
    let n_rows: usize = match std::env::args().nth(1) {
        Some(rows) => rows.parse()?,
        None => 2_000_000,
    };
    let folder = tempfile::tempdir()?;
    let names = ["pairs.csv", "pairs.jsonl", "pairs.parquet"];
    {
        let text = |name: &str, i: usize| {
            let other = i * 7919 % 100_003;
            format!("{name} {i} walks along the street with {other} dogs and a hat on")
        };
        let anchors: Vec<String> = (0..n_rows).map(|i| text("a man", i)).collect();
        let positives: Vec<String> = (0..n_rows).map(|i| text("a person", i)).collect();
        let anchors: Vec<&str> = anchors.iter().map(String::as_str).collect();
        let positives: Vec<&str> = positives.iter().map(String::as_str).collect();
        let columns = [
            OutputColumn::new("anchor", Cells::Texts(anchors)),
            OutputColumn::new("positive", Cells::Texts(positives)),
        ];
        for name in names {
            let path = folder.path().join(name);
            let format = TableFormat::of(&path).ok_or("a format")?;
            write_table(fs_err::File::create(path)?, format, &columns)?;
        }
    }
    println!(
        "{n_rows} rows of two texts, {} threads",
        rayon::current_num_threads()
    );
    for name in names {
        let path = folder.path().join(name);
        let n_bytes = fs_err::metadata(&path)?.len();
        // Sets the peak back (Linux).
        let _ = std::fs::write("/proc/self/clear_refs", "5");
        let before = resident("VmRSS:");
        let start = Instant::now();
        let dataset = load(&path.display().to_string(), &LoadOptions::default())?;
        let seconds = start.elapsed().as_secs_f64();
        let texts: usize = dataset
            .columns
            .iter()
            .map(|column| column.texts.n_bytes())
            .sum();
        println!(
            "{name}: {seconds:.2} s, {:.1} million rows a minute; the file is {} MB, the texts {} MB, resident {} to {} MB",
            dataset.n_rows() as f64 * 60e-6 / seconds,
            n_bytes / 1_000_000,
            texts / 1_000_000,
            before / 1000,
            resident("VmHWM:") / 1000,
        );
    }
    Ok(())
}

/// A number of kilobytes out of the process's status; 0 where there is none.
fn resident(key: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse().ok())
        .unwrap_or(0)
}

//! Damaged tables of ids, texts and lists: 300 of each kind, or `SENTUNE_MUTATIONS=10000`. Nothing may end the process,
//! and what loads has columns of one length and no empty id.

use std::fs;

use data::{DataError, Field, FieldKind, OnBadRow, Wanted, load_fields};
use mutate::{Gauntlet, Mutator, Outcome, count};

const WORDS: &[&str] = &[
    "\"id\"",
    "\"positive\"",
    "[]",
    "[\"",
    "null",
    "{}",
    "\"",
    "\"\"",
    ",",
    "\t",
    "\n",
    "\r\n",
    "-1",
    "1e999",
    "PAR1",
    "\u{1}\u{2}",
];

const WANTED: [Wanted<'static>; 4] = [
    wanted(&["query"], FieldKind::Text),
    wanted(&["positive"], FieldKind::Texts),
    wanted(&["id"], FieldKind::Id),
    wanted(&["ids"], FieldKind::Ids),
];

const fn wanted(names: &'static [&'static str], holds: FieldKind) -> Wanted<'static> {
    Wanted {
        names,
        holds,
        optional: false,
    }
}

fn gauntlet(test: &str, file: &str, bases: &[Vec<u8>], wanted: &[Wanted<'_>]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(file);
    let run = Gauntlet {
        test,
        kind: file,
        n_files: count(300),
        address_space: 6 << 10,
        memory: 256,
    };
    run.run(|i| {
        let mut mutator = Mutator::new(i, WORDS);
        let base = &bases[mutator.below(bases.len())];
        let other = &bases[mutator.below(bases.len())];
        fs::write(&path, mutator.mutate(base, other)).unwrap();
        let on_bad_row = if i.is_multiple_of(2) {
            OnBadRow::Error
        } else {
            OnBadRow::Skip
        };
        match load_fields(path.to_str().unwrap(), wanted, on_bad_row) {
            Ok(fields) => {
                let lengths: Vec<usize> = fields
                    .iter()
                    .map(|field| match field.as_ref().unwrap() {
                        Field::Texts(cells) => cells.len(),
                        Field::Lists(cells) => cells.len(),
                        Field::Numbers(cells) => cells.len(),
                    })
                    .collect();
                assert!(lengths[0] > 0 && lengths.iter().all(|length| *length == lengths[0]));
                for (field, wanted) in fields.iter().zip(wanted) {
                    if let (Some(Field::Texts(ids)), FieldKind::Id) = (field, wanted.holds) {
                        assert!(ids.iter().all(|id| !id.is_empty()));
                    }
                }
                Outcome::Loaded
            }
            Err(error) => {
                let message = error.to_string();
                assert!(message.contains(file), "names no file: {message}");
                assert!(message.len() < 4000, "{} bytes of message", message.len());
                match error {
                    DataError::Damaged { .. } => Outcome::PanicCaught,
                    _ => Outcome::Refused,
                }
            }
        }
    });
}

#[test]
fn parquet() {
    let bases = [
        include_bytes!("fixtures/lists.parquet").to_vec(),
        include_bytes!("fixtures/lists.parquet").to_vec(),
    ];
    gauntlet("parquet", "lists.parquet", &bases, &WANTED);
}

#[test]
fn json_lines() {
    let rows = |n: usize| -> Vec<u8> {
        (0..n)
            .map(|i| {
                format!(
                    "{{\"query\":\"a text, {i}\",\"positive\":[\"one\",\"tw\u{f6} \\\"{i}\\\"\"],\"id\":{i},\"ids\":[\"d{i}\",{i}]}}\n"
                )
            })
            .collect::<String>()
            .into_bytes()
    };
    gauntlet("json_lines", "lists.jsonl", &[rows(40), rows(3)], &WANTED);
}

#[test]
fn tsv() {
    let rows = |n: usize| -> Vec<u8> {
        let rows: String = (0..n)
            .map(|i| format!("q{i}\t\"d\t{i}\"\t0.{i}\n"))
            .collect();
        format!("query-id\tcorpus-id\tscore\n{rows}").into_bytes()
    };
    let wanted = [
        wanted(&["query-id"], FieldKind::Id),
        wanted(&["corpus-id"], FieldKind::Ids),
        wanted(&["score"], FieldKind::Number),
    ];
    gauntlet("tsv", "qrels.tsv", &[rows(40), rows(3)], &wanted);
}

//! Damaged files by the thousand: 300 of each kind here, 10,000 with `SENTUNE_MUTATIONS=10000`. Nothing may end the
//! process.
//!
//! Data that loads must equal the file's. For CSV and JSON Lines a second, slow reader compares them, text
//! for text and label for label; for parquet, which keeps no checksums, it is the names, the number
//! of rows and that no text is blank. With `MUTATE_CASES=17..18 MUTATE_LOG=log` a test runs one file.

mod support;

use std::{fs, io::Cursor};

use data::{
    DataError, Dataset, Dialect, Field, FieldKind, LABEL_COLUMNS, Labels, LoadOptions, OnBadRow,
    Wanted, load, load_fields,
};
use mutate::{Gauntlet, Mutator, Outcome, count};
use polars_parquet::read::read_metadata;
use serde_json::{Map, Value};

use polars_arrow_format::ipc::CompressionType;
use support::{
    CompressionOptions, arrow as arrow_stream, numbers, packed_arrow, parquet_with, plain_texts,
    texts,
};

const WORDS: &[&str] = &[
    "\"a\"",
    "\"label\"",
    "label",
    "score",
    "a,b",
    "\"\"",
    "\"",
    "\"\"\"",
    ",",
    "\t",
    "\r\n",
    "\n\n",
    "\r",
    "null",
    "{}",
    "[]",
    "{\"a\":",
    "\\u0000",
    "\\\"",
    "dataset_name",
    " ",
    "PAR1",
    "PK\u{3}\u{4}",
    "\"id\"",
    "\"positive\"",
    "[\"",
    "-1",
    "1e999",
    "\u{1}\u{2}",
];

const MIB: u64 = 256;

fn options(i: u64) -> LoadOptions {
    LoadOptions {
        on_bad_row: if i.is_multiple_of(2) {
            OnBadRow::Error
        } else {
            OnBadRow::Skip
        },
        // The slow reader knows no other.
        dialect: Dialect {
            separator: Some(b','),
            ..Dialect::default()
        },
        teacher_scores: true,
        ..LoadOptions::default()
    }
}

/// Runs one kind: `bases` are whole files, and `load` loads a damaged one and looks at what came of it.
fn run(
    test: &str,
    file: &str,
    bases: &[Vec<u8>],
    load: impl Fn(&str, &[u8], u64) -> Result<(), DataError>,
) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(file);
    let run = Gauntlet {
        test,
        kind: file,
        n_files: count(300),
        address_space: 6 << 10,
        memory: MIB,
    };
    run.run(|i| {
        let mut mutator = Mutator::new(i, WORDS);
        let base = &bases[mutator.below(bases.len())];
        let other = &bases[mutator.below(bases.len())];
        let bytes = mutator.mutate(base, other);
        fs::write(&path, &bytes).unwrap();
        match load(path.to_str().unwrap(), &bytes, i) {
            Ok(()) => Outcome::Loaded,
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

/// Damaged data sets; `check` looks at what one loads as.
fn gauntlet(test: &str, file: &str, bases: &[Vec<u8>], check: impl Fn(&[u8], &Dataset, OnBadRow)) {
    run(test, file, bases, |path, bytes, i| {
        let options = options(i);
        let dataset = load(path, &options)?;
        assert!(dataset.n_rows() > 0);
        for column in &dataset.columns {
            assert_eq!(column.texts.len(), dataset.n_rows());
            assert!(column.texts.iter().all(|text| !text.trim().is_empty()));
        }
        if let Some(labels) = &dataset.labels {
            assert_eq!(labels.len(), dataset.n_rows());
        }
        check(bytes, &dataset, options.on_bad_row);
        Ok(())
    });
}

/// Damaged tables of ids, texts and lists: one that loads has columns of one length and no empty id.
fn tables_gauntlet(test: &str, file: &str, bases: &[Vec<u8>], wanted: &[Wanted<'_>]) {
    run(test, file, bases, |path, _, i| {
        let fields = load_fields(path, wanted, options(i).on_bad_row)?;
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
        Ok(())
    });
}

/// One row as a slow reader sees it: the texts in the order of the data set's columns, and the
/// label.
type Row = (Vec<String>, Option<f32>);

fn rows_of(dataset: &Dataset) -> Vec<Row> {
    let label = |i: usize| match &dataset.labels {
        None => None,
        Some(Labels::Integer(labels)) => Some(labels[i] as f32),
        Some(Labels::Float(labels)) => Some(labels[i]),
        // No file here has lists in its rows; a load that finds them is a wrong one.
        Some(Labels::Vector { .. }) => Some(f32::NAN),
    };
    (0..dataset.n_rows())
        .map(|i| {
            let texts = dataset.columns.iter();
            let texts = texts.map(|column| column.texts.get(i).unwrap().to_owned());
            (texts.collect(), label(i))
        })
        .collect()
}

fn is_good((texts, label): &Row) -> bool {
    texts.iter().all(|text| !text.trim().is_empty()) && label.is_none_or(|label| !label.is_nan())
}

/// A label that is a word: the number of some class.
const WORD: f32 = f32::INFINITY;

/// Whether a loaded row is this one of the file.
fn is_same(loaded: &Row, row: &Row) -> bool {
    loaded.0 == row.0 && (loaded.1 == row.1 || row.1 == Some(WORD))
}

fn is_label(name: &str) -> bool {
    LABEL_COLUMNS.contains(&name.to_lowercase().as_str())
}

#[test]
fn csv() {
    let quoted: String = (0..60)
        .map(|i| format!("\"text, \"\"{i}\"\"\n\",caf\u{e9} {i},{i}\r\n"))
        .collect();
    let plain: String = (0..80)
        .map(|i| format!("an anchor {i},a \"positive\" {i},0.{i}\n"))
        .collect();
    let bases = [
        format!("a,b,label\n{quoted}").into_bytes(),
        format!("\u{feff}anchor,positive,score\n{plain}").into_bytes(),
        b"a,b\nx,y\n".to_vec(),
    ];
    gauntlet("csv", "rows.csv", &bases, |bytes, dataset, on_bad_row| {
        let (names, records) = csv_records(bytes);
        let is_text = |name: &String| !is_label(name) && !name.is_empty();
        let texts = names.iter().filter(|name| is_text(name));
        let texts: Vec<&str> = texts.map(String::as_str).collect();
        assert_eq!(dataset.column_names(), texts);
        let row = |fields: &Vec<String>| -> Option<Row> {
            let label = names.iter().position(|name| is_label(name));
            let label = label.map(|i| csv_label(fields[i].trim()));
            let texts = fields.iter().zip(&names).filter(|(_, name)| is_text(name));
            let row = (texts.map(|(field, _)| field.clone()).collect(), label);
            is_good(&row).then_some(row)
        };
        let mut good: Vec<Row> = records.iter().flatten().filter_map(row).collect();
        // Words are classes where there are no numbers among them.
        if good
            .iter()
            .any(|(_, label)| label.is_some_and(|label| label != WORD))
        {
            good.retain(|(_, label)| *label != Some(WORD));
        }
        assert_eq!(dataset.n_rows() + dataset.n_skipped, records.len());
        assert!(on_bad_row == OnBadRow::Skip || good.len() == records.len());
        let loaded = rows_of(dataset);
        assert_eq!(loaded.len(), good.len());
        for (loaded, good) in loaded.iter().zip(&good) {
            assert!(is_same(loaded, good), "{loaded:?} is {good:?} in the file");
        }
    });
}

/// The label, [`WORD`] for a word, and NaN for a bad one: an empty one, or a number past its range.
fn csv_label(text: &str) -> f32 {
    let is_whole = text.bytes().all(|byte| b"-0123456789".contains(&byte));
    match (text.parse::<i64>(), text.parse::<f64>()) {
        (Ok(label), _) => label as f32,
        (Err(_), Ok(label)) if !is_whole && (label as f32).is_finite() => label as f32,
        (Err(_), Err(_)) if !text.is_empty() => WORD,
        _ => f32::NAN,
    }
}

/// The header, and each record's fields unless its shape is wrong: byte for byte, by RFC 4180.
fn csv_records(bytes: &[u8]) -> (Vec<String>, Vec<Option<Vec<String>>>) {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut records: Vec<(Vec<Vec<u8>>, bool)> = Vec::new();
    let mut at = 0;
    let line_end = |at: usize| match &bytes[at.min(bytes.len())..] {
        [b'\n', ..] => 1,
        [b'\r', b'\n', ..] => 2,
        _ => 0,
    };
    while at < bytes.len() {
        if line_end(at) > 0 {
            at += line_end(at);
            continue;
        }
        let (mut fields, mut is_whole) = (Vec::new(), true);
        loop {
            let mut field = Vec::new();
            if bytes.get(at) == Some(&b'"') {
                at += 1;
                loop {
                    match (bytes.get(at), bytes.get(at + 1)) {
                        (None, _) => {
                            is_whole = false;
                            break;
                        }
                        (Some(b'"'), Some(b'"')) => {
                            field.push(b'"');
                            at += 2;
                        }
                        (Some(b'"'), _) => {
                            at += 1;
                            break;
                        }
                        (Some(byte), _) => {
                            field.push(*byte);
                            at += 1;
                        }
                    }
                }
                is_whole &= at >= bytes.len() || bytes[at] == b',' || line_end(at) > 0;
            }
            while at < bytes.len() && bytes[at] != b',' && line_end(at) == 0 {
                field.push(bytes[at]);
                at += 1;
            }
            fields.push(field);
            if bytes.get(at) != Some(&b',') {
                break;
            }
            at += 1;
        }
        at += line_end(at);
        records.push((fields, is_whole));
    }
    let mut records = records.into_iter().map(|(fields, is_whole)| {
        let fields: Option<Vec<String>> = fields
            .into_iter()
            .map(|field| String::from_utf8(field).ok())
            .collect();
        fields.filter(|_| is_whole)
    });
    let names = records
        .next()
        .flatten()
        .expect("a header that loads is whole");
    let names: Vec<String> = names.iter().map(|name| name.trim().to_owned()).collect();
    let records = records
        .map(|fields| fields.filter(|fields| fields.len() == names.len()))
        .collect();
    (names, records)
}

#[test]
fn json_lines() {
    let escaped: String = (0..60)
        .map(|i| {
            format!("{{\"a\":\"caf\\u00e9 {i}\",\"b\":\"\u{e9} \\ud83d\\ude00\",\"label\":{i}}}\n")
        })
        .collect();
    let scores: String = (0..60)
        .map(|i| {
            format!(" {{ \"text\" : \"a \\\"quoted\\\" text\\n{i}\", \"score\":{i}.5e-1 }}\r\n\n")
        })
        .collect();
    let truths: String = (0..20)
        .map(|i| format!("{{\"a\":\"x{i}\",\"b\":\"y\",\"label\":{}}}\n", i % 2 == 0))
        .collect();
    let bases = [
        escaped.into_bytes(),
        scores.into_bytes(),
        truths.into_bytes(),
    ];
    gauntlet(
        "json_lines",
        "rows.jsonl",
        &bases,
        |bytes, dataset, on_bad_row| {
            let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
            let Some(lines) = json_objects(bytes) else {
                return;
            };
            assert_eq!(dataset.n_rows() + dataset.n_skipped, lines.len());
            let row = |line: &Map<String, Value>| -> Option<Row> {
                let mut texts = Vec::new();
                for name in dataset.column_names() {
                    texts.push(line.get(name)?.as_str()?.to_owned());
                }
                let label = line.iter().find(|(key, _)| is_label(key));
                let label = match label.map(|(_, value)| value) {
                    None => None,
                    Some(Value::Bool(label)) => Some(f32::from(*label)),
                    Some(Value::String(label)) => Some(csv_label(label.trim())),
                    Some(label) => Some(label.as_f64()? as f32),
                };
                Some((texts, label))
            };
            let rows: Vec<Row> = lines.iter().flatten().filter_map(row).collect();
            let loaded = rows_of(dataset);
            if on_bad_row == OnBadRow::Error {
                assert_eq!(loaded.len(), rows.len());
                let n_keys = lines[0].as_ref().map_or(0, Map::len);
                assert!(lines.iter().flatten().all(|line| line.len() == n_keys));
            }
            // Skipping, the good rows are there in the order of the file.
            let mut rest = rows.into_iter();
            for row in loaded {
                assert!(
                    rest.any(|candidate| is_same(&row, &candidate)),
                    "{row:?} is not in the file: {:?}",
                    String::from_utf8_lossy(bytes)
                );
            }
        },
    );
}

/// The objects of a file, with none for a broken line; nothing where its first value is no object or is not on a line
/// of its own.
fn json_objects(bytes: &[u8]) -> Option<Vec<Option<Map<String, Value>>>> {
    let lines: Vec<&[u8]> = bytes
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.trim_ascii().is_empty())
        .collect();
    let mut values = lines
        .iter()
        .map(|line| serde_json::from_slice::<Value>(line).ok());
    let is_split = values.next()?.is_none()
        && serde_json::Deserializer::from_slice(bytes)
            .into_iter::<Value>()
            .all(|value| value.is_ok());
    let first = values.flatten().next();
    let has_lists = first.is_some_and(|value| !value.is_object());
    let lines = lines.iter().map(|line| serde_json::from_slice(line).ok());
    (!is_split && !has_lists).then(|| lines.collect())
}

/// Damaged files of formats that no slow reader knows: what loads is whole.
fn loads_whole(test: &str, file: &str, bases: &[Vec<u8>]) {
    gauntlet(test, file, bases, |_, _, _| {});
}

#[test]
fn json_documents() {
    let rows: Vec<String> = (0..40)
        .map(|i| format!("{{\"a\": \"caf\\u00e9 [{i}]\",\n \"b\": \"{{y\", \"label\": {i}}}"))
        .collect();
    let rows = rows.join(",\n");
    let texts: Vec<String> = (0..40).map(|i| format!("\"text {i}\"")).collect();
    let texts = texts.join(", ");
    let bases = [
        format!("[\n{rows}\n]\n").into_bytes(),
        format!("{{\"version\": 1, \"data\": [{rows}]}}").into_bytes(),
        format!("{{\"a\": [{texts}], \"b\": [{texts}]}}").into_bytes(),
    ];
    loads_whole("json_documents", "rows.json", &bases);
}

#[test]
fn json_lists() {
    let rows = |n: usize| -> Vec<u8> {
        let row = |i: usize| {
            let negatives = vec!["\"no\""; 1 + i % 3].join(",");
            format!(
                "{{\"query\":\"q{i}\",\"pos\":[\"yes\",{{\"title\":\"t\",\"text\":\"x\"}}],\"neg\":[{negatives}]}}\n"
            )
        };
        (0..n).map(row).collect::<String>().into_bytes()
    };
    let arrays: String = (0..40)
        .map(|i| format!("[\"a{i}\",\"b\",{i}.5]\n"))
        .collect();
    let sets: String = (0..40)
        .map(|i| format!("{{\"set\":[\"a{i}\",\"b\",\"c\"]}}\n"))
        .collect();
    let bases = [rows(40), rows(2), arrays.into_bytes(), sets.into_bytes()];
    loads_whole("json_lists", "lists.jsonl", &bases);
}

/// Lists with a teacher's scores: what loads has as many scores a row as positives and negatives.
#[test]
fn json_scores() {
    let rows = |n: usize, n_negatives: usize| -> Vec<u8> {
        let row = |i: usize| {
            let negatives = vec!["\"no\""; n_negatives].join(",");
            let scores = vec!["0.5"; n_negatives].join(",");
            format!(
                "{{\"query\":\"q{i}\",\"pos\":[\"yes\",\"so\"],\"neg\":[{negatives}],\"pos_scores\":[{i},-1],\"neg_scores\":[{scores}]}}\n"
            )
        };
        (0..n).map(row).collect::<String>().into_bytes()
    };
    let bases = [rows(40, 2), rows(2, 1), rows(10, 3)];
    gauntlet("json_scores", "scores.jsonl", &bases, |_, dataset, _| {
        if let Some(Labels::Vector { shape, .. }) = &dataset.labels {
            assert_eq!(shape, &[dataset.columns.len() - 1]);
        }
    });
}

#[test]
fn packed() {
    let rows: String = (0..200)
        .map(|i| format!("text {i},other {i},0.{i}\n"))
        .collect();
    let csv = format!("a,b,score\n{rows}");
    let mut gzip = Vec::new();
    let mut encoder = flate2::read::GzEncoder::new(csv.as_bytes(), flate2::Compression::default());
    std::io::copy(&mut encoder, &mut gzip).unwrap();
    let zstd = zstd::encode_all(csv.as_bytes(), 3).unwrap();
    loads_whole("packed", "rows.csv.gz", &[gzip, zstd]);
}

#[test]
fn arrow() {
    let bases = [
        include_bytes!("fixtures/saved/data-00000-of-00001.arrow").to_vec(),
        include_bytes!("fixtures/saved_splits/train/data-00000-of-00001.arrow").to_vec(),
    ];
    let wanted = [
        wanted(&["a"], FieldKind::Text),
        wanted(&["label"], FieldKind::Number),
        wanted(&["more"], FieldKind::Ids),
    ];
    tables_gauntlet("arrow", "data.arrow", &bases, &wanted);
}

/// Compressed columns, in streams and files.
#[test]
fn arrow_packed() {
    let a: Vec<String> = (0..60)
        .map(|i| format!("text number {}", i * 7 % 10))
        .collect();
    let scores: Vec<f64> = (0..60).map(f64::from).collect();
    let columns = |n: usize| {
        [
            ("a", plain_texts(&a[..n])),
            ("b", texts(&a[..n])),
            ("score", numbers(&scores[..n])),
        ]
    };
    let stream = arrow_stream(&[&columns(60), &columns(9)]);
    let packed = |codec, keeps: fn(usize) -> bool| packed_arrow(&stream, codec, keeps);
    let zstd = packed(CompressionType::Zstd, |_| false);
    let bases = [
        packed(CompressionType::Lz4Frame, |_| false),
        packed(CompressionType::Lz4Frame, |place| place == 2),
        [b"ARROW1\0\0", zstd.as_slice()].concat(),
        zstd,
    ];
    loads_whole("arrow_packed", "packed.arrow", &bases);
}

/// Compressed columns as pyarrow writes them, with dictionaries and lists.
#[test]
fn arrow_packed_by_pyarrow() {
    let bases = [
        include_bytes!("fixtures/packed_lz4.arrow").to_vec(),
        include_bytes!("fixtures/packed_zstd.arrow").to_vec(),
        include_bytes!("fixtures/packed.feather").to_vec(),
    ];
    let wanted = [
        wanted(&["a"], FieldKind::Text),
        wanted(&["label"], FieldKind::Number),
        wanted(&["positives"], FieldKind::Texts),
    ];
    tables_gauntlet("arrow_packed_by_pyarrow", "table.feather", &bases, &wanted);
}

#[test]
fn parquet_scores() {
    let bases = [include_bytes!("fixtures/scored_lists.parquet").to_vec()];
    loads_whole("parquet_scores", "scores.parquet", &bases);
}

#[test]
fn parquet_passages() {
    let bases = [include_bytes!("fixtures/passages.parquet").to_vec()];
    loads_whole("parquet_passages", "passages.parquet", &bases);
}

#[test]
fn parquet() {
    let text = |prefix: &str, n: i32| {
        let rows = (0..n).map(|i| format!("{prefix} number {} of all", i * 7 % 90));
        texts(&rows.collect::<Vec<_>>())
    };
    let written = |n, compression, group| {
        let scores: Vec<f64> = (0..n).map(f64::from).collect();
        let columns = [
            ("anchor", text("an anchor", n)),
            ("positive", text("a positive", n)),
            ("score", numbers(&scores)),
        ];
        parquet_with(&columns, compression, group)
    };
    let bases = [
        written(300, CompressionOptions::Zstd(None), 1000),
        written(300, CompressionOptions::Uncompressed, 100),
        written(120, CompressionOptions::Snappy, 50),
        written(10, CompressionOptions::Uncompressed, 1000),
    ];
    gauntlet("parquet", "rows.parquet", &bases, |bytes, dataset, _| {
        let metadata = read_metadata(&mut Cursor::new(bytes)).unwrap();
        assert_eq!(dataset.n_rows() + dataset.n_skipped, metadata.num_rows);
        let fields = metadata.schema().fields().iter();
        let texts: Vec<String> = fields
            .map(|field| field.name().to_owned())
            .filter(|name| !LABEL_COLUMNS.contains(&name.as_str()))
            .collect();
        assert_eq!(dataset.column_names(), texts);
        assert!(
            dataset
                .columns
                .iter()
                .all(|column| column.texts.n_bytes() < 64 << 20)
        );
    });
}

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

#[test]
fn parquet_tables() {
    let bases = [include_bytes!("fixtures/lists.parquet").to_vec()];
    tables_gauntlet("parquet_tables", "lists.parquet", &bases, &WANTED);
}

#[test]
fn json_lines_tables() {
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
    tables_gauntlet(
        "json_lines_tables",
        "lists.jsonl",
        &[rows(40), rows(3)],
        &WANTED,
    );
}

#[test]
fn tsv_tables() {
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
    tables_gauntlet("tsv_tables", "qrels.tsv", &[rows(40), rows(3)], &wanted);
}

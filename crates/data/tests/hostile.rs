//! Every kind of bad input that README.md lists, with its outcome. The rows of the table in
//! README.md carry the names of the cases here.

// With `--nocapture` the messages can be read as users see them.
#![allow(clippy::print_stdout)]

use std::{fs, io::Cursor};

use data::{Dataset, Labels, LoadOptions, OnBadRow, load};
use polars::prelude::*;

/// What a case leads to.
enum Outcome {
    /// So many rows.
    Rows(usize),
    /// An error whose message has all of these in it.
    Refused(&'static [&'static str]),
    /// As `Refused`; and with `OnBadRow::Skip`, so many rows.
    SkippedTo(usize, &'static [&'static str]),
}
use Outcome::{Refused, Rows, SkippedTo};

fn check(name: &str, file: &str, bytes: &[u8], outcome: &Outcome) {
    check_with(name, file, bytes, outcome, &LoadOptions::default());
}

fn check_with(name: &str, file: &str, bytes: &[u8], outcome: &Outcome, options: &LoadOptions) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(file);
    fs::write(&path, bytes).unwrap();
    let source = path.to_str().unwrap();
    let loaded = load(source, options);
    match (outcome, loaded) {
        (Rows(expected), loaded) => {
            let dataset = loaded.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(dataset.n_rows(), *expected, "{name}");
            assert_whole(name, &dataset);
        }
        (Refused(parts) | SkippedTo(_, parts), loaded) => {
            let message = loaded.expect_err(name).to_string();
            assert!(
                message.contains(source),
                "{name}: names the file: {message}"
            );
            for part in *parts {
                assert!(message.contains(part), "{name}: `{part}` in: {message}");
            }
            println!(
                "{name}: {}",
                message.replace(folder.path().to_str().unwrap(), "")
            );
        }
    }
    if let SkippedTo(expected, _) = outcome {
        let options = LoadOptions {
            on_bad_row: OnBadRow::Skip,
            ..options.clone()
        };
        let dataset = load(source, &options).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(dataset.n_rows(), *expected, "{name}, skipping");
        assert!(dataset.n_skipped > 0, "{name}");
        assert_whole(name, &dataset);
    }
}

/// No text is blank, and all columns are of one length.
fn assert_whole(name: &str, dataset: &Dataset) {
    for column in &dataset.columns {
        assert_eq!(column.texts.len(), dataset.n_rows(), "{name}");
        assert!(
            column.texts.iter().all(|text| !text.trim().is_empty()),
            "{name}"
        );
    }
    if let Some(labels) = &dataset.labels {
        assert_eq!(labels.len(), dataset.n_rows(), "{name}");
    }
}

#[test]
fn csv() {
    let long = format!("a,b\n{},y\n", "long text ".repeat(1 << 20));
    let combining = format!("a,b\ne{},y\n", "\u{301}".repeat(1_000_000));
    let cases: &[(&str, &[u8], Outcome)] = &[
        ("empty file", b"", Refused(&["the file is empty"])),
        ("only blank lines", b"\n\r\n\n", Refused(&["the file is empty"])),
        ("header only", b"a,b\n", Refused(&["no rows"])),
        ("header without line end", b"a,b", Refused(&["no rows"])),
        ("one row", b"a,b\nx,y", Rows(1)),
        ("byte order mark", b"\xef\xbb\xbfa,b\nx,y\n", Rows(1)),
        ("CRLF", b"a,b\r\nx,y\r\n\"q\",\"r\"\r\n", Rows(2)),
        ("CR alone", b"a,b\rx,y\r", Refused(&["CR alone", "LF or CRLF"])),
        ("blank lines between", b"a,b\n\nx,y\n\n\nv,w\n\n", Rows(2)),
        ("quoted separator, line end and quote", b"a,b\n\"x, \"\"y\"\"\nz\",w\nv,u\n", Rows(2)),
        ("quote inside an unquoted field", b"a,b\na 5\" pipe,y\nx,6\"\n\"q \"\"\",7\n", Rows(3)),
        ("empty text", b"a,b\nx,\nv,w\n", SkippedTo(1, &["row 1 (line 2), column `b`", "text is empty"])),
        ("empty quoted text", b"a,b\nx,\"\"\nv,w\n", SkippedTo(1, &["row 1 (line 2), column `b`", "empty"])),
        ("only white space", "a,b\nx, \t\u{a0}\u{3000}\nv,w\n".as_bytes(), SkippedTo(1, &["row 1", "white space"])),
        ("too few fields", b"a,b\nv,w\nx\n", SkippedTo(1, &["row 2 (line 3)", "1 field where the header has 2"])),
        ("too many fields", b"a,b\nx,y,z\nv,w\n", SkippedTo(1, &["row 1 (line 2)", "3 fields where"])),
        ("unquoted comma in a text", b"a,b\nx,y, z\nu,v\nr,s, t\n", SkippedTo(1, &["2 of 3 rows are bad (also row 3)"])),
        ("quote never closed", b"a,b\nv,w\nx,\"y\nz,u\n", SkippedTo(1, &["row 2 (line 3)", "never closed"])),
        ("text after a closing quote", b"a,b\n\"x\" y,z\nv,w\n", SkippedTo(1, &["row 1 (line 2)", "closing quote"])),
        ("not UTF-8 (Latin-1)", b"a,b\nx,y\ncaf\xe9,z\n", SkippedTo(1, &["row 2 (line 3)", "not UTF-8"])),
        ("header not UTF-8", b"\xe9,b\nx,y\n", Refused(&["header is not UTF-8"])),
        ("UTF-16", b"\xff\xfea\0,\0b\0\n\0", Refused(&["UTF-16", "save the file as UTF-8"])),
        ("NUL in a text", b"a,b\nx\0y,z\n", Rows(1)),
        ("right-to-left, joined emoji, lone accents", "a,b\n\u{5e9}\u{5dc}\u{5d5}\u{5dd},\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}\n\u{301},\u{200d}\n".as_bytes(), Rows(2)),
        ("10 MB text", long.as_bytes(), Rows(1)),
        ("a million combining marks", combining.as_bytes(), Rows(1)),
        ("same text in all columns", b"a,b,c\nx,x,x\nx,x,x\n", Rows(2)),
        ("two columns of one name", b"a,a\nx,y\n", Refused(&["two columns are called `a`"])),
        ("column without name", b"a,\nx,y\n", Refused(&["column 2 of 2 has no name"])),
        ("reserved column name", b"a,dataset_name\nx,y\n", Refused(&["`dataset_name` is reserved"])),
        ("index column", b",a,b\n0,x,y\n", Refused(&["column 1 of 3 has no name"])),
        ("column of numbers", b"idx,a\n0,x\n1,y\n", Refused(&["column `idx` holds only numbers", "choose the columns"])),
        ("labels alone", b"label\n1\n", Refused(&["no text column"])),
        ("two label columns", b"a,label,score\nx,1,0.5\n", Refused(&["`label` and `score`"])),
        ("text labels", b"a,label\nx,entailment\ny,1\n", SkippedTo(1, &["row 1 (line 2), column `label`", "`entailment`, not a number"])),
        ("empty label", b"a,label\nx,\ny,1\n", SkippedTo(1, &["label is empty, not a number"])),
        ("NaN score", b"a,score\nx,nan\ny,0.5\n", SkippedTo(1, &["row 1", "`score`", "NaN is not a finite"])),
        ("infinite score", b"a,score\nx,0.1\ny,1e300\n", SkippedTo(1, &["row 2", "not a finite number"])),
        ("parquet called CSV", b"PAR1\x15\x04\x15", Refused(&["looks like parquet", "name the file .parquet"])),
        ("gzip called CSV", b"\x1f\x8b\x08\0\0", Refused(&["gzip", "unpack"])),
        ("Git LFS pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", Refused(&["Git LFS"])),
    ];
    for (name, bytes, outcome) in cases {
        check(name, "rows.csv", bytes, outcome);
    }
}

#[test]
fn csv_keeps_every_text_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.csv");
    fs::write(
        &path,
        "\u{feff}a,\"b, c\"\r\n\r\n\"x, \"\"y\"\"\nz\",  w \r\na 5\" pipe,\"q\"\"\"\r\n",
    )
    .unwrap();
    let dataset = load(path.to_str().unwrap(), &LoadOptions::default()).unwrap();
    assert_eq!(dataset.column_names(), ["a", "b, c"]);
    let texts = |i: usize| dataset.columns[i].texts.iter().collect::<Vec<_>>();
    assert_eq!(texts(0), ["x, \"y\"\nz", "a 5\" pipe"]);
    assert_eq!(texts(1), ["  w ", "q\""]);
}

#[test]
fn json_lines() {
    let deep = format!(
        "{{\"a\":{}1{},\"b\":\"y\"}}",
        "[".repeat(10_000),
        "]".repeat(10_000)
    );
    let cases: &[(&str, &[u8], Outcome)] = &[
        ("empty file", b"", Refused(&["the file is empty"])),
        (
            "only blank lines",
            b"\n \n",
            Refused(&["the file is empty"]),
        ),
        ("one row", br#"{"a":"x","b":"y"}"#, Rows(1)),
        ("byte order mark", b"\xef\xbb\xbf{\"a\":\"x\"}\n", Rows(1)),
        (
            "CRLF and blank lines",
            b"{\"a\":\"x\"}\r\n\r\n{\"a\":\"y\"}\r\n",
            Rows(2),
        ),
        (
            "CR alone",
            b"{\"a\":\"x\"}\r{\"a\":\"y\"}\r",
            Refused(&["row 1 (line 1)", "trailing characters"]),
        ),
        (
            "escapes",
            br#"{"a":"\u00e9 \ud83d\ude00 \n\t\"","b":"y"}"#,
            Rows(1),
        ),
        (
            "lone surrogate",
            b"{\"a\":\"x\"}\n{\"a\":\"\\ud83d\"}\n",
            SkippedTo(1, &["row 2 (line 2)", "not valid JSON", "hex escape"]),
        ),
        (
            "swapped surrogates",
            b"{\"a\":\"x\"}\n{\"a\":\"\\ude00\\ud83d\"}\n",
            SkippedTo(1, &["row 2", "hex escape"]),
        ),
        ("NUL escape", br#"{"a":"x\u0000y"}"#, Rows(1)),
        (
            "not UTF-8",
            b"{\"a\":\"x\"}\n{\"a\":\"\xff\"}\n",
            SkippedTo(1, &["row 2 (line 2)", "not UTF-8"]),
        ),
        (
            "broken off",
            b"{\"a\":\"x\"}\n{\"a\":\"y",
            SkippedTo(1, &["row 2 (line 2)", "not valid JSON"]),
        ),
        (
            "text after the object",
            b"{\"a\":\"x\"}\n{\"a\":\"y\"} {}\n",
            SkippedTo(1, &["row 2", "trailing characters"]),
        ),
        (
            "an array of objects",
            b"[{\"a\":\"x\"},\n{\"a\":\"y\"}]",
            Refused(&["one JSON array", "jq"]),
        ),
        (
            "no object at all",
            b"1\n2\n",
            Refused(&["row 1 (line 1)", "a number, not an object"]),
        ),
        (
            "no JSON at all",
            b"a,b\nx,y\n",
            Refused(&["row 1", "not valid JSON"]),
        ),
        (
            "one line no object",
            b"{\"a\":\"x\"}\n\n\"y\"\n",
            SkippedTo(1, &["row 2 (line 3)", "a text, not an object"]),
        ),
        (
            "null",
            b"{\"a\":\"x\"}\n{\"a\":null}\n",
            SkippedTo(1, &["row 2 (line 2), column `a`", "null"]),
        ),
        (
            "null in the first row",
            b"{\"a\":null}\n{\"a\":\"x\"}\n",
            SkippedTo(1, &["row 1 (line 1), column `a`", "null"]),
        ),
        (
            "empty text",
            b"{\"a\":\"x\"}\n{\"a\":\"\"}\n",
            SkippedTo(1, &["row 2", "empty"]),
        ),
        (
            "missing key",
            b"{\"a\":\"x\",\"b\":\"y\"}\n{\"a\":\"x\"}\n",
            SkippedTo(1, &["row 2 (line 2), column `b`", "missing"]),
        ),
        (
            "unknown key",
            b"{\"a\":\"x\"}\n{\"a\":\"x\",\"c\":1}\n",
            SkippedTo(1, &["column `c`", "first row has no such key"]),
        ),
        (
            "key twice",
            b"{\"a\":\"x\"}\n{\"a\":\"x\",\"a\":\"y\"}\n",
            SkippedTo(1, &["column `a`", "comes twice"]),
        ),
        (
            "keys in another order",
            b"{\"a\":\"x\",\"b\":\"y\"}\n{\"b\":\"z\",\"a\":\"w\"}\n",
            Rows(2),
        ),
        (
            "number among texts",
            b"{\"a\":\"x\"}\n{\"a\":5}\n",
            SkippedTo(1, &["row 2", "a number, not text"]),
        ),
        (
            "list among texts",
            b"{\"a\":\"x\"}\n{\"a\":[\"y\"]}\n",
            SkippedTo(1, &["row 2", "a list, not text"]),
        ),
        (
            "column of lists",
            br#"{"a":"x","b":["y","z"]}"#,
            Refused(&["column `b` holds lists"]),
        ),
        (
            "column of objects",
            br#"{"a":"x","b":{"c":1}}"#,
            Refused(&["column `b` holds objects"]),
        ),
        (
            "column of numbers",
            br#"{"idx":0,"a":"x"}"#,
            Refused(&["column `idx` holds numbers", "`idx`, `a`"]),
        ),
        (
            "brackets 10,000 deep",
            deep.as_bytes(),
            Refused(&["not valid JSON", "recursion"]),
        ),
        (
            "text labels",
            br#"{"a":"x","label":"yes"}"#,
            Refused(&["label column `label` holds text"]),
        ),
        (
            "one text label",
            b"{\"a\":\"x\",\"label\":1}\n{\"a\":\"y\",\"label\":\"1\"}\n",
            SkippedTo(1, &["row 2", "a text, not a number"]),
        ),
        (
            "null label",
            b"{\"a\":\"x\",\"label\":1}\n{\"a\":\"y\",\"label\":null}\n",
            SkippedTo(1, &["row 2", "`label`", "null"]),
        ),
        (
            "NaN score",
            b"{\"a\":\"x\",\"score\":0.5}\n{\"a\":\"y\",\"score\":NaN}\n",
            SkippedTo(1, &["row 2", "not valid JSON"]),
        ),
        (
            "score past f32",
            b"{\"a\":\"x\",\"score\":0.5}\n{\"a\":\"y\",\"score\":1e60}\n",
            SkippedTo(1, &["row 2", "finite"]),
        ),
        (
            "label past 64 bits",
            b"{\"a\":\"x\",\"label\":1}\n{\"a\":\"y\",\"label\":18446744073709551615}\n",
            SkippedTo(1, &["row 2", "in range"]),
        ),
        (
            "truth and number mixed",
            b"{\"a\":\"x\",\"label\":true}\n{\"a\":\"y\",\"label\":1}\n",
            SkippedTo(1, &["row 2", "first row has true or false"]),
        ),
    ];
    for (name, bytes, outcome) in cases {
        check(name, "rows.jsonl", bytes, outcome);
    }
}

fn parquet_of(columns: Vec<Column>) -> Vec<u8> {
    let mut frame = DataFrame::new_infer_height(columns).unwrap();
    let mut bytes = Cursor::new(Vec::new());
    ParquetWriter::new(&mut bytes).finish(&mut frame).unwrap();
    bytes.into_inner()
}

#[test]
fn parquet() {
    let texts = || Column::new("a".into(), ["x", "y", "z"]);
    let nested = Series::new(
        "b".into(),
        [
            Series::new("".into(), ["p"]),
            Series::new("".into(), ["q"]),
            Series::new("".into(), ["r"]),
        ],
    );
    let whole = parquet_of(vec![texts()]);
    let cases: Vec<(&str, Vec<u8>, Outcome)> = vec![
        ("empty file", vec![], Refused(&["the file is empty"])),
        (
            "not parquet",
            b"a,b\nx,y\n".to_vec(),
            Refused(&["the name says parquet", "starts with PAR1"]),
        ),
        (
            "pickle",
            b"\x80\x04\x95\x10".to_vec(),
            Refused(&["a Python pickle"]),
        ),
        (
            "zip",
            b"PK\x03\x04\0\0".to_vec(),
            Refused(&["a zip archive"]),
        ),
        (
            "magic alone",
            b"PAR1".to_vec(),
            Refused(&["can't be read as parquet"]),
        ),
        (
            "cut off in the middle",
            whole[..whole.len() / 2].to_vec(),
            Refused(&["can't be read as parquet"]),
        ),
        (
            "marked as text, not UTF-8",
            include_bytes!("fixtures/not_utf8.parquet").to_vec(),
            Refused(&["can't be read as parquet"]),
        ),
        (
            "no rows",
            parquet_of(vec![texts().clear()]),
            Refused(&["no rows"]),
        ),
        ("one text column", whole, Rows(3)),
        (
            "null",
            parquet_of(vec![Column::new("a".into(), [Some("x"), None, None])]),
            SkippedTo(1, &["row 2, column `a`", "null", "2 of 3 rows"]),
        ),
        (
            "empty text",
            parquet_of(vec![Column::new("a".into(), ["x", "", "z"])]),
            SkippedTo(2, &["row 2, column `a`", "only bad one of 3"]),
        ),
        (
            "only white space",
            parquet_of(vec![Column::new("a".into(), ["x", "y", " \n"])]),
            SkippedTo(2, &["row 3", "white space"]),
        ),
        (
            "column of numbers",
            parquet_of(vec![Column::new("idx".into(), [0i32, 1, 2]), texts()]),
            Refused(&["column `idx` holds numbers (i32)", "`idx`, `a`"]),
        ),
        (
            "column of lists",
            parquet_of(vec![texts(), nested.into()]),
            Refused(&["column `b` holds lists"]),
        ),
        (
            "binary column",
            parquet_of(vec![Column::new("a".into(), [b"x".as_slice(), b"y"])]),
            Refused(&["column `a` holds bytes not marked as text"]),
        ),
        (
            "column of nulls",
            parquet_of(vec![
                texts(),
                Column::full_null("b".into(), 3, &DataType::Null),
            ]),
            Refused(&["column `b` holds only nulls"]),
        ),
        (
            "text labels",
            parquet_of(vec![texts(), Column::new("label".into(), ["0", "1", "2"])]),
            Refused(&["label column `label` holds text"]),
        ),
        (
            "null label",
            parquet_of(vec![
                texts(),
                Column::new("label".into(), [Some(0i64), None, Some(2)]),
            ]),
            SkippedTo(2, &["row 2, column `label`", "null"]),
        ),
        (
            "NaN score",
            parquet_of(vec![
                texts(),
                Column::new("score".into(), [0.5f64, f64::NAN, 1.0]),
            ]),
            SkippedTo(2, &["row 2, column `score`", "NaN"]),
        ),
        (
            "label past 64 bits",
            parquet_of(vec![
                texts(),
                Column::new("label".into(), [0u64, u64::MAX, 1]),
            ]),
            SkippedTo(2, &["row 2", "past 64 bits"]),
        ),
        (
            "truth labels",
            parquet_of(vec![
                texts(),
                Column::new("label".into(), [true, false, true]),
            ]),
            Rows(3),
        ),
    ];
    for (name, bytes, outcome) in &cases {
        check(name, "rows.parquet", bytes, outcome);
    }
}

#[test]
fn chosen_columns() {
    let bytes = b"idx,c,a,label\n0,x,y,1\n1,v,w,0\n";
    let choose = |columns: &[&str]| LoadOptions {
        columns: Some(columns.iter().map(|name| name.to_string()).collect()),
        ..LoadOptions::default()
    };
    let check = |columns: &[&str], outcome: Outcome| {
        check_with("chosen", "rows.csv", bytes, &outcome, &choose(columns));
    };
    check(
        &["a", "b"],
        Refused(&["no column `b`", "`idx`, `c`, `a`, `label`"]),
    );
    check(&["a", "a"], Refused(&["`a` is chosen twice"]));
    check(&["label"], Refused(&["no text column"]));
    check(&[], Refused(&["no text column"]));
    check(&["a", "c"], Rows(2));

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.csv");
    fs::write(&path, bytes).unwrap();
    let dataset = load(path.to_str().unwrap(), &choose(&["a", "label", "c"])).unwrap();
    assert_eq!(dataset.column_names(), ["a", "c"]);
    assert_eq!(dataset.columns[0].texts.get(0), Some("y"));
    assert_eq!(dataset.labels, Some(Labels::Integer(vec![1, 0])));
    let dataset = load(path.to_str().unwrap(), &choose(&["a"])).unwrap();
    assert_eq!(dataset.labels, None);
}

/// Damaged parquet: any outcome but a crash, an abort, or a data set with a hole in it.
#[test]
fn mutated_parquet_never_crashes() {
    let text = |prefix: &str| -> Vec<String> {
        (0..300)
            .map(|i| format!("{prefix} number {} of all", i * 7 % 90))
            .collect()
    };
    let whole = parquet_of(vec![
        Column::new("anchor".into(), text("an anchor")),
        Column::new("positive".into(), text("a positive")),
        Column::new("score".into(), (0..300).map(f64::from).collect::<Vec<_>>()),
    ]);
    mutate("rows.parquet", &whole, 1000);
}

#[test]
fn mutated_text_never_crashes() {
    let lines: String = (0..60)
        .map(|i| {
            format!("{{\"a\":\"caf\\u00e9 {i}\",\"b\":\"\u{e9} \\ud83d\\ude00\",\"label\":{i}}}\n")
        })
        .collect();
    mutate("rows.jsonl", lines.as_bytes(), 2000);
    let rows: String = (0..60)
        .map(|i| format!("\"text, \"\"{i}\"\"\n\",caf\u{e9} {i},{i}\r\n"))
        .collect();
    mutate("rows.csv", format!("a,b,label\n{rows}").as_bytes(), 2000);
}

/// Loads `n_files` damaged copies: flipped bytes, runs of zeros or ones, cuts, doubled stretches.
fn mutate(file: &str, whole: &[u8], n_files: usize) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(file);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let (mut n_loaded, mut n_damaged) = (0, 0);
    for i in 0..n_files {
        let mut bytes = whole.to_vec();
        for _ in 0..=random(4) {
            let at = random(bytes.len());
            let end = bytes.len().min(at + 1 + random(16));
            match random(6) {
                0..=2 => bytes[at] ^= 1 << random(8),
                3 => bytes[at..end].fill(if random(2) == 0 { 0 } else { 0xff }),
                4 => bytes.truncate(at.max(1)),
                _ => {
                    let again = bytes[at..end].to_vec();
                    bytes.splice(at..at, again);
                }
            }
        }
        fs::write(&path, &bytes).unwrap();
        let options = LoadOptions {
            on_bad_row: if i % 2 == 0 {
                OnBadRow::Error
            } else {
                OnBadRow::Skip
            },
            ..LoadOptions::default()
        };
        match load(path.to_str().unwrap(), &options) {
            Ok(dataset) => {
                n_loaded += 1;
                assert_whole(file, &dataset);
            }
            Err(data::DataError::Damaged { .. }) => n_damaged += 1,
            Err(error) => assert!(error.to_string().contains(file), "{error}"),
        }
    }
    println!("{file}: {n_files} damaged files, {n_loaded} loaded, {n_damaged} panics caught");
}

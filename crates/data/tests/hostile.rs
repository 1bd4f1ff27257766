//! Every kind of bad input that README.md lists, with its outcome: the list there and the cases
//! here are held against each other.

// With `--nocapture` the messages can be read as users see them.
#![allow(clippy::print_stdout)]

mod support;

use std::{collections::BTreeSet, fs};

use data::{Dataset, Labels, LoadOptions, OnBadRow, load};
use polars_arrow::{array::NullArray, datatypes::ArrowDataType};

use support::{
    CompressionOptions, bytes, lists, numbers, optional_numbers, optional_texts, parquet,
    parquet_with, texts, truths,
};

/// The outcome of a case.
enum Outcome {
    /// Loaded, with this number of rows.
    Rows(usize),
    /// Refused, with all of these parts in the message.
    Refused(&'static [&'static str]),
    /// Refused with these parts in the message; with `OnBadRow::Skip` loaded, with this number of rows.
    SkippedTo(usize, &'static [&'static str]),
}
use Outcome::{Refused, Rows, SkippedTo};

/// A name from the list, perhaps with more in brackets; a file's content; and the outcome.
type Case = (&'static str, Vec<u8>, Outcome);

fn check(name: &str, file: &str, bytes: &[u8], outcome: &Outcome) {
    // The case of this name asks for a column; all others take what there is.
    let columns = name.starts_with("column asked for");
    let columns = columns.then(|| vec!["a".to_owned(), "nowhere".to_owned()]);
    let options = LoadOptions {
        columns,
        ..LoadOptions::default()
    };
    check_with(name, file, bytes, outcome, &options);
}

/// Runs the cases of a format, and holds them against its column of the list in README.md.
fn check_all(file: &str, column: usize, cases: &[Case]) {
    let mut seen = BTreeSet::new();
    for (name, bytes, outcome) in cases {
        check(name, file, bytes, outcome);
        let word = match outcome {
            Rows(_) => "ok",
            Refused(_) => "error",
            SkippedTo(..) => "row",
        };
        let name = name.split(" (").next().unwrap_or(name);
        seen.insert((name.to_owned(), word.to_owned()));
    }
    let listed: BTreeSet<(String, String)> = include_str!("../README.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"))
        .map(|line| line.split(" | ").map(str::trim).collect::<Vec<_>>())
        .filter(|cells| cells[0] != "input" && !["-", ""].contains(&cells[column]))
        .map(|cells| {
            let word = cells[column].split(',').next().unwrap_or_default();
            (cells[0].to_owned(), word.to_owned())
        })
        .collect();
    let untested: Vec<_> = listed.difference(&seen).collect();
    let unlisted: Vec<_> = seen.difference(&listed).collect();
    assert!(untested.is_empty(), "in README.md alone: {untested:?}");
    assert!(unlisted.is_empty(), "not in README.md: {unlisted:?}");
    println!("{file}: {} cases of {} kinds", cases.len(), seen.len());
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
    let deep = format!("a,b\n{},y\n", "[".repeat(100_000));
    let cases: &[(&'static str, &[u8], Outcome)] = &[
        ("empty file", b"", Refused(&["the file is empty"])),
        ("only blank lines", b"\n\r\n\n", Refused(&["the file is empty"])),
        ("no rows", b"a,b\n", Refused(&["no rows"])),
        ("no rows (header without line end)", b"a,b", Refused(&["no rows"])),
        ("one row", b"a,b\nx,y", Rows(1)),
        ("byte order mark", b"\xef\xbb\xbfa,b\nx,y\n", Rows(1)),
        ("byte order mark in the middle", b"a,b\n\xef\xbb\xbfx,y\n", Rows(1)),
        ("CRLF", b"a,b\r\nx,y\r\n\"q\",\"r\"\r\n", Rows(2)),
        ("CRLF (mixed with LF)", b"a,b\nx,y\r\nv,w\n", Rows(2)),
        ("CR alone as line end", b"a,b\rx,y\r", Refused(&["CR alone", "LF or CRLF"])),
        ("CR in a text", b"a,b\nx\r,y\rz\nv,w", Rows(2)),
        ("blank lines between rows", b"a,b\n\nx,y\n\n\nv,w\n\n", Rows(2)),
        ("separator, line end and quote inside quotes", b"a,b\n\"x, \"\"y\"\"\nz\",w\nv,u\n", Rows(2)),
        ("quote inside an unquoted field", b"a,b\na 5\" pipe,y\nx,6\"\n\"q \"\"\",7\n", Rows(3)),
        ("empty text", b"a,b\nx,\nv,w\n", SkippedTo(1, &["row 1 (line 2), column `b`", "text is empty"])),
        ("empty text (in quotes)", b"a,b\nx,\"\"\nv,w\n", SkippedTo(1, &["row 1 (line 2), column `b`", "empty"])),
        ("text of white space", "a,b\nx, \t\u{a0}\u{3000}\nv,w\n".as_bytes(), SkippedTo(1, &["row 1", "white space"])),
        ("too few fields", b"a,b\nv,w\nx\n", SkippedTo(1, &["row 2 (line 3)", "1 field where the header has 2"])),
        ("too many fields", b"a,b\nx,y,z\nv,w\n", SkippedTo(1, &["row 1 (line 2)", "3 fields where"])),
        ("too many fields (a comma without quotes)", b"a,b\nx,y, z\nu,v\nr,s, t\n", SkippedTo(1, &["2 of 3 rows are bad (also row 3)"])),
        ("quote never closed", b"a,b\nv,w\nx,\"y\nz,u\n", SkippedTo(1, &["row 2 (line 3)", "never closed"])),
        ("text after a closing quote", b"a,b\n\"x\" y,z\nv,w\n", SkippedTo(1, &["row 1 (line 2)", "closing quote"])),
        ("not UTF-8", b"a,b\nx,y\ncaf\xe9,z\n", SkippedTo(1, &["row 2 (line 3)", "not UTF-8"])),
        ("header not UTF-8", b"\xe9,b\nx,y\n", Refused(&["header is not UTF-8"])),
        ("UTF-16", b"\xff\xfea\0,\0b\0\n\0", Refused(&["UTF-16", "save the file as UTF-8"])),
        ("NUL in a text", b"a,b\nx\0y,z\n", Rows(1)),
        ("right-to-left, joined emoji, lone accents", "a,b\n\u{5e9}\u{5dc}\u{5d5}\u{5dd},\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}\n\u{301},\u{200d}\n".as_bytes(), Rows(2)),
        ("text of 10 MB", long.as_bytes(), Rows(1)),
        ("a million combining marks", combining.as_bytes(), Rows(1)),
        ("brackets 100,000 deep", deep.as_bytes(), Rows(1)),
        ("the same text again", b"a,b,c\nx,x,x\nx,x,x\n", Rows(2)),
        ("two columns of one name", b"a,a\nx,y\n", Refused(&["two columns are called `a`"])),
        ("column without a name", b"a,\nx,y\n", Refused(&["column 2 of 2 has no name"])),
        ("row numbers without a name", b",a,b\n0,x,y\n", Rows(1)),
        ("reserved column name", b"a,dataset_name\nx,y\n", Refused(&["`dataset_name` is reserved"])),
        ("column asked for that is not there", b"a,b\nx,y\n", Refused(&["no column `nowhere`", "`a`, `b`"])),
        ("number among texts", b"a,b\nx,5\ny,z\n", Rows(2)),
        ("column of numbers", b"idx,a\n0,x\n1,y\n", Refused(&["column `idx` holds only numbers", "choose the columns"])),
        ("labels alone", b"label\n1\n", Refused(&["no text column"])),
        ("two label columns", b"a,label,score\nx,1,0.5\n", Refused(&["`label` and `score`"])),
        ("text among labels", b"a,label\nx,entailment\ny,1\n", SkippedTo(1, &["row 1 (line 2), column `label`", "`entailment`, not a number"])),
        ("text labels", b"a,label\nx,sea\ny,land\n", Rows(2)),
        ("null or empty label", b"a,label\nx,\ny,1\n", SkippedTo(1, &["label is empty, not a number"])),
        ("NaN or infinite label", b"a,score\nx,nan\ny,0.5\n", SkippedTo(1, &["row 1", "`score`", "NaN is not a finite"])),
        ("NaN or infinite label (infinite)", b"a,score\nx,-inf\ny,0.5\n", SkippedTo(1, &["row 1", "`score`", "-inf is not a finite"])),
        ("label past f32", b"a,score\nx,0.1\ny,1e300\n", SkippedTo(1, &["row 2", "not a finite number"])),
        ("label past 64 bits", b"a,label\nx,1\ny,18446744073709551616\n", SkippedTo(1, &["row 2", "past 64 bits"])),
        ("truth as label", b"a,label\nx,true\ny,1\n", SkippedTo(1, &["row 1", "`true`, not a number"])),
        ("content of another kind (parquet)", b"PAR1\x15\x04\x15", Refused(&["looks like parquet", "name the file .parquet"])),
        ("content of another kind (broken gzip)", b"\x1f\x8b\x08\0\0", Refused(&["can't be read as gzip"])),
        ("content of another kind (Git LFS pointer)", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", Refused(&["Git LFS"])),
        ("pickle", b"\x80\x04\x95\x10", Refused(&["a Python pickle"])),
        ("pickle (of torch)", b"PK\x03\x04\0\0", Refused(&["a zip archive", ".pt"])),
    ];
    check_all("rows.csv", 1, &owned(cases));
}

fn owned(cases: &[(&'static str, &[u8], Outcome)]) -> Vec<Case> {
    let owned = |(name, bytes, outcome): &(&'static str, &[u8], Outcome)| {
        let outcome = match outcome {
            Rows(n) => Rows(*n),
            Refused(parts) => Refused(parts),
            SkippedTo(n, parts) => SkippedTo(*n, parts),
        };
        (*name, bytes.to_vec(), outcome)
    };
    cases.iter().map(owned).collect()
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
        "{{\"a\":\"x\"}}\n{{\"a\":{}1{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    let long = format!("{{\"a\":\"{}\"}}", "long text ".repeat(1 << 20));
    let combining = format!("{{\"a\":\"e{}\"}}", "\u{301}".repeat(1_000_000));
    let cases: &[(&'static str, &[u8], Outcome)] = &[
        ("empty file", b"", Refused(&["the file is empty"])),
        (
            "only blank lines",
            b"\n \n",
            Refused(&["the file is empty"]),
        ),
        ("one row", br#"{"a":"x","b":"y"}"#, Rows(1)),
        ("byte order mark", b"\xef\xbb\xbf{\"a\":\"x\"}\n", Rows(1)),
        (
            "byte order mark in the middle",
            b"{\"a\":\"x\"}\n\xef\xbb\xbf{\"a\":\"y\"}\n",
            SkippedTo(1, &["row 2", "not valid JSON"]),
        ),
        (
            "UTF-16",
            b"\xff\xfe{\0}\0\n\0",
            Refused(&["UTF-16", "save the file as UTF-8"]),
        ),
        ("CRLF", b"{\"a\":\"x\"}\r\n{\"a\":\"y\"}\r\n", Rows(2)),
        (
            "blank lines between rows",
            b"{\"a\":\"x\"}\n\n \r\n{\"a\":\"y\"}",
            Rows(2),
        ),
        (
            "CR alone as line end",
            b"{\"a\":\"x\"}\n{\"a\":\"y\"}\r{\"a\":\"z\"}\r",
            SkippedTo(1, &["row 2 (line 2)", "trailing characters"]),
        ),
        ("CR in a text", br#"{"a":"x\ry\r"}"#, Rows(1)),
        (
            "escapes",
            br#"{"a":"\u00e9 \ud83d\ude00 \n\t\"","b":"y"}"#,
            Rows(1),
        ),
        (
            "lone or swapped surrogates",
            b"{\"a\":\"x\"}\n{\"a\":\"\\ud83d\"}\n",
            SkippedTo(1, &["row 2 (line 2)", "not valid JSON", "hex escape"]),
        ),
        (
            "lone or swapped surrogates (swapped)",
            b"{\"a\":\"x\"}\n{\"a\":\"\\ude00\\ud83d\"}\n",
            SkippedTo(1, &["row 2", "hex escape"]),
        ),
        ("NUL in a text", br#"{"a":"x\u0000y"}"#, Rows(1)),
        (
            "not UTF-8",
            b"{\"a\":\"x\"}\n{\"a\":\"\xff\"}\n",
            SkippedTo(1, &["row 2 (line 2)", "not UTF-8"]),
        ),
        (
            "right-to-left, joined emoji, lone accents",
            "{\"a\":\"\u{5e9}\u{5dc} \u{1f468}\u{200d}\u{1f469}\"}\n{\"a\":\"\u{301}\"}".as_bytes(),
            Rows(2),
        ),
        ("text of 10 MB", long.as_bytes(), Rows(1)),
        ("a million combining marks", combining.as_bytes(), Rows(1)),
        (
            "the same text again",
            b"{\"a\":\"x\",\"b\":\"x\"}\n{\"a\":\"x\",\"b\":\"x\"}\n",
            Rows(2),
        ),
        (
            "broken off",
            b"{\"a\":\"x\"}\n{\"a\":\"y",
            SkippedTo(1, &["row 2 (line 2)", "not valid JSON"]),
        ),
        (
            "no JSON",
            b"{\"a\":\"x\"}\n{\"a\":\"y\"} {}\n",
            SkippedTo(1, &["row 2", "trailing characters"]),
        ),
        (
            "no JSON (single quotes)",
            b"{\"a\":\"x\"}\n{'a':'y'}\n",
            SkippedTo(1, &["row 2", "not valid JSON"]),
        ),
        (
            "no JSON in any line",
            b"a,b\nx,y\n",
            Refused(&["row 1", "not valid JSON"]),
        ),
        (
            "one JSON array instead of lines",
            b"[{\"a\":\"x\"},\n{\"a\":\"y\"}]",
            Rows(2),
        ),
        (
            "no object in any line",
            b"1\n2\n",
            Refused(&["row 1 (line 1)", "a number, not an object"]),
        ),
        (
            "no object",
            b"{\"a\":\"x\"}\n\n\"y\"\n",
            SkippedTo(1, &["row 2 (line 3)", "a text, not an object"]),
        ),
        (
            "null",
            b"{\"a\":\"x\"}\n{\"a\":null}\n",
            SkippedTo(1, &["row 2 (line 2), column `a`", "null"]),
        ),
        (
            "null (in the first row)",
            b"{\"a\":null}\n{\"a\":\"x\"}\n",
            SkippedTo(1, &["row 1 (line 1), column `a`", "null"]),
        ),
        (
            "empty text",
            b"{\"a\":\"x\"}\n{\"a\":\"\"}\n",
            SkippedTo(1, &["row 2", "empty"]),
        ),
        (
            "text of white space",
            b"{\"a\":\"x\"}\n{\"a\":\" \\n\"}\n",
            SkippedTo(1, &["row 2", "white space"]),
        ),
        (
            "key missing",
            b"{\"a\":\"x\",\"b\":\"y\"}\n{\"a\":\"x\"}\n",
            SkippedTo(1, &["row 2 (line 2), column `b`", "missing"]),
        ),
        (
            "key that the first row lacks",
            b"{\"a\":\"x\"}\n{\"a\":\"x\",\"c\":\"y\"}\n",
            SkippedTo(1, &["row 1 (line 1), column `c`", "the key is missing"]),
        ),
        (
            "two columns of one name",
            b"{\"a\":\"x\"}\n{\"a\":\"x\",\"a\":\"y\"}\n",
            SkippedTo(1, &["column `a`", "comes twice"]),
        ),
        (
            "keys in another order",
            b"{\"a\":\"x\",\"b\":\"y\"}\n{\"b\":\"z\",\"a\":\"w\"}\n",
            Rows(2),
        ),
        (
            "reserved column name",
            br#"{"a":"x","return_loss":"y"}"#,
            Refused(&["`return_loss` is reserved"]),
        ),
        (
            "column asked for that is not there",
            br#"{"a":"x","b":"y"}"#,
            Refused(&["no column `nowhere`", "`a`, `b`"]),
        ),
        (
            "number among texts",
            b"{\"a\":\"x\"}\n{\"a\":5}\n",
            SkippedTo(1, &["row 2", "a number, not text"]),
        ),
        (
            "list or object among texts",
            b"{\"a\":\"x\"}\n{\"a\":[\"y\"]}\n",
            SkippedTo(1, &["row 2", "a list, not text"]),
        ),
        (
            "list or object among texts (object)",
            b"{\"a\":\"x\"}\n{\"a\":{\"b\":\"y\"}}\n",
            SkippedTo(1, &["row 2", "an object, not text"]),
        ),
        (
            "column of lists or objects",
            br#"{"a":"x","b":["y","z"]}"#,
            Refused(&["column `b` holds lists"]),
        ),
        (
            "column of lists or objects (objects)",
            br#"{"a":"x","b":{"c":1}}"#,
            Refused(&["column `b` holds objects"]),
        ),
        (
            "column of numbers",
            br#"{"idx":0,"a":"x"}"#,
            Refused(&["column `idx` holds numbers", "`idx`, `a`"]),
        ),
        (
            "brackets 100,000 deep",
            deep.as_bytes(),
            SkippedTo(1, &["row 2", "not valid JSON", "recursion"]),
        ),
        (
            "labels alone",
            br#"{"label":1}"#,
            Refused(&["no text column"]),
        ),
        (
            "two label columns",
            br#"{"a":"x","label":1,"score":1}"#,
            Refused(&["`label` and `score`"]),
        ),
        ("text labels", br#"{"a":"x","label":"yes"}"#, Rows(1)),
        (
            "text among labels",
            b"{\"a\":\"x\",\"label\":1}\n{\"a\":\"y\",\"label\":\"1\"}\n",
            SkippedTo(1, &["row 2", "a text, not a number"]),
        ),
        (
            "null or empty label",
            b"{\"a\":\"x\",\"label\":1}\n{\"a\":\"y\",\"label\":null}\n",
            SkippedTo(1, &["row 2", "`label`", "null"]),
        ),
        (
            "NaN or infinite label",
            b"{\"a\":\"x\",\"score\":0.5}\n{\"a\":\"y\",\"score\":NaN}\n",
            SkippedTo(1, &["row 2", "not valid JSON"]),
        ),
        (
            "NaN or infinite label (past f64)",
            b"{\"a\":\"x\",\"score\":0.5}\n{\"a\":\"y\",\"score\":1e999}\n",
            SkippedTo(1, &["row 2", "number out of range"]),
        ),
        (
            "label past f32",
            b"{\"a\":\"x\",\"score\":0.5}\n{\"a\":\"y\",\"score\":1e60}\n",
            SkippedTo(1, &["row 2", "finite"]),
        ),
        (
            "label past 64 bits",
            b"{\"a\":\"x\",\"label\":1}\n{\"a\":\"y\",\"label\":18446744073709551615}\n",
            SkippedTo(1, &["row 2", "in range"]),
        ),
        (
            "truth as label",
            b"{\"a\":\"x\",\"label\":true}\n{\"a\":\"y\",\"label\":false}\n",
            Rows(2),
        ),
        (
            "truth among numbers as label",
            b"{\"a\":\"x\",\"label\":true}\n{\"a\":\"y\",\"label\":1}\n",
            SkippedTo(1, &["row 2", "first row has true or false"]),
        ),
        (
            "content of another kind",
            b"PAR1\x15\x04\x15",
            Refused(&["looks like parquet", "name the file .parquet"]),
        ),
        ("pickle", b"\x80\x02}q\0.", Refused(&["a Python pickle"])),
        (
            "pickle (of torch)",
            b"PK\x03\x04\0\0",
            Refused(&["a zip archive", ".pt"]),
        ),
    ];
    check_all("rows.jsonl", 2, &owned(cases));
}

/// A file whose first page says that it holds -1 values, which a reader may take for 2^64 - 1.
fn huge_page() -> Vec<u8> {
    let columns = [("a", texts(&["x", "y"]))];
    let mut bytes = parquet_with(&columns, CompressionOptions::Uncompressed, 10);
    // Thrift's compact form: fields 1 to 3 are the page's kind, its sizes and then the header of a
    // dictionary or data page, whose first field, 0x15, is the number of values: 4 is 2, 1 is -1.
    let header = bytes.windows(2).position(|two| two == [0x15, 4]).unwrap();
    bytes[header + 1] = 1;
    bytes
}

#[test]
fn parquet_files() {
    let a = || ("a", texts(&["x", "y", "z"]));
    let whole = parquet(&[a()]);
    let cases: Vec<Case> = vec![
        ("empty file", vec![], Refused(&["the file is empty"])),
        (
            "content of another kind",
            b"a,b\nx,y\n".to_vec(),
            Refused(&["the name says parquet", "starts with PAR1"]),
        ),
        (
            "pickle",
            b"\x80\x04\x95\x10".to_vec(),
            Refused(&["a Python pickle"]),
        ),
        (
            "pickle (of torch)",
            b"PK\x03\x04\0\0".to_vec(),
            Refused(&["a zip archive"]),
        ),
        (
            "broken off (after the first bytes)",
            b"PAR1".to_vec(),
            Refused(&["can't be read as parquet"]),
        ),
        (
            "broken off",
            whole[..whole.len() / 2].to_vec(),
            Refused(&["can't be read as parquet"]),
        ),
        (
            "not UTF-8",
            include_bytes!("fixtures/not_utf8.parquet").to_vec(),
            SkippedTo(2, &["row 2, column `positive`", "not UTF-8"]),
        ),
        (
            "no rows",
            parquet(&[("a", texts::<&str>(&[]))]),
            Refused(&["no rows"]),
        ),
        ("one row (or three)", whole, Rows(3)),
        (
            "null",
            parquet(&[("a", optional_texts(&[Some("x"), None, None]))]),
            SkippedTo(1, &["row 2, column `a`", "null", "2 of 3 rows"]),
        ),
        (
            "empty text",
            parquet(&[("a", texts(&["x", "", "z"]))]),
            SkippedTo(2, &["row 2, column `a`", "only bad one of 3"]),
        ),
        (
            "text of white space",
            parquet(&[("a", texts(&["x", "y", " \n"]))]),
            SkippedTo(2, &["row 3", "white space"]),
        ),
        (
            "column of numbers",
            parquet(&[("idx", numbers(&[0i32, 1, 2])), a()]),
            Refused(&["column `idx` holds numbers (i32)", "`idx`, `a`"]),
        ),
        (
            "column of lists or objects",
            parquet(&[a(), ("b", lists(&[1, 1, 1], texts(&["p", "q", "r"])))]),
            Refused(&["column `b` holds lists"]),
        ),
        (
            "binary column",
            parquet(&[("a", bytes(&[b"x", b"y"]))]),
            Refused(&["column `a` holds bytes not marked as text"]),
        ),
        (
            "column of nulls",
            parquet(&[a(), ("b", NullArray::new(ArrowDataType::Null, 3).boxed())]),
            Refused(&["column `b` holds only nulls"]),
        ),
        (
            "text labels",
            parquet(&[a(), ("label", texts(&["0", "1", "2"]))]),
            Rows(3),
        ),
        (
            "null or empty label",
            parquet(&[
                a(),
                ("label", optional_numbers(&[Some(0i64), None, Some(2)])),
            ]),
            SkippedTo(2, &["row 2, column `label`", "null"]),
        ),
        (
            "NaN or infinite label",
            parquet(&[a(), ("score", numbers(&[0.5f64, f64::NAN, 1.0]))]),
            SkippedTo(2, &["row 2, column `score`", "NaN"]),
        ),
        (
            "label past 64 bits",
            parquet(&[a(), ("label", numbers(&[0u64, u64::MAX, 1]))]),
            SkippedTo(2, &["row 2", "past 64 bits"]),
        ),
        (
            "truth as label",
            parquet(&[a(), ("label", truths(&[true, false, true]))]),
            Rows(3),
        ),
    ];
    let more: Vec<Case> = vec![
        (
            "NUL in a text",
            parquet(&[("a", texts(&["x\0y"]))]),
            Rows(1),
        ),
        (
            "right-to-left, joined emoji, lone accents",
            parquet(&[(
                "a",
                texts(&["\u{5e9}\u{5dc}", "\u{1f468}\u{200d}\u{1f469}", "\u{301}"]),
            )]),
            Rows(3),
        ),
        (
            "text of 10 MB",
            parquet(&[("a", texts(&["long text ".repeat(1 << 20)]))]),
            Rows(1),
        ),
        (
            "a million combining marks",
            parquet(&[("a", texts(&[format!("e{}", "\u{301}".repeat(1_000_000))]))]),
            Rows(1),
        ),
        (
            "the same text again",
            parquet(&[("a", texts(&["x", "x"])), ("b", texts(&["x", "x"]))]),
            Rows(2),
        ),
        (
            "CR in a text",
            parquet(&[("a", texts(&["x\r", "\ry"]))]),
            Rows(2),
        ),
        (
            "reserved column name",
            parquet(&[a(), ("dataset_name", texts(&["x", "y", "z"]))]),
            Refused(&["`dataset_name` is reserved"]),
        ),
        (
            "column asked for that is not there",
            parquet(&[a()]),
            Refused(&["no column `nowhere`", "the columns are `a`"]),
        ),
        (
            "labels alone",
            parquet(&[("label", numbers(&[1i32]))]),
            Refused(&["no text column"]),
        ),
        (
            "two label columns",
            parquet(&[
                a(),
                ("label", numbers(&[1i32, 2, 3])),
                ("score", numbers(&[1i32, 2, 3])),
            ]),
            Refused(&["`label` and `score`"]),
        ),
        (
            "label past f32",
            parquet(&[a(), ("score", numbers(&[0.5f64, 1e300, 1.0]))]),
            SkippedTo(2, &["row 2", "finite"]),
        ),
        (
            "page headers that ask for terabytes",
            huge_page(),
            Refused(&["can't be read as parquet"]),
        ),
    ];
    check_all(
        "rows.parquet",
        3,
        &cases.into_iter().chain(more).collect::<Vec<_>>(),
    );
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

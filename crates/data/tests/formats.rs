//! Data as people have it: types, separators, splits, lists and labels of other forms than the simplest.

mod support;

use std::path::{Path, PathBuf};

use data::{DataError, Dataset, Dialect, Labels, LoadOptions, OnBadRow, Split, load};
use fs_err as fs;
use tempfile::TempDir;

use polars_arrow_format::ipc::CompressionType;
use support::{CompressionOptions, arrow, numbers, packed_arrow, parquet_with, plain_texts, texts};

fn fixture(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    folder.join(name).display().to_string()
}

/// Files of these names and contents in a folder of their own.
fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    folder
}

fn with(
    options: &LoadOptions,
    name: &str,
    content: impl AsRef<[u8]>,
) -> Result<Dataset, DataError> {
    let folder = folder(&[(name, content.as_ref())]);
    load(folder.path().join(name).to_str().unwrap(), options)
}

fn loaded(name: &str, content: impl AsRef<[u8]>) -> Dataset {
    with(&LoadOptions::default(), name, content).unwrap()
}

fn refused(options: &LoadOptions, name: &str, content: impl AsRef<[u8]>) -> String {
    with(options, name, content).unwrap_err().to_string()
}

/// Row by row, the texts of all columns.
fn rows(dataset: &Dataset) -> Vec<Vec<&str>> {
    (0..dataset.n_rows())
        .map(|row| {
            let columns = dataset.columns.iter();
            columns
                .map(|column| column.texts.get(row).unwrap())
                .collect()
        })
        .collect()
}

fn columns(columns: &[&str]) -> LoadOptions {
    LoadOptions {
        columns: Some(columns.iter().map(|name| (*name).to_owned()).collect()),
        ..LoadOptions::default()
    }
}

#[test]
fn a_parquet_column_of_any_type_harms_nobody_who_does_not_choose_it() {
    let path = fixture("types.parquet");
    let dataset = load(&path, &columns(&["b", "a"])).unwrap();
    assert_eq!(rows(&dataset)[3], ["vier", "four"]);
    let dataset = load(&path, &columns(&["a", "large"])).unwrap();
    assert_eq!(rows(&dataset)[1], ["two", "v"]);
    for (name, holds) in [
        ("decimal", "numbers (decimal)"),
        ("long_decimal", "decimals of more than 38 digits"),
        ("half", "numbers (f16)"),
        ("fixed", "lists (of f32)"),
        ("date", "dates"),
        ("timestamp", "times (timestamp)"),
        ("time", "values of type Time64"),
        ("binary", "bytes not marked as text"),
        ("fixed_binary", "values of type FixedSizeBinary"),
        ("struct", "objects"),
        ("map", ""),
        ("structs", "lists (of"),
        ("nulls", "only nulls"),
    ] {
        let error = load(&path, &columns(&["a", name])).unwrap_err().to_string();
        let expected = format!("column `{name}` holds {holds}");
        assert!(error.contains(&expected), "{expected}: {error}");
    }
    let options = LoadOptions {
        on_bad_row: OnBadRow::Skip,
        ..columns(&["a", "dictionary"])
    };
    let dataset = load(&path, &options).unwrap();
    assert_eq!(rows(&dataset), [["one", "u"], ["two", "v"], ["three", "u"]]);
}

#[test]
fn decimals_and_halves_are_scores() {
    let scores = |name: &str| {
        load(&fixture(name), &LoadOptions::default())
            .unwrap()
            .labels
    };
    let expected = vec![0.0, 0.125, 0.25, 0.375];
    assert_eq!(
        scores("decimal_score.parquet"),
        Some(Labels::Float(expected))
    );
    let expected = vec![0.0, 0.0625, 0.125, 0.1875];
    assert_eq!(scores("half_score.parquet"), Some(Labels::Float(expected)));
}

#[test]
fn parquet_of_every_compression_is_read() {
    let all = [
        CompressionOptions::Uncompressed,
        CompressionOptions::Snappy,
        CompressionOptions::Gzip(None),
        CompressionOptions::Brotli(None),
        CompressionOptions::Lz4Raw,
        CompressionOptions::Zstd(None),
    ];
    for compression in all {
        let a: Vec<String> = (0..1000).map(|i| format!("text {}", i % 10)).collect();
        let scores: Vec<f64> = (0..1000).map(|i| f64::from(i) / 8.0).collect();
        let file = parquet_with(
            &[("a", texts(&a)), ("score", numbers(&scores))],
            compression,
            300,
        );
        let dataset = loaded("a.parquet", file);
        let read: Vec<&str> = dataset.columns[0].texts.iter().collect();
        assert_eq!(read, a, "{compression:?}");
        assert_eq!(dataset.labels.unwrap().into_f32()[999], 124.875);
    }
}

#[test]
fn the_split_is_taken_by_the_names_of_files_and_folders() {
    let csv = |text: &str| format!("a,b\n{text},y\n").into_bytes();
    let [train, dev, test] = ["train", "dev", "test"].map(csv);
    let of = |folder: &TempDir, split: Split| {
        let options = LoadOptions {
            split,
            ..LoadOptions::default()
        };
        let dataset = load(folder.path().to_str().unwrap(), &options)?;
        Ok::<_, DataError>(
            rows(&dataset)
                .iter()
                .map(|row| row[0].to_owned())
                .collect::<Vec<_>>(),
        )
    };
    for names in [
        ["train.csv", "dev.csv", "test.csv"],
        [
            "data/train-00000-of-00001.csv",
            "data/validation-00000-of-00001.csv",
            "data/test-00000-of-00001.csv",
        ],
        ["training/x.csv", "valid/x.csv", "evaluation/x.csv"],
        ["my_train_1.csv", "my_val_1.csv", "my_test_1.csv"],
    ] {
        let folder = folder(&[
            (names[0], &train),
            (names[1], &dev),
            (names[2], &test),
            ("README.md", b"x"),
            ("dataset_infos.json", b"{}"),
        ]);
        assert_eq!(of(&folder, Split::Train).unwrap(), ["train"], "{names:?}");
        assert_eq!(of(&folder, Split::Dev).unwrap(), ["dev"], "{names:?}");
        assert_eq!(of(&folder, Split::Test).unwrap(), ["test"], "{names:?}");
    }
    let unsplit = folder(&[("one.csv", &train), ("two.csv", &dev)]);
    assert_eq!(of(&unsplit, Split::Test).unwrap(), ["train", "dev"]);
    let no_dev = folder(&[("train.csv", &train), ("test.csv", &test)]);
    let message = of(&no_dev, Split::Dev).unwrap_err().to_string();
    assert!(
        message.contains("the dev split") && message.contains("train, test"),
        "{message}"
    );
}

#[test]
fn folders_of_save_to_disk_are_read() {
    let options = columns(&["b", "a", "label"]);
    let dataset = load(&fixture("saved"), &options).unwrap();
    assert_eq!(rows(&dataset)[0], ["een", "one"]);
    assert_eq!(
        dataset.labels,
        Some(Labels::Float(vec![0.5, 1.0, 0.25, 0.0]))
    );
    let splits = fixture("saved_splits");
    assert_eq!(load(&splits, &options).unwrap().n_rows(), 3);
    let options = LoadOptions {
        split: Split::Test,
        ..options
    };
    assert_eq!(rows(&load(&splits, &options).unwrap()), [["vier", "four"]]);
    // The file format is the stream between a first and a last word.
    let stream =
        fs::read(PathBuf::from(fixture("saved")).join("data-00000-of-00001.arrow")).unwrap();
    let file = [b"ARROW1\0\0", stream.as_slice()].concat();
    assert_eq!(with(&columns(&["a"]), "a.arrow", file).unwrap().n_rows(), 4);
    for cut in [100, 700, stream.len() - 100] {
        let message = refused(&columns(&["a"]), "a.arrow", &stream[..cut]);
        assert!(message.contains("can't be read as Arrow"), "{message}");
    }
}

#[test]
fn columns_that_pandas_added_are_left_aside() {
    let csv = ",anchor,positive\n0,x,y\n1,v,w\n";
    assert_eq!(rows(&loaded("a.csv", csv)), [["x", "y"], ["v", "w"]]);
    let chosen = with(&columns(&["positive", "anchor"]), "a.csv", csv).unwrap();
    assert_eq!(rows(&chosen), [["y", "x"], ["w", "v"]]);
    let trailing = "anchor,positive,\nx,y,\nv,w,\n";
    assert_eq!(rows(&loaded("a.csv", trailing)), [["x", "y"], ["v", "w"]]);
    let again = "Unnamed: 0,anchor,positive\n0,x,y\n";
    assert_eq!(rows(&loaded("a.csv", again)), [["x", "y"]]);
    let index = [
        ("a", texts(&["x"])),
        ("__index_level_0__", numbers(&[7_i64])),
    ];
    let file = parquet_with(&index, CompressionOptions::Uncompressed, 9);
    assert_eq!(rows(&loaded("a.parquet", file)), [["x"]]);
    let message = refused(&LoadOptions::default(), "a.csv", ",a\ntext,x\n");
    assert!(message.contains("column 1 of 2 has no name"), "{message}");
}

#[test]
fn separators_are_shown_by_the_header_or_said() {
    let semicolons = "\u{feff}anchor;positive\r\nx, y;z\r\n";
    assert_eq!(rows(&loaded("a.csv", semicolons)), [["x, y", "z"]]);
    assert_eq!(rows(&loaded("a.csv", "a|b\nx, y|z\n")), [["x, y", "z"]]);
    assert_eq!(rows(&loaded("a.csv", "a\tb\nx, y\tz\n")), [["x, y", "z"]]);
    assert_eq!(rows(&loaded("a.tsv", "a,b\nx,z\n")), [["x", "z"]]);
    assert_eq!(rows(&loaded("a.csv", "a\nx; y\n")), [["x; y"]]);
    let options = LoadOptions {
        dialect: Dialect {
            separator: Some(b'#'),
            no_quotes: false,
        },
        ..LoadOptions::default()
    };
    let dataset = with(&options, "a.csv", "a,b#c\nx#\"y#z\"\n").unwrap();
    assert_eq!(dataset.column_names(), ["a,b", "c"]);
    assert_eq!(rows(&dataset), [["x", "y#z"]]);
}

#[test]
fn quotation_marks_may_be_letters() {
    let options = LoadOptions {
        dialect: Dialect {
            no_quotes: true,
            ..Dialect::default()
        },
        ..LoadOptions::default()
    };
    let quotes = "a\tb\n\"The ferry is late.\tIt has a delay.\nThe \"old\" mill.\tA mill.\n\"Wait\" said he.\tHe said \"wait\"\n";
    let dataset = with(&options, "a.tsv", quotes).unwrap();
    assert_eq!(dataset.n_rows(), 3);
    assert_eq!(
        rows(&dataset)[0],
        ["\"The ferry is late.", "It has a delay."]
    );
    assert_eq!(rows(&dataset)[2], ["\"Wait\" said he.", "He said \"wait\""]);
    let message = refused(&LoadOptions::default(), "a.tsv", quotes);
    assert!(message.contains("--no-quotes"), "{message}");
    let merged = "a\tb\n\"The boat\tcame\nThe crew left\"\tThe crew\nA gull\tA bird\n";
    assert_eq!(with(&options, "a.tsv", merged).unwrap().n_rows(), 3);
    assert_eq!(loaded("a.tsv", merged).n_rows(), 2);
}

#[test]
fn other_encodings_are_named_with_the_way_out() {
    let utf16 = refused(&LoadOptions::default(), "a.csv", b"\xff\xfea\0,\0b\0");
    assert!(utf16.contains("iconv -f UTF-16 -t UTF-8"), "{utf16}");
    let windows = refused(&LoadOptions::default(), "a.csv", b"a,b\ncaf\xe9,y\n");
    assert!(windows.contains("iconv -f CP1252 -t UTF-8"), "{windows}");
}

#[test]
fn labels_are_classes_where_all_are_whole() {
    let labels = |name: &str, content: &str| loaded(name, content).labels;
    let classes = Some(Labels::Integer(vec![0, 1, 2]));
    let csv = "a,label\nx,0.0\ny,1.0\nz,2.0\n";
    assert_eq!(labels("a.csv", csv), classes);
    let lines =
        "{\"a\":\"x\",\"label\":0.0}\n{\"a\":\"y\",\"label\":1.0}\n{\"a\":\"z\",\"label\":2.0}\n";
    assert_eq!(labels("a.jsonl", lines), classes);
    let scores = Some(Labels::Float(vec![0.0, 0.5]));
    assert_eq!(labels("a.csv", "a,score\nx,0.0\ny,0.5\n"), scores);
}

#[test]
fn words_are_classes_in_order_of_appearance() {
    let dataset = loaded("a.csv", "a,label\nw,water\nx,town\ny,water\nz,garden\n");
    assert_eq!(dataset.labels, Some(Labels::Integer(vec![0, 1, 0, 2])));
    assert_eq!(dataset.classes, ["water", "town", "garden"]);
    let options = LoadOptions {
        classes: dataset.classes,
        ..LoadOptions::default()
    };
    let dev = with(&options, "a.csv", "a,label\nx,garden\ny,new\n").unwrap();
    assert_eq!(dev.labels, Some(Labels::Integer(vec![2, 3])));
    assert_eq!(dev.classes, ["water", "town", "garden", "new"]);
    let truth = loaded("a.csv", "a,b,label\nx,y,False\nv,w,True\n");
    assert_eq!(truth.labels, Some(Labels::Integer(vec![0, 1])));
    assert!(truth.classes.is_empty());
    let dictionary = load(&fixture("words.parquet"), &LoadOptions::default()).unwrap();
    assert_eq!(dictionary.labels, Some(Labels::Integer(vec![0, 1, 0, 2])));
    assert_eq!(dictionary.classes, ["sea", "land", "air"]);
    let lines = loaded(
        "a.jsonl",
        "{\"a\":\"x\",\"label\":\"u\"}\n{\"a\":\"y\",\"label\":\"v\"}\n",
    );
    assert_eq!(lines.classes, ["u", "v"]);
    // Two files of one source share the numbers.
    let files: [(&str, &[u8]); 2] = [
        ("1.csv", b"a,label\nx,u\n"),
        ("2.csv", b"a,label\nx,v\ny,u\n"),
    ];
    let both = folder(&files);
    let both = load(both.path().to_str().unwrap(), &LoadOptions::default()).unwrap();
    assert_eq!(both.labels, Some(Labels::Integer(vec![0, 1, 0])));
}

#[test]
fn the_label_column_may_have_any_name() {
    let csv = "q1,q2,is_duplicate\nx,y,1\nv,w,0\n";
    let message = refused(&LoadOptions::default(), "a.csv", csv);
    assert!(message.contains("--label-column is_duplicate"), "{message}");
    let options = LoadOptions {
        label_column: Some("is_duplicate".to_owned()),
        ..LoadOptions::default()
    };
    let dataset = with(&options, "a.csv", csv).unwrap();
    assert_eq!(dataset.labels, Some(Labels::Integer(vec![1, 0])));
    assert_eq!(dataset.column_names(), ["q1", "q2"]);
    let capital = loaded("a.csv", "a,b,Label\nx,y,1\n");
    assert_eq!(capital.labels, Some(Labels::Integer(vec![1])));
    let number = refused(
        &LoadOptions::default(),
        "a.jsonl",
        "{\"a\":\"x\",\"similarity\":0.5}",
    );
    assert!(number.contains("--label-column similarity"), "{number}");
}

#[test]
fn keys_that_some_rows_lack_are_a_choice() {
    let lines = "{\"a\":\"1\",\"p\":\"2\"}\n{\"a\":\"3\",\"p\":\"4\",\"n\":\"5\"}\n{\"a\":\"6\",\"p\":\"7\"}\n";
    let skip = LoadOptions {
        on_bad_row: OnBadRow::Skip,
        ..LoadOptions::default()
    };
    let dataset = with(&skip, "a.jsonl", lines).unwrap();
    assert_eq!(rows(&dataset), [["3", "4", "5"]]);
    assert_eq!(dataset.n_skipped, 2);
    let message = refused(&LoadOptions::default(), "a.jsonl", lines);
    assert!(
        message.contains(
            "row 1 (line 1), column `n`: the key is missing; 2 of 3 rows are bad (also row 3)"
        ),
        "{message}"
    );
    assert_eq!(
        with(&columns(&["a", "p"]), "a.jsonl", lines)
            .unwrap()
            .n_rows(),
        3
    );
}

#[test]
fn lines_may_be_arrays() {
    let pairs = loaded("a.jsonl", "[\"x\",\"y\"]\n[\"v\",\"w\"]\n");
    assert_eq!(pairs.column_names(), ["anchor", "positive"]);
    assert_eq!(rows(&pairs), [["x", "y"], ["v", "w"]]);
    let triplets = loaded("a.jsonl", "[\"x\",\"y\",\"z\"]\n");
    assert_eq!(triplets.column_names(), ["anchor", "positive", "negative"]);
    let scores = loaded("a.jsonl", "[\"x\",\"y\",0.5]\n[\"v\",\"w\",1]\n");
    assert_eq!(scores.labels, Some(Labels::Float(vec![0.5, 1.0])));
    let message = refused(
        &LoadOptions::default(),
        "a.jsonl",
        "[\"x\",\"y\"]\n[\"v\"]\n{}\n",
    );
    assert!(
        message.contains("row 2 (line 2): 1 value where the first line has 2; 2 of 3 rows"),
        "{message}"
    );
    let sets = loaded(
        "a.jsonl",
        "{\"set\":[\"x\",\"y\"]}\n{\"set\":[\"u\",\"v\",\"w\"]}\n",
    );
    assert_eq!(sets.column_names(), ["anchor", "positive"]);
    assert_eq!(rows(&sets), [["x", "y"], ["u", "v"], ["u", "w"]]);
    let objects = loaded(
        "a.jsonl",
        "{\"set\":{\"query\":\"q\",\"pos\":[\"p\"],\"neg\":[\"m\",\"n\"]}}\n",
    );
    assert_eq!(rows(&objects), [["q", "p", "m", "n"]]);
}

#[test]
fn lists_of_positives_and_negatives_are_expanded() {
    let equal = "{\"query\":\"q\",\"pos\":[\"p\"],\"neg\":[\"m\",\"n\"],\"pos_scores\":[1],\"prompt\":\"P: \"}\n\
                 {\"query\":\"r\",\"pos\":[\"s\"],\"neg\":[\"t\",\"u\"],\"pos_scores\":[1],\"prompt\":\"P: \"}\n";
    let dataset = loaded("a.jsonl", equal);
    assert_eq!(
        dataset.column_names(),
        ["query", "positive", "negative_1", "negative_2"]
    );
    assert_eq!(rows(&dataset), [["q", "p", "m", "n"], ["r", "s", "t", "u"]]);
    // A row for each positive; the negatives of a row with fewer come again in turn.
    let several = "{\"query\":\"q\",\"pos\":[\"p\",\"o\"],\"neg\":[\"m\"]}\n\
                   {\"query\":\"r\",\"pos\":[\"s\"],\"neg\":[\"t\",\"u\",\"v\"]}\n";
    let dataset = loaded("a.jsonl", several);
    assert_eq!(
        rows(&dataset),
        [
            ["q", "p", "m", "m", "m"],
            ["q", "o", "m", "m", "m"],
            ["r", "s", "t", "u", "v"]
        ]
    );
    // Of one positive a row, a row for each negative.
    let unequal = "{\"anchor\":\"q\",\"positive\":\"p\",\"negatives\":[\"m\"],\"label\":1}\n\
                   {\"anchor\":\"r\",\"positive\":\"s\",\"negatives\":[\"t\",\"u\"],\"label\":2}\n";
    let dataset = loaded("a.jsonl", unequal);
    assert_eq!(dataset.column_names(), ["anchor", "positive", "negative"]);
    assert_eq!(
        rows(&dataset),
        [["q", "p", "m"], ["r", "s", "t"], ["r", "s", "u"]]
    );
    assert_eq!(dataset.labels, Some(Labels::Integer(vec![1, 2, 2])));
    let some = |num_negatives| LoadOptions {
        num_negatives: Some(num_negatives),
        ..LoadOptions::default()
    };
    let two = with(&some(2), "a.jsonl", unequal).unwrap();
    assert_eq!(rows(&two), [["q", "p", "m", "m"], ["r", "s", "t", "u"]]);
    let one = with(&some(1), "a.jsonl", unequal).unwrap();
    assert_eq!(rows(&one), [["q", "p", "m"], ["r", "s", "t"]]);
    let none = with(&some(0), "a.jsonl", unequal).unwrap();
    assert_eq!(rows(&none), [["q", "p"], ["r", "s"]]);

    let empty = "{\"anchor\":\"q\",\"positive\":\"p\",\"negatives\":[]}\n\
                 {\"anchor\":\"r\",\"positive\":\"s\",\"negatives\":[\"t\"]}\n";
    let message = refused(&LoadOptions::default(), "a.jsonl", empty);
    assert!(
        message.contains("1 of 2 rows have no negatives"),
        "{message}"
    );
    let skip = LoadOptions {
        on_bad_row: OnBadRow::Skip,
        ..LoadOptions::default()
    };
    let dataset = with(&skip, "a.jsonl", empty).unwrap();
    assert_eq!(
        (rows(&dataset), dataset.n_skipped),
        (vec![vec!["r", "s", "t"]], 1)
    );
    let blank = "{\"anchor\":\"q\",\"positive\":\"p\",\"negatives\":[\"x\",\" \"]}\n";
    let message = refused(&LoadOptions::default(), "a.jsonl", blank);
    assert!(
        message.contains("column `negatives`: the text is only white space"),
        "{message}"
    );
}

#[test]
fn passages_are_their_titles_and_texts() {
    let lines = "{\"query_id\":\"1\",\"query\":\"q\",\"positive_passages\":[{\"docid\":\"2\",\"title\":\"T\",\"text\":\"p\"}],\"negative_passages\":[{\"title\":\"\",\"text\":\"m\"},{\"text\":\"n\"}]}\n";
    assert_eq!(rows(&loaded("a.jsonl", lines)), [["q", "T p", "m", "n"]]);
    let dataset = load(&fixture("passages.parquet"), &LoadOptions::default()).unwrap();
    assert_eq!(
        dataset.column_names(),
        ["query", "positive", "negative_1", "negative_2"]
    );
    assert_eq!(dataset.n_rows(), 8);
    assert_eq!(rows(&dataset)[1], ["one", "een!", "No vier", "vier!"]);
}

#[test]
fn lists_in_parquet_are_expanded() {
    let options = LoadOptions {
        on_bad_row: OnBadRow::Skip,
        ..columns(&["query", "positive"])
    };
    let dataset = load(&fixture("lists.parquet"), &options).unwrap();
    assert_eq!(
        rows(&dataset),
        [
            ["one", "een"],
            ["one", "eins"],
            ["two", "twee"],
            ["four", "vier"]
        ]
    );
    assert_eq!(dataset.n_skipped, 1);
    let error = load(&fixture("lists.parquet"), &LoadOptions::default()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("row 3, column `positive`: 0 texts in the list"),
        "{error}"
    );
}

#[test]
fn json_documents_are_read() {
    let expected = [["x", "y"], ["v", "w"]];
    let array =
        "[\n  {\n    \"a\": \"x\",\n    \"b\": \"y\"\n  },\n  {\"a\": \"v\", \"b\": \"w\"}\n]\n";
    assert_eq!(rows(&loaded("a.json", array)), expected);
    assert_eq!(rows(&loaded("a.jsonl", array)), expected);
    let field = "{\"version\": \"1\", \"data\": [{\"a\": \"x\", \"b\": \"y\"}, {\"a\": \"v\", \"b\": \"w\"}]}";
    assert_eq!(rows(&loaded("a.json", field)), expected);
    let lists = "{\"a\": [\"x\", \"v\"], \"b\": [\"y\", \"w\"]}";
    assert_eq!(rows(&loaded("a.json", lists)), expected);
    let pandas = "{\"a\":{\"0\":\"x\",\"1\":\"v\"},\"b\":{\"0\":\"y\",\"1\":\"w\"}}";
    assert_eq!(rows(&loaded("a.json", pandas)), expected);
    let pretty = "{\n\"a\": \"x\",\n\"b\": \"y\"\n}\n{\n\"a\": \"v\",\n\"b\": \"w\"\n}\n";
    assert_eq!(rows(&loaded("a.json", pretty)), expected);
    let message = refused(
        &LoadOptions::default(),
        "a.json",
        "{\"a\": [\"x\"], \"b\": [\"y\", \"w\"]}",
    );
    assert!(
        message.contains("column `b` has 2 values where the first column has 1"),
        "{message}"
    );
}

#[test]
fn compressed_files_are_unpacked_up_to_a_bound() {
    let csv = b"a,b\nx,y\nv,w\n";
    let gzip = |bytes: &[u8]| {
        let mut packed = Vec::new();
        let mut reader = flate2::read::GzEncoder::new(bytes, flate2::Compression::best());
        std::io::copy(&mut reader, &mut packed).unwrap();
        packed
    };
    let dataset = loaded("a.csv.gz", gzip(csv));
    assert_eq!(dataset.name, "a");
    assert_eq!(rows(&dataset), [["x", "y"], ["v", "w"]]);
    // Two members, one after the other, as bgzip and `cat` make them.
    let two = [gzip(b"a,b\nx,y\n"), gzip(b"v,w\n")].concat();
    assert_eq!(loaded("a.csv.gz", two).n_rows(), 2);
    let lines = b"{\"a\":\"x\"}\n";
    assert_eq!(
        loaded(
            "a.jsonl.zst",
            zstd::encode_all(lines.as_slice(), 3).unwrap()
        )
        .n_rows(),
        1
    );
    let zeros = vec![b' '; 300 << 20];
    for (name, bomb) in [
        ("a.csv.gz", gzip(&zeros)),
        (
            "a.jsonl.zst",
            zstd::encode_all(zeros.as_slice(), 9).unwrap(),
        ),
    ] {
        assert!(bomb.len() < 400_000);
        let message = refused(&LoadOptions::default(), name, bomb);
        assert!(message.contains("unpack to more than"), "{message}");
    }
    let broken = refused(&LoadOptions::default(), "a.csv.gz", &gzip(csv)[..20]);
    assert!(broken.contains("can't be read as gzip"), "{broken}");
}

const CODECS: [CompressionType; 2] = [CompressionType::Lz4Frame, CompressionType::Zstd];

#[test]
fn arrow_with_compressed_columns_is_read() {
    // As pyarrow writes them.
    for name in ["packed_lz4.arrow", "packed_zstd.arrow", "packed.feather"] {
        let options = columns(&["b", "a", "label"]);
        let dataset = load(&fixture(name), &options).unwrap();
        assert_eq!(dataset.n_rows(), 2000, "{name}");
        assert_eq!(rows(&dataset)[1999], ["vier", "four"], "{name}");
        assert_eq!(dataset.labels.unwrap().into_f32()[5], 2.5, "{name}");
        let options = LoadOptions {
            on_bad_row: OnBadRow::Skip,
            ..columns(&["word", "positives"])
        };
        let dataset = load(&fixture(name), &options).unwrap();
        // The words are a dictionary, in which each fourth row is null; there are one or two positives.
        assert_eq!(dataset.n_skipped, 500, "{name}");
        assert_eq!(
            rows(&dataset)[..3],
            [["u", "p0"], ["v", "p1"], ["v", "q1"]],
            "{name}"
        );
    }
    // As we make them: in batches, some columns left as they are.
    let of = |from: usize| {
        let a: Vec<String> = (from..from + 3).map(|i| format!("text {i}")).collect();
        let scores: Vec<f64> = (from..from + 3).map(|i| i as f64 / 8.0).collect();
        [
            ("a", plain_texts(&a)),
            ("b", texts(&a)),
            ("score", numbers(&scores)),
        ]
    };
    let stream = arrow(&[&of(0), &of(3)]);
    for codec in CODECS {
        let dataset = loaded(
            "a.arrow",
            packed_arrow(&stream, codec, |place| place % 3 == 1),
        );
        assert_eq!(rows(&dataset)[4], ["text 4", "text 4"]);
        assert_eq!(dataset.labels.unwrap().into_f32()[4], 0.5);
    }
}

#[test]
fn compressed_columns_that_lie_are_refused() {
    let stream = arrow(&[&[("a", plain_texts(&["one", "two", "three"]))]]);
    for codec in CODECS {
        let good = packed_arrow(&stream, codec, |_| false);
        // The length before the texts, which are 11 bytes.
        let place = good
            .windows(8)
            .rposition(|bytes| bytes == 11_i64.to_le_bytes());
        let place = place.unwrap();
        let with = |length: i64| {
            let mut lying = good.clone();
            lying[place..place + 8].copy_from_slice(&length.to_le_bytes());
            refused(&LoadOptions::default(), "a.arrow", lying)
        };
        for (length, words) in [
            (12, "has not the 12 bytes that it says"),
            (10, "has not the 10 bytes that it says"),
            (-2, "a compressed column of -2 bytes"),
            (i64::MAX, "unpack to far more than texts do"),
            (1 << 40, "unpack to far more than texts do"),
        ] {
            let message = with(length);
            assert!(message.contains("can't be read as Arrow"), "{message}");
            assert!(message.contains(words), "{length}: {message}");
        }
        let mut broken = good.clone();
        broken[place + 9] ^= 0xff;
        let message = refused(&LoadOptions::default(), "a.arrow", broken);
        assert!(message.contains("can't be unpacked"), "{message}");
    }
    // What would unpack to a hundred times the memory of the texts is refused before any of it is unpacked.
    let long = "a".repeat(200 << 20);
    let stream = arrow(&[&[("a", plain_texts(&[long]))]]);
    for codec in CODECS {
        let bomb = packed_arrow(&stream, codec, |_| false);
        assert!(bomb.len() < 1_000_000);
        let message = refused(&LoadOptions::default(), "a.arrow", bomb);
        assert!(
            message.contains("unpack to far more than texts do"),
            "{message}"
        );
    }
}

#[test]
fn scores_of_lists_are_a_teachers_labels() {
    let teacher = LoadOptions {
        teacher_scores: true,
        ..LoadOptions::default()
    };
    let equal = "{\"query\":\"q\",\"pos\":[\"p\"],\"neg\":[\"m\",\"n\"],\"pos_scores\":[3],\"neg_scores\":[1,0.5],\"prompt\":\"P: \"}\n\
                 {\"query\":\"r\",\"pos\":[\"s\",\"o\"],\"neg\":[\"t\",\"u\"],\"pos_scores\":[2.5,4],\"neg_scores\":[-1,0],\"prompt\":\"P: \"}\n";
    let dataset = with(&teacher, "a.jsonl", equal).unwrap();
    assert_eq!(
        dataset.column_names(),
        ["query", "positive", "negative_1", "negative_2"]
    );
    assert_eq!(
        rows(&dataset),
        [
            ["q", "p", "m", "n"],
            ["r", "s", "t", "u"],
            ["r", "o", "t", "u"]
        ]
    );
    let lists = |values: &[f32], width| {
        Some(Labels::Vector {
            values: values.to_vec(),
            shape: vec![width],
        })
    };
    let expected = lists(&[3.0, 1.0, 0.5, 2.5, -1.0, 0.0, 4.0, -1.0, 0.0], 3);
    assert_eq!(dataset.labels, expected);
    // The same by name; without a word they are left aside.
    let named = |name: &str| LoadOptions {
        label_column: Some(name.to_owned()),
        ..LoadOptions::default()
    };
    for name in ["pos_scores", "neg_scores"] {
        assert_eq!(
            with(&named(name), "a.jsonl", equal).unwrap().labels,
            expected
        );
    }
    let chosen = columns(&["query", "pos", "neg", "pos_scores"]);
    assert_eq!(with(&chosen, "a.jsonl", equal).unwrap().labels, expected);
    assert_eq!(loaded("a.jsonl", equal).labels, None);
    let without = LoadOptions {
        teacher_scores: true,
        ..columns(&["query", "pos", "neg"])
    };
    assert_eq!(with(&without, "a.jsonl", equal).unwrap().labels, None);
    // Fewer negatives, and none.
    let some = |num_negatives| LoadOptions {
        num_negatives: Some(num_negatives),
        ..teacher.clone()
    };
    let one = with(&some(1), "a.jsonl", equal).unwrap();
    assert_eq!(one.labels, lists(&[3.0, 1.0, 2.5, -1.0, 4.0, -1.0], 2));
    let none = with(&some(0), "a.jsonl", equal).unwrap();
    assert_eq!(none.labels, Some(Labels::Float(vec![3.0, 2.5, 4.0])));
    // A row for each negative, and negatives that come again in turn.
    let unequal = "{\"query\":\"q\",\"pos\":[\"p\"],\"neg\":[\"m\"],\"pos_scores\":[3],\"neg_scores\":[1]}\n\
                   {\"query\":\"r\",\"pos\":[\"s\"],\"neg\":[\"t\",\"u\"],\"pos_scores\":[2],\"neg_scores\":[0,5]}\n";
    let each = with(&teacher, "a.jsonl", unequal).unwrap();
    assert_eq!(
        rows(&each),
        [["q", "p", "m"], ["r", "s", "t"], ["r", "s", "u"]]
    );
    assert_eq!(each.labels, lists(&[3.0, 1.0, 2.0, 0.0, 2.0, 5.0], 2));
    let again = with(&some(2), "a.jsonl", unequal).unwrap();
    assert_eq!(again.labels, lists(&[3.0, 1.0, 1.0, 2.0, 0.0, 5.0], 3));
    // Parquet has them too.
    let file = std::fs::read(fixture("scored_lists.parquet")).unwrap();
    let dataset = with(&teacher, "a.parquet", file).unwrap();
    assert_eq!(dataset.labels, lists(&[0.5, 0.25, 1.0, 0.75], 2));
    for (lines, words) in [
        (
            equal.replace("[1,0.5]", "[1]"),
            "row 1 (line 1), column `neg_scores`: 1 score for 2 texts",
        ),
        (
            equal.replace("[2.5,4]", "[2.5,4,5]"),
            "column `pos_scores`: 3 scores for 2 texts",
        ),
        (
            equal.replace("neg_scores", "other"),
            "none of the negatives",
        ),
        (equal.replace("\"prompt\":\"P: \"", "\"label\":1"), ""),
    ] {
        match with(&teacher, "a.jsonl", &lines) {
            Err(error) => assert!(error.to_string().contains(words), "{words}: {error}"),
            // A label beside them is left aside, as all other columns of such data are.
            Ok(dataset) => assert_eq!((words, dataset.labels), ("", expected.clone())),
        }
    }
}

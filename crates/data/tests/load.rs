//! Sources and formats that are as they should be.

// README.md quotes the times that are printed here.
#![allow(clippy::print_stdout)]

mod support;

use std::{fs, path::Path, time::Instant};

use data::{Dataset, Labels, LoadOptions, load, load_files};

use support::{Column, numbers, optional_texts, parquet, texts as text_column};

fn write_parquet(path: &Path, columns: &[Column<'_>]) {
    fs::write(path, parquet(columns)).unwrap();
}

fn load_all(path: &Path) -> Dataset {
    load(path.to_str().unwrap(), &LoadOptions::default()).unwrap()
}

fn texts(dataset: &Dataset, column: usize) -> Vec<&str> {
    dataset.columns[column].texts.iter().collect()
}

#[test]
fn every_format_gives_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("d.csv"), "one,two,score\n\"x, y\",é,0.5\nv,w,1\n").unwrap();
    fs::write(at("d.tsv"), "one\ttwo\tscore\nx, y\té\t0.5\nv\tw\t1\n").unwrap();
    let lines = "{\"one\":\"x, y\",\"two\":\"\\u00e9\",\"score\":0.5}\n{\"one\":\"v\",\"two\":\"w\",\"score\":1}\n";
    for name in ["d.jsonl", "d.ndjson", "d.json", "d.JSONL"] {
        fs::write(at(name), lines).unwrap();
    }
    write_parquet(
        &at("d.parquet"),
        &[
            ("one", text_column(&["x, y", "v"])),
            ("two", text_column(&["é", "w"])),
            ("score", numbers(&[0.5f32, 1.0])),
        ],
    );
    let csv = load_all(&at("d.csv"));
    assert_eq!(csv.name, "d");
    assert_eq!(csv.column_names(), ["one", "two"]);
    assert_eq!(texts(&csv, 0), ["x, y", "v"]);
    assert_eq!(texts(&csv, 1), ["é", "w"]);
    assert_eq!(csv.labels, Some(Labels::Float(vec![0.5, 1.0])));
    for name in [
        "d.tsv",
        "d.jsonl",
        "d.ndjson",
        "d.json",
        "d.JSONL",
        "d.parquet",
    ] {
        assert_eq!(load_all(&at(name)), csv, "{name}");
    }
}

#[test]
fn whole_labels_stay_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d.csv");
    fs::write(&path, "a,b,labels\nx,y,2\nv,w,-1\n").unwrap();
    assert_eq!(load_all(&path).labels, Some(Labels::Integer(vec![2, -1])));
    let path = folder.path().join("d.jsonl");
    fs::write(&path, "{\"a\":\"x\",\"label\":9007199254740993}\n").unwrap();
    assert_eq!(
        load_all(&path).labels,
        Some(Labels::Integer(vec![9_007_199_254_740_993]))
    );
    let path = folder.path().join("t.jsonl");
    fs::write(
        &path,
        "{\"a\":\"x\",\"label\":true}\n{\"a\":\"x\",\"label\":false}\n",
    )
    .unwrap();
    assert_eq!(load_all(&path).labels, Some(Labels::Integer(vec![1, 0])));
}

#[test]
fn folders_and_patterns() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("train-2.csv"), "a,b,label\nr,s,0.5\n").unwrap();
    fs::write(at("train-1.csv"), "a,b,label\np,q,1\nt,u,0\n").unwrap();
    fs::write(at("README.md"), "not data").unwrap();
    fs::write(at(".hidden.parquet"), "not data").unwrap();
    fs::create_dir(at("more.csv")).unwrap();
    let whole = load_all(folder.path());
    assert_eq!(texts(&whole, 0), ["p", "t", "r"]);
    assert_eq!(whole.labels, Some(Labels::Float(vec![1.0, 0.0, 0.5])));
    let pattern = at("train-*.csv");
    assert_eq!(texts(&load_all(&pattern), 1), ["q", "u", "s"]);

    let listed = [at("train-2.csv"), at("train-1.csv")];
    let listed = load_files(&listed, &LoadOptions::default()).unwrap();
    assert_eq!(texts(&listed, 0), ["r", "p", "t"]);

    let first = |n| LoadOptions {
        max_rows: Some(n),
        name: Some("first".to_owned()),
        ..LoadOptions::default()
    };
    let source = pattern.to_str().unwrap();
    for (n, expected) in [
        (1, vec!["p"]),
        (2, vec!["p", "t"]),
        (9, vec!["p", "t", "r"]),
    ] {
        let dataset = load(source, &first(n)).unwrap();
        assert_eq!(texts(&dataset, 0), expected);
        assert_eq!(dataset.name, "first");
    }
    assert!(
        load(source, &first(0))
            .unwrap_err()
            .to_string()
            .contains("no rows")
    );

    let refused = |source: &Path| {
        let error = load(source.to_str().unwrap(), &LoadOptions::default()).unwrap_err();
        error.to_string()
    };
    assert!(refused(&at("test-*.csv")).contains("no data at"));
    assert!(refused(&at("train.csv")).contains("no data at"));
    assert!(refused(&at("[")).contains("not a valid pattern"));
    assert!(refused(&at("README.md")).contains(".parquet, .csv"));
    fs::write(at("train-3.csv"), "b,a\nr,s\n").unwrap();
    let message = refused(&pattern);
    assert!(
        message.contains("the columns are `b`, `a`, but those of"),
        "{message}"
    );
    fs::write(at("train-3.tsv"), "a\tb\nr\ts\n").unwrap();
    assert!(refused(folder.path()).contains("several kinds"));
}

#[test]
fn max_rows_reads_no_further() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("d.csv"), "a,b\nx,y\nv\n").unwrap();
    fs::write(at("d.jsonl"), "{\"a\":\"x\"}\nnot json\n").unwrap();
    write_parquet(
        &at("d.parquet"),
        &[("a", optional_texts(&[Some("x"), None]))],
    );
    for name in ["d.csv", "d.jsonl", "d.parquet"] {
        let source = at(name);
        let source = source.to_str().unwrap();
        let options = LoadOptions {
            max_rows: Some(1),
            ..LoadOptions::default()
        };
        assert_eq!(texts(&load(source, &options).unwrap(), 0), ["x"], "{name}");
        assert!(load(source, &LoadOptions::default()).is_err(), "{name}");
    }
}

/// A bad row at the end of a million is found at load time, and a set of the size of all-nli's
/// triplets (557,850 rows) loads in a second or two.
#[test]
fn long_files_load_fast_and_are_checked_to_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let n = 1_000_000;
    let column = |name: &str, last: &str| {
        let mut texts: Vec<String> = (0..n)
            .map(|i| {
                format!(
                    "{name} {i} walks along a street with {} dogs and a hat on",
                    i * 7 % 1001
                )
            })
            .collect();
        texts[n - 1] = last.to_owned();
        text_column(&texts)
    };
    let path = folder.path().join("long.parquet");
    write_parquet(
        &path,
        &[
            ("anchor", column("anchor", "x")),
            ("positive", column("positive", "x")),
            ("negative", column("negative", " ")),
        ],
    );
    let start = Instant::now();
    let error = load(path.to_str().unwrap(), &LoadOptions::default()).unwrap_err();
    println!("1,000,000 rows: {:?}", start.elapsed());
    assert!(
        error.to_string().contains("row 1000000, column `negative`"),
        "{error}"
    );
    let options = LoadOptions {
        max_rows: Some(557_850),
        ..LoadOptions::default()
    };
    let start = Instant::now();
    let dataset = load(path.to_str().unwrap(), &options).unwrap();
    let seconds = start.elapsed().as_secs_f64();
    println!("557,850 rows: {seconds:.2} s");
    assert_eq!(dataset.n_rows(), 557_850);
    // Two seconds is the aim on an idle machine; the bound leaves room for a busy one.
    assert!(seconds < 20.0, "{seconds} s");
}

#[test]
fn tokenize_in_chunks() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d.csv");
    let rows: String = (0..10_000)
        .map(|i| format!("a{i},{}\n", "b".repeat(1 + i % 5)))
        .collect();
    fs::write(&path, format!("a,b\n{rows}")).unwrap();
    let dataset = load_all(&path);
    let mut n_calls = 0;
    let tokenized = dataset
        .tokenize::<()>(|texts| {
            n_calls += 1;
            Ok(texts
                .iter()
                .map(|text| text.bytes().map(u32::from).collect())
                .collect())
        })
        .unwrap();
    assert!(n_calls > 2);
    assert_eq!(tokenized.n_rows(), 10_000);
    assert_eq!(tokenized.columns[0].get(12), [97, 49, 50]);
    assert_eq!(tokenized.columns[1].get(9_998), [98, 98, 98, 98]);
    assert_eq!(tokenized.n_tokens()[1], 30_000);
    // The second column's texts are five, over and over.
    assert_eq!(dataset.unique_texts().len(), 10_005);

    let mut n_left = 2;
    let stopped = dataset.tokenize(|texts| {
        n_left -= 1;
        if n_left == 0 {
            Err("interrupted")
        } else {
            Ok(vec![vec![1]; texts.len()])
        }
    });
    assert_eq!(stopped, Err("interrupted"));
}

#[test]
fn head_and_select() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d.csv");
    fs::write(&path, "a,label\nx,0\ny,1\nz,2\n").unwrap();
    let dataset = load_all(&path);
    assert_eq!(dataset.head(2).n_rows(), 2);
    assert_eq!(dataset.head(9), dataset);
    let selected = dataset.select(&[2, 0, 2]);
    assert_eq!(texts(&selected, 0), ["z", "x", "z"]);
    assert_eq!(selected.labels, Some(Labels::Integer(vec![2, 0, 2])));
    assert_eq!(selected.columns[0].texts.get(3), None);
    assert_eq!(selected.columns[0].texts.get(usize::MAX), None);
}

#[test]
fn rows_with_several_negatives_are_triplets() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d.csv");
    fs::write(&path, "a,p,n_1,n_2\n1,2,3,4 x\n5,6 x,7 x,8\nx,y,z,w\n").unwrap();
    let options = LoadOptions {
        columns: Some(["a", "p", "n_1", "n_2"].map(str::to_owned).to_vec()),
        ..LoadOptions::default()
    };
    let tuples = load(path.to_str().unwrap(), &options).unwrap();
    let triplets = tuples.clone().into_triplets();
    assert_eq!(triplets.column_names(), ["a", "p", "negative"]);
    assert_eq!(texts(&triplets, 0), ["1", "1", "5", "5", "x", "x"]);
    assert_eq!(texts(&triplets, 2), ["3", "4 x", "7 x", "8", "z", "w"]);
    assert_eq!(triplets.clone().into_triplets(), triplets);
}

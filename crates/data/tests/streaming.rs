//! Rows that are read chunk by chunk, beside the same rows read at once.

use std::{io::Write, ops::ControlFlow, path::PathBuf};

use data::{
    Cells, DataDigest, DataError, Dataset, LoadOptions, OnBadRow, OutputColumn, TableFormat, head,
    load, load_files, stream, write_table,
};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

/// The chunks of files, and the number of rows that were skipped.
fn chunks(paths: &[PathBuf], options: &LoadOptions) -> (Vec<Dataset>, Result<usize, DataError>) {
    let mut chunks = Vec::new();
    let outcome = stream(paths, options, &mut |chunk| {
        chunks.push(chunk);
        ControlFlow::Continue(())
    });
    (chunks, outcome)
}

/// Checks that the chunks of files are the rows that loading gives, and returns how many chunks there are.
fn assert_same(paths: &[PathBuf], options: &LoadOptions) -> usize {
    let whole = load_files(paths, options).unwrap();
    let (chunks, outcome) = chunks(paths, options);
    assert_eq!(outcome.unwrap(), whole.n_skipped, "{paths:?}");
    let mut digest = DataDigest::default();
    let mut row = 0;
    for chunk in &chunks {
        digest.update(chunk);
        let rows: Vec<u32> = (row..row + chunk.n_rows() as u32).collect();
        let expected = whole.select(&rows);
        assert_eq!(chunk.columns, expected.columns, "{paths:?} from row {row}");
        row += chunk.n_rows() as u32;
    }
    assert_eq!(row as usize, whole.n_rows(), "{paths:?}");
    assert_eq!(digest.finish(), whole.sha256(), "{paths:?}");
    let first = head(paths, options, 5).unwrap();
    assert_eq!(first.columns, whole.head(5).columns);
    chunks.len()
}

/// Rows of every kind of trouble in CSV, some of them over several lines.
fn csv_rows(n: usize) -> String {
    let mut text = "\u{feff}anchor,positive,score\r\n".to_owned();
    for i in 0..n {
        let word = "long ".repeat(i % 40);
        text += &match i % 5 {
            0 => format!("\"said \"\"{i}\"\",\nand {word}\",b{i},{}\r\n", i % 7),
            1 => format!("{word}a{i},\u{e4}\u{1f600}{i},0.5\n\n"),
            2 => format!("a \"quoted\" {i},\"\r\n{word}\",3\r\n"),
            3 => format!("{i} \rkept,\"x\",1\n"),
            _ => format!("{word}{i},b,2\n"),
        };
    }
    text
}

#[test]
fn chunks_of_each_format_are_the_rows_that_loading_gives() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    // More than a block of 8 MB, and more than a chunk of rows.
    let n = 150_000;
    let csv = path("rows.csv");
    fs_err::write(&csv, csv_rows(n)).unwrap();
    assert!(fs_err::metadata(&csv).unwrap().len() > 10 << 20);
    let options = LoadOptions::default();
    assert!(assert_same(std::slice::from_ref(&csv), &options) > 1);

    let packed = path("rows.csv.gz");
    let file = fs_err::File::create(&packed).unwrap();
    let mut file = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    file.write_all(&fs_err::read(&csv).unwrap()).unwrap();
    file.finish().unwrap();
    assert!(assert_same(&[packed], &options) > 1);

    let whole = load(csv.to_str().unwrap(), &options).unwrap();
    let column = |i: usize| &whole.columns[i].texts;
    let lines = (0..n).map(|i| {
        let [anchor, positive] = [0, 1].map(|c| serde_json::to_string(column(c).get(i).unwrap()));
        // A key that comes late, and numbers that get fractions late.
        let more = if i == n - 1 {
            ", \"label\": 0.25"
        } else {
            ", \"label\": 1"
        };
        format!(
            "{{\"anchor\": {}, \"positive\": {}{more}}}\n",
            anchor.unwrap(),
            positive.unwrap()
        )
    });
    let jsonl = path("rows.jsonl");
    fs_err::write(&jsonl, lines.collect::<String>()).unwrap();
    assert!(assert_same(std::slice::from_ref(&jsonl), &options) > 1);

    let parquet = path("rows.parquet");
    let columns = ["anchor", "positive"].iter().enumerate();
    let columns: Vec<OutputColumn<'_>> = columns
        .map(|(i, name)| OutputColumn::new(name, Cells::Texts(column(i).iter().collect())))
        .collect();
    let file = fs_err::File::create(&parquet).unwrap();
    write_table(file, TableFormat::Parquet, &columns).unwrap();
    assert!(assert_same(&[parquet], &options) > 1);

    // Labels of the first file are whole numbers, those of the second are not.
    let small = path("small.csv");
    fs_err::write(&small, "anchor,positive,score\nx,y,1\nz,w,2\n").unwrap();
    assert_same(&[small, csv.clone()], &options);
    for max_rows in [1, 4, 70_000] {
        let some = LoadOptions {
            max_rows: Some(max_rows),
            ..LoadOptions::default()
        };
        assert_same(std::slice::from_ref(&csv), &some);
        assert_same(std::slice::from_ref(&jsonl), &some);
    }
}

#[test]
fn every_fixture_that_can_be_streamed_has_the_same_rows_or_error() {
    let mut n_same = 0;
    for entry in fs_err::read_dir(FIXTURES).unwrap() {
        let path = entry.unwrap().path();
        for on_bad_row in [OnBadRow::Error, OnBadRow::Skip] {
            let options = LoadOptions {
                on_bad_row,
                ..LoadOptions::default()
            };
            let paths = [path.clone()];
            let (_, outcome) = chunks(&paths, &options);
            match (load_files(&paths, &options), outcome) {
                (_, Err(DataError::ReadWhole { .. })) => {}
                (Ok(_), Ok(_)) => {
                    assert_same(&paths, &options);
                    n_same += 1;
                }
                (Err(whole), Err(streamed)) => {
                    assert_eq!(whole.to_string(), streamed.to_string());
                    n_same += 1;
                }
                (whole, streamed) => panic!("{path:?}: {whole:?}, {streamed:?}"),
            }
        }
    }
    assert!(n_same > 5, "{n_same}");
}

#[test]
fn bad_rows_end_a_stream_with_the_error_of_loading() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.csv");
    let mut text = csv_rows(120_000);
    text += "only one field\na,,1\n";
    fs_err::write(&path, text).unwrap();
    let paths = [path];
    let options = LoadOptions::default();
    let (_, outcome) = chunks(&paths, &options);
    let expected = load_files(&paths, &options).unwrap_err().to_string();
    assert!(expected.contains("row 120001"), "{expected}");
    assert_eq!(outcome.unwrap_err().to_string(), expected);
    let skipping = LoadOptions {
        on_bad_row: OnBadRow::Skip,
        ..LoadOptions::default()
    };
    assert_same(&paths, &skipping);
}

#[test]
fn rows_that_need_the_whole_file_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text, words) in [
        (
            "lists.jsonl",
            "{\"query\": \"a\", \"positives\": [\"b\", \"c\"]}\n",
            "lists",
        ),
        (
            "words.csv",
            "a,b,label\nx,y,yes\nz,w,no\n",
            "its labels are words",
        ),
        ("rows.arrow", "ARROW1\0\0", "it is Arrow"),
    ] {
        let path = folder.path().join(name);
        fs_err::write(&path, text).unwrap();
        let error = head(&[path], &LoadOptions::default(), 5).unwrap_err();
        assert!(matches!(error, DataError::ReadWhole { .. }), "{error:?}");
        let message = error.to_string();
        for part in [name, words, "--data-in-memory never"] {
            assert!(message.contains(part), "{message}");
        }
    }
}

#[test]
fn files_with_other_columns_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs_err::write(&path, text).unwrap();
        path
    };
    let first = write("1.csv", "a,b\nx,y\n");
    for other in ["a,c\nx,y\n", "a,b,label\nx,y,1\n", "a\nx\n"] {
        let (_, outcome) = chunks(
            &[first.clone(), write("2.csv", other)],
            &LoadOptions::default(),
        );
        let error = outcome.unwrap_err();
        assert!(
            matches!(error, DataError::ColumnsDiffer { .. }),
            "{error:?}"
        );
    }
    let numbers = write("3.csv", "a,b\n1,y\n2,z\n");
    let (_, outcome) = chunks(&[numbers], &LoadOptions::default());
    let message = outcome.unwrap_err().to_string();
    assert!(message.contains("only numbers"), "{message}");
}

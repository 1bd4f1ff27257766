//! Tables that are no training data, in every format; and parquet columns that polars is built without.

use std::path::Path;

use data::{DataError, Field, FieldKind, Labels, LoadOptions, OnBadRow, Wanted, load, load_fields};
use fs_err as fs;

fn fixture(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    folder.join(name).display().to_string()
}

fn wanted<'a>(names: &'a [&'a str], holds: FieldKind) -> Wanted<'a> {
    Wanted {
        names,
        holds,
        optional: false,
    }
}

/// A file of that name in a folder of its own.
fn file(name: &str, content: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    let path = path.display().to_string();
    (folder, path)
}

fn refused(path: &str, wanted: &[Wanted<'_>]) -> String {
    load_fields(path, wanted, OnBadRow::Error)
        .unwrap_err()
        .to_string()
}

fn texts(texts: &[&str]) -> Option<Field> {
    Some(Field::Texts(
        texts.iter().map(|text| (*text).to_owned()).collect(),
    ))
}

fn lists(lists: &[&[&str]]) -> Option<Field> {
    let own = |list: &&[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    Some(Field::Lists(lists.iter().map(own).collect()))
}

#[test]
fn labels_in_8_and_16_bits_are_whole_numbers() {
    for (name, values) in [
        ("int8", [0, 1, -128, 127]),
        ("int16", [0, 1, -32768, 32767]),
        ("uint8", [0, 1, 128, 255]),
        ("uint16", [0, 1, 32768, 65535]),
    ] {
        let path = fixture(&format!("label_{name}.parquet"));
        let dataset = load(&path, &LoadOptions::default()).unwrap();
        assert_eq!(
            dataset.labels,
            Some(Labels::Integer(values.to_vec())),
            "{name}"
        );
        assert_eq!(dataset.column_names(), ["a", "b"], "{name}");
        assert_eq!(dataset.columns[1].texts.get(3), Some("vier"), "{name}");
    }
}

#[test]
fn lists_as_labels_are_read_from_parquet() {
    for (name, values) in [
        ("uint8", [0., 1., 2., 3., 254., 255., 128., 0.]),
        ("float", [0.5, 1., 2., -3., 0.25, 0., 1.5, 2.5]),
    ] {
        let path = fixture(&format!("label_lists_{name}.parquet"));
        let dataset = load(&path, &LoadOptions::default()).unwrap();
        let expected = Labels::Vector {
            values: values.to_vec(),
            shape: vec![2],
        };
        assert_eq!(dataset.labels, Some(expected), "{name}");
    }
}

#[test]
fn a_small_column_that_is_not_chosen_is_passed_over() {
    let path = fixture("unused_int8.parquet");
    let options = LoadOptions {
        columns: Some(vec!["b".to_owned(), "a".to_owned()]),
        ..LoadOptions::default()
    };
    let dataset = load(&path, &options).unwrap();
    assert_eq!(dataset.columns[0].texts.get(0), Some("een"));
    let all = load(&path, &LoadOptions::default()).unwrap_err();
    assert!(
        matches!(&all, DataError::NotText { column, .. } if column == "n_words"),
        "{all}"
    );
}

#[test]
fn texts_lists_and_ids_are_read_from_parquet() {
    let wanted = [
        wanted(&["query"], FieldKind::Text),
        wanted(&["positives", "positive"], FieldKind::Texts),
        wanted(&["id"], FieldKind::Id),
        wanted(&["ids"], FieldKind::Ids),
        Wanted {
            names: &["score"],
            holds: FieldKind::Number,
            optional: true,
        },
    ];
    let fields = load_fields(&fixture("lists.parquet"), &wanted, OnBadRow::Error).unwrap();
    assert_eq!(
        fields,
        [
            texts(&["one", "two", "three", "four"]),
            lists(&[&["een", "eins"], &["twee"], &[], &["vier"]]),
            texts(&["7", "8", "9", "10"]),
            lists(&[&["1", "2"], &["3"], &[], &["4"]]),
            None,
        ]
    );
}

#[test]
fn json_lines_and_csv_give_the_same() {
    let wanted = [
        wanted(&["query-id"], FieldKind::Id),
        wanted(&["corpus-id"], FieldKind::Ids),
        wanted(&["score"], FieldKind::Number),
    ];
    let expected = [
        texts(&["q1", "2"]),
        lists(&[&["d1"], &["7"]]),
        Some(Field::Numbers(vec![1.0, 0.5])),
    ];
    for (name, content) in [
        (
            "a.tsv",
            "query-id\tcorpus-id\tscore\nq1\td1\t1\n2\t7\t0.5\n",
        ),
        (
            "a.csv",
            "score,corpus-id,more,query-id\n1,d1,x,q1\n0.5,\"7\",y,2\n",
        ),
        (
            "a.jsonl",
            "{\"query-id\":\"q1\",\"corpus-id\":[\"d1\"],\"score\":1}\n\n{\"score\":0.5,\"corpus-id\":7,\"query-id\":2}\n",
        ),
    ] {
        let (_folder, path) = file(name, content);
        let fields = load_fields(&path, &wanted, OnBadRow::Error).unwrap();
        assert_eq!(fields, expected, "{name}");
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let id_and_text = [
        wanted(&["_id", "id"], FieldKind::Id),
        wanted(&["text"], FieldKind::Text),
    ];
    let (_folder, path) = file("a.jsonl", "{\"key\":1,\"text\":\"x\"}\n");
    let message = refused(&path, &id_and_text);
    assert!(
        message.contains("no column `_id` or `id`; the columns are `key`, `text`"),
        "{message}"
    );
    for (content, parts) in [
        (
            "{\"id\":null,\"text\":\"x\"}\n",
            ["row 1 (line 1), column `id`", "null"],
        ),
        (
            "{\"id\":\"\",\"text\":\"x\"}\n",
            ["column `id`", "the text is empty"],
        ),
        (
            "{\"id\":1.5,\"text\":\"x\"}\n",
            ["column `id`", "a number, not text"],
        ),
        (
            "{\"id\":1,\"text\":[\"x\"]}\n",
            ["column `text`", "a list, not text"],
        ),
        (
            "{\"id\":1,\"text\":\"x\"}\n{\"id\":2}\n",
            ["row 2 (line 2), column `text`", "missing"],
        ),
        (
            "{\"id\":1,\"text\":\"x\",\"id\":2}\n",
            ["column `id`", "comes twice"],
        ),
        (
            "{\"id\":1,\"text\":\"x\"}\nno json\n",
            ["row 2 (line 2)", "not valid JSON"],
        ),
    ] {
        let (_folder, path) = file("a.jsonl", content);
        let message = refused(&path, &id_and_text);
        for part in parts {
            assert!(message.contains(part), "`{part}` is not in: {message}");
        }
    }
    let (_folder, path) = file("a.csv", "id,text\n1,x\n2\n");
    assert!(refused(&path, &id_and_text).contains("1 field where the header has 2"));
    let (_folder, path) = file("a.csv", "query,positive\nx,y\n");
    let lists = [wanted(&["positive"], FieldKind::Texts)];
    let message = refused(&path, &lists);
    assert!(message.contains("write JSON Lines or parquet"), "{message}");
    let (_folder, path) = file("a.jsonl", "{\"positive\":\"y\"}\n{\"positive\":[1]}\n");
    let message = refused(&path, &lists);
    assert!(
        message.contains("a text, not a list of texts") && message.contains("2 of 2 rows are bad"),
        "{message}"
    );
    let score = [wanted(&["score"], FieldKind::Number)];
    let (_folder, path) = file("a.csv", "score\nhigh\n");
    assert!(refused(&path, &score).contains("`high`, not a number"));
}

#[test]
fn bad_rows_are_left_out_where_that_is_asked_for() {
    let wanted = [wanted(&["id"], FieldKind::Id)];
    let (_folder, path) = file("a.jsonl", "{\"id\":1}\n{\"id\":null}\n{\"id\":3}\n");
    let fields = load_fields(&path, &wanted, OnBadRow::Skip).unwrap();
    assert_eq!(fields, [texts(&["1", "3"])]);
    let (_folder, path) = file("a.jsonl", "{\"id\":null}\n");
    let error = load_fields(&path, &wanted, OnBadRow::Skip).unwrap_err();
    assert!(
        matches!(error, DataError::NoRows { n_skipped: 1, .. }),
        "{error}"
    );
}

#[test]
fn several_files_are_one_table() {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in [
        ("a.jsonl", "{\"id\":1}\n"),
        ("b.jsonl", "{\"id\":2,\"score\":1}\n"),
    ] {
        fs::write(folder.path().join(name), content).unwrap();
    }
    let source = folder.path().display().to_string();
    let id = wanted(&["id"], FieldKind::Id);
    let fields = load_fields(&source, &[id], OnBadRow::Error).unwrap();
    assert_eq!(fields, [texts(&["1", "2"])]);
    let score = Wanted {
        names: &["score"],
        holds: FieldKind::Number,
        optional: true,
    };
    let message = refused(&source, &[id, score]);
    assert!(
        message.contains("don't all have the column `score`"),
        "{message}"
    );
}

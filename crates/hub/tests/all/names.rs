//! Names of repositories, revisions and subsets.

use hub::{
    error::HubError,
    name::{DatasetId, RepoId},
};

#[test]
fn good_names_come_back_as_they_were() {
    for good in [
        "microsoft/mpnet-base",
        "sentence-transformers/all-nli",
        "a/b",
        "A.b_c-d/1.0_x",
        "_a/b_",
        "org/name@v1.0",
        "org/name@refs/pr/1",
        "org/name@0123456789abcdef0123456789abcdef01234567",
        "org/name@feature/a+b",
    ] {
        assert_eq!(RepoId::parse(good).expect(good).to_string(), good);
    }
    let model = RepoId::parse("org/name@dev").expect("valid");
    assert_eq!((model.id(), model.revision()), ("org/name", "dev"));
    assert_eq!(
        RepoId::parse("org/name@main").expect("valid"),
        RepoId::parse("org/name").expect("valid")
    );

    for good in [
        "org/name",
        "org/name:triplet",
        "org/name@v1:pair-class",
        "org/name:20220301.en",
        "org/name:ünïcode",
    ] {
        assert_eq!(DatasetId::parse(good).expect(good).to_string(), good);
    }
    let dataset = DatasetId::parse("org/name@refs/convert/parquet:x").expect("valid");
    assert_eq!(dataset.repo.revision(), "refs/convert/parquet");
    assert_eq!(dataset.subset.as_deref(), Some("x"));
}

#[test]
fn a_short_name_means_what_it_means_in_python() {
    for (short, id, revision) in [
        (
            "all-mpnet-base-v2",
            "sentence-transformers/all-mpnet-base-v2",
            "main",
        ),
        (
            "all-mpnet-base-v2@v1",
            "sentence-transformers/all-mpnet-base-v2",
            "v1",
        ),
        ("mpnet-base", "sentence-transformers/mpnet-base", "main"),
        ("bert-base-uncased", "bert-base-uncased", "main"),
        (
            "BERT-base-uncased@refs/pr/1",
            "BERT-base-uncased",
            "refs/pr/1",
        ),
        ("microsoft/mpnet-base", "microsoft/mpnet-base", "main"),
    ] {
        let model = RepoId::parse_model(short).expect(short);
        assert_eq!((model.id(), model.revision()), (id, revision), "{short}");
    }
    for bad in [
        "", "..", "a b", ".hidden", "name.git", "a\\b", "name@", "a:b",
    ] {
        RepoId::parse_model(bad).expect_err(bad);
    }
}

// Each with the words that the message has to have, so that it names the rule.
const BAD_MODELS: &[(&str, &str)] = &[
    ("", "org/name"),
    ("mpnet-base", "org/name"),
    ("/", "before or after the slash"),
    ("org/", "before or after the slash"),
    ("/name", "before or after the slash"),
    ("/etc/passwd", "more than one slash"),
    ("//", "more than one slash"),
    ("a/b/c", "more than one slash"),
    ("../..", "`..`"),
    ("../name", "`..`"),
    ("org/..", "`..`"),
    ("org/a..b", "`..`"),
    ("./name", "starts or ends"),
    ("org/.", "starts or ends"),
    ("../../etc", "more than one slash"),
    ("org/.hidden", "starts or ends"),
    (".org/name", "starts or ends"),
    ("org/name.", "starts or ends"),
    ("org/-name", "starts or ends"),
    ("org-/name", "starts or ends"),
    ("org/na--me", "`--`"),
    ("models--org--name/x", "`--`"),
    ("org/name.git", ".git"),
    ("C:/name", "colon"),
    ("C:\\name", "colon"),
    ("org\\name", "org/name"),
    ("org/na\\me", "ASCII letters"),
    ("\\\\server/share", "ASCII letters"),
    ("org/na me", "ASCII letters"),
    (" org/name", "ASCII letters"),
    ("org/name\n", "ASCII letters"),
    ("org/name\r\nHost: evil", "colon"),
    ("org/na\0me", "ASCII letters"),
    ("org/na\u{1b}[31mme", "ASCII letters"),
    ("org/na\u{202e}me", "ASCII letters"),
    ("org/nаme", "ASCII letters"), // a Cyrillic а
    ("org/naïve", "ASCII letters"),
    ("org/na%2e%2e", "ASCII letters"),
    ("org/name?x=1", "ASCII letters"),
    ("org/name#x", "ASCII letters"),
    ("~/name", "ASCII letters"),
    ("$HOME/name", "ASCII letters"),
    ("org/*", "ASCII letters"),
    ("https://huggingface.co/org/name", "colon"),
    ("org/name:subset", "colon"),
    ("org/name@", "empty"),
    ("org/name@../../x", "`..`"),
    ("org/name@a..b", "`..`"),
    ("org/name@/abs", "empty part"),
    ("org/name@a//b", "empty part"),
    ("org/name@a/", "empty part"),
    ("org/name@.hidden", "starts with"),
    ("org/name@a/.b", "starts with"),
    ("org/name@-rf", "starts with"),
    ("org/name@a\\b", "ASCII letters"),
    ("org/name@a b", "ASCII letters"),
    ("org/name@a\n", "ASCII letters"),
    ("org/name@main@x", "ASCII letters"),
    ("org/name@x.lock", ".lock"),
    ("org/name@NUL", "device name"),
    ("org/name@com1.x", "device name"),
    ("org/name@dot.", "ends with a dot"),
];

const BAD_SUBSETS: &[(&str, &str)] = &[
    ("", "empty"),
    (".", "starts with"),
    ("..", "starts with"),
    (".hidden", "starts with"),
    ("../x", "slash"),
    ("a/b", "slash"),
    ("/etc", "slash"),
    ("a\\b", "not every system"),
    ("C:", "not every system"),
    ("a*", "not every system"),
    ("a?", "not every system"),
    ("a|b", "not every system"),
    ("a\"b", "not every system"),
    ("<a>", "not every system"),
    ("a\0", "control"),
    ("a\n", "control"),
    ("a\u{202e}b", "control"),
    ("a\u{200b}b", "control"),
    ("a.", "ends with a dot"),
    ("a ", "space"),
    (" a", "space"),
    ("con", "device name"),
    ("Aux.parquet", "device name"),
    ("LPT9", "device name"),
    ("com¹", "device name"),
];

#[track_caller]
fn check(error: HubError, words: &str, name: &str) {
    assert!(
        matches!(error, HubError::Name { .. }),
        "{name:?}: {error:?}"
    );
    let text = error.to_string();
    assert!(text.contains(words), "{name:?}: {text:?} lacks {words:?}");
    assert!(!text.chars().any(char::is_control), "{name:?}: {text:?}");
}

#[test]
fn bad_names_are_refused_under_the_rule_they_break() {
    for (name, words) in BAD_MODELS {
        check(RepoId::parse(name).expect_err(name), words, name);
    }
    for (subset, words) in BAD_SUBSETS {
        let name = format!("org/name:{subset}");
        check(DatasetId::parse(&name).expect_err(&name), words, &name);
    }
    let long = format!("org/{}", "x".repeat(100));
    check(RepoId::parse(&long).expect_err(&long), "96", &long);
    let long = format!("org/name:{}", "x".repeat(256));
    check(DatasetId::parse(&long).expect_err(&long), "255", &long);
    let long = format!("org/name@{}", "x".repeat(300));
    check(RepoId::parse(&long).expect_err(&long), "200", &long);
}

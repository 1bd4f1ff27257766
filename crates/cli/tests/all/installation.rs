//! `sentune doctor`, `completions`, `man` and `help`.

use serde_json::Value;

use crate::sandbox::Sandbox;

#[test]
fn doctor_shows_what_a_bug_report_needs() {
    let sandbox = Sandbox::new();
    let text = sandbox.sentune("doctor").ok();
    let names: Vec<&str> = text
        .lines()
        .take_while(|line| !line.is_empty())
        .map(|line| line.split("  ").next().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "sentune",
            "features",
            "system",
            "program",
            "processor",
            "libtorch",
            "devices",
            "hub",
            "hub cache",
            "own cache",
            "variables"
        ]
    );
    assert!(text.ends_with("\nnothing is wrong\n"), "{text}");
    let version = format!("sentune    {}\n", env!("CARGO_PKG_VERSION"));
    assert!(text.starts_with(&version), "{text}");
    for part in [
        "version 2.11",
        "(not there yet)",
        "HF_HUB_OFFLINE=1",
        "offline",
    ] {
        assert!(text.contains(part), "`{part}` is not in {text}");
    }
    let object: Value = serde_json::from_str(&sandbox.sentune("doctor --json").ok()).unwrap();
    assert_eq!(object["sentune"], env!("CARGO_PKG_VERSION"));
    assert_eq!(object["problems"], Value::Array(Vec::new()));
}

#[test]
fn doctor_says_what_is_wrong_and_shows_no_secret() {
    let sandbox = Sandbox::new();
    let nowhere = sandbox.path("nowhere");
    let ended = sandbox
        .line("doctor")
        .env("SENTUNE_LIBTORCH", &nowhere)
        .env("HF_ENDPOINT", "ftp://x")
        .env("HF_TOKEN", "hf_secret")
        .env("HTTPS_PROXY", "http://me:secret@proxy")
        .output()
        .unwrap();
    assert_eq!(ended.status.code(), Some(1));
    let text = String::from_utf8(ended.stdout).unwrap();
    let (_, problems) = text.split_once("\nwrong:\n").expect(&text);
    assert_eq!(problems.lines().count(), 2, "{text}");
    assert!(problems.contains("SENTUNE_LIBTORCH leads to"), "{text}");
    assert!(problems.contains("HF_ENDPOINT"), "{text}");
    assert!(text.contains("HF_TOKEN is set"), "{text}");
    assert!(!text.contains("secret"), "{text}");
}

#[test]
fn errors_of_things_that_are_not_there_lead_to_doctor() {
    let sandbox = Sandbox::new();
    let encode = |model: &str| {
        sandbox.sentune(&format!(
            "encode --model {model} --input x.txt --output x.npy"
        ))
    };
    sandbox.write("x.txt", "a text\n");
    let ended = encode("org/nosuch");
    ended.failed(1, &["org/nosuch"]);
    let hint = ended.stderr.lines().last().unwrap();
    assert!(hint.starts_with("hint: `sentune doctor`"), "{ended:?}");
    sandbox.write("empty.csv", "");
    let ended = sandbox.sentune("data stat --data empty.csv");
    assert!(!ended.stderr.contains("hint:"), "{ended:?}");
}

#[test]
fn completions_and_pages_know_every_command() {
    let sandbox = Sandbox::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = sandbox.sentune(&format!("completions {shell}")).ok();
        for part in ["sentune", "num-train-epochs", "doctor", "triplets"] {
            assert!(script.contains(part), "{shell} lacks {part}");
        }
    }
    // As bash asks: the words, the place among them, and the answers.
    let bash = "eval \"$(sentune completions bash)\"; COMP_WORDS=(sentune train --hub-st); COMP_CWORD=2; \
        _sentune sentune --hub-st train; echo \"${COMPREPLY[*]}\"";
    let completed = sandbox
        .shell(&format!("bash -c '{bash}'"))
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8(completed.stdout).unwrap(),
        "--hub-strategy\n"
    );
    sandbox.sentune("completions tcsh").failed(2, &["tcsh"]);
    let page = sandbox.sentune("man").ok();
    assert!(page.contains(".TH sentune 1"), "{page}");
    sandbox.sentune("man --output-dir man1").ok();
    let pages = sandbox.files("man1");
    for page in ["sentune.1", "sentune-train.1", "sentune-data-stat.1"] {
        assert!(pages.contains(&page.to_owned()), "{pages:?}");
    }
    let train = fs_err::read_to_string(sandbox.path("man1/sentune-train.1")).unwrap();
    assert!(train.contains("num\\-train\\-epochs"), "{train}");
}

#[test]
fn help_knows_commands_and_lists() {
    let sandbox = Sandbox::new();
    let of_flag = sandbox.sentune("data stat --help").ok();
    assert_eq!(sandbox.sentune("help data stat").ok(), of_flag);
    for (topic, parts) in [
        (
            "losses",
            ["multiple-negatives-ranking", "matryoshka", "cosent"],
        ),
        (
            "evaluators",
            ["triplet", "information-retrieval", "nano-beir"],
        ),
        (
            "datasets",
            [".parquet", "anchor", "sentence-transformers/all-nli"],
        ),
    ] {
        let text = sandbox.sentune(&format!("help {topic}")).ok();
        for part in parts {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }
    sandbox
        .sentune("help trian")
        .failed(2, &["`trian`", "train", "losses"]);
}

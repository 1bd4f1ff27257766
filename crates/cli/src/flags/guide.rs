//! The guide's tables of flags, written from the help, and the command lines of the documents.

use std::{
    ffi::OsString,
    fmt::Write,
    path::{Path, PathBuf},
};

use clap::{Args, Command};

use crate::flags::{parse_from, train::TrainFlags};

/// The tables of the flags of `train`, one a heading of the help.
fn tables() -> String {
    let command = TrainFlags::augment_args(Command::new("train"));
    let mut headings: Vec<&str> = Vec::new();
    let shown = || command.get_arguments().filter(|arg| !arg.is_hide_set());
    for arg in shown() {
        let heading = arg.get_help_heading().unwrap_or("Options");
        if !headings.contains(&heading) {
            headings.push(heading);
        }
    }
    let mut text = String::new();
    for heading in headings {
        let _ = write!(
            text,
            "\n### {heading}\n\n| flag | default | what it does |\n|---|---|---|\n"
        );
        for arg in shown().filter(|arg| arg.get_help_heading().unwrap_or("Options") == heading) {
            let _ = writeln!(text, "{}", row(arg));
        }
    }
    text + "\n"
}

fn row(arg: &clap::Arg) -> String {
    let name = arg.get_long().unwrap_or_default();
    let aliases = arg.get_all_aliases().unwrap_or_default();
    let aliases: Vec<String> = aliases.iter().map(|alias| format!("`--{alias}`")).collect();
    let aliases = match aliases.as_slice() {
        [] => String::new(),
        aliases => format!(" ({})", aliases.join(", ")),
    };
    let value = match arg.get_value_names() {
        Some([value]) if !arg.is_require_equals_set() => format!(" {value}"),
        _ => String::new(),
    };
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let (help, said) = without_default(&help);
    let default = match arg.get_default_values() {
        [value] if !arg.is_hide_default_value_set() => format!("`{}`", value.display()),
        _ => escaped(&said),
    };
    let help = escaped(&help);
    format!("| `--{name}{value}`{aliases} | {default} | {help} |")
}

/// A text in which nothing is a cell's end or a tag.
fn escaped(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "\\<")
}

/// A help text without its `[default: ...]`, and that.
fn without_default(help: &str) -> (String, String) {
    let Some((before, rest)) = help.split_once("[default") else {
        return (help.to_owned(), String::new());
    };
    let (default, after) = rest.split_once(']').expect(help);
    let default = default.trim_start_matches(':').trim().to_owned();
    (format!("{}{after}", before.trim_end()), default)
}

#[test]
fn the_guide_has_the_flags_of_the_help() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guide/reference.md");
    let guide = fs_err::read_to_string(&path).unwrap();
    let (begin, end) = (
        "<!-- flags of train: begin -->\n",
        "<!-- flags of train: end -->",
    );
    let (before, rest) = guide.split_once(begin).unwrap();
    let (table, after) = rest.split_once(end).unwrap();
    let now = tables();
    if std::env::var_os("SENTUNE_WRITE_GUIDE").is_some() {
        fs_err::write(&path, format!("{before}{begin}{now}{end}{after}")).unwrap();
        return;
    }
    assert!(
        table == now,
        "docs/guide/reference.md is stale: `SENTUNE_WRITE_GUIDE=1 cargo test --workspace --bin sentune guide` writes it"
    );
}

/// A default that stands in the text of a help beside the flag's own could differ from it.
#[test]
fn no_help_says_a_default_that_the_flag_has() {
    let command = TrainFlags::augment_args(Command::new("train"));
    for arg in command.get_arguments() {
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let has_own = !arg.get_default_values().is_empty() && !arg.is_hide_default_value_set();
        assert!(
            !(has_own && help.contains("[default")),
            "--{}: {help}",
            arg.get_long().unwrap_or_default()
        );
    }
}

/// README.md and the documents below docs.
fn documents() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut documents = vec![root.join("README.md")];
    let mut folders = vec![root.join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs_err::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "md") {
                documents.push(path);
            }
        }
    }
    documents
}

/// The lines after a prompt in a document's consoles, each whole, with the line that follows it.
fn prompted(text: &str) -> Vec<(String, &str)> {
    let mut found = Vec::new();
    for block in text.split("```console\n").skip(1) {
        let mut lines = block.split("```").next().unwrap().lines().peekable();
        while let Some(line) = lines.next() {
            let Some(line) = line.strip_prefix("$ ") else {
                continue;
            };
            let mut whole = line.to_owned();
            while let Some(begin) = whole.strip_suffix('\\') {
                whole = format!("{begin} {}", lines.next().unwrap());
            }
            found.push((whole, lines.peek().copied().unwrap_or_default()));
        }
    }
    found
}

/// The command lines of `sentune` in a line, which may have others before and after them.
fn calls(line: &str) -> Vec<Vec<String>> {
    let words = shlex::split(line).expect(line);
    let parts = words.split(|word| ["|", ">", "&&", ";"].contains(&word.as_str()));
    let call = |part: &[String]| {
        let start = part.iter().position(|word| word == "sentune");
        let cargo = ["cargo", "run", "-p", "cli", "--"];
        match start {
            // Variables may stand before it.
            Some(start) if part[..start].iter().all(|word| word.contains('=')) => {
                Some(part[start + 1..].to_vec())
            }
            _ if part.starts_with(&cargo.map(str::to_owned)) => Some(part[cargo.len()..].to_vec()),
            _ => None,
        }
    };
    parts.filter_map(call).collect()
}

#[test]
fn every_command_line_of_the_documents_is_understood() {
    let mut n_calls = 0;
    for document in documents() {
        let text = fs_err::read_to_string(&document).unwrap();
        for (line, after) in prompted(&text) {
            for call in calls(&line) {
                n_calls += 1;
                let all = ["sentune".to_owned()].into_iter().chain(call);
                let Err(error) = parse_from(all.map(OsString::from)) else {
                    continue;
                };
                // Help and version are answers too, and a line may show what is refused.
                assert!(
                    !error.use_stderr() || after.starts_with("error: "),
                    "{}: {line}: {error}",
                    document.display()
                );
            }
        }
    }
    assert!(n_calls > 80, "{n_calls}");
}

#[test]
fn command_lines_are_found_among_others() {
    let line = "X=1 sentune eval --name 'a b' --prompt \"\" | head && cargo run -p cli -- data stat > out; ls";
    let found = calls(line);
    assert_eq!(found[0], ["eval", "--name", "a b", "--prompt", ""]);
    assert_eq!(found[1], ["data", "stat"]);
    assert_eq!(found.len(), 2);
    let text = "```console\n$ a \\\n    b\nerror: c\n```\n$ d\n";
    assert_eq!(prompted(text), [("a      b".to_owned(), "error: c")]);
}

//! The guide's tables of flags, written from the help.

use std::{fmt::Write, path::Path};

use clap::{Args, Command};

use crate::flags::train::TrainFlags;

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

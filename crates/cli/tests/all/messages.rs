//! Messages and help texts name only flags that the command has.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use crate::sandbox::Sandbox;

/// The flags of each command, by the command's words.
type Flags = BTreeMap<String, BTreeSet<String>>;

/// Sources whose messages reach the user of one of these commands alone.
const OF_COMMANDS: [(&str, &[&str]); 17] = [
    ("crates/cli/src/commands/compare", &["compare"]),
    ("crates/cli/src/commands/data/audit", &["data audit"]),
    (
        "crates/cli/src/commands/data",
        &["data stat", "data convert", "data split", "data triplets"],
    ),
    ("crates/cli/src/commands/encode", &["encode"]),
    ("crates/cli/src/commands/eval", &["eval"]),
    ("crates/cli/src/commands/init", &["init"]),
    ("crates/cli/src/commands/merge", &["merge"]),
    ("crates/cli/src/commands/mine", &["mine"]),
    ("crates/cli/src/commands/search", &["search"]),
    ("crates/cli/src/commands/sweep", &["sweep", "train"]),
    ("crates/cli/src/commands/train", &["train"]),
    ("crates/cli/src/config.rs", &["train"]),
    ("crates/cli/src/flags/eval", &["eval"]),
    ("crates/cli/src/flags/ignored.rs", &["train"]),
    ("crates/cli/src/flags/prompts.rs", &["train"]),
    ("crates/eval/src", &["eval"]),
    ("crates/train/src", &["train"]),
];

/// Crates of which no message reaches a user of `sentune`.
const OTHERS: [&str; 7] = [
    "crates/fetch-data",
    "crates/grammar",
    "crates/kernels",
    "crates/libtorch",
    "crates/launcher",
    "crates/mutate",
    "crates/shim",
];

/// The names of flags in a text, without the signs before them. A name that is put together at run time has none.
fn flags_in(text: &str) -> Vec<String> {
    let mut flags = Vec::new();
    for (start, _) in text.match_indices("--") {
        let before = text[..start].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || "-_<".contains(c)) {
            continue;
        }
        let rest = &text[start + 2..];
        let is_of_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let end = rest.find(|c| !is_of_name(c)).unwrap_or(rest.len());
        let name = rest[..end].trim_end_matches('-');
        if name.starts_with(|c: char| c.is_ascii_lowercase()) && !rest[end..].starts_with('{') {
            flags.push(name.to_owned());
        }
    }
    flags
}

/// The text without its command lines in backticks, and those.
fn without_command_lines(text: &str) -> (String, Vec<String>) {
    let (mut rest, mut lines) = (String::new(), Vec::new());
    for (i, part) in text.split('`').enumerate() {
        let is_command_line = part.contains(' ') && !part.starts_with("--");
        if i % 2 == 1 && is_command_line {
            lines.push(part.to_owned());
        } else {
            rest += part;
            rest.push(' ');
        }
    }
    (rest, lines)
}

/// The string literals of a source before its tests.
fn literals(source: &str) -> Vec<String> {
    let source = source.split("#[cfg(test)]").next().unwrap_or_default();
    let mut literals = Vec::new();
    let mut rest = source;
    while let Some(start) = rest.find(['"', '/', '\'']) {
        let (before, from) = rest.split_at(start);
        if from.starts_with("//") {
            rest = &from[from.find('\n').unwrap_or(from.len())..];
        } else if from.starts_with("'\"'") || from.starts_with("'\\\"'") {
            rest = &from[4.min(from.len())..];
        } else if let Some(inner) = from.strip_prefix('"') {
            let hashes = before.len() - before.trim_end_matches('#').len();
            let is_raw = before.trim_end_matches('#').ends_with('r');
            let end = if is_raw {
                inner.find(&format!("\"{}", "#".repeat(hashes)))
            } else {
                end_of_literal(inner)
            };
            let end = end.unwrap_or(inner.len());
            literals.push(inner[..end].to_owned());
            rest = &inner[(end + 1).min(inner.len())..];
        } else {
            rest = &from[1..];
        }
    }
    literals
}

fn end_of_literal(inner: &str) -> Option<usize> {
    let mut is_escaped = false;
    inner.char_indices().find_map(|(i, c)| {
        let is_end = c == '"' && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        is_end.then_some(i)
    })
}

fn help(sandbox: &Sandbox, command: &str) -> String {
    sandbox.sentune_with(command, &["--help"]).ok()
}

/// The commands that a help lists.
fn commands(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let lines = lines.take_while(|line| !line.is_empty());
    let names = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

/// The flags that a help defines: those that begin its lines.
fn defined(help: &str) -> BTreeSet<String> {
    let lines = help.lines().map(str::trim_start);
    let lines = lines.filter(|line| line.starts_with("--") || line.starts_with('-'));
    lines
        .filter_map(|line| flags_in(&line.replace(", --", " --")).into_iter().next())
        .collect()
}

/// Every command's flags, and its help.
fn all_commands(sandbox: &Sandbox) -> (Flags, BTreeMap<String, String>) {
    let (mut flags, mut helps) = (Flags::new(), BTreeMap::new());
    let root = sandbox.sentune("--help").ok();
    let mut names: Vec<String> = commands(&root);
    names.retain(|name| name != "data");
    names.extend(
        commands(&help(sandbox, "data"))
            .iter()
            .map(|name| format!("data {name}")),
    );
    for name in names {
        let text = help(sandbox, &name);
        flags.insert(name.clone(), defined(&text));
        helps.insert(name, text);
    }
    // Flags that no help shows.
    for (command, hidden) in [("mine", "cross-encoder"), ("train", "report-to")] {
        flags
            .entry(command.to_owned())
            .or_default()
            .insert(hidden.to_owned());
    }
    (flags, helps)
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs_err::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn helps_name_flags_of_their_command() {
    let sandbox = Sandbox::new();
    let (flags, helps) = all_commands(&sandbox);
    assert!(flags["train"].len() > 60, "{:?}", flags["train"]);
    assert!(flags["search"].contains("top-k") && !flags["search"].contains("on-bad-row"));
    for (command, help) in &helps {
        let (text, _) = without_command_lines(help.split_once("Usage:").unwrap().1);
        for flag in flags_in(&text) {
            assert!(
                flags[command].contains(&flag),
                "the help of {command} names --{flag}, which it has not"
            );
        }
    }
}

#[test]
fn messages_name_flags_of_their_commands() {
    let sandbox = Sandbox::new();
    let (flags, _) = all_commands(&sandbox);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut files = Vec::new();
    sources(&root.join("crates"), &mut files);
    let (mut n_seen, mut wrong) = (0, Vec::new());
    for file in files {
        let path = file.strip_prefix(&root).unwrap().to_str().unwrap();
        if !path.contains("/src/") || OTHERS.iter().any(|crate_| path.starts_with(crate_)) {
            continue;
        }
        let of = OF_COMMANDS
            .iter()
            .find(|(prefix, _)| path.starts_with(prefix));
        for literal in literals(&fs_err::read_to_string(&file).unwrap()) {
            let (text, lines) = without_command_lines(&literal);
            for line in lines {
                let words: Vec<&str> = line.split(' ').collect();
                let ["sentune", command, below @ ..] = words.as_slice() else {
                    continue;
                };
                let below = below.first().map(|below| format!("{command} {below}"));
                let known = below.and_then(|command| flags.get(&command));
                let known = known
                    .or_else(|| flags.get(*command))
                    .unwrap_or_else(|| panic!("{path}: `{line}`"));
                for flag in flags_in(&line) {
                    assert!(known.contains(&flag), "{path}: `{line}`");
                }
            }
            for flag in flags_in(&text) {
                n_seen += 1;
                let has = |command: &&str| flags[*command].contains(&flag);
                // Of shared sources, the advice that a command has no flag for is cut when it is printed.
                let fits = match of {
                    Some((_, commands)) => commands.iter().any(has),
                    None => flags.values().any(|known| known.contains(&flag)),
                };
                if !fits {
                    wrong.push(format!("{path}: --{flag} in {literal:?}"));
                }
            }
        }
    }
    assert!(n_seen > 100, "{n_seen} flags were found in messages");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn flags_are_found_in_texts() {
    assert_eq!(
        flags_in("--a-b is 3: give --c, not x--d, {--e}, --{name}, --f-{kind} or `--g`"),
        ["a-b", "c", "e", "g"]
    );
    let (text, lines) = without_command_lines("run `sentune encode --as document` or `--x y`");
    assert_eq!(lines, ["sentune encode --as document"]);
    assert_eq!(flags_in(&text), ["x"]);
    let source = "f(\"a \\\" --b\", '\"', r#\"c \" d\"#); // \"no\"\n\"e\"\n#[cfg(test)]\n\"f\"";
    assert_eq!(literals(source), ["a \\\" --b", "c \" d", "e"]);
}

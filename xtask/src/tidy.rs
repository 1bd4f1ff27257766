//! What no compiler checks: the tree's size and paths, module docs, who may depend on whom, and the size of a
//! release build, where there is one.
//!
//! A stage of `cargo xtask test`, and a test of this crate too, so that `cargo test` runs it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::{Context, Result, ensure};
use fs_err as fs;
use serde_json::Value;
use xshell::cmd;

use crate::{checkout::Checkout, package};

/// The largest file that the tree may hold, in bytes.
const MAX_FILE_BYTES: u64 = 2_000_000;

/// What no text of the tree may hold: the places of one machine, and the hosts of package registries.
/// (In two parts each, so that this file may hold them.)
const FORBIDDEN_TEXTS: [(&str, &str); 8] = [
    (concat!("/wo", "rk/"), "a path of one machine"),
    (concat!("/tmp", "/w/"), "a path of one machine"),
    (concat!("/ro", "ot/"), "a path of one machine"),
    (concat!("pypi", ".org"), "the host of a package registry"),
    (
        concat!("python", "hosted.org"),
        "the host of a package registry",
    ),
    (concat!("crates", ".io/"), "the host of a package registry"),
    (concat!("npm", "js.org"), "the host of a package registry"),
    (
        concat!("deb.", "debian.org"),
        "the host of a package registry",
    ),
];

/// What no Rust source may hold: work is done, or filed as an issue.
const FORBIDDEN_MARKS: [&str; 3] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
];

/// The crates of the workspace, and of its crates those that each may depend on.
const LAYERS: [(&str, &[&str]); 17] = [
    ("libtorch", &[]),
    ("grammar", &[]),
    ("mutate", &[]),
    ("hub", &[]),
    ("kernels", &[]),
    ("launcher", &[]),
    ("search", &["kernels"]),
    ("shim", &["libtorch", "kernels"]),
    ("data", &["mutate"]),
    ("model", &["libtorch", "kernels", "shim", "mutate"]),
    ("losses", &["libtorch"]),
    ("eval", &["libtorch", "search"]),
    (
        "train",
        &[
            "libtorch", "kernels", "shim", "model", "data", "losses", "eval",
        ],
    ),
    (
        "cli",
        &[
            "libtorch", "kernels", "search", "shim", "launcher", "model", "data", "losses", "eval",
            "train", "hub", "grammar",
        ],
    ),
    ("fetch-data", &["hub"]),
    ("xtask", &["grammar"]),
    (
        "bench",
        &[
            "libtorch", "kernels", "model", "data", "losses", "eval", "train",
        ],
    ),
];

/// The crates that know of tensors; the others build without libtorch.
const TENSOR_CRATES: [&str; 7] = ["shim", "model", "losses", "eval", "train", "cli", "bench"];

/// Checks the whole tree, and reports everything that is wrong with it.
pub(crate) fn run(checkout: &Checkout) -> Result<()> {
    let mut problems = Vec::new();
    let shell = &checkout.shell;
    let listed = cmd!(
        shell,
        "git ls-files --cached --others --exclude-standard -z"
    )
    .quiet()
    .read()
    .context("listing the files of the tree")?;
    for name in listed.split('\0').filter(|name| !name.is_empty()) {
        let path = checkout.root.join(name);
        // A file may be deleted and not committed so yet; a link is not ours to read.
        let Ok(metadata) = std::fs::symlink_metadata(&path) else {
            continue;
        };
        if !metadata.is_file() {
            continue;
        }
        let bytes = fs::read(&path)?;
        problems.extend(file_problems(name, &bytes));
    }
    let metadata = checkout
        .cargo()
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .quiet()
        .read()?;
    let metadata = serde_json::from_str(&metadata)?;
    problems.extend(layer_problems(&dependencies(&metadata)?));
    if let Some(target) = metadata["target_directory"].as_str() {
        problems.extend(package::size_problems(Path::new(target)));
    }
    for problem in &problems {
        eprintln!("tidy: {problem}");
    }
    ensure!(
        problems.is_empty(),
        "the tree is not tidy in {} places",
        problems.len()
    );
    Ok(())
}

/// What is wrong with one file, by its path in the tree and its content.
fn file_problems(name: &str, bytes: &[u8]) -> Vec<String> {
    let mut problems = Vec::new();
    if bytes.len() as u64 > MAX_FILE_BYTES {
        problems.push(format!(
            "{name}: {} bytes, and {MAX_FILE_BYTES} are allowed: make it smaller, or make it by a script",
            bytes.len()
        ));
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return problems;
    };
    let is_rust = name.ends_with(".rs");
    for (number, line) in text.lines().enumerate() {
        let place = format!("{name}:{}", number + 1);
        for (forbidden, what) in FORBIDDEN_TEXTS {
            // Cargo itself writes the registry's name into the lock file.
            if line.contains(forbidden) && name != "Cargo.lock" {
                problems.push(format!("{place}: `{forbidden}` is {what}"));
            }
        }
        for mark in FORBIDDEN_MARKS {
            if is_rust
                && line
                    .split(|c: char| !c.is_ascii_alphanumeric())
                    .any(|word| word == mark)
            {
                problems.push(format!("{place}: {mark}: do it, or file an issue"));
            }
        }
    }
    if is_rust && !has_module_docs(text) {
        problems.push(format!(
            "{name}: no module docs: start with `//!` and what the module is for"
        ));
    }
    problems
}

/// Whether a source file starts with docs, but for attributes of the whole file.
fn has_module_docs(text: &str) -> bool {
    let mut lines = text
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with("#!["));
    lines.next().is_some_and(|line| line.starts_with("//!"))
}

/// The dependencies of each crate of the workspace, of all kinds, from `cargo metadata --no-deps`.
fn dependencies(metadata: &Value) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let name = |value: &Value| value["name"].as_str().map(str::to_owned);
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata lists no packages")?;
    packages
        .iter()
        .map(|package| {
            let own = name(package).context("a package has no name")?;
            let listed = package["dependencies"]
                .as_array()
                .context("a package lists no dependencies")?;
            // A crate's tests may depend on the crate itself, to switch a feature on.
            let others = listed
                .iter()
                .filter_map(name)
                .filter(|other| *other != own)
                .collect();
            Ok((own, others))
        })
        .collect()
}

/// Where the dependencies break the layers.
fn layer_problems(dependencies: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, own) in dependencies {
        let Some((_, allowed)) = LAYERS.iter().find(|(layer, _)| layer == name) else {
            problems.push(format!(
                "{name}: say in {} which crates of the workspace it may depend on",
                Path::new(file!()).display()
            ));
            continue;
        };
        for other in own {
            if dependencies.contains_key(other) && !allowed.contains(&other.as_str()) {
                problems.push(format!(
                    "{name} depends on {other}, and may not: see docs/ARCHITECTURE.md"
                ));
            }
            if ["tch", "torch-sys"].contains(&other.as_str())
                && !TENSOR_CRATES.contains(&name.as_str())
            {
                problems.push(format!(
                    "{name} depends on {other}, and must build without libtorch"
                ));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_tidy() -> Result<()> {
        run(&Checkout::open()?)
    }

    #[test]
    fn a_file_is_judged_by_its_name_and_content() {
        let clean = "#![expect(unused)]\n\n//! What it is for.\n";
        let path = format!("//! See {}main.\n", FORBIDDEN_TEXTS[0].0);
        let mark = format!("//! Docs.\n// {}: later\n", FORBIDDEN_MARKS[0]);
        for (name, text, n_problems) in [
            ("crates/a/src/lib.rs", clean, 0),
            ("crates/a/src/lib.rs", "use std::fs;\n", 1),
            ("crates/a/src/lib.rs", "", 1),
            ("crates/a/src/lib.rs", &path, 1),
            ("docs/a.md", &path, 1),
            ("crates/a/src/lib.rs", &mark, 1),
            ("docs/a.md", &mark, 0),
        ] {
            assert_eq!(
                file_problems(name, text.as_bytes()).len(),
                n_problems,
                "{name}: {text}"
            );
        }
        let large = vec![0xff; 2_000_001];
        assert_eq!(file_problems("a.parquet", &large).len(), 1);
        assert_eq!(file_problems("a.parquet", &large[1..]).len(), 0);
    }

    #[track_caller]
    fn check_layers(name: &str, others: &[&str], expected: &[&str]) {
        let mut all: BTreeMap<String, BTreeSet<String>> = LAYERS
            .iter()
            .map(|(name, _)| ((*name).to_owned(), BTreeSet::new()))
            .collect();
        all.insert(
            name.to_owned(),
            others.iter().map(|other| (*other).to_owned()).collect(),
        );
        let problems = layer_problems(&all);
        assert_eq!(problems.len(), expected.len(), "{problems:?}");
        for (problem, word) in problems.iter().zip(expected) {
            assert!(problem.contains(word), "`{word}` is not in {problem}");
        }
    }

    #[test]
    fn the_layers_point_one_way() {
        check_layers(
            "train",
            &["model", "data", "losses", "eval", "tch", "serde"],
            &[],
        );
        check_layers("losses", &["tch", "eval"], &["losses depends on eval"]);
        check_layers("model", &["train"], &["model depends on train"]);
        check_layers("data", &["polars", "tch"], &["without libtorch"]);
        check_layers(
            "xtask",
            &["grammar", "torch-sys", "libtorch"],
            &["libtorch", "torch-sys"],
        );
        check_layers("newcomer", &[], &["newcomer"]);
    }

    #[test]
    fn dependencies_of_all_kinds_are_read() -> Result<()> {
        let metadata = serde_json::json!({"packages": [{
            "name": "hub",
            "dependencies": [
                {"name": "ureq", "kind": null},
                {"name": "hub", "kind": "dev"},
                {"name": "tempfile", "kind": "dev"},
            ],
        }]});
        let read = dependencies(&metadata)?;
        assert_eq!(
            read["hub"],
            BTreeSet::from(["tempfile".to_owned(), "ureq".to_owned()])
        );
        Ok(())
    }
}

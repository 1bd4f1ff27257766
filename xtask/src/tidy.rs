//! Checks that no compiler makes: the tree's size and paths, module docs, the names in docs/ARCHITECTURE.md, imports,
//! dependencies between crates, and the size of a release build, where there is one.
//!
//! A stage of `cargo xtask test`, and a test of this crate too, so that `cargo test` runs it.

mod imports;
mod layers;
mod map;
mod source;
mod words;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::{Context, Result, ensure};
use fs_err as fs;
use xshell::cmd;

use self::{
    imports::Circle,
    map::Definitions,
    source::{Token, tokens},
};
use crate::{checkout::Checkout, package};

/// The largest file that the tree may hold, in bytes.
const MAX_FILE_BYTES: u64 = 2_000_000;

/// Forbidden in every text: the paths of one machine, and the hosts of package registries.
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

/// Forbidden words of Rust sources: work is done, or filed as an issue.
const FORBIDDEN_MARKS: [&str; 3] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
];

/// The circles of imports that are the feature itself.
const CIRCLES: [Circle; 1] = [Circle {
    files: &[
        "crates/losses/src/adaptive_layer.rs",
        "crates/losses/src/matryoshka.rs",
        "crates/losses/src/registry.rs",
    ],
    reason: "a loss around another builds that one by its name in the registry",
}];

/// The document whose names are looked up.
const MAP: &str = "docs/ARCHITECTURE.md";

/// Checks the whole tree, and reports everything that is wrong with it.
pub(crate) fn run(checkout: &Checkout) -> Result<()> {
    let files = files(checkout)?;
    let mut problems = Vec::new();
    let mut texts = Vec::new();
    for name in &files {
        let bytes = fs::read(checkout.root.join(name))?;
        problems.extend(file_problems(name, &bytes));
        if let Ok(text) = String::from_utf8(bytes)
            && (name.ends_with(".rs") || name == MAP)
        {
            texts.push((name.as_str(), text));
        }
    }
    let is_rust = |(name, _): &&(&str, String)| name.ends_with(".rs");
    let sources: Vec<Source> = texts.iter().filter(is_rust).map(Source::new).collect();
    problems.extend(source_problems(&sources));
    problems.extend(imports::problems(&circles(&sources), &CIRCLES));
    let mut definitions = Definitions::default();
    for source in &sources {
        definitions.add(&source.module(), &source.tokens);
    }
    let names: Vec<&str> = files.iter().map(String::as_str).collect();
    for (_, text) in texts.iter().filter(|(name, _)| *name == MAP) {
        problems.extend(map::problems(text, &names, &definitions));
    }
    let metadata = checkout
        .cargo()
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .quiet()
        .read()?;
    let metadata = serde_json::from_str(&metadata)?;
    problems.extend(layers::problems(&layers::dependencies(&metadata)?));
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

/// The files of the tree by their paths, those that git ignores left out.
fn files(checkout: &Checkout) -> Result<Vec<String>> {
    let shell = &checkout.shell;
    let listed = cmd!(
        shell,
        "git ls-files --cached --others --exclude-standard -z"
    )
    .quiet()
    .read()
    .context("listing the files of the tree")?;
    // A file may be deleted and not committed so yet; a link is not ours to read.
    let is_file = |name: &&str| {
        let metadata = std::fs::symlink_metadata(checkout.root.join(name));
        metadata.is_ok_and(|metadata| metadata.is_file())
    };
    let names = listed.split('\0').filter(|name| !name.is_empty());
    Ok(names.filter(is_file).map(str::to_owned).collect())
}

/// A Rust source of the tree.
struct Source<'t> {
    /// Its path from the root of the tree.
    name: &'t str,
    tokens: Vec<Token<'t>>,
}

impl<'t> Source<'t> {
    fn new((name, text): &'t (&str, String)) -> Self {
        Self {
            name,
            tokens: tokens(text),
        }
    }

    /// The crate's folder and the path in the crate.
    fn place(&self) -> (&'t str, &'t str) {
        let below = self.name.strip_prefix("crates/").unwrap_or(self.name);
        below.split_once('/').unwrap_or(("", below))
    }

    /// The path in the crate's src folder; `None` for tests, benchmarks and examples.
    fn in_src(&self) -> Option<&'t str> {
        self.place().1.strip_prefix("src/")
    }

    /// The module that the file is, from the crate on.
    fn module(&self) -> Vec<&'t str> {
        let (krate, path) = self.place();
        let path = self.in_src().unwrap_or(path);
        let mut module = vec![krate];
        module.extend(imports::module_of(path));
        module
    }
}

/// Problems of sources one by one.
fn source_problems(sources: &[Source]) -> Vec<String> {
    let mut problems = Vec::new();
    for source in sources {
        let name = source.name;
        // Directly in `tests`, cargo would take x.rs for a test binary.
        let is_shared = source.place().1.split('/').count() == 3 && source.in_src().is_none();
        if let Some(folder) = name.strip_suffix("/mod.rs")
            && !is_shared
        {
            problems.push(format!("{name}: a module is {folder}.rs beside its folder"));
        }
        let mut found = words::riddles(&source.tokens);
        // The chores name models and data sets as inputs of measurements.
        let is_free = source.place().0 == "xtask" || name.starts_with(words::ENCODERS);
        if source.in_src().is_some() && !is_free {
            found.extend(words::architectures(&source.tokens));
        }
        problems.extend(
            found
                .into_iter()
                .map(|(line, problem)| format!("{name}:{line}: {problem}")),
        );
    }
    problems
}

/// The circles of imports of all crates, with paths from the root of the tree.
fn circles(sources: &[Source]) -> BTreeSet<Vec<String>> {
    let mut crates: BTreeMap<&str, Vec<(&str, &[Token])>> = BTreeMap::new();
    for source in sources {
        if let Some(path) = source.in_src() {
            let folder = &source.name[..source.name.len() - path.len()];
            let files = crates.entry(folder).or_default();
            files.push((path, &source.tokens));
        }
    }
    let mut circles = BTreeSet::new();
    for (folder, files) in &crates {
        for circle in imports::circles(files) {
            circles.insert(
                circle
                    .iter()
                    .map(|file| format!("{folder}{file}"))
                    .collect(),
            );
        }
    }
    circles
}

/// Problems of one file, by its path in the tree and its content.
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
            "{name}: no module docs: start with `//!` and the purpose of the module"
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

    #[test]
    fn sources_are_judged_by_their_place() {
        let problems = |name: &str, text: &str| {
            let file = (name, text.to_owned());
            source_problems(&[Source::new(&file)]).len()
        };
        let named = "let a = MPNet;";
        assert_eq!(problems("crates/a/src/b.rs", named), 1);
        assert_eq!(problems("crates/a/tests/b.rs", named), 0);
        assert_eq!(problems("crates/model/src/encoder/mpnet.rs", named), 0);
        assert_eq!(problems("xtask/src/b.rs", named), 0);
        assert_eq!(problems("crates/a/tests/c/mod.rs", ""), 0);
        assert_eq!(problems("crates/a/tests/b/c/mod.rs", ""), 1);
        assert_eq!(problems("crates/a/src/c/mod.rs", ""), 1);
        assert_eq!(
            problems("xtask/src/b.rs", "/// What it does.\nfn a() {}"),
            1
        );
    }

    #[test]
    fn circles_are_told_with_their_paths() {
        let files = [
            ("crates/a/src/lib.rs", "mod b; mod c;"),
            ("crates/a/src/b.rs", "use crate::c::C;"),
            ("crates/a/src/c.rs", "use super::b::B;"),
            ("crates/b/src/c.rs", "use super::b::B;"),
        ]
        .map(|(name, text)| (name, text.to_owned()));
        let sources: Vec<Source> = files.iter().map(Source::new).collect();
        let expected = vec![
            "crates/a/src/b.rs".to_owned(),
            "crates/a/src/c.rs".to_owned(),
        ];
        assert_eq!(circles(&sources), BTreeSet::from([expected]));
    }
}

//! The files of a crate import each other in one direction.
//!
//! A file that takes something from another depends on it, through `use` or by a path. Declaring a module is no
//! import, and what only tests use does not count. Files that depend on each other, directly or over others, are a
//! circle: none of them can be read, or changed, before the others.

use std::collections::{BTreeMap, BTreeSet};

use super::source::{Kind, Token, closing, without_tests};

/// A circle that is the feature itself, not an accident, with the reason.
pub(super) struct Circle {
    pub(super) files: &'static [&'static str],
    pub(super) reason: &'static str,
}

/// The circles of a crate, each a sorted list of its files.
///
/// `sources` are the files below the crate's src folder, as `a/b.rs`, with their tokens.
pub(super) fn circles(sources: &[(&str, &[Token])]) -> Vec<Vec<String>> {
    let modules = Modules::new(sources.iter().map(|(name, _)| *name));
    let mut imports: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (name, tokens) in sources {
        let mut found = modules.imports(name, tokens);
        found.remove(name);
        imports.insert(name, found);
    }
    knots(&imports)
}

/// Circles that are not known, and known ones that are gone.
pub(super) fn problems(found: &BTreeSet<Vec<String>>, known: &[Circle]) -> Vec<String> {
    let known: BTreeMap<Vec<String>, &str> = known
        .iter()
        .map(|circle| {
            let mut files: Vec<String> = circle.files.iter().map(|&file| file.to_owned()).collect();
            files.sort();
            (files, circle.reason)
        })
        .collect();
    let mut problems = Vec::new();
    for files in found {
        if !known.contains_key(files) {
            problems.push(format!(
                "these files import each other in a circle: {}; move what they share into a file of its own",
                files.join(", ")
            ));
        }
    }
    for (files, reason) in &known {
        if !found.contains(files) {
            problems.push(format!(
                "CIRCLES in xtask/src/tidy.rs lists a circle that is not there ({reason}): {}",
                files.join(", ")
            ));
        }
    }
    problems
}

/// The strongly connected parts of more than one file.
fn knots(imports: &BTreeMap<&str, BTreeSet<&str>>) -> Vec<Vec<String>> {
    let reached: BTreeMap<&str, BTreeSet<&str>> = imports
        .keys()
        .map(|&start| (start, reachable(start, imports)))
        .collect();
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    let mut knots = Vec::new();
    for (&file, others) in &reached {
        if seen.contains(file) {
            continue;
        }
        let is_in = |other: &str| {
            other == file || (others.contains(other) && reached[other].contains(file))
        };
        let knot: Vec<&str> = reached
            .keys()
            .copied()
            .filter(|other| is_in(other))
            .collect();
        if knot.len() > 1 {
            seen.extend(&knot);
            knots.push(knot.into_iter().map(str::to_owned).collect());
        }
    }
    knots
}

fn reachable<'n>(start: &str, imports: &BTreeMap<&'n str, BTreeSet<&'n str>>) -> BTreeSet<&'n str> {
    let mut found = BTreeSet::new();
    let mut open: Vec<&str> = imports.get(start).into_iter().flatten().copied().collect();
    while let Some(next) = open.pop() {
        if found.insert(next) {
            open.extend(imports.get(next).into_iter().flatten());
        }
    }
    found
}

/// Which file defines a module.
struct Modules<'n> {
    files: BTreeMap<Vec<&'n str>, &'n str>,
}

impl<'n> Modules<'n> {
    fn new(names: impl Iterator<Item = &'n str>) -> Self {
        let mut files = BTreeMap::new();
        for name in names {
            let module = module_of(name);
            // A program beside a library is a crate of its own, and declares no modules.
            if !(name == "main.rs" && files.contains_key(&module)) {
                files.insert(module, name);
            }
        }
        Self { files }
    }

    /// The files that a file takes something from.
    fn imports(&self, name: &'n str, tokens: &[Token<'n>]) -> BTreeSet<&'n str> {
        let tokens = without_tests(tokens);
        let mut found = BTreeSet::new();
        let mut module = module_of(name);
        // Modules inside the file, with the depth of brackets that they end at.
        let mut inside: Vec<usize> = Vec::new();
        let mut depth = 0usize;
        let mut i = 0;
        while i < tokens.len() {
            let token = tokens[i];
            let next = |n: usize| tokens.get(i + n).map_or("", |token| token.text);
            match (token.kind, token.text) {
                (Kind::Sign, "{") => depth += 1,
                (Kind::Sign, "}") => {
                    depth = depth.saturating_sub(1);
                    if inside.last() == Some(&depth) {
                        inside.pop();
                        module.pop();
                    }
                }
                (Kind::Word, "mod") if next(2) == "{" => {
                    module.push(tokens[i + 1].text);
                    inside.push(depth);
                }
                (Kind::Word, "use") if next(1) != "<" => {
                    let end = end_of_use(&tokens, i + 1);
                    for path in paths(&tokens[i + 1..end]) {
                        found.extend(self.resolve(&module, &path));
                    }
                    i = end;
                    continue;
                }
                (Kind::Word, _) if next(1) == "::" => {
                    let before = i.checked_sub(1).map_or("", |before| tokens[before].text);
                    if !["::", "in", "$"].contains(&before) {
                        let mut path = vec![token.text];
                        let mut j = i + 1;
                        while j + 1 < tokens.len()
                            && tokens[j].text == "::"
                            && tokens[j + 1].kind == Kind::Word
                        {
                            path.push(tokens[j + 1].text);
                            j += 2;
                        }
                        found.extend(self.resolve(&module, &path));
                    }
                }
                _ => {}
            }
            i += 1;
        }
        found
    }

    /// The file of the module that a path's item is in; `None` for other crates.
    fn resolve(&self, module: &[&'n str], path: &[&'n str]) -> Option<&'n str> {
        let mut at: Vec<&str> = module.to_vec();
        let mut rest = path.iter();
        match *path.first()? {
            "crate" => at.clear(),
            "self" => {}
            "super" => {
                at.pop()?;
            }
            child => {
                at.push(child);
                if !self.files.contains_key(&at) {
                    return None;
                }
            }
        }
        rest.next();
        for &segment in rest {
            if segment == "super" {
                at.pop()?;
                continue;
            }
            at.push(segment);
            if !self.files.contains_key(&at) {
                at.pop();
                break;
            }
        }
        // A module inside a file is that file's.
        while !self.files.contains_key(&at) {
            at.pop()?;
        }
        self.files.get(&at).copied()
    }
}

/// The path of the module that a file is: `a/b.rs` is `a::b`, lib.rs and main.rs are the crate itself.
pub(super) fn module_of(name: &str) -> Vec<&str> {
    let name = name.strip_suffix(".rs").unwrap_or(name);
    let mut module: Vec<&str> = name.split('/').collect();
    if module.last() == Some(&"mod") || ["lib", "main"].contains(&name) {
        module.pop();
    }
    module
}

fn end_of_use(tokens: &[Token], start: usize) -> usize {
    let end = tokens[start..]
        .iter()
        .position(|token| token.is(Kind::Sign, ";"));
    end.map_or(tokens.len(), |end| start + end)
}

/// The paths of a `use`, written out: `a::{b, c::d as e}` is `a::b` and `a::c::d`.
fn paths<'t>(tokens: &[Token<'t>]) -> Vec<Vec<&'t str>> {
    let mut found = Vec::new();
    let mut path = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        let token = tokens[i];
        match (token.kind, token.text) {
            (Kind::Sign, "{") => {
                let end = closing(tokens, i).unwrap_or(tokens.len());
                for part in parts(&tokens[i + 1..end]) {
                    let inner = paths(part).into_iter();
                    found.extend(inner.map(|inner| {
                        let inner = inner.into_iter().filter(|&segment| segment != "self");
                        path.iter().copied().chain(inner).collect()
                    }));
                }
                return found;
            }
            (Kind::Word, "as") => break,
            (Kind::Word, segment) => path.push(segment),
            _ => {}
        }
        i += 1;
    }
    if !path.is_empty() {
        found.push(path);
    }
    found
}

/// The parts between commas outside of brackets.
fn parts<'s, 't>(tokens: &'s [Token<'t>]) -> Vec<&'s [Token<'t>]> {
    let mut parts = Vec::new();
    let (mut start, mut i) = (0, 0);
    while i < tokens.len() {
        if tokens[i].is(Kind::Sign, "{") {
            i = closing(tokens, i).unwrap_or(tokens.len());
        } else if tokens[i].is(Kind::Sign, ",") {
            parts.push(&tokens[start..i]);
            start = i + 1;
        }
        i += 1;
    }
    if start < tokens.len() {
        parts.push(&tokens[start..]);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::{super::source::tokens, *};

    fn found(sources: &[(&str, &str)]) -> Vec<Vec<String>> {
        let scanned: Vec<_> = sources
            .iter()
            .map(|(name, text)| (*name, tokens(text)))
            .collect();
        let sources: Vec<_> = scanned
            .iter()
            .map(|(name, tokens)| (*name, tokens.as_slice()))
            .collect();
        circles(&sources)
    }

    #[test]
    fn two_files_that_import_each_other_are_a_circle() {
        let sources = [
            ("lib.rs", "mod a; mod b; mod c; pub use a::A;"),
            ("a.rs", "use crate::{b::{self, B as Other}, c};"),
            ("b.rs", "fn f() { super::a::g() }"),
            ("c.rs", "use std::fmt;"),
        ];
        assert_eq!(found(&sources), [["a.rs", "b.rs"]]);
    }

    #[test]
    fn a_circle_may_go_over_others_and_through_the_root() {
        let sources = [
            ("main.rs", "mod a; mod b; fn main() { a::run() }"),
            ("a.rs", "use crate::b::B;"),
            ("b.rs", "use crate::Root;"),
        ];
        assert_eq!(found(&sources), [["a.rs", "b.rs", "main.rs"]]);
        let below = [
            ("lib.rs", "pub mod a;"),
            ("a.rs", "mod b; pub struct A; fn f() -> b::B {}"),
            ("a/b.rs", "use super::A; pub struct B(A);"),
        ];
        assert_eq!(found(&below), [["a.rs", "a/b.rs"]]);
    }

    #[test]
    fn declarations_tests_docs_and_visibility_are_no_imports() {
        let sources = [
            ("lib.rs", "pub mod a; mod c;"),
            (
                "a.rs",
                "pub mod b; pub(in crate::a) struct A; mod inner { use super::A; }",
            ),
            (
                "a/b.rs",
                "use crate::a::A; /// As crate::c::C.\nstruct B(A);",
            ),
            (
                "c.rs",
                "use crate::a::b::B;\n#[cfg(test)] mod tests { use super::*; use crate::lib_thing; }",
            ),
        ];
        assert_eq!(found(&sources), Vec::<Vec<String>>::new());
    }

    #[test]
    fn a_new_circle_fails_and_so_does_one_that_is_gone() {
        let circle = |files: &[&str]| files.iter().map(|&file| file.to_owned()).collect();
        let known = [Circle {
            files: &["b.rs", "a.rs"],
            reason: "r",
        }];
        assert!(problems(&BTreeSet::from([circle(&["a.rs", "b.rs"])]), &known).is_empty());
        let more = BTreeSet::from([circle(&["a.rs", "b.rs"]), circle(&["c.rs", "d.rs"])]);
        let words = problems(&more, &known);
        assert!(
            words.len() == 1 && words[0].contains("c.rs, d.rs"),
            "{words:?}"
        );
        let words = problems(&BTreeSet::new(), &known);
        assert!(
            words.len() == 1 && words[0].contains("not there (r): a.rs, b.rs"),
            "{words:?}"
        );
    }
}

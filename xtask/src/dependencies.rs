//! Licences and sources of the dependencies, by the lists of deny.toml, and the oldest Rust that they build with.
//!
//! cargo-deny checks the same and advisories too, but takes minutes to build; this takes a second and needs nothing.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use fs_err as fs;
use serde_json::Value;
use xshell::cmd;

use crate::checkout::Checkout;

/// The lists, shared with cargo-deny.
const LISTS: &str = "deny.toml";

/// Where dependencies may come from.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Checks licences and sources, and with cargo-deny, where it is installed, advisories.
pub(crate) fn run(checkout: &Checkout) -> Result<()> {
    let lists = fs::read_to_string(checkout.root.join(LISTS))?;
    let allowed = allowed(&lists)?;
    let mut metadata = checkout
        .cargo()
        .args(["metadata", "--format-version=1", "--locked"]);
    for target in strings(&lists, "targets")? {
        metadata = metadata.args(["--filter-platform", target]);
    }
    let metadata: Value = serde_json::from_str(&metadata.quiet().read()?)?;
    let packages = metadata["packages"].as_array();
    let packages = packages.context("cargo metadata lists no packages")?;
    let oldest = oldest_rust(packages)?;
    let problems: Vec<String> = packages
        .iter()
        .flat_map(|package| [problem(package, &allowed), newer_rust(package, &oldest)])
        .flatten()
        .collect();
    for problem in &problems {
        eprintln!("dependencies: {problem}");
    }
    ensure!(
        problems.is_empty(),
        "{} dependencies may not be used: see {LISTS}",
        problems.len()
    );
    let n_packages = packages.len();
    let installed = cmd!(checkout.shell, "cargo-deny --version")
        .quiet()
        .ignore_stderr()
        .read();
    if installed.is_ok() {
        return Ok(checkout.cargo().args(["deny", "--locked", "check"]).run()?);
    }
    eprintln!(
        "licences and sources of {n_packages} packages are as {LISTS} allows, and none needs a Rust newer than {}; advisories were not looked up, since cargo-deny is not installed (`cargo install cargo-deny` brings it)",
        oldest.0
    );
    Ok(())
}

/// The licences that any package may have, and the packages with a licence of their own.
#[derive(Debug)]
struct Allowed<'t> {
    licences: BTreeSet<&'t str>,
    /// Package and licence.
    exceptions: Vec<(&'t str, &'t str)>,
}

/// Reads the lists: the keys `allow` and `exceptions` of the section `licenses`.
fn allowed(lists: &str) -> Result<Allowed<'_>> {
    let section = lists.split_once("[licenses]");
    let section = section.context("deny.toml has no section [licenses]")?.1;
    let section = section.split("\n[").next().unwrap_or(section);
    let exceptions = section
        .lines()
        .find(|line| line.starts_with("exceptions"))
        .map_or_else(Vec::new, |line| {
            let quoted: Vec<&str> = line.split('"').skip(1).step_by(2).collect();
            quoted
                .chunks_exact(2)
                .map(|pair| (pair[0], pair[1]))
                .collect()
        });
    Ok(Allowed {
        licences: strings(section, "allow")?.into_iter().collect(),
        exceptions,
    })
}

/// The strings of a list, by its key.
fn strings<'t>(text: &'t str, key: &str) -> Result<Vec<&'t str>> {
    let begin = format!("\n{key} = [");
    let list = text.split_once(&begin);
    let list = list
        .with_context(|| format!("deny.toml has no list `{key}`"))?
        .1;
    let list = list.split(']').next().unwrap_or(list);
    let lines = list
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'));
    Ok(lines
        .flat_map(|line| line.split('"').skip(1).step_by(2))
        .collect())
}

/// Why a package may not be used.
fn problem(package: &Value, allowed: &Allowed) -> Option<String> {
    let text = |key: &str| package[key].as_str();
    let name = text("name").unwrap_or("a package without a name");
    // The workspace's own have no source.
    let source = text("source")?;
    if source != REGISTRY {
        return Some(format!("{name} comes from {source}"));
    }
    let Some(licence) = text("license") else {
        return Some(format!("{name} states no licence"));
    };
    let is_allowed =
        |one: &str| allowed.licences.contains(one) || allowed.exceptions.contains(&(name, one));
    let is_fine = holds(licence, &is_allowed);
    (!is_fine).then(|| format!("{name} has the licence {licence}"))
}

/// A release of Rust, such as 1.94, by its text and its numbers.
type Rust = (String, [u32; 3]);

/// The oldest Rust that the workspace promises to build with: the same for all of its packages.
fn oldest_rust(packages: &[Value]) -> Result<Rust> {
    let own = packages
        .iter()
        .filter(|package| package["source"].is_null());
    let mut stated = own.map(rust);
    let first = stated.next().flatten();
    let first = first.context("the workspace states no rust-version")?;
    ensure!(
        stated.all(|other| other.as_ref() == Some(&first)),
        "the packages of the workspace state several rust-versions: each takes the workspace's, {}",
        first.0
    );
    Ok(first)
}

/// The Rust that a package states.
fn rust(package: &Value) -> Option<Rust> {
    let text = package["rust_version"].as_str()?;
    let mut numbers = [0; 3];
    for (number, part) in numbers.iter_mut().zip(text.split('.')) {
        *number = part.parse().ok()?;
    }
    Some((text.to_owned(), numbers))
}

/// The complaint that a package needs a newer Rust than this one.
fn newer_rust(package: &Value, oldest: &Rust) -> Option<String> {
    let (text, numbers) = rust(package)?;
    let name = package["name"].as_str().unwrap_or_default();
    (numbers > oldest.1).then(|| {
        format!(
            "{name} needs Rust {text}, and the workspace promises to build with {}: take an older {name}, or raise rust-version",
            oldest.0
        )
    })
}

/// Whether an SPDX expression holds, where `is_allowed` decides on single licences.
fn holds(expression: &str, is_allowed: &impl Fn(&str) -> bool) -> bool {
    // Old packages write a slash.
    let expression = expression.replace('/', " OR ");
    let spaced = expression.replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    any(&mut rest, is_allowed) && rest.is_empty()
}

fn any(rest: &mut &[&str], is_allowed: &impl Fn(&str) -> bool) -> bool {
    let mut holds = all(rest, is_allowed);
    while rest.first() == Some(&"OR") {
        *rest = &rest[1..];
        holds |= all(rest, is_allowed);
    }
    holds
}

fn all(rest: &mut &[&str], is_allowed: &impl Fn(&str) -> bool) -> bool {
    let mut holds = one(rest, is_allowed);
    while rest.first() == Some(&"AND") {
        *rest = &rest[1..];
        holds &= one(rest, is_allowed);
    }
    holds
}

fn one(rest: &mut &[&str], is_allowed: &impl Fn(&str) -> bool) -> bool {
    let Some((&first, after)) = rest.split_first() else {
        return false;
    };
    *rest = after;
    if first == "(" {
        let holds = any(rest, is_allowed);
        let closes = rest.first() == Some(&")");
        *rest = rest.get(1..).unwrap_or_default();
        return holds && closes;
    }
    if let ["WITH", exception, ..] = **rest {
        *rest = &rest[2..];
        return is_allowed(&format!("{first} WITH {exception}"));
    }
    is_allowed(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn expressions_are_read_as_spdx_has_them() {
        let is_allowed =
            |one: &str| ["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"].contains(&one);
        for (expression, expected) in [
            ("MIT", true),
            ("GPL-3.0", false),
            ("MIT OR GPL-3.0", true),
            ("GPL-3.0/MIT", true),
            ("GPL-3.0 / AGPL-3.0", false),
            ("MIT AND GPL-3.0", false),
            ("(GPL-3.0 OR MIT) AND ISC", true),
            ("(GPL-3.0 OR AGPL-3.0) AND ISC", false),
            ("GPL-3.0 OR MIT AND ISC", true),
            ("Apache-2.0 WITH LLVM-exception", true),
            ("Apache-2.0 WITH LLVM-exception OR GPL-3.0", true),
            ("Apache-2.0", false),
            ("MIT ISC", false),
            ("(MIT", false),
            ("", false),
        ] {
            assert_eq!(holds(expression, &is_allowed), expected, "{expression}");
        }
    }

    #[test]
    fn a_package_that_needs_a_newer_rust_is_refused() -> Result<()> {
        let package = |name: &str, source: Value, rust: &str| json!({"name": name, "source": source, "rust_version": rust});
        let own = |rust: &str| package("own", Value::Null, rust);
        let oldest = oldest_rust(&[own("1.94"), package("a", json!("x"), "1.99"), own("1.94")])?;
        for (needed, is_refused) in [
            ("1.94", false),
            ("1.94.0", false),
            ("1.94.1", true),
            ("1.9", false),
            ("1.100", true),
            ("2.0", true),
        ] {
            let problem = newer_rust(&package("a", json!("x"), needed), &oldest);
            assert_eq!(problem.is_some(), is_refused, "{needed}: {problem:?}");
        }
        assert_eq!(newer_rust(&json!({"name": "a"}), &oldest), None);
        assert!(oldest_rust(&[own("1.94"), own("1.95")]).is_err());
        assert!(oldest_rust(&[json!({"source": null})]).is_err());
        Ok(())
    }

    #[test]
    fn a_package_is_refused_for_its_licence_or_source() -> Result<()> {
        let lists = "x = 1\n[licenses]\nallow = [\n    \"MIT\",\n    # Why \"X\".\n    \"ISC\",\n]\nexceptions = [{ crate = \"a\", allow = [\"MPL-2.0\"] }]\n[bans]\n";
        let allowed = allowed(lists)?;
        let package = |name: &str, licence: Value, source: Value| json!({"name": name, "license": licence, "source": source});
        let problem = |package: Value| problem(&package, &allowed).unwrap_or_default();
        assert_eq!(
            problem(package("a", json!("MPL-2.0 OR X"), json!(REGISTRY))),
            ""
        );
        assert_eq!(
            problem(package("b", json!("MIT AND ISC"), json!(REGISTRY))),
            ""
        );
        assert_eq!(problem(package("own", Value::Null, Value::Null)), "");
        assert_eq!(
            problem(package("b", json!("MPL-2.0"), json!(REGISTRY))),
            "b has the licence MPL-2.0"
        );
        assert_eq!(
            problem(package("b", Value::Null, json!(REGISTRY))),
            "b states no licence"
        );
        assert_eq!(
            problem(package("b", json!("MIT"), json!("git+x"))),
            "b comes from git+x"
        );
        assert!(super::allowed("[licenses]\n").is_err());
        Ok(())
    }
}

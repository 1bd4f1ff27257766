//! Which crates of the workspace may depend on which.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::{Context, Result};
use serde_json::Value;

/// The crates of the workspace, and of its crates those that each may depend on.
const LAYERS: [(&str, &[&str]); 19] = [
    ("libtorch", &[]),
    ("grammar", &[]),
    ("mutate", &[]),
    ("hub", &[]),
    ("kernels", &[]),
    ("launcher", &[]),
    ("wording", &[]),
    ("search", &["kernels", "wording"]),
    ("report", &["search", "wording"]),
    ("shim", &["libtorch", "kernels"]),
    ("data", &["mutate", "wording"]),
    (
        "model",
        &["libtorch", "kernels", "search", "shim", "mutate"],
    ),
    ("losses", &["libtorch", "kernels", "search"]),
    ("eval", &["libtorch", "kernels", "search"]),
    (
        "train",
        &[
            "libtorch", "kernels", "shim", "model", "data", "losses", "eval",
        ],
    ),
    (
        "cli",
        &[
            "libtorch", "kernels", "search", "report", "shim", "launcher", "model", "data",
            "losses", "eval", "train", "hub", "grammar", "wording",
        ],
    ),
    ("fetch-data", &["hub"]),
    ("xtask", &["grammar", "launcher", "wording"]),
    ("sentune-fuzz", &["libtorch", "data", "hub", "model"]),
];

/// The crates that know of tensors; the others build without libtorch.
const TENSOR_CRATES: [&str; 7] = [
    "shim",
    "model",
    "losses",
    "eval",
    "train",
    "cli",
    "sentune-fuzz",
];

/// The dependencies of each crate of the workspace, of all kinds, from `cargo metadata --no-deps`.
pub(super) fn dependencies(metadata: &Value) -> Result<BTreeMap<String, BTreeSet<String>>> {
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
pub(super) fn problems(dependencies: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
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
        let found = problems(&all);
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (problem, word) in found.iter().zip(expected) {
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

//! Which runs a sweep is made of.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use anyhow::Context;
use sha2::{Digest, Sha256};
use toml::{Table, Value};

use crate::{config::resolve_table, flags::train::TrainFlags, usage::UsageError};

/// The keys that come first, in this order, each with the name that tables and folders have for it. The others
/// follow by name, seeds last.
const FAMILIAR: [(&str, &str); 5] = [
    ("learning-rate", "learning rate"),
    ("per-device-train-batch-size", "batch size"),
    ("optim", "optimizer"),
    ("max-train-samples", "rows"),
    ("loss", "loss"),
];

/// Longest name of a run's folder; a longer one ends in a digest.
const MAX_NAME: usize = 120;

/// All runs, in the order in which they are made.
pub(super) struct Grid {
    /// The keys of the grid.
    pub(super) keys: Vec<String>,
    pub(super) points: Vec<Point>,
}

/// One run.
pub(super) struct Point {
    /// The value of each of the grid's keys, as tables show it.
    pub(super) values: Vec<String>,
    /// Name of its folder.
    pub(super) name: String,
    /// Its resolved configuration.
    pub(super) flags: TrainFlags,
}

/// A file that was read, before its runs are made.
pub(super) struct SweepFile {
    base: Table,
    grids: Vec<Vec<(String, Vec<Value>)>>,
    /// Its `output-dir`.
    pub(super) output_dir: Option<PathBuf>,
}

impl SweepFile {
    /// Takes the text of a file apart.
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let mut base: Table = text.parse().map_err(|error: toml::de::Error| {
            UsageError(error.to_string().trim_end().to_owned())
        })?;
        let grids = match base.remove("grid") {
            Some(Value::Table(grid)) => vec![lists(grid)?],
            Some(Value::Array(grids)) if !grids.is_empty() => grids
                .into_iter()
                .map(|grid| match grid {
                    Value::Table(grid) => lists(grid),
                    other => Err(not_a_grid(&other)),
                })
                .collect::<Result<_, _>>()?,
            Some(other) => return Err(not_a_grid(&other).into()),
            None => {
                return Err(UsageError(
                    "there is no table [grid]: give the values to try, such as learning-rate = [2e-5, 5e-5] under [grid]".to_owned(),
                )
                .into());
            }
        };
        let output_dir = match base.remove("output-dir") {
            None => None,
            Some(Value::String(path)) => Some(PathBuf::from(path)),
            Some(other) => {
                return Err(UsageError(format!("output-dir is {other}: give a text")).into());
            }
        };
        // A finished run has its model in `final`; the checkpoints of all runs would fill the disk.
        base.entry("save-total-limit").or_insert(Value::Integer(1));
        Ok(Self {
            base,
            grids,
            output_dir,
        })
    }

    /// The runs, each with a folder of its own in `output_dir`.
    pub(super) fn grid(&self, output_dir: &Path) -> anyhow::Result<Grid> {
        let mut keys: Vec<String> = Vec::new();
        for (key, _) in self.grids.iter().flatten() {
            if !keys.contains(key) {
                keys.push(key.clone());
            }
        }
        keys.sort_by_key(|key| place(key));
        let (mut points, mut seen, mut names) = (Vec::new(), HashSet::new(), HashSet::new());
        for grid in &self.grids {
            for chosen in product(grid) {
                let point = self
                    .point(&keys, &chosen, output_dir)
                    .with_context(|| format!("[grid] {}", shown(&chosen)))?;
                // Two grids may have a run in common.
                if seen.insert(comparable(&point.flags)?.to_string()) {
                    points.push(point);
                }
            }
        }
        for point in &mut points {
            if !names.insert(point.name.clone()) {
                point.name = digested(&point.name, &point.values.join("\n"));
                names.insert(point.name.clone());
            }
            point.flags.output_dir = Some(output_dir.join(&point.name));
        }
        Ok(Grid { keys, points })
    }

    fn point(
        &self,
        keys: &[String],
        chosen: &[(&str, &Value)],
        output_dir: &Path,
    ) -> anyhow::Result<Point> {
        let mut table = self.base.clone();
        for (key, value) in chosen {
            table.insert((*key).to_owned(), (*value).clone());
        }
        // The folder's name is made of the configuration, which has to name one.
        let placeholder = Value::String(output_dir.display().to_string());
        table.insert("output-dir".to_owned(), placeholder);
        let flags = resolve_table(table)?;
        flags.arguments.validate()?;
        for loss in &flags.loss {
            loss.value
                .check()
                .with_context(|| format!("--loss {loss}"))?;
        }
        if flags.test_data.is_none() && flags.tables.entry().is_none() {
            return Err(UsageError(
                "there is no test-data: a sweep compares its runs by it, before and after"
                    .to_owned(),
            )
            .into());
        }
        let resolved = Table::try_from(&flags)?;
        let values: Vec<String> = keys
            .iter()
            .map(|key| match (key.as_str(), resolved.get(key)) {
                ("loss", _) => {
                    let losses = flags.loss.iter().map(ToString::to_string);
                    losses.collect::<Vec<_>>().join(" ")
                }
                (_, Some(value)) => show(value),
                (_, None) => "-".to_owned(),
            })
            .collect();
        let parts = keys.iter().zip(&values);
        let parts: Vec<String> = parts
            .map(|(key, value)| format!("{}-{value}", label(key)))
            .collect();
        Ok(Point {
            name: folder_name(&parts.join("_")),
            values,
            flags,
        })
    }
}

impl Grid {
    /// The places of the keys that have more than one value in this sweep.
    pub(super) fn varied(&self) -> Vec<usize> {
        let differs = |&i: &usize| {
            let mut values = self.points.iter().map(|point| &point.values[i]);
            let first = values.next();
            values.any(|value| Some(value) != first)
        };
        (0..self.keys.len()).filter(differs).collect()
    }
}

/// A configuration without what two runs of it may differ in.
pub(super) fn comparable(flags: &TrainFlags) -> anyhow::Result<Table> {
    let mut table = Table::try_from(flags)?;
    table.remove("output-dir");
    Ok(table)
}

/// The name that tables, plots and folders have for a key.
pub(super) fn label(key: &str) -> &str {
    let found = FAMILIAR.iter().find(|(familiar, _)| *familiar == key);
    found.map_or(key, |(_, label)| label)
}

/// The rank of a key in the order of tables and names.
fn place(key: &str) -> (usize, String) {
    let familiar = FAMILIAR.iter().position(|(name, _)| *name == key);
    let place = match (familiar, key) {
        (Some(place), _) => place,
        (None, "seed") => FAMILIAR.len() + 1,
        (None, _) => FAMILIAR.len(),
    };
    (place, key.to_owned())
}

fn lists(grid: Table) -> Result<Vec<(String, Vec<Value>)>, UsageError> {
    let mut lists = Vec::with_capacity(grid.len());
    for (key, values) in grid {
        if key == "output-dir" {
            return Err(UsageError(
                "[grid] output-dir: every run has a folder of its own in the sweep's".to_owned(),
            ));
        }
        match values {
            Value::Array(values) if !values.is_empty() => lists.push((key, values)),
            Value::Array(_) => {
                return Err(UsageError(format!(
                    "[grid] {key} is an empty list: give one value or more"
                )));
            }
            other => {
                return Err(UsageError(format!(
                    "[grid] {key} is {other}: give a list, such as [{other}]"
                )));
            }
        }
    }
    if lists.is_empty() {
        return Err(UsageError(
            "[grid] is empty: give a list of values for one key or more".to_owned(),
        ));
    }
    lists.sort_by_key(|(key, _)| place(key));
    Ok(lists)
}

fn not_a_grid(value: &Value) -> UsageError {
    UsageError(format!(
        "grid is {value}: it has to be a table [grid], or several [[grid]], with a list of values for each key"
    ))
}

/// Every choice of one value a key; the last key changes fastest.
fn product(grid: &[(String, Vec<Value>)]) -> Vec<Vec<(&str, &Value)>> {
    let mut choices = vec![Vec::new()];
    for (key, values) in grid {
        let longer = choices.iter().flat_map(|choice: &Vec<(&str, &Value)>| {
            values.iter().map(move |value| {
                let mut choice = choice.clone();
                choice.push((key.as_str(), value));
                choice
            })
        });
        choices = longer.collect();
    }
    choices
}

fn shown(chosen: &[(&str, &Value)]) -> String {
    let parts = chosen.iter().map(|(key, value)| format!("{key} = {value}"));
    parts.collect::<Vec<_>>().join(", ")
}

/// A value as tables show it.
fn show(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Float(number) if *number != 0.0 && !(1e-2..1e6).contains(&number.abs()) => {
            format!("{number:e}")
        }
        Value::Float(number) => number.to_string(),
        Value::Array(values) => values.iter().map(show).collect::<Vec<_>>().join("+"),
        other => other.to_string(),
    }
}

fn folder_name(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
    let name = text.replace(|c| !is_plain(c), "-");
    if name.len() <= MAX_NAME {
        name
    } else {
        digested(&name, text)
    }
}

/// A name, shortened where need be, that ends in a digest of `text`.
fn digested(name: &str, text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    let digits = hex::encode(&digest[..4]);
    format!(
        "{}-{digits}",
        &name[..name.len().min(MAX_NAME - digits.len() - 1)]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "model = 'm'\ntrain-data = 'train.csv'\ntest-data = 'test.csv'\n";

    fn grid(text: &str) -> anyhow::Result<Grid> {
        SweepFile::parse(&format!("{BASE}{text}"))?.grid(Path::new("out"))
    }

    #[test]
    fn runs_are_the_product_in_a_known_order() {
        let grid = grid(
            "num-train-epochs = 1\n[grid]\nseed = [1, 2]\noptim = ['sgd', 'adamw_torch_fused']\nlearning-rate = [2e-5, 0.01]\nloss = ['mnrl:scale=30']\n",
        )
        .unwrap();
        assert_eq!(grid.keys, ["learning-rate", "optim", "loss", "seed"]);
        assert_eq!(grid.varied(), [0, 1, 3]);
        let values: Vec<String> = grid
            .points
            .iter()
            .map(|point| point.values.join(" "))
            .collect();
        let mnrl = "multiple-negatives-ranking:scale=30";
        let expected = [
            "2e-5 sgd",
            "2e-5 adamw_torch",
            "0.01 sgd",
            "0.01 adamw_torch",
        ];
        let expected: Vec<String> = expected
            .iter()
            .flat_map(|values| [1, 2].map(|seed| format!("{values} {mnrl} {seed}")))
            .collect();
        assert_eq!(values, expected);
        let last = &grid.points[7];
        assert_eq!(
            last.name,
            "learning-rate-0.01_optimizer-adamw_torch_loss-multiple-negatives-ranking-scale-30_seed-2"
        );
        assert_eq!(
            last.flags.output_dir,
            Some(Path::new("out").join(&last.name))
        );
        assert_eq!(
            (
                last.flags.arguments.seed,
                last.flags.arguments.num_train_epochs
            ),
            (2, 1.0)
        );
        assert_eq!(last.flags.arguments.save_total_limit, Some(1));
    }

    #[test]
    fn several_grids_are_joined() {
        let grid = grid(
            "[[grid]]\nlearning-rate = [1e-5, 5e-5]\n[[grid]]\noptim = ['adamw_torch', 'sgd']\nmomentum = [0.0]\n",
        )
        .unwrap();
        assert_eq!(grid.keys, ["learning-rate", "optim", "momentum"]);
        let values: Vec<String> = grid
            .points
            .iter()
            .map(|point| point.values.join(" "))
            .collect();
        // The second grid's first run is the first one's second.
        assert_eq!(
            values,
            ["1e-5 adamw_torch 0", "5e-5 adamw_torch 0", "5e-5 sgd 0"]
        );
    }

    #[test]
    fn names_are_short_and_differ() {
        let long = "x".repeat(200);
        let text = format!(
            "[grid]\nloss = ['mnrl']\nmetric-for-best-model = ['{long}a', '{long}b', 'y/z', 'y-z']\n"
        );
        let grid = grid(&text).unwrap();
        let mut names: Vec<&str> = grid
            .points
            .iter()
            .map(|point| point.name.as_str())
            .collect();
        assert!(names.iter().all(|name| name.len() <= MAX_NAME), "{names:?}");
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 4);
    }

    #[test]
    fn what_can_not_be_run_is_named() {
        for (text, part) in [
            ("", "there is no table [grid]"),
            ("grid = 3\n", "grid is 3"),
            ("[grid]\n", "[grid] is empty"),
            (
                "[grid]\nseed = 3\n",
                "[grid] seed is 3: give a list, such as [3]",
            ),
            ("[grid]\nseed = []\n", "[grid] seed is an empty list"),
            ("[grid]\noutput-dir = ['a']\n", "a folder of its own"),
            ("[grid]\nsead = [3]\n", "sead"),
            ("sead = 3\n[grid]\nseed = [3]\n", "sead"),
            ("[grid]\nlearning-rate = [-1.0]\n", "--learning-rate is -1"),
            ("[grid]\nloss = ['nonsense']\n", "nonsense"),
            ("[grid\n", "line 4"),
        ] {
            let error = grid(text).err().expect(text);
            assert!(format!("{error:#}").contains(part), "{text}: {error:#}");
        }
        let file = SweepFile::parse("train-data = 'x.csv'\n[grid]\nseed = [3]\n").unwrap();
        let error = file.grid(Path::new("out")).err().unwrap();
        assert!(
            format!("{error:#}").contains("there is no test-data"),
            "{error:#}"
        );
    }
}

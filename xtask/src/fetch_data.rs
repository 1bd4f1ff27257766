//! `cargo xtask fetch-data`: models and data sets from the Hugging Face hub, linked into data/.
//!
//! The files stay in the hub's cache, which Python shares and `sentune` looks into by itself; data/
//! holds links to them, under names that are easy to type.

use std::{
    io::{self, IsTerminal},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use fs_err as fs;
use hub::{
    config::HubConfig,
    fetch::{DatasetFiles, Watcher, fetch_dataset, fetch_model},
    name::{DatasetId, RepoId},
};
use indicatif::{ProgressBar, ProgressStyle};

use crate::checkout::{Checkout, link};

/// The data set that the article trains on.
const DATASET: &str = "sentence-transformers/all-nli:triplet";

/// The model that the article fine-tunes.
const MODEL: &str = "microsoft/mpnet-base";

/// Fetch models and data sets from the Hugging Face hub into data/.
///
/// Without flags: the article's model and data set, microsoft/mpnet-base and
/// sentence-transformers/all-nli:triplet. A download that was interrupted goes on where it stopped.
/// HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_TOKEN_PATH, HF_ENDPOINT and HF_HUB_OFFLINE are honoured.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Data set to fetch, as org/name or org/name:subset; may be given several times
    #[arg(long, value_name = "NAME", value_parser = DatasetId::parse)]
    dataset: Vec<DatasetId>,
    /// Model to fetch, as org/name or org/name@revision; may be given several times
    #[arg(long, value_name = "NAME", value_parser = RepoId::parse)]
    model: Vec<RepoId>,
}

/// Fetches what was asked for, links it into data/ and says where it is.
pub(crate) fn run(checkout: &Checkout, args: &Args) -> Result<()> {
    let (mut datasets, mut models) = (args.dataset.clone(), args.model.clone());
    if datasets.is_empty() && models.is_empty() {
        datasets.push(DatasetId::parse(DATASET)?);
        models.push(RepoId::parse(MODEL)?);
    }
    let config = HubConfig::from_env()?;
    let data = checkout.root.join("data");
    for dataset in &datasets {
        eprintln!("data set {dataset}");
        let files = fetch_dataset(&config, dataset, &mut Progress::default())
            .with_context(|| format!("data set {dataset}"))?;
        for (place, file) in dataset_places(dataset, &files) {
            put(checkout, &data.join(place), file)?;
        }
    }
    for model in &models {
        eprintln!("model {model}");
        let folder = fetch_model(&config, model, &mut Progress::default())
            .with_context(|| format!("model {model}"))?;
        put(checkout, &data.join(model_place(model)), &folder)?;
    }
    Ok(())
}

/// Where a data set's files go below data/: `<name>/<subset>/<split>.parquet`, with the shard's number
/// where a split has several.
fn dataset_places<'a>(dataset: &DatasetId, files: &'a DatasetFiles) -> Vec<(PathBuf, &'a Path)> {
    let name = dataset.repo.id().rsplit('/').next().unwrap_or_default();
    let subset = dataset.subset.as_deref().unwrap_or("default");
    let folder = Path::new(name).join(subset);
    let splits = [
        ("train", &files.train),
        ("dev", &files.dev),
        ("test", &files.test),
    ];
    splits
        .into_iter()
        .flat_map(|(split, shards)| {
            let folder = folder.clone();
            let n_shards = shards.len();
            shards.iter().enumerate().map(move |(shard, file)| {
                let place = match n_shards {
                    1 => format!("{split}.parquet"),
                    _ => format!("{split}-{shard:05}-of-{n_shards:05}.parquet"),
                };
                (folder.join(place), file.as_path())
            })
        })
        .collect()
}

/// Where a model's folder goes below data/: `models/<org>/<name>`, with the revision where it is not
/// the default.
fn model_place(model: &RepoId) -> PathBuf {
    // A branch may have slashes in its name, and is one folder here.
    Path::new("models").join(match model.revision() {
        "main" => model.id().to_owned(),
        revision => format!("{}@{}", model.id(), revision.replace('/', "-")),
    })
}

/// Links `place` to what was fetched, and says so.
fn put(checkout: &Checkout, place: &Path, fetched: &Path) -> Result<()> {
    ensure!(
        place.is_symlink() || !place.exists(),
        "{} is in the way, and no link that fetch-data made: move it",
        place.display()
    );
    if let Some(folder) = place.parent() {
        fs::create_dir_all(folder)?;
    }
    let fetched = fs::canonicalize(fetched)?;
    link(&fetched, place)?;
    let shown = place.strip_prefix(&checkout.root).unwrap_or(place);
    eprintln!("  {} -> {}", shown.display(), fetched.display());
    Ok(())
}

/// A bar for the file that is being fetched; where there is no terminal, a line for each file.
#[derive(Default)]
struct Progress {
    file: String,
    bar: Option<ProgressBar>,
}

impl Watcher for Progress {
    fn progress(&mut self, file: &str, done_bytes: u64, total_bytes: u64) {
        if self.file != file {
            file.clone_into(&mut self.file);
            if let Some(bar) = self.bar.take() {
                bar.finish_and_clear();
            }
            if io::stderr().is_terminal() {
                self.bar = Some(new_bar(file));
            } else if done_bytes < total_bytes {
                eprintln!("  {file}: {:.1} MB", total_bytes as f64 / 1e6);
            }
        }
        if let Some(bar) = &self.bar {
            bar.set_length(total_bytes);
            bar.set_position(done_bytes);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn new_bar(file: &str) -> ProgressBar {
    let template = "  {prefix}: {percent:>3}% |{bar:24}| {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta} left";
    let style = ProgressStyle::with_template(template);
    let bar = ProgressBar::no_length();
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_prefix(file.to_owned());
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(dataset: &str, files: &DatasetFiles) -> Result<Vec<String>> {
        let dataset = DatasetId::parse(dataset)?;
        let places = dataset_places(&dataset, files);
        Ok(places
            .iter()
            .map(|(place, _)| place.display().to_string())
            .collect())
    }

    #[test]
    fn one_shard_is_named_as_the_split_and_several_are_numbered() -> Result<()> {
        let files = DatasetFiles {
            train: vec!["a".into(), "b".into()],
            test: vec!["c".into()],
            ..DatasetFiles::default()
        };
        assert_eq!(
            places("sentence-transformers/all-nli:triplet", &files)?,
            [
                "all-nli/triplet/train-00000-of-00002.parquet",
                "all-nli/triplet/train-00001-of-00002.parquet",
                "all-nli/triplet/test.parquet",
            ]
        );
        assert_eq!(
            places("org/pairs", &files)?[2],
            "pairs/default/test.parquet"
        );
        Ok(())
    }

    #[test]
    fn a_model_is_named_as_on_the_hub() -> Result<()> {
        for (name, place) in [
            (MODEL, "models/microsoft/mpnet-base"),
            ("org/name@refs/pr/3", "models/org/name@refs-pr-3"),
        ] {
            assert_eq!(model_place(&RepoId::parse(name)?), Path::new(place));
        }
        Ok(())
    }
}

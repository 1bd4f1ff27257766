//! `cargo xtask fetch-data`: models and data sets from the Hugging Face hub, linked into data/.
//!
//! The files stay in the hub's cache, which Python shares and `sentune` looks into by itself; data/
//! holds links to them, under names that are easy to type.
#![expect(clippy::print_stderr, reason = "a program talks to whoever runs it")]

use std::{
    io::{self, IsTerminal},
    path::{Path, PathBuf},
    process::{self, ExitCode},
};

use anyhow::{Result, ensure};
use clap::Parser;
use fs_err as fs;
use hub::{
    config::HubConfig,
    dataset_files::DatasetFiles,
    fetch::{fetch_dataset, fetch_model},
    name::{DatasetId, RepoId},
    watcher::Watcher,
};
use indicatif::{ProgressBar, ProgressStyle};
use tracing_subscriber::filter::LevelFilter;

/// The data set that the article trains on.
const DATASET: &str = "sentence-transformers/all-nli:triplet";

/// The model that the article fine-tunes.
const MODEL: &str = "microsoft/mpnet-base";

/// Fetch models and data sets from the Hugging Face hub into data/.
///
/// Without flags: the article's model and data set, microsoft/mpnet-base and
/// sentence-transformers/all-nli:triplet. A download that was interrupted goes on where it stopped.
/// HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_TOKEN_PATH, HF_ENDPOINT, HF_HUB_OFFLINE, SSL_CERT_FILE and HTTPS_PROXY are
/// heeded.
#[derive(Debug, Parser)]
#[command(
    bin_name = "cargo xtask fetch-data",
    before_help = "Example:
  cargo xtask fetch-data --model microsoft/mpnet-base"
)]
struct Args {
    /// Data set to fetch, as org/name or org/name:subset; may be given several times
    #[arg(long, value_name = "NAME", value_parser = DatasetId::parse)]
    dataset: Vec<DatasetId>,
    /// Model to fetch, as org/name or org/name@revision, or by its name alone where sentence-transformers has it;
    /// may be given several times
    #[arg(long, value_name = "NAME", value_parser = RepoId::parse_model)]
    model: Vec<RepoId>,
    /// Folder that the links go into
    #[arg(long, value_name = "FOLDER", default_value = "data")]
    output_dir: PathBuf,
}

fn main() -> ExitCode {
    // For the log lines of the hub crate: retries, a cache used for want of an answer, splits left out.
    tracing_subscriber::fmt()
        .with_max_level(LevelFilter::INFO)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .without_time()
        .with_target(false)
        .init();
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Fetches the models and data sets, links them into the folder and prints the links.
fn run(args: Args) -> Result<()> {
    let Args {
        mut dataset,
        mut model,
        output_dir,
    } = args;
    if dataset.is_empty() && model.is_empty() {
        dataset.push(DatasetId::parse(DATASET)?);
        model.push(RepoId::parse(MODEL)?);
    }
    let config = HubConfig::from_env()?;
    for dataset in &dataset {
        eprintln!("data set {dataset}");
        let files = fetch_dataset(&config, dataset, &mut Progress::default())?;
        for (place, file) in dataset_places(dataset, &files) {
            put(&output_dir.join(place), file)?;
        }
    }
    for model in &model {
        eprintln!("model {model}");
        let folder = fetch_model(&config, model, &mut Progress::default())?;
        put(&output_dir.join(model_place(model)), &folder)?;
    }
    Ok(())
}

/// The organisation that is left out of the places of its data sets; the article's is one of them.
const SHORT: &str = "sentence-transformers";

/// The places of a data set's files below data/: `<org>/<name>/<subset>/<split>.parquet`, without the organisation
/// where it is [`SHORT`], with the revision behind the name where it is not the default, and with the shard's
/// number where a split has several.
fn dataset_places<'a>(dataset: &DatasetId, files: &'a DatasetFiles) -> Vec<(PathBuf, &'a Path)> {
    let id = dataset.repo.id();
    let name = match id.split_once('/') {
        Some((SHORT, name)) => name,
        _ => id,
    };
    let subset = dataset.subset.as_deref().unwrap_or("default");
    let folder = Path::new(&with_revision(name, &dataset.repo)).join(subset);
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

/// The place of a model's folder below data/: `models/<org>/<name>`, with the revision where it is not
/// the default.
fn model_place(model: &RepoId) -> PathBuf {
    Path::new("models").join(with_revision(model.id(), model))
}

/// `name`, with `@<revision>` behind it for another revision than the default.
fn with_revision(name: &str, repo: &RepoId) -> String {
    match repo.revision() {
        "main" => name.to_owned(),
        // A branch may have slashes in its name, and is one folder here.
        revision => format!("{name}@{}", revision.replace('/', "-")),
    }
}

/// Makes `place` a link to the fetched file or folder, atomically and only where it is not that link already, and
/// prints it.
fn put(place: &Path, fetched: &Path) -> Result<()> {
    ensure!(
        place.is_symlink() || !place.exists(),
        "{} is in the way, and no link that fetch-data made: move it",
        place.display()
    );
    if let Some(folder) = place.parent() {
        fs::create_dir_all(folder)?;
    }
    let fetched = fs::canonicalize(fetched)?;
    let leads_there = fs::read_link(place).is_ok_and(|found| found == fetched);
    if !leads_there {
        let mut new = place.as_os_str().to_owned();
        new.push(format!(".{}.new", process::id()));
        link(&fetched, Path::new(&new))?;
        fs::rename(&new, place)?;
    }
    eprintln!("  {} -> {}", place.display(), fetched.display());
    Ok(())
}

#[cfg(unix)]
fn link(target: &Path, place: &Path) -> Result<()> {
    Ok(fs::os::unix::fs::symlink(target, place)?)
}

#[cfg(not(unix))]
fn link(target: &Path, _: &Path) -> Result<()> {
    anyhow::bail!(
        "fetched to {}, but links are made on Unix only",
        target.display()
    )
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
            "org/pairs/default/test.parquet"
        );
        assert_eq!(
            places("org/pairs@refs/pr/3:a", &files)?[2],
            "org/pairs@refs-pr-3/a/test.parquet"
        );
        Ok(())
    }

    #[test]
    fn organisations_share_no_folder() -> Result<()> {
        let files = DatasetFiles {
            train: vec!["a".into()],
            ..DatasetFiles::default()
        };
        let mut all = Vec::new();
        for org in ["sentence-transformers", "embedding-data", "mteb"] {
            all.extend(places(&format!("{org}/stsb:pair"), &files)?);
        }
        assert_eq!(
            all,
            [
                "stsb/pair/train.parquet",
                "embedding-data/stsb/pair/train.parquet",
                "mteb/stsb/pair/train.parquet",
            ]
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

//! Models and data sets by a path on disk or a name on the hub.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use data::{Dataset, LoadOptions, OnBadRow, Split};
use hub::{
    config::HubConfig,
    fetch::{fetch_dataset, fetch_model, fetch_splits},
    name::{DatasetId, RepoId},
    watcher::Watcher,
};
use indicatif::ProgressBar;

use crate::{flags::reading::ReadingFlags, session::Session};

/// Options of reading a data set.
#[derive(Debug, Clone, Default)]
pub(crate) struct DataOptions {
    pub(crate) name: Option<String>,
    pub(crate) columns: Option<Vec<String>>,
    pub(crate) max_rows: Option<usize>,
    pub(crate) on_bad_row: Option<OnBadRow>,
    pub(crate) reading: ReadingFlags,
    /// Whether a teacher's scores of lists of texts are the labels.
    pub(crate) teacher_scores: bool,
    /// The classes of the training data, where labels are words.
    pub(crate) classes: Vec<String>,
}

/// The folder of a model: `model` itself where that is a folder, else the hub's files in the cache.
pub(crate) fn model(model: &str, session: &Session) -> anyhow::Result<PathBuf> {
    let path = Path::new(model);
    if path.is_dir() {
        return Ok(path.to_owned());
    }
    if path.exists() || !(is_name(model) || is_short_name(model)) {
        bail!(
            "model `{model}` is not a folder: give the folder of a model, or a name on the hub such as microsoft/mpnet-base"
        );
    }
    let id = RepoId::parse_model(model).with_context(|| {
        format!("model `{model}` is neither a folder here nor a name on the hub")
    })?;
    let full_name = id.to_string();
    if full_name != model {
        tracing::info!("model `{model}` is {full_name} on the hub");
    }
    let config = HubConfig::from_env()?;
    fetched(fetch_model(&config, &id, &mut Download::new(session)), session).with_context(|| {
        format!(
            "model `{model}` is neither a folder here nor could it be had from the hub: give a folder with config.json, tokenizer.json and model.safetensors, or run `cargo xtask fetch-data --model {full_name}` where the hub can be reached"
        )
    })
}

/// The data set that `source` names: files on disk where there are such, else a split from the hub.
pub(crate) fn dataset(
    source: &str,
    split: Split,
    options: &DataOptions,
    session: &Session,
) -> anyhow::Result<Dataset> {
    Located::new(source, split, options, session)?.load()
}

/// A data set whose files are here, and how they are read.
#[derive(Debug, Clone)]
pub(crate) struct Located {
    /// The name of files, where it is no name on the hub.
    source: Option<String>,
    pub(crate) files: Vec<PathBuf>,
    pub(crate) options: LoadOptions,
}

impl Located {
    /// Finds the files that `source` names, on disk or on the hub.
    pub(crate) fn new(
        source: &str,
        split: Split,
        options: &DataOptions,
        session: &Session,
    ) -> anyhow::Result<Self> {
        let mut load_options = LoadOptions {
            columns: options.columns.clone(),
            max_rows: options.max_rows,
            name: options.name.clone(),
            on_bad_row: options.on_bad_row.unwrap_or_default(),
            split,
            label_column: options.reading.label_column.clone(),
            teacher_scores: options.teacher_scores,
            num_negatives: options.reading.num_negatives,
            dialect: options.reading.dialect(),
            classes: options.classes.clone(),
        };
        let is_here =
            Path::new(source).exists() || !is_name(source.split(':').next().unwrap_or(source));
        if is_here {
            load_options
                .name
                .get_or_insert_with(|| local_name(Path::new(source)));
            return Ok(Self {
                source: Some(source.to_owned()),
                files: data::find_files(source, split)?,
                options: load_options,
            });
        }
        let id = DatasetId::parse(source).with_context(|| {
            format!("data set `{source}` is neither a file here nor a name on the hub")
        })?;
        load_options
            .name
            .get_or_insert_with(|| hub_name(&id, split));
        let config = HubConfig::from_env()?;
        let files = fetched(fetch_dataset(&config, &id, &mut Download::new(session)), session)
            .with_context(|| {
                format!(
                    "data set `{source}` is neither a file here nor could it be had from the hub: give a parquet, CSV or JSON Lines file, or run `cargo xtask fetch-data --dataset {source}` where the hub can be reached"
                )
            })?;
        let files = match split {
            Split::Train => files.train,
            Split::Dev => files.dev,
            Split::Test => files.test,
        };
        if files.is_empty() {
            bail!("data set `{source}` on the hub has no {split} split",);
        }
        Ok(Self {
            source: None,
            files,
            options: load_options,
        })
    }

    /// Reads the data set into memory.
    pub(crate) fn load(&self) -> anyhow::Result<Dataset> {
        Ok(match &self.source {
            Some(source) => data::load(source, &self.options)?,
            None => data::load_files(&self.files, &self.options)?,
        })
    }
}

/// The files of splits of a data set on the hub, each given as subset and split, in that order.
pub(crate) fn splits(
    source: &str,
    splits: &[(&str, &str)],
    session: &Session,
) -> anyhow::Result<Vec<Vec<PathBuf>>> {
    let id = RepoId::parse(source)?;
    let config = HubConfig::from_env()?;
    let files = fetch_splits(&config, &id, splits, &mut Download::new(session));
    fetched(files, session)
}

/// The name on the hub of a model that is no folder here.
pub(crate) fn model_on_hub(model: &str) -> Option<String> {
    let is_here = Path::new(model).exists() || !(is_name(model) || is_short_name(model));
    let id = RepoId::parse_model(model).ok().filter(|_| !is_here)?;
    Some(id.id().to_owned())
}

/// The name on the hub of a model that is no folder here, and its revision, where another than the default is asked
/// for.
pub(crate) fn model_revision(model: &str) -> Option<(String, Option<String>)> {
    let name = model_on_hub(model)?;
    let revision = model
        .split_once('@')
        .map(|(_, revision)| revision.to_owned());
    Some((name, revision))
}

/// The name on the hub of a data set that is no file here, without revision and subset.
pub(crate) fn dataset_on_hub(source: &str) -> Option<String> {
    let is_here =
        Path::new(source).exists() || !is_name(source.split(':').next().unwrap_or(source));
    let id = DatasetId::parse(source).ok().filter(|_| !is_here)?;
    Some(id.repo.id().to_owned())
}

/// Whether a text looks like a name on the hub rather than a path: one slash, and nothing that only a path
/// or pattern would have.
fn is_name(text: &str) -> bool {
    let is_path = text.starts_with(['/', '.', '~']) || text.contains(['*', '?', '[', '\\']);
    !is_path
        && text.split('@').next().unwrap_or(text).matches('/').count() == 1
        && !is_file_name(text)
}

/// Whether a text looks like the short name of a model on the hub, such as `all-mpnet-base-v2`.
fn is_short_name(text: &str) -> bool {
    let name = text.split('@').next().unwrap_or(text);
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(is_plain)
        && !is_file_name(name)
}

fn is_file_name(text: &str) -> bool {
    let others = [".txt", ".gz", ".zst", ".safetensors", ".bin"];
    data::file_stem(Path::new(text)).is_some() || others.iter().any(|ending| text.ends_with(ending))
}

/// `all-nli-test` for the test split of `sentence-transformers/all-nli`, as the article has it.
fn hub_name(id: &DatasetId, split: Split) -> String {
    let repo = id.repo.id();
    format!("{}-{}", repo.rsplit('/').next().unwrap_or(repo), split)
}

/// The file's name without ending; where that only says which split it is, after the folder's name.
pub(crate) fn local_name(path: &Path) -> String {
    let text =
        |name: Option<&std::ffi::OsStr>| name.map(|name| name.to_string_lossy().into_owned());
    let stem = text(data::file_stem(path).or(path.file_stem())).unwrap_or_default();
    let folder = path.parent().and_then(|parent| text(parent.file_name()));
    match folder {
        Some(folder) if ["train", "dev", "test", "validation"].contains(&stem.as_str()) => {
            format!("{folder}-{stem}")
        }
        _ => stem.replace(['*', '?'], ""),
    }
}

/// A download's result, or the signal that ended it.
fn fetched<T>(result: Result<T, hub::error::HubError>, session: &Session) -> anyhow::Result<T> {
    session.check()?;
    Ok(result?)
}

/// A progress bar for the file that is on its way from or to the hub.
pub(crate) struct Download<'a> {
    session: &'a Session,
    bar: Option<(String, ProgressBar)>,
}

impl<'a> Download<'a> {
    pub(crate) fn new(session: &'a Session) -> Self {
        Self { session, bar: None }
    }
}

impl Watcher for Download<'_> {
    fn progress(&mut self, file: &str, done_bytes: u64, total_bytes: u64) {
        if self.bar.as_ref().is_none_or(|(name, _)| name != file) {
            self.bar = Some((
                file.to_owned(),
                self.session.bar(file, total_bytes as usize),
            ));
        }
        if let Some((_, bar)) = &self.bar {
            bar.set_position(done_bytes);
            if done_bytes == total_bytes {
                bar.finish_and_clear();
            }
        }
    }

    fn interrupted(&mut self) -> bool {
        self.session.interrupt.is_set()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_paths_are_told_apart() {
        for name in [
            "microsoft/mpnet-base",
            "org/name@v1.0",
            "sentence-transformers/all-nli",
        ] {
            assert!(is_name(name), "{name}");
        }
        for path in [
            "./a/b",
            "/a/b",
            "mpnet-base",
            "a/b/c",
            "data/train.csv",
            "data/*",
            "..",
            "~/x",
        ] {
            assert!(!is_name(path), "{path}");
        }
    }

    #[test]
    fn short_names_are_words_without_a_slash() {
        for name in [
            "all-mpnet-base-v2",
            "all-MiniLM-L6-v2@refs/pr/1",
            "bert-base-uncased",
        ] {
            assert!(is_short_name(name), "{name}");
        }
        for other in [
            "",
            "..",
            "./x",
            "~",
            "a b",
            "a/b",
            "model.safetensors",
            "C:\\m",
            "m*",
        ] {
            assert!(!is_short_name(other), "{other}");
        }
    }

    #[test]
    fn data_sets_are_named_for_their_metrics() {
        let id = DatasetId::parse("sentence-transformers/all-nli:triplet").unwrap();
        assert_eq!(hub_name(&id, Split::Test), "all-nli-test");
        assert_eq!(
            local_name(Path::new("data/snli-triplets/dev.parquet")),
            "snli-triplets-dev"
        );
        assert_eq!(local_name(Path::new("own.csv")), "own");
        assert_eq!(local_name(Path::new("own/dev.jsonl.zst")), "own-dev");
        assert_eq!(local_name(Path::new("data/own-*.csv")), "own-");
    }
}

//! `sentune report`: one HTML page about a run, or about several side by side.

mod environment;
mod sample;

use std::path::{Path, PathBuf};

use anyhow::Context;
use report::{Page, Run, RunFiles, panels, terminal};
use tracing::subscriber::{NoSubscriber, with_default};
use train::{CONFIG, METRICS};

use crate::{
    commands::{
        report::{environment::environment, sample::Sampled},
        sweep::summary::PLOT,
        train::results::RESULTS,
    },
    config,
    flags::report::ReportFlags,
    output::replace,
    session::Session,
    usage::UsageError,
};

/// Name of the page in the folder of a run or a sweep.
pub(crate) const PAGE: &str = "report.html";
/// Name of the file with versions and machine of a training.
pub(crate) const ENVIRONMENT: &str = "environment.json";
/// Name of the file with the milliseconds of a step by part.
pub(crate) const PROFILE: &str = "profile.json";

/// Size of the plot of the loss on a terminal, in characters.
pub(crate) const PLOT_SIZE: (usize, usize) = (72, 8);

/// Rows of the test data that are encoded for a page at the end of a training.
const N_ROWS_AT_END: usize = 500;

/// Writes the page of the runs that the flags name.
pub(crate) fn run(flags: &ReportFlags, session: &Session) -> anyhow::Result<()> {
    let folders = run_folders(&flags.runs)?;
    let n_rows = if flags.no_embeddings {
        0
    } else {
        flags.max_samples
    };
    let (path, panels) = match flags.runs.as_slice() {
        [only] => (
            only.join(PAGE),
            fs_err::read_to_string(only.join(PLOT)).ok(),
        ),
        _ => (PathBuf::from(PAGE), None),
    };
    let path = flags.output.clone().unwrap_or(path);
    write(&path, &folders, panels, n_rows, session)
}

/// Writes the page of a finished training, or sweep, into its folder, and plots the loss of a training on a terminal. A
/// failure is only warned of: the models are there.
pub(crate) fn at_end(folder: &Path, session: &Session) {
    // The models and data have been announced before.
    let written = with_default(NoSubscriber::default(), || write_at_end(folder, session));
    let path = folder.join(PAGE);
    match written {
        Ok(()) => tracing::info!("the report is {}", path.display()),
        Err(error) => tracing::warn!(
            "no report was written: {error:#}; `sentune report {}` tries again",
            folder.display()
        ),
    }
}

fn write_at_end(folder: &Path, session: &Session) -> anyhow::Result<()> {
    if folder.join(CONFIG).exists() {
        let json = serde_json::to_string_pretty(&environment())? + "\n";
        replace(&folder.join(ENVIRONMENT), |file| {
            Ok(file.write_all(json.as_bytes())?)
        })?;
        let loss = read_run(folder)?.series("loss").points;
        if let Some(plot) = terminal::plot("loss by step", &loss, PLOT_SIZE.0, PLOT_SIZE.1) {
            session.talk.plot(&plot)?;
        }
    }
    let panels = fs_err::read_to_string(folder.join(PLOT)).ok();
    let folders = run_folders(&[folder.to_owned()])?;
    write(&folder.join(PAGE), &folders, panels, N_ROWS_AT_END, session)
}

/// Folders of runs: those that are named, and for the folder of a sweep those within it.
fn run_folders(named: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let is_run = |folder: &Path| folder.join(CONFIG).exists();
    let mut folders = Vec::new();
    for folder in named {
        if is_run(folder) {
            folders.push(folder.clone());
            continue;
        }
        let mut within = Vec::new();
        if folder.is_dir() {
            for entry in fs_err::read_dir(folder)? {
                within.push(entry?.path());
            }
        }
        within.retain(|folder| is_run(folder));
        if within.is_empty() {
            return Err(UsageError(format!(
                "{}: the folder of a run has a {CONFIG}, that of a sweep has folders of runs; it has neither",
                folder.display()
            ))
            .into());
        }
        within.sort();
        folders.append(&mut within);
    }
    Ok(folders)
}

/// Reads a run's files.
pub(crate) fn read_run(folder: &Path) -> anyhow::Result<Run> {
    let optional = |name: &str| match fs_err::read_to_string(folder.join(name)) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    let name = folder.file_name().unwrap_or(folder.as_os_str());
    let (config, metrics) = (optional(CONFIG)?, optional(METRICS)?);
    let (results, profile) = (optional(RESULTS)?, optional(PROFILE)?);
    let environment = optional(ENVIRONMENT)?;
    Ok(Run::parse(&RunFiles {
        name: &name.to_string_lossy(),
        config: config.as_deref().unwrap_or_default(),
        metrics: metrics.as_deref().unwrap_or_default(),
        results: results.as_deref(),
        profile: profile.as_deref(),
        environment: environment.as_deref(),
    })?)
}

/// Writes the page of these runs. With `n_rows` of the test data, the chosen run's models are compared on them.
fn write(
    path: &Path,
    folders: &[PathBuf],
    panels: Option<String>,
    n_rows: usize,
    session: &Session,
) -> anyhow::Result<()> {
    let runs = folders
        .iter()
        .map(|folder| read_run(folder).with_context(|| folder.display().to_string()))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let chosen = best(&runs);
    let folder = &folders[chosen];
    let config = runs[chosen].config.clone();
    let results = runs[chosen].results.as_ref();
    let rows_per_second =
        results.and_then(|results| results.train.get("train_samples_per_second")?.as_f64());
    let mut page = Page::new(runs);
    page.chosen = chosen;
    page.panels = panels.map(|svg| panels::without_style(&svg));
    page.version = env!("CARGO_PKG_VERSION").to_owned();
    page.command = format!(
        "sentune train --config {} --output-dir ANOTHER",
        folder.join(CONFIG).display()
    );
    let entries = environment().into_iter();
    page.environment = entries
        .map(|(name, value)| {
            (
                name,
                value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned),
            )
        })
        .collect();
    if n_rows == 0 {
        page.no_analysis = "Left out by --no-embeddings.".to_owned();
    } else {
        let sampled = config::resolve_table(config)
            .and_then(|flags| Sampled::new(folder, &flags, n_rows, rows_per_second, session));
        match sampled {
            Ok(sampled) => sampled.fill(&mut page),
            Err(error) if session.interrupt.is_set() => return Err(error),
            // The page is worth having without.
            Err(error) => page.no_analysis = format!("Not computed: {error:#}."),
        }
    }
    let html = page.html()?;
    replace(path, |file| Ok(file.write_all(html.as_bytes())?))
        .with_context(|| format!("writing {}", path.display()))?;
    tracing::info!("wrote {}, {} kB", path.display(), html.len().div_ceil(1000));
    Ok(())
}

/// The run with the best primary metric, else the first.
fn best(runs: &[Run]) -> usize {
    let value = |run: &Run| {
        let metric = run.results.as_ref()?.primary_metric.clone()?;
        Some(run.before_after(&metric)?.1)
    };
    let mut best = (0, f64::NEG_INFINITY);
    for (i, run) in runs.iter().enumerate() {
        if let Some(value) = value(run).filter(|value| *value > best.1) {
            best = (i, value);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_stands_for_its_runs() {
        let folder = std::env::temp_dir().join(format!("sentune-runs-{}", std::process::id()));
        for run in ["sweep/b", "sweep/a", "single"] {
            fs_err::create_dir_all(folder.join(run)).unwrap();
            fs_err::write(folder.join(run).join(CONFIG), "").unwrap();
        }
        fs_err::create_dir_all(folder.join("sweep/other")).unwrap();
        let named = ["single", "sweep"].map(|name| folder.join(name));
        let found = run_folders(&named).unwrap();
        assert_eq!(
            found,
            ["single", "sweep/a", "sweep/b"].map(|name| folder.join(name))
        );
        let error = run_folders(&[folder.join("sweep/other")]).unwrap_err();
        assert!(error.to_string().contains("it has neither"), "{error}");
        fs_err::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn the_best_run_is_chosen() {
        let run = |after: Option<f64>| {
            let results = after.map(|after| {
                format!(r#"{{"before":{{"m":0.5}},"after":{{"m":{after}}},"primary_metric":"m"}}"#)
            });
            Run::parse(&RunFiles {
                results: results.as_deref(),
                ..RunFiles::default()
            })
            .unwrap()
        };
        assert_eq!(
            best(&[run(None), run(Some(0.7)), run(Some(0.9)), run(Some(0.8))]),
            2
        );
        assert_eq!(best(&[run(None)]), 0);
    }
}

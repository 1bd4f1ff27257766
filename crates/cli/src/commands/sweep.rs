//! `sentune sweep`: a grid of training runs one after the other, with a table and a plot of their results.
//!
//! The runs share this process: they share the token cache and the signal handling anyway, and loading the program
//! again would gain nothing but that a crash of one leaves the others alone. A panic is caught for that; after the
//! system has ended the process, the same command goes on with the run it was at.

mod figures;
mod grid;
pub(crate) mod summary;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use train::{CONFIG, FINAL, RunFolder, write_file};
use wording::counted;

use crate::{
    commands::{
        report,
        sweep::{
            figures::Figures,
            grid::{Grid, Point, SweepFile, comparable, label},
            summary::{Record, Status, Summary},
        },
        train::{results::RESULTS, run_resolved},
    },
    config,
    flags::sweep::SweepFlags,
    interrupt::Interrupted,
    output::{print, print_json},
    session::Session,
    table::table,
    usage::UsageError,
};

/// Name of the copy of the sweep's own file.
const FILE: &str = "sweep.toml";

/// How far a run is, by its folder.
#[derive(Debug, Clone, PartialEq)]
enum State {
    New,
    /// Begun, with the step of its newest checkpoint where it has one.
    Begun(Option<u64>),
    Done(Box<Figures>),
}

/// Makes the runs that are not done, or lists all.
pub(crate) fn run(flags: &SweepFlags, session: &Session) -> anyhow::Result<()> {
    let text = fs_err::read_to_string(&flags.config)
        .map_err(|error| UsageError(format!("--config: {error}")))?;
    let of_file = || flags.config.display().to_string();
    let file = SweepFile::parse(&text).with_context(of_file)?;
    let output_dir = output_dir(flags, &file);
    let grid = file.grid(&output_dir).with_context(of_file)?;
    let states = grid
        .points
        .iter()
        .map(state)
        .collect::<anyhow::Result<Vec<_>>>()?;
    if flags.dry_run {
        return Ok(print(&list(&grid, &states))?);
    }
    let folder = RunFolder::create(&output_dir).context("--output-dir")?;
    write_file(&folder.root().join(FILE), text.as_bytes())?;
    let mut summary = Summary::new(&grid, flags.metric.clone());
    let n_done = states
        .iter()
        .filter(|state| matches!(state, State::Done(_)))
        .count();
    tracing::info!(
        "{} in {}, {n_done} of them done",
        counted(grid.points.len(), "runs"),
        output_dir.display()
    );
    let outcome = run_all(&grid, states, &mut summary, folder.root(), session);
    summary.write(folder.root())?;
    outcome?;
    drop(folder);
    report::at_end(&output_dir, session);
    if flags.json {
        print_json(&summary.to_json())?;
    } else {
        print(&summary.table()?)?;
    }
    match summary.n_failed() {
        0 => Ok(()),
        n => bail!(
            "{n} of {} failed: the same command tries them again",
            counted(grid.points.len(), "runs")
        ),
    }
}

/// Makes every run that is not done. Failures are recorded; only a signal ends it early.
fn run_all(
    grid: &Grid,
    states: Vec<State>,
    summary: &mut Summary,
    root: &Path,
    session: &Session,
) -> anyhow::Result<()> {
    let varied = grid.varied();
    for (i, (point, state)) in grid.points.iter().zip(states).enumerate() {
        let status = match state {
            State::Done(figures) => Status::Done(figures),
            state => {
                let values: Vec<String> = varied
                    .iter()
                    .map(|&key| format!("{} {}", label(&grid.keys[key]), point.values[key]))
                    .collect();
                tracing::info!(
                    "run {} of {}: {}",
                    i + 1,
                    grid.points.len(),
                    values.join(", ")
                );
                match run_one(point, &state, session) {
                    Ok(figures) => Status::Done(figures),
                    Err(error) if error.is::<Interrupted>() => {
                        tracing::warn!(
                            "stopped in run {} of {}: the same command goes on",
                            i + 1,
                            grid.points.len()
                        );
                        return Err(error);
                    }
                    Err(error) => {
                        tracing::error!("run {} failed: {error:#}", point.name);
                        Status::Failed(format!("{error:#}"))
                    }
                }
            }
        };
        summary.push(Record {
            name: point.name.clone(),
            values: point.values.clone(),
            status,
        });
        // The results so far are on disk after every run.
        summary.write(root)?;
        summary.check_metric()?;
        session.check()?;
    }
    Ok(())
}

fn run_one(point: &Point, state: &State, session: &Session) -> anyhow::Result<Box<Figures>> {
    let mut flags = point.flags.clone();
    match state {
        State::Begun(Some(_)) => flags.call.resume_from_checkpoint = Some("last".to_owned()),
        State::Begun(None) => flags.call.overwrite_output_dir = true,
        State::New | State::Done(_) => {}
    }
    match catch_unwind(AssertUnwindSafe(|| run_resolved(&flags, None, session))) {
        Ok(done) => drop(done?),
        Err(_) => bail!("it panicked: see above, and report it"),
    }
    Ok(Box::new(Figures::read(&folder_of(point)?.join(RESULTS))?))
}

fn folder_of(point: &Point) -> anyhow::Result<&Path> {
    let folder = point.flags.output_dir.as_deref();
    folder.context("a resolved configuration names its folder")
}

/// The state of a run, read from its folder.
///
/// # Errors
/// If it holds a run of another configuration.
fn state(point: &Point) -> anyhow::Result<State> {
    let folder = folder_of(point)?;
    let path = folder.join(CONFIG);
    if !path.exists() {
        return Ok(State::New);
    }
    let text = fs_err::read_to_string(&path)?;
    let table = text.parse().with_context(|| path.display().to_string())?;
    let was =
        comparable(&config::resolve_table(table).with_context(|| path.display().to_string())?)?;
    let is = comparable(&point.flags)?;
    if was != is {
        let mut keys: Vec<&String> = was.keys().chain(is.keys()).collect();
        keys.sort_unstable();
        keys.dedup();
        let shown = |table: &toml::Table, key: &str| {
            table
                .get(key)
                .map_or_else(|| "not set".to_owned(), ToString::to_string)
        };
        let differences: Vec<String> = keys
            .into_iter()
            .filter(|key| was.get(*key) != is.get(*key))
            .map(|key| format!("{key} was {} and is {}", shown(&was, key), shown(&is, key)))
            .collect();
        return Err(UsageError(format!(
            "{} holds a run of another configuration: {}; give the sweep another --output-dir, or remove that folder",
            folder.display(),
            differences.join(", ")
        ))
        .into());
    }
    let results = folder.join(RESULTS);
    if results.exists() && folder.join(FINAL).exists() {
        return Ok(State::Done(Box::new(Figures::read(&results)?)));
    }
    let mut steps: Vec<u64> = Vec::new();
    for entry in fs_err::read_dir(folder)? {
        let name = entry?.file_name();
        let step = name
            .to_str()
            .and_then(|name| name.strip_prefix("checkpoint-"));
        steps.extend(step.and_then(|step| step.parse::<u64>().ok()));
    }
    Ok(State::Begun(steps.into_iter().max()))
}

fn output_dir(flags: &SweepFlags, file: &SweepFile) -> PathBuf {
    let named = flags.output_dir.clone().or_else(|| file.output_dir.clone());
    named.unwrap_or_else(|| {
        let stem = flags.config.file_stem().unwrap_or_default();
        Path::new("runs").join(stem)
    })
}

/// The runs and how far each is.
fn list(grid: &Grid, states: &[State]) -> String {
    let rows: Vec<Vec<String>> = grid
        .points
        .iter()
        .zip(states)
        .map(|(point, state)| {
            let state = match state {
                State::New => "new".to_owned(),
                State::Begun(Some(step)) => format!("at step {step}"),
                State::Begun(None) => "begun".to_owned(),
                State::Done(_) => "done".to_owned(),
            };
            vec![point.name.clone(), state]
        })
        .collect();
    table(&[&counted(rows.len(), "runs"), "state"], &rows)
}

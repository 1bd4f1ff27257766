//! `sentune watch`: the log of a run, followed from its folder.

use std::{
    io::{IsTerminal, stdout},
    thread::sleep,
    time::{Duration, Instant},
};

use report::{Run, terminal};
use serde_json::{Map, Value};
use train::CONFIG;

use crate::{
    commands::report::{PLOT_SIZE, read_run},
    flags::report::WatchFlags,
    output::print,
    session::Session,
    usage::UsageError,
};

/// Longest time between two looks for a signal.
const TICK: Duration = Duration::from_millis(100);

/// Clears a terminal and goes to its corner.
const CLEAR: &str = "\u{1b}[2J\u{1b}[H";

/// Prints the run's entries as they come, until the run is finished. A terminal shows them with a plot, redrawn.
pub(crate) fn run(flags: &WatchFlags, session: &Session) -> anyhow::Result<()> {
    if !flags.run.join(CONFIG).exists() {
        return Err(UsageError(format!(
            "{}: not the folder of a run: there is no {CONFIG} in it",
            flags.run.display()
        ))
        .into());
    }
    let interval = Duration::try_from_secs_f64(flags.interval)
        .map_err(|error| UsageError(format!("--interval: {error}")))?;
    let is_redrawn = stdout().is_terminal() && !flags.once;
    let mut n_printed = 0;
    loop {
        let run = read_run(&flags.run)?;
        if is_redrawn {
            print(&format!("{CLEAR}{}", screen(&run)))?;
        } else if flags.once {
            print(&screen(&run))?;
        } else {
            let new: Vec<String> = run.log.iter().skip(n_printed).map(line).collect();
            n_printed = run.log.len();
            print(&new.concat())?;
        }
        if run.results.is_some() || flags.once {
            return Ok(());
        }
        let start = Instant::now();
        while start.elapsed() < interval {
            session.check()?;
            sleep(TICK.min(interval));
        }
    }
}

/// The plot of the loss, the last entries and the results.
fn screen(run: &Run) -> String {
    let loss = run.series("loss").points;
    let mut text = format!("{}\n", run.name);
    text += &terminal::plot("loss by step", &loss, PLOT_SIZE.0, PLOT_SIZE.1).unwrap_or_default();
    let last = |key: &str| run.log.iter().rfind(|entry| entry.contains_key(key));
    for entry in ["loss", "eval_loss"].into_iter().filter_map(last) {
        text += &line(entry);
    }
    match &run.results {
        Some(results) => {
            text += "finished";
            if let Some((key, (before, after))) = results
                .primary_metric
                .as_ref()
                .and_then(|key| Some((key, run.before_after(key)?)))
            {
                text += &format!(": {key} {before:.4} before, {after:.4} after");
            }
            text.push('\n');
        }
        None if run.log.is_empty() => text += "no entry yet\n",
        None => {}
    }
    text
}

/// An entry: its step, then its numbers.
fn line(entry: &Map<String, Value>) -> String {
    let number = |value: &Value| match value.as_f64() {
        Some(number) => report::chart::number(number),
        None => value.to_string(),
    };
    let step = entry.get("step").map(number).unwrap_or_default();
    let rest: Vec<String> = entry
        .iter()
        .filter(|(key, _)| *key != "step")
        .map(|(key, value)| format!("{key} {}", number(value)))
        .collect();
    format!("step {step}: {}\n", rest.join(", "))
}

#[cfg(test)]
mod tests {
    use report::RunFiles;

    use super::*;

    #[test]
    fn a_screen_has_the_plot_and_the_last_entries() {
        let run = Run::parse(&RunFiles {
            name: "first-run",
            metrics: "{\"loss\":2.0,\"step\":5}\n{\"loss\":1.0,\"step\":10}\n{\"eval_loss\":0.5,\"step\":10}\n",
            results: Some(r#"{"before":{"m":0.5},"after":{"m":0.75},"primary_metric":"m"}"#),
            ..RunFiles::default()
        })
        .unwrap();
        let text = screen(&run);
        assert!(text.starts_with("first-run\nloss by step\n"), "{text}");
        let end =
            "step 10: loss 1\nstep 10: eval_loss 0.5000\nfinished: m 0.5000 before, 0.7500 after\n";
        assert!(text.ends_with(end), "{text}");
    }
}

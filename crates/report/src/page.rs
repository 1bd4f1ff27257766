//! The HTML page.

use std::collections::BTreeSet;

use minijinja::{AutoEscape, Environment, value::Serde};
use serde::Serialize;
use serde_json::Value;
use wording::counted;

use crate::{
    analysis::Analysis,
    chart::{self, Chart, Series, number},
    error::ReportError,
    run::Run,
    table::Table,
};

const TEMPLATE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/script.js");

/// Points of one chart's curves, which bounds the size of the page.
const N_POINTS: usize = 1200;

/// A metric before and after training.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// Key of the metric.
    pub key: String,
    /// Before training.
    pub before: f64,
    /// After training.
    pub after: f64,
    /// 95 % interval of the difference, from resampled rows.
    pub interval: Option<(f64, f64)>,
}

/// The content of a page. The fields that are public have to be filled by the caller, or stay empty.
#[derive(Debug, Clone, Default)]
pub struct Page {
    runs: Vec<Run>,
    /// Place of the run that metrics, analysis, data and configuration belong to.
    pub chosen: usize,
    /// Metrics before and after; from the chosen run's results if empty.
    pub differences: Vec<Difference>,
    /// Origin of the intervals, such as the number of rows.
    pub intervals_note: String,
    /// Results from the embeddings before and after training.
    pub analysis: Option<Analysis>,
    /// Reason why there is no analysis.
    pub no_analysis: String,
    /// Statistics of the data.
    pub data: Vec<Table>,
    /// Further figures about speed: name and value.
    pub speed: Vec<(String, String)>,
    /// Versions and machine: name and value.
    pub environment: Vec<(String, String)>,
    /// Drawing of what a sweep's results depend on.
    pub panels: Option<String>,
    /// Command that repeats the chosen run.
    pub command: String,
    /// Version of the program.
    pub version: String,
}

/// The template's variables.
#[derive(Debug, Serialize)]
struct Content<'a> {
    title: &'a str,
    style: &'a str,
    script: &'a str,
    summary: Option<String>,
    chosen: Option<&'a str>,
    n_runs: usize,
    is_finished: bool,
    cards: Vec<Card>,
    metrics: Option<Table>,
    intervals_note: &'a str,
    curves: Vec<Chart>,
    runs: Option<Table>,
    panels: Option<&'a str>,
    analysis: Option<&'a Analysis>,
    no_analysis: &'a str,
    data: &'a [Table],
    speed: Vec<Table>,
    environment: Option<Table>,
    command: &'a str,
    config: Option<&'a str>,
    version: &'a str,
}

/// A figure at the top of the page.
#[derive(Debug, Serialize)]
struct Card {
    name: String,
    value: String,
    remark: String,
}

impl Page {
    /// A page about these runs, the first of which is the chosen one.
    pub fn new(runs: Vec<Run>) -> Self {
        Self {
            runs,
            ..Self::default()
        }
    }

    /// The page.
    ///
    /// # Errors
    /// If the template cannot be rendered.
    pub fn html(&self) -> Result<String, ReportError> {
        let mut environment = Environment::new();
        environment.set_auto_escape_callback(|_| AutoEscape::Html);
        environment.add_template("page", TEMPLATE)?;
        let template = environment.get_template("page")?;
        let run = self.runs.get(self.chosen);
        let names: Vec<&str> = self.runs.iter().map(|run| run.name.as_str()).collect();
        let title = match names.as_slice() {
            [only] => (*only).to_owned(),
            names => format!("{} runs", names.len()),
        };
        Ok(template.render(Serde(Content {
            title: &title,
            style: STYLE,
            script: SCRIPT,
            summary: run.map(summary),
            chosen: run.map(|run| run.name.as_str()),
            n_runs: self.runs.len(),
            is_finished: run.is_some_and(|run| run.results.is_some()),
            cards: run.map(|run| self.cards(run)).unwrap_or_default(),
            metrics: self.metrics(),
            intervals_note: &self.intervals_note,
            curves: self.curves(),
            runs: (self.runs.len() > 1).then(|| self.runs_table()),
            panels: self.panels.as_deref(),
            analysis: self.analysis.as_ref(),
            no_analysis: &self.no_analysis,
            data: &self.data,
            speed: self.speed_tables(),
            environment: self.environment_table(),
            command: &self.command,
            config: run.map(|run| run.config_text.as_str()),
            version: &self.version,
        }))?)
    }

    /// Metrics before and after that the chosen run recorded.
    pub fn recorded_differences(&self) -> Vec<Difference> {
        let run = self.runs.get(self.chosen);
        let results = run.and_then(|run| run.results.as_ref());
        let keys = results.map(|results| results.before.keys().cloned().collect::<Vec<_>>());
        let of = |key: String| {
            let (before, after) = run?.before_after(&key)?;
            Some(Difference {
                key,
                before,
                after,
                interval: None,
            })
        };
        keys.unwrap_or_default()
            .into_iter()
            .filter_map(of)
            .collect()
    }

    /// Metrics before and after, with intervals where there are any.
    fn all_differences(&self) -> Vec<Difference> {
        match self.differences.as_slice() {
            [] => self.recorded_differences(),
            given => given.to_vec(),
        }
    }

    fn metrics(&self) -> Option<Table> {
        let differences = self.all_differences();
        let has_intervals = differences.iter().any(|d| d.interval.is_some());
        let mut header = vec!["metric", "before", "after", "change"];
        if has_intervals {
            header.push("95 % interval");
        }
        let mut table = Table::new("", &header);
        for difference in &differences {
            let mut row = vec![
                difference.key.clone(),
                format!("{:.4}", difference.before),
                format!("{:.4}", difference.after),
                format!("{:+.4}", difference.after - difference.before),
            ];
            if has_intervals {
                row.push(difference.interval.map_or_else(String::new, |(low, high)| {
                    format!("{low:+.4} to {high:+.4}")
                }));
            }
            table.push(row);
        }
        (!differences.is_empty()).then(|| table.finished())
    }

    fn cards(&self, run: &Run) -> Vec<Card> {
        let mut cards = Vec::new();
        let Some(results) = &run.results else {
            cards.push(Card {
                name: "state".to_owned(),
                value: "unfinished".to_owned(),
                remark: "the run has no results yet".to_owned(),
            });
            return cards;
        };
        let differences = self.all_differences();
        let primary = results.primary_metric.as_deref();
        if let Some(found) = differences.iter().find(|d| Some(d.key.as_str()) == primary) {
            cards.push(Card {
                name: found.key.clone(),
                value: format!("{:.4} → {:.4}", found.before, found.after),
                remark: format!("{:+.4}", found.after - found.before),
            });
        }
        let train = |key: &str| results.train.get(key).and_then(Value::as_f64);
        if let Some(loss) = train("train_loss") {
            cards.push(Card {
                name: "mean training loss".to_owned(),
                value: format!("{loss:.4}"),
                remark: train("step").map_or_else(String::new, |n| counted(n as usize, "steps")),
            });
        }
        if let Some(seconds) = train("train_runtime") {
            let speed = train("train_samples_per_second");
            cards.push(Card {
                name: "training time".to_owned(),
                value: duration(seconds),
                remark: speed.map_or_else(String::new, |n| format!("{} rows/s", number(n))),
            });
        }
        cards
    }

    /// Loss, gradient norm, learning rate, then every metric of evaluations.
    fn curves(&self) -> Vec<Chart> {
        let mut keys = vec!["loss", "eval_loss", "grad_norm", "learning_rate"];
        for key in self.runs.iter().flat_map(Run::evaluation_keys) {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        let chart = |key: &str| {
            let title = match key {
                "loss" => "Training loss",
                "eval_loss" => "Evaluation loss",
                "grad_norm" => "Gradient norm before clipping",
                "learning_rate" => "Learning rate",
                other => other.strip_prefix("eval_").unwrap_or(other),
            };
            let series: Vec<Series> = self
                .runs
                .iter()
                .map(|run| run.series(key))
                .filter(|series| !series.points.is_empty())
                .collect();
            chart::lines(title, "step", &series, N_POINTS)
        };
        keys.into_iter().filter_map(chart).collect()
    }

    /// Results of every run and settings that differ, the best run first.
    fn runs_table(&self) -> Table {
        let keys: BTreeSet<&String> = self.runs.iter().flat_map(|run| run.config.keys()).collect();
        let differing: Vec<&str> = keys
            .into_iter()
            .map(String::as_str)
            .filter(|key| !["output-dir", "train-data", "eval-data", "test-data"].contains(key))
            .filter(|key| {
                let values = self.runs.iter().map(|run| setting(run, key));
                values.collect::<BTreeSet<_>>().len() > 1
            })
            .collect();
        let metric = self
            .runs
            .iter()
            .find_map(|run| run.results.as_ref()?.primary_metric.clone());
        // Figures come before settings, which a wide table may leave out of view.
        let mut header = vec!["run"];
        let before = metric.as_ref().map(|metric| format!("{metric} before"));
        if let Some(before) = &before {
            header.extend([before.as_str(), "after", "change"]);
        }
        header.extend(["training loss", "seconds"]);
        header.extend(&differing);
        let mut table = Table::new("", &header);
        let found = |run: &Run| run.before_after(metric.as_deref()?);
        let mut runs: Vec<&Run> = self.runs.iter().collect();
        let after = |run: &Run| found(run).map_or(f64::NEG_INFINITY, |(_, after)| after);
        runs.sort_by(|a, b| after(b).total_cmp(&after(a)));
        for run in runs {
            let mut row = vec![run.name.clone()];
            if metric.is_some() {
                row.extend(found(run).map_or_else(Default::default, |(before, after)| {
                    [
                        format!("{before:.4}"),
                        format!("{after:.4}"),
                        format!("{:+.4}", after - before),
                    ]
                }));
            }
            let train = |key: &str| {
                let results = run.results.as_ref();
                results.and_then(|results| results.train.get(key)?.as_f64())
            };
            row.push(train("train_loss").map_or_else(String::new, |loss| format!("{loss:.4}")));
            row.push(train("train_runtime").map_or_else(String::new, |s| format!("{s:.1}")));
            row.extend(differing.iter().map(|key| setting(run, key)));
            table.push(row);
        }
        table.finished()
    }

    fn speed_tables(&self) -> Vec<Table> {
        let Some(run) = self.runs.get(self.chosen) else {
            return Vec::new();
        };
        let mut tables = Vec::new();
        let mut whole = Table::new("Training", &["figure", "value"]);
        let train = run.results.as_ref().map(|results| &results.train);
        for (key, name) in [
            ("train_runtime", "seconds"),
            ("train_samples_per_second", "rows per second"),
            ("train_steps_per_second", "steps per second"),
        ] {
            if let Some(value) = train.and_then(|train| train.get(key)?.as_f64()) {
                whole.push(vec![name.to_owned(), number(value)]);
            }
        }
        for (name, value) in &self.speed {
            whole.push(vec![name.clone(), value.clone()]);
        }
        if !whole.rows.is_empty() {
            tables.push(whole.finished());
        }
        if let Some(profile) = &run.profile {
            let parts = profile.get("parts").and_then(Value::as_object);
            let parts: Vec<(&String, f64)> = parts
                .into_iter()
                .flatten()
                .filter_map(|(name, value)| Some((name, value.as_f64()?)))
                .collect();
            let total: f64 = parts.iter().map(|part| part.1).sum();
            let caption = format!("A step by part, {} ms in all", number(total));
            let mut table = Table::new(caption, &["part", "ms", "share"]);
            for (name, ms) in parts {
                let share = 100.0 * ms / total;
                table.push(vec![
                    name.clone(),
                    format!("{ms:.2}"),
                    format!("{share:.1} %"),
                ]);
            }
            tables.push(table.finished());
        }
        tables
    }

    /// The environment of the run if it was recorded, else that of the report.
    fn environment_table(&self) -> Option<Table> {
        let recorded = self.runs.get(self.chosen)?.environment.as_ref();
        let mut table = match recorded {
            Some(_) => Table::new("Environment of the training", &["fact", "value"]),
            None => Table::new("Environment of this report", &["fact", "value"]),
        };
        match recorded {
            Some(recorded) => {
                let text = |value: &Value| {
                    value
                        .as_str()
                        .map_or_else(|| value.to_string(), str::to_owned)
                };
                for (name, value) in recorded {
                    table.push(vec![name.clone(), text(value)]);
                }
            }
            None => {
                for (name, value) in &self.environment {
                    table.push(vec![name.clone(), value.clone()]);
                }
            }
        }
        (!table.rows.is_empty()).then(|| table.finished())
    }
}

/// Model, data and loss of a run in a line.
fn summary(run: &Run) -> String {
    let last = |text: String| {
        let end = text.trim_end_matches('/');
        end.rsplit('/').next().unwrap_or(end).to_owned()
    };
    let mut parts = Vec::new();
    if let Some(model) = run.setting("model") {
        parts.push(last(model));
    }
    match run.config.get("train-data") {
        Some(toml::Value::String(data)) => parts.push(format!("trained on {}", last(data.clone()))),
        Some(toml::Value::Array(sets)) => {
            parts.push(format!("trained on {} data sets", sets.len()))
        }
        _ => {}
    }
    if let Some(loss) = loss_name(&run.config) {
        parts.push(format!("with {loss}"));
    }
    parts.join(" ")
}

fn loss_name(config: &toml::Table) -> Option<&str> {
    match config.get("loss")? {
        toml::Value::String(name) => Some(name),
        toml::Value::Table(loss) => loss.get("name")?.as_str(),
        _ => None,
    }
}

/// A setting in a table of runs; a loss by its name and parameters.
fn setting(run: &Run, key: &str) -> String {
    match (key, run.config.get("loss")) {
        ("loss", Some(toml::Value::Table(loss))) => {
            let mut text = loss_name(&run.config).unwrap_or_default().to_owned();
            let parameters: Vec<String> = loss
                .iter()
                .filter(|(key, _)| *key != "name")
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            if !parameters.is_empty() {
                text += &format!(":{}", parameters.join(","));
            }
            text
        }
        _ => run.setting(key).unwrap_or_default(),
    }
}

fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, 0, _) => format!("{seconds:.1} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

//! The results of a sweep: a table, the same as CSV and JSON, and a plot.

use std::path::Path;

use report::panels::{self, Dot, Panel, Plot};
use serde_json::{Map, Value, json};
use train::write_file;

use crate::{
    commands::sweep::{
        figures::Figures,
        grid::{Grid, label},
    },
    table::table,
    usage::UsageError,
};

const CSV: &str = "sweep.csv";
const JSON: &str = "sweep.json";
/// Name of the plot.
pub(crate) const PLOT: &str = "sweep.svg";

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Status {
    Done(Box<Figures>),
    Failed(String),
}

/// One run and how it ended.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Record {
    pub(super) name: String,
    /// The values of the grid's keys.
    pub(super) values: Vec<String>,
    pub(super) status: Status,
}

/// The runs so far.
#[derive(Debug)]
pub(super) struct Summary {
    keys: Vec<String>,
    /// The places of the keys that vary.
    varied: Vec<usize>,
    /// The value of `--metric`.
    metric: Option<String>,
    n_runs: usize,
    records: Vec<Record>,
}

impl Record {
    fn figures(&self) -> Option<&Figures> {
        match &self.status {
            Status::Done(figures) => Some(figures),
            Status::Failed(_) => None,
        }
    }
}

impl Summary {
    pub(super) fn new(grid: &Grid, metric: Option<String>) -> Self {
        let varied = match grid.varied() {
            none if none.is_empty() => (0..grid.keys.len()).collect(),
            varied => varied,
        };
        Self {
            keys: grid.keys.clone(),
            varied,
            metric,
            n_runs: grid.points.len(),
            records: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, record: Record) {
        self.records.push(record);
    }

    pub(super) fn n_failed(&self) -> usize {
        self.records
            .iter()
            .filter(|record| record.figures().is_none())
            .count()
    }

    /// The metric that runs are compared by.
    ///
    /// # Errors
    /// When the runs have none of the name that was asked for.
    fn key(&self) -> Result<Option<&str>, UsageError> {
        let Some(figures) = self.records.iter().find_map(Record::figures) else {
            return Ok(None);
        };
        let found = figures.key(self.metric.as_deref());
        found.map(Some).ok_or_else(|| {
            let known: Vec<&str> = figures.after.keys().map(String::as_str).collect();
            UsageError(format!(
                "--metric {}: the runs measured {}",
                self.metric.as_deref().unwrap_or_default(),
                known.join(", ")
            ))
        })
    }

    /// Checks that the runs so far have the metric that was asked for.
    ///
    /// # Errors
    /// With those that they have.
    pub(super) fn check_metric(&self) -> Result<(), UsageError> {
        self.key().map(drop)
    }

    /// The records, the best first; those that failed come last, in the order of the grid.
    fn sorted(&self, key: Option<&str>) -> Vec<&Record> {
        let value = |record: &Record| -> f64 {
            let figures = record.figures().zip(key);
            let value = figures.and_then(|(figures, key)| figures.after.get(key)?.as_f64());
            value.unwrap_or(f64::NEG_INFINITY)
        };
        let mut records: Vec<&Record> = self.records.iter().collect();
        records.sort_by(|a, b| value(b).total_cmp(&value(a)));
        records
    }

    /// The table for people.
    pub(super) fn table(&self) -> Result<String, UsageError> {
        let key = self.key()?;
        let name = key.unwrap_or("metric");
        let mut header: Vec<&str> = self.varied.iter().map(|&i| label(&self.keys[i])).collect();
        let before = format!("{name} before");
        header.extend([before.as_str(), "after", "change", "train loss", "seconds"]);
        let rows = self.sorted(key).into_iter().map(|record| {
            let mut row: Vec<String> = self
                .varied
                .iter()
                .map(|&i| record.values[i].clone())
                .collect();
            let Some((figures, key)) = record.figures().zip(key) else {
                row.extend(["", "failed", "", "", ""].map(str::to_owned));
                return row;
            };
            let number = |of: &Map<String, Value>, key: &str| of.get(key).and_then(Value::as_f64);
            let shown = |value: Option<f64>, show: &dyn Fn(f64) -> String| {
                value.map_or_else(String::new, show)
            };
            let four = |value: f64| format!("{value:.4}");
            let (before, after) = (number(&figures.before, key), number(&figures.after, key));
            row.push(shown(before, &four));
            row.push(shown(after, &four));
            row.push(shown(after.zip(before).map(|(a, b)| a - b), &|change| {
                format!("{change:+.4}")
            }));
            row.push(shown(number(&figures.train, "train_loss"), &four));
            row.push(shown(figures.seconds(), &|seconds| format!("{seconds:.1}")));
            row
        });
        Ok(table(&header, &rows.collect::<Vec<_>>()))
    }

    /// Everything, for programs; in the order of the table.
    pub(super) fn to_json(&self) -> Value {
        let key = self.key().ok().flatten();
        let runs = self.sorted(key).into_iter().map(|record| {
            let values = self.keys.iter().zip(&record.values);
            let values: Map<String, Value> = values
                .map(|(key, value)| (key.clone(), json!(value)))
                .collect();
            match &record.status {
                Status::Done(figures) => json!({
                    "folder": record.name,
                    "values": values,
                    "status": "done",
                    "before": figures.before,
                    "after": figures.after,
                    "train": figures.train,
                    "seconds": figures.seconds(),
                }),
                Status::Failed(error) => json!({
                    "folder": record.name,
                    "values": values,
                    "status": "failed",
                    "error": error,
                }),
            }
        });
        json!({"metric": key, "n_runs": self.n_runs, "runs": runs.collect::<Vec<_>>()})
    }

    /// A header, and a line for each run in the order of the table.
    fn to_csv(&self) -> String {
        let key = self.key().ok().flatten();
        let records = self.sorted(key);
        let metrics: Vec<&String> = records
            .iter()
            .find_map(|record| record.figures())
            .map(|figures| figures.after.keys().collect())
            .unwrap_or_default();
        let mut header = self.keys.clone();
        header.push("status".to_owned());
        for metric in &metrics {
            header.extend([format!("before_{metric}"), format!("after_{metric}")]);
        }
        header.extend(["train_loss", "seconds", "folder"].map(str::to_owned));
        let mut csv = line(&header);
        for record in records {
            let mut row = record.values.clone();
            let figures = record.figures();
            row.push(if figures.is_some() { "done" } else { "failed" }.to_owned());
            let number = |of: fn(&Figures) -> &Map<String, Value>, key: &str| {
                let value = figures.and_then(|figures| of(figures).get(key));
                value.map_or_else(String::new, ToString::to_string)
            };
            for metric in &metrics {
                row.push(number(|figures| &figures.before, metric));
                row.push(number(|figures| &figures.after, metric));
            }
            row.push(number(|figures| &figures.train, "train_loss"));
            let seconds = figures.and_then(Figures::seconds);
            row.push(seconds.map_or_else(String::new, |seconds| seconds.to_string()));
            row.push(record.name.clone());
            csv += &line(&row);
        }
        csv
    }

    /// The metric against each key that varies, a panel each.
    fn plot(&self) -> Option<String> {
        let key = self.key().ok().flatten()?;
        let done: Vec<(&Record, f64)> = self
            .records
            .iter()
            .filter_map(|record| Some((record, record.figures()?.after.get(key)?.as_f64()?)))
            .collect();
        let before = self.records.iter().find_map(Record::figures);
        let before = before.and_then(|figures| figures.before.get(key)?.as_f64());
        let panels = self.varied.iter().map(|&i| Panel {
            title: label(&self.keys[i]).to_owned(),
            dots: done
                .iter()
                .map(|(record, value)| Dot {
                    at: record.values[i].clone(),
                    value: *value,
                })
                .collect(),
        });
        panels::svg(&Plot {
            metric: key.to_owned(),
            before,
            n_runs: done.len(),
            panels: panels.collect(),
        })
    }

    /// Writes table, JSON and plot into the sweep's folder.
    ///
    /// # Errors
    /// When a file can't be written.
    pub(super) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        write_file(&folder.join(CSV), self.to_csv().as_bytes())?;
        let json = serde_json::to_string_pretty(&self.to_json())? + "\n";
        write_file(&folder.join(JSON), json.as_bytes())?;
        if let Some(plot) = self.plot() {
            write_file(&folder.join(PLOT), plot.as_bytes())?;
        }
        Ok(())
    }
}

/// A line of CSV.
fn line(cells: &[String]) -> String {
    let quoted: Vec<String> = cells
        .iter()
        .map(|cell| {
            if cell.contains([',', '"', '\n', '\r']) {
                format!("\"{}\"", cell.replace('"', "\"\""))
            } else {
                cell.clone()
            }
        })
        .collect();
    quoted.join(",") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(after: f64, seconds: f64, steps_per_second: f64) -> Figures {
        let metrics = |value: f64| {
            let metrics = json!({"t_cosine_accuracy": value, "t_max_accuracy": 1.0 - value});
            metrics.as_object().unwrap().clone()
        };
        let train = json!({
            "train_runtime": seconds, "train_steps_per_second": steps_per_second, "train_loss": 0.5, "step": 100,
        });
        Figures {
            before: metrics(0.25),
            after: metrics(after),
            primary_metric: "t_cosine_accuracy".to_owned(),
            train: train.as_object().unwrap().clone(),
        }
    }

    fn summary(metric: Option<&str>) -> Summary {
        let record = |name: &str, loss: &str, status| Record {
            name: name.to_owned(),
            values: vec!["2e-5".to_owned(), loss.to_owned()],
            status,
        };
        Summary {
            keys: vec!["learning-rate".to_owned(), "loss".to_owned()],
            varied: vec![1],
            metric: metric.map(str::to_owned),
            n_runs: 4,
            records: vec![
                record("a", "triplet", Status::Failed("no, \"not\" so".to_owned())),
                record(
                    "b",
                    "mnrl:a=1,b=2",
                    Status::Done(Box::new(figures(0.5, 10.0, 10.0))),
                ),
                record(
                    "c",
                    "cosent",
                    Status::Done(Box::new(figures(0.75, 5.0, 10.0))),
                ),
            ],
        }
    }

    #[test]
    fn the_best_run_comes_first() {
        assert_eq!(
            summary(None).table().unwrap(),
            "loss          t_cosine_accuracy before   after   change  train loss  seconds\n\
             ----------------------------------------------------------------------------\n\
             cosent                          0.2500  0.7500  +0.5000      0.5000     10.0\n\
             mnrl:a=1,b=2                    0.2500  0.5000  +0.2500      0.5000     10.0\n\
             triplet                                 failed\n"
        );
        let by_other = summary(Some("max_accuracy"));
        let json = by_other.to_json();
        assert_eq!(json["metric"], "t_max_accuracy");
        let folders: Vec<&str> = json["runs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|run| run["folder"].as_str().unwrap())
            .collect();
        assert_eq!(folders, ["b", "c", "a"]);
        assert_eq!(json["runs"][2]["error"], "no, \"not\" so");
        let error = summary(Some("dot")).table().unwrap_err().to_string();
        assert!(
            error.contains("t_cosine_accuracy, t_max_accuracy"),
            "{error}"
        );
    }

    #[test]
    fn csv_has_every_metric() {
        assert_eq!(
            summary(None).to_csv(),
            "learning-rate,loss,status,before_t_cosine_accuracy,after_t_cosine_accuracy,before_t_max_accuracy,after_t_max_accuracy,train_loss,seconds,folder\n\
             2e-5,cosent,done,0.25,0.75,0.75,0.25,0.5,10,c\n\
             2e-5,\"mnrl:a=1,b=2\",done,0.25,0.5,0.75,0.5,0.5,10,b\n\
             2e-5,triplet,failed,,,,,,,a\n"
        );
    }
}

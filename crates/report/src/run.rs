//! The files of a run, parsed.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{chart::Series, error::ReportError};

/// Texts of the files that a run leaves in its folder.
#[derive(Debug, Clone, Copy, Default)]
pub struct RunFiles<'a> {
    /// Name of the run, by which the page calls it.
    pub name: &'a str,
    /// `config.toml`.
    pub config: &'a str,
    /// `metrics.jsonl`. A last line without a newline is still being written, and is ignored.
    pub metrics: &'a str,
    /// `results.json`, which a finished run has.
    pub results: Option<&'a str>,
    /// `profile.json`: milliseconds of a step by part.
    pub profile: Option<&'a str>,
    /// `environment.json`: versions and machine.
    pub environment: Option<&'a str>,
}

/// Results of a finished run.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Results {
    /// Metrics before training, empty without test data.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub before: Map<String, Value>,
    /// Metrics after training.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub after: Map<String, Value>,
    /// Key of the evaluator's primary metric.
    pub primary_metric: Option<String>,
    /// Seconds, speeds and mean loss of the training.
    #[serde(default)]
    pub train: Map<String, Value>,
}

fn null_as_empty<'de, D: serde::Deserializer<'de>>(
    from: D,
) -> Result<Map<String, Value>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// A run.
#[derive(Debug, Clone)]
pub struct Run {
    /// Name of the run.
    pub name: String,
    /// Resolved configuration.
    pub config: toml::Table,
    /// `config.toml` as it is.
    pub config_text: String,
    /// Log entries, in order.
    pub log: Vec<Map<String, Value>>,
    /// Results, if the run is finished.
    pub results: Option<Results>,
    /// Milliseconds of a step by part.
    pub profile: Option<Map<String, Value>>,
    /// Versions and machine.
    pub environment: Option<Map<String, Value>>,
}

impl Run {
    /// Parses a run's files.
    ///
    /// # Errors
    /// If a file does not have the expected content.
    pub fn parse(files: &RunFiles<'_>) -> Result<Self, ReportError> {
        let error = |file, problem: &dyn std::fmt::Display| ReportError::File {
            run: files.name.to_owned(),
            file,
            problem: problem.to_string(),
        };
        let json = |file: &'static str, text: Option<&str>| -> Result<Option<Map<_, _>>, _> {
            text.map(|text| serde_json::from_str(text).map_err(|problem| error(file, &problem)))
                .transpose()
        };
        let results = files.results.map(|text| {
            serde_json::from_str(text).map_err(|problem| error("results.json", &problem))
        });
        Ok(Self {
            name: files.name.to_owned(),
            config: files
                .config
                .parse()
                .map_err(|problem| error("config.toml", &problem))?,
            config_text: files.config.to_owned(),
            log: log_entries(files.metrics).map_err(|problem| error("metrics.jsonl", &problem))?,
            results: results.transpose()?,
            profile: json("profile.json", files.profile)?,
            environment: json("environment.json", files.environment)?,
        })
    }

    /// Value of a metric by step, of the entries that have it as a finite number.
    pub fn series(&self, key: &str) -> Series {
        let point = |entry: &Map<String, Value>| {
            let (x, y) = (entry.get("step")?.as_f64()?, entry.get(key)?.as_f64()?);
            y.is_finite().then_some((x, y))
        };
        Series {
            name: self.name.clone(),
            points: self.log.iter().filter_map(point).collect(),
        }
    }

    /// Keys of evaluation metrics, in the order of their appearance, without those about time.
    pub fn evaluation_keys(&self) -> Vec<&str> {
        let mut keys = Vec::new();
        for key in self.log.iter().flat_map(Map::keys) {
            let is_time = key.ends_with("_runtime") || key.ends_with("_per_second");
            if key.starts_with("eval_") && !is_time && !keys.contains(&key.as_str()) {
                keys.push(key.as_str());
            }
        }
        keys
    }

    /// Value of a setting as the configuration has it.
    pub fn setting(&self, key: &str) -> Option<String> {
        let value = self.config.get(key)?;
        Some(match value {
            toml::Value::String(text) => text.clone(),
            toml::Value::Float(number) => short_number(*number),
            other => other.to_string(),
        })
    }

    /// Metric before and after training.
    pub fn before_after(&self, key: &str) -> Option<(f64, f64)> {
        let results = self.results.as_ref()?;
        let number = |of: &Map<String, Value>| of.get(key).and_then(Value::as_f64);
        Some((number(&results.before)?, number(&results.after)?))
    }
}

/// The entries of `metrics.jsonl`.
///
/// # Errors
/// If a complete line is not an object.
fn log_entries(text: &str) -> Result<Vec<Map<String, Value>>, serde_json::Error> {
    let complete = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
    complete
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(serde_json::from_str)
        .collect()
}

/// A number in as few digits as say it: `5e-5`, `0.9`, `3`.
pub(crate) fn short_number(number: f64) -> String {
    if number != 0.0 && number.abs() < 1e-3 {
        format!("{number:e}")
    } else {
        number.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = "{\"loss\":2.5,\"step\":5}\n{\"eval_loss\":1.5,\"eval_runtime\":3.0,\"eval_t_accuracy\":0.5,\"step\":5}\n{\"loss\":\"NaN\",\"step\":10}\n{\"loss\":0.5,\"step\":15}\n{\"los";

    #[test]
    fn a_run_is_parsed() {
        let run = Run::parse(&RunFiles {
            name: "a",
            config: "learning-rate = 0.00005\nloss.name = \"mnrl\"\nseed = 42",
            metrics: METRICS,
            results: Some(
                r#"{"before":{"m":0.5},"after":{"m":0.75},"primary_metric":"m","train":{"train_runtime":2.0}}"#,
            ),
            ..RunFiles::default()
        })
        .unwrap();
        assert_eq!(run.series("loss").points, [(5.0, 2.5), (15.0, 0.5)]);
        assert_eq!(run.evaluation_keys(), ["eval_loss", "eval_t_accuracy"]);
        assert_eq!(run.setting("learning-rate").as_deref(), Some("5e-5"));
        assert_eq!(run.setting("seed").as_deref(), Some("42"));
        assert_eq!(run.before_after("m"), Some((0.5, 0.75)));
        assert_eq!(run.before_after("other"), None);
    }

    #[test]
    fn a_run_without_test_data_has_no_metrics() {
        let run = Run::parse(&RunFiles {
            results: Some(r#"{"before":null,"after":null,"primary_metric":null,"train":{}}"#),
            ..RunFiles::default()
        })
        .unwrap();
        assert!(run.results.unwrap().after.is_empty());
    }

    #[test]
    fn a_damaged_file_is_named() {
        let error = Run::parse(&RunFiles {
            name: "a",
            metrics: "[1]\n",
            ..RunFiles::default()
        })
        .unwrap_err();
        assert!(
            error.to_string().starts_with("metrics.jsonl of a: "),
            "{error}"
        );
    }
}

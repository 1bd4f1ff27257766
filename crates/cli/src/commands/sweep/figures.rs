//! The figures of a finished run, read from its results.json.

use std::path::Path;

use anyhow::Context;
use serde::Deserialize;
use serde_json::{Map, Value};

/// The metrics before and after, and the summary of the training.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Figures {
    pub(super) before: Map<String, Value>,
    pub(super) after: Map<String, Value>,
    pub(super) primary_metric: String,
    pub(super) train: Map<String, Value>,
}

impl Figures {
    /// Reads the file that a run leaves.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs_err::read_to_string(path)?;
        serde_json::from_str(&text).with_context(|| {
            format!(
                "{}: not the results of a run; remove the run's folder to make it again",
                path.display()
            )
        })
    }

    /// The key of a metric, whose name may lack the data's before it; the primary metric where none is given.
    pub(super) fn key(&self, metric: Option<&str>) -> Option<&str> {
        let Some(wanted) = metric else {
            return Some(&self.primary_metric);
        };
        let mut keys = self.after.keys().map(String::as_str);
        let is_it = |key: &&str| *key == wanted || key.ends_with(&format!("_{wanted}"));
        keys.find(is_it)
    }

    /// Seconds of training, of a run that was resumed all of it at the speed of its last part.
    pub(super) fn seconds(&self) -> Option<f64> {
        let number = |key: &str| self.train.get(key).and_then(Value::as_f64);
        let (seconds, speed) = (number("train_runtime")?, number("train_steps_per_second")?);
        let n_steps = number("step")?;
        let was_whole = (seconds * speed - n_steps).abs() <= 0.01 * n_steps + 1.0;
        Some(if was_whole || speed == 0.0 {
            seconds
        } else {
            n_steps / speed
        })
    }
}

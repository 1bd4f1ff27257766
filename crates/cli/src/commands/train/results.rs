//! The figures of a run: before, after, and how it went.

use eval::Metrics;
use serde_json::{Map, Value, json};
use train::Evaluation;
use wording::counted;

use crate::table::{counted_all, table};

/// Name of the file with the figures before and after. A run that has it is done.
pub(crate) const RESULTS: &str = "results.json";

/// Name of the file with the classes that labels in words were numbered as.
pub(super) const CLASSES: &str = "classes.json";

/// The metrics before and after, where there is test data, and the summary of the training.
pub(super) struct Results {
    pub(super) before: Option<Metrics>,
    pub(super) after: Option<Metrics>,
    pub(super) summary: Map<String, Value>,
}

impl Results {
    pub(super) fn event(&self) -> Value {
        json!({"type": "results", "before": self.before, "after": self.after, "train": self.summary})
    }

    pub(super) fn to_json(&self) -> anyhow::Result<String> {
        let primary = self.after.as_ref().map(Metrics::primary_key);
        let results = json!({
            "before": self.before,
            "after": self.after,
            "primary_metric": primary,
            "train": self.summary,
        });
        Ok(serde_json::to_string_pretty(&results)? + "\n")
    }

    /// Metric, before, after and change, or nothing where nothing was measured.
    pub(super) fn table(&self, tests: &[Evaluation]) -> Option<String> {
        let (Some(before), Some(after)) = (&self.before, &self.after) else {
            return None;
        };
        let rows: Vec<Vec<String>> = before
            .iter()
            .filter_map(|(key, before)| {
                let after = after.get(key)?;
                let change = format!("{:+.4}", after - before);
                Some(vec![
                    key.to_owned(),
                    format!("{before:.4}"),
                    format!("{after:.4}"),
                    change,
                ])
            })
            .collect();
        let what = tests.iter().map(|test| match test.data() {
            Some(data) => counted(data.dataset.n_rows(), "rows"),
            None => counted_all(&test.counts()),
        });
        let what = what.collect::<Vec<_>>().join(" + ");
        Some(table(&[&what, "before", "after", "change"], &rows))
    }
}

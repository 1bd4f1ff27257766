//! What a run tells while it goes on, and the files it tells it to.
//!
//! The trainer knows none of those who listen: it gives each [`Event`] to all [`Observer`]s in turn.

use std::{io::Write, path::Path};

use eval::Metrics;
use model::Precision;
use serde_json::{Map, Value};

use crate::{TrainError, tensorboard::EventWriter};

/// One entry of the log: `step`, `epoch` and what was measured, in the order it was put in.
pub type LogEntry = Map<String, Value>;

/// Something that happened in a run.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The run is about to begin.
    Begin(&'a Plan),
    /// An update was made.
    Step(&'a Step),
    /// A log entry is due: training, evaluation, or the summary at the end.
    Log(&'a LogEntry),
    /// Training pauses to encode `n_sentences` for an evaluation.
    EvaluationBegin {
        /// Name of the data set.
        name: &'a str,
        /// Sentences to encode.
        n_sentences: usize,
    },
    /// So many sentences of the evaluation are encoded.
    EvaluationProgress(usize),
    /// An evaluation is done.
    EvaluationEnd(&'a Metrics),
    /// A checkpoint was written.
    Saved(&'a Path),
}

/// What a run will do.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Rows of the training data.
    pub n_rows: usize,
    /// Batches in an epoch, as upstream counts them: no_duplicates may need fewer.
    pub n_batches_per_epoch: usize,
    /// Updates in an epoch.
    pub n_steps_per_epoch: u64,
    /// Updates in the run.
    pub n_steps: u64,
    /// Updates made before this run took over.
    pub first_step: u64,
    /// Passes over the data.
    pub n_epochs: f64,
    /// Updates of warm-up.
    pub n_warmup_steps: u64,
    /// Trainable parameters.
    pub n_parameters: usize,
    /// What matrix products are computed in.
    pub precision: Precision,
}

/// What one update was.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Updates made, this one included.
    pub step: u64,
    /// Passes over the data so far.
    pub epoch: f64,
    /// Mean loss of the step's batches.
    pub loss: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Learning rate of this update.
    pub learning_rate: f64,
    /// Rows of training data in this step.
    pub n_rows: usize,
    /// Tokens in this step, all columns, no padding.
    pub n_tokens: usize,
}

/// One who wants to know what happens.
pub trait Observer {
    /// Takes note of one event.
    ///
    /// # Errors
    /// When a file can't be written; it ends the run.
    fn on(&mut self, event: &Event<'_>) -> Result<(), TrainError>;
}

/// Appends every log entry to a JSON Lines file.
#[derive(Debug)]
pub struct MetricsFile {
    file: fs_err::File,
}

impl MetricsFile {
    /// Appends to `path`.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn append(path: &Path) -> Result<Self, TrainError> {
        let file = fs_err::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)?;
        Ok(Self { file })
    }
}

impl Observer for MetricsFile {
    fn on(&mut self, event: &Event<'_>) -> Result<(), TrainError> {
        if let Event::Log(entry) = event {
            let mut line = Value::Object((*entry).clone()).to_string();
            line.push('\n');
            self.file.write_all(line.as_bytes())?;
        }
        Ok(())
    }
}

/// Writes every number of every log entry for TensorBoard, under the tags that transformers'
/// `TensorBoardCallback` gives them: `train/loss`, `eval/<metric>`, `train/train_runtime`.
#[derive(Debug)]
pub struct TensorBoard {
    writer: EventWriter,
}

impl TensorBoard {
    /// Starts an event file in `folder`.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn create(folder: &Path) -> Result<Self, TrainError> {
        Ok(Self {
            writer: EventWriter::create(folder)?,
        })
    }
}

impl Observer for TensorBoard {
    fn on(&mut self, event: &Event<'_>) -> Result<(), TrainError> {
        let Event::Log(entry) = event else {
            return Ok(());
        };
        let step = entry.get("step").and_then(Value::as_u64).unwrap_or(0);
        let scalars: Vec<(String, f64)> = entry
            .iter()
            .filter(|(name, _)| *name != "step")
            .filter_map(|(name, value)| Some((tag(name), value.as_f64()?)))
            .collect();
        self.writer.scalars(
            step,
            scalars.iter().map(|(tag, value)| (tag.as_str(), *value)),
        )?;
        Ok(())
    }
}

fn tag(name: &str) -> String {
    match name.strip_prefix("eval_") {
        Some(metric) => format!("eval/{metric}"),
        None => format!("train/{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_one_object_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        for step in [1, 2] {
            let mut file = MetricsFile::append(&path).unwrap();
            let entry = serde_json::json!({"loss": 0.5, "step": step});
            file.on(&Event::Log(entry.as_object().unwrap())).unwrap();
            file.on(&Event::EvaluationProgress(3)).unwrap();
        }
        assert_eq!(
            fs_err::read_to_string(path).unwrap(),
            "{\"loss\":0.5,\"step\":1}\n{\"loss\":0.5,\"step\":2}\n"
        );
    }

    #[test]
    fn tags_are_transformers() {
        assert_eq!(tag("loss"), "train/loss");
        assert_eq!(tag("eval_dev_cosine_accuracy"), "eval/dev_cosine_accuracy");
        assert_eq!(tag("train_runtime"), "train/train_runtime");
    }
}

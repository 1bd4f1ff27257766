//! What a run tells while it goes on, and the files it tells it to.
//!
//! The trainer knows none of those who listen: it gives each [`Event`] to all [`Observer`]s in turn.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use eval::Metrics;
use model::Precision;
use serde_json::{Map, Value};
pub use shim::torch::Memory;

use crate::{
    NonFinite, TrainError, TrainerState, error::unsaved, failpoint, run_folder::write_file,
    tensorboard::EventWriter,
};

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
    /// No update was made, because a number was not finite; the run goes on.
    Skipped(&'a NonFinite),
    /// No update was made, because gradients times the loss's scale were beyond fp16; the scale is halved.
    Overflow {
        /// The step.
        step: u64,
        /// The scale that was too large.
        loss_scale: f64,
    },
    /// A batch did not fit in the GPU's memory; from here on it is embedded in smaller parts.
    CutSmaller {
        /// The step, which begins again.
        step: u64,
        /// Tokens that were embedded at a time.
        n_tokens: usize,
        /// Tokens that are from now on.
        fitting: usize,
    },
    /// No CUDA graphs are recorded from here on, for this reason; steps are computed as ever.
    NoGraphs(&'a str),
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
    /// Multiplications and additions that a token takes in the linear layers, forward and backward.
    pub flops_per_token: f64,
    /// What the GPU reaches in large matrix products of that precision, in the same a second, measured before the
    /// first step; `None` on the CPU.
    pub device_flops: Option<f64>,
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
    /// The GPU's memory that is taken when this is told, and the most that tensors took, in bytes; `None` on the CPU.
    pub device_memory: Option<Memory>,
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
    path: PathBuf,
    file: fs_err::File,
}

impl MetricsFile {
    /// Writes the entries of the run so far to `path`, in the place of what is there, and appends from then on. So
    /// of a run that went on from an older checkpoint than its last, no step is there twice, and a line that was
    /// cut off is gone.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn create(path: &Path, state: &TrainerState) -> Result<Self, TrainError> {
        let lines = state.log_history.iter().map(line);
        write_file(path, lines.collect::<String>().as_bytes())?;
        let file = fs_err::OpenOptions::new().append(true).open(path);
        Ok(Self {
            file: file.map_err(|error| unsaved(path, error))?,
            path: path.to_owned(),
        })
    }
}

fn line(entry: &LogEntry) -> String {
    Value::Object(entry.clone()).to_string() + "\n"
}

impl Observer for MetricsFile {
    fn on(&mut self, event: &Event<'_>) -> Result<(), TrainError> {
        if let Event::Log(entry) = event {
            failpoint::at("append", &self.path)
                .and_then(|()| self.file.write_all(line(entry).as_bytes()))
                .map_err(|error| unsaved(&self.path, error))?;
        }
        Ok(())
    }
}

/// Writes every number of every log entry for TensorBoard, under the tags that transformers'
/// `TensorBoardCallback` gives them: `train/loss`, `eval/<metric>`, `train/train_runtime`.
#[derive(Debug)]
pub struct TensorBoard {
    folder: PathBuf,
    writer: EventWriter,
}

impl TensorBoard {
    /// Starts an event file in `folder`. Of a run that goes on, TensorBoard is told to forget the steps after
    /// those that are in `state`, which an earlier file may hold.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn create(folder: &Path, state: &TrainerState) -> Result<Self, TrainError> {
        let mut writer = EventWriter::create(folder).map_err(|error| unsaved(folder, error))?;
        if state.global_step > 0 {
            writer
                .restart(state.global_step + 1)
                .map_err(|error| unsaved(folder, error))?;
        }
        Ok(Self {
            folder: folder.to_owned(),
            writer,
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
        let scalars = scalars.iter().map(|(tag, value)| (tag.as_str(), *value));
        self.writer
            .scalars(step, scalars)
            .map_err(|error| unsaved(&self.folder, error))
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

    fn state(log_history: Vec<LogEntry>) -> TrainerState {
        let plan = Plan {
            n_rows: 8,
            n_batches_per_epoch: 1,
            n_steps_per_epoch: 1,
            n_steps: 3,
            first_step: 0,
            n_epochs: 3.0,
            n_warmup_steps: 0,
            n_parameters: 1,
            precision: crate::TrainingArguments::default().precision,
            flops_per_token: 6.0,
            device_flops: None,
        };
        let mut state = TrainerState::new(
            &crate::TrainingArguments::default(),
            &plan,
            Default::default(),
        );
        state.log_history = log_history;
        state
    }

    #[test]
    fn metrics_are_one_object_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let entry = |step: u64| -> LogEntry {
            let entry = serde_json::json!({"loss": 0.5, "step": step});
            entry.as_object().unwrap().clone()
        };
        let mut file = MetricsFile::create(&path, &state(Vec::new())).unwrap();
        for step in [1, 2, 3] {
            file.on(&Event::Log(&entry(step))).unwrap();
            file.on(&Event::EvaluationProgress(3)).unwrap();
        }
        drop(file);
        // A run that goes on after step 1 makes the others again.
        let mut file = MetricsFile::create(&path, &state(vec![entry(1)])).unwrap();
        file.on(&Event::Log(&entry(2))).unwrap();
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

//! The log of a run as a JSON Lines file.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{
    error::{TrainError, unsaved},
    events::{Event, LogEntry, Observer},
    failpoint,
    run::{folder::write_file, state::TrainerState},
};

/// Appends every log entry to a JSON Lines file.
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
    file: fs_err::File,
}

impl MetricsFile {
    /// Writes the entries of the run so far to `path`, in the place of what is there, and appends from then on. So
    /// after a resume from an older checkpoint than the last, no step is there twice, and a line that was cut off
    /// is gone.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{arguments::TrainingArguments, plan::Plan};

    fn state(log_history: Vec<LogEntry>) -> TrainerState {
        let arguments = TrainingArguments::default();
        let plan = Plan {
            n_ranks: 1,
            n_rows: 8,
            n_batches_per_epoch: 1,
            n_steps_per_epoch: 1,
            n_steps: 3,
            first_step: 0,
            n_epochs: 3.0,
            n_warmup_steps: 0,
            n_parameters: 1,
            precision: arguments.precision,
            flops_per_token: 6.0,
            device_flops: None,
        };
        let mut state = TrainerState::new(&arguments, &plan, Default::default());
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
}

//! The log of a run for TensorBoard.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{
    error::{TrainError, unsaved},
    events::{Event, Observer},
    observers::event_file::EventWriter,
    run::state::TrainerState,
};

/// Writes every number of every log entry for TensorBoard, under the tags that transformers'
/// `TensorBoardCallback` gives them: `train/loss`, `eval/<metric>`, `train/train_runtime`.
#[derive(Debug)]
pub struct TensorBoard {
    folder: PathBuf,
    writer: EventWriter,
}

impl TensorBoard {
    /// Starts an event file in `folder`. On a resume, TensorBoard is told to forget the steps after those in
    /// `state`, which an earlier file may hold.
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

    #[test]
    fn tags_are_transformers() {
        assert_eq!(tag("loss"), "train/loss");
        assert_eq!(tag("eval_dev_cosine_accuracy"), "eval/dev_cosine_accuracy");
        assert_eq!(tag("train_runtime"), "train/train_runtime");
    }
}

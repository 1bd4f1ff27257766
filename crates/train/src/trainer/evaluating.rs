//! Evaluation during a run.

use std::{ops::ControlFlow, time::Instant};

use eval::{Metrics, csv::At};
use kernels::random::mix;
use serde_json::json;

use super::{Trainer, observe};
use crate::{
    error::TrainError,
    evaluation::Evaluation,
    events::{Event, LogEntry},
    group::Group,
    run::state::round,
    sampling::Sampler,
    tasks::Task,
};

impl Trainer<'_> {
    /// Evaluation during training: of each data set the loss, then its evaluator. `Break` when interrupted, in which
    /// case nothing is logged or written.
    pub(super) fn evaluate(&mut self) -> Result<ControlFlow<()>, TrainError> {
        let mut done = Vec::new();
        for i in 0..self.evaluations.len() {
            let evaluation = self.evaluations[i].evaluation;
            let prefix = self.evaluations[i].prefix(self.evaluations.len());
            let started = Instant::now();
            let mut entry = LogEntry::new();
            if let Some(task) = &self.evaluations[i].of_loss {
                let Some((loss, n_batches)) = self.evaluation_loss(task)? else {
                    return Ok(ControlFlow::Break(()));
                };
                let seconds = started.elapsed().as_secs_f64();
                let n_rows = task.data.dataset.n_rows() as f64;
                let samples_per_second = round(n_rows / seconds, 3);
                let steps_per_second = round(n_batches as f64 / seconds, 3);
                for (key, value) in [
                    ("loss", loss),
                    ("runtime", round(seconds, 4)),
                    ("samples_per_second", samples_per_second),
                    ("steps_per_second", steps_per_second),
                ] {
                    entry.insert(format!("{prefix}_{key}"), json!(value));
                }
            }
            let mut metrics = None;
            if evaluation.has_evaluator() {
                metrics = self.evaluator_metrics(evaluation)?;
                let Some(metrics) = &metrics else {
                    return Ok(ControlFlow::Break(()));
                };
                for (key, value) in metrics.iter() {
                    entry.insert(format!("eval_{key}"), json!(value));
                }
            }
            entry.insert("epoch".to_owned(), json!(self.state.epoch));
            entry.insert("step".to_owned(), json!(self.state.global_step));
            done.push((evaluation, entry, metrics));
        }
        let at = At::Step {
            epoch: self.state.epoch,
            steps: self.state.global_step,
        };
        let mut all = LogEntry::new();
        for (evaluation, entry, metrics) in done {
            if let Some(metrics) = metrics {
                evaluation.append_csv(&self.folder.eval(), &metrics, at)?;
            }
            all.extend(entry.clone());
            self.log(entry)?;
        }
        if let Some(best) = &self.best_metric {
            self.state.note_evaluation(&all, best, &self.arguments)?;
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Mean loss over evaluation data, each batch weighted by its rows, and the number of batches.
    fn evaluation_loss(&self, task: &Task<'_>) -> Result<Option<(f64, usize)>, TrainError> {
        let (model, loss) = (&self.trained.model, task.objective.loss);
        let limit = self.chunking.limit(loss);
        let sampler = Sampler::evaluation(&self.arguments);
        let batches: Vec<_> = sampler.batches(&[&task.data.dataset], 0).collect();
        let (mut sum, mut n_rows) = (0.0, 0);
        for (i, batch) in batches.iter().enumerate() {
            let rows = &batch.rows;
            if self.is_stopped() {
                return Ok(None);
            }
            // The loss draws the same random numbers at every evaluation.
            let seed = mix(mix(self.arguments.seed) ^ i as u64);
            let chunks = task.chunks(rows, limit, model.parameters().device())?;
            let layers = loss.prior_layers(model.n_layers(), seed);
            let value = tch::no_grad(|| {
                let embeddings = model.embed_layers(&chunks, &layers)?;
                let inputs = task.loss_inputs(rows, &layers, &embeddings, limit)?;
                Ok::<_, TrainError>(loss.value(&inputs.step(seed))?)
            })?;
            sum += f64::try_from(&value)? * rows.len() as f64;
            n_rows += rows.len();
        }
        Ok(Some((sum / n_rows as f64, batches.len())))
    }

    fn evaluator_metrics(
        &mut self,
        evaluation: &Evaluation,
    ) -> Result<Option<Metrics>, TrainError> {
        let name = evaluation.name();
        let n_sentences = evaluation.n_sentences();
        self.tell(&Event::EvaluationBegin { name, n_sentences })?;
        let mut told = Ok(());
        let metrics = evaluation.evaluate(self.trained.model, &mut |n_encoded| {
            told = observe(&mut self.observers, &Event::EvaluationProgress(n_encoded));
            let is_stopped = (self.is_interrupted)() || self.group.is_some_and(Group::is_lost);
            if told.is_err() || is_stopped {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        told?;
        if let Some(metrics) = &metrics {
            self.tell(&Event::EvaluationEnd(metrics))?;
        }
        Ok(metrics)
    }
}

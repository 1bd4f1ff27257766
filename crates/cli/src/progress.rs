//! The progress of a training run: a bar where stderr is a terminal, else a log line now and then.

use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use serde_json::Value;
use train::{
    Plan, TrainError,
    events::{Event, LogEntry, Memory, Observer, Step},
};
use wording::{counted, thousands};

use crate::talk::Talk;

/// Time between two log lines of a training run that has no bar.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// Shows a training run: a bar, or a line now and then.
#[derive(Debug)]
pub(crate) struct TrainingProgress {
    talk: Talk,
    unit: &'static str,
    plan: Option<Plan>,
    steps: ProgressBar,
    sentences: ProgressBar,
    started: Instant,
    last_line: Instant,
    n_rows: usize,
    n_tokens: usize,
    memory: Option<Memory>,
}

impl TrainingProgress {
    /// Progress of a run whose rows are called `unit`, such as triplets.
    pub(crate) fn new(talk: &Talk, unit: &'static str) -> Self {
        Self {
            talk: talk.clone(),
            unit,
            plan: None,
            steps: ProgressBar::hidden(),
            sentences: ProgressBar::hidden(),
            started: Instant::now(),
            last_line: Instant::now(),
            n_rows: 0,
            n_tokens: 0,
            memory: None,
        }
    }

    fn begin(&mut self, plan: &Plan) {
        tracing::info!(
            "training on {} for {}: {} an epoch, {} epoch{}, {} of warm-up; {} parameters, products in {}",
            counted(plan.n_rows, self.unit),
            counted(plan.n_steps as usize, "steps"),
            thousands(plan.n_steps_per_epoch as usize),
            plan.n_epochs,
            if plan.n_epochs == 1.0 { "" } else { "s" },
            thousands(plan.n_warmup_steps as usize),
            thousands(plan.n_parameters),
            plan.precision,
        );
        self.steps = self.talk.bar("training", plan.n_steps as usize);
        self.steps.set_position(plan.first_step);
        self.steps.reset_eta();
        self.started = Instant::now();
        self.last_line = self.started;
        self.plan = Some(plan.clone());
    }

    fn step(&mut self, step: &Step) {
        self.n_rows += step.n_rows;
        self.n_tokens += step.n_tokens;
        self.memory = step.device_memory;
        self.steps.set_position(step.step);
        self.steps.set_message(format!(
            ", epoch {:.2}, loss {:.4}, lr {:.2e}, {:.1} {}/s, {:.0} tokens/s{}",
            step.epoch,
            step.loss,
            step.learning_rate,
            self.per_second(self.n_rows),
            self.unit,
            self.per_second(self.n_tokens),
            self.of_device(),
        ));
        if self.steps.is_hidden() && self.last_line.elapsed() > HEARTBEAT {
            self.last_line = Instant::now();
            tracing::info!(
                "{}",
                self.line(step.step, step.epoch, step.loss, step.learning_rate)
            );
        }
    }

    fn log(&mut self, entry: &LogEntry) {
        if entry.contains_key("skipped_loss") {
            // `Event::Skipped` has said more.
            return;
        }
        let number = |key: &str| entry.get(key).and_then(Value::as_f64);
        let step = entry.get("step").and_then(Value::as_u64).unwrap_or(0);
        let epoch = number("epoch").unwrap_or(0.0);
        if let (Some(loss), Some(learning_rate)) = (number("loss"), number("learning_rate")) {
            self.last_line = Instant::now();
            tracing::info!("{}", self.line(step, epoch, loss, learning_rate));
        } else if let Some(seconds) = number("train_runtime") {
            self.steps.finish_and_clear();
            tracing::info!(
                "trained {} in {seconds:.1} s: {:.1} {}/s, {:.0} tokens/s, mean loss {:.4}",
                counted(step as usize, "steps"),
                self.per_second(self.n_rows),
                self.unit,
                self.per_second(self.n_tokens),
                number("train_loss").unwrap_or(f64::NAN)
            );
        } else {
            let metrics: Vec<String> = entry
                .iter()
                .filter(|(key, _)| !["epoch", "step"].contains(&key.as_str()) && !is_speed(key))
                .filter_map(|(key, value)| Some(format!("{key} {:.4}", value.as_f64()?)))
                .collect();
            tracing::info!("step {step}, epoch {epoch:.2}: {}", metrics.join(", "));
        }
    }

    fn line(&self, step: u64, epoch: f64, loss: f64, learning_rate: f64) -> String {
        let n_steps = self.plan.as_ref().map_or(0, |plan| plan.n_steps);
        let first_step = self.plan.as_ref().map_or(0, |plan| plan.first_step);
        let n_done = step.saturating_sub(first_step).max(1);
        let seconds_left = self.started.elapsed().as_secs_f64() / n_done as f64
            * n_steps.saturating_sub(step) as f64;
        format!(
            "step {step}/{n_steps}, epoch {epoch:.2}, loss {loss:.4}, lr {learning_rate:.3e}, {:.1} {}/s, {:.0} tokens/s{}, {} left",
            self.per_second(self.n_rows),
            self.unit,
            self.per_second(self.n_tokens),
            self.of_device(),
            duration(seconds_left)
        )
    }

    /// The end of a line on a GPU: the share of the chip's rate of products that the tokens' linear layers reach, and
    /// the memory reserved. Empty on the CPU.
    fn of_device(&self) -> String {
        let plan = self.plan.as_ref();
        let rate = plan.and_then(|plan| Some((plan.flops_per_token, plan.device_flops?)));
        let mut text = String::new();
        if let Some((flops_per_token, device_flops)) = rate {
            let share = self.per_second(self.n_tokens) * flops_per_token / device_flops;
            text += &format!(", {:.0} % of the GPU's rate", 100.0 * share);
        }
        if let Some(memory) = self.memory {
            text += &format!(", {:.1} GB", memory.reserved as f64 / 1e9);
        }
        text
    }

    fn per_second(&self, n: usize) -> f64 {
        n as f64 / self.started.elapsed().as_secs_f64().max(1e-9)
    }
}

impl Observer for TrainingProgress {
    fn on(&mut self, event: &Event<'_>) -> Result<(), TrainError> {
        match event {
            Event::Begin(plan) => self.begin(plan),
            Event::Step(step) => self.step(step),
            Event::Log(entry) => self.log(entry),
            Event::EvaluationBegin { name, n_sentences } => {
                self.sentences = self.talk.bar(name, *n_sentences);
            }
            Event::EvaluationProgress(n) => self.sentences.set_position(*n as u64),
            Event::EvaluationEnd(_) => self.sentences.finish_and_clear(),
            Event::Skipped(problem) => tracing::warn!("skipped: {problem}"),
            Event::Overflow { step, loss_scale } => tracing::debug!(
                "step {step} made no update: gradients times {loss_scale} are beyond fp16, the scale is halved"
            ),
            Event::NothingLearnt { step } => tracing::warn!(
                "step {step} taught nothing: its batch has one row, and the loss had no other to compare it with, so that loss and gradient are 0. Later steps of this kind are not told. --per-device-train-batch-size makes batches larger, --dataloader-drop-last leaves out an epoch's incomplete last batch; with --batch-sampler no_duplicates, rows that have a text in common never share a batch"
            ),
            Event::NoGraphs(problem) => {
                tracing::warn!("--cuda-graphs: going on without: {problem}");
            }
            Event::CutSmaller {
                step,
                n_tokens,
                fitting,
            } => tracing::warn!(
                "step {step}: the GPU's memory is full with {n_tokens} tokens at a time: going on with {fitting}, each part embedded twice"
            ),
            Event::Saved(path) => tracing::info!("saved {}", path.display()),
            _ => {}
        }
        Ok(())
    }
}

fn is_speed(key: &str) -> bool {
    key.ends_with("_runtime") || key.ends_with("_per_second")
}

/// Seconds as hours, minutes and seconds.
fn duration(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{seconds:02}")
    } else {
        format!("{minutes}:{seconds:02}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_like_clocks() {
        assert_eq!(duration(5.4), "0:05");
        assert_eq!(duration(3599.6), "1:00:00");
        assert_eq!(duration(8897.0), "2:28:17");
    }

    #[test]
    fn a_gpus_share_and_memory_are_shown_and_nothing_on_the_cpu() {
        let talk = Talk::without_bars();
        let mut progress = TrainingProgress::new(&talk, "triplets");
        assert_eq!(progress.of_device(), "");
        progress.plan = Some(Plan {
            n_ranks: 1,
            n_rows: 1,
            n_batches_per_epoch: 1,
            n_steps_per_epoch: 1,
            n_steps: 1,
            first_step: 0,
            n_epochs: 1.0,
            n_warmup_steps: 0,
            n_parameters: 1,
            precision: model::Precision::Bf16,
            flops_per_token: 5e8,
            device_flops: Some(1e12),
        });
        progress.memory = Some(Memory {
            allocated: 1_000_000_000,
            peak: 3_000_000_000,
            reserved: 3_210_000_000,
        });
        progress.n_tokens = 10_000;
        progress.started = Instant::now() - Duration::from_secs(10);
        assert_eq!(progress.of_device(), ", 50 % of the GPU's rate, 3.2 GB");
    }
}

//! The state of a run: everything but weights and moments that its future depends on.

use model::GemmName;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    arguments::TrainingArguments,
    best_metric::BestMetric,
    error::TrainError,
    events::{LogEntry, Step},
    plan::Plan,
    run::fingerprint::{self, Fingerprint, GEMM},
};

/// `trainer_state.json`: transformers' `TrainerState` field for field, then the rest that a bit-exact resume needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    /// Step of the best evaluation.
    pub best_global_step: Option<u64>,
    /// Its metric.
    pub best_metric: Option<f64>,
    /// The checkpoint of that step.
    pub best_model_checkpoint: Option<String>,
    /// Passes over the data so far.
    pub epoch: f64,
    /// Steps between evaluations.
    pub eval_steps: u64,
    /// Updates made.
    pub global_step: u64,
    /// Always true: there is no hyper-parameter search in a run.
    pub is_hyper_param_search: bool,
    /// Always true: one process.
    pub is_local_process_zero: bool,
    /// Always true: one process.
    pub is_world_process_zero: bool,
    /// All entries of the log.
    pub log_history: Vec<LogEntry>,
    /// Steps between log entries.
    pub logging_steps: u64,
    /// Updates of the whole run.
    pub max_steps: u64,
    /// Not counted; upstream's field.
    pub num_input_tokens_seen: u64,
    /// Passes of the whole run, rounded up.
    pub num_train_epochs: u64,
    /// Steps between checkpoints.
    pub save_steps: u64,
    /// Not counted; upstream's field.
    pub total_flos: f64,
    /// Rows per micro-batch.
    pub train_batch_size: usize,

    /// The epoch that the next step belongs to.
    pub epoch_index: u64,
    /// Updates made in that epoch.
    pub n_steps_in_epoch: u64,
    /// Sum of the losses of all steps.
    pub loss_sum: f64,
    /// Sum of the losses since the last log entry of training.
    pub loss_sum_since_log: f64,
    /// Step of that entry.
    pub last_logged_step: u64,
    /// Evaluations in a row without improvement.
    pub early_stopping_count: u64,
    /// The evaluation after the last update was broken off, or has not begun.
    pub is_evaluation_due: bool,
    /// Early stopping has decided to end the run.
    pub should_stop: bool,
    /// Steps that made no update because a number was not finite.
    pub n_skipped_steps: u64,
    /// Skipped steps since the last log entry of training.
    pub n_skipped_steps_since_log: u64,
    /// Skipped steps in a row up to now.
    pub n_skipped_steps_in_row: u64,
    /// The run's data, loss and starting model, each by its value or its sha256.
    #[serde(rename = "identity")]
    pub fingerprint: Fingerprint,
    /// The factor of the loss, where gradients are in fp16 on a GPU.
    #[serde(default)]
    pub loss_scale: Option<LossScale>,
    /// The arguments of the run.
    pub arguments: TrainingArguments,
}

/// The state of `torch.amp.GradScaler`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LossScale {
    /// The factor of the loss.
    pub scale: f64,
    /// Updates in a row since the scale changed.
    pub growth_tracker: i64,
}

impl TrainerState {
    /// The state before the first step.
    pub fn new(arguments: &TrainingArguments, plan: &Plan, fingerprint: Fingerprint) -> Self {
        Self {
            best_global_step: None,
            best_metric: None,
            best_model_checkpoint: None,
            epoch: 0.0,
            eval_steps: arguments.eval_steps,
            global_step: 0,
            is_hyper_param_search: false,
            is_local_process_zero: true,
            is_world_process_zero: true,
            log_history: Vec::new(),
            logging_steps: arguments.logging_steps,
            max_steps: plan.n_steps,
            num_input_tokens_seen: 0,
            num_train_epochs: plan.n_epochs.ceil() as u64,
            save_steps: arguments.save_steps,
            total_flos: 0.0,
            train_batch_size: arguments.per_device_train_batch_size,
            epoch_index: 0,
            n_steps_in_epoch: 0,
            loss_sum: 0.0,
            loss_sum_since_log: 0.0,
            last_logged_step: 0,
            early_stopping_count: 0,
            is_evaluation_due: false,
            should_stop: false,
            n_skipped_steps: 0,
            n_skipped_steps_since_log: 0,
            n_skipped_steps_in_row: 0,
            fingerprint,
            loss_scale: None,
            arguments: arguments.clone(),
        }
    }

    /// The GEMM backend of a run in fp32; none in checkpoints of earlier versions.
    pub fn gemm(&self) -> Option<GemmName> {
        let name = self.fingerprint.get(GEMM)?.clone();
        serde_json::from_value(Value::String(name)).ok()
    }

    /// Counts a step whose loss is not known yet, after which `share` of its epoch of `n_steps` steps is done.
    pub fn advance(&mut self, share: f64, n_steps: u64) {
        self.global_step += 1;
        self.n_steps_in_epoch += 1;
        self.epoch = self.epoch_index as f64 + share;
        self.end_epoch_after(n_steps);
    }

    /// Adds up the loss of a step that is counted; one without a loss made no update.
    pub fn note_loss(&mut self, loss: Option<f64>) {
        match loss {
            Some(loss) => {
                self.loss_sum += loss;
                self.loss_sum_since_log += loss;
                self.n_skipped_steps_in_row = 0;
            }
            None => {
                self.n_skipped_steps += 1;
                self.n_skipped_steps_since_log += 1;
                self.n_skipped_steps_in_row += 1;
            }
        }
    }

    /// Counts a step that made no update because the loss's scale was too large, which is nothing to stop for.
    pub(crate) fn note_overflow(&mut self) {
        self.n_skipped_steps += 1;
        self.n_skipped_steps_since_log += 1;
    }

    /// Ends the epoch, and says so, if `n_steps` or more steps of it are made.
    pub fn end_epoch_after(&mut self, n_steps: u64) -> bool {
        let is_over = self.n_steps_in_epoch >= n_steps;
        if is_over {
            self.epoch_index += 1;
            self.n_steps_in_epoch = 0;
        }
        is_over
    }

    /// The log entry of training at `step`: the mean loss of the updates since the entry before, and how many
    /// steps made none.
    pub fn training_entry(&mut self, step: &Step) -> LogEntry {
        let n_steps = self.global_step - self.last_logged_step - self.n_skipped_steps_since_log;
        let mut entry = LogEntry::new();
        entry.insert(
            "loss".to_owned(),
            json!(self.loss_sum_since_log / n_steps.max(1) as f64),
        );
        entry.insert("grad_norm".to_owned(), json!(step.grad_norm));
        entry.insert("learning_rate".to_owned(), json!(step.learning_rate));
        entry.insert("epoch".to_owned(), json!(step.epoch));
        entry.insert("step".to_owned(), json!(step.step));
        if self.n_skipped_steps_since_log > 0 {
            entry.insert(
                "skipped_steps".to_owned(),
                json!(self.n_skipped_steps_since_log),
            );
        }
        self.loss_sum_since_log = 0.0;
        self.n_skipped_steps_since_log = 0;
        self.last_logged_step = self.global_step;
        entry
    }

    /// Keeps the best evaluation in mind and decides on early stopping, as transformers'
    /// `_determine_best_metric` and `EarlyStoppingCallback` do.
    ///
    /// # Errors
    /// When the evaluation doesn't hold the metric that decides; the message lists those it holds.
    pub(crate) fn note_evaluation(
        &mut self,
        entry: &LogEntry,
        best: &BestMetric,
        arguments: &TrainingArguments,
    ) -> Result<(), TrainError> {
        let metric = entry.get(&best.key).ok_or_else(|| {
            let known: Vec<&str> = entry.keys().map(String::as_str).collect();
            TrainError::Arguments(format!(
                "--metric-for-best-model `{}` is not among the evaluation's metrics: {}",
                best.key,
                known.join(", ")
            ))
        })?;
        // A metric that is no number is an entry without a value, and never the best.
        let metric = metric.as_f64().unwrap_or(f64::NAN);
        let gain = |former: f64| {
            if best.is_greatest {
                metric - former
            } else {
                former - metric
            }
        };
        let improves = self
            .best_metric
            .is_none_or(|former| gain(former) > arguments.early_stopping_threshold);
        self.early_stopping_count = if improves {
            0
        } else {
            self.early_stopping_count + 1
        };
        if arguments
            .early_stopping_patience
            .is_some_and(|n| self.early_stopping_count >= n)
        {
            self.should_stop = true;
        }
        if !metric.is_nan() && self.best_metric.is_none_or(|former| gain(former) > 0.0) {
            self.best_metric = Some(metric);
            self.best_global_step = Some(self.global_step);
        }
        Ok(())
    }

    /// The entry at the end of the run: how long it took and the mean loss of all its steps.
    pub fn summary(&self, plan: &Plan, arguments: &TrainingArguments, seconds: f64) -> LogEntry {
        let n_samples = if arguments.max_steps > 0 {
            (plan.n_steps as usize
                * arguments.per_device_train_batch_size
                * arguments.gradient_accumulation_steps
                * plan.n_ranks) as f64
        } else {
            plan.n_rows as f64 * plan.n_epochs
        };
        // Of a run that was resumed or stopped early, only the steps made now took this time.
        let n_steps = (self.global_step - plan.first_step) as f64;
        let n_samples = n_samples * n_steps / plan.n_steps as f64;
        let mut entry = LogEntry::new();
        entry.insert("train_runtime".to_owned(), json!(round(seconds, 4)));
        entry.insert(
            "train_samples_per_second".to_owned(),
            json!(round(n_samples / seconds, 3)),
        );
        let steps_per_second = round(n_steps / seconds, 3);
        entry.insert("train_steps_per_second".to_owned(), json!(steps_per_second));
        entry.insert(
            "train_loss".to_owned(),
            json!(self.loss_sum / (self.global_step - self.n_skipped_steps).max(1) as f64),
        );
        entry.insert("epoch".to_owned(), json!(self.epoch));
        entry.insert("step".to_owned(), json!(self.global_step));
        entry
    }

    /// The differences between a run with these arguments, data and model, and the one that left off here, each with
    /// both values. How often a run logs and saves may differ, how many steps it may skip, and where no evaluation
    /// decides anything, how often it evaluates.
    pub fn differences(
        &self,
        arguments: &TrainingArguments,
        plan: &Plan,
        fingerprint: &Fingerprint,
    ) -> Vec<String> {
        let fields = |arguments: &TrainingArguments| match serde_json::to_value(arguments) {
            Ok(Value::Object(fields)) => fields,
            _ => LogEntry::new(),
        };
        let (saved, now) = (fields(&self.arguments), fields(arguments));
        let evaluation_decides = self.arguments.evaluation_decides();
        let shapes_the_run = |name: &str| match name.split('-').next() {
            Some("logging" | "save" | "skip" | "auto") => false,
            Some("eval") => evaluation_decides,
            _ => true,
        };
        let mut differences: Vec<String> = saved
            .iter()
            .filter(|(name, value)| shapes_the_run(name) && now.get(*name) != Some(value))
            .map(|(name, value)| {
                let now = now.get(name).unwrap_or(&Value::Null);
                format!("--{name} was {value} and is {now}")
            })
            .collect();
        differences.extend(fingerprint::differences(&self.fingerprint, fingerprint));
        if self.max_steps != plan.n_steps && differences.is_empty() {
            differences.push(format!(
                "the run was to make {} steps and now {}",
                self.max_steps, plan.n_steps
            ));
        }
        differences
    }
}

/// Rounds to `digits` decimals, as transformers rounds its speed metrics.
pub(crate) fn round(value: f64, digits: i32) -> f64 {
    let factor = 10f64.powi(digits);
    (value * factor).round() / factor
}

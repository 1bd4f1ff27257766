//! The arguments of a training run, under the names and with the defaults of transformers'
//! `TrainingArguments`.

use model::Precision;
use serde::{Deserialize, Serialize};

use crate::{
    TrainError,
    optimizer::{OptimizerName, OptimizerOptions},
    schedule::SchedulerType,
};

/// When to evaluate or save (`--eval-strategy`, `--save-strategy`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IntervalStrategy {
    /// Never.
    No,
    /// Every so many optimizer steps.
    Steps,
    /// At the end of each epoch.
    Epoch,
}

/// How a run trains. All counts of steps are optimizer steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct TrainingArguments {
    /// Passes over the training data; a fraction ends within an epoch.
    pub num_train_epochs: f64,
    /// Where positive, the number of steps, instead of `num_train_epochs`.
    pub max_steps: i64,
    /// Rows of the training data per forward and backward pass.
    pub per_device_train_batch_size: usize,
    /// Rows per batch of the evaluation loss, and sentences per batch of encoding.
    pub per_device_eval_batch_size: usize,
    /// Batches whose gradients are summed before an update.
    pub gradient_accumulation_steps: usize,
    /// Embed a batch in parts of so many tokens and each twice, so that memory does not grow with the batch
    /// (gradient caching); otherwise only losses with a `mini_batch_size` do so.
    pub mini_batch_tokens: Option<usize>,
    /// What matrix products are rounded to; the trainer sets it on the model.
    #[serde(default)]
    pub precision: Precision,
    /// Let a GPU round the operands of fp32 products to 10 bits.
    #[serde(default)]
    pub tf32: bool,
    /// Have a GPU use algorithms that give the same bits each time; the CPU's always do.
    #[serde(default)]
    pub full_determinism: bool,
    /// Where a batch does not fit in a GPU's memory, embed it in smaller parts (gradient caching) and go on.
    #[serde(default)]
    pub auto_micro_batch: bool,
    /// Record steps as CUDA graphs where that can be, and launch each at one go.
    #[serde(default)]
    pub cuda_graphs: bool,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Shape of the learning rate over the run.
    pub lr_scheduler_type: SchedulerType,
    /// Steps of warm-up; below one, a share of the run.
    pub warmup_steps: f64,
    /// The update rule.
    pub optim: OptimizerName,
    /// Weight decay, on everything but biases and norms.
    pub weight_decay: f64,
    /// Adam's decay of the first moment.
    pub adam_beta1: f64,
    /// Adam's decay of the second moment.
    pub adam_beta2: f64,
    /// Added to the denominators of Adam and RMSprop.
    pub adam_epsilon: f64,
    /// Momentum of SGD and RMSprop.
    pub momentum: f64,
    /// Largest norm of the gradient; zero switches clipping off.
    pub max_grad_norm: f64,
    /// Steps in a row whose loss or gradient is not finite that are left out instead of ending the run.
    pub skip_nonfinite: u64,
    /// Seed of data order and dropout.
    pub seed: u64,
    /// Seed of the data order alone, where it differs.
    pub data_seed: Option<u64>,
    /// How rows are put into batches.
    pub batch_sampler: data::sampler::BatchSampler,
    /// How the batches of several data sets are mixed.
    #[serde(default = "proportional")]
    pub multi_dataset_batch_sampler: data::sampler::MultiDatasetBatchSampler,
    /// Leave out an epoch's last batch when it is not full.
    pub dataloader_drop_last: bool,
    /// Steps between log entries.
    pub logging_steps: u64,
    /// Log the first step too.
    pub logging_first_step: bool,
    /// When to evaluate.
    pub eval_strategy: IntervalStrategy,
    /// Steps between evaluations; there is one after the last step too.
    pub eval_steps: u64,
    /// When to save a checkpoint.
    pub save_strategy: IntervalStrategy,
    /// Steps between checkpoints; there is one after the last step too.
    pub save_steps: u64,
    /// Checkpoints to keep; the oldest go first, the best one never.
    pub save_total_limit: Option<usize>,
    /// End with the weights of the best evaluation instead of the last step's. A new best is saved even where
    /// `save_steps` leaves it out, which upstream does not do.
    pub load_best_model_at_end: bool,
    /// The metric that decides which evaluation is best; `eval_` may be left out.
    pub metric_for_best_model: Option<String>,
    /// Whether more of that metric is better; by default true unless its name ends in `loss`.
    pub greater_is_better: Option<bool>,
    /// Stop after so many evaluations in a row without improvement.
    pub early_stopping_patience: Option<u64>,
    /// What counts as improvement for early stopping.
    pub early_stopping_threshold: f64,
}

fn proportional() -> data::sampler::MultiDatasetBatchSampler {
    data::sampler::MultiDatasetBatchSampler::Proportional
}

impl Default for TrainingArguments {
    /// The defaults of transformers 5.23 (and so of sentence-transformers 6.0.1).
    fn default() -> Self {
        Self {
            num_train_epochs: 3.0,
            max_steps: -1,
            per_device_train_batch_size: 8,
            per_device_eval_batch_size: 8,
            gradient_accumulation_steps: 1,
            mini_batch_tokens: None,
            precision: Precision::Fp32,
            tf32: false,
            full_determinism: false,
            auto_micro_batch: false,
            cuda_graphs: false,
            learning_rate: 5e-5,
            lr_scheduler_type: SchedulerType::Linear,
            warmup_steps: 0.0,
            optim: OptimizerName::AdamW,
            weight_decay: 0.0,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            momentum: 0.0,
            max_grad_norm: 1.0,
            skip_nonfinite: 0,
            seed: 42,
            data_seed: None,
            batch_sampler: data::sampler::BatchSampler::BatchSampler,
            multi_dataset_batch_sampler: proportional(),
            dataloader_drop_last: false,
            logging_steps: 500,
            logging_first_step: false,
            eval_strategy: IntervalStrategy::No,
            eval_steps: 500,
            save_strategy: IntervalStrategy::Steps,
            save_steps: 500,
            save_total_limit: None,
            load_best_model_at_end: false,
            metric_for_best_model: None,
            greater_is_better: None,
            early_stopping_patience: None,
            early_stopping_threshold: 0.0,
        }
    }
}

impl TrainingArguments {
    /// Looks for values that are out of range or contradict each other, before anything is read or written.
    ///
    /// # Errors
    /// [`TrainError::Arguments`], naming the flag, its value and what is allowed.
    pub fn validate(&self) -> Result<(), TrainError> {
        let require = |holds: bool, problem: &dyn Fn() -> String| {
            if holds {
                Ok(())
            } else {
                Err(TrainError::Arguments(problem()))
            }
        };
        let positive = |flag: &str, value: f64| {
            require(value > 0.0 && value.is_finite(), &|| {
                format!("--{flag} is {value}: it must be a number above 0")
            })
        };
        let not_negative = |flag: &str, value: f64| {
            require(value >= 0.0 && value.is_finite(), &|| {
                format!("--{flag} is {value}: it must be 0 or a number above 0")
            })
        };
        let share = |flag: &str, value: f64| {
            require((0.0..1.0).contains(&value), &|| {
                format!("--{flag} is {value}: it must be at least 0 and below 1")
            })
        };
        let count = |flag: &str, value: u64| {
            require(value > 0, &|| {
                format!("--{flag} is 0: it must be at least 1")
            })
        };
        require(!self.tf32 || self.precision == Precision::Fp32, &|| {
            format!(
                "--tf32 rounds fp32 products, but --precision is {}: leave one of them out",
                self.precision
            )
        })?;
        positive("num-train-epochs", self.num_train_epochs)?;
        require(self.max_steps == -1 || self.max_steps > 0, &|| {
            format!(
                "--max-steps is {}: it must be a number of steps above 0, or -1 to go by --num-train-epochs",
                self.max_steps
            )
        })?;
        count(
            "per-device-train-batch-size",
            self.per_device_train_batch_size as u64,
        )?;
        count(
            "per-device-eval-batch-size",
            self.per_device_eval_batch_size as u64,
        )?;
        count(
            "gradient-accumulation-steps",
            self.gradient_accumulation_steps as u64,
        )?;
        count(
            "mini-batch-tokens",
            self.mini_batch_tokens.unwrap_or(1) as u64,
        )?;
        count("logging-steps", self.logging_steps)?;
        count("eval-steps", self.eval_steps)?;
        count("save-steps", self.save_steps)?;
        not_negative("learning-rate", self.learning_rate)?;
        not_negative("warmup-steps", self.warmup_steps)?;
        require(
            self.warmup_steps < 1.0 || self.warmup_steps.fract() == 0.0,
            &|| {
                format!(
                    "--warmup-steps is {}: it must be a whole number of steps, or a share of the run below 1",
                    self.warmup_steps
                )
            },
        )?;
        not_negative("weight-decay", self.weight_decay)?;
        share("adam-beta1", self.adam_beta1)?;
        share("adam-beta2", self.adam_beta2)?;
        positive("adam-epsilon", self.adam_epsilon)?;
        share("momentum", self.momentum)?;
        require(
            self.momentum == 0.0
                || matches!(self.optim, OptimizerName::Sgd | OptimizerName::RmsProp),
            &|| {
                format!(
                    "--momentum is {}, but only --optim sgd and --optim rmsprop have a momentum",
                    self.momentum
                )
            },
        )?;
        not_negative("max-grad-norm", self.max_grad_norm)?;
        not_negative("early-stopping-threshold", self.early_stopping_threshold)?;
        require(self.save_total_limit != Some(0), &|| {
            "--save-total-limit is 0: it must be at least 1; --save-strategy no writes no checkpoints".to_owned()
        })?;
        if self.load_best_model_at_end {
            require(self.eval_strategy != IntervalStrategy::No, &|| {
                "--load-best-model-at-end needs evaluations: set --eval-strategy steps or epoch"
                    .to_owned()
            })?;
            require(self.eval_strategy == self.save_strategy, &|| {
                "--load-best-model-at-end needs a checkpoint for each evaluation: give --save-strategy and --eval-strategy the same value".to_owned()
            })?;
            require(
                self.eval_strategy != IntervalStrategy::Steps
                    || self.save_steps.is_multiple_of(self.eval_steps),
                &|| {
                    format!(
                        "--load-best-model-at-end needs --save-steps to be a multiple of --eval-steps, but {} is not one of {}",
                        self.save_steps, self.eval_steps
                    )
                },
            )?;
        }
        require(
            self.early_stopping_patience.is_none() || self.eval_strategy != IntervalStrategy::No,
            &|| {
                "--early-stopping-patience needs evaluations: set --eval-strategy steps or epoch"
                    .to_owned()
            },
        )
    }

    /// Whether evaluations decide what comes of the run.
    pub fn evaluation_decides(&self) -> bool {
        self.load_best_model_at_end || self.early_stopping_patience.is_some()
    }

    /// The optimizer that these arguments ask for.
    pub fn optimizer_options(&self) -> OptimizerOptions {
        OptimizerOptions {
            name: self.optim,
            weight_decay: self.weight_decay,
            adam_beta1: self.adam_beta1,
            adam_beta2: self.adam_beta2,
            epsilon: self.adam_epsilon,
            momentum: self.momentum,
        }
    }

    /// The metric that decides which evaluation is best, with its `eval_` in front.
    pub fn best_metric_key(&self) -> String {
        let name = self.metric_for_best_model.as_deref().unwrap_or("loss");
        if name.starts_with("eval_") {
            name.to_owned()
        } else {
            format!("eval_{name}")
        }
    }

    /// Whether more of [`Self::best_metric_key`] is better.
    pub fn best_is_greatest(&self) -> bool {
        self.greater_is_better
            .unwrap_or_else(|| !self.best_metric_key().ends_with("loss"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The message of the error that `change` causes.
    fn refused(change: impl FnOnce(&mut TrainingArguments)) -> String {
        let mut arguments = TrainingArguments::default();
        change(&mut arguments);
        arguments.validate().unwrap_err().to_string()
    }

    #[test]
    fn defaults_are_allowed() {
        TrainingArguments::default().validate().unwrap();
    }

    #[test]
    fn bad_values_are_named() {
        assert_eq!(
            refused(|a| a.num_train_epochs = 0.0),
            "--num-train-epochs is 0: it must be a number above 0"
        );
        assert!(refused(|a| a.num_train_epochs = f64::NAN).contains("is NaN"));
        assert!(refused(|a| a.max_steps = 0).starts_with("--max-steps is 0"));
        assert!(refused(|a| a.max_steps = -2).starts_with("--max-steps is -2"));
        assert!(refused(|a| a.per_device_train_batch_size = 0).contains("at least 1"));
        assert!(refused(|a| a.mini_batch_tokens = Some(0)).starts_with("--mini-batch-tokens is 0"));
        assert!(refused(|a| a.learning_rate = -1e-5).starts_with("--learning-rate"));
        assert!(refused(|a| a.warmup_steps = 1.5).contains("whole number"));
        assert!(refused(|a| a.adam_beta1 = 1.0).contains("below 1"));
        assert!(refused(|a| a.momentum = 0.9).contains("--optim sgd"));
        assert!(refused(|a| a.save_total_limit = Some(0)).contains("--save-strategy no"));
    }

    #[test]
    fn contradictions_are_named() {
        assert!(refused(|a| a.load_best_model_at_end = true).contains("set --eval-strategy"));
        let epoch_against_steps = refused(|a| {
            a.load_best_model_at_end = true;
            a.eval_strategy = IntervalStrategy::Epoch;
        });
        assert!(epoch_against_steps.contains("the same value"));
        let not_a_multiple = refused(|a| {
            a.load_best_model_at_end = true;
            a.eval_strategy = IntervalStrategy::Steps;
            a.eval_steps = 300;
        });
        assert!(not_a_multiple.contains("500 is not one of 300"));
        assert!(refused(|a| a.early_stopping_patience = Some(1)).contains("needs evaluations"));
    }

    #[test]
    fn best_metric_follows_transformers() {
        let mut arguments = TrainingArguments::default();
        assert_eq!(arguments.best_metric_key(), "eval_loss");
        assert!(!arguments.best_is_greatest());
        arguments.metric_for_best_model = Some("all-nli-dev_cosine_accuracy".to_owned());
        assert_eq!(
            arguments.best_metric_key(),
            "eval_all-nli-dev_cosine_accuracy"
        );
        assert!(arguments.best_is_greatest());
    }
}

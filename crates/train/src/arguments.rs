//! The arguments of a training run, under the names and with the defaults of transformers'
//! `TrainingArguments`.

// The doc comments of fields are also help texts, where `[default: ...]` is no link.
#![allow(rustdoc::broken_intra_doc_links)]

use clap::{Args, Command};
use data::sampler::{BatchSampler, MultiDatasetBatchSampler};
use model::Precision;
use serde::{Deserialize, Serialize};

use crate::{
    device,
    error::TrainError,
    optimizer::{OptimizerName, OptimizerOptions},
    schedule::{Schedule, SchedulerKwargs, SchedulerType},
};

/// When to evaluate (`--eval-strategy`).
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

/// When to save a checkpoint (`--save-strategy`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SaveStrategy {
    /// Never.
    No,
    /// Every so many optimizer steps.
    Steps,
    /// At the end of each epoch.
    Epoch,
    /// After each evaluation that is the best so far.
    Best,
}

impl SaveStrategy {
    /// The interval of saves; none where evaluations decide.
    pub fn interval(self) -> IntervalStrategy {
        match self {
            Self::No | Self::Best => IntervalStrategy::No,
            Self::Steps => IntervalStrategy::Steps,
            Self::Epoch => IntervalStrategy::Epoch,
        }
    }
}

/// The arguments of a training run.
///
/// Each field is a flag of `sentune train` and a key of its configuration file too, and says its name, type, default
/// and help in one place: the attributes here. All counts of steps are optimizer steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Args)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Training")]
pub struct TrainingArguments {
    /// Passes over the training data; a fraction ends within an epoch.
    #[arg(long, value_name = "X", alias = "epochs", default_value = "3")]
    pub num_train_epochs: f64,
    /// Number of steps in place of --num-train-epochs; -1 goes by epochs.
    #[arg(
        long,
        value_name = "N",
        default_value = "-1",
        allow_negative_numbers = true
    )]
    pub max_steps: i64,
    /// Rows per batch in training.
    #[arg(long, value_name = "N", alias = "batch-size", default_value = "8")]
    pub per_device_train_batch_size: usize,
    /// Rows per batch of the evaluation loss, and sentences per batch of encoding.
    #[arg(long, value_name = "N", default_value = "8")]
    pub per_device_eval_batch_size: usize,
    /// Batches whose gradients are summed before an update.
    #[arg(long, value_name = "N", default_value = "1")]
    pub gradient_accumulation_steps: usize,
    /// Embed a batch in parts of at most N tokens, each twice (gradient caching), so that memory does not grow with the
    /// batch [default: all at once; 4096 for losses with a mini_batch_size].
    #[arg(long, value_name = "N")]
    pub mini_batch_tokens: Option<usize>,
    /// Precision of matrix products: fp32, bf16, fp16; all else is in fp32.
    #[arg(long, value_name = "NAME", default_value = "fp32", value_parser = by_name::<Precision>)]
    #[serde(default)]
    pub precision: Precision,
    /// Let a GPU round the operands of fp32 products to 10 bits.
    #[arg(long)]
    #[serde(default)]
    pub tf32: bool,
    /// Have a GPU use algorithms that give the same bits each time, which is slower; the CPU's always do.
    #[arg(long)]
    #[serde(default)]
    pub full_determinism: bool,
    /// Where a batch does not fit in a GPU's memory, embed it in smaller parts (gradient caching) and go on.
    #[arg(long)]
    #[serde(default)]
    pub auto_micro_batch: bool,
    /// Record the steps of small batches as CUDA graphs, which saves most of the time to launch them; the build needs
    /// the feature cuda-graphs.
    #[arg(long)]
    #[serde(default)]
    pub cuda_graphs: bool,
    /// Peak learning rate.
    #[arg(
        long,
        value_name = "X",
        alias = "lr",
        default_value = "5e-5",
        allow_negative_numbers = true
    )]
    pub learning_rate: f64,
    /// Shape of the learning rate over the run: linear, cosine, cosine_with_restarts, polynomial, constant,
    /// constant_with_warmup, inverse_sqrt, cosine_with_min_lr, cosine_warmup_with_min_lr, warmup_stable_decay.
    #[arg(long, value_name = "TYPE", default_value = "linear", value_parser = by_name::<SchedulerType>)]
    pub lr_scheduler_type: SchedulerType,
    /// Parameters of that shape, under transformers' names: JSON such as {"num_cycles": 2}, or num_cycles=2,power=3.
    #[arg(long, value_name = "PARAMETERS", default_value = "{}", hide_default_value = true, value_parser = scheduler_kwargs)]
    #[serde(default)]
    pub lr_scheduler_kwargs: SchedulerKwargs,
    /// Steps of warm-up, or below 1 a share of the run.
    #[arg(long, value_name = "X", alias = "warmup-ratio", default_value = "0")]
    pub warmup_steps: f64,
    /// Optimizer: adamw_torch, adam, sgd, rmsprop.
    #[arg(long, value_name = "NAME", alias = "optimizer", default_value = "adamw_torch", value_parser = by_name::<OptimizerName>)]
    pub optim: OptimizerName,
    /// Weight decay, on all but biases and norms.
    #[arg(long, value_name = "X", default_value = "0")]
    pub weight_decay: f64,
    /// Adam's decay of the first moment.
    #[arg(long, value_name = "X", default_value = "0.9")]
    pub adam_beta1: f64,
    /// Adam's decay of the second moment.
    #[arg(long, value_name = "X", default_value = "0.999")]
    pub adam_beta2: f64,
    /// Number added to the denominators of Adam and RMSprop.
    #[arg(long, value_name = "X", default_value = "1e-8")]
    pub adam_epsilon: f64,
    /// Momentum of SGD and RMSprop.
    #[arg(long, value_name = "X", default_value = "0")]
    pub momentum: f64,
    /// Largest norm of the gradient; 0 switches clipping off.
    #[arg(long, value_name = "X", default_value = "1")]
    pub max_grad_norm: f64,
    /// Leave out up to N steps in a row whose loss or gradient is not finite, instead of ending the run.
    #[arg(long, value_name = "N", default_value = "0")]
    pub skip_nonfinite: u64,
    /// Seed of data order and dropout.
    #[arg(long, value_name = "N", default_value = "42")]
    pub seed: u64,
    /// Seed of the order of rows alone, with one data set and the batch_sampler sampler [default: that of --seed].
    #[arg(long, value_name = "N")]
    pub data_seed: Option<u64>,
    /// Order of the rows in batches: batch_sampler (any), no_duplicates (no text twice in a batch), group_by_label
    /// (several rows of each label in a batch).
    #[arg(long, value_name = "NAME", default_value = "batch_sampler", value_parser = by_name::<BatchSampler>)]
    pub batch_sampler: BatchSampler,
    /// Order of the batches of several data sets: proportional, round_robin.
    #[arg(long, value_name = "NAME", default_value = "proportional", value_parser = by_name::<MultiDatasetBatchSampler>)]
    #[serde(default = "proportional")]
    pub multi_dataset_batch_sampler: MultiDatasetBatchSampler,
    /// Leave out an epoch's last batch when it is not full.
    #[arg(long)]
    pub dataloader_drop_last: bool,

    /// Steps between log entries.
    #[arg(long, value_name = "N", default_value = "500", help_heading = LOGGING)]
    pub logging_steps: u64,
    /// Log the first step too.
    #[arg(long, help_heading = LOGGING)]
    pub logging_first_step: bool,
    /// When to evaluate: no, steps, epoch.
    #[arg(long, value_name = "WHEN", default_value = "no", value_parser = by_name::<IntervalStrategy>, help_heading = LOGGING)]
    pub eval_strategy: IntervalStrategy,
    /// Steps between evaluations [default: --logging-steps]. There is one after the last step too.
    #[arg(long, value_name = "N", default_value = "500", hide_default_value = true, help_heading = LOGGING)]
    pub eval_steps: u64,
    /// When to save a checkpoint: no, steps, epoch, best (each evaluation that is the best so far).
    #[arg(long, value_name = "WHEN", default_value = "steps", value_parser = by_name::<SaveStrategy>, help_heading = LOGGING)]
    pub save_strategy: SaveStrategy,
    /// Steps between checkpoints. There is one after the last step too.
    #[arg(long, value_name = "N", default_value = "500", help_heading = LOGGING)]
    pub save_steps: u64,
    /// Checkpoints to keep; the oldest go first, the best one never [default: all].
    #[arg(long, value_name = "N", help_heading = LOGGING)]
    pub save_total_limit: Option<usize>,
    /// End with the weights of the best evaluation instead of the last step's; a new best is saved even between two
    /// saves, which upstream does not do.
    #[arg(long, help_heading = LOGGING)]
    pub load_best_model_at_end: bool,
    /// Metric that decides which evaluation is best; `eval_` may be left out, and the name of the data
    /// set where one metric alone ends so [default: loss].
    #[arg(long, value_name = "KEY", help_heading = LOGGING)]
    pub metric_for_best_model: Option<String>,
    /// Whether more of that metric is better [default: unless its name ends in `loss`].
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL", help_heading = LOGGING)]
    pub greater_is_better: Option<bool>,
    /// Stop after N evaluations in a row without improvement.
    #[arg(long, value_name = "N", help_heading = LOGGING)]
    pub early_stopping_patience: Option<u64>,
    /// Least gain that counts as improvement for early stopping.
    #[arg(long, value_name = "X", default_value = "0", help_heading = LOGGING)]
    pub early_stopping_threshold: f64,
}

/// Heading of the flags about logging, evaluating and saving in the help.
const LOGGING: &str = "Logging, evaluating, saving";

/// Reads a value by the name that serde gives it, so that flags and configuration files agree.
///
/// # Errors
/// The names that there are.
pub fn by_name<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, String> {
    serde_json::from_value(serde_json::Value::String(text.to_owned()))
        .map_err(|error| error.to_string())
}

/// Reads the parameters of a schedule: a JSON object, or `key=value` with commas between.
fn scheduler_kwargs(text: &str) -> Result<SchedulerKwargs, String> {
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text).map_err(|error| error.to_string());
    }
    let pairs = text.split(',').map(|pair| {
        let (key, value) = pair
            .split_once('=')
            .ok_or_else(|| format!("`{pair}` is not of the form key=value"))?;
        let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
        Ok((key.trim().to_owned(), value))
    });
    pairs.collect()
}

fn proportional() -> MultiDatasetBatchSampler {
    MultiDatasetBatchSampler::Proportional
}

impl Default for TrainingArguments {
    /// The defaults of transformers 5.24.0 (and so of sentence-transformers 6.2.0), as the fields' attributes say them.
    fn default() -> Self {
        flag_defaults()
    }
}

/// The values of flags where none is given.
pub fn flag_defaults<A: Args>() -> A {
    let command = A::augment_args(Command::new("defaults").no_binary_name(true));
    let matches = command.get_matches_from(std::iter::empty::<&str>());
    A::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

impl TrainingArguments {
    /// Validates, and sets libtorch's switches for the process. [`crate::Trainer`] does so by itself; a program that
    /// computes on a GPU before calls it first, since cuBLAS has to know at its first use that it is to be
    /// deterministic.
    ///
    /// # Errors
    /// [`TrainError::Arguments`] from [`Self::validate`], and libtorch's.
    pub fn prepare(&self) -> Result<(), TrainError> {
        self.validate()?;
        device::configure(self.tf32, self.full_determinism)
    }

    /// Looks for values that are out of range or contradict each other, before anything is read or written.
    ///
    /// # Errors
    /// [`TrainError::Arguments`], naming the flag, its value and the allowed values.
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
        let (kind, kwargs) = (self.lr_scheduler_type, &self.lr_scheduler_kwargs);
        Schedule::new(kind, kwargs, self.learning_rate, 0, 1)?;
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
        for (asks, flag) in [
            (self.load_best_model_at_end, "--load-best-model-at-end"),
            (
                self.early_stopping_patience.is_some(),
                "--early-stopping-patience",
            ),
            (
                self.save_strategy == SaveStrategy::Best,
                "--save-strategy best",
            ),
        ] {
            require(!asks || self.eval_strategy != IntervalStrategy::No, &|| {
                format!("{flag} needs evaluations: set --eval-strategy steps or epoch")
            })?;
        }
        if self.load_best_model_at_end && self.save_strategy != SaveStrategy::Best {
            require(self.eval_strategy == self.save_strategy.interval(), &|| {
                "--load-best-model-at-end needs a checkpoint for each evaluation: give --save-strategy and --eval-strategy the same value, or --save-strategy best".to_owned()
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
        Ok(())
    }

    /// Whether evaluations decide on the result of the run.
    pub fn evaluation_decides(&self) -> bool {
        self.load_best_model_at_end || self.early_stopping_patience.is_some()
    }

    /// Whether the best evaluation is to be known.
    pub fn wants_best(&self) -> bool {
        self.evaluation_decides()
            || self.metric_for_best_model.is_some()
            || self.save_strategy == SaveStrategy::Best
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
    fn scheduler_kwargs_are_json_or_pairs() {
        let json = scheduler_kwargs(r#"{"num_cycles": 2, "decay_type": "1-sqrt"}"#).unwrap();
        assert_eq!(
            scheduler_kwargs("num_cycles=2,decay_type=1-sqrt").unwrap(),
            json
        );
        assert!(scheduler_kwargs("{}").unwrap().is_empty());
        let error = scheduler_kwargs("num_cycles").unwrap_err();
        assert_eq!(error, "`num_cycles` is not of the form key=value");
        assert!(scheduler_kwargs("{num_cycles: 2}").is_err());
    }

    #[test]
    fn unknown_names_list_the_known() {
        let error = by_name::<SchedulerType>("liner").unwrap_err();
        assert!(
            error.contains("`linear`") && error.contains("`constant_with_warmup`"),
            "{error}"
        );
    }
}

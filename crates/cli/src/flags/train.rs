//! Flags of `sentune train`.

// The doc comments of flags are also their help texts, where `<s>` is a token and not a tag.
#![allow(rustdoc::invalid_html_tags, rustdoc::broken_intra_doc_links)]

use std::path::PathBuf;

use clap::Args;
use data::OnBadRow;
use serde::{Deserialize, Serialize};

use crate::{
    flags::{names::named, prompts},
    named::Named,
};

/// The flags of `sentune train`, which are also the keys of its configuration file.
///
/// All are optional: a flag wins over the file, the file over the default.
#[derive(Debug, Default, Clone, PartialEq, Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct TrainFlags {
    /// Configuration file (TOML) whose keys are the names of these flags; flags win over it.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub(crate) config: Option<PathBuf>,

    /// Model to start from: a folder, or a name on the hub with an optional @revision
    /// [default: microsoft/mpnet-base].
    #[arg(long, value_name = "MODEL", help_heading = "Model and data")]
    pub(crate) model: Option<String>,
    /// Training data: a file, glob or folder (parquet, CSV, TSV, JSON Lines), or a name on the hub with an
    /// optional :subset; several as NAME=DATA, each with the flag
    /// [default: sentence-transformers/all-nli:triplet].
    #[arg(long, value_name = "DATA", help_heading = "Model and data")]
    #[serde(with = "crate::named", skip_serializing_if = "Option::is_none")]
    pub(crate) train_data: Option<Vec<Named<String>>>,
    /// Data for evaluations during training; several as NAME=DATA.
    #[arg(long, value_name = "DATA", help_heading = "Model and data")]
    #[serde(with = "crate::named", skip_serializing_if = "Option::is_none")]
    pub(crate) eval_data: Option<Vec<Named<String>>>,
    /// Data for the evaluation before and after [default with the default training data: its test split].
    #[arg(long, value_name = "DATA", help_heading = "Model and data")]
    pub(crate) test_data: Option<String>,
    /// Evaluator for the evaluation and test data: triplet, embedding-similarity, binary-classification,
    /// translation [default: triplet or embedding-similarity, by the columns].
    #[arg(long, value_name = "EVALUATOR", help_heading = "Model and data")]
    pub(crate) evaluator: Option<train::EvaluatorKind>,
    /// Columns to use, in order, separated by commas; labels by their name [default: all].
    #[arg(
        long,
        value_name = "NAMES",
        value_delimiter = ',',
        help_heading = "Model and data"
    )]
    pub(crate) columns: Option<Vec<String>>,
    /// Text put before the texts of a column, in training and in the evaluation loss: TEXT for all columns,
    /// COLUMN=TEXT, SET=TEXT or SET.COLUMN=TEXT, several each with the flag, or JSON [default: none].
    #[arg(long, value_name = "PROMPT", value_parser = prompts::parse, help_heading = "Model and data")]
    #[serde(with = "prompts", skip_serializing_if = "Option::is_none")]
    pub(crate) prompts: Option<Vec<train::Prompts>>,
    /// Use only the first N rows of the training data [default with the default training data: 100000].
    #[arg(long, value_name = "N", help_heading = "Model and data")]
    pub(crate) max_train_samples: Option<usize>,
    /// Use only the first N rows of the evaluation data.
    #[arg(long, value_name = "N", help_heading = "Model and data")]
    pub(crate) max_eval_samples: Option<usize>,
    /// Rows that hold an empty text or no value: error (stop and name them), skip (leave them out and count them)
    /// [default: error].
    #[arg(long, value_name = "ROWS", value_parser = named::<OnBadRow>, help_heading = "Model and data")]
    pub(crate) on_bad_row: Option<OnBadRow>,
    /// Folder of the run; the trained model goes to its `final` [default: runs/<model>-<data>].
    #[arg(long, value_name = "FOLDER", help_heading = "Model and data")]
    pub(crate) output_dir: Option<PathBuf>,
    /// Start over in a folder that already holds a run, and remove that run's files.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL", help_heading = "Model and data")]
    #[serde(skip)]
    pub(crate) overwrite_output_dir: Option<bool>,
    /// Go on from a checkpoint of the same run: a folder, or the newest one that is whole.
    #[arg(long, alias = "resume", num_args = 0..=1, default_missing_value = "last", value_name = "CHECKPOINT", help_heading = "Model and data")]
    #[serde(skip)]
    pub(crate) resume_from_checkpoint: Option<String>,
    /// Go on from the checkpoint even if data, loss, model or arguments are not those of its run.
    #[arg(long, requires = "resume_from_checkpoint", num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL", help_heading = "Model and data")]
    #[serde(skip)]
    pub(crate) resume_anyway: Option<bool>,
    /// Longest input in tokens; longer texts are cut off [default: the model's].
    #[arg(long, value_name = "N", help_heading = "Model and data")]
    pub(crate) max_seq_length: Option<usize>,
    /// Dropout probability everywhere [default: the model's].
    #[arg(long, value_name = "P", help_heading = "Model and data")]
    pub(crate) dropout: Option<f64>,
    /// Keep token ids in the cache folder, and take them from there [default: true].
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL", help_heading = "Model and data")]
    #[serde(skip)]
    pub(crate) token_cache: Option<bool>,

    /// Loss and its parameters, such as `multiple-negatives-ranking:scale=20`, `triplet:margin=5`; class names
    /// are accepted [default: multiple-negatives-ranking].
    /// With several data sets, one for all or NAME=LOSS for each.
    #[arg(long, value_name = "LOSS", help_heading = "Training")]
    #[serde(with = "crate::named", skip_serializing_if = "Option::is_none")]
    pub(crate) loss: Option<Vec<Named<losses::LossConfig>>>,
    /// Model whose embeddings, or similarities of query and document, are the labels: for mse, embed-distill,
    /// margin-mse and distill-kl-div.
    #[arg(long, value_name = "MODEL", help_heading = "Training")]
    pub(crate) teacher: Option<String>,
    /// Passes over the training data [default: 3].
    #[arg(long, value_name = "X", alias = "epochs", help_heading = "Training")]
    pub(crate) num_train_epochs: Option<f64>,
    /// Number of steps instead of epochs [default: -1, by epochs].
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        help_heading = "Training"
    )]
    pub(crate) max_steps: Option<i64>,
    /// Rows per batch in training [default: 8].
    #[arg(
        long,
        value_name = "N",
        alias = "batch-size",
        help_heading = "Training"
    )]
    pub(crate) per_device_train_batch_size: Option<usize>,
    /// Rows per batch in evaluation [default: 8].
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub(crate) per_device_eval_batch_size: Option<usize>,
    /// Batches whose gradients are summed before an update [default: 1].
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub(crate) gradient_accumulation_steps: Option<usize>,
    /// Embed a batch in parts of at most N tokens, each twice, so that memory does not grow with the batch
    /// [default: all at once; 4096 for losses with a mini_batch_size].
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub(crate) mini_batch_tokens: Option<usize>,
    /// What matrix products are computed in: fp32, bf16, fp16; all else is in fp32 [default: fp32].
    #[arg(long, value_name = "NAME", value_parser = named::<model::Precision>, help_heading = "Training")]
    pub(crate) precision: Option<model::Precision>,
    /// As --precision bf16.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL", conflicts_with = "precision", help_heading = "Training")]
    #[serde(skip)]
    pub(crate) bf16: Option<bool>,
    /// As --precision fp16.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL", conflicts_with_all = ["precision", "bf16"], help_heading = "Training")]
    #[serde(skip)]
    pub(crate) fp16: Option<bool>,
    /// Let a GPU round the operands of fp32 products to 10 bits [default: false].
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL", help_heading = "Training")]
    pub(crate) tf32: Option<bool>,
    /// Have a GPU give the same bits each time, which is slower; the CPU always does [default: false].
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL", help_heading = "Training")]
    pub(crate) full_determinism: Option<bool>,
    /// Where a batch does not fit in a GPU's memory, embed it in smaller parts, each twice, and go on
    /// [default: false].
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL", help_heading = "Training")]
    pub(crate) auto_micro_batch: Option<bool>,
    /// Record the steps of small batches as CUDA graphs, which saves most of the time to launch them; the build needs
    /// the feature cuda-graphs [default: false].
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL", help_heading = "Training")]
    pub(crate) cuda_graphs: Option<bool>,
    /// Who computes: auto, kernels (ours, on the CPU), libtorch (on any device) [default: auto].
    #[arg(long, value_name = "NAME", value_parser = named::<model::Engine>, help_heading = "Training")]
    pub(crate) engine: Option<model::Engine>,
    /// Who multiplies matrices in fp32: auto, rust, libtorch [default: auto].
    #[arg(long, value_name = "NAME", value_parser = named::<model::GemmName>, help_heading = "Training")]
    pub(crate) gemm: Option<model::GemmName>,
    /// Peak learning rate [default: 5e-5].
    #[arg(
        long,
        value_name = "X",
        alias = "lr",
        allow_negative_numbers = true,
        help_heading = "Training"
    )]
    pub(crate) learning_rate: Option<f64>,
    /// Shape of the learning rate: linear, cosine, constant, constant_with_warmup [default: linear].
    #[arg(long, value_name = "TYPE", value_parser = named::<train::SchedulerType>, help_heading = "Training")]
    pub(crate) lr_scheduler_type: Option<train::SchedulerType>,
    /// Steps of warm-up, or below 1 a share of the run [default: 0].
    #[arg(
        long,
        value_name = "X",
        alias = "warmup-ratio",
        help_heading = "Training"
    )]
    pub(crate) warmup_steps: Option<f64>,
    /// Optimizer: adamw_torch, adam, sgd, rmsprop [default: adamw_torch].
    #[arg(long, value_name = "NAME", alias = "optimizer", value_parser = named::<train::OptimizerName>, help_heading = "Training")]
    pub(crate) optim: Option<train::OptimizerName>,
    /// Weight decay, on all but biases and norms [default: 0].
    #[arg(long, value_name = "X", help_heading = "Training")]
    pub(crate) weight_decay: Option<f64>,
    /// Adam's decay of the first moment [default: 0.9].
    #[arg(long, value_name = "X", help_heading = "Training")]
    pub(crate) adam_beta1: Option<f64>,
    /// Adam's decay of the second moment [default: 0.999].
    #[arg(long, value_name = "X", help_heading = "Training")]
    pub(crate) adam_beta2: Option<f64>,
    /// Added to the denominators of Adam and RMSprop [default: 1e-8].
    #[arg(long, value_name = "X", help_heading = "Training")]
    pub(crate) adam_epsilon: Option<f64>,
    /// Momentum of SGD and RMSprop [default: 0].
    #[arg(long, value_name = "X", help_heading = "Training")]
    pub(crate) momentum: Option<f64>,
    /// Largest norm of the gradient, 0 for no clipping [default: 1].
    #[arg(long, value_name = "X", help_heading = "Training")]
    pub(crate) max_grad_norm: Option<f64>,
    /// Leave out up to N steps in a row whose loss or gradient is not finite, instead of stopping [default: 0].
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub(crate) skip_nonfinite: Option<u64>,
    /// Seed of data order and dropout [default: 42].
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub(crate) seed: Option<u64>,
    /// Seed of the data order alone [default: that of --seed].
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub(crate) data_seed: Option<u64>,
    /// How rows are put into batches: batch_sampler, no_duplicates, group_by_label [default: batch_sampler].
    #[arg(long, value_name = "NAME", value_parser = named::<data::sampler::BatchSampler>, help_heading = "Training")]
    pub(crate) batch_sampler: Option<data::sampler::BatchSampler>,
    /// How the batches of several data sets are mixed: proportional, round_robin [default: proportional].
    #[arg(long, value_name = "NAME", value_parser = named::<data::sampler::MultiDatasetBatchSampler>, help_heading = "Training")]
    pub(crate) multi_dataset_batch_sampler: Option<data::sampler::MultiDatasetBatchSampler>,
    /// Leave out an epoch's last batch when it is not full [default: false].
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL", help_heading = "Training")]
    pub(crate) dataloader_drop_last: Option<bool>,

    /// Steps between log entries [default: 500].
    #[arg(long, value_name = "N", help_heading = "Logging, evaluating, saving")]
    pub(crate) logging_steps: Option<u64>,
    /// Log the first step too [default: false].
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL", help_heading = "Logging, evaluating, saving")]
    pub(crate) logging_first_step: Option<bool>,
    /// When to evaluate: no, steps, epoch [default: no].
    #[arg(long, value_name = "WHEN", value_parser = named::<train::IntervalStrategy>, help_heading = "Logging, evaluating, saving")]
    pub(crate) eval_strategy: Option<train::IntervalStrategy>,
    /// Steps between evaluations [default: --logging-steps].
    #[arg(long, value_name = "N", help_heading = "Logging, evaluating, saving")]
    pub(crate) eval_steps: Option<u64>,
    /// When to save a checkpoint: no, steps, epoch [default: steps].
    #[arg(long, value_name = "WHEN", value_parser = named::<train::IntervalStrategy>, help_heading = "Logging, evaluating, saving")]
    pub(crate) save_strategy: Option<train::IntervalStrategy>,
    /// Steps between checkpoints [default: 500].
    #[arg(long, value_name = "N", help_heading = "Logging, evaluating, saving")]
    pub(crate) save_steps: Option<u64>,
    /// Checkpoints to keep, the oldest go first, the best never [default: all].
    #[arg(long, value_name = "N", help_heading = "Logging, evaluating, saving")]
    pub(crate) save_total_limit: Option<usize>,
    /// End with the weights of the best evaluation [default: false].
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL", help_heading = "Logging, evaluating, saving")]
    pub(crate) load_best_model_at_end: Option<bool>,
    /// Metric that decides which evaluation is best [default: loss].
    #[arg(long, value_name = "KEY", help_heading = "Logging, evaluating, saving")]
    pub(crate) metric_for_best_model: Option<String>,
    /// Whether more of that metric is better [default: unless it ends in `loss`].
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL", help_heading = "Logging, evaluating, saving")]
    pub(crate) greater_is_better: Option<bool>,
    /// Stop after N evaluations in a row without improvement.
    #[arg(long, value_name = "N", help_heading = "Logging, evaluating, saving")]
    pub(crate) early_stopping_patience: Option<u64>,
    /// What counts as improvement for early stopping [default: 0].
    #[arg(long, value_name = "X", help_heading = "Logging, evaluating, saving")]
    pub(crate) early_stopping_threshold: Option<f64>,
    /// Say at the end where the time of a step went: matrix products, attention and so on.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL", help_heading = "Logging, evaluating, saving")]
    #[serde(skip)]
    pub(crate) profile: Option<bool>,
    /// Print every log entry and the results as JSON Lines to stdout.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL", help_heading = "Logging, evaluating, saving")]
    #[serde(skip)]
    pub(crate) json: Option<bool>,
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use clap::Parser;

    use super::*;
    use crate::flags::{Command, Flags, with_dashes};

    /// The training flags that a command line gives.
    fn train_flags(arguments: &[&str]) -> TrainFlags {
        let all = ["sentune", "train"]
            .iter()
            .chain(arguments)
            .map(OsString::from);
        match Flags::try_parse_from(with_dashes(all)).unwrap().command {
            Command::Train(flags) => *flags,
            command => panic!("{command:?} is not train"),
        }
    }

    #[test]
    fn names_of_transformers_are_known() {
        let flags = train_flags(&[
            "--per_device_train_batch_size=16",
            "--optim",
            "adamw_torch_fused",
            "--lr-scheduler-type",
            "constant_with_warmup",
            "--load-best-model-at-end",
            "--greater-is-better=false",
            "--max-steps",
            "-1",
        ]);
        assert_eq!(flags.per_device_train_batch_size, Some(16));
        assert_eq!(flags.optim, Some(train::OptimizerName::AdamW));
        assert_eq!(
            flags.lr_scheduler_type,
            Some(train::SchedulerType::ConstantWithWarmup)
        );
        assert_eq!(flags.load_best_model_at_end, Some(true));
        assert_eq!(flags.greater_is_better, Some(false));
        assert_eq!(flags.max_steps, Some(-1));
    }

    #[test]
    fn precision_is_said_once() {
        let refused = |arguments: &[&str]| {
            let all = ["sentune", "train"].iter().chain(arguments);
            Flags::try_parse_from(all).unwrap_err().to_string()
        };
        for two in [["--bf16", "--fp16"], ["--bf16", "--precision=fp16"]] {
            let message = refused(&two);
            assert!(message.contains("cannot be used with"), "{message}");
        }
        let message = refused(&["--precision=fp8"]);
        assert!(message.contains("`bf16`"), "{message}");
    }

    #[test]
    fn the_last_of_two_flags_wins() {
        assert_eq!(train_flags(&["--seed", "1", "--seed", "2"]).seed, Some(2));
    }
}

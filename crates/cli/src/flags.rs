//! What the user typed: every flag, its help, and the file that may hold the flags of a run.

// The doc comments of flags are also their help texts, where `<s>` is a token and not a tag.
#![allow(rustdoc::invalid_html_tags, rustdoc::broken_intra_doc_links)]

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::{device::DeviceName, named::Named};

mod eval;
pub(crate) mod prompts;
mod search;
mod sweep;

pub(crate) use eval::{EvalDataOptions, EvalFlags, EvaluatorName, MainScore, RetrievalFlags};
pub(crate) use search::{
    ConvertFlags, DataCommand, DataFlags, MineFlags, MinedFormat, Sampling, SearchFlags,
    SplitFlags, StatFlags, TripletsFlags, TwoSidedEncodingFlags,
};
pub(crate) use sweep::SweepFlags;

/// Fine-tune sentence transformers.
#[derive(Debug, Parser)]
#[command(
    name = "sentune",
    version,
    max_term_width = 100,
    args_override_self = true
)]
pub(crate) struct Flags {
    #[command(subcommand)]
    pub(crate) command: Command,

    /// Say more (-v: debug, -vv: trace); RUST_LOG wins over it.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,

    /// Say less: only warnings and errors, no progress.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,

    /// Threads for everything; by default all cores.
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) num_threads: Option<u16>,

    /// What to compute on: auto, cpu, cuda, cuda:N; auto is the first CUDA device where libtorch has CUDA and
    /// there is one, else the CPU [default: auto].
    #[arg(long, global = true, value_name = "DEVICE")]
    pub(crate) device: Option<DeviceName>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Fine-tune a model, with an evaluation before and after. Without flags it is the run of the article:
    /// microsoft/mpnet-base on the first 100,000 NLI triplets.
    Train(Box<TrainFlags>),
    /// Train with every choice of a grid of values, and set the results side by side.
    Sweep(SweepFlags),
    /// Evaluate a model: on triplets, pairs, retrieval, reranking, NanoBEIR and more.
    Eval(Box<EvalFlags>),
    /// Turn sentences into embeddings.
    Encode(EncodeFlags),
    /// Mine hard negatives: texts that are near an anchor and not its positives.
    Mine(Box<MineFlags>),
    /// Find the texts of a corpus that are nearest to queries.
    Search(SearchFlags),
    /// Look at data sets, convert them, split them, or make triplets of NLI pairs.
    #[command(subcommand)]
    Data(DataCommand),
    /// Evaluate two models on one data set and tell whether the difference is more than chance.
    Compare(CompareFlags),
    /// Make a small MPNet with random weights, to be trained from nothing.
    Init(InitFlags),
}

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
    /// What to do with rows that hold an empty text or no value [default: error].
    #[arg(long, value_enum, value_name = "WHAT", help_heading = "Model and data")]
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

/// What to do with rows that can't be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum OnBadRow {
    /// Stop and name them.
    Error,
    /// Leave them out and say how many there were.
    Skip,
}

/// How sentences are encoded.
#[derive(Debug, Args)]
pub(crate) struct EncodingFlags {
    /// Most sentences per batch; sentences are sorted by length and never padded, and a batch holds no more
    /// than 2048 tokens.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) batch_size: u32,
    /// Scale embeddings to length one.
    #[arg(long)]
    pub(crate) normalize: bool,
    /// Keep only the first N dimensions.
    #[arg(long, value_name = "N")]
    pub(crate) truncate_dim: Option<usize>,
    /// Text put in front of every sentence.
    #[arg(long, value_name = "TEXT", conflicts_with = "prompt_name")]
    pub(crate) prompt: Option<String>,
    /// Name of one of the model's own prompts, such as `query` or `document`.
    #[arg(long, value_name = "NAME")]
    pub(crate) prompt_name: Option<String>,
    /// Longest input in tokens [default: the model's].
    #[arg(long, value_name = "N")]
    pub(crate) max_seq_length: Option<usize>,
    /// What matrix products are computed in: fp32, bf16, fp16; embeddings are in fp32.
    #[arg(long, value_name = "NAME", default_value = "fp32", value_parser = named::<model::Precision>)]
    pub(crate) precision: model::Precision,
    /// Who multiplies matrices in fp32: auto, rust, libtorch.
    #[arg(long, value_name = "NAME", default_value = "auto", value_parser = named::<model::GemmName>)]
    pub(crate) gemm: model::GemmName,
}

#[derive(Debug, Args)]
pub(crate) struct EncodeFlags {
    /// Model: a folder, or a name on the hub with an optional @revision.
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: String,
    /// Sentences: a text file (one a line), CSV, TSV, JSON Lines or parquet; `-` reads lines from stdin.
    #[arg(long, value_name = "FILE")]
    pub(crate) input: String,
    /// Embeddings: .npy ([n, dimension]), .parquet or .jsonl (text and embedding); `-` writes JSON Lines to
    /// stdout.
    #[arg(long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Column of the input that holds the sentences [default: its only text column].
    #[arg(long, value_name = "NAME")]
    pub(crate) column: Option<String>,
    /// What the sentences are in a search: the model's prompt for that is taken, where it has one and no other is
    /// asked for.
    #[arg(long = "as", value_enum, value_name = "WHAT")]
    pub(crate) task: Option<EncodeTask>,
    /// What to write: one embedding a sentence, or one a token.
    #[arg(long, value_name = "WHAT", default_value = "sentence_embedding", value_parser = ["sentence_embedding", "token_embeddings"])]
    pub(crate) output_value: String,
    /// Quantise embeddings: int8, uint8, binary, ubinary (`precision` of sentence-transformers' `encode`). To .npy
    /// or JSON Lines.
    #[arg(long, value_name = "NAME")]
    pub(crate) quantize: Option<::search::Precision>,
    /// What int8 and uint8 take the ranges of dimensions from: embeddings (.npy), or sentences as for --input
    /// [default: the embeddings themselves].
    #[arg(
        long,
        value_name = "FILE",
        requires = "quantize",
        conflicts_with = "ranges"
    )]
    pub(crate) calibration: Option<String>,
    /// Column of the calibration sentences.
    #[arg(long, value_name = "NAME", requires = "calibration")]
    pub(crate) calibration_column: Option<String>,
    /// The ranges of dimensions themselves: .npy with the least values and the greatest, [2, dimension].
    #[arg(long, value_name = "FILE", requires = "quantize")]
    pub(crate) ranges: Option<PathBuf>,
    /// Write the ranges that were used, for --ranges of another run.
    #[arg(long, value_name = "FILE", requires = "quantize")]
    pub(crate) save_ranges: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) encoding: EncodingFlags,
}

/// What sentences are in a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EncodeTask {
    /// Prompt `query`.
    Query,
    /// Prompt `document`, `passage` or `corpus`.
    Document,
}

#[derive(Debug, Args)]
pub(crate) struct CompareFlags {
    /// The two models: folders, or names on the hub with an optional @revision.
    #[arg(value_name = "MODEL", num_args = 2, required = true)]
    pub(crate) models: Vec<String>,
    /// Data: a file, glob or folder (parquet, CSV, TSV, JSON Lines), or a name on the hub with an optional
    /// :subset. Three text columns are triplets, two with a score are scored pairs.
    #[arg(long, value_name = "DATA")]
    pub(crate) data: String,
    #[command(flatten)]
    pub(crate) options: EvalDataOptions,
    /// Resamplings of the rows behind the interval of the difference.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) bootstrap: u32,
    /// Seed of the resampling.
    #[arg(long, value_name = "N", default_value_t = 42)]
    pub(crate) seed: u64,
    /// Print JSON Lines, one object a metric, instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct InitFlags {
    /// Word pieces, one a line, in MPNet's layout: <s>, <pad>, </s>, <unk>, ... [UNK] ... <mask>.
    #[arg(long, value_name = "FILE")]
    pub(crate) vocab_file: PathBuf,
    /// Folder of the new model.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) output: PathBuf,
    /// Width of embeddings and hidden states.
    #[arg(long, value_name = "N", default_value_t = 768)]
    pub(crate) hidden_size: i64,
    /// Number of layers.
    #[arg(long, value_name = "N", default_value_t = 12)]
    pub(crate) num_hidden_layers: i64,
    /// Attention heads per layer.
    #[arg(long, value_name = "N", default_value_t = 12)]
    pub(crate) num_attention_heads: i64,
    /// Width of the feed-forward layers.
    #[arg(long, value_name = "N", default_value_t = 3072)]
    pub(crate) intermediate_size: i64,
    /// Positions, two more than the longest input.
    #[arg(long, value_name = "N", default_value_t = 514)]
    pub(crate) max_position_embeddings: i64,
    /// Dropout probability everywhere.
    #[arg(long, value_name = "P", default_value_t = 0.1)]
    pub(crate) dropout: f64,
    /// Seed of the weights.
    #[arg(long, value_name = "N", default_value_t = 42)]
    pub(crate) seed: u64,
}

/// The command line with `--flag_name` read as `--flag-name`: transformers' users know both.
pub(crate) fn with_dashes(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    arguments
        .map(|argument| {
            let Some(text) = argument.to_str().filter(|text| text.starts_with("--")) else {
                return argument;
            };
            match text.split_once('=') {
                Some((flag, value)) => format!("{}={value}", flag.replace('_', "-")).into(),
                None => text.replace('_', "-").into(),
            }
        })
        .collect()
}

/// Reads a value by the name that serde gives it, so that flags and configuration file agree.
fn named<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, String> {
    serde_json::from_value(serde_json::Value::String(text.to_owned()))
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn flags_are_consistent() {
        Flags::command().debug_assert();
    }

    #[test]
    fn underscores_are_dashes_in_names_only() {
        let arguments = [
            "--learning_rate",
            "1e-4",
            "--model=a_b",
            "a_b",
            "--",
            "-x_y",
        ];
        let dashed = with_dashes(arguments.iter().map(OsString::from));
        assert_eq!(
            dashed,
            [
                "--learning-rate",
                "1e-4",
                "--model=a_b",
                "a_b",
                "--",
                "-x_y"
            ]
        );
    }

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

    #[test]
    fn unknown_names_list_the_known() {
        let error = named::<train::SchedulerType>("liner").unwrap_err();
        assert!(
            error.contains("`linear`") && error.contains("`constant_with_warmup`"),
            "{error}"
        );
    }
}

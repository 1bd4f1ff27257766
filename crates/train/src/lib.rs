//! Training: the loop, optimizers, schedules, evaluation during a run, and the folder of a run.
//!
//! [`Trainer`] takes a model, a loss, tokenised data and [`TrainingArguments`], and trains as
//! transformers' `Trainer` does under sentence-transformers 6.2.0: the same batch order, the same order of
//! operations within a step, the same log entries. Observers
//! ([`events::Observer`]) are told what happens.
//!
//! Randomness is derived from seed, step and micro-batch, never carried over from step to step.

mod arguments;
mod batches;
mod best_metric;
mod chunking;
mod device;
mod error;
mod evaluation;
pub mod events;
pub mod failpoint;
mod group;
mod loss_weights;
mod observers;
mod optimizer;
mod plan;
mod prompts;
mod run;
mod sampling;
mod schedule;
mod step;
mod tasks;
mod tokenizing;
mod trained;
mod trainer;
mod training_data;

pub use arguments::{IntervalStrategy, SaveStrategy, TrainingArguments, by_name, flag_defaults};
pub use error::{NonFinite, TrainError};
pub use evaluation::{ColumnEmbeddings, Evaluation, evaluator_labels};
pub use group::{
    Facts, Group, Meeting, Watcher,
    error::{GroupError, Lost},
};
pub use loss_weights::LOSS_WEIGHTS;
pub use observers::{MetricsFile, TensorBoard};
pub use optimizer::{Optimizer, OptimizerName, OptimizerOptions, clip_scale, gradient_norm};
pub use plan::Plan;
pub use prompts::{NamedPrompts, Prompts};
pub use run::{
    checkpoint::{Checkpoint, Newest},
    folder::{CONFIG, FINAL, METRICS, RunFolder, write_file, write_folder},
    state::{LossScale, TrainerState},
};
pub use schedule::{Schedule, SchedulerKwargs, SchedulerType, warmup_steps};
pub use tasks::{Objective, Tasks};
pub use tokenizing::{
    Tokenizing, rows_of_steps, token_ids, tokenize, tokenize_prompted, tokenize_to_store,
};
pub use trainer::{RunOutcome, Trainer};
pub use training_data::TrainingData;

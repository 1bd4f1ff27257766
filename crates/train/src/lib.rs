//! Training: the loop, optimizers, schedules, evaluation during a run, and the folder of a run.
//!
//! [`Trainer`] takes a model, a loss, tokenised data and [`TrainingArguments`], and trains as
//! transformers' `Trainer` does under sentence-transformers 6.0.1: the same batch order, the same order of
//! operations within a step, the same log entries. Who wants to know what happens is an [`report::Observer`].
//!
//! Randomness is derived from seed, step and micro-batch, never carried over from step to step.

mod arguments;
mod checkpoint;
mod deferred;
pub mod device;
mod error;
mod evaluation;
pub mod failpoint;
mod graphs;
mod identity;
mod lock;
mod optimizer;
mod owned;
mod prompts;
pub mod report;
mod run_folder;
mod schedule;
mod state;
mod tasks;
mod tensorboard;
mod trainer;

pub use arguments::{IntervalStrategy, TrainingArguments, by_name, flag_defaults};
pub use checkpoint::{Checkpoint, Newest};
pub use error::{NonFinite, TrainError};
pub use evaluation::{ColumnEmbeddings, Evaluation, Evaluator, EvaluatorKind};
pub use optimizer::{Optimizer, OptimizerName, OptimizerOptions, clip_scale, gradient_norm};
pub use owned::LOSS_WEIGHTS;
pub use prompts::{NamedPrompts, Prompts};
pub use run_folder::{CONFIG, FINAL, METRICS, RunFolder, write_file, write_folder};
pub use schedule::{Schedule, SchedulerType, warmup_steps};
pub use state::{LossScale, TrainerState};
pub use tasks::{Objective, Tasks};
pub use trainer::{Outcome, Trainer, TrainingData};

//! The length of a run.

use data::{
    Dataset,
    sampler::{n_batches, n_multi_dataset_batches},
};
use model::{Precision, SentenceTransformer};

use crate::{
    arguments::TrainingArguments, device, error::TrainError, loss_weights::LossWeights,
    schedule::warmup_steps, tasks::Task,
};

/// The length of a run, and the numbers that its progress is measured by.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Rows of the training data.
    pub n_rows: usize,
    /// Batches in an epoch, as upstream counts them: no_duplicates may need fewer.
    pub n_batches_per_epoch: usize,
    /// Updates in an epoch.
    pub n_steps_per_epoch: u64,
    /// Updates in the run.
    pub n_steps: u64,
    /// Updates made before this run took over.
    pub first_step: u64,
    /// Passes over the data.
    pub n_epochs: f64,
    /// Updates of warm-up.
    pub n_warmup_steps: u64,
    /// Trainable parameters.
    pub n_parameters: usize,
    /// Precision of matrix products.
    pub precision: Precision,
    /// Multiplications and additions that a token takes in the linear layers, forward and backward.
    pub flops_per_token: f64,
    /// The same a second that the GPU reaches in large matrix products of that precision, measured before the first
    /// step; `None` on the CPU.
    pub device_flops: Option<f64>,
}

pub(crate) fn datasets<'t>(tasks: &'t [Task<'_>]) -> Vec<&'t Dataset> {
    tasks.iter().map(|task| &task.data.dataset).collect()
}

pub(crate) fn names(tasks: &[Task<'_>]) -> String {
    let names = tasks.iter().map(|task| task.data.dataset.name.as_str());
    names.collect::<Vec<_>>().join(", ")
}

/// Upstream's reckoning of a run's length (`Trainer.set_initial_training_values`).
pub(crate) fn plan(
    arguments: &TrainingArguments,
    tasks: &[Task<'_>],
    loss_weights: &LossWeights,
    model: &SentenceTransformer,
) -> Result<Plan, TrainError> {
    let datasets = datasets(tasks);
    let n_rows = datasets.iter().map(|dataset| dataset.n_rows()).sum();
    let (kind, size) = (
        arguments.batch_sampler,
        arguments.per_device_train_batch_size,
    );
    let n_batches = match datasets.as_slice() {
        [dataset] => n_batches(kind, dataset, size, arguments.dataloader_drop_last),
        datasets => n_multi_dataset_batches(
            arguments.multi_dataset_batch_sampler,
            kind,
            datasets,
            size,
            arguments.dataloader_drop_last,
        ),
    };
    if n_batches == 0 {
        return Err(TrainError::Dataset {
            dataset: names(tasks),
            problem: format!(
                "{n_rows} rows make no batch of {}: lower --per-device-train-batch-size or leave out --dataloader-drop-last",
                arguments.per_device_train_batch_size
            ),
        });
    }
    let n_steps_per_epoch = n_batches.div_ceil(arguments.gradient_accumulation_steps) as u64;
    let (n_steps, n_epochs) = if arguments.max_steps > 0 {
        let n_steps = arguments.max_steps as u64;
        (n_steps, n_steps.div_ceil(n_steps_per_epoch) as f64)
    } else {
        let n_steps = (arguments.num_train_epochs * n_steps_per_epoch as f64).ceil() as u64;
        (n_steps, arguments.num_train_epochs)
    };
    Ok(Plan {
        n_rows,
        n_batches_per_epoch: n_batches,
        n_steps_per_epoch,
        n_steps,
        first_step: 0,
        n_epochs,
        n_warmup_steps: warmup_steps(arguments.warmup_steps, n_steps),
        n_parameters: model.parameters().numel() as usize + loss_weights.numel(),
        precision: arguments.precision,
        flops_per_token: device::flops_per_token(model.encoder().config()),
        device_flops: device::matrix_rate(model.parameters().device(), arguments.precision)?,
    })
}

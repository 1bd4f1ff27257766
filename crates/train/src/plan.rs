//! The length of a run.

use model::Precision;

use crate::{
    arguments::TrainingArguments,
    device,
    error::TrainError,
    sampling::Sampler,
    schedule::warmup_steps,
    tasks::{Task, names, rows},
    trained::Trained,
};

/// The length of a run, and the numbers that its progress is measured by.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Rows of the training data.
    pub n_rows: usize,
    /// Ranks that train together.
    pub n_ranks: usize,
    /// Batches of a rank in an epoch, as upstream counts them: no_duplicates may need fewer.
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

impl Plan {
    /// Upstream's reckoning of a run's length (`Trainer.set_initial_training_values`).
    ///
    /// # Errors
    /// When the data makes no batch, and libtorch's.
    pub(crate) fn new(
        arguments: &TrainingArguments,
        tasks: &[Task<'_>],
        sampler: &Sampler,
        trained: &Trained<'_>,
        n_ranks: usize,
    ) -> Result<Self, TrainError> {
        let rows = rows(tasks);
        let n_rows = rows.iter().map(|rows| rows.n_rows()).sum();
        let n_batches = sampler.n_batches(&rows) / n_ranks;
        if n_batches == 0 {
            let each = match n_ranks {
                1 => String::new(),
                n => format!(" for each of {n} ranks"),
            };
            return Err(TrainError::Dataset {
                dataset: names(tasks),
                problem: format!(
                    "{n_rows} rows make no batch of {}{each}: lower --per-device-train-batch-size or leave out --dataloader-drop-last",
                    sampler.batch_size
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
        let model = &trained.model;
        Ok(Self {
            n_rows,
            n_ranks,
            n_batches_per_epoch: n_batches,
            n_steps_per_epoch,
            n_steps,
            first_step: 0,
            n_epochs,
            n_warmup_steps: warmup_steps(arguments.warmup_steps, n_steps),
            n_parameters: trained.numel(),
            precision: arguments.precision,
            flops_per_token: model.encoder().flops_per_token(model.parameters()),
            device_flops: device::matrix_rate(model.parameters().device(), arguments.precision)?,
        })
    }
}

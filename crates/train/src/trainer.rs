//! The training loop.
//!
//! The order of things within a step is that of transformers' `Trainer` (5.23, `_run_epoch`): forward and
//! backward of each micro-batch, clip, update, schedule, then log, evaluate and save where due.

use std::{ops::ControlFlow, path::PathBuf, time::Instant};

use data::{
    Dataset, TokenizedDataset,
    sampler::{
        self, Batch, epoch_batches, multi_dataset_batches, n_batches, n_multi_dataset_batches,
    },
};
use eval::{Metrics, csv::At};
use kernels::profile::{Part, time};
use losses::{Loss, StepInputs, cached::gradients};
use model::{ChunkLimit, ChunkedBatch, Compute, SentenceTransformer};
use serde_json::json;
use tch::Tensor;

use crate::{
    TrainError,
    arguments::{IntervalStrategy, TrainingArguments},
    checkpoint::{self, Checkpoint, Job, Saver},
    error::NonFinite,
    evaluation::Evaluation,
    failpoint,
    identity::identity,
    optimizer::{Optimizer, clip_scale, gradient_norm},
    owned::LossWeights,
    report::{Event, LogEntry, Observer, Plan, Step},
    run_folder::{RunFolder, write_folder},
    schedule::{Schedule, warmup_steps},
    state::{TrainerState, round},
    tasks::{Objective, Task, Tasks},
};

/// Training data: texts, their tokens, and the name that messages use.
#[derive(Debug)]
pub struct TrainingData {
    /// The texts, which decide what a duplicate is.
    pub dataset: Dataset,
    /// The same rows as token ids.
    pub tokens: TokenizedDataset,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// All steps were made, or early stopping ended the run; with the run's last log entry.
    Finished(LogEntry),
    /// A signal ended the run; the checkpoint of this step was written.
    Interrupted {
        /// Updates made.
        step: u64,
    },
}

/// What came of one step.
enum Stepped {
    Updated(Step),
    /// No update: a number was not finite, and may have been so.
    Skipped(Box<NonFinite>),
    /// No update: a signal came first.
    Interrupted,
}

/// A run: a model, a loss, data, and what is to be done with them.
pub struct Trainer<'a> {
    model: &'a mut SentenceTransformer,
    objectives: Vec<Objective<'a>>,
    training: Vec<Task<'a>>,
    evaluations: Vec<EvaluationTask<'a>>,
    loss_weights: LossWeights,
    arguments: TrainingArguments,
    folder: RunFolder,
    observers: Vec<Box<dyn Observer + 'a>>,
    is_interrupted: &'a dyn Fn() -> bool,
    plan: Plan,
    schedule: Schedule,
    optimizer: Optimizer,
    gradient: Tensor,
    state: TrainerState,
    saver: Saver,
    /// The last step that this trainer began to write a checkpoint of.
    last_saved: Option<u64>,
}

/// Evaluation data, with whether the loss can be computed on it.
struct EvaluationTask<'a> {
    evaluation: &'a Evaluation,
    task: Task<'a>,
    has_loss: bool,
}

impl<'a> Trainer<'a> {
    /// Prepares a run with one data set and one loss; nothing is written yet.
    ///
    /// `is_interrupted` is asked between micro-batches and during evaluation.
    ///
    /// # Errors
    /// When arguments contradict each other, the data doesn't fit the loss, or moments and gradient don't
    /// fit in memory.
    pub fn new(
        model: &'a mut SentenceTransformer,
        loss: &'a dyn Loss,
        data: &'a TrainingData,
        evaluation: Option<&'a Evaluation>,
        arguments: TrainingArguments,
        folder: RunFolder,
        is_interrupted: &'a dyn Fn() -> bool,
    ) -> Result<Self, TrainError> {
        let tasks = Tasks {
            objectives: vec![Objective {
                name: None,
                loss,
                guide: None,
            }],
            training: vec![(data, 0)],
            evaluations: evaluation
                .map(|evaluation| (evaluation, 0))
                .into_iter()
                .collect(),
        };
        Self::with_tasks(model, tasks, arguments, folder, is_interrupted)
    }

    /// As [`Self::new`], with any number of data sets and losses.
    ///
    /// # Errors
    /// As [`Self::new`], and where a loss lacks its guide.
    pub fn with_tasks(
        model: &'a mut SentenceTransformer,
        tasks: Tasks<'a>,
        arguments: TrainingArguments,
        folder: RunFolder,
        is_interrupted: &'a dyn Fn() -> bool,
    ) -> Result<Self, TrainError> {
        arguments.validate()?;
        let Tasks {
            objectives,
            training,
            evaluations,
        } = tasks;
        for Objective { loss, guide, .. } in &objectives {
            if loss.requirements().guide && guide.is_none() {
                return Err(TrainError::Arguments(format!(
                    "{} needs a guide model: add guide=MODEL to the parameters of --loss",
                    loss.name()
                )));
            }
        }
        let task = |data, objective: usize| match objectives.get(objective) {
            Some(found) => Task::new(data, objective, found.guide),
            None => Err(TrainError::Arguments(format!(
                "there is no loss {objective}: the run has {}",
                objectives.len()
            ))),
        };
        let training: Vec<Task<'a>> = training
            .into_iter()
            .map(|(data, objective)| task(data, objective))
            .collect::<Result<_, _>>()?;
        for task in &training {
            task.check(objectives[task.objective].loss)?;
            sampler::check(
                arguments.batch_sampler,
                &task.data.dataset,
                arguments.per_device_train_batch_size,
            )?;
        }
        let mut evaluated = Vec::new();
        for (evaluation, objective) in evaluations {
            let task = task(evaluation.data(), objective)?;
            let batch_size = arguments.per_device_eval_batch_size;
            let has_loss = task.fits(objectives[objective].loss)
                && sampler::check(arguments.batch_sampler, &task.data.dataset, batch_size).is_ok();
            if !has_loss && !evaluation.has_evaluator() {
                task.check(objectives[objective].loss)?;
            }
            evaluated.push(EvaluationTask {
                evaluation,
                task,
                has_loss,
            });
        }
        let loss_weights = LossWeights::new(
            objectives
                .iter()
                .map(|objective| (objective.name, objective.loss)),
            arguments.optimizer_options(),
        )?;
        if evaluated.is_empty() && arguments.eval_strategy != IntervalStrategy::No {
            return Err(TrainError::Arguments(
                "--eval-strategy asks for evaluations, but there is no --eval-data".to_owned(),
            ));
        }
        let compute = Compute {
            precision: arguments.precision,
            ..model.compute()
        };
        model
            .set_compute(compute)
            .map_err(|error| TrainError::Arguments(format!("--{error}")))?;
        let plan = plan(&arguments, &training, &loss_weights, model)?;
        let schedule = Schedule {
            kind: arguments.lr_scheduler_type,
            learning_rate: arguments.learning_rate,
            n_warmup_steps: plan.n_warmup_steps,
            n_steps: plan.n_steps,
        };
        let parameters = model.parameters();
        let optimizer = Optimizer::new(
            arguments.optimizer_options(),
            parameters.flat(),
            parameters.decayed(),
        )?;
        let gradient = parameters.flat().f_zeros_like()?;
        let training_data = datasets(&training);
        let evaluation_data: Vec<&Dataset> = evaluated
            .iter()
            .filter(|_| arguments.evaluation_decides())
            .map(|evaluated| &evaluated.task.data.dataset)
            .collect();
        let identity = identity(model, &objectives, &training_data, &evaluation_data)?;
        let state = TrainerState::new(&arguments, &plan, identity);
        Ok(Self {
            model,
            objectives,
            training,
            evaluations: evaluated,
            loss_weights,
            arguments,
            folder,
            observers: Vec::new(),
            is_interrupted,
            plan,
            schedule,
            optimizer,
            gradient,
            state,
            saver: Saver::default(),
            last_saved: None,
        })
    }

    /// The model with its weights as they are now.
    pub fn model(&self) -> &SentenceTransformer {
        self.model
    }

    /// How far the run is, with its log.
    pub fn state(&self) -> &TrainerState {
        &self.state
    }

    /// What the run will do.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Adds one who is told what happens.
    pub fn observe(&mut self, observer: impl Observer + 'a) {
        self.observers.push(Box::new(observer));
    }

    /// Looks whether a checkpoint is of this very run: arguments, data, loss and starting model.
    ///
    /// # Errors
    /// [`TrainError::Arguments`] with all that differs.
    pub fn check_same_run(&self, checkpoint: &Checkpoint) -> Result<(), TrainError> {
        let differences = self.differences(checkpoint);
        if differences.is_empty() {
            return Ok(());
        }
        Err(TrainError::Arguments(format!(
            "{} is of another run: {}; give what it was, or go on with what it is with --resume-anyway",
            checkpoint.path().display(),
            differences.join(", ")
        )))
    }

    fn differences(&self, checkpoint: &Checkpoint) -> Vec<String> {
        let saved = checkpoint.state();
        saved.differences(&self.arguments, &self.plan, &self.state.identity)
    }

    /// Goes on from a checkpoint of the same run instead of from the start. Where `anyway` is set, data, loss,
    /// arguments and starting model may be others, and hold from here on; what differs is returned.
    ///
    /// # Errors
    /// As [`Self::check_same_run`], and when the weights or moments can't be read or don't fit the model.
    pub fn resume(
        &mut self,
        checkpoint: &Checkpoint,
        anyway: bool,
    ) -> Result<Vec<String>, TrainError> {
        if !anyway {
            self.check_same_run(checkpoint)?;
        }
        let differences = self.differences(checkpoint);
        let saved = checkpoint.state();
        checkpoint.load(self.model, &mut self.optimizer)?;
        let n_updates = saved.global_step - saved.n_skipped_steps;
        self.loss_weights
            .resume(checkpoint.path(), n_updates, anyway)?;
        let now = TrainerState::new(&self.arguments, &self.plan, self.state.identity.clone());
        self.state = TrainerState {
            identity: now.identity,
            eval_steps: now.eval_steps,
            logging_steps: now.logging_steps,
            save_steps: now.save_steps,
            max_steps: now.max_steps,
            num_train_epochs: now.num_train_epochs,
            train_batch_size: now.train_batch_size,
            arguments: now.arguments,
            ..saved.clone()
        };
        self.plan.first_step = self.state.global_step;
        self.folder.forget_evaluations_after(&self.state)?;
        Ok(differences)
    }

    /// Trains to the end, or until interrupted. Checkpoints are written beside; when this returns, with or
    /// without an error, none is in the making.
    ///
    /// # Errors
    /// When a number is not finite, a file can't be written, or libtorch fails.
    pub fn train(&mut self) -> Result<Outcome, TrainError> {
        let outcome = self.run();
        let saved = self.wait_for_save();
        let outcome = outcome?;
        saved?;
        Ok(outcome)
    }

    fn run(&mut self) -> Result<Outcome, TrainError> {
        let started = Instant::now();
        self.tell(&Event::Begin(&self.plan.clone()))?;
        if self.state.is_evaluation_due && !self.evaluate_and_save()? {
            return self.interrupted();
        }
        while !self.is_over() {
            let batches = self.epoch_batches()?;
            let n_steps = batches
                .len()
                .div_ceil(self.arguments.gradient_accumulation_steps);
            // An epoch over other data than the run began with may be shorter than what is done of it.
            if self.state.end_epoch_after(n_steps as u64) {
                continue;
            }
            let steps = batches.chunks(self.arguments.gradient_accumulation_steps);
            for micro_batches in steps.skip(self.state.n_steps_in_epoch as usize) {
                match self.step(micro_batches, n_steps)? {
                    Stepped::Interrupted => return self.interrupted(),
                    Stepped::Skipped(problem) => self.log_skipped(&problem)?,
                    Stepped::Updated(step) => {
                        self.tell(&Event::Step(&step))?;
                        self.log_step(&step)?;
                    }
                }
                self.tell_if_saved()?;
                self.state.is_evaluation_due =
                    self.is_due(self.arguments.eval_strategy, self.arguments.eval_steps);
                if !self.evaluate_and_save()? {
                    return self.interrupted();
                }
                if self.is_over() {
                    break;
                }
            }
        }
        self.finish(started).map(Outcome::Finished)
    }

    /// One update from the gradients of all its micro-batches, unless it is interrupted or a number is not finite
    /// and may be skipped.
    fn step(
        &mut self,
        micro_batches: &[Batch],
        n_steps_of_epoch: usize,
    ) -> Result<Stepped, TrainError> {
        let learning_rate = self.schedule.learning_rate(self.state.global_step);
        let (mut loss, mut n_tokens) = (0.0, 0);
        for (micro_step, batch) in micro_batches.iter().enumerate() {
            if (self.is_interrupted)() {
                return Ok(Stepped::Interrupted);
            }
            let (share, n) = self.accumulate(batch, micro_step, micro_batches.len())?;
            loss += share;
            n_tokens += n;
        }
        if let Some(injected) = failpoint::number("loss") {
            loss = injected;
        }
        if let Some(injected) = failpoint::number("gradient") {
            let _ = self.gradient.f_narrow(0, 0, 1)?.f_fill_(injected)?;
        }
        let n_batches = self.state.n_steps_in_epoch as usize
            * self.arguments.gradient_accumulation_steps
            + micro_batches.len();
        let share_of_epoch = n_batches as f64 / self.plan.n_batches_per_epoch as f64;
        let grad_norm = if loss.is_finite() {
            let norm = gradient_norm(&self.gradient)?;
            Some(self.loss_weights.norm_with(norm)?)
        } else {
            None
        };
        let Some(grad_norm) = grad_norm.filter(|norm| norm.is_finite()) else {
            let problem = Box::new(NonFinite {
                step: self.state.global_step + 1,
                rows: micro_batches
                    .iter()
                    .map(|batch| (self.name_among_many(batch), batch.rows.clone()))
                    .collect(),
                loss,
                grad_norm,
                learning_rate,
            });
            if self.state.n_skipped_steps_in_row >= self.arguments.skip_nonfinite {
                return Err(TrainError::NonFinite(problem));
            }
            let _ = self.gradient.f_zero_()?;
            self.loss_weights.clear()?;
            self.state
                .count_step(None, share_of_epoch, n_steps_of_epoch as u64);
            return Ok(Stepped::Skipped(problem));
        };
        let scale = clip_scale(grad_norm, self.arguments.max_grad_norm);
        let parameters = self.model.parameters().flat();
        self.optimizer
            .step(parameters, &self.gradient, scale, learning_rate)?;
        self.loss_weights.step(scale, learning_rate)?;
        self.state
            .count_step(Some(loss), share_of_epoch, n_steps_of_epoch as u64);
        Ok(Stepped::Updated(Step {
            step: self.state.global_step,
            epoch: self.state.epoch,
            loss,
            grad_norm,
            learning_rate,
            n_rows: micro_batches.iter().map(|batch| batch.rows.len()).sum(),
            n_tokens,
        }))
    }

    /// The name of a batch's data set, where there are several.
    fn name_among_many(&self, batch: &Batch) -> Option<String> {
        let dataset = &self.training[batch.dataset].data.dataset;
        (self.training.len() > 1).then(|| dataset.name.clone())
    }

    /// Forward and backward of one micro-batch. Adds its share of the gradient to the buffers and returns its
    /// share of the step's loss, and its number of tokens.
    fn accumulate(
        &self,
        batch: &Batch,
        micro_step: usize,
        n_micro_batches: usize,
    ) -> Result<(f64, usize), TrainError> {
        let task = &self.training[batch.dataset];
        let loss = self.objectives[task.objective].loss;
        let seed = self.dropout_seed(micro_step);
        let share = 1.0 / n_micro_batches as f64;
        let chunks = self.chunks(task, &task.sentences(&batch.rows))?;
        let layers = loss.prior_layers(self.model.n_layers(), seed);
        let mut of_weights = Vec::new();
        let value = self.model.forward_backward_layers(
            &chunks,
            &layers,
            seed,
            &self.gradient,
            |embeddings| {
                let _timer = time(Part::Loss);
                let inputs = self.loss_inputs(task, &batch.rows, &layers, embeddings)?;
                let found = gradients(loss, &inputs.step(seed), share)?;
                of_weights = found.parameters;
                let own = &found.embeddings[..inputs.n_columns];
                let mut by_layer = vec![Tensor::f_cat(own, 0)?];
                for columns in &found.prior {
                    by_layer.push(Tensor::f_cat(columns, 0)?);
                }
                Ok::<_, TrainError>((found.value, by_layer))
            },
        )?;
        self.loss_weights.add(task.objective, &of_weights)?;
        Ok((f64::try_from(&value)?, chunks.tokens()))
    }

    /// A batch, cut as gradient caching asks for: by the loss or by `mini_batch_tokens`.
    fn chunks(&self, task: &Task<'_>, sentences: &[&[u32]]) -> Result<ChunkedBatch, TrainError> {
        let limit = chunk_limit(
            self.objectives[task.objective].loss.mini_batch_size(),
            self.arguments.mini_batch_tokens,
        );
        let device = self.model.parameters().device();
        Ok(ChunkedBatch::new(sentences, limit, device)?)
    }

    /// What the loss takes, from the embeddings of the last layer and of `layers`, each `[n_columns * n_rows,
    /// dimension]`, column after column.
    fn loss_inputs(
        &self,
        task: &Task<'_>,
        rows: &[u32],
        layers: &[usize],
        embeddings: &[Tensor],
    ) -> Result<LossInputs, TrainError> {
        let n_rows = rows.len() as i64;
        let mut columns = embeddings[0].f_split(n_rows, 0)?;
        let n_columns = columns.len();
        let guide = self.objectives[task.objective].guide;
        if let (Some(guide), Some(sentences)) = (guide, task.guide_sentences(rows)) {
            let guided = guide.embed_chunks(&self.chunks(task, &sentences)?)?;
            columns.extend(guided.f_split(n_rows, 0)?);
        }
        let mut prior = Vec::with_capacity(layers.len());
        for (&layer, embeddings) in layers.iter().zip(&embeddings[1..]) {
            prior.push((layer, embeddings.f_split(n_rows, 0)?));
        }
        let device = embeddings[0].device();
        let labels = task.labels(rows)?;
        let labels = labels
            .map(|labels| labels.f_to_device(device))
            .transpose()?;
        Ok(LossInputs {
            columns,
            n_columns,
            prior,
            labels,
        })
    }

    /// Dropout depends on seed, step and micro-batch alone, so that evaluations in between and a resume
    /// change nothing.
    fn dropout_seed(&self, micro_step: usize) -> u64 {
        mix(mix(mix(self.arguments.seed) ^ self.state.global_step) ^ micro_step as u64)
    }

    /// The batches of the epoch that the run is in.
    fn epoch_batches(&self) -> Result<Vec<Batch>, TrainError> {
        let arguments = &self.arguments;
        let (kind, size) = (
            arguments.batch_sampler,
            arguments.per_device_train_batch_size,
        );
        let (drop_last, epoch) = (arguments.dataloader_drop_last, self.state.epoch_index);
        let seed = arguments.data_seed.unwrap_or(arguments.seed);
        let mut batches: Vec<Batch> = match self.training.as_slice() {
            [task] => epoch_batches(kind, &task.data.dataset, size, drop_last, seed, epoch)
                .into_iter()
                .map(|rows| Batch { dataset: 0, rows })
                .collect(),
            tasks => multi_dataset_batches(
                arguments.multi_dataset_batch_sampler,
                kind,
                &datasets(tasks),
                size,
                drop_last,
                seed,
                epoch,
            ),
        };
        // Upstream's trainer takes no more batches than the sampler's length promises.
        batches.truncate(self.plan.n_batches_per_epoch);
        if batches.is_empty() {
            return Err(TrainError::Dataset {
                dataset: names(&self.training),
                problem: format!(
                    "epoch {} has no batch of {size} rows that share no text: leave out --dataloader-drop-last, or lower --per-device-train-batch-size",
                    epoch + 1,
                ),
            });
        }
        Ok(batches)
    }

    fn is_over(&self) -> bool {
        self.state.should_stop
            || self.is_last_step()
            || self.state.epoch_index as f64 >= self.plan.n_epochs
    }

    fn is_last_step(&self) -> bool {
        self.state.global_step >= self.plan.n_steps
    }

    /// Whether something that happens by `strategy` and `every` so many steps is due after the step just made.
    /// It always is after the last one (transformers' `DefaultFlowCallback`).
    fn is_due(&self, strategy: IntervalStrategy, every: u64) -> bool {
        match strategy {
            IntervalStrategy::No => false,
            IntervalStrategy::Steps => {
                self.state.global_step.is_multiple_of(every) || self.is_last_step()
            }
            IntervalStrategy::Epoch => self.state.n_steps_in_epoch == 0 || self.is_last_step(),
        }
    }

    /// A step that made no update is told at once and logged as what it was. JSON has no word for such numbers,
    /// so they stand as texts.
    fn log_skipped(&mut self, problem: &NonFinite) -> Result<(), TrainError> {
        self.tell(&Event::Skipped(problem))?;
        let mut entry = LogEntry::new();
        entry.insert("skipped_loss".to_owned(), json!(problem.loss.to_string()));
        if let Some(norm) = problem.grad_norm {
            entry.insert("skipped_grad_norm".to_owned(), json!(norm.to_string()));
        }
        entry.insert("learning_rate".to_owned(), json!(problem.learning_rate));
        entry.insert("epoch".to_owned(), json!(self.state.epoch));
        entry.insert("step".to_owned(), json!(problem.step));
        self.log(entry)
    }

    fn log_step(&mut self, step: &Step) -> Result<(), TrainError> {
        let is_first = step.step == 1 && self.arguments.logging_first_step;
        if is_first || step.step.is_multiple_of(self.arguments.logging_steps) {
            let entry = self.state.training_entry(step);
            self.log(entry)?;
        }
        Ok(())
    }

    /// What is due after a step; false when interrupted, in which case the evaluation is still due.
    fn evaluate_and_save(&mut self) -> Result<bool, TrainError> {
        let mut is_new_best = false;
        if self.state.is_evaluation_due {
            if !self.evaluate()? {
                return Ok(false);
            }
            self.state.is_evaluation_due = false;
            is_new_best = self.state.best_global_step == Some(self.state.global_step);
        }
        // Upstream saves at its interval alone, and so loses a best evaluation that falls between two saves.
        let must_keep = is_new_best && self.arguments.load_best_model_at_end;
        if must_keep || self.is_due(self.arguments.save_strategy, self.arguments.save_steps) {
            self.save()?;
        }
        Ok(true)
    }

    /// Evaluation during training: of each data set the loss, then its evaluator. False when interrupted, in
    /// which case nothing is logged or written.
    fn evaluate(&mut self) -> Result<bool, TrainError> {
        let mut done = Vec::new();
        for i in 0..self.evaluations.len() {
            let evaluation = self.evaluations[i].evaluation;
            let prefix = if self.evaluations.len() == 1 {
                "eval".to_owned()
            } else {
                format!("eval_{}", evaluation.name())
            };
            let started = Instant::now();
            let mut entry = LogEntry::new();
            if self.evaluations[i].has_loss {
                let Some((loss, n_batches)) = self.evaluation_loss(&self.evaluations[i].task)?
                else {
                    return Ok(false);
                };
                let seconds = started.elapsed().as_secs_f64();
                let n_rows = evaluation.data().dataset.n_rows() as f64;
                let samples_per_second = round(n_rows / seconds, 3);
                let steps_per_second = round(n_batches as f64 / seconds, 3);
                for (key, value) in [
                    ("loss", loss),
                    ("runtime", round(seconds, 4)),
                    ("samples_per_second", samples_per_second),
                    ("steps_per_second", steps_per_second),
                ] {
                    entry.insert(format!("{prefix}_{key}"), json!(value));
                }
            }
            let mut metrics = None;
            if evaluation.has_evaluator() {
                metrics = self.evaluator_metrics(evaluation)?;
                let Some(metrics) = &metrics else {
                    return Ok(false);
                };
                for (key, value) in metrics.iter() {
                    entry.insert(format!("eval_{key}"), json!(value));
                }
            }
            entry.insert("epoch".to_owned(), json!(self.state.epoch));
            entry.insert("step".to_owned(), json!(self.state.global_step));
            done.push((evaluation, entry, metrics));
        }
        let at = At::Step {
            epoch: self.state.epoch,
            steps: self.state.global_step,
        };
        let mut all = LogEntry::new();
        for (evaluation, entry, metrics) in done {
            if let Some(metrics) = metrics {
                evaluation.append_csv(&self.folder.eval(), &metrics, at)?;
            }
            all.extend(entry.clone());
            self.log(entry)?;
        }
        if !all.is_empty() {
            self.state.note_evaluation(&all, &self.arguments)?;
        }
        Ok(true)
    }

    /// Mean loss over evaluation data, each batch weighted by its rows, and the number of batches.
    ///
    /// The rows are shuffled as upstream shuffles them, since a loss with in-batch negatives depends on who
    /// shares a batch.
    fn evaluation_loss(&self, task: &Task<'_>) -> Result<Option<(f64, usize)>, TrainError> {
        let loss = self.objectives[task.objective].loss;
        let batches = epoch_batches(
            self.arguments.batch_sampler,
            &task.data.dataset,
            self.arguments.per_device_eval_batch_size,
            self.arguments.dataloader_drop_last,
            self.arguments.data_seed.unwrap_or(self.arguments.seed),
            0,
        );
        let (mut sum, mut n_rows) = (0.0, 0);
        for (i, rows) in batches.iter().enumerate() {
            if (self.is_interrupted)() {
                return Ok(None);
            }
            // Whatever the loss draws at random is the same at every evaluation.
            let seed = mix(mix(self.arguments.seed) ^ i as u64);
            let chunks = self.chunks(task, &task.sentences(rows))?;
            let layers = loss.prior_layers(self.model.n_layers(), seed);
            let value = tch::no_grad(|| {
                let embeddings = self.model.embed_layers(&chunks, &layers)?;
                let inputs = self.loss_inputs(task, rows, &layers, &embeddings)?;
                Ok::<_, TrainError>(loss.compute_step(&inputs.step(seed))?)
            })?;
            sum += f64::try_from(&value)? * rows.len() as f64;
            n_rows += rows.len();
        }
        Ok(Some((sum / n_rows as f64, batches.len())))
    }

    fn evaluator_metrics(
        &mut self,
        evaluation: &Evaluation,
    ) -> Result<Option<Metrics>, TrainError> {
        let name = evaluation.name();
        let n_sentences = evaluation.n_sentences();
        self.tell(&Event::EvaluationBegin { name, n_sentences })?;
        let mut told = Ok(());
        let metrics = evaluation.evaluate(self.model, &mut |n_encoded| {
            told = observe(&mut self.observers, &Event::EvaluationProgress(n_encoded));
            if told.is_err() || (self.is_interrupted)() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        told?;
        if let Some(metrics) = &metrics {
            self.tell(&Event::EvaluationEnd(metrics))?;
        }
        Ok(metrics)
    }

    /// Begins to write a checkpoint of the current step, after which those above the limit are removed. It takes
    /// as long as copying weights and moments, and as the checkpoint before still needs.
    fn save(&mut self) -> Result<(), TrainError> {
        self.wait_for_save()?;
        let step = self.state.global_step;
        let path = self.folder.checkpoint(step);
        if let Some(best) = self.state.best_global_step {
            let best_path = self.folder.checkpoint(best);
            if best_path == path || best_path.exists() {
                self.state.best_model_checkpoint = Some(best_path.display().to_string());
            }
        }
        self.saver.start(Job {
            folder: self.folder.clone(),
            step,
            files: checkpoint::files(self.model, &self.loss_weights, &self.optimizer, &self.state)?,
            limit: self.arguments.save_total_limit,
            best_step: self.state.best_global_step,
        })?;
        self.last_saved = Some(step);
        Ok(())
    }

    /// Tells of a checkpoint that has been written since it was asked last.
    fn tell_if_saved(&mut self) -> Result<(), TrainError> {
        match self.saver.poll()? {
            Some(path) => self.tell(&Event::Saved(&path)),
            None => Ok(()),
        }
    }

    fn wait_for_save(&mut self) -> Result<(), TrainError> {
        match self.saver.wait()? {
            Some(path) => self.tell(&Event::Saved(&path)),
            None => Ok(()),
        }
    }

    fn interrupted(&mut self) -> Result<Outcome, TrainError> {
        // Between a save and the next step nothing changes but that an evaluation may be due.
        if self.last_saved != Some(self.state.global_step) {
            self.save()?;
        }
        self.wait_for_save()?;
        Ok(Outcome::Interrupted {
            step: self.state.global_step,
        })
    }

    /// The best weights where asked, the summary, and the trained model in its folder.
    fn finish(&mut self, started: Instant) -> Result<LogEntry, TrainError> {
        self.wait_for_save()?;
        let summary =
            self.state
                .summary(&self.plan, &self.arguments, started.elapsed().as_secs_f64());
        self.log(summary.clone())?;
        if self.arguments.load_best_model_at_end
            && let Some(best) = self.best_checkpoint()
        {
            Checkpoint::open(&best)?.load_weights(self.model)?;
            self.loss_weights.load(&best)?;
        }
        if self.arguments.save_total_limit == Some(1) {
            checkpoint::remove_all_but(&self.folder, self.state.best_global_step)?;
        }
        let mut files = self.model.files()?;
        self.loss_weights.add_to(&mut files)?;
        write_folder(&self.folder.final_model(), &files)?;
        Ok(summary)
    }

    /// The checkpoint of the best evaluation: in this run's folder, which may have been moved, or, where the run
    /// goes on from another folder's checkpoint, in that one.
    fn best_checkpoint(&self) -> Option<PathBuf> {
        let step = self.state.best_global_step?;
        let here = self.folder.checkpoint(step);
        let there = self.state.best_model_checkpoint.as_ref();
        there
            .filter(|_| !here.exists())
            .map(PathBuf::from)
            .or(Some(here))
    }

    fn log(&mut self, entry: LogEntry) -> Result<(), TrainError> {
        observe(&mut self.observers, &Event::Log(&entry))?;
        self.state.log_history.push(entry);
        Ok(())
    }

    fn tell(&mut self, event: &Event<'_>) -> Result<(), TrainError> {
        observe(&mut self.observers, event)
    }
}

fn observe(observers: &mut [Box<dyn Observer + '_>], event: &Event<'_>) -> Result<(), TrainError> {
    observers
        .iter_mut()
        .try_for_each(|observer| observer.on(event))
}

/// The tensors of a [`StepInputs`].
struct LossInputs {
    /// The model's columns, then the guide's.
    columns: Vec<Tensor>,
    /// How many of them are the model's.
    n_columns: usize,
    prior: Vec<(usize, Vec<Tensor>)>,
    labels: Option<Tensor>,
}

impl LossInputs {
    fn step(&self, seed: u64) -> StepInputs<'_> {
        StepInputs {
            embeddings: &self.columns,
            prior: &self.prior,
            labels: self.labels.as_ref(),
            seed,
        }
    }
}

fn datasets<'t>(tasks: &'t [Task<'_>]) -> Vec<&'t Dataset> {
    tasks.iter().map(|task| &task.data.dataset).collect()
}

fn names(tasks: &[Task<'_>]) -> String {
    let names = tasks.iter().map(|task| task.data.dataset.name.as_str());
    names.collect::<Vec<_>>().join(", ")
}

/// Upstream's reckoning of a run's length (`Trainer.set_initial_training_values`).
fn plan(
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
    })
}

/// Tokens of a chunk where the loss asks for chunks and the arguments don't say how large: about 2.4 GB of
/// activations with MPNet-base, and more than enough to keep the cores busy.
const MINI_BATCH_TOKENS: usize = 4096;

/// What gradient caching embeds at a time, where the loss or the arguments ask for it.
fn chunk_limit(mini_batch_size: Option<usize>, mini_batch_tokens: Option<usize>) -> ChunkLimit {
    match (mini_batch_size, mini_batch_tokens) {
        (None, None) => ChunkLimit::NONE,
        (sentences, tokens) => ChunkLimit {
            tokens: tokens.unwrap_or(MINI_BATCH_TOKENS),
            sentences: sentences.unwrap_or(usize::MAX),
        },
    }
}

/// SplitMix64's finaliser: neighbouring steps get unrelated seeds.
fn mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

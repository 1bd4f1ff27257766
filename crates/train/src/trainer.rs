//! The training loop.
//!
//! The order of things within a step is that of transformers' `Trainer` (5.23, `_run_epoch`): forward and
//! backward of each micro-batch, clip, update, schedule, then log, evaluate and save where due.

mod evaluating;
mod gradients;
mod on_device;

use std::{path::PathBuf, time::Instant};

use data::sampler::{self, Batch, epoch_batches, multi_dataset_batches};
use losses::Loss;
use model::{Compute, SentenceTransformer};
use serde_json::json;
use tch::Tensor;

use self::on_device::{deferred, graphs};
use crate::{
    arguments::{IntervalStrategy, TrainingArguments},
    device,
    error::{NonFinite, TrainError},
    evaluation::Evaluation,
    events::{Event, LogEntry, Observer, Step},
    failpoint,
    loss_weights::LossWeights,
    optimizer::{Optimizer, clip_scale, gradient_norm},
    plan::{Plan, datasets, names, plan},
    run::{
        checkpoint::{self, Checkpoint, Job, Saver},
        fingerprint::fingerprint,
        folder::{RunFolder, write_folder},
        state::TrainerState,
    },
    schedule::Schedule,
    step::{
        device::{Deferred, Facts},
        recorded::StepGraphs,
    },
    tasks::{Objective, Task, Tasks},
    tokenizing::TrainingData,
};

/// The end of a run.
#[derive(Debug, Clone, PartialEq)]
pub enum RunOutcome {
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
    /// The device decides, and [`Trainer::settle`] will tell.
    InFlight,
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
    /// Where libtorch computes, the numbers of steps are read later.
    deferred: Option<Deferred>,
    /// Where asked for, steps as CUDA graphs.
    graphs: Option<StepGraphs>,
    /// What a batch is cut to since it did not fit in the GPU's memory.
    fitting_tokens: Option<usize>,
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
    /// `is_interrupted` is asked between micro-batches, between the parts of one, and during evaluation.
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
        device::configure(&arguments)?;
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
        let deferred = deferred(model, &arguments)?;
        let graphs = graphs(&deferred, &arguments);
        let training_data: Vec<&TrainingData> = training.iter().map(|task| task.data).collect();
        let evaluation_data: Vec<&TrainingData> = evaluated
            .iter()
            .filter(|_| arguments.evaluation_decides())
            .map(|evaluated| evaluated.task.data)
            .collect();
        let fingerprint = fingerprint(model, &objectives, &training_data, &evaluation_data)?;
        let state = TrainerState::new(&arguments, &plan, fingerprint);
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
            graphs,
            deferred,
            fitting_tokens: None,
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
        saved.differences(&self.arguments, &self.plan, &self.state.fingerprint)
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
        if let Some(deferred) = &mut self.deferred {
            deferred.restore(n_updates, saved.loss_scale)?;
        }
        let now = TrainerState::new(&self.arguments, &self.plan, self.state.fingerprint.clone());
        self.state = TrainerState {
            fingerprint: now.fingerprint,
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
    pub fn train(&mut self) -> Result<RunOutcome, TrainError> {
        let outcome = self.run();
        let saved = self.wait_for_save();
        let outcome = outcome?;
        saved?;
        Ok(outcome)
    }

    fn run(&mut self) -> Result<RunOutcome, TrainError> {
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
                    Stepped::Updated(step) => self.note_step(&step)?,
                    Stepped::InFlight => self.settle_if_due()?,
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
        self.finish(started).map(RunOutcome::Finished)
    }

    /// One update from the gradients of all its micro-batches, unless it is interrupted or a number is not finite
    /// and may be skipped.
    fn step(
        &mut self,
        micro_batches: &[Batch],
        n_steps_of_epoch: usize,
    ) -> Result<Stepped, TrainError> {
        let learning_rate = self.schedule.learning_rate(self.state.global_step);
        if self.deferred.is_some() {
            return self.step_on_device(micro_batches, n_steps_of_epoch, learning_rate);
        }
        let Some((losses, n_tokens)) = self.accumulate_all(micro_batches)? else {
            return Ok(Stepped::Interrupted);
        };
        let facts = self.count(micro_batches, n_steps_of_epoch, learning_rate, n_tokens);
        let mut loss = 0.0;
        for share in &losses {
            loss += f64::try_from(share)?;
        }
        if let Some(injected) = failpoint::number("loss") {
            loss = injected;
        }
        let grad_norm = if loss.is_finite() {
            let norm = gradient_norm(&self.gradient)?;
            Some(self.loss_weights.norm_with(norm)?)
        } else {
            None
        };
        let Some(grad_norm) = grad_norm.filter(|norm| norm.is_finite()) else {
            let problem = self.skip(facts, loss, grad_norm)?;
            let _ = self.gradient.f_zero_()?;
            self.loss_weights.clear()?;
            return Ok(Stepped::Skipped(problem));
        };
        let scale = clip_scale(grad_norm, self.arguments.max_grad_norm);
        let parameters = self.model.parameters().flat();
        self.optimizer
            .step(parameters, &self.gradient, scale, learning_rate)?;
        self.loss_weights.step(scale, learning_rate)?;
        self.state.note_loss(Some(loss));
        Ok(Stepped::Updated(made_step(facts, loss, grad_norm)))
    }

    /// Counts a step whose batches are through, and says what is known of it without its numbers.
    fn count(
        &mut self,
        micro_batches: &[Batch],
        n_steps_of_epoch: usize,
        learning_rate: f64,
        n_tokens: usize,
    ) -> Facts {
        let n_batches = self.state.n_steps_in_epoch as usize
            * self.arguments.gradient_accumulation_steps
            + micro_batches.len();
        let share_of_epoch = n_batches as f64 / self.plan.n_batches_per_epoch as f64;
        let facts = Facts {
            step: self.state.global_step + 1,
            epoch: self.state.epoch_index as f64 + share_of_epoch,
            learning_rate,
            n_tokens,
            rows: micro_batches
                .iter()
                .map(|batch| (self.name_among_many(batch), batch.rows.clone()))
                .collect(),
        };
        self.state.advance(share_of_epoch, n_steps_of_epoch as u64);
        facts
    }

    /// Takes note of a step that made no update because a number was not finite, or ends the run where no more may
    /// be skipped.
    fn skip(
        &mut self,
        facts: Facts,
        loss: f64,
        grad_norm: Option<f64>,
    ) -> Result<Box<NonFinite>, TrainError> {
        let problem = Box::new(NonFinite {
            step: facts.step,
            rows: facts.rows,
            loss,
            grad_norm,
            learning_rate: facts.learning_rate,
        });
        if self.state.n_skipped_steps_in_row >= self.arguments.skip_nonfinite {
            return Err(TrainError::NonFinite(problem));
        }
        self.state.note_loss(None);
        Ok(problem)
    }

    fn note_step(&mut self, step: &Step) -> Result<(), TrainError> {
        self.tell(&Event::Step(step))?;
        self.log_step(step)
    }

    /// The name of a batch's data set, where there are several.
    fn name_among_many(&self, batch: &Batch) -> Option<String> {
        let dataset = &self.training[batch.dataset].data.dataset;
        (self.training.len() > 1).then(|| dataset.name.clone())
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

    fn is_log_due(&self, step: u64) -> bool {
        let is_first = step == 1 && self.arguments.logging_first_step;
        is_first || step.is_multiple_of(self.arguments.logging_steps)
    }

    fn log_step(&mut self, step: &Step) -> Result<(), TrainError> {
        if self.is_log_due(step.step) {
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

    /// Begins to write a checkpoint of the current step, after which those above the limit are removed. It takes
    /// as long as copying weights and moments, and as the checkpoint before still needs.
    fn save(&mut self) -> Result<(), TrainError> {
        self.wait_for_save()?;
        if let Some(deferred) = &self.deferred {
            self.state.loss_scale = deferred.loss_scale_to_save()?;
        }
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

    fn interrupted(&mut self) -> Result<RunOutcome, TrainError> {
        self.settle()?;
        // Between a save and the next step nothing changes but that an evaluation may be due.
        if self.last_saved != Some(self.state.global_step) {
            self.save()?;
        }
        self.wait_for_save()?;
        Ok(RunOutcome::Interrupted {
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

fn made_step(facts: Facts, loss: f64, grad_norm: f64) -> Step {
    Step {
        step: facts.step,
        epoch: facts.epoch,
        loss,
        grad_norm,
        learning_rate: facts.learning_rate,
        n_rows: facts.rows.iter().map(|(_, rows)| rows.len()).sum(),
        n_tokens: facts.n_tokens,
        device_memory: None,
    }
}

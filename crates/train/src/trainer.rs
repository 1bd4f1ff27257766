//! The training loop.
//!
//! The order of things within a step is that of transformers' `Trainer` (5.24, `_run_epoch`): forward and
//! backward of each micro-batch, clip, update, schedule, then log, evaluate and save where due.

mod evaluating;
mod ranks;

use std::{ops::ControlFlow, path::PathBuf, time::Instant};

use data::{
    TokenStore,
    sampler::{Batch, Rows},
};
use losses::Loss;
use model::{Compute, SentenceTransformer};
use serde_json::json;

use crate::{
    arguments::{IntervalStrategy, SaveStrategy, TrainingArguments},
    batches::{BatchFile, EpochBatches, ReadAhead},
    best_metric::BestMetric,
    chunking::Chunking,
    error::{NonFinite, TrainError},
    evaluation::Evaluation,
    events::{Event, LogEntry, Observer, Step},
    group::Group,
    plan::Plan,
    run::{
        checkpoint::{self, Checkpoint, Job, Saver},
        fingerprint::{self, Fingerprint},
        folder::{RunFolder, write_folder},
        state::TrainerState,
    },
    sampling::{Sampler, whole_rounds},
    schedule::Schedule,
    step::{
        SettledStep, StepFacts, StepWork, Together, Update, device::DeviceUpdate, host::HostUpdate,
    },
    tasks::{EvaluationTask, Objective, Task, Tasks, names},
    trained::Trained,
    training_data::TrainingData,
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

/// A run: a model, data with their losses, and the arguments.
pub struct Trainer<'a> {
    trained: Trained<'a>,
    update: Box<dyn Update>,
    training: Vec<Task<'a>>,
    evaluations: Vec<EvaluationTask<'a>>,
    sampler: Sampler,
    chunking: Chunking,
    schedule: Schedule,
    plan: Plan,
    state: TrainerState,
    /// The metric that decides which evaluation is best, where one does.
    best_metric: Option<BestMetric>,
    arguments: TrainingArguments,
    folder: RunFolder,
    saver: Saver,
    /// The last step that this trainer began to write a checkpoint of.
    last_saved: Option<u64>,
    observers: Vec<Box<dyn Observer + 'a>>,
    is_nothing_learnt_told: bool,
    merges_adapter: bool,
    is_interrupted: &'a dyn Fn() -> bool,
    /// The other ranks, where there are any.
    group: Option<&'a Group>,
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

    /// Prepares a run with any number of data sets and losses; nothing is written yet.
    ///
    /// # Errors
    /// When arguments contradict each other, the data doesn't fit the losses, a loss lacks its guide, or moments and
    /// gradient don't fit in memory.
    pub fn with_tasks(
        model: &'a mut SentenceTransformer,
        tasks: Tasks<'a>,
        arguments: TrainingArguments,
        folder: RunFolder,
        is_interrupted: &'a dyn Fn() -> bool,
    ) -> Result<Self, TrainError> {
        Self::in_group(model, tasks, arguments, folder, is_interrupted, None)
    }

    /// As [`Self::with_tasks`], for one of the ranks of a group. All make the same calls with the same arguments, except
    /// that rank 0 alone has observers and [`Self::resume`]s, which the others follow.
    ///
    /// # Errors
    /// As [`Self::with_tasks`], when a rank has other data or another model, and when one is gone.
    pub fn in_group(
        model: &'a mut SentenceTransformer,
        tasks: Tasks<'a>,
        arguments: TrainingArguments,
        folder: RunFolder,
        is_interrupted: &'a dyn Fn() -> bool,
        group: Option<&'a Group>,
    ) -> Result<Self, TrainError> {
        arguments.prepare()?;
        let n_ranks = group.map_or(1, Group::size);
        if tasks.evaluations.is_empty() && arguments.eval_strategy != IntervalStrategy::No {
            return Err(TrainError::Arguments(
                "--eval-strategy asks for evaluations, but there is no --eval-data".to_owned(),
            ));
        }
        set_precision(model, &arguments)?;
        let sampler = Sampler::training(&arguments, n_ranks);
        let training = tasks.training(&sampler)?;
        if let Some(group) = group {
            group.check_run(&arguments, &training)?;
        }
        let evaluations = tasks.evaluations(&Sampler::evaluation(&arguments))?;
        let best_metric = BestMetric::of_run(&arguments, &evaluations)?;
        let trained = Trained::new(model, &tasks.objectives, arguments.optimizer_options())?;
        let plan = Plan::new(&arguments, &training, &sampler, &trained, n_ranks)?;
        let parts = fingerprint_of(&trained, &tasks, &arguments, &sampler, n_ranks)?;
        if let Some(group) = group {
            group.compare("data", &parts)?;
        }
        Ok(Self {
            update: update(trained.model, &arguments)?,
            chunking: Chunking::new(&arguments),
            schedule: schedule(&arguments, &plan)?,
            state: TrainerState::new(&arguments, &plan, parts),
            trained,
            training,
            evaluations,
            best_metric,
            sampler,
            plan,
            arguments,
            folder,
            saver: Saver::default(),
            last_saved: None,
            observers: Vec::new(),
            is_nothing_learnt_told: false,
            merges_adapter: false,
            is_interrupted,
            group,
        })
    }

    /// The model with its weights as they are now.
    pub fn model(&self) -> &SentenceTransformer {
        self.trained.model
    }

    /// How far the run is, with its log.
    pub fn state(&self) -> &TrainerState {
        &self.state
    }

    /// The length of the run.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Adds an observer, which is told what happens.
    pub fn observe(&mut self, observer: impl Observer + 'a) {
        self.observers.push(Box::new(observer));
    }

    /// Has the trained model's folder hold a whole model, with the adapter merged into its base, instead of the adapter.
    pub fn merge_adapter(&mut self) {
        self.merges_adapter = true;
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
            "{} is of another run: {}; give the former values, or go on with the new ones by --resume-anyway",
            checkpoint.path().display(),
            differences.join(", ")
        )))
    }

    fn differences(&self, checkpoint: &Checkpoint) -> Vec<String> {
        let saved = checkpoint.state();
        saved.differences(&self.arguments, &self.plan, &self.state.fingerprint)
    }

    /// Goes on from a checkpoint of the same run instead of from the start. Where `anyway` is set, data, loss,
    /// arguments and starting model may be others, and hold from here on; the differences are returned.
    ///
    /// # Errors
    /// [`TrainError::Arguments`] where the run is another, and when the weights or moments can't be read or don't fit the model.
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
        checkpoint.load(&mut self.trained, anyway)?;
        self.update
            .restore(checkpoint.n_updates(), saved.loss_scale)?;
        let now = TrainerState::new(&self.arguments, &self.plan, self.state.fingerprint.clone());
        let max_steps = saved.max_steps;
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
        self.fit_to_ranks(fingerprint::n_ranks(&saved.fingerprint), max_steps)?;
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
        self.share()?;
        self.tell(&Event::Begin(&self.plan.clone()))?;
        if self.state.is_evaluation_due && self.evaluate_and_save()?.is_break() {
            return self.interrupted();
        }
        let stores = self.training.iter().map(|task| task.data.store.clone());
        let mut read_ahead = ReadAhead::start(stores.collect())?;
        while !self.is_over() {
            let batches = self.epoch_batches()?;
            let n_batches = self.batches_per_step();
            let n_steps = batches.len().div_ceil(n_batches) as u64;
            // After a resume with other data, an epoch may be shorter than the part of it that is done.
            if self.state.end_epoch_after(n_steps) {
                continue;
            }
            let first = self.state.n_steps_in_epoch;
            for step in first..n_steps {
                let micro_batches = batches.of_step(step, n_batches)?;
                if let Some(read_ahead) = &mut read_ahead {
                    read_ahead.announce(step, step == first, |step| {
                        let batches = batches.of_step(step, n_batches)?;
                        Ok(self.own_batches(&batches).into_owned())
                    })?;
                }
                if self.step(&micro_batches, n_steps)?.is_break() {
                    return self.interrupted();
                }
                self.settle(self.is_anything_due())?;
                self.tell_if_saved()?;
                self.state.is_evaluation_due =
                    self.is_due(self.arguments.eval_strategy, self.arguments.eval_steps);
                if self.evaluate_and_save()?.is_break() {
                    return self.interrupted();
                }
                if self.is_over() {
                    break;
                }
            }
        }
        self.finish(started).map(RunOutcome::Finished)
    }

    /// One update from the gradients of all its micro-batches, of all ranks, of which the host may know the numbers later.
    /// `Break` when a signal came first.
    fn step(
        &mut self,
        micro_batches: &[Batch],
        n_steps_of_epoch: u64,
    ) -> Result<ControlFlow<()>, TrainError> {
        let n_ranks = self.plan.n_ranks;
        let n_batches =
            self.state.n_steps_in_epoch as usize * self.batches_per_step() + micro_batches.len();
        let share_of_epoch = (n_batches / n_ranks) as f64 / self.plan.n_batches_per_epoch as f64;
        let rows = micro_batches
            .iter()
            .map(|batch| (self.name_among_many(batch), batch.rows.clone()));
        let facts = StepFacts {
            step: self.state.global_step + 1,
            epoch: self.state.epoch_index as f64 + share_of_epoch,
            learning_rate: self.schedule.learning_rate(self.state.global_step),
            rows: rows.collect(),
        };
        let together = self.group.map(|group| Together {
            group,
            is_interrupted: self.is_interrupted,
        });
        let own = self.own_batches(micro_batches);
        // Several ranks ask at the end of the step, and break it off only where one of them is gone.
        let group = self.group;
        let is_lost = || group.is_some_and(Group::is_lost);
        let is_interrupted: &dyn Fn() -> bool = match group {
            Some(_) => &is_lost,
            None => self.is_interrupted,
        };
        let observers = &mut self.observers;
        let work = StepWork {
            facts,
            batches: &own,
            tasks: &self.training,
            arguments: &self.arguments,
            chunking: &mut self.chunking,
            is_interrupted,
            together,
            tell: &mut |event| observe(observers, event),
        };
        let made = self.update.step(&mut self.trained, work)?;
        if made.is_continue() {
            self.state.advance(share_of_epoch, n_steps_of_epoch);
        }
        Ok(made)
    }

    /// Takes note of the steps whose numbers are known, with `all` of every one made.
    fn settle(&mut self, all: bool) -> Result<(), TrainError> {
        for step in self.update.settled(&mut self.trained, all)? {
            let numbers = step.numbers;
            if numbers.is_finite() {
                self.state.note_loss(Some(numbers.loss));
                self.tell_if_nothing_learnt(&step)?;
                let step = made_step(step);
                self.tell(&Event::Step(&step))?;
                self.log_step(&step)?;
            } else if numbers.is_overflow() {
                self.state.note_overflow();
                self.tell(&Event::Overflow {
                    step: step.facts.step,
                    loss_scale: numbers.loss_scale,
                })?;
            } else {
                self.skip(step)?;
            }
        }
        Ok(())
    }

    /// Tells, once, of a step whose batches have one row each and teach nothing: a loss that compares the rows of a batch
    /// with each other has nothing to compare.
    fn tell_if_nothing_learnt(&mut self, step: &SettledStep) -> Result<(), TrainError> {
        let is_zero = step.numbers.loss == 0.0 && step.numbers.grad_norm == 0.0;
        let is_single = step.facts.rows.iter().all(|(_, rows)| rows.len() == 1);
        if is_zero && is_single && !self.is_nothing_learnt_told {
            self.is_nothing_learnt_told = true;
            let step = step.facts.step;
            self.tell(&Event::NothingLearnt { step })?;
        }
        Ok(())
    }

    /// Takes note of a step that made no update because a number was not finite, or ends the run where no more may
    /// be skipped.
    fn skip(&mut self, step: SettledStep) -> Result<(), TrainError> {
        let SettledStep { facts, numbers, .. } = step;
        let problem = NonFinite {
            step: facts.step,
            rows: facts.rows,
            loss: numbers.loss,
            grad_norm: numbers.loss.is_finite().then_some(numbers.grad_norm),
            learning_rate: facts.learning_rate,
        };
        if self.state.n_skipped_steps_in_row >= self.arguments.skip_nonfinite {
            return Err(TrainError::NonFinite(Box::new(problem)));
        }
        self.state.note_loss(None);
        self.log_skipped(&problem)
    }

    /// The name of a batch's data set, where there are several.
    fn name_among_many(&self, batch: &Batch) -> Option<String> {
        let dataset = &self.training[batch.dataset].data.dataset;
        (self.training.len() > 1).then(|| dataset.name.clone())
    }

    /// The batches of the epoch that the run is in, of all ranks.
    fn epoch_batches(&self) -> Result<EpochBatches, TrainError> {
        let epoch = self.state.epoch_index;
        let tasks = self.training.iter();
        let texts = tasks.map(|task| self.sampler.text_ids(task.data));
        let texts = texts.collect::<Result<Vec<_>, _>>()?;
        let rows = self.training.iter().zip(&texts);
        let rows: Vec<Rows<'_>> = rows
            .map(|(task, texts)| match task.data.rows() {
                Rows::Numbered { n_rows, .. } => Rows::Numbered {
                    n_rows,
                    texts: texts.as_ref(),
                },
                whole => whole,
            })
            .collect();
        let drawn = self.sampler.batches(&rows, epoch);
        let store = self
            .training
            .iter()
            .find_map(|task| task.data.store.as_ref());
        let mut batches = match store.map(|store| TokenStore::folder(store)) {
            None => EpochBatches::Memory(drawn.collect()),
            Some(folder) => {
                let file = BatchFile::write(folder, self.sampler.batch_size, drawn)?;
                EpochBatches::Disk(file)
            }
        };
        let n_promised = self.plan.n_batches_per_epoch;
        batches.truncate(whole_rounds(batches.len(), n_promised, self.plan.n_ranks));
        if batches.len() == 0 {
            return Err(TrainError::Dataset {
                dataset: names(&self.training),
                problem: format!(
                    "epoch {} has no batch of {} rows that share no text: leave out --dataloader-drop-last, or lower --per-device-train-batch-size",
                    epoch + 1,
                    self.sampler.batch_size,
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

    /// Whether a log, an evaluation or a save wants the numbers of the step just made, or the run is over.
    fn is_anything_due(&self) -> bool {
        let arguments = &self.arguments;
        self.is_log_due(self.state.global_step)
            || self.is_due(arguments.eval_strategy, arguments.eval_steps)
            || self.is_due(arguments.save_strategy.interval(), arguments.save_steps)
            || self.is_over()
    }

    /// Tells of a step that made no update, and logs its numbers. JSON has no word for such numbers, so they stand
    /// as texts.
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

    /// Evaluates and saves where that is due. `Break` when interrupted, in which case the evaluation is still due.
    fn evaluate_and_save(&mut self) -> Result<ControlFlow<()>, TrainError> {
        let mut is_new_best = false;
        if self.state.is_evaluation_due {
            if self.evaluate_together()?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            self.state.is_evaluation_due = false;
            is_new_best = self.state.best_global_step == Some(self.state.global_step);
        }
        // Upstream saves at its interval alone, and so loses a best evaluation that falls between two saves.
        let arguments = &self.arguments;
        let keeps_best =
            arguments.load_best_model_at_end || arguments.save_strategy == SaveStrategy::Best;
        if (is_new_best && keeps_best)
            || self.is_due(arguments.save_strategy.interval(), arguments.save_steps)
        {
            self.save()?;
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Begins to write a checkpoint of the current step, after which those above the limit are removed. It takes
    /// as long as copying weights and moments, and as the checkpoint before still needs.
    fn save(&mut self) -> Result<(), TrainError> {
        self.wait_for_save()?;
        self.state.loss_scale = self.update.loss_scale()?;
        let step = self.state.global_step;
        if !self.is_first() {
            self.last_saved = Some(step);
            return Ok(());
        }
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
            files: checkpoint::files(&self.trained, &self.state)?,
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
        self.settle(true)?;
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
        if !self.is_first() {
            return Ok(summary);
        }
        if self.arguments.load_best_model_at_end
            && let Some(best) = self.best_checkpoint()
        {
            Checkpoint::open(&best)?.load_weights(&mut self.trained)?;
        }
        if self.arguments.save_total_limit == Some(1) {
            checkpoint::remove_all_but(&self.folder, self.state.best_global_step)?;
        }
        // The files are a copy of the weights, for which there is room then.
        self.trained.release()?;
        let files = match self.merges_adapter {
            true => self.trained.merged_files()?,
            false => self.trained.files()?,
        };
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

/// Sets the precision of the run on its model, where the device has it.
fn set_precision(
    model: &mut SentenceTransformer,
    arguments: &TrainingArguments,
) -> Result<(), TrainError> {
    let compute = Compute {
        precision: arguments.precision,
        ..model.compute()
    };
    model
        .set_compute(compute)
        .map_err(|error| TrainError::Arguments(format!("--{error}")))
}

/// Updates as the model's device makes them.
fn update(
    model: &SentenceTransformer,
    arguments: &TrainingArguments,
) -> Result<Box<dyn Update>, TrainError> {
    Ok(match DeviceUpdate::for_run(model, arguments)? {
        Some(update) => Box::new(update),
        None => Box::new(HostUpdate::default()),
    })
}

/// The fingerprint of a run, with the data of its evaluations where they decide anything.
fn fingerprint_of(
    trained: &Trained<'_>,
    tasks: &Tasks<'_>,
    arguments: &TrainingArguments,
    sampler: &Sampler,
    n_ranks: usize,
) -> Result<Fingerprint, TrainError> {
    let training: Vec<&TrainingData> = tasks.training.iter().map(|(data, _)| *data).collect();
    let mut evaluations = Vec::new();
    if arguments.evaluation_decides() {
        evaluations.extend(tasks.evaluations.iter().map(|(evaluation, _)| *evaluation));
    }
    fingerprint::fingerprint(
        trained.model,
        sampler.order_version(training.len()),
        n_ranks,
        &tasks.objectives,
        &training,
        &evaluations,
    )
}

/// The learning rates of a run.
fn schedule(arguments: &TrainingArguments, plan: &Plan) -> Result<Schedule, TrainError> {
    Schedule::new(
        arguments.lr_scheduler_type,
        &arguments.lr_scheduler_kwargs,
        arguments.learning_rate,
        plan.n_warmup_steps,
        plan.n_steps,
    )
}

fn made_step(step: SettledStep) -> Step {
    let SettledStep { facts, numbers, .. } = step;
    Step {
        step: facts.step,
        epoch: facts.epoch,
        loss: numbers.loss,
        grad_norm: numbers.grad_norm,
        learning_rate: facts.learning_rate,
        n_rows: facts.rows.iter().map(|(_, rows)| rows.len()).sum(),
        n_tokens: step.n_tokens,
        device_memory: step.device_memory,
    }
}

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
use model::{
    ChunkLimit, ChunkedBatch, Compute, Engine, ModelError, Precision, SentenceTransformer,
    StaticBatch,
};
use serde_json::json;
use tch::{Device, Kind, TchError, Tensor};

use crate::{
    TrainError,
    arguments::{IntervalStrategy, TrainingArguments},
    checkpoint::{self, Checkpoint, Job, Saver},
    deferred::{Deferred, Facts, Numbers},
    device,
    error::NonFinite,
    evaluation::Evaluation,
    failpoint,
    graphs::{CudaRecorder, Echo, Recorder, StepGraphs},
    identity::identity,
    optimizer::{Optimizer, OptimizerName, clip_scale, gradient_norm},
    owned::LossWeights,
    report::{Event, LogEntry, Observer, Plan, Step},
    run_folder::{RunFolder, write_folder},
    schedule::{Schedule, warmup_steps},
    state::{TrainerState, round},
    tasks::{Objective, Sentences, Task, Tasks},
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
        if let Some(deferred) = &mut self.deferred {
            deferred.restore(n_updates, saved.loss_scale)?;
        }
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
        if let Some(deferred) = &mut self.deferred {
            deferred.set_learning_rate(learning_rate)?;
        }
        let by_graph = self.step_by_graph(micro_batches)?;
        let (losses, n_tokens) = match &by_graph {
            Some((_, n_tokens)) => (Vec::new(), *n_tokens),
            None => match self.accumulate_all(micro_batches)? {
                Some(accumulated) => accumulated,
                None => return Ok(Stepped::Interrupted),
            },
        };
        if let Some(injected) = failpoint::number("gradient") {
            let _ = self.gradient.f_narrow(0, 0, 1)?.f_fill_(injected)?;
        }
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
        if let (Some(deferred), Some((numbers, _))) = (&mut self.deferred, by_graph) {
            deferred.push(facts, numbers);
            self.state.advance(share_of_epoch, n_steps_of_epoch as u64);
            return Ok(Stepped::InFlight);
        }
        if let Some(deferred) = &mut self.deferred {
            let mut loss = Tensor::f_stack(&losses, 0)?.f_sum(Kind::Float)?;
            if let Some(injected) = failpoint::number("loss") {
                loss = loss.f_full_like(injected)?;
            }
            let numbers = deferred.update(
                &self.optimizer,
                &self.loss_weights,
                (self.model.parameters().flat(), &self.gradient),
                &loss,
                self.arguments.max_grad_norm,
            )?;
            deferred.push(facts, numbers);
            self.state.advance(share_of_epoch, n_steps_of_epoch as u64);
            return Ok(Stepped::InFlight);
        }
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
        self.state.advance(share_of_epoch, n_steps_of_epoch as u64);
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

    /// A whole step by its graph: its numbers, and its tokens. `None` where it is computed as ever.
    fn step_by_graph(
        &mut self,
        micro_batches: &[Batch],
    ) -> Result<Option<(Tensor, usize)>, TrainError> {
        let (Some(graphs), Some(deferred), [batch]) =
            (&mut self.graphs, &self.deferred, micro_batches)
        else {
            return Ok(None);
        };
        let task = &self.training[batch.dataset];
        let Objective { loss, guide, .. } = &self.objectives[task.objective];
        if !loss.is_recordable() || guide.is_some() || task.labels(&batch.rows)?.is_some() {
            return Ok(None);
        }
        if (self.is_interrupted)() {
            return Ok(None);
        }
        let limit = chunk_limit(loss.mini_batch_size(), self.arguments.mini_batch_tokens);
        let device = self.model.parameters().device();
        let sentences = task.sentences(&batch.rows);
        let chunked =
            ChunkedBatch::with_prompts(&sentences.ids, &sentences.prompt_lengths, limit, device)?;
        let Some(shape) = self.model.static_shape(&chunked)? else {
            return Ok(None);
        };
        let n_rows = batch.rows.len() as i64;
        let (model, gradient) = (&*self.model, &self.gradient);
        let (optimizer, loss_weights) = (&self.optimizer, &self.loss_weights);
        let max_grad_norm = self.arguments.max_grad_norm;
        let mut work = |batch: &StaticBatch| -> Result<Tensor, TrainError> {
            let value = model.forward_backward_static(batch, gradient, |embeddings| {
                let columns = embeddings.f_split(n_rows, 0)?;
                let step = StepInputs {
                    embeddings: &columns,
                    prior: &[],
                    labels: None,
                    seed: 0,
                };
                let mut found = gradients(*loss, &step, 1.0)?;
                if let Some(scale) = deferred.loss_scale() {
                    found.scale(scale)?;
                }
                Ok::<_, TrainError>((found.value, Tensor::f_cat(&found.embeddings, 0)?))
            })?;
            deferred.update(
                optimizer,
                loss_weights,
                (model.parameters().flat(), gradient),
                &value,
                max_grad_norm,
            )
        };
        // Outside of the graph: it takes the seed as it finds it.
        tch::manual_seed(dropout_seed(self.arguments.seed, self.state.global_step, 0) as i64);
        let numbers = graphs.step(batch.dataset, shape, &chunked, &mut work)?;
        if numbers.is_some() {
            self.model.parameters().were_changed_by_a_graph();
        }
        let problem = graphs.take_problem();
        if let Some(problem) = problem {
            self.tell(&Event::NoGraphs(&problem))?;
        }
        Ok(numbers.map(|numbers| (numbers, chunked.tokens())))
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

    /// Reads the numbers of steps that are on their way where a log, an evaluation or a save wants them after this
    /// step, or where it has been a while.
    fn settle_if_due(&mut self) -> Result<(), TrainError> {
        let arguments = &self.arguments;
        let is_wanted = self.is_log_due(self.state.global_step)
            || self.is_due(arguments.eval_strategy, arguments.eval_steps)
            || self.is_due(arguments.save_strategy, arguments.save_steps)
            || self.is_over();
        if is_wanted || self.deferred.as_ref().is_some_and(Deferred::is_due) {
            self.settle()?;
        }
        Ok(())
    }

    /// Waits for all steps that are on their way and takes note of each.
    fn settle(&mut self) -> Result<(), TrainError> {
        let Some(deferred) = &mut self.deferred else {
            return Ok(());
        };
        let steps = deferred.read()?;
        let memory = device::memory(deferred.device())?;
        for (facts, numbers) in steps {
            let Numbers {
                loss, grad_norm, ..
            } = numbers;
            if numbers.is_finite() {
                self.optimizer.count_updates(1);
                self.loss_weights.count_updates(1);
                self.state.note_loss(Some(loss));
                let step = made_step(facts, loss, grad_norm);
                self.note_step(&Step {
                    device_memory: memory,
                    ..step
                })?;
            } else if numbers.is_overflow() {
                self.state.note_overflow();
                self.tell(&Event::Overflow {
                    step: facts.step,
                    loss_scale: numbers.loss_scale,
                })?;
            } else {
                let problem = self.skip(facts, loss, loss.is_finite().then_some(grad_norm))?;
                self.log_skipped(&problem)?;
            }
        }
        Ok(())
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

    /// Forward and backward of all micro-batches: their shares of the step's loss, and their tokens. `None` when a
    /// signal came, in which case the gradient is of no use.
    ///
    /// A batch that does not fit in a GPU's memory is cut in parts of half as many tokens, and the step begins
    /// again, where the arguments allow it: gradient caching gives the same gradient. The parts stay that small.
    fn accumulate_all(
        &mut self,
        micro_batches: &[Batch],
    ) -> Result<Option<(Vec<Tensor>, usize)>, TrainError> {
        loop {
            match self.try_accumulate_all(micro_batches) {
                Err(error) if error.is_out_of_memory() => self.cut_smaller(micro_batches, error)?,
                done => return done,
            }
        }
    }

    fn try_accumulate_all(
        &self,
        micro_batches: &[Batch],
    ) -> Result<Option<(Vec<Tensor>, usize)>, TrainError> {
        let (mut losses, mut n_tokens) = (Vec::with_capacity(micro_batches.len()), 0);
        for (micro_step, batch) in micro_batches.iter().enumerate() {
            if (self.is_interrupted)() {
                return Ok(None);
            }
            let (share, n) = match self.accumulate(batch, micro_step, micro_batches.len()) {
                Err(TrainError::Model(ModelError::Stopped)) => return Ok(None),
                accumulated => accumulated?,
            };
            losses.push(share);
            n_tokens += n;
        }
        Ok(Some((losses, n_tokens)))
    }

    /// After `error`, halves what is embedded at a time, and forgets what there is of the step's gradient.
    fn cut_smaller(
        &mut self,
        micro_batches: &[Batch],
        error: TrainError,
    ) -> Result<(), TrainError> {
        let (mut n_tokens, mut longest) = (0, 0);
        for batch in micro_batches {
            let task = &self.training[batch.dataset];
            for chunk in self.chunks(task, &task.sentences(&batch.rows))?.chunks() {
                n_tokens = n_tokens.max(chunk.tokens());
                longest = longest.max(chunk.max_length());
            }
        }
        let step = self.state.global_step + 1;
        if !self.arguments.auto_micro_batch || n_tokens <= longest {
            return Err(TrainError::OutOfMemory {
                step,
                n_tokens,
                can_cut: n_tokens > longest,
                source: Box::new(error),
            });
        }
        let fitting = (n_tokens / 2).max(longest);
        self.fitting_tokens = Some(fitting);
        let _ = self.gradient.f_zero_()?;
        self.loss_weights.clear()?;
        if self.gradient.device() != Device::Cpu {
            shim::torch::empty_cache()?;
        }
        self.tell(&Event::CutSmaller {
            step,
            n_tokens,
            fitting,
        })
    }

    /// Forward and backward of one micro-batch. Adds its share of the gradient to the buffers and returns its
    /// share of the step's loss, and its number of tokens.
    fn accumulate(
        &self,
        batch: &Batch,
        micro_step: usize,
        n_micro_batches: usize,
    ) -> Result<(Tensor, usize), TrainError> {
        if failpoint::number("memory").is_some() {
            let words = "CUDA out of memory (a failpoint says so)".to_owned();
            return Err(TchError::Torch(words).into());
        }
        let task = &self.training[batch.dataset];
        let loss = self.objectives[task.objective].loss;
        let seed = self.dropout_seed(micro_step);
        let share = 1.0 / n_micro_batches as f64;
        let chunks = self.chunks(task, &task.sentences(&batch.rows))?;
        let chunks = chunks.stopped_by(self.is_interrupted);
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
                let mut found = gradients(loss, &inputs.step(seed), share)?;
                if let Some(scale) = self.deferred.as_ref().and_then(Deferred::loss_scale) {
                    found.scale(scale)?;
                }
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
        Ok((value, chunks.tokens()))
    }

    /// A batch, cut as gradient caching asks for: by the loss or by `mini_batch_tokens`, and to what fits.
    fn chunks(
        &self,
        task: &Task<'_>,
        batch: &Sentences<'_>,
    ) -> Result<ChunkedBatch<'a>, TrainError> {
        let limit = chunk_limit(
            self.objectives[task.objective].loss.mini_batch_size(),
            self.arguments.mini_batch_tokens,
        );
        let limit = ChunkLimit {
            tokens: limit.tokens.min(self.fitting_tokens.unwrap_or(usize::MAX)),
            ..limit
        };
        let device = self.model.parameters().device();
        let chunks = ChunkedBatch::with_prompts(&batch.ids, &batch.prompt_lengths, limit, device);
        Ok(chunks?)
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
        dropout_seed(self.arguments.seed, self.state.global_step, micro_step)
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

    fn interrupted(&mut self) -> Result<Outcome, TrainError> {
        self.settle()?;
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

/// What is needed to read numbers later, where libtorch computes and the optimizer can be told on the device.
fn deferred(
    model: &SentenceTransformer,
    arguments: &TrainingArguments,
) -> Result<Option<Deferred>, TrainError> {
    if model.engine() != Engine::Libtorch {
        return Ok(None);
    }
    let has_loss_scale = arguments.precision == Precision::Fp16;
    if arguments.optim == OptimizerName::AdamW {
        let device = model.parameters().device();
        return Deferred::new(device, has_loss_scale).map(Some);
    }
    if has_loss_scale {
        return Err(TrainError::Arguments(format!(
            "--precision fp16 scales the loss on a GPU, which --optim adamw_torch alone can take back, and not {:?}: give --precision bf16, or that optimizer",
            arguments.optim
        )));
    }
    Ok(None)
}

/// The graphs of a run that asks for them and reads its numbers later.
fn graphs(deferred: &Option<Deferred>, arguments: &TrainingArguments) -> Option<StepGraphs> {
    let device = deferred
        .as_ref()
        .filter(|_| arguments.cuda_graphs)?
        .device();
    let recorder: Box<dyn Recorder> = match device {
        // There is no CUDA to record, and all else can be looked at.
        Device::Cpu => Box::new(Echo::default()),
        _ => Box::new(CudaRecorder),
    };
    Some(StepGraphs::new(recorder, device))
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
        flops_per_token: device::flops_per_token(model.encoder().config()),
        device_flops: device::matrix_rate(model.parameters().device(), arguments.precision)?,
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

fn dropout_seed(seed: u64, step: u64, micro_step: usize) -> u64 {
    mix(mix(mix(seed) ^ step) ^ micro_step as u64)
}

/// SplitMix64's finaliser: neighbouring steps get unrelated seeds.
fn mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

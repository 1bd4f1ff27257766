//! `sentune train`: evaluate, fine-tune, evaluate again, and set the two side by side.

mod claim;
mod inputs;
mod model_card;
mod observers;
pub(crate) mod prepared;
pub(crate) mod results;
mod teacher;

use std::{collections::BTreeSet, sync::Arc};

use anyhow::Context;
use eval::{Metrics, csv::At};
use model::{Compute, LoadOptions, ModelError, SentenceTransformer};
use train::{
    CONFIG, Checkpoint, Group, METRICS, MetricsFile, RunFolder, RunOutcome, TensorBoard, Trainer,
    write_file,
};

use crate::{
    commands::{
        report::{self, PROFILE},
        train::{
            claim::claim,
            inputs::Inputs,
            model_card::model_card,
            observers::{JsonLines, Laps, Profile},
            prepared::{Prepared, check_losses},
            results::{CLASSES, RESULTS, Results},
        },
    },
    config::{resolve, to_toml},
    device,
    flags::{hub::HubStrategy, train::TrainFlags},
    gemm,
    models::{encode_evaluation, load_model_with, set_max_seq_length, set_named_compute},
    output::{print, print_json},
    progress::TrainingProgress,
    pushing::{CheckpointPushes, Destination},
    ranks::Launch,
    session::Session,
    usage::UsageError,
};

/// Trains as the flags and their configuration file say, and prints the figures.
pub(crate) fn run(
    flags: TrainFlags,
    given: &BTreeSet<String>,
    launch: &Launch,
    session: &Session,
) -> anyhow::Result<()> {
    let mut flags = resolve(flags, given)?;
    if launch.is_restart() {
        claim::go_on_by_itself(&mut flags);
    }
    let Some(place) = &launch.place else {
        return make(&flags, None, session);
    };
    let group = place.join(&flags, session)?;
    let outcome = make(&flags, Some(&group), session).and_then(|()| Ok(group.barrier()?));
    let failure = outcome.as_ref().err().map(|error| format!("{error:#}"));
    group.leave(failure.as_deref());
    outcome
}

/// Trains, alone or as one rank of several, and prints the figures.
fn make(flags: &TrainFlags, group: Option<&Group>, session: &Session) -> anyhow::Result<()> {
    let is_first = group.is_none_or(Group::is_first);
    let mut is_complete = is_first && claim::is_complete(flags)?;
    if let Some(group) = group {
        is_complete = group.share(&[u8::from(is_complete)])? == [1];
    }
    if is_complete {
        tracing::info!("the run is complete: there is nothing to go on with");
        return Ok(());
    }
    let done = run_resolved(flags, group, session)?;
    if !is_first {
        return Ok(());
    }
    if let Some(folder) = flags
        .output_dir
        .as_deref()
        .filter(|_| !flags.call.no_report)
    {
        report::at_end(folder, session);
    }
    if flags.call.json {
        return Ok(print_json(&done.results.event())?);
    }
    match done.table {
        Some(table) => Ok(print(&table)?),
        None => Ok(()),
    }
}

/// A run that was trained to its end.
pub(crate) struct Done {
    results: Results,
    /// The metrics before and after, where they were measured.
    table: Option<String>,
}

/// Trains as a resolved configuration says. Its files go to the run's folder, [`RESULTS`] last of all; of several ranks
/// the first writes them.
pub(crate) fn run_resolved(
    flags: &TrainFlags,
    group: Option<&Group>,
    session: &Session,
) -> anyhow::Result<Done> {
    flags.arguments.prepare()?;
    if flags.adapter.lora_merge
        && flags.hub.push_to_hub
        && flags.hub.hub_strategy != HubStrategy::End
    {
        // Beside a whole model, a checkpoint's adapter would be added to it once more.
        let problem = "--lora-merge pushes a whole model, but checkpoints hold the adapter alone: give --hub-strategy end";
        return Err(UsageError(problem.to_owned()).into());
    }
    let output_dir = flags
        .output_dir
        .clone()
        .context("a resolved configuration names its folder")?;
    let is_first = group.is_none_or(Group::is_first);
    let folder = match is_first {
        true => RunFolder::create(&output_dir).context("--output-dir")?,
        false => RunFolder::of_first_rank(&output_dir),
    };
    if !folder.is_locked() {
        tracing::warn!(
            "the file system of {} has no locks: see to it that no other run writes to it",
            output_dir.display()
        );
    }
    let run = Run {
        folder: &folder,
        flags,
        group,
        session,
    };
    if !is_first {
        return run.make(None);
    }
    let destination = Destination::of_run(&flags.hub, &output_dir, session);
    let outcome = destination.and_then(|to| run.make(to.map(Arc::new).as_ref()));
    // The lock's file goes first.
    drop(folder);
    if outcome.is_err() {
        // A run that failed before it wrote anything leaves no folder; one with files in it can't be removed.
        let _ = fs_err::remove_dir(&output_dir);
    }
    outcome
}

/// An error of settings that flags give, as wrong use of these.
fn named_by_flags(error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref() {
        Some(ModelError::Input(problem))
            if ["lora-", "freeze:"]
                .iter()
                .any(|flag| problem.starts_with(flag)) =>
        {
            UsageError(format!("--{problem}")).into()
        }
        _ => error,
    }
}

/// A run in its folder, which no other process writes to.
struct Run<'a> {
    folder: &'a RunFolder,
    flags: &'a TrainFlags,
    /// The other ranks, where there are any.
    group: Option<&'a Group>,
    session: &'a Session,
}

impl Run<'_> {
    /// Whether this process writes, logs and evaluates.
    fn is_first(&self) -> bool {
        self.group.is_none_or(Group::is_first)
    }

    /// Trains, and pushes to the hub where there is a destination.
    fn make(&self, destination: Option<&Arc<Destination>>) -> anyhow::Result<Done> {
        let checkpoint = match self.is_first() {
            true => claim(self.folder, self.flags)?,
            false => None,
        };
        check_losses(self.flags)?;
        let mut laps = Laps::start();
        let inputs = Inputs::load(self.flags, self.session)?;
        let classes = inputs.classes();
        laps.end("data");
        let mut model = self.load_model(checkpoint.as_ref())?;
        laps.end("model");
        let root = self.folder.root();
        let keep = self.is_first().then_some(root);
        let n_ranks = self.group.map_or(1, Group::size);
        let prepared = Prepared::new(inputs, &model, self.flags, n_ranks, keep, self.session)?;
        laps.end("tokens");
        if let Some(classes) = classes.filter(|_| self.is_first()) {
            write_file(&root.join(CLASSES), classes.as_bytes())?;
        }
        let pushes = destination.and_then(|to| {
            let strategy = self.flags.hub.hub_strategy;
            CheckpointPushes::new(to, strategy, root, self.session)
        });
        let results = self.train(&mut model, &prepared, checkpoint, laps, pushes)?;
        if !self.is_first() {
            return Ok(Done {
                results,
                table: None,
            });
        }
        let id = destination.map(|destination| destination.id());
        let done = self.report(&model, &prepared, results, id)?;
        if let Some(destination) = destination {
            destination.push(&self.folder.final_model(), "End of training", self.session)?;
        }
        Ok(done)
    }

    /// The model to start from, with all that flags change in it.
    fn load_model(&self, checkpoint: Option<&Checkpoint>) -> anyhow::Result<SentenceTransformer> {
        let flags = self.flags;
        let adapter = &flags.adapter;
        let options = LoadOptions {
            base: None,
            lora: adapter.lora(None, flags.arguments.seed)?,
            freeze: adapter.freeze.clone(),
        };
        let device = device::chosen();
        let mut model =
            load_model_with(&flags.model, options, device, self.session).map_err(named_by_flags)?;
        if adapter.lora_merge && model.adapter().is_none() {
            let problem = "--lora-merge merges an adapter, and the model has none: give --lora-r";
            return Err(UsageError(problem.to_owned()).into());
        }
        set_max_seq_length(&mut model, flags.max_seq_length)?;
        self.set_compute(&mut model, checkpoint)?;
        if let Some(dropout) = flags.dropout {
            model
                .set_dropout(dropout)
                .map_err(|error| UsageError(format!("--dropout: {error}")))?;
        }
        Ok(model)
    }

    /// Sets how the model computes. Where `--gemm` leaves the backend open, a resumed run keeps that of its checkpoint, and
    /// ranks take that of the first.
    fn set_compute(
        &self,
        model: &mut SentenceTransformer,
        checkpoint: Option<&Checkpoint>,
    ) -> anyhow::Result<()> {
        let flags = self.flags;
        let mut compute = Compute {
            gemm: flags.gemm,
            precision: flags.arguments.precision,
            engine: flags.engine,
        };
        set_named_compute(model, compute)?;
        if !gemm::is_open(model) {
            return Ok(());
        }
        if self.is_first() {
            let kept = checkpoint.and_then(|checkpoint| checkpoint.state().gemm());
            compute.gemm = kept.unwrap_or_else(|| gemm::fastest(model));
        }
        if let Some(group) = self.group {
            let first = group.share(&serde_json::to_vec(&compute.gemm)?)?;
            compute.gemm = serde_json::from_slice(&first)?;
        }
        Ok(set_named_compute(model, compute)?)
    }

    /// Trains from the start or from a checkpoint, and measures before and after.
    fn train(
        &self,
        model: &mut SentenceTransformer,
        prepared: &Prepared,
        checkpoint: Option<Checkpoint>,
        laps: Laps,
        pushes: Option<CheckpointPushes>,
    ) -> anyhow::Result<Results> {
        let is_interrupted = || self.session.interrupt.is_set();
        let mut trainer = Trainer::in_group(
            model,
            prepared.tasks(),
            self.flags.arguments.clone(),
            self.folder.clone(),
            &is_interrupted,
            self.group,
        )?;
        let anyway = self.flags.call.resume_anyway;
        if let Some(checkpoint) = checkpoint.as_ref().filter(|_| !anyway) {
            trainer.check_same_run(checkpoint)?;
        }
        if self.flags.adapter.lora_merge {
            trainer.merge_adapter();
        }
        if self.is_first() {
            let config = to_toml(self.flags)?;
            write_file(&self.folder.root().join(CONFIG), config.as_bytes())?;
        }
        let before = self.measure(prepared, trainer.model())?;
        if let Some(checkpoint) = &checkpoint {
            for difference in trainer.resume(checkpoint, anyway)? {
                tracing::warn!("going on although the {difference}");
            }
            tracing::info!("going on from {}", checkpoint.path().display());
        }
        if self.is_first() {
            self.observe(&mut trainer, prepared.unit(), laps)?;
        }
        if let Some(pushes) = pushes {
            trainer.observe(pushes);
        }
        let unsaved = self.session.interrupt.hold();
        let outcome = trainer.train()?;
        drop(unsaved);
        match outcome {
            RunOutcome::Finished(summary) => Ok(Results {
                before,
                after: self.measure(prepared, trainer.model())?,
                summary,
            }),
            RunOutcome::Interrupted { step } => {
                if let Some(group) = self.group {
                    // All ranks stop here.
                    group.leave(None);
                }
                tracing::warn!(
                    "stopped after step {step}, which is saved: the same command with --resume-from-checkpoint goes on"
                );
                Err(self.session.interrupt.error())
            }
        }
    }

    /// Adds the observers that the flags ask for. `unit` is what the rows are called.
    fn observe(
        &self,
        trainer: &mut Trainer<'_>,
        unit: &'static str,
        laps: Laps,
    ) -> anyhow::Result<()> {
        let is_json = self.flags.call.json;
        let metrics = MetricsFile::create(&self.folder.root().join(METRICS), trainer.state())?;
        let tensorboard = TensorBoard::create(&self.folder.tensorboard(), trainer.state())?;
        trainer.observe(metrics);
        trainer.observe(tensorboard);
        trainer.observe(TrainingProgress::new(&self.session.talk, unit));
        trainer.observe(Profile::new(
            self.folder.root().join(PROFILE),
            self.flags.call.profile,
            is_json,
        ));
        if is_json {
            trainer.observe(JsonLines::new(laps));
        }
        Ok(())
    }

    /// The metrics of test data and tables with the weights as they are now; also appended to the run's CSV files.
    fn measure(
        &self,
        prepared: &Prepared,
        model: &SentenceTransformer,
    ) -> anyhow::Result<Option<Metrics>> {
        let mut all = Vec::with_capacity(prepared.tests.len());
        if !self.is_first() {
            return Ok(None);
        }
        for test in &prepared.tests {
            let embeddings = encode_evaluation(test, model, self.session)?;
            let metrics = test.metrics(&embeddings)?;
            test.append_csv(&self.folder.test(), &metrics, At::Outside)?;
            all.push(metrics);
        }
        Ok(match all.len() {
            0 | 1 => all.pop(),
            _ => Some(Metrics::sequential(&all, |scores| {
                scores.last().copied().unwrap_or(f64::NAN)
            })),
        })
    }

    /// Writes the model card and the results. `id` is the repository that the model is pushed to, if any.
    fn report(
        &self,
        model: &SentenceTransformer,
        prepared: &Prepared,
        results: Results,
        id: Option<&str>,
    ) -> anyhow::Result<Done> {
        let final_model = self.folder.final_model();
        let card = model_card(
            self.flags,
            prepared,
            model,
            &results,
            self.folder.root(),
            id,
        )?;
        write_file(&final_model.join("README.md"), card.as_bytes())?;
        let json = results.to_json()?;
        write_file(&self.folder.root().join(RESULTS), json.as_bytes())?;
        tracing::info!("the trained model is {}", final_model.display());
        Ok(Done {
            table: results.table(&prepared.tests),
            results,
        })
    }
}

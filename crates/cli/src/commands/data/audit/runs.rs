//! Scores of rows by models that did not train on them: short runs on all folds but one.

use std::time::Instant;

use data::{Dataset, TextColumn, audit::folds};
use losses::{BuildContext, LossConfig};
use model::{EncodeOptions, SentenceTransformer};
use search::{Embeddings, SearchError};
use train::{
    RunFolder, RunOutcome, SaveStrategy, TrainError, Trainer, TrainingArguments,
    events::{Event, Observer},
};
use wording::{counted, thousands};

use super::{right_way, scores::Scoring};
use crate::{
    device,
    flags::data::AuditFlags,
    models::{encode_texts, set_max_seq_length},
    session::Session,
    source,
    tokenizing::tokenize_quietly,
    usage::UsageError,
};

/// The runs of an audit.
pub(super) struct Runs<'a> {
    pub(super) flags: &'a AuditFlags,
    pub(super) model: &'a str,
    pub(super) n_folds: usize,
    pub(super) scoring: Scoring,
    pub(super) session: &'a Session,
}

impl Runs<'_> {
    /// The score of each row, by the model that trained on the folds without it; with repetitions from the mean over them,
    /// each with folds and a seed of its own. The scores of triplets are probabilities: see [`right_way`].
    pub(super) fn scores(&self, dataset: &Dataset) -> anyhow::Result<Vec<f32>> {
        let (n_rows, n_folds) = (dataset.n_rows(), self.n_folds);
        if n_rows < 2 * n_folds {
            return Err(UsageError(format!(
                "--folds {n_folds}: {} of {} are too few: give a lower number",
                counted(n_rows, "rows"),
                dataset.name
            ))
            .into());
        }
        let folder = tempfile::tempdir()?;
        let differences = self.differences(dataset)?;
        let mut likeness = vec![0.0; n_rows];
        let mut scores = vec![0.0; n_rows];
        for repetition in 0..self.flags.repeats {
            let seed = self.flags.seed + repetition;
            let fold_of = folds(dataset, n_folds, seed);
            if let Some(differences) = &differences {
                let alike = right_way::likeness(differences, &fold_of, n_folds)?;
                likeness
                    .iter_mut()
                    .zip(alike)
                    .for_each(|(sum, alike)| *sum += alike);
            }
            for fold in 0..n_folds {
                let rows_where = |is_of_fold: bool| -> Vec<u32> {
                    let rows = (0..n_rows as u32).zip(&fold_of);
                    let rows = rows.filter(|(_, of)| (**of == fold) == is_of_fold);
                    rows.map(|(row, _)| row).collect()
                };
                let (rows, held_out) = (rows_where(false), rows_where(true));
                let started = Instant::now();
                let title = match self.flags.repeats {
                    1 => format!("fold {} of {n_folds}", fold + 1),
                    n => format!("fold {} of {n_folds}, {} of {n}", fold + 1, repetition + 1),
                };
                let run = folder.path().join(format!("{repetition}-{fold}"));
                let (model, n_steps) = self.train(&dataset.select(&rows), seed, &run, &title)?;
                fs_err::remove_dir_all(&run)?;
                let of_fold = self.judge(&model, &dataset.select(&held_out), &title)?;
                tracing::info!(
                    "{title}: {} on {}, {} scored, {:.0} s",
                    counted(n_steps as usize, "steps"),
                    counted(rows.len(), "rows"),
                    thousands(held_out.len()),
                    started.elapsed().as_secs_f64()
                );
                for (row, score) in held_out.into_iter().zip(of_fold) {
                    scores[row as usize] += score / self.flags.repeats as f32;
                }
            }
        }
        Ok(match differences {
            Some(_) => right_way::probabilities(&scores, &likeness),
            None => scores,
        })
    }

    /// Differences between positives and negatives of triplets, by the model as it was given.
    fn differences(&self, dataset: &Dataset) -> anyhow::Result<Option<Vec<f32>>> {
        if self.scoring != Scoring::Margins {
            return Ok(None);
        }
        let model = self.load()?;
        let others = &dataset.columns[1..];
        let columns = self.encode(&model, others, "positives and negatives")?;
        let columns = embeddings(&columns, &model)?;
        Ok(Some(right_way::differences(&columns)))
    }

    fn load(&self) -> anyhow::Result<SentenceTransformer> {
        let path = source::model(self.model, self.session)?;
        let mut model = SentenceTransformer::load(&path, device::chosen())?;
        set_max_seq_length(&mut model, self.flags.max_seq_length)?;
        Ok(model)
    }

    /// The model after a short run on these rows, and the number of steps.
    fn train(
        &self,
        dataset: &Dataset,
        seed: u64,
        folder: &std::path::Path,
        title: &str,
    ) -> anyhow::Result<(SentenceTransformer, u64)> {
        let (flags, session) = (self.flags, self.session);
        let mut model = self.load()?;
        let arguments = TrainingArguments {
            num_train_epochs: flags.num_train_epochs,
            per_device_train_batch_size: flags.per_device_train_batch_size,
            learning_rate: flags.learning_rate,
            batch_sampler: self.scoring.batch_sampler(),
            seed,
            save_strategy: SaveStrategy::No,
            ..TrainingArguments::default()
        };
        let loss = self.loss()?.build(&BuildContext {
            dimension: Some(model.dimension()),
            device: device::chosen(),
            seed,
        })?;
        let data = tokenize_quietly(dataset.clone(), model.tokenizer(), session)?;
        let is_interrupted = || session.interrupt.is_set();
        let mut trainer = Trainer::new(
            &mut model,
            loss.as_ref(),
            &data,
            None,
            arguments,
            RunFolder::create(folder)?,
            &is_interrupted,
        )?;
        let n_steps = trainer.plan().n_steps;
        trainer.observe(StepBar(session.bar(title, n_steps as usize)));
        let outcome = trainer.train()?;
        drop(trainer);
        match outcome {
            RunOutcome::Finished(_) => Ok((model, n_steps)),
            RunOutcome::Interrupted { .. } => Err(session.interrupt.error()),
        }
    }

    /// The loss of the runs.
    pub(super) fn loss(&self) -> anyhow::Result<LossConfig> {
        let name = self.flags.loss.as_deref();
        let loss: LossConfig = name.unwrap_or(self.scoring.default_loss()).parse()?;
        loss.check()?;
        Ok(loss)
    }

    fn judge(
        &self,
        model: &SentenceTransformer,
        dataset: &Dataset,
        title: &str,
    ) -> anyhow::Result<Vec<f32>> {
        let columns = self.encode(model, &dataset.columns, title)?;
        self.scoring.scores(dataset, &embeddings(&columns, model)?)
    }

    /// The embeddings of each column's texts.
    fn encode(
        &self,
        model: &SentenceTransformer,
        columns: &[TextColumn],
        title: &str,
    ) -> anyhow::Result<Vec<Vec<f32>>> {
        let encode = |column: &TextColumn| {
            let texts: Vec<&str> = column.texts.iter().collect();
            encode_texts(
                model,
                &texts,
                &EncodeOptions::default(),
                title,
                self.session,
            )
        };
        columns.iter().map(encode).collect()
    }
}

/// Values of columns as embeddings of a model.
fn embeddings<'v>(
    columns: &'v [Vec<f32>],
    model: &SentenceTransformer,
) -> Result<Vec<Embeddings<'v>>, SearchError> {
    let dimension = model.dimension() as usize;
    let columns = columns.iter();
    columns
        .map(|values| Embeddings::new(values, dimension))
        .collect()
}

/// A bar over the steps of a run.
struct StepBar(indicatif::ProgressBar);

impl Observer for StepBar {
    fn on(&mut self, event: &Event<'_>) -> Result<(), TrainError> {
        match event {
            Event::Step(step) => self.0.set_position(step.step),
            Event::Log(entry) if entry.contains_key("train_runtime") => self.0.finish_and_clear(),
            _ => {}
        }
        Ok(())
    }
}

//! The data of a run, read and checked.

use std::path::PathBuf;

use anyhow::Context;
use data::{DataError, Dataset, Split, overlap};
use eval::entry::Needs;
use losses::{Accepts, LabelKind};
use serde_json::{Map, Value, json};
use train::IntervalStrategy;
use wording::counted;

use crate::{
    card::N_DESCRIBED,
    flags::train::{DataInMemory, RunEvaluator, TrainFlags},
    material::Material,
    memory::is_on_disk,
    nano_beir::{NANO_BEIR_DATA, NanoBeir},
    session::Session,
    source::{DataOptions, Located},
    tables::{Sources, Tables},
    usage::UsageError,
};

/// The data sets and tables of a run.
pub(super) struct Inputs {
    pub(super) train: Vec<NamedDataset>,
    /// The files of the training data, where it is not to be in memory. `train` has its first rows then.
    pub(super) on_disk: Option<Vec<Located>>,
    pub(super) eval: Vec<NamedDataset>,
    pub(super) test: Option<Dataset>,
    /// Tables with ids to evaluate on during training.
    pub(super) eval_tables: Vec<Material>,
    /// Tables with ids to evaluate on before and after.
    pub(super) test_tables: Vec<Material>,
}

/// A data set, with the name that a flag gave it.
pub(super) type NamedDataset = (Option<String>, Dataset);

impl Inputs {
    /// Reads all data sets, and checks that --prompts names columns and sets that there are.
    pub(super) fn load(flags: &TrainFlags, session: &Session) -> anyhow::Result<Self> {
        let locate = |source: &str, name: Option<&String>, split, classes: &[String]| {
            let options = DataOptions {
                name: name.cloned(),
                columns: flags.columns.clone(),
                max_rows: match split {
                    Split::Train => flags.max_train_samples,
                    Split::Dev | Split::Test => flags.max_eval_samples,
                },
                on_bad_row: Some(flags.on_bad_row),
                reading: flags.reading.clone(),
                teacher_scores: flags.teacher.is_none() && learns_from_scores(flags, name),
                classes: classes.to_vec(),
            };
            Located::new(source, split, &options, session)
        };
        let load = |source: &str, name: Option<&String>, split, classes: &[String]| {
            locate(source, name, split, classes)?.load()
        };
        let mut located = Vec::new();
        for set in &flags.train_data {
            let set = locate(&set.value, set.name.as_ref(), Split::Train, &[]);
            located.push(set.context("--train-data")?);
        }
        let files: Vec<PathBuf> = located.iter().flat_map(|set| set.files.clone()).collect();
        let is_on_disk = is_on_disk(flags, &files)?;
        let sets = training_sets(flags, located, is_on_disk);
        let (train, on_disk) = sets.context("--train-data")?;
        let (mut eval_data, mut test_data) = (flags.eval_data.as_slice(), &flags.test_data);
        if takes_data(flags) {
            (eval_data, test_data) = (&[], &None);
        }
        let mut eval = Vec::new();
        for set in eval_data {
            let name = set.name.as_ref();
            let classes = classes_of(&train, name);
            let dataset = load(&set.value, name, Split::Dev, classes);
            eval.push((set.name.clone(), dataset.context("--eval-data")?));
        }
        let test = match test_data {
            None => None,
            Some(source) => {
                let dataset = load(source, None, Split::Test, classes_of(&train, None));
                Some(dataset.context("--test-data")?.into_triplets())
            }
        };
        let (eval_tables, test_tables) = tables(flags, session)?;
        let inputs = Self {
            train,
            on_disk,
            eval,
            test,
            eval_tables,
            test_tables,
        };
        inputs.check_prompts(flags)?;
        inputs.warn_of_overlap();
        Ok(inputs)
    }

    /// The classes of training sets whose labels are words, by the names of the sets, as JSON; none where there are none.
    pub(super) fn classes(&self) -> Option<String> {
        let sets = self.train.iter();
        let classes: Map<String, Value> = sets
            .filter(|(_, dataset)| !dataset.classes.is_empty())
            .map(|(_, dataset)| (dataset.name.clone(), json!(dataset.classes)))
            .collect();
        (!classes.is_empty()).then(|| format!("{:#}\n", Value::Object(classes)))
    }

    /// Warns of rows and texts that are in the training data and in the data to evaluate on.
    fn warn_of_overlap(&self) {
        if self.on_disk.is_some() {
            tracing::debug!("texts on disk are not compared with those to evaluate on");
            return;
        }
        let train: Vec<&Dataset> = self.train.iter().map(|(_, dataset)| dataset).collect();
        let eval = self
            .eval
            .iter()
            .map(|(_, dataset)| ("--eval-data", dataset));
        let test = self.test.iter().map(|dataset| ("--test-data", dataset));
        for (flag, dataset) in eval.chain(test) {
            let found = overlap(&train, dataset);
            if found.n_rows > 0 {
                tracing::warn!(
                    "{flag} {}: {} of {} and {} of {} are in the training data too",
                    dataset.name,
                    found.n_rows,
                    counted(dataset.n_rows(), "rows"),
                    found.n_texts,
                    counted(found.n_all_texts, "texts")
                );
            } else if found.n_texts > 0 {
                tracing::info!(
                    "{flag} {}: {} of {} are in the training data too",
                    dataset.name,
                    found.n_texts,
                    counted(found.n_all_texts, "texts")
                );
            }
        }
    }

    fn check_prompts(&self, flags: &TrainFlags) -> anyhow::Result<()> {
        let sets = || self.train.iter().chain(&self.eval);
        let names: Vec<_> = sets()
            .map(|(name, dataset)| (name.as_deref(), dataset.column_names()))
            .collect();
        for prompts in &flags.prompts {
            prompts.check(&names)?;
        }
        for (name, dataset) in sets() {
            prompts_of(flags, name.as_deref(), dataset)?;
        }
        Ok(())
    }
}

/// The training sets in memory; or the first rows of each, with the files of all.
fn training_sets(
    flags: &TrainFlags,
    located: Vec<Located>,
    is_on_disk: bool,
) -> anyhow::Result<(Vec<NamedDataset>, Option<Vec<Located>>)> {
    let names = || flags.train_data.iter().map(|set| set.name.clone());
    if is_on_disk {
        let head = |set: &Located| data::head(&set.files, &set.options, N_DESCRIBED);
        let heads = located.iter().map(head).collect::<Result<Vec<_>, _>>();
        match heads {
            Err(error @ DataError::ReadWhole { .. })
                if flags.data_in_memory == DataInMemory::Auto =>
            {
                tracing::info!("the training data is in memory all the same: {error}");
            }
            heads => return Ok((names().zip(heads?).collect(), Some(located))),
        }
    }
    let sets = located.iter().map(Located::load);
    let sets = sets.collect::<anyhow::Result<Vec<_>>>()?;
    Ok((names().zip(sets).collect(), None))
}

/// Whether the loss of the data set of this name learns from a teacher's scores of the texts of a row.
fn learns_from_scores(flags: &TrainFlags, name: Option<&String>) -> bool {
    let own = flags
        .loss
        .iter()
        .find(|loss| loss.name.is_some() && loss.name.as_ref() == name);
    let loss = own.or(flags.loss.first());
    let requirements = loss.and_then(|loss| loss.value.requirements().ok());
    let is_of_documents =
        |accepts: &Accepts| accepts.labels == LabelKind::FloatVector && accepts.min_columns > 2;
    requirements.is_some_and(|requirements| requirements.accepts.iter().any(is_of_documents))
}

/// The classes of the training set of this name, or of the only one.
fn classes_of<'t>(train: &'t [NamedDataset], name: Option<&String>) -> &'t [String] {
    let set = match train {
        [set] => Some(set),
        sets => sets.iter().find(|(other, _)| other.as_ref() == name),
    };
    set.map_or(&[], |(_, dataset)| &dataset.classes)
}

/// Whether --eval-data and --test-data are files of an evaluator of tables, and no data sets.
fn takes_data(flags: &TrainFlags) -> bool {
    match &flags.evaluator {
        Some(RunEvaluator::Tables(entry, _)) => entry.takes_data(),
        _ => false,
    }
}

/// The tables of the evaluator that the flags name, during training and before and after. Tables that have flags of
/// their own are both.
fn tables(flags: &TrainFlags, session: &Session) -> anyhow::Result<(Vec<Material>, Vec<Material>)> {
    // Material without --eval-data and --test-data is for both.
    let for_both = |material: Material| {
        let is_evaluated = flags.arguments.eval_strategy != IntervalStrategy::No;
        let during = is_evaluated.then(|| material.clone());
        (during.into_iter().collect(), vec![material])
    };
    let named = match &flags.evaluator {
        Some(RunEvaluator::Tables(entry, needs)) => Some((*entry, *needs)),
        Some(RunEvaluator::Tasks(entry, names)) => {
            let tasks = NanoBeir::load(entry, names.as_deref(), &flags.tables.0, session)?;
            return Ok(for_both(Material::NanoBeir(tasks)));
        }
        _ => None,
    };
    if flags.tables.0.has(NANO_BEIR_DATA) {
        return Err(UsageError(format!("--{NANO_BEIR_DATA} is for --evaluator nano-beir")).into());
    }
    let by_flags = || {
        let entry = flags.tables.entry()?;
        match &entry.needs {
            Needs::Tables(needs) => Some((entry, needs)),
            _ => None,
        }
    };
    let Some((entry, needs)) = named.or_else(by_flags) else {
        return Ok((Vec::new(), Vec::new()));
    };
    let load = |data: Option<&str>, name: Option<&String>, data_flag| {
        let sources = Sources {
            flags: &flags.tables.0,
            data,
            data_flag,
            columns: flags.columns.as_deref(),
            max_rows: flags.max_eval_samples,
            on_bad_row: flags.on_bad_row,
        };
        Tables::load(entry, needs, name.cloned(), &sources).map(Material::Tables)
    };
    if !entry.takes_data() {
        return Ok(for_both(load(None, None, "data")?));
    }
    let during = flags.eval_data.iter();
    let during = during.map(|set| load(Some(&set.value), set.name.as_ref(), "eval-data"));
    let after = flags.test_data.iter();
    let after = after.map(|source| load(Some(source), None, "test-data"));
    Ok((
        during.collect::<anyhow::Result<_>>()?,
        after.collect::<anyhow::Result<_>>()?,
    ))
}

/// The prompts of a data set's columns; empty where there are none.
pub(super) fn prompts_of(
    flags: &TrainFlags,
    name: Option<&str>,
    dataset: &Dataset,
) -> anyhow::Result<Vec<String>> {
    match flags.prompts.as_slice() {
        [prompts] => Ok(prompts.of(name, &dataset.column_names())?),
        _ => Ok(Vec::new()),
    }
}

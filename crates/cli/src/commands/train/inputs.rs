//! The data of a run, read and checked.

use anyhow::Context;
use data::Dataset;

use crate::{
    flags::train::TrainFlags,
    named::Named,
    session::Session,
    source::{self, DataOptions, Split},
};

/// The data sets of a run.
pub(super) struct Inputs {
    pub(super) train: Vec<NamedDataset>,
    pub(super) eval: Vec<NamedDataset>,
    pub(super) test: Option<Dataset>,
}

/// A data set, with the name that a flag gave it.
pub(super) type NamedDataset = (Option<String>, Dataset);

impl Inputs {
    /// Reads all data sets, and checks that --prompts names columns and sets that there are.
    pub(super) fn load(flags: &TrainFlags, session: &Session) -> anyhow::Result<Self> {
        let load = |source: &str, name: Option<&String>, split, max_rows| {
            let options = DataOptions {
                name: name.cloned(),
                columns: flags.columns.clone(),
                max_rows,
                on_bad_row: Some(flags.on_bad_row),
            };
            source::dataset(source, split, &options, session)
        };
        let load_all = |flag: &'static str, sets: &[Named<String>], split, max_rows| {
            let load = |set: &Named<String>| {
                let dataset = load(&set.value, set.name.as_ref(), split, max_rows).context(flag)?;
                Ok((set.name.clone(), dataset))
            };
            sets.iter().map(load).collect::<anyhow::Result<Vec<_>>>()
        };
        let (max_train, max_eval) = (flags.max_train_samples, flags.max_eval_samples);
        let test = flags.test_data.as_ref();
        let inputs = Self {
            train: load_all("--train-data", &flags.train_data, Split::Train, max_train)?,
            eval: load_all("--eval-data", &flags.eval_data, Split::Dev, max_eval)?,
            test: test
                .map(|source| load(source, None, Split::Test, max_eval).context("--test-data"))
                .transpose()?,
        };
        inputs.check_prompts(flags)?;
        Ok(inputs)
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

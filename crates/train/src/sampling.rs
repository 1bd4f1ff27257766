//! The batches of an epoch.

use data::{
    DataError,
    sampler::{self, Batch, BatchSampler, MultiDatasetBatchSampler, Rows, Seeds, TextIds},
};

use crate::{arguments::TrainingArguments, training_data::TrainingData};

/// How rows of data sets are put into batches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sampler {
    /// How the rows of one data set are put into batches.
    kind: BatchSampler,
    /// How the batches of several data sets are mixed.
    mix: MultiDatasetBatchSampler,
    pub(crate) batch_size: usize,
    drop_last: bool,
    seeds: Seeds,
}

impl Sampler {
    /// The batches of training, of all ranks together. Several ranks take full batches alone.
    pub(crate) fn training(arguments: &TrainingArguments, n_ranks: usize) -> Self {
        Self {
            kind: arguments.batch_sampler,
            mix: arguments.multi_dataset_batch_sampler,
            batch_size: arguments.per_device_train_batch_size,
            drop_last: arguments.dataloader_drop_last || n_ranks > 1,
            seeds: Seeds {
                seed: arguments.seed,
                data_seed: arguments.data_seed,
            },
        }
    }

    /// The batches of the evaluation loss. Their rows are shuffled too, as upstream shuffles them, since a loss with
    /// in-batch negatives depends on which rows share a batch.
    pub(crate) fn evaluation(arguments: &TrainingArguments) -> Self {
        Self {
            batch_size: arguments.per_device_eval_batch_size,
            ..Self::training(arguments, 1)
        }
    }

    /// Looks whether the sampler can draw batches from a data set.
    ///
    /// # Errors
    /// [`DataError::Sampler`], with what it needs.
    pub(crate) fn check(&self, data: &TrainingData) -> Result<(), DataError> {
        if self.kind == BatchSampler::GroupByLabel && data.store.is_some() {
            return Err(DataError::Sampler {
                dataset: data.dataset.name.clone(),
                sampler: "group_by_label",
                problem: "it needs all labels in memory: give --data-in-memory always".to_owned(),
            });
        }
        sampler::check(self.kind, &data.dataset, self.batch_size)
    }

    /// The texts of a data set as numbers, where they are on disk and the sampler looks at them.
    ///
    /// # Errors
    /// When the store can't be read.
    pub(crate) fn text_ids(&self, data: &TrainingData) -> Result<Option<TextIds>, DataError> {
        let store = data.store.as_ref();
        let store = store.filter(|_| self.kind == BatchSampler::NoDuplicates);
        store.map(|store| store.text_ids()).transpose()
    }

    /// The version of the order of batches: [`sampler::order_version`].
    pub(crate) fn order_version(&self, n_datasets: usize) -> u32 {
        let mix = (n_datasets > 1).then_some(self.mix);
        sampler::order_version(self.kind, mix, self.seeds)
    }

    /// Batches in an epoch, as upstream counts them: no_duplicates may need fewer or more.
    pub(crate) fn n_batches<'d, R: Copy + Into<Rows<'d>>>(&self, datasets: &[R]) -> usize {
        match datasets {
            [rows] => sampler::n_batches(self.kind, *rows, self.batch_size, self.drop_last),
            _ => sampler::n_multi_dataset_batches(
                self.mix,
                self.kind,
                datasets,
                self.batch_size,
                self.drop_last,
            ),
        }
    }

    /// The batches of an epoch, in torch's order for the seed, one after the other.
    pub(crate) fn batches<'d, R: Copy + Into<Rows<'d>>>(
        &self,
        datasets: &[R],
        epoch: u64,
    ) -> Box<dyn Iterator<Item = Batch> + 'd> {
        let Self {
            kind,
            mix,
            batch_size,
            drop_last,
            seeds,
        } = *self;
        match datasets {
            [rows] => {
                let rows = (*rows).into();
                let batches = sampler::iter_epoch(kind, rows, batch_size, drop_last, seeds, epoch);
                Box::new(batches)
            }
            _ => sampler::multi_dataset_batches(
                mix, kind, datasets, batch_size, drop_last, seeds, epoch,
            ),
        }
    }
}

/// The number of batches without what upstream's trainer does not take: batches beyond the `n_promised` a rank that the
/// sampler's length says, and those at the end that not every rank gets one of.
pub(crate) fn whole_rounds(n_batches: usize, n_promised: usize, n_ranks: usize) -> usize {
    n_promised.min(n_batches / n_ranks) * n_ranks
}

/// The batches of one rank: upstream deals those of one process out in turn.
pub(crate) fn of_rank(
    batches: &[Batch],
    rank: usize,
    n_ranks: usize,
) -> impl Iterator<Item = &Batch> {
    batches.iter().skip(rank).step_by(n_ranks)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use data::{Dataset, LoadOptions};
    use serde::Deserialize;
    use serde_json::Value;

    use super::*;

    /// A run of two ranks of upstream's trainer (`tests/fixtures/make_rank_fixtures.py`).
    #[derive(Deserialize)]
    struct Run {
        name: String,
        rows: usize,
        two_sets: bool,
        arguments: Value,
        /// For each rank, its batches as (data set, row).
        batches: Vec<Vec<Vec<(usize, u32)>>>,
    }

    #[test]
    fn ranks_get_the_batches_that_upstream_deals_them() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let runs = fs_err::read_to_string(fixtures.join("rank_runs.json")).unwrap();
        let runs: Vec<Run> = serde_json::from_str(&runs).unwrap();
        let triplets = fs_err::read_to_string(fixtures.join("triplets.jsonl")).unwrap();
        let lines: Vec<&str> = triplets.lines().collect();
        let folder = tempfile::tempdir().unwrap();
        let load = |lines: &[&str]| {
            let path = folder.path().join("rows.jsonl");
            fs_err::write(&path, lines.join("\n")).unwrap();
            data::load(path.to_str().unwrap(), &LoadOptions::default()).unwrap()
        };
        assert!(runs.len() >= 8, "{}", runs.len());
        for run in runs {
            let mut arguments = serde_json::to_value(TrainingArguments::default()).unwrap();
            for (key, value) in run.arguments.as_object().unwrap() {
                arguments[key] = value.clone();
            }
            let arguments: TrainingArguments = serde_json::from_value(arguments).unwrap();
            let mut sets = vec![load(&lines[..run.rows])];
            if run.two_sets {
                sets.push(load(&lines[run.rows..run.rows + 9]));
            }
            let sets: Vec<&Dataset> = sets.iter().collect();
            let sampler = Sampler::training(&arguments, 2);
            let n_promised = sampler.n_batches(&sets) / 2;
            let mut found = [Vec::new(), Vec::new()];
            for epoch in 0..2 {
                let mut batches: Vec<Batch> = sampler.batches(&sets, epoch).collect();
                batches.truncate(whole_rounds(batches.len(), n_promised, 2));
                for (rank, found) in found.iter_mut().enumerate() {
                    found.extend(of_rank(&batches, rank, 2).map(|batch| {
                        let rows = batch.rows.iter();
                        rows.map(|&row| (batch.dataset, row)).collect::<Vec<_>>()
                    }));
                }
            }
            assert_eq!(found.as_slice(), run.batches, "{}", run.name);
        }
    }
}

//! The batches of an epoch.

use data::{
    DataError, Dataset,
    sampler::{self, Batch, BatchSampler, MultiDatasetBatchSampler, Seeds},
};

use crate::arguments::TrainingArguments;

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
    /// The batches of training.
    pub(crate) fn training(arguments: &TrainingArguments) -> Self {
        Self {
            kind: arguments.batch_sampler,
            mix: arguments.multi_dataset_batch_sampler,
            batch_size: arguments.per_device_train_batch_size,
            drop_last: arguments.dataloader_drop_last,
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
            ..Self::training(arguments)
        }
    }

    /// Looks whether the sampler can draw batches from a data set.
    ///
    /// # Errors
    /// [`DataError::Sampler`], with what it needs.
    pub(crate) fn check(&self, dataset: &Dataset) -> Result<(), DataError> {
        sampler::check(self.kind, dataset, self.batch_size)
    }

    /// The version of the order of batches: [`sampler::order_version`].
    pub(crate) fn order_version(&self, n_datasets: usize) -> u32 {
        let mix = (n_datasets > 1).then_some(self.mix);
        sampler::order_version(self.kind, mix, self.seeds)
    }

    /// Batches in an epoch, as upstream counts them: no_duplicates may need fewer or more.
    pub(crate) fn n_batches(&self, datasets: &[&Dataset]) -> usize {
        match datasets {
            [dataset] => sampler::n_batches(self.kind, dataset, self.batch_size, self.drop_last),
            _ => sampler::n_multi_dataset_batches(
                self.mix,
                self.kind,
                datasets,
                self.batch_size,
                self.drop_last,
            ),
        }
    }

    /// The batches of an epoch, in torch's order for the seed.
    pub(crate) fn batches(&self, datasets: &[&Dataset], epoch: u64) -> Vec<Batch> {
        let Self {
            kind,
            mix,
            batch_size,
            drop_last,
            seeds,
        } = *self;
        match datasets {
            [dataset] => {
                let batches =
                    sampler::epoch_batches(kind, dataset, batch_size, drop_last, seeds, epoch);
                let of_first = |rows| Batch { dataset: 0, rows };
                batches.into_iter().map(of_first).collect()
            }
            _ => sampler::multi_dataset_batches(
                mix, kind, datasets, batch_size, drop_last, seeds, epoch,
            ),
        }
    }
}

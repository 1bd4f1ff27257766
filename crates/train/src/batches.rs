//! The batches of an epoch, in memory or, where the rows are on disk, in a file.

use std::{
    borrow::Cow,
    fs::File,
    io::{self, BufWriter, Write},
    ops::Range,
    path::Path,
    sync::{
        Arc,
        mpsc::{SyncSender, sync_channel},
    },
    thread,
};

use data::{TokenStore, sampler::Batch};

use crate::error::TrainError;

/// The batches of an epoch, of all ranks.
#[derive(Debug)]
pub(crate) enum EpochBatches {
    Memory(Vec<Batch>),
    Disk(BatchFile),
}

impl EpochBatches {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Memory(batches) => batches.len(),
            Self::Disk(file) => file.n_batches,
        }
    }

    /// Leaves out all but the first.
    pub(crate) fn truncate(&mut self, n_batches: usize) {
        match self {
            Self::Memory(batches) => batches.truncate(n_batches),
            Self::Disk(file) => file.n_batches = file.n_batches.min(n_batches),
        }
    }

    /// The batches of step `step` of the epoch, from 0, of `n` a step; none after the last.
    pub(crate) fn of_step(&self, step: u64, n: usize) -> io::Result<Cow<'_, [Batch]>> {
        let end = |step: u64| (step as usize).saturating_mul(n).min(self.len());
        let range = end(step)..end(step + 1);
        Ok(match self {
            Self::Memory(batches) => Cow::Borrowed(&batches[range]),
            Self::Disk(file) => Cow::Owned(file.read(range)?),
        })
    }
}

/// Batches in a file without a name, which is gone with the process. Each takes as many bytes, so that any one is found
/// at once.
#[derive(Debug)]
pub(crate) struct BatchFile {
    file: File,
    n_batches: usize,
    /// Numbers of a batch: the data set, the number of rows, and as many places as a batch has rows.
    width: usize,
}

impl BatchFile {
    /// Writes batches of at most `batch_size` rows to a file in `folder`.
    pub(crate) fn write(
        folder: &Path,
        batch_size: usize,
        batches: impl Iterator<Item = Batch>,
    ) -> io::Result<Self> {
        let mut file = BufWriter::new(tempfile::tempfile_in(folder)?);
        let (mut n_batches, width) = (0, 2 + batch_size);
        let mut numbers = Vec::with_capacity(width);
        for Batch { dataset, rows } in batches {
            numbers.clear();
            numbers.extend([dataset as u32, rows.len() as u32]);
            numbers.extend(rows);
            numbers.resize(width, 0);
            file.write_all(bytemuck::cast_slice(&numbers))?;
            n_batches += 1;
        }
        Ok(Self {
            file: file.into_inner()?,
            n_batches,
            width,
        })
    }

    fn read(&self, range: Range<usize>) -> io::Result<Vec<Batch>> {
        use std::os::unix::fs::FileExt;
        let mut numbers = vec![0_u32; range.len() * self.width];
        let place = (range.start * self.width * size_of::<u32>()) as u64;
        self.file
            .read_exact_at(bytemuck::cast_slice_mut(&mut numbers), place)?;
        let batches = numbers.chunks_exact(self.width).map(|numbers| Batch {
            dataset: numbers[0] as usize,
            rows: numbers[2..2 + numbers[1] as usize].to_vec(),
        });
        Ok(batches.collect())
    }
}

/// A thread that has the system read the rows of coming steps from disk while a step is made. It changes no result.
#[derive(Debug)]
pub(crate) struct ReadAhead {
    coming: SyncSender<Vec<Batch>>,
    /// The next step of the epoch that is not announced.
    next: u64,
}

impl ReadAhead {
    /// Steps that are announced before they are made.
    const N_STEPS: u64 = 32;

    /// Starts the thread over the stores of the data sets, if there are any.
    pub(crate) fn start(stores: Vec<Option<Arc<TokenStore>>>) -> io::Result<Option<Self>> {
        if stores.iter().all(Option::is_none) {
            return Ok(None);
        }
        let (coming, steps) = sync_channel::<Vec<Batch>>(2 * Self::N_STEPS as usize);
        // It ends with the sender.
        thread::Builder::new()
            .name("read-ahead".to_owned())
            .spawn(move || {
                for batch in steps.into_iter().flatten() {
                    if let Some(Some(store)) = stores.get(batch.dataset) {
                        store.warm(&batch.rows);
                    }
                }
            })?;
        Ok(Some(Self { coming, next: 0 }))
    }

    /// Announces the steps after `step` of an epoch; `of_step` says the batches of one. At the first step of an epoch that
    /// this process makes, `begins`.
    pub(crate) fn announce(
        &mut self,
        step: u64,
        begins: bool,
        of_step: impl Fn(u64) -> Result<Vec<Batch>, TrainError>,
    ) -> Result<(), TrainError> {
        if begins {
            self.next = step + 1;
        }
        while self.next <= step + Self::N_STEPS {
            let batches = of_step(self.next)?;
            self.next += 1;
            if batches.is_empty() || self.coming.try_send(batches).is_err() {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_on_disk_are_those_in_memory() {
        let batch = |dataset: usize, rows: &[u32]| Batch {
            dataset,
            rows: rows.to_vec(),
        };
        let batches = vec![
            batch(1, &[5, 0, 7]),
            batch(0, &[2]),
            batch(0, &[]),
            batch(2, &[u32::MAX, 1]),
            batch(1, &[3, 3, 3]),
        ];
        let folder = tempfile::tempdir().unwrap();
        let file = BatchFile::write(folder.path(), 3, batches.iter().cloned()).unwrap();
        let mut kinds = [
            EpochBatches::Memory(batches.clone()),
            EpochBatches::Disk(file),
        ];
        for kind in &mut kinds {
            let of_step = |kind: &EpochBatches, step| kind.of_step(step, 2).unwrap().into_owned();
            assert_eq!(kind.len(), 5);
            assert_eq!(of_step(kind, 0), batches[..2]);
            assert_eq!(of_step(kind, 2), batches[4..]);
            assert_eq!(of_step(kind, 3), []);
            kind.truncate(3);
            assert_eq!(of_step(kind, 1), batches[2..3]);
        }
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    }
}

//! Ranks: processes that train one model together, each on its own batches.
//!
//! Every rank reads the data and orders the batches; rank r takes batches r, r + n, ... of the order of one process. The
//! mean of the ranks' gradients is the step's, so that weights stay the same on all ranks. Rank 0 alone writes, logs and
//! evaluates. Nothing that ends a step or a run is decided by one rank: see [`Vote`].

pub(crate) mod error;
mod meeting;
mod watch;

use std::{
    collections::BTreeMap,
    ops::Range,
    panic,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use shim::ranks::{Ranks, RanksError, Store};
use tch::{Device, Kind, Tensor};

use self::{error::GroupError, watch::Watch};
pub use self::{meeting::Meeting, watch::Watcher};
use crate::error::TrainError;

/// Facts of a rank by name, which have to be the same on all.
pub type Facts = BTreeMap<String, String>;

/// This process among the ranks of a run.
#[derive(Debug)]
pub struct Group {
    ranks: Ranks,
    store: Store,
    watch: Arc<Watch>,
    meeting: Meeting,
}

/// The time in which a rank learns who is gone, or that none is.
const PATIENCE: Duration = Duration::from_secs(2);

/// Contribution of a rank to a decision of all.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Vote {
    /// The loss of its batches.
    pub(crate) loss: f64,
    pub(crate) n_tokens: f64,
    /// A signal has come.
    pub(crate) wants_to_stop: bool,
    pub(crate) is_out_of_memory: bool,
}

impl Group {
    /// Meets the other ranks. `facts` say how this one was started.
    ///
    /// # Errors
    /// If a rank does not come, comes twice, is gone, or has other facts: within the time-out and moments.
    pub fn join(meeting: &Meeting, facts: &Facts) -> Result<Self, TrainError> {
        let since = Instant::now();
        let watch = Arc::new(Watch::new(meeting.rank));
        let (own, facts, own_watch) = (meeting.clone(), facts.clone(), Arc::clone(&watch));
        // libtorch tries for up to twice the time-out where rank 0 dies as it begins to listen, and waits for ever for an
        // answer of a process that is stopped.
        let meets = thread::spawn(move || Self::meet(own, &facts, own_watch, since));
        let mut limit = meeting.timeout.saturating_add(PATIENCE);
        while !meets.is_finished() && since.elapsed() < limit {
            if watch.lost().is_some() {
                limit = limit.min(since.elapsed() + PATIENCE);
            }
            thread::sleep(Duration::from_millis(5));
        }
        let joined = match (meets.is_finished(), watch.lost()) {
            (true, _) => meets
                .join()
                .unwrap_or_else(|payload| panic::resume_unwind(payload)),
            (false, Some(lost)) => Err(GroupError::Lost(lost).into()),
            (false, None) => Err(meeting.unanswered(watch.is_linked()).into()),
        };
        if let Err(error) = &joined {
            watch.leave(Some(&error.to_string()));
        }
        joined
    }

    /// Takes the steps of a meeting in turn. The watch comes before anything that is waited for, so that whoever dies from
    /// then on is named at once.
    fn meet(
        meeting: Meeting,
        facts: &Facts,
        watch: Arc<Watch>,
        since: Instant,
    ) -> Result<Self, TrainError> {
        let store = meeting.open_store()?;
        meeting.claim(&store)?;
        let exchange = Exchange {
            store: &store,
            meeting: &meeting,
            watch: Some(&watch),
            since,
            timeout: meeting.timeout,
        };
        let address = meeting.own_address().map_err(GroupError::Watch)?;
        if meeting.rank == 0 {
            watch.listen(address, &meeting, &store)?;
        } else {
            exchange.wait(0..1, |_| watch::KEY.to_owned())?;
            watch.connect(&meeting, &store)?;
        }
        exchange.compare("arguments", facts)?;
        let ranks = exchange.told(Ranks::connect(
            &store,
            (meeting.rank, meeting.size),
            &address.to_string(),
            meeting.interface.as_deref(),
            meeting.timeout,
        ))?;
        Ok(Self {
            ranks,
            store,
            watch,
            meeting,
        })
    }

    /// The number of this rank, from 0.
    pub fn rank(&self) -> usize {
        self.ranks.rank()
    }

    /// The number of ranks.
    pub fn size(&self) -> usize {
        self.ranks.size()
    }

    /// Whether this is rank 0, which writes, logs and evaluates.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// A handle by which another thread learns that a rank is gone.
    pub fn watcher(&self) -> Watcher {
        self.watch.watcher()
    }

    /// Compares facts of all ranks.
    ///
    /// # Errors
    /// [`GroupError::Differs`] with the first rank that has others than rank 0.
    pub fn compare(&self, what: &str, facts: &Facts) -> Result<(), TrainError> {
        let exchange = Exchange {
            store: &self.store,
            meeting: &self.meeting,
            watch: Some(&self.watch),
            since: Instant::now(),
            timeout: self.meeting.timeout,
        };
        exchange.compare(what, facts)
    }

    /// Tells the other ranks that this one ends, with the words of its error if it failed. Without it they take its end
    /// for its death.
    pub fn leave(&self, failure: Option<&str>) {
        self.watch.leave(failure);
    }

    /// Waits until every rank has come here.
    ///
    /// # Errors
    /// If a rank is gone or late.
    pub fn barrier(&self) -> Result<(), TrainError> {
        self.told(self.ranks.barrier())
    }

    /// The bytes of rank 0 on every rank, which alone gives some.
    ///
    /// # Errors
    /// If a rank is gone or late.
    pub fn share(&self, bytes: &[u8]) -> Result<Vec<u8>, TrainError> {
        let length = Tensor::from_slice(&[bytes.len() as i64]);
        self.broadcast(&length)?;
        let length = i64::try_from(&length)?;
        let content = match self.is_first() {
            true => Tensor::f_from_slice(bytes)?,
            false => Tensor::f_zeros([length], (Kind::Uint8, Device::Cpu))?,
        };
        if length > 0 {
            self.broadcast(&content)?;
        }
        Ok(Vec::<u8>::try_from(content)?)
    }

    /// Whether a rank is gone.
    pub(crate) fn is_lost(&self) -> bool {
        self.watch.lost().is_some()
    }

    /// The error of a rank that is gone, where one is.
    pub(crate) fn check(&self) -> Result<(), TrainError> {
        match self.watch.lost() {
            Some(lost) => Err(GroupError::Lost(lost).into()),
            None => Ok(()),
        }
    }

    /// The votes of all ranks, in their order. Whatever a rank makes of them, all others make too.
    pub(crate) fn vote(&self, own: Vote) -> Result<Vec<Vote>, TrainError> {
        let flag = |is_set: bool| f64::from(u8::from(is_set));
        let own = Tensor::from_slice(&[
            own.loss,
            own.n_tokens,
            flag(own.wants_to_stop),
            flag(own.is_out_of_memory),
        ]);
        let all = self.gather(&own)?.f_reshape([-1])?;
        let all = Vec::<f64>::try_from(all)?;
        let votes = all.chunks_exact(4).map(|vote| Vote {
            loss: vote[0],
            n_tokens: vote[1],
            wants_to_stop: vote[2] != 0.0,
            is_out_of_memory: vote[3] != 0.0,
        });
        Ok(votes.collect())
    }

    /// Replaces a tensor by its mean over the ranks.
    pub(crate) fn mean(&self, tensor: &Tensor) -> Result<(), TrainError> {
        self.told(self.ranks.mean(tensor))
    }

    /// The tensors of all ranks, `[ranks, ...]`.
    pub(crate) fn gather(&self, own: &Tensor) -> Result<Tensor, TrainError> {
        self.told(self.ranks.gather(own))
    }

    /// The sum over the ranks of this rank's part, of `[ranks, ...]`.
    pub(crate) fn scatter_sum(&self, all: &Tensor) -> Result<Tensor, TrainError> {
        self.told(self.ranks.scatter_sum(all))
    }

    /// Replaces a tensor by that of rank 0.
    pub(crate) fn broadcast(&self, tensor: &Tensor) -> Result<(), TrainError> {
        self.told(self.ranks.broadcast(tensor))
    }

    fn told<T>(&self, result: Result<T, RanksError>) -> Result<T, TrainError> {
        told(result, &self.watch, self.meeting.timeout)
    }
}

/// The result of an operation, whose error names the rank that is gone where that is known within moments.
fn told<T>(
    result: Result<T, RanksError>,
    watch: &Watch,
    timeout: Duration,
) -> Result<T, TrainError> {
    let error = match result {
        Ok(value) => return Ok(value),
        Err(RanksError::Torch(error)) => return Err(error.into()),
        Err(error) => error,
    };
    let since = Instant::now();
    while since.elapsed() < PATIENCE {
        if let Some(lost) = watch.lost() {
            return Err(GroupError::Lost(lost).into());
        }
        thread::sleep(Duration::from_millis(10));
    }
    let seconds = timeout.as_secs();
    Err(match error.to_string().contains("imed out") {
        true => GroupError::Silent {
            seconds,
            source: error,
        },
        false => GroupError::Ranks(error),
    }
    .into())
}

/// An exchange of facts by way of the store.
struct Exchange<'s> {
    store: &'s Store,
    meeting: &'s Meeting,
    /// `None` to wait on though a rank is lost.
    watch: Option<&'s Watch>,
    /// The time from which `timeout` counts.
    since: Instant,
    timeout: Duration,
}

impl Exchange<'_> {
    /// Publishes the facts of this rank, waits for those of all others, and compares them with rank 0's.
    fn compare(&self, what: &str, facts: &Facts) -> Result<(), TrainError> {
        let key = |rank: usize| format!("{what} of {rank}");
        let Meeting {
            rank: own, size, ..
        } = *self.meeting;
        let own_facts = serde_json::to_vec(facts).map_err(std::io::Error::from)?;
        self.told(self.store.set(&key(own), &own_facts))?;
        self.wait(0..size, key)?;
        let mut all = Vec::with_capacity(size);
        for rank in 0..size {
            let facts = self.told(self.store.get(&key(rank)))?;
            all.push(serde_json::from_slice::<Facts>(&facts).map_err(std::io::Error::from)?);
        }
        let has_read = |rank: usize| format!("{what} read by {rank}");
        self.told(self.store.set(&has_read(own), b""))?;
        let differing = (1..size).find(|&rank| all[rank] != all[0]);
        let Some(rank) = differing else {
            return Ok(());
        };
        if own == 0 {
            // The store may go with rank 0, which has to be there until all have seen the difference.
            let _ = Exchange {
                watch: None,
                since: Instant::now(),
                timeout: self.timeout.min(Duration::from_secs(5)),
                ..*self
            }
            .wait(0..size, has_read);
        }
        Err(GroupError::Differs {
            rank,
            differences: differences(&all[rank], &all[0]),
        }
        .into())
    }

    /// Waits until every one of `ranks` has set its key.
    fn wait(&self, ranks: Range<usize>, key: impl Fn(usize) -> String) -> Result<(), TrainError> {
        // Rank 0 tells the others who has not come, before they would have to look themselves.
        let lead = Duration::from_secs(u64::from(self.meeting.rank > 0));
        let limit = self.timeout.saturating_add(lead);
        let mut absent: Vec<usize> = ranks.collect();
        loop {
            // Before the keys: one that ends after it has set the last of them is waited for no longer.
            let lost = self.watch.and_then(Watch::lost);
            let mut still = Vec::new();
            for rank in absent {
                if !self.told(self.store.has(&key(rank)))? {
                    still.push(rank);
                }
            }
            absent = still;
            if absent.is_empty() {
                return Ok(());
            }
            if let Some(lost) = lost {
                return Err(GroupError::Lost(lost).into());
            }
            if self.since.elapsed() >= limit {
                return Err(self.meeting.absent(absent).into());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn told<T>(&self, result: Result<T, RanksError>) -> Result<T, TrainError> {
        match self.watch {
            Some(watch) => told(result, watch, self.meeting.timeout),
            None => Ok(result?),
        }
    }
}

/// The most differences that a message lists.
const MOST_DIFFERENCES: usize = 5;

/// The differences of facts from those of rank 0.
fn differences(facts: &Facts, first: &Facts) -> Vec<String> {
    let mut names: Vec<&String> = facts.keys().chain(first.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let shown = |facts: &Facts, name: &str| match facts.get(name) {
        None => "not set".to_owned(),
        Some(value) if value.len() == 64 => value[..12].to_owned(),
        Some(value) => value.clone(),
    };
    let differing = names
        .into_iter()
        .filter(|name| facts.get(*name) != first.get(*name));
    differing
        .take(MOST_DIFFERENCES)
        .map(|name| {
            format!(
                "{name} is {} and not {}",
                shown(facts, name),
                shown(first, name)
            )
        })
        .collect()
}

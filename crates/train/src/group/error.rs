//! Errors of ranks with each other.

use std::{fmt, io};

use shim::ranks::RanksError;

/// An error of ranks with each other.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// Another process listens where rank 0 has to.
    #[error(
        "rank 0 can't listen on port {port}, which another program has, perhaps another run: give the ranks another MASTER_PORT"
    )]
    PortTaken {
        /// The port.
        port: u16,
    },
    /// Nobody serves the store.
    #[error(
        "nobody answers at {place} within {seconds} s (--ddp-timeout), where rank 0 or the launcher serves the ranks: look what became of it, and whether MASTER_ADDR and MASTER_PORT are right ({words})"
    )]
    NoStore {
        /// Address and port.
        place: String,
        /// The time-out.
        seconds: u64,
        /// libtorch's words.
        words: String,
    },
    /// A rank has come twice.
    #[error(
        "rank {rank} has come to {place} twice: another run meets there, or two processes are rank {rank}; give each run a MASTER_PORT of its own"
    )]
    Twice {
        /// The rank.
        rank: usize,
        /// Address and port.
        place: String,
    },
    /// Some ranks have not come.
    #[error(
        "{} of {size} did not come to {place} within {seconds} s (--ddp-timeout): look what became of them",
        named(ranks)
    )]
    Absent {
        /// Ranks that are missing.
        ranks: Vec<usize>,
        /// The number of all.
        size: usize,
        /// Address and port.
        place: String,
        /// The time-out.
        seconds: u64,
    },
    /// A rank was started differently.
    #[error("rank {rank} differs from rank 0: {}: start all ranks alike", differences.join(", "))]
    Differs {
        /// The rank.
        rank: usize,
        /// Each difference, with both values.
        differences: Vec<String>,
    },
    /// A rank is gone.
    #[error(transparent)]
    Lost(Lost),
    /// No other rank answered in time.
    #[error(
        "no answer from another rank within {seconds} s ({source}): a rank is stuck, or the network between them is cut; the last checkpoint is whole, and where a rank may take longer, raise --ddp-timeout"
    )]
    Silent {
        /// The time-out.
        seconds: u64,
        /// libtorch's words.
        source: RanksError,
    },
    /// The connections by which ranks notice each other's end could not be made.
    #[error("the ranks can't watch over each other")]
    Watch(#[source] io::Error),
    /// Rank 0 serves the store, or did, and does not listen.
    #[error(
        "rank 0 can't be reached at {address}, where it watches over the ranks: look what became of it, whether a firewall is between, and whether MASTER_ADDR is an address that other machines know"
    )]
    Unreachable {
        /// Address and port.
        address: String,
        /// The system's error.
        source: io::Error,
    },
    /// An operation failed.
    #[error(transparent)]
    Ranks(RanksError),
}

/// A rank that is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// The rank.
    pub rank: usize,
    /// The error that it ended with, where it could say so.
    pub words: Option<String>,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rank, words } = self;
        match words {
            Some(words) => write!(f, "rank {rank} failed: {words}"),
            None => write!(
                f,
                "rank {rank} is gone: its process has ended without a word; the last checkpoint is whole, from which all ranks go on with --resume-from-checkpoint"
            ),
        }
    }
}

impl std::error::Error for Lost {}

/// `rank 1`, or `ranks 1, 3`.
fn named(ranks: &[usize]) -> String {
    let list: Vec<String> = ranks.iter().map(ToString::to_string).collect();
    let plural = if ranks.len() == 1 { "" } else { "s" };
    format!("rank{plural} {}", list.join(", "))
}

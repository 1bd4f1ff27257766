//! The watch of ranks over each other: a connection of each to rank 0, which breaks when a process ends, however it ends.
//!
//! Operations between ranks fail too when a rank is gone, but without its name, and only once one is tried. Here the
//! system tells rank 0 at once which connection is closed, and rank 0 tells the others. It begins with the meeting: rank 0
//! takes connections as soon as there is a store to name its address in.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use shim::ranks::Store;

use crate::{
    error::TrainError,
    group::{
        error::{GroupError, Lost},
        meeting::Meeting,
    },
};

/// The connections of this rank.
#[derive(Debug)]
pub(super) struct Watch {
    shared: Arc<Shared>,
}

/// A handle of a watch for another thread.
#[derive(Debug, Clone)]
pub struct Watcher {
    shared: Arc<Shared>,
}

impl Watcher {
    /// The rank that was lost first, if one was.
    pub fn lost(&self) -> Option<Lost> {
        self.shared.lost()
    }
}

#[derive(Debug)]
struct Shared {
    rank: usize,
    lost: Mutex<Option<Lost>>,
    /// Connections by rank: to all others on rank 0, and to rank 0 on the others.
    links: Mutex<BTreeMap<usize, TcpStream>>,
    /// The address that rank 0 listens on.
    door: OnceLock<SocketAddr>,
    has_left: AtomicBool,
}

/// Key of the address that rank 0 listens on.
pub(super) const KEY: &str = "watch";

impl Watch {
    /// A watch of this rank, which has no connections yet.
    pub(super) fn new(rank: usize) -> Self {
        let shared = Arc::new(Shared {
            rank,
            lost: Mutex::new(None),
            links: Mutex::new(BTreeMap::new()),
            door: OnceLock::new(),
            has_left: AtomicBool::new(false),
        });
        Self { shared }
    }

    /// Has rank 0 take connections of the others, on a thread of its own, and says in the store where.
    pub(super) fn listen(
        &self,
        address: IpAddr,
        meeting: &Meeting,
        store: &Store,
    ) -> Result<(), TrainError> {
        let listener = TcpListener::bind((address, 0)).map_err(GroupError::Watch)?;
        let door = listener.local_addr().map_err(GroupError::Watch)?;
        let door = *self.shared.door.get_or_init(|| door);
        let (shared, size) = (Arc::clone(&self.shared), meeting.size);
        let take_all = move || {
            for stream in listener.incoming() {
                if shared.has_left.load(Ordering::SeqCst) {
                    return;
                }
                let taken = stream.and_then(|stream| shared.take(stream, size));
                if taken.is_err() {
                    // Such as too many open files: not again at once.
                    thread::sleep(Duration::from_millis(10));
                }
            }
        };
        thread::Builder::new()
            .name("watch".to_owned())
            .spawn(take_all)
            .map_err(GroupError::Watch)?;
        Ok(store.set(KEY, door.to_string().as_bytes())?)
    }

    /// Connects another rank with rank 0, whose address is in the store.
    pub(super) fn connect(&self, meeting: &Meeting, store: &Store) -> Result<(), TrainError> {
        let address = String::from_utf8_lossy(&store.get(KEY)?).into_owned();
        let door = address.parse::<SocketAddr>().map_err(io::Error::other);
        let linked = door.and_then(|door| {
            let mut stream = TcpStream::connect_timeout(&door, meeting.timeout)?;
            writeln!(stream, "rank {}", meeting.rank)?;
            let reader = BufReader::new(stream.try_clone()?);
            self.shared.link(0, stream)?;
            self.shared.follow(0, reader)
        });
        Ok(linked.map_err(|source| GroupError::Unreachable { address, source })?)
    }

    /// Whether there is a connection.
    pub(super) fn is_linked(&self) -> bool {
        !lock(&self.shared.links).is_empty()
    }

    pub(super) fn watcher(&self) -> Watcher {
        Watcher {
            shared: Arc::clone(&self.shared),
        }
    }

    pub(super) fn lost(&self) -> Option<Lost> {
        self.shared.lost()
    }

    /// Says goodbye. One that fails because another is lost is not lost itself.
    pub(super) fn leave(&self, failure: Option<&str>) {
        if self.shared.has_left.swap(true, Ordering::SeqCst) {
            return;
        }
        let news = match failure {
            Some(words) if self.lost().is_none() => News::Failed(words.to_owned()),
            _ => News::Bye,
        };
        self.shared.say(&news, None);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.has_left.store(true, Ordering::SeqCst);
        for link in lock(&self.shared.links).values() {
            // Ends the thread that reads from it; one that is broken has ended already.
            let _ = link.shutdown(std::net::Shutdown::Both);
        }
        if let Some(door) = self.shared.door.get() {
            // So does the one that takes connections, at the next.
            let _ = TcpStream::connect_timeout(door, Duration::from_secs(1));
        }
    }
}

impl Shared {
    /// Takes the connection of a rank. Whoever else connects says no rank.
    fn take(self: &Arc<Self>, stream: TcpStream, size: usize) -> io::Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        stream.set_read_timeout(None)?;
        let rank = line.strip_prefix("rank ");
        let Some(rank) = rank.and_then(|rank| rank.trim().parse().ok()) else {
            return Ok(());
        };
        self.link(rank, stream)?;
        match rank < size {
            true => self.follow(rank, reader),
            // Of another run, or started wrongly: its facts will differ, and its end is none of a rank.
            false => Ok(()),
        }
    }

    fn link(&self, rank: usize, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut links = lock(&self.links);
        if let Some(lost) = self.lost() {
            // The others have been told before this one came.
            (&stream).write_all(News::Lost(lost).write().as_bytes())?;
        }
        links.insert(rank, stream);
        Ok(())
    }

    /// Reads what `rank` says, on a thread of its own.
    fn follow(self: &Arc<Self>, rank: usize, mut reader: BufReader<TcpStream>) -> io::Result<()> {
        let shared = Arc::clone(self);
        thread::Builder::new()
            .name(format!("watch over {rank}"))
            .spawn(move || {
                let mut line = String::new();
                let is_whole = matches!(reader.read_line(&mut line), Ok(n) if n > 0);
                let news = is_whole.then(|| News::read(&line)).flatten();
                match news {
                    Some(News::Bye) => {}
                    Some(News::Failed(words)) => shared.lose(Lost {
                        rank,
                        words: Some(words),
                    }),
                    Some(News::Lost(lost)) => shared.lose(lost),
                    None => shared.lose(Lost { rank, words: None }),
                }
            })?;
        Ok(())
    }

    fn lost(&self) -> Option<Lost> {
        lock(&self.lost).clone()
    }

    /// Takes note of the first rank that is lost, and has rank 0 tell the others.
    fn lose(&self, lost: Lost) {
        if self.has_left.load(Ordering::SeqCst) {
            return;
        }
        {
            let mut first = lock(&self.lost);
            if first.is_some() {
                return;
            }
            *first = Some(lost.clone());
        }
        if self.rank == 0 {
            let rank = lost.rank;
            self.say(&News::Lost(lost), Some(rank));
        }
    }

    /// Says something on all connections but that of one rank.
    fn say(&self, news: &News, except: Option<usize>) {
        for (rank, link) in lock(&self.links).iter() {
            if Some(*rank) != except {
                // Nobody is left there to hear it where this fails.
                let _ = (&*link).write_all(news.write().as_bytes());
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The last line on a connection.
#[derive(Debug, Clone, PartialEq)]
enum News {
    /// The rank that says so ends, and nothing is wrong.
    Bye,
    /// The end of the rank that says so, with its error.
    Failed(String),
    /// From rank 0: another rank is lost.
    Lost(Lost),
}

impl News {
    fn write(&self) -> String {
        let one_line = |words: &str| words.replace(['\n', '\r'], " ");
        match self {
            Self::Bye => "bye\n".to_owned(),
            Self::Failed(words) => format!("failed {}\n", one_line(words)),
            Self::Lost(Lost { rank, words }) => match words {
                Some(words) => format!("lost {rank} {}\n", one_line(words)),
                None => format!("lost {rank}\n"),
            },
        }
    }

    /// `None` for a line that broke off, or anything else that no rank says.
    fn read(line: &str) -> Option<Self> {
        let line = line.strip_suffix('\n')?;
        if line == "bye" {
            return Some(Self::Bye);
        }
        if let Some(words) = line.strip_prefix("failed ") {
            return Some(Self::Failed(words.to_owned()));
        }
        let lost = line.strip_prefix("lost ")?;
        let (rank, words) = match lost.split_once(' ') {
            Some((rank, words)) => (rank, Some(words.to_owned())),
            None => (lost, None),
        };
        Some(Self::Lost(Lost {
            rank: rank.parse().ok()?,
            words,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_are_read_as_they_are_written() {
        let lost = |words: Option<&str>| {
            News::Lost(Lost {
                rank: 12,
                words: words.map(str::to_owned),
            })
        };
        for news in [
            News::Bye,
            News::Failed("the disk is full: x".to_owned()),
            lost(None),
            lost(Some("two words")),
        ] {
            assert_eq!(News::read(&news.write()), Some(news));
        }
        let two_lines = News::Failed("a\nb".to_owned()).write();
        assert_eq!(News::read(&two_lines), Some(News::Failed("a b".to_owned())));
        for line in ["", "bye", "lost x\n", "hello\n"] {
            assert_eq!(News::read(line), None, "{line}");
        }
    }
}

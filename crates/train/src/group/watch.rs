//! The watch of ranks over each other: a connection of each to rank 0, which breaks when a process ends, however it ends.
//!
//! Operations between ranks fail too when a rank is gone, but without its name, and only once one is tried. Here the
//! system tells rank 0 at once which connection is closed, and rank 0 tells the others.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
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
    has_left: AtomicBool,
}

/// Key of the address that rank 0 listens on.
const KEY: &str = "watch";

impl Watch {
    /// Connects this rank, which is known to others by `address`.
    pub(super) fn start(
        meeting: &Meeting,
        address: IpAddr,
        store: &Store,
    ) -> Result<Self, TrainError> {
        let shared = Arc::new(Shared {
            rank: meeting.rank,
            lost: Mutex::new(None),
            links: Mutex::new(BTreeMap::new()),
            has_left: AtomicBool::new(false),
        });
        let watch = Self { shared };
        if meeting.rank == 0 {
            let listener = TcpListener::bind((address, 0)).map_err(GroupError::Watch)?;
            let own = listener.local_addr().map_err(GroupError::Watch)?;
            store.set(KEY, own.to_string().as_bytes())?;
            watch
                .accept(&listener, meeting)
                .map_err(GroupError::Watch)?;
            let links = lock(&watch.shared.links);
            let absent: Vec<usize> = (1..meeting.size)
                .filter(|rank| !links.contains_key(rank))
                .collect();
            if !absent.is_empty() {
                return Err(meeting.absent(absent).into());
            }
        } else {
            let address = String::from_utf8_lossy(&store.get(KEY)?).into_owned();
            watch
                .connect(&address, meeting)
                .map_err(GroupError::Watch)?;
        }
        Ok(watch)
    }

    /// Takes the connections of the other ranks that come in time.
    fn accept(&self, listener: &TcpListener, meeting: &Meeting) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let since = Instant::now();
        while lock(&self.shared.links).len() < meeting.size - 1 {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if since.elapsed() >= meeting.timeout {
                        return Ok(());
                    }
                    thread::sleep(Duration::from_millis(5));
                    continue;
                }
                Err(error) => return Err(error),
            };
            stream.set_nonblocking(false)?;
            // Whoever else connects says no rank.
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            let mut reader = BufReader::new(stream.try_clone()?);
            let mut line = String::new();
            let read = reader.read_line(&mut line);
            let rank = line
                .strip_prefix("rank ")
                .and_then(|rank| rank.trim().parse().ok());
            if let (Ok(_), Some(rank)) = (read, rank) {
                stream.set_read_timeout(None)?;
                self.follow(rank, stream, reader)?;
            }
        }
        Ok(())
    }

    fn connect(&self, address: &str, meeting: &Meeting) -> io::Result<()> {
        let address: SocketAddr = address.parse().map_err(io::Error::other)?;
        let mut stream = TcpStream::connect_timeout(&address, meeting.timeout)?;
        writeln!(stream, "rank {}", meeting.rank)?;
        let reader = BufReader::new(stream.try_clone()?);
        self.follow(0, stream, reader)
    }

    /// Reads what `rank` says, on a thread of its own.
    fn follow(
        &self,
        rank: usize,
        stream: TcpStream,
        mut reader: BufReader<TcpStream>,
    ) -> io::Result<()> {
        stream.set_nodelay(true)?;
        lock(&self.shared.links).insert(rank, stream);
        let shared = Arc::clone(&self.shared);
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
    }
}

impl Shared {
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

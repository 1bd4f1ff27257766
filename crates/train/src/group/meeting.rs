//! The place where ranks meet, and how this one gets there.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream, ToSocketAddrs, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use shim::ranks::{RanksError, Server, Store};

use crate::{error::TrainError, group::error::GroupError};

/// The place where the ranks of a run meet, and the number of this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meeting {
    /// The number of this rank, from 0.
    pub rank: usize,
    /// The number of ranks.
    pub size: usize,
    /// Name or address of the machine with the store, which rank 0 or a launcher serves.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The store's server.
    pub server: Server,
    /// A name for this start of the run, so that nothing is found of an earlier one.
    pub attempt: String,
    /// The network interface to talk to other ranks by [default: that by which `host` is reached].
    pub interface: Option<String>,
    /// The longest that a rank waits for another.
    pub timeout: Duration,
}

impl Meeting {
    pub(super) fn place(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    pub(super) fn open_store(&self) -> Result<Store, TrainError> {
        if self.server == Server::Other {
            self.wait_for_server()?;
        }
        let prefix = format!("sentune/{}", self.attempt);
        let store = Store::open((&self.host, self.port), self.server, &prefix, self.timeout);
        store.map_err(|error| match error {
            RanksError::Failed { words, .. } if words.contains("EADDRINUSE") => {
                GroupError::PortTaken { port: self.port }.into()
            }
            RanksError::Failed { words, .. } if self.server == Server::Other => {
                self.unserved(words).into()
            }
            error => error.into(),
        })
    }

    /// Waits until somebody listens at the place. libtorch would wait too, but longer and longer between its attempts, and
    /// so up to twice the time-out where rank 0 never comes.
    fn wait_for_server(&self) -> Result<(), GroupError> {
        const LONGEST_ATTEMPT: Duration = Duration::from_secs(5);
        let since = Instant::now();
        loop {
            let left = self.timeout.saturating_sub(since.elapsed());
            // A name may have no address before its machine is up.
            let found = (self.host.as_str(), self.port).to_socket_addrs();
            let tried = found.and_then(|mut addresses| {
                let problem = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
                let patience = left.clamp(Duration::from_millis(100), LONGEST_ATTEMPT);
                addresses
                    .try_fold(problem, |_, address| {
                        match TcpStream::connect_timeout(&address, patience) {
                            Ok(_) => Err(()),
                            Err(error) => Ok(error),
                        }
                    })
                    .map_or(Ok(()), Err)
            });
            match tried {
                Ok(()) => return Ok(()),
                Err(error) if left.is_zero() => return Err(self.unserved(error.to_string())),
                Err(_) => thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    fn unserved(&self, words: String) -> GroupError {
        GroupError::NoStore {
            place: self.place(),
            seconds: self.timeout.as_secs(),
            words,
        }
    }

    /// The error of a meeting that libtorch does not end in time: before this rank is linked with rank 0, or after.
    pub(super) fn unanswered(&self, is_linked: bool) -> GroupError {
        let words = "libtorch still waits".to_owned();
        match is_linked {
            false => self.unserved(words),
            true => GroupError::Silent {
                seconds: self.timeout.as_secs(),
                source: RanksError::Failed {
                    operation: "the meeting by the store, which rank 0 or the launcher serves",
                    words,
                },
            },
        }
    }

    /// The error of ranks that have not come.
    pub(super) fn absent(&self, ranks: Vec<usize>) -> GroupError {
        GroupError::Absent {
            ranks,
            size: self.size,
            place: self.place(),
            seconds: self.timeout.as_secs(),
        }
    }

    /// Takes the number of this rank, which nobody else may have.
    pub(super) fn claim(&self, store: &Store) -> Result<(), TrainError> {
        if store.add(&format!("rank {}", self.rank), 1)? > 1 {
            return Err(GroupError::Twice {
                rank: self.rank,
                place: self.place(),
            }
            .into());
        }
        Ok(())
    }

    /// The address of this machine on the network by which it reaches the meeting's host.
    pub(super) fn own_address(&self) -> io::Result<IpAddr> {
        let mut problem = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for host in (self.host.as_str(), self.port).to_socket_addrs()? {
            let any: IpAddr = match host.is_ipv4() {
                true => Ipv4Addr::UNSPECIFIED.into(),
                false => Ipv6Addr::UNSPECIFIED.into(),
            };
            // Nothing is sent: the system chooses the route and so the address.
            let routed = UdpSocket::bind((any, 0)).and_then(|socket| {
                socket.connect(host)?;
                socket.local_addr()
            });
            match routed {
                Ok(address) => return Ok(address.ip()),
                Err(error) => problem = error,
            }
        }
        Err(problem)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_ranks_meet_on_the_loopback() {
        let meeting = |host: &str| Meeting {
            rank: 0,
            size: 2,
            host: host.to_owned(),
            port: 29500,
            server: Server::Own,
            attempt: "0".to_owned(),
            interface: None,
            timeout: Duration::from_secs(1),
        };
        for host in ["127.0.0.1", "localhost"] {
            assert!(meeting(host).own_address().unwrap().is_loopback(), "{host}");
        }
        assert!(meeting("no such host").own_address().is_err());
    }
}

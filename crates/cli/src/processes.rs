//! `sentune train --processes N`: this process starts the ranks on its machine and waits for them.
//!
//! The ranks are this program again, with the variables that torchrun would set. The socket that they meet at is bound here
//! and inherited by rank 0 as its stdin, so that no other program can take the port in between. A connection to each
//! carries a signal that comes to this process, and tells the rank when this process is gone.

use std::{
    io::Write,
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{ranks, session::Session};

/// The time in which the other ranks have to end by themselves once one has failed.
const GRACE: Duration = Duration::from_secs(20);

/// A rank that failed, as the process that started it says so.
#[derive(Debug, thiserror::Error)]
#[error("rank {rank} of {size}: {status}")]
pub(crate) struct RankFailed {
    rank: usize,
    size: usize,
    status: ExitStatus,
}

impl RankFailed {
    /// The rank's own exit code.
    pub(crate) fn exit_code(&self) -> u8 {
        let code = self.status.code().and_then(|code| u8::try_from(code).ok());
        code.unwrap_or(1)
    }
}

/// Starts `size` ranks with this process's arguments, and waits for all.
///
/// # Errors
/// The first rank that failed, or the signal that ended all.
pub(crate) fn run(size: usize, session: &Session) -> anyhow::Result<()> {
    // The ranks stop in their own time.
    let _waits = session.interrupt.hold();
    let parent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    parent.set_nonblocking(true)?;
    let mut processes = Processes {
        children: start(size, &parent)?,
        links: Vec::new(),
        signal: None,
    };
    let mut failed: Option<(Instant, RankFailed)> = None;
    while !processes.children.is_empty() {
        thread::sleep(Duration::from_millis(20));
        while let Ok((link, _)) = parent.accept() {
            processes.link(link);
        }
        if processes.signal.is_none() {
            processes.signal = session.interrupt.signal();
            processes.pass_on();
        }
        for (rank, status) in processes.ended()? {
            if !status.success() && failed.is_none() {
                failed = Some((Instant::now(), RankFailed { rank, size, status }));
            }
        }
        let is_late = failed
            .as_ref()
            .is_some_and(|(since, _)| since.elapsed() > GRACE);
        if is_late && processes.signal.is_none() {
            for (_, child) in &mut processes.children {
                child.kill()?;
            }
        }
    }
    match (processes.signal, failed) {
        (Some(_), Some(_)) => Err(session.interrupt.error()),
        (None, Some((_, failed))) => Err(failed.into()),
        (_, None) => Ok(()),
    }
}

/// The ranks that run, by their numbers.
fn start(size: usize, parent: &TcpListener) -> anyhow::Result<Vec<(usize, Child)>> {
    let meeting = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = meeting.local_addr()?.port();
    let mut stdin = Some(Stdio::from(OwnedFd::from(meeting)));
    let mut children = Vec::with_capacity(size);
    for rank in 0..size {
        // This very program, even if its file has been replaced or never was one.
        let mut command = Command::new("/proc/self/exe");
        command
            .args(std::env::args_os().skip(1))
            .env("RANK", rank.to_string())
            .env("WORLD_SIZE", size.to_string())
            .env("LOCAL_RANK", rank.to_string())
            .env("LOCAL_WORLD_SIZE", size.to_string())
            .env("MASTER_ADDR", Ipv4Addr::LOCALHOST.to_string())
            .env("MASTER_PORT", port.to_string())
            .env(ranks::PARENT, parent.local_addr()?.to_string())
            .env(ranks::JOB, std::process::id().to_string());
        match stdin.take() {
            Some(socket) => command.stdin(socket).env(ranks::SOCKET, "stdin"),
            None => command.stdin(Stdio::null()).env_remove(ranks::SOCKET),
        };
        children.push((rank, command.spawn()?));
    }
    Ok(children)
}

struct Processes {
    children: Vec<(usize, Child)>,
    links: Vec<TcpStream>,
    /// The signal that has come to this process.
    signal: Option<u8>,
}

impl Processes {
    /// Takes the connection of a rank.
    fn link(&mut self, link: TcpStream) {
        self.links.push(link);
        self.pass_on();
    }

    /// Passes a signal on to the ranks. One that is gone does not need it, and a second time changes nothing.
    fn pass_on(&mut self) {
        if let Some(signal) = self.signal {
            for link in &mut self.links {
                let _ = link.write_all(&[signal]);
            }
        }
    }

    /// The ranks that have ended, which are no longer waited for.
    fn ended(&mut self) -> anyhow::Result<Vec<(usize, ExitStatus)>> {
        let mut ended = Vec::new();
        for (rank, child) in &mut self.children {
            if let Some(status) = child.try_wait()? {
                ended.push((*rank, status));
            }
        }
        self.children
            .retain(|(rank, _)| ended.iter().all(|(gone, _)| gone != rank));
        Ok(ended)
    }
}

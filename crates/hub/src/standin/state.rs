//! The stand-in's repositories, its bucket, the faults that are planned and the requests so far.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
    time::Duration,
};

use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::tls::Authority;

/// Which of the two servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// The endpoint, which may see the token.
    Hub,
    /// The other host, which must not.
    Storage,
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Where it arrived.
    pub server: Server,
    /// GET, HEAD, POST or PUT.
    pub method: String,
    /// With the query.
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body of a POST or PUT.
    pub body: Vec<u8>,
}

impl Recorded {
    /// The value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.as_str())
    }
}

/// A fault of one answer.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This status and these headers, with no body.
    Status(u16, Vec<(String, String)>),
    /// Closes the connection before any answer.
    HangUp,
    /// Does what is asked, and closes the connection before any answer.
    LoseAnswer,
    /// Reads so many bytes of the request's body and closes the connection.
    CutRequest(u64),
    /// Has someone else commit first, where a repository is committed to.
    MoveHead,
    /// Leaves a header of the answer out.
    Without(&'static str),
    /// Announces everything and closes the connection after so many bytes of the body.
    BreakAfter(usize),
    /// Sends so many bytes of the body and then nothing, with the connection open.
    StallAfter(usize),
    /// Sends the body one byte at a time, with this pause in between.
    Drip(Duration),
    /// Adds this to Content-Length.
    WrongLength(i64),
    /// Adds headers, in front of the true ones of the same name, which are left out.
    Headers(Vec<(String, String)>),
    /// Serves this in the file's place, with the headers of the true one but its own length.
    Body(Vec<u8>),
    /// Serves this without a Content-Length, until the connection closes.
    Endless(Vec<u8>),
    /// Repeats this as the body, without a Content-Length, until the client goes away.
    Forever(Vec<u8>),
    /// Writes these bytes in the place of head and body, and closes the connection.
    Raw(Vec<u8>),
    /// Writes the first bytes in the place of head and body, then the second ones until the client
    /// goes away.
    RawForever(Vec<u8>, Vec<u8>),
    /// Serves the whole file with 200 where a range was asked for.
    IgnoreRange,
    /// Serves the range from the start on, and says so.
    WrongRange,
}

pub(super) struct State {
    pub(super) hub: SocketAddr,
    pub(super) storage: SocketAddr,
    pub(super) authority: Option<Authority>,
    pub(super) is_over: AtomicBool,
    pub(super) content: Mutex<Content>,
}

impl State {
    pub(super) fn hub_url(&self) -> String {
        match self.authority {
            None => format!("http://{}", self.hub),
            Some(_) => format!("https://localhost:{}", self.hub.port()),
        }
    }

    // Another name than the hub's: Python takes two ports of one name for the same host.
    pub(super) fn storage_url(&self) -> String {
        let scheme = if self.authority.is_some() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://localhost:{}", self.storage.port())
    }

    pub(super) fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
pub(super) struct Content {
    /// Repositories by `models/org/name` or `datasets/org/name`.
    pub(super) repos: BTreeMap<String, Repo>,
    pub(super) token: Option<String>,
    pub(super) bucket: Bucket,
    pub(super) faults: Vec<Planned>,
    pub(super) requests: Vec<Recorded>,
}

pub(super) struct Repo {
    pub(super) commit: String,
    pub(super) files: BTreeMap<String, StoredFile>,
    pub(super) n_commits: usize,
    pub(super) is_private: bool,
}

impl Repo {
    pub(super) fn new() -> Self {
        Self {
            commit: FIRST_COMMIT.to_owned(),
            files: BTreeMap::new(),
            n_commits: 0,
            is_private: false,
        }
    }
}

pub(super) struct StoredFile {
    pub(super) content: Vec<u8>,
    pub(super) is_large: bool,
}

pub(super) struct Planned {
    pub(super) server: Server,
    pub(super) part: String,
    pub(super) times: usize,
    pub(super) fault: Fault,
}

/// An answer before any fault.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Reply {
    pub(super) fn new(status: u16, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> Self {
        let headers = headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Self {
            status,
            headers: headers.collect(),
            body: body.into(),
        }
    }

    pub(super) fn error(status: u16, code: &str) -> Self {
        Self::new(
            status,
            &[("x-error-code", code)],
            "{\"error\":\"stand-in\"}",
        )
    }
}

pub(super) fn sha256(content: &[u8]) -> String {
    hex::encode(Sha256::digest(content))
}

pub(super) fn git_sha1(content: &[u8]) -> String {
    let mut hasher = Sha1::new();
    hasher.update(format!("blob {}\0", content.len()).as_bytes());
    hasher.update(content);
    hex::encode(hasher.finalize())
}

/// The commit that `main` stands for at first.
pub const FIRST_COMMIT: &str = "1111111111111111111111111111111111111111";

/// The storage's objects, and the parts of those that are on their way.
pub(super) struct Bucket {
    pub(super) objects: BTreeMap<String, Vec<u8>>,
    pub(super) parts: BTreeMap<(String, usize), Vec<u8>>,
    /// Objects of more bytes than this come in parts of this size.
    pub(super) part_size: usize,
}

impl Default for Bucket {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            parts: BTreeMap::new(),
            part_size: 100_000,
        }
    }
}

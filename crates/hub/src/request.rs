//! One request to one host, on a thread of its own, and its answer.
//!
//! The worker's thread hands over what arrives in chunks. The caller's thread never blocks for longer
//! than [`POLL`], so that an interrupt stops it even while a connection hangs in a name look-up or in
//! the middle of a body; a worker that nobody listens to any more ends with the next time-out of its
//! socket, or with the process.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::PathBuf,
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender},
    time::{Duration, Instant},
};

use ureq::{
    Agent, SendBody,
    http::{HeaderMap, Request},
};

use crate::{
    error::HubError,
    name::is_commit,
    retry::Failure,
    watcher::{POLL, Watcher},
};

/// Bytes in a chunk, and chunks in flight: 1 MiB per download.
pub(crate) const CHUNK: usize = 128 * 1024;
pub(crate) const CHUNKS_IN_FLIGHT: usize = 8;

/// The body of a request.
#[derive(Clone)]
pub(crate) enum Payload {
    None,
    Bytes(Vec<u8>),
    /// `len` bytes of a file from `start` on.
    Slice {
        path: PathBuf,
        start: u64,
        len: u64,
    },
}

impl Payload {
    pub(crate) fn len(&self) -> Option<u64> {
        match self {
            Self::None => None,
            Self::Bytes(bytes) => Some(bytes.len() as u64),
            Self::Slice { len, .. } => Some(*len),
        }
    }
}

impl Payload {
    fn open(
        self,
        sender: &SyncSender<Result<Message, ureq::Error>>,
    ) -> io::Result<SendBody<'static>> {
        Ok(match self {
            Self::None => SendBody::none(),
            Self::Bytes(bytes) => SendBody::from_owned_reader(io::Cursor::new(bytes)),
            Self::Slice { path, start, len } => {
                let mut file = File::open(path)?;
                file.seek(SeekFrom::Start(start))?;
                SendBody::from_owned_reader(Reported {
                    reader: file.take(len),
                    sender: sender.clone(),
                })
            }
        })
    }
}

/// A reader that reports what is taken from it, and fails when nobody listens any more.
struct Reported {
    reader: io::Take<File>,
    sender: SyncSender<Result<Message, ureq::Error>>,
}

impl Read for Reported {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.reader.read(buffer)?;
        self.sender
            .send(Ok(Message::Sent(n as u64)))
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(n)
    }
}

/// The progress of a payload, for the watcher.
pub(crate) struct Sending<'a> {
    pub(crate) file: &'a str,
    /// Bytes of the file that were sent before.
    pub(crate) start: u64,
    pub(crate) total: u64,
}

/// One piece of an answer, or of the news on the way to it, from the worker's thread.
pub(crate) enum Message {
    /// Bytes of the payload that were taken so far.
    Sent(u64),
    Head(u16, HeaderMap),
    Bytes(Vec<u8>),
    End,
}

/// An answer whose body is still on its way.
pub(crate) struct Answer {
    /// The address, as messages show it.
    pub(crate) url: String,
    pub(crate) status: u16,
    headers: HeaderMap,
    pub(crate) facts: Facts,
    messages: Receiver<Result<Message, ureq::Error>>,
    patience: Duration,
}

impl Answer {
    /// Waits for status and headers; `patience` is the longest wait for this and for each next chunk.
    pub(crate) fn head(
        url: String,
        messages: Receiver<Result<Message, ureq::Error>>,
        patience: Duration,
        sending: Option<&Sending<'_>>,
        watcher: &mut dyn Watcher,
    ) -> Result<Self, Failure> {
        let mut answer = Self {
            url,
            status: 0,
            headers: HeaderMap::new(),
            facts: Facts::default(),
            messages,
            patience,
        };
        let mut n_sent = 0;
        loop {
            match answer.next_message(watcher)? {
                Message::Sent(n) => {
                    n_sent += n;
                    if let Some(Sending { file, start, total }) = sending {
                        watcher.progress(file, start + n_sent, *total);
                    }
                }
                Message::Head(status, headers) => {
                    answer.status = status;
                    answer.headers = headers;
                    return Ok(answer);
                }
                Message::Bytes(_) | Message::End => {
                    return Err(answer.broken("the answer has no head"));
                }
            }
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub(crate) fn content_length(&self) -> Option<u64> {
        self.header("content-length")
            .and_then(|length| length.trim().parse().ok())
    }

    /// The first byte of `Content-Range: bytes 7-99/100`.
    pub(crate) fn range_start(&self) -> Option<u64> {
        let range = self.header("content-range")?.strip_prefix("bytes ")?;
        range.split('-').next()?.trim().parse().ok()
    }

    /// Whether `Content-Range` gives the whole file this size, or none.
    pub(crate) fn range_total_is(&self, size: u64) -> bool {
        let total = self
            .header("content-range")
            .and_then(|range| range.rsplit('/').next());
        total.is_some_and(|total| total == "*" || total.trim().parse() == Ok(size))
    }

    /// The next bytes of the body; none at its end.
    pub(crate) fn next_chunk(&self, watcher: &mut dyn Watcher) -> Result<Option<Vec<u8>>, Failure> {
        match self.next_message(watcher)? {
            Message::Bytes(bytes) => Ok(Some(bytes)),
            Message::End => Ok(None),
            Message::Head(..) | Message::Sent(_) => Err(self.broken("the answer has two heads")),
        }
    }

    fn next_message(&self, watcher: &mut dyn Watcher) -> Result<Message, Failure> {
        let start = Instant::now();
        loop {
            if watcher.interrupted() {
                return Err(Failure::Final(HubError::Interrupted));
            }
            match self.messages.recv_timeout(POLL) {
                Ok(Ok(message)) => return Ok(message),
                Ok(Err(error)) => return Err(self.transport(error)),
                Err(RecvTimeoutError::Timeout) if start.elapsed() < self.patience => {}
                Err(RecvTimeoutError::Timeout) => return Err(self.broken("no answer")),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(self.broken("the connection broke off"));
                }
            }
        }
    }

    /// The whole body, which may have `limit` bytes at most.
    pub(crate) fn read_whole(
        self,
        limit: usize,
        watcher: &mut dyn Watcher,
    ) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        while let Some(chunk) = self.next_chunk(watcher)? {
            body.extend_from_slice(&chunk);
            if body.len() > limit {
                let reason = format!("the answer is longer than {limit} bytes");
                return Err(Failure::Final(HubError::Protocol {
                    url: self.url,
                    reason,
                }));
            }
        }
        if let Some(length) = self.content_length()
            && length != body.len() as u64
        {
            return Err(self.broken("the body broke off"));
        }
        Ok(body)
    }

    fn broken(&self, reason: &str) -> Failure {
        let error = HubError::Transport {
            url: self.url.clone(),
            reason: reason.to_owned(),
        };
        Failure::may_pass(error)
    }

    fn transport(&self, error: ureq::Error) -> Failure {
        if let Some(reason) = certificate_error(&error) {
            // A certificate that is wrong now is wrong in a second as well.
            let url = self.url.clone();
            return Failure::Final(HubError::Certificate { url, reason });
        }
        let is_final = matches!(
            error,
            ureq::Error::Tls(_) | ureq::Error::BadUri(_) | ureq::Error::InvalidProxyUrl
        );
        let error = HubError::Transport {
            url: self.url.clone(),
            reason: error.to_string(),
        };
        if is_final {
            Failure::Final(error)
        } else {
            Failure::may_pass(error)
        }
    }
}

/// The defect of the server's certificate, where that is what ended the handshake.
fn certificate_error(error: &ureq::Error) -> Option<String> {
    let error = match error {
        ureq::Error::Rustls(error) => error,
        ureq::Error::Io(error) => error.get_ref()?.downcast_ref::<rustls::Error>()?,
        _ => return None,
    };
    match error {
        rustls::Error::InvalidCertificate(_) => Some(error.to_string()),
        _ => None,
    }
}

/// Sends the request and hands its answer to `sender`, until the answer ends or nobody listens any more.
pub(crate) fn run_request(
    agent: &Agent,
    request: Request<()>,
    payload: Payload,
    has_body: bool,
    sender: &SyncSender<Result<Message, ureq::Error>>,
) {
    let response = payload
        .open(sender)
        .map_err(ureq::Error::from)
        .and_then(|body| agent.run(request.map(|()| body)));
    let mut response = match response {
        Ok(response) => response,
        Err(error) => {
            let _ = sender.send(Err(error));
            return;
        }
    };
    let head = Message::Head(response.status().as_u16(), response.headers().clone());
    if sender.send(Ok(head)).is_err() || !has_body {
        return;
    }
    let mut body = response.body_mut().as_reader();
    loop {
        let mut chunk = vec![0; CHUNK];
        let message = match body.read(&mut chunk) {
            Ok(0) => Ok(Message::End),
            Ok(n) => {
                chunk.truncate(n);
                Ok(Message::Bytes(chunk))
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Err(ureq::Error::from(error)),
        };
        let is_last = !matches!(message, Ok(Message::Bytes(_)));
        if sender.send(message).is_err() || is_last {
            return;
        }
    }
}
/// A file's commit, ETag and size as the hub itself, not the storage behind it, gives them.
#[derive(Default)]
pub(crate) struct Facts {
    pub(crate) commit: Option<String>,
    pub(crate) etag: Option<String>,
    pub(crate) size: Option<u64>,
}

impl Facts {
    /// Takes the facts from an answer of the hub; a later answer of a chain of redirects adds what the
    /// earlier ones lacked.
    pub(crate) fn learn(&mut self, answer: &Answer) -> Result<(), String> {
        if self.commit.is_none()
            && let Some(commit) = answer.header("x-repo-commit")
        {
            if !is_commit(commit) {
                return Err("X-Repo-Commit is no commit hash".into());
            }
            self.commit = Some(commit.to_owned());
        }
        let is_whole = answer.status == 200;
        if self.etag.is_none()
            && let Some(etag) = answer.header("x-linked-etag").or_else(|| {
                answer
                    .header("etag")
                    .filter(|_| matches!(answer.status, 200 | 206))
            })
        {
            let etag = etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"');
            let is_name = etag
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
            if etag.is_empty() || etag.len() > 128 || !is_name || etag.starts_with('.') {
                return Err("the ETag is no name for a file".into());
            }
            self.etag = Some(etag.to_owned());
        }
        if self.size.is_none() {
            self.size = match answer.header("x-linked-size") {
                Some(size) => Some(size.parse().map_err(|_| "X-Linked-Size is no number")?),
                None if is_whole => answer.content_length(),
                None => None,
            };
        }
        Ok(())
    }
}

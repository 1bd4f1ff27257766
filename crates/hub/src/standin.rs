//! A hub on loopback, for tests: it serves the real hub's URL shapes, misbehaves on demand, and
//! records every request.
//!
//! Two servers on two ports: the hub (API, small files, redirects) and the storage that large files
//! are redirected to, which is another host to every client. Both speak HTTP/1.1 with one request per
//! connection, on request with TLS by an authority of the stand-in's own, and end with the value.
//!
//! ```
//! use hub::{config::HubConfig, fetch::fetch_dataset, name::DatasetId, standin::StandIn};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let standin = StandIn::start()?;
//! standin.dataset("org/nli").large("triplet/train-00000-of-00001.parquet", b"PAR1");
//! let cache = tempfile::tempdir()?;
//! let config = HubConfig::new(standin.endpoint(), cache.path());
//! let files = fetch_dataset(&config, &DatasetId::parse("org/nli:triplet")?, &mut ())?;
//! assert_eq!(std::fs::read(&files.train[0])?, b"PAR1");
//! assert_eq!(standin.requests().len(), 4); // listing, HEAD, GET, and GET at the storage
//! # Ok(())
//! # }
//! ```

mod state;
mod tls;
mod upload;

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::{Value, json};

pub use self::state::{FIRST_COMMIT, Fault, Recorded, Server};
use self::{
    state::{Content, Planned, Reply, Repo, State, StoredFile, git_sha1, sha256},
    tls::{Authority, Stream},
};
use crate::{address::escape, dataset_files::CONVERSION};

/// The commit of conversions to parquet.
const CONVERSION_COMMIT: &str = "cccccccccccccccccccccccccccccccccccccccc";

/// A running stand-in. Its repositories and faults can be changed at any time.
pub struct StandIn {
    state: Arc<State>,
}

impl StandIn {
    /// Starts both servers on free ports of 127.0.0.1.
    ///
    /// # Errors
    /// When the ports can't be had.
    pub fn start() -> io::Result<Self> {
        Self::start_with(None)
    }

    /// Starts both servers with TLS, by certificates that only [`Self::authority`] vouches for.
    ///
    /// # Errors
    /// When the ports can't be had or the certificates not made.
    pub fn start_with_tls() -> io::Result<Self> {
        Self::start_with(Some(Authority::new().map_err(io::Error::other)?))
    }

    fn start_with(authority: Option<Authority>) -> io::Result<Self> {
        let hub = TcpListener::bind("127.0.0.1:0")?;
        let storage = TcpListener::bind("127.0.0.1:0")?;
        let state = Arc::new(State {
            hub: hub.local_addr()?,
            storage: storage.local_addr()?,
            authority,
            is_over: AtomicBool::new(false),
            content: Mutex::new(Content::default()),
        });
        for (server, listener) in [(Server::Hub, hub), (Server::Storage, storage)] {
            let state = Arc::clone(&state);
            thread::spawn(move || listen(&listener, server, &state));
        }
        Ok(Self { state })
    }

    /// The value for HF_ENDPOINT.
    pub fn endpoint(&self) -> String {
        self.state.hub_url()
    }

    /// The certificate of the authority behind both servers, in PEM form; none without TLS.
    pub fn authority(&self) -> Option<&str> {
        self.state.authority.as_ref().map(Authority::pem)
    }

    /// The address of the storage, as redirects have it.
    pub fn storage(&self) -> String {
        self.state.storage_url()
    }

    /// A model to fill with files; made empty where it isn't there.
    pub fn model(&self, id: &str) -> StandInRepo<'_> {
        self.repo(format!("models/{id}"))
    }

    /// A data set to fill with files; made empty where it isn't there.
    pub fn dataset(&self, id: &str) -> StandInRepo<'_> {
        self.repo(format!("datasets/{id}"))
    }

    /// The hub's conversion of a data set to parquet, to fill with files; made empty where it isn't there.
    pub fn conversion(&self, id: &str) -> StandInRepo<'_> {
        self.repo(format!("datasets/{id}/{CONVERSION}"))
            .commit(CONVERSION_COMMIT)
    }

    /// Lets the next `times` requests whose `METHOD /path` holds `part`, on that server, go wrong.
    /// Faults are used up in the order in which they were added.
    pub fn fail(&self, server: Server, part: &str, times: usize, fault: Fault) {
        let planned = Planned {
            server,
            part: part.to_owned(),
            times,
            fault,
        };
        self.state.content().faults.push(planned);
    }

    /// Forgets the faults that are left.
    pub fn heal(&self) {
        self.state.content().faults.clear();
    }

    /// Answers 401 to every request to the hub that lacks this token.
    pub fn require_token(&self, token: &str) {
        self.state.content().token = Some(token.to_owned());
    }

    /// The files of a model that was pushed, by name, with whether each is large; none where there is no such
    /// repository.
    pub fn pushed(&self, id: &str) -> Option<BTreeMap<String, (Vec<u8>, bool)>> {
        let content = self.state.content();
        let repo = content.repos.get(&format!("models/{id}"))?;
        let file = |(name, file): (&String, &StoredFile)| {
            (name.clone(), (file.content.clone(), file.is_large))
        };
        Some(repo.files.iter().map(file).collect())
    }

    /// How often a model was pushed, and whether it was made private.
    pub fn history(&self, id: &str) -> Option<(usize, bool)> {
        let content = self.state.content();
        let repo = content.repos.get(&format!("models/{id}"))?;
        Some((repo.n_commits, repo.is_private))
    }

    /// Takes uploads of more bytes than this in parts of this size.
    pub fn part_size(&self, part_size: usize) {
        self.state.content().bucket.part_size = part_size;
    }

    /// Every request so far, in the order of arrival.
    pub fn requests(&self) -> Vec<Recorded> {
        self.state.content().requests.clone()
    }

    /// Forgets the requests so far.
    pub fn clear_requests(&self) {
        self.state.content().requests.clear();
    }

    fn repo(&self, key: String) -> StandInRepo<'_> {
        let mut content = self.state.content();
        content.repos.entry(key.clone()).or_insert_with(Repo::new);
        drop(content);
        StandInRepo {
            state: &self.state,
            key,
        }
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::Relaxed);
        // A last connection each wakes the listeners, which then end.
        for address in [self.state.hub, self.state.storage] {
            drop(TcpStream::connect(address));
        }
    }
}

/// A repository of a [`StandIn`].
pub struct StandInRepo<'a> {
    state: &'a State,
    key: String,
}

impl StandInRepo<'_> {
    /// Puts a small file in, which the hub serves itself.
    pub fn small(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        self.put(name, content.as_ref(), false)
    }

    /// Puts a large file in, which the hub redirects to the storage.
    pub fn large(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        self.put(name, content.as_ref(), true)
    }

    /// Takes a file out.
    pub fn remove(self, name: &str) -> Self {
        self.edit(|repo| drop(repo.files.remove(name)))
    }

    /// Moves `main` on to another commit (40 lower-case hexadecimal digits). The stand-in has one
    /// set of files for all commits.
    pub fn commit(self, commit: &str) -> Self {
        self.edit(|repo| commit.clone_into(&mut repo.commit))
    }

    fn put(self, name: &str, content: &[u8], is_large: bool) -> Self {
        let file = StoredFile {
            content: content.to_vec(),
            is_large,
        };
        self.edit(|repo| drop(repo.files.insert(name.to_owned(), file)))
    }

    fn edit(self, edit: impl FnOnce(&mut Repo)) -> Self {
        if let Some(repo) = self.state.content().repos.get_mut(&self.key) {
            edit(repo);
        }
        self
    }
}

fn listen(listener: &TcpListener, server: Server, state: &Arc<State>) {
    for stream in listener.incoming() {
        if state.is_over.load(Ordering::Relaxed) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let state = Arc::clone(state);
        thread::spawn(move || {
            // A client that goes away in the middle is what many tests are about.
            if let Ok(stream) = Stream::open(stream, state.authority.as_ref()) {
                let mut stream = BufReader::new(stream);
                let _ = answer(&mut stream, server, &state);
                stream.get_mut().close();
            }
        });
    }
}

fn answer(stream: &mut BufReader<Stream>, server: Server, state: &State) -> io::Result<()> {
    let mut lines = stream.by_ref().lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let mut words = first.split(' ');
    let (Some(method), Some(path)) = (words.next(), words.next()) else {
        return Ok(());
    };
    let mut headers: Vec<(String, String)> = Vec::new();
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length = length.and_then(|(_, length)| length.parse().ok());
    let fault = {
        let line = format!("{method} {path}");
        let mut content = state.content();
        let planned = content.faults.iter_mut().find(|planned| {
            planned.times > 0 && planned.server == server && line.contains(&planned.part)
        });
        planned.map(|planned| {
            planned.times -= 1;
            planned.fault.clone()
        })
    };
    let mut length = length.unwrap_or(0);
    if let Some(Fault::CutRequest(n)) = fault {
        length = length.min(n);
    }
    let mut body = Vec::new();
    stream.by_ref().take(length).read_to_end(&mut body)?;
    let stream = stream.get_mut();
    let request = Recorded {
        server,
        method: method.to_owned(),
        path: path.to_owned(),
        headers,
        body,
    };
    let mut reply = {
        let mut content = state.content();
        content.requests.push(request.clone());
        if let Some(Fault::MoveHead) = fault {
            for repo in content.repos.values_mut() {
                repo.commit = git_sha1(repo.commit.as_bytes());
            }
        }
        // A fault that takes the answer's place leaves nothing done.
        let acts = !matches!(
            fault,
            Some(Fault::Status(..) | Fault::HangUp | Fault::CutRequest(_) | Fault::Raw(_))
        );
        match server {
            Server::Hub => hub_reply(&mut content, &request, acts, state),
            Server::Storage => storage_reply(&mut content, &request, acts, state),
        }
    };

    let range = request.header("range").and_then(|range| {
        range
            .strip_prefix("bytes=")?
            .strip_suffix('-')?
            .parse::<usize>()
            .ok()
    });
    if let (200, Some(start)) = (reply.status, range) {
        let total = reply.body.len();
        match fault {
            Some(Fault::IgnoreRange) => {}
            Some(Fault::WrongRange) => {
                reply.status = 206;
                let range = format!("bytes 0-{}/{total}", total.saturating_sub(1));
                reply.headers.push(("content-range".into(), range));
            }
            _ if start >= total => {
                reply = Reply::new(416, &[("content-range", &format!("bytes */{total}"))], "");
            }
            _ => {
                reply.status = 206;
                reply.headers.push((
                    "content-range".into(),
                    format!("bytes {start}-{}/{total}", total - 1),
                ));
                reply.body.drain(..start);
            }
        }
    }

    let mut length = Some(reply.body.len() as i64);
    let mut pause = Duration::ZERO;
    let mut stop = usize::MAX;
    let mut stalls = false;
    match fault {
        None | Some(Fault::IgnoreRange | Fault::WrongRange) => {}
        Some(Fault::MoveHead) => {}
        Some(Fault::HangUp | Fault::LoseAnswer | Fault::CutRequest(_)) => return Ok(()),
        Some(Fault::Without(header)) => reply.headers.retain(|(name, _)| name != header),
        Some(Fault::Raw(bytes)) => return stream.write_all(&bytes).and_then(|()| stream.flush()),
        Some(Fault::RawForever(head, more)) => {
            stream.write_all(&head)?;
            return write_forever(stream, &more, state);
        }
        Some(Fault::Forever(body)) => {
            stream.write_all(b"HTTP/1.1 200 stand-in\r\nconnection: close\r\n\r\n")?;
            return write_forever(stream, &body, state);
        }
        Some(Fault::Status(status, headers)) => {
            reply = Reply {
                status,
                headers,
                body: Vec::new(),
            };
            length = Some(0);
        }
        Some(Fault::BreakAfter(n)) => stop = n,
        Some(Fault::StallAfter(n)) => {
            stop = n;
            stalls = true;
        }
        Some(Fault::Drip(each)) => pause = each,
        Some(Fault::WrongLength(more)) => length = length.map(|length| length + more),
        Some(Fault::Headers(headers)) => {
            reply
                .headers
                .retain(|(name, _)| headers.iter().all(|(replaced, _)| replaced != name));
            reply.headers.extend(headers);
        }
        Some(Fault::Body(body)) => {
            length = Some(body.len() as i64);
            reply.body = body;
        }
        Some(Fault::Endless(body)) => {
            length = None;
            reply.body = body;
        }
    }

    let mut head = format!(
        "HTTP/1.1 {} stand-in\r\nconnection: close\r\n",
        reply.status
    );
    if let Some(length) = length
        && !reply
            .headers
            .iter()
            .any(|(name, _)| name == "content-length")
    {
        head.push_str(&format!("content-length: {length}\r\n"));
    }
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    stream.flush()?;
    if request.method == "HEAD" {
        return Ok(());
    }
    let body = &reply.body[..stop.min(reply.body.len())];
    if pause.is_zero() {
        stream.write_all(body)?;
    } else {
        for byte in body {
            stream.write_all(&[*byte])?;
            stream.flush()?;
            thread::sleep(pause);
        }
    }
    stream.flush()?;
    while stalls && !state.is_over.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn write_forever(stream: &mut Stream, bytes: &[u8], state: &State) -> io::Result<()> {
    while !state.is_over.load(Ordering::Relaxed) {
        stream.write_all(bytes)?;
    }
    Ok(())
}

fn hub_reply(content: &mut Content, request: &Recorded, acts: bool, state: &State) -> Reply {
    if let Some(token) = &content.token
        && request.header("authorization") != Some(&format!("Bearer {token}"))
    {
        return Reply::error(401, "RepoNotFound");
    }
    if acts && let Some(reply) = upload::reply(content, request, state) {
        return reply;
    }
    if request.path == "/api/whoami-v2" {
        return Reply::new(200, &[], json!({"name": "me", "orgs": []}).to_string());
    }
    let path = request
        .path
        .split('?')
        .next()
        .unwrap_or_default()
        .trim_start_matches('/');
    if let Some(path) = path.strip_prefix("api/") {
        let mut parts = path.split('/');
        let (kind, org, name) = (parts.next(), parts.next(), parts.next());
        let key = [kind, org, name].map(Option::unwrap_or_default).join("/");
        return match (parts.next(), parts.next(), parts.next()) {
            (Some("revision"), Some(revision), None) => match find(content, &key, revision) {
                Ok((_, repo)) => {
                    let body = listing(&key, repo).to_string();
                    Reply::new(200, &[("content-type", "application/json")], body)
                }
                Err(code) => Reply::error(404, code),
            },
            _ => Reply::error(404, ""),
        };
    }
    let Some((repo, rest)) = path.split_once("/resolve/") else {
        return Reply::error(404, "");
    };
    let key = if repo.starts_with("datasets/") {
        repo.to_owned()
    } else {
        format!("models/{repo}")
    };
    let Some((revision, file)) = rest.split_once('/') else {
        return Reply::error(404, "EntryNotFound");
    };
    let (key, repo) = match find(content, &key, revision) {
        Ok(found) => found,
        Err(code) => return Reply::error(404, code),
    };
    let Some((_, found)) = repo
        .files
        .iter()
        .find(|(name, _)| escape(name, b"/-._~") == file)
    else {
        return Reply::error(404, "EntryNotFound");
    };
    if !found.is_large {
        let etag = format!("\"{}\"", git_sha1(&found.content));
        let headers = [
            ("etag", etag.as_str()),
            ("x-repo-commit", &repo.commit),
            ("accept-ranges", "bytes"),
        ];
        return Reply::new(200, &headers, found.content.clone());
    }
    let etag = format!("\"{}\"", sha256(&found.content));
    let location = format!("{}/{key}/{file}?signature=secret", state.storage_url());
    let headers = [
        ("x-repo-commit", repo.commit.as_str()),
        ("x-linked-etag", &etag),
        ("x-linked-size", &found.content.len().to_string()),
        ("location", &location),
    ];
    Reply::new(302, &headers, "Found. Redirecting")
}

fn storage_reply(content: &mut Content, request: &Recorded, acts: bool, state: &State) -> Reply {
    if acts && let Some(reply) = upload::reply(content, request, state) {
        return reply;
    }
    let path = request
        .path
        .split('?')
        .next()
        .unwrap_or_default()
        .trim_start_matches('/');
    let found = content.repos.iter().find_map(|(key, repo)| {
        let file = path.strip_prefix(key)?.strip_prefix('/')?;
        repo.files
            .iter()
            .find(|(name, _)| escape(name, b"/-._~") == file)
    });
    match found {
        // The storage has ETags of its own, which mean nothing to the hub.
        Some((_, file)) => Reply::new(200, &[("etag", "\"storage-1\"")], file.content.clone()),
        None => Reply::new(403, &[], ""),
    }
}

/// The repository of a revision with its key, or the hub's code of the error.
fn find<'a>(
    content: &'a Content,
    key: &str,
    revision: &str,
) -> Result<(String, &'a Repo), &'static str> {
    let repo = content.repos.get(key);
    let converted_key = format!("{key}/{CONVERSION}");
    let converted = content.repos.get(&converted_key);
    if repo.is_none() && converted.is_none() {
        return Err("RepoNotFound");
    }
    let is_converted = revision.replace("%2F", "/") == CONVERSION;
    let is_main = ["main", "refs%2Fpr%2F1"].contains(&revision);
    match (repo, converted) {
        (Some(repo), _) if is_main || revision == repo.commit => Ok((key.to_owned(), repo)),
        (_, Some(repo)) if is_converted || revision == repo.commit => Ok((converted_key, repo)),
        _ => Err("RevisionNotFound"),
    }
}

fn listing(key: &str, repo: &Repo) -> Value {
    let siblings: Vec<Value> = repo
        .files
        .iter()
        .map(|(name, file)| {
            let size = file.content.len();
            let blob_id = git_sha1(&file.content);
            if file.is_large {
                let lfs =
                    json!({"sha256": sha256(&file.content), "size": size, "pointerSize": 134});
                json!({"rfilename": name, "blobId": blob_id, "size": size, "lfs": lfs})
            } else {
                json!({"rfilename": name, "blobId": blob_id, "size": size})
            }
        })
        .collect();
    let id = key.split_once('/').map_or(key, |(_, id)| id);
    json!({"id": id, "sha": repo.commit, "private": false, "gated": false, "siblings": siblings})
}

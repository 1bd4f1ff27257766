//! HTTP with the hub: requests, redirects, retries, and the verified, resumable download of one file.
//!
//! hf-hub 0.5 has a transfer of its own, which we don't use: it checks neither length nor sha256,
//! hands the token to whatever host a redirect names, and can't be stopped. This one follows
//! redirects by hand, one request at a time, so that each next host is judged before anything is
//! sent to it.
//!
//! Every request runs on a thread of its own, which hands over what arrives in chunks. The caller's
//! thread never blocks for longer than [`POLL`], so that an interrupt stops it even while a
//! connection hangs in a name look-up or in the middle of a body; such a thread ends with the next
//! time-out of its socket, or with the process.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    thread,
    time::{Duration, Instant},
};

use sha1::Sha1;
use sha2::{Digest, Sha256};
use ureq::{
    Agent,
    http::{HeaderMap, Method, Request, header},
};

use crate::{
    cache::RepoFolder,
    config::HubConfig,
    error::HubError,
    fetch::Watcher,
    listing::{Entry, Listing},
    name::{is_commit, is_hex},
};

/// How long the caller's thread waits at most before it asks whether to stop.
const POLL: Duration = Duration::from_millis(50);

/// Bytes in a chunk, and chunks in flight: 1 MiB per download.
const CHUNK: usize = 128 * 1024;
const CHUNKS_IN_FLIGHT: usize = 8;

/// A listing longer than this is not one of a model or a data set.
const LONGEST_LISTING: usize = 64 << 20;

/// The hub needs two: a renamed repository, and the storage.
const MOST_REDIRECTS: usize = 8;

/// A download that moved on by this much gets all its retries again.
const WORTH_FRESH_RETRIES: u64 = 1 << 20;

/// An http(s) address, as far as we look into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    is_https: bool,
    /// Lower case, an IPv6 address in its brackets.
    host: String,
    port: u16,
    /// Path and query, from the slash on or empty.
    rest: String,
}

impl Address {
    /// Takes an absolute http or https address; the error says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = text.split_once("://").ok_or("is not an http(s) address")?;
        let is_https = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err("has a scheme other than http and https"),
        };
        if rest
            .bytes()
            .any(|byte| byte <= b' ' || byte == 0x7f || byte == b'\\')
        {
            return Err("holds white space, a backslash or a control character");
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        if authority.contains('@') {
            return Err("holds a user name or password");
        }
        let (host, port) = match authority.rfind(':') {
            Some(colon) if !authority[colon..].contains(']') => {
                let port = authority[colon + 1..]
                    .parse()
                    .map_err(|_| "has a port that is no number")?;
                (&authority[..colon], port)
            }
            _ => (authority, if is_https { 443 } else { 80 }),
        };
        let is_bracketed = host.starts_with('[') && host.ends_with(']');
        let is_name = host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
        if host.is_empty() || !(is_bracketed || is_name) {
            return Err("has no valid host name");
        }
        let rest = rest.split('#').next().unwrap_or(rest);
        Ok(Self {
            is_https,
            host: host.to_ascii_lowercase(),
            port,
            rest: rest.to_owned(),
        })
    }

    /// The address that a Location header at this address leads to.
    fn join(&self, location: &str) -> Result<Self, &'static str> {
        let scheme = if self.is_https { "https" } else { "http" };
        if location.starts_with("//") {
            return Self::parse(&format!("{scheme}:{location}"));
        }
        let path_end = location.find(['?', '#', '/']).unwrap_or(location.len());
        if location[..path_end].contains(':') {
            return Self::parse(location);
        }
        let path = self.rest.split('?').next().unwrap_or("");
        let rest = if location.starts_with('/') {
            location.to_owned()
        } else if location.starts_with('?') {
            format!("{path}{location}")
        } else {
            let folder = path.rfind('/').map_or("/", |slash| &path[..=slash]);
            format!("{folder}{location}")
        };
        Self::parse(&format!("{scheme}://{}:{}{rest}", self.host, self.port))
    }

    fn has_origin_of(&self, other: &Self) -> bool {
        (self.is_https, &self.host, self.port) == (other.is_https, &other.host, other.port)
    }

    /// Whether the host is written as an address that no public server has. Names are not looked up:
    /// what a name leads to gets no token and can only deliver content that is then verified.
    fn is_private(&self) -> bool {
        let host = self.host.trim_end_matches('.');
        if host == "localhost" || host.ends_with(".localhost") {
            return true;
        }
        if let Some(v6) = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
        {
            let Ok(v6) = v6.parse::<std::net::Ipv6Addr>() else {
                return true;
            };
            // Only 2000::/3 is handed out to public servers; a mapped IPv4 address is none of it.
            return v6.segments()[0] & 0xe000 != 0x2000;
        }
        if let Ok(v4) = host.parse::<std::net::Ipv4Addr>() {
            let [a, b, ..] = v4.octets();
            return v4.is_loopback()
                || v4.is_private()
                || v4.is_link_local()
                || v4.is_broadcast()
                || a == 0
                || a >= 224
                || (a == 100 && b & 0xc0 == 64);
        }
        // `127.1`, `2130706433` and `0x7f000001` are loopback to many resolvers: a host that ends in
        // a number but is no plain IPv4 address is not public.
        let last = host.rsplit('.').next().unwrap_or(host);
        let is_hex_number = last
            .strip_prefix("0x")
            .is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        is_hex_number || (!last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()))
    }

    fn is_loopback(&self) -> bool {
        let host = self.host.trim_matches(['[', ']']);
        host == "localhost"
            || host
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    }

    fn to_url(&self) -> String {
        let scheme = if self.is_https { "https" } else { "http" };
        let usual = if self.is_https { 443 } else { 80 };
        let port = if self.port == usual {
            String::new()
        } else {
            format!(":{}", self.port)
        };
        // Storage hosts put names into the query that not every client escapes.
        let rest = escape(&self.rest, b"!$%&'()*+,/:;=?@~-._[]");
        format!("{scheme}://{}{port}{rest}", self.host)
    }

    /// The address for a message: a query may hold a signature that opens a private file.
    fn to_shown(&self) -> String {
        let url = self.to_url();
        url.split('?').next().unwrap_or_default().to_owned()
    }
}

/// A connection to the hub.
pub(crate) struct Hub<'a> {
    config: &'a HubConfig,
    endpoint: Address,
    agent: Agent,
}

impl<'a> Hub<'a> {
    pub(crate) fn new(config: &'a HubConfig) -> Result<Self, HubError> {
        let endpoint = Address::parse(config.endpoint.trim_end_matches('/')).map_err(|reason| {
            HubError::Setting {
                name: "HF_ENDPOINT".into(),
                reason: reason.into(),
            }
        })?;
        if config.token.is_some() && !endpoint.is_https && !endpoint.is_loopback() {
            tracing::warn!(
                "HF_ENDPOINT {} is plain http: the token can be read on the way",
                config.endpoint
            );
        }
        let agent = Agent::config_builder()
            // Redirects, statuses and redirects' hosts are judged here, not there.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .user_agent(concat!("sentune/", env!("CARGO_PKG_VERSION")))
            // A compressed answer would have neither the length nor the range that we ask for.
            .accept_encoding("identity")
            .timeout_resolve(Some(config.silence))
            .timeout_connect(Some(config.silence))
            .timeout_recv_response(Some(config.silence))
            .timeout_per_read(Some(config.silence))
            .max_idle_connections_per_host(1)
            .build()
            .new_agent();
        Ok(Self {
            config,
            endpoint,
            agent,
        })
    }

    /// The files of a revision and the commit it stands for.
    pub(crate) fn listing(
        &self,
        repo: &RepoFolder,
        watcher: &mut dyn Watcher,
    ) -> Result<Listing, HubError> {
        let url = format!(
            "{}/api/{}?blobs=true",
            self.config.endpoint,
            repo.api_path()
        );
        let subject = Subject { repo, file: None };
        let mut retries = Retries::new(self.config);
        loop {
            let outcome = self
                .request(&Method::GET, &url, 0, &subject, watcher)
                .and_then(|answer| answer.read_whole(LONGEST_LISTING, watcher));
            match outcome {
                Ok(body) => {
                    return Listing::from_answer(&url, &body);
                }
                Err(failure) => retries.wait(failure, watcher)?,
            }
        }
    }

    /// The commit that the revision stands for now, by one HEAD for `file`, without retries; none when
    /// the hub doesn't say, for whatever reason.
    pub(crate) fn current_commit(
        &self,
        repo: &RepoFolder,
        file: &str,
        watcher: &mut dyn Watcher,
    ) -> Result<Option<String>, HubError> {
        let url = self.file_url(repo, repo.revision(), file);
        let subject = Subject {
            repo,
            file: Some(file),
        };
        match self.request(&Method::HEAD, &url, 0, &subject, watcher) {
            Ok(answer) => Ok(answer.facts.commit),
            Err(Failure::Final(error @ HubError::Interrupted) | Failure::MayPass { error, .. }) => {
                Err(error)
            }
            Err(Failure::Final(_)) => Ok(None),
        }
    }

    /// Brings one file of a commit into the cache's blobs and returns the blob's name.
    ///
    /// What arrived is kept in `<blob>.incomplete` (Python's name for it as well) until length and
    /// checksum are right; only then the blob takes its name.
    pub(crate) fn download(
        &self,
        repo: &RepoFolder,
        commit: &str,
        entry: &Entry,
        watcher: &mut dyn Watcher,
    ) -> Result<String, HubError> {
        let url = self.file_url(repo, commit, &entry.name);
        let subject = Subject {
            repo,
            file: Some(&entry.name),
        };
        let mut retries = Retries::new(self.config);
        loop {
            let facts = loop {
                match self.request(&Method::HEAD, &url, 0, &subject, watcher) {
                    Ok(answer) => break answer.facts,
                    Err(failure) => retries.wait(failure, watcher)?,
                }
            };
            let target = Target::new(&url, commit, entry, &facts)?;
            let blob = repo.blob(&target.blob);
            let _lock = repo.lock(&target.blob, watcher)?;
            // Blobs are named by their content, so one of the right length was fetched before.
            if fs_err::metadata(&blob).is_ok_and(|blob| blob.len() == target.size) {
                watcher.progress(&entry.name, target.size, target.size);
                return Ok(target.blob);
            }
            match self.fill(&url, &subject, &target, &blob, &mut retries, watcher)? {
                Filled::Whole => return Ok(target.blob),
                Filled::Changed(error) => {
                    retries.wait(Failure::MayPass { error, after: None }, watcher)?;
                }
            }
        }
    }

    fn fill(
        &self,
        url: &str,
        subject: &Subject<'_>,
        target: &Target,
        blob: &Path,
        retries: &mut Retries<'_>,
        watcher: &mut dyn Watcher,
    ) -> Result<Filled, HubError> {
        let file = subject.file.unwrap_or_default();
        let mut part = Part::open(blob, target, watcher)?;
        let mut has_old_bytes = part.len > 0;
        loop {
            watcher.progress(file, part.len, target.size);
            while part.len < target.size {
                let before = part.len;
                let outcome = self.pour(url, subject, target, &mut part, watcher);
                if before == 0 || part.was_reset {
                    has_old_bytes = false;
                }
                let failure = match outcome {
                    Ok(()) => break,
                    Err(Pour::Changed(error)) => {
                        part.remove()?;
                        return Ok(Filled::Changed(error));
                    }
                    Err(Pour::Failed(failure)) => failure,
                };
                if part.len.saturating_sub(before) >= WORTH_FRESH_RETRIES {
                    retries.reset();
                }
                if let Err(error) = retries.wait(failure, watcher) {
                    // What stopped the download is the news, not what then befell the part.
                    let _ = part.keep();
                    return Err(error);
                }
            }
            match part.check(file, target) {
                Ok(()) => {
                    part.finish(blob)?;
                    return Ok(Filled::Whole);
                }
                // Bytes from an earlier process may have been spoilt on the disk: once more, all of it.
                Err(error) if has_old_bytes => {
                    tracing::warn!("{error}; starting again from the first byte");
                    part.reset()?;
                    has_old_bytes = false;
                }
                Err(error) => {
                    part.remove()?;
                    return Err(error);
                }
            }
        }
    }

    // One GET for what is still missing, into the part.
    fn pour(
        &self,
        url: &str,
        subject: &Subject<'_>,
        target: &Target,
        part: &mut Part,
        watcher: &mut dyn Watcher,
    ) -> Result<(), Pour> {
        let file = subject.file.unwrap_or_default();
        let answer = self.request(&Method::GET, url, part.len, subject, watcher)?;
        if let (Some(etag), Some(announced)) = (&answer.facts.etag, &target.etag)
            && etag != announced
        {
            let reason =
                format!("the ETag changed from {announced} to {etag} between two requests");
            return Err(Pour::Changed(HubError::Protocol {
                url: url.to_owned(),
                reason,
            }));
        }
        match answer.status {
            206 if answer.range_start() == Some(part.len) && answer.range_total_is(target.size) => {
            }
            206 | 416 => {
                part.reset()?;
                let reason = format!(
                    "the answer is not the range that was asked for ({})",
                    answer.status
                );
                return Err(Pour::may_pass(HubError::Protocol {
                    url: url.to_owned(),
                    reason,
                }));
            }
            _ if part.len > 0 => {
                tracing::info!(
                    "{file}: the server has no ranges, starting again from the first byte"
                );
                part.reset()?;
            }
            _ => {}
        }
        if let Some(length) = answer.content_length()
            && length != target.size - part.len
        {
            let found = part.len.saturating_add(length);
            let error = HubError::Length {
                file: file.to_owned(),
                expected: target.size,
                found,
            };
            return Err(Pour::may_pass(error));
        }
        while let Some(chunk) = answer.next_chunk(watcher)? {
            if chunk.len() as u64 > target.size - part.len {
                let found = part.len + chunk.len() as u64;
                part.reset()?;
                let error = HubError::Length {
                    file: file.to_owned(),
                    expected: target.size,
                    found,
                };
                return Err(Pour::Failed(Failure::Final(error)));
            }
            part.write(&chunk)?;
            watcher.progress(file, part.len, target.size);
        }
        if part.len < target.size {
            let reason = format!("the body ended after {} of {} bytes", part.len, target.size);
            return Err(Pour::may_pass(HubError::Transport {
                url: url.to_owned(),
                reason,
            }));
        }
        Ok(())
    }

    fn file_url(&self, repo: &RepoFolder, revision: &str, file: &str) -> String {
        let revision = revision.replace('/', "%2F");
        let file = escape(file, b"/-._~");
        format!(
            "{}/{}/resolve/{revision}/{file}",
            self.config.endpoint,
            repo.url_path()
        )
    }

    // One request with its redirects. A HEAD stops where the hub hands over to another host, since
    // the hub's own answer says everything about the file.
    fn request(
        &self,
        method: &Method,
        url: &str,
        offset: u64,
        subject: &Subject<'_>,
        watcher: &mut dyn Watcher,
    ) -> Result<Answer, Failure> {
        let mut facts = Facts::default();
        let mut address = Address::parse(url).map_err(|reason| {
            Failure::Final(HubError::Setting {
                name: "HF_ENDPOINT".into(),
                reason: reason.into(),
            })
        })?;
        for _ in 0..=MOST_REDIRECTS {
            let is_hub = address.has_origin_of(&self.endpoint);
            let mut answer = self.hop(method, &address, is_hub, offset, watcher)?;
            if is_hub {
                facts.learn(&answer).map_err(|reason| {
                    Failure::Final(HubError::Protocol {
                        url: url.to_owned(),
                        reason,
                    })
                })?;
            }
            let location = match answer.status {
                301 | 302 | 303 | 307 | 308 => answer.header("location").map(str::to_owned),
                200 | 206 | 416 => None,
                _ => return Err(self.refusal(&answer, url, is_hub, subject)),
            };
            let Some(location) = location else {
                if !matches!(answer.status, 200 | 206 | 416) {
                    let reason = format!("answers {} without a Location", answer.status);
                    return Err(Failure::Final(HubError::Protocol {
                        url: url.to_owned(),
                        reason,
                    }));
                }
                answer.facts = facts;
                return Ok(answer);
            };
            let next = self
                .judge_redirect(&address, &location)
                .map_err(Failure::Final)?;
            if *method == Method::HEAD && !next.has_origin_of(&self.endpoint) {
                answer.facts = facts;
                return Ok(answer);
            }
            address = next;
        }
        Err(Failure::Final(HubError::Redirect {
            from: url.to_owned(),
            to: address.to_shown(),
            reason: "too many redirects in a row",
        }))
    }

    fn judge_redirect(&self, from: &Address, location: &str) -> Result<Address, HubError> {
        let refuse = |to: String, reason| HubError::Redirect {
            from: from.to_shown(),
            to,
            reason,
        };
        let next = from.join(location).map_err(|reason| {
            // Neither a signature in the query nor a password before the host is to be shown.
            let shown = location.split('?').next().unwrap_or_default();
            let shown = shown.rsplit('@').next().unwrap_or_default();
            refuse(shown.chars().take(200).collect(), reason)
        })?;
        if from.is_https && !next.is_https {
            return Err(refuse(next.to_shown(), "it leaves https"));
        }
        if next.is_private() && !self.endpoint.is_private() && !next.has_origin_of(&self.endpoint) {
            return Err(refuse(next.to_shown(), "it leads to a private address"));
        }
        Ok(next)
    }

    // One request to one host, on its own thread. The token goes to the endpoint alone.
    fn hop(
        &self,
        method: &Method,
        address: &Address,
        is_hub: bool,
        offset: u64,
        watcher: &mut dyn Watcher,
    ) -> Result<Answer, Failure> {
        let url = address.to_url();
        let shown = address.to_shown();
        let mut request = Request::builder().method(method.clone()).uri(&url);
        if is_hub && let Some(token) = &self.config.token {
            request = request.header(header::AUTHORIZATION, token.header());
        }
        if offset > 0 {
            request = request.header(header::RANGE, format!("bytes={offset}-"));
        }
        let request = request.body(()).map_err(|error| {
            let reason = format!("not an address that can be asked for: {error}");
            Failure::Final(HubError::Protocol {
                url: shown.clone(),
                reason,
            })
        })?;
        let mut configured = self.agent.configure_request(request);
        if address.is_loopback() {
            // A proxy has no way to this machine's own servers.
            configured = configured.proxy(None);
        }
        let request = configured.build();

        let (sender, parts) = sync_channel(CHUNKS_IN_FLIGHT);
        let agent = self.agent.clone();
        let has_body = *method == Method::GET;
        thread::Builder::new()
            .name("hub".into())
            .spawn(move || run_request(&agent, request, has_body, &sender))
            .map_err(|error| Failure::Final(error.into()))?;
        let mut answer = Answer {
            url: shown,
            status: 0,
            headers: HeaderMap::new(),
            facts: Facts::default(),
            parts,
            // The worker's own time-outs come first; this one is for a look-up that knows none.
            patience: self.config.silence * 2,
        };
        match answer.next_part(watcher)? {
            Message::Head(status, headers) => {
                answer.status = status;
                answer.headers = headers;
                Ok(answer)
            }
            Message::Bytes(_) | Message::End => Err(answer.broken("the answer has no head")),
        }
    }

    fn refusal(&self, answer: &Answer, url: &str, is_hub: bool, subject: &Subject<'_>) -> Failure {
        let url = url.to_owned();
        let repo = subject.repo.to_string();
        let code = answer.header("x-error-code").unwrap_or_default();
        let status_error = || {
            let words = answer.header("x-error-message").unwrap_or_default();
            let words: String = words
                .chars()
                .filter(|c| !c.is_control())
                .take(200)
                .collect();
            let message = if words.is_empty() {
                words
            } else {
                format!(": {words}")
            };
            HubError::Status {
                url: answer.url.clone(),
                status: answer.status,
                message,
            }
        };
        let error = match answer.status {
            429 => {
                let after = answer
                    .header("retry-after")
                    .and_then(|after| after.trim().parse().ok());
                let seconds = after.unwrap_or(self.config.longest_pause.as_secs());
                return Failure::MayPass {
                    error: HubError::RateLimited { url, seconds },
                    after: after.map(Duration::from_secs),
                };
            }
            408 | 500..=599 => {
                return Failure::MayPass {
                    error: status_error(),
                    after: None,
                };
            }
            // The storage's signed addresses grow old; the hub gives a fresh one.
            400..=499 if !is_hub => {
                return Failure::MayPass {
                    error: status_error(),
                    after: None,
                };
            }
            401 | 403 if code == "GatedRepo" => {
                let page = format!("{}/{}", self.config.endpoint, subject.repo.url_path());
                HubError::Gated { repo, page }
            }
            401 => HubError::Unauthorized {
                url,
                next: if self.config.token.is_some() {
                    "check the name, and that the token in HF_TOKEN is valid and may read it"
                } else {
                    "check the name; if it is private, set HF_TOKEN to a token that may read it"
                },
            },
            403 => HubError::Forbidden { url },
            404 => {
                let (what, next) = match (code, subject.file) {
                    ("RevisionNotFound", _) => (
                        format!("revision {}", subject.repo.revision()),
                        "check the part after the `@`",
                    ),
                    (_, Some(file)) => (format!("file {file}"), "check the name and the revision"),
                    (_, None) => ("repository".to_owned(), "check the spelling of org/name"),
                };
                HubError::NotFound {
                    repo,
                    what,
                    url,
                    next,
                }
            }
            _ => status_error(),
        };
        Failure::Final(error)
    }
}

/// What a request is about, for the message.
struct Subject<'a> {
    repo: &'a RepoFolder,
    file: Option<&'a str>,
}

/// A failure of one attempt.
enum Failure {
    /// Trying again won't help.
    Final(HubError),
    /// Trying again may help, after the pause that the server asks for; else the error stands.
    MayPass {
        error: HubError,
        after: Option<Duration>,
    },
}

/// A failure of one GET into a part.
enum Pour {
    /// The file is another one now.
    Changed(HubError),
    Failed(Failure),
}

impl Pour {
    fn may_pass(error: HubError) -> Self {
        Self::Failed(Failure::MayPass { error, after: None })
    }
}

impl From<Failure> for Pour {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<io::Error> for Pour {
    fn from(error: io::Error) -> Self {
        Self::Failed(Failure::Final(error.into()))
    }
}

enum Filled {
    Whole,
    Changed(HubError),
}

/// Counts the retries and sleeps between them.
struct Retries<'a> {
    config: &'a HubConfig,
    left: u32,
    pause: Duration,
}

impl<'a> Retries<'a> {
    fn new(config: &'a HubConfig) -> Self {
        Self {
            config,
            left: config.retries,
            pause: config.first_pause,
        }
    }

    fn reset(&mut self) {
        *self = Self::new(self.config);
    }

    // Sleeps before the next attempt, or returns the error when there is to be none.
    fn wait(&mut self, failure: Failure, watcher: &mut dyn Watcher) -> Result<(), HubError> {
        let (error, after) = match failure {
            Failure::Final(error) => return Err(error),
            Failure::MayPass { error, after } => (error, after),
        };
        let pause = after.unwrap_or(self.pause.min(self.config.longest_pause));
        if self.left == 0 || pause > self.config.longest_pause {
            return Err(error);
        }
        tracing::warn!("{error}; trying again in {:.1} s", pause.as_secs_f64());
        self.left -= 1;
        self.pause = self.pause.saturating_mul(2);
        sleep(pause, watcher)
    }
}

/// Sleeps, and stops when the watcher says so.
pub(crate) fn sleep(pause: Duration, watcher: &mut dyn Watcher) -> Result<(), HubError> {
    let end = Instant::now() + pause;
    loop {
        if watcher.interrupted() {
            return Err(HubError::Interrupted);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(POLL));
    }
}

/// What the hub itself, not the storage behind it, says about a file.
#[derive(Default)]
struct Facts {
    commit: Option<String>,
    etag: Option<String>,
    size: Option<u64>,
}

impl Facts {
    // Takes the facts from an answer of the hub; a later answer of a chain of redirects adds what the
    // earlier ones lacked.
    fn learn(&mut self, answer: &Answer) -> Result<(), String> {
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

/// What a file has to be, from the listing and from the answer to HEAD together.
struct Target {
    /// The blob's name: the sha256, or git's sha1, or the ETag.
    blob: String,
    /// The ETag that a GET must have too.
    etag: Option<String>,
    size: u64,
    sha256: Option<String>,
    git_sha1: Option<String>,
}

impl Target {
    fn new(url: &str, commit: &str, entry: &Entry, facts: &Facts) -> Result<Self, HubError> {
        let protocol = |reason: String| HubError::Protocol {
            url: url.to_owned(),
            reason,
        };
        if let Some(found) = &facts.commit
            && found != commit
        {
            return Err(protocol(format!(
                "asked for commit {commit}, X-Repo-Commit is {found}"
            )));
        }
        let size = match (entry.size, facts.size) {
            (Some(listed), Some(found)) if listed != found => {
                return Err(HubError::Length {
                    file: entry.name.clone(),
                    expected: listed,
                    found,
                });
            }
            (Some(size), _) | (None, Some(size)) => size,
            (None, None) => {
                return Err(protocol("the hub does not say how long the file is".into()));
            }
        };
        let from_etag = |digits| {
            facts
                .etag
                .as_deref()
                .filter(|etag| etag.len() == digits && is_hex(etag))
                .map(str::to_owned)
        };
        let agree = |kind, listed: &Option<String>, found: Option<String>| match (listed, found) {
            (Some(listed), Some(found)) if *listed != found => Err(HubError::Checksum {
                file: entry.name.clone(),
                kind,
                expected: listed.clone(),
                found,
            }),
            (Some(hash), _) => Ok(Some(hash.clone())),
            (None, found) => Ok(found),
        };
        let sha256 = agree("sha256", &entry.sha256, from_etag(64))?;
        let git_sha1 = match &sha256 {
            Some(_) => None,
            None => agree("git sha1", &entry.git_sha1, from_etag(40))?,
        };
        let blob = [&sha256, &git_sha1, &facts.etag]
            .into_iter()
            .find_map(Clone::clone)
            .ok_or_else(|| {
                protocol("the hub gives neither a checksum nor an ETag for the file".into())
            })?;
        Ok(Self {
            blob,
            etag: facts.etag.clone(),
            size,
            sha256,
            git_sha1,
        })
    }
}

/// The file that a download grows in.
struct Part {
    file: fs_err::File,
    len: u64,
    was_reset: bool,
    sha256: Option<Sha256>,
    git_sha1: Option<Sha1>,
    git_header: String,
}

impl Part {
    // Opens what an earlier attempt left, and hashes it.
    fn open(blob: &Path, target: &Target, watcher: &mut dyn Watcher) -> Result<Self, HubError> {
        let mut name = blob.as_os_str().to_owned();
        name.push(".incomplete");
        let file = fs_err::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(name)?;
        let mut part = Self {
            file,
            len: 0,
            was_reset: false,
            sha256: target.sha256.as_ref().map(|_| Sha256::new()),
            git_sha1: target.git_sha1.as_ref().map(|_| Sha1::new()),
            git_header: format!("blob {}\0", target.size),
        };
        if let Some(sha1) = &mut part.git_sha1 {
            sha1.update(part.git_header.as_bytes());
        }
        if part.file.metadata()?.len() > target.size {
            part.reset()?;
        }
        let mut chunk = vec![0; CHUNK];
        loop {
            if watcher.interrupted() {
                return Err(HubError::Interrupted);
            }
            let n = part.file.read(&mut chunk)?;
            if n == 0 {
                return Ok(part);
            }
            part.hash(&chunk[..n]);
        }
    }

    fn hash(&mut self, bytes: &[u8]) {
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(bytes);
        }
        if let Some(sha1) = &mut self.git_sha1 {
            sha1.update(bytes);
        }
        self.len += bytes.len() as u64;
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.hash(bytes);
        Ok(())
    }

    fn reset(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.len = 0;
        self.was_reset = true;
        if let Some(sha256) = &mut self.sha256 {
            *sha256 = Sha256::new();
        }
        if let Some(sha1) = &mut self.git_sha1 {
            *sha1 = Sha1::new();
            sha1.update(self.git_header.as_bytes());
        }
        Ok(())
    }

    fn check(&mut self, file: &str, target: &Target) -> Result<(), HubError> {
        let wrong = |kind, expected: &str, found| HubError::Checksum {
            file: file.to_owned(),
            kind,
            expected: expected.to_owned(),
            found,
        };
        if let (Some(hasher), Some(expected)) = (&self.sha256, &target.sha256) {
            let found = to_hex(&hasher.clone().finalize());
            if found != *expected {
                return Err(wrong("sha256", expected, found));
            }
        }
        if let (Some(hasher), Some(expected)) = (&self.git_sha1, &target.git_sha1) {
            let found = to_hex(&hasher.clone().finalize());
            if found != *expected {
                return Err(wrong("git sha1", expected, found));
            }
        }
        Ok(())
    }

    // Gives the blob its name, once its bytes are on the disk.
    fn finish(self, blob: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        fs_err::rename(self.file.path(), blob)?;
        sync_folder(blob)
    }

    // Leaves what there is for the next run; an empty file is of no use to it.
    fn keep(self) -> io::Result<()> {
        if self.len == 0 {
            self.remove()
        } else {
            self.file.sync_all()
        }
    }

    fn remove(self) -> io::Result<()> {
        fs_err::remove_file(self.file.path())
    }
}

/// Brings the entry of `path` in its folder onto the disk.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    // Windows can't open a folder, and has no need to.
    match path.parent() {
        Some(folder) if cfg!(unix) => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Percent-encodes everything but ASCII letters, digits and `plain`.
pub(crate) fn escape(text: &str, plain: &[u8]) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || plain.contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

/// What the worker's thread hands over.
enum Message {
    Head(u16, HeaderMap),
    Bytes(Vec<u8>),
    End,
}

/// An answer whose body is still on its way.
struct Answer {
    url: String,
    status: u16,
    headers: HeaderMap,
    facts: Facts,
    parts: Receiver<Result<Message, ureq::Error>>,
    patience: Duration,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    fn content_length(&self) -> Option<u64> {
        self.header("content-length")
            .and_then(|length| length.trim().parse().ok())
    }

    // The first byte of `Content-Range: bytes 7-99/100`.
    fn range_start(&self) -> Option<u64> {
        let range = self.header("content-range")?.strip_prefix("bytes ")?;
        range.split('-').next()?.trim().parse().ok()
    }

    fn range_total_is(&self, size: u64) -> bool {
        let total = self
            .header("content-range")
            .and_then(|range| range.rsplit('/').next());
        total.is_some_and(|total| total == "*" || total.trim().parse() == Ok(size))
    }

    fn next_chunk(&self, watcher: &mut dyn Watcher) -> Result<Option<Vec<u8>>, Failure> {
        match self.next_part(watcher)? {
            Message::Bytes(bytes) => Ok(Some(bytes)),
            Message::End => Ok(None),
            Message::Head(..) => Err(self.broken("the answer has two heads")),
        }
    }

    fn next_part(&self, watcher: &mut dyn Watcher) -> Result<Message, Failure> {
        let start = Instant::now();
        loop {
            if watcher.interrupted() {
                return Err(Failure::Final(HubError::Interrupted));
            }
            match self.parts.recv_timeout(POLL) {
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

    fn read_whole(self, limit: usize, watcher: &mut dyn Watcher) -> Result<Vec<u8>, Failure> {
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
        Failure::MayPass { error, after: None }
    }

    fn transport(&self, error: ureq::Error) -> Failure {
        // A certificate that is wrong now is wrong in a second as well.
        let is_final = matches!(
            error,
            ureq::Error::Tls(_)
                | ureq::Error::Rustls(_)
                | ureq::Error::BadUri(_)
                | ureq::Error::InvalidProxyUrl
        );
        let error = HubError::Transport {
            url: self.url.clone(),
            reason: error.to_string(),
        };
        if is_final {
            Failure::Final(error)
        } else {
            Failure::MayPass { error, after: None }
        }
    }
}

// The worker: runs until the answer ends, or nobody listens any more.
fn run_request(
    agent: &Agent,
    request: Request<()>,
    has_body: bool,
    sender: &SyncSender<Result<Message, ureq::Error>>,
) {
    let mut response = match agent.run(request) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn redirect(endpoint: &str, from: &str, location: &str) -> Result<String, String> {
        let config = HubConfig::new(endpoint, "unused");
        let hub = Hub::new(&config).map_err(|error| error.to_string())?;
        let from = Address::parse(from)?;
        hub.judge_redirect(&from, location)
            .map(|next| next.to_url())
            .map_err(|error| error.to_string())
    }

    // The stand-in speaks plain http on loopback, so what holds for a public hub is judged here.
    #[test]
    fn a_public_hub_redirects_only_to_public_https() {
        let judge = |location| {
            redirect(
                "https://hub.example",
                "https://hub.example/a/b?c=d",
                location,
            )
        };
        for (location, expected) in [
            ("https://cdn.example/x?s=1", "https://cdn.example/x?s=1"),
            ("https://CDN.example:443/x", "https://cdn.example/x"),
            ("//cdn.example/x", "https://cdn.example/x"),
            ("/x/y", "https://hub.example/x/y"),
            ("y", "https://hub.example/a/y"),
            ("?e=f", "https://hub.example/a/b?e=f"),
            ("https://8.8.8.8/x", "https://8.8.8.8/x"),
            ("https://[2606:4700::1]/x", "https://[2606:4700::1]/x"),
            (
                "https://cdn.example/a%20b?f=\"x\"#top",
                "https://cdn.example/a%20b?f=%22x%22",
            ),
        ] {
            assert_eq!(judge(location).as_deref(), Ok(expected), "{location}");
        }
        for location in [
            "https://127.0.0.1/",
            "https://127.1/",
            "https://2130706433/",
            "https://0x7f000001/",
            "https://0177.0.0.1/",
            "https://localhost/",
            "https://LOCALHOST./",
            "https://x.localhost/",
            "https://10.0.0.1/",
            "https://172.16.0.1/",
            "https://192.168.1.1/",
            "https://169.254.169.254/latest/meta-data/",
            "https://0.0.0.0/",
            "https://100.64.0.1/",
            "https://255.255.255.255/",
            "https://224.0.0.1/",
            "https://[::1]/",
            "https://[::]/",
            "https://[fe80::1]/",
            "https://[fd00::1]/",
            "https://[::ffff:127.0.0.1]/",
            "https://[::ffff:a9fe:a9fe]/",
            "https://[nonsense]/",
        ] {
            let error = judge(location).expect_err(location);
            assert!(error.contains("private address"), "{location}: {error}");
        }
        for location in [
            "http://cdn.example/",
            "http://hub.example/",
            "HTTP://127.0.0.1/",
        ] {
            let error = judge(location).expect_err(location);
            assert!(error.contains("leaves https"), "{location}: {error}");
        }
    }

    #[test]
    fn a_hub_on_a_private_network_may_redirect_within_it() {
        let judge = |location| redirect("http://10.0.0.5:8080", "http://10.0.0.5:8080/x", location);
        assert_eq!(
            judge("http://10.0.0.6/y").as_deref(),
            Ok("http://10.0.0.6/y")
        );
        assert_eq!(
            judge("https://cdn.example/y").as_deref(),
            Ok("https://cdn.example/y")
        );
    }

    #[test]
    fn the_origin_is_scheme_host_and_port() {
        let same = |a, b| {
            Address::parse(a).is_ok_and(|a| Address::parse(b).is_ok_and(|b| a.has_origin_of(&b)))
        };
        assert!(same("https://hub.example/a", "https://HUB.example:443/b"));
        for other in [
            "http://hub.example/",
            "https://hub.example:444/",
            "https://hub.example.evil/",
            "https://xhub.example/",
            "https://cdn.hub.example/",
        ] {
            assert!(!same("https://hub.example/", other), "{other}");
        }
    }
}

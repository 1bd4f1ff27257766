//! HTTP with the hub: requests, redirects and the hub's refusals.
//!
//! hf-hub 0.5 has a client of its own, which is not used: it checks neither length nor sha256, hands
//! the token to whatever host a redirect names, and can't be stopped. This one follows redirects by
//! hand, one request at a time, so that each next host is judged before anything is sent to it.

use std::{sync::mpsc::sync_channel, thread, time::Duration};

use ureq::{
    Agent,
    http::{
        Method, Request,
        header::{self, HeaderName},
    },
    tls::TlsConfig,
};

use crate::{
    address::{Address, escape},
    cache::RepoFolder,
    config::HubConfig,
    error::HubError,
    listing::Listing,
    request::{Answer, CHUNKS_IN_FLIGHT, Facts, Payload, Sending, run_request},
    retry::{Failure, Retries},
    watcher::Watcher,
};

/// The most bytes that a listing of a model or a data set may have.
const LONGEST_LISTING: usize = 64 << 20;

/// The most redirects of one request. The hub needs two: a renamed repository, and the storage.
const MOST_REDIRECTS: usize = 8;

/// The HTTP client of one hub.
pub(crate) struct Client<'a> {
    pub(crate) config: &'a HubConfig,
    endpoint: Address,
    agent: Agent,
}

impl<'a> Client<'a> {
    pub(crate) fn new(config: &'a HubConfig) -> Result<Self, HubError> {
        let endpoint = Address::parse(config.endpoint.trim_end_matches('/')).map_err(|reason| {
            HubError::Setting {
                name: "HF_ENDPOINT".into(),
                reason: reason.into(),
            }
        })?;
        if config.token.is_some() && !endpoint.is_https() && !endpoint.is_loopback() {
            tracing::warn!(
                "HF_ENDPOINT {} is plain http: the token can be read on the way",
                config.endpoint
            );
        }
        let mut tls = TlsConfig::builder();
        if endpoint.is_https() {
            tls = tls.root_certs(config.network.root_certificates()?);
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
            .timeout_per_write(Some(config.silence))
            .max_idle_connections_per_host(1)
            .proxy(None)
            .tls_config(tls.build())
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
        retries: Retries<'_>,
        watcher: &mut dyn Watcher,
    ) -> Result<Listing, HubError> {
        let url = format!(
            "{}/api/{}?blobs=true",
            self.config.endpoint,
            repo.api_path()
        );
        let body = self.get(&url, retries, &Subject::reading(repo, None), watcher)?;
        Listing::from_answer(&url, &body)
    }

    /// An answer of the hub's API.
    pub(crate) fn get(
        &self,
        url: &str,
        mut retries: Retries<'_>,
        subject: &Subject<'_>,
        watcher: &mut dyn Watcher,
    ) -> Result<Vec<u8>, HubError> {
        loop {
            let body = self
                .request(&Method::GET, url, 0, subject, watcher)
                .and_then(|answer| answer.read_whole(LONGEST_LISTING, watcher));
            match body {
                Ok(body) => return Ok(body),
                Err(failure) => retries.wait(failure, watcher)?,
            }
        }
    }

    /// The commit that the revision stands for now, by one HEAD for `file`, without retries; none when
    /// the hub answers without naming it.
    pub(crate) fn current_commit(
        &self,
        repo: &RepoFolder,
        file: &str,
        watcher: &mut dyn Watcher,
    ) -> Result<Option<String>, HubError> {
        let url = self.file_url(repo, repo.revision(), file);
        let subject = Subject::reading(repo, Some(file));
        match self.request(&Method::HEAD, &url, 0, &subject, watcher) {
            Ok(answer) => Ok(answer.facts.commit),
            Err(failure) => match failure.into_error() {
                error if error.is_unreachable() => Err(error),
                error @ HubError::Interrupted => Err(error),
                _ => Ok(None),
            },
        }
    }

    /// The address that a file of a revision is downloaded from.
    pub(crate) fn file_url(&self, repo: &RepoFolder, revision: &str, file: &str) -> String {
        let revision = revision.replace('/', "%2F");
        let file = escape(file, b"/-._~");
        format!(
            "{}/{}/resolve/{revision}/{file}",
            self.config.endpoint,
            repo.url_path()
        )
    }

    /// Sends one request and follows its redirects, without retries. A HEAD stops where the hub redirects
    /// to another host, since the hub's own answer says everything about the file.
    pub(crate) fn request(
        &self,
        method: &Method,
        url: &str,
        offset: u64,
        subject: &Subject<'_>,
        watcher: &mut dyn Watcher,
    ) -> Result<Answer, Failure> {
        let mut facts = Facts::default();
        let mut address = self.parse(url)?;
        for _ in 0..=MOST_REDIRECTS {
            let is_hub = address.has_origin_of(&self.endpoint);
            let mut call = Call::new(method.clone());
            if offset > 0 {
                call = call.header(header::RANGE, &format!("bytes={offset}-"));
            }
            let mut answer = self.hop(call, &address, is_hub, watcher)?;
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
        if from.is_https() && !next.is_https() {
            return Err(refuse(next.to_shown(), "it leaves https"));
        }
        if next.is_private() && !self.endpoint.is_private() && !next.has_origin_of(&self.endpoint) {
            return Err(refuse(next.to_shown(), "it leads to a private address"));
        }
        Ok(next)
    }

    /// Sends a payload to the hub's API and returns the whole answer; follows the redirects of a renamed
    /// repository.
    pub(crate) fn post(
        &self,
        url: &str,
        headers: &[(HeaderName, &str)],
        payload: &[u8],
        subject: &Subject<'_>,
        watcher: &mut dyn Watcher,
    ) -> Result<Vec<u8>, Failure> {
        let mut address = self.parse(url)?;
        for _ in 0..=MOST_REDIRECTS {
            let is_hub = address.has_origin_of(&self.endpoint);
            let mut call = Call::new(Method::POST);
            for (name, value) in headers {
                call = call.header(name.clone(), value);
            }
            call.payload = Payload::Bytes(payload.to_vec());
            let answer = self.hop(call, &address, is_hub, watcher)?;
            match answer.status {
                200..=299 => return answer.read_whole(LONGEST_LISTING, watcher),
                307 | 308 => {
                    let location = answer.header("location").unwrap_or_default();
                    let judged = self.judge_redirect(&address, location);
                    address = judged.map_err(Failure::Final)?;
                }
                _ => return Err(self.refusal(&answer, url, is_hub, subject)),
            }
        }
        Err(Failure::Final(HubError::Redirect {
            from: url.to_owned(),
            to: address.to_shown(),
            reason: "too many redirects in a row",
        }))
    }

    /// Sends a part of a file to the address that the hub gave for it, and returns the answer's ETag. Without the
    /// token, unless that is the hub itself.
    pub(crate) fn put(
        &self,
        url: &str,
        payload: Payload,
        sending: &Sending<'_>,
        subject: &Subject<'_>,
        watcher: &mut dyn Watcher,
    ) -> Result<Option<String>, Failure> {
        let address = self.judge_redirect(&self.endpoint, url);
        let address = address.map_err(Failure::Final)?;
        let is_hub = address.has_origin_of(&self.endpoint);
        let mut call = Call::new(Method::PUT);
        call.payload = payload;
        call.sending = Some(sending);
        let answer = self.hop(call, &address, is_hub, watcher)?;
        match answer.status {
            200..=299 => Ok(answer.header("etag").map(str::to_owned)),
            _ => Err(self.refusal(&answer, &address.to_shown(), is_hub, subject)),
        }
    }

    fn parse(&self, url: &str) -> Result<Address, Failure> {
        Address::parse(url).map_err(|reason| {
            Failure::Final(HubError::Setting {
                name: "HF_ENDPOINT".into(),
                reason: reason.into(),
            })
        })
    }

    // One request to one host, on a thread of its own. The token goes to the endpoint alone.
    fn hop(
        &self,
        call: Call<'_>,
        address: &Address,
        is_hub: bool,
        watcher: &mut dyn Watcher,
    ) -> Result<Answer, Failure> {
        let url = address.to_url();
        let shown = address.to_shown();
        let has_body = matches!(call.method, Method::GET | Method::POST);
        let mut request = Request::builder().method(call.method).uri(&url);
        if is_hub && let Some(token) = &self.config.token {
            request = request.header(header::AUTHORIZATION, token.header());
        }
        for (name, value) in call.headers {
            request = request.header(name, value);
        }
        if let Some(len) = call.payload.len() {
            request = request.header(header::CONTENT_LENGTH, len);
        }
        let request = request.body(()).map_err(|error| {
            let reason = format!("not an address that can be asked for: {error}");
            Failure::Final(HubError::Protocol {
                url: shown.clone(),
                reason,
            })
        })?;
        let configured = self.agent.configure_request(request);
        let request = configured.proxy(self.config.network.proxy(address)).build();

        let (sender, messages) = sync_channel(CHUNKS_IN_FLIGHT);
        let agent = self.agent.clone();
        let payload = call.payload;
        thread::Builder::new()
            .name("hub".into())
            .spawn(move || run_request(&agent, request, payload, has_body, &sender))
            .map_err(|error| Failure::Final(error.into()))?;
        // The worker's own time-outs come first; this one is for a name look-up that has none.
        let patience = self.config.silence * 2;
        Answer::head(shown, messages, patience, call.sending, watcher)
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
                next: match (self.config.token.is_some(), subject.right) {
                    (true, "write") => {
                        "check that the token in HF_TOKEN is valid and may write to it"
                    }
                    (true, _) => {
                        "check the name, and that the token in HF_TOKEN is valid and may read it"
                    }
                    (false, _) => {
                        "check the name; if it is private, set HF_TOKEN to a token that may read it"
                    }
                },
            },
            403 => HubError::Forbidden {
                url,
                right: subject.right,
            },
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
/// One request without its address.
struct Call<'a> {
    method: Method,
    headers: Vec<(HeaderName, String)>,
    payload: Payload,
    sending: Option<&'a Sending<'a>>,
}

impl Call<'_> {
    fn new(method: Method) -> Self {
        Self {
            method,
            headers: Vec::new(),
            payload: Payload::None,
            sending: None,
        }
    }

    fn header(mut self, name: HeaderName, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }
}

/// The repository and file that a request is about, for messages.
pub(crate) struct Subject<'a> {
    pub(crate) repo: &'a RepoFolder,
    pub(crate) file: Option<&'a str>,
    /// The right that the token needs: "read" or "write".
    pub(crate) right: &'static str,
}

impl<'a> Subject<'a> {
    /// The subject of a request that reads.
    pub(crate) fn reading(repo: &'a RepoFolder, file: Option<&'a str>) -> Self {
        Self {
            repo,
            file,
            right: "read",
        }
    }

    /// The subject of a request that writes.
    pub(crate) fn writing(repo: &'a RepoFolder, file: Option<&'a str>) -> Self {
        Self {
            right: "write",
            ..Self::reading(repo, file)
        }
    }
}
#[cfg(test)]
mod tests {
    use super::*;

    fn redirect(endpoint: &str, from: &str, location: &str) -> Result<String, String> {
        let config = HubConfig::new(endpoint, "unused");
        let client = Client::new(&config).map_err(|error| error.to_string())?;
        let from = Address::parse(from)?;
        client
            .judge_redirect(&from, location)
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
}

//! HTTP with the hub: requests, redirects and the hub's refusals.
//!
//! hf-hub 0.5 has a client of its own, which is not used: it checks neither length nor sha256, hands
//! the token to whatever host a redirect names, and can't be stopped. This one follows redirects by
//! hand, one request at a time, so that each next host is judged before anything is sent to it.

use std::{sync::mpsc::sync_channel, thread, time::Duration};

use ureq::{
    Agent,
    http::{Method, Request, header},
    tls::TlsConfig,
};

use crate::{
    address::{Address, escape},
    cache::RepoFolder,
    config::HubConfig,
    error::HubError,
    listing::Listing,
    request::{Answer, CHUNKS_IN_FLIGHT, Facts, run_request},
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
        mut retries: Retries<'_>,
        watcher: &mut dyn Watcher,
    ) -> Result<Listing, HubError> {
        let url = format!(
            "{}/api/{}?blobs=true",
            self.config.endpoint,
            repo.api_path()
        );
        let subject = Subject { repo, file: None };
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
    /// the hub answers without naming it.
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
        if from.is_https() && !next.is_https() {
            return Err(refuse(next.to_shown(), "it leaves https"));
        }
        if next.is_private() && !self.endpoint.is_private() && !next.has_origin_of(&self.endpoint) {
            return Err(refuse(next.to_shown(), "it leads to a private address"));
        }
        Ok(next)
    }

    // One request to one host, on a thread of its own. The token goes to the endpoint alone.
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
        let configured = self.agent.configure_request(request);
        let request = configured.proxy(self.config.network.proxy(address)).build();

        let (sender, messages) = sync_channel(CHUNKS_IN_FLIGHT);
        let agent = self.agent.clone();
        let has_body = *method == Method::GET;
        thread::Builder::new()
            .name("hub".into())
            .spawn(move || run_request(&agent, request, has_body, &sender))
            .map_err(|error| Failure::Final(error.into()))?;
        // The worker's own time-outs come first; this one is for a name look-up that has none.
        Answer::head(shown, messages, self.config.silence * 2, watcher)
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
/// The repository and file that a request is about, for messages.
pub(crate) struct Subject<'a> {
    pub(crate) repo: &'a RepoFolder,
    pub(crate) file: Option<&'a str>,
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

//! Failures to reach the hub or use the cache, each with the next action.

use std::io;

/// A failure to name, find or fetch something on the hub.
///
/// No variant ever holds the token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// A name that breaks one of the hub's rules, or that could leave the cache folder.
    #[error("{what} {name:?}: {rule}")]
    Name {
        /// Which kind of name, as in "model name".
        what: &'static str,
        /// The name as it was given.
        name: String,
        /// The rule that it breaks.
        rule: String,
    },

    /// A setting from the environment that can't be used.
    #[error("{name}: {reason}")]
    Setting {
        /// The environment variable or file.
        name: String,
        /// The defect; never the value where that is a secret.
        reason: String,
    },

    /// Offline, and the cache lacks something.
    #[error(
        "{repo}: {missing} is not in the cache {cache} and HF_HUB_OFFLINE is set: \
         unset it and fetch once while online, or give a folder instead"
    )]
    NotCached {
        /// The repository, as in `microsoft/mpnet-base@main`.
        repo: String,
        /// The file or the revision that is missing.
        missing: String,
        /// The cache folder that was searched.
        cache: String,
    },

    /// 401: the hub wants a token, or another one. It also answers so for repositories that don't exist.
    #[error("{url}: the hub answers 401 (unauthorized): {next}")]
    Unauthorized {
        /// The address asked for.
        url: String,
        /// The next action, depending on whether a token was sent.
        next: &'static str,
    },

    /// The repository is gated: its terms have to be accepted first.
    #[error(
        "{repo} is gated: accept its terms at {page}, then set HF_TOKEN to a token of that account"
    )]
    Gated {
        /// The repository.
        repo: String,
        /// The page where the terms are.
        page: String,
    },

    /// 403: the token lacks the right.
    #[error(
        "{url}: the hub answers 403 (forbidden): check that the token in HF_TOKEN may {right} this repository"
    )]
    Forbidden {
        /// The address asked for.
        url: String,
        /// The right that is needed: "read" or "write".
        right: &'static str,
    },

    /// 404: no such repository, revision or file.
    #[error("{repo}: {what} not found on the hub ({url}): {next}")]
    NotFound {
        /// The repository.
        repo: String,
        /// The thing not found: "repository", "revision x" or "file x".
        what: String,
        /// The address asked for.
        url: String,
        /// The next action.
        next: &'static str,
    },

    /// 429 for longer than we wait.
    #[error(
        "{url}: the hub asks to wait {seconds} s (429, too many requests): try again later, or set HF_TOKEN for a higher limit"
    )]
    RateLimited {
        /// The address asked for.
        url: String,
        /// The seconds of Retry-After, or of the last pause tried.
        seconds: u64,
    },

    /// Any other status.
    #[error("{url}: the hub answers {status}{message}")]
    Status {
        /// The address asked for.
        url: String,
        /// The status.
        status: u16,
        /// The hub's own words, as `: text`, or nothing.
        message: String,
    },

    /// The connection failed, stalled or broke off, also after the retries.
    #[error(
        "{url}: {reason}: check the network (and HF_ENDPOINT), then run again; what was fetched is kept"
    )]
    Transport {
        /// The address asked for.
        url: String,
        /// The failure in words.
        reason: String,
    },

    /// The certificate of a server, or of a proxy in between, can't be verified.
    #[error(
        "{url}: {reason}: if your network signs certificates with an authority of its own, set SSL_CERT_FILE \
         (or REQUESTS_CA_BUNDLE) to that authority's certificate as a PEM file"
    )]
    Certificate {
        /// The address asked for.
        url: String,
        /// The defect of the certificate.
        reason: String,
    },

    /// The hub can't be reached, and the snapshot in the cache lacks a file.
    #[error(
        "{repo}: the snapshot in the cache {cache} lacks a file ({missing}), and the hub gives no answer: {error}"
    )]
    Lacking {
        /// The repository.
        repo: String,
        /// The missing file, in words.
        missing: String,
        /// The cache folder.
        cache: String,
        /// The failure to reach the hub.
        error: Box<HubError>,
    },

    /// A redirect that is not followed.
    #[error("{from}: refused a redirect to {to}: {reason}")]
    Redirect {
        /// The address that redirects.
        from: String,
        /// The target, without its query (which may be a secret).
        to: String,
        /// Why it is refused.
        reason: &'static str,
    },

    /// An answer that breaks the hub's protocol.
    #[error(
        "{url}: {reason}: the endpoint does not behave like a Hugging Face hub, check HF_ENDPOINT"
    )]
    Protocol {
        /// The address asked for.
        url: String,
        /// The defect of the answer.
        reason: String,
    },

    /// A file of another length than announced.
    #[error(
        "{file}: {found} bytes where the hub announced {expected}: nothing was kept, run again"
    )]
    Length {
        /// The file in the repository.
        file: String,
        /// The length announced.
        expected: u64,
        /// The length found, or announced elsewhere.
        found: u64,
    },

    /// A file whose content is not what the hub announced.
    #[error(
        "{file}: the content has {kind} {found}, the hub announced {expected}: nothing was kept, run again"
    )]
    Checksum {
        /// The file in the repository.
        file: String,
        /// "sha256" or "git sha1".
        kind: &'static str,
        /// The checksum announced.
        expected: String,
        /// The checksum of what came.
        found: String,
    },

    /// A repository whose weights are pickles only.
    #[error(
        "{repo}: the weights are there only as {found} (a pickle, which can run code): {needed} is needed; convert it, or take a revision that has it (`@refs/pr/N`)"
    )]
    PickleOnly {
        /// The repository.
        repo: String,
        /// The pickle found.
        found: String,
        /// The safetensors file that is needed.
        needed: String,
    },

    /// A data set without parquet files, also in the hub's own conversion.
    #[error(
        "{repo}: there is no parquet file, and no conversion by the hub under {conversion}: {next}"
    )]
    NoParquet {
        /// The repository.
        repo: String,
        /// The revision that the hub converts data sets to.
        conversion: &'static str,
        /// The next action.
        next: &'static str,
    },

    /// A repository that lacks a required file.
    #[error("{repo}: {missing}: {next}")]
    Incomplete {
        /// The repository.
        repo: String,
        /// The missing file, in words.
        missing: String,
        /// The next action.
        next: String,
    },

    /// The data set has several subsets and none, or an unknown one, was named.
    #[error("{repo}: {problem}: name one of its subsets, as in `{repo}:{first}`; there are {all}", first = .subsets.first().map_or("", String::as_str), all = .subsets.join(", "))]
    Subset {
        /// The repository.
        repo: String,
        /// "several subsets" or "no subset x".
        problem: String,
        /// The subsets there are, sorted.
        subsets: Vec<String>,
    },

    /// The watcher asked to stop; what was fetched is kept and the next run goes on from there.
    #[error("interrupted")]
    Interrupted,

    /// Reading or writing the cache; the message names the path.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl HubError {
    /// The status of an answer that no other variant is for.
    pub(crate) fn status(&self) -> Option<u16> {
        match self {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether the hub gave no usable answer, so that one might come later, or by another network.
    pub(crate) fn is_unreachable(&self) -> bool {
        match self {
            Self::Transport { .. } | Self::Certificate { .. } | Self::RateLimited { .. } => true,
            Self::Status { status, .. } => matches!(status, 408 | 500..=599),
            _ => false,
        }
    }

    /// Whether the cache lacks something that nothing else was asked for.
    pub(crate) fn is_of_cache(&self) -> bool {
        matches!(self, Self::NotCached { .. } | Self::Lacking { .. })
    }
}

//! The configuration of a fetch: endpoint, cache folder, token and patience.

use std::{
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{address::Address, error::HubError, network::Network};

/// The endpoint that is used where HF_ENDPOINT is not set.
pub const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// The settings of a fetch, beside the name of the model or data set.
///
/// [`HubConfig::from_env`] reads it from the environment as Python's `huggingface_hub` does.
#[derive(Clone, Debug)]
pub struct HubConfig {
    /// Scheme, host and perhaps a path, without a slash at the end.
    pub endpoint: String,
    /// The folder that holds `models--org--name` and its like; shared with Python.
    pub cache_dir: PathBuf,
    /// The folder in which Python's `datasets` keeps data sets as Arrow files; looked into where the hub can't be reached.
    pub datasets_cache: Option<PathBuf>,
    /// Sent to the endpoint, and never to another host.
    pub token: Option<Token>,
    /// Whether to use the cache alone.
    pub offline: bool,
    /// How often a request is tried again after a failure that may pass (429, 5xx, a broken connection).
    /// A download that moved on by a mebibyte gets the full number again.
    pub retries: u32,
    /// The pause before the first retry; each next one is twice as long.
    pub first_pause: Duration,
    /// The longest pause. A hub that asks for a longer one gets no further request.
    pub longest_pause: Duration,
    /// How long a connection may stay silent before it counts as broken.
    pub silence: Duration,
    /// The certificate authorities and proxies.
    pub network: Network,
}

impl HubConfig {
    /// The default retries and time-outs, online and without a token.
    pub fn new(endpoint: impl Into<String>, cache_dir: impl Into<PathBuf>) -> Self {
        Self {
            endpoint: endpoint.into(),
            cache_dir: cache_dir.into(),
            datasets_cache: None,
            token: None,
            offline: false,
            retries: 4,
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(60),
            silence: Duration::from_secs(30),
            network: Network::default(),
        }
    }

    /// Reads the environment of this process, see [`HubConfig::from_lookup`].
    ///
    /// # Errors
    /// As [`HubConfig::from_lookup`].
    pub fn from_env() -> Result<Self, HubError> {
        Self::from_lookup(&|name| std::env::var_os(name))
    }

    /// Reads the variables that `huggingface_hub` knows, through `lookup`:
    ///
    /// - the cache: HF_HUB_CACHE, else HUGGINGFACE_HUB_CACHE, else `$HF_HOME/hub`; HF_HOME defaults to
    ///   `$XDG_CACHE_HOME/huggingface`, and XDG_CACHE_HOME to `~/.cache`;
    /// - the cache of `datasets`: HF_DATASETS_CACHE, else `$HF_HOME/datasets`;
    /// - the token: HF_TOKEN, else the file HF_TOKEN_PATH, which defaults to `$HF_HOME/token`; none at
    ///   all with HF_HUB_DISABLE_IMPLICIT_TOKEN;
    /// - the endpoint: HF_ENDPOINT, else [`DEFAULT_ENDPOINT`];
    /// - offline: HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE;
    /// - certificate authorities: SSL_CERT_FILE, SSL_CERT_DIR, REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE, added up, in
    ///   the place of the system's store;
    /// - proxies: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY, in lower case first.
    ///
    /// An empty variable counts as unset; a switch is on with 1, ON, YES or TRUE in any case.
    ///
    /// # Errors
    /// When there is no home folder to default to, the endpoint is no http(s) address, a proxy is no address,
    /// or the token can't be read or can't be a token. The message never shows the token or a proxy.
    pub fn from_lookup(lookup: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, HubError> {
        let set = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let switch = |name: &str| {
            set(name).is_some_and(|value| {
                let value = value.to_string_lossy().to_ascii_uppercase();
                matches!(value.as_str(), "1" | "ON" | "YES" | "TRUE")
            })
        };
        let home = set("HOME")
            .or_else(|| set("USERPROFILE"))
            .map(PathBuf::from);
        let path =
            |name: &str| set(name).map(|value| expand_home(PathBuf::from(value), home.as_deref()));

        let hf_home = match (path("HF_HOME"), path("XDG_CACHE_HOME"), &home) {
            (Some(hf_home), _, _) => Some(hf_home),
            (None, Some(xdg), _) => Some(xdg.join("huggingface")),
            (None, None, Some(home)) => Some(home.join(".cache").join("huggingface")),
            (None, None, None) => None,
        };
        let cache_dir = path("HF_HUB_CACHE")
            .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| hf_home.as_ref().map(|hf_home| hf_home.join("hub")))
            .ok_or_else(|| HubError::Setting {
                name: "HF_HOME".into(),
                reason: "not set, and neither is HOME: set HF_HOME to a folder for the cache"
                    .into(),
            })?;

        let datasets_cache = path("HF_DATASETS_CACHE")
            .or_else(|| hf_home.as_ref().map(|hf_home| hf_home.join("datasets")));

        let token = if switch("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            None
        } else if let Some(token) = set("HF_TOKEN") {
            let token = token.into_string().unwrap_or_else(|_| "\u{fffd}".into());
            Token::parse("HF_TOKEN", &token)?
        } else {
            match path("HF_TOKEN_PATH").or_else(|| hf_home.map(|hf_home| hf_home.join("token"))) {
                Some(path) => token_from_file(&path)?,
                None => None,
            }
        };

        let endpoint = match set("HF_ENDPOINT") {
            None => DEFAULT_ENDPOINT.to_owned(),
            Some(endpoint) => {
                let endpoint = endpoint
                    .to_string_lossy()
                    .trim()
                    .trim_end_matches('/')
                    .to_owned();
                Address::parse(&endpoint).map_err(|reason| HubError::Setting {
                    name: "HF_ENDPOINT".into(),
                    reason: format!("{reason}, as in {DEFAULT_ENDPOINT}"),
                })?;
                endpoint
            }
        };

        Ok(Self {
            token,
            datasets_cache,
            offline: switch("HF_HUB_OFFLINE") || switch("TRANSFORMERS_OFFLINE"),
            network: Network::from_lookup(lookup)?,
            ..Self::new(endpoint, cache_dir)
        })
    }
}

/// An access token of the hub, which no message and no `Debug` shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Takes a token, without the white space around it; `None` when nothing is left.
    ///
    /// # Errors
    /// When it holds anything but printable ASCII, which no header may carry; `source` names in the
    /// message where it came from.
    pub fn parse(source: &str, token: &str) -> Result<Option<Self>, HubError> {
        let token = token.trim();
        if token.is_empty() {
            return Ok(None);
        }
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(HubError::Setting {
                name: source.to_owned(),
                reason:
                    "holds white space, control or non-ASCII characters, so it can't be a hub token"
                        .into(),
            });
        }
        Ok(Some(Self(token.to_owned())))
    }

    /// The value of the Authorization header.
    pub(crate) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

fn expand_home(path: PathBuf, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path,
    }
}

fn token_from_file(path: &Path) -> Result<Option<Token>, HubError> {
    match fs_err::read_to_string(path) {
        Ok(token) => Token::parse(&path.display().to_string(), &token),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

//! Certificates and proxies of the network between this machine and the hub.

use std::{
    env,
    ffi::OsString,
    fmt, fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use ureq::{
    Proxy,
    tls::{Certificate, RootCerts},
};

use crate::{address::Address, error::HubError};

/// A variable that names certificate authorities: one file, or a list of folders.
const FILES: [&str; 3] = ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"];
const FOLDERS: &str = "SSL_CERT_DIR";

/// The certificate authorities and proxies of connections.
///
/// The default is the system's store of authorities, and no proxy.
#[derive(Clone, Debug, Default)]
pub struct Network {
    /// PEM files and folders of such, each with the variable that names it; together they take the
    /// place of the system's store.
    authorities: Vec<(&'static str, PathBuf)>,
    https_proxy: Option<ProxyAddress>,
    http_proxy: Option<ProxyAddress>,
    /// Hosts that are reached without a proxy.
    no_proxy: Vec<String>,
}

impl Network {
    /// Reads SSL_CERT_FILE, SSL_CERT_DIR, REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE, which are added up, and
    /// HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY, of which the lower-case form comes first, as in
    /// Python.
    ///
    /// # Errors
    /// Where a proxy's address can't be used; the message does not show it, since it may hold a
    /// password.
    pub(crate) fn from_lookup(lookup: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, HubError> {
        let set = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let mut authorities = Vec::new();
        for variable in FILES {
            if let Some(path) = set(variable) {
                authorities.push((variable, PathBuf::from(path)));
            }
        }
        if let Some(folders) = set(FOLDERS) {
            authorities.extend(env::split_paths(&folders).map(|folder| (FOLDERS, folder)));
        }
        let proxy = |names: [&'static str; 2]| {
            let found = names.into_iter().find_map(|name| {
                let lower = name.to_ascii_lowercase();
                set(&lower).or_else(|| set(name)).map(|value| (name, value))
            });
            found.map(|(name, value)| ProxyAddress::parse(name, &value.to_string_lossy()))
        };
        let no_proxy = set("no_proxy").or_else(|| set("NO_PROXY"));
        let no_proxy = no_proxy.unwrap_or_default();
        let no_proxy = no_proxy.to_string_lossy().to_ascii_lowercase();
        let entries = no_proxy.split([',', ' ']).map(str::trim);
        Ok(Self {
            authorities,
            https_proxy: proxy(["HTTPS_PROXY", "ALL_PROXY"]).transpose()?,
            http_proxy: proxy(["HTTP_PROXY", "ALL_PROXY"]).transpose()?,
            no_proxy: entries
                .filter(|entry| !entry.is_empty())
                .map(str::to_owned)
                .collect(),
        })
    }

    /// The authorities that a server's certificate is checked against.
    ///
    /// # Errors
    /// Where a variable names a file without certificates, or all of them together name none.
    pub(crate) fn root_certificates(&self) -> Result<RootCerts, HubError> {
        let mut found = Vec::new();
        for (variable, path) in &self.authorities {
            let loaded = match fs::metadata(path) {
                Ok(metadata) if metadata.is_dir() => {
                    rustls_native_certs::load_certs_from_paths(None, Some(path))
                }
                _ => rustls_native_certs::load_certs_from_paths(Some(path), None),
            };
            if loaded.certs.is_empty() && *variable != FOLDERS {
                return Err(no_certificate(variable, path, loaded.errors.first()));
            }
            found.extend(loaded.certs);
        }
        if let (true, Some((variable, path))) = (found.is_empty(), self.authorities.first()) {
            return Err(no_certificate(variable, path, None));
        }
        if self.authorities.is_empty() {
            found = rustls_native_certs::load_native_certs().certs;
        }
        // A system without a store, such as a small container, trusts Mozilla's list.
        if found.is_empty() {
            return Ok(RootCerts::WebPki);
        }
        let certificates = found
            .iter()
            .map(|certificate| Certificate::from_der(certificate).to_owned());
        Ok(RootCerts::from(certificates))
    }

    /// The proxy to reach a host by. Loopback is never reached by one, since a proxy has no way to this
    /// machine's own servers.
    pub(crate) fn proxy(&self, address: &Address) -> Option<Proxy> {
        let proxy = if address.is_https() {
            &self.https_proxy
        } else {
            &self.http_proxy
        };
        let proxy = proxy.as_ref()?;
        let is_excepted = |entry: &String| matches_host(entry, address);
        if address.is_loopback() || self.no_proxy.iter().any(is_excepted) {
            return None;
        }
        Some(proxy.0.clone())
    }
}

/// A proxy, which shows neither its address nor a password.
#[derive(Clone)]
struct ProxyAddress(Proxy);

impl ProxyAddress {
    fn parse(variable: &str, text: &str) -> Result<Self, HubError> {
        Proxy::new(text.trim())
            .map(Self)
            .map_err(|_| HubError::Setting {
                name: variable.to_owned(),
                reason: "is no address of a proxy, as in http://proxy.example:3128".into(),
            })
    }
}

impl fmt::Debug for ProxyAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProxyAddress(hidden)")
    }
}

/// Whether an entry of NO_PROXY covers a host: `*`, the host, a domain above it (with or without a dot in front),
/// each with or without a port.
fn matches_host(entry: &str, address: &Address) -> bool {
    let (host, port) = (address.host(), address.port().to_string());
    if entry == "*" {
        return true;
    }
    let name = match entry.rsplit_once(':') {
        Some((name, of)) if !of.contains(']') && !name.contains(':') => {
            if of != port {
                return false;
            }
            name
        }
        _ => entry,
    };
    let host = host.trim_matches(['[', ']']);
    if let Some((network, n_bits)) = name.split_once('/') {
        return is_within(host, network, n_bits).unwrap_or(false);
    }
    let name = name.trim_start_matches('*').trim_start_matches('.');
    host == name
        || host
            .strip_suffix(name)
            .is_some_and(|front| !name.is_empty() && front.ends_with('.'))
}

/// Whether an IPv4 address lies in a network such as 10.0.0.0/8; none where one of them is no such thing.
fn is_within(host: &str, network: &str, n_bits: &str) -> Option<bool> {
    let [host, network] = [host, network].map(|text| text.parse::<Ipv4Addr>().ok());
    let n_bits: u32 = n_bits.parse().ok().filter(|n_bits| *n_bits <= 32)?;
    let mask = u32::MAX.checked_shl(32 - n_bits).unwrap_or(0);
    Some(u32::from(host?) & mask == u32::from(network?) & mask)
}

fn no_certificate(
    variable: &str,
    path: &Path,
    error: Option<&rustls_native_certs::Error>,
) -> HubError {
    let error = error.map_or(String::new(), |error| format!(" ({error})"));
    HubError::Setting {
        name: variable.to_owned(),
        reason: format!(
            "no certificate in {}{error}: it must be a file in PEM form (`-----BEGIN CERTIFICATE-----`)",
            path.display()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(variables: &[(&str, &str)]) -> Network {
        let lookup = |name: &str| {
            let (_, value) = variables.iter().find(|(found, _)| *found == name)?;
            Some(OsString::from(value))
        };
        Network::from_lookup(&lookup).expect("valid variables")
    }

    fn proxy(network: &Network, url: &str) -> Option<String> {
        let address = Address::parse(url).expect("an address");
        network
            .proxy(&address)
            .map(|proxy| format!("{}:{}", proxy.host(), proxy.port()))
    }

    #[test]
    fn proxies_go_by_scheme_and_lower_case_comes_first() {
        let both = network(&[
            ("HTTPS_PROXY", "http://upper.example:1"),
            ("https_proxy", "http://secure.example:3128"),
            ("ALL_PROXY", "http://all.example:2"),
        ]);
        let (https, http) = ("https://hub.example/x", "http://hub.example/x");
        assert_eq!(proxy(&both, https).as_deref(), Some("secure.example:3128"));
        assert_eq!(proxy(&both, http).as_deref(), Some("all.example:2"));
        let plain = network(&[("HTTP_PROXY", "plain.example:8080")]);
        assert_eq!(proxy(&plain, https), None);
        assert_eq!(proxy(&plain, http).as_deref(), Some("plain.example:8080"));
        assert_eq!(proxy(&both, "https://127.0.0.1:5/x"), None);
        assert_eq!(proxy(&both, "https://localhost/x"), None);
    }

    #[test]
    fn no_proxy_names_hosts_domains_and_ports() {
        let reached = |no_proxy: &str, url: &str| {
            let variables = [
                ("HTTPS_PROXY", "http://p.example:1"),
                ("NO_PROXY", no_proxy),
            ];
            proxy(&network(&variables), url).is_some()
        };
        let url = "https://hub.corp.example:8443/x";
        for entry in [
            "*",
            "hub.corp.example",
            "HUB.corp.example",
            "corp.example",
            ".corp.example",
            "*.corp.example",
            "other.example, corp.example",
            "hub.corp.example:8443",
        ] {
            assert!(!reached(entry, url), "{entry}");
        }
        for entry in ["", "other.example", "orp.example", "hub.corp.example:443"] {
            assert!(reached(entry, url), "{entry}");
        }
        let url = "https://10.1.2.3/x";
        for (entry, is_reached) in [
            ("10.0.0.0/8", false),
            ("10.2.0.0/16", true),
            ("0.0.0.0/0", false),
            ("10.1.2.3", false),
            ("10/8", true),
        ] {
            assert_eq!(reached(entry, url), is_reached, "{entry}");
        }
    }

    #[test]
    fn a_proxy_that_is_none_is_named_and_not_shown() {
        let lookup = |name: &str| (name == "HTTPS_PROXY").then(|| "ftp://u:secret@p".into());
        let error = Network::from_lookup(&lookup).expect_err("no proxy");
        let text = format!("{error} {error:?}");
        assert!(text.starts_with("HTTPS_PROXY: is no address"), "{text}");
        assert!(!text.contains("secret"), "{text}");
        let network = network(&[("HTTPS_PROXY", "http://u:secret@p.example:1")]);
        assert!(!format!("{network:?}").contains("secret"));
    }

    #[test]
    fn a_file_without_certificates_is_named_with_its_variable() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ca.pem");
        let text = path.to_str().expect("UTF-8");
        for content in [None, Some(""), Some("no certificate\n")] {
            if let Some(content) = content {
                fs::write(&path, content).expect("written");
            }
            let network = network(&[("REQUESTS_CA_BUNDLE", text)]);
            let error = network.root_certificates().expect_err("none").to_string();
            assert!(
                error.starts_with("REQUESTS_CA_BUNDLE: no certificate in "),
                "{error}"
            );
            assert!(error.contains("PEM"), "{error}");
        }
        let network = network(&[("SSL_CERT_DIR", folder.path().to_str().expect("UTF-8"))]);
        let error = network.root_certificates().expect_err("none").to_string();
        assert!(
            error.starts_with("SSL_CERT_DIR: no certificate in "),
            "{error}"
        );
    }
}

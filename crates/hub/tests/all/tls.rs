//! Certificates and proxies: real handshakes with an authority made for the test.

use std::{
    ffi::OsString,
    fs,
    io::{self, BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use hub::{config::HubConfig, error::HubError, fetch::fetch_model, standin::StandIn};
use tempfile::TempDir;

use crate::support::{repo, weights};

/// A hub with TLS and one model, the authority's certificate in a file, and an empty cache.
struct Secure {
    standin: StandIn,
    folder: TempDir,
}

impl Secure {
    fn new() -> Self {
        let standin = StandIn::start_with_tls().expect("ports and certificates");
        standin
            .model("org/base")
            .small("config.json", "{}")
            .small("vocab.txt", "a\n")
            .small("model.safetensors", weights());
        let folder = TempDir::new().expect("a folder");
        let pem = standin.authority().expect("TLS");
        fs::create_dir(folder.path().join("ca")).expect("made");
        fs::write(folder.path().join("ca/authority.pem"), pem).expect("written");
        Self { standin, folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// A fetch with these variables alone.
    fn fetch(&self, variables: &[(&str, String)]) -> Result<PathBuf, HubError> {
        self.fetch_with(variables, 4)
    }

    fn fetch_with(&self, variables: &[(&str, String)], retries: u32) -> Result<PathBuf, HubError> {
        let lookup = |name: &str| -> Option<OsString> {
            let given = variables.iter().find(|(found, _)| *found == name);
            let given = given.map(|(_, value)| value.clone());
            let value = given.or_else(|| match name {
                "HF_ENDPOINT" => Some(self.standin.endpoint()),
                "HF_HUB_CACHE" => Some(self.path("cache")),
                "HOME" => Some(self.path("home")),
                _ => None,
            });
            value.map(OsString::from)
        };
        let mut config = HubConfig::from_lookup(&lookup)?;
        config.silence = Duration::from_secs(5);
        config.retries = retries;
        // A retry would be seen by its pause.
        config.first_pause = Duration::from_secs(40);
        fetch_model(&config, &repo("org/base"), &mut ())
    }
}

#[track_caller]
fn assert_fetched(fetched: Result<PathBuf, HubError>) {
    let folder = fetched.expect("fetched");
    assert!(fs::read(folder.join("model.safetensors")).expect("there") == weights());
}

#[test]
fn the_authority_of_each_variable_is_heeded() {
    for (variable, path) in [
        ("SSL_CERT_FILE", "ca/authority.pem"),
        ("REQUESTS_CA_BUNDLE", "ca/authority.pem"),
        ("CURL_CA_BUNDLE", "ca/authority.pem"),
        ("SSL_CERT_DIR", "ca"),
        ("REQUESTS_CA_BUNDLE", "ca"),
    ] {
        let secure = Secure::new();
        assert_fetched(secure.fetch(&[(variable, secure.path(path))]));
        assert!(secure.standin.requests().len() > 3, "{variable}");
    }
}

#[test]
fn authorities_are_added_up() {
    let secure = Secure::new();
    let other = StandIn::start_with_tls().expect("ports and certificates");
    let pem = other.authority().expect("TLS");
    fs::write(secure.path("other.pem"), pem).expect("written");
    assert_fetched(secure.fetch(&[
        ("SSL_CERT_FILE", secure.path("other.pem")),
        ("REQUESTS_CA_BUNDLE", secure.path("ca/authority.pem")),
    ]));
}

#[test]
fn an_unknown_authority_is_tried_once_and_the_variable_named() {
    let secure = Secure::new();
    let other = StandIn::start_with_tls().expect("ports and certificates");
    fs::write(secure.path("other.pem"), other.authority().expect("TLS")).expect("written");
    for variables in [vec![], vec![("SSL_CERT_FILE", secure.path("other.pem"))]] {
        let start = Instant::now();
        let error = secure.fetch(&variables).expect_err("nobody vouches for it");
        assert!(
            matches!(error, HubError::Certificate { .. }),
            "{variables:?}: {error:?}"
        );
        let text = error.to_string();
        for part in ["https://localhost:", "UnknownIssuer", "set SSL_CERT_FILE"] {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
        assert!(start.elapsed() < Duration::from_secs(20), "tried again");
        assert!(secure.standin.requests().is_empty());
    }
}

#[test]
fn a_certificate_for_another_host_is_refused() {
    let secure = Secure::new();
    let port = secure.standin.endpoint();
    let port = port.rsplit(':').next().expect("a port");
    let error = secure
        .fetch(&[
            ("SSL_CERT_FILE", secure.path("ca/authority.pem")),
            ("HF_ENDPOINT", format!("https://[::ffff:127.0.0.1]:{port}")),
        ])
        .expect_err("not its name");
    assert!(matches!(error, HubError::Certificate { .. }), "{error:?}");
    assert!(secure.standin.requests().is_empty());
}

/// A proxy that connects every host to one port of this machine, with the first line of each request.
fn start_proxy(port: u16) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let log = Arc::clone(&log);
            thread::spawn(move || tunnel(stream, port, &log));
        }
    });
    (address, seen)
}

fn tunnel(client: TcpStream, port: u16, log: &Mutex<Vec<String>>) -> io::Result<()> {
    let mut lines = BufReader::new(client.try_clone()?).lines();
    let mut head = Vec::new();
    for line in lines.by_ref() {
        let line = line?;
        if line.is_empty() {
            break;
        }
        head.push(line);
    }
    log.lock().expect("no panic").push(head.join("\n"));
    let server = TcpStream::connect(("127.0.0.1", port))?;
    let mut back = client.try_clone()?;
    back.write_all(b"HTTP/1.1 200 connected\r\n\r\n")?;
    let (mut from_server, mut to_server) = (server.try_clone()?, server);
    let mut from_client = client;
    thread::spawn(move || io::copy(&mut from_server, &mut back));
    io::copy(&mut from_client, &mut to_server)?;
    Ok(())
}

#[test]
fn a_proxy_leads_to_the_hub_and_no_proxy_around_it() {
    let secure = Secure::new();
    let endpoint = secure.standin.endpoint();
    let port = endpoint.rsplit(':').next().expect("a port");
    let (proxy, seen) = start_proxy(port.parse().expect("a number"));
    let mut variables = vec![
        ("SSL_CERT_FILE", secure.path("ca/authority.pem")),
        ("HF_ENDPOINT", "https://hub.example".to_owned()),
        ("HF_TOKEN", "hf_CANARY".to_owned()),
        (
            "HTTPS_PROXY",
            proxy.replace("http://", "http://user:secret@"),
        ),
    ];
    assert_fetched(secure.fetch(&variables));
    let heads = seen.lock().expect("no panic").clone();
    assert!(!heads.is_empty());
    for head in heads {
        assert!(
            head.starts_with("CONNECT hub.example:443 HTTP/1.1"),
            "{head}"
        );
        assert!(!head.contains("CANARY"), "{head}");
        // `printf user:secret | base64`
        assert!(head.contains("Basic dXNlcjpzZWNyZXQ="), "{head}");
    }
    let requests = secure.standin.requests();
    assert!(requests.iter().all(|request| {
        request.header("authorization") == Some("Bearer hf_CANARY")
            && request.header("proxy-authorization").is_none()
    }));

    seen.lock().expect("no panic").clear();
    variables.push(("NO_PROXY", "example".to_owned()));
    variables.push(("HF_HUB_CACHE", secure.path("other")));
    let error = secure
        .fetch_with(&variables, 0)
        .expect_err("there is no such host");
    assert!(matches!(error, HubError::Transport { .. }), "{error:?}");
    assert!(!error.to_string().contains("secret"), "{error}");
    assert!(seen.lock().expect("no panic").is_empty());
}

//! Models by their names on the hub: a cache that Python filled, certificates of a network's own, short names.

use std::{ffi::OsStr, path::Path};

use hub::standin::{StandIn, StandInRepo};

use crate::sandbox::{Ended, Sandbox, model};

/// Embeddings of two texts by a model that is given by folder or name.
fn encode(sandbox: &Sandbox, model: &dyn AsRef<OsStr>, variables: &[(&str, &str)]) -> Ended {
    sandbox.write("texts.txt", "A harbour at night.\nTwo dogs.\n");
    let arguments: [&dyn AsRef<OsStr>; 7] = [
        &"encode",
        &"--model",
        &model,
        &"--input",
        &"texts.txt",
        &"--output",
        &"embeddings.npy",
    ];
    let mut command = sandbox.command(&arguments);
    command.env_remove("HF_HUB_OFFLINE");
    for proxy in ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"] {
        command.env_remove(proxy).env_remove(proxy.to_lowercase());
    }
    command.envs(variables.iter().copied());
    Ended::from(command.output().unwrap())
}

/// Checks that the last embeddings are those of the tiny model's own folder.
#[track_caller]
fn assert_encoded(sandbox: &Sandbox) {
    let found = fs_err::read(sandbox.path("embeddings.npy")).unwrap();
    encode(sandbox, &model(), &[]).ok();
    let expected = fs_err::read(sandbox.path("embeddings.npy")).unwrap();
    assert_eq!(expected.len(), 128 + 2 * 32 * 4);
    assert_eq!(found, expected);
}

/// Each file below a folder, by its path with slashes.
fn files(folder: &Path, prefix: &str) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs_err::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let name = format!("{prefix}{name}");
        if path.is_dir() {
            found.extend(files(&path, &format!("{name}/")));
        } else {
            found.push((name, fs_err::read(&path).unwrap()));
        }
    }
    found
}

/// Puts the tiny model's files in, all of them served by the hub itself.
fn fill(mut repo: StandInRepo<'_>) {
    for (name, content) in files(&model(), "") {
        repo = repo.small(&name, content);
    }
}

/// A cache as Python leaves it: blobs, links to them in a snapshot, and the commit of main.
#[cfg(unix)]
fn python_cache(sandbox: &Sandbox) {
    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
    let repo = sandbox.path("hub/hub/models--acme--tiny");
    for folder in ["blobs", "refs"] {
        fs_err::create_dir_all(repo.join(folder)).unwrap();
    }
    fs_err::write(repo.join("refs/main"), COMMIT).unwrap();
    for (i, (name, content)) in files(&model(), "").into_iter().enumerate() {
        let blob = repo.join(format!("blobs/{i:040x}"));
        fs_err::write(&blob, content).unwrap();
        let link = repo.join("snapshots").join(COMMIT).join(name);
        fs_err::create_dir_all(link.parent().unwrap()).unwrap();
        fs_err::os::unix::fs::symlink(blob, link).unwrap();
    }
}

#[cfg(unix)]
#[test]
fn a_cache_that_python_filled_serves_with_one_warning_where_the_hub_is_out_of_reach() {
    for endpoint in ["http://127.0.0.1:9", "http://no-such-host.invalid"] {
        let sandbox = Sandbox::new();
        python_cache(&sandbox);
        let ended = encode(&sandbox, &"acme/tiny", &[("HF_ENDPOINT", endpoint)]);
        let warnings: Vec<&str> = ended
            .stderr
            .lines()
            .filter(|line| line.to_lowercase().contains("warn"))
            .collect();
        assert!(
            matches!(warnings.as_slice(), [one] if one.contains("acme/tiny: using the cached commit 0123456789")),
            "{ended:?}"
        );
        ended.ok();
        assert_encoded(&sandbox);
    }
}

#[test]
fn an_authority_of_the_network_is_heeded_and_an_unknown_one_named() {
    let standin = StandIn::start_with_tls().unwrap();
    fill(standin.model("acme/tiny"));
    let sandbox = Sandbox::new();
    let authority = sandbox.write("authority.pem", standin.authority().unwrap());
    let endpoint = standin.endpoint();
    let endpoint = ("HF_ENDPOINT", endpoint.as_str());
    let ended = encode(&sandbox, &"acme/tiny", &[endpoint]);
    ended.failed(1, &["acme/tiny", "UnknownIssuer", "set SSL_CERT_FILE"]);
    assert!(standin.requests().is_empty());
    let authority = ("SSL_CERT_FILE", authority.to_str().unwrap());
    encode(&sandbox, &"acme/tiny", &[endpoint, authority]).ok();
    assert_encoded(&sandbox);
}

#[test]
fn a_short_name_is_one_of_sentence_transformers() {
    let standin = StandIn::start().unwrap();
    fill(standin.model("sentence-transformers/tiny"));
    let sandbox = Sandbox::new();
    let endpoint = standin.endpoint();
    let ended = encode(&sandbox, &"tiny", &[("HF_ENDPOINT", endpoint.as_str())]);
    assert!(
        ended
            .stderr
            .contains("model `tiny` is sentence-transformers/tiny on the hub"),
        "{ended:?}"
    );
    ended.ok();
    assert_encoded(&sandbox);
}

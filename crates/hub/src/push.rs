//! A model from a folder to the hub: one commit, which is there whole or not at all.
//!
//! The hub's own protocol: create the repository, ask which files are large (preupload), bring those to the storage
//! that the LFS batch names, then one commit of all files on top of the head. Large files that the storage has
//! already are not sent again, so a push that broke off goes on with the file at which it stopped. Where the answer
//! to the commit is lost, the head tells whether it was made.
//!
//! Source: `huggingface_hub` 2.4.0, `_commit_api.py`, `lfs.py` and `hf_api.py`.

use std::{
    collections::BTreeMap,
    io::Read,
    path::{Path, PathBuf},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use hf_hub::RepoType;
use serde::Deserialize;
use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use ureq::http::header::{self, HeaderName};

use crate::{
    cache::RepoFolder,
    client::{Client, Subject},
    config::HubConfig,
    error::HubError,
    listing::Listing,
    name::{RepoId, check_portable},
    request::{CHUNK, Payload, Sending},
    retry::{Failure, Retries},
    watcher::Watcher,
};

/// The most files of one question to the hub.
const MOST_FILES: usize = 256;

/// Bytes of a file by which the hub tells text from binary.
const SAMPLE: usize = 512;

/// The most parts of one upload; the storage has this limit too.
const MOST_PARTS: u64 = 10_000;

const LFS_JSON: &str = "application/vnd.git-lfs+json";

/// A file to push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushFile {
    /// Its path in the repository, with slashes.
    pub name: String,
    /// Its place on the disk.
    pub path: PathBuf,
}

impl PushFile {
    /// All files below a folder, in order of their names; those whose name begins with a dot are left out.
    ///
    /// # Errors
    /// Where the folder can't be read, or a name is not UTF-8.
    pub fn below(folder: &Path) -> Result<Vec<Self>, HubError> {
        let mut files = Vec::new();
        collect(folder, "", &mut files)?;
        files.sort_by(|a: &Self, b: &Self| a.name.cmp(&b.name));
        Ok(files)
    }
}

fn collect(folder: &Path, prefix: &str, files: &mut Vec<PushFile>) -> Result<(), HubError> {
    for entry in fs_err::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| HubError::Name {
            what: "file to push",
            name: path.display().to_string(),
            rule: "is not UTF-8".into(),
        })?;
        if name.starts_with('.') {
            continue;
        }
        let name = format!("{prefix}{name}");
        if fs_err::metadata(&path)?.is_dir() {
            collect(&path, &format!("{name}/"), files)?;
        } else {
            files.push(PushFile { name, path });
        }
    }
    Ok(())
}

/// Options of a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushOptions {
    /// Whether a repository that is created is private; none leaves it to the account's default. One that is there
    /// keeps what it is.
    pub is_private: Option<bool>,
    /// The first line of the commit's message.
    pub summary: String,
}

/// The end of a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// The repository and revision.
    pub repo: RepoId,
    /// The page of the repository.
    pub url: String,
    /// The commit that has the files.
    pub commit: String,
    /// Files of the commit; 0 where the hub had all of them already.
    pub n_files: usize,
}

/// The repository to push to: `org/name`, or `name` alone for one of the token's own account, each with `@revision`
/// for another branch than `main`. Asks the hub whose token it is, so that a token that is not valid is found out
/// before there is anything to push.
///
/// # Errors
/// [`HubError::Name`]; [`HubError::Setting`] where there is no token or the configuration is offline;
/// [`HubError::Unauthorized`] where the hub does not know the token; those of the connection.
pub fn destination(
    config: &HubConfig,
    name: &str,
    watcher: &mut dyn Watcher,
) -> Result<RepoId, HubError> {
    let setting = |name: &str, reason: &str| HubError::Setting {
        name: name.to_owned(),
        reason: reason.to_owned(),
    };
    if config.offline {
        let reason = "set, so nothing can be pushed: unset it";
        return Err(setting("HF_HUB_OFFLINE", reason));
    }
    if config.token.is_none() {
        let reason = "not set: pushing takes a token with the right to write";
        return Err(setting("HF_TOKEN", reason));
    }
    // Judges the name before the hub is asked.
    let judged = match name.contains('/') {
        true => RepoId::parse(name)?,
        false => RepoId::parse(&format!("user/{name}"))?,
    };
    let client = Client::new(config)?;
    let repo = RepoFolder::new(config, RepoType::Model, &judged);
    let url = format!("{}/api/whoami-v2", config.endpoint);
    let (retries, subject) = (Retries::new(config), Subject::writing(&repo, None));
    let account: Account = parse(&url, &client.get(&url, retries, &subject, watcher)?)?;
    if name.contains('/') {
        return Ok(judged);
    }
    RepoId::parse(&format!("{}/{name}", account.name))
}

/// Pushes files to a model repository in one commit; creates the repository where it is not there. Files of the
/// repository that have none of these names stay.
///
/// # Errors
/// Every [`HubError`] but those of data sets. After an error, the repository has either all of the files or none;
/// pushing again goes on.
pub fn push_model(
    config: &HubConfig,
    id: &RepoId,
    files: &[PushFile],
    options: &PushOptions,
    watcher: &mut dyn Watcher,
) -> Result<Pushed, HubError> {
    for file in files {
        check_portable(&file.name)?;
    }
    let client = Client::new(config)?;
    let repo = RepoFolder::new(config, RepoType::Model, id);
    let local = files
        .iter()
        .map(|file| LocalFile::read(file, watcher))
        .collect::<Result<Vec<_>, _>>()?;

    client.create(&repo, id, options.is_private, watcher)?;
    let mut head = client.listing(&repo, Retries::new(config), watcher)?;
    let changed: Vec<&LocalFile> = local.iter().filter(|file| !file.is_in(&head)).collect();
    let pushed = |commit: String, n_files| Pushed {
        repo: id.clone(),
        url: format!("{}/{}", config.endpoint, id.id()),
        commit,
        n_files,
    };
    if changed.is_empty() {
        return Ok(pushed(head.commit, 0));
    }
    let upload = Upload {
        client: &client,
        repo: &repo,
    };
    let kinds = upload.kinds(&changed, watcher)?;
    let wanted: Vec<&LocalFile> = changed
        .into_iter()
        .filter(|file| kinds.get(&file.name) != Some(&Kind::Ignored))
        .collect();
    let is_large = |file: &LocalFile| kinds.get(&file.name) == Some(&Kind::Large);
    let large: Vec<&LocalFile> = wanted
        .iter()
        .copied()
        .filter(|file| is_large(file))
        .collect();
    for files in large.chunks(MOST_FILES) {
        upload.store(files, watcher)?;
    }

    let mut retries = Retries::new(config);
    loop {
        let body = commit_lines(&head.commit, &options.summary, &wanted, is_large)?;
        let failure = match upload.commit(&body, watcher) {
            Ok(commit) => return Ok(pushed(commit, wanted.len())),
            Err(failure) => failure,
        };
        let error = match failure {
            // Another commit came first, or another one is being made.
            Failure::Final(error) if matches!(error.status(), Some(409 | 412)) => {
                Failure::may_pass(error)
            }
            failure => failure,
        };
        if let Failure::Final(error) = error {
            return Err(error);
        }
        // The answer may be lost and the commit made.
        head = client.listing(&repo, Retries::new(config), watcher)?;
        if wanted.iter().all(|file| file.is_in(&head)) {
            return Ok(pushed(head.commit, wanted.len()));
        }
        retries.wait(error, watcher)?;
        // It may have been made during the pause, too.
        head = client.listing(&repo, Retries::new(config), watcher)?;
        if wanted.iter().all(|file| file.is_in(&head)) {
            return Ok(pushed(head.commit, wanted.len()));
        }
    }
}

/// A file to push, hashed.
struct LocalFile {
    name: String,
    path: PathBuf,
    size: u64,
    sha256: String,
    git_sha1: String,
    sample: Vec<u8>,
}

impl LocalFile {
    fn read(file: &PushFile, watcher: &mut dyn Watcher) -> Result<Self, HubError> {
        let mut content = fs_err::File::open(&file.path)?;
        let size = content.metadata()?.len();
        let mut sha256 = Sha256::new();
        let mut sha1 = Sha1::new_with_prefix(format!("blob {size}\0"));
        let mut sample = Vec::new();
        let mut chunk = vec![0; CHUNK];
        let mut n_read = 0;
        loop {
            if watcher.interrupted() {
                return Err(HubError::Interrupted);
            }
            let n = content.read(&mut chunk)?;
            if n == 0 {
                break;
            }
            let bytes = &chunk[..n];
            sha256.update(bytes);
            sha1.update(bytes);
            let missing = SAMPLE - sample.len();
            sample.extend_from_slice(&bytes[..missing.min(n)]);
            n_read += n as u64;
        }
        if n_read != size {
            return Err(HubError::Length {
                file: file.name.clone(),
                expected: size,
                found: n_read,
            });
        }
        Ok(Self {
            name: file.name.clone(),
            path: file.path.clone(),
            size,
            sha256: hex::encode(sha256.finalize()),
            git_sha1: hex::encode(sha1.finalize()),
            sample,
        })
    }

    /// Whether the listing has the file with this content.
    fn is_in(&self, listing: &Listing) -> bool {
        listing.get(&self.name).is_some_and(|entry| {
            entry.sha256.as_ref() == Some(&self.sha256)
                || entry.git_sha1.as_ref() == Some(&self.git_sha1)
        })
    }
}

/// The way that a file takes to the hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Within the commit.
    Small,
    /// Through the storage.
    Large,
    /// Not at all, by the repository's `.gitignore`.
    Ignored,
}

impl Client<'_> {
    fn create(
        &self,
        repo: &RepoFolder,
        id: &RepoId,
        is_private: Option<bool>,
        watcher: &mut dyn Watcher,
    ) -> Result<(), HubError> {
        let url = format!("{}/api/repos/create", self.config.endpoint);
        let (organisation, name) = id.id().split_once('/').unwrap_or(("", id.id()));
        let mut request = json!({"name": name, "organization": organisation, "type": "model"});
        if let Some(is_private) = is_private {
            request["visibility"] = if is_private { "private" } else { "public" }.into();
        }
        let subject = Subject::writing(repo, None);
        let mut retries = Retries::new(self.config);
        loop {
            let headers = [(header::CONTENT_TYPE, "application/json")];
            let body = request.to_string();
            let failure = match self.post(&url, &headers, body.as_bytes(), &subject, watcher) {
                Ok(_) => return Ok(()),
                Err(Failure::Final(error)) if error.status() == Some(409) => {
                    if !error.to_string().contains("conflicting operation") {
                        // It is there.
                        return Ok(());
                    }
                    Failure::may_pass(error)
                }
                // The hub lets some accounts write to a repository, and not make one.
                Err(Failure::Final(HubError::Forbidden { .. }))
                    if self.is_there(repo, watcher)? =>
                {
                    return Ok(());
                }
                Err(failure) => failure,
            };
            retries.wait(failure, watcher)?;
        }
    }

    fn is_there(&self, repo: &RepoFolder, watcher: &mut dyn Watcher) -> Result<bool, HubError> {
        match self.listing(repo, Retries::new(self.config), watcher) {
            Ok(_) => Ok(true),
            Err(HubError::Interrupted) => Err(HubError::Interrupted),
            Err(_) => Ok(false),
        }
    }
}

/// The requests of one push after the repository is there.
struct Upload<'a> {
    client: &'a Client<'a>,
    repo: &'a RepoFolder,
}

impl Upload<'_> {
    /// Asks the hub which files are large, by their first bytes.
    fn kinds(
        &self,
        files: &[&LocalFile],
        watcher: &mut dyn Watcher,
    ) -> Result<BTreeMap<String, Kind>, HubError> {
        let url = self.url("preupload");
        let mut kinds = BTreeMap::new();
        for files in files.chunks(MOST_FILES) {
            let asked: Vec<Value> = files
                .iter()
                .map(|file| {
                    let sample = BASE64_STANDARD.encode(&file.sample);
                    json!({"path": file.name, "sample": sample, "size": file.size})
                })
                .collect();
            let headers = [(header::CONTENT_TYPE, "application/json")];
            let body = json!({"files": asked}).to_string();
            let answer = self.post(&url, &headers, body.as_bytes(), watcher)?;
            let answer: Preupload = parse(&url, &answer)?;
            for file in answer.files {
                let kind = match (file.should_ignore, file.upload_mode.as_str()) {
                    (true, _) => Kind::Ignored,
                    (false, "lfs") => Kind::Large,
                    (false, "regular") => Kind::Small,
                    (false, mode) => {
                        let reason =
                            format!("{}: unknown way to upload {:?}", file.path, shown(mode));
                        return Err(protocol(&url, reason));
                    }
                };
                kinds.insert(file.path, kind);
            }
            for file in files {
                let Some(kind) = kinds.get_mut(&file.name) else {
                    return Err(protocol(&url, format!("no word about {}", file.name)));
                };
                // The storage takes no empty files.
                if file.size == 0 && *kind == Kind::Large {
                    *kind = Kind::Small;
                }
                if *kind == Kind::Ignored {
                    tracing::info!("{}: left out, by the repository's .gitignore", file.name);
                }
            }
        }
        Ok(kinds)
    }

    /// Brings large files to the storage, where it lacks them. A link that grew old, or a part that went wrong, is
    /// asked for again.
    fn store(&self, files: &[&LocalFile], watcher: &mut dyn Watcher) -> Result<(), HubError> {
        let mut retries = Retries::new(self.client.config);
        let mut left: Vec<&LocalFile> = files.to_vec();
        loop {
            let actions = self.batch(&left, watcher)?;
            let mut failed = None;
            let mut still_left = Vec::new();
            for file in left {
                let Some(Some(actions)) = actions.get(&file.sha256) else {
                    // The storage has it.
                    watcher.progress(&file.name, file.size, file.size);
                    continue;
                };
                match self.store_one(file, actions, watcher) {
                    Ok(()) => retries.reset(),
                    Err(Failure::Final(error)) => return Err(error),
                    Err(failure) => {
                        failed = Some(failure);
                        still_left.push(file);
                    }
                }
            }
            match failed {
                None => return Ok(()),
                Some(failure) => retries.wait(failure, watcher)?,
            }
            left = still_left;
        }
    }

    /// The actions that the storage asks for, by sha256; none for an object that it has.
    fn batch(
        &self,
        files: &[&LocalFile],
        watcher: &mut dyn Watcher,
    ) -> Result<BTreeMap<String, Option<Actions>>, HubError> {
        let config = self.client.config;
        let url = format!(
            "{}/{}.git/info/lfs/objects/batch",
            config.endpoint,
            self.repo.url_path()
        );
        let objects: Vec<Value> = files
            .iter()
            .map(|file| json!({"oid": file.sha256, "size": file.size}))
            .collect();
        let request = json!({
            "operation": "upload",
            "transfers": ["basic", "multipart"],
            "objects": objects,
            "hash_algo": "sha256",
            "ref": {"name": self.repo.revision()},
        });
        let headers = [(header::ACCEPT, LFS_JSON), (header::CONTENT_TYPE, LFS_JSON)];
        let answer = self.post(&url, &headers, request.to_string().as_bytes(), watcher)?;
        let answer: Batch = parse(&url, &answer)?;
        let mut actions = BTreeMap::new();
        for object in answer.objects {
            if let Some(error) = object.error {
                let reason = format!("the storage refuses an object: {}", shown(&error.message));
                return Err(protocol(&url, reason));
            }
            actions.insert(object.oid, object.actions);
        }
        for file in files {
            if !actions.contains_key(&file.sha256) {
                return Err(protocol(&url, format!("no word about {}", file.name)));
            }
        }
        Ok(actions)
    }

    /// Sends one file, whole or in parts, and has it verified.
    fn store_one(
        &self,
        file: &LocalFile,
        actions: &Actions,
        watcher: &mut dyn Watcher,
    ) -> Result<(), Failure> {
        let subject = Subject::writing(self.repo, Some(&file.name));
        let upload = &actions.upload;
        match upload.header.get("chunk_size") {
            None => {
                self.put(file, &upload.href, 0, file.size, watcher)?;
            }
            Some(size) => {
                let urls = part_urls(file, size, &upload.header)
                    .map_err(|reason| Failure::Final(protocol(&file.name, reason)))?;
                let mut parts = Vec::new();
                for (i, (start, len, url)) in urls.into_iter().enumerate() {
                    let etag = self.put(file, url, start, len, watcher)?;
                    let etag = etag.filter(|etag| !etag.is_empty()).ok_or_else(|| {
                        let reason = format!("the storage gives part {} no ETag", i + 1);
                        Failure::may_pass(protocol(&file.name, reason))
                    })?;
                    parts.push(json!({"partNumber": i + 1, "etag": etag}));
                }
                let body = json!({"oid": file.sha256, "parts": parts}).to_string();
                let headers = [(header::ACCEPT, LFS_JSON), (header::CONTENT_TYPE, LFS_JSON)];
                let (url, body) = (&upload.href, body.as_bytes());
                self.client.post(url, &headers, body, &subject, watcher)?;
            }
        }
        if let Some(verify) = &actions.verify {
            let body = json!({"oid": file.sha256, "size": file.size}).to_string();
            let headers = [(header::CONTENT_TYPE, "application/json")];
            let (url, body) = (&verify.href, body.as_bytes());
            self.client.post(url, &headers, body, &subject, watcher)?;
        }
        Ok(())
    }

    // One PUT, tried again where the server fails.
    fn put(
        &self,
        file: &LocalFile,
        url: &str,
        start: u64,
        len: u64,
        watcher: &mut dyn Watcher,
    ) -> Result<Option<String>, Failure> {
        let subject = Subject::writing(self.repo, Some(&file.name));
        let sending = Sending {
            file: &file.name,
            start,
            total: file.size,
        };
        let mut retries = Retries::new(self.client.config);
        loop {
            watcher.progress(&file.name, start, file.size);
            let payload = Payload::Slice {
                path: file.path.clone(),
                start,
                len,
            };
            match self.client.put(url, payload, &sending, &subject, watcher) {
                Err(Failure::MayPass { error, after })
                    if error.status().is_none_or(|status| status >= 500) =>
                {
                    let failure = Failure::MayPass { error, after };
                    retries.wait(failure, watcher).map_err(Failure::Final)?;
                }
                sent => return sent,
            }
        }
    }

    /// One commit; its hash.
    fn commit(&self, body: &[u8], watcher: &mut dyn Watcher) -> Result<String, Failure> {
        let url = self.url("commit");
        let headers = [(header::CONTENT_TYPE, "application/x-ndjson")];
        let subject = Subject::writing(self.repo, None);
        let answer = self.client.post(&url, &headers, body, &subject, watcher)?;
        // An answer that can't be read may belong to a commit that was made.
        let committed: Committed = parse(&url, &answer).map_err(Failure::may_pass)?;
        Ok(committed.commit_oid)
    }

    // A question that changes nothing, so it may be asked again.
    fn post(
        &self,
        url: &str,
        headers: &[(HeaderName, &str)],
        body: &[u8],
        watcher: &mut dyn Watcher,
    ) -> Result<Vec<u8>, HubError> {
        let subject = Subject::writing(self.repo, None);
        let mut retries = Retries::new(self.client.config);
        loop {
            match self.client.post(url, headers, body, &subject, watcher) {
                Ok(answer) => return Ok(answer),
                Err(failure) => retries.wait(failure, watcher)?,
            }
        }
    }

    fn url(&self, verb: &str) -> String {
        let endpoint = &self.client.config.endpoint;
        let revision = self.repo.revision().replace('/', "%2F");
        format!(
            "{endpoint}/api/models/{}/{verb}/{revision}",
            self.repo.url_path()
        )
    }
}

/// Start, length and address of each part of an upload.
fn part_urls<'a>(
    file: &LocalFile,
    chunk_size: &Value,
    header: &'a BTreeMap<String, Value>,
) -> Result<Vec<(u64, u64, &'a str)>, String> {
    let size = match chunk_size {
        Value::String(text) => text.parse().ok(),
        other => other.as_u64(),
    };
    let size = size.filter(|size: &u64| *size > 0);
    let size = size.ok_or("the storage gives a size of parts that is no number")?;
    let n_parts = file.size.div_ceil(size);
    let n_given = header.keys().filter(|key| key.parse::<u64>().is_ok());
    if n_parts > MOST_PARTS || n_given.count() as u64 != n_parts {
        return Err(format!(
            "the storage gives no address for each of {n_parts} parts"
        ));
    }
    let part = |i: u64| {
        // Written with leading zeros, too.
        let url = header
            .iter()
            .find(|(key, _)| key.parse() == Ok(i + 1))
            .and_then(|(_, url)| url.as_str());
        let url = url.ok_or_else(|| format!("the storage gives no address for part {}", i + 1))?;
        Ok((i * size, size.min(file.size - i * size), url))
    };
    (0..n_parts).map(part).collect()
}

/// The lines of a commit: its header, then one for each file.
fn commit_lines(
    parent: &str,
    summary: &str,
    files: &[&LocalFile],
    is_large: impl Fn(&LocalFile) -> bool,
) -> Result<Vec<u8>, HubError> {
    let mut body = String::new();
    let mut line = |key: &str, value: Value| {
        body += &json!({"key": key, "value": value}).to_string();
        body.push('\n');
    };
    line(
        "header",
        json!({"summary": summary, "description": "", "parentCommit": parent}),
    );
    for file in files {
        if is_large(file) {
            line(
                "lfsFile",
                json!({"path": file.name, "algo": "sha256", "oid": file.sha256, "size": file.size}),
            );
            continue;
        }
        let content = BASE64_STANDARD.encode(fs_err::read(&file.path)?);
        line(
            "file",
            json!({"content": content, "path": file.name, "encoding": "base64"}),
        );
    }
    Ok(body.into_bytes())
}

fn parse<T: for<'de> Deserialize<'de>>(url: &str, body: &[u8]) -> Result<T, HubError> {
    serde_json::from_slice(body)
        .map_err(|error| protocol(url, format!("the answer can't be read: {error}")))
}

fn protocol(url: &str, reason: String) -> HubError {
    HubError::Protocol {
        url: url.to_owned(),
        reason,
    }
}

/// Words of the hub as a message may show them.
fn shown(words: &str) -> String {
    words
        .chars()
        .filter(|c| !c.is_control())
        .take(200)
        .collect()
}

#[derive(Deserialize)]
struct Account {
    name: String,
}

#[derive(Deserialize)]
struct Preupload {
    files: Vec<PreuploadFile>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PreuploadFile {
    path: String,
    upload_mode: String,
    #[serde(default)]
    should_ignore: bool,
}

#[derive(Deserialize)]
struct Batch {
    objects: Vec<Object>,
}

#[derive(Deserialize)]
struct Object {
    oid: String,
    actions: Option<Actions>,
    error: Option<ObjectError>,
}

#[derive(Deserialize)]
struct ObjectError {
    message: String,
}

#[derive(Deserialize)]
struct Actions {
    upload: Action,
    verify: Option<Action>,
}

#[derive(Deserialize)]
struct Action {
    href: String,
    #[serde(default)]
    header: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Committed {
    commit_oid: String,
}

//! The routes by which models are pushed: create, preupload, LFS batch and storage, commit.

use std::{collections::BTreeMap, str};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use super::state::{Content, Recorded, Reply, Repo, Server, State, StoredFile, git_sha1, sha256};

/// Files whose name ends so are large, whatever their size.
const LARGE: [&str; 3] = [".safetensors", ".bin", ".parquet"];

/// The answer to a POST or PUT, which takes effect; none for a path that is no such route.
pub(super) fn reply(content: &mut Content, request: &Recorded, state: &State) -> Option<Reply> {
    let path = request.path.split('?').next().unwrap_or_default();
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match (request.server, request.method.as_str(), parts.as_slice()) {
        (Server::Storage, "PUT", ["upload", oid]) => Some(store(content, oid, &request.body)),
        (Server::Storage, "PUT", ["upload", oid, part]) => {
            let etag = format!("\"{}\"", git_sha1(&request.body));
            let part = part.parse().ok()?;
            let parts = &mut content.bucket.parts;
            parts.insert(((*oid).to_owned(), part), request.body.clone());
            Some(Reply::new(200, &[("etag", &etag)], ""))
        }
        (Server::Hub, "POST", route) => {
            let body = serde_json::from_slice(&request.body).unwrap_or(Value::Null);
            match *route {
                ["api", "repos", "create"] => Some(create(content, &body, state)),
                // Python's client asks it about each model card.
                ["api", "validate-yaml"] => Some(ok(&json!({"errors": [], "warnings": []}))),
                ["api", "complete", oid] => Some(complete(content, oid, &body)),
                ["api", "models", org, name, "preupload", "main"] => {
                    let repo = content.repos.get(&format!("models/{org}/{name}"));
                    repo.map(|_| preupload(&body))
                }
                ["api", "models", org, name, "commit", "main"] => {
                    let key = format!("models/{org}/{name}");
                    Some(commit(content, &key, &request.body, state))
                }
                [_, _, "info", "lfs", "objects", "batch"] => {
                    Some(batch(content, &body, path, state))
                }
                [_, _, "info", "lfs", "objects", "verify"] => Some(verify(content, &body)),
                _ => None,
            }
        }
        _ => None,
    }
}

fn ok(body: &Value) -> Reply {
    let headers = [("content-type", "application/json")];
    Reply::new(200, &headers, body.to_string())
}

fn refused(status: u16, words: &str) -> Reply {
    let body = json!({"error": words}).to_string();
    Reply::new(status, &[("x-error-message", words)], body)
}

fn create(content: &mut Content, body: &Value, state: &State) -> Reply {
    let text = |key: &str| body[key].as_str().unwrap_or_default();
    let id = format!("{}/{}", text("organization"), text("name"));
    let key = format!("models/{id}");
    if content.repos.contains_key(&key) {
        return refused(409, "You already created this model repo");
    }
    let mut repo = Repo::new();
    repo.is_private = text("visibility") == "private";
    content.repos.insert(key, repo);
    ok(&json!({"url": format!("{}/{id}", state.hub_url())}))
}

fn preupload(body: &Value) -> Reply {
    let files = body["files"].as_array().cloned().unwrap_or_default();
    let answer = files.iter().map(|file| {
        let path = file["path"].as_str().unwrap_or_default();
        let sample = BASE64_STANDARD.decode(file["sample"].as_str().unwrap_or_default());
        let is_text = sample.is_ok_and(|sample| str::from_utf8(&sample).is_ok());
        let is_large = LARGE.iter().any(|end| path.ends_with(end)) || !is_text;
        let mode = if is_large { "lfs" } else { "regular" };
        json!({"path": path, "uploadMode": mode, "shouldIgnore": path.ends_with(".ignored")})
    });
    ok(&json!({"files": answer.collect::<Vec<_>>()}))
}

fn batch(content: &Content, body: &Value, path: &str, state: &State) -> Reply {
    let storage = state.storage_url();
    let hub = state.hub_url();
    let objects = body["objects"].as_array().cloned().unwrap_or_default();
    let answer = objects.iter().map(|object| {
        let oid = object["oid"].as_str().unwrap_or_default();
        let size = object["size"].as_u64().unwrap_or(0) as usize;
        if content.bucket.objects.contains_key(oid) {
            return json!({"oid": oid, "size": size});
        }
        let part_size = content.bucket.part_size;
        let link = |end: &str| format!("{storage}/upload/{oid}{end}?signature=secret");
        let upload = if size > part_size {
            let mut header = json!({"chunk_size": part_size.to_string()});
            for part in 1..=size.div_ceil(part_size) {
                header[format!("{part:05}")] = link(&format!("/{part}")).into();
            }
            json!({"href": format!("{hub}/api/complete/{oid}"), "header": header})
        } else {
            json!({"href": link("")})
        };
        let verify = path.replace("/batch", "/verify");
        let verify = json!({"href": format!("{hub}{verify}")});
        json!({"oid": oid, "size": size, "actions": {"upload": upload, "verify": verify}})
    });
    ok(&json!({"transfer": "basic", "objects": answer.collect::<Vec<_>>()}))
}

fn store(content: &mut Content, oid: &str, body: &[u8]) -> Reply {
    if sha256(body) != oid {
        return refused(400, "BadDigest");
    }
    content.bucket.objects.insert(oid.to_owned(), body.to_vec());
    Reply::new(200, &[("etag", "\"storage-2\"")], "")
}

fn complete(content: &mut Content, oid: &str, body: &Value) -> Reply {
    let parts = body["parts"].as_array().cloned().unwrap_or_default();
    let mut whole = Vec::new();
    for part in &parts {
        let number = part["partNumber"].as_u64().unwrap_or(0) as usize;
        let Some(bytes) = content.bucket.parts.get(&(oid.to_owned(), number)) else {
            return refused(400, "InvalidPart");
        };
        if part["etag"].as_str() != Some(&format!("\"{}\"", git_sha1(bytes))) {
            return refused(400, "InvalidPart");
        }
        whole.extend_from_slice(bytes);
    }
    content.bucket.parts.retain(|(of, _), _| of != oid);
    store(content, oid, &whole)
}

fn verify(content: &Content, body: &Value) -> Reply {
    let object = content
        .bucket
        .objects
        .get(body["oid"].as_str().unwrap_or_default());
    match object {
        Some(object) if body["size"].as_u64() == Some(object.len() as u64) => ok(&json!({})),
        _ => refused(404, "object not found"),
    }
}

/// One commit: all of its files, or none.
fn commit(content: &mut Content, key: &str, body: &[u8], state: &State) -> Reply {
    let Content { repos, bucket, .. } = content;
    let Some(repo) = repos.get_mut(key) else {
        return Reply::error(404, "RepoNotFound");
    };
    let mut files = BTreeMap::new();
    for line in body
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        let Ok(line) = serde_json::from_slice::<Value>(line) else {
            return refused(400, "a line is no JSON");
        };
        let value = &line["value"];
        let text = |key: &str| value[key].as_str().unwrap_or_default();
        let (content, is_large) = match line["key"].as_str() {
            Some("header") => {
                // Python's client leaves it out where its user does.
                let parent = value["parentCommit"].as_str();
                if parent.is_some_and(|parent| parent != repo.commit) {
                    return refused(
                        412,
                        "A commit has happened since. Please refresh and try again.",
                    );
                }
                continue;
            }
            Some("file") => match BASE64_STANDARD.decode(text("content")) {
                Ok(content) => (content, false),
                Err(_) => return refused(400, "not base64"),
            },
            Some("lfsFile") => match bucket.objects.get(text("oid")) {
                Some(object) => (object.clone(), true),
                None => return refused(400, "an object is not in the storage"),
            },
            _ => return refused(400, "unknown line"),
        };
        files.insert(text("path").to_owned(), StoredFile { content, is_large });
    }
    repo.files.extend(files);
    repo.commit = git_sha1(&[repo.commit.as_bytes(), body].concat());
    repo.n_commits += 1;
    let url = format!("{}/{key}/commit/{}", state.hub_url(), repo.commit);
    ok(&json!({"commitUrl": url, "commitOid": repo.commit}))
}

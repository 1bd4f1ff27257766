//! Malicious answers of a hub.

use std::fs;

use hub::standin::{Fault, Server};
use serde_json::json;
use tempfile::TempDir;

use crate::support::{World, message};

const COMMIT: &str = "2222222222222222222222222222222222222222";

fn listing(names: &[&str]) -> Fault {
    let siblings: Vec<_> = names
        .iter()
        .map(|name| json!({"rfilename": name, "size": 2}))
        .collect();
    Fault::Body(
        json!({"sha": COMMIT, "siblings": siblings})
            .to_string()
            .into_bytes(),
    )
}

#[test]
fn hostile_file_names_spoil_the_listing() {
    let long_part = "x".repeat(256);
    let long = ["x"; 600].join("/");
    let names = [
        "",
        ".",
        "..",
        "/",
        "../x",
        "../../../../etc/passwd",
        "a/../../x",
        "a/..",
        "a/./b",
        "./a",
        "a//b",
        "/etc/passwd",
        "//server/share",
        "\\\\server\\share",
        "a\\b",
        "..\\x",
        "C:\\x",
        "C:/x",
        "c:x",
        "a/",
        "a\0b",
        "a\nb",
        "a\u{1b}[2Jb",
        "a\rb",
        "a\u{7f}b",
        "a\u{85}b",
        "a\u{202e}b",
        "a\u{200b}b",
        "a\u{feff}b",
        "a\u{2028}b",
        &long_part,
        &long,
    ];
    for name in names {
        let world = World::new();
        world.standin.fail(
            Server::Hub,
            "/api/",
            1,
            listing(&["config.json", "tokenizer.json", name]),
        );
        let error = message(world.model());
        assert!(
            error.starts_with("file in the repository"),
            "{name:?}: {error}"
        );
        assert!(!error.chars().any(char::is_control), "{name:?}: {error:?}");
        assert_eq!(world.cached_files(), Vec::<String>::new(), "{name:?}");
    }
}

#[test]
fn names_that_some_system_cannot_store_spoil_only_what_needs_them() {
    let world = World::new();
    world
        .standin
        .model("org/base")
        .small("runs/12:30:00/events", "x")
        .small("aux.json", "x")
        .small("a?", "x");
    world.model().expect("nothing of it is fetched");

    for path in [
        "con",
        "1_Pooling/nul",
        "a:b",
        "x.",
        "x ",
        "a*b",
        "<x>",
        "com1",
    ] {
        let world = World::new();
        let modules = json!([{"path": ""}, {"path": path}]).to_string();
        world
            .standin
            .model("org/base")
            .small("modules.json", modules);
        let error = message(world.model());
        assert!(
            error.starts_with("file in the repository"),
            "{path}: {error}"
        );
    }
}

#[test]
fn module_paths_stay_inside() {
    for path in [
        "..",
        "../..",
        "/etc",
        "a/../../b",
        "C:\\x",
        "a\\b",
        "./a",
        "a//b",
    ] {
        let world = World::new();
        let modules = json!([{"path": ""}, {"path": path}]).to_string();
        world
            .standin
            .model("org/base")
            .small("modules.json", modules);
        let error = message(world.model());
        assert!(
            error.starts_with("file in the repository"),
            "{path}: {error}"
        );
    }
}

#[test]
fn shards_stay_inside_and_are_safetensors() {
    for (shard, words) in [
        ("../model-1.safetensors", "part"),
        ("/etc/model.safetensors", "absolute"),
        ("a\\b.safetensors", "backslash"),
        ("pytorch_model.bin", "only safetensors"),
        ("missing.safetensors", "missing.safetensors is missing"),
    ] {
        let world = World::new();
        let index = json!({"weight_map": {"a": shard}}).to_string();
        world
            .standin
            .model("org/base")
            .remove("model.safetensors")
            .small("model.safetensors.index.json", index);
        let error = message(world.model());
        assert!(error.contains(words), "{shard}: {error}");
    }
}

#[test]
fn names_that_differ_in_case_are_refused() {
    let world = World::new();
    world.standin.model("org/base").small("Config.json", "{}");
    let error = message(world.model());
    assert!(error.contains("only in case"), "{error}");
}

#[test]
fn a_listing_that_is_none_says_so() {
    let bodies: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"<html>".to_vec(),
        b"[]".to_vec(),
        b"{\"sha\": 1}".to_vec(),
        b"{\"sha\": \"../../x\", \"siblings\": []}".to_vec(),
        b"{\"sha\": \"main\", \"siblings\": []}".to_vec(),
        json!({"sha": COMMIT, "siblings": [{"rfilename": "a"}, {"rfilename": "a"}]})
            .to_string()
            .into(),
        json!({"sha": COMMIT, "siblings": [{"rfilename": "a", "size": -1}]})
            .to_string()
            .into(),
        "[".repeat(200_000).into(),
        vec![0xff; 100],
    ];
    for body in bodies {
        let world = World::new();
        world
            .standin
            .fail(Server::Hub, "/api/", 1, Fault::Body(body.clone()));
        let error = message(world.model());
        assert!(
            error.contains("does not behave like"),
            "{:?}: {error}",
            &body[..body.len().min(40)]
        );
        assert_eq!(world.cached_files(), Vec::<String>::new());
    }
}

#[test]
fn headers_that_would_name_a_path_are_refused() {
    let etags = [
        "../../x",
        "/etc/passwd",
        "a/b",
        ".",
        ".hidden",
        "a b",
        "a\\b",
        "",
    ];
    for etag in etags {
        let world = World::new();
        // Without hashes in the listing, the blob takes the ETag for its name.
        world.standin.fail(
            Server::Hub,
            "/api/",
            1,
            listing(&["config.json", "tokenizer.json", "model.safetensors"]),
        );
        let fault = Fault::Headers(vec![
            ("etag".into(), format!("\"{etag}\"")),
            ("x-repo-commit".into(), COMMIT.into()),
        ]);
        world
            .standin
            .fail(Server::Hub, "HEAD", 9, Fault::Status(404, vec![]));
        let error = message(world.model());
        assert!(error.contains("not found"), "{error}");

        let world = World::new();
        world.standin.fail(Server::Hub, "HEAD", 9, fault);
        let error = message(world.model());
        assert!(
            error.contains("ETag is no name") || error.contains("X-Repo-Commit"),
            "{etag}: {error}"
        );
        world.assert_clean();
    }
    for commit in [
        "../../x",
        "main",
        "",
        "2222222222222222222222222222222222222222",
    ] {
        let world = World::new();
        let fault = Fault::Headers(vec![("x-repo-commit".into(), commit.into())]);
        world.standin.fail(Server::Hub, "HEAD", 9, fault);
        let error = message(world.model());
        assert!(error.contains("X-Repo-Commit"), "{commit}: {error}");
    }
}

#[test]
fn a_damaged_cache_is_no_way_out_of_it() {
    let world = World::new();
    world.model().expect("fetched");
    let repo = world.cache().join("models--org--base");
    // A reference that climbs is no commit, so the hub is asked.
    fs::write(repo.join("refs/main"), "../../../../etc").expect("written");
    world.model().expect("fetched again");
    // A listing that lies is not believed.
    let listings = repo.join(".listings");
    for entry in fs::read_dir(&listings).expect("a folder").flatten() {
        fs::write(entry.path(), "{\"commit\":\"x\"").expect("written");
    }
    world.model().expect("fetched again");
    // A blob that lost bytes is fetched again.
    let folder = world.model().expect("there");
    let blob = fs::canonicalize(folder.join("model.safetensors")).expect("a link");
    fs::write(&blob, b"short").expect("written");
    let folder = world.model().expect("fetched again");
    assert_eq!(
        fs::metadata(folder.join("model.safetensors"))
            .expect("there")
            .len(),
        300_000
    );
}

#[test]
fn a_pointer_that_leads_elsewhere_is_replaced_not_followed() {
    let world = World::new();
    let folder = world.model().expect("fetched");
    let outside = TempDir::new().expect("a folder");
    let victim = outside.path().join("victim");
    fs::write(&victim, "precious").expect("written");
    #[cfg(unix)]
    {
        let pointer = folder.join("config.json");
        fs::remove_file(&pointer).expect("removed");
        std::os::unix::fs::symlink(&victim, &pointer).expect("linked");
        world.model().expect("fetched again");
        assert_eq!(fs::read_to_string(&pointer).expect("there"), "{}");
    }
    assert_eq!(fs::read_to_string(&victim).expect("there"), "precious");
    assert!(folder.is_dir());
}

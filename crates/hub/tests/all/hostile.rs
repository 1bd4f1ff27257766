//! Malicious answers of a hub.

use std::fs;

use hub::standin::{Fault, Server};
use serde_json::json;
use tempfile::TempDir;

use crate::support::{SECOND_COMMIT, World, listing, message};

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
fn shards_are_safetensors_that_are_listed() {
    for (shard, words) in [
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
            ("x-repo-commit".into(), SECOND_COMMIT.into()),
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

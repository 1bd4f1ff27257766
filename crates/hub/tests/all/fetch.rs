//! Whole models and data sets, and the requests that the cache saves.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use hub::{
    fetch::{fetch_model, fetch_splits},
    standin::{FIRST_COMMIT, Fault, Server},
    watcher::Watcher,
};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::support::{SECOND_COMMIT, World, message, repo, weights};

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .expect("a folder")
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into())
        .collect();
    names.sort();
    names
}

#[test]
fn a_model_has_the_layout_that_python_shares() {
    let world = World::new();
    let folder = world.model().expect("fetched");
    let repo = world.cache().join("models--org--base");
    assert_eq!(folder, repo.join("snapshots").join(FIRST_COMMIT));
    assert_eq!(
        names(&folder),
        [
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "vocab.txt"
        ]
    );
    assert_eq!(
        fs::read_to_string(repo.join("refs/main")).expect("there"),
        FIRST_COMMIT
    );
    // Python's names: sha256 for large files, git's sha1 for small ones.
    let blobs = names(&repo.join("blobs"));
    assert_eq!(blobs.len(), 4);
    assert_eq!(blobs.iter().filter(|blob| blob.len() == 64).count(), 1);
    // `printf '{}' | git hash-object --stdin`
    assert!(blobs.contains(&"9e26dfeeb6e641a33dae4961196235bdb965b21b".to_owned()));
    #[cfg(unix)]
    assert_eq!(
        fs::read_link(folder.join("config.json")).expect("a link"),
        PathBuf::from("../../blobs/9e26dfeeb6e641a33dae4961196235bdb965b21b")
    );
    assert!(world.cache().join(".locks/models--org--base").is_dir());
    world.assert_clean();
    // No pickle was asked for.
    assert!(world.requests_for("pytorch_model.bin").is_empty());
}

#[test]
fn progress_ends_whole_for_every_file() {
    #[derive(Default)]
    struct Seen(BTreeMap<String, (u64, u64)>, usize);
    impl Watcher for Seen {
        fn progress(&mut self, file: &str, done_bytes: u64, total_bytes: u64) {
            self.0.insert(file.to_owned(), (done_bytes, total_bytes));
            self.1 += 1;
        }
    }
    let world = World::new();
    let mut seen = Seen::default();
    world.model_watched(&mut seen).expect("fetched");
    assert_eq!(seen.0.len(), 4);
    assert_eq!(seen.0["model.safetensors"], (300_000, 300_000));
    assert!(seen.0.values().all(|(done, total)| done == total));
    assert!(seen.1 > 6);
}

#[test]
fn a_whole_snapshot_costs_one_head() {
    let world = World::new();
    let first = world.model().expect("fetched");
    world.standin.clear_requests();
    assert_eq!(world.model().expect("there"), first);
    let requests = world.standin.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].method, "HEAD");
    // A commit never moves.
    let pinned = repo(&format!("org/base@{FIRST_COMMIT}"));
    world.standin.clear_requests();
    assert_eq!(
        fetch_model(&world.config, &pinned, &mut ()).expect("there"),
        first
    );
    assert_eq!(world.standin.requests().len(), 0);
}

#[test]
fn a_branch_that_moved_is_fetched_anew_and_old_blobs_serve_again() {
    let world = World::new();
    let first = world.model().expect("fetched");
    world
        .standin
        .model("org/base")
        .commit(SECOND_COMMIT)
        .small("config.json", "{\"v\":2}");
    world.standin.clear_requests();
    let second = world.model().expect("fetched");
    assert_ne!(first, second);
    assert_eq!(
        fs::read_to_string(second.join("config.json")).expect("there"),
        "{\"v\":2}"
    );
    assert_eq!(
        fs::read_to_string(first.join("config.json")).expect("there"),
        "{}"
    );
    assert!(
        world
            .standin
            .requests()
            .iter()
            .all(|request| request.server == Server::Hub)
    );
}

#[test]
fn a_move_that_breaks_off_leaves_the_old_snapshot_in_force() {
    let world = World::new();
    let first = world.model().expect("fetched");
    world
        .standin
        .model("org/base")
        .commit(SECOND_COMMIT)
        .large("model.safetensors", b"new weights");
    world
        .standin
        .fail(Server::Storage, "model.safetensors", 99, Fault::HangUp);
    message(world.model());
    let offline = hub::config::HubConfig {
        offline: true,
        ..world.config.clone()
    };
    assert_eq!(
        fetch_model(&offline, &repo("org/base"), &mut ()).expect("the old one"),
        first
    );
}

#[test]
fn a_hub_out_of_reach_is_no_obstacle_where_the_cache_is_whole() {
    let mut world = World::new();
    let first = world.model().expect("fetched");
    world.config.endpoint = "http://127.0.0.1:1".into();
    assert_eq!(world.model().expect("there"), first);
}

#[test]
fn a_cache_that_python_filled_serves_where_the_hub_is_out_of_reach() {
    for endpoint in ["http://127.0.0.1:1", "http://no-such-host.invalid"] {
        let mut world = World::new();
        let folder = world.model().expect("fetched");
        let files = world.dataset("org/nli:triplet").expect("fetched");
        // Python writes no listings.
        for repo in ["models--org--base", "datasets--org--nli"] {
            fs::remove_dir_all(world.cache().join(repo).join(".listings")).expect("removed");
        }
        world.config.endpoint = endpoint.to_owned();
        // One attempt, not four.
        world.config.first_pause = std::time::Duration::from_secs(60);
        world.config.longest_pause = world.config.first_pause;
        assert_eq!(world.model().expect("there"), folder);
        assert_eq!(world.dataset("org/nli:triplet").expect("there"), files);

        world.config.retries = 0;
        fs::remove_file(folder.join("model.safetensors")).expect("removed");
        let error = message(world.model());
        for part in ["org/base", "no model.safetensors", endpoint] {
            assert!(error.contains(part), "no {part:?} in {error}");
        }
        let error = message(world.dataset("org/nli:pair"));
        assert!(error.contains("no subset pair"), "{error}");
    }
}

#[test]
fn a_cache_that_python_filled_in_part_is_completed_by_the_hub() {
    let world = World::new();
    let folder = world.model().expect("fetched");
    fs::remove_dir_all(world.cache().join("models--org--base/.listings")).expect("removed");
    fs::remove_file(folder.join("vocab.txt")).expect("removed");
    assert_eq!(world.model().expect("fetched"), folder);
    assert!(folder.join("vocab.txt").is_file());
}

#[test]
fn a_hub_that_refuses_is_not_out_of_reach() {
    let mut world = World::new();
    world.model().expect("fetched");
    fs::remove_dir_all(world.cache().join("models--org--base/.listings")).expect("removed");
    world.standin.require_token("hf_other");
    world.config.token = None;
    let error = message(world.model());
    assert!(error.contains("401"), "{error}");
}

#[test]
fn offline_asks_nobody() {
    let mut world = World::new();
    world.config.offline = true;
    let error = message(world.model());
    assert!(
        error.contains("HF_HUB_OFFLINE") && error.contains("org/base"),
        "{error}"
    );
    let error = message(world.dataset("org/nli:triplet"));
    assert!(error.contains("HF_HUB_OFFLINE"), "{error}");
    assert!(world.standin.requests().is_empty());

    world.config.offline = false;
    let folder = world.model().expect("fetched");
    let files = world.dataset("org/nli:triplet").expect("fetched");
    world.standin.clear_requests();
    world.config.offline = true;
    assert_eq!(world.model().expect("there"), folder);
    assert_eq!(world.dataset("org/nli:triplet").expect("there"), files);
    // What was not fetched is named, although the listing knows it.
    let error = message(world.dataset("org/nli:pair"));
    assert!(
        error.contains("pair/train-00000-of-00001.parquet"),
        "{error}"
    );
    let error = message(world.dataset("org/nli"));
    assert!(error.contains("pair, triplet"), "{error}");
    let error = message(fetch_model(&world.config, &repo("org/base@other"), &mut ()));
    assert!(error.contains("revision other"), "{error}");
    fs::remove_file(folder.join("vocab.txt")).expect("removed");
    let error = message(world.model());
    assert!(error.contains("vocab.txt"), "{error}");
    assert!(world.standin.requests().is_empty());
}

#[test]
fn a_cache_that_python_filled_serves_offline() {
    let mut world = World::new();
    let folder = world.model().expect("fetched");
    let files = world.dataset("org/nli:triplet").expect("fetched");
    // Python writes no listings.
    fs::remove_dir_all(world.cache().join("models--org--base/.listings")).expect("removed");
    fs::remove_dir_all(world.cache().join("datasets--org--nli/.listings")).expect("removed");
    world.config.offline = true;
    assert_eq!(world.model().expect("there"), folder);
    assert_eq!(world.dataset("org/nli:triplet").expect("there"), files);
    fs::remove_file(&files.train[1]).expect("removed");
    let error = message(world.dataset("org/nli:triplet"));
    assert!(error.contains("1 of the 2 files of train"), "{error}");
    fs::remove_file(folder.join("model.safetensors")).expect("removed");
    let error = message(world.model());
    assert!(error.contains("model.safetensors"), "{error}");
}

#[test]
fn module_folders_come_along() {
    let world = World::new();
    let modules = json!([
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
        {"idx": 3, "name": "3", "path": "3_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]);
    world
        .standin
        .model("org/base")
        .small("modules.json", modules.to_string())
        .small("sentence_bert_config.json", "{}")
        .small("1_Pooling/config.json", "{\"p\":1}")
        .small("2_Dense/config.json", "{\"d\":1}")
        .large("2_Dense/model.safetensors", b"dense")
        .large("2_Dense/pytorch_model.bin", b"pickle")
        .large("onnx/model.onnx", b"onnx")
        .small("4_Unused/config.json", "{}");
    let folder = world.model().expect("fetched");
    assert_eq!(
        fs::read(folder.join("2_Dense/model.safetensors")).expect("there"),
        b"dense"
    );
    assert_eq!(
        fs::read(folder.join("1_Pooling/config.json")).expect("there"),
        b"{\"p\":1}"
    );
    #[cfg(unix)]
    assert!(
        fs::read_link(folder.join("1_Pooling/config.json"))
            .expect("a link")
            .starts_with("../../../blobs")
    );
    assert_eq!(
        names(&folder.join("2_Dense")),
        ["config.json", "model.safetensors"]
    );
    assert!(!folder.join("onnx").exists() && !folder.join("4_Unused").exists());

    world
        .standin
        .model("org/base")
        .remove("2_Dense/model.safetensors")
        .commit(SECOND_COMMIT);
    let error = message(world.model());
    assert!(
        error.contains("2_Dense/pytorch_model.bin") && error.contains("2_Dense/model.safetensors"),
        "{error}"
    );
}

#[test]
fn the_transformer_may_have_a_folder_of_its_own() {
    let world = World::new();
    let modules = json!([{"path": "0_Transformer"}, {"path": "1_Pooling"}]);
    world
        .standin
        .model("org/old")
        .small("modules.json", modules.to_string())
        .small("0_Transformer/config.json", "{}")
        .small("0_Transformer/vocab.txt", "a\n")
        .small("1_Pooling/config.json", "{\"a\":0}")
        .large("0_Transformer/model.safetensors", b"w");
    let folder = fetch_model(&world.config, &repo("org/old"), &mut ()).expect("fetched");
    assert_eq!(
        names(&folder.join("0_Transformer")),
        ["config.json", "model.safetensors", "vocab.txt"]
    );
}

#[test]
fn shards_come_by_their_index() {
    let world = World::new();
    let index = json!({"metadata": {}, "weight_map": {
        "a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors", "c": "model-00001-of-00002.safetensors",
    }});
    world
        .standin
        .model("org/base")
        .remove("model.safetensors")
        .small("model.safetensors.index.json", index.to_string())
        .large("model-00001-of-00002.safetensors", weights())
        .large("model-00002-of-00002.safetensors", b"two");
    let folder = world.model().expect("fetched");
    assert_eq!(
        fs::read(folder.join("model-00002-of-00002.safetensors")).expect("there"),
        b"two"
    );
}

#[test]
fn what_no_model_can_do_without_is_named() {
    let world = World::new();
    world.standin.model("org/base").remove("model.safetensors");
    let error = message(world.model());
    assert!(
        error.contains("pytorch_model.bin") && error.contains("model.safetensors is needed"),
        "{error}"
    );
    assert!(world.requests_for("pytorch_model.bin").is_empty());
    for (removed, words) in [
        ("config.json", "no config.json"),
        ("model.safetensors", "no model.safetensors"),
    ] {
        let world = World::new();
        world
            .standin
            .model("org/base")
            .remove("pytorch_model.bin")
            .remove(removed);
        let error = message(world.model());
        assert!(error.contains(words), "{error}");
    }
    let world = World::new();
    world
        .standin
        .model("org/base")
        .remove("tokenizer.json")
        .remove("vocab.txt");
    let error = message(world.model());
    assert!(error.contains("neither tokenizer.json nor"), "{error}");
    for damaged in ["", "{", "{\"a\":1}", "[1]"] {
        let world = World::new();
        world
            .standin
            .model("org/base")
            .small("modules.json", damaged);
        let error = message(world.model());
        assert!(error.contains("modules.json can't be read"), "{error}");
    }
}

#[test]
fn a_subset_comes_by_split() {
    let world = World::new();
    let files = world.dataset("org/nli:triplet").expect("fetched");
    let read = |paths: &[PathBuf]| -> Vec<Vec<u8>> {
        paths
            .iter()
            .map(|path| fs::read(path).expect("there"))
            .collect()
    };
    assert_eq!(read(&files.train), [b"train 0", b"train 1"]);
    assert_eq!(read(&files.dev), [b"dev"]);
    assert_eq!(read(&files.test), [b"test"]);
    assert!(world.requests_for("/pair/").is_empty());
    world.assert_clean();
    assert!(
        world.standin.requests()[0]
            .path
            .starts_with("/api/datasets/org/nli/revision/main")
    );
    assert!(world.requests_for("/datasets/org/nli/resolve/").len() >= 8);
}

#[test]
fn a_subset_that_is_not_named_or_not_there_lists_those_that_are() {
    let world = World::new();
    let error = message(world.dataset("org/nli"));
    assert!(
        error.contains("several subsets")
            && error.contains("org/nli:pair")
            && error.contains("pair, triplet"),
        "{error}"
    );
    let error = message(world.dataset("org/nli:triple"));
    assert!(
        error.contains("no subset triple") && error.contains("pair, triplet"),
        "{error}"
    );
    let error = message(world.dataset("org/other"));
    assert!(error.contains("repository not found"), "{error}");
    world.standin.dataset("org/csv").small("train.csv", "a,b");
    let error = message(world.dataset("org/csv"));
    for part in [
        "no parquet file",
        "refs/convert/parquet",
        "give them as files",
    ] {
        assert!(error.contains(part), "no {part:?} in {error}");
    }
    world
        .standin
        .dataset("org/half")
        .large("data/train-00001-of-00002.parquet", b"x");
    let error = message(world.dataset("org/half"));
    assert!(error.contains("1 of the 2 files of train"), "{error}");
}

#[test]
fn a_data_set_without_parquet_files_is_taken_from_the_hubs_conversion() {
    let mut world = World::new();
    for id in ["org/csv", "org/script", "org/mixed"] {
        world
            .standin
            .conversion(id)
            .large("pair/train/0000.parquet", b"pair")
            .large("triplet/train/0000.parquet", b"train 0")
            .large("triplet/train/0001.parquet", b"train 1")
            .large("triplet/validation/0000.parquet", b"dev")
            .large("triplet/partial-test/0000.parquet", b"test");
    }
    world
        .standin
        .dataset("org/csv")
        .small("triplet/train.csv", "a,b");
    world
        .standin
        .dataset("org/script")
        .small("script.py", "import os");
    // What the repository has itself comes first.
    world
        .standin
        .dataset("org/mixed")
        .small("mixed.py", "import os")
        .large("triplet/train-00000-of-00001.parquet", b"own");
    let read = |paths: &[PathBuf]| -> Vec<Vec<u8>> {
        let read = |path: &PathBuf| fs::read(path).expect("there");
        paths.iter().map(read).collect()
    };
    for is_offline in [false, true] {
        world.config.offline = is_offline;
        for id in ["org/csv", "org/script"] {
            let files = world.dataset(&format!("{id}:triplet")).expect(id);
            assert_eq!(read(&files.train), [b"train 0", b"train 1"]);
            assert_eq!(read(&files.dev), [b"dev"]);
            assert_eq!(read(&files.test), [b"test"]);
        }
        let files = world.dataset("org/mixed:triplet").expect("own files");
        assert_eq!(read(&files.train), [b"own"]);
    }
    world.config.offline = false;
    let error = message(world.dataset("org/csv"));
    assert!(error.contains("pair, triplet"), "{error}");
    world.config.endpoint = "http://127.0.0.1:1".into();
    let files = world.dataset("org/csv:triplet").expect("in the cache");
    assert_eq!(read(&files.dev), [b"dev"]);
    assert!(world.requests_for("script.py").is_empty());
}

#[test]
fn other_layouts_of_data_sets() {
    // Names, and how many files train, dev and test have of the subset.
    let cases: &[(&[&str], &str, [usize; 3])] = &[
        (
            &[
                "data/train-00000-of-00001.parquet",
                "data/validation-00000-of-00001.parquet",
            ],
            "",
            [1, 1, 0],
        ),
        (
            &["data/train-00000-of-00001-a09b74b3ef9c3b56.parquet"],
            "",
            [1, 0, 0],
        ),
        (
            &["train.parquet", "dev.parquet", "test.parquet"],
            "",
            [1, 1, 1],
        ),
        (
            &[
                "x/train/0000.parquet",
                "x/train/0001.parquet",
                "x/validation/0000.parquet",
            ],
            ":x",
            [2, 1, 0],
        ),
        (
            &["default/train/0000.parquet", "default/test/0000.parquet"],
            ":default",
            [1, 0, 1],
        ),
        (&["train/0000.parquet", "test/0000.parquet"], "", [1, 0, 1]),
        (
            &[
                "data/en/train-00000-of-00001.parquet",
                "data/de/train-00000-of-00001.parquet",
            ],
            ":de",
            [1, 0, 0],
        ),
        (&["rows.parquet", "more.parquet"], "", [2, 0, 0]),
        (
            &[
                "a/train-00000-of-00001.parquet",
                "a/validation_matched-00000-of-00001.parquet",
            ],
            ":a",
            [1, 0, 0],
        ),
        (&["a/Val.parquet", "a/Training.parquet"], ":a", [1, 1, 0]),
    ];
    for (names, subset, counts) in cases {
        let world = World::new();
        for name in *names {
            world.standin.dataset("org/other").large(name, name);
        }
        let files = world
            .dataset(&format!("org/other{subset}"))
            .expect(names[0]);
        assert_eq!(
            [files.train.len(), files.dev.len(), files.test.len()],
            *counts,
            "{names:?}"
        );
    }
}

#[test]
fn odd_but_honest_names_survive_the_address() {
    let world = World::new();
    let name = "data/ünï code #1 100% a+b?/train.parquet".replace('?', "");
    world.standin.dataset("org/odd").large(&name, b"odd");
    let files = world.dataset("org/odd").expect("fetched");
    assert_eq!(fs::read(&files.train[0]).expect("there"), b"odd");
}

#[test]
fn a_revision_with_slashes_has_its_own_reference() {
    let world = World::new();
    fetch_model(&world.config, &repo("org/base@refs/pr/1"), &mut ()).expect("fetched");
    assert!(
        world
            .cache()
            .join("models--org--base/refs/refs/pr/1")
            .is_file()
    );
    assert!(
        world.standin.requests()[0]
            .path
            .contains("/revision/refs%2Fpr%2F1")
    );
    let error = message(fetch_model(
        &world.config,
        &repo("org/base@nowhere"),
        &mut (),
    ));
    assert!(error.contains("revision nowhere not found"), "{error}");
}

#[test]
fn splits_of_other_names_are_fetched_by_them() {
    let world = World::new();
    world
        .standin
        .dataset("org/beir")
        .large("corpus/NanoNQ-00000-of-00002.parquet", b"nq 0")
        .large("corpus/NanoNQ-00001-of-00002.parquet", b"nq 1")
        .large("corpus/NanoFEVER-00000-of-00001.parquet", b"fever")
        .large("qrels/NanoNQ/0000.parquet", b"qrels")
        .large("queries/NanoNQ-00000-of-00002.parquet", b"one of two");
    let fetch = |splits: &[(&str, &str)]| {
        let id = repo("org/beir");
        let files = fetch_splits(&world.config, &id, splits, &mut ())?;
        let read = |file: &PathBuf| fs::read_to_string(file).expect("there");
        let read_all = |files: &Vec<PathBuf>| files.iter().map(read).collect::<Vec<_>>();
        Ok::<_, hub::error::HubError>(files.iter().map(read_all).collect::<Vec<_>>())
    };
    let wanted = [("qrels", "NanoNQ"), ("corpus", "NanoNQ")];
    assert_eq!(
        fetch(&wanted).expect("fetched"),
        [vec!["qrels"], vec!["nq 0", "nq 1"]]
    );
    // One listing for all, no file that was not asked for, and afterwards one HEAD.
    assert!(world.requests_for("NanoFEVER").is_empty());
    world.standin.clear_requests();
    fetch(&wanted).expect("there");
    assert_eq!(world.standin.requests().len(), 1);

    for (subset, split, parts) in [
        (
            "corpus",
            "NanoSCIDOCS",
            ["no split NanoSCIDOCS", "its splits are NanoFEVER, NanoNQ"],
        ),
        (
            "documents",
            "NanoNQ",
            ["no subset documents", "corpus, qrels, queries"],
        ),
        (
            "queries",
            "NanoNQ",
            ["1 of the 2 files of queries, NanoNQ", "fetch again"],
        ),
    ] {
        let message = message(fetch(&[(subset, split)]));
        for part in parts {
            assert!(message.contains(part), "no {part:?} in: {message}");
        }
    }
}

/// A data set as Python's `datasets` leaves it: `splits` with the names of their files.
fn prepare(world: &World, place: &str, splits: &[(&str, &[&str])]) -> PathBuf {
    let cache = world.config.datasets_cache.as_ref().expect("a cache");
    let folder = cache.join(place);
    fs::create_dir_all(&folder).expect("a folder");
    let mut infos = Map::new();
    for (split, files) in splits {
        for file in *files {
            fs::write(folder.join(file), "arrow").expect("a file");
        }
        let lengths = match files.len() {
            1 => Value::Null,
            n => json!(vec![1; n]),
        };
        infos.insert((*split).to_owned(), json!({"shard_lengths": lengths}));
    }
    let info = json!({"splits": infos}).to_string();
    fs::write(folder.join("dataset_info.json"), info).expect("a file");
    // What map() leaves is none of the data set's.
    fs::write(folder.join("cache-0123-train.arrow-x"), "").expect("a file");
    folder
}

#[test]
fn a_data_set_that_python_prepared_is_used_where_the_hub_is_silent() {
    let mut world = World::new();
    let cache = TempDir::new().expect("a folder");
    world.config.datasets_cache = Some(cache.path().to_owned());
    world.config.endpoint = "http://127.0.0.1:9".to_owned();
    world.config.retries = 0;
    assert!(
        world
            .dataset("org/nli")
            .expect_err("nothing there")
            .to_string()
            .contains("127.0.0.1:9")
    );
    let old = prepare(
        &world,
        "org___nli/pair/0.0.0/aaaa",
        &[("train", &["nli-train.arrow"])],
    );
    let folder = prepare(
        &world,
        &format!("org___nli/triplet/0.0.0/{FIRST_COMMIT}"),
        &[
            (
                "train",
                &[
                    "nli-train-00000-of-00002.arrow",
                    "nli-train-00001-of-00002.arrow",
                ],
            ),
            ("validation", &["nli-validation.arrow"]),
            ("extra", &["nli-extra.arrow"]),
        ],
    );
    let files = world.dataset("org/nli:triplet").expect("prepared");
    assert_eq!(files.train.len(), 2);
    assert_eq!(
        files.train[1],
        folder.join("nli-train-00001-of-00002.arrow")
    );
    assert_eq!(files.dev, [folder.join("nli-validation.arrow")]);
    assert!(files.test.is_empty());
    assert_eq!(
        world.dataset("org/nli:pair").expect("prepared").train,
        [old.join("nli-train.arrow")]
    );
    // Subsets are named, and a commit is the folder's.
    let message = world.dataset("org/nli").expect_err("two").to_string();
    assert!(
        message.contains("several subsets") && message.contains("pair"),
        "{message}"
    );
    assert!(world.dataset("org/nli:quartet").is_err());
    assert_eq!(
        world
            .dataset(&format!("org/nli@{FIRST_COMMIT}:triplet"))
            .expect("prepared"),
        files
    );
    assert!(
        world
            .dataset(&format!("org/nli@{SECOND_COMMIT}:triplet"))
            .is_err()
    );
    assert!(world.dataset("org/nli@v1:triplet").is_err());
    // Splits by their own names, as NanoBEIR's.
    let splits = [("triplet", "extra"), ("pair", "train")];
    let found = fetch_splits(&world.config, &repo("org/nli"), &splits, &mut ()).expect("prepared");
    assert_eq!(
        found,
        [
            vec![folder.join("nli-extra.arrow")],
            vec![old.join("nli-train.arrow")]
        ]
    );
    // The newest is taken that is whole.
    let newer = prepare(
        &world,
        "org___nli/pair/0.0.0/bbbb",
        &[("train", &["nli-train.arrow"])],
    );
    filetime(&newer, 10);
    assert_eq!(
        world.dataset("org/nli:pair").expect("prepared").train,
        [newer.join("nli-train.arrow")]
    );
    fs::remove_file(newer.join("nli-train.arrow")).expect("there");
    assert_eq!(
        world.dataset("org/nli:pair").expect("prepared").train,
        [old.join("nli-train.arrow")]
    );
    prepare(
        &world,
        "org___other/default/0.0.0/cccc.incomplete",
        &[("train", &["other-train.arrow"])],
    );
    assert!(world.dataset("org/other").is_err());
    // Offline there is no other way.
    world.config.offline = true;
    assert_eq!(world.dataset("org/nli:triplet").expect("prepared"), files);
}

/// Sets a folder's time of change to so many seconds from now.
fn filetime(folder: &Path, seconds: u64) {
    let time = SystemTime::now() + Duration::from_secs(seconds);
    let folder = fs::File::open(folder).expect("a folder");
    folder.set_modified(time).expect("a time");
}

#[test]
fn an_adapter_comes_without_the_files_of_its_base() {
    let world = World::new();
    let adapter = |id| {
        let repo = world.standin.model(id);
        let repo = repo.small("adapter_config.json", "{\"peft_type\":\"LORA\"}");
        repo.small("README.md", "# an adapter")
    };
    adapter("org/adapter").large("adapter_model.safetensors", b"factors");
    let fetch = |id| fetch_model(&world.config, &repo(id), &mut ());
    let folder = fetch("org/adapter").expect("fetched");
    assert_eq!(
        names(&folder),
        ["adapter_config.json", "adapter_model.safetensors"]
    );
    adapter("org/pickled").large("adapter_model.bin", b"pickle");
    let error = message(fetch("org/pickled"));
    assert!(error.contains("adapter_model.safetensors"), "{error}");
    adapter("org/lacking");
    let error = message(fetch("org/lacking"));
    assert!(
        error.contains("there is no adapter_model.safetensors"),
        "{error}"
    );
    world.assert_clean();
}

//! The files of a model: configuration, tokenizer, modules and weights.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use serde::Deserialize;

use crate::{error::HubError, name::check_portable, snapshot::Snapshot, watcher::Watcher};

/// The files of a transformer's folder that the loader may open, beside the weights.
const TRANSFORMER_FILES: &[&str] = &[
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
];

const WEIGHTS: &str = "model.safetensors";
const ADAPTER_CONFIG: &str = "adapter_config.json";
const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// One module in modules.json.
#[derive(Deserialize)]
struct Module {
    path: String,
}

/// model.safetensors.index.json, as far as it names files.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Brings a model's files and returns the snapshot's folder. Weights come last, so that a snapshot that
/// has them has everything. An adapter has weights of its own, and its configuration, weights and perhaps tokenizer are
/// those of a base, which is another repository.
pub(crate) fn gather_model(
    snapshot: &Snapshot<'_>,
    watcher: &mut dyn Watcher,
) -> Result<PathBuf, HubError> {
    let listing = &snapshot.listing;
    let incomplete = |missing: String, next: &str| HubError::Incomplete {
        repo: snapshot.repo.to_string(),
        missing,
        next: next.to_owned(),
    };

    let mut folders: Vec<String> = Vec::new();
    if listing.has("modules.json") {
        for module in snapshot.bring_json::<Vec<Module>>("modules.json", watcher)? {
            let path = module.path.trim_end_matches('/').to_owned();
            if !path.is_empty() {
                check_portable(&path)?;
            }
            if !folders.contains(&path) {
                folders.push(path);
            }
        }
    }
    // The first module is the transformer; without modules.json, the root is.
    let transformer = folders.first().cloned().unwrap_or_default();

    for &name in TRANSFORMER_FILES {
        for folder in BTreeSet::from(["", transformer.as_str()]) {
            let path = join(folder, name);
            if listing.has(&path) {
                snapshot.bring(&path, watcher)?;
            }
        }
    }
    let adapter = join(&transformer, ADAPTER_CONFIG);
    let has_adapter = listing.has(&adapter);
    let is_whole = listing.has(&join(&transformer, "config.json"));
    if has_adapter {
        snapshot.bring(&adapter, watcher)?;
    }
    if !is_whole && !has_adapter {
        let missing = format!("there is no {}", join(&transformer, "config.json"));
        return Err(incomplete(
            missing,
            "it is no transformers model, check the name",
        ));
    }
    let has_tokenizer = ["tokenizer.json", "vocab.txt", "vocab.json"]
        .iter()
        .any(|name| listing.has(name) || listing.has(&join(&transformer, name)));
    if !has_tokenizer && is_whole {
        let missing = "there is neither tokenizer.json nor a vocabulary".to_owned();
        return Err(incomplete(
            missing,
            "without its tokenizer the model can't read text",
        ));
    }
    let others: Vec<&String> = folders
        .iter()
        .filter(|folder| **folder != transformer && !folder.is_empty())
        .collect();
    for folder in &others {
        refuse_pickles(snapshot, folder)?;
        for name in listing.names_in(folder) {
            if name.ends_with(".json") || name.ends_with(".txt") || name.ends_with(".safetensors") {
                snapshot.bring(&join(folder, name), watcher)?;
            }
        }
    }

    refuse_pickles(snapshot, &transformer)?;
    if has_adapter {
        let weights = join(&transformer, ADAPTER_WEIGHTS);
        if !listing.has(&weights) {
            let next = "an adapter's weights are fetched as safetensors alone, take a revision that has them";
            return Err(incomplete(format!("there is no {weights}"), next));
        }
        snapshot.bring(&weights, watcher)?;
        if !is_whole {
            return Ok(snapshot.repo.snapshot(&listing.commit));
        }
    }
    let weights = join(&transformer, WEIGHTS);
    let index = join(&transformer, INDEX);
    if listing.has(&weights) {
        snapshot.bring(&weights, watcher)?;
    } else if listing.has(&index) {
        let index: Index = snapshot.bring_json(&index, watcher)?;
        let shards: BTreeSet<String> = index.weight_map.into_values().collect();
        if shards.is_empty() {
            return Err(incomplete(
                format!("{INDEX} names no file"),
                "the file is damaged in the repository",
            ));
        }
        for shard in shards {
            check_portable(&shard)?;
            if !shard.ends_with(".safetensors") {
                return Err(incomplete(
                    format!("{INDEX} names {shard:?}"),
                    "only safetensors are fetched",
                ));
            }
            snapshot.bring(&join(&transformer, &shard), watcher)?;
        }
    } else {
        let next = "only weights as safetensors are fetched, take a revision that has them";
        return Err(incomplete(format!("there is no {weights}"), next));
    }
    Ok(snapshot.repo.snapshot(&listing.commit))
}

// Pickles run code when they are opened.
fn refuse_pickles(snapshot: &Snapshot<'_>, folder: &str) -> Result<(), HubError> {
    let names = || snapshot.listing.names_in(folder);
    if names().any(|name| [WEIGHTS, INDEX, ADAPTER_WEIGHTS].contains(&name)) {
        return Ok(());
    }
    let is_pickle = |name: &&str| {
        [".bin", ".pt", ".pth", ".ckpt", ".pkl"]
            .iter()
            .any(|end| name.ends_with(end))
            && *name != "training_args.bin"
    };
    match names().find(is_pickle) {
        None => Ok(()),
        Some(found) => Err(HubError::PickleOnly {
            repo: snapshot.repo.to_string(),
            found: join(folder, found),
            needed: join(
                folder,
                match names().any(|name| name == ADAPTER_CONFIG) {
                    true => ADAPTER_WEIGHTS,
                    false => WEIGHTS,
                },
            ),
        }),
    }
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() {
        name.to_owned()
    } else {
        format!("{folder}/{name}")
    }
}

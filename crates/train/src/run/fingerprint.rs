//! The fingerprint of a run: its data, losses and starting model, as a checkpoint holds and a resume compares them.

use std::collections::BTreeMap;

use model::{Precision, SentenceTransformer};
use sha2::{Digest, Sha256};
use tch::Device;

use crate::{
    error::TrainError,
    evaluation::{Evaluation, Material},
    tasks::Objective,
    training_data::TrainingData,
};

/// Parts of a run by name: the value itself where it is short, else the sha256 of its content.
pub(crate) type Fingerprint = BTreeMap<String, String>;

/// The fingerprint of a run of `n_ranks` that starts with `model` as it is now. `evaluations` are those that decide
/// anything, and `order_version` is the sampler's.
pub(crate) fn fingerprint(
    model: &SentenceTransformer,
    order_version: u32,
    n_ranks: usize,
    objectives: &[Objective<'_>],
    training: &[&TrainingData],
    evaluations: &[&Evaluation],
) -> Result<Fingerprint, TrainError> {
    let mut fingerprint = Fingerprint::new();
    for (i, data) in training.iter().enumerate() {
        let what = numbered("training data", i, training.len());
        insert_data(&mut fingerprint, what, data);
    }
    for (i, evaluation) in evaluations.iter().enumerate() {
        let what = numbered("evaluation data", i, evaluations.len());
        match evaluation.material() {
            Material::Data(data) => insert_data(&mut fingerprint, what, data),
            Material::Tables { sha256, .. } => {
                fingerprint.insert(what, sha256.clone());
            }
        }
    }
    let mut insert = |name: &str, value: String| fingerprint.insert(name.to_owned(), value);
    for (i, Objective { name, loss, guide }) in objectives.iter().enumerate() {
        let what = |what| match name {
            Some(name) => format!("{what} of {name}"),
            None => numbered(what, i, objectives.len()),
        };
        insert(&what("loss"), format!("{loss:?}"));
        if let Some(guide) = guide {
            let mut hash = Sha256::new();
            for (_, bytes) in guide.files()?.files() {
                hash.update(bytes);
            }
            insert(&what("guide"), hex::encode(hash.finalize()));
        }
    }
    if order_version > 1 {
        insert(ORDER, order_name(order_version));
    }
    if n_ranks > 1 {
        insert(RANKS, n_ranks.to_string());
    }
    // A precision of 16 bits has one backend.
    let compute = model.compute();
    if compute.precision == Precision::Fp32 {
        insert(GEMM, compute.gemm.resolved().to_string());
    }
    if let Some(adapter) = model.adapter() {
        insert("adapter", adapter.to_string());
    }
    if !model.frozen().is_empty() {
        insert("frozen parts", model.frozen().join(", "));
    }
    let frozen = model.parameters().frozen()?;
    if model.adapter().is_some() {
        let frozen = frozen.f_to_device(Device::Cpu)?;
        let bytes = bytemuck::cast_slice(shim::slice(&frozen)?);
        insert("the adapter's base", sha256(bytes));
    }
    let dropout = model.dropout();
    insert("dropout", dropout.to_string());
    for (path, bytes) in model.files()?.files() {
        let name = format!("{} of the starting model", path.display());
        insert(&name, sha256(bytes));
    }
    Ok(fingerprint)
}

/// Adds a data set, and its prompts where it has some.
fn insert_data(fingerprint: &mut Fingerprint, what: String, data: &TrainingData) {
    let columns = data.tokens.columns.iter();
    let prompts: Vec<&str> = columns.map(|column| column.prompt.text.as_str()).collect();
    if prompts.iter().any(|prompt| !prompt.is_empty()) {
        fingerprint.insert(format!("prompts of {what}"), format!("{prompts:?}"));
    }
    fingerprint.insert(what, data.sha256());
}

/// Several of one kind are told apart by their place, counted from one.
fn numbered(what: &str, i: usize, n: usize) -> String {
    if n == 1 {
        what.to_owned()
    } else {
        format!("{what} {}", i + 1)
    }
}

/// The GEMM backend, which checkpoints of earlier versions do not name.
pub(crate) const GEMM: &str = "gemm";

/// The number of ranks, which checkpoints name where there are several.
const RANKS: &str = "number of ranks";

/// The number of ranks of a run.
pub(crate) fn n_ranks(fingerprint: &Fingerprint) -> u64 {
    let n = fingerprint.get(RANKS).and_then(|n| n.parse().ok());
    n.unwrap_or(1)
}

/// The order of batches, which checkpoints name where it is another than in earlier versions.
const ORDER: &str = "order of batches";

/// The order of batches of a version of [`data::sampler::ORDER_VERSION`], by the release of sentence-transformers that
/// has it.
fn order_name(version: u32) -> String {
    let release = if version > 1 { "6.2.0" } else { "6.0.1" };
    format!("that of sentence-transformers {release}")
}

/// The parts in which two runs differ, each with both values.
pub(crate) fn differences(saved: &Fingerprint, now: &Fingerprint) -> Vec<String> {
    let is_unknown = |name: &str| name == GEMM && !saved.contains_key(GEMM);
    let mut names: Vec<&String> = saved.keys().chain(now.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let shown = |fingerprint: &Fingerprint, name: &str| {
        let Some(value) = fingerprint.get(name) else {
            return match name {
                ORDER => order_name(1),
                RANKS => "1".to_owned(),
                _ => "none".to_owned(),
            };
        };
        let is_hash = value.len() == 64 && value.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_hash {
            format!("sha256 {}", &value[..12])
        } else {
            value.clone()
        }
    };
    names
        .into_iter()
        .filter(|name| saved.get(*name) != now.get(*name) && !is_unknown(name))
        .map(|name| {
            let changes = match name.as_str() {
                RANKS => " (a step takes a batch of each, so that its rows and the number of steps change)",
                _ => "",
            };
            format!(
                "{name} was {} and is {}{changes}",
                shown(saved, name),
                shown(now, name)
            )
        })
        .collect()
}

/// The sha256 of some bytes, in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use data::sampler::ORDER_VERSION;

    use super::*;

    #[test]
    fn a_part_that_an_earlier_version_lacks_is_no_difference() {
        let with = |gemm: &str| Fingerprint::from([(GEMM.to_owned(), gemm.to_owned())]);
        assert!(differences(&Fingerprint::new(), &with("rust")).is_empty());
        assert_eq!(differences(&with("libtorch"), &with("rust")).len(), 1);
        assert_eq!(differences(&with("rust"), &Fingerprint::new()).len(), 1);
    }

    #[test]
    fn an_earlier_order_of_batches_is_named() {
        let new = Fingerprint::from([(ORDER.to_owned(), order_name(ORDER_VERSION))]);
        assert!(differences(&new, &new).is_empty());
        assert_eq!(
            differences(&Fingerprint::new(), &new),
            [
                "order of batches was that of sentence-transformers 6.0.1 and is that of \
                 sentence-transformers 6.2.0"
            ]
        );
    }

    #[test]
    fn differences_are_named() {
        let fingerprint = |loss: &str, data: &str| {
            let parts = [("loss", loss), ("training data", data)];
            parts
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into()
        };
        let (first, second) = (sha256(b"first"), sha256(b"second"));
        assert!(differences(&fingerprint("a", &first), &fingerprint("a", &first)).is_empty());
        assert_eq!(
            differences(&fingerprint("a", &first), &fingerprint("b", &second)),
            [
                "loss was a and is b".to_owned(),
                format!(
                    "training data was sha256 {} and is sha256 {}",
                    &first[..12],
                    &second[..12]
                ),
            ]
        );
    }
}

//! Tests of a whole model against sentence-transformers' numbers and against bad folders.
//!
//! The numbers come from ../fixtures/make_fixtures.py.

mod adapters;
mod encode;
mod encoders;
mod folders;
mod fused;
mod hostile;
mod merge;
mod mutations;
mod one_token;
mod padded;
mod parity;
mod pooling;
mod ported;
mod real;

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use model::{PackedBatch, SentenceTransformer};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

fn tiny() -> SentenceTransformer {
    SentenceTransformer::load(&fixture("tiny-mpnet"), Device::Cpu).unwrap()
}

fn expected_json() -> Value {
    serde_json::from_slice(&fs::read(fixture("expected.json")).unwrap()).unwrap()
}

fn expected_tensors() -> HashMap<String, Tensor> {
    Tensor::read_safetensors(fixture("expected.safetensors"))
        .unwrap()
        .into_iter()
        .collect()
}

fn sentences() -> Vec<String> {
    serde_json::from_value(expected_json()["sentences"].clone()).unwrap()
}

fn ids() -> Vec<Vec<u32>> {
    serde_json::from_value(expected_json()["ids"].clone()).unwrap()
}

fn pack(ids: &[Vec<u32>]) -> PackedBatch {
    let sentences: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
    PackedBatch::new(&sentences, Device::Cpu).unwrap()
}

/// Copies a folder with all its files.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn max_difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    (a - b).abs().max().double_value(&[])
}

#[track_caller]
fn assert_close(name: &str, found: &Tensor, expected: &Tensor, tolerance: f64) {
    let difference = max_difference(found, expected);
    assert!(
        difference <= tolerance,
        "{name}: differs by {difference:e}, allowed {tolerance:e}"
    );
}

#[track_caller]
fn assert_equal(name: &str, found: &Tensor, expected: &Tensor) {
    assert_eq!(found.size(), expected.size(), "{name}");
    assert_eq!(found.kind(), Kind::Float, "{name}");
    assert!(
        found.equal(expected),
        "{name}: differs by {:e}",
        max_difference(found, expected)
    );
}

//! The GEMM backend that `--gemm auto` comes to: the faster one on this processor at the model's shapes.
//!
//! It is measured once and kept in the user's cache folder, since another backend gives other bits: a choice that is made
//! anew by each process would take away that the same command gives the same weights.

use std::{io::Write as _, path::Path};

use anyhow::Context;
use launcher::version::RELEASE;
use model::{Engine, GemmName, GemmRates, Precision, SentenceTransformer};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{cache, machine};

/// Narrower models are computed by the `gemm` crate, without measuring: their products take microseconds.
const NARROW: i64 = 256;

/// How much faster libtorch has to be. Below that the two are alike, and a measurement would be as good as a coin.
const MARGIN: f64 = 1.05;

/// A measurement, as it is kept.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Measured {
    /// All that it depends on.
    machine: String,
    gemm: GemmName,
    rust_gflops: f64,
    libtorch_gflops: f64,
}

/// Whether a model's settings leave the backend open, and its engine takes one.
pub(crate) fn is_open(model: &SentenceTransformer) -> bool {
    let compute = model.compute();
    compute.gemm == GemmName::Auto
        && compute.precision == Precision::Fp32
        && model.engine() == Engine::Kernels
}

/// The backend for fp32 products of this model, measured now if it has not been on this machine. It is the `gemm` crate where
/// a measurement can't be kept.
pub(crate) fn fastest(model: &SentenceTransformer) -> GemmName {
    let spec = model.encoder().spec();
    if spec.hidden_size < NARROW {
        return GemmName::Auto;
    }
    let machine = format!(
        "{}, {}, libtorch {}, sentune {}, {} to {} wide",
        machine::processor().unwrap_or_default(),
        kernels::instructions(),
        RELEASE,
        env!("CARGO_PKG_VERSION"),
        spec.hidden_size,
        spec.intermediate_size
    );
    let Some(folder) = cache::folder() else {
        return GemmName::Rust;
    };
    let name = hex::encode(&Sha256::digest(&machine)[..8]);
    let path = folder.join("gemm").join(format!("{name}.json"));
    match kept(&path, &machine).map_or_else(|| measure(model, machine, &path), Ok) {
        Ok(measured) => measured.gemm,
        Err(error) => {
            tracing::warn!("matrix products are not chosen by measuring: {error:#}");
            GemmName::Rust
        }
    }
}

/// The measurement in a file; none where it is of another machine or damaged.
fn kept(path: &Path, machine: &str) -> Option<Measured> {
    let bytes = fs_err::read(path).ok()?;
    let measured: Measured = serde_json::from_slice(&bytes).ok()?;
    (measured.machine == machine && measured.gemm != GemmName::Auto).then_some(measured)
}

/// Measures, and keeps the outcome. Of several processes that do so at the same time the first decides for all.
fn measure(model: &SentenceTransformer, machine: String, path: &Path) -> anyhow::Result<Measured> {
    let GemmRates { rust, libtorch } = model.gemm_rates();
    let gemm = match libtorch > MARGIN * rust {
        true => GemmName::Libtorch,
        false => GemmName::Rust,
    };
    tracing::info!(
        "matrix products by {gemm}: {rust:.0} Gflop/s with rust, {libtorch:.0} with libtorch, measured once for this machine \
         and model ({})",
        path.display()
    );
    let measured = Measured {
        machine,
        gemm,
        rust_gflops: rust,
        libtorch_gflops: libtorch,
    };
    let folder = path.parent().context("a path in the cache folder")?;
    fs_err::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(&serde_json::to_vec_pretty(&measured)?)?;
    match file.persist_noclobber(path) {
        Ok(_) => Ok(measured),
        Err(error) => match kept(path, &measured.machine) {
            Some(first) => Ok(first),
            // Whatever lies there is not a measurement of this machine.
            None => {
                error.file.persist(path)?;
                Ok(measured)
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_is_kept_for_its_machine_alone() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("one.json");
        assert_eq!(kept(&path, "this"), None);
        let measured = |gemm| Measured {
            machine: "this".to_owned(),
            gemm,
            rust_gflops: 1.0,
            libtorch_gflops: 2.0,
        };
        let write = |one: &Measured| fs_err::write(&path, serde_json::to_vec(one).unwrap());
        write(&measured(GemmName::Libtorch))?;
        assert_eq!(kept(&path, "this"), Some(measured(GemmName::Libtorch)));
        assert_eq!(kept(&path, "another"), None);
        // A file by hand can't put the choice off.
        write(&measured(GemmName::Auto))?;
        assert_eq!(kept(&path, "this"), None);
        fs_err::write(&path, "{")?;
        assert_eq!(kept(&path, "this"), None);
        Ok(())
    }
}

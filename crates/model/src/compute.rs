//! What matrix products are computed with.

use std::fmt;

use kernels::gemm::{
    Gemm, RustGemm,
    half::{Bf16Gemm, Fp16Gemm},
};
use serde::{Deserialize, Serialize};
use shim::gemm::LibtorchGemm;

use crate::error::ModelError;

/// Who multiplies matrices in fp32. All give the same numbers up to rounding, and each the same bits on any
/// number of threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GemmName {
    /// [`GemmName::Rust`]. On the one chip of Intel's that both were measured on, a Xeon of model 207 (Emerald
    /// Rapids), it reached 93 to 157 Gflop/s on one core at the shapes of MPNet-base, which is about all there
    /// is, and libtorch 54 to 125: less at every shape. On AMD's, libtorch is known to be slower.
    /// `crates/shim/benches/gemm.rs` sets them side by side.
    #[default]
    Auto,
    /// The `gemm` crate, which uses AVX-512 on chips of any vendor.
    Rust,
    /// libtorch's, which is MKL's: fast on Intel's chips, and at less than half of the chip's speed on AMD's.
    Libtorch,
}

/// What the elements of matrices are rounded to before they are multiplied. Weights, gradients, optimizer, norms,
/// softmax and losses are in fp32 whatever this says, and so are sums.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Not rounded.
    #[default]
    Fp32,
    /// To 8 bits of precision with the range of fp32, where the chip has AVX512_BF16.
    Bf16,
    /// To 11 bits, with a scale for each panel of a matrix, where the chip has AVX512-FP16.
    Fp16,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fp32 => "fp32",
            Self::Bf16 => "bf16",
            Self::Fp16 => "fp16",
        })
    }
}

/// How matrix products are computed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compute {
    /// Who multiplies, in fp32.
    pub gemm: GemmName,
    /// What is multiplied.
    pub precision: Precision,
}

impl Compute {
    /// The product that this asks for.
    ///
    /// # Errors
    ///
    /// When the processor lacks the precision, or the one who multiplies does.
    pub(crate) fn gemm(self) -> Result<Box<dyn Gemm>, ModelError> {
        let lacks = |instructions: &str| {
            ModelError::Input(format!(
                "precision {}: this processor lacks {instructions}; fp32 runs on every processor",
                self.precision
            ))
        };
        match (self.precision, self.gemm) {
            (Precision::Fp32, GemmName::Auto | GemmName::Rust) => Ok(Box::new(RustGemm)),
            (Precision::Fp32, GemmName::Libtorch) => Ok(Box::new(LibtorchGemm)),
            (precision, GemmName::Libtorch) => Err(ModelError::Input(format!(
                "precision {precision}: gemm libtorch multiplies in fp32 only; leave it at `auto`"
            ))),
            (Precision::Bf16, _) => match Bf16Gemm::new() {
                Some(gemm) => Ok(Box::new(gemm)),
                None => Err(lacks("AVX512_BF16")),
            },
            (Precision::Fp16, _) => match Fp16Gemm::new() {
                Some(gemm) => Ok(Box::new(gemm)),
                None => Err(lacks("AVX512-FP16")),
            },
        }
    }
}

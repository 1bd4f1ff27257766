//! What matrix products are computed with.

use std::fmt;

use kernels::gemm::{
    Gemm, RustGemm,
    half::{Bf16Gemm, Fp16Gemm},
};
use serde::{Deserialize, Serialize};
use shim::gemm::LibtorchGemm;
use tch::{Device, Kind};

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

impl GemmName {
    /// The one who multiplies, [`GemmName::Auto`] replaced by whom it takes.
    pub fn resolved(self) -> Self {
        match self {
            Self::Auto => Self::Rust,
            named => named,
        }
    }
}

impl fmt::Display for GemmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Rust => "rust",
            Self::Libtorch => "libtorch",
        })
    }
}

/// What the elements of matrices are rounded to before they are multiplied. Weights, gradients, optimizer and losses
/// are in fp32 whatever this says, and so are the sums within a product.
///
/// Our kernels have norms, softmax and all that lies between products in fp32 too. Where libtorch computes, that is
/// on a GPU, the encoder computes with a copy of the weights in this precision and hands it on from layer to layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Not rounded.
    #[default]
    Fp32,
    /// To 8 bits of precision with the range of fp32, where the processor has AVX512_BF16; on any GPU.
    Bf16,
    /// To 11 bits, with a scale for each panel of a matrix, where the processor has AVX512-FP16; on any GPU, with a
    /// scale for the loss.
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

/// Who computes the encoder, forward and backward.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// Our kernels on the CPU, libtorch on a GPU.
    #[default]
    Auto,
    /// Our kernels, written by hand for the CPU.
    Kernels,
    /// libtorch's operators and autograd, on any device. On the CPU it is slower; it is the same code that runs on a
    /// GPU, so that it can be compared there.
    Libtorch,
}

impl Engine {
    /// Who computes on `device`.
    ///
    /// # Errors
    ///
    /// Where our kernels are asked for and the device is a GPU.
    pub(crate) fn on(self, device: Device) -> Result<Self, ModelError> {
        match (self, device) {
            (Self::Auto | Self::Kernels, Device::Cpu) => Ok(Self::Kernels),
            (Self::Kernels, device) => Err(ModelError::Input(format!(
                "engine kernels: found the device {device:?}, allowed: the CPU; leave it at `auto`"
            ))),
            _ => Ok(Self::Libtorch),
        }
    }
}

/// How matrix products are computed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compute {
    /// Who multiplies, in fp32, where our kernels compute.
    pub gemm: GemmName,
    /// What is multiplied.
    pub precision: Precision,
    /// Who computes all.
    pub engine: Engine,
}

impl Precision {
    /// The type of weights and activations where libtorch computes in it.
    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::Fp32 => Kind::Float,
            Self::Bf16 => Kind::BFloat16,
            Self::Fp16 => Kind::Half,
        }
    }
}

impl Compute {
    /// The product that this asks for.
    ///
    /// # Errors
    ///
    /// When the processor lacks the precision, or the one who multiplies does.
    pub(crate) fn gemm(self, device: Device) -> Result<Box<dyn Gemm>, ModelError> {
        if self.engine.on(device)? == Engine::Libtorch {
            // It multiplies by itself; nothing asks for our products.
            return match self.gemm {
                GemmName::Auto => Ok(Box::new(RustGemm)),
                other => Err(ModelError::Input(format!(
                    "gemm {other:?} is for our kernels on the CPU, but libtorch computes on {device:?}: leave it at `auto`"
                ))),
            };
        }
        let lacks = |instructions: &str| {
            ModelError::Input(format!(
                "precision {}: this processor lacks {instructions}; fp32 runs on every processor",
                self.precision
            ))
        };
        match (self.precision, self.gemm.resolved()) {
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

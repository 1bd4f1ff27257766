//! Settings of computing: the engine, the precision and the GEMM backend.

use std::fmt;

use serde::{Deserialize, Serialize};
use tch::{Device, Kind};

use crate::error::ModelError;

/// The GEMM backend of our kernels in fp32. All give the same numbers up to rounding, and each the same bits on any
/// number of threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GemmName {
    /// [`GemmName::Rust`]. The program takes the one that [`crate::SentenceTransformer::gemm_rates`] shows to be faster;
    /// which that is depends on the chip.
    #[default]
    Auto,
    /// The `gemm` crate, which uses AVX-512 on chips of any vendor.
    Rust,
    /// libtorch's, which is MKL's: at less than half of the chip's speed on AMD's chips with AVX-512.
    Libtorch,
}

impl GemmName {
    /// The backend in use, after [`GemmName::Auto`] is resolved.
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

/// The precision of matrix products: their factors are rounded to it. Weights, gradients, optimizer and losses
/// are in fp32 in any case, and so are the sums within a product.
///
/// Our kernels compute norms, softmax and all else between products in fp32 too. Under libtorch, which computes on a
/// GPU, the encoder has a copy of its weights in this precision, and its activations are in it too.
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

/// The engine that computes the encoder, forward and backward.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// Our kernels on the CPU, libtorch on a GPU.
    #[default]
    Auto,
    /// Our kernels, written by hand for the CPU.
    Kernels,
    /// libtorch's operators and autograd, on any device. It is slower on the CPU, where it serves for comparison with
    /// the code that runs on a GPU.
    Libtorch,
}

impl Engine {
    /// The engine in use on `device`, after [`Engine::Auto`] is resolved.
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

/// Settings of computing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compute {
    /// The GEMM backend of our kernels in fp32.
    pub gemm: GemmName,
    /// The precision of matrix products.
    pub precision: Precision,
    /// The engine.
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

//! The two engines, our kernels and libtorch, behind one trait.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use kernels::{
    gemm::{
        Gemm, RustGemm,
        half::{Bf16Gemm, Fp16Gemm},
    },
    random::mix,
};
use shim::{gemm::LibtorchGemm, slice, slice_mut};
use tch::{Device, Kind, Tensor};

use crate::{
    batch::packed::PackedBatch,
    compute::{Compute, Engine, GemmName, Precision},
    encoder::{
        block::by_hand::{Keep, PassOptions, Workspace},
        spec::Dropout,
    },
    error::ModelError,
    modules::Pooling,
    network::Network,
};

/// Whether a forward pass drops units out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// With dropout, as the seed decides.
    Train {
        /// The same seed drops the same units.
        seed: u64,
    },
    /// Without dropout.
    Eval,
}

/// An engine, with all that it keeps from pass to pass.
pub(crate) enum Backend {
    /// Our kernels, on the CPU.
    Kernels {
        gemm: Box<dyn Gemm>,
        /// Buffers for one pass at a time.
        workspace: Box<Mutex<Workspace>>,
    },
    /// libtorch's operators and autograd, on any device.
    Libtorch,
}

/// Passes over batches, one after the other. A backward pass belongs to the forward pass before it.
pub(crate) trait Pass {
    /// Pooled token embeddings `[sentences, modes * H]`, in the chunk's order: of the last layer's output, then of
    /// the inputs of `layers`. With [`Keep::Everything`] autograd goes through them.
    fn pooled(
        &mut self,
        chunk: &PackedBatch,
        layers: &[usize],
        mode: Mode,
        keep: Keep,
    ) -> Result<Vec<Tensor>, ModelError>;

    /// Adds to `gradient` the weights' gradient, given the gradients `d_parts` by the embeddings of `parts`, which
    /// come from [`Self::pooled`] of the same chunk, layers and mode with [`Keep::Everything`].
    fn backward(
        &mut self,
        chunk: &PackedBatch,
        layers: &[usize],
        mode: Mode,
        parts: &[Embedded],
        d_parts: &[Tensor],
        gradient: &Tensor,
    ) -> Result<(), ModelError>;

    /// Token embeddings [T, H] in packed order, without dropout, in the host's memory.
    fn tokens(&mut self, batch: &PackedBatch) -> Result<Vec<f32>, ModelError>;
}

/// Embeddings of a chunk and the pooled token embeddings that they were made from, both in the chunk's order.
pub(crate) struct Embedded {
    /// `[sentences, modes * H]`
    pub(crate) pooled: Tensor,
    /// `[sentences, dimension]`
    pub(crate) embeddings: Tensor,
}

impl Backend {
    /// The engine that the settings come to on a device.
    ///
    /// # Errors
    ///
    /// When the processor lacks the precision, or the engine or the products don't fit the device.
    pub(crate) fn new(compute: Compute, device: Device) -> Result<Self, ModelError> {
        if compute.engine.on(device)? == Engine::Libtorch {
            return match compute.gemm {
                GemmName::Auto => Ok(Self::Libtorch),
                other => Err(ModelError::Input(format!(
                    "gemm {other:?} is for our kernels on the CPU, but libtorch computes on {device:?}: leave it at `auto`"
                ))),
            };
        }
        Ok(Self::Kernels {
            gemm: gemm(compute)?,
            workspace: Box::default(),
        })
    }

    /// [`Engine::Kernels`] or [`Engine::Libtorch`].
    pub(crate) fn engine(&self) -> Engine {
        match self {
            Self::Kernels { .. } => Engine::Kernels,
            Self::Libtorch => Engine::Libtorch,
        }
    }

    /// Begins passes over batches.
    pub(crate) fn begin<'a>(&'a self, network: &'a Network) -> Box<dyn Pass + 'a> {
        match self {
            Self::Kernels { gemm, workspace } => Box::new(KernelPass {
                network,
                gemm: gemm.as_ref(),
                // A pass that panicked left numbers behind that the next pass overwrites.
                work: workspace.lock().unwrap_or_else(PoisonError::into_inner),
            }),
            Self::Libtorch => Box::new(LibtorchPass { network }),
        }
    }
}

// Buffers and products are not to be printed.
impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.engine())
    }
}

/// The matrix product of our kernels in a precision.
fn gemm(compute: Compute) -> Result<Box<dyn Gemm>, ModelError> {
    let lacks = |instructions: &str| {
        ModelError::Input(format!(
            "precision {}: this processor lacks {instructions}; fp32 runs on every processor",
            compute.precision
        ))
    };
    match (compute.precision, compute.gemm.resolved()) {
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

struct KernelPass<'a> {
    network: &'a Network,
    gemm: &'a dyn Gemm,
    work: MutexGuard<'a, Workspace>,
}

impl<'a> KernelPass<'a> {
    fn options(&self, mode: Mode) -> PassOptions<'a> {
        let (dropout, seed) = match mode {
            Mode::Train { seed } => (self.network.dropout, seed),
            Mode::Eval => (Dropout::NONE, 0),
        };
        PassOptions {
            parameters: &self.network.parameters,
            gemm: self.gemm,
            numbering: self.network.encoder.spec().numbering,
            dropout,
            seed,
            only: None,
        }
    }
}

impl Pass for KernelPass<'_> {
    fn pooled(
        &mut self,
        chunk: &PackedBatch,
        layers: &[usize],
        mode: Mode,
        keep: Keep,
    ) -> Result<Vec<Tensor>, ModelError> {
        let network = self.network;
        network.encoder.check_fits(chunk)?;
        let only = network.pooling.only(chunk)?;
        let options = PassOptions {
            only: only.as_deref(),
            ..self.options(mode)
        };
        let transformer = network.encoder.transformer();
        let output = transformer.forward_by_hand(&options, chunk, keep, &mut self.work)?;
        let mut parts = vec![match only {
            Some(_) => Pooling::restored(output, chunk)?,
            None => network.pooling.forward_by_hand(output, chunk)?,
        }];
        let n_values = chunk.tokens() * network.encoder.hidden_size() as usize;
        for &layer in layers {
            let tokens = self.work.input_of(layer, n_values);
            parts.push(network.pooling.forward_by_hand(tokens, chunk)?);
        }
        let requires_grad = keep == Keep::Everything;
        let parts = parts
            .into_iter()
            .map(|pooled| pooled.f_set_requires_grad(requires_grad));
        Ok(parts.collect::<Result<_, _>>()?)
    }

    fn backward(
        &mut self,
        chunk: &PackedBatch,
        layers: &[usize],
        mode: Mode,
        parts: &[Embedded],
        d_parts: &[Tensor],
        gradient: &Tensor,
    ) -> Result<(), ModelError> {
        let network = self.network;
        let d_pooled = if network.modules.is_empty() {
            d_parts.iter().map(Tensor::shallow_clone).collect()
        } else {
            let inputs: Vec<&Tensor> = parts.iter().map(|part| &part.pooled).collect();
            let total = weighted_sum(parts, d_parts)?;
            network.parameters.backward_to(&total, gradient, &inputs)?
        };
        let d_pooled = d_pooled.iter().map(Tensor::f_contiguous);
        let d_pooled = d_pooled.collect::<Result<Vec<_>, _>>()?;
        let d_pooled = d_pooled.iter().map(slice).collect::<Result<Vec<_>, _>>()?;
        let mut gradient = gradient.shallow_clone();
        let only = network.pooling.only(chunk)?;
        let options = PassOptions {
            only: only.as_deref(),
            ..self.options(mode)
        };
        network.encoder.transformer().backward_by_hand(
            &options,
            chunk,
            layers,
            |layer, tokens, d_tokens| {
                // The output has no number among the layers and comes first.
                let place = layers.iter().position(|&prior| prior == layer);
                let d_pooled = d_pooled[place.map_or(0, |place| 1 + place)];
                if place.is_none() && only.is_some() {
                    return Pooling::restored_backward(d_pooled, chunk, d_tokens);
                }
                let pooling = &network.pooling;
                pooling.backward_by_hand(tokens, d_pooled, chunk, d_tokens);
            },
            slice_mut(&mut gradient)?,
            &mut self.work,
        )
    }

    fn tokens(&mut self, batch: &PackedBatch) -> Result<Vec<f32>, ModelError> {
        let (options, encoder) = (self.options(Mode::Eval), &self.network.encoder);
        encoder.check_fits(batch)?;
        let transformer = encoder.transformer();
        let tokens = transformer.forward_by_hand(&options, batch, Keep::Nothing, &mut self.work)?;
        Ok(tokens.to_vec())
    }
}

/// The pass that autograd differentiates.
pub(crate) struct LibtorchPass<'a> {
    pub(crate) network: &'a Network,
}

impl Pass for LibtorchPass<'_> {
    fn pooled(
        &mut self,
        chunk: &PackedBatch,
        layers: &[usize],
        mode: Mode,
        keep: Keep,
    ) -> Result<Vec<Tensor>, ModelError> {
        let _guard = (keep == Keep::Nothing).then(tch::no_grad_guard);
        let Network {
            encoder,
            pooling,
            parameters,
            ..
        } = self.network;
        let dropout = match mode {
            Mode::Train { seed } => {
                // libtorch's generator knows nothing of a chunk's place.
                tch::manual_seed(mix(seed ^ chunk.first_token() as u64) as i64);
                self.network.dropout
            }
            Mode::Eval => Dropout::NONE,
        };
        parameters.refresh()?;
        pooling.check(chunk)?;
        let (batch, transformer) = (encoder.on_device(chunk)?, encoder.transformer());
        let only = pooling.one_token();
        let states = if layers.is_empty() {
            vec![transformer.forward(parameters, &batch, dropout, only)?]
        } else {
            transformer.hidden_states(parameters, &batch, dropout, only)?
        };
        let mut parts = vec![pooling.pool_output(&states[states.len() - 1], &batch)?];
        for &layer in layers {
            parts.push(pooling.pool(&states[layer], &batch)?);
        }
        Ok(parts)
    }

    fn backward(
        &mut self,
        _: &PackedBatch,
        _: &[usize],
        _: Mode,
        parts: &[Embedded],
        d_parts: &[Tensor],
        gradient: &Tensor,
    ) -> Result<(), ModelError> {
        let total = weighted_sum(parts, d_parts)?;
        self.network.parameters.backward(&total, gradient)
    }

    fn tokens(&mut self, batch: &PackedBatch) -> Result<Vec<f32>, ModelError> {
        let _guard = tch::no_grad_guard();
        let Network {
            encoder,
            parameters,
            ..
        } = self.network;
        parameters.refresh()?;
        let tokens = encoder.forward(parameters, batch, Dropout::NONE)?;
        let tokens = tokens.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?;
        Ok(Vec::try_from(tokens.f_view([-1])?)?)
    }
}

/// The sum of all embeddings, each times its gradient: a scalar whose gradient by the embeddings is theirs.
fn weighted_sum(parts: &[Embedded], d_parts: &[Tensor]) -> Result<Tensor, ModelError> {
    let mut total: Option<Tensor> = None;
    for (part, d_part) in parts.iter().zip(d_parts) {
        let product = part.embeddings.f_mul(d_part)?.f_sum(Kind::Float)?;
        total = Some(match total {
            None => product,
            Some(total) => total.f_add(&product)?,
        });
    }
    total.ok_or_else(|| ModelError::Input("a backward pass needs embeddings".to_owned()))
}

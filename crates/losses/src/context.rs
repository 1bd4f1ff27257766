//! The model and device that a loss is built for.

use tch::Device;

/// The model's dimension, the device and the seed that a loss is built with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BuildContext {
    /// Dimension of the embeddings; `None` where it is not known yet, and the parameters are only
    /// checked.
    pub dimension: Option<i64>,
    /// The embeddings' device.
    pub device: Device,
    /// Seed of the first weights of a loss that owns some: those that torch draws after
    /// `torch.manual_seed`. It is given to libtorch's generator.
    pub seed: u64,
}

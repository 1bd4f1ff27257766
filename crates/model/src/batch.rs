//! Batches without padding: packed, in buckets for a device, and in tensors that graphs replay.

pub(crate) mod buckets;
pub(crate) mod packed;
pub(crate) mod recorded;
pub(crate) mod upload;

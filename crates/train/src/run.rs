//! The folder of a run: its layout and lock, checkpoints, and the state and fingerprint that they hold.

pub(crate) mod checkpoint;
pub(crate) mod fingerprint;
pub(crate) mod folder;
mod lock;
pub(crate) mod state;

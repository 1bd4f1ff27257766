//! How a step is made.

pub(crate) mod device;
pub(crate) mod recorded;

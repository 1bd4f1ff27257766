//! Observers that write the log of a run to files.

mod event_file;
mod metrics_file;
mod tensorboard;

pub use metrics_file::MetricsFile;
pub use tensorboard::TensorBoard;

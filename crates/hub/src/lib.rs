//! Models and data sets from the Hugging Face hub, by name, into the cache that Python shares.
//!
//! The cache's layout and the shapes of the addresses are hf-hub's; the transfer is not, since that of
//! hf-hub 0.5 verifies neither length nor checksum (see the module `client`). Guarantees:
//!
//! - A file takes its name only when its length and, where the hub gives one, its sha256 (or git's
//!   sha1) are right. A download that broke off goes on where it stopped.
//! - The token is sent to the endpoint's own host and nowhere else, and is in no message.
//! - No name, from the command line or from the hub, leads to a path outside the cache.
//! - Pickles are not fetched.
//! - A [`Watcher`](watcher::Watcher) can stop it within a tenth of a second.
//!
//! ```no_run
//! use hub::{
//!     config::HubConfig,
//!     error::HubError,
//!     fetch::{fetch_dataset, fetch_model},
//!     name::{DatasetId, RepoId},
//!     watcher::Watcher,
//! };
//!
//! /// Prints one line for each file that is whole.
//! struct Lines;
//!
//! impl Watcher for Lines {
//!     fn progress(&mut self, file: &str, done_bytes: u64, total_bytes: u64) {
//!         if done_bytes == total_bytes {
//!             println!("{file} {total_bytes}");
//!         }
//!     }
//! }
//!
//! # fn main() -> Result<(), HubError> {
//! let config = HubConfig::from_env()?;
//! let model = RepoId::parse("microsoft/mpnet-base")?;
//! let folder = fetch_model(&config, &model, &mut Lines)?;
//! println!("the weights are in {}", folder.join("model.safetensors").display());
//!
//! let dataset = DatasetId::parse("sentence-transformers/all-nli:triplet")?;
//! let files = fetch_dataset(&config, &dataset, &mut Lines)?;
//! println!("train {:?}, dev {:?}, test {:?}", files.train, files.dev, files.test);
//! # Ok(())
//! # }
//! ```
//!
//! Tests of other crates take `hub = { workspace = true, features = ["standin"] }` among their
//! dev-dependencies and run against `standin::StandIn`, a hub on loopback.

mod address;
mod cache;
mod client;
pub mod config;
pub mod dataset_files;
mod datasets_cache;
mod download;
pub mod error;
pub mod fetch;
mod listing;
mod model_files;
pub mod name;
pub mod network;
mod partial_file;
pub mod push;
mod request;
mod retry;
mod snapshot;
#[cfg(feature = "standin")]
pub mod standin;
pub mod watcher;

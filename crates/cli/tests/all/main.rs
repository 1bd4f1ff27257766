//! The real binary on the tiny model, as a user would call it.

mod adapters;
mod bad_input;
mod commands;
mod device;
mod evaluators;
mod formats;
mod guide;
mod hub;
mod installation;
mod libtorch_engine;
mod losses;
mod merge;
mod messages;
mod on_disk;
mod prompts;
#[cfg(target_os = "linux")]
mod ranks;
#[cfg(unix)]
mod reliability;
mod report;
mod sandbox;
mod search;
mod signals;
mod sweep;
mod training;

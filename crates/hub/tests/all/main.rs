//! The hub crate against a stand-in hub on loopback.

mod behaviours;
mod config;
mod download;
mod fetch;
mod hostile;
mod names;
mod push;
mod support;
mod tls;

//! The subcommands, each in a file of its name.

pub(crate) mod compare;
pub(crate) mod completions;
pub(crate) mod data;
pub(crate) mod doctor;
pub(crate) mod encode;
pub(crate) mod eval;
pub(crate) mod help;
pub(crate) mod init;
pub(crate) mod man;
pub(crate) mod merge;
pub(crate) mod mine;
pub(crate) mod push;
pub(crate) mod report;
pub(crate) mod search;
pub(crate) mod sweep;
pub(crate) mod train;
pub(crate) mod watch;

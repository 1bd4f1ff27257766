//! Reports of training runs: one self-contained HTML page, and small plots for a terminal.
//!
//! The page is made of the texts of a run's files ([`Run`]), of an [`Analysis`] of embeddings before and after training,
//! and of tables that the caller adds ([`Page`]). It loads nothing from the network, which its content security policy
//! forbids, and has a table of numbers beside each plot.
//!
//! ```
//! use report::{Page, Run, RunFiles};
//!
//! let run = Run::parse(&RunFiles {
//!     name: "first-run",
//!     config: "model = \"your-model\"",
//!     metrics: "{\"loss\":1.5,\"epoch\":0.5,\"step\":10}\n",
//!     ..RunFiles::default()
//! })?;
//! let html = Page::new(vec![run]).html()?;
//! assert!(html.starts_with("<!doctype html>"));
//! # Ok::<(), report::ReportError>(())
//! ```

pub mod chart;
pub mod panels;
pub mod table;
pub mod terminal;

mod analysis;
mod error;
mod page;
mod run;

pub use crate::{
    analysis::{Analysis, Labels, Sample, Side, TextColumn},
    error::ReportError,
    page::{Difference, Page},
    run::{Results, Run, RunFiles},
};

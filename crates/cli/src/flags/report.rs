//! Flags of `sentune report` and `sentune watch`.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct ReportFlags {
    /// Folders of runs, or of sweeps, which stand for the runs in them.
    #[arg(value_name = "RUN", required = true)]
    pub(crate) runs: Vec<PathBuf>,
    /// File to write [default: report.html in the folder of the only RUN, else in the current folder].
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Rows of the test data to encode before and after, for rows that turned, neighbours, projection and similarities.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub(crate) max_samples: usize,
    /// Leave out everything for which texts have to be encoded.
    #[arg(long)]
    pub(crate) no_embeddings: bool,
}

#[derive(Debug, Args)]
pub(crate) struct WatchFlags {
    /// Folder of the run, also one that another process or machine trains in.
    #[arg(value_name = "RUN")]
    pub(crate) run: PathBuf,
    /// Print the state once and end.
    #[arg(long)]
    pub(crate) once: bool,
    /// Seconds between two looks at the folder.
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0)]
    pub(crate) interval: f64,
}

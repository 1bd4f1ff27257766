//! Flags of `sentune merge`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

#[derive(Debug, Args)]
pub(crate) struct MergeFlags {
    /// Model to merge: a folder, or a name on the hub with an optional @revision; two or more, each with the flag, or one
    /// with an adapter, which is merged into its base. The first gives prompts and settings.
    #[arg(long, value_name = "MODEL", required = true)]
    pub(crate) model: Vec<String>,
    /// Folder of the merged model.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) output: PathBuf,
    /// Method: linear (weighted mean), slerp (spherical interpolation of two models), ties (differences from
    /// --base-model, where their signs agree).
    #[arg(long, value_enum, value_name = "NAME", default_value = "linear")]
    pub(crate) method: MethodName,
    /// Weights of the models, separated by commas, for linear and ties [default: 1 each].
    #[arg(
        long,
        value_name = "X,X",
        value_delimiter = ',',
        allow_hyphen_values = true
    )]
    pub(crate) weights: Option<Vec<f64>>,
    /// Way from the first model, 0, to the second, 1, for slerp [default: 0.5].
    #[arg(long, value_name = "X")]
    pub(crate) t: Option<f64>,
    /// Model that the others were trained from, for ties.
    #[arg(long, value_name = "MODEL")]
    pub(crate) base_model: Option<String>,
    /// Share of the entries of each difference that count, for ties [default: 1].
    #[arg(long, value_name = "X")]
    pub(crate) density: Option<f64>,
    /// Factor on the merged difference, for ties [default: 1].
    #[arg(long, value_name = "X")]
    pub(crate) lambda: Option<f64>,
}

/// A method of merging.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum MethodName {
    Linear,
    Slerp,
    Ties,
}

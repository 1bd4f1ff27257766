//! Random weights.

use std::path::Path;

use kernels::random::mix;
use rayon::prelude::*;
use serde_json::{Map, Value};
use tch::{Device, Tensor};

use crate::{
    encoder::{Recipe, spec::Init},
    error::ModelError,
    folder::{modules::ModuleDescription, settings::Settings},
    modules::Pooling,
    network::Network,
    parameters::{LeafKind, Parameters, Span},
    sentence_transformer::SentenceTransformer,
};

impl SentenceTransformer {
    /// A model with random weights: normal with `initializer_range` as the standard deviation,
    /// zero biases and padding rows, layer norms that change nothing.
    ///
    /// * `config`: the content of config.json.
    /// * `tokenizer`: a folder with tokenizer.json, or vocab.txt and tokenizer_config.json.
    /// * `pooling`: followed by normalizing where `normalize` says so.
    /// * `seed`: the same seed gives the same weights, whatever libtorch's generator and the
    ///   number of threads.
    ///
    /// # Errors
    ///
    /// When the configuration or the tokenizer is refused.
    pub fn random(
        config: &Map<String, Value>,
        tokenizer: &Path,
        pooling: Pooling,
        normalize: bool,
        seed: u64,
        device: Device,
    ) -> Result<Self, ModelError> {
        let recipe = Recipe::read(Path::new("config.json"), config)?;
        let settings = Settings::new(config.clone(), &recipe.spec, tokenizer)?;
        let built = settings.tokenizer(tokenizer, &recipe)?;
        let mut modules = vec![ModuleDescription::Pooling(pooling)];
        if normalize {
            modules.push(ModuleDescription::Normalize);
        }
        let network = Network::new(recipe, &modules, None, device)?;
        initialize(&network.parameters, network.encoder.spec().init, seed)?;
        Self::new(network, modules, settings, built)
    }
}

/// Fills the parameters as BERT's are. Each value depends on the seed, its parameter's name and
/// its place there, and on nothing else.
fn initialize(parameters: &Parameters, init: Init, seed: u64) -> Result<(), ModelError> {
    let _guard = tch::no_grad_guard();
    for span in parameters.spans() {
        let numel = span.numel() as usize;
        let values = match span.kind {
            LeafKind::Scale => vec![1.0; numel],
            LeafKind::Bias => vec![0.0; numel],
            LeafKind::Matrix | LeafKind::RelativeBias => draw(span, init.range, seed),
            LeafKind::Table { padding } => {
                let mut values = draw(span, init.range, seed);
                if let Some(row) = padding {
                    let width = span.shape[1] as usize;
                    values[row as usize * width..][..width].fill(0.0);
                }
                values
            }
        };
        let mut target = parameters.flat().f_narrow(0, span.offset, span.numel())?;
        target.f_copy_(&Tensor::f_from_slice(&values)?)?;
    }
    Ok(())
}

/// Normal values for a parameter.
fn draw(span: &Span, deviation: f64, seed: u64) -> Vec<f32> {
    let name = span.name.bytes();
    let stream = name.fold(seed, |state, byte| mix(state ^ u64::from(byte)));
    let mut values = vec![0.0; span.numel() as usize];
    values
        .par_iter_mut()
        .with_min_len(1 << 14)
        .enumerate()
        .for_each(|(i, value)| {
            *value = (normal(mix(stream.wrapping_add(i as u64))) * deviation) as f32;
        });
    values
}

/// A standard normal value from 64 random bits (Box and Muller 1958).
fn normal(bits: u64) -> f64 {
    const STEPS: f64 = 4_294_967_296.0;
    let radius = ((bits >> 32) as f64 + 1.0) / STEPS;
    let angle = (bits & 0xffff_ffff) as f64 / STEPS;
    (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
}

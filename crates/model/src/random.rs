//! Random weights.

use std::path::Path;

use rayon::prelude::*;
use serde_json::{Value, json};
use tch::{Device, Tensor};

use crate::{
    error::ModelError,
    folder::{modules::ModuleDescription, settings::Settings},
    modules::Pooling,
    mpnet,
    parameters::Parameters,
    sentence_transformer::SentenceTransformer,
};

impl SentenceTransformer {
    /// A model with random weights: normal with `initializer_range` as the standard deviation,
    /// zero biases and padding rows, layer norms that change nothing.
    ///
    /// * `tokenizer`: a folder with tokenizer.json, or vocab.txt and tokenizer_config.json.
    /// * `pooling`: how tokens become one vector, followed by normalizing where `normalize` says so.
    /// * `seed`: the same seed gives the same weights, whatever libtorch's generator and the
    ///   number of threads.
    ///
    /// # Errors
    ///
    /// When the configuration or the tokenizer is refused.
    pub fn random(
        config: &mpnet::Config,
        tokenizer: &Path,
        pooling: Pooling,
        normalize: bool,
        seed: u64,
        device: Device,
    ) -> Result<Self, ModelError> {
        let path = Path::new("config.json");
        config.validate(path)?;
        let Value::Object(mut config_json) =
            serde_json::to_value(config).map_err(|cause| ModelError::Json {
                path: path.to_owned(),
                cause,
            })?
        else {
            return Err(ModelError::Input(
                "the configuration is not an object".to_owned(),
            ));
        };
        config_json.insert("bos_token_id".to_owned(), json!(0));
        config_json.insert("eos_token_id".to_owned(), json!(2));
        let settings = Settings::new(config_json, config, tokenizer)?;
        let built = settings.tokenizer(tokenizer, config.vocab_size)?;
        let mut modules = vec![ModuleDescription::Pooling(pooling)];
        if normalize {
            modules.push(ModuleDescription::Normalize);
        }
        let model = Self::assemble(config, modules, settings, built, None, device)?;
        initialize(&model.parameters, config.initializer_range, seed)?;
        Ok(model)
    }
}

/// Fills the parameters as BERT's are: each value depends on the seed, its parameter's name and
/// its place there, and on nothing else.
fn initialize(
    parameters: &Parameters,
    standard_deviation: f64,
    seed: u64,
) -> Result<(), ModelError> {
    let _guard = tch::no_grad_guard();
    for span in parameters.spans() {
        let numel = span.numel() as usize;
        let values = if span.name.ends_with("LayerNorm.weight") {
            vec![1.0; numel]
        } else if span.name.ends_with(".bias") {
            vec![0.0; numel]
        } else {
            let stream = span
                .name
                .bytes()
                .fold(seed, |state, byte| mix(state ^ u64::from(byte)));
            let mut values = vec![0.0; numel];
            values
                .par_iter_mut()
                .with_min_len(1 << 14)
                .enumerate()
                .for_each(|(i, value)| {
                    *value =
                        (normal(mix(stream.wrapping_add(i as u64))) * standard_deviation) as f32;
                });
            if span.name.ends_with("word_embeddings.weight")
                || span.name.ends_with("position_embeddings.weight")
            {
                let width = span.shape[1] as usize;
                let padding = mpnet::PADDING_ID as usize * width;
                values[padding..padding + width].fill(0.0);
            }
            values
        };
        let mut target = parameters.flat().f_narrow(0, span.offset, span.numel())?;
        target.f_copy_(&Tensor::f_from_slice(&values)?)?;
    }
    Ok(())
}

/// A standard normal value from 64 random bits (Box and Muller 1958).
fn normal(bits: u64) -> f64 {
    const STEPS: f64 = 4_294_967_296.0;
    let radius = ((bits >> 32) as f64 + 1.0) / STEPS;
    let angle = (bits & 0xffff_ffff) as f64 / STEPS;
    (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
}

/// One step of SplitMix64 (Steele, Lea and Flood 2014).
pub(crate) fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

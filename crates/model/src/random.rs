//! Random weights.

use std::path::Path;

use kernels::random::mix;
use rayon::prelude::*;
use serde_json::{Map, Value, json};
use tch::{Device, Tensor};

use crate::{
    encoder::{
        Recipe,
        adapter::Selection,
        family::{ADAPTER_ROOT, Sizes},
        new_config, of_type,
        spec::Init,
    },
    error::ModelError,
    folder::{json::read_object, modules::ModuleDescription, settings::Settings},
    modules::{Pooling, PoolingMode},
    network::Network,
    parameters::{LeafKind, Parameters, Span},
    sentence_transformer::SentenceTransformer,
    tokenizer::{Tokenizer, special_token},
};

/// The tokenizer of a new model.
#[derive(Debug, Clone, Copy)]
pub enum NewTokenizer<'a> {
    /// Word pieces, one a line, with the special tokens of the encoder's type among them.
    WordPieces(&'a str),
    /// A folder with tokenizer.json, whose files the model gets.
    Folder(&'a Path),
}

/// The id of a token.
type IdOf<'a> = Box<dyn Fn(&str) -> Option<usize> + 'a>;

impl SentenceTransformer {
    /// A new model of a type of encoder, with random weights: as many rows as the tokenizer has tokens, and mean
    /// pooling.
    ///
    /// # Errors
    ///
    /// When the type is not computed, and when the sizes or the tokenizer are refused.
    pub fn init(
        model_type: &str,
        sizes: &Sizes,
        tokenizer: NewTokenizer<'_>,
        seed: u64,
        device: Device,
    ) -> Result<Self, ModelError> {
        let pieces = &of_type(model_type)?.word_pieces;
        let temporary = tempfile::tempdir()?;
        let mut settings = Map::new();
        let (folder, n_tokens, id_of): (_, _, IdOf<'_>) = match tokenizer {
            NewTokenizer::WordPieces(vocabulary) => {
                fs_err::write(temporary.path().join("vocab.txt"), vocabulary)?;
                let id_of = |token: &str| vocabulary.lines().position(|line| line == token);
                let n_tokens = vocabulary.lines().count();
                (temporary.path(), n_tokens, Box::new(id_of))
            }
            NewTokenizer::Folder(folder) => {
                let path = folder.join("tokenizer.json");
                let read = Tokenizer::from_tokenizer_json(&path, &fs_err::read(&path)?)?;
                let path = folder.join("tokenizer_config.json");
                if path.is_file() {
                    settings = read_object(&path)?;
                }
                let n_tokens = read.n_rows();
                let id_of = move |token: &str| read.token_to_id(token).map(|id| id as usize);
                (folder, n_tokens, Box::new(id_of))
            }
        };
        let mut config = new_config(model_type, sizes)?;
        config.insert("vocab_size".to_owned(), json!(n_tokens));
        for (key, token, default) in [
            ("pad_token_id", "pad_token", pieces.pad),
            ("bos_token_id", "cls_token", pieces.cls),
            ("cls_token_id", "cls_token", pieces.cls),
            ("eos_token_id", "sep_token", pieces.sep),
            ("sep_token_id", "sep_token", pieces.sep),
        ] {
            let id = id_of(special_token(&settings, token).unwrap_or(default));
            // The padding id is a row of a table: without such a token it stays the type's.
            if let Some(value) = config.get_mut(key)
                && (id.is_some() || key != "pad_token_id")
            {
                *value = json!(id);
            }
        }
        if matches!(tokenizer, NewTokenizer::WordPieces(_)) {
            let spec = Recipe::read(Path::new("config.json"), &config)?.spec;
            let settings = pieces.to_json(spec.max_length);
            fs_err::write(folder.join("tokenizer_config.json"), settings.to_string())?;
        }
        let pooling = Pooling::new(PoolingMode::Mean);
        Self::random(&config, folder, pooling, false, seed, device)
    }

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
        let network = Network::new(recipe, &modules, &Selection::default(), None, device)?;
        initialize(&network.parameters, network.encoder.spec().init, seed)?;
        Self::new(network, modules, settings, built)
    }
}

/// Fills the parameters by the encoder's rule. Each value depends on the seed, its parameter's name and
/// its place there, and on nothing else.
fn initialize(parameters: &Parameters, init: Init, seed: u64) -> Result<(), ModelError> {
    let _guard = tch::no_grad_guard();
    for span in parameters.spans() {
        let numel = span.numel() as usize;
        let values = match span.kind {
            LeafKind::Scale => vec![1.0; numel],
            LeafKind::Bias | LeafKind::Up => vec![0.0; numel],
            LeafKind::Down => draw_down(span, seed),
            LeafKind::Matrix | LeafKind::RelativeBias => draw(span, init.range, init, seed),
            LeafKind::OutputMatrix => draw(span, init.output_range, init, seed),
            LeafKind::Table { padding } => {
                let mut values = draw(span, init.range, init, seed);
                if let Some(row) = padding.filter(|_| init.zero_padding) {
                    let width = span.shape[1] as usize;
                    values[row as usize * width..][..width].fill(0.0);
                }
                values
            }
        };
        set(parameters, span, &values)?;
    }
    Ok(())
}

/// Fills the parameters of new adapters by peft's rule: the first factors uniform, of variance 1 / (3 inputs), which is
/// `kaiming_uniform_` with a = sqrt(5), the second zero.
pub(crate) fn initialize_adapters(parameters: &Parameters, seed: u64) -> Result<(), ModelError> {
    let _guard = tch::no_grad_guard();
    for (_, span) in parameters.spans_of(ADAPTER_ROOT) {
        if span.kind == LeafKind::Down {
            set(parameters, span, &draw_down(span, seed))?;
        }
    }
    Ok(())
}

fn set(parameters: &Parameters, span: &Span, values: &[f32]) -> Result<(), ModelError> {
    let mut target = parameters.flat().f_narrow(0, span.offset, span.numel())?;
    target.f_copy_(&Tensor::f_from_slice(values)?)?;
    Ok(())
}

/// The state that the values of a parameter are drawn from.
fn stream(span: &Span, seed: u64) -> u64 {
    let name = span.name.bytes();
    name.fold(seed, |state, byte| mix(state ^ u64::from(byte)))
}

/// Uniform values between -1 / sqrt(inputs) and that, for the first factor of an adapter.
fn draw_down(span: &Span, seed: u64) -> Vec<f32> {
    let stream = stream(span, seed);
    let bound = 1.0 / (span.shape[1] as f64).sqrt();
    let uniform = |i: u64| (mix(stream.wrapping_add(i)) >> 11) as f64 / (1u64 << 53) as f64;
    (0..span.numel() as u64)
        .map(|i| ((2.0 * uniform(i) - 1.0) * bound) as f32)
        .collect()
}

/// Normal values for a parameter.
fn draw(span: &Span, deviation: f64, init: Init, seed: u64) -> Vec<f32> {
    let stream = stream(span, seed);
    let mut values = vec![0.0; span.numel() as usize];
    values
        .par_iter_mut()
        .with_min_len(1 << 14)
        .enumerate()
        .for_each(|(i, value)| {
            let mut bits = mix(stream.wrapping_add(i as u64));
            let mut drawn = normal(bits);
            while init.cutoff.is_some_and(|cutoff| drawn.abs() > cutoff) {
                bits = mix(bits);
                drawn = normal(bits);
            }
            *value = (drawn * deviation) as f32;
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

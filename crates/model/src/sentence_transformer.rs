//! The whole model and its folder on disk.

use std::{collections::BTreeMap, fmt, path::Path};

use search::Similarity;
use tch::{Device, Kind};

use crate::{
    backend::Backend,
    compute::{Compute, Engine},
    encoder::{Encoder, family::KeyRules, spec::Dropout},
    error::ModelError,
    folder::{
        modules::{ModuleDescription, add_modules},
        read::Description,
        settings::{MIN_SEQ_LENGTH, Settings},
        weights::{self, Checkpoint},
        write::ModelFiles,
    },
    network::{Network, root_of},
    parameters::Parameters,
    tokenizer::Tokenizer,
};

/// A sentence encoder: a tokenizer, an encoder of tokens, pooling, and the modules after it.
pub struct SentenceTransformer {
    pub(crate) tokenizer: Tokenizer,
    pub(crate) network: Network,
    pub(crate) backend: Backend,
    pub(crate) settings: Settings,
    compute: Compute,
    pub(crate) descriptions: Vec<ModuleDescription>,
}

impl SentenceTransformer {
    /// Loads a folder: sentence-transformers' layout of version 2 to 6, or a plain Hugging Face
    /// folder, which gets mean pooling. Weights in F16 and BF16 become F32.
    ///
    /// # Errors
    ///
    /// For anything wrong with the folder, by file, key or tensor, before any forward pass.
    pub fn load(folder: &Path, device: Device) -> Result<Self, ModelError> {
        let description = Description::read(folder)?;
        let (recipe, settings) = (description.recipe, description.settings);
        let tokenizer = settings.tokenizer(&description.transformer, &recipe)?;
        // Looked for before the memory of the parameters is asked for.
        let checkpoint = Checkpoint::find(&description.transformer)?;
        let mut checkpoints = vec![(String::new(), checkpoint, recipe.family.keys)];
        for module in &description.modules {
            if let ModuleDescription::Dense { path, .. } = module {
                let checkpoint = Checkpoint::find(&folder.join(path))?;
                checkpoints.push((root_of(path), checkpoint, KeyRules::NONE));
            }
        }
        let mut n_bytes = 0;
        for (_, checkpoint, _) in &checkpoints {
            n_bytes += checkpoint.n_bytes()?;
        }
        let config_path = description.transformer.join("config.json");
        let weights = Some((config_path.as_path(), n_bytes));
        let network = Network::new(recipe, &description.modules, weights, device)?;
        for (root, checkpoint, keys) in &checkpoints {
            checkpoint.load(&network.parameters, root, keys)?;
        }
        Self::new(network, description.modules, settings, tokenizer)
    }

    /// Saves the model in the classic layout, into a folder that is made if need be.
    ///
    /// Weights are written in F32; the tokenizer's files are the ones that were loaded, byte for
    /// byte. Every file is whole before it takes its name, and modules.json comes last.
    ///
    /// # Errors
    ///
    /// When a file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<(), ModelError> {
        self.files()?.write(folder)
    }

    /// The files that [`Self::save`] would write, as of now. It takes as long as copying the weights.
    ///
    /// # Errors
    ///
    /// libtorch's, and when the tokenizer has no JSON form.
    pub fn files(&self) -> Result<ModelFiles, ModelError> {
        let mut files = ModelFiles::default();
        let (encoder, parameters) = (&self.network.encoder, &self.network.parameters);
        let family = encoder.family();
        self.settings
            .add_transformer(&mut files, &self.tokenizer, family)?;
        let weights = weights::to_safetensors(parameters, "")?;
        files.add("model.safetensors", weights);
        self.settings.add_sentence_transformers_config(&mut files);
        add_modules(
            &mut files,
            &self.descriptions,
            encoder.hidden_size(),
            |path| weights::to_safetensors(parameters, &root_of(path)),
        )?;
        Ok(files)
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The weights.
    pub fn parameters(&self) -> &Parameters {
        &self.network.parameters
    }

    /// The encoder.
    pub fn encoder(&self) -> &Encoder {
        &self.network.encoder
    }

    /// The number of dimensions of an embedding.
    pub fn dimension(&self) -> i64 {
        self.network.dimension()
    }

    /// The largest number of tokens of a text, special tokens included.
    pub fn max_seq_length(&self) -> usize {
        self.settings.max_seq_length
    }

    /// Sets the largest number of tokens of a text.
    ///
    /// # Errors
    ///
    /// When it is less than 3 or more than the model has positions for.
    pub fn set_max_seq_length(&mut self, max_seq_length: usize) -> Result<(), ModelError> {
        let limit = self.network.encoder.spec().max_length;
        if !(MIN_SEQ_LENGTH <= max_seq_length && max_seq_length <= limit) {
            return Err(ModelError::Input(format!(
                "max_seq_length: found {max_seq_length}, allowed: {MIN_SEQ_LENGTH} to {limit}"
            )));
        }
        self.tokenizer.set_max_length(max_seq_length)?;
        self.settings.max_seq_length = max_seq_length;
        Ok(())
    }

    /// The model's prompts, by name.
    pub fn prompts(&self) -> &BTreeMap<String, String> {
        &self.settings.prompts
    }

    /// The name of the prompt that is used where none is asked for.
    pub fn default_prompt_name(&self) -> Option<&str> {
        self.settings.default_prompt_name.as_deref()
    }

    /// The similarity that the model is meant for.
    pub fn similarity_fn_name(&self) -> Similarity {
        self.settings.similarity_fn_name
    }

    /// The dropout probabilities that training uses.
    pub fn dropout(&self) -> Dropout {
        self.network.dropout
    }

    /// Sets all dropout probabilities that the encoder has, for this model in memory: config.json keeps its own.
    ///
    /// # Errors
    ///
    /// When it is not 0 or more and less than 1.
    pub fn set_dropout(&mut self, probability: f64) -> Result<(), ModelError> {
        if !(0.0..1.0).contains(&probability) {
            return Err(ModelError::Input(format!(
                "dropout: found {probability}, allowed: 0 or more and less than 1"
            )));
        }
        let sites = self.network.encoder.spec().dropout;
        self.network.dropout = sites.with_probability(probability);
        Ok(())
    }

    /// The settings of computing.
    pub fn compute(&self) -> Compute {
        self.compute
    }

    /// Sets how matrix products are computed, in [`Self::embed`], [`Self::encode`] and
    /// [`Self::forward_backward`].
    ///
    /// # Errors
    ///
    /// When the processor lacks it, or the model is on a device that it does not apply to.
    pub fn set_compute(&mut self, compute: Compute) -> Result<(), ModelError> {
        let backend = Backend::new(compute, self.network.parameters.device())?;
        let kind = match backend.engine() {
            Engine::Libtorch => compute.precision.kind(),
            _ => Kind::Float,
        };
        self.network.parameters.round_to(kind)?;
        self.backend = backend;
        self.compute = compute;
        Ok(())
    }

    /// The engine in use, after `Auto` is resolved for this device: [`Engine::Kernels`] or [`Engine::Libtorch`].
    pub fn engine(&self) -> Engine {
        self.backend.engine()
    }

    /// The number of the encoder's layers.
    pub fn n_layers(&self) -> usize {
        self.network.encoder.n_layers()
    }

    /// The model of a network and its settings.
    pub(crate) fn new(
        network: Network,
        descriptions: Vec<ModuleDescription>,
        settings: Settings,
        tokenizer: Tokenizer,
    ) -> Result<Self, ModelError> {
        let compute = Compute::default();
        Ok(Self {
            backend: Backend::new(compute, network.parameters.device())?,
            tokenizer,
            network,
            settings,
            compute,
            descriptions,
        })
    }
}

// The weights, the vocabulary and the files kept for saving are too long to print.
impl fmt::Debug for SentenceTransformer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SentenceTransformer")
            .field("spec", self.network.encoder.spec())
            .field("modules", &self.descriptions)
            .field("max_seq_length", &self.settings.max_seq_length)
            .finish_non_exhaustive()
    }
}

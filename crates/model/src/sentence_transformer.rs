//! The whole model and its folder on disk.

use std::{collections::BTreeMap, fmt, path::Path};

use search::Similarity;
use serde_json::Value;
use tch::{Kind, Tensor};

use crate::{
    backend::Backend,
    compute::{Compute, Engine},
    encoder::{Encoder, adapter::Selection, spec::Dropout},
    error::ModelError,
    folder::{
        adapter::{ADAPTER_CONFIG, ADAPTER_WEIGHTS, AdapterConfig},
        modules::{ModuleDescription, add_modules},
        settings::{MIN_SEQ_LENGTH, Settings},
        weights::{self, Kept},
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
    /// The settings of the adapter that is trained, where there is one.
    pub(crate) adapter: Option<AdapterConfig>,
    /// The parts that are not trained, by their names.
    pub(crate) frozen: Vec<String>,
    /// The encoder's tensors that nothing computes with.
    pub(crate) kept: Vec<Kept>,
}

impl SentenceTransformer {
    /// Saves the model in the classic layout, into a folder that is made if need be. A model with an adapter is saved as
    /// sentence-transformers does: the adapter in the place of weights, and the name of its base.
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
        let (family, parameters) = (self.network.encoder.family(), &self.network.parameters);
        match &self.adapter {
            // sentence-transformers takes a config.json beside an adapter for that of a whole model.
            Some(adapter) => {
                files.add_json(ADAPTER_CONFIG, &Value::Object(adapter.json.clone()));
                self.settings
                    .add_tokenizer(&mut files, &self.tokenizer, family)?;
                let weights = weights::adapter_to_safetensors(parameters)?;
                files.add(ADAPTER_WEIGHTS, weights);
            }
            None => {
                self.settings
                    .add_transformer(&mut files, &self.tokenizer, family)?;
                let weights = weights::encoder_to_safetensors(parameters, &[], &self.kept)?;
                files.add("model.safetensors", weights);
            }
        }
        self.add_other_modules(&mut files)?;
        Ok(files)
    }

    /// As [`Self::files`], with the adapter, where there is one, added to the weights: those of a whole model.
    ///
    /// # Errors
    ///
    /// As [`Self::files`].
    pub fn merged_files(&self) -> Result<ModelFiles, ModelError> {
        let mut files = ModelFiles::default();
        let (encoder, parameters) = (&self.network.encoder, &self.network.parameters);
        self.settings
            .add_transformer(&mut files, &self.tokenizer, encoder.family())?;
        let merged = encoder.transformer().merged_weights(parameters)?;
        let weights = weights::encoder_to_safetensors(parameters, &merged, &self.kept)?;
        files.add("model.safetensors", weights);
        self.add_other_modules(&mut files)?;
        Ok(files)
    }

    fn add_other_modules(&self, files: &mut ModelFiles) -> Result<(), ModelError> {
        self.settings.add_sentence_transformers_config(files);
        let parameters = &self.network.parameters;
        add_modules(
            files,
            &self.descriptions,
            self.network.encoder.hidden_size(),
            |path| weights::to_safetensors(parameters, &root_of(path)),
        )
    }

    /// Adds the adapter to the weights, which makes it a whole model of which all is trained; one without an adapter
    /// stays as it is.
    ///
    /// # Errors
    ///
    /// libtorch's, such as for lack of memory: while it works, the weights are there twice.
    pub fn merge_adapter(&mut self) -> Result<(), ModelError> {
        if self.adapter.is_none() {
            return Ok(());
        }
        let (encoder, from) = (&self.network.encoder, &self.network.parameters);
        let mut network = Network::new(
            encoder.recipe().clone(),
            &self.descriptions,
            &Selection::default(),
            None,
            from.device(),
        )?;
        network.dropout = Dropout {
            adapters: None,
            ..self.network.dropout
        };
        let merged = encoder.transformer().merged_weights(from)?;
        let _guard = tch::no_grad_guard();
        for span in network.parameters.spans() {
            let mut to = network.parameters.view(&span.name)?;
            to.f_copy_(&from.view(&span.name)?)?;
            let span = from.span(&span.name)?;
            for (offset, values) in &merged {
                let place = usize::try_from(span.offset - offset).ok();
                if let Some(values) =
                    place.and_then(|place| values.get(place..place + span.numel() as usize))
                {
                    to.f_view([-1])?.f_copy_(&Tensor::f_from_slice(values)?)?;
                }
            }
        }
        self.network = network;
        (self.adapter, self.frozen) = (None, Vec::new());
        self.set_compute(self.compute)
    }

    /// The settings of the adapter that is trained in place of the encoder, where there is one.
    pub fn adapter(&self) -> Option<&AdapterConfig> {
        self.adapter.as_ref()
    }

    /// The parts that are not trained, by their names; those beside an adapter are not named.
    pub fn frozen(&self) -> &[String] {
        &self.frozen
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
        let sites = Dropout {
            adapters: self.network.dropout.adapters,
            ..self.network.encoder.spec().dropout
        };
        self.network.dropout = sites.with_probability(probability);
        Ok(())
    }

    /// Sets the probability of dropout before the adapters, where there are any, for this model in memory:
    /// adapter_config.json keeps its own.
    ///
    /// # Errors
    ///
    /// When it is not 0 or more and less than 1.
    pub fn set_adapter_dropout(&mut self, probability: f64) -> Result<(), ModelError> {
        if !(0.0..1.0).contains(&probability) {
            return Err(ModelError::Input(format!(
                "adapter dropout: found {probability}, allowed: 0 or more and less than 1"
            )));
        }
        let adapters = &mut self.network.dropout.adapters;
        *adapters = adapters.map(|_| probability);
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
            adapter: None,
            frozen: Vec::new(),
            kept: Vec::new(),
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

//! The whole model and its folder on disk.

use std::{collections::BTreeMap, fmt, path::Path, sync::Mutex};

use kernels::gemm::Gemm;
use tch::{Device, Kind};

use crate::{
    compute::{Compute, Engine},
    error::ModelError,
    folder::{
        modules::{ModuleDescription, add_modules},
        read::Description,
        settings::{MIN_SEQ_LENGTH, Settings},
        weights::{self, Checkpoint},
        write::ModelFiles,
    },
    modules::{Dense, Module, Pooling},
    mpnet::{self, Dropout, MpNet, fused::Workspace},
    parameters::{Layout, Parameters},
    tokenizer::Tokenizer,
};

/// A sentence encoder: a tokenizer, MPNet, pooling, and what follows it.
pub struct SentenceTransformer {
    pub(crate) tokenizer: Tokenizer,
    pub(crate) encoder: MpNet,
    pub(crate) pooling: Pooling,
    /// What follows the pooling.
    pub(crate) modules: Vec<Module>,
    pub(crate) parameters: Parameters,
    pub(crate) dropout: Dropout,
    pub(crate) descriptions: Vec<ModuleDescription>,
    pub(crate) settings: Settings,
    pub(crate) compute: Compute,
    /// What the compute's engine comes to on the device.
    pub(crate) engine: Engine,
    pub(crate) gemm: Box<dyn Gemm>,
    /// One pass at a time; kept so that its buffers are.
    pub(crate) workspace: Mutex<Workspace>,
}

impl SentenceTransformer {
    /// Loads a folder: sentence-transformers' layout of version 2 to 6, or a plain Hugging Face
    /// folder, which gets mean pooling. Weights in F16 and BF16 become F32.
    ///
    /// # Errors
    ///
    /// Whatever is wrong with the folder, by file, key or tensor, found before any forward pass.
    pub fn load(folder: &Path, device: Device) -> Result<Self, ModelError> {
        let description = Description::read(folder)?;
        let tokenizer = description
            .settings
            .tokenizer(&description.transformer, description.config.vocab_size)?;
        // Looked for before the memory of the parameters is asked for.
        let mut checkpoints = vec![(String::new(), Checkpoint::find(&description.transformer)?)];
        for module in &description.modules {
            if let ModuleDescription::Dense { path, .. } = module {
                let checkpoint = Checkpoint::find(&folder.join(path))?;
                checkpoints.push((scope_of(path), checkpoint));
            }
        }
        let mut n_bytes = 0;
        for (_, checkpoint) in &checkpoints {
            n_bytes += checkpoint.n_bytes()?;
        }
        let model = Self::assemble(
            &description.config,
            description.modules,
            description.settings,
            tokenizer,
            Some((&description.transformer.join("config.json"), n_bytes)),
            device,
        )?;
        for (scope, checkpoint) in &checkpoints {
            checkpoint.load(&model.parameters, scope)?;
        }
        Ok(model)
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
        self.settings.add_transformer(&mut files, &self.tokenizer)?;
        let weights = weights::to_safetensors(&self.parameters, "")?;
        files.add("model.safetensors", weights);
        self.settings.add_sentence_transformers_config(&mut files);
        add_modules(
            &mut files,
            &self.descriptions,
            self.encoder.config().hidden_size,
            |path| weights::to_safetensors(&self.parameters, &scope_of(path)),
        )?;
        Ok(files)
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The weights.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The encoder.
    pub fn encoder(&self) -> &MpNet {
        &self.encoder
    }

    /// The number of dimensions of an embedding.
    pub fn dimension(&self) -> i64 {
        let pooled = self.encoder.config().hidden_size * self.pooling.modes.len() as i64;
        self.modules
            .iter()
            .fold(pooled, |width, module| match module {
                Module::Dense(dense) => dense.shape.out_features,
                Module::Normalize => width,
            })
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
        let limit = self.encoder.config().max_sentence_length();
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
        self.dropout
    }

    /// Sets both dropout probabilities, for this model in memory: config.json keeps its own.
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
        self.dropout = Dropout {
            hidden: probability,
            attention: probability,
        };
        Ok(())
    }

    /// How matrix products are computed.
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
        let device = self.parameters.device();
        let gemm = compute.gemm(device)?;
        let engine = compute.engine.on(device)?;
        let kind = match engine {
            Engine::Libtorch => compute.precision.kind(),
            _ => Kind::Float,
        };
        self.parameters.round_to(kind)?;
        self.gemm = gemm;
        self.engine = engine;
        self.compute = compute;
        Ok(())
    }

    /// Who computes: [`Engine::Kernels`] or [`Engine::Libtorch`].
    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// The number of the encoder's layers.
    pub fn n_layers(&self) -> usize {
        self.encoder.config().num_hidden_layers as usize
    }

    /// Lays out the parameters, zeroed; `weights` are the configuration and the bytes of all weights' files, where
    /// there are any.
    pub(crate) fn assemble(
        config: &mpnet::Config,
        descriptions: Vec<ModuleDescription>,
        settings: Settings,
        tokenizer: Tokenizer,
        weights: Option<(&Path, u64)>,
        device: Device,
    ) -> Result<Self, ModelError> {
        let mut layout = Layout::default();
        let encoder = MpNet::new(config, &mut layout.root(""));
        layout.end_encoder();
        let (mut pooling, mut modules) = (None, Vec::new());
        for description in &descriptions {
            match description {
                ModuleDescription::Pooling(described) => pooling = Some(described.clone()),
                ModuleDescription::Dense { path, shape } => {
                    let dense = Dense::new(*shape, &mut layout.root(&scope_of(path)));
                    modules.push(Module::Dense(dense));
                }
                ModuleDescription::Normalize => modules.push(Module::Normalize),
            }
        }
        let pooling = pooling.ok_or_else(|| {
            ModelError::Input("the modules have no Pooling: a sentence needs one".to_owned())
        })?;
        // A weight is 2 bytes at the least. A config that asks for far more than there are gets no
        // memory; one that is off by a little gets the message about the tensor that differs.
        let numel = layout.numel();
        if let Some((path, n_bytes)) = weights
            && numel as u64 > LOOSE_NUMEL + 4 * n_bytes
        {
            return Err(ModelError::TooLarge {
                path: path.to_owned(),
                numel,
                n_bytes,
            });
        }
        let parameters = layout.build(device)?;
        let dropout = Dropout {
            hidden: config.hidden_dropout_prob,
            attention: config.attention_probs_dropout_prob,
        };
        Ok(Self {
            tokenizer,
            encoder,
            pooling,
            modules,
            parameters,
            dropout,
            descriptions,
            settings,
            compute: Compute::default(),
            engine: Engine::Auto.on(device)?,
            gemm: Compute::default().gemm(device)?,
            workspace: Mutex::default(),
        })
    }
}
// The weights, the vocabulary and the files kept for saving are too long to print.
impl fmt::Debug for SentenceTransformer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SentenceTransformer")
            .field("config", self.encoder.config())
            .field("modules", &self.descriptions)
            .field("max_seq_length", &self.settings.max_seq_length)
            .finish_non_exhaustive()
    }
}

/// So many parameters are laid out whatever the weights are: 64 MiB.
const LOOSE_NUMEL: u64 = 16 << 20;

/// What the names of a module's parameters begin with.
fn scope_of(path: &Path) -> String {
    format!("{}.", path.display())
}

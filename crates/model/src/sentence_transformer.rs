//! The whole model, from texts to embeddings, and its folder on disk.

use std::{
    collections::BTreeMap,
    fmt,
    ops::ControlFlow,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use kernels::{gemm::Gemm, random::mix};
use rayon::prelude::*;
use search::Similarity;
use serde_json::{Value, json};
use shim::{slice, slice_mut};
use tch::{Device, Kind, Tensor};

use crate::{
    compute::{Compute, Engine},
    error::ModelError,
    folder::{self, Description, MIN_SEQ_LENGTH, ModelFiles, ModuleDescription, Settings},
    modules::{Dense, Module, Pooling, normalize},
    mpnet::{
        self, Dropout, MpNet,
        fused::{Keep, PassOptions, Workspace},
    },
    packed::{ChunkedBatch, PackedBatch},
    parameters::{Layout, Parameters},
    static_batch::{StaticBatch, StaticShape},
    tokenizer::Tokenizer,
    weights::{self, Checkpoint},
};

/// A sentence encoder: a tokenizer, MPNet, pooling, and what follows it.
pub struct SentenceTransformer {
    tokenizer: Tokenizer,
    encoder: MpNet,
    pooling: Pooling,
    /// What follows the pooling.
    modules: Vec<Module>,
    parameters: Parameters,
    dropout: Dropout,
    descriptions: Vec<ModuleDescription>,
    settings: Settings,
    compute: Compute,
    /// What the compute's engine comes to on the device.
    engine: Engine,
    gemm: Box<dyn Gemm>,
    /// One pass at a time; kept so that its buffers are.
    workspace: Mutex<Workspace>,
}

/// Whether a forward pass drops units out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// With dropout, drawn from libtorch's generators, which are seeded first.
    Train {
        /// The same seed drops the same units.
        seed: u64,
    },
    /// Without dropout.
    Eval,
}

/// What texts are to each other in a search.
///
/// `encode_query` and `encode_document` of sentence-transformers 6.0.1, which differ from `encode` in the
/// prompt that is taken where none is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// What is searched for: the prompt `query`.
    Query,
    /// What is searched in: the first of the prompts `document`, `passage` and `corpus` that the model has.
    Document,
}

impl Task {
    /// The names of the prompts that stand for the task, the first wins.
    pub fn prompt_names(self) -> &'static [&'static str] {
        match self {
            Self::Query => &["query"],
            Self::Document => &["document", "passage", "corpus"],
        }
    }
}

/// How to encode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodeOptions {
    /// The largest number of sentences in a batch.
    pub batch_size: usize,
    /// The largest number of tokens in a batch; a longer sentence is a batch of its own.
    pub batch_tokens: usize,
    /// A text put before every text. It wins over `prompt_name`.
    pub prompt: Option<String>,
    /// The name of one of the model's prompts; without it the task's prompt, without that the model's
    /// default prompt.
    pub prompt_name: Option<String>,
    /// What the texts are, where that makes a difference to the model.
    pub task: Option<Task>,
    /// Whether to scale embeddings to length 1.
    pub normalize_embeddings: bool,
    /// Keep only so many leading dimensions, before normalizing; without it, the model's setting.
    pub truncate_dim: Option<usize>,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        Self {
            batch_size: 256,
            batch_tokens: 2048,
            prompt: None,
            prompt_name: None,
            task: None,
            normalize_embeddings: false,
            truncate_dim: None,
        }
    }
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
        folder::add_modules(
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

    fn pass_options(&self, dropout: Dropout, seed: u64) -> PassOptions<'_> {
        PassOptions {
            parameters: &self.parameters,
            gemm: self.gemm.as_ref(),
            dropout,
            seed,
        }
    }

    /// Sentence embeddings, `[sentences, dimension]`, in the caller's order, with autograd.
    ///
    /// The way for devices without kernels of our own, and the measure of those: [`Self::embed`] and
    /// [`Self::forward_backward`] give the same numbers, on the CPU faster.
    ///
    /// # Errors
    ///
    /// When a token id or a sentence is beyond the model's tables, or libtorch refuses a call.
    pub fn forward(&self, batch: &PackedBatch, mode: Mode) -> Result<Tensor, ModelError> {
        let dropout = match mode {
            Mode::Train { seed } => {
                tch::manual_seed(seed as i64);
                self.dropout
            }
            Mode::Eval => Dropout::NONE,
        };
        self.parameters.refresh()?;
        let tokens = self.encoder.forward(&self.parameters, batch, dropout)?;
        self.after_pooling(self.pooling.forward(&tokens, batch)?)
    }

    /// Sentence embeddings, `[sentences, dimension]`, in the caller's order, without dropout or autograd.
    ///
    /// # Errors
    ///
    /// As [`Self::forward`].
    pub fn embed(&self, batch: &PackedBatch) -> Result<Tensor, ModelError> {
        let _guard = tch::no_grad_guard();
        if self.engine == Engine::Libtorch {
            return self.forward(batch, Mode::Eval);
        }
        let mut work = self.workspace();
        let tokens = self.encoder.fused_forward(
            &self.pass_options(Dropout::NONE, 0),
            batch,
            Keep::Nothing,
            &mut work,
        )?;
        self.after_pooling(self.pooling.fused_forward(tokens, batch)?)
    }

    /// As [`Self::embed`], chunk by chunk.
    ///
    /// # Errors
    ///
    /// As [`Self::forward`].
    pub fn embed_chunks(&self, batch: &ChunkedBatch) -> Result<Tensor, ModelError> {
        let mut embeddings = self.room_for(batch)?;
        for (i, chunk) in batch.chunks().iter().enumerate() {
            let _ = embeddings.f_index_copy_(0, batch.rows(i), &self.embed(chunk)?)?;
        }
        Ok(embeddings)
    }

    /// As [`Self::embed_chunks`], followed by the embeddings of earlier layers, each pooled as the
    /// last: those of the tokens that go into layer 0 for 0, and so on.
    ///
    /// # Errors
    ///
    /// As [`Self::forward`], and when a layer is not below [`Self::n_layers`].
    pub fn embed_layers(
        &self,
        batch: &ChunkedBatch,
        layers: &[usize],
    ) -> Result<Vec<Tensor>, ModelError> {
        self.check_layers(layers)?;
        let _guard = tch::no_grad_guard();
        let mut work = self.workspace();
        let mut embeddings = self.room_for_layers(batch, layers)?;
        for (i, chunk) in batch.chunks().iter().enumerate() {
            let keep = if layers.is_empty() {
                Keep::Nothing
            } else {
                Keep::Everything
            };
            let parts = self.layers_forward(chunk, layers, Dropout::NONE, 0, keep, &mut work)?;
            for (to, part) in embeddings.iter_mut().zip(&parts) {
                let _ = to.f_index_copy_(0, batch.rows(i), &part.embeddings)?;
            }
        }
        Ok(embeddings)
    }

    /// The number of the encoder's layers.
    pub fn n_layers(&self) -> usize {
        self.encoder.config().num_hidden_layers as usize
    }

    fn check_layers(&self, layers: &[usize]) -> Result<(), ModelError> {
        match layers.iter().find(|&&layer| layer >= self.n_layers()) {
            None => Ok(()),
            Some(layer) => Err(ModelError::Input(format!(
                "layer {layer}: the model has {} layers, counted from 0",
                self.n_layers()
            ))),
        }
    }

    /// A training step's forward and backward pass: the embeddings of `batch` under dropout, `loss` of
    /// them, and its gradient by the weights, which is added to `gradient`, `[n]` in the layout of
    /// [`Parameters::flat`]. Returns the loss.
    ///
    /// `loss` gets `[sentences, dimension]` in the caller's order, and returns a scalar and its gradient by
    /// the embeddings, of the same shape.
    ///
    /// A batch of several chunks takes the memory of its largest. All are embedded, but what their backward
    /// pass needs is thrown away, except for the last; once the gradient by the embeddings is there, each is
    /// embedded again with what that takes (gradient caching, Gao et al. 2021, [arXiv
    /// 2101.06983](https://arxiv.org/abs/2101.06983)).
    ///
    /// `seed` and the position of an element in the batch decide what is dropped out: the same seed drops the
    /// same, both times and however the batch is cut into chunks. On devices without kernels of our own it
    /// also depends on the cut.
    ///
    /// # Errors
    ///
    /// As [`Self::forward`], what `loss` fails with, and when the gradient has another shape than the
    /// parameters or the embeddings.
    pub fn forward_backward<E: From<ModelError>>(
        &self,
        batch: &ChunkedBatch,
        seed: u64,
        gradient: &Tensor,
        loss: impl FnOnce(&Tensor) -> Result<(Tensor, Tensor), E>,
    ) -> Result<Tensor, E> {
        self.forward_backward_layers(batch, &[], seed, gradient, |embeddings| {
            let (value, d_embeddings) = loss(&embeddings[0])?;
            Ok((value, vec![d_embeddings]))
        })
    }

    /// As [`Self::forward_backward`], for a loss that looks at earlier layers too: it gets what
    /// [`Self::embed_layers`] gives, under dropout, and returns the gradient by each.
    ///
    /// # Errors
    ///
    /// As [`Self::forward_backward`], and when a layer is not below [`Self::n_layers`].
    pub fn forward_backward_layers<E: From<ModelError>>(
        &self,
        batch: &ChunkedBatch,
        layers: &[usize],
        seed: u64,
        gradient: &Tensor,
        loss: impl FnOnce(&[Tensor]) -> Result<(Tensor, Vec<Tensor>), E>,
    ) -> Result<Tensor, E> {
        self.check_layers(layers)?;
        let mut work = self.workspace();
        let chunks = batch.chunks();
        let mut embeddings = self.room_for_layers(batch, layers)?;
        let mut kept = None;
        for (i, chunk) in chunks.iter().enumerate() {
            // Earlier layers are there to be pooled where all is kept.
            let keep = if i + 1 == chunks.len() || !layers.is_empty() {
                Keep::Everything
            } else {
                Keep::Nothing
            };
            batch.check_stopped()?;
            let parts = self.training_forward(chunk, layers, seed, keep, &mut work)?;
            let _guard = tch::no_grad_guard();
            for (to, part) in embeddings.iter_mut().zip(&parts) {
                let _ = to
                    .f_index_copy_(0, batch.rows(i), &part.embeddings)
                    .map_err(ModelError::from)?;
            }
            kept = Some(parts);
        }
        let (value, d_embeddings) = loss(&embeddings)?;
        let shapes = |tensors: &[Tensor]| tensors.iter().map(Tensor::size).collect::<Vec<_>>();
        if shapes(&d_embeddings) != shapes(&embeddings) {
            let (found, expected) = (shapes(&d_embeddings), shapes(&embeddings));
            return Err(ModelError::Input(format!(
                "the gradients by the embeddings have shapes {found:?}, expected {expected:?}"
            ))
            .into());
        }
        for (i, chunk) in chunks.iter().enumerate().rev() {
            batch.check_stopped()?;
            let parts = match kept.take() {
                Some(parts) => parts,
                None => self.training_forward(chunk, layers, seed, Keep::Everything, &mut work)?,
            };
            let d_parts = d_embeddings
                .iter()
                .map(|d| d.f_index_select(0, batch.rows(i)))
                .collect::<Result<Vec<_>, _>>()
                .map_err(ModelError::from)?;
            self.training_backward(chunk, layers, seed, &parts, &d_parts, gradient, &mut work)?;
        }
        Ok(value)
    }

    /// Whether batches of this model can be put in the place of each other: libtorch computes, and no part of a
    /// batch but its numbers decides what is computed.
    ///
    /// # Errors
    ///
    /// When the batch is beyond the model's tables.
    pub fn static_shape(&self, batch: &ChunkedBatch) -> Result<Option<StaticShape>, ModelError> {
        if self.engine != Engine::Libtorch || !self.pooling.include_prompt {
            return Ok(None);
        }
        for chunk in batch.chunks() {
            self.encoder.check_fits(chunk)?;
        }
        Ok(StaticShape::of(batch))
    }

    /// [`Self::forward_backward`] of what `batch` holds, by operations that a graph can record: the same for all
    /// batches of the shape. Dropout is drawn by libtorch's generator as it is seeded.
    ///
    /// # Errors
    ///
    /// As [`Self::forward_backward`].
    pub fn forward_backward_static<E: From<ModelError>>(
        &self,
        batch: &StaticBatch,
        gradient: &Tensor,
        loss: impl FnOnce(&Tensor) -> Result<(Tensor, Tensor), E>,
    ) -> Result<Tensor, E> {
        let parameters = &self.parameters;
        let embed = || -> Result<Tensor, ModelError> {
            parameters.round_again()?;
            let batch = batch.on_device();
            let tokens = self
                .encoder
                .forward_on_device(parameters, batch, self.dropout)?;
            self.after_pooling(self.pooling.pool(&tokens, batch)?)
        };
        let embeddings = embed()?;
        let detached = embeddings.f_detach().map_err(ModelError::from)?;
        let (value, d_embeddings) = loss(&detached)?;
        let go_back = || -> Result<(), ModelError> {
            // The gradient of this sum by the embeddings is theirs.
            let total = embeddings.f_mul(&d_embeddings)?.f_sum(Kind::Float)?;
            parameters.backward(&total, gradient)
        };
        go_back()?;
        Ok(value)
    }

    /// The embeddings of a chunk under dropout: the last layer's, then those of `layers`.
    fn training_forward(
        &self,
        chunk: &PackedBatch,
        layers: &[usize],
        seed: u64,
        keep: Keep,
        work: &mut Workspace,
    ) -> Result<Vec<Part>, ModelError> {
        if self.engine == Engine::Libtorch {
            // libtorch's generator knows nothing of a chunk's place.
            tch::manual_seed(mix(seed ^ chunk.first_token() as u64) as i64);
        }
        self.layers_forward(chunk, layers, self.dropout, seed, keep, work)
    }

    fn layers_forward(
        &self,
        chunk: &PackedBatch,
        layers: &[usize],
        dropout: Dropout,
        seed: u64,
        keep: Keep,
        work: &mut Workspace,
    ) -> Result<Vec<Part>, ModelError> {
        let follow = |pooled: Tensor| -> Result<Part, ModelError> {
            let embeddings = self.after_pooling(pooled.shallow_clone())?;
            Ok(Part { pooled, embeddings })
        };
        let _guard = (keep == Keep::Nothing).then(tch::no_grad_guard);
        let mut parts = Vec::with_capacity(1 + layers.len());
        if self.engine == Engine::Libtorch {
            self.parameters.refresh()?;
            let states = if layers.is_empty() {
                vec![self.encoder.forward(&self.parameters, chunk, dropout)?]
            } else {
                self.encoder
                    .hidden_states(&self.parameters, chunk, dropout)?
            };
            for &layer in [states.len() - 1].iter().chain(layers) {
                parts.push(follow(self.pooling.forward(&states[layer], chunk)?)?);
            }
            return Ok(parts);
        }
        let requires_grad = keep == Keep::Everything;
        let options = self.pass_options(dropout, seed);
        let tokens = self.encoder.fused_forward(&options, chunk, keep, work)?;
        let n_values = tokens.len();
        let pooled = self.pooling.fused_forward(tokens, chunk)?;
        parts.push(follow(pooled.f_set_requires_grad(requires_grad)?)?);
        for &layer in layers {
            let tokens = work.input_of(layer, n_values);
            let pooled = self.pooling.fused_forward(tokens, chunk)?;
            parts.push(follow(pooled.f_set_requires_grad(requires_grad)?)?);
        }
        Ok(parts)
    }

    /// Adds to `gradient` what the gradients `d_parts` of a chunk's embeddings come to, after
    /// [`Self::training_forward`] of that chunk with [`Keep::Everything`].
    #[expect(
        clippy::too_many_arguments,
        reason = "what the forward pass took and gave, and the two gradients"
    )]
    fn training_backward(
        &self,
        chunk: &PackedBatch,
        layers: &[usize],
        seed: u64,
        parts: &[Part],
        d_parts: &[Tensor],
        gradient: &Tensor,
        work: &mut Workspace,
    ) -> Result<(), ModelError> {
        self.parameters.check_gradient(gradient)?;
        let is_fused = self.engine != Engine::Libtorch;
        let d_pooled = if is_fused && self.modules.is_empty() {
            let contiguous = d_parts.iter().map(Tensor::f_contiguous);
            contiguous.collect::<Result<Vec<_>, _>>()?
        } else {
            // The gradient of this sum by the embeddings is theirs.
            let mut total: Option<Tensor> = None;
            for (part, d_part) in parts.iter().zip(d_parts) {
                let product = part.embeddings.f_mul(d_part)?.f_sum(Kind::Float)?;
                total = Some(match total {
                    None => product,
                    Some(total) => total.f_add(&product)?,
                });
            }
            let Some(total) = total else {
                return Ok(());
            };
            let inputs: Vec<&Tensor> = if is_fused {
                parts.iter().map(|part| &part.pooled).collect()
            } else {
                Vec::new()
            };
            let d_inputs = self.parameters.backward_to(&total, gradient, &inputs)?;
            if !is_fused {
                return Ok(());
            }
            let contiguous = d_inputs.iter().map(Tensor::f_contiguous);
            contiguous.collect::<Result<Vec<_>, _>>()?
        };
        let d_pooled = d_pooled.iter().map(slice).collect::<Result<Vec<_>, _>>()?;
        let mut gradient = gradient.shallow_clone();
        self.encoder.fused_backward(
            &self.pass_options(self.dropout, seed),
            chunk,
            layers,
            |layer, tokens, d_tokens| {
                // The output has no number among the layers and comes first.
                let place = layers.iter().position(|&prior| prior == layer);
                let d_pooled = d_pooled[place.map_or(0, |place| 1 + place)];
                self.pooling
                    .fused_backward(tokens, d_pooled, chunk, d_tokens);
            },
            slice_mut(&mut gradient)?,
            work,
        )
    }

    /// What follows the pooling: sentence embeddings from pooled token embeddings.
    fn after_pooling(&self, pooled: Tensor) -> Result<Tensor, ModelError> {
        let mut embeddings = pooled;
        for module in &self.modules {
            embeddings = match module {
                Module::Dense(dense) => dense.forward(&self.parameters, &embeddings)?,
                Module::Normalize => normalize(&embeddings)?,
            };
        }
        Ok(embeddings)
    }

    /// Where those of the last layer and of earlier ones go.
    fn room_for_layers(
        &self,
        batch: &ChunkedBatch,
        layers: &[usize],
    ) -> Result<Vec<Tensor>, ModelError> {
        (0..=layers.len()).map(|_| self.room_for(batch)).collect()
    }

    /// Where the embeddings of a batch go, `[sentences, dimension]`.
    fn room_for(&self, batch: &ChunkedBatch) -> Result<Tensor, ModelError> {
        let shape = [batch.sentences() as i64, self.dimension()];
        Ok(Tensor::f_zeros(
            shape,
            (Kind::Float, self.parameters.device()),
        )?)
    }

    fn workspace(&self) -> MutexGuard<'_, Workspace> {
        // A pass that panicked left numbers behind that the next pass overwrites.
        self.workspace
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Embeddings of texts, `[texts, dimension]`, `f32` on the CPU, in order.
    ///
    /// `on_progress` is called after every batch with the number of texts done so far, and as often while the
    /// texts are being made into ids.
    ///
    /// # Errors
    ///
    /// [`ModelError::Stopped`] when `on_progress` breaks; an unknown prompt name; what
    /// [`Self::forward`] fails with.
    pub fn encode(
        &self,
        texts: &[&str],
        options: &EncodeOptions,
        on_progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Tensor, ModelError> {
        let (ids, prompt_length) = self.prompted_ids(texts, self.prompt(options)?, on_progress)?;
        let sentences: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
        self.encode_packed(&sentences, prompt_length, options, on_progress)
    }

    /// Token ids of texts with a prompt before each, and how many tokens at the start are the prompt's.
    /// `on_progress` is told of no text done, so that it can break off.
    ///
    /// # Errors
    ///
    /// When the tokenizer fails on a text, and [`ModelError::Stopped`] when `on_progress` breaks.
    fn prompted_ids(
        &self,
        texts: &[&str],
        prompt: &str,
        on_progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<(Vec<Vec<u32>>, usize), ModelError> {
        let prompt_length = self.tokenizer.prompt_length(prompt)?;
        Ok((self.tokenize(texts, prompt, on_progress)?, prompt_length))
    }

    /// The ids of texts with `prompt` before each. `on_progress` is told of no text done, so that it can break off.
    fn tokenize(
        &self,
        texts: &[&str],
        prompt: &str,
        on_progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Vec<Vec<u32>>, ModelError> {
        /// Enough to keep all cores busy for a fraction of a second.
        const N_TEXTS: usize = 4096;
        let mut ids = Vec::with_capacity(texts.len());
        for texts in texts.chunks(N_TEXTS) {
            if prompt.is_empty() {
                ids.extend(self.tokenizer.encode_batch(texts)?);
            } else {
                let prompted: Vec<String> =
                    texts.iter().map(|text| format!("{prompt}{text}")).collect();
                let prompted: Vec<&str> = prompted.iter().map(String::as_str).collect();
                ids.extend(self.tokenizer.encode_batch(&prompted)?);
            }
            if on_progress(0).is_break() {
                return Err(ModelError::Stopped);
            }
        }
        Ok(ids)
    }

    /// Token embeddings of texts in order: for each what the encoder gives, [tokens, hidden_size], of the
    /// prompt and special tokens too. They are not scaled and not truncated.
    ///
    /// `output_value="token_embeddings"` of upstream's `encode`.
    ///
    /// # Errors
    ///
    /// As [`Self::encode`].
    pub fn encode_tokens(
        &self,
        texts: &[&str],
        options: &EncodeOptions,
        on_progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Vec<Vec<f32>>, ModelError> {
        let (ids, prompt_length) = self.prompted_ids(texts, self.prompt(options)?, on_progress)?;
        let sentences: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
        let width = self.encoder.config().hidden_size as usize;
        let _guard = tch::no_grad_guard();
        let mut embeddings = vec![Vec::new(); sentences.len()];
        self.for_each_batch(
            &sentences,
            prompt_length,
            options,
            on_progress,
            |batch, rows| {
                let tokens = if self.engine != Engine::Libtorch {
                    let mut work = self.workspace();
                    let tokens = self.encoder.fused_forward(
                        &self.pass_options(Dropout::NONE, 0),
                        batch,
                        Keep::Nothing,
                        &mut work,
                    )?;
                    tokens.to_vec()
                } else {
                    self.parameters.refresh()?;
                    let tokens = self
                        .encoder
                        .forward(&self.parameters, batch, Dropout::NONE)?;
                    let tokens = tokens.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?;
                    Vec::try_from(tokens.f_view([-1])?)?
                };
                for (&row, &packed) in rows.iter().zip(batch.host_restore()) {
                    let places =
                        batch.offsets()[packed] * width..batch.offsets()[packed + 1] * width;
                    embeddings[row] = tokens[places].to_vec();
                }
                Ok(())
            },
        )?;
        Ok(embeddings)
    }

    /// Embeddings of texts that are token ids already, as [`Self::encode`]; prompts are not used.
    ///
    /// # Errors
    ///
    /// As [`Self::encode`], and for a text without tokens.
    pub fn encode_ids(
        &self,
        sentences: &[&[u32]],
        options: &EncodeOptions,
        on_progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Tensor, ModelError> {
        self.encode_packed(sentences, 0, options, on_progress)
    }

    fn encode_packed(
        &self,
        sentences: &[&[u32]],
        prompt_length: usize,
        options: &EncodeOptions,
        on_progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Tensor, ModelError> {
        let dimension = match options.truncate_dim.or(self.settings.truncate_dim) {
            Some(0) => {
                return Err(ModelError::Input(
                    "truncate_dim: found 0, allowed: 1 or more".to_owned(),
                ));
            }
            Some(dim) => self.dimension().min(i64::try_from(dim).unwrap_or(i64::MAX)),
            None => self.dimension(),
        };
        let _guard = tch::no_grad_guard();
        let mut embeddings = Tensor::f_empty(
            [sentences.len() as i64, dimension],
            (Kind::Float, Device::Cpu),
        )?;
        self.for_each_batch(
            sentences,
            prompt_length,
            options,
            on_progress,
            |batch, rows| {
                let mut pooled = self.embed(batch)?.f_narrow(1, 0, dimension)?;
                if options.normalize_embeddings {
                    pooled = normalize(&pooled)?;
                }
                let rows: Vec<i64> = rows.iter().map(|&i| i as i64).collect();
                let _ = embeddings.f_index_copy_(
                    0,
                    &Tensor::f_from_slice(&rows)?,
                    &pooled.f_to_device(Device::Cpu)?,
                )?;
                Ok(())
            },
        )?;
        Ok(embeddings)
    }

    /// Calls `consume` with batches of the sentences and with their places among them.
    fn for_each_batch(
        &self,
        sentences: &[&[u32]],
        prompt_length: usize,
        options: &EncodeOptions,
        on_progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
        mut consume: impl FnMut(&PackedBatch, &[usize]) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        // The longest come first, so that a batch which is too big for the memory fails at once.
        let mut order: Vec<usize> = (0..sentences.len()).collect();
        order.sort_by_key(|&i| std::cmp::Reverse(sentences[i].len()));
        // A GPU is busy with many more tokens than a processor.
        let batch_tokens = match self.parameters.device() {
            Device::Cpu => options.batch_tokens,
            _ => options.batch_tokens.saturating_mul(16),
        };
        let mut done = 0;
        while done < order.len() {
            let mut n_tokens = 0;
            let n_fitting = order[done..]
                .iter()
                .take(options.batch_size)
                .take_while(|&&i| {
                    n_tokens += sentences[i].len();
                    n_tokens <= batch_tokens
                })
                .count();
            let rows = &order[done..done + n_fitting.max(1)];
            let batch: Vec<&[u32]> = rows.iter().map(|&i| sentences[i]).collect();
            let batch = PackedBatch::new(&batch, self.parameters.device())?
                .with_prompt_length(prompt_length);
            consume(&batch, rows)?;
            done += rows.len();
            if on_progress(done).is_break() {
                return Err(ModelError::Stopped);
            }
        }
        Ok(())
    }

    /// The prompt that these options come to; empty for none.
    ///
    /// # Errors
    ///
    /// For a name that the model has no prompt of.
    pub fn prompt<'a>(&'a self, options: &'a EncodeOptions) -> Result<&'a str, ModelError> {
        if let Some(prompt) = &options.prompt {
            return Ok(prompt);
        }
        let prompts = &self.settings.prompts;
        let of_task = || {
            let mut names = options.task?.prompt_names().iter();
            names.find_map(|&name| prompts.get_key_value(name).map(|(name, _)| name))
        };
        let Some(name) = options
            .prompt_name
            .as_ref()
            .or_else(of_task)
            .or(self.settings.default_prompt_name.as_ref())
        else {
            return Ok("");
        };
        prompts.get(name).map(String::as_str).ok_or_else(|| {
            let names: Vec<_> = prompts.keys().collect();
            ModelError::Input(format!("prompt_name: found {name:?}, allowed: {names:?}"))
        })
    }

    fn assemble(
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

/// A chunk's embeddings, and what they were made from, both in the chunk's order.
struct Part {
    /// `[sentences, modes * H]`
    pooled: Tensor,
    /// `[sentences, dimension]`
    embeddings: Tensor,
}

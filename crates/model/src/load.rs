//! Loading a model from its folder.

use std::path::{Path, PathBuf};

use tch::Device;

use crate::{
    adapter::{Lora, choose},
    encoder::{
        Recipe,
        family::{ADAPTER_ROOT, KeyRules},
    },
    error::ModelError,
    folder::{
        adapter::{ADAPTER_WEIGHTS, BaseModel},
        modules::{ModuleDescription, read_modules},
        read::Description,
        weights::Checkpoint,
    },
    network::{Network, root_of},
    random::initialize_adapters,
    sentence_transformer::SentenceTransformer,
};

/// Options of [`SentenceTransformer::load_with`]; the default is a model of which all is trained.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// The folder of the base of an adapter; without it, adapter_config.json has to name one.
    pub base: Option<PathBuf>,
    /// An adapter to add, which is trained in place of the encoder.
    pub lora: Option<Lora>,
    /// Parts that are not trained: `embeddings`, `layers:0-5`, and others that a message lists.
    pub freeze: Vec<String>,
}

impl SentenceTransformer {
    /// Loads a folder: sentence-transformers' layout of version 2 to 6, a plain Hugging Face
    /// folder, which gets mean pooling, or either with an adapter of peft's in place of the weights. Weights in F16 and
    /// BF16 become F32.
    ///
    /// # Errors
    ///
    /// For anything wrong with the folder, by file, key or tensor, before any forward pass.
    pub fn load(folder: &Path, device: Device) -> Result<Self, ModelError> {
        Self::load_with(folder, &LoadOptions::default(), device)
    }

    /// As [`Self::load`], with a choice of what is trained.
    ///
    /// # Errors
    ///
    /// As [`Self::load`], and for settings of an adapter and names of parts that the model has not.
    pub fn load_with(
        folder: &Path,
        options: &LoadOptions,
        device: Device,
    ) -> Result<Self, ModelError> {
        let description = Description::read(folder, options.base.as_deref())?;
        let (recipe, settings) = (description.recipe, description.settings);
        let tokenizer = settings.tokenizer(&description.tokenizer, &recipe)?;
        // Looked for before the memory of the parameters is asked for.
        let checkpoint = Checkpoint::find(&description.base)?;
        let mut checkpoints = vec![(String::new(), checkpoint, recipe.family.keys)];
        if description.adapter.is_some() {
            checkpoints.push(adapter_checkpoint(&description.transformer, &recipe)?);
        }
        checkpoints.extend(module_checkpoints(folder, &description.modules)?);
        let mut n_bytes = 0;
        for (_, checkpoint, _) in &checkpoints {
            n_bytes += checkpoint.n_bytes()?;
        }
        let config_path = description.base.join("config.json");
        let weights = Some((config_path.as_path(), n_bytes));
        let (modules, loaded) = (description.modules, description.adapter);
        let base = BaseModel {
            name: std::path::absolute(&description.base)?
                .display()
                .to_string(),
            revision: None,
        };
        let lora = options.lora.as_ref();
        let chosen = choose(
            &recipe,
            &modules,
            lora,
            loaded.as_ref(),
            &options.freeze,
            &base,
        )?;
        let mut network = Network::new(recipe, &modules, &chosen.selection, weights, device)?;
        if network.parameters.n_trained() == 0 {
            return Err(ModelError::Input(
                "freeze: nothing is left to be trained: leave some parts out".to_owned(),
            ));
        }
        let mut kept = Vec::new();
        for (root, checkpoint, keys) in &checkpoints {
            kept.extend(checkpoint.load(&network.parameters, root, keys)?);
        }
        if let Some(lora) = lora {
            initialize_adapters(&network.parameters, lora.seed)?;
        }
        let adapter = chosen.new.or(loaded);
        network.dropout.adapters = adapter.as_ref().map(|adapter| adapter.dropout);
        let mut model = Self::new(network, modules, settings, tokenizer)?;
        (model.adapter, model.frozen) = (adapter, chosen.selection.frozen);
        model.kept = kept;
        Ok(model)
    }

    /// Takes the weights of a folder that such a model was saved in: of a model with an adapter, those of the adapter and
    /// of the modules after the encoder.
    ///
    /// # Errors
    ///
    /// For anything wrong with the weights, and when names or shapes are others.
    pub fn read_weights(&self, folder: &Path) -> Result<(), ModelError> {
        let encoder = &self.network.encoder;
        let (transformer, modules) = match folder.join("modules.json") {
            path if path.is_file() => read_modules(folder, &path)?,
            _ => (folder.to_owned(), Vec::new()),
        };
        let own = match &self.adapter {
            Some(_) => adapter_checkpoint(&transformer, encoder.recipe())?,
            None => (
                String::new(),
                Checkpoint::find(&transformer)?,
                encoder.family().keys,
            ),
        };
        let parameters = &self.network.parameters;
        // Saved folders number them anew.
        let mut roots = module_checkpoints(folder, &modules)?;
        let dense = self
            .descriptions
            .iter()
            .filter_map(ModuleDescription::weights);
        let own_roots: Vec<String> = dense.map(root_of).collect();
        if roots.len() != own_roots.len() {
            return Err(ModelError::Input(format!(
                "{} has {} Dense modules, and the model {}",
                folder.display(),
                roots.len(),
                own_roots.len()
            )));
        }
        for ((root, ..), own) in roots.iter_mut().zip(own_roots) {
            *root = own;
        }
        for (root, checkpoint, keys) in [own].iter().chain(&roots) {
            checkpoint.load(parameters, root, keys)?;
        }
        parameters.round_all()
    }
}

/// Weights of a module, the root of their names among all, and the rules for their names.
type Found = (String, Checkpoint, KeyRules);

fn adapter_checkpoint(transformer: &Path, recipe: &Recipe) -> Result<Found, ModelError> {
    let checkpoint = Checkpoint::single(&transformer.join(ADAPTER_WEIGHTS))?;
    let keys = recipe.family.keys.of_adapters();
    Ok((ADAPTER_ROOT.to_owned(), checkpoint, keys))
}

fn module_checkpoints(
    folder: &Path,
    modules: &[ModuleDescription],
) -> Result<Vec<Found>, ModelError> {
    let mut checkpoints = Vec::new();
    for path in modules.iter().filter_map(ModuleDescription::weights) {
        let checkpoint = Checkpoint::find(&folder.join(path))?;
        checkpoints.push((root_of(path), checkpoint, KeyRules::NONE));
    }
    Ok(checkpoints)
}

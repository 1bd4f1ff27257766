//! Reading a model's folder, all but its weights.

use std::path::{Path, PathBuf};

use crate::{
    encoder::Recipe,
    error::ModelError,
    folder::{
        adapter::{AdapterConfig, BaseModel, is_adapter},
        json::read_object,
        modules::{ModuleDescription, check_widths, read_modules, transformer_of},
        settings::Settings,
        weights,
    },
    modules::{Pooling, PoolingMode},
};

/// Everything in a folder but the weights.
#[derive(Debug)]
pub(crate) struct Description {
    /// The folder of the encoder's own files.
    pub(crate) transformer: PathBuf,
    /// The folder of the encoder's config.json and weights: the same, or of an adapter, its base's.
    pub(crate) base: PathBuf,
    /// The folder of the tokenizer's files.
    pub(crate) tokenizer: PathBuf,
    pub(crate) recipe: Recipe,
    pub(crate) modules: Vec<ModuleDescription>,
    pub(crate) settings: Settings,
    /// The adapter that stands in the place of weights.
    pub(crate) adapter: Option<AdapterConfig>,
}

impl Description {
    /// Reads and checks a folder's JSON files; `base` is the folder of the model that an adapter in it is for.
    pub(crate) fn read(folder: &Path, base: Option<&Path>) -> Result<Self, ModelError> {
        if folder.is_file() {
            return Err(weights::refuse_file(folder));
        }
        if !folder.is_dir() {
            return Err(ModelError::MissingFile {
                folder: folder.to_owned(),
                file: "such folder".to_owned(),
                hint: "give the folder of a model, the one with config.json and model.safetensors"
                    .to_owned(),
            });
        }
        let modules_path = folder.join("modules.json");
        let (transformer, modules) = if modules_path.is_file() {
            read_modules(folder, &modules_path)?
        } else {
            tracing::info!("{}: no modules.json: mean pooling", folder.display());
            (
                folder.to_owned(),
                vec![ModuleDescription::Pooling(Pooling::new(PoolingMode::Mean))],
            )
        };
        let has_adapter = is_adapter(&transformer);
        let base = if has_adapter && !transformer.join("config.json").is_file() {
            base_of(folder, &transformer, base)?
        } else {
            transformer.clone()
        };
        let has_tokenizer = |folder: &Path| {
            ["tokenizer.json", "vocab.txt"]
                .iter()
                .any(|name| folder.join(name).is_file())
        };
        let tokenizer = match has_tokenizer(&transformer) {
            true => transformer.clone(),
            false => base.clone(),
        };

        let config_path = base.join("config.json");
        if !config_path.is_file() {
            return Err(ModelError::MissingFile {
                folder: base,
                file: "config.json".to_owned(),
                hint: "this is not the folder of a model, or it was fetched in part".to_owned(),
            });
        }
        let config_json = read_object(&config_path)?;
        let recipe = Recipe::read(&config_path, &config_json)?;
        check_widths(&modules_path, &modules, recipe.spec.hidden_size)?;

        let adapter = match has_adapter {
            true => Some(AdapterConfig::read(&transformer, &recipe)?),
            false => None,
        };
        let mut settings = Settings::new(config_json, &recipe.spec, &tokenizer)?;
        settings.read_transformer_settings(&transformer, &recipe.spec)?;
        settings.read_sentence_transformers_config(folder)?;
        Ok(Self {
            transformer,
            base,
            tokenizer,
            recipe,
            modules,
            settings,
            adapter,
        })
    }
}

/// The folder with the config.json and the weights of an adapter's base: `given`, or the one that the adapter names.
fn base_of(folder: &Path, transformer: &Path, given: Option<&Path>) -> Result<PathBuf, ModelError> {
    let named = match (given, BaseModel::of_folder(folder)?) {
        (Some(given), _) => given.to_owned(),
        (None, Some(base)) => base.folder(transformer)?,
        (None, None) => return Ok(transformer.to_owned()),
    };
    if named.join("config.json").is_file() {
        return Ok(named);
    }
    let base = transformer_of(&named)?;
    if base.join("config.json").is_file() {
        return Ok(base);
    }
    let hint = match is_adapter(&base) {
        true => "is an adapter itself: merge it into its own base first",
        false => "holds no config.json: give the folder of a whole model",
    };
    Err(ModelError::MissingFile {
        folder: transformer.to_owned(),
        file: "base for the adapter in it".to_owned(),
        hint: format!("{} {hint}", base.display()),
    })
}

//! Reading a model's folder, all but its weights.

use std::path::{Path, PathBuf};

use crate::{
    encoder::Recipe,
    error::ModelError,
    folder::{
        json::read_object,
        modules::{ModuleDescription, check_widths, read_modules},
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
    pub(crate) recipe: Recipe,
    pub(crate) modules: Vec<ModuleDescription>,
    pub(crate) settings: Settings,
}

impl Description {
    /// Reads and checks a folder's JSON files.
    pub(crate) fn read(folder: &Path) -> Result<Self, ModelError> {
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

        let config_path = transformer.join("config.json");
        if !config_path.is_file() {
            return Err(ModelError::MissingFile {
                folder: transformer,
                file: "config.json".to_owned(),
                hint: "this is not the folder of a model, or it was fetched in part".to_owned(),
            });
        }
        let config_json = read_object(&config_path)?;
        let recipe = Recipe::read(&config_path, &config_json)?;
        check_widths(&modules_path, &modules, recipe.spec.hidden_size)?;

        let mut settings = Settings::new(config_json, &recipe.spec, &transformer)?;
        settings.read_transformer_settings(&transformer, &recipe.spec)?;
        settings.read_sentence_transformers_config(folder)?;
        Ok(Self {
            transformer,
            recipe,
            modules,
            settings,
        })
    }
}

//! The modules after the encoder: modules.json and each one's configuration.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::{
    error::ModelError,
    folder::{
        json::{self, inner_path, read_object, value_error},
        write::ModelFiles,
    },
    modules::{Activation, DenseShape, Pooling, PoolingMode},
};

/// A module after the encoder.
#[derive(Debug, Clone)]
pub(crate) enum ModuleDescription {
    Pooling(Pooling),
    Dense { path: PathBuf, shape: DenseShape },
    Normalize,
}

impl ModuleDescription {
    /// The folder of its weights, where it has some.
    pub(crate) fn weights(&self) -> Option<&Path> {
        match self {
            Self::Dense { path, .. } => Some(path),
            _ => None,
        }
    }
}

/// Adds the folders of the modules after the encoder, then modules.json; `dense_weights` gives
/// the weights of one Dense module, by its path.
///
/// modules.json comes last: a folder without it was not finished.
pub(crate) fn add_modules(
    files: &mut ModelFiles,
    modules: &[ModuleDescription],
    hidden_size: i64,
    mut dense_weights: impl FnMut(&Path) -> Result<Vec<u8>, ModelError>,
) -> Result<(), ModelError> {
    let mut list = vec![module_entry(0, "", "Transformer")];
    for (i, module) in modules.iter().enumerate() {
        let idx = i + 1;
        let class = match module {
            ModuleDescription::Pooling(_) => "Pooling",
            ModuleDescription::Dense { .. } => "Dense",
            ModuleDescription::Normalize => "Normalize",
        };
        let path = format!("{idx}_{class}");
        let inner = PathBuf::from(&path);
        files.folders.push(inner.clone());
        match module {
            ModuleDescription::Pooling(pooling) => {
                files.add_json(inner.join("config.json"), &pooling.to_json(hidden_size));
            }
            ModuleDescription::Dense { path, shape } => {
                files.add_json(inner.join("config.json"), &shape.to_json());
                files.add(inner.join("model.safetensors"), dense_weights(path)?);
            }
            // The classic layout has an empty folder here.
            ModuleDescription::Normalize => (),
        }
        list.push(module_entry(idx, &path, class));
    }
    files.add_json("modules.json", &Value::Array(list));
    Ok(())
}

/// modules.json: the encoder's folder, then the modules after it.
pub(crate) fn read_modules(
    folder: &Path,
    path: &Path,
) -> Result<(PathBuf, Vec<ModuleDescription>), ModelError> {
    let entries: Vec<Map<String, Value>> = json::parse(path, &json::read(path)?)?;
    let mut transformer = None;
    let mut modules = Vec::new();
    for (i, entry) in entries.iter().enumerate() {
        let text = |key: &str| {
            let value = entry.get(key).unwrap_or(&Value::Null);
            value
                .as_str()
                .ok_or_else(|| value_error(path, &format!("[{i}].{key}"), value, "a string"))
        };
        let inner = inner_path(path, text("path")?)?;
        let module_folder = folder.join(&inner);
        let class = module_class(path, i, text("type")?)?;
        if (i == 0) != (class == "Transformer") || (i == 1) != (class == "Pooling") {
            return Err(ModelError::Modules {
                path: path.to_owned(),
                message: format!(
                    "module {i} is a {class}, allowed: Transformer, Pooling, then any of Dense, Normalize"
                ),
            });
        }
        match class {
            "Transformer" => transformer = Some(module_folder),
            "Pooling" => modules.push(ModuleDescription::Pooling(read_pooling(&module_folder)?)),
            "Dense" => modules.push(ModuleDescription::Dense {
                path: inner,
                shape: read_dense(&module_folder)?,
            }),
            _ => {
                check_feature_names(&module_folder.join("config.json"))?;
                modules.push(ModuleDescription::Normalize);
            }
        }
    }
    let (Some(transformer), false) = (transformer, modules.is_empty()) else {
        return Err(ModelError::Modules {
            path: path.to_owned(),
            message: format!(
                "{} modules, allowed: a Transformer and a Pooling at least",
                entries.len()
            ),
        });
    };
    Ok((transformer, modules))
}

/// The folder of the encoder's own files.
pub(crate) fn transformer_of(folder: &Path) -> Result<PathBuf, ModelError> {
    let modules_path = folder.join("modules.json");
    match modules_path.is_file() {
        true => Ok(read_modules(folder, &modules_path)?.0),
        false => Ok(folder.to_owned()),
    }
}

/// The class of a module type, by any of the dotted names it has had.
fn module_class(path: &Path, i: usize, name: &str) -> Result<&'static str, ModelError> {
    for (class, file) in [
        ("Transformer", "transformer"),
        ("Pooling", "pooling"),
        ("Dense", "dense"),
        ("Normalize", "normalize"),
    ] {
        let known = [
            format!("sentence_transformers.models.{class}"),
            format!("sentence_transformers.models.{class}.{class}"),
            format!("sentence_transformers.base.modules.{class}"),
            format!("sentence_transformers.base.modules.{file}.{class}"),
            format!("sentence_transformers.sentence_transformer.modules.{class}"),
            format!("sentence_transformers.sentence_transformer.modules.{file}.{class}"),
        ];
        if known.iter().any(|known| known == name) {
            return Ok(class);
        }
    }
    let allowed = "sentence-transformers' Transformer, Pooling, Dense, Normalize";
    Err(value_error(
        path,
        &format!("[{i}].type"),
        &serde_json::json!(name),
        allowed,
    ))
}

fn read_pooling(folder: &Path) -> Result<Pooling, ModelError> {
    let path = folder.join("config.json");
    let json = read_object(&path)?;
    let boolean = |key: &str, default: bool| match json.get(key) {
        None => Ok(default),
        Some(value) => value
            .as_bool()
            .ok_or_else(|| value_error(&path, key, value, "true or false")),
    };
    let names = PoolingMode::ALL.map(PoolingMode::name).join(", ");
    let mode = |value: &Value| {
        let mode = value.as_str().and_then(PoolingMode::from_name);
        mode.ok_or_else(|| value_error(&path, "pooling_mode", value, &names))
    };
    let mut modes = Vec::new();
    match json.get("pooling_mode") {
        Some(Value::Array(values)) => {
            for value in values {
                modes.push(mode(value)?);
            }
            if modes.is_empty() {
                return Err(value_error(
                    &path,
                    "pooling_mode",
                    &json["pooling_mode"],
                    &names,
                ));
            }
        }
        Some(value) => modes.push(mode(value)?),
        None => {
            for candidate in PoolingMode::ALL {
                if boolean(candidate.flag(), false)? {
                    modes.push(candidate);
                }
            }
            if modes.is_empty() {
                modes.push(PoolingMode::Mean);
            }
        }
    }
    Ok(Pooling {
        modes,
        include_prompt: boolean("include_prompt", true)?,
    })
}

fn read_dense(folder: &Path) -> Result<DenseShape, ModelError> {
    let path = folder.join("config.json");
    let json = read_object(&path)?;
    check_feature_names(&path)?;
    let size = |key: &str| {
        let value = json.get(key).unwrap_or(&Value::Null);
        let size = value.as_i64().filter(|size| (1..=1 << 18).contains(size));
        size.ok_or_else(|| value_error(&path, key, value, &format!("1 to {}", 1 << 18)))
    };
    let boolean = |key: &str, default: bool| match json.get(key) {
        None => Ok(default),
        Some(value) => value
            .as_bool()
            .ok_or_else(|| value_error(&path, key, value, "true or false")),
    };
    let activation = match json.get("activation_function") {
        None => Activation::Tanh,
        Some(value) => {
            let class = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
            let name = value
                .as_str()
                .filter(|name| name.starts_with("torch.nn."))
                .map(class);
            let known = Activation::ALL
                .into_iter()
                .find(|activation| name == Some(class(activation.name())));
            let allowed = Activation::ALL.map(Activation::name).join(", ");
            known.ok_or_else(|| value_error(&path, "activation_function", value, &allowed))?
        }
    };
    Ok(DenseShape {
        in_features: size("in_features")?,
        out_features: size("out_features")?,
        bias: boolean("bias", true)?,
        activation,
        use_residual: boolean("use_residual", false)?,
    })
}

/// A Dense or Normalize module has to work on sentence embeddings; the file may be missing.
fn check_feature_names(path: &Path) -> Result<(), ModelError> {
    if !path.is_file() {
        return Ok(());
    }
    let json = read_object(path)?;
    for key in ["module_input_name", "module_output_name"] {
        if let Some(value) = json
            .get(key)
            .filter(|value| !value.is_null() && *value != "sentence_embedding")
        {
            return Err(value_error(path, key, value, "\"sentence_embedding\""));
        }
    }
    Ok(())
}

pub(crate) fn check_widths(
    path: &Path,
    modules: &[ModuleDescription],
    hidden_size: i64,
) -> Result<(), ModelError> {
    let mut width = hidden_size;
    for module in modules {
        match module {
            ModuleDescription::Pooling(pooling) => width *= pooling.modes.len() as i64,
            ModuleDescription::Dense {
                path: module,
                shape,
            } => {
                if shape.in_features != width {
                    return Err(ModelError::Modules {
                        path: path.to_owned(),
                        message: format!(
                            "{} takes {} features, but the module before it gives {width}",
                            module.display(),
                            shape.in_features
                        ),
                    });
                }
                width = shape.out_features;
            }
            ModuleDescription::Normalize => (),
        }
    }
    Ok(())
}

fn module_entry(idx: usize, path: &str, class: &str) -> Value {
    serde_json::json!({"idx": idx, "name": idx.to_string(), "path": path, "type": format!("sentence_transformers.models.{class}")})
}

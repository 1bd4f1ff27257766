//! A model's folder: what its JSON files say, and how they are written.
//!
//! Read are the layouts of sentence-transformers 2 to 6 and a plain Hugging Face folder; written
//! is the classic one, which versions 2 to 6 and text-embeddings-inference read.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::{Component, Path, PathBuf},
};

use search::Similarity;
use serde_json::{Map, Value};

use crate::{
    error::ModelError,
    json,
    modules::{Activation, DenseShape, Pooling, PoolingMode},
    mpnet,
    tokenizer::Tokenizer,
    weights,
};

/// The tokenizer's files, which a saved folder gets byte for byte.
const TOKENIZER_FILES: [&str; 5] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "special_tokens_map.json",
    "added_tokens.json",
];

/// Names that sentence-transformers has had for the Transformer module's settings.
const TRANSFORMER_SETTINGS: [&str; 7] = [
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
];

/// The shortest `max_seq_length`: two special tokens and one of the text.
pub(crate) const MIN_SEQ_LENGTH: usize = 3;

/// Everything in a folder but the weights.
#[derive(Debug)]
pub(crate) struct Description {
    /// Where the encoder's own files lie.
    pub(crate) transformer: PathBuf,
    pub(crate) config: mpnet::Config,
    pub(crate) modules: Vec<ModuleDescription>,
    pub(crate) settings: Settings,
}

/// A module after the encoder.
#[derive(Debug, Clone)]
pub(crate) enum ModuleDescription {
    Pooling(Pooling),
    Dense { path: PathBuf, shape: DenseShape },
    Normalize,
}

/// What is kept from the folder, and saved again.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// config.json, unknown keys included.
    pub(crate) config: Map<String, Value>,
    pub(crate) max_seq_length: usize,
    pub(crate) do_lower_case: bool,
    pub(crate) prompts: BTreeMap<String, String>,
    pub(crate) default_prompt_name: Option<String>,
    pub(crate) similarity_fn_name: Similarity,
    pub(crate) truncate_dim: Option<usize>,
    pub(crate) tokenizer_files: BTreeMap<&'static str, Vec<u8>>,
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
        let config = mpnet::Config::from_json(&config_path, &config_json)?;
        check_widths(&modules_path, &modules, config.hidden_size)?;

        let mut settings = Settings::new(config_json, &config, &transformer)?;
        settings.read_transformer_settings(&transformer, &config)?;
        settings.read_sentence_transformers_config(folder)?;
        Ok(Self {
            transformer,
            config,
            modules,
            settings,
        })
    }
}

impl Settings {
    /// Settings of a folder that has only a config.json and a tokenizer.
    pub(crate) fn new(
        config_json: Map<String, Value>,
        config: &mpnet::Config,
        tokenizer: &Path,
    ) -> Result<Self, ModelError> {
        let mut tokenizer_files = BTreeMap::new();
        for name in TOKENIZER_FILES {
            let path = tokenizer.join(name);
            if path.is_file() {
                tokenizer_files.insert(name, json::read(&path)?);
            }
        }
        let mut settings = Self {
            config: config_json,
            max_seq_length: config.max_sentence_length(),
            do_lower_case: false,
            prompts: BTreeMap::new(),
            default_prompt_name: None,
            similarity_fn_name: Similarity::default(),
            truncate_dim: None,
            tokenizer_files,
        };
        let path = tokenizer.join("tokenizer_config.json");
        let tokenizer_config = settings.tokenizer_config(&path)?;
        if let Some(value) = tokenizer_config
            .get("model_max_length")
            .filter(|value| !value.is_null())
        {
            // "No limit" is written as 1e30 there.
            let limit = value
                .as_f64()
                .filter(|limit| *limit >= MIN_SEQ_LENGTH as f64)
                .ok_or_else(|| value_error(&path, "model_max_length", value, "3 or more"))?;
            settings.max_seq_length = settings.max_seq_length.min(limit as usize);
        }
        Ok(settings)
    }

    /// Builds the tokenizer; `folder` is for the messages.
    pub(crate) fn tokenizer(
        &self,
        folder: &Path,
        vocab_size: i64,
    ) -> Result<Tokenizer, ModelError> {
        let mut tokenizer = if let Some(bytes) = self.tokenizer_files.get("tokenizer.json") {
            Tokenizer::from_tokenizer_json(&folder.join("tokenizer.json"), bytes)?
        } else if let Some(bytes) = self.tokenizer_files.get("vocab.txt") {
            let path = folder.join("vocab.txt");
            Tokenizer::from_vocab(
                &path,
                bytes,
                &self.tokenizer_config(&folder.join("tokenizer_config.json"))?,
            )?
        } else {
            return Err(ModelError::MissingFile {
                folder: folder.to_owned(),
                file: "tokenizer.json or vocab.txt".to_owned(),
                hint: "fetch the model again, with its tokenizer".to_owned(),
            });
        };
        tokenizer.check_vocabulary(vocab_size)?;
        if self.do_lower_case {
            tokenizer.lower_case()?;
        }
        tokenizer.set_max_length(self.max_seq_length)?;
        Ok(tokenizer)
    }

    fn tokenizer_config(&self, path: &Path) -> Result<Map<String, Value>, ModelError> {
        match self.tokenizer_files.get("tokenizer_config.json") {
            Some(bytes) => parse_object(path, bytes),
            None => Ok(Map::new()),
        }
    }

    fn read_transformer_settings(
        &mut self,
        folder: &Path,
        config: &mpnet::Config,
    ) -> Result<(), ModelError> {
        let candidates = TRANSFORMER_SETTINGS.map(|name| folder.join(name));
        let Some(path) = candidates.into_iter().find(|path| path.is_file()) else {
            return Ok(());
        };
        let json = read_object(&path)?;
        if let Some(value) = json.get("max_seq_length").filter(|value| !value.is_null()) {
            let length = value
                .as_u64()
                .filter(|length| *length >= MIN_SEQ_LENGTH as u64)
                .ok_or_else(|| {
                    value_error(
                        &path,
                        "max_seq_length",
                        value,
                        "an integer, 3 or more, or null",
                    )
                })?;
            let limit = config.max_sentence_length();
            self.max_seq_length = usize::try_from(length).unwrap_or(usize::MAX).min(limit);
            if length > limit as u64 {
                tracing::warn!(
                    "{}: max_seq_length {length} is more than the model's {limit}: cut",
                    path.display()
                );
            }
        }
        if let Some(value) = json.get("do_lower_case").filter(|value| !value.is_null()) {
            self.do_lower_case = value
                .as_bool()
                .ok_or_else(|| value_error(&path, "do_lower_case", value, "true or false"))?;
        }
        Ok(())
    }

    fn read_sentence_transformers_config(&mut self, folder: &Path) -> Result<(), ModelError> {
        let path = folder.join("config_sentence_transformers.json");
        if !path.is_file() {
            return Ok(());
        }
        let json = read_object(&path)?;
        let given = |key: &str| json.get(key).filter(|value| !value.is_null());
        if let Some(value) = given("model_type").filter(|value| *value != "SentenceTransformer") {
            return Err(value_error(
                &path,
                "model_type",
                value,
                "\"SentenceTransformer\"",
            ));
        }
        if let Some(value) = given("prompts") {
            let allowed = "an object from names to texts";
            let prompts = value
                .as_object()
                .ok_or_else(|| value_error(&path, "prompts", value, allowed))?;
            for (name, prompt) in prompts {
                let prompt = prompt
                    .as_str()
                    .ok_or_else(|| value_error(&path, "prompts", value, allowed))?;
                self.prompts.insert(name.clone(), prompt.to_owned());
            }
        }
        if let Some(value) = given("default_prompt_name") {
            let name = value
                .as_str()
                .filter(|name| self.prompts.contains_key(*name))
                .ok_or_else(|| {
                    let names: Vec<_> = self.prompts.keys().map(String::as_str).collect();
                    value_error(
                        &path,
                        "default_prompt_name",
                        value,
                        &format!("null, or one of {names:?}"),
                    )
                })?;
            self.default_prompt_name = Some(name.to_owned());
        }
        if let Some(value) = given("similarity_fn_name") {
            let name = value.as_str().and_then(|name| name.parse().ok());
            self.similarity_fn_name = name.ok_or_else(|| {
                let known = Similarity::ALL.map(Similarity::name).join(", ");
                value_error(&path, "similarity_fn_name", value, &known)
            })?;
        }
        if let Some(value) = given("truncate_dim") {
            let dim = value.as_u64().filter(|dim| *dim > 0).ok_or_else(|| {
                value_error(
                    &path,
                    "truncate_dim",
                    value,
                    "an integer, 1 or more, or null",
                )
            })?;
            self.truncate_dim = usize::try_from(dim).ok();
        }
        Ok(())
    }

    /// Adds the files of the encoder and the tokenizer, but for the weights.
    pub(crate) fn add_transformer(
        &self,
        files: &mut ModelFiles,
        tokenizer: &Tokenizer,
    ) -> Result<(), ModelError> {
        let mut config = self.config.clone();
        config.insert(
            "architectures".to_owned(),
            serde_json::json!(["MPNetModel"]),
        );
        config.insert("dtype".to_owned(), serde_json::json!("float32"));
        // The key's name before transformers 4.56.
        if let Some(dtype) = config.get_mut("torch_dtype") {
            *dtype = serde_json::json!("float32");
        }
        files.add_json("config.json", &Value::Object(config));
        for (name, bytes) in &self.tokenizer_files {
            files.add(name, bytes.clone());
        }
        if !self.tokenizer_files.contains_key("tokenizer.json") {
            files.add("tokenizer.json", tokenizer.to_json()?.into_bytes());
        }
        if !self.tokenizer_files.contains_key("tokenizer_config.json") {
            let json = serde_json::json!({"tokenizer_class": "MPNetTokenizer", "model_max_length": self.max_seq_length});
            files.add_json("tokenizer_config.json", &json);
        }
        let json = serde_json::json!({"max_seq_length": self.max_seq_length, "do_lower_case": self.do_lower_case});
        files.add_json("sentence_bert_config.json", &json);
        Ok(())
    }

    /// Adds config_sentence_transformers.json.
    pub(crate) fn add_sentence_transformers_config(&self, files: &mut ModelFiles) {
        let mut json = serde_json::json!({
            // The versions whose layout this is; newer ones than the reader's make it warn.
            "__version__": {"sentence_transformers": "3.0.1", "transformers": "4.41.0", "pytorch": "2.3.0"},
            "prompts": self.prompts,
            "default_prompt_name": self.default_prompt_name,
            "similarity_fn_name": self.similarity_fn_name,
        });
        if let Some(dim) = self.truncate_dim {
            json["truncate_dim"] = serde_json::json!(dim);
        }
        files.add_json("config_sentence_transformers.json", &json);
    }
}

/// All files of a model's folder, in memory: what [`SentenceTransformer::save`] would write at this moment,
/// for those who write it later or elsewhere.
///
/// [`SentenceTransformer::save`]: crate::SentenceTransformer::save
#[derive(Debug, Clone, Default)]
pub struct ModelFiles {
    folders: Vec<PathBuf>,
    files: Vec<(PathBuf, Vec<u8>)>,
}

impl ModelFiles {
    /// The folders within the folder, in the order in which they can be made.
    pub fn folders(&self) -> impl Iterator<Item = &Path> {
        self.folders.iter().map(PathBuf::as_path)
    }

    /// The files by their paths within the folder, in the order to write them in: a folder that lacks the
    /// last was not finished.
    pub fn files(&self) -> impl Iterator<Item = (&Path, &[u8])> {
        self.files
            .iter()
            .map(|(path, bytes)| (path.as_path(), bytes.as_slice()))
    }

    /// Adds a file, to be written after those that are there.
    pub fn add(&mut self, path: impl Into<PathBuf>, bytes: Vec<u8>) {
        self.files.push((path.into(), bytes));
    }

    fn add_json(&mut self, path: impl Into<PathBuf>, json: &Value) {
        self.add(path, format!("{json:#}\n").into_bytes());
    }

    /// Writes the files, each whole before it takes its name.
    pub(crate) fn write(&self, folder: &Path) -> Result<(), ModelError> {
        fs_err::create_dir_all(folder)?;
        for inner in &self.folders {
            fs_err::create_dir_all(folder.join(inner))?;
        }
        for (path, bytes) in &self.files {
            write(&folder.join(path), bytes)?;
        }
        Ok(())
    }
}

/// Adds the folders of the modules after the encoder, then modules.json; `dense_weights` gives
/// those of one Dense module, by its description.
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

/// A path in a JSON file, which has to stay in the folder that the file describes.
pub(crate) fn inner_path(file: &Path, value: &str) -> Result<PathBuf, ModelError> {
    const LONGEST: usize = 1024;
    if value.len() > LONGEST {
        return Err(ModelError::Modules {
            path: file.to_owned(),
            message: format!("the path {value:?} is longer than {LONGEST} bytes"),
        });
    }
    let path = Path::new(value);
    let inner = path
        .components()
        .all(|component| matches!(component, Component::Normal(_) | Component::CurDir));
    // A path with a backslash or a drive means a different thing on Windows.
    if !inner || value.contains(['\\', ':']) || value.chars().any(char::is_control) {
        return Err(ModelError::UnsafePath {
            path: file.to_owned(),
            value: value.to_owned(),
        });
    }
    Ok(path.to_owned())
}

/// The object in a JSON file.
pub(crate) fn read_object(path: &Path) -> Result<Map<String, Value>, ModelError> {
    parse_object(path, &json::read(path)?)
}

/// Writes a file under a temporary name beside its place, then renames it.
fn write(path: &Path, bytes: &[u8]) -> Result<(), ModelError> {
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::{fs::Permissions, os::unix::fs::PermissionsExt};
        // What any file gets: the process's umask is taken off.
        builder.permissions(Permissions::from_mode(0o666));
    }
    let mut file = builder.tempfile_in(folder).map_err(named)?;
    file.write_all(bytes).map_err(named)?;
    file.as_file().sync_all().map_err(named)?;
    file.persist(path).map_err(|error| named(error.error))?;
    Ok(())
}

fn module_entry(idx: usize, path: &str, class: &str) -> Value {
    serde_json::json!({"idx": idx, "name": idx.to_string(), "path": path, "type": format!("sentence_transformers.models.{class}")})
}

fn parse_object(path: &Path, bytes: &[u8]) -> Result<Map<String, Value>, ModelError> {
    json::parse(path, bytes)
}

/// modules.json: the encoder's folder, then the modules after it.
fn read_modules(
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

fn check_widths(
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

fn value_error(path: &Path, key: &str, value: &Value, allowed: &str) -> ModelError {
    let value = if value.is_null() {
        "nothing".to_owned()
    } else {
        value.to_string()
    };
    ModelError::Value {
        path: path.to_owned(),
        key: key.to_owned(),
        value,
        allowed: allowed.to_owned(),
    }
}

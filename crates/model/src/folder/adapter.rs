//! adapter_config.json: an adapter of low rank as peft describes it.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};

use crate::{
    encoder::{
        Recipe,
        adapter::{Adapters, is_named, linear_names, linear_paths},
        facts::Facts,
    },
    error::ModelError,
    folder::{json::read_object, modules::transformer_of, weights::Checkpoint},
};

/// Name of the file with an adapter's settings.
pub(crate) const ADAPTER_CONFIG: &str = "adapter_config.json";

/// Name of the file with an adapter's weights.
pub(crate) const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";

/// The largest rank.
pub(crate) const MAX_RANK: i64 = 1 << 12;

/// Keys of kinds of adapters that compute something else, and of weights beside the two factors.
const OTHER_KINDS: [&str; 16] = [
    "alora_invocation_tokens",
    "alpha_pattern",
    "arrow_config",
    "fan_in_fan_out",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "megatron_config",
    "modules_to_save",
    "monteclora_config",
    "rank_pattern",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
];

/// The model that an adapter is for: a folder, or a name on the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseModel {
    /// The folder or the name.
    pub name: String,
    /// The revision on the hub.
    pub revision: Option<String>,
}

impl BaseModel {
    /// The base of the adapter that a folder holds; `None` where it holds a whole model.
    ///
    /// # Errors
    ///
    /// When modules.json or adapter_config.json cannot be read, or names no base.
    pub fn of_folder(folder: &Path) -> Result<Option<Self>, ModelError> {
        let transformer = transformer_of(folder)?;
        if !is_adapter(&transformer) || transformer.join("config.json").is_file() {
            return Ok(None);
        }
        let path = transformer.join(ADAPTER_CONFIG);
        Self::read(&path, &read_object(&path)?).map(Some)
    }

    fn read(path: &Path, json: &Map<String, Value>) -> Result<Self, ModelError> {
        let facts = Facts::new(path, json);
        let name = facts.value(BASE).and_then(Value::as_str);
        let name = name.filter(|name| !name.is_empty() && !name.contains(char::is_control));
        let revision = match facts.value("revision") {
            None => None,
            Some(_) => Some(facts.text("revision")?),
        };
        match name {
            Some(name) => Ok(Self {
                name: name.to_owned(),
                revision,
            }),
            None => Err(facts.error(BASE, BASES)),
        }
    }

    /// Its folder, where it is named by one.
    pub(crate) fn folder(&self, adapter: &Path) -> Result<PathBuf, ModelError> {
        let folder = Path::new(&self.name);
        if folder.is_dir() {
            return Ok(folder.to_owned());
        }
        Err(ModelError::Value {
            path: adapter.join(ADAPTER_CONFIG),
            key: BASE.to_owned(),
            value: format!("{:?}, which is no folder here", self.name),
            allowed: BASES.to_owned(),
        })
    }
}

const BASE: &str = "base_model_name_or_path";

const BASES: &str = "the folder of the model that the adapter is for, or its name on the hub: write there where it is";

/// Whether a folder of an encoder's files holds an adapter.
pub(crate) fn is_adapter(transformer: &Path) -> bool {
    transformer.join(ADAPTER_CONFIG).is_file()
}

/// An adapter's settings.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterConfig {
    /// adapter_config.json, unknown keys included.
    pub(crate) json: Map<String, Value>,
    pub(crate) adapters: Adapters,
    pub(crate) dropout: f64,
    alpha: f64,
    is_rslora: bool,
}

impl AdapterConfig {
    /// Settings as peft would write them; `layers` names those that are adapted, if not all are.
    pub(crate) fn new(
        base: &BaseModel,
        adapters: Adapters,
        (alpha, rslora): (f64, bool),
        dropout: f64,
    ) -> Self {
        let whole = |x: f64| match x.fract() == 0.0 && x < 1e15 {
            true => json!(x as i64),
            false => json!(x),
        };
        let json = json!({
            "alpha_pattern": {},
            "auto_mapping": null,
            "base_model_name_or_path": base.name,
            "bias": "none",
            "exclude_modules": null,
            "fan_in_fan_out": false,
            "inference_mode": false,
            "init_lora_weights": true,
            "layers_pattern": null,
            "layers_to_transform": null,
            "lora_alpha": whole(alpha),
            "lora_dropout": dropout,
            "modules_to_save": null,
            "peft_type": "LORA",
            "r": adapters.rank,
            "rank_pattern": {},
            "revision": base.revision,
            "target_modules": adapters.names,
            "task_type": "FEATURE_EXTRACTION",
            "use_dora": false,
            "use_rslora": rslora,
        });
        let json = match json {
            Value::Object(json) => json,
            _ => Map::new(),
        };
        Self {
            json,
            adapters,
            dropout,
            alpha,
            is_rslora: rslora,
        }
    }

    /// Reads and checks the settings in the encoder's folder of an adapter, and where they name modules by a pattern, or
    /// leave them open, those of which there are weights.
    pub(crate) fn read(transformer: &Path, recipe: &Recipe) -> Result<Self, ModelError> {
        let path = transformer.join(ADAPTER_CONFIG);
        let json = read_object(&path)?;
        let facts = Facts::new(&path, &json);
        facts.only("peft_type", "LORA")?;
        facts.only_or_absent("bias", "none")?;
        for key in OTHER_KINDS {
            let is_off = match facts.value(key) {
                None | Some(Value::Bool(false)) => true,
                Some(Value::Object(map)) => map.is_empty(),
                Some(Value::Array(list)) => list.is_empty(),
                Some(_) => false,
            };
            if !is_off {
                let allowed =
                    "none: adapters with this are not computed; merge it into its base with peft";
                return Err(facts.error(key, allowed));
            }
        }
        let rank = facts.count("r", 1..=MAX_RANK)?;
        let alpha = facts.positive_or("lora_alpha", 8.0)?;
        let rslora = match facts.value("use_rslora") {
            None => false,
            Some(value) => value
                .as_bool()
                .ok_or_else(|| facts.error("use_rslora", "true or false"))?,
        };
        let dropout = facts.dropout_or("lora_dropout", 0.0)?;
        let names = match facts.value("target_modules") {
            Some(Value::Array(names)) if facts.value("exclude_modules").is_none() => {
                Some(named_modules(&facts, names, recipe)?)
            }
            None | Some(Value::Array(_) | Value::String(_)) => None,
            Some(_) => return Err(facts.error("target_modules", "a list of names, or a pattern")),
        };
        let layers = match names {
            Some(_) => layers_to_transform(&facts, recipe.spec.layers.len())?,
            None => None,
        };
        let names = match names {
            Some(names) => names,
            None => adapted_modules(&transformer.join(ADAPTER_WEIGHTS), recipe)?,
        };
        Ok(Self {
            adapters: Adapters {
                rank,
                scale: scale(rank, alpha, rslora),
                names,
                layers,
            },
            dropout,
            alpha,
            is_rslora: rslora,
            json,
        })
    }
}

impl AdapterConfig {
    /// The rank of both factors, r.
    pub fn rank(&self) -> i64 {
        self.adapters.rank
    }

    /// The numerator of the factor of the adapter's output.
    pub fn alpha(&self) -> f64 {
        self.alpha
    }

    /// Whether that factor is alpha / sqrt(r), and not alpha / r.
    pub fn is_rslora(&self) -> bool {
        self.is_rslora
    }

    /// The model that the adapter is for: a folder, or a name on the hub.
    pub fn base(&self) -> &str {
        self.json
            .get(BASE)
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// The factor of the adapter's output, s.
    pub fn scale(&self) -> f64 {
        self.adapters.scale
    }

    /// The probability of dropout of the adapter's input, in training.
    pub fn dropout(&self) -> f64 {
        self.dropout
    }

    /// The names of the linear layers that have one, as in adapter_config.json, or their paths.
    pub fn modules(&self) -> &[String] {
        &self.adapters.names
    }
}

// For messages and fingerprints.
impl fmt::Display for AdapterConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Adapters {
            rank, scale, names, ..
        } = &self.adapters;
        write!(f, "rank {rank}, scale {scale}, of ")?;
        match names.len() {
            0..=8 => write!(f, "{}", names.join(", ")),
            n => write!(f, "{n} modules"),
        }
    }
}

/// The factor of an adapter's output: alpha / r, or alpha / sqrt(r).
pub(crate) fn scale(rank: i64, alpha: f64, rslora: bool) -> f64 {
    let rank = rank as f64;
    alpha / if rslora { rank.sqrt() } else { rank }
}

/// The names of target_modules, each of which has to be a linear layer's, or one outside of the encoder, which is left
/// out.
fn named_modules(
    facts: &Facts<'_>,
    names: &[Value],
    recipe: &Recipe,
) -> Result<Vec<String>, ModelError> {
    let known = linear_names(&recipe.family.names).join(", ");
    let paths = linear_paths(&recipe.spec, &recipe.family.names);
    let mut found = Vec::new();
    for name in names {
        let Some(name) = name.as_str() else {
            return Err(facts.error("target_modules", "a list of names"));
        };
        let name = recipe.family.keys.present_name(name);
        if paths.iter().any(|path| is_named(path, &name)) {
            found.push(name);
        } else if !recipe.family.keys.is_head(&format!("{name}.")) {
            let problem =
                format!("a list of names of linear layers, such as {known}; {name:?} is none");
            return Err(facts.error("target_modules", &problem));
        }
    }
    match found.is_empty() {
        true => Err(facts.error("target_modules", &format!("some of {known}"))),
        false => Ok(found),
    }
}

/// The layers that are adapted, where not all are.
fn layers_to_transform(
    facts: &Facts<'_>,
    n_layers: usize,
) -> Result<Option<Vec<usize>>, ModelError> {
    const KEY: &str = "layers_to_transform";
    let one = |value: &Value| {
        let layer = value.as_u64().filter(|&layer| layer < n_layers as u64);
        layer
            .map(|layer| layer as usize)
            .ok_or_else(|| facts.error(KEY, &format!("numbers of layers, 0 to {}", n_layers - 1)))
    };
    match facts.value(KEY) {
        None => Ok(None),
        Some(Value::Array(layers)) if layers.is_empty() => Ok(None),
        Some(Value::Array(layers)) => layers.iter().map(one).collect::<Result<_, _>>().map(Some),
        Some(layer) => Ok(Some(vec![one(layer)?])),
    }
}

/// The paths of the linear layers that a file has weights of adapters for.
fn adapted_modules(path: &Path, recipe: &Recipe) -> Result<Vec<String>, ModelError> {
    let keys = recipe.family.keys.of_adapters();
    let names = Checkpoint::single(path)?.names()?;
    let mut modules: Vec<String> = names
        .iter()
        .map(|name| keys.present_name(name))
        .filter(|name| !keys.is_head(name))
        .filter_map(|name| Some(name.strip_suffix(".lora_A.weight")?.to_owned()))
        .collect();
    modules.sort();
    Ok(modules)
}

//! Adapters and frozen parts: what of a model is trained, as a user asks for it.

use crate::{
    encoder::{
        Recipe,
        adapter::{
            Adapters, EMBEDDINGS, FINAL_NORM, RELATIVE_BIAS, Selection, is_named, layer_part,
            linear_names, linear_paths, query_and_value,
        },
        spec::Placement,
    },
    error::ModelError,
    folder::{
        adapter::{AdapterConfig, BaseModel, MAX_RANK, scale},
        modules::ModuleDescription,
    },
};

/// A new adapter of low rank (LoRA), which is trained in place of the encoder's weights.
///
/// Each of its linear layers adds `s B A dropout(x)`, where A starts random and B zero, so that the model starts as its
/// base.
#[derive(Debug, Clone, PartialEq)]
pub struct Lora {
    /// The rank of A and B, 1 or more.
    pub rank: i64,
    /// The numerator of the factor s = alpha / rank.
    pub alpha: f64,
    /// The probability of dropout of the adapter's input, in training.
    pub dropout: f64,
    /// The linear layers that get one.
    pub targets: LoraTargets,
    /// Whether s is alpha / sqrt(rank).
    pub rslora: bool,
    /// The base as adapter_config.json names it; without it, the folder that is loaded.
    pub base: Option<BaseModel>,
    /// The seed of A.
    pub seed: u64,
}

impl Lora {
    /// An adapter of the projections to query and value, with s = 1, without dropout.
    pub fn new(rank: i64) -> Self {
        Self {
            rank,
            alpha: rank as f64,
            dropout: 0.0,
            targets: LoraTargets::QueryAndValue,
            rslora: false,
            base: None,
            seed: 0,
        }
    }
}

/// The linear layers that get an adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoraTargets {
    /// The projections to query and value; in encoders that project to query, key and value by one matrix, that one.
    QueryAndValue,
    /// All of the encoder.
    AllLinear,
    /// Linear layers whose path in the checkpoint is, or from a dot on ends in, one of these names.
    Names(Vec<String>),
}

/// The choice of what is trained, and the settings of an adapter that is new.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) selection: Selection,
    pub(crate) new: Option<AdapterConfig>,
}

/// Resolves what is trained: with a new adapter, one that was loaded, or neither.
///
/// # Errors
///
/// [`ModelError::Input`] for settings out of range, and for names of modules or parts that there are not, with those that
/// there are.
pub(crate) fn choose(
    recipe: &Recipe,
    modules: &[ModuleDescription],
    lora: Option<&Lora>,
    loaded: Option<&AdapterConfig>,
    freeze: &[String],
    base: &BaseModel,
) -> Result<Chosen, ModelError> {
    let frozen = frozen_parts(recipe, modules, freeze)?;
    if let (Some(_), Some(loaded)) = (lora, loaded) {
        return Err(ModelError::Input(format!(
            "lora-r: the model has an adapter already ({loaded}), which is trained on without these settings; to begin another, merge it first"
        )));
    }
    let new = match lora {
        None => None,
        Some(lora) => Some(new_adapter(recipe, lora, &frozen, base)?),
    };
    let is_module = |part: &&String| module_parts(modules).any(|module| module == **part);
    if loaded.is_some()
        && let Some(part) = frozen.iter().find(|part| !is_module(part))
    {
        return Err(ModelError::Input(format!(
            "freeze: found {part:?}, but the model has an adapter, beside which the encoder is frozen: leave it out"
        )));
    }
    let config = new.as_ref().or(loaded);
    Ok(Chosen {
        selection: Selection {
            adapters: config.map(|config| config.adapters.clone()),
            frozen,
        },
        new,
    })
}

/// The settings of a new adapter, of which layers that are frozen get none.
fn new_adapter(
    recipe: &Recipe,
    lora: &Lora,
    frozen: &[String],
    base: &BaseModel,
) -> Result<AdapterConfig, ModelError> {
    let range = |what: &str, value: f64, fits: bool, allowed: &str| match fits {
        true => Ok(()),
        false => Err(ModelError::Input(format!(
            "lora-{what}: found {value}, allowed: {allowed}"
        ))),
    };
    let (rank, alpha, dropout) = (lora.rank, lora.alpha, lora.dropout);
    let ranks = format!("1 to {MAX_RANK}");
    range("r", rank as f64, (1..=MAX_RANK).contains(&rank), &ranks)?;
    let is_positive = alpha.is_finite() && alpha > 0.0;
    range("alpha", alpha, is_positive, "a number above 0")?;
    let is_share = (0.0..1.0).contains(&dropout);
    range("dropout", dropout, is_share, "0 or more and less than 1")?;
    let names = &recipe.family.names;
    let mut targets = match &lora.targets {
        LoraTargets::QueryAndValue => query_and_value(names),
        LoraTargets::AllLinear => {
            let all = linear_names(names).into_iter();
            all.map(str::to_owned).collect()
        }
        LoraTargets::Names(names) => names.clone(),
    };
    let paths = linear_paths(&recipe.spec, names);
    let is_known = |name: &String| paths.iter().any(|path| is_named(path, name));
    if let Some(unknown) = targets.iter().find(|name| !is_known(name)) {
        return Err(ModelError::Input(format!(
            "lora-target-modules: found {unknown:?}, allowed: all-linear, or names of linear layers: {}",
            linear_names(names).join(", ")
        )));
    }
    let n_layers = recipe.spec.layers.len();
    let is_frozen = |layer: usize| frozen.contains(&layer_part(layer));
    if (0..n_layers).any(is_frozen) {
        // By their paths: peft finds the numbers of layers in some encoders' paths alone.
        let per_layer = paths.len() / n_layers;
        let kept = paths.iter().enumerate();
        targets = kept
            .filter(|(i, _)| !is_frozen(i / per_layer))
            .filter(|(_, path)| targets.iter().any(|name| is_named(path, name)))
            .map(|(_, path)| path.clone())
            .collect();
    }
    if targets.is_empty() {
        return Err(ModelError::Input(
            "lora-r: all layers are frozen, so that none gets an adapter: leave some out of freeze"
                .to_owned(),
        ));
    }
    let adapters = Adapters {
        rank,
        scale: scale(rank, alpha, lora.rslora),
        names: targets,
        layers: None,
    };
    let base = lora.base.as_ref().unwrap_or(base);
    Ok(AdapterConfig::new(
        base,
        adapters,
        (alpha, lora.rslora),
        dropout,
    ))
}

/// The parts that a list names, one by one: `layers:0-2` is three.
fn frozen_parts(
    recipe: &Recipe,
    modules: &[ModuleDescription],
    freeze: &[String],
) -> Result<Vec<String>, ModelError> {
    let n_layers = recipe.spec.layers.len();
    let mut others = vec![EMBEDDINGS.to_owned()];
    if recipe.spec.relative_bias {
        others.push(RELATIVE_BIAS.to_owned());
    }
    if recipe.spec.placement == Placement::Pre {
        others.push(FINAL_NORM.to_owned());
    }
    others.extend(module_parts(modules));
    let mut frozen = Vec::new();
    for text in freeze {
        let text = text.trim();
        if let Some(layers) = layers_of(text, n_layers) {
            frozen.extend(layers.map(layer_part));
        } else if others.iter().any(|part| part == text) {
            frozen.push(text.to_owned());
        } else {
            return Err(ModelError::Input(format!(
                "freeze: found {text:?}, allowed: layers:0-{} or some of them, as layers:3 or layers:0-1; {}",
                n_layers - 1,
                others.join("; ")
            )));
        }
    }
    frozen.sort();
    frozen.dedup();
    Ok(frozen)
}

/// The layers of `layers:A-B`, both included, of `layers:A`, or of `layers`.
fn layers_of(text: &str, n_layers: usize) -> Option<std::ops::RangeInclusive<usize>> {
    let range = text.strip_prefix("layers")?;
    if range.is_empty() {
        return Some(0..=n_layers - 1);
    }
    let range = range.strip_prefix(':')?;
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last && last < n_layers).then_some(first..=last)
}

/// The names of the modules after the encoder that have weights: their folders.
fn module_parts(modules: &[ModuleDescription]) -> impl Iterator<Item = String> + '_ {
    let paths = modules.iter().filter_map(ModuleDescription::weights);
    paths.map(|path| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_a_range_one_or_all() {
        let layers = |text: &str| layers_of(text, 6).map(|range| range.collect::<Vec<_>>());
        assert_eq!(layers("layers:0-2"), Some(vec![0, 1, 2]));
        assert_eq!(layers("layers:5"), Some(vec![5]));
        assert_eq!(layers("layers"), Some((0..6).collect()));
        for text in [
            "layers:",
            "layers:6",
            "layers:2-1",
            "layers:0-6",
            "layer:1",
            "layers:-1",
            "layers:a",
            "layers1",
        ] {
            assert_eq!(layers(text), None, "{text}");
        }
    }
}

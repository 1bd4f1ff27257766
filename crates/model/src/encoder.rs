//! The encoder: token embeddings of a packed batch, by a recipe that config.json names.
//!
//! One transformer, [`Transformer`], is computed for all types. A file for each family of them turns config.json
//! into the switches of a [`Spec`] and knows the checkpoint's names; [`Recipe::read`] chooses among them. Nothing
//! outside of this folder names a type.

pub(crate) mod adapter;
pub(crate) mod block;
pub(crate) mod facts;
pub(crate) mod family;
pub(crate) mod numbering;
pub(crate) mod relative;
pub(crate) mod spec;

mod bert;
mod distilbert;
mod modernbert;
mod mpnet;
mod roberta;

use std::path::Path;

use serde_json::{Map, Value};
use tch::Tensor;

use crate::{
    batch::{buckets::DeviceBatch, packed::PackedBatch},
    encoder::{
        adapter::Selection,
        block::Transformer,
        facts::Facts,
        family::{Family, Sizes},
        spec::{Dropout, Spec},
    },
    error::ModelError,
    parameters::{Parameters, Scope},
};

/// The `model_type`s that are computed, in the order in which messages list them.
pub const MODEL_TYPES: [&str; 6] = [
    "mpnet",
    "bert",
    "roberta",
    "xlm-roberta",
    "distilbert",
    "modernbert",
];

/// The family of a `model_type`.
fn family(model_type: &str) -> Option<&'static Family> {
    match model_type {
        "mpnet" => Some(&mpnet::FAMILY),
        "bert" => Some(&bert::FAMILY),
        "roberta" => Some(&roberta::ROBERTA),
        "xlm-roberta" => Some(&roberta::XLM_ROBERTA),
        "distilbert" => Some(&distilbert::FAMILY),
        "modernbert" => Some(&modernbert::FAMILY),
        _ => None,
    }
}

/// An encoder as config.json describes it: the family's names and the switches.
#[derive(Debug, Clone)]
pub(crate) struct Recipe {
    pub(crate) family: &'static Family,
    pub(crate) spec: Spec,
}

impl Recipe {
    /// Reads and checks config.json; `path` is for the messages.
    ///
    /// # Errors
    ///
    /// [`ModelError::Value`] for a type that is not computed, a missing key, a value of another kind or out of its
    /// range.
    pub(crate) fn read(path: &Path, json: &Map<String, Value>) -> Result<Self, ModelError> {
        let facts = Facts::new(path, json);
        let model_type = facts.text("model_type")?;
        let family = family(&model_type).ok_or_else(|| {
            facts.error(
                "model_type",
                &MODEL_TYPES.map(|name| format!("{name:?}")).join(", "),
            )
        })?;
        if facts
            .value("auto_map")
            .is_some_and(|map| map.get("AutoModel").is_some())
        {
            let allowed = "none: the model is computed by code of its own, which is not run";
            return Err(facts.error("auto_map", allowed));
        }
        Ok(Self {
            family,
            spec: (family.read)(&facts)?,
        })
    }
}

/// A config.json for an encoder of these sizes; its other values are those of the published ones of its type.
///
/// # Errors
///
/// [`ModelError::Input`] for a type that is not computed.
pub(crate) fn new_config(
    model_type: &str,
    sizes: &Sizes,
) -> Result<Map<String, Value>, ModelError> {
    match (of_type(model_type)?.new_config)(sizes) {
        Value::Object(config) => Ok(config),
        other => Err(ModelError::Input(format!("{other} is no configuration"))),
    }
}

/// The family of a type that a user named.
pub(crate) fn of_type(model_type: &str) -> Result<&'static Family, ModelError> {
    family(model_type).ok_or_else(|| {
        ModelError::Input(format!(
            "model type: found {model_type:?}, allowed: {}",
            MODEL_TYPES.join(", ")
        ))
    })
}

/// The encoder: token embeddings for a packed batch.
#[derive(Debug)]
pub struct Encoder {
    recipe: Recipe,
    transformer: Transformer,
}

impl Encoder {
    /// An encoder with all adapters and frozen parts that are selected.
    pub(crate) fn new(recipe: Recipe, selection: &Selection, scope: &mut Scope<'_>) -> Self {
        let names = &recipe.family.names;
        Self {
            transformer: Transformer::new(&recipe.spec, names, selection, scope),
            recipe,
        }
    }

    /// The switches and sizes.
    pub fn spec(&self) -> &Spec {
        &self.recipe.spec
    }

    /// The width of a token embedding, H.
    pub fn hidden_size(&self) -> i64 {
        self.recipe.spec.hidden_size
    }

    /// The number of layers.
    pub fn n_layers(&self) -> usize {
        self.recipe.spec.layers.len()
    }

    pub(crate) fn family(&self) -> &'static Family {
        self.recipe.family
    }

    pub(crate) fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// Floating point operations that the linear layers need for a token of a training step: two for each of their
    /// weights forward, two for the gradient of its input where that is needed, and two for its own where it is
    /// trained. Attention's own products are left out.
    pub fn flops_per_token(&self, parameters: &Parameters) -> f64 {
        self.transformer.flops_per_token(parameters)
    }

    pub(crate) fn transformer(&self) -> &Transformer {
        &self.transformer
    }

    /// Token embeddings, `[T, H]`, in packed order, with autograd.
    ///
    /// # Errors
    ///
    /// When a token id or a sentence is beyond the model's tables, or the device differs.
    pub fn forward(
        &self,
        parameters: &Parameters,
        batch: &PackedBatch,
        dropout: Dropout,
    ) -> Result<Tensor, ModelError> {
        let batch = self.on_device(batch)?;
        self.transformer.forward(parameters, &batch, dropout, None)
    }

    /// A batch in the form that libtorch computes with.
    ///
    /// # Errors
    ///
    /// As [`Self::check_fits`].
    pub(crate) fn on_device(&self, batch: &PackedBatch) -> Result<DeviceBatch, ModelError> {
        self.check_fits(batch)?;
        DeviceBatch::new(batch, self.recipe.spec.numbering)
    }

    /// Checks that the model has rows for the batch's ids and positions.
    ///
    /// # Errors
    ///
    /// [`ModelError::Input`] with the id or the length that is beyond them.
    pub(crate) fn check_fits(&self, batch: &PackedBatch) -> Result<(), ModelError> {
        let spec = &self.recipe.spec;
        if i64::from(batch.max_id()) >= spec.vocab_size {
            return Err(ModelError::Input(format!(
                "token id {} is beyond the model's vocabulary of {}: the tokenizer is another model's",
                batch.max_id(),
                spec.vocab_size
            )));
        }
        if batch.max_length() > spec.max_length {
            return Err(ModelError::Input(format!(
                "a sentence of {} tokens is longer than the model's {}: truncate it",
                batch.max_length(),
                spec.max_length
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mpnet_base_takes_half_a_gigaflop_a_token() {
        let sizes = Sizes {
            hidden_size: 768,
            n_layers: 12,
            heads: 12,
            intermediate_size: 3072,
            position_rows: 514,
            dropout: 0.1,
        };
        let mut config = new_config("mpnet", &sizes).unwrap();
        config.insert("vocab_size".to_owned(), 30_527.into());
        let recipe = Recipe::read(Path::new("config.json"), &config).unwrap();
        assert_eq!(recipe.spec.flops_per_token(), 6.0 * 84_934_656.0);
        assert_eq!(recipe.spec.max_length, 512);
    }

    #[test]
    fn every_type_of_the_list_is_read_as_it_is_made() {
        let sizes = Sizes {
            hidden_size: 32,
            n_layers: 2,
            heads: 4,
            intermediate_size: 48,
            position_rows: 66,
            dropout: 0.25,
        };
        for model_type in MODEL_TYPES {
            let mut config = new_config(model_type, &sizes).unwrap();
            config.insert("vocab_size".to_owned(), 100.into());
            assert_eq!(config["model_type"], model_type);
            let spec = Recipe::read(Path::new("config.json"), &config)
                .unwrap()
                .spec;
            assert_eq!(spec.vocab_size, 100, "{model_type}");
            assert_eq!((spec.hidden_size, spec.heads), (32, 4), "{model_type}");
            assert_eq!(spec.layers.len(), 2, "{model_type}");
            assert_eq!(spec.intermediate_size, 48, "{model_type}");
            let again = spec.dropout.with_probability(0.25);
            assert_eq!(spec.dropout, again, "{model_type}");
        }
        let error = new_config("gpt2", &sizes).unwrap_err().to_string();
        assert!(error.contains("found \"gpt2\", allowed: mpnet"), "{error}");
    }
}

//! The computing part of a model: encoder, pooling and the modules after it, with their weights.

use std::path::Path;

use tch::{Device, Tensor};

use crate::{
    encoder::{Encoder, Recipe, adapter::Selection, spec::Dropout},
    error::ModelError,
    folder::modules::ModuleDescription,
    modules::{Dense, Module, Pooling, normalize},
    parameters::{Layout, Parameters},
};

/// The number of parameters that are laid out whatever the weights are: 64 MiB.
const LOOSE_NUMEL: u64 = 16 << 20;

/// The modules of a model and their weights.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) encoder: Encoder,
    pub(crate) pooling: Pooling,
    /// The modules after the pooling.
    pub(crate) modules: Vec<Module>,
    pub(crate) parameters: Parameters,
    /// The probabilities that training uses.
    pub(crate) dropout: Dropout,
}

impl Network {
    /// Lays out the parameters, zeroed, with the adapters and the frozen parts that are selected. `weights` is the configuration and the number of bytes of all weights' files,
    /// where there are any.
    ///
    /// # Errors
    ///
    /// When there is no pooling, and [`ModelError::TooLarge`] when the weights can't be those of the configuration.
    pub(crate) fn new(
        recipe: Recipe,
        descriptions: &[ModuleDescription],
        selection: &Selection,
        weights: Option<(&Path, u64)>,
        device: Device,
    ) -> Result<Self, ModelError> {
        let mut layout = Layout::default();
        let encoder = Encoder::new(recipe, selection, &mut layout.root(""));
        layout.end_encoder();
        let (mut pooling, mut modules) = (None, Vec::new());
        for description in descriptions {
            match description {
                ModuleDescription::Pooling(described) => pooling = Some(described.clone()),
                ModuleDescription::Dense { path, shape } => {
                    let part = path.display().to_string();
                    let is_trained = !selection.frozen.contains(&part);
                    let mut scope = layout.root(&root_of(path));
                    let dense = Dense::new(*shape, &mut scope.trained(is_trained));
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
        Ok(Self {
            dropout: encoder.spec().dropout,
            encoder,
            pooling,
            modules,
            parameters: layout.build(device)?,
        })
    }

    /// The number of dimensions of an embedding.
    pub(crate) fn dimension(&self) -> i64 {
        let pooled = self.encoder.hidden_size() * self.pooling.modes.len() as i64;
        self.modules
            .iter()
            .fold(pooled, |width, module| match module {
                Module::Dense(dense) => dense.shape.out_features,
                Module::Normalize => width,
            })
    }

    /// Sentence embeddings from pooled token embeddings, by the modules after the pooling.
    pub(crate) fn after_pooling(&self, pooled: Tensor) -> Result<Tensor, ModelError> {
        let mut embeddings = pooled;
        for module in &self.modules {
            embeddings = match module {
                Module::Dense(dense) => dense.forward(&self.parameters, &embeddings)?,
                Module::Normalize => normalize(&embeddings)?,
            };
        }
        Ok(embeddings)
    }
}

/// The root of the names of a module's parameters.
pub(crate) fn root_of(path: &Path) -> String {
    format!("{}.", path.display())
}

//! All that an update changes.

use model::{ModelFiles, SentenceTransformer};
use tch::{Device, Kind, Tensor};

use crate::{
    error::TrainError,
    loss_weights::LossWeights,
    optimizer::{Optimizer, OptimizerOptions, gradient_norm},
    tasks::Objective,
};

/// The model and the weights of losses, with their gradients and optimizers.
#[derive(Debug)]
pub(crate) struct Trained<'a> {
    pub(crate) model: &'a mut SentenceTransformer,
    /// The gradient by those of the model's weights that are trained, `[n]` f32.
    pub(crate) gradient: Tensor,
    pub(crate) optimizer: Optimizer,
    pub(crate) loss_weights: LossWeights,
}

impl<'a> Trained<'a> {
    /// Before the first update.
    ///
    /// # Errors
    /// libtorch's, when moments and gradient don't fit in memory.
    pub(crate) fn new(
        model: &'a mut SentenceTransformer,
        objectives: &[Objective<'_>],
        options: OptimizerOptions,
    ) -> Result<Self, TrainError> {
        let losses = objectives.iter();
        let losses = losses.map(|objective| (objective.name, objective.loss));
        let loss_weights = LossWeights::new(losses, options)?;
        let parameters = model.parameters();
        Ok(Self {
            gradient: parameters.zero_gradient()?,
            optimizer: Optimizer::new(options, &parameters.trained()?, parameters.decayed())?,
            loss_weights,
            model,
        })
    }

    /// The number of trainable parameters.
    pub(crate) fn numel(&self) -> usize {
        self.model.parameters().n_trained() as usize + self.loss_weights.numel()
    }

    /// The files of a folder with the model as it is now, and the weights of losses.
    pub(crate) fn files(&self) -> Result<ModelFiles, TrainError> {
        let mut files = self.model.files()?;
        self.loss_weights.add_to(&mut files)?;
        Ok(files)
    }

    /// As [`Self::files`], with the model's adapter merged into its weights.
    pub(crate) fn merged_files(&self) -> Result<ModelFiles, TrainError> {
        let mut files = self.model.merged_files()?;
        self.loss_weights.add_to(&mut files)?;
        Ok(files)
    }

    /// All gradients: of the model's weights, then of those that losses own.
    pub(crate) fn gradients(&self) -> impl Iterator<Item = &Tensor> {
        [&self.gradient]
            .into_iter()
            .chain(self.loss_weights.gradients())
    }

    /// All that an update changes, each a flat tensor: weights and moments.
    pub(crate) fn state(&self) -> Result<Vec<Tensor>, TrainError> {
        let mut state = vec![self.model.parameters().flat().shallow_clone()];
        let moments = self.optimizer.moments().iter();
        state.extend(moments.map(|(_, moment)| moment.shallow_clone()));
        state.extend(self.loss_weights.state()?);
        Ok(state)
    }

    /// The norm of all gradients together; not finite if one of their elements is not.
    pub(crate) fn gradient_norm(&self) -> Result<f64, TrainError> {
        self.loss_weights.norm_with(gradient_norm(&self.gradient)?)
    }

    /// One update from the gradients times `scale`, after which they are zero.
    pub(crate) fn update(&mut self, scale: f64, learning_rate: f64) -> Result<(), TrainError> {
        let weights = self.model.parameters().trained()?;
        self.optimizer
            .step(&weights, &self.gradient, scale, learning_rate)?;
        self.loss_weights.step(scale, learning_rate)
    }

    /// Takes note of updates that the device, or another rank, has made.
    pub(crate) fn count_updates(&mut self, n: u64) {
        self.optimizer.count_updates(n);
        self.loss_weights.count_updates(n);
    }

    /// Gives back the memory of the model's gradient and moments, after the last update.
    pub(crate) fn release(&mut self) -> Result<(), TrainError> {
        self.gradient = Tensor::f_zeros([0], (Kind::Float, Device::Cpu))?;
        self.optimizer.release();
        Ok(())
    }

    /// Zeroes the gradients of a step that is not made.
    pub(crate) fn forget_gradients(&self) -> Result<(), TrainError> {
        let _ = self.gradient.shallow_clone().f_zero_()?;
        self.loss_weights.clear()
    }
}

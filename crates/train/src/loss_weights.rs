//! Weights that losses own: trained, clipped and saved with the model's.
//!
//! In sentence-transformers 6.2.0 they are stepped, but their gradients are not clipped, nor is anything of them
//! saved (issues 2872 and 2881). Here they count into the gradient's norm and are clipped by it,
//! their biases are not decayed, and a checkpoint and the trained model's folder hold them.

use std::{io, path::Path};

use losses::Loss;
use model::ModelFiles;
use safetensors::{Dtype, tensor::TensorView};
use tch::{Device, Tensor, no_grad};

use crate::{
    error::TrainError,
    optimizer::{OnDevice, Optimizer, OptimizerOptions, gradient_norm},
};

/// Name of the file with the weights of losses, beside a model's.
pub const LOSS_WEIGHTS: &str = "loss.safetensors";
const MOMENTS: &str = "loss_optimizer.safetensors";

/// The weights of all losses of a run.
#[derive(Debug)]
pub(crate) struct LossWeights {
    weights: Vec<Weight>,
}

#[derive(Debug)]
struct Weight {
    /// As in the loss, after the data set's name where the run has several losses.
    name: String,
    objective: usize,
    /// The loss's own tensor.
    tensor: Tensor,
    /// [n]
    gradient: Tensor,
    optimizer: Optimizer,
}

impl LossWeights {
    /// The weights of these losses, each with the prefix of its weights' names.
    pub(crate) fn new<'l>(
        losses: impl Iterator<Item = (Option<&'l str>, &'l dyn Loss)>,
        options: OptimizerOptions,
    ) -> Result<Self, TrainError> {
        let mut weights = Vec::new();
        for (objective, (prefix, loss)) in losses.enumerate() {
            for (name, tensor) in loss.parameters() {
                let flat = flat(&tensor)?;
                let n_decayed = if name.contains("bias") {
                    0
                } else {
                    flat.numel() as i64
                };
                weights.push(Weight {
                    name: prefix.map_or(name.clone(), |prefix| format!("{prefix}.{name}")),
                    objective,
                    gradient: flat.f_zeros_like()?,
                    optimizer: Optimizer::new(options, &flat, n_decayed)?,
                    tensor,
                });
            }
        }
        Ok(Self { weights })
    }

    /// The number of elements of all.
    pub(crate) fn numel(&self) -> usize {
        self.weights
            .iter()
            .map(|weight| weight.tensor.numel())
            .sum()
    }

    /// Adds the gradients of one of the losses, in the order of [`Loss::parameters`].
    pub(crate) fn add(&self, objective: usize, gradients: &[Tensor]) -> Result<(), TrainError> {
        let own = self.weights.iter().filter(|w| w.objective == objective);
        for (weight, gradient) in own.zip(gradients) {
            no_grad(|| {
                let mut sum = weight.gradient.shallow_clone();
                sum.f_add_(&gradient.f_reshape([-1])?).map(drop)
            })?;
        }
        Ok(())
    }

    /// Their gradients.
    pub(crate) fn gradients(&self) -> impl Iterator<Item = &Tensor> {
        self.weights.iter().map(|weight| &weight.gradient)
    }

    /// Weights and moments, each a flat tensor.
    pub(crate) fn state(&self) -> Result<Vec<Tensor>, TrainError> {
        let mut state = Vec::new();
        for weight in &self.weights {
            state.push(flat(&weight.tensor)?);
            let moments = weight.optimizer.moments().iter();
            state.extend(moments.map(|(_, moment)| moment.shallow_clone()));
        }
        Ok(state)
    }

    /// The norm of all gradients together with the model's, `norm`.
    pub(crate) fn norm_with(&self, norm: f64) -> Result<f64, TrainError> {
        if self.weights.is_empty() {
            return Ok(norm);
        }
        let mut sum = norm * norm;
        for weight in &self.weights {
            let norm = gradient_norm(&weight.gradient)?;
            sum += norm * norm;
        }
        Ok(sum.sqrt())
    }

    /// One update, after which the gradients are zero.
    pub(crate) fn step(&mut self, scale: f64, learning_rate: f64) -> Result<(), TrainError> {
        for weight in &mut self.weights {
            let flat = flat(&weight.tensor)?;
            weight
                .optimizer
                .step(&flat, &weight.gradient, scale, learning_rate)?;
        }
        Ok(())
    }

    /// The norm of all gradients together with the model's, `norm`, of which the host reads nothing.
    pub(crate) fn norm_on_device(&self, norm: Tensor) -> Result<Tensor, TrainError> {
        if self.weights.is_empty() {
            return Ok(norm);
        }
        let mut sum = norm.f_square()?;
        for weight in &self.weights {
            sum = sum.f_add(&weight.gradient.f_norm()?.f_square()?)?;
        }
        Ok(sum.f_sqrt()?)
    }

    /// One update that the device decides on.
    pub(crate) fn step_on_device(&self, on_device: OnDevice<'_>) -> Result<(), TrainError> {
        for weight in &self.weights {
            let flat = flat(&weight.tensor)?;
            let optimizer = &weight.optimizer;
            optimizer.step_on_device(&flat, &weight.gradient, on_device)?;
        }
        Ok(())
    }

    /// Takes note of updates that the device has made.
    pub(crate) fn count_updates(&mut self, n: u64) {
        for weight in &mut self.weights {
            weight.optimizer.count_updates(n);
        }
    }

    /// Forgets the gradients of a step that is not made.
    pub(crate) fn clear(&self) -> Result<(), TrainError> {
        for weight in &self.weights {
            let _ = weight.gradient.shallow_clone().f_zero_()?;
        }
        Ok(())
    }

    /// Adds the weights to a folder's files, if there are any.
    pub(crate) fn add_to(&self, files: &mut ModelFiles) -> Result<(), TrainError> {
        let tensors = self.weights.iter().map(|weight| {
            let shape = weight.tensor.size();
            (weight.name.clone(), shape, weight.tensor.detach())
        });
        add(files, LOSS_WEIGHTS, tensors.collect())
    }

    /// Adds their moments to a folder's files, if there are any.
    pub(crate) fn add_moments_to(&self, files: &mut ModelFiles) -> Result<(), TrainError> {
        let moments = self.weights.iter().flat_map(|weight| {
            let moments = weight.optimizer.moments().iter();
            moments.map(|(name, moment)| {
                let name = format!("{}.{name}", weight.name);
                (name, moment.size(), moment.shallow_clone())
            })
        });
        add(files, MOMENTS, moments.collect())
    }

    /// Puts weights and moments of a checkpoint after `n_updates` in place. With `anyway` those that it
    /// doesn't hold, since it is another loss's, stay as they are.
    pub(crate) fn resume(
        &mut self,
        folder: &Path,
        n_updates: u64,
        anyway: bool,
    ) -> Result<(), TrainError> {
        let is_whole = self
            .load(folder)
            .and_then(|()| self.load_moments(folder, n_updates));
        if anyway { Ok(()) } else { is_whole }
    }

    /// Puts the weights of a checkpoint in place.
    pub(crate) fn load(&self, folder: &Path) -> Result<(), TrainError> {
        let saved = read(folder, LOSS_WEIGHTS, self.weights.is_empty())?;
        for weight in &self.weights {
            let tensor = find(&saved, &weight.name).ok_or_else(|| missing(folder, weight))?;
            if tensor.size() != weight.tensor.size() {
                return Err(missing(folder, weight));
            }
            no_grad(|| weight.tensor.shallow_clone().f_copy_(&tensor))?;
        }
        Ok(())
    }

    /// Puts the moments of a checkpoint after `n_updates` in place.
    fn load_moments(&mut self, folder: &Path, n_updates: u64) -> Result<(), TrainError> {
        let none = |weight: &Weight| weight.optimizer.moments().is_empty();
        let saved = read(folder, MOMENTS, self.weights.iter().all(none))?;
        for weight in &mut self.weights {
            let name = &weight.name;
            weight.optimizer.restore(n_updates, |moment| {
                find(&saved, &format!("{name}.{moment}"))
            })?;
        }
        Ok(())
    }
}

fn add(
    files: &mut ModelFiles,
    name: &str,
    tensors: Vec<(String, Vec<i64>, Tensor)>,
) -> Result<(), TrainError> {
    if tensors.is_empty() {
        return Ok(());
    }
    let mut views = Vec::with_capacity(tensors.len());
    let on_host = tensors
        .iter()
        .map(|(_, _, tensor)| tensor.f_to_device(Device::Cpu))
        .collect::<Result<Vec<_>, _>>()?;
    for ((name, shape, _), tensor) in tensors.iter().zip(&on_host) {
        let shape = shape.iter().map(|&length| length as usize).collect();
        let bytes = bytemuck::cast_slice(shim::slice(tensor)?);
        let view = TensorView::new(Dtype::F32, shape, bytes).map_err(io::Error::other)?;
        views.push((name.as_str(), view));
    }
    let bytes = safetensors::serialize(views, None).map_err(io::Error::other)?;
    files.add(name, bytes);
    Ok(())
}

/// The same memory as one row, outside of autograd.
fn flat(tensor: &Tensor) -> Result<Tensor, TrainError> {
    Ok(tensor.f_detach()?.f_view([-1])?)
}

fn read(folder: &Path, file: &str, is_empty: bool) -> Result<Vec<(String, Tensor)>, TrainError> {
    if is_empty {
        return Ok(Vec::new());
    }
    let path = folder.join(file);
    // libtorch's own message does not name the file.
    fs_err::metadata(&path)?;
    Ok(Tensor::read_safetensors(path)?)
}

fn find(saved: &[(String, Tensor)], name: &str) -> Option<Tensor> {
    let found = saved.iter().find(|(saved, _)| saved == name);
    found.map(|(_, tensor)| tensor.shallow_clone())
}

fn missing(folder: &Path, weight: &Weight) -> TrainError {
    TrainError::Arguments(format!(
        "{} holds no loss weight `{}` of shape {:?}: it was written with another --loss",
        folder.join(LOSS_WEIGHTS).display(),
        weight.name,
        weight.tensor.size()
    ))
}
